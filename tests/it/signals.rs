//! Ctrl-C, once and twice, and two runs at once.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::campaign::{Campaign, FAKE, said};

/// A campaign whose first iteration hangs in its workload.
fn hanging() -> Campaign {
    Campaign::planned(&format!(
        "{FAKE}\n[[testbed.fake.fault]]\nstage = \"workload\"\nkind = \"hang\"\niterations = [1]\nattempts = 1\n"
    ))
}

/// Starts `vptest -v run` and waits until it says that the workload of iteration 1 has begun.
fn start(campaign: &Campaign) -> Child {
    let mut child = campaign.command(&["-v", "run"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    wait_for(&mut child, "iteration 1: workload");
    child
}

fn wait_for(child: &mut Child, text: &str) {
    let stderr = child.stderr.take().unwrap();
    let mut reader = BufReader::with_capacity(1, stderr);
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "vptest ended before it said `{text}`");
    }
    child.stderr = Some(reader.into_inner());
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

#[test]
fn the_first_ctrl_c_stores_the_iteration_as_interrupted_and_the_next_run_goes_on() {
    let campaign = hanging();
    let child = start(&campaign);
    send(&child, Signal::SIGINT);
    let said = said(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{}", said.err);
    assert!(said.err.contains("left to do"), "{}", said.err);
    let outcomes = campaign.outcomes();
    assert_eq!(campaign.statuses(), ["interrupted"]);
    assert!(outcomes[0].3.contains("Ctrl-C"), "{}", outcomes[0].3);
    campaign.assert_clean();
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.files().len(), 7);
}

#[test]
fn the_second_ctrl_c_leaves_at_once_and_says_what_may_remain() {
    // A teardown that hangs keeps the first Ctrl-C from ending it.
    let spec = format!("{FAKE}\n[[testbed.fake.fault]]\nstage = \"teardown\"\nkind = \"hang\"\niterations = [1]\nattempts = 1\n");
    let campaign = Campaign::planned(&spec);
    let mut child = campaign.command(&["-v", "run"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    wait_for(&mut child, "iteration 1: teardown");
    send(&child, Signal::SIGINT);
    wait_for(&mut child, "once more leaves at once");
    send(&child, Signal::SIGINT);
    let said = said(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{}", said.err);
    assert!(said.err.contains("left at once"), "{}", said.err);
    campaign.expect(0, &["run"]);
    campaign.assert_clean();
}

#[test]
fn a_second_run_of_the_same_campaign_is_refused_but_single_iterations_share_it() {
    let campaign = hanging();
    let child = start(&campaign);
    let said = campaign.expect(2, &["run"]);
    assert!(said.err.contains(&format!("process {}", child.id())), "{}", said.err);
    let status = campaign.expect(0, &["status"]);
    assert!(status.out.contains("running"), "{}", status.out);
    send(&child, Signal::SIGTERM);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
}

#[test]
fn single_iterations_run_beside_each_other() {
    let campaign = hanging();
    let mut first =
        campaign.command(&["-v", "run", "--iter", "1"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    wait_for(&mut first, "iteration 1: workload");
    campaign.expect(0, &["run", "--iter", "2"]);
    let said = campaign.expect(0, &["run", "--iter", "1"]);
    assert!(said.err.contains("is being run by process"), "{}", said.err);
    send(&first, Signal::SIGINT);
    assert_eq!(first.wait_with_output().unwrap().status.code(), Some(130));
    assert_eq!(campaign.statuses(), ["interrupted", "complete"]);
}
