//! Bringing up containers of a minimega, and what they are then.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;

use super::MinimegaError;
use super::cgroup::Cgroups;
use super::daemon::{Daemon, Namespace};
use super::guest::limit_rate;
use super::hold::Holds;
use super::inside::{self, Filesystem, First};
use super::machine::{self, Machine};
use super::mesh::Places;
use super::up::{Causes, failed, of_pair, state_of};
use crate::agent::Client;
use crate::host::cpus;
use crate::host::namespace::Namespace as Network;
use crate::ids::{NodeId, Role};
use crate::node::local::blocking;
use crate::record::Setting;
use crate::spec::MinimegaSpec;
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
    /// Its network, which is one of this kernel's.
    pub(super) network: Arc<Network>,
    cgroups: Cgroups,
}

/// What a launch makes containers of.
pub(super) struct Site<'a> {
    pub(super) wishes: &'a Wishes,
    pub(super) spec: &'a MinimegaSpec,
    pub(super) filesystem: &'a Filesystem,
    pub(super) places: &'a Places,
}

impl Site<'_> {
    /// Launches and starts all containers and waits for their agents.
    pub(super) async fn start(
        &self,
        daemon: &Arc<Daemon>,
        holds: &mut Holds,
        request: &Request,
    ) -> Result<Vec<Container>, TestbedError> {
        let mut links = Vec::new();
        for pair in 1..=u32::from(self.wishes.topology.pairs) {
            let hosts = self.places.of(Role::Client);
            links.push((pair, holds.take(daemon, &request.campaign, &request.scratch, &hosts).await?));
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
    pub(super) async fn set_up(&self, container: &Container, cpus: Option<&[PairCpus]>) -> Result<(), TestbedError> {
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

    pub(super) async fn settings(&self, wishes: &Wishes, cpus: Option<[usize; 1]>) -> Vec<Setting> {
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
