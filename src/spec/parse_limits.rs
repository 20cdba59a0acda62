//! `[limits]`.

use super::LimitsSpec;
use super::parse::positive_duration;
use super::read::{Entry, Sink};
use crate::units::ByteSize;

/// Most iterations in a row that may go wrong.
const MOST_FAILURES: u32 = 1_000_000;
/// Longest time that a run may take: ten years.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(10 * 365 * 24 * 3600);

const TIME_ACCEPTED: &str =
    "a time with its offset from UTC, \"2026-12-24T06:00:00Z\" or \"2026-12-24T07:00:00+01:00\"";

pub(super) fn read(entry: &Entry<'_>, sink: &mut Sink<'_>) -> LimitsSpec {
    let Some(mut section) = entry.section(sink) else { return LimitsSpec::default() };
    let limits = LimitsSpec {
        failures: section.take("failures").and_then(|e| e.integer(sink, 1, MOST_FAILURES)),
        storage: section.take("storage").and_then(|e| size(&e, sink)),
        free: section.take("free").and_then(|e| size(&e, sink)),
        duration: section.take("duration").and_then(|e| positive_duration(&e, LONGEST, sink)),
        until: section.take("until").and_then(|e| time(&e, sink)),
    };
    section.finish(sink);
    limits
}

fn size(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<ByteSize> {
    let size: ByteSize = entry.quantity(sink, ByteSize::ACCEPTED)?;
    if size.0 == 0 {
        entry.refuse(sink, "more than nothing: \"50 GB\"");
        return None;
    }
    Some(size)
}

fn time(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<jiff::Timestamp> {
    let parsed = entry.text(sink)?.trim().parse();
    if parsed.is_err() {
        entry.refuse(sink, TIME_ACCEPTED);
    }
    parsed.ok()
}
