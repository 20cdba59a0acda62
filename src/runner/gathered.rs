//! What has been observed of an iteration so far, and what the checks say of it.

use super::linktest::{self, Tested};
use crate::host::clock::now_ns;
use crate::ids::{NodeId, Stage};
use crate::instrument::capture::{Analysed, Effort, NodeFacts};
use crate::instrument::counters::{self, Counted};
use crate::instrument::host::{Used, metrics};
use crate::instrument::network;
use crate::instrument::probe::{self, Probed};
use crate::instrument::syscalls::{self, Traced};
use crate::record::{
    Capture, CounterPlace, Environment, Event, EventLevel, Metric, Moment, PathMatch, Probe, Quantile, Setting,
    SyscallTrace,
};
use crate::spec::{Spec, VerifySpec, WorkloadSpec};
use crate::testbed::Path;
use crate::verify::{self, Note, Traffic, Verdict};
use crate::workload::drive::Driven;

/// Each stage adds to it.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) settings: Vec<Setting>,
    pub(super) metrics: Vec<Metric>,
    pub(super) quantiles: Vec<Quantile>,
    pub(super) captures: Vec<Capture>,
    pub(super) paths: Vec<PathMatch>,
    pub(super) syscalls: Vec<SyscallTrace>,
    pub(super) probes: Vec<Probe>,
    pub(super) counters: Vec<CounterPlace>,
    pub(super) environment: Vec<Environment>,
    pub(super) verdict: Verdict,
}

/// What the collect stage has in its hands.
pub(super) struct Collected {
    pub(super) driven: Driven,
    /// `None` when nothing was to be captured.
    pub(super) captures: Option<Analysed>,
    /// Capture points there were.
    pub(super) points: usize,
    /// Read after the workload.
    pub(super) settings: Vec<Setting>,
    /// What the hosts that carry the nodes did while the clients ran.
    pub(super) hosts: Vec<Used>,
    /// System calls.
    pub(super) traced: Traced,
    /// Path probes.
    pub(super) probed: Probed,
    /// Counters; `None` when none were to be read.
    pub(super) counted: Option<Counted>,
}

impl Gathered {
    /// Settings and paths before the workload.
    pub(super) fn verified(&mut self, spec: &VerifySpec, settings: Vec<Setting>, paths: &[Path]) -> Vec<Event> {
        let mut verdict = verify::settings(&settings);
        verdict.add(verify::paths(paths, spec.path));
        self.settings = settings;
        self.judge(Stage::Verify, verdict)
    }

    /// Hosts of nodes that nobody watches.
    pub(super) fn unwatched(&mut self, spec: &VerifySpec, nodes: &[NodeId]) -> Vec<Event> {
        let mut verdict = Verdict::new();
        nodes.iter().for_each(|node| verdict.add(verify::unwatched(*node, spec)));
        self.judge(Stage::Verify, verdict)
    }

    /// The links before the workload.
    pub(super) fn tested(&mut self, host: &str, tested: Tested) -> Vec<Event> {
        self.environment.extend(linktest::fact(host, &tested));
        self.metrics.extend(tested.metrics);
        self.judge(Stage::Verify, tested.verdict)
    }

    /// Everything after the workload.
    pub(super) fn collected(&mut self, spec: &Spec, host_name: &str, collected: Collected) -> Vec<Event> {
        let Collected { driven, captures, points, settings, hosts, traced, probed, counted } = collected;
        let traffic = traffic(spec, &driven);
        let spec = &spec.verify;
        let mut events = driven.events;
        let mut verdict = Verdict::new();
        verdict.add_workload(driven.invalid, driven.suspect);
        verdict.add(verify::client_cpu(&driven.clients, spec.client_cpu));
        verdict.add(verify::start_skew(&driven.clients));
        self.metrics.extend(driven.metrics);
        self.quantiles = driven.quantiles;

        let mut read_since = driven.settings;
        read_since.extend(settings.into_iter().map(|setting| Setting { when: Moment::After, ..setting }));
        verdict.add(verify::settings(&read_since));
        self.settings.extend(read_since);
        verdict.add(verify::changes(&self.settings));

        if let Some(Analysed { captures, paths, problems, warnings, effort, nodes }) = captures {
            self.environment.extend(nodes.iter().flat_map(node_facts));
            verdict.add_problems(problems);
            verdict.events.extend(warnings.into_iter().map(|text| Note { level: EventLevel::Warn, text }));
            if let Some(effort) = effort {
                verdict.events.push(note(&effort));
                self.environment.extend(facts(host_name, &effort));
            }
            verdict.add(verify::captures(&captures, points, traffic));
            verdict.add(verify::vantages(&captures, &self.settings, spec.vantage_difference));
            self.metrics.extend(network::metrics(&captures));
            self.metrics.extend(network::path_metrics(&captures, &paths));
            (self.captures, self.paths) = (captures, paths);
        }
        verdict.add_problems(traced.problems);
        self.metrics.extend(syscalls::metrics(&traced.traces));
        self.syscalls = traced.traces;
        verdict.add_problems(probed.problems);
        verdict.events.extend(probed.notes.into_iter().map(|text| Note { level: EventLevel::Warn, text }));
        self.metrics.extend(probe::metrics(&probed.probes));
        self.probes = probed.probes;
        if let Some(counted) = counted {
            let notes = counters::notes(&counted).into_iter();
            verdict.events.extend(notes.map(|text| Note { level: EventLevel::Info, text }));
            self.metrics.extend(counters::metrics(&counted));
            verdict.add_problems(counted.problems);
            self.counters = counted.places.into_iter().map(|counted| counted.place).collect();
        }
        for Used { node, used } in &hosts {
            verdict.add(verify::host(*node, used, spec));
            self.metrics.extend(metrics(*node, used));
        }
        events.extend(self.judge(Stage::Collect, verdict));
        events
    }

    fn judge(&mut self, stage: Stage, verdict: Verdict) -> Vec<Event> {
        let events = verdict.events_at(stage, now_ns());
        self.verdict.add(verdict);
        events
    }
}

/// What the captures should have seen. A user's own commands may need no network, and a workload that failed may not have
/// come so far.
fn traffic(spec: &Spec, driven: &Driven) -> Traffic {
    if spec.capture.filter.is_some() {
        Traffic::Filtered
    } else if matches!(spec.workload, WorkloadSpec::Command { .. }) || !driven.invalid.is_empty() {
        Traffic::Unknown
    } else {
        Traffic::Expected
    }
}

/// How the analysis of packets went. Worth a warning when it took CPU time from the workload.
fn note(effort: &Effort) -> Note {
    let [idle, forced, after] = effort.packets;
    let mib = |bytes: u64| bytes >> 20;
    let (peak, limit) = (mib(effort.peak), mib(effort.limit));
    let text = format!(
        "TCP analysis: {idle} packets while CPUs were idle, {after} after the workload, {forced} at its expense; at most \
         {peak} of {limit} MiB of packets waited{}",
        if effort.was_full { ", and there was no more room at times" } else { "" }
    );
    Note { level: if forced > 0 { EventLevel::Warn } else { EventLevel::Info }, text }
}

fn facts(host: &str, effort: &Effort) -> Vec<Environment> {
    let [idle, forced, after] = effort.packets;
    let facts = [
        ("analysis.packets_idle", idle.to_string()),
        ("analysis.packets_forced", forced.to_string()),
        ("analysis.packets_after", after.to_string()),
        ("analysis.spool_peak_bytes", effort.peak.to_string()),
        ("analysis.spool_bytes", effort.limit.to_string()),
        ("analysis.spool_was_full", effort.was_full.to_string()),
    ];
    facts.into_iter().map(|(name, value)| Environment { host: host.to_owned(), name: name.to_owned(), value }).collect()
}

/// A node's clock against this host's, and how its headers waited.
fn node_facts(of: &NodeFacts) -> Vec<Environment> {
    let before = &of.before;
    let mut facts = vec![
        ("clock.before_at_least_ns", before.at_least_ns.to_string()),
        ("clock.before_at_most_ns", before.at_most_ns.to_string()),
    ];
    if let Some(after) = &of.after {
        facts.extend([
            ("clock.after_at_least_ns", after.at_least_ns.to_string()),
            ("clock.after_at_most_ns", after.at_most_ns.to_string()),
        ]);
    }
    facts.extend(of.drift_ns().map(|drift| ("clock.drift_ns", drift.to_string())));
    if let Some(holding) = &of.holding {
        facts.extend([
            ("capture.held_peak_bytes", holding.peak.to_string()),
            ("capture.held_limit_bytes", holding.limit.to_string()),
            ("capture.sent_early_bytes", holding.early.to_string()),
        ]);
    }
    let fact = |(name, value): (&str, String)| Environment { host: of.node.to_string(), name: name.to_owned(), value };
    facts.into_iter().map(fact).collect()
}
