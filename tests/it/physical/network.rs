//! Nodes whose packets do not go where they should, and campaigns that want the same nodes.

use super::super::campaign::Campaign;
use super::super::need;
use super::super::qemu::{databases, only, wait_until};
use super::failures::{LONG, outcome, states};
use super::lab::{self, Lab, PhysicalNode, SWITCH};
use super::{SETTINGS, SMALL, sysctl};

#[test]
fn a_route_through_another_interface_makes_the_iteration_invalid() {
    if !lab::tools() {
        return;
    }
    let lab = Lab::new();
    let (control, address) = lab.nodes[1].addresses();
    // ssh's network, which would carry the workload as well.
    lab.nodes[0].detour(address, control);
    let campaign = lab.sweep(SMALL, "");
    lab.run(&campaign, 1);
    let (status, reasons) = outcome(&campaign, 0);
    assert_eq!(status, "invalid", "{reasons}");
    assert!(reasons.contains("setting route_interface on client1: asked exp0, is ctl0"), "{reasons}");
    // The server answers to the address that the client's kernel chooses on the way.
    assert!(reasons.contains("setting route_interface on server1: asked exp0, is ctl0"), "{reasons}");
}

#[test]
fn a_server_at_an_address_of_the_clients_own_is_refused() {
    if !lab::tools() {
        return;
    }
    let lab = Lab::new();
    let (_, own) = lab.nodes[0].addresses();
    let (_, address) = lab.nodes[1].addresses();
    lab.nodes[1].add_address(own);
    let before = states(&lab);
    let text = lab.spec(&format!("{SETTINGS}\n{SMALL}"), &sysctl());
    let campaign = Campaign::planned(&text.replace(&address.to_string(), &own.to_string()));
    lab.run(&campaign, 1);
    let (status, reasons) = outcome(&campaign, 0);
    let expected = format!("client1: 10.99.0.2: the address {own} of server1 is one of its own");
    assert!(status == "failed" && reasons.contains(&expected), "{status}: {reasons}");
    assert_eq!(states(&lab), before);
}

#[test]
fn two_names_of_one_host_are_refused() {
    if !lab::tools() {
        return;
    }
    let lab = Lab::new();
    let (host, address) = lab.nodes[0].addresses();
    let (other_host, other_address) = lab.nodes[1].addresses();
    // Another way to write the first node's address, and all that belongs to it.
    let mut text = lab.spec(SMALL, "");
    text = text
        .replace(&format!("\"{other_host}\""), "\"10.99.2\"")
        .replace(&other_address.to_string(), &address.to_string());
    let keys: Vec<&str> = text.lines().filter(|line| line.starts_with("host_key = ")).collect();
    let text = text.replace(keys[1], keys[0]);
    let campaign = Campaign::planned(&text);
    lab.run(&campaign, 1);
    let (status, reasons) = outcome(&campaign, 0);
    let expected = format!("server1: 10.99.2 is the same host as client1 ({host})");
    assert!(status == "failed" && reasons.contains(&expected), "{status}: {reasons}");
}

/// Each has the other's client for its server: taken in any order, both would wait for each other.
#[test]
fn two_campaigns_crosswise_take_turns() {
    if !lab::tools() {
        return;
    }
    let lab = Lab::new();
    let before = states(&lab);
    let text = lab.spec(&format!("{SETTINGS}\n{SMALL}"), &sysctl());
    let campaigns = [Campaign::planned(&text), Campaign::planned(&lab.exchanged(&text))];
    let running = campaigns.each_ref().map(|campaign| lab.start(campaign));
    running.into_iter().for_each(|running| drop(running.end(0)));
    for campaign in &campaigns {
        assert_eq!(campaign.statuses(), ["complete"]);
    }
    assert_eq!(states(&lab), before);
}

#[test]
fn an_agent_that_is_killed_while_it_changes_settings_leaves_none_changed() {
    if !lab::tools() {
        return;
    }
    let lab = Lab::new();
    lab.nodes.iter().for_each(PhysicalNode::mix);
    let before = states(&lab);
    let campaign = lab.sweep(LONG, &sysctl());
    let running = lab.start(&campaign);
    wait_until("what is to be put back", || lab.nodes[1].owes());
    lab.nodes[1].kill_agent();
    running.end(1);
    let (status, reasons) = outcome(&campaign, 0);
    assert!(status == "failed" && reasons.contains("server1"), "{status}: {reasons}");
    assert_eq!(states(&lab), before);
    wait_until("the end of what was copied", || lab.nodes.iter().all(PhysicalNode::is_empty));
    lab.run(&campaign, 0);
    assert_eq!(campaign.statuses(), ["failed", "complete"]);
}

#[test]
fn counters_of_the_switch_are_read_and_what_it_does_not_say_is_missing() {
    if !lab::tools() || !need::program("snmpd") || !need::program("snmpget") {
        return;
    }
    let lab = Lab::new();
    let _snmpd = lab.snmpd("secret");
    // net-snmp looks at interfaces every 15 s at most.
    let switch = |community: &str, update: u32, client: u32| {
        format!(
            "[testbed.physical.switch]\naddress = \"{SWITCH}\"\ncommunity = \"{community}\"\nupdate = \"{update} s\"\n\
             ports = {{ client1 = {client}, server1 = 103 }}\n"
        )
    };
    let run = |switch: String| {
        let campaign = lab.sweep(SMALL, &switch);
        lab.run(&campaign, 0);
        databases(&campaign).remove(0)
    };
    let metric = |db: &rusqlite::Connection, name: &str, node: &str| {
        let sql =
            format!("SELECT value FROM metric WHERE name = 'switch.{name}' AND node = '{node}' AND level = 'network'");
        only::<Option<f64>>(db, &sql)
    };
    let db = run(switch("secret", 16, 102));
    // 20 × 200 kB from the server to the client, and headers.
    for (name, node) in [("in_octets", "server1"), ("out_octets", "client1")] {
        let octets = metric(&db, name, node).unwrap();
        assert!((4e6..8e6).contains(&octets), "{name} of {node}: {octets}");
    }
    assert!(metric(&db, "in_octets", "client1").unwrap() < 1e6);
    assert_eq!(metric(&db, "in_errors", "server1"), Some(0.0));

    let events = |db: &rusqlite::Connection| {
        only::<Option<String>>(db, "SELECT group_concat(text) FROM event WHERE text LIKE '%the switch%'")
            .unwrap_or_default()
    };
    let db = run(switch("secret", 1, 4711));
    assert_eq!((metric(&db, "in_octets", "client1"), metric(&db, "out_discards", "client1")), (None, None));
    assert!(metric(&db, "in_octets", "server1").is_some());
    assert!(events(&db).contains("has not said 6 of its ports' counters"), "{}", events(&db));

    let db = run(switch("wrong", 1, 102));
    assert_eq!((metric(&db, "in_octets", "client1"), metric(&db, "in_octets", "server1")), (None, None));
    assert!(events(&db).contains("cannot be read: Timeout: No Response from 10.99.0.200"), "{}", events(&db));
}
