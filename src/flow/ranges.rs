//! Sorted, disjoint ranges of one quarter of sequence space.
//!
//! tcptrace defines every step as a walk over all ranges from the lowest up. The same results come out here in constant
//! time for the usual packet: acknowledged ranges gather at the front ([`List::acked`]), where nothing but the last one can be
//! affected by an acknowledgement, so only their latest time of transmission needs to be known.

use std::ops::{Deref, DerefMut};

use smallvec::SmallVec;

use super::direction::Direction;
use super::ledger::{Ack, Inserted, gap};
use super::samples::as_f64;
use super::visit::Visit;

/// Octets `lo..=hi`, sent together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    lo: u32,
    hi: u32,
    /// When last sent.
    time: i64,
    /// How often acknowledged.
    acks: u32,
    /// How often sent again, modulo 256.
    resent: u8,
}

/// Which acknowledged ranges have more than one acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Raised {
    #[default]
    None,
    /// The one beginning here.
    One(u32),
    /// Several: look at all.
    Many,
}

/// A vector whose front can be given up cheaply. A connection without loss never has more than two ranges at a time: they
/// need no memory of their own.
#[derive(Debug, Default)]
struct Queue {
    items: SmallVec<[Range; 2]>,
    /// So many items at the front are no more.
    head: usize,
}

impl Deref for Queue {
    type Target = [Range];

    #[inline]
    fn deref(&self) -> &[Range] {
        &self.items[self.head..]
    }
}

impl DerefMut for Queue {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Range] {
        &mut self.items[self.head..]
    }
}

impl Queue {
    #[inline]
    fn push(&mut self, range: Range) {
        if self.items.len() == self.items.capacity() {
            self.make_room();
        }
        self.items.push(range);
    }

    /// Moves the items to the front if that wins half of the space.
    #[cold]
    fn make_room(&mut self) {
        if self.head > 0 && self.head * 2 >= self.items.len() {
            self.items.drain(..self.head);
            self.head = 0;
        }
    }

    fn insert(&mut self, at: usize, range: Range) {
        if at == 0 && self.head > 0 {
            self.head -= 1;
            self.items[self.head] = range;
        } else {
            self.items.insert(self.head + at, range);
        }
    }

    /// Takes out `from..to`, whichever way moves less.
    #[inline]
    fn remove(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        if to == self.len() {
            self.items.truncate(self.head + from);
        } else if from < self.len() - to {
            self.copy_within(..from, to - from);
            self.head += to - from;
        } else {
            self.items.drain(self.head + from..self.head + to);
        }
    }

    fn shrink(&mut self) {
        if self.items.capacity() > self.len() {
            self.items.drain(..self.head);
            self.head = 0;
            self.items.shrink_to_fit();
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct List {
    ranges: Queue,
    /// So many ranges at the front are acknowledged; no two of them adjoin.
    acked: usize,
    /// Latest time of transmission among these, at least 0.
    newest: i64,
    raised: Raised,
    /// A malformed packet left a range that ends before it begins: order means nothing any more, walk.
    unordered: bool,
}

/// A list longer than this forgets its older half: 10^6 segments in flight are no connection but an attack on memory.
const MAX_RANGES: usize = 1 << 20;

impl Range {
    fn visit(&mut self, v: &mut impl Visit) {
        v.u32(&mut self.lo);
        v.u32(&mut self.hi);
        v.i64(&mut self.time);
        v.u32(&mut self.acks);
        v.u8(&mut self.resent);
    }
}

impl List {
    pub(super) fn visit(&mut self, v: &mut impl Visit) {
        self.ranges.shrink();
        let mut length = self.ranges.items.len() as u64;
        v.u64(&mut length);
        let length = usize::try_from(length).expect("was written from a length");
        self.ranges.items.resize(length, Range { lo: 0, hi: 0, time: 0, acks: 0, resent: 0 });
        self.ranges.items.iter_mut().for_each(|range| range.visit(v));
        let mut acked = self.acked as u64;
        v.u64(&mut acked);
        self.acked = usize::try_from(acked).expect("was written from a length");
        v.i64(&mut self.newest);
        let (mut kind, mut lo) = match self.raised {
            Raised::None => (0, 0),
            Raised::One(lo) => (1, lo),
            Raised::Many => (2, 0),
        };
        v.u8(&mut kind);
        v.u32(&mut lo);
        self.raised = match kind {
            0 => Raised::None,
            1 => Raised::One(lo),
            _ => Raised::Many,
        };
        v.bool(&mut self.unordered);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn shrink(&mut self) {
        if self.ranges.len() <= 1 {
            self.ranges.shrink();
        }
    }

    /// Enters the octets `lo..=hi` sent `now`.
    #[inline]
    pub(super) fn insert(&mut self, lo: u32, hi: u32, now: i64, stats: &mut Direction) -> Inserted {
        self.unordered |= hi < lo;
        if self.ranges.last().is_none_or(|last| lo > last.hi) {
            self.append(Range { lo, hi, time: now, acks: 0, resent: 0 });
            return Inserted::default();
        }
        self.insert_below(lo, hi, now, stats)
    }

    #[inline]
    fn append(&mut self, range: Range) {
        if self.ranges.len() >= MAX_RANGES {
            self.forget_older_half();
        }
        self.ranges.push(range);
    }

    #[cold]
    fn forget_older_half(&mut self) {
        self.ranges.remove(0, MAX_RANGES / 2);
        self.acked = self.ranges.iter().take_while(|range| range.acks > 0).count();
        self.raised = Raised::Many;
        self.renew_newest();
    }

    fn insert_below(&mut self, mut lo: u32, hi: u32, now: i64, stats: &mut Direction) -> Inserted {
        let mut found = Inserted::default();
        let mut met = false;
        let mut at = if self.unordered { 0 } else { self.ranges.partition_point(|range| range.hi < lo) };
        while let Some(&range) = self.ranges.get(at) {
            if range.hi < lo {
                at += 1;
                continue;
            }
            if lo < range.lo {
                found.out_of_order |= hi < range.hi;
                self.put(at, Range { lo, hi: hi.min(range.lo - 1), time: now, acks: 0, resent: 0 });
                if hi < range.lo {
                    return found;
                }
                at += 1;
                lo = range.lo;
            }
            self.resend(at, !met, now, stats);
            met = true;
            let last = hi.min(range.hi);
            found.resent = found.resent.wrapping_add(last.wrapping_sub(lo).wrapping_add(1).cast_signed());
            if hi <= range.hi {
                return found;
            }
            lo = range.hi.wrapping_add(1);
            at += 1;
        }
        self.append(Range { lo, hi, time: now, acks: 0, resent: 0 });
        found
    }

    /// Puts a new range before the one at `at`.
    fn put(&mut self, at: usize, range: Range) {
        self.ranges.insert(at, range);
        if at < self.acked {
            self.acked = at;
            self.renew_newest();
        }
        if self.ranges.len() > MAX_RANGES {
            self.forget_newer_half();
        }
    }

    #[cold]
    fn forget_newer_half(&mut self) {
        self.ranges.remove(MAX_RANGES / 2, self.ranges.len());
        self.acked = self.acked.min(self.ranges.len());
        self.raised = Raised::Many;
        self.renew_newest();
    }

    fn renew_newest(&mut self) {
        self.newest = self.ranges.iter().take(self.acked).map(|range| range.time).fold(0, i64::max);
    }

    /// The range at `at` was sent again; `timed` for the first one a packet meets.
    fn resend(&mut self, at: usize, timed: bool, now: i64, stats: &mut Direction) {
        let range = &mut self.ranges[at];
        range.resent = range.resent.wrapping_add(1);
        if !timed {
            return;
        }
        if range.acks == 0 {
            let rare = stats.rare_mut();
            rare.resend_max = rare.resend_max.max(range.resent);
            rare.resend.add(gap(range.time, now));
        }
        let before = std::mem::replace(&mut range.time, now);
        if at < self.acked {
            if now >= self.newest {
                self.newest = now;
            } else if before >= self.newest {
                self.renew_newest();
            }
        }
    }

    /// Everything is acknowledged by a number in the next quarter; gives the latest time of what newly is, at least 0.
    pub(super) fn acknowledge_all(&mut self, stats: &mut Direction) -> i64 {
        let from = if self.unordered { 0 } else { self.acked };
        let mut newest = 0;
        let mut changed = false;
        for range in &mut self.ranges[from..] {
            if range.acks == 0 {
                range.acks = 1;
                stats.cumulative_acks += 1;
                newest = newest.max(range.time);
                changed = true;
            }
        }
        if changed {
            self.merge();
        }
        newest
    }

    /// Takes an acknowledgement within this quarter into account. `newest` is the latest time of what it acknowledged in
    /// the quarter before. If it is the first to end exactly at a range, gives that range's RTT in
    /// µs, 0 if that is no sample.
    #[inline]
    pub(super) fn acknowledge(&mut self, ack: Ack, newest: i64, stats: &mut Direction) -> Option<u64> {
        if let Some(rtt) = self.acknowledge_next(ack, newest, stats) {
            return Some(rtt);
        }
        if self.unordered || self.raised == Raised::Many {
            return self.acknowledge_walking(ack, newest, stats);
        }
        let covered = match self.acked.checked_sub(1) {
            Some(last) if self.ranges[last].lo >= ack.number => {
                self.ranges.partition_point(|range| range.lo < ack.number)
            }
            _ => self.acked,
        };
        if covered == self.acked && self.ranges.get(covered).is_some_and(|range| range.lo < ack.number) {
            return self.acknowledge_new(ack, newest, stats);
        }
        if covered > 0 {
            self.acknowledge_again(covered - 1, ack, stats);
        }
        None
    }

    /// The usual case of [`Self::acknowledge`]: all so far was acknowledged, is one range, and the number ends exactly at the
    /// next, which adjoins. `None`, and nothing changed, in any other.
    #[inline]
    fn acknowledge_next(&mut self, ack: Ack, newest: i64, stats: &mut Direction) -> Option<u64> {
        if self.acked != 1 || self.unordered || self.raised != Raised::None {
            return None;
        }
        let head = self.ranges.head;
        let is_last = self.ranges.items.len() == head + 2;
        let [front, next] = self.ranges.items.get_mut(head..)?.first_chunk_mut()?;
        let adjoins = front.hi.wrapping_add(1) == next.lo && next.hi.wrapping_add(1) == ack.number;
        if !adjoins || next.acks != 0 || ack.number <= next.lo {
            return None;
        }
        self.newest = self.newest.max(next.time);
        let rtt = sample(next, self.newest.max(newest), ack.now, stats);
        let joined = Range { hi: next.hi, time: front.time.max(next.time), ..*front };
        if is_last {
            *front = joined;
            self.ranges.items.truncate(head + 1);
        } else {
            *next = joined;
            self.ranges.head += 1;
        }
        Some(rtt)
    }

    /// Only ranges acknowledged before are covered, `at` is the last of them.
    #[inline]
    fn acknowledge_again(&mut self, at: usize, ack: Ack, stats: &mut Direction) {
        let range = &mut self.ranges[at];
        let lo = range.lo;
        if ack.repeats && range.hi.wrapping_add(1) == ack.number {
            again(range, stats);
            self.raised = match self.raised {
                Raised::None => Raised::One(lo),
                Raised::One(other) if other == lo => Raised::One(lo),
                Raised::One(other) if other < lo => {
                    self.lower(other);
                    Raised::One(lo)
                }
                _ => Raised::Many,
            };
        } else if let Raised::One(other) = self.raised
            && other < ack.number
        {
            self.lower(other);
            self.raised = Raised::None;
        }
    }

    /// The range beginning at `lo` is back at one acknowledgement.
    fn lower(&mut self, lo: u32) {
        let at = self.ranges.partition_point(|range| range.lo < lo);
        if let Some(range) = self.ranges.get_mut(at)
            && range.acks > 0
        {
            range.acks = 1;
        }
    }

    /// Covers all of the front and at least one range behind it.
    #[inline]
    fn acknowledge_new(&mut self, ack: Ack, newest: i64, stats: &mut Direction) -> Option<u64> {
        let from = self.acked;
        if let Raised::One(lo) = self.raised {
            // Behind the front it may be the very one this acknowledgement ends at.
            self.raised = if lo < self.ranges[from].lo { Raised::None } else { Raised::Many };
            if self.raised == Raised::None {
                self.lower(lo);
            }
        }
        let mut newest = newest.max(self.newest);
        let mut rtt = None;
        for range in &mut self.ranges[from..] {
            if ack.number <= range.lo {
                break;
            }
            newest = newest.max(range.time);
            let full = range.hi.wrapping_add(1) == ack.number;
            if range.acks > 0 {
                if full && ack.repeats {
                    again(range, stats);
                    self.raised = Raised::Many;
                } else {
                    range.acks = 1;
                }
                continue;
            }
            if full {
                // Sampled before the store below: a load across a fresh, narrower store would have to wait for it.
                rtt = Some(sample(range, newest, ack.now, stats));
            } else {
                stats.cumulative_acks += 1;
            }
            range.acks = 1;
        }
        self.merge_from(from.saturating_sub(1));
        rtt
    }

    /// The definition itself, for lists without order.
    #[cold]
    fn acknowledge_walking(&mut self, ack: Ack, newest: i64, stats: &mut Direction) -> Option<u64> {
        let (mut newest, mut changed, mut raised) = (newest, false, 0);
        let mut rtt = None;
        for range in self.ranges.iter_mut() {
            if ack.number <= range.lo {
                raised += usize::from(range.acks > 1);
                if self.unordered {
                    break;
                }
                continue;
            }
            newest = newest.max(range.time);
            let full = range.hi.wrapping_add(1) == ack.number;
            if range.acks > 0 {
                if full && ack.repeats {
                    again(range, stats);
                    raised += 1;
                } else {
                    range.acks = 1;
                }
                continue;
            }
            (range.acks, changed) = (1, true);
            if full {
                rtt = Some(sample(range, newest, ack.now, stats));
            } else {
                stats.cumulative_acks += 1;
            }
        }
        if raised == 0 && !self.unordered {
            self.raised = Raised::None;
        }
        if changed {
            self.merge();
        }
        rtt
    }

    fn merge(&mut self) {
        let from = if self.unordered { 0 } else { self.acked.saturating_sub(1) };
        self.merge_from(from);
    }

    /// Joins adjoining acknowledged ranges from `from` on, below which this has been done.
    #[inline]
    fn merge_from(&mut self, from: usize) {
        if self.ranges.get(from).is_none_or(|range| range.acks == 0) {
            self.acked = self.acked.min(from);
            return;
        }
        if self.raised != Raised::None {
            self.raised = Raised::Many;
        }
        let (mut kept, mut next) = (from, from + 1);
        while let Some(&Range { lo, hi, time, acks, .. }) = self.ranges.get(next)
            && acks > 0
        {
            self.newest = self.newest.max(time);
            let joined = &mut self.ranges[kept];
            if joined.hi.wrapping_add(1) == lo {
                (joined.hi, joined.acks, joined.time) = (hi, acks, joined.time.max(time));
            } else {
                kept += 1;
                self.ranges[kept] = self.ranges[next];
            }
            next += 1;
        }
        self.newest = self.newest.max(self.ranges[from].time);
        self.acked = kept + 1;
        self.ranges.remove(kept + 1, next);
    }

    /// Acknowledgements of the first range that ends just below `seq`.
    pub(super) fn acks_of_range_before(&self, seq: u32) -> Option<u32> {
        if self.unordered {
            return self.ranges.iter().find(|range| range.hi.wrapping_add(1) == seq).map(|range| range.acks);
        }
        let at = self.ranges.partition_point(|range| range.hi < seq.wrapping_sub(1));
        self.ranges.get(at).filter(|range| range.hi.wrapping_add(1) == seq).map(|range| range.acks)
    }
}

/// An acknowledgement ended exactly at `range`, which was not acknowledged before: is its RTT a sample? `newest` is the
/// latest transmission among it and everything below it. Gives the RTT in µs, 0 if it is none.
#[inline]
fn sample(range: &Range, newest: i64, now: i64, stats: &mut Direction) -> u64 {
    let elapsed = gap(range.time, now);
    if newest > range.time {
        stats.rare_mut().post_loss_acks += 1;
        return 0;
    }
    if range.resent != 0 {
        stats.rare_mut().last_rtt.add(elapsed);
        return 0;
    }
    stats.rtt.add(elapsed);
    let size = match range.hi.checked_sub(range.lo) {
        Some(below @ 1..) => u64::from(below) + 1,
        _ => (1 << 32) - u64::from(range.lo) + u64::from(range.hi),
    };
    full_size(size, elapsed, stats);
    elapsed
}

#[inline]
fn full_size(size: u64, elapsed: u64, stats: &mut Direction) {
    if stats.full_size == 0 || stats.full_size < size {
        stats.full_size = size;
        let value = as_f64(elapsed);
        let samples = &mut stats.full_rtt;
        (samples.count, samples.min, samples.max) = (1, elapsed, elapsed);
        (samples.sum, samples.sum_of_squares) = (value, value * value);
    } else if stats.full_size == size {
        stats.full_rtt.add(elapsed);
    }
}

#[inline]
fn again(range: &mut Range, stats: &mut Direction) {
    stats.duplicate_acks += 1;
    range.acks = range.acks.saturating_add(1);
    if range.acks == 4 {
        stats.rare_mut().triple_duplicates += 1;
    }
}
