//! Can this host make namespaces and links? Found out by trying, in a namespace that is thrown away.

use std::io;
use std::sync::Mutex;

use super::topology::{LinkRate, Topology};
use crate::host::cage::Cage;
use crate::host::link::{self, End};
use crate::host::namespace::Namespace;
use crate::host::netlink::{Change, Netlink, NetlinkError, errno};
use crate::host::qdisc::TokenBucket;
use crate::node::local::blocking;
use crate::testbed::TestbedError;
use crate::units::Rate;

/// What was tried and worked, so that it is tried once.
#[derive(Debug, Default)]
pub(in crate::testbed) struct Tried {
    basics: Mutex<bool>,
    shaping: Mutex<bool>,
}

/// One thing to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Basics,
    Shaping,
}

impl Tried {
    /// # Errors
    /// [`TestbedError::Unsupported`] names what is missing, with a hint.
    pub(in crate::testbed) async fn check(&self, topology: &Topology) -> Result<(), TestbedError> {
        self.once(&self.basics, Need::Basics).await?;
        if matches!(topology.rate, LinkRate::Limit(_)) {
            self.once(&self.shaping, Need::Shaping).await?;
        }
        Ok(())
    }

    async fn once(&self, known: &Mutex<bool>, need: Need) -> Result<(), TestbedError> {
        if is_known(known) {
            return Ok(());
        }
        let tried = blocking(move || Ok(attempt(need))).await;
        tried.map_err(|source| TestbedError::Io { what: "try out namespaces".to_owned(), source })??;
        if let Ok(mut known) = known.lock() {
            *known = true;
        }
        Ok(())
    }
}

/// A panic elsewhere means only that it is tried again.
fn is_known(known: &Mutex<bool>) -> bool {
    known.lock().is_ok_and(|known| *known)
}

fn attempt(need: Need) -> Result<(), TestbedError> {
    let made = Namespace::create_each(&[()], |()| Netlink::open()).map_err(|error| no_namespaces(&error))?;
    let mut made = made.into_iter();
    let (_namespace, mut netlink) = made.next().expect("one was asked for");
    match need {
        Need::Basics => {
            try_link(&mut netlink, &[link::bridge("br1", 10, None)], "bridges", "bridge")?;
            let end = |name, index, bridge| End { name, index, namespace: None, bridge };
            try_link(
                &mut netlink,
                &[link::veth(end("c1", 11, Some(10)), end("s1", 12, None), None)],
                "veth pairs",
                "veth",
            )?;
            Cage::open().map(drop).map_err(|error| no_namespaces(&error))
        }
        Need::Shaping => {
            let rate = Rate::from_bits_per_second(1_000_000).and_then(|rate| TokenBucket::for_link(rate, 1500));
            let bucket = rate.expect("1 Mbit/s is a whole number of bytes per second");
            try_link(&mut netlink, &[bucket.set(link::LOOPBACK, "lo")], "rate limits (tc-tbf)", "sch_tbf")
        }
    }
}

fn try_link(netlink: &mut Netlink, changes: &[Change], what: &str, module: &str) -> Result<(), TestbedError> {
    netlink.apply(changes).map_err(|error| missing(&error, what, module))
}

fn missing(error: &NetlinkError, what: &str, module: &str) -> TestbedError {
    let reason = &error.source;
    let hint = match errno(reason) {
        Some(libc::EPERM | libc::EACCES) => "run it as root".to_owned(),
        _ => format!(
            "load the kernel module with `sudo modprobe {module}`; a kernel without it needs another one \
             (Debian's `linux-image-cloud-*` and minimal kernels lack some)"
        ),
    };
    TestbedError::Unsupported { what: format!("this kernel makes no {what}: {reason}"), hint: Some(hint) }
}

/// Why the kernel makes no namespace, as far as the error and the usual switches tell.
fn no_namespaces(error: &io::Error) -> TestbedError {
    let hint = match errno(error) {
        Some(libc::ENOSPC | libc::EUSERS) => {
            "raise `user.max_net_namespaces`, `user.max_pid_namespaces` and `user.max_user_namespaces` (sysctl)"
        }
        Some(libc::EPERM) => {
            "run it as root, or allow user namespaces: `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0` \
             (Ubuntu since 23.10), `kernel.unprivileged_userns_clone=1` (older Debian); a container needs \
             `--privileged`"
        }
        Some(libc::EINVAL) => "the kernel needs CONFIG_NET_NS and CONFIG_PID_NS",
        _ => "see the reason given",
    };
    TestbedError::Unsupported { what: format!("cannot make namespaces: {error}"), hint: Some(hint.to_owned()) }
}
