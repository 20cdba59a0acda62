//! Live captures on veth links with a sender that knows what it sent.

use std::io;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vptest::host::namespace::Namespace;
use vptest::ids::{NodeId, Vantage};
use vptest::instrument::capture::{CaptureError, Captures, PacketSink, Stopped};
use vptest::record::{SizeBin, Weight};
use vptest::spec::CaptureSpec;
use vptest::testbed::{CapturePoint, CaptureSource};

use crate::need::{program, root};

/// Header bytes of a UDP packet: Ethernet, IPv4, UDP.
const HEADERS: u64 = 14 + 20 + 8;

/// A namespace with links `a1`–`b1`, `a2`–`b2`, …; what is sent to 10.9.N.2 leaves through `aN`, arrives at `bN` and
/// ends there. Nothing else is ever sent on them.
fn links(count: usize) -> Arc<Namespace> {
    let namespace = Arc::new(Namespace::new().unwrap());
    let mut batch = String::new();
    for n in 1..=count {
        let mac = format!("02:00:00:00:00:{n:02x}");
        batch += &format!(
            "link add a{n} type veth peer name b{n} address {mac}\naddr add 10.9.{n}.1/24 dev a{n}\n\
             link set b{n} up\nlink set a{n} up\nneigh add 10.9.{n}.2 lladdr {mac} dev a{n} nud permanent\n"
        );
    }
    namespace
        .run(|| {
            for name in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1")?;
            }
            ip(&["-batch", "-"], &batch)
        })
        .unwrap();
    namespace
}

fn ip(arguments: &[&str], input: &str) -> io::Result<()> {
    use std::io::Write as _;
    let mut child = Command::new("ip").args(arguments).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().unwrap().write_all(input.as_bytes())?;
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("ip {arguments:?}: {status}"))) }
}

fn send(namespace: &Namespace, link: usize, port: u16, count: u64, payload: usize) {
    let content = vec![0x5a; payload];
    let work = || {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect((format!("10.9.{link}.2"), port))?;
        (0..count).try_for_each(|_| socket.send(&content).map(drop))
    };
    namespace.run(work).unwrap();
}

fn point(namespace: &Arc<Namespace>, vantage: Vantage, pair: u32, interface: &str) -> CapturePoint {
    let source = CaptureSource::Live { namespace: Some(Arc::clone(namespace)) };
    CapturePoint { node: NodeId::client(pair), vantage, interface: interface.to_owned(), source }
}

fn both_ends(namespace: &Arc<Namespace>) -> [CapturePoint; 2] {
    [point(namespace, Vantage::Guest, 1, "a1"), point(namespace, Vantage::Host, 1, "b1")]
}

fn spec() -> CaptureSpec {
    CaptureSpec {
        snaplen: 96,
        vantage: vec![Vantage::Guest],
        statistics: true,
        connections: false,
        keep: false,
        filter: None,
        ring: None,
    }
}

fn clean<S>(stopped: &Stopped<S>) {
    assert!(stopped.problems.is_empty(), "{:?}", stopped.problems);
    for capture in &stopped.captures {
        assert_eq!((capture.dropped_kernel, capture.dropped_interface), (Some(0), Some(0)), "{capture:?}");
    }
}

#[test]
fn every_packet_is_counted_at_both_ends() {
    if !root() || !program("ip") {
        return;
    }
    let namespace = links(1);
    send(&namespace, 1, 9, 5, 10);
    let captures = Captures::start(&both_ends(&namespace), &spec(), None).unwrap();
    send(&namespace, 1, 9, 20_000, 58);
    send(&namespace, 1, 9, 3, 1472);
    let stopped = captures.stop();
    clean(&stopped);
    assert_eq!(stopped.captures.len(), 2);
    for capture in &stopped.captures {
        assert_eq!(capture.packets, 20_003);
        assert_eq!(capture.bytes, 20_000 * (58 + HEADERS) + 3 * (1472 + HEADERS));
        let bins = [(64, 128, 20_000), (1280, 1519, 3)];
        assert_eq!(capture.sizes, bins.map(|(from, to, packets)| SizeBin { from, to: Some(to), packets }));
    }
}

#[test]
fn the_tail_is_never_lost() {
    if !root() || !program("ip") {
        return;
    }
    let namespace = links(1);
    for round in 1..=10 {
        let captures = Captures::start(&both_ends(&namespace), &spec(), None).unwrap();
        send(&namespace, 1, 9, 1000 + round, 100);
        let stopped = captures.stop();
        clean(&stopped);
        assert!(stopped.captures.iter().all(|capture| capture.packets == 1000 + round), "{:?}", stopped.captures);
    }
}

#[test]
fn what_a_small_ring_drops_is_counted() {
    if !root() || !program("ip") {
        return;
    }
    let namespace = links(1);
    let small = CaptureSpec { ring: Some(1 << 16), snaplen: 2048, ..spec() };
    let captures = Captures::start(&both_ends(&namespace), &small, None).unwrap();
    let count = 100_000;
    send(&namespace, 1, 9, count, 1400);
    let stopped = captures.stop();
    assert!(stopped.problems.is_empty(), "{:?}", stopped.problems);
    for capture in &stopped.captures {
        let dropped = capture.dropped_kernel.unwrap();
        assert!(dropped > 0, "a ring of 64 KiB held {count} packets: {capture:?}");
        assert_eq!(capture.packets + dropped, count, "{capture:?}");
    }
}

#[test]
fn a_filter_selects_and_a_bad_one_is_named() {
    if !root() || !program("ip") {
        return;
    }
    let namespace = links(1);
    let filtered = CaptureSpec { filter: Some("udp dst port 9".to_owned()), ..spec() };
    let captures = Captures::start(&both_ends(&namespace), &filtered, None).unwrap();
    send(&namespace, 1, 9, 300, 10);
    send(&namespace, 1, 10, 200, 10);
    let stopped = captures.stop();
    clean(&stopped);
    assert!(stopped.captures.iter().all(|capture| capture.packets == 300));

    let bad = CaptureSpec { filter: Some("tcp prot 80".to_owned()), ..spec() };
    let error = Captures::start(&both_ends(&namespace), &bad, None).unwrap_err();
    assert!(matches!(error, CaptureError::Filter { .. }), "{error:?}");
    assert!(error.to_string().contains("`tcp prot 80`"), "{error}");
}

#[test]
fn a_missing_interface_is_named() {
    if !root() || !program("ip") {
        return;
    }
    let namespace = links(1);
    let points = [point(&namespace, Vantage::Guest, 1, "a1"), point(&namespace, Vantage::Guest, 2, "a2")];
    let error = Captures::start(&points, &spec(), None).unwrap_err();
    assert!(error.to_string().contains("a2 of client2 (guest)"), "{error}");
}

#[test]
fn an_interface_that_vanishes_is_a_problem_and_no_hang() {
    if !root() || !program("ip") {
        return;
    }
    let namespace = links(2);
    let points = [point(&namespace, Vantage::Guest, 1, "a1"), point(&namespace, Vantage::Guest, 2, "a2")];
    let captures = Captures::start(&points, &spec(), None).unwrap();
    send(&namespace, 1, 9, 100, 10);
    send(&namespace, 2, 9, 100, 10);
    namespace.run(|| ip(&["link", "del", "a1"], "")).unwrap();
    let stopped = captures.stop();
    assert_eq!(stopped.captures[1].packets, 100);
    assert_eq!(stopped.captures[0].dropped_interface, None, "the counter went with the interface");
    let [problem] = stopped.problems.as_slice() else { panic!("{:?}", stopped.problems) };
    assert_eq!(problem.weight, Weight::Invalid);
    assert!(problem.text.contains("client1 (guest, a1)"), "{}", problem.text);
}

#[test]
fn kept_files_hold_every_packet() {
    if !root() || !program("ip") || !program("tcpdump") {
        return;
    }
    let namespace = links(1);
    let directory = tempfile::tempdir().unwrap();
    let keep = CaptureSpec { keep: true, ..spec() };
    let captures = Captures::start(&both_ends(&namespace), &keep, Some(directory.path())).unwrap();
    send(&namespace, 1, 9, 7000, 200);
    let stopped = captures.stop();
    clean(&stopped);
    let base = directory.path().file_name().unwrap().to_str().unwrap();
    for (capture, name) in stopped.captures.iter().zip(["client1-guest.pcapng", "client1-host.pcapng"]) {
        assert_eq!(capture.file.as_deref(), Some(format!("{base}/{name}").as_str()));
        let path = directory.path().join(name);
        let output = Command::new("tcpdump").args(["-nn", "-tt", "-r"]).arg(path).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 7000);
        assert!(text.lines().all(|line| line.contains("10.9.1.2.9: UDP, length 200")), "{:?}", text.lines().next());
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2, "something else was left");
}

#[test]
fn captures_that_are_dropped_leave_no_file() {
    if !root() || !program("ip") {
        return;
    }
    let namespace = links(1);
    let directory = tempfile::tempdir().unwrap();
    let keep = CaptureSpec { keep: true, ..spec() };
    let captures = Captures::start(&both_ends(&namespace), &keep, Some(directory.path())).unwrap();
    send(&namespace, 1, 9, 10, 10);
    drop(captures);
    let bad = CaptureSpec { filter: Some("nonsense (".to_owned()), ..keep };
    assert!(Captures::start(&both_ends(&namespace), &bad, Some(directory.path())).is_err());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_full_disk_ends_the_file_and_not_the_capture() {
    if !root() || !program("ip") || !program("mount") {
        return;
    }
    let namespace = links(1);
    let directory = tempfile::tempdir().unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(directory.path()).status();
    assert!(mount.unwrap().success());
    let keep = CaptureSpec { keep: true, ..spec() };
    let captures = Captures::start(&both_ends(&namespace)[..1], &keep, Some(directory.path())).unwrap();
    send(&namespace, 1, 9, 30_000, 100);
    let stopped = captures.stop();
    let files: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let readable =
        Command::new("tcpdump").arg("-r").arg(directory.path().join("client1-guest.partial.pcapng")).output();
    assert!(Command::new("umount").arg(directory.path()).status().unwrap().success());
    assert_eq!(stopped.captures[0].packets, 30_000);
    assert_eq!(files, ["client1-guest.partial.pcapng"]);
    let [problem] = stopped.problems.as_slice() else { panic!("{:?}", stopped.problems) };
    assert!(problem.text.contains("No space left on device"), "{}", problem.text);
    if let Ok(output) = readable {
        let packets = String::from_utf8_lossy(&output.stdout).lines().count();
        let said = format!("the first {packets} packets, {} are missing", 30_000 - packets);
        assert!(packets > 1000 && problem.text.contains(&said), "{packets} packets in the file; {}", problem.text);
    }
}

#[test]
fn eighty_points_capture_at_once() {
    if !root() || !program("ip") {
        return;
    }
    let namespace = links(40);
    let ends = (1..=40).flat_map(|n| [(n, Vantage::Guest, 'a'), (n, Vantage::Host, 'b')]);
    let points: Vec<_> = ends.map(|(n, vantage, end)| point(&namespace, vantage, n, &format!("{end}{n}"))).collect();
    let captures = Captures::start(&points, &spec(), None).unwrap();
    for link in 1..=40 {
        send(&namespace, link, 9, 100 + u64::try_from(link).unwrap(), 10);
    }
    let stopped = captures.stop();
    clean(&stopped);
    for (capture, point) in stopped.captures.iter().zip(&points) {
        assert_eq!((capture.node, capture.vantage), (point.node, point.vantage));
        assert_eq!(capture.packets, 100 + u64::from(capture.node.pair), "{capture:?}");
        assert!(capture.ring_bytes * 80 <= 512 << 20, "{} bytes of ring", capture.ring_bytes);
    }
}

struct Counting(Arc<AtomicU64>);

impl PacketSink for Counting {
    fn packet(&mut self, at_ns: i64, wire_len: u32, data: &[u8]) {
        assert!(at_ns > 1_700_000_000_000_000_000 && wire_len == 542 && data.len() == 96);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Dying;

impl PacketSink for Dying {
    fn packet(&mut self, _: i64, _: u32, _: &[u8]) {
        panic!("out of order");
    }
}

#[test]
fn sinks_get_every_packet_cut_to_the_snap_length() {
    if !root() || !program("ip") {
        return;
    }
    let namespace = links(1);
    let seen = Arc::new(AtomicU64::new(0));
    let sink = |_: &CapturePoint, link| {
        assert_eq!(link, vptest::instrument::capture::LinkType(1));
        Counting(Arc::clone(&seen))
    };
    let captures = Captures::start_with(&both_ends(&namespace)[..1], &spec(), None, sink).unwrap();
    send(&namespace, 1, 9, 4000, 500);
    let stopped = captures.stop();
    clean(&stopped);
    assert_eq!((stopped.sinks.len(), seen.load(Ordering::Relaxed)), (1, 4000));
}

#[test]
fn a_capture_that_dies_is_reported() {
    if !root() || !program("ip") {
        return;
    }
    let namespace = links(1);
    let captures = Captures::start_with(&both_ends(&namespace)[..1], &spec(), None, |_, _| Dying).unwrap();
    send(&namespace, 1, 9, 1, 500);
    let stopped = captures.stop();
    assert!(stopped.captures.is_empty());
    let [problem] = stopped.problems.as_slice() else { panic!("{:?}", stopped.problems) };
    assert_eq!(
        (problem.weight, problem.text.as_str()),
        (Weight::Invalid, "capture of client1 (guest, a1) died: out of order")
    );
}

#[test]
fn synthetic_points_need_no_interface() {
    let source = CaptureSource::Synthetic { packets: 7, bytes: 700, dropped: 2 };
    let point =
        CapturePoint { node: NodeId::client(1), vantage: Vantage::Guest, interface: "fake0".to_owned(), source };
    let stopped = Captures::start(&[point], &spec(), None).unwrap().stop();
    assert!(stopped.problems.is_empty());
    let capture = &stopped.captures[0];
    assert_eq!((capture.packets, capture.bytes, capture.dropped_kernel), (7, 700, Some(2)));
}
