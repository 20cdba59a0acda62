//! A capture that the testbed takes itself, into a file that is read when it has been stopped.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use pcap::{Capture as File, Precision};

use super::kept::Kept;
use super::open::{Settings, plain};
use super::pcapng::{Interface, Totals};
use super::reader::Window;
use super::tally::Tally;
use super::thread::{Finished, below_campaign, panic_text};
use super::{CaptureError, PacketSink};
use crate::record::{Capture, Problem, Weight};
use crate::testbed::{CapturePoint, Recorder};

/// Link layer of what testbeds capture.
const ETHERNET: u16 = 1;

/// See the module.
#[derive(Debug)]
pub(super) struct Recorded<S> {
    state: State<S>,
}

#[derive(Debug)]
enum State<S> {
    Running(Box<Job<S>>),
    Stopping(JoinHandle<Result<Finished<S>, String>>),
    Over,
}

#[derive(Debug)]
struct Job<S> {
    point: CapturePoint,
    recorder: Arc<dyn Recorder>,
    settings: Settings,
    window: Arc<Window>,
    sink: S,
}

/// Has the testbed begin. Blocks.
///
/// # Errors
/// [`CaptureError::Open`] with the testbed's reason.
pub(super) fn begin(point: &CapturePoint, recorder: &dyn Recorder, settings: &Settings) -> Result<(), CaptureError> {
    let begun = recorder.start(settings.snaplen, settings.filter.as_deref());
    begun.map_err(|source| CaptureError::open(point, source))
}

impl<S: PacketSink> Recorded<S> {
    pub(super) fn new(
        point: &CapturePoint,
        recorder: &Arc<dyn Recorder>,
        settings: Settings,
        window: &Arc<Window>,
        sink: S,
    ) -> Self {
        let (point, recorder, window) = (point.clone(), Arc::clone(recorder), Arc::clone(window));
        Self { state: State::Running(Box::new(Job { point, recorder, settings, window, sink })) }
    }

    /// Begins to stop and to read, beside other points that do the same.
    pub(super) fn stop(&mut self) {
        if let State::Running(job) = std::mem::replace(&mut self.state, State::Over) {
            self.state = State::Stopping(std::thread::spawn(move || job.finish()));
        }
    }

    /// Waits for the end.
    pub(super) fn join(self) -> Result<Finished<S>, String> {
        match self.state {
            State::Stopping(thread) => thread.join().unwrap_or_else(|panic| Err(panic_text(panic.as_ref()))),
            State::Running(_) | State::Over => Err("it was never stopped".to_owned()),
        }
    }
}

impl<S: PacketSink> Job<S> {
    fn finish(mut self) -> Result<Finished<S>, String> {
        let file = self.recorder.stop().map_err(|error| error.to_string())?;
        let mut kept = self.keep().map_err(|error| error.to_string())?;
        let (tally, error) = self.read(&file, &mut kept);
        self.sink.end();
        let problem = |text| Problem { weight: Weight::Invalid, text };
        let mut problems: Vec<Problem> = error.into_iter().map(problem).collect();
        let whole = problems.is_empty();
        let totals = Totals {
            started_ns: self.window.from_ns.load(Ordering::Relaxed),
            ended_ns: self.window.until_ns.load(Ordering::Relaxed),
            received: None,
            dropped_kernel: None,
            dropped_interface: None,
        };
        let ended = kept.map(|kept| kept.finish(&totals));
        let (file, problem) = ended.map_or((None, None), |ended| (ended.file, ended.problem));
        problems.extend(problem.map(|text| Problem { weight: Weight::Suspect, text }));
        let capture = Capture {
            node: self.point.node,
            vantage: self.point.vantage,
            interface: self.point.interface.clone(),
            snaplen: self.settings.snaplen,
            packets: tally.packets(),
            bytes: tally.bytes(),
            // Whoever has captured has not counted them.
            dropped_kernel: None,
            dropped_interface: None,
            ring_bytes: 0,
            sizes: tally.sizes(),
            file: file.map(|path| below_campaign(&path)),
            tcp: None,
        };
        Ok(Finished { capture, problems, whole, sink: self.sink })
    }

    fn keep(&self) -> std::io::Result<Option<Kept>> {
        let Some((directory, stem)) = &self.settings.keep else { return Ok(None) };
        let interface = Interface {
            name: &self.point.interface,
            link_type: ETHERNET,
            snaplen: self.settings.snaplen,
            filter: self.settings.filter.as_deref(),
        };
        Kept::create(directory, stem, &interface).map(Some)
    }

    /// Hands on every packet in the window; says why it ended early.
    fn read(&mut self, path: &Path, kept: &mut Option<Kept>) -> (Tally, Option<String>) {
        let mut tally = Tally::default();
        let failed = |error: &pcap::Error| Some(format!("capture of {}: {}", super::place(&self.point), plain(error)));
        let mut file = match File::from_file_with_precision(path, Precision::Nano) {
            Ok(file) => file,
            Err(error) => return (tally, failed(&error)),
        };
        loop {
            let packet = match file.next_packet() {
                Ok(packet) => packet,
                Err(pcap::Error::NoMorePackets) => return (tally, None),
                Err(error) => return (tally, failed(&error)),
            };
            // With nanosecond precision `tv_usec` holds nanoseconds.
            let at_ns = packet.header.ts.tv_sec * 1_000_000_000 + packet.header.ts.tv_usec;
            if !self.window.contains(at_ns) {
                continue;
            }
            tally.add(packet.header.len);
            if let Some(kept) = kept {
                kept.packet(at_ns, packet.header.len, packet.data);
            }
            self.sink.packet(at_ns, packet.header.len, packet.data);
        }
    }
}
