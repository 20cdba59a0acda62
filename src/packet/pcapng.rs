//! The pcapng format: sections of blocks, packets from several interfaces.

use std::io::Read;

use super::link::LinkType;
use super::reader::{BadRecord, End, Header, MAX_CAPTURED, OpenError, Order};
use super::time::Time;
use super::window::Window;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MARK: u32 = 0x1a2b_3c4d;
/// Type and length before the content, length again after it.
const BLOCK_HEADER: usize = 8;
const BLOCK_TRAILER: usize = 4;
/// As in libpcap.
const MAX_BLOCK: u32 = 16 << 20;
/// More than a capture on any host describes; keeps a file of nothing but descriptions from filling memory.
const MAX_INTERFACES: usize = 65_536;

const OPTION_TIME_RESOLUTION: u16 = 9;
const OPTION_TIME_OFFSET: u16 = 14;

/// Units of a time stamp in one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolution {
    Micros,
    Nanos,
    Other(u64),
}

#[derive(Debug, Clone, Copy)]
struct Interface {
    link: LinkType,
    snaplen: u32,
    resolution: Resolution,
    /// Seconds to add.
    offset: i64,
}

/// State of the current section.
#[derive(Debug)]
pub(super) struct Pcapng {
    order: Order,
    interfaces: Vec<Interface>,
    /// Snap length of the file's first interface, which libpcap takes for the whole file's.
    first_snaplen: Option<u32>,
}

impl Pcapng {
    pub(super) fn recognises(bytes: &[u8]) -> bool {
        bytes.starts_with(&SECTION.to_be_bytes())
    }

    /// Reads the first section header.
    pub(super) fn open<R: Read>(window: &mut Window<R>) -> Result<Self, OpenError> {
        let mut new = Self { order: Order::Little, interfaces: Vec::new(), first_snaplen: None };
        new.first_section(window).map_err(OpenError::Section)?;
        Ok(new)
    }

    pub(super) fn advance<R: Read>(&mut self, window: &mut Window<R>) -> Result<Header, End> {
        loop {
            let (kind, length) = self.block(window)?;
            match kind {
                SECTION => self.section(window, length)?,
                INTERFACE => self.interface(window, length)?,
                ENHANCED_PACKET | SIMPLE_PACKET | OBSOLETE_PACKET => return self.packet(window, kind, length),
                _ => self.pass(window, length)?,
            }
        }
    }

    /// Type and length of the block at hand; in a section header the byte order is taken over first.
    fn block<R: Read>(&mut self, window: &mut Window<R>) -> Result<(u32, u32), End> {
        let offset = window.offset();
        let wanted = BLOCK_HEADER + BLOCK_TRAILER;
        let available = window.want(wanted).map_err(|e| End::unreadable(offset, &e))?;
        if available == 0 {
            return Err(End::Clean);
        }
        if available < wanted {
            return Err(cut(offset, "a block", wanted, available));
        }
        let bytes = window.bytes();
        if Self::recognises(bytes) {
            self.order = [Order::Little, Order::Big]
                .into_iter()
                .find(|order| order.u32(bytes, 8) == BYTE_ORDER_MARK)
                .ok_or(End::Bad { offset, reason: BadRecord::ByteOrder })?;
        }
        let (kind, length) = (self.order.u32(bytes, 0), self.order.u32(bytes, 4));
        let least = match kind {
            SECTION => 28,
            INTERFACE => 20,
            SIMPLE_PACKET => 16,
            ENHANCED_PACKET | OBSOLETE_PACKET => 32,
            _ => 12,
        };
        if length < least || length > MAX_BLOCK || !length.is_multiple_of(4) {
            return Err(End::Bad { offset, reason: BadRecord::BlockLength { length, least } });
        }
        Ok((kind, length))
    }

    /// All bytes of the block.
    fn bytes<'w, R: Read>(&self, window: &'w mut Window<R>, length: u32) -> Result<&'w [u8], End> {
        let (offset, needed) = (window.offset(), length as usize);
        let available = window.want(needed).map_err(|e| End::unreadable(offset, &e))?;
        if available < needed {
            return Err(cut(offset, "a block", needed, available));
        }
        Ok(&window.bytes()[..needed])
    }

    /// The whole block, its two lengths compared.
    fn whole<'w, R: Read>(&self, window: &'w mut Window<R>, length: u32) -> Result<&'w [u8], End> {
        let (offset, needed) = (window.offset(), length as usize);
        let block = self.bytes(window, length)?;
        let trailer = self.order.u32(block, needed - BLOCK_TRAILER);
        if trailer != length {
            return Err(End::Bad { offset, reason: BadRecord::BlockTrailer { length, trailer } });
        }
        Ok(block)
    }

    /// Passes over a block nobody here understands, without keeping it.
    fn pass<R: Read>(&self, window: &mut Window<R>, length: u32) -> Result<(), End> {
        let (offset, content) = (window.offset(), u64::from(length) - BLOCK_TRAILER as u64);
        let skipped = window.skip(content).map_err(|e| End::unreadable(offset, &e))?;
        let available = window.want(BLOCK_TRAILER).map_err(|e| End::unreadable(offset, &e))?;
        if skipped < content || available < BLOCK_TRAILER {
            let available = skipped + available.min(BLOCK_TRAILER) as u64;
            return Err(End::Truncated { offset, what: "a block", needed: u64::from(length), available });
        }
        let trailer = self.order.u32(window.take(BLOCK_TRAILER), 0);
        if trailer == length {
            return Ok(());
        }
        Err(End::Bad { offset, reason: BadRecord::BlockTrailer { length, trailer } })
    }

    /// Like libpcap, this does not insist on the length at the end of the very first block.
    fn first_section<R: Read>(&mut self, window: &mut Window<R>) -> Result<(), End> {
        let (_, length) = self.block(window)?;
        self.bytes(window, length)?;
        self.enter_section(window, length)
    }

    fn section<R: Read>(&mut self, window: &mut Window<R>, length: u32) -> Result<(), End> {
        self.whole(window, length)?;
        self.enter_section(window, length)
    }

    fn enter_section<R: Read>(&mut self, window: &mut Window<R>, length: u32) -> Result<(), End> {
        let (offset, block) = (window.offset(), window.bytes());
        let (major, minor) = (self.order.u16(block, 12), self.order.u16(block, 14));
        if !matches!((major, minor), (1, 0 | 2)) {
            return Err(End::Bad { offset, reason: BadRecord::Version { major, minor } });
        }
        window.take(length as usize);
        self.interfaces.clear();
        Ok(())
    }

    fn interface<R: Read>(&mut self, window: &mut Window<R>, length: u32) -> Result<(), End> {
        let offset = window.offset();
        let block = self.whole(window, length)?;
        let interface = self.describe(block).map_err(|reason| End::Bad { offset, reason })?;
        if self.interfaces.len() == MAX_INTERFACES {
            return Err(End::Bad { offset, reason: BadRecord::Interfaces(MAX_INTERFACES) });
        }
        self.first_snaplen.get_or_insert(interface.snaplen);
        self.interfaces.push(interface);
        window.take(length as usize);
        Ok(())
    }

    fn describe(&self, block: &[u8]) -> Result<Interface, BadRecord> {
        let snaplen = match self.order.u32(block, 12) {
            0 | 0x8000_0000.. => MAX_CAPTURED,
            snaplen => snaplen,
        };
        let link = LinkType::from_field(u32::from(self.order.u16(block, 8)));
        let mut interface = Interface { link, snaplen, resolution: Resolution::Micros, offset: 0 };
        let (mut resolutions, mut offsets) = (0, 0);
        let options = Options { order: self.order, rest: &block[16..block.len() - BLOCK_TRAILER] };
        for option in options {
            match option? {
                (OPTION_TIME_RESOLUTION, &[field]) if resolutions == 0 => {
                    interface.resolution = resolution(field)?;
                    resolutions += 1;
                }
                (OPTION_TIME_OFFSET, value) if value.len() == 8 && offsets == 0 => {
                    interface.offset = self.order.u64(value, 0).cast_signed();
                    offsets += 1;
                }
                (OPTION_TIME_RESOLUTION | OPTION_TIME_OFFSET, _) => {
                    return Err(BadRecord::BlockContent { what: "a repeated or odd time option" });
                }
                _ => {}
            }
        }
        Ok(interface)
    }

    fn packet<R: Read>(&self, window: &mut Window<R>, kind: u32, length: u32) -> Result<Header, End> {
        let offset = window.offset();
        let block = self.whole(window, length)?;
        self.packet_header(block, kind).map_err(|reason| End::Bad { offset, reason })
    }

    fn packet_header(&self, block: &[u8], kind: u32) -> Result<Header, BadRecord> {
        let order = self.order;
        let number = match kind {
            ENHANCED_PACKET => order.u32(block, 8),
            OBSOLETE_PACKET => u32::from(order.u16(block, 8)),
            _ => 0,
        };
        let known = self.interfaces.len();
        let interface = usize::try_from(number)
            .ok()
            .and_then(|number| self.interfaces.get(number))
            .ok_or(BadRecord::UnknownInterface { interface: number, known })?;
        let (before, captured, wire_len, time) = if kind == SIMPLE_PACKET {
            let wire_len = order.u32(block, 8);
            (12, wire_len.min(interface.snaplen), wire_len, Time::default())
        } else {
            let units = u64::from(order.u32(block, 12)) << 32 | u64::from(order.u32(block, 16));
            (28, order.u32(block, 20), order.u32(block, 24), interface.time(units))
        };
        let limit = interface.snaplen.max(self.first_snaplen.unwrap_or(0)).min(MAX_CAPTURED);
        if captured > limit {
            return Err(BadRecord::CapturedLength { length: captured, limit });
        }
        let (kept, total) = (captured as usize, block.len() - before);
        if kept + BLOCK_TRAILER > total {
            return Err(BadRecord::BlockContent { what: "a packet" });
        }
        Ok(Header { time, wire_len, link: interface.link, interface: number, before, kept, total })
    }
}

/// Options at the end of a block: code and value, up to the end mark.
struct Options<'a> {
    order: Order,
    rest: &'a [u8],
}

impl<'a> Iterator for Options<'a> {
    type Item = Result<(u16, &'a [u8]), BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.len() < 4 {
            return None;
        }
        let (code, length) = (self.order.u16(self.rest, 0), usize::from(self.order.u16(self.rest, 2)));
        let padded = 4 + length.next_multiple_of(4);
        if padded > self.rest.len() || (code == 0 && length > 0) {
            self.rest = &[];
            return Some(Err(BadRecord::BlockContent { what: "an interface option" }));
        }
        let value = &self.rest[4..4 + length];
        self.rest = if code == 0 { &[] } else { &self.rest[padded..] };
        (code != 0).then_some(Ok((code, value)))
    }
}

impl Interface {
    fn time(&self, units: u64) -> Time {
        match self.resolution {
            Resolution::Micros => self.moved(units / 1_000_000, units % 1_000_000 * 1000),
            Resolution::Nanos => self.moved(units / 1_000_000_000, units % 1_000_000_000),
            Resolution::Other(per_second) => self.time_at(units, per_second),
        }
    }

    fn time_at(&self, units: u64, per_second: u64) -> Time {
        let nanos = u128::from(units % per_second) * 1_000_000_000 / u128::from(per_second);
        self.moved(units / per_second, u64::try_from(nanos).expect("below a second"))
    }

    fn moved(&self, seconds: u64, nanos: u64) -> Time {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_add(self.offset);
        Time::from_parts(seconds, nanos)
    }
}

/// `if_tsresol`: a power of 10, or of 2 with the top bit set.
fn resolution(field: u8) -> Result<Resolution, BadRecord> {
    let exponent = u32::from(field & 0x7f);
    let base: u64 = if field & 0x80 == 0 { 10 } else { 2 };
    match base.checked_pow(exponent) {
        Some(1_000_000) => Ok(Resolution::Micros),
        Some(1_000_000_000) => Ok(Resolution::Nanos),
        Some(per_second) => Ok(Resolution::Other(per_second)),
        None => Err(BadRecord::Resolution(field)),
    }
}

#[cold]
fn cut(offset: u64, what: &'static str, needed: usize, available: usize) -> End {
    End::Truncated { offset, what, needed: needed as u64, available: available as u64 }
}
