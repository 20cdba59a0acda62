//! Intervals from resamples, corrected for bias and acceleration.

use super::describe::quantile;
use crate::analysis::Interval;
use crate::analysis::distribution::{normal_cdf, normal_quantile};
use crate::analysis::summary::{count, interval};

/// What the acceleration is made of, for one of the samples a statistic is made of.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Influence {
    squares: f64,
    cubes: f64,
}

impl Influence {
    /// From the statistic without each value in turn.
    pub fn of_jackknife(without: impl ExactSizeIterator<Item = f64> + Clone) -> Self {
        let n = count(without.len());
        let first = without.clone().next().unwrap_or(0.0);
        let mean = first + without.clone().map(|x| x - first).sum::<f64>() / n;
        let power = |k: i32| without.clone().map(|x| ((n - 1.0) * (mean - x)).powi(k)).sum::<f64>() / n.powi(k);
        Self { squares: power(2), cubes: power(3) }
    }

    /// Of the mean of `values`, times `sign`: leaving a value out moves a mean by its distance from the mean.
    pub fn of_mean(values: &[f64], mean: f64, sign: f64) -> Self {
        let n = count(values.len());
        let power = |k: i32| values.iter().map(|x| (sign * (x - mean)).powi(k)).sum::<f64>() / n.powi(k);
        Self { squares: power(2), cubes: power(3) }
    }

    /// The acceleration of a statistic of two samples; `None` when no value has any influence.
    pub fn acceleration(self, other: Self) -> Option<f64> {
        let squares = self.squares + other.squares;
        Some((self.cubes + other.cubes) / (6.0 * squares.powf(1.5))).filter(|a| a.is_finite() && squares > 0.0)
    }
}

/// The bias-corrected and accelerated bootstrap interval of a statistic that was `observed`, from its value in each resample.
///
/// `None` when the observed value lies outside all resamples or one of them is not finite: then nothing is known of the bias.
/// Brings `resampled` into another order. Agrees with `scipy.stats.bootstrap(method="BCa")` on the same resamples
/// (which takes those that equal the observed value but for rounding as they happen to come out). With fewer
/// than about ten values it covers less than it says (docs/analysis.md has figures), which is why no verdict rests on it.
/// Source: Efron 1987, *JASA* 82; jackknife over several samples as in Efron & Tibshirani 1993, *An Introduction to the
/// Bootstrap*, ch. 14.
pub fn bca(observed: f64, resampled: &mut [f64], acceleration: f64, confidence: f64) -> Option<Interval> {
    let farthest = resampled.iter().map(|value| (value - observed).abs()).fold(0.0, f64::max);
    if !resampled.iter().all(|value| value.is_finite()) || !farthest.is_finite() {
        return None;
    }
    // Resamples that are equal but for rounding count half on either side.
    let slack = 1e-12 * farthest;
    let less = resampled.iter().filter(|&&value| value < observed - slack).count();
    let equal = resampled.iter().filter(|&&value| (value - observed).abs() <= slack).count();
    let bias = normal_quantile((count(less) + 0.5 * count(equal)) / count(resampled.len()))?;
    let tail = normal_quantile(0.5 - confidence / 2.0)?;
    let place = |z: f64| normal_cdf(bias + (bias + z) / (1.0 - acceleration * (bias + z)));
    let (low, high) = (place(tail), place(-tail));
    let (low, high) = (selected(resampled, low)?, selected(resampled, high)?);
    interval(low, high)
}

/// Quantile of values in any order, by selection.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place between 0 and n-1")]
fn selected(values: &mut [f64], p: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    if !(0.0..=1.0).contains(&p) {
        return None;
    }
    let below = ((p * count(last)) as usize).min(last);
    let (_, &mut low, above) = values.select_nth_unstable_by(below, f64::total_cmp);
    let high = above.iter().copied().reduce(f64::min).unwrap_or(low);
    let part = p * count(last) - count(below);
    // The two neighbours are all that the place between them needs.
    quantile(&[low, high], part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::stats::random::Random;

    #[test]
    fn selection_is_the_quantile() {
        let mut random = Random::new(9, &[]);
        let mut values: Vec<f64> = (0..101).map(|_| random.normal()).collect();
        let mut sorted = values.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        for p in [0.0, 0.013, 0.5, 0.999, 1.0] {
            let (ours, expected) = (selected(&mut values, p).unwrap(), quantile(&sorted, p).unwrap());
            assert!((ours - expected).abs() < 1e-14, "{p}");
        }
        assert_eq!(selected(&mut values, f64::NAN), None);
    }

    #[test]
    fn without_bias_or_acceleration_it_is_the_percentile_interval() {
        let mut values: Vec<f64> = (0..=1000).map(f64::from).collect();
        let ci = bca(500.0, &mut values, 0.0, 0.9).unwrap();
        assert!((ci.low - 50.0).abs() < 1e-9 && (ci.high - 950.0).abs() < 1e-9, "{ci:?}");
        assert_eq!(bca(-1.0, &mut values, 0.0, 0.9), None);
        values[3] = f64::NAN;
        assert_eq!(bca(500.0, &mut values, 0.0, 0.9), None);
    }
}
