//! Some of the metrics of a database.

use std::collections::BTreeMap;

use super::conditions::may_depend_on_place;
use super::dataset::{Dataset, MetricColumn};
use super::error::StoreError;
use super::query::{Database, MetricError, asks_for};
use crate::ids::Level;
use crate::record::Status;

/// Which metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// These, each as [`Database::values`] takes it.
    Named(Vec<String>),
    /// All of a level.
    Level(Level),
    /// All.
    All,
}

impl Database {
    /// The iterations of a database with these metrics; see [`Database::dataset`].
    ///
    /// # Errors
    /// As [`Database::dataset`]. A name that no metric has is no error here: see [`Dataset::find`].
    pub fn chosen(&self, chosen: &Chosen, statuses: &[Status]) -> Result<Dataset, StoreError> {
        let wanted = |level: Level, name: &str, role: Option<&str>| match chosen {
            Chosen::Named(names) => names.iter().any(|asked| asks_for(asked, level, name, role)),
            Chosen::Level(one) => *one == level,
            Chosen::All => true,
        };
        let places = match chosen {
            Chosen::Named(names) => names.iter().any(|asked| may_depend_on_place(asked)),
            Chosen::Level(_) | Chosen::All => true,
        };
        self.load(statuses, &wanted, places)
    }
}

impl Dataset {
    /// The metric that `asked` names, with its level before or its role behind where that is needed.
    ///
    /// # Errors
    /// [`MetricError`] when it is not exactly one of those that were loaded.
    pub fn find(&self, asked: &str) -> Result<&MetricColumn, MetricError> {
        let fits = |metric: &&MetricColumn| asks_for(asked, metric.level, &metric.name, metric.role.as_deref());
        let found: Vec<&MetricColumn> = self.metrics.iter().filter(fits).collect();
        match found.as_slice() {
            [metric] => Ok(metric),
            [] => {
                let left_out = self.left_out(None);
                let none_counts = (left_out.not_measured == 0).then_some(left_out);
                let known = self.known.iter().cloned().collect();
                Err(MetricError::Unknown { asked: asked.to_owned(), known, none_counts })
            }
            several => {
                let choices = several.iter().map(|metric| metric.full_name()).collect();
                Err(MetricError::Ambiguous { asked: asked.to_owned(), choices })
            }
        }
    }

    /// Keeps the iterations whose factors are as wanted; of the others nothing is left, not even among those left out.
    /// Sentinels stay as they are: what they say of a host does not depend on what is looked at.
    pub fn retain(&mut self, wanted: impl Fn(&BTreeMap<String, String>) -> bool) {
        let kept: Vec<bool> = self.iterations.iter().map(|iteration| wanted(&iteration.factors)).collect();
        for metric in &mut self.metrics {
            super::dataset::keep(&mut metric.values, &kept);
            if !metric.seen.is_empty() {
                super::dataset::keep(&mut metric.seen, &kept);
            }
        }
        super::dataset::keep(&mut self.iterations, &kept);
        self.superseded.retain(|iteration| wanted(&iteration.factors));
    }
}
