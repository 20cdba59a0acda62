//! Rows that one iteration after the other repeats, recognised by their bytes.
//!
//! Ten thousand iterations have the same few hundred metrics: rows at the same place agree in everything but the iteration's number and
//! one column. What is hashed of such a row is known then but for that column, and so is what it means. Every byte of it is
//! compared all the same, so that nothing passes that a full reading would not.

use rusqlite::types::ValueRef;

use super::raw::{Row, serial_bytes, value, varint};
use super::rows::{RowHash, hash_cell};
use super::schema::{Kind, TableId};

/// Different rows that are remembered of one place; iterations of different testbeds have different ones.
const MOST_OF_PLACE: usize = 8;
/// Rows that are remembered in all; a hostile file must not fill the memory.
const MOST: usize = 1 << 14;
/// Longer rows are not remembered.
const LONGEST: usize = 512;

/// What a visitor wants to see of a row that repeats another, but for the iteration's number and the free column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Nothing.
    Nothing,
    /// The free column, with this number for the rest of the row.
    Cell(usize),
    /// The row.
    Row,
}

/// The column in which rows of a table differ that repeat each other otherwise; `None` for tables whose rows do not.
fn free_column(table: TableId) -> Option<usize> {
    match table {
        TableId::Factor => Some(2),
        TableId::Setting => Some(5),
        TableId::Metric => Some(7),
        TableId::Environment => Some(4),
        _ => None,
    }
}

/// Rows of earlier iterations, by their place within the iteration.
pub(super) struct Repeats {
    /// `None` when nothing is remembered.
    free: Option<usize>,
    kinds: &'static [Kind],
    places: Vec<Vec<Known>>,
    /// Place of the next row.
    next: usize,
    /// Which of the rows of a place fitted last: the others of its iteration are likely at the same index.
    likely: usize,
    remembered: usize,
}

/// A row, cut at the free column and without the iteration's number.
struct Known {
    /// The record's header up to the type of the free column, and the rest of it.
    types: [Box<[u8]>; 2],
    /// Bytes of the type of the free column.
    type_bytes: usize,
    /// Bytes of the iteration's number.
    number: usize,
    /// Columns between the iteration's number and the free one, and those after it.
    columns: [Box<[u8]>; 2],
    /// The same as they are hashed.
    hashed: [Box<[u8]>; 2],
    again: Again,
}

impl Repeats {
    pub(super) fn new(table: TableId) -> Self {
        let (free, kinds) = (free_column(table), table.table().columns);
        Self { free, kinds, places: Vec::new(), next: 0, likely: 0, remembered: 0 }
    }

    /// The next row is the first of its iteration.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// Recognises the next row, hashes it, and says what its visitor wants to see, with its free column; `None` for a row that is
    /// new.
    pub(super) fn find<'a>(&mut self, payload: &'a [u8], hash: &mut RowHash) -> Option<(Again, ValueRef<'a>)> {
        let (place, free) = (self.next, self.free?);
        self.next += 1;
        let known = self.places.get(place)?;
        let fits = |at: usize| Some((at, known.get(at)?.free_of(payload)?));
        let found = fits(self.likely).or_else(|| (0..known.len()).find_map(fits));
        let (at, cell) = found?;
        self.likely = at;
        let known = &known[at];
        hash.begin(self.kinds.len() - 1);
        hash.cells(&known.hashed[0]);
        hash.cell(as_hashed(self.kinds[free], cell));
        hash.cells(&known.hashed[1]);
        hash.end();
        Some((known.again, cell))
    }

    /// Remembers the row that was not recognised just now.
    pub(super) fn learn(&mut self, row: &Row<'_>, again: Again) {
        let Some(free) = self.free else { return };
        let place = self.next - 1;
        let Some(known) = Known::of(row, self.kinds, free, again) else { return };
        if self.places.len() <= place {
            if self.remembered + place >= MOST {
                return;
            }
            self.places.resize_with(place + 1, Vec::new);
        }
        let of_place = &mut self.places[place];
        if of_place.len() == MOST_OF_PLACE {
            of_place.rotate_left(1);
            of_place[MOST_OF_PLACE - 1] = known;
        } else if self.remembered < MOST {
            of_place.push(known);
            self.remembered += 1;
        }
    }
}

impl Known {
    /// `None` for a row that cannot be cut so, or is too long.
    fn of(row: &Row<'_>, kinds: &[Kind], free: usize, again: Again) -> Option<Self> {
        let payload = row.payload();
        let place = row.place(free)?;
        if payload.len() - place.len() > LONGEST {
            return None;
        }
        let (header, mut at) = varint(payload)?;
        let types = payload.get(..usize::try_from(header).ok()?)?;
        for _ in 0..free {
            at += varint(&types[at..])?.1;
        }
        let after = at + varint(&types[at..])?.1;
        let number = row.place(0)?;
        let hashed = |columns: std::ops::Range<usize>| {
            let mut bytes = Vec::new();
            for column in columns {
                hash_cell(as_hashed(kinds[column], row.get(column)?), &mut bytes);
            }
            Some(bytes.into_boxed_slice())
        };
        Some(Self {
            types: [types[..at].into(), types[after..].into()],
            type_bytes: after - at,
            number: number.len(),
            columns: [payload[number.end..place.start].into(), payload[place.end..].into()],
            hashed: [hashed(1..free)?, hashed(free + 1..row.len())?],
            again,
        })
    }

    /// The free column of a row that agrees with this one in all others, but for the iteration's number.
    fn free_of<'a>(&self, payload: &'a [u8]) -> Option<ValueRef<'a>> {
        let rest = payload.strip_prefix(&*self.types[0])?;
        let (serial, used) = varint(rest)?;
        // The header's length was compared: with a type of another length its end would be elsewhere.
        let rest = rest[used..].strip_prefix(&*self.types[1]).filter(|_| used == self.type_bytes)?;
        let rest = rest.get(self.number..)?.strip_prefix(&*self.columns[0])?;
        let (free, rest) = rest.split_at_checked(serial_bytes(serial)?)?;
        if *rest != *self.columns[1] {
            return None;
        }
        value(serial, free)
    }
}

/// SQLite keeps whole numbers of a REAL column as integers, which are hashed as what they were.
pub(super) fn as_hashed(kind: Kind, cell: ValueRef<'_>) -> ValueRef<'_> {
    match (kind, cell) {
        #[expect(clippy::cast_precision_loss, reason = "SQLite stores a real as an integer only when it is exact")]
        (Kind::Real, ValueRef::Integer(n)) => ValueRef::Real(n as f64),
        _ => cell,
    }
}

/// The first column of a record when it is a whole number.
pub(super) fn first_number(payload: &[u8]) -> Option<i64> {
    let (header, used) = varint(payload)?;
    let (serial, _) = varint(payload.get(used..)?)?;
    let start = usize::try_from(header).ok()?;
    let bytes = payload.get(start..start.checked_add(serial_bytes(serial)?)?)?;
    match value(serial, bytes)? {
        ValueRef::Integer(number) => Some(number),
        _ => None,
    }
}
