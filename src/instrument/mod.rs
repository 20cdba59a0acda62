//! What observes an iteration: live captures and the host's counters. Every loss is counted.
