//! What workers sent becomes iteration files of the campaign: verified, absent or whole, and never in the place of another.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::record::IterationRecord;
use crate::runner::{Objects, files_of};
use crate::store::{self, AttemptName, RecordFile, StoreError};
use crate::text::{hex, printable};

/// Where files lie until their attempt is whole; on the file system of the campaign.
#[derive(Debug)]
pub(super) struct Collector {
    out: PathBuf,
    staging: PathBuf,
    /// Where equal files are to be stored once.
    objects: Option<Objects>,
    /// Files of stored attempts whose contents nobody has looked for.
    new: Vec<PathBuf>,
}

/// What became of a file.
#[derive(Debug)]
pub(super) enum Collected {
    /// It waits for the database of its attempt.
    Waiting,
    /// An attempt is stored.
    Stored(Box<(IterationRecord, PathBuf)>),
    /// It was stored before.
    Known,
}

/// Why something that was sent is not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum CollectError {
    #[error("`{0}` is no name of a file of an iteration")]
    Name(String),
    #[error("{name} is not as it was sent: its SHA-256 is {found}, not {said}")]
    Changed { name: String, said: String, found: String },
    #[error("{0} holds another attempt")]
    Other(String),
    #[error(
        "{name} is stored already with another content: the same attempt was run twice; this one is kept as {kept}"
    )]
    Twice { name: String, kept: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot {what} {path}: {source}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CollectError + 'a {
    move |source| CollectError::Io { what, path: path.to_owned(), source }
}

/// Of an artifact: bytes of a name and of its path, directories.
const LONGEST_NAME: usize = 255;
const LONGEST_PATH: usize = 1024;
const DEEPEST: usize = 32;
/// More attempts than anybody makes at an iteration.
const MOST_ATTEMPTS: u32 = 100_000;

/// The attempt a file belongs to, by its name; an artifact has a path in the attempt's directory.
fn attempt_of(name: &str) -> Option<AttemptName> {
    let path = Path::new(name);
    let mut components = path.components();
    let Some(Component::Normal(first)) = components.next() else { return None };
    let first = first.to_str()?;
    let rest: Vec<Component<'_>> = components.collect();
    let is_plain = |component: &Component<'_>| match component {
        Component::Normal(name) => name.len() <= LONGEST_NAME,
        _ => false,
    };
    let is_dull = name.len() <= LONGEST_PATH && !name.ends_with('/') && !name.contains(|c: char| c.is_control());
    if !is_dull || rest.len() > DEEPEST || !rest.iter().all(is_plain) {
        return None;
    }
    match first.strip_suffix(".d") {
        Some(stem) if !rest.is_empty() => format!("{stem}.db").parse().ok(),
        None if rest.is_empty() => first.parse().ok(),
        _ => None,
    }
}

impl Collector {
    /// Stores in `out`; `staging` must be on the same file system.
    pub(super) fn new(out: &Path, staging: PathBuf) -> Self {
        Self { out: out.to_owned(), staging, objects: None, new: Vec::new() }
    }

    /// With equal files, of whichever hosts, stored once.
    pub(super) fn deduplicating(self, deduplicate: bool) -> Self {
        Self { objects: deduplicate.then(|| Objects::new(&self.out)), ..self }
    }

    /// Takes a file that was sent: `bytes` bytes of `from`, beginning at `at`.
    pub(super) fn take(
        &mut self,
        name: &str,
        (from, at, bytes): (&File, u64, u64),
        sha256: &str,
    ) -> Result<Collected, CollectError> {
        let attempt = attempt_of(name)
            .filter(|attempt| attempt.attempt <= MOST_ATTEMPTS)
            .ok_or_else(|| CollectError::Name(printable(name, 200)))?;
        let path = self.staging.join(name);
        let parent = path.parent().unwrap_or(&self.staging);
        std::fs::create_dir_all(parent).map_err(failed("create", parent))?;
        let found = copy(from, at, bytes, &path)?;
        if found != sha256 {
            let said = printable(sha256, 64);
            return Err(CollectError::Changed { name: name.to_owned(), said, found });
        }
        if name == attempt.to_string() { self.store(attempt, &path) } else { Ok(Collected::Waiting) }
    }

    fn store(&mut self, attempt: AttemptName, path: &Path) -> Result<Collected, CollectError> {
        let record = read(attempt, path)?;
        let place = self.out.join(attempt.to_string());
        if place.exists() {
            return self.again(attempt, path, &place);
        }
        let artifacts = attempt.artifacts(&self.staging);
        let kept = attempt.artifacts(&self.out);
        if artifacts.exists() {
            // Of an attempt that was not stored there can be no files that anybody needs.
            remove(&kept)?;
            std::fs::rename(&artifacts, &kept).map_err(failed("move", &artifacts))?;
        }
        store::adopt(path, &place)?;
        if self.objects.is_some() && kept.exists() {
            self.new.extend(files_of(&kept).map_err(failed("list", &kept))?);
        }
        Ok(Collected::Stored(Box::new((record, place))))
    }

    /// Stores files that are equal, to each other or to earlier ones, once; were there any? It reads all that has come since the last
    /// time, so it is nothing to do while workers are listened to. When `may_go_on` says no, the rest stays as it is.
    pub(super) fn deduplicate(&mut self, may_go_on: &dyn Fn() -> bool) -> bool {
        let new = std::mem::take(&mut self.new);
        let Some(objects) = &self.objects else { return false };
        let done = objects.deduplicate(&new, may_go_on);
        if let Some(problem) = done.problem {
            tracing::warn!("equal files are stored more than once: {problem}");
        }
        done.linked > 0
    }

    /// The same file once more, or another one of the same name.
    fn again(&self, attempt: AttemptName, path: &Path, place: &Path) -> Result<Collected, CollectError> {
        let content = |path: &Path| std::fs::read(path).map_err(failed("read", path));
        if content(path)? == content(place)? {
            remove(&attempt.artifacts(&self.staging))?;
            std::fs::remove_file(path).map_err(failed("remove", path))?;
            return Ok(Collected::Known);
        }
        let kept = self.staging.with_extension("twice");
        std::fs::create_dir_all(&kept).map_err(failed("create", &kept))?;
        let to = kept.join(attempt.to_string());
        std::fs::rename(path, &to).map_err(failed("move", path))?;
        let artifacts = attempt.artifacts(&self.staging);
        if artifacts.exists() {
            std::fs::rename(&artifacts, attempt.artifacts(&kept)).map_err(failed("move", &artifacts))?;
        }
        Err(CollectError::Twice { name: attempt.to_string(), kept: to.display().to_string() })
    }

    /// Forgets files of attempts that never became whole.
    pub(super) fn clear(&self) -> Result<(), CollectError> {
        remove(&self.staging)
    }
}

/// The one record of the file, verified.
fn read(attempt: AttemptName, path: &Path) -> Result<IterationRecord, CollectError> {
    let file = RecordFile::open(path)?;
    let mut records = file.records()?;
    let other = || CollectError::Other(attempt.to_string());
    let record = records.next().ok_or_else(other)??.record;
    if records.next().is_some() || AttemptName::of(&record.header) != attempt {
        return Err(other());
    }
    Ok(record)
}

fn remove(directory: &Path) -> Result<(), CollectError> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", directory)(error)),
        _ => Ok(()),
    }
}

/// Copies a part of a file and returns its SHA-256.
fn copy(from: &File, at: u64, bytes: u64, to: &Path) -> Result<String, CollectError> {
    let mut out = File::create(to).map_err(failed("create", to))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut done = 0;
    while done < bytes {
        let most = usize::try_from(bytes - done).unwrap_or(usize::MAX).min(buffer.len());
        let read = from.read_at(&mut buffer[..most], at + done).map_err(failed("read for", to))?;
        if read == 0 {
            return Err(failed("read for", to)(io::ErrorKind::UnexpectedEof.into()));
        }
        hash.update(&buffer[..read]);
        out.write_all(&buffer[..read]).map_err(failed("write", to))?;
        done += read as u64;
    }
    out.sync_all().map_err(failed("write", to))?;
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::records::sample;
    use crate::store::write_iteration;

    /// A file that was sent: its bytes, and their sum.
    struct Sent(File, u64, String);

    fn sent(directory: &Path, content: &[u8]) -> Sent {
        let path = directory.join("stream");
        std::fs::write(&path, [b"before", content].concat()).unwrap();
        Sent(File::open(path).unwrap(), content.len() as u64, hex(&Sha256::digest(content)))
    }

    fn take(collector: &mut Collector, name: &str, Sent(file, bytes, sum): &Sent) -> Result<Collected, CollectError> {
        collector.take(name, (file, 6, *bytes), sum)
    }

    #[test]
    fn an_attempt_is_stored_with_its_database() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let record = sample(7);
        let path = write_iteration(there.path(), &record).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let database = std::fs::read(&path).unwrap();
        let mut collector = Collector::new(here.path(), here.path().join(".dispatch/incoming"));
        let pcap = name.replace(".db", ".d/client1.pcapng");
        let waiting = take(&mut collector, &pcap, &sent(there.path(), b"packets")).unwrap();
        assert!(matches!(waiting, Collected::Waiting));
        assert!(!here.path().join(&pcap).exists());
        let Collected::Stored(stored) = take(&mut collector, &name, &sent(there.path(), &database)).unwrap() else {
            panic!("not stored")
        };
        assert_eq!((stored.0, stored.1.clone()), (record, here.path().join(&name)));
        assert_eq!(std::fs::read(here.path().join(&pcap)).unwrap(), b"packets");
        assert_eq!(std::fs::read(here.path().join(&name)).unwrap(), database);
        let again = take(&mut collector, &name, &sent(there.path(), &database)).unwrap();
        assert!(matches!(again, Collected::Known));
    }

    #[test]
    fn equal_files_of_two_hosts_are_stored_once() {
        use std::os::unix::fs::MetadataExt as _;
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut collector = Collector::new(here.path(), here.path().join(".dispatch/incoming")).deduplicating(true);
        let pages = [7, 8].map(|number| {
            let path = write_iteration(there.path(), &sample(number)).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let page = name.replace(".db", ".d/client1/page");
            take(&mut collector, &page, &sent(there.path(), &[7; 5000])).unwrap();
            let database = std::fs::read(&path).unwrap();
            let stored = take(&mut collector, &name, &sent(there.path(), &database)).unwrap();
            assert!(matches!(stored, Collected::Stored(_)));
            assert_eq!(std::fs::read(here.path().join(&page)).unwrap(), [7; 5000]);
            here.path().join(page)
        });
        let inodes = || pages.each_ref().map(|page| std::fs::metadata(page).unwrap().ino());
        let before = inodes();
        assert_ne!(before[0], before[1], "not while workers are listened to");
        assert!(collector.deduplicate(&|| true) && !collector.deduplicate(&|| true));
        assert_eq!(inodes(), [before[0]; 2]);
        assert_eq!(std::fs::read(&pages[1]).unwrap(), [7; 5000]);
    }

    #[test]
    fn the_same_attempt_with_another_content_is_kept_apart() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = write_iteration(here.path(), &sample(7)).unwrap();
        let before = std::fs::read(&first).unwrap();
        let mut other = sample(7);
        other.header.host = "another".to_owned();
        let path = write_iteration(there.path(), &other).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut collector = Collector::new(here.path(), here.path().join(".dispatch/incoming"));
        let content = std::fs::read(&path).unwrap();
        let error = take(&mut collector, &name, &sent(there.path(), &content)).unwrap_err();
        assert!(error.to_string().contains("the same attempt was run twice"), "{error}");
        assert_eq!(std::fs::read(&first).unwrap(), before);
        assert_eq!(std::fs::read(here.path().join(".dispatch/incoming.twice").join(&name)).unwrap(), content);
    }

    #[test]
    fn what_is_not_as_it_should_be_is_not_stored() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut collector = Collector::new(here.path(), here.path().join("incoming"));
        let path = write_iteration(there.path(), &sample(7)).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let content = std::fs::read(&path).unwrap();
        let mut wrong = sent(there.path(), &content);
        wrong.2 = "00".repeat(32);
        assert!(matches!(take(&mut collector, &name, &wrong), Err(CollectError::Changed { .. })));
        let eight = name.replace("000007", "000008");
        assert!(matches!(take(&mut collector, &eight, &sent(there.path(), &content)), Err(CollectError::Other(_))));
        let cut = sent(there.path(), &content[..content.len() / 2]);
        assert!(matches!(take(&mut collector, &name, &cut), Err(CollectError::Store(_))));
        for bad in [
            "../x.db",
            "/etc/passwd",
            "plan.json",
            "000007-ba7816bf8f0101.d/../../x",
            "000007-ba7816bf8f0101.d",
            "000007-ba7816bf8f0101.d/a/",
            "000007-ba7816bf8f0101.d/a\0",
        ] {
            assert!(
                matches!(take(&mut collector, bad, &sent(there.path(), b"x")), Err(CollectError::Name(_))),
                "{bad}"
            );
        }
        assert_eq!(store::scan(here.path()).unwrap().len(), 0);
    }
}
