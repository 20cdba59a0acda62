use serde::Serialize;
use statrs::function::gamma::ln_gamma;

use super::CONFIDENCE;
use super::distribution::{noncentrality, t_quantile, t_two_sided};
use super::summary::{Interval, Summary, count, interval};

/// A group against its baseline, each of independent values.
///
/// Nothing but the difference needs equal variances or is harmed by unequal ones, Hedges' g excepted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TwoSample {
    /// Mean of the group minus mean of the baseline, in the metric's unit.
    pub difference: f64,
    /// 95 % interval of the difference (Welch); `None` when either side has fewer than two values or neither has spread.
    pub difference_ci95: Option<Interval>,
    /// The difference in percent of the baseline's mean; `None` when that mean is not positive, or so uncertain that its
    /// own interval reaches zero.
    pub percent: Option<f64>,
    /// 95 % interval of `percent`: Fieller's, for unequal variances, with degrees of freedom at the
    /// estimated ratio. Source: Fieller 1954, *J. R. Stat. Soc. B* 16; Tamhane & Logan 2004, *Biometrical Journal* 46.
    pub percent_ci95: Option<Interval>,
    /// Hedges' g: the difference in pooled standard deviations, without the bias of small samples; `None` when either side
    /// has fewer than two values or neither has spread.
    ///
    /// Exact correction by gamma functions. Source: Hedges 1981, *J. Educ. Stat.* 6(2), eq. 6e.
    pub hedges_g: Option<f64>,
    /// 95 % interval of the standardised difference that g estimates, from the noncentral t distribution; assumes normal
    /// values of equal variance. Source: Steiger & Fouladi 1997, *What if there were no significance tests?*, ch. 9.
    pub hedges_g_ci95: Option<Interval>,
    /// Welch's test; `None` as `difference_ci95`.
    pub welch: Option<Welch>,
}

/// Welch's t test for equal means without assuming equal variances, two-sided.
///
/// Source: Welch 1947, *Biometrika* 34; degrees of freedom by Satterthwaite 1946.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Welch {
    /// The statistic.
    pub t: f64,
    /// Degrees of freedom, rarely whole.
    pub df: f64,
    /// Probability of a statistic at least as far from zero if the means are equal.
    pub p: f64,
}

impl TwoSample {
    /// Compares `group` with `baseline`; `None` when either has no mean.
    pub fn of(group: &Summary, baseline: &Summary) -> Option<Self> {
        let difference = Some(group.mean? - baseline.mean?).filter(|d| d.is_finite())?;
        let welch = welch(difference, group, baseline);
        let difference_ci95 = welch.and_then(|w| {
            let half = t_quantile(0.5 + CONFIDENCE / 2.0, w.df)? * difference_error(group, baseline)?;
            interval(difference - half, difference + half)
        });
        let (percent, percent_ci95) = percent(group, baseline);
        let effect = hedges(difference, group, baseline);
        Some(Self {
            difference,
            difference_ci95,
            percent,
            percent_ci95,
            hedges_g: effect.map(|(g, _)| g),
            hedges_g_ci95: effect.and_then(|(_, ci)| ci),
            welch,
        })
    }
}

/// Standard error of the difference; `None` when it is unknown or zero.
fn difference_error(a: &Summary, b: &Summary) -> Option<f64> {
    Some((a.variance_of_mean()? + b.variance_of_mean()?).sqrt()).filter(|&error| error > 0.0)
}

fn welch(difference: f64, a: &Summary, b: &Summary) -> Option<Welch> {
    let t = difference / difference_error(a, b)?;
    let df = satterthwaite(a.variance_of_mean()?, count(a.n), b.variance_of_mean()?, count(b.n));
    Some(Welch { t, df, p: t_two_sided(t, df)? })
}

/// Degrees of freedom of a sum of two variances of means; written so that neither tiny nor huge variances leave the range
/// of numbers.
fn satterthwaite(va: f64, na: f64, vb: f64, nb: f64) -> f64 {
    let (a, b) = (va / (va + vb), vb / (va + vb));
    1.0 / (a * a / (na - 1.0) + b * b / (nb - 1.0))
}

/// Percent and its interval.
fn percent(group: &Summary, baseline: &Summary) -> (Option<f64>, Option<Interval>) {
    let (Some(a), Some(b)) = (group.mean, baseline.mean) else { return (None, None) };
    let clearly_positive = b > 0.0 && baseline.ci95.is_none_or(|ci| ci.low > 0.0);
    let percent = Some(100.0 * (a / b - 1.0)).filter(|p| p.is_finite() && clearly_positive);
    let ci = percent.and_then(|_| fieller(group, baseline));
    (percent, ci.and_then(|ci| interval(100.0 * (ci.low - 1.0), 100.0 * (ci.high - 1.0))))
}

/// 95 % interval of the ratio of two means: all θ for which a − θb does not differ from zero.
///
/// `None` when that set is not an interval (the denominator is not clearly different from zero). With unequal variances the
/// degrees of freedom depend on θ; as is usual, those at the estimated ratio are taken.
/// Source: Fieller 1954, *J. R. Stat. Soc. B* 16; Tamhane & Logan 2004, *Biometrical Journal* 46.
fn fieller(group: &Summary, baseline: &Summary) -> Option<Interval> {
    let (a, b) = (group.mean?, baseline.mean?);
    let (va, vb) = (group.variance_of_mean()?, baseline.variance_of_mean()?);
    // All in units of b: its variance becomes vb/b², the ratio stays.
    let (ratio, va, vb) = (a / b, va / (b * b), vb / (b * b));
    if va + vb <= 0.0 {
        return None;
    }
    let df = satterthwaite(va, count(group.n), ratio * ratio * vb, count(baseline.n));
    // With ratio 0 and a constant group nothing is left to take degrees of freedom from.
    let t = t_quantile(0.5 + CONFIDENCE / 2.0, df)?;
    let scale = 1.0 - t * t * vb;
    if scale <= 0.0 {
        return None;
    }
    let half = t * (va + ratio * ratio * vb - t * t * va * vb).sqrt();
    interval((ratio - half) / scale, (ratio + half) / scale)
}

/// Hedges' g and its interval.
fn hedges(difference: f64, a: &Summary, b: &Summary) -> Option<(f64, Option<Interval>)> {
    let (na, nb) = (count(a.n), count(b.n));
    let df = na + nb - 2.0;
    let pooled = (((na - 1.0) * a.sd?.powi(2) + (nb - 1.0) * b.sd?.powi(2)) / df).sqrt();
    if pooled.is_nan() || pooled <= 0.0 {
        return None;
    }
    let correction = (ln_gamma(0.5 * df) - ln_gamma(0.5 * (df - 1.0)) - 0.5 * (0.5 * df).ln()).exp();
    let g = Some(correction * difference / pooled).filter(|g| g.is_finite())?;
    let scale = (1.0 / na + 1.0 / nb).sqrt();
    let t = difference / pooled / scale;
    let limit = |p: f64| noncentrality(t, df, p).map(|delta| delta * scale);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let ci = limit(1.0 - tail).zip(limit(tail)).and_then(|(low, high)| interval(low, high));
    Some((g, ci))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(group: &[f64], baseline: &[f64]) -> TwoSample {
        TwoSample::of(&Summary::of(group), &Summary::of(baseline)).unwrap()
    }

    #[test]
    fn what_cannot_be_said_is_none() {
        assert_eq!(TwoSample::of(&Summary::of(&[]), &Summary::of(&[1.0])), None);
        let single = of(&[3.0], &[2.0]);
        assert_eq!((single.difference, single.percent), (1.0, Some(50.0)));
        assert_eq!((single.difference_ci95, single.percent_ci95, single.welch), (None, None, None));
        assert_eq!((single.hedges_g, single.hedges_g_ci95), (None, None));
        let constant = of(&[3.0; 5], &[2.0; 5]);
        assert_eq!((constant.welch, constant.hedges_g, constant.difference_ci95), (None, None, None));
        assert_eq!(constant.percent_ci95, None);
    }

    #[test]
    fn one_constant_side_is_enough_for_a_test() {
        let half = of(&[1.0, 2.0, 3.0], &[5.0; 4]);
        assert_eq!(half.welch.unwrap().df, 2.0);
        assert!(half.percent_ci95.is_some());
    }

    #[test]
    fn no_percent_of_a_baseline_around_zero() {
        let unsure = of(&[4.0, 5.0, 6.0], &[-1.0, 0.5, 1.5]);
        assert_eq!((unsure.percent, unsure.percent_ci95), (None, None));
        assert_eq!(of(&[1.0, 2.0], &[-5.0, -5.1]).percent, None);
        assert_eq!(of(&[1.0, 2.0], &[0.0, 0.0]).percent, None);
    }

    #[test]
    fn swapping_the_sides_turns_the_signs() {
        let (a, b) = (of(&[1.0, 2.0, 4.0], &[2.0, 5.0, 9.0, 4.0]), of(&[2.0, 5.0, 9.0, 4.0], &[1.0, 2.0, 4.0]));
        assert_eq!(a.difference, -b.difference);
        assert_eq!(a.welch.unwrap().p, b.welch.unwrap().p);
        let (ci_a, ci_b) = (a.hedges_g_ci95.unwrap(), b.hedges_g_ci95.unwrap());
        assert!((ci_a.low + ci_b.high).abs() < 1e-9, "{ci_a:?} {ci_b:?}");
    }

    fn sample() -> impl proptest::strategy::Strategy<Value = Vec<f64>> {
        proptest::collection::vec(10.0..1000.0, 2..12)
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 64, ..Default::default() })]

        #[test]
        fn intervals_hold_what_they_are_about(group in sample(), baseline in sample(), unit in 1e-6..1e6) {
            let result = of(&group, &baseline);
            let holds = |value: Option<f64>, ci: Option<Interval>| match (value, ci) {
                (Some(x), Some(ci)) => ci.low <= x && x <= ci.high,
                (_, ci) => ci.is_none(),
            };
            assert!(holds(Some(result.difference), result.difference_ci95), "{result:?}");
            assert!(holds(result.percent, result.percent_ci95), "{result:?}");
            assert!(result.welch.is_none_or(|w| (0.0..=1.0).contains(&w.p)), "{result:?}");

            // Another unit changes the difference and nothing else.
            let scaled = |values: &[f64]| values.iter().map(|x| x * unit).collect::<Vec<_>>();
            let other = of(&scaled(&group), &scaled(&baseline));
            let same = |a: Option<f64>, b: Option<f64>| match (a, b) {
                (Some(a), Some(b)) => (a - b).abs() <= 1e-7 * (1.0 + a.abs()),
                (a, b) => a == b,
            };
            assert!(same(result.percent, other.percent), "{result:?} {other:?}");
            assert!(same(result.hedges_g, other.hedges_g), "{result:?} {other:?}");
            assert!(same(result.welch.map(|w| w.p), other.welch.map(|w| w.p)), "{result:?} {other:?}");
        }
    }
}
