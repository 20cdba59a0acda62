//! What provides nodes and links. The runner drives every testbed through the two traits here and does not know which
//! one it has.

pub mod fake;
mod guests;
mod lan;
pub mod minimega;
pub mod netns;
pub mod physical;
pub mod qemu;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

pub(crate) use lan::path::{arrives_whole, trace_from_here};

use crate::host::namespace::Namespace;
use crate::ids::{NodeId, Stage, Vantage};
use crate::node::Node;
use crate::record::{Environment, Setting};
use crate::spec::{TestbedSpec, Tuple};
use crate::workload::PairCpus;

/// What an iteration asks of its testbed.
#[derive(Debug, Clone)]
pub struct Request {
    /// The tuple: pairs, rate, MTU, offload, hops, pinning.
    pub tuple: Tuple,
    /// Number of the iteration, for names and for injected faults.
    pub number: u32,
    /// Attempt at it, from 1.
    pub attempt: u32,
    /// An existing empty directory on this host for the iteration's files; the caller removes it.
    pub scratch: PathBuf,
    /// The campaign's directory: a testbed that makes what outlives vptest notes it there (`minimega::journal`).
    pub campaign: PathBuf,
    /// Path of the running vptest program.
    pub vptest: PathBuf,
    /// Programs that the workload starts on the nodes.
    pub programs: Vec<String>,
    /// Hears of work that takes long, such as building an image.
    pub notice: Notice,
}

/// Where news of long work go. Without a listener they are dropped.
#[derive(Debug, Clone, Default)]
pub struct Notice(Option<tokio::sync::mpsc::UnboundedSender<String>>);

impl Notice {
    /// One with its listener.
    pub fn channel() -> (Self, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        (Self(Some(sender)), receiver)
    }

    /// Tells the listener, if there still is one.
    pub fn say(&self, text: &str) {
        if let Some(sender) = &self.0 {
            let _ = sender.send(text.to_owned());
        }
    }
}

/// The testbed of that name.
///
/// # Errors
/// [`TestbedError::Unsupported`] for one that this version cannot drive.
pub fn by_name(name: &str, spec: &TestbedSpec) -> Result<Box<dyn Testbed>, TestbedError> {
    match name {
        "netns" => Ok(Box::new(netns::Netns::default())),
        "qemu" => Ok(Box::new(qemu::Qemu::new(spec))),
        "physical" => Ok(Box::new(physical::Physical::new(spec))),
        "minimega-kvm" => Ok(Box::new(minimega::MinimegaKvm::new(spec))),
        "minimega-container" => Ok(Box::new(minimega::MinimegaContainer::new(spec))),
        "fake" => Ok(Box::new(fake::Fake::new(spec.fake.clone()))),
        other => Err(TestbedError::Unsupported {
            what: format!("this version of vptest has no testbed {other}"),
            hint: Some(
                "testbeds it can drive: netns, qemu, physical, minimega-kvm, minimega-container, fake".to_owned(),
            ),
        }),
    }
}

/// A kind of testbed.
#[async_trait]
pub trait Testbed: Send + Sync {
    /// Its name in specs: `netns`.
    fn name(&self) -> &'static str;

    /// Does the testbed itself answer a command of this name, so that the host needs no program for it?
    fn provides(&self, _program: &str) -> bool {
        false
    }

    /// What the nodes of such a tuple are made of, equal for equal nodes and stored as `image.base_id`; `None` for a
    /// testbed whose nodes are not made by vptest. May take as long as making it takes.
    async fn base_id(&self, _request: &Request) -> Result<Option<String>, TestbedError> {
        Ok(None)
    }

    /// Called at the beginning of every stage. Only the testbed of the tests does anything then: it fails on request.
    async fn enter(&self, _stage: Stage, _request: &Request) -> Result<(), TestbedError> {
        Ok(())
    }

    /// Can the testbed provide such a tuple on any host? Looks at nothing but the tuple.
    fn accepts(&self, _tuple: &Tuple) -> Result<(), TestbedError> {
        Ok(())
    }

    /// Can this host provide what is asked? Changes nothing; what is reserved is free again after [`Testbed::close`].
    async fn preflight(&self, request: &Request) -> Result<(), TestbedError>;

    /// Brings up all nodes and links. When it fails, or is dropped half-way, nothing stays behind.
    async fn launch(&self, request: &Request) -> Result<Box<dyn Instance>, TestbedError>;

    /// Can several iterations run at once, each on CPU cores of its own?
    fn beside(&self) -> Beside;

    /// Bytes of this host's memory that the nodes of such a tuple may take.
    fn memory(&self, _tuple: &Tuple) -> u64 {
        0
    }

    /// Called after the last iteration: ends what was kept from one to the next.
    async fn close(&self) {}
}

/// Whether iterations can run beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// No, for this reason.
    No(&'static str),
    /// Yes; their nodes are on this host's kernel.
    Kernel,
    /// Yes; their nodes have kernels of their own.
    Guests,
}

/// Bytes of one file that are collected through memory.
const COLLECT_LIMIT: u64 = 1 << 30;

/// A testbed that is up. Dropping it takes it down as well as can be; `teardown` also reports.
#[async_trait]
pub trait Instance: Send {
    /// The pairs, in the order of their numbers.
    fn pairs(&self) -> &[Pair];

    /// Where captures can be taken.
    fn capture_points(&self) -> Vec<CapturePoint>;

    /// Reads every setting back from where it is in force, those the tuple does not name included.
    async fn settings(&mut self) -> Result<Vec<Setting>, TestbedError>;

    /// Walks the path from each client to its server; one entry for each pair.
    async fn paths(&mut self) -> Result<Vec<Path>, TestbedError>;

    /// Are there links between the nodes, so that they can be tested?
    fn has_links(&self) -> bool {
        true
    }

    /// What the testbed is: versions and facts for the environment table.
    fn environment(&self) -> Vec<Environment>;

    /// Starts a load generator on the testbed's host, beside the nodes (stress-ng).
    async fn spawn_on_host(
        &mut self,
        command: &crate::node::Command,
    ) -> Result<Box<dyn crate::node::Process>, crate::node::NodeError>;

    /// Brings files of any size from a node into an empty directory of this host, by the quickest way the testbed has.
    /// Returns their paths here, each that on the node below `directory`.
    async fn collect(
        &mut self,
        node: NodeId,
        files: &[String],
        directory: &std::path::Path,
    ) -> Result<Vec<PathBuf>, TestbedError> {
        let nodes = self.pairs().iter().flat_map(|pair| [&pair.client, &pair.server]);
        let source = nodes.into_iter().find(|one| one.id() == node).map(Arc::clone);
        let source = source.ok_or_else(|| TestbedError::Io {
            what: format!("collect files of {node}"),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        })?;
        let mut collected = Vec::new();
        for file in files {
            let content = source.get(file, COLLECT_LIMIT).await?;
            let path = directory.join(file.trim_start_matches('/'));
            let written = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            written.and_then(|()| std::fs::write(&path, content)).map_err(|source| {
                // What is there is not the whole of it.
                let _ = std::fs::remove_file(&path);
                TestbedError::Io { what: format!("write {}", path.display()), source }
            })?;
            collected.push(path);
        }
        Ok(collected)
    }

    /// The nodes that the load of `stress_cpu` and its like is to run in; `None` for beside the nodes.
    fn load_inside(&self) -> Option<Vec<Arc<dyn Node>>> {
        None
    }

    /// The kernels on which the nodes' processes run, where system calls can be followed.
    async fn kernels(&mut self) -> Vec<KernelAt> {
        Vec::new()
    }

    /// Where counters can be read besides the host itself: the network stacks of nodes, the host's ends of their links, and
    /// nodes with a kernel of their own. Nodes that share the host's stack have none of their own.
    fn counted(&self) -> Vec<CountedAt> {
        Vec::new()
    }

    /// The switch between the nodes, where one is to be read.
    fn switch(&self) -> Option<crate::instrument::switch::Switch> {
        None
    }

    /// The hosts that carry the nodes, behind their agents, where they are not the one vptest runs on: it is they that have
    /// to be quiet. `None` where vptest's own host carries them.
    fn hosts(&self) -> Option<Vec<(NodeId, crate::agent::Client)>> {
        None
    }

    /// Nodes on hosts of which nobody knows what else they do meanwhile.
    fn unwatched(&self) -> Vec<NodeId> {
        Vec::new()
    }

    /// Processes of this host that work for the testbed though vptest has not started them; their load is no
    /// interference.
    fn own_processes(&self) -> Vec<u32> {
        Vec::new()
    }

    /// CPUs for pinned processes of each pair, where the nodes have CPUs of their own; `None` where they share the
    /// host's.
    fn cpus(&self) -> Option<Vec<PairCpus>> {
        None
    }

    /// Resolves when a node is gone while it is needed, and says which and why; `None` where nodes cannot go.
    fn lost(&self) -> Option<BoxFuture<'static, String>> {
        None
    }

    /// Makes the testbed outlive this process (`--keep-failed`) and says how to look into it and how to remove it;
    /// an error says why it cannot be kept.
    async fn keep(&mut self) -> Result<String, TestbedError>;

    /// The iteration was no good: nothing of it may be kept for later ones. Called before `teardown`.
    fn spoil(&mut self) {}

    /// Takes everything down, going on past failures. Idempotent.
    async fn teardown(&mut self) -> Teardown;
}

/// One client and one server.
#[derive(Clone)]
pub struct Pair {
    /// From 1.
    pub number: u32,
    /// Runs the load generator.
    pub client: Arc<dyn Node>,
    /// Answers it.
    pub server: Arc<dyn Node>,
}

/// Name of a node's end of a tunnel. Packets seen there lack the headers that the host's side sees around them.
pub const TUNNEL_INTERFACE: &str = "tun0";

/// A place where packets can be observed.
#[derive(Debug, Clone)]
pub struct CapturePoint {
    /// Node whose traffic it is.
    pub node: NodeId,
    /// Seen from where.
    pub vantage: Vantage,
    /// Name of the interface at that place.
    pub interface: String,
    /// How to get there.
    pub source: CaptureSource,
}

/// A kernel whose system calls can be followed.
#[derive(Debug, Clone)]
pub enum KernelAt {
    /// vptest's own, which several nodes share.
    Here {
        /// The nodes' processes; `None` where nothing tells them from others.
        workload: Option<crate::instrument::syscalls::Workload>,
        /// The nodes by the inodes of their network namespaces.
        nodes: Vec<(u64, NodeId)>,
    },
    /// vptest's own, which nodes share that are told from all else by their networks alone.
    Shared {
        /// The nodes by the inodes of their network namespaces.
        nodes: Vec<(u64, NodeId)>,
    },
    /// That of a node, behind its agent.
    Agent {
        /// Which node.
        node: NodeId,
        /// Its agent.
        client: crate::agent::Client,
    },
}

/// A place whose counters can be read.
#[derive(Debug, Clone)]
pub enum CountedAt {
    /// A node that is a network namespace of this kernel.
    Here {
        /// Which node.
        node: NodeId,
        /// Its stack.
        namespace: Arc<Namespace>,
        /// The interface that the workload uses; `None` for a router.
        interface: Option<String>,
    },
    /// Where the host's ends of the links are.
    Switch {
        /// That stack.
        namespace: Arc<Namespace>,
        /// The node at the other end, and the name of the host's end.
        ends: Vec<(NodeId, String)>,
    },
    /// A node with a kernel of its own, behind its agent.
    Agent {
        /// Which node.
        node: NodeId,
        /// Its agent.
        client: crate::agent::Client,
        /// The interface that the workload uses.
        interface: String,
    },
    /// A node that has a network stack alone, behind its agent: its kernel is that of another host.
    AgentOfStack {
        /// Which node.
        node: NodeId,
        /// Its agent.
        client: crate::agent::Client,
        /// The interface that the workload uses.
        interface: String,
    },
}

/// How a capture point is reached.
#[derive(Debug, Clone)]
pub enum CaptureSource {
    /// libpcap on this host, inside the namespace if there is one.
    Live {
        /// `None` for the namespace vptest runs in.
        namespace: Option<Arc<Namespace>>,
    },
    /// libpcap on the node, run by its agent. `Captures` must then not be started or stopped on a thread of the runtime.
    Agent(crate::agent::Client),
    /// The testbed captures by itself, into a file. `Captures` must then not be started or stopped on a thread of the runtime.
    Recorded(Arc<dyn Recorder>),
    /// No packets at all: the `fake` testbed's point, which reports these numbers.
    Synthetic {
        /// Packets seen.
        packets: u64,
        /// Their bytes.
        bytes: u64,
        /// Packets the kernel dropped.
        dropped: u64,
    },
}

/// A capture that the testbed takes itself.
pub trait Recorder: std::fmt::Debug + Send + Sync {
    /// Starts it; when it returns, packets are captured. Blocks.
    fn start(&self, snaplen: u32, filter: Option<&str>) -> std::io::Result<()>;

    /// Stops it, without losing what was captured before the call, and returns the pcap file. Blocks.
    fn stop(&self) -> std::io::Result<PathBuf>;
}

/// Whose clock the time stamps of a capture point are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// That of the host vptest runs on.
    Host,
    /// The node's own.
    Node,
}

impl CaptureSource {
    /// Whose clock is it?
    pub const fn clock(&self) -> Clock {
        match self {
            Self::Live { .. } | Self::Synthetic { .. } | Self::Recorded(_) => Clock::Host,
            Self::Agent(_) => Clock::Node,
        }
    }
}

/// The way packets take from a client to its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Whose.
    pub pair: u32,
    /// Names of the routers that should be passed, from the client.
    pub expected: Vec<String>,
    /// Names of the routers that answered, `None` for a hop that did not or that nobody knows.
    pub observed: Vec<Option<String>>,
    /// Was the server reached?
    pub reached: bool,
}

/// How taking down went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Teardown {
    /// What could not be removed, one line each, with the reason.
    pub left: Vec<String>,
    /// What else went wrong, one line each.
    pub problems: Vec<String>,
    /// What is known of the nodes only now.
    pub facts: Vec<Environment>,
}

impl TestbedError {
    /// How to get what is missing; `None` when nothing is known that would help.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Unsupported { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }
}

/// A testbed could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TestbedError {
    /// This host cannot run it (exit status 3).
    #[error("{what}")]
    Unsupported {
        /// What is missing.
        what: String,
        /// How to get it.
        hint: Option<String>,
    },
    /// The tuple asks for something the testbed has not.
    #[error("testbed {testbed}: {what}")]
    Request {
        /// Its name.
        testbed: &'static str,
        /// Which value, and what is accepted.
        what: String,
    },
    /// A guest or a physical node did not come up, or went away.
    #[error("{node}: {what}")]
    Guest {
        /// Which.
        node: NodeId,
        /// Why; of a guest with the last lines of its console.
        what: String,
    },
    /// An operation failed.
    #[error("cannot {what}")]
    Io {
        /// Verb and object: `create namespace of client1`.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A node failed.
    #[error(transparent)]
    Node(#[from] crate::node::NodeError),
    /// A fault the spec asked for.
    #[error("injected fault in {0}")]
    Injected(Stage),
}
