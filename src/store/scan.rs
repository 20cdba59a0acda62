//! Some tables of all iterations, read fast: verified against the hashes of these tables alone, on all CPUs, without making
//! whole records.
//!
//! What a record must keep beyond its hash ([`super::check`]) is checked here only by the visitors, for what they use: a
//! hostile file can have right hashes over wrong rows.

use rusqlite::types::ValueRef;

use super::decode::{self, IterationRow};
use super::error::StoreError;
use super::raw::{Record, Row};
use super::reader::{RecordFile, TableCursor, hash_row};
use super::repeat::{Again, Repeats};
use super::rows::{Digest, RowHash};
use super::schema::TableId;

/// Takes what a scan finds, iteration by iteration.
pub(super) trait Visitor: Send {
    /// An iteration begins.
    fn begin(&mut self, head: IterationRow) -> Result<(), String>;
    /// A row of it, and what is to be seen of rows that repeat it in later iterations. Tables come in the order in which they
    /// were asked for.
    fn row(&mut self, table: TableId, row: &Row<'_>) -> Result<Again, String>;
    /// A row for which [`Again::Cell`] was said: the number said then, and the row's free column.
    fn again(&mut self, _table: TableId, _number: usize, _free: ValueRef<'_>) -> Result<(), String> {
        Ok(())
    }
    /// It has no more rows, and those there were are what was written.
    fn end(&mut self) -> Result<(), String>;
}

impl RecordFile {
    /// Shows all iterations to visitors, each of which gets a stretch of them; the visitors, in the order of `iteration.id`.
    ///
    /// `tables` are among those without rowid. An error of a visitor says what is wrong with the file.
    pub(super) fn scan<V: Visitor>(
        &self,
        tables: &[TableId],
        make: impl Fn() -> V + Sync,
    ) -> Result<Vec<V>, StoreError> {
        let heads = self.heads()?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        let each = heads.len().div_ceil(threads).max(1);
        let starts: Vec<Option<i64>> = heads.iter().step_by(each).map(|(id, _)| Some(*id)).collect();
        let mut chunks: Vec<Vec<(i64, Record)>> = Vec::new();
        let mut heads = heads.into_iter().peekable();
        while heads.peek().is_some() {
            chunks.push(heads.by_ref().take(each).collect());
        }
        if chunks.is_empty() {
            // Rows may be there all the same, and then belong to nothing.
            chunks.push(Vec::new());
        }
        std::thread::scope(|scope| {
            let work = |(i, heads): (usize, Vec<_>)| {
                let make = &make;
                let from = starts.get(i).copied().flatten().filter(|_| i > 0);
                let end = starts.get(i + 1).copied().flatten();
                scope.spawn(move || stretch(self, tables, heads, from, end, make()))
            };
            let running: Vec<_> = chunks.into_iter().enumerate().map(work).collect();
            let done = running.into_iter().map(|thread| thread.join().expect("a visitor does not panic"));
            done.collect()
        })
    }

    /// Header rows with their `iteration.id`, as they are stored.
    fn heads(&self) -> Result<Vec<(i64, Record)>, StoreError> {
        let mut table = TableCursor::new(self, TableId::Iteration)?;
        let mut heads: Vec<(i64, Record)> = Vec::new();
        while let Some(id) = table.current {
            if heads.last().is_some_and(|(before, _)| *before >= id) {
                return Err(table.corrupt(format!("iteration {id} is not in its place")));
            }
            heads.push((id, table.row().record()));
            table.advance()?;
        }
        Ok(heads)
    }

    /// A header row, verified.
    fn verified(&self, row: &Row<'_>, hash: &mut RowHash) -> Result<IterationRow, StoreError> {
        let bad = |what| StoreError::corrupt(&self.path, format!("table {}: {what}", TableId::Iteration.table().name));
        let head = decode::iteration(row).map_err(bad)?;
        hash_row(TableId::Iteration, row, hash);
        let right = hash.take() == Digest::part(&head.parts, TableId::Iteration)
            && Digest::whole(&head.parts[..]) == head.sha256;
        if right { Ok(head) } else { Err(self.changed(&head)) }
    }

    fn changed(&self, head: &IterationRow) -> StoreError {
        let (number, identity) = (head.header.number, head.header.identity);
        StoreError::corrupt(
            &self.path,
            format!("iteration {number} ({identity}): its content does not match its SHA-256"),
        )
    }
}

/// A table under way, with the hash of the current iteration's rows.
struct Reading<'a> {
    table: TableId,
    cursor: TableCursor<'a>,
    hash: RowHash,
    repeats: Repeats,
}

impl Reading<'_> {
    /// Hashes the row it is at and shows it.
    fn show(&mut self, visitor: &mut impl Visitor) -> Result<(), StoreError> {
        let Self { table, cursor, hash, repeats } = self;
        let shown = match repeats.find(cursor.payload(), hash) {
            Some((Again::Nothing, _)) => Ok(()),
            Some((Again::Cell(number), free)) => visitor.again(*table, number, free),
            Some((Again::Row, _)) => {
                cursor.parse()?;
                visitor.row(*table, &cursor.row()).map(drop)
            }
            None => {
                cursor.parse()?;
                cursor.hash(hash);
                visitor.row(*table, &cursor.row()).map(|again| repeats.learn(&cursor.row(), again))
            }
        };
        shown.map_err(|what| cursor.corrupt(what))
    }
}

/// Shows the iterations of `heads`; `from` is the first of them, `None` at the beginning of the file; `end` is the one after.
fn stretch<V: Visitor>(
    file: &RecordFile,
    tables: &[TableId],
    heads: Vec<(i64, Record)>,
    from: Option<i64>,
    end: Option<i64>,
    mut visitor: V,
) -> Result<V, StoreError> {
    let reading = |&table: &TableId| {
        let cursor = TableCursor::from(file, table, from)?;
        Ok(Reading { table, cursor, hash: RowHash::new(table), repeats: Repeats::new(table) })
    };
    let mut readings = tables.iter().map(reading).collect::<Result<Vec<_>, StoreError>>()?;
    let mut hash = RowHash::new(TableId::Iteration);
    for (id, head) in heads {
        let head = file.verified(&head.row(), &mut hash)?;
        let parts = head.parts.clone();
        let name = (head.header.number, head.header.identity);
        let bad = |what: String| StoreError::corrupt(&file.path, format!("iteration {} ({}): {what}", name.0, name.1));
        visitor.begin(head).map_err(bad)?;
        for reading in &mut readings {
            reading.repeats.rewind();
            while reading.cursor.current == Some(id) {
                reading.show(&mut visitor)?;
                reading.cursor.step()?;
            }
            let table = reading.table;
            if reading.hash.take() != *Digest::part(&parts, table) {
                return Err(bad(format!("its rows in table {} do not match their SHA-256", table.table().name)));
            }
        }
        visitor.end().map_err(bad)?;
    }
    for Reading { cursor, .. } in &readings {
        if cursor.current.is_some_and(|id| end.is_none_or(|end| id < end)) {
            return Err(cursor.corrupt("rows belong to no iteration"));
        }
    }
    Ok(visitor)
}
