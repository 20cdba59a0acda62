//! TCP statistics while packets arrive: each capture point feeds an engine of its own.
//!
//! The engine works on the capture's thread, between two looks at the ring. If it is slower than the packets come, the
//! ring fills, the kernel counts what it drops, and the iteration is suspect: nothing is lost unseen. A fault in the
//! engine ends the statistics of its point and becomes a problem of the iteration; the capture goes on counting.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{LinkType, PacketSink, Stopped, place, thread};
use crate::flow::{Beyond, BeyondOptions, Engine, Options, Order};
use crate::packet::{self, Segment, Time};
use crate::record::{Capture, Problem, Tcp, Weight};
use crate::testbed::CapturePoint;

mod collect;

use collect::{Collected, assemble};

/// Memory that all engines of an iteration may fill with live connections, if the host has eight times as much free.
const BUDGET: u64 = 2 << 30;
/// What a live connection takes, ranges of a busy one included.
const CONNECTION_BYTES: u64 = 2048;
/// An engine follows at least so many connections at a time, and at most the second number.
const LIVE: [u64; 2] = [10_000, 2_000_000];
/// Single connections kept in an iteration, and bins of its throughput series.
const ROWS: usize = 1 << 17;
const BINS: usize = 1 << 19;

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
}

/// The engine of one capture point.
#[derive(Debug)]
pub struct Flows {
    place: String,
    options: FlowOptions,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing is asked for, or nothing has been handed over.
    Off,
    Running(Box<Running>),
    Ended {
        records: u64,
        tcp: Box<Tcp>,
        problems: Vec<String>,
    },
    Failed(String),
}

#[derive(Debug)]
struct Running {
    engine: Engine<Collected>,
    beyond: Beyond,
    link: packet::LinkType,
}

impl Running {
    #[inline]
    fn packet(&mut self, at_ns: i64, wire_len: u32, data: &[u8]) {
        let at = Time::from_nanos(at_ns);
        let mut segment = Segment::default();
        if let Some(traced) = self.engine.observe(at, wire_len, data, self.link, &mut segment) {
            self.beyond.packet(at, wire_len, &segment, &traced);
        }
    }
}

impl Flows {
    /// For the packets of `point`, which have this link layer.
    pub fn new(point: &CapturePoint, link: LinkType, options: FlowOptions) -> Self {
        let place = place(point);
        if !options.statistics {
            return Self { place, options, state: State::Off };
        }
        let rows = options.connections.then(|| options.share(ROWS));
        let engine = Options { order: Order::Final, max_live: options.max_live(), ..Options::default() };
        let mtu = options.mtu.unwrap_or(BeyondOptions::default().mtu);
        let running = Running {
            engine: Engine::new(engine, Collected::new(rows)),
            beyond: Beyond::new(BeyondOptions { mtu, ..BeyondOptions::default() }),
            link: packet::LinkType(u32::from(link.0)),
        };
        Self { place, options, state: State::Running(Box::new(running)) }
    }

    /// What came of it, and what went wrong. `packets` is what the capture counted; `None` without statistics.
    pub fn into_tcp(self, packets: u64) -> (Option<Tcp>, Vec<Problem>) {
        let place = self.place;
        let problem = |text: String| Problem { weight: Weight::Suspect, text: format!("TCP of {place}: {text}") };
        match self.state {
            State::Off | State::Running(_) => (None, Vec::new()),
            State::Failed(text) => {
                (None, vec![problem(format!("the analysis failed, its statistics are missing: {text}"))])
            }
            State::Ended { records, .. } if records != packets => {
                (None, vec![problem(format!("{records} packets were analysed, {packets} captured"))])
            }
            State::Ended { tcp, problems, .. } => (Some(*tcp), problems.into_iter().map(problem).collect()),
        }
    }

    #[cold]
    fn fail(&mut self, panic: &(dyn std::any::Any + Send)) {
        self.state = State::Failed(thread::panic_text(panic));
    }
}

impl PacketSink for Flows {
    #[inline]
    fn packet(&mut self, at_ns: i64, wire_len: u32, data: &[u8]) {
        let State::Running(running) = &mut self.state else { return };
        // Unwind safe: what a panic has left half done is thrown away.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| running.packet(at_ns, wire_len, data))) {
            self.fail(panic.as_ref());
        }
    }

    fn end(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Off) {
            State::Running(running) => {
                let options = self.options;
                catch_unwind(AssertUnwindSafe(|| finish(*running, &options)))
                    .unwrap_or_else(|panic| State::Failed(thread::panic_text(panic.as_ref())))
            }
            other => other,
        };
    }
}

fn finish(running: Running, options: &FlowOptions) -> State {
    let Running { engine, mut beyond, .. } = running;
    beyond.end(&engine.waiting(), engine.totals().last);
    let (totals, collected) = engine.finish();
    let mut problems = Vec::new();
    if totals.ended_early > 0 {
        let most = options.max_live();
        problems.push(format!("{} connections were ended early: more than {most} at a time", totals.ended_early));
    }
    if let Some(link) = totals.unsupported_link {
        problems.push(format!("{} packets of {link}, which is not understood", totals.unsupported));
    }
    let left_out = totals.connections.saturating_sub(collected.rows() as u64);
    if options.connections && left_out > 0 {
        let most = options.share(ROWS);
        problems.push(format!("{left_out} connections have no row of their own: at most {most} are kept"));
    }
    let tcp = Box::new(assemble(&totals, collected, &beyond, options.mtu, options.share(BINS)));
    State::Ended { records: totals.records, tcp, problems }
}

impl Stopped<Flows> {
    /// The captures with what they say about TCP, and all problems.
    pub fn with_tcp(self) -> (Vec<Capture>, Vec<Problem>) {
        let Self { mut captures, mut problems, sinks } = self;
        for (capture, flows) in captures.iter_mut().zip(sinks) {
            let (tcp, more) = flows.into_tcp(capture.packets);
            capture.tcp = tcp;
            problems.extend(more);
        }
        (captures, problems)
    }
}

#[cfg(test)]
mod tests;
