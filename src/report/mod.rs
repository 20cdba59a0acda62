//! Tables and pages. Input is data, output is text; no I/O.

pub mod plan;
