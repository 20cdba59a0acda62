//! The classic pcap format, as libpcap reads it.

use std::io::Read;

use super::link::LinkType;
use super::reader::{BadRecord, End, Header, MAX_CAPTURED, OpenError, Order};
use super::time::Time;
use super::window::Window;

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
/// Record header of the "modified" format, which adds an interface index and more.
const MODIFIED_RECORD_HEADER: usize = 24;

const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
const MAGIC_MODIFIED: u32 = 0xa1b2_cd34;

/// Which way round the two length fields of a record stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lengths {
    CapturedFirst,
    WireFirst,
    /// Version 2.3: some programs wrote one, some the other.
    SmallerIsCaptured,
}

/// What a pcap file header says.
#[derive(Debug)]
pub(super) struct Pcap {
    order: Order,
    nanos: bool,
    record_header: usize,
    lengths: Lengths,
    snaplen: u32,
    link: LinkType,
    /// A microsecond field of a million or more was seen: the fields count a thousandth of what they should.
    overflowed: bool,
}

impl Pcap {
    pub(super) fn open<R: Read>(window: &mut Window<R>) -> Result<Self, OpenError> {
        let available = window.want(FILE_HEADER)?;
        let bytes = window.bytes();
        let (order, magic) = recognise(bytes)?;
        if available < FILE_HEADER {
            return Err(OpenError::Short { format: "pcap", available, needed: FILE_HEADER });
        }
        let lengths = lengths(order.u16(bytes, 4), order.u16(bytes, 6))?;
        let snaplen = match order.u32(bytes, 16) {
            0 | 0x8000_0000.. => MAX_CAPTURED,
            snaplen => snaplen,
        };
        let link = LinkType::from_field(order.u32(bytes, 20));
        window.take(FILE_HEADER);
        let record_header = if magic == MAGIC_MODIFIED { MODIFIED_RECORD_HEADER } else { RECORD_HEADER };
        Ok(Self { order, nanos: magic == MAGIC_NANOS, record_header, lengths, snaplen, link, overflowed: false })
    }

    pub(super) const fn link(&self) -> LinkType {
        self.link
    }

    #[inline]
    pub(super) fn advance<R: Read>(&mut self, window: &mut Window<R>) -> Result<Header, End> {
        let offset = window.offset();
        let available = window.want(self.record_header).map_err(|e| End::unreadable(offset, &e))?;
        if available < self.record_header {
            return Err(cut(offset, "a record header", self.record_header, available));
        }
        let words: &[u8; RECORD_HEADER] = window.bytes().first_chunk().expect("a record header is at hand");
        let little = |at: usize| u32::from_le_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
        let mut words = [little(0), little(4), little(8), little(12)];
        if self.order == Order::Big {
            words = words.map(u32::swap_bytes);
        }
        let [seconds, fraction, first, second] = words;
        let (captured, wire_len) = self.lengths(first, second);
        if captured > MAX_CAPTURED {
            let reason = BadRecord::CapturedLength { length: captured, limit: MAX_CAPTURED };
            return Err(End::Bad { offset, reason });
        }
        let total = captured as usize;
        let needed = self.record_header + total;
        if available < needed {
            let available = window.want(needed).map_err(|e| End::unreadable(offset, &e))?;
            if available < needed {
                return Err(cut(offset, "a record", needed, available));
            }
        }
        Ok(Header {
            time: self.time(seconds, fraction),
            wire_len,
            link: self.link,
            interface: 0,
            before: self.record_header,
            kept: captured.min(self.snaplen) as usize,
            total,
        })
    }

    #[inline]
    fn lengths(&self, first: u32, second: u32) -> (u32, u32) {
        match self.lengths {
            Lengths::CapturedFirst => (first, second),
            Lengths::WireFirst => (second, first),
            Lengths::SmallerIsCaptured => (first.min(second), first.max(second)),
        }
    }

    /// Seconds are unsigned: they reach the year 2106.
    #[inline]
    fn time(&mut self, seconds: u32, fraction: u32) -> Time {
        if !self.nanos && !self.overflowed && fraction < 1_000_000 {
            return Time::from_micros(i64::from(seconds) * 1_000_000 + i64::from(fraction));
        }
        let (seconds, fraction) = (i64::from(seconds), u64::from(fraction));
        let nanos = if self.nanos { fraction } else { fraction * 1000 };
        self.overflowed |= nanos >= 1_000_000_000;
        Time::from_parts(seconds, if self.overflowed { nanos / 1000 } else { nanos })
    }
}

fn recognise(bytes: &[u8]) -> Result<(Order, u32), OpenError> {
    for order in [Order::Little, Order::Big] {
        let magic = order.u32(bytes, 0);
        if matches!(magic, MAGIC_MICROS | MAGIC_NANOS | MAGIC_MODIFIED) {
            return Ok((order, magic));
        }
    }
    Err(OpenError::Magic(bytes[..4].try_into().expect("four bytes are at hand")))
}

fn lengths(major: u16, minor: u16) -> Result<Lengths, OpenError> {
    match (major, minor) {
        (2, 0..=2) | (543, 0) => Ok(Lengths::WireFirst),
        (2, 3) => Ok(Lengths::SmallerIsCaptured),
        (2, 4) => Ok(Lengths::CapturedFirst),
        _ => Err(OpenError::Version { major, minor }),
    }
}

#[cold]
fn cut(offset: u64, what: &'static str, needed: usize, available: usize) -> End {
    if available == 0 {
        return End::Clean;
    }
    End::Truncated { offset, what, needed: needed as u64, available: available as u64 }
}
