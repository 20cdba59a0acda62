//! The initramfs: a tree of files, written as a cpio archive (newc) whose bytes depend on nothing but the tree.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

/// Files, directories, links and devices by path, without the leading `/`.
#[derive(Debug, Default, Clone)]
pub(super) struct Tree(BTreeMap<String, Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory { mode: u32 },
    File { mode: u32, content: Arc<[u8]> },
    Link { target: String },
    Device { major: u32, minor: u32 },
}

impl Tree {
    /// Adds a directory and those above it. Those that are there already stay as they are.
    pub(super) fn directory(&mut self, path: &str, mode: u32) {
        let path = path.trim_matches('/');
        self.above(path);
        if !path.is_empty() {
            self.0.entry(path.to_owned()).or_insert(Entry::Directory { mode });
        }
    }

    /// Adds a file, or puts it in place of what has its path.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: impl Into<Arc<[u8]>>) {
        self.add(path, Entry::File { mode, content: content.into() });
    }

    /// Adds a symbolic link unless something has its path.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        if !self.contains(path) {
            self.add(path, Entry::Link { target: target.to_owned() });
        }
    }

    /// Adds a character device.
    pub(super) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.add(path, Entry::Device { major, minor });
    }

    pub(super) fn contains(&self, path: &str) -> bool {
        self.0.contains_key(path.trim_matches('/'))
    }

    /// Takes a file out.
    pub(super) fn remove(&mut self, path: &str) {
        self.0.remove(path.trim_matches('/'));
    }

    /// Makes the tree below an empty directory, all but its devices: those are for the kernel that starts from it.
    ///
    /// Returns how many bytes each file has, links and directories none; the paths are without the leading `/`.
    ///
    /// # Errors
    /// Also for what lies below a link, before anything is made: here the link may lead out of the tree.
    pub(super) fn unpack(&self, place: &Path) -> io::Result<BTreeMap<String, u64>> {
        if let Some((path, link)) = self.0.keys().find_map(|path| Some((path, self.link_above(path)?))) {
            let what =
                format!("/{path} cannot be put below /{link}, which is a link in the image: use another directory");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let mut sizes = BTreeMap::new();
        for (path, entry) in &self.0 {
            let at = place.join(path);
            match entry {
                Entry::Directory { mode } => {
                    fs::create_dir(&at)?;
                    fs::set_permissions(&at, Permissions::from_mode(*mode))?;
                }
                Entry::File { mode, content } => {
                    fs::write(&at, content)?;
                    fs::set_permissions(&at, Permissions::from_mode(*mode))?;
                }
                Entry::Link { target } => symlink(target, &at)?,
                Entry::Device { .. } => continue,
            }
            let size = if let Entry::File { content, .. } = entry { content.len() as u64 } else { 0 };
            sizes.insert(path.clone(), size);
        }
        Ok(sizes)
    }

    fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        self.above(path);
        self.0.insert(path.to_owned(), entry);
    }

    fn above(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(Entry::Directory { mode: 0o755 });
        }
    }

    /// The link that a path leads through, if it does.
    fn link_above<'p>(&self, path: &'p str) -> Option<&'p str> {
        let is_link = |above: &&str| matches!(self.0.get(*above), Some(Entry::Link { .. }));
        path.match_indices('/').map(|(at, _)| &path[..at]).find(is_link)
    }

    /// Writes the archive: sorted by path, numbered from 1, owned by root, all of them from 1970.
    ///
    /// Source: Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for (number, (path, entry)) in (1..).zip(&self.0) {
            entry.write(out, number, path)?;
        }
        cpio::newc::trailer(out)?;
        Ok(())
    }
}

impl Entry {
    fn write(&self, out: &mut dyn Write, number: u32, path: &str) -> io::Result<()> {
        let (mode, links, device, content) = match self {
            Self::Directory { mode } => (0o040_000 | mode, 2, (0, 0), &[][..]),
            Self::File { mode, content } => (0o100_000 | mode, 1, (0, 0), &content[..]),
            Self::Link { target } => (0o120_777, 1, (0, 0), target.as_bytes()),
            Self::Device { major, minor } => (0o020_600, 1, (*major, *minor), &[][..]),
        };
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("/{path} is larger than 4 GiB, which no initramfs can hold")))?;
        let head = cpio::NewcBuilder::new(path).ino(number).mode(mode).nlink(links).mtime(0);
        let mut writer = head.rdev_major(device.0).rdev_minor(device.1).write(out, size);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::Tree;

    fn sample() -> Tree {
        let mut tree = Tree::default();
        tree.device("/dev/console", 5, 1);
        tree.link("/bin/sh", "busybox");
        tree.file("/bin/busybox", 0o755, &b"program"[..]);
        tree.directory("/tmp", 0o1777);
        tree
    }

    fn written(tree: &Tree) -> Vec<u8> {
        let mut out = Vec::new();
        tree.write(&mut out).unwrap();
        out
    }

    #[test]
    fn the_order_of_making_does_not_show() {
        let mut other = Tree::default();
        other.directory("/tmp", 0o1777);
        other.file("/bin/busybox", 0o755, &b"program"[..]);
        other.link("/bin/sh", "busybox");
        other.device("/dev/console", 5, 1);
        assert_eq!(written(&sample()), written(&other));
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let bytes = written(&sample());
        let mut rest = &bytes[..];
        let mut found = Vec::new();
        loop {
            let mut reader = cpio::NewcReader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let entry = reader.entry();
            assert_eq!((entry.mtime(), entry.uid(), entry.gid()), (0, 0, 0));
            let head = (entry.name().to_owned(), format!("{:o}", entry.mode()));
            let mut content = String::new();
            reader.read_to_string(&mut content).unwrap();
            found.push((head.0, head.1, content));
            rest = reader.finish().unwrap();
        }
        let expected = [
            ("bin", "40755", ""),
            ("bin/busybox", "100755", "program"),
            ("bin/sh", "120777", "busybox"),
            ("dev", "40755", ""),
            ("dev/console", "20600", ""),
            ("tmp", "41777", ""),
        ];
        assert_eq!(found, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
    }

    #[test]
    fn a_tree_is_unpacked_without_its_devices() {
        use std::os::unix::fs::PermissionsExt as _;
        let place = tempfile::tempdir().unwrap();
        let sizes = sample().unpack(place.path()).unwrap();
        let expected = [("bin", 0), ("bin/busybox", 7), ("bin/sh", 0), ("dev", 0), ("tmp", 0)];
        assert_eq!(sizes, expected.map(|(path, size)| (path.to_owned(), size)).into());
        assert_eq!(std::fs::read(place.path().join("bin/sh")).unwrap(), b"program");
        let mode = |path: &str| std::fs::metadata(place.path().join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("bin/busybox"), mode("tmp")), (0o755, 0o1777));
    }

    #[test]
    fn nothing_is_unpacked_through_a_link() {
        let (place, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut tree = Tree::default();
        tree.link("/var/tmp", outside.path().to_str().unwrap());
        tree.file("/var/tmp/a/gen", 0o755, &b"program"[..]);
        let error = tree.unpack(place.path()).unwrap_err().to_string();
        assert!(error.starts_with("/var/tmp/a cannot be put below /var/tmp, which is a link"), "{error}");
        for untouched in [&place, &outside] {
            assert_eq!(std::fs::read_dir(untouched.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_link_does_not_hide_a_file() {
        let mut tree = sample();
        tree.link("/bin/busybox", "elsewhere");
        assert_eq!(written(&tree), written(&sample()));
    }
}
