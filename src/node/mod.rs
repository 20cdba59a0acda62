//! How a command runs and a file travels: the same few verbs for a namespace on this host, a guest, a remote node.

pub mod agent;
pub mod local;
pub mod ssh;

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;

use crate::ids::NodeId;

/// A host of the testbed on which commands run.
#[async_trait]
pub trait Node: Send + Sync {
    /// Its name.
    fn id(&self) -> NodeId;

    /// Address of the interface the workload uses.
    fn address(&self) -> IpAddr;

    /// A directory on the node for this iteration's files, without a trailing slash; removed with the testbed.
    fn scratch(&self) -> &str;

    /// Path of the vptest program as the node sees it.
    fn vptest(&self) -> &str;

    /// Do its processes run on the kernel that vptest runs on, and so read the same clock?
    fn is_here(&self) -> bool {
        false
    }

    /// A TCP port a server on this node can listen on: `usual`, unless the node shares its network stack with others and
    /// has to choose a free one.
    async fn port(&self, usual: u16) -> Result<u16, NodeError> {
        Ok(usual)
    }

    /// Starts a command. It and everything it starts ends with the testbed at the latest.
    async fn spawn(&self, command: &Command) -> Result<Box<dyn Process>, NodeError>;

    /// Is a TCP socket listening on `port`? Looks at the node's sockets and sends no packet.
    async fn listening(&self, port: u16) -> Result<bool, NodeError>;

    /// The same within a time, as far as waiting there is better than asking again: `false` may come before it is up.
    async fn await_listening(&self, port: u16, _within: Duration) -> Result<bool, NodeError> {
        self.listening(port).await
    }

    /// Does the file exist?
    async fn exists(&self, path: &str) -> Result<bool, NodeError>;

    /// Writes a whole file.
    async fn put(&self, path: &str, content: &[u8]) -> Result<(), NodeError>;

    /// Reads a whole file of at most `limit` bytes.
    async fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>, NodeError>;
}

/// An argument vector to run; never a shell line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    /// Program and arguments; the program is looked up in `PATH` unless it has a slash.
    pub argv: Vec<String>,
    /// Variables set besides the inherited ones.
    pub env: Vec<(String, String)>,
    /// Working directory; `None` is the node's scratch directory.
    pub directory: Option<String>,
    /// CPUs it may run on; `None` leaves the affinity alone.
    pub cpus: Option<Vec<usize>>,
}

/// A command that was started.
#[async_trait]
pub trait Process: Send {
    /// Its process number on the node, as that node's own tools show it.
    fn pid(&self) -> Option<u32>;

    /// Waits for its end and for the end of its output. May be dropped and called again; a second call after the end
    /// returns the same value.
    async fn wait(&mut self) -> Result<Exit, NodeIoError>;

    /// What it has written so far.
    fn output(&self, stream: Stream) -> Output;

    /// Sends a signal (number as on Linux) to the process; none is sent to one that has ended.
    fn signal(&mut self, signal: i32) -> Result<(), NodeIoError>;

    /// The same, and waits until the process has had it, or has ended: what it may take to react begins then. Also returns
    /// when the node is lost.
    async fn deliver(&mut self, signal: i32) -> Result<(), NodeIoError> {
        self.signal(signal)
    }

    /// CPUs the process may run on now; `None` when that cannot be read.
    fn affinity(&self) -> Option<Vec<usize>>;
}

/// One of a command's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What a command wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// The bytes, up to [`OUTPUT_LIMIT`].
    pub bytes: Vec<u8>,
    /// Did it write more than was kept?
    pub truncated: bool,
}

/// Bytes of each output that are kept; the rest is read and thrown away.
pub const OUTPUT_LIMIT: usize = 64 << 20;

/// How a command ended and what it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit status or signal.
    pub status: ExitStatus,
    /// From start to end.
    pub wall: Duration,
    /// User CPU time of it and of the children it waited for; `None` when the node cannot say.
    pub cpu_user: Option<Duration>,
    /// System CPU time, likewise.
    pub cpu_system: Option<Duration>,
}

/// Exit status or signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl ExitStatus {
    /// Did it exit with status 0?
    pub const fn success(self) -> bool {
        matches!(self, Self::Code(0))
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A started process could not be handled.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct NodeIoError {
    what: &'static str,
    #[source]
    source: std::io::Error,
}

impl NodeIoError {
    /// `what` is verb and object: `wait for a process`.
    pub fn new(what: &'static str, source: std::io::Error) -> Self {
        Self { what, source }
    }
}

/// A node could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The program is not there.
    #[error("{node}: program `{program}` not found")]
    NoProgram {
        /// Where.
        node: NodeId,
        /// Which.
        program: String,
    },
    /// Something failed.
    #[error("{node}: cannot {what}")]
    Io {
        /// Where.
        node: NodeId,
        /// Verb and object: `start ab`, `read /tmp/x`.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than the reader allows.
    #[error("{node}: {path} is larger than {limit} bytes")]
    TooLarge {
        /// Where.
        node: NodeId,
        /// Which file.
        path: String,
        /// What is allowed.
        limit: u64,
    },
}
