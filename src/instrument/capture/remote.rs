//! Capture points on a node behind an agent: the same capture and analysis, run by the agent; and its side of it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use tokio::sync::oneshot;

use super::interface::receive_drops;
use super::pcapng::{Interface, Totals, Writer};
use super::{
    CaptureError, Captures, FlowOptions, FlowSinks, Flows, LinkType, PacketSink, Stopped, available_memory, place,
};
use crate::agent::{AgentError, CaptureProgress, CaptureRequest, Client, FailureKind};
use crate::flow::{STATISTICS, Sketch};
use crate::record::{self, Problem, Weight};
use crate::spec::CaptureSpec;
use crate::testbed::{CapturePoint, CaptureSource};

/// Counters of an agent are whole numbers that a database and a mean can hold.
const MOST: u64 = 1 << 53;

type Ended = (record::Capture, Vec<Problem>);

/// A capture at an agent, as its host holds it. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Remote {
    point: CapturePoint,
    client: Client,
    keep: Option<(PathBuf, String)>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    ready: mpsc::Receiver<Result<(), AgentError>>,
    /// Sending ends the capture and wants its result; closing it gives it up.
    stop: Option<oneshot::Sender<()>>,
    ended: mpsc::Receiver<Result<Ended, AgentError>>,
}

impl Remote {
    pub(super) fn new(point: &CapturePoint, client: &Client, keep: Option<(PathBuf, String)>) -> Self {
        Self { point: point.clone(), client: client.clone(), keep, running: None }
    }

    pub(super) fn place(&self) -> String {
        place(&self.point)
    }

    /// Begins to capture; [`Remote::ready`] waits for it. `flows` is what the point's own engine would do.
    pub(super) fn begin(&mut self, spec: &CaptureSpec, flows: Option<FlowOptions>) {
        let request = CaptureRequest {
            node: self.point.node,
            vantage: self.point.vantage,
            interface: self.point.interface.clone(),
            snaplen: spec.snaplen,
            filter: spec.filter.clone(),
            ring: spec.ring,
            statistics: flows.is_some_and(|flows| flows.statistics),
            connections: flows.is_some_and(|flows| flows.connections),
            mtu: flows.and_then(|flows| flows.mtu),
            points: flows.map_or(1, |flows| flows.points),
            keep: self.keep.is_some(),
        };
        let (report, ready) = mpsc::sync_channel(1);
        let (finish, ended) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        // Made here, so that it is there to be removed whenever this is dropped.
        let keep = self.keep.as_ref().map(|(directory, stem)| File::create(beside(directory, stem)));
        let client = self.client.clone();
        self.client.runtime().spawn(async move {
            let started = async {
                let failed = |source| AgentError::Here { what: "create the file to keep".to_owned(), source };
                let keep = keep.transpose().map_err(failed)?;
                client.capture(&request, keep.map(|file| Box::new(Blocking(file)) as _)).await
            };
            let capture = match started.await {
                Ok(capture) => capture,
                Err(error) => {
                    // Whoever waited may have gone.
                    let _ = report.send(Err(error));
                    return;
                }
            };
            let _ = report.send(Ok(()));
            // Without a word the capture is given up: it ends with its value.
            if stopped.await.is_ok() {
                let _ = finish.send(capture.stop().await);
            }
        });
        self.running = Some(Running { ready, stop: Some(stop), ended });
    }

    /// Waits until it is capturing.
    pub(super) fn ready(&self) -> Result<(), CaptureError> {
        let Some(running) = &self.running else { return Ok(()) };
        let gone = || AgentError::Lost(crate::agent::Lost::Ended);
        running.ready.recv().unwrap_or_else(|_| Err(gone())).map_err(|error| self.error(error))
    }

    fn error(&self, error: AgentError) -> CaptureError {
        match error {
            AgentError::Failed(failure) if failure.kind == FailureKind::Invalid && failure.what.starts_with(FILTER) => {
                let expression = failure.what[FILTER.len()..].to_owned();
                CaptureError::Filter { expression, message: failure.text }
            }
            AgentError::Here { source, .. } if self.keep.is_some() => {
                let path = self.keep.as_ref().map(|(directory, stem)| directory.join(stem));
                CaptureError::Keep { path: path.unwrap_or_default(), source }
            }
            error => CaptureError::open(&self.point, error.into_io()),
        }
    }

    /// Tells it to end, without waiting.
    pub(super) fn stop(&mut self) {
        if let Some(stop) = self.running.as_mut().and_then(|running| running.stop.take()) {
            // A task that has died says so when it is joined.
            let _ = stop.send(());
        }
    }

    /// Waits for the record. An error is why there is none.
    pub(super) fn join(mut self) -> Result<Ended, String> {
        self.stop();
        let running = self.running.take().ok_or("it was never told to begin")?;
        let ended = running.ended.recv().map_err(|_| "the agent's task has died".to_owned());
        let ended = ended.and_then(|ended| ended.map_err(|error| chain(&error)));
        let kept = self.keep.take().map(|(directory, stem)| settle(&directory, &stem, ended.is_ok()));
        let (mut capture, mut problems) = ended.map_err(|error| match &kept {
            Some(Ok(path)) => format!("{error}; what was sent until then is in {}", path.display()),
            _ => error,
        })?;
        sane(&capture)?;
        // Who it is about is not for the agent to say.
        capture.node = self.point.node;
        capture.vantage = self.point.vantage;
        capture.interface.clone_from(&self.point.interface);
        capture.file = None;
        match kept {
            None => {}
            Some(Ok(path)) => capture.file = Some(super::thread::below_campaign(&path)),
            Some(Err(problem)) => problems.push(Problem { weight: Weight::Suspect, text: problem }),
        }
        for problem in &mut problems {
            problem.text = problem.text.chars().filter(|c| !c.is_control()).take(1000).collect();
        }
        Ok((capture, problems))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let (Some((directory, stem)), Some(_)) = (&self.keep, &self.running) {
            // Perhaps it was never made.
            let _ = fs::remove_file(beside(directory, stem));
        }
    }
}

fn beside(directory: &Path, stem: &str) -> PathBuf {
    directory.join(format!(".{stem}.pcapng.tmp"))
}

/// Gives a kept file its name. One that is not whole gets another.
fn settle(directory: &Path, stem: &str, whole: bool) -> Result<PathBuf, String> {
    let name = if whole { format!("{stem}.pcapng") } else { format!("{stem}.partial.pcapng") };
    let path = directory.join(name);
    let renamed = fs::rename(beside(directory, stem), &path);
    renamed
        .map(|()| path.clone())
        .map_err(|error| format!("cannot rename the kept file to {}: {error}", path.display()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text += &format!(": {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// A guest can say anything. What later stages rely on is looked at here.
fn sane(capture: &record::Capture) -> Result<(), String> {
    let counters = [capture.packets, capture.bytes, capture.ring_bytes];
    let counters = counters.into_iter().chain(capture.dropped_kernel).chain(capture.dropped_interface);
    let mut all: Vec<u64> = counters.chain(capture.sizes.iter().map(|bin| bin.packets)).collect();
    if let Some(tcp) = &capture.tcp {
        if tcp.complete > tcp.connections || tcp.reset > tcp.connections {
            return Err(
                "the agent's record makes no sense: more connections complete or reset than there are".to_owned()
            );
        }
        all.extend([tcp.connections, tcp.packets, tcp.ended_early, tcp.stalls]);
        for way in &tcp.directions {
            all.extend([way.packets, way.data_packets, way.data_bytes, way.unbinned]);
            all.extend([way.super_segments, way.super_bytes, way.super_on_wire].into_iter().flatten());
        }
        let known = |statistic: &record::ConnectionStatistic| {
            let sketch = statistic.sketch.as_ref().is_none_or(|sketch| Sketch::from_bytes(sketch).is_ok());
            sketch && STATISTICS.iter().any(|known| known.name == statistic.name)
        };
        if !tcp.statistics.iter().all(known) {
            return Err("the agent's record makes no sense: a statistic that does not exist, or is damaged".to_owned());
        }
        let whole = |row: &record::Connection| row.values.iter().all(|values| values.len() == STATISTICS.len());
        if !tcp.rows.iter().all(whole) {
            return Err("the agent's record makes no sense: a connection without all its statistics".to_owned());
        }
    }
    match all.iter().find(|&&counter| counter > MOST) {
        Some(counter) => Err(format!("the agent's record makes no sense: a counter of {counter}")),
        None => Ok(()),
    }
}

/// A file on this host: writing takes no time worth another thread.
struct Blocking(File);

impl tokio::io::AsyncWrite for Blocking {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::task::Poll::Ready(io::Write::write(&mut self.0, bytes))
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(self.0.sync_all())
    }
}

/// How a failure begins whose cause is the filter.
pub(crate) const FILTER: &str = "compile the filter ";

/// A capture on the node itself, for the agent.
#[derive(Debug)]
pub(crate) struct Here {
    captures: Captures<Tap>,
    watch: Watch,
}

/// Looks at a capture that runs.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    seen: Arc<Seen>,
    interface: String,
    dropped_before: Option<u64>,
}

/// How far a capture is, readable while it runs.
#[derive(Debug, Default)]
struct Seen {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Here {
    /// Starts to capture. With `keep`, packets are written there as pcapng: the other end has to read them.
    pub(crate) fn start(request: &CaptureRequest, keep: Option<File>) -> Result<Self, CaptureError> {
        let point = CapturePoint {
            node: request.node,
            vantage: request.vantage,
            interface: request.interface.clone(),
            source: CaptureSource::Live { namespace: None },
        };
        let spec = CaptureSpec {
            snaplen: request.snaplen,
            vantage: vec![request.vantage],
            statistics: request.statistics,
            connections: request.connections,
            keep: false,
            filter: request.filter.clone(),
            ring: request.ring,
        };
        let points = request.points.max(1);
        // The points share the host's file, but not this node's memory.
        let available = available_memory().map(|bytes| bytes.saturating_mul(points as u64));
        let flows = FlowOptions {
            statistics: request.statistics,
            connections: request.connections,
            mtu: request.mtu,
            points,
            available,
            fault_after: None,
        };
        let seen = Arc::new(Seen::default());
        let dropped_before = receive_drops(&request.interface);
        let mut keep = keep;
        let mut sinks = FlowSinks::new(std::slice::from_ref(&point), &[flows]);
        let sink = |point: &CapturePoint, link: LinkType| {
            let interface = Interface {
                name: &point.interface,
                link_type: link.0,
                snaplen: request.snaplen,
                filter: request.filter.as_deref(),
            };
            let kept =
                keep.take().map(|file| Kept { writer: Some(Writer::new(file, &interface)), lost: 0, error: None });
            Tap { flows: sinks.next(point, link), kept, seen: Arc::clone(&seen) }
        };
        let captures = Captures::start_with(&[point], &spec, None, sink)?;
        let watch = Watch { seen, interface: request.interface.clone(), dropped_before };
        Ok(Self { captures, watch })
    }

    /// To look at it from elsewhere.
    pub(crate) fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Ends it. Blocks for about 50 ms, and as long as nobody reads what is kept.
    pub(crate) fn stop(self) -> Result<Ended, String> {
        let Stopped { captures, problems, whole, sinks } = self.captures.stop();
        let (sinks, kept): (Vec<_>, Vec<_>) = sinks.into_iter().map(|tap| (tap.flows, tap.kept)).unzip();
        let analysed = Stopped { captures, problems, whole, sinks }.analyse();
        let mut problems = analysed.problems;
        let Some(capture) = analysed.captures.into_iter().next() else {
            let texts: Vec<_> = problems.into_iter().map(|problem| problem.text).collect();
            return Err(texts.join("; "));
        };
        if let Some(problem) = kept.into_iter().next().flatten().and_then(|kept| kept.finish(&capture)) {
            problems.push(Problem { weight: Weight::Suspect, text: problem });
        }
        Ok((capture, problems))
    }
}

impl Watch {
    /// How far the capture is.
    pub(crate) fn progress(&self) -> CaptureProgress {
        let now = receive_drops(&self.interface);
        CaptureProgress {
            packets: self.seen.packets.load(Ordering::Relaxed),
            bytes: self.seen.bytes.load(Ordering::Relaxed),
            dropped_interface: self.dropped_before.zip(now).and_then(|(before, now)| now.checked_sub(before)),
        }
    }
}

/// Feeds the engine, counts, and writes packets to where they are kept.
#[derive(Debug)]
struct Tap {
    flows: Flows,
    kept: Option<Kept>,
    seen: Arc<Seen>,
}

impl PacketSink for Tap {
    fn packet(&mut self, at_ns: i64, wire_len: u32, data: &[u8]) {
        self.seen.packets.fetch_add(1, Ordering::Relaxed);
        self.seen.bytes.fetch_add(u64::from(wire_len), Ordering::Relaxed);
        if let Some(kept) = &mut self.kept {
            kept.packet(at_ns, wire_len, data);
        }
        self.flows.packet(at_ns, wire_len, data);
    }

    fn idle(&mut self) {
        self.flows.idle();
    }

    fn end(&mut self) {
        self.flows.end();
    }
}

#[derive(Debug)]
struct Kept {
    /// `None` after a write has failed.
    writer: Option<Writer>,
    lost: u64,
    error: Option<io::Error>,
}

impl Kept {
    fn packet(&mut self, at_ns: i64, wire_len: u32, data: &[u8]) {
        let Some(writer) = &mut self.writer else {
            self.lost += 1;
            return;
        };
        let pending = writer.pending() + 1;
        if let Err(error) = writer.packet(at_ns, wire_len, data) {
            self.lost += pending;
            self.error = Some(error);
            self.writer = None;
        }
    }

    /// What went wrong.
    fn finish(mut self, capture: &record::Capture) -> Option<String> {
        if let Some(writer) = self.writer.take() {
            let pending = writer.pending();
            let totals = Totals {
                started_ns: 0,
                ended_ns: crate::host::clock::now_ns(),
                received: capture.dropped_kernel.map(|dropped| capture.packets + dropped),
                dropped_kernel: capture.dropped_kernel,
                dropped_interface: capture.dropped_interface,
            };
            if let Err((_, error)) = writer.finish(&totals) {
                self.lost += pending;
                self.error = Some(error);
            }
        }
        let error = self.error?;
        Some(format!("cannot send the packets of {}: {error}; {} are missing", capture.interface, self.lost))
    }
}
