//! Numbers that look random and depend on nothing but their place: the same for every run, machine and number of threads.

/// Step of SplitMix64: the odd number nearest to 2⁶⁴/φ.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of random numbers: the n-th one is a function of the key and n alone.
///
/// SplitMix64 counted up from the key. Source: Steele, Lea & Flood 2014, *OOPSLA*, fig. 17; passes BigCrush. Not for secrets.
/// `tests/reference/streams.py` makes the same numbers.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of `seed` and the numbers that tell its use from others.
    pub fn new(seed: u64, place: &[u64]) -> Self {
        let key = place.iter().fold(mix(seed), |key, &part| mix(key ^ mix(part.wrapping_add(STEP))));
        Self { state: key }
    }

    /// Passes over `n` numbers.
    pub fn skip(&mut self, n: u64) {
        self.state = self.state.wrapping_add(STEP.wrapping_mul(n));
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// A number below `limit` (not 0), by multiplication of 64 bits: no number is favoured by more than `limit`/2⁶⁴.
    /// Source: Lemire 2019, *ACM TOMACS* 29(1), without the rejection.
    #[inline]
    pub fn below(&mut self, limit: usize) -> usize {
        high(u128::from(self.next_u64()) * limit as u128)
    }

    /// Uniform in [0, 1), in steps of 2⁻⁵³.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Standard normal, two numbers of the stream for each. Source: Box & Muller 1958, *Ann. Math. Stat.* 29.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Brings `items` into random order (Fisher–Yates from the end).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[inline]
fn high(product: u128) -> usize {
    usize::try_from(product >> 64).expect("below a usize")
}

#[inline]
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_passed_over_are_those_not_taken() {
        let (mut taken, mut skipped) = (Random::new(3, &[1]), Random::new(3, &[1]));
        for _ in 0..1000 {
            taken.next_u64();
        }
        skipped.skip(1000);
        assert_eq!(taken.next_u64(), skipped.next_u64());
    }

    #[test]
    fn numbers_are_those_of_splitmix64() {
        // First outputs of the reference implementation (prng.di.unimi.it/splitmix64.c) for the state 1234567.
        let mut random = Random { state: 1_234_567 };
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn places_and_ranges() {
        assert_ne!(Random::new(1, &[2, 3]).next_u64(), Random::new(1, &[3, 2]).next_u64());
        assert_ne!(Random::new(1, &[0]).next_u64(), Random::new(1, &[]).next_u64());
        let mut random = Random::new(1, &[]);
        let mut seen = [0; 7];
        (0..7000).for_each(|_| seen[random.below(7)] += 1);
        assert!(seen.iter().all(|n| (880..1120).contains(n)), "{seen:?}");
        let mut order: Vec<usize> = (0..50).collect();
        random.shuffle(&mut order);
        assert!(!order.is_sorted());
        order.sort_unstable();
        assert!(order.into_iter().eq(0..50));
    }
}
