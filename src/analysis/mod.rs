//! Grouping, tests and effect sizes. Pure: numbers in, numbers out.
//!
//! The unit is the iteration: every number here is over one value for each iteration. What cannot be said from the data
//! (the spread of one value, a test of constants) is `None`, never a number that stands in for it.

pub mod anomalies;
mod chain_groups;
mod chains;
mod compare;
pub mod contrasts;
mod cost;
mod distribution;
pub mod effects;
pub mod filter;
pub mod judged;
mod permute;
pub mod sentinels;
pub mod stats;
mod summary;
pub mod trust;
mod two_sample;

pub use chain_groups::{ChainComparison, ChainRow, UnknownFactor, compare_chains};
pub use chains::{Chain, Determinism, Divergence, TransitionShift, Verdict, determinism, diverge};
pub use compare::{AnalysisError, Comparison, Contrast, Group, NoContrast, Question, Standing, compare};
pub use cost::{Cost, CostError, Costs, Design, NoCost, instrument_costs};
pub use summary::{Interval, Summary};
pub use two_sample::{TwoSample, Welch};

/// Coverage of every interval.
pub const CONFIDENCE: f64 = 0.95;

#[cfg(test)]
mod reference_tests;
