//! What iterations ran under, counted: settings asked for and read back, and facts about hosts.

use std::collections::HashMap;

use super::decode::{self, IterationRow};
use super::error::StoreError;
use super::query::{Database, role};
use super::raw::Row;
use super::repeat::Again;
use super::scan::Visitor;
use super::schema::TableId;
use crate::ids::NodeId;
use crate::record::Moment;

/// Most different settings, and facts, that are told apart; a hostile file must not fill the memory.
const MOST: usize = 20_000;

/// Settings and facts of all attempts.
#[derive(Debug, Default)]
pub struct Circumstances {
    /// Each with the number of attempts and nodes that had it, by name.
    pub settings: Vec<(SettingKind, u64)>,
    /// Each with the number of attempts and nodes that had it, by name.
    pub facts: Vec<(Fact, u64)>,
    /// Rows that are not in the lists, for there are too many different ones.
    pub not_listed: u64,
}

/// A setting as it was asked for and found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SettingKind {
    /// `mtu`, `tso`, `host.mtu`.
    pub name: String,
    /// Kind of node; `None` for the host.
    pub role: Option<String>,
    /// Testbed of the attempt.
    pub testbed: String,
    /// What the spec asks for; `None` when it leaves the value alone.
    pub requested: Option<String>,
    /// What was read; `None` when it could not be read.
    pub observed: Option<String>,
    /// Do the two agree? `None` when that cannot be said.
    pub ok: Option<bool>,
    /// Read after the workload, not before?
    pub after: bool,
}

/// A fact about a host or a kind of node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fact {
    /// `kernel`, `ab.version`.
    pub name: String,
    /// Name of the host, or kind of node.
    pub place: String,
    /// As read.
    pub value: String,
}

#[derive(Default)]
struct Counter {
    testbed: String,
    settings: HashMap<SettingKind, u64>,
    facts: HashMap<Fact, u64>,
    not_listed: u64,
}

impl Visitor for Counter {
    fn begin(&mut self, head: IterationRow) -> Result<(), String> {
        self.testbed = head.header.testbed;
        Ok(())
    }

    fn row(&mut self, table: TableId, row: &Row<'_>) -> Result<Again, String> {
        let counted = if table == TableId::Setting {
            let s = decode::setting(row)?;
            let (role, testbed, after) = (role(s.node), self.testbed.clone(), s.when == Moment::After);
            let (name, requested, observed, ok) = (s.name, s.requested, s.observed, s.ok);
            count(&mut self.settings, SettingKind { name, role, testbed, requested, observed, ok, after }, 1)
        } else {
            let fact = decode::environment(row)?;
            let node: Option<NodeId> = fact.host.parse().ok();
            let place = role(node).unwrap_or(fact.host);
            count(&mut self.facts, Fact { name: fact.name, place, value: fact.value }, 1)
        };
        self.not_listed += u64::from(!counted);
        Ok(Again::Row)
    }

    fn end(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// Counts a thing unless it is new and there are too many others.
fn count<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u64>, key: K, n: u64) -> bool {
    if let Some(known) = counts.get_mut(&key) {
        *known += n;
        return true;
    }
    let fits = counts.len() < MOST;
    if fits {
        counts.insert(key, n);
    }
    fits
}

impl Database {
    /// Settings and facts of all attempts, of any status.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the content of any iteration does not match its SHA-256.
    pub fn circumstances(&self) -> Result<Circumstances, StoreError> {
        let mut all = Counter::default();
        for part in self.file.scan(&[TableId::Setting, TableId::Environment], Counter::default)? {
            all.not_listed += part.not_listed;
            for (key, n) in part.settings {
                all.not_listed += if count(&mut all.settings, key, n) { 0 } else { n };
            }
            for (key, n) in part.facts {
                all.not_listed += if count(&mut all.facts, key, n) { 0 } else { n };
            }
        }
        let mut settings: Vec<_> = all.settings.into_iter().collect();
        settings.sort();
        let mut facts: Vec<_> = all.facts.into_iter().collect();
        facts.sort();
        Ok(Circumstances { settings, facts, not_listed: all.not_listed })
    }
}
