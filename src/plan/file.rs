//! `plan.json`: written in one pass, read and checked.
//!
//! docs/plan.md describes the format. Same plan, same bytes.

use std::collections::HashMap;
use std::io::{self, Write};
use std::num::NonZeroU32;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

use super::canonical::TupleHasher;
use super::expand::{Plane, planes};
use super::{Counts, Plan, PlannedTuple, Slot};
use crate::ids::ShortHash;
use crate::spec::{Columns, Diagnostics, Order, PerColumns, Space, Spec, Value, json_string};

/// What the member `format` of a plan file says.
pub const FORMAT: &str = "vptest-plan";
/// Version of the file format that is written, and the only one that is read.
pub const VERSION: u64 = 1;

impl Order {
    /// Its name in specs and plans.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Shuffled => "shuffled",
            Self::Sequential => "sequential",
        }
    }
}

impl Plan {
    /// Writes the plan file. The writer should be buffered.
    pub fn to_json(&self, mut out: impl Write) -> io::Result<()> {
        let Spec { name, seed, order, repetitions, .. } = &self.spec;
        let Counts { combinations, distinct, excluded } = self.counts;
        let combinations = combinations.map_or_else(|| "null".to_owned(), |n| n.to_string());
        writeln!(out, "{{\"format\":\"{FORMAT}\",\"version\":{VERSION},")?;
        writeln!(out, "\"name\":{},", json_string(name))?;
        writeln!(out, "\"seed\":{seed},\"order\":\"{}\",\"repetitions\":{repetitions},", order.as_str())?;
        writeln!(out, "\"spec_hash\":\"{}\",", self.spec_hash)?;
        writeln!(out, "\"spec\":{},", json_string(&self.spec_text))?;
        let counts = format!("\"combinations\":{combinations},\"distinct\":{distinct},\"excluded\":{excluded}");
        writeln!(out, "\"counts\":{{{counts}}},")?;
        self.write_factors(&mut out)?;
        self.write_tuples(&mut out)?;
        self.write_iterations(&mut out)?;
        writeln!(out, "}}")
    }

    fn write_factors(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "\"factors\":[")?;
        for (i, factor) in self.spec.factors.iter().enumerate() {
            let values: Vec<String> = factor.values.iter().map(Value::canonical_json).collect();
            let comma = if i + 1 < self.spec.factors.len() { "," } else { "" };
            writeln!(out, "{{\"name\":{},\"values\":[{}]}}{comma}", json_string(&factor.name), values.join(","))?;
        }
        writeln!(out, "],")
    }

    /// One row for each tuple: id, then the index of each factor's value or null.
    fn write_tuples(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "\"tuples\":[")?;
        let mut translations = PerColumns::new();
        let mut line = Vec::new();
        for (i, planned) in self.tuples.iter().enumerate() {
            line.clear();
            write!(line, "[\"{}\"", planned.id)?;
            let translation = translations.of(&planned.tuple, |columns| translate(&self.spec, columns))?;
            push_indices(translation, planned, &mut line);
            line.extend_from_slice(if i + 1 < self.tuples.len() { b"],\n" } else { b"]\n" });
            out.write_all(&line)?;
        }
        writeln!(out, "],")
    }

    fn write_iterations(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "\"iterations\":{{\"hash\":\"{}\",", slots_hash(&self.iterations))?;
        write!(out, "\"tuple\":[")?;
        write_numbers(out, self.iterations.iter().map(|slot| slot.tuple))?;
        write!(out, "],\n\"repetition\":[")?;
        write_numbers(out, self.iterations.iter().map(|slot| slot.repetition))?;
        write!(out, "],\n\"block\":")?;
        // A sentinel is in no block: 0.
        let block = |slot: &Slot| if slot.is_sentinel() { Some(0) } else { slot.block.map(NonZeroU32::get) };
        let blocks: Option<Vec<u32>> = self.iterations.iter().map(block).collect();
        match blocks.filter(|_| self.spec.order == Order::Blocked) {
            None => write!(out, "null")?,
            Some(blocks) => {
                write!(out, "[")?;
                write_numbers(out, blocks.into_iter())?;
                write!(out, "]")?;
            }
        }
        if self.spec.sentinel.is_some() {
            write!(out, ",\n\"sentinel\":[")?;
            let numbered = self.iterations.iter().zip(1..).filter(|(slot, _)| slot.is_sentinel());
            write_numbers(out, numbered.map(|(_, number)| number))?;
            write!(out, "]")?;
        }
        writeln!(out, "}}")
    }
}

/// For each factor of the spec its column, with the spec's index of each of the column's values.
type Translation = Vec<Option<(usize, Vec<u32>)>>;

fn push_indices(translation: &Translation, planned: &PlannedTuple, line: &mut Vec<u8>) {
    for factor in translation {
        line.push(b',');
        match factor {
            None => line.extend_from_slice(b"null"),
            Some((column, indices)) => push_number(line, indices[planned.tuple.indices()[*column] as usize]),
        }
    }
}

fn translate(spec: &Spec, columns: &Columns) -> io::Result<Translation> {
    let foreign = || io::Error::new(io::ErrorKind::InvalidData, "a tuple has a value that its spec does not have");
    spec.factors
        .iter()
        .map(|factor| {
            let Ok(column) = columns.names.binary_search(&factor.name) else { return Ok(None) };
            let positions: HashMap<&Value, u32> = factor.values.iter().zip(0..).collect();
            let index = |value| positions.get(value).copied().ok_or_else(foreign);
            Ok(Some((column, columns.values[column].iter().map(index).collect::<io::Result<_>>()?)))
        })
        .collect()
}

/// Appends a number in decimal.
fn push_number(line: &mut Vec<u8>, number: u32) {
    let mut digits = [0u8; 10];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).expect("a digit");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at..]);
}

fn write_numbers(out: &mut impl Write, numbers: impl Iterator<Item = u32>) -> io::Result<()> {
    let mut line = Vec::with_capacity(1 << 16);
    for (i, number) in numbers.enumerate() {
        if i > 0 {
            line.push(b',');
        }
        push_number(&mut line, number);
        if line.len() > (1 << 16) - 16 {
            out.write_all(&line)?;
            line.clear();
        }
    }
    out.write_all(&line)
}

/// Hash of the run order: tuple, repetition and block (0 for none, 2^32 − 1 for a sentinel) of each iteration, 32 bits each,
/// little-endian.
fn slots_hash(slots: &[Slot]) -> ShortHash {
    let mut bytes = Vec::with_capacity(slots.len() * 12);
    for slot in slots {
        for number in [slot.tuple, slot.repetition, slot.block.map_or(0, NonZeroU32::get)] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    ShortHash::of(&bytes)
}

/// A plan file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanFileError {
    /// It is something else.
    #[error("not a plan of vptest: {reason}")]
    NotAPlan {
        /// How that shows.
        reason: String,
    },
    /// It was written in another format.
    #[error(
        "the plan has format version {found}, this vptest reads version {VERSION}; write it anew with `vptest sweep`"
    )]
    OtherVersion {
        /// Its version.
        found: u64,
    },
    /// It is a plan, but not as it was written.
    #[error("the plan is damaged: {what}; write it anew with `vptest sweep`")]
    Damaged {
        /// What does not fit.
        what: String,
    },
    /// This version of vptest does not accept its spec.
    #[error("the plan's spec is not accepted by this vptest: {0}")]
    Spec(Diagnostics),
    /// This version of vptest gives its tuples other identities.
    #[error(
        "this vptest gives tuple {tuple} the id {expected}, the plan says {found}: its results would not be \
         comparable; write the plan anew with `vptest sweep`"
    )]
    OtherIdentity {
        /// Index of the tuple.
        tuple: usize,
        /// What this version computes.
        expected: ShortHash,
        /// What the file says.
        found: ShortHash,
    },
}

fn damaged(what: impl Into<String>) -> PlanFileError {
    PlanFileError::Damaged { what: what.into() }
}

#[derive(Deserialize)]
struct Head {
    format: String,
    version: u64,
}

#[derive(Deserialize)]
struct File {
    format: String,
    version: u64,
    name: String,
    seed: u64,
    order: String,
    repetitions: u32,
    spec_hash: ShortHash,
    spec: String,
    counts: FileCounts,
    factors: Vec<FileFactor>,
    tuples: Vec<Row>,
    iterations: FileIterations,
}

#[derive(Deserialize)]
struct FileCounts {
    combinations: Option<u64>,
    distinct: u64,
    excluded: u64,
}

#[derive(Deserialize)]
struct FileFactor {
    name: String,
    values: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct FileIterations {
    hash: ShortHash,
    tuple: Vec<u32>,
    repetition: Vec<u32>,
    block: Option<Vec<u32>>,
    #[serde(default)]
    sentinel: Vec<u32>,
}

/// Id and indices of a tuple; [`DROPPED`] where the factor means nothing.
struct Row {
    id: ShortHash,
    indices: Box<[u32]>,
}

const DROPPED: u32 = u32::MAX;

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RowVisitor;
        impl<'de> Visitor<'de> for RowVisitor {
            type Value = Row;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array of a hash and indices")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Row, A::Error> {
                let id = seq.next_element()?.ok_or_else(|| A::Error::custom("a tuple without an id"))?;
                let mut indices = Vec::with_capacity(16);
                while let Some(index) = seq.next_element::<Option<u32>>()? {
                    indices.push(index.unwrap_or(DROPPED));
                }
                Ok(Row { id, indices: indices.into() })
            }
        }
        deserializer.deserialize_seq(RowVisitor)
    }
}

impl Plan {
    /// Reads a plan file and checks that it is whole and that this version of vptest means the same by it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, PlanFileError> {
        let file = read(bytes)?;
        if ShortHash::of(file.spec.as_bytes()) != file.spec_hash {
            return Err(damaged("the spec does not have the hash that is given"));
        }
        let spec = Spec::parse(&file.spec).map_err(PlanFileError::Spec)?;
        check_head(&file, &spec)?;
        let tuples = tuples(&file, &spec)?;
        let iterations = slots(&file, &spec, &tuples)?;
        let counts = Counts {
            combinations: file.counts.combinations,
            distinct: file.counts.distinct,
            excluded: file.counts.excluded,
        };
        Ok(Self { spec, spec_text: file.spec, spec_hash: file.spec_hash, counts, tuples, iterations })
    }
}

/// The file's JSON, or what it is instead.
fn read(bytes: &[u8]) -> Result<File, PlanFileError> {
    let not_a_plan = |reason: String| PlanFileError::NotAPlan { reason };
    let parsed = serde_json::from_slice::<File>(bytes);
    let (format, version) = match &parsed {
        Ok(file) => (file.format.clone(), file.version),
        Err(error) => match serde_json::from_slice::<Head>(bytes) {
            Ok(head) => (head.format, head.version),
            // Cut off or otherwise broken, but beginning like a plan.
            Err(_) if bytes.starts_with(format!("{{\"format\":\"{FORMAT}\"").as_bytes()) => {
                return Err(damaged(error.to_string()));
            }
            Err(error) => return Err(not_a_plan(error.to_string())),
        },
    };
    if format != FORMAT {
        return Err(not_a_plan(format!("its format is `{format}`")));
    }
    if version != VERSION {
        return Err(PlanFileError::OtherVersion { found: version });
    }
    parsed.map_err(|error| damaged(error.to_string()))
}

/// The members that repeat the spec agree with it.
fn check_head(file: &File, spec: &Spec) -> Result<(), PlanFileError> {
    let same = file.name == spec.name
        && file.seed == spec.seed
        && file.order == spec.order.as_str()
        && file.repetitions == spec.repetitions;
    if !same {
        return Err(damaged("name, seed, order or repetitions differ from its spec"));
    }
    let canonical = |values: &[Value]| -> Vec<String> { values.iter().map(Value::canonical_json).collect() };
    let written = |values: &[serde_json::Value]| -> Vec<String> { values.iter().map(ToString::to_string).collect() };
    let factors =
        spec.factors.len() == file.factors.len()
            && spec.factors.iter().zip(&file.factors).all(|(factor, other)| {
                factor.name == other.name && canonical(&factor.values) == written(&other.values)
            });
    if factors { Ok(()) } else { Err(damaged("its factors differ from its spec")) }
}

fn tuples(file: &File, spec: &Spec) -> Result<Vec<PlannedTuple>, PlanFileError> {
    let space = Space::new(&spec.factors, &spec.exclude);
    let planes: Vec<Plane> = planes(spec, &space);
    let testbed = spec.factors.iter().position(|factor| factor.name == "testbed");
    let mut hasher = TupleHasher::new();
    let mut tuples = Vec::with_capacity(file.tuples.len());
    for (number, row) in file.tuples.iter().enumerate() {
        let plane = testbed.map_or(Some(0), |factor| usize::try_from(*row.indices.get(factor)?).ok());
        let plane = plane.filter(|&plane| plane < planes.len() && fits(row, spec, space.relevant(plane)));
        let plane = plane.ok_or_else(|| damaged(format!("tuple {number} does not fit the factors")))?;
        let planned = planes[plane].planned(&row.indices, &mut hasher);
        if planned.id != row.id {
            return Err(PlanFileError::OtherIdentity { tuple: number, expected: planned.id, found: row.id });
        }
        tuples.push(planned);
    }
    Ok(tuples)
}

/// There is an index for each factor: a valid one where it means something, none elsewhere.
fn fits(row: &Row, spec: &Spec, relevant: &[bool]) -> bool {
    row.indices.len() == spec.factors.len()
        && row.indices.iter().zip(&spec.factors).zip(relevant).all(|((&index, factor), &relevant)| {
            if relevant { (index as usize) < factor.values.len() } else { index == DROPPED }
        })
}

/// Every repetition of every tuple is there once, in the order that was written, and sentinels where they belong.
fn slots(file: &File, spec: &Spec, planned: &[PlannedTuple]) -> Result<Vec<Slot>, PlanFileError> {
    let FileIterations { hash, tuple, repetition, block, sentinel } = &file.iterations;
    let (tuples, repetitions) = (file.tuples.len(), spec.repetitions as usize);
    let all = tuple.len();
    let count = tuples
        .checked_mul(repetitions)
        .filter(|&count| all == repetition.len() && Some(count) == all.checked_sub(sentinel.len()));
    let count = count.ok_or_else(|| damaged("the number of iterations is not tuples × repetitions"))?;
    if block.as_ref().is_some_and(|block| block.len() != all) || block.is_some() != (spec.order == Order::Blocked) {
        return Err(damaged("its blocks do not fit its iterations"));
    }
    let mut seen = vec![false; count];
    let mut slots = Vec::with_capacity(count);
    let mut sentinels = sentinel.iter().map(|&number| number as usize).peekable();
    for (i, (&tuple, &repetition)) in tuple.iter().zip(repetition).enumerate() {
        if sentinels.next_if_eq(&(i + 1)).is_some() {
            continue;
        }
        let (index, nth) = (tuple as usize, (repetition as usize).wrapping_sub(1));
        if index >= tuples || nth >= repetitions || std::mem::replace(&mut seen[index * repetitions + nth], true) {
            return Err(damaged(format!("iteration {} does not exist or stands twice", i + 1)));
        }
        let block = block.as_ref().and_then(|block| NonZeroU32::new(block[i])).filter(|&block| block != Slot::SENTINEL);
        slots.push(Slot { tuple, repetition, block });
    }
    let slots = match (&spec.sentinel, super::sentinel::tuple(spec, planned)) {
        (Some(sentinel), Some(tuple)) => super::sentinel::interleave(&slots, tuple, sentinel.every),
        _ => slots,
    };
    let written = |(i, slot): (usize, &Slot)| {
        let there = (tuple.get(i), repetition.get(i)) == (Some(&slot.tuple), Some(&slot.repetition));
        let in_no_block = block.as_ref().is_none_or(|block| block.get(i) == Some(&0));
        let is_listed = || sentinel.binary_search(&u32::try_from(i + 1).unwrap_or(0)).is_ok();
        there && (!slot.is_sentinel() || (in_no_block && is_listed()))
    };
    if slots.len() != all || !slots.iter().enumerate().all(written) {
        return Err(damaged("its sentinels do not stand where its spec puts them"));
    }
    if slots_hash(&slots) != *hash {
        return Err(damaged("the order of iterations does not have the hash that is given"));
    }
    Ok(slots)
}
