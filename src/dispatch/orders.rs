//! What a round asks of the hosts: written by the coordinator, copied to each of them, read by its workers.
//!
//! A round is one run of GNU parallel. Its orders lie beside the plan in the campaign's directory on the host:
//!
//! ```text
//! plan.json  NNNNNN-HASH.db  …       as in any campaign's directory
//! .worker/orders-ROUND.json          these
//! .worker/halt-ROUND                 `soon`: no further iteration; `now`: not this one either
//! .worker/again-ROUND                the connection was lost in this round: what was sent may not have arrived
//! .worker/sent/ROUND-SHARE/          files of a share that was sent whole
//! ```

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::share::Share;
use crate::ids::ShortHash;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Orders {
    /// Hash of the plan's spec: the plan there must be that of the coordinator.
    pub(super) spec_hash: ShortHash,
    /// What hosts are given.
    pub(super) shares: Vec<Share>,
    /// Iterations that are complete where the coordinator is: what a host still has of them is not needed.
    pub(super) complete: Vec<ShortHash>,
    /// Names of the attempts at others that are stored there.
    pub(super) stored: Vec<String>,
    /// When no further iteration may begin; `None` without such a limit.
    pub(super) until: Option<jiff::Timestamp>,
    /// Further attempts at once at an iteration that failed, timed out or was invalid.
    pub(super) retries: u32,
    /// Go on also when guests would be of another image than those of what has been run.
    pub(super) allow_changed_image: bool,
}

/// Identifies a round: hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round(String);

impl Round {
    /// One that there was not before.
    pub(super) fn fresh() -> Self {
        Self(format!("{:016x}", crate::agent::fresh_number()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of its orders in the campaign's directory on a host.
    pub(super) fn orders(&self) -> String {
        format!("{WORKER}/orders-{}.json", self.0)
    }

    /// Name of the file that ends it.
    pub(super) fn halt(&self) -> String {
        format!("{WORKER}/halt-{}", self.0)
    }

    /// Name of the file that says that what was sent in it may not have arrived.
    pub(super) fn again(&self) -> String {
        format!("{WORKER}/again-{}", self.0)
    }

    /// Is that the name of a directory for files that were sent in it? Then the number of the share, 0 for what came before.
    pub(super) fn share(&self, sent: &str) -> Option<u32> {
        let rest = sent.strip_prefix(&self.0)?.strip_prefix('-')?;
        Some(rest.parse().unwrap_or(0))
    }
}

impl std::str::FromStr for Round {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_one = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_one { Ok(Self(text.to_owned())) } else { Err("a round is 16 hexadecimal digits".to_owned()) }
    }
}

/// Directory for what a worker notes, in the campaign's.
pub(super) const WORKER: &str = ".worker";

/// Where files are that were sent.
pub(super) fn sent(place: &Path) -> PathBuf {
    place.join(WORKER).join("sent")
}

impl Orders {
    pub(super) fn read(place: &Path, round: &Round) -> anyhow::Result<Self> {
        let path = place.join(round.orders());
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no orders of this vptest", path.display()))
    }
}
