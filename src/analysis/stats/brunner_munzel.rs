//! Is a value of one sample more often the greater one, whatever the spreads?

use serde::Serialize;

use super::ranks::Ranked;
use crate::analysis::distribution::t_two_sided;
use crate::analysis::summary::count;

/// Brunner–Munzel's test that either sample has the greater value equally often, two-sided, by Student's t.
///
/// Assumes nothing about spreads or shapes; needs about ten values on each side for its level to hold.
/// Source: Brunner & Munzel 2000, *Biometrical Journal* 42(1).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BrunnerMunzel {
    /// The statistic: positive when the group's values are the greater ones. (SciPy's has the other sign when the group is
    /// given first.)
    pub statistic: f64,
    /// Degrees of freedom by Satterthwaite's approximation.
    pub df: f64,
    /// Probability of a statistic at least as far from zero.
    pub p: f64,
}

impl BrunnerMunzel {
    /// Tests; `None` with fewer than two values on a side, and where the statistic has no spread: the samples do not
    /// overlap at all, or every value equals every other. (SciPy then has an infinite statistic and no p-value. Whether
    /// samples that do not overlap differ is for the exact tests to say.)
    ///
    /// Agrees with `scipy.stats.brunnermunzel(distribution="t")`.
    pub fn of(ranked: &Ranked<'_>) -> Option<Self> {
        let (m, n) = (count(ranked.group.len()), count(ranked.baseline.len()));
        let (group, baseline) = (variance(&ranked.group_wins)?, variance(&ranked.baseline_wins)?);
        let (va, vb) = (m * group, n * baseline);
        let all = va + vb;
        // The mean rank of a sample is its mean wins plus the mean rank within itself.
        let lead = (ranked.u() / m + 0.5 * (m + 1.0)) - ((ranked.pairs() - ranked.u()) / n + 0.5 * (n + 1.0));
        let statistic = m * n * lead / ((m + n) * all.sqrt());
        let df = 1.0 / ((va / all).powi(2) / (m - 1.0) + (vb / all).powi(2) / (n - 1.0));
        if !(all > 0.0 && statistic.is_finite()) {
            return None;
        }
        Some(Self { statistic, df, p: t_two_sided(statistic, df)? })
    }
}

fn variance(wins: &[f64]) -> Option<f64> {
    let n = count(wins.len());
    let mean = wins.iter().sum::<f64>() / n;
    (wins.len() >= 2).then(|| wins.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / (n - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separation_has_no_statistic() {
        let of = |x: &[f64], y: &[f64]| BrunnerMunzel::of(&Ranked::new(x, y).unwrap());
        assert_eq!(of(&[1.0, 2.0, 3.0], &[4.0, 5.0]), None);
        assert_eq!(of(&[1.0; 3], &[1.0; 5]), None);
        assert_eq!(of(&[1.0], &[0.5, 2.0]), None);
        assert!(of(&[1.0, 2.0, 6.0], &[4.0, 5.0, 7.0]).unwrap().statistic < 0.0);
    }
}
