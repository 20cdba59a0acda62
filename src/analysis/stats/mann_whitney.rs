//! Is a value of one sample more often the greater one?

use serde::Serialize;

use super::ranks::Ranked;
use crate::analysis::distribution::normal_sf;
use crate::analysis::summary::count;

/// How a p-value was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// All ways to deal the values were counted.
    Exact,
    /// From the limit for large samples.
    Asymptotic,
    /// From random deals, the observed one included.
    Drawn,
}

/// Mann–Whitney's test of equal distributions, two-sided.
///
/// Source: Mann & Whitney 1947, *Ann. Math. Stat.* 18. Assumes that under equality the values are exchangeable; unequal
/// spreads alone can make it reject ([`BrunnerMunzel`](super::brunner_munzel::BrunnerMunzel) is not harmed by them).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MannWhitney {
    /// U of the group.
    pub u: f64,
    /// Probability of a U at least as far from its middle if the distributions are equal.
    pub p: f64,
    /// Where `p` comes from.
    pub method: Method,
}

impl MannWhitney {
    /// Tests; `None` when all values are equal.
    ///
    /// Exact without ties if one side has at most 8 values (`scipy.stats.mannwhitneyu`) or both have fewer than 50 (R's
    /// `wilcox.test`); else by the normal distribution with corrections for ties and continuity. Agrees with
    /// `scipy.stats.mannwhitneyu` of the same method.
    pub fn of(ranked: &Ranked<'_>) -> Option<Self> {
        let (m, n) = (ranked.group.len(), ranked.baseline.len());
        if !ranked.has_ties() && is_countable(m, n) {
            return Some(Self::exact(ranked, &Counts::new(m, n)));
        }
        Self::asymptotic(ranked)
    }

    /// By the distribution of U for values without ties.
    pub fn exact(ranked: &Ranked<'_>, counts: &Counts) -> Self {
        let u = ranked.u();
        let p = (2.0 * counts.at_most(u.min(ranked.pairs() - u))).min(1.0);
        Self { u, p, method: Method::Exact }
    }

    /// By the normal distribution.
    pub fn asymptotic(ranked: &Ranked<'_>) -> Option<Self> {
        let u = ranked.u();
        let pairs = ranked.pairs();
        let all = count(ranked.group.len() + ranked.baseline.len());
        let variance = pairs / 12.0 * ((all + 1.0) - ranked.tie_term / (all * (all - 1.0)));
        let z = (u.max(pairs - u) - 0.5 * pairs - 0.5) / variance.sqrt();
        // With all values equal the variance is 0 but for rounding.
        let constant = ranked.group[0] == *ranked.group.last()?
            && ranked.baseline[0] == *ranked.baseline.last()?
            && ranked.group[0] == ranked.baseline[0];
        (!constant && z.is_finite()).then(|| Self { u, p: (2.0 * normal_sf(z)).min(1.0), method: Method::Asymptotic })
    }
}

/// Is the exact distribution used for samples of these sizes?
pub fn is_countable(m: usize, n: usize) -> bool {
    (m.min(n) <= 8 && m.max(n) <= 100_000) || m.max(n) < 50
}

/// The distribution of U for samples of given sizes without ties.
#[derive(Debug, Clone)]
pub struct Counts {
    /// P(U ≤ u).
    cumulative: Vec<f64>,
}

impl Counts {
    /// Counts the ways: coefficients of the Gaussian binomial, which is built up factor by factor in whole numbers.
    ///
    /// Takes m²·n steps for m ≤ n and is for sizes that [`is_countable`] allows, where every number stays below 2¹²⁶.
    #[expect(clippy::cast_precision_loss, reason = "a ratio to 16 digits")]
    pub fn new(m: usize, n: usize) -> Self {
        let (few, many) = (m.min(n), m.max(n));
        // The distribution is symmetric: half of it is enough.
        let half = few * many / 2;
        let mut ways = vec![0_i128; half + 1];
        ways[0] = 1;
        for i in 1..=few {
            for u in (many + i..=half).rev() {
                ways[u] -= ways[u - many - i];
            }
            for u in i..=half {
                ways[u] += ways[u - i];
            }
        }
        let all = (1..=few).fold(1_i128, |all, i| all * (many + i) as i128 / i as i128) as f64;
        let mut sum = 0_i128;
        let cumulative = ways.iter().map(|w| {
            sum += w;
            sum as f64 / all
        });
        Self { cumulative: cumulative.collect() }
    }

    /// P(U ≤ u) for `u` at most in the middle of the distribution.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and half of the pairs")]
    fn at_most(&self, u: f64) -> f64 {
        self.cumulative[(u.max(0.0) as usize).min(self.cumulative.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_enumeration() {
        // All ways to choose 3 of 7 ranks.
        let mut exact = [0_u32; 13];
        for set in (0_u32..128).filter(|set| set.count_ones() == 3) {
            let u: u32 = (0..7).filter(|i| set >> i & 1 == 1).map(|i| i - (set & ((1 << i) - 1)).count_ones()).sum();
            exact[u as usize] += 1;
        }
        let counts = Counts::new(3, 4);
        let mut sum = 0;
        for (u, ways) in exact.iter().enumerate().take(7) {
            sum += ways;
            assert!((counts.cumulative[u] - f64::from(sum) / 35.0).abs() < 1e-15, "{u}");
        }
    }

    #[test]
    fn sides_may_be_swapped_and_constants_say_nothing() {
        let (a, b) = ([1.0, 2.5, 3.0, 9.0, 9.5], [0.5, 2.0, 4.0, 5.0, 6.0, 7.0]);
        let of = |x: &[f64], y: &[f64]| MannWhitney::of(&Ranked::new(x, y).unwrap());
        assert_eq!(of(&a, &b).unwrap().p, of(&b, &a).unwrap().p);
        assert_eq!(of(&[2.0; 4], &[2.0; 9]), None);
        assert!(of(&[2.0; 4], &[3.0; 9]).unwrap().p < 0.01);
    }
}
