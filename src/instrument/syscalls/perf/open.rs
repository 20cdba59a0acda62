//! `perf_event_open(2)` and the rings of its events.
//!
//! Source: perf_event_open(2); Linux `include/uapi/linux/perf_event.h`.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

const TRACEPOINT: u32 = 2;
const SOFTWARE: u32 = 1;
/// An event that never happens: for records about tasks.
const DUMMY: u64 = 9;

const SAMPLE_TID: u64 = 1 << 1;
const SAMPLE_TIME: u64 = 1 << 2;
const SAMPLE_RAW: u64 = 1 << 10;
const SAMPLE_REGS_USER: u64 = 1 << 12;
const READ_LOST: u64 = 1 << 4;

const DISABLED: u64 = 1;
const INHERIT: u64 = 1 << 1;
const COMM: u64 = 1 << 9;
const TASK: u64 = 1 << 13;
const SAMPLE_ID_ALL: u64 = 1 << 18;
const USE_CLOCKID: u64 = 1 << 25;
const NAMESPACES: u64 = 1 << 28;

const ENABLE: libc::c_ulong = 0x2400;
const DISABLE: libc::c_ulong = 0x2401;
const SET_OUTPUT: libc::c_ulong = 0x2405;

/// `struct perf_event_attr` up to what Linux 4.8 knew.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample: u64,
    read: u64,
    flags: u64,
    wakeup: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
    branch: u64,
    regs_user: u64,
    stack_user: u32,
    clock: i32,
    regs_intr: u64,
    aux: u32,
    max_stack: u16,
    zero: u16,
}

/// What an event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Calls that begin: number of the tracepoint. Samples say in which ABI.
    Begins(u16),
    /// Calls that return: number of the tracepoint.
    Returns(u16),
    /// Forks, ends, names and namespaces of tasks.
    Tasks,
}

/// An event on one CPU.
pub(super) struct Event {
    fd: OwnedFd,
    /// Does the kernel count what found no room (6.0 and later)?
    counts_losses: bool,
}

impl Event {
    /// Opens it, not yet enabled: of a thread and those it will start, or of all (`None`).
    pub(super) fn open(what: What, thread: Option<i32>, cpu: u32) -> io::Result<Self> {
        match open(what, thread, cpu, READ_LOST) {
            Ok(fd) => Ok(Self { fd, counts_losses: true }),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                Ok(Self { fd: open(what, thread, cpu, 0)?, counts_losses: false })
            }
            Err(error) => Err(error),
        }
    }

    /// Lets another event's ring take what this one tells.
    pub(super) fn write_to(&self, other: &Self) -> io::Result<()> {
        self.control(SET_OUTPUT, libc::c_ulong::try_from(other.fd.as_raw_fd()).unwrap_or_default())
    }

    pub(super) fn enable(&self) -> io::Result<()> {
        self.control(ENABLE, 0)
    }

    pub(super) fn disable(&self) -> io::Result<()> {
        self.control(DISABLE, 0)
    }

    pub(super) const fn counts_losses(&self) -> bool {
        self.counts_losses
    }

    /// What found no room; `None` before Linux 6.0.
    #[expect(unsafe_code, reason = "read(2) into plain numbers")]
    pub(super) fn lost(&self) -> io::Result<Option<u64>> {
        if !self.counts_losses {
            return Ok(None);
        }
        let mut values = [0_u64; 2]; // count of the event, lost
        let length = size_of_val(&values);
        // SAFETY: the kernel writes at most `length` bytes to `values`, which is that long.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), values.as_mut_ptr().cast(), length) };
        match usize::try_from(read) {
            Ok(read) if read == length => Ok(Some(values[1])),
            Ok(read) => Err(io::Error::other(format!("an event's counts have {read} bytes instead of {length}"))),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    #[expect(unsafe_code, reason = "ioctls of perf events have no wrapper")]
    fn control(&self, request: libc::c_ulong, argument: libc::c_ulong) -> io::Result<()> {
        // SAFETY: these requests take a number, and the descriptor is open.
        match unsafe { libc::ioctl(self.fd.as_raw_fd(), request, argument) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

#[expect(unsafe_code, reason = "perf_event_open has no wrapper")]
fn open(what: What, thread: Option<i32>, cpu: u32, read: u64) -> io::Result<OwnedFd> {
    let size = u32::try_from(size_of::<Attributes>()).expect("it has 112 bytes");
    let (sample, flags) = (SAMPLE_TID | SAMPLE_TIME, DISABLED | SAMPLE_ID_ALL | USE_CLOCKID);
    let flags = if thread.is_some() { flags | INHERIT } else { flags };
    let clock = libc::CLOCK_MONOTONIC;
    let common = Attributes { size, read, flags, clock, period: 1, ..Attributes::default() };
    let attributes = match what {
        What::Tasks => {
            Attributes { kind: SOFTWARE, config: DUMMY, sample, flags: flags | COMM | TASK | NAMESPACES, ..common }
        }
        // One register that every ABI has: the ABI comes with it.
        What::Begins(number) => Attributes {
            kind: TRACEPOINT,
            config: number.into(),
            sample: sample | SAMPLE_RAW | SAMPLE_REGS_USER,
            regs_user: 1,
            ..common
        },
        What::Returns(number) => {
            Attributes { kind: TRACEPOINT, config: number.into(), sample: sample | SAMPLE_RAW, ..common }
        }
    };
    const CLOSE_ON_EXEC: libc::c_ulong = 8;
    let cpu = i32::try_from(cpu).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let attributes: *const Attributes = &raw const attributes;
    // SAFETY: the kernel reads `size` bytes of the attributes, which live until the call returns.
    let fd =
        unsafe { libc::syscall(libc::SYS_perf_event_open, attributes, thread.unwrap_or(-1), cpu, -1, CLOSE_ON_EXEC) };
    match i32::try_from(fd) {
        // SAFETY: the kernel just made this descriptor; nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The ring of one CPU: a page of the kernel's, then the records.
pub(super) struct Ring {
    base: *mut u8,
    page: usize,
    /// Bytes of records; a power of two.
    bytes: usize,
}

#[expect(unsafe_code, reason = "a mapping may be read from any thread")]
// SAFETY: the mapping belongs to no thread, and `&mut self` keeps two readers apart.
unsafe impl Send for Ring {}

/// `data_head` and `data_tail` in the first page.
const HEAD_AT: usize = 1024;
const TAIL_AT: usize = 1032;

impl Ring {
    /// Maps an event's ring with room for `bytes` of records, a power of two; at least a page.
    #[expect(unsafe_code, reason = "mmap(2)")]
    pub(super) fn of(event: &Event, bytes: usize) -> io::Result<Self> {
        // SAFETY: only asks for a number.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let bytes = bytes.max(page);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of a descriptor that is open, at an address that the kernel chooses.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), page + bytes, protection, libc::MAP_SHARED, event.fd.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), page, bytes })
    }

    /// Hands over what is there: each record with its header.
    pub(super) fn drain(&mut self, mut take: impl FnMut(&[u8])) {
        let head = self.number(HEAD_AT).load(Ordering::Acquire);
        let mut tail = self.number(TAIL_AT).load(Ordering::Relaxed);
        let mut record = Vec::new();
        while tail < head {
            record.clear();
            self.copy(tail, 8, &mut record);
            let size = u16::from_ne_bytes([record[6], record[7]]);
            if size < 8 {
                break; // never written by the kernel
            }
            self.copy(tail + 8, usize::from(size) - 8, &mut record);
            take(&record);
            tail += u64::from(size);
        }
        self.number(TAIL_AT).store(tail, Ordering::Release);
    }

    #[expect(unsafe_code, reason = "the ring is memory that the kernel writes")]
    fn copy(&self, from: u64, length: usize, to: &mut Vec<u8>) {
        let start = usize::try_from(from).unwrap_or_default() & (self.bytes - 1);
        let first = length.min(self.bytes - start);
        for (at, length) in [(start, first), (0, length - first)] {
            // SAFETY: within the mapping, which lives as long as `self`; the kernel writes nothing between tail and head.
            to.extend_from_slice(unsafe { std::slice::from_raw_parts(self.base.add(self.page + at), length) });
        }
    }

    #[expect(unsafe_code, reason = "the ring's ends are shared with the kernel")]
    fn number(&self, at: usize) -> &AtomicU64 {
        // SAFETY: aligned and within the first page of the mapping, which lives as long as `self`.
        unsafe { &*self.base.add(at).cast::<AtomicU64>() }
    }
}

impl Drop for Ring {
    #[expect(unsafe_code, reason = "munmap(2)")]
    fn drop(&mut self) {
        // SAFETY: the mapping that `of` made; nothing refers to it any more.
        unsafe { libc::munmap(self.base.cast(), self.page + self.bytes) };
    }
}
