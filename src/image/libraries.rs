//! Shared libraries: what a program loads, found where the dynamic loader of this host would find it.
//!
//! Source: ld.so(8). Not looked at: `LD_LIBRARY_PATH`, libraries for special processors (`glibc-hwcaps`), and what a
//! program opens by itself while it runs (`dlopen`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::watch::Watch;
use super::{ImageError, elf};

/// Where the loader of glibc looks without being told: Debian's and Ubuntu's first, then everyone else's.
const SYSTEM: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// Files that programs need, by the path they get in the guest; the value is the file on this host.
#[derive(Debug)]
pub(super) struct Libraries {
    configured: Vec<PathBuf>,
    guest_directory: &'static str,
    /// File names of the dynamic loaders in `files`.
    loaders: BTreeSet<String>,
    pub(super) files: BTreeMap<String, PathBuf>,
}

/// A library and where the one that needs it looks.
struct Wanted {
    name: String,
    needed_by: PathBuf,
    /// `DT_RPATH` of all that led here, or `DT_RUNPATH` of the one that needs it.
    first: Vec<PathBuf>,
    /// What is handed on to the libraries of the library.
    inherited: Vec<PathBuf>,
}

impl Libraries {
    pub(super) fn new(watch: &mut Watch) -> Result<Self, ImageError> {
        let mut configured = Vec::new();
        read_config(Path::new("/etc/ld.so.conf"), &mut configured, 0, watch)?;
        let guest_directory = SYSTEM.iter().find(|directory| Path::new(directory).is_dir()).copied().unwrap_or("/lib");
        Ok(Self { configured, guest_directory, loaders: BTreeSet::new(), files: BTreeMap::new() })
    }

    /// Adds what a program (its content) needs, all the way down.
    pub(super) fn add(&mut self, program: &Path, content: &[u8], watch: &mut Watch) -> Result<(), ImageError> {
        let needs = elf::needs(content).map_err(|text| ImageError::Program { path: program.to_owned(), text })?;
        if let Some(interpreter) = &needs.interpreter {
            let path = PathBuf::from(interpreter);
            if !watch.is_file(&path) {
                return Err(ImageError::NoLibrary { library: interpreter.clone(), needed_by: program.to_owned() });
            }
            self.loaders.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
            self.files.insert(interpreter.clone(), path);
        }
        let mut seen = BTreeSet::new();
        let mut open = wanted(program, needs, Vec::new());
        while let Some(next) = open.pop() {
            // libc names the loader among its libraries; it is there already, by its path.
            if self.loaders.contains(&next.name) {
                continue;
            }
            let Some((path, in_guest)) = self.find(&next, watch) else {
                return Err(ImageError::NoLibrary { library: next.name, needed_by: next.needed_by });
            };
            self.files.insert(in_guest, path.clone());
            if seen.insert(path.clone()) {
                let content = watch.read(&path)?;
                let needs = elf::needs(&content).map_err(|text| ImageError::Program { path: path.clone(), text })?;
                open.extend(wanted(&path, needs, next.inherited));
            }
        }
        Ok(())
    }

    /// Adds a library that is opened by name at run time, when this host has it.
    pub(super) fn add_if_there(&mut self, name: &str, watch: &mut Watch) -> Result<(), ImageError> {
        let next = Wanted { name: name.to_owned(), needed_by: PathBuf::new(), first: vec![], inherited: vec![] };
        if let Some((path, in_guest)) = self.find(&next, watch) {
            let content = watch.read(&path)?;
            self.files.insert(in_guest, path.clone());
            self.add(&path, &content, watch)?;
        }
        Ok(())
    }

    /// The library on this host, and its path in the guest.
    ///
    /// What lies in a directory of its program's keeps its path. All else goes into one directory of the loader's: the
    /// guest has no `/etc/ld.so.cache`.
    fn find(&self, wanted: &Wanted, watch: &mut Watch) -> Option<(PathBuf, String)> {
        if wanted.name.contains('/') {
            let path = PathBuf::from(&wanted.name);
            return fits(&path, watch).then(|| (path, wanted.name.clone()));
        }
        for directory in &wanted.first {
            let path = directory.join(&wanted.name);
            if fits(&path, watch) {
                let in_guest = normal(&path)?;
                return Some((path, in_guest));
            }
        }
        let usual = self.configured.iter().cloned().chain(SYSTEM.map(PathBuf::from));
        let path = usual.map(|directory| directory.join(&wanted.name)).find(|path| fits(path, watch))?;
        Some((path, format!("{}/{}", self.guest_directory, wanted.name)))
    }
}

fn wanted(path: &Path, needs: elf::Needs, inherited: Vec<PathBuf>) -> Vec<Wanted> {
    let origin = path.parent().unwrap_or(Path::new("/"));
    let expand = |text: &String| {
        let place = origin.to_string_lossy();
        let text = text.replace("${ORIGIN}", &place).replace("$ORIGIN", &place);
        PathBuf::from(text.replace("${LIB}", "lib/x86_64-linux-gnu").replace("$LIB", "lib/x86_64-linux-gnu"))
    };
    let mut handed_on = needs.rpath.iter().map(expand).collect::<Vec<_>>();
    handed_on.extend(inherited);
    // A program with DT_RUNPATH does not look into DT_RPATH, its own or handed on.
    let first = if needs.runpath.is_empty() { handed_on.clone() } else { needs.runpath.iter().map(expand).collect() };
    let make = |name| Wanted { name, needed_by: path.to_owned(), first: first.clone(), inherited: handed_on.clone() };
    needs.libraries.into_iter().map(make).collect()
}

/// Without `.` and `..`: the guest has none of the links that could make them mean something else.
fn normal(path: &Path) -> Option<String> {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => _ = out.pop(),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    out.to_str().map(str::to_owned)
}

/// The loader passes over libraries for other machines.
fn fits(path: &Path, watch: &mut Watch) -> bool {
    use std::io::Read as _;
    let mut head = [0; 20];
    let read = |head: &mut [u8]| std::fs::File::open(path).and_then(|mut file| file.read_exact(head)).is_ok();
    watch.is_file(path) && read(&mut head) && head.starts_with(b"\x7fELF\x02") && head[18..20] == [62, 0]
}

/// `/etc/ld.so.conf` and what it includes, in its order.
fn read_config(path: &Path, out: &mut Vec<PathBuf>, depth: u8, watch: &mut Watch) -> Result<(), ImageError> {
    let Some(content) = watch.read_if_there(path)?.filter(|_| depth < 8) else { return Ok(()) };
    for line in String::from_utf8_lossy(&content).lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(pattern) = line.strip_prefix("include ") {
            for path in matching(path.parent().unwrap_or(Path::new("/")), pattern.trim(), watch) {
                read_config(&path, out, depth + 1, watch)?;
            }
        } else if line.starts_with('/') {
            out.push(PathBuf::from(line));
        }
    }
    Ok(())
}

/// Files that a pattern names whose `*` are in the last part of the path, as in `ld.so.conf.d/*.conf`.
fn matching(base: &Path, pattern: &str, watch: &mut Watch) -> Vec<PathBuf> {
    let pattern = base.join(pattern);
    let (Some(directory), Some(name)) = (pattern.parent(), pattern.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let Some((before, after)) = name.split_once('*') else { return vec![pattern] };
    watch.note(directory);
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let fits = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
            name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
        })
    };
    let mut found: Vec<_> = entries.filter(fits).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::{Libraries, Watch, wanted};
    use crate::image::elf::Needs;

    /// What the loader itself says it would load.
    fn listed(program: &Path) -> Vec<String> {
        let out = Command::new("ldd").arg(program).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let name = |line: &str| line.split_whitespace().next().unwrap().rsplit('/').next().unwrap().to_owned();
        let mut names: Vec<_> = text.lines().filter(|line| !line.contains("vdso")).map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn the_libraries_are_those_that_the_loader_finds() {
        let own = std::env::current_exe().unwrap();
        let mut watch = Watch::default();
        let mut libraries = Libraries::new(&mut watch).unwrap();
        libraries.add(&own, &std::fs::read(&own).unwrap(), &mut watch).unwrap();
        let mut found: Vec<_> =
            libraries.files.keys().map(|path| path.rsplit('/').next().unwrap().to_owned()).collect();
        found.sort();
        assert_eq!(found, listed(&own));
    }

    #[test]
    fn paths_in_a_program_are_relative_to_it_and_handed_on() {
        let path = Path::new("/opt/tool/bin/tool");
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let needs = |rpath: &[&str], runpath: &[&str]| Needs {
            libraries: texts(&["libx.so"]),
            rpath: texts(rpath),
            runpath: texts(runpath),
            interpreter: None,
        };
        let old = wanted(path, needs(&["$ORIGIN/../lib"], &[]), vec!["/above".into()]);
        assert_eq!(old[0].first, [Path::new("/opt/tool/bin/../lib"), Path::new("/above")]);
        assert_eq!(old[0].inherited, old[0].first);
        let new = wanted(path, needs(&[], &["${ORIGIN}/lib"]), vec!["/above".into()]);
        assert_eq!(new[0].first, [Path::new("/opt/tool/bin/lib")]);
        assert_eq!(new[0].inherited, [Path::new("/above")]);
    }
}
