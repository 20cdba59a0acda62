//! What a guest printed on its serial console, for the reasons of failures.
//!
//! The console is QEMU's standard output. vptest reads it all the time and keeps the end of it in a file, so that a guest
//! that never stops printing fills nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use crate::text::printable;

/// Lines of a console that go into a failure.
const LINES: usize = 20;
/// Characters of each.
const LINE_LENGTH: usize = 400;
/// Bytes that are looked at for them.
const TAIL: u64 = 16 << 10;
/// Bytes of a console that are kept with a failed iteration.
const KEPT: u64 = 4 << 20;
/// Room among them for the line that says that there was more.
const LINE: u64 = 128;
/// How a Linux kernel begins to say that it gives up.
const PANIC: &str = "Kernel panic - not syncing";

/// The console of a guest. It can be read also when its name is gone.
#[derive(Debug)]
pub(super) struct Console {
    file: File,
    written: Mutex<Written>,
}

/// What is in the file.
#[derive(Debug, Default)]
struct Written {
    /// Bytes in it, the first line included.
    length: u64,
    /// Bytes of a first line that says how much is missing; 0 without one.
    head: u64,
    /// Bytes that were thrown away.
    missing: u64,
}

impl Console {
    /// An empty file, which nobody else writes.
    pub(super) fn new(file: File) -> Self {
        Self { file, written: Mutex::default() }
    }

    /// Writes everything that comes, until nothing more can: when QEMU has ended.
    pub(super) async fn follow(self: Arc<Self>, mut from: pipe::Receiver) {
        let mut buffer = vec![0; 64 << 10];
        let mut writable = true;
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            // Without room for it, it is read all the same: the guest must not wait for this.
            if writable && let Err(error) = self.append(&buffer[..count]) {
                tracing::warn!("the rest of a guest's console is lost: {error}");
                writable = false;
            }
        }
    }

    /// The file never holds more than is kept; when it would, the older half goes.
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.length + bytes.len() as u64 > KEPT {
            self.shorten(&mut written)?;
        }
        self.file.write_all_at(bytes, written.length)?;
        written.length += bytes.len() as u64;
        Ok(())
    }

    fn shorten(&self, written: &mut Written) -> io::Result<()> {
        let rest = last(&self.file, written.length, (KEPT / 2).min(written.length - written.head))?;
        let missing = written.missing + written.length - written.head - rest.len() as u64;
        let head = not_kept(missing);
        self.file.write_all_at(&[head.as_bytes(), &rest].concat(), 0)?;
        let length = (head.len() + rest.len()) as u64;
        self.file.set_len(length)?;
        *written = Written { length, head: head.len() as u64, missing };
        Ok(())
    }

    /// The last lines, oldest first; what cannot be read is said instead.
    pub(super) fn tail(&self) -> Vec<String> {
        match self.end() {
            Ok(bytes) => lines(&bytes),
            Err(error) => vec![format!("(its console cannot be read: {error})")],
        }
    }

    /// What the guest's kernel says of its panic; `None` when there was none, as far as the last lines tell.
    pub(super) fn panic(&self) -> Option<String> {
        panic_in(&String::from_utf8_lossy(&self.end().ok()?))
    }

    /// The whole of it, as far as it is kept: see [`kept`].
    pub(super) fn whole(&self) -> io::Result<Vec<u8>> {
        // Not while it is being shortened.
        let _written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        kept(&self.file)
    }

    fn end(&self) -> io::Result<Vec<u8>> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        last(&self.file, written.length, TAIL)
    }
}

/// What is kept of a console: the whole, or from a longer one the last of it below a line that says how much is missing;
/// at most 4 MiB together.
///
/// # Errors
/// Those of reading the file.
pub(crate) fn kept(console: &File) -> io::Result<Vec<u8>> {
    let length = console.metadata()?.len();
    if length <= KEPT {
        return last(console, length, KEPT);
    }
    let tail = KEPT - LINE;
    let mut text = not_kept(length - tail).into_bytes();
    text.extend(last(console, length, tail)?);
    Ok(text)
}

fn not_kept(bytes: u64) -> String {
    format!("[vptest: the first {bytes} bytes of this console were not kept]\n")
}

/// The last bytes of a file of this length.
fn last(file: &File, length: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let start = length.saturating_sub(bytes);
    let mut buffer = vec![0; usize::try_from(length - start).map_err(io::Error::other)?];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], start + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

/// Printable text only: a guest can print anything, and the lines end up on terminals.
fn lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| printable(line, LINE_LENGTH).trim_end().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    lines.drain(..lines.len().saturating_sub(LINES));
    lines
}

fn panic_in(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.contains(PANIC) && !line.contains("end Kernel panic"))?;
    let start = line.find(PANIC)? + PANIC.len();
    Some(printable(line[start..].trim_start_matches(':'), LINE_LENGTH).trim().to_owned())
}

/// For the end of an error: `; the last lines of its console: …`.
pub(super) fn quoted(lines: &[String]) -> String {
    if lines.is_empty() {
        "; its console is empty".to_owned()
    } else {
        format!("; the last lines of its console:\n  {}", lines.join("\n  "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_are_text() {
        let bytes: Vec<u8> = (1..=30).flat_map(|n| format!("line {n}\x1b[0m\r\n\n").into_bytes()).collect();
        let lines = lines(&bytes);
        assert_eq!(lines.len(), 20);
        assert_eq!(lines.first().unwrap(), "line 11[0m");
    }

    #[test]
    fn a_panic_is_found_with_its_reason() {
        let text = "[    2.1] Kernel panic - not syncing: sysrq triggered crash\n[    2.2] CPU: 0\n\
                    [    2.3] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---\n";
        assert_eq!(panic_in(text).as_deref(), Some("sysrq triggered crash"));
        assert_eq!(panic_in("all is well\n"), None);
    }

    #[test]
    fn of_a_long_console_the_end_is_kept_and_the_rest_is_owned_up_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(KEPT).unwrap();
        assert_eq!(kept(&file).unwrap().len() as u64, KEPT);
        file.set_len(KEPT + 1000).unwrap();
        file.write_all_at(b"the end\n", KEPT + 1000 - 8).unwrap();
        let text = kept(&file).unwrap();
        assert!(text.len() as u64 <= KEPT && text.ends_with(b"\0the end\n"));
        assert!(text.starts_with(b"[vptest: the first 1128 bytes of this console were not kept]\n\0"));
        // What is kept of it stays as it is.
        std::fs::write(&path, &text).unwrap();
        assert_eq!(kept(&File::open(&path).unwrap()).unwrap(), text);
    }

    fn new() -> (Console, std::path::PathBuf, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        (Console::new(file), path, directory)
    }

    #[test]
    fn a_guest_that_never_stops_printing_fills_nothing() {
        let (console, path, _directory) = new();
        let mut printed = 0_u64;
        for round in 0..200_u32 {
            let line = format!("line {round}\n");
            let text = line.repeat((100 << 10) / line.len());
            printed += text.len() as u64;
            console.append(text.as_bytes()).unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() <= KEPT);
        }
        let whole = String::from_utf8(console.whole().unwrap()).unwrap();
        let (head, rest) = whole.split_once('\n').unwrap();
        let missing: u64 = head.split(' ').nth(3).unwrap().parse().unwrap();
        assert_eq!(missing + rest.len() as u64, printed, "{head}");
        assert!(rest.len() as u64 >= KEPT / 2 && rest.ends_with("line 199\n"));
        assert_eq!(console.tail().last().unwrap(), "line 199");
    }

    #[test]
    fn a_console_can_be_read_when_its_name_is_gone() {
        let (console, path, _directory) = new();
        console.append(b"one\ntwo\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(console.tail(), ["one", "two"]);
        assert_eq!(console.whole().unwrap(), b"one\ntwo\n");
    }
}
