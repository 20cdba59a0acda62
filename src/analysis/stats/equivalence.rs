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
    fn below_zero_the_bounds_keep_their_order() {
        let (a, b) = (Summary::of(&[-10.0, -10.1, -9.9]), Summary::of(&[-10.0, -10.2, -9.8]));
        let bounds = Bounds::of(&a, &b, Margin::Relative(0.1)).unwrap();
        assert!(bounds.lower.estimate > 0.9 && bounds.upper.estimate < -0.9, "{bounds:?}");
        assert_eq!(Bounds::of(&Summary::of(&[1.0; 3]), &Summary::of(&[2.0; 3]), Margin::Absolute(1.0)), None);
    }
}
