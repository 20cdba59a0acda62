//! A finished connection, as it is handed out.

use std::fmt;
use std::net::IpAddr;

use crate::packet::{Endpoint, Time};

use super::direction::Direction;
use super::ledger::gap;
use super::visit::{Loader, Visit, Writer};

/// Which way a packet or statistic goes; `a` sent the connection's first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// From `a` to `b`.
    AToB,
    /// From `b` to `a`.
    BToA,
}

impl Way {
    /// Both.
    pub const ALL: [Self; 2] = [Self::AToB, Self::BToA];

    /// `a2b` or `b2a`, as in tcptrace's column names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AToB => "a2b",
            Self::BToA => "b2a",
        }
    }

    /// 0 or 1.
    pub const fn index(self) -> usize {
        match self {
            Self::AToB => 0,
            Self::BToA => 1,
        }
    }

    /// The opposite way.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::AToB => Self::BToA,
            Self::BToA => Self::AToB,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One TCP connection with all that was counted. Nothing changes in it any more.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Connection {
    /// From 1, in order of first packets.
    pub number: u64,
    /// Is it IPv6?
    pub v6: bool,
    /// Sender of the first packet.
    pub a: Endpoint,
    /// The other end.
    pub b: Endpoint,
    /// When the first packet was captured.
    pub first: Time,
    /// When the last packet was captured.
    pub last: Time,
    /// a2b, b2a.
    pub directions: [Direction; 2],
}

impl Connection {
    /// One of its directions.
    pub const fn direction(&self, way: Way) -> &Direction {
        &self.directions[way.index()]
    }

    /// Address of `a`.
    pub fn address_a(&self) -> IpAddr {
        address(self.a, self.v6)
    }

    /// Address of `b`.
    pub fn address_b(&self) -> IpAddr {
        address(self.b, self.v6)
    }

    /// Did both ends open and close it?
    pub fn is_complete(&self) -> bool {
        self.directions.iter().all(Direction::opened_and_closed)
    }

    /// Was it reset?
    pub fn is_reset(&self) -> bool {
        self.directions.iter().any(|direction| direction.resets > 0)
    }

    /// Microseconds between its first and last packet; 0 when the clock ran backwards.
    pub fn duration_micros(&self) -> u64 {
        gap(self.first.micros(), self.last.micros())
    }

    /// Has it ended, so that silence after it does not count as idle time?
    pub(super) fn has_ended(&self) -> bool {
        self.is_reset() || self.directions.iter().all(|direction| direction.fins > 0)
    }

    /// The capture ended at `last_record`: silence until then is idle time of a connection that had not ended.
    pub(super) fn close(&mut self, last_record: Time) {
        if self.has_ended() {
            return;
        }
        for direction in &mut self.directions {
            if direction.last_sent != 0 {
                direction.idle = direction.idle.max(gap(direction.last_sent, last_record.micros()));
            }
        }
    }

    /// Stores it in few bytes.
    pub(super) fn pack(&mut self) -> Box<[u8]> {
        let mut bytes = Vec::with_capacity(256);
        self.visit(&mut Writer(&mut bytes));
        bytes.into_boxed_slice()
    }

    /// The inverse of [`Self::pack`].
    pub(super) fn unpack(bytes: &[u8]) -> Self {
        let mut connection = Self::default();
        connection.visit(&mut Loader(bytes));
        connection
    }

    fn visit(&mut self, v: &mut impl Visit) {
        v.u64(&mut self.number);
        v.bool(&mut self.v6);
        [&mut self.a, &mut self.b].into_iter().for_each(|end| v.endpoint(end));
        [&mut self.first, &mut self.last].into_iter().for_each(|time| v.time(time));
        for direction in &mut self.directions {
            direction.visit(v);
        }
    }
}

fn address(end: Endpoint, v6: bool) -> IpAddr {
    if v6 { IpAddr::V6(end.address_v6()) } else { IpAddr::V4(end.address_v4()) }
}
