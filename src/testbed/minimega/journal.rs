//! What vptest has made in a minimega, on disk: `CAMPAIGN/.minimega/NAMESPACE.json`, with a lock on `NAMESPACE.lock` that
//! is held as long as the process lives that uses the namespace.
//!
//! It is written before the namespace comes to be and erased when it is gone. So what nobody has locked was left by a run
//! that has died, and says what to look for also when the minimega that knew it has died as well.

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::daemon::Namespace;
use super::machine::Machine;
use super::socket::running_since;

/// Name of the directory below a campaign's.
const DIRECTORY: &str = ".minimega";

/// What a namespace is and has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub namespace: String,
    /// Path of the minimega's socket.
    pub socket: PathBuf,
    /// The minimega's directory.
    pub base: PathBuf,
    /// Directory of the namespace's files.
    pub files: PathBuf,
    /// The minimega's process, and when it started in clock ticks since boot; `None` where it is out of sight.
    pub daemon: Option<(i32, u64)>,
    /// Its machines, as far as they have been launched.
    pub machines: Vec<Noted>,
    /// Was it left up on purpose (`--keep-failed`)?
    pub kept: bool,
}

/// A machine of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// Its number.
    pub id: u64,
    /// Process of its QEMU, and when that started; `None` where minimega does not say.
    pub process: Option<(i32, u64)>,
    /// Names of its taps.
    pub taps: Vec<String>,
}

impl Noted {
    /// What is to be known of a machine.
    pub fn of(machine: &Machine) -> Self {
        let process = machine.pid.and_then(|pid| i32::try_from(pid).ok());
        let process = process.and_then(|pid| Some((pid, running_since(pid)?)));
        Self { id: machine.id, process, taps: machine.taps.clone() }
    }
}

/// An entry whose lock this process holds.
#[derive(Debug)]
pub struct Journal {
    /// What it says.
    pub entry: Entry,
    path: PathBuf,
    _lock: File,
}

impl Journal {
    /// Notes a namespace that is about to come to be.
    ///
    /// # Errors
    /// When the campaign's directory cannot be written.
    pub fn begin(campaign: &Path, namespace: &Namespace) -> io::Result<Self> {
        let daemon = namespace.daemon();
        let peer = daemon.peer();
        let entry = Entry {
            namespace: namespace.name().to_owned(),
            socket: daemon.socket().to_owned(),
            base: daemon.base.clone(),
            files: namespace.files(),
            daemon: peer.pid.zip(peer.started),
            machines: Vec::new(),
            kept: false,
        };
        let directory = campaign.join(DIRECTORY);
        std::fs::create_dir_all(&directory)?;
        let path = directory.join(format!("{}.json", entry.namespace));
        let lock = File::options().write(true).create_new(true).open(path.with_extension("lock"))?;
        lock.lock()?;
        let journal = Self { entry, path, _lock: lock };
        journal.write()?;
        Ok(journal)
    }

    /// Notes machines that have been launched.
    ///
    /// # Errors
    /// As [`Journal::begin`].
    pub fn note<'m>(&mut self, machines: impl IntoIterator<Item = &'m Machine>) -> io::Result<()> {
        let here = machines.into_iter();
        self.entry.machines = here.map(Noted::of).collect();
        self.write()
    }

    /// Notes that it is to stay up.
    ///
    /// # Errors
    /// As [`Journal::begin`].
    pub fn keep(&mut self) -> io::Result<()> {
        self.entry.kept = true;
        self.write()
    }

    /// The namespace is gone.
    ///
    /// # Errors
    /// When its files cannot be removed.
    pub fn erase(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)?;
        std::fs::remove_file(self.path.with_extension("lock"))?;
        if let Some(directory) = self.path.parent() {
            // Others may be in it.
            let _ = std::fs::remove_dir(directory);
        }
        Ok(())
    }

    /// Written beside and renamed: an entry is whole or not there.
    fn write(&self) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(&self.entry)?)?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)
    }
}

/// What runs that have died have left in a campaign's directory; what could not be read, in words.
#[derive(Debug, Default)]
pub struct Stale {
    /// Entries that nobody else holds.
    pub entries: Vec<Journal>,
    /// One line each.
    pub unreadable: Vec<String>,
}

/// Looks for entries that no living process holds.
///
/// # Errors
/// When the directory cannot be read.
pub fn stale(campaign: &Path) -> io::Result<Stale> {
    let mut stale = Stale::default();
    let entries = match std::fs::read_dir(campaign.join(DIRECTORY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(stale),
        other => other?,
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        match take(&path) {
            Ok(Some(journal)) => stale.entries.push(journal),
            Ok(None) => {}
            Err(error) => stale.unreadable.push(format!("{}: {error}", path.display())),
        }
    }
    Ok(stale)
}

/// `None` for one that is in use.
fn take(lock: &Path) -> io::Result<Option<Journal>> {
    let file = File::options().write(true).open(lock)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
        Ok(()) => {}
    }
    let path = lock.with_extension("json");
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // It died before it had made anything, or while it erased this.
            std::fs::remove_file(lock)?;
            return Ok(None);
        }
        other => other?,
    };
    let entry = serde_json::from_slice(&text).map_err(io::Error::other)?;
    Ok(Some(Journal { entry, path, _lock: file }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(campaign: &Path, name: &str) -> Journal {
        let directory = campaign.join(DIRECTORY);
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join(format!("{name}.json"));
        let lock = File::create(path.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        let entry = Entry {
            namespace: name.to_owned(),
            socket: "/s".into(),
            base: "/b".into(),
            files: "/f".into(),
            daemon: Some((1, 2)),
            machines: vec![Noted { id: 3, process: None, taps: vec!["t".to_owned()] }],
            kept: false,
        };
        let journal = Journal { entry, path, _lock: lock };
        journal.write().unwrap();
        journal
    }

    #[test]
    fn only_what_nobody_holds_is_stale() {
        let campaign = tempfile::tempdir().unwrap();
        assert!(stale(campaign.path()).unwrap().entries.is_empty());
        let held = entry(campaign.path(), "held");
        let left = entry(campaign.path(), "left");
        let said = left.entry.clone();
        drop(left);
        let found = stale(campaign.path()).unwrap();
        assert_eq!(found.entries.iter().map(|journal| &journal.entry).collect::<Vec<_>>(), [&said]);
        for journal in found.entries {
            journal.erase().unwrap();
        }
        held.erase().unwrap();
        assert!(!campaign.path().join(DIRECTORY).exists());
    }

    #[test]
    fn what_is_no_entry_is_told_and_stays() {
        let campaign = tempfile::tempdir().unwrap();
        drop(entry(campaign.path(), "torn"));
        let path = campaign.path().join(DIRECTORY).join("torn.json");
        std::fs::write(&path, "{").unwrap();
        let found = stale(campaign.path()).unwrap();
        assert!(found.entries.is_empty() && found.unreadable.len() == 1, "{found:?}");
        assert!(path.exists());
    }
}
