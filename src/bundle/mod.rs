//! A campaign in one file that can be published, checked and run again: `study.tar.zst`, a tar archive of one directory,
//! compressed with zstd, that is an RO-Crate (<https://w3id.org/ro/crate/1.1>).
//!
//! ```text
//! NAME/ro-crate-metadata.json   what is in here, for people's tools
//! NAME/spec.toml                the sweep spec
//! NAME/plan.json                all iterations, in order
//! NAME/merged.db                all attempts
//! NAME/report.html              everything on one page
//! NAME/environment.json         facts about hosts and nodes, versions of programs, each with the attempts that had it
//! NAME/artifacts/…              what the spec had kept (only when asked for)
//! NAME/SHA256SUMS               of all of these, as `sha256sum -c` reads it
//! ```

mod metadata;
mod pack;
mod unpack;

pub use metadata::{About, PROFILE};
pub use pack::{Content, Part, pack};
pub use unpack::{Bundle, BundleError, PLAN, extract, verify};

/// The spec.
pub const SPEC: &str = "spec.toml";
/// All attempts.
pub const DATABASE: &str = "merged.db";
/// Everything on one page.
pub const REPORT: &str = "report.html";
/// Facts about hosts and nodes.
pub const ENVIRONMENT: &str = "environment.json";
/// Directory of what the spec had kept.
pub const ARTIFACTS: &str = "artifacts";
/// What is in the bundle.
const METADATA: &str = "ro-crate-metadata.json";
/// Checksums.
const SUMS: &str = "SHA256SUMS";
