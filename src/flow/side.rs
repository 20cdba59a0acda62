//! One sender while its connection lives: what each of its packets does, in tcptrace's order of steps.

use crate::packet::{Flags, SackBlock, Segment, Seq};

use super::direction::Direction;
use super::ledger::{Ack, Inserted, Ledger, gap, low, quarter};
use super::samples::as_f64;
use super::visit::Visit;

/// Microseconds since 1970; 0 is "never".
pub(super) type Micros = i64;

/// A segment with what its direction and window make of it.
#[derive(Debug, Clone, Copy)]
struct Packet<'a> {
    now: Micros,
    segment: &'a Segment,
    flags: Flags,
    /// Effective window in bytes.
    window: u64,
    /// Sequence number after the payload, not reduced modulo 2^32.
    end: u64,
    /// SACK blocks; 0 also without the option.
    blocks: u8,
}

/// The sender's part of a connection's state.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) stats: Direction,
    ledger: Ledger,
    /// Acknowledgement number + window of its last ACK.
    edge: u32,
    /// Its last acknowledgement number, or the peer's ISN.
    acked: u32,
    last_window: u64,
    /// The highest sequence number after anything it sent.
    sent: Seq,
    sent_any: bool,
    /// Octets outstanding at the last count.
    owin: u64,
    owin_time: Micros,
    /// Quarters of sequence space visited, one bit each.
    visited: u8,
    /// Did the peer acknowledge anything but this side's SYN?
    acked_data: bool,
    estimate: Estimate,
    recent: Recent,
}

/// tcptrace's hidden estimate, kept because it touches the ledger.
#[derive(Debug, Default)]
struct Estimate {
    mode: u8,
    busy: bool,
    mark: u32,
    mark0: u32,
    high: u32,
}

/// The last eight pairs of sequence number and IP identification.
#[derive(Debug, Default)]
struct Recent {
    /// A ring; `next` is the oldest.
    seqs: [u32; 8],
    /// Lanes of 16 bits, the newest lowest in the first.
    ids: [u64; 2],
    next: u8,
}

impl Estimate {
    fn visit(&mut self, v: &mut impl Visit) {
        v.u8(&mut self.mode);
        v.bool(&mut self.busy);
        for field in [&mut self.mark, &mut self.mark0, &mut self.high] {
            v.u32(field);
        }
    }
}

impl Recent {
    /// Sequence numbers near `base` take few bytes.
    fn visit(&mut self, base: u32, v: &mut impl Visit) {
        for seq in &mut self.seqs {
            let mut distance = i64::from(seq.wrapping_sub(base).cast_signed());
            v.i64(&mut distance);
            *seq = base.wrapping_add(i32::try_from(distance).expect("was written from 32 bits").cast_unsigned());
        }
        self.ids.iter_mut().for_each(|lanes| v.u64(lanes));
        v.u8(&mut self.next);
    }

    /// Is this pair among the last eight? If not it becomes one of them.
    #[inline]
    fn repeats(&mut self, seq: u32, id: u16) -> bool {
        if seq != 0 && id != 0 && self.has_id(id) && self.has(seq, id) {
            return true;
        }
        let [newer, older] = &mut self.ids;
        *older = *older << 16 | *newer >> 48;
        *newer = *newer << 16 | u64::from(id);
        self.seqs[usize::from(self.next & 7)] = seq;
        self.next = self.next.wrapping_add(1);
        false
    }

    /// Is the identification among the last eight? Four at a time: the difference with the wanted one then has a lane of
    /// zero, and only with such a lane does subtracting 1 from each reach an upper bit that was not set.
    #[inline]
    fn has_id(&self, id: u16) -> bool {
        const ONES: u64 = 0x0001_0001_0001_0001;
        let zero_lane = |lanes: u64| lanes.wrapping_sub(ONES) & !lanes & ONES << 15;
        let wanted = ONES * u64::from(id);
        zero_lane(self.ids[0] ^ wanted) | zero_lane(self.ids[1] ^ wanted) != 0
    }

    #[cold]
    fn has(&self, seq: u32, id: u16) -> bool {
        (0..8_u8).any(|age| {
            let lane = self.ids[usize::from(age / 4)] >> (16 * (age % 4)) & 0xffff;
            lane == u64::from(id) && self.seqs[usize::from(self.next.wrapping_sub(1 + age) & 7)] == seq
        })
    }
}

impl Side {
    /// Everything, so that a side that was packed goes on as if nothing had been.
    pub(super) fn visit(&mut self, v: &mut impl Visit) {
        self.stats.visit(v);
        self.ledger.visit(v);
        let mut sent = self.sent.0;
        for field in [&mut self.edge, &mut self.acked, &mut sent] {
            v.u32(field);
        }
        self.sent = Seq(sent);
        for field in [&mut self.last_window, &mut self.owin] {
            v.u64(field);
        }
        v.i64(&mut self.owin_time);
        v.u8(&mut self.visited);
        for field in [&mut self.sent_any, &mut self.acked_data] {
            v.bool(field);
        }
        self.estimate.visit(v);
        self.recent.visit(self.stats.latest, v);
    }

    /// Must this sender's next packet begin a new connection? `peer` is the other side.
    pub(super) fn starts_anew(&self, peer: &Self, segment: &Segment) -> bool {
        if !segment.flags.syn() {
            return false;
        }
        let over = |stats: &Direction| stats.fins > 0 || stats.resets > 0;
        let outside = segment.seq > peer.edge || segment.seq < self.stats.isn;
        (over(&self.stats) || over(&peer.stats)) && outside || self.stats.syns >= 2 && segment.seq != self.stats.isn
    }

    /// One packet from `self` to `peer`.
    #[inline]
    pub(super) fn send(&mut self, peer: &mut Self, now: Micros, segment: &Segment) {
        if self.is_plain(peer, segment) {
            self.step::<true>(peer, now, segment);
        } else {
            self.step::<false>(peer, now, segment);
        }
    }

    /// Is it the usual packet of an open connection, in which most of the steps do nothing? It has ACK and at most PSH,
    /// no option but a time stamp, and both sides scale their windows, have agreed on SACK and have a window open.
    #[inline]
    fn is_plain(&self, peer: &Self, segment: &Segment) -> bool {
        segment.flags.0 & !Flags::PSH & Flags::COUNTED == Flags::ACK
            && segment.options.is_plain()
            && self.stats.window_scale & peer.stats.window_scale & self.stats.scaled
            && self.estimate.mode != 0
            && peer.estimate.mode != 0
            && peer.last_window != 0
    }

    /// All steps, compiled once for plain packets and once for the others.
    #[inline(always)]
    fn step<const PLAIN: bool>(&mut self, peer: &mut Self, now: Micros, segment: &Segment) {
        let flags = if PLAIN { Flags(segment.flags.0 & Flags::PSH | Flags::ACK) } else { segment.flags };
        let scales = PLAIN || self.stats.window_scale && peer.stats.window_scale;
        let packet = Packet {
            now,
            segment,
            flags,
            window: self.window(scales, flags, segment.window),
            end: u64::from(segment.seq).wrapping_add(i64::from(segment.payload).cast_unsigned()),
            blocks: if PLAIN { 0 } else { segment.options.sack_blocks.unwrap_or(0) },
        };
        self.count_flags(flags);
        self.note_time(now);
        self.note_numbers(peer, &packet);
        self.stats.timestamps |= segment.options.timestamp;
        if !PLAIN {
            self.note_options(peer, segment);
        }
        self.count_payload(&packet);
        self.count_packet(&packet);
        let mut inserted = self.enter(peer, &packet);
        if flags.ack() {
            self.acknowledge(peer, &packet);
        }
        if PLAIN || self.estimate.mode != 0 {
            if inserted.resent <= 0 {
                self.estimate.high = low(packet.end);
            }
        } else {
            self.estimate(peer, &packet, inserted.resent);
        }
        inserted.resent = inserted.resent.max(0);
        self.count_resent(inserted.resent);
        if flags.rst() {
            self.stats.ack_packets += u64::from(flags.ack());
            return;
        }
        let scales = PLAIN || self.stats.window_scale && peer.stats.window_scale;
        self.note_window(scales, &packet);
        if flags.ack() {
            self.note_ack(&packet);
        }
        self.note_first_data(peer, &packet, inserted);
        self.count_outstanding(peer, &packet, inserted);
    }

    /// Has it sent octets, SYN and FIN included, that `peer` has not acknowledged? As far as can be known: `peer` has
    /// acknowledged something.
    #[inline]
    pub(super) fn has_outstanding(&self, peer: &Self) -> bool {
        peer.acked != 0 && self.sent_any && self.sent.is_after(Seq(peer.acked))
    }

    #[inline(always)]
    fn note_sent(&mut self, packet: &Packet<'_>) {
        let flags = packet.flags;
        let sent = Seq(low(packet.end)).after(u32::from(flags.syn()) + u32::from(flags.fin()));
        if !self.sent_any || sent.is_after(self.sent) {
            (self.sent, self.sent_any) = (sent, true);
        }
    }

    /// Effective window; `scales` if both sides have shown a window scale.
    #[inline(always)]
    fn window(&self, scales: bool, flags: Flags, field: u16) -> u64 {
        if !flags.ack() && !flags.syn() {
            return 0;
        }
        let window = u64::from(field);
        if scales && !flags.syn() { window.wrapping_shl(u32::from(self.stats.scale)) } else { window }
    }

    #[inline(always)]
    fn count_flags(&mut self, flags: Flags) {
        let stats = &mut self.stats;
        stats.syns = stats.syns.wrapping_add(u8::from(flags.syn()));
        stats.resets = stats.resets.wrapping_add(u8::from(flags.rst()));
        stats.fins = stats.fins.wrapping_add(u8::from(flags.fin()));
    }

    #[inline(always)]
    fn note_time(&mut self, now: Micros) {
        if self.stats.last_sent != 0 {
            self.stats.idle = self.stats.idle.max(gap(self.stats.last_sent, now));
        }
        self.stats.last_sent = now;
    }

    /// Sequence numbers: wraps, ISN, FIN, right edge of the window.
    #[inline(always)]
    fn note_numbers(&mut self, peer: &mut Self, packet: &Packet<'_>) {
        let (segment, stats) = (packet.segment, &mut self.stats);
        let end_quarter = if packet.end >> 32 == 0 { 1_u8 << quarter(low(packet.end)) } else { 0 };
        if self.visited == 0b1111 && 1 << quarter(stats.isn) == end_quarter && packet.end >= u64::from(stats.isn) {
            stats.wraps += 1;
            self.visited = 0;
        }
        self.visited |= 1 << quarter(segment.seq) | end_quarter;
        if packet.flags.syn() {
            stats.isn = segment.seq;
            peer.acked = segment.seq;
        }
        if packet.flags.fin() {
            stats.fin_seq = low(packet.end);
        }
        if packet.flags.ack() {
            self.edge = segment.ack.wrapping_add(low(packet.window));
        }
    }

    #[inline]
    fn note_options(&mut self, peer: &mut Self, segment: &Segment) {
        let (options, stats) = (&segment.options, &mut self.stats);
        if let Some(mss) = options.mss {
            stats.mss = mss;
        }
        if let Some(scale) = options.window_scale {
            (stats.scale, stats.window_scale) = (scale, true);
        }
        let both_scale = stats.window_scale && peer.stats.window_scale;
        if !segment.flags.syn() && !both_scale {
            (stats.scale, peer.stats.scale) = (0, 0);
        }
        stats.sack_permitted |= options.sack_permitted;
        if !segment.flags.syn() && stats.sack_permitted && peer.stats.sack_permitted {
            for estimate in [&mut self.estimate, &mut peer.estimate] {
                estimate.mode = 1;
            }
        }
        if options.sack_blocks.is_some_and(|blocks| blocks > 0) {
            self.stats.rare_mut().sacks_sent += 1;
        }
    }

    #[inline(always)]
    fn count_payload(&mut self, packet: &Packet<'_>) {
        let Ok(payload @ 1..) = u32::try_from(packet.segment.payload) else { return };
        let (flags, stats) = (packet.flags, &mut self.stats);
        stats.data_packets += 1;
        stats.push_packets += u64::from(flags.psh());
        stats.data_bytes += u64::from(payload);
        stats.segment_max = stats.segment_max.max(payload);
        if stats.segment_min == 0 || payload < stats.segment_min {
            stats.segment_min = payload;
        }
        if stats.first_data == 0 {
            stats.first_data = packet.now;
        }
        stats.last_data = packet.now;
        if let Ok(missing @ 1..) = u64::try_from(packet.segment.missing) {
            stats.truncated_bytes += missing;
            stats.truncated_packets += 1;
        }
        if flags.urg() {
            let rare = stats.rare_mut();
            rare.urgent_packets += 1;
            rare.urgent_bytes += u64::from(packet.segment.urgent);
        }
    }

    #[inline(always)]
    fn count_packet(&mut self, packet: &Packet<'_>) {
        self.stats.packets += 1;
        self.stats.scaled_packets += u64::from(self.stats.scaled);
        self.stats.latest = low(packet.end);
        if let Some(id) = packet.segment.ip_id
            && self.recent.repeats(packet.segment.seq, id)
        {
            self.stats.rare_mut().hardware_duplicates += 1;
        }
    }

    /// Enters the octets in the ledger, unless they probe a closed window.
    #[inline(always)]
    fn enter(&mut self, peer: &Self, packet: &Packet<'_>) -> Inserted {
        let (segment, flags) = (packet.segment, packet.flags);
        if !flags.syn() && !flags.fin() && segment.payload <= 0 {
            return Inserted::default();
        }
        self.note_sent(packet);
        if peer.last_window == 0 && peer.stats.packets > 0 && !flags.syn() {
            let rare = self.stats.rare_mut();
            rare.probe_packets += 1;
            rare.probe_bytes = rare.probe_bytes.wrapping_add(i64::from(segment.payload).cast_unsigned());
            return Inserted::default();
        }
        let payload = i64::from(segment.payload);
        let length = payload + i64::from(flags.syn()) + i64::from(flags.fin());
        let inserted = self.ledger.insert(segment.seq, length.cast_unsigned(), packet.now, &mut self.stats);
        if inserted.out_of_order {
            self.stats.rare_mut().out_of_order += 1;
        }
        let again = i64::from(flags.syn() && self.stats.syns > 1) + i64::from(flags.fin() && self.stats.fins > 1);
        let known = i64::from(inserted.resent) - again;
        if known < payload {
            self.stats.unique_bytes = self.stats.unique_bytes.wrapping_add((payload - known).cast_unsigned());
        }
        inserted
    }

    #[inline(always)]
    fn acknowledge(&mut self, peer: &mut Self, packet: &Packet<'_>) {
        let segment = packet.segment;
        let repeats = segment.ack == self.acked
            && segment.payload == 0
            && packet.window == self.last_window
            && peer.stats.owin_sum > 0;
        peer.ledger.acknowledge(Ack { number: segment.ack, now: packet.now, repeats }, &mut peer.stats);
        if peer.stats.syns == 1 && segment.ack == peer.stats.isn.wrapping_add(1) {
            peer.stats.handshake_rtt = peer.ledger.latest_rtt;
        }
        if peer.stats.fins > 0 {
            peer.ledger.shrink();
        }
    }

    /// See [`Estimate`]: both its calls of [`Ledger::few_acks_below`] can move the ledger's focus.
    fn estimate(&mut self, peer: &mut Self, packet: &Packet<'_>, resent: i32) {
        let segment = packet.segment;
        if self.estimate.busy && segment.payload > 0 {
            if self.ledger.few_acks_below(segment.seq) {
                let high = self.estimate.high;
                (self.estimate.mark, self.estimate.mark0) = (high, high);
            }
            if resent <= 0 && self.acked <= self.estimate.mark0 {
                self.estimate.mark = segment.seq;
            }
        }
        if peer.estimate.busy && packet.flags.ack() && segment.ack > peer.estimate.mark {
            peer.estimate.busy = false;
        }
        if resent <= 0 {
            self.estimate.high = low(packet.end);
        } else if !self.estimate.busy && self.ledger.few_acks_below(segment.seq) {
            let high = self.estimate.high;
            self.estimate = Estimate { mode: 0, busy: true, mark: high, mark0: high, high };
        }
    }

    #[inline(always)]
    fn count_resent(&mut self, resent: i32) {
        if let Ok(resent @ 1..) = u64::try_from(resent) {
            let rare = self.stats.rare_mut();
            rare.rexmit_packets += 1;
            rare.rexmit_bytes += resent;
        }
    }

    #[inline(always)]
    fn note_window(&mut self, scales: bool, packet: &Packet<'_>) {
        let (window, flags, stats) = (packet.window, packet.flags, &mut self.stats);
        self.last_window = window;
        if !flags.ack() && !flags.syn() {
            return;
        }
        stats.window_max = stats.window_max.max(window);
        if window > 0 {
            if scales && !flags.syn() && !stats.scaled {
                (stats.scaled, stats.window_min, stats.window_max) = (true, window, window);
                (stats.window_sum, stats.scaled_packets) = (0, 1);
            } else if stats.window_min == 0 || window < stats.window_min {
                stats.window_min = window;
            }
        }
        stats.window_sum = stats.window_sum.wrapping_add(window);
    }

    #[inline(always)]
    fn note_ack(&mut self, packet: &Packet<'_>) {
        let (segment, flags, stats) = (packet.segment, packet.flags, &mut self.stats);
        stats.zero_windows += u64::from(packet.window == 0);
        stats.ack_packets += 1;
        stats.pure_acks += u64::from(segment.payload == 0 && !flags.syn() && !flags.fin());
        if packet.blocks > 0 {
            self.note_sack(packet);
        }
        self.acked = segment.ack;
    }

    #[cold]
    fn note_sack(&mut self, packet: &Packet<'_>) {
        let rare = self.stats.rare_mut();
        rare.sack_packets += 1;
        rare.sack_blocks_max = rare.sack_blocks_max.max(u64::from(packet.blocks));
        if reports_duplicate(packet.segment.options.first_blocks, packet.blocks, packet.segment.ack) {
            rare.dsack_packets += 1;
        }
        if rare.dsack_packets > 0 {
            self.estimate.mode = 2;
        }
    }

    /// The initial window: what goes out before the peer has acknowledged anything but the SYN.
    #[inline(always)]
    fn note_first_data(&mut self, peer: &mut Self, packet: &Packet<'_>, inserted: Inserted) {
        let segment = packet.segment;
        if packet.flags.ack() && segment.ack != peer.stats.isn.wrapping_add(1) {
            peer.acked_data = true;
        }
        let Ok(payload @ 1..) = u64::try_from(segment.payload) else { return };
        if !self.acked_data && inserted.resent == 0 {
            self.stats.initial_bytes += payload;
            self.stats.initial_packets += 1;
        }
    }

    /// Outstanding octets, pure ACKs included.
    #[inline(always)]
    fn count_outstanding(&mut self, peer: &Self, packet: &Packet<'_>, inserted: Inserted) {
        if packet.flags.syn() || inserted.out_of_order || inserted.resent > 0 {
            return;
        }
        let from = if peer.acked == 0 { u64::from(packet.segment.seq) } else { u64::from(peer.acked - 1) };
        let owin = packet.end.wrapping_sub(from);
        let stats = &mut self.stats;
        stats.owin_max = stats.owin_max.max(owin);
        if owin > 0 && (stats.owin_min == 0 || owin < stats.owin_min) {
            stats.owin_min = owin;
        }
        stats.owin_sum = stats.owin_sum.wrapping_add(owin);
        stats.owin_count += 1;
        if !(0..1_000_000).contains(&self.owin_time) {
            let weighted = octet_seconds(self.owin, gap(self.owin_time, packet.now));
            stats.owin_weighted = stats.owin_weighted.wrapping_add(weighted);
        }
        (self.owin_time, self.owin) = (packet.now, owin);
    }
}

/// Octets × seconds as tcptrace computes them in doubles, cut to a whole number. The exact product gives the same unless it
/// is a whole number or so large that the doubles' errors, below a part in 2^51, reach a millionth.
#[inline(always)]
fn octet_seconds(octets: u64, micros: u64) -> u64 {
    const MICROS: u64 = 1_000_000;
    if octets < 1 << 28 && micros < 1 << 20 {
        let product = octets * micros;
        if product == 0 || !product.is_multiple_of(MICROS) {
            return product / MICROS;
        }
    }
    truncated(as_f64(octets) * (as_f64(micros) / 1e6))
}

/// A double as an unsigned number, the way x86-64 converts it: beyond 2^64 it gives 0.
pub(super) fn truncated(value: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked just before")]
    if value < 18_446_744_073_709_551_616.0 { value as u64 } else { 0 }
}

/// RFC 2883's test as tcptrace makes it, in plain comparisons.
fn reports_duplicate(blocks: [SackBlock; 2], count: u8, ack: u32) -> bool {
    let [first, second] = blocks;
    if first.right <= ack {
        return true;
    }
    if count < 2 {
        return false;
    }
    if first.right <= second.right && first.left >= second.left {
        return true;
    }
    (first.left <= second.left && first.right > second.left)
        || (first.right >= second.right && first.left < second.right)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn octet_seconds_are_those_of_doubles(octets in any::<u64>(), micros in any::<u64>(), bits in (0..64, 0..64)) {
            let (octets, micros) = (octets >> bits.0, micros >> bits.1);
            let doubles = |octets, micros| truncated(as_f64(octets) * (as_f64(micros) / 1e6));
            prop_assert_eq!(octet_seconds(octets, micros), doubles(octets, micros));
            // Next to the limits, and products near whole numbers of seconds.
            let (octets, micros) = (octets % (1 << 28), micros % (1 << 20));
            prop_assert_eq!(octet_seconds(octets, micros), doubles(octets, micros));
            for octets in [1_000_000 * (octets % 268), 1_000_000 * (octets % 268) + 1, (1 << 28) - 1] {
                prop_assert_eq!(octet_seconds(octets, micros), doubles(octets, micros));
            }
        }
    }
}
