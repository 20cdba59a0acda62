//! Under which conditions an iteration's value of a metric came about, as far as that decides what it may be compared
//! with.

use crate::ids::{Level, NodeId, Vantage};
use crate::record::{Capture, Metric, Moment, Setting};

/// Metrics of the `network` level that say how data was cut into packets, which depends on where packets are looked at:
/// above a segmentation offload they are larger and fewer.
const PACKETIZATION: [&str; 8] = [
    "packets",
    "bytes",
    "sent_packets",
    "rexmt_packets",
    "segment_size",
    "payload_per_packet",
    "super_segments",
    "super_segment_share",
];
/// Offloads that change the packets that a capture sees.
const OFFLOADS: [&str; 3] = ["tso", "gso", "gro"];

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Conditions {
    /// Where packets were looked at, and the offloads in force there: `guest, tso on, gso on, gro on`. `None` for a
    /// metric that does not depend on it.
    pub seen: Option<String>,
    /// How many iterations ran on the host at a time; `None` where each ran alone.
    pub jobs: Option<u32>,
    /// What ran the guests' code: `kvm` or `tcg`; `None` without virtual machines.
    pub accel: Option<String>,
    /// The guests' image; `None` without one.
    pub image: Option<String>,
}

/// Does the metric say how data was cut into packets?
pub(super) fn depends_on_place(metric: &Metric) -> bool {
    let name = metric.name.rsplit_once('.').map_or(metric.name.as_str(), |(_, name)| name);
    metric.level == Level::Network && metric.node.is_some() && PACKETIZATION.contains(&name)
}

/// Can a metric that is asked for by this name be one of those?
pub(super) fn may_depend_on_place(asked: &str) -> bool {
    let asked = asked.rsplit_once('@').map_or(asked, |(name, _)| name);
    PACKETIZATION.iter().any(|name| asked.ends_with(name))
}

/// Is a setting of that name one of the offloads that [`seen`] tells?
pub(super) fn is_offload(name: &[u8]) -> bool {
    let name = name.strip_prefix(b"host.").unwrap_or(name);
    OFFLOADS.iter().any(|offload| offload.as_bytes() == name)
}

/// Of `host.2.packets` the side, `host`, and which of the node's interfaces there, from 1.
fn side_of(name: &str) -> (&str, usize) {
    let side = name.rsplit_once('.').map_or("", |(side, _)| side);
    let (before, last) = side.rsplit_once('.').unwrap_or(("", side));
    match last.parse() {
        Ok(nth) => (before, nth),
        Err(_) => (side, 1),
    }
}

/// Where packets were looked at for a metric, and the offloads there; `None` for one that does not depend on it.
pub(super) fn seen(captures: &[Capture], settings: &[Setting], row: &Metric) -> Option<String> {
    let node = row.node.filter(|_| depends_on_place(row))?;
    let (side, nth) = side_of(&row.name);
    let is_side = |vantage: Vantage| match side {
        "" => matches!(vantage, Vantage::Guest | Vantage::Endpoint),
        "host" => vantage == Vantage::Host,
        "switch" => vantage == Vantage::Switch,
        _ => false,
    };
    let mut there = captures.iter().filter(|capture| capture.node == node && is_side(capture.vantage));
    let capture = there.nth(nth.checked_sub(1)?)?;
    // Guest and endpoint are the same place: the end host itself.
    let place = match capture.vantage {
        Vantage::Guest | Vantage::Endpoint => "the nodes' own interface",
        Vantage::Host => "the host side",
        Vantage::Switch => "the switch",
    };
    let prefix = if capture.vantage == Vantage::Host { "host." } else { "" };
    let states = OFFLOADS.map(|offload| {
        let state = observed(settings, node, &format!("{prefix}{offload}")).unwrap_or("unknown");
        format!(", {offload} {state}")
    });
    let tunnel = if prefix.is_empty() && capture.interface.starts_with("tun") { " in the tunnel" } else { "" };
    Some(format!("{place}{tunnel}{}", states.concat()))
}

fn observed<'a>(settings: &'a [Setting], node: NodeId, name: &str) -> Option<&'a str> {
    let of_node = |s: &&Setting| s.when == Moment::Before && s.node == Some(node) && s.name == name;
    settings.iter().find(of_node)?.observed.as_deref()
}

#[cfg(test)]
mod tests {
    use super::side_of;

    #[test]
    fn a_name_tells_the_side_and_which_of_several() {
        for (name, expected) in [
            ("packets", ("", 1)),
            ("2.packets", ("", 2)),
            ("host.packets", ("host", 1)),
            ("host.2.packets", ("host", 2)),
            ("switch.3.packets", ("switch", 3)),
            ("host.x.packets", ("host.x", 1)),
        ] {
            assert_eq!(side_of(name), expected, "{name}");
        }
    }
}
