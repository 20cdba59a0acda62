//! The order of iterations: shuffles that are the same on every machine and in every version.
//!
//! `ChaCha8` with the seed of the spec, one stream for each block, Fisher–Yates from the end, indices as remainders of
//! 64-bit numbers with those rejected that would favour small remainders. None of it comes from the `rand` crate, whose
//! sampling has changed between versions; test vectors pin it here.

use std::num::NonZeroU32;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::Slot;
use crate::spec::Order;

/// Stream of the shuffle of everything; blocks use the stream of their own number, from 1.
const WHOLE: u64 = 0;

/// All iterations of `tuples` tuples in run order.
pub(super) fn iterations(order: Order, seed: u64, tuples: u32, repetitions: u32) -> Vec<Slot> {
    match order {
        Order::Blocked => blocked(seed, tuples, repetitions),
        Order::Sequential => sequential(tuples, repetitions),
        Order::Shuffled => {
            let mut slots = sequential(tuples, repetitions);
            Shuffler::new(seed, WHOLE).shuffle(&mut slots);
            slots
        }
    }
}

/// Every block has one repetition of each tuple, in an order that depends on seed and block alone.
fn blocked(seed: u64, tuples: u32, repetitions: u32) -> Vec<Slot> {
    let mut slots = Vec::with_capacity(tuples as usize * repetitions as usize);
    for block in 1..=repetitions {
        let start = slots.len();
        let slot = |tuple| Slot { tuple, repetition: block, block: NonZeroU32::new(block) };
        slots.extend((0..tuples).map(slot));
        Shuffler::new(seed, u64::from(block)).shuffle(&mut slots[start..]);
    }
    slots
}

fn sequential(tuples: u32, repetitions: u32) -> Vec<Slot> {
    let of_tuple = |tuple| (1..=repetitions).map(move |repetition| Slot { tuple, repetition, block: None });
    (0..tuples).flat_map(of_tuple).collect()
}

/// A source of shuffles.
struct Shuffler(ChaCha8Rng);

impl Shuffler {
    fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// Fisher–Yates from the end.
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.up_to(last));
        }
    }

    /// A number in `0..=last`, each as likely as the other.
    fn up_to(&mut self, last: usize) -> usize {
        let bound = last as u64 + 1;
        // 2^64 mod bound: as many numbers at the top belong to no full round of remainders.
        let excess = bound.wrapping_neg() % bound;
        loop {
            let number = self.0.next_u64();
            if number <= u64::MAX - excess {
                return usize::try_from(number % bound).expect("below the length of a slice");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shuffled(seed: u64, stream: u64, n: u8) -> Vec<u8> {
        let mut items: Vec<u8> = (0..n).collect();
        Shuffler::new(seed, stream).shuffle(&mut items);
        items
    }

    /// A changed vector breaks every campaign that was begun: never adapt it to the code.
    #[test]
    fn shuffles_are_pinned() {
        assert_eq!(shuffled(42, 0, 10), [1, 5, 9, 6, 3, 2, 0, 8, 4, 7]);
    }

    #[test]
    fn a_longer_campaign_begins_with_the_shorter_one() {
        let short = iterations(Order::Blocked, 7, 50, 3);
        let long = iterations(Order::Blocked, 7, 50, 5);
        assert_eq!(long[..150], short[..]);
        assert_ne!(order_of(&long[..50]), order_of(&long[50..100]));
    }

    fn order_of(slots: &[Slot]) -> Vec<u32> {
        slots.iter().map(|slot| slot.tuple).collect()
    }

    #[test]
    fn every_permutation_is_as_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..60_000 {
            *counts.entry(shuffled(seed, 0, 4)).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 24);
        // Chi-squared with 23 degrees of freedom; 0.999 quantile 49.7. The seeds are fixed, so is the result.
        let expected = 2500.0;
        let chi2: f64 = counts.values().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        assert!(chi2 < 49.7, "{chi2}");
    }

    proptest! {
        #[test]
        fn every_order_is_a_permutation(seed: u64, tuples in 1u32..40, repetitions in 1u32..6) {
            for order in [Order::Blocked, Order::Shuffled, Order::Sequential] {
                let mut all: Vec<(u32, u32)> =
                    iterations(order, seed, tuples, repetitions).iter().map(|s| (s.tuple, s.repetition)).collect();
                all.sort_unstable();
                let expected: Vec<(u32, u32)> =
                    (0..tuples).flat_map(|t| (1..=repetitions).map(move |r| (t, r))).collect();
                prop_assert_eq!(all, expected);
            }
        }

        #[test]
        fn each_block_has_every_tuple_once(seed: u64, tuples in 1u32..40, repetitions in 1u32..6) {
            let slots = iterations(Order::Blocked, seed, tuples, repetitions);
            for (block, slots) in (1..).zip(slots.chunks(tuples as usize)) {
                let mut seen = order_of(slots);
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..tuples).collect::<Vec<_>>());
                prop_assert!(slots.iter().all(|s| s.block == NonZeroU32::new(block) && s.repetition == block));
            }
        }
    }
}
