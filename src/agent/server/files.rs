//! Files, both ways. The work is done on threads that may block.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use super::super::client::hex;
use super::super::message::{Failure, FailureKind, Outcome, Receipt};
use super::super::mux::{CHUNK, Chunk, Inbox, Item, Outbox};

/// Bytes of all files of one request to read files.
const MAX_FILES: u64 = 256 << 20;

/// Runs work that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Failure::new(FailureKind::Other, "go on", error.to_string())))
}

/// Takes a file in.
pub(super) fn put(target: &Path, mode: u32, size: u64, mut inbox: Inbox, runtime: &Handle) -> Result<Outcome, Failure> {
    let what = || format!("write {}", target.display());
    let failed = |error: io::Error| Failure::io(what(), &error);
    let mut beside = Beside::create(target, inbox.call()).map_err(failed)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
    let announced = loop {
        match inbox.blocking_next(runtime) {
            Some(Item::Data(_, chunk)) => {
                bytes += chunk.len() as u64;
                if bytes > size {
                    let text = format!("more than the {size} bytes that were announced came");
                    return Err(Failure::new(FailureKind::Corrupt, what(), text));
                }
                hash.update(&chunk);
                beside.file.write_all(&chunk).map_err(failed)?;
            }
            Some(Item::End(_, payload)) => break payload,
            Some(_) => {}
            None => return Err(Failure::new(FailureKind::Other, what(), "the host went away")),
        }
    };
    let sha256 = hex(hash);
    if bytes != size || announced != sha256.as_bytes() {
        let announced = String::from_utf8_lossy(&announced).into_owned();
        let text = format!("{bytes} bytes with checksum {sha256} came, {size} with {announced} were announced");
        return Err(Failure::new(FailureKind::Corrupt, what(), text));
    }
    beside.finish(target, mode).map_err(failed)?;
    Ok(Outcome::Receipt(Receipt { bytes, sha256 }))
}

/// Sends a file out.
pub(super) fn get(source: &Path, limit: u64, outbox: &Outbox, runtime: &Handle) -> Result<Outcome, Failure> {
    let what = || format!("read {}", source.display());
    let failed = |error: io::Error| Failure::io(what(), &error);
    let too_large = || Failure::new(FailureKind::TooLarge, what(), format!("it is larger than {limit} bytes"));
    let mut file = open_file(source).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() > limit {
        return Err(too_large());
    }
    let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
    loop {
        let mut chunk = Chunk::room();
        let count = read_full(&mut file, chunk.bytes_mut()).map_err(failed)?;
        if count == 0 {
            return Ok(Outcome::Receipt(Receipt { bytes, sha256: hex(hash) }));
        }
        bytes += count as u64;
        if bytes > limit {
            return Err(too_large());
        }
        chunk.truncate(count);
        hash.update(chunk.bytes());
        runtime.block_on(outbox.data(0, chunk))?;
    }
}

/// Reads small files as they are at one moment, then sends them: 1, length (`u64`), content; or 0.
pub(super) fn read_files(paths: &[PathBuf], limit: u64, outbox: &Outbox, runtime: &Handle) -> Result<Outcome, Failure> {
    let mut all = Vec::new();
    for path in paths {
        let Ok(file) = open_file(path) else {
            all.push(0);
            continue;
        };
        let mut content = Vec::new();
        match file.take(limit.saturating_add(1)).read_to_end(&mut content) {
            Ok(_) if content.len() as u64 > limit || (all.len() + content.len()) as u64 > MAX_FILES => {
                let text = format!("it is larger than {limit} bytes");
                return Err(Failure::new(FailureKind::TooLarge, format!("read {}", path.display()), text));
            }
            Ok(_) => {
                all.push(1);
                all.extend((content.len() as u64).to_le_bytes());
                all.extend(content);
            }
            Err(_) => all.push(0),
        }
    }
    for piece in all.chunks(CHUNK) {
        runtime.block_on(outbox.data(0, Chunk::of(piece)))?;
    }
    Ok(Outcome::Done)
}

/// SHA-256 of the running program. Where a script starts it, it runs in a loader's process and lies beside the script.
pub(super) fn build(script: Option<&Path>) -> Result<Outcome, Failure> {
    let failed = |error: io::Error| Failure::io("read its own program", &error);
    let beside = script.map(|script| script.with_file_name(crate::image::BUNDLE_BINARY));
    let mut file = File::open(beside.as_deref().unwrap_or(Path::new("/proc/self/exe"))).map_err(failed)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; CHUNK]);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(Outcome::Text(hex(hash))),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Removes what is in the directory.
pub(super) fn empty(directory: &Path) -> Result<Outcome, Failure> {
    let failed = |error: io::Error| Failure::io(format!("empty {}", directory.display()), &error);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_directory = entry.file_type().map_err(failed)?.is_dir();
        let path = entry.path();
        if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) }.map_err(failed)?;
    }
    Ok(Outcome::Done)
}

/// Anything but a file is refused: reading a pipe could take for ever.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// Fills the buffer as far as the file goes.
pub(super) fn read_full(file: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A file that has no name before it is whole: nothing of it stays behind, however the agent ends. Where the file system
/// cannot do that, it has another name until then.
#[derive(Debug)]
struct Beside {
    file: File,
    /// The other name; `None` for a file without one.
    path: Option<PathBuf>,
    other_name: PathBuf,
}

impl Beside {
    fn create(target: &Path, call: u32) -> io::Result<Self> {
        let name =
            target.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file's name"))?;
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut other_name = std::ffi::OsString::from(".");
        other_name.push(name);
        other_name.push(format!(".{}-{call}.tmp", std::process::id()));
        let other_name = directory.join(other_name);
        match OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(directory) {
            Ok(file) => Ok(Self { file, path: None, other_name }),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) => {
                let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&other_name)?;
                Ok(Self { file, path: Some(other_name.clone()), other_name })
            }
            Err(error) => Err(error),
        }
    }

    /// Gives the file its name, replacing another file of that name.
    fn finish(&mut self, target: &Path, mode: u32) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(mode & 0o7777))?;
        if self.path.is_none() {
            let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let link = |to: &Path| {
                let linked = nix::unistd::linkat(AT_FDCWD, own.as_str(), AT_FDCWD, to, AtFlags::AT_SYMLINK_FOLLOW);
                linked.map_err(io::Error::from)
            };
            match link(target) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => link(&self.other_name)?,
                other => return other,
            }
            self.path = Some(self.other_name.clone());
        }
        fs::rename(&self.other_name, target)?;
        self.path = None;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_name_gets_one_and_replaces_another() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("x");
        for content in ["one", "two"] {
            let mut beside = Beside::create(&target, 1).unwrap();
            beside.file.write_all(content.as_bytes()).unwrap();
            beside.finish(&target, 0o640).unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), content);
            assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o640);
        }
        drop(Beside::create(&target, 1).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "something else was left");
        assert!(Beside::create(Path::new("/"), 1).is_err());
    }
}
