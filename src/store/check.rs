//! The rules a record must keep, the same when it is written and when it is read.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;

use rusqlite::types::ValueRef;

use super::check_tcp;
use super::error::BadRecord;
use super::schema::TABLES;
use crate::record::{Capture, Header, IterationRecord, Metric, Outcome, Quantile};

/// Longest text of one cell in bytes; a hostile file cannot make a merge hold more than a few of these.
pub(super) const MAX_TEXT_BYTES: usize = 1 << 22;

/// Most rows of one table in one iteration.
pub(super) const MAX_ROWS: usize = 1 << 20;

/// Most single connections in one iteration.
pub(super) const MAX_CONNECTIONS: usize = 1 << 17;

/// Most bytes of one table in one iteration.
pub(super) const MAX_RECORD_BYTES: usize = 192 << 20;

/// Says what is wrong with `record`, if anything.
pub(crate) fn check(record: &IterationRecord) -> Result<(), BadRecord> {
    check_header(&record.header, &record.outcome)?;
    unique("factor", record.factors.iter().map(|(name, _)| name))?;
    unique_metrics(&record.metrics)?;
    unique_quantiles(&record.quantiles)?;
    record.metrics.iter().try_for_each(check_metric)?;
    record.quantiles.iter().try_for_each(check_quantile)?;
    record.captures.iter().try_for_each(check_capture)?;
    record.captures.iter().try_for_each(check_tcp::check)?;
    super::path::check(record)?;
    super::syscalls::check(&record.syscalls)?;
    super::probe::check(&record.probes)?;
    super::counters::check(&record.counters)?;
    if let Some(stage) = record.stages.iter().find(|s| s.duration_ns.is_some_and(|d| d < 0)) {
        return bad(format!("stage {} lasted less than nothing", stage.stage));
    }
    check_sizes(record)
}

pub(super) fn bad<T>(what: String) -> Result<T, BadRecord> {
    Err(BadRecord(what))
}

pub(super) fn check_header(h: &Header, outcome: &Outcome) -> Result<(), BadRecord> {
    for (name, value) in
        [("number", h.number.0), ("repetition", h.repetition), ("attempt", h.attempt), ("block", h.block.unwrap_or(1))]
    {
        if value == 0 {
            return bad(format!("{name} is 0, it counts from 1"));
        }
    }
    match outcome {
        Outcome::Suspect(reasons) | Outcome::Invalid(reasons) if reasons.is_empty() => {
            bad(format!("an iteration is {} without a reason", outcome.status()))
        }
        _ => Ok(()),
    }
}

fn check_metric(m: &Metric) -> Result<(), BadRecord> {
    if m.pair == Some(0) {
        return bad(format!("metric {}: pair is 0, pairs count from 1", m.name));
    }
    finite("metric", &m.name, m.value)
}

fn check_quantile(p: &Quantile) -> Result<(), BadRecord> {
    if !(0.0..=1.0).contains(&p.q) {
        return bad(format!("distribution {}: q = {} is not in 0..1", p.name, p.q));
    }
    if p.pair == Some(0) {
        return bad(format!("distribution {}: pair is 0, pairs count from 1", p.name));
    }
    finite("distribution", &p.name, p.value)
}

fn finite(kind: &str, name: &str, value: Option<f64>) -> Result<(), BadRecord> {
    match value {
        Some(x) if !x.is_finite() => {
            bad(format!("{kind} {name} has the value {x}; a value that could not be measured is a missing one"))
        }
        _ => Ok(()),
    }
}

fn check_capture(c: &Capture) -> Result<(), BadRecord> {
    let counters = [Some(c.packets), Some(c.bytes), c.dropped_kernel, c.dropped_interface, Some(c.ring_bytes)];
    let largest = counters.into_iter().flatten().chain(c.sizes.iter().map(|bin| bin.packets)).max();
    if let Some(n) = largest.filter(|&n| i64::try_from(n).is_err()) {
        return bad(format!("a counter of the capture on {} is {n}, more than 2^63-1", c.interface));
    }
    if c.sizes_ordered() { Ok(()) } else { bad(format!("the packet sizes of the capture on {} overlap", c.interface)) }
}

fn unique<T: Hash + Eq + Display>(what: &str, items: impl Iterator<Item = T>) -> Result<(), BadRecord> {
    let mut seen = HashSet::new();
    for item in items {
        if seen.contains(&item) {
            return bad(format!("{what} {item} is there twice"));
        }
        seen.insert(item);
    }
    Ok(())
}

/// Two values of one metric on one node could not be told apart, and would count twice in every mean.
fn unique_metrics(metrics: &[Metric]) -> Result<(), BadRecord> {
    let mut seen = HashSet::with_capacity(metrics.len());
    match metrics.iter().find(|m| !seen.insert((m.pair, m.node, m.level, m.name.as_str()))) {
        Some(m) => bad(format!("metric {} is there twice for the same pair and node", m.name)),
        None => Ok(()),
    }
}

fn unique_quantiles(points: &[Quantile]) -> Result<(), BadRecord> {
    let mut seen = HashSet::with_capacity(points.len());
    match points.iter().find(|p| !seen.insert((p.pair, p.node, p.name.as_str(), (p.q + 0.0).to_bits()))) {
        Some(p) => bad(format!("distribution {} has two points at q = {}", p.name, p.q)),
        None => Ok(()),
    }
}

fn check_sizes(record: &IterationRecord) -> Result<(), BadRecord> {
    let rows = [
        record.factors.len(),
        record.settings.len(),
        record.metrics.len(),
        record.quantiles.len(),
        record.captures.iter().map(|c| c.sizes.len() + 1).sum(),
        record.captures.iter().map(check_tcp::rows).sum(),
        2 * record.paths.len(),
        super::syscalls::rows(&record.syscalls),
        super::probe::rows(&record.probes),
        super::counters::rows(&record.counters),
        record.events.len(),
        record.stages.len(),
        record.environment.len(),
    ];
    let connections = |c: &Capture| c.tcp.as_ref().map_or(0, |tcp| tcp.rows.len());
    if record.captures.iter().map(connections).sum::<usize>() > MAX_CONNECTIONS {
        return bad(format!("there are more than {MAX_CONNECTIONS} single connections"));
    }
    if rows.iter().any(|&n| n > MAX_ROWS) {
        return bad(format!("a list has more than {MAX_ROWS} entries"));
    }
    let mut bytes = [0_usize; TABLES.len()];
    super::rows::emit(record, |table, row| {
        for cell in row {
            let length = if let ValueRef::Text(bytes) | ValueRef::Blob(bytes) = cell { bytes.len() } else { 0 };
            if length > MAX_TEXT_BYTES {
                return bad(format!("a text or blob has {length} bytes, more than {MAX_TEXT_BYTES}"));
            }
            // What a cell and its part of the row's header take at most, besides its text.
            bytes[table as usize] += match cell {
                ValueRef::Null => 1,
                ValueRef::Integer(_) | ValueRef::Real(_) => 9,
                ValueRef::Text(_) | ValueRef::Blob(_) => length + 9,
            };
        }
        // Iteration number and the header's own length.
        bytes[table as usize] += 32;
        if bytes[table as usize] > MAX_RECORD_BYTES {
            return bad(format!("table {} would have more than {MAX_RECORD_BYTES} bytes", table.table().name));
        }
        Ok(())
    })
}
