//! Counters of `perf_event_open(2)` over whole CPUs, as `perf stat -a` counts.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerfEvent {
    /// Name, as perf has it: `cycles`.
    pub name: &'static str,
    kind: u32,
    config: u64,
}

const fn event(name: &'static str, kind: u32, config: u64) -> PerfEvent {
    PerfEvent { name, kind, config }
}

/// Events of the processor (`PERF_TYPE_HARDWARE`). Source: Linux `include/uapi/linux/perf_event.h`.
pub const HARDWARE: [PerfEvent; 6] = [
    event("cycles", 0, 0),
    event("instructions", 0, 1),
    event("cache_references", 0, 2),
    event("cache_misses", 0, 3),
    event("branches", 0, 4),
    event("branch_misses", 0, 5),
];

/// Events of the kernel (`PERF_TYPE_SOFTWARE`).
pub const SOFTWARE: [PerfEvent; 2] = [event("page_faults", 1, 2), event("cpu_migrations", 1, 4)];

/// One event, counted on all CPUs that were on when it was opened.
#[derive(Debug)]
pub struct PerfCounter {
    /// What it counts.
    pub event: PerfEvent,
    cpus: Vec<OwnedFd>,
}

impl PerfCounter {
    /// Begins to count on these CPUs.
    ///
    /// # Errors
    /// `ENOENT` where the hardware has no such counter, `EACCES` and `EPERM` where it is not allowed.
    pub fn open(event: PerfEvent, cpus: &[usize]) -> io::Result<Self> {
        let cpus = cpus.iter().map(|&cpu| open(event, cpu)).collect::<io::Result<_>>()?;
        Ok(Self { event, cpus })
    }

    /// Events so far, all CPUs together. Where events took turns on a counter, the kernel's estimate (count × time wanted ÷
    /// time counted).
    ///
    /// # Errors
    /// Those of read(2), and when a CPU never counted at all.
    pub fn read(&self) -> io::Result<u64> {
        self.cpus.iter().try_fold(0_u64, |sum, fd| Ok(sum.wrapping_add(one(fd.as_raw_fd())?)))
    }
}

/// `struct perf_event_attr` in its first version: 64 bytes.
#[expect(unsafe_code, reason = "a system call that libc has no function for")]
fn open(event: PerfEvent, cpu: usize) -> io::Result<OwnedFd> {
    const SIZE: u32 = 64;
    /// Total time enabled and running.
    const FORMAT: u64 = 1 | 2;
    const CLOSE_ON_EXEC: libc::c_ulong = 8;
    let mut attributes = [0_u64; 8];
    attributes[0] = if cfg!(target_endian = "little") {
        u64::from(SIZE) << 32 | u64::from(event.kind)
    } else {
        u64::from(event.kind) << 32 | u64::from(SIZE)
    };
    attributes[1] = event.config;
    attributes[4] = FORMAT;
    let cpu = libc::c_int::try_from(cpu).map_err(io::Error::other)?;
    // SAFETY: the kernel reads SIZE bytes of the attributes, as they say themselves; all processes, one CPU, no group.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), -1, cpu, -1, CLOSE_ON_EXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given it to us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn one(fd: RawFd) -> io::Result<u64> {
    let mut bytes = [0; 24];
    // SAFETY: borrowed from an owned descriptor that outlives the call.
    #[expect(unsafe_code, reason = "a descriptor that the caller keeps open")]
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    if nix::unistd::read(fd, &mut bytes)? != bytes.len() {
        return Err(io::Error::other("a count that is cut short"));
    }
    let [count, enabled, running] =
        [0, 8, 16].map(|at| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes")));
    scaled(count, enabled, running).ok_or_else(|| io::Error::other("no counter of the CPU was free"))
}

/// `None` when it never ran.
fn scaled(count: u64, enabled: u64, running: u64) -> Option<u64> {
    match running {
        0 if enabled > 0 => None,
        running if running >= enabled => Some(count),
        running => u64::try_from(u128::from(count) * u128::from(enabled) / u128::from(running)).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_took_turns_are_scaled() {
        let cases = [((100, 50, 50), Some(100)), ((100, 50, 25), Some(200)), ((0, 50, 0), None), ((0, 0, 0), Some(0))];
        for ((count, enabled, running), expected) in cases {
            assert_eq!(scaled(count, enabled, running), expected);
        }
        assert_eq!(scaled(u64::MAX, 4, 2), None, "beyond 64 bits");
    }
}
