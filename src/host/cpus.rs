//! CPUs of this host.

use std::collections::BTreeMap;
use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// CPUs that this process may run on, ascending; `None` when the kernel does not say.
pub fn usable() -> Option<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).ok()?;
    Some((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect())
}

/// CPU cores that this process may run on, by package, each core as its CPUs (hardware threads); `None` when the kernel does not
/// say which CPUs may be used. A CPU of which it does not say the place is a core by itself, in a package of all such. Source: Linux
/// `Documentation/admin-guide/cputopology.rst`.
pub fn packages() -> Option<Vec<Vec<Vec<usize>>>> {
    let read = |cpu: usize, file: &str| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/{file}")).ok()
    };
    Some(by_package(&usable()?, |cpu| {
        let package = read(cpu, "physical_package_id")?.trim().parse().ok()?;
        Some((package, read(cpu, "thread_siblings_list")?))
    }))
}

/// Groups ascending CPUs by package and core.
fn by_package(cpus: &[usize], place: impl Fn(usize) -> Option<(i32, String)>) -> Vec<Vec<Vec<usize>>> {
    let mut packages: BTreeMap<i32, Vec<(String, Vec<usize>)>> = BTreeMap::new();
    for &cpu in cpus {
        let (package, core) = place(cpu).unwrap_or_else(|| (-1, cpu.to_string()));
        let cores = packages.entry(package).or_default();
        match cores.iter_mut().find(|(other, _)| *other == core) {
            Some((_, cpus)) => cpus.push(cpu),
            None => cores.push((core, vec![cpu])),
        }
    }
    packages.into_values().map(|cores| cores.into_iter().map(|(_, cpus)| cpus).collect()).collect()
}

/// Binds a thread of this host to CPUs; 0 is the thread that calls it.
///
/// # Errors
/// `ESRCH` when the thread is gone, `EINVAL` when none of the CPUs exists.
pub fn pin(thread: i32, cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().try_for_each(|&cpu| set.set(cpu))?;
    Ok(sched_setaffinity(Pid::from_raw(thread), &set)?)
}

/// CPUs that a thread of this host may run on, ascending; `None` when the kernel does not say.
pub fn of(thread: i32) -> Option<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(thread)).ok()?;
    Some((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect())
}

/// CPUs of a list as the kernel writes it (`0-3,7`), ascending as there; `None` for any other text.
pub fn parse_list(text: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for part in text.trim_end().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last - first > 1 << 16 {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// The thread of process `pid` that has the number `inner` in the process's own PID namespace, as this host numbers it.
///
/// # Errors
/// `NotFound` when the process has no such thread.
pub fn thread_of(pid: u32, inner: i32) -> io::Result<i32> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while the others are looked at.
        let Ok(status) = std::fs::read_to_string(entry?.path().join("status")) else { continue };
        if let Some((outer, innermost)) = numbers(&status)
            && innermost == inner
        {
            return Ok(outer);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has no thread {inner}")))
}

/// The first and the last of `NSpid` (proc(5)): the number here and the one in the innermost namespace.
fn numbers(status: &str) -> Option<(i32, i32)> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let numbers: Vec<i32> = line.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
    Some((*numbers.first()?, *numbers.last()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(parse_list("0-3,7\n"), Some(vec![0, 1, 2, 3, 7]));
        let bad = ["", "3-1", "0-x", "0-100000", "1,"].map(parse_list);
        assert_eq!((parse_list("0"), bad), (Some(vec![0]), [const { None }; 5]));
    }

    #[test]
    fn threads_of_a_core_are_one_and_packages_stay_together() {
        let place = |cpu: usize| match cpu {
            0..8 => Some((i32::from(cpu % 2 == 1), (cpu % 4).to_string())),
            _ => None,
        };
        let packages = by_package(&[0, 1, 2, 3, 4, 5, 7, 9], place);
        assert_eq!(packages, [vec![vec![9]], vec![vec![0, 4], vec![2]], vec![vec![1, 5], vec![3, 7]]]);
        let mut here = super::packages().unwrap().concat().concat();
        here.sort_unstable();
        assert_eq!(here, usable().unwrap());
    }

    #[test]
    fn threads_are_found_by_the_number_of_their_namespace() {
        assert_eq!(numbers("Name:\tqemu\nNSpid:\t812\t7\n"), Some((812, 7)));
        assert_eq!(numbers("NSpid:\t812\n"), Some((812, 812)));
        assert_eq!(numbers("Name:\tqemu\n"), None);
        let own = nix::unistd::gettid().as_raw();
        let inner = std::fs::read_to_string("/proc/thread-self/status").ok().and_then(|text| numbers(&text));
        assert_eq!(thread_of(std::process::id(), inner.unwrap().1).unwrap(), inner.unwrap().0);
        assert!(of(own).is_some_and(|cpus| !cpus.is_empty()));
    }
}
