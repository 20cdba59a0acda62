//! CPU time by process: how much of it went to processes that are not vptest's.

use std::collections::{HashMap, HashSet};
use std::fs;

use crate::record::{ForeignUse, TopProcess};

/// Flag of kernel threads. Source: Linux `include/linux/sched.h`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// User processes of the host, as far as they can be seen.
#[derive(Debug, Clone)]
pub(super) struct Processes {
    /// vptest itself, and processes of the testbed that are not below it.
    own: Vec<u32>,
    ticks: f64,
    /// By process number and start time: numbers are used again.
    all: HashMap<(u32, u64), Process>,
}

/// One line of `/proc/PID/stat`; times in clock ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    pid: u32,
    name: String,
    parent: u32,
    kernel: bool,
    /// User and system time.
    used: u64,
    /// The same of children it waited for, and theirs.
    children: u64,
    started: u64,
}

impl Processes {
    /// `None` when other users' processes are hidden or `/proc` cannot be read: nothing can be said then.
    pub(super) fn read(ticks: f64, testbed: &[u32]) -> Option<Self> {
        if hidden(&fs::read_to_string("/proc/self/mountinfo").ok()?, nix::unistd::geteuid().is_root()) {
            return None;
        }
        let mut all = HashMap::new();
        for entry in fs::read_dir("/proc").ok()?.flatten() {
            if !entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) {
                continue;
            }
            // Reading fails when the process has just ended.
            let Ok(text) = fs::read_to_string(entry.path().join("stat")) else { continue };
            if let Some(process) = parse(&text).filter(|process| !process.kernel) {
                all.insert((process.pid, process.started), process);
            }
        }
        let own = std::iter::once(std::process::id()).chain(testbed.iter().copied()).collect();
        Some(Self { own, ticks, all })
    }

    /// CPU time that other processes used until `later`.
    pub(super) fn foreign_until(&self, later: &Self) -> ForeignUse {
        let ours: HashSet<_> = self.ours().union(&later.ours()).copied().collect();
        let dead = self.dead_children(later);
        let mut used: Vec<_> = later
            .all
            .iter()
            .filter(|(key, _)| !ours.contains(*key))
            .map(|(key, process)| (self.ticks_used(key, process, &dead), process))
            .collect();
        // Equal ones by number, so that the answer does not depend on the order of a hash map.
        used.sort_by_key(|(ticks, process)| (std::cmp::Reverse(*ticks), process.pid));
        let seconds = |ticks: u64| ticks as f64 / self.ticks;
        let top = used.first().filter(|(ticks, _)| *ticks > 0).map(|(ticks, process)| TopProcess {
            pid: process.pid,
            name: process.name.clone(),
            seconds: seconds(*ticks),
        });
        ForeignUse { seconds: seconds(used.iter().map(|(ticks, _)| ticks).sum()), top }
    }

    fn ticks_used(&self, key: &(u32, u64), now: &Process, dead: &HashMap<u32, u64>) -> u64 {
        let Some(before) = self.all.get(key) else { return now.used + now.children };
        // What a child had used before the first snapshot came to its parent's account when it was waited for.
        let children = now.children.saturating_sub(before.children);
        let children = children.saturating_sub(dead.get(&now.pid).copied().unwrap_or(0));
        now.used.saturating_sub(before.used) + children
    }

    /// For each process, what those below it that have ended since had used before. It comes to the account of the
    /// nearest one that lives on, since all between have waited and ended as well.
    fn dead_children(&self, later: &Self) -> HashMap<u32, u64> {
        let dead: HashMap<u32, &Process> = self
            .all
            .iter()
            .filter(|(key, _)| !later.all.contains_key(*key))
            .map(|(_, process)| (process.pid, process))
            .collect();
        let mut all = HashMap::new();
        for process in dead.values() {
            let mut heir = process.parent;
            // The chain is shorter than the table, unless the table was read while processes moved.
            for _ in 0..dead.len() {
                let Some(gone) = dead.get(&heir) else { break };
                heir = gone.parent;
            }
            *all.entry(heir).or_default() += process.used + process.children;
        }
        all
    }

    /// vptest, the testbed's processes, and everything below them, as numbers and start times.
    fn ours(&self) -> HashSet<(u32, u64)> {
        let parents: HashMap<u32, u32> = self.all.values().map(|process| (process.pid, process.parent)).collect();
        let is_ours = |mut pid: u32| {
            // The chain is shorter than the table, unless the table was read while processes moved.
            for _ in 0..parents.len() {
                match parents.get(&pid) {
                    _ if self.own.contains(&pid) => return true,
                    Some(&parent) => pid = parent,
                    None => return false,
                }
            }
            false
        };
        self.all.iter().filter(|(_, process)| is_ours(process.pid)).map(|(key, _)| *key).collect()
    }
}

/// Processes below this one, by number and name, ascending; `None` when `/proc` cannot be read.
pub fn started() -> Option<Vec<(u32, String)>> {
    let all = Processes::read(1.0, &[])?;
    let ours = all.ours().into_iter().filter(|(pid, _)| *pid != std::process::id());
    let mut ours: Vec<_> = ours.filter_map(|key| Some((key.0, all.all.get(&key)?.name.clone()))).collect();
    ours.sort();
    Some(ours)
}

/// Does `/proc` hide other users' processes from this one? Source: proc(5), `hidepid`.
fn hidden(mountinfo: &str, root: bool) -> bool {
    let mut proc = mountinfo.lines().filter(|line| line.split(' ').nth(4) == Some("/proc"));
    let hides = |line: &str| {
        let options = line.rsplit(' ').next().unwrap_or_default();
        options.split(',').filter_map(|option| option.strip_prefix("hidepid=")).any(|mode| !matches!(mode, "0" | "off"))
    };
    !root && proc.next_back().is_some_and(hides)
}

/// A line of `/proc/PID/stat`. Source: proc_pid_stat(5).
fn parse(text: &str) -> Option<Process> {
    // The name may hold spaces and parentheses; the last closing one ends it.
    let (pid, rest) = text.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first of these is field 3.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Process {
        pid: pid.parse().ok()?,
        name: name.to_owned(),
        parent: u32::try_from(number(4)?).ok()?,
        kernel: number(9)? & PF_KTHREAD != 0,
        used: number(14)? + number(15)?,
        children: number(16)? + number(17)?,
        started: number(22)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, used: u64, children: u64) -> Process {
        Process { pid, name: format!("p{pid}"), parent, kernel: false, used, children, started: u64::from(pid) }
    }

    fn table(all: &[Process]) -> Processes {
        let all = all.iter().map(|process| ((process.pid, process.started), process.clone())).collect();
        Processes { own: vec![100], ticks: 100.0, all }
    }

    fn check(before: &[Process], after: &[Process], ticks: u64, top: Option<u32>) {
        let foreign = table(before).foreign_until(&table(after));
        assert_eq!(foreign.seconds, ticks as f64 / 100.0);
        assert_eq!(foreign.top.map(|process| process.pid), top);
    }

    #[test]
    fn only_others_count() {
        let before = [process(1, 0, 5, 0), process(100, 1, 10, 0), process(50, 1, 7, 0)];
        let after = [
            process(1, 0, 6, 0),
            process(100, 1, 90, 500),
            process(50, 1, 37, 0),
            process(101, 100, 70, 0),
            process(102, 101, 70, 0),
        ];
        check(&before, &after, 31, Some(50));
        check(&before, &before, 0, None);
    }

    #[test]
    fn processes_of_the_testbed_are_ours_though_others_started_them() {
        let all = |used| table(&[process(1, 0, 0, 0), process(7, 1, used, 0), process(8, 7, used, 0)]);
        let with = |used| Processes { own: vec![100, 8], ..all(used) };
        assert_eq!(all(0).foreign_until(&all(50)).seconds, 1.0);
        let foreign = with(0).foreign_until(&with(50));
        assert_eq!((foreign.seconds, foreign.top.unwrap().pid), (0.5, 7));
    }

    #[test]
    fn a_process_that_left_us_is_still_ours() {
        let before = [process(1, 0, 0, 0), process(100, 1, 0, 0), process(101, 100, 0, 0)];
        check(&before, &[process(1, 0, 0, 0), process(100, 1, 0, 0), process(101, 1, 90, 0)], 0, None);
    }

    #[test]
    fn a_new_process_counts_whole() {
        check(&[process(1, 0, 0, 0)], &[process(1, 0, 0, 0), process(7, 1, 20, 5)], 25, Some(7));
        // The same number with another start time is another process.
        let again = Process { started: 99, ..process(7, 1, 3, 0) };
        check(&[process(1, 0, 0, 0), process(7, 1, 20, 0)], &[process(1, 0, 0, 0), again], 3, Some(7));
    }

    #[test]
    fn an_ended_child_counts_only_since_the_first_snapshot() {
        let before = [process(1, 0, 0, 0), process(7, 1, 0, 10), process(8, 7, 400, 100)];
        check(&before, &[process(1, 0, 0, 0), process(7, 1, 0, 10 + 530)], 30, Some(7));
        // A grandchild's time reaches the grandparent through a child that has ended as well.
        let family = [process(7, 1, 0, 10), process(8, 7, 400, 0), process(9, 8, 1000, 5)];
        check(&family, &[process(7, 1, 0, 10 + 1435)], 30, Some(7));
        // A parent that does not wait gets nothing on its account; that is not negative.
        check(&before, &[process(1, 0, 0, 0), process(7, 1, 0, 10)], 0, None);
    }

    #[test]
    fn stat_lines_are_read() {
        let fields = "S 1 1 1 0 -1 4194560 1 2 3 4 30 12 5 6 20 0 1 0 777 1 1";
        let found = parse(&format!("42 (a) b (c)) {fields}\n")).unwrap();
        let expected = Process {
            pid: 42,
            name: "a) b (c)".to_owned(),
            parent: 1,
            kernel: false,
            used: 42,
            children: 11,
            started: 777,
        };
        assert_eq!(found, expected);
        assert!(parse("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0").unwrap().kernel);
        for bad in ["", "1 (x", "1 (x) S 1 1", "x (x) S 1 1 1 0 -1 0 1 2 3 4 30 12 5 6 20 0 1 0 777"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn hidden_processes_are_noticed() {
        let line = |options| format!("22 1 0:20 / /proc rw,nosuid - proc proc rw{options}");
        let cases = [("", false), (",hidepid=0", false), (",hidepid=2", true), (",hidepid=invisible", true)];
        for (options, expected) in cases {
            assert_eq!(hidden(&line(options), false), expected, "{options}");
            assert!(!hidden(&line(options), true));
        }
    }
}
