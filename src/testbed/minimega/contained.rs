//! Containers of a minimega that are up.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all, select_all, try_join_all};

use super::MinimegaError;
use super::cgroup::Cgroups;
use super::container::NAME;
use super::daemon::{Daemon, Namespace};
use super::guest::limit_rate;
use super::hold::Holds;
use super::inside::{self, Filesystem, First};
use super::machine::{self, Machine};
use super::recorder::Group;
use super::switch::Switch;
use super::up::{Causes, crashed, daemon_lost, ended, failed, gone, of_pair, state_of};
use crate::agent::Client;
use crate::host::cage::Cage;
use crate::host::namespace::Namespace as Network;
use crate::host::{cpus, host_name};
use crate::ids::{NodeId, Role, Vantage};
use crate::image::Root;
use crate::node::agent::AgentNode;
use crate::node::local::{self, Processes, blocking};
use crate::node::{Command, Node, NodeError, Process};
use crate::record::{Environment, Setting};
use crate::spec::{MinimegaSpec, StressPlace, TapCapture};
use crate::testbed::lan::build::set_sysctls_within;
use crate::testbed::lan::topology::{LinkRate, NodePlan};
use crate::testbed::qemu::settings::of_interfaces;
use crate::testbed::qemu::up::{host_cpu, host_cpus};
use crate::testbed::qemu::wishes::Wishes;
use crate::testbed::{
    CapturePoint, CaptureSource, CountedAt, Instance, KernelAt, Pair, Path, Request, Teardown, TestbedError, guests,
};
use crate::text::printable_bytes;
use crate::workload::PairCpus;

/// How long containers may take until their agents answer, and each of them besides.
const START: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(1));
/// Bytes of a container's console that an error has.
const CONSOLE: usize = 600;
/// What minimega says of a container that ended before it could be frozen.
const NEVER_CAME: &str = "freezer.state: no such file";

/// A container whose agent answers.
struct Container {
    plan: NodePlan,
    machine: Machine,
    client: Client,
    namespace: Arc<Namespace>,
    /// Its network, which is one of this kernel's.
    network: Arc<Network>,
    cgroups: Cgroups,
}

/// See the module.
pub(super) struct Up {
    wishes: Wishes,
    spec: MinimegaSpec,
    daemon: Arc<Daemon>,
    number: u32,
    scratch: PathBuf,
    containers: Vec<Container>,
    switch: Switch,
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
        filesystem: Filesystem,
        wishes: Wishes,
        request: &Request,
    ) -> Result<Self, TestbedError> {
        let pairs = usize::from(wishes.topology.pairs);
        let cpus = if wishes.pinning { Some(host_cpus(pairs)?) } else { None };
        let mut holds = Holds::default();
        let site = Site { wishes: &wishes, spec: &spec, filesystem: &filesystem };
        let up = async {
            let containers = site.start(&daemon, &mut holds, request).await?;
            let both = containers.iter().map(|container| (&container.plan, &container.machine)).collect();
            let switch = Switch::open(&daemon, both).await?;
            try_join_all(containers.iter().map(|container| site.set_up(container, cpus.as_deref()))).await?;
            switch.set_up(&wishes.topology).await?;
            Ok::<_, TestbedError>((containers, switch))
        };
        let up = tokio::select! {
            biased;
            up = up => up,
            why = daemon_lost(Arc::clone(&daemon)) => Err(crashed(why)),
        };
        let (containers, switch) = match up {
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
            containers,
            switch,
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
        let mut facts = vec![
            fact("testbed.minimega.version", self.daemon.version.text.clone()),
            fact(
                "testbed.minimega.topology",
                format!("{pairs} x (container - veth - vlan - veth - container){tunnel}"),
            ),
            fact("testbed.minimega.capture", capture.to_owned()),
        ];
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

    /// minimega's captures of each pair.
    fn groups(&self) -> Vec<(u32, Arc<Group>)> {
        let clients = self.containers.iter().filter(|container| container.plan.id.role == Role::Client);
        let group = |container: &Container| {
            let pair = container.plan.id.pair;
            let nodes = [NodeId::client(pair), NodeId::server(pair)];
            (pair, Group::of(&container.namespace, &nodes, &self.scratch))
        };
        clients.map(group).collect()
    }
}

fn fact(name: &str, value: String) -> Environment {
    Environment { host: host_name(), name: name.to_owned(), value }
}

/// What a launch makes containers of.
struct Site<'a> {
    wishes: &'a Wishes,
    spec: &'a MinimegaSpec,
    filesystem: &'a Filesystem,
}

impl Site<'_> {
    /// Launches and starts all containers and waits for their agents.
    async fn start(
        &self,
        daemon: &Arc<Daemon>,
        holds: &mut Holds,
        request: &Request,
    ) -> Result<Vec<Container>, TestbedError> {
        let mut links = Vec::new();
        for pair in 1..=u32::from(self.wishes.topology.pairs) {
            links.push((pair, holds.take(daemon, &request.campaign, &request.scratch).await?));
        }
        let launched = try_join_all(links.iter().map(|(pair, namespace)| self.launch(*pair, namespace))).await?;
        // Their processes are there. Whatever happens now, they are found.
        for ((_, namespace), machines) in links.iter().zip(&launched) {
            holds.note(namespace, &machines.iter().collect::<Vec<_>>())?;
        }
        let started = try_join_all(links.iter().map(|(pair, namespace)| boot(*pair, namespace))).await?;
        let plans = self.wishes.topology.nodes();
        let further = START.1.saturating_mul(u32::try_from(plans.len()).unwrap_or(u32::MAX));
        let limit = self.spec.boot_timeout.unwrap_or(START.0 + further);
        let machines = links.iter().zip(started).flat_map(|((_, namespace), machines)| {
            machines.into_iter().map(move |machine| (Arc::clone(namespace), machine))
        });
        let reached =
            plans.into_iter().zip(machines).map(|(plan, (namespace, machine))| enter(plan, machine, namespace, limit));
        try_join_all(reached).await
    }

    /// Launches the two containers of a pair.
    async fn launch(&self, pair: u32, namespace: &Arc<Namespace>) -> Result<Vec<Machine>, TestbedError> {
        let Wishes { memory, vcpus, .. } = *self.wishes;
        let nodes = [NodeId::client(pair), NodeId::server(pair)];
        let plans = nodes.map(|node| inside::plan(node, namespace.name(), self.filesystem, memory, vcpus));
        machine::launch(namespace, &plans).await.map_err(|error| of_pair(pair, explained(error), "launch"))
    }

    /// Network, rate, offloads, CPUs.
    async fn set_up(&self, container: &Container, cpus: Option<&[PairCpus]>) -> Result<(), TestbedError> {
        let node = container.plan.id;
        let mut setup = self.wishes.network(&container.plan);
        // The kernel is this host's, and loads what it needs; minimega mounts `/proc/sys` so that it cannot be written.
        setup.modules.clear();
        setup.sysctls.clear();
        let (network, long_life) = (Arc::clone(&container.network), self.wishes.topology.needs_long_life());
        let set = move || network.run(|| set_sysctls_within(node.role, long_life));
        let io = |what: String| move |source| TestbedError::Io { what, source };
        blocking(set).await.map_err(io(format!("set up the network of {node}")))?;
        container.client.configure(&setup).await.map_err(|error| failed(node, Causes(&error)))?;
        for interface in &setup.interfaces {
            guests::await_link(&container.client, &interface.name).await.map_err(|why| failed(node, why))?;
        }
        if let LinkRate::Limit(rate) = self.wishes.topology.rate {
            let limited = limit_rate(&container.namespace, &container.machine.name, 0, rate).await;
            limited.map_err(|error| error.into_testbed(format!("limit the rate of {node}")))?;
        }
        match host_cpu(cpus, node) {
            Some(cpus) => container.pin(&cpus).map_err(io(format!("pin the processes of {node}"))),
            None => Ok(()),
        }
    }
}

/// Starts the containers of a pair.
async fn boot(pair: u32, namespace: &Arc<Namespace>) -> Result<Vec<Machine>, TestbedError> {
    let names = [NodeId::client(pair), NodeId::server(pair)].map(|node| node.to_string());
    machine::start(namespace, &names).await.map_err(|error| of_pair(pair, error, "start"))
}

/// Why a container could not be launched, where minimega only says what followed from it.
fn explained(error: MinimegaError) -> MinimegaError {
    let lacking: Vec<&str> = ["/proc/kcore", "/proc/sysrq-trigger"]
        .into_iter()
        .filter(|path| !std::path::Path::new(path).exists())
        .collect();
    match error {
        MinimegaError::Machine { machine, why } if why.contains(NEVER_CAME) && !lacking.is_empty() => {
            let lacking = lacking.join(" and ");
            MinimegaError::Machine {
                machine,
                why: format!(
                    "{why} (it ended while it was set up; this kernel has no {lacking}, which minimega hides)"
                ),
            }
        }
        MinimegaError::Machine { machine, why } if why.contains(NEVER_CAME) => MinimegaError::Machine {
            machine,
            why: format!("{why} (it ended while it was set up; minimega's log at level debug says why)"),
        },
        other => other,
    }
}

/// Waits for the agent of a container that was started.
async fn enter(
    plan: NodePlan,
    machine: Machine,
    namespace: Arc<Namespace>,
    limit: Duration,
) -> Result<Container, TestbedError> {
    let reached = async {
        let here = |source| crate::agent::AgentError::Here { what: format!("find {}", machine.name), source };
        let first = First::of(&machine, namespace.daemon()).map_err(here)?;
        let network = Network::of_process(first.pid).map_err(here)?;
        let cgroups = Cgroups::of(first.pid, machine.id);
        let client = inside::reach(first, &machine.name, limit).await?;
        Ok::<_, crate::agent::AgentError>((Arc::new(network), cgroups, client))
    };
    match reached.await {
        Ok((network, cgroups, client)) => Ok(Container { plan, machine, client, namespace, network, cgroups }),
        Err(error) => {
            let state = state_of(&namespace, &machine.name).await;
            let console = inside::console(namespace.daemon(), &machine).await;
            let tail = printable_bytes(&console[console.len().saturating_sub(CONSOLE)..], CONSOLE);
            Err(failed(plan.id, format_args!("{}; {state}; its console ends with: {tail}", Causes(&error))))
        }
    }
}

impl Container {
    /// Binds all processes to CPUs of this host; those that they start inherit it.
    fn pin(&self, to: &[usize]) -> std::io::Result<()> {
        self.cgroups.threads()?.into_iter().try_for_each(|thread| match cpus::pin(thread, to) {
            // It has ended since.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        })
    }

    /// CPUs of this host that its processes may run on, as `0` or `0,1`, one for each kind of thread; `None` when that cannot
    /// be read.
    fn pinned(&self) -> Option<String> {
        let text = |cpus: Vec<usize>| cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let all: std::collections::BTreeSet<String> =
            self.cgroups.threads().ok()?.into_iter().filter_map(cpus::of).map(text).collect();
        (!all.is_empty()).then(|| all.into_iter().collect::<Vec<_>>().join(";"))
    }

    async fn settings(&self, wishes: &Wishes, cpus: Option<[usize; 1]>) -> Vec<Setting> {
        let node = Some(self.plan.id);
        let mut settings = of_interfaces(self.plan.id, &self.client, wishes).await;
        let memory = (wishes.memory.0.div_ceil(1 << 20) << 20).to_string();
        settings.push(Setting::compare(node, "memory", Some(memory), self.cgroups.memory()));
        settings.push(Setting::compare(node, "vcpus", Some(wishes.vcpus.to_string()), self.cgroups.vcpus()));
        if let Some([cpu]) = cpus {
            settings.push(Setting::compare(node, "container_cpus", Some(cpu.to_string()), self.pinned()));
        }
        settings
    }

    /// Resolves when the agent does not answer any more, and says what minimega knows of it.
    fn lost(&self) -> impl Future<Output = String> + Send + 'static {
        let (client, namespace) = (self.client.clone(), Arc::clone(&self.namespace));
        let (node, name) = (self.plan.id, self.machine.name.clone());
        async move {
            let silence = client.lost().await;
            let state = state_of(&namespace, &name).await;
            format!("{node}: {}; {state}", Causes(&silence))
        }
    }
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

    /// `guest` is the interface that the workload uses, inside the container; `host` is the other end of its link.
    fn capture_points(&self) -> Vec<CapturePoint> {
        let inside = self.containers.iter().map(|container| CapturePoint {
            node: container.plan.id,
            vantage: Vantage::Guest,
            interface: self.wishes.interface().to_owned(),
            source: CaptureSource::Live { namespace: Some(Arc::clone(&container.network)) },
        });
        let groups = match self.spec.capture {
            TapCapture::Vptest => Vec::new(),
            TapCapture::Minimega => self.groups(),
        };
        let source = |node: NodeId| match groups.iter().find(|(pair, _)| *pair == node.pair) {
            Some((_, group)) => CaptureSource::Recorded(group.tap(node, &self.scratch)),
            None => CaptureSource::Live { namespace: Some(Arc::clone(self.switch.namespace())) },
        };
        let outside = self.switch.taps().map(|(node, tap)| CapturePoint {
            node,
            vantage: Vantage::Host,
            interface: tap.to_owned(),
            source: source(node),
        });
        inside.chain(outside).collect()
    }

    async fn settings(&mut self) -> Result<Vec<Setting>, TestbedError> {
        let mut all = self.switch.settings(&self.wishes.topology).await?;
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
        let node = |container: &Container| Some((container.network.inode().ok()?, container.plan.id));
        vec![KernelAt::Shared { nodes: self.containers.iter().filter_map(node).collect() }]
    }

    fn counted(&self) -> Vec<CountedAt> {
        let node = |container: &Container| CountedAt::Here {
            node: container.plan.id,
            namespace: Arc::clone(&container.network),
            interface: Some(self.wishes.interface().to_owned()),
        };
        let ends = self.switch.taps().map(|(node, tap)| (node, tap.to_owned())).collect();
        let switch = CountedAt::Switch { namespace: Arc::clone(self.switch.namespace()), ends };
        self.containers.iter().map(node).chain([switch]).collect()
    }

    /// The containers' first processes, and the switch: with its datapath in userspace, every packet costs it time.
    fn own_processes(&self) -> Vec<u32> {
        let containers = self.containers.iter().filter_map(|container| container.machine.pid);
        containers.chain(self.switch.process()).collect()
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
        // What holds their networks would keep the links.
        self.containers.clear();
        left.extend(self.holds.release().await);
        Teardown { left }
    }
}
