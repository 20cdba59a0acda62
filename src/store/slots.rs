//! Rows of the metric table, recognised: iterations repeat the same few hundred metrics ten thousand times.

use std::collections::HashMap;

use rusqlite::types::ValueRef;

use super::decode;
use super::raw::Row;
use crate::record::Metric;

/// Columns that say which metric a row is of.
const NAMING: [usize; 6] = [2, 3, 4, 5, 6, 8];
/// The column of values.
pub(super) const VALUE: usize = 7;

/// The different metrics of rows seen so far; two rows are of one when they agree in all but place and value.
#[derive(Default)]
pub(super) struct Slots {
    all: Vec<Metric>,
    by_key: HashMap<Box<[u8]>, usize>,
    key: Vec<u8>,
}

impl Slots {
    /// The slot of a row.
    pub(super) fn find(&mut self, row: &Row<'_>) -> Result<usize, String> {
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

/// The value that the column of values holds.
pub(super) fn value(cell: ValueRef<'_>) -> Result<Option<f64>, String> {
    match cell {
        ValueRef::Null => Ok(None),
        ValueRef::Real(x) if x.is_finite() => Ok(Some(x)),
        #[expect(clippy::cast_precision_loss, reason = "SQLite stores a real as an integer only when it is exact")]
        ValueRef::Integer(n) => Ok(Some(n as f64)),
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
