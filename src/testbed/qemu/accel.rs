//! Does KVM work here? Only a guest that has booted with it says so: on some hosts `/dev/kvm` opens and guests hang.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::access::private_network;
use super::args::{Accel, Boot, DEFAULT_MEMORY, GuestPlan, Hardware, Machine, Management};
use super::guest::{Guest, NotUp, Site};
use crate::host::cage::Cage;
use crate::ids::NodeId;
use crate::node::local::Processes;
use crate::testbed::TestbedError;

const DEVICE: &str = "/dev/kvm";
/// A guest of vptest's own image that works with KVM answers within one second.
pub(super) const LIMIT: Duration = Duration::from_secs(8);
/// File in the cache that remembers the verdict.
const FILE: &str = "kvm.json";
/// Held while a guest is tried.
static TRIAL: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What came of trying KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// Did a guest boot with it?
    pub(crate) works: bool,
    /// What happened, in one line.
    pub(crate) reason: String,
    /// Boot of this host for which it holds.
    boot_id: String,
    /// QEMU's version.
    qemu: String,
}

impl Verdict {
    /// The accelerator for a tuple that leaves the choice to vptest.
    pub(super) const fn accel(&self) -> Accel {
        if self.works { Accel::Kvm } else { Accel::Tcg }
    }
}

/// What KVM is tried with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial<'a> {
    pub(super) boot: &'a Boot,
    /// Is it vptest's own image, with a kernel of the distribution? What others do says nothing about this host.
    pub(super) own: bool,
    /// How long it may take until the guest answers.
    pub(super) limit: Duration,
}

/// How a trial ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tried {
    Booted(Duration),
    /// The guest did not answer in time, or QEMU ended.
    Refused(String),
    /// Anything else, such as a full disk: another time it may be different.
    Unknown(String),
}

impl Tried {
    fn of(not_up: &NotUp, late: bool) -> Self {
        let error = not_up.error.to_string();
        let reason = error.lines().next().unwrap_or_default().to_owned();
        // Without a QEMU there is no guest that could be late.
        let guest = matches!(not_up.error, TestbedError::Guest { .. });
        if not_up.ended || (late && guest) { Self::Refused(reason) } else { Self::Unknown(reason) }
    }

    /// Is it so for the whole boot of the host?
    const fn lasts(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

/// The verdict of this boot: remembered in `cache`, or found out in `scratch` (an existing directory). Also says whether
/// it holds for longer than this moment.
pub(super) async fn verdict(trial: Trial<'_>, qemu: &str, cache: &Path, scratch: &Path) -> (Verdict, bool) {
    let boot_id = boot_id();
    let new = |works, reason| Verdict { works, reason, boot_id: boot_id.clone(), qemu: qemu.to_owned() };
    if let Err(error) = File::options().read(true).write(true).open(DEVICE) {
        return (new(false, format!("cannot open {DEVICE}: {error}")), true);
    }
    // One guest at a time: beside another it may be late.
    let _alone = TRIAL.lock().await;
    if let Some(known) = remembered(cache, qemu) {
        return (known, true);
    }
    let tried = attempt(trial, scratch).await;
    let lasts = tried.lasts();
    let verdict = match tried {
        Tried::Booted(took) => new(true, format!("a guest booted with it in {:.1} s", took.as_secs_f64())),
        Tried::Refused(reason) => new(false, format!("{DEVICE} opens, but a guest does not boot with it: {reason}")),
        Tried::Unknown(reason) => new(false, format!("{DEVICE} opens, but it could not be tried: {reason}")),
    };
    // Without the boot's id nobody could tell later for which boot it held.
    if trial.own
        && lasts
        && !boot_id.is_empty()
        && let Err(error) = remember(cache, &verdict)
    {
        tracing::warn!("cannot remember in {} whether KVM works: {error}", cache.display());
    }
    (verdict, lasts)
}

/// The verdict of this boot, if there is one for this QEMU.
pub(super) fn remembered(cache: &Path, qemu: &str) -> Option<Verdict> {
    remembered_for(cache, &boot_id(), qemu)
}

fn remembered_for(cache: &Path, boot_id: &str, qemu: &str) -> Option<Verdict> {
    let known: Verdict = serde_json::from_slice(&std::fs::read(cache.join(FILE)).ok()?).ok()?;
    (!boot_id.is_empty() && known.boot_id == boot_id && known.qemu == qemu).then_some(known)
}

/// Written beside and renamed, since others may read or write it at the same time.
fn remember(cache: &Path, verdict: &Verdict) -> io::Result<()> {
    std::fs::create_dir_all(cache)?;
    let mut beside = tempfile::Builder::new().prefix(FILE).tempfile_in(cache)?;
    beside.write_all(&serde_json::to_vec_pretty(verdict)?)?;
    beside.persist(cache.join(FILE))?;
    Ok(())
}

async fn attempt(trial: Trial<'_>, scratch: &Path) -> Tried {
    boot_once(trial, scratch).await.unwrap_or_else(|error| Tried::Unknown(error.to_string()))
}

async fn boot_once(trial: Trial<'_>, scratch: &Path) -> io::Result<Tried> {
    let private = Permissions::from_mode(0o700);
    let directory = tempfile::Builder::new().prefix("kvm-").permissions(private).tempdir_in(scratch)?;
    let processes = Arc::new(Processes::new(Cage::open_or_groups()?));
    let hardware = Hardware {
        machine: Machine::Q35,
        accel: Accel::Kvm,
        driver: Machine::Q35.default_driver().to_owned(),
        vcpus: 1,
        memory: DEFAULT_MEMORY,
        cpu: None,
        arguments: Vec::new(),
    };
    let behind_ssh = trial.boot.login().is_some();
    let network = behind_ssh.then(private_network).transpose().map_err(io::Error::other)?;
    let begun = Instant::now();
    let site = Site {
        hardware: &hardware,
        boot: trial.boot,
        directory: directory.path(),
        namespace: network.as_ref(),
        processes: &processes,
        deadline: begun + trial.limit,
    };
    let node = NodeId::client(1);
    let management = behind_ssh.then(|| Management::of(node));
    let plan = GuestPlan { name: "probe".to_owned(), card: None, management };
    let launched = Guest::attempt(&site, node, &plan).await.map(drop);
    let took = begun.elapsed();
    processes.close().await?;
    if let Err(error) = directory.close() {
        tracing::warn!("cannot remove the directory in which KVM was tried: {error}");
    }
    Ok(match launched {
        Ok(()) => Tried::Booted(took),
        Err(not_up) => Tried::of(&not_up, took >= trial.limit),
    })
}

/// Empty when the kernel does not say: then nothing is remembered.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_qemu_and_its_guest_did_lasts() {
        let guest = || TestbedError::Guest { node: NodeId::client(1), what: "x".to_owned() };
        let io = || TestbedError::Io { what: "make it".to_owned(), source: io::ErrorKind::StorageFull.into() };
        assert!(Tried::Booted(LIMIT).lasts());
        assert!(Tried::of(&NotUp { ended: true, error: guest() }, false).lasts());
        assert!(Tried::of(&NotUp { ended: false, error: guest() }, true).lasts());
        assert!(!Tried::of(&NotUp { ended: false, error: guest() }, false).lasts());
        assert!(!Tried::of(&NotUp { ended: false, error: io() }, true).lasts());
    }

    #[tokio::test]
    async fn a_trial_without_room_for_it_does_not_last() {
        let gone = tempfile::tempdir().unwrap().path().join("gone");
        let boot = Boot::Disk { path: "none".to_owned(), format: "raw".to_owned(), login: None };
        let tried = attempt(Trial { boot: &boot, own: true, limit: LIMIT }, &gone).await;
        assert!(matches!(tried, Tried::Unknown(_)), "{tried:?}");
    }

    #[test]
    fn a_verdict_holds_for_one_boot_and_one_qemu() {
        let cache = tempfile::tempdir().unwrap();
        let verdict =
            Verdict { works: false, reason: "it hung".to_owned(), boot_id: boot_id(), qemu: "7.2".to_owned() };
        assert_eq!(verdict.accel(), Accel::Tcg);
        remember(cache.path(), &verdict).unwrap();
        assert_eq!(remembered(cache.path(), "7.2"), Some(verdict.clone()));
        assert_eq!(remembered(cache.path(), "8.0"), None);
        remember(cache.path(), &Verdict { boot_id: "another".to_owned(), ..verdict.clone() }).unwrap();
        assert_eq!(remembered(cache.path(), "7.2"), None);
        // A kernel that did not say which boot it was, then and now.
        remember(cache.path(), &Verdict { boot_id: String::new(), ..verdict }).unwrap();
        assert_eq!(remembered_for(cache.path(), "", "7.2"), None);
    }
}
