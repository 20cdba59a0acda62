//! Sums of values with many sets of weights at once: what bootstrap and permutation tests spend their time on.
//!
//! A resample is how often each value was drawn, a deal is 0 or 1 for each value; both are weights that do not depend on the
//! values. So one set serves every metric that was measured in the same iterations, and eight sets are summed side by side.

/// Sets of weights that are summed side by side.
pub const LANES: usize = 8;

/// Weights of some values, in eight sets.
#[derive(Debug, Clone)]
pub struct Weights {
    /// By value, then by set.
    rows: Vec<[f64; LANES]>,
}

/// Columns that share a pass over the weights.
const COLUMNS: usize = 4;

impl Weights {
    /// Eight sets for `n` values, all 0.
    pub fn new(n: usize) -> Self {
        Self { rows: vec![[0.0; LANES]; n] }
    }

    /// Sets all weights to 0.
    pub fn clear(&mut self) {
        self.rows.fill([0.0; LANES]);
    }

    /// Adds one to the weight of a value in a set.
    #[inline]
    pub fn add(&mut self, value: usize, set: usize) {
        self.rows[value][set] += 1.0;
    }

    /// Σ weight·value of each column (as many values as there are weights) in each set, added up in the order of the values.
    pub fn sums(&self, columns: &[&[f64]], sums: &mut Vec<[f64; LANES]>) {
        sums.clear();
        let mut parts = columns.chunks_exact(COLUMNS);
        for four in &mut parts {
            let [a, b, c, d] = four else { unreachable!("chunks of four") };
            sums.extend(fast([a, b, c, d], &self.rows));
        }
        for one in parts.remainder() {
            sums.extend(fast([one], &self.rows));
        }
    }
}

fn fast<const K: usize>(columns: [&[f64]; K], rows: &[[f64; LANES]]) -> [[f64; LANES]; K] {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "wider registers, where the processor has them")]
        // SAFETY: the processor has AVX2, as was just asked.
        return unsafe { wide(columns, rows) };
    }
    plain(columns, rows)
}

/// The same operations in the same order, so the same results to the last bit (no fused multiplications).
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn wide<const K: usize>(columns: [&[f64]; K], rows: &[[f64; LANES]]) -> [[f64; LANES]; K] {
    plain(columns, rows)
}

#[inline(always)]
fn plain<const K: usize>(columns: [&[f64]; K], rows: &[[f64; LANES]]) -> [[f64; LANES]; K] {
    let mut sums = [[0.0; LANES]; K];
    let columns = columns.map(|column| &column[..rows.len()]);
    for (i, row) in rows.iter().enumerate() {
        for (sum, column) in sums.iter_mut().zip(columns) {
            let x = column[i];
            for (s, w) in sum.iter_mut().zip(row) {
                *s += w * x;
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_each_set_alone() {
        let columns: Vec<Vec<f64>> =
            (0..7_u32).map(|c| (0..5_u32).map(|i| f64::from(i * i + c) * 0.1).collect()).collect();
        let mut weights = Weights::new(5);
        for set in 0..LANES {
            weights.add(set % 5, set);
            weights.add((set * 3 + 1) % 5, set);
        }
        let mut sums = Vec::new();
        weights.sums(&columns.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut sums);
        assert_eq!(sums.len(), 7);
        for (column, sums) in columns.iter().zip(&sums) {
            for (set, sum) in sums.iter().enumerate() {
                assert!((sum - column[set % 5] - column[(set * 3 + 1) % 5]).abs() < 1e-14);
            }
        }
        weights.clear();
        weights.sums(&[&columns[0]], &mut sums);
        assert_eq!(sums, [[0.0; LANES]]);
    }
}
