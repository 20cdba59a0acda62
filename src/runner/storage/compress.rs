//! Kept files in zstd: written beside, durable, then in the place of the original.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use super::SMALL_BYTES;

/// How compressed files begin: zstd, gzip, xz, bzip2. Once more would only hide them from their readers.
const COMPRESSED: [&[u8]; 4] = [&[0x28, 0xb5, 0x2f, 0xfd], &[0x1f, 0x8b], b"\xfd7zXZ\0", b"BZh"];

/// A file that was compressed.
#[derive(Debug)]
pub(super) struct Compressed {
    /// Its name now: `.zst` behind the one it had.
    pub(super) path: PathBuf,
    /// Bytes of the original.
    pub(super) before: u64,
    /// Bytes now.
    pub(super) after: u64,
}

/// Replaces a file by its compressed form; `None` for one that is small, compressed already or no regular file.
///
/// # Errors
/// Then the original is there, and nothing else. A file that has the new name already stays as well.
pub(super) fn compress(path: &Path, level: i32) -> io::Result<Option<Compressed>> {
    let metadata = path.symlink_metadata()?;
    if !metadata.is_file() || metadata.len() <= SMALL_BYTES {
        return Ok(None);
    }
    let mut source = File::open(path)?;
    if is_compressed(&mut source)? {
        return Ok(None);
    }
    let target = with_suffix(path);
    if target.symlink_metadata().is_ok() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there already", target.display())));
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    let beside = tempfile::Builder::new().prefix(".").suffix(".zst.tmp").tempfile_in(directory)?;
    let mut encoder = zstd::Encoder::new(BufWriter::with_capacity(1 << 17, beside.as_file()), level)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(metadata.len()))?;
    io::copy(&mut source, &mut encoder)?;
    encoder.finish()?.flush()?;
    beside.as_file().set_permissions(metadata.permissions())?;
    beside.as_file().sync_all()?;
    let after = beside.as_file().metadata()?.len();
    beside.persist_noclobber(&target).map_err(|error| error.error)?;
    // Before the original goes, the new name must be on the disk.
    File::open(directory).and_then(|directory| directory.sync_all())?;
    std::fs::remove_file(path)?;
    Ok(Some(Compressed { path: target, before: metadata.len(), after }))
}

/// `x.pcapng.zst`
fn with_suffix(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".zst");
    name.into()
}

fn is_compressed(file: &mut File) -> io::Result<bool> {
    let mut head = Vec::with_capacity(8);
    (&*file).take(8).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(COMPRESSED.iter().any(|magic| head.starts_with(magic)))
}
