//! The host's counters around the workload: CPU time, swapping, throttling, load that is not ours.
//!
//! What cannot be read is `None`, never 0.

mod cgroup;
mod parse;
mod processes;
mod watch;

use std::fs;
use std::time::Instant;

use crate::ids::{Level, NodeId};
use crate::record::{CpuTime, HostUse, Metric};
pub(super) use cgroup::counters as cgroup_counters;
pub(super) use parse::ticks_per_second;
use parse::{counter, cpu_time};
use processes::Processes;
pub use processes::started;
pub use watch::{Here, Used, Watch, Watched};

/// The host's counters at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    at: Instant,
    cpu: Option<CpuTime>,
    swap_in: Option<u64>,
    swap_out: Option<u64>,
    thermal_throttles: Option<u64>,
    cgroup_throttles: Option<u64>,
    load: Option<f64>,
    processes: Option<Processes>,
}

impl Snapshot {
    /// Reads all counters; takes some 10 µs for each process of the host.
    pub fn take() -> Self {
        Self::take_with(&[], None)
    }

    /// As [`Snapshot::take`], where the processes `testbed` and all below them are the testbed's as well as vptest's own. CPU time
    /// is that of the CPUs `cpus`, or of all for `None`.
    pub fn take_with(testbed: &[u32], cpus: Option<&[usize]>) -> Self {
        let tick = ticks_per_second();
        let vmstat = fs::read_to_string("/proc/vmstat").ok();
        let vmstat = |name| counter(vmstat.as_deref()?, name);
        Self {
            at: Instant::now(),
            cpu: tick.and_then(|tick| cpu_time(&fs::read_to_string("/proc/stat").ok()?, tick, cpus)),
            swap_in: vmstat("pswpin"),
            swap_out: vmstat("pswpout"),
            thermal_throttles: thermal_throttles(),
            cgroup_throttles: cgroup::throttled_periods(),
            load: fs::read_to_string("/proc/loadavg").ok().and_then(|text| text.split(' ').next()?.parse().ok()),
            processes: tick.and_then(|tick| Processes::read(tick, testbed)),
        }
    }

    /// What happened between this snapshot and a `later` one.
    pub fn until(&self, later: &Self) -> HostUse {
        let more = |before: Option<u64>, after: Option<u64>| after?.checked_sub(before?);
        HostUse {
            wall: later.at.saturating_duration_since(self.at),
            cpu: self.cpu.zip(later.cpu).and_then(|(before, after)| parse::cpu_difference(&before, &after)),
            swap_in: more(self.swap_in, later.swap_in),
            swap_out: more(self.swap_out, later.swap_out),
            thermal_throttles: more(self.thermal_throttles, later.thermal_throttles),
            cgroup_throttles: more(self.cgroup_throttles, later.cgroup_throttles),
            load: later.load,
            foreign: self.processes.as_ref().zip(later.processes.as_ref()).map(|(a, b)| a.foreign_until(b)),
        }
    }
}

/// The numbers of [`HostUse`] as metrics of the `os` level.
///
/// `cpu_…` are mean numbers of busy CPUs (CPU seconds per second): 1 is one CPU, on a host with 8 the most is 8. Of an iteration
/// that ran beside others (`--jobs`) they are those of its own CPUs, but for `cpu_foreign`.
/// `node` is the node that is the host; `None` for the host vptest runs on. `swap_in` and `swap_out` are pages. A number that could not be read is a metric without a value.
pub fn metrics(node: Option<NodeId>, host: &HostUse) -> Vec<Metric> {
    let cpu = |pick: fn(&CpuTime) -> f64| host.cpu.as_ref().and_then(|time| host.cpus(pick(time)));
    let count = |value: Option<u64>| value.map(|value| value as f64);
    let foreign = host.foreign.as_ref().and_then(|foreign| host.cpus(foreign.seconds));
    [
        ("cpu_user", cpu(|time| time.user + time.nice)),
        ("cpu_system", cpu(|time| time.system)),
        ("cpu_irq", cpu(|time| time.irq)),
        ("cpu_softirq", cpu(|time| time.softirq)),
        ("cpu_iowait", cpu(|time| time.iowait)),
        ("cpu_steal", cpu(|time| time.steal)),
        ("cpu_foreign", foreign),
        ("swap_in", count(host.swap_in)),
        ("swap_out", count(host.swap_out)),
        ("thermal_throttles", count(host.thermal_throttles)),
        ("cgroup_throttles", count(host.cgroup_throttles)),
        ("load_1min", host.load),
    ]
    .into_iter()
    .map(|(name, value)| Metric {
        pair: None,
        node,
        level: Level::Os,
        name: name.to_owned(),
        unit: "1".to_owned(),
        value,
        better: None,
    })
    .collect()
}

/// Throttling events of all CPUs; `None` where no CPU counts them (virtual machines, most CPUs but Intel's).
/// Source: Linux `Documentation/admin-guide/thermal/intel_powerclamp`, `arch/x86/kernel/cpu/mce/therm_throt.c`.
fn thermal_throttles() -> Option<u64> {
    let cpus = fs::read_dir("/sys/devices/system/cpu").ok()?;
    let counts = cpus.flatten().flat_map(|cpu| {
        ["core_throttle_count", "package_throttle_count"].map(|name| cpu.path().join("thermal_throttle").join(name))
    });
    let counts = counts.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    counts.reduce(|sum, count| sum + count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_of_this_host_make_sense() {
        let before = Snapshot::take();
        let after = Snapshot::take();
        let used = before.until(&after);
        let cpu = used.cpu.expect("/proc/stat is there on every Linux");
        assert!(cpu.total() >= 0.0);
        assert!(used.foreign.as_ref().expect("/proc is readable").seconds >= 0.0);
        assert_eq!(metrics(None, &used).len(), 12);
    }

    #[test]
    fn a_counter_that_went_backwards_is_no_number() {
        let before = Snapshot { swap_in: Some(5), swap_out: None, cgroup_throttles: Some(1), ..Snapshot::take() };
        let after = Snapshot { swap_in: Some(4), swap_out: Some(1), cgroup_throttles: Some(4), ..before.clone() };
        let used = before.until(&after);
        assert_eq!((used.swap_in, used.swap_out, used.cgroup_throttles), (None, None, Some(3)));
        assert_eq!(used.cpus(1.0), None, "no time has passed");
        assert!(
            metrics(None, &used).iter().filter(|metric| metric.name.starts_with("cpu_")).all(|m| m.value.is_none())
        );
    }
}
