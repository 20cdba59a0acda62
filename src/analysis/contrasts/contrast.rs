//! One group against its baseline in one metric.

use std::collections::BTreeMap;

use serde::Serialize;

use super::hosts::Hosts;
use super::verdict::{Rule, Verdict, Why};
use super::{Cell, Extent, Options, parallel};
use crate::analysis::stats::brunner_munzel::BrunnerMunzel;
use crate::analysis::stats::describe::{mad, median, quantile, sorted};
use crate::analysis::stats::dominance::Dominance;
use crate::analysis::stats::equivalence::{Bounds, Tost};
use crate::analysis::stats::kolmogorov::KolmogorovSmirnov;
use crate::analysis::stats::mann_whitney::{Counts, MannWhitney, is_countable};
use crate::analysis::stats::permutation::Permutation;
use crate::analysis::stats::ranks::Ranked;
use crate::analysis::stats::shift::{hodges_lehmann, shift_interval};
use crate::analysis::{Interval, Summary, TwoSample};

/// A contrast with all its numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contrast {
    /// Index of the metric.
    pub metric: usize,
    /// Index of the group.
    pub group: usize,
    /// Index of the baseline's group.
    pub baseline: usize,
    /// The group's values.
    pub group_side: Side,
    /// The baseline's values.
    pub baseline_side: Side,
    /// Statistics of both; `None` when either side is empty or has a value that is not finite.
    pub numbers: Option<Numbers>,
    /// What the hosts say when values come from several; `None` with one host.
    pub hosts: Option<Hosts>,
    /// p-value of Welch's test adjusted by Holm's method. Of the family, like the two that follow.
    pub p_holm: Option<f64>,
    /// By Benjamini and Hochberg.
    pub p_bh: Option<f64>,
    /// By Benjamini and Yekutieli.
    pub p_by: Option<f64>,
    /// Two one-sided tests against the margin, not adjusted.
    pub tost: Option<Tost>,
    /// Welch's interval of the difference that covers 1 − α/family.
    pub family_interval: Option<Interval>,
    /// What it shows.
    pub verdict: Verdict,
}

/// One side of a contrast.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Side {
    /// Values; 0 is none.
    pub n: usize,
    /// Of these: infinite or no numbers.
    pub not_finite: usize,
    /// Arithmetic mean. This and all that follow are `None` without a value or with one that is not finite.
    pub mean: Option<f64>,
    /// Standard deviation with n − 1; `None` with one value too.
    pub sd: Option<f64>,
    /// Median.
    pub median: Option<f64>,
    /// First and third quartile.
    pub quartiles: Option<Interval>,
    /// Median distance from the median.
    pub mad: Option<f64>,
}

/// Statistics of two samples. Intervals cover 1 − α of the options, but for those of `means`, which cover 95 %.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Numbers {
    /// Differences of means, Welch's test, Hedges' g.
    pub means: TwoSample,
    /// BCa bootstrap interval of the difference of means; `None` when either side has fewer than two values or neither varies.
    pub difference_bca: Option<Interval>,
    /// BCa bootstrap interval of the difference in percent; `None` where [`TwoSample::percent`] is, too, and when a resampled
    /// baseline's mean is not positive.
    pub percent_bca: Option<Interval>,
    /// Cliff's δ and A12.
    pub dominance: Dominance,
    /// Hodges–Lehmann's shift. This, its interval and the tests marked so are not made for [`Extent::Brief`].
    pub shift: Option<f64>,
    /// Its interval.
    pub shift_ci: Option<Interval>,
    /// Mann–Whitney's test.
    pub mann_whitney: Option<MannWhitney>,
    /// Brunner–Munzel's test; not made for [`Extent::Brief`].
    pub brunner_munzel: Option<BrunnerMunzel>,
    /// Kolmogorov–Smirnov's test; not made for [`Extent::Brief`].
    pub kolmogorov_smirnov: Option<KolmogorovSmirnov>,
    /// Permutation test of the difference of means, within blocks where all values have one; `None` when nothing can be
    /// exchanged, or a side has fewer than two values.
    pub permutation: Option<Permutation>,
}

/// A cell, made ready for everything.
pub(super) struct Prepared {
    pub(super) n: usize,
    not_finite: usize,
    /// Ascending; `None` when a value is not finite.
    sorted: Option<Vec<f64>>,
    pub(super) summary: Summary,
    /// Distances from the mean in the values' order; empty without a mean.
    pub(super) centred: Vec<f64>,
}

impl Prepared {
    pub(super) fn of(cell: &Cell) -> Self {
        let values = &cell.values;
        assert!(cell.blocks.as_ref().is_none_or(|blocks| blocks.len() == values.len()), "one block for each value");
        assert!(cell.hosts.as_ref().is_none_or(|hosts| hosts.len() == values.len()), "one host for each value");
        let summary = Summary::of(values);
        let centred = summary.mean.map(|mean| values.iter().map(|x| x - mean).collect()).unwrap_or_default();
        let not_finite = values.iter().filter(|x| !x.is_finite()).count();
        Self { n: values.len(), not_finite, sorted: sorted(values), summary, centred }
    }

    /// Can means of resamples say anything?
    pub(super) fn is_resampled(&self) -> bool {
        self.n >= 2 && self.summary.sd.is_some()
    }

    fn side(&self) -> Side {
        let sorted = self.sorted.as_deref().unwrap_or_default();
        let quartiles = quantile(sorted, 0.25).zip(quantile(sorted, 0.75)).map(|(low, high)| Interval { low, high });
        Side {
            n: self.n,
            not_finite: self.not_finite,
            mean: self.summary.mean,
            sd: self.summary.sd,
            median: median(sorted),
            quartiles,
            mad: mad(sorted),
        }
    }
}

impl Contrast {
    /// Does it count in its family?
    pub(super) const fn is_comparable(&self) -> bool {
        self.numbers.is_some() && self.group_side.n >= 2 && self.baseline_side.n >= 2
    }

    pub(super) fn welch_p(&self) -> Option<f64> {
        self.numbers.as_ref()?.means.welch.map(|welch| welch.p)
    }
}

/// All contrasts without what needs resamples, deals or the family.
pub(super) fn all(prepared: &[Vec<Option<Prepared>>], pairs: &[(usize, usize)], options: &Options) -> Vec<Contrast> {
    let sides: Vec<Vec<Option<Side>>> = parallel::all(prepared.len(), options.threads, |m| {
        prepared[m].iter().map(|cell| cell.as_ref().map(Prepared::side)).collect()
    });
    let counts = counts(prepared, pairs, options);
    parallel::all(prepared.len() * pairs.len(), options.threads, |i| {
        let (metric, (group, baseline)) = (i / pairs.len(), pairs[i % pairs.len()]);
        let cell = |group: usize| prepared[metric][group].as_ref().expect("the pair uses it");
        let side = |group: usize| sides[metric][group].expect("as above");
        Contrast {
            metric,
            group,
            baseline,
            group_side: side(group),
            baseline_side: side(baseline),
            numbers: numbers(cell(group), cell(baseline), &counts, options),
            hosts: None,
            p_holm: None,
            p_bh: None,
            p_by: None,
            tost: None,
            family_interval: None,
            verdict: Verdict::NotComparable { why: Why::OutOfRange },
        }
    })
}

/// Distributions of Mann–Whitney's U by the sizes of both sides, which many contrasts share.
type AllCounts = BTreeMap<(usize, usize), Counts>;

fn counts(prepared: &[Vec<Option<Prepared>>], pairs: &[(usize, usize)], options: &Options) -> AllCounts {
    let size = |cells: &[Option<Prepared>], group: usize| cells[group].as_ref().map_or(0, |cell| cell.n);
    let sizes = |cells: &Vec<Option<Prepared>>| {
        pairs.iter().map(|&(group, baseline)| key(size(cells, group), size(cells, baseline))).collect::<Vec<_>>()
    };
    let wanted: std::collections::BTreeSet<_> =
        prepared.iter().flat_map(sizes).filter(|&(m, n)| m > 0 && is_countable(m, n)).collect();
    let wanted: Vec<_> = wanted.into_iter().collect();
    let counts = parallel::all(wanted.len(), options.threads, |i| Counts::new(wanted[i].0, wanted[i].1));
    wanted.into_iter().zip(counts).collect()
}

fn key(m: usize, n: usize) -> (usize, usize) {
    (m.min(n), m.max(n))
}

fn numbers(group: &Prepared, baseline: &Prepared, counts: &AllCounts, options: &Options) -> Option<Numbers> {
    let (confidence, is_full) = (1.0 - options.alpha, options.extent == Extent::Full);
    let means = TwoSample::of(&group.summary, &baseline.summary)?;
    let (x, y) = (group.sorted.as_deref()?, baseline.sorted.as_deref()?);
    let ranked = Ranked::new(x, y)?;
    let mann_whitney = match counts.get(&key(x.len(), y.len())) {
        Some(counts) if !ranked.has_ties() => Some(MannWhitney::exact(&ranked, counts)),
        _ => MannWhitney::asymptotic(&ranked),
    };
    Some(Numbers {
        means,
        difference_bca: None,
        percent_bca: None,
        dominance: Dominance::of(&ranked, confidence),
        shift: if is_full { Some(hodges_lehmann(x, y)?) } else { None },
        shift_ci: if is_full { shift_interval(x, y, confidence) } else { None },
        mann_whitney,
        brunner_munzel: if is_full { BrunnerMunzel::of(&ranked) } else { None },
        kolmogorov_smirnov: is_full.then(|| KolmogorovSmirnov::of(&ranked)),
        permutation: None,
    })
}

/// The verdict, the family's interval, and the test of equivalence. The verdict rests on differences within hosts where these decide;
/// the two others are of the means over all hosts.
pub(super) fn judged(
    rule: &Rule,
    group: &Prepared,
    baseline: &Prepared,
    hosts: Option<&Hosts>,
) -> (Verdict, Option<Interval>, Option<Tost>) {
    if group.not_finite + baseline.not_finite > 0 {
        let why = Why::NotFinite { group: group.not_finite, baseline: baseline.not_finite };
        return (Verdict::NotComparable { why }, None, None);
    }
    let verdict = match hosts.filter(|hosts| hosts.decides) {
        Some(hosts) => rule.judge_within(hosts.strata()),
        None => rule.judge(&group.summary, &baseline.summary),
    };
    if matches!(verdict, Verdict::NotComparable { .. }) {
        return (verdict, None, None);
    }
    let tost = Bounds::of(&group.summary, &baseline.summary, rule.margin).as_ref().and_then(Tost::of);
    (verdict, rule.interval(&group.summary, &baseline.summary), tost)
}
