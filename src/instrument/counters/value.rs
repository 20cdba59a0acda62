//! A counter as it was read, and what lies between two readings of it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// A number that a kernel gave at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// Its name, unique in a place: `ctxt`, `TcpOutSegs`, `if.rx_packets`.
    pub name: String,
    /// As read.
    pub value: u64,
    /// How it moves.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// Of what it is the sum (a number for the set of CPUs): sums over different things have no difference.
    pub parts: u64,
}

/// How a counter moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, and 64 bits are enough for ever.
    Grows,
    /// It only grows and begins again at 2^32.
    Grows32,
    /// It grows, and may step back by a little: CPU time in ticks (proc(5), of `iowait` and `idle`).
    Ticks,
    /// It only grows and is not listed before its first event.
    FromNothing,
    /// It goes up and down: only the value itself means something.
    Gauge,
}

/// What a counter counts, and so the unit of its metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Thousandths of a thing.
    Milli,
    /// Bytes.
    Byte,
    /// Clock ticks of this many a second.
    Tick(u32),
    /// Microseconds.
    Microsecond,
    /// Nanoseconds.
    Nanosecond,
    /// Thousands of Hertz.
    Kilohertz,
    /// Bits of entropy.
    Bit,
    /// Bytes a second.
    Rate,
}

impl Unit {
    /// Symbol of the unit of a value times [`Unit::scale`].
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Count | Self::Milli => "1",
            Self::Byte => "B",
            Self::Tick(_) | Self::Microsecond | Self::Nanosecond => "s",
            Self::Kilohertz => "Hz",
            Self::Bit => "bit",
            Self::Rate => "B/s",
        }
    }

    /// What a value is to be multiplied with.
    pub fn scale(self) -> f64 {
        match self {
            Self::Tick(ticks) => 1.0 / f64::from(ticks.max(1)),
            Self::Milli => 1e-3,
            Self::Microsecond => 1e-6,
            Self::Nanosecond => 1e-9,
            Self::Kilohertz => 1e3,
            Self::Count | Self::Byte | Self::Bit | Self::Rate => 1.0,
        }
    }
}

impl Counter {
    /// One of 64 bits.
    pub fn grows(name: impl Into<String>, value: u64) -> Self {
        Self { name: name.into(), value, kind: Kind::Grows, unit: Unit::Count, parts: 0 }
    }

    /// One of 32 bits, or the sum of some, of which only the lower 32 bits mean something.
    pub fn grows32(name: impl Into<String>, value: u64) -> Self {
        Self { kind: Kind::Grows32, ..Self::grows(name, value & u64::from(u32::MAX)) }
    }

    /// One that goes up and down.
    pub fn gauge(name: impl Into<String>, value: u64) -> Self {
        Self { kind: Kind::Gauge, ..Self::grows(name, value) }
    }

    /// The same in another unit.
    pub fn in_unit(self, unit: Unit) -> Self {
        Self { unit, ..self }
    }

    /// The same as the sum over these parts.
    pub fn of(self, parts: u64) -> Self {
        Self { parts, ..self }
    }
}

/// How much it grew from one reading to a later one; `None` when it went backwards without beginning again at 2^32, or is
/// the sum of other things than before.
///
/// A counter of 32 bits is taken to have begun again when it was in the last quarter of its range and is in the first:
/// one that was set to 0 otherwise cannot be told from that.
pub fn growth(before: &Counter, after: &Counter) -> Option<u64> {
    const QUARTER: u64 = 1 << 30;
    /// Ticks that CPU times may step back.
    const SLACK: u64 = 10;
    if before.parts != after.parts || before.kind != after.kind {
        return None;
    }
    match (after.value.checked_sub(before.value), after.kind) {
        // More than a file can keep is no growth: a driver's counter that was set to -1.
        (Some(grown), _) => i64::try_from(grown).is_ok().then_some(grown),
        (None, Kind::Grows32) if (3 * QUARTER..4 * QUARTER).contains(&before.value) && after.value < QUARTER => {
            Some(4 * QUARTER - before.value + after.value)
        }
        (None, Kind::Ticks) if before.value - after.value <= SLACK => Some(0),
        _ => None,
    }
}

/// What was read of one source: its counters, or why there are none.
pub type Read = Result<Vec<Counter>, String>;

/// Everything that was read of one place.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    sources: BTreeMap<&'static str, Result<BTreeMap<String, Counter>, String>>,
}

impl Reading {
    /// Adds what a source says. What is read in two parts is one. Two counters of one name cannot be told apart: the source
    /// has failed.
    pub(super) fn add(&mut self, source: &'static str, read: Read) {
        let sum = self.sources.entry(source).or_insert_with(|| Ok(BTreeMap::new()));
        let Ok(all) = sum else { return };
        if let Err(why) = read.and_then(|more| join(all, more)) {
            *sum = Err(why);
        }
    }

    /// The sources with their counters, in the order of their names.
    pub(super) fn sources(&self) -> impl Iterator<Item = (&'static str, Result<&BTreeMap<String, Counter>, &str>)> {
        self.sources.iter().map(|(name, read)| (*name, read.as_ref().map_err(String::as_str)))
    }

    /// What a source says; `None` when it was not asked.
    pub(super) fn source(&self, name: &str) -> Option<Result<&BTreeMap<String, Counter>, &str>> {
        self.sources.get(name).map(|read| read.as_ref().map_err(String::as_str))
    }

    /// The counter of a name, whatever its source.
    pub(super) fn get(&self, name: &str) -> Option<&Counter> {
        self.sources.values().filter_map(|read| read.as_ref().ok()).find_map(|counters| counters.get(name))
    }
}

fn join(all: &mut BTreeMap<String, Counter>, more: Vec<Counter>) -> Result<(), String> {
    for counter in more {
        match all.entry(counter.name.clone()) {
            Entry::Vacant(place) => {
                place.insert(counter);
            }
            Entry::Occupied(place) => return Err(format!("{} is there twice", place.key())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_known_or_it_is_none() {
        let (wide, narrow) = (|value| Counter::grows("x", value), |value| Counter::grows32("x", value));
        assert_eq!(growth(&wide(3), &wide(10)), Some(7));
        assert_eq!(growth(&wide(10), &wide(3)), None, "backwards");
        assert_eq!(growth(&wide(u64::MAX), &wide(3)), None, "64 bits do not begin again");
        assert_eq!(growth(&wide(0), &wide(u64::MAX)), None, "more than a file can keep");
        assert_eq!(growth(&narrow(u64::from(u32::MAX)), &narrow(4)), Some(5));
        assert_eq!(growth(&narrow((1 << 32) + 5), &narrow((1 << 32) + 8)), Some(3), "a sum beyond 32 bits");
        assert_eq!(growth(&narrow(3_000_000_000), &narrow(5)), None, "set back from the middle");
        assert_eq!(growth(&narrow(u64::from(u32::MAX)), &narrow(1 << 31)), None, "that would be half the range");
        assert_eq!(growth(&wide(1).of(2), &wide(5).of(1)), None, "a CPU was taken away");
        let ticks = |value| Counter { kind: Kind::Ticks, ..wide(value) };
        assert_eq!((growth(&ticks(100), &ticks(98)), growth(&ticks(100), &ticks(50))), (Some(0), None));
    }

    #[test]
    fn a_source_in_two_parts_is_one_and_a_failed_one_stays_failed() {
        let mut reading = Reading::default();
        reading.add("links", Ok(vec![Counter::grows("a", 1)]));
        reading.add("links", Ok(vec![Counter::grows("b", 2)]));
        assert_eq!(reading.source("links").unwrap().unwrap().len(), 2);
        assert_eq!(reading.get("b").map(|counter| counter.value), Some(2));
        reading.add("links", Err("no".to_owned()));
        reading.add("links", Ok(vec![Counter::grows("c", 3)]));
        assert_eq!(reading.source("links").unwrap().unwrap_err(), "no");
        assert!(reading.get("a").is_none());
        reading.add("qdisc", Ok(vec![Counter::grows("d", 1)]));
        reading.add("qdisc", Ok(vec![Counter::grows("d", 2)]));
        assert_eq!(reading.source("qdisc").unwrap().unwrap_err(), "d is there twice");
    }
}
