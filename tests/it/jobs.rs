//! `vptest run --jobs`: several iterations at once on this host, each on cores of its own.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rusqlite::Connection;

use super::campaign::{Campaign, FAKE, said};
use super::need::{self, need};
use super::qemu;

/// Does this host have two cores for two jobs?
fn cores() -> bool {
    need("cores", vptest::host::cpus::packages().is_some_and(|packages| packages.concat().len() > 1))
}

/// Two iterations on `netns` whose clients both wait until the other's has come: one after the other they would never end.
fn meeting(server: &str, before: &str) -> Campaign {
    let campaign = Campaign::new("");
    let place = campaign.path().join("meeting");
    std::fs::create_dir(&place).unwrap();
    let place = place.display();
    let spec = format!(
        r#"
name = "jobs"
repetitions = 2
timeout = "60 s"
[factors]
testbed = "netns"
[workload]
preset = "command"
{server}
client = ["sh", "-c", '{before}touch {place}/$(cat /proc/sys/kernel/random/uuid); until [ $(ls {place} | wc -l) = 2 ]; do sleep 0.01; done; echo "cpus $(nproc)"']
[[workload.metric]]
name = "cpus"
unit = "1"
regex = 'cpus ([0-9]+)'
[capture]
vantage = ["guest"]
# Other tests run at the same time.
[verify]
foreign_cpu = "off"
steal = "off"
client_cpu = "off"
"#
    );
    std::fs::write(campaign.path().join("params.toml"), spec).unwrap();
    campaign.expect(0, &["sweep", "params.toml"]);
    campaign
}

/// What each iteration file says to this question.
fn each(campaign: &Campaign, question: &str) -> Vec<String> {
    let open = |name: &String| Connection::open(campaign.out().join(name)).unwrap();
    let files = campaign.files();
    files.iter().map(|name| open(name).query_row(question, [], |row| row.get(0)).unwrap()).collect()
}

#[test]
fn iterations_run_at_once_on_cores_of_their_own() {
    if !need::root() || !cores() {
        return;
    }
    let campaign = meeting("", "");
    campaign.expect(0, &["run", "--jobs", "2"]);
    assert_eq!(campaign.statuses(), ["complete"; 2]);
    let cpus = each(&campaign, "SELECT observed FROM setting WHERE name = 'job_cpus' AND when_read = 'before'");
    assert_ne!(cpus[0], cpus[1]);
    let lists = cpus.iter().map(|list| vptest::host::cpus::parse_list(list).unwrap()).collect::<Vec<_>>();
    assert!(lists[0].iter().all(|cpu| !lists[1].contains(cpu)), "{cpus:?}");
    let seen = each(&campaign, "SELECT CAST(value AS INTEGER) || '' FROM metric WHERE name = 'cpus'");
    assert_eq!(seen, lists.iter().map(|list| list.len().to_string()).collect::<Vec<_>>(), "of the workload");
    assert_eq!(each(&campaign, "SELECT observed FROM setting WHERE name = 'jobs' AND when_read = 'before'"), ["2"; 2]);
    campaign.assert_clean();
}

#[test]
fn guests_run_at_once_on_cores_of_their_own() {
    if !qemu::guests() || !cores() {
        return;
    }
    let campaign = qemu::sweep(&format!("mtu = [1500, 1400]\n{}", qemu::SMALL), qemu::AB, "");
    let mut run = campaign.command(&["-q", "run", "--jobs", "2"]);
    let mut run = run.env("VPTEST_CACHE", qemu::cache()).spawn().unwrap();
    let (mut most, mut seen) = (0, BTreeSet::new());
    let status = loop {
        let guests = qemu::qemus(&campaign);
        most = most.max(guests.len());
        seen.extend(guests.into_iter().filter_map(vptest::host::cpus::of));
        if let Some(status) = run.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert_eq!((status.code(), campaign.statuses()), (Some(0), vec!["complete".to_owned(); 2]));
    assert_eq!(most, 4, "guests at once");
    let [first, second] = &seen.iter().collect::<Vec<_>>()[..] else { panic!("{seen:?}") };
    assert!(first.iter().all(|cpu| !second.contains(cpu)), "{seen:?}");
    campaign.assert_clean();
}

#[test]
fn a_server_that_leaves_its_cores_is_told() {
    if !need::root() || !cores() || !need::program("taskset") {
        return;
    }
    let all = vptest::host::cpus::usable().unwrap().iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let server = format!(
        r#"server = ["sh", "-c", "taskset -cp {all} $$ > /dev/null; echo up; exec sleep 1000"]
ready = {{ output = "up" }}"#
    );
    let campaign = meeting(&server, "");
    campaign.expect(0, &["run", "--jobs", "2"]);
    for (_, _, status, reasons) in campaign.outcomes() {
        assert_eq!(status, "suspect");
        assert!(reasons.contains("sleep left the CPUs of its job ("), "{reasons}");
    }
}

#[test]
fn a_client_on_the_cores_of_another_job_is_told_and_the_other_is_not_blamed() {
    if !need::root() || !cores() || !need::program("taskset") {
        return;
    }
    // Both bind themselves to a CPU of the first job; looks at them come after 50, 150, 350 and 750 ms.
    let first = vptest::host::cpus::packages().unwrap()[0][0][0];
    let campaign = meeting("", &format!("taskset -cp {first} $$ > /dev/null; sleep 2; "));
    campaign.expect(0, &["run", "--jobs", "2"]);
    let mut outcomes: Vec<_> = campaign.outcomes().into_iter().map(|outcome| (outcome.2, outcome.3)).collect();
    outcomes.sort();
    let [(complete, _), (suspect, reasons)] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!((complete.as_str(), suspect.as_str()), ("complete", "suspect"));
    assert!(reasons.contains("sh left the CPUs of its job ("), "{reasons}");
}

#[test]
fn what_would_be_in_the_way_is_refused() {
    let cases = [
        (FAKE.replace("[workload]", "stress_cpu = 1\n[workload]"), "the load of `stress_…` would reach"),
        (
            FAKE.replace("testbed = \"fake\"", "testbed = \"netns\"").replace("\"sample\"", "\"true\"")
                + "[instrument]\ncounters = true\n",
            "counts what the whole host does",
        ),
        (
            FAKE.replace("testbed = \"fake\"", "testbed = \"netns\"").replace("\"sample\"", "\"true\"")
                + "[instrument]\nsyscalls = true\n",
            "slows all processes of the host",
        ),
    ];
    for (spec, why) in cases {
        let campaign = Campaign::planned(&spec);
        let said = campaign.expect(2, &["run", "--jobs", "2"]);
        assert!(said.err.contains("--jobs 2: ") && said.err.contains(why), "{}", said.err);
        assert_eq!(campaign.files(), [] as [&str; 0]);
    }
    let campaign = Campaign::planned(FAKE);
    let said = campaign.expect(2, &["run", "--jobs", "9999"]);
    assert!(said.err.contains("each job needs a core of its own, and vptest may use "), "{}", said.err);
    let said = campaign.expect(2, &["run", "--jobs", "2", "--on", "parallel:a"]);
    assert!(said.err.contains("not with --on"), "{}", said.err);
    campaign.expect(0, &["run", "--iter", "1", "--jobs", "1", "--on", "local"]);
    campaign.expect(2, &["run", "--jobs", "0"]);
}

/// A campaign on `fake` of which iterations 1 and 2 hang in their workload at the first attempt.
fn hanging(more: &str) -> Campaign {
    Campaign::planned(&format!(
        "{FAKE}\n{more}\n[[testbed.fake.fault]]\nstage = \"workload\"\nkind = \"hang\"\niterations = [1, 2]\nattempts = 1\n"
    ))
}

/// Starts two jobs and ends them with `signal` when both are in their workload.
fn ended_by(campaign: &Campaign, signal: Signal) -> super::campaign::Said {
    let mut run = campaign.command(&["-v", "run", "--jobs", "2"]);
    let mut child = run.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::with_capacity(1, child.stderr.take().unwrap());
    let mut missing = vec!["iteration 1: workload", "iteration 2: workload"];
    while !missing.is_empty() {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "vptest ended before {missing:?}");
        missing.retain(|text| !line.contains(text));
    }
    child.stderr = Some(lines.into_inner());
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
    said(child.wait_with_output().unwrap())
}

#[test]
fn ctrl_c_ends_all_that_run_and_the_next_run_goes_on() {
    if !cores() {
        return;
    }
    let campaign = hanging("");
    let said = ended_by(&campaign, Signal::SIGINT);
    assert_eq!(said.code, Some(130), "{}", said.err);
    assert!(said.err.contains("2 interrupted, 4 left to do"), "{}", said.err);
    assert_eq!(campaign.statuses(), ["interrupted"; 2]);
    campaign.expect(0, &["run", "--jobs", "2"]);
    assert_eq!(campaign.statuses().iter().filter(|status| *status == "complete").count(), 6);
    campaign.assert_clean();
}

#[test]
fn after_kill_9_both_are_run_again() {
    if !cores() {
        return;
    }
    let campaign = hanging("");
    assert_eq!(ended_by(&campaign, Signal::SIGKILL).code, None);
    let status = campaign.expect(0, &["run", "--jobs", "2"]);
    assert!(status.err.contains("6 complete"), "{}", status.err);
    let complete = campaign.outcomes().into_iter().filter(|outcome| outcome.2 == "complete");
    assert_eq!(complete.map(|outcome| outcome.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    campaign.assert_clean();
}

#[test]
fn limits_and_retries_hold_for_all_jobs_together() {
    if !cores() {
        return;
    }
    let fault = "[[testbed.fake.fault]]\nstage = \"launch\"\nkind = \"error\"\nattempts = 1\n";
    let campaign = Campaign::planned(&format!("{FAKE}\n{fault}"));
    campaign.expect(0, &["run", "--jobs", "2", "--retries", "1"]);
    let outcomes = campaign.outcomes();
    for status in ["failed", "complete"] {
        let those = outcomes.iter().filter(|outcome| outcome.2 == status).map(|outcome| outcome.0);
        assert_eq!(those.collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6], "{status}");
    }

    let fault = "[[testbed.fake.fault]]\nstage = \"launch\"\nkind = \"error\"\n[limits]\nfailures = 2\n";
    let campaign = Campaign::planned(&format!("{FAKE}\n{fault}"));
    let said = campaign.expect(1, &["run", "--jobs", "2"]);
    assert!(said.err.contains("(`limits.failures` = 2)"), "{}", said.err);
    // The one beside the second may have begun before that one failed.
    assert!(matches!(campaign.statuses().len(), 2 | 3), "{:?}", campaign.statuses());
    campaign.assert_clean();
}

#[test]
fn values_of_iterations_that_ran_at_once_are_told_from_those_that_ran_alone() {
    if !cores() {
        return;
    }
    let campaign = Campaign::planned(FAKE);
    campaign.expect(0, &["run", "--iter", "1"]);
    campaign.expect(0, &["run", "--jobs", "2"]);
    let mut merge = campaign.command(&["merge"]);
    merge.args(campaign.files().iter().map(|name| format!("out/{name}")));
    assert_eq!(said(merge.output().unwrap()).code, Some(0));
    let note = "5 iterations ran 2 at a time on their host (--jobs 2), and 1 alone";
    let analyzed = campaign.expect(0, &["analyze", "--metric", "rps", "--by", "workers", "--baseline", "workers=1"]);
    assert!(analyzed.out.contains(note), "{}", analyzed.out);
    assert!(analyzed.out.contains("or in how many iterations ran at a time"), "{}", analyzed.out);
    campaign.expect(0, &["report", "-o", "report.html", "--by", "workers", "--baseline", "workers=1"]);
    let page = std::fs::read_to_string(campaign.path().join("report.html")).unwrap();
    assert!(page.contains(note) && page.contains("or in how many iterations ran at a time"), "{page}");
}
