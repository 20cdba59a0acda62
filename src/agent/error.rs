//! What can go wrong with an agent, as its host sees it.

use std::io;
use std::time::Duration;

use super::message::{Failure, FailureKind};
use super::wire::WireError;
use crate::ids::NodeId;
use crate::node::NodeError;

/// An agent could not be talked to, or could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The conversation is over.
    #[error("the conversation with the agent is over: {0}")]
    Lost(#[source] Lost),
    /// Nobody answered in time.
    #[error("no agent answered within {waited:?}{}", skipped_text(*.skipped))]
    NoAnswer {
        /// How long.
        waited: Duration,
        /// Bytes that came and were no answer.
        skipped: u64,
    },
    /// What came was no answer of an agent, and too much of it.
    #[error("{skipped} bytes came, and none were the answer of an agent: {beginning:?}")]
    Noise {
        /// Bytes that were skipped.
        skipped: u64,
        /// The first of them as text.
        beginning: String,
    },
    /// The agent is there, but a question of this side stayed without an answer.
    #[error("the agent did not answer `{request}` within {waited:?}")]
    Unanswered {
        /// Which question.
        request: &'static str,
        /// How long all attempts waited.
        waited: Duration,
    },
    /// The agent speaks another protocol.
    #[error(
        "the agent is vptest {version} with protocol {theirs}; this is vptest {} with protocol {ours}",
        env!("CARGO_PKG_VERSION")
    )]
    Protocol {
        /// Ours.
        ours: u32,
        /// The agent's.
        theirs: u32,
        /// Its version of vptest; `unknown` when it does not say.
        version: String,
    },
    /// The agent answered something that does not fit the question.
    #[error("the agent's answer to `{request}` makes no sense: {text}")]
    Answer {
        /// To which call.
        request: &'static str,
        /// What is wrong with it.
        text: String,
    },
    /// The agent could not do it.
    #[error("the agent cannot {}: {}", .0.what, .0.text)]
    Failed(Failure),
    /// What arrived is not what was sent.
    #[error("{path}: sent with checksum {sent}, arrived with {arrived}")]
    Checksum {
        /// Which file.
        path: String,
        /// SHA-256 at the sender.
        sent: String,
        /// SHA-256 at the receiver.
        arrived: String,
    },
    /// A file did not come over the results disk as it was put there.
    #[error("cannot bring {path} over the results disk")]
    Disk {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not fit on the results disk.
    #[error("{path} does not fit on the results disk: {why}")]
    SmallDisk {
        /// Which file.
        path: String,
        /// How the disk's size was set, what is needed, and what there is.
        why: String,
    },
    /// Something failed on this side.
    #[error("cannot {what}")]
    Here {
        /// Verb and object.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a conversation is over. The same for every call that was waiting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The other side closed it.
    #[error("the other side closed it")]
    Closed,
    /// Nothing came for too long.
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    /// Reading or writing failed.
    #[error("cannot {what}: {text}")]
    Io {
        /// `read` or `write`.
        what: &'static str,
        /// Why.
        text: String,
    },
    /// What came was no frame.
    #[error(transparent)]
    Malformed(#[from] WireError),
    /// This side ended it.
    #[error("this side ended it")]
    Ended,
}

impl AgentError {
    /// Is the agent gone, rather than unable to do one thing?
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::NoAnswer { .. } | Self::Noise { .. })
    }

    /// The kind of the agent's own failure; `None` for all other errors.
    pub const fn failure(&self) -> Option<FailureKind> {
        match self {
            Self::Failed(failure) => Some(failure.kind),
            _ => None,
        }
    }

    /// As an I/O error, for callers that know no other.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Here { source, .. } => source,
            Self::Failed(Failure { errno: Some(errno), .. }) => io::Error::from_raw_os_error(errno),
            Self::Failed(Failure { text, .. }) => io::Error::other(text),
            other => {
                let kind = if other.is_lost() { io::ErrorKind::ConnectionAborted } else { io::ErrorKind::Other };
                io::Error::new(kind, other)
            }
        }
    }

    /// As an error of the node `node`; `what` is verb and object.
    pub fn into_node(self, node: NodeId, what: impl Into<String>) -> NodeError {
        NodeError::Io { node, what: what.into(), source: self.into_io() }
    }
}

impl From<Lost> for AgentError {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl Failure {
    pub(super) fn new(kind: FailureKind, what: impl Into<String>, text: impl Into<String>) -> Self {
        Self { kind, what: what.into(), text: text.into(), errno: None }
    }

    /// `what` failed with `error`.
    pub(super) fn io(what: impl Into<String>, error: &io::Error) -> Self {
        let errno = crate::host::netlink::errno(error);
        let kind = match (errno, error.kind()) {
            (Some(libc::ENOSPC | libc::EDQUOT), _) => FailureKind::NoSpace,
            (_, io::ErrorKind::NotFound) | (Some(libc::ENODEV), _) => FailureKind::NotFound,
            (_, io::ErrorKind::InvalidInput) => FailureKind::Invalid,
            _ => FailureKind::Other,
        };
        Self { kind, what: what.into(), text: error.to_string(), errno }
    }
}

fn skipped_text(skipped: u64) -> String {
    if skipped == 0 { String::new() } else { format!(" ({skipped} other bytes came)") }
}
