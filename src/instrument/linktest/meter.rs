//! The rate of a train, from when its packets arrived.

use super::Rate;
use crate::host::clock::Distance;

/// Packets below which no rate is told.
const FEWEST: usize = 8;
/// Part of the packets at the beginning that says nothing: what a token bucket had saved up passes at full speed.
pub(super) const WARM_UP: usize = 4;

/// If the wall clock, by which the kernel stamps arrivals, was set by more than this meanwhile, no rate is told.
const STEP_NS: u64 = 1_000_000;

/// Arrivals of one train.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Kernel time in nanoseconds and bytes on the link.
    arrivals: Vec<(i64, u32)>,
    /// Of the wall clock from the monotonic one at the first arrival.
    distance: Option<Distance>,
}

impl Meter {
    pub(super) fn add(&mut self, at_ns: i64, wire_bytes: u32) {
        if self.arrivals.is_empty() {
            self.distance = Distance::read().ok();
        }
        self.arrivals.push((at_ns, wire_bytes));
    }

    /// `overflow`: datagrams the receiver's socket had no room for.
    pub(super) fn rate(&self, offered: Option<f64>, overflow: u64) -> Rate {
        let received = self.received().filter(|_| overflow == 0 && steady(self.distance, Distance::read().ok()));
        Rate { received, offered, packets: self.arrivals.len() as u64, overflow }
    }

    /// Bits per second after the warm-up.
    fn received(&self) -> Option<f64> {
        if self.arrivals.len() < FEWEST {
            return None;
        }
        let steady = &self.arrivals[self.arrivals.len() / WARM_UP..];
        let ((first, _), (last, _)) = (steady.first()?, steady.last()?);
        // The first one marks the beginning and is not counted itself.
        let bytes: u64 = steady[1..].iter().map(|(_, bytes)| u64::from(*bytes)).sum();
        bits_per_second(bytes, last - first)
    }
}

/// Was the wall clock left alone between the two?
fn steady(before: Option<Distance>, after: Option<Distance>) -> bool {
    before.zip(after).is_some_and(|(before, after)| after.step_since(before, STEP_NS).is_none())
}

/// `None` when no time has passed.
#[expect(clippy::cast_precision_loss, reason = "a train has far fewer than 2^53 bytes and nanoseconds")]
pub(super) fn bits_per_second(bytes: u64, ns: i64) -> Option<f64> {
    (ns > 0).then(|| bytes as f64 * 8.0 * 1e9 / ns as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bucket_had_saved_does_not_count() {
        let mut meter = Meter::default();
        (0..10).for_each(|_| meter.add(0, 1000));
        assert_eq!(meter.rate(None, 0).received, None, "all at once");
        // 8000 bits each 1 ms: 8 Mbit/s.
        (1..31).for_each(|ms| meter.add(ms * 1_000_000, 1000));
        let rate = meter.rate(Some(1.0), 0);
        assert_eq!((rate.received, rate.offered, rate.packets), (Some(8e6), Some(1.0), 40));
        assert_eq!(meter.rate(None, 1).received, None, "its own losses would pass for the link's");
    }

    #[test]
    fn a_clock_that_was_set_tells_no_rate() {
        let at = |ns| Some(Distance { ns, within: 0 });
        assert!(steady(at(5), at(1_000_005)) && steady(at(1_000_005), at(5)));
        assert!(!steady(at(5), at(1_000_006)) && !steady(at(1_000_006), at(5)));
        assert!(!steady(None, at(0)) && !steady(at(0), None));
        let mut meter = Meter::default();
        (0..20).for_each(|ms| meter.add(ms * 1_000_000, 1000));
        assert_eq!(meter.rate(None, 0).received, Some(8e6));
        meter.distance = meter.distance.map(|before| Distance { ns: before.ns + 50_000_000, ..before });
        assert_eq!(meter.rate(None, 0).received, None);
    }

    #[test]
    fn too_few_tell_nothing() {
        let mut meter = Meter::default();
        (0..7).for_each(|ms| meter.add(ms * 1_000_000, 1000));
        assert_eq!(meter.rate(None, 0).received, None);
    }
}
