//! Programs of this host that go into an image, with whatever they need to start.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::archive::Tree;
use super::libraries::Libraries;
use super::watch::Watch;
use super::{ImageError, elf};

/// Put into every image if this host has them.
pub(super) const USUAL: [&str; 7] = ["ab", "busybox", "ethtool", "iperf3", "ip", "nginx", "tc"];

/// Interpreters that come with a library of many files, which no image holds.
const NOT_ALONE: [&str; 8] = ["python", "perl", "ruby", "node", "php", "lua", "tclsh", "Rscript"];

/// Where programs are looked for after `PATH`.
const SYSTEM: [&str; 6] = ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/sbin"];

/// Collects programs.
#[derive(Debug)]
pub(super) struct Programs<'a> {
    pub(super) libraries: Libraries,
    watch: &'a mut Watch,
    taken: BTreeSet<PathBuf>,
}

impl<'a> Programs<'a> {
    pub(super) fn new(watch: &'a mut Watch) -> Result<Self, ImageError> {
        Ok(Self { libraries: Libraries::new(watch)?, watch, taken: BTreeSet::new() })
    }

    /// Puts a program into the tree at the path it has on this host, which it returns; `None` when it is not there.
    pub(super) fn add(&mut self, program: &str, tree: &mut Tree) -> Result<Option<String>, ImageError> {
        let Some(path) = self.find(program) else { return Ok(None) };
        self.add_file(&path, tree)?;
        Ok(Some(path.display().to_string()))
    }

    /// Puts vptest into the tree, without its symbols.
    pub(super) fn add_vptest(&mut self, path: &Path, tree: &mut Tree) -> Result<(), ImageError> {
        let content = elf::trimmed(&self.watch.read(path)?);
        self.libraries.add(path, &content, self.watch)?;
        tree.file(super::VPTEST, 0o755, content);
        Ok(())
    }

    /// Puts the shared libraries of all programs into the tree.
    pub(super) fn finish(mut self, tree: &mut Tree) -> Result<(), ImageError> {
        // glibc opens these by itself: for the names of users and hosts, and for ending threads.
        for name in ["libnss_files.so.2", "libnss_dns.so.2", "libgcc_s.so.1"] {
            self.libraries.add_if_there(name, self.watch)?;
        }
        for (in_guest, path) in &self.libraries.files {
            tree.file(in_guest, 0o755, self.watch.read(path)?);
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, tree: &mut Tree) -> Result<(), ImageError> {
        if !self.taken.insert(path.to_owned()) {
            return Ok(());
        }
        let refused = |text: String| ImageError::Program { path: path.to_owned(), text };
        let in_guest = path.to_str().ok_or_else(|| refused("its path is not UTF-8".to_owned()))?;
        let content = self.watch.read(path)?;
        if let Some(line) = content.strip_prefix(b"#!") {
            self.add_interpreter(path, line, tree)?;
        } else {
            // What it is linked with lies where the file itself lies, not where a link to it lies.
            let real = path.canonicalize().map_err(ImageError::file("read", path))?;
            self.libraries.add(&real, &content, self.watch)?;
        }
        tree.file(in_guest, 0o755, content);
        Ok(())
    }

    /// A script needs its interpreter, and with `env` the one behind it.
    fn add_interpreter(&mut self, script: &Path, line: &[u8], tree: &mut Tree) -> Result<(), ImageError> {
        let refused = |text: String| ImageError::Program { path: script.to_owned(), text };
        let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let line = str::from_utf8(line).map_err(|_| refused("its first line is not UTF-8".to_owned()))?;
        let mut words = line.split_whitespace();
        let first = words.next().ok_or_else(|| refused("its first line names no interpreter".to_owned()))?;
        let behind = words.find(|word| !word.starts_with('-') && !word.contains('='));
        let is_env = first.ends_with("/env");
        for name in [Some(first), behind.filter(|_| is_env)].into_iter().flatten() {
            let base = name.rsplit('/').next().unwrap_or(name);
            if NOT_ALONE.iter().any(|start| base.starts_with(start)) {
                return Err(refused(format!("it is a script for {base}, whose library no image holds")));
            }
            let path = self.find(name).ok_or_else(|| ImageError::NoProgram { program: name.to_owned() })?;
            self.add_file(&path, tree)?;
        }
        Ok(())
    }

    /// An executable file: by path, or by name in `PATH` and in the system's directories.
    fn find(&mut self, program: &str) -> Option<PathBuf> {
        if program.contains('/') {
            let path = std::path::absolute(program).ok()?;
            return self.is_program(&path).then_some(path);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all: Vec<_> = std::env::split_paths(&path).chain(SYSTEM.map(PathBuf::from)).collect();
        all.into_iter()
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(program))
            .find(|path| self.is_program(path))
    }

    fn is_program(&mut self, path: &Path) -> bool {
        self.watch.is_file(path) && path.metadata().is_ok_and(|data| data.permissions().mode() & 0o111 != 0)
    }
}
