//! The testbed `netns`: every client, server and router is a network namespace of this host, joined by veth pairs.
//! `super::lan` has the picture and the addresses.
//!
//! No namespace has a name and nothing is made in the one vptest runs in. So two campaigns cannot meet, the user's links
//! and routes are never touched, and when vptest ends, however it ends, the kernel removes everything.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::lan::build::{self, Network};
use super::lan::topology::{Access, LinkRate, NodePlan, Topology};
use super::lan::{path, preflight, settings};
use super::{
    Beside, CapturePoint, CaptureSource, CountedAt, Instance, KernelAt, Pair, Path, Request, Teardown, Testbed,
    TestbedError,
};
use crate::host::cage::Cage;
use crate::host::kept;
use crate::host::namespace::Namespace;
use crate::host::qdisc::TokenBucket;
use crate::ids::{NodeId, Role, Vantage};
use crate::node::local::{self, LocalNode, Processes, blocking};
use crate::node::{Command, Node, NodeError, Process};
use crate::record::{Environment, Setting};
use crate::spec::Tuple;

/// Name of this testbed in specs.
const NAME: &str = "netns";

/// See the module.
#[derive(Debug, Default)]
pub struct Netns {
    tried: preflight::Tried,
}

#[async_trait]
impl Testbed for Netns {
    fn name(&self) -> &'static str {
        NAME
    }

    fn beside(&self) -> Beside {
        Beside::Kernel
    }

    fn accepts(&self, tuple: &Tuple) -> Result<(), TestbedError> {
        topology(tuple).map(drop)
    }

    async fn preflight(&self, request: &Request) -> Result<(), TestbedError> {
        let topology = topology(&request.tuple)?;
        self.tried.check(&topology).await
    }

    async fn launch(&self, request: &Request) -> Result<Box<dyn Instance>, TestbedError> {
        let topology = topology(&request.tuple)?;
        // Not on a thread of its own: a launch that nobody waits for any more would go on there, and come up while the
        // iteration's files are being removed. It takes some milliseconds for each pair.
        Ok(Box::new(Up::launch(topology, request)?))
    }
}

/// A testbed that is up.
struct Up {
    topology: Topology,
    number: u32,
    attempt: u32,
    scratch: PathBuf,
    pairs: Vec<Pair>,
    processes: Arc<Processes>,
    /// `None` after teardown.
    network: Option<Arc<Network>>,
}

impl Up {
    fn launch(topology: Topology, request: &Request) -> Result<Self, TestbedError> {
        let network = Network::build(&topology)?;
        let cage =
            Cage::open().map_err(|source| TestbedError::Io { what: "make a process namespace".to_owned(), source })?;
        let processes = Arc::new(Processes::new(cage));
        let mut nodes = BTreeMap::new();
        for (plan, stack) in network.nodes.values() {
            if !matches!(plan.id.role, Role::Router(_)) {
                nodes.insert(plan.id, local_node(plan, &stack.namespace, request, &processes)?);
            }
        }
        let pairs = (1..=u32::from(topology.pairs)).map(|number| Pair {
            number,
            client: Arc::clone(&nodes[&NodeId::client(number)]),
            server: Arc::clone(&nodes[&NodeId::server(number)]),
        });
        let pairs = pairs.collect();
        let (number, attempt, scratch) = (request.number, request.attempt, request.scratch.clone());
        Ok(Self { topology, number, attempt, scratch, pairs, processes, network: Some(Arc::new(network)) })
    }

    fn network(&self) -> Result<&Arc<Network>, TestbedError> {
        self.network.as_ref().ok_or_else(|| TestbedError::Io {
            what: "use the namespaces".to_owned(),
            source: std::io::Error::other("the testbed was taken down"),
        })
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.processes.abandon();
    }
}

#[async_trait]
impl Instance for Up {
    fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// `guest` is the node's own end of its link, `host` the other end; packets towards the node are seen there after
    /// the rate limit.
    fn capture_points(&self) -> Vec<CapturePoint> {
        let Some(network) = &self.network else { return Vec::new() };
        let of_node = |(plan, stack): &(NodePlan, build::Stack)| {
            let point = |vantage, interface: &str, namespace: &Arc<Namespace>| CapturePoint {
                node: plan.id,
                vantage,
                interface: interface.to_owned(),
                source: CaptureSource::Live { namespace: Some(Arc::clone(namespace)) },
            };
            plan.ports
                .iter()
                .filter(|_| !matches!(plan.id.role, Role::Router(_)))
                .flat_map(|port| {
                    let guest = point(Vantage::Guest, port.name, &stack.namespace);
                    let host = port.host.iter().map(|host| point(Vantage::Host, &host.name, &network.host.namespace));
                    std::iter::once(guest).chain(host).collect::<Vec<_>>()
                })
                .collect::<Vec<_>>()
        };
        network.nodes.values().flat_map(of_node).collect()
    }

    async fn settings(&mut self) -> Result<Vec<Setting>, TestbedError> {
        let (network, topology) = (Arc::clone(self.network()?), self.topology.clone());
        let read = blocking(move || Ok(settings::read(&network, &topology))).await;
        read.map_err(|source| TestbedError::Io { what: "read the settings back".to_owned(), source })?
    }

    async fn paths(&mut self) -> Result<Vec<Path>, TestbedError> {
        let network = Arc::clone(self.network()?);
        let walks = (1..=self.topology.pairs).map(|pair| {
            let (network, topology) = (Arc::clone(&network), self.topology.clone());
            (pair, tokio::spawn(blocking(move || path::walk(&network, &topology, pair))))
        });
        let mut paths = Vec::new();
        for (pair, walk) in walks.collect::<Vec<_>>() {
            let walked = walk.await.map_err(std::io::Error::other).and_then(|walked| walked);
            paths.push(walked.map_err(|source| TestbedError::Io {
                what: format!("walk the path from {}", NodeId::client(u32::from(pair))),
                source,
            })?);
        }
        Ok(paths)
    }

    fn environment(&self) -> Vec<Environment> {
        let host =
            nix::unistd::gethostname().map_or_else(|_| "host".to_owned(), |name| name.to_string_lossy().into_owned());
        let fact = |name: &str, value: String| Environment { host: host.clone(), name: name.to_owned(), value };
        let mut facts = vec![fact("testbed.netns.topology", self.describe_topology())];
        if let Ok(uname) = nix::sys::utsname::uname() {
            facts.push(fact("kernel", uname.release().to_string_lossy().into_owned()));
        }
        if let LinkRate::Limit(rate) = self.topology.rate
            && let Some(bucket) = TokenBucket::for_link(rate, self.topology.effective_mtu())
        {
            let text = format!("tbf, burst {} B, limit {} B, at the egress of c* and s*", bucket.burst, bucket.limit);
            facts.push(fact("testbed.netns.shaper", text));
        }
        facts
    }

    async fn kernels(&mut self) -> Vec<KernelAt> {
        let Some(network) = &self.network else { return Vec::new() };
        let workload = self.processes.workload().await;
        let nodes = network.nodes.values();
        let nodes = nodes.filter_map(|(plan, stack)| Some((stack.namespace.inode().ok()?, plan.id))).collect();
        vec![KernelAt::Here { workload, nodes }]
    }

    fn counted(&self) -> Vec<CountedAt> {
        let Some(network) = &self.network else { return Vec::new() };
        let router = |plan: &NodePlan| matches!(plan.id.role, Role::Router(_));
        let node = |(plan, stack): &(NodePlan, build::Stack)| CountedAt::Here {
            node: plan.id,
            namespace: Arc::clone(&stack.namespace),
            interface: plan.ports.first().filter(|_| !router(plan)).map(|port| port.name.to_owned()),
        };
        let end = |(plan, _): &(NodePlan, build::Stack)| {
            Some((plan.id, plan.ports.first()?.host.as_ref()?.name.clone())).filter(|_| !router(plan))
        };
        let ends = network.nodes.values().filter_map(end).collect();
        let switch = CountedAt::Switch { namespace: Arc::clone(&network.host.namespace), ends };
        network.nodes.values().map(node).chain([switch]).collect()
    }

    async fn spawn_on_host(&mut self, command: &Command) -> Result<Box<dyn Process>, NodeError> {
        // The error names a node; the one nearest to the host is the first.
        local::start(&self.processes, NodeId::client(1), None, &self.scratch, command).await
    }

    async fn keep(&mut self) -> Result<String, TestbedError> {
        let network = Arc::clone(self.network()?);
        let (number, attempt) = (self.number, self.attempt);
        let kept = blocking(move || {
            let nodes = network.nodes.values().map(|(plan, stack)| (plan.id.to_string(), &*stack.namespace));
            let host = std::iter::once(("switch".to_owned(), &*network.host.namespace));
            kept::keep(number, attempt, host.chain(nodes))
        });
        let names = kept.await.map_err(|source| TestbedError::Io { what: "keep the testbed".to_owned(), source })?;
        Ok(format!(
            "kept {} network namespaces; processes do not survive. Look into them with `ip netns exec {} sh`; \
             remove them with `vptest clean`",
            names.len(),
            names.get(1).or(names.first()).map_or("", String::as_str),
        ))
    }

    async fn teardown(&mut self) -> Teardown {
        let mut left = Vec::new();
        if let Err(error) = self.processes.close().await {
            left.push(format!("processes of iteration {}: {error}", self.number));
        }
        self.pairs.clear();
        self.network = None;
        Teardown { left, ..Teardown::default() }
    }
}

impl Up {
    fn describe_topology(&self) -> String {
        let hops = self.topology.hops.iter().map(|hop| format!(" - {hop}")).collect::<String>();
        let middle = if hops.is_empty() { "bridge".to_owned() } else { format!("bridge{hops} - bridge") };
        format!("{} x (client - {middle} - server), veth", self.topology.pairs)
    }
}

fn topology(tuple: &Tuple) -> Result<Topology, TestbedError> {
    Topology::of(NAME, Access::Veth, tuple)
}

fn local_node(
    plan: &NodePlan,
    namespace: &Arc<Namespace>,
    request: &Request,
    processes: &Arc<Processes>,
) -> Result<Arc<dyn Node>, TestbedError> {
    let scratch = request.scratch.join(plan.id.to_string());
    std::fs::create_dir(&scratch)
        .map_err(|source| TestbedError::Io { what: format!("create {}", scratch.display()), source })?;
    Ok(Arc::new(LocalNode {
        id: plan.id,
        address: IpAddr::V4(plan.ports.first().map_or(Ipv4Addr::UNSPECIFIED, |port| port.address)),
        scratch: utf8(scratch)?,
        vptest: utf8(request.vptest.clone())?,
        namespace: Some(Arc::clone(namespace)),
        processes: Arc::clone(processes),
    }))
}

/// Paths become arguments of commands, which are text.
fn utf8(path: PathBuf) -> Result<String, TestbedError> {
    path.into_os_string().into_string().map_err(|path| TestbedError::Unsupported {
        what: format!("the path {} is not UTF-8", path.display()),
        hint: Some("choose another output directory".to_owned()),
    })
}
