//! Namespaces that outlive vptest on request (`--keep-failed`), under names that `ip netns` knows, and their removal.
//!
//! A small file under `/run/vptest` names them; it is written before the first is made and removed after the last is
//! gone, so whatever a dead run has left is found.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

use super::namespace::Namespace;

/// Where `ip netns` looks (`ip-netns(8)`).
const NAMED: &str = "/run/netns";
/// Where the lists are.
const LISTS: &str = "/run/vptest";
const PREFIX: &str = "vptest-";
/// A list of 60,000 names.
const MAX_LIST: u64 = 4 << 20;

/// The kept namespaces of one iteration.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    namespaces: Vec<String>,
}

/// How removing went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removal {
    /// Names of the namespaces that are gone.
    pub removed: Vec<String>,
    /// What could not be removed, one line each, with the reason.
    pub left: Vec<String>,
}

/// Gives the namespaces the names `vptest-NUMBER-ATTEMPT-NODE` and returns these.
///
/// # Errors
/// Without root in the initial user namespace this is not possible. When it fails, nothing is kept.
pub fn keep<'a>(
    number: u32,
    attempt: u32,
    namespaces: impl Iterator<Item = (String, &'a Namespace)>,
) -> io::Result<Vec<String>> {
    let namespaces: Vec<(String, &Namespace)> =
        namespaces.map(|(node, namespace)| (format!("{PREFIX}{number}-{attempt}-{node}"), namespace)).collect();
    let names: Vec<String> = namespaces.iter().map(|(name, _)| name.clone()).collect();
    let list = Path::new(LISTS).join(format!("kept-{number}-{attempt}.json"));
    let impossible = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            io::Error::new(error.kind(), format!("it takes root to give namespaces a name: {error}"))
        }
        io::ErrorKind::AlreadyExists => {
            io::Error::new(error.kind(), format!("{} is there already; `vptest clean` removes it", list.display()))
        }
        _ => error,
    };
    write_list(&list, &names).map_err(impossible)?;
    let mounted = namespaces.iter().try_for_each(|(name, namespace)| give_name(name, namespace));
    match mounted {
        Ok(()) => Ok(names),
        Err(error) => {
            let undone = remove_list(&list);
            if !undone.left.is_empty() {
                tracing::error!("after a failure to keep namespaces: {}", undone.left.join("; "));
            }
            Err(impossible(error))
        }
    }
}

/// Removes every kept namespace of every run.
pub fn remove_all() -> Removal {
    let mut all = Removal::default();
    let lists = match std::fs::read_dir(LISTS) {
        Ok(lists) => lists,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return all,
        Err(error) => {
            all.left.push(format!("{LISTS}: {error}"));
            return all;
        }
    };
    let is_list = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("kept-") && name.ends_with(".json")
    };
    for list in lists.filter_map(Result::ok).map(|entry| entry.path()).filter(is_list) {
        let Removal { removed, left } = remove_list(&list);
        all.removed.extend(removed);
        all.left.extend(left);
    }
    // It stays when there is still something in it.
    let _ = std::fs::remove_dir(LISTS);
    all
}

fn write_list(path: &Path, names: &[String]) -> io::Result<()> {
    std::fs::create_dir_all(LISTS)?;
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    Ok(serde_json::to_writer(file, &List { namespaces: names.to_vec() })?)
}

fn give_name(name: &str, namespace: &Namespace) -> io::Result<()> {
    std::fs::create_dir_all(NAMED)?;
    let target = Path::new(NAMED).join(name);
    OpenOptions::new().write(true).create_new(true).open(&target)?;
    let source = format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd());
    mount(Some(source.as_str()), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

fn remove_list(path: &Path) -> Removal {
    let mut removal = Removal::default();
    let names = match read_list(path) {
        Ok(names) => names,
        Err(error) => {
            removal.left.push(format!("{}: {error}", path.display()));
            return removal;
        }
    };
    for name in names {
        match remove_name(&name) {
            Ok(true) => removal.removed.push(name),
            Ok(false) => {}
            Err(error) => removal.left.push(format!("{NAMED}/{name}: {error}")),
        }
    }
    if removal.left.is_empty()
        && let Err(error) = std::fs::remove_file(path)
    {
        removal.left.push(format!("{}: {error}", path.display()));
    }
    removal
}

/// An empty list is what a run leaves that died while writing it: nothing had been made yet.
fn read_list(path: &Path) -> io::Result<Vec<String>> {
    use std::io::Read as _;
    let mut text = String::new();
    File::open(path)?.take(MAX_LIST).read_to_string(&mut text)?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let list: List = serde_json::from_str(&text)?;
    match list.namespaces.iter().find(|name| !is_ours(name)) {
        Some(name) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("`{name}` is no name that vptest gives"))),
        None => Ok(list.namespaces),
    }
}

/// Guards against a list that names something else.
fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
}

/// `false` when it was gone already.
fn remove_name(name: &str) -> io::Result<bool> {
    let target = Path::new(NAMED).join(name);
    match umount2(&target, MntFlags::MNT_DETACH) {
        // The file is there, but nothing was mounted on it yet.
        Ok(()) | Err(nix::Error::EINVAL) => {}
        Err(nix::Error::ENOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    std::fs::remove_file(&target)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(content: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kept-1-1.json");
        std::fs::write(&path, content).unwrap();
        (directory, path)
    }

    #[test]
    fn lists_that_name_other_files_are_refused() {
        for name in ["../etc/passwd", "vptest-../x", "other", "vptest-1/x", ""] {
            let (_directory, path) = list(&format!("{{\"namespaces\":[\"{name}\"]}}"));
            assert!(read_list(&path).is_err(), "{name} was accepted");
            assert_eq!(remove_list(&path).left.len(), 1);
            assert!(path.exists());
        }
    }

    #[test]
    fn lists_of_runs_that_died_early_go_away() {
        for content in ["", "{\"namespaces\":[\"vptest-0-0-nobody\"]}"] {
            let (_directory, path) = list(content);
            assert_eq!(remove_list(&path), Removal::default());
            assert!(!path.exists());
        }
    }
}
