//! What a build looked at, so that the next one can tell that nothing changed without doing it again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ImageError;

/// What the system says of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    inode: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        let ns = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Some(Self {
            size: data.size(),
            inode: data.ino(),
            modified_ns: ns(data.mtime(), data.mtime_nsec()),
            changed_ns: ns(data.ctime(), data.ctime_nsec()),
        })
    }
}

/// Files and directories that a build read or looked for, and how they were. `None`: it was not there.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct Watch(BTreeMap<PathBuf, Option<Stamp>>);

impl Watch {
    /// Notes how a path is now; returns whether it is there.
    pub(super) fn note(&mut self, path: &Path) -> bool {
        // The first look counts: what changes while a build runs must not pass as what it read.
        self.0.entry(path.to_owned()).or_insert_with(|| Stamp::of(path)).is_some()
    }

    /// Is it a file? Notes it.
    pub(super) fn is_file(&mut self, path: &Path) -> bool {
        self.note(path) && path.is_file()
    }

    /// Reads a file and notes it.
    pub(super) fn read(&mut self, path: &Path) -> Result<Vec<u8>, ImageError> {
        self.note(path);
        fs::read(path).map_err(ImageError::file("read", path))
    }

    /// Reads a file that need not be there.
    pub(super) fn read_if_there(&mut self, path: &Path) -> Result<Option<Vec<u8>>, ImageError> {
        self.note(path);
        match fs::read(path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ImageError::file("read", path)(error)),
        }
    }

    /// Is everything as it was?
    pub(super) fn is_unchanged(&self) -> bool {
        self.0.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::Watch;

    #[test]
    fn every_change_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let (file, absent) = (directory.path().join("file"), directory.path().join("absent"));
        std::fs::write(&file, "one").unwrap();
        let watch = || {
            let mut watch = Watch::default();
            assert_eq!(watch.read(&file).unwrap().len(), 3);
            assert!(!watch.note(&absent));
            watch
        };
        let first = watch();
        assert!(first.is_unchanged());
        // Replaced by one of the same size: another inode.
        std::fs::write(directory.path().join("new"), "two").unwrap();
        std::fs::rename(directory.path().join("new"), &file).unwrap();
        assert!(!first.is_unchanged());
        let second = watch();
        assert!(second.is_unchanged());
        std::fs::write(&absent, "").unwrap();
        assert!(!second.is_unchanged());
    }
}
