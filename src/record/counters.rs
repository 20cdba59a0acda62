//! What the kernels of an iteration counted while its clients ran.

use serde::{Deserialize, Serialize};

use crate::ids::{Level, NodeId};

/// The counters of one place: the host, or a node.
///
/// Numbers of the fixed list are metrics; here is how they were read, how they went, and what else has changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CounterPlace {
    /// The node; `None` for the host vptest runs on.
    #[serde(with = "super::text::optional")]
    pub node: Option<NodeId>,
    /// Time between two readings in milliseconds; `None` without a series: there are then the first and the last only.
    pub interval_ms: Option<u64>,
    /// When each reading was begun, in microseconds since the first; ascending.
    pub times_us: Vec<u64>,
    /// Wall clock of the place at the first reading, nanoseconds since 1970-01-01 UTC.
    pub first_ns: i64,
    /// Readings that were due and not made.
    pub missed: u64,
    /// The longest time by which a reading of the series came too late, in microseconds.
    pub latest_us: u64,
    /// CPU time that all readings of this place and of those read with it took, in nanoseconds; `None` when unknown.
    pub cpu_ns: Option<u64>,
    /// Where counters were read, in the order of their names.
    pub sources: Vec<CounterSource>,
    /// Counters over time, in the order of their names.
    pub series: Vec<CounterSeries>,
}

/// Where counters come from: `snmp`, `softnet`, `links`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterSource {
    /// Its name.
    pub name: String,
    /// Counters that it had in the first reading.
    pub counters: u64,
    /// Why it could not be read at both ends; `None` when it was.
    pub why: Option<String>,
    /// Counters that are no metrics and have grown, in their own units; `None` for one that vanished, appeared or went
    /// backwards. In the order of their names. What was read, is no metric and is not here has not grown.
    pub others: Vec<(String, Option<u64>)>,
}

/// A counter over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CounterSeries {
    /// Name, as of the metric.
    pub name: String,
    /// Unit of a value times `scale`.
    pub unit: String,
    /// What a value is to be multiplied with.
    pub scale: f64,
    /// `false`: values are growths from each reading to the next, one fewer than readings. `true`: values are what each
    /// reading found.
    pub gauge: bool,
    /// `None` where it was not known.
    pub values: Vec<Option<u64>>,
}

/// A number of the fixed list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CounterTotal {
    /// Name.
    pub name: String,
    /// What it describes.
    pub level: Level,
    /// Unit.
    pub unit: String,
    /// Growth from the first reading to the last; of a gauge the mean over all readings. `None` when it is not known.
    pub value: Option<f64>,
}
