//! `[stop]`: which tuples have been repeated often enough, by what is stored of them.
//!
//! Nothing is remembered that the iteration files do not say: whoever reads the same files comes to the same decision, so that a
//! campaign that was killed goes on as if it had not been.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use crate::analysis::stats::equivalence::Margin;
use crate::analysis::stats::stopping::{Course, StopRule};
use crate::ids::ShortHash;
use crate::plan::{Plan, identity};
use crate::record::Outcome;
use crate::spec::{StopSpec, nearest};
use crate::store::{self, AttemptName, Attempts, MetricError, Reading};

/// Follows the tuples of a campaign. Files are read once.
pub(crate) struct Stopping<'a> {
    plan: &'a Plan,
    out: &'a Path,
    spec: &'a StopSpec,
    rule: StopRule,
    /// `None` for attempts that are not complete or cannot be read.
    read: HashMap<AttemptName, Option<Complete>>,
    metrics: Vec<Known>,
}

/// A complete attempt.
#[derive(Debug, Clone)]
struct Complete {
    /// When it ended; those that do not say go last.
    finished_ns: i64,
    /// One for each metric.
    values: Vec<Option<f64>>,
}

/// What is known of one of the rule's metrics.
#[derive(Debug, Default)]
struct Known {
    /// That of its first value.
    unit: Option<String>,
    /// The metrics of a complete iteration that lacks it; `None` when none does.
    others: Option<Vec<String>>,
    /// Why it cannot be judged at all.
    problem: Option<String>,
}

/// What `[stop]` says of a campaign.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StopOverview {
    /// The metrics that are to be known.
    pub metrics: Vec<String>,
    /// How well, in percent of the mean.
    pub half_width_percent: f64,
    /// Fewest complete repetitions of a tuple.
    pub min: u32,
    /// Most repetitions.
    pub max: u32,
    /// In the order of the plan.
    pub tuples: Vec<TupleCourse>,
    /// Why no tuple ends early: a metric that no iteration has, or that several have; `None` when nothing stands against it.
    pub problem: Option<String>,
}

/// How far a tuple is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TupleCourse {
    /// Hash of the tuple.
    pub tuple: ShortHash,
    /// What its complete repetitions say.
    #[serde(flatten)]
    pub course: Course,
}

impl<'a> Stopping<'a> {
    /// `None` when the spec has no rule.
    pub(crate) fn new(plan: &'a Plan, out: &'a Path) -> Option<Self> {
        let spec = plan.spec.stop.as_ref()?;
        let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let half_width = Margin::Relative(spec.half_width.fraction());
        let rule = StopRule { half_width, min: size(spec.min), max: size(plan.spec.repetitions) };
        let metrics = spec.metrics.iter().map(|_| Known::default()).collect();
        Some(Self { plan, out, spec, rule, read: HashMap::new(), metrics })
    }

    /// How a tuple of the plan stands, by these attempts. Of several complete attempts at an iteration the first that ended counts.
    pub(super) fn course(&mut self, attempts: &Attempts, tuple: ShortHash) -> Course {
        let mut complete: Vec<(i64, u32, Vec<Option<f64>>)> = Vec::new();
        for repetition in 1..=self.plan.spec.repetitions {
            let names = attempts.of(identity(tuple, repetition));
            let all: Vec<Complete> = names.iter().filter_map(|&name| self.read(name)).collect();
            if let Some(first) = all.into_iter().min_by_key(|attempt| attempt.finished_ns) {
                complete.push((first.finished_ns, repetition, first.values));
            }
        }
        complete.sort_by_key(|(finished_ns, repetition, _)| (*finished_ns, *repetition));
        let rows: Vec<Vec<Option<f64>>> = complete.into_iter().map(|(_, _, values)| values).collect();
        self.rule.follow(self.spec.metrics.len(), &rows)
    }

    /// The complete attempt of that name; what cannot be read does not count and stays where it is.
    fn read(&mut self, name: AttemptName) -> Option<Complete> {
        if let Some(known) = self.read.get(&name) {
            return known.clone();
        }
        let found = self.read_file(name).unwrap_or_else(|error| {
            tracing::warn!("{:#}: it counts as not complete", anyhow::Error::from(error));
            None
        });
        self.read.insert(name, found.clone());
        found
    }

    fn read_file(&mut self, name: AttemptName) -> Result<Option<Complete>, store::StoreError> {
        let head = store::head(self.out, name)?;
        if head.outcome != Outcome::Complete {
            return Ok(None);
        }
        let measured = store::measured(self.out, name, &self.spec.metrics)?;
        let values = measured.into_iter().zip(&mut self.metrics).map(|(found, metric)| match found {
            Ok(store::Measured { reading: Reading::Value { mean, .. }, unit }) => Some(metric.in_one_unit(mean, unit)),
            Ok(_) => None,
            Err(MetricError::Unknown { known, .. }) => {
                metric.others = Some(known);
                None
            }
            Err(error) => {
                metric.problem = Some(error.to_string());
                None
            }
        });
        Ok(Some(Complete { finished_ns: head.finished_ns.unwrap_or(i64::MAX), values: values.collect() }))
    }

    /// Why no tuple can end early, as far as the files that were read tell.
    pub(super) fn problem(&self) -> Option<String> {
        let lacking = |(known, name): (&Known, &String)| {
            known.problem.clone().or_else(|| known.unit.is_none().then(|| known.missing(name)).flatten())
        };
        self.metrics.iter().zip(&self.spec.metrics).find_map(lacking)
    }

    /// Is there anything wrong that more iterations will not mend? A metric that is ambiguous, or that is in no complete iteration
    /// although each tuple has one.
    pub(crate) fn hopeless(&self, attempts: &Attempts) -> Option<String> {
        let problem = self.problem()?;
        let is_complete = |name: &AttemptName| self.read.get(name).is_some_and(Option::is_some);
        let has_one = |tuple: ShortHash| {
            (1..=self.plan.spec.repetitions).any(|n| attempts.of(identity(tuple, n)).iter().any(is_complete))
        };
        let certain = self.metrics.iter().any(|metric| metric.problem.is_some());
        (certain || self.plan.tuples.iter().all(|planned| has_one(planned.id))).then_some(problem)
    }

    /// How all tuples stand.
    pub(super) fn overview(&mut self, attempts: &Attempts) -> StopOverview {
        let ids: Vec<ShortHash> = self.plan.tuples.iter().map(|planned| planned.id).collect();
        let tuples = ids.into_iter().map(|tuple| TupleCourse { tuple, course: self.course(attempts, tuple) }).collect();
        StopOverview {
            metrics: self.spec.metrics.clone(),
            // As written in the spec, not as it is to the last bit.
            half_width_percent: (1e11 * self.spec.half_width.fraction()).round() / 1e9,
            min: self.spec.min,
            max: self.plan.spec.repetitions,
            tuples,
            problem: self.problem(),
        }
    }
}

impl Known {
    /// A value in another unit than the first one is not a number here: a mean over both would be none.
    fn in_one_unit(&mut self, value: f64, unit: String) -> f64 {
        if *self.unit.get_or_insert_with(|| unit.clone()) == unit { value } else { f64::NAN }
    }

    /// That a complete iteration lacks it; `None` when none does.
    fn missing(&self, name: &str) -> Option<String> {
        let others = self.others.as_ref()?;
        let near = nearest(name, others.iter().map(String::as_str));
        let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        Some(format!("no complete iteration has a metric `{name}` that `[stop]` names{hint}"))
    }
}
