//! Watches the hosts that carry the nodes while a workload runs: this one, or others behind their agents.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;

use super::Snapshot;
use crate::agent::{AgentError, Client};
use crate::ids::NodeId;
use crate::record::HostUse;

/// How long an answer may take; reading `/proc` takes some milliseconds.
const LIMIT: Duration = Duration::from_secs(10);

/// What one host did.
#[derive(Debug, Clone, PartialEq)]
pub struct Used {
    /// The node it is; `None` for the host vptest runs on.
    pub node: Option<NodeId>,
    /// What it did; all unknown when it could not be read.
    pub used: HostUse,
}

/// What of this host is watched.
#[derive(Debug, Default)]
pub struct Here {
    /// Processes that work for the testbed as well as vptest's own.
    pub own: Vec<u32>,
    /// CPUs the iteration has for itself; `None` for all of the host.
    pub cpus: Option<Vec<usize>>,
}

impl Here {
    fn snapshot(&self) -> Snapshot {
        Snapshot::take_with(&self.own, self.cpus.as_deref())
    }
}

/// A watch that has begun.
#[derive(Debug)]
pub enum Watch {
    /// Of this host.
    Here(Box<Snapshot>, Here),
    /// Of others.
    There(Vec<(NodeId, Client)>),
}

/// A watch that has ended; the answers may still be on their way.
#[derive(Debug)]
pub enum Watched {
    /// Of this host.
    Here(Box<HostUse>),
    /// Of others.
    There(Vec<(NodeId, JoinHandle<HostUse>)>),
}

impl Watch {
    /// Begins with `hosts`, or with this host for `None`.
    pub async fn start(hosts: Option<Vec<(NodeId, Client)>>, here: Here) -> Self {
        let Some(hosts) = hosts else { return Self::Here(Box::new(here.snapshot()), here) };
        join_all(hosts.iter().map(
            async |(node, client)| match tokio::time::timeout(LIMIT, client.watch_host()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("{node}: its counters cannot be read: {error}"),
                Err(_) => tracing::warn!("{node}: its counters cannot be read within {LIMIT:?}"),
            },
        ))
        .await;
        Self::There(hosts)
    }

    /// Ends it at this moment; for others than this host, as soon as they hear of it. To be called in a runtime.
    pub fn end(&self) -> Watched {
        match self {
            Self::Here(before, here) => Watched::Here(Box::new(before.until(&here.snapshot()))),
            Self::There(hosts) => {
                let ask = |(node, client): &(NodeId, Client)| (*node, tokio::spawn(host_use(*node, client.clone())));
                Watched::There(hosts.iter().map(ask).collect())
            }
        }
    }
}

impl Watched {
    /// What came of it.
    pub async fn finish(self) -> Vec<Used> {
        match self {
            Self::Here(used) => vec![Used { node: None, used: *used }],
            Self::There(asked) => {
                let answer = |(node, answer): (NodeId, JoinHandle<HostUse>)| async move {
                    Used { node: Some(node), used: answer.await.unwrap_or_else(|_| HostUse::unread()) }
                };
                join_all(asked.into_iter().map(answer)).await
            }
        }
    }
}

async fn host_use(node: NodeId, client: Client) -> HostUse {
    let answer: Result<Result<HostUse, AgentError>, _> = tokio::time::timeout(LIMIT, client.host_use()).await;
    match answer {
        Ok(Ok(used)) => return used,
        Ok(Err(error)) => tracing::warn!("{node}: its counters cannot be read: {error}"),
        Err(_) => tracing::warn!("{node}: its counters cannot be read within {LIMIT:?}"),
    }
    HostUse::unread()
}
