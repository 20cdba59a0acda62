//! One finished attempt becomes one file: absent or whole, and never in the place of another.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::campaign::AttemptName;
use super::error::StoreError;
use super::insert::Inserter;
use super::rows::Digest;
use super::{check, schema};
use crate::record::IterationRecord;

/// Writes `record` into `dir` as `NNNNNN-HASH.db` and returns the path.
///
/// The file is built beside its place under a name that begins with a dot, synced, and given its name only if nothing
/// has that name yet; then the directory is synced. When this fails, or the process dies, no file of that name exists
/// (a file that [`super::stale_temps`] finds may).
///
/// # Errors
/// [`StoreError::AlreadyExists`] when this attempt was stored before, [`StoreError::NoSpace`] when the disk is full,
/// [`StoreError::Record`] when the record breaks a rule of the schema: a number that is not finite, the same metric
/// twice.
pub fn write_iteration(dir: &Path, record: &IterationRecord) -> Result<PathBuf, StoreError> {
    let path = dir.join(AttemptName::of(&record.header).to_string());
    let bytes = serialize(&path, record)?;
    publish(&path, &bytes)?;
    Ok(path)
}

/// Gives a whole iteration file that lies elsewhere on the file system its place in a campaign, if nothing has it.
///
/// # Errors
/// As [`write_iteration`].
pub fn adopt(from: &Path, path: &Path) -> Result<(), StoreError> {
    let io = |error| StoreError::io("write", path, error);
    std::fs::set_permissions(from, Permissions::from_mode(0o644)).map_err(io)?;
    // A name that is there is not replaced.
    match tempfile::TempPath::try_from_path(from).map_err(io)?.persist_noclobber(path) {
        Ok(()) => sync_dir(parent(path)),
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {
            let kept = error.path.keep();
            kept.map_err(|error| io(error.error))?;
            Err(StoreError::AlreadyExists { path: path.to_owned() })
        }
        Err(error) => Err(io(error.error)),
    }
}

/// The whole database of one record.
fn serialize(path: &Path, record: &IterationRecord) -> Result<Vec<u8>, StoreError> {
    check::check(record)?;
    let digest = Digest::of(record);
    let sql = |source| StoreError::sql("write", path, source);
    let mut connection = Connection::open_in_memory().map_err(sql)?;
    fill(&connection, record, &digest).map_err(sql)?;
    let data = connection.serialize("main").map_err(sql)?;
    Ok(data.to_vec())
}

fn fill(connection: &Connection, record: &IterationRecord, digest: &Digest) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA journal_mode=OFF; PRAGMA foreign_keys=OFF")?;
    connection.pragma_update(None, "page_size", schema::ITERATION_PAGE_BYTES)?;
    connection.execute_batch("BEGIN")?;
    schema::create(connection)?;
    Inserter::new(connection)?.insert(record, digest)?;
    connection.execute_batch("COMMIT")
}

/// Gives `bytes` the name `path`, if nothing has it.
fn publish(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let dir = parent(path);
    let mut temp = temp_beside(path)?;
    let io = |error| StoreError::io("write", path, error);
    temp.write_all(bytes).map_err(io)?;
    temp.as_file().sync_all().map_err(io)?;
    match temp.persist_noclobber(path) {
        Ok(_) => sync_dir(dir),
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(StoreError::AlreadyExists { path: path.to_owned() })
        }
        Err(error) => Err(StoreError::io("write", path, error.error)),
    }
}

/// An empty, locked file `.NAME.PID-RANDOM.tmp` beside `path`; dropping it removes it.
///
/// The lock tells [`super::stale_temps`] that somebody is at work, also somebody in another PID namespace.
pub(super) fn temp_beside(path: &Path) -> Result<tempfile::NamedTempFile, StoreError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!(".{name}.{}-", std::process::id());
    let temp = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".tmp")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(parent(path))
        .map_err(|error| StoreError::io("write", path, error))?;
    // File systems without locks exist; the PID in the name then has to do.
    let _ = temp.as_file().try_lock();
    Ok(temp)
}

/// The directory `path` is in.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    }
}

/// Makes the names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| StoreError::io("sync", dir, error))
}
