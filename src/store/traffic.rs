//! What captures saw, put together over the iterations of each group, for figures.
//!
//! Each iteration counts once: pairs are added up within it, and shares are averaged over iterations.

use std::collections::BTreeMap;

use super::decode::{self, IterationRow};
use super::decode_tcp;
use super::error::StoreError;
use super::query::{Database, role};
use super::raw::Row;
use super::repeat::Again;
use super::scan::Visitor;
use super::schema::TableId;
use crate::ids::{Direction, Vantage};
use crate::record::Header;

/// Bins of a series at most; beyond, neighbours are joined.
const MOST_BINS: usize = 240;
/// Iterations of each group whose own lines are kept.
const MOST_LINES: usize = 8;
/// Stalls of each group that are kept.
const MOST_STALLS: usize = 300;

/// Where packets were captured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CapturePlace {
    /// Kind of node whose traffic it is.
    pub role: String,
    /// Where it was taken.
    pub vantage: Vantage,
}

/// What the captures of one place saw in the iterations of one group.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// Iterations with a capture there.
    pub iterations: u32,
    /// Mean share of the packets in each bin of sizes (from, to; `None` for the open last one), of iterations that saw any.
    pub sizes: BTreeMap<(u32, Option<u32>), f64>,
    /// Iterations that saw any packet.
    pub sized: u32,
    /// a2b and b2a.
    pub directions: [Flow; 2],
    /// Iterations with an analysis of TCP.
    pub analysed: u32,
    /// Stalls of all iterations.
    pub stalls: u64,
    /// The first of them: seconds after the capture's first packet, and how long they lasted.
    pub first_stalls: Vec<(f64, f64)>,
}

/// One direction.
#[derive(Debug, Clone, Default)]
pub struct Flow {
    /// Sum over iterations of payload bytes per packet with payload.
    pub payload_per_packet: Mean,
    /// Of the share of the payload that was in super-segments.
    pub super_share: Mean,
    /// The longest packet of any iteration in bytes; `None` without any.
    pub longest: Option<u32>,
    /// Payload over time.
    pub series: Series,
}

/// A mean under way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mean {
    /// Sum.
    pub sum: f64,
    /// Of how many.
    pub n: u32,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.n += 1;
    }

    fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.n += other.n;
    }

    /// `None` of nothing.
    pub fn get(self) -> Option<f64> {
        (self.n > 0).then(|| self.sum / f64::from(self.n))
    }
}

/// Payload over time, from the first packet of each capture.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Length of a bin in milliseconds; 0 of nothing.
    pub bin_ms: u32,
    /// Sum over iterations of bytes in each bin.
    pub bytes: Vec<f64>,
    /// Iterations in the sum.
    pub iterations: u32,
    /// The first iterations by themselves: their number, and bytes in each bin.
    pub lines: Vec<(u32, Vec<f64>)>,
}

impl Series {
    fn add(&mut self, bin_ms: u32, number: u32, points: &[(i64, f64)]) {
        if points.is_empty() || bin_ms == 0 {
            return;
        }
        if self.bin_ms == 0 {
            self.bin_ms = bin_ms;
        }
        // Octets of a wide bin belong into no narrow one.
        while self.bin_ms < bin_ms && self.bin_ms < u32::MAX / 2 {
            self.halve();
        }
        self.iterations += 1;
        let last = points.iter().map(|p| p.0).max().unwrap_or(0).max(0);
        let bin = |ms: i64, bin_ms: u32| usize::try_from(ms / i64::from(bin_ms)).unwrap_or(0);
        while bin(last, self.bin_ms) >= MOST_BINS && self.bin_ms < u32::MAX / 2 {
            self.halve();
        }
        let at = |ms: i64| bin(ms, self.bin_ms).min(MOST_BINS - 1);
        let mut line = vec![0.0; at(last) + 1];
        for &(ms, bytes) in points {
            line[at(ms)] += bytes;
        }
        add_up(&mut self.bytes, &line);
        if self.lines.len() < MOST_LINES {
            self.lines.push((number, line));
        }
    }

    fn halve(&mut self) {
        self.bin_ms *= 2;
        let join = |line: &mut Vec<f64>| *line = line.chunks(2).map(|pair| pair.iter().sum()).collect();
        join(&mut self.bytes);
        self.lines.iter_mut().for_each(|(_, line)| join(line));
    }

    fn merge(&mut self, mut other: Self) {
        if other.iterations == 0 {
            return;
        }
        if self.iterations == 0 {
            *self = other;
            return;
        }
        // All begin with bins of one length, so that doubling makes them equal; what does not fit is left out.
        while self.bin_ms < other.bin_ms && self.bin_ms < u32::MAX / 2 {
            self.halve();
        }
        while other.bin_ms < self.bin_ms && other.bin_ms < u32::MAX / 2 {
            other.halve();
        }
        if self.bin_ms != other.bin_ms {
            return;
        }
        self.iterations += other.iterations;
        add_up(&mut self.bytes, &other.bytes);
        let free = MOST_LINES.saturating_sub(self.lines.len());
        self.lines.extend(other.lines.into_iter().take(free));
    }
}

fn add_up(sum: &mut Vec<f64>, line: &[f64]) {
    if sum.len() < line.len() {
        sum.resize(line.len(), 0.0);
    }
    sum.iter_mut().zip(line).for_each(|(sum, x)| *sum += x);
}

impl Traffic {
    fn merge(&mut self, other: Self) {
        self.iterations += other.iterations;
        for (bin, share) in other.sizes {
            *self.sizes.entry(bin).or_default() += share;
        }
        self.sized += other.sized;
        self.analysed += other.analysed;
        self.stalls += other.stalls;
        let free = MOST_STALLS.saturating_sub(self.first_stalls.len());
        self.first_stalls.extend(other.first_stalls.into_iter().take(free));
        for (ours, theirs) in self.directions.iter_mut().zip(other.directions) {
            ours.payload_per_packet.merge(theirs.payload_per_packet);
            ours.super_share.merge(theirs.super_share);
            ours.longest = ours.longest.max(theirs.longest);
            ours.series.merge(theirs.series);
        }
    }
}

type All = BTreeMap<CapturePlace, Vec<Traffic>>;

/// Puts an iteration in its group; `None` for one that does not count.
type GroupOf<'a> = &'a (dyn Fn(&Header) -> Option<usize> + Sync);

/// Data packets of one direction in the current iteration.
#[derive(Default)]
struct Data {
    packets: f64,
    bytes: f64,
    super_bytes: f64,
    /// Did one of several captures not know what a super-segment is?
    super_unknown: bool,
}

/// One place of the current iteration.
#[derive(Default)]
struct Now {
    sizes: BTreeMap<(u32, Option<u32>), f64>,
    packets: f64,
    data: [Data; 2],
    longest: [Option<u32>; 2],
    analysed: bool,
    bin_ms: u32,
    series: [Vec<(i64, f64)>; 2],
    stalls: u64,
    first_stalls: Vec<(f64, f64)>,
}

struct Observer<'a> {
    group_of: GroupOf<'a>,
    all: All,
    groups: usize,
    group: Option<usize>,
    number: u32,
    places: Vec<CapturePlace>,
    first_ns: Vec<Option<i64>>,
    now: BTreeMap<CapturePlace, Now>,
}

impl Observer<'_> {
    fn at(&mut self, capture: usize) -> Result<&mut Now, String> {
        let place = self.places.get(capture).ok_or_else(|| format!("capture {capture} does not exist"))?;
        if !self.now.contains_key(place) {
            self.now.insert(place.clone(), Now::default());
        }
        Ok(self.now.get_mut(place).expect("it is there now"))
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of packets and bytes, for figures")]
    fn take(&mut self, table: TableId, row: &Row<'_>) -> Result<(), String> {
        match table {
            TableId::Capture => {
                let capture = decode::capture(row)?;
                let place =
                    CapturePlace { role: role(Some(capture.node)).unwrap_or_default(), vantage: capture.vantage };
                self.places.push(place);
                self.first_ns.push(None);
                self.at(self.places.len() - 1)?;
            }
            TableId::CaptureSize => {
                let (capture, bin) = decode::capture_size(row)?;
                let now = self.at(capture)?;
                *now.sizes.entry((bin.from, bin.to)).or_default() += bin.packets as f64;
                now.packets += bin.packets as f64;
            }
            TableId::Tcp => {
                let (capture, tcp) = decode_tcp::tcp(row)?;
                let now = self.at(capture)?;
                now.analysed = true;
                now.bin_ms = now.bin_ms.max(tcp.bin_ms);
                now.stalls += tcp.stalls;
                self.first_ns[capture] = tcp.first_ns;
            }
            TableId::TcpDirection => {
                let (capture, (direction, d)) = decode_tcp::direction(row)?;
                let (now, i) = (self.at(capture)?, index(direction));
                let data = &mut now.data[i];
                data.packets += d.data_packets as f64;
                data.bytes += d.data_bytes as f64;
                match d.super_bytes {
                    Some(bytes) => data.super_bytes += bytes as f64,
                    None => data.super_unknown = true,
                }
                now.longest[i] = now.longest[i].max(d.longest);
            }
            TableId::TcpSeries => {
                let (capture, bin) = decode_tcp::series(row)?;
                self.at(capture)?.series[index(bin.direction)].push((bin.at_ms, bin.bytes as f64));
            }
            TableId::TcpStall => {
                let (capture, stall) = decode_tcp::stall(row)?;
                let first = self.first_ns.get(capture).copied().flatten();
                let now = self.at(capture)?;
                if let Some(from) = stall.from_ns.zip(first).and_then(|(from, first)| from.checked_sub(first))
                    && now.first_stalls.len() < MOST_STALLS
                {
                    now.first_stalls.push((from as f64 / 1e9, stall.duration_ns as f64 / 1e9));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self, group: usize) {
        for (place, now) in std::mem::take(&mut self.now) {
            let groups = self.groups;
            let into = &mut self.all.entry(place).or_insert_with(|| vec![Traffic::default(); groups])[group];
            into.iterations += 1;
            if now.packets > 0.0 {
                into.sized += 1;
                for (bin, packets) in now.sizes {
                    *into.sizes.entry(bin).or_default() += packets / now.packets;
                }
            }
            if !now.analysed {
                continue;
            }
            into.analysed += 1;
            into.stalls += now.stalls;
            let free = MOST_STALLS.saturating_sub(into.first_stalls.len());
            into.first_stalls.extend(now.first_stalls.into_iter().take(free));
            for (i, flow) in into.directions.iter_mut().enumerate() {
                let data = &now.data[i];
                if data.packets > 0.0 {
                    flow.payload_per_packet.add(data.bytes / data.packets);
                }
                if !data.super_unknown && data.bytes > 0.0 {
                    flow.super_share.add(data.super_bytes / data.bytes);
                }
                flow.longest = flow.longest.max(now.longest[i]);
                flow.series.add(now.bin_ms, self.number, &now.series[i]);
            }
        }
    }
}

const fn index(direction: Direction) -> usize {
    match direction {
        Direction::AToB => 0,
        Direction::BToA => 1,
    }
}

impl Visitor for Observer<'_> {
    fn begin(&mut self, head: IterationRow) -> Result<(), String> {
        self.group = (self.group_of)(&head.header).filter(|&group| group < self.groups);
        self.number = head.header.number.0;
        self.places.clear();
        self.first_ns.clear();
        self.now.clear();
        Ok(())
    }

    fn row(&mut self, table: TableId, row: &Row<'_>) -> Result<Again, String> {
        if self.group.is_some() {
            self.take(table, row)?;
        }
        Ok(Again::Row)
    }

    fn end(&mut self) -> Result<(), String> {
        if let Some(group) = self.group {
            self.close(group);
        }
        Ok(())
    }
}

impl Database {
    /// What was captured at each place, for each of `groups` groups, into which `group_of` puts the attempts that count.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the content of any iteration does not match its SHA-256.
    pub fn traffic(&self, groups: usize, group_of: GroupOf<'_>) -> Result<All, StoreError> {
        let tables = [
            TableId::Capture,
            TableId::CaptureSize,
            TableId::Tcp,
            TableId::TcpDirection,
            TableId::TcpSeries,
            TableId::TcpStall,
        ];
        let make = || Observer {
            group_of,
            all: All::new(),
            groups,
            group: None,
            number: 0,
            places: Vec::new(),
            first_ns: Vec::new(),
            now: BTreeMap::new(),
        };
        let mut all = All::new();
        for part in self.file.scan(&tables, make)? {
            for (place, found) in part.all {
                let into = all.entry(place).or_insert_with(|| vec![Traffic::default(); groups]);
                into.iter_mut().zip(found).for_each(|(into, found)| into.merge(found));
            }
        }
        all.values_mut().flatten().for_each(|traffic| {
            let n = f64::from(traffic.sized.max(1));
            traffic.sizes.values_mut().for_each(|share| *share /= n);
        });
        Ok(all)
    }

    /// Were system calls followed in any attempt?
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn has_traces(&self) -> Result<bool, StoreError> {
        Ok(super::reader::TableCursor::new(&self.file, TableId::SyscallTrace)?.current.is_some())
    }
}
