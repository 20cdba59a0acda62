//! The life of one iteration: preflight, launch, verify, instrument, workload, collect, teardown. Whatever happens,
//! teardown runs, and there is a record at the end.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::campaign::{CampaignError, header};
use super::cancel::Cancel;
use super::life::{Life, Stop};
use super::observer::Observer;
use super::running::Claim;
use crate::host::clock::now_ns;
use crate::ids::Stage;
use crate::instrument::capture::Captures;
use crate::instrument::facts;
use crate::instrument::host::{HostCounters, Usage};
use crate::plan::{Iteration, Plan};
use crate::record::{Capture, Environment, EventLevel, IterationRecord, Metric, Moment, Outcome, Setting};
use crate::spec::{Tuple, Value};
use crate::store::AttemptName;
use crate::testbed::{Instance, Path as NetworkPath, Request, Testbed};
use crate::verify::{self, Observations};
use crate::workload::Workload;
use crate::workload::drive::{self, Driven};

/// How long teardown may take, whatever the iteration's own limit.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(60);
/// How long the store stage may take to begin.
const STORE_LIMIT: Duration = Duration::from_secs(60);

/// What an iteration needs.
pub(super) struct Setup<'a> {
    pub(super) plan: &'a Plan,
    pub(super) iteration: Iteration<'a>,
    pub(super) testbed: &'a dyn Testbed,
    pub(super) workload: &'a dyn Workload,
    pub(super) out: &'a Path,
    pub(super) vptest: &'a Path,
    pub(super) host: &'a str,
    pub(super) keep_failed: bool,
    pub(super) observer: &'a dyn Observer,
    pub(super) cancel: Cancel,
}

/// How an iteration ended.
pub(super) struct Ended {
    pub(super) record: IterationRecord,
    /// How to look into the testbed that was left up.
    pub(super) kept: Option<String>,
    /// What could not be removed.
    pub(super) leftovers: Vec<String>,
}

/// What has been observed so far; each stage adds to it.
#[derive(Default)]
struct Gathered {
    settings: Vec<Setting>,
    paths: Vec<NetworkPath>,
    captures: Vec<Capture>,
    driven: Driven,
    usage: Option<Usage>,
    environment: Vec<Environment>,
    verdict: verify::Verdict,
}
