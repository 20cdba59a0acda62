//! What one iteration leaves behind: plain values that instruments and workloads fill in and the store writes.
//!
//! A missing value is `None` throughout and becomes NULL; nothing here has a default that could pass for a
//! measurement.

use std::fmt;

use serde::{Deserialize, Serialize};

mod counters;
mod exact;
mod host;
mod path;
mod probe;
mod syscalls;
mod tcp;
pub(crate) mod text;

pub use counters::{CounterPlace, CounterSeries, CounterSource, CounterTotal};
pub use host::{CpuTime, ForeignUse, HOST_METRICS, HostUse, PROCESS_METRICS, TopProcess};
pub use path::{Delay, PathCounts, PathDirection, PathMatch};
pub use probe::{Probe, ProbeBin, ProbeClock, ProbeEnd, ProbePath, ProbeSchedule, ProbeWay};
pub use syscalls::{
    DescriptorKind, LogBins, Syscall, SyscallLoss, SyscallProcess, SyscallScope, SyscallSizes, SyscallSource,
    SyscallTrace, SyscallTransition,
};
pub use tcp::{Connection, ConnectionStatistic, SeriesBin, Stall, Tcp, TcpDirection};

use crate::ids::{Better, IterationNumber, Level, NodeId, ShortHash, Stage, Vantage};

/// How an iteration ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every check passed.
    Complete,
    /// It finished, but something could bias it.
    Suspect(Vec<String>),
    /// A setting was not in force, a client did not finish its requests, an instrument never ran.
    Invalid(Vec<String>),
    /// A stage failed.
    Failed {
        /// The stage that failed.
        stage: Stage,
        /// Why, with its causes.
        error: String,
    },
    /// A stage did not end before its deadline.
    TimedOut {
        /// The stage that was cut off.
        stage: Stage,
    },
    /// The user or a signal ended it; the text says which.
    Interrupted {
        /// The stage it was in.
        stage: Stage,
        /// What ended it.
        by: String,
    },
}

impl Outcome {
    /// Which of the six kinds it is.
    pub const fn status(&self) -> Status {
        match self {
            Self::Complete => Status::Complete,
            Self::Suspect(_) => Status::Suspect,
            Self::Invalid(_) => Status::Invalid,
            Self::Failed { .. } => Status::Failed,
            Self::TimedOut { .. } => Status::TimedOut,
            Self::Interrupted { .. } => Status::Interrupted,
        }
    }

    /// The reasons as stored and shown, one entry each; empty for a complete iteration.
    pub fn reasons(&self) -> Vec<String> {
        match self {
            Self::Complete => Vec::new(),
            Self::Suspect(reasons) | Self::Invalid(reasons) => reasons.clone(),
            Self::Failed { stage, error } => vec![format!("{stage}: {error}")],
            Self::TimedOut { stage } => vec![format!("{stage}: deadline passed")],
            Self::Interrupted { stage, by } => vec![format!("{stage}: {by}")],
        }
    }
}

/// The kind of an [`Outcome`], as stored in `iteration.status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// See [`Outcome::Complete`].
    Complete,
    /// See [`Outcome::Suspect`].
    Suspect,
    /// See [`Outcome::Invalid`].
    Invalid,
    /// See [`Outcome::Failed`].
    Failed,
    /// See [`Outcome::TimedOut`].
    TimedOut,
    /// See [`Outcome::Interrupted`].
    Interrupted,
}

impl Status {
    /// All kinds, best first.
    pub const ALL: [Self; 6] =
        [Self::Complete, Self::Suspect, Self::Invalid, Self::Failed, Self::TimedOut, Self::Interrupted];

    /// The text stored in `iteration.status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Suspect => "suspect",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Interrupted => "interrupted",
        }
    }

    /// The kind of that name; `None` for any other text.
    pub fn from_name(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Everything one attempt at an iteration produced: the content of one iteration file.
#[derive(Debug, Clone, PartialEq)]
pub struct IterationRecord {
    /// Who it is.
    pub header: Header,
    /// How it ended.
    pub outcome: Outcome,
    /// Factor names and values of the tuple, in canonical text; groups also give `group.member` rows.
    pub factors: Vec<(String, String)>,
    /// Requested and observed settings.
    pub settings: Vec<Setting>,
    /// Named numbers.
    pub metrics: Vec<Metric>,
    /// Distributions as quantiles.
    pub quantiles: Vec<Quantile>,
    /// Captures, one for each point.
    pub captures: Vec<Capture>,
    /// What captures of one path say together.
    pub paths: Vec<PathMatch>,
    /// What was counted of system calls, one for each kernel that was looked at.
    pub syscalls: Vec<SyscallTrace>,
    /// What the path probe measured, one for each pair.
    pub probes: Vec<Probe>,
    /// What kernels counted, one for each place.
    pub counters: Vec<CounterPlace>,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// Stage timings in order; a stage that never began has no entry.
    pub stages: Vec<StageTiming>,
    /// What the hosts were: kernel, CPU, tools, versions.
    pub environment: Vec<Environment>,
}

impl IterationRecord {
    /// The same attempt as one that failed, with nothing of what it measured.
    #[must_use]
    pub fn without_measurements(self, stage: Stage, error: String) -> Self {
        Self {
            outcome: Outcome::Failed { stage, error },
            settings: Vec::new(),
            metrics: Vec::new(),
            quantiles: Vec::new(),
            captures: Vec::new(),
            paths: Vec::new(),
            syscalls: Vec::new(),
            probes: Vec::new(),
            counters: Vec::new(),
            ..self
        }
    }
}

/// Identity and circumstances of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Hash of canonical tuple, meaning of the spec and repetition.
    pub identity: ShortHash,
    /// Hash of the tuple and the meaning of the spec alone: equal over repetitions.
    pub tuple: ShortHash,
    /// Position in run order, from 1.
    pub number: IterationNumber,
    /// From 1.
    pub repetition: u32,
    /// Block of the plan the iteration ran in, from 1; `None` when the order has no blocks.
    pub block: Option<u32>,
    /// From 1; a second try at the same identity is attempt 2.
    pub attempt: u32,
    /// Name of the testbed.
    pub testbed: String,
    /// Name of the host vptest ran on.
    pub host: String,
    /// Wall clock, nanoseconds since 1970-01-01 UTC.
    pub started_ns: i64,
    /// As `started_ns`; `None` when the attempt died without ending.
    pub finished_ns: Option<i64>,
    /// Hash of the whole spec text.
    pub spec_hash: ShortHash,
    /// Version of vptest that ran it.
    pub vptest_version: String,
}

/// A named number.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Pair it was measured on, from 1; `None` for the whole iteration.
    pub pair: Option<u32>,
    /// Node it was measured on; `None` when it belongs to no single node.
    pub node: Option<NodeId>,
    /// What it describes.
    pub level: Level,
    /// Short name: `rps`, `transfer_rate`.
    pub name: String,
    /// Unit in SI or IEC symbols: `1/s`, `s`, `B`, `bit/s`, `1`.
    pub unit: String,
    /// `None` when it could not be measured.
    pub value: Option<f64>,
    /// Which way is an improvement; `None` when neither is.
    pub better: Option<Better>,
}

/// One point of a distribution: the value below which the share `q` of the samples lies.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantile {
    /// As in [`Metric`].
    pub pair: Option<u32>,
    /// As in [`Metric`].
    pub node: Option<NodeId>,
    /// Name of the distribution: `latency`.
    pub name: String,
    /// Unit of `value`.
    pub unit: String,
    /// In `0.0..=1.0`; 0 is the minimum, 1 the maximum.
    pub q: f64,
    /// `None` when the source did not say.
    pub value: Option<f64>,
}

/// A factor's requested value and the value read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Node it was read on; `None` for the host.
    pub node: Option<NodeId>,
    /// `mtu`, `tso`, `rate`; host-side interfaces as `host.mtu`.
    pub name: String,
    /// What the spec asks for; `None` when it leaves the value alone.
    pub requested: Option<String>,
    /// What was read; `None` when it could not be read.
    pub observed: Option<String>,
    /// Do the two agree? `None` when that cannot be said (nothing asked, or nothing read).
    pub ok: Option<bool>,
    /// Before or after the workload.
    pub when: Moment,
}

impl Setting {
    /// A setting read before the workload, compared with what was asked.
    pub fn compare(node: Option<NodeId>, name: &str, requested: Option<String>, observed: Option<String>) -> Self {
        let ok = requested.as_ref().zip(observed.as_ref()).map(|(asked, read)| asked == read);
        Self { node, name: name.to_owned(), requested, observed, ok, when: Moment::Before }
    }
}

/// When a setting was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Moment {
    /// In the verify stage.
    Before,
    /// In the collect stage.
    After,
}

impl Moment {
    /// `before` or `after`, as stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// What one capture point saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capture {
    /// Node whose traffic it is.
    #[serde(with = "text")]
    pub node: NodeId,
    /// Where it was taken.
    pub vantage: Vantage,
    /// Name of the interface there.
    pub interface: String,
    /// Bytes kept of each packet, at most.
    pub snaplen: u32,
    /// Packets handed to vptest.
    pub packets: u64,
    /// Their bytes on the wire (not cut by the snap length).
    pub bytes: u64,
    /// Packets the kernel dropped for want of ring space; `None` when the counter could not be read.
    pub dropped_kernel: Option<u64>,
    /// Packets the interface dropped; `None` when it does not say.
    pub dropped_interface: Option<u64>,
    /// Bytes of the kernel ring asked for.
    pub ring_bytes: u64,
    /// Packet sizes on the wire, link-layer header included: (lower bound, count), ascending, empty bins left out.
    pub sizes: Vec<SizeBin>,
    /// Path of the kept file below the campaign directory; `None` when none was kept.
    pub file: Option<String>,
    /// What it says about TCP; `None` when nothing looked, or the analysis failed.
    pub tcp: Option<Tcp>,
}

impl Capture {
    /// Are the bins of packet sizes ascending, none empty of sizes and none over another?
    pub fn sizes_ordered(&self) -> bool {
        self.sizes.windows(2).all(|w| w[0].to.is_some_and(|to| to <= w[1].from))
            && self.sizes.iter().all(|bin| bin.to.is_none_or(|to| to > bin.from))
    }
}

/// One bin of a packet-size histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeBin {
    /// Smallest size in the bin, in bytes.
    pub from: u32,
    /// Smallest size above the bin; `None` for the open last one.
    pub to: Option<u32>,
    /// Packets in it.
    pub packets: u64,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Wall clock, nanoseconds since 1970-01-01 UTC.
    pub at_ns: i64,
    /// In which stage.
    pub stage: Stage,
    /// How much it matters.
    pub level: EventLevel,
    /// What happened.
    pub text: String,
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventLevel {
    /// Progress.
    Info,
    /// Look before trusting the results.
    Warn,
    /// Something failed.
    Error,
}

impl EventLevel {
    /// `info`, `warn` or `error`, as stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Why an iteration should not be trusted as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What it does to the outcome.
    pub weight: Weight,
    /// Names the place and the numbers; one line.
    pub text: String,
}

/// What a [`Problem`] does to the outcome of its iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Weight {
    /// Something could bias it.
    Suspect,
    /// It did not measure what was asked.
    Invalid,
}

/// Beginning and end of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageTiming {
    /// Which one.
    pub stage: Stage,
    /// Wall clock at its beginning, nanoseconds since 1970-01-01 UTC.
    pub started_ns: i64,
    /// Monotonic duration in nanoseconds; `None` when it did not end.
    pub duration_ns: Option<i64>,
}

/// Name of the environment row that holds the text of the spec, so that a result says by itself how it came about.
pub const SPEC: &str = "spec";

/// Name of the environment row that marks a sentinel, with its number, from 1.
pub const SENTINEL: &str = "sentinel";

/// Name of the setting that says how many iterations ran on the host at a time, where it was more than one.
pub const JOBS: &str = "jobs";

/// One fact about a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The host or node it is about.
    pub host: String,
    /// `kernel`, `cpu`, `ab.version`.
    pub name: String,
    /// As read.
    pub value: String,
}
