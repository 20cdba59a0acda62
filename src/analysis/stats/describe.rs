//! What one sample looks like.

use serde::Serialize;

use crate::analysis::summary::count;

/// `values` in ascending order; `None` when one of them is not finite. Everything that works on ranks starts here.
pub fn sorted(values: &[f64]) -> Option<Vec<f64>> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.iter().all(|x| x.is_finite()).then_some(sorted)
}

/// Quantile `p` (0 to 1) of ascending values, linear between the neighbours at place p·(n−1); `None` without a value.
///
/// Type 7 of Hyndman & Fan 1996, *Am. Stat.* 50(4). Agrees with `numpy.quantile` and R's `quantile` by their defaults.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place between 0 and n-1")]
pub fn quantile(sorted: &[f64], p: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = p.clamp(0.0, 1.0) * count(last);
    let below = (place as usize).min(last);
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    let part = place - count(below);
    // As numpy does: from the nearer end, so that equal neighbours give themselves.
    Some(if part >= 0.5 { high - (high - low) * (1.0 - part) } else { low + (high - low) * part })
}

/// Median of ascending values. Agrees with `numpy.median`.
pub fn median(sorted: &[f64]) -> Option<f64> {
    let n = sorted.len();
    let upper = *sorted.get(n / 2)?;
    Some(if n % 2 == 1 { upper } else { f64::midpoint(sorted[n / 2 - 1], upper) })
}

/// Median distance from the median, without any factor; `None` without a value.
///
/// Agrees with `scipy.stats.median_abs_deviation` (scale 1). Source: Hampel 1974, *JASA* 69.
pub fn mad(sorted: &[f64]) -> Option<f64> {
    let middle = median(sorted)?;
    let mut distances: Vec<f64> = sorted.iter().map(|x| (x - middle).abs()).collect();
    distances.sort_unstable_by(f64::total_cmp);
    median(&distances)
}

/// A step of the empirical distribution function.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Step {
    /// Where it rises.
    pub value: f64,
    /// Share of the values that are at most `value`.
    pub share: f64,
}

/// The empirical distribution function of ascending values: one step for each different value.
///
/// Agrees with `scipy.stats.ecdf`.
pub fn ecdf(sorted: &[f64]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (i, &value) in sorted.iter().enumerate() {
        let share = count(i + 1) / count(sorted.len());
        match steps.last_mut() {
            Some(last) if last.value == value => last.share = share,
            _ => steps.push(Step { value, share }),
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_said_is_none() {
        assert_eq!((quantile(&[], 0.5), median(&[]), mad(&[])), (None, None, None));
        assert_eq!((quantile(&[4.0], 0.9), median(&[4.0]), mad(&[4.0])), (Some(4.0), Some(4.0), Some(0.0)));
        assert_eq!(sorted(&[1.0, f64::NAN]), None);
        assert_eq!(sorted(&[1.0, f64::NEG_INFINITY]), None);
        assert!(ecdf(&[]).is_empty());
    }

    #[test]
    fn equal_values_make_one_step() {
        let steps = ecdf(&[1.0, 2.0, 2.0, 5.0]);
        let shares: Vec<_> = steps.iter().map(|step| (step.value, step.share)).collect();
        assert_eq!(shares, [(1.0, 0.25), (2.0, 0.75), (5.0, 1.0)]);
    }
}
