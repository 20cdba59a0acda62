//! Do two samples differ anywhere in their distribution?

use serde::Serialize;

use super::mann_whitney::Method;
use super::ranks::Ranked;
use crate::analysis::summary::count;

/// The two-sample test of Kolmogorov and Smirnov, two-sided.
///
/// Assumes independent values and nothing else. Source: Smirnov 1939, *Bull. Math. Univ. Moscou* 2(2).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct KolmogorovSmirnov {
    /// Greatest vertical distance between the two empirical distribution functions.
    pub d: f64,
    /// Probability of a distance at least as great if the distributions are equal.
    pub p: f64,
    /// Where `p` comes from.
    pub method: Method,
}

/// Most cells of the exact computation, which takes as many steps.
const MOST_CELLS: usize = 1_000_000;

impl KolmogorovSmirnov {
    /// Tests. Exact, given the ties, for up to a million pairs; else by the limit distribution.
    ///
    /// Agrees with `scipy.stats.ks_2samp(method="exact")` where there are no ties (SciPy's ignores ties, and is then too
    /// large), and with R's `ks.test(exact = TRUE)` of 4.2 or later where there are; beyond that with R's
    /// `ks.test(exact = FALSE)`, which is `scipy.special.kolmogorov(d·√(mn/(m+n)))`.
    /// Source: Hodges 1958, *Arkiv för Matematik* 3(43); with ties Schröer & Trenkler 1995, *Comput. Stat. Data Anal.* 20.
    pub fn of(ranked: &Ranked<'_>) -> Self {
        let (m, n) = (ranked.group.len(), ranked.baseline.len());
        let walk = Walk::of(ranked);
        let d = count(walk.most) / (count(m) * count(n));
        if m.saturating_mul(n) <= MOST_CELLS {
            return Self { d, p: walk.share_as_far(m, n), method: Method::Exact };
        }
        let scale = (count(m) * count(n) / (count(m) + count(n))).sqrt();
        Self { d, p: kolmogorov_sf(d * scale), method: Method::Asymptotic }
    }
}

/// The way through both samples in their common order.
struct Walk {
    /// Greatest |i·n − j·m| where i values of the group and j of the baseline are at most some value.
    most: usize,
    /// After that many values of both: is the next one greater?
    ends_run: Vec<bool>,
}

impl Walk {
    fn of(ranked: &Ranked<'_>) -> Self {
        let (a, b) = (ranked.group, ranked.baseline);
        let mut walk = Self { most: 0, ends_run: vec![false; a.len() + b.len() + 1] };
        let (mut i, mut j) = (0, 0);
        while i < a.len() || j < b.len() {
            let value = a.get(i).copied().unwrap_or(f64::INFINITY).min(b.get(j).copied().unwrap_or(f64::INFINITY));
            i += a[i..].iter().take_while(|&&x| x == value).count();
            j += b[j..].iter().take_while(|&&x| x == value).count();
            walk.most = walk.most.max((i * b.len()).abs_diff(j * a.len()));
            walk.ends_run[i + j] = true;
        }
        walk
    }

    /// Share of all ways through m × n that are as far from the diagonal somewhere as this one.
    ///
    /// Shares are carried, not numbers of ways, and only added: nothing overflows and small ones keep their digits.
    fn share_as_far(&self, m: usize, n: usize) -> f64 {
        if self.most == 0 {
            return 1.0;
        }
        let far = |i: usize, j: usize| self.ends_run[i + j] && (i * n).abs_diff(j * m) >= self.most;
        let parts: Vec<f64> = (0..=m + n).map(|k| 1.0 / count(k.max(1))).collect();
        let mut row = vec![0.0; n + 1];
        for i in 0..=m {
            let mut left = 0.0;
            for j in 0..=n {
                let part = parts[i + j];
                left = if far(i, j) { 1.0 } else { (count(i) * row[j] + count(j) * left) * part };
                row[j] = left;
            }
        }
        row[n].min(1.0)
    }
}

/// P(K > z) of Kolmogorov's limit distribution. Source: Kolmogorov 1933, *G. Ist. Ital. Attuari* 4.
fn kolmogorov_sf(z: f64) -> f64 {
    if z <= 0.0 {
        return 1.0;
    }
    if z < 1.0 {
        // The other form of the theta function, which converges here.
        let term = |k: u32| (-(f64::from(2 * k - 1) * std::f64::consts::PI / z).powi(2) / 8.0).exp();
        return 1.0 - std::f64::consts::TAU.sqrt() / z * (1..=6).map(term).sum::<f64>();
    }
    let term = |k: i32| 2.0 * f64::from(if k % 2 == 1 { 1 } else { -1 }) * (-2.0 * (f64::from(k) * z).powi(2)).exp();
    (1..=8).map(term).sum::<f64>().clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(x: &[f64], y: &[f64]) -> KolmogorovSmirnov {
        KolmogorovSmirnov::of(&Ranked::new(x, y).unwrap())
    }

    #[test]
    fn extremes() {
        // Of 20 ways to deal three and three, two keep the samples apart.
        assert!((of(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]).p - 0.1).abs() < 1e-15);
        assert_eq!(of(&[1.0; 4], &[1.0; 4]).p, 1.0);
        assert_eq!(of(&[1.0], &[2.0]).d, 1.0);
        assert_eq!(of(&[1.0], &[2.0]).p, 1.0);
    }

    #[test]
    fn the_two_forms_of_the_limit_meet() {
        let (below, above) = (kolmogorov_sf(1.0 - 1e-12), kolmogorov_sf(1.0));
        assert!((below - above).abs() < 1e-11, "{below} {above}");
        assert_eq!(kolmogorov_sf(0.0), 1.0);
    }
}
