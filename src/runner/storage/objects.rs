//! Equal files of a campaign are one file with several names.
//!
//! `OUT/.objects/AB/CDEF…` is a symbolic link, named after a SHA-256, to a file that had it. It is a hint: a file is linked to
//! another only when both were read and are equal, and nobody may write to the other. So a file that was changed or removed since does no harm, the links can be
//! removed at any time, and they keep no file from being removed. Where there are no hard links, files stay as they are.

use std::fs::{File, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Once;

use sha2::{Digest as _, Sha256};

use super::{SMALL_BYTES, is_artifact};
use crate::text::hex;

/// Name of the directory below a campaign's.
const DIRECTORY: &str = ".objects";
/// From one of the links to the campaign's directory.
const UP: &str = "../..";
/// Bits of a mode that must be the same, since linked files share one. Nobody may write to a file that has several names.
const READABLE: u32 = 0o555;
const WRITABLE: u32 = 0o222;

/// What is known of the contents of a campaign's files.
#[derive(Debug, Clone)]
pub(crate) struct Objects {
    out: PathBuf,
}

/// What became of some files.
#[derive(Debug, Default)]
pub(crate) struct Deduplicated {
    /// Files that are now another name of one that was stored before.
    pub(crate) linked: u32,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Why one of them could not be looked at; it stays as it is.
    pub(crate) problem: Option<String>,
}

impl Objects {
    /// Of the campaign in this directory.
    pub(crate) fn new(out: &Path) -> Self {
        Self { out: out.to_owned() }
    }

    /// Looks for the contents of these files, which lie in directories of attempts, among those that were stored before.
    /// When `may_go_on` says no, the rest stays as it is.
    pub(crate) fn deduplicate(&self, files: &[PathBuf], may_go_on: &dyn Fn() -> bool) -> Deduplicated {
        let mut done = Deduplicated::default();
        for path in files.iter().take_while(|_| may_go_on()) {
            match self.one(path) {
                Ok(0) => {}
                Ok(bytes) => {
                    done.linked += 1;
                    done.bytes += bytes;
                }
                Err(error) => done.problem = done.problem.or(Some(format!("{}: {error}", path.display()))),
            }
        }
        done
    }

    /// Bytes that were stored before; 0 when they were not.
    fn one(&self, path: &Path) -> io::Result<u64> {
        let metadata = path.symlink_metadata()?;
        if !metadata.is_file() || metadata.len() <= SMALL_BYTES {
            return Ok(0);
        }
        let entry = self.entry(&hash(path)?);
        if let Some(other) = self.known(&entry) {
            match link_over(&other, path, entry.parent().unwrap_or(&self.out)) {
                Ok(true) => return Ok(metadata.len()),
                Ok(false) => {}
                // That file may be gone, or have as many names as it can have: this one is linked to from now on.
                Err(error) => tell_once(&error),
            }
        }
        self.note(&entry, path)?;
        Ok(0)
    }

    fn entry(&self, sum: &str) -> PathBuf {
        self.out.join(DIRECTORY).join(&sum[..2]).join(&sum[2..])
    }

    /// Where a file of that content was.
    fn known(&self, entry: &Path) -> Option<PathBuf> {
        let target = std::fs::read_link(entry).ok()?;
        let path = target.strip_prefix(UP).ok().filter(|path| is_artifact(path))?;
        Some(self.out.join(path))
    }

    fn note(&self, entry: &Path, path: &Path) -> io::Result<()> {
        let inside = path.strip_prefix(&self.out).map_err(io::Error::other)?;
        let directory = entry.parent().unwrap_or(&self.out);
        std::fs::create_dir_all(directory)?;
        // Others will stand on it: it must not be lost with the power, nor be written to by accident.
        let file = File::open(path)?;
        file.set_permissions(Permissions::from_mode(file.metadata()?.mode() & READABLE))?;
        file.sync_all()?;
        let target = Path::new(UP).join(inside);
        let make = |link: &Path| std::os::unix::fs::symlink(&target, link);
        let link = tempfile::Builder::new().prefix(".").make_in(directory, make)?;
        link.into_temp_path().persist(entry).map_err(|error| error.error)
    }
}

/// Gives `other` the name `path`, too, in the place of the file that has it; `false` when they are not equal.
///
/// The other gets a name in `beside` first: what is compared is what is linked, whatever happens to its old name meanwhile.
fn link_over(other: &Path, path: &Path, beside: &Path) -> io::Result<bool> {
    let link = tempfile::Builder::new().prefix(".").make_in(beside, |link| std::fs::hard_link(other, link))?;
    if !is_same(link.path(), path)? {
        return Ok(false);
    }
    link.into_temp_path().persist(path).map_err(|error| error.error)?;
    File::open(path.parent().unwrap_or(beside))?.sync_all()?;
    Ok(true)
}

fn tell_once(error: &io::Error) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| tracing::debug!("equal files are stored more than once, as no link can be made: {error}"));
}

/// Are these two files with equal contents, of which nobody may write to the first? Not when they are one already.
fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (a, b) = (one.symlink_metadata()?, other.symlink_metadata()?);
    let is_alike = a.is_file() && a.len() == b.len() && (a.mode() ^ b.mode()) & READABLE == 0;
    let is_one = (a.dev(), a.ino()) == (b.dev(), b.ino());
    let is_fixed = a.mode() & WRITABLE == 0;
    Ok(is_alike && is_fixed && !is_one && has_same_content(File::open(one)?, File::open(other)?)?)
}

fn has_same_content(one: File, other: File) -> io::Result<bool> {
    const CHUNK: u64 = 1 << 16;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    loop {
        a.clear();
        b.clear();
        (&one).take(CHUNK).read_to_end(&mut a)?;
        (&other).take(CHUNK).read_to_end(&mut b)?;
        if a != b || a.is_empty() {
            return Ok(a == b);
        }
    }
}

fn hash(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}
