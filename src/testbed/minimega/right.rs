//! The right to have minimega capture, which one campaign has at a time.
//!
//! minimega numbers the captures of a bridge by how many there are, whichever namespaces they are of. When those of one
//! campaign have been stopped while another's go on, the next ones get numbers that are in use: from then on neither can be
//! stopped, and who stops his own ends the other's. Nobody is told the numbers. So a campaign that has minimega capture holds a
//! lock beside minimega's socket, from its first iteration to its last.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::{Deserialize, Serialize};

/// Name of the lock's file in minimega's directory.
const NAME: &str = "vptest-captures";
/// Bytes of the file that are read.
const LONGEST: u64 = 16 << 10;

/// Those that this process has: the two testbeds of a campaign share one.
static HELD: Mutex<Vec<Weak<Right>>> = Mutex::new(Vec::new());

/// See the module. Who drops the last of it gives the right back.
#[derive(Debug)]
pub(super) struct Right {
    file: File,
    path: PathBuf,
    holder: Holder,
}

/// Who has the right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    /// How the names of its namespaces begin.
    pub(super) namespaces: String,
    /// Its campaign's directory.
    pub(super) campaign: String,
}

impl Right {
    /// Takes the right in the minimega of this directory; what is inside is who has it instead, `None` for one that has not
    /// said yet who it is.
    ///
    /// # Errors
    /// When the lock's file cannot be made.
    pub(super) fn take(base: &Path, holder: &Holder) -> io::Result<Result<Arc<Self>, Option<Holder>>> {
        let path = base.join(NAME);
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|right| right.strong_count() > 0);
        let ours = |right: &Arc<Self>| right.path == path && right.holder == *holder && right.is_held();
        if let Some(right) = held.iter().filter_map(Weak::upgrade).find(ours) {
            return Ok(Ok(right));
        }
        loop {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            let file = options.open(&path)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(Err(read(&file))),
                Err(TryLockError::Error(error)) => return Err(error),
                Ok(()) => {}
            }
            let mut right = Self { file, path: path.clone(), holder: holder.clone() };
            // Who had it may have removed the file meanwhile.
            if right.is_held() {
                right.file.set_len(0)?;
                right.file.write_all(&serde_json::to_vec(holder)?)?;
                let right = Arc::new(right);
                held.push(Arc::downgrade(&right));
                return Ok(Ok(right));
            }
        }
    }

    /// Is it still the file that others look at? With a `nuke` of minimega's it goes.
    pub(super) fn is_held(&self) -> bool {
        let (ours, there) = (self.file.metadata(), std::fs::symlink_metadata(&self.path));
        matches!((ours, there), (Ok(ours), Ok(there)) if (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        if self.is_held() {
            // One that stays locks nobody out.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn read(file: &File) -> Option<Holder> {
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(name: &str) -> Holder {
        Holder { namespaces: format!("vptest-0-{name}-"), campaign: format!("/{name}") }
    }

    /// Once it is free: a process that another test begins has what this one drops, until it executes its program.
    fn taken(base: &Path, holder: &Holder) -> Arc<Right> {
        let begun = std::time::Instant::now();
        loop {
            if let Ok(right) = Right::take(base, holder).unwrap() {
                return right;
            }
            assert!(begun.elapsed() < std::time::Duration::from_secs(60), "it does not get free");
        }
    }

    #[test]
    fn one_campaign_has_it_and_the_others_are_told_which() {
        let base = tempfile::tempdir().unwrap();
        let first = taken(base.path(), &holder("a-long-name"));
        for _ in 0..2 {
            assert_eq!(Right::take(base.path(), &holder("b")).unwrap().unwrap_err(), Some(holder("a-long-name")));
        }
        // As another testbed of the same campaign.
        let again = taken(base.path(), &holder("a-long-name"));
        drop(first);
        assert_eq!(Right::take(base.path(), &holder("b")).unwrap().unwrap_err(), Some(holder("a-long-name")));
        drop(again);
        assert!(!base.path().join(NAME).exists());
        let _second = taken(base.path(), &holder("b"));
        assert_eq!(Right::take(base.path(), &holder("c")).unwrap().unwrap_err(), Some(holder("b")));
    }

    #[test]
    fn what_a_dead_run_or_a_nuke_has_left_locks_nobody_out() {
        let base = tempfile::tempdir().unwrap();
        std::fs::write(base.path().join(NAME), serde_json::to_vec(&holder("dead-and-gone")).unwrap()).unwrap();
        let right = taken(base.path(), &holder("b"));
        assert_eq!(Right::take(base.path(), &holder("c")).unwrap().unwrap_err(), Some(holder("b")));
        std::fs::remove_file(base.path().join(NAME)).unwrap();
        assert!(!right.is_held());
        let other = taken(base.path(), &holder("c"));
        // What it gives back is not the other's.
        drop(right);
        assert!(other.is_held() && base.path().join(NAME).exists());
    }
}
