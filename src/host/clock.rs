//! The wall clock, and the monotonic one beside it.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// Readings of two clocks that took longer than this apart are tried again.
const CLOSE_NS: i64 = 2_000;
const TRIES: u32 = 5;

/// Nanoseconds since 1970-01-01 UTC, negative before.
pub fn now_ns() -> i64 {
    let nanoseconds = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => nanoseconds(since),
        Err(before) => -nanoseconds(before.duration()),
    }
}

/// How far the wall clock is from the monotonic one. It changes only when the wall clock is set: both are slewed alike.
#[derive(Debug, Clone, Copy)]
pub struct Distance {
    /// Wall clock less monotonic clock, in nanoseconds.
    pub ns: i64,
    /// The reading may be off by this, in nanoseconds: a thread may be put aside between the two clocks.
    pub within: u64,
}

impl Distance {
    /// The closest of some readings.
    ///
    /// # Errors
    /// When the kernel does not tell the time.
    pub fn read() -> io::Result<Self> {
        let mut best = Self::once()?;
        for _ in 1..TRIES {
            if best.within <= CLOSE_NS.unsigned_abs() {
                break;
            }
            let this = Self::once()?;
            if this.within < best.within {
                best = this;
            }
        }
        Ok(best)
    }

    fn once() -> io::Result<Self> {
        let (first, wall, second) = (monotonic_ns()?, wall_ns()?, monotonic_ns()?);
        Ok(Self { ns: wall.saturating_sub(first), within: (second - first).unsigned_abs() })
    }

    /// By how many nanoseconds the wall clock was set since `before`; `None` when it was by no more than `allowed` beyond
    /// what the readings may be off by.
    pub fn step_since(self, before: Self, allowed: u64) -> Option<i64> {
        let step = self.ns.saturating_sub(before.ns);
        (step.unsigned_abs() > allowed + self.within + before.within).then_some(step)
    }
}

/// Monotonic clock in nanoseconds.
///
/// # Errors
/// When the kernel does not tell it.
pub fn monotonic_ns() -> io::Result<i64> {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Wall clock, nanoseconds since 1970-01-01 UTC; the clock of the kernel's time stamps of packets.
///
/// # Errors
/// When the kernel does not tell it.
pub fn wall_ns() -> io::Result<i64> {
    read(ClockId::CLOCK_REALTIME)
}

fn read(clock: ClockId) -> io::Result<i64> {
    Ok(nanoseconds(clock_gettime(clock)?))
}

/// A time as one number.
pub fn nanoseconds(time: TimeSpec) -> i64 {
    time.tv_sec().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec())
}

/// Frequency of the processor's time stamp counter in kHz, measured over 10 ms; `None` on other processors than x86.
///
/// Guests that QEMU translates (TCG) read this host's counter.
pub fn tsc_khz() -> Option<u64> {
    let (begin, first) = (Instant::now(), time_stamp()?);
    // A thread that is put aside between the two readings measures as well: only they must be close together.
    while begin.elapsed() < Duration::from_millis(10) {
        std::hint::spin_loop();
    }
    let (last, took) = (time_stamp()?, begin.elapsed());
    let khz = u128::from(last.checked_sub(first)?) * 1_000_000 / took.as_nanos();
    u64::try_from(khz).ok().filter(|&khz| khz > 0)
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::unnecessary_wraps, reason = "other processors have none")]
fn time_stamp() -> Option<u64> {
    // SAFETY: every x86-64 processor has the instruction; Linux lets all processes use it.
    #[expect(unsafe_code, reason = "there is no other way to read it")]
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn time_stamp() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_nobody_sets_has_no_step() {
        let before = Distance::read().unwrap();
        assert_eq!(Distance::read().unwrap().step_since(before, 1_000_000), None);
    }

    #[test]
    fn what_the_readings_may_be_off_by_is_no_step() {
        let at = |ns, within| Distance { ns, within };
        assert_eq!(at(-20_000_000, 0).step_since(at(0, 0), 10_000_000), Some(-20_000_000));
        assert_eq!(at(-20_000_000, 4_000_000).step_since(at(0, 6_000_000), 10_000_000), None);
        assert_eq!(at(20_000_001, 4_000_000).step_since(at(0, 6_000_000), 10_000_000), Some(20_000_001));
    }
}
