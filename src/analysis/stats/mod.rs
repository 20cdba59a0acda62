//! The statistics themselves, one file for each question. docs/analysis.md lists them with their sources.
//!
//! They take samples of independent values, one for each iteration. Functions that work on ranks take them in ascending order
//! ([`describe::sorted`]), so that one sort serves them all.

pub mod anova;
pub mod bca;
pub mod bootstrap;
pub mod brunner_munzel;
pub mod change;
pub mod describe;
pub mod dip;
pub mod dominance;
pub mod equivalence;
pub mod hosts;
pub mod kolmogorov;
pub mod mann_whitney;
pub mod multiplicity;
pub mod permutation;
pub mod power;
pub mod random;
pub mod ranks;
pub mod series;
pub mod shift;
pub mod stopping;
pub mod weights;

#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod simulations;
