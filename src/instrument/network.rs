//! Metrics of the `network` level, out of what the captures say.

use std::collections::BTreeMap;

use crate::ids::{Better, Direction, Level, NodeId, Role, Vantage};
use crate::record::{Capture, Metric, PathDirection, PathMatch, Tcp};

/// The metrics of every capture with TCP statistics; `docs/metrics.md` defines them.
///
/// A node's own view (`guest`, `endpoint`) has plain names, other vantages have theirs before it: `host.rtt_avg`. What has
/// a direction is about what the node sends: a2b of a client, b2a of a server.
pub fn metrics(captures: &[Capture]) -> Vec<Metric> {
    let mut seen: BTreeMap<(NodeId, &str), u32> = BTreeMap::new();
    let mut metrics = Vec::new();
    for capture in captures {
        let side = side(capture.vantage);
        let number = seen.entry((capture.node, side)).or_default();
        *number += 1;
        let Some(tcp) = &capture.tcp else { continue };
        // A second interface of the same node at the same vantage needs a name of its own.
        let prefix = if *number == 1 { side.to_owned() } else { format!("{side}{number}.") };
        let mut list = List { node: capture.node, prefix, metrics: &mut metrics };
        list.of_point(capture, tcp);
        match capture.node.role {
            Role::Client => list.of_direction(tcp, Direction::AToB),
            Role::Server => list.of_direction(tcp, Direction::BToA),
            Role::Router(_) => {}
        }
    }
    metrics
}

/// The metrics of every path between capture points; `docs/metrics.md` defines them.
///
/// From client to server and back they belong to the node that sends, with the names of its vantage before them: `path_lost`.
/// From a node's own interface to the host's end of its link they are `guest_host.path_lost`, and back `host_guest.path_lost`.
pub fn path_metrics(captures: &[Capture], paths: &[PathMatch]) -> Vec<Metric> {
    let mut metrics = Vec::new();
    for path in paths {
        let (Some(near), Some(far)) = (captures.get(path.near), captures.get(path.far)) else { continue };
        let one_node = near.node == far.node;
        for (from, to, direction) in [(near, far, &path.directions[0]), (far, near, &path.directions[1])] {
            let prefix =
                if one_node { format!("{}_{}.", from.vantage, to.vantage) } else { side(from.vantage).to_owned() };
            List { node: from.node, prefix, metrics: &mut metrics }.of_path(direction);
        }
    }
    metrics
}

const fn side(vantage: Vantage) -> &'static str {
    match vantage {
        Vantage::Guest | Vantage::Endpoint => "",
        Vantage::Host => "host.",
        Vantage::Switch => "switch.",
    }
}

struct List<'a> {
    node: NodeId,
    prefix: String,
    metrics: &'a mut Vec<Metric>,
}

const LOWER: Option<Better> = Some(Better::Lower);
const HIGHER: Option<Better> = Some(Better::Higher);

impl List<'_> {
    fn add(&mut self, name: &str, unit: &str, value: Option<f64>, better: Option<Better>) {
        self.metrics.push(Metric {
            pair: Some(self.node.pair),
            node: Some(self.node),
            level: Level::Network,
            name: format!("{}{name}", self.prefix),
            unit: unit.to_owned(),
            value,
            better,
        });
    }

    fn of_point(&mut self, capture: &Capture, tcp: &Tcp) {
        self.add("packets", "1", Some(real(capture.packets)), None);
        self.add("bytes", "B", Some(real(capture.bytes)), None);
        self.add("connections", "1", Some(real(tcp.connections)), None);
        self.add("connections_incomplete", "1", Some(real(tcp.connections - tcp.complete)), LOWER);
        self.add("connections_reset", "1", Some(real(tcp.reset)), LOWER);
        let lasted = ratio(real(tcp.duration_ns) / 1e9, real(tcp.connections));
        self.add("connection_duration", "s", lasted, None);
        self.add("stalls", "1", Some(real(tcp.stalls)), LOWER);
        self.add("stall_time", "s", Some(real(tcp.stalled_ns) / 1e9), LOWER);
    }

    fn of_path(&mut self, path: &PathDirection) {
        let counts = path.counts.as_ref();
        let lost = counts.map(|counts| real(counts.lost));
        let cut = counts.map(|counts| real(counts.sent_resegmented));
        let delay = path.delay.as_ref();
        self.add("path_sent", "1", Some(real(path.sent)), None);
        self.add("path_lost", "1", lost, LOWER);
        self.add("path_loss", "1", lost.and_then(|lost| ratio(lost, real(path.sent))), LOWER);
        self.add("path_reordered", "1", counts.map(|counts| real(counts.reordered)), LOWER);
        self.add("path_resegmented", "1", cut, None);
        self.add("path_delay_mean", "s", delay.map(|delay| delay.mean), LOWER);
        self.add("path_delay_min", "s", delay.map(|delay| delay.min), LOWER);
        self.add("path_delay_p50", "s", delay.map(|delay| delay.p50), LOWER);
        self.add("path_delay_p95", "s", delay.map(|delay| delay.p95), LOWER);
        self.add("path_delay_p99", "s", delay.map(|delay| delay.p99), LOWER);
        self.add("path_delay_max", "s", delay.map(|delay| delay.max), LOWER);
    }

    fn of_direction(&mut self, tcp: &Tcp, direction: Direction) {
        let found = |name: &str| tcp.statistics.iter().find(|s| s.direction == direction && s.name == name);
        // Without connections the sum of a counter is 0; with connections, one that nobody counted is not known.
        let total = |name: &str| found(name)?.sum.or((tcp.connections == 0).then_some(0.0));
        let mean = |name: &str, factor: f64| Some(found(name)?.mean? * factor);
        let most = |name: &str, factor: f64| Some(found(name)?.max? * factor);
        let share = |of: &str, by: &str| ratio(total(of)?, total(by)?);

        self.add("sent_packets", "1", total("total_packets"), None);
        self.add("sent_bytes", "B", total("unique_bytes_sent"), None);
        self.add("rexmt_packets", "1", total("rexmt_data_pkts"), LOWER);
        self.add("rexmt_share", "1", share("rexmt_data_pkts", "actual_data_pkts"), LOWER);
        self.add("out_of_order", "1", total("outoforder_pkts"), LOWER);
        self.add("duplicate_acks", "1", total("duplicate_acks"), LOWER);
        self.add("zero_windows", "1", total("zero_win_adv"), LOWER);
        self.add("segment_size", "B", share("actual_data_bytes", "actual_data_pkts"), None);
        self.add("payload_per_packet", "B", share("actual_data_bytes", "total_packets"), None);
        self.add("rtt_avg", "s", mean("RTT_avg", 1e-3), LOWER);
        self.add("rtt_min", "s", mean("RTT_min", 1e-3), LOWER);
        self.add("rtt_max", "s", mean("RTT_max", 1e-3), LOWER);
        self.add("rtt_stdev", "s", mean("RTT_stdev", 1e-3), LOWER);
        self.add("handshake_rtt", "s", mean("RTT_from_3WHS", 1e-3), LOWER);
        self.add("outstanding_max", "B", mean("max_owin", 1.0), None);
        self.add("connection_throughput", "bit/s", mean("throughput", 8.0), HIGHER);
        self.add("idle_max", "s", most("idletime_max", 1e-3), LOWER);

        let way = &tcp.directions[usize::from(direction == Direction::BToA)];
        self.add("super_segments", "1", way.super_segments.map(real), None);
        let on_wire = way.super_on_wire.zip(way.super_segments);
        // What the packets would be if super-segments were cut to the MTU.
        let share = on_wire.and_then(|(wire, supers)| {
            let cut = wire + way.data_packets.checked_sub(supers)?;
            ratio(real(wire), real(cut))
        });
        self.add("super_segment_share", "1", share, None);
    }
}

/// `None` when there is nothing to divide by.
fn ratio(of: f64, by: f64) -> Option<f64> {
    (by > 0.0).then(|| of / by)
}

#[expect(clippy::cast_precision_loss, reason = "counters are far below 2^53")]
const fn real(n: u64) -> f64 {
    n as f64
}

/// Statistics that [`metrics`] needs under their own names.
#[cfg(test)]
const NEEDED: [&str; 14] = [
    "total_packets",
    "unique_bytes_sent",
    "rexmt_data_pkts",
    "actual_data_pkts",
    "actual_data_bytes",
    "outoforder_pkts",
    "duplicate_acks",
    "zero_win_adv",
    "RTT_avg",
    "RTT_min",
    "RTT_from_3WHS",
    "max_owin",
    "throughput",
    "idletime_max",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::STATISTICS;
    use crate::record::{ConnectionStatistic, TcpDirection};

    fn statistic(direction: Direction, name: &str, sum: f64, mean: f64) -> ConnectionStatistic {
        let mean = Some(mean);
        ConnectionStatistic {
            direction,
            name: name.to_owned(),
            unit: "ms".to_owned(),
            count: 2,
            sum: Some(sum),
            mean,
            sd: None,
            min: mean,
            p5: mean,
            p25: mean,
            median: mean,
            p75: mean,
            p95: mean,
            p99: mean,
            max: mean,
            sketch: None,
        }
    }

    fn capture(node: NodeId, vantage: Vantage) -> Capture {
        let (a, b) = (Direction::AToB, Direction::BToA);
        let statistics = vec![
            statistic(a, "RTT_avg", 8.0, 4.0),
            statistic(b, "RTT_avg", 2.0, 1.0),
            statistic(b, "rexmt_data_pkts", 1.0, 0.5),
            statistic(b, "actual_data_pkts", 4.0, 2.0),
            statistic(b, "total_packets", 10.0, 5.0),
            statistic(b, "actual_data_bytes", 4000.0, 2000.0),
            statistic(b, "throughput", 2000.0, 1000.0),
        ];
        let tcp = Tcp {
            connections: 2,
            complete: 1,
            reset: 0,
            ended_early: 0,
            duration_ns: 1_000_000_000,
            packets: 20,
            first_ns: Some(1),
            mtu: Some(1500),
            directions: [
                TcpDirection::default(),
                TcpDirection {
                    data_packets: 4,
                    super_segments: Some(1),
                    super_on_wire: Some(3),
                    ..TcpDirection::default()
                },
            ],
            statistics,
            bin_ms: 100,
            series: Vec::new(),
            stalls: 0,
            stalled_ns: 0,
            longest_stall_ns: None,
            first_stalls: Vec::new(),
            rows: Vec::new(),
        };
        Capture {
            node,
            vantage,
            interface: "eth0".to_owned(),
            snaplen: 128,
            packets: 22,
            bytes: 5000,
            dropped_kernel: Some(0),
            dropped_interface: Some(0),
            ring_bytes: 1,
            sizes: Vec::new(),
            file: None,
            tcp: Some(tcp),
        }
    }

    fn value(metrics: &[Metric], node: NodeId, name: &str) -> Option<f64> {
        metrics.iter().find(|m| m.node == Some(node) && m.name == name).unwrap_or_else(|| panic!("no {name}")).value
    }

    #[test]
    fn a_node_is_described_by_what_it_sends() {
        let (client, server) = (NodeId::client(1), NodeId::server(1));
        let all = metrics(&[
            capture(client, Vantage::Guest),
            capture(client, Vantage::Host),
            capture(server, Vantage::Endpoint),
        ]);
        assert_eq!(value(&all, client, "rtt_avg"), Some(0.004));
        assert_eq!(value(&all, client, "host.rtt_avg"), Some(0.004));
        assert_eq!(value(&all, server, "rtt_avg"), Some(0.001));
        assert_eq!(value(&all, server, "rexmt_share"), Some(0.25));
        assert_eq!(value(&all, server, "segment_size"), Some(1000.0));
        assert_eq!(value(&all, server, "payload_per_packet"), Some(400.0));
        assert_eq!(value(&all, server, "connection_throughput"), Some(8000.0));
        assert_eq!(value(&all, server, "super_segment_share"), Some(0.5));
        assert_eq!(value(&all, client, "connection_duration"), Some(0.5));
        assert_eq!(value(&all, client, "connections_incomplete"), Some(1.0));
        assert_eq!(value(&all, client, "super_segments"), None, "not known is not 0");
    }

    #[test]
    fn names_stay_apart_and_statistics_exist() {
        let router = capture(NodeId::router(1, 0), Vantage::Host);
        let all = metrics(&[router.clone(), router.clone(), Capture { tcp: None, ..router }]);
        let mut names: Vec<_> = all.iter().map(|m| m.name.as_str()).collect();
        assert!(names.contains(&"host.packets") && names.contains(&"host.2.packets"));
        assert!(!names.iter().any(|name| name.contains("rtt")));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for name in NEEDED {
            assert!(STATISTICS.iter().any(|statistic| statistic.name == name), "{name}");
        }
    }
}
