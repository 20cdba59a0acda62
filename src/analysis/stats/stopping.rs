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

/// How a tuple stands that is repeated until the means of some metrics are known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Course {
    /// Repetitions after which all metrics were known well enough at once for the first time; `None` where that has not happened.
    pub settled_after: Option<usize>,
    /// Of each metric how many values were looked at: up to that repetition, or all.
    pub values: Vec<usize>,
    /// Of each metric what its values say.
    pub decisions: Vec<Decision>,
}

impl Course {
    /// Is every metric known well enough?
    pub const fn is_settled(&self) -> bool {
        self.settled_after.is_some()
    }
}

impl StopRule {
    /// Follows a tuple through its complete repetitions in the order in which they ended: each row has a value for each of `metrics`
    /// metrics, `None` where there is none, which does not count.
    ///
    /// The first repetition that settles the tuple settles it for good, so that further rows change nothing.
    pub fn follow(&self, metrics: usize, repetitions: &[Vec<Option<f64>>]) -> Course {
        let mut values: Vec<Vec<f64>> = vec![Vec::new(); metrics];
        let mut decisions = vec![Decision::GoOn; metrics];
        let mut settled_after = None;
        for (row, n) in repetitions.iter().zip(1..) {
            for (value, (values, decision)) in row.iter().zip(values.iter_mut().zip(&mut decisions)) {
                values.extend(value);
                *decision = self.decide(values);
            }
            let is_known = |decision: &Decision| matches!(decision, Decision::Reached | Decision::Constant);
            if metrics > 0 && decisions.iter().all(is_known) {
                settled_after = Some(n);
                break;
            }
        }
        Course { settled_after, values: values.iter().map(Vec::len).collect(), decisions }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: StopRule = StopRule { half_width: Margin::Relative(0.02), min: 5, max: 50 };

    fn rows(values: &[f64]) -> Vec<Vec<Option<f64>>> {
        values.iter().map(|&x| vec![Some(x)]).collect()
    }

    #[test]
    fn the_first_repetition_that_settles_a_tuple_settles_it_for_good() {
        let mut values = rows(&[100.0, 100.5, 99.5, 100.2, 99.8]);
        assert_eq!(RULE.follow(1, &values[..4]).settled_after, None);
        let course = RULE.follow(1, &values);
        assert_eq!((course.settled_after, &course.values[..]), (Some(5), &[5][..]));
        assert_eq!(course.decisions, [Decision::Reached]);
        values.extend(rows(&[500.0, 1.0]));
        assert_eq!(RULE.follow(1, &values), course, "what came later was not known then");
    }

    #[test]
    fn all_metrics_must_be_known_at_once() {
        let both = |a: f64, b: Option<f64>| vec![Some(a), b];
        let mut rows: Vec<_> = [100.0, 100.5, 99.5, 100.2, 99.8].iter().map(|&x| both(x, Some(10.0 * x * x))).collect();
        assert_eq!(RULE.follow(2, &rows).settled_after, Some(5));
        rows[2][1] = None;
        let course = RULE.follow(2, &rows);
        assert_eq!((course.settled_after, &course.values[..]), (None, &[5, 4][..]), "a missing value does not count");
        assert_eq!(course.decisions, [Decision::Reached, Decision::GoOn]);
        rows.push(both(100.1, Some(100_100.0)));
        assert_eq!(RULE.follow(2, &rows).settled_after, Some(6));
    }

    #[test]
    fn nothing_to_go_by_settles_nothing() {
        assert_eq!(RULE.follow(0, &vec![Vec::new(); 60]).settled_after, None);
        assert_eq!(RULE.follow(1, &[]).settled_after, None);
        assert_eq!(RULE.follow(1, &vec![vec![None]; 60]).settled_after, None);
        assert_eq!(RULE.follow(1, &rows(&[f64::NAN; 60])).settled_after, None);
    }

    proptest! {
        /// What a run decided on the repetitions it had, a later one decides on more of them.
        #[test]
        fn decisions_are_never_taken_back(values in prop::collection::vec(prop::option::weighted(0.9, 99.0..101.0), 0..40), more in 0..20usize) {
            let rows: Vec<_> = values.iter().map(|&x| vec![x]).collect();
            let known = rows.len().saturating_sub(more);
            let (before, after) = (RULE.follow(1, &rows[..known]), RULE.follow(1, &rows));
            if before.is_settled() {
                prop_assert_eq!(before, after);
            }
        }
    }

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
