//! Packages of Debian and Ubuntu, without root.

/// Programs that experiments use, and the package that each comes from.
const PROGRAMS: [(&str, &str); 16] = [
    ("ab", "apache2-utils"),
    ("busybox", "busybox-static"),
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("hping3", "hping3"),
    ("ip", "iproute2"),
    ("iperf", "iperf"),
    ("iperf3", "iperf3"),
    ("netperf", "netperf"),
    ("nginx", "nginx"),
    ("ping", "iputils-ping"),
    ("stress-ng", "stress-ng"),
    ("tc", "iproute2"),
    ("tcpdump", "tcpdump"),
    ("wget", "wget"),
    ("wrk", "wrk"),
];

/// The package that a program comes from; `None` for one not known here.
pub(super) fn package_of(program: &str) -> Option<&'static str> {
    PROGRAMS.iter().find(|(name, _)| *name == program).map(|(_, package)| *package)
}
