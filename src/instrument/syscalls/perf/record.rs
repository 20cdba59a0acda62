//! What the records in a ring say.
//!
//! Source: Linux `include/uapi/linux/perf_event.h`; `/sys/kernel/tracing/events/raw_syscalls/*/format`.

const LOST: u32 = 2;
const COMM: u32 = 3;
const EXIT: u32 = 4;
const FORK: u32 = 7;
const SAMPLE: u32 = 9;
const NAMESPACES: u32 = 16;

/// `PERF_SAMPLE_REGS_ABI_32`
const ABI_32: u64 = 1;
/// Where a list of namespaces has that of the network.
const NETWORK: usize = 0;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// When, on the monotonic clock.
    pub(super) at: u64,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A call begins.
    Begins { process: u32, thread: u32, number: i64, other_abi: bool },
    /// A call returns.
    Returns { process: u32, thread: u32, result: i64 },
    /// A thread has a new name, as bytes that end at the first 0.
    Named { thread: u32, name: [u8; 16] },
    /// A thread began.
    Began { process: u32, thread: u32, parent: u32 },
    /// A thread ended.
    Ended { thread: u32 },
    /// Inode of a thread's network namespace.
    Network { thread: u32, inode: u64 },
    /// So many records found no room. This is said when there is room again, so the last ones may be missing.
    Lost { records: u64 },
}

/// Numbers of the two tracepoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tracepoints {
    pub(super) begins: u16,
    pub(super) returns: u16,
}

impl Record {
    /// Reads one; `None` for one that tells nothing here.
    pub(super) fn parse(bytes: &[u8], tracepoints: Tracepoints) -> Option<Self> {
        let kind = word(bytes, 0)?;
        if kind == SAMPLE {
            return Self::sample(bytes, tracepoints);
        }
        // Every other record ends with process, thread and time.
        let at = long(bytes, bytes.len().checked_sub(8)?)?;
        let kind = match kind {
            LOST => Kind::Lost { records: long(bytes, 16)? },
            COMM => Kind::Named { thread: word(bytes, 12)?, name: name(bytes)? },
            FORK => Kind::Began { process: word(bytes, 8)?, thread: word(bytes, 16)?, parent: word(bytes, 20)? },
            EXIT => Kind::Ended { thread: word(bytes, 16)? },
            NAMESPACES => Kind::Network { thread: word(bytes, 12)?, inode: long(bytes, 24 + 16 * NETWORK + 8)? },
            _ => return None,
        };
        Some(Self { at, kind })
    }

    /// Header, process, thread, time, length of the raw data, the raw data, ABI: the raw data are the tracepoint's number
    /// (16 bits), 6 bytes that do not matter, the call's number, and its result or its six arguments.
    fn sample(bytes: &[u8], tracepoints: Tracepoints) -> Option<Self> {
        const RAW: usize = 28;
        let (process, thread, at) = (word(bytes, 8)?, word(bytes, 12)?, long(bytes, 16)?);
        let length = usize::try_from(word(bytes, 24)?).ok()?;
        let tracepoint = u16::from_ne_bytes(bytes.get(RAW..RAW + 2)?.try_into().ok()?);
        let kind = if tracepoint == tracepoints.begins {
            let other_abi = long(bytes, RAW.checked_add(length)?)? == ABI_32;
            Kind::Begins { process, thread, number: long(bytes, RAW + 8)?.cast_signed(), other_abi }
        } else if tracepoint == tracepoints.returns {
            Kind::Returns { process, thread, result: long(bytes, RAW + 16)?.cast_signed() }
        } else {
            return None;
        };
        Some(Self { at, kind })
    }
}

fn name(bytes: &[u8]) -> Option<[u8; 16]> {
    let text = bytes.get(16..bytes.len().checked_sub(16)?)?;
    let mut name = [0; 16];
    let length = text.len().min(16);
    name[..length].copy_from_slice(&text[..length]);
    Some(name)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACEPOINTS: Tracepoints = Tracepoints { begins: 300, returns: 301 };

    fn record(kind: u32, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        let size = u16::try_from(body.len() + 8).unwrap();
        [&kind.to_ne_bytes()[..], &[0, 0], &size.to_ne_bytes(), &body].concat()
    }

    fn words(values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_ne_bytes()).collect()
    }

    fn longs(values: &[u64]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_ne_bytes()).collect()
    }

    #[test]
    fn records_are_read() {
        let raw =
            |tracepoint: u16, rest: &[u64]| [&tracepoint.to_ne_bytes()[..], &[0; 6], &longs(rest), &[0; 4]].concat();
        let begins = raw(300, &[39, 0, 0, 0, 0, 0, 0]);
        let length = u32::try_from(begins.len()).unwrap();
        let check = |bytes: &[u8], kind| {
            assert_eq!(Record::parse(bytes, TRACEPOINTS), Some(Record { at: 7, kind }));
        };
        let sample = record(9, &[&words(&[10, 11]), &longs(&[7]), &words(&[length]), &begins, &longs(&[1, 0])]);
        check(&sample, Kind::Begins { process: 10, thread: 11, number: 39, other_abi: true });
        let returns = raw(301, &[39, (-9_i64).cast_unsigned()]);
        let length = u32::try_from(returns.len()).unwrap();
        let sample = record(9, &[&words(&[10, 11]), &longs(&[7]), &words(&[length]), &returns]);
        check(&sample, Kind::Returns { process: 10, thread: 11, result: -9 });
        let trailer = [words(&[1, 1]), longs(&[7])].concat();
        let named = record(3, &[&words(&[10, 11]), b"known\0\0\0", &trailer]);
        check(&named, Kind::Named { thread: 11, name: *b"known\0\0\0\0\0\0\0\0\0\0\0" });
        let began = record(7, &[&words(&[12, 10, 13, 11]), &longs(&[7]), &trailer]);
        check(&began, Kind::Began { process: 12, thread: 13, parent: 11 });
        let network = record(16, &[&words(&[10, 11]), &longs(&[1, 4, 99]), &trailer]);
        check(&network, Kind::Network { thread: 11, inode: 99 });
        check(&record(2, &[&longs(&[1, 5]), &trailer]), Kind::Lost { records: 5 });
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_left_alone(bytes in prop::collection::vec(any::<u8>(), 0..120), kind in 0_u32..20) {
            let bytes = [&kind.to_ne_bytes()[..], &bytes].concat();
            let _ = Record::parse(&bytes, TRACEPOINTS);
        }
    }
}
