//! Waiting until a server is ready, by looking: at its node's sockets, at a file, at its output.

use std::time::Duration;

use regex::Regex;
use tokio::time::Instant;

use super::error::DriveError;
use super::running::Running;
use crate::node::{Node, Stream};
use crate::spec::Ready;

/// Between two looks, at first and at last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// How long one look may take, at the most.
const LOOK: Duration = Duration::from_secs(1);

/// A condition that can be looked at.
pub(super) enum Condition {
    Tcp(u16),
    File(String),
    Output(Regex),
}

impl Condition {
    /// Errors: the regular expression is none.
    pub(super) fn new(ready: &Ready) -> Result<Self, DriveError> {
        match ready {
            Ready::Tcp(port) => Ok(Self::Tcp(*port)),
            Ready::File(path) => Ok(Self::File(path.clone())),
            Ready::Output(pattern) => Regex::new(pattern)
                .map(Self::Output)
                .map_err(|error| DriveError::BadPattern { pattern: pattern.clone(), why: error.to_string() }),
        }
    }

    /// Makes sure that it does not hold before the server was started: it would tell nothing then.
    pub(super) async fn check_before(&self, node: &dyn Node, program: &str) -> Result<(), DriveError> {
        let (node_id, program) = (node.id(), program.to_owned());
        match self {
            &Self::Tcp(port) if node.listening(port).await? => {
                Err(DriveError::PortInUse { node: node_id, port, program })
            }
            Self::File(path) if node.exists(path).await? => {
                Err(DriveError::ReadyBefore { node: node_id, path: path.clone(), program })
            }
            _ => Ok(()),
        }
    }

    /// Waits until it holds. Errors: the server ended, or `limit` has passed.
    pub(super) async fn wait(&self, node: &dyn Node, server: &mut Running, limit: Duration) -> Result<(), DriveError> {
        let deadline = Instant::now() + limit;
        let mut pause = PAUSES.0;
        while !self.holds(node, server, deadline).await? {
            if Instant::now() >= deadline {
                return Err(self.not_ready(server, limit));
            }
            tokio::select! {
                biased;
                exit = server.wait() => return Err(ended_early(server, exit?.status)),
                () = tokio::time::sleep_until(deadline.min(Instant::now() + pause)) => {}
            }
            // A quarter more each time: never much later than a quarter of the time that it took.
            pause = (pause * 5 / 4).min(PAUSES.1);
        }
        Ok(())
    }

    /// Errors: the server ended while it was looked.
    async fn holds(&self, node: &dyn Node, server: &mut Running, deadline: Instant) -> Result<bool, DriveError> {
        let within = LOOK.min(deadline.saturating_duration_since(Instant::now()));
        let looked = async {
            match self {
                Self::Tcp(port) => node.await_listening(*port, within).await.map(Some),
                Self::File(path) => node.exists(path).await.map(Some),
                Self::Output(_) => Ok(None),
            }
        };
        let seen = tokio::select! {
            biased;
            seen = looked => seen?,
            exit = server.wait() => return Err(ended_early(server, exit?.status)),
        };
        match self {
            Self::Tcp(_) | Self::File(_) => Ok(seen == Some(true)),
            Self::Output(regex) => Ok([Stream::Out, Stream::Err].into_iter().any(|stream| {
                let output = server.output(stream);
                regex.is_match(&String::from_utf8_lossy(&output.bytes))
            })),
        }
    }

    fn not_ready(&self, server: &Running, limit: Duration) -> DriveError {
        let waited_for = match self {
            Self::Tcp(port) => format!("nothing listens on TCP port {port}"),
            Self::File(path) => format!("{path} is not there"),
            Self::Output(regex) => format!("no output matches `{regex}`"),
        };
        let (node, program, stderr) = (server.node(), server.program().to_owned(), server.complaint());
        DriveError::NotReady { node, program, waited_for, limit, stderr }
    }
}

fn ended_early(server: &Running, status: crate::node::ExitStatus) -> DriveError {
    let (node, program, stderr) = (server.node(), server.program().to_owned(), server.complaint());
    DriveError::ServerEnded { node, program, status, when: "before it was ready", stderr }
}
