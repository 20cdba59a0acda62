//! TCP options, read the way tcptrace 6.6.7 reads them.

/// One SACK block: octets from `left` up to, but not including, `right`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SackBlock {
    /// First octet received.
    pub left: u32,
    /// First octet after the block.
    pub right: u32,
}

/// What the options of one segment say. Of an option that occurs twice the last occurrence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpOptions {
    /// Maximum segment size; `None` also for 65535, and values from 32768 on carry a sign extension: both as tcptrace
    /// has it.
    pub mss: Option<u32>,
    /// Window-scale shift, unlimited; `None` also for 255.
    pub window_scale: Option<u8>,
    /// Is SACK permitted?
    pub sack_permitted: bool,
    /// Is there a time stamp?
    pub timestamp: bool,
    /// SACK blocks, a cut one at the end included; at most 10, `None` without the option.
    pub sack_blocks: Option<u8>,
    /// The first two of them, as far as they are there.
    pub first_blocks: [SackBlock; 2],
}

/// The usual options of a segment after the handshake: two paddings and a time stamp.
const ONLY_TIMESTAMP: [u8; 4] = [1, 1, 8, 10];
const MAX_BLOCKS: u8 = 10;

impl TcpOptions {
    /// Is there none but perhaps a time stamp?
    #[inline]
    pub(crate) const fn is_plain(&self) -> bool {
        self.mss.is_none() & self.window_scale.is_none() & !self.sack_permitted & self.sack_blocks.is_none()
    }

    /// Reads options from `packet[from..to]`, which may reach beyond the packet's captured `last` byte.
    ///
    /// Lengths are trusted as far as the option begins and ends within `last`: kind 0 does not end the scan and
    /// an option may run on into the payload.
    #[inline]
    pub(super) fn read(&mut self, packet: &[u8], from: usize, to: usize, last: usize) {
        *self = Self::default();
        if to <= from {
            return;
        }
        self.timestamp = to == from + 12 && from + 11 <= last && packet[from..].starts_with(&ONLY_TIMESTAMP);
        if !self.timestamp {
            self.scan(packet, from, to, last);
        }
    }

    fn scan(&mut self, packet: &[u8], from: usize, to: usize, last: usize) {
        let mut at = from;
        while at < to && at <= last {
            let Some(&kind) = packet.get(at) else { break };
            if kind <= 1 {
                at += 1;
                continue;
            }
            // A length byte after the captured end is unknown, and so is the rest.
            let length = packet.get(at + 1).map_or(0, |&l| usize::from(l));
            if length == 0 || at + length - 1 > last {
                break;
            }
            self.take(packet, kind, at, length, last);
            at += length;
        }
    }

    fn take(&mut self, packet: &[u8], kind: u8, at: usize, length: usize, last: usize) {
        match kind {
            2 => {
                if let Some(raw) = packet.get(at + 2..).and_then(<[u8]>::first_chunk) {
                    let value = i32::from(i16::from_be_bytes(*raw));
                    self.mss = (value != -1).then_some(value.cast_unsigned());
                }
            }
            3 => {
                if let Some(&shift) = packet.get(at + 2) {
                    self.window_scale = (shift != 255).then_some(shift);
                }
            }
            4 => self.sack_permitted = true,
            5 => self.take_sack(packet, at + 2, at + length, last),
            8 => self.timestamp = true,
            _ => {}
        }
    }

    fn take_sack(&mut self, packet: &[u8], from: usize, end: usize, last: usize) {
        let mut count = 0;
        for at in (from..end).step_by(8) {
            if at + 8 > last + 1 {
                break;
            }
            if let Some(block) = self.first_blocks.get_mut(usize::from(count)) {
                let number = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().expect("four bytes"));
                *block = SackBlock { left: number(at), right: number(at + 4) };
            }
            count = (count + 1).min(MAX_BLOCKS);
        }
        self.sack_blocks = Some(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: TcpOptions) {
        let mut found = TcpOptions::default();
        found.read(bytes, 0, bytes.len(), bytes.len() - 1);
        assert_eq!(found, expected, "{bytes:02x?}");
    }

    #[test]
    fn usual_options() {
        let none = TcpOptions::default();
        check(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], TcpOptions { timestamp: true, ..none });
        check(
            &[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7],
            TcpOptions { mss: Some(1460), sack_permitted: true, timestamp: true, window_scale: Some(7), ..none },
        );
        let blocks = [SackBlock { left: 5, right: 9 }, SackBlock::default()];
        check(
            &[1, 1, 5, 10, 0, 0, 0, 5, 0, 0, 0, 9],
            TcpOptions { sack_blocks: Some(1), first_blocks: blocks, ..none },
        );
    }

    #[test]
    fn odd_options_as_tcptrace_reads_them() {
        let none = TcpOptions::default();
        check(&[0, 0, 4, 2], TcpOptions { sack_permitted: true, ..none });
        check(&[2, 4, 0xff, 0xff], none);
        check(&[2, 4, 0x9c, 0x40], TcpOptions { mss: Some(40000 + 4_294_901_760), ..none });
        check(&[3, 3, 255], none);
        check(&[3, 3, 4, 3, 3, 255], none);
        check(&[5, 2], TcpOptions { sack_blocks: Some(0), ..none });
        check(&[4, 0, 4, 2], none.with_sack_permitted(false));
        check(&[4, 200], none);
        check(&[8], none);
    }

    impl TcpOptions {
        fn with_sack_permitted(self, sack_permitted: bool) -> Self {
            Self { sack_permitted, ..self }
        }
    }
}
