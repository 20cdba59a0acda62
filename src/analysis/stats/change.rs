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
    let usable = values.len() >= 2 * SHORTEST && values.iter().all(|x| x.is_finite());
    if !usable || values.iter().all(|&x| x == values[0]) {
        return None;
    }
    let mut ranks = centred_ranks(values);
    let (at, k) = farthest(&ranks);
    let mut random = Random::new(seed, &[values.len() as u64]);
    let as_far = (0..SHUFFLES).filter(|_| {
        random.shuffle(&mut ranks);
        farthest(&ranks).1 >= k
    });
    Some(Change { at, k, p: count(as_far.count() + 1) / count(SHUFFLES + 1) })
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
        let Some(change) = pettitt(&values[from..to], seed).filter(|change| change.p <= level) else { continue };
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
