//! CPU quota of vptest's own cgroup, in either version of the interface.

use std::fs;
use std::path::{Path, PathBuf};

use super::parse::counter;
use crate::instrument::counters::{Counter, Read, Unit};

/// Periods in which vptest's cgroup or one above it was throttled; `None` where no CPU controller counts them.
/// Source: Linux `Documentation/admin-guide/cgroup-v2.rst` (`cpu.stat`), `Documentation/scheduler/sched-bwc.rst`.
pub(super) fn throttled_periods() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let counts = directories(&own, &mounts)
        .into_iter()
        .filter_map(|directory| counter(&fs::read_to_string(directory.join("cpu.stat")).ok()?, "nr_throttled"));
    counts.reduce(|sum, count| sum + count)
}

/// CPU time of vptest's own cgroup (in version 2 also what is below it), as `cgroup.cpu`, and periods in which it was
/// throttled, as `cgroup.throttled_periods`.
pub(in crate::instrument) fn counters() -> Read {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"));
    let (own, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
    let mut all = Vec::new();
    // The first directory of each hierarchy is vptest's own.
    for directory in directories(&own, &mounts) {
        let Ok(text) = fs::read_to_string(directory.join("cpu.stat")) else { continue };
        if let Some(usage) = counter(&text, "usage_usec") {
            all.push(Counter::grows("cgroup.cpu", usage).in_unit(Unit::Microsecond));
        }
        if let Some(periods) = counter(&text, "nr_throttled") {
            all.push(Counter::grows("cgroup.throttled_periods", periods));
        }
        if !all.is_empty() {
            return Ok(all);
        }
    }
    Err("no cgroup of vptest counts CPU time".to_owned())
}

/// Directories of the cgroups that may limit CPU time: vptest's own and all above it, as far as they are mounted.
fn directories(own: &str, mounts: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let unified = controllers.is_empty();
        if !unified && !controllers.split(',').any(|name| name == "cpu") {
            continue;
        }
        let Some((root, point)) = mounts.lines().find_map(|mount| mounted(mount, unified)) else { continue };
        // A mount may show only a part of the tree (in containers); a path outside it cannot be seen.
        let Ok(below) = Path::new(path).strip_prefix(root) else { continue };
        all.extend(below.ancestors().map(|part| Path::new(point).join(part)));
    }
    all
}

/// Root and mount point of a line of mountinfo, if it is the wanted hierarchy. Source: proc_pid_mountinfo(5).
fn mounted(line: &str, unified: bool) -> Option<(&str, &str)> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1)?);
    let wanted = if unified { kind == "cgroup2" } else { kind == "cgroup" && options.split(',').any(|o| o == "cpu") };
    let mut left = left.split(' ').skip(3);
    wanted.then_some((left.next()?, left.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    #[test]
    fn own_cgroups_are_found_in_both_versions() {
        let cases = [
            (
                "0::/user.slice/x",
                "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate",
                vec!["/sys/fs/cgroup/user.slice/x", "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup/"],
            ),
            (
                "3:cpuset:/a\n1:cpu,cpuacct:/b\n0::/",
                HYBRID,
                vec!["/sys/fs/cgroup/cpu,cpuacct/b", "/sys/fs/cgroup/cpu,cpuacct/", "/sys/fs/cgroup/unified/"],
            ),
            // In a container: the mount shows the container's part alone.
            (
                "0::/docker/a/b",
                "30 24 0:26 /docker/a /sys/fs/cgroup ro - cgroup2 cgroup rw",
                vec!["/sys/fs/cgroup/b", "/sys/fs/cgroup/"],
            ),
            ("0::/../x", "30 24 0:26 /docker/a /sys/fs/cgroup ro - cgroup2 cgroup rw", vec![]),
            ("0::/x", "22 1 0:5 / /proc rw - proc proc rw", vec![]),
            ("", HYBRID, vec![]),
        ];
        for (own, mounts, expected) in cases {
            let expected: Vec<_> = expected.into_iter().map(PathBuf::from).collect();
            assert_eq!(directories(own, mounts), expected, "{own:?}");
        }
    }
}
