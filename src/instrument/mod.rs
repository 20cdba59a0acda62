//! What observes an iteration: live captures, system calls, probes of the path and the host's counters. Every loss is counted.

pub mod capture;
pub mod counters;
pub mod facts;
pub mod host;
pub mod linktest;
pub mod network;
pub mod probe;
pub mod switch;
pub mod syscalls;
