//! What captures of one path say together: rows, values and rules.

use rusqlite::types::ValueRef;

use super::check::bad;
use super::decode::{Columns, Decoded};
use super::error::BadRecord;
use super::raw::Row;
use super::rows::{count, opt_count, opt_real, position, text};
use super::schema::TableId;
use crate::flow::Sketch;
use crate::ids::Direction;
use crate::record::{Delay, IterationRecord, PathCounts, PathDirection, PathMatch};

/// Hands over the rows of both tables.
pub(super) fn emit<E>(
    paths: &[PathMatch],
    sink: &mut impl FnMut(TableId, &[ValueRef<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    for (i, path) in paths.iter().enumerate() {
        let shared = ValueRef::Integer(path.shared_clock.into());
        sink(TableId::Path, &[position(i), position(path.near), position(path.far), shared])?;
    }
    for (i, path) in paths.iter().enumerate() {
        for (direction, d) in Direction::ALL.iter().zip(&path.directions) {
            sink(TableId::PathDirection, &row(i, *direction, d))?;
        }
    }
    Ok(())
}

fn row(path: usize, direction: Direction, d: &PathDirection) -> Vec<ValueRef<'_>> {
    let counts = |of: fn(&PathCounts) -> u64| opt_count(d.counts.as_ref().map(of));
    let mut row = vec![
        position(path),
        text(direction.as_str()),
        count(d.sent),
        count(d.sent_bytes),
        count(d.received),
        count(d.received_bytes),
        counts(|counts| counts.both),
        counts(|counts| counts.lost),
        counts(|counts| counts.appeared),
        counts(|counts| counts.sent_resegmented),
        counts(|counts| counts.received_resegmented),
        counts(|counts| counts.reordered),
        counts(|counts| counts.edge),
    ];
    row.extend(delay_row(d.delay.as_ref()));
    row
}

/// The nine columns of a distribution of times.
pub(super) fn delay_row(delay: Option<&Delay>) -> [ValueRef<'_>; 9] {
    let value = |of: fn(&Delay) -> f64| opt_real(delay.map(of));
    [
        opt_count(delay.map(|delay| delay.count)),
        value(|delay| delay.mean),
        opt_real(delay.and_then(|delay| delay.sd)),
        value(|delay| delay.min),
        value(|delay| delay.p50),
        value(|delay| delay.p95),
        value(|delay| delay.p99),
        value(|delay| delay.max),
        delay.map_or(ValueRef::Null, |delay| ValueRef::Blob(&delay.sketch)),
    ]
}

/// Without its directions.
pub(super) fn path(row: &Row<'_>) -> Decoded<PathMatch> {
    let c = &mut Columns::new(row, 2);
    let (near, far, shared) = (c.int()?, c.int()?, c.opt_int()?);
    let shared_clock = match shared {
        Some(0) => false,
        Some(1) => true,
        _ => return c.wrong("0 or 1"),
    };
    Ok(PathMatch { near, far, shared_clock, directions: Default::default() })
}

/// Place of the path, and one of its directions.
pub(super) fn direction(row: &Row<'_>) -> Decoded<(usize, (Direction, PathDirection))> {
    let c = &mut Columns::new(row, 1);
    let (path, direction) = (c.int()?, c.named("direction", Direction::from_name)?);
    let (sent, sent_bytes, received, received_bytes) = (c.int()?, c.int()?, c.int()?, c.int()?);
    let (counts, delay) = (counts(c)?, delay(c)?);
    Ok((path, (direction, PathDirection { sent, sent_bytes, received, received_bytes, counts, delay })))
}

fn counts(c: &mut Columns<'_>) -> Decoded<Option<PathCounts>> {
    let mut columns = [None; 7];
    for column in &mut columns {
        *column = c.opt_int()?;
    }
    match columns {
        [None, None, None, None, None, None, None] => Ok(None),
        [
            Some(both),
            Some(lost),
            Some(appeared),
            Some(sent_resegmented),
            Some(received_resegmented),
            Some(reordered),
            Some(edge),
        ] => Ok(Some(PathCounts { both, lost, appeared, sent_resegmented, received_resegmented, reordered, edge })),
        _ => c.wrong("counts where there are others"),
    }
}

/// A distribution of times, from nine columns.
pub(super) fn delay(c: &mut Columns<'_>) -> Decoded<Option<Delay>> {
    let count = c.opt_int()?;
    let (mean, sd, min) = (c.opt_real()?, c.opt_real()?, c.opt_real()?);
    let (p50, p95, p99, max) = (c.opt_real()?, c.opt_real()?, c.opt_real()?, c.opt_real()?);
    match (count, mean, min, p50, p95, p99, max, c.opt_blob()?) {
        (None, None, None, None, None, None, None, None) if sd.is_none() => Ok(None),
        (Some(count), Some(mean), Some(min), Some(p50), Some(p95), Some(p99), Some(max), Some(sketch)) => {
            Ok(Some(Delay { count, mean, sd, min, p50, p95, p99, max, sketch }))
        }
        _ => c.wrong("distribution"),
    }
}

/// Says what is wrong, if anything.
pub(super) fn check(record: &IterationRecord) -> Result<(), BadRecord> {
    let captures = record.captures.len();
    for path in &record.paths {
        if path.near >= captures || path.far >= captures || path.near == path.far {
            return bad(format!("a path from capture {} to capture {} of {captures}", path.near, path.far));
        }
        path.directions.iter().try_for_each(check_direction)?;
        if !path.shared_clock && path.directions.iter().any(|direction| direction.delay.is_some()) {
            return bad("a path without a shared clock has delays".to_owned());
        }
    }
    Ok(())
}

fn check_direction(d: &PathDirection) -> Result<(), BadRecord> {
    let c = d.counts.unwrap_or_default();
    let numbers = [d.sent, d.sent_bytes, d.received, d.received_bytes, c.both, c.lost, c.appeared, c.sent_resegmented];
    let rest = [c.received_resegmented, c.reordered, c.edge, d.delay.as_ref().map_or(1, |delay| delay.count)];
    if let Some(n) = numbers.into_iter().chain(rest).find(|&n| i64::try_from(n).is_err()) {
        return bad(format!("a counter of a path is {n}, more than 2^63-1"));
    }
    d.delay.iter().try_for_each(check_delay)
}

/// Is it the distribution that it says it is?
pub(super) fn check_delay(delay: &Delay) -> Result<(), BadRecord> {
    let values = [delay.mean, delay.min, delay.p50, delay.p95, delay.p99, delay.max];
    if let Some(x) = values.into_iter().chain(delay.sd).find(|x| !x.is_finite()) {
        return bad(format!("a delay is {x}"));
    }
    let sketch = Sketch::from_bytes(&delay.sketch).map_err(|error| BadRecord(format!("delays: {error}")))?;
    let expected = (delay.count, Some(delay.mean), Some(delay.min), Some(delay.max));
    if delay.count > 0 && (sketch.count(), sketch.mean(), sketch.min(), sketch.max()) == expected {
        Ok(())
    } else {
        bad("delays: the stored distribution is another one".to_owned())
    }
}
