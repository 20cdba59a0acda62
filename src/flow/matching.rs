//! The packets of two vantages of one path, matched: what got lost in between, came in another order or cut differently,
//! and how long it took.
//!
//! A packet is the same at both points when endpoints, IP identification, sequence and acknowledgement number, flags
//! and payload length agree. Payload octets whose packets differ but that were seen at the other point all the same were
//! cut or joined on the way (TSO, GRO). Packets are given up for lost once both points' clocks are
//! [`Matcher::WINDOW_NANOS`] further, so memory is bounded by what is under way in that time.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use crate::packet::{Endpoint, Segment, Seq, Time};

use super::sketch::Sketch;

/// Where a packet was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// The first vantage.
    Near,
    /// The second.
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

/// What comparing the two points gave. Packets of both directions count; "near" is the point they were seen at.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matched {
    /// Packets seen: near, far.
    pub packets: [u64; 2],
    /// Packets seen at both points.
    pub both: u64,
    /// Packets seen at one point whose octets were seen at the other in different packets: near, far.
    pub resegmented: [u64; 2],
    /// Packets seen at one point only: near, far. Those seen near only were lost between, or their capture was.
    pub only: [u64; 2],
    /// Packets that overtook an earlier one of their direction and connection on the way.
    pub reordered: u64,
    /// Packets given up early because too many were under way: near, far. They may count as `only` wrongly.
    pub given_up: [u64; 2],
    /// Time from near to far in milliseconds, negative for packets going the other way; means something only if both points
    /// share a clock.
    pub delay_millis: Sketch,
}

type Flow = (bool, Endpoint, Endpoint);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    flow: Flow,
    ip_id: Option<u16>,
    seq: u32,
    ack: u32,
    flags: u8,
    payload: i32,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    at: Time,
    /// Place among its point's packets.
    order: u64,
}

#[derive(Debug, Default)]
struct Side {
    pending: HashMap<Key, VecDeque<Pending>>,
    /// Every packet that may still be pending, oldest first.
    queue: VecDeque<(Time, u64, Key)>,
    latest: Option<Time>,
    seen: u64,
    /// Octets seen, by flow: this window's and the one's before.
    octets: [HashMap<Flow, Spans>; 2],
    turned: Time,
}

/// Ranges of sequence numbers; a few, because they are joined as they come.
#[derive(Debug, Default)]
struct Spans(Vec<(Seq, Seq)>);

/// Matches packets of two points; feed it both points' packets roughly in order of time.
#[derive(Debug, Default)]
pub struct Matcher {
    sides: [Side; 2],
    /// Highest order matched, by flow and point of origin.
    newest: HashMap<Flow, u64>,
    matched: Matched,
}

impl Matcher {
    /// How long the other point may take to see a packet.
    pub const WINDOW_NANOS: i64 = 2_000_000_000;
    /// Most packets under way at a point.
    pub const MAX_PENDING: usize = 1 << 18;
    const MAX_FLOWS: usize = 1 << 18;

    /// Has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a TCP packet seen at one point.
    pub fn packet(&mut self, point: Point, at: Time, segment: &Segment) {
        let (here, there) = (point.index(), 1 - point.index());
        let key = key(segment);
        self.matched.packets[here] += 1;
        let side = &mut self.sides[here];
        side.latest = side.latest.max(Some(at));
        side.seen += 1;
        let own = Pending { at, order: side.seen };
        side.note_octets(at, &key);
        if let Some(other) = self.sides[there].take(&key) {
            let (near, far) = if point == Point::Far { (other, own) } else { (own, other) };
            self.note_both(key.flow, near, far);
        } else {
            let side = &mut self.sides[here];
            side.pending.entry(key).or_default().push_back(own);
            side.queue.push_back((at, own.order, key));
        }
        self.expire();
    }

    fn note_both(&mut self, flow: Flow, near: Pending, far: Pending) {
        #[expect(clippy::cast_precision_loss, reason = "delays are far below 2^53 ns")]
        let millis = far.at.nanos_since(near.at) as f64 / 1e6;
        self.matched.both += 1;
        self.matched.delay_millis.add(millis);
        // In whichever direction the packet goes, the point it reaches first gives the order.
        let (first, second) = if millis >= 0.0 { (near, far) } else { (far, near) };
        let _ = second;
        if self.newest.len() >= Self::MAX_FLOWS {
            self.newest.clear();
        }
        let newest = self.newest.entry(flow).or_default();
        if first.order < *newest {
            self.matched.reordered += 1;
        }
        *newest = first.order.max(*newest);
    }

    /// Settles what can no longer be matched.
    fn expire(&mut self) {
        let [Some(near), Some(far)] = [self.sides[0].latest, self.sides[1].latest] else {
            return self.limit();
        };
        let clock = near.min(far);
        for here in 0..2 {
            while let Some(&(at, order, key)) = self.sides[here].queue.front()
                && clock.nanos_since(at) > Self::WINDOW_NANOS
            {
                self.sides[here].queue.pop_front();
                self.settle(here, order, &key);
            }
        }
        self.limit();
    }

    fn limit(&mut self) {
        for here in 0..2 {
            while self.sides[here].queue.len() > Self::MAX_PENDING {
                let (_, order, key) = self.sides[here].queue.pop_front().expect("there are too many");
                self.matched.given_up[here] += u64::from(self.settle(here, order, &key));
            }
        }
    }

    /// Was the packet still unmatched? Then it was cut differently, or it was seen here only.
    fn settle(&mut self, here: usize, order: u64, key: &Key) -> bool {
        if !self.sides[here].drop_pending(order, key) {
            return false;
        }
        if self.sides[1 - here].has_octets(key) {
            self.matched.resegmented[here] += 1;
        } else {
            self.matched.only[here] += 1;
        }
        true
    }

    /// Settles everything and gives the result.
    pub fn finish(mut self) -> Matched {
        for here in 0..2 {
            while let Some((_, order, key)) = self.sides[here].queue.pop_front() {
                self.settle(here, order, &key);
            }
        }
        self.matched
    }
}

impl Side {
    /// The oldest pending packet like this one.
    fn take(&mut self, key: &Key) -> Option<Pending> {
        let Entry::Occupied(mut entry) = self.pending.entry(*key) else { return None };
        let found = entry.get_mut().pop_front();
        if entry.get().is_empty() {
            entry.remove();
        }
        found
    }

    fn drop_pending(&mut self, order: u64, key: &Key) -> bool {
        let Entry::Occupied(mut entry) = self.pending.entry(*key) else { return false };
        let at = entry.get().iter().position(|pending| pending.order == order);
        let found = at.and_then(|at| entry.get_mut().remove(at)).is_some();
        if entry.get().is_empty() {
            entry.remove();
        }
        found
    }

    fn note_octets(&mut self, at: Time, key: &Key) {
        let Ok(payload @ 1..) = u32::try_from(key.payload) else { return };
        // A packet of the other point may be settled two windows after this one was seen.
        if at.nanos_since(self.turned) > 2 * Matcher::WINDOW_NANOS || self.octets[0].len() >= Matcher::MAX_FLOWS {
            self.octets.swap(0, 1);
            self.octets[0].clear();
            self.turned = at;
        }
        self.octets[0].entry(key.flow).or_default().add(Seq(key.seq), Seq(key.seq).after(payload));
    }

    /// Were all payload octets of this packet seen here? Never for a packet without payload.
    fn has_octets(&self, key: &Key) -> bool {
        let Ok(payload @ 1..) = u32::try_from(key.payload) else { return false };
        let (from, to) = (Seq(key.seq), Seq(key.seq).after(payload));
        self.octets.iter().any(|octets| octets.get(&key.flow).is_some_and(|spans| spans.cover(from, to)))
    }
}

impl Spans {
    const MOST: usize = 64;

    fn add(&mut self, from: Seq, to: Seq) {
        let touches = |&(lo, hi): &(Seq, Seq)| !from.is_after(hi) && !lo.is_after(to);
        let (mut from, mut to) = (from, to);
        while let Some(at) = self.0.iter().rposition(touches) {
            let (lo, hi) = self.0.swap_remove(at);
            from = if from.is_after(lo) { lo } else { from };
            to = if hi.is_after(to) { hi } else { to };
            if self.0.iter().rposition(|&(lo, hi)| !from.is_after(hi) && !lo.is_after(to)).is_none() {
                break;
            }
        }
        if self.0.len() == Self::MOST {
            self.0.remove(0);
        }
        self.0.push((from, to));
    }

    fn cover(&self, from: Seq, to: Seq) -> bool {
        self.0.iter().any(|&(lo, hi)| !lo.is_after(from) && !to.is_after(hi))
    }
}

fn key(segment: &Segment) -> Key {
    Key {
        flow: (segment.v6, segment.source, segment.destination),
        ip_id: segment.ip_id,
        seq: segment.seq,
        ack: segment.ack,
        flags: segment.flags.0,
        payload: segment.payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(seq: u32, payload: i32) -> Segment {
        Segment { seq, payload, ..Segment::default() }
    }

    fn run(script: &[(Point, i64, u32, i32)]) -> Matched {
        let mut matcher = Matcher::new();
        for &(point, millis, seq, payload) in script {
            matcher.packet(point, Time::from_micros(1_000_000_000 + millis * 1000), &segment(seq, payload));
        }
        matcher.finish()
    }

    #[test]
    fn delay_loss_and_order() {
        use Point::{Far, Near};
        let found = run(&[
            (Near, 0, 0, 100),
            (Near, 1, 100, 100),
            (Near, 2, 200, 100),
            (Far, 10, 200, 100),
            (Far, 11, 0, 100),
            (Near, 20, 300, 100),
            (Far, 30, 300, 100),
        ]);
        assert_eq!((found.packets, found.both, found.only), ([4, 3], 3, [1, 0]));
        assert_eq!(found.reordered, 1);
        assert_eq!(found.delay_millis.min(), Some(8.0));
        assert_eq!(found.delay_millis.max(), Some(11.0));
    }

    #[test]
    fn a_super_segment_is_recognised_in_its_parts() {
        use Point::{Far, Near};
        let found = run(&[(Near, 0, 0, 3000), (Far, 1, 0, 1448), (Far, 1, 1448, 1448), (Far, 2, 2896, 104)]);
        assert_eq!((found.resegmented, found.only, found.both), ([1, 3], [0, 0], 0));
    }

    #[test]
    fn what_is_old_is_settled_and_forgotten() {
        let mut matcher = Matcher::new();
        for number in 0..20_000 {
            let at = Time::from_micros(i64::from(number) * 10_000);
            matcher.packet(Point::Near, at, &segment(number * 1000, 1));
            matcher.packet(Point::Far, at, &segment(number * 1000 + 500, 1));
        }
        assert!(matcher.sides.iter().all(|side| side.queue.len() < 300 && side.pending.len() < 300));
        assert_eq!(matcher.finish().only, [20_000, 20_000]);
    }
}
