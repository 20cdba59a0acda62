//! `OUT/.heads`: how attempts ended, so that a hundred thousand files need not be opened to know it.
//!
//! A file that has its name is whole and never written again, so that its name, inode, size and time say which file a line is
//! about: one that was replaced or damaged differs in one of them. What is not in the index is read from the files; what is there
//! of files that are gone is passed over. The index can be removed at any time.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::campaign::{AttemptHead, AttemptName, NamedHead, head};
use super::decode;
use super::error::StoreError;
use crate::record::Status;

/// Name of the file in a campaign's directory.
const INDEX: &str = ".heads";
/// Beginning of the file: another version of the format is read anew.
const MARK: &str = "vptest-heads 1\n";

/// One line.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// Name of the file.
    n: String,
    /// Which file of that name.
    f: Stamp,
    s: Status,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    r: Vec<String>,
    /// Name of the host it was run on.
    h: String,
    /// Begin and end in nanoseconds since 1970.
    a: i64,
    z: Option<i64>,
}

/// Inode, bytes, time of the last change in nanoseconds since 1970.
type Stamp = (u64, u64, i128);

/// As [`super::heads`], from the index where it has them; adds to it what it lacks.
pub(super) fn heads(dir: &Path) -> Result<Vec<NamedHead>, StoreError> {
    let there = files(dir)?;
    let mut known = read(dir);
    let mut fresh = Vec::new();
    let mut all = Vec::with_capacity(there.len());
    for (name, stamp) in there {
        let found = known.remove(&name).filter(|(of, _)| *of == stamp).map(|(_, head)| head);
        let head = match found {
            Some(head) => Ok(head),
            None => head(dir, name).inspect(|head| fresh.push(line(name, stamp, head))),
        };
        all.push((name, head));
    }
    // Without it, it only takes longer.
    if let Err(error) = append(dir, &fresh) {
        tracing::debug!("cannot write {}: {error}", dir.join(INDEX).display());
    }
    Ok(all)
}

/// Iteration files and what tells them from others of their names: by identity, then by attempt.
fn files(dir: &Path) -> Result<Vec<(AttemptName, Stamp)>, StoreError> {
    let io = |error| StoreError::io("list", dir, error);
    let mut all = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(all),
        entries => entries.map_err(io)?,
    };
    for entry in entries {
        let entry = entry.map_err(io)?;
        if let Some(name) = entry.file_name().to_str().and_then(|name| name.parse::<AttemptName>().ok()) {
            let about = match entry.metadata() {
                // It went meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                about => about.map_err(io)?,
            };
            let time = i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec());
            all.push((name, (about.ino(), about.len(), time)));
        }
    }
    all.sort_unstable_by_key(|(name, _)| (name.identity, name.attempt, name.number));
    Ok(all)
}

/// What the index has; nothing where it cannot be read. A line that was not written to its end is passed over.
fn read(dir: &Path) -> HashMap<AttemptName, (Stamp, AttemptHead)> {
    let bytes = std::fs::read(dir.join(INDEX)).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let Some(lines) = text.strip_prefix(MARK) else { return HashMap::new() };
    let entry = |line: &str| {
        let entry: Entry = serde_json::from_str(line).ok()?;
        let outcome = decode::outcome_of(entry.s, entry.r).ok()?;
        let head = AttemptHead { outcome, started_ns: entry.a, finished_ns: entry.z, host: entry.h };
        Some((entry.n.parse().ok()?, (entry.f, head)))
    };
    lines.lines().filter_map(entry).collect()
}

fn line(name: AttemptName, stamp: Stamp, head: &AttemptHead) -> String {
    let entry = Entry {
        n: name.to_string(),
        f: stamp,
        s: head.outcome.status(),
        r: head.outcome.reasons(),
        h: head.host.clone(),
        a: head.started_ns,
        z: head.finished_ns,
    };
    serde_json::to_string(&entry).expect("an entry is text and numbers") + "\n"
}

/// Appends lines; whoever else does so at this moment, does so after or before.
fn append(dir: &Path, lines: &[String]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let path = dir.join(INDEX);
    let mut file = File::options().read(true).append(true).create(true).open(&path)?;
    file.lock()?;
    let length = file.metadata()?.len();
    let mut begin = vec![0; MARK.len()];
    let is_ours = io::Read::read_exact(&mut &file, &mut begin).is_ok() && begin == MARK.as_bytes();
    let mut text = String::new();
    if !is_ours {
        file.set_len(0)?;
        text.push_str(MARK);
    } else if !ends_line(&file, length)? {
        text.push('\n');
    }
    text.extend(lines.iter().map(String::as_str));
    file.write_all(text.as_bytes())
}

fn ends_line(file: &File, length: u64) -> io::Result<bool> {
    let mut last = [0];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut last, length.saturating_sub(1))?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{IterationNumber, Stage};
    use crate::record::{IterationRecord, Outcome};
    use crate::store::tests::records::sample;
    use crate::store::write_iteration;

    fn write(dir: &Path, number: u32, outcome: Outcome) {
        let mut record = IterationRecord { outcome, ..sample(7) };
        record.header.number = IterationNumber(number);
        record.header.identity = crate::ids::ShortHash::of(&number.to_le_bytes());
        write_iteration(dir, &record).unwrap();
    }

    fn outcomes(dir: &Path) -> Vec<(u32, Outcome)> {
        let mut all: Vec<_> =
            heads(dir).unwrap().into_iter().map(|(name, head)| (name.number.0, head.unwrap().outcome)).collect();
        all.sort_by_key(|(number, _)| *number);
        all
    }

    #[test]
    fn the_index_says_what_the_files_say() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::Workload;
        let all = [
            Outcome::Complete,
            Outcome::Suspect(vec!["a; b".to_owned(), "c".to_owned()]),
            Outcome::Failed { stage, error: "x: y".to_owned() },
            Outcome::TimedOut { stage },
            Outcome::Interrupted { stage, by: "Ctrl-C".to_owned() },
        ];
        let expected: Vec<(u32, Outcome)> = (1..).zip(all.clone()).collect();
        for (number, outcome) in &expected {
            write(dir.path(), *number, outcome.clone());
        }
        assert_eq!(outcomes(dir.path()), expected);
        let text = std::fs::read_to_string(dir.path().join(INDEX)).unwrap();
        assert_eq!(text.lines().count(), 6);
        // What the index says is believed.
        std::fs::write(dir.path().join(INDEX), text.replacen("complete", "suspect", 1)).unwrap();
        assert_eq!(outcomes(dir.path())[0], (1, Outcome::Suspect(Vec::new())));
        std::fs::write(dir.path().join(INDEX), &text).unwrap();
        assert_eq!(outcomes(dir.path()), expected);
        assert_eq!(std::fs::read_to_string(dir.path().join(INDEX)).unwrap(), text);
    }

    #[test]
    fn a_file_that_was_replaced_and_one_that_is_gone_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1, Outcome::Complete);
        write(dir.path(), 2, Outcome::Complete);
        assert_eq!(outcomes(dir.path()).len(), 2);
        let names: Vec<_> = heads(dir.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        let (first, second) = (dir.path().join(names[0].to_string()), dir.path().join(names[1].to_string()));
        std::fs::copy(&second, dir.path().join("beside")).unwrap();
        std::fs::rename(dir.path().join("beside"), &first).unwrap();
        std::fs::remove_file(second).unwrap();
        let after = heads(dir.path()).unwrap();
        assert_eq!(after.len(), 1);
        // It holds another attempt than its name says.
        after[0].1.as_ref().unwrap_err();
        std::fs::write(&first, "SQLite").unwrap();
        heads(dir.path()).unwrap()[0].1.as_ref().unwrap_err();
    }

    #[test]
    fn a_damaged_index_is_none() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1, Outcome::Complete);
        for damage in [&b"vptest-heads 0\nx\n"[..], b"\xff\xfe", b"vptest-heads 1\n{\"n\":\"0000"] {
            std::fs::write(dir.path().join(INDEX), damage).unwrap();
            assert_eq!(outcomes(dir.path()), [(1, Outcome::Complete)], "{damage:?}");
            assert_eq!(outcomes(dir.path()), [(1, Outcome::Complete)], "{damage:?}");
        }
    }
}
