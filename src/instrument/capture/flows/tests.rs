use super::*;
use crate::ids::{Direction, NodeId, Vantage};
use crate::instrument::capture::Stopped;
use crate::record::ConnectionStatistic;
use crate::record::{Capture, Problem, Tcp, Weight};
use crate::testbed::CaptureSource;

const OPTIONS: FlowOptions = FlowOptions {
    statistics: true,
    connections: true,
    mtu: Some(1500),
    points: 1,
    available: None,
    hold: None,
    fault_after: None,
};

fn point(node: NodeId, vantage: Vantage) -> CapturePoint {
    CapturePoint { node, vantage, interface: "eth0".to_owned(), source: CaptureSource::Live { namespace: None } }
}

fn flows(options: FlowOptions) -> Flows {
    let point = point(NodeId::client(1), Vantage::Guest);
    FlowSinks::new(std::slice::from_ref(&point), &[options]).next(&point, LinkType(1))
}

fn capture(vantage: Vantage, packets: u64) -> Capture {
    Capture {
        node: NodeId::client(1),
        vantage,
        interface: "eth0".to_owned(),
        snaplen: 128,
        packets,
        bytes: 0,
        dropped_kernel: Some(0),
        dropped_interface: Some(0),
        ring_bytes: 0,
        sizes: Vec::new(),
        file: None,
        tcp: None,
    }
}

/// What comes of it when so many packets were counted.
fn analysed(flows: Flows, packets: u64) -> Analysed {
    let captures = vec![capture(Vantage::Guest, packets)];
    Stopped { captures, problems: Vec::new(), whole: vec![true], sinks: vec![flows], nodes: Vec::new() }.analyse()
}

fn tcp_of(flows: Flows, packets: u64) -> (Option<Tcp>, Vec<Problem>) {
    let Analysed { mut captures, problems, .. } = analysed(flows, packets);
    (captures.remove(0).tcp, problems)
}

/// An Ethernet frame with an IPv4 and a TCP header; the payload is on the wire only.
fn frame(client_sends: bool, port: u16, flags: u8, seq: u32, ack: u32, payload: u16) -> (u32, Vec<u8>) {
    let mut bytes = vec![0; 54];
    bytes[12] = 8;
    bytes[14] = 0x45;
    bytes[16..18].copy_from_slice(&(40 + payload).to_be_bytes());
    bytes[22] = 64;
    bytes[23] = 6;
    let (source, destination) = if client_sends { (1, 2) } else { (2, 1) };
    bytes[26..30].copy_from_slice(&[10, 0, 0, source]);
    bytes[30..34].copy_from_slice(&[10, 0, 0, destination]);
    let (from, to) = if client_sends { (port, 80) } else { (80, port) };
    bytes[34..36].copy_from_slice(&from.to_be_bytes());
    bytes[36..38].copy_from_slice(&to.to_be_bytes());
    bytes[38..42].copy_from_slice(&seq.to_be_bytes());
    bytes[42..46].copy_from_slice(&ack.to_be_bytes());
    bytes[46] = 0x50;
    bytes[47] = flags;
    bytes[48..50].copy_from_slice(&1000_u16.to_be_bytes());
    (54 + u32::from(payload), bytes)
}

const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;

/// A whole connection that begins at `at_ms`: the request of 100 bytes is acknowledged after 2 ms, the answer has 3000.
fn connection(flows: &mut Flows, port: u16, at_ms: i64) -> u64 {
    let script = [
        (0, true, SYN, 0, 0, 0),
        (1, false, SYN | ACK, 500, 1, 0),
        (1, true, ACK, 1, 501, 0),
        (2, true, ACK, 1, 501, 100),
        (4, false, ACK, 501, 101, 3000),
        (5, true, ACK, 101, 3501, 0),
        (6, true, ACK | FIN, 101, 3501, 0),
        (7, false, ACK | FIN, 3501, 102, 0),
        (8, true, ACK, 102, 3502, 0),
    ];
    for (ms, client, flags, seq, ack, payload) in script {
        let (wire, data) = frame(client, port, flags, seq, ack, payload);
        flows.packet((1_700_000_000_000 + at_ms + ms) * 1_000_000, wire, &data);
    }
    9
}

fn statistic<'a>(tcp: &'a Tcp, direction: Direction, name: &str) -> &'a ConnectionStatistic {
    tcp.statistics.iter().find(|s| s.direction == direction && s.name == name).unwrap()
}

#[test]
fn connections_are_counted_summed_up_and_kept() {
    let mut flows = flows(OPTIONS);
    let packets = connection(&mut flows, 1000, 0) + connection(&mut flows, 1001, 250);
    flows.packet(1_700_000_000_000_000_000, 60, &[0; 60]);
    flows.end();
    let (tcp, problems) = tcp_of(flows, packets + 1);
    assert!(problems.is_empty(), "{problems:?}");
    let tcp = tcp.unwrap();
    assert_eq!((tcp.connections, tcp.complete, tcp.reset, tcp.packets), (2, 2, 0, 18));
    assert_eq!(tcp.duration_ns, 16_000_000);
    assert_eq!(tcp.directions[1].super_segments, Some(2));
    assert_eq!(tcp.directions[1].super_on_wire, Some(6));
    let rtt = statistic(&tcp, Direction::AToB, "RTT_avg");
    assert_eq!((rtt.count, rtt.min, rtt.max, rtt.sketch.as_deref()), (2, rtt.mean, rtt.median, None));
    assert_eq!(statistic(&tcp, Direction::BToA, "unique_bytes_sent").sum, Some(6000.0));
    let none = statistic(&tcp, Direction::AToB, "avg_retr_time");
    assert_eq!((none.count, none.sum, none.mean, none.max), (0, None, None, None));
    assert_eq!(tcp.rows.iter().map(|row| (row.number, row.a.1)).collect::<Vec<_>>(), [(1, 1000), (2, 1001)]);
    let at: Vec<_> = tcp.series.iter().map(|bin| (bin.direction, bin.at_ms, bin.bytes)).collect();
    let (a, b) = (Direction::AToB, Direction::BToA);
    assert_eq!(at, [(a, 0, 100), (a, 200, 100), (b, 0, 3000), (b, 200, 3000)]);
}

#[test]
fn what_was_not_seen_is_not_made_up() {
    let (tcp, problems) = tcp_of(flows(OPTIONS), 7);
    assert!(tcp.is_none() && problems.is_empty(), "no packet was handed over: a synthetic capture");
    let mut off = flows(FlowOptions { statistics: false, ..OPTIONS });
    connection(&mut off, 1000, 0);
    off.end();
    assert!(tcp_of(off, 9).0.is_none());
    let mut blind = flows(FlowOptions { mtu: None, connections: false, ..OPTIONS });
    connection(&mut blind, 1000, 0);
    blind.end();
    let tcp = tcp_of(blind, 9).0.unwrap();
    assert_eq!((tcp.directions[1].super_segments, tcp.rows.len()), (None, 0));
}

#[test]
fn a_fault_costs_the_statistics_and_nothing_else() {
    let points = [point(NodeId::client(1), Vantage::Guest), point(NodeId::client(1), Vantage::Host)];
    let options = [FlowOptions { fault_after: Some(4), ..OPTIONS }, OPTIONS];
    let mut sinks = FlowSinks::new(&points, &options);
    let mut both: Vec<Flows> = points.iter().map(|point| sinks.next(point, LinkType(1))).collect();
    for flows in &mut both {
        connection(flows, 1000, 0);
        flows.idle();
        connection(flows, 1001, 0);
        flows.end();
    }
    let captures = vec![capture(Vantage::Guest, 18), capture(Vantage::Host, 18)];
    let found =
        Stopped { captures, problems: Vec::new(), whole: vec![true; 2], sinks: both, nodes: Vec::new() }.analyse();
    assert!(found.captures[0].tcp.is_none());
    assert_eq!(found.captures[1].tcp.as_ref().unwrap().connections, 2, "the other point is not concerned");
    let [problem] = found.problems.as_slice() else { panic!("{:?}", found.problems) };
    assert_eq!(problem.weight, Weight::Suspect);
    assert!(problem.text.contains("client1 (guest, eth0)") && problem.text.contains("a fault was asked for"));
    assert!(found.paths.is_empty() && found.warnings[0].contains("the matching failed"), "{:?}", found.warnings);
}

#[test]
fn two_points_of_a_path_are_compared() {
    let points = [point(NodeId::client(1), Vantage::Guest), point(NodeId::client(1), Vantage::Host)];
    let mut sinks = FlowSinks::new(&points, &[OPTIONS; 2]);
    let mut both: Vec<Flows> = points.iter().map(|point| sinks.next(point, LinkType(1))).collect();
    for round in 0..10_000_u16 {
        connection(&mut both[0], 1000 + round, i64::from(round) * 10);
        connection(&mut both[1], 1000 + round, i64::from(round) * 10 + 1);
    }
    // A packet that never comes, one that only passes the second point, and one that both see.
    let at = |ms: i64| (1_700_000_000_000 + 100_100 + ms) * 1_000_000;
    let mut send = |flows: usize, ms, seq, payload| {
        let (wire, data) = frame(true, 2, ACK, seq, 1, payload);
        both[flows].packet(at(ms), wire, &data);
    };
    send(0, 0, 1, 10);
    send(1, 1, 11, 10);
    send(0, 2, 21, 10);
    send(1, 3, 21, 10);
    both.iter_mut().for_each(PacketSink::end);
    let captures = || vec![capture(Vantage::Guest, 90_002), capture(Vantage::Host, 90_002)];
    let stopped =
        Stopped { captures: captures(), problems: Vec::new(), whole: vec![true; 2], sinks: both, nodes: Vec::new() };
    let found = stopped.analyse();
    assert!(found.problems.is_empty() && found.warnings.is_empty(), "{:?} {:?}", found.problems, found.warnings);
    let effort = found.effort.unwrap();
    assert_eq!((effort.packets.iter().sum::<u64>(), effort.was_full), (180_004, false));
    let [path] = found.paths.as_slice() else { panic!("{:?}", found.paths) };
    assert_eq!((path.near, path.far, path.shared_clock), (0, 1, true));
    let [a2b, b2a] = &path.directions;
    let counts = a2b.counts.unwrap();
    assert_eq!((a2b.sent, a2b.received, counts.both, counts.lost, counts.appeared), (60_002, 60_002, 60_001, 1, 1));
    let delay = a2b.delay.as_ref().unwrap();
    assert_eq!((delay.count, delay.min, delay.max), (60_001, 0.001, 0.001));
    // The clock of the first point runs ahead for the other direction: nothing is made up.
    assert_eq!((b2a.sent, b2a.counts.unwrap().both, b2a.delay.as_ref().unwrap().max), (30_000, 30_000, -0.001));
}

#[test]
fn a_full_spool_is_emptied_by_those_who_fill_it() {
    let points = [point(NodeId::client(1), Vantage::Guest), point(NodeId::server(1), Vantage::Guest)];
    let mut sinks = FlowSinks::new(&points, &[FlowOptions { available: Some(0), ..OPTIONS }; 2]);
    let mut both: Vec<Flows> = points.iter().map(|point| sinks.next(point, LinkType(1))).collect();
    // One point says nothing until the end, and is waited for only as long as there is room.
    let mut packets = 0;
    for round in 0..10_000_u16 {
        packets += connection(&mut both[0], round, i64::from(round));
    }
    both.iter_mut().for_each(PacketSink::end);
    let captures = vec![capture(Vantage::Guest, packets), capture(Vantage::Host, 0)];
    let found =
        Stopped { captures, problems: Vec::new(), whole: vec![true; 2], sinks: both, nodes: Vec::new() }.analyse();
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    let effort = found.effort.unwrap();
    assert_eq!(effort.packets.iter().sum::<u64>(), packets);
    assert!(effort.peak <= effort.limit + 2 * spool::CHUNK_BYTES as u64, "{effort:?}");
    assert_eq!(found.captures[0].tcp.as_ref().unwrap().connections, 10_000);
}

#[test]
fn packets_that_were_not_analysed_are_noticed() {
    let mut flows = flows(OPTIONS);
    connection(&mut flows, 1000, 0);
    flows.end();
    let (tcp, problems) = tcp_of(flows, 10);
    assert!(tcp.is_none() && problems[0].text.contains("9 packets were analysed, 10 captured"), "{problems:?}");
}

#[test]
fn a_limit_is_a_problem() {
    let mut flows = flows(FlowOptions { points: usize::MAX, ..OPTIONS });
    let mut packets = 0;
    for port in 0..11_000 {
        packets += connection(&mut flows, 1000 + port, i64::from(port));
    }
    flows.end();
    let (tcp, problems) = tcp_of(flows, packets);
    let tcp = tcp.unwrap();
    assert!(tcp.ended_early > 0 && problems[0].text.contains("ended early"), "{problems:?}");
    assert_eq!((tcp.connections, tcp.rows.len()), (11_000, 0));
}

#[test]
fn rows_that_found_no_room_are_a_problem() {
    let mut flows = flows(FlowOptions { points: ROWS, ..OPTIONS });
    let packets = (0..3).map(|n| connection(&mut flows, 1000 + n, i64::from(n) * 20)).sum();
    flows.end();
    let (tcp, problems) = tcp_of(flows, packets);
    assert_eq!(tcp.unwrap().rows.len(), 1);
    assert!(problems[0].text.contains("2 connections have no row"), "{problems:?}");
    assert_eq!(problems[0].weight, Weight::Suspect);
}

#[test]
fn a_hang_that_lasts_to_the_end_is_a_stall() {
    let mut flows = flows(OPTIONS);
    let mut send = |ms: i64, port, client, flags, seq, ack, payload| {
        let (wire, data) = frame(client, port, flags, seq, ack, payload);
        flows.packet((1_700_000_000_000 + ms) * 1_000_000, wire, &data);
    };
    send(0, 1000, true, SYN, 0, 0, 0);
    send(1, 1000, false, SYN | ACK, 500, 1, 0);
    send(2, 1000, true, ACK, 1, 501, 100);
    // Another goes on, idle but with nothing outstanding; its last packet is the capture's.
    send(3, 1001, true, SYN, 0, 0, 0);
    send(4, 1001, false, SYN | ACK, 500, 1, 0);
    send(5000, 1001, true, ACK, 1, 501, 0);
    flows.end();
    let tcp = tcp_of(flows, 6).0.unwrap();
    let ends: Vec<_> = tcp.first_stalls.iter().map(|s| (s.connection, s.duration_ns, s.ended_by)).collect();
    assert_eq!(ends, [(2, 4_996_000_000, Some(Direction::AToB)), (1, 4_998_000_000, None)]);
    assert_eq!((tcp.stalls, tcp.longest_stall_ns), (2, Some(4_998_000_000)));
}

#[test]
fn engines_share_the_memory() {
    let with = |points, gib: u64| FlowOptions { points, available: Some(gib << 30), ..OPTIONS }.max_live();
    assert_eq!(with(2, 64), 524_288);
    assert_eq!(with(20, 8), (1 << 30) / 20 / 2048);
    assert_eq!(with(1000, 1), 10_000);
}
