//! Records into an open database.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement};

use super::rows::{self, Digest};
use super::schema::TableId;
use crate::record::IterationRecord;

/// One prepared statement for each table.
pub(super) struct Inserter<'c> {
    connection: &'c Connection,
    statements: Vec<Statement<'c>>,
}

impl<'c> Inserter<'c> {
    pub(super) fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        let prepare = |id: TableId| {
            let table = id.table();
            let places = vec!["?"; table.columns.len()].join(",");
            connection.prepare(&format!("INSERT INTO main.{} VALUES({places})", table.name))
        };
        let statements = TableId::ALL.into_iter().map(prepare).collect::<Result<_, _>>()?;
        Ok(Self { connection, statements })
    }

    /// Inserts `record`, whose content has the hashes `digest`, and returns its `iteration.id`.
    pub(super) fn insert(&mut self, record: &IterationRecord, digest: &Digest) -> rusqlite::Result<i64> {
        let mut iteration = None;
        rows::emit(record, |table, row| {
            let statement = &mut self.statements[table as usize];
            let mut next = 1;
            let mut bind = |value: ValueRef<'_>| {
                next += 1;
                statement.raw_bind_parameter(next - 1, ToSqlOutput::Borrowed(value))
            };
            bind(iteration.map_or(ValueRef::Null, ValueRef::Integer))?;
            row.iter().try_for_each(|cell| bind(*cell))?;
            if table == TableId::Iteration {
                bind(ValueRef::Blob(&digest.parts[..]))?;
                bind(ValueRef::Blob(&digest.sha256))?;
            }
            statement.raw_execute()?;
            if table == TableId::Iteration {
                iteration = Some(self.connection.last_insert_rowid());
            }
            Ok::<(), rusqlite::Error>(())
        })?;
        Ok(iteration.expect("every record has an iteration row, and it comes first"))
    }
}
