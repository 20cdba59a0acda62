//! Reading back what is in force, from the kernel and nowhere else.

use std::collections::BTreeMap;
use std::io;

use super::build::{Network, Stack};
use super::topology::{Access, HostPort, LinkRate, NodePlan, NodePort, Topology};
use crate::host::ethtool::{self, Offload};
use crate::host::link::{self, Interface};
use crate::host::qdisc::{self, RootQdisc};
use crate::ids::NodeId;
use crate::record::Setting;
use crate::testbed::TestbedError;
use crate::units::Rate;

/// What is asked of every interface alike.
pub(in crate::testbed) struct Wanted {
    pub(in crate::testbed) offload: Option<String>,
    pub(in crate::testbed) mtu: Option<String>,
    pub(in crate::testbed) rate: Option<String>,
}

impl Wanted {
    pub(in crate::testbed) fn of(topology: &Topology) -> Self {
        Self {
            offload: topology.offload.map(|on| switch(on).to_owned()),
            mtu: topology.mtu.map(|mtu| mtu.to_string()),
            rate: match topology.rate {
                LinkRate::Unnamed => None,
                LinkRate::Unlimited => Some("none".to_owned()),
                LinkRate::Limit(rate) => Some(rate.to_string()),
            },
        }
    }
}

/// Reads every setting of every interface.
pub(in crate::testbed) fn read(network: &Network, topology: &Topology) -> Result<Vec<Setting>, TestbedError> {
    let wanted = Wanted::of(topology);
    let host = Listed::of(&network.host)?;
    let roots = roots(&network.host)?;
    let mut settings = Vec::new();
    let of_host_port = |plan: &NodePlan, port: &NodePort, wanted: &Wanted| {
        let Some(its_host) = &port.host else { return Vec::new() };
        let mut settings = of_host_port(wanted, &host, &roots, plan, port);
        settings.extend(of_bridge(wanted, plan, its_host, &host));
        settings
    };
    for (plan, stack) in network.nodes.values() {
        let node = Listed::of(stack)?;
        for port in &plan.ports {
            settings.extend(of_interface(&wanted, &node, plan, port.index, port.name, &prefix(port, "")));
            settings.extend(of_host_port(plan, port, &wanted));
        }
    }
    for plan in &network.guests {
        for port in &plan.ports {
            settings.extend(of_host_port(plan, port, &wanted).into_iter().map(|setting| of_tap(topology, setting)));
        }
    }
    Ok(settings)
}

/// Reads every setting of the host's ends of guests whose switch is not vptest's.
pub(in crate::testbed) fn read_taps(
    host: &Stack,
    guests: &[NodePlan],
    topology: &Topology,
) -> Result<Vec<Setting>, TestbedError> {
    let (wanted, listed, roots) = (Wanted::of(topology), Listed::of(host)?, roots(host)?);
    let ports = guests.iter().flat_map(|plan| plan.ports.iter().map(move |port| (plan, port)));
    let settings = ports.flat_map(|(plan, port)| of_host_port(&wanted, &listed, &roots, plan, port));
    Ok(settings.map(|setting| of_tap(topology, setting)).collect())
}

fn roots(stack: &Stack) -> Result<BTreeMap<u32, RootQdisc>, TestbedError> {
    Ok(qdisc::read_roots(&mut stack.netlink())?.into_iter().map(|root| (root.index, root)).collect())
}

fn of_host_port(
    wanted: &Wanted,
    host: &Listed<'_>,
    roots: &BTreeMap<u32, RootQdisc>,
    plan: &NodePlan,
    port: &NodePort,
) -> Vec<Setting> {
    let Some(its_host) = &port.host else { return Vec::new() };
    let prefix = prefix(port, "host.");
    let mut settings = of_interface(wanted, host, plan, its_host.index, &its_host.name, &prefix);
    settings.extend(of_queue(wanted, plan, its_host, roots, &prefix));
    settings
}

/// Larger packets cannot be switched on towards a network card that takes none: what is in force is only noted.
pub(in crate::testbed) fn of_tap(topology: &Topology, setting: Setting) -> Setting {
    if setting.name == "host.tso" && topology.offload == Some(true) && topology.access == (Access::Tap { tso: false }) {
        Setting::compare(setting.node, &setting.name, None, setting.observed)
    } else {
        setting
    }
}

/// The interfaces of one namespace, with the way to ask further.
struct Listed<'a> {
    stack: &'a Stack,
    interfaces: BTreeMap<u32, Interface>,
}

impl<'a> Listed<'a> {
    fn of(stack: &'a Stack) -> Result<Self, TestbedError> {
        let listed = link::read_interfaces(&mut stack.netlink())?;
        Ok(Self { stack, interfaces: listed.into_iter().map(|interface| (interface.index, interface)).collect() })
    }
}

/// `eth0` is what the workload uses and goes without a name; a router's `eth1` needs one.
fn prefix(port: &NodePort, side: &str) -> String {
    if port.name == "eth0" { side.to_owned() } else { format!("{side}{}.", port.name) }
}

fn of_interface(
    wanted: &Wanted,
    listed: &Listed<'_>,
    plan: &NodePlan,
    index: u32,
    name: &str,
    prefix: &str,
) -> Vec<Setting> {
    let node = Some(plan.id);
    let netlink = listed.stack.netlink();
    let interface = listed.interfaces.get(&index).filter(|interface| interface.name == name);
    let named = |setting: &str| format!("{prefix}{setting}");
    let offloads = readable(plan.id, name, ethtool::offloads(&netlink, name));
    let mut settings: Vec<Setting> = Offload::ALL
        .into_iter()
        .map(|offload| {
            let observed = offloads.map(|offloads| switch(offloads.is_on(offload)).to_owned());
            Setting::compare(node, &named(offload.as_str()), wanted.offload.clone(), observed)
        })
        .collect();
    let mtu = interface.and_then(|interface| interface.mtu).map(|mtu| mtu.to_string());
    settings.push(Setting::compare(node, &named("mtu"), wanted.mtu.clone(), mtu));
    let driver = readable(plan.id, name, ethtool::driver(&netlink, name));
    settings.push(Setting::compare(node, &named("link_driver"), None, driver));
    let state = interface.and_then(Interface::state_text);
    settings.push(Setting::compare(node, &named("operstate"), None, state));
    settings
}

/// Only the ports towards client and server carry the limit.
fn of_queue(
    wanted: &Wanted,
    plan: &NodePlan,
    port: &HostPort,
    roots: &BTreeMap<u32, RootQdisc>,
    prefix: &str,
) -> Option<Setting> {
    if !port.shaped {
        return None;
    }
    let observed = roots.get(&port.index).and_then(rate_of);
    Some(Setting::compare(Some(plan.id), &format!("{prefix}rate"), wanted.rate.clone(), observed))
}

/// `None` for a rate that cannot be expressed.
fn rate_of(root: &RootQdisc) -> Option<String> {
    match root.rate {
        Some(bytes) => Some(Rate::from_bits_per_second(bytes.checked_mul(8)?)?.to_string()),
        None if root.is_unlimited() => Some("none".to_owned()),
        None => Some(root.kind.clone()),
    }
}

/// A bridge with a smaller MTU than its ports drops what is larger. It is read with the end node it serves.
fn of_bridge(wanted: &Wanted, plan: &NodePlan, port: &HostPort, host: &Listed<'_>) -> Option<Setting> {
    if !port.shaped {
        return None;
    }
    let mtu = host.interfaces.get(&port.bridge.index).and_then(|bridge| bridge.mtu).map(|mtu| mtu.to_string());
    Some(Setting::compare(Some(plan.id), "bridge.mtu", wanted.mtu.clone(), mtu))
}

/// What cannot be read is stored as missing, and the reason logged.
fn readable<T>(node: NodeId, interface: &str, read: io::Result<T>) -> Option<T> {
    read.inspect_err(|error| tracing::warn!("{node}: cannot read a setting of {interface}: {error}")).ok()
}

const fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
