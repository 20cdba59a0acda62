//! What the page shows: plain values, put together by [`super::build`] or by hand.

use serde::Serialize;

use super::hosts::Hosts;
use crate::analysis::Interval;
use crate::ids::{Better, Level};
use crate::report::anomalies::Found;

/// Everything on the page.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Name of the campaign: that of its spec, or of the file.
    pub title: String,
    /// Name of the database, as given.
    pub source: String,
    /// Numbers of iterations.
    pub counts: Counts,
    /// Names of the factors that tell groups apart.
    pub factors: Vec<String>,
    /// Factors that are the same in all iterations.
    pub constant: Vec<(String, String)>,
    /// Factor and value that groups are compared with.
    pub baseline: Option<(String, String)>,
    /// Groups in natural order of their factors.
    pub groups: Vec<Group>,
    /// Groups that are compared: (group, its baseline).
    pub pairs: Vec<(usize, usize)>,
    /// Groups that have no contrast in any metric, with the reason.
    pub no_pair: Vec<(usize, String)>,
    /// Metrics by level, name and role.
    pub metrics: Vec<Metric>,
    /// Iterations that count, in the order in which they were run.
    pub runs: Vec<Run>,
    /// When the first of them began, nanoseconds since 1970-01-01 UTC.
    pub first_ns: i64,
    /// Level of the tests that find changes of level within a group.
    pub change_level: f64,
    /// Contrasts that verdicts take into account.
    pub family: usize,
    /// Those of them with a p-value, which these are adjusted for.
    pub adjusted: usize,
    /// What stands out.
    pub anomalies: Found,
    /// What sentinels say, and on what hosts do not agree.
    pub hosts: Hosts,
    /// Histograms, each over groups.
    pub histograms: Vec<Histogram>,
    /// How payload is cut into packets.
    pub packetization: Vec<Packetization>,
    /// Anything over time or over another number.
    pub series: Vec<SeriesFigure>,
    /// Chains of system calls.
    pub chains: Vec<Chain>,
    /// Iterations that do not count, with the reasons.
    pub excluded: Vec<Excluded>,
    /// Settings asked for and read back.
    pub settings: Vec<Setting>,
    /// Facts about hosts that have more than one value.
    pub differing: Vec<Fact>,
    /// Facts that have one.
    pub same: Vec<Fact>,
    /// Paragraphs of the methods text.
    pub methods: Vec<String>,
    /// Works that it cites.
    pub references: Vec<String>,
    /// What a reader must know before trusting it, one sentence each.
    pub notes: Vec<String>,
}

/// Iterations by what became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// All iterations.
    pub iterations: usize,
    /// Those that count.
    pub counted: usize,
    /// All by status, in the order of statuses.
    pub by_status: Vec<(String, usize)>,
    /// Attempts for whose iteration another stands.
    pub superseded: usize,
    /// First beginning and last end, as text; `None` without iterations.
    pub time: Option<(String, String)>,
    /// Hosts that vptest ran on.
    pub hosts: Vec<String>,
    /// Versions of vptest that ran them.
    pub versions: Vec<String>,
}

/// Iterations that are put together.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Group {
    /// Value of each factor; `None` where it means nothing.
    #[serde(rename = "f")]
    pub values: Vec<Option<String>>,
    /// Iterations that count.
    pub n: usize,
}

/// An iteration that counts.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Its number.
    pub number: u32,
    /// When it began, in seconds after the first one.
    pub start: f64,
    /// Block of the plan; `None` when the order has none.
    pub block: Option<u32>,
    /// Its group.
    pub group: usize,
}

/// One metric in all groups.
#[derive(Debug, Clone)]
pub struct Metric {
    /// Its full name: `network.bytes@client`.
    pub name: String,
    /// What it describes.
    pub level: Level,
    /// Its unit.
    pub unit: String,
    /// Which way is an improvement.
    pub better: Option<Better>,
    /// Differences up to it do not matter: `5 %`; `None` where none was given.
    pub margin: Option<String>,
    /// One for each group.
    pub cells: Vec<Cell>,
    /// One for each pair.
    pub contrasts: Vec<Contrast>,
}

impl Metric {
    /// Its name without its level: `bytes@client`.
    pub fn short_name(&self) -> &str {
        self.name.strip_prefix(self.level.as_str()).and_then(|rest| rest.strip_prefix('.')).unwrap_or(&self.name)
    }
}

/// One metric in one group.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    /// Values.
    pub n: usize,
    /// Arithmetic mean; `None` without a value.
    pub mean: Option<f64>,
    /// Standard deviation with n − 1.
    pub sd: Option<f64>,
    /// 95 % interval of the mean.
    pub interval: Option<Interval>,
    /// The values, ascending, each with the place of its iteration among the runs of the group: all, or as many of the order
    /// statistics at equal distances as the page has room for.
    pub points: Vec<(f64, usize)>,
    /// Places of the first iterations after a change of level.
    pub changes: Vec<usize>,
    /// Median of all values of each stretch between changes, one more than those.
    pub levels: Vec<f64>,
}

/// What a contrast shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Beyond the margin.
    Different,
    /// Different, within the margin.
    Negligible,
    /// Within the margin.
    Equivalent,
    /// The data do not say.
    Undecided,
    /// There is nothing to compare.
    NotComparable,
}

impl Verdict {
    /// In the order in which they are shown.
    pub const ALL: [Self; 5] =
        [Self::Different, Self::Negligible, Self::Equivalent, Self::Undecided, Self::NotComparable];

    /// As shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Different => "different",
            Self::Negligible => "different, negligible",
            Self::Equivalent => "equivalent",
            Self::Undecided => "undecided",
            Self::NotComparable => "not comparable",
        }
    }

    /// One letter in the data, and the name of its colours.
    pub const fn code(self) -> char {
        match self {
            Self::Different => 'd',
            Self::Negligible => 'n',
            Self::Equivalent => 'e',
            Self::Undecided => 'u',
            Self::NotComparable => 'x',
        }
    }

    /// A mark for those who see no colours.
    pub const fn mark(self) -> char {
        match self {
            Self::Different => '◆',
            Self::Negligible => '◇',
            Self::Equivalent => '=',
            Self::Undecided => '?',
            Self::NotComparable => '×',
        }
    }
}

/// A group against its baseline in one metric.
#[derive(Debug, Clone)]
pub struct Contrast {
    /// What it shows.
    pub verdict: Verdict,
    /// Why it cannot be compared, or how many repetitions would decide.
    pub remark: Option<String>,
    /// Difference of means in the metric's unit.
    pub difference: Option<f64>,
    /// Its 95 % interval.
    pub difference_interval: Option<Interval>,
    /// In percent of the baseline's mean.
    pub percent: Option<f64>,
    /// Its 95 % interval.
    pub percent_interval: Option<Interval>,
    /// Hedges' g.
    pub g: Option<f64>,
    /// Its 95 % interval.
    pub g_interval: Option<Interval>,
    /// Cliff's δ.
    pub delta: Option<f64>,
    /// Welch's test.
    pub p: Option<f64>,
    /// Adjusted by Holm's method.
    pub p_holm: Option<f64>,
    /// Adjusted by Benjamini and Hochberg.
    pub p_bh: Option<f64>,
    /// Mann–Whitney's test.
    pub p_rank: Option<f64>,
}

/// Shares of the same bins in each group.
#[derive(Debug, Clone, Serialize)]
pub struct Histogram {
    /// Where it was seen: `client, host side`.
    pub title: String,
    /// What the bins are of.
    pub unit: String,
    /// Lower ends of the bins, ascending.
    pub from: Vec<f64>,
    /// Upper ends; `None` for an open bin.
    pub to: Vec<Option<f64>>,
    /// For each group the share in each bin; `None` without data.
    pub shares: Vec<Option<Vec<f64>>>,
}

/// How the payload of one direction is cut into packets, at one place.
#[derive(Debug, Clone)]
pub struct Packetization {
    /// Where it was seen.
    pub place: String,
    /// `a2b` or `b2a`.
    pub direction: String,
    /// Index of the group.
    pub group: usize,
    /// Iterations whose TCP was analysed.
    pub n: usize,
    /// Mean over iterations of the payload bytes in a packet with payload, and over how many: those that sent any.
    pub payload: Option<(f64, usize)>,
    /// Mean over iterations of the share of payload in super-segments, and over how many: those where it is known.
    pub super_share: Option<(f64, usize)>,
    /// The longest packet of any iteration in bytes.
    pub longest: Option<u32>,
    /// Stalls of all iterations; of both directions.
    pub stalls: u64,
}

/// Lines or points over one number.
#[derive(Debug, Clone, Serialize)]
pub struct SeriesFigure {
    /// What it shows.
    pub title: String,
    /// Section it belongs to: `time`, `packets`.
    pub section: String,
    /// Name and unit of x.
    pub x: String,
    /// Name and unit of y.
    pub y: String,
    /// Joined by lines, or points.
    pub joined: bool,
    /// The data.
    pub lines: Vec<SeriesLine>,
}

/// Part of a [`SeriesFigure`].
#[derive(Debug, Clone, Serialize)]
pub struct SeriesLine {
    /// The group it belongs to.
    pub group: usize,
    /// What it is within the group: `mean of 10 iterations`, `iteration 7`.
    pub name: String,
    /// The one that stands for the group?
    pub main: bool,
    /// Ascending.
    pub x: Vec<f64>,
    /// As many.
    pub y: Vec<f64>,
}

/// Transitions between the system calls of one process name in a group, against its baseline.
#[derive(Debug, Clone, Serialize)]
pub struct Chain {
    /// `client ab`.
    pub process: String,
    /// Values of the factors of the group.
    pub group: String,
    /// Jensen–Shannon divergence from the baseline in bits.
    pub bits: f64,
    /// What 95 % of random deals stay below.
    pub by_chance: f64,
    /// Share of deals with at least as much.
    pub p: f64,
    /// All transitions, also those that are not in the list.
    pub total: usize,
    /// Those of them that differ at a false-discovery rate of 5 %.
    pub differing: usize,
    /// What differs most, and what is most frequent.
    pub transitions: Vec<Transition>,
}

/// One transition of a [`Chain`].
#[derive(Debug, Clone, Serialize)]
pub struct Transition {
    /// Call before.
    pub from: String,
    /// Call after.
    pub to: String,
    /// Mean share in the group.
    pub share: f64,
    /// Mean share in the baseline.
    pub baseline: f64,
    /// The least false-discovery rate at which it differs.
    pub q: f64,
}

/// An iteration that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excluded {
    /// Position in run order.
    pub number: u32,
    /// Attempt.
    pub attempt: u32,
    /// Host.
    pub host: String,
    /// How it ended, or `superseded`.
    pub status: String,
    /// Factors that tell groups apart.
    pub factors: String,
    /// Why.
    pub reasons: Vec<String>,
}

/// A setting as it was asked for and found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Name.
    pub name: String,
    /// Kind of node, or `host`.
    pub place: String,
    /// Testbed.
    pub testbed: String,
    /// `None` when the spec left it alone.
    pub requested: Option<String>,
    /// `None` when it could not be read.
    pub observed: Option<String>,
    /// Do they agree?
    pub ok: Option<bool>,
    /// `before` or `after` the workload.
    pub when: String,
    /// How often.
    pub count: u64,
}

/// A fact about hosts or nodes, with its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Its name.
    pub name: String,
    /// Kind of node, or host.
    pub place: String,
    /// Each value with how often it was read.
    pub values: Vec<(String, u64)>,
}

impl Model {
    /// `mtu=600 · offload=on`: the values of a group.
    pub fn label(&self, group: usize) -> String {
        label(&self.factors, &self.groups[group].values)
    }

    /// How many contrasts have each verdict, in the order of [`Verdict::ALL`].
    pub fn verdicts(&self) -> [usize; 5] {
        let mut counts = [0; 5];
        for contrast in self.metrics.iter().flat_map(|metric| &metric.contrasts) {
            counts[contrast.verdict as usize] += 1;
        }
        counts
    }
}

/// Values of factors as one text.
pub(super) fn label(factors: &[String], values: &[Option<String>]) -> String {
    if factors.is_empty() {
        return "all iterations".to_owned();
    }
    let part = |(name, value): (&String, &Option<String>)| format!("{name}={}", value.as_deref().unwrap_or("–"));
    factors.iter().zip(values).map(part).collect::<Vec<_>>().join(" · ")
}
