//! Hash and length of what is written.

use std::io;

use sha2::{Digest as _, Sha256};

/// Passes bytes on, and counts and hashes them.
#[derive(Debug)]
pub(super) struct Hashed<W> {
    inner: W,
    sum: Sha256,
    bytes: u64,
}

impl<W: io::Write> Hashed<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, sum: Sha256::new(), bytes: 0 }
    }

    /// Writes out what is held back; SHA-256 in hexadecimal digits, and the number of bytes.
    pub(super) fn finish(mut self) -> io::Result<(String, u64)> {
        self.inner.flush()?;
        Ok((hex(&self.sum.finalize()), self.bytes))
    }
}

impl<W: io::Write> io::Write for Hashed<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.sum.update(&data[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// SHA-256 of several parts, each told apart from the next, in hexadecimal digits.
pub(super) fn of_parts<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut sum = Sha256::new();
    for part in parts {
        sum.update((part.len() as u64).to_le_bytes());
        sum.update(part.as_bytes());
    }
    hex(&sum.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
