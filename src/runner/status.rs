//! How far a campaign is: its plan beside what is stored.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::campaign::watches_nothing;
use super::running::{self, Running};
use super::stopping::{StopOverview, Stopping};
use crate::ids::ShortHash;
use crate::plan::Plan;
use crate::record::{Outcome, Status};
use crate::store::{self, AttemptHead, Attempts};

/// How far a campaign is. Iterations count once, by their best attempt: a complete one, or else the last.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    /// Name of the sweep.
    pub name: String,
    /// Iterations of the plan.
    pub planned: usize,
    /// Of these, complete.
    pub complete: usize,
    /// Of these, still to be run: not complete, and of a tuple that is not settled.
    pub left: usize,
    /// Of these, never tried and not to be run: `[stop]` says that their tuples have been repeated often enough.
    pub settled: usize,
    /// Iterations of the plan that were tried, by status.
    pub by_status: BTreeMap<Status, usize>,
    /// Iterations of the plan never tried and still to be run.
    pub untried: usize,
    /// Attempts stored for the plan's iterations.
    pub attempts: usize,
    /// Iteration files of no iteration of the plan (an earlier plan's).
    pub foreign: usize,
    /// Why attempts that count were not complete, most frequent first.
    pub reasons: Vec<Reasons>,
    /// Median duration of complete attempts, in seconds; `None` without one.
    pub median_seconds: Option<f64>,
    /// Estimate for what is left at that pace, in seconds; `None` without a complete attempt.
    pub left_seconds: Option<f64>,
    /// What is being run now.
    pub running: Vec<Running>,
    /// Attempts whose process is gone; the next run stores them as interrupted.
    pub dead: usize,
    /// Files that cannot be read: name and error.
    pub unreadable: Vec<(String, String)>,
    /// How far tuples are by `[stop]`; `None` when the spec has no such rule.
    pub stop: Option<StopOverview>,
    /// Do the iterations run on other hosts now?
    pub on_hosts: bool,
    /// Of each factor that varies how far its values are; sentinels do not count.
    pub factors: Vec<FactorProgress>,
    /// What came from each host, by name.
    pub hosts: Vec<HostProgress>,
}

/// How far the values of a factor are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FactorProgress {
    /// Name of the factor.
    pub name: String,
    /// In the order of the spec.
    pub values: Vec<ValueProgress>,
}

/// How far a value is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ValueProgress {
    /// The value.
    pub value: String,
    /// Iterations of the plan that have it.
    pub planned: usize,
    /// Of these, complete.
    pub complete: usize,
    /// Of these, tried and not complete.
    pub not_complete: usize,
}

/// What came from a host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostProgress {
    /// Its name.
    pub host: String,
    /// Attempts at iterations of the plan that were run on it.
    pub attempts: usize,
    /// Of these, complete.
    pub complete: usize,
    /// Median duration of these, in seconds; `None` without one.
    pub median_seconds: Option<f64>,
    /// When the last of its attempts ended, in nanoseconds since 1970; `None` when none did.
    pub last_ns: Option<i64>,
}

/// Reasons that differ in their numbers and details only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reasons {
    /// One of them.
    pub example: String,
    /// How many there are.
    pub count: usize,
}

/// Reads how far the campaign in `out` is.
pub fn overview(plan: &Plan, out: &Path) -> anyhow::Result<Overview> {
    let (mut names, mut identities, mut heads) = (Vec::new(), Vec::new(), Vec::new());
    let mut unreadable = Vec::new();
    // They come in the order of their identities.
    for (name, head) in store::heads(out)? {
        names.push(name);
        match head {
            Ok(head) => {
                identities.push(name.identity);
                heads.push(head);
            }
            Err(error) => unreadable.push((name.to_string(), format!("{:#}", anyhow::Error::from(error)))),
        }
    }
    let found = running::find(out)?;
    // Without a rule to stop by, nobody asks.
    let stored: Attempts = if plan.spec.stop.is_some() { names.into_iter().collect() } else { Attempts::default() };
    let stop = Stopping::new(plan, out).map(|mut stopping| stopping.overview(&stored));
    let tuples = stop.iter().flat_map(|stop| &stop.tuples);
    let settled: HashSet<ShortHash> = tuples.filter(|one| one.course.is_settled()).map(|one| one.tuple).collect();
    let mut tally = Tally::default();
    let mut tuples = vec![TupleProgress::default(); plan.tuples.len()];
    for (iteration, slot) in plan.iter().zip(&plan.iterations) {
        let from = identities.partition_point(|identity| *identity < iteration.identity);
        let after = identities.partition_point(|identity| *identity <= iteration.identity);
        let attempts = &heads[from..after];
        let is_settled = |tuple: ShortHash| settled.contains(&tuple);
        let is_spared = match iteration.sentinel {
            true => watches_nothing(plan, &stored, iteration.number, is_settled),
            false => is_settled(iteration.tuple_id),
        };
        if !iteration.sentinel {
            tuples[slot.tuple as usize].add(attempts);
        }
        tally.add(attempts, is_spared);
    }
    let complete = tally.by_status.get(&Status::Complete).copied().unwrap_or(0);
    let left = tally.left;
    let median = median(&mut tally.durations);
    let hosts = tally.hosts();
    #[expect(clippy::cast_precision_loss, reason = "counts of iterations are far below 2^53")]
    let left_seconds = median.map(|median| median * left as f64 / found.alive.len().max(1) as f64);
    Ok(Overview {
        name: plan.spec.name.clone(),
        planned: plan.iterations.len(),
        complete,
        left,
        settled: tally.settled,
        untried: tally.untried,
        attempts: tally.attempts,
        foreign: heads.len() - tally.attempts,
        reasons: tally.reasons(),
        by_status: tally.by_status,
        median_seconds: median,
        left_seconds,
        running: found.alive,
        dead: found.dead.len(),
        unreadable,
        stop,
        on_hosts: running::Whereabouts::is_on_hosts(out),
        factors: factors(plan, &tuples),
        hosts,
    })
}

/// Iterations of a tuple.
#[derive(Debug, Clone, Copy, Default)]
struct TupleProgress {
    planned: usize,
    complete: usize,
    not_complete: usize,
}

impl TupleProgress {
    fn add(&mut self, attempts: &[AttemptHead]) {
        let is_complete = attempts.iter().any(|head| head.outcome == Outcome::Complete);
        self.planned += 1;
        self.complete += usize::from(is_complete);
        self.not_complete += usize::from(!is_complete && !attempts.is_empty());
    }
}

/// Of each factor that varies how far its values are.
fn factors(plan: &Plan, tuples: &[TupleProgress]) -> Vec<FactorProgress> {
    let mut all = Vec::new();
    for factor in &plan.spec.factors {
        let mut values: Vec<ValueProgress> = Vec::new();
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        for value in &factor.values {
            let text = value.to_string();
            places.entry(text.clone()).or_insert_with(|| {
                values.push(ValueProgress { value: text, planned: 0, complete: 0, not_complete: 0 });
                values.len() - 1
            });
        }
        for (planned, progress) in plan.tuples.iter().zip(tuples) {
            // Where the factor means nothing, it has no value.
            let place = planned.tuple.get(&factor.name).and_then(|value| places.get(&value.to_string()));
            if let Some(value) = place.map(|&place| &mut values[place]) {
                value.planned += progress.planned;
                value.complete += progress.complete;
                value.not_complete += progress.not_complete;
            }
        }
        values.retain(|value| value.planned > 0);
        if values.len() > 1 {
            all.push(FactorProgress { name: factor.name.clone(), values });
        }
    }
    all
}

/// What came from a host.
#[derive(Default)]
struct OneHost {
    attempts: usize,
    durations: Vec<f64>,
    last_ns: Option<i64>,
}

#[derive(Default)]
struct Tally {
    by_status: BTreeMap<Status, usize>,
    untried: usize,
    settled: usize,
    left: usize,
    attempts: usize,
    durations: Vec<f64>,
    hosts: BTreeMap<String, OneHost>,
    /// By their text without numbers and details.
    reasons: BTreeMap<String, Reasons>,
}

impl Tally {
    fn add(&mut self, attempts: &[AttemptHead], settled: bool) {
        self.attempts += attempts.len();
        self.durations.extend(attempts.iter().filter_map(seconds));
        for head in attempts {
            let host = match self.hosts.get_mut(&head.host) {
                Some(host) => host,
                None => self.hosts.entry(head.host.clone()).or_default(),
            };
            host.attempts += 1;
            host.durations.extend(seconds(head));
            host.last_ns = host.last_ns.max(head.finished_ns);
        }
        let complete = attempts.iter().find(|head| head.outcome == Outcome::Complete);
        self.left += usize::from(complete.is_none() && !settled);
        let Some(counts) = complete.or(attempts.last()) else {
            *(if settled { &mut self.settled } else { &mut self.untried }) += 1;
            return;
        };
        *self.by_status.entry(counts.outcome.status()).or_default() += 1;
        for reason in counts.outcome.reasons() {
            let kind = kind(&reason);
            self.reasons.entry(kind).or_insert(Reasons { example: reason, count: 0 }).count += 1;
        }
    }

    fn hosts(&mut self) -> Vec<HostProgress> {
        let all = std::mem::take(&mut self.hosts).into_iter();
        all.map(|(host, mut one)| HostProgress {
            host,
            attempts: one.attempts,
            complete: one.durations.len(),
            median_seconds: median(&mut one.durations),
            last_ns: one.last_ns,
        })
        .collect()
    }

    fn reasons(&self) -> Vec<Reasons> {
        let mut all: Vec<_> = self.reasons.values().cloned().collect();
        all.sort_by_key(|reasons| std::cmp::Reverse(reasons.count));
        all
    }
}

/// The text up to its first semicolon, without digits: what reasons of one kind share.
fn kind(reason: &str) -> String {
    let text = reason.split(';').next().unwrap_or(reason);
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Duration of a complete attempt.
fn seconds(head: &AttemptHead) -> Option<f64> {
    let nanoseconds = u64::try_from(head.finished_ns?.checked_sub(head.started_ns)?).ok()?;
    (head.outcome == Outcome::Complete).then(|| Duration::from_nanos(nanoseconds).as_secs_f64())
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Stage;

    fn head(outcome: Outcome, seconds: i64) -> AttemptHead {
        AttemptHead { outcome, started_ns: 5, finished_ns: Some(5 + seconds * 1_000_000_000), host: "here".to_owned() }
    }

    #[test]
    fn an_iteration_counts_by_its_complete_attempt_or_its_last() {
        let failed = || Outcome::Failed { stage: Stage::Launch, error: "x".to_owned() };
        let mut tally = Tally::default();
        let mut add = |attempts: &[AttemptHead]| tally.add(attempts, false);
        add(&[head(failed(), 1), head(Outcome::Complete, 3), head(Outcome::TimedOut { stage: Stage::Verify }, 9)]);
        add(&[head(Outcome::Invalid(vec!["y".to_owned()]), 1), head(failed(), 2)]);
        add(&[]);
        assert_eq!(tally.by_status, BTreeMap::from([(Status::Complete, 1), (Status::Failed, 1)]));
        assert_eq!((tally.untried, tally.attempts, tally.left, tally.settled), (1, 5, 2, 0));
        assert_eq!(tally.reasons(), [Reasons { example: "launch: x".to_owned(), count: 1 }]);
        assert_eq!(tally.durations, [3.0]);
    }

    #[test]
    fn reasons_of_one_kind_are_counted_together() {
        let suspect = |text: &str| head(Outcome::Suspect(vec![text.to_owned()]), 1);
        let mut tally = Tally::default();
        for reason in ["load 20.5 %; by a", "load 7 %", "load 30.1 %; by b (process 7)", "load 20.5 % more"] {
            tally.add(&[suspect(reason)], false);
        }
        let counts: Vec<_> = tally.reasons().iter().map(|reasons| (reasons.count, reasons.example.clone())).collect();
        assert_eq!(
            counts,
            [(2, "load 20.5 %; by a".to_owned()), (1, "load 7 %".to_owned()), (1, "load 20.5 % more".to_owned())]
        );
    }

    #[test]
    fn what_a_settled_tuple_lacks_is_neither_left_nor_untried() {
        let mut tally = Tally::default();
        let failed = Outcome::Failed { stage: Stage::Launch, error: "x".to_owned() };
        for attempts in [vec![head(Outcome::Complete, 1)], vec![head(failed, 1)], Vec::new(), Vec::new()] {
            tally.add(&attempts, true);
        }
        assert_eq!(tally.by_status, BTreeMap::from([(Status::Complete, 1), (Status::Failed, 1)]));
        assert_eq!((tally.untried, tally.left, tally.settled), (0, 0, 2));
    }

    #[test]
    fn the_median_of_nothing_is_not_zero() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0, 1.0]), Some(2.0));
        assert_eq!(median(&mut [3.0, 1.0, 9.0]), Some(3.0));
    }
}
