//! Captures: whole, not empty, and in agreement with each other.

use std::collections::BTreeMap;

use super::{Verdict, percent};
use crate::ids::{NodeId, Vantage};
use crate::record::{Capture, Setting};
use crate::testbed::TUNNEL_INTERFACE;
use crate::units::Percent;

/// Two vantages may differ by this many packets whatever the threshold: those under way when the captures began and
/// ended.
const SLACK: u64 = 2;

/// What is known about the traffic that the captures should have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// The workload moved data and nothing was filtered out.
    Expected,
    /// There was a capture filter, which may have left nothing.
    Filtered,
    /// The workload moved nothing, or nobody knows.
    Unknown,
}

/// Did every capture run and lose nothing? `expected` is the number of capture points.
///
/// Fewer captures than points, or one that saw nothing of the traffic: invalid. Drops, or counters that could not be
/// read: suspect.
pub fn captures(captures: &[Capture], expected: usize, traffic: Traffic) -> Verdict {
    let mut verdict = Verdict::new();
    if captures.len() < expected {
        verdict.invalid(format!("{} of {expected} captures brought nothing home", expected - captures.len()));
    }
    for capture in captures {
        let place = place(capture);
        drops(capture, &place, &mut verdict);
        match (capture.packets, traffic) {
            (0, Traffic::Expected) => verdict.invalid(format!("capture of {place} saw no packet of the workload")),
            (0, _) => verdict.unknown(format!("capture of {place} saw no packet")),
            (packets, _) => verdict.passed(format!("capture of {place}: {packets} packets, {} bytes", capture.bytes)),
        }
    }
    verdict
}

fn drops(capture: &Capture, place: &str, verdict: &mut Verdict) {
    let seen = capture.packets;
    for (by, count) in [("kernel", capture.dropped_kernel), ("interface", capture.dropped_interface)] {
        match count {
            Some(0) => {}
            Some(count) => {
                verdict.suspect(format!("capture of {place}: the {by} dropped {count} packets, {seen} were seen"))
            }
            None => verdict.suspect(format!("capture of {place}: the {by}'s drops could not be read")),
        }
    }
}

/// `client1 (guest, eth0)`
fn place(capture: &Capture) -> String {
    format!("{} ({}, {})", capture.node, capture.vantage, capture.interface)
}

/// Do the `guest` and `host` captures of each node agree? Suspect when their packets differ by more than `threshold`
/// of the larger count and by more than two packets, or when as many packets have other sizes.
///
/// Nothing can be said where one of them dropped packets, and where generic receive offload is on: it merges packets
/// before the receiving side's capture sees them. `settings` says where it is. A capture inside a tunnel sees other
/// packets than the host, too.
pub fn vantages(captures: &[Capture], settings: &[Setting], threshold: Option<Percent>) -> Verdict {
    let mut verdict = Verdict::new();
    let Some(threshold) = threshold else {
        verdict.off("vantage difference");
        return verdict;
    };
    for (node, [guest, host]) in by_node(captures) {
        if guest.points == 0 || host.points == 0 {
            continue;
        }
        let what = format!("vantages of {node}");
        if guest.points != host.points {
            verdict.unknown(format!("{what}: not compared, {} guest and {} host captures", guest.points, host.points));
        } else if guest.lossy || host.lossy {
            verdict.unknown(format!("{what}: not compared, packets were dropped or the drops are not known"));
        } else if guest.tunnelled != host.tunnelled {
            verdict.passed(format!("{what}: not compared, one of them is inside a tunnel"));
        } else if let Some(setting) = receive_offload(settings, node) {
            verdict.passed(format!("{what}: not compared, {setting} is on and merges packets between them"));
        } else {
            compare(&what, &guest, &host, threshold, &mut verdict);
        }
    }
    verdict
}

/// The captures of one node at one vantage.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    points: usize,
    packets: u64,
    bytes: u64,
    lossy: bool,
    tunnelled: bool,
}

/// Guest and host captures of each node.
fn by_node(captures: &[Capture]) -> BTreeMap<NodeId, [Sum; 2]> {
    let mut nodes: BTreeMap<NodeId, [Sum; 2]> = BTreeMap::new();
    for capture in captures {
        let index = match capture.vantage {
            Vantage::Guest => 0,
            Vantage::Host => 1,
            Vantage::Endpoint | Vantage::Switch => continue,
        };
        let sum = &mut nodes.entry(capture.node).or_default()[index];
        sum.points += 1;
        sum.packets += capture.packets;
        sum.bytes += capture.bytes;
        sum.lossy |= capture.dropped_kernel != Some(0);
        sum.tunnelled |= capture.interface == TUNNEL_INTERFACE;
    }
    nodes
}

/// `gro` or `host.gro`, if it was seen to be on.
fn receive_offload(settings: &[Setting], node: NodeId) -> Option<&str> {
    let of_node = settings.iter().filter(|setting| setting.node == Some(node));
    of_node
        .filter(|setting| setting.observed.as_deref() == Some("on"))
        .map(|setting| setting.name.as_str())
        .find(|name| name.rsplit('.').next() == Some("gro"))
}

fn compare(what: &str, guest: &Sum, host: &Sum, threshold: Percent, verdict: &mut Verdict) {
    let counts = format!("{} packets ({} bytes) in the guest", guest.packets, guest.bytes);
    let counts = format!("{counts}, {} ({} bytes) on the host", host.packets, host.bytes);
    let packets = difference(guest.packets, host.packets);
    let bytes = difference(guest.bytes, host.bytes);
    if guest.packets.abs_diff(host.packets) > SLACK && packets > threshold.fraction() {
        let text = format!("{what} differ by {} of the packets (threshold {threshold}): {counts}", percent(packets));
        verdict.suspect(text);
    } else if guest.packets == host.packets && bytes > threshold.fraction() {
        let text = format!("{what} differ by {} of the bytes (threshold {threshold}): {counts}", percent(bytes));
        verdict.suspect(text);
    } else {
        verdict.passed(format!("{what} agree: {counts}"));
    }
}

/// As a share of the larger one.
fn difference(a: u64, b: u64) -> f64 {
    let larger = a.max(b);
    if larger == 0 { 0.0 } else { a.abs_diff(b) as f64 / larger as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{EventLevel, Moment};

    fn capture(vantage: Vantage, packets: u64, bytes: u64) -> Capture {
        Capture {
            node: NodeId::client(1),
            vantage,
            interface: "eth0".to_owned(),
            snaplen: 96,
            packets,
            bytes,
            dropped_kernel: Some(0),
            dropped_interface: Some(0),
            ring_bytes: 1,
            sizes: Vec::new(),
            file: None,
            tcp: None,
        }
    }

    fn check(all: &[Capture], traffic: Traffic, invalid: &[&str], suspect: &[&str]) {
        let verdict = captures(all, 1, traffic);
        assert_eq!(verdict.invalid, invalid);
        assert_eq!(verdict.suspect, suspect);
        assert!(!verdict.events.is_empty());
    }

    #[test]
    fn every_capture_saw_something_and_lost_nothing() {
        let good = capture(Vantage::Guest, 10, 1000);
        let none = capture(Vantage::Guest, 0, 0);
        check(&[], Traffic::Unknown, &["1 of 1 captures brought nothing home"], &[]);
        check(std::slice::from_ref(&good), Traffic::Expected, &[], &[]);
        let blind = "capture of client1 (guest, eth0) saw no packet of the workload";
        check(std::slice::from_ref(&none), Traffic::Expected, &[blind], &[]);
        check(std::slice::from_ref(&none), Traffic::Filtered, &[], &[]);
        check(&[none], Traffic::Unknown, &[], &[]);
        let kernel = "capture of client1 (guest, eth0): the kernel dropped 3 packets, 10 were seen";
        check(&[Capture { dropped_kernel: Some(3), ..good.clone() }], Traffic::Expected, &[], &[kernel]);
        let interface = "capture of client1 (guest, eth0): the interface dropped 1 packets, 10 were seen";
        check(&[Capture { dropped_interface: Some(1), ..good.clone() }], Traffic::Expected, &[], &[interface]);
        let unread = "capture of client1 (guest, eth0): the kernel's drops could not be read";
        check(&[Capture { dropped_kernel: None, ..good }], Traffic::Expected, &[], &[unread]);
    }

    fn pair(guest: (u64, u64), host: (u64, u64)) -> [Capture; 2] {
        [capture(Vantage::Guest, guest.0, guest.1), capture(Vantage::Host, host.0, host.1)]
    }

    fn differ(captures: &[Capture], settings: &[Setting]) -> (bool, EventLevel) {
        let verdict = vantages(captures, settings, Some(Percent::new(0.1)));
        assert!(verdict.invalid.is_empty() && verdict.events.len() == 1, "{verdict:?}");
        (!verdict.suspect.is_empty(), verdict.events[0].level)
    }

    #[test]
    fn vantages_agree_within_the_threshold() {
        let (fine, off) = ((false, EventLevel::Info), (true, EventLevel::Warn));
        let cases = [
            ((10_000, 1_000_000), (10_000, 1_000_000), fine),
            ((10_000, 1_000_000), (9_990, 999_000), fine),
            ((10_000, 1_000_000), (9_989, 998_900), off),
            ((9_989, 998_900), (10_000, 1_000_000), off),
            ((10, 1000), (8, 800), fine),
            ((10, 1000), (7, 700), off),
            ((0, 0), (0, 0), fine),
            ((0, 0), (100, 1000), off),
            ((10_000, 1_000_000), (10_000, 999_000), fine),
            ((10_000, 1_000_000), (10_000, 998_999), off),
        ];
        for (guest, host, expected) in cases {
            assert_eq!(differ(&pair(guest, host), &[]), expected, "{guest:?} {host:?}");
        }
    }

    #[test]
    fn vantages_that_cannot_be_compared_are_not() {
        let [guest, host] = pair((100, 1000), (200, 2000));
        let lossy = Capture { dropped_kernel: Some(1), ..host.clone() };
        assert_eq!(differ(&[guest.clone(), lossy], &[]), (false, EventLevel::Warn));
        let unknown = Capture { dropped_kernel: None, ..host.clone() };
        assert_eq!(differ(&[guest.clone(), unknown], &[]), (false, EventLevel::Warn));
        assert_eq!(differ(&[guest.clone(), host.clone(), host.clone()], &[]), (false, EventLevel::Warn));
        let gro = |name: &str, observed: &str| Setting {
            node: Some(NodeId::client(1)),
            name: name.to_owned(),
            requested: None,
            observed: Some(observed.to_owned()),
            ok: None,
            when: Moment::Before,
        };
        let both = [guest.clone(), host];
        assert_eq!(differ(&both, &[gro("host.gro", "on")]), (false, EventLevel::Info));
        assert_eq!(differ(&both, &[gro("gro", "off"), gro("tso", "on")]), (true, EventLevel::Warn));
        let inside = Capture { interface: TUNNEL_INTERFACE.to_owned(), ..guest.clone() };
        assert_eq!(differ(&[inside, both[1].clone()], &[]), (false, EventLevel::Info));
        assert_eq!(vantages(&[guest], &[], Some(Percent::new(0.1))), Verdict::new());
        let off = vantages(&both, &[], None);
        assert!(off.suspect.is_empty() && off.events[0].text.contains("switched off"));
    }
}
