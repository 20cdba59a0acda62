//! Campaigns in Slurm's queue: a real cluster on this machine, the `fake` testbed on its nodes.

mod accounts;
mod bounds;
mod failures;
mod lab;
mod queue;

use std::process::Child;

use super::campaign::{Campaign, FAKE, Said, said};
use super::qemu::wait_until;
use lab::Lab;

const SAMPLE: &str = r#"["sample", "rps", "1000", "10"]"#;
/// Long enough to be caught at work.
const SLOW: &str = r#"["sh", "-c", "sleep 2; echo rps {workers}"]"#;
const ON: &[&str] = &["run", "--on", "slurm"];

/// Blocks of two iterations each, which take as long as `client` does.
fn campaign(repetitions: u32, client: &str, slurm: &str) -> Campaign {
    let spec = FAKE
        .replace("repetitions = 3", &format!("repetitions = {repetitions}"))
        .replace(r#"["sample", "rps", "1000", "10"]"#, client);
    Campaign::planned(&format!("{spec}\n[slurm]\ntime = \"10 min\"\n{slurm}\n"))
}

/// A vptest that runs; killed when the test ends before it does.
struct Vptest(Option<Child>);

impl Vptest {
    fn start(lab: &Lab, campaign: &Campaign) -> Self {
        Self(Some(lab.command(campaign, ON).spawn().unwrap()))
    }

    fn end(mut self, code: i32, campaign: &Campaign) -> Said {
        let said = said(self.0.take().unwrap().wait_with_output().unwrap());
        assert_eq!(said.code, Some(code), "{}{}{:?}", said.out, said.err, campaign.outcomes());
        said
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = i32::try_from(self.0.as_ref().unwrap().id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    }
}

impl Drop for Vptest {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended by itself.
            let _ = child.kill();
            child.wait().unwrap();
        }
    }
}

/// Each iteration of the plan is there as complete, once.
fn assert_complete(campaign: &Campaign, iterations: u32) {
    let complete = campaign.outcomes().into_iter().filter(|(_, _, status, _)| status == "complete");
    let numbers: Vec<u32> = complete.map(|(number, ..)| number).collect();
    assert_eq!(numbers, (1..=iterations).collect::<Vec<_>>(), "{:?}", campaign.outcomes());
}

/// One value of each iteration file, by number.
fn column(campaign: &Campaign, sql: &str) -> Vec<(u32, String)> {
    let value = |name: &String| {
        let db = rusqlite::Connection::open(campaign.out().join(name)).unwrap();
        db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    let mut all: Vec<(u32, String)> = campaign.files().iter().map(value).collect();
    all.sort();
    all
}

fn hosts(campaign: &Campaign) -> Vec<String> {
    column(campaign, "SELECT number, host FROM iteration").into_iter().map(|(_, host)| host).collect()
}

/// Elements that squeue has as running.
fn running(lab: &Lab) -> usize {
    lab.queue().lines().filter(|line| line.contains("|RUNNING|")).count()
}

/// What a campaign keeps in the home of nodes that see it: only locks may stay.
fn assert_nothing_kept(campaign: &Campaign) {
    let entries = std::fs::read_dir(campaign.path().join(".cache/vptest/campaigns")).unwrap();
    let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| name.ends_with(".lock")), "{names:?}");
}

#[test]
fn an_array_gives_what_one_host_gives() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let (here, there) = (campaign(3, SAMPLE, ""), campaign(3, SAMPLE, ""));
    here.expect(0, &["run"]);
    let said = lab.vptest(&there, 0, ON);
    assert!(said.err.contains("6 complete"), "{}", said.err);
    assert_complete(&there, 6);
    let values = "SELECT i.number, CAST(m.value AS TEXT) FROM iteration i JOIN metric m ON m.iteration = i.id WHERE m.name = 'rps'";
    assert_eq!(column(&there, values), column(&here, values));
    let hosts = hosts(&there);
    assert!(lab::NODES.iter().all(|node| hosts.iter().any(|host| host == node)), "{hosts:?}");
    assert!(hosts.iter().all(|host| lab::NODES.contains(&host.as_str())), "{hosts:?}");
    assert_eq!((lab.unfinished().len(), lab.arrays().len()), (0, 1), "{}", lab.queue());
    there.assert_clean();
    assert_nothing_kept(&there);
    // Everything is there, so that nothing is submitted.
    assert!(lab.vptest(&there, 0, ON).err.contains("6 complete before"));
    assert_eq!(lab.arrays().len(), 1);
}

#[test]
fn an_element_can_be_a_block_and_then_a_block_is_of_one_host() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let campaign = campaign(4, SAMPLE, "element = \"block\"\npartition = \"nowhere\"");
    lab.vptest(&campaign, 0, &["run", "--on", "slurm:main"]);
    assert_complete(&campaign, 8);
    let queue = lab.queue();
    assert_eq!(queue.lines().filter(|line| line.contains("|vptest-")).count(), 4, "{queue}");
    let blocks = column(&campaign, "SELECT number, CAST(block AS TEXT) FROM iteration");
    let hosts = hosts(&campaign);
    for (host, (_, block)) in hosts.iter().zip(&blocks) {
        let mates = hosts.iter().zip(&blocks).filter(|(_, (_, other))| other == block);
        assert!(mates.into_iter().all(|(mate, _)| mate == host), "{hosts:?} {blocks:?}");
    }
}

#[test]
fn an_array_goes_on_without_its_coordinator_and_the_next_one_takes_it_up() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let campaign = campaign(3, SLOW, "");
    let vptest = Vptest::start(&lab, &campaign);
    wait_until("iterations that run", || running(&lab) == 2);
    drop(vptest);
    let other = campaign.expect(2, &["run"]);
    assert!(
        other.err.contains("Slurm's queue has iterations of the campaign") && other.err.contains("vptest cancel"),
        "{}",
        other.err
    );
    let hosts = campaign.expect(2, &["run", "--on", "parallel:kn1"]);
    assert!(hosts.err.contains("Slurm's queue has iterations of the campaign"), "{}", hosts.err);
    wait_until("elements that end", || lab.queue().lines().filter(|line| line.contains("|COMPLETED|")).count() >= 3);
    assert_eq!(campaign.files(), [""; 0], "nobody was there to store them");
    let status = lab.vptest(&campaign, 0, &["status", "--format", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    let array = &status["dispatch"]["slurm"][0];
    assert_eq!(array["accounting"], false, "{array}");
    let states: Vec<&str> =
        array["elements"].as_array().unwrap().iter().map(|e| e["state"].as_str().unwrap()).collect();
    assert!(states.len() == 6 && states.iter().filter(|state| **state == "ended").count() >= 3, "{states:?}");
    assert!(status["dispatch"].get("pid").is_none(), "{status}");
    let said = lab.vptest(&campaign, 0, ON);
    assert!(said.err.contains("goes on with job "), "{}", said.err);
    assert_complete(&campaign, 6);
    assert!(campaign.outcomes().iter().all(|(_, attempt, ..)| *attempt == 1), "{:?}", campaign.outcomes());
    assert_eq!(lab.arrays().len(), 1, "{}", lab.queue());
    campaign.assert_clean();
}

#[test]
fn an_array_is_found_again_though_its_number_was_not_noted() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let campaign = campaign(3, SLOW, "");
    let vptest = Vptest::start(&lab, &campaign);
    wait_until("iterations that run", || running(&lab) == 2);
    drop(vptest);
    let job = |name: &str| {
        let dispatch = std::fs::read_dir(campaign.out().join(".dispatch")).unwrap();
        let array = dispatch.map(|entry| entry.unwrap().path()).find(|path| path.to_string_lossy().contains("/slurm-"));
        array.unwrap().join(name)
    };
    std::fs::remove_file(job("job")).unwrap();
    let said = lab.vptest(&campaign, 0, ON);
    assert!(said.err.contains("goes on with job "), "{}", said.err);
    assert_complete(&campaign, 6);
    assert_eq!(lab.arrays().len(), 1, "{}", lab.queue());
}

#[test]
fn nodes_that_do_not_see_the_campaign_are_sent_what_they_need() {
    if !lab::tools() {
        return;
    }
    let campaign = campaign(3, SAMPLE, "");
    let lab = Lab::without(campaign.path());
    let said = lab.vptest(&campaign, 0, ON);
    assert!(said.err.contains("6 complete"), "{}", said.err);
    assert_complete(&campaign, 6);
    assert!(hosts(&campaign).iter().all(|host| lab::NODES.contains(&host.as_str())));
    assert_eq!(lab.unfinished(), [""; 0]);
    campaign.assert_clean();
    assert!(!campaign.path().join(".cache").exists(), "it came another way");
}

#[test]
fn without_a_shared_file_system_too_the_next_coordinator_takes_an_array_up() {
    if !lab::tools() {
        return;
    }
    let campaign = campaign(3, SLOW, "shared = false");
    let lab = Lab::without(campaign.path());
    let vptest = Vptest::start(&lab, &campaign);
    wait_until("an iteration that is stored", || !campaign.files().is_empty());
    drop(vptest);
    let said = lab.vptest(&campaign, 0, ON);
    assert!(said.err.contains("goes on with job "), "{}", said.err);
    assert_complete(&campaign, 6);
    let others = campaign.outcomes().into_iter().filter(|(_, _, status, _)| status != "complete");
    assert!(others.into_iter().all(|(_, _, status, _)| status == "interrupted"), "{:?}", campaign.outcomes());
    assert_eq!(lab.unfinished(), [""; 0]);
}
