//! `[storage]`: what is kept of the files beside an iteration's own, and in which form.

use std::fmt;

use super::diagnostic::Diagnostic;
use super::parse::MOST_REPETITIONS;
use super::read::{Entry, Section, Sink};
use super::{CaptureSpec, InstrumentSpec};
use crate::record::Status;

/// zstd's own, quick and good enough for headers of packets.
const DEFAULT_LEVEL: i32 = 3;
/// Above it zstd needs hundreds of megabytes, here and to unpack.
const HIGHEST_LEVEL: i32 = 19;

const RULE_ACCEPTED: &str = "`\"all\"`, `\"none\"`, `\"problems\"`, `\"first 3\"`, or a list of the last two";

/// `[storage]`. It is no part of what an iteration is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StorageSpec {
    /// Which captures that `capture.keep` has written stay. Default all.
    pub captures: KeepRule,
    /// Which logs of single events stay, which are those of system calls. Default all.
    pub events: KeepRule,
    /// Which files of the nodes stay: those that the workload names, and consoles. Default all.
    pub outputs: KeepRule,
    /// Level at which zstd compresses what stays, 1 to 19; `None`, the default, leaves files as they are.
    pub compress: Option<i32>,
    /// Store equal files once. Default `false`.
    pub deduplicate: bool,
}

/// Of which attempts files stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepRule {
    /// Of all.
    #[default]
    All,
    /// Of those for which one of these holds; of none where nothing does.
    Those {
        /// It ended in another way than complete.
        problems: bool,
        /// It is one at a repetition up to this.
        first: u32,
    },
}

impl KeepRule {
    /// Of no attempt.
    pub const NONE: Self = Self::Those { problems: false, first: 0 };

    /// Do files of such an attempt stay? `repetition` is from 1.
    pub fn keeps(self, status: Status, repetition: u32) -> bool {
        match self {
            Self::All => true,
            Self::Those { problems, first } => repetition <= first || (problems && status != Status::Complete),
        }
    }

    /// Share of a tuple's attempts whose files stay when all of them are complete.
    pub fn share(self, repetitions: u32) -> f64 {
        match self {
            Self::All => 1.0,
            Self::Those { first, .. } => f64::from(first.min(repetitions)) / f64::from(repetitions.max(1)),
        }
    }
}

/// As in a spec.
impl fmt::Display for KeepRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::All => f.write_str("\"all\""),
            Self::Those { problems: false, first: 0 } => f.write_str("\"none\""),
            Self::Those { problems: true, first: 0 } => f.write_str("\"problems\""),
            Self::Those { problems: false, first } => write!(f, "\"first {first}\""),
            Self::Those { problems: true, first } => write!(f, "[\"problems\", \"first {first}\"]"),
        }
    }
}

pub(super) fn read(
    entry: &Entry<'_>,
    capture: &CaptureSpec,
    instrument: &InstrumentSpec,
    sink: &mut Sink<'_>,
) -> StorageSpec {
    let Some(mut section) = entry.section(sink) else { return StorageSpec::default() };
    let of_calls = instrument.syscalls.is_some_and(|syscalls| syscalls.log);
    let storage = StorageSpec {
        captures: read_rule_of(section.take("captures"), capture.keep, "`capture.keep`", sink),
        events: read_rule_of(section.take("events"), of_calls, "`instrument.syscalls.log`", sink),
        outputs: section.take("outputs").and_then(|entry| read_rule(&entry, sink)).unwrap_or_default(),
        compress: read_compression(&mut section, sink),
        deduplicate: section.take("deduplicate").and_then(|e| e.switch(sink)).unwrap_or_default(),
    };
    section.finish(sink);
    storage
}

/// The rule for files that are only written where `switch` is on.
fn read_rule_of(entry: Option<Entry<'_>>, is_written: bool, switch: &str, sink: &mut Sink<'_>) -> KeepRule {
    let Some(entry) = entry else { return KeepRule::default() };
    let rule = read_rule(&entry, sink);
    if rule.is_some() && !is_written {
        let message = format!("`{}` says which files stay, but none are written", entry.path);
        sink.push(Diagnostic::warning(entry.span.clone(), message).help(format!("{switch} has them written")));
    }
    rule.unwrap_or_default()
}

fn read_rule(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<KeepRule> {
    let items = entry.one_or_more();
    let (mut problems, mut first) = (None, None);
    for item in &items {
        let slot = match item.value.as_str() {
            // Beside another rule these would say nothing, or take back what it says.
            Some("all") if items.len() == 1 => return Some(KeepRule::All),
            Some("none") if items.len() == 1 => return Some(KeepRule::NONE),
            Some("problems") => (&mut problems, 1),
            Some(text) => match read_first(text) {
                Some(count) => (&mut first, count),
                None => return refused(item, sink),
            },
            None => return refused(item, sink),
        };
        if slot.0.replace(slot.1).is_some() {
            let message = format!("`{}` says `{}` besides another of its kind", entry.path, sink.written(&item.span));
            sink.push(Diagnostic::error(item.span.clone(), message).help("leave one of them out"));
            return None;
        }
    }
    if items.is_empty() {
        return refused(entry, sink);
    }
    Some(KeepRule::Those { problems: problems.is_some(), first: first.unwrap_or(0) })
}

fn refused(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<KeepRule> {
    let names = ["all", "none", "problems"];
    let near = entry.value.as_str().and_then(|text| super::nearest(text, names));
    let near = near.filter(|near| entry.value.as_str() != Some(near));
    entry.refuse_with_help(sink, RULE_ACCEPTED, near.map(|near| format!("did you mean `\"{near}\"`?")));
    None
}

/// `first 3`
fn read_first(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("first ")?.trim();
    let is_plain = digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|count| is_plain && (1..=MOST_REPETITIONS).contains(count))
}

fn read_compression(section: &mut Section<'_>, sink: &mut Sink<'_>) -> Option<i32> {
    let compress = section.take("compress");
    let is_on = compress.as_ref().and_then(|e| e.choice(sink, &[("zstd", true), ("none", false)])).unwrap_or(false);
    let level = section.take("level");
    if let (Some(level), false) = (&level, is_on) {
        let message = "`storage.level` is that of a compression, and nothing is compressed";
        let mut error = Diagnostic::error(level.span.clone(), message);
        if let Some(compress) = compress {
            error = error.related(compress.span, "not compressed");
        }
        sink.push(error.help("add `compress = \"zstd\"`, or leave `level` out"));
    }
    let level = level.map_or(Some(DEFAULT_LEVEL), |entry| entry.integer(sink, 1, HIGHEST_LEVEL));
    level.filter(|_| is_on)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_keep_what_they_say() {
        let both = KeepRule::Those { problems: true, first: 2 };
        let problems = KeepRule::Those { problems: true, first: 0 };
        let first = KeepRule::Those { problems: false, first: 2 };
        for status in Status::ALL {
            let is_problem = status != Status::Complete;
            for repetition in [1, 2, 3] {
                let keeps = |rule: KeepRule| rule.keeps(status, repetition);
                assert!(keeps(KeepRule::All) && !keeps(KeepRule::NONE), "{status} {repetition}");
                assert_eq!(keeps(problems), is_problem, "{status} {repetition}");
                assert_eq!(keeps(first), repetition <= 2, "{status} {repetition}");
                assert_eq!(keeps(both), is_problem || repetition <= 2, "{status} {repetition}");
            }
        }
        assert_eq!([KeepRule::All, KeepRule::NONE, both].map(|rule| rule.share(10)), [1.0, 0.0, 0.2]);
        assert!((first.share(1) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_rule_is_shown_as_it_is_written() {
        for text in ["\"all\"", "\"none\"", "\"problems\"", "\"first 12\"", "[\"problems\", \"first 3\"]"] {
            let spec = format!("name = \"t\"\nworkload = \"ab\"\n[storage]\noutputs = {text}\n");
            assert_eq!(super::super::Spec::parse(&spec).unwrap().storage.outputs.to_string(), text);
        }
    }
}
