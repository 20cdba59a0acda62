//! Attempts that were begun on hosts, noted before anything comes of them: a number that was used is not used again, though
//! its host may never be heard of any more.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use super::frame::Doing;
use super::share::Floors;
use crate::ids::IterationNumber;

/// See the module. One line each: `NUMBER ATTEMPT HOST`.
pub(super) struct Journal {
    file: File,
    pub(super) floors: Floors,
}

impl Journal {
    /// With what earlier coordinators noted. A line that was not written to its end is passed over.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join("begun");
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let text = String::from_utf8_lossy(&bytes);
        let mut floors = Floors::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let mut number = || words.next()?.parse::<u32>().ok();
            if let (Some(iteration), Some(attempt)) = (number(), number()) {
                floors.raise(IterationNumber(iteration), attempt);
            }
        }
        let mut file = File::options().append(true).create(true).open(&path)?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n")?;
        }
        Ok(Self { file, floors })
    }

    /// An attempt was begun on a host.
    pub(super) fn note(&mut self, doing: &Doing, host: &str) -> io::Result<()> {
        self.floors.raise(doing.number, doing.attempt);
        self.file.write_all(format!("{} {} {host}\n", doing.number.0, doing.attempt).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Stage;

    #[test]
    fn what_was_begun_is_known_to_the_next_coordinator() {
        let directory = tempfile::tempdir().unwrap();
        let doing = Doing { number: IterationNumber(7), attempt: 2, stage: Stage::Preflight };
        Journal::open(directory.path()).unwrap().note(&doing, "kn1").unwrap();
        let mut file = File::options().append(true).open(directory.path().join("begun")).unwrap();
        file.write_all(b"8").unwrap();
        let mut next = Journal::open(directory.path()).unwrap();
        assert_eq!(next.floors.turn(IterationNumber(7), 1).attempt, 3);
        assert_eq!(next.floors.turn(IterationNumber(8), 1).attempt, 1);
        next.note(&Doing { number: IterationNumber(9), ..doing }, "kn1").unwrap();
        let third = Journal::open(directory.path()).unwrap();
        assert_eq!(third.floors.turn(IterationNumber(9), 1).attempt, 3);
    }
}
