//! The wall clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970-01-01 UTC, negative before.
pub fn now_ns() -> i64 {
    let nanoseconds = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => nanoseconds(since),
        Err(before) => -nanoseconds(before.duration()),
    }
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
