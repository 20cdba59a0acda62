//! `[instrument]`.

use toml::de::DeValue;

use super::read::{Entry, Section, Sink};
use super::{InstrumentSpec, SyscallSpec};
use crate::record::{SyscallScope, SyscallSource};
use crate::units::ByteSize;

const SCOPES: &[(&str, SyscallScope)] = &[("workload", SyscallScope::Workload), ("node", SyscallScope::Node)];

const SOURCES: &[(&str, Option<SyscallSource>)] =
    &[("auto", None), ("bpf", Some(SyscallSource::Bpf)), ("perf", Some(SyscallSource::Perf))];

pub(super) fn read(entry: &Entry<'_>, sink: &mut Sink<'_>) -> InstrumentSpec {
    let mut instrument = InstrumentSpec::default();
    let Some(mut section) = entry.section(sink) else { return instrument };
    if let Some(entry) = section.take("syscalls") {
        instrument.syscalls = read_syscalls(&entry, sink);
    }
    section.finish(sink);
    instrument
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
