//! Reading rows straight out of an SQLite file, in safe Rust and without SQL.
//!
//! Merging opens ten thousand files of thirty kilobytes. SQLite spends most of that time on parsing the schema of each and
//! preparing a statement for each table; and a file from elsewhere may hold views, triggers and damage that are better
//! never shown to a query engine. So inputs are read here: bounds are checked at every step, a page is never visited
//! twice by one cursor, and what was read is believed only when its SHA-256 agrees with the stored one (see
//! [`super::reader`]).
//!
//! Source: <https://www.sqlite.org/fileformat2.html>, sections 1.3 (header), 1.6 (b-tree pages), 2.1 (records), 2.6
//! (the schema table).

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rusqlite::types::ValueRef;

/// What every SQLite 3 file begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Length of the header on page 1.
pub(super) const HEADER_BYTES: usize = 100;

/// Files up to this size are read whole; larger ones page by page.
const WHOLE_BYTES: u64 = 4 << 20;

/// No payload of ours is larger: one row of texts, each below [`super::check::MAX_TEXT_BYTES`].
const MAX_PAYLOAD_BYTES: u64 = 8 * super::check::MAX_TEXT_BYTES as u64;

/// Deeper trees do not exist: even with two cells a page this is more than 2^40 rows.
const MAX_DEPTH: usize = 40;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum RawError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Format(String),
}

fn format<T>(what: impl Into<String>) -> Result<T, RawError> {
    Err(RawError::Format(what.into()))
}

/// What the header of an SQLite file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) page_bytes: u32,
    pub(super) usable_bytes: u32,
    pub(super) pages: u32,
    pub(super) application_id: u32,
    pub(super) user_version: u32,
    /// The file may have content in a `-wal` file beside it.
    pub(super) wal: bool,
    pub(super) utf8: bool,
}

impl FileHeader {
    /// Reads the header; `None` when this is no SQLite 3 file.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let head = bytes.get(..HEADER_BYTES)?;
        if &head[..16] != MAGIC {
            return None;
        }
        let be32 = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let page_bytes = match u16::from_be_bytes([head[16], head[17]]) {
            1 => 65536,
            n if n >= 512 && n.is_power_of_two() => u32::from(n),
            _ => return None,
        };
        let usable_bytes = page_bytes - u32::from(head[20]);
        // Fewer usable bytes than 480 are forbidden by the format.
        (usable_bytes >= 480).then_some(Self {
            page_bytes,
            usable_bytes,
            pages: be32(28),
            application_id: be32(68),
            user_version: be32(60),
            wal: head[18] == 2 || head[19] == 2,
            utf8: be32(56) == 1,
        })
    }
}

/// The pages of one file.
pub(super) struct Pages {
    source: Source,
    header: FileHeader,
}

enum Source {
    Memory(Vec<u8>),
    File(File),
}

impl Pages {
    /// Opens `file`, whose first bytes gave `header`.
    pub(super) fn open(file: File, header: FileHeader) -> Result<Self, RawError> {
        let bytes = file.metadata()?.len();
        let expected = u64::from(header.pages) * u64::from(header.page_bytes);
        if bytes != expected || header.pages == 0 {
            return format(format!("it has {bytes} bytes, its header says {expected}"));
        }
        let source = if bytes <= WHOLE_BYTES {
            let mut content = vec![0; index(bytes)?];
            file.read_exact_at(&mut content, 0)?;
            Source::Memory(content)
        } else {
            Source::File(file)
        };
        Ok(Self { source, header })
    }

    /// Page `number`, counted from 1.
    fn page(&self, number: u32) -> Result<Cow<'_, [u8]>, RawError> {
        if number == 0 || number > self.header.pages {
            return format(format!("page {number} does not exist"));
        }
        let length = self.header.page_bytes as usize;
        let offset = u64::from(number - 1) * u64::from(self.header.page_bytes);
        match &self.source {
            Source::Memory(content) => {
                let start = index(offset)?;
                match content.get(start..start + length) {
                    Some(page) => Ok(Cow::Borrowed(page)),
                    None => format(format!("page {number} lies beyond the end of the file")),
                }
            }
            Source::File(file) => {
                let mut page = vec![0; length];
                file.read_exact_at(&mut page, offset)?;
                Ok(Cow::Owned(page))
            }
        }
    }
}

fn index(offset: u64) -> Result<usize, RawError> {
    usize::try_from(offset).or_else(|_| format(format!("offset {offset} is more than this machine can address")))
}

/// A table (with or without rowid) in the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SchemaEntry {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) root: u32,
    pub(super) sql: String,
}

/// Everything in `sqlite_schema`.
pub(super) fn schema(pages: &Pages) -> Result<Vec<SchemaEntry>, RawError> {
    let mut cursor = Cursor::new(pages, 1)?;
    let mut entries = Vec::new();
    while cursor.advance()? {
        if entries.len() == 1000 {
            return format("its schema has more than 1000 entries");
        }
        let row = cursor.row();
        let text = |i: usize| match row.get(i) {
            Some(ValueRef::Text(bytes)) => String::from_utf8(bytes.to_vec()).unwrap_or_default(),
            _ => String::new(),
        };
        let root = match row.get(3) {
            Some(ValueRef::Integer(n)) => u32::try_from(n).unwrap_or(0),
            _ => 0,
        };
        entries.push(SchemaEntry { kind: text(0), name: text(1), root, sql: text(4) });
    }
    Ok(entries)
}

/// Walks one b-tree in the order of its keys. Works on table b-trees and on those of tables without rowid.
pub(super) struct Cursor<'a> {
    pages: &'a Pages,
    stack: Vec<Level<'a>>,
    visited: u32,
    payload: Payload,
    /// What does not fit on its page.
    spilled: Vec<u8>,
    cells: Vec<Cell>,
    rowid: Option<i64>,
    /// Which cell of which page the row is.
    place: (u32, u32),
}

/// Where the row is that the cursor is on.
#[derive(Clone, Copy)]
enum Payload {
    /// On the page that was looked at last.
    Local { start: usize, end: usize },
    /// Put together from several pages.
    Spilled,
}

struct Level<'a> {
    number: u32,
    page: Cow<'a, [u8]>,
    kind: PageKind,
    cells: u16,
    /// Next step: for a leaf the cell; for an inner page twice the cell for its child, plus one for the cell itself.
    step: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PageKind {
    InnerIndex,
    InnerTable,
    LeafIndex,
    LeafTable,
}

#[derive(Clone, Copy)]
struct Cell {
    serial: u64,
    start: usize,
    length: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor before the first row of the tree at page `root`.
    pub(super) fn new(pages: &'a Pages, root: u32) -> Result<Self, RawError> {
        let mut cursor = Self {
            pages,
            stack: Vec::new(),
            visited: 0,
            payload: Payload::Spilled,
            spilled: Vec::new(),
            cells: Vec::new(),
            rowid: None,
            place: (0, root),
        };
        cursor.push(root)?;
        Ok(cursor)
    }

    fn push(&mut self, number: u32) -> Result<(), RawError> {
        self.count_visit(number)?;
        if self.stack.len() == MAX_DEPTH {
            return format(format!("the tree is deeper than {MAX_DEPTH} pages at page {number}"));
        }
        let page = self.pages.page(number)?;
        let at = if number == 1 { HEADER_BYTES } else { 0 };
        let kind = match page[at] {
            2 => PageKind::InnerIndex,
            5 => PageKind::InnerTable,
            10 => PageKind::LeafIndex,
            13 => PageKind::LeafTable,
            other => return format(format!("page {number} has the type {other}, which no tree has")),
        };
        let cells = u16::from_be_bytes([page[at + 3], page[at + 4]]);
        self.stack.push(Level { number, page, kind, cells, step: 0 });
        Ok(())
    }

    /// A walk that visits more pages than there are goes in a circle.
    fn count_visit(&mut self, number: u32) -> Result<(), RawError> {
        self.visited += 1;
        if self.visited > self.pages.header.pages {
            return format(format!("the pages of a tree form a cycle at page {number}"));
        }
        Ok(())
    }

    /// Goes to the next row; `false` after the last.
    pub(super) fn advance(&mut self) -> Result<bool, RawError> {
        if !self.step()? {
            return Ok(false);
        }
        self.parse()?;
        Ok(true)
    }

    /// As [`Self::advance`], but the row is there as bytes alone ([`Self::payload`]) until [`Self::parse`].
    pub(super) fn step(&mut self) -> Result<bool, RawError> {
        loop {
            let Some(level) = self.stack.last_mut() else { return Ok(false) };
            let step = level.step;
            level.step += 1;
            let cells = u32::from(level.cells);
            match level.kind {
                PageKind::LeafIndex | PageKind::LeafTable => {
                    if step < cells {
                        self.read_cell(step)?;
                        return Ok(true);
                    }
                    self.stack.pop();
                }
                PageKind::InnerIndex | PageKind::InnerTable => {
                    if step > 2 * cells {
                        self.stack.pop();
                    } else if step % 2 == 0 {
                        let child = level.child(step / 2)?;
                        self.push(child)?;
                    } else if level.kind == PageKind::InnerIndex {
                        self.read_cell(step / 2)?;
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Goes from the beginning of a table without rowid, whose rows are ordered by their first column, to before the first row
    /// in which it is at least `key`.
    pub(super) fn seek(&mut self, key: i64) -> Result<(), RawError> {
        while let Some(level) = self.stack.last() {
            let (number, kind) = (level.number, level.kind);
            let (mut at, mut end) = (0, u32::from(level.cells));
            while at < end {
                let middle = at.midpoint(end);
                // The walk that follows reads it again.
                let visited = self.visited;
                self.read_cell(middle)?;
                self.parse()?;
                self.visited = visited;
                match self.row().get(0) {
                    Some(ValueRef::Integer(n)) if n < key => at = middle + 1,
                    Some(ValueRef::Integer(_)) => end = middle,
                    _ => return format(format!("cell {middle} of page {number} does not begin with a number")),
                }
            }
            let level = self.stack.last_mut().expect("the level that was looked at");
            match kind {
                PageKind::LeafIndex => {
                    level.step = at;
                    return Ok(());
                }
                PageKind::InnerIndex => {
                    level.step = 2 * at + 1;
                    let child = level.child(at)?;
                    self.push(child)?;
                }
                PageKind::LeafTable | PageKind::InnerTable => {
                    return format(format!("page {number} is of a table with rowid"));
                }
            }
        }
        Ok(())
    }

    /// The row the cursor is on, which was parsed.
    pub(super) fn row(&self) -> Row<'_> {
        Row { payload: self.payload(), cells: &self.cells, rowid: self.rowid }
    }

    /// The record the cursor is on, as it is stored.
    pub(super) fn payload(&self) -> &[u8] {
        match (self.payload, self.stack.last()) {
            (Payload::Local { start, end }, Some(level)) => level.page.get(start..end).unwrap_or_default(),
            _ => &self.spilled,
        }
    }

    /// Finds the columns of the record the cursor is on.
    pub(super) fn parse(&mut self) -> Result<(), RawError> {
        let mut cells = std::mem::take(&mut self.cells);
        let parsed = parse_record(self.payload(), &mut cells);
        self.cells = cells;
        let (index, page) = self.place;
        parsed.ok_or_else(|| RawError::Format(format!("row {index} of page {page} is malformed")))
    }

    fn read_cell(&mut self, index: u32) -> Result<(), RawError> {
        let level = self.stack.last().expect("a cell is read on the page that was just looked at");
        let number = level.number;
        let short = || RawError::Format(format!("cell {index} of page {number} runs over its end"));
        let page = &level.page[..self.pages.header.usable_bytes as usize];
        let mut at = level.cell_offset(index)?;
        if level.kind == PageKind::InnerIndex {
            at += 4;
        }
        let (size, used) = varint(page.get(at..).ok_or_else(short)?).ok_or_else(short)?;
        at += used;
        self.rowid = None;
        if level.kind == PageKind::LeafTable {
            let (rowid, used) = varint(page.get(at..).ok_or_else(short)?).ok_or_else(short)?;
            at += used;
            self.rowid = Some(rowid.cast_signed());
        }
        if size > MAX_PAYLOAD_BYTES {
            return format(format!("cell {index} of page {number} claims {size} bytes"));
        }
        let size = usize::try_from(size).map_err(|_| short())?;
        let local = local_bytes(size, page.len(), level.kind == PageKind::LeafTable);
        let here = page.get(at..at + local).ok_or_else(short)?;
        self.place = (index, number);
        self.payload = Payload::Local { start: at, end: at + local };
        if local < size {
            self.spilled.clear();
            self.spilled.extend_from_slice(here);
            let next = page.get(at + local..at + local + 4).ok_or_else(short)?;
            let next = u32::from_be_bytes([next[0], next[1], next[2], next[3]]);
            self.payload = Payload::Spilled;
            self.read_overflow(next, size)?;
        }
        Ok(())
    }

    /// Follows the chain of overflow pages until the payload has `size` bytes.
    fn read_overflow(&mut self, mut next: u32, size: usize) -> Result<(), RawError> {
        let usable = self.pages.header.usable_bytes as usize;
        while self.spilled.len() < size {
            self.count_visit(next)?;
            let page = self.pages.page(next)?;
            let take = (size - self.spilled.len()).min(usable - 4);
            self.spilled.extend_from_slice(&page[4..4 + take]);
            next = u32::from_be_bytes([page[0], page[1], page[2], page[3]]);
        }
        Ok(())
    }
}

/// Finds the columns of a record; `None` when it is malformed.
fn parse_record(payload: &[u8], cells: &mut Vec<Cell>) -> Option<()> {
    cells.clear();
    let (header, mut at) = varint(payload)?;
    let header = usize::try_from(header).ok()?;
    let mut start = header;
    let types = payload.get(..header)?;
    while at < header {
        let (serial, used) = varint(&types[at..])?;
        at += used;
        let length = serial_bytes(serial)?;
        cells.push(Cell { serial, start, length });
        start = start.checked_add(length)?;
    }
    (start == payload.len()).then_some(())
}

impl Level<'_> {
    fn start(&self) -> usize {
        if self.number == 1 { HEADER_BYTES } else { 0 }
    }

    fn cell_offset(&self, index: u32) -> Result<usize, RawError> {
        let head = if matches!(self.kind, PageKind::InnerIndex | PageKind::InnerTable) { 12 } else { 8 };
        let at = self.start() + head + 2 * index as usize;
        match self.page.get(at..at + 2) {
            Some(bytes) => Ok(usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))),
            None => format(format!("page {} claims {} cells", self.number, self.cells)),
        }
    }

    fn child(&self, index: u32) -> Result<u32, RawError> {
        let at = if index == u32::from(self.cells) { self.start() + 8 } else { self.cell_offset(index)? };
        match self.page.get(at..at + 4) {
            Some(b) => Ok(u32::from_be_bytes([b[0], b[1], b[2], b[3]])),
            None => format(format!("a child of page {} lies beyond its end", self.number)),
        }
    }
}

/// Bytes of a payload that are on the page itself (file format, section 1.6).
fn local_bytes(size: usize, usable: usize, leaf_table: bool) -> usize {
    let max = if leaf_table { usable - 35 } else { (usable - 12) * 64 / 255 - 23 };
    if size <= max {
        return size;
    }
    let min = (usable - 12) * 32 / 255 - 23;
    let k = min + (size - min) % (usable - 4);
    if k <= max { k } else { min }
}

/// A variable-length integer and the bytes it takes.
#[inline]
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    // Most are one byte.
    if let Some(&first) = bytes.first().filter(|&&first| first < 0x80) {
        return Some((u64::from(first), 1));
    }
    let mut value = 0_u64;
    for (i, &byte) in bytes.iter().take(9).enumerate() {
        if i == 8 {
            return Some((value << 8 | u64::from(byte), 9));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

/// Bytes of a column of type `serial`; `None` when there is no such type.
pub(super) fn serial_bytes(serial: u64) -> Option<usize> {
    match serial {
        0 | 8 | 9 => Some(0),
        1..=4 => usize::try_from(serial).ok(),
        5 => Some(6),
        6 | 7 => Some(8),
        10 | 11 => None,
        _ => usize::try_from((serial - 12) / 2).ok(),
    }
}

/// A record that was taken out of its page.
pub(super) struct Record {
    payload: Box<[u8]>,
    cells: Vec<Cell>,
    rowid: Option<i64>,
}

impl Record {
    /// The row it is.
    pub(super) fn row(&self) -> Row<'_> {
        Row { payload: &self.payload, cells: &self.cells, rowid: self.rowid }
    }
}

/// One row.
pub(super) struct Row<'a> {
    payload: &'a [u8],
    cells: &'a [Cell],
    rowid: Option<i64>,
}

impl<'a> Row<'a> {
    /// A copy that stays when the cursor goes on.
    pub(super) fn record(&self) -> Record {
        Record { payload: self.payload.into(), cells: self.cells.to_vec(), rowid: self.rowid }
    }

    /// Number of columns stored.
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// Bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.payload.len()
    }

    /// The rowid; `None` in a table without.
    pub(super) fn rowid(&self) -> Option<i64> {
        self.rowid
    }

    /// Column `index`; `None` when the row has fewer.
    pub(super) fn get(&self, index: usize) -> Option<ValueRef<'a>> {
        let cell = self.cells.get(index)?;
        value(cell.serial, self.payload.get(cell.start..cell.start + cell.length)?)
    }

    /// The record as it is stored.
    pub(super) fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Where the bytes of column `index` are in it; `None` when the row has fewer.
    pub(super) fn place(&self, index: usize) -> Option<std::ops::Range<usize>> {
        self.cells.get(index).map(|cell| cell.start..cell.start + cell.length)
    }
}

/// The value of a column of type `serial`, as many bytes as [`serial_bytes`] says; `None` of another number.
pub(super) fn value(serial: u64, bytes: &[u8]) -> Option<ValueRef<'_>> {
    Some(match serial {
        0 => ValueRef::Null,
        8 => ValueRef::Integer(0),
        9 => ValueRef::Integer(1),
        7 => ValueRef::Real(f64::from_be_bytes(bytes.try_into().ok()?)),
        1..=6 => ValueRef::Integer(signed(bytes)),
        n if n % 2 == 0 => ValueRef::Blob(bytes),
        _ => ValueRef::Text(bytes),
    })
}

/// A big-endian two's complement integer of 1 to 8 bytes.
fn signed(bytes: &[u8]) -> i64 {
    let fill = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
    bytes.iter().fold(fill, |acc, &byte| acc << 8 | i64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// Rows that SQLite wrote, as this reader and as SQLite itself sees them.
    fn compare(page_bytes: u32, setup: &str, table: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sqlite = rusqlite::Connection::open(file.path()).unwrap();
        sqlite.execute_batch(&format!("PRAGMA page_size={page_bytes}; {setup}")).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        let pages = Pages::open(File::open(file.path()).unwrap(), FileHeader::parse(&bytes).unwrap()).unwrap();
        let entry = schema(&pages).unwrap().into_iter().find(|e| e.name == table).unwrap();
        let mut cursor = Cursor::new(&pages, entry.root).unwrap();
        let mut statement = sqlite.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        let mut count = 0;
        while let Some(expected) = rows.next().unwrap() {
            assert!(cursor.advance().unwrap(), "row {count} is missing");
            let row = cursor.row();
            for column in 0..columns {
                assert_eq!(row.get(column), Some(expected.get_ref(column).unwrap()), "row {count} column {column}");
            }
            assert_eq!(row.len(), columns);
            count += 1;
        }
        assert!(!cursor.advance().unwrap(), "a row too many");
        assert!(count > 0);
    }

    #[test]
    fn rows_are_those_sqlite_sees() {
        let numbers = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<3000)";
        for page_bytes in [512, 1024, 4096, 65536] {
            for rowid in ["", "WITHOUT ROWID"] {
                let setup = format!(
                    "CREATE TABLE t(a INTEGER NOT NULL, b TEXT, c REAL, d BLOB, e INTEGER, PRIMARY KEY(a, b)) {rowid};
                     {numbers} INSERT INTO t SELECT i, 'name' || i, i / 7.0, zeroblob(i % 5), -i * i * i * i FROM n;
                     INSERT INTO t VALUES(-1, printf('%.*c', 70000, 'x'), NULL, randomblob(3000),
                                          -9223372036854775808);
                     INSERT INTO t VALUES(9223372036854775807, '', -1.5e300, x'', 0), (0, 'ä', 2.5, NULL, 1);
                     DELETE FROM t WHERE a % 3 = 0;"
                );
                compare(page_bytes, &setup, "t");
            }
        }
    }

    #[test]
    fn seeking_finds_the_first_row_of_a_key() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sqlite = rusqlite::Connection::open(file.path()).unwrap();
        let setup =
            "PRAGMA page_size=512; CREATE TABLE t(a INTEGER, b INTEGER, c TEXT, PRIMARY KEY(a, b)) WITHOUT ROWID;
             WITH RECURSIVE n(i) AS (VALUES(0) UNION ALL SELECT i+1 FROM n WHERE i<2999)
             INSERT INTO t SELECT 2 * (i / 7), i % 7, 'some text ' || i FROM n";
        sqlite.execute_batch(setup).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        let pages = Pages::open(File::open(file.path()).unwrap(), FileHeader::parse(&bytes).unwrap()).unwrap();
        let root = schema(&pages).unwrap().into_iter().find(|e| e.name == "t").unwrap().root;
        for key in -1..860 {
            let mut cursor = Cursor::new(&pages, root).unwrap();
            cursor.seek(key).unwrap();
            let mut rows = 0;
            let mut first = None;
            while cursor.advance().unwrap() {
                let at = |i| cursor.row().get(i).unwrap().as_i64().unwrap();
                first.get_or_insert((at(0), at(1)));
                rows += 1;
            }
            let next = (key.max(0) + 1) / 2 * 2;
            assert_eq!(first, (next <= 856).then_some((next, 0)), "key {key}");
            assert_eq!(rows, 3000 - 7 * (next / 2).min(428) - if next > 856 { 4 } else { 0 }, "key {key}");
        }
        assert!(Cursor::new(&pages, 1).unwrap().seek(1).is_err(), "a table with rowid");
    }

    #[test]
    fn a_tree_with_a_cycle_ends() {
        // Page 2 is an inner page whose only child is itself.
        let mut bytes = vec![0_u8; 1024];
        bytes[..16].copy_from_slice(MAGIC);
        bytes[16..18].copy_from_slice(&512_u16.to_be_bytes());
        bytes[28..32].copy_from_slice(&2_u32.to_be_bytes());
        bytes[512] = 5;
        bytes[512 + 8..512 + 12].copy_from_slice(&2_u32.to_be_bytes());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let pages = Pages::open(file, FileHeader::parse(&bytes).unwrap()).unwrap();
        let error = Cursor::new(&pages, 2).unwrap().advance().unwrap_err();
        assert!(error.to_string().contains("cycle"), "{error}");
    }

    #[test]
    fn varints_are_those_of_the_format() {
        assert_eq!(varint(&[0x7f]), Some((127, 1)));
        assert_eq!(varint(&[0x81, 0x00]), Some((128, 2)));
        assert_eq!(varint(&[0xff; 9]), Some((u64::MAX, 9)));
        assert_eq!(varint(&[0x81]), None);
        assert_eq!(varint(&[]), None);
        assert_eq!(signed(&[0xff]), -1);
        assert_eq!(signed(&[0x00, 0x80]), 128);
    }
}
