//! Values far from the others of their group.

use serde::Serialize;

use crate::analysis::distribution::t_two_sided;
use crate::analysis::stats::describe::{mad, median, sorted};
use crate::analysis::summary::count;

/// Fewest values of a group of which one can be said to lie far out.
pub const FEWEST: usize = 8;

/// A median distance of 1 is a standard deviation of this in normal values.
const MAD_TO_SD: f64 = 1.482_602_218_505_602;

/// How far out a value lies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Far {
    /// The value.
    pub value: f64,
    /// Median of its group.
    pub median: f64,
    /// Distance from it in robust standard deviations (1.4826 median absolute deviations), with its sign.
    pub distance: f64,
    /// Probability that any of all values looked at lies so far out, at most, in data without a fault.
    pub p: f64,
}

/// Where the middle of a group is and how wide, on one scale.
#[derive(Debug, Clone, Copy)]
struct Scale {
    middle: f64,
    width: f64,
    df: f64,
}

/// A group ready to be asked which of its values lie far out.
#[derive(Debug, Clone)]
pub(in crate::analysis) struct Group {
    values: Vec<f64>,
    plain: Scale,
    /// After stretching, where that can be.
    stretched: Option<(Stretch, Scale)>,
}

/// Brings values that are skewed to the right nearer to normal ones.
#[derive(Debug, Clone, Copy)]
enum Stretch {
    /// The logarithm, of values that are all positive.
    Log,
    /// The root, where some are 0.
    Root,
}

impl Stretch {
    fn of(values: &[f64]) -> Option<Self> {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        if least > 0.0 { Some(Self::Log) } else { (least == 0.0).then_some(Self::Root) }
    }

    fn apply(self, x: f64) -> f64 {
        match self {
            Self::Log => x.ln(),
            Self::Root => x.sqrt(),
        }
    }
}

impl Scale {
    /// `None` when more than half of the values are equal: there is nothing to measure by.
    fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values)?;
        let (middle, width) = (median(&sorted)?, MAD_TO_SD * mad(&sorted)?);
        (width > 0.0).then(|| Self { middle, width, df: degrees_of_freedom(sorted.len()) })
    }

    fn distance(&self, x: f64) -> f64 {
        (x - self.middle) / self.width
    }

    fn p(&self, x: f64) -> Option<f64> {
        t_two_sided(self.distance(x), self.df)
    }
}

/// Those of a t distribution that bounds how far a normal value lies from its group's median in robust standard deviations.
///
/// The median absolute deviation of n values is as uncertain as a standard deviation of 0.3674·n (Hampel 1974, *JASA* 69; its
/// efficiency). That holds for many values; simulated rates are in docs/analysis.md.
fn degrees_of_freedom(n: usize) -> f64 {
    0.3674 * count(n - 1)
}

impl Group {
    /// `None` for a group with too few values, one that is not finite, or more than half of them equal.
    pub(in crate::analysis) fn of(values: &[f64]) -> Option<Self> {
        if values.len() < FEWEST {
            return None;
        }
        let plain = Scale::of(values)?;
        let stretched = Stretch::of(values).and_then(|stretch| {
            let values: Vec<f64> = values.iter().map(|&x| stretch.apply(x)).collect();
            Some((stretch, Scale::of(&values)?))
        });
        Some(Self { values: values.to_vec(), plain, stretched })
    }

    /// Places of values that lie far out when `looked_at` values are looked at in all, with a probability of `alpha` of any in data
    /// without a fault.
    ///
    /// A value must lie far out by itself and, where all of its group are positive, by its logarithm, or where some are 0, by its
    /// root: so neither normal values nor those skewed to the right, up to log-normal, raise more false alarms than stated.
    pub(in crate::analysis) fn beyond(&self, alpha: f64, looked_at: usize) -> Vec<(usize, Far)> {
        let p = |x: f64| {
            let plain = self.plain.p(x)?;
            let stretched = self.stretched.and_then(|(stretch, scale)| scale.p(stretch.apply(x)));
            Some(stretched.map_or(plain, |stretched| plain.max(stretched)))
        };
        let far = |(place, &value): (usize, &f64)| {
            // Nothing near the middle needs a distribution.
            if self.plain.distance(value).abs() < 3.0 {
                return None;
            }
            let p = (p(value)? * count(looked_at)).min(1.0);
            let far = Far { value, median: self.plain.middle, distance: self.plain.distance(value), p };
            (p <= alpha).then_some((place, far))
        };
        self.values.iter().enumerate().filter_map(far).collect()
    }
}
