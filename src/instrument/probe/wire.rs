//! Probe packets, as bytes. Pure.
//!
//! In the manner of STAMP (RFC 8762, RFC 8972), unauthenticated, and as long one way as the other, so that nobody can use a
//! reflector to make more of their packets. Numbers are in network byte order:
//!
//! ```text
//!  0  magic "vptp"         24  sequence number of the sender
//!  4  version              28  number of the reflector's answer; 0 in requests
//!  5  1 request, 2 answer  32  wall clock of the sender, ns
//!  6  zero                 40  wall clock of the reflector at the request's arrival, ns; 0 in requests
//!  8  nonce of the session 48  the same at the answer's departure
//! 24                       56  zeros up to the size
//! ```

use std::fmt;
use std::io::{self, Read as _};
use std::str::FromStr;

/// Bytes of the smallest packet.
pub(super) const LEAST_SIZE: usize = 56;

const MAGIC: [u8; 4] = *b"vptp";
const VERSION: u8 = 1;

/// Names a session. Packets with another one are not of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// One that nobody else has.
    ///
    /// # Errors
    /// When the kernel's random numbers cannot be read.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Number of the session's first packet: any, so that sequence numbers wrap in real sessions too.
    pub(super) fn first(self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no [`Nonce`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a nonce has 32 hexadecimal digits")]
pub struct BadNonce;

impl FromStr for Nonce {
    type Err = BadNonce;

    fn from_str(text: &str) -> Result<Self, BadNonce> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        number.map(|number| Self(number.to_be_bytes())).ok_or(BadNonce)
    }
}

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Answer,
}

/// What a packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) kind: Kind,
    pub(super) nonce: Nonce,
    pub(super) sequence: u32,
    pub(super) number: u32,
    pub(super) sent_ns: i64,
    pub(super) received_ns: i64,
    pub(super) answered_ns: i64,
}

impl Packet {
    /// Writes it; what is longer than [`LEAST_SIZE`] is set to zero.
    pub(super) fn write(&self, bytes: &mut [u8]) {
        bytes.fill(0);
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = match self.kind {
            Kind::Request => 1,
            Kind::Answer => 2,
        };
        bytes[8..24].copy_from_slice(&self.nonce.0);
        bytes[24..28].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[28..32].copy_from_slice(&self.number.to_be_bytes());
        for (at, time) in [(32, self.sent_ns), (40, self.received_ns), (48, self.answered_ns)] {
            bytes[at..at + 8].copy_from_slice(&time.to_be_bytes());
        }
    }

    /// `None` for anything that is no packet of a probe.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let fixed: &[u8; LEAST_SIZE] = bytes.first_chunk()?;
        let kind = match fixed[5] {
            1 => Kind::Request,
            2 => Kind::Answer,
            _ => return None,
        };
        let is_ours = fixed[..4] == MAGIC && fixed[4] == VERSION && fixed[6..8] == [0, 0];
        let time = |at: usize| i64::from_be_bytes(std::array::from_fn(|i| fixed[at + i]));
        let number = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| fixed[at + i]));
        is_ours.then(|| Self {
            kind,
            nonce: Nonce(std::array::from_fn(|i| fixed[8 + i])),
            sequence: number(24),
            number: number(28),
            sent_ns: time(32),
            received_ns: time(40),
            answered_ns: time(48),
        })
    }
}

/// Is it a packet of this session, this way and this length?
pub(super) fn ours(bytes: &[u8], size: usize, kind: Kind, nonce: Nonce) -> Option<Packet> {
    let packet = Packet::read(bytes).filter(|_| bytes.len() == size)?;
    (packet.kind == kind && packet.nonce == nonce).then_some(packet)
}

/// Place of a packet in its session, from its number.
///
/// Numbers begin anywhere and wrap at 2^32; a session has less than that.
pub(super) const fn place(sequence: u32, first: u32) -> u32 {
    sequence.wrapping_sub(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(kind: Kind, nonce: Nonce) -> Packet {
        Packet { kind, nonce, sequence: 7, number: 9, sent_ns: -3, received_ns: i64::MAX, answered_ns: 5 }
    }

    #[test]
    fn packets_come_back_as_they_were() {
        let nonce: Nonce = "000102030405060708090a0b0c0d0eff".parse().unwrap();
        assert_eq!(nonce.to_string(), "000102030405060708090a0b0c0d0eff");
        for size in [LEAST_SIZE, 64, 1472] {
            let mut bytes = vec![0xaa; size];
            packet(Kind::Request, nonce).write(&mut bytes);
            assert_eq!(Packet::read(&bytes), Some(packet(Kind::Request, nonce)));
            assert!(ours(&bytes, size, Kind::Request, nonce).is_some());
            assert!(ours(&bytes, size, Kind::Answer, nonce).is_none(), "an answer gets no answer");
            assert!(ours(&bytes, size + 1, Kind::Request, nonce).is_none(), "of another length");
            assert!(ours(&bytes, size, Kind::Request, Nonce::random().unwrap()).is_none(), "of another session");
        }
    }

    #[test]
    fn nonces_are_read_or_refused() {
        for text in ["", "0", "000102030405060708090a0b0c0d0e0g", "+00102030405060708090a0b0c0d0e0f", &"0".repeat(33)] {
            assert_eq!(text.parse::<Nonce>(), Err(BadNonce), "{text}");
        }
        assert_ne!(Nonce::random().unwrap(), Nonce::random().unwrap());
    }

    #[test]
    fn numbers_wrap() {
        assert_eq!(place(3, u32::MAX - 1), 5);
        assert_eq!(place(u32::MAX - 1, u32::MAX - 1), 0);
        assert_eq!(place(9, 10), u32::MAX, "before the first: far beyond all that were sent");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200), ours: bool) {
            if ours && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(b"vptp\x01\x02\0\0");
            }
            let read = Packet::read(&bytes);
            prop_assert_eq!(read.is_some(), ours && bytes.len() >= LEAST_SIZE);
        }
    }
}
