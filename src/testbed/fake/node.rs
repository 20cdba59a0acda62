//! Nodes of the fake testbed: plain processes and files of this host.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::super::Request;
use super::sample::Sample;
use crate::host::cage::{Cage, Job};
use crate::host::files;
use crate::ids::NodeId;
use crate::node::{Command, Node, NodeError, Process};

pub(super) struct FakeNode {
    id: NodeId,
    address: IpAddr,
    scratch: PathBuf,
    scratch_text: String,
    vptest: String,
    /// Iteration number, for the values that `sample` draws.
    number: u32,
    cage: Arc<Mutex<Cage>>,
}

impl FakeNode {
    pub(super) fn new(
        id: NodeId,
        address: IpAddr,
        scratch: PathBuf,
        request: &Request,
        cage: Arc<Mutex<Cage>>,
    ) -> Self {
        let scratch_text = scratch.to_string_lossy().into_owned();
        let vptest = request.vptest.to_string_lossy().into_owned();
        Self { id, address, scratch, scratch_text, vptest, number: request.number, cage }
    }

    fn failed(&self, what: String) -> impl FnOnce(io::Error) -> NodeError {
        let node = self.id;
        move |source| NodeError::Io { node, what, source }
    }
}

#[async_trait]
impl Node for FakeNode {
    fn id(&self) -> NodeId {
        self.id
    }

    fn address(&self) -> IpAddr {
        self.address
    }

    fn scratch(&self) -> &str {
        &self.scratch_text
    }

    fn vptest(&self) -> &str {
        &self.vptest
    }

    async fn spawn(&self, command: &Command) -> Result<Box<dyn Process>, NodeError> {
        if command.argv.first().is_some_and(|program| program == "sample") {
            let sample = Sample::draw(&command.argv, self.number, self.id.pair);
            return Ok(Box::new(sample.map_err(self.failed("start sample".to_owned()))?));
        }
        let job = Job { command: command.clone(), directory: self.scratch.clone(), namespace: None };
        start(&self.cage, self.id, job).await
    }

    /// All fake nodes share this host's stack, so the kernel chooses a free port.
    async fn port(&self, _usual: u16) -> Result<u16, NodeError> {
        let free = std::net::TcpListener::bind((self.address, 0)).and_then(|socket| socket.local_addr());
        free.map(|address| address.port()).map_err(self.failed("find a free port".to_owned()))
    }

    async fn listening(&self, port: u16) -> Result<bool, NodeError> {
        files::listening(port).map_err(self.failed("read the table of sockets".to_owned()))
    }

    async fn exists(&self, path: &str) -> Result<bool, NodeError> {
        std::fs::exists(path).map_err(self.failed(format!("look for {path}")))
    }

    async fn put(&self, path: &str, content: &[u8]) -> Result<(), NodeError> {
        std::fs::write(path, content).map_err(self.failed(format!("write {path}")))
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>, NodeError> {
        match files::read_at_most(path.as_ref(), limit).map_err(self.failed(format!("read {path}")))? {
            Some(content) => Ok(content),
            None => Err(NodeError::TooLarge { node: self.id, path: path.to_owned(), limit }),
        }
    }
}

/// Starts a job, naming the program when there is none of that name.
pub(super) async fn start(cage: &Mutex<Cage>, node: NodeId, job: Job) -> Result<Box<dyn Process>, NodeError> {
    let program = job.command.argv.first().cloned().unwrap_or_default();
    match cage.lock().await.spawn(job).await {
        Ok(child) => Ok(Box::new(child)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NodeError::NoProgram { node, program }),
        Err(source) => Err(NodeError::Io { node, what: format!("start {program}"), source }),
    }
}
