//! Quantities with units: parsed from text, converted exactly or refused.

use std::fmt;

/// A link rate in bit/s, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

impl Rate {
    /// `None` for zero.
    pub const fn from_bits_per_second(bits: u64) -> Option<Self> {
        if bits == 0 { None } else { Some(Self(bits)) }
    }

    /// The rate in bit/s.
    pub const fn bits_per_second(self) -> u64 {
        self.0
    }
}

/// Shortest exact form: `1 Gbit/s`, `1500 kbit/s`, `7 bit/s`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (factor, unit) = [(1_000_000_000, "Gbit/s"), (1_000_000, "Mbit/s"), (1_000, "kbit/s"), (1, "bit/s")]
            .into_iter()
            .find(|(factor, _)| self.0.is_multiple_of(*factor))
            .expect("every rate is a multiple of 1 bit/s");
        write!(f, "{} {unit}", self.0 / factor)
    }
}

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Shortest exact form with decimal prefixes: `16 MB`, `1500 B`.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (factor, unit) = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB"), (1, "B")]
            .into_iter()
            .find(|(factor, _)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .unwrap_or((1, "B"));
        write!(f, "{} {unit}", self.0 / factor)
    }
}

/// A finite percentage; 100 is the whole.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// From a number of percent; must be finite and not negative.
    pub const fn new(percent: f64) -> Self {
        assert!(percent.is_finite() && percent >= 0.0, "a percentage is finite and not negative");
        Self(percent)
    }

    /// As a fraction: 5 % is 0.05.
    pub fn fraction(self) -> f64 {
        self.0 / 100.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}
