//! What the kernel counts of interfaces and their queueing disciplines.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::tc::TcMessage;

use super::netlink::{Netlink, NetlinkError, attribute, invalid};

const LINK_HEADER: usize = 16;
const LINK_NAME: u16 = 3;
const LINK_STATISTICS: u16 = 23;

/// Fields of `struct rtnl_link_stats64` in their order. Source: Linux `include/uapi/linux/if_link.h`; kernels before 6.0
/// have one fewer.
pub const LINK_COUNTERS: [&str; 25] = [
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
    "multicast",
    "collisions",
    "rx_length_errors",
    "rx_over_errors",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_fifo_errors",
    "rx_missed_errors",
    "tx_aborted_errors",
    "tx_carrier_errors",
    "tx_fifo_errors",
    "tx_heartbeat_errors",
    "tx_window_errors",
    "rx_compressed",
    "tx_compressed",
    "rx_nohandler",
    "rx_otherhost_dropped",
];

/// Counters of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatistics {
    /// Number of the interface.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// As many of [`LINK_COUNTERS`] as the kernel gives.
    pub counters: Vec<u64>,
}

/// Counters of one queueing discipline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QdiscStatistics {
    /// Number of its interface.
    pub index: u32,
    /// `fq_codel`, `tbf`.
    pub kind: String,
    /// `0x8001_0000` is 8001:.
    pub handle: u32,
    /// The class that it is attached to; `0xffff_ffff` is the root. Of two without a handle only this differs.
    pub parent: u32,
    /// Is it at the root of what leaves?
    pub root: bool,
    /// Bytes that left it.
    pub bytes: u64,
    /// Packets that left it; before Linux 5.5 of 32 bits.
    pub packets: u64,
    /// Packets that wait now.
    pub queued: u32,
    /// Bytes that wait now.
    pub backlog: u32,
    /// Packets dropped.
    pub drops: u32,
    /// Packets put back.
    pub requeues: u32,
    /// Times a limit was reached.
    pub overlimits: u32,
}

/// Counters of all interfaces of the namespace.
pub fn links(netlink: &mut Netlink) -> Result<Vec<LinkStatistics>, NetlinkError> {
    let what = "list the counters of the interfaces";
    let listed = netlink.dump(what, &RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let decoded = listed.iter().map(|message| decode_link(message));
    decoded.collect::<io::Result<_>>().map_err(|source| NetlinkError { what: what.to_owned(), source })
}

/// Counters of all queueing disciplines of the namespace, in the order in which the kernel lists them.
pub fn qdiscs(netlink: &mut Netlink) -> Result<Vec<QdiscStatistics>, NetlinkError> {
    let what = "list the counters of the queueing disciplines";
    let listed = netlink.dump(what, &RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))?;
    let decoded = listed.iter().map(|message| decode_qdisc(message));
    decoded.collect::<io::Result<_>>().map_err(|source| NetlinkError { what: what.to_owned(), source })
}

fn decode_link(message: &[u8]) -> io::Result<LinkStatistics> {
    let index = word(message, 4).ok_or_else(|| invalid("short header"))?;
    let attributes = message.get(LINK_HEADER..).unwrap_or_default();
    let name = attribute(attributes, LINK_NAME).ok_or_else(|| invalid("interface without a name"))?;
    let counters = attribute(attributes, LINK_STATISTICS).ok_or_else(|| invalid("interface without counters"))?;
    let counters = counters.as_chunks::<8>().0.iter().take(LINK_COUNTERS.len()).map(|bytes| u64::from_ne_bytes(*bytes));
    Ok(LinkStatistics { index, name: text(name), counters: counters.collect() })
}

fn decode_qdisc(message: &[u8]) -> io::Result<QdiscStatistics> {
    const HEADER: usize = 20;
    const KIND: u16 = 1;
    const STATISTICS: u16 = 7;
    const BASIC: u16 = 1;
    const QUEUE: u16 = 3;
    const PACKETS: u16 = 8;
    const ROOT: u32 = 0xffff_ffff;
    let short = || invalid("short header");
    let (index, handle) = (word(message, 4), word(message, 8));
    let parent = word(message, 12).ok_or_else(short)?;
    let attributes = message.get(HEADER..).unwrap_or_default();
    let kind = attribute(attributes, KIND).ok_or_else(|| invalid("queueing discipline without a kind"))?;
    let statistics =
        attribute(attributes, STATISTICS).ok_or_else(|| invalid("queueing discipline without counters"))?;
    let basic = attribute(statistics, BASIC).ok_or_else(|| invalid("queueing discipline without bytes"))?;
    let queue = attribute(statistics, QUEUE).ok_or_else(|| invalid("queueing discipline without a queue"))?;
    let packets = attribute(statistics, PACKETS).and_then(|bytes| long(bytes, 0));
    let of_queue = |place: usize| word(queue, 4 * place).ok_or_else(|| invalid("short queue"));
    Ok(QdiscStatistics {
        index: index.ok_or_else(short)?,
        kind: text(kind),
        handle: handle.ok_or_else(short)?,
        parent,
        root: parent == ROOT,
        bytes: long(basic, 0).ok_or_else(|| invalid("short counters"))?,
        packets: match packets {
            Some(packets) => packets,
            None => word(basic, 8).map(u64::from).ok_or_else(|| invalid("short counters"))?,
        },
        queued: of_queue(0)?,
        backlog: of_queue(1)?,
        drops: of_queue(2)?,
        requeues: of_queue(3)?,
        overlimits: of_queue(4)?,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_ne_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u64::from_ne_bytes(*bytes))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn qdisc(packets64: Option<u64>) -> Vec<u8> {
        let mut message = vec![0; 4];
        [3_u32, 0x8001_0000, 0xffff_ffff, 0].iter().for_each(|word| message.extend(word.to_ne_bytes()));
        message.extend(nla(1, b"tbf\0"));
        let mut basic = 7_000_000_000_u64.to_ne_bytes().to_vec();
        basic.extend(5_u32.to_ne_bytes());
        basic.extend([0; 4]);
        let queue: Vec<u8> = [1_u32, 2, 3, 4, 5].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut statistics = [nla(1, &basic), nla(3, &queue)].concat();
        statistics.extend(packets64.iter().flat_map(|packets| nla(8, &packets.to_ne_bytes())));
        message.extend(nla(7, &statistics));
        message
    }

    #[test]
    fn queueing_disciplines_are_decoded() {
        let read = decode_qdisc(&qdisc(None)).unwrap();
        assert_eq!((read.index, read.kind.as_str(), read.root, read.bytes), (3, "tbf", true, 7_000_000_000));
        assert_eq!((read.packets, read.queued, read.backlog, read.drops), (5, 1, 2, 3));
        assert_eq!((read.requeues, read.overlimits), (4, 5));
        assert_eq!(decode_qdisc(&qdisc(Some(1 << 40))).unwrap().packets, 1 << 40);
    }

    #[test]
    fn messages_that_are_cut_short_are_errors() {
        let whole = qdisc(None);
        for length in 0..whole.len() {
            assert!(decode_qdisc(&whole[..length]).is_err(), "{length}");
            let _ = decode_link(&whole[..length]);
        }
    }

    #[test]
    fn interfaces_of_this_namespace_have_counters() {
        let all = links(&mut Netlink::open().unwrap()).unwrap();
        let lo = all.iter().find(|link| link.name == "lo").unwrap();
        assert!(lo.counters.len() >= 23);
        assert_eq!(lo.counters[0], lo.counters[1], "what lo sends it receives");
    }
}
