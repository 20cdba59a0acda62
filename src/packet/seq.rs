//! TCP sequence numbers.

use std::fmt;

/// A TCP sequence number. It has no order of its own: two numbers compare only by their distance, which wraps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Seq(pub u32);

impl Seq {
    /// The number `octets` further on.
    #[must_use]
    pub const fn after(self, octets: u32) -> Self {
        Self(self.0.wrapping_add(octets))
    }

    /// Signed distance from `earlier` to here, in -2^31..2^31: negative when `earlier` is the later one.
    pub const fn distance_from(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }

    /// Is this number later than `other`, less than half the space away?
    pub const fn is_after(self, other: Self) -> bool {
        self.distance_from(other) > 0
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparison_wraps() {
        assert!(Seq(3).is_after(Seq(0xffff_fff0)));
        assert!(!Seq(0xffff_fff0).is_after(Seq(3)));
        assert_eq!(Seq(0xffff_ffff).after(2), Seq(1));
        assert_eq!(Seq(1).distance_from(Seq(0xffff_ffff)), 2);
    }
}
