//! Settings of a host that is not vptest's own, changed for an iteration and put back after it.
//!
//! What is to be put back is written down before anything is changed, in a directory that the host forgets when it is
//! switched off, as it forgets the settings themselves. So a process that is killed leaves its debt where the next one
//! finds and pays it. A lock on a file says who has the interface now.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
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
/// The same for people.
const SHARED: &str = "what all interfaces share (kernel parameters, governors)";
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
    /// A smaller MTU than IPv6 needs takes its addresses from an interface, and nobody would put them back.
    #[error(
        "an MTU of {mtu} takes the IPv6 address {address} from {interface}: at least 1280, or remove the address first"
    )]
    Ipv6 {
        /// Which interface.
        interface: String,
        /// What was asked for.
        mtu: u32,
        /// One that would be lost.
        address: std::net::Ipv6Addr,
    },
    /// The directory of debts is not this user's alone.
    #[error("{directory} can be written by others, who could say what is to be put back: remove it")]
    Shared {
        /// Its path.
        directory: String,
    },
    /// Another vptest has written down what it changed, in another way.
    #[error(
        "{book} was written by another vptest (version {version} instead of {VERSION}): let that one put back what it changed, or put it \
         back by hand and remove the file"
    )]
    Version {
        /// Path of the file.
        book: String,
        /// What it says, or `none`.
        version: String,
    },
    /// An earlier owner's debt cannot be paid.
    #[error("what an earlier process changed cannot be put back: {} (put it back by hand and remove {book})", .left.join("; "))]
    Debt {
        /// What is left, one line each.
        left: Vec<String>,
        /// Path of the file where it is written down.
        book: String,
    },
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

/// Version of what is written down.
const VERSION: u32 = 1;

/// What was there before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Debt {
    /// [`VERSION`]: what another vptest has written may mean something else.
    version: u32,
    /// Who owes it, for messages.
    by: String,
    /// The boot of the host in which it was made: settings do not outlive it.
    boot: String,
    interface: String,
    /// The interface's number, which no other one gets in the same boot; its name may change.
    index: u32,
    mtu: Option<u32>,
    features: Option<Vec<[u32; 2]>>,
    /// What the driver had made of them: `sg`, `tso`, `gso`, `gro`.
    offloads: Option<[bool; 4]>,
    /// The limit to be removed, bytes per second, and the kind of queueing discipline that was there.
    limit: Option<(u64, String)>,
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
            locks.push(lock(directory, OF_ALL, SHARED, by)?);
        }
        let book = directory.join(format!("{name}.json"));
        let has_shared = locks.len() > 1;
        let mut notes = pay_others(directory, &book, has_shared, by)?;
        notes.extend(pay_book(directory, &book, has_shared, by)?);
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
        let (mut netlink, Found { index, mtu: current }) = find(&self.interface)?;
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
                .and_then(|rate| TokenBucket::for_link(rate, self.mtu.or(current).unwrap_or(USUAL_MTU)));
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
        let (mut netlink, Found { index, mtu }) = find(&wanted.interface)?;
        let name = wanted.interface.as_str();
        let (by, interface) = (by.to_owned(), name.to_owned());
        let mut debt = Self { version: VERSION, by, boot: boot()?, interface, index, ..Self::default() };
        if wanted.offload.is_some() {
            let asked = ethtool::asked_features(&netlink, name);
            let failed = |source| io(format!("read the offloads of {name}"), source);
            debt.features = Some(asked.map_err(failed)?);
            debt.offloads = Some(offloads(&netlink, name).map_err(failed)?);
        }
        if let Some(asked) = wanted.mtu {
            keeps_ipv6(name, asked)?;
            debt.mtu = mtu;
        }
        if wanted.rate != LoanRate::Leave {
            let root = root_of(&mut netlink, index)?;
            if let Some(root) = root.as_ref().filter(|root| !root.own) {
                return Err(LoanError::Queue { interface: name.to_owned(), kind: root.kind.clone() });
            }
            if let LoanRate::Limit(bits) = wanted.rate {
                debt.limit = Some((bits / 8, root.map(|root| root.kind).unwrap_or_default()));
            }
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

    /// Does it hold what all interfaces share?
    fn is_shared(&self) -> bool {
        !self.sysctls.is_empty() || !self.governors.is_empty()
    }

    /// Puts everything back in the reverse of the order in which it was changed, going on past failures, which are returned: a
    /// queueing discipline that is removed gets the successor that the kernel parameters say.
    fn pay(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        let mut tell = |result: Result<(), LoanError>| left.extend(result.err().map(|error| error.to_string()));
        for (path, governor) in self.governors.iter().rev() {
            tell(put_back(path, governor));
        }
        for (parameter, value) in self.sysctls.iter().rev() {
            tell(sysctl(parameter).and_then(|path| put_back(&path, value)));
        }
        match self.found() {
            Ok(Some((mut netlink, name))) => {
                tell(self.pay_limit(&mut netlink, &name));
                tell(self.pay_mtu(&mut netlink, &name));
                tell(self.pay_offloads(&netlink, &name));
            }
            // Its settings went with it.
            Ok(None) => {}
            Err(error) => tell(Err(error)),
        }
        left
    }

    /// The interface by the name that it has now; `None` when it is there no more.
    fn found(&self) -> Result<Option<(Netlink, String)>, LoanError> {
        let mut netlink = open()?;
        let listed = link::read_interfaces(&mut netlink)?;
        let it = listed.into_iter().find(|interface| interface.index == self.index);
        Ok(it.map(|interface| (netlink, interface.name)))
    }

    /// Removes the limit, unless somebody has put another one there since.
    fn pay_limit(&self, netlink: &mut Netlink, name: &str) -> Result<(), LoanError> {
        let Some((rate, kind)) = &self.limit else { return Ok(()) };
        if root_of(netlink, self.index)?.is_some_and(|root| !root.own && root.rate == Some(*rate)) {
            netlink.apply(&[qdisc::remove_root(self.index, name)])?;
            let now = root_of(netlink, self.index)?.map(|root| root.kind).unwrap_or_default();
            if now != *kind {
                let other = io::Error::other(format!("the kernel has put {now} there"));
                return Err(io(format!("put the queueing discipline {kind} of {name} back"), other));
            }
        }
        Ok(())
    }

    fn pay_mtu(&self, netlink: &mut Netlink, name: &str) -> Result<(), LoanError> {
        if let Some(mtu) = self.mtu {
            netlink.apply(&[link::mtu(name, self.index, mtu)])?;
        }
        Ok(())
    }

    fn pay_offloads(&self, netlink: &Netlink, name: &str) -> Result<(), LoanError> {
        let Some(features) = &self.features else { return Ok(()) };
        let failed = |source| io(format!("put the offloads of {name} back"), source);
        ethtool::ask_features(netlink, name, features).map_err(failed)?;
        // The kernel leaves a feature as it is without an error where the driver refuses.
        let (asked, is) = (ethtool::asked_features(netlink, name), offloads(netlink, name));
        let (asked, is) = (asked.map_err(failed)?, is.map_err(failed)?);
        if asked == *features && self.offloads.is_none_or(|were| were == is) {
            return Ok(());
        }
        let were = self.offloads.map_or_else(|| "otherwise".to_owned(), shown);
        Err(failed(io::Error::other(format!("they were {were}, and are {} now", shown(is)))))
    }
}

fn offloads(netlink: &Netlink, name: &str) -> io::Result<[bool; 4]> {
    let offloads = ethtool::offloads(netlink, name)?;
    Ok(Offload::ALL.map(|offload| offloads.is_on(offload)))
}

/// `sg on, tso off, …`
fn shown(offloads: [bool; 4]) -> String {
    let one = |(offload, on): (Offload, bool)| format!("{} {}", offload.as_str(), if on { "on" } else { "off" });
    Offload::ALL.into_iter().zip(offloads).map(one).collect::<Vec<_>>().join(", ")
}

/// Refuses an MTU below what IPv6 needs (RFC 8200, section 5) where the kernel would take addresses away for it; link-local ones
/// it makes anew.
fn keeps_ipv6(interface: &str, mtu: u32) -> Result<(), LoanError> {
    if mtu >= 1280 {
        return Ok(());
    }
    let failed = |errno: nix::Error| io(format!("list the addresses of {interface}"), errno.into());
    let lost = nix::ifaddrs::getifaddrs().map_err(failed)?.find_map(|found| {
        let address = found.address.filter(|_| found.interface_name == interface)?.as_sockaddr_in6()?.ip();
        (!address.is_unicast_link_local()).then_some(address)
    });
    match lost {
        Some(address) => Err(LoanError::Ipv6 { interface: interface.to_owned(), mtu, address }),
        None => Ok(()),
    }
}

/// Tells one boot of this host from others.
fn boot() -> Result<String, LoanError> {
    get(Path::new("/proc/sys/kernel/random/boot_id"))
}

fn open() -> Result<Netlink, LoanError> {
    Netlink::open().map_err(|source| io("talk to the kernel".to_owned(), source))
}

/// An interface as it is.
#[derive(Clone, Copy)]
struct Found {
    index: u32,
    mtu: Option<u32>,
}

fn find(interface: &str) -> Result<(Netlink, Found), LoanError> {
    let mut netlink = open()?;
    let listed = link::read_interfaces(&mut netlink)?;
    match listed.iter().find(|found| found.name == interface) {
        Some(found) => Ok((netlink, Found { index: found.index, mtu: found.mtu })),
        None => Err(LoanError::NoInterface {
            interface: interface.to_owned(),
            known: listed.iter().map(|found| found.name.as_str()).collect::<Vec<_>>().join(", "),
        }),
    }
}

fn root_of(netlink: &mut Netlink, index: u32) -> Result<Option<RootQdisc>, LoanError> {
    Ok(qdisc::read_roots(netlink)?.into_iter().find(|root| root.index == index))
}

/// Pays the debt that is written down there; a line about it, if there is one. `has_shared` says that the caller has the lock on
/// what all interfaces share: a debt with such things must not be paid while somebody else has them.
fn pay_book(directory: &Path, book: &Path, has_shared: bool, by: &str) -> Result<Option<String>, LoanError> {
    let Some(debt) = read(book)? else { return Ok(None) };
    if debt.boot != boot()? {
        remove(book)?;
        return Ok(Some(format!("the host was restarted since {} changed settings of {}", debt.by, debt.interface)));
    }
    let _shared = if debt.is_shared() && !has_shared { Some(lock(directory, OF_ALL, SHARED, by)?) } else { None };
    let left = debt.pay();
    if !left.is_empty() {
        return Err(LoanError::Debt { left, book: book.display().to_string() });
    }
    remove(book)?;
    Ok(Some(format!("settings of {} that {} had left changed were put back", debt.interface, debt.by)))
}

/// Pays the debts of dead processes on other interfaces: nobody may come for these again, and what interfaces share must
/// not be taken for what was there before. One that cannot be paid is told and stays.
fn pay_others(directory: &Path, own: &Path, has_shared: bool, by: &str) -> Result<Vec<String>, LoanError> {
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
            match pay_book(directory, &book, has_shared, by) {
                Ok(note) => notes.extend(note),
                // Whoever has what is shared pays it.
                Err(LoanError::Busy { .. }) => {}
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
    let found = std::fs::symlink_metadata(directory).map_err(failed)?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(LoanError::Shared { directory: directory.display().to_string() });
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
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| failed(error.into()))?;
    let version = json.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(VERSION.into()) {
        return Err(LoanError::Version {
            book: book.display().to_string(),
            version: version.map_or_else(|| "none".to_owned(), |version| version.to_string()),
        });
    }
    serde_json::from_value(json).map(Some).map_err(|error| failed(error.into()))
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

/// Writes an old value, where it is not there already: some can be read and not written.
fn put_back(path: &Path, value: &str) -> Result<(), LoanError> {
    if get(path)? == value { Ok(()) } else { put(path, value) }
}

fn put(path: &Path, value: &str) -> Result<(), LoanError> {
    // The line end makes an empty value something that is written.
    std::fs::write(path, format!("{value}\n"))
        .map_err(|source| io(format!("write `{value}` to {}", path.display()), source))
}

fn io(what: String, source: io::Error) -> LoanError {
    LoanError::Io { what, source }
}

impl From<NetlinkError> for LoanError {
    fn from(error: NetlinkError) -> Self {
        Self::Io { what: error.what, source: error.source }
    }
}
