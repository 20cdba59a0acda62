//! TCP statistics while packets arrive.
//!
//! The workload needs the CPUs more than the analysis does. So the capture threads only copy what the analysis looks at into a
//! spool in memory, and for the points of each pair a thread that runs when a CPU has nothing else to do takes it from
//! there. What is left when the captures end is analysed then. When the spool is half full the capture threads analyse as
//! much as they hand over, and when it is full, more: then the ring fills, and the kernel counts what it drops. Nothing is
//! lost unseen, and memory is bounded.
//!
//! A fault in the analysis ends the statistics of its point and becomes a problem of the iteration; the capture goes on
//! counting.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

use super::{LinkType, PacketSink, Stopped, place, thread};
use crate::flow::{Beyond, BeyondOptions, Engine, Matched, Matcher, Options, Order};
use crate::packet;
use crate::record::{Capture, PathMatch, Problem, Tcp, Weight};
use crate::testbed::{CapturePoint, CaptureSource};

mod collect;
mod paths;
mod spool;
mod work;

use collect::{Collected, assemble};
use paths::{PathPoints, Whole};
use spool::{Chunk, Level, MAX_FRAME, Spool};
use work::{Pace, Running, State, Work};

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
/// Packets analysed between two looks at what else is to be done.
const QUANTUM: usize = 1024;
/// A point hands over its packets after this time at the latest (by the packets' time).
const HOLD_NS: i64 = 1_000_000_000;
/// The idle thread waits so long when there is nothing to do.
const REST: Duration = Duration::from_millis(100);
/// And so long when somebody else wants the CPU.
const YIELD: Duration = Duration::from_millis(50);

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

/// Points that are analysed together.
#[derive(Debug)]
struct Group {
    spool: Spool,
    options: Vec<FlowOptions>,
    /// Paths between its points, by their places in the group.
    paths: Vec<PathPoints>,
    /// Link layers as they become known.
    links: Vec<OnceLock<LinkType>>,
    /// Begins when all links are known.
    work: OnceLock<Mutex<Work>>,
    /// The thread that works when a CPU is idle, and whether it is to end.
    idle: Mutex<Option<JoinHandle<()>>>,
    stop: AtomicBool,
    /// Packets analysed by the idle thread, and by capture threads.
    analysed: [AtomicU64; 2],
}

impl Group {
    fn new(options: Vec<FlowOptions>, paths: Vec<PathPoints>) -> Self {
        let limit = options.iter().map(FlowOptions::spool).sum();
        Self {
            spool: Spool::new(options.len(), limit),
            links: options.iter().map(|_| OnceLock::new()).collect(),
            options,
            paths,
            work: OnceLock::new(),
            idle: Mutex::new(None),
            stop: AtomicBool::new(false),
            analysed: Default::default(),
        }
    }

    /// A point is open. With the last one the work begins.
    fn open(self: &Arc<Self>, point: usize, link: LinkType) {
        // Each point opens once.
        let _ = self.links[point].set(link);
        let links: Option<Vec<LinkType>> = self.links.iter().map(|link| link.get().copied()).collect();
        let Some(links) = links else { return };
        let engines = self.options.iter().zip(links).map(|(options, link)| options.running(link)).collect();
        let matcher =
            |path: &PathPoints| ([path.near, path.far], Matcher::new(self.options[path.near].waiting(), path.clock));
        let work = Work::new(engines, self.paths.iter().map(matcher).collect());
        if self.work.set(Mutex::new(work)).is_ok() {
            let group = Arc::clone(self);
            let named = std::thread::Builder::new().name("analysis".to_owned());
            match named.spawn(move || group.work_when_idle()) {
                Ok(thread) => *self.idle() = Some(thread),
                Err(error) => tracing::warn!("no thread for the analysis, it will wait for the end: {error}"),
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) -> Option<MutexGuard<'_, Work>> {
        Some(self.work.get()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn work_when_idle(&self) {
        if let Err(error) = crate::host::priority::only_when_idle() {
            return tracing::warn!("the priority of the analysis cannot be lowered, it will wait for the end: {error}");
        }
        while !self.stop.load(Ordering::Relaxed) {
            let before = preempted();
            // Who holds up the others must not be one who waits for them.
            let done = match self.spool.level() {
                Level::Low => self.work().map_or(0, |mut work| work.step(&self.spool, QUANTUM, Pace::Ordered)),
                Level::High | Level::Full => 0,
            };
            self.analysed[0].fetch_add(done as u64, Ordering::Relaxed);
            if done == 0 {
                std::thread::park_timeout(REST);
            } else if preempted() != before {
                std::thread::park_timeout(YIELD);
            }
        }
    }

    /// A capture thread has handed over so many packets.
    fn keep_up(&self, packets: usize) {
        let mut done = 0;
        if self.spool.level() == Level::High
            && let Some(work) = self.work.get()
            && let Ok(mut work) = work.try_lock()
        {
            done += work.step(&self.spool, 2 * packets, Pace::Ordered);
        }
        while self.spool.level() == Level::Full {
            self.spool.was_full.store(true, Ordering::Relaxed);
            let Some(mut work) = self.work() else { break };
            let ordered = work.step(&self.spool, QUANTUM, Pace::Ordered);
            let forced = if ordered == 0 { work.step(&self.spool, QUANTUM, Pace::Forced) } else { 0 };
            done += ordered + forced;
            if ordered + forced == 0 {
                break;
            }
        }
        self.analysed[1].fetch_add(done as u64, Ordering::Relaxed);
    }

    /// Ends the idle thread.
    fn end_idle(&self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.idle().as_ref() {
            thread.thread().unpark();
        }
    }

    /// Analyses what is left, on this thread, and says how much it was.
    fn drain(&self) -> u64 {
        self.end_idle();
        let thread = self.idle().take();
        if let Some(Err(panic)) = thread.map(JoinHandle::join) {
            tracing::warn!("the analysis thread died: {}", thread::panic_text(panic.as_ref()));
        }
        let Some(mut work) = self.work() else { return 0 };
        let mut left = 0;
        loop {
            match work.step(&self.spool, QUANTUM, Pace::Forced) {
                0 => return left,
                done => left += done as u64,
            }
        }
    }
}

/// How often somebody else took the CPU from this thread.
fn preempted() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches())
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
}

/// Gives the sinks of all points one after the other.
#[derive(Debug)]
pub struct FlowSinks {
    places: Vec<Option<(Arc<Group>, usize)>>,
    next: usize,
}

impl FlowSinks {
    /// For these points, each with its options. The points of a pair are analysed together.
    pub fn new(points: &[CapturePoint], options: &[FlowOptions]) -> Self {
        let live = |i: usize| options[i].statistics && matches!(points[i].source, CaptureSource::Live { .. });
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
            let group = Group::new(members.iter().map(|&i| options[i]).collect(), inner.collect());
            let group = Arc::new(group);
            for (at, &i) in members.iter().enumerate() {
                places[i] = Some((Arc::clone(&group), at));
            }
        }
        Self { places, next: 0 }
    }

    /// The sink of the next point.
    pub fn next(&mut self, point: &CapturePoint, link: LinkType) -> Flows {
        let at = self.places.get_mut(self.next).and_then(Option::take);
        self.next += 1;
        if let Some((group, place)) = &at {
            group.open(*place, link);
        }
        Flows { place: place(point), at, ethernet: link.0 == 1, chunk: Chunk::default(), has_ended: false }
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

/// What an engine came to.
struct Ended {
    records: u64,
    tcp: Tcp,
    problems: Vec<String>,
}

fn finish(running: Running, options: &FlowOptions) -> Ended {
    let Running { engine, beyond, .. } = running;
    let (totals, collected) = engine.finish();
    let mut problems = Vec::new();
    if totals.ended_early > 0 {
        let most = options.max_live();
        problems.push(format!("{} connections were ended early: more than {most} at a time", totals.ended_early));
    }
    if let Some(link) = totals.unsupported_link {
        problems.push(format!("{} packets of {link}, which is not understood", totals.unsupported));
    }
    let tcp = assemble(&totals, collected, &beyond, options.mtu, options.share(BINS));
    Ended { records: totals.records, tcp, problems }
}

/// A group's results, by the places of its points and paths.
struct Done {
    points: Vec<Option<Result<Ended, String>>>,
    paths: Vec<Option<Matched>>,
    /// Packets analysed after the captures.
    after: u64,
}

impl Done {
    fn of(group: &Group) -> Self {
        let after = group.drain();
        let Some(mut work) = group.work() else { return Self { points: Vec::new(), paths: Vec::new(), after } };
        let paths = work.finish_matchers();
        let ended = |(point, options): (work::PointWork, &FlowOptions)| match point.state {
            State::Failed(text) => Some(Err(text)),
            State::Running(running) => Some(
                catch_unwind(AssertUnwindSafe(|| finish(*running, options)))
                    .map_err(|panic| thread::panic_text(panic.as_ref())),
            ),
        };
        let points = std::mem::take(&mut work.points).into_iter().zip(&group.options).map(ended).collect();
        Self { points, paths, after }
    }
}

/// What the captures say, analysed.
#[derive(Debug, Default)]
pub struct Analysed {
    /// With what they say about TCP.
    pub captures: Vec<Capture>,
    /// What they say together.
    pub paths: Vec<PathMatch>,
    /// Everything that went wrong.
    pub problems: Vec<Problem>,
    /// What to look at before trusting the paths.
    pub warnings: Vec<String>,
    /// How the analysis went; `None` when there was none.
    pub effort: Option<Effort>,
}

/// How the analysis went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effort {
    /// Packets analysed while CPUs were idle, by the capture threads because too many waited, and after the captures.
    pub packets: [u64; 3],
    /// Bytes of packets that waited, at most; the sum over pairs.
    pub peak: u64,
    /// Bytes there was room for.
    pub limit: u64,
    /// Was there no room at some time?
    pub was_full: bool,
}

impl Stopped<Flows> {
    /// Analyses what is left. Blocks while it does.
    pub fn analyse(self) -> Analysed {
        let Self { captures, problems, whole, sinks } = self;
        let mut groups: Vec<Arc<Group>> = Vec::new();
        for (group, _) in sinks.iter().filter_map(|sink| sink.at.as_ref()) {
            if !groups.iter().any(|other| Arc::ptr_eq(other, group)) {
                groups.push(Arc::clone(group));
            }
        }
        let mut done = all_done(&groups);
        let mut analysed = Analysed { captures, problems, ..Analysed::default() };
        // Group, place in it and whether the capture has everything, of each capture.
        let mut places = Vec::new();
        for (i, sink) in sinks.iter().enumerate() {
            let place = sink
                .at
                .as_ref()
                .and_then(|(group, at)| Some((groups.iter().position(|other| Arc::ptr_eq(other, group))?, *at)));
            let ended = place.filter(|_| sink.has_ended).and_then(|(group, at)| done[group].points.get_mut(at)?.take());
            let told = ended.is_some_and(|ended| analysed.add(i, &sink.place, ended));
            let capture = &analysed.captures[i];
            places.push((place, told && whole[i] && capture.dropped_kernel == Some(0)));
        }
        for (number, (group, done)) in groups.iter().zip(&done).enumerate() {
            analysed.add_effort(group, done);
            for (path, matched) in group.paths.iter().zip(&done.paths) {
                let at = |point: usize| places.iter().position(|(place, _)| *place == Some((number, point)));
                if let (Some(near), Some(far)) = (at(path.near), at(path.far)) {
                    let whole = Whole { captures: places[near].1 && places[far].1, clock: path.clock };
                    analysed.add_path(near, far, &whole, matched.as_ref());
                }
            }
        }
        analysed
    }
}

/// As many at a time as there are CPUs.
fn all_done(groups: &[Arc<Group>]) -> Vec<Done> {
    let results: Vec<OnceLock<Done>> = groups.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let worker = || {
        while let Some((group, result)) = {
            let i = next.fetch_add(1, Ordering::Relaxed);
            groups.get(i).zip(results.get(i))
        } {
            // Each number is given out once.
            let _ = result.set(Done::of(group));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(groups.len());
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(worker);
        }
        worker();
    });
    results.into_iter().map(|result| result.into_inner().expect("each number was given out")).collect()
}

impl Analysed {
    /// Are there statistics of this point?
    fn add(&mut self, capture: usize, place: &str, ended: Result<Ended, String>) -> bool {
        let problem = |text: String| Problem { weight: Weight::Suspect, text: format!("TCP of {place}: {text}") };
        let packets = self.captures[capture].packets;
        match ended {
            Err(text) => {
                let text = format!("the analysis failed, its statistics are missing: {text}");
                self.problems.push(problem(text));
                false
            }
            Ok(Ended { records, .. }) if records != packets => {
                self.problems.push(problem(format!("{records} packets were analysed, {packets} captured")));
                false
            }
            Ok(Ended { tcp, problems, .. }) => {
                self.captures[capture].tcp = Some(tcp);
                self.problems.extend(problems.into_iter().map(problem));
                true
            }
        }
    }

    fn add_path(&mut self, near: usize, far: usize, whole: &Whole, matched: Option<&Matched>) {
        let name = |i: usize| {
            let Capture { node, vantage, .. } = &self.captures[i];
            format!("{node} ({vantage})")
        };
        let name = format!("path from {} to {}", name(near), name(far));
        let Some(matched) = matched else {
            self.warnings.push(format!("{name}: the matching failed"));
            return;
        };
        let (path, reason) = paths::record(near, far, whole, matched);
        self.warnings.extend(reason.map(|reason| format!("{name}: losses are not known, {reason}")));
        self.paths.push(path);
    }

    fn add_effort(&mut self, group: &Group, done: &Done) {
        let effort = self.effort.get_or_insert_default();
        let [idle, forced] = [0, 1].map(|i| group.analysed[i].load(Ordering::Relaxed));
        for (sum, packets) in effort.packets.iter_mut().zip([idle, forced, done.after]) {
            *sum += packets;
        }
        let (peak, limit) = group.spool.peak();
        effort.peak += peak;
        effort.limit += limit;
        effort.was_full |= group.spool.was_full.load(Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
