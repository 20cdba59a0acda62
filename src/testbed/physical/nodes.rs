//! Connections to the nodes, kept from one iteration to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{Mutex, OnceCell, Semaphore};
use tokio::time::Instant;

use super::rond::RondWay;
use super::wishes::{NodeWish, Reach};
use crate::agent::{Client, Limits};
use crate::host::cage::Cage;
use crate::image::Bundle;
use crate::node::Process;
use crate::node::local::Processes;
use crate::node::ssh::{Connection, Site, SshError, Target};
use crate::spec::PhysicalSpec;
use crate::testbed::TestbedError;
use crate::testbed::minimega::MinimegaError;
use crate::testbed::minimega::cc::Mailbox;
use crate::workload::find_in_path;

/// Connections that are opened at the same time: each costs this host a process and a key exchange.
const AT_ONCE: usize = 32;
/// How long a node may take to answer ssh, or to report to rond (miniccc connects again after 15 s); one that is being started
/// takes longer, and is not ready for an iteration.
const REACH: Duration = Duration::from_secs(30);
/// The same for one that did not answer the last time: a campaign does not wait that long again and again.
const REACH_AGAIN: Duration = Duration::from_secs(5);
/// How long copying vptest and starting it may take, also over a slow management network.
const COPY: Duration = Duration::from_secs(120);
/// A node that answers nothing within this time is gone: its agent says something every two seconds.
const SILENCE: Duration = Duration::from_secs(15);
/// Time for a node that was used before to end what is left of the iteration before.
const RESET: Duration = Duration::from_secs(10);
/// Begins the names of directories with ssh's sockets.
const PREFIX: &str = "vptest-nodes-";
/// Held as long as a directory is in use.
const LOCK: &str = "lock";

/// A node that was reached. Dropping it ends what goes to it, and with that the agent.
pub(super) struct Held {
    pub(super) client: Client,
    /// All CPUs of the node, as soon as they are known.
    pub(super) cpus: OnceCell<Vec<u32>>,
    behind: Behind,
}

/// What goes to a node.
enum Behind {
    Ssh {
        connection: Box<Mutex<Connection>>,
        /// `None` once it was ended.
        agent: std::sync::Mutex<Option<Box<dyn Process>>>,
    },
    Rond(Mailbox),
}

impl Held {
    /// Round trips through miniccc so far; `None` for a node that is reached otherwise.
    pub(super) fn round_trips(&self) -> Option<u64> {
        match &self.behind {
            Behind::Ssh { .. } => None,
            Behind::Rond(mailbox) => Some(mailbox.turns()),
        }
    }
}

/// See the module. Clones are the same nodes.
#[derive(Clone)]
pub(super) struct Nodes(Arc<Inner>);

struct Inner {
    /// By what ssh is told, so that a node is reached once whatever its part in a tuple.
    held: Mutex<BTreeMap<String, Arc<Held>>>,
    place: Mutex<Option<Arc<Place>>>,
    bundle: Mutex<Option<Arc<Bundle>>>,
    numbers: AtomicU64,
    opening: Semaphore,
    rond: RondWay,
    /// Was any node reached yet?
    reached: AtomicBool,
    /// Nodes that could not be reached the last time, by the same key.
    silent: std::sync::Mutex<BTreeSet<String>>,
}

/// Where ssh's processes run and have their sockets.
struct Place {
    processes: Arc<Processes>,
    directory: TempDir,
    _lock: File,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.processes.abandon();
    }
}

/// Is there an ssh on this host?
pub(super) fn has_ssh() -> Result<(), TestbedError> {
    if find_in_path("ssh").is_some() { Ok(()) } else { Err(unsupported(&SshError::NoProgram)) }
}

impl Nodes {
    /// None is reached yet.
    pub(super) fn new(spec: &PhysicalSpec) -> Self {
        Self(Arc::new(Inner {
            held: Mutex::default(),
            place: Mutex::default(),
            bundle: Mutex::default(),
            numbers: AtomicU64::default(),
            opening: Semaphore::new(AT_ONCE),
            rond: RondWay::new(spec.rond.as_deref()),
            reached: AtomicBool::default(),
            silent: std::sync::Mutex::default(),
        }))
    }

    /// The node, ready for an iteration: nothing that an earlier one started runs there any more.
    pub(super) async fn reach(&self, wish: &NodeWish, vptest: &Path) -> Result<Arc<Held>, TestbedError> {
        let key = key(wish);
        let known = self.0.held.lock().await.get(&key).map(Arc::clone);
        if let Some(held) = known {
            match tokio::time::timeout(RESET, held.client.reset()).await {
                Ok(Ok(())) => return Ok(held),
                Ok(Err(error)) => tracing::warn!("{}: {error}; it is reached anew", wish.id),
                Err(_) => tracing::warn!("{}: no answer within {RESET:?}; it is reached anew", wish.id),
            }
            self.forget(wish).await;
        }
        let held = Arc::new(self.open(wish, vptest).await?);
        self.0.held.lock().await.insert(key, Arc::clone(&held));
        Ok(held)
    }

    /// Ends the connection to a node that was no good; the next iteration begins with a new one.
    pub(super) async fn forget(&self, wish: &NodeWish) {
        let held = self.0.held.lock().await.remove(&key(wish));
        if let Some(held) = held {
            close(&held).await;
        }
    }

    /// Ends all connections; the nodes put back what was changed and remove what was copied to them.
    pub(super) async fn close(&self) {
        let held = std::mem::take(&mut *self.0.held.lock().await);
        futures_util::future::join_all(held.values().map(|held| close(held))).await;
        drop(held);
        self.0.rond.finish().await;
        if let Some(place) = self.0.place.lock().await.take()
            && let Err(error) = place.processes.close().await
        {
            tracing::warn!("cannot end ssh's processes: {error}");
        }
    }

    /// Removes what an iteration has left on the way to the nodes.
    pub(super) async fn tidy(&self) {
        self.0.rond.tidy().await;
    }

    async fn open(&self, wish: &NodeWish, vptest: &Path) -> Result<Held, TestbedError> {
        let bundle = self.bundle(vptest).await?;
        // Never closed, so that there is always a permit to come.
        let _permit = self.0.opening.acquire().await.ok();
        let held = match &wish.reach {
            Reach::Ssh(target) => self.open_by_ssh(wish, target, &bundle).await?,
            Reach::Rond { files } => self.open_by_rond(wish, files, &bundle).await?,
        };
        self.0.reached.store(true, Ordering::Relaxed);
        Ok(held)
    }

    async fn open_by_rond(&self, wish: &NodeWish, files: &str, bundle: &Bundle) -> Result<Held, TestbedError> {
        let found = self.0.rond.find(wish, self.patience(wish)).await;
        self.note(wish, matches!(found, Err(MinimegaError::NoClient { .. })));
        let opened = match found {
            Ok(found) => self.0.rond.open(found, files, bundle).await,
            Err(error) => Err(error),
        };
        let mailbox = opened.map_err(|error| {
            let (what, stays) = self.0.rond.explain(&error);
            if stays && !self.0.reached.load(Ordering::Relaxed) {
                return TestbedError::Unsupported { what: format!("{}: {what}", wish.id), hint: None };
            }
            TestbedError::Guest { node: wish.id, what }
        })?;
        Ok(Held { client: mailbox.client.clone(), cpus: OnceCell::new(), behind: Behind::Rond(mailbox) })
    }

    async fn open_by_ssh(&self, wish: &NodeWish, target: &Target, bundle: &Bundle) -> Result<Held, TestbedError> {
        let place = self.place().await?;
        let number = self.0.numbers.fetch_add(1, Ordering::Relaxed);
        let name = format!("n{number}");
        let site =
            Site { processes: &place.processes, namespace: None, directory: place.directory.path(), name: &name };
        let failed = |error: &SshError| self.failed(wish, error);
        let opened = Connection::open(&site, target, Instant::now() + self.patience(wish)).await;
        self.note(wish, opened.as_ref().is_err_and(|error| matches!(error, SshError::Unreachable { .. })));
        let mut connection = opened.map_err(|error| failed(&error))?;
        let limits = Limits { silence: SILENCE, handshake: COPY, ..Limits::default() };
        let agent = tokio::time::timeout(COPY, connection.agent(bundle, limits)).await;
        let late = |_| TestbedError::Guest {
            node: wish.id,
            what: format!("{}: vptest could not be copied to it and started within {COPY:?}", wish.host),
        };
        let agent = agent.map_err(late)?.map_err(|error| failed(&error))?;
        let behind = Behind::Ssh {
            connection: Box::new(Mutex::new(connection)),
            agent: std::sync::Mutex::new(Some(agent.process)),
        };
        Ok(Held { client: agent.client, cpus: OnceCell::new(), behind })
    }

    /// How long a node may take to answer ssh or to report to rond.
    fn patience(&self, wish: &NodeWish) -> Duration {
        let silent = self.0.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if silent.contains(&key(wish)) { REACH_AGAIN } else { REACH }
    }

    fn note(&self, wish: &NodeWish, is_silent: bool) {
        let (mut silent, key) = (self.0.silent.lock().unwrap_or_else(PoisonError::into_inner), key(wish));
        if is_silent {
            silent.insert(key)
        } else {
            silent.remove(&key)
        };
    }

    /// A login or a machine that is no good ends a run whose first contact it is: it stays so for all iterations. Later it
    /// fails the iteration, as does a node that may come back.
    fn failed(&self, wish: &NodeWish, error: &SshError) -> TestbedError {
        let stays = match error {
            SshError::NoProgram => return unsupported(error),
            SshError::HostKey { .. }
            | SshError::Refused { .. }
            | SshError::NoRoot { .. }
            | SshError::Machine { .. }
            | SshError::NoPlace { .. } => true,
            _ => false,
        };
        if stays && !self.0.reached.load(Ordering::Relaxed) {
            let hint = error.hint().map(str::to_owned);
            return TestbedError::Unsupported { what: format!("{}: {error}", wish.id), hint };
        }
        TestbedError::Guest { node: wish.id, what: explained(error) }
    }

    async fn place(&self) -> Result<Arc<Place>, TestbedError> {
        let mut place = self.0.place.lock().await;
        if let Some(place) = place.as_ref() {
            return Ok(Arc::clone(place));
        }
        let io = |what: &'static str| move |source| TestbedError::Io { what: what.to_owned(), source };
        remove_leftovers();
        let cage = Cage::open_or_groups().map_err(io("make a process namespace"))?;
        let directory =
            tempfile::Builder::new().prefix(PREFIX).tempdir().map_err(io("make a directory for ssh's sockets"))?;
        // It gets its name when it is locked: others remove directories whose lock nobody holds.
        let (new, named) = (directory.path().join("lock.new"), directory.path().join(LOCK));
        let lock = File::create(&new).map_err(io("lock the directory of ssh's sockets"))?;
        lock.lock().and_then(|()| std::fs::rename(new, named)).map_err(io("lock the directory of ssh's sockets"))?;
        let made = Arc::new(Place { processes: Arc::new(Processes::new(cage)), directory, _lock: lock });
        *place = Some(Arc::clone(&made));
        Ok(made)
    }

    async fn bundle(&self, vptest: &Path) -> Result<Arc<Bundle>, TestbedError> {
        let mut bundle = self.0.bundle.lock().await;
        if let Some(bundle) = bundle.as_ref() {
            return Ok(Arc::clone(bundle));
        }
        let vptest = vptest.to_owned();
        let io = |source| TestbedError::Io { what: "pack vptest for the nodes".to_owned(), source };
        let packed = tokio::task::spawn_blocking(move || Bundle::of(&vptest)).await;
        let packed = packed.map_err(|error| io(error.into()))?.map_err(|error| io(std::io::Error::other(error)))?;
        Ok(Arc::clone(bundle.insert(Arc::new(packed))))
    }
}

/// In one line, with what to do about it.
fn explained(error: &SshError) -> String {
    let why = match error {
        SshError::Io { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    };
    error.hint().map_or_else(|| why.clone(), |hint| format!("{why} ({hint})"))
}

async fn close(held: &Held) {
    match &held.behind {
        Behind::Rond(mailbox) => mailbox.close().await,
        Behind::Ssh { connection, agent } => {
            // The connection goes on as long as anything goes through it.
            drop(agent.lock().unwrap_or_else(PoisonError::into_inner).take());
            if let Err(error) = connection.lock().await.close().await {
                tracing::warn!("{error}");
            }
        }
    }
}

/// Directories of runs that were killed.
fn remove_leftovers() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let named = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        // One without a lock file is just being made.
        let free = named && is_own(&entry.path()) && open_lock(&entry.path()).is_ok_and(|lock| lock.try_lock().is_ok());
        if free && let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!("cannot remove {}: {error}", entry.path().display());
        }
    }
}

/// A directory of this user's own, and no link to one.
fn is_own(path: &Path) -> bool {
    let own = |found: std::fs::Metadata| found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw();
    std::fs::symlink_metadata(path).is_ok_and(own)
}

/// Waits for nobody, whatever stands there.
fn open_lock(directory: &Path) -> std::io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(directory.join(LOCK))
}

fn key(wish: &NodeWish) -> String {
    format!("{} {:?}", wish.host, wish.reach)
}

fn unsupported(error: &SshError) -> TestbedError {
    TestbedError::Unsupported { what: error.to_string(), hint: error.hint().map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;
    use crate::node::ssh::HostKeys;

    #[test]
    fn a_node_that_did_not_answer_is_not_waited_for_as_long_again() {
        let wish = |host: &str| {
            let (host, host_keys) = (host.to_owned(), HostKeys::Known);
            let target =
                Target { host: host.clone(), port: None, user: None, identity: None, host_keys, config: false };
            NodeWish { id: NodeId::client(1), host, reach: Reach::Ssh(target), interface: None, address: None }
        };
        let (nodes, dead, other) = (Nodes::new(&PhysicalSpec::default()), wish("dead"), wish("other"));
        assert_eq!(nodes.patience(&dead), REACH);
        nodes.note(&dead, true);
        assert_eq!((nodes.patience(&dead), nodes.patience(&other)), (REACH_AGAIN, REACH));
        nodes.note(&dead, false);
        assert_eq!(nodes.patience(&dead), REACH);
    }
}
