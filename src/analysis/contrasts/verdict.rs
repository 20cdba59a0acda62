//! One word for what a contrast shows.

use serde::Serialize;

use crate::analysis::stats::equivalence::{Bounds, Linear, Margin, weighted_baseline};
use crate::analysis::stats::power::{POWER, Repetitions, repetitions_for_difference, repetitions_for_equivalence};
use crate::analysis::summary::count;
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
    /// Differences within each of several hosts, together: what lies between hosts does not count.
    WithinHosts,
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
    /// There is no one difference: on one host it lies beyond the margin, and the mean over hosts does not show that.
    HostsDisagree,
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

    fn has_margin(&self) -> bool {
        let (Margin::Absolute(size) | Margin::Relative(size)) = self.margin;
        size.is_finite() && size >= 0.0
    }

    /// The verdict on samples from several hosts: group and baseline on each of them, both with two values or more.
    ///
    /// It goes by differences within hosts. That there is none that matters, or one in one direction, is not said where a host of its
    /// own shows the opposite.
    pub fn judge_within(&self, hosts: &[(Summary, Summary)]) -> Verdict {
        if !self.has_margin() {
            return Verdict::NotComparable { why: Why::BadMargin };
        }
        let constant = |summary: &Summary| summary.sd == Some(0.0);
        let verdict = if hosts.iter().all(|(group, baseline)| constant(group) && constant(baseline)) {
            self.judge_constant_hosts(hosts)
        } else {
            self.judge_means_within(hosts)
        };
        let verdict = verdict.unwrap_or(Verdict::NotComparable { why: Why::OutOfRange });
        if self.is_contradicted(&verdict, hosts) { Verdict::NotComparable { why: Why::HostsDisagree } } else { verdict }
    }

    fn judge_means_within(&self, hosts: &[(Summary, Summary)]) -> Option<Verdict> {
        let zero = Linear::within(hosts, 1.0, 0.0)?;
        let bounds = Bounds::within(hosts, self.margin)?;
        let repetitions = || {
            let sides = || hosts.iter().flat_map(|(group, baseline)| [group, baseline]);
            let squares: Option<f64> = sides().map(|s| Some(s.sd?.powi(2) * (count(s.n) - 1.0))).sum();
            let df: f64 = sides().map(|s| count(s.n) - 1.0).sum();
            self.repetitions(zero.estimate, (squares? / df).sqrt(), weighted_baseline(hosts)?)
        };
        self.place(Basis::WithinHosts, &zero, &bounds, repetitions)
    }

    /// As [`Self::judge_constants`]: what is dealt at random is dealt within hosts.
    fn judge_constant_hosts(&self, hosts: &[(Summary, Summary)]) -> Option<Verdict> {
        let basis = Basis::WithinHosts;
        let by_chance: f64 = hosts.iter().map(|(group, baseline)| 0.5 * chance(group.n, baseline.n)).product();
        if 2.0 * by_chance > 1.0 - self.confidence() {
            return Some(Verdict::Undecided { differs: false, repetitions: None });
        }
        let mut differences = Vec::new();
        for (group, baseline) in hosts {
            differences.push((group.mean? - baseline.mean?, self.margin(baseline.mean?)));
        }
        let all = |test: &dyn Fn(f64, f64) -> bool| differences.iter().all(|&(d, margin)| test(d, margin));
        Some(if all(&|d, _| d == 0.0) {
            Verdict::Equivalent { basis }
        } else if all(&|d, margin| d.abs() <= margin) {
            Verdict::DifferentNegligible { basis }
        } else if all(&|d, margin| d > margin) || all(&|d, margin| d < -margin) {
            Verdict::Different { basis }
        } else {
            Verdict::NotComparable { why: Why::HostsDisagree }
        })
    }

    /// Does a host show a difference beyond the margin that the verdict on all of them denies? Each host's share of the
    /// family's error is the same.
    fn is_contradicted(&self, verdict: &Verdict, hosts: &[(Summary, Summary)]) -> bool {
        let direction = |(group, baseline): &(Summary, Summary)| Some((group.mean? - baseline.mean?).signum());
        let overall = match verdict {
            Verdict::Equivalent { .. } | Verdict::DifferentNegligible { .. } => 0.0,
            Verdict::Different { .. } => {
                let mean = Linear::within(hosts, 1.0, 0.0).map(|linear| linear.estimate.signum());
                mean.or_else(|| hosts.first().and_then(direction)).unwrap_or(0.0)
            }
            Verdict::Undecided { .. } | Verdict::NotComparable { .. } => return false,
        };
        let each = Self { family: self.family.max(1) * hosts.len(), ..*self };
        hosts.iter().any(|host| {
            matches!(each.judge(&host.0, &host.1), Verdict::Different { .. }) && direction(host) != Some(overall)
        })
    }

    /// The verdict on two finite samples.
    pub fn judge(&self, group: &Summary, baseline: &Summary) -> Verdict {
        if !self.has_margin() {
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
        let zero = Linear::of(group, baseline, 1.0, 0.0)?;
        let bounds = Bounds::of(group, baseline, self.margin)?;
        self.place(Basis::Means, &zero, &bounds, || {
            let sd = (0.5 * (group.sd?.powi(2) + baseline.sd?.powi(2))).sqrt();
            self.repetitions(group.mean? - baseline.mean?, sd, baseline.mean?)
        })
    }

    /// Where the intervals lie.
    fn place(
        &self,
        basis: Basis,
        zero: &Linear,
        bounds: &Bounds,
        repetitions: impl FnOnce() -> Option<Repetitions>,
    ) -> Option<Verdict> {
        let at = |linear: &Linear| linear.interval(self.confidence());
        let (zero, upper, lower) = (at(zero)?, at(&bounds.upper)?, at(&bounds.lower)?);
        let differs = zero.low > 0.0 || zero.high < 0.0;
        let beyond = (upper.low > 0.0 && zero.low > 0.0) || (lower.high < 0.0 && zero.high < 0.0);
        let within = upper.high < 0.0 && lower.low > 0.0;
        Some(match (beyond, within, differs) {
            (true, false, _) => Verdict::Different { basis },
            (false, true, true) => Verdict::DifferentNegligible { basis },
            (false, true, false) => Verdict::Equivalent { basis },
            _ => Verdict::Undecided { differs, repetitions: repetitions() },
        })
    }

    /// The greatest difference that does not matter, in the metric's unit.
    fn margin(&self, baseline: f64) -> f64 {
        match self.margin {
            Margin::Absolute(size) => size,
            Margin::Relative(share) => share * baseline.abs(),
        }
    }

    /// Of each side, for a difference of means between values with this standard deviation.
    fn repetitions(&self, difference: f64, sd: f64, baseline: f64) -> Option<Repetitions> {
        let (difference, margin) = (difference.abs() / sd, self.margin(baseline) / sd);
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
