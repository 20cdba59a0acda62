//! The packets of two capture points of one path, matched while they arrive.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use rusqlite::Connection;
use vptest::ids::Vantage;
use vptest::instrument::capture::{Analysed, Captures, FlowOptions, FlowSinks, available_memory};
use vptest::record::{PathCounts, PathMatch, Weight};
use vptest::spec::{CaptureSpec, Tuple, Value};
use vptest::testbed::netns::Netns;
use vptest::testbed::{CapturePoint, CaptureSource, Instance, Request, Testbed};
use vptest::units::Rate;

use super::campaign::Campaign;
use super::need;

const SPEC: &str = r#"
name        = "paths"
repetitions = 2
timeout     = "60 s"

[factors]
testbed = "netns"
rate    = "100 Mbit/s"
offload = ["off", "on"]
workers = 1
request = { url = "/image.png?size=200kB", count = 40 }

[workload]
preset = "ab"

[capture]
vantage = ["guest", "host"]

# Other tests run at the same time.
[verify]
foreign_cpu = "off"
steal       = "off"
client_cpu  = "off"
vantage_difference = "off"
"#;

/// What this thread starts runs on one CPU. A veth hands packets to the backlog of the CPU that sends them, so that a sender
/// on two CPUs really overtakes itself; on one it cannot.
pub(crate) fn on_one_cpu() {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    let this = nix::unistd::Pid::from_raw(0);
    let usable = sched_getaffinity(this).unwrap();
    let first = (0..CpuSet::count()).find(|&cpu| usable.is_set(cpu).unwrap()).unwrap();
    let mut one = CpuSet::new();
    one.set(first).unwrap();
    sched_setaffinity(this, &one).unwrap();
}

fn only<T: rusqlite::types::FromSql>(db: &Connection, sql: &str) -> T {
    db.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

#[test]
fn a_clean_path_loses_nothing_and_offload_is_seen() {
    if !(need::root() && need::program("ab")) {
        return;
    }
    let campaign = Campaign::planned(SPEC);
    on_one_cpu();
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.statuses(), vec!["complete"; 4]);
    for name in campaign.files() {
        let db = Connection::open(campaign.out().join(&name)).unwrap();
        let offload: String = only(&db, "SELECT value FROM factor WHERE name = 'offload'");
        assert_eq!(only::<i64>(&db, "SELECT count(*) FROM path WHERE shared_clock = 1"), 3);
        assert_eq!(only::<i64>(&db, "SELECT count(*) FROM path_direction WHERE sent > 0"), 6);
        let whole = "SELECT count(*) FROM path_direction WHERE lost = 0 AND appeared = 0 AND edge = 0 AND \
                     sent = both + sent_resegmented AND received = both + received_resegmented AND sent_bytes = received_bytes";
        assert_eq!(only::<i64>(&db, whole), 6, "{name}, offload {offload}");
        assert_eq!(only::<i64>(&db, "SELECT sum(reordered) FROM path_direction"), 0);
        let cut: i64 = only(&db, "SELECT sum(sent_resegmented) FROM path_direction");
        assert_eq!(cut > 0, offload == "on", "{name}, offload {offload}: {cut}");
        // A super-segment leaves the server as one, and the rate limit cuts it.
        let longest =
            "SELECT received_resegmented - sent_resegmented FROM path_direction WHERE path = 0 AND direction = 'b2a'";
        assert_eq!(only::<i64>(&db, longest) > 0, offload == "on");
        let delays = "SELECT count(*) FROM path_direction WHERE delay_count = both AND delay_min >= 0 AND delay_p50 > 0 \
                      AND delay_p50 <= delay_p95 AND delay_max < 1 AND delay_sketch IS NOT NULL";
        assert_eq!(only::<i64>(&db, delays), 6, "{name}");
        let facts = "SELECT sum(CAST(value AS INTEGER)) - (SELECT sum(packets) FROM capture) FROM environment \
                     WHERE name LIKE 'analysis.packets_%'";
        assert_eq!(only::<i64>(&db, facts), 0, "every packet was analysed once");
    }
    let files = campaign.files();
    let paths: Vec<String> = files.iter().map(|name| format!("out/{name}")).collect();
    let merge: Vec<&str> = std::iter::once("merge").chain(paths.iter().map(String::as_str)).collect();
    campaign.expect(0, &merge);
    let merged = Connection::open(campaign.path().join("merged.db")).unwrap();
    assert_eq!(only::<i64>(&merged, "SELECT count(*) FROM path_direction"), 24);
    for (metric, node) in [
        ("path_lost", "client"),
        ("path_delay_p50", "server"),
        ("guest_host.path_lost", "client"),
        ("host_guest.path_loss", "server"),
    ] {
        let metric = format!("{metric}@{node}");
        let said = campaign.expect(0, &["analyze", "--metric", &metric, "--by", "offload", "--format", "json"]);
        assert!(said.out.contains("\"groups\""), "{metric}: {}", said.out);
    }
}

/// A testbed whose rate limit drops packets.
pub(crate) async fn slow(offload: bool) -> (Box<dyn Instance>, tempfile::TempDir) {
    let scratch = tempfile::tempdir().unwrap();
    let values =
        [("rate", Value::Rate(Rate::from_bits_per_second(20_000_000).unwrap())), ("offload", Value::Switch(offload))];
    let tuple =
        Tuple::new(values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>());
    let request = Request {
        tuple,
        number: 8,
        attempt: 1,
        scratch: scratch.path().to_owned(),
        campaign: scratch.path().to_owned(),
        vptest: "/bin/true".into(),
        programs: Vec::new(),
        notice: vptest::testbed::Notice::default(),
    };
    Netns::default().preflight(&request).await.unwrap();
    (Netns::default().launch(&request).await.unwrap(), scratch)
}

fn start(points: &[CapturePoint], fault_after: Option<u64>) -> Captures<vptest::instrument::capture::Flows> {
    let options = FlowOptions {
        statistics: true,
        connections: false,
        mtu: Some(1500),
        points: points.len(),
        available: available_memory(),
        hold: None,
        fault_after,
    };
    let spec = CaptureSpec {
        snaplen: 128,
        vantage: vec![Vantage::Guest, Vantage::Host],
        statistics: true,
        connections: false,
        keep: false,
        filter: None,
        ring: None,
    };
    let mut sinks = FlowSinks::new(points, &vec![options; points.len()]);
    Captures::start_with(points, &spec, None, |point, link| sinks.next(point, link)).unwrap()
}

/// Sends so many bytes from the client to the server on each of some connections at a time.
pub(crate) fn pump(instance: &dyn Instance, points: &[CapturePoint], connections: usize, bytes: usize) {
    let namespace = |index: usize| match &points[index].source {
        CaptureSource::Live { namespace: Some(namespace) } => namespace.clone(),
        other => panic!("{other:?} is no namespace"),
    };
    let at = |server: bool| {
        let is = |point: &CapturePoint| {
            point.vantage == Vantage::Guest && point.node.to_string() == if server { "server1" } else { "client1" }
        };
        namespace(points.iter().position(is).unwrap())
    };
    let address = SocketAddr::new(instance.pairs()[0].server.address(), 5201);
    let listener = at(true).run(|| TcpListener::bind(address)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..connections {
            let mut near = at(false).run(|| TcpStream::connect_timeout(&address, Duration::from_secs(20))).unwrap();
            let (mut far, _) = listener.accept().unwrap();
            scope.spawn(move || {
                near.write_all(&vec![0; bytes]).unwrap();
                near.shutdown(std::net::Shutdown::Write).unwrap();
                near.read_to_end(&mut Vec::new()).unwrap();
            });
            scope.spawn(move || assert_eq!(std::io::copy(&mut far, &mut std::io::sink()).unwrap(), bytes as u64));
        }
    });
}

/// What the rate limit at a host's end of a link dropped.
pub(crate) fn dropped(points: &[CapturePoint], interface: &str) -> u64 {
    let point = points.iter().find(|point| point.interface == interface).unwrap();
    let CaptureSource::Live { namespace: Some(namespace) } = &point.source else { panic!("no namespace") };
    let tc = || Command::new("tc").args(["-s", "-j", "qdisc", "show", "dev", interface]).output();
    let output = namespace.run(tc).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let root = json.as_array().unwrap().iter().find(|qdisc| qdisc["kind"] == "tbf").unwrap();
    root["drops"].as_u64().unwrap()
}

pub(crate) fn counts(path: &PathMatch) -> [PathCounts; 2] {
    path.directions.each_ref().map(|direction| direction.counts.unwrap())
}

#[tokio::test]
async fn what_the_queue_dropped_is_lost_and_nothing_else() {
    if !(need::root() && need::program("tc")) {
        return;
    }
    let (mut instance, _scratch) = slow(false).await;
    let points = instance.capture_points();
    let captures = start(&points, None);
    pump(&*instance, &points, 6, 1_500_000);
    let found = captures.stop().analyse();
    let drops = [dropped(&points, "s1"), dropped(&points, "c1")];
    instance.teardown().await;
    assert!(found.problems.is_empty() && found.warnings.is_empty(), "{:?} {:?}", found.problems, found.warnings);
    assert!(drops[0] > 0, "six connections did not fill the queue");
    let [across, client, server] = found.paths.as_slice() else { panic!("{:?}", found.paths) };
    let [a2b, b2a] = counts(across);
    assert_eq!([a2b.lost, b2a.lost], drops);
    for path in [client, server] {
        assert_eq!(counts(path).map(|counts| counts.lost), [0, 0]);
    }
    for path in &found.paths {
        for (direction, counts) in path.directions.iter().zip(counts(path)) {
            assert_eq!((counts.appeared, counts.sent_resegmented, counts.edge), (0, 0, 0), "{path:?}");
            assert_eq!(direction.sent, counts.both + counts.lost);
            assert_eq!(direction.received, counts.both);
        }
    }
    let delay = across.directions[0].delay.as_ref().unwrap();
    assert!(delay.max > 0.02 && delay.max < 0.2, "the queue holds 25 ms: {delay:?}");
    let link = client.directions[0].delay.as_ref().unwrap();
    assert!(link.min >= 0.0 && link.p50 < delay.p50, "{link:?}");
}

#[tokio::test]
async fn a_fault_in_the_analysis_ends_nothing_but_the_analysis() {
    if !need::root() {
        return;
    }
    let (mut instance, _scratch) = slow(false).await;
    let points = instance.capture_points();
    let captures = start(&points, Some(100));
    pump(&*instance, &points, 1, 500_000);
    let Analysed { captures, paths, problems, .. } = captures.stop().analyse();
    instance.teardown().await;
    assert_eq!((captures.len(), problems.len(), paths.len()), (4, 4, 0), "{problems:?}");
    assert!(captures.iter().all(|capture| capture.tcp.is_none() && capture.packets > 300), "{captures:?}");
    assert!(captures.iter().all(|capture| capture.bytes > 500_000 && capture.dropped_kernel == Some(0)));
    for problem in problems {
        assert_eq!(problem.weight, Weight::Suspect);
        assert!(problem.text.contains("the analysis failed") && problem.text.contains("a fault was asked for"));
    }
}
