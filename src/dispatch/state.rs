//! What a coordinator knows of its hosts, for whoever looks: `OUT/.dispatch/state.json`.

use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::frame::Doing;

/// Directory of a coordinator's files, in the campaign's.
pub(super) const DIRECTORY: &str = ".dispatch";
/// Name of the file in it.
const FILE: &str = "state.json";

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Process number of the coordinator.
    pub pid: u32,
    /// The host it runs on.
    pub coordinator: String,
    /// When this was true: wall clock, nanoseconds since 1970-01-01 UTC.
    pub at_ns: i64,
    /// In the order in which they were named.
    pub hosts: Vec<HostState>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostState {
    /// As the user named it.
    pub host: String,
    /// As it names itself, which is what its iterations have; `None` before it was reached.
    pub name: Option<String>,
    /// What it does.
    pub phase: Phase,
    /// Why it is not used; `None` when it is.
    pub why: Option<String>,
    /// The iteration that it runs; `None` between two.
    pub doing: Option<Doing>,
    /// When it was heard of last, in nanoseconds since 1970; `None` for never.
    pub heard_ns: Option<i64>,
    /// Attempts of this run that came from it.
    pub ended: usize,
    /// Of these, complete.
    pub complete: usize,
    /// Its clock less the coordinator's in seconds, when the run began; `None` before it was reached.
    pub clock_seconds: Option<f64>,
}

/// What a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It is not ready yet.
    Waiting,
    /// It has, or will be given, iterations.
    Working,
    /// There is no connection to it, or its workers fail.
    Lost,
    /// It cannot run these iterations.
    Unable,
}

impl Phase {
    /// As `status` shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Working => "working",
            Self::Lost => "lost",
            Self::Unable => "unable",
        }
    }
}

/// What the last coordinator of a campaign has noted; `None` without one, or where it cannot be read.
pub fn read(out: &Path) -> Option<State> {
    serde_json::from_slice(&std::fs::read(out.join(DIRECTORY).join(FILE)).ok()?).ok()
}

impl State {
    pub(super) fn write(&self, out: &Path) -> std::io::Result<()> {
        let directory = out.join(DIRECTORY);
        let mut temp = tempfile::Builder::new().prefix(".state.").tempfile_in(&directory)?;
        temp.write_all(&serde_json::to_vec(self)?)?;
        temp.persist(directory.join(FILE)).map(drop).map_err(|error| error.error)
    }
}
