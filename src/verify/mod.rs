//! Checks around the workload: settings in force, path as asked, host quiet, client not the bottleneck, captures
//! whole and in agreement.
//!
//! Pure: observations and thresholds in, a [`Verdict`] out. Each check leaves an event, passed or not, with its
//! numbers; a check that is switched off says so. A check that cannot be made for want of data never passes silently:
//! it warns, and makes the iteration suspect where the data is what the iteration stands on (settings, captures).

mod captures;
mod host;
mod linktest;
mod nodes;
mod settings;

pub use captures::{Traffic, captures, vantages};
pub use host::{host, unwatched};
pub use linktest::{Way, link_bandwidth, link_connectivity, link_loss, link_routing, loss_share, measured};
pub use nodes::{ClientRun, client_cpu, paths, start_skew};
pub use settings::{changes, settings};

use crate::ids::Stage;
use crate::record::{Event, EventLevel, Outcome, Problem, Weight};
use crate::units::Percent;

/// What checks found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct Verdict {
    /// Why the iteration did not measure what was asked.
    pub invalid: Vec<String>,
    /// What could bias it.
    pub suspect: Vec<String>,
    /// What was checked, with the numbers.
    pub events: Vec<Note>,
}

/// An event without its time and stage, which the caller knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// How much it matters.
    pub level: EventLevel,
    /// What was found.
    pub text: String,
}

impl Verdict {
    /// Nothing found yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what another check found.
    pub fn add(&mut self, other: Self) {
        self.invalid.extend(other.invalid);
        self.suspect.extend(other.suspect);
        self.events.extend(other.events);
    }

    /// Adds what instruments reported.
    pub fn add_problems(&mut self, problems: impl IntoIterator<Item = Problem>) {
        for Problem { weight, text } in problems {
            match weight {
                Weight::Invalid => self.invalid(text),
                Weight::Suspect => self.suspect(text),
            }
        }
    }

    /// Adds what a workload's outputs say.
    pub fn add_workload(
        &mut self,
        invalid: impl IntoIterator<Item = String>,
        suspect: impl IntoIterator<Item = String>,
    ) {
        invalid.into_iter().for_each(|text| self.invalid(text));
        suspect.into_iter().for_each(|text| self.suspect(text));
    }

    /// The notes as events of `stage` at `at_ns` (nanoseconds since 1970-01-01 UTC).
    pub fn events_at(&self, stage: Stage, at_ns: i64) -> Vec<Event> {
        let event = |note: &Note| Event { at_ns, stage, level: note.level, text: note.text.clone() };
        self.events.iter().map(event).collect()
    }

    /// How an iteration ends that has run to its end. Reasons of an invalid one include what else could bias it.
    pub fn outcome(self) -> Outcome {
        let Self { mut invalid, suspect, events: _ } = self;
        match (invalid.is_empty(), suspect.is_empty()) {
            (true, true) => Outcome::Complete,
            (true, false) => Outcome::Suspect(suspect),
            (false, _) => {
                invalid.extend(suspect);
                Outcome::Invalid(invalid)
            }
        }
    }

    fn note(&mut self, level: EventLevel, text: String) {
        self.events.push(Note { level, text });
    }

    fn passed(&mut self, text: impl Into<String>) {
        self.note(EventLevel::Info, text.into());
    }

    fn unknown(&mut self, text: impl Into<String>) {
        self.note(EventLevel::Warn, text.into());
    }

    fn off(&mut self, check: &str) {
        self.note(EventLevel::Info, format!("{check}: check switched off"));
    }

    fn suspect(&mut self, text: String) {
        self.note(EventLevel::Warn, text.clone());
        self.suspect.push(text);
    }

    fn invalid(&mut self, text: String) {
        self.note(EventLevel::Error, text.clone());
        self.invalid.push(text);
    }
}

/// `12.3 %`; small shares keep their digits.
fn percent(share: f64) -> String {
    let value = share * 100.0;
    if value >= 1.0 || value == 0.0 { format!("{value:.1} %") } else { format!("{value:.2} %") }
}

/// Is `share` (1 is the whole) at or above the threshold?
fn reaches(share: f64, threshold: Percent) -> bool {
    share >= threshold.fraction()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(invalid: &[&str], suspect: &[&str]) -> Verdict {
        let mut verdict = Verdict::new();
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        verdict.add_workload(own(invalid), own(suspect));
        verdict
    }

    #[test]
    fn the_worst_finding_decides() {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let cases = [
            (verdict(&[], &[]), Outcome::Complete),
            (verdict(&[], &["a", "b"]), Outcome::Suspect(own(&["a", "b"]))),
            (verdict(&["c"], &[]), Outcome::Invalid(own(&["c"]))),
            (verdict(&["c"], &["a"]), Outcome::Invalid(own(&["c", "a"]))),
        ];
        for (verdict, expected) in cases {
            assert_eq!(verdict.outcome(), expected);
        }
    }

    #[test]
    fn every_reason_is_an_event() {
        let mut sum = verdict(&["a"], &["b"]);
        sum.add(verdict(&[], &["c"]));
        sum.add_problems([Problem { weight: Weight::Invalid, text: "d".to_owned() }]);
        let events = sum.events_at(Stage::Collect, 7);
        let found: Vec<_> = events.iter().map(|event| (event.text.as_str(), event.level)).collect();
        let (warn, error) = (EventLevel::Warn, EventLevel::Error);
        assert_eq!(found, [("a", error), ("b", warn), ("c", warn), ("d", error)]);
        assert!(events.iter().all(|event| event.at_ns == 7 && event.stage == Stage::Collect));
    }
}
