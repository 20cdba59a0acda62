//! Nodes of the fake testbed: this host under several names, and one program that is none.

use std::net::{IpAddr, TcpListener};

use async_trait::async_trait;

use super::sample::Sample;
use crate::ids::NodeId;
use crate::node::local::LocalNode;
use crate::node::{Command, Node, NodeError, Process};

pub(super) struct FakeNode {
    pub(super) host: LocalNode,
    /// Iteration number, for the values that `sample` draws.
    pub(super) number: u32,
}

#[async_trait]
impl Node for FakeNode {
    fn id(&self) -> NodeId {
        self.host.id()
    }

    fn address(&self) -> IpAddr {
        self.host.address()
    }

    fn scratch(&self) -> &str {
        self.host.scratch()
    }

    fn vptest(&self) -> &str {
        self.host.vptest()
    }

    fn is_here(&self) -> bool {
        self.host.is_here()
    }

    async fn spawn(&self, command: &Command) -> Result<Box<dyn Process>, NodeError> {
        if command.argv.first().is_none_or(|program| program != "sample") {
            return self.host.spawn(command).await;
        }
        match Sample::draw(&command.argv, self.number, self.id().pair) {
            Ok(sample) => Ok(Box::new(sample)),
            Err(source) => Err(NodeError::Io { node: self.id(), what: "start sample".to_owned(), source }),
        }
    }

    /// All fake nodes share this host's stack, so the kernel chooses a free port.
    async fn port(&self, _usual: u16) -> Result<u16, NodeError> {
        let free = TcpListener::bind((self.address(), 0)).and_then(|socket| socket.local_addr());
        let failed = |source| NodeError::Io { node: self.id(), what: "find a free port".to_owned(), source };
        free.map(|address| address.port()).map_err(failed)
    }

    async fn listening(&self, port: u16) -> Result<bool, NodeError> {
        self.host.listening(port).await
    }

    async fn exists(&self, path: &str) -> Result<bool, NodeError> {
        self.host.exists(path).await
    }

    async fn put(&self, path: &str, content: &[u8]) -> Result<(), NodeError> {
        self.host.put(path, content).await
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>, NodeError> {
        self.host.get(path, limit).await
    }
}
