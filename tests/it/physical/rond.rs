//! The same nodes, reached by a double of rond instead of ssh: its clients run in them what they are told to.

use std::path::PathBuf;

use super::super::campaign::Campaign;
use super::super::minimega::double::{Double, Traps};
use super::super::qemu::{databases, only, outcome, wait_until};
use super::lab::{self, Lab, PhysicalNode};
use super::{SETTINGS, SMALL, sysctl};

/// Some seconds of traffic, so that there is time to break it.
const LONG: &str = "offload = \"off\"\nmtu = 900\nrate = \"40 Mbit/s\"\n\
                    request = { url = \"/image.png?size=1MB\", count = 20 }\nworkers = 2";

struct Reached {
    lab: Lab,
    double: Double,
    files: Vec<PathBuf>,
}

impl Reached {
    fn new() -> Self {
        let (lab, double) = (Lab::new(), Double::rond(Traps::default()));
        let node = |(number, node): (usize, &PhysicalNode)| {
            double.node_by(&format!("n{number}"), &format!("uuid-{number}"), node.enter())
        };
        let files = lab.nodes.iter().enumerate().map(node).collect();
        Self { lab, double, files }
    }

    fn nodes_text(&self) -> String {
        let mut text = format!("[testbed.physical]\nway = \"rond\"\nrond = \"{}\"\n", self.double.socket().display());
        for (number, (node, files)) in self.lab.nodes.iter().zip(&self.files).enumerate() {
            let role = if number % 2 == 0 { "client" } else { "server" };
            text += &format!(
                "[[testbed.physical.nodes]]\nhost = \"n{number}\"\nrole = \"{role}\"\naddress = \"{}\"\nfiles = \"{}\"\n",
                node.address(),
                files.display()
            );
        }
        text
    }

    fn sweep(&self, factors: &str, more: &str) -> Campaign {
        Campaign::planned(&Lab::spec_of(&self.nodes_text(), factors, more))
    }

    fn states(&self) -> Vec<lab::State> {
        self.lab.nodes.iter().map(PhysicalNode::state).collect()
    }

    /// Is nothing on the nodes that was sent there?
    fn is_clean(&self) -> bool {
        let empty =
            |files: &PathBuf| std::fs::read_dir(files.join("vptest")).is_ok_and(|mut entries| entries.next().is_none());
        self.files.iter().all(empty)
    }
}

#[test]
fn an_iteration_by_rond_is_one_as_by_ssh_and_leaves_nothing() {
    if !lab::tools() {
        return;
    }
    let reached = Reached::new();
    reached.lab.nodes.iter().for_each(PhysicalNode::mix);
    let before = reached.states();
    let more = format!("{}[capture]\nvantage = [\"endpoint\"]\n[instrument.counters]\n", sysctl());
    let campaign = reached.sweep(&format!("{SETTINGS}\n{SMALL}"), &more);
    reached.lab.run(&campaign, 0);
    assert_eq!(outcome(&campaign), ("complete".to_owned(), "[]".to_owned()));
    assert_eq!(reached.states(), before);
    let db = &databases(&campaign)[0];
    assert_eq!(only::<f64>(db, "SELECT value FROM metric WHERE name = 'failed_requests'"), 0.0);
    for (name, wanted) in
        [("gso", "off"), ("mtu", "900"), ("rate", "400 Mbit/s"), ("sysctl.net.ipv4.tcp_congestion_control", "reno")]
    {
        let sql = format!("SELECT COUNT(*) FROM setting WHERE name = '{name}' AND observed = '{wanted}' AND ok = 1");
        assert_eq!(only::<i64>(db, &sql), 4, "{name} at both nodes, before and after");
    }
    let captures = "SELECT COUNT(*) FROM capture WHERE vantage = 'endpoint' AND packets > 100 AND dropped_kernel = 0";
    assert_eq!(only::<i64>(db, captures), 2);
    let trips = "SELECT COUNT(*) FROM environment WHERE host IN ('client1', 'server1') \
                 AND name = 'testbed.cc.round_trips' AND CAST(value AS INTEGER) BETWEEN 5 AND 150";
    let all = "SELECT group_concat(host || ' ' || value, ', ') FROM environment WHERE name = 'testbed.cc.round_trips'";
    eprintln!("round trips: {}", only::<String>(db, all));
    assert_eq!(only::<i64>(db, trips), 2);
    wait_until("the end of what was sent", || reached.is_clean());
    // Nor at rond: no commands, no answers, no letters.
    assert_eq!(reached.double.state().namespaces[""].commands.len(), 0);
    let mut left = std::fs::read_dir(reached.double.shared.directory.join("miniccc_responses")).unwrap();
    assert!(left.next().is_none());
    campaign.assert_clean();
}

#[test]
fn an_agent_that_is_killed_fails_the_iteration_at_once_and_the_settings_come_back() {
    if !lab::tools() {
        return;
    }
    let reached = Reached::new();
    let before = reached.states();
    let campaign = reached.sweep(LONG, &sysctl());
    let running = reached.lab.begin(&campaign);
    reached.lab.nodes[1].kill_agent();
    running.end(1);
    let (status, reasons) = outcome(&campaign);
    let expected = "server1 (n1) is gone";
    assert!(status == "failed" && reasons.contains(expected), "{status}: {reasons}");
    assert!(reasons.contains("its agent has ended with status 137"), "{reasons}");
    assert_eq!(reached.states(), before);
}

#[test]
fn a_node_whose_miniccc_goes_fails_the_iteration_and_puts_its_settings_back_by_itself() {
    if !lab::tools() {
        return;
    }
    let reached = Reached::new();
    let before = reached.states();
    let campaign = reached.sweep(LONG, &sysctl());
    let running = reached.lab.begin(&campaign);
    reached.double.state().namespaces.get_mut("").unwrap().clients.remove("uuid-0");
    running.end(1);
    let (status, reasons) = outcome(&campaign);
    assert!(status == "failed" && reasons.contains("client1 (n0) is gone"), "{status}: {reasons}");
    assert!(reasons.contains("its miniccc has vanished"), "{reasons}");
    wait_until("the settings' return", || reached.states() == before);
}

#[test]
fn a_rond_that_is_not_there_and_nodes_of_the_same_name_are_told_at_the_first_contact() {
    if !lab::tools() {
        return;
    }
    let reached = Reached::new();
    reached.double.node("n1", "uuid-of-another");
    let campaign = reached.sweep(SMALL, "");
    let said = reached.lab.run(&campaign, 3);
    assert!(said.err.contains("2 nodes call themselves n1"), "{}", said.err);
    let text = reached.nodes_text().replace("/rond\"\n", "/nobody\"\n");
    let campaign = Campaign::planned(&Lab::spec_of(&text, SMALL, ""));
    let said = reached.lab.run(&campaign, 3);
    assert!(said.err.contains("/nobody") && said.err.contains("rond -nostdin"), "{}", said.err);
}
