//! Sentinels: one tuple that is run again and again between all others, so that a host which drifts is seen.

use std::num::NonZeroU32;

use super::{Plan, PlannedTuple, Slot};
use crate::ids::{IterationNumber, ShortHash};
use crate::spec::{Spec, Tuple, Value};

impl Slot {
    /// The block of a sentinel, which is in none; no plan has so many blocks.
    pub const SENTINEL: NonZeroU32 = NonZeroU32::MAX;

    /// Is it a sentinel, and no repetition of its tuple?
    pub fn is_sentinel(&self) -> bool {
        self.block == Some(Self::SENTINEL)
    }
}

/// Identity of the `n`-th sentinel, from 1: hash of the text `ID#sentinel-N`, so that it is no repetition of its tuple.
pub fn sentinel_identity(tuple: ShortHash, n: u32) -> ShortHash {
    ShortHash::of(format!("{tuple}#sentinel-{n}").as_bytes())
}

/// The tuple that sentinels run: the first one with the values that the spec names, else with the baseline's, else the first.
/// `None` without sentinels, or when no tuple has these values.
pub(super) fn tuple(spec: &Spec, tuples: &[PlannedTuple]) -> Option<u32> {
    let sentinel = spec.sentinel.as_ref()?;
    let has = |tuple: &Tuple, (name, value): &(String, Value)| tuple.get(name) == Some(value);
    let first = |wanted: &[(String, Value)]| {
        let at = tuples.iter().position(|planned| wanted.iter().all(|one| has(&planned.tuple, one)))?;
        u32::try_from(at).ok()
    };
    if !sentinel.tuple.is_empty() {
        return first(&sentinel.tuple);
    }
    let baseline = spec.analysis.baseline.as_ref();
    baseline.and_then(|baseline| first(std::slice::from_ref(baseline))).or_else(|| first(&[]))
}

/// Puts a sentinel before the first iteration, after each further `every`, and after the last.
pub(super) fn interleave(iterations: &[Slot], tuple: u32, every: u32) -> Vec<Slot> {
    let every = usize::try_from(every).unwrap_or(usize::MAX).max(1);
    let mut all = Vec::with_capacity(iterations.len() + iterations.len().div_ceil(every) + 1);
    let mut repetition = 0;
    let mut sentinel = || {
        repetition += 1;
        Slot { tuple, repetition, block: Some(Slot::SENTINEL) }
    };
    for chunk in iterations.chunks(every) {
        all.push(sentinel());
        all.extend_from_slice(chunk);
    }
    all.push(sentinel());
    all
}

impl Plan {
    /// How many sentinels the plan has.
    pub fn sentinels(&self) -> usize {
        self.iterations.iter().filter(|slot| slot.is_sentinel()).count()
    }

    /// Numbers of the iterations between the sentinel `number` and the one before; empty for the first sentinel and for what is none.
    pub fn watched_by(&self, number: IterationNumber) -> Vec<IterationNumber> {
        let at = usize::try_from(number.0).ok().and_then(|n| n.checked_sub(1));
        let Some(at) = at.filter(|&at| self.iterations.get(at).is_some_and(|slot| slot.is_sentinel())) else {
            return Vec::new();
        };
        let before = self.iterations[..at].iter().rev().take_while(|slot| !slot.is_sentinel()).count();
        let first = number.0 - u32::try_from(before).expect("fewer than its number");
        (first..number.0).map(IterationNumber).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(n: u32) -> Vec<Slot> {
        (0..n).map(|i| Slot { tuple: i, repetition: 1, block: None }).collect()
    }

    /// `S` for sentinels, `.` for others.
    fn drawn(n: u32, every: u32) -> String {
        interleave(&slots(n), 7, every).iter().map(|slot| if slot.is_sentinel() { 'S' } else { '.' }).collect()
    }

    #[test]
    fn sentinels_stand_at_both_ends_and_between() {
        assert_eq!(drawn(4, 2), "S..S..S");
        assert_eq!(drawn(5, 2), "S..S..S.S");
        assert_eq!(drawn(3, 1), "S.S.S.S");
        assert_eq!(drawn(3, 100), "S...S");
        let all = interleave(&slots(5), 7, 2);
        let sentinels: Vec<_> = all.iter().filter(|slot| slot.is_sentinel()).map(|s| (s.tuple, s.repetition)).collect();
        assert_eq!(sentinels, [(7, 1), (7, 2), (7, 3), (7, 4)]);
        let others: Vec<Slot> = all.into_iter().filter(|slot| !slot.is_sentinel()).collect();
        assert_eq!(others, slots(5));
    }

    #[test]
    fn a_sentinel_is_no_repetition() {
        let tuple = ShortHash::of(b"any");
        assert_eq!(sentinel_identity(tuple, 12), ShortHash::of(format!("{tuple}#sentinel-12").as_bytes()));
        assert_ne!(sentinel_identity(tuple, 1), super::super::identity(tuple, 1));
    }
}
