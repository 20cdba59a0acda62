use serde::Serialize;

use super::CONFIDENCE;
use super::distribution::t_quantile;

/// An interval with its ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Number, mean and spread of independent values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// How many values.
    pub n: usize,
    /// Arithmetic mean; `None` without a value.
    pub mean: Option<f64>,
    /// Standard deviation with n−1; `None` with fewer than two values, 0 when all are equal.
    pub sd: Option<f64>,
    /// 95 % interval of the mean by Student's t; `None` with fewer than two values, or when all are equal: that no
    /// spread was seen does not mean that there is none.
    pub ci95: Option<Interval>,
}

impl Summary {
    /// Summary of `values`; every field but `n` is `None` when one of them is not finite, or a result is not.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len();
        let mean = mean(values);
        let sd = mean.and_then(|mean| sd(values, mean));
        let ci95 = mean.zip(sd).and_then(|(mean, sd)| {
            let half = t_quantile(0.5 + CONFIDENCE / 2.0, count(n) - 1.0)? * sd / count(n).sqrt();
            interval(mean - half, mean + half).filter(|_| sd > 0.0)
        });
        Self { n, mean, sd, ci95 }
    }

    /// Variance of the mean; `None` with fewer than two values.
    pub(super) fn variance_of_mean(&self) -> Option<f64> {
        self.sd.map(|sd| sd * sd / count(self.n))
    }
}

/// `None` when an end is not finite.
pub(super) fn interval(low: f64, high: f64) -> Option<Interval> {
    (low.is_finite() && high.is_finite()).then_some(Interval { low, high })
}

#[expect(clippy::cast_precision_loss, reason = "nobody runs 2^53 iterations")]
pub(super) fn count(n: usize) -> f64 {
    n as f64
}

fn mean(values: &[f64]) -> Option<f64> {
    let first = *values.first()?;
    // Sums of differences from one of the values keep the digits that sums of large values lose.
    let shift: f64 = values.iter().map(|x| x - first).sum::<f64>() / count(values.len());
    Some(first + shift).filter(|mean| mean.is_finite())
}

/// Two passes with the correction for the rounding of the mean (Chan, Golub, LeVeque 1983, eq. 1.7).
fn sd(values: &[f64], mean: f64) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    if values.iter().all(|&x| x == values[0]) {
        return Some(0.0);
    }
    let n = count(values.len());
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    let rest: f64 = values.iter().map(|x| x - mean).sum();
    Some(((squares - rest * rest / n) / (n - 1.0)).sqrt()).filter(|sd| sd.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_said_is_none() {
        assert_eq!(Summary::of(&[]), Summary { n: 0, mean: None, sd: None, ci95: None });
        assert_eq!(Summary::of(&[3.5]), Summary { n: 1, mean: Some(3.5), sd: None, ci95: None });
        assert_eq!(Summary::of(&[0.1; 7]), Summary { n: 7, mean: Some(0.1), sd: Some(0.0), ci95: None });
        assert_eq!(Summary::of(&[1.0, f64::NAN]), Summary { n: 2, mean: None, sd: None, ci95: None });
        assert_eq!(Summary::of(&[1.0, f64::INFINITY]).mean, None);
    }

    #[test]
    fn large_values_keep_their_spread() {
        // Same spread as 4, 7, 13, 16: variance 30.
        let summary = Summary::of(&[1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0]);
        assert_eq!(summary.mean, Some(1e9 + 10.0));
        assert!((summary.sd.unwrap() - 30_f64.sqrt()).abs() < 1e-12);
    }
}
