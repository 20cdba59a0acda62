//! What waits between the capture threads and the analysis: of each packet no more than the analysis looks at.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Packets are handed over in pieces of this size.
pub(in crate::instrument::capture) const CHUNK_BYTES: usize = 256 << 10;
/// Time, length on the wire, captured length, kept length.
const HEADER: usize = 8 + 4 + 2 + 2;
/// Captured bytes beyond this are not looked at by the engine.
pub(in crate::instrument::capture) const MAX_FRAME: usize = 65_535;
/// Emptied chunks that are kept for the next packets.
const SPARE: usize = 8;

/// Packets of one point, in the order in which they came.
#[derive(Debug, Default)]
pub(in crate::instrument::capture) struct Chunk {
    bytes: Vec<u8>,
    packets: usize,
    first_ns: i64,
}

impl Chunk {
    /// An empty one with room for everything it may hold.
    pub(in crate::instrument::capture) fn with_room() -> Self {
        Self { bytes: Vec::with_capacity(CHUNK_BYTES), packets: 0, first_ns: 0 }
    }

    pub(in crate::instrument::capture) fn packets(&self) -> usize {
        self.packets
    }

    /// Time of the first packet.
    pub(super) fn first_ns(&self) -> Option<i64> {
        (self.packets > 0).then_some(self.first_ns)
    }

    /// Is there room for a packet of so many kept bytes?
    pub(in crate::instrument::capture) fn has_room(&self, kept: usize) -> bool {
        self.bytes.len() + HEADER + kept <= CHUNK_BYTES
    }

    /// Adds a packet of which `captured` bytes (at most 65535) were captured and `kept`, their beginning, is needed.
    #[inline]
    pub(in crate::instrument::capture) fn push(&mut self, at_ns: i64, wire_len: u32, captured: usize, kept: &[u8]) {
        if self.packets == 0 {
            self.first_ns = at_ns;
        }
        self.packets += 1;
        let short = |length: usize| u16::try_from(length).expect("at most 65535");
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&at_ns.to_le_bytes());
        header[8..12].copy_from_slice(&wire_len.to_le_bytes());
        header[12..14].copy_from_slice(&short(captured).to_le_bytes());
        header[14..].copy_from_slice(&short(kept.len()).to_le_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(kept);
    }

    /// Its packets as [`record`] reads them.
    pub(in crate::instrument::capture) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A packet out of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spooled<'a> {
    pub(super) at_ns: i64,
    pub(super) wire_len: u32,
    pub(super) captured: usize,
    pub(super) kept: &'a [u8],
}

/// The first packet in these bytes, and how long its record is; `None` when they end before it does.
#[inline]
pub(super) fn record(bytes: &[u8]) -> Option<(Spooled<'_>, usize)> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let short = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let kept = rest.get(..short(14))?;
    let packet = Spooled {
        at_ns: i64::from_le_bytes(*header.first_chunk()?),
        wire_len: u32::from_le_bytes([header[8], header[9], header[10], header[11]]),
        captured: short(12),
        kept,
    };
    Some((packet, HEADER + kept.len()))
}

/// Reads a chunk.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) chunk: Chunk,
    at: usize,
}

impl Cursor {
    pub(super) fn new(chunk: Chunk) -> Self {
        Self { chunk, at: 0 }
    }

    /// Time of the next packet; `None` at the end.
    #[inline]
    pub(super) fn head_ns(&self) -> Option<i64> {
        Some(i64::from_le_bytes(*self.chunk.bytes.get(self.at..)?.first_chunk()?))
    }

    #[inline]
    pub(super) fn advance(&mut self) -> Option<Spooled<'_>> {
        let (packet, length) = record(self.chunk.bytes.get(self.at..)?)?;
        self.at += length;
        self.chunk.packets -= 1;
        Some(packet)
    }
}

/// How full a spool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// The analysis may take its time.
    Low,
    /// More than half: it has to keep up.
    High,
    /// There is no more room.
    Full,
}

/// The chunks of all points of a group.
#[derive(Debug)]
pub(super) struct Spool {
    queues: Mutex<Queues>,
    /// Bytes of chunks in the queues.
    used: AtomicU64,
    peak: AtomicU64,
    limit: u64,
    pub(super) was_full: AtomicBool,
}

#[derive(Debug)]
struct Queues {
    points: Vec<Queue>,
    spare: Vec<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Chunk>,
    ended: bool,
}

/// What a queue has.
#[derive(Debug)]
pub(super) enum Next {
    Chunk(Chunk),
    /// Nothing now.
    Nothing,
    /// Nothing any more.
    End,
}

impl Spool {
    /// For so many points, with `limit` bytes together.
    pub(super) fn new(points: usize, limit: u64) -> Self {
        let queues = Queues { points: (0..points).map(|_| Queue::default()).collect(), spare: Vec::new() };
        Self {
            queues: Mutex::new(queues),
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            limit,
            was_full: AtomicBool::new(false),
        }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn level(&self) -> Level {
        let used = self.used.load(Ordering::Relaxed);
        match used {
            _ if used >= self.limit => Level::Full,
            _ if used >= self.limit / 2 => Level::High,
            _ => Level::Low,
        }
    }

    /// Most bytes that were in it at a time, and how many it may hold.
    pub(super) fn peak(&self) -> (u64, u64) {
        (self.peak.load(Ordering::Relaxed), self.limit)
    }

    /// Adds a chunk of a point and gives an empty one for it.
    pub(super) fn push(&self, point: usize, chunk: Chunk) -> Chunk {
        let used = self.used.fetch_add(CHUNK_BYTES as u64, Ordering::Relaxed) + CHUNK_BYTES as u64;
        self.peak.fetch_max(used, Ordering::Relaxed);
        let mut queues = self.queues();
        queues.points[point].chunks.push_back(chunk);
        let bytes = queues.spare.pop();
        drop(queues);
        Chunk { bytes: bytes.unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES)), packets: 0, first_ns: 0 }
    }

    /// The next chunk of a point; it counts as used until it is given back.
    pub(super) fn pop(&self, point: usize) -> Next {
        let mut queues = self.queues();
        let queue = &mut queues.points[point];
        match queue.chunks.pop_front() {
            Some(chunk) => Next::Chunk(chunk),
            None if queue.ended => Next::End,
            None => Next::Nothing,
        }
    }

    pub(super) fn give_back(&self, chunk: Chunk) {
        self.used.fetch_sub(CHUNK_BYTES as u64, Ordering::Relaxed);
        let mut bytes = chunk.bytes;
        bytes.clear();
        let mut queues = self.queues();
        if queues.spare.len() < SPARE {
            queues.spare.push(bytes);
        }
    }

    /// A point has no more.
    pub(super) fn end(&self, point: usize) {
        self.queues().points[point].ended = true;
    }
}

/// The usual options of a segment after the handshake: two paddings and a time stamp.
const ONLY_TIMESTAMP: [u8; 4] = [1, 1, 8, 10];

/// So many bytes of a frame are all that is ever looked at; everything where that is not plain.
///
/// Of what is cut off here only the length matters, which is kept apart.
#[inline]
pub(in crate::instrument::capture) fn needed(ethernet: bool, data: &[u8]) -> usize {
    let all = data.len();
    let Some(head) = data.first_chunk::<54>().filter(|_| ethernet) else { return all };
    match (head[12], head[13]) {
        (0x08, 0x00) if head[14] == 0x45 && head[23] != 6 => 34,
        (0x08, 0x00) if head[14] == 0x45 => tcp(data, 34).unwrap_or(all),
        (0x86, 0xdd) if head[14] >> 4 == 6 && head[20] == 6 => tcp(data, 54).unwrap_or(all),
        _ => all,
    }
}

/// An option may run on into the payload, unless it is known.
#[inline]
fn tcp(data: &[u8], at: usize) -> Option<usize> {
    match data.get(at + 12)? >> 4 {
        5 => Some(at + 20).filter(|&end| end <= data.len()),
        8 => (*data.get(at + 20..at + 32)?.first_chunk()? == ONLY_TIMESTAMP).then_some(at + 32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{LinkDecoder, LinkType, Segment};

    /// Frames that are nearly right.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop::sample::select(vec![[8_u8, 0], [0x86, 0xdd], [0x81, 0]]);
        let first = prop::sample::select(vec![0x45_u8, 0x46, 0x60, 0x44]);
        let protocol = prop::sample::select(vec![6_u8, 6, 6, 17, 0]);
        let offset = prop::sample::select(vec![0x50_u8, 0x80, 0x80, 0xf0, 0x20]);
        let usual = any::<[bool; 2]>();
        (prop::collection::vec(any::<u8>(), 20..200), kind, first, protocol, offset, usual).prop_map(
            |(mut bytes, kind, first, protocol, offset, [plain, fragment])| {
                let mut set = |at: usize, value: &[u8]| {
                    if let Some(place) = bytes.get_mut(at..at + value.len()) {
                        place.copy_from_slice(value);
                    }
                };
                set(12, &kind);
                set(14, &[first]);
                let (protocol_at, tcp_at) = if first == 0x60 { (20, 54) } else { (23, 34) };
                set(protocol_at, &[protocol]);
                if !fragment && first != 0x60 {
                    set(20, &[0x40, 0]);
                }
                set(tcp_at + 12, &[offset]);
                if plain {
                    set(tcp_at + 20, &ONLY_TIMESTAMP);
                }
                bytes
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_kept_is_all_that_is_looked_at(bytes in frame()) {
            let needed = needed(true, &bytes);
            prop_assert!(needed <= bytes.len());
            let mut cut = bytes.clone();
            cut[needed..].fill(0xa5);
            let segment = |frame: &[u8]| {
                LinkDecoder::default().ip(LinkType::ETHERNET, frame).map(|ip| format!("{:?}", Segment::decode(ip)))
            };
            prop_assert_eq!(segment(&cut), segment(&bytes));
        }

        #[test]
        fn packets_come_back(packets in prop::collection::vec(
            (any::<i64>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..100)), 0..50)) {
            let mut chunk = Chunk::default();
            for (at_ns, wire_len, bytes) in &packets {
                chunk.push(*at_ns, *wire_len, bytes.len() + 7, bytes);
            }
            prop_assert_eq!(chunk.packets(), packets.len());
            let mut cursor = Cursor::new(chunk);
            for (at_ns, wire_len, bytes) in &packets {
                prop_assert_eq!(cursor.head_ns(), Some(*at_ns));
                let captured = bytes.len() + 7;
                let expected = Spooled { at_ns: *at_ns, wire_len: *wire_len, captured, kept: bytes };
                prop_assert_eq!(cursor.advance(), Some(expected));
            }
            prop_assert_eq!((cursor.head_ns(), cursor.advance()), (None, None));
        }
    }

    #[test]
    fn a_spool_knows_how_full_it_is() {
        let size = CHUNK_BYTES as u64;
        let spool = Spool::new(2, 4 * size);
        let levels: Vec<Level> = (0..4)
            .map(|_| {
                spool.push(1, Chunk::default());
                spool.level()
            })
            .collect();
        assert_eq!(levels, [Level::Low, Level::High, Level::High, Level::Full]);
        assert!(matches!(spool.pop(0), Next::Nothing));
        spool.end(0);
        assert!(matches!(spool.pop(0), Next::End));
        let Next::Chunk(chunk) = spool.pop(1) else { panic!("there are four") };
        assert_eq!(spool.level(), Level::Full, "it is still in memory");
        spool.give_back(chunk);
        assert_eq!((spool.level(), spool.peak()), (Level::High, (4 * size, 4 * size)));
    }
}
