//! Tables and pages. Input is data, output is text; no I/O.

pub mod anomalies;
pub mod chains;
pub mod compare;
pub mod cost;
pub mod export;
pub mod family;
mod number;
pub mod page;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod plan;
pub mod planning;
pub mod plot;
pub mod sentinels;
pub mod sheet;
pub mod verdicts;
