//! Rate limits: the kernel's token bucket filter (TBF, `tc-tbf(8)`).

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use super::netlink::{Change, Netlink, NetlinkError, attribute, invalid};
use crate::units::Rate;

/// Time's worth of bytes that may pass at once after a silence. It makes up for late timers: tokens that come due while
/// the bucket is full are lost, so a wake-up later than this costs throughput.
const BURST_US: u64 = 2_000;
/// Time a packet waits at most in a full queue…
const LATENCY_US: u64 = 25_000;
/// …unless that is fewer than this many full frames, the least with which TCP's fast retransmit works well.
const MIN_QUEUE_FRAMES: u64 = 32;
/// Frames in the bucket at least. With one, the bucket would be too small while a frame is on its way.
const MIN_BURST_FRAMES: u64 = 2;
/// Ethernet header and a VLAN tag.
const FRAME_OVERHEAD: u64 = 18;

const KIND: &str = "tbf";
const PARMS: u16 = 1;
const RATE64: u16 = 4;
const BURST: u16 = 6;
/// `struct tc_tbf_qopt`: two rate specifications of 12 bytes, limit, buffer, mtu.
const PARMS_LENGTH: usize = 36;
/// Offset of the bytes per second in a rate specification.
const RATE_OFFSET: usize = 8;
/// The kernel then reckons without the rate table that old versions of tc sent along.
const LINKLAYER_ETHERNET: u8 = 1;

const TC_HEADER: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const ROOT: u32 = 0xffff_ffff;

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes per second, link-layer headers included.
    pub rate: u64,
    /// Size of the bucket in bytes. Segments of a larger burst (TSO, GSO) are let through one by one.
    pub burst: u32,
    /// Bytes that may wait; more are dropped at the tail.
    pub limit: u32,
}

impl TokenBucket {
    /// The bucket for a link of this rate and MTU; `None` when the rate is not a whole number of bytes per second,
    /// which is all that the kernel can express.
    ///
    /// The bucket holds 2 ms of the rate and at least two frames; the queue 25 ms and at least 32 frames (so up to
    /// 0.4 s at 1 Mbit/s and MTU 1500).
    pub fn for_link(rate: Rate, mtu: u32) -> Option<Self> {
        let bits = rate.bits_per_second();
        if !bits.is_multiple_of(8) {
            return None;
        }
        let rate = bits / 8;
        let frame = u64::from(mtu) + FRAME_OVERHEAD;
        let within = |us: u64, frames: u64| {
            let bytes = u128::from(rate) * u128::from(us) / 1_000_000;
            // Beyond 4 GiB no larger value can be expressed; this starts at 13 Tbit/s.
            u32::try_from(bytes.max(u128::from(frames * frame))).unwrap_or(u32::MAX)
        };
        let burst = within(BURST_US, MIN_BURST_FRAMES);
        Some(Self { rate, burst, limit: burst.saturating_add(within(LATENCY_US, MIN_QUEUE_FRAMES)) })
    }

    /// Puts it on what leaves through the interface, in place of any other.
    pub fn set(&self, index: u32, interface: &str) -> Change {
        let mut message = TcMessage::with_index(index.cast_signed());
        message.header.parent = TcHandle::ROOT;
        message.header.handle = TcHandle { major: 1, minor: 0 };
        message.attributes = vec![TcAttribute::Kind(KIND.to_owned()), TcAttribute::Options(self.options())];
        Change {
            what: format!("set rate of {interface}"),
            message: RouteNetlinkMessage::NewQueueDiscipline(message),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
        }
    }

    fn options(&self) -> Vec<TcOption> {
        let mut parms = vec![0; PARMS_LENGTH];
        parms[1] = LINKLAYER_ETHERNET;
        parms[RATE_OFFSET..RATE_OFFSET + 4]
            .copy_from_slice(&u32::try_from(self.rate).unwrap_or(u32::MAX).to_ne_bytes());
        parms[24..28].copy_from_slice(&self.limit.to_ne_bytes());
        let option = |kind, value| TcOption::Other(DefaultNla::new(kind, value));
        let mut options = vec![option(PARMS, parms), option(BURST, self.burst.to_ne_bytes().to_vec())];
        if u32::try_from(self.rate).is_err() {
            options.push(option(RATE64, self.rate.to_ne_bytes().to_vec()));
        }
        options
    }
}

/// The queueing discipline at the root of an interface, as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootQdisc {
    /// Interface it belongs to.
    pub index: u32,
    /// `noqueue`, `tbf`, …
    pub kind: String,
    /// Bytes per second of a `tbf`; `None` for every other kind.
    pub rate: Option<u64>,
    /// Is it the one the kernel puts there by itself, and again when another one is removed?
    pub own: bool,
}

/// Queueing disciplines that let everything pass at once: the kernel's own choices.
pub(crate) const UNLIMITED: [&str; 5] = ["noqueue", "pfifo_fast", "fq_codel", "fq", "mq"];

impl RootQdisc {
    /// Does it let everything pass at once?
    pub fn is_unlimited(&self) -> bool {
        UNLIMITED.contains(&self.kind.as_str())
    }
}

/// Removes the root queueing discipline of an interface; the kernel puts its own one there.
pub fn remove_root(index: u32, interface: &str) -> Change {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle::ROOT;
    Change {
        what: format!("remove the queueing discipline of {interface}"),
        message: RouteNetlinkMessage::DelQueueDiscipline(message),
        flags: 0,
    }
}

/// Reads the root queueing disciplines of all interfaces of the namespace.
pub fn read_roots(netlink: &mut Netlink) -> Result<Vec<RootQdisc>, NetlinkError> {
    let what = "list the queueing disciplines";
    let listed = netlink.dump(what, &RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))?;
    listed
        .iter()
        .filter_map(|message| decode(message).transpose())
        .collect::<Result<_, _>>()
        .map_err(|source| NetlinkError { what: what.to_owned(), source })
}

/// `None` for one that is not at a root.
fn decode(message: &[u8]) -> std::io::Result<Option<RootQdisc>> {
    let word = |offset: usize| message.get(offset..offset + 4).and_then(|bytes| bytes.first_chunk().copied());
    let (Some(index), Some(handle), Some(parent)) = (word(4), word(8), word(12)) else {
        return Err(invalid("short header"));
    };
    if u32::from_ne_bytes(parent) != ROOT {
        return Ok(None);
    }
    let attributes = message.get(TC_HEADER..).unwrap_or_default();
    let kind = attribute(attributes, TCA_KIND).ok_or_else(|| invalid("queueing discipline without a kind"))?;
    let kind = String::from_utf8_lossy(kind).trim_end_matches('\0').to_owned();
    let rate = if kind == KIND { Some(rate_of(attribute(attributes, TCA_OPTIONS).unwrap_or_default())?) } else { None };
    Ok(Some(RootQdisc { index: u32::from_ne_bytes(index), kind, rate, own: u32::from_ne_bytes(handle) == 0 }))
}

fn rate_of(options: &[u8]) -> std::io::Result<u64> {
    if let Some(rate) = attribute(options, RATE64).and_then(|value| value.first_chunk()) {
        return Ok(u64::from_ne_bytes(*rate));
    }
    let parms = attribute(options, PARMS).ok_or_else(|| invalid("token bucket without parameters"))?;
    let rate = parms.get(RATE_OFFSET..).and_then(|rest| rest.first_chunk());
    rate.map(|rate| u64::from(u32::from_ne_bytes(*rate))).ok_or_else(|| invalid("token bucket without a rate"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(bits: u64, mtu: u32) -> Option<TokenBucket> {
        TokenBucket::for_link(Rate::from_bits_per_second(bits).unwrap(), mtu)
    }

    #[test]
    fn buckets_follow_the_rate_and_hold_whole_frames() {
        assert_eq!(
            bucket(1_000_000_000, 1500),
            Some(TokenBucket { rate: 125_000_000, burst: 250_000, limit: 3_375_000 })
        );
        assert_eq!(bucket(1_000_000, 1500), Some(TokenBucket { rate: 125_000, burst: 3036, limit: 3036 + 48_576 }));
        assert_eq!(bucket(1_000_000, 9000).unwrap().burst, 18_036);
        assert_eq!(bucket(1_000_001, 1500), None);
        assert_eq!(bucket(8, 1500).unwrap().rate, 1);
        assert_eq!(bucket(u64::MAX - 7, 1500).unwrap().limit, u32::MAX);
    }

    #[test]
    fn rates_survive_encoding() {
        use netlink_packet_core::Emitable as _;
        for rate in [1, 125_000_000, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX] {
            let options = TokenBucket { rate, burst: 1, limit: 1 }.options();
            let mut encoded = vec![0; options.as_slice().buffer_len()];
            options.as_slice().emit(&mut encoded);
            assert_eq!(rate_of(&encoded).unwrap(), rate);
        }
        assert!(rate_of(&[]).is_err());
    }
}
