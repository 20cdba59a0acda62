//! Writing a bundle.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::metadata::{About, document};
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
/// bytes. A file that has several names, and stands under more than one of them, is in it once; the others are hard links.
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
    let mut archive = Archive {
        builder: tar::Builder::new(zstd::Encoder::new(out, LEVEL)?),
        directory,
        seconds,
        sums: String::new(),
        first: HashMap::new(),
    };
    archive.builder.get_mut().include_checksum(true)?;
    archive.add(METADATA, metadata.len() as u64, metadata.as_slice())?;
    for (part, (name, bytes)) in parts.iter().zip(&sizes) {
        match &part.content {
            Content::Bytes(content) => drop(archive.add(name, *bytes, content.as_slice())?),
            Content::File(path) => archive.add_file(name, *bytes, path)?,
        }
    }
    let sums = std::mem::take(&mut archive.sums);
    archive.add(SUMS, sums.len() as u64, sums.as_bytes())?;
    archive.builder.into_inner()?.finish()?.flush()
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
    /// Files with several names, by device and inode: the first name here, and the checksum.
    first: HashMap<(u64, u64), (String, String)>,
}

impl<W: Write> Archive<'_, W> {
    /// A file that is in here under another name is a link to that.
    fn add_file(&mut self, name: &str, bytes: u64, path: &Path) -> io::Result<()> {
        let file = File::open(path)?;
        let known = several_names(&file.metadata()?);
        if let Some((first, sum)) = known.and_then(|key| self.first.get(&key)) {
            let (first, sum) = (first.clone(), sum.clone());
            return self.link(name, &first, &sum);
        }
        let sum = self.add(name, bytes, file)?;
        if let Some(key) = known {
            self.first.insert(key, (name.to_owned(), sum));
        }
        Ok(())
    }

    fn link(&mut self, name: &str, first: &str, sum: &str) -> io::Result<()> {
        refuse_name(name)?;
        let mut header = self.header();
        header.set_entry_type(tar::EntryType::Link);
        header.set_size(0);
        let (path, target) = (format!("{}/{name}", self.directory), format!("{}/{first}", self.directory));
        self.builder.append_link(&mut header, path, target)?;
        self.sums.push_str(&format!("{sum}  {name}\n"));
        Ok(())
    }

    fn header(&self) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(self.seconds);
        header
    }

    /// Returns its checksum.
    fn add(&mut self, name: &str, bytes: u64, content: impl Read) -> io::Result<String> {
        refuse_name(name)?;
        let mut header = self.header();
        header.set_size(bytes);
        let mut content = Hashing { inner: content, hash: Sha256::new(), read: 0 };
        self.builder.append_data(&mut header, format!("{}/{name}", self.directory), (&mut content).take(bytes))?;
        if content.read != bytes || content.inner.read(&mut [0])? != 0 {
            return Err(io::Error::other(format!("{name} changes while it is read")));
        }
        let sum = hex(&content.hash.finalize());
        self.sums.push_str(&format!("{sum}  {name}\n"));
        Ok(sum)
    }
}

fn refuse_name(name: &str) -> io::Result<()> {
    if name.contains(['\n', '\\']) {
        return Err(io::Error::other(format!("{name:?} cannot be the name of a file in a list of checksums")));
    }
    Ok(())
}

/// What tells a file that has other names as well.
fn several_names(file: &Metadata) -> Option<(u64, u64)> {
    (file.nlink() > 1).then(|| (file.dev(), file.ino()))
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
