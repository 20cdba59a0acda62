//! What captures say when all their packets have been analysed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::collect::assemble;
use super::group::Group;
use super::paths::{self, Whole};
use super::work::{PointWork, Running, State};
use super::{BINS, FlowOptions, Flows, ROWS};
use crate::flow::Matched;
use crate::instrument::capture::{NodeFacts, Stopped, thread};
use crate::record::{Capture, PathMatch, Problem, Tcp, Weight};

/// What an engine came to.
struct Ended {
    records: u64,
    tcp: Tcp,
    problems: Vec<String>,
}

fn finish(running: Running, options: &FlowOptions) -> Ended {
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
        let ended = |(point, options): (PointWork, &FlowOptions)| match point.state {
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
    /// What is known of captures on nodes behind agents.
    pub nodes: Vec<NodeFacts>,
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
        let Self { captures, problems, whole, sinks, nodes } = self;
        let mut groups: Vec<Arc<Group>> = Vec::new();
        for (group, _) in sinks.iter().filter_map(|sink| sink.at.as_ref()) {
            if !groups.iter().any(|other| Arc::ptr_eq(other, group)) {
                groups.push(Arc::clone(group));
            }
        }
        let mut done = all_done(&groups);
        let mut analysed = Analysed { captures, problems, nodes, ..Analysed::default() };
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
