//! When a tuple has been repeated often enough.

use serde::Serialize;

use super::equivalence::Margin;
use crate::analysis::Summary;
use crate::analysis::summary::count;

/// Repeat until the mean is known to ± `half_width`.
///
/// Looking after every repetition makes it likely to stop when the spread happens to look small, and the usual interval then
/// covers less than it says. So the half-width of the t interval must be small enough *after* it is widened by (1 + 2/n). With that,
/// "mean ± the half-width asked for" covers at least 95 % in simulations of normal values with `min` = 5 (docs/analysis.md has
/// the figures); with skewed values it covers less. Source of the problem: Anscombe 1953, *J. R. Stat. Soc. B* 15; Chow & Robbins
/// 1965, *Ann. Math. Stat.* 36. The widening is ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StopRule {
    /// Half-width of the 95 % interval: in the metric's unit, or as a share of the mean.
    pub half_width: Margin,
    /// Never stop before so many repetitions; at least 5 is taken.
    pub min: usize,
    /// Stop after so many whatever is known.
    pub max: usize,
}

/// What to do after the repetitions so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Repeat once more.
    GoOn,
    /// The mean is known well enough.
    Reached,
    /// All values are equal: there is no spread to learn of.
    Constant,
    /// `max` repetitions were made and the mean is not known as well as was asked for.
    GivenUp,
}

/// Fewest repetitions after which the rule holds what it promises.
const FEWEST: usize = 5;

impl StopRule {
    /// Decides on the values of the complete repetitions so far. Values that are not finite never count as known well enough.
    pub fn decide(&self, values: &[f64]) -> Decision {
        let n = values.len();
        if n >= self.min.max(FEWEST) {
            let summary = Summary::of(values);
            if summary.sd == Some(0.0) {
                return Decision::Constant;
            }
            if self.is_reached(&summary).unwrap_or(false) {
                return Decision::Reached;
            }
        }
        if n >= self.max { Decision::GivenUp } else { Decision::GoOn }
    }

    fn is_reached(&self, summary: &Summary) -> Option<bool> {
        let (mean, ci) = summary.mean.zip(summary.ci95)?;
        let asked = match self.half_width {
            Margin::Absolute(width) => width,
            Margin::Relative(share) => share * mean.abs(),
        };
        let half = 0.5 * (ci.high - ci.low) * (1.0 + 2.0 / count(summary.n));
        Some(half <= asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions() {
        let rule = StopRule { half_width: Margin::Absolute(1.0), min: 3, max: 8 };
        assert_eq!(rule.decide(&[]), Decision::GoOn);
        assert_eq!(rule.decide(&[1.0; 4]), Decision::GoOn, "never before five");
        assert_eq!(rule.decide(&[1.0; 5]), Decision::Constant);
        assert_eq!(rule.decide(&[1.0, 1.1, 1.2, 0.9, 1.0]), Decision::Reached);
        assert_eq!(rule.decide(&[1.0, 9.0, 1.2, 0.9, 1.0]), Decision::GoOn);
        assert_eq!(rule.decide(&[1.0, f64::NAN, 1.2, 0.9, 1.0]), Decision::GoOn);
        assert_eq!(rule.decide(&[0.0, 9.0, 0.0, 9.0, 0.0, 9.0, 0.0, 9.0]), Decision::GivenUp);
        let share = StopRule { half_width: Margin::Relative(0.02), ..rule };
        assert_eq!(share.decide(&[100.0, 100.1, 100.2, 99.9, 100.0]), Decision::Reached);
        assert_eq!(share.decide(&[0.0, 0.1, 0.2, -0.1, 0.0]), Decision::GoOn);
    }
}
