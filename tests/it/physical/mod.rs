//! The testbed `physical`, with namespaces as nodes and a real sshd in each.

mod dispatch;
mod failures;
mod lab;
mod network;
mod rond;
mod soak;

use super::campaign::Campaign;
use super::qemu::{databases, only, outcome, wait_until};
use lab::{Lab, PARAMETER};

const SMALL: &str = "request = { url = \"/image.png?size=200kB\", count = 20 }\nworkers = 2";

/// Settings asked of every node.
const SETTINGS: &str = "offload = \"off\"\nmtu = 900\nrate = \"400 Mbit/s\"";

fn sysctl() -> String {
    format!("[testbed.physical.sysctls]\n\"{PARAMETER}\" = \"reno\"\n")
}

#[test]
fn an_iteration_runs_with_everything_asked_observed_and_put_back() {
    if !lab::tools() {
        return;
    }
    let lab = Lab::new();
    lab.nodes.iter().for_each(lab::PhysicalNode::mix);
    let before: Vec<_> = lab.nodes.iter().map(lab::PhysicalNode::state).collect();
    let more =
        format!("{}[capture]\nvantage = [\"endpoint\"]\n[instrument.syscalls]\n[instrument.counters]\n", sysctl());
    let campaign = lab.sweep(&format!("{SETTINGS}\n{SMALL}"), &more);
    lab.run(&campaign, 0);
    assert_eq!(outcome(&campaign), ("complete".to_owned(), "[]".to_owned()));
    let after: Vec<_> = lab.nodes.iter().map(lab::PhysicalNode::state).collect();
    assert_eq!(after, before);

    let db = &databases(&campaign)[0];
    let failed: f64 = only(db, "SELECT value FROM metric WHERE name = 'failed_requests'");
    assert_eq!(failed, 0.0);
    for (name, wanted) in
        [("gso", "off"), ("mtu", "900"), ("rate", "400 Mbit/s"), ("sysctl.net.ipv4.tcp_congestion_control", "reno")]
    {
        let sql = format!("SELECT COUNT(*) FROM setting WHERE name = '{name}' AND observed = '{wanted}' AND ok = 1");
        assert_eq!(only::<i64>(db, &sql), 4, "{name} at both nodes, before and after");
    }
    let captures = "SELECT COUNT(*) FROM capture WHERE vantage = 'endpoint' AND interface = 'exp0' AND packets > 100 \
                    AND dropped_kernel = 0";
    assert_eq!(only::<i64>(db, captures), 2);
    let followed =
        "SELECT group_concat(DISTINCT node) FROM (SELECT node FROM syscall_process WHERE calls > 10 ORDER BY node)";
    assert_eq!(only::<Option<String>>(db, followed).as_deref(), Some("client1,server1"));
    // The nodes are judged, and not the host vptest runs on.
    let judged = "SELECT group_concat(node) FROM (SELECT node FROM metric WHERE name = 'cpu_system' AND value > 0 ORDER BY node)";
    assert_eq!(only::<Option<String>>(db, judged).as_deref(), Some("client1,server1"));
    let facts = "SELECT COUNT(*) FROM environment WHERE host IN ('client1', 'server1') AND (name = 'link.driver' AND \
                 value = 'veth' OR name = 'link.speed' OR name IN ('kernel', 'distribution'))";
    assert_eq!(only::<i64>(db, facts), 8);
    let versions = "SELECT COUNT(*) FROM environment WHERE host IN ('client1', 'server1') AND name = 'ab.version' AND value LIKE '%ApacheBench%'";
    assert_eq!(only::<i64>(db, versions), 2);
    let routes = "SELECT COUNT(*) FROM setting WHERE name = 'route_interface' AND requested = 'exp0' AND ok = 1";
    assert_eq!(only::<i64>(db, routes), 4, "there and back, before and after");
    campaign.assert_clean();
}

#[test]
fn two_pairs_and_a_login_that_becomes_root_by_sudo_run_against_nginx() {
    if !lab::tools() || !super::need::program("nginx") {
        return;
    }
    let bin = tempfile::tempdir().unwrap();
    std::fs::set_permissions(bin.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // Becomes root by keeping it: this host's own sudo has no rule for anybody.
    lab::script(&bin.path().join("sudo"), "[ \"$1\" = -n ] || exit 1; shift; exec \"$@\"");
    lab::script(&bin.path().join("id"), "[ \"$1\" = -u ] && echo 1000 || exec /usr/bin/id \"$@\"");
    let login = format!("PATH={}:$PATH exec sh -c \"$SSH_ORIGINAL_COMMAND\"", bin.path().display());
    let by_sudo = lab::Kind { login: Some(&login), ..lab::Kind::default() };
    let lab = Lab::with(&[by_sudo, lab::Kind::default(), lab::Kind::default(), by_sudo]);
    let before: Vec<_> = lab.nodes.iter().map(lab::PhysicalNode::state).collect();
    let spec = lab.spec(&format!("pairs = 2\n{SETTINGS}\n{SMALL}"), "");
    let campaign = Campaign::planned(&spec.replace("\"ab\"\n", "\"ab\"\nserver = \"nginx\"\n"));
    lab.run(&campaign, 0);
    let after: Vec<_> = lab.nodes.iter().map(lab::PhysicalNode::state).collect();
    assert_eq!(after, before);
    let db = &databases(&campaign)[0];
    let complete = "SELECT COUNT(*) FROM metric WHERE name = 'complete_requests' AND value = 20";
    assert_eq!(only::<i64>(db, complete), 2);
    assert_eq!(only::<i64>(db, "SELECT COUNT(*) FROM capture WHERE vantage = 'endpoint' AND packets > 100"), 4);
    wait_until("the end of what was copied", || lab.nodes.iter().all(lab::PhysicalNode::is_empty));
}
