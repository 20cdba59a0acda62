//! Quantities with units: parsed from text, converted exactly or refused.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A text that is no quantity of the kind wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a {kind}: {problem} (accepted: {accepted})")]
pub struct BadQuantity {
    /// The text.
    pub value: String,
    /// What was wanted: `rate`, `size`, `duration`, `percentage`.
    pub kind: &'static str,
    /// What is wrong with it.
    pub problem: Problem,
    /// Examples of what is accepted.
    pub accepted: &'static str,
}

/// What is wrong with a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Neither `12` nor `1.5` stands at its beginning.
    #[error("it does not begin with a number")]
    NoNumber,
    /// Only a number.
    #[error("it has no unit")]
    NoUnit,
    /// Something else than a unit follows the number.
    #[error("its unit is not known")]
    UnknownUnit,
    /// It would have to be rounded.
    #[error("it is finer than the smallest unit that can be stored")]
    Inexact,
    /// It does not fit.
    #[error("it is too large")]
    TooLarge,
    /// Nothing at all where something is needed.
    #[error("it must not be zero")]
    Zero,
}

/// A kind of quantity: its name, its units as multiples of the one stored, and examples.
struct Kind {
    name: &'static str,
    units: &'static [(&'static str, u64)],
    accepted: &'static str,
}

impl Kind {
    /// The whole number of stored units that `text` means.
    fn parse(&self, text: &str) -> Result<u64, BadQuantity> {
        self.value_of(text.trim()).map_err(|problem| self.bad(text, problem))
    }

    fn bad(&self, text: &str, problem: Problem) -> BadQuantity {
        BadQuantity { value: text.to_owned(), kind: self.name, problem, accepted: self.accepted }
    }

    fn value_of(&self, text: &str) -> Result<u64, Problem> {
        let (number, unit) = split_number(text)?;
        let factor = match unit {
            "" => return Err(Problem::NoUnit),
            unit => self.units.iter().find(|(name, _)| *name == unit).ok_or(Problem::UnknownUnit)?.1,
        };
        number.times(factor)
    }
}

/// A decimal number as written: all digits, and how many of them stand behind the point.
struct Decimal {
    digits: u128,
    fraction: u32,
}

impl Decimal {
    /// Exact product with a unit.
    fn times(&self, factor: u64) -> Result<u64, Problem> {
        let product = self.digits.checked_mul(u128::from(factor)).ok_or(Problem::TooLarge)?;
        let divisor = 10u128.checked_pow(self.fraction).ok_or(Problem::Inexact)?;
        if product % divisor != 0 {
            return Err(Problem::Inexact);
        }
        u64::try_from(product / divisor).map_err(|_| Problem::TooLarge)
    }
}

/// Splits `1.5 Gbit/s` into number and unit; blanks between them are optional.
fn split_number(text: &str) -> Result<(Decimal, &str), Problem> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(Problem::NoNumber);
    }
    let fraction = fraction.trim_end_matches('0');
    let mut all = whole.bytes().chain(fraction.bytes());
    let digits = all
        .try_fold(0u128, |acc, digit| acc.checked_mul(10)?.checked_add(u128::from(digit - b'0')))
        .ok_or(Problem::TooLarge)?;
    let fraction = u32::try_from(fraction.len()).map_err(|_| Problem::Inexact)?;
    Ok((Decimal { digits, fraction }, unit.trim_start()))
}

/// The largest of `units` (descending) that divides `value`, as `number unit`.
fn write_exact(f: &mut fmt::Formatter<'_>, value: u64, units: &[(u64, &str)]) -> fmt::Result {
    let last = units.last().expect("a quantity has a unit");
    let (factor, unit) = units.iter().find(|(factor, _)| value != 0 && value.is_multiple_of(*factor)).unwrap_or(last);
    write!(f, "{} {unit}", value / factor)
}

/// A link rate in bit/s, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

const RATE: Kind = Kind {
    name: "rate",
    units: &[
        ("bit/s", 1),
        ("bit", 1),
        ("bps", 1),
        ("kbit/s", 1_000),
        ("kbit", 1_000),
        ("kbps", 1_000),
        ("k", 1_000),
        ("Kbit/s", 1_000),
        ("Kbps", 1_000),
        ("K", 1_000),
        ("Mbit/s", 1_000_000),
        ("Mbit", 1_000_000),
        ("Mbps", 1_000_000),
        ("mbit", 1_000_000),
        ("M", 1_000_000),
        ("Gbit/s", 1_000_000_000),
        ("Gbit", 1_000_000_000),
        ("Gbps", 1_000_000_000),
        ("gbit", 1_000_000_000),
        ("G", 1_000_000_000),
    ],
    accepted: "\"1000 Mbit/s\", \"1 Gbit/s\", \"500 kbit/s\", \"1Gbps\", \"100M\"",
};

impl Rate {
    /// What a spec may say, for messages.
    pub const ACCEPTED: &'static str = RATE.accepted;

    /// `None` for zero.
    pub const fn from_bits_per_second(bits: u64) -> Option<Self> {
        if bits == 0 { None } else { Some(Self(bits)) }
    }

    /// The rate in bit/s.
    pub const fn bits_per_second(self) -> u64 {
        self.0
    }
}

/// A number and a unit of bits (never bytes) per second; prefixes are decimal.
impl FromStr for Rate {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        Self::from_bits_per_second(RATE.parse(text)?).ok_or_else(|| RATE.bad(text, Problem::Zero))
    }
}

/// Shortest exact form: `1 Gbit/s`, `1500 kbit/s`, `7 bit/s`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_exact(f, self.0, &[(1_000_000_000, "Gbit/s"), (1_000_000, "Mbit/s"), (1_000, "kbit/s"), (1, "bit/s")])
    }
}

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

const SIZE: Kind = Kind {
    name: "size",
    units: &[
        ("B", 1),
        ("kB", 1_000),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ],
    accepted: "\"16 MB\" (decimal), \"1 MiB\" (binary), \"1500 B\"",
};

impl ByteSize {
    /// What a spec may say, for messages.
    pub const ACCEPTED: &'static str = SIZE.accepted;
}

/// A number and a unit: decimal `kB`, `MB`, `GB`, `TB`, binary `KiB`, `MiB`, `GiB`, `TiB`, or `B`.
impl FromStr for ByteSize {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        SIZE.parse(text).map(Self)
    }
}

/// Shortest exact form with decimal prefixes: `16 MB`, `1500 B`.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_exact(f, self.0, &[(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB"), (1, "B")])
    }
}

/// What a spec may say for a duration, for messages.
pub const DURATION_ACCEPTED: &str = DURATION.accepted;

const DURATION: Kind = Kind {
    name: "duration",
    units: &[
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("min", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("d", 86_400_000_000_000),
    ],
    accepted: "\"360 s\", \"2 min\", \"100 ms\", \"1 h\"",
};

/// A number and a unit from `ns` to `d`; at most 2^64 ns (584 years).
pub fn parse_duration(text: &str) -> Result<Duration, BadQuantity> {
    DURATION.parse(text).map(Duration::from_nanos)
}

/// Shortest exact form: `6 min`, `90 s`, `1500 ms`; the inverse of [`parse_duration`] for all it accepts.
pub fn format_duration(duration: Duration) -> String {
    const UNITS: [(u128, &str); 6] = [
        (3_600_000_000_000, "h"),
        (60_000_000_000, "min"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
        (1, "ns"),
    ];
    let nanos = duration.as_nanos();
    let exact = UNITS.into_iter().find(|(factor, _)| nanos != 0 && nanos.is_multiple_of(*factor));
    let (factor, unit) = exact.unwrap_or((1_000_000_000, "s"));
    format!("{} {unit}", nanos / factor)
}

/// A finite percentage, not negative; 100 is the whole.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// What a spec may say, for messages.
    pub const ACCEPTED: &'static str = "\"5 %\", \"0.1 %\"";

    /// From a number of percent; must be finite and not negative.
    pub const fn new(percent: f64) -> Self {
        assert!(percent.is_finite() && percent >= 0.0, "a percentage is finite and not negative");
        Self(percent)
    }

    /// As [`Self::new`]; `None` for what that refuses.
    pub const fn try_new(percent: f64) -> Option<Self> {
        if percent.is_finite() && percent >= 0.0 { Some(Self(percent)) } else { None }
    }

    /// As a fraction: 5 % is 0.05.
    pub fn fraction(self) -> f64 {
        self.0 / 100.0
    }
}

/// A decimal number and `%`.
impl FromStr for Percent {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let bad =
            |problem| BadQuantity { value: text.to_owned(), kind: "percentage", problem, accepted: Self::ACCEPTED };
        let trimmed = text.trim();
        let number = trimmed.strip_suffix('%').map(str::trim_end);
        let digits = number.unwrap_or(trimmed);
        let decimal = digits.starts_with(|c: char| c.is_ascii_digit())
            && digits.ends_with(|c: char| c.is_ascii_digit())
            && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let value = digits.parse::<f64>().ok().filter(|_| decimal).ok_or_else(|| {
            let starts = digits.starts_with(|c: char| c.is_ascii_digit());
            bad(if starts && number.is_none() { Problem::UnknownUnit } else { Problem::NoNumber })
        })?;
        if number.is_none() {
            return Err(bad(Problem::NoUnit));
        }
        Self::try_new(value).ok_or_else(|| bad(Problem::TooLarge))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(text: &str) -> Result<u64, Problem> {
        text.parse::<Rate>().map(Rate::bits_per_second).map_err(|e| e.problem)
    }

    fn size(text: &str) -> Result<u64, Problem> {
        text.parse::<ByteSize>().map(|s| s.0).map_err(|e| e.problem)
    }

    fn duration(text: &str) -> Result<u128, Problem> {
        parse_duration(text).map(|d| d.as_nanos()).map_err(|e| e.problem)
    }

    #[test]
    fn rates() {
        for same in ["1000 Mbit/s", "1 Gbit/s", "1Gbps", "1G", "1000M", "1.0 Gbit/s", "1000000kbit", " 1 Gbit/s "] {
            assert_eq!(rate(same), Ok(1_000_000_000), "{same}");
        }
        assert_eq!(rate("0.5 kbit/s"), Ok(500));
        for (text, problem) in [
            ("", Problem::NoNumber),
            ("fast", Problem::NoNumber),
            ("-1 Gbit/s", Problem::NoNumber),
            ("1. Gbit/s", Problem::NoNumber),
            ("1.2.3 Gbit/s", Problem::NoNumber),
            ("1000", Problem::NoUnit),
            ("100 MBps", Problem::UnknownUnit),
            ("100 MB/s", Problem::UnknownUnit),
            ("1 e9 bit/s", Problem::UnknownUnit),
            ("0.3 bit/s", Problem::Inexact),
            ("1.0005 kbit/s", Problem::Inexact),
            ("0 Mbit/s", Problem::Zero),
            ("99999999999999999999 Gbit/s", Problem::TooLarge),
            ("18446744073709551616 bit/s", Problem::TooLarge),
        ] {
            assert_eq!(rate(text), Err(problem), "{text}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("16 MB"), Ok(16_000_000));
        assert_eq!(size("16MB"), Ok(16_000_000));
        assert_eq!(size("1 MiB"), Ok(1_048_576));
        assert_eq!(size("1.5 KiB"), Ok(1536));
        assert_eq!(size("0 B"), Ok(0));
        assert_eq!(size("512"), Err(Problem::NoUnit));
        assert_eq!(size("16 Mb"), Err(Problem::UnknownUnit));
        assert_eq!(size("0.5 B"), Err(Problem::Inexact));
    }

    #[test]
    fn durations() {
        assert_eq!(duration("360 s"), duration("6 min"));
        assert_eq!(duration("100 ms"), Ok(100_000_000));
        assert_eq!(duration("1.5h"), Ok(5_400_000_000_000));
        assert_eq!(duration("-1 s"), Err(Problem::NoNumber));
        assert_eq!(duration("5 m"), Err(Problem::UnknownUnit));
        assert_eq!(duration("0.5 ns"), Err(Problem::Inexact));
        assert_eq!(format_duration(Duration::from_secs(360)), "6 min");
        assert_eq!(format_duration(Duration::from_millis(1500)), "1500 ms");
        assert_eq!(format_duration(Duration::ZERO), "0 s");
    }

    #[test]
    fn percentages() {
        let percent = |text: &str| text.parse::<Percent>().map_err(|e| e.problem);
        assert_eq!(percent("5 %"), Ok(Percent::new(5.0)));
        assert_eq!(percent("0.1%"), Ok(Percent::new(0.1)));
        assert_eq!(percent("5"), Err(Problem::NoUnit));
        assert_eq!(percent("5 percent"), Err(Problem::UnknownUnit));
        for text in ["", "%", "-5 %", "inf %", "nan %", "1e3 %", ".5 %", "5. %", "1.2.3 %"] {
            assert_eq!(percent(text), Err(Problem::NoNumber), "{text}");
        }
        assert_eq!(percent(&format!("1{} %", "0".repeat(400))), Err(Problem::TooLarge));
        assert_eq!(Percent::try_new(f64::NAN), None);
    }

    #[test]
    fn errors_name_the_value_and_what_is_accepted() {
        assert_eq!(
            "100 MBps".parse::<Rate>().unwrap_err().to_string(),
            "`100 MBps` is not a rate: its unit is not known \
             (accepted: \"1000 Mbit/s\", \"1 Gbit/s\", \"500 kbit/s\", \"1Gbps\", \"100M\")"
        );
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_to_the_same(value in any::<u64>(), shift in 0u32..64, percent in 0.0f64..1e300) {
            let value = value >> shift;
            if let Some(rate) = Rate::from_bits_per_second(value) {
                prop_assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate));
            }
            prop_assert_eq!(ByteSize(value).to_string().parse::<ByteSize>(), Ok(ByteSize(value)));
            let duration = Duration::from_nanos(value);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            let percent = Percent::new(percent);
            prop_assert_eq!(percent.to_string().parse::<Percent>(), Ok(percent));
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "\\PC*|[0-9. ]{0,60}[a-zA-Zµ/%]{0,6}") {
            let _ = (text.parse::<Rate>(), text.parse::<ByteSize>(), text.parse::<Percent>(), parse_duration(&text));
        }
    }
}
