//! Kept packets, onto a disk of the node's: nothing of them goes through the channel while the workload runs.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use tokio::task::JoinHandle;

use super::super::PACKETS_SERIAL;
use super::super::message::{ArchiveReceipt, Failure, KeptPackets};
use super::super::results::OpenEnd;
use super::archive::find_disk;

/// Name of the file on the disk.
const NAME: &str = "packets.pcapng";
/// Bytes that are written at once.
const PIECE: usize = 1 << 20;

/// Packets on their way to the disk.
pub(super) struct Packets {
    disk: PathBuf,
    /// Ends when nobody writes to the pipe any more.
    task: JoinHandle<Written>,
}

struct Written {
    out: OpenEnd<File>,
    bytes: u64,
    error: Option<io::Error>,
}

impl Packets {
    /// What is written to the pipe that is returned goes to `disk`, or to the virtio disk for packets.
    pub(super) fn begin(disk: Option<PathBuf>, nonce: u64) -> Result<(File, Self), Failure> {
        let disk = disk.map_or_else(|| find_disk(PACKETS_SERIAL), Ok)?;
        let failed = |error: io::Error| Failure::io(format!("write packets to {}", disk.display()), &error);
        // No other capture may have it (open(2) of block devices).
        let mut file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(&disk).map_err(failed)?;
        let room = room(&mut file).map_err(failed)?;
        let out = OpenEnd::begin(file, nonce).map_err(failed)?;
        let (reader, writer) = super::capture::pipe().map_err(|error| Failure::io("make a pipe", &error))?;
        let task = tokio::task::spawn_blocking(move || write(reader, out, room));
        Ok((writer, Self { disk, task }))
    }

    /// Waits for the end of the pipe and makes the disk whole. A disk that could not hold all of it has what came first; one that
    /// cannot be made whole has nothing, which is no reason to lose the record.
    pub(super) async fn finish(self) -> KeptPackets {
        let Self { disk, task } = self;
        match seal(task).await {
            Ok((receipt, bytes, error)) => {
                let problem = error.map(|error| format!("{error} after {bytes} bytes ({})", disk.display()));
                KeptPackets { receipt: Some(receipt), problem }
            }
            Err(error) => {
                let problem = format!("cannot write packets to {}: {error}", disk.display());
                KeptPackets { receipt: None, problem: Some(problem) }
            }
        }
    }
}

/// What is on the disk, how much of it, and why it is not all.
async fn seal(task: JoinHandle<Written>) -> io::Result<(ArchiveReceipt, u64, Option<io::Error>)> {
    let Written { out, bytes, error } = task.await?;
    let sealed = tokio::task::spawn_blocking(move || {
        let (file, receipt) = out.finish(NAME, bytes)?;
        file.sync_all().map(|()| receipt)
    });
    Ok((sealed.await??, bytes, error))
}

/// Bytes of packets that there is room for; a file grows.
fn room(file: &mut File) -> io::Result<u64> {
    if !file.metadata()?.file_type().is_block_device() {
        return Ok(u64::MAX);
    }
    let size = file.seek(SeekFrom::End(0))?;
    Ok(size.saturating_sub(super::super::results::needed([0]) + 512))
}

/// To the end of the pipe, or of the room: then nobody reads any more, and the capture counts what is lost.
fn write(mut pipe: File, mut out: OpenEnd<File>, room: u64) -> Written {
    let (mut piece, mut bytes) = (vec![0; PIECE], 0);
    let error = loop {
        let count = match pipe.read(&mut piece) {
            Ok(0) => break None,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => break Some(error),
        };
        let left = usize::try_from(room - bytes).unwrap_or(usize::MAX);
        let taken = &piece[..count.min(left)];
        if let Err(error) = out.content().write_all(taken) {
            break Some(error);
        }
        bytes += taken.len() as u64;
        if taken.len() < count {
            break Some(io::ErrorKind::StorageFull.into());
        }
    };
    Written { out, bytes, error }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::results::{self, ReadLimits};
    use super::*;

    fn kept(disk: &Path, content: &[u8], room: u64) -> (Written, Vec<u8>) {
        let file = OpenOptions::new().read(true).write(true).open(disk).unwrap();
        let out = OpenEnd::begin(file, 7).unwrap();
        let (reader, mut writer) = super::super::capture::pipe().unwrap();
        let (written, refused) = std::thread::scope(|scope| {
            let reading = scope.spawn(move || write(reader, out, room));
            let refused = writer.write_all(content).is_err();
            drop(writer);
            (reading.join().unwrap(), refused)
        });
        assert_eq!(
            refused,
            content.len() as u64 > room.saturating_add(2 << 20),
            "whoever writes more than the pipe has hears of it"
        );
        let bytes = written.bytes;
        let Written { out, error, .. } = written;
        let (file, receipt) = out.finish(NAME, bytes).unwrap();
        let into = tempfile::tempdir().unwrap();
        let files = results::read(disk, Some(receipt.nonce), ReadLimits::default(), into.path()).unwrap();
        assert_eq!((files.len(), files[0].name.as_str()), (1, NAME));
        let again = OpenEnd::begin(file, 8).unwrap();
        (Written { out: again, bytes, error }, std::fs::read(&files[0].path).unwrap())
    }

    #[test]
    fn packets_are_whole_or_cut_where_the_disk_ends() {
        let place = tempfile::tempdir().unwrap();
        let disk = place.path().join("disk");
        std::fs::write(&disk, vec![9; 20_000]).unwrap();
        let content: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        for length in [0, 1, 512, 100_000, content.len()] {
            let (written, back) = kept(&disk, &content[..length], u64::MAX);
            assert!(written.error.is_none() && back == content[..length], "{length}");
        }
        let (written, back) = kept(&disk, &content, 1000);
        assert_eq!(written.error.unwrap().kind(), io::ErrorKind::StorageFull);
        assert!(written.bytes == 1000 && back == content[..1000]);
        // Begun again and not ended, it is not whole.
        let error = results::read(&disk, None, ReadLimits::default(), place.path()).unwrap_err();
        assert!(matches!(error, results::ResultsError::Unfinished(_)), "{error}");
    }
}
