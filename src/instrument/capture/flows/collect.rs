//! What finished connections leave behind, and the record made of it.

use crate::flow::{Beyond, Connection, QUANTILES, STATISTICS, Sink, Sketch, Summary, Totals, Way};
use crate::ids::Direction;
use crate::record::{self, ConnectionStatistic, SeriesBin, Stall, Tcp, TcpDirection};

/// Length of the engine's bins.
const BIN_MS: u32 = 100;

/// Takes finished connections.
#[derive(Debug)]
pub(super) struct Collected {
    summary: Summary,
    /// Sums of each statistic, a2b and b2a: exact for whole numbers below 2^53, as means are not.
    sums: Vec<[f64; 2]>,
    complete: u64,
    reset: u64,
    micros: u64,
    rows: Vec<record::Connection>,
    /// Rows that may still be kept.
    room: usize,
}

impl Collected {
    /// With so many single rows; `None` for none.
    pub(super) fn new(rows: Option<usize>) -> Self {
        Self {
            summary: Summary::default(),
            sums: vec![[0.0; 2]; STATISTICS.len()],
            complete: 0,
            reset: 0,
            micros: 0,
            rows: Vec::new(),
            room: rows.unwrap_or(0),
        }
    }

    /// Single rows kept.
    pub(super) const fn rows(&self) -> usize {
        self.rows.len()
    }
}

impl Sink for Collected {
    fn connection(&mut self, connection: &Connection) {
        self.summary.add(connection);
        self.complete += u64::from(connection.is_complete());
        self.reset += u64::from(connection.is_reset());
        self.micros = self.micros.saturating_add(connection.duration_micros());
        for (statistic, sums) in STATISTICS.iter().zip(&mut self.sums) {
            for way in Way::ALL {
                let number = statistic.value(connection, way).and_then(|value| value.number());
                sums[way.index()] += number.unwrap_or_default();
            }
        }
        if self.room > 0 {
            self.room -= 1;
            self.rows.push(row(connection));
        }
    }
}

fn row(connection: &Connection) -> record::Connection {
    let value = |statistic: &crate::flow::Statistic, way| match statistic.value(connection, way)? {
        crate::flow::Value::Flag(flag) => Some(f64::from(u8::from(flag))),
        value => value.number(),
    };
    record::Connection {
        number: connection.number,
        a: (connection.address_a(), connection.a.port()),
        b: (connection.address_b(), connection.b.port()),
        first_ns: connection.first.nanos(),
        last_ns: connection.last.nanos(),
        complete: connection.is_complete(),
        reset: connection.is_reset(),
        values: Way::ALL.map(|way| STATISTICS.iter().map(|statistic| value(statistic, way)).collect()),
    }
}

/// The record. `bins` is how many bins of the throughput series there may be.
pub(super) fn assemble(totals: &Totals, collected: Collected, beyond: &Beyond, mtu: Option<u32>, bins: usize) -> Tcp {
    let Collected { summary, sums, complete, reset, micros, mut rows, .. } = collected;
    rows.sort_unstable_by_key(|row| row.number);
    let sums = STATISTICS.iter().zip(&sums).filter(|(statistic, _)| !statistic.unit.is_empty());
    let sums = sums.flat_map(|(_, sums)| sums.iter().copied());
    let statistics = summary.entries().zip(sums).map(|(entry, sum)| {
        distribution(direction(entry.way), entry.statistic.name, entry.statistic.unit, sum, entry.sketch)
    });
    let (bin_ms, series) = series(beyond, bins);
    let stalls = beyond.stalls();
    Tcp {
        connections: totals.connections,
        complete,
        reset,
        ended_early: totals.ended_early,
        duration_ns: micros.saturating_mul(1000),
        packets: totals.tcp_packets,
        first_ns: beyond.start().and_then(|start| start.nanos()),
        mtu,
        directions: Way::ALL.map(|way| one_way(beyond, way, mtu.is_some())),
        statistics: statistics.collect(),
        bin_ms,
        series,
        stalls: stalls.count,
        stalled_ns: not_negative(stalls.nanos),
        longest_stall_ns: stalls.longest_nanos.map(not_negative),
        first_stalls: stalls.first.iter().map(stall).collect(),
        rows,
    }
}

fn distribution(direction: Direction, name: &str, unit: &str, sum: f64, sketch: &Sketch) -> ConnectionStatistic {
    let [p5, p25, median, p75, p95, p99, max] = QUANTILES.map(|(_, q)| sketch.quantile(q));
    let varies = sketch.min() != sketch.max();
    ConnectionStatistic {
        direction,
        name: name.to_owned(),
        unit: unit.to_owned(),
        count: sketch.count(),
        sum: (sketch.count() > 0).then_some(sum),
        mean: sketch.mean(),
        sd: sketch.deviation(),
        min: sketch.min(),
        p5,
        p25,
        median,
        p75,
        p95,
        p99,
        max,
        sketch: varies.then(|| sketch.to_bytes()),
    }
}

fn one_way(beyond: &Beyond, way: Way, mtu_is_known: bool) -> TcpDirection {
    let found = beyond.packetization(way);
    let known = |count| mtu_is_known.then_some(count);
    TcpDirection {
        packets: found.packets,
        data_packets: found.data_packets,
        data_bytes: found.data_bytes,
        longest: (found.packets > 0).then_some(found.longest),
        super_segments: known(found.super_segments),
        super_bytes: known(found.super_bytes),
        super_on_wire: known(found.super_on_wire),
        unbinned: beyond.unbinned(way),
    }
}

/// The length of its bins in milliseconds, and the bins: of 100 ms, or of twice, four times … as much where there would be
/// more than `most`.
fn series(beyond: &Beyond, most: usize) -> (u32, Vec<SeriesBin>) {
    let mut bin_ms = BIN_MS;
    let mut bins: Vec<SeriesBin> = Vec::new();
    for way in Way::ALL {
        bins.extend(beyond.throughput(way).map(|(nanos, bin)| SeriesBin {
            direction: direction(way),
            at_ms: nanos / 1_000_000,
            packets: bin.packets,
            bytes: bin.bytes,
        }));
    }
    while bins.len() > most.max(2) && bin_ms < u32::MAX / 2 {
        bin_ms *= 2;
        bins = coarser(bins, bin_ms);
    }
    (bin_ms, bins)
}

fn coarser(bins: Vec<SeriesBin>, bin_ms: u32) -> Vec<SeriesBin> {
    let mut joined: Vec<SeriesBin> = Vec::with_capacity(bins.len() / 2 + 1);
    for bin in bins {
        let at_ms = bin.at_ms.div_euclid(i64::from(bin_ms)) * i64::from(bin_ms);
        match joined.last_mut() {
            Some(last) if (last.direction, last.at_ms) == (bin.direction, at_ms) => {
                last.packets += bin.packets;
                last.bytes += bin.bytes;
            }
            _ => joined.push(SeriesBin { at_ms, ..bin }),
        }
    }
    joined
}

fn stall(stall: &crate::flow::Stall) -> Stall {
    Stall {
        connection: stall.connection,
        from_ns: stall.from.nanos(),
        duration_ns: not_negative(stall.nanos),
        ended_by: stall.ended_by.map(direction),
    }
}

/// Stalls are silences longer than a threshold above 0.
fn not_negative(nanos: i64) -> u64 {
    u64::try_from(nanos).expect("longer than the threshold")
}

const fn direction(way: Way) -> Direction {
    match way {
        Way::AToB => Direction::AToB,
        Way::BToA => Direction::BToA,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coarser_series_carries_the_same() {
        let bin = |direction, at_ms, packets| SeriesBin { direction, at_ms, packets, bytes: packets * 10 };
        let (a, b) = (Direction::AToB, Direction::BToA);
        let fine = vec![bin(a, -100, 1), bin(a, 0, 2), bin(a, 100, 3), bin(a, 300, 4), bin(b, 100, 5), bin(b, 200, 6)];
        let expected = [bin(a, -200, 1), bin(a, 0, 5), bin(a, 200, 4), bin(b, 0, 5), bin(b, 200, 6)];
        assert_eq!(coarser(fine, 200), expected);
    }
}
