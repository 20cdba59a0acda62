//! Records out of a database file, each checked against its SHA-256.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;

use super::check::{self, MAX_RECORD_BYTES};
use super::decode::{self, IterationRow};
use super::decode_tcp;
use super::error::StoreError;
use super::raw::{Cursor, FileHeader, HEADER_BYTES, Pages, RawError, Row, SchemaEntry};
use super::rows::{Digest, RowHash};
use super::schema::{APPLICATION_ID, SCHEMA_VERSION, TABLES, TableId};
use crate::ids::Direction;
use crate::record::{Capture, Environment, IterationRecord, Probe, SyscallTrace, Tcp};

/// A vptest database opened for reading: header, version and schema are right.
pub struct RecordFile {
    pub(super) path: PathBuf,
    pages: Pages,
    roots: [u32; TABLES.len()],
    triggers: Vec<String>,
}

/// A record and the hashes of its content.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// What was stored.
    pub record: IterationRecord,
    /// Hashes of its canonical form.
    pub(super) digest: Digest,
}

impl RecordFile {
    /// Opens an iteration file or a merged file.
    ///
    /// # Errors
    /// [`StoreError::Foreign`], [`StoreError::Version`] and [`StoreError::Corrupt`] say that this file is no input;
    /// [`StoreError::Io`] that it could not be read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let io = |error| StoreError::io("read", path, error);
        // Opening a named pipe would otherwise wait for somebody to write into it.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(foreign(path, "it is not a regular file"));
        }
        let header = check_header(path, &file)?;
        let pages = Pages::open(file, header).map_err(|error| raw(path, error))?;
        let entries = super::raw::schema(&pages).map_err(|error| raw(path, error))?;
        let roots = roots(path, &entries)?;
        let triggers = entries.into_iter().filter(|e| e.kind == "trigger").map(|e| e.name).collect();
        Ok(Self { path: path.to_owned(), pages, roots, triggers })
    }

    /// Triggers would run when the file is written to; vptest makes none.
    pub(super) fn refuse_triggers(&self) -> Result<(), StoreError> {
        match self.triggers.first() {
            Some(name) => Err(StoreError::corrupt(&self.path, format!("trigger {name} is not vptest's; remove it"))),
            None => Ok(()),
        }
    }

    /// All records in the order of `iteration.id`.
    pub fn records(&self) -> Result<Records<'_>, StoreError> {
        let mut cursors = Vec::with_capacity(TABLES.len());
        for id in TableId::ALL {
            cursors.push(TableCursor::new(self, id)?);
        }
        Ok(Records { file: self, cursors, failed: false })
    }

    /// Header rows only; content is not verified.
    pub(super) fn headers(&self) -> Result<Vec<IterationRow>, StoreError> {
        let mut table = TableCursor::new(self, TableId::Iteration)?;
        let mut rows = Vec::new();
        while table.current.is_some() {
            rows.push(table.decode(decode::iteration)?);
            table.advance()?;
        }
        Ok(rows)
    }

    /// Environment rows of all iterations; content is not verified.
    pub(super) fn environment(&self) -> Result<Vec<Environment>, StoreError> {
        let mut table = TableCursor::new(self, TableId::Environment)?;
        let mut rows = Vec::new();
        while table.current.is_some() {
            rows.push(table.decode(decode::environment)?);
            table.advance()?;
        }
        Ok(rows)
    }

    fn raw(&self, error: RawError) -> StoreError {
        raw(&self.path, error)
    }
}

fn raw(path: &Path, error: RawError) -> StoreError {
    match error {
        RawError::Io(error) => StoreError::io("read", path, error),
        RawError::Format(what) => StoreError::corrupt(path, what),
    }
}

fn foreign(path: &Path, found: impl Into<String>) -> StoreError {
    StoreError::Foreign { path: path.to_owned(), found: found.into() }
}

/// Refuses what is no SQLite database, not ours, of another version, or not at rest.
fn check_header(path: &Path, file: &File) -> Result<FileHeader, StoreError> {
    let mut head = [0; HEADER_BYTES];
    if let Err(error) = file.read_exact_at(&mut head, 0) {
        return Err(match error.kind() {
            std::io::ErrorKind::UnexpectedEof => foreign(path, "it is too short for an SQLite database"),
            _ => StoreError::io("read", path, error),
        });
    }
    let header = FileHeader::parse(&head).ok_or_else(|| foreign(path, "it is no SQLite database"))?;
    if header.application_id != APPLICATION_ID {
        let found = header.application_id;
        return Err(foreign(path, format!("application_id is {found:#010x}, expected {APPLICATION_ID:#010x}")));
    }
    if header.user_version != SCHEMA_VERSION {
        return Err(StoreError::Version {
            path: path.to_owned(),
            found: header.user_version,
            expected: SCHEMA_VERSION,
        });
    }
    if header.wal {
        return Err(StoreError::corrupt(path, "it is in WAL mode; run `PRAGMA journal_mode=DELETE` on it first"));
    }
    if !header.utf8 {
        return Err(StoreError::corrupt(path, "its text is not UTF-8"));
    }
    let mut journal = path.as_os_str().to_owned();
    journal.push("-journal");
    if Path::new(&journal).exists() {
        return Err(StoreError::corrupt(path, "another program was changing it (there is a -journal file beside it)"));
    }
    Ok(header)
}

/// Root pages of our tables; further tables, views and indices of the user's are left alone.
fn roots(path: &Path, entries: &[SchemaEntry]) -> Result<[u32; TABLES.len()], StoreError> {
    let mut roots = [0; TABLES.len()];
    for (root, table) in roots.iter_mut().zip(&TABLES) {
        let entry = entries
            .iter()
            .find(|entry| entry.kind == "table" && entry.name == table.name)
            .ok_or_else(|| StoreError::corrupt(path, format!("table {} is missing", table.name)))?;
        if entry.sql != table.sql {
            let what = format!("table {} is not defined as in schema version {SCHEMA_VERSION}", table.name);
            return Err(StoreError::corrupt(path, what));
        }
        *root = entry.root;
    }
    Ok(roots)
}

/// Adds a row of a table to a hash, in the form in which it was written.
pub(super) fn hash_row(table: TableId, row: &Row<'_>, rows: &mut RowHash) {
    let columns = &table.table().columns[1..];
    let hashed = if table == TableId::Iteration { &columns[..columns.len() - 2] } else { columns };
    rows.begin(hashed.len());
    for (kind, at) in hashed.iter().zip(1..) {
        rows.cell(super::repeat::as_hashed(*kind, row.get(at).unwrap_or(ValueRef::Null)));
    }
    rows.end();
}

/// A cursor with one row of lookahead.
pub(super) struct TableCursor<'a> {
    file: &'a RecordFile,
    id: TableId,
    cursor: Cursor<'a>,
    /// Iteration the current row belongs to; `None` after the last row.
    pub(super) current: Option<i64>,
    /// Bytes of rows of one iteration; a hostile file must not fill the memory before its hash is found wrong.
    bytes: usize,
}

impl<'a> TableCursor<'a> {
    pub(super) fn new(file: &'a RecordFile, id: TableId) -> Result<Self, StoreError> {
        Self::from(file, id, None)
    }

    /// From the first row of `iteration` or a later one, in a table without rowid; from the first row of all for `None`.
    pub(super) fn from(file: &'a RecordFile, id: TableId, iteration: Option<i64>) -> Result<Self, StoreError> {
        let mut cursor = Cursor::new(&file.pages, file.roots[id as usize]).map_err(|error| file.raw(error))?;
        if let Some(iteration) = iteration {
            cursor.seek(iteration).map_err(|error| file.raw(error))?;
        }
        let mut table = Self { file, id, cursor, current: None, bytes: 0 };
        table.advance()?;
        Ok(table)
    }

    /// The row it is at.
    pub(super) fn row(&self) -> Row<'_> {
        self.cursor.row()
    }

    /// Adds the row it is at to a hash, in the form in which it was written.
    pub(super) fn hash(&self, rows: &mut RowHash) {
        hash_row(self.id, &self.cursor.row(), rows);
    }

    pub(super) fn advance(&mut self) -> Result<(), StoreError> {
        self.current = None;
        if self.cursor.step().map_err(|error| self.file.raw(error))? { self.parse() } else { Ok(()) }
    }

    /// As [`Self::advance`], but of the row only the iteration is known until [`Self::parse`].
    pub(super) fn step(&mut self) -> Result<(), StoreError> {
        self.current = None;
        if !self.cursor.step().map_err(|error| self.file.raw(error))? {
            return Ok(());
        }
        self.current = super::repeat::first_number(self.cursor.payload());
        // Parsing says what is wrong with a row that does not begin with a number.
        if self.current.is_none() { self.parse() } else { Ok(()) }
    }

    /// The record it is at, as it is stored.
    pub(super) fn payload(&self) -> &[u8] {
        self.cursor.payload()
    }

    /// Finds the columns of the row it is at.
    pub(super) fn parse(&mut self) -> Result<(), StoreError> {
        self.cursor.parse().map_err(|error| self.file.raw(error))?;
        let row = self.cursor.row();
        if row.len() != self.id.table().columns.len() {
            return Err(self.corrupt(format!("a row has {} columns", row.len())));
        }
        self.current = match (self.id, row.rowid(), row.get(0)) {
            (TableId::Iteration, Some(rowid), _) => Some(rowid),
            (_, _, Some(ValueRef::Integer(iteration))) => Some(iteration),
            _ => return Err(self.corrupt("a row belongs to no iteration")),
        };
        Ok(())
    }

    pub(super) fn corrupt(&self, what: impl std::fmt::Display) -> StoreError {
        StoreError::corrupt(&self.file.path, format!("table {}: {what}", self.id.table().name))
    }

    pub(super) fn decode<T>(&self, decode: fn(&Row<'_>) -> Result<T, String>) -> Result<T, StoreError> {
        decode(&self.cursor.row()).map_err(|what| self.corrupt(what))
    }

    /// All rows of `iteration`; the cursor is at the first of them.
    fn collect<T>(&mut self, iteration: i64, decode: fn(&Row<'_>) -> Result<T, String>) -> Result<Vec<T>, StoreError> {
        let mut items = Vec::new();
        self.bytes = 0;
        while self.current == Some(iteration) {
            self.bytes += self.cursor.row().bytes();
            if items.len() == self.id.most_rows() || self.bytes > MAX_RECORD_BYTES {
                let limits = format!("{} rows or {MAX_RECORD_BYTES} bytes", self.id.most_rows());
                return Err(self.corrupt(format!("iteration {iteration} has more than {limits}")));
            }
            items.push(self.decode(decode)?);
            self.advance()?;
        }
        Ok(items)
    }
}

/// Iterator over the records of a file; ends after the first error.
pub struct Records<'a> {
    file: &'a RecordFile,
    cursors: Vec<TableCursor<'a>>,
    failed: bool,
}

impl<'a> Records<'a> {
    fn table(&mut self, id: TableId) -> &mut TableCursor<'a> {
        &mut self.cursors[id as usize]
    }

    fn read(&mut self) -> Result<Option<Verified>, StoreError> {
        let iterations = self.table(TableId::Iteration);
        let Some(id) = iterations.current else {
            return self.check_end().map(|()| None);
        };
        let IterationRow { header, outcome, parts, sha256 } = iterations.decode(decode::iteration)?;
        iterations.advance()?;
        let mut record = IterationRecord {
            header,
            outcome,
            factors: self.table(TableId::Factor).collect(id, decode::factor)?,
            settings: self.table(TableId::Setting).collect(id, decode::setting)?,
            metrics: self.table(TableId::Metric).collect(id, decode::metric)?,
            quantiles: self.table(TableId::Quantile).collect(id, decode::quantile)?,
            captures: self.table(TableId::Capture).collect(id, decode::capture)?,
            paths: self.table(TableId::Path).collect(id, super::path::path)?,
            syscalls: self.table(TableId::SyscallTrace).collect(id, super::syscalls::trace)?,
            probes: self.table(TableId::Probe).collect(id, super::probe::probe)?,
            counters: self.table(TableId::CounterPlace).collect(id, super::counters::place)?,
            events: self.table(TableId::Event).collect(id, decode::event)?,
            stages: self.table(TableId::Stage).collect(id, decode::stage)?,
            environment: self.table(TableId::Environment).collect(id, decode::environment)?,
        };
        let sizes = self.table(TableId::CaptureSize);
        for (capture, bin) in sizes.collect(id, decode::capture_size)? {
            match record.captures.get_mut(capture) {
                Some(capture) => capture.sizes.push(bin),
                None => return Err(sizes.corrupt(format!("capture {capture} does not exist"))),
            }
        }
        self.read_tcp(id, &mut record.captures)?;
        self.each(TableId::PathDirection, id, super::path::direction, |path, (direction, numbers)| {
            record.paths.get_mut(path)?.directions[index(direction)] = numbers;
            Some(())
        })?;
        self.read_syscalls(id, &mut record.syscalls)?;
        self.read_probes(id, &mut record.probes)?;
        self.each(TableId::CounterSource, id, super::counters::source, |place, source| {
            record.counters.get_mut(place).map(|place| place.sources.push(source))
        })?;
        self.each(TableId::CounterSeries, id, super::counters::series, |place, series| {
            record.counters.get_mut(place).map(|place| place.series.push(series))
        })?;
        let digest = Digest { parts, sha256 };
        self.verify(&record, &digest)?;
        Ok(Some(Verified { record, digest }))
    }

    /// Adds what the captures say about TCP.
    fn read_tcp(&mut self, id: i64, captures: &mut [Capture]) -> Result<(), StoreError> {
        self.each(TableId::Tcp, id, decode_tcp::tcp, |capture, tcp| {
            captures.get_mut(capture)?.tcp.replace(tcp).is_none().then_some(())
        })?;
        self.each(TableId::TcpDirection, id, decode_tcp::direction, |capture, (direction, numbers)| {
            of(captures, capture)?.directions[index(direction)] = numbers;
            Some(())
        })?;
        self.each(TableId::ConnectionStatistic, id, decode_tcp::statistic, |capture, statistic| {
            of(captures, capture).map(|tcp| tcp.statistics.push(statistic))
        })?;
        self.each(TableId::TcpSeries, id, decode_tcp::series, |capture, bin| {
            of(captures, capture).map(|tcp| tcp.series.push(bin))
        })?;
        self.each(TableId::TcpStall, id, decode_tcp::stall, |capture, stall| {
            of(captures, capture).map(|tcp| tcp.first_stalls.push(stall))
        })?;
        self.each(TableId::Connection, id, decode_tcp::connection, |capture, connection| {
            of(captures, capture).map(|tcp| tcp.rows.push(connection))
        })?;
        self.each(TableId::ConnectionDirection, id, decode_tcp::values, |capture, (number, direction, values)| {
            let rows = &mut of(captures, capture)?.rows;
            let at = rows.binary_search_by_key(&number, |connection| connection.number).ok()?;
            rows[at].values[index(direction)] = values;
            Some(())
        })
    }

    /// Adds what was counted of system calls.
    fn read_syscalls(&mut self, id: i64, traces: &mut [SyscallTrace]) -> Result<(), StoreError> {
        use super::syscalls::{call, error, find, loss, process, sizes, transition};
        self.each(TableId::SyscallLoss, id, loss, |trace, loss| {
            traces.get_mut(trace).map(|trace| trace.losses.push(loss))
        })?;
        self.each(TableId::SyscallProcess, id, process, |trace, process| {
            traces.get_mut(trace).map(|trace| trace.processes.push(process))
        })?;
        self.each(TableId::Syscall, id, call, |process, call| {
            find(traces, process).map(|process| process.by_call.push(call))
        })?;
        self.each(TableId::SyscallError, id, error, |process, (name, error)| {
            let calls = &mut find(traces, process)?.by_call;
            let at = calls.binary_search_by(|call| call.name.cmp(&name)).ok()?;
            calls[at].by_error.push(error);
            Some(())
        })?;
        self.each(TableId::SyscallTransition, id, transition, |process, transition| {
            find(traces, process).map(|process| process.transitions.push(transition))
        })?;
        self.each(TableId::SyscallSize, id, sizes, |process, sizes| {
            find(traces, process).map(|process| process.sizes.push(sizes))
        })
    }

    /// Adds the ends, ways and series of path probes.
    fn read_probes(&mut self, id: i64, probes: &mut [Probe]) -> Result<(), StoreError> {
        self.each(TableId::ProbeEnd, id, super::probe::end, |probe, (at, end)| {
            probes.get_mut(probe)?.ends[at].replace(end).is_none().then_some(())
        })?;
        self.each(TableId::ProbePath, id, super::probe::path, |probe, (way, path)| {
            probes.get_mut(probe)?.paths[way.index()] = path;
            Some(())
        })?;
        self.each(TableId::ProbeSeries, id, super::probe::bin, |probe, bin| {
            probes.get_mut(probe).map(|probe| probe.series.push(bin))
        })
    }

    /// Puts each row of a table where it belongs; `put` says `None` when there is no such place.
    fn each<T>(
        &mut self,
        table: TableId,
        id: i64,
        decode: fn(&Row<'_>) -> Result<(usize, T), String>,
        mut put: impl FnMut(usize, T) -> Option<()>,
    ) -> Result<(), StoreError> {
        let table = self.table(table);
        for (capture, item) in table.collect(id, decode)? {
            if put(capture, item).is_none() {
                return Err(table.corrupt(format!("a row of iteration {id} belongs to nothing")));
            }
        }
        Ok(())
    }

    fn verify(&self, record: &IterationRecord, stored: &Digest) -> Result<(), StoreError> {
        let name = || format!("iteration {} ({})", record.header.number, record.header.identity);
        check::check(record).map_err(|bad| StoreError::corrupt(&self.file.path, format!("{}: {bad}", name())))?;
        if Digest::of(record) == *stored {
            return Ok(());
        }
        Err(StoreError::corrupt(&self.file.path, format!("{}: its content does not match its SHA-256", name())))
    }

    /// Rows that are left belong to no iteration.
    fn check_end(&self) -> Result<(), StoreError> {
        match self.cursors.iter().find(|table| table.current.is_some()) {
            Some(table) => Err(table.corrupt("rows belong to no iteration")),
            None => Ok(()),
        }
    }
}

fn of(captures: &mut [Capture], index: usize) -> Option<&mut Tcp> {
    captures.get_mut(index)?.tcp.as_mut()
}

const fn index(direction: Direction) -> usize {
    match direction {
        Direction::AToB => 0,
        Direction::BToA => 1,
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Verified, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self.read().transpose();
        self.failed = !matches!(item, Some(Ok(_)));
        item
    }
}
