//! Rows of the metric table, recognised: iterations repeat the same few hundred metrics ten thousand times.

use std::collections::HashMap;

use rusqlite::types::ValueRef;

use super::decode;
use super::raw::Row;
use crate::record::Metric;

/// Columns that say which metric a row is of, and the one that holds its value.
const NAMING: [usize; 6] = [2, 3, 4, 5, 6, 8];
const VALUE: usize = 7;

/// The different metrics of rows seen so far; two rows are of one when they agree in all but place and value.
#[derive(Default)]
pub(super) struct Slots {
    all: Vec<Metric>,
    by_key: HashMap<Box<[u8]>, usize>,
    /// The naming cells of each row of an iteration, in order, with their slots: the next one has the same, as a rule.
    last: Vec<(Naming, usize)>,
    at: usize,
    key: Vec<u8>,
}

/// The naming cells of a row, as they are stored.
#[derive(Default)]
struct Naming {
    types: [u64; NAMING.len()],
    bytes: Vec<u8>,
}

impl Naming {
    fn of(row: &Row<'_>) -> Self {
        let mut naming = Self::default();
        for (kind, column) in naming.types.iter_mut().zip(NAMING) {
            let (stored, bytes) = row.stored(column).unwrap_or_default();
            *kind = stored;
            naming.bytes.extend_from_slice(bytes);
        }
        naming
    }

    fn is_of(&self, row: &Row<'_>) -> bool {
        let mut rest = &self.bytes[..];
        for (kind, column) in self.types.iter().zip(NAMING) {
            let (stored, bytes) = row.stored(column).unwrap_or_default();
            match rest.strip_prefix(bytes) {
                Some(tail) if *kind == stored => rest = tail,
                _ => return false,
            }
        }
        true
    }
}

impl Slots {
    /// The next row is the first of its iteration.
    pub(super) fn rewind(&mut self) {
        self.at = 0;
    }

    /// The slot of a row, and its value.
    pub(super) fn find(&mut self, row: &Row<'_>) -> Result<(usize, Option<f64>), String> {
        let value = value(row)?;
        let at = self.at;
        self.at += 1;
        if let Some((naming, slot)) = self.last.get(at)
            && naming.is_of(row)
        {
            return Ok((*slot, value));
        }
        let slot = self.look_up(row)?;
        let entry = (Naming::of(row), slot);
        match self.last.get_mut(at) {
            Some(last) => *last = entry,
            None => self.last.push(entry),
        }
        Ok((slot, value))
    }

    fn look_up(&mut self, row: &Row<'_>) -> Result<usize, String> {
        self.key.clear();
        for column in NAMING {
            name_cell(row.get(column), &mut self.key);
        }
        if let Some(&slot) = self.by_key.get(&*self.key) {
            return Ok(slot);
        }
        let metric = decode::metric(row)?;
        if metric.pair == Some(0) {
            return Err("pair is 0, pairs count from 1".to_owned());
        }
        self.all.push(Metric { value: None, ..metric });
        let slot = self.all.len() - 1;
        self.by_key.insert(self.key.clone().into_boxed_slice(), slot);
        Ok(slot)
    }

    /// The metric of a slot, without a value.
    pub(super) fn metric(&self, slot: usize) -> &Metric {
        &self.all[slot]
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Metric] {
        &self.all
    }
}

fn value(row: &Row<'_>) -> Result<Option<f64>, String> {
    match row.get(VALUE) {
        Some(ValueRef::Null) => Ok(None),
        Some(ValueRef::Real(x)) if x.is_finite() => Ok(Some(x)),
        #[expect(clippy::cast_precision_loss, reason = "SQLite stores a real as an integer only when it is exact")]
        Some(ValueRef::Integer(n)) => Ok(Some(n as f64)),
        _ => Err("a value is no finite number".to_owned()),
    }
}

/// A cell so that different ones give different bytes.
fn name_cell(cell: Option<ValueRef<'_>>, out: &mut Vec<u8>) {
    match cell {
        None | Some(ValueRef::Null) => out.push(0),
        Some(ValueRef::Integer(n)) => {
            out.push(1);
            out.extend(n.to_le_bytes());
        }
        Some(ValueRef::Text(bytes)) => {
            out.push(2);
            out.extend((bytes.len() as u64).to_le_bytes());
            out.extend(bytes);
        }
        // No column of a name holds such a cell; decoding refuses it.
        Some(ValueRef::Real(_)) => out.push(3),
        Some(ValueRef::Blob(_)) => out.push(4),
    }
}
