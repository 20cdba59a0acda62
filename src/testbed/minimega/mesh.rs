//! Where in a mesh the machines of a pair go, and the network between two hosts of it.
//!
//! minimega hands what is said to a namespace on to all its hosts, and each of them numbers what it is told by itself. So
//! every namespace of vptest's has machines on one host alone: what is said to it goes there and nowhere else, and one
//! host answers. Client and server on different hosts are in two namespaces, and on the bridge of a third one, which has no
//! machines and both hosts.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::daemon::{Daemon, Namespace};
use super::error::MinimegaError;
use super::hold::Holds;
use super::machine::listed;
use super::up::{Causes, failed};
use super::wire::Row;
use crate::agent::Client;
use crate::ids::{NodeId, Role};
use crate::testbed::lan::topology::Topology;
use crate::testbed::{Request, TestbedError};
use crate::text::printable;

/// How long the way between two hosts may take to open.
const WAY: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes that the tunnel takes of each packet: headers of IP and GRE with a key, and the packet's own of Ethernet with a VLAN tag.
const TUNNEL: u32 = 46;

/// On which hosts machines are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Places {
    /// There is no mesh.
    Alone,
    /// There is one, and all of them are on the minimega's own host.
    Here(String),
    /// Clients are on one host, servers on another.
    Apart {
        /// Name of the clients' host.
        clients: String,
        /// Name of the servers' host.
        servers: String,
    },
}

impl Places {
    /// Together on the minimega's own host.
    ///
    /// # Errors
    /// As [`Daemon::run`].
    pub(super) async fn together(daemon: &Daemon) -> Result<Self, TestbedError> {
        let alone = mesh(daemon).await?.len() == 1;
        Ok(if alone { Self::Alone } else { Self::Here(daemon.host.clone()) })
    }

    /// On the two hosts that the spec names, or on the minimega's own and the only other one there is.
    ///
    /// # Errors
    /// [`TestbedError::Unsupported`] where these are not in the mesh, or others could be meant.
    pub(super) async fn apart(daemon: &Daemon, wanted: Option<&[String; 2]>) -> Result<Self, TestbedError> {
        choose(&daemon.host, &mesh(daemon).await?, wanted)
    }

    /// Hosts of a namespace with machines of this role, and of no other where they are apart.
    pub(super) fn of(&self, role: Role) -> Vec<String> {
        match self {
            Self::Alone => Vec::new(),
            Self::Here(host) => vec![host.clone()],
            Self::Apart { clients, servers } => {
                vec![if role == Role::Client { clients } else { servers }.clone()]
            }
        }
    }

    /// Both hosts; `None` where there is just one.
    pub(super) fn both(&self) -> Option<[&str; 2]> {
        match self {
            Self::Apart { clients, servers } => Some([clients, servers]),
            Self::Alone | Self::Here(_) => None,
        }
    }
}

async fn mesh(daemon: &Daemon) -> Result<Vec<String>, TestbedError> {
    daemon.mesh().await.map_err(|error| error.into_testbed("ask minimega for its mesh"))
}

fn choose(own: &str, mesh: &[String], wanted: Option<&[String; 2]>) -> Result<Places, TestbedError> {
    let list = printable(&mesh.join(", "), 300);
    let hint = "`hosts` in `[testbed.minimega]` names the clients' host and the servers'";
    let refused = |what: String| Err(TestbedError::Unsupported { what, hint: Some(hint.to_owned()) });
    if let Some(hosts) = wanted {
        return match hosts.iter().find(|host| !mesh.contains(host)) {
            Some(missing) => refused(format!("colocated = off: {missing} is not in minimega's mesh, which has {list}")),
            None => Ok(Places::Apart { clients: hosts[0].clone(), servers: hosts[1].clone() }),
        };
    }
    let others: Vec<&String> = mesh.iter().filter(|host| *host != own).collect();
    match others.as_slice() {
        [] => Err(TestbedError::Unsupported {
            what: format!("colocated = off: minimega on {own} has found no other host"),
            hint: Some("start one there with the same `-context` and with `-degree 1`, or `mesh dial` it".to_owned()),
        }),
        [other] => Ok(Places::Apart { clients: own.to_owned(), servers: (*other).clone() }),
        _ => refused(format!("colocated = off: which two hosts of the mesh are meant is not known, for it has {list}")),
    }
}

/// A bridge on two hosts, with a GRE tunnel between them.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// Name of its namespace, which minimega removes the bridge and the tunnel with.
    namespace: String,
    /// Its name, on both hosts.
    pub(super) bridge: String,
}

impl Link {
    /// Makes it, in a namespace with both hosts.
    ///
    /// # Errors
    /// [`MinimegaError::Answer`] when one of them has no tunnel then, and as [`Namespace::run`].
    pub(super) async fn make(namespace: &Arc<Namespace>) -> Result<Self, MinimegaError> {
        let (daemon, name) = (namespace.daemon(), namespace.name());
        let link = Self { namespace: name.to_owned(), bridge: bridge(name) };
        namespace.run(&["ns", "bridge", &link.bridge, "gre"]).await?;
        for host in namespace.hosts() {
            link.without_rstp(daemon, host).await?;
        }
        Ok(link)
    }

    /// `ns bridge` switches RSTP on for fear of loops, which two bridges have not. Its frames would reach the guests, which
    /// count them as dropped. Where it is switched off, Open vSwitch (3.1) passes nothing to the ports that were there, so that
    /// the tunnel is made once more.
    async fn without_rstp(&self, daemon: &Daemon, host: &str) -> Result<(), MinimegaError> {
        daemon.run_at(host, &["bridge", "config", &self.bridge, "rstp_enable=false"]).await?;
        let tunnel = self.tunnel(daemon, host).await?;
        let get =
            ["shell", "ovs-vsctl", "--timeout=10", "get", "interface", &tunnel, "options:remote_ip", "options:key"];
        let options = daemon.run_at(host, &get).await?;
        let mut options = options.text().lines().map(|line| line.trim().trim_matches('"').to_owned());
        let (Some(to), Some(key)) = (options.next(), options.next()) else {
            let text = format!("the tunnel {tunnel} on {host} has no other end, or no key");
            return Err(MinimegaError::Answer { command: "shell ovs-vsctl".to_owned(), text });
        };
        daemon.run_at(host, &["bridge", "notunnel", &self.bridge, &tunnel]).await?;
        daemon.run_at(host, &["bridge", "tunnel", "gre", &self.bridge, &to, &key]).await?;
        self.tunnel(daemon, host).await.map(drop)
    }

    /// Name of the tunnel's end on a host: `ns bridge` does nothing for a namespace that has one host, and says nothing. Only
    /// where a host knows the namespace, it forgets the names of its networks with it.
    async fn tunnel(&self, daemon: &Daemon, host: &str) -> Result<String, MinimegaError> {
        let answer = daemon.run_at(host, &["namespace", &self.namespace, "bridge"]).await?;
        let rows = answer.table(&["bridge", "tunnels"]).map_err(|garbled| MinimegaError::answer("bridge", garbled))?;
        let is_it = |row: &&Row| row.field("bridge") == self.bridge;
        let mut tunnels = rows.iter().find(is_it).map(|row| listed(row.field("tunnels"))).unwrap_or_default();
        match tunnels.pop() {
            Some(tunnel) if tunnels.is_empty() => Ok(tunnel),
            found => {
                let count = tunnels.len() + usize::from(found.is_some());
                let text = format!("the bridge {} on {host} has {count} tunnels, and was to have one", self.bridge);
                Err(MinimegaError::Answer { command: "bridge".to_owned(), text })
            }
        }
    }

    /// Name of a pair's network: that of the bridge's namespace, so that client and server are on the same one.
    pub(super) fn network(&self, pair: u32) -> String {
        format!("{}//{}{pair}", self.namespace, super::guest::LINK)
    }
}

/// The network between two hosts, in a namespace of its own; `None` where all is on one. It comes first, so that it goes last: taps
/// of both hosts are at its bridge.
///
/// # Errors
/// As [`Holds::take`] and [`Link::make`].
pub(super) async fn join(
    daemon: &Arc<Daemon>,
    holds: &mut Holds,
    request: &Request,
    places: &Places,
) -> Result<Option<Link>, TestbedError> {
    let Some(both) = places.both() else { return Ok(None) };
    let hosts = both.map(str::to_owned);
    let namespace = holds.take(daemon, &request.campaign, &request.scratch, &hosts).await?;
    let link = Link::make(&namespace).await;
    link.map(Some).map_err(|error| error.into_testbed(format!("join {} and {}", both[0], both[1])))
}

/// Waits until all clients reach their servers, and looks whether packets get through that fill the MTU: what is larger than the
/// network between the hosts takes, the tunnel drops without a word.
///
/// # Errors
/// For the first that does not get through.
pub(super) async fn await_ways(
    ends: &[(NodeId, &Client)],
    topology: &Topology,
    [clients, servers]: [&str; 2],
) -> Result<(), TestbedError> {
    let at = |node| ends.iter().copied().find(|(other, _)| *other == node);
    let pairs = ends.iter().copied().filter(|(node, _)| node.role == Role::Client);
    let pairs = pairs.filter_map(|client| Some((client, at(NodeId::server(client.0.pair))?)));
    try_join_all(pairs.map(|(client, server)| async move {
        await_way(client, server.0, topology, [clients, servers]).await?;
        try_full(client, server.0, topology, [clients, servers]).await?;
        try_full(server, client.0, topology, [servers, clients]).await
    }))
    .await
    .map(drop)
}

/// No other address is tried instead: one of this node's own would be reached whatever the tunnel does.
fn address(topology: &Topology, node: NodeId) -> Result<IpAddr, TestbedError> {
    topology
        .address_of(node)
        .map(IpAddr::V4)
        .ok_or_else(|| failed(node, "it has no address that it could be reached at"))
}

/// RSTP keeps a new port shut for some seconds.
async fn await_way(
    (node, client): (NodeId, &Client),
    server: NodeId,
    topology: &Topology,
    [here, there]: [&str; 2],
) -> Result<(), TestbedError> {
    let (begun, target) = (Instant::now(), address(topology, server)?);
    loop {
        match client.walk(target, 1).await {
            Ok((_, true)) => return Ok(()),
            Ok(_) if begun.elapsed() < WAY => tokio::time::sleep(LOOK).await,
            Ok(_) => {
                let why = format!(
                    "it does not reach {server}: nothing has come from {here} to {there} and back within {WAY:?}"
                );
                return Err(failed(node, why));
            }
            Err(error) => return Err(failed(node, Causes(&error))),
        }
    }
}

async fn try_full(
    (node, client): (NodeId, &Client),
    to: NodeId,
    topology: &Topology,
    [here, there]: [&str; 2],
) -> Result<(), TestbedError> {
    let Some(mtu) = topology.mtu else { return Ok(()) };
    let bytes = u16::try_from(mtu).unwrap_or(u16::MAX);
    let target = address(topology, to)?;
    if client.arrives(target, bytes).await.map_err(|error| failed(node, Causes(&error)))? {
        return Ok(());
    }
    let (_, is_answered) = client.walk(target, 1).await.map_err(|error| failed(node, Causes(&error)))?;
    if !is_answered {
        // Images are the user's: one that answers nobody says nothing about the tunnel.
        tracing::warn!(
            "{to} does not answer {node}: whether packets of {bytes} bytes get from {here} to {there} is not known"
        );
        return Ok(());
    }
    let needed = mtu.saturating_add(TUNNEL);
    let why = format!(
        "packets of {bytes} bytes do not get from {here} to {there}, smaller ones do: with mtu = {mtu}, the network between \
         them must take packets of {needed} bytes (choose a smaller `mtu`)"
    );
    Err(failed(node, why))
}

/// What [`await_ways`] has found out, as a fact; `None` without an MTU that was asked for.
pub(super) fn full_packets(topology: &Topology) -> Option<String> {
    Some(format!(
        "{} bytes got through, unfragmented, in each direction in which smaller ones are answered",
        topology.mtu?
    ))
}

/// Interfaces have names of 15 bytes at most; the end of the namespace's is random.
fn bridge(namespace: &str) -> String {
    format!("vpt-{}", namespace.rsplit('-').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(mesh: &[&str], wanted: Option<[&str; 2]>) -> Result<(String, String), String> {
        let mesh: Vec<String> = mesh.iter().map(|&host| host.to_owned()).collect();
        let wanted = wanted.map(|hosts| hosts.map(str::to_owned));
        match choose("kn1", &mesh, wanted.as_ref()) {
            Ok(Places::Apart { clients, servers }) => Ok((clients, servers)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn two_hosts_are_chosen_or_there_is_a_reason() {
        let apart = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(chosen(&["kn1", "kn2"], None), apart("kn1", "kn2"));
        assert_eq!(chosen(&["kn1", "kn2", "kn3"], Some(["kn3", "kn2"])), apart("kn3", "kn2"));
        let why = chosen(&["kn1"], None).unwrap_err();
        assert_eq!(why, "colocated = off: minimega on kn1 has found no other host");
        let why = chosen(&["kn1", "kn2", "kn3"], None).unwrap_err();
        assert!(why.ends_with("is not known, for it has kn1, kn2, kn3"), "{why}");
        let why = chosen(&["kn1", "kn2"], Some(["kn1", "kn9"])).unwrap_err();
        assert!(why.ends_with("kn9 is not in minimega's mesh, which has kn1, kn2"), "{why}");
    }

    #[test]
    fn names_of_bridges_fit_an_interface() {
        let name = bridge("vptest-4294967295-0123456789ab-89abcdef");
        assert_eq!(name, "vpt-89abcdef");
        assert!(name.len() <= 15);
    }
}
