//! Taps of machines on other hosts of a mesh. minimega runs programs there (`mesh send HOST shell`), and what they print is
//! read: ethtool, ip and tc, as far as the host has them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::daemon::Daemon;
use super::error::MinimegaError;
use super::hold::chain;
use super::machine::Machine;
use super::own;
use crate::host::ethtool::Offload;
use crate::ids::NodeId;
use crate::node::local::blocking;
use crate::record::Setting;
use crate::spec::{GuestBoot, GuestImage};
use crate::testbed::lan::settings::{Wanted, of_tap};
use crate::testbed::lan::topology::Topology;
use crate::testbed::{Recorder, TestbedError};
use crate::units::Rate;

/// The tap of a machine on another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FarTap {
    pub(super) node: NodeId,
    host: String,
    /// Its name there.
    pub(super) tap: String,
}

impl FarTap {
    /// What stands for a capture by vptest, which cannot be taken.
    pub(super) fn unreachable(&self) -> Arc<dyn Recorder> {
        Arc::new(Unreachable { host: self.host.clone() })
    }
}

#[derive(Debug)]
struct Unreachable {
    host: String,
}

impl Recorder for Unreachable {
    fn start(&self, _snaplen: u32, _filter: Option<&str>) -> io::Result<()> {
        Err(io::Error::other(format!(
            "its tap is on {}, whose clock is not this host's (`vantage = [\"guest\"]` in `[capture]`)",
            self.host
        )))
    }

    fn stop(&self) -> io::Result<PathBuf> {
        Err(io::Error::other("it was never started"))
    }
}

/// Of another host; see the module.
#[derive(Debug)]
pub(super) struct FarTaps {
    daemon: Arc<Daemon>,
    taps: Vec<FarTap>,
}

/// What ethtool(8) calls an offload.
const fn feature(offload: Offload) -> &'static str {
    match offload {
        Offload::Sg => "scatter-gather",
        Offload::Tso => "tcp-segmentation-offload",
        Offload::Gso => "generic-segmentation-offload",
        Offload::Gro => "generic-receive-offload",
    }
}

impl FarTaps {
    /// Those of the machines that are not on the daemon's host.
    ///
    /// # Errors
    /// When minimega names none for one of them.
    pub(super) fn of<'m>(
        daemon: &Arc<Daemon>,
        machines: impl IntoIterator<Item = (NodeId, &'m Machine)>,
    ) -> Result<Self, TestbedError> {
        let far = machines.into_iter().filter(|(_, machine)| machine.host != daemon.host);
        let tap = |(node, machine): (NodeId, &Machine)| {
            let tap = machine.taps.first().cloned().ok_or_else(|| TestbedError::Io {
                what: format!("find the tap of {node}"),
                source: io::Error::other(format!("minimega on {} names none", machine.host)),
            })?;
            Ok::<_, TestbedError>(FarTap { node, host: machine.host.clone(), tap })
        };
        Ok(Self { daemon: Arc::clone(daemon), taps: far.map(tap).collect::<Result<_, _>>()? })
    }

    /// Each of them.
    pub(super) fn taps(&self) -> impl Iterator<Item = &FarTap> {
        self.taps.iter()
    }

    /// MTU and offloads, as at the taps of this host.
    ///
    /// # Errors
    /// For the first that cannot be set.
    pub(super) async fn set_up(&self, topology: &Topology) -> Result<(), TestbedError> {
        for at in &self.taps {
            let mut commands = Vec::new();
            if let Some(mtu) = topology.mtu {
                let mtu = mtu.to_string();
                commands.push(["ip", "link", "set", &at.tap, "mtu", &mtu].map(str::to_owned).to_vec());
            }
            if let Some(on) = topology.offload {
                let begin = ["ethtool", "-K", &at.tap].map(str::to_owned).to_vec();
                let switch = if on { "on" } else { "off" };
                let each = Offload::ALL.iter().flat_map(|offload| [offload.as_str().to_owned(), switch.to_owned()]);
                commands.push(begin.into_iter().chain(each).collect());
            }
            for command in commands {
                let done = self.shell(at, &command).await;
                // ethtool fails as a whole when a card lacks one of them, and what is in force is read back.
                if command[0] == "ethtool" {
                    if let Err(error) = done {
                        tracing::warn!("{}: offloads of its tap on {}: {}", at.node, at.host, chain(&error));
                    }
                    continue;
                }
                done.map_err(|error| error.into_testbed(format!("set up the tap of {} on {}", at.node, at.host)))?;
            }
        }
        Ok(())
    }

    /// What is in force, as far as it can be read.
    pub(super) async fn settings(&self, topology: &Topology) -> Vec<Setting> {
        let wanted = Wanted::of(topology);
        let mut all = Vec::new();
        for at in &self.taps {
            let setting = |name: &str, wanted: &Option<String>, observed: Option<String>| {
                of_tap(topology, Setting::compare(Some(at.node), &format!("host.{name}"), wanted.clone(), observed))
            };
            let features = self.read(at, &["ethtool", "-k", &at.tap]).await;
            let state = |offload| features.as_deref().and_then(|text| switch(text, feature(offload)));
            all.extend(Offload::ALL.map(|offload| setting(offload.as_str(), &wanted.offload, state(offload))));
            // Not from `/sys`, which shows the network that it was mounted in.
            let link = self.read(at, &["ip", "-j", "link", "show", "dev", &at.tap]).await;
            let (mtu, carrier) = link.and_then(|text| link_of(&text)).unzip();
            all.push(setting("mtu", &wanted.mtu, mtu));
            all.push(setting("operstate", &None, carrier));
            let queue = self.read(at, &["tc", "-j", "qdisc", "show", "dev", &at.tap]).await;
            all.push(setting("rate", &wanted.rate, queue.and_then(|text| rate(&text))));
        }
        all
    }

    /// What a program prints there; `None`, and the reason logged, where it cannot.
    async fn read(&self, at: &FarTap, command: &[&str]) -> Option<String> {
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        let printed = self.shell(at, &command).await;
        let log = |error: &MinimegaError| {
            tracing::warn!("{}: cannot read a setting of {} on {}: {}", at.node, at.tap, at.host, chain(error));
        };
        printed.inspect_err(log).ok()
    }

    async fn shell(&self, at: &FarTap, command: &[String]) -> Result<String, MinimegaError> {
        let words: Vec<&str> = ["shell"].into_iter().chain(command.iter().map(String::as_str)).collect();
        Ok(self.daemon.run_at(&at.host, &words).await?.text().to_owned())
    }
}

/// Has the other host what a node boots there?
///
/// # Errors
/// [`TestbedError::Unsupported`] for a file that is not there, or has other contents than the one of this host.
pub(super) async fn check_image(
    daemon: &Daemon,
    host: &str,
    image: &GuestImage,
    node: NodeId,
) -> Result<(), TestbedError> {
    match &image.boot {
        GuestBoot::Kernel { kernel, initrd } => {
            for (key, path) in [("kernel", kernel), ("initrd", initrd)] {
                let there = print(daemon, host, &["sha256sum", path]).await.map_err(|why| missing(host, path, &why))?;
                let (key, name) = (key.to_owned(), path.clone());
                let here = blocking(move || Ok(own::checksum(&key, &name))).await;
                let here = here.map_err(|source| TestbedError::Io { what: format!("read {path}"), source })??;
                if there.split_whitespace().next() != Some(&here) {
                    return Err(missing(host, path, "what is in it is not what is in the file of this name here"));
                }
            }
            Ok(())
        }
        GuestBoot::Disk { path, .. } => {
            let path = own::disk(path, node);
            let size = print(daemon, host, &["stat", "-L", "-c", "%s", &path]).await;
            match size.map(|size| size.trim().parse::<u64>()) {
                Ok(Ok(1..)) => Ok(()),
                Ok(_) => Err(missing(host, &path, "it is empty")),
                Err(why) => Err(missing(host, &path, &why)),
            }
        }
    }
}

fn missing(host: &str, path: &str, why: &str) -> TestbedError {
    TestbedError::Unsupported {
        what: format!("guests on {host} cannot boot {path}: {why}"),
        hint: Some(format!(
            "with `colocated = off`, the image's files are on both hosts under the same path: copy it to {host}"
        )),
    }
}

/// What a program prints on another host; why not, in words.
pub(super) async fn print(daemon: &Daemon, host: &str, command: &[&str]) -> Result<String, String> {
    let words: Vec<&str> = ["shell"].into_iter().chain(command.iter().copied()).collect();
    let answer = daemon.run_at(host, &words).await.map_err(|error| chain(&error))?;
    Ok(answer.text().to_owned())
}

/// `on` or `off`, from what `ethtool -k` prints.
fn switch(text: &str, feature: &str) -> Option<String> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.into_iter().find(|(name, _)| *name == feature)?;
    let value = value.split_whitespace().next()?;
    ["on", "off"].contains(&value).then(|| value.to_owned())
}

/// MTU and state, from what `ip -j link show` prints.
fn link_of(text: &str) -> Option<(String, String)> {
    let links: serde_json::Value = serde_json::from_str(text.trim()).ok()?;
    let [link] = links.as_array()?.as_slice() else { return None };
    Some((link["mtu"].as_u64()?.to_string(), crate::text::printable(&link["operstate"].as_str()?.to_lowercase(), 20)))
}

/// The root's rate, from what `tc -j qdisc show` prints; `none` for a queue without a limit, its name for another one.
fn rate(text: &str) -> Option<String> {
    let queues: serde_json::Value = serde_json::from_str(text.trim()).ok()?;
    let root = queues.as_array()?.iter().find(|queue| queue["root"] == true)?;
    let kind = root["kind"].as_str()?;
    if kind == "tbf" {
        let bytes = root["options"]["rate"].as_u64()?;
        return Some(Rate::from_bits_per_second(bytes.checked_mul(8)?)?.to_string());
    }
    let text = if crate::host::qdisc::UNLIMITED.contains(&kind) { "none" } else { kind };
    Some(crate::text::printable(text, 40))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_read_from_ethtool() {
        let text = "Features for mega_tap1:\nrx-checksumming: off [fixed]\nscatter-gather: on\n\
                    \ttx-scatter-gather: on\ntcp-segmentation-offload: off [requested on]\n\tgeneric: maybe\n";
        assert_eq!(switch(text, feature(Offload::Sg)).as_deref(), Some("on"));
        assert_eq!(switch(text, feature(Offload::Tso)).as_deref(), Some("off"));
        assert_eq!(switch(text, feature(Offload::Gro)), None);
    }

    #[test]
    fn mtu_and_state_are_read_from_ip() {
        let text =
            r#"[{"ifindex":7,"ifname":"mega_tap1","flags":["UP"],"mtu":1400,"operstate":"UP","group":"default"}]"#;
        assert_eq!(link_of(text), Some(("1400".to_owned(), "up".to_owned())));
        for bad in ["", "[]", "{}", r#"[{"mtu":1400}]"#, r#"[{"mtu":"1400","operstate":"UP"}]"#] {
            assert_eq!(link_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn rates_are_read_from_tc() {
        let tbf = r#"[{"kind":"tbf","handle":"1:","root":true,"options":{"rate":6250000,"burst":62500,"lat":1}}]"#;
        assert_eq!(rate(tbf).as_deref(), Some("50 Mbit/s"));
        let usual = r#"[{"kind":"fq_codel","handle":"0:","root":true,"refcnt":2,"options":{}}]"#;
        assert_eq!(rate(usual).as_deref(), Some("none"));
        assert_eq!(rate(r#"[{"kind":"netem","root":true,"options":{}}]"#).as_deref(), Some("netem"));
        for bad in ["", "[]", "{}", "no such device"] {
            assert_eq!(rate(bad), None, "{bad}");
        }
    }
}
