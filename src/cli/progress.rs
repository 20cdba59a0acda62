//! Shows a running campaign: a bar with ETA on a terminal, plain lines elsewhere. Everything goes to standard error.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Verbosity;
use crate::host::host_name;
use crate::ids::IterationNumber;
use crate::plan::{Plan, Slot};
use crate::record::{IterationRecord, Status};
use crate::runner::{Observer, Progress};
use crate::spec::Tuple;

/// Between two plain lines that tell the estimated time left.
const ESTIMATE_EVERY: Duration = Duration::from_secs(10);

/// Shows progress; see the module.
pub(super) struct Display {
    verbosity: Verbosity,
    labels: Labels,
    /// Name of this host.
    here: String,
    state: Mutex<State>,
}

struct State {
    bar: Option<ProgressBar>,
    begun: Instant,
    /// Iterations of this run: all, and those that ended.
    to_do: usize,
    ended: usize,
    outcomes: BTreeMap<Status, usize>,
    estimated: Instant,
}

impl Display {
    pub(super) fn new(verbosity: Verbosity, plan: &Plan) -> Self {
        let now = Instant::now();
        let state = State { bar: None, begun: now, to_do: 0, ended: 0, outcomes: BTreeMap::new(), estimated: now };
        Self { verbosity, labels: Labels::new(plan), here: host_name(), state: Mutex::new(state) }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Some(bar) = self.state.lock().unwrap_or_else(PoisonError::into_inner).bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Display {
    fn notice(&self, news: &Progress<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match news {
            Progress::Campaign { planned, complete, settled, to_do } => {
                state.to_do = *to_do;
                if !self.verbosity.quiet {
                    let settled = if *settled > 0 { format!("{settled} not needed, ") } else { String::new() };
                    state.line(&format!("{planned} iterations planned, {complete} complete, {settled}{to_do} to run"));
                    state.show_bar(*to_do);
                }
            }
            Progress::Recovered { number, text } => self.line(&mut state, &format!("iteration {number}: {text}")),
            Progress::Elsewhere { number, by } => {
                self.line(&mut state, &format!("iteration {number} is being run by {by}: left to it"));
            }
            Progress::Settled { number, repetitions, spared } => {
                state.spare(*spared);
                let tuple = self.labels.tuple(*number);
                let text = format!("{tuple}: known well enough after {repetitions} repetitions, {spared} are not run");
                self.line(&mut state, text.trim_start_matches(": "));
            }
            Progress::Needless => state.spare(1),
            Progress::NotJudged { text } | Progress::Note { text } => self.line(&mut state, text),
            Progress::Begin { number, attempt } => {
                state.message(&self.labels.of(*number));
                if self.verbosity.verbose > 0 {
                    state.line(&format!("iteration {number}: attempt {attempt}: {}", self.labels.of(*number)));
                }
            }
            Progress::Stage { number, stage } if self.verbosity.verbose > 0 => {
                state.line(&format!("iteration {number}: {stage}"));
            }
            Progress::Stage { .. } => {}
            Progress::Event { number, level, text } => {
                if self.verbosity.verbose > 0 {
                    state.line(&format!("iteration {number}: {}: {text}", level.as_str()));
                }
            }
            Progress::End { record, wall, again, .. } => self.ended(&mut state, record, *wall, *again),
        }
    }
}

impl Display {
    fn line(&self, state: &mut State, text: &str) {
        if !self.verbosity.quiet {
            state.line(text);
        }
    }

    fn ended(&self, state: &mut State, record: &IterationRecord, wall: Duration, again: bool) {
        let status = record.outcome.status();
        if !again {
            *state.outcomes.entry(status).or_default() += 1;
            state.ended += 1;
        }
        let number = record.header.number;
        let mut line = format!(
            "{:>width$}/{}  {status:<11} {:>7.2} s  {}",
            state.ended,
            state.to_do,
            wall.as_secs_f64(),
            self.labels.of(number),
            width = state.to_do.to_string().len(),
        );
        if record.header.host != self.here {
            line.push_str(&format!("  on {}", record.header.host));
        }
        if again {
            line.push_str("  (will be tried again)");
        }
        for reason in record.outcome.reasons() {
            line.push_str(&format!("\n    iteration {number}: {reason}"));
        }
        let failed = !matches!(status, Status::Complete | Status::Suspect) && !again;
        if failed && self.verbosity.quiet {
            state.line(&line);
        } else if status != Status::Complete || state.bar.is_none() {
            self.line(state, &line);
        }
        state.advance();
        let due = state.estimated.elapsed() > ESTIMATE_EVERY && state.ended < state.to_do;
        if state.bar.is_none() && due && !self.verbosity.quiet {
            state.estimated = Instant::now();
            let text = state.estimate();
            state.line(&text);
        }
    }
}

impl State {
    fn show_bar(&mut self, to_do: usize) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {prefix}  left {eta}  {wide_msg}")
            .expect("the template is valid");
        let bar = ProgressBar::with_draw_target(Some(to_do as u64), ProgressDrawTarget::stderr()).with_style(style);
        bar.enable_steady_tick(Duration::from_secs(1));
        self.bar = Some(bar);
    }

    /// So many iterations need not be run.
    fn spare(&mut self, iterations: usize) {
        self.to_do = self.to_do.saturating_sub(iterations);
        if let Some(bar) = &self.bar {
            bar.set_length(self.to_do as u64);
        }
    }

    fn message(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    fn advance(&self) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.ended as u64);
            bar.set_prefix(self.counts());
        }
    }

    fn counts(&self) -> String {
        let parts: Vec<_> = self.outcomes.iter().map(|(status, count)| format!("{count} {status}")).collect();
        parts.join(", ")
    }

    fn estimate(&self) -> String {
        let ended = u32::try_from(self.ended).unwrap_or(u32::MAX).max(1);
        let left = u32::try_from(self.to_do.saturating_sub(self.ended)).unwrap_or(u32::MAX);
        let remaining = (self.begun.elapsed() / ended).saturating_mul(left);
        format!("{} of {} done ({}), about {} left", self.ended, self.to_do, self.counts(), coarse(remaining))
    }

    fn line(&self, text: &str) {
        // Nothing can be done about a closed standard error.
        let print = || drop(writeln!(std::io::stderr().lock(), "{text}"));
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// `42 s`, `17 min`, `3.5 h`: no more precision than an estimate has.
pub(super) fn coarse(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..=99 => format!("{seconds} s"),
        seconds @ 100..=5_999 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{:.1} h", Duration::from_secs(seconds).as_secs_f64() / 3600.0),
    }
}

/// Texts that tell iterations apart: the factors that vary in the plan, and the repetition.
struct Labels {
    /// By index of the tuple in the plan.
    tuples: Vec<String>,
    slots: Vec<Slot>,
}

impl Labels {
    fn new(plan: &Plan) -> Self {
        let mut values: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for planned in &plan.tuples {
            for (name, value) in planned.tuple.iter() {
                values.entry(name).or_default().insert(value.to_string());
            }
        }
        let varies = |name: &str| values.get(name).is_some_and(|all| all.len() > 1);
        let text = |tuple: &Tuple| {
            let parts = tuple.iter().filter(|(name, _)| varies(name));
            parts.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("  ")
        };
        Self {
            tuples: plan.tuples.iter().map(|planned| text(&planned.tuple)).collect(),
            slots: plan.iterations.clone(),
        }
    }

    fn slot(&self, number: IterationNumber) -> Option<&Slot> {
        let index = usize::try_from(number.0).ok().and_then(|n| n.checked_sub(1));
        index.and_then(|index| self.slots.get(index))
    }

    /// The tuple of an iteration; empty where nothing varies.
    fn tuple(&self, number: IterationNumber) -> &str {
        self.slot(number).map_or("", |slot| &self.tuples[slot.tuple as usize])
    }

    fn of(&self, number: IterationNumber) -> String {
        self.slot(number).map_or_else(
            || format!("iteration {number}"),
            |slot| format!("{}  #{}", self.tuples[slot.tuple as usize], slot.repetition),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_coarse() {
        for (seconds, text) in [(0, "0 s"), (99, "99 s"), (100, "2 min"), (3600, "60 min"), (12_600, "3.5 h")] {
            assert_eq!(coarse(Duration::from_secs(seconds)), text);
        }
    }
}
