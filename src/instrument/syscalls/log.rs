//! Single calls in a file: zstd around 40 bytes for each call, names of processes between them.
//!
//! All numbers are little-endian. The stream begins with [`MAGIC`]; records follow, each with a byte that says what it is:
//! `C` a call (40 bytes), `N` the name of a process number (u32 number, u8 length, the name, u8 length, the node's name
//! or nothing). Names stand at the end, since they are known then.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use super::TraceError;
use super::names::name_of;

/// First bytes of the stream.
const MAGIC: [u8; 16] = *b"vptest syscalls1";
/// Bytes of a call.
pub(super) const ENTRY: usize = 40;
const LEVEL: i32 = 1;

/// Writes a log.
pub(super) struct Writer {
    path: PathBuf,
    out: zstd::Encoder<'static, File>,
}

impl Writer {
    pub(super) fn create(path: &Path) -> Result<Self, TraceError> {
        let failed = |source| TraceError::Log { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let file = File::create(path).map_err(failed)?;
        let mut out = zstd::Encoder::new(file, LEVEL).map_err(failed)?;
        out.write_all(&MAGIC).map_err(failed)?;
        Ok(Self { path: path.to_owned(), out })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a call as the kernel hands it over.
    pub(super) fn entry(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(b"C")?;
        self.out.write_all(&bytes[..ENTRY])
    }

    /// Ends it with the names: (number, name, node).
    pub(super) fn finish(mut self, names: &[(u32, String, String)]) -> Result<(), TraceError> {
        let failed = |source| TraceError::Log { path: self.path.clone(), source };
        let mut bytes = Vec::new();
        for (number, name, node) in names {
            bytes.push(b'N');
            bytes.extend(number.to_le_bytes());
            for text in [name, node] {
                let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
                bytes.push(length);
                bytes.extend(&text.as_bytes()[..usize::from(length)]);
            }
        }
        self.out.write_all(&bytes).map_err(failed)?;
        self.out.finish().and_then(|file| file.sync_all()).map_err(failed)
    }
}

/// One call of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// When it began, on the kernel's monotonic clock.
    pub entered_ns: u64,
    /// How long it took; `None` for a call that never returned.
    pub took_ns: Option<u64>,
    /// What it returned; `None` as above.
    pub result: Option<i64>,
    /// Number of the thread in the first PID namespace.
    pub thread: u32,
    /// Number of its process.
    pub process: u32,
    /// Name of the thread at that moment; empty when there was no room for it.
    pub name: String,
    /// Node; empty beside all nodes.
    pub node: String,
    /// Name of the call.
    pub call: String,
}

/// A log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be read, or is no zstd.
    #[error("cannot read the log of system calls")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("it is no log of system calls")]
    Foreign,
    /// It ends in the middle of a record or has something else there.
    #[error("the log is damaged after {0} calls")]
    Damaged(usize),
}

/// Reads a log, sorted by time of begin.
///
/// # Errors
/// When it is no log, or one that was not finished.
pub fn read(path: &Path) -> Result<Vec<Logged>, LogError> {
    let mut bytes = Vec::new();
    zstd::Decoder::new(BufReader::new(File::open(path)?))?.take(1 << 32).read_to_end(&mut bytes)?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Vec<Logged>, LogError> {
    let mut rest = bytes.strip_prefix(&MAGIC).ok_or(LogError::Foreign)?;
    let mut calls: Vec<(&[u8; ENTRY], u32)> = Vec::new();
    let mut names: BTreeMap<u32, (String, String)> = BTreeMap::new();
    while let Some((&kind, after)) = rest.split_first() {
        rest = after;
        let damaged = || LogError::Damaged(calls.len());
        match kind {
            b'C' => {
                let (entry, after) = rest.split_first_chunk::<ENTRY>().ok_or_else(damaged)?;
                rest = after;
                calls.push((entry, word(entry, 32)));
            }
            b'N' => {
                let (number, after) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
                rest = after;
                let name = text(&mut rest).ok_or_else(damaged)?;
                let node = text(&mut rest).ok_or_else(damaged)?;
                names.insert(u32::from_le_bytes(*number), (name, node));
            }
            _ => return Err(damaged()),
        }
    }
    let mut all: Vec<Logged> = calls.iter().map(|(entry, process)| logged(entry, names.get(process))).collect();
    all.sort_by_key(|call| call.entered_ns);
    Ok(all)
}

fn logged(entry: &[u8; ENTRY], name: Option<&(String, String)>) -> Logged {
    let took = long(entry, 8);
    let returned = took != u64::MAX;
    let (name, node) = name.cloned().unwrap_or_default();
    Logged {
        entered_ns: long(entry, 0),
        took_ns: returned.then_some(took),
        result: returned.then(|| long(entry, 16).cast_signed()),
        thread: word(entry, 24),
        process: word(entry, 28),
        name,
        node,
        call: name_of(u16::try_from(word(entry, 36)).unwrap_or(u16::MAX)),
    }
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let (&length, after) = rest.split_first()?;
    let (text, after) = after.split_at_checked(usize::from(length))?;
    *rest = after;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn long(entry: &[u8; ENTRY], at: usize) -> u64 {
    u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"))
}

fn word(entry: &[u8; ENTRY], at: usize) -> u32 {
    u32::from_le_bytes(entry[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: u64, took: u64, process: u32, call: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for n in [at, took, 5] {
            bytes.extend(n.to_le_bytes());
        }
        for n in [11, 10, process, call] {
            bytes.extend(n.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn calls_come_back_with_names_and_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/log.zst");
        let mut writer = Writer::create(&path).unwrap();
        writer.entry(&entry(20, u64::MAX, 1, 231)).unwrap();
        writer.entry(&entry(10, 3, 1, 1)).unwrap();
        writer.finish(&[(1, "ab".to_owned(), "client1".to_owned())]).unwrap();
        let calls = read(&path).unwrap();
        let short: Vec<_> = calls.iter().map(|c| (c.entered_ns, c.took_ns, c.result, c.call.as_str())).collect();
        assert_eq!(short, [(10, Some(3), Some(5), "write"), (20, None, None, "exit_group")]);
        assert_eq!((calls[0].name.as_str(), calls[0].node.as_str(), calls[0].thread), ("ab", "client1", 11));
    }

    #[test]
    fn other_bytes_are_refused() {
        assert!(matches!(parse(b"no log"), Err(LogError::Foreign)));
        let cut = [&MAGIC[..], b"C123"].concat();
        assert!(matches!(parse(&cut), Err(LogError::Damaged(0))));
        assert!(matches!(parse(&[&MAGIC[..], b"X"].concat()), Err(LogError::Damaged(0))));
    }
}
