//! How many repetitions it takes.
//!
//! All of these plan for two sides of equally many values with one standard deviation, and take the standard deviation and the
//! difference of a pilot for the true ones.

use serde::Serialize;

use crate::analysis::distribution::{mean_over_sd, noncentral_t_cdf, normal_cdf, normal_quantile, t_quantile};
use crate::analysis::summary::count;

/// A number of repetitions of each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Repetitions {
    /// So many.
    PerSide(usize),
    /// More than [`MOST`]: what was seen lies on the boundary, or nearly.
    TooMany,
}

/// The most repetitions that are looked for.
pub const MOST: usize = 1_000_000;

/// Power that is asked for where nothing else is said.
pub const POWER: f64 = 0.8;

/// Power of the two-sided two-sample t test at `level` with `n` values on each side, for a difference of `effect` standard
/// deviations; `None` with fewer than two values or a level that is none.
///
/// Agrees with `statsmodels.stats.power.TTestIndPower().power` and R's `power.t.test(strict = TRUE)`.
/// Source: Cohen 1988, *Statistical Power Analysis*, 12.
pub fn t_test_power(effect: f64, n: usize, level: f64) -> Option<f64> {
    if n < 2 || !effect.is_finite() {
        return None;
    }
    let df = 2.0 * count(n) - 2.0;
    let critical = t_quantile(1.0 - level / 2.0, df)?;
    let delta = effect.abs() * (count(n) / 2.0).sqrt();
    // The far tail is that of the mirrored distribution.
    Some(1.0 - noncentral_t_cdf(critical, df, delta) + noncentral_t_cdf(-critical, df, delta))
}

/// Fewest values on each side for that power.
pub fn repetitions_for_difference(effect: f64, power: f64, level: f64) -> Option<Repetitions> {
    let z = normal_quantile(1.0 - level / 2.0)? + normal_quantile(power)?;
    search(2.0 * (z / effect).powi(2), |n| t_test_power(effect, n, level).is_some_and(|reached| reached >= power))
}

/// Power of two one-sided t tests at `level` each with `n` values on each side, when the true difference is `difference` and
/// the margin reaches from −`margin` to `margin`, all in standard deviations; `None` with fewer than two values.
///
/// Exact, by integrating over the estimated standard deviation; the equal of Owen's Q, as in R's
/// `PowerTOST::power.TOST(method = "exact", design = "parallel", logscale = FALSE)`. Source: Phillips 1990, *J. Pharmacokinet.
/// Biopharm.* 18(2).
pub fn tost_power(difference: f64, margin: f64, n: usize, level: f64) -> Option<f64> {
    if n < 2 || !difference.is_finite() || !margin.is_finite() || margin <= 0.0 {
        return None;
    }
    let df = 2.0 * count(n) - 2.0;
    let critical = t_quantile(1.0 - level, df)?;
    let error = (2.0 / count(n)).sqrt();
    let room = |s: f64| margin / error - critical * s;
    let inside = |s: f64| normal_cdf(room(s) - difference / error) - normal_cdf(-room(s) - difference / error);
    // Beyond this estimate of the standard deviation no difference passes.
    Some(mean_over_sd(df, margin / error / critical, inside).clamp(0.0, 1.0))
}

/// Fewest values on each side for that power; [`Repetitions::TooMany`] for a difference at or beyond the margin.
pub fn repetitions_for_equivalence(difference: f64, margin: f64, power: f64, level: f64) -> Option<Repetitions> {
    let distance = margin - difference.abs();
    if distance <= 0.0 {
        return Some(Repetitions::TooMany);
    }
    let z = normal_quantile(1.0 - level)? + normal_quantile(power)?;
    search(2.0 * (z / distance).powi(2), |n| {
        tost_power(difference, margin, n, level).is_some_and(|reached| reached >= power)
    })
}

/// Fewest values for which the t interval of their mean is at most ±`half_width` standard deviations wide; `None` unless
/// 0 < `confidence` < 1.
pub fn repetitions_for_half_width(half_width: f64, confidence: f64) -> Option<Repetitions> {
    let z = normal_quantile(0.5 + confidence / 2.0)?;
    search((z / half_width).powi(2), |n| {
        t_quantile(0.5 + confidence / 2.0, count(n) - 1.0).is_some_and(|t| t / count(n).sqrt() <= half_width)
    })
}

/// The least number from 2 on that is enough, near a guess that is rarely far off.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 2 and MOST")]
fn search(guess: f64, enough: impl Fn(usize) -> bool) -> Option<Repetitions> {
    if guess.is_nan() {
        return None;
    }
    if guess > count(MOST) {
        return Some(Repetitions::TooMany);
    }
    let mut high = (guess.ceil() as usize).max(2);
    let mut step = 1;
    let mut low = 1;
    while !enough(high) {
        (low, high, step) = (high, high + step, step * 2);
        if high > MOST {
            return Some(Repetitions::TooMany);
        }
    }
    step = 1;
    while high - low > 1 && low == 1 {
        let below = high.saturating_sub(step).max(2);
        if below == high || !enough(below) {
            low = below;
        } else {
            (high, step) = (below, step * 2);
        }
        if high == 2 {
            break;
        }
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if enough(middle) { high = middle } else { low = middle }
    }
    Some(Repetitions::PerSide(high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_finds_the_least_number() {
        for (guess, least) in [(1.0, 2), (50.0, 50), (50.0, 49), (50.0, 7), (3.0, 90), (2.0, 3), (10.0, 2)] {
            assert_eq!(search(guess, |n| n >= least), Some(Repetitions::PerSide(least)), "{guess} {least}");
        }
        assert_eq!(search(5.0, |_| false), Some(Repetitions::TooMany));
        assert_eq!(search(f64::INFINITY, |_| true), Some(Repetitions::TooMany));
        assert_eq!(search(f64::NAN, |_| true), None);
    }

    #[test]
    fn textbook_numbers() {
        // Cohen 1988, table 2.4.1: d = 0.5, two-sided 0.05, power 0.8: 64.
        assert_eq!(repetitions_for_difference(0.5, 0.8, 0.05), Some(Repetitions::PerSide(64)));
        assert_eq!(repetitions_for_difference(0.0, 0.8, 0.05), Some(Repetitions::TooMany));
        assert_eq!(repetitions_for_equivalence(1.0, 1.0, 0.8, 0.05), Some(Repetitions::TooMany));
        assert!(tost_power(0.0, 1e-3, 5, 0.05).unwrap() < 1e-9);
        assert_eq!(tost_power(0.0, 0.0, 5, 0.05), None);
    }
}
