//! Containers of a minimega that are up.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all, select_all, try_join_all};

use super::container::NAME;
use super::daemon::Daemon;
use super::far::FarTaps;
use super::hold::Holds;
use super::inside::Filesystem;
use super::mesh::{self, Places};
use super::recorder::Group;
use super::site::{Container, Site};
use super::switch::Switch;
use super::up::{crashed, daemon_lost, ended, failed, gone};
use crate::host::cage::Cage;
use crate::host::host_name;
use crate::ids::{NodeId, Role, Vantage};
use crate::image::{Bundle, Root};
use crate::node::agent::AgentNode;
use crate::node::local::{self, Processes};
use crate::node::{Command, Node, NodeError, Process};
use crate::record::{Environment, Setting};
use crate::spec::{MinimegaSpec, StressPlace, TapCapture};
use crate::testbed::qemu::up::{host_cpu, host_cpus};
use crate::testbed::qemu::wishes::Wishes;
use crate::testbed::{
    CapturePoint, CaptureSource, CountedAt, Instance, KernelAt, Pair, Path, Request, Teardown, TestbedError, guests,
};
use crate::workload::PairCpus;

/// See the module.
pub(super) struct Up {
    wishes: Wishes,
    spec: MinimegaSpec,
    daemon: Arc<Daemon>,
    places: Places,
    number: u32,
    scratch: PathBuf,
    containers: Vec<Container>,
    switch: Switch,
    far: FarTaps,
    processes: Arc<Processes>,
    pairs: Vec<Pair>,
    facts: Vec<Environment>,
    cpus: Option<Vec<PairCpus>>,
    /// Last: whatever uses the namespaces goes before them.
    holds: Holds,
}

impl Up {
    /// When it fails, or is given up half-way, the namespaces are removed.
    pub(super) async fn launch(
        daemon: Arc<Daemon>,
        spec: MinimegaSpec,
        (filesystem, bundle): (Filesystem, Option<Arc<Bundle>>),
        wishes: Wishes,
        (request, places): (&Request, Places),
    ) -> Result<Self, TestbedError> {
        let pairs = usize::from(wishes.topology.pairs);
        let cpus = if wishes.pinning { Some(host_cpus(pairs)?) } else { None };
        let mut holds = Holds::default();
        let site =
            Site { wishes: &wishes, spec: &spec, filesystem: &filesystem, places: &places, bundle: bundle.as_ref() };
        let up = async {
            let containers = site.start(&daemon, &mut holds, request).await?;
            let here = containers.iter().filter(|container| container.is_here());
            let here = here.map(|container| (&container.plan, &container.machine)).collect();
            let switch = Switch::open(&daemon, here).await?;
            let far = FarTaps::of(&daemon, containers.iter().map(|one| (one.plan.id, &one.machine)))?;
            try_join_all(containers.iter().map(|container| site.set_up(container, cpus.as_deref()))).await?;
            switch.set_up(&wishes.topology).await?;
            far.set_up(&wishes.topology).await?;
            if let Some(both) = places.both() {
                let ends: Vec<_> = containers.iter().map(|one| (one.plan.id, &one.client)).collect();
                mesh::await_ways(&ends, &wishes.topology, both).await?;
            }
            Ok::<_, TestbedError>((containers, switch, far))
        };
        let up = tokio::select! {
            biased;
            up = up => up,
            why = daemon_lost(Arc::clone(&daemon)) => Err(crashed(why)),
        };
        let (containers, switch, far) = match up {
            Ok(up) => up,
            Err(error) => {
                // That says more than what followed from it.
                let error = if ended(&daemon).await { crashed(gone(&daemon)) } else { error };
                for line in holds.release().await {
                    tracing::warn!("left in minimega: {line}");
                }
                return Err(error);
            }
        };
        let cage =
            Cage::open().map_err(|source| TestbedError::Io { what: "make a process namespace".to_owned(), source })?;
        let mut up = Self {
            pairs: pairs_of(&wishes, &containers),
            number: request.number,
            scratch: request.scratch.clone(),
            processes: Arc::new(Processes::new(cage)),
            facts: Vec::new(),
            spec,
            wishes,
            daemon,
            places,
            containers,
            switch,
            far,
            cpus,
            holds,
        };
        up.facts = up.read_facts(&filesystem);
        Ok(up)
    }

    /// Notes the root that the containers started from.
    pub(super) fn with_root(mut self, root: &Root) -> Self {
        self.facts.push(fact("image.id", root.id.clone()));
        self.facts.push(fact("image.base_id", root.base_id.clone()));
        self
    }

    fn read_facts(&self, filesystem: &Filesystem) -> Vec<Environment> {
        let capture = match self.spec.capture {
            TapCapture::Vptest => "vptest, at the host's ends of the containers' links",
            TapCapture::Minimega => "minimega, at the host's ends of the containers' links",
        };
        let tunnel = if self.wishes.tunnel { ", gre tunnel between the containers" } else { "" };
        let pairs = self.wishes.topology.pairs;
        let between = if self.places.both().is_some() { "vlan - gre between the hosts - vlan" } else { "vlan" };
        let mut facts = vec![
            fact("testbed.minimega.version", self.daemon.version.text.clone()),
            fact(
                "testbed.minimega.topology",
                format!("{pairs} x (container - veth - {between} - veth - container){tunnel}"),
            ),
            fact("testbed.minimega.capture", capture.to_owned()),
        ];
        if let Some([clients, servers]) = self.places.both() {
            facts.push(fact("testbed.minimega.host_of_clients", clients.to_owned()));
            facts.push(fact("testbed.minimega.host_of_servers", servers.to_owned()));
            facts.extend(
                mesh::full_packets(&self.wishes.topology).map(|what| fact("testbed.minimega.full_packets", what)),
            );
        }
        if let Filesystem::Users(path, _) = filesystem {
            facts.push(fact("testbed.minimega.filesystem", path.clone()));
        }
        if let Some(first) = self.containers.first() {
            facts.push(fact("testbed.minimega.bridge", first.machine.bridge.clone()));
        }
        for container in &self.containers {
            let hello = container.client.hello();
            let host = container.plan.id.to_string();
            let fact = |name: &str, value: String| Environment { host: host.clone(), name: name.to_owned(), value };
            facts.push(fact("vptest", hello.version.clone()));
            facts.extend(hello.kernel.iter().map(|kernel| fact("kernel", kernel.clone())));
        }
        facts
    }

    /// minimega's captures, together for the containers of each namespace.
    fn groups(&self) -> Vec<(Vec<NodeId>, Arc<Group>)> {
        let rooms = self.containers.chunk_by(|one, next| one.namespace.name() == next.namespace.name());
        let group = |containers: &[Container]| {
            let nodes: Vec<NodeId> = containers.iter().map(|container| container.plan.id).collect();
            let group = Group::of(&containers[0].namespace, &nodes, &self.scratch);
            (nodes, group)
        };
        rooms.map(group).collect()
    }
}

fn fact(name: &str, value: String) -> Environment {
    Environment { host: host_name(), name: name.to_owned(), value }
}

fn pairs_of(wishes: &Wishes, containers: &[Container]) -> Vec<Pair> {
    let node = |id: NodeId| -> Option<Arc<dyn Node>> {
        let container = containers.iter().find(|container| container.plan.id == id)?;
        let address = IpAddr::V4(wishes.address(&container.plan));
        Some(Arc::new(AgentNode { id, address, client: container.client.clone() }))
    };
    let pair = |number| {
        let (client, server) = (node(NodeId::client(number))?, node(NodeId::server(number))?);
        Some(Pair { number, client, server })
    };
    (1..=u32::from(wishes.topology.pairs)).filter_map(pair).collect()
}

#[async_trait]
impl Instance for Up {
    fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// `guest` is the interface that the workload uses, inside the container; `host` is the other end of its link. What is here is
    /// seen from here, and what is not by its agent.
    fn capture_points(&self) -> Vec<CapturePoint> {
        let inside = self.containers.iter().map(|container| CapturePoint {
            node: container.plan.id,
            vantage: Vantage::Guest,
            interface: self.wishes.interface().to_owned(),
            source: match container.network() {
                Some(network) => CaptureSource::Live { namespace: Some(Arc::clone(network)) },
                None => CaptureSource::Agent(container.client.clone()),
            },
        });
        let groups = match self.spec.capture {
            TapCapture::Vptest => Vec::new(),
            TapCapture::Minimega => self.groups(),
        };
        let source = |node: NodeId| match groups.iter().find(|(nodes, _)| nodes.contains(&node)) {
            Some((_, group)) => CaptureSource::Recorded(group.tap(node, &self.scratch)),
            None => CaptureSource::Live { namespace: Some(Arc::clone(self.switch.namespace())) },
        };
        let point =
            |node, tap: &str, source| CapturePoint { node, vantage: Vantage::Host, interface: tap.to_owned(), source };
        let here = self.switch.taps().map(|(node, tap)| point(node, tap, source(node)));
        // By a clock that nobody has compared with this host's.
        let there = self.far.taps().map(|at| point(at.node, &at.tap, CaptureSource::Recorded(at.unreachable())));
        inside.chain(here).chain(there).collect()
    }

    async fn settings(&mut self) -> Result<Vec<Setting>, TestbedError> {
        let mut all = self.switch.settings(&self.wishes.topology).await?;
        all.extend(self.far.settings(&self.wishes.topology).await);
        let read = self.containers.iter().map(|container| {
            let cpus = host_cpu(self.cpus.as_deref(), container.plan.id);
            container.settings(&self.wishes, cpus)
        });
        all.extend(join_all(read).await.into_iter().flatten());
        Ok(all)
    }

    async fn paths(&mut self) -> Result<Vec<Path>, TestbedError> {
        let topology = &self.wishes.topology;
        let clients = self.containers.iter().filter(|container| container.plan.id.role == Role::Client);
        try_join_all(clients.map(|container| async move {
            let walked = guests::walk(container.plan.id, &container.client, topology).await;
            walked.map_err(|why| failed(container.plan.id, why))
        }))
        .await
    }

    fn environment(&self) -> Vec<Environment> {
        self.facts.clone()
    }

    async fn spawn_on_host(&mut self, command: &Command) -> Result<Box<dyn Process>, NodeError> {
        local::start(&self.processes, NodeId::client(1), None, &self.scratch, command).await
    }

    async fn kernels(&mut self) -> Vec<KernelAt> {
        let node = |container: &Container| Some((container.network()?.inode().ok()?, container.plan.id));
        let nodes: Vec<_> = self.containers.iter().filter_map(node).collect();
        let here = Some(KernelAt::Shared { nodes }).filter(|_| self.containers.iter().any(Container::is_here));
        // A container may not follow system calls; then its agent says so.
        let afar = self.containers.iter().filter(|container| !container.is_here());
        let afar = afar.map(|one| KernelAt::Agent { node: one.plan.id, client: one.client.clone() });
        here.into_iter().chain(afar).collect()
    }

    fn counted(&self) -> Vec<CountedAt> {
        let interface = self.wishes.interface().to_owned();
        let node = |container: &Container| match container.network() {
            Some(network) => CountedAt::Here {
                node: container.plan.id,
                namespace: Arc::clone(network),
                interface: Some(interface.clone()),
            },
            None => CountedAt::AgentOfStack {
                node: container.plan.id,
                client: container.client.clone(),
                interface: interface.clone(),
            },
        };
        let ends = self.switch.taps().map(|(node, tap)| (node, tap.to_owned())).collect();
        let switch = CountedAt::Switch { namespace: Arc::clone(self.switch.namespace()), ends };
        self.containers.iter().map(node).chain([switch]).collect()
    }

    /// The containers' first processes, and the switch: with its datapath in userspace, every packet costs it time.
    fn own_processes(&self) -> Vec<u32> {
        let here = self.containers.iter().filter(|container| container.is_here());
        let containers = here.filter_map(|container| container.machine.pid);
        containers.chain(self.switch.process()).collect()
    }

    fn unwatched(&self) -> Vec<NodeId> {
        self.far.taps().map(|at| at.node).collect()
    }

    fn load_inside(&self) -> Option<Vec<Arc<dyn Node>>> {
        let inside = self.spec.stress == StressPlace::Guest;
        let nodes = self.pairs.iter().flat_map(|pair| [Arc::clone(&pair.client), Arc::clone(&pair.server)]);
        inside.then(|| nodes.collect())
    }

    /// Containers run on this host's CPUs.
    fn cpus(&self) -> Option<Vec<PairCpus>> {
        self.cpus.clone()
    }

    fn lost(&self) -> Option<BoxFuture<'static, String>> {
        let daemon = daemon_lost(Arc::clone(&self.daemon)).boxed();
        let lost: Vec<_> = self.containers.iter().map(|container| container.lost().boxed()).chain([daemon]).collect();
        Some(async move { select_all(lost).await.0 }.boxed())
    }

    async fn keep(&mut self) -> Result<String, TestbedError> {
        let kept = self.holds.keep();
        let names = kept.map_err(|source| TestbedError::Io { what: "keep the testbed".to_owned(), source })?;
        Ok(format!(
            "kept {} namespaces of {NAME}; look into them with `minimega -e namespace {} vm info`; remove them with \
             `vptest clean`",
            names.len(),
            names.first().map_or("", String::as_str),
        ))
    }

    async fn teardown(&mut self) -> Teardown {
        let mut left = Vec::new();
        if let Err(error) = self.processes.close().await {
            left.push(format!("processes of iteration {}: {error}", self.number));
        }
        self.pairs.clear();
        let facts = self.containers.iter().filter_map(Container::round_trips).collect();
        // What holds their networks would keep the links. Letters end with them.
        self.containers.clear();
        left.extend(self.holds.release().await);
        Teardown { left, facts, ..Teardown::default() }
    }
}
