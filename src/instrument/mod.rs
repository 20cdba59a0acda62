//! What observes an iteration: live captures and the host's counters. Every loss is counted.

pub mod capture;
pub mod facts;
pub mod host;
pub mod linktest;
pub mod network;
pub mod syscalls;
