//! Guests that are up.

use std::net::IpAddr;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all, select_all, try_join_all};
use tokio::time::Instant;

use super::args::{Accel, GuestPlan, Management, mac};
use super::guest::{Guest, Site};
use super::pool::{Machines, Pool, key};
use super::prepare::Resolved;
use super::settings;
use crate::host::cage::Cage;
use crate::host::{cpus, host_name};
use crate::ids::{NodeId, Role, Vantage};
use crate::node::agent::AgentNode;
use crate::node::local::{self, Processes, blocking};
use crate::node::{Command, Node, NodeError, Process};
use crate::record::{Environment, Setting};
use crate::spec::StressPlace;
use crate::testbed::guests;
use crate::testbed::lan::build::Network;
use crate::testbed::lan::settings as lan_settings;
use crate::testbed::lan::topology::NodePlan;
use crate::testbed::{
    CapturePoint, CaptureSource, CountedAt, Instance, KernelAt, Pair, Path, Request, Teardown, TestbedError,
};
use crate::workload::{PairCpus, assign_cpus};

/// How long one guest may take to boot, and how much longer each further one makes it.
pub(in crate::testbed) const BOOT_TCG: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));
pub(super) const BOOT_KVM: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(2));

/// See the module.
pub(super) struct Up {
    resolved: Resolved,
    key: String,
    number: u32,
    scratch: PathBuf,
    pool: Pool,
    pairs: Vec<Pair>,
    facts: Vec<Environment>,
    cpus: Option<Vec<PairCpus>>,
    /// The iteration was no good, so that its guests serve no other.
    spoilt: bool,
    /// `None` after teardown.
    machines: Option<Machines>,
}

impl Up {
    pub(super) async fn launch(
        resolved: Resolved,
        kept: Option<Machines>,
        pool: &Pool,
        request: &Request,
    ) -> Result<Self, TestbedError> {
        let pairs = usize::from(resolved.wishes.topology.pairs);
        let cpus = if resolved.wishes.pinning { Some(host_cpus(pairs)?) } else { None };
        let machines = match kept {
            Some(machines) => machines,
            None => start(&resolved, cpus.as_deref(), request).await?,
        };
        let mut up = Self {
            pairs: machine_pairs(&resolved, &machines),
            facts: Vec::new(),
            key: key(&request.tuple),
            number: request.number,
            scratch: request.scratch.clone(),
            pool: pool.clone(),
            cpus,
            spoilt: false,
            machines: Some(machines),
            resolved,
        };
        up.facts = up.read_facts().await;
        Ok(up)
    }

    fn machines(&self) -> Result<&Machines, TestbedError> {
        self.machines.as_ref().ok_or_else(|| TestbedError::Io {
            what: "use the guests".to_owned(),
            source: std::io::Error::other("the testbed was taken down"),
        })
    }

    /// CPUs of this host that the virtual CPUs of a guest are bound to.
    fn host_cpus(&self, node: NodeId) -> Option<[usize; 1]> {
        host_cpu(self.cpus.as_deref(), node)
    }

    async fn read_facts(&self) -> Vec<Environment> {
        let host = host_name();
        let fact = |name: &str, value: String| Environment { host: host.clone(), name: name.to_owned(), value };
        let Resolved { hardware, image, verdict, spec, .. } = &self.resolved;
        let mut facts = vec![
            fact("testbed.qemu.accel", hardware.accel.as_str().to_owned()),
            fact("testbed.qemu.machine", hardware.machine.as_str().to_owned()),
            fact("testbed.qemu.cpu", hardware.cpu().to_owned()),
            fact("testbed.qemu.topology", self.describe()),
        ];
        facts.extend(verdict.iter().map(|verdict| fact("testbed.qemu.kvm", verdict.reason.clone())));
        if let Some(image) = image {
            facts.push(fact("image.id", image.id.clone()));
            facts.push(fact("image.base_id", image.base_id.clone()));
            facts.push(fact("image.kernel", image.kernel_source.clone()));
        }
        if let Some(disk) = &spec.disk {
            let access = if self.resolved.boot.login().is_some() { "ssh" } else { "agent" };
            facts.extend([fact("image.disk", disk.clone()), fact("testbed.qemu.access", access.to_owned())]);
        }
        let Some(machines) = &self.machines else { return facts };
        facts.push(fact("testbed.qemu.version", self.resolved.qemu.clone()));
        facts.push(fact("testbed.reused", machines.uses.to_string()));
        for guest in &machines.guests {
            facts.extend(guests::facts(guest.node, &guest.client).await);
        }
        facts
    }

    fn describe(&self) -> String {
        let hops = self.resolved.wishes.topology.hops.iter().map(|hop| format!(" - {hop}")).collect::<String>();
        let middle = if hops.is_empty() { "bridge".to_owned() } else { format!("bridge{hops} - bridge") };
        let inside = if self.resolved.wishes.tunnel { ", gre tunnel between the guests" } else { "" };
        format!("{} x (guest - tap - {middle} - tap - guest){inside}", self.resolved.wishes.topology.pairs)
    }

    /// Consoles of guests that were kept are not in this iteration's directory yet.
    fn save_consoles(&self, machines: &Machines) {
        for guest in &machines.guests {
            let path = self.scratch.join(format!("{}.console", guest.node));
            if path.exists() {
                continue;
            }
            if let Err(error) = guest.console().whole().and_then(|text| std::fs::write(&path, text)) {
                tracing::warn!("cannot write {}: {error}", path.display());
            }
        }
    }
}

#[async_trait]
impl Instance for Up {
    fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// `guest` is the interface that the workload uses, inside the guest; `host` is the guest's tap.
    fn capture_points(&self) -> Vec<CapturePoint> {
        let Some(machines) = &self.machines else { return Vec::new() };
        let mut points = Vec::new();
        points.extend(machines.guests.iter().map(|guest| CapturePoint {
            node: guest.node,
            vantage: Vantage::Guest,
            interface: self.resolved.wishes.interface().to_owned(),
            source: CaptureSource::Agent(guest.client.clone()),
        }));
        points.extend(machines.network.taps().map(|(plan, port)| CapturePoint {
            node: plan.id,
            vantage: Vantage::Host,
            interface: port.name.clone(),
            source: CaptureSource::Live { namespace: Some(Arc::clone(&machines.network.host.namespace)) },
        }));
        points
    }

    async fn settings(&mut self) -> Result<Vec<Setting>, TestbedError> {
        let machines = self.machines()?;
        let (network, topology) = (Arc::clone(&machines.network), self.resolved.wishes.topology.clone());
        let read = blocking(move || Ok(lan_settings::read(&network, &topology))).await;
        let mut all =
            read.map_err(|source| TestbedError::Io { what: "read the settings back".to_owned(), source })??;
        let cpus: Vec<_> = machines.guests.iter().map(|guest| self.host_cpus(guest.node)).collect();
        let read =
            machines.guests.iter().zip(&cpus).map(|(guest, cpus)| {
                settings::of_guest(guest, &self.resolved, cpus.as_ref().map(<[usize; 1]>::as_slice))
            });
        all.extend(join_all(read).await.into_iter().flatten());
        Ok(all)
    }

    async fn paths(&mut self) -> Result<Vec<Path>, TestbedError> {
        let topology = &self.resolved.wishes.topology;
        let clients = self.machines()?.guests.iter().filter(|guest| guest.node.role == Role::Client);
        try_join_all(clients.map(|guest| async move {
            guests::walk(guest.node, &guest.client, topology).await.map_err(|why| guest.failed(why))
        }))
        .await
    }

    fn environment(&self) -> Vec<Environment> {
        self.facts.clone()
    }

    async fn spawn_on_host(&mut self, command: &Command) -> Result<Box<dyn Process>, NodeError> {
        let first = NodeId::client(1);
        let gone = || NodeError::Io {
            node: first,
            what: "start a process beside the guests".to_owned(),
            source: std::io::Error::other("the testbed was taken down"),
        };
        let machines = self.machines.as_ref().ok_or_else(gone)?;
        local::start(&machines.processes, first, None, &self.scratch, command).await
    }

    async fn collect(
        &mut self,
        node: NodeId,
        files: &[String],
        directory: &FilePath,
    ) -> Result<Vec<PathBuf>, TestbedError> {
        let guest = self.machines()?.guests.iter().find(|guest| guest.node == node).map(Arc::clone);
        let guest = guest.ok_or_else(|| TestbedError::Io {
            what: format!("collect files of {node}"),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        })?;
        guest.collect(files, directory).await
    }

    async fn kernels(&mut self) -> Vec<KernelAt> {
        let guests = self.machines.iter().flat_map(|machines| &machines.guests);
        guests.map(|guest| KernelAt::Agent { node: guest.node, client: guest.client.clone() }).collect()
    }

    fn counted(&self) -> Vec<CountedAt> {
        let Some(machines) = &self.machines else { return Vec::new() };
        let interface = self.resolved.wishes.interface();
        let guest = |guest: &Arc<Guest>| CountedAt::Agent {
            node: guest.node,
            client: guest.client.clone(),
            interface: interface.to_owned(),
        };
        let ends = machines.network.taps().map(|(plan, port)| (plan.id, port.name.clone())).collect();
        let switch = CountedAt::Switch { namespace: Arc::clone(&machines.network.host.namespace), ends };
        let routers = machines.network.nodes.values().map(|(plan, stack)| CountedAt::Here {
            node: plan.id,
            namespace: Arc::clone(&stack.namespace),
            interface: None,
        });
        machines.guests.iter().map(guest).chain(routers).chain([switch]).collect()
    }

    fn load_inside(&self) -> Option<Vec<Arc<dyn Node>>> {
        let inside = self.resolved.spec.stress == StressPlace::Guest;
        let nodes = self.pairs.iter().flat_map(|pair| [Arc::clone(&pair.client), Arc::clone(&pair.server)]);
        inside.then(|| nodes.collect())
    }

    /// The first virtual CPU of each guest; that one is bound to a CPU of this host.
    fn cpus(&self) -> Option<Vec<PairCpus>> {
        Some(vec![PairCpus { client: 0, server: 0 }; self.pairs.len()])
    }

    fn lost(&self) -> Option<BoxFuture<'static, String>> {
        let lost: Vec<_> = self.machines.iter().flat_map(|m| &m.guests).map(|guest| guest.lost().boxed()).collect();
        (!lost.is_empty()).then(|| async move { select_all(lost).await.0 }.boxed())
    }

    async fn keep(&mut self) -> Result<String, TestbedError> {
        Err(TestbedError::Io {
            what: "keep the guests".to_owned(),
            source: std::io::Error::other(
                "virtual machines end with vptest; their consoles are kept with the iteration's files",
            ),
        })
    }

    fn spoil(&mut self) {
        self.spoilt = true;
    }

    async fn teardown(&mut self) -> Teardown {
        self.pairs.clear();
        let Some(mut machines) = self.machines.take() else { return Teardown::default() };
        self.save_consoles(&machines);
        if self.pool.keeps(self.spoilt)
            && join_all(machines.guests.iter().map(|guest| guest.is_well())).await.into_iter().all(|w| w)
        {
            machines.uses += 1;
            self.pool.put(self.key.clone(), machines).await;
            return Teardown::default();
        }
        let mut left = Vec::new();
        if let Err(error) = machines.close().await {
            left.push(format!("guests of iteration {}: {error}", self.number));
        }
        Teardown { left, ..Teardown::default() }
    }
}

/// Builds the network and boots all guests, side by side.
async fn start(resolved: &Resolved, cpus: Option<&[PairCpus]>, request: &Request) -> Result<Machines, TestbedError> {
    let network = Arc::new(Network::build(&resolved.wishes.topology)?);
    let cage =
        Cage::open().map_err(|source| TestbedError::Io { what: "make a process namespace".to_owned(), source })?;
    let processes = Arc::new(Processes::new(cage));
    // From here on everything ends with this value.
    let mut machines = Machines { guests: Vec::new(), processes, network, uses: 0 };
    let guests = boot(resolved, &machines, &request.scratch).await?;
    machines.guests = guests.into_iter().map(Arc::new).collect();
    try_join_all(machines.network.guests.iter().zip(&machines.guests).map(|(plan, guest)| async {
        let mut setup = resolved.wishes.network(plan);
        if resolved.image.is_some() {
            // Loaded at boot.
            setup.modules.clear();
        }
        guest.client.configure(&setup).await.map_err(|error| guest.failed(&error))?;
        for interface in &setup.interfaces {
            guests::await_link(&guest.client, &interface.name).await.map_err(|why| guest.failed(why))?;
        }
        match host_cpu(cpus, guest.node) {
            Some(cpus) => guest.pin(&cpus).await,
            None => Ok(()),
        }
    }))
    .await?;
    // Only now have the guests' drivers said what their taps may hand them.
    machines.network.finish_taps(&resolved.wishes.topology)?;
    Ok(machines)
}

async fn boot(resolved: &Resolved, machines: &Machines, scratch: &FilePath) -> Result<Vec<Guest>, TestbedError> {
    let plans = &machines.network.guests;
    let (one, further) = match resolved.hardware.accel {
        Accel::Kvm => BOOT_KVM,
        Accel::Tcg => BOOT_TCG,
    };
    let further = further.saturating_mul(u32::try_from(plans.len()).unwrap_or(u32::MAX));
    let limit = resolved.spec.boot_timeout.unwrap_or(one + further);
    let site = Site {
        hardware: &resolved.hardware,
        boot: &resolved.boot,
        directory: scratch,
        namespace: Some(&machines.network.host.namespace),
        processes: &machines.processes,
        deadline: Instant::now() + limit,
    };
    let guests = plans.iter().map(|plan| {
        let tap = plan.ports.first().and_then(|port| port.host.as_ref()).map(|host| host.name.clone());
        let guest = GuestPlan {
            name: plan.id.to_string(),
            card: tap.map(|tap| (tap, mac(plan.id))),
            management: resolved.boot.login().map(|_| Management::of(plan.id)),
        };
        let site = &site;
        async move { Guest::launch(site, plan.id, &guest).await }
    });
    try_join_all(guests).await
}

fn machine_pairs(resolved: &Resolved, machines: &Machines) -> Vec<Pair> {
    let node = |id: NodeId| -> Option<Arc<dyn Node>> {
        let of_guest = |(plan, guest): (&NodePlan, &Arc<Guest>)| AgentNode {
            id,
            address: IpAddr::V4(resolved.wishes.address(plan)),
            client: guest.client.clone(),
        };
        let found = machines.network.guests.iter().zip(&machines.guests).find(|(plan, _)| plan.id == id)?;
        Some(Arc::new(of_guest(found)))
    };
    (1..=u32::from(resolved.wishes.topology.pairs))
        .filter_map(|number| {
            let (client, server) = (node(NodeId::client(number))?, node(NodeId::server(number))?);
            Some(Pair { number, client, server })
        })
        .collect()
}

/// CPUs of this host for the guests of each pair.
pub(in crate::testbed) fn host_cpus(pairs: usize) -> Result<Vec<PairCpus>, TestbedError> {
    let assigned = cpus::usable().and_then(|usable| assign_cpus(pairs, &usable));
    assigned.ok_or_else(|| TestbedError::Io {
        what: "bind the guests to CPUs (`pinning`)".to_owned(),
        source: std::io::Error::other("the kernel does not say which CPUs vptest may use"),
    })
}

pub(in crate::testbed) fn host_cpu(cpus: Option<&[PairCpus]>, node: NodeId) -> Option<[usize; 1]> {
    let pair = cpus?.get(usize::try_from(node.pair).ok()?.checked_sub(1)?)?;
    Some([if node.role == Role::Client { pair.client } else { pair.server }])
}
