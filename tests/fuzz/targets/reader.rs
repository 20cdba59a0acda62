//! Any bytes as a capture file, plain or compressed; and again in small chunks, which must not matter.
#![no_main]

use std::io::{self, Read};

use libfuzzer_sys::fuzz_target;
use vptest::packet::{End, Reader, decoded};

struct Chunks<'a>(&'a [u8], usize);

impl Read for Chunks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(buffer.len()).min(self.0.len());
        let (now, rest) = self.0.split_at(count);
        buffer[..count].copy_from_slice(now);
        (self.0, self.1) = (rest, self.1 % 7 + 1);
        Ok(count)
    }
}

fn read(source: impl Read) -> Option<(u64, u64, Option<End>)> {
    let mut reader = Reader::open(source).ok()?;
    let (mut records, mut bytes) = (0, 0);
    while let Some(record) = reader.next() {
        assert!(record.data.len() <= 262_144);
        records += 1;
        bytes += record.data.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    }
    Some((records, bytes, reader.end().cloned()))
}

fuzz_target!(|data: &[u8]| {
    assert_eq!(read(data), read(Chunks(data, 1)));
    if let Ok(source) = decoded(data) {
        // Compressed data may expand a thousandfold.
        read(source.take(4 << 20));
    }
});
