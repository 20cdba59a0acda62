//! What makes a group's values doubtful: they depend on time or on each other, jump, lie far out, or have two humps.
//!
//! Nothing is dropped for it: a doubt is a thing to look at.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Interval;
use super::anomalies::far;
use super::contrasts::{Hosts, parallel};
use super::stats::change::changes;
use super::stats::describe::sorted;
use super::stats::dip::{DipNull, LARGEST};
use super::stats::series::{autocorrelation, trend_within};
use super::summary::count;

/// Something to look at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "doubt", rename_all = "snake_case")]
pub enum Doubt {
    /// Values rise or fall over the repetitions (Mann–Kendall).
    Drift {
        /// Theil–Sen's slope over all of them: from the first to the last, in the metric's unit.
        change: f64,
        /// Of Mann–Kendall's test.
        p: f64,
    },
    /// Values depend on those before them (Ljung–Box), of thirty values or more.
    Dependence {
        /// Autocorrelation at lag 1.
        lag1: f64,
        /// Of Ljung–Box's test.
        p: f64,
    },
    /// The level jumps (Pettitt).
    Jump {
        /// Index, from 0 in run order, of the first value after it.
        at: usize,
        /// Of Pettitt's test.
        p: f64,
    },
    /// Values lie far out. They are in every number all the same.
    Outliers {
        /// How many.
        n: usize,
    },
    /// The distribution has more than one hump (Hartigan's dip).
    Humps {
        /// Of the dip test.
        p: f64,
    },
    /// Values and baseline are unequally spread over hosts: the difference of their means is also one between hosts.
    HostsUneven {
        /// Does the verdict rest on differences within hosts? Otherwise no host has two values of both sides, and what the hosts make
        /// of the difference cannot be told.
        decides: bool,
        /// The difference within hosts, in the metric's unit; `None` unless it decides, or when nothing varies on any host.
        within: Option<f64>,
        /// Its interval, 95 %.
        within_ci95: Option<Interval>,
    },
    /// The difference from the baseline is not the same on all hosts.
    HostsDiffer {
        /// Share of the variance between the hosts' differences that their errors do not explain, 0 to 1; `None` as
        /// [`Pooled::i2`](super::stats::hosts::Pooled::i2).
        i2: Option<f64>,
        /// Of Welch's test that all are the same.
        p: f64,
    },
}

/// Fewest values for Ljung–Box's approximation.
const LONG: usize = 30;
/// No test by shuffles or samples has a smaller p.
const LEAST_P: f64 = 1.0 / 2000.0;

/// The level of each test so that of so many groups without any fault about one in twenty such tables raises a doubt by it; never
/// below what tests by shuffles can reach.
pub fn level(groups: usize) -> f64 {
    (0.05 / count(groups.max(1))).max(LEAST_P)
}

/// Null distributions of the dip, by size of the sample.
type Nulls = BTreeMap<usize, DipNull>;

/// Doubts about each of `groups`, whose values are in run order, by tests at `level`. Samples too small for a test raise none by
/// it. Uses all processors; the answer does not depend on how many there are.
pub fn doubts(groups: &[Vec<f64>], level: f64, seed: u64) -> Vec<Vec<Doubt>> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let sizes: std::collections::BTreeSet<usize> =
        groups.iter().map(|group| group.len().min(LARGEST)).filter(|&n| n >= FEWEST_FOR_DIP).collect();
    let sizes: Vec<usize> = sizes.into_iter().collect();
    let nulls: Nulls = sizes.iter().map(|&n| (n, DipNull::new(n))).collect();
    parallel::all(groups.len(), threads, |i| about(&groups[i], &nulls, level, seed))
}

/// Doubts about a contrast whose values come from several hosts, by a test at `level`.
pub fn about_hosts(hosts: &Hosts, level: f64) -> Vec<Doubt> {
    let mut found = Vec::new();
    if !hosts.balanced {
        let within = hosts.within.filter(|_| hosts.decides);
        found.push(Doubt::HostsUneven {
            decides: hosts.decides,
            within: within.map(|within| within.difference),
            within_ci95: within.and_then(|within| within.difference_ci95),
        });
    }
    if let Some(p) = hosts.homogeneity_p.filter(|&p| p <= level) {
        found.push(Doubt::HostsDiffer { i2: hosts.random.and_then(|random| random.i2), p });
    }
    found
}

/// Fewest values that have a dip.
const FEWEST_FOR_DIP: usize = 4;

fn about(values: &[f64], nulls: &Nulls, level: f64, seed: u64) -> Vec<Doubt> {
    let n = values.len();
    let mut found = Vec::new();
    let times: Vec<f64> = (0..n).map(count).collect();
    if let Some(trend) = trend_within(&times, values, level) {
        found.push(Doubt::Drift { change: trend.slope * count(n.saturating_sub(1)), p: trend.p });
    }
    if let Some(a) = autocorrelation(values).filter(|a| n >= LONG && a.p <= level) {
        found.push(Doubt::Dependence { lag1: a.lag1, p: a.p });
    }
    found.extend(changes(values, level, seed).into_iter().map(|change| Doubt::Jump { at: change.at, p: change.p }));
    let far = far::Group::of(values).map_or(0, |group| group.beyond(level, n).len());
    if far > 0 {
        found.push(Doubt::Outliers { n: far });
    }
    if let Some(p) = dip_p(values, nulls).filter(|&p| p <= level) {
        found.push(Doubt::Humps { p });
    }
    found
}

fn dip_p(values: &[f64], nulls: &Nulls) -> Option<f64> {
    let sorted = sorted(values).filter(|sorted| sorted.len() >= FEWEST_FOR_DIP && DipNull::suits(sorted))?;
    nulls.get(&sorted.len().min(LARGEST))?.p(&sorted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::stats::random::Random;

    fn noise(n: usize) -> Vec<f64> {
        let mut random = Random::new(5, &[]);
        (0..n).map(|_| 100.0 + random.normal()).collect()
    }

    #[test]
    fn every_fault_raises_its_doubt_and_noise_none() {
        let about = |values: &[f64]| doubts(&[values.to_vec()], 0.001, 1).remove(0);
        let steady = noise(40);
        assert!(about(&steady).iter().all(|doubt| matches!(doubt, Doubt::Outliers { .. })), "{:?}", about(&steady));
        let with =
            |f: &dyn Fn(usize, f64) -> f64| -> Vec<f64> { steady.iter().enumerate().map(|(i, &x)| f(i, x)).collect() };
        let drifting = about(&with(&|i, x| x + 0.2 * count(i)));
        assert!(matches!(drifting[0], Doubt::Drift { change, .. } if (change - 7.8).abs() < 2.0), "{drifting:?}");
        assert!(drifting.iter().any(|doubt| matches!(doubt, Doubt::Dependence { lag1, .. } if *lag1 > 0.5)));
        let jumping = about(&with(&|i, x| if i < 20 { x } else { x + 20.0 }));
        assert!(jumping.iter().any(|doubt| matches!(doubt, Doubt::Jump { at: 20, .. })), "{jumping:?}");
        let humps = about(&with(&|i, x| if i % 2 == 0 { x } else { x + 50.0 }));
        assert!(humps.iter().any(|doubt| matches!(doubt, Doubt::Humps { .. })), "{humps:?}");
        let far = about(&with(&|i, x| if i == 7 { 1e6 } else { x }));
        assert!(far.iter().any(|doubt| matches!(doubt, Doubt::Outliers { n } if *n >= 1)), "{far:?}");
    }

    #[test]
    fn nothing_is_said_of_too_few_or_of_constants() {
        for values in [&[][..], &[1.0], &[1.0, 2.0], &[3.0; 50], &[f64::NAN; 50]] {
            assert_eq!(doubts(&[values.to_vec()], 0.05, 1), [[]], "{values:?}");
        }
        assert!(level(1) == 0.05 && level(10) == 0.005 && level(100_000) == LEAST_P);
    }
}
