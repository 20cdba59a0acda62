//! What a capture point's packets say about TCP.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::exact;
use crate::ids::Direction;

/// TCP as one capture point saw it, all connections together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tcp {
    /// Connections of which at least one packet was seen.
    pub connections: u64,
    /// Of these, those that both ends opened and closed (SYN and FIN in both directions).
    pub complete: u64,
    /// Of these, those with a RST in either direction.
    pub reset: u64,
    /// Connections that the analysis ended for want of memory; what came of them later counts as another connection.
    pub ended_early: u64,
    /// Sum over connections of the time between first and last packet.
    pub duration_ns: u64,
    /// Packets that belong to a connection.
    pub packets: u64,
    /// Time of the first of them, nanoseconds since 1970-01-01 UTC; `None` without any.
    pub first_ns: Option<i64>,
    /// MTU of the link, which tells super-segments; `None` when it is not known.
    pub mtu: Option<u32>,
    /// a2b and b2a.
    pub directions: [TcpDirection; 2],
    /// The distribution over connections of each statistic, in the order of the statistics, a2b before b2a.
    pub statistics: Vec<ConnectionStatistic>,
    /// Length of the bins of `series` in milliseconds.
    pub bin_ms: u32,
    /// Throughput over time, ascending by direction and time; empty bins are left out.
    pub series: Vec<SeriesBin>,
    /// Silences of connections that had octets outstanding: how many.
    pub stalls: u64,
    /// Their sum.
    pub stalled_ns: u64,
    /// The longest; `None` without any.
    pub longest_stall_ns: Option<u64>,
    /// The first of them.
    pub first_stalls: Vec<Stall>,
    /// Single connections in order of their numbers; empty unless the spec asks for them.
    pub rows: Vec<Connection>,
}

/// How payload is cut into packets, one direction of all connections.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TcpDirection {
    /// TCP packets.
    pub packets: u64,
    /// Packets with payload.
    pub data_packets: u64,
    /// Their payload in bytes.
    pub data_bytes: u64,
    /// Longest IP packet in bytes; `None` without any.
    pub longest: Option<u32>,
    /// Packets with payload that are longer than the MTU: not yet cut (TSO, GSO) or already joined (GRO, LRO) where they were
    /// captured; `None` where the MTU is not known.
    pub super_segments: Option<u64>,
    /// Their payload in bytes.
    pub super_bytes: Option<u64>,
    /// Packets that this payload fills on the link, at least.
    pub super_on_wire: Option<u64>,
    /// Packets too far from the first one to be in `series`.
    pub unbinned: u64,
}

/// The distribution of a statistic over the connections of one capture point.
///
/// Connections without a value (no RTT sample, say) do not count. Quantiles are by nearest rank; beyond 128 connections they
/// are at most 0.39 % too near to zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectionStatistic {
    /// In which direction.
    pub direction: Direction,
    /// tcptrace's column name.
    pub name: String,
    /// Unit of the values: `1`, `B`, `s`, `ms`, `B/s`.
    pub unit: String,
    /// Connections with a value.
    pub count: u64,
    /// Sum of the values; `None` without any.
    #[serde(with = "exact::option")]
    pub sum: Option<f64>,
    /// Arithmetic mean; `None` without values.
    #[serde(with = "exact::option")]
    pub mean: Option<f64>,
    /// Sample standard deviation; `None` below two values.
    #[serde(with = "exact::option")]
    pub sd: Option<f64>,
    /// Smallest value; `None` without values, as for all that follow.
    #[serde(with = "exact::option")]
    pub min: Option<f64>,
    /// 5 % quantile.
    #[serde(with = "exact::option")]
    pub p5: Option<f64>,
    /// 25 % quantile.
    #[serde(with = "exact::option")]
    pub p25: Option<f64>,
    /// Median.
    #[serde(with = "exact::option")]
    pub median: Option<f64>,
    /// 75 % quantile.
    #[serde(with = "exact::option")]
    pub p75: Option<f64>,
    /// 95 % quantile.
    #[serde(with = "exact::option")]
    pub p95: Option<f64>,
    /// 99 % quantile.
    #[serde(with = "exact::option")]
    pub p99: Option<f64>,
    /// Largest value.
    #[serde(with = "exact::option")]
    pub max: Option<f64>,
    /// The whole distribution, to merge with others (`flow::Sketch`); `None` where all values are equal: then it is `count`
    /// times `min`.
    pub sketch: Option<Vec<u8>>,
}

/// What one direction carried in one stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesBin {
    /// Which direction.
    pub direction: Direction,
    /// Its beginning, in milliseconds from [`Tcp::first_ns`]; negative where time stamps went back.
    pub at_ms: i64,
    /// TCP packets.
    pub packets: u64,
    /// TCP payload in bytes, retransmissions included.
    pub bytes: u64,
}

/// A silence of a connection that had octets outstanding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    /// Number of the connection.
    pub connection: u64,
    /// Its last packet before, nanoseconds since 1970-01-01 UTC; `None` outside the years 1677 to 2262.
    pub from_ns: Option<i64>,
    /// How long.
    pub duration_ns: u64,
    /// Direction of the packet that ended it; `None` when the capture ended before the silence did.
    pub ended_by: Option<Direction>,
}

/// A single connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// From 1, in order of first packets.
    pub number: u64,
    /// Address and port of the sender of the first packet.
    pub a: (IpAddr, u16),
    /// Address and port of the other end.
    pub b: (IpAddr, u16),
    /// Its first packet, nanoseconds since 1970-01-01 UTC; `None` outside the years 1677 to 2262.
    pub first_ns: Option<i64>,
    /// Its last packet; `None` as for `first_ns`.
    pub last_ns: Option<i64>,
    /// Did both ends open and close it?
    pub complete: bool,
    /// Was it reset?
    pub reset: bool,
    /// a2b and b2a: a value for each of `flow::STATISTICS`, flags as 0 and 1; `None` where there is none.
    #[serde(with = "exact::values")]
    pub values: [Vec<Option<f64>>; 2],
}
