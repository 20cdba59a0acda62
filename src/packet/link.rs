//! Link layers: where the IP header starts in a captured frame.
//!
//! The rules for the types tcptrace 6.6.7 knows are its rules (`docs/flows.md`), down to which VLAN and PPPoE forms are
//! opened, so that both see the same packets.

use std::fmt;

/// A link type as captures number them (LINKTYPE values; those of pcap's DLT numbering that differ are understood too).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkType(pub u32);

impl LinkType {
    /// Ethernet.
    pub const ETHERNET: Self = Self(1);
    /// IPv4 or IPv6 without link layer.
    pub const RAW: Self = Self(101);
    /// Linux "cooked" capture, version 1.
    pub const LINUX_SLL: Self = Self(113);

    /// From a file header's field, whose upper bits say something else.
    pub const fn from_field(field: u32) -> Self {
        Self(field & 0x03ff_ffff)
    }

    /// Can packets be found in frames of this type?
    pub const fn is_supported(self) -> bool {
        Kind::of(self).is_some()
    }
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link type {}", self.0)
    }
}

/// How a link layer is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fixed(usize),
    Ethernet,
    /// As [`Kind::Fixed`], and bytes 12 and 13 must say IP.
    TypeAt12(usize),
    Ppp,
    Fddi,
    LinuxSll2,
}

impl Kind {
    const fn of(link: LinkType) -> Option<Self> {
        Some(match link.0 {
            0 => Self::Fixed(4), // BSD loopback; the family is told by the version nibble
            1 => Self::Ethernet,
            6 => Self::TypeAt12(14), // token ring
            8 => Self::Fixed(16),    // SLIP
            9 => Self::Ppp,
            10 => Self::Fddi,
            11 | 100 => Self::Fixed(8),             // ATM, LLC encapsulated
            12 | 101 | 228 | 229 => Self::Fixed(0), // raw IP; IPv4, IPv6
            104 | 108 => Self::Fixed(4),            // Cisco HDLC; OpenBSD loopback
            105 => Self::Fixed(32),                 // 802.11
            113 => Self::Fixed(16),                 // Linux cooked
            119 => Self::Fixed(176),                // Prism
            127 => Self::TypeAt12(88),              // Radiotap
            276 => Self::LinuxSll2,
            _ => return None,
        })
    }
}

/// Finds the IP packet in frames.
///
/// One decoder belongs to one capture: FDDI keeps the first offset at which an IP packet was found.
#[derive(Debug, Clone, Default)]
pub struct LinkDecoder {
    fddi: Option<usize>,
}

impl LinkDecoder {
    /// The bytes from the IP header on; `None` when the frame carries no IP, is cut before it, or its link type is not
    /// supported.
    #[inline]
    pub fn ip<'a>(&mut self, link: LinkType, frame: &'a [u8]) -> Option<&'a [u8]> {
        if link == LinkType::ETHERNET {
            return frame.get(ethernet(frame)?..);
        }
        self.other(link, frame)
    }

    fn other<'a>(&mut self, link: LinkType, frame: &'a [u8]) -> Option<&'a [u8]> {
        let at = match Kind::of(link)? {
            Kind::Fixed(at) => at,
            Kind::Ethernet => ethernet(frame)?,
            Kind::TypeAt12(at) => is_ip(frame, 12).then_some(at)?,
            Kind::Ppp => ppp(frame)?,
            Kind::Fddi => self.fddi(frame)?,
            Kind::LinuxSll2 => is_ip(frame, 0).then_some(20)?,
        };
        frame.get(at..)
    }

    fn fddi(&mut self, frame: &[u8]) -> Option<usize> {
        const SNAP_IPV4: [u8; 7] = [0xaa, 0x03, 0, 0, 0, 0x08, 0];
        if self.fddi.is_none() {
            self.fddi = frame.windows(7).position(|window| window == SNAP_IPV4).map(|at| at + 7);
        }
        self.fddi
    }
}

fn ether_type(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?))
}

fn is_ip(frame: &[u8], at: usize) -> bool {
    matches!(ether_type(frame, at), Some(0x0800 | 0x86dd))
}

#[inline]
fn ethernet(frame: &[u8]) -> Option<usize> {
    match ether_type(frame, 12)? {
        0x0800 | 0x86dd => Some(14),
        0x8864 => (ether_type(frame, 20)? == 0x0021).then_some(22),
        0x8100 => is_ip(frame, 16).then_some(18),
        _ => None,
    }
}

fn ppp(frame: &[u8]) -> Option<usize> {
    match *frame {
        [0xff, _, 0x00, 0x21, ..] => Some(4),
        [0x21, ..] => Some(1),
        [0x00, 0x21, ..] => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(link: u32, head: &[u8], expected: Option<usize>) {
        let mut frame = head.to_vec();
        frame.resize(200, 0);
        let found = LinkDecoder::default().ip(LinkType(link), &frame).map(|ip| 200 - ip.len());
        assert_eq!(found, expected, "link type {link}, {head:02x?}");
    }

    fn ethernet_with(types: &[u8]) -> Vec<u8> {
        [&[0; 12], types].concat()
    }

    #[test]
    fn ethernet_opens_one_tag_and_pppoe_with_ipv4() {
        check(1, &ethernet_with(&[0x08, 0x00]), Some(14));
        check(1, &ethernet_with(&[0x86, 0xdd]), Some(14));
        check(1, &ethernet_with(&[0x81, 0x00, 0, 5, 0x86, 0xdd]), Some(18));
        check(1, &ethernet_with(&[0x81, 0x00, 0, 5, 0x81, 0x00, 0, 6, 0x08, 0]), None);
        check(1, &ethernet_with(&[0x88, 0xa8, 0, 5, 0x08, 0x00]), None);
        check(1, &ethernet_with(&[0x88, 0x64, 0x11, 0, 0, 1, 0, 9, 0x00, 0x21]), Some(22));
        check(1, &ethernet_with(&[0x88, 0x64, 0x11, 0, 0, 1, 0, 9, 0x00, 0x57]), None);
        check(1, &ethernet_with(&[0x08, 0x06]), None);
    }

    #[test]
    fn short_frames_are_not_ip() {
        for length in 0..14 {
            assert_eq!(LinkDecoder::default().ip(LinkType::ETHERNET, &vec![8; length]), None);
        }
        assert_eq!(LinkDecoder::default().ip(LinkType::LINUX_SLL, &[0; 15]), None);
    }

    #[test]
    fn others_follow_their_tables() {
        check(0, &[2, 0, 0, 0], Some(4));
        check(9, &[0xff, 0x03, 0x00, 0x21], Some(4));
        check(9, &[0x21], Some(1));
        check(9, &[0x00, 0x21], Some(2));
        check(9, &[0xc0, 0x21], None);
        check(127, &[0; 14], None);
        check(276, &[0x08, 0x00], Some(20));
        check(147, &[], None);
    }

    #[test]
    fn fddi_keeps_its_first_offset() {
        let mut decoder = LinkDecoder::default();
        let first = [&[0; 13][..], &[0xaa, 3, 0, 0, 0, 8, 0], &[0x45; 20]].concat();
        assert_eq!(decoder.ip(LinkType(10), &first).map(<[u8]>::len), Some(20));
        assert_eq!(decoder.ip(LinkType(10), &[0; 60]).map(<[u8]>::len), Some(40));
    }
}
