//! The thread of one capture point: empties the ring, counts, and loses nothing at the end.

use std::io::PipeReader;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pcap::{Active, Capture, Packet, Stat};

use super::PacketSink;
use super::kept::Kept;
use super::open::{BLOCK_TIMEOUT_MS, Opened, plain};
use super::tally::Tally;

/// The reader sleeps this long after it has emptied the ring, so that a busy interface wakes it at most 50 times a
/// second: each time it takes the CPU from the workload it observes.
const PACE: Duration = Duration::from_millis(20);
/// Packets handled between two looks at the clock.
const BATCH: usize = 8192;
/// After so long without a packet the sink is told.
const IDLE: Duration = Duration::from_millis(500);
/// How long the kernel may take to hand over what it has counted.
const TAIL: Duration = Duration::from_millis(1000);

/// Time stamps that count, in nanoseconds since 1970-01-01 UTC; shared by all points of an iteration, so that they all
/// see the same stretch of time.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) from_ns: AtomicI64,
    pub(super) until_ns: AtomicI64,
    /// Nobody wants the result: kept files are removed.
    pub(super) abandoned: AtomicBool,
}

impl Window {
    pub(super) fn contains(&self, at_ns: i64) -> bool {
        self.from_ns.load(Ordering::Relaxed) <= at_ns && at_ns <= self.until_ns.load(Ordering::Relaxed)
    }
}

/// What a reader brings home.
#[derive(Debug)]
pub(super) struct Seen<S> {
    pub(super) tally: Tally,
    /// Packets outside the window.
    pub(super) outside: u64,
    pub(super) counters: Option<Counters>,
    /// Why reading ended early.
    pub(super) error: Option<String>,
    pub(super) kept: Option<Kept>,
    pub(super) sink: S,
}

/// The kernel's own counts, and whether what was read adds up to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) received: u32,
    pub(super) dropped: u32,
    /// Packets that were counted, not dropped, and never read.
    pub(super) missing: u64,
}

/// Reads until `stop` is closed, then the rest.
pub(super) fn read<S: PacketSink>(opened: Opened, sink: S, stop: &PipeReader, window: &Window, lo: bool) -> Seen<S> {
    let Opened { mut handle, before_filter, kept, .. } = opened;
    let seen = Seen { tally: Tally::default(), outside: 0, counters: None, error: None, kept, sink };
    let mut reader = Reader { seen, window };
    let ended = reader.follow(&mut handle, stop).and_then(|()| reader.tail(&mut handle, before_filter, lo));
    let mut seen = reader.seen;
    match ended {
        Ok(counters) => seen.counters = Some(counters),
        Err(error) => {
            seen.error = Some(error.to_string());
            seen.counters = handle.stats().ok().map(|stat| count(stat, &seen, before_filter, lo));
        }
    }
    seen
}

struct Reader<'a, S> {
    seen: Seen<S>,
    window: &'a Window,
}

impl<S: PacketSink> Reader<'_, S> {
    /// Empties the ring whenever there is something in it, until `stop` is closed.
    fn follow(&mut self, handle: &mut Capture<Active>, stop: &PipeReader) -> std::io::Result<()> {
        while !closed(stop.as_fd(), Some(handle.as_fd()), Some(IDLE))? {
            let before = delivered(&self.seen);
            // A full batch means that there is more; `stop` is still looked at, for a flood may never let up.
            while self.batch(handle)? == BATCH && !closed(stop.as_fd(), None, Some(Duration::ZERO))? {}
            if delivered(&self.seen) == before {
                self.seen.sink.idle();
            }
            if closed(stop.as_fd(), None, Some(PACE))? {
                break;
            }
        }
        Ok(())
    }

    /// Waits for the end of the window and reads everything the kernel has counted until then.
    fn tail(&mut self, handle: &mut Capture<Active>, before: u32, lo: bool) -> std::io::Result<Counters> {
        while now_ns() <= self.window.until_ns.load(Ordering::Relaxed) {
            self.batch(handle)?;
            wait(handle.as_fd(), Duration::from_millis(5))?;
        }
        let asked = handle.stats().map_err(|error| plain(&error))?;
        // What libpcap itself leaves out is never handed over, so that waiting for it must end soon.
        let patience = if before > 0 || lo { 4 * BLOCK_TIMEOUT } else { TAIL };
        let deadline = Instant::now() + patience;
        loop {
            let read = self.batch(handle)?;
            if delivered(&self.seen) >= expected(asked) || Instant::now() > deadline {
                return Ok(count(asked, &self.seen, before, lo));
            }
            if read < BATCH {
                wait(handle.as_fd(), Duration::from_millis(1))?;
            }
        }
    }

    fn batch(&mut self, handle: &mut Capture<Active>) -> std::io::Result<usize> {
        handle.dispatch(Some(BATCH), |packet| self.packet(&packet)).map_err(|error| plain(&error))
    }

    fn packet(&mut self, packet: &Packet<'_>) {
        // With nanosecond precision `tv_usec` holds nanoseconds.
        let at_ns = packet.header.ts.tv_sec * 1_000_000_000 + packet.header.ts.tv_usec;
        if !self.window.contains(at_ns) {
            self.seen.outside += 1;
            return;
        }
        self.seen.tally.add(packet.header.len);
        if let Some(kept) = &mut self.seen.kept {
            kept.packet(at_ns, packet.header.len, packet.data);
        }
        self.seen.sink.packet(at_ns, packet.header.len, packet.data);
    }
}

const BLOCK_TIMEOUT: Duration = Duration::from_millis(BLOCK_TIMEOUT_MS.unsigned_abs() as u64);

/// Packets handed to us, in the window or not.
fn delivered<S>(seen: &Seen<S>) -> u64 {
    seen.tally.packets() + seen.outside
}

/// Packets the kernel must have handed over: what it counts as received includes what it dropped.
fn expected(stat: Stat) -> u64 {
    u64::from(stat.received.wrapping_sub(stat.dropped))
}

fn count<S>(stat: Stat, seen: &Seen<S>, before_filter: u32, lo: bool) -> Counters {
    let short = expected(stat).saturating_sub(delivered(seen));
    // On `lo` libpcap skips the outgoing copy of every packet; before the filter was in force it checks itself.
    let allowed = if lo { expected(stat).div_ceil(2) } else { u64::from(before_filter) };
    Counters { received: stat.received, dropped: stat.dropped, missing: short.saturating_sub(allowed) }
}

/// Waits until `stop` is closed (`true`) or `other` has something (`false`), or for `limit`.
fn closed(stop: BorrowedFd<'_>, other: Option<BorrowedFd<'_>>, limit: Option<Duration>) -> std::io::Result<bool> {
    let mut fds = vec![PollFd::new(stop, PollFlags::POLLIN)];
    fds.extend(other.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    let timeout = limit.map_or(PollTimeout::NONE, |limit| PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
    match poll(&mut fds, timeout) {
        Ok(_) => Ok(fds[0].any().unwrap_or(false)),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Waits until `fd` has something, or for `limit`.
fn wait(fd: BorrowedFd<'_>, limit: Duration) -> std::io::Result<()> {
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Wall clock, nanoseconds since 1970-01-01 UTC: the clock of the kernel's time stamps.
pub(super) fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(now.as_nanos()).expect("the clock is before 2262")
}
