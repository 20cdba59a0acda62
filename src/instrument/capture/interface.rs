//! What the interface itself says about lost packets.

use std::fs;
use std::io;

use crate::testbed::{CapturePoint, CaptureSource};

/// Runs `work` where the capture point is: inside its namespace if it has one.
pub(super) fn inside<T: Send>(point: &CapturePoint, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    match &point.source {
        CaptureSource::Live { namespace: Some(namespace) } => namespace.run(work),
        CaptureSource::Live { namespace: None }
        | CaptureSource::Synthetic { .. }
        | CaptureSource::Agent(_)
        | CaptureSource::Recorded(_) => work(),
    }
}

/// Packets the interface has received and dropped since it exists; `None` when that cannot be read.
///
/// libpcap's own counter is not used: it reads sysfs, which shows the interfaces of the namespace sysfs was mounted in,
/// so that a namespace's `eth0` would get the numbers of the host's. Must run inside the point's namespace.
pub(super) fn receive_drops(interface: &str) -> Option<u64> {
    parse_receive_drops(&fs::read_to_string("/proc/thread-self/net/dev").ok()?, interface)
}

/// Column `drop` of the receive half: `rx_dropped` + `rx_missed_errors`.
/// Source: Linux `net/core/net-procfs.c`, `dev_seq_printf_stats`.
fn parse_receive_drops(table: &str, interface: &str) -> Option<u64> {
    let row = table.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    row.split_ascii_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 8724634   18452    0    0    0     0          0         0  8724634   18452    0    0    0     0       0          0
  eth0: 1000 20    1    17    0     0          0         0  8724634   18452    0    5    0     0       0          0
 eth01:1000 20    1    3    0     0          0         0  8724634   18452    0    5    0     0       0          0
";

    #[test]
    fn drops_of_the_named_interface_are_found() {
        let cases = [("lo", Some(0)), ("eth0", Some(17)), ("eth01", Some(3)), ("eth", None), ("eth1", None)];
        for (name, expected) in cases {
            assert_eq!(parse_receive_drops(TABLE, name), expected, "{name}");
        }
        assert_eq!(parse_receive_drops("eth0: 1 2", "eth0"), None);
    }
}
