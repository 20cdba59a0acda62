//! Running statistics of durations in whole microseconds.

use super::visit::Visit;

/// Count, extremes, sum and sum of squares of durations, added in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Samples {
    /// How many.
    pub count: u64,
    /// Smallest, in µs. A later sample replaces a smallest of 0, as in tcptrace.
    pub min: u64,
    /// Largest, in µs.
    pub max: u64,
    /// Sum, in µs.
    pub sum: f64,
    /// Sum of squares, in µs².
    pub sum_of_squares: f64,
}

impl Samples {
    #[inline]
    pub(super) fn add(&mut self, micros: u64) {
        self.count += 1;
        if self.min == 0 || micros < self.min {
            self.min = micros;
        }
        self.max = self.max.max(micros);
        let value = as_f64(micros);
        self.sum += value;
        self.sum_of_squares += value * value;
    }

    /// Mean in µs; `None` without a sample.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / as_f64(self.count))
    }

    /// Sample standard deviation (n − 1) in µs; `None` below two samples. Rounding cannot make it imaginary.
    pub fn deviation(&self) -> Option<f64> {
        let n = as_f64(self.count);
        (self.count > 1).then(|| ((self.sum_of_squares - self.sum * self.sum / n).max(0.0) / (n - 1.0)).sqrt())
    }

    pub(super) fn visit(&mut self, visit: &mut impl Visit) {
        visit.u64(&mut self.count);
        visit.u64(&mut self.min);
        visit.u64(&mut self.max);
        visit.f64(&mut self.sum);
        visit.f64(&mut self.sum_of_squares);
    }
}

/// The nearest double, as C's conversion gives it.
#[inline]
pub(super) fn as_f64(n: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "the definitions of the statistics are in doubles")]
    let value = n as f64;
    value
}
