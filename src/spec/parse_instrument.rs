//! `[instrument]`.

use std::time::Duration;

use toml::de::DeValue;

use super::read::{Entry, Section, Sink};
use super::{CounterSpec, InstrumentSpec, SyscallSpec};
use crate::record::{HOST_METRICS, PROCESS_METRICS, SyscallScope, SyscallSource};
use crate::units::{ByteSize, DURATION_ACCEPTED, parse_duration};

const SCOPES: &[(&str, SyscallScope)] = &[("workload", SyscallScope::Workload), ("node", SyscallScope::Node)];

const SOURCES: &[(&str, Option<SyscallSource>)] =
    &[("auto", None), ("bpf", Some(SyscallSource::Bpf)), ("perf", Some(SyscallSource::Perf))];

pub(super) fn read(entry: &Entry<'_>, sink: &mut Sink<'_>) -> InstrumentSpec {
    let mut instrument = InstrumentSpec::default();
    let Some(mut section) = entry.section(sink) else { return instrument };
    if let Some(entry) = section.take("syscalls") {
        instrument.syscalls = read_syscalls(&entry, sink);
    }
    if let Some(entry) = section.take("probe") {
        instrument.probe = super::parse_probe::read(&entry, sink);
    }
    if let Some(entry) = section.take("counters") {
        instrument.counters = read_counters(&entry, sink);
    }
    section.finish(sink);
    instrument
}

/// Bounds of the time between two readings of counters.
const INTERVALS: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(3600)];
/// Most counters that a spec may name.
const MOST_METRICS: usize = 256;

/// `true`, `false`, or a table, which means yes.
fn read_counters(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<CounterSpec> {
    if !matches!(entry.value, DeValue::Table(_)) {
        return entry.switch(sink).unwrap_or(false).then(CounterSpec::default);
    }
    let mut section = entry.section(sink)?;
    let mut counters = CounterSpec::default();
    if let Some(entry) = section.take("interval") {
        counters.interval = read_interval(&entry, sink);
    }
    if let Some(entry) = section.take("metrics") {
        counters.metrics = read_names(&entry, sink);
    }
    section.finish(sink);
    Some(counters)
}

fn read_interval(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Duration> {
    if entry.value.as_str() == Some("off") {
        return None;
    }
    let accepted = format!("{DURATION_ACCEPTED}, or \"off\"");
    let interval = entry.quantity_by(sink, &accepted, parse_duration)?;
    let whole = interval.subsec_nanos() % 1_000_000 == 0;
    if !whole || !(INTERVALS[0]..=INTERVALS[1]).contains(&interval) {
        entry.refuse(sink, "whole milliseconds from 10 ms to 1 h, or \"off\"");
    }
    Some(interval)
}

/// Names of counters, sorted and each once.
fn read_names(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Vec<String> {
    let mut names = entry.strings(sink).unwrap_or_default();
    let wrong = |name: &String| name.is_empty() || name.len() > 100 || name.chars().any(|c| c.is_control() || c == ' ');
    if names.len() > MOST_METRICS || names.iter().any(wrong) {
        entry.refuse(sink, format_args!("at most {MOST_METRICS} names of counters without blanks"));
    }
    // Two metrics of one name on one node: the store would refuse the iteration.
    let taken = |name: &&String| HOST_METRICS.iter().chain(&PROCESS_METRICS).any(|metric| *metric == name.as_str());
    if let Some(name) = names.iter().find(taken) {
        entry.refuse(sink, format_args!("names of counters, not {name}, which is a metric already"));
    }
    names.sort();
    names.dedup();
    names
}

/// `true`, `false`, or a table, which means yes.
fn read_syscalls(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<SyscallSpec> {
    if !matches!(entry.value, DeValue::Table(_)) {
        return entry.switch(sink).unwrap_or(false).then(SyscallSpec::default);
    }
    let mut section = entry.section(sink)?;
    let mut syscalls = SyscallSpec::default();
    if let Some(scope) = section.take("scope").and_then(|entry| entry.choice(sink, SCOPES)) {
        syscalls.scope = scope;
    }
    if let Some(source) = section.take("source").and_then(|entry| entry.choice(sink, SOURCES)) {
        syscalls.source = source;
    }
    if let Some(log) = section.take("log").and_then(|entry| entry.switch(sink)) {
        syscalls.log = log;
    }
    read_room(&mut section, &mut syscalls, sink);
    section.finish(sink);
    Some(syscalls)
}

fn read_room(section: &mut Section<'_>, syscalls: &mut SyscallSpec, sink: &mut Sink<'_>) {
    for (name, rows) in [
        ("threads", &mut syscalls.threads),
        ("calls", &mut syscalls.calls),
        ("transitions", &mut syscalls.transitions),
        ("sizes", &mut syscalls.sizes),
    ] {
        *rows = section.take(name).and_then(|entry| entry.integer(sink, 1_u32, 1 << 20));
    }
    // Their numbers share 32 bits with those of calls.
    syscalls.names = section.take("names").and_then(|entry| entry.integer(sink, 1_u32, 32_768));
    let Some(entry) = section.take("ring") else { return };
    let Some(ByteSize(ring)) = entry.quantity(sink, ByteSize::ACCEPTED) else { return };
    match u32::try_from(ring) {
        Ok(ring) if ring.is_power_of_two() && (4096..=1 << 30).contains(&ring) => syscalls.ring = Some(ring),
        _ => entry.refuse(sink, "a power of two from 4 KiB to 1 GiB"),
    }
}
