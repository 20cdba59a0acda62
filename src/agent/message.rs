//! What the two sides tell each other: the JSON of control frames. Bulk data goes beside it, raw.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::host::loan::Wanted;
use crate::ids::{NodeId, Vantage};
use crate::instrument::capture::Holding;
use crate::instrument::syscalls::Room;
use crate::record;
use crate::record::{SyscallScope, SyscallSource};

/// What an agent says of itself in its answer. `protocol`, `version` mean the same in every protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its protocol.
    pub protocol: u32,
    /// Its version of vptest.
    pub version: String,
    /// Release of its kernel; `None` when it cannot be read, as for all that follow.
    #[serde(default)]
    pub kernel: Option<String>,
    /// CPUs it may use.
    #[serde(default)]
    pub cpus: Option<usize>,
    /// Memory in bytes.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Differs from boot to boot.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// Tells its network stack from others of the same boot (`net:[4026531840]`).
    #[serde(default)]
    pub network: Option<String>,
    /// Is it what its guest is there for, started by the first process?
    #[serde(default)]
    pub first_process: bool,
    /// Its process number.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Where files of an iteration belong; relative paths begin there.
    #[serde(default)]
    pub scratch: String,
    /// Path of its own program.
    #[serde(default)]
    pub vptest: String,
}

/// A call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Request {
    Spawn {
        argv: Vec<String>,
        env: Vec<(String, String)>,
        directory: Option<String>,
        cpus: Option<Vec<usize>>,
        limit: u64,
    },
    Put {
        path: String,
        mode: u32,
        size: u64,
    },
    Get {
        path: String,
        limit: u64,
    },
    /// Now, or within this time.
    Listening {
        port: u16,
        #[serde(default)]
        within_ms: u64,
    },
    Exists {
        path: String,
    },
    ReadFiles {
        paths: Vec<String>,
        limit: u64,
    },
    Configure(Box<NetworkSetup>),
    Settings {
        interface: String,
    },
    Lend(Box<LoanRequest>),
    GiveBack,
    /// From now on.
    WatchHost,
    /// Until now.
    HostUse,
    Facts,
    Walk {
        target: IpAddr,
        limit: u8,
    },
    /// In one piece.
    Arrives {
        target: IpAddr,
        bytes: u16,
    },
    Route {
        to: IpAddr,
        from: Option<IpAddr>,
    },
    Capture(Box<CaptureRequest>),
    TraceSyscalls(TraceRequest),
    Count(CounterRequest),
    Archive {
        paths: Vec<String>,
        nonce: u64,
    },
    Build,
    Reset,
    PowerOff,
}

/// Something about a running call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Tell {
    Signal(i32),
    Stop,
}

/// News of a running call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum News {
    Started {
        pid: Option<u32>,
        cpus: Option<Vec<usize>>,
    },
    /// Answers a signal.
    Signalled(Option<Failure>),
    /// Link layer of the packets, as in pcap files.
    Capturing {
        link: u16,
    },
    Progress(CaptureProgress),
    Tracing {
        notes: Vec<String>,
    },
    Counting,
}

/// The end of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Outcome {
    Done,
    Exited { code: Option<i32>, signal: Option<i32>, wall_ns: u64, user_ns: Option<u64>, system_ns: Option<u64> },
    Receipt(Receipt),
    Is(bool),
    Text(String),
    Readings(Vec<Reading>),
    Lent(Lent),
    GaveBack { left: Vec<String> },
    HostUse(Box<record::HostUse>),
    Walked { passed: Vec<Option<IpAddr>>, reached: bool },
    Routed(Way),
    Archived(ArchiveReceipt),
    Captured(Box<CaptureEnd>),
    Failed(Failure),
}

/// A file that was transferred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its content, lower-case hex.
    pub sha256: String,
}

/// What was written to the results disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveReceipt {
    /// The number that the disk's header carries.
    pub nonce: u64,
    /// Bytes after the header.
    pub bytes: u64,
    /// Their SHA-256, lower-case hex.
    pub sha256: String,
    /// Files in it.
    pub files: u64,
}

/// Why the agent could not do something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which kind of failure.
    pub kind: FailureKind,
    /// Verb and object: `write /tmp/x`.
    pub what: String,
    /// Why, in words.
    pub text: String,
    /// Error number of Linux; `None` when none was involved.
    pub errno: Option<i32>,
}

/// Kinds of failure that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// No such program.
    NoProgram,
    /// No such file, directory or interface.
    NotFound,
    /// The disk is full.
    NoSpace,
    /// Larger than allowed.
    TooLarge,
    /// Not what was announced: length or checksum differ.
    Corrupt,
    /// Somebody else has it.
    Busy,
    /// The request makes no sense.
    Invalid,
    /// Anything else.
    Other,
}

/// A setting as the node has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// `mtu`, `tso`, `driver`…
    pub name: String,
    /// As read; `None` when it cannot be read.
    pub value: Option<String>,
}

/// How a node's network is to be set up. Fields that are empty or `None` change nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSetup {
    /// Kernel modules to load first.
    pub modules: Vec<String>,
    /// Interfaces, in this order. `lo` is switched on besides.
    pub interfaces: Vec<InterfaceSetup>,
    /// A tunnel, after the interfaces.
    pub tunnel: Option<TunnelSetup>,
    /// Routes, after everything else.
    pub routes: Vec<RouteSetup>,
    /// Kernel parameters by name below `/proc/sys`, with slashes: `net/ipv4/ip_forward`.
    pub sysctls: Vec<(String, String)>,
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InterfaceSetup {
    /// How it is found: `52:54:00:00:01:01`. `None` takes the one that has the name already.
    pub mac: Option<String>,
    /// The name it gets.
    pub name: String,
    /// Address and prefix length.
    pub address: Option<(IpAddr, u8)>,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// `sg`, `tso`, `gso`, `gro` all on or all off.
    pub offload: Option<bool>,
}

/// A GRE tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelSetup {
    /// Name of its interface.
    pub name: String,
    /// Ethernet frames (`gretap`) or IP packets (`gre`) inside?
    pub ethernet: bool,
    /// Outer address of this end.
    pub local: IpAddr,
    /// Outer address of the other end.
    pub remote: IpAddr,
    /// Inner address and prefix length.
    pub address: (IpAddr, u8),
    /// MTU inside; `None` for the kernel's choice.
    pub mtu: Option<u32>,
    /// `sg`, `tso`, `gso`, `gro` inside.
    pub offload: Option<bool>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSetup {
    /// Network and prefix length; `None` for the default route.
    pub to: Option<(IpAddr, u8)>,
    /// Next hop.
    pub via: IpAddr,
}

/// Settings to be changed on a node that is not vptest's own, and put back when the conversation ends or before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LoanRequest {
    /// What is to be changed. Where it names no interface, that with `address` is meant.
    pub wanted: Wanted,
    /// Address of the interface; `None` for the first IPv4 address of the one that is named.
    pub address: Option<IpAddr>,
    /// Who asks, for whoever finds the node in use.
    pub by: String,
}

/// What a node has lent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lent {
    /// The interface.
    pub interface: String,
    /// Its address.
    pub address: IpAddr,
    /// What is worth knowing: that an earlier process's changes were put back.
    pub notes: Vec<String>,
}

/// The way that a node's packets to an address take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// The interface they leave through.
    pub interface: String,
    /// The address they get where the sender names none; `None` when the kernel does not say.
    pub source: Option<IpAddr>,
    /// Is it an address of the node's own? Packets to it never leave.
    pub is_local: bool,
}

/// System calls to be followed on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRequest {
    /// The node, for the record.
    #[serde(with = "crate::record::text")]
    pub node: NodeId,
    /// Whose calls.
    pub scope: SyscallScope,
    /// How; `None`: by BPF, and by perf where BPF is refused.
    pub source: Option<SyscallSource>,
    /// How much the tables hold.
    pub room: Room,
    /// A file for single calls, below the agent's scratch directory.
    pub log: Option<String>,
}

/// Counters to be read on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRequest {
    /// The node, for the record.
    #[serde(with = "crate::record::text")]
    pub node: NodeId,
    /// The interface that the workload uses.
    pub interface: String,
    /// Milliseconds between two readings; `None` for the first and the last only.
    pub interval_ms: Option<u64>,
    /// Names that are metrics besides those of the fixed list.
    pub metrics: Vec<String>,
    /// Is the kernel the node's own, so that what it counts is the node's?
    pub own_kernel: bool,
}

/// A capture to be taken on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRequest {
    /// Whose traffic it is, for the record.
    #[serde(with = "crate::record::text")]
    pub node: NodeId,
    /// Seen from where, for the record.
    pub vantage: Vantage,
    /// On which interface.
    pub interface: String,
    /// Bytes kept of each packet.
    pub snaplen: u32,
    /// pcap-filter(7) expression.
    pub filter: Option<String>,
    /// Ring in bytes; `None` chooses by the node's memory.
    pub ring: Option<u64>,
    /// Send what the TCP statistics need of each packet?
    pub headers: bool,
    /// Bytes of that which may wait on the node before any are sent; `None` for a quarter of its free memory.
    pub hold: Option<u64>,
    /// Captures that run on the node at a time and share that quarter.
    pub captures: usize,
    /// Send the packets themselves as well?
    pub keep: bool,
    /// Write them to the disk for packets, under this number, instead of sending them?
    #[serde(default)]
    pub on_disk: Option<u64>,
}

/// What came of a capture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptureEnd {
    /// Without the name of a file and without what is said about TCP.
    pub capture: record::Capture,
    /// What went wrong.
    pub problems: Vec<record::Problem>,
    /// How the headers waited; `None` when none were wanted.
    pub holding: Option<Holding>,
    /// What is on the disk for packets; `None` when nothing was to be.
    #[serde(default)]
    pub packets: Option<KeptPackets>,
}

/// Packets on the disk for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptPackets {
    /// What is there; `None` when the disk could not be made whole.
    #[serde(default)]
    pub receipt: Option<ArchiveReceipt>,
    /// Why it is not all, or nothing.
    pub problem: Option<String>,
}

/// How far a running capture is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CaptureProgress {
    /// Packets so far.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// Packets the interface has dropped since the capture began; `None` when it does not say.
    pub dropped_interface: Option<u64>,
}

/// What clock readings say about the node's wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// Node's clock minus this host's, nanoseconds: at least.
    pub at_least_ns: i64,
    /// At most.
    pub at_most_ns: i64,
    /// Shortest round trip, nanoseconds.
    pub round_trip_ns: u64,
    /// Round trips measured.
    pub rounds: u32,
    /// From the first question to the last answer, nanoseconds.
    pub took_ns: u64,
}
