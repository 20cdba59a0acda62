//! What processes asked of their kernel, added up.

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;

/// What one tracer saw: that of a kernel, for all nodes that share it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyscallTrace {
    /// The node whose kernel it is; `None` for the kernel that vptest itself runs on.
    #[serde(with = "opt_node")]
    pub place: Option<NodeId>,
    /// Whose calls were followed.
    pub scope: SyscallScope,
    /// How.
    pub source: SyscallSource,
    /// Process names in the order of node and name.
    pub processes: Vec<SyscallProcess>,
    /// What found no room, a row for each CPU: all zero where nothing was lost.
    pub losses: Vec<SyscallLoss>,
    /// Path of the log of single calls below the campaign directory; `None` when none was kept.
    pub log: Option<String>,
}

impl SyscallTrace {
    /// Everything that was lost, all CPUs together.
    pub fn lost(&self) -> u64 {
        self.losses.iter().map(SyscallLoss::total).sum()
    }

    /// Calls that began, those that found no room left out.
    pub fn calls(&self) -> u64 {
        self.processes.iter().map(|process| process.calls).sum()
    }
}

/// Whose calls are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyscallScope {
    /// The processes that vptest starts on the nodes, and their children.
    #[default]
    Workload,
    /// Every process but vptest itself.
    Node,
}

impl SyscallScope {
    /// `workload` or `node`, as stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Node => "node",
        }
    }

    /// The scope of that name; `None` for any other text.
    pub fn from_name(text: &str) -> Option<Self> {
        [Self::Workload, Self::Node].into_iter().find(|scope| scope.as_str() == text)
    }
}

/// How calls are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyscallSource {
    /// Added up in the kernel by a BPF program.
    Bpf,
    /// Every call handed over through the rings of `perf_event_open(2)`.
    Perf,
}

impl SyscallSource {
    /// `bpf` or `perf`, as stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bpf => "bpf",
            Self::Perf => "perf",
        }
    }

    /// The source of that name; `None` for any other text.
    pub fn from_name(text: &str) -> Option<Self> {
        [Self::Bpf, Self::Perf].into_iter().find(|source| source.as_str() == text)
    }
}

/// All threads of one name on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyscallProcess {
    /// Node it ran on; `None` beside all nodes, or where the kernel does not say.
    #[serde(with = "opt_node")]
    pub node: Option<NodeId>,
    /// Its name (`comm`), at most 15 bytes. A thread that takes another name counts anew from there; `execve` belongs to
    /// the old one.
    pub name: String,
    /// Threads that made a call under this name.
    pub threads: u64,
    /// Calls that began under it.
    pub calls: u64,
    /// Sum over the threads of a hash of each one's calls in their order: equal when the same threads made the same calls
    /// in the same order.
    pub sequence: u64,
    /// In the order of their names.
    pub by_call: Vec<Syscall>,
    /// In the order of the two names.
    pub transitions: Vec<SyscallTransition>,
    /// In the order of call and name of the kind.
    pub sizes: Vec<SyscallSizes>,
}

/// One kind of call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syscall {
    /// Its name: `epoll_wait`; `#500` for a number without a name, `i386:102` for a number of the 32-bit ABI.
    pub name: String,
    /// Calls that began.
    pub calls: u64,
    /// Calls of these that returned while they were followed.
    pub returned: u64,
    /// Calls that returned an error.
    pub errors: u64,
    /// The errors: (error number, calls), ascending.
    pub by_error: Vec<(u32, u64)>,
    /// Time between begin and return, all calls that returned.
    pub total_ns: u64,
    /// The longest.
    pub most_ns: u64,
    /// Distribution of that time in units of 16 ns.
    pub times: LogBins,
}

/// How often a thread made one call after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyscallTransition {
    /// The call before; `None`: it was the thread's first.
    pub from: Option<String>,
    /// The call after.
    pub to: String,
    /// How often.
    pub count: u64,
}

/// What one kind of call moved through descriptors of one kind. Calls that failed are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyscallSizes {
    /// Name of the call.
    pub call: String,
    /// Through what.
    pub kind: DescriptorKind,
    /// Calls.
    pub count: u64,
    /// Sum of what they returned, in bytes.
    pub bytes: u64,
    /// The largest.
    pub most: u64,
    /// Calls that returned 0.
    pub zero: u64,
    /// Distribution of what they returned, in bytes.
    pub returned: LogBins,
}

/// What a descriptor leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DescriptorKind {
    /// Nobody could say.
    Unknown,
    /// A socket.
    Socket,
    /// A regular file.
    File,
    /// A pipe or FIFO.
    Pipe,
    /// Anything else: a terminal, a device, an eventfd.
    Other,
}

impl DescriptorKind {
    /// All kinds, in the order of the tracer's numbers.
    pub const ALL: [Self; 5] = [Self::Unknown, Self::Socket, Self::File, Self::Pipe, Self::Other];

    /// `unknown`, `socket`, `file`, `pipe` or `other`, as stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Socket => "socket",
            Self::File => "file",
            Self::Pipe => "pipe",
            Self::Other => "other",
        }
    }

    /// The kind of that name; `None` for any other text.
    pub fn from_name(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What found no room on one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SyscallLoss {
    /// Number of the CPU; `None` for what belongs to none.
    pub cpu: Option<u32>,
    /// Calls of which nothing is known: of threads or process names that found no room, or left out by the kernel.
    pub begun: u64,
    /// Returns that are in no time and no count of returned calls.
    pub returned: u64,
    /// Begun calls that are in no count of calls and transitions.
    pub steps: u64,
    /// Errors without their number.
    pub errors: u64,
    /// Transfers that are in no size.
    pub sizes: u64,
    /// Calls that are not in the log.
    pub logged: u64,
}

impl SyscallLoss {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.begun + self.returned + self.steps + self.errors + self.sizes + self.logged
    }
}

/// A distribution of whole numbers in bins that grow with them. Adding two gives that of both.
///
/// Values below 4 have a bin each; above, each power of two is cut into four. Bin `i ≥ 4` begins at
/// `(4 + i mod 4) · 2^(i/4 − 1)`. The last one (127) is open: 2^32 and more.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogBins(Vec<(u8, u64)>);

impl LogBins {
    /// How many bins there are.
    pub const BINS: u8 = 128;

    /// From (bin, count), ascending by bin and without empty ones; `None` for anything else.
    pub fn new(bins: Vec<(u8, u64)>) -> Option<Self> {
        let sound = bins.is_sorted_by(|a, b| a.0 < b.0) && bins.iter().all(|&(bin, n)| bin < Self::BINS && n > 0);
        sound.then_some(Self(bins))
    }

    /// From the count of every bin in order.
    pub fn from_counts(counts: impl IntoIterator<Item = u64>) -> Self {
        Self((0..Self::BINS).zip(counts).filter(|&(_, n)| n > 0).collect())
    }

    /// The bins that are not empty: (bin, count), ascending.
    pub fn bins(&self) -> &[(u8, u64)] {
        &self.0
    }

    /// Values in it.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|&(_, n)| n).sum()
    }

    /// The bin of a value.
    pub fn bin_of(value: u64) -> u8 {
        match u32::try_from(value) {
            Err(_) => Self::BINS - 1,
            Ok(value @ 0..4) => u8::try_from(value).expect("below 4"),
            Ok(value) => {
                let exponent = value.ilog2();
                let quarter = (value >> (exponent - 2)) & 3;
                u8::try_from(exponent * 4 - 4 + quarter).expect("at most 123")
            }
        }
    }

    /// Smallest value of a bin.
    pub fn lower(bin: u8) -> u64 {
        match bin {
            0..4 => u64::from(bin),
            _ if bin >= Self::BINS - 1 => 1 << 32,
            _ => (4 + u64::from(bin % 4)) << (bin / 4 - 1),
        }
    }

    /// Adds one value.
    pub fn add(&mut self, value: u64) {
        let bin = Self::bin_of(value);
        match self.0.binary_search_by_key(&bin, |&(bin, _)| bin) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (bin, 1)),
        }
    }

    /// Adds all values of another one.
    pub fn merge(&mut self, other: &Self) {
        for &(bin, n) in &other.0 {
            match self.0.binary_search_by_key(&bin, |&(bin, _)| bin) {
                Ok(at) => self.0[at].1 += n,
                Err(at) => self.0.insert(at, (bin, n)),
            }
        }
    }

    /// Lower end of the bin in which the quantile lies (nearest rank); `None` without values.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let rank = (q * real(self.count())).ceil().max(1.0);
        let mut seen = 0;
        self.0.iter().find_map(|&(bin, n)| {
            seen += n;
            (real(seen) >= rank).then(|| Self::lower(bin))
        })
    }

    /// Bytes that mean it: for each bin its number (one byte) and its count (little-endian base 128).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(3 * self.0.len());
        for &(bin, mut n) in &self.0 {
            bytes.push(bin);
            while n >= 0x80 {
                bytes.push(0x80 | (n & 0x7f).to_le_bytes()[0]);
                n >>= 7;
            }
            bytes.push(n.to_le_bytes()[0]);
        }
        bytes
    }

    /// The inverse; `None` for bytes that [`Self::to_bytes`] never gives.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.iter().copied();
        let mut bins = Vec::new();
        while let Some(bin) = rest.next() {
            let mut n = 0_u64;
            for shift in (0..).step_by(7) {
                let byte = rest.next()?;
                let part =
                    u64::from(byte & 0x7f).checked_shl(shift).filter(|p| p >> shift == u64::from(byte & 0x7f))?;
                n |= part;
                if byte & 0x80 == 0 {
                    if byte == 0 && shift > 0 {
                        return None;
                    }
                    break;
                }
            }
            bins.push((bin, n));
        }
        Self::new(bins)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
const fn real(n: u64) -> f64 {
    n as f64
}

/// Nodes as text, and nothing as null.
mod opt_node {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::ids::NodeId;

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(node: &Option<NodeId>, s: S) -> Result<S::Ok, S::Error> {
        node.map(|node| node.to_string()).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<NodeId>, D::Error> {
        let text = Option::<String>::deserialize(d)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_value_lies_in_its_bin(value: u64, small in 0_u64..5000) {
            for value in [value, small] {
                let bin = LogBins::bin_of(value);
                prop_assert!(LogBins::lower(bin) <= value);
                prop_assert!(bin == LogBins::BINS - 1 || value < LogBins::lower(bin + 1));
            }
        }

        #[test]
        fn bins_survive_bytes_and_any_bytes_are_read(
            values in prop::collection::vec(any::<u64>(), 0..60), bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut bins = LogBins::default();
            values.iter().for_each(|&value| bins.add(value >> (value % 64)));
            prop_assert_eq!(bins.count(), values.len() as u64);
            prop_assert_eq!(LogBins::from_bytes(&bins.to_bytes()), Some(bins));
            if let Some(bins) = LogBins::from_bytes(&bytes) {
                prop_assert_eq!(bins.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn two_distributions_are_as_one() {
        let (mut a, mut b, mut both) = (LogBins::default(), LogBins::default(), LogBins::default());
        for value in [0, 1, 7, 8, 9, 100, 100_000] {
            a.add(value);
            b.add(value * 2);
            both.add(value);
            both.add(value * 2);
        }
        a.merge(&b);
        assert_eq!(a, both);
        assert_eq!(both.quantile(0.0), Some(0));
        assert_eq!(LogBins::default().quantile(0.5), None);
        assert_eq!(LogBins::lower(LogBins::bin_of(8192)), 8192);
    }
}
