//! What of a container outlives its daemon: cgroups, the name of its network, the overlay that its filesystem is. Each is only
//! touched when it is known to be that machine's.

use std::fs;
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, umount2};

use super::cgroup;
use super::journal::{Entry, Noted};

/// Where minimega names the networks of containers, for ip(8).
const NETWORKS: &str = "/var/run/netns";

/// Lets processes go on that minimega has frozen: those that have been killed end only then.
pub(super) fn thaw(noted: &Noted) -> io::Result<()> {
    for directory in &noted.cgroups {
        let state = directory.join("freezer.state");
        if state.exists() && cgroup::is_version_1(directory) {
            fs::write(state, "THAWED")?;
        }
    }
    Ok(())
}

/// Names of the taps that minimega wrote down for a container; none where it did not.
pub(super) fn taps(base: &Path, id: u64) -> Vec<String> {
    let text = fs::read_to_string(base.join(id.to_string()).join("taps")).unwrap_or_default();
    text.split_whitespace().filter(|tap| super::journal::is_tap(tap)).map(str::to_owned).collect()
}

/// Removes what is left of a container that has ended; one line each of what is gone, and of what could not be removed.
/// `running` says whether another daemon has come since, which may have given its number to a container of its own.
pub(super) fn remove(entry: &Entry, noted: &Noted, running: bool) -> (Vec<String>, Vec<String>) {
    let (mut removed, mut left) = (Vec::new(), Vec::new());
    let mut note = |what: String, done: io::Result<bool>| match done {
        Ok(true) => removed.push(what),
        Ok(false) => {}
        Err(error) => left.push(format!("{what}: {error}")),
    };
    // None of it outlives a boot.
    if !entry.is_of_this_boot() {
        return (removed, left);
    }
    if let Some((pid, _)) = noted.process {
        let link = Path::new(NETWORKS).join(format!("meganet_{}", noted.id));
        note(link.display().to_string(), unlink(&link, pid));
    }
    if running {
        left.extend(not_told_apart(entry, noted));
        return (removed, left);
    }
    for directory in &noted.cgroups {
        note(format!("cgroup {}", directory.display()), remove_cgroup(directory));
    }
    let place = entry.base.join(noted.id.to_string()).join("fs");
    note(format!("mount {}", place.display()), unmount(&place, noted.id));
    (removed, left)
}

/// What there still is of a container and may be that of another one by now; `None` where there is nothing.
fn not_told_apart(entry: &Entry, noted: &Noted) -> Option<String> {
    let place = entry.base.join(noted.id.to_string());
    let places = noted.cgroups.iter().chain([&place]).filter(|place| noted.container && place.exists());
    let places: Vec<String> = places.map(|place| place.display().to_string()).collect();
    (!places.is_empty()).then(|| {
        format!(
            "container {} of {}: {} stay: another minimega has come since and may have given the number to a machine of \
             its own; clean again when that has ended",
            noted.id,
            entry.namespace,
            places.join(", ")
        )
    })
}

/// Removes a name of a process's network. Was there one?
fn unlink(link: &Path, pid: i32) -> io::Result<bool> {
    match fs::read_link(link) {
        Ok(target) if target.as_os_str() == format!("/proc/{pid}/ns/net").as_str() => {
            fs::remove_file(link).map(|()| true)
        }
        // Another machine's.
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a cgroup. Was there one?
///
/// # Errors
/// Also when something is still in it.
fn remove_cgroup(directory: &Path) -> io::Result<bool> {
    if !cgroup::is_version_1(directory) {
        return Ok(false);
    }
    let threads = cgroup::threads_in(directory)?.len();
    if threads > 0 {
        return Err(io::Error::other(format!("{threads} threads are still in it")));
    }
    match fs::remove_dir(directory) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes a container's overlay away, where it is mounted in this mount namespace; elsewhere it goes with its directory.
fn unmount(place: &Path, id: u64) -> io::Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    if !mounts.lines().any(|line| is_overlay(line, place, id)) {
        return Ok(false);
    }
    umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    Ok(true)
}

/// Is it the line of a container's overlay? Source: proc_pid_mountinfo(5).
fn is_overlay(line: &str, place: &Path, id: u64) -> bool {
    let Some((left, right)) = line.split_once(" - ") else { return false };
    let place = place.to_string_lossy().replace(' ', "\\040");
    let mut right = right.split(' ');
    let kind = (right.next(), right.next());
    left.split(' ').nth(4) == Some(place.as_str())
        && kind == (Some("overlay"), Some(format!("megamount_{id}").as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machines_own_overlay_is_taken_away() {
        let line = "91 29 0:60 / /tmp/minimega/7/fs rw,relatime shared:1 - overlay megamount_7 rw,lowerdir=/fs";
        let is = |line: &str, place: &str, id| is_overlay(line, Path::new(place), id);
        assert!(is(line, "/tmp/minimega/7/fs", 7));
        assert!(!is(line, "/tmp/minimega/7/fs", 8) && !is(line, "/tmp/minimega/8/fs", 7));
        assert!(!is(&line.replace("megamount_7", "overlay"), "/tmp/minimega/7/fs", 7));
        assert!(!is(&line.replace("- overlay", "- tmpfs"), "/tmp/minimega/7/fs", 7));
        assert!(is(&line.replace("/minimega/", "/mini\\040mega/"), "/tmp/mini mega/7/fs", 7));
    }

    #[test]
    fn a_network_of_another_process_keeps_its_name() {
        let place = tempfile::tempdir().unwrap();
        let link = place.path().join("meganet_7");
        assert!(!unlink(&link, 12).unwrap());
        std::os::unix::fs::symlink("/proc/12/ns/net", &link).unwrap();
        assert!(!unlink(&link, 13).unwrap() && link.is_symlink());
        assert!(unlink(&link, 12).unwrap() && !link.is_symlink());
        // A directory that is no cgroup.
        fs::create_dir(place.path().join("7")).unwrap();
        assert!(!remove_cgroup(&place.path().join("7")).unwrap() && place.path().join("7").exists());
    }
}
