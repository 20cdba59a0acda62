//! Makes captures of TCP as it should never be: for comparing two programs, and for hunting panics.

#![expect(clippy::cast_possible_truncation, reason = "made-up numbers may as well be cut")]

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A seeded source of choices.
pub(crate) struct Dice(ChaCha8Rng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// In `0..bound`.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    pub(crate) fn bits(&mut self) -> u32 {
        self.0.next_u32()
    }
}

/// What a capture is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Conversations that make sense, with loss, reordering and repeats.
    Conversation,
    /// Any flags, numbers near the edges of everything.
    Wild,
    /// As wild, with many duplicate ACKs and SACK blocks.
    Acks,
    /// Sequence numbers run through all quarters.
    Wrap,
    /// Header lengths that lie, records cut anywhere.
    Lengths,
    /// Option bytes at random.
    Options,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Conversation, Self::Wild, Self::Acks, Self::Wrap, Self::Lengths, Self::Options];
}

struct End {
    address: u8,
    port: u16,
    next: u32,
    isn: u32,
    seen: u32,
}

struct Maker {
    dice: Dice,
    kind: Kind,
    micros: u64,
    v6: bool,
    link: u32,
    file: Vec<u8>,
    snaplen: u32,
    nanos: bool,
    big: bool,
}

const LINKS: [u32; 14] = [1, 1, 1, 1, 1, 1, 0, 101, 113, 104, 105, 119, 8, 12];

/// One pcap file of about `packets` packets.
pub(crate) fn capture(seed: u64, kind: Kind, packets: u32) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let v6 = dice.once_in(4) && kind != Kind::Options;
    let (link, nanos, big) = (dice.pick(&LINKS), dice.once_in(4), dice.once_in(4));
    let snaplen = if dice.once_in(5) { 60 + dice.below(60) + if v6 { 20 } else { 0 } } else { 65535 };
    let mut maker = Maker { micros: start(&mut dice), dice, kind, v6, link, file: Vec::new(), snaplen, nanos, big };
    maker.header();
    maker.packets(packets);
    maker.file
}

fn start(dice: &mut Dice) -> u64 {
    if dice.once_in(12) { u64::from(dice.below(3_000_000)) } else { 1_700_000_000_000_000 + u64::from(dice.bits()) }
}

impl Maker {
    fn word(&mut self, value: u32) {
        let bytes = if self.big { value.to_be_bytes() } else { value.to_le_bytes() };
        self.file.extend(bytes);
    }

    fn header(&mut self) {
        self.word(if self.nanos { 0xa1b2_3c4d } else { 0xa1b2_c3d4 });
        let version = if self.big { [0, 2, 0, 4] } else { [2, 0, 4, 0] };
        self.file.extend(version);
        for value in [0, 0, self.snaplen, self.link] {
            self.word(value);
        }
    }

    fn packets(&mut self, count: u32) {
        let pairs = 1 + self.dice.below(4);
        let mut ends: Vec<[End; 2]> = (0..pairs).map(|pair| self.pair(pair)).collect();
        for _ in 0..count {
            self.pass_time();
            let pair = self.dice.below(pairs) as usize;
            let way = self.dice.below(2) as usize;
            if self.dice.once_in(150) {
                self.restart(&mut ends[pair]);
            }
            let [a, b] = &mut ends[pair];
            let (from, to) = if way == 0 { (a, b) } else { (b, a) };
            self.packet(from, to);
        }
    }

    fn pair(&mut self, pair: u32) -> [End; 2] {
        // Addresses and ports such that no two connections share tcptrace's hash.
        let base = (pair * 8) as u8;
        let ports = [1000 + pair as u16 * 37, 80 + pair as u16 * 411];
        [1, 2].map(|n| {
            let isn = self.number();
            End { address: base + n, port: ports[n as usize - 1], next: isn, isn, seen: 0 }
        })
    }

    fn restart(&mut self, ends: &mut [End; 2]) {
        for end in ends {
            end.isn = self.number();
            end.next = end.isn;
        }
    }

    fn number(&mut self) -> u32 {
        const EDGES: [u32; 8] = [0, 1, 0x3fff_ff00, 0x4000_0000, 0x7fff_fff0, 0x8000_0000, 0xbfff_ff80, 0xffff_f000];
        if self.dice.once_in(2) { self.dice.pick(&EDGES) } else { self.dice.bits() }
    }

    fn pass_time(&mut self) {
        let step = match self.dice.below(400) {
            0 => 240_000_000,
            1 => 240_000_001,
            2 => 100_000_000,
            3..20 => 0,
            20..200 => u64::from(self.dice.below(1000)),
            _ => u64::from(self.dice.below(60_000)),
        };
        self.micros += step;
        if self.dice.once_in(100) {
            self.micros = self.micros.saturating_sub(u64::from(self.dice.below(2_000_000)));
        }
    }

    fn packet(&mut self, from: &mut End, to: &mut End) {
        let flags = self.flags(from, to);
        let payload = self.payload();
        let seq = self.seq(from, flags);
        let ack = self.ack(from, to);
        if !matches!(self.kind, Kind::Wild | Kind::Lengths) || self.dice.once_in(2) {
            let end = seq.wrapping_add(payload).wrapping_add(u32::from(flags & 1 != 0) + u32::from(flags & 2 != 0));
            if end.wrapping_sub(from.next) < 1 << 31 {
                from.next = end;
            }
        }
        if self.dice.once_in(12) && self.kind == Kind::Conversation {
            return; // lost before the capture
        }
        from.seen = ack;
        let window: u16 = if self.dice.once_in(25) { 0 } else { self.dice.pick(&[1, 500, 8192, 65535]) };
        let options = self.options(flags, to.next);
        let urgent = self.dice.below(1000) as u16;
        let mut tcp = Vec::new();
        tcp.extend(from.port.to_be_bytes());
        tcp.extend(to.port.to_be_bytes());
        tcp.extend(seq.to_be_bytes());
        tcp.extend(ack.to_be_bytes());
        let mut offset = (5 + options.len() / 4) as u8;
        if self.kind == Kind::Lengths && self.dice.once_in(6) {
            offset = self.dice.below(16) as u8;
        }
        tcp.extend([offset << 4, flags]);
        tcp.extend(window.to_be_bytes());
        tcp.extend([0, 0]);
        tcp.extend(urgent.to_be_bytes());
        tcp.extend(options);
        tcp.resize(tcp.len() + payload as usize, 0x2e);
        let ip = if self.v6 { self.ipv6(from, to, tcp) } else { self.ipv4(from, to, tcp) };
        self.record(&ip);
    }

    fn flags(&mut self, from: &End, to: &End) -> u8 {
        if self.kind == Kind::Conversation || self.kind == Kind::Wrap {
            if from.next == from.isn && !self.dice.once_in(20) {
                return if to.next == to.isn { 0x02 } else { 0x12 };
            }
            return match self.dice.below(120) {
                0..2 => 0x11,
                2 => 0x04,
                3 => 0x14,
                4 => 0x02,
                5..9 => 0x38,
                9..40 => 0x18,
                _ => 0x10,
            };
        }
        if self.dice.once_in(3) {
            self.dice.bits() as u8 & 0x3f
        } else {
            self.dice.pick(&[0x10, 0x10, 0x18, 0x02, 0x11])
        }
    }

    fn payload(&mut self) -> u32 {
        if self.dice.once_in(2) { 0 } else { self.dice.pick(&[1, 1, 2, 100, 536, 1448, 1460, 3000]) }
    }

    fn seq(&mut self, from: &End, flags: u8) -> u32 {
        if flags & 2 != 0 && !self.dice.once_in(10) {
            return from.isn;
        }
        match self.dice.below(20) {
            0 | 1 => from.next.wrapping_sub(self.dice.below(6000)),
            2 => from.next.wrapping_add(self.dice.below(6000)),
            3 if self.kind == Kind::Wild => self.number(),
            4 if self.kind == Kind::Wrap => from.next.wrapping_add(self.dice.below(0x3000_0000)),
            5 if self.kind == Kind::Wild => from.next.wrapping_add(self.dice.below(0x4000_0000)),
            6 => from.next.wrapping_sub(1),
            _ => from.next,
        }
    }

    fn ack(&mut self, from: &End, to: &End) -> u32 {
        match self.dice.below(if self.kind == Kind::Acks { 8 } else { 20 }) {
            0 | 1 => from.seen,
            2 => to.next.wrapping_sub(self.dice.below(8000)),
            3 if self.kind == Kind::Wild => self.number(),
            4 => to.next.wrapping_add(self.dice.below(3000)),
            5 => to.isn.wrapping_add(1),
            _ => to.next,
        }
    }

    fn options(&mut self, flags: u8, other: u32) -> Vec<u8> {
        if self.kind == Kind::Options {
            let mut bytes: Vec<u8> = Vec::new();
            for _ in 0..self.dice.below(10) * 4 {
                let byte = self.dice.bits() as u8;
                bytes.push(self.dice.pick(&[0, 1, 2, 3, 4, 5, 8, 10, 2, 3, 4, 18, 255, byte]));
            }
            return bytes;
        }
        let mut bytes = Vec::new();
        if flags & 2 != 0 || self.dice.once_in(40) {
            if self.dice.once_in(2) {
                bytes.extend([2, 4, 5, 180]);
            }
            if self.dice.once_in(2) {
                bytes.extend([1, 3, 3, self.dice.pick(&[0, 2, 7, 14, 60, 255])]);
            }
            if !self.dice.once_in(3) {
                bytes.extend([1, 1, 4, 2]);
            }
        }
        if self.dice.once_in(3) {
            bytes.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        }
        if self.dice.once_in(if self.kind == Kind::Acks { 2 } else { 12 }) {
            let room = (40 - bytes.len() - 4) / 8;
            let blocks = self.dice.below(4).min(room as u32);
            bytes.extend([1, 1, 5, 2 + 8 * blocks as u8]);
            for _ in 0..blocks {
                let left = other.wrapping_sub(self.dice.below(5000)).wrapping_add(self.dice.below(3000));
                bytes.extend(left.to_be_bytes());
                bytes.extend(left.wrapping_add(self.dice.below(3000)).to_be_bytes());
            }
        }
        bytes
    }

    fn ipv4(&mut self, from: &End, to: &End, tcp: Vec<u8>) -> Vec<u8> {
        let lying = self.kind == Kind::Lengths;
        let extra = if self.dice.once_in(10) { 8 } else { 0 };
        let mut words = (20 + extra) / 4;
        let mut total = (20 + extra + tcp.len()) as u16;
        if lying && self.dice.once_in(8) {
            total = self.dice.pick(&[0, 20, 39, 40, total.wrapping_sub(1), total + 7, total.wrapping_sub(30), 65535]);
        }
        if lying && self.dice.once_in(20) {
            words = 5 + self.dice.below(11) as usize;
        }
        let fragment = if self.dice.once_in(60) { self.dice.pick(&[0x2000, 1, 0x2001, 0x4000]) } else { 0_u16 };
        let id = self.dice.pick(&[0, 1, 2, 3, self.dice_id()]);
        let mut ip = vec![0x40 | words as u8, 0];
        ip.extend(total.to_be_bytes());
        ip.extend(id.to_be_bytes());
        ip.extend(fragment.to_be_bytes());
        ip.extend([64, 6, 0, 0, 10, 0, 0, from.address, 10, 0, 0, to.address]);
        ip.resize(20 + extra, 1);
        ip.extend(tcp);
        if self.kind == Kind::Options || self.dice.once_in(5) {
            ip.extend([self.dice.bits() as u8; 12]); // padding
        }
        ip
    }

    fn dice_id(&self) -> u16 {
        (self.file.len() & 0xffff) as u16
    }

    fn ipv6(&mut self, from: &End, to: &End, tcp: Vec<u8>) -> Vec<u8> {
        let mut extension = Vec::new();
        let mut next = 6;
        if self.dice.once_in(8) {
            extension.extend([6, 0, 1, 4, 0, 0, 0, 0]);
            next = self.dice.pick(&[0, 43, 60]);
        }
        let mut length = (extension.len() + tcp.len()) as u16;
        if self.kind == Kind::Lengths && self.dice.once_in(8) {
            length = self.dice.pick(&[0, 20, length.wrapping_sub(9), length + 3]);
        }
        let mut ip = vec![0x60, 0, 0, 0];
        ip.extend(length.to_be_bytes());
        ip.extend([next, 64]);
        for address in [from.address, to.address] {
            ip.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, address]);
        }
        ip.extend(extension);
        ip.extend(tcp);
        ip
    }

    fn record(&mut self, ip: &[u8]) {
        let kind: [u8; 2] = if self.v6 { [0x86, 0xdd] } else { [8, 0] };
        let mut frame = vec![
            0_u8;
            match self.link {
                0 | 104 => 4,
                1 => 14,
                105 => 32,
                113 | 8 => 16,
                119 => 176,
                _ => 0,
            }
        ];
        if self.link == 1 {
            frame[12..14].copy_from_slice(&kind);
            if self.dice.once_in(30) {
                frame[12..14].copy_from_slice(&[0x81, 0]);
                frame.extend([0, 7]);
                frame.extend(kind);
            }
        }
        frame.extend(ip);
        let wire = frame.len() as u32;
        let least = frame.len() - ip.len() + if self.v6 { 60 } else { 40 };
        let mut kept = self.snaplen as usize;
        if self.kind == Kind::Lengths && self.dice.once_in(10) {
            kept = least + self.dice.below(40) as usize;
        }
        if kept < frame.len() {
            // An option cut after its kind is read from whatever the buffer holds: leave none to cut.
            let options = frame.len().min(least - 20)..frame.len().min(least + 56);
            frame[options].fill(1);
            frame.truncate(kept.max(if kept < self.snaplen as usize { 0 } else { frame.len() }));
        }
        let fraction = (self.micros % 1_000_000) as u32;
        self.word((self.micros / 1_000_000) as u32);
        self.word(if self.nanos { fraction * 1000 + 999 } else { fraction });
        self.word(frame.len() as u32);
        self.word(wire);
        self.file.extend(frame);
    }
}
