//! Many p-values at once. `None` among them is a test that could not be made and belongs to no family.

use crate::analysis::summary::count;

/// The adjusted p-values of a family.
#[derive(Debug, Clone, PartialEq)]
pub struct Adjusted {
    /// How many p-values the family has.
    pub size: usize,
    /// Probability of one or more false claims, whatever the dependence. Source: Holm 1979, *Scand. J. Stat.* 6.
    pub holm: Vec<Option<f64>>,
    /// Expected share of false claims, for independent or positively dependent tests.
    /// Source: Benjamini & Hochberg 1995, *J. R. Stat. Soc. B* 57(1).
    pub benjamini_hochberg: Vec<Option<f64>>,
    /// The same whatever the dependence. Source: Benjamini & Yekutieli 2001, *Ann. Stat.* 29(4).
    pub benjamini_yekutieli: Vec<Option<f64>>,
}

/// Adjusts `ps`; places of `None` stay `None`.
///
/// Agrees with `statsmodels.stats.multitest.multipletests` (`holm`, `fdr_bh`, `fdr_by`) and R's `p.adjust`.
pub fn adjust(ps: &[Option<f64>]) -> Adjusted {
    let known: Vec<f64> = ps.iter().flatten().copied().collect();
    let spread = |adjusted: Vec<f64>| {
        let mut next = adjusted.into_iter();
        ps.iter().map(|p| p.and_then(|_| next.next())).collect()
    };
    Adjusted {
        size: known.len(),
        holm: spread(holm(&known)),
        benjamini_hochberg: spread(benjamini_hochberg(&known)),
        benjamini_yekutieli: spread(benjamini_yekutieli(&known)),
    }
}

fn holm(ps: &[f64]) -> Vec<f64> {
    let mut most = 0.0_f64;
    let mut adjusted = vec![1.0; ps.len()];
    for (rank, i) in ascending(ps).into_iter().enumerate() {
        most = most.max((ps[i] * count(ps.len() - rank)).min(1.0));
        adjusted[i] = most;
    }
    adjusted
}

/// Adjusted p-values. Source: Benjamini & Hochberg 1995, *J. R. Stat. Soc. B* 57(1).
pub(in crate::analysis) fn benjamini_hochberg(ps: &[f64]) -> Vec<f64> {
    step_up(ps, 1.0)
}

fn benjamini_yekutieli(ps: &[f64]) -> Vec<f64> {
    step_up(ps, (1..=ps.len()).map(|i| 1.0 / count(i)).sum())
}

fn step_up(ps: &[f64], factor: f64) -> Vec<f64> {
    let mut least = 1.0_f64;
    let mut adjusted = vec![1.0; ps.len()];
    for (rank, i) in ascending(ps).into_iter().enumerate().rev() {
        least = least.min(factor * ps[i] * count(ps.len()) / count(rank + 1));
        adjusted[i] = least;
    }
    adjusted
}

fn ascending(ps: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ps.len()).collect();
    order.sort_by(|&a, &b| ps[a].total_cmp(&ps[b]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_rates_are_those_of_r() {
        // p.adjust(c(.01, .04, .03, .005), "BH") of R 4.2.
        let adjusted = benjamini_hochberg(&[0.01, 0.04, 0.03, 0.005]);
        for (ours, theirs) in adjusted.iter().zip([0.02, 0.04, 0.04, 0.02]) {
            assert!((ours - theirs).abs() < 1e-12, "{adjusted:?}");
        }
    }

    #[test]
    fn tests_that_could_not_be_made_do_not_count() {
        let adjusted = adjust(&[None, Some(0.02), None, Some(0.04)]);
        assert_eq!(adjusted.size, 2);
        assert_eq!(adjusted.holm, [None, Some(0.04), None, Some(0.04)]);
        assert_eq!(adjust(&[]).holm, []);
    }
}
