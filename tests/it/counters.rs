//! Counters against the tools that people read them with, in real namespaces and guests.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use vptest::host::ethtool;
use vptest::host::namespace::Namespace;
use vptest::host::netlink::Netlink;
use vptest::host::sockets::SocketDiagnosis;
use vptest::ids::{NodeId, Vantage};
use vptest::instrument::counters::{Counted, Counting, metrics};
use vptest::spec::{CounterSpec, Tuple, Value};
use vptest::testbed::netns::Netns;
use vptest::testbed::{CapturePoint, CaptureSource, Instance, Notice, Request, Testbed};
use vptest::units::Rate;

use crate::campaign::{Campaign, FAKE};
use crate::need::{program, root};
use crate::paths::pump;
use crate::qemu;

/// A pair behind rate limits, so that packets are dropped and sent again.
async fn launch(scratch: &std::path::Path, bits: u64) -> Box<dyn Instance> {
    let rate = Value::Rate(Rate::from_bits_per_second(bits).unwrap());
    let request = Request {
        tuple: Tuple::new(BTreeMap::from([("rate".to_owned(), rate)])),
        number: 8,
        attempt: 1,
        scratch: scratch.to_owned(),
        campaign: scratch.to_owned(),
        vptest: "/bin/true".into(),
        programs: Vec::new(),
        notice: Notice::default(),
    };
    Netns::default().launch(&request).await.unwrap()
}

fn point(instance: &dyn Instance, node: NodeId, vantage: Vantage) -> (Arc<Namespace>, String) {
    let points = instance.capture_points();
    let point: &CapturePoint = points.iter().find(|point| point.node == node && point.vantage == vantage).unwrap();
    let CaptureSource::Live { namespace: Some(namespace) } = &point.source else { panic!("{point:?}") };
    (Arc::clone(namespace), point.interface.clone())
}

fn tool(namespace: &Namespace, argv: &[&str]) -> String {
    let run = || Command::new(argv[0]).args(&argv[1..]).output();
    let output = namespace.run(run).unwrap();
    assert!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(namespace: &Namespace, argv: &[&str]) -> serde_json::Value {
    serde_json::from_str(&tool(namespace, argv)).unwrap()
}

/// What nstat, ip and tc say of a node, by the names that vptest gives the same counters.
fn tools(instance: &dyn Instance, node: NodeId) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    let (guest, interface) = point(instance, node, Vantage::Guest);
    let (switch, end) = point(instance, node, Vantage::Host);
    let nstat = json(&guest, &["nstat", "-a", "-s", "-z", "-j"]);
    for (name, value) in nstat["kernel"].as_object().unwrap() {
        all.extend(value.as_u64().map(|value| (name.clone(), value)));
    }
    for (prefix, namespace, interface) in [("if", &guest, &interface), ("host.if", &switch, &end)] {
        let links = json(namespace, &["ip", "-s", "-j", "link", "show", "dev", interface]);
        for side in ["rx", "tx"] {
            for name in ["packets", "bytes", "dropped", "errors"] {
                let value = links[0]["stats64"][side][name].as_u64().unwrap();
                all.insert(format!("{prefix}.{side}_{name}"), value);
            }
        }
        let qdiscs = json(namespace, &["tc", "-s", "-j", "qdisc", "show", "dev", interface]);
        let of_root = |qdisc: &&serde_json::Value| qdisc["root"].as_bool() == Some(true);
        let qdisc = qdiscs.as_array().unwrap().iter().find(of_root).unwrap();
        for name in ["packets", "bytes", "drops", "requeues", "overlimits"] {
            all.insert(format!("{prefix}.qdisc.{name}"), qdisc[name].as_u64().unwrap());
        }
    }
    all
}

fn value(counted: &Counted, node: Option<NodeId>, name: &str) -> Option<f64> {
    let all = metrics(counted);
    let found: Vec<_> = all.iter().filter(|metric| metric.node == node && metric.name == name).collect();
    assert_eq!(found.len(), 1, "{name} of {node:?}");
    found[0].value
}

/// Names that the traffic moves, so that comparing them means something, and others that stay.
const COMPARED: [&str; 17] = [
    "TcpActiveOpens",
    "TcpPassiveOpens",
    "TcpInSegs",
    "TcpOutSegs",
    "TcpRetransSegs",
    "TcpExtTCPLostRetransmit",
    "TcpExtTCPFastRetrans",
    "TcpExtTCPPureAcks",
    "TcpExtListenDrops",
    "if.rx_packets",
    "if.tx_packets",
    "if.rx_bytes",
    "if.tx_bytes",
    "if.tx_dropped",
    "host.if.tx_packets",
    "host.if.qdisc.packets",
    "host.if.qdisc.drops",
];

#[tokio::test]
async fn numbers_are_those_of_nstat_ip_and_tc() {
    if !(root() && program("nstat") && program("ip") && program("tc")) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut up = launch(scratch.path(), 20_000_000).await;
    let nodes = [NodeId::client(1), NodeId::server(1)];
    let interval = Some(Duration::from_millis(20));
    let spec = CounterSpec { interval, metrics: vec!["TcpExtTCPPureAcks".to_owned()] };
    let all = |up: &dyn Instance| nodes.map(|node| tools(up, node));
    let points = up.capture_points();
    // Neighbours and the like are known after this, so that nothing but the traffic moves a counter.
    pump(&*up, &points, 1, 1000);
    // A tool looks before and after each of our readings: where it sees the same, so must we.
    let before = all(&*up);
    let counting = Counting::start(up.counted(), &spec).await;
    let begun = all(&*up);
    pump(&*up, &points, 4, 1_500_000);
    let ended = all(&*up);
    let counted = counting.finish().await;
    let after = all(&*up);
    let mut compared = 0;
    for (at, node) in nodes.into_iter().enumerate() {
        for name in COMPARED {
            let of =
                |tools: &[BTreeMap<String, u64>; 2]| tools[at].get(name).copied().unwrap_or_else(|| panic!("{name}"));
            if of(&before) == of(&begun) && of(&ended) == of(&after) {
                let theirs = of(&after) - of(&before);
                assert_eq!(value(&counted, Some(node), name), Some(theirs as f64), "{name} of {node}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 2 * COMPARED.len() - 8, "something else moved most counters: {compared}");
    let [client, server] = nodes.map(Some);
    assert_eq!(value(&counted, client, "TcpActiveOpens"), Some(4.0));
    assert_eq!(value(&counted, server, "TcpPassiveOpens"), Some(4.0));
    assert!(value(&counted, client, "TcpRetransSegs").unwrap() > 0.0, "nothing was sent again");
    let dropped = [client, server].map(|node| value(&counted, node, "host.if.qdisc.drops").unwrap());
    let dropped_here = [client, server].map(|node| value(&counted, node, "if.qdisc.drops").unwrap());
    assert!(dropped.iter().chain(&dropped_here).sum::<f64>() > 0.0, "no queue was full");
    assert!(value(&counted, client, "tcpinfo.rtt").is_some_and(|rtt| rtt > 0.0 && rtt < 10.0));
    assert!(value(&counted, None, "ctxt").unwrap() > 0.0);
    assert!(value(&counted, None, "cpu.idle").is_some());
    check_series(&counted, client);
    assert_eq!(up.teardown().await.left, Vec::<String>::new());
}

/// Growths of a series add up to the metric.
fn check_series(counted: &Counted, node: Option<NodeId>) {
    let place = &counted.places.iter().find(|counted| counted.place.node == node).unwrap().place;
    assert!(place.times_us.len() > 5, "{:?}", place.times_us);
    for name in ["TcpOutSegs", "TcpRetransSegs", "if.tx_packets"] {
        let series = place.series.iter().find(|series| series.name == name).unwrap();
        assert_eq!(series.values.len(), place.times_us.len() - 1);
        let sum: u64 = series.values.iter().map(|value| value.unwrap()).sum();
        assert_eq!(Some(sum as f64), value(counted, node, name), "{name}");
    }
    let sockets = place.series.iter().find(|series| series.name == "tcpinfo.sockets").unwrap();
    assert!(sockets.gauge && sockets.values.iter().flatten().any(|&count| count == 4), "{:?}", sockets.values);
}

#[tokio::test]
async fn sockets_and_drivers_are_as_ss_and_ethtool_print_them() {
    if !(root() && program("ss") && program("ethtool")) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let up = launch(scratch.path(), 1_000_000_000).await;
    let (client, interface) = point(&*up, NodeId::client(1), Vantage::Guest);
    let (server, _) = point(&*up, NodeId::server(1), Vantage::Guest);
    let address = SocketAddr::new(up.pairs()[0].server.address(), 5201);
    let listener = server.run(|| TcpListener::bind(address)).unwrap();
    let mut near = client.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(20))).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    near.write_all(&[1; 10_000]).unwrap();
    far.read_exact(&mut [0; 10_000]).unwrap();
    far.write_all(&[1]).unwrap();
    near.read_exact(&mut [0]).unwrap();
    let text = tool(&client, &["ss", "-tin"]);
    let mut ours = client.run(|| SocketDiagnosis::open()?.tcp()).unwrap();
    assert_eq!(ours.len(), 1, "the listener is not among them, and belongs to the server");
    let socket = ours.remove(0);
    let field = |name: &str| {
        let word = text.split_ascii_whitespace().find_map(|word| word.strip_prefix(name));
        word.unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    let (rtt, rttvar) = field("rtt:").split_once('/').unwrap();
    let ms = |us: u32| f64::from(us) / 1e3;
    assert_eq!((rtt.parse(), rttvar.parse()), (Ok(ms(socket.rtt_us)), Ok(ms(socket.rttvar_us))), "{text}");
    assert_eq!(field("cwnd:").parse(), Ok(socket.cwnd), "{text}");
    assert_eq!(field("bytes_acked:").parse().ok(), socket.bytes_acked, "{text}");
    let printed = tool(&client, &["ethtool", "-S", &interface]);
    let theirs: Vec<(String, u64)> = printed
        .lines()
        .skip(1)
        .filter_map(|line| line.trim().rsplit_once(": "))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect();
    assert!(!theirs.is_empty(), "{printed}");
    let ours = client.run(|| ethtool::statistics(&Netlink::open()?, &interface)).unwrap();
    assert_eq!(ours, theirs);
    assert_eq!(client.run(|| ethtool::statistics(&Netlink::open()?, "lo")).unwrap(), [], "loopback has none");
}

fn only<T: rusqlite::types::FromSql>(db: &Connection, sql: &str) -> T {
    db.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

const SPEC: &str = r#"
name        = "counted"
repetitions = 1
timeout     = "60 s"

[factors]
testbed    = "netns"
hops       = [["A"]]
instrument = [true, false]
workers    = 2
request    = { url = "/image.png?size=20kB", count = 200 }

[workload]
preset = "ab"

[instrument]
counters = { interval = "1 s", metrics = ["TcpExtTCPPureAcks", "irq.NONE", "NoSuchCounter"] }

# Other tests run at the same time.
[verify]
foreign_cpu = "off"
steal       = "off"
client_cpu  = "off"
"#;

#[test]
fn counters_of_an_iteration_are_stored_merged_and_analysed() {
    if !(root() && program("ab")) {
        return;
    }
    let campaign = Campaign::planned(SPEC);
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.statuses(), ["complete"; 2]);
    for name in campaign.files() {
        let db = Connection::open(campaign.out().join(&name)).unwrap();
        let on = only::<String>(&db, "SELECT value FROM factor WHERE name = 'instrument'") != "off";
        let rows = only::<i64>(&db, "SELECT count(*) FROM counter_place");
        if !on {
            assert_eq!((rows, only::<i64>(&db, "SELECT count(*) FROM metric WHERE name = 'ctxt'")), (0, 0));
            continue;
        }
        // The host, client, server and router.
        assert_eq!(rows, 4);
        let metric = |node: &str, name: &str| {
            let sql = format!("SELECT value FROM metric WHERE node IS {node} AND name = '{name}'");
            only::<Option<f64>>(&db, &sql)
        };
        assert!(metric("'client1'", "TcpActiveOpens").unwrap() >= 200.0);
        assert_eq!(metric("'client1'", "TcpActiveOpens"), metric("'server1'", "TcpPassiveOpens"));
        assert!(metric("'router1.1'", "IpInReceives").unwrap() > 400.0);
        assert!(metric("'client1'", "TcpExtTCPPureAcks").unwrap() > 0.0);
        assert_eq!(metric("'client1'", "NoSuchCounter"), None, "a row without a value");
        assert_eq!(metric("NULL", "irq.NONE"), None);
        assert!(metric("NULL", "cpu.system").unwrap() > 0.0);
        // Bytes that left a client's queue are bytes that its interface sent.
        assert!(metric("'client1'", "if.tx_bytes").unwrap() > 0.0);
        let grown = "SELECT count(*) FROM counter_source, json_each(others) WHERE json_each.value > 0";
        assert!(only::<i64>(&db, grown) > 10);
        let added = "SELECT sum(json_each.value) FROM counter_series, json_each(samples) \
                     WHERE name = 'ctxt' AND place = 0";
        assert_eq!(Some(only::<f64>(&db, added)), metric("NULL", "ctxt"));
        let said = "SELECT count(*) FROM event WHERE text LIKE 'counters of %'";
        assert_eq!(only::<i64>(&db, said), 4);
        let size = std::fs::metadata(campaign.out().join(&name)).unwrap().len();
        assert!(size < 160_000, "{size} bytes");
    }
    let mut merge = campaign.command(&["merge"]);
    merge.args(campaign.files().iter().map(|name| format!("out/{name}")));
    assert!(merge.output().unwrap().status.success());
    let said = campaign.expect(0, &["analyze", "--metric", "TcpOutSegs@client"]);
    assert!(said.out.contains("TcpOutSegs"), "{}", said.out);
    campaign.assert_clean();
}

#[test]
fn nodes_without_counters_of_their_own_have_no_rows() {
    let campaign = Campaign::planned(&format!("{FAKE}\n[instrument]\ncounters = true\n"));
    campaign.expect(0, &["run", "--iter", "1"]);
    let db = Connection::open(campaign.out().join(&campaign.files()[0])).unwrap();
    assert_eq!(only::<i64>(&db, "SELECT count(*) FROM counter_place WHERE node IS NULL"), 1);
    assert_eq!(only::<i64>(&db, "SELECT count(*) FROM counter_place"), 1);
    assert_eq!(only::<i64>(&db, "SELECT count(*) FROM metric WHERE name LIKE 'Tcp%'"), 0, "absent, not 0");
    assert!(only::<f64>(&db, "SELECT value FROM metric WHERE name = 'ctxt'") > 0.0);
}

#[test]
fn guests_are_counted_by_their_own_kernels() {
    if !qemu::guests() {
        return;
    }
    let counters = "[instrument]\ncounters = { interval = \"200 ms\" }";
    let campaign = qemu::sweep(qemu::SMALL, qemu::AB, counters);
    let said = campaign.command(&["run"]).env("VPTEST_CACHE", qemu::cache()).output().unwrap();
    let (status, reasons) = qemu::outcome(&campaign);
    // A guest under TCG on a busy host may miss a reading, and then says so.
    let excused = status == "suspect" && reasons.contains("readings of the series were missed");
    assert!(status == "complete" || excused, "{reasons} {}", String::from_utf8_lossy(&said.stderr));
    let db = &qemu::databases(&campaign)[0];
    let metric = |node: &str, name: &str| {
        let sql = format!("SELECT value FROM metric WHERE node = '{node}' AND name = '{name}'");
        only::<Option<f64>>(db, &sql)
    };
    assert!(metric("client1", "TcpActiveOpens").unwrap() >= 5.0);
    assert_eq!(metric("client1", "TcpActiveOpens"), metric("server1", "TcpPassiveOpens"));
    assert!(metric("client1", "ctxt").unwrap() > 0.0);
    assert!(metric("server1", "softirq.NET_RX").unwrap() > 0.0);
    assert!(metric("server1", "host.if.rx_packets").unwrap() > 0.0);
    assert!(metric("server1", "if.tx_packets").unwrap() > 0.0);
    let sources = "SELECT count(*) FROM counter_source WHERE name = 'sockets' AND why IS NULL";
    assert_eq!(only::<i64>(db, sources), 2, "tcp_diag is in the image");
    // The host, and each guest twice: its own counters, and the host's end of its link.
    assert_eq!(only::<i64>(db, "SELECT count(*) FROM counter_place"), 5);
}
