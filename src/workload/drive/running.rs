//! One process of a workload, from start to end.

use std::time::Duration;

use super::error::DriveError;
use crate::ids::NodeId;
use crate::node::{Command, Exit, ExitStatus, Node, NodeIoError, Output, Process, Stream};
use crate::record::Setting;
use crate::workload::readings::last_lines;

/// How long a process may take to end when it is asked to, from when it has had the signal.
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
        self.deliver(signal).await?;
        if let Some(exit) = self.wait_briefly().await? {
            return Ok(Stopped::Ended(exit));
        }
        self.deliver(libc::SIGKILL).await?;
        // Something it started may hold its outputs open; the testbed's end takes care of that.
        Ok(match self.wait_briefly().await? {
            // It had ended before, and only the news of that was still on its way.
            Some(exit) if exit.status != ExitStatus::Signal(libc::SIGKILL) => Stopped::Ended(exit),
            _ => Stopped::Killed,
        })
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

    async fn deliver(&mut self, signal: i32) -> Result<(), DriveError> {
        let delivered = self.process.deliver(signal).await;
        delivered.map_err(|source| self.failed(source))
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

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio::time::Instant;

    use super::*;

    /// A process on a node that hears a signal later than [`GRACE`], and ends a moment after.
    struct Far {
        signals: Vec<i32>,
        end: Option<Instant>,
        /// Are news of its end late as well?
        is_end_late: bool,
    }

    #[async_trait]
    impl Process for Far {
        fn pid(&self) -> Option<u32> {
            None
        }

        async fn wait(&mut self) -> Result<Exit, NodeIoError> {
            match self.end {
                Some(end) if !self.is_end_late || self.signals.len() > 1 => tokio::time::sleep_until(end).await,
                _ => std::future::pending().await,
            }
            Ok(Exit { status: ExitStatus::Code(0), wall: GRACE, cpu_user: None, cpu_system: None })
        }

        fn output(&self, _: Stream) -> Output {
            Output::default()
        }

        fn signal(&mut self, signal: i32) -> Result<(), NodeIoError> {
            self.signals.push(signal);
            Ok(())
        }

        async fn deliver(&mut self, signal: i32) -> Result<(), NodeIoError> {
            self.signal(signal)?;
            if signal != libc::SIGKILL {
                tokio::time::sleep(GRACE + GRACE / 4).await;
                self.end = Some(Instant::now());
            }
            Ok(())
        }

        fn affinity(&self) -> Option<Vec<usize>> {
            None
        }
    }

    #[tokio::test]
    async fn a_process_that_hears_its_signal_late_is_not_taken_for_one_that_had_to_be_killed() {
        let stop = |is_end_late| async move {
            let process = Box::new(Far { signals: Vec::new(), end: None, is_end_late });
            let (node, program) = (NodeId::server(1), "far".to_owned());
            let mut running = Running { node, program, process, cpus: None, affinity: None };
            running.stop(libc::SIGTERM).await.unwrap()
        };
        let (at_once, later) = tokio::join!(stop(false), stop(true));
        for stopped in [at_once, later] {
            assert_eq!(stopped.exit().map(|exit| exit.status), Some(ExitStatus::Code(0)), "{stopped:?}");
        }
    }
}
