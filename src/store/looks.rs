//! Which questions were asked of a database: a file beside it, one line of JSON for each.
//!
//! Corrections for many comparisons know the contrasts of one question. Whoever asks twenty questions and quotes one has made more
//! comparisons than that. So each question is written down, where those who read the answers can find it. The database itself stays as
//! it is: its content is hashed, merging it again changes nothing, and it may be read-only.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::dataset::Dataset;
use crate::ids::ShortHash;

/// Longer files are not read to their end, nor longer lines.
const MOST_BYTES: u64 = 16 << 20;

/// One question and how much was compared for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// When it was asked, nanoseconds since 1970-01-01 UTC.
    pub at_ns: i64,
    /// `analyze` or `report`.
    pub command: String,
    /// What was asked: options that decide what is compared, by name.
    pub question: BTreeMap<String, String>,
    /// Which iterations it was asked of: a hash of their attempts.
    pub data: String,
    /// Contrasts that could be compared.
    pub contrasts: usize,
    /// Those of them with a p-value.
    pub p_values: usize,
}

/// All questions so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Looks {
    /// Different ones: asking the same of the same data again is no other look.
    pub questions: usize,
    /// Their contrasts.
    pub contrasts: usize,
    /// Lines that are no look.
    pub unreadable: usize,
    /// The file is longer than is read: there were more questions.
    pub cut: bool,
}

/// The file of a database: `merged.db.looks.jsonl`.
pub fn looks_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".looks.jsonl");
    PathBuf::from(name)
}

/// Adds a look to those of a database.
///
/// One write to a file that is opened for appending: several programs may do so at once.
///
/// # Errors
/// When the file cannot be written.
pub fn record_look(database: &Path, look: &Look) -> io::Result<()> {
    let mut line = serde_json::to_string(look).map_err(io::Error::other)?;
    line.push('\n');
    let mut options = File::options();
    let mut file = plain(options.create(true).append(true), database)?;
    file.write_all(line.as_bytes())
}

/// The looks at a database so far; none where nothing was written down.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn looks(database: &Path) -> io::Result<Looks> {
    let file = match plain(File::options().read(true), database) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Looks::default()),
        Err(error) => return Err(error),
    };
    let mut all = Looks { cut: file.metadata()?.len() > MOST_BYTES, ..Looks::default() };
    let mut different: BTreeMap<(BTreeMap<String, String>, String), usize> = BTreeMap::new();
    for line in BufReader::new(io::Read::take(file, MOST_BYTES)).split(b'\n') {
        match serde_json::from_slice::<Look>(&line?) {
            // Where two answers to one question compared unequally much, the more counts.
            Ok(look) => {
                let known = different.entry((look.question, look.data)).or_default();
                *known = look.contrasts.max(*known);
            }
            Err(_) => all.unreadable += 1,
        }
    }
    all.questions = different.len();
    all.contrasts = different.values().fold(0, |sum, &contrasts| sum.saturating_add(contrasts));
    Ok(all)
}

/// Opens the file of a database: nothing but a plain file, and never waits for somebody at the other end of a pipe.
fn plain(options: &mut OpenOptions, database: &Path) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NONBLOCK).open(looks_path(database))?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no plain file")) }
}

impl Dataset {
    /// A hash of the attempts that it is made of, whatever their order.
    pub fn attempts_hash(&self) -> ShortHash {
        let mut all: Vec<String> = self
            .iterations
            .iter()
            .chain(&self.superseded)
            .map(|i| {
                let h = &i.header;
                format!("{} {} {} {}\n", h.identity, h.attempt, h.started_ns, h.host)
            })
            .collect();
        all.sort_unstable();
        ShortHash::of(all.concat().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(metric: &str, data: &str, contrasts: usize) -> Look {
        Look {
            at_ns: 1,
            command: "analyze".to_owned(),
            question: BTreeMap::from([("metric".to_owned(), metric.to_owned())]),
            data: data.to_owned(),
            contrasts,
            p_values: contrasts,
        }
    }

    #[test]
    fn the_same_question_twice_is_one_and_other_data_make_another() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("merged.db");
        assert_eq!(looks(&database).unwrap(), Looks::default());
        let mut later = look("rps", "a", 3);
        later.at_ns = 2;
        for look in [look("rps", "a", 3), later, look("rps", "b", 4), look("cpu", "a", 5)] {
            record_look(&database, &look).unwrap();
        }
        assert_eq!(looks(&database).unwrap(), Looks { questions: 3, contrasts: 12, unreadable: 0, cut: false });
        File::options().append(true).open(looks_path(&database)).unwrap().write_all(b"no look\n").unwrap();
        assert_eq!(looks(&database).unwrap().unreadable, 1);
        assert!(record_look(&dir.path().join("none/merged.db"), &look("rps", "a", 1)).is_err());
    }

    #[test]
    fn what_others_wrote_is_never_less_and_never_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("merged.db");
        for look in [look("rps", "a", 9), look("rps", "a", 2), look("cpu", "a", usize::MAX)] {
            record_look(&database, &look).unwrap();
        }
        assert_eq!(looks(&database).unwrap().contrasts, usize::MAX);
        File::options().append(true).open(looks_path(&database)).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert!(looks(&database).unwrap().cut);
        let piped = dir.path().join("piped.db");
        nix::unistd::mkfifo(&looks_path(&piped), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(looks(&piped).unwrap_err().to_string().contains("no plain file"));
        assert!(record_look(&piped, &look("rps", "a", 1)).is_err());
    }
}
