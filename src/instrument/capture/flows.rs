//! TCP statistics while packets arrive.
//!
//! The workload needs the CPUs more than the analysis does. So the capture threads only copy what the analysis looks at into a
//! spool in memory, and for the points of each pair a thread that runs when a CPU has nothing else to do takes it from
//! there. What is left when the captures end is analysed then. When the spool is half full the capture threads analyse as
//! much as they hand over, and when it is full, more: then the ring fills, and the kernel counts what it drops. Nothing is
//! lost unseen, and memory is bounded.
//!
//! Points on other nodes send the same over (see [`Inlet`]), most of it when the workload has ended. Until then their pair waits:
//! its packets are taken in order of time.
//!
//! A fault in the analysis ends the statistics of its point and becomes a problem of the iteration; the capture goes on
//! counting.

use std::sync::Arc;

use super::{LinkType, PacketSink, place};
use crate::flow::{Beyond, BeyondOptions, Engine, Matcher, Options, Order};
use crate::packet;
use crate::testbed::{CapturePoint, CaptureSource};

mod analysed;
mod collect;
mod group;
mod inlet;
mod paths;
pub(super) mod spool;
mod work;

pub use analysed::{Analysed, Effort};
pub use inlet::Inlet;
pub(in crate::instrument) use paths::delay;

use collect::Collected;
use group::Group;
use paths::PathPoints;
use spool::{Chunk, MAX_FRAME};
use work::Running;

/// Memory that all engines of an iteration may fill with live connections, if the host has eight times as much free.
const BUDGET: u64 = 2 << 30;
/// What a live connection takes, ranges of a busy one included.
const CONNECTION_BYTES: u64 = 2048;
/// An engine follows at least so many connections at a time, and at most the second number.
const LIVE: [u64; 2] = [10_000, 2_000_000];
/// Single connections kept in an iteration, and bins of its throughput series.
const ROWS: usize = 1 << 17;
const BINS: usize = 1 << 19;
/// Memory for packets that wait for the analysis, of all points, if the host has eight times as much free.
const SPOOL: u64 = 4 << 30;
/// Packets of a path that wait to be matched: between these numbers.
const WAITING: [u64; 2] = [1 << 14, 1 << 20];
/// A point hands over its packets after this time at the latest (by the packets' time).
const HOLD_NS: i64 = 1_000_000_000;

/// What the engine of a point is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowOptions {
    /// Compute statistics at all?
    pub statistics: bool,
    /// Keep a row for each connection?
    pub connections: bool,
    /// MTU of the link; `None` when it is not known, and super-segments then cannot be told.
    pub mtu: Option<u32>,
    /// Capture points that share the host's memory and the iteration's file.
    pub points: usize,
    /// Memory of the host that is free, in bytes; `None` when not known.
    pub available: Option<u64>,
    /// Bytes of headers that a node behind an agent may hold for a point; `None` for a quarter of its free memory.
    pub hold: Option<u64>,
    /// The analysis is to fail after so many packets of a point, to see what happens then.
    pub fault_after: Option<u64>,
}

impl FlowOptions {
    /// Connections the engine of one point follows at a time.
    fn max_live(&self) -> usize {
        let budget = self.available.map_or(BUDGET / 4, |bytes| BUDGET.min(bytes / 8));
        let points = u64::try_from(self.points).unwrap_or(u64::MAX).max(1);
        let live = (budget / points / CONNECTION_BYTES).clamp(LIVE[0], LIVE[1]);
        usize::try_from(live).expect("at most two million")
    }

    fn share(&self, of: usize) -> usize {
        of / self.points.max(1)
    }

    /// Bytes that packets of one point may wait in.
    fn spool(&self) -> u64 {
        let budget = self.available.map_or(SPOOL / 8, |bytes| SPOOL.min(bytes / 8));
        let points = u64::try_from(self.points).unwrap_or(u64::MAX).max(1);
        (budget / points).max(8 * spool::CHUNK_BYTES as u64)
    }

    /// Packets of each end of a path that may wait.
    fn waiting(&self) -> usize {
        let budget = self.available.map_or(BUDGET / 8, |bytes| BUDGET.min(bytes / 16));
        let points = u64::try_from(self.points).unwrap_or(u64::MAX).max(1);
        // A point is on two paths at most, a path has two ends, and what was not found is kept a second time.
        let each = (budget / points / Matcher::PACKET_BYTES / 4).clamp(WAITING[0], WAITING[1]);
        usize::try_from(each).expect("at most a million")
    }

    fn running(&self, link: LinkType) -> Running {
        let rows = self.connections.then(|| self.share(ROWS));
        let engine = Options { order: Order::Final, max_live: self.max_live(), ..Options::default() };
        let mtu = self.mtu.unwrap_or(BeyondOptions::default().mtu);
        Running {
            engine: Engine::new(engine, Collected::new(rows)),
            beyond: Beyond::new(BeyondOptions { mtu, ..BeyondOptions::default() }),
            link: packet::LinkType(u32::from(link.0)),
            fault_after: self.fault_after,
        }
    }
}

/// Hands the packets of one capture point over to the analysis.
#[derive(Debug)]
pub struct Flows {
    place: String,
    /// Group and place in it; `None` when nothing is asked for.
    at: Option<(Arc<Group>, usize)>,
    ethernet: bool,
    chunk: Chunk,
    has_ended: bool,
    /// Its packets come from elsewhere.
    inlet: Option<Inlet>,
}

/// Gives the sinks of all points one after the other.
#[derive(Debug)]
pub struct FlowSinks {
    places: Vec<Option<(Arc<Group>, usize)>>,
    options: Vec<FlowOptions>,
    next: usize,
}

impl FlowSinks {
    /// For these points, each with its options. The points of a pair are analysed together.
    pub fn new(points: &[CapturePoint], options: &[FlowOptions]) -> Self {
        let live = |i: usize| options[i].statistics && !matches!(points[i].source, CaptureSource::Synthetic { .. });
        let mut places: Vec<Option<(Arc<Group>, usize)>> = vec![None; points.len()];
        let paths = paths::between(points);
        let mut pairs: Vec<u32> = points.iter().map(|point| point.node.pair).collect();
        pairs.sort_unstable();
        pairs.dedup();
        for pair in pairs {
            let members: Vec<usize> = (0..points.len()).filter(|&i| live(i) && points[i].node.pair == pair).collect();
            let local = |i: usize| members.iter().position(|&member| member == i);
            let inner = paths.iter().filter_map(|path| {
                Some(PathPoints { near: local(path.near)?, far: local(path.far)?, clock: path.clock })
            });
            let group = Group::new(
                members.iter().map(|&i| options[i]).collect(),
                members.iter().map(|&i| matches!(points[i].source, CaptureSource::Agent(_))).collect(),
                inner.collect(),
            );
            let group = Arc::new(group);
            for (at, &i) in members.iter().enumerate() {
                places[i] = Some((Arc::clone(&group), at));
            }
        }
        Self { places, options: options.to_vec(), next: 0 }
    }

    /// The sink of the next point.
    pub fn next(&mut self, point: &CapturePoint, link: LinkType) -> Flows {
        let at = self.places.get_mut(self.next).and_then(Option::take);
        let hold = self.options.get(self.next).and_then(|options| options.hold);
        self.next += 1;
        let mut inlet = None;
        if let Some((group, place)) = &at {
            if matches!(point.source, CaptureSource::Agent(_)) {
                inlet = Some(Inlet::new(Arc::clone(group), *place, hold));
            } else {
                group.open(*place, link);
            }
        }
        Flows { place: place(point), at, ethernet: link.0 == 1, chunk: Chunk::default(), has_ended: false, inlet }
    }
}

impl Flows {
    fn hand_over(&mut self) {
        let Some((group, point)) = &self.at else { return };
        let packets = self.chunk.packets();
        if packets > 0 {
            self.chunk = group.spool.push(*point, std::mem::take(&mut self.chunk));
            group.keep_up(packets);
        }
    }
}

impl PacketSink for Flows {
    #[inline]
    fn packet(&mut self, at_ns: i64, wire_len: u32, data: &[u8]) {
        if self.at.is_none() {
            return;
        }
        let data = &data[..data.len().min(MAX_FRAME)];
        let kept = &data[..spool::needed(self.ethernet, data)];
        if !self.chunk.has_room(kept.len()) || self.chunk.first_ns().is_some_and(|first| at_ns - first > HOLD_NS) {
            self.hand_over();
        }
        self.chunk.push(at_ns, wire_len, data.len(), kept);
    }

    fn idle(&mut self) {
        self.hand_over();
    }

    fn inlet(&mut self) -> Option<Inlet> {
        self.inlet.take()
    }

    fn end(&mut self) {
        self.hand_over();
        self.has_ended = true;
        if let Some((group, point)) = &self.at {
            group.spool.end(*point);
        }
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        if let Some((group, point)) = &self.at {
            group.spool.end(*point);
            group.end_idle();
        }
    }
}

#[cfg(test)]
mod tests;
