//! The testbed of the tests: no namespaces, no packets, no privileges, and faults on request.
//!
//! Commands run as plain processes of this host on loopback addresses, settings read back as they were asked for,
//! captures report made-up counts. The program name `sample` is answered without a process:
//! `["sample", NAME, MEAN, SD]` prints `NAME VALUE` with a value drawn from a normal distribution, the same one for the
//! same iteration and pair, so that campaigns of thousands of iterations take seconds and can be predicted.

mod node;
mod sample;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use async_trait::async_trait;

use self::node::FakeNode;
use super::{Beside, CapturePoint, CaptureSource, Instance, Pair, Path, Request, Teardown, Testbed, TestbedError};
use crate::host::cage::{Cage, Kind};
use crate::ids::{NodeId, Stage, Vantage};
use crate::node::local::{self, LocalNode, Processes};
use crate::node::{Command, NodeError, Process};
use crate::record::{Environment, Setting};
use crate::spec::{FakeSpec, Fault, FaultKind};

/// See the module.
#[derive(Debug)]
pub struct Fake {
    spec: FakeSpec,
}

impl Fake {
    /// A testbed with these faults.
    pub fn new(spec: FakeSpec) -> Self {
        Self { spec }
    }

    /// The fault of an iteration in a stage, if the spec asks for one.
    fn fault(&self, stage: Stage, request: &Request) -> Option<FaultKind> {
        let hits = |fault: &&Fault| {
            fault.stage == stage
                && (fault.iterations.is_empty() || fault.iterations.contains(&request.number))
                && fault.attempts.is_none_or(|last| request.attempt <= last)
        };
        self.spec.faults.iter().find(hits).map(|fault| fault.kind)
    }
}

#[async_trait]
impl Testbed for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn beside(&self) -> Beside {
        Beside::Kernel
    }

    fn provides(&self, program: &str) -> bool {
        program == "sample"
    }

    async fn enter(&self, stage: Stage, request: &Request) -> Result<(), TestbedError> {
        match self.fault(stage, request) {
            Some(FaultKind::Error) => Err(TestbedError::Injected(stage)),
            Some(FaultKind::Hang) => std::future::pending().await,
            Some(FaultKind::Kill) => {
                let killed = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
                Err(TestbedError::Io {
                    what: "kill vptest".to_owned(),
                    source: killed.err().map_or_else(|| std::io::Error::other("it survived"), Into::into),
                })
            }
            #[expect(clippy::panic, reason = "the spec asks for it")]
            Some(FaultKind::Panic) => panic!("injected panic in {stage}"),
            _ => Ok(()),
        }
    }

    async fn preflight(&self, _request: &Request) -> Result<(), TestbedError> {
        Ok(())
    }

    async fn launch(&self, request: &Request) -> Result<Box<dyn Instance>, TestbedError> {
        let cage = Cage::open_or_groups()
            .map_err(|source| TestbedError::Io { what: "open a cage for processes".to_owned(), source })?;
        let cage_kind = cage.kind();
        let processes = Arc::new(Processes::new(cage));
        let node = |id: NodeId| -> Result<Arc<FakeNode>, TestbedError> {
            let scratch = request.scratch.join(id.to_string());
            std::fs::create_dir_all(&scratch)
                .map_err(|source| TestbedError::Io { what: format!("create {}", scratch.display()), source })?;
            let host = LocalNode {
                id,
                address: address(id.pair),
                scratch: scratch.to_string_lossy().into_owned(),
                vptest: request.vptest.to_string_lossy().into_owned(),
                namespace: None,
                processes: Arc::clone(&processes),
            };
            Ok(Arc::new(FakeNode { host, number: request.number }))
        };
        let pairs = (1..=request.tuple.pairs())
            .map(|number| {
                Ok(Pair { number, client: node(NodeId::client(number))?, server: node(NodeId::server(number))? })
            })
            .collect::<Result<_, TestbedError>>()?;
        let faults = [Stage::Verify, Stage::Instrument, Stage::Collect, Stage::Teardown]
            .map(|stage| (stage, self.fault(stage, request)));
        Ok(Box::new(FakeInstance { pairs, processes, cage_kind, request: request.clone(), faults, readings: 0 }))
    }
}

/// A loopback address of the pair's own, so that ports of several pairs and campaigns rarely meet.
fn address(pair: u32) -> IpAddr {
    let [.., a, b] = std::process::id().to_be_bytes();
    let last = u8::try_from(pair % 254).expect("a remainder of 254 fits") + 1;
    IpAddr::V4(Ipv4Addr::new(127, a, b, last))
}

struct FakeInstance {
    pairs: Vec<Pair>,
    processes: Arc<Processes>,
    cage_kind: Kind,
    request: Request,
    faults: [(Stage, Option<FaultKind>); 4],
    /// How often settings were read.
    readings: u32,
}

impl FakeInstance {
    fn has(&self, stage: Stage, kind: FaultKind) -> bool {
        self.faults.contains(&(stage, Some(kind)))
    }

    /// What the tuple asks for, by setting name.
    fn requested(&self) -> Vec<(&'static str, String)> {
        let tuple = &self.request.tuple;
        let offload = tuple.offload().map(|on| if on { "on" } else { "off" }.to_owned());
        let mut all: Vec<_> =
            offload.iter().flat_map(|value| ["sg", "tso", "gso", "gro"].map(|name| (name, value.clone()))).collect();
        all.extend(tuple.mtu().map(|mtu| ("mtu", mtu.to_string())));
        all.extend(tuple.rate().map(|rate| ("rate", rate.to_string())));
        all
    }
}

#[async_trait]
impl Instance for FakeInstance {
    fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    fn capture_points(&self) -> Vec<CapturePoint> {
        let dropped = if self.has(Stage::Instrument, FaultKind::Drops) { 7 } else { 0 };
        let nodes = self.pairs.iter().flat_map(|pair| [pair.client.id(), pair.server.id()]);
        nodes
            .flat_map(|node| {
                [Vantage::Guest, Vantage::Host].map(|vantage| CapturePoint {
                    node,
                    vantage,
                    interface: "fake0".to_owned(),
                    source: CaptureSource::Synthetic { packets: 100, bytes: 10_000, dropped },
                })
            })
            .collect()
    }

    async fn settings(&mut self) -> Result<Vec<Setting>, TestbedError> {
        self.readings += 1;
        let stage = if self.readings == 1 { Stage::Verify } else { Stage::Collect };
        let observed = |value: &String| {
            if self.has(stage, FaultKind::Unreadable) {
                None
            } else if self.has(stage, FaultKind::Setting) {
                Some(format!("not {value}"))
            } else {
                Some(value.clone())
            }
        };
        let nodes = self.pairs.iter().flat_map(|pair| [pair.client.id(), pair.server.id()]);
        Ok(nodes
            .flat_map(|node| self.requested().into_iter().map(move |(name, value)| (node, name, value)))
            .map(|(node, name, value)| {
                let observed = observed(&value);
                Setting::compare(Some(node), name, Some(value), observed)
            })
            .collect())
    }

    async fn paths(&mut self) -> Result<Vec<Path>, TestbedError> {
        let hops = self.request.tuple.hops();
        let path = |pair: &Pair| Path {
            pair: pair.number,
            expected: hops.to_vec(),
            observed: hops.iter().cloned().map(Some).collect(),
            reached: true,
        };
        Ok(self.pairs.iter().map(path).collect())
    }

    fn has_links(&self) -> bool {
        false
    }

    fn environment(&self) -> Vec<Environment> {
        let value = self.cage_kind.as_str().to_owned();
        vec![Environment { host: "host".to_owned(), name: "processes_held_by".to_owned(), value }]
    }

    async fn spawn_on_host(&mut self, command: &Command) -> Result<Box<dyn Process>, NodeError> {
        local::start(&self.processes, NodeId::client(1), None, &self.request.scratch, command).await
    }

    async fn keep(&mut self) -> Result<String, TestbedError> {
        Err(TestbedError::Request {
            testbed: "fake",
            what: "there is nothing to keep: its nodes are plain processes that end with vptest".to_owned(),
        })
    }

    async fn teardown(&mut self) -> Teardown {
        let mut left = Vec::new();
        if let Err(error) = self.processes.close().await {
            left.push(format!("processes of the iteration: {error}"));
        }
        if self.has(Stage::Teardown, FaultKind::Leftover) {
            left.push("injected leftover".to_owned());
        }
        Teardown { left, ..Teardown::default() }
    }
}
