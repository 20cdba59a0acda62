//! Writing pcapng with nanosecond time stamps.
//!
//! Source: IETF draft-ietf-opsawg-pcapng, sections 4.1 (SHB), 4.2 (IDB), 4.3 (EPB), 4.6 (ISB). Little-endian, one
//! section, one interface.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};

/// Whole blocks are gathered up to this size before they are written.
const BUFFER: usize = 256 << 10;

const SECTION_HEADER: u32 = 0x0A0D_0D0A;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const INTERFACE_STATISTICS: u32 = 5;

/// What the interface block says.
#[derive(Debug, Clone)]
pub(super) struct Interface<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// LINKTYPE value.
    pub(super) link_type: u16,
    /// Bytes kept of each packet, at most.
    pub(super) snaplen: u32,
    /// Filter expression.
    pub(super) filter: Option<&'a str>,
}

/// Totals for the statistics block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Totals {
    /// When the capture began, nanoseconds since 1970-01-01 UTC.
    pub(super) started_ns: i64,
    /// When it ended, likewise.
    pub(super) ended_ns: i64,
    /// Packets seen, those lost included; `None` when not known.
    pub(super) received: Option<u64>,
    /// Packets dropped for want of ring space; `None` when not known.
    pub(super) dropped_kernel: Option<u64>,
    /// Packets dropped by the interface; `None` when not known.
    pub(super) dropped_interface: Option<u64>,
}

/// A pcapng file being written. After an error it is cut back to whole blocks.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    /// Bytes of the file that are whole blocks.
    whole: u64,
    buffer: Vec<u8>,
    buffered: u64,
    written: u64,
}

impl Writer {
    /// Begins a file, which must be empty. Nothing is written yet.
    pub(super) fn new(file: File, interface: &Interface<'_>) -> Self {
        let mut writer =
            Self { file, whole: 0, buffer: Vec::with_capacity(BUFFER + (1 << 17)), buffered: 0, written: 0 };
        writer.section_header();
        writer.interface(interface);
        writer
    }

    /// Adds a packet; `at_ns` before 1970 is refused.
    pub(super) fn packet(&mut self, at_ns: i64, wire_len: u32, data: &[u8]) -> io::Result<()> {
        let (Ok(at), Ok(kept)) = (u64::try_from(at_ns), u32::try_from(data.len())) else {
            return Err(io::Error::other("packet with a time before 1970 or of more than 4 GiB"));
        };
        self.block(ENHANCED_PACKET, |body| {
            put32(body, 0);
            put_time(body, at);
            put32(body, kept);
            put32(body, wire_len);
            body.extend_from_slice(data);
            pad(body);
        });
        self.buffered += 1;
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Packets safely handed to the file system.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Packets that an error now would lose.
    pub(super) fn pending(&self) -> u64 {
        self.buffered
    }

    /// Ends the file and gives it back, everything written. An error comes with the packets the file still holds.
    pub(super) fn finish(mut self, totals: &Totals) -> Result<File, (u64, io::Error)> {
        self.statistics(totals);
        match self.flush() {
            Ok(()) => Ok(self.file),
            Err(error) => Err((self.written, error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.file.write_all(&self.buffer);
        if result.is_ok() {
            self.whole += self.buffer.len() as u64;
            self.written += self.buffered;
        } else {
            // A part of a block may have arrived: cut it off, so that readers find whole blocks only. Where that fails
            // too, the first error is the one to report; readers stop at the cut block.
            let cut = self.file.set_len(self.whole).and_then(|()| self.file.seek(io::SeekFrom::Start(self.whole)));
            if let Err(error) = cut {
                tracing::warn!("cannot cut a capture file back to {} bytes: {error}", self.whole);
            }
        }
        self.buffer.clear();
        self.buffered = 0;
        result
    }

    fn section_header(&mut self) {
        self.block(SECTION_HEADER, |body| {
            put32(body, 0x1A2B_3C4D);
            body.extend_from_slice(&[1, 0, 0, 0]);
            body.extend_from_slice(&(-1_i64).to_le_bytes());
            option(body, 4, concat!("vptest ", env!("CARGO_PKG_VERSION")).as_bytes());
            option(body, 0, &[]);
        });
    }

    fn interface(&mut self, interface: &Interface<'_>) {
        self.block(INTERFACE_DESCRIPTION, |body| {
            put32(body, u32::from(interface.link_type));
            put32(body, interface.snaplen);
            option(body, 2, interface.name.as_bytes());
            option(body, 9, &[9]);
            if let Some(filter) = interface.filter {
                option(body, 11, &[&[0], filter.as_bytes()].concat());
            }
            option(body, 0, &[]);
        });
    }

    fn statistics(&mut self, totals: &Totals) {
        let time = |ns: i64| u64::try_from(ns).ok();
        self.block(INTERFACE_STATISTICS, |body| {
            put32(body, 0);
            put_time(body, time(totals.ended_ns).unwrap_or(0));
            for (code, at) in [(2, time(totals.started_ns)), (3, time(totals.ended_ns))] {
                if let Some(at) = at {
                    let mut value = Vec::new();
                    put_time(&mut value, at);
                    option(body, code, &value);
                }
            }
            for (code, count) in [(4, totals.received), (5, totals.dropped_interface), (7, totals.dropped_kernel)] {
                if let Some(count) = count {
                    option(body, code, &count.to_le_bytes());
                }
            }
            option(body, 0, &[]);
        });
    }

    /// Appends a block: type, length, body, length.
    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.buffer.len();
        put32(&mut self.buffer, kind);
        put32(&mut self.buffer, 0);
        body(&mut self.buffer);
        let length = u32::try_from(self.buffer.len() - start + 4).expect("blocks are far smaller than 4 GiB");
        put32(&mut self.buffer, length);
        self.buffer[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    }
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Time stamps are two 32-bit words, the upper one first, whatever the byte order.
fn put_time(out: &mut Vec<u8>, at: u64) {
    let bytes = at.to_le_bytes();
    out.extend_from_slice(&bytes[4..]);
    out.extend_from_slice(&bytes[..4]);
}

/// Fills up to a multiple of four; every block begins at one.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// An option; a value too long for its 16-bit length is cut.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&value[..usize::from(length)]);
    pad(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETHERNET: Interface<'static> =
        Interface { name: "eth0", link_type: 1, snaplen: 96, filter: Some("tcp port 80") };
    const TOTALS: Totals =
        Totals { started_ns: 1, ended_ns: 2, received: Some(3), dropped_kernel: Some(0), dropped_interface: None };

    /// Type and body of each block; panics when a length is wrong.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |at: &[u8]| u32::from_le_bytes(at[..4].try_into().unwrap());
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let length = word(&bytes[4..]) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(word(&bytes[length - 4..]) as usize, length, "the two lengths of a block differ");
            all.push((word(bytes), bytes[8..length - 4].to_vec()));
            bytes = &bytes[length..];
        }
        all
    }

    #[test]
    fn blocks_have_their_layout() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.pcapng");
        let mut writer = Writer::new(File::create(&path).unwrap(), &ETHERNET);
        writer.packet(0x0102_0304_0506_0708, 1514, &[1, 2, 3, 4, 5]).unwrap();
        drop(writer.finish(&TOTALS).map_err(|(_, error)| error).unwrap());
        let blocks = blocks(&std::fs::read(&path).unwrap());
        assert_eq!(blocks.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [SECTION_HEADER, 1, 6, 5]);
        let packet: Vec<u8> =
            [[0, 0, 0, 0, 4, 3, 2, 1].as_slice(), &[8, 7, 6, 5, 5, 0, 0, 0, 0xEA, 5, 0, 0], &[1, 2, 3, 4, 5, 0, 0, 0]]
                .concat();
        assert_eq!(blocks[2].1, packet);
    }

    #[test]
    fn a_packet_before_1970_is_refused() {
        let mut writer = Writer::new(tempfile::tempfile().unwrap(), &ETHERNET);
        assert!(writer.packet(-1, 60, &[0; 60]).is_err());
    }
}
