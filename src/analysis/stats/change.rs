//! Where a series jumps.

use serde::Serialize;

use super::random::Random;
use crate::analysis::summary::count;

/// A place where the level of a series changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// Index of the first value after the change.
    pub at: usize,
    /// Pettitt's K: the greatest |U| over all places that leave four values on each side.
    pub k: f64,
    /// Probability of at least such a K if the values are in random order, by 1999 seeded shuffles, the order observed included.
    pub p: f64,
}

/// Shuffles for each p-value.
const SHUFFLES: usize = 1999;
/// Fewest values on each side of a change.
const SHORTEST: usize = 4;

/// Pettitt's test: the one place that best divides a series by ranks; `None` with fewer than eight values, equal ones, or one
/// that is not finite.
///
/// Assumes independent values, of any distribution. K is that of R's `trend::pettitt.test` (whose p-value is an
/// approximation) unless that lies within four values of an end.
/// Source: Pettitt 1979, *Appl. Stat.* 28(2).
pub fn pettitt(values: &[f64], seed: u64) -> Option<Change> {
    pettitt_within(values, seed, 1.0)
}

/// The same, and `None` when p is above `level`: there shuffles end as soon as that is certain.
fn pettitt_within(values: &[f64], seed: u64, level: f64) -> Option<Change> {
    let usable = values.len() >= 2 * SHORTEST && values.iter().all(|x| x.is_finite());
    if !usable || values.iter().all(|&x| x == values[0]) {
        return None;
    }
    let mut ranks = centred_ranks(values);
    let (at, k) = farthest(&ranks);
    let mut random = Random::new(seed, &[values.len() as u64]);
    let mut as_far = 0;
    // Where a shuffle as far is that unlikely, none of them is.
    let shuffles = if bound(k, values.len()) < NEVER { 0 } else { SHUFFLES };
    for _ in 0..shuffles {
        random.shuffle(&mut ranks);
        as_far += usize::from(farthest(&ranks).1 >= k);
        if p_of(as_far) > level {
            return None;
        }
    }
    Some(Change { at, k, p: p_of(as_far) })
}

/// Probability below which a shuffle is not waited for.
const NEVER: f64 = 1e-12;

/// Probability of at least such a K in n values, by Pettitt's approximation, which is too large where it is small.
fn bound(k: f64, n: usize) -> f64 {
    2.0 * (-6.0 * k * k / (count(n).powi(3) + count(n).powi(2))).exp()
}

/// Share of orders with at least such a K, the one observed among them.
fn p_of(as_far: usize) -> f64 {
    count(as_far + 1) / count(SHUFFLES + 1)
}

/// All changes, by binary segmentation: a series is divided where Pettitt's test rejects at `level`, then each part in the
/// same way, down to parts of eight values.
///
/// The level holds for each test, so of series without a change a share of `level` is divided. Two opposite changes of one size
/// can hide each other. Source: Scott & Knott 1974, *Biometrics* 30(3); Vostrikova 1981.
pub fn changes(values: &[f64], level: f64, seed: u64) -> Vec<Change> {
    let mut found = Vec::new();
    let mut open = vec![(0, values.len())];
    while let Some((from, to)) = open.pop() {
        let Some(change) = pettitt_within(&values[from..to], seed, level) else { continue };
        let at = from + change.at;
        found.push(Change { at, ..change });
        open.extend([(from, at), (at, to)]);
    }
    found.sort_by_key(|change| change.at);
    found
}

/// Twice the midrank minus (n + 1): whole numbers, so sums are exact.
fn centred_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for run in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let twice = count(2 * start + run.len() + 1) - count(values.len() + 1);
        run.iter().for_each(|&i| ranks[i] = twice);
        start += run.len();
    }
    ranks
}

/// The division with the greatest |U| of those that leave enough on both sides, the first one if there are several.
fn farthest(ranks: &[f64]) -> (usize, f64) {
    let mut sum = 0.0_f64;
    let mut best = (0, -1.0);
    for (i, rank) in ranks.iter().enumerate() {
        let enough = i >= SHORTEST && ranks.len() - i >= SHORTEST;
        if enough && sum.abs() > best.1 {
            best = (i, sum.abs());
        }
        sum += rank;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_found_at_their_places() {
        let mut random = Random::new(3, &[]);
        let level = |i: usize| if (30..70).contains(&i) { 10.0 } else { 0.0 };
        let values: Vec<f64> = (0..100).map(|i| level(i) + random.normal()).collect();
        let found: Vec<_> = changes(&values, 0.01, 1).iter().map(|change| change.at).collect();
        assert_eq!(found.len(), 2);
        assert!(found[0].abs_diff(30) <= 1 && found[1].abs_diff(70) <= 1, "{found:?}");
    }

    #[test]
    fn what_is_not_shuffled_would_never_be_reached() {
        let values: Vec<f64> = (0..80).map(f64::from).collect();
        let (_, k) = farthest(&centred_ranks(&values));
        assert!(bound(k, 80) < NEVER);
        assert_eq!(pettitt(&values, 1).unwrap().p, 1.0 / count(SHUFFLES + 1));
        let mut ranks = centred_ranks(&values);
        let mut random = Random::new(7, &[]);
        // Of 1999 shuffles the farthest comes to little more than half of it.
        let most = (0..SHUFFLES).map(|_| {
            random.shuffle(&mut ranks);
            farthest(&ranks).1
        });
        assert!(most.fold(0.0, f64::max) < 0.75 * k);
    }

    #[test]
    fn ending_early_changes_no_answer() {
        let mut random = Random::new(6, &[]);
        for i in 0..60_u32 {
            let shift = 0.05 * f64::from(i);
            let values: Vec<f64> = (0..24).map(|j| random.normal() + if j < 12 { 0.0 } else { shift }).collect();
            let whole = pettitt(&values, 1).unwrap();
            for level in [0.0005, 0.01, 0.3] {
                assert_eq!(pettitt_within(&values, 1, level), (whole.p <= level).then_some(whole), "{i} {level}");
            }
        }
    }

    #[test]
    fn nothing_is_found_in_noise_more_often_than_stated() {
        let mut random = Random::new(4, &[]);
        let rejected = (0..100).filter(|_| {
            let values: Vec<f64> = (0..20).map(|_| random.normal()).collect();
            pettitt(&values, 1).unwrap().p <= 0.05
        });
        // 99.9 % of Bin(100, 0.05) are at most 12.
        assert!(rejected.count() <= 12);
    }

    #[test]
    fn what_cannot_be_said_is_none() {
        assert_eq!(pettitt(&[1.0; 20], 1), None);
        assert_eq!(pettitt(&[1.0, 2.0, 3.0], 1), None);
        let mut values = [1.0; 20];
        values[3] = f64::NAN;
        assert_eq!(pettitt(&values, 1), None);
        assert!(changes(&values, 0.05, 1).is_empty());
    }
}
