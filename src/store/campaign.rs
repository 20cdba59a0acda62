//! What a campaign directory holds, from the names of its files.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::chosen::Chosen;
use super::dataset::Reading;
use super::error::StoreError;
use super::index;
use super::query::{Database, MetricError};
use super::reader::RecordFile;
use crate::ids::{IterationNumber, ShortHash};
use crate::record::{Environment, Header, Outcome, Status};

/// Name of an iteration file: `000007-ba7816bf8f0102.db` is attempt 2 at identity `ba7816bf8f01`, number 7.
///
/// After the number at least six digits wide come the identity (12 hex digits) and the attempt (at least two lower-case hex
/// digits, without more leading zeros than that). `Display` and `FromStr` are inverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptName {
    /// Position in run order at the time it ran.
    pub number: IterationNumber,
    /// What resuming goes by.
    pub identity: ShortHash,
    /// From 1.
    pub attempt: u32,
}

impl AttemptName {
    /// The name of the file of this attempt.
    pub fn of(header: &Header) -> Self {
        Self { number: header.number, identity: header.identity, attempt: header.attempt }
    }

    /// The directory for raw artifacts of this attempt: `000007-ba7816bf8f0102.d`.
    pub fn artifacts(&self, dir: &Path) -> PathBuf {
        dir.join(self.to_string()).with_extension("d")
    }
}

impl fmt::Display for AttemptName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}-{}{:02x}.db", self.number.0, self.identity, self.attempt)
    }
}

/// The text was not the name of an iteration file.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not the name of an iteration file (000007-ba7816bf8f0101.db)")]
pub struct BadAttemptName(String);

impl FromStr for AttemptName {
    type Err = BadAttemptName;

    fn from_str(text: &str) -> Result<Self, BadAttemptName> {
        let parse = || {
            let (number, rest) = text.strip_suffix(".db")?.split_once('-')?;
            let (identity, attempt) = rest.split_at_checked(12)?;
            let name = Self {
                number: IterationNumber(number.parse().ok()?),
                identity: identity.parse().ok()?,
                attempt: u32::from_str_radix(attempt, 16).ok()?,
            };
            // One name for one attempt: `+7`, `0007` and upper case are not ours.
            let is_ours = is_padded(number, 6, u8::is_ascii_digit)
                && is_padded(attempt, 2, |digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
            (is_ours && name.attempt > 0 && name.number.0 > 0).then_some(name)
        };
        parse().ok_or_else(|| BadAttemptName(text.to_owned()))
    }
}

/// Is it so wide, or wider without a leading zero, and of these digits alone?
fn is_padded(text: &str, width: usize, is_digit: impl Fn(&u8) -> bool) -> bool {
    let wide = text.len() == width || (text.len() > width && !text.starts_with('0'));
    wide && text.as_bytes().iter().all(is_digit)
}

/// Attempts of a campaign directory, by identity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attempts {
    by_identity: BTreeMap<ShortHash, Vec<AttemptName>>,
    count: usize,
}

impl Attempts {
    /// Attempts at `identity` in ascending order; empty when there is none.
    pub fn of(&self, identity: ShortHash) -> &[AttemptName] {
        self.by_identity.get(&identity).map_or(&[], Vec::as_slice)
    }

    /// Number the next attempt at `identity` gets.
    pub fn next(&self, identity: ShortHash) -> u32 {
        self.of(identity).last().map_or(1, |last| last.attempt + 1)
    }

    /// All attempts: by identity, then by attempt.
    pub fn iter(&self) -> impl Iterator<Item = &AttemptName> {
        self.by_identity.values().flatten()
    }

    /// Number of attempts.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds an attempt, unless it is there.
    pub fn add(&mut self, name: AttemptName) {
        let list = self.by_identity.entry(name.identity).or_default();
        if let Err(at) = list.binary_search_by_key(&order(&name), order) {
            list.insert(at, name);
            self.count += 1;
        }
    }
}

impl FromIterator<AttemptName> for Attempts {
    fn from_iter<I: IntoIterator<Item = AttemptName>>(names: I) -> Self {
        let mut attempts = Self::default();
        for name in names {
            attempts.by_identity.entry(name.identity).or_default().push(name);
            attempts.count += 1;
        }
        for list in attempts.by_identity.values_mut() {
            list.sort_unstable_by_key(order);
        }
        attempts
    }
}

/// Attempts at an identity are in this order.
const fn order(name: &AttemptName) -> (u32, IterationNumber) {
    (name.attempt, name.number)
}

/// Lists the iteration files in `dir` by their names; opens none of them. Other files are passed over.
///
/// A directory that does not exist has no attempts.
pub fn scan(dir: &Path) -> Result<Attempts, StoreError> {
    let mut names = Vec::new();
    each_name(dir, |name| names.extend(name.parse::<AttemptName>()))?;
    Ok(names.into_iter().collect())
}

/// Number the next attempt at `identity` gets in `dir`.
///
/// Two processes may be given the same number; [`super::write_iteration`] then lets only one of them have it. To ask
/// for many identities, [`scan`] once.
pub fn next_attempt(dir: &Path, identity: ShortHash) -> Result<u32, StoreError> {
    Ok(scan(dir)?.next(identity))
}

/// What the first look into an iteration file tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptHead {
    /// How it ended.
    pub outcome: Outcome,
    /// Wall clock, nanoseconds since 1970-01-01 UTC.
    pub started_ns: i64,
    /// As `started_ns`; `None` when the attempt died without ending.
    pub finished_ns: Option<i64>,
    /// Name of the host it was run on.
    pub host: String,
}

/// Reads the head of one iteration file in `dir`: its iteration row alone, without verifying the rest.
///
/// # Errors
/// When the file cannot be read or holds another attempt than its name says.
pub fn head(dir: &Path, name: AttemptName) -> Result<AttemptHead, StoreError> {
    let path = dir.join(name.to_string());
    let rows = RecordFile::open(&path)?.headers()?;
    match <[_; 1]>::try_from(rows) {
        Ok([row]) if AttemptName::of(&row.header) == name => Ok(AttemptHead {
            outcome: row.outcome,
            started_ns: row.header.started_ns,
            finished_ns: row.header.finished_ns,
            host: row.header.host,
        }),
        Ok([row]) => Err(StoreError::corrupt(&path, format!("it holds {}", AttemptName::of(&row.header)))),
        Err(rows) => Err(StoreError::corrupt(&path, format!("it holds {} iterations, not one", rows.len()))),
    }
}

/// Reads the environment of one iteration file in `dir`, without verifying the rest.
pub fn environment(dir: &Path, name: AttemptName) -> Result<Vec<Environment>, StoreError> {
    RecordFile::open(&dir.join(name.to_string()))?.environment()
}

/// What an iteration file says of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The value.
    pub reading: Reading,
    /// Its unit.
    pub unit: String,
}

/// Reads metrics of a complete iteration file in `dir`, each by a name that [`Database::values`] takes. What is read is verified.
///
/// # Errors
/// When the file cannot be read. Metrics that are not there, or cannot be given, are entries.
pub fn measured(
    dir: &Path,
    name: AttemptName,
    metrics: &[String],
) -> Result<Vec<Result<Measured, MetricError>>, StoreError> {
    let path = dir.join(name.to_string());
    let dataset = Database::open(&path)?.chosen(&Chosen::Named(metrics.to_vec()), &[Status::Complete])?;
    let one = |metric: &String| {
        let column = dataset.find(metric)?;
        let observations = dataset.observations(column).map_err(|error| error.of(metric))?;
        let reading = column.values.first().copied().unwrap_or(Reading::NotMeasured);
        Ok(Measured { reading, unit: observations.unit })
    };
    Ok(metrics.iter().map(one).collect())
}

/// An iteration file and its head, or why that cannot be read.
pub type NamedHead = (AttemptName, Result<AttemptHead, StoreError>);

/// Reads the head of every iteration file in `dir`, in the order of [`Attempts::iter`]. A file that cannot be read is an
/// entry, not an error. Files that were read once are not read again: what they said is noted in `.heads` beside them.
pub fn heads(dir: &Path) -> Result<Vec<NamedHead>, StoreError> {
    index::heads(dir)
}

/// Files that writers or merges which are dead left in `dir`; they can be removed.
///
/// A file counts as left behind when no process of this host has the PID in its name and nobody holds its lock.
pub fn stale_temps(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut stale = Vec::new();
    each_name(dir, |name| {
        if let Some(pid) = temp_pid(name) {
            let path = dir.join(name);
            if !Path::new("/proc").join(pid.to_string()).exists() && unlocked(&path) {
                stale.push(path);
            }
        }
    })?;
    stale.sort_unstable();
    Ok(stale)
}

/// The PID in the name of a temporary file: `.NAME.db.PID-RANDOM.tmp`, with SQLite's `-journal` or not.
fn temp_pid(name: &str) -> Option<u32> {
    let name = name.strip_suffix("-journal").unwrap_or(name);
    let (front, _random) = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('-')?;
    let (file, pid) = front.rsplit_once('.')?;
    (file.ends_with(".db")).then(|| pid.parse().ok()).flatten()
}

fn unlocked(path: &Path) -> bool {
    match File::open(path).map(|file| file.try_lock_shared()) {
        Ok(Ok(())) => true,
        Ok(Err(std::fs::TryLockError::Error(error))) => error.kind() == std::io::ErrorKind::Unsupported,
        Ok(Err(std::fs::TryLockError::WouldBlock)) | Err(_) => false,
    }
}

fn each_name(dir: &Path, mut visit: impl FnMut(&str)) -> Result<(), StoreError> {
    let io = |error| StoreError::io("list", dir, error);
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(io)?,
    };
    for entry in entries {
        if let Some(name) = entry.map_err(io)?.file_name().to_str() {
            visit(name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip() {
        let identity = ShortHash::of(b"abc");
        for (number, attempt, text) in [
            (7, 1, "000007-ba7816bf8f0101.db"),
            (1_234_567, 255, "1234567-ba7816bf8f01ff.db"),
            (1, 256, "000001-ba7816bf8f01100.db"),
        ] {
            let name = AttemptName { number: IterationNumber(number), identity, attempt };
            assert_eq!(name.to_string(), text);
            assert_eq!(text.parse::<AttemptName>().unwrap(), name);
        }
    }

    #[test]
    fn other_names_are_passed_over() {
        for name in [
            "",
            "merged.db",
            "7-ba7816bf8f0101.db",
            "+00007-ba7816bf8f0101.db",
            "000007-ba7816bf8f0100.db",
            "000000-ba7816bf8f0101.db",
            "000007-BA7816BF8F0101.db",
            "000007-ba7816bf8f01.db",
            "000007-ba7816bf8f010001.db",
            "000007-ba7816bf8f010A.db",
            "000007-ba7816bf8fä01.db",
            ".000007-ba7816bf8f0101.db.12-abc.tmp",
        ] {
            assert!(name.parse::<AttemptName>().is_err(), "{name} was taken for an attempt");
        }
    }

    #[test]
    fn attempts_are_counted_by_identity() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["000009-ba7816bf8f0102.db", "000007-ba7816bf8f0101.db", "000008-0123456789ab0a.db", "plan.json"] {
            File::create(dir.path().join(name)).unwrap();
        }
        let attempts = scan(dir.path()).unwrap();
        assert_eq!(attempts.len(), 3);
        assert_eq!(attempts.next(ShortHash::of(b"abc")), 3);
        assert_eq!(attempts.next("0123456789ab".parse().unwrap()), 11);
        assert_eq!(next_attempt(dir.path(), ShortHash::of(b"new")).unwrap(), 1);
        assert!(scan(&dir.path().join("absent")).unwrap().is_empty());
    }

    #[test]
    fn files_of_dead_writers_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let dead = dir.path().join(".000007-ba7816bf8f0101.db.4194305-abcdef.tmp");
        let journal = dir.path().join(".merged.db.4194305-abcdef.tmp-journal");
        File::create(&dead).unwrap();
        File::create(&journal).unwrap();
        File::create(dir.path().join(".bashrc.tmp")).unwrap();
        let alive = super::super::writer::temp_beside(&dir.path().join("merged.db")).unwrap();
        assert_eq!(stale_temps(dir.path()).unwrap(), [dead, journal]);
        drop(alive);
    }
}
