//! Which iterations a command line names: `7`, `1-100,205`, `990-`.

use crate::ids::IterationNumber;

/// The text names no iterations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSelection {
    /// It cannot be read.
    #[error("`{0}` is no iteration: give numbers and ranges as in `7`, `1-100,205` or `990-`")]
    Form(String),
    /// A number is beyond the plan.
    #[error("there is no iteration {number}: the plan has 1 to {last}")]
    Beyond {
        /// What was asked for.
        number: u64,
        /// What there is.
        last: u32,
    },
    /// A range runs backwards.
    #[error("the range `{0}` runs backwards")]
    Backwards(String),
}

/// The numbers that `text` names among 1 to `last`, in the order of the text, each once.
pub fn select(text: &str, last: u32) -> Result<Vec<IterationNumber>, BadSelection> {
    let mut seen = std::collections::HashSet::new();
    let mut chosen = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (from, to) = range(part, last)?;
        chosen.extend((from..=to).filter(|&n| seen.insert(n)).map(IterationNumber));
    }
    Ok(chosen)
}

fn range(part: &str, last: u32) -> Result<(u32, u32), BadSelection> {
    let bad = || BadSelection::Form(part.to_owned());
    let number = |digits: &str| -> Result<u32, BadSelection> {
        let digits = digits.trim();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let number = digits.parse::<u64>().map_err(|_| bad())?;
        let known = u32::try_from(number).ok().filter(|n| (1..=last).contains(n));
        known.ok_or(BadSelection::Beyond { number, last })
    };
    let (from, to) = match part.split_once('-') {
        None => (number(part)?, number(part)?),
        Some((from, "")) => (number(from)?, last),
        Some((from, to)) => (number(from)?, number(to)?),
    };
    if from > to { Err(BadSelection::Backwards(part.to_owned())) } else { Ok((from, to)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str, last: u32) -> Result<Vec<u32>, BadSelection> {
        Ok(select(text, last)?.into_iter().map(|n| n.0).collect())
    }

    #[test]
    fn numbers_and_ranges() {
        assert_eq!(numbers("7", 10).unwrap(), [7]);
        assert_eq!(numbers("1-3,9", 10).unwrap(), [1, 2, 3, 9]);
        assert_eq!(numbers(" 8- , 1", 10).unwrap(), [8, 9, 10, 1]);
        assert_eq!(numbers("3,1-4,3", 10).unwrap(), [3, 1, 2, 4]);
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        for bad in ["", "x", "1,,2", "-3", "1-2-3", "+1", "1.5", "99999999999999999999"] {
            assert_eq!(numbers(bad, 10), Err(BadSelection::Form(bad.split(',').nth(1).unwrap_or(bad).to_owned())), "{bad}");
        }
        assert_eq!(numbers("0", 10), Err(BadSelection::Beyond { number: 0, last: 10 }));
        assert_eq!(numbers("5-11", 10), Err(BadSelection::Beyond { number: 11, last: 10 }));
        assert_eq!(numbers("5-4", 10), Err(BadSelection::Backwards("5-4".to_owned())));
    }
}
