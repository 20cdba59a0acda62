//! What vptest has made in a minimega, on disk: `CAMPAIGN/.minimega/NAMESPACE.json`, with a lock on `NAMESPACE.lock` that
//! is held as long as the process lives that uses the namespace.
//!
//! It is written before the namespace comes to be and erased when it is gone. So what nobody has locked was left by a run
//! that has died, and says what to look for also when the minimega that knew it has died as well.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cgroup::{self, Cgroups};
use super::daemon::Namespace;
use super::leftovers::is_first;
use super::line::quoted;
use super::machine::Machine;
use super::socket::running_since;
use super::taps;
use crate::host::namespace::Namespace as Network;

/// Name of the directory below a campaign's.
const DIRECTORY: &str = ".minimega";

/// How long a lock may be without its name.
const UNNAMED: std::time::Duration = std::time::Duration::from_secs(60);

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
    /// Where its machines write their consoles, and no others do; `None` where that is not known.
    #[serde(default)]
    pub consoles: Option<PathBuf>,
    /// Was it left up on purpose (`--keep-failed`)?
    pub kept: bool,
    /// Hosts of the mesh that it has machines, bridges or files on; empty where there is no mesh.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Identifier of the kernel's boot it was made in; `None` where that is not known.
    #[serde(default)]
    pub boot: Option<String>,
}

impl Entry {
    /// Has the kernel not been booted since? No process and no interface outlives that, and their numbers begin anew. One that
    /// does not say counts as one of now.
    pub(super) fn is_of_this_boot(&self) -> bool {
        self.boot.as_ref().is_none_or(|noted| boot().is_none_or(|now| now == *noted))
    }

    /// Is it of the form that this program writes? Whoever removes as root must not be led elsewhere.
    fn is_sound(&self, path: &Path) -> bool {
        let named = |path: &Path| path.file_stem().is_some_and(|stem| stem == self.namespace.as_str());
        let place = self.files.file_name().is_some_and(|name| name == self.namespace.as_str());
        let plain =
            |path: &Path| path.is_absolute() && !path.components().any(|part| part == std::path::Component::ParentDir);
        named(path)
            && place
            && [&self.socket, &self.base, &self.files].into_iter().all(|path| plain(path))
            && self.hosts.iter().all(|host| !host.is_empty() && quoted(host) == *host)
            && self
                .machines
                .iter()
                .flat_map(|machine| machine.taps.iter().chain(machine.links.keys()))
                .all(|tap| is_tap(tap))
            && self.machines.iter().all(|machine| machine.cgroups.iter().all(|place| cgroup::is_of(place, machine.id)))
    }
}

/// Identifier of the kernel's boot. Source: random(4).
fn boot() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Is it a name that minimega gives to taps?
pub(super) fn is_tap(name: &str) -> bool {
    name.strip_prefix("mega_tap").is_some_and(|rest| rest.parse::<u32>().is_ok())
}

/// A machine of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// Its number.
    pub id: u64,
    /// Process of its QEMU or first process of its container, and when that started; `None` where minimega does not say.
    pub process: Option<(i32, u64)>,
    /// Names of its taps.
    pub taps: Vec<String>,
    /// Numbers of their interfaces in minimega's network, by name; without those that are not known.
    #[serde(default)]
    pub links: BTreeMap<String, u32>,
    /// Is it a container?
    #[serde(default)]
    pub container: bool,
    /// Directories of its cgroups; none for a virtual machine.
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
}

impl Noted {
    /// What is to be known of a machine; `interfaces` are those of minimega's network.
    fn of(machine: &Machine, interfaces: &BTreeMap<String, u32>) -> Self {
        let process = machine.pid.and_then(|pid| i32::try_from(pid).ok());
        let process = process.and_then(|pid| Some((pid, running_since(pid)?)));
        let cgroups = process.map(|(pid, _)| Cgroups::of(pid, machine.id).into_directories()).unwrap_or_default();
        // A QEMU is a child of its minimega, a container's first process the first of a PID namespace.
        let container = process.is_some_and(|(pid, _)| is_first(pid));
        let links = machine.taps.iter().filter_map(|tap| Some((tap.clone(), *interfaces.get(tap)?))).collect();
        Self { id: machine.id, process, taps: machine.taps.clone(), links, container, cgroups }
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
    pub fn begin(campaign: &Path, namespace: &Namespace, consoles: &Path) -> io::Result<Self> {
        let daemon = namespace.daemon();
        let peer = daemon.peer();
        let entry = Entry {
            namespace: namespace.name().to_owned(),
            socket: daemon.socket().to_owned(),
            base: daemon.base.clone(),
            files: namespace.files(),
            daemon: peer.pid.zip(peer.started),
            machines: Vec::new(),
            consoles: Some(consoles.to_owned()),
            kept: false,
            hosts: namespace.hosts().to_vec(),
            boot: boot(),
        };
        let directory = campaign.join(DIRECTORY);
        match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let path = directory.join(format!("{}.json", entry.namespace));
        // It gets its name when it is locked: a lock that nobody holds is of a dead run.
        let making = path.with_extension("locking");
        let lock = File::options().write(true).create_new(true).mode(0o600).open(&making)?;
        lock.lock()?;
        std::fs::rename(making, path.with_extension("lock"))?;
        let journal = Self { entry, path, _lock: lock };
        journal.write()?;
        Ok(journal)
    }

    /// Notes machines that have been launched.
    ///
    /// # Errors
    /// As [`Journal::begin`].
    pub fn note<'m>(&mut self, machines: impl IntoIterator<Item = &'m Machine>) -> io::Result<()> {
        let interfaces = self.interfaces();
        self.entry.machines = machines.into_iter().map(|machine| Noted::of(machine, &interfaces)).collect();
        self.write()
    }

    /// Interfaces of minimega's network: their numbers by name. None where they cannot be read; then names alone count.
    fn interfaces(&self) -> BTreeMap<String, u32> {
        let Some((pid, _)) = self.entry.daemon else { return BTreeMap::new() };
        let read = Network::of_process(pid).and_then(|network| taps::interfaces(Some(&network)));
        let read =
            read.inspect_err(|error| tracing::debug!("taps of {} have no numbers: {error}", self.entry.namespace));
        read.unwrap_or_default().into_iter().map(|interface| (interface.name, interface.index)).collect()
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
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
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
    check_owner(&campaign.join(DIRECTORY))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "locking") {
            forget(&path);
        }
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

/// Removes a lock that never got its name, since who made it died in between. It takes a moment to lock one that is new.
fn forget(locking: &Path) {
    let age = std::fs::symlink_metadata(locking).and_then(|found| found.modified()).map(|made| made.elapsed());
    let is_old = matches!(age, Ok(Ok(age)) if age > UNNAMED);
    let free = || {
        File::options()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(locking)
            .is_ok_and(|lock| lock.try_lock().is_ok())
    };
    if is_old && free() {
        // Nothing was made yet, so that nothing is lost when it stays.
        let _ = std::fs::remove_file(locking);
    }
}

/// Refuses what is not this user's own, or what others can write.
fn check_owner(path: &Path) -> io::Result<()> {
    let found = std::fs::symlink_metadata(path)?;
    let own = found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o022 == 0 && !found.is_symlink();
    if own {
        Ok(())
    } else {
        Err(io::Error::other("another user owns it or can write it, so what it says is not believed"))
    }
}

/// `None` for one that is in use, or that was erased just now.
fn take(lock: &Path) -> io::Result<Option<Journal>> {
    let file = match File::options().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(lock) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
        Ok(()) => {}
    }
    let path = lock.with_extension("json");
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // It died before it had made anything, or while it erased this.
            return match std::fs::remove_file(lock) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(None),
            };
        }
        other => other?,
    };
    check_owner(&path)?;
    let entry: Entry = serde_json::from_slice(&text).map_err(io::Error::other)?;
    if !entry.is_sound(&path) {
        return Err(io::Error::other("it says things that vptest does not write, so it is not believed"));
    }
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
            files: format!("/b/{name}").into(),
            daemon: Some((1, 2)),
            machines: vec![Noted {
                id: 3,
                process: None,
                taps: vec!["mega_tap3".to_owned()],
                links: BTreeMap::from([("mega_tap3".to_owned(), 12)]),
                container: false,
                cgroups: vec![],
            }],
            consoles: None,
            kept: false,
            hosts: vec!["kn2".to_owned()],
            boot: boot(),
        };
        let journal = Journal { entry, path, _lock: lock };
        journal.write().unwrap();
        journal
    }

    /// What is stale, once something is: a process that another test begins has the locks that this one drops, until it
    /// executes its program.
    fn found(campaign: &Path) -> Stale {
        let begun = std::time::Instant::now();
        loop {
            let found = stale(campaign).unwrap();
            if found.entries.len() + found.unreadable.len() > 0 {
                return found;
            }
            assert!(begun.elapsed() < std::time::Duration::from_secs(60), "nothing is stale");
        }
    }

    #[test]
    fn only_what_nobody_holds_is_stale() {
        let campaign = tempfile::tempdir().unwrap();
        assert!(stale(campaign.path()).unwrap().entries.is_empty());
        let held = entry(campaign.path(), "held");
        let left = entry(campaign.path(), "left");
        let said = left.entry.clone();
        drop(left);
        let found = found(campaign.path());
        assert_eq!(found.entries.iter().map(|journal| &journal.entry).collect::<Vec<_>>(), [&said]);
        for journal in found.entries {
            journal.erase().unwrap();
        }
        held.erase().unwrap();
        assert!(!campaign.path().join(DIRECTORY).exists());
    }

    #[test]
    fn a_lock_that_never_got_its_name_goes_when_it_is_old() {
        let campaign = tempfile::tempdir().unwrap();
        drop(entry(campaign.path(), "left"));
        let make = |name: &str, age: u64| {
            let path = campaign.path().join(DIRECTORY).join(name);
            let file = File::create(&path).unwrap();
            let made = std::time::SystemTime::now() - std::time::Duration::from_secs(age);
            file.set_modified(made).unwrap();
            (path, file)
        };
        let (old, new, held) = (make("a.locking", 3600), make("b.locking", 0), make("c.locking", 3600));
        held.1.lock().unwrap();
        drop(old.1);
        stale(campaign.path()).unwrap();
        assert!(!old.0.exists() && new.0.exists() && held.0.exists());
    }

    #[test]
    fn an_entry_that_leads_elsewhere_is_not_believed() {
        let forged = |change: &dyn Fn(&mut Entry)| {
            let campaign = tempfile::tempdir().unwrap();
            let mut journal = entry(campaign.path(), "mine");
            change(&mut journal.entry);
            journal.write().unwrap();
            drop(journal);
            let found = found(campaign.path());
            (found.entries.len(), found.unreadable.len())
        };
        assert_eq!(forged(&|_| ()), (1, 0));
        assert_eq!(forged(&|entry| entry.files = "/home/other".into()), (0, 1));
        assert_eq!(forged(&|entry| entry.base = "/b/../etc".into()), (0, 1));
        assert_eq!(forged(&|entry| entry.namespace = "yours".to_owned()), (0, 1));
        assert_eq!(forged(&|entry| entry.machines[0].taps = vec!["eth0".to_owned()]), (0, 1));
        assert_eq!(forged(&|entry| entry.machines[0].links = BTreeMap::from([("eth0".to_owned(), 2)])), (0, 1));
        let cgroup = |entry: &mut Entry, place: &str| entry.machines[0].cgroups = vec![place.into()];
        assert_eq!(forged(&|entry| cgroup(entry, "/sys/fs/cgroup/cpu/minimega/3")), (1, 0));
        assert_eq!(forged(&|entry| cgroup(entry, "/sys/fs/cgroup/cpu/minimega/4")), (0, 1));
        assert_eq!(forged(&|entry| cgroup(entry, "/sys/fs/cgroup/../minimega/3")), (0, 1));
        let campaign = tempfile::tempdir().unwrap();
        drop(entry(campaign.path(), "mine"));
        let open = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        let directory = campaign.path().join(DIRECTORY);
        std::fs::set_permissions(directory.join("mine.json"), open(0o666)).unwrap();
        assert_eq!(found(campaign.path()).unreadable.len(), 1);
        std::fs::set_permissions(&directory, open(0o777)).unwrap();
        stale(campaign.path()).unwrap_err();
    }

    /// A journal of an earlier vptest has no numbers of interfaces, and does not say the boot.
    #[test]
    fn an_entry_without_numbers_is_one_of_now() {
        let campaign = tempfile::tempdir().unwrap();
        drop(entry(campaign.path(), "old"));
        let path = campaign.path().join(DIRECTORY).join("old.json");
        let mut said: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert!(said.as_object_mut().unwrap().remove("boot").is_some());
        assert!(said["machines"][0].as_object_mut().unwrap().remove("links").is_some());
        std::fs::write(&path, said.to_string()).unwrap();
        let found = found(campaign.path());
        let [journal] = found.entries.as_slice() else { panic!("{found:?}") };
        assert!(journal.entry.is_of_this_boot() && journal.entry.machines[0].links.is_empty());
        let of = |boot: &str| Entry { boot: Some(boot.to_owned()), ..journal.entry.clone() }.is_of_this_boot();
        assert!(of(&boot().unwrap()) && !of("00000000-0000-0000-0000-000000000000"));
    }

    #[test]
    fn what_is_no_entry_is_told_and_stays() {
        let campaign = tempfile::tempdir().unwrap();
        drop(entry(campaign.path(), "torn"));
        let path = campaign.path().join(DIRECTORY).join("torn.json");
        std::fs::write(&path, "{").unwrap();
        let found = found(campaign.path());
        assert!(found.entries.is_empty() && found.unreadable.len() == 1, "{found:?}");
        assert!(path.exists());
    }
}
