//! Guests of a minimega that are up.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all, select_all, try_join_all};

use super::cc::ROUND_TRIPS;
use super::daemon::{Daemon, Namespace};
use super::disk::{Disk, FirstLayer, Purpose};
use super::far::FarTaps;
use super::guest::{self, Hardware};
use super::hold::{Holds, chain};
use super::line::Line;
use super::machine::{self, Machine, State};
use super::mesh::{self, Link, Places};
use super::own;
use super::prepare::{Booted, Prepared};
use super::reach::{OwnGuests, Reached};
use super::recorder::Group;
use super::switch::Switch;
use super::{MinimegaError, qmp};
use crate::agent::{AgentError, Client, FailureKind, NetworkSetup};
use crate::host::cage::Cage;
use crate::host::{cpus, host_name};
use crate::ids::{NodeId, Role, Vantage};
use crate::node::agent::AgentNode;
use crate::node::local::{self, Processes};
use crate::node::{Command, Node, NodeError, Process};
use crate::record::{Environment, Setting};
use crate::spec::{MinimegaSpec, StressPlace, TapCapture};
use crate::testbed::lan::topology::{LinkRate, NodePlan};
use crate::testbed::qemu::settings::of_interfaces;
use crate::testbed::qemu::up::{BOOT_TCG, host_cpu, host_cpus};
use crate::testbed::qemu::wishes::Wishes;
use crate::testbed::{
    COLLECT_LIMIT, CapturePoint, CaptureSource, CountedAt, Instance, KernelAt, Pair, Path, Request, Teardown,
    TestbedError, guests,
};
use crate::text::printable_bytes;
use crate::workload::PairCpus;

/// Between two looks whether minimega is still there.
const LOOK: Duration = Duration::from_millis(500);
/// How long minimega may take to say that a machine has ended whose agent's connection is closed.
const ENDING: Duration = Duration::from_secs(5);
/// Bytes of a guest's console that an error has.
const CONSOLE: usize = 600;
/// How long a guest may take to write to its disk what it has in memory; a part of what taking down may take.
const WRITE_OUT: Duration = Duration::from_secs(30);
/// The results disks of a guest.
const DISKS: [Purpose; 2] = [Purpose::Files, Purpose::Packets];
/// Their driver.
const DISK_DRIVER: &str = "virtio_blk";

/// A guest whose agent answers.
pub(super) struct Guest {
    pub(super) plan: NodePlan,
    pub(super) machine: Machine,
    pub(super) client: Client,
    reached: Reached,
    namespace: Arc<Namespace>,
    /// Over which large files come, and kept packets.
    disks: Option<[Arc<Disk>; 2]>,
}

/// See the module.
pub(super) struct Up {
    wishes: Wishes,
    spec: MinimegaSpec,
    daemon: Arc<Daemon>,
    places: Places,
    number: u32,
    scratch: PathBuf,
    guests: Vec<Guest>,
    switch: Switch,
    far: FarTaps,
    processes: Arc<Processes>,
    pairs: Vec<Pair>,
    facts: Vec<Environment>,
    cpus: Option<Vec<PairCpus>>,
    /// Do the guests write to disks of the user's?
    keeps_disks: bool,
    /// Last: whatever uses the namespaces goes before them.
    holds: Holds,
}

/// What a launch makes guests of.
struct Site<'a> {
    wishes: &'a Wishes,
    spec: &'a MinimegaSpec,
    booted: &'a Booted,
    scratch: &'a std::path::Path,
    places: &'a Places,
}

/// A namespace, and the nodes whose machines are in it.
struct Room {
    nodes: Vec<NodeId>,
    namespace: Arc<Namespace>,
    /// Where they write their consoles, on their host.
    consoles: PathBuf,
}

pub(super) fn failed(node: NodeId, what: impl std::fmt::Display) -> TestbedError {
    TestbedError::Guest { node, what: what.to_string() }
}

impl Up {
    /// When it fails, or is given up half-way, the namespaces are removed.
    pub(super) async fn launch(prepared: &Prepared, wishes: Wishes, request: &Request) -> Result<Self, TestbedError> {
        let (daemon, booted) = (prepared.daemon().await?, prepared.booted(request).await?);
        let pairs = usize::from(wishes.topology.pairs);
        let cpus = if wishes.pinning { Some(host_cpus(pairs)?) } else { None };
        let places = prepared.places(&daemon, request).await?;
        let scratch = &request.scratch;
        let site = Site { wishes: &wishes, spec: &prepared.spec, booted: &booted, scratch, places: &places };
        let mut holds = Holds::default();
        let up = async {
            let guests = site.start(&daemon, &mut holds, request).await?;
            let here = guests.iter().filter(|guest| guest.is_here());
            let switch = Switch::open(&daemon, here.map(|guest| (&guest.plan, &guest.machine)).collect()).await?;
            let far = FarTaps::of(&daemon, guests.iter().map(|guest| (guest.plan.id, &guest.machine)))?;
            site.set_up(&guests, (&switch, &far), cpus.as_deref()).await?;
            Ok::<_, TestbedError>((guests, switch, far))
        };
        let up = tokio::select! {
            biased;
            up = up => up,
            why = daemon_lost(Arc::clone(&daemon)) => Err(crashed(why)),
        };
        let (guests, switch, far) = match up {
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
            pairs: pairs_of(&wishes, &guests),
            spec: prepared.spec.clone(),
            number: request.number,
            scratch: request.scratch.clone(),
            processes: Arc::new(Processes::new(cage)),
            facts: Vec::new(),
            wishes,
            daemon,
            places,
            guests,
            switch,
            far,
            cpus,
            keeps_disks: booted.keeps_disks(),
            holds,
        };
        up.facts = up.read_facts(&booted).await;
        Ok(up)
    }

    /// minimega's captures, together for the guests of each namespace.
    fn groups(&self) -> Vec<(Vec<NodeId>, Arc<Group>)> {
        let rooms = self.guests.chunk_by(|one, next| one.namespace.name() == next.namespace.name());
        let group = |guests: &[Guest]| {
            let nodes: Vec<NodeId> = guests.iter().map(|guest| guest.plan.id).collect();
            let group = Group::of(&guests[0].namespace, &nodes, &self.scratch);
            (nodes, group)
        };
        rooms.map(group).collect()
    }

    async fn read_facts(&self, booted: &Booted) -> Vec<Environment> {
        let host = host_name();
        let fact = |name: &str, value: String| Environment { host: host.clone(), name: name.to_owned(), value };
        let capture = match self.spec.capture {
            TapCapture::Vptest => "vptest, at the taps",
            TapCapture::Minimega => "minimega, at the taps",
        };
        let tunnel = if self.wishes.tunnel { ", gre tunnel between the guests" } else { "" };
        let pairs = self.wishes.topology.pairs;
        let between = if self.places.both().is_some() { "vlan - gre between the hosts - vlan" } else { "vlan" };
        let mut facts = vec![
            fact("testbed.minimega.version", self.daemon.version.text.clone()),
            fact("testbed.minimega.topology", format!("{pairs} x (guest - tap - {between} - tap - guest){tunnel}")),
            fact("testbed.minimega.capture", capture.to_owned()),
        ];
        if let Some([clients, servers]) = self.places.both() {
            facts.push(fact("testbed.minimega.host_of_clients", clients.to_owned()));
            facts.push(fact("testbed.minimega.host_of_servers", servers.to_owned()));
            facts.extend(
                mesh::full_packets(&self.wishes.topology).map(|what| fact("testbed.minimega.full_packets", what)),
            );
        }
        let of_image = match booted {
            Booted::Image(image) => vec![
                ("image.id", image.id.clone()),
                ("image.base_id", image.base_id.clone()),
                ("image.kernel", image.kernel_source.clone()),
            ],
            Booted::Own { image, identity, .. } => own::facts(image, identity.as_deref()),
        };
        facts.extend(of_image.into_iter().map(|(name, value)| fact(name, value)));
        facts.extend(self.spec.result_disk.map(|size| fact("testbed.minimega.result_disk", size.to_string())));
        if let Some(first) = self.guests.first() {
            facts.push(fact("testbed.minimega.bridge", first.machine.bridge.clone()));
            let version =
                qmp::ask(&first.namespace, &first.machine.name, "query-version", serde_json::Value::Null).await;
            match version {
                Ok(version) => {
                    let text = |part: &str| version["qemu"][part].to_string();
                    let number = format!("{}.{}.{}", text("major"), text("minor"), text("micro"));
                    facts.push(fact("testbed.minimega.qemu", number));
                }
                Err(error) => tracing::warn!("QEMU does not say its version: {}", chain(&error)),
            }
        }
        let of_guests = self.guests.iter().map(|guest| guests::facts(guest.plan.id, &guest.client));
        facts.extend(join_all(of_guests).await.into_iter().flatten());
        facts
    }
}

impl Site<'_> {
    /// Launches and starts all machines and waits for their agents.
    async fn start(
        &self,
        daemon: &Arc<Daemon>,
        holds: &mut Holds,
        request: &Request,
    ) -> Result<Vec<Guest>, TestbedError> {
        let link = mesh::join(daemon, holds, request, self.places).await?;
        let rooms = self.rooms(daemon, holds, request).await?;
        let launched = try_join_all(rooms.iter().map(|room| self.launch(room, link.as_ref()))).await?;
        // Their processes are there. Whatever happens now, they are found.
        for (room, machines) in rooms.iter().zip(&launched) {
            holds.note(&room.namespace, &machines.iter().collect::<Vec<_>>())?;
        }
        let launched = try_join_all(rooms.iter().map(|room| self.boot(room))).await?;
        let plans = self.wishes.topology.nodes();
        let further = BOOT_TCG.1.saturating_mul(u32::try_from(plans.len()).unwrap_or(u32::MAX));
        let limit = self.spec.boot_timeout.unwrap_or(BOOT_TCG.0 + further);
        let machines = rooms.iter().zip(launched).flat_map(|(room, machines)| {
            let own = match self.booted {
                Booted::Image(_) => None,
                Booted::Own { image, bundle, .. } => Some(OwnGuests::new(&room.namespace, &image.reach, bundle)),
            };
            machines.into_iter().map(move |machine| (Arc::clone(&room.namespace), own.clone(), machine))
        });
        let reached = plans.into_iter().zip(machines).map(|(plan, (namespace, own, machine))| async move {
            let reached = match &own {
                None => Reached::at_port(&namespace, &machine, limit).await,
                Some(own) => own.reach(&machine, limit).await,
            };
            match reached {
                Ok(reached) => {
                    let disks = self.spec.result_disk.map(|size| {
                        DISKS.map(|purpose| Arc::new(Disk::of(&namespace, &machine.name, self.scratch, purpose, size)))
                    });
                    Ok(Guest { plan, machine, client: reached.client.clone(), reached, namespace, disks })
                }
                Err(error) => Err(self.not_reached(plan.id, &machine, &namespace, error.as_ref()).await),
            }
        });
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
        for pair in 1..=u32::from(self.wishes.topology.pairs) {
            let both = [NodeId::client(pair), NodeId::server(pair)];
            let size = if self.places.both().is_some() { 1 } else { 2 };
            for nodes in both.chunks(size) {
                let hosts = self.places.of(nodes[0].role);
                let namespace = holds.take(daemon, &request.campaign, self.scratch, &hosts).await?;
                let consoles = match namespace.far() {
                    None => self.scratch.to_owned(),
                    Some(host) => {
                        let files = daemon.files_at(host).await;
                        let failed = |error: MinimegaError| error.into_testbed(format!("find the files of {host}"));
                        files.map_err(failed)?.join(namespace.name())
                    }
                };
                rooms.push(Room { nodes: nodes.to_vec(), namespace, consoles });
            }
        }
        Ok(rooms)
    }

    /// Launches the machines of a namespace.
    async fn launch(&self, room: &Room, link: Option<&Link>) -> Result<Vec<Machine>, TestbedError> {
        let hardware = Hardware {
            driver: self.wishes.driver.clone(),
            vcpus: self.wishes.vcpus,
            memory: self.wishes.memory,
            modules: if self.wishes.tunnel { vec!["ip_gre".to_owned()] } else { Vec::new() },
            arguments: self.spec.append.clone(),
            qemu: self.spec.qemu.clone(),
            cpu: self.spec.cpu.clone(),
        };
        let mut plans = Vec::new();
        for &node in &room.nodes {
            let console = console(&room.consoles, node).to_string_lossy().into_owned();
            let mut plan = match self.booted {
                Booted::Image(image) => guest::plan(node, image, &hardware, Some(console)),
                Booted::Own { image, .. } => own::plan(node, image, &hardware, console),
            };
            if let Some(link) = link {
                for nic in &mut plan.nics {
                    (nic.bridge, nic.vlan) = (Some(link.bridge.clone()), link.network(node.pair));
                }
            }
            plans.push(plan.with_results(self.results_disks(node).await?));
        }
        let launched = machine::launch(&room.namespace, &plans).await;
        launched.map_err(|error| of_pair(room.nodes[0].pair, error, "launch"))
    }

    /// Starts the machines of a namespace.
    async fn boot(&self, room: &Room) -> Result<Vec<Machine>, TestbedError> {
        let names: Vec<String> = room.nodes.iter().map(ToString::to_string).collect();
        let started = machine::start(&room.namespace, &names).await;
        started.map_err(|error| of_pair(room.nodes[0].pair, error, "start"))
    }

    /// Makes the results disks of a node, where they are wanted.
    async fn results_disks(&self, node: NodeId) -> Result<Vec<FirstLayer>, TestbedError> {
        let Some(size) = self.spec.result_disk else { return Ok(Vec::new()) };
        let name = node.to_string();
        let made = try_join_all(DISKS.map(|purpose| Disk::create(self.scratch, &name, purpose, size))).await;
        made.map_err(|source| TestbedError::Io { what: format!("make the results disks of {node}"), source })
    }

    /// Why an agent does not answer, with what minimega and the guest's console say.
    async fn not_reached(
        &self,
        node: NodeId,
        machine: &Machine,
        namespace: &Namespace,
        error: &(dyn std::error::Error + Send + Sync),
    ) -> TestbedError {
        let state = state_of(namespace, &machine.name).await;
        bring_console(namespace, node, self.scratch).await;
        let console = std::fs::read(console(self.scratch, node)).unwrap_or_default();
        let tail = printable_bytes(&console[console.len().saturating_sub(CONSOLE)..], CONSOLE);
        failed(node, format_args!("{:#}; {state}; its console ends with: {tail}", Causes(error)))
    }

    /// Network, rate, offloads, CPUs.
    async fn set_up(
        &self,
        guests: &[Guest],
        (switch, far): (&Switch, &FarTaps),
        cpus: Option<&[PairCpus]>,
    ) -> Result<(), TestbedError> {
        try_join_all(guests.iter().map(|guest| self.set_up_guest(guest, cpus))).await?;
        // Only now have the guests' drivers said what their taps may hand them.
        switch.set_up(&self.wishes.topology).await?;
        far.set_up(&self.wishes.topology).await?;
        match self.places.both() {
            Some(both) => {
                let ends: Vec<_> = guests.iter().map(|guest| (guest.plan.id, &guest.client)).collect();
                mesh::await_ways(&ends, &self.wishes.topology, both).await
            }
            None => Ok(()),
        }
    }

    async fn set_up_guest(&self, guest: &Guest, cpus: Option<&[PairCpus]>) -> Result<(), TestbedError> {
        let node = guest.plan.id;
        let mut setup = self.wishes.network(&guest.plan);
        if let Booted::Image(_) = self.booted {
            // Loaded at boot.
            setup.modules.clear();
        }
        guest.client.configure(&setup).await.map_err(|error| failed(node, Causes(&error)))?;
        for interface in &setup.interfaces {
            guests::await_link(&guest.client, &interface.name).await.map_err(|why| failed(node, why))?;
        }
        if let Some(disks) = &guest.disks {
            let attached = self.attach(&guest.client, disks).await;
            attached.map_err(|error| {
                let why = Causes(&error);
                failed(node, format_args!("it cannot write to its results disk (driver {DISK_DRIVER}): {why}"))
            })?;
        }
        if let LinkRate::Limit(rate) = self.wishes.topology.rate {
            let limited = guest::limit_rate(&guest.namespace, &guest.machine.name, 0, rate).await;
            limited.map_err(|error| error.into_testbed(format!("limit the rate of {node}")))?;
        }
        match host_cpu(cpus, node) {
            Some(cpus) => guest.pin(&cpus).await,
            None => Ok(()),
        }
    }
}

impl Site<'_> {
    async fn attach(&self, client: &Client, disks: &[Arc<Disk>; 2]) -> Result<(), AgentError> {
        let [files, packets] = disks;
        let attach = || client.attach(Arc::clone(files) as _, Some(Arc::clone(packets) as _));
        let attached = attach().await;
        let is_missing = attached.as_ref().is_err_and(|error| error.failure() == Some(FailureKind::NotFound));
        if !is_missing || matches!(self.booted, Booted::Image(_)) {
            return attached;
        }
        // An image of the user's may have the driver and not have loaded it.
        let setup = NetworkSetup { modules: vec![DISK_DRIVER.to_owned()], ..NetworkSetup::default() };
        match client.configure(&setup).await {
            Ok(()) => attach().await,
            Err(error) if error.is_lost() => Err(error),
            // That there is no disk says more.
            Err(_) => attached,
        }
    }
}

/// Where a node's console is written, in this directory.
fn console(directory: &std::path::Path, node: NodeId) -> PathBuf {
    directory.join(format!("{node}.console"))
}

/// Brings the console of a guest on another host, as far as it is one that can be kept.
async fn bring_console(namespace: &Namespace, node: NodeId, scratch: &std::path::Path) {
    if namespace.far().is_none() {
        return;
    }
    let brought = namespace.stream(&format!("{}/{node}.console", namespace.name())).await;
    let written = match brought {
        Ok(Some(text)) => std::fs::write(console(scratch, node), text).map_err(|error| error.to_string()),
        Ok(None) => Ok(()),
        Err(error) => Err(chain(&error)),
    };
    if let Err(why) = written {
        tracing::warn!("{node}: its console cannot be brought: {why}");
    }
}

/// An error of the machines of a pair, by the node where it is known.
pub(super) fn of_pair(pair: u32, error: MinimegaError, what: &str) -> TestbedError {
    let nodes = [NodeId::client(pair), NodeId::server(pair)];
    match error {
        MinimegaError::Machine { machine, why } => match nodes.iter().find(|node| node.to_string() == machine) {
            Some(node) => failed(*node, why),
            None => MinimegaError::Machine { machine, why }.into_testbed(format!("{what} the guests")),
        },
        other => other.into_testbed(format!("{what} the guests of pair {pair}")),
    }
}

/// An error with its causes.
pub(super) struct Causes<'a>(pub(super) &'a (dyn std::error::Error + Send + Sync));

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

/// What minimega says of a machine whose agent has fallen silent, in words. The agent's connection closes while the machine is
/// still ending, and minimega says `RUNNING` until it has: it is asked again for a moment.
pub(super) async fn state_of(namespace: &Namespace, name: &str) -> String {
    let until = tokio::time::Instant::now() + ENDING;
    loop {
        let all = match machine::machines(namespace).await {
            Ok(all) => all,
            Err(error) => return chain(&error),
        };
        let Some(machine) = all.into_iter().find(|machine| machine.name == name) else {
            return "minimega has no such machine any more".to_owned();
        };
        if machine.state != State::Running || tokio::time::Instant::now() >= until {
            let why = machine.error.map(|error| format!(" ({error})")).unwrap_or_default();
            return format!("minimega says that it is {}{why}", machine.state);
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Guest {
    /// Is it on the host that vptest runs on?
    fn is_here(&self) -> bool {
        self.machine.host == self.namespace.daemon().host
    }

    /// Binds the virtual CPUs to CPUs of this host, one after the other.
    async fn pin(&self, to: &[usize]) -> Result<(), TestbedError> {
        let failed = |source| TestbedError::Io { what: format!("pin the virtual CPUs of {}", self.plan.id), source };
        for (thread, cpu) in self.threads().await.map_err(failed)?.into_iter().zip(to.iter().cycle()) {
            cpus::pin(thread, &[*cpu]).map_err(failed)?;
        }
        Ok(())
    }

    /// CPUs of this host that each virtual CPU may run on, as `0;1`; `None` when that cannot be read.
    async fn pinned(&self) -> Option<String> {
        let threads = self.threads().await.ok()?;
        let text = |thread| Some(cpus::of(thread)?.iter().map(usize::to_string).collect::<Vec<_>>().join(","));
        Some(threads.into_iter().map(text).collect::<Option<Vec<String>>>()?.join(";"))
    }

    /// How many round trips through its miniccc there were, as a fact.
    fn round_trips(&self) -> Option<Environment> {
        let value = self.reached.round_trips()?.to_string();
        Some(Environment { host: self.plan.id.to_string(), name: ROUND_TRIPS.to_owned(), value })
    }

    /// What has come over its results disks, as facts.
    fn disk_use(&self) -> Vec<Environment> {
        let Some(disks) = &self.disks else { return Vec::new() };
        let used = disks.iter().map(|disk| disk.used());
        let (files, bytes) = used.fold((0, 0), |sum, used| (sum.0 + used.0, sum.1 + used.1));
        let fact = |name: &str, value: u64| Environment {
            host: self.plan.id.to_string(),
            name: format!("testbed.minimega.result_disk.{name}"),
            value: value.to_string(),
        };
        vec![fact("files", files), fact("bytes", bytes)]
    }

    /// Has its disk what it has written? Says why not; nothing of one whose agent is known to be lost, which is told elsewhere.
    async fn write_out(&self) -> Option<String> {
        if self.client.is_lost() {
            return None;
        }
        let why = guest::write_out(&self.client, WRITE_OUT).await.err()?;
        Some(format!("{}: what it has written last may be missing on its disk: {why}", self.plan.id))
    }

    /// Threads of the virtual CPUs, as this host numbers them.
    async fn threads(&self) -> std::io::Result<Vec<i32>> {
        let inner = qmp::cpu_threads(&self.namespace, &self.machine.name).await.map_err(std::io::Error::other)?;
        let unknown = || std::io::Error::other("minimega does not say the process of its QEMU");
        let pid = self.machine.pid.ok_or_else(unknown)?;
        inner.into_iter().map(|thread| cpus::thread_of(pid, thread)).collect()
    }

    async fn settings(&self, wishes: &Wishes, cpus: Option<[usize; 1]>) -> Vec<Setting> {
        let node = Some(self.plan.id);
        let mut settings = of_interfaces(self.plan.id, &self.client, wishes).await;
        let wanted = |name: &str| match name {
            "memory" => Some((wishes.memory.0.div_ceil(1 << 20) << 20).to_string()),
            "driver" => Some(wishes.driver.clone()),
            // minimega asks for KVM; whether it is on is only to be seen.
            _ => None,
        };
        let read = qmp::hardware(&self.namespace, &self.machine.name).await.into_iter();
        settings.extend(read.map(|(name, observed)| Setting::compare(node, name, wanted(name), observed)));
        let vcpus = self.client.hello().cpus.map(|cpus| cpus.to_string());
        settings.push(Setting::compare(node, "vcpus", Some(wishes.vcpus.to_string()), vcpus));
        if let Some(cpus) = cpus {
            let wanted = cpus.iter().cycle().take(wishes.vcpus as usize).map(usize::to_string);
            let wanted = wanted.collect::<Vec<_>>().join(";");
            settings.push(Setting::compare(node, "vcpu_cpus", Some(wanted), self.pinned().await));
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

fn pairs_of(wishes: &Wishes, guests: &[Guest]) -> Vec<Pair> {
    let node = |id: NodeId| -> Option<Arc<dyn Node>> {
        let guest = guests.iter().find(|guest| guest.plan.id == id)?;
        let address = IpAddr::V4(wishes.address(&guest.plan));
        Some(Arc::new(AgentNode { id, address, client: guest.client.clone() }))
    };
    let pair = |number| {
        let (client, server) = (node(NodeId::client(number))?, node(NodeId::server(number))?);
        Some(Pair { number, client, server })
    };
    (1..=u32::from(wishes.topology.pairs)).filter_map(pair).collect()
}

/// Resolves when the daemon has ended: its machines go on, and nobody could take them down.
pub(super) async fn daemon_lost(daemon: Arc<Daemon>) -> String {
    while !daemon.peer().is_gone() {
        tokio::time::sleep(LOOK).await;
    }
    gone(&daemon)
}

/// Has the daemon ended, or does it within a moment?
pub(super) async fn ended(daemon: &Daemon) -> bool {
    for _ in 0..20 {
        if daemon.peer().is_gone() {
            return true;
        }
        if daemon.run(&Line::of(["version"])).await.is_ok() {
            return false;
        }
        tokio::time::sleep(LOOK / 10).await;
    }
    false
}

pub(super) fn gone(daemon: &Daemon) -> String {
    let pid = daemon.peer().pid.unwrap_or_default();
    format!("minimega at {} has ended (process {pid} is gone)", daemon.socket().display())
}

pub(super) fn crashed(why: String) -> TestbedError {
    TestbedError::Io { what: "launch the guests".to_owned(), source: std::io::Error::other(why) }
}

#[async_trait]
impl Instance for Up {
    fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// `guest` is the interface that the workload uses, inside the guest; `host` is the guest's tap.
    fn capture_points(&self) -> Vec<CapturePoint> {
        let inside = self.guests.iter().map(|guest| CapturePoint {
            node: guest.plan.id,
            vantage: Vantage::Guest,
            interface: self.wishes.interface().to_owned(),
            source: CaptureSource::Agent(guest.client.clone()),
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
        // minimega could capture there, by a clock that nobody has compared with this host's.
        let there = self.far.taps().map(|at| point(at.node, &at.tap, CaptureSource::Recorded(at.unreachable())));
        inside.chain(here).chain(there).collect()
    }

    async fn settings(&mut self) -> Result<Vec<Setting>, TestbedError> {
        let mut all = self.switch.settings(&self.wishes.topology).await?;
        all.extend(self.far.settings(&self.wishes.topology).await);
        let read = self.guests.iter().map(|guest| {
            let cpus = host_cpu(self.cpus.as_deref(), guest.plan.id);
            guest.settings(&self.wishes, cpus)
        });
        all.extend(join_all(read).await.into_iter().flatten());
        Ok(all)
    }

    async fn paths(&mut self) -> Result<Vec<Path>, TestbedError> {
        let topology = &self.wishes.topology;
        let clients = self.guests.iter().filter(|guest| guest.plan.id.role == Role::Client);
        try_join_all(clients.map(|guest| async move {
            let walked = guests::walk(guest.plan.id, &guest.client, topology).await;
            walked.map_err(|why| failed(guest.plan.id, why))
        }))
        .await
    }

    fn environment(&self) -> Vec<Environment> {
        self.facts.clone()
    }

    async fn collect(
        &mut self,
        node: NodeId,
        files: &[String],
        directory: &std::path::Path,
    ) -> Result<Vec<PathBuf>, TestbedError> {
        let guest = self.guests.iter().find(|guest| guest.plan.id == node);
        let guest = guest.ok_or_else(|| failed(node, "there is no such guest"))?;
        let mut collected = Vec::new();
        for file in files {
            let path = directory.join(file.trim_start_matches('/'));
            path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(|source| TestbedError::Io {
                what: format!("make the directory of {}", path.display()),
                source,
            })?;
            guest.client.bring(file, COLLECT_LIMIT, &path).await.map_err(|error| failed(node, Causes(&error)))?;
            collected.push(path);
        }
        Ok(collected)
    }

    async fn spawn_on_host(&mut self, command: &Command) -> Result<Box<dyn Process>, NodeError> {
        local::start(&self.processes, NodeId::client(1), None, &self.scratch, command).await
    }

    async fn kernels(&mut self) -> Vec<KernelAt> {
        let at = |guest: &Guest| KernelAt::Agent { node: guest.plan.id, client: guest.client.clone() };
        self.guests.iter().map(at).collect()
    }

    fn counted(&self) -> Vec<CountedAt> {
        let guest = |guest: &Guest| CountedAt::Agent {
            node: guest.plan.id,
            client: guest.client.clone(),
            interface: self.wishes.interface().to_owned(),
        };
        let ends = self.switch.taps().map(|(node, tap)| (node, tap.to_owned())).collect();
        let switch = CountedAt::Switch { namespace: Arc::clone(self.switch.namespace()), ends };
        self.guests.iter().map(guest).chain([switch]).collect()
    }

    /// The guests' QEMUs, and the switch: with its datapath in userspace, every packet costs it time.
    fn own_processes(&self) -> Vec<u32> {
        let here = self.guests.iter().filter(|guest| guest.is_here());
        let guests = here.filter_map(|guest| guest.machine.pid);
        guests.chain(self.switch.process()).collect()
    }

    fn unwatched(&self) -> Vec<NodeId> {
        self.far.taps().map(|at| at.node).collect()
    }

    fn load_inside(&self) -> Option<Vec<Arc<dyn Node>>> {
        let inside = self.spec.stress == StressPlace::Guest;
        let nodes = self.pairs.iter().flat_map(|pair| [Arc::clone(&pair.client), Arc::clone(&pair.server)]);
        inside.then(|| nodes.collect())
    }

    /// The first virtual CPU of each guest; that one is bound to a CPU of this host.
    fn cpus(&self) -> Option<Vec<PairCpus>> {
        Some(vec![PairCpus { client: 0, server: 0 }; self.pairs.len()])
    }

    fn lost(&self) -> Option<BoxFuture<'static, String>> {
        let daemon = daemon_lost(Arc::clone(&self.daemon)).boxed();
        let lost: Vec<_> = self.guests.iter().map(|guest| guest.lost().boxed()).chain([daemon]).collect();
        Some(async move { select_all(lost).await.0 }.boxed())
    }

    async fn keep(&mut self) -> Result<String, TestbedError> {
        for guest in &self.guests {
            // Nothing is half set when others go on with it.
            drop(guest.namespace.configuring().await);
        }
        let kept = self.holds.keep();
        let names = kept.map_err(|source| TestbedError::Io { what: "keep the testbed".to_owned(), source })?;
        Ok(format!(
            "kept {} namespaces in minimega; look into them with `minimega -e namespace {} vm info`; remove them with \
             `vptest clean`",
            names.len(),
            names.first().map_or("", String::as_str),
        ))
    }

    async fn teardown(&mut self) -> Teardown {
        let (mut left, mut problems) = (Vec::new(), Vec::new());
        if let Err(error) = self.processes.close().await {
            left.push(format!("processes of iteration {}: {error}", self.number));
        }
        if self.keeps_disks {
            problems.extend(join_all(self.guests.iter().map(Guest::write_out)).await.into_iter().flatten());
        }
        self.pairs.clear();
        for guest in &self.guests {
            bring_console(&guest.namespace, guest.plan.id, &self.scratch).await;
        }
        // Letters end with them.
        let facts = |guest: Guest| guest.disk_use().into_iter().chain(guest.round_trips());
        let facts = self.guests.drain(..).flat_map(facts).collect();
        left.extend(self.holds.release().await);
        Teardown { left, problems, facts }
    }
}
