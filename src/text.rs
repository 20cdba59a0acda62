//! Texts that come from elsewhere – a guest, a node, a program – made fit to be stored and shown. Pure.

/// At most `limit` characters of a text, in one line: without control characters and without those that turn the
/// direction of what follows.
pub fn printable(text: &str, limit: usize) -> String {
    text.chars().filter(|c| !c.is_control() && !turns_direction(*c)).take(limit).collect()
}

/// As [`printable`] for bytes that may be no UTF-8.
pub fn printable_bytes(bytes: &[u8], limit: usize) -> String {
    printable(&String::from_utf8_lossy(bytes), limit)
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Source: Unicode UAX #9, section 2.
const fn turns_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_fool_a_reader_is_left_out() {
        assert_eq!(printable("a\x1b[31mb\r\nc\u{202e}d\u{9b}e", 100), "a[31mbcde");
        assert_eq!(printable("äöü", 2), "äö");
        assert_eq!(printable_bytes(b"a\xff\0b", 10), "a\u{fffd}b");
    }
}
