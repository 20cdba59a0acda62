//! Containers on other hosts of a mesh: what must be there for them, how they begin, and what is asked of their host about them.
//!
//! Nothing of them is seen from here, where a container of this host is entered by its first process. So they are reached by
//! letters, through a miniccc that is in their filesystem, and what the kernel says of them is read by programs that minimega
//! runs there (`mesh send HOST shell`).

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::cgroup::{CONTROLLERS, Cgroups, processors};
use super::daemon::Daemon;
use super::error::MinimegaError;
use super::far::print;
use super::hold::chain;
use super::inside;
use super::machine::{Kind, Machine, Plan};
use super::reach::Reached;
use crate::ids::{NodeId, Role};
use crate::testbed::lan::build::{Sysctl, sysctls_within};
use crate::testbed::{TUNNEL_INTERFACE, TestbedError};
use crate::units::ByteSize;

/// Where minimega's own filesystems of containers have miniccc.
const MINICCC: &str = "/miniccc";
/// The first process: it reaps what the agent leaves, and ends with miniccc. A container begins without any variable.
const INIT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH; \
                    /miniccc -v=false -family unix -parent /cc & wait";

/// How long minimega may take to remove a cgroup.
const END: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);

/// The container of a client or server there; the last words of its command line are as in [`inside::plan`]. Pure.
pub(super) fn plan(node: NodeId, namespace: &str, filesystem: &str, memory: ByteSize, vcpus: u32) -> Plan {
    let init = ["/bin/sh", "-c", INIT, "sh", "--machine", namespace].map(str::to_owned).to_vec();
    let kind = Kind::Container { filesystem: filesystem.to_owned(), init, volumes: Vec::new() };
    inside::plan_of(node, kind, memory, vcpus)
}

/// Has the other host what containers need that start from this directory? `tunnel` asks for GRE in its kernel.
///
/// # Errors
/// [`TestbedError::Unsupported`] for the first thing that it lacks.
pub(super) async fn check(daemon: &Daemon, host: &str, filesystem: &str, tunnel: bool) -> Result<(), TestbedError> {
    match daemon.run_at(host, &["shell", "stat", "-L", "-c", "%F", filesystem]).await {
        Ok(kind) if kind.text().trim() == "directory" => {}
        Ok(kind) => return Err(lacking(host, filesystem, &format!("it is a {}", kind.text().trim()))),
        Err(error @ MinimegaError::Refused { .. }) => {
            return Err(lacking(host, filesystem, &format!("it is not there ({})", chain(&error))));
        }
        Err(error) => return Err(error.into_testbed(format!("look for {filesystem} on {host}"))),
    }
    for program in ["/bin/sh", MINICCC] {
        // A link leads where it leads in the container, and not there.
        let kind = print(daemon, host, &["stat", "-c", "%F", &format!("{filesystem}{program}")]).await;
        match kind.as_deref().map(str::trim) {
            Ok("regular file" | "symbolic link") => {}
            Ok(kind) => return Err(lacking(host, filesystem, &format!("{program} in it is a {kind}"))),
            Err(why) => return Err(lacking(host, filesystem, &format!("there is no {program} in it ({why})"))),
        }
    }
    check_cgroups(daemon, host).await?;
    if tunnel { try_tunnel(daemon, host).await } else { Ok(()) }
}

fn lacking(host: &str, filesystem: &str, why: &str) -> TestbedError {
    TestbedError::Unsupported {
        what: format!("containers on {host} cannot start from {filesystem}: {why}"),
        hint: Some(format!(
            "with `colocated = off`, `filesystem` in `[testbed.minimega]` is on both hosts under the same path, with minimega's \
             miniccc in it as {MINICCC}: copy it to {host}"
        )),
    }
}

async fn check_cgroups(daemon: &Daemon, host: &str) -> Result<(), TestbedError> {
    let places = CONTROLLERS.map(|controller| format!("/sys/fs/cgroup/{controller}"));
    let words = ["stat", "-f", "-c", "%T"].into_iter().chain(places.iter().map(String::as_str)).collect::<Vec<_>>();
    let why = match print(daemon, host, &words).await {
        Ok(kinds) if kinds.lines().count() == places.len() && kinds.lines().all(|kind| kind == "cgroupfs") => {
            return Ok(());
        }
        Ok(kinds) => kinds.split_whitespace().collect::<Vec<_>>().join(", "),
        Err(why) => why,
    };
    Err(TestbedError::Unsupported {
        what: format!(
            "minimega's containers need cgroups of version 1 at {}, and on {host} they are not there ({why})",
            places.join(", ")
        ),
        hint: Some(
            "boot it with `systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1`".to_owned(),
        ),
    })
}

/// Makes a tunnel there where nobody sees it.
async fn try_tunnel(daemon: &Daemon, host: &str) -> Result<(), TestbedError> {
    let make = ["unshare", "--net", "ip", "link", "add", TUNNEL_INTERFACE, "type", "gretap"];
    let ends = ["local", "10.0.0.1", "remote", "10.0.0.2"];
    let made = print(daemon, host, &[&make[..], &ends].concat()).await;
    made.map(drop).map_err(|why| TestbedError::Unsupported {
        what: format!("tunnel = `gre`: the kernel of {host}, which containers share, makes no GRE tunnel: {why}"),
        hint: Some(format!("modprobe ip_gre on {host}")),
    })
}

/// A container there whose agent answers.
pub(super) struct Afar {
    host: String,
    pid: u32,
    cgroups: Cgroups,
    /// The letters go when it does.
    reached: Reached,
}

impl Afar {
    /// One that was reached.
    ///
    /// # Errors
    /// When minimega does not say its process, and as [`Daemon::run_at`].
    pub(super) async fn of(daemon: &Daemon, machine: &Machine, reached: Reached) -> Result<Self, String> {
        let pid = machine.pid.filter(|pid| *pid > 1).ok_or("minimega does not say its process")?;
        let cgroups = cgroups(daemon, machine, pid).await.map_err(|error| chain(&error))?;
        Ok(Self { host: machine.host.clone(), pid, cgroups, reached })
    }

    /// The host it is on.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Round trips through its miniccc so far.
    pub(super) fn round_trips(&self) -> Option<u64> {
        self.reached.round_trips()
    }

    /// Settings of its network stack, as for containers of this host: minimega mounts `/proc/sys` so that only its host writes them.
    ///
    /// # Errors
    /// What the other host says.
    pub(super) async fn set_sysctls(&self, daemon: &Daemon, role: Role, long_life: bool) -> Result<(), MinimegaError> {
        let (optional, needed): (Vec<Sysctl>, Vec<Sysctl>) =
            sysctls_within(role, long_life).into_iter().partition(|sysctl| sysctl.may_be_missing());
        let pid = self.pid.to_string();
        let enter = ["shell", "nsenter", "-t", &pid, "-n", "sysctl", "-q"].map(str::to_owned);
        for (how, sysctls) in [(&["-w", "-e"][..], optional), (&["-w"][..], needed)] {
            if sysctls.is_empty() {
                continue;
            }
            let values = sysctls.iter().map(|sysctl| format!("net/{}={}", sysctl.name, sysctl.value));
            let words: Vec<String> =
                enter.iter().cloned().chain(how.iter().map(|&word| word.to_owned())).chain(values).collect();
            daemon.run_at(&self.host, &words).await?;
        }
        Ok(())
    }

    /// Memory and processors that it may use, from the cgroups that its kernel says it is in; `None` for what cannot be read.
    pub(super) async fn limits(&self, daemon: &Daemon) -> (Option<String>, Option<String>) {
        let memory = self.read(daemon, "memory", &["memory.limit_in_bytes"]).await;
        let cpu = self.read(daemon, "cpu", &["cpu.cfs_quota_us", "cpu.cfs_period_us"]).await;
        let vcpus = cpu.and_then(|text| {
            let mut lines = text.lines();
            processors(lines.next()?, lines.next()?)
        });
        (memory.map(|text| text.trim().to_owned()), vcpus)
    }

    /// Files of a cgroup of it, one after the other.
    async fn read(&self, daemon: &Daemon, controller: &str, files: &[&str]) -> Option<String> {
        let paths = files.iter().map(|file| self.cgroups.path(controller, file)).collect::<Option<Vec<String>>>();
        let Some(paths) = paths else {
            tracing::warn!("process {} on {} is in no cgroup {controller} of its number", self.pid, self.host);
            return None;
        };
        let words: Vec<&str> = ["cat"].into_iter().chain(paths.iter().map(String::as_str)).collect();
        let printed = print(daemon, &self.host, &words).await;
        printed.inspect_err(|why| tracing::warn!("cannot read a cgroup on {}: {why}", self.host)).ok()
    }
}

async fn cgroups(daemon: &Daemon, machine: &Machine, pid: u32) -> Result<Cgroups, MinimegaError> {
    let host = &machine.host;
    let cgroup = daemon.run_at(host, &["shell", "cat", &format!("/proc/{pid}/cgroup")]).await?;
    let mounts = daemon.run_at(host, &["shell", "cat", "/proc/self/mountinfo"]).await?;
    Ok(Cgroups::found(cgroup.text(), mounts.text(), machine.id))
}

/// What a container of another host had and minimega has to take away with it.
pub(super) struct Remains {
    machine: String,
    host: String,
    id: u64,
    cgroups: Vec<PathBuf>,
}

/// Those of the containers among these machines that are on other hosts. Of what cannot be asked, nothing is known.
pub(super) async fn remains(daemon: &Daemon, machines: &[Machine]) -> Vec<Remains> {
    // Cards of virtual machines have a driver.
    let is_container =
        |machine: &&Machine| !machine.cards.is_empty() && machine.cards.iter().all(|card| card.driver.is_empty());
    let mut all = Vec::new();
    for machine in machines.iter().filter(|machine| machine.host != daemon.host).filter(is_container) {
        let cgroups = match machine.pid.filter(|pid| *pid > 1 && !daemon.mesh_hangs()) {
            Some(pid) => cgroups(daemon, machine, pid).await.unwrap_or_else(|error| {
                tracing::debug!("cgroups of {} on {}: {}", machine.name, machine.host, chain(&error));
                Cgroups::default()
            }),
            None => Cgroups::default(),
        };
        let (machine, host, id) = (machine.name.clone(), machine.host.clone(), machine.id);
        all.push(Remains { machine, host, id, cgroups: cgroups.into_directories() });
    }
    all
}

impl Remains {
    /// Looks whether they are gone, removes what is not, and says what stays. Their number is nobody else's as long as the minimega there
    /// goes on, and another one would not have known the machine.
    pub(super) async fn remove(self, daemon: &Daemon) -> Vec<MinimegaError> {
        if daemon.mesh_hangs() {
            return Vec::new();
        }
        let mut left = Vec::new();
        for directory in &self.cgroups {
            let directory = directory.to_string_lossy();
            if !self.is_removed(daemon, &directory).await {
                left.push(format!("cgroup {directory}"));
            }
        }
        match daemon.run_at(&self.host, &["shell", "cat", "/proc/self/mountinfo"]).await {
            Ok(mounts) => {
                for place in overlays(mounts.text(), self.id) {
                    // minimega may have been quicker.
                    let removed = self.does(daemon, &["umount", "-l", place]).await;
                    if !removed && self.does(daemon, &["mountpoint", "-q", place]).await {
                        left.push(format!("mount {place}"));
                    }
                }
            }
            Err(error) => left.push(format!("its mount, if it is still there ({})", chain(&error))),
        }
        let why = |what: String| format!("{what} stays on {}", self.host);
        left.into_iter().map(|what| MinimegaError::Machine { machine: self.machine.clone(), why: why(what) }).collect()
    }

    /// minimega removes it in passing, as soon as the last process has ended.
    async fn is_removed(&self, daemon: &Daemon, directory: &str) -> bool {
        let deadline = Instant::now() + END;
        loop {
            // Whoever does not answer, has not said that it is gone.
            let there = match daemon.run_at(&self.host, &["shell", "test", "-e", directory]).await {
                Err(MinimegaError::Refused { text, .. }) => !text.ends_with("exit status 1"),
                _ => true,
            };
            if !there || self.does(daemon, &["rmdir", directory]).await {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn does(&self, daemon: &Daemon, command: &[&str]) -> bool {
        print(daemon, &self.host, command).await.is_ok()
    }
}

/// Where the overlay of a machine of this number is mounted. Source: proc_pid_mountinfo(5).
fn overlays(mounts: &str, id: u64) -> Vec<&str> {
    let (source, end) = (format!("megamount_{id}"), format!("/{id}/fs"));
    let place = |line| {
        let (left, right): (&str, &str) = str::split_once(line, " - ")?;
        let mut right = right.split(' ');
        let is_its = right.next() == Some("overlay") && right.next() == Some(&source);
        left.split(' ').nth(4).filter(|place| is_its && place.ends_with(&end))
    };
    mounts.lines().filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_there_begins_with_miniccc_and_says_whose_it_is() {
        let plan = plan(NodeId::server(1), "vptest-0-a-b", "/c/fs", ByteSize(384 << 20), 1);
        let lines: Vec<String> = plan.configuration().unwrap().iter().map(|words| words[2..].join(" ")).collect();
        assert_eq!(lines[2], "filesystem /c/fs");
        assert!(lines[4].starts_with("init /bin/sh -c PATH=/usr/local/sbin:"), "{}", lines[4]);
        assert!(lines[4].ends_with(" /miniccc -v=false -family unix -parent /cc & wait sh --machine vptest-0-a-b"));
        assert_eq!(lines[5], "net link,52:54:00:00:01:02");
        // Every minimega is to take it, also those that replace variables.
        assert!(!INIT.contains('$') && INIT.contains(MINICCC));
    }

    #[test]
    fn only_overlays_of_that_machine_are_found() {
        let mounts = "\
91 29 0:60 / /tmp/minimega/7/fs rw,relatime shared:1 - overlay megamount_7 rw,lowerdir=/fs
92 29 0:61 / /tmp/minimega/17/fs rw,relatime - overlay megamount_17 rw,lowerdir=/fs
93 29 0:62 / /tmp/minimega/7/fs rw,relatime - tmpfs megamount_7 rw
94 29 0:63 / /home/7 rw,relatime - overlay megamount_7 rw,lowerdir=/fs";
        assert_eq!(overlays(mounts, 7), ["/tmp/minimega/7/fs"]);
        assert_eq!(overlays(mounts, 17), ["/tmp/minimega/17/fs"]);
        assert!(overlays(mounts, 1).is_empty());
    }
}
