//! Captures on nodes behind agents, analysed on the host together with its own.

use std::fs::File;
use std::path::Path;

use vptest::agent::Client;
use vptest::ids::Vantage;
use vptest::instrument::capture::{
    Analysed, Captures, FlowOptions, FlowSinks, Flows, LinkType, NodeFacts, PacketSink, Stopped, available_memory,
};
use vptest::packet::Reader;
use vptest::record::{Capture, Connection, PathMatch, Tcp, Weight};
use vptest::spec::CaptureSpec;
use vptest::testbed::{CapturePoint, CaptureSource, Instance};

use super::agent::{Agent, agent_in};
use super::need;
use super::paths::{counts, dropped, pump, slow};

/// A slow network whose clients are reached through an agent, as if they were guests.
struct Guests {
    instance: Box<dyn Instance>,
    /// All local, and with the client's own at its agent.
    points: [Vec<CapturePoint>; 2],
    agent: Agent,
    client: Client,
    scratch: tempfile::TempDir,
}

async fn guests(offload: bool) -> Guests {
    let (instance, scratch) = slow(offload).await;
    let local = instance.capture_points();
    let guest = local.iter().position(is_guest).unwrap();
    let CaptureSource::Live { namespace: Some(namespace) } = &local[guest].source else { panic!("no namespace") };
    let (agent, client) = agent_in(namespace).await;
    let mut points = local.clone();
    points[guest].source = CaptureSource::Agent(client.clone());
    Guests { instance, points: [local, points], agent, client, scratch }
}

fn is_guest(point: &CapturePoint) -> bool {
    point.vantage == Vantage::Guest && point.node.to_string() == "client1"
}

fn options(points: usize, hold: Option<u64>) -> FlowOptions {
    FlowOptions {
        statistics: true,
        connections: true,
        mtu: Some(1500),
        points,
        available: available_memory(),
        hold,
        fault_after: None,
    }
}

async fn start(points: &[CapturePoint], hold: Option<u64>, keep_in: &Path) -> Captures<Flows> {
    let spec = CaptureSpec {
        snaplen: 128,
        vantage: vec![Vantage::Guest, Vantage::Host],
        statistics: true,
        connections: true,
        keep: true,
        filter: None,
        ring: None,
    };
    let (points, keep_in) = (points.to_vec(), keep_in.to_owned());
    let start = move || {
        let mut sinks = FlowSinks::new(&points, &vec![options(points.len(), hold); points.len()]);
        Captures::start_with(&points, &spec, Some(&keep_in), |point, link| sinks.next(point, link)).unwrap()
    };
    tokio::task::spawn_blocking(start).await.unwrap()
}

async fn stop(captures: Captures<Flows>) -> Analysed {
    tokio::task::spawn_blocking(|| captures.stop().analyse()).await.unwrap()
}

/// What local analysis makes of a kept file.
fn analysed_here(file: &Path, point: &CapturePoint, capture: &Capture) -> Tcp {
    let local = CapturePoint { source: CaptureSource::Live { namespace: None }, ..point.clone() };
    let mut flows = FlowSinks::new(std::slice::from_ref(&local), &[options(4, None)]).next(&local, LinkType(1));
    let mut reader = Reader::open(File::open(file).unwrap()).unwrap();
    while let Some(record) = reader.next() {
        flows.packet(record.time.nanos().unwrap(), record.wire_len, record.data);
    }
    flows.end();
    let captures = vec![Capture { tcp: None, ..capture.clone() }];
    let stopped =
        Stopped { captures, problems: Vec::new(), whole: vec![true], sinks: vec![flows], nodes: Vec::new() }.analyse();
    assert!(stopped.problems.is_empty(), "{:?}", stopped.problems);
    stopped.captures.into_iter().next().unwrap().tcp.unwrap()
}

/// Cell by cell the same, but that all times are earlier by one and the same whole number of microseconds.
fn assert_same(sent: &Tcp, here: &Tcp) {
    let shift = here.first_ns.unwrap() - sent.first_ns.unwrap();
    assert_eq!(shift % 1000, 0);
    let moved = |row: &Connection| Connection {
        first_ns: row.first_ns.map(|at| at + shift),
        last_ns: row.last_ns.map(|at| at + shift),
        ..row.clone()
    };
    assert_eq!(sent.rows.iter().map(moved).collect::<Vec<_>>(), here.rows);
    assert_eq!(sent.statistics, here.statistics);
    let mut first_stalls = sent.first_stalls.clone();
    for stall in &mut first_stalls {
        stall.from_ns = stall.from_ns.map(|at| at + shift);
    }
    assert_eq!(first_stalls, here.first_stalls);
    let rest = |tcp: &Tcp| Tcp {
        first_ns: None,
        rows: Vec::new(),
        statistics: Vec::new(),
        first_stalls: Vec::new(),
        ..tcp.clone()
    };
    assert_eq!(rest(sent), rest(here));
}

fn clean(path: &PathMatch) {
    for (direction, counts) in path.directions.iter().zip(counts(path)) {
        assert_eq!((counts.lost, counts.appeared, counts.edge), (0, 0, 0), "{path:?}");
        assert_eq!(direction.sent, counts.both + counts.sent_resegmented, "{path:?}");
        assert_eq!(direction.received, counts.both + counts.received_resegmented, "{path:?}");
        assert!(direction.sent > 100 && direction.sent_bytes == direction.received_bytes, "{path:?}");
    }
}

fn facts(found: &Analysed) -> NodeFacts {
    let [facts] = found.nodes.as_slice() else { panic!("{:?}", found.nodes) };
    *facts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_sends_is_analysed_as_if_it_were_captured_here() {
    if !(need::root() && need::program("tc")) {
        return;
    }
    // With room for all, and with so little that most has to be sent at once.
    for (offload, hold) in [(false, None), (true, None), (false, Some(512 << 10))] {
        let Guests { mut instance, points: [local, points], agent, client: _client, scratch } = guests(offload).await;
        let captures = start(&points, hold, scratch.path()).await;
        pump(&*instance, &local, 6, 1_500_000);
        let drops = [dropped(&local, "s1"), dropped(&local, "c1")];
        if hold.is_some() {
            chat(&local);
        }
        let found = stop(captures).await;
        instance.teardown().await;
        drop(agent);
        assert!(found.problems.is_empty() && found.warnings.is_empty(), "{:?} {:?}", found.problems, found.warnings);

        let guest = points.iter().position(is_guest).unwrap();
        let kept = scratch.path().join("client1-guest.pcapng");
        assert_same(
            found.captures[guest].tcp.as_ref().unwrap(),
            &analysed_here(&kept, &points[guest], &found.captures[guest]),
        );
        let [across, near, far] = found.paths.as_slice() else { panic!("{:?}", found.paths) };
        assert!(far.shared_clock && !near.shared_clock && !across.shared_clock);
        assert!(near.directions.iter().chain(&across.directions).all(|direction| direction.delay.is_none()));
        clean(near);
        clean(far);
        if !offload {
            assert!(drops[0] > 0, "six connections did not fill the queue");
            assert_eq!(counts(across).map(|counts| counts.lost), drops);
        }
        assert!(!offload || counts(near)[0].sent_resegmented > 0 || counts(across)[0].sent_resegmented > 0);

        let NodeFacts { before, after, holding, .. } = facts(&found);
        let after = after.unwrap();
        assert!(before.at_least_ns <= 0 && before.at_most_ns >= 0, "one clock for all: {before:?}");
        assert!(after.at_least_ns <= 0 && after.at_most_ns >= 0, "{after:?}");
        assert_eq!(facts(&found).drift_ns(), Some(0));
        let holding = holding.unwrap();
        assert!(holding.peak <= holding.limit, "{holding:?}");
        assert_eq!(holding.early > 0, hold.is_some(), "{holding:?}");
        assert!(hold.is_none_or(|hold| holding.limit == hold && holding.early > hold), "{holding:?}");
    }
}

/// Datagrams from the client to nobody, enough to fill what may be held.
fn chat(points: &[CapturePoint]) {
    let point = points.iter().find(|point| is_guest(point)).unwrap();
    let CaptureSource::Live { namespace: Some(namespace) } = &point.source else { panic!("no namespace") };
    let send = || {
        let sender = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
        sender.set_broadcast(true)?;
        let interface = point.interface.as_bytes();
        nix::sys::socket::setsockopt(
            &sender,
            nix::sys::socket::sockopt::BindToDevice,
            &std::ffi::OsStr::new(std::str::from_utf8(interface).unwrap()).to_owned(),
        )?;
        (0..40_000).try_for_each(|_| sender.send_to(&[7; 40], ("255.255.255.255", 9)).map(drop))
    };
    namespace.run(send).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_lost_makes_the_iteration_invalid() {
    if !(need::root() && need::program("tc")) {
        return;
    }
    for hold in [None, Some(512 << 10)] {
        let Guests { mut instance, points: [local, points], agent, client, scratch } = guests(false).await;
        let captures = start(&points, hold, scratch.path()).await;
        pump(&*instance, &local, 2, 500_000);
        chat(&local);
        drop(agent);
        client.lost().await;
        let found = stop(captures).await;
        instance.teardown().await;
        let [problem] = found.problems.as_slice() else { panic!("{:?}", found.problems) };
        assert_eq!(problem.weight, Weight::Invalid);
        assert!(problem.text.starts_with("capture of client1 (guest, "), "{}", problem.text);
        assert!(problem.text.contains("is lost: "), "{}", problem.text);
        assert!(found.nodes.is_empty());
        assert_eq!(found.captures.len(), 3, "the host's own are there");
        assert!(found.captures.iter().all(|capture| capture.tcp.as_ref().is_some_and(|tcp| tcp.connections == 2)));
        let [far] = found.paths.as_slice() else { panic!("{:?}", found.paths) };
        clean(far);
    }
}
