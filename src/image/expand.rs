//! Decompression of kernels, modules and packages, told apart by their first bytes.

use std::io::{self, Read};

/// Compressed data may follow by more that is not part of it, as in a bzImage: only the first stream is read.
///
/// Data that is not compressed in a known way is given back as it is.
///
/// # Errors
///
/// The data is damaged, or larger than `limit` bytes when expanded.
pub(super) fn expand(data: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    match data {
        [0x1f, 0x8b, ..] => read(flate2::bufread::GzDecoder::new(data), limit),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => read(liblzma::bufread::XzDecoder::new(data), limit),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => read(zstd::Decoder::with_buffer(data)?.single_frame(), limit),
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => lz4_legacy(blocks, limit),
        _ => Ok(data.to_vec()),
    }
}

fn read(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(limit + 1).read_to_end(&mut out)?;
    if out.len() as u64 > limit {
        return Err(too_large(limit));
    }
    Ok(out)
}

fn too_large(limit: u64) -> io::Error {
    io::Error::other(format!("expands to more than {limit} bytes"))
}

/// The old frame format of LZ4 that the kernel uses: blocks of at most 8 MiB, each behind its compressed length.
///
/// Source: lz4 1.9, `doc/lz4_Frame_format.md`, "Legacy frame". It has no end mark: in a kernel the expanded length
/// (4 bytes) follows the last block, which is too short for another block.
fn lz4_legacy(mut rest: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut out = Vec::new();
    let mut block = vec![0; BLOCK];
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((packed, after)) = after.split_at_checked(length).filter(|_| length > 0) else { break };
        let got = lz4_flex::block::decompress_into(packed, &mut block).map_err(io::Error::other)?;
        out.extend_from_slice(&block[..got]);
        if out.len() as u64 > limit {
            return Err(too_large(limit));
        }
        rest = after;
        // Only the last block is not full.
        if got < BLOCK {
            break;
        }
    }
    if out.is_empty() { Err(io::Error::other("an LZ4 frame without a whole block")) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::expand;

    fn text() -> Vec<u8> {
        (0..100_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    /// Followed by something else, as in a bzImage.
    fn check(mut packed: Vec<u8>) {
        packed.extend_from_slice(&400_000_u32.to_le_bytes());
        assert!(expand(&packed, 1 << 20).unwrap() == text());
        let error = expand(&packed, 1000).unwrap_err().to_string();
        assert!(error.contains("more than 1000 bytes"), "{error}");
        packed.truncate(packed.len() / 2);
        assert!(expand(&packed, 1 << 20).is_err());
    }

    #[test]
    fn gzip() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&text()).unwrap();
        check(packer.finish().unwrap());
    }

    #[test]
    fn xz() {
        let mut packed = Vec::new();
        liblzma::bufread::XzEncoder::new(&text()[..], 1).read_to_end(&mut packed).unwrap();
        check(packed);
    }

    #[test]
    fn zstd() {
        check(zstd::encode_all(&text()[..], 1).unwrap());
    }

    #[test]
    fn lz4() {
        let block = lz4_flex::block::compress(&text());
        let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
        packed.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
        packed.extend_from_slice(&block);
        check(packed);
    }

    #[test]
    fn what_is_not_compressed_stays() {
        assert_eq!(expand(b"\x7fELF", 1).unwrap(), b"\x7fELF");
    }
}
