//! Capture points on a node behind an agent, as their host holds them: the packets' headers come here and are analysed here.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::flows::Inlet;
use super::{CaptureError, FILTER, Holding, LinkType, place};
use crate::agent::{AgentError, CaptureEnd, CaptureRequest, Client, ClockReading, FailureKind, KeptPackets};
use crate::ids::NodeId;
use crate::record::{self, Problem, Weight};
use crate::spec::CaptureSpec;
use crate::testbed::CapturePoint;

/// Counters of an agent are whole numbers that a database and a mean can hold.
const MOST: u64 = 1 << 53;

/// Round trips by which clocks are compared.
const ROUNDS: u32 = 10;
/// Frames of headers that wait for the analysis.
const WAITING: usize = 4;
/// Where each question costs much, bounds that are further apart are told: nanoseconds.
const MOST_WIDTH_NS: u64 = 200_000_000;
/// Bounds that cross by no more than this are those of clocks that run at different rates: nanoseconds, and parts of the time that the
/// questions took.
const MOST_CROSSING_NS: u64 = 1_000_000;
const MOST_CROSSING_PART: u64 = 1000;
/// A clock that moved further against ours than this during a capture mixes up the order of packets of different points.
const MOST_DRIFT_NS: u64 = 500_000_000;

type Headers = tokio::sync::mpsc::Receiver<Vec<u8>>;
type Feeder = JoinHandle<Result<u64, String>>;

/// What is known of a capture on a node behind an agent, besides its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeFacts {
    /// Which node.
    pub node: NodeId,
    /// Its wall clock against this host's before the capture. Times of its packets were put onto this host's clock by the middle.
    pub before: ClockReading,
    /// The same after it; `None` when it could not be read.
    pub after: Option<ClockReading>,
    /// How the headers waited there; `None` when none were wanted.
    pub holding: Option<Holding>,
}

impl NodeFacts {
    /// How far the node's clock moved against this host's, as far as that is certain: nanoseconds; 0 when the bounds allow that
    /// it did not, `None` when the clock could not be read again.
    pub fn drift_ns(&self) -> Option<i64> {
        let (before, after) = (&self.before, self.after.as_ref()?);
        let at_least = after.at_least_ns.saturating_sub(before.at_most_ns);
        let at_most = after.at_most_ns.saturating_sub(before.at_least_ns);
        Some(if at_least > 0 { at_least } else { at_most.min(0) })
    }
}

/// Nanoseconds that the node's clock is ahead of ours. Whole microseconds: the statistics are computed of those, and do not depend on
/// it then.
fn ahead_ns(clock: &ClockReading) -> i64 {
    let middle = i64::midpoint(clock.at_least_ns, clock.at_most_ns);
    middle - middle % 1000
}

/// Nanoseconds between its bounds, also of those that cross: the clock is not known better than that.
fn width_ns(clock: &ClockReading) -> u64 {
    clock.at_most_ns.abs_diff(clock.at_least_ns)
}

/// Nanoseconds by which its bounds cross further than clocks do that only run at different rates: one of them was set between two
/// questions then, or runs far too fast.
fn crossing_ns(clock: &ClockReading) -> Option<u64> {
    let by = (clock.at_most_ns < clock.at_least_ns).then(|| width_ns(clock))?;
    (by > MOST_CROSSING_NS && by > clock.took_ns / MOST_CROSSING_PART).then_some(by)
}

fn set_meanwhile(facts: &NodeFacts) -> Option<Problem> {
    let by = [Some(facts.before), facts.after].into_iter().flatten().filter_map(|clock| crossing_ns(&clock)).max()?;
    let node = facts.node;
    let text = format!(
        "the clock of {node} and this host's moved against each other by {:.6} s at least while they were compared: one of them \
         may have been set",
        by as f64 / 1e9
    );
    Some(Problem { weight: Weight::Suspect, text })
}

/// What came of a capture.
struct Ended {
    end: CaptureEnd,
    /// What became of packets that were kept on a disk of the node's: what is wrong with them, or why there are none.
    on_disk: Option<Result<Option<String>, AgentError>>,
    before: ClockReading,
    /// An agent that does not answer this has left a record all the same.
    after: Result<ClockReading, AgentError>,
}

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
    ready: mpsc::Receiver<Result<Option<Feeder>, AgentError>>,
    /// Bytes of each packet that were asked for.
    snaplen: u32,
    /// Are kept packets on a disk of the node's until the end?
    on_disk: bool,
    /// Takes headers; `None` when none are wanted, and before it is ready.
    feeder: Option<Feeder>,
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

    /// Are its packets on a disk of the node's until the end?
    pub(super) fn is_on_disk(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.on_disk)
    }

    /// Begins to capture; [`Remote::ready`] waits for it. `captures` run on the node at a time; `inlet` is where headers go, if they are
    /// wanted.
    pub(super) fn begin(&mut self, spec: &CaptureSpec, captures: usize, inlet: Option<Inlet>) {
        let on_disk = self.keep.as_ref().and_then(|_| self.client.packets_number());
        let request = CaptureRequest {
            node: self.point.node,
            vantage: self.point.vantage,
            interface: self.point.interface.clone(),
            snaplen: spec.snaplen,
            filter: spec.filter.clone(),
            ring: spec.ring,
            headers: inlet.is_some(),
            hold: inlet.as_ref().and_then(Inlet::hold),
            captures,
            keep: self.keep.is_some() && on_disk.is_none(),
            on_disk,
        };
        let (report, ready) = mpsc::sync_channel(1);
        let (finish, ended) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel::<()>();
        // Made here, so that it is there to be removed whenever this is dropped.
        let path = self.keep.as_ref().map(|(directory, stem)| beside(directory, stem));
        let keep = path.as_ref().filter(|_| on_disk.is_none()).map(File::create);
        let client = self.client.clone();
        self.client.runtime().spawn(async move {
            let started = async {
                let failed = |what: &str, source| AgentError::Here { what: what.to_owned(), source };
                let keep = keep.transpose().map_err(|error| failed("create the file to keep", error))?;
                let (sender, headers) = tokio::sync::mpsc::channel(WAITING);
                let sender = inlet.is_some().then_some(sender);
                let capture = client.capture(&request, keep.map(|file| Box::new(Blocking(file)) as _), sender);
                // One after the other: opening a ring makes the agent slow to answer, and pings are no packets of the workload.
                let before = client.clock(ROUNDS).await?;
                let capture = capture.await?;
                let link = LinkType(capture.link());
                let feeder = inlet.map(|inlet| feed(inlet, link, ahead_ns(&before), headers)).transpose();
                Ok((capture, before, feeder.map_err(|error| failed("start a thread", error))?))
            };
            let (capture, before) = match started.await {
                Ok((capture, before, feeder)) => {
                    let _ = report.send(Ok(feeder));
                    (capture, before)
                }
                Err(error) => {
                    // Whoever waited may have gone.
                    let _ = report.send(Err(error));
                    return;
                }
            };
            // Without a word the capture is given up: it ends with its value.
            if stopped.await.is_ok() {
                let ended = async {
                    let mut end = capture.stop().await?;
                    let after = client.clock(ROUNDS).await;
                    let packets = end.packets.take();
                    let on_disk = match path.zip(on_disk) {
                        Some((path, number)) => Some(bring(&client, packets, number, &path).await),
                        None => None,
                    };
                    Ok(Ended { end, on_disk, before, after })
                };
                let _ = finish.send(ended.await);
            }
        });
        let on_disk = on_disk.is_some();
        self.running = Some(Running { ready, snaplen: spec.snaplen, on_disk, feeder: None, stop: Some(stop), ended });
    }

    /// Waits until it is capturing.
    pub(super) fn ready(&mut self) -> Result<(), CaptureError> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let gone = || AgentError::Lost(crate::agent::Lost::Ended);
        match running.ready.recv().unwrap_or_else(|_| Err(gone())) {
            Ok(feeder) => {
                running.feeder = feeder;
                Ok(())
            }
            Err(error) => Err(self.error(error)),
        }
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
    pub(super) fn join(mut self) -> Result<(record::Capture, Vec<Problem>, NodeFacts), String> {
        self.stop();
        let mut running = self.running.take().ok_or("it was never told to begin")?;
        let ended = running.ended.recv().map_err(|_| "the agent's task has died".to_owned());
        let ended = ended.and_then(|ended| ended.map_err(|error| chain(&error)));
        let fed = running.feeder.take().map(JoinHandle::join);
        let (has_come, is_whole) = match &ended {
            Ok(Ended { on_disk: Some(brought), .. }) => (brought.is_ok(), matches!(brought, Ok(None))),
            // What was sent until then is there, and nothing of what was written to a disk.
            Err(_) => (!running.on_disk, false),
            Ok(_) => (true, true),
        };
        let kept = self.keep.take().filter(|_| has_come).map(|(directory, stem)| settle(&directory, &stem, is_whole));
        let Ended { end: CaptureEnd { mut capture, mut problems, holding, .. }, on_disk, before, after } = ended
            .map_err(|error| match &kept {
                Some(Ok(path)) => format!("{error}; what was sent until then is in {}", path.display()),
                _ => error,
            })?;
        sane(&capture)?;
        // Who it is about is not for the agent to say.
        capture.node = self.point.node;
        capture.vantage = self.point.vantage;
        capture.interface.clone_from(&self.point.interface);
        capture.snaplen = running.snaplen;
        (capture.file, capture.tcp) = (None, None);
        match kept {
            None => {}
            Some(Ok(path)) => capture.file = Some(super::thread::below_campaign(&path)),
            Some(Err(problem)) => problems.push(Problem { weight: Weight::Suspect, text: problem }),
        }
        problems.extend(on_disk.and_then(|brought| self.cut(brought)));
        let unread = after.as_ref().err().map(|error| self.unread(error));
        let facts = NodeFacts { node: self.point.node, before, after: after.ok(), holding };
        problems.extend(fed.and_then(|fed| self.incomplete(fed, capture.packets)));
        problems.extend(unread.or_else(|| self.moved(&facts)));
        problems.extend(set_meanwhile(&facts));
        problems.extend(self.vague(&facts));
        for problem in &mut problems {
            problem.text = problem.text.chars().filter(|c| !c.is_control()).take(1000).collect();
        }
        Ok((capture, problems, facts))
    }

    /// Every packet that was captured must have come.
    fn incomplete(&self, fed: std::thread::Result<Result<u64, String>>, packets: u64) -> Option<Problem> {
        let text = match fed {
            Ok(Ok(came)) if came == packets => return None,
            Ok(Ok(came)) => format!("{came} of {packets} came"),
            Ok(Err(error)) => error,
            Err(panic) => super::thread::panic_text(panic.as_ref()),
        };
        let text = format!("headers of packets of {} are missing: {text}", self.place());
        Some(Problem { weight: Weight::Invalid, text })
    }

    /// Packets that were kept on a disk of the node's and are not all here.
    fn cut(&self, brought: Result<Option<String>, AgentError>) -> Option<Problem> {
        let place = self.place();
        let text = match brought {
            Ok(None) => return None,
            Ok(Some(problem)) => format!("packets of {place} were kept in part: {problem}"),
            Err(error) => format!("packets of {place} were kept and are lost: {}", chain(&error)),
        };
        Some(Problem { weight: Weight::Suspect, text })
    }

    /// Whether the order of packets of different points is right is not known then.
    fn unread(&self, error: &AgentError) -> Problem {
        let text = format!("how far the clock of {} moved is unknown: {}", self.point.node, chain(error));
        Problem { weight: Weight::Suspect, text }
    }

    /// Bounds between which the clock is, where they are far apart.
    fn vague(&self, facts: &NodeFacts) -> Option<Problem> {
        if !self.client.is_slow() {
            return None;
        }
        let width = [Some(facts.before), facts.after].into_iter().flatten().map(|clock| width_ns(&clock)).max()?;
        (width > MOST_WIDTH_NS).then(|| {
            let node = self.point.node;
            let text = format!(
                "the clock of {node} against this host's is known to \u{b1}{:.3} s only (\u{b1}{:.3} s at most): each question about it \
                 took long",
                width as f64 / 2e9,
                MOST_WIDTH_NS as f64 / 2e9,
            );
            Problem { weight: Weight::Suspect, text }
        })
    }

    fn moved(&self, facts: &NodeFacts) -> Option<Problem> {
        let drift = facts.drift_ns()?;
        (drift.unsigned_abs() > MOST_DRIFT_NS).then(|| {
            let node = self.point.node;
            let text = format!("the clock of {node} moved by {:.3} s during the capture", drift as f64 / 1e9);
            Problem { weight: Weight::Suspect, text }
        })
    }
}

/// What is wrong with the packets that are there then, if anything is.
async fn bring(
    client: &Client,
    packets: Option<KeptPackets>,
    number: u64,
    target: &Path,
) -> Result<Option<String>, AgentError> {
    let none = || AgentError::Answer { request: "capture", text: "nothing is said of the packets to keep".to_owned() };
    // One that a run has left which was killed. It is ours, and counts for nothing.
    let _ = fs::remove_file(target);
    client.bring_packets(&packets.ok_or_else(none)?, number, target).await
}

/// The thread that puts headers into the analysis, and may have to wait for it: the sender gets no credit meanwhile.
fn feed(inlet: Inlet, link: LinkType, ahead_ns: i64, mut headers: Headers) -> io::Result<Feeder> {
    let mut records = inlet.open(link, ahead_ns);
    std::thread::Builder::new().name("headers".to_owned()).spawn(move || {
        while let Some(bytes) = headers.blocking_recv() {
            records.feed(&bytes)?;
        }
        records.end()
    })
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

/// Makes a kept file durable and gives it its name. One that is not whole gets another.
fn settle(directory: &Path, stem: &str, whole: bool) -> Result<PathBuf, String> {
    // Here rather than where it was written: that thread serves all agents.
    let synced = if whole { File::open(beside(directory, stem)).and_then(|file| file.sync_all()) } else { Ok(()) };
    let whole = whole && synced.is_ok();
    let name = if whole { format!("{stem}.pcapng") } else { format!("{stem}.partial.pcapng") };
    let path = directory.join(name);
    let renamed = fs::rename(beside(directory, stem), &path);
    renamed.map_err(|error| format!("cannot rename the kept file to {}: {error}", path.display()))?;
    match synced {
        Ok(()) => Ok(path),
        Err(error) => Err(format!("cannot write the kept file {} to its disk: {error}", path.display())),
    }
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
    let mut all = counters.chain(capture.sizes.iter().map(|bin| bin.packets));
    match all.find(|&counter| counter > MOST) {
        Some(counter) => Err(format!("the agent's record makes no sense: a counter of {counter}")),
        None if !capture.sizes_ordered() => Err("the agent's record makes no sense: packet sizes overlap".to_owned()),
        None => Ok(()),
    }
}

/// A file on this host: writing takes no time worth another thread. [`settle`] makes it durable.
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
        std::task::Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_has_moved_only_as_far_as_is_certain() {
        let reading =
            |at_least_ns, at_most_ns| ClockReading { at_least_ns, at_most_ns, round_trip_ns: 1, rounds: 1, took_ns: 1 };
        let cases = [
            ([0, 10], [5, 20], 0),
            ([0, 10], [15, 20], 5),
            ([0, 10], [-30, -20], -20),
            ([i64::MIN, i64::MAX], [0, 1], 0),
            ([i64::MAX, i64::MAX], [i64::MIN, i64::MIN], i64::MIN),
        ];
        for ([a, b], [c, d], expected) in cases {
            let (before, after) = (reading(a, b), Some(reading(c, d)));
            let facts = NodeFacts { node: NodeId::client(1), before, after, holding: None };
            assert_eq!(facts.drift_ns(), Some(expected), "{facts:?}");
            assert_eq!(NodeFacts { after: None, ..facts }.drift_ns(), None);
        }
        assert_eq!(ahead_ns(&reading(-3_500, -1_500)), -2_000);
        assert_eq!(ahead_ns(&reading(i64::MIN, i64::MAX)), 0);
    }

    /// Bounds cross by a little where clocks run at different rates.
    #[test]
    fn a_clock_that_was_set_between_two_questions_is_told() {
        let took = |at_least_ns, at_most_ns, took_ns| ClockReading {
            at_least_ns,
            at_most_ns,
            round_trip_ns: 1,
            rounds: 4,
            took_ns,
        };
        let reading = |at_least_ns, at_most_ns| took(at_least_ns, at_most_ns, 10_000_000);
        let told = |before, after| {
            let facts = NodeFacts { node: NodeId::client(1), before, after, holding: None };
            set_meanwhile(&facts).map(|problem| problem.text)
        };
        let (fine, point) = (reading(-5, 5), reading(7, 7));
        assert_eq!((told(fine, None), told(fine, Some(point)), told(point, Some(fine))), (None, None, None));
        for drifted in [reading(3_000, 0), reading(1_000_000, 0), took(2_000_000, 0, 2_000_000_000)] {
            assert_eq!((told(drifted, None), told(fine, Some(drifted))), (None, None), "{drifted:?}");
            assert!(width_ns(&drifted) >= 3_000, "{drifted:?}");
        }
        assert!(told(took(2_000_000, 0, 1_999_000_000), None).is_some());
        assert_eq!(width_ns(&reading(i64::MIN, i64::MAX)), u64::MAX);
        for (before, after) in [(reading(0, -2_000_000), None), (fine, Some(reading(3_000_000, 1_000_000)))] {
            let text = told(before, after).unwrap();
            assert_eq!(
                text,
                "the clock of client1 and this host's moved against each other by 0.002000 s at least while they were \
                 compared: one of them may have been set"
            );
        }
    }

    #[test]
    fn records_that_a_store_would_refuse_are_refused() {
        let bin = |from, to| record::SizeBin { from, to, packets: 1 };
        let capture = |sizes| record::Capture {
            node: NodeId::client(1),
            vantage: crate::ids::Vantage::Guest,
            interface: "eth0".to_owned(),
            snaplen: 128,
            packets: 1,
            bytes: 1,
            dropped_kernel: None,
            dropped_interface: None,
            ring_bytes: 1,
            sizes,
            file: None,
            tcp: None,
        };
        assert_eq!(sane(&capture(vec![bin(0, Some(64)), bin(64, Some(128)), bin(256, None)])), Ok(()));
        for sizes in [
            vec![bin(0, Some(65)), bin(64, None)],
            vec![bin(64, Some(128)), bin(0, Some(64))],
            vec![bin(0, None), bin(64, None)],
            vec![bin(64, Some(64))],
        ] {
            assert!(sane(&capture(sizes)).unwrap_err().contains("overlap"));
        }
        let many = record::Capture { packets: MOST + 1, ..capture(Vec::new()) };
        assert!(sane(&many).unwrap_err().contains("counter"));
    }
}
