//! The store as a whole: what is written is read back, and nothing else is.

mod damage;
mod hostile;
mod merging;
mod queries;
pub(crate) mod records;
mod records_counters;
mod records_probe;
pub(super) mod records_tcp;
mod round_trip;
mod scanning;
