//! The part on the host: runs the iterations of a share, and says what comes of each.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use sha2::{Digest as _, Sha256};

use super::frame::{Doing, Frame, Left, VERSION};
pub use super::orders::Round;
use super::orders::{self, Orders};
use super::share::Share;
use crate::host::host_name;
use crate::ids::{ShortHash, Stage};
use crate::plan::Plan;
use crate::runner::{self, Cancel, Canceller, Errand, Observer, Options, Progress, Report};
use crate::spec::LimitsSpec;
use crate::store::{self, AttemptName};

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(2);
/// Between two looks for the wish to end.
const LOOK: Duration = Duration::from_millis(200);
/// How long a worker of the same campaign may take to end: its coordinator is gone. Then it is killed.
const PREDECESSOR: Duration = Duration::from_secs(90);
/// Shares of a round whose files stay until the next one: a connection that is lost is noticed late.
const LAST_SHARES: usize = 3;
/// How long it may take to be gone then.
const KILLED: Duration = Duration::from_secs(10);

/// What a worker is started with.
#[derive(Debug, Clone)]
pub struct Work {
    /// The campaign's directory on this host.
    pub place: PathBuf,
    /// Which round.
    pub round: Round,
    /// Which share of it; `None` to send only what no coordinator has taken.
    pub share: Option<u32>,
    /// How often the share was begun before, on whichever host: attempts at its iterations then have later numbers.
    pub restarts: u32,
    /// Path of the running program.
    pub vptest: PathBuf,
}

/// Runs a share and tells of it on `out`. What goes wrong is told there as well. Says whether all that is here was sent: not when
/// another worker had the place, when the share could not be run, and when a file could not be read.
///
/// # Errors
/// When `out` takes no more: nobody hears what comes of it, and the rest is left.
pub async fn work<W: Write + Send + 'static>(
    work: &Work,
    plan: &Plan,
    out: W,
    (canceller, cancel): (Canceller, Cancel),
) -> io::Result<bool> {
    let voice = Voice::new(out, canceller.clone());
    // Slurm's name of the node, where it was Slurm that began this.
    let login = std::env::var("PARALLEL_SSHLOGIN").or_else(|_| std::env::var("SLURMD_NODENAME")).ok();
    let hello = Frame::Hello {
        version: VERSION,
        host: host_name(),
        login,
        pid: std::process::id(),
        share: work.share.unwrap_or(0),
    };
    voice.say(&hello)?;
    let _pulse = Pulse::start(&voice, canceller, work.place.join(work.round.halt()));
    let left = match lock(&work.place) {
        Ok(Lock::Mine(_lock)) => run(work, plan, &voice, cancel).await,
        Ok(Lock::Theirs(who)) => Ok(Some(Left::Busy(format!("another worker runs on it: {who}")))),
        Err(error) => Err(error),
    };
    let left = left.unwrap_or_else(|error| Some(Left::Unable(format!("{error:#}"))));
    let is_whole = !matches!(left, Some(Left::Busy(_) | Left::Unable(_))) && !voice.lock().is_lacking;
    voice.say(&Frame::End { left })?;
    Ok(is_whole)
}

/// Whose a host is.
enum Lock {
    /// This worker's, as long as the file is open.
    Mine(File),
    /// That of a worker which does not end.
    Theirs(String),
}

/// One worker at a time for each user of a host: two would disturb each other's iterations. One of the same campaign has lost its
/// coordinator, or this would not be here, and is told to end.
fn lock(place: &Path) -> anyhow::Result<Lock> {
    let path = place.parent().unwrap_or(place).join(format!("worker-{}.lock", host_name()));
    let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.with_context(|| format!("cannot open {}", path.display()))?;
    // Who holds it, since when, and whether that was told to end.
    let mut holder = Holder { text: String::new(), since: Instant::now(), told: false };
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
            Err(std::fs::TryLockError::WouldBlock) => {}
        }
        let mut text = String::new();
        File::open(&path).and_then(|mut file| file.read_to_string(&mut text)).context("cannot read the lock")?;
        if text != holder.text {
            holder = Holder { text, since: Instant::now(), told: false };
        }
        if let Some(who) = holder.refuses(place) {
            return Ok(Lock::Theirs(crate::text::printable(&who, 300)));
        }
        std::thread::sleep(LOOK);
    }
    let text = format!("{}\n{}\n", place.display(), std::process::id());
    file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).context("cannot write the lock")?;
    Ok(Lock::Mine(file))
}

/// A worker that has the lock.
struct Holder {
    /// What it has written there: its campaign's directory and its process number.
    text: String,
    since: Instant,
    told: bool,
}

impl Holder {
    /// Has it end if it is of the same campaign. Who it is, when it is not, or does not end.
    fn refuses(&mut self, place: &Path) -> Option<String> {
        let is_ours = self.text.lines().next() == Some(&place.to_string_lossy());
        let waited = self.since.elapsed();
        if waited >= PREDECESSOR + KILLED || !(is_ours || self.text.is_empty()) {
            return Some(self.text.lines().collect::<Vec<_>>().join(", process "));
        }
        let pid = self.text.lines().nth(1).and_then(|pid| pid.parse().ok())?;
        if !self.told {
            self.told = true;
            end(pid, Signal::SIGTERM);
        }
        if waited >= PREDECESSOR {
            end(pid, Signal::SIGKILL);
        }
        None
    }
}

/// Tells a worker to take its iteration down and end, or ends it. Another process that has its number is left alone.
fn end(pid: i32, signal: Signal) {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_worker = words.split(|&byte| byte == 0).any(|word| word == b"worker");
    if pid > 1 && is_worker {
        // It may be gone by now.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}

/// Why iterations of the share are left; `None` when none is.
async fn run<W: Write + Send + 'static>(
    work: &Work,
    plan: &Plan,
    voice: &Voice<W>,
    cancel: Cancel,
) -> anyhow::Result<Option<Left>> {
    let orders = Orders::read(&work.place, &work.round)?;
    anyhow::ensure!(orders.spec_hash == plan.spec_hash, "the plan in {} is another one", work.place.display());
    // What earlier rounds could not deliver.
    runner::recover(Some(plan), &work.place)?;
    send_again(work, &orders, voice)?;
    let Some(number) = work.share else { return Ok(None) };
    let share = orders.shares.iter().find(|share| share.number == number);
    let share = share.with_context(|| format!("the orders have no share {number}"))?;
    // Each time that it was begun may have used as many numbers, on a host that nobody can ask.
    let used = work.restarts.saturating_mul(orders.retries.saturating_add(1));
    let later = |attempt: u32| attempt.saturating_add(used);
    let errand = Errand {
        attempts: share.iterations.iter().map(|turn| (turn.number, later(turn.attempt))).collect::<BTreeMap<_, _>>(),
        halt: Some(work.place.join(work.round.halt())),
        until: orders.until,
        // The others are the coordinator's to watch, over all hosts.
        limits: Some(LimitsSpec {
            free: plan.spec.limits.free,
            failures: plan.spec.limits.failures,
            ..LimitsSpec::default()
        }),
        is_sent_on: true,
    };
    let options = Options {
        plan,
        out: &work.place,
        selection: Some(share.iterations.iter().map(|turn| turn.number).collect()),
        again: false,
        retries: orders.retries,
        keep_failed: false,
        jobs: NonZeroUsize::MIN,
        allow_changed_image: orders.allow_changed_image,
        vptest: work.vptest.clone(),
        observer: &Reporter { voice, place: &work.place },
        cancel,
        errand,
    };
    let report = runner::run(&options).await?;
    for text in &report.leftovers {
        voice.say(&Frame::Note { text: format!("left over: {text}") })?;
    }
    let left = left_of(&report, &orders);
    put_away(work, share)?;
    Ok(left)
}

fn left_of(report: &Report, orders: &Orders) -> Option<Left> {
    let interrupted = report.interrupted.clone().map(Left::Interrupted);
    let is_late = orders.until.is_some_and(|until| jiff::Timestamp::now() >= until);
    let limited = report.limited.clone().map(if is_late { Left::Late } else { Left::Limit });
    let elsewhere = (report.elsewhere > 0).then(|| Left::Interrupted("another process runs some of them".to_owned()));
    interrupted.or(limited).or(elsewhere)
}

/// Sends what was stored here and may never have arrived, once in a round, and forgets what is not needed where the coordinator
/// is. Nothing else is forgotten: what is sent now may get lost as well.
fn send_again<W: Write>(work: &Work, orders: &Orders, voice: &Voice<W>) -> anyhow::Result<()> {
    let complete: HashSet<ShortHash> = orders.complete.iter().copied().collect();
    let stored: HashSet<&str> = orders.stored.iter().map(String::as_str).collect();
    let is_needed =
        |name: &AttemptName| !complete.contains(&name.identity) && !stored.contains(name.to_string().as_str());
    let was_lost = work.place.join(work.round.again()).exists();
    for (path, share) in sent(work)? {
        // Of this round the coordinator has had its say, unless its connection was lost.
        if share.is_some() && !was_lost {
            continue;
        }
        for attempt in store::scan(&path)?.iter() {
            if is_needed(attempt) { voice.send(&path, *attempt)? } else { forget(&path, *attempt)? }
        }
        set_aside(work, &path)?;
    }
    if was_lost {
        std::fs::remove_file(work.place.join(work.round.again())).context("cannot remove a mark")?;
    }
    for attempt in store::scan(&work.place)?.iter().filter(|attempt| is_needed(attempt)) {
        voice.send(&work.place, *attempt)?;
    }
    forget_old(work)?;
    put_away_as(work, "before")
}

/// What was sent in this round, though it is of an earlier share, stays until the next one.
fn set_aside(work: &Work, path: &Path) -> anyhow::Result<()> {
    // It is removed only when nothing is in it.
    if std::fs::remove_dir(path).is_ok() {
        return Ok(());
    }
    let name = |number: u32| orders::sent(&work.place).join(format!("{}-before{number}", work.round.as_str()));
    let to = (1..).map(name).find(|to| !to.exists()).context("no name is left")?;
    std::fs::rename(path, &to).with_context(|| format!("cannot rename {}", path.display()))
}

/// Directories of what was sent, those of this round with the number of their share, in the order of these.
fn sent(work: &Work) -> anyhow::Result<Vec<(PathBuf, Option<u32>)>> {
    let mut sent = Vec::new();
    for entry in std::fs::read_dir(orders::sent(&work.place)).into_iter().flatten() {
        let entry = entry.context("cannot list what was sent")?;
        sent.push((entry.path(), work.round.share(&entry.file_name().to_string_lossy())));
    }
    sent.sort_by_key(|(_, share)| *share);
    Ok(sent)
}

/// Of this round, the coordinator has had its say on all but the last shares.
fn forget_old(work: &Work) -> anyhow::Result<()> {
    let of_round: Vec<PathBuf> = sent(work)?
        .into_iter()
        .filter(|(_, share)| share.is_some_and(|share| share > 0))
        .map(|(path, _)| path)
        .collect();
    for path in of_round.iter().rev().skip(LAST_SHARES) {
        std::fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Removes an attempt that is not needed any more.
fn forget(place: &Path, attempt: AttemptName) -> anyhow::Result<()> {
    let artifacts = attempt.artifacts(place);
    if artifacts.exists() {
        std::fs::remove_dir_all(&artifacts).with_context(|| format!("cannot remove {}", artifacts.display()))?;
    }
    let path = place.join(attempt.to_string());
    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
}

/// Keeps the files of this share apart: they were sent whole.
fn put_away(work: &Work, share: &Share) -> anyhow::Result<()> {
    put_away_as(work, &share.number.to_string())
}

fn put_away_as(work: &Work, share: &str) -> anyhow::Result<()> {
    let attempts = store::scan(&work.place)?;
    if attempts.is_empty() {
        return Ok(());
    }
    let to = orders::sent(&work.place).join(format!("{}-{share}", work.round.as_str()));
    std::fs::create_dir_all(&to).with_context(|| format!("cannot create {}", to.display()))?;
    for attempt in attempts.iter() {
        let artifacts = attempt.artifacts(&work.place);
        if artifacts.exists() {
            std::fs::rename(&artifacts, attempt.artifacts(&to)).context("cannot put artifacts away")?;
        }
        let name = attempt.to_string();
        std::fs::rename(work.place.join(&name), to.join(&name)).with_context(|| format!("cannot put {name} away"))?;
    }
    Ok(())
}

/// The stream to the coordinator.
struct Voice<W> {
    inner: Arc<Mutex<Inner<W>>>,
}

struct Inner<W> {
    out: W,
    doing: Option<Doing>,
    canceller: Canceller,
    /// Something could not be sent: what follows makes no sense to who reads, or lacks a file.
    is_lacking: bool,
}

impl<W> Clone for Voice<W> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<W: Write> Voice<W> {
    fn new(out: W, canceller: Canceller) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { out, doing: None, canceller, is_lacking: false })) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<W>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, frame: &Frame) -> io::Result<()> {
        self.lock().write(|out| out.write_all(frame.line().as_bytes()))
    }

    fn set_doing(&self, doing: Option<Doing>) {
        self.lock().doing = doing;
    }

    fn beat(&self) -> io::Result<()> {
        let mut inner = self.lock();
        let frame = Frame::Beat { running: inner.doing.clone() };
        inner.write(|out| out.write_all(frame.line().as_bytes()))
    }

    /// Sends the files of an attempt, the database last: with it, the attempt is there.
    fn send(&self, place: &Path, attempt: AttemptName) -> anyhow::Result<()> {
        let artifacts = attempt.artifacts(place);
        let mut files = Vec::new();
        if artifacts.exists() {
            list(&artifacts, &mut files).with_context(|| format!("cannot list {}", artifacts.display()))?;
        }
        files.sort();
        files.push(place.join(attempt.to_string()));
        for path in files {
            let name = path.strip_prefix(place).unwrap_or(&path).to_string_lossy().into_owned();
            self.send_file(&path, name).with_context(|| format!("cannot send {}", path.display()))?;
        }
        Ok(())
    }

    fn send_file(&self, path: &Path, name: String) -> io::Result<()> {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => {
                    hash.update(&buffer[..read]);
                    bytes += read as u64;
                }
            }
        }
        let frame = Frame::File { name, bytes, sha256: crate::text::hex(&hash.finalize()) };
        let file = File::open(path)?;
        self.lock().write(|out| {
            out.write_all(frame.line().as_bytes())?;
            let copied = io::copy(&mut file.take(bytes), out)?;
            if copied == bytes { Ok(()) } else { Err(io::Error::other("it has become shorter meanwhile")) }
        })
    }
}

impl<W: Write> Inner<W> {
    /// Writes and flushes. When nobody reads any more, what runs is of no use.
    fn write(&mut self, write: impl FnOnce(&mut W) -> io::Result<()>) -> io::Result<()> {
        let written = write(&mut self.out).and_then(|()| self.out.flush());
        if written.is_err() {
            self.is_lacking = true;
            self.canceller.cancel("the end of the connection to the coordinator");
        }
        written
    }
}

/// Regular files below a directory; others are not kept by an iteration.
fn list(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let (kind, path) = {
            let entry = entry?;
            (entry.file_type()?, entry.path())
        };
        match kind {
            kind if kind.is_dir() => list(&path, files)?,
            kind if kind.is_file() => files.push(path),
            _ => {}
        }
    }
    Ok(())
}

/// Signs of life, and looks for the wish to end, until it is dropped.
struct Pulse {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Pulse {
    fn start<W: Write + Send + 'static>(voice: &Voice<W>, canceller: Canceller, halt: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (voice, ended) = (voice.clone(), Arc::clone(&stop));
        let pulse = move || {
            let mut last = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                std::thread::park_timeout(LOOK);
                if std::fs::read(&halt).is_ok_and(|wish| wish.starts_with(b"now")) {
                    canceller.cancel("the coordinator");
                }
                if last.elapsed() >= BEAT {
                    last = Instant::now();
                    // The failure is noticed by who wrote.
                    let _ = voice.beat();
                }
            }
        };
        let thread = std::thread::Builder::new().name("vptest-pulse".to_owned()).spawn(pulse);
        Self { stop, thread: thread.inspect_err(|error| tracing::warn!("no signs of life: {error}")).ok() }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Tells the coordinator what the runner tells.
struct Reporter<'a, W> {
    voice: &'a Voice<W>,
    place: &'a Path,
}

impl<W: Write + Send> Observer for Reporter<'_, W> {
    fn notice(&self, news: &Progress<'_>) {
        let told = match news {
            Progress::Begin { number, attempt } => {
                let doing = Doing { number: *number, attempt: *attempt, stage: Stage::Preflight };
                self.voice.set_doing(Some(doing));
                self.voice.beat().map_err(anyhow::Error::from)
            }
            Progress::Stage { stage, .. } => {
                if let Some(doing) = &mut self.voice.lock().doing {
                    doing.stage = *stage;
                }
                Ok(())
            }
            Progress::End { record, again, .. } => {
                self.voice.set_doing(None);
                let (number, attempt) = (record.header.number, record.header.attempt);
                let sent = self.voice.send(self.place, AttemptName::of(&record.header));
                let ended = Frame::Ended { number, attempt, again: *again };
                sent.and_then(|()| self.voice.say(&ended).map_err(anyhow::Error::from))
            }
            _ => Ok(()),
        };
        if let Err(error) = told {
            self.voice.lock().is_lacking = true;
            tracing::warn!("{error:#}");
        }
    }
}
