//! Tuples × repetitions × order → iterations. Pure.

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
    /// Distinct tuples, in the order of the spec.
    pub tuples: Vec<PlannedTuple>,
    /// Iterations in run order: number 1 is the first.
    pub iterations: Vec<Slot>,
}

/// A tuple of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTuple {
    /// Hash of the canonical tuple and of the meaning of the spec (workload, capture, testbed options).
    pub id: ShortHash,
    /// Its values.
    pub tuple: Tuple,
}

/// One place in the run order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Index into [`Plan::tuples`].
    pub tuple: u32,
    /// From 1.
    pub repetition: u32,
    /// From 1; `None` when the order has no blocks.
    pub block: Option<u32>,
}

/// One iteration, resolved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Iteration<'a> {
    /// Position in run order, from 1.
    pub number: IterationNumber,
    /// Hash of tuple id and repetition.
    pub identity: ShortHash,
    /// Hash of the tuple alone.
    pub tuple_id: ShortHash,
    /// Its values.
    pub tuple: &'a Tuple,
    /// From 1.
    pub repetition: u32,
    /// From 1; `None` when the order has no blocks.
    pub block: Option<u32>,
}

impl Plan {
    /// The iteration of that number; `None` when the plan has no such number.
    pub fn get(&self, number: IterationNumber) -> Option<Iteration<'_>> {
        let slot = self.iterations.get(usize::try_from(number.0).ok()?.checked_sub(1)?)?;
        let planned = &self.tuples[slot.tuple as usize];
        Some(Iteration {
            number,
            identity: identity(planned.id, slot.repetition),
            tuple_id: planned.id,
            tuple: &planned.tuple,
            repetition: slot.repetition,
            block: slot.block,
        })
    }

    /// All iterations in run order.
    pub fn iter(&self) -> impl Iterator<Item = Iteration<'_>> {
        (1..).map_while(|n| self.get(IterationNumber(n)))
    }
}

/// Identity of the `repetition`-th run of a tuple: what resuming goes by.
pub fn identity(tuple: ShortHash, repetition: u32) -> ShortHash {
    ShortHash::of(format!("{tuple}#{repetition}").as_bytes())
}
