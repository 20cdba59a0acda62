//! Bringing up containers of a minimega, and what they are then.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;

use super::MinimegaError;
use super::afar::{self, Afar};
use super::cc::ROUND_TRIPS;
use super::cgroup::Cgroups;
use super::daemon::{Daemon, Namespace};
use super::guest::limit_rate;
use super::hold::Holds;
use super::inside::{self, Filesystem, First};
use super::machine::{self, Machine, Plan};
use super::mesh::{self, Link, Places};
use super::reach::OwnGuests;
use super::up::{Causes, failed, of_pair, state_of};
use crate::agent::Client;
use crate::host::cpus;
use crate::host::namespace::Namespace as Network;
use crate::ids::NodeId;
use crate::image::Bundle;
use crate::node::local::blocking;
use crate::record::{Environment, Setting};
use crate::spec::{GuestReach, MinimegaSpec};
use crate::testbed::lan::build::set_sysctls_within;
use crate::testbed::lan::topology::{LinkRate, NodePlan};
use crate::testbed::qemu::settings::of_interfaces;
use crate::testbed::qemu::up::host_cpu;
use crate::testbed::qemu::wishes::Wishes;
use crate::testbed::{Request, TestbedError, guests};
use crate::text::printable_bytes;
use crate::workload::PairCpus;

/// How long containers may take until their agents answer, and each of them besides.
const START: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(1));
/// The same for those of other hosts, to which vptest is sent first, by heartbeats.
const START_AFAR: (Duration, Duration) = (Duration::from_secs(180), Duration::from_secs(10));
/// Bytes of a container's console that an error has.
const CONSOLE: usize = 600;
/// What minimega says of a container that ended before it could be frozen.
const NEVER_CAME: &str = "freezer.state: no such file";

/// A container whose agent answers.
pub(super) struct Container {
    pub(super) plan: NodePlan,
    pub(super) machine: Machine,
    pub(super) client: Client,
    pub(super) namespace: Arc<Namespace>,
    pub(super) place: Place,
}

/// Where a container is.
pub(super) enum Place {
    /// On this host.
    Here {
        /// Its network, which is one of this kernel's.
        network: Arc<Network>,
        cgroups: Cgroups,
    },
    /// On another host of the mesh.
    Afar(Afar),
}

/// A namespace, and the nodes whose containers are in it.
struct Room {
    nodes: Vec<NodeId>,
    namespace: Arc<Namespace>,
}

impl Room {
    fn pair(&self) -> u32 {
        self.nodes[0].pair
    }
}

/// What a launch makes containers of.
pub(super) struct Site<'a> {
    pub(super) wishes: &'a Wishes,
    pub(super) spec: &'a MinimegaSpec,
    pub(super) filesystem: &'a Filesystem,
    pub(super) places: &'a Places,
    /// vptest for containers of other hosts; `None` where there are none.
    pub(super) bundle: Option<&'a Arc<Bundle>>,
}

impl Site<'_> {
    /// Launches and starts all containers and waits for their agents.
    pub(super) async fn start(
        &self,
        daemon: &Arc<Daemon>,
        holds: &mut Holds,
        request: &Request,
    ) -> Result<Vec<Container>, TestbedError> {
        let link = mesh::join(daemon, holds, request, self.places).await?;
        let rooms = self.rooms(daemon, holds, request).await?;
        let launched = try_join_all(rooms.iter().map(|room| self.launch(room, link.as_ref()))).await?;
        // Their processes are there. Whatever happens now, they are found.
        for (room, machines) in rooms.iter().zip(&launched) {
            holds.note(&room.namespace, &machines.iter().collect::<Vec<_>>())?;
        }
        let started = try_join_all(rooms.iter().map(boot)).await?;
        let plans = self.wishes.topology.nodes();
        let (first, each) = if self.places.both().is_some() { START_AFAR } else { START };
        let further = each.saturating_mul(u32::try_from(plans.len()).unwrap_or(u32::MAX));
        let limit = self.spec.boot_timeout.unwrap_or(first + further);
        let machines = rooms.iter().zip(started).flat_map(|(room, machines)| {
            machines.into_iter().map(move |machine| (Arc::clone(&room.namespace), machine))
        });
        let reached = plans
            .into_iter()
            .zip(machines)
            .map(|(plan, (namespace, machine))| enter(plan, machine, namespace, self.bundle, limit));
        try_join_all(reached).await
    }

    /// Namespaces for all nodes: one for each pair, or one for each node where those of a pair are apart.
    async fn rooms(
        &self,
        daemon: &Arc<Daemon>,
        holds: &mut Holds,
        request: &Request,
    ) -> Result<Vec<Room>, TestbedError> {
        let mut rooms = Vec::new();
        let size = if self.places.both().is_some() { 1 } else { 2 };
        for pair in 1..=u32::from(self.wishes.topology.pairs) {
            for nodes in [NodeId::client(pair), NodeId::server(pair)].chunks(size) {
                let hosts = self.places.of(nodes[0].role);
                let namespace = holds.take(daemon, &request.campaign, &request.scratch, &hosts).await?;
                rooms.push(Room { nodes: nodes.to_vec(), namespace });
            }
        }
        Ok(rooms)
    }

    /// Launches the containers of a namespace.
    async fn launch(&self, room: &Room, link: Option<&Link>) -> Result<Vec<Machine>, TestbedError> {
        let plans: Vec<Plan> = room.nodes.iter().map(|node| self.plan(*node, &room.namespace, link)).collect();
        let here = room.namespace.far().is_none();
        let launched = machine::launch(&room.namespace, &plans).await;
        launched.map_err(|error| of_pair(room.pair(), if here { explained(error) } else { error }, "launch"))
    }

    fn plan(&self, node: NodeId, namespace: &Namespace, link: Option<&Link>) -> Plan {
        let Wishes { memory, vcpus, .. } = *self.wishes;
        let name = namespace.name();
        let mut plan = match (self.filesystem, namespace.far()) {
            (Filesystem::Users(path, _), Some(_)) => afar::plan(node, name, path, memory, vcpus),
            (filesystem, _) => inside::plan(node, name, filesystem, memory, vcpus),
        };
        if let Some(link) = link {
            for nic in &mut plan.nics {
                (nic.bridge, nic.vlan) = (Some(link.bridge.clone()), link.network(node.pair));
            }
        }
        plan
    }

    /// Network, rate, offloads, CPUs.
    pub(super) async fn set_up(&self, container: &Container, cpus: Option<&[PairCpus]>) -> Result<(), TestbedError> {
        let node = container.plan.id;
        let mut setup = self.wishes.network(&container.plan);
        // The kernel is this host's, and loads what it needs; minimega mounts `/proc/sys` so that it cannot be written.
        setup.modules.clear();
        setup.sysctls.clear();
        container.set_sysctls(self.wishes.topology.needs_long_life()).await?;
        container.client.configure(&setup).await.map_err(|error| failed(node, Causes(&error)))?;
        for interface in &setup.interfaces {
            guests::await_link(&container.client, &interface.name).await.map_err(|why| failed(node, why))?;
        }
        if let LinkRate::Limit(rate) = self.wishes.topology.rate {
            let limited = limit_rate(&container.namespace, &container.machine.name, 0, rate).await;
            limited.map_err(|error| error.into_testbed(format!("limit the rate of {node}")))?;
        }
        match host_cpu(cpus, node) {
            Some(cpus) => container
                .pin(&cpus)
                .map_err(|source| TestbedError::Io { what: format!("pin the processes of {node}"), source }),
            None => Ok(()),
        }
    }
}

/// Starts the containers of a namespace.
async fn boot(room: &Room) -> Result<Vec<Machine>, TestbedError> {
    let names: Vec<String> = room.nodes.iter().map(ToString::to_string).collect();
    machine::start(&room.namespace, &names).await.map_err(|error| of_pair(room.pair(), error, "start"))
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
    bundle: Option<&Arc<Bundle>>,
    limit: Duration,
) -> Result<Container, TestbedError> {
    if let (Some(_), Some(bundle)) = (namespace.far(), bundle) {
        return enter_afar(plan, machine, namespace, bundle, limit).await;
    }
    let reached = async {
        let here = |source| crate::agent::AgentError::Here { what: format!("find {}", machine.name), source };
        let first = First::of(&machine, namespace.daemon()).map_err(here)?;
        let network = Network::of_process(first.pid).map_err(here)?;
        let cgroups = Cgroups::of(first.pid, machine.id);
        let client = inside::reach(first, &machine.name, limit).await?;
        Ok::<_, crate::agent::AgentError>((Arc::new(network), cgroups, client))
    };
    match reached.await {
        Ok((network, cgroups, client)) => {
            Ok(Container { plan, machine, client, namespace, place: Place::Here { network, cgroups } })
        }
        Err(error) => {
            let state = state_of(&namespace, &machine.name).await;
            let console = inside::console(namespace.daemon(), &machine).await;
            let tail = printable_bytes(&console[console.len().saturating_sub(CONSOLE)..], CONSOLE);
            Err(failed(plan.id, format_args!("{}; {state}; its console ends with: {tail}", Causes(&error))))
        }
    }
}

/// Waits for the miniccc in a container of another host, and has it start an agent.
async fn enter_afar(
    plan: NodePlan,
    machine: Machine,
    namespace: Arc<Namespace>,
    bundle: &Arc<Bundle>,
    limit: Duration,
) -> Result<Container, TestbedError> {
    let daemon = Arc::clone(namespace.daemon());
    let guests = OwnGuests::new(&namespace, &GuestReach::Cc { files: None }, bundle);
    let why = match guests.reach(&machine, limit).await {
        Ok(reached) => {
            let client = reached.client.clone();
            match Afar::of(&daemon, &machine, reached).await {
                Ok(afar) => return Ok(Container { plan, machine, client, namespace, place: Place::Afar(afar) }),
                Err(why) => why,
            }
        }
        Err(error) => Causes(error.as_ref()).to_string(),
    };
    let state = state_of(&namespace, &machine.name).await;
    Err(failed(plan.id, format_args!("{why}; {state}; its console is a socket on {}", machine.host)))
}

impl Container {
    /// Is it on the host that vptest runs on?
    pub(super) fn is_here(&self) -> bool {
        matches!(self.place, Place::Here { .. })
    }

    /// Its network, where it is one of this kernel's.
    pub(super) fn network(&self) -> Option<&Arc<Network>> {
        match &self.place {
            Place::Here { network, .. } => Some(network),
            Place::Afar(_) => None,
        }
    }

    /// How many round trips through its miniccc there were, as a fact.
    pub(super) fn round_trips(&self) -> Option<Environment> {
        let Place::Afar(afar) = &self.place else { return None };
        let value = afar.round_trips()?.to_string();
        Some(Environment { host: self.plan.id.to_string(), name: ROUND_TRIPS.to_owned(), value })
    }

    async fn set_sysctls(&self, long_life: bool) -> Result<(), TestbedError> {
        let role = self.plan.id.role;
        let what = || format!("set up the network of {}", self.plan.id);
        match &self.place {
            Place::Here { network, .. } => {
                let network = Arc::clone(network);
                let set = move || network.run(|| set_sysctls_within(role, long_life));
                blocking(set).await.map_err(|source| TestbedError::Io { what: what(), source })
            }
            Place::Afar(afar) => {
                let set = afar.set_sysctls(self.namespace.daemon(), role, long_life).await;
                set.map_err(|error| error.into_testbed(format!("{} on {}", what(), afar.host())))
            }
        }
    }

    /// All its threads, as this host numbers them.
    fn threads(&self) -> std::io::Result<Vec<i32>> {
        match &self.place {
            Place::Here { cgroups, .. } => cgroups.threads(),
            Place::Afar(afar) => Err(std::io::Error::other(format!("it is on {}", afar.host()))),
        }
    }

    /// Binds all processes to CPUs of this host; those that they start inherit it.
    fn pin(&self, to: &[usize]) -> std::io::Result<()> {
        self.threads()?.into_iter().try_for_each(|thread| match cpus::pin(thread, to) {
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
            self.threads().ok()?.into_iter().filter_map(cpus::of).map(text).collect();
        (!all.is_empty()).then(|| all.into_iter().collect::<Vec<_>>().join(";"))
    }

    pub(super) async fn settings(&self, wishes: &Wishes, cpus: Option<[usize; 1]>) -> Vec<Setting> {
        let node = Some(self.plan.id);
        let mut settings = of_interfaces(self.plan.id, &self.client, wishes).await;
        let memory = (wishes.memory.0.div_ceil(1 << 20) << 20).to_string();
        let (has_memory, has_vcpus) = match &self.place {
            Place::Here { cgroups, .. } => (cgroups.memory(), cgroups.vcpus()),
            Place::Afar(afar) => afar.limits(self.namespace.daemon()).await,
        };
        settings.push(Setting::compare(node, "memory", Some(memory), has_memory));
        settings.push(Setting::compare(node, "vcpus", Some(wishes.vcpus.to_string()), has_vcpus));
        if let Some([cpu]) = cpus {
            settings.push(Setting::compare(node, "container_cpus", Some(cpu.to_string()), self.pinned()));
        }
        settings
    }

    /// Resolves when the agent does not answer any more, and says what minimega knows of it.
    pub(super) fn lost(&self) -> impl Future<Output = String> + Send + 'static {
        let (client, namespace) = (self.client.clone(), Arc::clone(&self.namespace));
        let (node, name) = (self.plan.id, self.machine.name.clone());
        async move {
            let silence = client.lost().await;
            let state = state_of(&namespace, &name).await;
            format!("{node}: {}; {state}", Causes(&silence))
        }
    }
}
