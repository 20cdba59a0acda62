//! A capture point's thread, from opening to the finished record.

use std::io::{self, PipeReader};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use super::interface::{inside, receive_drops};
use super::open::{LinkType, Opened, Settings, open};
use super::pcapng::Totals;
use super::reader::{Seen, Window, read};
use super::{CaptureError, PacketSink, place};
use crate::record::{Capture, Problem, Weight};
use crate::testbed::CapturePoint;

/// What a thread returns at its end.
#[derive(Debug)]
pub(super) struct Finished<S> {
    pub(super) capture: Capture,
    pub(super) problems: Vec<Problem>,
    /// Did it read to the end, and get everything that was not dropped?
    pub(super) whole: bool,
    pub(super) sink: S,
}

/// A capture thread. Dropping it ends it, provided that the stop pipe is closed if it has begun to read.
#[derive(Debug)]
pub(super) struct Thread<S> {
    handle: Option<JoinHandle<Option<Finished<S>>>>,
    ready: mpsc::Receiver<Result<LinkType, CaptureError>>,
    /// Sending the sink starts the reading; closing it ends a thread that has not begun.
    go: Option<mpsc::SyncSender<S>>,
}

impl<S: PacketSink> Thread<S> {
    /// Starts the thread, which begins to open the point.
    pub(super) fn spawn(
        point: &CapturePoint,
        settings: &Settings,
        stop: Arc<PipeReader>,
        window: Arc<Window>,
    ) -> io::Result<Self> {
        let (report, ready) = mpsc::sync_channel(1);
        let (go, sink) = mpsc::sync_channel(1);
        let job = Job { point: point.clone(), settings: settings.clone(), stop, window };
        let name = format!("capture {}", point.node);
        let handle = std::thread::Builder::new().name(name).spawn(move || job.run(&report, &sink))?;
        Ok(Self { handle: Some(handle), ready, go: Some(go) })
    }

    /// Waits until the point is open.
    pub(super) fn ready(&self) -> Result<LinkType, CaptureError> {
        let died = || CaptureError::Thread(io::Error::other("it died while it opened the interface"));
        self.ready.recv().unwrap_or_else(|_| Err(died()))
    }

    /// Starts the reading.
    pub(super) fn go(&mut self, sink: S) {
        if let Some(go) = self.go.take() {
            // A thread that has died meanwhile says so when it is joined.
            let _ = go.send(sink);
        }
    }
}

impl<S> Thread<S> {
    /// Waits for the end; an error is the message of a panic.
    pub(super) fn join(mut self) -> Result<Finished<S>, String> {
        drop(self.go.take());
        let Some(handle) = self.handle.take() else { return Err("it was joined before".to_owned()) };
        match handle.join() {
            Ok(finished) => finished.ok_or_else(|| "it was never told to begin".to_owned()),
            Err(panic) => Err(panic_text(panic.as_ref())),
        }
    }
}

impl<S> Drop for Thread<S> {
    fn drop(&mut self) {
        drop(self.go.take());
        if let Some(Err(panic)) = self.handle.take().map(JoinHandle::join) {
            tracing::warn!("a capture thread died: {}", panic_text(panic.as_ref()));
        }
    }
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panicked".to_owned())
}

/// What the thread owns.
struct Job {
    point: CapturePoint,
    settings: Settings,
    stop: Arc<PipeReader>,
    window: Arc<Window>,
}

impl Job {
    fn run<S: PacketSink>(
        self,
        report: &mpsc::SyncSender<Result<LinkType, CaptureError>>,
        sink: &mpsc::Receiver<S>,
    ) -> Option<Finished<S>> {
        let opened = match open(&self.point, &self.settings) {
            Ok(opened) => opened,
            Err(error) => {
                report.send(Err(error)).ok()?;
                return None;
            }
        };
        let drops_before = opened.interface_drops;
        report.send(Ok(opened.link_type)).ok()?;
        let Ok(sink) = sink.recv() else {
            discard(opened);
            return None;
        };
        let mut seen = read(opened, sink, &self.stop, &self.window, self.point.interface == "lo");
        let drops_after = inside(&self.point, || Ok(receive_drops(&self.point.interface))).ok().flatten();
        let dropped = drops_before.zip(drops_after).and_then(|(before, after)| after.checked_sub(before));
        if !self.window.abandoned.load(Ordering::Relaxed) {
            seen.sink.end();
        }
        Some(self.finish(seen, dropped))
    }

    fn finish<S>(&self, seen: Seen<S>, dropped_interface: Option<u64>) -> Finished<S> {
        let dropped_kernel = seen.counters.map(|counters| u64::from(counters.dropped));
        let mut problems = Vec::from_iter(self.problem(&seen));
        let whole = problems.is_empty();
        let totals = Totals {
            started_ns: self.window.from_ns.load(Ordering::Relaxed),
            ended_ns: self.window.until_ns.load(Ordering::Relaxed),
            received: dropped_kernel.map(|dropped| seen.tally.packets() + dropped),
            dropped_kernel,
            dropped_interface,
        };
        let ended = match seen.kept {
            Some(kept) if self.window.abandoned.load(Ordering::Relaxed) => {
                kept.discard();
                None
            }
            kept => kept.map(|kept| kept.finish(&totals)),
        };
        let (file, problem) = ended.map_or((None, None), |ended| (ended.file, ended.problem));
        problems.extend(problem.map(|text| Problem { weight: Weight::Suspect, text }));
        let capture = Capture {
            node: self.point.node,
            vantage: self.point.vantage,
            interface: self.point.interface.clone(),
            snaplen: self.settings.snaplen,
            packets: seen.tally.packets(),
            bytes: seen.tally.bytes(),
            dropped_kernel,
            dropped_interface,
            ring_bytes: self.settings.ring_bytes,
            sizes: seen.tally.sizes(),
            file: file.map(|path| below_campaign(&path)),
            tcp: None,
        };
        Finished { capture, problems, whole, sink: seen.sink }
    }

    fn problem<S>(&self, seen: &Seen<S>) -> Option<Problem> {
        let place = place(&self.point);
        let missing = seen.counters.map_or(0, |counters| counters.missing);
        let lost = format!("{missing} packets that the kernel had captured were never handed over");
        match &seen.error {
            None if missing == 0 => None,
            None => Some(Problem { weight: Weight::Suspect, text: format!("capture of {place}: {lost}") }),
            Some(error) => {
                let text = format!("capture of {place} ended early, after {} packets: {error}", seen.tally.packets());
                let text = if missing == 0 { text } else { format!("{text}; {lost}") };
                Some(Problem { weight: Weight::Invalid, text })
            }
        }
    }
}

fn discard(opened: Opened) {
    if let Some(kept) = opened.kept {
        kept.discard();
    }
}

/// The last directory and the file name: `000001-0123456789ab.d/client1-guest.pcapng`.
pub(super) fn below_campaign(path: &Path) -> String {
    let names: PathBuf = path.parent().and_then(Path::file_name).into_iter().chain(path.file_name()).collect();
    names.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_files_are_named_from_the_campaign_directory() {
        let cases =
            [("/x/out/000001-aa.d/client1-guest.pcapng", "000001-aa.d/client1-guest.pcapng"), ("a.png", "a.png")];
        for (path, expected) in cases {
            assert_eq!(below_campaign(Path::new(path)), expected);
        }
    }
}
