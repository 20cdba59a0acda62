//! CPUs of this host.

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// CPUs that this process may run on, ascending; `None` when the kernel does not say.
pub fn usable() -> Option<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).ok()?;
    Some((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect())
}
