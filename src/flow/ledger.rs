//! The ledger of one sender: which ranges of sequence numbers were sent when, how often, and whether acknowledged.
//!
//! Sequence space is cut in four quarters; each has a sorted list of disjoint ranges. Only the current quarter and its
//! two neighbours are kept: data two quarters away is forgotten. These are tcptrace's definitions, and the results
//! depend on them; the walk over all ranges that they describe is not done here, see [`super::ranges`].

use super::direction::Direction;
use super::ranges::List;
use super::visit::Visit;

/// Number of the quarter of sequence space that `seq` lies in.
#[inline]
pub(super) const fn quarter(seq: u32) -> u8 {
    (seq >> 30) as u8
}

/// What [`Ledger::insert`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Inserted {
    /// Octets that had been sent before.
    pub(super) resent: i32,
    /// Were there new octets below others seen before?
    pub(super) out_of_order: bool,
}

/// An acknowledgement as the ledger sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ack {
    pub(super) number: u32,
    pub(super) now: i64,
    /// Same number and window as before, no payload: counts as duplicate if it ends a range.
    pub(super) repeats: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    near: List,
    /// The quarters before and after; absent as long as both are empty.
    far: Option<Box<Neighbours>>,
    quarter: u8,
    /// The latest RTT sample in µs; 0 after an acknowledgement that gave none.
    pub(super) latest_rtt: u64,
}

#[derive(Debug, Default)]
struct Neighbours {
    before: List,
    after: List,
}

impl Ledger {
    pub(super) fn visit(&mut self, v: &mut impl Visit) {
        self.near.visit(v);
        let mut has_far = self.far.is_some();
        v.bool(&mut has_far);
        if has_far {
            let far = self.far.get_or_insert_default();
            far.before.visit(v);
            far.after.visit(v);
        }
        v.u8(&mut self.quarter);
        v.u64(&mut self.latest_rtt);
    }

    /// Makes `quarter` the current one.
    #[inline]
    pub(super) fn focus(&mut self, quarter: u8) {
        if quarter != self.quarter {
            self.move_to(quarter);
        }
    }

    #[cold]
    fn move_to(&mut self, quarter: u8) {
        let steps = quarter.wrapping_sub(self.quarter) & 3;
        self.quarter = quarter;
        if self.near.is_empty() && self.far.is_none() {
            return;
        }
        let far = self.far.get_or_insert_default();
        let near = std::mem::take(&mut self.near);
        match steps {
            1 => {
                far.before = near;
                self.near = std::mem::take(&mut far.after);
            }
            3 => {
                far.after = near;
                self.near = std::mem::take(&mut far.before);
            }
            _ => std::mem::swap(&mut far.before, &mut far.after),
        }
        if far.before.is_empty() && far.after.is_empty() {
            self.far = None;
        }
    }

    /// Enters `length` octets from `seq` on. The length is modulo 2^64: malformed packets make it negative.
    #[inline]
    pub(super) fn insert(&mut self, seq: u32, length: u64, now: i64, stats: &mut Direction) -> Inserted {
        let low_bits = low(length);
        let last = seq.wrapping_add(low_bits).wrapping_sub(1);
        self.focus(quarter(seq));
        if quarter(last) == quarter(seq) {
            return self.near.insert(seq, last, now, stats);
        }
        self.insert_across(seq, low_bits, now, stats)
    }

    /// The octets reach into another quarter. A malformed length, negative or enormous, gives the strange ranges that
    /// tcptrace makes of it: what is left goes to the list after the current one, numbered from the beginning of the
    /// quarter the last octet should be in.
    #[cold]
    fn insert_across(&mut self, seq: u32, length: u32, now: i64, stats: &mut Direction) -> Inserted {
        let end = seq | 0x3fff_ffff;
        let first = self.near.insert(seq, end, now, stats);
        let begin = seq.wrapping_add(length).wrapping_sub(1) & 0xc000_0000;
        let left = length.wrapping_sub(end - seq + 1);
        let rest =
            self.far.get_or_insert_default().after.insert(begin, begin.wrapping_add(left).wrapping_sub(1), now, stats);
        Inserted {
            resent: first.resent.wrapping_add(rest.resent),
            out_of_order: first.out_of_order | rest.out_of_order,
        }
    }

    /// Takes an acknowledgement of the peer into account.
    #[inline]
    pub(super) fn acknowledge(&mut self, ack: Ack, stats: &mut Direction) {
        self.focus(quarter(ack.number));
        let mut newest = 0;
        if let Some(far) = &mut self.far {
            newest = far.before.acknowledge_all(stats);
        }
        if let Some(rtt) = self.near.acknowledge(ack, newest, stats) {
            self.latest_rtt = rtt;
        }
    }

    /// The side effect of tcptrace's hidden estimate: does the range that ends just below `seq` lack three duplicate
    /// acknowledgements?
    pub(super) fn few_acks_below(&mut self, seq: u32) -> bool {
        self.focus(quarter(seq));
        self.near.acks_of_range_before(seq).is_none_or(|acks| acks < 4)
    }

    /// Gives back memory that a connection which is closing will hardly need again.
    pub(super) fn shrink(&mut self) {
        self.near.shrink();
    }
}

/// Low 32 bits of a number modulo 2^64.
#[inline]
pub(super) const fn low(n: u64) -> u32 {
    (n & 0xffff_ffff) as u32
}

/// Microseconds from one moment to the next; 0 when the clock ran backwards.
#[inline]
pub(super) const fn gap(from: i64, to: i64) -> u64 {
    if to <= from { 0 } else { to.wrapping_sub(from).cast_unsigned() }
}
