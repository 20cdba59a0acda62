//! Values of a metric, one for each iteration.
//!
//! An iteration is what the plan says it is: one identity, however often and on however many hosts it was tried. One of
//! its attempts stands for it, chosen by status and time alone, never by what was measured.
//!
//! What is read of the file is verified for each question: an answer from a damaged database would be a wrong number that
//! nobody notices.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::conditions::Conditions;
use super::error::StoreError;
use super::reader::{RecordFile, Records};
use crate::ids::{Better, IterationNumber, Level, NodeId, Role, ShortHash};
use crate::record::{Header, Status};

/// A merged file, or an iteration file, to ask questions of.
pub struct Database {
    path: PathBuf,
    pub(super) file: RecordFile,
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
    /// When it began, Unix time: the order in which iterations were really run, on whatever host.
    pub started_ns: i64,
    /// Hash of tuple and repetition.
    pub identity: ShortHash,
    /// Hash of the tuple and of the meaning of the spec.
    pub tuple: ShortHash,
    /// Block of the plan; `None` when the order has none.
    pub block: Option<u32>,
    /// How it ended.
    pub status: Status,
    /// Host that vptest ran on.
    pub host: Arc<str>,
    /// Factors of the tuple by name; `testbed` is always there.
    pub factors: Arc<BTreeMap<String, String>>,
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
        super::listing::list(&self.file)
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
        let wanted = |level: Level, name: &str, role: Option<&str>| asks_for(asked, level, name, role);
        let places = super::conditions::may_depend_on_place(asked);
        let found = self.load(statuses, &wanted, places)?;
        let metric = found.find(asked)?;
        Ok(found.observations(metric).map_err(|error| error.of(asked))?)
    }
}

impl MetricError {
    /// With the name that was asked for in place of the full one.
    pub fn of(self, name: &str) -> Self {
        match self {
            Self::Units { units, .. } => Self::Units { asked: name.to_owned(), units },
            other => other,
        }
    }
}

/// Which attempt stands for an iteration: the greatest. The host decides ties, so that the order of merging does not.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    counts: bool,
    complete: bool,
    /// The end of complete attempts, negative, for the first is wanted; the beginning of others.
    time_ns: i128,
    attempt: u32,
    host: Reverse<String>,
}

impl Rank {
    pub(super) fn of(header: &Header, status: Status, counts: bool) -> Self {
        let complete = counts && status == Status::Complete;
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

pub(super) fn asks_for(asked: &str, level: Level, name: &str, role: Option<&str>) -> bool {
    let fits = |text: &str| {
        text == name || text.strip_prefix(level.as_str()).is_some_and(|rest| rest.strip_prefix('.') == Some(name))
    };
    fits(asked) || asked.rsplit_once('@').is_some_and(|(text, r)| fits(text) && role == Some(r))
}

pub(super) fn full_name(level: Level, name: &str, role: Option<&str>) -> String {
    match role {
        Some(role) => format!("{level}.{name}@{role}"),
        None => format!("{level}.{name}"),
    }
}

/// The node's name without its pair.
pub(super) fn role(node: Option<NodeId>) -> Option<String> {
    node.map(|node| match node.role {
        Role::Client => "client".to_owned(),
        Role::Server => "server".to_owned(),
        Role::Router(index) => format!("router{}", u16::from(index) + 1),
    })
}
