//! What was counted of system calls, one entry for each iteration.

use std::collections::{BTreeMap, HashMap};

use super::error::StoreError;
use super::query::{Database, Rank};
use crate::ids::ShortHash;
use crate::record::{SENTINEL, Status, SyscallTrace};

/// An iteration in which system calls were followed.
#[derive(Debug, Clone, PartialEq)]
pub struct TracedIteration {
    /// Hash of tuple and repetition.
    pub identity: ShortHash,
    /// Hash of the tuple and of the meaning of the spec.
    pub tuple: ShortHash,
    /// Factors of the tuple by name; `testbed` is always there.
    pub factors: BTreeMap<String, String>,
    /// One for each kernel.
    pub traces: Vec<SyscallTrace>,
}

impl Database {
    /// Iterations with an attempt whose status is among `statuses`, chosen as for [`Database::values`], in which system
    /// calls were followed.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the content of any iteration does not match its SHA-256.
    pub fn traced(&self, statuses: &[Status]) -> Result<Vec<TracedIteration>, StoreError> {
        let mut chosen: HashMap<ShortHash, (Rank, usize, TracedIteration)> = HashMap::new();
        for (at, verified) in self.records()?.enumerate() {
            let record = verified?.record;
            if !statuses.contains(&record.outcome.status()) {
                continue;
            }
            // A sentinel stands for no repetition of its tuple.
            if record.environment.iter().any(|fact| fact.name == SENTINEL) {
                continue;
            }
            let rank = Rank::of(&record.header, record.outcome.status(), true);
            let (identity, tuple) = (record.header.identity, record.header.tuple);
            let mut factors: BTreeMap<String, String> = record.factors.into_iter().collect();
            factors.entry("testbed".to_owned()).or_insert(record.header.testbed);
            let new = TracedIteration { identity, tuple, factors, traces: record.syscalls };
            if chosen.get(&identity).is_none_or(|(best, ..)| rank > *best) {
                chosen.insert(identity, (rank, at, new));
            }
        }
        let mut all: Vec<_> = chosen.into_values().filter(|(_, _, new)| !new.traces.is_empty()).collect();
        all.sort_by_key(|&(_, at, _)| at);
        Ok(all.into_iter().map(|(_, _, iteration)| iteration).collect())
    }
}
