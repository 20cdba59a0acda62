//! One difference, measured on several hosts.

use serde::Serialize;

use crate::analysis::Interval;
use crate::analysis::distribution::{chi2_sf, f_sf, normal_quantile};
use crate::analysis::summary::{count, interval};

/// What one host says: a difference and the square of its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The difference.
    pub value: f64,
    /// Its variance, above 0.
    pub variance: f64,
}

/// The estimates of several hosts together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pooled {
    /// Hosts.
    pub hosts: usize,
    /// Mean difference over all such hosts, each host weighted by its own variance and that between hosts.
    pub mean: f64,
    /// Interval of the mean, normal. With few hosts it covers less than it says, as τ² is taken for known.
    pub ci: Option<Interval>,
    /// Variance of the true difference between hosts; 0 when hosts differ no more than their errors explain.
    pub tau2: f64,
    /// Cochran's Q.
    pub q: f64,
    /// Probability of at least such a Q if all hosts have the same difference; `None` with one host.
    pub q_p: Option<f64>,
    /// Share of the variance between estimates that is between hosts, 0 to 1; `None` with one host.
    pub i2: Option<f64>,
}

/// Random-effects estimate; `None` without a host, or where a value is not finite or a variance not above 0.
///
/// Assumes independent normal estimates. Agrees with `statsmodels.stats.meta_analysis.combine_effects(method_re="dl")` and R's
/// `metafor::rma(method = "DL")`. Sources: DerSimonian & Laird 1986, *Control. Clin. Trials* 7; Higgins & Thompson 2002, *Stat. Med.*
/// 21 (I²).
pub fn pooled(estimates: &[Estimate], confidence: f64) -> Option<Pooled> {
    let usable = |e: &Estimate| e.value.is_finite() && e.variance.is_finite() && e.variance > 0.0;
    if estimates.is_empty() || !estimates.iter().all(usable) {
        return None;
    }
    let df = count(estimates.len() - 1);
    let sum = |f: &dyn Fn(&Estimate) -> f64| estimates.iter().map(f).sum::<f64>();
    let weight = sum(&|e| 1.0 / e.variance);
    let fixed = sum(&|e| e.value / e.variance) / weight;
    let q = sum(&|e| (e.value - fixed).powi(2) / e.variance);
    let scale = weight - sum(&|e| 1.0 / e.variance.powi(2)) / weight;
    let tau2 = if df > 0.0 { ((q - df) / scale).max(0.0) } else { 0.0 };
    let both = sum(&|e| 1.0 / (e.variance + tau2));
    let mean = sum(&|e| e.value / (e.variance + tau2)) / both;
    let half = normal_quantile(0.5 + confidence / 2.0)? / both.sqrt();
    Some(Pooled {
        hosts: estimates.len(),
        mean,
        ci: interval(mean - half, mean + half),
        tau2,
        q,
        q_p: (df > 0.0).then(|| chi2_sf(q, df)).flatten(),
        i2: (df > 0.0).then(|| if q > df { (q - df) / q } else { 0.0 }),
    })
    .filter(|pooled| pooled.mean.is_finite() && pooled.tau2.is_finite())
}

/// Do all hosts have the same difference? Probability of estimates at least as far apart if they have; `None` with fewer than two,
/// or where a value is not finite, or a variance or its degrees of freedom are not above 0.
///
/// Unlike Cochran's Q with χ² it takes into account that variances are estimated, which matters with few values. Each estimate comes
/// with the degrees of freedom of its variance. Agrees with `statsmodels.stats.oneway.anova_generic(use_var="unequal")`.
/// Source: Welch 1951, *Biometrika* 38.
pub fn homogeneity(estimates: &[(Estimate, f64)]) -> Option<f64> {
    let usable = |(e, df): &(Estimate, f64)| {
        e.value.is_finite() && e.variance.is_finite() && e.variance > 0.0 && df.is_finite() && *df > 0.0
    };
    let between = count(estimates.len().checked_sub(1).filter(|&rest| rest > 0)?);
    if !estimates.iter().all(usable) {
        return None;
    }
    let sum = |f: &dyn Fn(&(Estimate, f64)) -> f64| estimates.iter().map(f).sum::<f64>();
    let weight = sum(&|(e, _)| 1.0 / e.variance);
    let mean = sum(&|(e, _)| e.value / e.variance) / weight;
    let q = sum(&|(e, _)| (e.value - mean).powi(2) / e.variance);
    let uncertain = sum(&|(e, df)| (1.0 - 1.0 / (e.variance * weight)).powi(2) / df);
    let k = between + 1.0;
    let f = q / between / (1.0 + 2.0 * (k - 2.0) * uncertain / (k * k - 1.0));
    f_sf(f, between, (k * k - 1.0) / (3.0 * uncertain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_make_hosts_that_differ_less_surprising() {
        let at = |df: f64| {
            let of = |value| (Estimate { value, variance: 1.0 }, df);
            homogeneity(&[of(0.0), of(3.0), of(-1.0)]).unwrap()
        };
        let all = [0.0, 3.0, -1.0].map(|value| Estimate { value, variance: 1.0 });
        let chi2 = pooled(&all, 0.95).unwrap().q_p.unwrap();
        assert!(at(2.0) > at(5.0) && at(5.0) > at(1e6) && (at(1e6) - chi2).abs() < 1e-4, "{} {chi2}", at(1e6));
        assert_eq!(homogeneity(&[(all[0], 3.0)]), None);
        assert_eq!(homogeneity(&[(all[0], 3.0), (Estimate { value: 1.0, variance: 0.0 }, 3.0)]), None);
        assert_eq!(homogeneity(&[(all[0], 3.0), (all[1], f64::NAN)]), None);
    }

    #[test]
    fn one_host_says_nothing_of_others() {
        let one = pooled(&[Estimate { value: 2.0, variance: 0.25 }], 0.95).unwrap();
        assert_eq!((one.mean, one.tau2, one.i2, one.q_p), (2.0, 0.0, None, None));
        assert_eq!(pooled(&[], 0.95), None);
        assert_eq!(pooled(&[Estimate { value: 2.0, variance: 0.0 }], 0.95), None);
        assert_eq!(pooled(&[Estimate { value: f64::NAN, variance: 1.0 }], 0.95), None);
    }

    #[test]
    fn hosts_that_agree_and_hosts_that_do_not() {
        let at = |values: [f64; 3]| pooled(&values.map(|value| Estimate { value, variance: 0.01 }), 0.95).unwrap();
        let (alike, apart) = (at([1.0, 1.01, 0.99]), at([1.0, 3.0, 5.0]));
        assert_eq!((alike.tau2, alike.i2), (0.0, Some(0.0)));
        assert!(apart.i2.unwrap() > 0.99 && apart.ci.unwrap().high - apart.ci.unwrap().low > 4.0, "{apart:?}");
    }
}
