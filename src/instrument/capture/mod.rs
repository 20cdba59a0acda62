//! Live capture through libpcap: one plain thread for each point, statistics counted while packets arrive.
//!
//! The reader sleeps between batches (a busy interface costs it a few dozen wake-ups a second), the ring is large
//! enough to sleep through a burst, and at the end nothing is lost: the reader goes on until it has been handed as many
//! packets as the kernel says it has captured. What was lost is in [`record::Capture`], what went wrong in
//! [`Stopped::problems`].

mod flows;
mod held;
mod here;
mod interface;
mod kept;
mod open;
mod pcapng;
mod reader;
mod recorded;
mod remote;
mod ring;
mod tally;
mod thread;

use std::collections::BTreeSet;
use std::io::{self, PipeWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

pub(super) use flows::delay;
pub use flows::{Analysed, Effort, FlowOptions, FlowSinks, Flows, Inlet};
pub use held::Holding;
pub(crate) use held::Outlet;
pub(crate) use here::{FILTER, Here, Watch};
pub use open::LinkType;
pub use remote::NodeFacts;
pub use ring::{available_memory, ring_bytes};
pub use tally::{SIZE_EDGES, Tally};

use crate::host::clock::Distance;
use crate::record::{self, Problem, Weight};
use crate::spec::CaptureSpec;
use crate::testbed::{CapturePoint, CaptureSource, Recorder};
use open::{BLOCK_TIMEOUT_MS, Settings};
use reader::{Window, now_ns};
use recorded::Recorded;
use remote::Remote;
use thread::{Finished, Thread};

/// Packets go on being counted for this long after [`Captures::stop`] was called: the end of a workload's process comes
/// before the last packets of its connections.
const LINGER: Duration = Duration::from_millis(2 * BLOCK_TIMEOUT_MS.unsigned_abs() as u64);

/// A capture during which the wall clock was set by more than this is suspect.
const STEP_NS: u64 = 10_000_000;

/// Takes each captured packet as it is read, on the thread of its capture point.
///
/// Packets of one point arrive in the order in which the kernel captured them; time stamps may go back by a little
/// between packets of different CPUs.
pub trait PacketSink: Send + 'static {
    /// A packet captured at `at_ns` (nanoseconds since 1970-01-01 UTC), of `wire_len` bytes on the wire of which `data`
    /// holds the first, link-layer header included.
    fn packet(&mut self, at_ns: i64, wire_len: u32, data: &[u8]);

    /// No packet has come for a while, about half a second.
    fn idle(&mut self) {}

    /// There are no more packets. Called once; never where the capture was dropped or lost, or is synthetic.
    fn end(&mut self) {}

    /// Where the headers of a point on another node go, if this sink analyses them: it gets no packets then, only
    /// [`PacketSink::end`]. Asked once, before anything else.
    fn inlet(&mut self) -> Option<Inlet> {
        None
    }
}

/// Takes no notice of packets.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSink;

impl PacketSink for NoSink {
    fn packet(&mut self, _at_ns: i64, _wire_len: u32, _data: &[u8]) {}
}

/// A capture could not be started. None is running then.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// libpcap could not open the interface.
    #[error("cannot capture on {interface} of {node} ({vantage})")]
    Open {
        /// Whose interface.
        node: crate::ids::NodeId,
        /// Seen from where.
        vantage: crate::ids::Vantage,
        /// Its name.
        interface: String,
        /// libpcap's reason.
        #[source]
        source: io::Error,
    },
    /// The filter does not compile.
    #[error("capture filter `{expression}`: {message} (a pcap-filter(7) expression is wanted)")]
    Filter {
        /// As in the spec.
        expression: String,
        /// libpcap's reason.
        message: String,
    },
    /// The file to keep cannot be written.
    #[error("cannot write {}.pcapng", path.display())]
    Keep {
        /// Without the extension.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No thread or pipe to be had.
    #[error("cannot start a capture thread")]
    Thread(#[source] io::Error),
}

impl CaptureError {
    fn open(point: &CapturePoint, source: io::Error) -> Self {
        Self::Open { node: point.node, vantage: point.vantage, interface: point.interface.clone(), source }
    }
}

/// Does libpcap understand this filter, on an Ethernet interface? The error is libpcap's.
pub fn check_filter(expression: &str) -> Result<(), pcap::Error> {
    pcap::Capture::dead(pcap::Linktype::ETHERNET)?.compile(expression, true).map(drop)
}

/// Captures that are running. Dropping them ends them and removes the files they were to keep.
#[derive(Debug)]
pub struct Captures<S = NoSink> {
    points: Vec<Running<S>>,
    /// Closing it ends all readers.
    stop: Option<PipeWriter>,
    window: Arc<Window>,
    /// When the capture began; `None` when the kernel did not tell.
    clocks: Option<Distance>,
}

#[derive(Debug)]
enum Running<S> {
    Live { place: String, thread: Thread<S> },
    Synthetic { capture: Box<record::Capture>, sink: S },
    Remote { remote: Box<Remote>, sink: S },
    Recorded { place: String, recorded: Recorded<S> },
}

/// What captures brought home.
#[derive(Debug)]
pub struct Stopped<S = NoSink> {
    /// One for each point, in the order of the points; a capture whose thread died has none.
    pub captures: Vec<record::Capture>,
    /// What went wrong, drops not included (they are in the captures).
    pub problems: Vec<Problem>,
    /// Did each capture run to its end and hand over everything that was not counted as dropped?
    pub whole: Vec<bool>,
    /// The sinks of the points in `captures`, in the same order.
    pub sinks: Vec<S>,
    /// What is known besides of captures on nodes behind agents.
    pub nodes: Vec<NodeFacts>,
}

impl Captures<NoSink> {
    /// Starts a capture at each point, counting only. When it returns, every point is capturing.
    ///
    /// With `spec.keep` and a directory, packets are kept there in `NODE-VANTAGE.pcapng`. Blocks for some milliseconds.
    pub fn start(points: &[CapturePoint], spec: &CaptureSpec, keep_in: Option<&Path>) -> Result<Self, CaptureError> {
        Self::start_with(points, spec, keep_in, |_, _| NoSink)
    }
}

impl<S: PacketSink> Captures<S> {
    /// As [`Captures::start`], with a sink for the packets of each point.
    pub fn start_with(
        points: &[CapturePoint],
        spec: &CaptureSpec,
        keep_in: Option<&Path>,
        mut sink: impl FnMut(&CapturePoint, LinkType) -> S,
    ) -> Result<Self, CaptureError> {
        let (stopped, stop) = io::pipe().map_err(CaptureError::Thread)?;
        let window = Arc::new(Window {
            from_ns: AtomicI64::new(i64::MAX),
            until_ns: AtomicI64::new(i64::MAX),
            abandoned: AtomicBool::new(false),
        });
        let live = points.iter().filter(|point| matches!(point.source, CaptureSource::Live { .. })).count();
        let ring = ring_bytes(live, spec.ring, available_memory());
        let stopped = Arc::new(stopped);
        let stems = stems(points);
        // All threads begin before the first is waited for: opening takes the kernel some milliseconds each.
        let mut waiting = Vec::with_capacity(points.len());
        for (point, stem) in points.iter().zip(stems) {
            let keep = keep_in.filter(|_| spec.keep).map(|directory| (directory.to_owned(), stem));
            let settings = Settings { snaplen: spec.snaplen, ring_bytes: ring, filter: spec.filter.clone(), keep };
            waiting.push(Waiting::begin(point, &settings, &stopped, &window)?);
        }
        let links = waiting.iter().map(Waiting::ready).collect::<Result<Vec<_>, _>>()?;
        let (clocks, from_ns) = (Distance::read().ok(), now_ns());
        window.from_ns.store(from_ns, Ordering::Relaxed);
        let points = waiting.into_iter().zip(links).map(|(waiting, link)| {
            let point = waiting.point();
            let sink = sink(point, link);
            let is_beside =
                |other: &&CapturePoint| other.node == point.node && matches!(other.source, CaptureSource::Agent(_));
            waiting.go(spec, points.iter().filter(is_beside).count(), sink)
        });
        let mut captures = Self { points: points.collect(), stop: Some(stop), window, clocks };
        for point in &mut captures.points {
            if let Running::Remote { remote, .. } = point {
                remote.ready()?;
            }
        }
        Ok(captures)
    }

    /// Are packets on disks of nodes, so that ending takes the time to bring them?
    pub fn are_on_disks(&self) -> bool {
        self.points.iter().any(|point| matches!(point, Running::Remote { remote, .. } if remote.is_on_disk()))
    }

    /// Ends all captures and collects them. Nothing that was captured before the call is lost.
    ///
    /// Blocks for about 50 ms, and longer where a file is written.
    pub fn stop(mut self) -> Stopped<S> {
        let mut stopped = Stopped {
            captures: Vec::new(),
            problems: Vec::new(),
            whole: Vec::new(),
            sinks: Vec::new(),
            nodes: Vec::new(),
        };
        stopped.problems.extend(self.clock_step());
        let linger = i64::try_from(LINGER.as_nanos()).expect("a few milliseconds");
        self.window.until_ns.store(now_ns() + linger, Ordering::Relaxed);
        for point in &mut self.points {
            match point {
                Running::Remote { remote, .. } => remote.stop(),
                Running::Recorded { recorded, .. } => recorded.stop(),
                Running::Live { .. } | Running::Synthetic { .. } => {}
            }
        }
        drop(self.stop.take());
        for point in std::mem::take(&mut self.points) {
            stopped.collect(point);
        }
        stopped
    }

    /// Time stamps come from the wall clock, which somebody may have set meanwhile.
    fn clock_step(&self) -> Option<Problem> {
        let Some((now, before)) = Distance::read().ok().zip(self.clocks) else {
            let text = "nobody can tell whether the wall clock was set during the capture".to_owned();
            return Some(Problem { weight: Weight::Suspect, text });
        };
        let off = now.step_since(before, STEP_NS)?;
        #[expect(clippy::cast_precision_loss, reason = "a millisecond is not lost")]
        let text = format!("the wall clock was set by {:.3} s during the capture", off as f64 / 1e9);
        Some(Problem { weight: Weight::Suspect, text })
    }
}

impl<S: PacketSink> Stopped<S> {
    fn collect(&mut self, point: Running<S>) {
        match point {
            Running::Synthetic { capture, sink } => {
                self.captures.push(*capture);
                self.whole.push(true);
                self.sinks.push(sink);
            }
            Running::Remote { remote, mut sink } => {
                let place = remote.place();
                match remote.join() {
                    Ok((capture, problems, facts)) => {
                        sink.end();
                        self.nodes.push(facts);
                        self.captures.push(capture);
                        self.whole.push(problems.is_empty());
                        self.problems.extend(problems);
                        self.sinks.push(sink);
                    }
                    Err(error) => {
                        let text = format!("capture of {place} is lost: {error}");
                        self.problems.push(Problem { weight: Weight::Invalid, text });
                    }
                }
            }
            Running::Live { place, thread } => self.add(thread.join(), &format!("capture of {place} died")),
            Running::Recorded { place, recorded } => {
                self.add(recorded.join(), &format!("capture of {place} is lost"));
            }
        }
    }

    fn add(&mut self, finished: Result<Finished<S>, String>, otherwise: &str) {
        match finished {
            Ok(Finished { capture, problems, whole, sink }) => {
                self.captures.push(capture);
                self.whole.push(whole);
                self.problems.extend(problems);
                self.sinks.push(sink);
            }
            Err(why) => {
                let text = format!("{otherwise}: {why}");
                self.problems.push(Problem { weight: Weight::Invalid, text });
            }
        }
    }
}

impl<S> Drop for Captures<S> {
    fn drop(&mut self) {
        // The points, dropped after this, wait for their threads, which this ends.
        self.window.abandoned.store(true, Ordering::Relaxed);
        self.window.until_ns.store(i64::MIN, Ordering::Relaxed);
        drop(self.stop.take());
    }
}

/// A point that has begun to open.
enum Waiting<'a, S> {
    Live { point: &'a CapturePoint, thread: Thread<S> },
    Synthetic { point: &'a CapturePoint },
    Remote { point: &'a CapturePoint, remote: Box<Remote> },
    Recorded { point: &'a CapturePoint, recorder: &'a Arc<dyn Recorder>, settings: Settings, window: Arc<Window> },
}

impl<'a, S: PacketSink> Waiting<'a, S> {
    fn begin(
        point: &'a CapturePoint,
        settings: &Settings,
        stop: &Arc<io::PipeReader>,
        window: &Arc<Window>,
    ) -> Result<Self, CaptureError> {
        Ok(match &point.source {
            CaptureSource::Agent(client) => {
                Self::Remote { point, remote: Box::new(Remote::new(point, client, settings.keep.clone())) }
            }
            CaptureSource::Synthetic { .. } => Self::Synthetic { point },
            CaptureSource::Recorded(recorder) => {
                Self::Recorded { point, recorder, settings: settings.clone(), window: Arc::clone(window) }
            }
            CaptureSource::Live { .. } => {
                let thread = Thread::spawn(point, settings, Arc::clone(stop), Arc::clone(window));
                Self::Live { point, thread: thread.map_err(CaptureError::Thread)? }
            }
        })
    }

    fn point(&self) -> &'a CapturePoint {
        match self {
            Self::Live { point, .. }
            | Self::Synthetic { point }
            | Self::Remote { point, .. }
            | Self::Recorded { point, .. } => point,
        }
    }

    fn ready(&self) -> Result<LinkType, CaptureError> {
        match self {
            Self::Live { thread, .. } => thread.ready(),
            Self::Recorded { point, recorder, settings, .. } => {
                recorded::begin(point, recorder.as_ref(), settings).map(|()| LinkType(1))
            }
            // A remote one's is told to the inlet of its sink.
            Self::Synthetic { .. } | Self::Remote { .. } => Ok(LinkType(1)),
        }
    }

    fn go(self, spec: &CaptureSpec, captures: usize, sink: S) -> Running<S> {
        match self {
            Self::Live { point, mut thread } => {
                thread.go(sink);
                Running::Live { place: place(point), thread }
            }
            Self::Recorded { point, recorder, settings, window } => {
                let recorded = Recorded::new(point, recorder, settings, &window, sink);
                Running::Recorded { place: place(point), recorded }
            }
            Self::Synthetic { point } => Running::Synthetic { capture: Box::new(synthetic(point, spec)), sink },
            Self::Remote { mut remote, .. } => {
                let mut sink = sink;
                remote.begin(spec, captures, sink.inlet());
                Running::Remote { remote, sink }
            }
        }
    }
}

/// `client1 (guest, eth0)`
fn place(point: &CapturePoint) -> String {
    format!("{} ({}, {})", point.node, point.vantage, point.interface)
}

fn synthetic(point: &CapturePoint, spec: &CaptureSpec) -> record::Capture {
    let CaptureSource::Synthetic { packets, bytes, dropped } = point.source else {
        unreachable!("only called for synthetic points")
    };
    record::Capture {
        node: point.node,
        vantage: point.vantage,
        interface: point.interface.clone(),
        snaplen: spec.snaplen,
        packets,
        bytes,
        dropped_kernel: Some(dropped),
        dropped_interface: Some(0),
        ring_bytes: 0,
        sizes: Vec::new(),
        file: None,
        tcp: None,
    }
}

/// File names without extension: `client1-guest`, and with the interface where a node has several.
fn stems(points: &[CapturePoint]) -> Vec<String> {
    let mut once = BTreeSet::new();
    let keys: Vec<_> = points.iter().map(|point| (point.node, point.vantage)).collect();
    let twice: BTreeSet<_> = keys.iter().filter(|key| !once.insert(**key)).collect();
    let stem = |point: &CapturePoint| {
        let base = format!("{}-{}", point.node, point.vantage);
        // A name of an interface may hold anything but a slash and white space.
        if twice.contains(&(point.node, point.vantage)) { format!("{base}-{}", point.interface) } else { base }
    };
    points.iter().map(stem).collect()
}
