//! Values of a metric, one for each iteration.
//!
//! An iteration is what the plan says it is: one identity, however often and on however many hosts it was tried. One of
//! its attempts stands for it, chosen by status and time alone, never by what was measured.
//!
//! The whole file is read and verified for each question: an answer from a damaged database would be a wrong number that
//! nobody notices.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::conditions::Conditions;
use super::error::StoreError;
use super::reader::{RecordFile, Records};
use crate::ids::{Better, IterationNumber, Level, NodeId, Role, ShortHash};
use crate::record::{IterationRecord, Metric, Status};

/// A merged file, or an iteration file, to ask questions of.
pub struct Database {
    path: PathBuf,
    file: RecordFile,
}

/// A metric of a database: what can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricInfo {
    /// Its name.
    pub name: String,
    /// What it describes.
    pub level: Level,
    /// On which kind of node: `client`, `server`, `router1`; `None` when it belongs to no single node.
    pub role: Option<String>,
    /// Its unit.
    pub unit: String,
    /// Which way is an improvement.
    pub better: Option<Better>,
    /// Attempts of any status that have a row of it.
    pub iterations: u64,
    /// Rows with a value.
    pub values: u64,
    /// Rows without.
    pub missing: u64,
}

impl MetricInfo {
    /// The longest form of its name, which is never ambiguous: `os.cpu_time@client`.
    pub fn full_name(&self) -> String {
        full_name(self.level, &self.name, self.role.as_deref())
    }
}

/// The values of one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Observations {
    /// Its name.
    pub metric: String,
    /// What it describes.
    pub level: Level,
    /// On which kind of node; `None` when it belongs to no single node.
    pub role: Option<String>,
    /// Its unit.
    pub unit: String,
    /// Which way is an improvement; `None` when neither is or iterations disagree.
    pub better: Option<Better>,
    /// One entry for each iteration that counts, in the order of the database; no identity occurs twice.
    pub values: Vec<Observation>,
    /// Iterations that do not count.
    pub left_out: LeftOut,
}

/// The value of a metric in one iteration.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// Position in run order.
    pub number: IterationNumber,
    /// Hash of tuple and repetition.
    pub identity: ShortHash,
    /// Hash of the tuple and of the meaning of the spec.
    pub tuple: ShortHash,
    /// Block of the plan; `None` when the order has none.
    pub block: Option<u32>,
    /// How it ended.
    pub status: Status,
    /// Factors of the tuple by name; `testbed` is always there.
    pub factors: BTreeMap<String, String>,
    /// Mean over the pairs of the iteration: pairs share hardware and are never counted as if they were independent.
    pub value: f64,
    /// How many pairs (nodes of the role) the mean is over.
    pub pairs: usize,
    /// What it may be compared with.
    pub conditions: Conditions,
}

/// Iterations without an observation, by reason; and attempts that stand for no iteration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// No attempt's status is among those asked for; counted under that of the last attempt.
    pub by_status: BTreeMap<Status, u64>,
    /// The metric is not in the iteration at all.
    pub not_measured: u64,
    /// At least one pair has no value; the mean of the others would be about something else.
    pub value_missing: u64,
    /// Attempts, not iterations: another attempt stands for the same iteration.
    pub superseded: u64,
    /// How many of `superseded` ran on another host than the attempt that stands for the iteration.
    pub superseded_elsewhere: u64,
}

impl LeftOut {
    /// All iterations without an observation; superseded attempts are none.
    pub fn total(&self) -> u64 {
        self.by_status.values().sum::<u64>() + self.not_measured + self.value_missing
    }
}

/// There is no such metric, or more than one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// No iteration has it.
    #[error("no iteration has a metric `{asked}`")]
    Unknown {
        /// What was asked for.
        asked: String,
        /// Names of all metrics, for suggestions.
        known: Vec<String>,
        /// The iterations, when none of them has a status that was asked for.
        none_counts: Option<LeftOut>,
    },
    /// Several differ in level or node.
    #[error("`{asked}` is ambiguous; ask for one of: {}", choices.join(", "))]
    Ambiguous {
        /// What was asked for.
        asked: String,
        /// Full names that fit.
        choices: Vec<String>,
    },
    /// Iterations give it in different units.
    #[error("`{asked}` has values in different units ({}), which cannot be compared", units.join(", "))]
    Units {
        /// What was asked for.
        asked: String,
        /// The units.
        units: Vec<String>,
    },
}

impl Database {
    /// Opens a merged file or an iteration file.
    ///
    /// # Errors
    /// As [`RecordFile::open`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { path: path.to_owned(), file: RecordFile::open(path)? })
    }

    /// All records, each verified.
    ///
    /// # Errors
    /// As [`RecordFile::records`].
    pub fn records(&self) -> Result<Records<'_>, StoreError> {
        self.file.records()
    }

    /// All metrics by name, level, role and unit.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the content of any iteration does not match its SHA-256.
    pub fn metrics(&self) -> Result<Vec<MetricInfo>, StoreError> {
        let mut found: BTreeMap<(String, Level, Option<String>, String), MetricInfo> = BTreeMap::new();
        for verified in self.file.records()? {
            let mut here = BTreeSet::new();
            for m in verified?.record.metrics {
                let key = (m.name, m.level, role(m.node), m.unit);
                let info = found.entry(key.clone()).or_insert_with(|| MetricInfo {
                    name: key.0.clone(),
                    level: key.1,
                    role: key.2.clone(),
                    unit: key.3.clone(),
                    better: m.better,
                    iterations: 0,
                    values: 0,
                    missing: 0,
                });
                info.values += u64::from(m.value.is_some());
                info.missing += u64::from(m.value.is_none());
                info.iterations += u64::from(here.insert(key));
            }
        }
        Ok(found.into_values().collect())
    }

    /// Texts of the specs that were run, each once (environment row [`crate::record::SPEC`]).
    ///
    /// # Errors
    /// [`StoreError::Sql`] when the table cannot be read.
    pub fn specs(&self) -> Result<Vec<String>, StoreError> {
        let sql = |error| StoreError::sql("read", &self.path, error);
        let connection = super::open_read_only(&self.path)?;
        let mut statement =
            connection.prepare("SELECT DISTINCT value FROM environment WHERE name = ?1 ORDER BY value").map_err(sql)?;
        let rows = statement.query_map([crate::record::SPEC], |row| row.get(0)).map_err(sql)?;
        rows.collect::<Result<_, _>>().map_err(sql)
    }

    /// One value for each iteration with an attempt whose status is among `statuses`; usually [`Status::Complete`]
    /// alone.
    ///
    /// For an iteration with several attempts stands the complete one that finished first, on whatever host; without
    /// one, the last that began of those whose status is among `statuses`.
    ///
    /// `asked` is the metric's name, where needed with its level before (`os.cpu_time`) or its role behind
    /// (`cpu_time@client`).
    ///
    /// # Errors
    /// [`StoreError::Metric`] when `asked` is not exactly one metric in one unit; [`StoreError::Corrupt`] when the content
    /// of any iteration does not match its SHA-256.
    pub fn values(&self, asked: &str, statuses: &[Status]) -> Result<Observations, StoreError> {
        let mut collector = Collector::new(asked, statuses);
        for verified in self.file.records()? {
            collector.add(verified?.record);
        }
        Ok(collector.finish()?)
    }
}

struct Collector<'a> {
    asked: &'a str,
    statuses: &'a [Status],
    kinds: BTreeSet<(Level, String, Option<String>)>,
    units: BTreeSet<String>,
    better: BTreeSet<Option<Better>>,
    known: BTreeSet<String>,
    attempts: usize,
    chosen: HashMap<ShortHash, Chosen>,
    left_out: LeftOut,
}

/// The attempt that stands for an iteration, so far, and the hosts of the others.
struct Chosen {
    best: Attempt,
    superseded: Vec<String>,
}

impl Chosen {
    fn add(&mut self, new: Attempt) {
        let other = if new.rank > self.best.rank { std::mem::replace(&mut self.best, new) } else { new };
        self.superseded.push(other.host);
    }
}

/// An attempt at an iteration.
struct Attempt {
    /// Position in the database.
    at: usize,
    rank: Rank,
    host: String,
    content: Content,
}

/// What an attempt gives.
enum Content {
    Value(Observation),
    Status(Status),
    NotMeasured,
    ValueMissing,
}

/// Which attempt stands for an iteration: the greatest. The host decides ties, so that the order of merging does not.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    counts: bool,
    complete: bool,
    /// The end of complete attempts, negative, for the first is wanted; the beginning of others.
    time_ns: i128,
    attempt: u32,
    host: Reverse<String>,
}

impl Rank {
    fn of(record: &IterationRecord, counts: bool) -> Self {
        let header = &record.header;
        let complete = counts && record.outcome.status() == Status::Complete;
        let time_ns = if complete {
            // One whose end is not known goes after those whose is.
            header.finished_ns.map_or(i128::MIN, |ns| -i128::from(ns))
        } else {
            i128::from(header.started_ns)
        };
        // Of complete attempts that end at the same time the first counts, of others the last.
        let attempt = if complete { u32::MAX - header.attempt } else { header.attempt };
        Self { counts, complete, time_ns, attempt, host: Reverse(header.host.clone()) }
    }
}

impl<'a> Collector<'a> {
    fn new(asked: &'a str, statuses: &'a [Status]) -> Self {
        Self {
            asked,
            statuses,
            kinds: BTreeSet::new(),
            units: BTreeSet::new(),
            better: BTreeSet::new(),
            known: BTreeSet::new(),
            attempts: 0,
            chosen: HashMap::new(),
            left_out: LeftOut::default(),
        }
    }

    fn add(&mut self, record: IterationRecord) {
        let rows: Vec<&Metric> = record.metrics.iter().filter(|m| asks_for(self.asked, m)).collect();
        for m in &record.metrics {
            if !self.known.contains(&m.name) {
                self.known.insert(m.name.clone());
            }
        }
        for m in &rows {
            self.kinds.insert((m.level, m.name.clone(), role(m.node)));
            self.units.insert(m.unit.clone());
            self.better.insert(m.better);
        }
        let status = record.outcome.status();
        let counts = self.statuses.contains(&status);
        let (rank, host, identity) = (Rank::of(&record, counts), record.header.host.clone(), record.header.identity);
        let content = if !counts {
            Content::Status(status)
        } else if rows.is_empty() {
            Content::NotMeasured
        } else if let Some(values) = rows.iter().map(|m| m.value).collect::<Option<Vec<f64>>>() {
            let (value, pairs) = (mean(&values), values.len());
            let conditions = Conditions::of(&record, &rows);
            Content::Value(observation(record, value, pairs, conditions))
        } else {
            Content::ValueMissing
        };
        self.choose(identity, Attempt { at: self.attempts, rank, host, content });
        self.attempts += 1;
    }

    fn choose(&mut self, identity: ShortHash, new: Attempt) {
        match self.chosen.entry(identity) {
            Entry::Vacant(entry) => drop(entry.insert(Chosen { best: new, superseded: Vec::new() })),
            Entry::Occupied(mut entry) => entry.get_mut().add(new),
        }
    }

    /// One value for each iteration that has one; counts the others.
    fn values(&mut self) -> Vec<Observation> {
        let mut all: Vec<Chosen> = std::mem::take(&mut self.chosen).into_values().collect();
        all.sort_by_key(|chosen| chosen.best.at);
        let mut values = Vec::new();
        for Chosen { best, superseded } in all {
            self.left_out.superseded += superseded.len() as u64;
            self.left_out.superseded_elsewhere += superseded.iter().filter(|&host| *host != best.host).count() as u64;
            match best.content {
                Content::Value(value) => values.push(value),
                Content::Status(status) => *self.left_out.by_status.entry(status).or_default() += 1,
                Content::NotMeasured => self.left_out.not_measured += 1,
                Content::ValueMissing => self.left_out.value_missing += 1,
            }
        }
        values
    }

    fn finish(mut self) -> Result<Observations, MetricError> {
        let values = self.values();
        let asked = self.asked.to_owned();
        if self.kinds.len() > 1 {
            let name = |(level, name, role): &(Level, String, Option<String>)| full_name(*level, name, role.as_deref());
            return Err(MetricError::Ambiguous { asked, choices: self.kinds.iter().map(name).collect() });
        }
        if self.units.len() > 1 {
            return Err(MetricError::Units { asked, units: self.units.into_iter().collect() });
        }
        let (Some((level, metric, role)), Some(unit)) = (self.kinds.into_iter().next(), self.units.into_iter().next())
        else {
            let left_out = self.left_out;
            let none_counts = left_out.not_measured + left_out.value_missing == 0;
            let none_counts = none_counts.then_some(left_out);
            return Err(MetricError::Unknown { asked, known: self.known.into_iter().collect(), none_counts });
        };
        let better = if self.better.len() == 1 { self.better.into_iter().next().flatten() } else { None };
        Ok(Observations { metric, level, role, unit, better, values, left_out: self.left_out })
    }
}

fn observation(record: IterationRecord, value: f64, pairs: usize, conditions: Conditions) -> Observation {
    let status = record.outcome.status();
    let mut factors: BTreeMap<String, String> = record.factors.into_iter().collect();
    let header = record.header;
    factors.entry("testbed".to_owned()).or_insert(header.testbed);
    Observation {
        number: header.number,
        identity: header.identity,
        tuple: header.tuple,
        block: header.block,
        status,
        factors,
        value,
        pairs,
        conditions,
    }
}

/// Dividing first keeps the largest numbers from overflowing.
#[expect(clippy::cast_precision_loss, reason = "an iteration has far fewer than 2^53 pairs")]
fn mean(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let sum: f64 = values.iter().sum();
    if sum.is_finite() { sum / n } else { values.iter().map(|x| x / n).sum() }
}

fn asks_for(asked: &str, m: &Metric) -> bool {
    let fits = |text: &str| {
        text == m.name
            || text.strip_prefix(m.level.as_str()).is_some_and(|rest| rest.strip_prefix('.') == Some(m.name.as_str()))
    };
    fits(asked) || asked.rsplit_once('@').is_some_and(|(text, r)| fits(text) && role(m.node).as_deref() == Some(r))
}

fn full_name(level: Level, name: &str, role: Option<&str>) -> String {
    match role {
        Some(role) => format!("{level}.{name}@{role}"),
        None => format!("{level}.{name}"),
    }
}

/// The node's name without its pair.
fn role(node: Option<NodeId>) -> Option<String> {
    node.map(|node| match node.role {
        Role::Client => "client".to_owned(),
        Role::Server => "server".to_owned(),
        Role::Router(index) => format!("router{}", u16::from(index) + 1),
    })
}
