//! Bringing up the namespaces of an iteration.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::topology::{HostPort, LinkRate, NodePlan, NodePort, Topology};
use crate::host::ethtool::{self, Offload};
use crate::host::link::{self, End};
use crate::host::namespace::Namespace;
use crate::host::netlink::{Change, Netlink, NetlinkError};
use crate::host::qdisc;
use crate::host::tap;
use crate::ids::{NodeId, Role};
use crate::testbed::TestbedError;

/// Descriptors a namespace takes here.
const DESCRIPTORS_PER_STACK: u64 = 2;
/// Descriptors left for everything else: captures, pipes of processes, files.
const SPARE_DESCRIPTORS: u64 = 512;

/// A network stack: a namespace with a way to talk to it.
#[derive(Debug)]
pub(in crate::testbed) struct Stack {
    pub(in crate::testbed) namespace: Arc<Namespace>,
    netlink: Mutex<Netlink>,
}

impl Stack {
    /// That of a namespace that is there.
    ///
    /// # Errors
    /// When it cannot be entered.
    pub(in crate::testbed) fn of(namespace: Arc<Namespace>) -> io::Result<Self> {
        let netlink = Mutex::new(namespace.run(Netlink::open)?);
        Ok(Self { namespace, netlink })
    }

    pub(in crate::testbed) fn netlink(&self) -> MutexGuard<'_, Netlink> {
        // A conversation that was cut off by a panic is still in step: answers carry the number of their question.
        self.netlink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All the namespaces of an iteration. Nothing else holds them, so dropping this takes everything down (the kernel does
/// the work in the background).
#[derive(Debug)]
pub(in crate::testbed) struct Network {
    /// The side that a hypervisor's host would be: bridges, and the other end of every access link.
    pub(in crate::testbed) host: Stack,
    /// Everything that is a namespace: with taps, the routers only.
    pub(in crate::testbed) nodes: BTreeMap<NodeId, (NodePlan, Stack)>,
    /// Nodes at the far end of a tap.
    pub(in crate::testbed) guests: Vec<NodePlan>,
}

impl Network {
    /// Brings everything up, ready for the first packet.
    pub(in crate::testbed) fn build(topology: &Topology) -> Result<Self, TestbedError> {
        let network = Self::namespaces(topology)?;
        network.link_up(topology)?;
        network.nodes.values().try_for_each(|(plan, stack)| configure(plan, stack))?;
        for (stack, interface) in network.interfaces() {
            finish(topology, stack, interface)?;
        }
        Ok(network)
    }

    /// The host-side ports that are taps.
    pub(in crate::testbed) fn taps(&self) -> impl Iterator<Item = (&NodePlan, &HostPort)> {
        self.guests.iter().flat_map(|plan| plan.ports.iter().filter_map(move |port| Some((plan, port.host.as_ref()?))))
    }

    /// What is done to the taps once a guest has opened them, which gives them their carrier and the offloads that the
    /// guest's driver can take.
    pub(in crate::testbed) fn finish_taps(&self, topology: &Topology) -> Result<(), TestbedError> {
        self.taps().try_for_each(|(_, port)| finish(topology, &self.host, &port.name))
    }

    /// Every end of a link, with where it is.
    pub(in crate::testbed) fn interfaces(&self) -> impl Iterator<Item = (&Stack, &str)> {
        self.nodes.values().flat_map(move |(plan, stack)| {
            plan.ports.iter().flat_map(move |port| {
                let host = port.host.iter().map(|host| (&self.host, host.name.as_str()));
                std::iter::once((stack, port.name)).chain(host)
            })
        })
    }

    fn namespaces(topology: &Topology) -> Result<Self, TestbedError> {
        let (plans, guests): (Vec<_>, Vec<_>) =
            topology.nodes().into_iter().partition(|plan| topology.is_namespace(plan.id));
        allow_descriptors(plans.len())?;
        let roles: Vec<Option<Role>> =
            std::iter::once(None).chain(plans.iter().map(|plan| Some(plan.id.role))).collect();
        let made = Namespace::create_each(&roles, |role| {
            set_sysctls(*role, topology.needs_long_life())?;
            Netlink::open()
        });
        let made = made.map_err(|source| TestbedError::Io { what: "create a network namespace".to_owned(), source })?;
        let mut stacks = made
            .into_iter()
            .map(|(namespace, netlink)| Stack { namespace: Arc::new(namespace), netlink: Mutex::new(netlink) });
        let host = stacks.next().expect("the first one made is the host side");
        let nodes = plans.into_iter().zip(stacks).map(|(plan, stack)| (plan.id, (plan, stack))).collect();
        make_taps(&host, &guests)?;
        Ok(Self { host, nodes, guests })
    }

    /// Everything that is asked of the host-side namespace, which makes all the links.
    fn link_up(&self, topology: &Topology) -> Result<(), TestbedError> {
        let mut changes = vec![link::up("lo", link::LOOPBACK)];
        for bridge in (1..=topology.pairs).flat_map(|pair| topology.bridges(pair)) {
            changes.push(link::bridge(&bridge.name, bridge.index, topology.mtu));
        }
        let mut waiting: Option<(&Stack, &NodePort)> = None;
        for (plan, stack) in self.in_order() {
            for port in &plan.ports {
                match (&port.host, waiting.take()) {
                    (Some(host), _) => changes.extend(access_link(topology, host, stack, port)?),
                    (None, Some((other, its))) => {
                        changes.push(link::veth(end(other, its), end(stack, port), topology.mtu));
                    }
                    (None, None) => waiting = Some((stack, port)),
                }
            }
        }
        for (_, port) in self.taps() {
            changes.push(link::join(&port.name, port.index, port.bridge.index));
            changes.extend(topology.mtu.map(|mtu| link::mtu(&port.name, port.index, mtu)));
            changes.push(link::up(&port.name, port.index));
            changes.extend(shape(topology, port)?);
        }
        Ok(self.host.netlink().apply(&changes)?)
    }

    /// The nodes as packets pass them: client, routers, server; pair by pair.
    fn in_order(&self) -> impl Iterator<Item = (&NodePlan, &Stack)> {
        let mut nodes: Vec<_> = self.nodes.values().map(|(plan, stack)| (plan, stack)).collect();
        nodes.sort_by_key(|(plan, _)| {
            let place = match plan.id.role {
                Role::Client => 0,
                Role::Router(index) => 1 + u16::from(index),
                Role::Server => u16::MAX,
            };
            (plan.id.pair, place)
        });
        nodes.into_iter()
    }
}

impl From<NetlinkError> for TestbedError {
    fn from(error: NetlinkError) -> Self {
        Self::Io { what: error.what, source: error.source }
    }
}

fn end<'a>(stack: &'a Stack, port: &NodePort) -> End<'a> {
    End { name: port.name, index: port.index, namespace: Some(&stack.namespace), bridge: None }
}

fn access_link(
    topology: &Topology,
    host: &HostPort,
    stack: &Stack,
    port: &NodePort,
) -> Result<Vec<Change>, TestbedError> {
    let near = End { name: &host.name, index: host.index, namespace: None, bridge: Some(host.bridge.index) };
    let mut changes = vec![link::veth(near, end(stack, port), topology.mtu)];
    changes.extend(shape(topology, host)?);
    Ok(changes)
}

/// The rate limit of a host-side port, if it is to have one.
fn shape(topology: &Topology, port: &HostPort) -> Result<Option<Change>, TestbedError> {
    let (true, LinkRate::Limit(rate)) = (port.shaped, topology.rate) else { return Ok(None) };
    let bucket = qdisc::TokenBucket::for_link(rate, topology.effective_mtu()).ok_or_else(|| TestbedError::Request {
        testbed: topology.testbed,
        what: format!("rate = `{rate}` (a multiple of 8 bit/s)"),
    })?;
    Ok(Some(bucket.set(port.index, &port.name)))
}

/// Taps are made by a thread inside the host-side namespace.
fn make_taps(host: &Stack, guests: &[NodePlan]) -> Result<(), TestbedError> {
    let ports = guests.iter().flat_map(|plan| plan.ports.iter().filter_map(|port| port.host.as_ref()));
    let ports: Vec<&HostPort> = ports.collect();
    if ports.is_empty() {
        return Ok(());
    }
    let made = host.namespace.run(|| ports.iter().try_for_each(|port| tap::create(&port.name, port.index)));
    made.map_err(|source| TestbedError::Io { what: "create the taps".to_owned(), source })
}

/// Addresses and routes of a node whose links are there.
fn configure(plan: &NodePlan, stack: &Stack) -> Result<(), TestbedError> {
    let mut changes = vec![link::up("lo", link::LOOPBACK)];
    changes.extend(plan.ports.iter().map(|port| link::up(port.name, port.index)));
    changes.extend(plan.ports.iter().map(|port| link::address(port.name, port.index, port.address)));
    changes.extend(plan.routes.iter().map(|&(to, via)| link::route(to, via)));
    stack
        .netlink()
        .apply(&changes)
        .map_err(|error| TestbedError::Io { what: format!("{} in {}", error.what, plan.id), source: error.source })
}

/// Offloads, and the carrier: see [`ethtool::link`].
pub(in crate::testbed) fn finish(topology: &Topology, stack: &Stack, interface: &str) -> Result<(), TestbedError> {
    let failed = |what: &str| {
        let what = format!("{what} {interface}");
        move |source| TestbedError::Io { what, source }
    };
    let netlink = stack.netlink();
    if let Some(on) = topology.offload {
        ethtool::set_offloads(&netlink, interface, &Offload::ALL, on).map_err(failed("set the offloads of"))?;
    }
    let carrier = ethtool::link(&netlink, interface).map_err(failed("read the carrier of"))?;
    if carrier {
        Ok(())
    } else {
        Err(failed("use a link without carrier:")(io::Error::from(io::ErrorKind::NotConnected)))
    }
}

/// A setting of a whole namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::testbed) struct Sysctl {
    /// Its name below `net/`.
    pub(in crate::testbed) name: &'static str,
    /// What it is to be.
    pub(in crate::testbed) value: &'static str,
}

impl Sysctl {
    /// A kernel without IPv6 has nothing to be switched off.
    pub(in crate::testbed) fn may_be_missing(self) -> bool {
        self.name.starts_with("ipv6/")
    }

    fn write(self) -> io::Result<()> {
        let path = format!("/proc/sys/net/{}", self.name);
        match std::fs::write(&path, self.value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.may_be_missing() => Ok(()),
            Err(error) => Err(io::Error::new(error.kind(), format!("cannot write {path}: {error}"))),
            Ok(()) => Ok(()),
        }
    }
}

/// Settings of a whole namespace, made before it has any interface.
///
/// No IPv6 address is made up, so that no neighbour or multicast discovery gets into captures. Errors about packets
/// are sent without a limit, since the check of the path counts on them.
fn sysctls(role: Option<Role>, long_life: bool) -> Vec<Sysctl> {
    let mut all = Vec::new();
    let mut set = |name, value| all.push(Sysctl { name, value });
    set("ipv6/conf/default/addr_gen_mode", "1");
    let Some(role) = role else {
        set("ipv6/conf/default/disable_ipv6", "1");
        return all;
    };
    if role != Role::Client {
        set("ipv4/icmp_ratemask", "0");
    }
    if long_life {
        set("ipv4/ip_default_ttl", "255");
    }
    if matches!(role, Role::Router(_)) {
        set("ipv4/ip_forward", "1");
    }
    all
}

/// Written by a thread inside the namespace.
fn set_sysctls(role: Option<Role>, long_life: bool) -> io::Result<()> {
    sysctls(role, long_life).into_iter().try_for_each(Sysctl::write)
}

/// As for a new namespace, in one that others have made and that has interfaces already: IPv6 is off there, as in guests.
pub(in crate::testbed) fn sysctls_within(role: Role, long_life: bool) -> Vec<Sysctl> {
    let mut all = sysctls(Some(role), long_life);
    let off = |name| Sysctl { name, value: "1" };
    all.extend(["ipv6/conf/all/disable_ipv6", "ipv6/conf/default/disable_ipv6"].map(off));
    all
}

/// Writes them, by a thread inside the namespace.
pub(in crate::testbed) fn set_sysctls_within(role: Role, long_life: bool) -> io::Result<()> {
    sysctls_within(role, long_life).into_iter().try_for_each(Sysctl::write)
}

/// Raises the soft limit of open files when this many nodes would come near it.
fn allow_descriptors(nodes: usize) -> Result<(), TestbedError> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let stacks = u64::try_from(nodes).unwrap_or(u64::MAX).saturating_add(1);
    let needed = stacks.saturating_mul(DESCRIPTORS_PER_STACK).saturating_add(SPARE_DESCRIPTORS);
    let failed =
        |error: nix::Error| TestbedError::Io { what: format!("allow {needed} open files"), source: error.into() };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    if needed <= soft {
        return Ok(());
    }
    if needed > hard {
        return Err(TestbedError::Unsupported {
            what: format!("{nodes} nodes need {needed} open files, and {hard} are allowed"),
            hint: Some("raise the hard limit: `ulimit -Hn`, or LimitNOFILE= of the service".to_owned()),
        });
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(needed.max(soft)), hard).map_err(failed)
}
