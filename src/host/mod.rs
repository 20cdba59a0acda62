//! One guard per kernel or host resource. The only layer with `unsafe`, each use with its reason.

pub mod namespace;
