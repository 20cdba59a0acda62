//! What a tuple asks of physical nodes, checked as far as that needs none of them. Pure.

use std::net::IpAddr;

use super::NAME;
use crate::agent::LoanRequest;
use crate::host::loan::{LoanRate, Wanted};
use crate::ids::NodeId;
use crate::instrument::switch::{Access, Switch};
use crate::node::ssh::{HostKeys, Target};
use crate::spec::{PhysicalNode, PhysicalSpec, SwitchAccess, SwitchSpec, Tuple, Value, Way};
use crate::testbed::TestbedError;
use crate::testbed::minimega::cc::GUEST_FILES;

/// What IPv4 needs (RFC 791).
const LEAST_MTU: i64 = 68;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wishes {
    /// In the order of pairs, each with its client first.
    pub(super) nodes: Vec<NodeWish>,
    /// Names of routers, from the client.
    pub(super) hops: Vec<String>,
    pub(super) routers: Vec<(String, IpAddr)>,
    pub(super) mtu: Option<u32>,
    pub(super) offload: Option<bool>,
    pub(super) rate: LoanRate,
    /// The same as text, for comparing; `None` when the tuple says nothing.
    pub(super) rate_text: Option<String>,
    pub(super) sysctls: Vec<(String, String)>,
    pub(super) governor: Option<String>,
    pub(super) switch: Option<Switch>,
}

/// One node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NodeWish {
    pub(super) id: NodeId,
    /// What it is called in the spec.
    pub(super) host: String,
    pub(super) reach: Reach,
    pub(super) interface: Option<String>,
    pub(super) address: Option<IpAddr>,
}

/// How a node is reached.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reach {
    /// By ssh.
    Ssh(Target),
    /// By rond, with the directory of its miniccc's files.
    Rond { files: String },
}

impl Reach {
    pub(super) fn way(&self) -> Way {
        match self {
            Self::Ssh(_) => Way::Ssh,
            Self::Rond { .. } => Way::Rond,
        }
    }
}

impl Wishes {
    /// # Errors
    /// [`TestbedError::Request`] for what these nodes cannot be.
    pub(super) fn of(spec: &PhysicalSpec, tuple: &Tuple) -> Result<Self, TestbedError> {
        let refuse = |what: String| TestbedError::Request { testbed: NAME, what };
        let (rate, rate_text) = rate(tuple).map_err(refuse)?;
        Ok(Self {
            nodes: nodes(spec, tuple).map_err(refuse)?,
            hops: hops(spec, tuple).map_err(refuse)?,
            routers: spec.routers.clone(),
            mtu: mtu(tuple).map_err(refuse)?,
            offload: tuple.offload(),
            rate,
            rate_text,
            sysctls: spec.sysctls.clone(),
            governor: spec.governor.clone(),
            switch: spec.switch.as_ref().and_then(|switch| self::switch(switch, tuple.pairs())),
        })
    }

    /// Is a node asked to change anything?
    pub(super) fn change(&self) -> bool {
        self.mtu.is_some()
            || self.offload.is_some()
            || self.rate != LoanRate::Leave
            || !self.sysctls.is_empty()
            || self.governor.is_some()
    }

    /// What a node is asked to change.
    pub(super) fn loan(&self, node: &NodeWish, by: &str) -> LoanRequest {
        LoanRequest {
            wanted: Wanted {
                interface: node.interface.clone().unwrap_or_default(),
                mtu: self.mtu,
                offload: self.offload,
                rate: self.rate,
                sysctls: self.sysctls.clone(),
                governor: self.governor.clone(),
            },
            address: node.address,
            by: by.to_owned(),
        }
    }
}

fn nodes(spec: &PhysicalSpec, tuple: &Tuple) -> Result<Vec<NodeWish>, String> {
    let pairs = tuple.pairs();
    let of = |server: bool| spec.nodes.iter().filter(move |node| node.server == server);
    let there = of(false).count().min(of(true).count());
    if there == 0 {
        return Err("no pair of nodes: name a client and a server under `[[testbed.physical.nodes]]`".to_owned());
    }
    if pairs as usize > there {
        return Err(format!("pairs = {pairs} (at most {there}: each pair needs a client and a server of its own)"));
    }
    let mut nodes = Vec::new();
    for (number, (client, server)) in (1..=pairs).zip(of(false).zip(of(true))) {
        nodes.push(wish(spec, NodeId::client(number), client));
        nodes.push(wish(spec, NodeId::server(number), server));
    }
    if let Some(twice) = twice(&nodes) {
        return Err(format!(
            "{twice} is named for two nodes: a client and a server on the same host would not use a link"
        ));
    }
    Ok(nodes)
}

/// The switch with the ports of the nodes that take part; `None` without any.
fn switch(spec: &SwitchSpec, pairs: u32) -> Option<Switch> {
    let access = match &spec.access {
        SwitchAccess::Community(community) => Access::Community(community.clone()),
        SwitchAccess::Config(path) => Access::Config(std::path::absolute(path).unwrap_or_else(|_| path.into())),
    };
    let ports: Vec<_> = spec.ports.iter().copied().filter(|(node, _)| node.pair <= pairs).collect();
    let (address, update) = (spec.address.clone(), spec.update);
    (!ports.is_empty()).then_some(Switch { address, access, ports, update })
}

/// A host that is there twice.
fn twice(nodes: &[NodeWish]) -> Option<&str> {
    let port = |node: &NodeWish| match &node.reach {
        Reach::Ssh(target) => target.port,
        Reach::Rond { .. } => None,
    };
    let same = |a: &NodeWish, b: &NodeWish| a.host == b.host && port(a) == port(b);
    let found = nodes.iter().enumerate().find(|(at, node)| nodes[..*at].iter().any(|other| same(other, node)));
    found.map(|(_, node)| node.host.as_str())
}

fn wish(spec: &PhysicalSpec, id: NodeId, node: &PhysicalNode) -> NodeWish {
    let reach = match spec.way {
        Way::Ssh => Reach::Ssh(target(spec, node)),
        Way::Rond => {
            let files = node.files.as_ref().or(spec.files.as_ref());
            Reach::Rond { files: files.cloned().unwrap_or_else(|| GUEST_FILES.to_owned()) }
        }
    };
    NodeWish { id, host: node.host.clone(), reach, interface: node.interface.clone(), address: node.address }
}

fn target(spec: &PhysicalSpec, node: &PhysicalNode) -> Target {
    let identity = node.identity.as_ref().or(spec.identity.as_ref());
    Target {
        host: node.host.clone(),
        port: node.port,
        user: node.user.clone().or_else(|| spec.user.clone()),
        identity: identity.map(|path| key_file(path)),
        host_keys: node.host_key.clone().map_or(HostKeys::Known, HostKeys::This),
        config: true,
    }
}

/// ssh runs in another directory; what begins with `~` it resolves itself.
fn key_file(path: &str) -> std::path::PathBuf {
    let absolute = || std::path::absolute(path).ok();
    if path.starts_with('~') { path.into() } else { absolute().unwrap_or_else(|| path.into()) }
}

fn hops(spec: &PhysicalSpec, tuple: &Tuple) -> Result<Vec<String>, String> {
    let hops = tuple.hops().to_vec();
    match hops.iter().find(|hop| !spec.routers.iter().any(|(name, _)| name == *hop)) {
        Some(unknown) => {
            Err(format!("hops: nobody knows the address of `{unknown}`: name it under `[testbed.physical.routers]`"))
        }
        None => Ok(hops),
    }
}

fn mtu(tuple: &Tuple) -> Result<Option<u32>, String> {
    match tuple.get("mtu") {
        None => Ok(None),
        Some(Value::Integer(mtu)) if *mtu >= LEAST_MTU => Ok(u32::try_from(*mtu).ok()),
        Some(other) => Err(format!("mtu = `{other}` (at least {LEAST_MTU})")),
    }
}

fn rate(tuple: &Tuple) -> Result<(LoanRate, Option<String>), String> {
    match tuple.get("rate") {
        None => Ok((LoanRate::Leave, None)),
        Some(Value::None) => Ok((LoanRate::Unlimited, Some("none".to_owned()))),
        Some(Value::Rate(rate)) if rate.bits_per_second().is_multiple_of(8) => {
            Ok((LoanRate::Limit(rate.bits_per_second()), Some(rate.to_string())))
        }
        Some(other) => Err(format!("rate = `{other}` (a multiple of 8 bit/s, or `none`)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Rate;

    fn node(host: &str, server: bool) -> PhysicalNode {
        PhysicalNode {
            host: host.to_owned(),
            server,
            interface: None,
            address: None,
            port: None,
            user: None,
            identity: None,
            host_key: None,
            files: None,
        }
    }

    fn spec() -> PhysicalSpec {
        PhysicalSpec {
            // In any order: the first of each kind are the first pair.
            nodes: [("a", false), ("b", false), ("x", true), ("c", false), ("y", true)]
                .map(|(host, server)| node(host, server))
                .to_vec(),
            user: Some("me".to_owned()),
            routers: vec![("A".to_owned(), "10.0.0.9".parse().unwrap())],
            ..PhysicalSpec::default()
        }
    }

    fn wishes(spec: &PhysicalSpec, factors: &[(&str, Value)]) -> Result<Wishes, String> {
        let factors = factors.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        Wishes::of(spec, &Tuple::new(factors.collect())).map_err(|error| error.to_string())
    }

    #[test]
    fn pairs_are_made_in_the_order_of_the_spec() {
        let wishes = wishes(&spec(), &[("pairs", Value::Integer(2))]).unwrap();
        let nodes: Vec<_> = wishes.nodes.iter().map(|node| (node.id.to_string(), node.host.as_str())).collect();
        let expected = [("client1", "a"), ("server1", "x"), ("client2", "b"), ("server2", "y")];
        assert_eq!(nodes, expected.map(|(id, host)| (id.to_owned(), host)));
        let user = |node: &NodeWish| match &node.reach {
            Reach::Ssh(target) => target.user.clone(),
            Reach::Rond { .. } => None,
        };
        assert!(wishes.nodes.iter().all(|node| user(node).as_deref() == Some("me")));
        assert!(!wishes.change());
    }

    #[test]
    fn what_the_nodes_cannot_be_is_refused() {
        let refused = |spec: &PhysicalSpec, name: &str, value: Value| wishes(spec, &[(name, value)]).unwrap_err();
        let pairs = |spec: &PhysicalSpec, pairs| refused(spec, "pairs", Value::Integer(pairs));
        assert!(pairs(&spec(), 3).contains("at most 2"), "{}", pairs(&spec(), 3));
        let none = PhysicalSpec { nodes: vec![node("a", false)], ..spec() };
        assert!(pairs(&none, 1).contains("no pair of nodes"));
        let twice = PhysicalSpec { nodes: vec![node("a", false), node("a", true)], ..spec() };
        assert!(pairs(&twice, 1).contains("a is named for two nodes"));
        let hops = Value::List(vec!["A".to_owned(), "B".to_owned()]);
        assert!(refused(&spec(), "hops", hops).contains("address of `B`"));
    }

    #[test]
    fn a_rate_is_left_removed_or_set() {
        let rate = |factors: &[(&str, Value)]| wishes(&spec(), factors).unwrap().rate;
        assert_eq!(rate(&[]), LoanRate::Leave);
        assert_eq!(rate(&[("rate", Value::None)]), LoanRate::Unlimited);
        let limit = Value::Rate(Rate::from_bits_per_second(8000).unwrap());
        assert_eq!(rate(&[("rate", limit.clone())]), LoanRate::Limit(8000));
        assert!(wishes(&spec(), &[("rate", limit)]).unwrap().change());
    }
}
