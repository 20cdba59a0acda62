//! Which metrics a database has.

use std::collections::BTreeMap;

use rusqlite::types::ValueRef;

use super::decode::IterationRow;
use super::error::StoreError;
use super::query::{MetricInfo, role};
use super::raw::Row;
use super::reader::RecordFile;
use super::repeat::Again;
use super::scan::Visitor;
use super::schema::TableId;
use super::slots::{Slots, VALUE, value};
use crate::ids::Level;

type Key = (String, Level, Option<String>, String);

/// Counts rows of each metric.
#[derive(Default)]
struct Lister {
    slots: Slots,
    /// For each slot its place in `infos`.
    places: Vec<usize>,
    by_key: BTreeMap<Key, usize>,
    infos: Vec<MetricInfo>,
    /// For each of them the iteration that had it last, from 1.
    last: Vec<u64>,
    iteration: u64,
}

impl Lister {
    fn place(&mut self, slot: usize) -> usize {
        let metric = self.slots.metric(slot);
        let key = (metric.name.clone(), metric.level, role(metric.node), metric.unit.clone());
        let next = self.infos.len();
        let place = *self.by_key.entry(key.clone()).or_insert(next);
        if place == next {
            let (name, level, role, unit) = key;
            let better = metric.better;
            self.infos.push(MetricInfo { name, level, role, unit, better, iterations: 0, values: 0, missing: 0 });
            self.last.push(0);
        }
        place
    }
}

impl Visitor for Lister {
    fn begin(&mut self, _: IterationRow) -> Result<(), String> {
        self.iteration += 1;
        Ok(())
    }

    fn row(&mut self, table: TableId, row: &Row<'_>) -> Result<Again, String> {
        let slot = self.slots.find(row)?;
        if slot == self.places.len() {
            let place = self.place(slot);
            self.places.push(place);
        }
        self.again(table, slot, row.get(VALUE).unwrap_or(ValueRef::Null))?;
        Ok(Again::Cell(slot))
    }

    fn again(&mut self, _: TableId, slot: usize, cell: ValueRef<'_>) -> Result<(), String> {
        let value = value(cell)?;
        let place = self.places[slot];
        let info = &mut self.infos[place];
        info.values += u64::from(value.is_some());
        info.missing += u64::from(value.is_none());
        info.iterations += u64::from(self.last[place] != self.iteration);
        self.last[place] = self.iteration;
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// All metrics by name, level, role and unit.
pub(super) fn list(file: &RecordFile) -> Result<Vec<MetricInfo>, StoreError> {
    let mut all: BTreeMap<Key, MetricInfo> = BTreeMap::new();
    for info in file.scan(&[TableId::Metric], Lister::default)?.into_iter().flat_map(|lister| lister.infos) {
        let key = (info.name.clone(), info.level, info.role.clone(), info.unit.clone());
        match all.get_mut(&key) {
            Some(known) => {
                known.iterations += info.iterations;
                known.values += info.values;
                known.missing += info.missing;
            }
            None => drop(all.insert(key, info)),
        }
    }
    Ok(all.into_values().collect())
}
