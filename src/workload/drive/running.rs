//! One process of a workload, from start to end.

use std::time::Duration;

use super::error::DriveError;
use crate::ids::NodeId;
use crate::node::{Command, Exit, Node, NodeIoError, Output, Process, Stream};
use crate::record::Setting;
use crate::workload::readings::last_lines;

/// How long a process may take to end when it is asked to.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// A started process.
pub(super) struct Running {
    node: NodeId,
    program: String,
    process: Box<dyn Process>,
    /// CPUs asked for.
    cpus: Option<Vec<usize>>,
    /// CPUs it could run on right after the start.
    affinity: Option<Vec<usize>>,
}

/// How a process ended that was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// By itself or at the signal.
    Ended(Exit),
    /// SIGKILL was needed.
    Killed,
}

impl Stopped {
    pub(super) fn exit(self) -> Option<Exit> {
        match self {
            Self::Ended(exit) => Some(exit),
            Self::Killed => None,
        }
    }
}

impl Running {
    pub(super) async fn start(node: &dyn Node, command: &Command) -> Result<Self, DriveError> {
        let process = node.spawn(command).await?;
        let affinity = process.affinity();
        let program = program(command);
        Ok(Self { node: node.id(), program, process, cpus: command.cpus.clone(), affinity })
    }

    pub(super) fn program(&self) -> &str {
        &self.program
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    pub(super) fn output(&self, stream: Stream) -> Output {
        self.process.output(stream)
    }

    /// Waits for its end. May be dropped and called again.
    pub(super) async fn wait(&mut self) -> Result<Exit, DriveError> {
        let result = self.process.wait().await;
        result.map_err(|source| self.failed(source))
    }

    /// How it ended, if it has; does not wait.
    pub(super) async fn ended(&mut self) -> Result<Option<Exit>, DriveError> {
        tokio::select! {
            biased;
            exit = self.wait() => exit.map(Some),
            // One turn of the scheduler, so that an end that is known already is seen.
            () = tokio::task::yield_now() => Ok(None),
        }
    }

    /// Waits for its end for at most [`GRACE`]; `None` when it goes on.
    pub(super) async fn wait_briefly(&mut self) -> Result<Option<Exit>, DriveError> {
        match tokio::time::timeout(GRACE, self.wait()).await {
            Ok(exit) => exit.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Asks it to end with `signal`, and kills it when it does not.
    pub(super) async fn stop(&mut self, signal: i32) -> Result<Stopped, DriveError> {
        self.signal(signal)?;
        if let Some(exit) = self.wait_briefly().await? {
            return Ok(Stopped::Ended(exit));
        }
        self.signal(libc::SIGKILL)?;
        // Something it started may hold its outputs open; the testbed's end takes care of that.
        self.wait_briefly().await?;
        Ok(Stopped::Killed)
    }

    /// Kills it without waiting; for the way out after an error.
    pub(super) fn kill(&mut self) {
        if let Err(error) = self.process.signal(libc::SIGKILL) {
            tracing::warn!("{}: cannot kill {}: {error}", self.node, self.program);
        }
    }

    /// CPUs asked for and read back.
    pub(super) fn affinity(&self) -> Setting {
        let text = |cpus: &Vec<usize>| cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let name = format!("{}.cpus", self.program);
        Setting::compare(Some(self.node), &name, self.cpus.as_ref().map(text), self.affinity.as_ref().map(text))
    }

    /// The end of its standard error for a message, after `: `; empty when it wrote nothing.
    pub(super) fn complaint(&self) -> String {
        let lines = last_lines(&self.output(Stream::Err), 3);
        if lines.is_empty() { String::new() } else { format!(": {}", lines.join(" | ")) }
    }

    fn signal(&mut self, signal: i32) -> Result<(), DriveError> {
        self.process.signal(signal).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: NodeIoError) -> DriveError {
        DriveError::Process { node: self.node, program: self.program.clone(), source }
    }
}

/// The program's name without its directories.
pub(super) fn program(command: &Command) -> String {
    let path = command.argv.first().map_or("", String::as_str);
    path.rsplit('/').next().unwrap_or(path).to_owned()
}
