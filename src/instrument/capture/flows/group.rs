//! Capture points that are analysed together, and who does it when.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

use super::FlowOptions;
use super::paths::PathPoints;
use super::spool::{Level, Spool};
use super::work::{Pace, Work};
use crate::flow::Matcher;
use crate::instrument::capture::{LinkType, thread};

/// Packets analysed between two looks at what else is to be done.
const QUANTUM: usize = 1024;
/// The idle thread waits so long when there is nothing to do.
const REST: Duration = Duration::from_millis(100);
/// And so long when somebody else wants the CPU.
const YIELD: Duration = Duration::from_millis(50);

/// Points that are analysed together.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) spool: Spool,
    pub(super) options: Vec<FlowOptions>,
    /// Paths between its points, by their places in the group.
    pub(super) paths: Vec<PathPoints>,
    /// Which points are on other nodes, that hold their packets back.
    late: Vec<bool>,
    /// Link layers as they become known.
    links: Vec<OnceLock<LinkType>>,
    /// Begins when all links are known.
    work: OnceLock<Mutex<Work>>,
    /// The thread that works when a CPU is idle, and whether it is to end.
    idle: Mutex<Option<JoinHandle<()>>>,
    stop: AtomicBool,
    /// Packets analysed by the idle thread, and by capture threads.
    pub(super) analysed: [AtomicU64; 2],
}

impl Group {
    pub(super) fn new(options: Vec<FlowOptions>, late: Vec<bool>, paths: Vec<PathPoints>) -> Self {
        let limit = options.iter().map(FlowOptions::spool).sum();
        Self {
            spool: Spool::new(options.len(), limit),
            links: options.iter().map(|_| OnceLock::new()).collect(),
            options,
            late,
            paths,
            work: OnceLock::new(),
            idle: Mutex::new(None),
            stop: AtomicBool::new(false),
            analysed: Default::default(),
        }
    }

    /// A point is open. With the last one the work begins.
    pub(super) fn open(self: &Arc<Self>, point: usize, link: LinkType) {
        // Each point opens once.
        let _ = self.links[point].set(link);
        let links: Option<Vec<LinkType>> = self.links.iter().map(|link| link.get().copied()).collect();
        let Some(links) = links else { return };
        let engines = self.options.iter().zip(links).map(|(options, link)| options.running(link)).collect();
        let matcher =
            |path: &PathPoints| ([path.near, path.far], Matcher::new(self.options[path.near].waiting(), path.clock));
        let work = Work::new(engines, &self.late, self.paths.iter().map(matcher).collect());
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

    pub(super) fn work(&self) -> Option<MutexGuard<'_, Work>> {
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
    pub(super) fn keep_up(&self, packets: usize) {
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
    pub(super) fn end_idle(&self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.idle().as_ref() {
            thread.thread().unpark();
        }
    }

    /// Analyses what is left, on this thread, and says how much it was.
    pub(super) fn drain(&self) -> u64 {
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
