//! Writing a bundle.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::metadata::{About, document};
use super::unpack::WINDOW;
use super::{METADATA, SUMS};
use crate::text::hex;

/// zstd's: an SQLite file becomes about a fifth, in a second for 100 MB.
const LEVEL: i32 = 6;

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its path in the bundle.
    pub name: String,
    /// What is in it.
    pub content: Content,
}

/// Where the content of a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Here.
    Bytes(Vec<u8>),
    /// In a file.
    File(PathBuf),
}

/// Writes a bundle whose directory is called `directory`; all of its files have the time `seconds` since 1970. Same parts, same
/// bytes.
///
/// # Errors
/// When a part cannot be read or changes meanwhile, and when `out` takes no more.
pub fn pack(directory: &str, about: &About, parts: &[Part], seconds: u64, out: impl Write) -> io::Result<()> {
    let mut sizes = parts.iter().map(|part| Ok((part.name.clone(), size(part)?))).collect::<io::Result<Vec<_>>>()?;
    // Each line has 64 digits, two blanks and the name; its own file is not in the list, the metadata are.
    let lines = sizes.iter().map(|(name, _)| name.as_str()).chain([METADATA]);
    let bytes = lines.map(|name| 64 + 2 + name.len() as u64 + 1).sum();
    sizes.push((SUMS.to_owned(), bytes));
    let metadata = serde_json::to_vec_pretty(&document(about, &sizes))?;
    let mut encoder = zstd::Encoder::new(out, LEVEL)?;
    if has_equal_files(parts)? {
        // One that stands next to its like then takes next to nothing, at the price of memory for its readers.
        encoder.long_distance_matching(true)?;
        encoder.window_log(WINDOW)?;
    }
    let mut archive = Archive { builder: tar::Builder::new(encoder), directory, seconds, sums: String::new() };
    archive.builder.get_mut().include_checksum(true)?;
    archive.add(METADATA, metadata.len() as u64, metadata.as_slice())?;
    for (part, (name, bytes)) in parts.iter().zip(&sizes) {
        match &part.content {
            Content::Bytes(content) => archive.add(name, *bytes, content.as_slice())?,
            Content::File(path) => archive.add(name, *bytes, File::open(path)?)?,
        }
    }
    let sums = std::mem::take(&mut archive.sums);
    archive.add(SUMS, sums.len() as u64, sums.as_bytes())?;
    archive.builder.into_inner()?.finish()?.flush()
}

/// Are some of them one file with several names?
fn has_equal_files(parts: &[Part]) -> io::Result<bool> {
    let mut seen = HashSet::new();
    for part in parts {
        let Content::File(path) = &part.content else { continue };
        let file = std::fs::metadata(path)?;
        if file.nlink() > 1 && !seen.insert((file.dev(), file.ino())) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn size(part: &Part) -> io::Result<u64> {
    match &part.content {
        Content::Bytes(content) => Ok(content.len() as u64),
        Content::File(path) => Ok(std::fs::metadata(path)?.len()),
    }
}

struct Archive<'a, W: Write> {
    builder: tar::Builder<W>,
    directory: &'a str,
    seconds: u64,
    sums: String,
}

impl<W: Write> Archive<'_, W> {
    fn add(&mut self, name: &str, bytes: u64, content: impl Read) -> io::Result<()> {
        if name.contains(['\n', '\\']) {
            return Err(io::Error::other(format!("{name:?} cannot be the name of a file in a list of checksums")));
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_mtime(self.seconds);
        let mut content = Hashing { inner: content, hash: Sha256::new(), read: 0 };
        self.builder.append_data(&mut header, format!("{}/{name}", self.directory), (&mut content).take(bytes))?;
        if content.read != bytes || content.inner.read(&mut [0])? != 0 {
            return Err(io::Error::other(format!("{name} changes while it is read")));
        }
        self.sums.push_str(&format!("{}  {name}\n", hex(&content.hash.finalize())));
        Ok(())
    }
}

/// Reads and hashes.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    read: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.read += read as u64;
        Ok(read)
    }
}
