//! The life of one iteration: preflight, launch, verify, instrument, workload, collect, teardown. Whatever happens,
//! teardown runs, and there is a record at the end.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc::UnboundedReceiver;

use super::campaign::{CampaignError, header, sentinel_fact};
use super::cancel::Cancel;
use super::capturing::{Capturing, Late};
use super::gathered::{Collected, Gathered};
use super::jobs::Share;
use super::keep::{self, Kept};
use super::life::{Life, Stop};
use super::linktest::{self, LinkTest};
use super::load;
use super::observer::{Observer, Progress};
use super::running::Claim;
use super::tools;
use crate::host::clock::now_ns;
use crate::ids::{Stage, Vantage};
use crate::instrument::capture::{Captures, FlowOptions, FlowSinks, available_memory};
use crate::instrument::counters::{Counted, Counting};
use crate::instrument::host::{Here, Watch, Watched};
use crate::instrument::probe::{Probed, Running as Probing};
use crate::instrument::switch::Watching;
use crate::instrument::syscalls::{Running as Tracing, Traced};
use crate::plan::{Iteration, Plan};
use crate::record::{Environment, Event, EventLevel, IterationRecord, Metric, Moment, Outcome, Setting};
use crate::spec::{CounterSpec, Instrument, Tuple, Value};
use crate::store::AttemptName;
use crate::testbed::qemu::kept_console;
use crate::testbed::{CapturePoint, Instance, Notice, Pair, Request, Testbed};
use crate::workload::drive::{Drive, Driven};
use crate::workload::{Workload, assign_cpus};

/// How long taking down may last, whatever the iteration's own limit. A physical node behind rond whose agent is lost takes up
/// to 70 s of it.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(90);

/// How long the wish to stop may take to be heard here, when it has reached the processes of the workload before.
const WISH_LIMIT: Duration = Duration::from_millis(20);

/// How long after an error a lost node may take to be noticed.
const LOSS_LIMIT: Duration = Duration::from_secs(3);

/// What an iteration needs.
pub(super) struct Setup<'a> {
    pub(super) plan: &'a Plan,
    pub(super) iteration: Iteration<'a>,
    pub(super) testbed: &'a dyn Testbed,
    pub(super) workload: &'a dyn Workload,
    pub(super) environment: &'a [Environment],
    pub(super) out: &'a Path,
    pub(super) vptest: &'a Path,
    pub(super) host: &'a str,
    pub(super) keep_failed: bool,
    pub(super) observer: &'a dyn Observer,
    pub(super) cancel: Cancel,
    /// What it has of the host; `None` for all of it.
    pub(super) share: Option<&'a Share>,
}

/// How an iteration ended.
pub(super) struct Ended {
    pub(super) record: IterationRecord,
    /// How to look into the testbed that was left up.
    pub(super) kept: Option<String>,
    /// What could not be removed.
    pub(super) leftovers: Vec<String>,
}

/// Runs one attempt.
///
/// # Errors
/// Only when this host cannot run it at all; then it was taken down and nothing is to be stored.
pub(super) async fn run(setup: &Setup<'_>, claim: &mut Claim) -> Result<Ended, CampaignError> {
    let (notice, told) = Notice::channel();
    let request = Request {
        tuple: setup.iteration.tuple.clone(),
        programs: setup.workload.tools().into_iter().map(|tool| tool.program).collect(),
        notice,
        number: setup.iteration.number.0,
        attempt: claim.attempt(),
        scratch: absolute(claim.scratch())?,
        campaign: absolute(setup.out)?,
        vptest: setup.vptest.to_owned(),
    };
    let header = header(setup.plan, &setup.iteration, claim.attempt(), claim.started_ns(), setup.host);
    let artifacts = AttemptName::of(&header).artifacts(setup.out);
    let mut life = Life::new(setup, claim);
    let mut gathered = Gathered::default();
    let mut instance = None;
    let told = tokio::sync::Mutex::new(told);
    let capturing = Capturing::default();
    let stages = Stages { setup, request: &request, artifacts: &artifacts, told: &told, capturing: &capturing };
    let outcome = match stages.run(&mut life, &mut instance, &mut gathered).await {
        Ok(()) => gathered.verdict.clone().outcome(),
        Err(Stop::Outcome(outcome)) => outcome,
        // Before anything is up, this host cannot run it at all; later it is the iteration that failed.
        Err(Stop::Unsupported(error)) if instance.is_none() => return Err(error.into()),
        Err(Stop::Unsupported(error)) => {
            Outcome::Failed { stage: life.current(), error: format!("{:#}", anyhow::Error::from(error)) }
        }
    };
    let outcome = match wish_meanwhile(&outcome, &setup.cancel).await.filter(|_| !life.was_wished()) {
        Some((interrupted, text)) => {
            life.event(EventLevel::Warn, text);
            interrupted
        }
        None => outcome,
    };
    stages.end_captures(&mut life, &outcome, &mut gathered).await;
    let keep =
        setup.keep_failed && matches!(outcome, Outcome::Failed { .. } | Outcome::TimedOut { .. } | Outcome::Invalid(_));
    let kept = if keep { stages.keep(&mut life, &mut instance).await } else { None };
    let (outcome, leftovers) = stages.take_down(&mut life, instance, outcome, &mut gathered.environment).await;
    let outcome = stages.before_store(&mut life, outcome).await;
    if matches!(outcome, Outcome::Failed { .. } | Outcome::TimedOut { .. } | Outcome::Invalid(_))
        && let Err(error) = keep_consoles(&request.scratch, &artifacts)
    {
        life.event(EventLevel::Warn, format!("the consoles of the nodes are lost: {error:#}"));
    }
    let mut header = header;
    header.finished_ns = Some(now_ns());
    let mut environment = gathered.environment;
    environment.extend_from_slice(setup.environment);
    environment.extend(sentinel_fact(&setup.iteration, setup.host));
    Ok(Ended {
        record: IterationRecord {
            header,
            outcome,
            factors: factors(setup.iteration.tuple),
            settings: gathered.settings,
            metrics: gathered.metrics,
            quantiles: gathered.quantiles,
            captures: gathered.captures,
            paths: gathered.paths,
            syscalls: gathered.syscalls,
            probes: gathered.probes,
            counters: gathered.counters,
            events: std::mem::take(&mut life.events),
            stages: std::mem::take(&mut life.stages),
            environment,
        },
        kept,
        leftovers,
    })
}

/// Factor names and values as stored: groups also give a row for each member.
pub(super) fn factors(tuple: &Tuple) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    for (name, value) in tuple.iter() {
        rows.push((name.to_owned(), value.to_string()));
        if let Value::Group(members) = value {
            rows.extend(members.iter().map(|(member, value)| (format!("{name}.{member}"), value.to_string())));
        }
    }
    rows
}

fn absolute(path: &Path) -> anyhow::Result<std::path::PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot make {} an absolute path", path.display()))
}

/// The stages of one attempt.
struct Stages<'a> {
    setup: &'a Setup<'a>,
    request: &'a Request,
    artifacts: &'a Path,
    /// News of work that takes long.
    told: &'a tokio::sync::Mutex<UnboundedReceiver<String>>,
    capturing: &'a Capturing,
}

type Up = Box<dyn Instance>;

/// System calls, counters, and what a switch has counted, with notes.
type Observed = (Traced, Option<Counted>, (Vec<Metric>, Vec<String>));

/// The MTU of the link a point is on, as it was read back; `None` when it was not.
fn mtu(settings: &[Setting], point: &CapturePoint) -> Option<u32> {
    let name = if point.vantage == Vantage::Host { "host.mtu" } else { "mtu" };
    let read = settings.iter().find(|setting| setting.node == Some(point.node) && setting.name == name)?;
    read.observed.as_ref()?.parse().ok()
}

impl Stages<'_> {
    /// Everything up to collect.
    async fn run(&self, life: &mut Life<'_>, slot: &mut Option<Up>, gathered: &mut Gathered) -> Result<(), Stop> {
        let testbed = self.setup.testbed;
        life.stage(Stage::Preflight, async {
            testbed.enter(Stage::Preflight, self.request).await?;
            Ok(self.passing_on(testbed.preflight(self.request)).await?)
        })
        .await?;
        let up = life.stage(Stage::Launch, async {
            testbed.enter(Stage::Launch, self.request).await?;
            Ok(testbed.launch(self.request).await?)
        });
        let instance = slot.insert(up.await?);
        gathered.environment.extend(instance.environment());
        self.verify(life, instance, gathered).await?;
        let tracing = self.instrument(life, instance, &gathered.settings).await?;
        let (mut driven, host, probed, counting, watching) = self.workload(life, instance).await?;
        let ended = tokio::time::Instant::now();
        let (observed, settings, kept) =
            self.collect(life, instance, (tracing, counting, watching.map(|watching| (watching, ended)))).await?;
        let (captures, points) = self.capturing.take().await;
        let (traced, counted, (of_switch, notes)) = observed;
        driven.metrics.extend(of_switch);
        for note in notes {
            life.event(EventLevel::Warn, note);
        }
        driven.suspect.extend(kept.problems);
        driven.events.extend(kept.events);
        let spec = &self.setup.plan.spec;
        let hosts = host.finish().await;
        let collected = Collected { driven, captures, points, settings, hosts, traced, probed, counted };
        life.add(gathered.collected(spec, self.setup.host, collected));
        Ok(())
    }

    /// Passes on what the testbed tells while it works.
    async fn passing_on<T>(&self, work: impl Future<Output = T>) -> T {
        let mut told = self.told.lock().await;
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                Some(text) = told.recv() => self.setup.observer.notice(&Progress::Event {
                    number: self.setup.iteration.number,
                    level: EventLevel::Info,
                    text: &text,
                }),
            }
        }
    }

    /// Reads settings, walks paths and tests links; an iteration whose settings are not in force goes no further.
    async fn verify(&self, life: &mut Life<'_>, instance: &mut Up, gathered: &mut Gathered) -> Result<(), Stop> {
        let spec = &self.setup.plan.spec.verify;
        let lost = instance.lost();
        let mut events = Vec::new();
        let work = while_up(lost, async {
            self.setup.testbed.enter(Stage::Verify, self.request).await?;
            if instance.hosts().is_some() {
                // The programs are the nodes' own, and nobody has seen to it that they are the same.
                let tools = self.setup.workload.tools();
                gathered.environment.extend(tools::on_nodes(instance.pairs(), &tools).await);
            }
            let settings = self.settings(instance).await?;
            let paths = if spec.path { instance.paths().await? } else { Vec::new() };
            events = gathered.verified(spec, settings, &paths);
            events.extend(gathered.unwatched(spec, &instance.unwatched()));
            if gathered.verdict.invalid.is_empty() {
                events.extend(self.test_links(instance, gathered).await?);
            }
            Ok(())
        });
        let result = life.stage(Stage::Verify, work).await;
        life.add(events);
        result?;
        if gathered.verdict.invalid.is_empty() {
            Ok(())
        } else {
            Err(Stop::Outcome(gathered.verdict.clone().outcome()))
        }
    }

    /// Those of the testbed, and what the iteration has of the host.
    async fn settings(&self, instance: &mut Up) -> anyhow::Result<Vec<Setting>> {
        let mut settings = instance.settings().await?;
        settings.extend(self.setup.share.iter().flat_map(|share| share.settings()));
        Ok(settings)
    }

    /// Tests the links, where the spec asks for it and no iteration of the same tuple has done so.
    async fn test_links(&self, instance: &Up, gathered: &mut Gathered) -> anyhow::Result<Vec<Event>> {
        let Setup { plan, out, iteration, host, .. } = self.setup;
        let Some(spec) = plan.spec.verify.linktest else { return Ok(Vec::new()) };
        let note = |level, text| Event { at_ns: now_ns(), stage: Stage::Verify, level, text };
        if !instance.has_links() {
            return Ok(vec![note(EventLevel::Warn, "linktest: not made, this testbed has no links".to_owned())]);
        }
        if let Some(number) = linktest::passed_before(plan, out, iteration, spec.level, host)? {
            let text = format!("linktest: passed before, in iteration {number} of the same tuple");
            return Ok(vec![note(EventLevel::Info, text)]);
        }
        let tested = LinkTest { spec, tuple: &self.request.tuple }.run(instance.pairs()).await?;
        Ok(gathered.tested(host, tested))
    }

    /// Starts what observes; `None` for system calls when the spec does not ask for them.
    async fn instrument(
        &self,
        life: &mut Life<'_>,
        instance: &mut Up,
        settings: &[Setting],
    ) -> Result<Option<Tracing>, Stop> {
        let spec = &self.setup.plan.spec.capture;
        let notes = &mut Vec::new();
        let lost = instance.lost();
        let work = async {
            self.setup.testbed.enter(Stage::Instrument, self.request).await?;
            let tracing = self.trace(instance, notes).await;
            let mut points = instance.capture_points();
            points.retain(|point| spec.vantage.contains(&point.vantage));
            if !self.request.tuple.instruments().has(Instrument::Capture) || points.is_empty() {
                return Ok(tracing);
            }
            let keep_in = spec.keep.then(|| self.artifacts.to_owned());
            if let Some(directory) = &keep_in {
                std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
            }
            let spec = spec.clone();
            let (count, beside) = (points.len(), self.setup.share.map_or(1, |share| share.jobs as u64));
            let flows = FlowOptions {
                statistics: spec.statistics,
                connections: spec.connections,
                mtu: None,
                points: count,
                available: available_memory().map(|bytes| bytes / beside),
                hold: None,
                fault_after: None,
            };
            let options: Vec<_> =
                points.iter().map(|point| FlowOptions { mtu: mtu(settings, point), ..flows }).collect();
            let start = move || {
                let mut sinks = FlowSinks::new(&points, &options);
                Captures::start_with(&points, &spec, keep_in.as_deref(), |point, link| sinks.next(point, link))
            };
            self.capturing.hold(tokio::task::spawn_blocking(start).await??, count).await;
            Ok(tracing)
        };
        let started = life.stage(Stage::Instrument, while_up(lost, work)).await?;
        for note in notes.drain(..) {
            life.event(EventLevel::Info, note);
        }
        Ok(started)
    }

    /// Starts to follow system calls, where the spec and the tuple ask for it.
    async fn trace(&self, instance: &mut Up, notes: &mut Vec<String>) -> Option<Tracing> {
        let wanted = self.request.tuple.instruments().has(Instrument::Syscalls);
        let spec = self.setup.plan.spec.instrument.syscalls.as_ref().filter(|_| wanted)?;
        let mut tracing = Tracing::start(instance.kernels().await, spec, self.artifacts).await;
        notes.append(&mut tracing.notes);
        Some(tracing)
    }

    /// How paths are to be probed, where the spec and the tuple ask for it.
    async fn probe(&self, pairs: &[Pair]) -> Option<Probing> {
        let spec = &self.setup.plan.spec;
        let wanted = self.request.tuple.instruments().has(Instrument::Probe);
        let probe = spec.instrument.probe.as_ref().filter(|_| wanted)?;
        Some(Probing::start(pairs, probe, spec.timeout).await)
    }

    /// How counters are to be read, where the spec and the tuple ask for it.
    fn counters(&self) -> Option<&CounterSpec> {
        let wanted = self.request.tuple.instruments().has(Instrument::Counters);
        self.setup.plan.spec.instrument.counters.as_ref().filter(|_| wanted)
    }

    /// Runs the workload, with the counters before and after the clients, and probes of the paths as long.
    async fn workload(
        &self,
        life: &mut Life<'_>,
        instance: &mut Up,
    ) -> Result<(Driven, Watched, Probed, Option<Counting>, Option<Watching>), Stop> {
        let lost = instance.lost();
        life.stage(
            Stage::Workload,
            while_up(lost, async {
                self.setup.testbed.enter(Stage::Workload, self.request).await?;
                let tuple = &self.request.tuple;
                let load = load::start(tuple, instance.as_mut()).await?;
                let (counted, hosts) = (instance.counted(), instance.hosts());
                let (own, pairs) = (instance.cpus(), instance.pairs());
                let shared = || assign_cpus(pairs.len(), &crate::host::cpus::usable()?);
                let cpus = match tuple.pinning() {
                    true => Some(own.or_else(shared).context("cannot pin: the kernel says no CPUs that may be used")?),
                    false => None,
                };
                let drive = Drive { workload: self.setup.workload, tuple, pairs, cpus: cpus.as_deref() };
                let prepared = drive.prepare().await?;
                let loaded = match &load {
                    Some(load) => load.settings().await,
                    None => Vec::new(),
                };
                let mut probing = self.probe(pairs).await;
                let counting = match self.counters() {
                    Some(spec) => Some(Counting::start(counted, spec).await),
                    None => None,
                };
                let watching = match instance.switch() {
                    Some(switch) => Some(switch.watch().await),
                    None => None,
                };
                // After what the instruments need to start, which is no part of the workload.
                let share = self.setup.share;
                let here = Here { own: instance.own_processes(), cpus: share.map(|share| share.cpus.clone()) };
                let watch = Watch::start(hosts, here).await;
                let strays = Mutex::default();
                let mut after = None;
                let clients_ended = || {
                    // The last reading is made at once; it is waited for later.
                    if let Some(counting) = &counting {
                        counting.stop_soon();
                    }
                    after = Some(watch.end());
                    if let Some(probing) = &mut probing {
                        probing.stop_sending();
                    }
                    // The servers are there until this returns.
                    if let Some(share) = share {
                        share.look(&strays);
                    }
                };
                let run = prepared.run(clients_ended);
                let mut driven = match share {
                    None => run.await?,
                    Some(share) => tokio::select! {
                        biased;
                        driven = run => driven?,
                        never = share.watch(&strays) => match never {},
                    },
                };
                driven.suspect.extend(strays.into_inner().unwrap_or_else(PoisonError::into_inner));
                let probed = match probing {
                    Some(probing) => probing.finish().await,
                    None => Probed::default(),
                };
                driven.settings.extend(loaded);
                if let Some(load) = load {
                    let after = load.settings().await.into_iter();
                    driven.settings.extend(after.map(|setting| Setting { when: Moment::After, ..setting }));
                    driven.invalid.extend(load.stop().await?);
                }
                let after = after.context("the workload has ended without its clients")?;
                Ok((driven, after, probed, counting, watching))
            }),
        )
        .await
    }

    /// Stops the captures, analyses what is left of their packets, brings the files to keep, and reads the settings again.
    async fn collect(
        &self,
        life: &mut Life<'_>,
        instance: &mut Up,
        (tracing, counting, watching): (Option<Tracing>, Option<Counting>, Option<(Watching, tokio::time::Instant)>),
    ) -> Result<(Observed, Vec<Setting>, Kept), Stop> {
        let lost = instance.lost();
        let work = async {
            self.setup.testbed.enter(Stage::Collect, self.request).await?;
            let counted = match counting {
                Some(counting) => Some(counting.finish().await),
                None => None,
            };
            let traced = match tracing {
                Some(tracing) => tracing.stop().await,
                None => Traced::default(),
            };
            self.capturing.stop().await?;
            let (tuple, scratch) = (&self.request.tuple, &self.request.scratch);
            let kept = keep::keep(self.setup.workload, tuple, instance.as_mut(), scratch, self.artifacts).await?;
            let settings = self.settings(instance).await?;
            // Last, since its counters come late.
            let of_switch = match watching {
                Some((watching, ended)) => watching.finish(ended).await,
                None => Default::default(),
            };
            Ok(((traced, counted, of_switch), settings, kept))
        };
        life.stage(Stage::Collect, while_up(lost, work)).await
    }

    /// Ends captures that were not collected, while their nodes are there. Those of which files stay are recorded.
    async fn end_captures(&self, life: &mut Life<'_>, outcome: &Outcome, gathered: &mut Gathered) {
        let spec = &self.setup.plan.spec;
        let wanted =
            spec.capture.keep && spec.storage.captures.keeps(outcome.status(), self.setup.iteration.repetition);
        let Late { captures, notes } = self.capturing.end(wanted).await;
        gathered.captures.extend(captures);
        for note in notes {
            life.event(EventLevel::Warn, note);
        }
    }

    /// Leaves the testbed up, if it can be.
    async fn keep(&self, life: &mut Life<'_>, instance: &mut Option<Up>) -> Option<String> {
        match instance.as_mut()?.keep().await {
            Ok(how) => Some(how),
            Err(error) => {
                let text = format!("the testbed cannot be kept: {:#}", anyhow::Error::from(error));
                life.event(EventLevel::Warn, text.clone());
                Some(text)
            }
        }
    }

    /// Takes the testbed down, whatever happened before. What stays behind makes a good iteration suspect, since it may
    /// disturb the next ones.
    async fn take_down(
        &self,
        life: &mut Life<'_>,
        instance: Option<Up>,
        outcome: Outcome,
        environment: &mut Vec<Environment>,
    ) -> (Outcome, Vec<String>) {
        let good = good(&outcome);
        let result = life
            .closing_stage(Stage::Teardown, TEARDOWN_LIMIT, async {
                let entered = self.setup.testbed.enter(Stage::Teardown, self.request).await;
                let (left, problems) = match instance {
                    Some(mut instance) => {
                        if !good || entered.is_err() {
                            instance.spoil();
                        }
                        let down = instance.teardown().await;
                        environment.extend(down.facts);
                        (down.left, down.problems)
                    }
                    None => Default::default(),
                };
                entered?;
                Ok((left, problems))
            })
            .await;
        match result {
            Ok((left, problems)) if left.is_empty() && problems.is_empty() => (outcome, left),
            Ok((left, problems)) => {
                for line in &left {
                    life.event(EventLevel::Warn, format!("left over: {line}"));
                }
                for problem in &problems {
                    life.event(EventLevel::Warn, problem.clone());
                }
                let reasons = left.iter().map(|line| format!("teardown left {line}"));
                (suspected(outcome, reasons.chain(problems)), left)
            }
            Err(Stop::Outcome(stop)) => (worse(outcome, stop), Vec::new()),
            Err(Stop::Unsupported(error)) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                (worse(outcome, Outcome::Failed { stage: Stage::Teardown, error }), Vec::new())
            }
        }
    }

    /// The store stage begins; the file itself cannot say how it ended.
    async fn before_store(&self, life: &mut Life<'_>, outcome: Outcome) -> Outcome {
        let entered = life
            .closing_stage(Stage::Store, TEARDOWN_LIMIT, async {
                Ok(self.setup.testbed.enter(Stage::Store, self.request).await?)
            })
            .await;
        if let Some(timing) = life.stages.last_mut() {
            timing.duration_ns = None;
        }
        match entered {
            Ok(()) | Err(Stop::Unsupported(_)) => outcome,
            Err(Stop::Outcome(stop)) => worse(outcome, stop),
        }
    }
}

/// Does the work as long as all nodes are there. That a node is gone says more than the errors that follow from it.
async fn while_up<T>(
    lost: Option<BoxFuture<'static, String>>,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let Some(mut lost) = lost else { return work.await };
    let failed = tokio::select! {
        biased;
        result = work => match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        },
        why = &mut lost => anyhow::bail!("{why}"),
    };
    match tokio::time::timeout(LOSS_LIMIT, lost).await {
        Ok(why) => anyhow::bail!("{why}"),
        Err(_) => Err(failed),
    }
}

/// Copies what nodes printed last on their consoles (`NODE.console`) from the scratch directory to the iteration's files.
fn keep_consoles(scratch: &Path, artifacts: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(scratch)? {
        let path = entry?.path();
        let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|kind| kind == "console")) else {
            continue;
        };
        std::fs::create_dir_all(artifacts).with_context(|| format!("cannot create {}", artifacts.display()))?;
        let text = std::fs::File::open(&path).and_then(|console| kept_console(&console));
        text.and_then(|text| std::fs::write(artifacts.join(name), text))
            .with_context(|| format!("cannot copy {}", path.display()))?;
    }
    Ok(())
}

/// Who ends a job of a batch system ends all of its processes at the same time: what went wrong with the workload then was no
/// fault of the workload's. Gives the outcome then, and for the events what had failed.
async fn wish_meanwhile(outcome: &Outcome, cancel: &Cancel) -> Option<(Outcome, String)> {
    let Outcome::Failed { stage, error } = outcome else { return None };
    if !has_processes(*stage) {
        return None;
    }
    let mut cancel = cancel.clone();
    let by = tokio::time::timeout(WISH_LIMIT, cancel.cancelled()).await.ok()?;
    let text = format!("stage {stage} failed while {by} was to end it: {error}");
    Some((Outcome::Interrupted { stage: *stage, by }, text))
}

/// Do processes run in this stage that a signal to all of them ends too?
const fn has_processes(stage: Stage) -> bool {
    matches!(stage, Stage::Launch | Stage::Verify | Stage::Instrument | Stage::Workload | Stage::Collect)
}

/// May the nodes serve again after this?
const fn good(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Complete | Outcome::Suspect(_))
}

/// The first failure counts: what goes wrong later is a consequence as often as not, and stands in the events.
fn worse(outcome: Outcome, later: Outcome) -> Outcome {
    match outcome {
        Outcome::Complete | Outcome::Suspect(_) => later,
        earlier => earlier,
    }
}

fn suspected(outcome: Outcome, reasons: impl Iterator<Item = String>) -> Outcome {
    match outcome {
        Outcome::Complete => Outcome::Suspect(reasons.collect()),
        Outcome::Suspect(mut all) => {
            all.extend(reasons);
            Outcome::Suspect(all)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_of_good_iterations_may_serve_again() {
        let reasons = || vec!["x".to_owned()];
        assert!(good(&Outcome::Complete) && good(&Outcome::Suspect(reasons())));
        assert!(!good(&Outcome::Invalid(reasons())));
        assert!(!good(&Outcome::Failed { stage: Stage::Workload, error: "x".to_owned() }));
        assert!(!good(&Outcome::TimedOut { stage: Stage::Workload }));
    }

    #[tokio::test]
    async fn what_went_wrong_when_it_was_to_end_was_interrupted() {
        let (canceller, cancel) = crate::runner::Canceller::new();
        let bad = |stage| Outcome::Failed { stage, error: "signal 15".to_owned() };
        assert_eq!(wish_meanwhile(&bad(Stage::Workload), &cancel).await, None);
        canceller.cancel("SIGTERM");
        let (outcome, text) = wish_meanwhile(&bad(Stage::Workload), &cancel).await.unwrap();
        assert_eq!(outcome, Outcome::Interrupted { stage: Stage::Workload, by: "SIGTERM".to_owned() });
        assert!(text.contains("signal 15"), "{text}");
        for other in [Outcome::Complete, Outcome::Invalid(vec!["x".to_owned()]), bad(Stage::Preflight)] {
            assert_eq!(wish_meanwhile(&other, &cancel).await, None, "{other:?}");
        }
    }

    #[test]
    fn the_first_failure_counts_and_leftovers_only_cast_doubt() {
        let failed = |stage| Outcome::Failed { stage, error: "x".to_owned() };
        assert_eq!(worse(Outcome::Complete, failed(Stage::Teardown)), failed(Stage::Teardown));
        assert_eq!(worse(failed(Stage::Launch), failed(Stage::Teardown)), failed(Stage::Launch));
        let left = || ["a".to_owned()].into_iter();
        assert_eq!(suspected(Outcome::Complete, left()), Outcome::Suspect(vec!["a".to_owned()]));
        let before = Outcome::Suspect(vec!["b".to_owned()]);
        assert_eq!(suspected(before, left()), Outcome::Suspect(vec!["b".to_owned(), "a".to_owned()]));
        assert_eq!(suspected(failed(Stage::Launch), left()), failed(Stage::Launch));
    }
}
