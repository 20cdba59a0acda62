//! One tuple against itself: how often it would seem to differ, and from what size on differences mean anything.

use serde::Serialize;

use super::verdict::{Rule, Verdict};
use crate::analysis::stats::describe::quantile;
use crate::analysis::stats::random::Random;
use crate::analysis::summary::count;
use crate::analysis::{Summary, TwoSample};

/// What repetitions of one tuple show when they are compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SelfComparison {
    /// Repetitions.
    pub n: usize,
    /// Random halves compared.
    pub splits: usize,
    /// Share of them with the verdict "different". By how they are made, halves are exchangeable: this is the rule's own error, and
    /// stays below α unless the values are far from normal.
    pub different: f64,
    /// Share with any difference, negligible ones included.
    pub any_difference: f64,
    /// Noise floor: 95 % of halves differ by at most this many percent of the mean. What a comparison of groups of n/2 cannot tell
    /// from nothing; `None` where percents have no meaning.
    pub floor_percent: Option<f64>,
    /// The same in the metric's unit.
    pub floor: f64,
    /// The verdict on the later half against the earlier one. Not random: a drifting host cries wolf here.
    pub late_against_early: Verdict,
}

/// Random halves compared.
const SPLITS: usize = 1000;

/// Compares halves of `values`, which are in run order, by `rule`; `None` with fewer than four values or one that is not finite.
///
/// With an odd number of values each split leaves another one out.
pub fn self_comparison(values: &[f64], rule: &Rule, seed: u64) -> Option<SelfComparison> {
    let n = values.len();
    if n < 4 || !values.iter().all(|x| x.is_finite()) {
        return None;
    }
    let half = n / 2;
    let mut order = values.to_vec();
    let mut random = Random::new(seed, &[3, n as u64]);
    let (mut different, mut any, mut floors, mut percents) = (0, 0, Vec::new(), Vec::new());
    for _ in 0..SPLITS {
        random.shuffle(&mut order);
        let (a, b) = (Summary::of(&order[..half]), Summary::of(&order[half..2 * half]));
        let two = TwoSample::of(&a, &b)?;
        floors.push(two.difference.abs());
        percents.extend(two.percent.map(f64::abs));
        let verdict = rule.judge(&a, &b);
        different += usize::from(matches!(verdict, Verdict::Different { .. }));
        any += usize::from(is_difference(&verdict));
    }
    let floor = |mut sizes: Vec<f64>| {
        sizes.sort_unstable_by(f64::total_cmp);
        quantile(&sizes, 0.95)
    };
    let late = rule.judge(&Summary::of(&values[n - half..]), &Summary::of(&values[..half]));
    Some(SelfComparison {
        n,
        splits: SPLITS,
        different: count(different) / count(SPLITS),
        any_difference: count(any) / count(SPLITS),
        floor_percent: floor(percents)
            .filter(|_| TwoSample::of(&Summary::of(values), &Summary::of(values)).is_some_and(|t| t.percent.is_some())),
        floor: floor(floors)?,
        late_against_early: late,
    })
}

const fn is_difference(verdict: &Verdict) -> bool {
    matches!(
        verdict,
        Verdict::Different { .. } | Verdict::DifferentNegligible { .. } | Verdict::Undecided { differs: true, .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::stats::equivalence::Margin;

    const RULE: Rule = Rule { alpha: 0.05, family: 1, margin: Margin::Relative(0.01) };

    #[test]
    fn a_steady_host_is_quiet_and_a_drifting_one_is_not() {
        let mut random = Random::new(1, &[]);
        let steady: Vec<f64> = (0..40).map(|_| 100.0 + random.normal()).collect();
        let quiet = self_comparison(&steady, &RULE, 1).unwrap();
        assert!(quiet.any_difference < 0.1 && quiet.different <= quiet.any_difference, "{quiet:?}");
        assert!((0.3..1.2).contains(&quiet.floor), "{quiet:?}");
        let drifting: Vec<f64> = steady.iter().zip(0_u32..).map(|(x, i)| x + f64::from(i) * 0.2).collect();
        let loud = self_comparison(&drifting, &RULE, 1).unwrap();
        assert!(matches!(loud.late_against_early, Verdict::Different { .. }), "{loud:?}");
        assert_eq!(loud, self_comparison(&drifting, &RULE, 1).unwrap());
    }

    #[test]
    fn what_cannot_be_said_is_none() {
        assert_eq!(self_comparison(&[1.0, 2.0, 3.0], &RULE, 1), None);
        assert_eq!(self_comparison(&[1.0, 2.0, 3.0, f64::NAN], &RULE, 1), None);
        assert_eq!(self_comparison(&[1.0; 10], &RULE, 1).unwrap().floor, 0.0);
    }
}
