//! Campaigns on hosts that GNU parallel reaches by ssh: real sshds in namespaces, the `fake` testbed on them.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::super::campaign::{Campaign, FAKE, Said, said};
use super::super::need;
use super::super::qemu::wait_until;
use super::lab::{Lab, PhysicalNode};

/// Where a node keeps campaigns. Its worker's lock lies beside them.
const CAMPAIGNS: &str = "/root/.cache/vptest/campaigns";

fn lab() -> Option<Lab> {
    tools().then(Lab::new)
}

/// What hosts need, and this one.
pub(super) fn tools() -> bool {
    super::lab::tools() && need::program("parallel") && need::program("perl")
}

/// Blocks of two iterations each, which take as long as `client` does.
fn campaign(repetitions: u32, client: &str) -> Campaign {
    let spec = FAKE
        .replace("repetitions = 3", &format!("repetitions = {repetitions}"))
        .replace(r#"["sample", "rps", "1000", "10"]"#, client);
    Campaign::planned(&spec)
}

const SAMPLE: &str = r#"["sample", "rps", "1000", "10"]"#;
/// Long enough to be caught at work.
const SLOW: &str = r#"["sh", "-c", "sleep 0.3; echo rps {workers}"]"#;

fn start(lab: &Lab, campaign: &Campaign, more: &[&str]) -> Vptest {
    let mut command = command(lab, campaign, more);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Vptest(Some(lab.spawn(command)))
}

/// `vptest run` on all nodes of the lab.
pub(super) fn command(lab: &Lab, campaign: &Campaign, more: &[&str]) -> Command {
    let hosts: Vec<String> = lab.nodes.iter().map(PhysicalNode::control).collect();
    let on = format!("parallel:{}", hosts.join(","));
    let mut command = campaign.command(&[&["run", "--on", &on], more].concat());
    command.env("PARALLEL_SSH", lab.ssh()).env("HOME", campaign.path());
    command
}

fn run(lab: &Lab, campaign: &Campaign, code: i32) -> Said {
    start(lab, campaign, &[]).end(code, campaign)
}

/// A vptest that runs; killed when the test ends before it does.
struct Vptest(Option<Child>);

impl Vptest {
    fn end(mut self, code: i32, campaign: &Campaign) -> Said {
        let said = said(self.0.take().unwrap().wait_with_output().unwrap());
        assert_eq!(said.code, Some(code), "{}{}{:?}", said.out, said.err, campaign.outcomes());
        said
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = i32::try_from(self.0.as_ref().unwrap().id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    }

    fn kill(mut self) {
        self.end_now();
    }

    fn end_now(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended by itself.
            let _ = child.kill();
            child.wait().unwrap();
        }
    }
}

impl Drop for Vptest {
    fn drop(&mut self) {
        self.end_now();
    }
}

/// One value of each iteration file, by number.
pub(super) fn column(campaign: &Campaign, sql: &str) -> Vec<(u32, String)> {
    let value = |name: &String| {
        let db = rusqlite::Connection::open(campaign.out().join(name)).unwrap();
        db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    let mut all: Vec<(u32, String)> = campaign.files().iter().map(value).collect();
    all.sort();
    all
}

/// Each iteration of the plan is there as complete, once.
fn assert_complete(campaign: &Campaign, iterations: u32) {
    let complete = campaign.outcomes().into_iter().filter(|(_, _, status, _)| status == "complete");
    let numbers: Vec<u32> = complete.map(|(number, ..)| number).collect();
    assert_eq!(numbers, (1..=iterations).collect::<Vec<_>>(), "{:?}", campaign.outcomes());
}

/// No worker runs on a node, and nothing of the campaign lies there.
pub(super) fn assert_left(node: &PhysicalNode) {
    let left = node.list(CAMPAIGNS).unwrap();
    assert!(left.iter().all(|name| name.ends_with(".lock")), "{left:?}");
    assert!(!is_at_work(node));
}

pub(super) fn is_at_work(node: &PhysicalNode) -> bool {
    node.command_lines().iter().any(|line| line.contains(" worker --place "))
}

fn await_files(campaign: &Campaign, at_least: usize) {
    wait_until("iterations that are stored", || campaign.files().len() >= at_least);
}

#[test]
fn hosts_share_a_campaign_by_whole_blocks_and_the_results_are_those_of_one_host() {
    let Some(lab) = lab() else { return };
    let (here, there) = (campaign(8, SAMPLE), campaign(8, SAMPLE));
    here.expect(0, &["run"]);
    let said = run(&lab, &there, 0);
    assert!(said.err.contains("16 complete"), "{}", said.err);
    assert_complete(&there, 16);
    let values = "SELECT i.number, m.value FROM iteration i JOIN metric m ON m.iteration = i.id WHERE m.name = 'rps'";
    let values = values.replace("m.value", "CAST(m.value AS TEXT)");
    assert_eq!(column(&there, &values), column(&here, &values));
    let hosts = column(&there, "SELECT number, host FROM iteration");
    let blocks = column(&there, "SELECT number, CAST(block AS TEXT) FROM iteration");
    for (host, block) in hosts.iter().zip(&blocks) {
        let mates = hosts.iter().zip(&blocks).filter(|(_, other)| other.1 == block.1);
        assert!(mates.into_iter().all(|(mate, _)| mate.1 == host.1), "{hosts:?} {blocks:?}");
    }
    let of = |name: &str| hosts.iter().filter(|(_, host)| host == name).count();
    assert_eq!(of("node2") + of("node3"), 16);
    assert!(of("node2") > 0 && of("node3") > 0, "{hosts:?}");
    lab.nodes.iter().for_each(assert_left);
    there.assert_clean();
    // Everything is there, so that no host is asked again.
    assert!(run(&lab, &there, 0).err.contains("16 complete before"));
}

#[test]
fn what_is_kept_on_hosts_comes_compressed_and_is_stored_once() {
    use std::os::unix::fs::MetadataExt as _;
    let Some(lab) = lab() else { return };
    let leave = "[\"sh\", \"-c\", \"seq 10000 > page; echo rps 1\"]\nkeep = [\"page\"]";
    let spec = FAKE.replace(r#"["sample", "rps", "1000", "10"]"#, leave).replace("repetitions = 3", "repetitions = 6");
    let campaign = Campaign::planned(&format!(
        "{spec}\n[storage]\noutputs = \"first 4\"\ncompress = \"zstd\"\ndeduplicate = true\n"
    ));
    run(&lab, &campaign, 0);
    assert_complete(&campaign, 12);
    let hosts = column(&campaign, "SELECT number, host FROM iteration");
    assert!(["node2", "node3"].iter().all(|name| hosts.iter().any(|(_, host)| host == name)), "{hosts:?}");
    let page = |name: &String| campaign.out().join(name.replace(".db", ".d")).join("client1/page.zst");
    let pages: Vec<_> = campaign.files().iter().map(page).filter(|page| page.exists()).collect();
    let expected: String = (1..=10_000).map(|n| format!("{n}\n")).collect();
    assert!(
        pages.iter().all(|page| zstd::decode_all(std::fs::File::open(page).unwrap()).unwrap() == expected.as_bytes())
    );
    let files: Vec<_> = pages.iter().map(|page| page.metadata().unwrap()).collect();
    assert_eq!(files.len(), 8, "two tuples, four repetitions of each");
    assert!(files.iter().all(|file| file.ino() == files[0].ino() && file.nlink() == 8), "{files:?}");
    lab.nodes.iter().for_each(assert_left);
}

#[test]
fn what_a_dead_host_was_given_is_run_by_others() {
    let Some(mut lab) = lab() else { return };
    let campaign = campaign(10, SLOW);
    let vptest = start(&lab, &campaign, &[]);
    wait_until("work on the second host", || {
        column(&campaign, "SELECT number, host FROM iteration").iter().any(|(_, host)| host == "node3")
    });
    lab.switch_off(1);
    let said = vptest.end(0, &campaign);
    assert!(said.err.contains(&format!("{}: its worker was lost", lab.nodes[1].control())), "{}", said.err);
    assert_complete(&campaign, 20);
    // Attempts that were begun there have numbers that nobody else used.
    let attempts = campaign.outcomes();
    assert!(attempts.iter().all(|(_, attempt, status, _)| status == "complete" && *attempt <= 2), "{attempts:?}");
    assert_left(&lab.nodes[0]);
}

#[test]
fn after_kill_9_of_the_coordinator_nothing_runs_and_nothing_is_lost() {
    let Some(lab) = lab() else { return };
    let campaign = campaign(8, SLOW);
    let vptest = start(&lab, &campaign, &[]);
    await_files(&campaign, 2);
    vptest.kill();
    wait_until("that workers end", || !lab.nodes.iter().any(is_at_work));
    let before = campaign.outcomes();
    let said = run(&lab, &campaign, 0);
    // What a host had and could not send was fetched before anything was handed out.
    assert_complete(&campaign, 16);
    let after = campaign.outcomes();
    assert!(before.iter().all(|attempt| after.contains(attempt)), "{before:?} {after:?}");
    // What ran then was told by its host, and is no attempt that failed.
    let interrupted: Vec<_> = after.iter().filter(|(_, _, status, _)| status != "complete").collect();
    assert!(interrupted.iter().all(|(_, _, status, _)| status == "interrupted"), "{}{interrupted:?}", said.err);
    assert!(!interrupted.is_empty(), "{}", said.err);
    lab.nodes.iter().for_each(assert_left);
}

#[test]
fn what_a_quick_host_has_does_not_wait_for_a_slow_one() {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let Some(lab) = lab() else { return };
    let campaign = campaign(4, r#"["sh", "-c", "sleep 60; echo rps {workers}"]"#);
    let vptest = start(&lab, &campaign, &[]);
    let state = || std::fs::read_to_string(campaign.out().join(".dispatch/state.json")).unwrap_or_default();
    wait_until("work on both hosts", || state().matches("\"stage\":\"workload\"").count() == 2);
    vptest.kill();
    wait_until("that workers end", || !lab.nodes.iter().any(is_at_work));
    assert_eq!(campaign.files(), [""; 0]);
    // The second host does not begin to send before it is let.
    let gate = campaign.path().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (slow, script) = (lab.nodes[1].control(), campaign.path().join("ssh"));
    let address = slow.rsplit('@').next().unwrap().split(':').next().unwrap();
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *{address}*' worker --place '*' --share '*) ;; *{address}*' worker --place '*) read go < '{}' ;; esac\nexec \"$@\"\n",
        gate.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = command(&lab, &campaign, &[]);
    command.env("PARALLEL_SSH", format!("{} {}", script.display(), lab.ssh()));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let vptest = Vptest(Some(lab.spawn(command)));
    await_files(&campaign, 1);
    let hosts = || column(&campaign, "SELECT number, host FROM iteration").into_iter().map(|(_, host)| host);
    assert!(hosts().all(|host| host == "node2"), "{:?}", campaign.outcomes());
    let let_go = || {
        let mut options = std::fs::File::options();
        let gate = options.write(true).custom_flags(libc::O_NONBLOCK).open(&gate);
        gate.and_then(|mut gate| gate.write_all(b"go\n")).is_ok()
    };
    wait_until("that the slow one is asked", let_go);
    wait_until("what the slow one has", || hosts().any(|host| host == "node3"));
    vptest.signal(nix::sys::signal::Signal::SIGINT);
    vptest.end(130, &campaign);
    assert!(campaign.statuses().iter().all(|status| status == "interrupted"), "{:?}", campaign.outcomes());
}

#[test]
fn one_coordinator_has_a_campaign_and_says_who_it_is() {
    let Some(lab) = lab() else { return };
    let campaign = campaign(8, SLOW);
    let vptest = start(&lab, &campaign, &[]);
    await_files(&campaign, 1);
    let name = format!("process {} on ", vptest.0.as_ref().unwrap().id());
    let second = run(&lab, &campaign, 2);
    assert!(second.err.contains(&format!("is being run by {name}")), "{}", second.err);
    let third = start(&lab, &campaign, &["--iter", "1"]).end(2, &campaign);
    assert!(third.err.contains("is being run by "), "{}", third.err);
    let here = campaign.expect(2, &["run", "--iter", "16"]);
    assert!(here.err.contains(&name) && here.err.contains("on other hosts"), "{}", here.err);
    let status = campaign.expect(0, &["status", "--format", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    let hosts = status["dispatch"]["hosts"].as_array().unwrap();
    let names: Vec<&str> = hosts.iter().map(|host| host["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["node2", "node3"]);
    let shown = campaign.expect(0, &["status"]);
    assert!(shown.out.contains("node3"), "{}", shown.out);
    vptest.signal(nix::sys::signal::Signal::SIGINT);
    let said = vptest.end(130, &campaign);
    assert!(said.err.contains("interrupted by Ctrl-C"), "{}", said.err);
    wait_until("that workers end", || !lab.nodes.iter().any(is_at_work));
    run(&lab, &campaign, 0);
    assert_complete(&campaign, 16);
}

#[test]
fn failures_in_a_row_end_a_campaign_on_hosts_too() {
    let Some(lab) = lab() else { return };
    let spec = FAKE
        .replace("repetitions = 3", "repetitions = 20")
        .replace(r#"["sample", "rps", "1000", "10"]"#, r#"["false"]"#);
    let campaign = Campaign::planned(&format!("{spec}\n[limits]\nfailures = 3\n"));
    let said = run(&lab, &campaign, 1);
    assert!(said.err.contains("iterations in a row went wrong (`limits.failures` = 3)"), "{}", said.err);
    assert!(campaign.outcomes().len() < 20, "{:?}", campaign.outcomes());
    assert!(!lab.nodes.iter().any(is_at_work));
}

#[test]
fn hosts_that_cannot_be_used_are_named_with_the_reason() {
    let Some(mut lab) = lab() else { return };
    let campaign = campaign(2, SAMPLE);
    lab.switch_off(0);
    lab.switch_off(1);
    let said = run(&lab, &campaign, 3);
    for node in &lab.nodes {
        assert!(said.err.contains(&format!("{}: no connection: ", node.control())), "{}", said.err);
    }
    assert_eq!(campaign.files(), [""; 0]);
    let none = campaign.expect(2, &["run", "--on", "parallel:"]);
    assert!(none.err.contains("there is not one"), "{}", none.err);
    let other = campaign.expect(2, &["run", "--on", "torque:a"]);
    assert!(other.err.contains("`--on torque:a`"), "{}", other.err);
    let mut command = campaign.command(&["run", "--on", "parallel:kn1"]);
    let empty = tempfile::tempdir().unwrap();
    command.env("PATH", path_without(empty.path(), "parallel"));
    let missing = self::said(command.output().unwrap());
    assert_eq!(missing.code, Some(3), "{}", missing.err);
    assert!(missing.err.contains("GNU parallel is not there"), "{}", missing.err);
}

/// A directory with links to all programs but one.
fn path_without(directory: &Path, program: &str) -> std::path::PathBuf {
    for place in ["/usr/bin", "/usr/sbin"] {
        for entry in std::fs::read_dir(place).unwrap().flatten().filter(|entry| entry.file_name() != program) {
            // The first of a name counts.
            let _ = std::os::unix::fs::symlink(entry.path(), directory.join(entry.file_name()));
        }
    }
    directory.to_owned()
}
