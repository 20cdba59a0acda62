//! What happens in the queue: nodes that are drained or fail, cancellation, interruption.

use nix::sys::signal::Signal;

use super::super::campaign::FAKE;
use super::super::qemu::wait_until;
use super::lab::{self, Lab};
use super::{ON, SAMPLE, SLOW, Vptest, assert_complete, campaign, hosts, running};

/// Slurm lets an element whose node has failed wait for two minutes.
fn let_requeued_begin(lab: &Lab) {
    let waits =
        lab.queue().lines().find(|line| line.contains("|PENDING|") && line.contains("BeginTime")).map(str::to_owned);
    let Some(line) = waits else { return };
    let mut words = line.split('|');
    let job = format!("{}_{}", words.next().unwrap(), words.next().unwrap());
    // It may be on its way to the node.
    let _ = lab.slurm(&["scontrol", "update", &format!("jobid={job}"), "StartTime=now"]);
}

fn states(lab: &Lab, campaign: &super::Campaign) -> Vec<String> {
    let status = lab.vptest(campaign, 0, &["status", "--format", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    let elements = status["dispatch"]["slurm"][0]["elements"].as_array().cloned().unwrap_or_default();
    elements.iter().map(|element| element["state"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_drained_node_gets_nothing_more() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let campaign = campaign(3, SLOW, "");
    let vptest = Vptest::start(&lab, &campaign);
    wait_until("iterations that run", || running(&lab) == 2);
    lab.expect(&["scontrol", "update", "nodename=n1", "state=drain", "reason=test"]);
    // The one that ran before may have ended meanwhile, and another one have begun.
    let begun = lab.queue().lines().filter(|line| line.contains("|vptest-") && line.contains("|n1|")).count();
    vptest.end(0, &campaign);
    assert_complete(&campaign, 6);
    let hosts = hosts(&campaign);
    assert!(begun > 0 && begun < 6, "{hosts:?}");
    assert_eq!(hosts.iter().filter(|host| *host == "n1").count(), begun, "{hosts:?}");
}

#[test]
fn an_element_of_a_node_that_fails_is_run_again_on_another_one() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let campaign = campaign(2, SLOW, "");
    let vptest = Vptest::start(&lab, &campaign);
    wait_until("iterations that run", || running(&lab) == 2);
    lab.expect(&["scontrol", "update", "nodename=n1", "state=down", "reason=test"]);
    wait_until("an element that waits again", || states(&lab, &campaign).iter().any(|state| state == "requeued"));
    let shown = lab.vptest(&campaign, 0, &["status"]);
    assert!(shown.out.contains("in Slurm's queue: job ") && shown.out.contains("no accounting"), "{}", shown.out);
    assert!(shown.out.contains("1 requeued"), "{}", shown.out);
    wait_until("the end", || {
        let_requeued_begin(&lab);
        lab.unfinished().is_empty()
    });
    vptest.end(0, &campaign);
    assert_complete(&campaign, 4);
    let lost: Vec<_> = campaign.outcomes().into_iter().filter(|(_, _, status, _)| status != "complete").collect();
    let again: Vec<_> = campaign.outcomes().into_iter().filter(|(_, attempt, ..)| *attempt == 2).collect();
    assert!(lost.iter().all(|(_, attempt, status, _)| status == "interrupted" && *attempt == 1), "{lost:?}");
    assert_eq!(again.len(), 1, "{:?}", campaign.outcomes());
    assert_eq!(lab.arrays().len(), 1, "{}", lab.queue());
}

#[test]
fn cancel_takes_a_campaign_out_of_the_queue_and_no_other_job() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let gate = tempfile::tempdir().unwrap();
    let open = gate.path().join("open");
    std::fs::write(&open, "").unwrap();
    let client = format!(
        r#"["sh", "-c", "sleep 2; until [ -e {} ]; do sleep 0.1; done; echo rps {{workers}}"]"#,
        open.display()
    );
    let campaign = campaign(4, &client, "");
    let other = lab.expect(&["sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true"]);
    let vptest = Vptest::start(&lab, &campaign);
    wait_until("an iteration that is stored", || !campaign.files().is_empty());
    // With a coordinator, which is told.
    let said = lab.vptest(&campaign, 0, &["cancel"]);
    assert!(said.err.contains("was told to end"), "{}", said.err);
    let said = vptest.end(130, &campaign);
    assert!(said.err.contains("interrupted by SIGTERM"), "{}", said.err);
    assert_eq!(lab.unfinished(), [""; 0]);
    // And without one, while iterations run that do not end by themselves.
    std::fs::remove_file(&open).unwrap();
    let vptest = Vptest::start(&lab, &campaign);
    let at_work = || std::fs::read_to_string(campaign.out().join(".dispatch/state.json")).unwrap_or_default();
    wait_until("iterations that run", || running(&lab) == 2 && at_work().contains("\"stage\":\"workload\""));
    drop(vptest);
    let before = campaign.files().len();
    let said = lab.vptest(&campaign, 0, &["cancel"]);
    assert!(said.err.contains("goes on with job ") && said.err.contains("cancelled; came meanwhile: "), "{}", said.err);
    assert_eq!(lab.unfinished(), [""; 0]);
    assert!(campaign.files().len() > before, "what had come is stored: {:?} {}", campaign.outcomes(), said.err);
    assert!(lab.vptest(&campaign, 0, &["cancel"]).err.contains("nothing is running"));
    let queue = lab.queue();
    assert!(
        queue.lines().any(|line| line.starts_with(&format!("{}|", other.trim())) && line.contains("|PENDING|")),
        "{queue}"
    );
    std::fs::write(&open, "").unwrap();
    lab.vptest(&campaign, 0, ON);
    assert_complete(&campaign, 8);
}

#[test]
fn an_interruption_stores_what_runs_as_interrupted() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let campaign = campaign(4, r#"["sh", "-c", "sleep 60; echo rps {workers}"]"#, "");
    let vptest = Vptest::start(&lab, &campaign);
    let at_work = || {
        let dispatch = std::fs::read_to_string(campaign.out().join(".dispatch/state.json")).unwrap_or_default();
        dispatch.matches("\"stage\":\"workload\"").count() == 2
    };
    wait_until("workloads", at_work);
    vptest.signal(Signal::SIGINT);
    let said = vptest.end(130, &campaign);
    assert!(said.err.contains("interrupted by Ctrl-C") && said.err.contains("2 interrupted"), "{}", said.err);
    assert_eq!(campaign.statuses(), ["interrupted", "interrupted"]);
    assert_eq!(lab.unfinished(), [""; 0]);
    assert!(!said.err.contains("cancelled by somebody else"), "{}", said.err);
}

#[test]
fn cancellation_by_somebody_else_ends_the_run_and_is_told() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let campaign = campaign(4, SLOW, "");
    let vptest = Vptest::start(&lab, &campaign);
    wait_until("an iteration that is stored", || !campaign.files().is_empty());
    lab.expect(&["scancel", lab.arrays().first().unwrap()]);
    let said = vptest.end(130, &campaign);
    assert!(said.err.contains("was cancelled by somebody else"), "{}", said.err);
    assert_eq!(lab.arrays().len(), 1, "it is not submitted again by itself");
}

/// A file of the array that was left.
fn note(campaign: &super::Campaign, name: &str) -> std::path::PathBuf {
    let dispatch = std::fs::read_dir(campaign.out().join(".dispatch")).unwrap();
    let array = dispatch.map(|entry| entry.unwrap().path()).find(|path| path.to_string_lossy().contains("/slurm-"));
    array.unwrap().join(name)
}

#[test]
fn a_number_that_is_another_jobs_by_now_is_left_alone() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let campaign = campaign(3, SLOW, "");
    let vptest = Vptest::start(&lab, &campaign);
    wait_until("iterations that run", || running(&lab) == 2);
    drop(vptest);
    let other = lab.expect(&["sbatch", "--parsable", "--hold", "--array=1-6", "--output=/dev/null", "--wrap=true"]);
    std::fs::write(note(&campaign, "job"), &other).unwrap();
    lab.vptest(&campaign, 0, &["cancel"]);
    assert_eq!(lab.unfinished(), [""; 0], "the campaign's own is found by its name");
    let queue = lab.queue();
    let survives = |line: &str| line.starts_with(&format!("{}|", other.trim())) && line.contains("|PENDING|");
    assert!(queue.lines().any(survives), "{queue}");
}

#[test]
fn an_array_whose_orders_cannot_be_read_does_not_block_cancel() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let campaign = campaign(2, SAMPLE, "options = [\"--hold\"]");
    let vptest = Vptest::start(&lab, &campaign);
    wait_until("an array that waits", || lab.queue().contains("JobHeldUser") && note(&campaign, "job").exists());
    drop(vptest);
    std::fs::write(note(&campaign, "orders.json"), "{\"of\": \"another version\"}").unwrap();
    let said = lab.vptest(&campaign, 0, &["cancel"]);
    assert!(said.err.contains("what came of it stays in "), "{}", said.err);
    assert_eq!(lab.unfinished(), [""; 0]);
    assert!(lab.vptest(&campaign, 0, &["cancel"]).err.contains("nothing is running"));
}

#[test]
fn an_array_is_taken_out_of_the_queue_also_when_nothing_is_left_to_do() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let plan = |campaign: &super::Campaign, repetitions: u32, slurm: &str| {
        let spec = FAKE.replace("repetitions = 3", &format!("repetitions = {repetitions}"));
        std::fs::write(campaign.path().join("params.toml"), format!("{spec}\n[slurm]\ntime = \"10 min\"\n{slurm}\n"))
            .unwrap();
        campaign.expect(0, &["sweep", "params.toml"]);
    };
    let campaign = campaign(1, SAMPLE, "");
    lab.vptest(&campaign, 0, ON);
    plan(&campaign, 2, "options = [\"--hold\"]");
    let vptest = Vptest::start(&lab, &campaign);
    wait_until("an array that waits", || lab.queue().contains("JobHeldUser"));
    drop(vptest);
    plan(&campaign, 1, "");
    let said = lab.vptest(&campaign, 0, ON);
    assert!(said.err.contains("goes on with job "), "{}", said.err);
    assert_eq!(lab.unfinished(), [""; 0]);
    assert_complete(&campaign, 2);
    campaign.assert_clean();
}
