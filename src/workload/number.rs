//! Numbers in the text of other programs: read strictly or refused.

/// A decimal number, with or without exponent, and nothing else.
///
/// Refused, with the reason as text: separators (`1,234`), units, white space, hexadecimal, `nan`, `inf` and what is
/// too large for a double.
pub(super) fn decimal(text: &str) -> Result<f64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let starts = digits.strip_prefix('.').unwrap_or(digits).starts_with(|c: char| c.is_ascii_digit());
    let allowed = digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    match text.parse::<f64>() {
        Ok(value) if starts && allowed && value.is_finite() => Ok(value),
        Ok(_) if starts && allowed => Err(format!("`{}` is too large", shown(text))),
        _ => Err(format!("`{}` is no number (digits with an optional `.` and exponent, no separators)", shown(text))),
    }
}

/// A whole number of at least 0.
pub(super) fn whole(text: &str) -> Result<u64, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let value = text.parse().ok().filter(|_| digits);
    value.ok_or_else(|| format!("`{}` is no whole number", shown(text)))
}

/// A count as a metric's value. Exact up to 2^53, far beyond any count here.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
pub(super) fn count(value: u64) -> f64 {
    value as f64
}

/// The start of a text that is to be shown in a message.
pub(super) fn shown(text: &str) -> String {
    const LIMIT: usize = 80;
    let mut start: String = text.chars().take(LIMIT).flat_map(char::escape_debug).collect();
    if text.chars().nth(LIMIT).is_some() {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decimals_are_read_or_refused() {
        for (text, value) in [("0", 0.0), ("-1.5", -1.5), ("+2e3", 2000.0), (".5", 0.5), ("5.", 5.0), ("1E-3", 0.001)] {
            assert_eq!(decimal(text), Ok(value), "{text}");
        }
        for text in
            ["", "1,234", "1 234", "1_000", "0x10", "nan", "NaN", "inf", "-inf", "1e999", "12ms", " 1", "e5", "."]
        {
            assert!(decimal(text).is_err(), "{text} was taken for a number");
        }
        assert!(decimal("1,234").unwrap_err().contains("`1,234` is no number"));
    }

    #[test]
    fn whole_numbers_are_read_or_refused() {
        assert_eq!(whole("18446744073709551615"), Ok(u64::MAX));
        for text in ["", "-1", "+1", "1.0", "18446744073709551616", "1 "] {
            assert!(whole(text).is_err(), "{text} was taken for a whole number");
        }
    }

    proptest! {
        #[test]
        fn every_finite_double_survives(value in proptest::num::f64::NORMAL | proptest::num::f64::ZERO) {
            prop_assert_eq!(decimal(&format!("{value:e}")), Ok(value));
        }
    }
}
