//! `[sentinel]`.

use super::SentinelSpec;
use super::diagnostic::Diagnostic;
use super::parse_factors::{self, Table};
use super::read::{Entry, Sink, Span};

/// Most iterations between two sentinels.
const MOST_BETWEEN: u32 = 1_000_000;

/// What is asked for, and where the tuple is chosen.
pub(super) fn read(entry: &Entry<'_>, factors: &Table, sink: &mut Sink<'_>) -> Option<(SentinelSpec, Option<Span>)> {
    let mut section = entry.section(sink)?;
    let every = section.need("every", sink, "after how many iterations: every = 20");
    let every = every.and_then(|entry| entry.integer(sink, 1, MOST_BETWEEN));
    let place = section.take("tuple");
    let conditions = match &place {
        None => Some(Vec::new()),
        Some(entry) => read_tuple(entry, factors, sink),
    };
    section.finish(sink);
    Some((SentinelSpec { every: every?, tuple: conditions? }, place.map(|entry| entry.span)))
}

/// Factors with a value each.
fn read_tuple(entry: &Entry<'_>, factors: &Table, sink: &mut Sink<'_>) -> Option<Vec<(String, super::Value)>> {
    let entries = entry.section(sink)?.rest();
    if entries.is_empty() {
        let error = Diagnostic::error(entry.span.clone(), "`sentinel.tuple` names no factor");
        sink.push(error.help("name factors with a value each: { testbed = \"netns\", pairs = 1 }"));
        return None;
    }
    let all = entries.len();
    let read = |(name, entry): &(&str, Entry<'_>)| parse_factors::read_choice(name, entry, factors, sink);
    let conditions: Vec<_> = entries.iter().filter_map(read).collect();
    (conditions.len() == all).then_some(conditions)
}
