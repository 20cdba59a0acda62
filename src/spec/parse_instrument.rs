//! `[instrument]`.

use toml::de::DeValue;

use super::read::{Entry, Section, Sink};
use super::{InstrumentSpec, SyscallSpec};
use crate::record::SyscallScope;
use crate::units::ByteSize;

const SCOPES: &[(&str, SyscallScope)] = &[("workload", SyscallScope::Workload), ("node", SyscallScope::Node)];

pub(super) fn read(entry: &Entry<'_>, sink: &mut Sink<'_>) -> InstrumentSpec {
    let mut instrument = InstrumentSpec::default();
    let Some(mut section) = entry.section(sink) else { return instrument };
    if let Some(entry) = section.take("syscalls") {
        instrument.syscalls = read_syscalls(&entry, sink);
    }
    if let Some(entry) = section.take("probe") {
        instrument.probe = super::parse_probe::read(&entry, sink);
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
        ("names", &mut syscalls.names),
        ("calls", &mut syscalls.calls),
        ("transitions", &mut syscalls.transitions),
        ("sizes", &mut syscalls.sizes),
    ] {
        *rows = section.take(name).and_then(|entry| entry.integer(sink, 1_u32, 1 << 20));
    }
    let Some(entry) = section.take("ring") else { return };
    let Some(ByteSize(ring)) = entry.quantity(sink, ByteSize::ACCEPTED) else { return };
    match u32::try_from(ring) {
        Ok(ring) if ring.is_power_of_two() && (4096..=1 << 30).contains(&ring) => syscalls.ring = Some(ring),
        _ => entry.refuse(sink, "a power of two from 4 KiB to 1 GiB"),
    }
}
