//! Running without root: a user namespace in which vptest is root over what it makes itself.

use std::fmt;
use std::fs;
use std::io;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getegid, geteuid};

use super::link::{self, LOOPBACK};
use super::netlink::Netlink;

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

/// With which rights this process works on namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// It had the capabilities it needs.
    Already,
    /// It is root of a user namespace of its own, with a network of its own.
    UserNamespace,
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Already => "administrator of systems and networks",
            Self::UserNamespace => "root of a user namespace of its own",
        })
    }
}

/// No user namespace could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} (needed without root)")]
pub struct UserNamespaceError {
    what: &'static str,
    #[source]
    source: io::Error,
}

impl UserNamespaceError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self.source.raw_os_error() {
            Some(libc::ENOSPC | libc::EUSERS) => "run it as root, or `sudo sysctl user.max_user_namespaces=10000`",
            Some(libc::EPERM | libc::EACCES) => {
                "run it as root, or allow user namespaces: `sudo sysctl \
                 kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu since 23.10), \
                 `kernel.unprivileged_userns_clone=1` (older Debian); a container needs `--privileged`"
            }
            _ => "run it as root",
        }
    }
}

/// Enters a user namespace of its own unless the process may already administer systems and networks where it is.
///
/// Must be called while the process has a single thread, so before any runtime is started.
///
/// vptest's own network namespace changes with it: a thread that has entered another one may go back only to one that
/// belongs to the same user namespace. The same is done where vptest was started as root of a user namespace that does
/// not own the network (`unshare -r`).
///
/// What is missing there, compared with root:
/// - there is no network but the loopback interface for vptest itself and for commands beside the nodes: no address of
///   the host, no other host, no abstract Unix socket of the host's programs;
/// - testbeds cannot be kept (`--keep-failed`): `/run/netns` belongs to the real root;
/// - programs see themselves as root, and there is no other user: one that drops its rights (nginx with a `user` other
///   than root, sudo, setuid helpers) fails;
/// - kernel-wide facts and limits stay out of reach: kernel modules are loaded only as far as the kernel does it by
///   itself, `net.core.*` of the host, real-time priorities and locked memory keep the user's limits;
/// - `perf`, eBPF and tracing of other users' processes are refused;
/// - files of other users cannot be read, also where root could.
///
/// # Errors
/// When the kernel, AppArmor, seccomp or a limit forbids it; [`UserNamespaceError::hint`] says what to do.
pub fn enter_if_unprivileged() -> Result<Privilege, UserNamespaceError> {
    if is_privileged().map_err(failed("read the process's capabilities"))? {
        if owns_network().map_err(failed("find out whether the network belongs to the user namespace"))? {
            return Ok(Privilege::Already);
        }
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| failed("make a network namespace")(error.into()))?;
        loopback_up()?;
        return Ok(Privilege::UserNamespace);
    }
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|error| failed("make a user namespace with a network of its own")(error.into()))?;
    // Since Linux 3.19 a user may map groups only after giving up setgroups(2).
    fs::write("/proc/self/setgroups", "deny").map_err(failed("give up setgroups(2)"))?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).map_err(failed("map the user to root"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).map_err(failed("map the group to root"))?;
    loopback_up()?;
    Ok(Privilege::UserNamespace)
}

/// Whether a thread that left this network namespace may come back: entering the one it is in needs the same rights.
fn owns_network() -> io::Result<bool> {
    match setns(fs::File::open("/proc/self/ns/net")?, CloneFlags::CLONE_NEWNET) {
        Ok(()) => Ok(true),
        Err(nix::Error::EPERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn loopback_up() -> Result<(), UserNamespaceError> {
    let failed = failed("switch the loopback interface on");
    match Netlink::open() {
        Ok(mut netlink) => netlink.apply(&[link::up("lo", LOOPBACK)]).map_err(|error| failed(error.source)),
        Err(error) => Err(failed(error)),
    }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> UserNamespaceError {
    move |source| UserNamespaceError { what, source }
}

fn is_privileged() -> io::Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = effective_capabilities(&status)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no CapEff in /proc/self/status"))?;
    Ok([CAP_NET_ADMIN, CAP_SYS_ADMIN].iter().all(|bit| effective & (1 << bit) != 0))
}

/// Reads the line `CapEff:` (proc(5)).
fn effective_capabilities(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(effective_capabilities("CapEff:\t0000000000000000\n"), Some(0));
        assert_eq!(effective_capabilities("CapPrm:\t0000000000000000\n"), None);
    }
}
