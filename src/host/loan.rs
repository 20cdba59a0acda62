//! Settings of a host that is not vptest's own, changed for an iteration and put back after it.
//!
//! What is to be put back is written down before anything is changed, in a directory that the host forgets when it is
//! switched off, as it forgets the settings themselves. So a process that is killed leaves its debt where the next one
//! finds and pays it. A lock on a file says who has the interface now.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ethtool::{self, Offload};
use super::link;
use super::netlink::{Netlink, NetlinkError};
use super::qdisc::{self, RootQdisc, TokenBucket};
use crate::units::Rate;

/// Where debts are written down on a host.
pub const DIRECTORY: &str = "/run/vptest";
/// Names the lock on what all interfaces share; no file of an interface has this name.
const OF_ALL: &str = "=host";
/// More than any debt takes.
const LONGEST: u64 = 1 << 20;
/// What Ethernet carries when nobody says anything.
const USUAL_MTU: u32 = 1500;
const GOVERNORS: &str = "/sys/devices/system/cpu";

/// What is to be changed. What is empty or `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wanted {
    /// Of which interface.
    pub interface: String,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// `sg`, `tso`, `gso`, `gro` all on or all off.
    pub offload: Option<bool>,
    /// What leaves through it.
    pub rate: LoanRate,
    /// Kernel parameters by name below `/proc/sys`, with slashes.
    pub sysctls: Vec<(String, String)>,
    /// Frequency governor of all CPUs.
    pub governor: Option<String>,
}

/// What is to be done to an interface's rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum LoanRate {
    /// Nothing.
    #[default]
    Leave,
    /// There is to be no limit.
    Unlimited,
    /// Bits per second.
    Limit(u64),
}

/// Why a host lends nothing, or not all.
#[derive(Debug, thiserror::Error)]
pub enum LoanError {
    /// Somebody else has it.
    #[error("{interface} is in use by {by}")]
    Busy {
        /// Which interface.
        interface: String,
        /// Who wrote that down.
        by: String,
    },
    /// There is no such interface.
    #[error("there is no interface {interface} (there are: {known})")]
    NoInterface {
        /// What was asked for.
        interface: String,
        /// What there is.
        known: String,
    },
    /// It has a queueing discipline that somebody put there, which could not be put back as it was.
    #[error(
        "{interface} has a queueing discipline of its own ({kind}), which would not be put back as it was: remove it, or name no rate"
    )]
    Queue {
        /// Which interface.
        interface: String,
        /// Of which kind.
        kind: String,
    },
    /// An earlier owner's debt cannot be paid.
    #[error("what an earlier process changed cannot be put back: {}", .0.join("; "))]
    Debt(Vec<String>),
    /// An operation failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// Verb and object.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What was there before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Debt {
    /// Who owes it, for messages.
    by: String,
    interface: String,
    mtu: Option<u32>,
    features: Option<Vec<[u32; 2]>>,
    /// Is there a limit to be removed?
    limited: bool,
    sysctls: Vec<(String, String)>,
    /// Path and content.
    governors: Vec<(PathBuf, String)>,
}

/// Settings that are changed. Dropping it puts them back as well as can be; [`Loan::give_back`] also reports.
#[derive(Debug)]
pub struct Loan {
    /// Held as long as the settings are changed.
    _locks: Vec<Lock>,
    book: PathBuf,
    debt: Option<Debt>,
}

/// A lock on a file. Unlocked as such, since a child that has just been started may still have a copy of the descriptor.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!("cannot unlock what was lent: {error}");
        }
    }
}

impl Loan {
    /// Changes what is wanted and writes down in `directory` what was there; before that, puts back what a dead process has
    /// left. Returns a line for each thing that is worth knowing.
    ///
    /// # Errors
    /// [`LoanError`]; nothing is changed then.
    pub fn take(directory: &Path, wanted: &Wanted, by: &str) -> Result<(Self, Vec<String>), LoanError> {
        let name = file_name(&wanted.interface);
        let mut locks = vec![lock(directory, &name, &wanted.interface, by)?];
        if !wanted.sysctls.is_empty() || wanted.governor.is_some() {
            locks.push(lock(directory, OF_ALL, "what all interfaces share (kernel parameters, governors)", by)?);
        }
        let book = directory.join(format!("{name}.json"));
        let mut notes = pay_others(directory, &book)?;
        notes.extend(pay_book(&book)?);
        let debt = Debt::of(wanted, by)?;
        write(directory, &book, &debt)?;
        // From here on, dropping it puts back.
        let loan = Self { _locks: locks, book, debt: Some(debt) };
        wanted.apply()?;
        Ok((loan, notes))
    }

    /// Puts everything back. Returns what could not be put back, with the reason; that stays written down. Idempotent.
    pub fn give_back(&mut self) -> Vec<String> {
        let Some(debt) = self.debt.take() else { return Vec::new() };
        let mut left = debt.pay();
        if left.is_empty()
            && let Err(error) = remove(&self.book)
        {
            left.push(error.to_string());
        }
        left
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        for left in self.give_back() {
            tracing::warn!("not put back: {left}");
        }
    }
}

impl Wanted {
    fn apply(&self) -> Result<(), LoanError> {
        let (mut netlink, index) = find(&self.interface)?;
        let name = self.interface.as_str();
        if let Some(on) = self.offload {
            ethtool::set_offloads(&netlink, name, &Offload::ALL, on)
                .map_err(|source| io(format!("switch the offloads of {name}"), source))?;
        }
        if let Some(mtu) = self.mtu {
            netlink.apply(&[link::mtu(name, index, mtu)])?;
        }
        if let LoanRate::Limit(bits) = self.rate {
            let bucket = Rate::from_bits_per_second(bits)
                .and_then(|rate| TokenBucket::for_link(rate, self.mtu.unwrap_or(USUAL_MTU)));
            let bad = || io::Error::new(io::ErrorKind::InvalidInput, "no whole number of bytes per second");
            let bucket = bucket.ok_or_else(|| io(format!("limit {name} to {bits} bit/s"), bad()))?;
            netlink.apply(&[bucket.set(index, name)])?;
        }
        for (parameter, value) in &self.sysctls {
            put(&sysctl(parameter)?, value)?;
        }
        if let Some(governor) = &self.governor {
            let paths = governors()?;
            if paths.is_empty() {
                let none = io::Error::new(io::ErrorKind::NotFound, "no CPU here has a frequency governor");
                return Err(io(format!("set the governor {governor}"), none));
            }
            paths.iter().try_for_each(|path| put(path, governor))?;
        }
        Ok(())
    }
}

impl Debt {
    /// What there is of what is wanted.
    fn of(wanted: &Wanted, by: &str) -> Result<Self, LoanError> {
        let (mut netlink, index) = find(&wanted.interface)?;
        let name = wanted.interface.as_str();
        let mut debt = Self { by: by.to_owned(), interface: name.to_owned(), ..Self::default() };
        if wanted.offload.is_some() {
            let asked = ethtool::asked_features(&netlink, name);
            debt.features = Some(asked.map_err(|source| io(format!("read the offloads of {name}"), source))?);
        }
        if wanted.mtu.is_some() {
            let listed = link::read_interfaces(&mut netlink)?;
            debt.mtu = listed.iter().find(|interface| interface.index == index).and_then(|interface| interface.mtu);
        }
        if wanted.rate != LoanRate::Leave {
            if let Some(root) = root_of(&mut netlink, index)?.filter(|root| !root.own) {
                return Err(LoanError::Queue { interface: name.to_owned(), kind: root.kind });
            }
            debt.limited = matches!(wanted.rate, LoanRate::Limit(_));
        }
        for (parameter, _) in &wanted.sysctls {
            debt.sysctls.push((parameter.clone(), get(&sysctl(parameter)?)?));
        }
        if wanted.governor.is_some() {
            for path in governors()? {
                let content = get(&path)?;
                debt.governors.push((path, content));
            }
        }
        Ok(debt)
    }

    /// Puts everything back, going on past failures, which are returned.
    fn pay(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        let mut tell = |result: Result<(), LoanError>| left.extend(result.err().map(|error| error.to_string()));
        if self.mtu.is_some() || self.features.is_some() || self.limited {
            tell(self.pay_interface());
        }
        for (parameter, value) in &self.sysctls {
            tell(sysctl(parameter).and_then(|path| put(&path, value)));
        }
        for (path, governor) in &self.governors {
            tell(put(path, governor));
        }
        left
    }

    fn pay_interface(&self) -> Result<(), LoanError> {
        let (mut netlink, index) = find(&self.interface)?;
        let name = self.interface.as_str();
        if self.limited && root_of(&mut netlink, index)?.is_some_and(|root| !root.own && root.rate.is_some()) {
            netlink.apply(&[qdisc::remove_root(index, name)])?;
        }
        if let Some(mtu) = self.mtu {
            netlink.apply(&[link::mtu(name, index, mtu)])?;
        }
        if let Some(features) = &self.features {
            ethtool::ask_features(&netlink, name, features)
                .map_err(|source| io(format!("put the offloads of {name} back"), source))?;
        }
        Ok(())
    }
}

fn find(interface: &str) -> Result<(Netlink, u32), LoanError> {
    let mut netlink = Netlink::open().map_err(|source| io("talk to the kernel".to_owned(), source))?;
    let listed = link::read_interfaces(&mut netlink)?;
    match listed.iter().find(|found| found.name == interface) {
        Some(found) => Ok((netlink, found.index)),
        None => Err(LoanError::NoInterface {
            interface: interface.to_owned(),
            known: listed.iter().map(|found| found.name.as_str()).collect::<Vec<_>>().join(", "),
        }),
    }
}

fn root_of(netlink: &mut Netlink, index: u32) -> Result<Option<RootQdisc>, LoanError> {
    Ok(qdisc::read_roots(netlink)?.into_iter().find(|root| root.index == index))
}

/// Pays the debt that is written down there; a line about it, if there is one.
fn pay_book(book: &Path) -> Result<Option<String>, LoanError> {
    let Some(debt) = read(book)? else { return Ok(None) };
    let left = debt.pay();
    if !left.is_empty() {
        return Err(LoanError::Debt(left));
    }
    remove(book)?;
    Ok(Some(format!("settings of {} that {} had left changed were put back", debt.interface, debt.by)))
}

/// Pays the debts of dead processes on other interfaces: nobody may come for these again, and what interfaces share must
/// not be taken for what was there before. One that cannot be paid is told and stays.
fn pay_others(directory: &Path, own: &Path) -> Result<Vec<String>, LoanError> {
    let failed = |source| io(format!("list {}", directory.display()), source);
    let mut notes = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let book = entry.map_err(failed)?.path();
        if book == own || book.extension().is_none_or(|kind| kind != "json") {
            continue;
        }
        let Ok(file) = File::open(book.with_extension("lock")) else { continue };
        if file.try_lock().is_ok() {
            let _lock = Lock(file);
            match pay_book(&book) {
                Ok(note) => notes.extend(note),
                Err(error) => notes.push(format!("{}: {error}", book.display())),
            }
        }
    }
    Ok(notes)
}

/// Names of interfaces have no slash, but this one may come from a spec.
fn file_name(interface: &str) -> String {
    interface.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.@:".contains(c) { c } else { '_' }).collect()
}

fn lock(directory: &Path, name: &str, interface: &str, by: &str) -> Result<Lock, LoanError> {
    let path = directory.join(format!("{name}.lock"));
    let failed = |source| io(format!("write {}", path.display()), source);
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io(format!("make {}", directory.display()), error));
        }
        _ => {}
    }
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut by = String::new();
            // Whoever has just taken it may not have written yet.
            let _ = (&file).take(LONGEST).read_to_string(&mut by);
            let by = crate::text::printable(&by, 200);
            let by = if by.is_empty() { "another process".to_owned() } else { by };
            return Err(LoanError::Busy { interface: interface.to_owned(), by });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let lock = Lock(file);
    let mut file = &lock.0;
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(by.as_bytes())).map_err(failed)?;
    Ok(lock)
}

fn read(book: &Path) -> Result<Option<Debt>, LoanError> {
    let failed = |source| io(format!("read {}", book.display()), source);
    let file = match File::open(book) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
    serde_json::from_str(&text).map(Some).map_err(|error| failed(error.into()))
}

/// Whole or not at all, and on its medium before anything is changed.
fn write(directory: &Path, book: &Path, debt: &Debt) -> Result<(), LoanError> {
    let failed = |source: io::Error| io(format!("write {}", book.display()), source);
    let new = book.with_extension("new");
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed)?;
    serde_json::to_writer(&mut file, debt).map_err(|error| failed(error.into()))?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&new, book).map_err(failed)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

fn remove(book: &Path) -> Result<(), LoanError> {
    std::fs::remove_file(book).map_err(|source| io(format!("remove {}", book.display()), source))
}

/// Names have no `..`, so that nothing but `/proc/sys` is read or written.
fn sysctl(name: &str) -> Result<PathBuf, LoanError> {
    if name.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        let bad = io::Error::new(io::ErrorKind::InvalidInput, "not a name as net/ipv4/ip_forward");
        return Err(io(format!("find the kernel parameter {name}"), bad));
    }
    Ok(PathBuf::from(format!("/proc/sys/{name}")))
}

/// Files with the governors of CPUs; empty where CPUs have none.
fn governors() -> Result<Vec<PathBuf>, LoanError> {
    let failed = |source| io(format!("list {GOVERNORS}"), source);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(GOVERNORS).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix("cpu")?.parse::<u32>().ok());
        let file = path.join("cpufreq/scaling_governor");
        if number.is_some() && file.exists() {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

fn get(path: &Path) -> Result<String, LoanError> {
    let text = std::fs::read_to_string(path).map_err(|source| io(format!("read {}", path.display()), source))?;
    Ok(text.trim().to_owned())
}

fn put(path: &Path, value: &str) -> Result<(), LoanError> {
    std::fs::write(path, value).map_err(|source| io(format!("write `{value}` to {}", path.display()), source))
}

fn io(what: String, source: io::Error) -> LoanError {
    LoanError::Io { what, source }
}

impl From<NetlinkError> for LoanError {
    fn from(error: NetlinkError) -> Self {
        Self::Io { what: error.what, source: error.source }
    }
}
