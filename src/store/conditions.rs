//! Under which conditions an iteration's value of a metric came about, as far as that decides what it may be compared
//! with.

use std::collections::BTreeSet;

use crate::ids::{Level, NodeId, Vantage};
use crate::record::{IterationRecord, Metric, Moment, Setting};

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
    /// What ran the guests' code: `kvm` or `tcg`; `None` without virtual machines.
    pub accel: Option<String>,
    /// The guests' image; `None` without one.
    pub image: Option<String>,
}

impl Conditions {
    /// Those of one iteration, for these rows of a metric.
    pub(super) fn of(record: &IterationRecord, rows: &[&Metric]) -> Self {
        let fact = |name: &str| record.environment.iter().find(|fact| fact.name == name).map(|fact| fact.value.clone());
        let seen: BTreeSet<String> = rows.iter().filter_map(|row| seen(record, row)).collect();
        Self {
            seen: (!seen.is_empty()).then(|| seen.into_iter().collect::<Vec<_>>().join("; ")),
            accel: fact("testbed.qemu.accel"),
            image: fact("image.id").or_else(|| fact("image.disk")),
        }
    }
}

/// `None` for a metric that does not depend on it.
fn seen(record: &IterationRecord, row: &Metric) -> Option<String> {
    let node = row.node.filter(|_| row.level == Level::Network)?;
    let (side, name) = row.name.rsplit_once('.').unwrap_or(("", &row.name));
    if !PACKETIZATION.contains(&name) {
        return None;
    }
    let is_side = |vantage: Vantage| match side {
        "" => matches!(vantage, Vantage::Guest | Vantage::Endpoint),
        "switch" => vantage == Vantage::Switch,
        _ => vantage == Vantage::Host,
    };
    let capture = record.captures.iter().find(|capture| capture.node == node && is_side(capture.vantage))?;
    // Guest and endpoint are the same place: the end host itself.
    let place = match capture.vantage {
        Vantage::Guest | Vantage::Endpoint => "the nodes' own interface",
        Vantage::Host => "the host side",
        Vantage::Switch => "the switch",
    };
    let prefix = if capture.vantage == Vantage::Host { "host." } else { "" };
    let states = OFFLOADS.map(|offload| {
        let state = observed(&record.settings, node, &format!("{prefix}{offload}")).unwrap_or("unknown");
        format!(", {offload} {state}")
    });
    let tunnel = if prefix.is_empty() && capture.interface.starts_with("tun") { " in the tunnel" } else { "" };
    Some(format!("{place}{tunnel}{}", states.concat()))
}

fn observed<'a>(settings: &'a [Setting], node: NodeId, name: &str) -> Option<&'a str> {
    let of_node = |s: &&Setting| s.when == Moment::Before && s.node == Some(node) && s.name == name;
    settings.iter().find(of_node)?.observed.as_deref()
}
