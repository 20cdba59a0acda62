//! Guests of vptest's own image in minimega: what they are made of, and how their agent is reached.
//!
//! minimega gives a machine virtio-serial ports besides that of miniccc. The agent answers on one, and needs none of what
//! commands through cc cost. The other end of the ports is a socket in the machine's directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::Instant;

use super::daemon::{Daemon, Namespace};
use super::error::MinimegaError;
use super::machine::{Boot, Kind, Machine, Nic, Plan};
use crate::agent::{AgentError, Client, Limits, PORT};
use crate::ids::{NodeId, Role};
use crate::image::{Image, KERNEL_ARGUMENTS};
use crate::node::{Command, Process as _};
use crate::units::{ByteSize, Rate};

/// Name of the network that the two nodes of a pair share. Each pair has a namespace of its own.
pub(super) const LINK: &str = "link";
const POLL: Duration = Duration::from_millis(20);

/// What all guests of a tuple have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hardware {
    /// QEMU's name of the network card.
    pub driver: String,
    /// Processors.
    pub vcpus: u32,
    /// Memory.
    pub memory: ByteSize,
    /// Modules that are loaded at boot, besides that of the card.
    pub modules: Vec<String>,
    /// Further kernel arguments.
    pub arguments: Vec<String>,
    /// QEMU, with its path; `None` for minimega's own choice.
    pub qemu: Option<String>,
    /// Model of the processor; `None` for minimega's own choice.
    pub cpu: Option<String>,
}

/// The machine of a client or server; its console goes into a file. Pure.
pub fn plan(node: NodeId, image: &Image, hardware: &Hardware, console: Option<String>) -> Plan {
    let name = node.to_string();
    let mut arguments: Vec<String> = KERNEL_ARGUMENTS.split_whitespace().map(str::to_owned).collect();
    arguments.push("ipv6.disable_ipv6=1".to_owned());
    let card = crate::image::module_of(&hardware.driver);
    let modules: Vec<&str> = card.into_iter().chain(hardware.modules.iter().map(String::as_str)).collect();
    arguments.push(format!("vptest.modules={}", modules.join(",")));
    arguments.extend(hardware.arguments.iter().cloned());
    arguments.extend([format!("vptest.node={name}"), "--".to_owned(), "agent".to_owned(), "--init".to_owned()]);
    let shown = |path: &Path| path.to_string_lossy().into_owned();
    let kind = Kind::Kvm {
        boot: Boot::Kernel { kernel: shown(&image.kernel), initrd: shown(&image.initramfs), arguments },
        qemu: hardware.qemu.clone(),
        cpu: hardware.cpu.clone(),
        ports: vec![PORT.to_owned()],
        snapshot: true,
        console,
        results: Vec::new(),
    };
    let nic = Nic { bridge: None, vlan: LINK.to_owned(), mac: mac(node), driver: Some(hardware.driver.clone()) };
    let memory_mib = hardware.memory.0.div_ceil(1 << 20);
    Plan { name, kind, memory_mib, vcpus: hardware.vcpus, nics: vec![nic] }
}

/// MAC address of a guest's network card: `52:54:00:PP:PP:RR` with pair and role, as in the testbed `qemu`.
pub fn mac(node: NodeId) -> String {
    let [_, _, high, low] = node.pair.to_be_bytes();
    let role = if node.role == Role::Client { 1 } else { 2 };
    format!("52:54:00:{high:02x}:{low:02x}:{role:02x}")
}

/// The other end of a machine's first virtio-serial port.
fn port(base: &Path, machine: &Machine) -> PathBuf {
    base.join(machine.id.to_string()).join("virtio-serial0")
}

/// Waits until the agent of a machine that runs answers.
///
/// # Errors
/// [`AgentError::Here`] when there is no port, and what a conversation can have.
pub async fn reach(daemon: &Daemon, machine: &Machine, limit: Duration) -> Result<Client, AgentError> {
    let (path, deadline) = (port(&daemon.base, machine), Instant::now() + limit);
    if machine.host != daemon.host {
        // A machine of the same number may be here, and another's.
        let source = std::io::Error::other(format!("it is on the host {} of the mesh, and not here", machine.host));
        return Err(AgentError::Here { what: format!("reach {}", machine.name), source });
    }
    let stream = loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
            Err(source) => return Err(AgentError::Here { what: format!("connect to {}", path.display()), source }),
        }
    };
    let (read, write) = stream.into_split();
    let left = deadline.saturating_duration_since(Instant::now());
    Client::connect(read, write, Limits { handshake: left, ..Limits::default() }).await
}

/// Has a guest write to its disks what it has in memory (`sync`).
///
/// # Errors
/// Why it is not certain that it has, in words.
pub async fn write_out(client: &Client, limit: Duration) -> Result<(), String> {
    let argv = vec!["sync".to_owned()];
    let written = async {
        let mut process =
            client.spawn(&Command { argv, ..Command::default() }).await.map_err(|error| error.to_string())?;
        process.wait().await.map_err(|error| error.to_string())
    };
    match tokio::time::timeout(limit, written).await {
        Ok(exit) => match exit?.status {
            status if status.success() => Ok(()),
            status => Err(format!("sync ended with {status}")),
        },
        Err(_) => Err(format!("sync has not ended within {limit:?}")),
    }
}

/// A rate as minimega takes it: a whole number and `gbit`, `mbit` or `kbit`; `None` for one that is none.
fn rate_words(rate: Rate) -> Option<(String, &'static str)> {
    let bits = rate.bits_per_second();
    let units = [(1_000_000_000, "gbit"), (1_000_000, "mbit"), (1_000, "kbit")];
    let (unit, name) = units.into_iter().find(|(unit, _)| bits > 0 && bits.is_multiple_of(*unit))?;
    Some(((bits / unit).to_string(), name))
}

/// Limits what a machine's card gets, and looks whether it is limited. minimega limits the tap's egress alone, so that each
/// direction of a pair is limited once when both have a limit.
///
/// # Errors
/// [`MinimegaError::Unsendable`] for a rate that is no multiple of 1 kbit/s, [`MinimegaError::Machine`] when another limit
/// is in force, and as [`Namespace::run`].
pub async fn limit_rate(namespace: &Namespace, machine: &str, card: u32, rate: Rate) -> Result<(), MinimegaError> {
    let Some((number, unit)) = rate_words(rate) else {
        let why = "minimega limits to multiples of 1 kbit/s".to_owned();
        return Err(MinimegaError::Unsendable { word: rate.to_string(), why });
    };
    namespace.run(&["qos", "add", machine, &card.to_string(), "rate", &number, unit]).await?;
    let rows = namespace.rows(&["vm", "info"], &["name", "qos"]).await?;
    let found = rows.iter().find(|row| row.field("name") == machine).map_or("", |row| row.field("qos"));
    let wanted = format!("{card}: rate {number}{unit}");
    if found.trim_matches(['[', ']']).split(", ").any(|one| one == wanted) {
        return Ok(());
    }
    let why = format!("its qos is {} and not [{wanted}]", crate::text::printable(found, 100));
    Err(MinimegaError::Machine { machine: machine.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_said_exactly_or_not_at_all() {
        let words = |bits| rate_words(Rate::from_bits_per_second(bits).unwrap());
        assert_eq!(words(1_000_000_000), Some(("1".to_owned(), "gbit")));
        assert_eq!(words(2_500_000_000), Some(("2500".to_owned(), "mbit")));
        assert_eq!(words(8_000), Some(("8".to_owned(), "kbit")));
        assert_eq!(words(1_001), None);
    }

    #[test]
    fn addresses_tell_pairs_and_roles_apart() {
        assert_eq!(
            (mac(NodeId::client(1)), mac(NodeId::server(300))),
            ("52:54:00:00:01:01".into(), "52:54:00:01:2c:02".into())
        );
    }
}
