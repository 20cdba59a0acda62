//! Kept files in zstd: written beside, durable, then in the place of the original.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, Write};
use std::path::{Path, PathBuf};

use super::SMALL_BYTES;
use crate::text::printable;

/// How compressed files begin: zstd, gzip, xz, bzip2. Once more would only hide them from their readers.
const COMPRESSED: [&[u8]; 4] = [&[0x28, 0xb5, 0x2f, 0xfd], &[0x1f, 0x8b], b"\xfd7zXZ\0", b"BZh"];

/// What became of a file.
#[derive(Debug)]
pub(super) enum Done {
    Compressed(Compressed),
    /// It is small, compressed already, or no regular file.
    Unchanged,
    /// It was not compressed to its end, and is as it was.
    Stopped,
}

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

/// Replaces a file by its compressed form, unless `may_go_on` says no meanwhile.
///
/// # Errors
/// Then the original is there, and nothing else. A file that has the new name already stays as well.
pub(super) fn compress(path: &Path, level: i32, may_go_on: &dyn Fn() -> bool) -> io::Result<Done> {
    let metadata = path.symlink_metadata()?;
    if !metadata.is_file() || metadata.len() <= SMALL_BYTES {
        return Ok(Done::Unchanged);
    }
    let mut source = File::open(path)?;
    if is_compressed(&mut source)? {
        return Ok(Done::Unchanged);
    }
    let target = with_suffix(path);
    if target.symlink_metadata().is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} is there already", printable(&target.to_string_lossy(), 200)),
        ));
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    let beside = tempfile::Builder::new().prefix(".").suffix(".zst.tmp").tempfile_in(directory)?;
    let mut encoder = zstd::Encoder::new(BufWriter::with_capacity(1 << 17, beside.as_file()), level)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(metadata.len()))?;
    if !copy(&mut source, &mut encoder, may_go_on)? {
        return Ok(Done::Stopped);
    }
    encoder.finish()?.flush()?;
    beside.as_file().set_permissions(metadata.permissions())?;
    beside.as_file().sync_all()?;
    let after = beside.as_file().metadata()?.len();
    beside.persist_noclobber(&target).map_err(|error| error.error)?;
    // Before the original goes, the new name must be on the disk.
    File::open(directory).and_then(|directory| directory.sync_all())?;
    std::fs::remove_file(path)?;
    Ok(Done::Compressed(Compressed { path: target, before: metadata.len(), after }))
}

/// Copies everything; `false` when it was stopped before.
fn copy(from: &mut File, to: &mut impl Write, may_go_on: &dyn Fn() -> bool) -> io::Result<bool> {
    let mut buffer = vec![0; 1 << 17];
    while may_go_on() {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(read) => to.write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
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
