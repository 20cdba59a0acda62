//! Means of resamples.

use super::random::Random;
use super::weights::{LANES, Weights};
use crate::analysis::summary::count;

/// Which of the streams of random numbers a sample is drawn with. Two samples that are compared must have different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream(pub u64);

/// Tells the streams of resamples from those of other uses.
const USE: u64 = 1;

/// For each of `columns`, samples of one size measured in the same iterations, the means of `resamples` resamples with
/// replacement, minus the column's mean.
///
/// All columns share the same draws: each mean is distributed as it should be, and means of different columns are as dependent
/// as the columns are. Resample `r` of a stream is the same whatever the columns, the processor and the number of threads:
/// value `below(n)` of `Random::new(seed, [1, stream, r])`, n times. Columns must be finite, and centred for their digits' sake.
pub fn resampled_means(columns: &[&[f64]], resamples: usize, seed: u64, stream: Stream) -> Vec<Vec<f64>> {
    let Some(n) = columns.first().map(|column| column.len()) else { return Vec::new() };
    let mut means = vec![Vec::with_capacity(resamples.next_multiple_of(LANES)); columns.len()];
    let mut weights = Weights::new(n);
    let mut sums = Vec::new();
    for first in (0..resamples).step_by(LANES) {
        weights.clear();
        for set in 0..LANES {
            let mut random = Random::new(seed, &[USE, stream.0, (first + set) as u64]);
            (0..n).for_each(|_| weights.add(random.below(n), set));
        }
        weights.sums(columns, &mut sums);
        for (means, sums) in means.iter_mut().zip(&sums) {
            means.extend(sums.iter().map(|sum| sum / count(n)));
        }
    }
    means.iter_mut().for_each(|means| means.truncate(resamples));
    means
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_do_not_disturb_each_other() {
        let columns: Vec<Vec<f64>> = (0..6_u32).map(|c| (0..9_u32).map(|i| f64::from(i * c) - 3.0).collect()).collect();
        let all: Vec<&[f64]> = columns.iter().map(Vec::as_slice).collect();
        let together = resampled_means(&all, 101, 7, Stream(2));
        for (column, means) in all.iter().zip(&together) {
            assert_eq!(&resampled_means(&[column], 101, 7, Stream(2))[0], means);
        }
        assert_ne!(resampled_means(&[all[1]], 101, 7, Stream(3))[0], together[1]);
        assert_eq!(together[0], [-3.0; 101], "a constant stays");
        assert!(resampled_means(&[], 10, 1, Stream(0)).is_empty());
    }
}
