//! Tuples × repetitions × order → iterations. Pure.

mod canonical;
mod expand;
mod file;
mod order;
pub mod selection;
mod sentinel;

use std::num::NonZeroU32;

pub use expand::PlanError;
pub use file::{FORMAT, PlanFileError, VERSION};
pub use sentinel::sentinel_identity;

use crate::ids::{IterationNumber, ShortHash};
use crate::spec::{Spec, Tuple};

/// All iterations of a campaign in run order.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The spec it was made from.
    pub spec: Spec,
    /// Text of the spec file.
    pub spec_text: String,
    /// Hash of `spec_text`.
    pub spec_hash: ShortHash,
    /// How many combinations there were and what became of them.
    pub counts: Counts,
    /// Distinct tuples, in the order of the spec.
    pub tuples: Vec<PlannedTuple>,
    /// Iterations in run order: number 1 is the first.
    pub iterations: Vec<Slot>,
}

/// What became of the combinations of factor values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Product of the numbers of values; `None` when it is 2^64 or more.
    pub combinations: Option<u64>,
    /// Distinct tuples among them, when factors that mean nothing on a testbed are dropped.
    pub distinct: u64,
    /// Those that an exclusion leaves out.
    pub excluded: u64,
}

/// A tuple of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTuple {
    /// Hash of the canonical tuple and of the meaning of the spec (workload, capture, testbed options).
    pub id: ShortHash,
    /// Its values.
    pub tuple: Tuple,
}

/// One place in the run order: 12 bytes, as there may be millions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Index into [`Plan::tuples`].
    pub tuple: u32,
    /// From 1.
    pub repetition: u32,
    /// From 1; `None` when the order has no blocks; [`Slot::SENTINEL`] for a sentinel, whose `repetition` counts sentinels.
    pub block: Option<NonZeroU32>,
}

/// One iteration, resolved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Iteration<'a> {
    /// Position in run order, from 1.
    pub number: IterationNumber,
    /// Hash of tuple id and repetition, or of tuple id and number of the sentinel.
    pub identity: ShortHash,
    /// Hash of the tuple alone.
    pub tuple_id: ShortHash,
    /// Its values.
    pub tuple: &'a Tuple,
    /// From 1; of a sentinel which one it is.
    pub repetition: u32,
    /// From 1; `None` when the order has no blocks, and for a sentinel.
    pub block: Option<u32>,
    /// Is it a sentinel? Sentinels are no repetitions of their tuple.
    pub sentinel: bool,
}

impl Plan {
    /// The iteration of that number; `None` when the plan has no such number.
    pub fn get(&self, number: IterationNumber) -> Option<Iteration<'_>> {
        let slot = self.iterations.get(usize::try_from(number.0).ok()?.checked_sub(1)?)?;
        Some(self.resolve(number, *slot))
    }

    /// All iterations in run order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Iteration<'_>> {
        // A plan has at most MOST_ITERATIONS iterations, so their numbers fit.
        self.iterations.iter().enumerate().map(|(index, slot)| {
            let number = u32::try_from(index + 1).expect("the numbers of a plan's iterations fit in 32 bits");
            self.resolve(IterationNumber(number), *slot)
        })
    }

    fn resolve(&self, number: IterationNumber, slot: Slot) -> Iteration<'_> {
        let planned = &self.tuples[slot.tuple as usize];
        Iteration {
            number,
            identity: if slot.is_sentinel() {
                sentinel_identity(planned.id, slot.repetition)
            } else {
                identity(planned.id, slot.repetition)
            },
            tuple_id: planned.id,
            tuple: &planned.tuple,
            repetition: slot.repetition,
            block: slot.block.map(NonZeroU32::get).filter(|_| !slot.is_sentinel()),
            sentinel: slot.is_sentinel(),
        }
    }
}

/// Identity of the `repetition`-th run of a tuple: what resuming goes by.
///
/// Hash of the text `ID#N`: 12 hex digits, `#` and the repetition in decimal.
pub fn identity(tuple: ShortHash, repetition: u32) -> ShortHash {
    use std::io::Write as _;
    // 12 digits, `#` and up to 10 digits, without allocating.
    let mut text = [0u8; 23];
    let mut rest = &mut text[..];
    write!(rest, "{tuple}#{repetition}").expect("the text fits");
    let left = rest.len();
    ShortHash::of(&text[..23 - left])
}

#[cfg(test)]
mod tests;
