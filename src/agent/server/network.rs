//! The node's network: setting it up, reading it back, walking a path.

use std::io;
use std::net::IpAddr;
use std::process::Command;

use super::super::message::{Failure, FailureKind, InterfaceSetup, NetworkSetup, Outcome, Reading, TunnelSetup, Way};
use super::super::modules::Modules;
use crate::host::ethtool::{self, Offload};
use crate::host::link::{self, LOOPBACK};
use crate::host::netlink::{Netlink, NetlinkError};
use crate::host::qdisc::{self, RootQdisc};
use crate::host::setup;
use crate::units::Rate;

/// Sets the network of this process's namespace up.
pub(super) fn configure(setup: &NetworkSetup) -> Result<Outcome, Failure> {
    setup.modules.iter().try_for_each(|module| load(module))?;
    let mut netlink = Netlink::open().map_err(|error| Failure::io("talk to the kernel", &error))?;
    netlink.apply(&[link::up("lo", LOOPBACK)]).map_err(refused)?;
    for interface in &setup.interfaces {
        self::interface(&mut netlink, interface)?;
    }
    if let Some(tunnel) = &setup.tunnel {
        self::tunnel(&mut netlink, tunnel)?;
    }
    let routes: Vec<_> = setup.routes.iter().map(|route| setup::route(route.to, route.via)).collect();
    netlink.apply(&routes).map_err(refused)?;
    for (name, value) in &setup.sysctls {
        sysctl(name, value)?;
    }
    Ok(Outcome::Done)
}

fn interface(netlink: &mut Netlink, wanted: &InterfaceSetup) -> Result<(), Failure> {
    let what = || format!("find interface {}", wanted.mac.as_ref().unwrap_or(&wanted.name));
    let listed = setup::interfaces(netlink).map_err(refused)?;
    let mac = match &wanted.mac {
        None => None,
        Some(text) => Some(setup::parse_mac(text).ok_or_else(|| {
            Failure::new(FailureKind::Invalid, what(), format!("`{text}` is no MAC address (52:54:00:00:01:01)"))
        })?),
    };
    let is_it = |found: &&setup::Found| match mac {
        Some(mac) => found.mac == Some(mac) && found.index != LOOPBACK,
        None => found.name == wanted.name,
    };
    let found = listed.iter().find(is_it).ok_or_else(|| {
        let there: Vec<_> = listed.iter().map(setup::Found::to_string).collect();
        Failure::new(FailureKind::NotFound, what(), format!("there are {}", there.join(", ")))
    })?;
    let (name, index) = (wanted.name.as_str(), found.index);
    if found.name != wanted.name {
        if let Some(other) = listed.iter().find(|other| other.name == wanted.name) {
            make_way(netlink, other)?;
        }
        netlink.apply(&[setup::down(&found.name, index), setup::rename(index, &found.name, name)]).map_err(refused)?;
    }
    dress(netlink, name, index, wanted.mtu, wanted.offload, wanted.address)
}

/// Gives another name to an interface that has one which is needed. Its addresses stay.
fn make_way(netlink: &mut Netlink, other: &setup::Found) -> Result<(), Failure> {
    let (index, name) = (other.index, format!("other{}", other.index));
    let rename = setup::rename(index, &other.name, &name);
    netlink.apply(&[setup::down(&other.name, index), rename, link::up(&name, index)]).map_err(refused)
}

/// Everything an interface gets once it has its name; then it is switched on.
fn dress(
    netlink: &mut Netlink,
    name: &str,
    index: u32,
    mtu: Option<u32>,
    offload: Option<bool>,
    address: Option<(IpAddr, u8)>,
) -> Result<(), Failure> {
    if let Some(on) = offload {
        ethtool::set_offloads(netlink, name, &Offload::ALL, on)
            .map_err(|error| Failure::io(format!("switch the offloads of {name}"), &error))?;
    }
    let mut changes = Vec::new();
    changes.extend(mtu.map(|mtu| link::mtu(name, index, mtu)));
    changes.extend(address.map(|(address, prefix)| setup::address(name, index, address, prefix)));
    changes.push(link::up(name, index));
    netlink.apply(&changes).map_err(refused)?;
    // Makes the kernel take notice of a carrier that is there already.
    let _ = ethtool::link(netlink, name);
    Ok(())
}

fn tunnel(netlink: &mut Netlink, wanted: &TunnelSetup) -> Result<(), Failure> {
    let (IpAddr::V4(local), IpAddr::V4(remote)) = (wanted.local, wanted.remote) else {
        let text = "its ends have to be IPv4 addresses";
        return Err(Failure::new(FailureKind::Invalid, format!("make tunnel {}", wanted.name), text));
    };
    netlink.apply(&[setup::gre(&wanted.name, wanted.ethernet, local, remote)]).map_err(refused)?;
    let listed = setup::interfaces(netlink).map_err(refused)?;
    let made = listed.iter().find(|found| found.name == wanted.name);
    let index = made
        .map(|made| made.index)
        .ok_or_else(|| Failure::new(FailureKind::NotFound, format!("find tunnel {}", wanted.name), "it vanished"))?;
    dress(netlink, &wanted.name, index, wanted.mtu, wanted.offload, Some(wanted.address))
}

fn load(module: &str) -> Result<(), Failure> {
    let what = format!("load the kernel module {module}");
    let named = !module.is_empty() && module.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if !named || module.starts_with('-') {
        return Err(Failure::new(FailureKind::Invalid, what, "that is no module's name"));
    }
    // A guest whose image vptest made has its modules in a list of vptest's, and no modprobe.
    if let Ok(modules) = Modules::open() {
        return modules.load(module).map_err(|error| Failure::new(FailureKind::Other, what, error.to_string()));
    }
    let output = Command::new("modprobe").arg(module).output().map_err(|error| Failure::io(&what, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::new(FailureKind::Other, what, if text.is_empty() { output.status.to_string() } else { text }))
}

/// Names have no `..`, so that nothing but `/proc/sys` is written to.
fn sysctl(name: &str, value: &str) -> Result<(), Failure> {
    let what = format!("set {name} to {value}");
    if name.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(Failure::new(FailureKind::Invalid, what, "not a name as net/ipv4/ip_forward"));
    }
    std::fs::write(format!("/proc/sys/{name}"), value).map_err(|error| Failure::io(what, &error))
}

fn refused(error: NetlinkError) -> Failure {
    Failure::io(error.what, &error.source)
}

/// Reads an interface's settings; what cannot be read has no value.
pub(super) fn settings(name: &str) -> Result<Outcome, Failure> {
    let failed = |error: io::Error| Failure::io("talk to the kernel", &error);
    let mut netlink = Netlink::open().map_err(failed)?;
    let listed = link::read_interfaces(&mut netlink).map_err(refused)?;
    let interface = listed.iter().find(|interface| interface.name == name).ok_or_else(|| {
        let there: Vec<_> = listed.iter().map(|interface| interface.name.as_str()).collect();
        Failure::new(
            FailureKind::NotFound,
            format!("read the settings of {name}"),
            format!("there are {}", there.join(", ")),
        )
    })?;
    let offloads = ethtool::offloads(&netlink, name).ok();
    let mut readings = Vec::new();
    let mut add = |name: &str, value: Option<String>| readings.push(Reading { name: name.to_owned(), value });
    for offload in Offload::ALL {
        add(offload.as_str(), offloads.map(|offloads| switch(offloads.is_on(offload))));
    }
    add("mtu", interface.mtu.map(|mtu| mtu.to_string()));
    add("operstate", interface.state_text());
    add("link_driver", ethtool::driver(&netlink, name).ok());
    add("firmware", ethtool::firmware(&netlink, name).ok().flatten());
    add("rx_checksum", ethtool::rx_checksum(&netlink, name).ok().map(switch));
    add("tx_checksum", ethtool::tx_checksum(&netlink, name).ok().map(switch));
    add("speed", ethtool::speed(&netlink, name).ok().flatten().map(|speed| format!("{speed} Mbit/s")));
    add("queues", ethtool::queues(&netlink, name).ok().map(|queues| queues.to_string()));
    let root = qdisc::read_roots(&mut netlink).ok();
    let root = root.and_then(|roots| roots.into_iter().find(|root| root.index == interface.index));
    add("qdisc", root.as_ref().map(|root| root.kind.clone()));
    add("egress_rate", root.as_ref().and_then(egress_rate));
    let rings = ethtool::rings(&netlink, name).ok();
    add("ring_rx", rings.map(|rings| rings.0.to_string()));
    add("ring_tx", rings.map(|rings| rings.1.to_string()));
    Ok(Outcome::Readings(readings))
}

/// The limit of what leaves; `None` for one that cannot be told.
fn egress_rate(root: &RootQdisc) -> Option<String> {
    match root.rate {
        Some(bytes) => Some(Rate::from_bits_per_second(bytes.checked_mul(8)?)?.to_string()),
        None if root.is_unlimited() => Some("none".to_owned()),
        None => None,
    }
}

fn switch(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

/// The way to an address.
pub(super) fn route(to: IpAddr, from: Option<IpAddr>) -> Result<Outcome, Failure> {
    let mut netlink = Netlink::open().map_err(|error| Failure::io("talk to the kernel", &error))?;
    let route = crate::host::route::to(&mut netlink, to, from).map_err(refused)?;
    let listed = link::read_interfaces(&mut netlink).map_err(refused)?;
    let interface = listed.into_iter().find(|interface| interface.index == route.interface).ok_or_else(|| {
        Failure::new(FailureKind::NotFound, format!("find the route to {to}"), "its interface has just gone")
    })?;
    Ok(Outcome::Routed(Way { interface: interface.name, source: route.source, is_local: route.is_local }))
}

/// Does a packet of this many bytes get from this node to the target in one piece?
pub(super) fn arrives(target: IpAddr, bytes: u16) -> Result<Outcome, Failure> {
    let what = || format!("send {bytes} bytes to {target} in one piece");
    let IpAddr::V4(target) = target else {
        return Err(Failure::new(FailureKind::Invalid, what(), "only IPv4 paths can be tried"));
    };
    crate::testbed::arrives_whole(target, bytes).map(Outcome::Is).map_err(|error| Failure::io(what(), &error))
}

/// Walks a path from this node.
pub(super) fn walk(target: IpAddr, limit: u8) -> Result<Outcome, Failure> {
    let what = || format!("walk to {target}");
    let IpAddr::V4(target) = target else {
        return Err(Failure::new(FailureKind::Invalid, what(), "only IPv4 paths can be walked"));
    };
    let walked = crate::testbed::trace_from_here(target, usize::from(limit));
    let (passed, reached) = walked.map_err(|error| Failure::io(what(), &error))?;
    let passed = passed.into_iter().map(|address| address.map(IpAddr::V4)).collect();
    Ok(Outcome::Walked { passed, reached })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", "../x", "net//x", "/net", "net/./x"] {
            assert_eq!(sysctl(name, "1").unwrap_err().kind, FailureKind::Invalid, "{name}");
        }
        for module in ["", "-r", "a b", "../x"] {
            assert_eq!(load(module).unwrap_err().kind, FailureKind::Invalid, "{module}");
        }
    }
}
