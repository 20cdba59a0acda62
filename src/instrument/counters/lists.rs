//! Which counters become metrics, and which have a series. Fixed, so that a metric is there in every iteration or in none:
//! a row that is missing never means 0.

use crate::ids::Level;

/// What a list is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A kernel: the host's, or that of a node with its own.
    Kernel,
    /// The protocols of a node's network stack.
    Protocols,
    /// The interface of a node that the workload uses.
    Link,
    /// The host's end of a node's link.
    HostEnd,
    /// The sockets of a node that has none but the workload's.
    Sockets,
}

/// A source whose counters of the list are metrics.
pub(super) struct Listed {
    pub(super) owner: Owner,
    pub(super) source: &'static str,
    pub(super) level: Level,
    /// A source that not every machine has: without it there are no metrics, rather than such without a value.
    pub(super) optional: bool,
    pub(super) names: &'static [&'static str],
    /// Of these: with a series.
    pub(super) series: &'static [&'static str],
}

const fn kernel(source: &'static str, names: &'static [&'static str], series: &'static [&'static str]) -> Listed {
    Listed { owner: Owner::Kernel, source, level: Level::Os, optional: false, names, series }
}

const fn network(
    owner: Owner,
    source: &'static str,
    names: &'static [&'static str],
    series: &'static [&'static str],
) -> Listed {
    Listed { owner, source, level: Level::Network, optional: false, names, series }
}

const fn optional(listed: Listed) -> Listed {
    Listed { optional: true, ..listed }
}

const CPU: &[&str] = &[
    "cpu.user",
    "cpu.nice",
    "cpu.system",
    "cpu.idle",
    "cpu.iowait",
    "cpu.irq",
    "cpu.softirq",
    "cpu.steal",
    "ctxt",
    "intr",
    "forks",
];
const CPU_SERIES: &[&str] =
    &["cpu.user", "cpu.system", "cpu.idle", "cpu.irq", "cpu.softirq", "cpu.steal", "ctxt", "intr"];
const SOFTNET: &[&str] =
    &["softnet.processed", "softnet.dropped", "softnet.time_squeeze", "softnet.received_rps", "softnet.flow_limit"];
const SNMP: &[&str] = &[
    "IpInReceives",
    "IpInDiscards",
    "IpOutRequests",
    "IpOutDiscards",
    "TcpActiveOpens",
    "TcpPassiveOpens",
    "TcpAttemptFails",
    "TcpEstabResets",
    "TcpInSegs",
    "TcpOutSegs",
    "TcpRetransSegs",
    "TcpInErrs",
    "TcpOutRsts",
    "UdpInDatagrams",
    "UdpOutDatagrams",
    "UdpInErrors",
    "UdpRcvbufErrors",
    "UdpSndbufErrors",
];
const NETSTAT: &[&str] = &[
    "TcpExtListenOverflows",
    "TcpExtListenDrops",
    "TcpExtTCPTimeouts",
    "TcpExtTCPLostRetransmit",
    "TcpExtTCPFastRetrans",
    "TcpExtTCPSlowStartRetrans",
    "TcpExtTCPLossProbes",
    "TcpExtTCPSACKReorder",
    "TcpExtTCPOFOQueue",
    "TcpExtTCPBacklogDrop",
    "TcpExtTCPRcvQDrop",
    "TcpExtPruneCalled",
];
const LINK: &[&str] = &[
    "if.rx_packets",
    "if.tx_packets",
    "if.rx_bytes",
    "if.tx_bytes",
    "if.rx_errors",
    "if.tx_errors",
    "if.rx_dropped",
    "if.tx_dropped",
];
const LINK_SERIES: &[&str] =
    &["if.rx_packets", "if.tx_packets", "if.rx_bytes", "if.tx_bytes", "if.rx_dropped", "if.tx_dropped"];
const HOST_LINK: &[&str] = &[
    "host.if.rx_packets",
    "host.if.tx_packets",
    "host.if.rx_bytes",
    "host.if.tx_bytes",
    "host.if.rx_dropped",
    "host.if.tx_dropped",
];
const QDISC: &[&str] = &[
    "if.qdisc.packets",
    "if.qdisc.bytes",
    "if.qdisc.drops",
    "if.qdisc.requeues",
    "if.qdisc.overlimits",
    "if.qdisc.backlog",
];
const HOST_QDISC: &[&str] = &[
    "host.if.qdisc.packets",
    "host.if.qdisc.bytes",
    "host.if.qdisc.drops",
    "host.if.qdisc.overlimits",
    "host.if.qdisc.backlog",
];
const SOCKETS: &[&str] = &[
    "tcpinfo.sockets",
    "tcpinfo.rtt",
    "tcpinfo.rtt_max",
    "tcpinfo.rttvar",
    "tcpinfo.cwnd",
    "tcpinfo.unacked",
    "tcpinfo.delivery_rate",
    "tcpinfo.sockets_seen",
    "tcpinfo.retrans_seen",
];
const PERF: &[&str] = &[
    "perf.cycles",
    "perf.instructions",
    "perf.cache_references",
    "perf.cache_misses",
    "perf.branches",
    "perf.branch_misses",
];

/// The lists.
pub(super) const LISTS: &[Listed] = &[
    kernel("stat", CPU, CPU_SERIES),
    kernel(
        "softirqs",
        &["softirq.NET_RX", "softirq.NET_TX", "softirq.TIMER", "softirq.SCHED"],
        &["softirq.NET_RX", "softirq.NET_TX"],
    ),
    kernel("softnet", SOFTNET, &["softnet.processed", "softnet.dropped", "softnet.time_squeeze"]),
    kernel("vmstat", &["vm.pgfault", "vm.pgmajfault", "vm.pswpin", "vm.pswpout"], &[]),
    kernel("meminfo", &["mem.MemAvailable", "mem.MemFree", "mem.Cached"], &["mem.MemAvailable"]),
    optional(kernel("entropy", &["entropy"], &[])),
    optional(kernel("frequency", &["cpu.frequency"], &["cpu.frequency"])),
    optional(kernel("throttling", &["throttle.core", "throttle.package"], &[])),
    optional(kernel("cgroup", &["cgroup.cpu", "cgroup.throttled_periods"], &[])),
    optional(kernel("kvm", &["kvm.exits"], &["kvm.exits"])),
    optional(kernel("perf", PERF, &["perf.cycles", "perf.instructions"])),
    optional(kernel("perf_software", &["perf.page_faults", "perf.cpu_migrations"], &[])),
    network(Owner::Protocols, "snmp", SNMP, &["TcpInSegs", "TcpOutSegs", "TcpRetransSegs"]),
    network(Owner::Protocols, "netstat", NETSTAT, &[]),
    network(Owner::Link, "links", LINK, LINK_SERIES),
    network(Owner::Link, "qdisc", QDISC, &["if.qdisc.drops", "if.qdisc.backlog"]),
    network(Owner::HostEnd, "host_links", HOST_LINK, &[]),
    network(Owner::HostEnd, "host_qdisc", HOST_QDISC, &["host.if.qdisc.drops", "host.if.qdisc.backlog"]),
    optional(network(
        Owner::Sockets,
        "sockets",
        SOCKETS,
        &["tcpinfo.sockets", "tcpinfo.rtt", "tcpinfo.cwnd", "tcpinfo.unacked", "tcpinfo.retrans_seen"],
    )),
];

/// Sources that a machine may lack without anything being wrong, besides those of the lists that are optional.
const OTHERS: [&str; 3] = ["interrupts", "snmp6", "ethtool"];

/// May the source be missing?
pub(super) fn may_lack(source: &str) -> bool {
    OTHERS.contains(&source) || LISTS.iter().any(|listed| listed.source == source && listed.optional)
}

/// Is it the name of a source that a node with its own kernel has?
pub(super) fn is_source(name: &str) -> bool {
    let listed = LISTS.iter().any(|listed| listed.source == name && listed.owner != Owner::HostEnd);
    listed || OTHERS.contains(&name)
}

/// Before the names of interfaces between the nodes that are no node's link.
pub(super) const SWITCH: &str = "switch.if.";

/// What a counter of this name describes, whether or not a kernel has it.
pub(super) fn level_of(name: &str) -> Level {
    let network = ["if.", "host.if.", SWITCH, "tcpinfo."].iter().any(|start| name.starts_with(start));
    if network || name.starts_with(|first: char| first.is_ascii_uppercase()) { Level::Network } else { Level::Os }
}

/// Does a place with these owners have a counter of this name?
pub(super) fn has(owners: &[Owner], name: &str) -> bool {
    let owner = match level_of(name) {
        _ if name.starts_with("host.if.") => Owner::HostEnd,
        _ if name.starts_with(SWITCH) => return false,
        Level::Os => Owner::Kernel,
        _ => Owner::Protocols,
    };
    owners.contains(&owner)
}

/// Is the source read at every sample?
pub(super) fn in_series(source: &str) -> bool {
    LISTS.iter().any(|listed| listed.source == source && !listed.series.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_there_once_and_series_are_metrics() {
        let mut seen = HashSet::new();
        for listed in LISTS {
            assert!(listed.names.iter().all(|name| seen.insert(*name)), "{}", listed.source);
            assert!(listed.names.iter().all(|name| level_of(name) == listed.level), "{}", listed.source);
            assert!(listed.series.iter().all(|name| listed.names.contains(name)), "{}", listed.source);
        }
    }
}
