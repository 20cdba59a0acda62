//! What the nodes run: commands to start, and how their output text becomes metrics.
//!
//! A workload is data: it says which files and commands the two nodes of a pair need, and reads the outputs
//! afterwards. `drive` is the only part that touches nodes.

use std::net::IpAddr;
use std::time::Duration;

use crate::node::{Command, Exit, Output};
use crate::record::{Metric, Quantile};
use crate::spec::{Ready, Tuple};

/// What a workload needs to know about a pair.
#[derive(Debug, Clone)]
pub struct PairContext<'a> {
    /// From 1.
    pub pair: u32,
    /// Values of the iteration.
    pub tuple: &'a Tuple,
    /// Address of the server.
    pub server: IpAddr,
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

    /// What runs on the server node; `None` for a workload without a server.
    fn server(&self, pair: &PairContext<'_>) -> Result<Option<Server>, WorkloadError>;

    /// What runs on the client node.
    fn client(&self, pair: &PairContext<'_>) -> Result<Client, WorkloadError>;

    /// Reads the outputs of one pair.
    fn parse(&self, pair: &PairContext<'_>, outputs: &PairOutputs) -> Parsed;
}

/// A program and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Looked up in `PATH`.
    pub program: String,
    /// Debian and Ubuntu package; `None` for a user's own program.
    pub package: Option<&'static str>,
    /// Arguments that print its version on the first line, for the environment table.
    pub version: Option<&'static [&'static str]>,
}

/// A server to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Files to write first: path and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// What to run.
    pub command: Command,
    /// When it counts as ready; `None` is at once.
    pub ready: Option<Ready>,
    /// How long that may take.
    pub ready_timeout: Duration,
    /// May it end by itself when the client is done (iperf3 -1)? Otherwise an early end is an error.
    pub ends_by_itself: bool,
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
    /// The server's standard output; `None` without a server.
    pub server_out: Option<Output>,
    /// The server's standard error.
    pub server_err: Option<Output>,
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
}
