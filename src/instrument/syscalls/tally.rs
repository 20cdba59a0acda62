//! What was counted, on its way to the record.

use std::collections::BTreeMap;

use super::names::{name_of, number_of};
use crate::ids::NodeId;
use crate::record::{DescriptorKind, LogBins, Syscall, SyscallProcess, SyscallSizes, SyscallTransition};

/// Stands for the call before a thread's first.
pub(super) const NO_CALL: u16 = u16::MAX;
/// Bits of what a call is, as in the BPF program.
const TRANSFERS: u8 = 1;
const RENAMES: u8 = 2;
const RETURNS_ANYTHING: u8 = 4;

/// Calls that return how many bytes they moved through the descriptor that is their first argument.
const TRANSFERRING: [&str; 15] = [
    "read", "write", "pread64", "pwrite64", "readv", "writev", "preadv", "pwritev", "preadv2", "pwritev2", "sendto",
    "recvfrom", "sendmsg", "recvmsg", "sendfile",
];

/// What each call is: (number, bits).
pub(super) fn classes() -> Vec<(u16, u8)> {
    let list = |names: &[&str], bit: u8| -> Vec<(u16, u8)> {
        names.iter().filter_map(|name| Some((number_of(name)?, bit))).collect()
    };
    let mut all = list(&TRANSFERRING, TRANSFERS);
    all.extend(list(&["execve", "execveat", "prctl"], RENAMES));
    all.extend(list(&["rt_sigreturn"], RETURNS_ANYTHING));
    all
}

/// As the BPF program mixes.
pub(super) const fn mixed(x: u64) -> u64 {
    let x = (x ^ (x >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
    let x = (x ^ (x >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d);
    x ^ (x >> 33)
}

/// Everything of one kernel.
#[derive(Debug, Default)]
pub(super) struct Tally(pub(super) BTreeMap<(Option<NodeId>, String), Process>);

/// Everything of one process name.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) threads: u64,
    pub(super) sequence: u64,
    pub(super) calls: BTreeMap<u16, Call>,
    pub(super) steps: BTreeMap<(u16, u16), u64>,
    /// Calls that began after one that is not known, so that they are in no step.
    pub(super) begun: BTreeMap<u16, u64>,
    pub(super) sizes: BTreeMap<(u16, u8), Sizes>,
}

#[derive(Debug, Default)]
pub(super) struct Call {
    pub(super) returned: u64,
    pub(super) errors: u64,
    pub(super) total_ns: u64,
    pub(super) most_ns: u64,
    pub(super) bins: Bins,
    pub(super) by_error: BTreeMap<u32, u64>,
}

#[derive(Debug, Default)]
pub(super) struct Sizes {
    pub(super) count: u64,
    pub(super) bytes: u64,
    pub(super) most: u64,
    pub(super) zero: u64,
    pub(super) bins: Bins,
}

/// Counts of every bin.
#[derive(Debug)]
pub(super) struct Bins(pub(super) [u64; LogBins::BINS as usize]);

impl Default for Bins {
    fn default() -> Self {
        Self([0; LogBins::BINS as usize])
    }
}

impl Bins {
    fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(bin, n)| *bin += n);
    }
}

impl Process {
    /// A thread under this name has ended, or goes by another one.
    pub(super) fn end_sequence(&mut self, sequence: u64, count: u64) {
        if count > 0 {
            self.threads += 1;
            self.sequence = self.sequence.wrapping_add(mixed(sequence.wrapping_add(count)));
        }
    }

    /// A call of this kind (`class`: its bits) has returned. What its descriptor was is not known.
    pub(super) fn returned(&mut self, number: u16, class: u8, took: u64, result: i64) {
        let call = self.calls.entry(number).or_default();
        call.returned += 1;
        call.total_ns += took;
        call.most_ns = call.most_ns.max(took);
        call.bins.0[usize::from(LogBins::bin_of(took >> 4))] += 1;
        let error = u32::try_from(result.unsigned_abs()).ok().filter(|error| result < 0 && *error <= 4095);
        match error.filter(|_| class & RETURNS_ANYTHING == 0) {
            Some(error) => {
                call.errors += 1;
                *call.by_error.entry(error).or_default() += 1;
            }
            None if class & TRANSFERS != 0 => {
                let size = result.cast_unsigned();
                let sizes = self.sizes.entry((number, 0)).or_default();
                sizes.count += 1;
                sizes.bytes = sizes.bytes.wrapping_add(size);
                sizes.most = sizes.most.max(size);
                sizes.zero += u64::from(size == 0);
                sizes.bins.0[usize::from(LogBins::bin_of(size))] += 1;
            }
            None => {}
        }
    }

    /// Adds another one of the same name.
    pub(super) fn add(&mut self, other: Self) {
        self.threads += other.threads;
        self.sequence = self.sequence.wrapping_add(other.sequence);
        other.steps.into_iter().for_each(|(step, n)| *self.steps.entry(step).or_default() += n);
        other.begun.into_iter().for_each(|(call, n)| *self.begun.entry(call).or_default() += n);
        for (number, other) in other.calls {
            let call = self.calls.entry(number).or_default();
            call.returned += other.returned;
            call.errors += other.errors;
            call.total_ns += other.total_ns;
            call.most_ns = call.most_ns.max(other.most_ns);
            call.bins.add(&other.bins);
            other.by_error.into_iter().for_each(|(error, n)| *call.by_error.entry(error).or_default() += n);
        }
        for (key, other) in other.sizes {
            let sizes = self.sizes.entry(key).or_default();
            sizes.count += other.count;
            sizes.bytes = sizes.bytes.wrapping_add(other.bytes);
            sizes.most = sizes.most.max(other.most);
            sizes.zero += other.zero;
            sizes.bins.add(&other.bins);
        }
    }

    fn into_record(self, node: Option<NodeId>, name: String) -> SyscallProcess {
        let mut begun = self.begun;
        for (&(_, to), count) in &self.steps {
            *begun.entry(to).or_default() += count;
        }
        let mut calls = self.calls;
        for &number in begun.keys() {
            calls.entry(number).or_default();
        }
        let mut by_call: Vec<Syscall> = calls
            .into_iter()
            .map(|(number, call)| Syscall {
                name: name_of(number),
                // Where the table of transitions was full, what returned began as well.
                calls: begun.get(&number).copied().unwrap_or_default().max(call.returned),
                returned: call.returned,
                errors: call.errors,
                by_error: call.by_error.into_iter().collect(),
                total_ns: call.total_ns,
                most_ns: call.most_ns,
                times: LogBins::from_counts(call.bins.0),
            })
            .collect();
        by_call.sort_by(|a, b| a.name.cmp(&b.name));
        let from = |number: u16| (number != NO_CALL).then(|| name_of(number));
        let mut transitions: Vec<SyscallTransition> = self
            .steps
            .into_iter()
            .map(|((before, after), count)| SyscallTransition { from: from(before), to: name_of(after), count })
            .collect();
        transitions.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        let mut sizes: Vec<SyscallSizes> = self
            .sizes
            .into_iter()
            .map(|((number, kind), sizes)| SyscallSizes {
                call: name_of(number),
                kind: DescriptorKind::ALL.get(usize::from(kind)).copied().unwrap_or(DescriptorKind::Unknown),
                count: sizes.count,
                bytes: sizes.bytes,
                most: sizes.most,
                zero: sizes.zero,
                returned: LogBins::from_counts(sizes.bins.0),
            })
            .collect();
        sizes.sort_by(|a, b| (&a.call, a.kind.as_str()).cmp(&(&b.call, b.kind.as_str())));
        let calls = by_call.iter().map(|call| call.calls).sum();
        SyscallProcess {
            node,
            name,
            threads: self.threads,
            calls,
            sequence: self.sequence,
            by_call,
            transitions,
            sizes,
        }
    }
}

impl Tally {
    pub(super) fn process(&mut self, node: Option<NodeId>, name: &str) -> &mut Process {
        self.0.entry((node, name.to_owned())).or_default()
    }

    /// In the order of nodes and names; names without a call are left out.
    pub(super) fn into_record(self) -> Vec<SyscallProcess> {
        let all = self.0.into_iter().map(|((node, name), process)| process.into_record(node, name));
        all.filter(|process| process.calls > 0).collect()
    }
}

/// A process's name as text: control characters become `?`.
pub(super) fn comm(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_where_they_began() {
        let mut tally = Tally::default();
        let process = tally.process(None, "x");
        process.steps.insert((NO_CALL, 1), 1);
        process.steps.insert((1, 1), 4);
        process.steps.insert((1, 231), 1);
        process.calls.insert(1, Call { returned: 5, ..Call::default() });
        process.end_sequence(7, 6);
        process.end_sequence(7, 0);
        let record = tally.into_record().remove(0);
        assert_eq!((record.threads, record.calls), (1, 6));
        let of = |name: &str| record.by_call.iter().find(|call| call.name == name).unwrap();
        assert_eq!((of("write").calls, of("write").returned), (5, 5));
        assert_eq!((of("exit_group").calls, of("exit_group").returned), (1, 0));
        assert_eq!(record.transitions[0].from, None);
    }

    #[test]
    fn names_are_text() {
        assert_eq!(comm(b"ab\0\0junk"), "ab");
        assert_eq!(comm(b"a\x1b[2J\xff"), "a?[2J\u{fffd}");
        assert_eq!(mixed(1), mixed(1));
        assert_ne!(mixed(1), mixed(2));
        assert!(classes().iter().any(|&(number, class)| (number, class) == (0, TRANSFERS)));
    }
}
