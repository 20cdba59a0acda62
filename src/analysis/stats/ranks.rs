//! Two samples in one order: what the rank tests and effect sizes have in common.

use crate::analysis::summary::count;

/// Two samples of finite values, each in ascending order, and how each value of one stands to the other sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked<'a> {
    /// The group, ascending.
    pub group: &'a [f64],
    /// The baseline, ascending.
    pub baseline: &'a [f64],
    /// For each value of the group: baseline values below it, plus half of those equal.
    pub group_wins: Vec<f64>,
    /// For each value of the baseline: group values below it, plus half of those equal.
    pub baseline_wins: Vec<f64>,
    /// Σ(t³ − t) over the sets of t equal values in both together.
    pub tie_term: f64,
    /// Pairs of one value each that are equal.
    pub equal_pairs: f64,
}

impl<'a> Ranked<'a> {
    /// Takes ascending values ([`sorted`](super::describe::sorted)); `None` when either side is empty.
    pub fn new(group: &'a [f64], baseline: &'a [f64]) -> Option<Self> {
        if group.is_empty() || baseline.is_empty() {
            return None;
        }
        let mut ranked = Self {
            group,
            baseline,
            group_wins: Vec::with_capacity(group.len()),
            baseline_wins: Vec::with_capacity(baseline.len()),
            tie_term: 0.0,
            equal_pairs: 0.0,
        };
        let (mut i, mut j) = (0, 0);
        while i < group.len() || j < baseline.len() {
            let value = match (group.get(i), baseline.get(j)) {
                (Some(&a), Some(&b)) => a.min(b),
                (Some(&one), None) | (None, Some(&one)) => one,
                (None, None) => break,
            };
            let in_group = run(&group[i..], value);
            let in_baseline = run(&baseline[j..], value);
            ranked.take(i, j, in_group, in_baseline);
            (i, j) = (i + in_group, j + in_baseline);
        }
        Some(ranked)
    }

    fn take(&mut self, i: usize, j: usize, in_group: usize, in_baseline: usize) {
        let (a, b) = (count(in_group), count(in_baseline));
        self.group_wins.extend(std::iter::repeat_n(count(j) + 0.5 * b, in_group));
        self.baseline_wins.extend(std::iter::repeat_n(count(i) + 0.5 * a, in_baseline));
        let t = a + b;
        self.tie_term += t * t * t - t;
        self.equal_pairs += a * b;
    }

    /// Pairs in which the group's value is the greater one, plus half of the equal ones: Mann–Whitney's U of the group.
    pub fn u(&self) -> f64 {
        self.group_wins.iter().sum()
    }

    /// Number of pairs.
    pub fn pairs(&self) -> f64 {
        count(self.group.len()) * count(self.baseline.len())
    }

    /// Are any two values equal?
    pub fn has_ties(&self) -> bool {
        self.tie_term > 0.0
    }
}

/// How many of the first values equal `value`.
fn run(values: &[f64], value: f64) -> usize {
    values.iter().take_while(|&&x| x == value).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wins_and_ties_are_counted() {
        let ranked = Ranked::new(&[1.0, 2.0, 2.0, 5.0], &[0.0, 2.0, 6.0]).unwrap();
        assert_eq!(ranked.group_wins, [1.0, 1.5, 1.5, 2.0]);
        assert_eq!(ranked.baseline_wins, [0.0, 2.0, 4.0]);
        assert_eq!((ranked.u(), ranked.tie_term, ranked.equal_pairs), (6.0, 24.0, 2.0));
        assert_eq!(Ranked::new(&[], &[1.0]), None);
        // Zeros of both signs are equal.
        assert!(Ranked::new(&[-0.0], &[0.0]).unwrap().has_ties());
    }
}
