//! Writing files to the results disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::super::message::{Failure, FailureKind, Outcome};
use super::super::{RESULTS_SERIAL, results};
use super::files::{open_file, read_full};

/// Files of one archive at the most.
const MAX_FILES: usize = 100_000;

/// Writes the files, and those in the directories, to `disk`, or to the virtio disk with our serial number.
pub(super) fn archive(disk: Option<PathBuf>, paths: &[PathBuf], nonce: u64) -> Result<Outcome, Failure> {
    let failed = |what: String| move |error: io::Error| Failure::io(what, &error);
    let mut files = Vec::new();
    for path in paths {
        gather(path, &mut files).map_err(failed(format!("archive {}", path.display())))?;
    }
    let disk = match disk {
        Some(disk) => disk,
        None => find_disk(RESULTS_SERIAL)?,
    };
    let what = format!("write to {}", disk.display());
    let mut out = OpenOptions::new().write(true).create(false).open(&disk).map_err(failed(what.clone()))?;
    check_room(&mut out, &disk, &files)?;
    let mut writer =
        results::Writer::begin(io::BufWriter::with_capacity(1 << 20, out), nonce).map_err(failed(what.clone()))?;
    for path in &files {
        add(&mut writer, path).map_err(|error| {
            let what = format!("archive {} on {}", path.display(), disk.display());
            match error.kind() {
                // Its length was announced; the channel needs none.
                io::ErrorKind::UnexpectedEof => Failure::new(FailureKind::Invalid, what, error.to_string()),
                _ => Failure::io(what, &error),
            }
        })?;
    }
    let (out, receipt) = writer.finish().map_err(failed(what.clone()))?;
    let out = out.into_inner().map_err(|error| Failure::io(what.clone(), error.error()))?;
    out.sync_all().map_err(failed(what))?;
    Ok(Outcome::Archived(receipt))
}

/// Do the files fit? Said with numbers, before anything is written.
fn check_room(out: &mut File, disk: &Path, files: &[PathBuf]) -> Result<(), Failure> {
    let what = || format!("write to {}", disk.display());
    let failed = |error: io::Error| Failure::io(what(), &error);
    // A file grows.
    if !out.metadata().map_err(failed)?.file_type().is_block_device() {
        return Ok(());
    }
    let sizes = files.iter().map(|path| Ok(fs::metadata(path)?.len())).collect::<io::Result<Vec<_>>>();
    let sizes = sizes.map_err(|error| Failure::io("look at the files to archive", &error))?;
    let (needed, room) = (results::needed(sizes), out.seek(io::SeekFrom::End(0)).map_err(failed)?);
    if needed <= room {
        return Ok(());
    }
    let text = format!("{needed} bytes are needed, and {} has {room}", disk.display());
    Err(Failure::new(FailureKind::NoSpace, what(), text))
}

fn add(writer: &mut results::Writer<io::BufWriter<File>>, path: &Path) -> io::Result<()> {
    let mut file = open_file(path)?;
    let size = file.metadata()?.len();
    let name = path.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a name that is not UTF-8"))?;
    writer.add(name.trim_start_matches('/'), size, &mut file)?;
    // Files of /proc say 0, and others grow.
    if read_full(&mut file, &mut [0])? > 0 {
        let text = format!("{name} has more than the {size} bytes that it was said to have");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

/// A directory stands for the regular files in it, in the order of their names; links are left out.
fn gather(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if files.len() >= MAX_FILES {
        return Err(io::Error::other(format!("more than {MAX_FILES} files")));
    }
    let kind = fs::metadata(path)?;
    if !kind.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        if kind.is_dir() || kind.is_file() {
            gather(&entry.path(), files)?;
        }
    }
    Ok(())
}

/// The virtio disk with that serial number.
pub(super) fn find_disk(serial: &str) -> Result<PathBuf, Failure> {
    let what = "find the results disk";
    let entries = fs::read_dir("/sys/block").map_err(|error| Failure::io(what, &error))?;
    let ours = entries.flatten().find(|entry| {
        let found = fs::read_to_string(entry.path().join("serial"));
        found.is_ok_and(|found| found.trim_matches(['\0', '\n', ' ']) == serial)
    });
    let found = ours.map(|entry| Path::new("/dev").join(entry.file_name()));
    found.ok_or_else(|| Failure::new(FailureKind::NotFound, what, format!("no disk has the serial {serial}")))
}
