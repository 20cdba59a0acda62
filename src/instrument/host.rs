//! The host's counters.
