//! What tcptrace does not tell, of all connections at one vantage together: packet sizes, packetization, throughput over time,
//! stalls.

use std::collections::BTreeMap;

use crate::packet::{Segment, Time};

use super::connection::Way;
use super::engine::{Traced, Waiting};

/// Lower bounds of the size bins, in bytes on the wire with link-layer header; the last bin is open.
pub const SIZE_BOUNDS: [u32; 12] = [0, 64, 128, 256, 512, 1024, 1280, 1519, 3000, 9019, 16384, 32768];

/// Length of a throughput bin.
const BIN_NANOS: i64 = 100_000_000;
/// 27 hours; packets further on are counted, not binned.
const MAX_BINS: i64 = 1_000_000;
/// Stalls that are listed; more are counted.
const LISTED_STALLS: usize = 1000;

/// What counts as large and as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeyondOptions {
    /// Largest IP packet the link carries, in bytes.
    pub mtu: u32,
    /// Silence of a busy connection from which on it is a stall, in nanoseconds.
    pub stall_nanos: i64,
}

impl Default for BeyondOptions {
    fn default() -> Self {
        Self { mtu: 1500, stall_nanos: 1_000_000_000 }
    }
}

/// How payload is cut into packets, one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packetization {
    /// TCP packets.
    pub packets: u64,
    /// Packets with payload.
    pub data_packets: u64,
    /// Their payload in bytes.
    pub data_bytes: u64,
    /// Packets longer than the MTU: not yet cut (TSO, GSO) or joined (GRO, LRO) where the capture was taken.
    pub super_segments: u64,
    /// Their payload in bytes.
    pub super_bytes: u64,
    /// Packets the payload of super-segments fills on the link, at least.
    pub super_on_wire: u64,
    /// Longest IP packet in bytes; 0 without any.
    pub longest: u32,
}

impl Packetization {
    /// Mean payload of packets with payload, in bytes; `None` without any.
    pub fn mean_payload(&self) -> Option<f64> {
        let as_f64 = super::samples::as_f64;
        (self.data_packets > 0).then(|| as_f64(self.data_bytes) / as_f64(self.data_packets))
    }
}

/// One 100 ms of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bin {
    /// TCP packets.
    pub packets: u64,
    /// TCP payload in bytes, retransmissions included.
    pub bytes: u64,
}

/// A connection with unacknowledged octets was silent for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// Number of the connection.
    pub connection: u64,
    /// Its last packet before the silence.
    pub from: Time,
    /// How long, in nanoseconds.
    pub nanos: i64,
    /// Which way the packet went that ended it; `None` when the capture ended before the silence did.
    pub ended_by: Option<Way>,
}

/// All stalls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stalls {
    /// How many.
    pub count: u64,
    /// Their sum in nanoseconds.
    pub nanos: i64,
    /// The longest in nanoseconds; `None` without any.
    pub longest_nanos: Option<i64>,
    /// The first thousand.
    pub first: Vec<Stall>,
}

#[derive(Debug, Clone, Default)]
struct OneWay {
    sizes: [u64; SIZE_BOUNDS.len()],
    packetization: Packetization,
    throughput: BTreeMap<i64, Bin>,
    unbinned: u64,
}

/// See the module. Memory is bounded by the time the capture spans.
#[derive(Debug, Clone)]
pub struct Beyond {
    options: BeyondOptions,
    start: Option<Time>,
    ways: [OneWay; 2],
    stalls: Stalls,
}

impl Beyond {
    /// Has seen nothing.
    pub fn new(options: BeyondOptions) -> Self {
        Self { options, start: None, ways: Default::default(), stalls: Stalls::default() }
    }

    /// Takes a packet as [`super::Engine::observe`] found it.
    pub fn packet(&mut self, at: Time, wire_len: u32, segment: &Segment, traced: &Traced) {
        let start = *self.start.get_or_insert(at);
        self.note_stall(at, traced);
        let mtu = self.options.mtu;
        let way = &mut self.ways[traced.way.index()];
        way.sizes[SIZE_BOUNDS.partition_point(|&bound| bound <= wire_len) - 1] += 1;
        let payload = u64::try_from(segment.payload).unwrap_or_default();
        way.packetization.add(segment, payload, mtu);
        let bin = at.nanos_since(start).div_euclid(BIN_NANOS);
        if (-MAX_BINS..MAX_BINS).contains(&bin) {
            let bin = way.throughput.entry(bin).or_default();
            bin.packets += 1;
            bin.bytes += payload;
        } else {
            way.unbinned += 1;
        }
    }

    fn note_stall(&mut self, at: Time, traced: &Traced) {
        let Some(from) = traced.previous.filter(|_| traced.outstanding) else { return };
        self.add_stall(traced.connection, from, at, Some(traced.way));
    }

    /// The capture ended at `last`, and these connections were waiting then: those that had waited for long enough to be
    /// stalls are counted as such.
    pub fn end(&mut self, waiting: &[Waiting], last: Time) {
        for waiting in waiting {
            self.add_stall(waiting.connection, waiting.since, last, None);
        }
    }

    #[inline]
    fn add_stall(&mut self, connection: u64, from: Time, until: Time, ended_by: Option<Way>) {
        let nanos = until.nanos_since(from);
        if nanos < self.options.stall_nanos {
            return;
        }
        let stalls = &mut self.stalls;
        stalls.count += 1;
        stalls.nanos = stalls.nanos.saturating_add(nanos);
        stalls.longest_nanos = stalls.longest_nanos.max(Some(nanos));
        if stalls.first.len() < LISTED_STALLS {
            stalls.first.push(Stall { connection, from, nanos, ended_by });
        }
    }

    /// Packets by size on the wire: lower bound and count, empty bins included.
    pub fn sizes(&self, way: Way) -> impl Iterator<Item = (u32, u64)> + '_ {
        SIZE_BOUNDS.into_iter().zip(self.ways[way.index()].sizes)
    }

    /// How one direction's payload is cut into packets.
    pub fn packetization(&self, way: Way) -> &Packetization {
        &self.ways[way.index()].packetization
    }

    /// Throughput in bins of 100 ms: nanoseconds since [`Self::start`] and what the bin holds. Empty bins are left out;
    /// offsets are negative where the clock ran backwards.
    pub fn throughput(&self, way: Way) -> impl Iterator<Item = (i64, Bin)> + '_ {
        self.ways[way.index()].throughput.iter().map(|(&number, &bin)| (number * BIN_NANOS, bin))
    }

    /// Packets more than 27 hours away from the first, which are in no bin.
    pub fn unbinned(&self, way: Way) -> u64 {
        self.ways[way.index()].unbinned
    }

    /// Time of the first TCP packet; `None` without any.
    pub const fn start(&self) -> Option<Time> {
        self.start
    }

    /// Silences of busy connections, those that last to the end of the capture only after [`Self::end`].
    pub const fn stalls(&self) -> &Stalls {
        &self.stalls
    }
}

impl Packetization {
    fn add(&mut self, segment: &Segment, payload: u64, mtu: u32) {
        self.packets += 1;
        self.longest = self.longest.max(segment.ip_len);
        if payload == 0 {
            return;
        }
        self.data_packets += 1;
        self.data_bytes += payload;
        if segment.ip_len > mtu {
            let headers = u64::from(segment.ip_len).saturating_sub(payload);
            let room = u64::from(mtu).saturating_sub(headers).max(1);
            self.super_segments += 1;
            self.super_bytes += payload;
            self.super_on_wire += payload.div_ceil(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(beyond: &mut Beyond, millis: i64, payload: i32, outstanding: bool, previous: Option<i64>) {
        let at = |millis: i64| Time::from_micros(1_000_000_000 + millis * 1000);
        let length = u32::try_from(payload).expect("positive") + 52;
        let segment = Segment { payload, ip_len: length, ..Segment::default() };
        let traced = Traced { connection: 1, way: Way::AToB, previous: previous.map(at), outstanding };
        beyond.packet(at(millis), length + 14, &segment, &traced);
    }

    #[test]
    fn super_segments_are_told_from_packets() {
        let mut beyond = Beyond::new(BeyondOptions::default());
        packet(&mut beyond, 0, 1448, false, None);
        packet(&mut beyond, 1, 2896, false, Some(0));
        packet(&mut beyond, 2, 0, false, Some(1));
        let found = beyond.packetization(Way::AToB);
        assert_eq!((found.packets, found.data_packets, found.super_segments, found.super_on_wire), (3, 2, 1, 2));
        assert_eq!(found.mean_payload(), Some(2172.0));
        assert_eq!(beyond.sizes(Way::AToB).map(|(_, count)| count).sum::<u64>(), 3);
        assert_eq!(beyond.packetization(Way::BToA).mean_payload(), None);
    }

    #[test]
    fn only_a_busy_silence_is_a_stall() {
        let mut beyond = Beyond::new(BeyondOptions::default());
        packet(&mut beyond, 0, 100, false, None);
        packet(&mut beyond, 1500, 100, true, Some(0));
        packet(&mut beyond, 9000, 100, false, Some(1500));
        packet(&mut beyond, 9999, 100, true, Some(9000));
        let stalls = beyond.stalls();
        assert_eq!((stalls.count, stalls.longest_nanos), (1, Some(1_500_000_000)));
        assert_eq!((stalls.first[0].nanos, stalls.first[0].ended_by), (1_500_000_000, Some(Way::AToB)));
    }

    #[test]
    fn a_silence_at_the_end_is_a_stall_that_nothing_ended() {
        let mut beyond = Beyond::new(BeyondOptions::default());
        packet(&mut beyond, 0, 100, false, None);
        let at = |millis: i64| Time::from_micros(1_000_000_000 + millis * 1000);
        let waiting = [0, 1500].map(|since| Waiting { connection: 7, since: at(since) });
        beyond.end(&waiting, at(2000));
        let stalls = beyond.stalls();
        assert_eq!((stalls.count, stalls.first[0].nanos, stalls.first[0].ended_by), (1, 2_000_000_000, None));
    }

    #[test]
    fn throughput_is_binned_from_the_first_packet() {
        let mut beyond = Beyond::new(BeyondOptions::default());
        for (millis, payload) in [(0, 10), (99, 20), (100, 30), (-5, 1)] {
            packet(&mut beyond, millis, payload, false, None);
        }
        let bins: Vec<_> = beyond.throughput(Way::AToB).map(|(at, bin)| (at / 1_000_000, bin.bytes)).collect();
        assert_eq!(bins, [(-100, 1), (0, 30), (100, 30)]);
    }
}
