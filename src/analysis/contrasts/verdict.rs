//! One word for what a contrast shows.

use serde::Serialize;

use crate::analysis::stats::equivalence::{Bounds, Linear, Margin};
use crate::analysis::stats::power::{POWER, Repetitions, repetitions_for_difference, repetitions_for_equivalence};
use crate::analysis::{Interval, Summary};

/// What is asked of every contrast of a family.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Probability of any wrong verdict in the family that may be taken into account: 0.05.
    pub alpha: f64,
    /// Contrasts looked at together, at least 1.
    pub family: usize,
    /// Differences up to it do not matter.
    pub margin: Margin,
}

/// What a contrast shows.
///
/// All verdicts of a family follow from intervals that together cover all true differences with probability 1 − α: each covers
/// 1 − α/family (Bonferroni). The interval is Welch's, of the difference (against zero), and of the difference beyond each end of the
/// margin, where the error of a relative margin counts ([`Bounds`]).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// The interval lies wholly beyond the margin, on one side.
    Different {
        /// What it rests on.
        basis: Basis,
    },
    /// The interval lies wholly within the margin and excludes zero: a difference, and too small to matter.
    DifferentNegligible {
        /// What it rests on.
        basis: Basis,
    },
    /// The interval lies wholly within the margin and contains zero.
    Equivalent {
        /// What it rests on.
        basis: Basis,
    },
    /// The interval contains an end of the margin.
    Undecided {
        /// It excludes zero: there is a difference, of unknown importance.
        differs: bool,
        /// Repetitions of each side that would decide with probability 0.8 if difference and spread are what they seem; `None` where
        /// that cannot be said.
        repetitions: Option<Repetitions>,
    },
    /// There is nothing to compare.
    NotComparable {
        /// Why.
        why: Why,
    },
}

/// What a verdict rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Intervals of means.
    Means,
    /// Each side always had the same value. As no spread was seen there is no interval; the verdict is given when so many
    /// repetitions would come out like this by chance with a probability of at most α/family if the sides were exchangeable:
    /// 2 of all ways to deal the values.
    Constants,
}

/// Why two sides cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Why {
    /// A side has fewer than two values.
    TooFew {
        /// Values of the group.
        group: usize,
        /// Values of the baseline.
        baseline: usize,
    },
    /// Values that are infinite or no numbers.
    NotFinite {
        /// How many in the group.
        group: usize,
        /// How many in the baseline.
        baseline: usize,
    },
    /// The numbers are too large or too far apart to calculate with.
    OutOfRange,
    /// The margin is negative or no number.
    BadMargin,
}

impl Rule {
    /// Coverage of each interval.
    #[expect(clippy::cast_precision_loss, reason = "nobody looks at 2^53 contrasts")]
    pub fn confidence(&self) -> f64 {
        1.0 - self.alpha / self.family.max(1) as f64
    }

    /// The interval of the difference at that coverage.
    pub fn interval(&self, group: &Summary, baseline: &Summary) -> Option<Interval> {
        Linear::of(group, baseline, 1.0, 0.0)?.interval(self.confidence())
    }

    /// The verdict on two finite samples.
    pub fn judge(&self, group: &Summary, baseline: &Summary) -> Verdict {
        let size = match self.margin {
            Margin::Absolute(size) | Margin::Relative(size) => size,
        };
        if !(size.is_finite() && size >= 0.0) {
            return Verdict::NotComparable { why: Why::BadMargin };
        }
        if group.n.min(baseline.n) < 2 {
            return Verdict::NotComparable { why: Why::TooFew { group: group.n, baseline: baseline.n } };
        }
        if group.sd == Some(0.0) && baseline.sd == Some(0.0) {
            return self.judge_constants(group, baseline);
        }
        self.judge_means(group, baseline).unwrap_or(Verdict::NotComparable { why: Why::OutOfRange })
    }

    fn judge_means(&self, group: &Summary, baseline: &Summary) -> Option<Verdict> {
        let basis = Basis::Means;
        let zero = self.interval(group, baseline)?;
        let bounds = Bounds::of(group, baseline, self.margin)?;
        let (upper, lower) = (bounds.upper.interval(self.confidence())?, bounds.lower.interval(self.confidence())?);
        let differs = zero.low > 0.0 || zero.high < 0.0;
        let beyond = (upper.low > 0.0 && zero.low > 0.0) || (lower.high < 0.0 && zero.high < 0.0);
        let within = upper.high < 0.0 && lower.low > 0.0;
        Some(match (beyond, within, differs) {
            (true, false, _) => Verdict::Different { basis },
            (false, true, true) => Verdict::DifferentNegligible { basis },
            (false, true, false) => Verdict::Equivalent { basis },
            _ => Verdict::Undecided { differs, repetitions: self.repetitions(group, baseline) },
        })
    }

    /// The greatest difference that does not matter, in the metric's unit.
    fn margin(&self, baseline: f64) -> f64 {
        match self.margin {
            Margin::Absolute(size) => size,
            Margin::Relative(share) => share * baseline.abs(),
        }
    }

    fn repetitions(&self, group: &Summary, baseline: &Summary) -> Option<Repetitions> {
        let sd = (0.5 * (group.sd?.powi(2) + baseline.sd?.powi(2))).sqrt();
        let (difference, margin) = ((group.mean? - baseline.mean?).abs() / sd, self.margin(baseline.mean?) / sd);
        let level = 1.0 - self.confidence();
        if difference > margin {
            repetitions_for_difference(difference - margin, POWER, level)
        } else {
            repetitions_for_equivalence(difference, margin, POWER, level / 2.0)
        }
    }

    fn judge_constants(&self, group: &Summary, baseline: &Summary) -> Verdict {
        let (Some(a), Some(b)) = (group.mean, baseline.mean) else {
            return Verdict::NotComparable { why: Why::OutOfRange };
        };
        let basis = Basis::Constants;
        let level = 1.0 - self.confidence();
        if chance(group.n, baseline.n) > level {
            let enough = (2..=1000).find(|&n| chance(n, n) <= level);
            return Verdict::Undecided { differs: false, repetitions: enough.map(Repetitions::PerSide) };
        }
        let difference = (a - b).abs();
        if difference == 0.0 {
            Verdict::Equivalent { basis }
        } else if difference > self.margin(b) {
            Verdict::Different { basis }
        } else {
            Verdict::DifferentNegligible { basis }
        }
    }
}

/// Two of all ways to deal m + n values into a group of m and one of n.
fn chance(m: usize, n: usize) -> f64 {
    let count = crate::analysis::summary::count;
    let few = m.min(n);
    // Small enough long before the product could leave the range of numbers.
    2.0 * (1..=few.min(500)).fold(1.0, |share, i| share * count(i) / count(m + n - few + i))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { alpha: 0.05, family: 1, margin: Margin::Relative(0.05) };

    fn judge(group: &[f64], baseline: &[f64]) -> Verdict {
        RULE.judge(&Summary::of(group), &Summary::of(baseline))
    }

    fn around(mean: f64, spread: f64, n: u32) -> Vec<f64> {
        (0..n).map(|i| mean + spread * (f64::from(i % 5) - 2.0)).collect()
    }

    #[test]
    fn every_verdict_has_its_data() {
        let basis = Basis::Means;
        let baseline = around(100.0, 0.2, 10);
        assert_eq!(judge(&around(120.0, 0.5, 10), &baseline), Verdict::Different { basis });
        assert_eq!(judge(&around(80.0, 0.5, 10), &baseline), Verdict::Different { basis });
        assert_eq!(judge(&around(102.0, 0.5, 10), &baseline), Verdict::DifferentNegligible { basis });
        assert_eq!(judge(&around(100.0, 0.5, 10), &baseline), Verdict::Equivalent { basis });
        assert!(matches!(judge(&around(105.0, 2.0, 10), &baseline), Verdict::Undecided { differs: true, .. }));
        assert!(matches!(judge(&around(100.0, 20.0, 5), &baseline), Verdict::Undecided { differs: false, .. }));
    }

    #[test]
    fn the_repetitions_named_are_enough() {
        let (group, baseline) = (around(103.0, 3.0, 5), around(100.0, 3.0, 5));
        let Verdict::Undecided { repetitions: Some(Repetitions::PerSide(n)), .. } = judge(&group, &baseline) else {
            panic!("{:?}", judge(&group, &baseline));
        };
        let more = |mean| around(mean, 3.0, u32::try_from(n.next_multiple_of(5)).unwrap());
        assert!(matches!(judge(&more(103.0), &more(100.0)), Verdict::DifferentNegligible { .. }), "{n}");
        let edge = judge(&around(105.0, 1.5, 5), &around(100.0, 1.5, 5));
        assert_eq!(edge, Verdict::Undecided { differs: true, repetitions: Some(Repetitions::TooMany) });
    }

    #[test]
    fn constants_are_believed_after_enough_repetitions() {
        let basis = Basis::Constants;
        let undecided = Verdict::Undecided { differs: false, repetitions: Some(Repetitions::PerSide(4)) };
        assert_eq!(judge(&[1.0, 1.0], &[1.0, 1.0]), undecided);
        assert_eq!(judge(&[0.0; 5], &[0.0; 5]), Verdict::Equivalent { basis });
        assert_eq!(judge(&[3.0; 5], &[0.0; 5]), Verdict::Different { basis }, "5 % of nothing is nothing");
        assert_eq!(judge(&[101.0; 5], &[100.0; 5]), Verdict::DifferentNegligible { basis });
        let many = Rule { family: 1000, ..RULE };
        assert!(matches!(many.judge(&Summary::of(&[1.0; 5]), &Summary::of(&[2.0; 5])), Verdict::Undecided { .. }));
        assert!(chance(100_000, 100_000) < 1e-100);
    }

    #[test]
    fn one_constant_side_and_baselines_around_zero() {
        let basis = Basis::Means;
        assert_eq!(judge(&around(500.0, 1.0, 10), &[0.0; 10]), Verdict::Different { basis });
        assert_eq!(judge(&[0.0; 10], &around(500.0, 1.0, 10)), Verdict::Different { basis });
        assert_eq!(judge(&around(-120.0, 0.5, 10), &around(-100.0, 0.5, 10)), Verdict::Different { basis });
        assert_eq!(judge(&around(-100.5, 0.1, 10), &around(-100.0, 0.1, 10)), Verdict::DifferentNegligible { basis });
        // Both around zero: no relative margin can be kept.
        assert!(matches!(judge(&around(0.1, 1.0, 10), &around(0.0, 1.0, 10)), Verdict::Undecided { .. }));
    }

    #[test]
    fn what_cannot_be_compared() {
        let why = |verdict| match verdict {
            Verdict::NotComparable { why } => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(why(judge(&[], &[1.0])), Why::TooFew { group: 0, baseline: 1 });
        assert_eq!(why(judge(&[1.0], &[1.0, 2.0])), Why::TooFew { group: 1, baseline: 2 });
        assert_eq!(why(judge(&[f64::MAX, -f64::MAX], &[1.0, 2.0])), Why::OutOfRange);
        let bad = Rule { margin: Margin::Absolute(f64::NAN), ..RULE };
        assert_eq!(why(bad.judge(&Summary::of(&[1.0, 2.0]), &Summary::of(&[1.0, 2.0]))), Why::BadMargin);
    }
}
