//! The cgroups that minimega makes for a container: `minimega/ID` in four hierarchies of version 1. Everything here is read from
//! the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, statfs};

/// The hierarchies that minimega uses.
pub(super) const CONTROLLERS: [&str; 4] = ["cpu", "devices", "freezer", "memory"];
/// Directory in each of them.
const PARENT: &str = "minimega";

/// Directories of the cgroups of a machine, by controller.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Cgroups(BTreeMap<String, PathBuf>);

impl Cgroups {
    /// Those of the machine `id` that the process is in; none for a process that is in no machine of that number.
    pub(super) fn of(pid: i32, id: u64) -> Self {
        let read = |path: String| fs::read_to_string(path).unwrap_or_default();
        Self::found(&read(format!("/proc/{pid}/cgroup")), &read("/proc/self/mountinfo".to_owned()), id)
    }

    /// The same from what the kernel, perhaps another host's, says of the process and of mounts.
    pub(super) fn found(cgroup: &str, mounts: &str, id: u64) -> Self {
        Self(find(cgroup, mounts, id))
    }

    /// Path of a file in its directory; `None` where that is not known.
    pub(super) fn path(&self, controller: &str, file: &str) -> Option<String> {
        Some(self.0.get(controller)?.join(file).to_string_lossy().into_owned())
    }

    pub(super) fn into_directories(self) -> Vec<PathBuf> {
        self.0.into_values().collect()
    }

    fn read(&self, controller: &str, file: &str) -> Option<String> {
        let text = fs::read_to_string(self.0.get(controller)?.join(file)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Processors that it may use at once, from quota and period: `2`, `1.5` or `unlimited`; `None` when that cannot be read.
    pub(super) fn vcpus(&self) -> Option<String> {
        processors(&self.read("cpu", "cpu.cfs_quota_us")?, &self.read("cpu", "cpu.cfs_period_us")?)
    }

    /// Bytes of memory that it may use; `None` when that cannot be read.
    pub(super) fn memory(&self) -> Option<String> {
        self.read("memory", "memory.limit_in_bytes")
    }

    /// All threads in it, as this host numbers them.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn threads(&self) -> io::Result<Vec<i32>> {
        let directory = self.0.get("freezer").ok_or_else(|| io::Error::other("its cgroup is not known"))?;
        threads_in(directory)
    }
}

/// All threads in a cgroup.
///
/// # Errors
/// When they cannot be read.
pub(super) fn threads_in(directory: &Path) -> io::Result<Vec<i32>> {
    let text = fs::read_to_string(directory.join("tasks"))?;
    text.lines().map(|line| line.parse().map_err(io::Error::other)).collect()
}

/// Has the directory the form of a machine's cgroup?
pub(super) fn is_of(directory: &Path, id: u64) -> bool {
    let plain = !directory.components().any(|part| part == std::path::Component::ParentDir);
    plain && directory.is_absolute() && directory.ends_with(Path::new(PARENT).join(id.to_string()))
}

/// Number of the machine whose cgroup the process is in; `None` for one in none.
pub(super) fn machine_of(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().filter_map(|line| line.split_once(":freezer:")).map(|(_, path)| Path::new(path)).next()?;
    let id = path.file_name()?.to_str()?.parse().ok()?;
    is_of(path, id).then_some(id)
}

/// Is it in a file system of cgroups of version 1?
pub(super) fn is_version_1(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP_SUPER_MAGIC)
}

/// The hierarchies that minimega needs and that are not where it looks for them, seen from its process. Source: minimega
/// leaves out its option `-cgroup` when it starts a container.
pub(super) fn missing(daemon: i32) -> Vec<&'static str> {
    let place = PathBuf::from(format!("/proc/{daemon}/root/sys/fs/cgroup"));
    CONTROLLERS.into_iter().filter(|controller| !is_version_1(&place.join(controller))).collect()
}

/// Source: Linux, `Documentation/scheduler/sched-bwc.rst`.
pub(super) fn processors(quota: &str, period: &str) -> Option<String> {
    let (quota, period): (i64, i64) = (quota.parse().ok()?, period.parse().ok()?);
    match (quota, period) {
        (_, ..=0) => None,
        (..0, _) => Some("unlimited".to_owned()),
        _ if quota % period == 0 => Some((quota / period).to_string()),
        #[expect(clippy::cast_precision_loss, reason = "microseconds far below 2^53")]
        _ => Some((quota as f64 / period as f64).to_string()),
    }
}

/// Sources: cgroups(7) for `/proc/PID/cgroup`, proc_pid_mountinfo(5).
fn find(cgroup: &str, mounts: &str, id: u64) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        for controller in controllers.split(',').filter(|name| CONTROLLERS.contains(name)) {
            let place = mounts.lines().find_map(|mount| place_of(mount, controller, path));
            if let Some(place) = place.filter(|place| is_of(place, id)) {
                found.insert(controller.to_owned(), place);
            }
        }
    }
    found
}

/// Where a cgroup is, if this line of mountinfo is that of its hierarchy. A mount may show only a part of the tree.
fn place_of(line: &str, controller: &str, path: &str) -> Option<PathBuf> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1)?);
    if kind != "cgroup" || !options.split(',').any(|option| option == controller) {
        return None;
    }
    let mut left = left.split(' ').skip(3);
    let (root, point) = (left.next()?, left.next()?);
    Some(Path::new(point).join(Path::new(path).strip_prefix(root).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_quota_by_period() {
        let check = |quota, period, expected: Option<&str>| {
            assert_eq!(processors(quota, period).as_deref(), expected, "{quota} / {period}");
        };
        check("2000000", "1000000", Some("2"));
        check("150000", "100000", Some("1.5"));
        check("-1", "100000", Some("unlimited"));
        check("1", "0", None);
        check("", "100000", None);
    }

    #[test]
    fn cgroups_of_a_machine_are_found_by_the_kernel() {
        let mounts = "\
30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
33 30 0:30 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
34 30 0:31 /part /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
35 30 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let cgroup =
            "5:memory:/part/minimega/7\n4:freezer:/minimega/7\n3:cpu,cpuacct:/minimega/7\n1:cpuset:/minimega/7\n0::/x";
        let found = find(cgroup, mounts, 7);
        let expected = [
            ("cpu", "/sys/fs/cgroup/cpu,cpuacct/minimega/7"),
            ("freezer", "/sys/fs/cgroup/freezer/minimega/7"),
            ("memory", "/sys/fs/cgroup/memory/minimega/7"),
        ];
        assert_eq!(found, expected.map(|(name, path)| (name.to_owned(), PathBuf::from(path))).into());
        assert!(find(cgroup, mounts, 8).is_empty(), "another machine's");
        assert!(find("4:freezer:/user/7", mounts, 7).is_empty(), "not minimega's");
        assert!(!is_of(Path::new("/a/../minimega/7"), 7) && !is_of(Path::new("minimega/7"), 7));
    }
}
