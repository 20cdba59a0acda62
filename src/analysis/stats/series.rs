//! Values in the order in which they were measured: do they depend on each other, do they drift?

use serde::Serialize;

use super::describe::{median, sorted};
use crate::analysis::distribution::{chi2_sf, normal_sf};
use crate::analysis::summary::count;

/// Autocorrelation of a series.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Autocorrelation {
    /// Correlation of each value with the one before it, over the whole variance. Agrees with `statsmodels.tsa.stattools.acf`.
    pub lag1: f64,
    /// Lags that the test looks at: ten, or a fifth of the values if that is less.
    pub lags: usize,
    /// Ljung–Box's statistic.
    pub q: f64,
    /// Probability of at least such a statistic if the values are independent.
    pub p: f64,
}

/// Autocorrelation and Ljung–Box's test; `None` with fewer than five values, equal ones, or one that is not finite.
///
/// χ² is an approximation that needs some thirty values. Agrees with `statsmodels.stats.diagnostic.acorr_ljungbox`.
/// Source: Ljung & Box 1978, *Biometrika* 65(2).
pub fn autocorrelation(values: &[f64]) -> Option<Autocorrelation> {
    let n = values.len();
    let lags = (n / 5).min(10);
    let mean = values.iter().sum::<f64>() / count(n.max(1));
    let centred: Vec<f64> = values.iter().map(|x| x - mean).collect();
    let whole: f64 = centred.iter().map(|x| x * x).sum();
    if lags == 0 || !whole.is_finite() || values.iter().all(|&x| x == values[0]) {
        return None;
    }
    let at = |lag: usize| centred.iter().zip(&centred[lag..]).map(|(a, b)| a * b).sum::<f64>() / whole;
    let sum: f64 = (1..=lags).map(|lag| at(lag).powi(2) / count(n - lag)).sum();
    let q = count(n) * (count(n) + 2.0) * sum;
    Some(Autocorrelation { lag1: at(1), lags, q, p: chi2_sf(q, count(lags))? })
}

/// A monotone trend over run order.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Trend {
    /// Kendall's S: rising pairs minus falling ones.
    pub s: f64,
    /// Mann–Kendall's statistic, corrected for ties and continuity.
    pub z: f64,
    /// Probability of a statistic at least as far from zero if the values are in random order, two-sided.
    pub p: f64,
    /// Theil–Sen's slope: the median of the slopes of all pairs, in the metric's unit per step of `times`.
    pub slope: f64,
}

/// Mann–Kendall's test and Theil–Sen's slope of `values` at ascending `times`, which may have gaps and repeats.
///
/// `None` with fewer than three values, equal ones, a value that is not finite, or lengths that differ. Assumes that without a
/// trend the values are independent: autocorrelation makes the test reject too often. Agrees with
/// `pymannkendall.original_test`, R's `Kendall::MannKendall` and `scipy.stats.theilslopes`; above 2000 values the slope is
/// found by bisection, to 14 digits. Sources: Mann 1945, *Econometrica* 13; Kendall 1975; Sen 1968, *JASA* 63.
pub fn trend(times: &[f64], values: &[f64]) -> Option<Trend> {
    trend_within(times, values, 1.0)
}

/// The same, and `None` when p is above `level`: the slope is the dear part.
pub fn trend_within(times: &[f64], values: &[f64], level: f64) -> Option<Trend> {
    let n = values.len();
    let ordered = sorted(values)?;
    let usable = n >= 3 && times.len() == n && times.iter().all(|t| t.is_finite()) && times.is_sorted();
    if !usable || ordered[0] == ordered[n - 1] {
        return None;
    }
    let s = kendall_s(times, values);
    let ties = |order: &[f64], f: fn(f64) -> f64| runs(order).map(f).sum::<f64>();
    let cubic = |t: f64| t * (t - 1.0) * (2.0 * t + 5.0);
    let (m, (x, y)) = (count(n), (times, ordered.as_slice()));
    // Kendall's variance of S with ties in both.
    let variance = (cubic(m) - ties(x, cubic) - ties(y, cubic)) / 18.0
        + ties(x, triples) * ties(y, triples) / (9.0 * m * (m - 1.0) * (m - 2.0))
        + ties(x, pairs) * ties(y, pairs) / (2.0 * m * (m - 1.0));
    let z = (s - s.signum() * f64::from(s != 0.0)) / variance.sqrt();
    let p = (2.0 * normal_sf(z.abs())).min(1.0);
    if !z.is_finite() || p > level {
        return None;
    }
    Some(Trend { s, z, p, slope: theil_sen(times, values)? })
}

fn triples(t: f64) -> f64 {
    t * (t - 1.0) * (t - 2.0)
}

fn pairs(t: f64) -> f64 {
    t * (t - 1.0)
}

/// Lengths of runs of equal values.
fn runs(ordered: &[f64]) -> impl Iterator<Item = f64> {
    ordered.chunk_by(|a, b| a == b).map(|run| count(run.len()))
}

/// Rising minus falling pairs of different times, in n log n steps.
fn kendall_s(times: &[f64], values: &[f64]) -> f64 {
    // Within one time values are put in falling order, so that its pairs never rise; then in rising order, so that they never
    // fall.
    let arranged = |rising: bool| -> Vec<f64> {
        let mut start = 0;
        let mut all = Vec::with_capacity(values.len());
        for run in times.chunk_by(|a, b| a == b) {
            let mut part = values[start..start + run.len()].to_vec();
            part.sort_unstable_by(|a, b| if rising { a.total_cmp(b) } else { b.total_cmp(a) });
            start += run.len();
            all.extend(part);
        }
        all
    };
    let falling = inversions(&arranged(true));
    let mirrored: Vec<f64> = arranged(false).iter().map(|x| -x).collect();
    count(inversions(&mirrored)) - count(falling)
}

/// Pairs whose later value is less.
fn inversions(values: &[f64]) -> usize {
    fn sort(values: &mut [f64], spare: &mut [f64]) -> usize {
        let n = values.len();
        if n < 2 {
            return 0;
        }
        let (left, right) = values.split_at_mut(n / 2);
        let mut found = sort(left, spare) + sort(right, spare);
        let (mut i, mut j) = (0, 0);
        for slot in &mut spare[..n] {
            if j == right.len() || (i < left.len() && left[i] <= right[j]) {
                *slot = left[i];
                i += 1;
            } else {
                found += left.len() - i;
                *slot = right[j];
                j += 1;
            }
        }
        values.copy_from_slice(&spare[..n]);
        found
    }
    let mut values = values.to_vec();
    let mut spare = values.clone();
    sort(&mut values, &mut spare)
}

/// Series up to this length have all their slopes listed.
const LISTED: usize = 2000;

fn theil_sen(times: &[f64], values: &[f64]) -> Option<f64> {
    let slope = |i: usize, j: usize| (values[j] - values[i]) / (times[j] - times[i]);
    let n = values.len();
    if n <= LISTED {
        let all = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).filter(|&(i, j)| times[j] > times[i]);
        let slopes: Vec<f64> = all.map(|(i, j)| slope(i, j)).collect();
        return median(&sorted(&slopes)?);
    }
    let different =
        n * (n - 1) / 2 - times.chunk_by(|a, b| a == b).map(|run| run.len() * (run.len() - 1) / 2).sum::<usize>();
    // No two values differ by more than this, and no two different times by less than that.
    let reach = values.iter().fold(0.0_f64, |most, x| most.max((x - values[0]).abs())) * 2.0;
    let gap = times.windows(2).map(|w| w[1] - w[0]).filter(|&gap| gap > 0.0).fold(f64::INFINITY, f64::min);
    let (low, high) = (-reach / gap, reach / gap);
    if different == 0 || !high.is_finite() {
        return None;
    }
    let ranked = |rank: usize| bisect(low, high, |t| slopes_below(times, values, t) >= rank);
    let middle = different / 2;
    Some(if different % 2 == 1 { ranked(middle + 1) } else { f64::midpoint(ranked(middle), ranked(middle + 1)) })
}

/// The least number, to rounding, for which `reached` holds.
fn bisect(mut low: f64, mut high: f64, reached: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            break;
        }
        if reached(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// Pairs of different times whose slope is less than `t`.
fn slopes_below(times: &[f64], values: &[f64], t: f64) -> usize {
    let mut tilted: Vec<f64> = times.iter().zip(values).map(|(x, y)| y - t * (x - times[0])).collect();
    let mut start = 0;
    for run in times.chunk_by(|a, b| a == b) {
        tilted[start..start + run.len()].sort_unstable_by(f64::total_cmp);
        start += run.len();
    }
    inversions(&tilted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::stats::random::Random;

    fn order(n: u32) -> Vec<f64> {
        (0..n).map(f64::from).collect()
    }

    #[test]
    fn what_cannot_be_said_is_none() {
        assert_eq!(autocorrelation(&[1.0, 2.0, 3.0, 4.0]), None);
        assert_eq!(autocorrelation(&[2.0; 30]), None);
        assert_eq!(autocorrelation(&[1.0, 2.0, f64::NAN, 4.0, 5.0]), None);
        assert_eq!(trend(&order(5), &[1.0; 5]), None);
        assert_eq!(trend(&order(2), &[1.0, 2.0]), None);
        assert_eq!(trend(&[0.0; 4], &[1.0, 2.0, 3.0, 4.0]), None, "all at one time");
        assert_eq!(trend(&order(3), &[1.0, f64::INFINITY, 2.0]), None);
    }

    #[test]
    fn a_drift_is_seen() {
        let rising = trend(&order(10), &[1.0, 1.5, 1.4, 2.0, 2.2, 2.1, 2.6, 3.0, 2.9, 3.3]).unwrap();
        assert!(rising.p < 1e-3 && rising.slope > 0.2, "{rising:?}");
        let values = [1.0, 3.0, 2.0, 1.5, 2.5];
        let weak = trend(&order(5), &values).unwrap();
        assert_eq!(trend_within(&order(5), &values, weak.p), Some(weak));
        assert_eq!(trend_within(&order(5), &values, weak.p - 1e-9), None);
    }

    #[test]
    fn long_series_give_the_slope_of_short_ones() {
        let mut random = Random::new(5, &[]);
        let values: Vec<f64> = (0..2001).map(|_| random.normal()).collect();
        let times: Vec<f64> = (0..2001_u32).map(|i| f64::from(i / 3)).collect();
        let long = theil_sen(&times, &values).unwrap();
        let slopes: Vec<f64> = (0..2001_usize)
            .flat_map(|i| (i + 1..2001).map(move |j| (i, j)))
            .filter(|&(i, j)| times[j] > times[i])
            .map(|(i, j)| (values[j] - values[i]) / (times[j] - times[i]))
            .collect();
        let listed = median(&sorted(&slopes).unwrap()).unwrap();
        assert!((long - listed).abs() <= 1e-12 * listed.abs(), "{long} {listed}");
    }
}
