//! What the host did while a workload ran.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Names of the metrics that every iteration has of [`HostUse`].
pub const HOST_METRICS: [&str; 12] = [
    "cpu_user",
    "cpu_system",
    "cpu_irq",
    "cpu_softirq",
    "cpu_iowait",
    "cpu_steal",
    "cpu_foreign",
    "swap_in",
    "swap_out",
    "thermal_throttles",
    "cgroup_throttles",
    "load_1min",
];

/// Names of further metrics of the `os` level: of workloads, their processes and system calls.
pub const PROCESS_METRICS: [&str; 8] = [
    "client_cpu",
    "cpu_per_request",
    "iperf3_cpu",
    "server_cpu_time",
    "start_skew",
    "syscall_errors",
    "syscall_time",
    "syscalls",
];

/// Difference of two snapshots of the host's counters. A counter that could not be read at either end is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostUse {
    /// Monotonic time between the snapshots.
    pub wall: Duration,
    /// CPU time of all CPUs together, by what it was spent on. Source: `/proc/stat`.
    pub cpu: Option<CpuTime>,
    /// Pages read from swap. Source: `pswpin` in `/proc/vmstat`.
    pub swap_in: Option<u64>,
    /// Pages written to swap. Source: `pswpout` in `/proc/vmstat`.
    pub swap_out: Option<u64>,
    /// Thermal throttling events of cores and packages, summed over CPUs; a package counts once for each of its CPUs.
    pub thermal_throttles: Option<u64>,
    /// Periods in which the cgroup of vptest, or one above it, had used up its CPU quota.
    pub cgroup_throttles: Option<u64>,
    /// Load average over the last minute at the end.
    pub load: Option<f64>,
    /// CPU time of user processes that vptest did not start.
    pub foreign: Option<ForeignUse>,
}

impl HostUse {
    /// Of a host whose counters could not be read.
    pub const fn unread() -> Self {
        Self {
            wall: Duration::ZERO,
            cpu: None,
            swap_in: None,
            swap_out: None,
            thermal_throttles: None,
            cgroup_throttles: None,
            load: None,
            foreign: None,
        }
    }

    /// Seconds of CPU time as a mean number of busy CPUs; `None` when no time has passed.
    pub fn cpus(&self, seconds: f64) -> Option<f64> {
        let wall = self.wall.as_secs_f64();
        (wall > 0.0).then(|| seconds / wall)
    }
}

/// CPU time in seconds, summed over all CPUs. Source: proc(5), `/proc/stat`; resolution one clock tick (10 ms).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CpuTime {
    /// In user mode, guests included.
    pub user: f64,
    /// In user mode at low priority.
    pub nice: f64,
    /// In the kernel, interrupts excluded.
    pub system: f64,
    /// Doing nothing.
    pub idle: f64,
    /// Doing nothing while a disk is waited for.
    pub iowait: f64,
    /// In hardware interrupts.
    pub irq: f64,
    /// In soft interrupts: most of the network stack.
    pub softirq: f64,
    /// Taken by the hypervisor for other guests.
    pub steal: f64,
}

impl CpuTime {
    /// All columns together: CPUs × wall time.
    pub fn total(&self) -> f64 {
        self.user + self.nice + self.system + self.idle + self.iowait + self.irq + self.softirq + self.steal
    }

    /// With the time of other CPUs.
    #[must_use]
    pub fn plus(&self, more: &Self) -> Self {
        Self {
            user: self.user + more.user,
            nice: self.nice + more.nice,
            system: self.system + more.system,
            idle: self.idle + more.idle,
            iowait: self.iowait + more.iowait,
            irq: self.irq + more.irq,
            softirq: self.softirq + more.softirq,
            steal: self.steal + more.steal,
        }
    }
}

/// CPU time of user processes that vptest did not start. Kernel threads are not in it.
///
/// A process that was started and has ended between the snapshots counts only if its parent lived through both and
/// waited for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForeignUse {
    /// Seconds, user and system, over all CPUs.
    pub seconds: f64,
    /// The one that used most; `None` when none used anything.
    pub top: Option<TopProcess>,
}

/// A process and what it used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopProcess {
    /// Process number in vptest's PID namespace.
    pub pid: u32,
    /// Name as in `/proc/PID/stat`, at most 15 bytes.
    pub name: String,
    /// Seconds of CPU time, user and system, of it and of the children it waited for.
    pub seconds: f64,
}
