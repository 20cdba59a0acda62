//! The nodes of one iteration, with what they have lent.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all, select_all, try_join_all};

use super::borrow::{apart, borrow_all, reach_all, take_turn};
use super::member::{GivenBack, Member, both};
use super::nodes::Nodes;
use super::route::routes;
use super::wishes::{NodeWish, Wishes};
use crate::agent::{Client, LoanRequest};
use crate::host::host_name;
use crate::host::loan::Wanted;
use crate::ids::{NodeId, Role, Vantage};
use crate::instrument::switch::Switch;
use crate::node::agent::AgentNode;
use crate::node::{Command, Node, NodeError, Process};
use crate::record::{Environment, Setting};
use crate::spec::Way;
use crate::testbed::minimega::cc::ROUND_TRIPS;
use crate::testbed::{
    CapturePoint, CaptureSource, CountedAt, Instance, KernelAt, Pair, Path, Request, Teardown, TestbedError,
};
use crate::workload::PairCpus;

/// How long a node whose agent is gone may take to be reached again and to put back.
const SETTLE: Duration = Duration::from_secs(10);
/// The same behind rond, where starting an agent waits for a heartbeat, and the agent before notices only after 45 s that it
/// has lost its vptest.
const SETTLE_BY_ROND: Duration = Duration::from_secs(70);
/// A route that is longer than asked for is walked this much further.
const EXCESS_HOPS: usize = 8;

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

impl Up {
    /// Reaches all nodes and changes what the tuple asks for.
    pub(super) async fn launch(wishes: Wishes, nodes: &Nodes, request: &Request) -> Result<Self, TestbedError> {
        let reached = reach_all(&wishes, nodes, request).await?;
        apart(&reached)?;
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
        let borrowed = borrow_all(&wishes, reached, &by).await;
        up.members = borrowed.members;
        let ready = match borrowed.refused {
            Some(error) => Err(error),
            None => up.ready().await,
        };
        let facts = match ready {
            Ok(facts) => facts,
            Err(error) => {
                let left = up.teardown().await.left.into_iter().chain(up.abandon(borrowed.lost).await);
                left.for_each(|left| tracing::warn!("{left}"));
                return Err(error);
            }
        };
        up.pairs = up.make_pairs();
        up.facts = facts;
        Ok(up)
    }

    /// Waits for all links; then each client's server must be somewhere else. Then facts about the nodes are asked for.
    async fn ready(&self) -> Result<Vec<Environment>, TestbedError> {
        try_join_all(self.members.iter().map(Member::await_link)).await?;
        try_join_all(self.couples().map(|(client, server)| client.is_no_end_of(server))).await?;
        let facts = join_all(self.members.iter().map(Member::facts)).await;
        Ok(facts.into_iter().flatten().collect())
    }

    /// Client and server of each pair.
    fn couples(&self) -> impl Iterator<Item = (&Member, &Member)> {
        let of = |role: Role| self.members.iter().filter(move |member| member.wish.id.role == role);
        of(Role::Client).zip(of(Role::Server))
    }

    /// Nodes that went while they changed settings: what they had changed by then is put back.
    async fn abandon(&self, lost: Vec<(NodeWish, String)>) -> Vec<String> {
        let all = lost.into_iter().map(|(wish, error)| async move {
            self.nodes.forget(&wish).await;
            self.settled(&wish, GivenBack::Lost(error)).await
        });
        join_all(all).await.into_iter().flatten().collect()
    }

    /// What is left on a node. One whose agent is gone is reached anew, so that it puts back now and not at the next
    /// iteration, which may be long in coming.
    async fn settled(&self, wish: &NodeWish, back: GivenBack) -> Vec<String> {
        let error = match back {
            GivenBack::Left(left) => return left,
            GivenBack::Lost(_) if !self.wishes.change() => return Vec::new(),
            GivenBack::Lost(error) => error,
        };
        let host = &wish.host;
        let limit = match wish.reach.way() {
            Way::Ssh => SETTLE,
            Way::Rond => SETTLE_BY_ROND,
        };
        let again = tokio::time::timeout(limit, self.settle(wish)).await;
        match again.unwrap_or_else(|_| Err(format!("it is not reached again within {limit:?}"))) {
            Ok(left) => left.into_iter().map(|left| format!("{host}: not put back: {left}")).collect(),
            Err(why) => vec![format!("{host}: settings may not be put back before the next contact: {error}; {why}")],
        }
    }

    async fn settle(&self, wish: &NodeWish) -> Result<Vec<String>, String> {
        let held = self.nodes.reach(wish, &self.vptest).await.map_err(|error| error.to_string())?;
        // Whoever borrows pays the debt of the one before.
        let wanted = Wanted { interface: wish.interface.clone().unwrap_or_default(), ..Wanted::default() };
        let nothing = LoanRequest { wanted, address: wish.address, by: self.by.clone() };
        take_turn(wish, &held.client, &nothing).await.map_err(|error| error.to_string())?;
        held.client.give_back().await.map_err(|error| error.to_string())
    }

    fn make_pairs(&self) -> Vec<Pair> {
        let node = |member: &Member| -> Arc<dyn Node> {
            Arc::new(AgentNode { id: member.wish.id, address: member.address, client: member.held.client.clone() })
        };
        self.couples()
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
        let routes = self.couples().map(|(client, server)| routes(client, server));
        let is_slow = self.members.iter().any(|member| member.client().is_slow());
        let (settings, routes) = both(is_slow, join_all(read), join_all(routes)).await;
        Ok(settings.into_iter().flatten().chain(routes.into_iter().flatten()).collect())
    }

    async fn paths(&mut self) -> Result<Vec<Path>, TestbedError> {
        try_join_all(self.couples().map(|(client, server)| self.walk(client, server))).await
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

    fn switch(&self) -> Option<Switch> {
        self.wishes.switch.clone()
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
        let left = join_all(members.iter().zip(back).map(|(member, back)| self.settled(&member.wish, back))).await;
        let left = left.into_iter().flatten().collect();
        self.changed.clear();
        let facts = members.iter().filter_map(|member| member.trips_since(ROUND_TRIPS)).collect();
        self.nodes.tidy().await;
        Teardown { left, facts, ..Teardown::default() }
    }
}
