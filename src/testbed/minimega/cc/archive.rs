//! Files of a node, unpacked from the archive it made. What is in there is hostile.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use crate::text::printable_bytes;

/// Files that are taken from one archive.
const FILES: usize = 100_000;

/// Unpacks regular files below `directory`, which must be empty; returns their paths there, in the archive's order.
///
/// # Errors
/// For everything that is no regular file or directory, names that lead elsewhere, names that come twice, more files or bytes
/// than allowed, and what the file system says. What was unpacked before stays.
pub(super) fn unpack(archive: &Path, directory: &Path, limit: u64) -> io::Result<Vec<PathBuf>> {
    let mut left = limit;
    let mut unpacked = Vec::new();
    for entry in tar::Archive::new(File::open(archive)?).entries()? {
        let mut entry = entry?;
        match entry.header().entry_type() {
            tar::EntryType::Directory => continue,
            tar::EntryType::Regular | tar::EntryType::GNUSparse => {}
            _ => return bad(&entry.path_bytes(), "is neither a file nor a directory"),
        }
        let Some(name) = inside(&entry.path()?) else { return bad(&entry.path_bytes(), "leads elsewhere") };
        if unpacked.len() >= FILES {
            return bad(&entry.path_bytes(), "is one file too many");
        }
        let path = directory.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        let copied = io::copy(&mut entry.by_ref().take(left.saturating_add(1)), &mut file)?;
        left = match left.checked_sub(copied) {
            Some(left) => left,
            None => return bad(&entry.path_bytes(), "makes it larger than is allowed"),
        };
        unpacked.push(path);
    }
    Ok(unpacked)
}

/// The name without what could lead out of a directory; `None` where it would.
fn inside(name: &Path) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (!path.as_os_str().is_empty()).then_some(path)
}

fn bad<T>(name: &[u8], what: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("`{}` {what}", printable_bytes(name, 100))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, type and content.
    type Entry<'a> = (&'a [u8], tar::EntryType, &'a [u8]);

    fn archive(entries: &[Entry<'_>]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(file.reopen().unwrap());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            if kind.is_symlink() {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.finish().unwrap();
        file
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;

    #[test]
    fn files_land_below_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let archive =
            archive(&[(b"/a/b", FILE, b"one"), (b"empty", FILE, b""), (b"d/", tar::EntryType::Directory, b"")]);
        let paths = unpack(archive.path(), directory.path(), 3).unwrap();
        assert_eq!(paths, [directory.path().join("a/b"), directory.path().join("empty")]);
        assert_eq!(fs::read(&paths[0]).unwrap(), b"one");
    }

    #[test]
    fn what_could_harm_is_refused() {
        let link = tar::EntryType::Symlink;
        let cases: [(&[Entry<'_>], &str); 5] = [
            (&[(b"../a", FILE, b"x")], "leads elsewhere"),
            (&[(b"a/../../b", FILE, b"x")], "leads elsewhere"),
            (&[(b"a", link, b"")], "is neither"),
            (&[(b"a", FILE, b"x"), (b"a", FILE, b"y")], "exists"),
            (&[(b"a", FILE, b"1234")], "larger"),
        ];
        for (entries, why) in cases {
            let directory = tempfile::tempdir().unwrap();
            let error = unpack(archive(entries).path(), directory.path(), 3).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
    }
}
