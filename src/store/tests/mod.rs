//! The store as a whole: what is written is read back, and nothing else is.

mod damage;
mod hostile;
mod merging;
mod queries;
mod records;
mod records_tcp;
mod round_trip;
