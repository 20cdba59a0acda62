//! What can go wrong with a daemon, its machines and their clients.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::wire::Garbled;
use crate::testbed::TestbedError;
use crate::text::printable;

/// Characters of a daemon's text that are kept.
const TEXT: usize = 600;

/// minimega or rond could not be talked to, or could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MinimegaError {
    /// Nobody listens at the socket.
    #[error("cannot connect to the command socket {}", .socket.display())]
    Connect {
        /// Path of the socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The daemon ended while it was asked. Its machines, taps and bridges go on without it.
    #[error("the daemon at {} crashed at `{command}` (process {pid} is gone)", .socket.display())]
    Crashed {
        /// Path of the socket.
        socket: PathBuf,
        /// What it was asked.
        command: String,
        /// The process it was.
        pid: i32,
    },
    /// Another daemon has the socket now; it knows nothing of what the one before was asked.
    #[error("the daemon at {} is another one than before", .socket.display())]
    Restarted {
        /// Path of the socket.
        socket: PathBuf,
    },
    /// The daemon closed the connection and goes on, or nobody knows whether it does. So does one that cannot parse what it
    /// was asked.
    #[error("the daemon closed the connection without an answer to `{command}`")]
    Closed {
        /// What it was asked.
        command: String,
    },
    /// Reading or writing failed.
    #[error("cannot {what} the command socket")]
    Io {
        /// `read from`, `write to`.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There was no answer in time. The daemon may still be at it.
    #[error("no answer to `{command}` within {limit:?}")]
    TimedOut {
        /// What it was asked.
        command: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The answer is larger than any that is asked for.
    #[error("the answer to `{command}` has more than {limit} bytes")]
    TooLarge {
        /// What was asked.
        command: String,
        /// What is allowed.
        limit: usize,
    },
    /// The answer makes no sense.
    #[error("the answer to `{command}` makes no sense: {text}")]
    Answer {
        /// What was asked.
        command: String,
        /// What is wrong with it.
        text: String,
    },
    /// The daemon says that it cannot.
    #[error("`{command}` failed: {text}")]
    Refused {
        /// What was asked.
        command: String,
        /// In the daemon's words.
        text: String,
    },
    /// This must not be sent.
    #[error("`{word}` cannot be sent: {why}")]
    Unsendable {
        /// Part of a command.
        word: String,
        /// Why, and what may be.
        why: String,
    },
    /// The daemon is too old.
    #[error("{program} {version} is too old: {needs}")]
    TooOld {
        /// `minimega`.
        program: &'static str,
        /// In its words.
        version: String,
        /// What would do, and for what.
        needs: String,
    },
    /// A machine is not as it should be. Nothing in the answers to its launch or start has said so.
    #[error("machine {machine}: {why}")]
    Machine {
        /// Its name.
        machine: String,
        /// What it is instead, with the reason where the daemon knows one.
        why: String,
    },
    /// Clients (miniccc) did not report in time.
    #[error("no miniccc has reported from {} within {waited:?}", .missing.join(", "))]
    NoClient {
        /// Names of their nodes.
        missing: Vec<String>,
        /// How long they were waited for.
        waited: Duration,
    },
    /// Several clients have this host name: which one is meant is not known.
    #[error("{count} nodes call themselves {host}: which one is meant is not known")]
    Ambiguous {
        /// The host name.
        host: String,
        /// How many have it.
        count: usize,
    },
    /// Something about a client and a phase of commands.
    #[error("{node}: {failure}")]
    Phase {
        /// Name of the node.
        node: String,
        /// What.
        failure: PhaseFailure,
    },
    /// A capture is not as it should be.
    #[error("capture of {machine}: {why}")]
    Capture {
        /// Which machine's; `all` for what concerns no single one.
        machine: String,
        /// What is wrong.
        why: String,
    },
    /// A file on this host could not be handled.
    #[error("cannot {what}")]
    File {
        /// Verb and object: `write /tmp/x`.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a phase of commands on a client has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PhaseFailure {
    /// The client is not among the daemon's any more.
    #[error("its miniccc has vanished (it ended, or the node did)")]
    Vanished,
    /// Nothing came of it.
    #[error(
        "no result within {waited:?}: its miniccc hangs, is busy with an earlier command, or is gone without notice"
    )]
    Silent {
        /// How long.
        waited: Duration,
    },
    /// It ended before its last line.
    #[error("it ended early with exit status {exit}{}", said(.text))]
    Died {
        /// As miniccc gives it; -1 for a program that could not be started and for a signal.
        exit: i64,
        /// The end of its standard error.
        text: String,
    },
    /// miniccc was given it a second time and it refused to run again.
    #[error("its miniccc was given the phase twice (it has reconnected), and nothing was run again")]
    Replayed,
    /// The node lacks a program that every phase needs.
    #[error("the node has no program `{0}`")]
    Lacks(String),
    /// A file did not arrive as it was sent: miniccc neither overwrites nor says when it has failed.
    #[error("file {name} has not arrived: {why}")]
    NotSent {
        /// Its name.
        name: String,
        /// `missing` or its checksum.
        why: String,
    },
    /// Files could not be brought.
    #[error("cannot bring its files: {0}")]
    NotFetched(String),
    /// vptest could not be started on it.
    #[error("vptest cannot be started on it: {0}")]
    NotStarted(String),
    /// The agent there has ended and was not asked to.
    #[error("its agent has ended {0}")]
    AgentEnded(String),
    /// A letter of the agent there is damaged, or bytes are missing.
    #[error("what its agent has written makes no sense: {0}")]
    Letter(String),
    /// What it printed is no report.
    #[error("its report makes no sense: {0}")]
    Report(String),
}

fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

impl MinimegaError {
    pub(super) fn refused(command: &str, text: &str) -> Self {
        Self::Refused { command: shown(command), text: printable(text.trim(), TEXT) }
    }

    pub(super) fn answer(command: &str, garbled: Garbled) -> Self {
        Self::Answer { command: shown(command), text: garbled.0 }
    }

    pub(super) fn file(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::File { what, source }
    }

    pub(super) fn phase(node: &str, failure: PhaseFailure) -> Self {
        Self::Phase { node: node.to_owned(), failure }
    }

    /// Does the daemon not know this command, rather than being unable to do it?
    pub fn is_unknown_command(&self) -> bool {
        matches!(self, Self::Refused { text, .. } if text.starts_with("invalid command"))
    }

    /// Is the daemon gone, with all that it knew?
    ///
    /// One that is only slow to answer, or does not let this user in, is not.
    pub fn is_lost(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        match self {
            Self::Connect { source, .. } => matches!(source.kind(), ConnectionRefused | NotFound),
            Self::Crashed { .. } | Self::Restarted { .. } => true,
            _ => false,
        }
    }

    /// As an error of a testbed that wanted to do `what` (verb and object).
    pub fn into_testbed(self, what: impl Into<String>) -> TestbedError {
        TestbedError::Io { what: what.into(), source: io::Error::other(self) }
    }
}

/// A command as it is shown in messages.
pub(super) fn shown(command: &str) -> String {
    printable(command, 200)
}
