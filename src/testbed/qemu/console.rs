//! What a guest printed on its serial console, for the reasons of failures.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Lines of a console that go into a failure.
const LINES: usize = 20;
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
pub(super) struct Console(File);

impl Console {
    pub(super) fn new(file: File) -> Self {
        Self(file)
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
        kept(&self.0)
    }

    fn end(&self) -> io::Result<Vec<u8>> {
        last(&self.0, self.0.metadata()?.len(), TAIL)
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
    let mut text = format!("[vptest: the first {} bytes of this console were not kept]\n", length - tail).into_bytes();
    text.extend(last(console, length, tail)?);
    Ok(text)
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
        .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>().trim_end().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    lines.drain(..lines.len().saturating_sub(LINES));
    lines
}

fn panic_in(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.contains(PANIC) && !line.contains("end Kernel panic"))?;
    let start = line.find(PANIC)? + PANIC.len();
    let why: String = line[start..].trim_start_matches(':').chars().filter(|c| !c.is_control()).collect();
    Some(why.trim().to_owned())
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

    #[test]
    fn a_console_can_be_read_when_its_name_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console");
        std::fs::write(&path, "one\ntwo\n").unwrap();
        let console = Console::new(File::open(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(console.tail(), ["one", "two"]);
        assert_eq!(console.whole().unwrap(), b"one\ntwo\n");
    }
}
