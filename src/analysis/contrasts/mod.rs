//! Many metrics in many groups, each group against its baseline: every statistic, the family they make, and a verdict.

pub mod aa;
mod contrast;
mod hosts;
pub(crate) mod parallel;
mod resample;
mod verdict;

pub use contrast::{Contrast, Numbers, Side};
pub use hosts::{Hosts, OnHost, Within};
pub use verdict::{Basis, Rule, Verdict, Why};

use super::stats::equivalence::Margin;
use super::stats::multiplicity::adjust;
use contrast::Prepared;

/// The values of one metric in one group: one for each iteration that has the metric.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cell {
    /// In any order.
    pub values: Vec<f64>,
    /// The block that each value's iteration was in, as many as values; `None` when the plan was not blocked.
    pub blocks: Option<Vec<u32>>,
    /// Number of the host that each value comes from, as many as values; `None` when all are from one.
    pub hosts: Option<Vec<u32>>,
}

/// A metric in all groups.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Differences up to it do not matter.
    pub margin: Margin,
    /// One cell for each group.
    pub cells: Vec<Cell>,
}

/// How contrasts are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Resamples of each bootstrap; 0 for no bootstrap intervals.
    pub resamples: usize,
    /// Decides on resamples and deals: the same seed, the same results.
    pub seed: u64,
    /// Probability of any wrong verdict in the family; every interval that is not called the family's covers 1 − `alpha`.
    pub alpha: f64,
    /// Threads; results do not depend on it.
    pub threads: usize,
    /// How much is calculated of each contrast.
    pub extent: Extent,
}

/// How much is calculated of a contrast. The verdict and what it rests on do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    Full,
    /// What tables and pages show: means and their differences, Hedges' g, Cliff's δ, Welch's and Mann–Whitney's test, equivalence.
    /// No resamples and deals, and of [`Numbers`] no shift, Brunner–Munzel's and Kolmogorov–Smirnov's test.
    Brief,
}

impl Default for Options {
    /// 10,000 resamples, 5 %, all processors.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { resamples: 10_000, seed: 1, alpha: 0.05, threads, extent: Extent::Full }
    }
}

/// The answer to every contrast that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Contrasts with enough values on both sides to be compared: what verdicts and intervals take into account.
    pub size: usize,
    /// Of these: those with a p-value. Holm's and Benjamini's methods adjust for them; a test cannot be made between constants.
    pub adjusted: usize,
    /// By metric, then in the order of the pairs.
    pub contrasts: Vec<Contrast>,
}

/// Compares, in each metric, the groups of each pair: the first with the second, which is its baseline.
///
/// The family is all of it: every contrast that could be compared, of every metric. Metrics measured in the same iterations share
/// resamples and deals, which leaves each contrast's interval and p-value as good as if they did not. Needs 8 bytes for each
/// resample of each group in as many metrics as fit into 256 MiB, at least one.
///
/// # Panics
/// When a pair names a group that a metric does not have, or a cell has another number of blocks or hosts than of values.
pub fn contrasts(metrics: &[Metric], pairs: &[(usize, usize)], options: &Options) -> Family {
    together(&[Batch { metrics, pairs }], options).pop().expect("one batch, one part")
}

/// Metrics that have the same groups, and the pairs of these that are compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Batch<'a> {
    /// The metrics.
    pub metrics: &'a [Metric],
    /// As [`contrasts`] takes them.
    pub pairs: &'a [(usize, usize)],
}

/// What was prepared of each metric's groups, and the contrasts that were made of it.
type Part = (Vec<Vec<Option<Prepared>>>, Vec<Contrast>);

/// The same over metrics that do not all have the same groups: all batches together are one family, whose size every part has.
///
/// # Panics
/// As [`contrasts`].
pub fn together(batches: &[Batch<'_>], options: &Options) -> Vec<Family> {
    let parts: Vec<Part> = batches.iter().map(|batch| without_family(batch, options)).collect();
    let size = parts.iter().flat_map(|part| &part.1).filter(|contrast| contrast.is_comparable()).count();
    let welch: Vec<Option<f64>> = parts.iter().flat_map(|part| &part.1).map(Contrast::welch_p).collect();
    let adjusted = adjust(&welch);
    let mut first = 0;
    let judged = parts.into_iter().zip(batches).map(|((prepared, contrasts), batch)| {
        let mut family = Family { size, adjusted: adjusted.size, contrasts };
        family.judge(batch.metrics, &prepared, options);
        for (i, contrast) in (first..).zip(&mut family.contrasts) {
            (contrast.p_holm, contrast.p_bh, contrast.p_by) =
                (adjusted.holm[i], adjusted.benjamini_hochberg[i], adjusted.benjamini_yekutieli[i]);
        }
        first += family.contrasts.len();
        family
    });
    judged.collect()
}

/// Everything of a batch that does not depend on how many contrasts there are.
fn without_family(batch: &Batch<'_>, options: &Options) -> (Vec<Vec<Option<Prepared>>>, Vec<Contrast>) {
    let Batch { metrics, pairs } = *batch;
    let used = used_groups(pairs);
    let prepared: Vec<Vec<Option<Prepared>>> = parallel::all(metrics.len(), options.threads, |m| {
        let cell = |(i, cell)| used.contains(&i).then(|| Prepared::of(cell));
        metrics[m].cells.iter().enumerate().map(cell).collect()
    });
    let mut contrasts = contrast::all(&prepared, pairs, options);
    hosts::fill(metrics, options, &mut contrasts);
    if options.extent == Extent::Full {
        resample::bootstrap(&prepared, pairs, options, &mut contrasts);
        resample::permutations(metrics, options, &mut contrasts);
    }
    (prepared, contrasts)
}

/// Groups that are compared with anything.
fn used_groups(pairs: &[(usize, usize)]) -> std::collections::BTreeSet<usize> {
    pairs.iter().flat_map(|&(group, baseline)| [group, baseline]).collect()
}

impl Family {
    /// What each contrast shows, given how many there are.
    fn judge(&mut self, metrics: &[Metric], prepared: &[Vec<Option<Prepared>>], options: &Options) {
        let rule = |margin| Rule { alpha: options.alpha, family: self.size.max(1), margin };
        let side = |metric: usize, group: usize| prepared[metric][group].as_ref().expect("the pair uses it");
        let judged = parallel::all(self.contrasts.len(), options.threads, |i| {
            let contrast = &self.contrasts[i];
            let (group, baseline) = (side(contrast.metric, contrast.group), side(contrast.metric, contrast.baseline));
            let rule = rule(metrics[contrast.metric].margin);
            contrast::judged(&rule, group, baseline, contrast.hosts.as_ref())
        });
        for (contrast, (verdict, interval, tost)) in self.contrasts.iter_mut().zip(judged) {
            if let Some(hosts) = &mut contrast.hosts {
                hosts.set_family(&rule(metrics[contrast.metric].margin));
            }
            contrast.verdict = verdict;
            contrast.family_interval = interval;
            contrast.tost = tost;
        }
    }
}

#[cfg(test)]
mod tests;
