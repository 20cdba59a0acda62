//! Tests of whole parts, from outside the crate.

mod need;
mod store;
