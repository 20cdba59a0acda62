//! SQLite: schema, iteration writer, merge, queries. The only SQL.
//!
//! One schema serves the small file that every attempt at an iteration leaves and the merged file that analysis reads
//! (see `docs/schema.md`). [`write_iteration`] makes the former, [`merge()`] the latter.
//! Inputs of a merge are read by a reader of our own ([`RecordFile`]) and believed only when the stored SHA-256 of their
//! content agrees; SQLite itself writes, and answers queries on the merged file.

mod campaign;
mod check;
mod check_tcp;
mod chosen;
mod circumstances;
mod conditions;
mod counters;
mod dataset;
mod decode;
mod decode_tcp;
mod error;
mod index;
mod insert;
mod listing;
mod load;
mod looks;
mod merge;
mod path;
mod pooled;
mod probe;
mod query;
mod raw;
mod reader;
mod repeat;
mod rows;
mod rows_tcp;
mod scan;
mod schema;
mod slots;
mod syscalls;
mod traced;
mod traffic;
mod writer;

pub use campaign::{
    AttemptHead, AttemptName, Attempts, BadAttemptName, Measured, NamedHead, environment, head, heads, measured,
    next_attempt, scan, stale_temps,
};
pub(crate) use check::check as check_record;
pub use chosen::Chosen;
pub use circumstances::{Circumstances, Fact, SettingKind};
pub use conditions::Conditions;
pub use dataset::{Dataset, Iteration, MetricColumn, Reading};
pub use error::{BadRecord, StoreError};
pub use looks::{Look, Looks, looks, looks_path, record_look};
pub use merge::{Conflict, MergeProgress, MergeReport, merge};
pub use pooled::Pool;
pub use query::{Database, LeftOut, MetricError, MetricInfo, Observation, Observations};
pub use reader::{RecordFile, Records, Verified};
pub use schema::{APPLICATION_ID, SCHEMA_VERSION};
pub use traced::TracedIteration;
pub use traffic::{CapturePlace, Flow, Mean, Series, Traffic};
pub use writer::{adopt, write_iteration};

/// Opens a database that [`RecordFile::open`] accepted, for reading with SQL.
fn open_read_only(path: &std::path::Path) -> Result<rusqlite::Connection, StoreError> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = rusqlite::Connection::open_with_flags(path, flags)?;
        harden(&connection)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    };
    open().map_err(|error| StoreError::sql("read", path, error))
}

/// The file may come from anybody: nothing in its schema may call functions or touch SQLite's own tables.
fn harden(connection: &rusqlite::Connection) -> rusqlite::Result<()> {
    use rusqlite::config::DbConfig;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
