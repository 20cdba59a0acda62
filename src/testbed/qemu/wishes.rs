//! What a tuple and the spec ask of a QEMU testbed, checked and resolved as far as that needs no host. Pure.

use std::net::{IpAddr, Ipv4Addr};

use super::args::{DEFAULT_MEMORY, Machine, mac};
use crate::agent::{InterfaceSetup, NetworkSetup, RouteSetup, TunnelSetup};
use crate::ids::{NodeId, Role};
use crate::spec::{Tuple, Value};
use crate::testbed::TestbedError;
use crate::testbed::lan::topology::{Access, NodePlan, Topology};
use crate::units::ByteSize;

/// Memory of a QEMU process beside its guest's.
const OVERHEAD: u64 = 64 << 20;
/// What a guest needs to boot from vptest's image.
const LEAST_MEMORY: u64 = 96 << 20;
/// The third octet of the addresses inside tunnels, beyond that of every link.
const TUNNEL_LINK: u8 = 250;
const TUNNEL: &str = crate::testbed::TUNNEL_INTERFACE;
const PREFIX: u8 = 24;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::testbed) struct Wishes {
    pub(in crate::testbed) topology: Topology,
    pub(in crate::testbed) machine: Machine,
    /// As the tuple says it, or the machine's default.
    pub(in crate::testbed) driver: String,
    pub(in crate::testbed) accel: AccelWish,
    pub(in crate::testbed) vcpus: u32,
    pub(in crate::testbed) memory: ByteSize,
    pub(in crate::testbed) pinning: bool,
    pub(in crate::testbed) tunnel: bool,
}

/// The factor `accel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::testbed) enum AccelWish {
    Auto,
    Kvm,
    Tcg,
}

impl Wishes {
    /// # Errors
    /// [`TestbedError::Request`] for what no host could provide.
    pub(in crate::testbed) fn of(testbed: &'static str, tuple: &Tuple) -> Result<Self, TestbedError> {
        let machine = Machine::of(tuple);
        let driver = tuple.get("driver").map_or_else(|| machine.default_driver().to_owned(), ToString::to_string);
        let access = Access::Tap { tso: driver.starts_with("virtio-net") };
        let memory = match tuple.get("memory") {
            Some(Value::Size(size)) => *size,
            _ => DEFAULT_MEMORY,
        };
        if memory.0 < LEAST_MEMORY {
            return refuse(testbed, format!("memory = `{memory}` (at least {})", ByteSize(LEAST_MEMORY)));
        }
        let vcpus = tuple.integer("vcpus").unwrap_or(1);
        Ok(Self {
            topology: Topology::of(testbed, access, tuple)?,
            machine,
            driver,
            accel: match tuple.get("accel").map(ToString::to_string).as_deref() {
                Some("kvm") => AccelWish::Kvm,
                Some("tcg") => AccelWish::Tcg,
                _ => AccelWish::Auto,
            },
            vcpus: u32::try_from(vcpus).map_or_else(|_| refuse(testbed, format!("vcpus = {vcpus}")), Ok)?,
            memory,
            pinning: tuple.pinning(),
            tunnel: tuple.get("tunnel").is_some_and(|tunnel| *tunnel != Value::None),
        })
    }

    /// How many guests there are.
    pub(in crate::testbed) fn guests(&self) -> u64 {
        2 * u64::from(self.topology.pairs)
    }

    /// Bytes of memory that so many guests take from this host.
    pub(in crate::testbed) fn memory_of(&self, guests: u64) -> u64 {
        guests.saturating_mul(self.memory.0.saturating_add(OVERHEAD))
    }

    /// # Errors
    /// When the guests would not fit.
    pub(in crate::testbed) fn check_memory(&self, available: u64) -> Result<(), TestbedError> {
        self.check_memory_of(self.guests(), available)
    }

    /// As [`Wishes::check_memory`], for so many guests of them that are on this host.
    pub(in crate::testbed) fn check_memory_of(&self, guests: u64, available: u64) -> Result<(), TestbedError> {
        let needed = self.memory_of(guests);
        if needed <= available {
            return Ok(());
        }
        refuse(
            self.topology.testbed,
            format!(
                "{guests} guests with memory = `{}` need {} with QEMU's own, and {} are available on this host (lower `pairs` \
                 or `memory`)",
                mebibytes(self.memory.0),
                mebibytes(needed),
                mebibytes(available),
            ),
        )
    }

    /// Interface that the workload uses.
    pub(in crate::testbed) fn interface(&self) -> &'static str {
        if self.tunnel { TUNNEL } else { "eth0" }
    }

    /// Address that the workload uses on this node.
    pub(in crate::testbed) fn address(&self, plan: &NodePlan) -> Ipv4Addr {
        let outer = plan.ports.first().map_or(Ipv4Addr::UNSPECIFIED, |port| port.address);
        if self.tunnel { inner(outer) } else { outer }
    }

    /// How the network of a guest is to be set up.
    pub(in crate::testbed) fn network(&self, plan: &NodePlan) -> NetworkSetup {
        let topology = &self.topology;
        let interfaces = plan.ports.iter().map(|port| InterfaceSetup {
            mac: Some(mac(plan.id)),
            name: port.name.to_owned(),
            address: Some((IpAddr::V4(port.address), PREFIX)),
            mtu: topology.mtu,
            offload: topology.offload,
        });
        let routes = plan.routes.iter().map(|&(to, via)| RouteSetup {
            to: to.map(|to| (IpAddr::V4(to & Ipv4Addr::new(255, 255, 255, 0)), PREFIX)),
            via: IpAddr::V4(via),
        });
        let mut sysctls = Vec::new();
        if plan.id.role == Role::Server {
            // The walk of the path counts on errors about packets, which are otherwise sent sparingly.
            sysctls.push(("net/ipv4/icmp_ratemask".to_owned(), "0".to_owned()));
        }
        if topology.needs_long_life() {
            sysctls.push(("net/ipv4/ip_default_ttl".to_owned(), "255".to_owned()));
        }
        NetworkSetup {
            modules: if self.tunnel { vec!["ip_gre".to_owned()] } else { Vec::new() },
            interfaces: interfaces.collect(),
            tunnel: self.tunnel.then(|| self.tunnel_of(plan)),
            routes: routes.collect(),
            sysctls,
        }
    }

    fn tunnel_of(&self, plan: &NodePlan) -> TunnelSetup {
        let local = plan.ports.first().map_or(Ipv4Addr::UNSPECIFIED, |port| port.address);
        let other = match plan.id.role {
            Role::Client => NodeId::server(plan.id.pair),
            _ => NodeId::client(plan.id.pair),
        };
        let remote = self.topology.address_of(other).unwrap_or(Ipv4Addr::UNSPECIFIED);
        TunnelSetup {
            name: TUNNEL.to_owned(),
            ethernet: true,
            local: IpAddr::V4(local),
            remote: IpAddr::V4(remote),
            address: (IpAddr::V4(inner(local)), PREFIX),
            mtu: None,
            offload: self.topology.offload,
        }
    }
}

/// The address inside the tunnel of the node with this address.
fn inner(outer: Ipv4Addr) -> Ipv4Addr {
    let [net, pair, _, side] = outer.octets();
    Ipv4Addr::new(net, pair, TUNNEL_LINK, side)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn refuse<T>(testbed: &'static str, what: String) -> Result<T, TestbedError> {
    Err(TestbedError::Request { testbed, what })
}

#[cfg(test)]
mod tests {
    use super::super::NAME;
    use super::*;

    fn wishes(values: &[(&str, Value)]) -> Result<Wishes, TestbedError> {
        Wishes::of(NAME, &Tuple::new(values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()))
    }

    fn word(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn a_tuple_that_says_nothing_gets_the_defaults() {
        let wishes = wishes(&[]).unwrap();
        assert_eq!((wishes.machine, wishes.driver.as_str()), (Machine::Q35, "virtio-net-pci"));
        assert_eq!((wishes.accel, wishes.vcpus, wishes.memory), (AccelWish::Auto, 1, ByteSize(384 << 20)));
        assert_eq!(wishes.interface(), "eth0");
    }

    #[test]
    fn a_microvm_has_its_own_default_card() {
        let wishes = wishes(&[("machine", word("microvm")), ("accel", word("tcg"))]).unwrap();
        assert_eq!((wishes.driver.as_str(), wishes.accel), ("virtio-net-device", AccelWish::Tcg));
    }

    #[test]
    fn memory_is_reckoned_for_all_guests() {
        let wishes = wishes(&[("pairs", Value::Integer(3)), ("memory", Value::Size(ByteSize(512 << 20)))]).unwrap();
        let needed = (6 * (512 + 64)) << 20;
        assert_eq!(wishes.memory_of(wishes.guests()), needed);
        assert!(wishes.check_memory(needed).is_ok());
        let error = wishes.check_memory(needed - 1).unwrap_err().to_string();
        assert!(error.contains("6 guests") && error.contains("3456 MiB") && error.contains("3455 MiB"), "{error}");
    }

    #[test]
    fn too_little_memory_to_boot_is_refused() {
        let error = wishes(&[("memory", Value::Size(ByteSize(64 << 20)))]).unwrap_err().to_string();
        assert!(error.starts_with("testbed qemu: memory = "), "{error}");
    }

    #[test]
    fn a_tunnel_has_addresses_of_its_own_and_ends_at_the_other_node() {
        let wishes = wishes(&[("tunnel", word("gre"))]).unwrap();
        let nodes = wishes.topology.nodes();
        let setup = wishes.network(&nodes[0]);
        let tunnel = setup.tunnel.unwrap();
        assert_eq!(tunnel.remote, IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2)));
        assert_eq!(tunnel.address, (IpAddr::V4(Ipv4Addr::new(10, 1, 250, 1)), 24));
        assert_eq!(wishes.address(&nodes[1]), Ipv4Addr::new(10, 1, 250, 2));
        assert_eq!(setup.modules, ["ip_gre"]);
    }

    #[test]
    fn a_guest_is_set_up_as_the_topology_says() {
        let wishes = wishes(&[("hops", Value::List(vec!["A".to_owned()])), ("mtu", Value::Integer(1400))]).unwrap();
        let nodes = wishes.topology.nodes();
        let client = wishes.network(&nodes[0]);
        assert_eq!(client.interfaces[0].mac.as_deref(), Some("52:54:00:00:01:01"));
        assert_eq!(client.interfaces[0].mtu, Some(1400));
        assert_eq!(client.routes, [RouteSetup { to: None, via: IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2)) }]);
        assert!(client.sysctls.is_empty() && client.tunnel.is_none());
        assert_eq!(wishes.network(nodes.last().unwrap()).sysctls.len(), 1);
    }
}
