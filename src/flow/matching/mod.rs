//! The packets of two vantages of one path, matched: what got lost in between, came in another order or cut differently,
//! and how long it took.
//!
//! A packet is the same at both points when endpoints, IP identification, sequence and acknowledgement number, flags
//! and payload length agree (by a seeded hash of 64 bits). Packets that are not found at the other point were cut or joined
//! on the way (TSO, GSO, GRO) when their octets are in packets there that were not found here either; each octet counts once,
//! so that a retransmission does not make up for what was lost. Everything is settled once both points' packets are so
//! many [`Matcher::WINDOW_NANOS`] further, so that memory is bounded by what is under way in that time.
//!
//! The path leads from [`Point::Near`], on the side of `a`, to [`Point::Far`], on the side of `b`.

mod octets;
mod pending;

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

use crate::packet::{Endpoint, Segment, Seq, Time};

use super::connection::Way;
use super::sketch::Sketch;
use octets::{Claim, Offered};
use pending::{Pending, Seen};

/// Where a packet was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// The vantage on the side of `a`, the client.
    Near,
    /// The one on the side of `b`.
    Far,
}

impl Point {
    const fn index(self) -> usize {
        match self {
            Self::Near => 0,
            Self::Far => 1,
        }
    }
}

/// What comparing the two points gave.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matched {
    /// From `a` to `b`, and back.
    pub ways: [MatchedWay; 2],
    /// Packets that were not followed to the end because too many were under way. Not 0: the counts below `received_bytes` are wrong.
    pub given_up: u64,
    /// Packets that the two points took for opposite directions of their connection. As for `given_up`.
    pub contradictory: u64,
}

/// One direction.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MatchedWay {
    /// TCP packets at the point they pass first, and their payload.
    pub sent: u64,
    /// Payload octets of these.
    pub sent_bytes: u64,
    /// TCP packets at the other point.
    pub received: u64,
    /// Payload octets of these.
    pub received_bytes: u64,
    /// Packets seen at both points as they are.
    pub both: u64,
    /// Packets sent of which octets, or all of which, never came.
    pub lost: u64,
    /// Packets received that were not sent.
    pub appeared: u64,
    /// Packets sent whose octets came in other packets.
    pub sent_resegmented: u64,
    /// Packets received whose octets were sent in other packets.
    pub received_resegmented: u64,
    /// Packets seen at both points that were overtaken.
    pub reordered: u64,
    /// Packets of which nothing can be said, sent and received: they were under way when the capture began or ended.
    pub edge: [u64; 2],
    /// Time from point to point in seconds. Means something only if both share a clock.
    pub delay: Sketch,
}

/// For keys that are hashes.
#[derive(Debug, Clone, Copy, Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

type Same = BuildHasherDefault<Plain>;

#[derive(Debug, Default)]
struct Side {
    pending: Pending,
    /// Packets that were not found within a window; oldest first.
    odd: VecDeque<Seen>,
    offered: Offered,
    /// Flows whose octets may still be claimed.
    open: VecDeque<(Time, u64)>,
    first: Option<Time>,
    latest: Option<Time>,
    /// The last promise that nothing earlier will come.
    promised: Option<Time>,
    seen: u64,
    /// Orders of the first and the last packet, a2b and b2a, that is known at the other point.
    known: [Option<(u64, u64)>; 2],
}

/// A packet that is at one point only.
#[derive(Debug, Clone, Copy)]
struct Single {
    here: usize,
    at: Time,
    order: u64,
    way: Way,
}

/// Matches packets of two points; feed it both points' packets roughly in order of time.
#[derive(Debug)]
pub struct Matcher {
    seeds: [u64; 2],
    /// Most packets of a point that are remembered.
    most: usize,
    clock: Clock,
    sides: [Side; 2],
    /// Highest orders at both points of each flow; the flows of now and of before.
    newest: [HashMap<u64, [u64; 2], Same>; 2],
    swept: Option<Time>,
    matched: Matched,
}

/// Do the two points read the same clock?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The same one: no packet is received before it was sent.
    Shared,
    /// One each, set alike to within a second.
    Apart,
}

impl Matcher {
    /// How long the other point may take to see a packet.
    pub const WINDOW_NANOS: i64 = 2_000_000_000;
    /// What a packet that waits takes, at most.
    pub const PACKET_BYTES: u64 = 256;
    /// So close to the beginning or the end of a capture a packet may have been under way then.
    const EDGE_NANOS: i64 = 1_000_000_000;
    const SWEEP_NANOS: i64 = 10_000_000;
    const MOST_FLOWS: usize = 1 << 18;

    /// Has seen nothing. `most` packets of each point are remembered at a time; more that wait are given up.
    pub fn new(most: usize, clock: Clock) -> Self {
        let state = RandomState::new();
        let seeds = [state.hash_one(1), state.hash_one(2)];
        Self {
            seeds,
            most: most.max(1),
            clock,
            sides: Default::default(),
            newest: Default::default(),
            swept: None,
            matched: Matched::default(),
        }
    }

    /// Takes a TCP packet seen at one point, going that way.
    pub fn packet(&mut self, point: Point, at: Time, way: Way, segment: &Segment) {
        let (here, there) = (point.index(), 1 - point.index());
        let (flow, print) = self.prints(segment);
        let payload = u32::try_from(segment.payload).unwrap_or_default();
        self.matched.ways[way.index()].count(here == entry(way), payload);
        let side = &mut self.sides[here];
        side.first.get_or_insert(at);
        side.latest = side.latest.max(Some(at));
        // What it may have been matched with is settled.
        self.matched.given_up += u64::from(Some(at) < side.promised);
        side.seen += 1;
        let own = Seen { at, order: side.seen, print, flow, seq: Seq(segment.seq), payload, way };
        match self.sides[there].pending.take(print) {
            Some(other) if point == Point::Far => self.note_both(&other, &own),
            Some(other) => self.note_both(&own, &other),
            None => self.sides[here].pending.push(own),
        }
        self.settle();
        self.limit();
    }

    /// A point has nothing more up to this time. A packet that comes all the same counts as given up.
    pub fn quiet(&mut self, point: Point, until: Time) {
        let side = &mut self.sides[point.index()];
        side.promised = side.promised.max(Some(until));
        if side.latest < Some(until) {
            side.latest = Some(until);
            self.settle();
        }
    }

    fn prints(&self, segment: &Segment) -> (u64, u64) {
        let end = |end: Endpoint| {
            let (high, low, port) = end.words();
            fold(low ^ self.seeds[0], high ^ u64::from(port) << 40 ^ self.seeds[1])
        };
        let flow = fold(end(segment.source) ^ self.seeds[1], end(segment.destination).rotate_left(17) ^ self.seeds[0]);
        let numbers = u64::from(segment.seq) << 32 | u64::from(segment.ack);
        let id = segment.ip_id.map_or(1 << 16, u64::from);
        let rest = u64::from(segment.payload.cast_unsigned()) << 32 | u64::from(segment.flags.0) << 20 | id;
        (flow, fold(fold(numbers ^ flow, self.seeds[0]) ^ self.seeds[1], rest ^ self.seeds[0]))
    }

    fn note_both(&mut self, near: &Seen, far: &Seen) {
        let way = near.way;
        self.matched.contradictory += u64::from(near.way != far.way);
        self.sides[0].know(way, near.order);
        self.sides[1].know(way, far.order);
        let travelled = match way {
            Way::AToB => far.at.nanos_since(near.at),
            Way::BToA => near.at.nanos_since(far.at),
        };
        let overtaken = self.inverts(near.flow, [near.order, far.order]);
        let matched = &mut self.matched.ways[way.index()];
        matched.both += 1;
        matched.reordered += u64::from(overtaken);
        #[expect(clippy::cast_precision_loss, reason = "delays are far below 2^53 ns")]
        matched.delay.add(travelled as f64 / 1e9);
    }

    /// Is the packet before the latest one of its flow at one point, and after it at the other?
    fn inverts(&mut self, flow: u64, orders: [u64; 2]) -> bool {
        if self.newest[0].len() >= Self::MOST_FLOWS {
            self.newest.swap(0, 1);
            self.newest[0].clear();
        }
        let before = self.newest[1].get(&flow).copied().unwrap_or_default();
        let newest = self.newest[0].entry(flow).or_insert(before);
        let inverted = (orders[0] < newest[0]) != (orders[1] < newest[1]);
        *newest = [newest[0].max(orders[0]), newest[1].max(orders[1])];
        inverted
    }

    /// Settles what can no longer be matched.
    fn settle(&mut self) {
        let [Some(near), Some(far)] = [self.sides[0].latest, self.sides[1].latest] else { return };
        let now = near.min(far);
        if self.swept.is_some_and(|swept| now.nanos_since(swept) < Self::SWEEP_NANOS) {
            return;
        }
        self.swept = Some(now);
        let age = |at: Time| now.nanos_since(at) / Self::WINDOW_NANOS;
        for side in &mut self.sides {
            while side.pending.oldest().is_some_and(|seen| age(seen.at) >= 1) {
                side.give_odd();
            }
        }
        for here in 0..2 {
            while let Some(&seen) = self.sides[here].odd.front().filter(|seen| age(seen.at) >= 2) {
                self.sides[here].odd.pop_front();
                if let Some(single) = self.claim(here, &seen) {
                    self.classify(single, End::Open);
                }
            }
        }
        for side in &mut self.sides {
            while let Some(&(at, flow)) = side.open.front().filter(|(at, _)| age(*at) >= 3) {
                side.open.pop_front();
                side.offered.forget(flow, at);
            }
        }
    }

    /// The packet's octets, if they came in other packets; otherwise it is at this point only.
    fn claim(&mut self, here: usize, seen: &Seen) -> Option<Single> {
        let single = Single { here, at: seen.at, order: seen.order, way: seen.way };
        if seen.payload == 0 {
            return Some(single);
        }
        match self.sides[1 - here].offered.claim(seen.flow, seen.seq, seen.seq.after(seen.payload)) {
            Claim::Refused => return Some(single),
            Claim::Lost => self.matched.given_up += 1,
            Claim::Granted => {
                self.sides[here].know(seen.way, seen.order);
                let way = &mut self.matched.ways[seen.way.index()];
                *(if here == entry(seen.way) { &mut way.sent_resegmented } else { &mut way.received_resegmented }) += 1;
            }
        }
        None
    }

    fn classify(&mut self, single: Single, end: End) {
        let Single { here, at, order, way } = single;
        let side = &self.sides[here];
        let known = side.known[way.index()];
        let is_sent = here == entry(way);
        let near_begin = side.first.is_none_or(|first| at.nanos_since(first) < Self::EDGE_NANOS);
        let near_end = side.latest.is_none_or(|latest| latest.nanos_since(at) < Self::EDGE_NANOS);
        let leads = near_begin && known.is_none_or(|(first, _)| order < first);
        let trails = end == End::Closed && near_end && known.is_none_or(|(_, last)| order > last);
        // By one clock, what was sent in the window is received after its beginning, and what was received in it was sent
        // before its end.
        let apart = self.clock == Clock::Apart;
        let is_edge = (leads && (!is_sent || apart)) || (trails && (is_sent || apart));
        let matched = &mut self.matched.ways[way.index()];
        match (is_edge, is_sent) {
            (true, _) => matched.edge[usize::from(!is_sent)] += 1,
            (false, true) => matched.lost += 1,
            (false, false) => matched.appeared += 1,
        }
    }

    /// Gives up the oldest where there are too many.
    fn limit(&mut self) {
        for side in &mut self.sides {
            while side.pending.len() > self.most {
                self.matched.given_up += u64::from(side.pending.pop().is_some());
            }
            while side.odd.len() + side.open.len() > self.most {
                if let Some((at, flow)) = side.open.pop_front() {
                    side.offered.forget(flow, at);
                }
                self.matched.given_up += 1;
                side.odd.pop_front();
            }
        }
    }

    /// Settles everything and gives the result.
    pub fn finish(mut self) -> Matched {
        for side in &mut self.sides {
            while side.pending.len() > 0 {
                side.give_odd();
            }
        }
        let mut singles = Vec::new();
        for here in 0..2 {
            for seen in std::mem::take(&mut self.sides[here].odd) {
                singles.extend(self.claim(here, &seen));
            }
        }
        singles.into_iter().for_each(|single| self.classify(single, End::Closed));
        self.matched
    }
}

/// Is the capture over?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Closed,
}

impl MatchedWay {
    fn count(&mut self, is_sent: bool, payload: u32) {
        let (packets, bytes) = if is_sent {
            (&mut self.sent, &mut self.sent_bytes)
        } else {
            (&mut self.received, &mut self.received_bytes)
        };
        *packets += 1;
        *bytes += u64::from(payload);
    }
}

impl Side {
    /// The oldest packet was not found as it is.
    fn give_odd(&mut self) {
        let Some(seen) = self.pending.pop() else { return };
        if seen.payload > 0 {
            self.offered.offer(seen.flow, seen.seq, seen.seq.after(seen.payload), seen.at);
            self.open.push_back((seen.at, seen.flow));
        }
        self.odd.push_back(seen);
    }

    fn know(&mut self, way: Way, order: u64) {
        let known = self.known[way.index()].get_or_insert((order, order));
        *known = (known.0.min(order), known.1.max(order));
    }
}

/// Index of the point that packets going this way pass first.
const fn entry(way: Way) -> usize {
    match way {
        Way::AToB => 0,
        Way::BToA => 1,
    }
}

/// Both halves of the 128-bit product.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    let folded = (product as u64) ^ (product >> 64) as u64;
    folded
}

#[cfg(test)]
mod tests;
