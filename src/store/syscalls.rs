//! What was counted of system calls: rows, values and rules.

use rusqlite::types::ValueRef;

use super::check::bad;
use super::decode::{Columns, Decoded};
use super::error::BadRecord;
use super::raw::Row;
use super::rows::{count, opt_int, opt_text, position, text};
use super::schema::TableId;
use crate::record::{
    DescriptorKind, LogBins, Syscall, SyscallLoss, SyscallProcess, SyscallScope, SyscallSizes, SyscallSource,
    SyscallTrace, SyscallTransition,
};

/// Hands over the rows of all tables about them.
pub(super) fn emit<E>(
    traces: &[SyscallTrace],
    sink: &mut impl FnMut(TableId, &[ValueRef<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    for (i, t) in traces.iter().enumerate() {
        let place = t.place.map(|node| node.to_string());
        let row = [
            position(i),
            opt_text(place.as_deref()),
            text(t.scope.as_str()),
            text(t.source.as_str()),
            opt_text(t.log.as_deref()),
        ];
        sink(TableId::SyscallTrace, &row)?;
    }
    for (i, t) in traces.iter().enumerate() {
        for (n, loss) in t.losses.iter().enumerate() {
            let SyscallLoss { cpu, begun, returned, steps, errors, sizes, logged } = *loss;
            let [begun, returned, steps, errors, sizes, logged] =
                [begun, returned, steps, errors, sizes, logged].map(count);
            let cpu = opt_int(cpu.map(i64::from));
            sink(
                TableId::SyscallLoss,
                &[position(i), position(n), cpu, begun, returned, steps, errors, sizes, logged],
            )?;
        }
    }
    emit_processes(traces, sink)
}

/// The processes of all traces have one numbering.
fn emit_processes<E>(
    traces: &[SyscallTrace],
    sink: &mut impl FnMut(TableId, &[ValueRef<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    let of_all = || {
        let all = traces.iter().enumerate().flat_map(|(i, t)| t.processes.iter().map(move |p| (i, p)));
        all.enumerate().map(|(number, (trace, process))| (position(number), trace, process))
    };
    for (number, trace, p) in of_all() {
        let node = p.node.map(|node| node.to_string());
        let sequence = ValueRef::Integer(p.sequence.cast_signed());
        let row = [
            number,
            position(trace),
            opt_text(node.as_deref()),
            text(&p.name),
            count(p.threads),
            count(p.calls),
            sequence,
        ];
        sink(TableId::SyscallProcess, &row)?;
    }
    for (number, _, p) in of_all() {
        for c in &p.by_call {
            let times = c.times.to_bytes();
            let [calls, returned, errors, total, most] =
                [c.calls, c.returned, c.errors, c.total_ns, c.most_ns].map(count);
            let row = [number, text(&c.name), calls, returned, errors, total, most, ValueRef::Blob(&times)];
            sink(TableId::Syscall, &row)?;
        }
    }
    for (number, _, p) in of_all() {
        for c in &p.by_call {
            for &(errno, n) in &c.by_error {
                sink(TableId::SyscallError, &[number, text(&c.name), ValueRef::Integer(errno.into()), count(n)])?;
            }
        }
    }
    for (number, _, p) in of_all() {
        for (i, t) in p.transitions.iter().enumerate() {
            let from = opt_text(t.from.as_deref());
            sink(TableId::SyscallTransition, &[number, position(i), from, text(&t.to), count(t.count)])?;
        }
    }
    for (number, _, p) in of_all() {
        for s in &p.sizes {
            let returned = s.returned.to_bytes();
            let [n, bytes, most, zero] = [s.count, s.bytes, s.most, s.zero].map(count);
            let row = [number, text(&s.call), text(s.kind.as_str()), n, bytes, most, zero, ValueRef::Blob(&returned)];
            sink(TableId::SyscallSize, &row)?;
        }
    }
    Ok(())
}

/// Without what stands in the other tables.
pub(super) fn trace(row: &Row<'_>) -> Decoded<SyscallTrace> {
    let c = &mut Columns::new(row, 2);
    Ok(SyscallTrace {
        place: c.node()?,
        scope: c.named("scope", SyscallScope::from_name)?,
        source: c.named("source", SyscallSource::from_name)?,
        processes: Vec::new(),
        losses: Vec::new(),
        log: c.opt_string()?,
    })
}

/// Place of the trace, and a loss.
pub(super) fn loss(row: &Row<'_>) -> Decoded<(usize, SyscallLoss)> {
    let c = &mut Columns::new(row, 1);
    let (trace, _) = (c.int()?, c.int::<i64>()?);
    let cpu = c.opt_int()?;
    let (begun, returned, steps) = (c.int()?, c.int()?, c.int()?);
    let (errors, sizes, logged) = (c.int()?, c.int()?, c.int()?);
    Ok((trace, SyscallLoss { cpu, begun, returned, steps, errors, sizes, logged }))
}

/// Place of the trace, and a process.
pub(super) fn process(row: &Row<'_>) -> Decoded<(usize, SyscallProcess)> {
    let c = &mut Columns::new(row, 2);
    let trace = c.int()?;
    let process = SyscallProcess {
        node: c.node()?,
        name: c.string()?,
        threads: c.int()?,
        calls: c.int()?,
        sequence: c.int::<i64>()?.cast_unsigned(),
        by_call: Vec::new(),
        transitions: Vec::new(),
        sizes: Vec::new(),
    };
    Ok((trace, process))
}

/// Number of the process, and a call.
pub(super) fn call(row: &Row<'_>) -> Decoded<(usize, Syscall)> {
    let c = &mut Columns::new(row, 1);
    let process = c.int()?;
    let name = c.string()?;
    let (calls, returned, errors) = (c.int()?, c.int()?, c.int()?);
    let (total_ns, most_ns, times) = (c.int()?, c.int()?, bins(c)?);
    Ok((process, Syscall { name, calls, returned, errors, by_error: Vec::new(), total_ns, most_ns, times }))
}

/// Name of a call, number of an error and how often.
type OfCall = (String, (u32, u64));

/// Number of the process, name of the call, and an error.
pub(super) fn error(row: &Row<'_>) -> Decoded<(usize, OfCall)> {
    let c = &mut Columns::new(row, 1);
    Ok((c.int()?, (c.string()?, (c.int()?, c.int()?))))
}

/// Number of the process, and a transition.
pub(super) fn transition(row: &Row<'_>) -> Decoded<(usize, SyscallTransition)> {
    let c = &mut Columns::new(row, 1);
    let (process, _) = (c.int()?, c.int::<i64>()?);
    Ok((process, SyscallTransition { from: c.opt_string()?, to: c.string()?, count: c.int()? }))
}

/// Number of the process, and sizes.
pub(super) fn sizes(row: &Row<'_>) -> Decoded<(usize, SyscallSizes)> {
    let c = &mut Columns::new(row, 1);
    let process = c.int()?;
    let sizes = SyscallSizes {
        call: c.string()?,
        kind: c.named("kind of descriptor", DescriptorKind::from_name)?,
        count: c.int()?,
        bytes: c.int()?,
        most: c.int()?,
        zero: c.int()?,
        returned: bins(c)?,
    };
    Ok((process, sizes))
}

fn bins(c: &mut Columns<'_>) -> Decoded<LogBins> {
    let bytes = c.opt_blob()?;
    bytes.and_then(|bytes| LogBins::from_bytes(&bytes)).map_or_else(|| c.wrong("distribution"), Ok)
}

/// The process of a number that counts over all traces.
pub(super) fn find(traces: &mut [SyscallTrace], number: usize) -> Option<&mut SyscallProcess> {
    traces.iter_mut().flat_map(|trace| &mut trace.processes).nth(number)
}

/// Rows of the longest table about them.
pub(super) fn rows(traces: &[SyscallTrace]) -> usize {
    let processes = || traces.iter().flat_map(|trace| &trace.processes);
    let calls: usize = processes().map(|p| p.by_call.len()).sum();
    let errors: usize = processes().flat_map(|p| &p.by_call).map(|c| c.by_error.len()).sum();
    let transitions: usize = processes().map(|p| p.transitions.len()).sum();
    let sizes: usize = processes().map(|p| p.sizes.len()).sum();
    let losses: usize = traces.iter().map(|t| t.losses.len()).sum();
    [calls, errors, transitions, sizes, losses, processes().count()].into_iter().max().unwrap_or_default()
}

/// Says what is wrong, if anything.
pub(super) fn check(traces: &[SyscallTrace]) -> Result<(), BadRecord> {
    for trace in traces {
        if !trace.processes.is_sorted_by(|a, b| (a.node, &a.name) < (b.node, &b.name)) {
            return bad("processes of a trace of system calls are not in order".to_owned());
        }
        let losses = trace.losses.iter();
        check_numbers(losses.flat_map(|l| [l.begun, l.returned, l.steps, l.errors, l.sizes, l.logged]))?;
        trace.processes.iter().try_for_each(check_process)?;
    }
    Ok(())
}

fn check_process(p: &SyscallProcess) -> Result<(), BadRecord> {
    let in_order = p.by_call.is_sorted_by(|a, b| a.name < b.name)
        && p.transitions.is_sorted_by(|a, b| (&a.from, &a.to) < (&b.from, &b.to))
        && p.sizes.is_sorted_by(|a, b| (&a.call, a.kind.as_str()) < (&b.call, b.kind.as_str()));
    if !in_order {
        return bad(format!("system calls of {} are not in order", p.name));
    }
    check_numbers([p.threads, p.calls].into_iter())?;
    check_numbers(p.transitions.iter().map(|t| t.count))?;
    p.by_call.iter().try_for_each(check_call)?;
    p.sizes.iter().try_for_each(|s| {
        check_numbers([s.count, s.bytes, s.most, s.zero].into_iter())?;
        if s.returned.count() == s.count {
            Ok(())
        } else {
            bad(format!("sizes of {}: the distribution has another number of values", s.call))
        }
    })
}

fn check_call(c: &Syscall) -> Result<(), BadRecord> {
    check_numbers([c.calls, c.returned, c.errors, c.total_ns, c.most_ns].into_iter())?;
    check_numbers(c.by_error.iter().map(|&(_, n)| n))?;
    if c.times.count() != c.returned || c.errors > c.returned || c.returned > c.calls {
        return bad(format!("system call {}: {} began, {} returned, {} failed", c.name, c.calls, c.returned, c.errors));
    }
    // From 1, as `errno` does.
    if c.by_error.first().is_none_or(|(errno, _)| *errno > 0) && c.by_error.is_sorted_by(|a, b| a.0 < b.0) {
        Ok(())
    } else {
        bad(format!("errors of {} are not in order", c.name))
    }
}

fn check_numbers(mut numbers: impl Iterator<Item = u64>) -> Result<(), BadRecord> {
    match numbers.find(|&n| i64::try_from(n).is_err()) {
        Some(n) => bad(format!("a counter of system calls is {n}, more than 2^63-1")),
        None => Ok(()),
    }
}
