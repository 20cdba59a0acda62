//! A node behind an agent: a guest, or a physical host.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;

use super::{Command, Node, NodeError, Process};
use crate::agent::{AgentError, Client, FailureKind};
use crate::ids::NodeId;

/// Permissions of files that are put on a node.
const MODE: u32 = 0o755;

/// See the module.
#[derive(Debug, Clone)]
pub struct AgentNode {
    /// Its name.
    pub id: NodeId,
    /// Address of the interface the workload uses.
    pub address: IpAddr,
    /// The conversation.
    pub client: Client,
}

impl AgentNode {
    fn failed(&self, what: String) -> impl FnOnce(AgentError) -> NodeError {
        let node = self.id;
        move |error| error.into_node(node, what)
    }
}

#[async_trait]
impl Node for AgentNode {
    fn id(&self) -> NodeId {
        self.id
    }

    fn address(&self) -> IpAddr {
        self.address
    }

    fn scratch(&self) -> &str {
        &self.client.hello().scratch
    }

    fn vptest(&self) -> &str {
        &self.client.hello().vptest
    }

    async fn spawn(&self, command: &Command) -> Result<Box<dyn Process>, NodeError> {
        let program = command.argv.first().cloned().unwrap_or_default();
        match self.client.spawn(command).await {
            Ok(process) => Ok(Box::new(process)),
            Err(error) if error.failure() == Some(FailureKind::NoProgram) => {
                Err(NodeError::NoProgram { node: self.id, program })
            }
            Err(error) => Err(error.into_node(self.id, format!("start {program}"))),
        }
    }

    async fn listening(&self, port: u16) -> Result<bool, NodeError> {
        self.client.listening(port).await.map_err(self.failed("list its sockets".to_owned()))
    }

    async fn await_listening(&self, port: u16, within: Duration) -> Result<bool, NodeError> {
        let found = self.client.await_listening(port, within).await;
        found.map_err(self.failed("list its sockets".to_owned()))
    }

    async fn exists(&self, path: &str) -> Result<bool, NodeError> {
        self.client.exists(path).await.map_err(self.failed(format!("look for {path}")))
    }

    async fn put(&self, path: &str, content: &[u8]) -> Result<(), NodeError> {
        let sent = self.client.put(path, MODE, content.len() as u64, content).await;
        sent.map(drop).map_err(self.failed(format!("write {path}")))
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>, NodeError> {
        match self.client.fetch(path, limit).await {
            Ok(content) => Ok(content),
            Err(error) if error.failure() == Some(FailureKind::TooLarge) => {
                Err(NodeError::TooLarge { node: self.id, path: path.to_owned(), limit })
            }
            Err(error) => Err(error.into_node(self.id, format!("read {path}"))),
        }
    }
}
