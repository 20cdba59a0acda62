//! How often a value of the group is the greater one.

use serde::Serialize;

use super::ranks::Ranked;
use crate::analysis::distribution::normal_quantile;
use crate::analysis::summary::{Interval, count, interval};

/// Cliff's δ and Vargha–Delaney's A, the same thing on two scales. No assumption about the shape of the distributions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Dominance {
    /// Share of pairs in which the group's value is greater minus the share in which it is smaller, −1 to 1.
    /// Source: Cliff 1993, *Psychol. Bull.* 114(3).
    pub cliff_delta: f64,
    /// Interval of δ; `None` with fewer than two values on a side.
    pub cliff_delta_ci: Option<Interval>,
    /// Probability that a value of the group is greater than one of the baseline, plus half of that of equality: (δ + 1)/2.
    /// Source: Vargha & Delaney 2000, *J. Educ. Behav. Stat.* 25(2).
    pub a12: f64,
    /// Interval of A, from that of δ.
    pub a12_ci: Option<Interval>,
}

impl Dominance {
    /// Both, with intervals that cover `confidence`.
    ///
    /// The interval is asymmetric, from Cliff's unbiased variance. Where the samples do not overlap (δ = ±1) that variance is
    /// zero; then it reaches from ±1 to where a normal score interval of the smaller sample would.
    /// Source: Feng & Cliff 2004, *J. Mod. Appl. Stat. Methods* 3(2), eq. 5–7.
    pub fn of(ranked: &Ranked<'_>, confidence: f64) -> Self {
        let delta = 2.0 * (ranked.u() / ranked.pairs()) - 1.0;
        let ci = delta_interval(ranked, delta, confidence);
        Self {
            cliff_delta: delta,
            cliff_delta_ci: ci,
            a12: ranked.u() / ranked.pairs(),
            a12_ci: ci.map(|ci| Interval { low: f64::midpoint(ci.low, 1.0), high: f64::midpoint(ci.high, 1.0) }),
        }
    }
}

fn delta_interval(ranked: &Ranked<'_>, delta: f64, confidence: f64) -> Option<Interval> {
    let z2 = normal_quantile(0.5 + confidence / 2.0)?.powi(2);
    let few = count(ranked.group.len().min(ranked.baseline.len()));
    if few < 2.0 {
        return None;
    }
    if delta.abs() == 1.0 {
        let end = (few - z2) / (few + z2) * delta;
        return interval(end.min(delta), end.max(delta));
    }
    let variance = variance(ranked, delta);
    let middle = delta - delta.powi(3);
    let half = (z2 * variance * ((1.0 - delta * delta).powi(2) + z2 * variance)).sqrt();
    let scale = 1.0 - delta * delta + z2 * variance;
    interval(((middle - half) / scale).max(-1.0), ((middle + half) / scale).min(1.0))
}

/// Cliff's unbiased variance of δ, at least (1 − δ²)/(pairs − 1). Source: Cliff 1996, *Multivariate Behav. Res.* 31(3), eq. 9.
fn variance(ranked: &Ranked<'_>, delta: f64) -> f64 {
    let (m, n) = (count(ranked.group.len()), count(ranked.baseline.len()));
    let squares = |wins: &[f64], others: f64, delta: f64| -> f64 {
        wins.iter().map(|w| (2.0 * w / others - 1.0 - delta).powi(2)).sum()
    };
    let rows = squares(&ranked.group_wins, n, delta);
    let columns = squares(&ranked.baseline_wins, m, -delta);
    // Every pair that is not equal has (±1)².
    let cells = ranked.pairs() - ranked.equal_pairs - ranked.pairs() * delta * delta;
    let unbiased = (n * n * rows + m * m * columns - cells) / (m * n * (m - 1.0) * (n - 1.0));
    unbiased.max((1.0 - delta * delta) / (m * n - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_stays_within_its_range() {
        let of = |x: &[f64], y: &[f64]| Dominance::of(&Ranked::new(x, y).unwrap(), 0.95);
        let apart = of(&[5.0, 6.0, 7.0, 8.0], &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!((apart.cliff_delta, apart.a12), (1.0, 1.0));
        assert!(apart.cliff_delta_ci.unwrap().low < 0.1 && apart.cliff_delta_ci.unwrap().high == 1.0);
        let (x, y) = ([1.0, 3.0, 5.0], [0.0, 2.0, 4.0, 4.5]);
        let (some, swapped) = (of(&x, &y), of(&y, &x));
        assert!((some.cliff_delta + swapped.cliff_delta).abs() < 1e-15);
        let (ci, mirrored) = (some.cliff_delta_ci.unwrap(), swapped.cliff_delta_ci.unwrap());
        assert!((ci.low + mirrored.high).abs() < 1e-12 && ci.low > -1.0 && ci.high < 1.0, "{ci:?} {mirrored:?}");
        assert_eq!(of(&[1.0], &[2.0, 3.0]).cliff_delta_ci, None);
        assert_eq!(of(&[2.0, 2.0], &[2.0, 2.0]).cliff_delta, 0.0);
    }
}
