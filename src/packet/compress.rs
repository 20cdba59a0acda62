//! Compressed captures, recognised by content rather than by name.

use std::io::{self, BufReader, Cursor, Read};

use flate2::read::MultiGzDecoder;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

type Rest<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// A stream with its compression, if any, taken off. The decoders' own memory is bounded: gzip needs 64 KiB, a zstd
/// frame that asks for a window above 128 MiB is refused.
pub enum Decoded<R: Read> {
    /// As it came.
    Plain(Rest<R>),
    /// One or several gzip members.
    Gzip(MultiGzDecoder<Rest<R>>),
    /// Zstandard frames.
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Rest<R>>>),
}

/// Looks at the first bytes of `source` and takes off gzip or zstd compression.
///
/// # Errors
/// Only what reading the first bytes gives; damaged compressed data shows while reading.
pub fn decoded<R: Read>(mut source: R) -> io::Result<Decoded<R>> {
    let mut head = Vec::with_capacity(ZSTD.len());
    source.by_ref().take(ZSTD.len() as u64).read_to_end(&mut head)?;
    let (gzip, zstd) = (head.starts_with(&GZIP), head.starts_with(&ZSTD));
    let rest = Cursor::new(head).chain(source);
    if gzip {
        Ok(Decoded::Gzip(MultiGzDecoder::new(rest)))
    } else if zstd {
        zstd::stream::read::Decoder::new(rest).map(Decoded::Zstd)
    } else {
        Ok(Decoded::Plain(rest))
    }
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(source) => source.read(buffer),
            Self::Zstd(source) => source.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        decoded(bytes).and_then(|mut d| d.read_to_end(&mut out)).expect("sound input");
        out
    }

    #[test]
    fn every_form_gives_the_same_bytes() {
        let text = b"capture".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).expect("memory");
        let mut gzip = gzip.finish().expect("memory");
        let zstd = zstd::encode_all(&text[..], 1).expect("memory");
        assert_eq!(all(&text), text);
        assert_eq!(all(&gzip), text);
        assert_eq!(all(&zstd), text);
        gzip.extend(gzip.clone());
        assert_eq!(all(&gzip), text.repeat(2), "gzip members follow each other");
        assert_eq!(all(&text[..2]), text[..2], "shorter than any magic");
    }
}
