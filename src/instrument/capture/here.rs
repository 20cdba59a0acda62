//! A capture on the node itself, for its host: what the host analyses is held and sent as it wants it.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::flows::spool::{Chunk, MAX_FRAME, needed};
use super::held::{Holder, Outlet, held, hold_bytes};
use super::interface::receive_drops;
use super::pcapng::{Interface, Totals, Writer};
use super::{CaptureError, Captures, LinkType, PacketSink, available_memory};
use crate::agent::{CaptureProgress, CaptureRequest};
use crate::record::{self, Problem, Weight};
use crate::spec::CaptureSpec;
use crate::testbed::{CapturePoint, CaptureSource};

/// How a failure begins whose cause is the filter.
pub(crate) const FILTER: &str = "compile the filter ";

/// A capture on the node itself, for the agent.
#[derive(Debug)]
pub(crate) struct Here {
    captures: Captures<Tap>,
    watch: Watch,
    link: LinkType,
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
    /// Starts to capture. With `keep`, packets are written there as pcapng: the other end has to read them. Headers come out of
    /// the outlet, if they are wanted.
    pub(crate) fn start(request: &CaptureRequest, keep: Option<File>) -> Result<(Self, Option<Outlet>), CaptureError> {
        let point = CapturePoint {
            node: request.node,
            vantage: request.vantage,
            interface: request.interface.clone(),
            source: CaptureSource::Live { namespace: None },
        };
        let spec = CaptureSpec {
            snaplen: request.snaplen,
            vantage: vec![request.vantage],
            statistics: false,
            connections: false,
            keep: false,
            filter: request.filter.clone(),
            ring: request.ring,
        };
        let seen = Arc::new(Seen::default());
        let dropped_before = receive_drops(&request.interface);
        let limit = hold_bytes(request.hold, request.captures, available_memory());
        let (mut holder, outlet) = request.headers.then(|| held(limit)).unzip();
        let (mut keep, mut link_type) = (keep, LinkType(1));
        let sink = |point: &CapturePoint, link: LinkType| {
            link_type = link;
            let interface = Interface {
                name: &point.interface,
                link_type: link.0,
                snaplen: request.snaplen,
                filter: request.filter.as_deref(),
            };
            let kept =
                keep.take().map(|file| Kept { writer: Some(Writer::new(file, &interface)), lost: 0, error: None });
            let ethernet = link.0 == 1;
            let copy = holder.take().map(|holder| Copy { holder, chunk: Chunk::with_room(), ethernet });
            Tap { copy, kept, seen: Arc::clone(&seen) }
        };
        let captures = Captures::start_with(&[point], &spec, None, sink)?;
        let watch = Watch { seen, interface: request.interface.clone(), dropped_before };
        Ok((Self { captures, watch, link: link_type }, outlet))
    }

    /// To look at it from elsewhere.
    pub(crate) fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Link layer of its packets, as in pcap files.
    pub(crate) const fn link(&self) -> u16 {
        self.link.0
    }

    /// Ends it. Blocks for about 50 ms, and as long as nobody reads what is kept, or takes headers for which there is no room.
    pub(crate) fn stop(self) -> Result<(record::Capture, Vec<Problem>), String> {
        let stopped = self.captures.stop();
        let mut problems = stopped.problems;
        let Some(capture) = stopped.captures.into_iter().next() else {
            let texts: Vec<_> = problems.into_iter().map(|problem| problem.text).collect();
            return Err(texts.join("; "));
        };
        let kept = stopped.sinks.into_iter().next().and_then(|tap| tap.kept);
        if let Some(problem) = kept.and_then(|kept| kept.finish(&capture)) {
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

/// Counts, copies what the analysis looks at, and writes packets to where they are kept.
#[derive(Debug)]
struct Tap {
    /// `None` when no headers are wanted, and after the last packet.
    copy: Option<Copy>,
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
        if let Some(copy) = &mut self.copy {
            copy.packet(at_ns, wire_len, data);
        }
    }

    fn end(&mut self) {
        if let Some(mut copy) = self.copy.take() {
            copy.hand_over();
        }
    }
}

/// The headers of packets, on their way into what is held.
#[derive(Debug)]
struct Copy {
    holder: Holder,
    chunk: Chunk,
    ethernet: bool,
}

impl Copy {
    #[inline]
    fn packet(&mut self, at_ns: i64, wire_len: u32, data: &[u8]) {
        let data = &data[..data.len().min(MAX_FRAME)];
        let kept = &data[..needed(self.ethernet, data)];
        if !self.chunk.has_room(kept.len()) {
            self.hand_over();
        }
        self.chunk.push(at_ns, wire_len, data.len(), kept);
    }

    fn hand_over(&mut self) {
        if self.chunk.packets() > 0 {
            self.holder.push(std::mem::replace(&mut self.chunk, Chunk::with_room()).into_bytes());
        }
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
