//! Large files, over a disk of the node's that its host can read: no byte of them goes through the channel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::super::error::AgentError;
use super::super::mailbox::LARGEST;
use super::super::message::{ArchiveReceipt, FailureKind, KeptPackets};
use super::super::mux;
use super::super::results::{self, HEADER};
use super::Client;

/// Files up to this size go through the channel also where there is a disk: one fits into a letter with what else is said, and
/// costs a turn (some 30 ms). Over the disk it would cost that turn as well, and a layer of the disk and a program that reads it.
pub const SMALL: u64 = LARGEST as u64 / 2;

/// A disk of a node's, as its host has it.
#[async_trait]
pub trait ResultsDisk: Send + Sync + std::fmt::Debug {
    /// Reads what the node has archived last, and unpacks it into an empty directory. Nothing counts but what has the checksum
    /// that the node has told ([`super::super::results::read_as_told`]).
    ///
    /// # Errors
    /// Why it cannot be read, or is not what the receipt says.
    async fn read(&self, receipt: &ArchiveReceipt, into: &Path) -> io::Result<Vec<PathBuf>>;

    /// An existing directory of this host for what is on its way.
    fn place(&self) -> &Path;

    /// How its size was set, for whoever finds it too small.
    fn setting(&self) -> String;
}

/// The disks of a node.
#[derive(Debug)]
pub(super) struct Disks {
    files: Arc<dyn ResultsDisk>,
    /// Whose turn it is: what is archived next takes the place of what was before.
    turn: Mutex<()>,
    packets: Option<Arc<dyn ResultsDisk>>,
}

impl Client {
    /// Has large files come over the disk `files` from now on, and kept packets over another one, if there is one. Later ones are not
    /// taken.
    ///
    /// # Errors
    /// When the node cannot write to the first.
    pub async fn attach(
        &self,
        files: Arc<dyn ResultsDisk>,
        packets: Option<Arc<dyn ResultsDisk>>,
    ) -> Result<(), AgentError> {
        // Nothing, but with all that belongs to it: better now than after the workload.
        self.archive(&[]).await?;
        let _ = self.0.disks.set(Disks { files, turn: Mutex::default(), packets });
        Ok(())
    }

    /// The number under which kept packets go onto their disk; `None` where there is none.
    pub(crate) fn packets_number(&self) -> Option<u64> {
        self.packets_disk().map(|_| mux::fresh_number())
    }

    fn packets_disk(&self) -> Option<&Arc<dyn ResultsDisk>> {
        self.0.disks.get()?.packets.as_ref()
    }

    /// Brings the packets that were asked for under `number` from their disk to `target`, which must not exist. Returns what is wrong
    /// with them, if anything is.
    ///
    /// # Errors
    /// [`AgentError::Disk`]. Then there is no `target`.
    pub async fn bring_packets(
        &self,
        packets: &KeptPackets,
        number: u64,
        target: &Path,
    ) -> Result<Option<String>, AgentError> {
        const WHAT: &str = "kept packets";
        let failed = |source| AgentError::Disk { path: WHAT.to_owned(), source };
        let disk = self.packets_disk().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let receipt = packets.receipt.as_ref().ok_or_else(|| {
            let why = packets.problem.as_deref().unwrap_or("the node does not say why there are none");
            failed(io::Error::other(why.to_owned()))
        })?;
        if receipt.nonce != number {
            let what = format!("those of number {number} were asked for, and the node told of {}", receipt.nonce);
            return Err(failed(io::Error::other(what)));
        }
        take(disk.as_ref(), receipt, WHAT, target).await?;
        Ok(packets.problem.as_ref().map(|problem| format!("{problem} ({})", disk.setting())))
    }

    /// Brings a file of the node to `target`, which must not exist, and whose directory must. `limit` is for the channel alone: a
    /// disk has a size.
    ///
    /// # Errors
    /// As [`Client::get`]; [`AgentError::Disk`] and [`AgentError::SmallDisk`]. Then there is no `target`.
    pub async fn bring(&self, path: &str, limit: u64, target: &Path) -> Result<(), AgentError> {
        let here = |source| AgentError::Here { what: format!("write {}", target.display()), source };
        match self.small_or_over_disk(path, [limit, u64::MAX], target).await? {
            Some(content) => write(target, &content).map_err(here),
            None => Ok(()),
        }
    }

    /// As [`Client::get`], into memory; over the disk where that is quicker.
    ///
    /// # Errors
    /// As [`Client::bring`], and [`AgentError::Failed`] with `TooLarge` for a file of more than `limit` bytes.
    pub async fn fetch(&self, path: &str, limit: u64) -> Result<Vec<u8>, AgentError> {
        let Some(disks) = self.0.disks.get().filter(|_| limit > SMALL) else {
            let mut content = Vec::new();
            return self.get(path, limit, &mut content).await.map(|_| content);
        };
        let here = |source| AgentError::Here { what: format!("keep {path} on its way"), source };
        let place = tempfile::Builder::new().prefix("fetch-").tempdir_in(disks.files.place()).map_err(here)?;
        let target = place.path().join("content");
        match self.small_or_over_disk(path, [limit; 2], &target).await? {
            Some(content) => Ok(content),
            // Receipts count whole blocks.
            None if target.metadata().map_err(here)?.len() > limit => Err(super::files::too_large(path, limit)),
            None => fs::read(&target).map_err(here),
        }
    }

    /// The content of a file that has come through the channel; `None` for one that has come over the disk, to `target`. Each has its
    /// limit.
    async fn small_or_over_disk(
        &self,
        path: &str,
        [limit, of_disk]: [u64; 2],
        target: &Path,
    ) -> Result<Option<Vec<u8>>, AgentError> {
        let through_channel = async |limit| {
            let mut content = Vec::new();
            self.get(path, limit, &mut content).await.map(|_| Some(content))
        };
        let Some(disks) = self.0.disks.get() else { return through_channel(limit).await };
        match through_channel(limit.min(SMALL)).await {
            Err(error) if error.failure() == Some(FailureKind::TooLarge) => {}
            other => return other,
        }
        match disks.bring(self, path, of_disk, target).await {
            // A name that an archive cannot hold, or a length that nobody knows.
            Err(error) if error.failure() == Some(FailureKind::Invalid) => through_channel(limit).await,
            other => other.map(|()| None),
        }
    }
}

impl Disks {
    /// Brings a file of more than [`SMALL`] and not more than `limit` bytes.
    async fn bring(&self, client: &Client, path: &str, limit: u64, target: &Path) -> Result<(), AgentError> {
        let _turn = self.turn.lock().await;
        let receipt = client.archive(&[path.to_owned()]).await.map_err(|error| match error {
            AgentError::Failed(failure) if failure.kind == FailureKind::NoSpace => AgentError::SmallDisk {
                path: path.to_owned(),
                why: format!("{}: {}", self.files.setting(), failure.text),
            },
            error => error,
        })?;
        let told = receipt.bytes.saturating_add(HEADER as u64);
        if told > results::needed([limit]) {
            return Err(super::files::too_large(path, limit));
        }
        if told <= results::needed([SMALL]) {
            let text = format!("it had more than {SMALL} bytes, and those that came have not");
            return Err(AgentError::Disk { path: path.to_owned(), source: io::Error::other(text) });
        }
        take(self.files.as_ref(), &receipt, path, target).await
    }
}

/// Reads the one file that is on a disk, in the node called `path`.
async fn take(disk: &dyn ResultsDisk, receipt: &ArchiveReceipt, path: &str, target: &Path) -> Result<(), AgentError> {
    let failed = |source| AgentError::Disk { path: path.to_owned(), source };
    let place = tempfile::Builder::new().prefix("bulk-").tempdir_in(disk.place()).map_err(failed)?;
    let files = disk.read(receipt, place.path()).await.map_err(failed)?;
    match files.as_slice() {
        [file] => move_to(file, target).map_err(failed),
        // The file has become a directory meanwhile.
        others => Err(failed(io::Error::other(format!("{} files came for one", others.len())))),
    }
}

/// A file that was not there, or nothing.
fn write(target: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create_new(target)?;
    io::Write::write_all(&mut file, content).inspect_err(|_| drop(fs::remove_file(target)))
}

/// Gives a file another name that was not there, also on another file system. The first is removed with its directory.
fn move_to(file: &Path, target: &Path) -> io::Result<()> {
    match fs::hard_link(file, target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => copy(file, target),
        other => other,
    }
}

fn copy(file: &Path, target: &Path) -> io::Result<()> {
    let mut from = fs::File::open(file)?;
    let mut to = fs::File::create_new(target)?;
    io::copy(&mut from, &mut to).map(drop).inspect_err(|_| drop(fs::remove_file(target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_there_are_never_written_over() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::write(at("new"), "new").unwrap();
        for bring in [move_to, copy, |_: &Path, target: &Path| write(target, b"new")] {
            fs::write(at("old"), "old").unwrap();
            let error = bring(&at("new"), &at("old")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read_to_string(at("old")).unwrap(), "old");
            fs::remove_file(at("old")).unwrap();
            bring(&at("new"), &at("old")).unwrap();
            assert_eq!(fs::read_to_string(at("old")).unwrap(), "new");
            fs::remove_file(at("old")).unwrap();
        }
    }
}
