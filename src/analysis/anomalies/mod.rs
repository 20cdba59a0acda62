//! What stands out: iterations far from their group, stalls and storms of retransmissions, groups with more than one hump, and
//! performance that rises where more pairs share the hardware.
//!
//! A list of things to look at. Nothing is left out of any statistic for being in it.

pub(in crate::analysis) mod far;
mod rise;

use serde::Serialize;

pub use far::{FEWEST, Far};
pub use rise::Rise;

use super::contrasts::parallel;
use super::stats::describe::{median, sorted};
use super::stats::dip::{DipNull, LARGEST};
use super::summary::count;
use super::trust;
use crate::ids::{Better, Level};
use crate::units::Percent;

/// Probability that a campaign without any fault has a value that lies far out, or a rise.
pub const ALPHA: f64 = 0.05;
/// Share of retransmitted packets from which it is a storm.
pub const STORM_SHARE: f64 = 0.01;
/// And how many times its group's median.
pub const STORM_TIMES: f64 = 10.0;
/// The factor whose levels share hardware.
pub const CONTENTION: &str = "pairs";

/// A metric that is looked at, in all groups.
#[derive(Debug, Clone)]
pub struct Looked<'a> {
    /// Its name without level and role.
    pub name: &'a str,
    /// What it describes.
    pub level: Level,
    /// Which way is an improvement.
    pub better: Option<Better>,
    /// Differences up to this share do not matter.
    pub margin: Percent,
    /// For each group the values, each with the index of its iteration.
    pub groups: Vec<Vec<(f64, usize)>>,
}

/// Factors that tell the groups apart.
#[derive(Debug, Clone, Copy)]
pub struct Factors<'a> {
    /// Their names.
    pub names: &'a [String],
    /// Their values in each group; `None` where a factor means nothing.
    pub values: &'a [Vec<Option<String>>],
}

/// Something that stands out.
#[derive(Debug, Clone, PartialEq)]
pub struct Anomaly {
    /// Index of the metric.
    pub metric: usize,
    /// Index of the group.
    pub group: usize,
    /// Index of the iteration; `None` for what a whole group shows.
    pub iteration: Option<usize>,
    /// What it is.
    pub kind: Kind,
}

/// What stands out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// A value lies far from the others of its group.
    Outlier(Far),
    /// Connections fell silent, which they do not in most iterations of the group.
    Stall {
        /// Stalls (mean over pairs), or seconds stalled, as the metric says.
        value: f64,
    },
    /// A share of at least [`STORM_SHARE`] of the packets was sent again, and [`STORM_TIMES`] the group's median or more.
    Storm {
        /// The share.
        value: f64,
        /// The median of the group's shares.
        median: f64,
    },
    /// The group's values have more than one hump.
    Humps {
        /// Of the dip test.
        p: f64,
    },
    /// Performance rises with the number of pairs.
    Rise(Rise),
}

impl Kind {
    /// For programs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Outlier(_) => "outlier",
            Self::Stall { .. } => "stall",
            Self::Storm { .. } => "storm",
            Self::Humps { .. } => "humps",
            Self::Rise(_) => "rise",
        }
    }
}

/// Everything that stands out, and how much was looked at for it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Anomalies {
    /// By kind; outliers and humps by their p, others by size.
    pub found: Vec<Anomaly>,
    /// Values that were looked at one by one: what the p-values of outliers are multiplied by.
    pub values: usize,
    /// Values in groups that are too small, or too often equal, to say that one lies far out.
    pub not_looked_at: usize,
    /// Groups that were tested for humps.
    pub humps_tested: usize,
    /// Groups that were not, since too many of their values are equal, as counts are.
    pub humps_tied: usize,
    /// The level of each of these tests: so many times [`Self::humps_tested`] are found by chance at most.
    pub humps_level: f64,
    /// Steps from one number of pairs to the next that were looked at.
    pub steps: usize,
}

/// Looks at all metrics, which have the same groups. Uses all processors; the answer does not depend on how many.
pub fn anomalies(metrics: &[Looked<'_>], factors: Factors<'_>) -> Anomalies {
    let mut all = Anomalies::default();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let far: Vec<Vec<Option<far::Group>>> = parallel::all(metrics.len(), threads, |m| {
        metrics[m].groups.iter().map(|group| far::Group::of(&values(group))).collect()
    });
    for (metric, far) in metrics.iter().zip(&far) {
        for (group, far) in metric.groups.iter().zip(far) {
            let into = if far.is_some() { &mut all.values } else { &mut all.not_looked_at };
            *into += group.len();
        }
    }
    for (m, (metric, far)) in metrics.iter().zip(&far).enumerate() {
        for (g, (group, far)) in metric.groups.iter().zip(far).enumerate() {
            let at = |place: usize, kind| Anomaly { metric: m, group: g, iteration: Some(group[place].1), kind };
            let outliers = far.iter().flat_map(|far| far.beyond(ALPHA, all.values));
            all.found.extend(outliers.map(|(place, far)| at(place, Kind::Outlier(far))));
            all.found.extend(events(metric, group).into_iter().map(|(place, kind)| at(place, kind)));
        }
    }
    humps(metrics, threads, &mut all);
    let (steps, rises) = rise::rises(metrics, factors);
    all.steps = steps;
    all.found.extend(rises);
    all.found
        .sort_by(|a, b| order(&a.kind).cmp(&order(&b.kind)).then_with(|| weight(&a.kind).total_cmp(&weight(&b.kind))));
    all
}

fn values(group: &[(f64, usize)]) -> Vec<f64> {
    group.iter().map(|value| value.0).collect()
}

fn order(kind: &Kind) -> u8 {
    match kind {
        Kind::Rise(_) => 0,
        Kind::Storm { .. } => 1,
        Kind::Stall { .. } => 2,
        Kind::Outlier(_) => 3,
        Kind::Humps { .. } => 4,
    }
}

/// The less, the more it stands out.
fn weight(kind: &Kind) -> f64 {
    match kind {
        Kind::Outlier(far) => far.p,
        Kind::Humps { p } => *p,
        Kind::Stall { value } | Kind::Storm { value, .. } => -value,
        // One without a percentage is the smallest there is.
        Kind::Rise(rise) => -rise.percent.map_or(0.0, f64::abs),
    }
}

/// The name without the vantage before it: of `host.2.stalls` `stalls`.
fn last_part(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, last)| last)
}

/// Stalls and storms: places in the group. Facts of single iterations, for which no test is made.
fn events(metric: &Looked<'_>, group: &[(f64, usize)]) -> Vec<(usize, Kind)> {
    let name = last_part(metric.name);
    if metric.level != Level::Network || !["stalls", "stall_time", "rexmt_share"].contains(&name) {
        return Vec::new();
    }
    let Some(middle) = sorted(&values(group)).as_deref().and_then(median) else { return Vec::new() };
    let kind = |&(value, _): &(f64, usize)| {
        if name == "rexmt_share" {
            let is_storm = value >= STORM_SHARE && value >= STORM_TIMES * middle;
            is_storm.then_some(Kind::Storm { value, median: middle })
        } else {
            (middle == 0.0 && value > 0.0).then_some(Kind::Stall { value })
        }
    };
    group.iter().enumerate().filter_map(|(place, value)| Some((place, kind(value)?))).collect()
}

/// Fewest values for which more than one hump is worth a word.
const FEWEST_FOR_HUMPS: usize = 10;

fn humps(metrics: &[Looked<'_>], threads: usize, all: &mut Anomalies) {
    let (cells, tied): (Vec<_>, Vec<_>) = metrics
        .iter()
        .enumerate()
        .flat_map(|(m, metric)| metric.groups.iter().enumerate().map(move |(g, group)| (m, g, group)))
        .filter(|(_, _, group)| group.len() >= FEWEST_FOR_HUMPS)
        .filter_map(|(m, g, group)| Some((m, g, sorted(&values(group))?)))
        .filter(|(_, _, sorted)| sorted[0] < sorted[sorted.len() - 1])
        .partition(|(_, _, sorted): &(usize, usize, Vec<f64>)| DipNull::suits(sorted));
    all.humps_tied = tied.len();
    all.humps_tested = cells.len();
    all.humps_level = trust::level(cells.len());
    let size = |n: usize| n.min(LARGEST);
    let sizes: std::collections::BTreeSet<usize> = cells.iter().map(|cell| size(cell.2.len())).collect();
    let sizes: Vec<usize> = sizes.into_iter().collect();
    // Each draws its samples on all processors.
    let nulls: Vec<DipNull> = sizes.iter().map(|&n| DipNull::new(n)).collect();
    let null = |n: usize| &nulls[sizes.partition_point(|&known| known < size(n))];
    let ps = parallel::all(cells.len(), threads, |i| null(cells[i].2.len()).p(&cells[i].2));
    for ((metric, group, _), p) in cells.iter().zip(ps) {
        if let Some(p) = p.filter(|&p| p <= all.humps_level) {
            all.found.push(Anomaly { metric: *metric, group: *group, iteration: None, kind: Kind::Humps { p } });
        }
    }
}

impl Anomalies {
    /// Groups with more than one hump that chance alone would find, at most.
    pub fn humps_by_chance(&self) -> f64 {
        self.humps_level * count(self.humps_tested)
    }
}

#[cfg(test)]
mod tests;
