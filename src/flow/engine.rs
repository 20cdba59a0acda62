//! The connection engine: packets in, connections with their statistics out.

use std::collections::BTreeMap;

use crate::packet::{LinkDecoder, LinkType, Segment, Time};

use super::connection::{Connection, Way};
use super::ledger::gap;
use super::table::{Slot, Table};

/// Bytes of a record that are looked at.
const MAX_FRAME: usize = 65_535;
/// Silence after which the same endpoints make a new connection.
const MAX_SILENCE: u64 = 240_000_000;

/// How an [`Engine`] works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// In which order connections are handed out.
    pub order: Order,
    /// Most connections kept live. Beyond it the ones silent for longest are ended early, and counted in
    /// [`Totals::ended_early`].
    pub max_live: usize,
    /// From so many live connections on, those silent for longer than 240 s are released. They could come back only in a
    /// capture whose clock jumps backwards.
    pub release_above: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { order: Order::Creation, max_live: 2_000_000, release_above: 20_000 }
    }
}

/// In which order connections are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// In order of first packets, as tcptrace has it. Finished ones wait, packed, for the ones before them.
    Creation,
    /// Whichever is final.
    Final,
}

/// What an [`Engine`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Records, of any kind.
    pub records: u64,
    /// Bytes they had on the wire.
    pub wire_bytes: u64,
    /// TCP packets that belong to a connection.
    pub tcp_packets: u64,
    /// Records of a link type that is not supported.
    pub unsupported: u64,
    /// One of their link types.
    pub unsupported_link: Option<LinkType>,
    /// Connections.
    pub connections: u64,
    /// Connections ended early because there were too many live ones.
    pub ended_early: u64,
    /// Time of the first record; the epoch without any.
    pub first: Time,
    /// Time of the last record; the epoch without any.
    pub last: Time,
}

/// Takes finished connections.
pub trait Sink {
    /// A connection nothing will change any more.
    fn connection(&mut self, connection: &Connection);
}

impl<F: FnMut(&Connection)> Sink for F {
    fn connection(&mut self, connection: &Connection) {
        self(connection);
    }
}

/// A TCP packet's place in its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traced {
    /// Number of the connection, from 1.
    pub connection: u64,
    /// Which way it goes.
    pub way: Way,
    /// When the connection's previous packet was captured, whichever way it went; `None` for the first.
    pub previous: Option<Time>,
    /// Were octets sent and not acknowledged before this packet, in either direction?
    pub outstanding: bool,
}

/// Computes the statistics of all TCP connections of one capture.
///
/// Memory is bounded by the number of live connections; see [`Options`].
#[derive(Debug)]
pub struct Engine<S> {
    options: Options,
    sink: S,
    table: Table,
    link: LinkDecoder,
    totals: Totals,
    /// Final connections that wait for earlier ones, and ended ones that wait for the end of the capture, packed.
    waiting: BTreeMap<u64, Box<[u8]>>,
    /// Number of the next connection to hand out, in order of creation.
    next: u64,
    sweep: Sweep,
}

/// When to look for connections to release.
#[derive(Debug, Default)]
struct Sweep {
    packets: u64,
    due: i64,
}

impl<S: Sink> Engine<S> {
    /// An engine that has seen nothing.
    pub fn new(options: Options, sink: S) -> Self {
        Self {
            options,
            sink,
            table: Table::new(),
            link: LinkDecoder::default(),
            totals: Totals::default(),
            waiting: BTreeMap::new(),
            next: 1,
            sweep: Sweep::default(),
        }
    }

    /// Takes one captured frame: when it was captured, its bytes on the wire, the bytes kept and what they begin with.
    #[inline]
    pub fn packet(&mut self, at: Time, wire_len: u32, data: &[u8], link: LinkType) {
        let mut segment = Segment::default();
        self.observe(at, wire_len, data, link, &mut segment);
    }

    /// As [`Self::packet`]; a TCP packet is also decoded into `segment`, and its place in its connection given.
    #[inline]
    pub fn observe(
        &mut self,
        at: Time,
        wire_len: u32,
        data: &[u8],
        link: LinkType,
        segment: &mut Segment,
    ) -> Option<Traced> {
        self.totals.records += 1;
        self.totals.wire_bytes += u64::from(wire_len);
        self.totals.last = at;
        if self.totals.records == 1 {
            self.totals.first = at;
        }
        let data = &data[..data.len().min(MAX_FRAME)];
        let Some(ip) = self.link.ip(link, data) else {
            self.note_unsupported(link);
            return None;
        };
        segment.read(ip)?;
        self.totals.tcp_packets += 1;
        Some(self.segment(at, segment))
    }

    #[cold]
    fn note_unsupported(&mut self, link: LinkType) {
        if !link.is_supported() {
            self.totals.unsupported += 1;
            self.totals.unsupported_link = Some(link);
        }
    }

    #[inline]
    fn segment(&mut self, at: Time, segment: &Segment) -> Traced {
        let now = at.micros();
        let hash = self.table.hash(segment);
        let found = self.table.find(hash, segment);
        let (slot, way) = match found {
            Some((slot, way)) if !self.starts_anew(slot, way, now, segment) => (slot, way),
            other => (self.begin(hash, other.map(|(slot, _)| slot), at, segment), Way::AToB),
        };
        let live = self.table.get_mut(slot);
        let previous = (live.sides[0].stats.packets | live.sides[1].stats.packets > 0).then_some(live.last);
        if live.first.micros() == 0 {
            live.first = at;
        }
        live.last = at;
        let connection = live.number;
        let (side, peer) = live.sides_mut(way);
        let outstanding = side.has_outstanding(peer) | peer.has_outstanding(side);
        side.send(peer, now, segment);
        Traced { connection, way, previous, outstanding }
    }

    #[inline]
    fn starts_anew(&self, slot: Slot, way: Way, now: i64, segment: &Segment) -> bool {
        let live = self.table.get(slot);
        if gap(live.last.micros(), now) > MAX_SILENCE {
            return true;
        }
        segment.flags.syn() && {
            let peer = &live.sides[way.reversed().index()];
            live.sides[way.index()].starts_anew(peer, segment)
        }
    }

    fn begin(&mut self, hash: u32, retired: Option<Slot>, at: Time, segment: &Segment) -> Slot {
        if let Some(slot) = retired {
            self.release(slot);
        }
        self.make_room(at.micros());
        self.totals.connections += 1;
        self.table.insert(hash, self.totals.connections, segment)
    }

    /// Takes a connection out of the table: no packet can reach it any more.
    fn release(&mut self, slot: Slot) {
        let mut connection = self.table.remove(slot);
        let number = connection.number;
        let is_final = connection.has_ended();
        if is_final && (self.options.order == Order::Final || number == self.next) {
            self.sink.connection(&connection);
            self.next += u64::from(number == self.next);
        } else {
            self.waiting.insert(number, connection.pack());
        }
    }

    /// Releases what has been silent for too long, if there is much of it to look for, and ends connections early where
    /// the limit would be passed. Amortised, each packet pays a constant.
    #[inline]
    fn make_room(&mut self, now: i64) {
        if self.table.len() < self.options.release_above.min(self.options.max_live) {
            return;
        }
        let rested = self.totals.tcp_packets - self.sweep.packets >= self.table.len() as u64;
        if (rested && now >= self.sweep.due) || self.table.len() >= self.options.max_live {
            self.sweep(now);
        }
    }

    #[cold]
    fn sweep(&mut self, now: i64) {
        const PERIOD: i64 = 30_000_000;
        let silent = |last: Time| gap(last.micros(), now);
        let old: Vec<Slot> =
            self.table.slots().filter(|(_, live)| silent(live.last) > MAX_SILENCE).map(|(slot, _)| slot).collect();
        for slot in old {
            self.release(slot);
        }
        if self.table.len() >= self.options.max_live {
            self.end_early();
        }
        self.sweep = Sweep { packets: self.totals.tcp_packets, due: now.saturating_add(PERIOD) };
    }

    /// Ends an eighth of the live connections, those silent for longest.
    fn end_early(&mut self) {
        let mut all: Vec<(Time, u64, Slot)> =
            self.table.slots().map(|(slot, live)| (live.last, live.number, slot)).collect();
        let count = (all.len() / 8).max(1);
        all.select_nth_unstable_by_key(count - 1, |&(last, number, _)| (last, number));
        for &(_, _, slot) in &all[..count] {
            self.release(slot);
        }
        self.totals.ended_early += count as u64;
    }

    /// Connections that may still see packets.
    pub const fn live(&self) -> usize {
        self.table.len()
    }

    /// What was seen so far.
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The capture is over: hands out every connection not handed out before, and gives the sink back.
    pub fn finish(mut self) -> (Totals, S) {
        let last = self.totals.last;
        let mut live: Vec<(u64, Slot)> = self.table.slots().map(|(slot, live)| (live.number, slot)).collect();
        live.sort_unstable_by_key(|&(number, _)| number);
        let mut live = live.into_iter().peekable();
        let mut waiting = std::mem::take(&mut self.waiting).into_iter().peekable();
        loop {
            let mut connection = match (live.peek(), waiting.peek()) {
                (Some(&(number, slot)), next) if next.is_none_or(|(other, _)| number < *other) => {
                    live.next();
                    self.table.remove(slot)
                }
                (_, Some(_)) => Connection::unpack(&waiting.next().expect("just seen").1),
                (_, None) => break,
            };
            connection.close(last);
            self.sink.connection(&connection);
        }
        (self.totals, self.sink)
    }
}
