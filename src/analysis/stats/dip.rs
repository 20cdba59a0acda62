//! Has a sample more than one hump?

use super::random::Random;
use crate::analysis::contrasts::parallel;
use crate::analysis::summary::count;

/// Hartigan's dip of ascending values: how far the empirical distribution function is from the nearest one with a single
/// mode, 1/(2n) to 1/4; `None` with fewer than four values or when all are equal.
///
/// Agrees with R's and Python's `diptest` (the algorithm of Hartigan 1985, *Appl. Stat.* 34, AS 217, with Mächler's corrections).
/// Source: Hartigan & Hartigan 1985, *Ann. Stat.* 13(1).
pub fn dip(sorted: &[f64]) -> Option<f64> {
    let n = sorted.len();
    if n < 4 || sorted[0] == sorted[n - 1] {
        return None;
    }
    let hulls = Hulls::new(sorted);
    let (mut low, mut high, mut dip) = (0, n - 1, 1.0_f64);
    loop {
        let (minorant, majorant) = (chain(&hulls.minorant, high, low), chain(&hulls.majorant, low, high));
        let gap = widest_gap(sorted, &minorant, &majorant);
        if gap.width < dip {
            break;
        }
        dip = dip.max(below(sorted, &minorant[gap.minorant..])).max(above(sorted, &majorant[gap.majorant..]));
        let next = (minorant[gap.minorant], majorant[gap.majorant]);
        if next == (low, high) {
            break;
        }
        (low, high) = next;
    }
    Some(dip / (2.0 * count(n)))
}

/// For each place, the one before it on the greatest convex minorant of all up to it, and the one after it on the least
/// concave majorant of all from it on.
struct Hulls {
    minorant: Vec<usize>,
    majorant: Vec<usize>,
}

impl Hulls {
    fn new(x: &[f64]) -> Self {
        let last = x.len() - 1;
        let mut minorant = vec![0; x.len()];
        for j in 1..=last {
            let mut at = j - 1;
            while at != 0 && !is_steeper(x, minorant[at], at, j) {
                at = minorant[at];
            }
            minorant[j] = at;
        }
        let mut majorant = vec![last; x.len()];
        for k in (0..last).rev() {
            let mut at = k + 1;
            while at != last && !is_flatter(x, k, at, majorant[at]) {
                at = majorant[at];
            }
            majorant[k] = at;
        }
        Self { minorant, majorant }
    }
}

/// Rises the distribution faster from `b` to `c` than from `a` to `b`?
fn is_steeper(x: &[f64], a: usize, b: usize, c: usize) -> bool {
    (x[c] - x[b]) * count(b - a) < (x[b] - x[a]) * count(c - b)
}

/// Rises it more slowly from `b` to `c` than from `a` to `b`?
fn is_flatter(x: &[f64], a: usize, b: usize, c: usize) -> bool {
    (x[b] - x[a]) * count(c - b) < (x[c] - x[b]) * count(b - a)
}

fn chain(next: &[usize], from: usize, to: usize) -> Vec<usize> {
    let mut chain = vec![from];
    let mut at = from;
    while at != to {
        at = next[at];
        chain.push(at);
    }
    chain
}

/// Where minorant and majorant are farthest apart.
struct Gap {
    width: f64,
    /// Index in the minorant's chain.
    minorant: usize,
    /// Index in the majorant's chain.
    majorant: usize,
}

fn widest_gap(x: &[f64], minorant: &[usize], majorant: &[usize]) -> Gap {
    let mut gap = Gap { width: 0.0, minorant: minorant.len() - 1, majorant: majorant.len() - 1 };
    if minorant.len() == 2 && majorant.len() == 2 {
        gap.width = 1.0;
        return gap;
    }
    // The minorant's chain descends, so it is walked from its end.
    let (mut i, mut j) = (minorant.len() - 2, 1);
    loop {
        let (g, m) = (minorant[i], majorant[j]);
        if g > m {
            let before = minorant[i + 1];
            let width = count(m + 1) - count(before) - (x[m] - x[before]) * count(g - before) / (x[g] - x[before]);
            j += 1;
            if width >= gap.width {
                gap = Gap { width, minorant: i + 1, majorant: j - 1 };
            }
        } else {
            let before = majorant[j - 1];
            let width = (x[g] - x[before]) * count(m - before) / (x[m] - x[before]) - (count(g) - count(before) - 1.0);
            let next = i.saturating_sub(1);
            if width >= gap.width {
                gap = Gap { width, minorant: i, majorant: j };
            }
            i = next;
        }
        j = j.min(majorant.len() - 1);
        if minorant[i] == majorant[j] {
            return gap;
        }
    }
}

/// How far the distribution rises above its minorant.
fn below(x: &[f64], minorant: &[usize]) -> f64 {
    minorant.windows(2).map(|w| farthest(x, w[1], w[0], |k, line| k + 1.0 - line)).fold(0.0, f64::max)
}

/// How far it stays below its majorant.
fn above(x: &[f64], majorant: &[usize]) -> f64 {
    majorant.windows(2).map(|w| farthest(x, w[0], w[1], |k, line| line - (k - 1.0))).fold(0.0, f64::max)
}

fn farthest(x: &[f64], from: usize, to: usize, distance: impl Fn(f64, f64) -> f64) -> f64 {
    if to - from <= 1 || x[to] == x[from] {
        return 1.0;
    }
    let slope = count(to - from) / (x[to] - x[from]);
    (from..=to).map(|k| distance(count(k - from), (x[k] - x[from]) * slope)).fold(1.0, f64::max)
}

/// Dips of uniform samples of one size: what a sample with one mode may have, at most.
#[derive(Debug, Clone)]
pub struct DipNull {
    /// √n times the dips, ascending.
    scaled: Vec<f64>,
}

/// Uniform samples drawn.
const SAMPLES: usize = 2000;
/// Of which so many are drawn at a time.
const CHUNK: usize = 100;
/// Samples above this size share the null distribution of this one: √n times the dip has a limit.
pub(in crate::analysis) const LARGEST: usize = 1000;

impl DipNull {
    /// Draws uniform samples of `n` values; the same for the same `n`.
    pub fn new(n: usize) -> Self {
        let n = n.min(LARGEST);
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // Each sample has its own stretch of one stream, whoever draws it.
        let samples = |chunk: usize| {
            let mut random = Random::new(0, &[n as u64]);
            random.skip((chunk * CHUNK * n) as u64);
            let one = |_| {
                let mut values: Vec<f64> = (0..n).map(|_| random.uniform()).collect();
                values.sort_unstable_by(f64::total_cmp);
                dip(&values).unwrap_or(0.0) * count(n).sqrt()
            };
            (0..CHUNK).map(one).collect::<Vec<f64>>()
        };
        let mut scaled: Vec<f64> = parallel::all(SAMPLES / CHUNK, threads, samples).concat();
        scaled.sort_unstable_by(f64::total_cmp);
        Self { scaled }
    }

    /// Can ascending values be held against this distribution? It is one of values without ties: each value that many others are
    /// equal to, as in counts or rounded times, is a hump to the dip. At most a tenth of them may be repeated.
    pub fn suits(sorted: &[f64]) -> bool {
        let repeated = sorted.windows(2).filter(|pair| pair[0] == pair[1]).count();
        10 * repeated <= sorted.len()
    }

    /// Probability of at least such a dip if the distribution is uniform, the one-hump distribution with the greatest dips;
    /// `None` where the dip is. From 2000 drawn samples, so never below 1/2001.
    pub fn p(&self, sorted: &[f64]) -> Option<f64> {
        // So that a dip that equals a drawn one but for rounding counts as equal.
        let observed = dip(sorted)? * count(sorted.len()).sqrt() * (1.0 - 1e-12);
        let less = self.scaled.partition_point(|&drawn| drawn < observed);
        Some(count(self.scaled.len() - less + 1) / count(self.scaled.len() + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_humps_are_seen_and_one_is_not() {
        let null = DipNull::new(40);
        let one: Vec<f64> = (0..40).map(|i| f64::from(i).powi(2)).collect();
        let two: Vec<f64> = (0..40).map(|i| f64::from(i) + if i < 20 { 0.0 } else { 100.0 }).collect();
        assert!(null.p(&one).unwrap() > 0.9);
        assert!(null.p(&two).unwrap() < 0.001);
        assert_eq!(null.p(&[3.0; 40]), None);
        assert_eq!(dip(&[1.0, 2.0, 3.0]), None);
    }

    #[test]
    fn counts_are_not_held_against_values_without_ties() {
        let mut counts: Vec<f64> = (0..30).map(|i| f64::from(i % 3)).collect();
        counts.sort_unstable_by(f64::total_cmp);
        // One hump with as many of each, and yet the dip is large.
        assert!(DipNull::new(30).p(&counts).unwrap() < 0.001);
        assert!(!DipNull::suits(&counts));
        let times: Vec<f64> = (0..30).map(|i| f64::from(i).sqrt()).collect();
        assert!(DipNull::suits(&times) && DipNull::suits(&[1.0; 1]));
        assert!(DipNull::suits(&[1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]));
    }
}
