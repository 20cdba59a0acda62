//! Capture time.

use std::fmt;

/// A moment on the capture's clock, kept to the nanosecond: microseconds since 1970-01-01 UTC and the nanoseconds
/// within the microsecond.
///
/// The split form is what the statistics need (tcptrace's definitions work on whole microseconds) and reaches ±290,000
/// years, far beyond any time stamp a capture can hold by honest means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    micros: i64,
    nanos: u16,
}

const MICROS_PER_SECOND: i64 = 1_000_000;

impl Time {
    /// From nanoseconds since 1970-01-01 UTC.
    pub const fn from_nanos(nanos: i64) -> Self {
        // The remainder of a division by 1000 is in 0..1000.
        #[expect(clippy::cast_possible_truncation, reason = "in 0..1000")]
        let below = nanos.rem_euclid(1000) as u16;
        Self { micros: nanos.div_euclid(1000), nanos: below }
    }

    /// From whole microseconds since 1970-01-01 UTC.
    pub const fn from_micros(micros: i64) -> Self {
        Self { micros, nanos: 0 }
    }

    /// From seconds and the part below a second, `subsecond_nanos` possibly beyond 10^9; clamped at ±290,000 years.
    pub fn from_parts(seconds: i64, subsecond_nanos: u64) -> Self {
        let (micros, nanos) = (subsecond_nanos / 1000, subsecond_nanos % 1000);
        let micros = i64::try_from(micros).unwrap_or(i64::MAX);
        Self {
            micros: seconds.saturating_mul(MICROS_PER_SECOND).saturating_add(micros),
            nanos: u16::try_from(nanos).expect("a remainder of 1000 fits"),
        }
    }

    /// Whole microseconds since 1970-01-01 UTC, rounded towards the past.
    pub const fn micros(self) -> i64 {
        self.micros
    }

    /// Microseconds and the nanoseconds within the microsecond, for storing.
    pub(crate) const fn parts(self) -> (i64, u16) {
        (self.micros, self.nanos)
    }

    /// The inverse of [`Self::parts`].
    pub(crate) const fn from_stored(micros: i64, nanos: u16) -> Self {
        Self { micros, nanos }
    }

    /// Nanoseconds since 1970-01-01 UTC; `None` outside the years 1677 to 2262.
    pub fn nanos(self) -> Option<i64> {
        i64::try_from(i128::from(self.micros) * 1000 + i128::from(self.nanos)).ok()
    }

    /// Nanoseconds from `earlier` to here, negative when the clock ran backwards; clamped at ±292 years.
    pub fn nanos_since(self, earlier: Self) -> i64 {
        let below = i64::from(self.nanos) - i64::from(earlier.nanos);
        self.micros.saturating_sub(earlier.micros).saturating_mul(1000).saturating_add(below)
    }
}

/// Seconds with nine decimals.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.micros.div_euclid(MICROS_PER_SECOND), self.micros.rem_euclid(MICROS_PER_SECOND));
        write!(f, "{seconds}.{micros:06}{:03}", self.nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_survive_both_ways() {
        for nanos in [0, 1, 999, 1000, -1, -1000, 1_700_000_000_123_456_789, i64::MAX, i64::MIN] {
            assert_eq!(Time::from_nanos(nanos).nanos(), Some(nanos));
        }
    }

    #[test]
    fn far_times_are_clamped_not_wrapped() {
        let far = Time::from_parts(i64::MAX, 5);
        assert_eq!(far.micros(), i64::MAX);
        assert_eq!(far.nanos(), None);
        assert_eq!(far.nanos_since(Time::default()), i64::MAX);
    }

    #[test]
    fn differences_cross_the_microsecond() {
        assert_eq!(Time::from_nanos(2001).nanos_since(Time::from_nanos(1999)), 2);
        assert_eq!(Time::from_nanos(1999).nanos_since(Time::from_nanos(2001)), -2);
        assert_eq!(Time::from_nanos(5).to_string(), "0.000000005");
    }
}
