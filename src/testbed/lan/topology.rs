//! Which namespaces, links and addresses a tuple asks for. Pure.

use std::net::Ipv4Addr;

use crate::ids::{NodeId, Role};
use crate::spec::{Tuple, Value};
use crate::testbed::TestbedError;
use crate::units::Rate;

/// The pair is the second octet of every address.
const MAX_PAIRS: i64 = 255;
/// The link is the third octet, and a packet's time to live has to outlast the hops.
const MAX_HOPS: usize = 200;
/// What IPv4 needs (RFC 791) and what a veth takes.
const MTU_RANGE: std::ops::RangeInclusive<i64> = 68..=65_535;
/// Routers that packets pass with the usual time to live of 64.
const HOPS_WITHOUT_HELP: usize = 60;
const DEFAULT_MTU: u32 = 1500;

/// Numbers of interfaces start here, clear of the tunnel devices that some kernels put into every new namespace.
const FIRST_INDEX: u32 = 100;
/// Interface numbers set aside for a pair in the host-side namespace.
const INDICES_PER_PAIR: u32 = 10;

/// What client and server reach the host side through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::testbed) enum Access {
    /// A veth pair; the node is a namespace of this host.
    Veth,
    /// A tap of the host side; the node is a guest that has its own network stack.
    Tap {
        /// Can the guest's network card take packets larger than the MTU from the host?
        tso: bool,
    },
}

/// A tuple, checked and resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::testbed) struct Topology {
    /// Whose, for messages.
    pub(in crate::testbed) testbed: &'static str,
    pub(in crate::testbed) access: Access,
    pub(in crate::testbed) pairs: u8,
    /// Names of the routers of each pair, from the client.
    pub(in crate::testbed) hops: Vec<String>,
    pub(in crate::testbed) mtu: Option<u32>,
    pub(in crate::testbed) offload: Option<bool>,
    pub(in crate::testbed) rate: LinkRate,
}

/// What a tuple says about the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::testbed) enum LinkRate {
    /// Nothing.
    Unnamed,
    /// `rate = "none"`.
    Unlimited,
    /// A limit, in whole bytes per second.
    Limit(Rate),
}

/// An interface of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::testbed) struct NodePort {
    pub(in crate::testbed) name: &'static str,
    pub(in crate::testbed) index: u32,
    pub(in crate::testbed) address: Ipv4Addr,
    /// Its other end, when that is in the host-side namespace.
    pub(in crate::testbed) host: Option<HostPort>,
}

/// An interface in the host-side namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::testbed) struct HostPort {
    pub(in crate::testbed) name: String,
    pub(in crate::testbed) index: u32,
    /// Bridge it is a port of.
    pub(in crate::testbed) bridge: Bridge,
    /// Is the rate limit here?
    pub(in crate::testbed) shaped: bool,
}

/// A bridge in the host-side namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::testbed) struct Bridge {
    pub(in crate::testbed) name: String,
    pub(in crate::testbed) index: u32,
}

/// A node with its interfaces and routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::testbed) struct NodePlan {
    pub(in crate::testbed) id: NodeId,
    /// One, or for a router two: towards the client, towards the server.
    pub(in crate::testbed) ports: Vec<NodePort>,
    /// Network (`None` for all others) and gateway.
    pub(in crate::testbed) routes: Vec<(Option<Ipv4Addr>, Ipv4Addr)>,
}

impl Topology {
    /// # Errors
    /// [`TestbedError::Request`] for what this testbed cannot be.
    pub(in crate::testbed) fn of(testbed: &'static str, access: Access, tuple: &Tuple) -> Result<Self, TestbedError> {
        let resolve = || {
            let hops = tuple.hops().to_vec();
            if hops.len() > MAX_HOPS {
                return Err(format!("{} hops (at most {MAX_HOPS})", hops.len()));
            }
            let (pairs, mtu, rate) = (pairs(tuple)?, mtu(tuple)?, rate(tuple)?);
            Ok(Self { testbed, access, pairs, hops, mtu, offload: tuple.offload(), rate })
        };
        resolve().map_err(|what| TestbedError::Request { testbed, what })
    }

    /// Has this node a namespace of this host?
    pub(in crate::testbed) fn is_namespace(&self, node: NodeId) -> bool {
        self.access == Access::Veth || matches!(node.role, Role::Router(_))
    }

    /// The MTU in force, named or not.
    pub(in crate::testbed) fn effective_mtu(&self) -> u32 {
        self.mtu.unwrap_or(DEFAULT_MTU)
    }

    /// All nodes, pair by pair, each from the client to the server.
    pub(in crate::testbed) fn nodes(&self) -> Vec<NodePlan> {
        (1..=self.pairs).flat_map(|pair| self.chain(pair)).collect()
    }

    /// Bridges of a pair: one, or with routers one at each end.
    pub(in crate::testbed) fn bridges(&self, pair: u8) -> Vec<Bridge> {
        let mut bridges = vec![self.bridge(pair, Role::Client)];
        if !self.hops.is_empty() {
            bridges.push(self.bridge(pair, Role::Server));
        }
        bridges
    }

    /// The router of `pair` that has this address; `None` when none has.
    pub(in crate::testbed) fn router_at(&self, pair: u8, address: Ipv4Addr) -> Option<&str> {
        let [net, its_pair, link, side] = address.octets();
        if net != 10 || its_pair != pair {
            return None;
        }
        let router = match side {
            LEFT => usize::from(link).checked_sub(1)?,
            RIGHT => usize::from(link),
            _ => return None,
        };
        self.hops.get(router).map(String::as_str)
    }

    /// Do packets have to pass more routers than the usual time to live allows?
    pub(in crate::testbed) fn needs_long_life(&self) -> bool {
        self.hops.len() > HOPS_WITHOUT_HELP
    }

    /// Address of a client or server; `None` for routers, and for pairs there are not.
    pub(in crate::testbed) fn address_of(&self, node: NodeId) -> Option<Ipv4Addr> {
        let pair = u8::try_from(node.pair).ok().filter(|pair| (1..=self.pairs).contains(pair))?;
        match node.role {
            Role::Client => Some(address(pair, 0, LEFT)),
            Role::Server => Some(self.server(pair)),
            Role::Router(_) => None,
        }
    }

    /// Address of the server of a pair.
    pub(in crate::testbed) fn server(&self, pair: u8) -> Ipv4Addr {
        address(pair, self.last_link(), RIGHT)
    }

    fn last_link(&self) -> u8 {
        u8::try_from(self.hops.len()).expect("the number of hops was checked")
    }

    fn chain(&self, pair: u8) -> Vec<NodePlan> {
        let last = self.last_link();
        let number = u32::from(pair);
        let client = NodePlan {
            id: NodeId::client(number),
            ports: vec![self.port(pair, 0, LEFT, "eth0", 0)],
            routes: if last == 0 { vec![] } else { vec![(None, address(pair, 0, RIGHT))] },
        };
        let server = NodePlan {
            id: NodeId::server(number),
            ports: vec![self.port(pair, last, RIGHT, "eth0", 0)],
            routes: if last == 0 { vec![] } else { vec![(None, address(pair, last, LEFT))] },
        };
        let routers = (0..last).map(|index| self.router(pair, index));
        std::iter::once(client).chain(routers).chain(std::iter::once(server)).collect()
    }

    /// A router knows the way back to the client's network and sends everything else on.
    fn router(&self, pair: u8, index: u8) -> NodePlan {
        let mut routes = Vec::new();
        if index > 0 {
            routes.push((Some(address(pair, 0, LEFT)), address(pair, index, LEFT)));
        }
        if index + 1 < self.last_link() {
            routes.push((None, address(pair, index + 1, RIGHT)));
        }
        NodePlan {
            id: NodeId::router(u32::from(pair), index),
            ports: vec![self.port(pair, index, RIGHT, "eth0", 0), self.port(pair, index + 1, LEFT, "eth1", 1)],
            routes,
        }
    }

    fn port(&self, pair: u8, link: u8, side: u8, name: &'static str, offset: u32) -> NodePort {
        let index = FIRST_INDEX + offset;
        NodePort { name, index, address: address(pair, link, side), host: self.host_port(pair, link, side) }
    }

    /// Client and server reach the network through the host side, and so do the routers next to them.
    fn host_port(&self, pair: u8, link: u8, side: u8) -> Option<HostPort> {
        let last = self.last_link();
        let (prefix, offset, end) = match (link, side) {
            (0, LEFT) => ("c", 1, Role::Client),
            (l, RIGHT) if l == last => ("s", 2, Role::Server),
            (0, RIGHT) => ("rc", 4, Role::Client),
            (l, LEFT) if l == last => ("rs", 5, Role::Server),
            _ => return None,
        };
        Some(HostPort {
            name: format!("{prefix}{pair}"),
            index: host_index(pair, offset),
            bridge: self.bridge(pair, end),
            shaped: offset < 3,
        })
    }

    /// The bridge at the client's or the server's end; without routers they are the same.
    fn bridge(&self, pair: u8, end: Role) -> Bridge {
        match end {
            Role::Server if !self.hops.is_empty() => Bridge { name: format!("br{pair}s"), index: host_index(pair, 3) },
            _ => Bridge { name: format!("br{pair}"), index: host_index(pair, 0) },
        }
    }
}

/// The end of a link towards the client.
const LEFT: u8 = 1;
/// The end of a link towards the server.
const RIGHT: u8 = 2;

fn address(pair: u8, link: u8, side: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, pair, link, side)
}

/// Never equal to a number in a node: the kernel acts at once on the carrier of an interface only when its peer has
/// another number.
fn host_index(pair: u8, offset: u32) -> u32 {
    10 * FIRST_INDEX + u32::from(pair) * INDICES_PER_PAIR + offset
}

fn pairs(tuple: &Tuple) -> Result<u8, String> {
    let asked = match tuple.get("pairs") {
        None => 1,
        Some(Value::Integer(pairs)) => *pairs,
        Some(other) => return Err(format!("pairs = `{other}` (a whole number from 1 to {MAX_PAIRS})")),
    };
    match u8::try_from(asked) {
        Ok(pairs) if pairs > 0 => Ok(pairs),
        _ => Err(format!("pairs = {asked} (1 to {MAX_PAIRS})")),
    }
}

fn mtu(tuple: &Tuple) -> Result<Option<u32>, String> {
    let accepted = format!("{} to {}", MTU_RANGE.start(), MTU_RANGE.end());
    match tuple.get("mtu") {
        None => Ok(None),
        Some(Value::Integer(mtu)) if MTU_RANGE.contains(mtu) => Ok(u32::try_from(*mtu).ok()),
        Some(other) => Err(format!("mtu = `{other}` ({accepted})")),
    }
}

fn rate(tuple: &Tuple) -> Result<LinkRate, String> {
    match tuple.get("rate") {
        None => Ok(LinkRate::Unnamed),
        Some(Value::None) => Ok(LinkRate::Unlimited),
        Some(Value::Rate(rate)) if rate.bits_per_second().is_multiple_of(8) => Ok(LinkRate::Limit(*rate)),
        Some(other) => Err(format!("rate = `{other}` (a multiple of 8 bit/s, or `none`)")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn tuple(values: &[(&str, Value)]) -> Tuple {
        Tuple::new(values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<BTreeMap<_, _>>())
    }

    fn topology(pairs: i64, hops: usize) -> Topology {
        let hops = (1..=hops).map(|n| format!("R{n}")).collect();
        Topology::of("netns", Access::Veth, &tuple(&[("pairs", Value::Integer(pairs)), ("hops", Value::List(hops))]))
            .unwrap()
    }

    #[test]
    fn a_direct_pair_is_two_ports_of_one_bridge() {
        let nodes = topology(2, 0).nodes();
        let names: Vec<String> = nodes.iter().map(|node| node.id.to_string()).collect();
        assert_eq!(names, ["client1", "server1", "client2", "server2"]);
        let hosts: Vec<&HostPort> = nodes.iter().map(|node| node.ports[0].host.as_ref().unwrap()).collect();
        assert_eq!(hosts.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), ["c1", "s1", "c2", "s2"]);
        assert_eq!(hosts[0].bridge, hosts[1].bridge);
        assert_ne!(hosts[1].bridge, hosts[2].bridge);
        assert!(nodes.iter().all(|node| node.routes.is_empty()));
        assert_eq!(nodes[3].ports[0].address, Ipv4Addr::new(10, 2, 0, 2));
    }

    #[test]
    fn routers_stand_between_two_bridges() {
        let nodes = topology(1, 2).nodes();
        let ports: Vec<Vec<Option<String>>> = nodes
            .iter()
            .map(|node| node.ports.iter().map(|port| port.host.as_ref().map(|host| host.name.clone())).collect())
            .collect();
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(ports, [vec![named("c1")], vec![named("rc1"), None], vec![None, named("rs1")], vec![named("s1")]]);
        assert_eq!(nodes[1].routes, [(None, Ipv4Addr::new(10, 1, 1, 2))]);
        assert_eq!(nodes[2].routes, [(Some(Ipv4Addr::new(10, 1, 0, 1)), Ipv4Addr::new(10, 1, 1, 1))]);
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_can() {
        let long: Vec<String> = vec![String::new(); 201];
        for (name, value, expected) in [
            ("pairs", Value::Integer(0), "pairs = 0 (1 to 255)"),
            ("pairs", Value::Integer(256), "pairs = 256 (1 to 255)"),
            ("pairs", Value::Integer(-1), "pairs = -1 (1 to 255)"),
            ("mtu", Value::Integer(67), "mtu = `67` (68 to 65535)"),
            ("mtu", Value::Integer(1 << 40), "mtu = `1099511627776` (68 to 65535)"),
            ("hops", Value::List(long), "201 hops (at most 200)"),
        ] {
            let error = Topology::of("netns", Access::Veth, &tuple(&[(name, value)])).unwrap_err();
            assert_eq!(error.to_string(), format!("testbed netns: {expected}"));
        }
        let odd = Value::Rate(Rate::from_bits_per_second(1001).unwrap());
        assert!(Topology::of("netns", Access::Veth, &tuple(&[("rate", odd)])).is_err());
    }

    proptest! {
        #[test]
        fn addresses_and_host_ports_are_unique(pairs in 1_i64..=255, hops in 0_usize..5) {
            let nodes = topology(pairs, hops).nodes();
            let ports: Vec<&NodePort> = nodes.iter().flat_map(|node| &node.ports).collect();
            let addresses: BTreeSet<_> = ports.iter().map(|port| port.address).collect();
            prop_assert_eq!(addresses.len(), ports.len());
            let hosts: Vec<&HostPort> = ports.iter().filter_map(|port| port.host.as_ref()).collect();
            prop_assert_eq!(hosts.len(), usize::try_from(pairs).unwrap() * if hops == 0 { 2 } else { 4 });
            let mut names: BTreeSet<&str> = hosts.iter().map(|port| port.name.as_str()).collect();
            let mut indices: BTreeSet<u32> = hosts.iter().map(|port| port.index).collect();
            prop_assert_eq!((names.len(), indices.len()), (hosts.len(), hosts.len()));
            names.extend(hosts.iter().map(|port| port.bridge.name.as_str()));
            indices.extend(hosts.iter().map(|port| port.bridge.index));
            let bridges = usize::try_from(pairs).unwrap() * if hops == 0 { 1 } else { 2 };
            prop_assert_eq!((names.len(), indices.len()), (hosts.len() + bridges, hosts.len() + bridges));
            prop_assert!(names.iter().all(|name| name.len() < 16));
        }

        #[test]
        fn routers_are_known_by_both_addresses(hops in 0_usize..=200) {
            let topology = topology(3, hops);
            for node in topology.nodes().iter().filter(|node| node.id.pair == 3) {
                let expected = match node.id.role {
                    Role::Router(index) => Some(format!("R{}", u16::from(index) + 1)),
                    _ => None,
                };
                for port in &node.ports {
                    prop_assert_eq!(topology.router_at(3, port.address).map(str::to_owned), expected.clone());
                    prop_assert_eq!(topology.router_at(2, port.address), None);
                }
            }
        }
    }
}
