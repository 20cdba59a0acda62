//! A contrast whose values come from several hosts: the difference on each, within all of them, and whether they agree.

use std::collections::BTreeMap;

use serde::Serialize;

use super::contrast::Contrast;
use super::verdict::Rule;
use super::{Cell, Metric, Options, parallel};
use crate::analysis::stats::equivalence::{Linear, weighted_baseline};
use crate::analysis::stats::hosts::{Estimate, Pooled, homogeneity, pooled};
use crate::analysis::{CONFIDENCE, Interval, Summary};

/// What several hosts say of one contrast.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hosts {
    /// Has every host the same share of the values of both sides? Otherwise the difference of the means is also one between hosts.
    pub balanced: bool,
    /// Does the verdict rest on `within`? It does where hosts are not balanced, and where all of them have two values of both sides.
    pub decides: bool,
    /// Hosts with a value of either side, in the order of their numbers.
    pub each: Vec<OnHost>,
    /// The difference within hosts; `None` when no host has two values of both sides, or nothing varies on any.
    pub within: Option<Within>,
    /// The same over all such hosts, of which these are a sample: random effects by DerSimonian and Laird. `None` as `within`, or when
    /// nothing varies on one of the hosts.
    pub random: Option<Pooled>,
    /// Probability of differences at least as far apart if all hosts have the same one ([`homogeneity`]); `None` as `random`, or with
    /// one host.
    pub homogeneity_p: Option<f64>,
    /// Group and baseline on each host that has two values of both.
    #[serde(skip)]
    strata: Vec<(Summary, Summary)>,
}

/// A contrast on one host.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OnHost {
    /// Number of the host, as [`Cell::hosts`] has it.
    pub host: u32,
    /// Values of the group.
    pub n: usize,
    /// Values of the baseline.
    pub baseline_n: usize,
    /// Difference of means; `None` when a side has no value.
    pub difference: Option<f64>,
    /// Welch's interval of it, 95 %.
    pub difference_ci95: Option<Interval>,
}

/// The difference within hosts: the weighted mean of those on each ([`Linear::within`]).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Within {
    /// Hosts that it is over.
    pub hosts: usize,
    /// The difference.
    pub difference: f64,
    /// Interval of it, 95 %.
    pub difference_ci95: Option<Interval>,
    /// In percent of the baseline's mean with the same weights; `None` unless that is positive.
    pub percent: Option<f64>,
    /// Degrees of freedom of its error.
    pub df: f64,
    /// The interval that covers 1 − α/family.
    pub family_interval: Option<Interval>,
}

impl Hosts {
    /// `None` when all values are of one host, or hosts are not known, or a value is not finite.
    fn of(group: &Cell, baseline: &Cell) -> Option<Self> {
        let mut values: BTreeMap<u32, [Vec<f64>; 2]> = BTreeMap::new();
        for (side, cell) in [group, baseline].into_iter().enumerate() {
            for (&host, &value) in cell.hosts.as_ref()?.iter().zip(&cell.values) {
                values.entry(host).or_default()[side].push(value);
            }
        }
        let finite = values.values().flatten().flatten().all(|x| x.is_finite());
        if values.len() < 2 || !finite {
            return None;
        }
        let summaries: Vec<(u32, Summary, Summary)> =
            values.iter().map(|(&host, [a, b])| (host, Summary::of(a), Summary::of(b))).collect();
        let is_stratum = |(_, a, b): &&(u32, Summary, Summary)| a.n >= 2 && b.n >= 2;
        let strata: Vec<(Summary, Summary)> = summaries.iter().filter(is_stratum).map(|&(_, a, b)| (a, b)).collect();
        let (m, n) = (group.values.len(), baseline.values.len());
        let balanced = summaries.iter().all(|(_, a, b)| a.n * n == b.n * m);
        let whole = strata.len() == summaries.len();
        let (random, homogeneity_p) = together(&strata);
        Some(Self {
            balanced,
            decides: !strata.is_empty() && (!balanced || whole),
            each: summaries.iter().map(|(host, a, b)| on_host(*host, a, b)).collect(),
            within: within(&strata),
            random,
            homogeneity_p,
            strata,
        })
    }

    /// Group and baseline on each host that has two values of both.
    pub(super) fn strata(&self) -> &[(Summary, Summary)] {
        &self.strata
    }

    /// Adds the interval of the family.
    pub(super) fn set_family(&mut self, rule: &Rule) {
        let interval = Linear::within(&self.strata, 1.0, 0.0).and_then(|linear| linear.interval(rule.confidence()));
        if let Some(within) = &mut self.within {
            within.family_interval = interval;
        }
    }
}

fn on_host(host: u32, group: &Summary, baseline: &Summary) -> OnHost {
    let difference = group.mean.zip(baseline.mean).map(|(a, b)| a - b).filter(|d| d.is_finite());
    let difference_ci95 = Linear::of(group, baseline, 1.0, 0.0).and_then(|linear| linear.interval(CONFIDENCE));
    OnHost { host, n: group.n, baseline_n: baseline.n, difference, difference_ci95 }
}

fn within(strata: &[(Summary, Summary)]) -> Option<Within> {
    let linear = Linear::within(strata, 1.0, 0.0)?;
    let baseline = weighted_baseline(strata).filter(|&mean| mean > 0.0);
    Some(Within {
        hosts: strata.len(),
        difference: linear.estimate,
        difference_ci95: linear.interval(CONFIDENCE),
        percent: baseline.map(|mean| 100.0 * linear.estimate / mean).filter(|percent| percent.is_finite()),
        df: linear.df,
        family_interval: None,
    })
}

/// Random effects over hosts, and whether the hosts agree.
fn together(strata: &[(Summary, Summary)]) -> (Option<Pooled>, Option<f64>) {
    let one = |(group, baseline): &(Summary, Summary)| {
        let linear = Linear::of(group, baseline, 1.0, 0.0)?;
        Some((Estimate { value: linear.estimate, variance: linear.error.powi(2) }, linear.df))
    };
    let Some(estimates) = strata.iter().map(one).collect::<Option<Vec<_>>>() else { return (None, None) };
    let values: Vec<Estimate> = estimates.iter().map(|(estimate, _)| *estimate).collect();
    (pooled(&values, CONFIDENCE), homogeneity(&estimates))
}

/// Fills in what the hosts say.
pub(super) fn fill(metrics: &[Metric], options: &Options, contrasts: &mut [Contrast]) {
    let found = parallel::all(contrasts.len(), options.threads, |i| {
        let contrast = &contrasts[i];
        let cell = |group: usize| &metrics[contrast.metric].cells[group];
        Hosts::of(cell(contrast.group), cell(contrast.baseline))
    });
    contrasts.iter_mut().zip(found).for_each(|(contrast, hosts)| contrast.hosts = hosts);
}

#[cfg(test)]
mod tests {
    use super::super::{Basis, Verdict, Why, contrasts};
    use super::*;
    use crate::analysis::stats::equivalence::Margin;
    use crate::analysis::stats::random::Random;

    /// Values around a level on each host: `(host, level, n)`.
    fn cell(parts: &[(u32, f64, usize)], random: &mut Random) -> Cell {
        let one = |&(host, level, n): &(u32, f64, usize)| (0..n).map(move |_| (host, level));
        let all: Vec<(u32, f64)> = parts.iter().flat_map(one).collect();
        let values = all.iter().map(|(_, level)| level + random.normal()).collect();
        Cell { values, blocks: None, hosts: Some(all.iter().map(|(host, _)| *host).collect()) }
    }

    fn contrast(group: &[(u32, f64, usize)], baseline: &[(u32, f64, usize)]) -> Contrast {
        let mut random = Random::new(7, &[1]);
        let cells = vec![cell(baseline, &mut random), cell(group, &mut random)];
        let metric = Metric { margin: Margin::Relative(0.05), cells };
        let options = Options { resamples: 100, ..Options::default() };
        contrasts(&[metric], &[(1, 0)], &options).contrasts.remove(0)
    }

    const WITHIN: Basis = Basis::WithinHosts;

    /// Simpson's case: on each host the sides are equal; the slow host has most of the group, the fast one most of the baseline.
    #[test]
    fn a_difference_between_hosts_is_no_difference_between_sides() {
        let mixed = contrast(&[(0, 100.0, 18), (1, 150.0, 6)], &[(0, 100.0, 6), (1, 150.0, 18)]);
        let pooled = mixed.numbers.as_ref().unwrap().means;
        assert!(pooled.percent.unwrap() < -15.0 && pooled.welch.unwrap().p < 0.001, "{pooled:?}");
        assert_eq!(mixed.verdict, Verdict::Equivalent { basis: WITHIN });
        let hosts = mixed.hosts.unwrap();
        assert!(!hosts.balanced && hosts.decides);
        let within = hosts.within.unwrap();
        assert!(within.difference.abs() < 1.0 && within.percent.unwrap().abs() < 1.0, "{within:?}");
        let (narrow, wide) = (within.difference_ci95.unwrap(), within.family_interval.unwrap());
        assert!(narrow.low < 0.0 && 0.0 < narrow.high && narrow == wide, "one contrast is the family");
        assert!(hosts.homogeneity_p.unwrap() > 0.05 && hosts.random.unwrap().i2.unwrap() < 0.8);
        let counts: Vec<_> = hosts.each.iter().map(|one| (one.host, one.n, one.baseline_n)).collect();
        assert_eq!(counts, [(0, 18, 6), (1, 6, 18)]);
        assert!(mixed.numbers.unwrap().permutation.unwrap().p > 0.05, "dealt within hosts");
    }

    /// The other way round: hosts hide a difference that each of them shows.
    #[test]
    fn a_difference_that_hosts_hide_is_found() {
        let hidden = contrast(&[(0, 110.0, 18), (1, 165.0, 6)], &[(0, 100.0, 6), (1, 150.0, 18)]);
        assert_eq!(hidden.verdict, Verdict::Different { basis: WITHIN });
        assert!(hidden.numbers.unwrap().means.percent.unwrap() < 0.0, "the means say the opposite");
        assert!((hidden.hosts.unwrap().within.unwrap().percent.unwrap() - 10.0).abs() < 1.0);
    }

    #[test]
    fn hosts_that_disagree_have_no_common_difference() {
        let opposite = contrast(&[(0, 120.0, 9), (1, 80.0, 9)], &[(0, 100.0, 9), (1, 100.0, 9)]);
        assert_eq!(opposite.verdict, Verdict::NotComparable { why: Why::HostsDisagree });
        let hosts = opposite.hosts.unwrap();
        assert!(hosts.homogeneity_p.unwrap() < 1e-6 && hosts.random.unwrap().i2.unwrap() > 0.95);
        // Both above: a difference, though not one size.
        let both = contrast(&[(0, 120.0, 9), (1, 140.0, 9)], &[(0, 100.0, 9), (1, 100.0, 9)]);
        assert_eq!(both.verdict, Verdict::Different { basis: WITHIN });
        assert!(both.hosts.unwrap().homogeneity_p.unwrap() < 1e-6);
    }

    #[test]
    fn hosts_that_cannot_be_told_from_the_sides_leave_the_means() {
        let apart = contrast(&[(0, 120.0, 9)], &[(1, 100.0, 9)]);
        assert_eq!(apart.verdict, Verdict::Different { basis: Basis::Means });
        let hosts = apart.hosts.unwrap();
        assert!(!hosts.balanced && !hosts.decides && hosts.within.is_none() && hosts.random.is_none());
        assert!(hosts.each.iter().all(|one| one.difference.is_none()));
        // One value on each of many hosts: balanced, so the means say it.
        let spread = |level: f64| -> Vec<(u32, f64, usize)> { (0..12).map(|host| (host, level, 1)).collect() };
        let single = contrast(&spread(120.0), &spread(100.0));
        assert_eq!(single.verdict, Verdict::Different { basis: Basis::Means });
        let hosts = single.hosts.unwrap();
        assert!(hosts.balanced && hosts.within.is_none());
        assert_eq!(contrast(&[(3, 120.0, 9)], &[(3, 100.0, 9)]).hosts, None, "one host");
    }

    #[test]
    fn constants_are_compared_within_hosts_too() {
        let constant = |parts: &[(u32, f64, usize)]| {
            let cell = cell(parts, &mut Random::new(1, &[]));
            let level = |host: &u32| parts.iter().find(|part| part.0 == *host).unwrap().1;
            let values = cell.hosts.as_ref().unwrap().iter().map(level).collect();
            Cell { values, ..cell }
        };
        let verdict = |group: &[(u32, f64, usize)], baseline: &[(u32, f64, usize)]| {
            let metric = Metric { margin: Margin::Relative(0.05), cells: vec![constant(baseline), constant(group)] };
            contrasts(&[metric], &[(1, 0)], &Options { resamples: 0, ..Options::default() }).contrasts.remove(0).verdict
        };
        let baseline = [(0, 1.0, 3), (1, 2.0, 9)];
        assert_eq!(verdict(&[(0, 1.0, 9), (1, 2.0, 3)], &baseline), Verdict::Equivalent { basis: WITHIN });
        assert_eq!(verdict(&[(0, 1.01, 9), (1, 2.0, 3)], &baseline), Verdict::DifferentNegligible { basis: WITHIN });
        assert_eq!(verdict(&[(0, 2.0, 9), (1, 3.0, 3)], &baseline), Verdict::Different { basis: WITHIN });
        let disagree = Verdict::NotComparable { why: Why::HostsDisagree };
        assert_eq!(verdict(&[(0, 2.0, 9), (1, 1.0, 3)], &baseline), disagree);
        let few = verdict(&[(0, 1.0, 2), (1, 2.0, 1)], &[(0, 1.0, 2), (1, 2.0, 3)]);
        assert_eq!(few, Verdict::Undecided { differs: false, repetitions: None });
    }

    #[test]
    fn values_that_are_no_numbers_are_left_to_the_verdict() {
        let mut random = Random::new(3, &[]);
        let mut cells =
            vec![cell(&[(0, 1.0, 3), (1, 1.0, 3)], &mut random), cell(&[(0, 1.0, 3), (1, 1.0, 3)], &mut random)];
        cells[1].values[0] = f64::NAN;
        let metric = Metric { margin: Margin::Relative(0.05), cells };
        let found = contrasts(&[metric], &[(1, 0)], &Options::default()).contrasts.remove(0);
        assert_eq!(found.hosts, None);
        assert_eq!(found.verdict, Verdict::NotComparable { why: Why::NotFinite { group: 1, baseline: 0 } });
    }
}
