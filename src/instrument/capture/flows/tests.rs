use super::*;
use crate::ids::{Direction, NodeId, Vantage};
use crate::record::ConnectionStatistic;
use crate::testbed::CaptureSource;

const OPTIONS: FlowOptions =
    FlowOptions { statistics: true, connections: true, mtu: Some(1500), points: 1, available: None };

fn flows(options: FlowOptions) -> Flows {
    let point = CapturePoint {
        node: NodeId::client(1),
        vantage: Vantage::Guest,
        interface: "eth0".to_owned(),
        source: CaptureSource::Synthetic { packets: 0, bytes: 0, dropped: 0 },
    };
    Flows::new(&point, LinkType(1), options)
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
    let (tcp, problems) = flows.into_tcp(packets + 1);
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
    let (tcp, problems) = flows(OPTIONS).into_tcp(7);
    assert!(tcp.is_none() && problems.is_empty(), "no packet was handed over: a synthetic capture");
    let mut off = flows(FlowOptions { statistics: false, ..OPTIONS });
    connection(&mut off, 1000, 0);
    off.end();
    assert!(off.into_tcp(9).0.is_none());
    let mut blind = flows(FlowOptions { mtu: None, connections: false, ..OPTIONS });
    connection(&mut blind, 1000, 0);
    blind.end();
    let tcp = blind.into_tcp(9).0.unwrap();
    assert_eq!((tcp.directions[1].super_segments, tcp.rows.len()), (None, 0));
}

#[test]
fn a_fault_costs_the_statistics_and_nothing_else() {
    let mut flows = flows(OPTIONS);
    connection(&mut flows, 1000, 0);
    flows.fail(&"index out of bounds");
    connection(&mut flows, 1001, 0);
    flows.end();
    let (tcp, problems) = flows.into_tcp(18);
    assert!(tcp.is_none());
    assert_eq!(problems[0].weight, Weight::Suspect);
    assert!(problems[0].text.contains("client1 (guest, eth0)") && problems[0].text.contains("out of bounds"));
}

#[test]
fn packets_that_were_not_analysed_are_noticed() {
    let mut flows = flows(OPTIONS);
    connection(&mut flows, 1000, 0);
    flows.end();
    let (tcp, problems) = flows.into_tcp(10);
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
    let (tcp, problems) = flows.into_tcp(packets);
    let tcp = tcp.unwrap();
    assert!(tcp.ended_early > 0 && problems[0].text.contains("ended early"), "{problems:?}");
    assert_eq!((tcp.connections, tcp.rows.len()), (11_000, 0));
}

#[test]
fn rows_that_found_no_room_are_a_problem() {
    let mut flows = flows(FlowOptions { points: ROWS, ..OPTIONS });
    let packets = (0..3).map(|n| connection(&mut flows, 1000 + n, i64::from(n) * 20)).sum();
    flows.end();
    let (tcp, problems) = flows.into_tcp(packets);
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
    let tcp = flows.into_tcp(6).0.unwrap();
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
