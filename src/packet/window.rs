//! The buffer that records are borrowed from: a sliding window over a byte stream.

use std::io::{self, ErrorKind, Read};

/// Small enough to stay in a core's own cache, large enough that system calls do not count.
const CAPACITY: usize = 128 << 10;

/// A sliding window over `source`. It holds what was read and not yet consumed, and grows only as bytes really arrive:
/// a length field that lies cannot make it allocate.
#[derive(Debug)]
pub(super) struct Window<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset of `start` in the stream.
    offset: u64,
}

impl<R: Read> Window<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, buffer: vec![0; CAPACITY], start: 0, end: 0, offset: 0 }
    }

    /// Bytes consumed so far.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The unconsumed bytes at hand.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Tries to have at least `wanted` unconsumed bytes at hand; gives how many there are, fewer only at the end of the
    /// stream.
    #[inline]
    pub(super) fn want(&mut self, wanted: usize) -> io::Result<usize> {
        let have = self.end - self.start;
        if have >= wanted { Ok(have) } else { self.fill(wanted) }
    }

    #[cold]
    fn fill(&mut self, wanted: usize) -> io::Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        while self.end < wanted {
            if self.end == self.buffer.len() {
                let grown = (self.buffer.len() * 2).min(wanted);
                self.buffer.resize(grown, 0);
            }
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(n) => self.end += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(self.end)
    }

    /// Passes over `count` bytes that are at hand; gives them.
    #[inline]
    pub(super) fn take(&mut self, count: usize) -> &[u8] {
        let from = self.start;
        self.start += count;
        self.offset += count as u64;
        &self.buffer[from..self.start]
    }

    /// Passes over `count` bytes, at hand or not; gives how many there were, fewer only at the end of the stream.
    pub(super) fn skip(&mut self, count: u64) -> io::Result<u64> {
        let mut left = count;
        while left > 0 {
            let have = self.want(1)?;
            if have == 0 {
                break;
            }
            let step = usize::try_from(left).map_or(have, |left| left.min(have));
            self.take(step);
            left -= step as u64;
        }
        Ok(count - left)
    }
}
