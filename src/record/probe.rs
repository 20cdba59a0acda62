//! What the path probe of one pair measured.

use super::Delay;

/// Probe packets between the client and the server of one pair, beside the workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Which pair, from 1.
    pub pair: u32,
    /// Time between two slots of the schedule, in nanoseconds.
    pub interval_ns: u64,
    /// UDP payload of each packet, in bytes.
    pub size: u32,
    /// Differentiated services code point, 0 to 63.
    pub dscp: u8,
    /// How long an answer may take before its packet counts as lost, in nanoseconds (RFC 2680 §2.8.2).
    pub timeout_ns: u64,
    /// Wall clock of the client's node when the first packet was sent, nanoseconds since 1970-01-01 UTC; `None` when
    /// nothing was sent, or the sender left no report.
    pub started_ns: Option<i64>,
    /// How the sender kept its schedule; `None` when it left no report.
    pub schedule: Option<ProbeSchedule>,
    /// What can be said of the two clocks.
    pub clock: ProbeClock,
    /// Bound of what the clocks differ by, in nanoseconds: 0 for one clock; `None` when unknown.
    pub clock_error_ns: Option<u64>,
    /// The sender on the client, and the reflector on the server; `None` for one that left no report.
    pub ends: [Option<ProbeEnd>; 2],
    /// To the server, to the client, and there and back.
    pub paths: [ProbePath; 3],
    /// Bins of time, in the order of [`ProbeWay::BY_NAME`] and time; empty unless the spec asks for them.
    pub series: Vec<ProbeBin>,
}

/// How a sender kept its schedule. A slot is used, missed or failed: `slots = sent + missed + errors`.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeSchedule {
    /// Times at which a packet was due.
    pub slots: u64,
    /// Slots that had passed before the sender got a processor.
    pub missed: u64,
    /// Packets sent more than a tenth of the interval after their time.
    pub late: u64,
    /// Packets that the kernel refused to send.
    pub errors: u64,
    /// Times the server's host answered that nobody listens.
    pub refused: u64,
    /// How late the packets were sent, in seconds; `None` without any.
    pub lateness: Option<Delay>,
}

/// One of the two processes of a probe, and the clock it read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeEnd {
    /// Packets that its socket had no room for. What they were is unknown.
    pub dropped: u64,
    /// Packets that were not of this probe; they got no answer.
    pub foreign: u64,
    /// Packets it could not send.
    pub errors: u64,
    /// Packets sent whose time is the process's own, for want of the kernel's.
    pub sent_stamped_late: u64,
    /// Packets received whose time is the process's own, for want of the kernel's.
    pub received_stamped_late: u64,
    /// CPU time of the process in nanoseconds; `None` when the node cannot say.
    pub cpu_ns: Option<u64>,
    /// The node's `boot_id`: equal where the kernel is the same.
    pub boot_id: String,
    /// What the kernel counts time with (`tsc`, `kvm-clock`); `None` when it does not say.
    pub clock_source: Option<String>,
    /// Does the kernel hold its clock for synchronised? `None` when that could not be read.
    pub synchronised: Option<bool>,
    /// The kernel's bound of its clock's error (`maxerror` of adjtimex(2)), in nanoseconds; `None` when it has none.
    pub max_error_ns: Option<u64>,
    /// The kernel's estimate (`esterror`), likewise.
    pub estimated_error_ns: Option<u64>,
    /// By how much the wall clock was set while the probe ran, at most, in nanoseconds; 0 when it was not.
    pub step_ns: u64,
}

/// What can be said of two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeClock {
    /// Both processes read the same one.
    Shared,
    /// Two, which differ by little enough to compare them.
    Synchronised,
    /// Two, of which nothing is known, or which are too far apart for one-way delays.
    Unsynchronised,
}

/// A way of probe packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeWay {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
    /// There and back, without the time at the server.
    RoundTrip,
}

/// What became of the packets of one way. `None` is what could not be known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProbePath {
    /// Packets sent.
    pub sent: Option<u64>,
    /// Of these, how many arrived in time.
    pub received: Option<u64>,
    /// Those that did not, `late` included.
    pub lost: Option<u64>,
    /// Of these, how many arrived after the timeout. `None` where delays are not known.
    pub late: Option<u64>,
    /// Arrivals beyond the first of a packet.
    pub duplicated: Option<u64>,
    /// First arrivals with a smaller number than one before (RFC 4737 §3.3).
    pub reordered: Option<u64>,
    /// Delays in seconds of the packets that arrived in time; `None` without any, or where the clocks do not allow it.
    pub delay: Option<Delay>,
    /// Sizes, without sign, of the delay's variation from each packet to the next one sent (RFC 3393), in seconds.
    pub ipdv: Option<Delay>,
    /// Interarrival jitter after the last packet, in seconds (RFC 3550 §6.4.1); `None` below two packets.
    pub jitter: Option<f64>,
}

/// What became of the packets that were sent in one bin of time.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeBin {
    /// Of which way.
    pub way: ProbeWay,
    /// From 0.
    pub bin: u32,
    /// Begin of the bin since the first packet, in nanoseconds.
    pub start_ns: u64,
    /// Packets sent.
    pub sent: u64,
    /// Of these, how many arrived in time.
    pub received: u64,
    /// Mean delay in seconds; `None` without any that is known.
    pub delay_mean: Option<f64>,
    /// Largest, likewise.
    pub delay_max: Option<f64>,
}

impl ProbeClock {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Synchronised => "synchronised",
            Self::Unsynchronised => "unsynchronised",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Shared, Self::Synchronised, Self::Unsynchronised].into_iter().find(|clock| clock.as_str() == name)
    }
}

impl ProbeWay {
    /// All, in the order of [`Probe::paths`].
    pub const ALL: [Self; 3] = [Self::ToServer, Self::ToClient, Self::RoundTrip];

    /// All, in the order of their names, which is that of rows.
    pub const BY_NAME: [Self; 3] = [Self::RoundTrip, Self::ToClient, Self::ToServer];

    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ToServer => "to_server",
            Self::ToClient => "to_client",
            Self::RoundTrip => "round_trip",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.as_str() == name)
    }

    /// Place in [`Probe::paths`].
    pub const fn index(self) -> usize {
        match self {
            Self::ToServer => 0,
            Self::ToClient => 1,
            Self::RoundTrip => 2,
        }
    }
}

impl Probe {
    /// The packets of one way.
    pub const fn path(&self, way: ProbeWay) -> &ProbePath {
        &self.paths[way.index()]
    }
}
