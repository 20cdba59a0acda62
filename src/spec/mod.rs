//! The sweep spec: TOML text to a checked [`Spec`], with positions for errors.
//!
//! Pure: text in, value or diagnostics out. No file is opened here.

mod check;
pub mod diagnostic;
pub mod factors;
mod instruments;
mod linktest;
mod parse;
mod parse_factors;
mod parse_guest_image;
mod parse_instrument;
mod parse_limits;
mod parse_minimega;
mod parse_probe;
mod parse_protonuke;
mod parse_qemu;
mod parse_sentinel;
mod parse_slurm;
mod parse_stop;
mod parse_workload;
mod physical;
pub mod placeholder;
mod read;
mod space;
mod storage;
mod value;

use std::time::Duration;

pub use check::MOST_ITERATIONS;
pub(crate) use check::{grouped, too_many};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
use factors::User;
pub use instruments::{Instrument, Instruments};
pub use linktest::{LinkLevel, LinkTestSpec};
pub use parse::{DEFAULT_REPETITIONS, DEFAULT_SEED, DEFAULT_SNAPLEN, DEFAULT_TIMEOUT};
pub use parse_guest_image::{GuestBoot, GuestImage, GuestReach, NODE};
pub use parse_stop::MOST_STOP_METRICS;
pub use parse_workload::{DEFAULT_IPERF3_DURATION, DEFAULT_READY_TIMEOUT};
pub use physical::{PhysicalNode, PhysicalSpec, SwitchAccess, SwitchSpec, Way};
pub use placeholder::PLACEHOLDERS;
pub(crate) use read::nearest;
pub(crate) use space::Space;
pub use storage::{KeepRule, StorageSpec};
pub(crate) use value::{Columns, PerColumns, json_string};
pub use value::{Tuple, Value};

use crate::ids::{Better, Level, Stage, Vantage};
use crate::record::{SyscallScope, SyscallSource};
use crate::units::{ByteSize, Percent, Rate};

/// A sweep spec that passed every check that needs no host.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Name of the sweep; also names its campaign.
    pub name: String,
    /// Runs of each tuple, at least 1; where a tuple may end early ([`StopSpec`]), at most so many.
    pub repetitions: u32,
    /// Seed of every random choice.
    pub seed: u64,
    /// In which order iterations run.
    pub order: Order,
    /// Limit for one iteration, from preflight to collect.
    pub timeout: Duration,
    /// Factors in the order of the file.
    pub factors: Vec<Factor>,
    /// Combinations to leave out.
    pub exclude: Vec<Exclusion>,
    /// What the nodes run.
    pub workload: WorkloadSpec,
    /// What is captured.
    pub capture: CaptureSpec,
    /// What else is observed.
    pub instrument: InstrumentSpec,
    /// Options of the testbeds.
    pub testbed: TestbedSpec,
    /// Thresholds of the checks around the workload.
    pub verify: VerifySpec,
    /// Defaults of the analysis.
    pub analysis: AnalysisSpec,
    /// When a tuple has been repeated often enough; `None`: all repetitions are run.
    pub stop: Option<StopSpec>,
    /// Iterations of one tuple between all others, to see the host drift; `None` for none.
    pub sentinel: Option<SentinelSpec>,
    /// When a run ends before everything is done.
    pub limits: LimitsSpec,
    /// What is kept of the files beside those of iterations.
    pub storage: StorageSpec,
    /// How Slurm is asked for hosts.
    pub slurm: SlurmSpec,
}

impl Spec {
    /// Reads a spec; every mistake in it is in the error. Warnings are dropped.
    pub fn parse(text: &str) -> Result<Self, Diagnostics> {
        parse::parse(text).map(|(spec, _)| spec)
    }

    /// As [`Self::parse`], with the warnings of a spec that can be used.
    pub fn parse_with_warnings(text: &str) -> Result<(Self, Diagnostics), Diagnostics> {
        parse::parse(text)
    }

    /// As [`Self::parse_with_warnings`], for the bytes of a file; bytes that are not UTF-8 are an error of their own.
    /// The text is returned with the spec.
    pub fn parse_bytes(bytes: &[u8]) -> Result<(Self, &str, Diagnostics), Diagnostics> {
        let text = str::from_utf8(bytes).map_err(|error| parse::not_utf8(bytes, error))?;
        parse::parse(text).map(|(spec, warnings)| (spec, text, warnings))
    }
}

/// A named parameter with its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Factor {
    /// As written in the file.
    pub name: String,
    /// At least one; no two equal.
    pub values: Vec<Value>,
}

/// In which order iterations run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Every tuple once per block, shuffled within each block.
    Blocked,
    /// All iterations shuffled together.
    Shuffled,
    /// Tuple by tuple in the order of the file, repetitions innermost.
    Sequential,
}

/// A combination to leave out: a tuple is excluded when every named factor has one of the listed values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusion {
    /// Factor names with the values that match.
    pub conditions: Vec<(String, Vec<Value>)>,
}

/// `[workload]`
#[derive(Debug, Clone, PartialEq)]
pub enum WorkloadSpec {
    /// `preset = "ab"`: ApacheBench against an HTTP server.
    ///
    /// Uses the factors `workers` (`-c`, default 1) and `request` (members `url`, default `/`, and `count`, default
    /// 1000); a tuple may also set `url` and `count` directly.
    Ab {
        /// What answers.
        server: HttpServer,
        /// `-k`.
        keepalive: bool,
        /// Further arguments for ab, put before the URL; `{factor}` is replaced.
        arguments: Vec<String>,
    },
    /// `preset = "iperf3"`.
    Iperf3 {
        /// TCP or UDP.
        protocol: Protocol,
        /// `-t`.
        duration: Duration,
        /// `-P`.
        streams: u32,
        /// `-b`; `None` is iperf3's default (unlimited for TCP, 1 Mbit/s for UDP).
        bitrate: Option<Rate>,
        /// `-R`: the server sends.
        reverse: bool,
        /// Further arguments for the client; `{factor}` is replaced.
        arguments: Vec<String>,
    },
    /// `preset = "protonuke"`: minimega's traffic generator on both nodes.
    Protonuke(ProtonukeSpec),
    /// `preset = "command"`: commands of the user's own.
    Command {
        /// Runs on the server node until the clients are done; `None` for a workload without a server.
        server: Option<Vec<String>>,
        /// Runs on the client node; its end is the end of the workload.
        client: Vec<String>,
        /// When the server counts as ready; `None` is "as soon as it has started".
        ready: Option<Ready>,
        /// How long readiness may take.
        ready_timeout: Duration,
        /// Limit for the client alone; `None` leaves the iteration's timeout.
        time_limit: Option<Duration>,
        /// What to read from the outputs.
        metrics: Vec<MetricRule>,
        /// Files of the client node to keep; relative to its scratch directory. `{factor}` is replaced.
        keep: Vec<String>,
        /// Likewise of the server node.
        keep_server: Vec<String>,
    },
}

/// What answers ApacheBench.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpServer {
    /// The server built into vptest.
    Builtin,
    /// nginx from the distribution.
    Nginx,
    /// minimega's protonuke.
    Protonuke,
}

/// `preset = "protonuke"`
#[derive(Debug, Clone, PartialEq)]
pub struct ProtonukeSpec {
    /// What server and client do, each service once, in the order of [`Service::ALL`].
    pub services: Vec<Service>,
    /// From the client's start to its report.
    pub duration: Duration,
    /// `-u`: mean time between two actions of the client; whole milliseconds, as protonuke cuts what is finer.
    pub mean: Duration,
    /// `-s`: its standard deviation, likewise.
    pub deviation: Duration,
    /// `-min`: least time between two actions.
    pub min: Duration,
    /// `-max`: most time between two actions.
    pub max: Duration,
    /// `-httpimagesize`; `None` is protonuke's own (3 MiB).
    pub image_size: Option<ByteSize>,
    /// Does the client log the time of each request (`-level info`)?
    pub times: bool,
    /// Further options of the client; `{factor}` is replaced.
    pub arguments: Vec<String>,
    /// Further options of the server, likewise.
    pub server_arguments: Vec<String>,
}

/// A service of protonuke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// File transfers.
    Ftp,
    /// File transfers over TLS.
    Ftps,
    /// Pages and their images.
    Http,
    /// The same over TLS.
    Https,
    /// Lines typed into a shell.
    Ssh,
    /// Mails.
    Smtp,
    /// Chat messages.
    Irc,
}

impl Service {
    /// All, in the order of protonuke's reports.
    pub const ALL: [Self; 7] = [Self::Ftp, Self::Ftps, Self::Http, Self::Https, Self::Ssh, Self::Smtp, Self::Irc];

    /// As in protonuke's options and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ftp => "ftp",
            Self::Ftps => "ftps",
            Self::Http => "http",
            Self::Https => "https",
            Self::Ssh => "ssh",
            Self::Smtp => "smtp",
            Self::Irc => "irc",
        }
    }

    /// The TCP port that its server listens on; there is no option for another.
    pub const fn port(self) -> u16 {
        match self {
            Self::Ftp | Self::Ftps => 21,
            Self::Http => 80,
            Self::Https => 443,
            Self::Ssh => 22,
            Self::Smtp => 25,
            Self::Irc => 6667,
        }
    }
}

/// Transport of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// When a server counts as ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// A TCP connection to this port of the server node succeeds (tried on the server node itself).
    Tcp(u16),
    /// This file exists (path as the server sees it).
    File(String),
    /// Its standard output or standard error so far matches this regular expression.
    Output(String),
}

/// How a metric is read from an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricRule {
    /// Name of the metric.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// Which way is an improvement.
    pub better: Option<Better>,
    /// What it describes; `application` when the spec does not say.
    pub level: Level,
    /// Whose output.
    pub from: Source,
    /// Where in it.
    pub pattern: MetricPattern,
    /// Is the iteration invalid without it? Default `true`.
    pub required: bool,
}

/// Whose output a metric is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Standard output of the client.
    Client,
    /// Standard output of the server.
    Server,
}

/// Where in an output a metric stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricPattern {
    /// First capture group of the first match.
    Regex(String),
    /// JSON pointer (RFC 6901) into the output.
    Json(String),
}

/// `[capture]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureSpec {
    /// Bytes kept of each packet. Default [`DEFAULT_SNAPLEN`].
    pub snaplen: u32,
    /// Where to capture; empty for no capture. Default `["guest"]`.
    pub vantage: Vec<Vantage>,
    /// Compute TCP statistics while packets arrive. Default `true`.
    pub statistics: bool,
    /// Store a row for each TCP connection, not their distributions alone. Default `false`.
    pub connections: bool,
    /// Keep pcap files. Default `false`.
    pub keep: bool,
    /// pcap filter expression.
    pub filter: Option<String>,
    /// Ring per capture point in bytes; `None` chooses by the number of points.
    pub ring: Option<u64>,
}

/// `[instrument]`
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InstrumentSpec {
    /// Are system calls followed, and how? Default not.
    pub syscalls: Option<SyscallSpec>,
    /// Is the path probed, and how? Default not.
    pub probe: Option<ProbeSpec>,
    /// Are counters read, and how? Default not.
    pub counters: Option<CounterSpec>,
}

/// `[instrument.probe]`
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeSpec {
    /// Time between two packets; the default of 10 ms is 100 packets a second.
    pub interval: Duration,
    /// UDP payload of each packet in bytes. Default 64.
    pub size: u32,
    /// Differentiated services code point. Default 0.
    pub dscp: u8,
    /// A packet that takes longer counts as lost. Default 1 s.
    pub timeout: Duration,
    /// Share of packets that may be sent late, or not at all, before the iteration is suspect. Default 5 %.
    pub max_late: Percent,
    /// Width of the bins of the series; `None`, the default, stores none.
    pub series: Option<Duration>,
}

/// `[instrument.counters]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterSpec {
    /// Time between two readings; `None` for one before and one after the clients run. Default 1 s.
    pub interval: Option<Duration>,
    /// Names of counters that are metrics besides those of the fixed list, sorted.
    pub metrics: Vec<String>,
}

impl Default for CounterSpec {
    fn default() -> Self {
        Self { interval: Some(Duration::from_secs(1)), metrics: Vec::new() }
    }
}

/// `[instrument.syscalls]`; a number of rows that is `None` is the tracer's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyscallSpec {
    /// Whose calls. Default those of the workload.
    pub scope: SyscallScope,
    /// How; `None`: by BPF, and by perf where BPF is refused.
    pub source: Option<SyscallSource>,
    /// Keep every single call in a file. Default `false`.
    pub log: bool,
    /// Threads at one moment.
    pub threads: Option<u32>,
    /// Names of processes.
    pub names: Option<u32>,
    /// Kinds of calls, over all names.
    pub calls: Option<u32>,
    /// Transitions, over all names.
    pub transitions: Option<u32>,
    /// Kinds of calls and descriptors, over all names.
    pub sizes: Option<u32>,
    /// Bytes of the ring for the log.
    pub ring: Option<u32>,
}

/// `[testbed]`
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TestbedSpec {
    /// What is kept up from one iteration to the next. Default nothing.
    pub reuse: Reuse,
    /// `[testbed.qemu]`
    pub qemu: QemuSpec,
    /// `[testbed.physical]`
    pub physical: PhysicalSpec,
    /// `[testbed.minimega]`
    pub minimega: MinimegaSpec,
    /// `[testbed.fake]`
    pub fake: FakeSpec,
}

/// What a testbed keeps up from one iteration to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reuse {
    /// Nothing: every iteration has nodes of its own.
    #[default]
    None,
    /// The guests, for further repetitions of the same tuple.
    Tuple,
}

/// `[testbed.qemu]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QemuSpec {
    /// Kernel of the guests. Default [`GuestKernel::Full`].
    pub kernel: GuestKernel,
    /// Programs in the guests beside those of the workload, by name or path.
    pub programs: Vec<String>,
    /// A disk image to boot instead of vptest's own image: a path as written.
    pub disk: Option<String>,
    /// How guests with such a disk are reached.
    pub access: GuestAccess,
    /// Model of the virtual CPU (`-cpu`); `None` for `host` under KVM and `max` under TCG.
    pub cpu: Option<String>,
    /// Further arguments for QEMU, put last.
    pub arguments: Vec<String>,
    /// How long the guests may take until their agents answer; `None` for what suits the accelerator and their number.
    pub boot_timeout: Option<Duration>,
    /// Where the load of `stress_cpu`, `stress_io` and `stress_mem` runs. Default on the host.
    pub stress: StressPlace,
}

/// `[testbed.minimega]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MinimegaSpec {
    /// Path of minimega's command socket; `None` for the one it makes when it is not told otherwise.
    pub socket: Option<String>,
    /// Two hosts of its mesh for `colocated = off`: that of the clients, that of the servers. `None` for the host of the
    /// minimega and the only other one there is.
    pub hosts: Option<[String; 2]>,
    /// Kernel of the guests. Default [`GuestKernel::Full`].
    pub kernel: GuestKernel,
    /// An image of the user's that virtual machines boot; `None` for vptest's own.
    pub image: Option<GuestImage>,
    /// Programs in the guests beside those of the workload, by name or path.
    pub programs: Vec<String>,
    /// Further kernel arguments; with an image of the user's, all of them.
    pub append: Vec<String>,
    /// Path of the directory that is the root of every container; `None` for one that vptest makes.
    pub filesystem: Option<String>,
    /// Path of the QEMU that minimega starts; `None` for the `kvm` that it finds.
    pub qemu: Option<String>,
    /// Model of the virtual CPU; `None` for minimega's own choice (`host`).
    pub cpu: Option<String>,
    /// Who captures at the guests' taps, for the vantage `host`.
    pub capture: TapCapture,
    /// Size of a disk on which each virtual machine leaves large files for vptest; `None` for none.
    pub result_disk: Option<ByteSize>,
    /// How long the guests may take until their agents answer; `None` for what suits their number.
    pub boot_timeout: Option<Duration>,
    /// Where the load of `stress_cpu`, `stress_io` and `stress_mem` runs. Default on the host.
    pub stress: StressPlace,
}

/// Who captures at the taps of minimega's guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TapCapture {
    /// vptest, as on its other testbeds: every drop is counted.
    #[default]
    Vptest,
    /// minimega (`capture pcap vm`), which counts no drops.
    Minimega,
}

/// How a guest with a disk of the user's is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum GuestAccess {
    /// Its system starts the agent, which answers on a virtio-serial port.
    #[default]
    Agent,
    /// It has an ssh server; the agent is copied into it.
    Ssh(SshSpec),
}

/// `[testbed.qemu.ssh]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSpec {
    /// Who logs in. Default `root`.
    pub user: String,
    /// Path of a private key as written; `None` for those that ssh finds by itself.
    pub identity: Option<String>,
    /// The host key that the guests must show: type and key, as in a `.pub` file; `None` for any.
    pub host_key: Option<String>,
}

impl Default for SshSpec {
    fn default() -> Self {
        Self { user: "root".to_owned(), identity: None, host_key: None }
    }
}

/// Kernel of guests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum GuestKernel {
    /// The distribution's usual kernel.
    #[default]
    Full,
    /// The distribution's kernel for virtual machines, with fewer drivers.
    Cloud,
    /// The user's own.
    Path {
        /// Path of the kernel, as written.
        kernel: String,
        /// Directory of its modules, as written; `None` where all is built in.
        modules: Option<String>,
    },
}

/// Where load beside the workload runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StressPlace {
    /// On the testbed's host.
    #[default]
    Host,
    /// In every guest.
    Guest,
}

/// `[testbed.fake]`: what goes wrong, for tests.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FakeSpec {
    /// `[[testbed.fake.fault]]`
    pub faults: Vec<Fault>,
}

/// A fault the `fake` testbed injects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In which stage.
    pub stage: Stage,
    /// What happens.
    pub kind: FaultKind,
    /// Iterations it happens in (by number); empty is all of them.
    pub iterations: Vec<u32>,
    /// Happens only in attempts up to this one; `None` in all.
    pub attempts: Option<u32>,
}

/// What an injected fault does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The stage returns an error.
    Error,
    /// The stage never ends by itself.
    Hang,
    /// vptest is killed with SIGKILL.
    Kill,
    /// The stage panics.
    Panic,
    /// A setting reads back differently from what was asked (verify: before, collect: after).
    Setting,
    /// A setting cannot be read back.
    Unreadable,
    /// The captures report kernel drops.
    Drops,
    /// Something is left over after teardown.
    Leftover,
}

/// `[verify]`: thresholds; `None` switches the check off (`"off"` in the file).
#[derive(Debug, Clone, PartialEq)]
pub struct VerifySpec {
    /// CPU use of a client process, as a share of one CPU, above which the client counts as saturated. Default 95 %.
    pub client_cpu: Option<Percent>,
    /// CPU time of processes that are not the campaign's, as a share of one CPU. Default 20 %.
    pub foreign_cpu: Option<Percent>,
    /// Share of CPU time stolen by a hypervisor. Default 2 %.
    pub steal: Option<Percent>,
    /// Any swapping during the workload. Default on.
    pub swap: bool,
    /// Any thermal or cgroup throttling during the workload. Default on.
    pub throttling: bool,
    /// Difference between the packet counts of two vantages of one link. Default 0.1 %.
    pub vantage_difference: Option<Percent>,
    /// Walk the path and compare its hops with the tuple's. Default on.
    pub path: bool,
    /// Test the links before the first iteration of each tuple. Default not.
    pub linktest: Option<LinkTestSpec>,
}

impl Default for VerifySpec {
    fn default() -> Self {
        Self {
            client_cpu: Some(Percent::new(95.0)),
            foreign_cpu: Some(Percent::new(20.0)),
            steal: Some(Percent::new(2.0)),
            swap: true,
            throttling: true,
            vantage_difference: Some(Percent::new(0.1)),
            path: true,
            linktest: None,
        }
    }
}

/// `[stop]`: a tuple ends early when the means of these metrics are known well enough.
#[derive(Debug, Clone, PartialEq)]
pub struct StopSpec {
    /// As `vptest analyze --metric` takes them; at least one, none twice.
    pub metrics: Vec<String>,
    /// How well: half-width of the 95 % interval as a share of the mean, above 0.
    pub half_width: Percent,
    /// Complete repetitions before which no tuple ends; at least [`StopSpec::LEAST`], at most [`Spec::repetitions`].
    pub min: u32,
}

/// `[sentinel]`: one tuple is run again and again through the whole campaign, beside its repetitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelSpec {
    /// Iterations between two sentinels, at least 1.
    pub every: u32,
    /// Factors (or members) with the values that the tuple has, the first such one; empty for the first tuple that has the baseline's
    /// value, or the first of all without a baseline.
    pub tuple: Vec<(String, Value)>,
}

/// `[limits]`: when `vptest run` leaves the rest for later. It never cuts an iteration off.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LimitsSpec {
    /// Iterations in a row that failed, timed out or were invalid, retries included; `None`: however many.
    pub failures: Option<u32>,
    /// Bytes that iteration files and what is kept with them may take; `None`: what there is room for.
    pub storage: Option<ByteSize>,
    /// Bytes that must stay free on the file system of the campaign; `None`: none.
    pub free: Option<ByteSize>,
    /// How long a run may take; `None`: as long as it needs.
    pub duration: Option<Duration>,
    /// When a run ends; `None`: never.
    pub until: Option<jiff::Timestamp>,
}

/// `[slurm]`: how `vptest run --on slurm` puts iterations into Slurm's queue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlurmSpec {
    /// Partition; `None` for Slurm's default.
    pub partition: Option<String>,
    /// Account; `None` for the user's default.
    pub account: Option<String>,
    /// Features that nodes must have, as sbatch takes them; `None` for any node.
    pub constraint: Option<String>,
    /// Quality of service; `None` for the default.
    pub qos: Option<String>,
    /// How long an element of the array may take; `None`: as long as its iterations may take.
    pub time: Option<Duration>,
    /// Do nodes see the campaign's directory? `None`: each element finds out.
    pub shared: Option<bool>,
    /// What an element of the array runs.
    pub element: Element,
    /// Nodes that are not used.
    pub exclude: Vec<String>,
    /// Further options of sbatch, each a word.
    pub options: Vec<String>,
}

/// What an element of an array of Slurm runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Element {
    /// One iteration.
    #[default]
    Iteration,
    /// The iterations of a block, one after the other on one node.
    Block,
}

/// `[analysis]`
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AnalysisSpec {
    /// Factor and value everything is compared with.
    pub baseline: Option<(String, Value)>,
    /// Importance margins by metric; the key `default` stands for all others.
    pub margins: Vec<(String, Percent)>,
}

#[cfg(test)]
mod tests;
