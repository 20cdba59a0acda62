use std::io;
use std::path::{Path, PathBuf};

/// The store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory could not be read or written.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// Verb: `read`, `write`, `list`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk, a quota or a file-size limit is exhausted.
    #[error("no space left to write {}", path.display())]
    NoSpace {
        /// Which file; nothing of it is left.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is no vptest database.
    #[error("{} is not a vptest database: {found}", path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// What was found, and what is expected.
        found: String,
    },
    /// It was written by a vptest with another schema.
    #[error("{} has schema version {found}, this vptest reads and writes version {expected}", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its `user_version`.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// It is a vptest database, but its content cannot be what vptest wrote.
    #[error("{} is corrupt: {what}", path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
    /// An attempt of that name was stored before; it was not touched.
    #[error("{} exists already; an attempt never overwrites another", path.display())]
    AlreadyExists {
        /// Which file.
        path: PathBuf,
    },
    /// The record breaks a rule of the schema and was not written.
    #[error("this iteration cannot be stored: {0}")]
    Record(#[from] BadRecord),
    /// The output of a merge has the name of an iteration file; it was not touched.
    #[error("{} is the name of an iteration file; a merge does not write into one", path.display())]
    OutputIsIteration {
        /// The output that was asked for.
        path: PathBuf,
    },
    /// The output of a merge was changed by somebody else while the merge ran; it was not touched.
    #[error("{} was changed by another program during the merge; run the merge again", path.display())]
    OutputChanged {
        /// Which file.
        path: PathBuf,
    },
    /// SQLite refused an operation.
    #[error("cannot {what} {}", path.display())]
    Sql {
        /// Verb: `query`, `extend`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A metric was asked for that cannot be given.
    #[error(transparent)]
    Metric(#[from] super::query::MetricError),
}

/// A record breaks a rule of the schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRecord(pub(crate) String);

impl StoreError {
    /// An I/O error with its place; a full disk gets a variant of its own.
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::NoSpace { path, source }
            }
            _ => Self::Io { what, path, source },
        }
    }

    pub(crate) fn corrupt(path: &Path, what: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), what: what.into() }
    }

    /// An SQLite error with its place; a full disk gets a variant of its own.
    pub(crate) fn sql(what: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => {
                Self::NoSpace { path, source: io::Error::new(io::ErrorKind::StorageFull, source) }
            }
            Some(rusqlite::ErrorCode::DatabaseCorrupt) => Self::Corrupt { path, what: source.to_string() },
            _ => Self::Sql { what, path, source },
        }
    }
}
