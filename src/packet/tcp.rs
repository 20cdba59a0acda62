//! From the IP header to a TCP segment.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::options::TcpOptions;

/// One end of a connection: address and port. IPv4 addresses are stored in the low 32 bits; which family it is, the
/// connection knows.
#[derive(Debug, Clone, Copy, Eq, Default)]
pub struct Endpoint {
    high: u64,
    low: u64,
    port: u16,
}

/// Without branches: which of its two ends a packet comes from is as good as random.
impl PartialEq for Endpoint {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        (self.high ^ other.high) | (self.low ^ other.low) | u64::from(self.port ^ other.port) == 0
    }
}

impl Hash for Endpoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.words().hash(state);
    }
}

impl Endpoint {
    /// An IPv4 endpoint.
    pub fn v4(address: Ipv4Addr, port: u16) -> Self {
        Self { high: 0, low: u64::from(address.to_bits()), port }
    }

    /// An IPv6 endpoint.
    pub fn v6(address: Ipv6Addr, port: u16) -> Self {
        let words = address.octets();
        let (high, low) = words.split_at(8);
        let word = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
        Self { high: word(high), low: word(low), port }
    }

    /// The TCP port.
    pub const fn port(self) -> u16 {
        self.port
    }

    /// The address as IPv4; meaningful on IPv4 connections only.
    pub const fn address_v4(self) -> Ipv4Addr {
        #[expect(clippy::cast_possible_truncation, reason = "IPv4 addresses stand in the low 32 bits")]
        Ipv4Addr::from_bits(self.low as u32)
    }

    /// The address as IPv6; meaningful on IPv6 connections only.
    pub const fn address_v6(self) -> Ipv6Addr {
        Ipv6Addr::from_bits((self.high as u128) << 64 | self.low as u128)
    }

    /// Address and port as three numbers, for hashing and storing.
    pub(crate) const fn words(self) -> (u64, u64, u16) {
        (self.high, self.low, self.port)
    }

    /// The inverse of [`Self::words`].
    pub(crate) const fn from_words(high: u64, low: u64, port: u16) -> Self {
        Self { high, low, port }
    }
}

/// TCP flags as they stand in the header.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;
    /// Those that the statistics look at.
    pub(crate) const COUNTED: u8 = 0x3f;

    /// No more data from the sender.
    pub const fn fin(self) -> bool {
        self.0 & 0x01 != 0
    }
    /// Synchronise.
    pub const fn syn(self) -> bool {
        self.0 & 0x02 != 0
    }
    /// Reset.
    pub const fn rst(self) -> bool {
        self.0 & 0x04 != 0
    }
    /// Push.
    pub const fn psh(self) -> bool {
        self.0 & 0x08 != 0
    }
    /// The acknowledgement number counts.
    pub const fn ack(self) -> bool {
        self.0 & 0x10 != 0
    }
    /// The urgent pointer counts.
    pub const fn urg(self) -> bool {
        self.0 & 0x20 != 0
    }
}

/// The letters of the set flags, `.` for ACK as tcpdump has it.
impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in "FSRP.U".chars().enumerate() {
            if self.0 >> bit & 1 != 0 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// What the connection engine needs of one TCP segment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Segment {
    /// Is it IPv6?
    pub v6: bool,
    /// Sender.
    pub source: Endpoint,
    /// Receiver.
    pub destination: Endpoint,
    /// IPv4 identification; `None` in IPv6.
    pub ip_id: Option<u16>,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, whether or not the flag is set.
    pub ack: u32,
    /// Flags.
    pub flags: Flags,
    /// Window field, not scaled.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Payload octets by the IP header's account: IPv6 extension headers count as payload, and a malformed packet can
    /// make it negative (tcptrace's definition).
    pub payload: i32,
    /// Length of the IP packet by its header's account, IP header included.
    pub ip_len: u32,
    /// Octets between the end of the captured bytes and the end of the payload; negative when there is padding.
    pub missing: i32,
    /// Options.
    pub options: TcpOptions,
}

/// IP header parts that finding TCP yields.
struct Network {
    v6: bool,
    tcp_at: usize,
    payload: i32,
    last: usize,
}

const TCP_HEADER: usize = 20;

impl Segment {
    /// Decodes a packet from its IP header on; `None` unless it is TCP, not a later fragment, and all 20 bytes of the
    /// TCP header were captured. Neither checksums nor the data offset are verified.
    pub fn decode(ip: &[u8]) -> Option<Self> {
        let mut segment = Self::default();
        segment.read(ip)?;
        Some(segment)
    }

    /// As [`Self::decode`], into a segment that is there already: moving one costs as much as decoding it.
    #[inline]
    pub(crate) fn read(&mut self, ip: &[u8]) -> Option<()> {
        if let Some(headers) = ip.first_chunk::<40>()
            && headers[0] == 0x45
        {
            return self.read_usual(ip, headers);
        }
        self.read_any(ip)
    }

    /// IPv4 without options: everything has its place.
    #[inline]
    fn read_usual(&mut self, ip: &[u8], headers: &[u8; 40]) -> Option<()> {
        let short = |at: usize| u16::from_be_bytes([headers[at], headers[at + 1]]);
        let long = |at: usize| u32::from_be_bytes([headers[at], headers[at + 1], headers[at + 2], headers[at + 3]]);
        let network = ipv4_of(short(6), headers[9], short(2), 20, ip.len())?;
        if network.last < 20 + TCP_HEADER - 1 {
            return None;
        }
        self.v6 = false;
        self.source = Endpoint { high: 0, low: u64::from(long(12)), port: short(20) };
        self.destination = Endpoint { high: 0, low: u64::from(long(16)), port: short(22) };
        self.ip_id = Some(short(4));
        (self.seq, self.ack) = (long(24), long(28));
        (self.flags, self.window, self.urgent) = (Flags(headers[33]), short(34), short(38));
        self.ip_len = u32::from(short(2));
        self.finish(ip, headers[32], &network);
        Some(())
    }

    fn read_any(&mut self, ip: &[u8]) -> Option<()> {
        let network = match ip.first()? >> 4 {
            4 => ipv4(ip)?,
            6 => ipv6(ip)?,
            _ => return None,
        };
        let Network { v6, tcp_at, last, .. } = network;
        if tcp_at + TCP_HEADER - 1 > last {
            return None;
        }
        let tcp: &[u8; TCP_HEADER] = ip.get(tcp_at..)?.first_chunk()?;
        let short = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let long = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
        (self.source, self.destination) = endpoints(ip, v6, short(0), short(2))?;
        self.v6 = v6;
        self.ip_id = if v6 { None } else { Some(u16::from_be_bytes([ip[4], ip[5]])) };
        (self.seq, self.ack) = (long(4), long(8));
        (self.flags, self.window, self.urgent) = (Flags(tcp[13]), short(14), short(18));
        let length = u32::from(u16::from_be_bytes(if v6 { [ip[4], ip[5]] } else { [ip[2], ip[3]] }));
        self.ip_len = if v6 { length + 40 } else { length };
        self.finish(ip, tcp[12], &network);
        Some(())
    }

    /// What follows from the TCP header's length.
    #[inline]
    fn finish(&mut self, ip: &[u8], offset: u8, network: &Network) {
        let &Network { tcp_at, payload, last, .. } = network;
        let as_i32 = |n: usize| i32::try_from(n & 0xff_ffff).expect("24 bits");
        let header = usize::from(offset >> 4) * 4;
        self.payload = payload - as_i32(header);
        self.missing = as_i32(tcp_at) + payload - as_i32(last + 1);
        self.options.read(ip, tcp_at + TCP_HEADER, tcp_at + header, last);
    }
}

#[inline]
fn endpoints(ip: &[u8], v6: bool, source: u16, destination: u16) -> Option<(Endpoint, Endpoint)> {
    if v6 {
        let address = |at: usize| Some(Ipv6Addr::from(*ip.get(at..)?.first_chunk::<16>()?));
        return Some((Endpoint::v6(address(8)?, source), Endpoint::v6(address(24)?, destination)));
    }
    let address = |at: usize| Some(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?));
    Some((Endpoint::v4(address(12)?, source), Endpoint::v4(address(16)?, destination)))
}

#[inline]
fn ipv4(ip: &[u8]) -> Option<Network> {
    let header: &[u8; 20] = ip.first_chunk()?;
    let short = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    ipv4_of(short(6), header[9], short(2), usize::from(header[0] & 0x0f) * 4, ip.len())
}

#[inline]
fn ipv4_of(fragment: u16, protocol: u8, total: u16, tcp_at: usize, captured: usize) -> Option<Network> {
    if protocol != 6 || fragment & 0x1fff != 0 {
        return None;
    }
    let total = usize::from(total);
    let mut last = captured - 1;
    if total <= last {
        last = total; // one too far when there is padding, as tcptrace has it
    }
    let signed = |n: usize| i32::try_from(n).expect("16 bits");
    Some(Network { v6: false, tcp_at, payload: signed(total) - signed(tcp_at), last })
}

fn ipv6(ip: &[u8]) -> Option<Network> {
    let last = ip.len() - 1;
    let payload = i32::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?]));
    let mut next = *ip.get(6)?;
    let mut at = 40;
    while at <= last {
        let second = |unit: usize, base: usize| Some(base + unit * usize::from(*ip.get(at + 1)?));
        let length = match next {
            6 => return Some(Network { v6: true, tcp_at: at, payload, last }),
            // Hop-by-hop, routing, destination options, mobility, HIP, shim6.
            0 | 43 | 60 | 135 | 139 | 140 => second(8, 8)?,
            44 if is_later_fragment(ip, at)? => return None,
            44 => 8,
            51 => second(4, 8)?,
            _ => return None,
        };
        next = ip[at];
        at += length;
    }
    None
}

fn is_later_fragment(ip: &[u8], at: usize) -> Option<bool> {
    Some(u16::from_be_bytes([*ip.get(at + 2)?, *ip.get(at + 3)?]) & 0xfff8 != 0)
}
