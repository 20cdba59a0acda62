//! What path probes measured: rows, values and rules.

use rusqlite::types::ValueRef;

use super::check::bad;
use super::decode::{Columns, Decoded};
use super::error::BadRecord;
use super::path::{check_delay, delay, delay_row};
use super::raw::Row;
use super::rows::{count, opt_count, opt_int, opt_real, opt_text, position, text};
use super::schema::TableId;
use crate::record::{Delay, Probe, ProbeBin, ProbeClock, ProbeEnd, ProbePath, ProbeSchedule, ProbeWay};

/// Names of [`Probe::ends`], as stored.
const ENDS: [&str; 2] = ["client", "server"];

/// Hands over the rows of all tables about them.
pub(super) fn emit<E>(
    probes: &[Probe],
    sink: &mut impl FnMut(TableId, &[ValueRef<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    for (i, probe) in probes.iter().enumerate() {
        sink(TableId::Probe, &row(i, probe))?;
    }
    for (i, probe) in probes.iter().enumerate() {
        for (name, end) in ENDS.iter().zip(&probe.ends) {
            if let Some(end) = end {
                sink(TableId::ProbeEnd, &end_row(i, name, end))?;
            }
        }
    }
    for (i, probe) in probes.iter().enumerate() {
        for way in ProbeWay::BY_NAME {
            sink(TableId::ProbePath, &path_row(i, way, probe.path(way)))?;
        }
    }
    for (i, probe) in probes.iter().enumerate() {
        for bin in &probe.series {
            let row = [
                position(i),
                text(bin.way.as_str()),
                ValueRef::Integer(bin.bin.into()),
                count(bin.start_ns),
                count(bin.sent),
                count(bin.received),
                opt_real(bin.delay_mean),
                opt_real(bin.delay_max),
            ];
            sink(TableId::ProbeSeries, &row)?;
        }
    }
    Ok(())
}

fn row(index: usize, probe: &Probe) -> Vec<ValueRef<'_>> {
    let schedule = |of: fn(&ProbeSchedule) -> u64| opt_count(probe.schedule.as_ref().map(of));
    let mut row = vec![
        position(index),
        ValueRef::Integer(probe.pair.into()),
        count(probe.interval_ns),
        ValueRef::Integer(probe.size.into()),
        ValueRef::Integer(probe.dscp.into()),
        count(probe.timeout_ns),
        opt_int(probe.started_ns),
        text(probe.clock.as_str()),
        opt_count(probe.clock_error_ns),
        schedule(|s| s.slots),
        schedule(|s| s.missed),
        schedule(|s| s.late),
        schedule(|s| s.errors),
        schedule(|s| s.refused),
    ];
    row.extend(delay_row(probe.schedule.as_ref().and_then(|schedule| schedule.lateness.as_ref())));
    row
}

fn end_row<'a>(probe: usize, name: &'a str, end: &'a ProbeEnd) -> [ValueRef<'a>; 14] {
    [
        position(probe),
        text(name),
        count(end.dropped),
        count(end.foreign),
        count(end.errors),
        count(end.sent_stamped_late),
        count(end.received_stamped_late),
        opt_count(end.cpu_ns),
        text(&end.boot_id),
        opt_text(end.clock_source.as_deref()),
        opt_int(end.synchronised.map(i64::from)),
        opt_count(end.max_error_ns),
        opt_count(end.estimated_error_ns),
        count(end.step_ns),
    ]
}

fn path_row(probe: usize, way: ProbeWay, path: &ProbePath) -> Vec<ValueRef<'_>> {
    let counts = [path.sent, path.received, path.lost, path.late, path.duplicated, path.reordered];
    let mut row = vec![position(probe), text(way.as_str())];
    row.extend(counts.map(opt_count));
    row.extend(delay_row(path.delay.as_ref()));
    row.extend(delay_row(path.ipdv.as_ref()));
    row.push(opt_real(path.jitter));
    row
}

/// Without what stands in the other tables.
pub(super) fn probe(row: &Row<'_>) -> Decoded<Probe> {
    let c = &mut Columns::new(row, 2);
    let (pair, interval_ns, size, dscp) = (c.int()?, c.int()?, c.int()?, c.int()?);
    let (timeout_ns, started_ns) = (c.int()?, c.opt_int()?);
    let (clock, clock_error_ns) = (c.named("clock", ProbeClock::from_name)?, c.opt_int()?);
    let counts = [c.opt_int()?, c.opt_int()?, c.opt_int()?, c.opt_int()?, c.opt_int()?];
    let lateness = delay(c)?;
    let schedule = match counts {
        [None, None, None, None, None] if lateness.is_none() => None,
        [Some(slots), Some(missed), Some(late), Some(errors), Some(refused)] => {
            Some(ProbeSchedule { slots, missed, late, errors, refused, lateness })
        }
        _ => return c.wrong("counts where there are others"),
    };
    Ok(Probe {
        pair,
        interval_ns,
        size,
        dscp,
        timeout_ns,
        started_ns,
        schedule,
        clock,
        clock_error_ns,
        ends: [None, None],
        paths: Default::default(),
        series: Vec::new(),
    })
}

/// Place of the probe, and one of its ends with its place.
pub(super) fn end(row: &Row<'_>) -> Decoded<(usize, (usize, ProbeEnd))> {
    let c = &mut Columns::new(row, 1);
    let (probe, at) = (c.int()?, c.named("end", |name| ENDS.iter().position(|end| *end == name))?);
    let end = ProbeEnd {
        dropped: c.int()?,
        foreign: c.int()?,
        errors: c.int()?,
        sent_stamped_late: c.int()?,
        received_stamped_late: c.int()?,
        cpu_ns: c.opt_int()?,
        boot_id: c.string()?,
        clock_source: c.opt_string()?,
        synchronised: match c.opt_int()? {
            None => None,
            Some(0) => Some(false),
            Some(1) => Some(true),
            Some(_) => return c.wrong("0 or 1"),
        },
        max_error_ns: c.opt_int()?,
        estimated_error_ns: c.opt_int()?,
        step_ns: c.int()?,
    };
    Ok((probe, (at, end)))
}

/// Place of the probe, and one of its ways.
pub(super) fn path(row: &Row<'_>) -> Decoded<(usize, (ProbeWay, ProbePath))> {
    let c = &mut Columns::new(row, 1);
    let (probe, way) = (c.int()?, c.named("way", ProbeWay::from_name)?);
    let path = ProbePath {
        sent: c.opt_int()?,
        received: c.opt_int()?,
        lost: c.opt_int()?,
        late: c.opt_int()?,
        duplicated: c.opt_int()?,
        reordered: c.opt_int()?,
        delay: delay(c)?,
        ipdv: delay(c)?,
        jitter: c.opt_real()?,
    };
    Ok((probe, (way, path)))
}

/// Place of the probe, and a bin.
pub(super) fn bin(row: &Row<'_>) -> Decoded<(usize, ProbeBin)> {
    let c = &mut Columns::new(row, 1);
    let probe = c.int()?;
    let bin = ProbeBin {
        way: c.named("way", ProbeWay::from_name)?,
        bin: c.int()?,
        start_ns: c.int()?,
        sent: c.int()?,
        received: c.int()?,
        delay_mean: c.opt_real()?,
        delay_max: c.opt_real()?,
    };
    Ok((probe, bin))
}

/// Rows of the longest table about them.
pub(super) fn rows(probes: &[Probe]) -> usize {
    let bins: usize = probes.iter().map(|probe| probe.series.len()).sum();
    bins.max(3 * probes.len())
}

/// Says what is wrong, if anything.
pub(super) fn check(probes: &[Probe]) -> Result<(), BadRecord> {
    if !probes.is_sorted_by(|a, b| a.pair < b.pair) || probes.first().is_some_and(|probe| probe.pair == 0) {
        return bad("path probes are not in the order of their pairs, from 1".to_owned());
    }
    probes.iter().try_for_each(check_probe)
}

fn check_probe(probe: &Probe) -> Result<(), BadRecord> {
    let schedule = probe.schedule.iter().flat_map(|s| [s.slots, s.missed, s.late, s.errors, s.refused]);
    let ends = probe.ends.iter().flatten().flat_map(end_numbers);
    let own = [Some(probe.interval_ns), Some(probe.timeout_ns), probe.clock_error_ns].into_iter().flatten();
    let bins = probe.series.iter().flat_map(|bin| [bin.start_ns, bin.sent, bin.received]);
    if let Some(n) = schedule.chain(ends).chain(own).chain(bins).find(|&n| i64::try_from(n).is_err()) {
        return bad(format!("a number of the path probe of pair {} is {n}, more than 2^63-1", probe.pair));
    }
    if probe.interval_ns == 0 || probe.timeout_ns == 0 || probe.size == 0 || probe.dscp > 63 {
        return bad(format!("the path probe of pair {} sent nothing, or with no DSCP that there is", probe.pair));
    }
    if probe.schedule.as_ref().is_some_and(|s| s.missed.saturating_add(s.errors) > s.slots) {
        return bad(format!("the path probe of pair {} missed more than there was to send", probe.pair));
    }
    let late = probe.schedule.as_ref().and_then(|schedule| schedule.lateness.as_ref());
    late.into_iter().try_for_each(check_delay)?;
    let one_way = &probe.paths[..2];
    if probe.clock == ProbeClock::Unsynchronised && one_way.iter().any(|path| path.delay.is_some()) {
        return bad("a path probe has one-way delays, and clocks that do not allow it".to_owned());
    }
    probe.paths.iter().try_for_each(check_path)?;
    let in_order = probe.series.is_sorted_by(|a, b| (a.way.as_str(), a.bin) < (b.way.as_str(), b.bin));
    let finite = probe.series.iter().flat_map(|bin| [bin.delay_mean, bin.delay_max]).flatten().all(f64::is_finite);
    if in_order && finite && probe.series.iter().all(|bin| bin.received <= bin.sent) {
        Ok(())
    } else {
        bad(format!("the series of the path probe of pair {} is wrong", probe.pair))
    }
}

fn end_numbers(end: &ProbeEnd) -> impl Iterator<Item = u64> {
    let counts = [end.dropped, end.foreign, end.errors, end.sent_stamped_late, end.received_stamped_late, end.step_ns];
    counts.into_iter().chain([end.cpu_ns, end.max_error_ns, end.estimated_error_ns].into_iter().flatten())
}

fn check_path(path: &ProbePath) -> Result<(), BadRecord> {
    let counts = [path.sent, path.received, path.lost, path.late, path.duplicated, path.reordered];
    if let Some(n) = counts.into_iter().flatten().find(|&n| i64::try_from(n).is_err()) {
        return bad(format!("a counter of a path probe is {n}, more than 2^63-1"));
    }
    if let (Some(sent), Some(received), Some(lost)) = (path.sent, path.received, path.lost)
        && received.checked_add(lost) != Some(sent)
    {
        return bad(format!("a path probe: {sent} sent, {received} received, {lost} lost"));
    }
    let more = |delay: &Option<Delay>| delay.as_ref().is_some_and(|delay| Some(delay.count) > path.received);
    if more(&path.delay) || more(&path.ipdv) || path.jitter.is_some_and(|jitter| !jitter.is_finite()) {
        return bad("a path probe has more delays than packets".to_owned());
    }
    path.delay.iter().chain(&path.ipdv).try_for_each(check_delay)
}
