//! The rules for what captures say about TCP.

use std::collections::HashSet;

use super::check::bad;
use super::error::BadRecord;
use crate::flow::{STATISTICS, Sketch};
use crate::record::{Capture, Connection, ConnectionStatistic, Tcp};

/// Rows of the longest table about it.
pub(super) fn rows(capture: &Capture) -> usize {
    let longest = |tcp: &Tcp| {
        let lists = [tcp.statistics.len(), tcp.series.len(), tcp.first_stalls.len(), 2 * tcp.rows.len()];
        lists.into_iter().max().unwrap_or_default()
    };
    capture.tcp.as_ref().map_or(0, longest)
}

/// Says what is wrong, if anything.
pub(super) fn check(capture: &Capture) -> Result<(), BadRecord> {
    let Some(tcp) = &capture.tcp else { return Ok(()) };
    check_tcp(tcp).map_err(|BadRecord(what)| BadRecord(format!("TCP on {}: {what}", capture.interface)))
}

fn check_tcp(tcp: &Tcp) -> Result<(), BadRecord> {
    check_numbers(tcp)?;
    let mut seen = HashSet::with_capacity(tcp.statistics.len());
    if let Some(s) = tcp.statistics.iter().find(|s| !seen.insert((s.direction, s.name.as_str()))) {
        return bad(format!("statistic {} is there twice for {}", s.name, s.direction));
    }
    tcp.statistics.iter().try_for_each(check_statistic)?;
    if !tcp.series.is_sorted_by(|a, b| (a.direction, a.at_ms) < (b.direction, b.at_ms)) {
        return bad("its series is not in order".to_owned());
    }
    if !tcp.rows.is_sorted_by(|a, b| a.number < b.number) {
        return bad("its connections are not in order".to_owned());
    }
    tcp.rows.iter().try_for_each(check_connection)
}

fn check_numbers(tcp: &Tcp) -> Result<(), BadRecord> {
    if tcp.complete > tcp.connections || tcp.reset > tcp.connections {
        return bad("more connections are complete or reset than there are".to_owned());
    }
    if tcp.bin_ms == 0 || tcp.mtu == Some(0) {
        return bad("a length is 0".to_owned());
    }
    if tcp.first_stalls.iter().any(|stall| stall.connection == 0) {
        return bad("a stall is of connection 0, they count from 1".to_owned());
    }
    let totals = [tcp.connections, tcp.ended_early, tcp.duration_ns, tcp.packets, tcp.stalls, tcp.stalled_ns];
    let directions = tcp.directions.iter().flat_map(|d| {
        let supers = [d.super_segments, d.super_bytes, d.super_on_wire].into_iter().flatten();
        supers.chain([d.packets, d.data_packets, d.data_bytes, d.unbinned])
    });
    let all = totals.into_iter().chain(tcp.longest_stall_ns).chain(directions);
    let all = all.chain(tcp.series.iter().flat_map(|bin| [bin.packets, bin.bytes]));
    let all = all.chain(tcp.first_stalls.iter().flat_map(|stall| [stall.connection, stall.duration_ns]));
    let all = all.chain(tcp.rows.iter().map(|connection| connection.number));
    match all.chain(tcp.statistics.iter().map(|s| s.count)).max() {
        Some(n) if i64::try_from(n).is_err() => bad(format!("a counter is {n}, more than 2^63-1")),
        _ => Ok(()),
    }
}

fn check_statistic(s: &ConnectionStatistic) -> Result<(), BadRecord> {
    let values = [s.sum, s.mean, s.sd, s.min, s.p5, s.p25, s.median, s.p75, s.p95, s.p99, s.max];
    if let Some(x) = values.into_iter().flatten().find(|x| !x.is_finite()) {
        return bad(format!("statistic {} has the value {x}", s.name));
    }
    let Some(bytes) = &s.sketch else { return Ok(()) };
    let sketch = Sketch::from_bytes(bytes).map_err(|error| BadRecord(format!("statistic {}: {error}", s.name)))?;
    if (sketch.count(), sketch.mean(), sketch.min(), sketch.max()) == (s.count, s.mean, s.min, s.max) {
        Ok(())
    } else {
        bad(format!("statistic {}: its stored distribution is another one", s.name))
    }
}

fn check_connection(c: &Connection) -> Result<(), BadRecord> {
    if c.number == 0 {
        return bad("a connection has number 0, they count from 1".to_owned());
    }
    for values in &c.values {
        if values.len() != STATISTICS.len() {
            return bad(format!("connection {} has {} values of {}", c.number, values.len(), STATISTICS.len()));
        }
        if values.iter().flatten().any(|x| !x.is_finite()) {
            return bad(format!("connection {} has a value that is not finite", c.number));
        }
    }
    Ok(())
}
