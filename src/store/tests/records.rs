//! Records to store.

use std::collections::{BTreeMap, HashSet};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::ids::{Better, IterationNumber, Level, NodeId, ShortHash, Stage, Vantage};
use crate::record::{
    Capture, Environment, Event, EventLevel, Header, IterationRecord, Metric, Moment, Outcome, PathMatch, Quantile,
    Setting, SizeBin, StageTiming,
};
use crate::record::{
    DescriptorKind, LogBins, Syscall, SyscallLoss, SyscallProcess, SyscallScope, SyscallSizes, SyscallSource,
    SyscallTrace, SyscallTransition,
};

/// A record like those of real runs; `n` tells it from others.
pub(crate) fn sample(n: u32) -> IterationRecord {
    let identity = ShortHash::of(format!("identity {n}").as_bytes());
    let metric = |pair: u32, name: &str, value: f64| Metric {
        pair: Some(pair),
        node: Some(NodeId::client(pair)),
        level: Level::Application,
        name: name.to_owned(),
        unit: "1/s".to_owned(),
        value: Some(value),
        better: Some(Better::Higher),
    };
    IterationRecord {
        header: Header {
            identity,
            tuple: ShortHash::of(format!("tuple {}", n % 4).as_bytes()),
            number: IterationNumber(n),
            repetition: n / 4 + 1,
            block: Some(1),
            attempt: 1,
            testbed: "netns".to_owned(),
            host: "lab1".to_owned(),
            started_ns: 1_700_000_000_000_000_000 + i64::from(n),
            finished_ns: None,
            spec_hash: ShortHash::of(b"spec"),
            vptest_version: "0.1.0".to_owned(),
        },
        outcome: Outcome::Complete,
        factors: vec![("driver".to_owned(), "e1000".to_owned()), ("pairs".to_owned(), "2".to_owned())],
        settings: vec![Setting {
            node: None,
            name: "host.mtu".to_owned(),
            requested: Some("1500".to_owned()),
            observed: Some("1500".to_owned()),
            ok: Some(true),
            when: Moment::Before,
        }],
        metrics: vec![metric(1, "rps", 1000.0 + f64::from(n)), metric(2, "rps", 1000.5 + f64::from(n))],
        quantiles: vec![Quantile {
            pair: Some(1),
            node: None,
            name: "latency".to_owned(),
            unit: "s".to_owned(),
            q: 0.99,
            value: Some(0.125),
        }],
        captures: vec![Capture {
            node: NodeId::client(1),
            vantage: Vantage::Guest,
            interface: "eth0".to_owned(),
            snaplen: 96,
            packets: 2000,
            bytes: 3_000_000,
            dropped_kernel: Some(0),
            dropped_interface: None,
            ring_bytes: 1 << 24,
            sizes: vec![
                SizeBin { from: 64, to: Some(128), packets: 1000 },
                SizeBin { from: 1024, to: None, packets: 1000 },
            ],
            file: None,
            tcp: Some(super::records_tcp::sample()),
        }],
        paths: Vec::new(),
        syscalls: traces(),
        probes: super::records_probe::probes(),
        counters: super::records_counters::counters(),
        events: vec![Event {
            at_ns: 1_700_000_000_000_000_000,
            stage: Stage::Launch,
            level: EventLevel::Info,
            text: "up".to_owned(),
        }],
        stages: vec![StageTiming { stage: Stage::Launch, started_ns: 1, duration_ns: Some(2) }],
        environment: vec![Environment { host: "lab1".to_owned(), name: "kernel".to_owned(), value: "6.1".to_owned() }],
    }
}

pub(super) fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z_.]{0,12}", 2 => any::<String>(), 1 => "[a-zä\u{0}'\"]{900,3000}"]
}

fn hash() -> impl Strategy<Value = ShortHash> {
    any::<[u8; 4]>().prop_map(|bytes| ShortHash::of(&bytes))
}

fn node() -> impl Strategy<Value = NodeId> {
    prop_oneof![
        (1..50_u32).prop_map(NodeId::client),
        (1..=u32::MAX).prop_map(NodeId::server),
        (1..50_u32, 0..255_u8).prop_map(|(pair, index)| NodeId::router(pair, index)),
    ]
}

pub(super) fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL | proptest::num::f64::ZERO,
        any::<i32>().prop_map(f64::from),
        Just(f64::MAX),
        Just(9_007_199_254_740_993.0),
        Just(-9_223_372_036_854_775_808.0),
    ]
}

fn stage() -> impl Strategy<Value = Stage> {
    proptest::sample::select(Stage::ALL)
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Complete),
        vec(text(), 1..3).prop_map(Outcome::Suspect),
        vec(text(), 1..3).prop_map(Outcome::Invalid),
        (stage(), text()).prop_map(|(stage, error)| Outcome::Failed { stage, error }),
        stage().prop_map(|stage| Outcome::TimedOut { stage }),
        (stage(), text()).prop_map(|(stage, by)| Outcome::Interrupted { stage, by }),
    ]
}

fn header() -> impl Strategy<Value = Header> {
    let numbers = (1..=u32::MAX, 1..=u32::MAX, option::of(1..=u32::MAX), 1..=u32::MAX);
    let texts = (text(), text(), text());
    (hash(), hash(), hash(), numbers, texts, any::<i64>(), any::<Option<i64>>()).prop_map(
        |(identity, tuple, spec_hash, numbers, texts, started_ns, finished_ns)| Header {
            identity,
            tuple,
            number: IterationNumber(numbers.0),
            repetition: numbers.1,
            block: numbers.2,
            attempt: numbers.3,
            testbed: texts.0,
            host: texts.1,
            started_ns,
            finished_ns,
            spec_hash,
            vptest_version: texts.2,
        },
    )
}

fn metrics() -> impl Strategy<Value = Vec<Metric>> {
    let metric = (
        option::of(1..50_u32),
        option::of(node()),
        proptest::sample::select(Level::ALL),
        text(),
        text(),
        option::of(number()),
        option::of(proptest::sample::select(Better::ALL)),
    )
        .prop_map(|(pair, node, level, name, unit, value, better)| Metric {
            pair,
            node,
            level,
            name,
            unit,
            value,
            better,
        });
    vec(metric, 0..40).prop_map(|mut metrics| {
        let mut seen = HashSet::new();
        metrics.retain(|m| seen.insert((m.pair, m.node, m.level, m.name.clone())));
        metrics
    })
}

fn quantiles() -> impl Strategy<Value = Vec<Quantile>> {
    let point = (option::of(1..50_u32), option::of(node()), text(), text(), 0.0..=1.0, option::of(number()))
        .prop_map(|(pair, node, name, unit, q, value)| Quantile { pair, node, name, unit, q, value });
    vec(point, 0..10).prop_map(|mut points| {
        let mut seen = HashSet::new();
        points.retain(|p| seen.insert((p.pair, p.node, p.name.clone(), p.q.to_bits())));
        points
    })
}

fn setting() -> impl Strategy<Value = Setting> {
    let moments = proptest::sample::select(&[Moment::Before, Moment::After]);
    (option::of(node()), text(), option::of(text()), option::of(text()), any::<Option<bool>>(), moments)
        .prop_map(|(node, name, requested, observed, ok, when)| Setting { node, name, requested, observed, ok, when })
}

fn capture() -> impl Strategy<Value = Capture> {
    let count = || 0..=u64::MAX / 2;
    let sizes = vec((1..100_u32, count()), 0..6).prop_map(|steps| {
        let mut from = 0;
        let bins = steps.into_iter().map(|(step, packets)| {
            from += step;
            SizeBin { from, to: Some(from + 1), packets }
        });
        bins.collect::<Vec<_>>()
    });
    let counters = (count(), count(), option::of(count()), option::of(count()), count());
    let place = (node(), proptest::sample::select(Vantage::ALL), text(), any::<u32>());
    (place, counters, sizes, option::of(text()), option::of(super::records_tcp::tcp())).prop_map(
        |((node, vantage, interface, snaplen), counters, sizes, file, tcp)| Capture {
            node,
            vantage,
            interface,
            snaplen,
            packets: counters.0,
            bytes: counters.1,
            dropped_kernel: counters.2,
            dropped_interface: counters.3,
            ring_bytes: counters.4,
            sizes,
            file,
            tcp,
        },
    )
}

fn captures() -> impl Strategy<Value = (Vec<Capture>, Vec<PathMatch>)> {
    vec(capture(), 0..4).prop_flat_map(|captures| {
        let most = if captures.len() < 2 { 0 } else { 4 };
        let path = super::records_tcp::path(captures.len());
        (Just(captures), vec(path, 0..=most))
    })
}

fn event() -> impl Strategy<Value = Event> {
    let levels = proptest::sample::select(&[EventLevel::Info, EventLevel::Warn, EventLevel::Error]);
    (any::<i64>(), stage(), levels, text()).prop_map(|(at_ns, stage, level, text)| Event { at_ns, stage, level, text })
}

/// Two traces with rows in every table.
pub(super) fn traces() -> Vec<SyscallTrace> {
    let mut bins = LogBins::default();
    bins.add(700);
    let call = |name: &str, by_error: Vec<(u32, u64)>| Syscall {
        name: name.to_owned(),
        calls: 2,
        returned: 1,
        errors: by_error.iter().map(|(_, n)| n).sum(),
        by_error,
        total_ns: 11_200,
        most_ns: 11_200,
        times: bins.clone(),
    };
    let process = |name: &str| SyscallProcess {
        node: Some(NodeId::client(1)),
        name: name.to_owned(),
        threads: 1,
        calls: 4,
        sequence: u64::MAX,
        by_call: vec![call("read", vec![(4, 1)]), call("write", Vec::new())],
        transitions: vec![
            SyscallTransition { from: None, to: "read".to_owned(), count: 1 },
            SyscallTransition { from: Some("read".to_owned()), to: "write".to_owned(), count: 3 },
        ],
        sizes: vec![SyscallSizes {
            call: "read".to_owned(),
            kind: DescriptorKind::Unknown,
            count: 1,
            bytes: 700,
            most: 700,
            zero: 0,
            returned: bins.clone(),
        }],
    };
    let trace = |place, scope, source| SyscallTrace {
        place,
        scope,
        source,
        processes: vec![process("ab"), process("nginx")],
        losses: vec![SyscallLoss { cpu: Some(1), steps: 3, ..SyscallLoss::default() }, SyscallLoss::default()],
        log: None,
    };
    vec![
        trace(None, SyscallScope::Workload, SyscallSource::Bpf),
        trace(Some(NodeId::server(1)), SyscallScope::Node, SyscallSource::Perf),
    ]
}

/// Any record that keeps the rules.
pub(super) fn record() -> impl Strategy<Value = IterationRecord> {
    let factors = proptest::collection::btree_map(text(), text(), 0..8);
    let stages = vec((stage(), any::<i64>(), option::of(0..=i64::MAX)), 0..8);
    let environment = vec((text(), text(), text()), 0..8);
    let lists = (vec(setting(), 0..12), metrics(), quantiles(), captures(), vec(event(), 0..12));
    (header(), outcome(), factors, lists, stages, environment).prop_map(
        |(header, outcome, factors, (settings, metrics, quantiles, (captures, paths), events), stages, environment)| {
            IterationRecord {
                header,
                outcome,
                factors: BTreeMap::into_iter(factors).collect(),
                settings,
                metrics,
                quantiles,
                captures,
                paths,
                syscalls: traces(),
                probes: super::records_probe::probes(),
                counters: super::records_counters::counters(),
                events,
                stages: stages
                    .into_iter()
                    .map(|(stage, started_ns, duration_ns)| StageTiming { stage, started_ns, duration_ns })
                    .collect(),
                environment: environment
                    .into_iter()
                    .map(|(host, name, value)| Environment { host, name, value })
                    .collect(),
            }
        },
    )
}
