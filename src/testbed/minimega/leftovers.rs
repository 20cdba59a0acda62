//! What dead runs, or a dead minimega, have left: namespaces, and what of their machines outlives the daemon.
//!
//! Only what a journal names is touched, and of that only what still is what it was: a process that started when it did
//! and runs on the directory of its machine, taps that such a process had, with the number that they had.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cgroup::{self, Cgroups};
use super::daemon::{Daemon, Owner};
use super::error::MinimegaError;
use super::hold::chain;
use super::journal::{self, Entry, Journal, Noted, is_tap};
use super::remains;
use super::socket::{Limits, running_since};
use super::taps::{self, Which};
use crate::host::namespace::Namespace as Network;
use crate::host::stray::kill_if;

/// How long a process may take to end.
const END: Duration = Duration::from_secs(10);
/// How long a tap may stay after its machine.
const TAPS: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

/// How removing went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    /// What is gone, one line each.
    pub removed: Vec<String>,
    /// What could not be removed, one line each, with the reason.
    pub left: Vec<String>,
}

/// What is to be removed of what was left up on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    Stays,
    /// That as well.
    Goes,
}

/// Removes what dead runs of this campaign have left in minimega.
///
/// # Errors
/// When the campaign's journal cannot be read.
pub async fn clean(campaign: &Path, kept: Kept) -> io::Result<Removed> {
    let mut stale = journal::stale(campaign)?;
    // The one that joins two hosts goes last: with the machines at it, minimega makes its bridge once more.
    stale.entries.sort_by_key(|journal| journal.entry.hosts.len());
    let mut all = Removed { removed: Vec::new(), left: stale.unreadable };
    let (owner, mut hangs) = (Owner::of(campaign), false);
    for journal in stale.entries {
        if journal.entry.kept && kept == Kept::Stays {
            continue;
        }
        if !owner.owns(&journal.entry.namespace) {
            let name = &journal.entry.namespace;
            all.left.push(format!("namespace {name}: another user, or the campaign in another directory, has made it"));
            continue;
        }
        let Removed { removed, left } = bury(journal, &mut hangs).await;
        all.removed.extend(removed);
        all.left.extend(left);
    }
    all.left.extend(hurried(hangs));
    Ok(all)
}

/// What is to be said where another host of a mesh has let everything wait.
pub(super) fn hurried(hangs: bool) -> Option<String> {
    let hurry = Limits::default().hurry;
    hangs.then(|| {
        format!("another host of the mesh has not answered in time: what was asked of it then was given {hurry:?} each")
    })
}

/// Removes a namespace, and what is left of its machines when its daemon is gone. `hangs` goes from one to the next: has another host
/// of the mesh not answered in time?
pub(super) async fn bury(journal: Journal, hangs: &mut bool) -> Removed {
    let mut done = Removed::default();
    let entry = journal.entry.clone();
    let name = &entry.namespace;
    let same = match open(&entry.socket).await {
        Ok(daemon) => {
            if *hangs {
                daemon.expect_hanging();
            }
            let peer = daemon.peer();
            let same = entry.daemon.is_none() || peer.pid.zip(peer.started) == entry.daemon;
            let same = same && entry.is_of_this_boot();
            let failures = match remove(&daemon, &entry).await {
                Ok(true) => {
                    done.removed.push(format!("namespace {name} of minimega"));
                    Vec::new()
                }
                Ok(false) => Vec::new(),
                Err(failures) => failures,
            };
            *hangs |= daemon.mesh_hangs();
            let over = is_over(&daemon, &failures).await;
            if !over && !failures.is_empty() {
                done.left.extend(failures.iter().map(|error| format!("namespace {name}: {}", chain(error))));
                return done;
            }
            Some(same).filter(|_| !over)
        }
        Err(error) if error.is_lost() => None,
        Err(error) => {
            // Whatever it is, it may be alive and have all that is noted.
            done.left.push(format!("namespace {name}: {}", chain(&error)));
            return done;
        }
    };
    if same == Some(true) {
        done.left.extend(await_gone(&entry).await);
    } else {
        let swept = sweep(&entry, same.is_some()).await;
        done.removed.extend(swept.removed);
        done.left.extend(swept.left);
    }
    if done.left.is_empty() {
        done.left.extend(journal.erase().err().map(|error| format!("journal of {name}: {error}")));
    }
    done
}

/// The daemon at a socket, where one is; one that is about to end is waited for.
async fn open(socket: &Path) -> Result<Arc<Daemon>, MinimegaError> {
    let deadline = Instant::now() + END;
    loop {
        match Daemon::open(socket, Limits::default()).await {
            Err(error) if is_cut(&error) && Instant::now() < deadline => tokio::time::sleep(POLL).await,
            other => return other,
        }
    }
}

/// Was the conversation cut off, as by a daemon that is ending?
fn is_cut(error: &MinimegaError) -> bool {
    matches!(error, MinimegaError::Closed { .. } | MinimegaError::Io { .. })
}

/// Is the daemon gone, or about to be? One that crashes may take connections for a while after its last answer.
pub(super) async fn is_over(daemon: &Daemon, failures: &[MinimegaError]) -> bool {
    if failures.iter().any(MinimegaError::is_lost) {
        return true;
    }
    let deadline = Instant::now() + END;
    while failures.iter().any(is_cut) && Instant::now() < deadline {
        if daemon.peer().is_gone() {
            return true;
        }
        tokio::time::sleep(POLL).await;
    }
    false
}

/// Was it there?
async fn remove(daemon: &Arc<Daemon>, entry: &Entry) -> Result<bool, Vec<MinimegaError>> {
    let name = &entry.namespace;
    let there = daemon.namespaces().await.map_err(|error| vec![error])?.iter().any(|one| one == name);
    let namespace = daemon.namespace(name).map_err(|error| vec![error])?.on(&entry.hosts);
    // Another host of the mesh may have it though this minimega does not know it any more.
    let far = entry.hosts.iter().any(|host| *host != daemon.host);
    if !there && !far && !namespace.files().exists() {
        return Ok(false);
    }
    let failures = namespace.remove().await;
    if failures.is_empty() { Ok(true) } else { Err(failures) }
}

/// Waits until nothing is left of the machines of a namespace that its daemon has removed, and tells what there still is.
pub(super) async fn await_gone(entry: &Entry) -> Vec<String> {
    let alive = await_end(entry).await;
    if alive.is_empty() { await_taps(entry).await } else { alive }
}

/// Waits until the virtual machines' taps are gone, and removes those that minimega has left. Those of containers go when the
/// kernel has time for it.
async fn await_taps(entry: &Entry) -> Vec<String> {
    let machines = entry.machines.iter().filter(|noted| !noted.container);
    let links: Vec<(&String, u32)> =
        machines.flat_map(|noted| &noted.links).map(|(tap, number)| (tap, *number)).collect();
    let (Some((pid, started)), false) = (entry.daemon, links.is_empty()) else { return Vec::new() };
    // A daemon that has ended since took its taps with it, or the next one to clean finds them.
    let Ok(network) = Network::of_process(pid) else { return Vec::new() };
    if running_since(pid) != Some(started) {
        return Vec::new();
    }
    let deadline = Instant::now() + TAPS;
    loop {
        let there = match taps::interfaces(Some(&network)) {
            Ok(there) => there,
            Err(error) => return vec![format!("taps of {}: they cannot be looked for: {error}", entry.namespace)],
        };
        let is_there = |link: &&(&String, u32)| there.iter().any(|one| one.name == *link.0 && one.index == link.1);
        let left: Vec<(&String, u32)> = links.iter().filter(is_there).copied().collect();
        if left.is_empty() {
            return Vec::new();
        }
        if Instant::now() >= deadline {
            return remove_taps(entry, left, &network).await;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Removes taps that minimega has left, and tells which of them cannot be.
async fn remove_taps(entry: &Entry, left: Vec<(&String, u32)>, network: &Network) -> Vec<String> {
    let mut failed = Vec::new();
    for (tap, number) in left {
        if taps::in_use(tap) {
            failed.push(format!("tap {tap} of {}: minimega has left it, and a QEMU has it", entry.namespace));
            continue;
        }
        match taps::take(tap, Which::Number(number), Some(network)).await {
            Ok(true) => tracing::warn!("tap {tap} of {}: minimega has left it, and it is removed", entry.namespace),
            // It has gone meanwhile, or is no tap.
            Ok(false) => {}
            Err(error) => failed.push(format!("tap {tap} of {}: {error}", entry.namespace)),
        }
    }
    failed
}

/// Waits until the machines' processes have ended, and tells which have not.
async fn await_end(entry: &Entry) -> Vec<String> {
    let deadline = Instant::now() + END;
    loop {
        let alive: Vec<&Noted> = entry.machines.iter().filter(|noted| process(entry, noted).is_some()).collect();
        if alive.is_empty() {
            return Vec::new();
        }
        if Instant::now() >= deadline {
            let line = |noted: &Noted| format!("machine {} of {} still runs", noted.id, entry.namespace);
            return alive.into_iter().map(line).collect();
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Its process, if that is still the same.
fn process(entry: &Entry, noted: &Noted) -> Option<i32> {
    let (pid, started) = noted.process?;
    (entry.is_of_this_boot() && running_since(pid) == Some(started)).then_some(pid)
}

/// Which interface was that tap of its.
fn which(entry: &Entry, noted: &Noted, tap: &str) -> Which {
    match noted.links.get(tap) {
        _ if !entry.is_of_this_boot() => Which::Gone,
        Some(number) => Which::Number(*number),
        None => Which::Any,
    }
}

/// Removes what the daemon would have: processes, taps, directories. `running` says whether another daemon has come since,
/// which may have given the same numbers to machines of its own.
async fn sweep(entry: &Entry, running: bool) -> Removed {
    let mut done = Removed::default();
    let mut networks = Vec::new();
    let machines = with_unnoted(entry);
    let entry = &Entry { machines, ..entry.clone() };
    for noted in &entry.machines {
        let Some(pid) = process(entry, noted) else { continue };
        if !is_container(pid, &entry.namespace) {
            // A container has a network of its own.
            networks.extend(Network::of_process(pid).ok());
        }
        match end(noted, pid, entry) {
            Ok(()) => done.removed.push(format!("machine {} of {} (process {pid})", noted.id, entry.namespace)),
            Err(error) => done.left.push(format!("process {pid} of machine {}: {error}", noted.id)),
        }
    }
    done.left.extend(await_end(entry).await);
    if !done.left.is_empty() {
        return done;
    }
    // Names of taps begin anew with each daemon, and there may be others than the one that is noted.
    let mut all = Vec::new();
    for noted in &entry.machines {
        all.extend(noted.taps.iter().filter(|tap| !taps::in_use(tap)).map(|tap| (tap, noted)));
    }
    for (tap, noted) in all {
        let taken = match noted.container {
            // Those of a container that has come since cannot be told from this one's, which goes by itself.
            true if running => continue,
            true => taps::take_port(tap).await,
            false => taps::take(tap, which(entry, noted, tap), networks.first()).await,
        };
        match taken {
            Ok(true) => done.removed.push(format!("tap {tap}")),
            Ok(false) => {}
            Err(error) => done.left.push(format!("tap {tap}: {error}")),
        }
    }
    for noted in &entry.machines {
        let (removed, left) = remains::remove(entry, noted, running);
        done.removed.extend(removed);
        done.left.extend(left);
    }
    let places = entry.machines.iter().filter(|_| !running).map(|noted| entry.base.join(noted.id.to_string()));
    let aliases = (!running).then(|| entry.base.join("namespaces").join(&entry.namespace));
    for place in places.chain(aliases).chain([entry.files.clone()]) {
        match std::fs::remove_dir_all(&place) {
            Ok(()) => done.removed.push(place.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => done.left.push(format!("{}: {error}", place.display())),
        }
    }
    done
}

/// The machines that are noted, and those whose launch nobody lived to note: QEMUs that write their console where only machines
/// of this namespace's iteration do, and containers that were given its name.
fn with_unnoted(entry: &Entry) -> Vec<Noted> {
    let mut machines = entry.machines.clone();
    let Some(consoles) = entry.consoles.as_ref().filter(|_| entry.is_of_this_boot()) else { return machines };
    let (mark, base) = (format!("{}/", consoles.display()), format!("{}/", entry.base.display()));
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // Others can say of their processes what they like.
        if !process.metadata().is_ok_and(|found| found.uid() == nix::unistd::geteuid().as_raw()) {
            continue;
        }
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        let words = || command.split(['\0', ',', '=', ':']);
        let id = words().find_map(|word| word.strip_prefix(&base)?.split('/').next()?.parse::<u64>().ok());
        let container = is_container(pid, &entry.namespace);
        // What it was told when it was launched, the container forgets when it starts.
        let id = id.or_else(|| cgroup::machine_of(pid).filter(|_| container));
        let ours = container || words().any(|word| word.starts_with(&mark));
        let (Some(id), Some(started), true) = (id, running_since(pid), ours) else { continue };
        if machines.iter().all(|noted| noted.process != Some((pid, started))) {
            let taps = command.split(['\0', ',']).filter_map(|word| word.strip_prefix("ifname="));
            let mut taps: Vec<String> = taps.filter(|tap| is_tap(tap)).map(str::to_owned).collect();
            let cgroups = if container { Cgroups::of(pid, id).into_directories() } else { Vec::new() };
            if container {
                taps.extend(remains::taps(&entry.base, id));
            }
            let links = BTreeMap::new();
            machines.push(Noted { id, process: Some((pid, started)), taps, links, container, cgroups });
        }
    }
    machines
}

/// Kills a process that runs on the directory of its machine, or was told that it is a container of this namespace, and no other.
fn end(noted: &Noted, pid: i32, entry: &Entry) -> io::Result<()> {
    let place = format!("{}/{}/", entry.base.display(), noted.id);
    let killed = kill_if(pid, || {
        let command = command_of(pid);
        let runs_there = command.windows(place.len()).any(|part| part == place.as_bytes());
        process(entry, noted).is_some() && (runs_there || is_container(pid, &entry.namespace))
    });
    match killed {
        // It was ending by itself: a container loses its console with its daemon.
        Err(_) if process(entry, noted).is_none() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => remains::thaw(noted),
    }
}

/// Is the process the first of a PID namespace, and has it been told that it is a container of this namespace of minimega's?
fn is_container(pid: i32, namespace: &str) -> bool {
    let command = command_of(pid);
    let mut words = command.split(|&byte| byte == 0);
    words.any(|word| word == b"--machine") && words.next() == Some(namespace.as_bytes()) && is_first(pid)
}

/// Is the process the first of its PID namespace? Source: proc_pid_status(5); the last number is that in the innermost namespace.
pub(super) fn is_first(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.and_then(|numbers| numbers.split_ascii_whitespace().next_back()) == Some("1")
}

fn command_of(pid: i32) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}
