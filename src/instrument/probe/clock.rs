//! The clock that a probe reads: what the kernel says of it, and whether somebody sets it meanwhile.

use std::io;

use serde::{Deserialize, Serialize};

use crate::host::clock::Distance;

/// What two readings may differ by besides the time that they took.
const GRAIN_NS: u64 = 1_000;

/// What a process knows of its clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClockFacts {
    pub(super) boot_id: String,
    pub(super) source: Option<String>,
    pub(super) before: Option<KernelState>,
    pub(super) after: Option<KernelState>,
    pub(super) step_ns: u64,
}

/// What adjtimex(2) says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KernelState {
    pub(super) synchronised: bool,
    pub(super) max_error_ns: u64,
    pub(super) estimated_error_ns: u64,
}

impl KernelState {
    /// `None` when the kernel does not say.
    pub(super) fn read() -> Option<Self> {
        // SAFETY: all zeros is a valid `timex`, and asks for nothing to be changed.
        #[expect(unsafe_code, reason = "adjtimex has no safe wrapper")]
        let (state, timex) = unsafe {
            let mut timex: libc::timex = std::mem::zeroed();
            (libc::adjtimex(&raw mut timex), timex)
        };
        let nanoseconds = |microseconds: libc::c_long| u64::try_from(microseconds).ok()?.checked_mul(1000);
        (state >= 0).then_some(())?;
        Some(Self {
            synchronised: state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0,
            max_error_ns: nanoseconds(timex.maxerror)?,
            estimated_error_ns: nanoseconds(timex.esterror)?,
        })
    }
}

impl ClockFacts {
    /// Was it synchronised all the time? `None` when it could not be asked.
    pub(super) fn synchronised(&self) -> Option<bool> {
        Some(self.before?.synchronised && self.after?.synchronised)
    }

    /// The larger bound of its error; `None` without a synchronised clock.
    pub(super) fn max_error_ns(&self) -> Option<u64> {
        self.worse(|state| state.max_error_ns)
    }

    /// The larger estimate of its error; `None` without a synchronised clock.
    pub(super) fn estimated_error_ns(&self) -> Option<u64> {
        self.worse(|state| state.estimated_error_ns)
    }

    fn worse(&self, of: impl Fn(KernelState) -> u64) -> Option<u64> {
        self.synchronised().filter(|&yes| yes)?;
        Some(of(self.before?).max(of(self.after?)))
    }
}

/// Watches the clock from its making to [`Watch::end`].
pub(super) struct Watch {
    boot_id: String,
    before: Option<KernelState>,
    begun: Distance,
    step_ns: u64,
}

impl Watch {
    /// Begins.
    ///
    /// # Errors
    /// When the clocks or the `boot_id` cannot be read.
    pub(super) fn begin() -> io::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { boot_id, before: KernelState::read(), begun: Distance::read()?, step_ns: 0 })
    }

    /// Looks whether the clock was set.
    pub(super) fn look(&mut self) -> io::Result<()> {
        if let Some(step) = Distance::read()?.step_since(self.begun, GRAIN_NS) {
            self.step_ns = self.step_ns.max(step.unsigned_abs());
        }
        Ok(())
    }

    /// Looks a last time, and tells.
    pub(super) fn end(mut self) -> io::Result<ClockFacts> {
        self.look()?;
        let source = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
        let source = source.ok().map(|text| text.trim().to_owned());
        let Self { boot_id, before, step_ns, .. } = self;
        Ok(ClockFacts { boot_id, source, before, after: KernelState::read(), step_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_nobody_sets_has_no_step() {
        let mut watch = Watch::begin().unwrap();
        watch.look().unwrap();
        let facts = watch.end().unwrap();
        assert_eq!(facts.step_ns, 0);
        assert_eq!(facts.boot_id.len(), 36);
    }

    #[test]
    fn a_step_beyond_the_reading_is_seen() {
        let mut watch = Watch::begin().unwrap();
        watch.begun.ns += 50_000_000;
        watch.look().unwrap();
        assert!(watch.step_ns > 49_000_000);
    }

    #[test]
    fn errors_are_told_of_synchronised_clocks_only() {
        let state = |synchronised, max_error_ns| KernelState { synchronised, max_error_ns, estimated_error_ns: 5 };
        let facts = |before, after| ClockFacts { boot_id: String::new(), source: None, before, after, step_ns: 0 };
        let good = facts(Some(state(true, 10)), Some(state(true, 30)));
        assert_eq!((good.max_error_ns(), good.estimated_error_ns()), (Some(30), Some(5)));
        let lost = facts(Some(state(true, 10)), Some(state(false, 10)));
        assert_eq!((lost.synchronised(), lost.max_error_ns()), (Some(false), None));
        assert_eq!(facts(None, Some(state(true, 1))).synchronised(), None);
    }
}
