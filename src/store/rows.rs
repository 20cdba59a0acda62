//! A record as rows: what is inserted, and what is hashed.

use rusqlite::types::ValueRef;
use sha2::{Digest as _, Sha256};

use super::schema::{TABLES, TableId};
use crate::ids::NodeId;
use crate::record::{Capture, Header, IterationRecord};

/// Hands every row of `record` to `sink`, table by table in the order of [`TableId::ALL`], without the leading
/// iteration number and without `iteration.parts` and `iteration.sha256`.
///
/// The record has passed [`super::check::check`]: numbers fit and are finite.
pub(super) fn emit<E>(
    record: &IterationRecord,
    mut sink: impl FnMut(TableId, &[ValueRef<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    emit_header(record, &mut sink)?;
    let mut factors: Vec<_> = record.factors.iter().collect();
    factors.sort();
    for (name, value) in factors {
        sink(TableId::Factor, &[text(name), text(value)])?;
    }
    for (i, s) in record.settings.iter().enumerate() {
        let node = name_of(s.node);
        let ok = s.ok.map(i64::from);
        let row = [
            position(i),
            opt_text(node.as_deref()),
            text(&s.name),
            opt_text(s.requested.as_deref()),
            opt_text(s.observed.as_deref()),
            opt_int(ok),
            text(s.when.as_str()),
        ];
        sink(TableId::Setting, &row)?;
    }
    for (i, m) in record.metrics.iter().enumerate() {
        let node = name_of(m.node);
        let row = [
            position(i),
            opt_int(m.pair.map(i64::from)),
            opt_text(node.as_deref()),
            text(m.level.as_str()),
            text(&m.name),
            text(&m.unit),
            opt_real(m.value),
            opt_text(m.better.map(|b| b.as_str())),
        ];
        sink(TableId::Metric, &row)?;
    }
    for (i, p) in record.quantiles.iter().enumerate() {
        let node = name_of(p.node);
        let row = [
            position(i),
            opt_int(p.pair.map(i64::from)),
            opt_text(node.as_deref()),
            text(&p.name),
            text(&p.unit),
            opt_real(Some(p.q)),
            opt_real(p.value),
        ];
        sink(TableId::Quantile, &row)?;
    }
    emit_captures(&record.captures, &mut sink)?;
    super::path::emit(&record.paths, &mut sink)?;
    super::syscalls::emit(&record.syscalls, &mut sink)?;
    super::probe::emit(&record.probes, &mut sink)?;
    super::counters::emit(&record.counters, &mut sink)?;
    for (i, e) in record.events.iter().enumerate() {
        let row =
            [position(i), ValueRef::Integer(e.at_ns), text(e.stage.as_str()), text(e.level.as_str()), text(&e.text)];
        sink(TableId::Event, &row)?;
    }
    for (i, s) in record.stages.iter().enumerate() {
        let row = [position(i), text(s.stage.as_str()), ValueRef::Integer(s.started_ns), opt_int(s.duration_ns)];
        sink(TableId::Stage, &row)?;
    }
    for (i, e) in record.environment.iter().enumerate() {
        sink(TableId::Environment, &[position(i), text(&e.host), text(&e.name), text(&e.value)])?;
    }
    Ok(())
}

fn emit_header<E>(
    record: &IterationRecord,
    sink: &mut impl FnMut(TableId, &[ValueRef<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    let Header { identity, tuple, number, repetition, block, attempt, testbed, host, started_ns, finished_ns, .. } =
        &record.header;
    let (identity, tuple, spec_hash) = (identity.to_string(), tuple.to_string(), record.header.spec_hash.to_string());
    let reasons = serde_json::Value::from(record.outcome.reasons()).to_string();
    let row = [
        text(&identity),
        ValueRef::Integer(number.0.into()),
        text(&tuple),
        ValueRef::Integer((*repetition).into()),
        opt_int(block.map(i64::from)),
        ValueRef::Integer((*attempt).into()),
        text(testbed),
        text(host),
        text(record.outcome.status().as_str()),
        text(&reasons),
        ValueRef::Integer(*started_ns),
        opt_int(*finished_ns),
        text(&spec_hash),
        text(&record.header.vptest_version),
    ];
    sink(TableId::Iteration, &row)
}

fn emit_captures<E>(
    captures: &[Capture],
    sink: &mut impl FnMut(TableId, &[ValueRef<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    for (i, c) in captures.iter().enumerate() {
        let node = c.node.to_string();
        let row = [
            position(i),
            text(&node),
            text(c.vantage.as_str()),
            text(&c.interface),
            ValueRef::Integer(c.snaplen.into()),
            count(c.packets),
            count(c.bytes),
            c.dropped_kernel.map_or(ValueRef::Null, count),
            c.dropped_interface.map_or(ValueRef::Null, count),
            count(c.ring_bytes),
            opt_text(c.file.as_deref()),
        ];
        sink(TableId::Capture, &row)?;
    }
    for (i, c) in captures.iter().enumerate() {
        for bin in &c.sizes {
            let row =
                [position(i), ValueRef::Integer(bin.from.into()), opt_int(bin.to.map(i64::from)), count(bin.packets)];
            sink(TableId::CaptureSize, &row)?;
        }
    }
    super::rows_tcp::emit(captures, sink)
}

/// Bytes kept of the hash of one table's rows.
pub(super) const PART_BYTES: usize = 16;

/// The hashes of a record: one for the rows of each table, and one over these.
///
/// Stored in `iteration.parts` and `iteration.sha256`: the first let one table be verified without reading the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) parts: Box<[u8; PART_BYTES * TABLES.len()]>,
    pub(super) sha256: [u8; 32],
}

impl Digest {
    /// Of what [`emit`] says of `record`.
    pub(super) fn of(record: &IterationRecord) -> Self {
        let mut parts = Parts::new();
        let done: Result<(), std::convert::Infallible> = emit(record, |table, row| {
            parts.add(table, row);
            Ok(())
        });
        match done {
            Ok(()) => parts.finish(),
        }
    }

    /// SHA-256 over the hashes of the tables.
    pub(super) fn whole(parts: &[u8]) -> [u8; 32] {
        Sha256::digest(parts).into()
    }

    /// The part of one table; `parts` are those of all tables.
    pub(super) fn part(parts: &[u8; PART_BYTES * TABLES.len()], table: TableId) -> &[u8] {
        &parts[table as usize * PART_BYTES..][..PART_BYTES]
    }
}

/// Hashes while rows come, table by table.
struct Parts {
    table: TableId,
    rows: RowHash,
    parts: Box<[u8; PART_BYTES * TABLES.len()]>,
}

impl Parts {
    fn new() -> Self {
        let mut parts = Box::new([0; PART_BYTES * TABLES.len()]);
        // Most tables have no rows in most records.
        let empty = RowHash::new(TableId::Iteration).finish();
        parts.chunks_exact_mut(PART_BYTES).for_each(|part| part.copy_from_slice(&empty));
        Self { table: TableId::Iteration, rows: RowHash::new(TableId::Iteration), parts }
    }

    fn add(&mut self, table: TableId, row: &[ValueRef<'_>]) {
        if table != self.table {
            assert!(table > self.table, "rows come table by table");
            self.close();
            (self.table, self.rows) = (table, RowHash::new(table));
        }
        self.rows.begin(row.len());
        row.iter().for_each(|&cell| self.rows.cell(cell));
        self.rows.end();
    }

    fn close(&mut self) {
        let rows = std::mem::replace(&mut self.rows, RowHash::new(self.table));
        self.parts[self.table as usize * PART_BYTES..][..PART_BYTES].copy_from_slice(&rows.finish());
    }

    fn finish(mut self) -> Digest {
        self.close();
        Digest { sha256: Digest::whole(&self.parts[..]), parts: self.parts }
    }
}

/// Hash over the rows of one table: SHA-256, cut to [`PART_BYTES`].
///
/// Each row is the table's place in [`TableId::ALL`] and the number of cells, one byte each, then its cells: a tag
/// byte (0 NULL, 1 integer, 2 real, 3 text, 4 blob) and 8 bytes of number, or 8 bytes of length and the bytes; all
/// little-endian.
pub(super) struct RowHash {
    table: TableId,
    hash: Sha256,
    /// What is to be hashed: many short pieces at once.
    pending: Vec<u8>,
}

/// Bytes that wait at most before they are hashed, but for one row.
const PENDING_BYTES: usize = 16 * 1024;

impl RowHash {
    pub(super) fn new(table: TableId) -> Self {
        Self { table, hash: Sha256::new(), pending: Vec::new() }
    }

    pub(super) fn begin(&mut self, cells: usize) {
        self.pending.extend([self.table as u8, u8::try_from(cells).unwrap_or(u8::MAX)]);
    }

    pub(super) fn cell(&mut self, cell: ValueRef<'_>) {
        hash_cell(cell, &mut self.pending);
    }

    /// Cells that are in the form already in which they are hashed.
    pub(super) fn cells(&mut self, formed: &[u8]) {
        self.pending.extend_from_slice(formed);
    }

    pub(super) fn end(&mut self) {
        if self.pending.len() > PENDING_BYTES {
            self.hash.update(&self.pending);
            self.pending.clear();
        }
    }

    /// The hash of the rows so far; the next rows begin anew.
    pub(super) fn take(&mut self) -> [u8; PART_BYTES] {
        self.hash.update(&self.pending);
        self.pending.clear();
        let hash: [u8; 32] = self.hash.finalize_reset().into();
        *hash.first_chunk().expect("a part is shorter than a hash")
    }

    fn finish(mut self) -> [u8; PART_BYTES] {
        self.take()
    }
}

/// Appends a cell in the form in which it is hashed.
pub(super) fn hash_cell(cell: ValueRef<'_>, out: &mut Vec<u8>) {
    let (tag, number, body): (u8, [u8; 8], &[u8]) = match cell {
        ValueRef::Null => return out.push(0),
        ValueRef::Integer(n) => (1, n.to_le_bytes(), &[]),
        ValueRef::Real(x) => (2, x.to_le_bytes(), &[]),
        ValueRef::Text(bytes) => (3, (bytes.len() as u64).to_le_bytes(), bytes),
        ValueRef::Blob(bytes) => (4, (bytes.len() as u64).to_le_bytes(), bytes),
    };
    let mut head = [tag; 9];
    head[1..].copy_from_slice(&number);
    out.extend_from_slice(&head);
    out.extend_from_slice(body);
}

fn name_of(node: Option<NodeId>) -> Option<String> {
    node.map(|node| node.to_string())
}

pub(super) fn text(text: &str) -> ValueRef<'_> {
    ValueRef::Text(text.as_bytes())
}

pub(super) fn opt_text(value: Option<&str>) -> ValueRef<'_> {
    value.map_or(ValueRef::Null, text)
}

pub(super) fn opt_int(value: Option<i64>) -> ValueRef<'static> {
    value.map_or(ValueRef::Null, ValueRef::Integer)
}

/// Minus zero becomes zero, as it would in an SQLite file.
pub(super) fn opt_real(value: Option<f64>) -> ValueRef<'static> {
    value.map_or(ValueRef::Null, |x| ValueRef::Real(if x == 0.0 { 0.0 } else { x }))
}

pub(super) fn count(value: u64) -> ValueRef<'static> {
    ValueRef::Integer(i64::try_from(value).expect("checked: counters fit SQLite's integers"))
}

pub(super) fn opt_count(value: Option<u64>) -> ValueRef<'static> {
    value.map_or(ValueRef::Null, count)
}

pub(super) fn position(index: usize) -> ValueRef<'static> {
    ValueRef::Integer(i64::try_from(index).expect("a list in memory is shorter than 2^63"))
}
