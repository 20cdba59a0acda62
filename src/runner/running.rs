//! What is being run right now, on disk: `OUT/.running/HASH.json` with a lock held as long as its process lives, and
//! `OUT/.running/HASH.d/` for the iteration's scratch files.
//!
//! The lock goes with the process, however it ends. So a file that nobody has locked belongs to a dead run, and says
//! which iteration it was in, and how far.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::host::clock::now_ns;
use crate::ids::{IterationNumber, ShortHash, Stage};

/// Name of the directory below a campaign's.
const DIRECTORY: &str = ".running";

/// How long, and how often, a mark that names nobody is looked at again.
const LOOK: std::time::Duration = std::time::Duration::from_millis(1);
const LOOKS: u32 = 20;

/// Who runs an iteration, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Process number of vptest.
    pub pid: u32,
    /// Host it runs on.
    pub host: String,
    /// Which iteration.
    pub identity: ShortHash,
    /// Its number in the plan it is run for.
    pub number: IterationNumber,
    /// From 1; 0 before the attempt has begun.
    pub attempt: u32,
    /// Wall clock, nanoseconds since 1970-01-01 UTC.
    pub started_ns: i64,
    /// Stage it is in.
    pub stage: Stage,
}

impl Running {
    /// `process 17 on host a`.
    pub fn who(&self) -> String {
        format!("process {} on {}", self.pid, self.host)
    }
}

/// The right to run an iteration. Dropping it removes the scratch files and the mark.
#[derive(Debug)]
pub(super) struct Claim {
    state: Running,
    file: File,
    path: PathBuf,
    scratch: PathBuf,
}

/// Answer to the wish to run an iteration.
#[derive(Debug)]
pub(super) enum Claimed {
    /// It may be run.
    Mine(Claim),
    /// A living process runs it.
    Theirs(String),
}

impl Claim {
    /// Claims an iteration, unless a living process has it.
    pub(super) fn take(
        out: &Path,
        identity: ShortHash,
        number: IterationNumber,
        host: &str,
    ) -> anyhow::Result<Claimed> {
        let directory = out.join(DIRECTORY);
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let path = directory.join(format!("{identity}.json"));
        let name = || format!("cannot claim {}", path.display());
        let Some(mut file) = lock_patiently(&path).with_context(name)? else {
            let who = read(&path).map_or_else(|| "another process".to_owned(), |running| running.who());
            return Ok(Claimed::Theirs(who));
        };
        let state = Running {
            pid: std::process::id(),
            host: host.to_owned(),
            identity,
            number,
            attempt: 0,
            started_ns: now_ns(),
            stage: Stage::Preflight,
        };
        write(&mut file, &state).with_context(name)?;
        let scratch = directory.join(format!("{identity}.d"));
        remove_directory(&scratch)?;
        std::fs::create_dir(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
        Ok(Claimed::Mine(Self { state, file, path, scratch }))
    }

    /// The attempt that begins now; until then the claim is for none.
    pub(super) fn begin(&mut self, attempt: u32) -> io::Result<()> {
        self.state.attempt = attempt;
        self.state.started_ns = now_ns();
        write(&mut self.file, &self.state)
    }

    /// Directory for the iteration's files.
    pub(super) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Wall clock when the attempt began.
    pub(super) fn started_ns(&self) -> i64 {
        self.state.started_ns
    }

    /// Attempt it was claimed for.
    pub(super) fn attempt(&self) -> u32 {
        self.state.attempt
    }

    /// Notes the stage that begins.
    pub(super) fn enter(&mut self, stage: Stage) -> io::Result<()> {
        self.state.stage = stage;
        write(&mut self.file, &self.state)
    }

    /// Removes the scratch files, so that their room is free for what is to be stored.
    pub(super) fn clear_scratch(&self) -> anyhow::Result<()> {
        remove_directory(&self.scratch)
    }

    /// Removes scratch files and mark, and reports what could not be removed.
    pub(super) fn release(self) -> anyhow::Result<()> {
        remove_directory(&self.scratch)?;
        std::fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.path.exists() {
            return;
        }
        if let Err(error) = remove_directory(&self.scratch) {
            tracing::warn!("{error:#}");
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// What dead runs left in a campaign's directory, and what living ones are doing.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Attempts whose process is gone. Their files stay until [`Dead::remove`].
    pub(super) dead: Vec<Dead>,
    /// Attempts that are being run.
    pub(super) alive: Vec<Running>,
}

/// An attempt that died. It is locked, so that two runs do not both clean up after it.
#[derive(Debug)]
pub(super) struct Dead {
    /// What was known; `None` when it died before it could say.
    pub(super) running: Option<Running>,
    path: PathBuf,
    _lock: File,
}

impl Dead {
    /// Removes its scratch files and its mark, and returns the mark's path.
    pub(super) fn remove(self) -> anyhow::Result<PathBuf> {
        remove_directory(&self.path.with_extension("d"))?;
        std::fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))?;
        Ok(self.path)
    }
}

/// Looks through a campaign's directory.
pub(super) fn find(out: &Path) -> anyhow::Result<Found> {
    let directory = out.join(DIRECTORY);
    let mut found = Found::default();
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other.with_context(|| format!("cannot read {}", directory.display()))?,
    };
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", directory.display()))?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let running = read(&path);
        match lock(&path, false).with_context(|| format!("cannot look at {}", path.display()))? {
            // Read again: it may have been claimed and left between the two looks.
            Some(file) => found.dead.push(Dead { running: read(&path), path, _lock: file }),
            None => found.alive.extend(running),
        }
    }
    Ok(found)
}

/// Holds a whole campaign; released when dropped or when the process ends.
#[derive(Debug)]
pub(super) struct CampaignLock {
    _file: File,
}

impl CampaignLock {
    /// For a run that chooses iterations by itself. `Err` names the process that does so already.
    pub(super) fn take(out: &Path) -> anyhow::Result<Result<Self, String>> {
        let directory = out.join(DIRECTORY);
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let path = directory.join("campaign.lock");
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {
                let text = who();
                file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).context("cannot write the lock")?;
                Ok(Ok(Self { _file: file }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text).context("cannot read the lock")?;
                Ok(Err(if text.is_empty() { "another process".to_owned() } else { text }))
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

/// Where the iterations of a campaign run: here, for any number of processes, or on hosts, for one coordinator alone. An iteration
/// that runs elsewhere has no mark here, so that the two would run the same ones.
#[derive(Debug)]
pub(super) struct Whereabouts {
    _file: File,
}

impl Whereabouts {
    /// `Err` names who runs iterations in another way.
    pub(super) fn take(out: &Path, on_hosts: bool) -> anyhow::Result<Result<Self, String>> {
        let directory = out.join(DIRECTORY);
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let path = directory.join("where.lock");
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.with_context(|| format!("cannot open {}", path.display()))?;
        let mut locked = if on_hosts { file.try_lock() } else { file.try_lock_shared() };
        // Who only looks has it for a moment.
        for _ in 0..LOOKS {
            if !(on_hosts && matches!(locked, Err(TryLockError::WouldBlock))) {
                break;
            }
            std::thread::sleep(LOOK);
            locked = file.try_lock();
        }
        match locked {
            Ok(()) if on_hosts => {
                let text = format!("{} on other hosts", who());
                file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).context("cannot write the lock")?;
                Ok(Ok(Self { _file: file }))
            }
            Ok(()) => Ok(Ok(Self { _file: file })),
            Err(TryLockError::WouldBlock) if on_hosts => Ok(Err("other processes on this host".to_owned())),
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text).context("cannot read the lock")?;
                Ok(Err(if text.is_empty() { "another process, on other hosts".to_owned() } else { text }))
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// Do the iterations of a campaign run on hosts now?
    pub(super) fn is_on_hosts(out: &Path) -> bool {
        let locked = File::open(out.join(DIRECTORY).join("where.lock")).map(|file| file.try_lock_shared());
        matches!(locked, Ok(Err(TryLockError::WouldBlock)))
    }
}

/// Who runs iterations of a campaign, each once: process number and host.
///
/// # Errors
/// When the campaign's directory cannot be read.
pub fn holders(out: &Path) -> anyhow::Result<BTreeSet<(u32, String)>> {
    let mut all: BTreeSet<_> = find(out)?.alive.into_iter().map(|running| (running.pid, running.host)).collect();
    for name in ["campaign.lock", "where.lock"] {
        let path = out.join(DIRECTORY).join(name);
        let Ok(file) = File::open(&path) else { continue };
        let is_held = || matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        // Who only looks, or is being started by who does, has it for a moment.
        let stays_held = || {
            (0..LOOKS).all(|look| {
                if look > 0 {
                    std::thread::sleep(LOOK);
                }
                is_held()
            })
        };
        if stays_held() {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            all.extend(named(&text));
        }
    }
    Ok(all)
}

/// The process that [`who`] has named.
fn named(text: &str) -> Option<(u32, String)> {
    let mut words = text.strip_prefix("process ")?.split(' ');
    let pid = words.next()?.parse().ok()?;
    Some((pid, words.nth(1)?.to_owned()))
}

/// This process, for another one's eyes.
fn who() -> String {
    format!("process {} on {}", std::process::id(), crate::host::host_name())
}

/// Locks a mark, making it if need be. Somebody who is only looking holds the lock for a moment, and the mark then names
/// nobody: that is waited for.
fn lock_patiently(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..LOOKS {
        let locked = lock(path, true)?;
        if locked.is_some() || read(path).is_some_and(|running| running.pid != std::process::id()) {
            return Ok(locked);
        }
        std::thread::sleep(LOOK);
    }
    lock(path, true)
}

/// Opens and locks a file; `None` when a living process holds it or (without `create`) when it is gone.
fn lock(path: &Path, create: bool) -> io::Result<Option<File>> {
    loop {
        let file = match File::options().read(true).write(true).create(create).truncate(false).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !create => return Ok(None),
            other => other?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // The one who held it may have removed it meanwhile: then this lock is on a file that nobody else can find.
        match std::fs::metadata(path) {
            Ok(there) if there.ino() == file.metadata()?.ino() => return Ok(Some(file)),
            _ if create => {}
            _ => return Ok(None),
        }
    }
}

/// `None` when the file is gone or was not written to its end.
fn read(path: &Path) -> Option<Running> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn write(file: &mut File, state: &Running) -> io::Result<()> {
    let text = serde_json::to_vec(state)?;
    file.rewind()?;
    file.write_all(&text)?;
    file.set_len(text.len() as u64)
}

fn remove_directory(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(out: &Path) -> Claimed {
        Claim::take(out, ShortHash::of(b"x"), IterationNumber(3), "here").unwrap()
    }

    fn mine(claimed: Claimed) -> Claim {
        match claimed {
            Claimed::Mine(claim) => claim,
            Claimed::Theirs(who) => panic!("claimed by {who}"),
        }
    }

    #[test]
    fn an_iteration_is_run_by_one_process_at_a_time() {
        let out = tempfile::tempdir().unwrap();
        let claim = mine(take(out.path()));
        match take(out.path()) {
            Claimed::Theirs(who) => assert_eq!(who, format!("process {} on here", std::process::id())),
            Claimed::Mine(_) => panic!("claimed twice"),
        }
        let found = find(out.path()).unwrap();
        assert_eq!((found.dead.len(), found.alive.len()), (0, 1));
        claim.release().unwrap();
        assert_eq!(find(out.path()).unwrap().alive.len(), 0);
        mine(take(out.path())).release().unwrap();
    }

    #[test]
    fn a_dead_run_says_how_far_it_came_and_leaves_nothing_once_removed() {
        let out = tempfile::tempdir().unwrap();
        let mut claim = mine(take(out.path()));
        claim.begin(2).unwrap();
        claim.enter(Stage::Workload).unwrap();
        std::fs::write(claim.scratch().join("file"), "x").unwrap();
        // What a kill leaves: the files, without the lock.
        let Claim { file, .. } = &claim;
        file.unlock().unwrap();
        let mut found = find(out.path()).unwrap();
        let dead = found.dead.pop().unwrap();
        let running = dead.running.clone().unwrap();
        assert_eq!((running.number, running.attempt, running.stage), (IterationNumber(3), 2, Stage::Workload));
        dead.remove().unwrap();
        let left: Vec<_> = std::fs::read_dir(out.path().join(DIRECTORY)).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn a_mark_that_was_not_written_to_its_end_is_found_as_dead_too() {
        let out = tempfile::tempdir().unwrap();
        std::fs::create_dir(out.path().join(DIRECTORY)).unwrap();
        std::fs::write(out.path().join(DIRECTORY).join("0123456789ab.json"), "{\"pid\":").unwrap();
        let found = find(out.path()).unwrap();
        assert_eq!(found.dead.len(), 1);
        assert!(found.dead[0].running.is_none());
    }

    #[test]
    fn iterations_run_here_or_on_hosts() {
        let out = tempfile::tempdir().unwrap();
        let take = |on_hosts| Whereabouts::take(out.path(), on_hosts).unwrap();
        let (one, other) = (take(false).unwrap(), take(false).unwrap());
        assert_eq!(take(true).unwrap_err(), "other processes on this host");
        assert!(!Whereabouts::is_on_hosts(out.path()));
        drop((one, other));
        let coordinator = take(true).unwrap();
        assert_eq!(take(false).unwrap_err(), format!("{} on other hosts", who()));
        take(true).unwrap_err();
        assert!(Whereabouts::is_on_hosts(out.path()));
        let me = (std::process::id(), crate::host::host_name());
        assert_eq!(holders(out.path()).unwrap(), [me].into());
        drop(coordinator);
        assert_eq!(holders(out.path()).unwrap(), [].into());
    }

    #[test]
    fn a_campaign_is_chosen_from_by_one_process() {
        let out = tempfile::tempdir().unwrap();
        let first = CampaignLock::take(out.path()).unwrap().unwrap();
        let refused = CampaignLock::take(out.path()).unwrap().unwrap_err();
        assert_eq!(refused, who());
        drop(first);
        drop(CampaignLock::take(out.path()).unwrap().unwrap());
    }
}
