//! minimega's own captures as capture points: those of a namespace are started and stopped together, whichever is asked
//! first.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::capture::{self, Begun, Options, Point};
use super::daemon::Namespace;
use super::hold::chain;
use crate::ids::NodeId;
use crate::testbed::Recorder;

/// The captures of a namespace.
#[derive(Debug)]
pub(super) struct Group {
    namespace: Arc<Namespace>,
    points: Vec<Point>,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Idle,
    Running(Begun),
    /// With the reason when they are no good.
    Ended(Result<(), String>),
}

/// One of them.
#[derive(Debug)]
struct Tap {
    group: Arc<Group>,
    file: PathBuf,
}

impl Group {
    /// The captures at the first card of each of these nodes' machines, with files in this directory. To be made on the
    /// runtime that talks to minimega.
    pub(super) fn of(namespace: &Arc<Namespace>, nodes: &[NodeId], directory: &Path) -> Arc<Self> {
        let point = |node: &NodeId| Point { machine: node.to_string(), card: 0, file: file(directory, *node) };
        Arc::new(Self {
            namespace: Arc::clone(namespace),
            points: nodes.iter().map(point).collect(),
            runtime: Handle::current(),
            state: Mutex::new(State::Idle),
        })
    }

    /// That of one node.
    pub(super) fn tap(self: &Arc<Self>, node: NodeId, directory: &Path) -> Arc<dyn Recorder> {
        Arc::new(Tap { group: Arc::clone(self), file: file(directory, node) })
    }
}

fn file(directory: &Path, node: NodeId) -> PathBuf {
    directory.join(format!("{node}.pcap"))
}

impl Recorder for Tap {
    fn start(&self, snaplen: u32, filter: Option<&str>) -> io::Result<()> {
        let mut state = self.group.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Running(_) = *state {
            return Ok(());
        }
        let options = Options { snaplen, filter: filter.map(str::to_owned) };
        let started = capture::start(&self.group.namespace, &options, self.group.points.clone());
        let running = self.group.runtime.block_on(started).map_err(|error| io::Error::other(chain(&error)))?;
        *state = State::Running(running.begun());
        Ok(())
    }

    fn stop(&self) -> io::Result<PathBuf> {
        let mut state = self.group.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = match std::mem::replace(&mut *state, State::Ended(Err("it was never started".to_owned()))) {
            State::Running(begun) => {
                let stopped = self.group.runtime.block_on(begun.stop(&self.group.namespace, Instant::now()));
                State::Ended(stopped.map(drop).map_err(|error| chain(&error)))
            }
            other => other,
        };
        match &*state {
            State::Ended(Ok(())) => Ok(self.file.clone()),
            State::Ended(Err(why)) => Err(io::Error::other(why.clone())),
            State::Idle | State::Running(_) => Err(io::Error::other("it was never started")),
        }
    }
}
