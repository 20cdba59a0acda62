//! What captures may say about TCP.

use std::net::IpAddr;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::records::{number, text};
use crate::flow::{STATISTICS, Sketch};
use crate::ids::Direction;
use crate::record::{
    Connection, ConnectionStatistic, Delay, PathCounts, PathDirection, PathMatch, SeriesBin, Stall, Tcp, TcpDirection,
};

/// The distribution of these values.
pub(in crate::store) fn statistic(direction: Direction, name: &str, values: &[f64]) -> ConnectionStatistic {
    let mut sketch = Sketch::default();
    values.iter().for_each(|&value| sketch.add(value));
    let q = |q| sketch.quantile(q);
    ConnectionStatistic {
        direction,
        name: name.to_owned(),
        unit: "ms".to_owned(),
        count: sketch.count(),
        sum: (!values.is_empty()).then(|| values.iter().sum()),
        mean: sketch.mean(),
        sd: sketch.deviation(),
        min: sketch.min(),
        p5: q(0.05),
        p25: q(0.25),
        median: q(0.5),
        p75: q(0.75),
        p95: q(0.95),
        p99: q(0.99),
        max: sketch.max(),
        sketch: (sketch.min() != sketch.max()).then(|| sketch.to_bytes()),
    }
}

/// Like that of a real run: two connections, one with an RTT.
pub(super) fn sample() -> Tcp {
    Tcp {
        connections: 2,
        complete: 1,
        reset: 0,
        ended_early: 0,
        duration_ns: 1_500_000,
        packets: 20,
        first_ns: Some(1_700_000_000_000_000_000),
        mtu: Some(1500),
        directions: [
            TcpDirection { packets: 10, ..TcpDirection::default() },
            TcpDirection { packets: 10, longest: Some(1500), super_segments: Some(0), ..TcpDirection::default() },
        ],
        statistics: vec![
            statistic(Direction::AToB, "RTT_avg", &[0.25]),
            statistic(Direction::BToA, "RTT_avg", &[0.25, 0.75, 1.5]),
            statistic(Direction::AToB, "RTT_stdev", &[]),
        ],
        bin_ms: 100,
        series: vec![SeriesBin { direction: Direction::AToB, at_ms: 0, packets: 10, bytes: 1000 }],
        stalls: 0,
        stalled_ns: 0,
        longest_stall_ns: None,
        first_stalls: Vec::new(),
        rows: vec![Connection {
            number: 2,
            a: ("10.0.0.1".parse().unwrap(), 40_000),
            b: ("10.0.0.2".parse().unwrap(), 80),
            first_ns: Some(1_700_000_000_000_000_000),
            last_ns: Some(1_700_000_000_001_000_000),
            complete: true,
            reset: false,
            values: [vec![Some(1.5); STATISTICS.len()], vec![None; STATISTICS.len()]],
        }],
    }
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![0..1000_u64, 0..=u64::MAX / 2]
}

fn direction() -> impl Strategy<Value = Direction> {
    proptest::sample::select(Direction::ALL)
}

fn one_way() -> impl Strategy<Value = TcpDirection> {
    let known = (option::of(any::<u32>()), option::of(count()), option::of(count()), option::of(count()));
    (count(), count(), count(), known, count()).prop_map(|(packets, data_packets, data_bytes, known, unbinned)| {
        TcpDirection {
            packets,
            data_packets,
            data_bytes,
            longest: known.0,
            super_segments: known.1,
            super_bytes: known.2,
            super_on_wire: known.3,
            unbinned,
        }
    })
}

fn statistics() -> impl Strategy<Value = Vec<ConnectionStatistic>> {
    let values = prop_oneof![vec(0.0..1e6, 0..200), vec((0_u32..3).prop_map(f64::from), 0..20)];
    btree_map((text(), direction()), values, 0..6)
        .prop_map(|all| all.iter().map(|((name, direction), values)| statistic(*direction, name, values)).collect())
}

fn series() -> impl Strategy<Value = Vec<SeriesBin>> {
    btree_map((direction(), any::<i64>()), (count(), count()), 0..20).prop_map(|bins| {
        let bin = |((direction, at_ms), (packets, bytes))| SeriesBin { direction, at_ms, packets, bytes };
        bins.into_iter().map(bin).collect()
    })
}

fn stalls() -> impl Strategy<Value = Vec<Stall>> {
    let connection = count().prop_map(|number| number.max(1));
    let stall = (connection, option::of(any::<i64>()), count(), option::of(direction()));
    vec(stall, 0..4).prop_map(|all| {
        let stall = |(connection, from_ns, duration_ns, ended_by)| Stall { connection, from_ns, duration_ns, ended_by };
        all.into_iter().map(stall).collect()
    })
}

fn rows() -> impl Strategy<Value = Vec<Connection>> {
    let values = || vec(option::of(number()), STATISTICS.len());
    let ends = (any::<IpAddr>(), any::<u16>(), any::<IpAddr>(), any::<u16>());
    let times = (option::of(any::<i64>()), option::of(any::<i64>()));
    btree_map(1..=u64::MAX / 2, (ends, times, any::<[bool; 2]>(), values(), values()), 0..4).prop_map(|all| {
        let mut rows = Vec::new();
        for (number, (ends, (first_ns, last_ns), [complete, reset], a2b, b2a)) in all {
            let (a, b) = ((ends.0, ends.1), (ends.2, ends.3));
            rows.push(Connection { number, a, b, first_ns, last_ns, complete, reset, values: [a2b, b2a] });
        }
        rows
    })
}

/// Anything that keeps the rules.
pub(super) fn tcp() -> impl Strategy<Value = Tcp> {
    let counts = (count(), count(), count(), count(), count(), count());
    let maybe = (option::of(any::<i64>()), option::of(1..=u32::MAX), 1..=u32::MAX, option::of(count()));
    let lists = (statistics(), series(), stalls(), rows());
    (counts, maybe, count(), [one_way(), one_way()], lists).prop_map(
        |(counts, (first_ns, mtu, bin_ms, longest_stall_ns), stalls, directions, lists)| Tcp {
            connections: counts.0,
            complete: counts.0 / 2,
            reset: counts.0 / 3,
            ended_early: counts.1,
            duration_ns: counts.2,
            packets: counts.3,
            first_ns,
            mtu,
            directions,
            statistics: lists.0,
            bin_ms,
            series: lists.1,
            stalls,
            stalled_ns: counts.4,
            longest_stall_ns,
            first_stalls: lists.2,
            rows: lists.3,
        },
    )
}

pub(super) fn delay(values: &[f64]) -> Option<Delay> {
    let mut sketch = Sketch::default();
    values.iter().for_each(|&value| sketch.add(value));
    Some(Delay {
        count: sketch.count(),
        mean: sketch.mean()?,
        sd: sketch.deviation(),
        min: sketch.min()?,
        p50: sketch.quantile(0.5)?,
        p95: sketch.quantile(0.95)?,
        p99: sketch.quantile(0.99)?,
        max: sketch.max()?,
        sketch: sketch.to_bytes(),
    })
}

fn path_direction() -> impl Strategy<Value = PathDirection> {
    let counts = [count(), count(), count(), count(), count(), count(), count()].prop_map(
        |[both, lost, appeared, sent_resegmented, received_resegmented, reordered, edge]| PathCounts {
            both,
            lost,
            appeared,
            sent_resegmented,
            received_resegmented,
            reordered,
            edge,
        },
    );
    let delays = vec(-1e-3..10.0, 0..200);
    ([count(), count(), count(), count()], option::of(counts), delays).prop_map(
        |([sent, sent_bytes, received, received_bytes], counts, delays)| PathDirection {
            sent,
            sent_bytes,
            received,
            received_bytes,
            counts,
            delay: delay(&delays),
        },
    )
}

/// A path between two of so many captures; with less than two there is none that keeps the rules.
pub(super) fn path(captures: usize) -> impl Strategy<Value = PathMatch> {
    let most = captures.max(2);
    (0..most, 1..most, any::<bool>(), [path_direction(), path_direction()]).prop_map(
        move |(near, step, shared_clock, mut directions)| {
            if !shared_clock {
                directions.iter_mut().for_each(|direction| direction.delay = None);
            }
            PathMatch { near, far: (near + step) % most, shared_clock, directions }
        },
    )
}
