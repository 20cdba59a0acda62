//! Numbers and foreign text for people.

use crate::analysis::Interval;

/// A column of numbers with one unit and one number of decimals, so that points stand below each other.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Column {
    unit: String,
    factor: f64,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Decimals(usize),
    Scientific,
}

/// Units that take a decimal prefix; `k1/s` would not be read as anything.
const PREFIXABLE: [&str; 4] = ["s", "B", "bit/s", "B/s"];

const PREFIXES: [(f64, &str); 7] =
    [(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")];

impl Column {
    /// Chooses the form for means and their standard deviations: two digits of the smallest spread, at most six decimals;
    /// four digits of the largest mean where no spread is known.
    pub(super) fn of(unit: &str, rows: impl Iterator<Item = (Option<f64>, Option<f64>)>) -> Self {
        let (mut largest, mut spread) = (0.0_f64, f64::INFINITY);
        for (mean, sd) in rows {
            largest = largest.max(mean.map_or(0.0, f64::abs));
            spread = spread.min(sd.filter(|&sd| sd > 0.0).unwrap_or(f64::INFINITY));
        }
        let (factor, prefix) = scale(unit, largest);
        let unit = format!("{prefix}{unit}");
        let (largest, spread) = (largest / factor, spread / factor);
        if largest >= 1e9 || (largest > 0.0 && largest < 1e-3) {
            return Self { unit, factor, form: Form::Scientific };
        }
        let digits = if spread.is_finite() { 1 - exponent(spread) } else { 3 - exponent(largest) };
        Self { unit, factor, form: Form::Decimals(usize::try_from(digits.clamp(0, 6)).unwrap_or(0)) }
    }

    /// Unit with its prefix.
    pub(super) fn unit(&self) -> &str {
        &self.unit
    }

    /// A number in the column's unit.
    pub(super) fn scaled(&self, value: f64) -> f64 {
        value / self.factor
    }

    /// A number of the column; a dash for none.
    pub(super) fn show(&self, value: Option<f64>) -> String {
        match (value, self.form) {
            (None, _) => "–".to_owned(),
            (Some(x), Form::Decimals(decimals)) => format!("{:.decimals$}", x / self.factor),
            (Some(x), Form::Scientific) => format!("{:.3e}", x / self.factor),
        }
    }

    /// An interval of the column; a dash for none.
    pub(super) fn show_interval(&self, interval: Option<Interval>) -> String {
        interval
            .map_or_else(|| "–".to_owned(), |ci| format!("{} … {}", self.show(Some(ci.low)), self.show(Some(ci.high))))
    }
}

fn scale(unit: &str, largest: f64) -> (f64, &'static str) {
    if !PREFIXABLE.contains(&unit) || largest == 0.0 {
        return (1.0, "");
    }
    // Parts of a byte do not exist.
    let small = unit == "s";
    let fits = |&&(factor, _): &&(f64, &str)| largest >= factor && (small || factor >= 1.0) && !(small && factor > 1.0);
    PREFIXES.iter().find(fits).copied().unwrap_or((1.0, ""))
}

/// Power of ten of the first digit; 0 for zero.
#[expect(clippy::cast_possible_truncation, reason = "the exponent of a double lies within -324..=308")]
fn exponent(x: f64) -> i32 {
    if x > 0.0 && x.is_finite() { x.log10().floor() as i32 } else { 0 }
}

/// Text from elsewhere, without characters that would move a terminal's cursor or hide what follows.
pub(super) fn escape(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().flat_map(|c| if hidden(c) { c.escape_unicode().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(unit: &str, rows: &[(f64, f64)]) -> (String, Vec<String>) {
        let column = Column::of(unit, rows.iter().map(|&(mean, sd)| (Some(mean), Some(sd).filter(|&sd| sd > 0.0))));
        (column.unit().to_owned(), rows.iter().map(|&(mean, _)| column.show(Some(mean))).collect())
    }

    #[test]
    fn digits_follow_the_spread() {
        assert_eq!(
            shown("1/s", &[(1234.567, 3.21), (98.7, 12.0)]),
            ("1/s".into(), vec!["1234.6".into(), "98.7".into()])
        );
        assert_eq!(shown("1/s", &[(1_234_567.8, 321.0)]).1, ["1234568"]);
        assert_eq!(shown("s", &[(0.001_234_5, 0.000_012)]), ("ms".into(), vec!["1.234".into()]));
        assert_eq!(shown("bit/s", &[(9.4e8, 1e6)]), ("Mbit/s".into(), vec!["940.0".into()]));
        assert_eq!(shown("1", &[(0.5, 0.0)]).1, ["0.5000"]);
        assert_eq!(shown("1", &[(1e-7, 1e-9)]).1, ["1.000e-7"]);
        assert_eq!(shown("1", &[(0.0, 0.0)]).1, ["0.000"]);
        assert_eq!(Column::of("s", std::iter::empty()).show(None), "–");
    }

    #[test]
    fn escapes_cannot_reach_the_terminal() {
        assert_eq!(escape("a\u{1b}[31mb\u{202e}"), "a\\u{1b}[31mb\\u{202e}");
        assert_eq!(escape("grün"), "grün");
    }
}
