//! The agent: vptest itself on a node, doing what the host asks over a channel of bytes that somebody else provides
//! (a virtio-serial port, ssh, files that are sent). It never listens on a network.
//!
//! ```text
//! wire     bytes: greeting and frames; pure
//! message  what is said in frames
//! mux      many calls over one conversation, credit, heartbeat
//! client   host side
//! server   node side
//! mailbox  a channel made of files, where there is no other
//! results  the disk on which a guest leaves files for its host
//! init     the first process of a guest
//! modules  kernel modules in a guest
//! ```
//!
//! `docs/agent.md` describes the protocol and its limits.

mod channel;
pub mod client;
mod error;
pub mod init;
pub mod mailbox;
mod message;
pub mod modules;
mod mux;
pub mod results;
pub mod server;
pub mod wire;

pub(crate) use client::Awaited;
pub use client::{Client, Limits, RemoteCounters, RemoteTrace, ResultsDisk, SMALL};
pub use error::{AgentError, Lost};
pub use message::{
    ArchiveReceipt, CaptureEnd, CaptureProgress, CaptureRequest, ClockReading, CounterRequest, Failure, FailureKind,
    Hello, InterfaceSetup, KeptPackets, Lent, LoanRequest, NetworkSetup, Reading, Receipt, RouteSetup, TraceRequest,
    TunnelSetup, Way,
};
pub(crate) use mux::fresh_number;

/// Name of the virtio-serial port of a guest's agent.
pub const PORT: &str = "org.vptest.agent.0";
/// Serial number of the virtio disk that takes a guest's results.
pub const RESULTS_SERIAL: &str = "vptest-results";
/// The same of the one that takes its kept packets.
pub const PACKETS_SERIAL: &str = "vptest-packets";
/// Where the agent of a container listens, in the container: a directory that is the container's own and in memory.
pub const CONTAINER_SOCKET: &str = "/dev/vptest.agent";
/// Name of the agent's threads, but for those that start the workload ([`crate::host::cage::THREAD`]).
pub const THREAD: &str = "vptest-agent";
/// Where a guest's files of an iteration are.
pub const GUEST_SCRATCH: &str = "/tmp/vptest";
