//! The nodes of one iteration, with what they have lent.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all, select_all, try_join_all};
use tokio::time::Instant;

use super::nodes::{Held, Nodes};
use super::wishes::{NodeWish, Wishes};
use crate::agent::{AgentError, Client, FailureKind, Lent, LoanRequest, Reading};
use crate::host::ethtool::Offload;
use crate::host::host_name;
use crate::host::loan::Wanted;
use crate::ids::{NodeId, Role, Vantage};
use crate::node::agent::AgentNode;
use crate::node::{Command, Node, NodeError, Process};
use crate::record::{Environment, Setting};
use crate::spec::Way;
use crate::testbed::{
    CapturePoint, CaptureSource, CountedAt, Instance, KernelAt, Pair, Path, Request, Teardown, TestbedError,
};
use crate::workload::PairCpus;

/// How long an interface may be somebody else's: longer than an agent takes to notice that it has lost its vptest.
const TURN: Duration = Duration::from_secs(20);
const TURN_POLL: Duration = Duration::from_millis(250);
/// How long a node whose agent is gone may take to be reached again and to put back.
const SETTLE: Duration = Duration::from_secs(10);
/// The same behind rond, where starting an agent waits for a heartbeat.
const SETTLE_BY_ROND: Duration = Duration::from_secs(40);
/// A card may take seconds to come back after its offloads or its MTU were changed.
const LINK_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Questions that compare a node's clock with this host's.
const CLOCK_ROUNDS: u32 = 16;
/// A route that is longer than asked for is walked this much further.
const EXCESS_HOPS: usize = 8;
/// More than a kernel parameter or a governor has.
const VALUE: u64 = 4096;
/// Readings stored under another name, since the factor of that name is something else.
const RENAMED: [(&str, &str); 2] = [("driver", "link_driver"), ("egress_rate", "rate")];

/// The fact that says how many round trips through miniccc an iteration took.
const ROUND_TRIPS: &str = "testbed.cc.round_trips";

/// Readings that say what the link is, and their names among the facts.
const LINK_FACTS: [(&str, &str); 6] = [
    ("speed", "link.speed"),
    ("link_driver", "link.driver"),
    ("firmware", "link.firmware"),
    ("queues", "link.queues"),
    ("ring_rx", "link.ring_rx"),
    ("ring_tx", "link.ring_tx"),
];

/// See the module.
pub(super) struct Up {
    wishes: Wishes,
    nodes: Nodes,
    members: Vec<Member>,
    /// Nodes whose settings may be changed.
    changed: Vec<NodeWish>,
    pairs: Vec<Pair>,
    facts: Vec<Environment>,
    spoilt: bool,
    /// Who borrows, for those who find it in use.
    by: String,
    /// For reaching a node anew.
    vptest: PathBuf,
}

/// A node in its part.
struct Member {
    wish: NodeWish,
    held: Arc<Held>,
    interface: String,
    address: IpAddr,
    /// What it said when it lent its settings.
    notes: Vec<String>,
    /// Round trips through miniccc before the iteration.
    trips: Option<u64>,
}

impl Up {
    /// Reaches all nodes and changes what the tuple asks for.
    pub(super) async fn launch(wishes: Wishes, nodes: &Nodes, request: &Request) -> Result<Self, TestbedError> {
        let reached = reach_all(&wishes, nodes, request).await?;
        let by = format!("vptest on {} (process {}, iteration {})", host_name(), std::process::id(), request.number);
        let changed = wishes.nodes.clone();
        let mut up = Self {
            nodes: nodes.clone(),
            members: Vec::new(),
            changed,
            pairs: Vec::new(),
            facts: Vec::new(),
            spoilt: false,
            by: by.clone(),
            vptest: request.vptest.clone(),
            wishes: wishes.clone(),
        };
        let lent = join_all(reached.iter().map(|(wish, held)| lend(&wishes, wish, held, &by))).await;
        let mut refused = None;
        for member in lent {
            match member {
                Ok(member) => up.members.push(member),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        let ready = match refused {
            Some(error) => Err(error),
            None => try_join_all(up.members.iter().map(Member::await_link)).await.map(drop),
        };
        if let Err(error) = ready {
            for left in up.teardown().await.left {
                tracing::warn!("{left}");
            }
            return Err(error);
        }
        up.pairs = up.make_pairs();
        up.facts = join_all(up.members.iter().map(Member::facts)).await.into_iter().flatten().collect();
        Ok(up)
    }

    /// What is left on a node. One whose agent is gone is reached anew, so that it puts back now and not at the next
    /// iteration, which may be long in coming.
    async fn settled(&self, member: &Member, back: GivenBack) -> Vec<String> {
        let error = match back {
            GivenBack::Left(left) => return left,
            GivenBack::Lost(_) if !self.wishes.change() => return Vec::new(),
            GivenBack::Lost(error) => error,
        };
        let host = &member.wish.host;
        let limit = match member.wish.reach.way() {
            Way::Ssh => SETTLE,
            Way::Rond => SETTLE_BY_ROND,
        };
        let again = tokio::time::timeout(limit, self.settle(member)).await;
        match again.unwrap_or_else(|_| Err(format!("it is not reached again within {limit:?}"))) {
            Ok(left) => left.into_iter().map(|left| format!("{host}: not put back: {left}")).collect(),
            Err(why) => vec![format!("{host}: settings may not be put back before the next contact: {error}; {why}")],
        }
    }

    async fn settle(&self, member: &Member) -> Result<Vec<String>, String> {
        let held = self.nodes.reach(&member.wish, &self.vptest).await.map_err(|error| error.to_string())?;
        // Whoever borrows pays the debt of the one before.
        let wanted = Wanted { interface: member.interface.clone(), ..Wanted::default() };
        let nothing = LoanRequest { wanted, address: Some(member.address), by: self.by.clone() };
        take_turn(&held.client, &nothing).await.map_err(|error| error.to_string())?;
        held.client.give_back().await.map_err(|error| error.to_string())
    }

    fn make_pairs(&self) -> Vec<Pair> {
        let node = |member: &Member| -> Arc<dyn Node> {
            Arc::new(AgentNode { id: member.wish.id, address: member.address, client: member.held.client.clone() })
        };
        let of = |role: Role| self.members.iter().filter(move |member| member.wish.id.role == role);
        of(Role::Client)
            .zip(of(Role::Server))
            .map(|(client, server)| Pair { number: client.wish.id.pair, client: node(client), server: node(server) })
            .collect()
    }

    async fn walk(&self, client: &Member, server: &Member) -> Result<Path, TestbedError> {
        let limit = u8::try_from(self.wishes.hops.len() + 1 + EXCESS_HOPS).unwrap_or(u8::MAX);
        let walked = client.held.client.walk(server.address, limit).await;
        let (passed, reached) = walked.map_err(|error| client.failed(&error))?;
        let name = |address: Option<IpAddr>| {
            let address = address?;
            let router = self.wishes.routers.iter().find(|(_, of)| *of == address);
            // One that nobody named is there all the same.
            Some(router.map_or_else(|| address.to_string(), |(name, _)| name.clone()))
        };
        Ok(Path {
            pair: client.wish.id.pair,
            expected: self.wishes.hops.clone(),
            observed: passed.into_iter().map(name).collect(),
            reached,
        })
    }
}

/// Reaches all nodes at the same time.
async fn reach_all<'a>(
    wishes: &'a Wishes,
    nodes: &Nodes,
    request: &Request,
) -> Result<Vec<(&'a NodeWish, Arc<Held>)>, TestbedError> {
    let mut all = Vec::new();
    for wish in &wishes.nodes {
        all.push(async move { Ok::<_, TestbedError>((wish, nodes.reach(wish, &request.vptest).await?)) });
    }
    try_join_all(all).await
}

/// Borrows as soon as nobody else has the interface: an agent that lost its vptest notices that only after a while.
async fn take_turn(client: &Client, request: &LoanRequest) -> Result<Lent, AgentError> {
    let deadline = Instant::now() + TURN;
    loop {
        match client.lend(request).await {
            Err(error) if error.failure() == Some(FailureKind::Busy) && Instant::now() < deadline => {
                tokio::time::sleep(TURN_POLL).await;
            }
            other => return other,
        }
    }
}

async fn lend(wishes: &Wishes, wish: &NodeWish, held: &Arc<Held>, by: &str) -> Result<Member, TestbedError> {
    let lent = take_turn(&held.client, &wishes.loan(wish, by)).await;
    let lent = lent.map_err(|error| TestbedError::Guest { node: wish.id, what: said(wish, &error) })?;
    for note in &lent.notes {
        tracing::warn!("{}: {note}", wish.id);
    }
    let held = Arc::clone(held);
    let trips = held.round_trips();
    Ok(Member { wish: wish.clone(), held, interface: lent.interface, address: lent.address, notes: lent.notes, trips })
}

fn said(wish: &NodeWish, error: &AgentError) -> String {
    let text = error.to_string();
    // Some say it themselves.
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let cause = if text.ends_with(&cause) { String::new() } else { cause };
    format!("{}: {text}{cause}", wish.host)
}

impl Member {
    fn client(&self) -> &Client {
        &self.held.client
    }

    fn failed(&self, error: &AgentError) -> TestbedError {
        TestbedError::Guest { node: self.wish.id, what: said(&self.wish, error) }
    }

    /// Round trips through miniccc from the loan to now, as a fact.
    fn trips_since(&self, name: &str) -> Option<Environment> {
        let value = self.held.round_trips()?.checked_sub(self.trips?)?.to_string();
        Some(Environment { host: self.wish.id.to_string(), name: name.to_owned(), value })
    }

    /// Waits until the interface is up; one that does not say counts as up.
    async fn await_link(&self) -> Result<(), TestbedError> {
        let deadline = Instant::now() + LINK_LIMIT;
        loop {
            let readings = self.client().settings(&self.interface).await.map_err(|error| self.failed(&error))?;
            match value(&readings, "operstate").as_deref() {
                Some("up" | "unknown") | None => return Ok(()),
                Some(state) if Instant::now() >= deadline => {
                    let what = format!("{}: {} is {state} after {LINK_LIMIT:?}", self.wish.host, self.interface);
                    return Err(TestbedError::Guest { node: self.wish.id, what });
                }
                Some(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    async fn facts(&self) -> Vec<Environment> {
        let hello = self.client().hello();
        let fact =
            |name: &str, value: String| Environment { host: self.wish.id.to_string(), name: name.to_owned(), value };
        let mut facts = vec![
            fact("testbed.physical.host", self.wish.host.clone()),
            fact("testbed.physical.way", self.wish.reach.way().as_str().to_owned()),
            fact("testbed.physical.interface", self.interface.clone()),
            fact("testbed.physical.address", self.address.to_string()),
            fact("vptest", hello.version.clone()),
        ];
        facts.extend(hello.cpus.iter().map(|cpus| fact("cpus", cpus.to_string())));
        facts.extend(hello.boot_id.iter().map(|boot| fact("boot_id", boot.clone())));
        facts.extend(self.notes.iter().map(|note| fact("testbed.physical.note", note.clone())));
        // Asked at once: where each question is a round trip of a letter, they share one.
        let (client, interface) = (self.client(), &self.interface);
        let (known, link, clock) = tokio::join!(client.facts(), client.settings(interface), client.clock(CLOCK_ROUNDS));
        match known {
            Ok(known) => facts.extend(known.into_iter().filter_map(|known| Some(fact(&known.name, known.value?)))),
            Err(error) => tracing::warn!("{}: cannot read what it is: {error}", self.wish.id),
        }
        match link {
            Ok(readings) => {
                let of_link = LINK_FACTS.iter().filter_map(|(from, to)| Some(fact(to, value(&readings, from)?)));
                facts.extend(of_link);
            }
            Err(error) => tracing::warn!("{}: cannot read what its link is: {error}", self.wish.id),
        }
        match clock {
            Ok(clock) => {
                let text = format!("{} to {} ns ahead of the host", clock.at_least_ns, clock.at_most_ns);
                facts.push(fact("clock.offset", text));
            }
            Err(error) => tracing::warn!("{}: cannot read its clock: {error}", self.wish.id),
        }
        facts
    }

    async fn settings(&self, wishes: &Wishes) -> Vec<Setting> {
        let node = Some(self.wish.id);
        let asked = self.client().settings(&self.interface);
        let (readings, of_kernel) = tokio::join!(asked, self.kernel_settings(wishes));
        let readings = match readings {
            Ok(readings) => readings,
            Err(error) => {
                tracing::warn!("{}: cannot read the settings of {}: {error}", self.wish.id, self.interface);
                Vec::new()
            }
        };
        let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
        let mut wanted: Vec<(&str, Option<String>)> =
            Offload::ALL.map(|offload| (offload.as_str(), wishes.offload.map(switch))).to_vec();
        wanted.push(("mtu", wishes.mtu.map(|mtu| mtu.to_string())));
        wanted.push(("egress_rate", wishes.rate_text.clone()));
        let named = |name: &str| {
            RENAMED.iter().find(|(from, _)| *from == name).map_or(name.to_owned(), |(_, to)| (*to).to_owned())
        };
        let mut settings: Vec<Setting> = wanted
            .iter()
            .map(|(name, wanted)| Setting::compare(node, &named(name), wanted.clone(), value(&readings, name)))
            .collect();
        let others = readings.iter().filter(|reading| !wanted.iter().any(|(name, _)| *name == reading.name));
        settings
            .extend(others.map(|reading| Setting::compare(node, &named(&reading.name), None, reading.value.clone())));
        settings.extend(of_kernel);
        settings
    }

    /// Kernel parameters that were asked for, and the governors of all CPUs.
    async fn kernel_settings(&self, wishes: &Wishes) -> Vec<Setting> {
        let cpus = self.client().hello().cpus.unwrap_or_default();
        let governor = |cpu: usize| format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
        let paths = wishes.sysctls.iter().map(|(name, _)| format!("/proc/sys/{name}")).chain((0..cpus).map(governor));
        let paths: Vec<String> = paths.collect();
        let read = match self.client().read_files(&paths, VALUE).await {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!("{}: cannot read its kernel parameters: {error}", self.wish.id);
                vec![None; paths.len()]
            }
        };
        let text = |bytes: &Option<Vec<u8>>| {
            let text = String::from_utf8_lossy(bytes.as_deref()?).split_whitespace().collect::<Vec<_>>().join(" ");
            Some(crate::text::printable(&text, 200))
        };
        let (parameters, governors) = read.split_at(wishes.sysctls.len().min(read.len()));
        let node = Some(self.wish.id);
        let mut settings: Vec<Setting> = wishes
            .sysctls
            .iter()
            .zip(parameters)
            .map(|((name, wanted), found)| {
                let wanted = wanted.split_whitespace().collect::<Vec<_>>().join(" ");
                Setting::compare(node, &format!("sysctl.{}", name.replace('/', ".")), Some(wanted), text(found))
            })
            .collect();
        let found: BTreeSet<String> = governors.iter().filter_map(text).collect();
        if !found.is_empty() || wishes.governor.is_some() {
            let found = (!found.is_empty()).then(|| found.into_iter().collect::<Vec<_>>().join(", "));
            settings.push(Setting::compare(node, "governor", wishes.governor.clone(), found));
        }
        settings
    }

    /// Ends what runs there and puts settings back.
    async fn give_back(&self) -> GivenBack {
        let host = &self.wish.host;
        let reset = self.client().reset().await.err().map(|error| format!("{host}: {error}"));
        match self.client().give_back().await {
            Ok(left) => {
                let left = left.into_iter().map(|left| format!("{host}: not put back: {left}"));
                GivenBack::Left(reset.into_iter().chain(left).collect())
            }
            Err(error) => GivenBack::Lost(error),
        }
    }
}

/// Given up half-way: the agents put back when their connections end.
impl Drop for Up {
    fn drop(&mut self) {
        let (nodes, changed) = (self.nodes.clone(), std::mem::take(&mut self.changed));
        if changed.is_empty() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { join_all(changed.iter().map(|wish| nodes.forget(wish))).await });
        }
    }
}

/// How putting back went.
enum GivenBack {
    /// What was left, one line each.
    Left(Vec<String>),
    /// The agent is gone, or too far gone to say.
    Lost(AgentError),
}

fn value(readings: &[Reading], name: &str) -> Option<String> {
    readings.iter().find(|reading| reading.name == name)?.value.clone()
}

#[async_trait]
impl Instance for Up {
    fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Inside the end hosts, on the interface that the workload uses.
    fn capture_points(&self) -> Vec<CapturePoint> {
        let point = |member: &Member| CapturePoint {
            node: member.wish.id,
            vantage: Vantage::Endpoint,
            interface: member.interface.clone(),
            source: CaptureSource::Agent(member.client().clone()),
        };
        self.members.iter().map(point).collect()
    }

    async fn settings(&mut self) -> Result<Vec<Setting>, TestbedError> {
        let read = self.members.iter().map(|member| member.settings(&self.wishes));
        Ok(join_all(read).await.into_iter().flatten().collect())
    }

    async fn paths(&mut self) -> Result<Vec<Path>, TestbedError> {
        let of = |role: Role| self.members.iter().filter(move |member| member.wish.id.role == role);
        try_join_all(of(Role::Client).zip(of(Role::Server)).map(|(client, server)| self.walk(client, server))).await
    }

    fn environment(&self) -> Vec<Environment> {
        self.facts.clone()
    }

    async fn spawn_on_host(&mut self, _command: &Command) -> Result<Box<dyn Process>, NodeError> {
        Err(NodeError::Io {
            node: NodeId::client(1),
            what: "start a load beside the nodes".to_owned(),
            source: std::io::Error::other("physical nodes have nothing beside them: loads run on the nodes"),
        })
    }

    fn load_inside(&self) -> Option<Vec<Arc<dyn Node>>> {
        Some(self.pairs.iter().flat_map(|pair| [Arc::clone(&pair.client), Arc::clone(&pair.server)]).collect())
    }

    async fn kernels(&mut self) -> Vec<KernelAt> {
        let kernel = |member: &Member| KernelAt::Agent { node: member.wish.id, client: member.client().clone() };
        self.members.iter().map(kernel).collect()
    }

    fn counted(&self) -> Vec<CountedAt> {
        let place = |member: &Member| CountedAt::Agent {
            node: member.wish.id,
            client: member.client().clone(),
            interface: member.interface.clone(),
        };
        self.members.iter().map(place).collect()
    }

    fn hosts(&self) -> Option<Vec<(NodeId, Client)>> {
        Some(self.members.iter().map(|member| (member.wish.id, member.client().clone())).collect())
    }

    /// The first CPU of each node.
    fn cpus(&self) -> Option<Vec<PairCpus>> {
        Some(vec![PairCpus { client: 0, server: 0 }; self.pairs.len()])
    }

    fn lost(&self) -> Option<BoxFuture<'static, String>> {
        let lost = |member: &Member| {
            let (client, name) = (member.client().clone(), format!("{} ({})", member.wish.id, member.wish.host));
            async move { format!("{name} is gone: {}", client.lost().await) }.boxed()
        };
        let all: Vec<_> = self.members.iter().map(lost).collect();
        (!all.is_empty()).then(|| async move { select_all(all).await.0 }.boxed())
    }

    async fn keep(&mut self) -> Result<String, TestbedError> {
        Err(TestbedError::Io {
            what: "keep the nodes as they are".to_owned(),
            source: std::io::Error::other("settings of hosts that are not vptest's are always put back"),
        })
    }

    fn spoil(&mut self) {
        self.spoilt = true;
    }

    async fn teardown(&mut self) -> Teardown {
        self.pairs.clear();
        let members = std::mem::take(&mut self.members);
        let back = join_all(members.iter().map(Member::give_back)).await;
        let is_good = !self.spoilt && back.iter().all(|back| matches!(back, GivenBack::Left(left) if left.is_empty()));
        if !is_good {
            join_all(members.iter().map(|member| self.nodes.forget(&member.wish))).await;
        }
        let left = join_all(members.iter().zip(back).map(|(member, back)| self.settled(member, back))).await;
        let left = left.into_iter().flatten().collect();
        self.changed.clear();
        let trips = members.iter().filter_map(|member| member.trips_since(ROUND_TRIPS));
        let facts = trips.collect();
        self.nodes.tidy().await;
        Teardown { left, facts }
    }
}
