//! The disk on which a guest leaves files for its host: no file system, but a header of 4 KiB and a tar stream behind it.
//!
//! The host reads it from the raw image without root and without mounting anything. What a guest has written is hostile:
//! names that lead elsewhere, links, files that claim to be larger than the disk, and everything cut short are typed errors,
//! and nothing is unpacked before the checksum of the whole is known to be right.
//!
//! Header: magic (16 bytes), version (`u32`), length of the JSON (`u32`), SHA-256 of the JSON (32 bytes), JSON; the rest is 0.
//! Numbers are little-endian. The stream is that of POSIX `ustar` with regular files only:
//! `tail -c +4097 IMAGE | tar t` lists it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::client::hex;
use super::message::ArchiveReceipt;

/// Length of the header.
pub const HEADER: usize = 4096;
const MAGIC: [u8; 16] = *b"vptest-results\r\n";
const VERSION: u32 = 1;
const JSON_AT: usize = 56;
const BLOCK: usize = 512;
const QCOW2: [u8; 4] = *b"QFI\xfb";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    /// Written last, so that a disk whose guest died meanwhile is not taken for whole.
    whole: bool,
    nonce: u64,
    bytes: u64,
    sha256: String,
    files: u64,
}

/// What the host accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// Bytes of the stream.
    pub bytes: u64,
    /// Files in it.
    pub files: u64,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self { bytes: 64 << 30, files: 100_000 }
    }
}

/// A file that was read from the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Its name on the node, without the leading slash.
    pub name: String,
    /// Where it is now.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
}

/// The disk does not hold what it should. Nothing was unpacked then, except for [`ResultsError::Io`].
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// Nothing was ever written to it.
    #[error("{}: the guest has left no results", .0.display())]
    Empty(PathBuf),
    /// It is something else.
    #[error("{}: no results of a vptest guest: {what}", path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// What is there instead.
        what: String,
    },
    /// The guest ended while it was writing.
    #[error("{}: the guest did not finish writing", .0.display())]
    Unfinished(PathBuf),
    /// They were written at another time.
    #[error("{}: results number {found}, not {wanted}", path.display())]
    Other {
        /// Which file.
        path: PathBuf,
        /// The number asked for.
        wanted: u64,
        /// The one that is there.
        found: u64,
    },
    /// The node has told something else in its answer.
    #[error("{}: {what}", path.display())]
    Untold {
        /// Which file.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// Damaged.
    #[error("{}: byte {offset}: {what}", path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// More than allowed.
    #[error("{}: {what}", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// How much, and what is allowed.
        what: String,
    },
    /// Reading or unpacking failed.
    #[error("cannot {what}")]
    Io {
        /// Verb and object.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is wrong with a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    Corrupt(u64, String),
    TooLarge(String),
    Io(String),
}

/// Writes results. A disk that is dropped before [`Writer::finish`] says that it is unfinished.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    hash: Sha256,
    bytes: u64,
    files: u64,
    nonce: u64,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins at the beginning of `out`.
    pub fn begin(mut out: W, nonce: u64) -> io::Result<Self> {
        out.seek(SeekFrom::Start(0))?;
        let head = Head { whole: false, nonce, bytes: 0, sha256: String::new(), files: 0 };
        out.write_all(&header(&head))?;
        Ok(Self { out, hash: Sha256::new(), bytes: 0, files: 0, nonce })
    }

    /// Adds a file of `size` bytes.
    ///
    /// # Errors
    /// `InvalidInput` for a name that `ustar` cannot hold (100 bytes after at most 155 bytes of directories) or that is not
    /// relative; `UnexpectedEof` when `content` is shorter.
    pub fn add(&mut self, name: &str, size: u64, content: &mut impl Read) -> io::Result<()> {
        let head = entry(name, size).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` cannot be the name of a result"))
        })?;
        self.put(&head)?;
        let mut left = size;
        let mut buffer = vec![0; 64 << 10];
        while left > 0 {
            let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            match content.read(&mut buffer[..most])? {
                0 => {
                    let text = format!("{name} became shorter while it was read");
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                }
                count => {
                    left -= count as u64;
                    self.put(&buffer[..count])?;
                }
            }
        }
        self.put(&[0; BLOCK][..padding(size)])?;
        self.files += 1;
        Ok(())
    }

    /// Ends the stream and says in the header that it is whole. Making it durable is up to the caller.
    pub fn finish(mut self) -> io::Result<(W, ArchiveReceipt)> {
        self.put(&[0; 2 * BLOCK])?;
        let Self { mut out, hash, bytes, files, nonce } = self;
        out.flush()?;
        let sha256 = hex(hash);
        out.seek(SeekFrom::Start(0))?;
        out.write_all(&header(&Head { whole: true, nonce, bytes, sha256: sha256.clone(), files }))?;
        out.flush()?;
        Ok((out, ArchiveReceipt { nonce, bytes, sha256, files }))
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// Writes one file whose length is known only when all of it is there. Until [`OpenEnd::finish`], the disk says that it is
/// unfinished.
#[derive(Debug)]
pub struct OpenEnd<W> {
    out: W,
    nonce: u64,
}

impl<W: Read + Write + Seek> OpenEnd<W> {
    /// Where the content begins.
    const CONTENT: u64 = (HEADER + BLOCK) as u64;

    /// Begins at the beginning of `out`.
    pub fn begin(mut out: W, nonce: u64) -> io::Result<Self> {
        out.seek(SeekFrom::Start(0))?;
        out.write_all(&header(&Head { whole: false, nonce, bytes: 0, sha256: String::new(), files: 0 }))?;
        out.seek(SeekFrom::Start(Self::CONTENT))?;
        Ok(Self { out, nonce })
    }

    /// Where the content is to be written, and nothing else.
    pub fn content(&mut self) -> &mut W {
        &mut self.out
    }

    /// Ends the file after `size` bytes. All of it is read once more: a checksum along the way would cost time while it is written.
    ///
    /// # Errors
    /// As [`Writer::add`], and for what cannot be written or read.
    pub fn finish(self, name: &str, size: u64) -> io::Result<(W, ArchiveReceipt)> {
        let Self { mut out, nonce } = self;
        let head = entry(name, size).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        out.seek(SeekFrom::Start(Self::CONTENT + size))?;
        out.write_all(&[0; 3 * BLOCK][..padding(size) + 2 * BLOCK])?;
        out.seek(SeekFrom::Start(HEADER as u64))?;
        out.write_all(&head)?;
        out.flush()?;
        let bytes = needed([size]) - HEADER as u64;
        out.seek(SeekFrom::Start(HEADER as u64))?;
        let mut hash = Sha256::new();
        let read = io::copy(&mut (&mut out as &mut dyn Read).take(bytes), &mut HashWriter(&mut hash))?;
        if read != bytes {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the disk gives back less than was written"));
        }
        let sha256 = hex(hash);
        out.seek(SeekFrom::Start(0))?;
        out.write_all(&header(&Head { whole: true, nonce, bytes, sha256: sha256.clone(), files: 1 }))?;
        out.flush()?;
        Ok((out, ArchiveReceipt { nonce, bytes, sha256, files: 1 }))
    }
}

/// Bytes that files of these sizes take on a disk, or would.
pub fn needed(sizes: impl IntoIterator<Item = u64>) -> u64 {
    let entries = sizes.into_iter().map(|size| size.saturating_add((BLOCK + padding(size)) as u64));
    entries.fold((HEADER + 2 * BLOCK) as u64, u64::saturating_add)
}

fn header(head: &Head) -> Vec<u8> {
    let json = super::mux::json(head);
    let length = u32::try_from(json.len()).expect("a few numbers and a checksum");
    let mut bytes = Vec::with_capacity(HEADER);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(Sha256::digest(&json));
    bytes.extend(json);
    bytes.resize(HEADER, 0);
    bytes
}

fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).expect("less than a block");
    if over == 0 { 0 } else { BLOCK - over }
}

/// A `ustar` header; `None` for a name that it cannot hold.
fn entry(name: &str, size: u64) -> Option<[u8; BLOCK]> {
    if !is_plain(name) {
        return None;
    }
    let (prefix, rest) = if name.len() <= 100 {
        ("", name)
    } else {
        let split = |at: usize| (name.as_bytes()[at] == b'/' && at <= 155 && name.len() - at - 1 <= 100).then_some(at);
        let at = (1..name.len() - 1).find_map(split)?;
        (&name[..at], &name[at + 1..])
    };
    let mut head = [0; BLOCK];
    head[..rest.len()].copy_from_slice(rest.as_bytes());
    head[100..108].copy_from_slice(b"0000644\0");
    head[108..124].copy_from_slice(b"0000000\x000000000\0");
    if size < 1 << 33 {
        head[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    } else {
        // Base 256, as GNU tar and POSIX readers have it: the first bit set, the number at the end.
        head[124] = 0x80;
        head[128..136].copy_from_slice(&size.to_be_bytes());
    }
    head[136..148].copy_from_slice(b"00000000000\0");
    head[148..156].fill(b' ');
    head[156] = b'0';
    head[257..265].copy_from_slice(b"ustar\x0000");
    head[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
    let sum = checksum(&head);
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Some(head)
}

/// The sum of all bytes, those of the sum itself taken as blanks.
fn checksum(head: &[u8; BLOCK]) -> u32 {
    head.iter().enumerate().map(|(at, &byte)| u32::from(if (148..156).contains(&at) { b' ' } else { byte })).sum()
}

/// Is it relative, and does it stay below where it begins?
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(['\0', '\n'])
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Reads results from the raw image at `path` into `directory`, which must exist and be empty.
///
/// With a `nonce` (from the receipt) only results of that call are taken.
///
/// # Errors
/// See [`ResultsError`]; when anything is wrong, no file is left behind.
pub fn read(
    path: &Path,
    nonce: Option<u64>,
    limits: ReadLimits,
    directory: &Path,
) -> Result<Vec<Unpacked>, ResultsError> {
    read_if(path, &|head| is_number(path, head, nonce), limits, directory)
}

/// As [`read`], and only what the receipt says.
///
/// # Errors
/// As [`read`], and [`ResultsError::Untold`].
pub fn read_as_told(
    path: &Path,
    receipt: &ArchiveReceipt,
    limits: ReadLimits,
    directory: &Path,
) -> Result<Vec<Unpacked>, ResultsError> {
    let is_told = |head: &Head| {
        is_number(path, head, Some(receipt.nonce))?;
        let differs = if (head.bytes, head.files) != (receipt.bytes, receipt.files) {
            format!(
                "{} files in {} bytes are there, the node told {} in {}",
                head.files, head.bytes, receipt.files, receipt.bytes
            )
        } else if head.sha256 != receipt.sha256 {
            "the checksum of the results is not the one that the node told".to_owned()
        } else {
            return Ok(());
        };
        Err(ResultsError::Untold { path: path.to_owned(), what: differs })
    };
    read_if(path, &is_told, limits, directory)
}

fn is_number(path: &Path, head: &Head, nonce: Option<u64>) -> Result<(), ResultsError> {
    match nonce.filter(|&nonce| nonce != head.nonce) {
        Some(wanted) => Err(ResultsError::Other { path: path.to_owned(), wanted, found: head.nonce }),
        None => Ok(()),
    }
}

/// Reads what has a head that is as it should be.
fn read_if(
    path: &Path,
    check: &dyn Fn(&Head) -> Result<(), ResultsError>,
    limits: ReadLimits,
    directory: &Path,
) -> Result<Vec<Unpacked>, ResultsError> {
    let failed = |what: &str| {
        let what = format!("{what} {}", path.display());
        move |source| ResultsError::Io { what, source }
    };
    let mut file =
        fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed("open"))?;
    let length = file.metadata().map_err(failed("read"))?.len();
    let head = read_head(&mut file, path)?;
    check(&head)?;
    let corrupt = |offset, what: &str| ResultsError::Corrupt { path: path.to_owned(), offset, what: what.to_owned() };
    if length.saturating_sub(HEADER as u64) < head.bytes {
        return Err(corrupt(length, "the image ends before the results do"));
    }
    if head.bytes > limits.bytes {
        let what = format!("{} bytes of results, {} are allowed", head.bytes, limits.bytes);
        return Err(ResultsError::TooLarge { path: path.to_owned(), what });
    }
    let mut hash = Sha256::new();
    io::copy(&mut (&file).take(head.bytes), &mut HashWriter(&mut hash)).map_err(failed("read"))?;
    if hex(hash) != head.sha256 {
        return Err(corrupt(HEADER as u64, "the checksum of the results is another"));
    }
    // Once to look, so that nothing is unpacked of a stream that is wrong somewhere.
    let as_error = |fault| match fault {
        Fault::Corrupt(offset, what) => ResultsError::Corrupt { path: path.to_owned(), offset, what },
        Fault::TooLarge(what) => ResultsError::TooLarge { path: path.to_owned(), what },
        Fault::Io(text) => {
            ResultsError::Io { what: format!("unpack {}", path.display()), source: io::Error::other(text) }
        }
    };
    // Hashed each time: whoever writes the image meanwhile gets nothing past the check.
    let mut pass = |each: &mut dyn FnMut(&str, u64, &mut dyn Read) -> io::Result<()>| {
        file.seek(SeekFrom::Start(HEADER as u64)).map_err(failed("read"))?;
        let mut hash = Sha256::new();
        let hashed = Hashing { from: (&file).take(head.bytes), hash: &mut hash };
        let mut stream = io::BufReader::with_capacity(256 << 10, hashed);
        let files = entries(&mut stream, head.bytes, limits.files, each).map_err(as_error)?;
        io::copy(&mut stream, &mut io::sink()).map_err(failed("read"))?;
        drop(stream);
        if hex(hash) != head.sha256 {
            return Err(corrupt(HEADER as u64, "the results changed while they were read"));
        }
        if files != head.files {
            return Err(corrupt(HEADER as u64, &format!("{files} files, {} were announced", head.files)));
        }
        Ok(())
    };
    pass(&mut |_, _, content| io::copy(content, &mut io::sink()).map(drop))?;
    let mut unpacked = Vec::new();
    let result = pass(&mut |name, bytes, content| {
        let path = directory.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut target = File::create_new(&path)?;
        unpacked.push(Unpacked { name: name.to_owned(), path, bytes });
        io::copy(content, &mut target).map(drop)
    });
    if result.is_err() {
        for file in &unpacked {
            let _ = fs::remove_file(&file.path);
        }
    }
    result.map(|()| unpacked)
}

fn read_head(file: &mut File, path: &Path) -> Result<Head, ResultsError> {
    let mut bytes = Vec::new();
    let read = file.take(HEADER as u64).read_to_end(&mut bytes);
    read.map_err(|source| ResultsError::Io { what: format!("read {}", path.display()), source })?;
    let foreign = |what: &str| ResultsError::Foreign { path: path.to_owned(), what: what.to_owned() };
    if bytes.iter().all(|&byte| byte == 0) {
        return Err(ResultsError::Empty(path.to_owned()));
    }
    if bytes.starts_with(&QCOW2) {
        return Err(foreign("a qcow2 image (a raw one is wanted)"));
    }
    if !bytes.starts_with(&MAGIC) || bytes.len() < HEADER {
        return Err(foreign("another beginning"));
    }
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if number(16) != VERSION {
        return Err(foreign(&format!("version {} (this vptest reads version {VERSION})", number(16))));
    }
    let corrupt = |what: &str| ResultsError::Corrupt { path: path.to_owned(), offset: 20, what: what.to_owned() };
    let json = bytes[JSON_AT..].get(..number(20) as usize).ok_or_else(|| corrupt("a header longer than 4 KiB"))?;
    if Sha256::digest(json)[..] != bytes[24..JSON_AT] {
        return Err(corrupt("the checksum of the header is another"));
    }
    let head: Head = serde_json::from_slice(json).map_err(|error| corrupt(&error.to_string()))?;
    if head.whole { Ok(head) } else { Err(ResultsError::Unfinished(path.to_owned())) }
}

/// Calls `each` with name, length and content of every file of a stream of `bytes` bytes; returns how many there are.
fn entries(
    mut stream: impl Read,
    bytes: u64,
    most: u64,
    each: &mut dyn FnMut(&str, u64, &mut dyn Read) -> io::Result<()>,
) -> Result<u64, Fault> {
    let mut at = 0_u64;
    let mut count = 0;
    loop {
        let offset = HEADER as u64 + at;
        let corrupt = |what: &str| Fault::Corrupt(offset, what.to_owned());
        let mut head = [0; BLOCK];
        stream.read_exact(&mut head).map_err(|_| corrupt("the stream ends without its end mark"))?;
        at += BLOCK as u64;
        if head == [0; BLOCK] {
            return Ok(count);
        }
        let (name, size) = read_entry(&head).map_err(|what| corrupt(&what))?;
        let padded = size.checked_add(padding(size) as u64).and_then(|padded| padded.checked_add(at));
        let Some(end) = padded.filter(|&end| end <= bytes) else {
            return Err(corrupt(&format!("{name} claims {size} bytes, more than there are")));
        };
        count += 1;
        if count > most {
            return Err(Fault::TooLarge(format!("more than {most} files of results")));
        }
        let mut content = (&mut stream).take(size);
        each(&name, size, &mut content).map_err(|error| Fault::Io(format!("{name}: {error}")))?;
        if content.limit() > 0 {
            return Err(corrupt(&format!("{name} is cut short")));
        }
        let mut rest = [0; BLOCK];
        stream.read_exact(&mut rest[..padding(size)]).map_err(|_| corrupt(&format!("{name} is cut short")))?;
        at = end;
    }
}

fn read_entry(head: &[u8; BLOCK]) -> Result<(String, u64), String> {
    let sum = octal(&head[148..156]).ok_or("an entry without a checksum")?;
    if sum != u64::from(checksum(head)) {
        return Err("the checksum of an entry is another".to_owned());
    }
    if !matches!(head[156], b'0' | 0) {
        return Err(format!("an entry of type {:?}; only regular files are allowed", char::from(head[156])));
    }
    let text = |field: &[u8]| {
        let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
        std::str::from_utf8(&field[..end]).map(str::to_owned).map_err(|_| "a name that is not UTF-8".to_owned())
    };
    let (name, prefix) = (text(&head[..100])?, text(&head[345..500])?);
    let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
    if !is_plain(&name) {
        return Err(format!("the name {name:?} leads elsewhere"));
    }
    let size = if head[124] == 0x80 && head[125..128] == [0; 3] {
        head[128..136].first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    } else {
        octal(&head[124..136])
    };
    size.map(|size| (name, size)).ok_or_else(|| "an entry without a length".to_owned())
}

/// Octal digits up to a NUL or blank.
fn octal(field: &[u8]) -> Option<u64> {
    let end = field.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(field.len());
    let digits = &field[..end];
    let all = !digits.is_empty() && digits.iter().all(|byte| (b'0'..=b'7').contains(byte));
    all.then(|| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()).flatten()
}

/// Hashes what is read through it.
struct Hashing<'a, R> {
    from: R,
    hash: &'a mut Sha256,
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
