//! Records of a capture, one after the other, whatever its format.

use std::io::{self, Read};

use thiserror::Error;

use super::link::LinkType;
use super::pcap::Pcap;
use super::pcapng::Pcapng;
use super::time::Time;
use super::window::Window;

/// Most bytes one record may hold, as in libpcap.
pub(super) const MAX_CAPTURED: u32 = 262_144;

/// One captured frame, borrowed from the reader's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was captured.
    pub time: Time,
    /// Bytes it had on the wire, as the capture says; may be below `data.len()` in a damaged file.
    pub wire_len: u32,
    /// The bytes kept, link-layer header first.
    pub data: &'a [u8],
    /// What `data` begins with.
    pub link: LinkType,
    /// Number of the interface within its section, from 0; always 0 in pcap.
    pub interface: u32,
}

/// What stands before a frame's bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) time: Time,
    pub(super) wire_len: u32,
    pub(super) link: LinkType,
    pub(super) interface: u32,
    /// Bytes between here and the frame.
    pub(super) before: usize,
    /// Bytes of the frame that count.
    pub(super) kept: usize,
    /// Bytes from the beginning of the frame to the next record.
    pub(super) total: usize,
}

/// How the records of a capture ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum End {
    /// After a whole record.
    #[error("complete")]
    Clean,
    /// In the middle of a record.
    #[error("cut at byte {offset}: {what} needs {needed} bytes, {available} are there")]
    Truncated {
        /// Where the cut record begins.
        offset: u64,
        /// What was cut.
        what: &'static str,
        /// Bytes it needs.
        needed: u64,
        /// Bytes there were.
        available: u64,
    },
    /// At a record that contradicts itself or the format.
    #[error("damaged at byte {offset}: {reason}")]
    Bad {
        /// Where the damaged record begins.
        offset: u64,
        /// What is wrong with it.
        reason: BadRecord,
    },
    /// The stream below failed: a read error, or damaged compressed data.
    #[error("unreadable at byte {offset}: {error}")]
    Unreadable {
        /// Bytes consumed before.
        offset: u64,
        /// What the stream said.
        error: String,
    },
}

impl End {
    pub(super) fn unreadable(offset: u64, error: &io::Error) -> Self {
        Self::Unreadable { offset, error: error.to_string() }
    }
}

/// What can be wrong with a record or block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadRecord {
    /// More bytes than any link layer has.
    #[error("a packet of {length} captured bytes, the limit is {limit}")]
    CapturedLength {
        /// What the record says.
        length: u32,
        /// What it may say.
        limit: u32,
    },
    /// A block length below its own parts, not a multiple of 4, or absurdly large.
    #[error("a block of {length} bytes, not a multiple of 4 between {least} and 16777216")]
    BlockLength {
        /// What the block says.
        length: u32,
        /// Fewest bytes a block of this type has.
        least: u32,
    },
    /// The length at the end of a block differs from the one at its beginning.
    #[error("a block of {length} bytes says {trailer} at its end")]
    BlockTrailer {
        /// At the beginning.
        length: u32,
        /// At the end.
        trailer: u32,
    },
    /// The parts of a block do not fit in it.
    #[error("{what} does not fit in its block")]
    BlockContent {
        /// Which part.
        what: &'static str,
    },
    /// A packet from an interface that was not described.
    #[error("a packet of interface {interface}, {known} are described")]
    UnknownInterface {
        /// Which.
        interface: u32,
        /// How many are known.
        known: usize,
    },
    /// A section header without byte-order mark.
    #[error("a section without byte-order mark")]
    ByteOrder,
    /// A section of another format version.
    #[error("section version {major}.{minor}, known are 1.0 and 1.2")]
    Version {
        /// Before the dot.
        major: u16,
        /// After it.
        minor: u16,
    },
    /// A time resolution beyond 64 bits.
    #[error("time resolution {0:#04x} is finer than 64 bits can count")]
    Resolution(u8),
    /// More interfaces than any host has.
    #[error("more than {0} interfaces in one section")]
    Interfaces(usize),
}

/// Why a stream is no capture that can be read.
#[derive(Debug, Error)]
pub enum OpenError {
    /// No byte at all.
    #[error("empty, not a capture")]
    Empty,
    /// Cut within the file header.
    #[error("only {available} bytes, a {format} file header has {needed}")]
    Short {
        /// Which format it begins like.
        format: &'static str,
        /// Bytes there are.
        available: usize,
        /// Bytes its header has.
        needed: usize,
    },
    /// Begins like nothing known.
    #[error("not a capture: begins with {0:02x?}, neither pcap nor pcapng")]
    Magic([u8; 4]),
    /// A pcap version nobody writes.
    #[error("pcap version {major}.{minor} is not known")]
    Version {
        /// Before the dot.
        major: u16,
        /// After it.
        minor: u16,
    },
    /// The first section header of a pcapng file is wrong.
    #[error("no sound pcapng section header: {0}")]
    Section(End),
    /// The first bytes could not be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
}

#[derive(Debug)]
enum Format {
    Pcap(Pcap),
    Pcapng(Pcapng),
}

/// Reads the records of one capture from any byte stream.
#[derive(Debug)]
pub struct Reader<R> {
    window: Window<R>,
    format: Format,
    end: Option<End>,
}

impl<R: Read> Reader<R> {
    /// Reads the file header. `source` should not be compressed: see [`super::decoded`].
    ///
    /// # Errors
    /// When the stream is empty, cut in the header, unreadable or begins like no known capture.
    pub fn open(source: R) -> Result<Self, OpenError> {
        let mut window = Window::new(source);
        let format = match window.want(4)? {
            0 => return Err(OpenError::Empty),
            available @ 1..4 => return Err(OpenError::Short { format: "capture", available, needed: 24 }),
            _ if Pcapng::recognises(window.bytes()) => Format::Pcapng(Pcapng::open(&mut window)?),
            _ => Format::Pcap(Pcap::open(&mut window)?),
        };
        Ok(Self { window, format, end: None })
    }

    /// Link type of the whole file; `None` in pcapng, where each interface has its own.
    pub fn link(&self) -> Option<LinkType> {
        match &self.format {
            Format::Pcap(pcap) => Some(pcap.link()),
            Format::Pcapng(_) => None,
        }
    }

    /// The next record; `None` when there is none, and [`Self::end`] then says why.
    #[expect(clippy::should_implement_trait, reason = "the record borrows from the reader, which Iterator cannot say")]
    #[inline]
    pub fn next(&mut self) -> Option<Record<'_>> {
        if self.end.is_some() {
            return None;
        }
        let header = match &mut self.format {
            Format::Pcap(pcap) => pcap.advance(&mut self.window),
            Format::Pcapng(pcapng) => pcapng.advance(&mut self.window),
        };
        match header {
            Ok(Header { time, wire_len, link, interface, before, kept, total }) => {
                self.window.take(before);
                let data = &self.window.take(total)[..kept];
                Some(Record { time, wire_len, data, link, interface })
            }
            Err(end) => {
                self.end = Some(end);
                None
            }
        }
    }

    /// How the records ended; `None` as long as [`Self::next`] has not said so.
    pub const fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Bytes of the (uncompressed) stream consumed so far.
    pub const fn offset(&self) -> u64 {
        self.window.offset()
    }
}

/// Byte order of a file or section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

impl Order {
    /// The 16-bit number at `at`, which the caller knows to be within `bytes`.
    #[inline]
    pub(super) fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let raw = bytes[at..at + 2].try_into().expect("two bytes");
        match self {
            Self::Little => u16::from_le_bytes(raw),
            Self::Big => u16::from_be_bytes(raw),
        }
    }

    /// The 32-bit number at `at`, which the caller knows to be within `bytes`.
    #[inline]
    pub(super) fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let raw = bytes[at..at + 4].try_into().expect("four bytes");
        match self {
            Self::Little => u32::from_le_bytes(raw),
            Self::Big => u32::from_be_bytes(raw),
        }
    }

    /// The 64-bit number at `at`, which the caller knows to be within `bytes`.
    pub(super) fn u64(self, bytes: &[u8], at: usize) -> u64 {
        let raw = bytes[at..at + 8].try_into().expect("eight bytes");
        match self {
            Self::Little => u64::from_le_bytes(raw),
            Self::Big => u64::from_be_bytes(raw),
        }
    }
}
