//! Metrics of all iterations, one value for each iteration.
//!
//! An iteration is what the plan says it is: one identity, however often and on however many hosts it was tried. One of
//! its attempts stands for it, chosen by status and time alone, never by what was measured.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::conditions::Conditions;
use super::error::StoreError;
use super::load::{Loaded, Loader};
use super::query::{Database, LeftOut, MetricError, Observation, Observations, Rank};
use super::schema::TableId;
use crate::ids::{Better, Level, ShortHash};
use crate::record::{Header, Outcome, Status};

/// All iterations of a database, with the values of metrics.
#[derive(Debug)]
pub struct Dataset {
    /// The attempts that stand for iterations, of any status, in the order of the database; no identity occurs twice.
    pub iterations: Vec<Iteration>,
    /// The metrics, by level, name and role.
    pub metrics: Vec<MetricColumn>,
    /// Attempts for whose iteration another stands.
    pub superseded: Vec<Iteration>,
    /// Texts of the specs that were run, each once, in order (environment row [`crate::record::SPEC`]).
    pub specs: Vec<String>,
    /// The sentinels, which are in none of the above: the same of them alone. `None` when the database has none.
    pub sentinels: Option<Box<Self>>,
    /// Names of all metrics of the database, also of those that were not asked for.
    pub(super) known: BTreeSet<String>,
}

/// An attempt at an iteration.
#[derive(Debug, Clone)]
pub struct Iteration {
    /// Who it is.
    pub header: Header,
    /// How it ended.
    pub outcome: Outcome,
    /// Is its status among those that count?
    pub counts: bool,
    /// Is it a sentinel?
    pub sentinel: bool,
    /// Factors of the tuple by name; `testbed` is always there.
    pub factors: Arc<BTreeMap<String, String>>,
    /// How many iterations ran on the host at a time; `None` where it ran alone.
    pub jobs: Option<u32>,
    /// What ran the guests' code: `kvm` or `tcg`; `None` without virtual machines.
    pub accel: Option<Arc<str>>,
    /// The guests' image; `None` without one.
    pub image: Option<Arc<str>>,
}

/// A metric in all iterations.
#[derive(Debug)]
pub struct MetricColumn {
    /// Its name.
    pub name: String,
    /// What it describes.
    pub level: Level,
    /// On which kind of node: `client`, `server`, `router1`; `None` when it belongs to no single node.
    pub role: Option<String>,
    /// Its units; more than one cannot be compared.
    pub units: BTreeSet<String>,
    /// Which way is an improvement; `None` when neither is or iterations disagree.
    pub better: Option<Better>,
    /// One for each of [`Dataset::iterations`].
    pub values: Vec<Reading>,
    /// Where packets were looked at, one for each iteration; empty for a metric that does not depend on it.
    pub seen: Vec<Option<Arc<str>>>,
}

/// The value of a metric in an iteration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reading {
    /// The metric is not in the iteration at all.
    NotMeasured,
    /// At least one pair has no value; the mean of the others would be about something else.
    Missing,
    /// There is one.
    Value {
        /// Over the pairs of the iteration: pairs share hardware and are never counted as if they were independent.
        mean: f64,
        /// How many pairs (nodes of the role) the mean is over.
        pairs: u32,
    },
}

impl MetricColumn {
    /// The longest form of its name, which is never ambiguous: `os.cpu_time@client`.
    pub fn full_name(&self) -> String {
        super::query::full_name(self.level, &self.name, self.role.as_deref())
    }
}

impl Database {
    /// All metrics of all iterations. Iterations count whose status is among `statuses`.
    ///
    /// For an iteration with several attempts stands the complete one that finished first, on whatever host; without
    /// one, the last that began of those whose status is among `statuses`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the content of any iteration does not match its SHA-256.
    pub fn dataset(&self, statuses: &[Status]) -> Result<Dataset, StoreError> {
        self.load(statuses, &|_, _, _| true, true)
    }

    /// Of the metrics those that `wanted` accepts by level, name and role. With `places`, also where packets were looked at.
    pub(super) fn load(
        &self,
        statuses: &[Status],
        wanted: &(dyn Fn(Level, &str, Option<&str>) -> bool + Sync),
        places: bool,
    ) -> Result<Dataset, StoreError> {
        let all = [TableId::Factor, TableId::Setting, TableId::Metric, TableId::Capture, TableId::Environment];
        let few = [TableId::Factor, TableId::Setting, TableId::Metric, TableId::Environment];
        let tables: &[TableId] = if places { &all } else { &few };
        let loaders = self.file.scan(tables, || Loader::new(wanted, places))?;
        let loaded = loaders.into_iter().map(Loader::finish).reduce(Loaded::append).unwrap_or_default();
        Ok(Dataset::choose(loaded, statuses))
    }
}

impl Dataset {
    /// Keeps the attempts that stand for iterations; sentinels apart.
    fn choose(mut loaded: Loaded, statuses: &[Status]) -> Self {
        let sentinels = loaded.take_sentinels().map(|sentinels| Box::new(Self::stand(sentinels, statuses)));
        Self { sentinels, ..Self::stand(loaded, statuses) }
    }

    /// One attempt for each identity.
    fn stand(loaded: Loaded, statuses: &[Status]) -> Self {
        let mut best: HashMap<ShortHash, (Rank, usize)> = HashMap::new();
        for (at, attempt) in loaded.attempts.iter().enumerate() {
            let counts = statuses.contains(&attempt.outcome.status());
            let rank = Rank::of(&attempt.header, attempt.outcome.status(), counts);
            match best.get_mut(&attempt.header.identity) {
                Some(known) if rank > known.0 => *known = (rank, at),
                Some(_) => {}
                None => drop(best.insert(attempt.header.identity, (rank, at))),
            }
        }
        let stands: Vec<bool> = {
            let mut stands = vec![false; loaded.attempts.len()];
            best.into_values().for_each(|(_, at)| stands[at] = true);
            stands
        };
        let mut metrics = loaded.columns;
        if stands.contains(&false) {
            for metric in &mut metrics {
                keep(&mut metric.values, &stands);
                if !metric.seen.is_empty() {
                    keep(&mut metric.seen, &stands);
                }
            }
        }
        let (mut iterations, mut superseded) = (Vec::with_capacity(loaded.attempts.len()), Vec::new());
        for (mut attempt, stands) in loaded.attempts.into_iter().zip(stands) {
            attempt.counts = statuses.contains(&attempt.outcome.status());
            if stands { iterations.push(attempt) } else { superseded.push(attempt) }
        }
        metrics.sort_by(|a, b| (a.level, &a.name, &a.role).cmp(&(b.level, &b.name, &b.role)));
        let specs = loaded.specs.into_iter().collect();
        Self { iterations, metrics, superseded, specs, sentinels: None, known: loaded.known }
    }

    /// Iterations that have no value of a metric, by reason; for `None`, of any.
    pub fn left_out(&self, metric: Option<&MetricColumn>) -> LeftOut {
        let mut left_out = LeftOut { superseded: self.superseded.len() as u64, ..LeftOut::default() };
        let hosts: HashMap<ShortHash, &str> = if self.superseded.is_empty() {
            HashMap::new()
        } else {
            self.iterations.iter().map(|i| (i.header.identity, i.header.host.as_str())).collect()
        };
        let elsewhere = |i: &&Iteration| hosts.get(&i.header.identity) != Some(&i.header.host.as_str());
        left_out.superseded_elsewhere = self.superseded.iter().filter(elsewhere).count() as u64;
        for (at, iteration) in self.iterations.iter().enumerate() {
            match (iteration.counts, metric.map(|metric| metric.values[at])) {
                (false, _) => *left_out.by_status.entry(iteration.outcome.status()).or_default() += 1,
                (true, None | Some(Reading::NotMeasured)) => left_out.not_measured += 1,
                (true, Some(Reading::Missing)) => left_out.value_missing += 1,
                (true, Some(Reading::Value { .. })) => {}
            }
        }
        left_out
    }

    /// The values of one metric.
    ///
    /// # Errors
    /// [`MetricError::Units`] when iterations give it in different units.
    pub fn observations(&self, metric: &MetricColumn) -> Result<Observations, MetricError> {
        let mut units = metric.units.iter();
        let (Some(unit), None) = (units.next(), units.next()) else {
            return Err(MetricError::Units {
                asked: metric.full_name(),
                units: metric.units.iter().cloned().collect(),
            });
        };
        let mut values = Vec::with_capacity(self.iterations.len());
        let mut hosts: HashMap<&str, Arc<str>> = HashMap::new();
        for (at, iteration) in self.iterations.iter().enumerate() {
            if let (true, Reading::Value { mean, pairs }) = (iteration.counts, metric.values[at]) {
                let host = iteration.header.host.as_str();
                let host = Arc::clone(hosts.entry(host).or_insert_with(|| Arc::from(host)));
                values.push(observation(
                    iteration,
                    host,
                    (mean, pairs),
                    metric.seen.get(at).and_then(Option::as_deref),
                ));
            }
        }
        Ok(Observations {
            metric: metric.name.clone(),
            level: metric.level,
            role: metric.role.clone(),
            unit: unit.clone(),
            better: metric.better,
            values,
            left_out: self.left_out(Some(metric)),
        })
    }
}

pub(super) fn keep<T>(items: &mut Vec<T>, stands: &[bool]) {
    let mut stands = stands.iter();
    items.retain(|_| stands.next().is_some_and(|&stands| stands));
}

fn observation(iteration: &Iteration, host: Arc<str>, (value, pairs): (f64, u32), seen: Option<&str>) -> Observation {
    let header = &iteration.header;
    Observation {
        number: header.number,
        started_ns: header.started_ns,
        identity: header.identity,
        tuple: header.tuple,
        block: header.block,
        status: iteration.outcome.status(),
        host,
        factors: Arc::clone(&iteration.factors),
        value,
        pairs: pairs as usize,
        conditions: Conditions {
            seen: seen.map(str::to_owned),
            jobs: iteration.jobs,
            accel: iteration.accel.as_deref().map(str::to_owned),
            image: iteration.image.as_deref().map(str::to_owned),
        },
    }
}
