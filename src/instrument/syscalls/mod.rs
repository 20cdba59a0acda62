//! System calls of the workload's processes, or of a whole kernel: counts, errors, times, transitions, sizes.
//!
//! A BPF program adds up in the kernel, so that nothing but its tables can be full, and what finds no room there is
//! counted. Where BPF is refused, every call is handed over through perf's rings and added up here, which costs more; where
//! that is refused as well, nothing is followed, and both reasons are told.
//!
//! ```text
//! bpf/     the program's source and its object
//! bpf.rs   loads it, reads its tables
//! perf.rs  the other way
//! tally    what both add up to
//! log      single calls, in a file
//! names    names of calls
//! ```

mod bpf;
mod log;
mod names;
mod perf;
mod running;
mod tally;

use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::ids::NodeId;
use crate::record::{SyscallScope, SyscallSource, SyscallTrace};

pub use log::{LogError, Logged, read as read_log};
pub use running::{Running, Traced, metrics};

/// What is to be followed, and where the results belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whose calls.
    pub scope: SyscallScope,
    /// How; `None`: by BPF, and by perf where BPF is refused.
    pub source: Option<SyscallSource>,
    /// The processes of the workload; without a PID namespace `scope` can only be the node.
    pub workload: Option<Workload>,
    /// The node whose kernel this is; `None` for vptest's own.
    pub place: Option<NodeId>,
    /// The nodes that share this kernel, by the inode of their network namespaces. Without any, all belongs to `place`.
    pub nodes: Vec<(u64, NodeId)>,
    /// A file for single calls; `None` for none.
    pub log: Option<PathBuf>,
    /// How much the tables hold.
    pub room: Room,
}

/// Where the processes of a workload are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Device of the PID namespace, as stat(2) gives it.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// The thread that starts all of them.
    pub starter: i32,
}

/// Rows that the tracer's tables have. What is more is counted as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Room {
    /// Threads at one moment.
    pub threads: u32,
    /// Names of processes, on all nodes together.
    pub names: u32,
    /// Kinds of calls, over all names.
    pub calls: u32,
    /// Transitions, over all names.
    pub transitions: u32,
    /// Kinds of calls and descriptors, over all names.
    pub sizes: u32,
    /// Bytes of the ring for the log; a power of two.
    pub ring: u32,
}

impl Default for Room {
    fn default() -> Self {
        Self { threads: 16_384, names: 1024, calls: 2048, transitions: 16_384, sizes: 512, ring: 8 << 20 }
    }
}

/// System calls cannot be followed here.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The kernel allows none of the ways that were tried; the text says why, for each.
    #[error("system calls cannot be followed by {0}")]
    Refused(String),
    /// The processes of the workload cannot be told from others.
    #[error(
        "the processes of the workload have no PID namespace of their own, so that they cannot be told from others"
    )]
    NoNamespace,
    /// The log cannot be written.
    #[error("cannot write {path}")]
    Log {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was counted cannot be read.
    #[error("cannot read what was counted: {0}")]
    Read(String),
}

enum Way {
    Bpf(Box<bpf::Bpf>),
    Perf(perf::Perf),
}

/// Follows system calls from its start to [`Tracer::stop`]; dropping it ends it.
pub struct Tracer {
    way: Way,
    options: Options,
    /// What is worth an event: what is not known here.
    pub notes: Vec<String>,
}

impl Tracer {
    /// Starts. When this returns, no call is missed.
    ///
    /// # Errors
    /// When the kernel refuses; the text has the reason.
    pub fn start(options: Options) -> Result<Self, TraceError> {
        if options.scope == SyscallScope::Workload && options.workload.is_none() {
            return Err(TraceError::NoNamespace);
        }
        let mut reasons = Vec::new();
        for source in [SyscallSource::Bpf, SyscallSource::Perf] {
            if options.source.is_some_and(|asked| asked != source) {
                continue;
            }
            let mut notes = Vec::new();
            let way = match source {
                SyscallSource::Bpf => bpf::Bpf::start(&options, &mut notes).map(Box::new).map(Way::Bpf),
                SyscallSource::Perf => perf::Perf::start(&options, &mut notes).map(Way::Perf),
            };
            match way {
                Ok(way) => {
                    if source == SyscallSource::Perf {
                        notes.push(of_perf(&reasons));
                    }
                    return Ok(Self { way, options, notes });
                }
                Err(bpf::Failure::Log(error)) => return Err(error),
                Err(bpf::Failure::Refused(why)) => reasons.push(format!("{}: {why}", source.as_str())),
            }
        }
        Err(TraceError::Refused(reasons.join("; ")))
    }

    /// Ends, and hands over what was counted.
    ///
    /// # Errors
    /// When the kernel's tables cannot be read, or the log could not be written.
    pub fn stop(self) -> Result<SyscallTrace, TraceError> {
        match self.way {
            Way::Bpf(bpf) => bpf.stop(&self.options),
            Way::Perf(perf) => perf.stop(&self.options),
        }
    }
}

/// What following by perf means, and why it is done.
fn of_perf(reasons: &[String]) -> String {
    let why = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) };
    format!(
        "system calls are followed by perf{why}: every call is handed over, which costs the workload and this machine more \
         CPU time than BPF, and kinds of descriptors are unknown"
    )
}

impl Workload {
    /// What is started in a cage; `None` for one without a PID namespace.
    pub fn of(cage: &crate::host::cage::Cage) -> Option<Self> {
        let (device, inode) = cage.pid_namespace()?;
        Some(Self { device, inode, starter: cage.starter() })
    }
}

impl Options {
    /// Follows this workload, or everything, on vptest's own kernel.
    pub fn here(scope: SyscallScope, workload: Option<Workload>) -> Self {
        Self { scope, source: None, workload, place: None, nodes: Vec::new(), log: None, room: Room::default() }
    }

    /// To which node something in a network namespace belongs.
    fn node_in(&self, network: u64) -> Option<NodeId> {
        match self.nodes.iter().find(|(inode, _)| *inode == network) {
            Some((_, node)) => Some(*node),
            None if self.nodes.is_empty() => self.place,
            None => None,
        }
    }
}

/// Device, in the kernel's own form, and inode of a namespace.
fn namespace_at(path: impl AsRef<Path>) -> io::Result<(u64, u64)> {
    let meta = std::fs::metadata(path)?;
    Ok((meta.st_dev(), meta.st_ino()))
}

/// The kernel's form of a device number.
fn kernel_device(device: u64) -> u64 {
    u64::from(libc::major(device)) << 20 | u64::from(libc::minor(device))
}
