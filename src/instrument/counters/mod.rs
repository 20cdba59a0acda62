//! Counters of kernels: the host's, and those of every node. Read before and after the clients run, and at an interval
//! between.
//!
//! A number that was not read, vanished or went backwards is `None`, never 0. What a machine does not have is told.
//!
//! ```text
//! value    a counter, and the growth between two readings
//! text     /proc files to counters
//! lists    which become metrics, which have a series
//! kernel   reads a kernel: CPUs, interrupts, memory, perf, KVM
//! stack    reads a network stack: protocols, interfaces, queues, sockets
//! place    one place over time
//! sampler  the thread that reads
//! sound    is what a guest sends fit to be kept
//! running  all places of an iteration
//! ```

mod kernel;
mod lists;
mod place;
mod running;
mod sampler;
mod sound;
mod stack;
mod text;
#[cfg(test)]
mod text_tests;
mod value;

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use running::{Counting, metrics, notes};
pub use value::{Counter, Kind, Read, Unit, growth};

use crate::ids::NodeId;
use crate::record::{CounterPlace, CounterTotal, Problem};
use sampler::{Sampler, SamplerPlan};

/// What was counted, and what went wrong.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// One for each place.
    pub places: Vec<PlaceCounted>,
    /// What could bias the iteration.
    pub problems: Vec<Problem>,
}

/// One place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlaceCounted {
    /// How it was read, the series, and what is no metric.
    pub place: CounterPlace,
    /// The numbers of the fixed list, and of the spec's.
    pub totals: Vec<CounterTotal>,
}

impl Counted {
    fn add(&mut self, more: Self) {
        self.places.extend(more.places);
        self.problems.extend(more.problems);
    }
}

/// Counters of the machine that this program runs on, for an agent. Dropping it ends it.
#[derive(Debug)]
pub struct NodeCounters(Sampler);

impl NodeCounters {
    /// Reads for the first time. `interface` is the one the workload uses. What the kernel counts is the node's only where it has
    /// one of its own.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        node: NodeId,
        interface: String,
        interval: Option<Duration>,
        metrics: Vec<String>,
        own_kernel: bool,
    ) -> io::Result<Self> {
        Sampler::start(SamplerPlan::of_node(node, interface, interval, metrics, own_kernel)).map(Self)
    }

    /// Reads for the last time. Blocks until that is done.
    ///
    /// # Errors
    /// When the thread has panicked.
    pub fn finish(self) -> io::Result<Counted> {
        self.0.finish()
    }
}

/// What this machine offers besides what every Linux has: (name, how many counters, or why none).
pub fn offers() -> Vec<(&'static str, Result<usize, String>)> {
    let kernel = kernel::KernelReader::open().read(kernel::Depth::Full);
    let optional = kernel.into_iter().filter(|(source, _)| lists::may_lack(source));
    let mut all: Vec<_> = optional.map(|(source, read)| (source, read.map(|all| all.len()))).collect();
    let sockets = crate::host::sockets::SocketDiagnosis::open().and_then(|mut diagnosis| diagnosis.tcp());
    all.push(("sockets", sockets.map(|_| 1).map_err(|error| error.to_string())));
    all
}
