//! Taps of machines that have ended. Their names begin anew with each daemon, so that one of the same name may be another
//! machine's by now: a QEMU's is of the kind `tun`, a container's an end of a veth pair, which goes with its network by itself.
//! And a `tun` of the same name may be anybody's, who made it after a reboot or after the machine's own was removed: the number of
//! the interface tells, which the kernel gives once.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::host::link::{self, Interface};
use crate::host::namespace::Namespace as Network;
use crate::host::netlink::Netlink;
use crate::node::local::blocking;

/// How long the switch may take to notice that an interface has gone.
const NOTICE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// Kind of the interfaces that QEMUs have (rtnetlink(7), `IFLA_INFO_KIND`).
const TUN: &str = "tun";

/// Does a QEMU of this host have a tap of this name?
pub(super) fn in_use(tap: &str) -> bool {
    let wanted = format!("ifname={tap}");
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|command| command.split(|&byte| byte == 0 || byte == b',').any(|word| word == wanted.as_bytes()))
}

/// Which interface of a name was the machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// Its number is not known: whichever is there.
    Any,
    /// The one with this number.
    Number(u32),
    /// None that is there now: it was of an earlier boot.
    Gone,
}

impl Which {
    const fn is(self, index: u32) -> bool {
        match self {
            Self::Any => true,
            Self::Number(number) => number == index,
            Self::Gone => false,
        }
    }
}

/// Interfaces of a network; without one, of this process's.
pub(super) fn interfaces(network: Option<&Network>) -> io::Result<Vec<Interface>> {
    within(network, || link::read_interfaces(&mut Netlink::open()?).map_err(|error| error.source))
}

/// Takes a virtual machine's tap from its bridge and removes it, in the network where its machine was; without one, in this
/// process's. Was there one? An interface of another kind or number that has its name is not touched.
pub(super) async fn take(tap: &str, which: Which, network: Option<&Network>) -> io::Result<bool> {
    match interfaces(network)?.into_iter().find(|link| link.name == tap) {
        Some(found) if found.kind.as_deref() == Some(TUN) && which.is(found.index) => {
            if port(tap).await != Port::None {
                ovs(&["--if-exists", "del-port"], tap).await?;
            }
            within(network, || {
                Netlink::open()?.apply(&[link::remove(tap, found.index)]).map_err(|error| error.source)
            })?;
            Ok(true)
        }
        Some(_) => Ok(false),
        None => take_port(tap).await,
    }
}

/// Takes the port of an interface that is gone from its bridge. Was there one?
///
/// # Errors
/// Also when the switch still has the interface: it may be another machine's.
pub(super) async fn take_port(tap: &str) -> io::Result<bool> {
    let deadline = Instant::now() + NOTICE;
    loop {
        match port(tap).await {
            Port::None => return Ok(false),
            Port::Empty => return ovs(&["--if-exists", "del-port"], tap).await.map(|_| true),
            Port::There if Instant::now() >= deadline => {
                return Err(io::Error::other(
                    "the switch has an interface of this name, which may be another machine's",
                ));
            }
            Port::There => tokio::time::sleep(POLL).await,
        }
    }
}

fn within<T: Send>(network: Option<&Network>, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    match network {
        Some(network) => network.run(work),
        None => work(),
    }
}

/// What Open vSwitch knows of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    /// Nothing, or there is no Open vSwitch.
    None,
    /// A port whose interface is gone.
    Empty,
    /// A port with its interface, or one that is just being added.
    There,
}

/// Source: ovs-vswitchd.conf.db(5), `ofport` of `Interface`: -1 for an interface that it cannot open.
fn told(ofport: &str) -> Port {
    match ofport.trim() {
        "" => Port::None,
        "-1" => Port::Empty,
        _ => Port::There,
    }
}

async fn port(tap: &str) -> Port {
    let said = ovs(&["--if-exists", "get", "Interface"], tap).await;
    said.map_or(Port::None, |ofport| told(&ofport))
}

async fn ovs(arguments: &'static [&'static str], tap: &str) -> io::Result<String> {
    let column = arguments.contains(&"get").then_some("ofport");
    let tap = tap.to_owned();
    let run = move || {
        let mut command = std::process::Command::new("ovs-vsctl");
        command.arg("--timeout=10").args(arguments).arg(tap).args(column).output()
    };
    let output = blocking(run).await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(format!("ovs-vsctl: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_empty_only_when_its_interface_cannot_be_opened() {
        assert_eq!(["", "\n", "-1\n", "7\n", "[]\n"].map(told), {
            use Port::{Empty, None, There};
            [None, None, Empty, There, There]
        });
    }
}
