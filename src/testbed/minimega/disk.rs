//! The disks on which a guest leaves what is large for its host (`result_disk`): one for files, and one for packets that are kept,
//! which are written while they come.
//!
//! Each is a qcow2 file of vptest's, beside the guest's own disk. Not one of `vm config disks`: of these minimega makes snapshots
//! of its own, and what a guest writes is lost with them. So QEMU gets it by arguments of ours.
//!
//! The host must not read what a QEMU writes. Taking the disk away from the guest would need the guest's help, and it is wanted
//! again for the next file; stopping the guest for as long as reading takes would end its conversation. So QEMU is told to write
//! to another file from now on, a layer over this one: from then on nobody writes to this one any more.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::Mutex;

use super::daemon::Namespace;
use super::hold::chain;
use super::qmp;
use crate::agent::results::{self, HEADER, ReadLimits};
use crate::agent::{ArchiveReceipt, PACKETS_SERIAL, RESULTS_SERIAL, ResultsDisk};
use crate::host::cage::{Cage, Job};
use crate::node::{Command, Process as _, Stream};
use crate::text::printable_bytes;
use crate::units::ByteSize;

/// What makes and reads such disks, and the package it is in.
pub(super) const PROGRAM: &str = "qemu-img";
pub(super) const PACKAGE: &str = "qemu-utils";
/// What is read at once, and what sizes of disks are multiples of.
const PIECE: u64 = 1 << 20;
/// How long `qemu-img` may take, beside a second for each of these bytes.
const LIMIT: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 10 << 20;

/// What a disk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Files that are brought when they are wanted.
    Files,
    /// Packets that are kept, as they come.
    Packets,
}

impl Purpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Files => "results",
            Self::Packets => "packets",
        }
    }

    /// By what the agent finds it.
    const fn serial(self) -> &'static str {
        match self {
            Self::Files => RESULTS_SERIAL,
            Self::Packets => PACKETS_SERIAL,
        }
    }

    fn node_name(self, layer: u32) -> String {
        format!("vptest-{}-{layer}", self.as_str())
    }

    fn layer(self, directory: &Path, machine: &str, layer: u32) -> PathBuf {
        directory.join(format!("{machine}.{}.{layer}.qcow2", self.as_str()))
    }
}

/// The file of a disk with which its machine begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstLayer {
    /// Its path.
    pub path: String,
    /// What the disk is for.
    pub purpose: Purpose,
}

/// A machine's results disk.
#[derive(Debug)]
pub struct Disk {
    namespace: Arc<Namespace>,
    machine: String,
    purpose: Purpose,
    /// Where its layers are.
    directory: PathBuf,
    size: ByteSize,
    /// Number of the layer that QEMU writes to.
    layer: Mutex<u32>,
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Disk {
    /// Makes the first layer of the disk of a machine that is to be launched with it.
    ///
    /// # Errors
    /// When `qemu-img` cannot.
    pub async fn create(directory: &Path, machine: &str, purpose: Purpose, size: ByteSize) -> io::Result<FirstLayer> {
        let path = purpose.layer(directory, machine, 0);
        // A multiple of all sectors there are.
        let bytes = size.0.div_ceil(PIECE) * PIECE;
        let words = ["create", "-q", "-f", "qcow2", "--"].map(str::to_owned).into_iter();
        qemu_img(words.chain([shown(&path), bytes.to_string()]).collect(), directory, LIMIT).await?;
        Ok(FirstLayer { path: shown(&path), purpose })
    }

    /// The disk of a machine that was launched with what [`Disk::create`] has made there.
    pub fn of(namespace: &Arc<Namespace>, machine: &str, directory: &Path, purpose: Purpose, size: ByteSize) -> Self {
        Self {
            namespace: Arc::clone(namespace),
            machine: machine.to_owned(),
            purpose,
            directory: directory.to_owned(),
            size,
            layer: Mutex::default(),
            files: AtomicU64::default(),
            bytes: AtomicU64::default(),
        }
    }

    /// Files that have come over it so far, and their bytes.
    pub fn used(&self) -> (u64, u64) {
        (self.files.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Has QEMU write to another layer from now on, and returns the path of the one that is left.
    async fn leave_layer(&self) -> io::Result<PathBuf> {
        let mut layer = self.layer.lock().await;
        let (purpose, next) = (self.purpose, *layer + 1);
        let arguments = json!({
            "node-name": purpose.node_name(*layer),
            "snapshot-file": shown(&purpose.layer(&self.directory, &self.machine, next)),
            "snapshot-node-name": purpose.node_name(next),
            "format": "qcow2",
        });
        // It comes back when all that was written is in the file.
        let left = qmp::ask(&self.namespace, &self.machine, "blockdev-snapshot-sync", arguments).await;
        left.map_err(|error| io::Error::other(format!("QEMU does not leave the disk's file: {}", chain(&error))))?;
        Ok(purpose.layer(&self.directory, &self.machine, std::mem::replace(&mut *layer, next)))
    }
}

/// QEMU's arguments for a machine with the disk whose first layer is there. Commas are doubled in values (qemu(1)).
pub(super) fn arguments(purpose: Purpose, layer: &str) -> Vec<String> {
    let file = layer.replace(',', ",,");
    let (node, name, serial) = (purpose.node_name(0), purpose.as_str(), purpose.serial());
    // The file need not outlive the host: what is in its memory is read from there.
    let block = format!("driver=qcow2,node-name={node},cache.no-flush=on,file.driver=file,file.filename={file}");
    // Where this host's disk is full, the guest hears of it; QEMU would stop the machine otherwise.
    let device = format!("virtio-blk-pci,id=vptest-{name},drive={node},serial={serial},werror=report");
    ["-blockdev".to_owned(), block, "-device".to_owned(), device].to_vec()
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[async_trait]
impl ResultsDisk for Disk {
    async fn read(&self, receipt: &ArchiveReceipt, into: &Path) -> io::Result<Vec<PathBuf>> {
        let length = receipt.bytes.saturating_add(HEADER as u64);
        let size = self.size.0.div_ceil(PIECE) * PIECE;
        if length > size {
            return Err(io::Error::other(format!("{length} bytes cannot be on a disk of {size}")));
        }
        let layer = self.leave_layer().await?;
        // Removed when it is dropped.
        let raw = tempfile::Builder::new().prefix("raw-").tempfile_in(&self.directory)?.into_temp_path();
        // The guest has written what is in there, so that nobody may guess what it is: `-f`.
        let words = ["dd", "-f", "qcow2", "-O", "raw"].map(str::to_owned).into_iter();
        let (count, piece) = (length.div_ceil(PIECE), PIECE);
        let pieces = [format!("bs={piece}"), format!("count={count}")].into_iter();
        let files = [format!("if={}", shown(&layer)), format!("of={}", shown(&raw))];
        let limit = LIMIT + Duration::from_secs(length / SLOWEST);
        qemu_img(words.chain(pieces).chain(files).collect(), &self.directory, limit).await?;
        let (receipt, into) = (receipt.clone(), into.to_owned());
        let limits = ReadLimits { bytes: size, ..ReadLimits::default() };
        let read = move || results::read_as_told(&raw, &receipt, limits, &into);
        let files = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        self.files.fetch_add(files.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(files.iter().map(|file| file.bytes).sum(), Ordering::Relaxed);
        Ok(files.into_iter().map(|file| file.path).collect())
    }

    fn place(&self) -> &Path {
        &self.directory
    }

    fn setting(&self) -> String {
        format!("`result_disk` = {} in `[testbed.minimega]`", self.size)
    }
}

async fn qemu_img(arguments: Vec<String>, directory: &Path, limit: Duration) -> io::Result<()> {
    let failed = |why: String| io::Error::other(format!("{PROGRAM} {}: {why}", arguments[0]));
    let argv = std::iter::once(PROGRAM.to_owned()).chain(arguments.iter().cloned()).collect();
    let mut cage = Cage::open_or_groups()?;
    let job = Job { command: Command { argv, ..Command::default() }, directory: directory.to_owned(), namespace: None };
    let ended = async {
        let mut child = cage.spawn(job).await.map_err(|error| failed(error.to_string()))?;
        let exit = tokio::time::timeout(limit, child.wait()).await;
        let exit = exit.map_err(|_| failed(format!("it has not ended within {limit:?}")))?.map_err(io::Error::other)?;
        if exit.status.success() {
            return Ok(());
        }
        let said = child.output(Stream::Err).bytes;
        Err(failed(format!("{}: {}", exit.status, printable_bytes(said.trim_ascii(), 400))))
    };
    let ended = ended.await;
    if let Err(error) = cage.close().await {
        tracing::warn!("cannot end {PROGRAM}: {error}");
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_beside_those_of_minimegas() {
        let words = arguments(Purpose::Files, "/a,b/client1.results.0.qcow2");
        assert_eq!(words[0], "-blockdev");
        assert!(words[1].ends_with(",file.filename=/a,,b/client1.results.0.qcow2"), "{words:?}");
        assert!(words[3].starts_with("virtio-blk-pci,") && words[3].contains("serial=vptest-results,"), "{words:?}");
        let packets = arguments(Purpose::Packets, "/p");
        assert!(packets[3].contains("serial=vptest-packets,") && packets[1].contains("node-name=vptest-packets-0,"));
    }
}
