//! A probe as metrics of the `network` level. A node's are of what it sends.

use crate::ids::{Better, Level, NodeId};
use crate::record::{Delay, Metric, Probe, ProbePath, ProbeWay};

/// Numbers of all probes.
pub fn metrics(probes: &[Probe]) -> Vec<Metric> {
    let mut metrics = Vec::new();
    for probe in probes {
        let list = &mut List { pair: probe.pair, node: None, metrics: &mut metrics };
        let round = probe.path(ProbeWay::RoundTrip);
        list.delays("probe_rtt", round.delay.as_ref());
        list.counts("probe", round);
        let slots = probe.schedule.as_ref();
        list.add("probe_missed", "1", slots.map(|slots| real(slots.missed)));
        list.add("probe_late", "1", slots.map(|slots| real(slots.late)));
        for (node, way) in
            [(NodeId::client(probe.pair), ProbeWay::ToServer), (NodeId::server(probe.pair), ProbeWay::ToClient)]
        {
            list.node = Some(node);
            list.delays("probe_delay", probe.path(way).delay.as_ref());
            list.counts("probe_way", probe.path(way));
        }
        for (node, end) in [NodeId::client(probe.pair), NodeId::server(probe.pair)].into_iter().zip(&probe.ends) {
            list.node = Some(node);
            list.add("probe_cpu_time", "s", end.as_ref().and_then(|end| end.cpu_ns).map(|ns| real(ns) / 1e9));
        }
    }
    metrics
}

struct List<'a> {
    pair: u32,
    node: Option<NodeId>,
    metrics: &'a mut Vec<Metric>,
}

impl List<'_> {
    fn add(&mut self, name: &str, unit: &str, value: Option<f64>) {
        self.metrics.push(Metric {
            pair: Some(self.pair),
            node: self.node,
            level: Level::Network,
            name: name.to_owned(),
            unit: unit.to_owned(),
            value,
            better: Some(Better::Lower),
        });
    }

    fn delays(&mut self, name: &str, delay: Option<&Delay>) {
        for (what, of) in [
            ("mean", (|delay| delay.mean) as fn(&Delay) -> f64),
            ("min", |delay| delay.min),
            ("p50", |delay| delay.p50),
            ("p95", |delay| delay.p95),
            ("p99", |delay| delay.p99),
            ("max", |delay| delay.max),
        ] {
            self.add(&format!("{name}_{what}"), "s", delay.map(of));
        }
    }

    fn counts(&mut self, name: &str, path: &ProbePath) {
        let share = |of: Option<u64>| Some(real(of?) / real(path.sent.filter(|&sent| sent > 0)?));
        self.metrics.push(Metric {
            pair: Some(self.pair),
            node: self.node,
            level: Level::Network,
            name: format!("{name}_sent"),
            unit: "1".to_owned(),
            value: path.sent.map(real),
            better: None,
        });
        self.add(&format!("{name}_loss"), "1", share(path.lost));
        self.add(&format!("{name}_duplicated"), "1", share(path.duplicated));
        self.add(&format!("{name}_reordered"), "1", share(path.reordered));
        self.add(&format!("{name}_jitter"), "s", path.jitter);
        self.add(&format!("{name}_ipdv"), "s", path.ipdv.as_ref().map(|ipdv| ipdv.mean));
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
const fn real(n: u64) -> f64 {
    n as f64
}
