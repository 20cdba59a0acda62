//! What the QEMU of this host offers: its version and network cards.

use std::path::Path;
use std::time::Duration;

use super::args::Machine;
use crate::host::cage::{Cage, Job};
use crate::node::{Command, Process as _, Stream};
use crate::testbed::TestbedError;
use crate::workload::find_in_path;

/// How long QEMU may take to answer a question that starts no machine.
const LIMIT: Duration = Duration::from_secs(20);
/// Where to get it.
pub(crate) const HINT: &str = "apt-get install qemu-system-x86";

/// A QEMU that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offers {
    /// `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)`
    pub(crate) version: String,
    cards: Vec<Card>,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Card {
    name: String,
    bus: String,
    alias: Option<String>,
}

impl Offers {
    /// Asks QEMU.
    ///
    /// # Errors
    /// [`TestbedError::Unsupported`] when there is none, or it does not answer.
    pub(crate) async fn ask() -> Result<Self, TestbedError> {
        if find_in_path(super::PROGRAM).is_none() {
            return Err(missing(format!("{} not found", super::PROGRAM)));
        }
        let failed = |error: std::io::Error| missing(format!("{} does not answer: {error}", super::PROGRAM));
        let mut cage = Cage::open_or_groups().map_err(failed)?;
        let version = run(&cage, &["--version"]).await;
        let devices = run(&cage, &["-machine", "none", "-device", "help"]).await;
        if let Err(error) = cage.close().await {
            tracing::warn!("cannot end a QEMU that was asked what it offers: {error}");
        }
        let version = version.map_err(failed)?;
        let version = version.lines().next().and_then(|line| line.split("version ").nth(1)).unwrap_or("unknown");
        Ok(Self { version: version.to_owned(), cards: cards(&devices.map_err(failed)?) })
    }

    /// Has this QEMU networks of its own (`-netdev user`, libslirp), over which guests are reached by ssh?
    ///
    /// # Errors
    /// [`TestbedError::Unsupported`] when it has not, or does not answer.
    pub(super) async fn has_own_networks() -> Result<(), TestbedError> {
        let failed = |error: std::io::Error| missing(format!("{} does not answer: {error}", super::PROGRAM));
        let mut cage = Cage::open_or_groups().map_err(failed)?;
        let listed = run(&cage, &["-machine", "none", "-netdev", "help"]).await;
        if let Err(error) = cage.close().await {
            tracing::warn!("cannot end a QEMU that was asked what it offers: {error}");
        }
        if listed.map_err(failed)?.lines().any(|line| line.trim() == "user") {
            return Ok(());
        }
        let what = "this QEMU has no network of its own (`-netdev user`), over which a guest's sshd is reached";
        let hint = "install a QEMU that was built with libslirp, or a disk that starts the agent itself";
        Err(TestbedError::Unsupported { what: what.to_owned(), hint: Some(hint.to_owned()) })
    }

    /// QEMU's own name of the network card that a tuple calls `driver`.
    ///
    /// # Errors
    /// Says which cards the machine can have, and the nearest.
    pub(super) fn card(&self, driver: &str, machine: Machine) -> Result<&str, String> {
        let fits = |card: &&Card| card.bus == machine.bus() && card.name != "virtio-net-pci-transitional";
        let known = self.cards.iter().find(|card| card.name == driver || card.alias.as_deref() == Some(driver));
        match known {
            Some(card) if card.bus == machine.bus() => Ok(&card.name),
            other => {
                let names: Vec<&str> = self.cards.iter().filter(fits).map(|card| card.name.as_str()).collect();
                let near = names.iter().min_by_key(|name| strsim::damerau_levenshtein(name, driver));
                let near = near.map_or_else(String::new, |near| format!("; the nearest is {near}"));
                let why = match other {
                    Some(card) => format!("is on {}, which a {} has not", card.bus, machine.as_str()),
                    None => format!("is unknown to this QEMU ({})", self.version),
                };
                Err(format!("driver = `{driver}` {why} (available: {}{near})", names.join(", ")))
            }
        }
    }
}

fn missing(what: String) -> TestbedError {
    TestbedError::Unsupported { what, hint: Some(HINT.to_owned()) }
}

async fn run(cage: &Cage, arguments: &[&str]) -> std::io::Result<String> {
    let argv = std::iter::once(&super::PROGRAM).chain(arguments).map(|&word| word.to_owned()).collect();
    let command = Command { argv, ..Command::default() };
    let mut child = cage.spawn(Job { command, directory: Path::new("/").to_owned(), namespace: None }).await?;
    let exit = tokio::time::timeout(LIMIT, child.wait()).await;
    let exit = exit.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?;
    let exit = exit.map_err(std::io::Error::other)?;
    if !exit.status.success() {
        let said = child.output(Stream::Err).bytes;
        let said = String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned();
        return Err(std::io::Error::other(format!("{}: {said}", exit.status)));
    }
    Ok(String::from_utf8_lossy(&child.output(Stream::Out).bytes).into_owned())
}

/// The section `Network devices:` of `-device help`.
fn cards(help: &str) -> Vec<Card> {
    let lines = help.lines().skip_while(|line| line.trim() != "Network devices:").skip(1);
    lines.take_while(|line| !line.trim().is_empty()).filter_map(card).collect()
}

/// `name "e1000", bus PCI, alias "e1000-82540em", desc "Intel Gigabit Ethernet"`
fn card(line: &str) -> Option<Card> {
    let mut parts = line.split(", ");
    let name = parts.next()?.strip_prefix("name \"")?.strip_suffix('"')?.to_owned();
    let mut card = Card { name, bus: String::new(), alias: None };
    for part in parts {
        if let Some(bus) = part.strip_prefix("bus ") {
            bus.clone_into(&mut card.bus);
        } else if let Some(alias) = part.strip_prefix("alias ") {
            card.alias = Some(alias.trim_matches('"').to_owned());
        }
    }
    Some(card)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From QEMU 7.2.22, shortened.
    const HELP: &str = r#"Storage devices:
name "virtio-blk-pci", bus PCI, alias "virtio-blk"

Network devices:
name "e1000", bus PCI, alias "e1000-82540em", desc "Intel Gigabit Ethernet"
name "e1000e", bus PCI, desc "Intel 82574L GbE Controller"
name "ne2k_isa", bus ISA
name "virtio-net-device", bus virtio-bus
name "virtio-net-pci", bus PCI, alias "virtio-net"
name "vmxnet3", bus PCI, desc "VMWare Paravirtualized Ethernet v3"

Input devices:
name "usb-kbd", bus usb-bus
"#;

    fn offers() -> Offers {
        Offers { version: "7.2.22".to_owned(), cards: cards(HELP) }
    }

    #[test]
    fn cards_are_known_by_name_and_alias() {
        for (driver, name) in [("e1000", "e1000"), ("virtio-net", "virtio-net-pci"), ("e1000-82540em", "e1000")] {
            assert_eq!(offers().card(driver, Machine::Q35), Ok(name));
        }
        assert_eq!(offers().card("virtio-net-device", Machine::Microvm), Ok("virtio-net-device"));
    }

    #[test]
    fn an_unknown_card_is_refused_with_those_there_are() {
        assert_eq!(
            offers().card("e1000f", Machine::Pc).unwrap_err(),
            "driver = `e1000f` is unknown to this QEMU (7.2.22) (available: e1000, e1000e, virtio-net-pci, vmxnet3; the \
             nearest is e1000)"
        );
        let on_pci = offers().card("e1000", Machine::Microvm).unwrap_err();
        assert!(on_pci.contains("is on PCI, which a microvm has not (available: virtio-net-device"), "{on_pci}");
        assert!(offers().card("virtio-blk-pci", Machine::Pc).is_err(), "no network card");
    }
}
