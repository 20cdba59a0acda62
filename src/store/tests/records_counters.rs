//! Counters for records.

use crate::ids::NodeId;
use crate::record::{CounterPlace, CounterSeries, CounterSource};

/// Two places, with everything that a row can hold.
pub(super) fn counters() -> Vec<CounterPlace> {
    let source = |name: &str, why: Option<&str>, others: &[(&str, Option<u64>)]| CounterSource {
        name: name.to_owned(),
        counters: 9,
        why: why.map(str::to_owned),
        others: others.iter().map(|(name, grown)| ((*name).to_owned(), *grown)).collect(),
    };
    let series = |name: &str, gauge: bool, values: &[Option<u64>]| CounterSeries {
        name: name.to_owned(),
        unit: "s".to_owned(),
        scale: 0.01,
        gauge,
        values: values.to_vec(),
    };
    let host = CounterPlace {
        node: None,
        interval_ms: Some(1000),
        times_us: vec![0, 1_000_003, 1_700_000],
        first_ns: 1_700_000_000_000_000_000,
        missed: 1,
        latest_us: 31,
        cpu_ns: Some(812_000),
        sources: vec![
            source("interrupts", None, &[("irq.24.virtio0-input.0", Some(17)), ("irq.LOC", None)]),
            source("kvm", Some("cannot read /sys/kernel/debug/kvm"), &[]),
        ],
        series: vec![series("cpu.user", false, &[Some(3), None]), series("tcpinfo.rtt", true, &[None, Some(7), None])],
    };
    let node = CounterPlace {
        node: Some(NodeId::server(1)),
        interval_ms: None,
        times_us: vec![0, 5],
        cpu_ns: None,
        series: Vec::new(),
        ..host.clone()
    };
    vec![host, node]
}
