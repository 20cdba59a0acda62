//! What the nodes run: commands to start, and how their output text becomes metrics.
//!
//! A workload is data: it says which files and commands the two nodes of a pair need, and reads the outputs
//! afterwards. `drive` is the only part that touches nodes.

mod ab;
mod command;
mod cpus;
pub mod drive;
pub mod http_server;
mod iperf3;
mod nginx;
mod number;
mod page;
mod protonuke;
mod readings;
mod template;
mod tools;

use std::net::IpAddr;
use std::time::Duration;

use crate::node::{Command, Exit, Output};
use crate::record::{Metric, Quantile};
use crate::spec::{Ready, Tuple, WorkloadSpec};

pub use cpus::{PairCpus, assign_cpus};
pub use tools::{MissingTool, check_tools, find_in_path};

/// The workload a spec asks for.
pub fn from_spec(spec: &WorkloadSpec) -> Box<dyn Workload> {
    match spec {
        WorkloadSpec::Ab { server, keepalive, arguments } => {
            Box::new(ab::Ab { server: *server, keepalive: *keepalive, arguments: arguments.clone() })
        }
        WorkloadSpec::Iperf3 { protocol, duration, streams, bitrate, reverse, arguments } => Box::new(iperf3::Iperf3 {
            protocol: *protocol,
            duration: *duration,
            streams: *streams,
            bitrate: *bitrate,
            reverse: *reverse,
            arguments: arguments.clone(),
        }),
        WorkloadSpec::Protonuke(spec) => Box::new(protonuke::Protonuke(spec.clone())),
        WorkloadSpec::Command { server, client, ready, ready_timeout, time_limit, metrics, keep, keep_server } => {
            Box::new(command::Custom {
                server: server.clone(),
                client: client.clone(),
                ready: ready.clone(),
                ready_timeout: *ready_timeout,
                time_limit: *time_limit,
                metrics: metrics.clone(),
                keep: keep.clone(),
                keep_server: keep_server.clone(),
            })
        }
    }
}

/// What a workload needs to know about a pair.
#[derive(Debug, Clone)]
pub struct PairContext<'a> {
    /// From 1.
    pub pair: u32,
    /// Values of the iteration.
    pub tuple: &'a Tuple,
    /// Address of the server.
    pub server: IpAddr,
    /// Port the server shall listen on: [`Workload::default_port`] on nodes with a network stack of their own.
    pub port: u16,
    /// Directory for files on the client.
    pub client_scratch: &'a str,
    /// Directory for files on the server.
    pub server_scratch: &'a str,
    /// The vptest program as the server sees it.
    pub vptest: &'a str,
}

/// Commands and files of a workload, and the reading of its outputs. Pure.
pub trait Workload: Send + Sync {
    /// Programs that must be found before anything starts, each with the Debian package that has it.
    fn tools(&self) -> Vec<Tool>;

    /// Port the server listens on where every node has a network stack of its own.
    fn default_port(&self) -> u16 {
        80
    }

    /// What runs on the server node; `None` for a workload without a server.
    fn server(&self, pair: &PairContext<'_>) -> Result<Option<Server>, WorkloadError>;

    /// What runs on the client node.
    fn client(&self, pair: &PairContext<'_>) -> Result<Client, WorkloadError>;

    /// Files to keep with the results of the iteration.
    fn keep(&self, _pair: &PairContext<'_>) -> Result<Keep, WorkloadError> {
        Ok(Keep::default())
    }

    /// Reads the outputs of one pair.
    fn parse(&self, pair: &PairContext<'_>, outputs: &PairOutputs) -> Parsed;
}

/// Paths of files on the two nodes of a pair; relative ones are below the node's scratch directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keep {
    /// On the client.
    pub client: Vec<String>,
    /// On the server.
    pub server: Vec<String>,
}

/// A program and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Looked up in `PATH`.
    pub program: String,
    /// Debian and Ubuntu package; `None` for a user's own program.
    pub package: Option<&'static str>,
    /// How its version is found out, for the environment table; `None` for a user's own program.
    pub version: Option<Version>,
}

/// How a program's version is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// It prints it on the first line when it is started with these arguments.
    Printed(&'static [&'static str]),
    /// It does not say: the SHA-256 of its file stands for it.
    Sha256,
}

/// A server to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Files to write first: path and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// What to run.
    pub command: Command,
    /// When it counts as ready: when all of these hold. None is at once.
    pub ready: Vec<Ready>,
    /// How long each of them may take.
    pub ready_timeout: Duration,
    /// May it end by itself when the client is done (iperf3 -1)? Otherwise an early end is an error.
    pub ends_by_itself: bool,
    /// Signal that asks it to end (number as on Linux); SIGKILL follows if it does not.
    pub stop_signal: i32,
    /// What it must have written after its client's end before it is asked to end; `None` for nothing.
    pub settling: Option<Settling>,
}

/// What a server writes by itself from time to time, so that what it counted can be read only a little later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settling {
    /// Regular expression for one piece of its standard output.
    pub output: String,
    /// So many more of them.
    pub more: usize,
    /// How long that may take; afterwards [`PairOutputs::server_settled`] is false.
    pub limit: Duration,
}

/// A client to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// What to run.
    pub command: Command,
    /// Files to read back afterwards; one that is missing is absent from [`PairOutputs::files`].
    pub fetch: Vec<String>,
    /// Limit for this command alone.
    pub time_limit: Option<Duration>,
    /// How it is ended; `None` for a client that ends by itself.
    pub ending: Option<Ending>,
}

/// How a client is ended that does not end by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Its output is not looked at before, so that nobody disturbs it.
    pub after: Duration,
    /// Regular expression for what its standard output must have by then; it goes on until it does.
    pub output: String,
    /// Signal that asks it to end (number as on Linux). One that has to be killed is cut off.
    pub signal: i32,
}

/// What the two commands of a pair left.
#[derive(Debug, Clone)]
pub struct PairOutputs {
    /// How the client ended; `None` when it was cut off by its time limit.
    pub client_exit: Option<Exit>,
    /// Its standard output.
    pub client_out: Output,
    /// Its standard error.
    pub client_err: Output,
    /// How the server ended; `None` without a server, or when it had to be killed.
    pub server_exit: Option<Exit>,
    /// The server's standard output; `None` without a server.
    pub server_out: Option<Output>,
    /// The server's standard error.
    pub server_err: Option<Output>,
    /// Did the server write what its [`Settling`] waits for? True where it waits for nothing.
    pub server_settled: bool,
    /// Files fetched from the client: path and content.
    pub files: Vec<(String, Vec<u8>)>,
}

/// What the outputs of a pair say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// Numbers.
    pub metrics: Vec<Metric>,
    /// Latency distribution.
    pub quantiles: Vec<Quantile>,
    /// Why the iteration is invalid: requests that did not complete, a metric that is missing, a client that failed.
    pub invalid: Vec<String>,
    /// What to look at before trusting it.
    pub suspect: Vec<String>,
}

/// A workload cannot be turned into commands.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// `{name}` in an argument names no factor.
    #[error("`{{{name}}}` in `{argument}` is no factor of this tuple (there are: {known})")]
    UnknownPlaceholder {
        /// What was asked for.
        name: String,
        /// Where.
        argument: String,
        /// What there is.
        known: String,
    },
    /// A factor has a value this workload cannot use.
    #[error("factor {name} = `{value}`: {expected}")]
    BadFactor {
        /// Which factor.
        name: String,
        /// Its value.
        value: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// An argument or a path cannot be used with this workload.
    #[error("`{value}`: {why}")]
    Unusable {
        /// Which.
        value: String,
        /// Why not, and what to do instead.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::node::ExitStatus;
    use crate::spec::Value;

    pub(super) fn tuple(values: &[(&str, Value)]) -> Tuple {
        Tuple::new(values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    pub(super) fn pair(tuple: &Tuple) -> PairContext<'_> {
        PairContext {
            pair: 1,
            tuple,
            server: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
            port: 80,
            client_scratch: "/c",
            server_scratch: "/s",
            vptest: "/bin/vptest",
        }
    }

    pub(super) fn outputs(code: i32, out: &str, err: &str) -> PairOutputs {
        let text = |text: &str| Output { bytes: text.as_bytes().to_vec(), truncated: false };
        let exit =
            Exit { status: ExitStatus::Code(code), wall: Duration::from_secs(1), cpu_user: None, cpu_system: None };
        PairOutputs {
            client_exit: Some(exit),
            client_out: text(out),
            client_err: text(err),
            server_exit: None,
            server_out: None,
            server_err: None,
            server_settled: true,
            files: Vec::new(),
        }
    }

    pub(super) fn value(parsed: &Parsed, name: &str) -> Option<f64> {
        let mut found = parsed.metrics.iter().filter(|metric| metric.name == name);
        let metric = found.next().unwrap_or_else(|| panic!("no metric {name}"));
        assert!(found.next().is_none(), "{name} is there twice");
        metric.value
    }
}
