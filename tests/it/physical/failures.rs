//! What can go wrong with a node: each ends in an outcome with a reason, the campaign goes on, and the settings come back.

use super::super::campaign::{Campaign, VPTEST};
use super::super::need;
use super::super::qemu::wait_until;
use super::lab::{self, Kind, Lab, PhysicalNode, State};
use super::{SETTINGS, SMALL, sysctl};

/// Some seconds of traffic, so that there is time to break it.
pub(super) const LONG: &str = "offload = \"off\"\nmtu = 900\nrate = \"40 Mbit/s\"\n\
                    request = { url = \"/image.png?size=1MB\", count = 20 }\nworkers = 2";

pub(super) fn states(lab: &Lab) -> Vec<State> {
    lab.nodes.iter().map(PhysicalNode::state).collect()
}

/// Two repetitions of the long one.
fn twice(lab: &Lab) -> Campaign {
    let spec = lab.spec(LONG, &sysctl()).replace("repetitions = 1", "repetitions = 2");
    Campaign::planned(&spec)
}

/// Status and reasons of one attempt, in the order of numbers and attempts.
pub(super) fn outcome(campaign: &Campaign, at: usize) -> (String, String) {
    let (_, _, status, reasons) = campaign.outcomes().swap_remove(at);
    (status, reasons)
}

#[test]
fn a_vptest_that_is_killed_leaves_nothing_on_the_nodes_and_the_next_run_goes_on() {
    if !lab::tools() {
        return;
    }
    let lab = Lab::new();
    lab.nodes.iter().for_each(PhysicalNode::mix);
    let before = states(&lab);
    let campaign = lab.sweep(LONG, &sysctl());
    let running = lab.begin(&campaign);
    assert!(states(&lab).iter().zip(&before).all(|(now, then)| now != then), "{:?}", states(&lab));
    running.kill();
    wait_until("the settings' return", || states(&lab) == before);
    wait_until("the end of what was copied", || lab.nodes.iter().all(PhysicalNode::is_empty));
    lab.run(&campaign, 0);
    assert_eq!(campaign.statuses(), ["interrupted", "complete"]);
    assert_eq!(states(&lab), before);
    campaign.assert_clean();
}

#[test]
fn an_agent_that_is_killed_fails_the_iteration_and_the_settings_come_back_all_the_same() {
    if !lab::tools() {
        return;
    }
    let lab = Lab::new();
    lab.nodes.iter().for_each(PhysicalNode::mix);
    let before = states(&lab);
    let campaign = lab.sweep(LONG, &sysctl());
    let running = lab.begin(&campaign);
    lab.nodes[1].kill_agent();
    running.end(1);
    let (status, reasons) = outcome(&campaign, 0);
    assert!(status == "failed" && reasons.contains("server1 (10.99.0.3) is gone"), "{status}: {reasons}");
    assert_eq!(states(&lab), before);
    // Its own files lay where the connection's are.
    wait_until("the end of what was copied", || lab.nodes.iter().all(PhysicalNode::is_empty));
    lab.run(&campaign, 0);
    assert_eq!(campaign.statuses(), ["failed", "complete"]);
}

#[test]
fn settings_of_a_killed_vptest_and_agent_are_put_back_at_the_next_contact() {
    if !lab::tools() {
        return;
    }
    let lab = Lab::new();
    lab.nodes.iter().for_each(PhysicalNode::mix);
    let before = states(&lab);
    let campaign = lab.sweep(LONG, &sysctl());
    let running = lab.begin(&campaign);
    running.stop();
    lab.nodes.iter().for_each(PhysicalNode::kill_agent);
    running.kill();
    assert!(states(&lab).iter().zip(&before).all(|(now, then)| now != then), "{:?}", states(&lab));
    let said = lab.run(&campaign, 0);
    assert!(said.err.contains("had left changed were put back"), "{}", said.err);
    assert_eq!(campaign.statuses(), ["interrupted", "complete"]);
    assert_eq!(states(&lab), before);
}

#[test]
fn a_node_that_dies_fails_its_iterations_with_the_reason_until_it_is_back() {
    if !lab::tools() {
        return;
    }
    let mut lab = Lab::new();
    let campaign = twice(&lab);
    let running = lab.begin(&campaign);
    lab.switch_off(1);
    running.end(1);
    let (status, reasons) = outcome(&campaign, 0);
    assert!(status == "failed" && reasons.contains("workload: server1 (10.99.0.3) is gone"), "{status}: {reasons}");
    let (status, reasons) = outcome(&campaign, 1);
    assert!(
        status == "failed" && reasons.contains("launch: server1: 10.99.0.3 cannot be reached over ssh"),
        "{reasons}"
    );
    lab.switch_on(1);
    lab.run(&campaign, 0);
    assert_eq!(campaign.statuses(), ["failed", "complete", "failed", "complete"]);
}

#[test]
fn a_node_that_is_cut_off_fails_the_iteration_and_puts_its_settings_back_by_itself() {
    if !lab::tools() {
        return;
    }
    let lab = Lab::new();
    let before = states(&lab);
    let campaign = lab.sweep(LONG, &sysctl());
    let running = lab.begin(&campaign);
    lab.cut(0);
    running.end(1);
    let (status, reasons) = outcome(&campaign, 0);
    assert!(status == "failed" && reasons.contains("client1 (10.99.0.2) is gone"), "{status}: {reasons}");
    assert_eq!(lab.nodes[1].state(), before[1]);
    wait_until("the settings' return", || states(&lab) == before);
    lab.plug(0);
    lab.run(&campaign, 0);
    assert_eq!(campaign.statuses(), ["failed", "complete"]);
}

#[test]
fn a_link_that_fails_under_the_workload_ends_the_iteration_at_its_deadline() {
    if !lab::tools() {
        return;
    }
    let lab = Lab::new();
    let campaign = Campaign::planned(&lab.spec(LONG, &sysctl()).replace("120 s", "15 s"));
    let running = lab.begin(&campaign);
    lab.cable(1, lab::LINK, false);
    running.end(1);
    let (status, reasons) = outcome(&campaign, 0);
    assert!(status == "timed_out" && reasons.contains("workload"), "{status}: {reasons}");
}

#[test]
fn a_full_disk_has_a_name_before_and_during_the_iteration() {
    if !lab::tools() || !need::program("nginx") {
        return;
    }
    let lab = Lab::with(&[Kind::default(), Kind { room: "64k", ..Kind::default() }]);
    let campaign = lab.sweep(SMALL, "");
    lab.run(&campaign, 1);
    let (status, reasons) = outcome(&campaign, 0);
    assert!(
        status == "failed" && reasons.contains("launch: server1: 10.99.0.3: cannot copy vptest to it"),
        "{reasons}"
    );
    assert!(reasons.contains("No space left on device"), "{reasons}");
    wait_until("the end of what was copied", || lab.nodes.iter().all(PhysicalNode::is_empty));

    // Room for vptest, and not for the file that nginx is to serve.
    let bundle = vptest::image::Bundle::of(std::path::Path::new(VPTEST)).unwrap();
    let room = (bundle.tar.len() + (4 << 20)).to_string();
    let lab = Lab::with(&[Kind::default(), Kind { room: &room, ..Kind::default() }]);
    let spec = lab.spec("request = { url = \"/image.png?size=8MB\", count = 2 }", "");
    let campaign = Campaign::planned(&spec.replace("\"ab\"\n", "\"ab\"\nserver = \"nginx\"\n"));
    lab.run(&campaign, 1);
    let (status, reasons) = outcome(&campaign, 0);
    assert!(status == "failed" && reasons.contains("workload: server1: cannot write"), "{reasons}");
    assert!(reasons.contains("No space left on device"), "{reasons}");
}

#[test]
fn a_node_with_another_host_key_is_refused_at_once() {
    if !lab::tools() {
        return;
    }
    let lab = Lab::new();
    let other = lab.other_key();
    let spec = lab.spec(SMALL, "").replace(&lab.nodes_text(), &lab.nodes_with(|_| other.clone()));
    let campaign = Campaign::planned(&spec);
    let said = lab.run(&campaign, 3);
    assert!(said.err.contains("does not show the host key it should"), "{}", said.err);
    assert!(campaign.outcomes().is_empty());
    campaign.assert_clean();
}

#[test]
fn a_login_that_cannot_become_root_is_refused_with_what_to_do() {
    if !lab::tools() {
        return;
    }
    let bin = tempfile::tempdir().unwrap();
    std::fs::set_permissions(bin.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // Neither this host's own sudo nor its absence has a say.
    lab::script(&bin.path().join("sudo"), "exit 1");
    let login = format!(
        "exec setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/ PATH={}:/usr/bin:/bin sh -c \
         \"$SSH_ORIGINAL_COMMAND\"",
        bin.path().display()
    );
    let lab = Lab::with(&[Kind::default(), Kind { login: Some(&login), ..Kind::default() }]);
    let before = states(&lab);
    let campaign = lab.sweep(&format!("{SETTINGS}\n{SMALL}"), "");
    let said = lab.run(&campaign, 3);
    assert!(said.err.contains("server1: 10.99.0.3: the login is not root, and `sudo -n` does not"), "{}", said.err);
    assert!(said.err.contains("NOPASSWD"), "{}", said.err);
    assert_eq!(states(&lab), before);
    assert!(campaign.outcomes().is_empty());
}

#[test]
fn a_setting_that_one_node_refuses_leaves_all_nodes_as_they_were() {
    if !lab::tools() {
        return;
    }
    let lab = Lab::new();
    lab.nodes.iter().for_each(PhysicalNode::mix);
    let before = states(&lab);
    for (factors, more, why) in [
        (SETTINGS, "[testbed.physical.sysctls]\n\"net.ipv4.no_such\" = 1\n", "cannot read /proc/sys/net/ipv4/no_such"),
        (
            SETTINGS,
            "[testbed.physical.sysctls]\n\"net.ipv4.ip_forward\" = \"x\"\n",
            "cannot write `x` to /proc/sys/net",
        ),
    ] {
        let campaign = lab.sweep(&format!("{factors}\n{SMALL}"), more);
        lab.run(&campaign, 1);
        let (status, reasons) = outcome(&campaign, 0);
        assert!(status == "failed" && reasons.contains(why), "{why}: {reasons}");
        assert_eq!(states(&lab), before, "{why}");
    }
}

#[test]
fn a_link_that_does_not_come_up_ends_the_launch_at_the_deadline_and_what_was_changed_comes_back() {
    if !lab::tools() {
        return;
    }
    let lab = Lab::new();
    lab.nodes.iter().for_each(PhysicalNode::mix);
    let before = lab.nodes[0].state();
    lab.cable(1, lab::LINK, false);
    let spec = lab.spec(&format!("{SETTINGS}\n{SMALL}"), &sysctl()).replace("120 s", "25 s");
    let campaign = Campaign::planned(&spec);
    lab.run(&campaign, 1);
    let (status, reasons) = outcome(&campaign, 0);
    assert!(status == "timed_out" && reasons.contains("launch"), "{status}: {reasons}");
    wait_until("the settings' return", || lab.nodes[0].state() == before);
}
