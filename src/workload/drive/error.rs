//! Why a workload could not be driven to its end.

use std::time::Duration;

use crate::ids::NodeId;
use crate::node::{ExitStatus, NodeError, NodeIoError};
use crate::workload::WorkloadError;

/// The workload could not be driven to its end. Every process it had started has been told to end.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The tuple cannot be turned into commands; nothing was started.
    #[error("no commands for pair {pair}")]
    Workload {
        /// Whose commands.
        pair: u32,
        /// Why.
        #[source]
        source: WorkloadError,
    },
    /// A node could not do what it was asked.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A process that was started could not be handled.
    #[error("{node}: {program}")]
    Process {
        /// Where it runs.
        node: NodeId,
        /// Its name.
        program: String,
        /// What could not be done.
        #[source]
        source: NodeIoError,
    },
    /// Something listens on the server's port already; nothing was started on this node.
    #[error("{node}: port {port} is in use before {program} was started")]
    PortInUse {
        /// Where.
        node: NodeId,
        /// Which port.
        port: u16,
        /// The server that was to have it.
        program: String,
    },
    /// The file that shall say that the server is ready is there before the server was started.
    #[error("{node}: {path}, which shall tell that {program} is ready, is there before it was started")]
    ReadyBefore {
        /// Where.
        node: NodeId,
        /// Which file.
        path: String,
        /// The server that was to make it.
        program: String,
    },
    /// The regular expression for readiness, or for the end, is none.
    #[error("bad regular expression `{pattern}` for readiness: {why}")]
    BadPattern {
        /// As in the spec.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// A server did not get ready in time.
    #[error("{node}: {program} was not ready after {} s ({waited_for}){stderr}", .limit.as_secs_f64())]
    NotReady {
        /// Where.
        node: NodeId,
        /// Which server.
        program: String,
        /// What would have made it ready.
        waited_for: String,
        /// How long that was allowed to take.
        limit: Duration,
        /// The end of its standard error, after `: `; empty when there was none.
        stderr: String,
    },
    /// A server ended too early.
    #[error("{node}: {program} ended with {status} {when}{stderr}")]
    ServerEnded {
        /// Where.
        node: NodeId,
        /// Which server.
        program: String,
        /// How.
        status: ExitStatus,
        /// `before it was ready`, `before its client was done`.
        when: &'static str,
        /// As in `NotReady`.
        stderr: String,
    },
}
