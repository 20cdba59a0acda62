//! Differences against a margin of importance.

use serde::Serialize;

use crate::analysis::distribution::{t_quantile, t_sf};
use crate::analysis::summary::{Interval, Summary, count, interval};

/// The greatest difference that does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Margin {
    /// In the metric's unit, not negative.
    Absolute(f64),
    /// As a share of the baseline's mean, which is itself uncertain: 0.05 is 5 %.
    Relative(f64),
}

/// Group's mean − `factor`·baseline's mean − `offset`, with its error: what a difference has left beyond a bound.
///
/// The error is normal as the means are; the degrees of freedom are Welch's and Satterthwaite's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Linear {
    /// The value estimated.
    pub estimate: f64,
    /// Its standard error, above 0.
    pub error: f64,
    /// Degrees of freedom.
    pub df: f64,
}

impl Linear {
    /// `None` when either side has fewer than two values, or neither has spread.
    pub fn of(group: &Summary, baseline: &Summary, factor: f64, offset: f64) -> Option<Self> {
        let (va, vb) = (group.variance_of_mean()?, factor * factor * baseline.variance_of_mean()?);
        let estimate = group.mean? - factor * baseline.mean? - offset;
        let (a, b) = (va / (va + vb), vb / (va + vb));
        let df = 1.0 / (a * a / (count(group.n) - 1.0) + b * b / (count(baseline.n) - 1.0));
        let error = (va + vb).sqrt();
        (error > 0.0 && estimate.is_finite() && df.is_finite()).then_some(Self { estimate, error, df })
    }

    /// The same within strata: group and baseline of each, all with two values or more. The strata's estimates are weighted by
    /// the precision that they would have if all values had one variance, m·n/(m + n), so that weights do not depend on what was
    /// measured. `None` when nothing varies in any stratum.
    ///
    /// Assumes that strata are independent; the degrees of freedom are Satterthwaite's. With one stratum the same as [`Self::of`].
    /// Source: the weights are those of least squares with an effect for each stratum, of which Cochran 1954 (*Biometrics* 10)
    /// is the case of proportions.
    pub fn within(strata: &[(Summary, Summary)], factor: f64, offset: f64) -> Option<Self> {
        let (mut estimate, mut variance, mut uncertainty) = (0.0, 0.0, 0.0);
        for ((group, baseline), weight) in strata.iter().zip(weights(strata)) {
            let square = weight * weight;
            let (va, vb) =
                (square * group.variance_of_mean()?, square * factor * factor * baseline.variance_of_mean()?);
            estimate += weight * (group.mean? - factor * baseline.mean? - offset);
            variance += va + vb;
            uncertainty += va * va / (count(group.n) - 1.0) + vb * vb / (count(baseline.n) - 1.0);
        }
        let (error, df) = (variance.sqrt(), variance * variance / uncertainty);
        (error > 0.0 && estimate.is_finite() && df.is_finite()).then_some(Self { estimate, error, df })
    }

    /// Interval that covers `confidence`.
    pub fn interval(&self, confidence: f64) -> Option<Interval> {
        let half = t_quantile(0.5 + confidence / 2.0, self.df)? * self.error;
        interval(self.estimate - half, self.estimate + half)
    }

    /// p-value against "not above zero".
    pub fn p_above(&self) -> Option<f64> {
        t_sf(self.estimate / self.error, self.df)
    }

    /// p-value against "not below zero".
    pub fn p_below(&self) -> Option<f64> {
        t_sf(-self.estimate / self.error, self.df)
    }
}

/// A difference seen from both ends of its margin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// What the group has beyond the baseline plus the margin.
    pub upper: Linear,
    /// What it has beyond the baseline minus the margin.
    pub lower: Linear,
}

impl Bounds {
    /// For a relative margin the bounds are (1 ± margin) times the baseline's mean, whose own error counts. For baselines below
    /// zero the margin is a share of the mean's size. `None` as [`Linear::of`].
    pub fn of(group: &Summary, baseline: &Summary, margin: Margin) -> Option<Self> {
        let at = |sign: f64| match margin {
            Margin::Absolute(size) => Linear::of(group, baseline, 1.0, sign * size),
            Margin::Relative(share) => {
                Linear::of(group, baseline, 1.0 + sign * share * if baseline.mean? < 0.0 { -1.0 } else { 1.0 }, 0.0)
            }
        };
        Some(Self { upper: at(1.0)?, lower: at(-1.0)? })
    }

    /// The same within strata, see [`Linear::within`]; a relative margin is a share of the weighted mean of baselines.
    pub fn within(strata: &[(Summary, Summary)], margin: Margin) -> Option<Self> {
        let size = weighted_baseline(strata)?;
        let at = |sign: f64| match margin {
            Margin::Absolute(size) => Linear::within(strata, 1.0, sign * size),
            Margin::Relative(share) => {
                Linear::within(strata, 1.0 + sign * share * if size < 0.0 { -1.0 } else { 1.0 }, 0.0)
            }
        };
        Some(Self { upper: at(1.0)?, lower: at(-1.0)? })
    }
}

/// Weights of strata; they add up to 1.
fn weights(strata: &[(Summary, Summary)]) -> impl Iterator<Item = f64> {
    let of = |(group, baseline): &(Summary, Summary)| {
        let (m, n) = (count(group.n), count(baseline.n));
        m * n / (m + n)
    };
    let all: f64 = strata.iter().map(of).sum();
    strata.iter().map(move |stratum| of(stratum) / all)
}

/// The baselines' mean over strata with the weights of [`Linear::within`]; `None` when one has none.
pub fn weighted_baseline(strata: &[(Summary, Summary)]) -> Option<f64> {
    let means = strata.iter().zip(weights(strata)).map(|((_, baseline), weight)| Some(weight * baseline.mean?));
    means.sum::<Option<f64>>().filter(|mean| mean.is_finite())
}

/// Two one-sided tests that the difference is within its margin.
///
/// Assumes normal means, not equal variances. Agrees with `statsmodels.stats.weightstats.ttost_ind(usevar="unequal")` and, for
/// relative margins, with the test of a ratio of Tamhane & Logan 2004, *Biometrical Journal* 46. Source: Schuirmann 1987,
/// *J. Pharmacokinet. Biopharm.* 15.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tost {
    /// Against "not above the lower bound".
    pub p_lower: f64,
    /// Against "not below the upper bound".
    pub p_upper: f64,
    /// Of the test of equivalence: the greater one.
    pub p: f64,
}

impl Tost {
    /// Tests; `None` as [`Linear::of`].
    pub fn of(bounds: &Bounds) -> Option<Self> {
        let (p_lower, p_upper) = (bounds.lower.p_above()?, bounds.upper.p_below()?);
        Some(Self { p_lower, p_upper, p: p_lower.max(p_upper) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_margin_of_nothing_is_never_kept() {
        let (a, b) = (Summary::of(&[1.0, 2.0, 3.0]), Summary::of(&[1.5, 2.0, 2.5]));
        let tost = |margin| Tost::of(&Bounds::of(&a, &b, margin).unwrap()).unwrap();
        assert_eq!(tost(Margin::Absolute(0.0)).p, 0.5);
        assert!(tost(Margin::Absolute(100.0)).p < 1e-4);
        assert!(tost(Margin::Relative(0.0)).p >= 0.5);
    }

    #[test]
    fn one_stratum_is_no_stratum_and_strata_take_out_what_is_between_them() {
        let (a, b) = (Summary::of(&[1.0, 2.0, 3.5]), Summary::of(&[1.5, 2.0, 2.5, 7.0]));
        let (whole, one) = (Linear::of(&a, &b, 1.1, 0.5).unwrap(), Linear::within(&[(a, b)], 1.1, 0.5).unwrap());
        let near = |x: f64, y: f64| (x - y).abs() <= 1e-12 * y.abs();
        assert!(near(one.estimate, whole.estimate) && near(one.error, whole.error) && near(one.df, whole.df));
        // Two hosts 100 apart, the group mostly on the high one: nothing differs within either.
        let at = |level: f64, n: u32| Summary::of(&(0..n).map(|i| level + f64::from(i % 3) - 1.0).collect::<Vec<_>>());
        let strata = [(at(100.0, 3), at(100.0, 9)), (at(200.0, 9), at(200.0, 3))];
        let within = Linear::within(&strata, 1.0, 0.0).unwrap();
        assert!(within.estimate.abs() < 1e-12 && within.error < 0.6, "{within:?}");
        assert_eq!(weighted_baseline(&strata), Some(150.0));
        assert_eq!(Linear::within(&[(Summary::of(&[1.0; 3]), Summary::of(&[2.0; 3]))], 1.0, 0.0), None);
        assert_eq!(Linear::within(&[(Summary::of(&[1.0]), b)], 1.0, 0.0), None);
        assert_eq!(Linear::within(&[], 1.0, 0.0), None);
    }

    #[test]
    fn below_zero_the_bounds_keep_their_order() {
        let (a, b) = (Summary::of(&[-10.0, -10.1, -9.9]), Summary::of(&[-10.0, -10.2, -9.8]));
        let bounds = Bounds::of(&a, &b, Margin::Relative(0.1)).unwrap();
        assert!(bounds.lower.estimate > 0.9 && bounds.upper.estimate < -0.9, "{bounds:?}");
        assert_eq!(Bounds::of(&Summary::of(&[1.0; 3]), &Summary::of(&[2.0; 3]), Margin::Absolute(1.0)), None);
    }
}
