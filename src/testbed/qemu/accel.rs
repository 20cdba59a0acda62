//! Does KVM work here? Only a guest that has booted with it says so: on some hosts `/dev/kvm` opens and guests hang.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::args::{Accel, Boot, DEFAULT_MEMORY, GuestPlan, Hardware, Machine};
use super::guest::{Guest, Site};
use crate::host::cage::Cage;
use crate::ids::NodeId;
use crate::node::local::Processes;

const DEVICE: &str = "/dev/kvm";
/// A guest that works with KVM answers within one second.
const LIMIT: Duration = Duration::from_secs(8);
/// File in the cache that remembers the verdict.
const FILE: &str = "kvm.json";

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

/// The verdict of this boot: remembered in `cache`, or found out by booting `boot` in `scratch` (an existing directory).
pub(super) async fn verdict(boot: &Boot, qemu: &str, cache: &Path, scratch: &Path) -> Verdict {
    let boot_id = boot_id();
    let new = |works, reason| Verdict { works, reason, boot_id: boot_id.clone(), qemu: qemu.to_owned() };
    if let Err(error) = File::options().read(true).write(true).open(DEVICE) {
        return new(false, format!("cannot open {DEVICE}: {error}"));
    }
    if let Some(known) = remembered(cache, qemu) {
        return known;
    }
    let verdict = match attempt(boot, scratch).await {
        Ok(took) => new(true, format!("a guest booted with it in {:.1} s", took.as_secs_f64())),
        Err(reason) => new(false, format!("{DEVICE} opens, but a guest does not boot with it: {reason}")),
    };
    if let Err(error) = remember(cache, &verdict) {
        tracing::warn!("cannot remember in {} whether KVM works: {error}", cache.display());
    }
    verdict
}

/// The verdict of this boot, if there is one for this QEMU.
pub(super) fn remembered(cache: &Path, qemu: &str) -> Option<Verdict> {
    let known: Verdict = serde_json::from_slice(&std::fs::read(cache.join(FILE)).ok()?).ok()?;
    let boot_id = boot_id();
    (!boot_id.is_empty() && known.boot_id == boot_id && known.qemu == qemu).then_some(known)
}

/// Written beside and renamed, since others may read or write it at the same time.
fn remember(cache: &Path, verdict: &Verdict) -> io::Result<()> {
    std::fs::create_dir_all(cache)?;
    let beside = cache.join(format!("{FILE}.{}", std::process::id()));
    std::fs::write(&beside, serde_json::to_vec_pretty(verdict)?)?;
    std::fs::rename(beside, cache.join(FILE))
}

async fn attempt(boot: &Boot, scratch: &Path) -> Result<Duration, String> {
    let directory = Scratch::new(scratch).map_err(|error| error.to_string())?;
    let processes = Arc::new(Processes::new(Cage::open_or_groups().map_err(|error| error.to_string())?));
    let hardware = Hardware {
        machine: Machine::Q35,
        accel: Accel::Kvm,
        driver: Machine::Q35.default_driver().to_owned(),
        vcpus: 1,
        memory: DEFAULT_MEMORY,
        cpu: None,
        arguments: Vec::new(),
    };
    let begun = Instant::now();
    let site = Site {
        hardware: &hardware,
        boot,
        directory: &directory.0,
        namespace: None,
        processes: &processes,
        deadline: begun + LIMIT,
    };
    let plan = GuestPlan { name: "probe".to_owned(), card: None };
    let launched = Guest::launch(&site, NodeId::client(1), &plan).await.map(drop).map_err(|error| error.to_string());
    let took = begun.elapsed();
    processes.close().await.map_err(|error| error.to_string())?;
    launched.map(|()| took).map_err(|error| error.lines().next().unwrap_or_default().to_owned())
}

/// A directory that goes with its guard.
struct Scratch(PathBuf);

impl Scratch {
    fn new(beside: &Path) -> io::Result<Self> {
        let path = beside.join(format!("kvm-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Empty when the kernel does not say: then nothing is remembered.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_holds_for_one_boot_and_one_qemu() {
        let cache = tempfile::tempdir().unwrap();
        let verdict =
            Verdict { works: false, reason: "it hung".to_owned(), boot_id: boot_id(), qemu: "7.2".to_owned() };
        assert_eq!(verdict.accel(), Accel::Tcg);
        remember(cache.path(), &verdict).unwrap();
        assert_eq!(remembered(cache.path(), "7.2"), Some(verdict.clone()));
        assert_eq!(remembered(cache.path(), "8.0"), None);
        remember(cache.path(), &Verdict { boot_id: "another".to_owned(), ..verdict }).unwrap();
        assert_eq!(remembered(cache.path(), "7.2"), None);
    }
}
