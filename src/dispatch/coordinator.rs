//! Hands the iterations of a campaign to hosts and stores what comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::collect::{CollectError, Collected, Collector};
use super::fleet::Fleet;
use super::frame::{Doing, Found, Frame, Tail};
use super::hosts::Host;
use super::journal::Journal;
use super::orders::{Orders, Round};
use super::parallel;
use super::place::{Files, Program};
use super::round;
use super::share::{self, Share, Sizes, Turn};
use super::slurm::{self, Slurm, SlurmError};
use super::ssh::Ssh;
use super::state::{DIRECTORY, State};
use crate::host::cage::Cage;
use crate::host::clock::now_ns;
use crate::host::host_name;
use crate::ids::{IterationNumber, ShortHash};
use crate::image::Bundle;
use crate::node::local::Processes;
use crate::record::{IterationRecord, Outcome, Status};
use crate::runner::{self, BASE_ID, Begun, CampaignError, Limits, Options, Progress, Report, Stopping, ToDo, feasible};
use crate::store::{self, Attempts, StoreError};

/// Rounds in a row in which nothing was run, until the rest is left.
const FRUITLESS: u32 = 3;
/// How long a run goes on without a host that can be reached, when there was one before.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Between two tries meanwhile.
const PAUSE: Duration = Duration::from_secs(15);
/// Testbeds whose nodes are of an image, which may differ between hosts.
const OF_IMAGES: [&str; 3] = ["qemu", "minimega-kvm", "minimega-container"];

/// A campaign could not be run on hosts, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// As on this host.
    #[error(transparent)]
    Campaign(#[from] CampaignError),
    /// None of the hosts can be used.
    #[error("no host is left that can run iterations: {0}")]
    NoHost(String),
    /// Slurm does not do what it is asked for.
    #[error(transparent)]
    Slurm(#[from] SlurmError),
    /// Iterations wait in, or run by, Slurm's queue, and another engine was asked for.
    #[error("Slurm's queue has iterations of the campaign in {0}")]
    Queued(String),
    /// Something else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// What hands iterations to hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// GNU parallel, on these.
    Hosts(Vec<Host>),
    /// Slurm.
    Slurm {
        /// Instead of the spec's; `None` for that.
        partition: Option<String>,
    },
}

/// Runs what is to be run on hosts.
///
/// # Errors
/// Before the first iteration: when no host can run it, or another process runs the campaign. Later: when no host is left, and
/// when results cannot be stored. A failed iteration is no error.
pub async fn run(options: &Options<'_>, engine: &Engine) -> Result<Report, DispatchError> {
    let begun = Begun::new(options, true).await?;
    let mut stopping = Stopping::new(options.plan, options.out).filter(|_| options.selection.is_none());
    let mut coordinator = match engine {
        Engine::Hosts(_) if slurm::is_left(options.out) => {
            return Err(DispatchError::Queued(options.out.display().to_string()));
        }
        Engine::Hosts(hosts) => Coordinator::new(options, hosts, None).await?,
        Engine::Slurm { partition } => Coordinator::new(options, &[], Some(partition.as_deref())).await?,
    };
    coordinator.recover()?;
    coordinator.images = images(options)?;
    let mut report = Report::default();
    let (mut is_first, mut fruitless, mut was_wound_up) = (true, 0, false);
    loop {
        coordinator.fetch().await?;
        let (attempts, mut to_do) = begun.to_do(options, stopping.as_mut())?;
        if is_first {
            is_first = false;
            report.complete_before = to_do.complete;
            coordinator.announce(&to_do)?;
        }
        if let Some(slurm) = &mut coordinator.slurm {
            slurm.keep_bound(&to_do.numbers);
        }
        to_do.numbers.retain(|number| !coordinator.was_tried(*number) && !coordinator.is_bound(*number));
        (report.settled, report.left) = (to_do.settled, to_do.numbers.len());
        report.interrupted = options.cancel.requested();
        if report.interrupted.is_none() && report.left > 0 {
            report.limited = coordinator.limits.reached(0)?;
        }
        if report.left == 0 || report.interrupted.is_some() || report.limited.is_some() {
            // What earlier coordinators have left in the queue is seen to its end all the same, and may have brought something.
            let is_slurm = coordinator.slurm.is_some() && !std::mem::replace(&mut was_wound_up, true);
            if is_slurm && slurm::wind_up(&mut coordinator).await? {
                continue;
            }
            break;
        }
        let before = coordinator.dealt_with();
        match coordinator.slurm {
            Some(_) => slurm::round(&mut coordinator, &attempts, &to_do.numbers, stopping.is_some()).await?,
            None => {
                // Hosts that come back may have what was to be done.
                if coordinator.await_hosts().await? == Hosts::Returned {
                    continue;
                }
                coordinator.round(&attempts, &to_do.numbers, stopping.is_some()).await?;
            }
        }
        // What does not end then is not waited for twice.
        was_wound_up |= options.cancel.requested().is_some();
        fruitless = if coordinator.dealt_with() > before { 0 } else { fruitless + 1 };
        if fruitless == FRUITLESS {
            let why = coordinator.slurm.as_ref().map_or_else(|| coordinator.fleet.why(), Slurm::why);
            return Err(DispatchError::NoHost(why));
        }
    }
    report.outcomes = coordinator.report().outcomes;
    coordinator.write_state()?;
    report.bound = coordinator.slurm.as_ref().and_then(Slurm::bounds);
    if report.left == 0 && report.bound.is_none() && options.selection.is_none() {
        coordinator.end(&mut report).await?;
    }
    report.left += coordinator.slurm.as_ref().map_or(0, Slurm::count_bound);
    Ok(report)
}

/// Are there hosts to be given something?
#[derive(Debug, PartialEq, Eq)]
enum Hosts {
    /// There are, or it is not known yet.
    There,
    /// There were none for a while.
    Returned,
}

/// See the module.
pub(super) struct Coordinator<'a> {
    pub(super) options: &'a Options<'a>,
    pub(super) fleet: Fleet,
    /// `None` when GNU parallel is the engine.
    pub(super) slurm: Option<Slurm>,
    pub(super) limits: Limits<'a>,
    /// Identifies the campaign on hosts.
    pub(super) id: ShortHash,
    pub(super) directory: PathBuf,
    collector: Collector,
    journal: Journal,
    pub(super) plan: Vec<u8>,
    /// Iterations that this run has handed out, each with the least number of an attempt that is its own.
    pub(super) handed: BTreeMap<IterationNumber, Turn>,
    /// Iterations that were run in this run, each with its last outcome.
    tried: BTreeMap<IterationNumber, Status>,
    /// Attempts whose files are stored, until their host says that they have ended.
    stored: BTreeMap<(IterationNumber, u32), (IterationRecord, PathBuf)>,
    /// What the nodes of each tuple were made of.
    images: BTreeMap<ShortHash, String>,
    /// What is being run, so that it is told once.
    told: BTreeSet<(IterationNumber, u32)>,
    since: jiff::Timestamp,
    /// Files that could not be taken, for which their host may still have what is needed.
    pub(super) refused: u64,
}

impl<'a> Coordinator<'a> {
    /// `slurm`: the partition, when Slurm is the engine.
    pub(super) async fn new(
        options: &'a Options<'a>,
        hosts: &[Host],
        slurm: Option<Option<&str>>,
    ) -> Result<Self, DispatchError> {
        // GNU parallel works in a directory of its own.
        let whole =
            std::fs::canonicalize(options.out).with_context(|| format!("cannot find {}", options.out.display()))?;
        let directory = whole.join(DIRECTORY);
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let cage = Cage::open_or_groups().context("cannot make a process namespace")?;
        let processes = Arc::new(Processes::new(cage));
        let slurm = match slurm {
            Some(partition) => Some(Slurm::new(&directory, partition).context("cannot make a process namespace")?),
            None => {
                parallel::check(&processes, &directory).await?;
                None
            }
        };
        let bundle =
            Bundle::of(&options.vptest).map_err(|error| anyhow::Error::new(error).context("cannot pack vptest"))?;
        let program = Program::of(&bundle).context("cannot pack vptest")?;
        let path = options.out.join("plan.json");
        let plan = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let (id, was_run) = identity(&directory).context("cannot name the campaign on hosts")?;
        let journal = Journal::open(&directory).context("cannot open the journal of attempts")?;
        Ok(Self {
            options,
            fleet: Fleet::new(hosts, Arc::new(Ssh::new(processes, &directory)), Arc::new(program), was_run),
            slurm,
            limits: Limits::new(&options.plan.spec.limits, options.out, options.errand.clone()),
            id,
            collector: Collector::new(options.out, directory.join("incoming"))
                .deduplicating(options.plan.spec.storage.deduplicate),
            journal,
            plan,
            directory,
            handed: BTreeMap::new(),
            tried: BTreeMap::new(),
            stored: BTreeMap::new(),
            images: BTreeMap::new(),
            told: BTreeSet::new(),
            since: jiff::Timestamp::now(),
            refused: 0,
        })
    }

    /// Stores what an earlier coordinator was sent and did not live to store.
    fn recover(&mut self) -> Result<(), DispatchError> {
        self.collector.clear().map_err(anyhow::Error::from)?;
        let entries = std::fs::read_dir(&self.directory).context("cannot list what earlier rounds left")?;
        for entry in entries.flatten() {
            if !entry.file_name().to_string_lossy().starts_with("round-") {
                continue;
            }
            for path in parallel::all_said(&entry.path()) {
                self.take_all(&path, None)?;
            }
            std::fs::remove_dir_all(entry.path()).context("cannot remove what an earlier round left")?;
        }
        self.deduplicate();
        Ok(self.collector.clear().map_err(anyhow::Error::from)?)
    }

    /// Nobody is listened to now.
    fn deduplicate(&mut self) {
        let cancel = &self.options.cancel;
        if self.collector.deduplicate(&|| cancel.requested().is_none()) {
            self.limits.look_again();
        }
    }

    pub(super) fn announce(&self, to_do: &ToDo) -> Result<(), CampaignError> {
        let options = self.options;
        feasible::check(options.plan, to_do.numbers.iter().copied()).map_err(CampaignError::Infeasible)?;
        options.observer.notice(&Progress::Campaign {
            planned: options.plan.iterations.len(),
            complete: to_do.complete,
            settled: to_do.settled,
            to_do: to_do.numbers.len(),
        });
        Ok(())
    }

    /// Gives hosts what is to be done, and takes what they send until all of it was handed out or nobody is left to take it.
    async fn round(
        &mut self,
        attempts: &Attempts,
        numbers: &[IterationNumber],
        is_short: bool,
    ) -> Result<(), DispatchError> {
        let plan = self.options.plan;
        let turns = self.turns(attempts, numbers);
        let (hosts, sizes) = (self.fleet.able().max(1), if is_short { Sizes::Even } else { Sizes::Guided });
        let mut shares = share::cut(plan, &turns, hosts, sizes);
        if is_short {
            // What is stored then decides what is still needed.
            shares.truncate(hosts);
        }
        for turn in shares.iter().flat_map(|share| &share.iterations) {
            self.handed.insert(turn.number, *turn);
        }
        let orders = self.orders(shares)?;
        let fresh = Round::fresh();
        let files = Files::pack(self.id, &self.plan, &fresh, &orders)?;
        if !self.prepare(Arc::new(files)).await? {
            return Ok(());
        }
        let directory = self.round_directory(&fresh)?;
        round::run(self, &fresh, &orders.shares, &directory).await?;
        self.rest()?;
        std::fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
        Ok(())
    }

    /// Where GNU parallel works in a round.
    pub(super) fn round_directory(&self, round: &Round) -> anyhow::Result<PathBuf> {
        let directory = self.directory.join(format!("round-{}", round.as_str()));
        std::fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(directory)
    }

    /// Iterations as they are handed out: with the number that the next attempt at each must have at least.
    pub(super) fn turns(&self, attempts: &Attempts, numbers: &[IterationNumber]) -> Vec<Turn> {
        let plan = self.options.plan;
        let known = numbers.iter().filter_map(|&number| Some((number, plan.get(number)?.identity)));
        known.map(|(number, identity)| self.journal.floors.turn(number, attempts.next(identity))).collect()
    }

    /// Nothing more comes of what was handed out.
    pub(super) fn rest(&mut self) -> anyhow::Result<()> {
        let all: Vec<IterationNumber> = self.stored.keys().map(|(number, _)| *number).collect();
        self.all_came(&all)?;
        self.fleet.rest();
        self.deduplicate();
        Ok(self.collector.clear()?)
    }

    /// Of these iterations all files have come, though perhaps not their host's last word.
    pub(super) fn all_came(&mut self, numbers: &[IterationNumber]) -> anyhow::Result<()> {
        let keys: Vec<(IterationNumber, u32)> =
            self.stored.keys().filter(|(number, _)| numbers.contains(number)).copied().collect();
        for (number, attempt) in keys {
            self.ended(number, attempt, false)?;
        }
        Ok(())
    }

    /// Attempts that are stored and of which nobody has said yet whether they are the last of their iterations.
    pub(super) fn waiting(&self) -> Vec<(IterationNumber, u32)> {
        self.stored.keys().copied().collect()
    }

    /// May an iteration be tried again after an attempt that is stored?
    pub(super) fn may_retry(&self, number: IterationNumber, attempt: u32) -> bool {
        let status = self.stored.get(&(number, attempt)).map(|(record, _)| record.outcome.status());
        let is_bad = matches!(status, Some(Status::Failed | Status::TimedOut | Status::Invalid));
        let first = self.handed.get(&number).map_or(attempt, |turn| turn.attempt);
        is_bad && attempt - first < self.options.retries
    }

    /// Was an iteration run to its end, well or not, in this run?
    pub(super) fn was_tried(&self, number: IterationNumber) -> bool {
        self.tried.contains_key(&number)
    }

    /// Iterations that this run need not be given again, for whatever reason.
    fn dealt_with(&self) -> usize {
        self.tried.len() + self.slurm.as_ref().map_or(0, Slurm::count_bound)
    }

    fn is_bound(&self, number: IterationNumber) -> bool {
        self.slurm.as_ref().is_some_and(|slurm| slurm.is_bound(number))
    }

    /// What this run has tried.
    pub(super) fn report(&self) -> Report {
        let mut report = Report::default();
        for status in self.tried.values() {
            *report.outcomes.entry(*status).or_default() += 1;
        }
        report
    }

    /// Gets hosts ready. Says whether there is one: there is none when somebody wished to stop, or when none can be reached any more.
    async fn prepare(&mut self, files: Arc<Files>) -> Result<bool, DispatchError> {
        let mut cancel = self.options.cancel.clone();
        let news = tokio::select! {
            news = self.fleet.prepare(Arc::clone(&files)) => news,
            _ = cancel.cancelled() => return Ok(false),
        };
        news.iter().for_each(|text| self.say(text));
        self.write_state()?;
        if self.fleet.working().is_empty() && (!self.fleet.was_reached() || self.fleet.able() == 0) {
            return Err(DispatchError::NoHost(self.fleet.why()));
        }
        Ok(!self.fleet.working().is_empty())
    }

    /// Where hosts that were reached before cannot be any more, it goes on trying for a while.
    async fn await_hosts(&mut self) -> Result<Hosts, DispatchError> {
        let (begun, mut cancel) = (Instant::now(), self.options.cancel.clone());
        let mut was_absent = false;
        while self.fleet.was_reached() && self.fleet.working().is_empty() && self.fleet.able() > 0 {
            was_absent = true;
            if begun.elapsed() >= PATIENCE {
                return Err(DispatchError::NoHost(self.fleet.why()));
            }
            let look = async {
                tokio::time::sleep(PAUSE).await;
                let lost = self.fleet.lost();
                self.fleet.look_again(lost).await
            };
            let news = tokio::select! {
                news = look => news,
                // The caller notices.
                _ = cancel.cancelled() => return Ok(Hosts::Returned),
            };
            news.iter().for_each(|text| self.say(text));
            self.write_state()?;
        }
        Ok(if was_absent { Hosts::Returned } else { Hosts::There })
    }

    /// `plan.json` as it is.
    pub(super) fn plan(&self) -> &[u8] {
        &self.plan
    }

    /// An attempt was begun somewhere.
    pub(super) fn note(&mut self, doing: &Doing) -> anyhow::Result<()> {
        self.journal.note(doing, "?").context("cannot note an attempt")
    }

    pub(super) fn orders(&self, shares: Vec<Share>) -> Result<Orders, DispatchError> {
        let options = self.options;
        let complete = runner::complete(options.out).map_err(anyhow::Error::from)?;
        let all = store::scan(options.out).map_err(anyhow::Error::from)?;
        let is_told = |name: &&store::AttemptName| options.again || !complete.contains(&name.identity);
        let stored = all.iter().filter(is_told).map(ToString::to_string).collect();
        let most = options.plan.spec.limits.duration;
        let until = most.and_then(|most| self.since.checked_add(jiff::SignedDuration::try_from(most).ok()?).ok());
        let until = [until, options.plan.spec.limits.until].into_iter().flatten().min();
        Ok(Orders {
            spec_hash: options.plan.spec_hash,
            shares,
            complete: if options.again { Vec::new() } else { complete.into_iter().collect() },
            stored,
            until,
            retries: options.retries,
            allow_changed_image: options.allow_changed_image,
        })
    }

    /// All was run: nothing is needed any more on the hosts, nor here. What cannot be told yet stays.
    async fn end(&self, report: &mut Report) -> anyhow::Result<()> {
        // Nodes of Slurm's keep nothing of what has come.
        let left = if self.slurm.is_some() { Vec::new() } else { self.fleet.remove(self.id).await };
        let is_clear = left.is_empty()
            && !slurm::is_left(self.options.out)
            && self.fleet.states().iter().all(|state| state.name.is_some())
            && !self.directory.join("incoming.twice").exists()
            && report.outcomes.keys().all(|status| *status == Status::Complete);
        report.leftovers.extend(left);
        // On a network file system, what somebody has open cannot be removed yet: that is no reason to fail.
        if is_clear && let Err(error) = std::fs::remove_dir_all(&self.directory) {
            report.leftovers.push(format!("{}: {error}", self.directory.display()));
        }
        Ok(())
    }

    pub(super) fn say(&self, text: &str) {
        self.options.observer.notice(&Progress::Note { text });
    }

    /// A host says that it runs an attempt.
    pub(super) fn doing(&mut self, doing: &Doing, host: &str) -> anyhow::Result<()> {
        if self.told.insert((doing.number, doing.attempt)) {
            self.journal.note(doing, host).context("cannot note an attempt")?;
            self.options.observer.notice(&Progress::Begin { number: doing.number, attempt: doing.attempt });
        }
        Ok(())
    }

    /// Takes a file that a worker sent; the status of an attempt that is stored with it.
    ///
    /// # Errors
    /// When it cannot be stored here. What is wrong with the file is only told: its iteration is run again.
    pub(super) fn take(&mut self, found: &Found, tail: &Tail) -> anyhow::Result<Option<Status>> {
        let Frame::File { name, bytes, sha256 } = &found.frame else { return Ok(None) };
        match self.collector.take(name, (tail.file(), found.at, *bytes), sha256) {
            Ok(Collected::Stored(stored)) => Ok(Some(self.keep(stored.0, stored.1))),
            Ok(Collected::Waiting | Collected::Known) => Ok(None),
            Err(error) if error.is_ours() => Err(error.into()),
            Err(error) => {
                self.refused += 1;
                self.say(&format!("{:#}", anyhow::Error::from(error)));
                Ok(None)
            }
        }
    }

    /// An attempt is stored. One that this run has handed out counts when its host says whether it is tried again; others,
    /// which an earlier run had begun, are only told.
    fn keep(&mut self, record: IterationRecord, file: PathBuf) -> Status {
        let (status, number, attempt) = (record.outcome.status(), record.header.number, record.header.attempt);
        let identity = self.options.plan.get(number).map(|iteration| iteration.identity);
        let is_of_plan = identity == Some(record.header.identity);
        if self.handed.get(&number).is_some_and(|turn| is_of_plan && attempt >= turn.attempt) {
            self.stored.insert((number, attempt), (record, file));
            return status;
        }
        self.say(&format!("iteration {number}, attempt {attempt}, of an earlier run has come: {status}"));
        status
    }

    /// All of an attempt has come.
    pub(super) fn ended(&mut self, number: IterationNumber, attempt: u32, again: bool) -> anyhow::Result<()> {
        let Some((record, file)) = self.stored.remove(&(number, attempt)) else { return Ok(()) };
        let status = record.outcome.status();
        // What ended with its host or its connection is run again.
        let again = again || (status == Status::Interrupted && self.options.cancel.requested().is_none());
        if !again {
            self.limits.ended(&record, &file)?;
            let last = self.tried.entry(number).or_insert(status);
            if *last != Status::Complete {
                *last = status;
            }
        }
        let wall = record.header.finished_ns.and_then(|end| u64::try_from(end - record.header.started_ns).ok());
        let wall = Duration::from_nanos(wall.unwrap_or_default());
        self.options.observer.notice(&Progress::End { record: &record, file: &file, wall, again });
        Ok(())
    }

    /// Is what the nodes of this attempt were made of what those of its tuple were made of before? What is wrong, if not.
    pub(super) fn changed_image(&mut self, number: IterationNumber, attempt: u32) -> Option<String> {
        let (record, _) = self.stored.get(&(number, attempt))?;
        let fact = record.environment.iter().find(|fact| fact.name == BASE_ID)?;
        let before = self.images.entry(record.header.tuple).or_insert_with(|| fact.value.clone());
        let what = format!(
            "iteration {number} ran in guests of another image than before: their kernel and programs were {before}, now they are {}",
            fact.value
        );
        (*before != fact.value && !self.options.allow_changed_image).then_some(what)
    }

    pub(super) fn write_state(&self) -> anyhow::Result<()> {
        let state =
            State { pid: std::process::id(), coordinator: host_name(), at_ns: now_ns(), hosts: self.fleet.states() };
        state.write(self.options.out).context("cannot note the state of the hosts")
    }
}

impl CollectError {
    /// Is it this host that fails, and not what was sent?
    fn is_ours(&self) -> bool {
        use std::io::ErrorKind;
        match self {
            // Names that a file system does not take are the sender's.
            Self::Io { source, .. } => !matches!(
                source.kind(),
                ErrorKind::NotADirectory
                    | ErrorKind::IsADirectory
                    | ErrorKind::InvalidFilename
                    | ErrorKind::InvalidInput
                    | ErrorKind::AlreadyExists
                    | ErrorKind::DirectoryNotEmpty
            ),
            Self::Store(error) => matches!(error, StoreError::NoSpace { .. } | StoreError::Io { .. }),
            _ => false,
        }
    }
}

/// What the nodes of each tuple that was run were made of.
fn images(options: &Options<'_>) -> anyhow::Result<BTreeMap<ShortHash, String>> {
    let plan = options.plan;
    let tuples: BTreeMap<ShortHash, ShortHash> = plan
        .iter()
        .filter(|iteration| OF_IMAGES.contains(&iteration.tuple.testbed()))
        .map(|iteration| (iteration.identity, iteration.tuple_id))
        .collect();
    let mut images = BTreeMap::new();
    if tuples.is_empty() {
        return Ok(images);
    }
    for (name, head) in store::heads(options.out)? {
        let is_complete = head.is_ok_and(|head| head.outcome == Outcome::Complete);
        let Some(tuple) = tuples.get(&name.identity).filter(|tuple| is_complete && !images.contains_key(*tuple)) else {
            continue;
        };
        let facts = store::environment(options.out, name)?;
        if let Some(fact) = facts.into_iter().find(|fact| fact.name == BASE_ID) {
            images.insert(*tuple, fact.value);
        }
    }
    Ok(images)
}

/// Names the campaign on hosts, by chance, so that no other campaign, here or elsewhere, is taken for it. Had it a name before?
fn identity(directory: &Path) -> std::io::Result<(ShortHash, bool)> {
    let path = directory.join("id");
    if let Some(id) = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()) {
        return Ok((id, true));
    }
    let id = ShortHash::of(format!("{}\n{}", host_name(), crate::agent::fresh_number()).as_bytes());
    let temp = directory.join("id.new");
    std::fs::write(&temp, id.to_string())?;
    std::fs::rename(temp, path)?;
    Ok((id, false))
}
