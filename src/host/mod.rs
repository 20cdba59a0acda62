//! One guard per kernel or host resource. The only layer with `unsafe`, each use with its reason.

pub mod cage;
pub mod child;
pub mod clock;
pub mod cpus;
pub mod ethtool;
pub mod kept;
pub mod link;
pub mod link_statistics;
pub mod loan;
pub mod namespace;
pub mod netlink;
pub mod perf;
pub mod priority;
pub mod qdisc;
pub mod route;
pub mod setup;
pub mod sockets;
pub mod stray;
pub mod tap;
pub mod userns;

/// Name of this host; `unnamed` when it has none that is text.
pub fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "unnamed".to_owned())
}

/// Number of children that a process has now; `None` when `/proc` cannot be read.
pub fn children(pid: u32) -> Option<usize> {
    let parent = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name may hold spaces and parentheses; the last closing one ends it. Then come state and parent.
        text.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let entries = std::fs::read_dir("/proc").ok()?;
    Some(entries.flatten().filter_map(parent).filter(|&parent| parent == pid).count())
}
