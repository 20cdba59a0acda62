//! Live connections and the index that finds them by their two endpoints.

use std::hash::{BuildHasher, RandomState};
use std::iter::Peekable;

use crate::packet::{Endpoint, Segment, Time};

use super::connection::{Connection, Way};
use super::ledger::low;
use super::side::Side;
use super::visit::{Loader, Visit, Writer};

/// A connection that may still see packets.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// 0 in a slot that is free.
    pub(super) number: u64,
    pub(super) v6: bool,
    /// No packet can reach it any more; it waits where it is until it is handed out.
    retired: bool,
    pub(super) a: Endpoint,
    pub(super) b: Endpoint,
    pub(super) first: Time,
    pub(super) last: Time,
    pub(super) sides: [Side; 2],
}

impl Live {
    /// Which way `segment` goes in this connection; `None` if it is of another.
    #[inline]
    fn way(&self, segment: &Segment) -> Option<Way> {
        let forth = (self.a == segment.source) & (self.b == segment.destination);
        let back = (self.a == segment.destination) & (self.b == segment.source);
        if self.v6 != segment.v6 || !(forth | back) {
            return None;
        }
        Some(if forth { Way::AToB } else { Way::BToA })
    }

    /// The side that sends `way`, and its peer.
    #[inline]
    pub(super) fn sides_mut(&mut self, way: Way) -> (&mut Side, &mut Side) {
        let [a, b] = &mut self.sides;
        match way {
            Way::AToB => (a, b),
            Way::BToA => (b, a),
        }
    }

    /// Has it ended, so that hardly any packet will come?
    pub(super) fn has_ended(&self) -> bool {
        let [a, b] = &self.sides;
        a.stats.resets > 0 || b.stats.resets > 0 || a.stats.fins > 0 && b.stats.fins > 0
    }

    /// Were octets sent and not acknowledged, in either direction?
    pub(super) fn has_outstanding(&self) -> bool {
        let [a, b] = &self.sides;
        a.has_outstanding(b) || b.has_outstanding(a)
    }

    fn visit_head(&mut self, v: &mut impl Visit) {
        v.u64(&mut self.number);
        v.bool(&mut self.v6);
        [&mut self.a, &mut self.b].into_iter().for_each(|end| v.endpoint(end));
        [&mut self.first, &mut self.last].into_iter().for_each(|time| v.time(time));
    }

    fn pack(mut self) -> Box<[u8]> {
        let mut bytes = Vec::with_capacity(768);
        let mut writer = Writer(&mut bytes);
        self.visit_head(&mut writer);
        self.sides.iter_mut().for_each(|side| side.visit(&mut writer));
        bytes.as_slice().into()
    }

    fn unpack(bytes: &[u8]) -> Self {
        let (mut live, mut loader) = (Self::default(), Loader(bytes));
        live.visit_head(&mut loader);
        live.sides.iter_mut().for_each(|side| side.visit(&mut loader));
        live
    }

    /// What stands at the beginning of a packed one; its sides are empty.
    fn head(bytes: &[u8]) -> Self {
        let mut live = Self::default();
        live.visit_head(&mut Loader(bytes));
        live
    }

    fn take_connection(&mut self) -> Connection {
        let Self { number, v6, a, b, first, last, .. } = *self;
        let directions = self.sides.each_mut().map(|side| std::mem::take(&mut side.stats));
        Connection { number, v6, a, b, first, last, directions }
    }

    fn into_connection(self) -> Connection {
        let Self { number, v6, a, b, first, last, sides: [ab, ba], .. } = self;
        Connection { number, v6, a, b, first, last, directions: [ab.stats, ba.stats] }
    }
}

/// Place of a live connection in its [`Table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(u32);

/// Place of a parked connection in its [`Table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    Live(Slot),
    Parked(Place),
}

/// Connections that may still see packets but hardly will, packed to a third of the room.
#[derive(Debug)]
struct Parked {
    items: Vec<Option<Box<[u8]>>>,
    free: Vec<u32>,
    index: Index,
    count: usize,
}

/// Connections live in chunks, so that growing never copies them.
const CHUNK: usize = 256;

/// All live connections.
#[derive(Debug)]
pub(super) struct Table {
    chunks: Vec<Vec<Live>>,
    free: Vec<u32>,
    live: usize,
    retired: usize,
    index: Index,
    parked: Parked,
    seeds: [u64; 2],
}

impl Table {
    pub(super) fn new() -> Self {
        let random = RandomState::new();
        let seeds = [random.hash_one(1_u8), random.hash_one(2_u8)];
        let parked = Parked { items: Vec::new(), free: Vec::new(), index: Index::new(), count: 0 };
        Self { chunks: Vec::new(), free: Vec::new(), live: 0, retired: 0, index: Index::new(), parked, seeds }
    }

    /// Number of connections that may see packets, parked ones included.
    pub(super) const fn len(&self) -> usize {
        self.live + self.parked.count
    }

    /// Of these, those that are not parked.
    #[cfg(test)]
    pub(super) const fn awake(&self) -> usize {
        self.live
    }

    /// Connections that are not packed, retired ones included.
    pub(super) const fn occupied(&self) -> usize {
        self.live + self.retired
    }

    #[inline]
    pub(super) fn hash(&self, segment: &Segment) -> u32 {
        hash(self.seeds, segment.source, segment.destination)
    }

    /// The live connection `segment` belongs to, and which way it goes there.
    #[inline]
    pub(super) fn find(&self, hash: u32, segment: &Segment) -> Option<(Slot, Way)> {
        self.index.find(hash, |slot| Some((Slot(slot), self.at(slot).way(segment)?)))
    }

    #[inline]
    fn at(&self, slot: u32) -> &Live {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, Slot(slot): Slot) -> &mut Live {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    #[inline]
    pub(super) fn get(&self, Slot(slot): Slot) -> &Live {
        self.at(slot)
    }

    /// Makes room for a new connection between the ends of `segment`.
    pub(super) fn insert(&mut self, hash: u32, number: u64, segment: &Segment) -> Slot {
        let slot = self.occupy(hash);
        let live = self.get_mut(slot);
        (live.number, live.v6) = (number, segment.v6);
        (live.a, live.b) = (segment.source, segment.destination);
        slot
    }

    fn occupy(&mut self, hash: u32) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| self.grow());
        self.index.insert(hash, slot);
        self.live += 1;
        Slot(slot)
    }

    /// As [`Self::find`] among the parked ones; what is found is live again.
    #[inline]
    pub(super) fn wake(&mut self, hash: u32, segment: &Segment) -> Option<(Slot, Way)> {
        if self.parked.count == 0 { None } else { self.wake_any(hash, segment) }
    }

    #[cold]
    fn wake_any(&mut self, hash: u32, segment: &Segment) -> Option<(Slot, Way)> {
        let parked = &self.parked;
        let bytes = |place: u32| parked.items[place as usize].as_deref().expect("the index leads to parked ones only");
        let (place, way) =
            parked.index.find(hash, |place| Some((Place(place), Live::head(bytes(place)).way(segment)?)))?;
        let bytes = self.leave(hash, place);
        let slot = self.occupy(hash);
        *self.get_mut(slot) = Live::unpack(&bytes);
        Some((slot, way))
    }

    /// Takes a parked connection's bytes out.
    fn leave(&mut self, hash: u32, Place(place): Place) -> Box<[u8]> {
        let parked = &mut self.parked;
        parked.index.remove(hash, place);
        parked.count -= 1;
        parked.free.push(place);
        parked.items[place as usize].take().expect("only parked ones are taken out")
    }

    /// Packs a live connection.
    pub(super) fn park(&mut self, slot: Slot) {
        let (hash, live) = self.vacate(slot);
        let parked = &mut self.parked;
        let place = parked.free.pop().unwrap_or_else(|| {
            parked.items.push(None);
            u32::try_from(parked.items.len() - 1).expect("the limit on connections is below 2^32")
        });
        parked.items[place as usize] = Some(live.pack());
        parked.index.insert(hash, place);
        parked.count += 1;
    }

    /// Takes a parked connection out.
    pub(super) fn remove_parked(&mut self, place: Place) -> Connection {
        let bytes = self.parked.items[place.0 as usize].as_deref().expect("only parked ones are taken out");
        let head = Live::head(bytes);
        let bytes = self.leave(hash(self.seeds, head.a, head.b), place);
        Live::unpack(&bytes).into_connection()
    }

    /// All parked connections: place, number, time of the last packet.
    pub(super) fn parked(&self) -> impl Iterator<Item = (Place, u64, Time)> {
        let all = self.parked.items.iter().zip(0..);
        all.filter_map(|(bytes, place)| {
            let head = Live::head(bytes.as_deref()?);
            Some((Place(place), head.number, head.last))
        })
    }

    fn grow(&mut self) -> u32 {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let chunk = self.chunks.last_mut().expect("one was just made sure of");
        chunk.push(Live::default());
        u32::try_from(before + chunk.len() - 1).expect("the limit on live connections is below 2^32")
    }

    /// Takes a live connection out.
    pub(super) fn remove(&mut self, slot: Slot) -> Connection {
        self.vacate(slot).1.into_connection()
    }

    /// Takes a connection out, wherever it is.
    pub(super) fn remove_from(&mut self, place: Where) -> Connection {
        match place {
            Where::Live(slot) => self.remove(slot),
            Where::Parked(place) => self.remove_parked(place),
        }
    }

    /// No packet can reach this connection any more, but it stays where it is.
    pub(super) fn retire(&mut self, slot: Slot) {
        let live = self.get_mut(slot);
        live.retired = true;
        let (a, b) = (live.a, live.b);
        self.index.remove(hash(self.seeds, a, b), slot.0);
        self.live -= 1;
        self.retired += 1;
    }

    /// Takes a retired connection out.
    pub(super) fn remove_retired(&mut self, slot: Slot) -> Connection {
        self.retired -= 1;
        self.free.push(slot.0);
        std::mem::take(self.get_mut(slot)).into_connection()
    }

    fn vacate(&mut self, slot: Slot) -> (u32, Live) {
        let live = self.at(slot.0);
        let hash = hash(self.seeds, live.a, live.b);
        self.index.remove(hash, slot.0);
        self.live -= 1;
        self.free.push(slot.0);
        (hash, std::mem::take(self.get_mut(slot)))
    }

    /// All live connections.
    pub(super) fn slots(&self) -> impl Iterator<Item = (Slot, &Live)> {
        self.used().filter(|(_, live)| !live.retired)
    }

    /// All retired connections.
    pub(super) fn retired(&self) -> impl Iterator<Item = Slot> {
        self.used().filter(|(_, live)| live.retired).map(|(slot, _)| slot)
    }

    fn used(&self) -> impl Iterator<Item = (Slot, &Live)> {
        let all = self.chunks.iter().flatten().zip(0..);
        all.filter(|(live, _)| live.number != 0).map(|(live, slot)| (Slot(slot), live))
    }

    /// Everything in it, in order of numbers.
    pub(super) fn drain(self) -> Drain {
        let awake = self.used().map(|(slot, live)| (live.number, Where::Live(slot)));
        let parked = self.parked().map(|(place, number, _)| (number, Where::Parked(place)));
        let mut order: Vec<(u64, Where)> = awake.chain(parked).collect();
        order.sort_unstable_by_key(|&(number, _)| number);
        let left = self.chunks.iter().map(|chunk| chunk.iter().filter(|live| live.number != 0).count()).collect();
        Drain { order: order.into_iter().peekable(), chunks: self.chunks, left, parked: self.parked.items }
    }
}

/// Takes the connections of a table out one by one, and gives their memory back as it goes.
pub(super) struct Drain {
    order: Peekable<std::vec::IntoIter<(u64, Where)>>,
    chunks: Vec<Vec<Live>>,
    /// So many connections of each chunk are still to come.
    left: Vec<usize>,
    parked: Vec<Option<Box<[u8]>>>,
}

impl Drain {
    /// Number of the next one.
    pub(super) fn peek(&mut self) -> Option<u64> {
        self.order.peek().map(|&(number, _)| number)
    }

    /// Shows the next one to `show`; `None` if there is none.
    pub(super) fn next(&mut self, show: impl FnOnce(&mut Connection)) -> Option<()> {
        match self.order.next()?.1 {
            Where::Live(Slot(slot)) => {
                let chunk = slot as usize / CHUNK;
                show(&mut self.chunks[chunk][slot as usize % CHUNK].take_connection());
                self.left[chunk] -= 1;
                if self.left[chunk] == 0 {
                    self.chunks[chunk] = Vec::new();
                }
            }
            Where::Parked(Place(place)) => {
                let bytes = self.parked[place as usize].take().expect("each is taken out once");
                show(&mut Live::unpack(&bytes).into_connection());
            }
        }
        Some(())
    }
}

/// The same for both directions; seeded, so that nobody can choose endpoints that collide.
#[inline]
fn hash(seeds: [u64; 2], source: Endpoint, destination: Endpoint) -> u32 {
    let end = |end: Endpoint| {
        let (high, low, port) = end.words();
        let port = u64::from(port);
        if high == 0 { low << 16 | port } else { fold(high ^ seeds[1], low ^ seeds[0]) ^ port << 48 }
    };
    let (source, destination) = (end(source), end(destination));
    let mixed = fold(source.min(destination) ^ seeds[0], source.max(destination) ^ seeds[1]);
    low(mixed >> 32 ^ mixed)
}

/// Both halves of the 128-bit product.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    let folded = (product as u64) ^ (product >> 64) as u64;
    folded
}

/// Open addressing with linear probing: each entry is a hash and a slot number plus one, 0 when empty. The upper bits of
/// the hash choose the place.
#[derive(Debug)]
struct Index {
    entries: Vec<(u32, u32)>,
    used: usize,
    shift: u32,
}

/// Few connections hardly ever meet in so many places.
const SMALLEST_INDEX: usize = 1024;

impl Index {
    fn new() -> Self {
        Self { entries: vec![(0, 0); SMALLEST_INDEX], used: 0, shift: 32 - SMALLEST_INDEX.ilog2() }
    }

    #[inline]
    fn home(&self, hash: u32) -> usize {
        (hash >> self.shift) as usize
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.entries.len() - 1)
    }

    #[inline]
    fn find<T>(&self, hash: u32, check: impl Fn(u32) -> Option<T>) -> Option<T> {
        let mut at = self.home(hash);
        loop {
            let (tag, slot) = self.entries[at];
            if slot == 0 {
                return None;
            }
            if tag == hash
                && let Some(found) = check(slot - 1)
            {
                return Some(found);
            }
            at = self.next(at);
        }
    }

    fn insert(&mut self, hash: u32, slot: u32) {
        if self.used * 2 >= self.entries.len() {
            self.double();
        }
        self.place(hash, slot + 1);
        self.used += 1;
    }

    fn place(&mut self, hash: u32, stored: u32) {
        let mut at = self.home(hash);
        while self.entries[at].1 != 0 {
            at = self.next(at);
        }
        self.entries[at] = (hash, stored);
    }

    fn double(&mut self) {
        let doubled = vec![(0, 0); self.entries.len() * 2];
        self.shift -= 1;
        for (hash, stored) in std::mem::replace(&mut self.entries, doubled) {
            if stored != 0 {
                self.place(hash, stored);
            }
        }
    }

    /// Takes an entry out and closes the gap, so that no search ends early.
    fn remove(&mut self, hash: u32, slot: u32) {
        let mut gap = self.home(hash);
        while self.entries[gap] != (hash, slot + 1) {
            gap = self.next(gap);
        }
        self.used -= 1;
        let mut at = self.next(gap);
        while self.entries[at].1 != 0 {
            let home = self.home(self.entries[at].0);
            let mask = self.entries.len() - 1;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(gap) & mask {
                self.entries[gap] = self.entries[at];
                gap = at;
            }
            at = self.next(at);
        }
        self.entries[gap] = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_index_is_a_map(steps in prop::collection::vec((any::<bool>(), 0_u32..200), 0..2000)) {
            let (mut index, mut model) = (Index::new(), HashMap::new());
            for (add, key) in steps {
                // Few distinct upper bits: long runs of neighbours.
                let hash = key.wrapping_mul(0x9e37_79b9) & 0xf000_00ff;
                if add && !model.contains_key(&key) {
                    index.insert(hash, key);
                    model.insert(key, hash);
                } else if let Some(hash) = model.remove(&key) {
                    index.remove(hash, key);
                }
                for key in 0_u32..200 {
                    let hash = key.wrapping_mul(0x9e37_79b9) & 0xf000_00ff;
                    let found = index.find(hash, |slot| (slot == key).then_some(()));
                    prop_assert_eq!(found.is_some(), model.contains_key(&key));
                }
            }
        }
    }
}
