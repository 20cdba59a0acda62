//! Many databases into one.
//!
//! Reader threads decode and verify the inputs; this thread alone writes, in the order of the inputs, so that the same
//! call gives the same file. Each reader holds a bounded number of records, so memory does not grow with the input.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Statement};

use super::campaign::AttemptName;
use super::error::StoreError;
use super::insert::Inserter;
use super::reader::{RecordFile, Verified};
use super::schema;
use super::writer::{parent, sync_dir, temp_beside};
use crate::record::{Header, Status};

/// Records a reader may be ahead of the writer.
const LOOKAHEAD: usize = 32;

/// Page cache of the output in KiB.
const CACHE_KIB: i32 = 16 * 1024;

/// What a merge did.
#[derive(Debug, Default)]
pub struct MergeReport {
    /// Inputs that were taken: read to their end, or, where the output has their one attempt already, their head.
    pub files: usize,
    /// Attempts that were added.
    pub added: u64,
    /// Attempts that the output, or an earlier input, already held with the same content.
    pub known: u64,
    /// Inputs that are the output itself.
    pub own: usize,
    /// Inputs that were refused, each with its error; nothing of them was added. Not empty: exit status 4.
    pub refused: Vec<StoreError>,
    /// Iterations of the output that were run to completion more than once, on whatever hosts; one of these attempts counts in
    /// analysis.
    pub repeated: u64,
    /// Attempts whose content differs from what was there before; the earlier one was kept. Not empty: exit status 4.
    pub conflicts: Vec<Conflict>,
}

impl MergeReport {
    /// Was every input taken in, without contradiction?
    pub fn is_clean(&self) -> bool {
        self.refused.is_empty() && self.conflicts.is_empty()
    }
}

/// Two different contents for what should be one attempt: same identity, attempt, host and time of start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: attempt {attempt} at iteration {number} ({identity}) on {host} differs from the one that is already merged", path.display())]
pub struct Conflict {
    /// The input that was not taken.
    pub path: PathBuf,
    /// Number of the iteration in it.
    pub number: u32,
    /// Identity of the iteration.
    pub identity: crate::ids::ShortHash,
    /// Number of the attempt.
    pub attempt: u32,
    /// Host it ran on.
    pub host: String,
}

/// How far a merge is, in inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeProgress {
    /// Inputs that are done.
    pub done: usize,
    /// All inputs.
    pub total: usize,
}

/// Adds the attempts in `inputs` (iteration files or merged files) to `output`, which is made if it does not exist.
///
/// An attempt is known by identity, attempt number, host and time of start; one that is there already is not added
/// again, so running a merge again changes nothing: the output is then not even opened for writing. Of an iteration file only the
/// head is read when the output has its attempt with the same hash. Otherwise the new
/// output is written beside the old one and takes its name at the end; until then the old one is as it was. The order
/// of inputs decides nothing but `iteration.id`. When no input can be read and there is no output yet, none is made.
/// `progress` is told after each input.
///
/// # Errors
/// Inputs that cannot be read are reported, not errors. An error means that the output is as it was: it cannot be read
/// or written, it holds triggers, another program changed it meanwhile, or its name is that of an iteration file
/// ([`StoreError::OutputIsIteration`]: `-o out/*.db` makes the first of them the output).
pub fn merge(
    inputs: &[PathBuf],
    output: &Path,
    progress: &mut dyn FnMut(MergeProgress),
) -> Result<MergeReport, StoreError> {
    let output = Output::find(output)?;
    let own = output.before;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4).min(inputs.len());
    std::thread::scope(|scope| {
        let mut readers = Vec::with_capacity(threads);
        for first in 0..threads {
            let (sender, receiver) = sync_channel(LOOKAHEAD);
            let inputs = inputs.iter().skip(first).step_by(threads);
            let output = own.is_some().then_some(output.path.as_path());
            scope.spawn(move || read_all(inputs, own, output, &sender));
            readers.push(receiver);
        }
        // Returning early drops the receivers, which ends the readers.
        let events = Events { inputs, readers, at: 0 };
        Merge { events, report: MergeReport::default(), progress }.run(&output)
    })
}

/// The messages of all readers, in the order of the inputs.
struct Events<'a> {
    inputs: &'a [PathBuf],
    readers: Vec<Receiver<Message>>,
    at: usize,
}

impl<'a> Iterator for Events<'a> {
    type Item = (&'a Path, Message);

    fn next(&mut self) -> Option<Self::Item> {
        let path = self.inputs.get(self.at)?;
        let reader = &self.readers[self.at % self.readers.len()];
        let message = reader.recv().expect("a reader ends each of its inputs with a message, unless it panicked");
        if !matches!(message, Message::Record(_)) {
            self.at += 1;
        }
        Some((path, message))
    }
}

/// A merge under way.
struct Merge<'a, 'p> {
    events: Events<'a>,
    report: MergeReport,
    progress: &'p mut dyn FnMut(MergeProgress),
}

impl<'a> Merge<'a, '_> {
    fn run(mut self, output: &Output) -> Result<MergeReport, StoreError> {
        let pending = match output.before {
            None => self.next_new(&mut |_| Ok(None))?,
            Some(_) => {
                let existing = output.open_existing()?;
                let mut find = Lookup::new(&existing).map_err(|error| output.sql(error))?;
                self.next_new(&mut |record| find.compare(record).map_err(|error| output.sql(error)))?
            }
        };
        if pending.is_some() || (output.before.is_none() && self.report.files > 0) {
            self.extend(output, pending)?;
        }
        if self.report.added + self.report.known > 0 {
            self.report.repeated = output.repeated()?;
        }
        Ok(self.report)
    }

    /// Writes the new output: `pending` and everything after it.
    fn extend(&mut self, output: &Output, pending: Option<(&Path, Box<Verified>)>) -> Result<(), StoreError> {
        let temp = output.begin()?;
        let sql = |error| output.sql(error);
        let connection = open_temp(temp.path(), output.before.is_none()).map_err(sql)?;
        {
            let mut find = Lookup::new(&connection).map_err(sql)?;
            let mut inserter = Inserter::new(&connection).map_err(sql)?;
            let mut add = |record: &Verified| -> rusqlite::Result<Added> {
                if let Some(known) = find.compare(record)? {
                    return Ok(known);
                }
                inserter.insert(&record.record, &record.digest)?;
                Ok(Added::New)
            };
            if let Some((path, record)) = pending {
                let added = add(&record).map_err(sql)?;
                self.count(path, &record, added);
            }
            self.next_new(&mut |record| add(record).map(Some).map_err(sql))?;
        }
        connection.execute_batch("COMMIT").map_err(sql)?;
        connection.close().map_err(|(_, error)| sql(error))?;
        output.finish(temp)
    }

    /// Accounts for what `add` knows what to do with; returns the first record of which it says `None`.
    fn next_new(
        &mut self,
        add: &mut dyn FnMut(&Verified) -> Result<Option<Added>, StoreError>,
    ) -> Result<Option<(&'a Path, Box<Verified>)>, StoreError> {
        while let Some((path, message)) = self.events.next() {
            match message {
                Message::Record(record) => match add(&record)? {
                    Some(added) => self.count(path, &record, added),
                    None => return Ok(Some((path, record))),
                },
                Message::End => self.report.files += 1,
                Message::Known => {
                    self.report.files += 1;
                    self.report.known += 1;
                }
                Message::Own => self.report.own += 1,
                Message::Refused(error) => self.report.refused.push(error),
                Message::Changed(error) => return Err(error),
            }
            (self.progress)(MergeProgress { done: self.events.at, total: self.events.inputs.len() });
        }
        Ok(None)
    }

    fn count(&mut self, path: &Path, record: &Verified, added: Added) {
        match added {
            Added::New => self.report.added += 1,
            Added::Known => self.report.known += 1,
            Added::Conflict => self.report.conflicts.push(conflict(path, &record.record.header)),
        }
    }
}

/// What a reader says about the input it is at; all but the first kind end that input.
enum Message {
    Record(Box<Verified>),
    End,
    /// The output has the one attempt of this input already.
    Known,
    Own,
    Refused(StoreError),
    /// The input was right when it was read first, and wrong when it was read again.
    Changed(StoreError),
}

fn conflict(path: &Path, header: &Header) -> Conflict {
    Conflict {
        path: path.to_owned(),
        number: header.number.0,
        identity: header.identity,
        attempt: header.attempt,
        host: header.host.clone(),
    }
}

fn read_all<'a>(
    inputs: impl Iterator<Item = &'a PathBuf>,
    own: Option<FileId>,
    output: Option<&Path>,
    to: &SyncSender<Message>,
) {
    // An output that cannot be read is told by the writer.
    let output = output.and_then(|path| super::open_read_only(path).ok());
    let mut known = output.as_ref().and_then(|output| Lookup::new(output).ok());
    for path in inputs {
        let is_own = own.is_some_and(|own| FileId::of(path).is_some_and(|id| own.same_file(&id)));
        let end = if is_own { Message::Own } else { read(path, known.as_mut(), to) };
        if to.send(end).is_err() {
            return;
        }
    }
}

/// Sends the records of `path` if all of them are right, and returns the message that ends it.
fn read(path: &Path, known: Option<&mut Lookup<'_>>, to: &SyncSender<Message>) -> Message {
    let file = match RecordFile::open(path) {
        Ok(file) => file,
        Err(error) => return Message::Refused(error),
    };
    if known.is_some_and(|known| has(known, path, &file)) {
        return Message::Known;
    }
    match sole_record(&file) {
        Err(error) => Message::Refused(error),
        Ok(Some(record)) => {
            // A send fails only when the merge is given up; the next one will end the thread.
            let _ = to.send(Message::Record(Box::new(record)));
            Message::End
        }
        Ok(None) => match send_all(&file, to) {
            Ok(()) => Message::End,
            Err(error) => Message::Changed(error),
        },
    }
}

/// Does the output have the attempt of an iteration file? What is wrong with the file is for a full reading to say.
fn has(known: &mut Lookup<'_>, path: &Path, file: &RecordFile) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<AttemptName>().ok());
    let heads = name.and_then(|_| file.headers().ok()).unwrap_or_default();
    let [head] = heads.as_slice() else { return false };
    known.find(&head.header).ok().flatten().is_some_and(|sha256| sha256 == head.sha256)
}

/// The record of a file that has one; for a file of many `None`, after reading it to its end, so that nothing is taken
/// from one that is damaged anywhere.
fn sole_record(file: &RecordFile) -> Result<Option<Verified>, StoreError> {
    let mut records = file.records()?;
    let first = records.next().transpose()?;
    let mut rest = 0_u64;
    for record in records {
        record?;
        rest += 1;
    }
    Ok(first.filter(|_| rest == 0))
}

fn send_all(file: &RecordFile, to: &SyncSender<Message>) -> Result<(), StoreError> {
    for record in file.records()? {
        if to.send(Message::Record(Box::new(record?))).is_err() {
            break;
        }
    }
    Ok(())
}

/// What tells whether a file is the same, and unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl FileId {
    /// `None` when there is no such file.
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        let modified = (meta.mtime(), meta.mtime_nsec());
        Some(Self { device: meta.dev(), inode: meta.ino(), bytes: meta.len(), modified })
    }

    fn same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

enum Added {
    New,
    Known,
    Conflict,
}

/// Looks attempts up by their key.
struct Lookup<'c>(Statement<'c>);

impl<'c> Lookup<'c> {
    fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        let sql = "SELECT sha256 FROM main.iteration WHERE identity=?1 AND attempt=?2 AND host=?3 AND started_ns=?4";
        connection.prepare(sql).map(Self)
    }

    /// SHA-256 of an attempt; `None` when it is not there.
    fn find(&mut self, h: &Header) -> rusqlite::Result<Option<Vec<u8>>> {
        let key = (h.identity.to_string(), h.attempt, &h.host, h.started_ns);
        self.0.query_row(key, |row| row.get(0)).optional()
    }

    /// `None` when there is no such attempt.
    fn compare(&mut self, new: &Verified) -> rusqlite::Result<Option<Added>> {
        let known = self.find(&new.record.header)?;
        Ok(known.map(|sha256| if sha256 == new.digest.sha256 { Added::Known } else { Added::Conflict }))
    }
}

/// A merged file of such a name would be taken for an attempt, and an attempt is never changed.
fn refuse_iteration_name(path: &Path) -> Result<(), StoreError> {
    let name = path.file_name().and_then(|name| name.to_str());
    match name.map(str::parse::<AttemptName>) {
        Some(Ok(_)) => Err(StoreError::OutputIsIteration { path: path.to_owned() }),
        _ => Ok(()),
    }
}

/// The output as it was before.
struct Output {
    path: PathBuf,
    /// `None` when it did not exist.
    before: Option<FileId>,
}

impl Output {
    /// Follows symbolic links, so that the file and not the link is replaced.
    fn find(path: &Path) -> Result<Self, StoreError> {
        refuse_iteration_name(path)?;
        match std::fs::canonicalize(path) {
            Ok(path) => refuse_iteration_name(&path).map(|()| Self { before: FileId::of(&path), path }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self { path: path.to_owned(), before: None })
            }
            Err(error) => Err(StoreError::io("read", path, error)),
        }
    }

    fn sql(&self, source: rusqlite::Error) -> StoreError {
        StoreError::sql("extend", &self.path, source)
    }

    /// Opens the old output for look-ups.
    fn open_existing(&self) -> Result<Connection, StoreError> {
        RecordFile::open(&self.path)?.refuse_triggers()?;
        super::open_read_only(&self.path)
    }

    /// Iterations that were run to completion more than once.
    fn repeated(&self) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM (SELECT 1 FROM main.iteration WHERE status = ?1 GROUP BY identity HAVING count(*) > 1)";
        let db = super::open_read_only(&self.path)?;
        let count: i64 = db.query_row(sql, [Status::Complete.as_str()], |row| row.get(0)).map_err(|e| self.sql(e))?;
        Ok(count.unsigned_abs())
    }

    /// A temporary file that begins as the old output does; that one is verified first.
    fn begin(&self) -> Result<tempfile::NamedTempFile, StoreError> {
        let temp = temp_beside(&self.path)?;
        if self.before.is_some() {
            RecordFile::open(&self.path)?.records()?.try_for_each(|record| record.map(drop))?;
            let io = |error| StoreError::io("copy", &self.path, error);
            let mut old = File::open(&self.path).map_err(io)?;
            std::io::copy(&mut old, &mut temp.as_file()).map_err(io)?;
            let mode = old.metadata().map_err(io)?.permissions();
            temp.as_file().set_permissions(mode).map_err(io)?;
        }
        Ok(temp)
    }

    /// Gives the new output its name.
    fn finish(&self, temp: tempfile::NamedTempFile) -> Result<(), StoreError> {
        let io = |error| StoreError::io("write", &self.path, error);
        let changed = || StoreError::OutputChanged { path: self.path.clone() };
        temp.as_file().sync_all().map_err(io)?;
        if FileId::of(&self.path) != self.before {
            return Err(changed());
        }
        if self.before.is_some() {
            temp.persist(&self.path).map_err(|error| io(error.error))?;
        } else {
            temp.persist_noclobber(&self.path).map_err(|error| match error.error.kind() {
                std::io::ErrorKind::AlreadyExists => changed(),
                _ => io(error.error),
            })?;
        }
        sync_dir(parent(&self.path))
    }
}

/// Opens the temporary file and begins the one transaction of the merge.
///
/// No journal and no syncing: when anything fails, the file is thrown away. No CHECK constraints: every record that comes here was
/// read by [`RecordFile::records`], which knows the same rules and more, and SQLite would build a table for each list of allowed words
/// in each row.
fn open_temp(path: &Path, empty: bool) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.execute_batch(&format!(
        "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA foreign_keys=OFF; PRAGMA locking_mode=EXCLUSIVE; \
         PRAGMA ignore_check_constraints=ON; PRAGMA cache_size=-{CACHE_KIB};"
    ))?;
    // Only now: in defensive mode SQLite does not let go of the journal.
    super::harden(&connection)?;
    if empty {
        connection.pragma_update(None, "page_size", schema::MERGED_PAGE_BYTES)?;
    }
    connection.execute_batch("BEGIN")?;
    if empty {
        schema::create(&connection)?;
    }
    Ok(connection)
}
