//! The cells of tcptrace's CSV: right-justified in 15 columns, a comma behind.
//!
//! Nearly every cell has this width, so a row is filled in place, 16 bytes a cell; the few that are wider are kept aside
//! and let in at the end. Decimals come out as C's `printf` gives them, from the exact value of the double: by whole
//! numbers where that is certain, by [`format!`] where it is not.

use super::samples::as_f64;

/// Columns of a cell with its comma.
const WIDTH: usize = 16;

/// One cell, as it is printed.
type Cell = [u8; WIDTH];

const ZERO: Cell = *b"              0,";
const ZERO_TENTHS: Cell = *b"            0.0,";

/// Writes the cells of a row, one after the other.
pub(super) struct Cells<'a> {
    cells: std::slice::IterMut<'a, Cell>,
    count: usize,
    /// Cells that do not fit, by place.
    wide: Vec<(usize, Vec<u8>)>,
}

/// Appends a row of `count` cells, which `fill` writes.
#[inline]
pub(super) fn row(out: &mut Vec<u8>, count: usize, fill: impl FnOnce(&mut Cells<'_>)) {
    let start = out.len();
    out.resize(start + count * WIDTH, b' ');
    let (cells, _none) = out[start..].as_chunks_mut();
    let mut cells = Cells { cells: cells.iter_mut(), count, wide: Vec::new() };
    fill(&mut cells);
    debug_assert_eq!(cells.cells.len(), 0, "every cell is written");
    if !cells.wide.is_empty() {
        let wide = cells.wide;
        widen(out, start, wide);
    }
}

/// Puts the wide cells in the places kept for them.
#[cold]
fn widen(out: &mut Vec<u8>, start: usize, wide: Vec<(usize, Vec<u8>)>) {
    let narrow = out.split_off(start);
    let mut from = 0;
    for (at, text) in wide {
        out.extend_from_slice(&narrow[from..at * WIDTH]);
        out.extend_from_slice(&text);
        out.push(b',');
        from = (at + 1) * WIDTH;
    }
    out.extend_from_slice(&narrow[from..]);
}

impl Cells<'_> {
    #[inline]
    fn put(&mut self, cell: Cell) {
        *self.cells.next().expect("a row has so many cells") = cell;
    }

    /// Number of the next cell.
    fn place(&self) -> usize {
        self.count - self.cells.len()
    }

    pub(super) fn text(&mut self, text: &[u8]) {
        let Some(blanks) = (WIDTH - 1).checked_sub(text.len()) else {
            self.wide.push((self.place(), text.to_vec()));
            return self.put(ZERO);
        };
        let mut cell = [b' '; WIDTH];
        cell[blanks..WIDTH - 1].copy_from_slice(text);
        cell[WIDTH - 1] = b',';
        self.put(cell);
    }

    #[inline(always)]
    pub(super) fn number(&mut self, number: u64) {
        match u32::try_from(number) {
            Ok(0) => self.put(ZERO),
            Ok(number @ ..100_000_000) => {
                let mut cell = *b"       00000000,";
                cell[7..15].copy_from_slice(&blanked(eight_digits(number)));
                self.put(cell);
            }
            _ => self.large(number),
        }
    }

    #[cold]
    fn large(&mut self, number: u64) {
        let mut buffer = Vec::with_capacity(20);
        decimal(number, &mut buffer);
        self.text(&buffer);
    }

    #[inline]
    pub(super) fn optional(&mut self, number: Option<u64>) {
        match number {
            Some(number) => self.number(number),
            None => self.text(b"NA"),
        }
    }

    #[inline]
    pub(super) fn pair(&mut self, first: u8, second: u8) {
        if first < 10 && second < 10 {
            let mut cell = *b"            0/0,";
            cell[12] += first;
            cell[14] += second;
            self.put(cell);
        } else {
            self.text(format!("{first}/{second}").as_bytes());
        }
    }

    /// Microseconds as milliseconds with one decimal.
    #[inline]
    pub(super) fn millis(&mut self, micros: u64) {
        if micros > 1 << 40 {
            return self.millis_f64(as_f64(micros));
        }
        let up = if micros % 100 == 50 { is_rounded_up(micros) } else { micros % 100 > 50 };
        self.tenths(micros / 100 + u64::from(up));
    }

    #[inline]
    fn tenths(&mut self, tenths: u64) {
        match u32::try_from(tenths) {
            Ok(0) => self.put(ZERO_TENTHS),
            Ok(tenths @ ..1_000_000_000) => {
                let mut cell = *b"     00000000.0,";
                cell[5..13].copy_from_slice(&blanked(eight_digits(tenths / 10)));
                cell[14] = digit(tenths % 10);
                self.put(cell);
            }
            _ => self.text(format!("{}.{}", tenths / 10, tenths % 10).as_bytes()),
        }
    }

    /// As [`Self::millis`] for any number of microseconds; `NA` where it is none.
    #[inline]
    pub(super) fn millis_f64(&mut self, micros: f64) {
        if micros == 0.0 {
            return self.put(ZERO_TENTHS);
        }
        let millis = micros / 1000.0;
        match rounded(millis * 10.0, 1e13) {
            Some(tenths) => self.tenths(tenths),
            None if millis.is_finite() => self.text(format!("{millis:.1}").as_bytes()),
            None => self.text(b"NA"),
        }
    }

    /// Microseconds as seconds with three decimals.
    #[inline]
    pub(super) fn seconds(&mut self, micros: u64) {
        if micros % 1000 == 500 || micros >= 1 << 40 {
            return self.text(format!("{:.3}", as_f64(micros) / 1e6).as_bytes());
        }
        let millis = (micros + 500) / 1000;
        let digits = eight_digits(u32::try_from(millis % 1000).expect("a remainder of 1000")).to_le_bytes();
        let seconds = u32::try_from(millis / 1000).expect("2^40 µs have no more");
        let mut cell = *b"   00000000.000,";
        cell[3..11].copy_from_slice(&blanked(eight_digits(seconds)));
        cell[12..15].copy_from_slice(&digits[5..]);
        self.put(cell);
    }

    /// The nearest whole number.
    #[inline]
    pub(super) fn whole(&mut self, value: f64) {
        match rounded(value, 1e15) {
            Some(number) => self.number(number),
            None => self.text(format!("{value:.0}").as_bytes()),
        }
    }
}

/// The nearest whole number of a value from 0 up to `limit`, if the value is so far from the middle between two that the
/// error of one multiplication does not matter.
#[inline]
fn rounded(value: f64, limit: f64) -> Option<u64> {
    if !(0.0..limit).contains(&value) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 up to the limit")]
    let whole = value as u64;
    let below = value - as_f64(whole);
    ((below - 0.5).abs() > 1e-3).then_some(whole + u64::from(below > 0.5))
}

/// Does `micros`, which ends in 50, become the larger tenth of a millisecond? Its double, in milliseconds, is above,
/// below, or exactly in the middle, and then the even tenth wins. `micros` is at most 2^40.
#[cold]
fn is_rounded_up(micros: u64) -> bool {
    let bits = (as_f64(micros) / 1000.0).to_bits();
    let mantissa = u128::from(bits & ((1 << 52) - 1) | 1 << 52);
    // The double is mantissa / 2^shift, between 2^-5 and 2^31.
    let shift = 1075 - (bits >> 52);
    match (mantissa * 1000).cmp(&(u128::from(micros) << shift)) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => micros / 100 % 2 == 1,
        std::cmp::Ordering::Greater => true,
    }
}

#[inline]
fn digit(number: u32) -> u8 {
    b'0' + u8::try_from(number).expect("a digit")
}

/// The eight digits of a number below 10^8, the first one in the lowest byte: each step halves all groups at once, a
/// division being a multiplication that is exact for such small numbers.
#[inline]
fn eight_digits(number: u32) -> u64 {
    const ASCII: u64 = 0x3030_3030_3030_3030;
    let fours = u64::from(number / 10_000) | u64::from(number % 10_000) << 32;
    let hundreds = ((fours * 5243) >> 19) & 0x7f_0000_007f;
    let twos = hundreds | (fours - hundreds * 100) << 16;
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    (tens | (twos - tens * 10) << 8) | ASCII
}

/// Bits that the leading zeros among eight digits take; the last digit is none.
#[inline]
fn leading(digits: u64) -> u32 {
    ((digits & 0x0f0f_0f0f_0f0f_0f0f) | 1 << 56).trailing_zeros() / 8 * 8
}

/// With blanks for leading zeros; the last digit stays.
#[inline]
fn blanked(digits: u64) -> [u8; 8] {
    const BLANKS: u64 = 0x1010_1010_1010_1010;
    (digits - (BLANKS & ((1 << leading(digits)) - 1))).to_le_bytes()
}

/// Appends a number's digits.
#[inline]
pub(super) fn decimal(number: u64, out: &mut Vec<u8>) {
    match u32::try_from(number) {
        // Copying a fixed number of bytes and taking some back is quicker than finding out how many to copy.
        Ok(small @ ..100_000_000) => {
            let digits = eight_digits(small);
            let leading = leading(digits);
            out.extend_from_slice(&(digits >> leading).to_le_bytes());
            out.truncate(out.len() - leading as usize / 8);
        }
        _ => long_decimal(number, out),
    }
}

fn long_decimal(number: u64, out: &mut Vec<u8>) {
    decimal(number / 100_000_000, out);
    let rest = u32::try_from(number % 100_000_000).expect("a remainder of 10^8");
    out.extend_from_slice(&eight_digits(rest).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cell(write: impl FnOnce(&mut Cells<'_>)) -> String {
        let mut out = Vec::new();
        row(&mut out, 1, write);
        String::from_utf8(out).expect("ASCII")
    }

    fn padded(text: &str) -> String {
        format!("{text:>15},")
    }

    #[test]
    fn decimals_round_from_the_exact_value_of_the_double() {
        for micros in (0..200_000).chain([1 << 40, (1 << 40) + 1, u64::MAX]) {
            let expected = padded(&format!("{:.1}", as_f64(micros) / 1000.0));
            assert_eq!(cell(|cells| cells.millis(micros)), expected, "{micros}");
            assert_eq!(cell(|cells| cells.millis_f64(as_f64(micros))), expected, "{micros}");
            let expected = padded(&format!("{:.3}", as_f64(micros) / 1e6));
            assert_eq!(cell(|cells| cells.seconds(micros)), expected, "{micros}");
        }
        assert_eq!(cell(|cells| cells.millis_f64(f64::NAN)), padded("NA"));
        assert_eq!(cell(|cells| cells.millis_f64(f64::INFINITY)), padded("NA"));
    }

    proptest! {
        #[test]
        fn ties_and_others_round_as_c_does(hundreds in 0_u64..1 << 40, below in 0_u64..100) {
            for micros in [hundreds / 100 * 100 + 50, hundreds, below * 1000 + 500, hundreds * 1000 + 500] {
                prop_assert_eq!(cell(|cells| cells.millis(micros)), padded(&format!("{:.1}", as_f64(micros) / 1e3)));
                prop_assert_eq!(cell(|cells| cells.seconds(micros)), padded(&format!("{:.3}", as_f64(micros) / 1e6)));
            }
        }

        #[test]
        fn doubles_round_as_c_does(value in 0.0..1e17_f64, scale in 0..17) {
            let value = value / 10_f64.powi(scale);
            prop_assert_eq!(cell(|cells| cells.millis_f64(value)), padded(&format!("{:.1}", value / 1e3)));
            prop_assert_eq!(cell(|cells| cells.whole(value)), padded(&format!("{value:.0}")));
        }

        #[test]
        fn numbers_are_whole(number in any::<u64>(), bits in 0..64) {
            let number = number >> bits;
            prop_assert_eq!(cell(|cells| cells.number(number)), padded(&number.to_string()));
            let mut out = Vec::new();
            decimal(number, &mut out);
            prop_assert_eq!(String::from_utf8(out).expect("ASCII"), number.to_string());
        }
    }

    #[test]
    fn numbers_of_any_width_are_whole() {
        for number in [0, 7, 10, 99, 100, 123_456, 99_999_999, 100_000_000, 1_000_000_007, u64::MAX] {
            assert_eq!(cell(|cells| cells.number(number)), padded(&number.to_string()));
        }
    }

    #[test]
    fn wide_cells_stand_between_the_others() {
        let mut out = Vec::new();
        for _ in 0..2 {
            row(&mut out, 4, |cells| {
                cells.number(u64::MAX);
                cells.pair(1, 200);
                cells.number(10_000_000_000_000_000);
                cells.text(b"x");
            });
        }
        let expected = "18446744073709551615,          1/200,10000000000000000,              x,";
        assert_eq!(String::from_utf8(out).expect("ASCII"), expected.repeat(2));
    }
}
