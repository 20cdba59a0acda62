//! A campaign: which iterations are still to do, one after the other, whatever happens to each.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;

use super::cancel::Cancel;
use super::iteration::{self, Ended, Setup};
use super::jobs::{self, Share};
use super::observer::{Observer, Progress};
use super::queue::Queue;
use super::recover::{Recovered, recover};
use super::running::{CampaignLock, Claim, Claimed, Whereabouts};
use super::stopping::Stopping;
use super::{feasible, images, space, storage, tools};
use crate::host::host_name;
use crate::ids::{IterationNumber, ShortHash, Stage};
use crate::instrument::facts::facts;
use crate::plan::{Iteration, Plan};
use crate::record::{Environment, Header, IterationRecord, Outcome, SENTINEL, SPEC, Status};
use crate::spec::{LimitsSpec, StorageSpec};
use crate::store::{self, AttemptName, Attempts, StoreError};
use crate::testbed::minimega::leftovers;
use crate::testbed::{self, Testbed, TestbedError};
use crate::workload::{self, Workload};

/// Iterations whose files are opened one by one.
const FEW: usize = 100;
/// Events that stay of a record that has too many.
const LAST_EVENTS: usize = 100;

/// What to run, and how.
pub struct Options<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Directory of the campaign.
    pub out: &'a Path,
    /// Iterations to run; `None` for every one that is not complete.
    pub selection: Option<Vec<IterationNumber>>,
    /// Run selected iterations also when they are complete.
    pub again: bool,
    /// Further attempts at once at an iteration that failed, timed out or was invalid.
    pub retries: u32,
    /// Leave the testbed of a failed iteration up.
    pub keep_failed: bool,
    /// Path of the running program.
    pub vptest: PathBuf,
    /// How many iterations run at once, each on CPU cores of its own. More than one needs a runtime of several threads.
    pub jobs: NonZeroUsize,
    /// Go on also when guests would be of another image than those of what has been run.
    pub allow_changed_image: bool,
    /// Receives the news.
    pub observer: &'a dyn Observer,
    /// Sees the wish to stop.
    pub cancel: Cancel,
    /// What whoever sent this run wishes besides.
    pub errand: Errand,
}

/// Wishes of a coordinator for the part of a campaign that one of its hosts runs; usually none.
#[derive(Debug, Clone, Default)]
pub struct Errand {
    /// Numbers that the next attempts must have at least, as those below may be in use elsewhere.
    pub attempts: BTreeMap<IterationNumber, u32>,
    /// When such a file comes to be, no further iteration is begun.
    pub halt: Option<PathBuf>,
    /// When no further iteration may begin, besides what `[limits]` says.
    pub until: Option<jiff::Timestamp>,
    /// Instead of the limits of the spec.
    pub limits: Option<LimitsSpec>,
    /// Equal files are linked where the results go, not here.
    pub is_sent_on: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Iterations by the outcome of their last attempt in this run.
    pub outcomes: BTreeMap<Status, usize>,
    /// Iterations that were complete before.
    pub complete_before: usize,
    /// Iterations that `[stop]` spares: their tuples have been repeated often enough.
    pub settled: usize,
    /// Iterations left to other processes.
    pub elsewhere: usize,
    /// Iterations that were to be run and were not, because of an interruption or of `[limits]`.
    pub left: usize,
    /// Who interrupted it.
    pub interrupted: Option<String>,
    /// Which of `[limits]` ended it.
    pub limited: Option<String>,
    /// Which iterations Slurm has ended, as it would again, and what for.
    pub bound: Option<String>,
    /// What could not be removed.
    pub leftovers: Vec<String>,
    /// Testbeds that were left up: how to look into them.
    pub kept: Vec<String>,
}

/// A campaign could not be run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    /// Tuples ask for what cannot be.
    #[error("{0}")]
    Infeasible(String),
    /// This host cannot run it.
    #[error(transparent)]
    Unsupported(#[from] TestbedError),
    /// Programs that the workload needs are not there.
    #[error("{0}")]
    Missing(String),
    /// Not enough room for what is still to be run.
    #[error("{0}")]
    Space(String),
    /// Guests would be others than before.
    #[error("{0}")]
    Image(String),
    /// Iterations cannot run beside each other.
    #[error("{0}")]
    Jobs(String),
    /// `[stop]` names a metric that cannot be judged.
    #[error("{0}")]
    Stop(String),
    /// Somebody else runs it.
    #[error("the campaign in {out} is being run by {by}")]
    Locked {
        /// Its directory.
        out: String,
        /// Who.
        by: String,
    },
    /// An iteration file could not be written or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Removes what dead runs have left in testbeds that outlive vptest. What was kept on purpose stays.
async fn recover_testbeds(out: &Path) -> anyhow::Result<()> {
    let done = leftovers::clean(out, leftovers::Kept::Stays).await;
    let done = done.with_context(|| format!("cannot read what dead runs have left, in {}", out.display()))?;
    for line in done.removed {
        tracing::info!("removed {line}");
    }
    for line in done.left {
        tracing::warn!("left over: {line}");
    }
    Ok(())
}

/// Runs what is to be run.
///
/// # Errors
/// Before the first iteration: when the host cannot run the plan, or another process runs it. Later: when results cannot
/// be stored. A failed iteration is no error.
pub async fn run(options: &Options<'_>) -> Result<Report, CampaignError> {
    let begun = Begun::new(options, false).await?;
    // Iterations that are named are run whatever the rule says.
    let mut stopping = Stopping::new(options.plan, options.out).filter(|_| options.selection.is_none());
    let (attempts, ToDo { numbers: to_do, complete: complete_before, settled }) =
        begun.to_do(options, stopping.as_mut())?;
    feasible::check(options.plan, to_do.iter().copied()).map_err(CampaignError::Infeasible)?;
    let tools = tools::needed(options.plan, &to_do)?;
    tools::check(&tools)?;
    space::check(options.out, options.plan, &to_do, options.jobs)?;
    options.observer.notice(&Progress::Campaign {
        planned: options.plan.iterations.len(),
        complete: complete_before,
        settled,
        to_do: to_do.len(),
    });
    let environment = environment(options.plan, &host_name(), &tools::versions(&tools).await);
    let campaign = Campaign::new(options, environment, &to_do, None)?;
    let shares = jobs::shares(options, &to_do, &campaign.testbeds)?;
    for testbed in campaign.testbeds.values() {
        images::check(options, &attempts, &to_do, testbed.as_ref(), campaign.workload.as_ref()).await?;
    }
    let report = Report { complete_before, settled, ..Report::default() };
    let queue = Queue::new(options, &to_do, stopping, report)?;
    if shares.is_empty() {
        campaign.work(&queue).await?;
    } else {
        campaign.close().await;
        let of = |share: Share| Campaign::new(options, campaign.environment.clone(), &to_do, Some(share));
        side_by_side(&shares.into_iter().map(of).collect::<Result<Vec<_>, _>>()?, &queue)?;
    }
    queue.finish()
}

/// Each job in a thread of its own. The error is that of the first that has one; the others finish what they run.
fn side_by_side(jobs: &[Campaign<'_>], queue: &Queue<'_>) -> Result<(), CampaignError> {
    allow_descriptors().context("cannot raise the limit of open files")?;
    // Signals are heard by another thread of the runtime meanwhile.
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let jobs = jobs.iter().map(|campaign| scope.spawn(|| campaign.job(queue)));
            let mut result = Ok(());
            for job in jobs.collect::<Vec<_>>() {
                let end = job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result = result.and(end);
            }
            result
        })
    })
}

/// As many open files as are allowed: testbeds reckon what one of them needs.
fn allow_descriptors() -> nix::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

/// A campaign that nobody else chooses iterations from, without what dead runs have left in it.
pub(crate) struct Begun {
    _lock: Option<CampaignLock>,
    _whereabouts: Whereabouts,
}

impl Begun {
    pub(crate) async fn new(options: &Options<'_>, on_hosts: bool) -> Result<Self, CampaignError> {
        let lock = lock(options)?;
        let locked = |by| CampaignError::Locked { out: options.out.display().to_string(), by };
        let begun = Self { _lock: lock, _whereabouts: Whereabouts::take(options.out, on_hosts)?.map_err(locked)? };
        for found in recover(Some(options.plan), options.out)? {
            if let Recovered::Attempt { number, text } = &found {
                options.observer.notice(&Progress::Recovered { number: *number, text });
            }
        }
        recover_testbeds(options.out).await?;
        Ok(begun)
    }

    /// What is stored, and what is to be run of that which was asked for.
    pub(crate) fn to_do(
        &self,
        options: &Options<'_>,
        mut stopping: Option<&mut Stopping<'_>>,
    ) -> Result<(Attempts, ToDo), CampaignError> {
        let attempts = store::scan(options.out)?;
        let to_do = to_do(options, &attempts, stopping.as_deref_mut())?;
        match stopping.as_ref().and_then(|stopping| stopping.hopeless(&attempts)) {
            Some(problem) => Err(CampaignError::Stop(problem)),
            None => Ok((attempts, to_do)),
        }
    }
}

/// What all iterations of a run share, or those of one job of several.
pub(super) struct Campaign<'a> {
    options: &'a Options<'a>,
    host: String,
    /// Facts about the host, and versions of the programs that are used.
    environment: Vec<Environment>,
    testbeds: BTreeMap<String, Box<dyn Testbed>>,
    workload: Box<dyn Workload>,
    /// `None` when one iteration has the whole host.
    share: Option<Share>,
}

impl<'a> Campaign<'a> {
    fn new(
        options: &'a Options<'a>,
        environment: Vec<Environment>,
        to_do: &[IterationNumber],
        share: Option<Share>,
    ) -> Result<Self, CampaignError> {
        Ok(Self {
            options,
            environment,
            host: host_name(),
            testbeds: testbeds(options.plan, to_do)?,
            workload: workload::from_spec(&options.plan.spec.workload),
            share,
        })
    }

    /// Runs what is left in the queue, and ends what was kept from one iteration to the next.
    async fn work(&self, queue: &Queue<'_>) -> Result<(), CampaignError> {
        let result = self.iterations(queue).await;
        self.close().await;
        result
    }

    async fn close(&self) {
        for testbed in self.testbeds.values() {
            testbed.close().await;
        }
    }

    async fn iterations(&self, queue: &Queue<'_>) -> Result<(), CampaignError> {
        while let Some(number) = queue.next()? {
            self.run_one(number, queue).await?;
            queue.ended(number)?;
        }
        Ok(())
    }

    /// [`Campaign::work`] on CPUs of its own.
    fn job(&self, queue: &Queue<'_>) -> Result<(), CampaignError> {
        let work = || {
            if let Some(share) = &self.share {
                share.enter().with_context(|| format!("cannot bind job {} to its CPUs", share.job))?;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.context("cannot start a job")?.block_on(self.work(queue))
        };
        // However it ends, by a panic too, the others are not to go on as if nothing were.
        let others = queue.needs_all();
        work().inspect(|()| others.done())
    }

    /// Runs one iteration, again when it fails and retries are left.
    async fn run_one(&self, number: IterationNumber, queue: &Queue<'_>) -> Result<(), CampaignError> {
        let options = self.options;
        let iteration = options.plan.get(number).context("the plan lost an iteration")?;
        for retry in 0..=options.retries {
            let mut claim = match Claim::take(options.out, iteration.identity, number, &self.host)? {
                Claimed::Mine(claim) => claim,
                Claimed::Theirs(by) => {
                    options.observer.notice(&Progress::Elsewhere { number, by: &by });
                    queue.note(|report| report.elsewhere += 1);
                    return Ok(());
                }
            };
            // Another process may have run it since this one looked.
            let (stored, next) = queue.listing(|listing| -> Result<_, StoreError> {
                let attempts = listing.now(&iteration)?;
                Ok((attempts.of(iteration.identity).to_vec(), attempts.next(iteration.identity)))
            })?;
            if !options.again && is_complete(options.out, &stored) {
                queue.note(|report| report.complete_before += 1);
                break;
            }
            let least = options.errand.attempts.get(&number).copied().unwrap_or(1);
            claim.begin(next.max(least)).context("cannot note the attempt")?;
            if !self.attempt(&iteration, claim, retry < options.retries, queue).await? {
                break;
            }
        }
        Ok(())
    }

    /// Runs and stores one attempt; says whether another one should follow.
    async fn attempt(
        &self,
        iteration: &Iteration<'_>,
        mut claim: Claim,
        may_try_again: bool,
        queue: &Queue<'_>,
    ) -> Result<bool, CampaignError> {
        let begun = Instant::now();
        let options = self.options;
        let (number, attempt) = (iteration.number, claim.attempt());
        options.observer.notice(&Progress::Begin { number, attempt });
        let testbed = self.testbeds.get(iteration.tuple.testbed()).context("the plan lost a testbed")?;
        let setup = Setup {
            plan: options.plan,
            iteration: *iteration,
            testbed: testbed.as_ref(),
            workload: self.workload.as_ref(),
            environment: &self.environment,
            out: options.out,
            vptest: &options.vptest,
            host: &self.host,
            keep_failed: options.keep_failed,
            observer: options.observer,
            cancel: options.cancel.clone(),
            share: self.share.as_ref(),
        };
        forget_unstored(options.out, iteration, attempt)?;
        let Ended { record, kept, leftovers } = iteration::run(&setup, &mut claim).await?;
        if let Err(error) = claim.clear_scratch() {
            queue.note(|report| report.leftovers.push(format!("{error:#}")));
        }
        let record = storable(record);
        let spec = &options.plan.spec.storage;
        let rules = StorageSpec { deduplicate: spec.deduplicate && !options.errand.is_sent_on, ..spec.clone() };
        // Once more, as its events count as well.
        let record = storable(storage::apply(&rules, options.out, record, options.observer, &options.cancel).await);
        let file = store::write_iteration(options.out, &record)?;
        queue.listing(|listing| listing.add(AttemptName::of(&record.header)));
        let released = claim.release();
        queue.note(|report| {
            report.leftovers.extend(leftovers);
            report.kept.extend(kept);
            report.leftovers.extend(released.err().map(|error| format!("{error:#}")));
        });
        let status = record.outcome.status();
        let again = may_try_again
            && matches!(status, Status::Failed | Status::TimedOut | Status::Invalid)
            && options.cancel.requested().is_none()
            && !queue.is_over();
        if !again {
            queue.stored(&record, &file)?;
        }
        options.observer.notice(&Progress::End { record: &record, file: &file, wall: begun.elapsed(), again });
        Ok(again)
    }
}

/// A record that breaks a rule of the schema, which instruments and guests could make it do, becomes that of a failed attempt
/// without what it measured, so that one iteration cannot end a campaign.
fn storable(record: IterationRecord) -> IterationRecord {
    let Err(error) = store::check_record(&record) else { return record };
    let mut record = record.without_measurements(Stage::Store, format!("the record breaks a rule: {error}"));
    if store::check_record(&record).is_err() {
        let from = record.events.len().saturating_sub(LAST_EVENTS);
        record.events = record.events.split_off(from);
    }
    record
}

/// Removes files of an earlier try at an attempt that was not stored, which this one would write over: they may have other
/// names, in attempts that were.
fn forget_unstored(out: &Path, iteration: &Iteration<'_>, attempt: u32) -> anyhow::Result<()> {
    let name = AttemptName { number: iteration.number, identity: iteration.identity, attempt };
    let artifacts = name.artifacts(out);
    match std::fs::remove_dir_all(&artifacts) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", artifacts.display()))
        }
        _ => Ok(()),
    }
}

/// Facts about the host, versions of programs, and the spec itself.
fn environment(plan: &Plan, host: &str, versions: &[(String, String)]) -> Vec<Environment> {
    let mut all = facts(host, versions);
    let (host, name) = (host.to_owned(), SPEC.to_owned());
    all.push(Environment { host, name, value: plan.spec_text.clone() });
    all
}

/// The testbeds of these iterations, by name.
fn testbeds(plan: &Plan, to_do: &[IterationNumber]) -> Result<BTreeMap<String, Box<dyn Testbed>>, CampaignError> {
    let mut all = BTreeMap::new();
    for iteration in to_do.iter().filter_map(|&number| plan.get(number)) {
        let name = iteration.tuple.testbed();
        if !all.contains_key(name) {
            all.insert(name.to_owned(), testbed::by_name(name, &plan.spec.testbed)?);
        }
    }
    Ok(all)
}

/// A run that chooses iterations by itself is alone in doing so. One of named iterations needs no such lock: each
/// iteration is claimed.
fn lock(options: &Options<'_>) -> Result<Option<CampaignLock>, CampaignError> {
    if options.selection.is_some() {
        return Ok(None);
    }
    let taken = CampaignLock::take(options.out)?;
    taken.map(Some).map_err(|by| CampaignError::Locked { out: options.out.display().to_string(), by })
}

/// What marks a sentinel in its file.
pub(super) fn sentinel_fact(iteration: &Iteration<'_>, host: &str) -> Option<Environment> {
    let value = iteration.repetition.to_string();
    iteration.sentinel.then(|| Environment { host: host.to_owned(), name: SENTINEL.to_owned(), value })
}

pub(super) fn header(plan: &Plan, iteration: &Iteration<'_>, attempt: u32, started_ns: i64, host: &str) -> Header {
    Header {
        identity: iteration.identity,
        tuple: iteration.tuple_id,
        number: iteration.number,
        repetition: iteration.repetition,
        block: iteration.block,
        attempt,
        testbed: iteration.tuple.testbed().to_owned(),
        host: host.to_owned(),
        started_ns,
        finished_ns: None,
        spec_hash: plan.spec_hash,
        vptest_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// What is to be run of that which was asked for.
#[derive(Debug, Default)]
pub(crate) struct ToDo {
    /// In order.
    pub(crate) numbers: Vec<IterationNumber>,
    /// How many are complete.
    pub(crate) complete: usize,
    /// How many others are not run as their tuple has been repeated often enough.
    pub(crate) settled: usize,
}

fn to_do(
    options: &Options<'_>,
    attempts: &Attempts,
    mut stopping: Option<&mut Stopping<'_>>,
) -> Result<ToDo, CampaignError> {
    let mut to_do = ToDo::default();
    // Who names a few iterations looks at those alone.
    let looked_at = options.selection.as_ref().is_none_or(|selection| selection.len() > FEW);
    let complete = if looked_at { Some(complete(options.out)?) } else { None };
    let is_complete = |identity| match &complete {
        Some(complete) => complete.contains(&identity),
        None => is_complete(options.out, attempts.of(identity)),
    };
    let mut is_settled: HashMap<ShortHash, bool> = HashMap::new();
    let all = options.plan.iter().map(|iteration| iteration.number);
    let chosen: Vec<IterationNumber> = options.selection.clone().unwrap_or_else(|| all.collect());
    for number in chosen {
        let missing =
            || anyhow::anyhow!("the plan has no iteration {number}: it has 1 to {}", options.plan.iterations.len());
        let iteration = options.plan.get(number).ok_or_else(missing)?;
        if !options.again && is_complete(iteration.identity) {
            to_do.complete += 1;
            continue;
        }
        let tuple = iteration.tuple_id;
        let mut settled = |tuple: ShortHash| {
            stopping.as_mut().is_some_and(|stopping| {
                *is_settled.entry(tuple).or_insert_with(|| stopping.course(attempts, tuple).is_settled())
            })
        };
        let is_spared = if iteration.sentinel {
            watches_nothing(options.plan, attempts, number, &mut settled)
        } else {
            settled(tuple)
        };
        if is_spared {
            to_do.settled += 1;
        } else {
            to_do.numbers.push(number);
        }
    }
    Ok(to_do)
}

/// Is it a sentinel whose stretch, from the sentinel before, was not run and will not be? The first one has none, and is run.
pub(super) fn watches_nothing(
    plan: &Plan,
    attempts: &Attempts,
    number: IterationNumber,
    mut is_settled: impl FnMut(ShortHash) -> bool,
) -> bool {
    let stretch = plan.watched_by(number);
    let mut is_spared =
        |iteration: Iteration<'_>| attempts.of(iteration.identity).is_empty() && is_settled(iteration.tuple_id);
    !stretch.is_empty() && stretch.iter().all(|&number| plan.get(number).is_some_and(&mut is_spared))
}

/// Iterations of which a complete attempt is stored. A file that cannot be read is none, and stays where it is.
pub(crate) fn complete(out: &Path) -> Result<HashSet<ShortHash>, StoreError> {
    let mut complete = HashSet::new();
    for (name, head) in store::heads(out)? {
        match head {
            Ok(head) if head.outcome == Outcome::Complete => drop(complete.insert(name.identity)),
            Ok(_) => {}
            Err(error) => tracing::warn!("{:#}: it counts as not complete", anyhow::Error::from(error)),
        }
    }
    Ok(complete)
}

/// Is one of these stored attempts complete? One that cannot be read is not, and stays where it is.
pub(super) fn is_complete(out: &Path, attempts: &[AttemptName]) -> bool {
    attempts.iter().rev().any(|&name| match store::head(out, name) {
        Ok(head) => head.outcome == Outcome::Complete,
        Err(error) => {
            tracing::warn!("{:#}: it counts as not complete", anyhow::Error::from(error));
            false
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Event, EventLevel};
    use crate::store::tests::records::sample;

    #[test]
    fn a_record_with_too_many_events_is_that_of_a_failed_attempt() {
        let whole = sample(7);
        assert_eq!(storable(whole.clone()), whole);
        let event = Event { at_ns: 0, stage: Stage::Store, level: EventLevel::Warn, text: String::new() };
        let mut events = vec![event; (1 << 20) + 1];
        events.last_mut().unwrap().text.push_str("the last");
        let stored = storable(IterationRecord { events, ..whole });
        store::check_record(&stored).unwrap();
        assert_eq!(stored.outcome.status(), Status::Failed);
        assert_eq!((stored.events.len(), &stored.events[LAST_EVENTS - 1].text[..]), (LAST_EVENTS, "the last"));
    }
}
