//! One guard per kernel or host resource. The only layer with `unsafe`, each use with its reason.

pub mod cage;
pub mod child;
pub mod clock;
pub mod files;
pub mod namespace;
