//! `[testbed.physical]`: which nodes there are, how they are reached, and what is changed on them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::diagnostic::Diagnostic;
use super::parse::positive_duration;
use super::parse_qemu::{host_key, login_name};
use super::read::{Entry, Section, Sink};
use crate::ids::{NodeId, Role};

/// Counters that are older are of no use.
const LONGEST_UPDATE: Duration = Duration::from_secs(600);

/// How physical nodes are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Way {
    /// By ssh, each by itself.
    #[default]
    Ssh,
    /// Through the miniccc on each, by the rond on this host.
    Rond,
}

impl Way {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ssh => "ssh",
            Self::Rond => "rond",
        }
    }
}

/// `[testbed.physical]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PhysicalSpec {
    /// How they are reached.
    pub way: Way,
    /// Path of rond's command socket; `None` for the usual one.
    pub rond: Option<String>,
    /// Directory of miniccc's files on the nodes that name none; `None` for the usual one.
    pub files: Option<String>,
    /// The nodes; the first client and the first server are the first pair.
    pub nodes: Vec<PhysicalNode>,
    /// Who logs in where a node names nobody; `None` for what `ssh_config` says.
    pub user: Option<String>,
    /// Path of a private key, as written, where a node names none; `None` for those that ssh finds by itself.
    pub identity: Option<String>,
    /// Routers between the nodes, for `hops`: name and address.
    pub routers: Vec<(String, IpAddr)>,
    /// Kernel parameters of the nodes during an iteration, by name below `/proc/sys`, with slashes.
    pub sysctls: Vec<(String, String)>,
    /// Frequency governor of the nodes' CPUs during an iteration; `None` leaves it.
    pub governor: Option<String>,
    /// The switch between the nodes, whose counters are read.
    pub switch: Option<SwitchSpec>,
}

/// `[testbed.physical.switch]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchSpec {
    /// As net-snmp takes it.
    pub address: String,
    /// How it is asked.
    pub access: SwitchAccess,
    /// Number of each node's port (`ifIndex`).
    pub ports: Vec<(NodeId, u32)>,
    /// How old its counters may be.
    pub update: Duration,
}

/// What makes a switch answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwitchAccess {
    /// The community of SNMP version 2c.
    Community(String),
    /// A directory, as written, with a `snmp.conf` of net-snmp's.
    Config(String),
}

/// `[[testbed.physical.nodes]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalNode {
    /// As ssh takes it: a name, an address, or a name from `ssh_config`. With rond, what the node calls itself.
    pub host: String,
    /// Is it a server?
    pub server: bool,
    /// The interface that the workload uses; `None` for that with the address.
    pub interface: Option<String>,
    /// Its address; `None` for the first one of the interface.
    pub address: Option<IpAddr>,
    /// Port of its ssh server; `None` for what `ssh_config` says.
    pub port: Option<u16>,
    /// Who logs in.
    pub user: Option<String>,
    /// Path of a private key, as written.
    pub identity: Option<String>,
    /// The key it must show: type and key, as in a `.pub` file; `None` for one in `known_hosts`.
    pub host_key: Option<String>,
    /// Directory of its miniccc's files; `None` for that of all.
    pub files: Option<String>,
}

const ROLES: &[(&str, bool)] = &[("client", false), ("server", true)];
const WAYS: &[(&str, Way)] = &[("ssh", Way::Ssh), ("rond", Way::Rond)];
/// A path of a unix socket has this many bytes at most (unix(7)).
const SOCKET: usize = 107;

pub(super) fn read(entry: &Entry<'_>, sink: &mut Sink<'_>) -> PhysicalSpec {
    let mut physical = PhysicalSpec::default();
    let Some(mut section) = entry.section(sink) else { return physical };
    physical.way = section.take("way").and_then(|entry| entry.choice(sink, WAYS)).unwrap_or_default();
    let way = physical.way;
    if let Some(nodes) = section.take("nodes") {
        physical.nodes = nodes.sections(sink).into_iter().filter_map(|node| read_node(node, way, sink)).collect();
    }
    physical.rond = only(&mut section, "rond", way, Way::Rond, sink).and_then(|entry| socket(&entry, sink));
    physical.files = only(&mut section, "files", way, Way::Rond, sink).and_then(|entry| directory(&entry, sink));
    physical.user = only(&mut section, "user", way, Way::Ssh, sink).and_then(|entry| login_name(&entry, sink));
    let identity = only(&mut section, "identity", way, Way::Ssh, sink);
    physical.identity = identity.and_then(|entry| entry.filled(sink).map(str::to_owned));
    if let Some(mut routers) = section.take("routers").and_then(|entry| entry.section(sink)) {
        let named = routers.rest().into_iter();
        physical.routers = named.filter_map(|(name, entry)| Some((name.to_owned(), address(&entry, sink)?))).collect();
    }
    if let Some(mut sysctls) = section.take("sysctls").and_then(|entry| entry.section(sink)) {
        physical.sysctls = sysctls.rest().into_iter().filter_map(|(name, entry)| sysctl(name, &entry, sink)).collect();
        physical.sysctls.sort();
    }
    physical.governor = section
        .take("governor")
        .and_then(|entry| word(&entry, sink, "the name of a frequency governor: `performance`"));
    physical.switch = section.take("switch").and_then(|entry| read_switch(&entry, sink));
    section.finish(sink);
    physical
}

fn read_switch(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<SwitchSpec> {
    const HELP: &str =
        "either `community = \"…\"` (version 2c), or `config = \"DIRECTORY\"` with a `snmp.conf` of net-snmp's";
    let mut section = entry.section(sink)?;
    let address = section.need("address", sink, "`address = \"10.0.0.254\"`, as net-snmp takes it").and_then(|entry| {
        let address = entry.filled(sink)?;
        let fits = !address.starts_with('-') && !address.contains(|c: char| c.is_whitespace() || c.is_control());
        if !fits {
            entry.refuse(sink, "an address, as net-snmp takes it: `10.0.0.254`, `udp:switch:161`");
        }
        fits.then(|| address.to_owned())
    });
    let (community, config) = (section.take("community"), section.take("config"));
    let access = match (&community, &config) {
        (Some(entry), None) => {
            let text = entry.filled(sink).filter(|text| text.len() < 256);
            if text.is_some_and(|text| text.contains(|c: char| c.is_control() || c == '"' || c == '\\')) {
                entry.refuse(sink, "a community without quotes, backslashes and control characters");
            }
            text.map(|text| SwitchAccess::Community(text.to_owned()))
        }
        (None, Some(entry)) => entry.filled(sink).map(|path| SwitchAccess::Config(path.to_owned())),
        _ => {
            sink.push(Diagnostic::error(section.span.clone(), "how the switch is asked must be said once").help(HELP));
            None
        }
    };
    let update = section.need("update", sink, "`update = \"10 s\"`: how old the switch's counters may be");
    let update = update.and_then(|entry| positive_duration(&entry, LONGEST_UPDATE, sink));
    let ports = section.need("ports", sink, "`ports = { client1 = 3, server1 = 4 }`: the switch's number of each port");
    let ports = ports.and_then(|entry| entry.section(sink)).map(|mut ports| {
        let named = ports.rest().into_iter();
        let mut found: Vec<(NodeId, u32)> = Vec::new();
        for (name, entry) in named {
            let Some((node, number)) = port(name, &entry, sink) else { continue };
            if let Some((other, _)) = found.iter().find(|(_, taken)| *taken == number) {
                entry.refuse(sink, format!("a port of its own: {other} has that number"));
            }
            found.push((node, number));
        }
        found
    });
    section.finish(sink);
    let mut ports = ports?;
    ports.sort_unstable();
    Some(SwitchSpec { address: address?, access: access?, ports, update: update? })
}

fn port(name: &str, entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<(NodeId, u32)> {
    let node = name.parse::<NodeId>().ok().filter(|node| !matches!(node.role, Role::Router(_)));
    let Some(node) = node else {
        sink.push(
            Diagnostic::error(entry.key.clone(), format!("`{name}` is no node")).help("client1, server1, client2, …"),
        );
        return None;
    };
    Some((node, entry.integer(sink, 1_u32, 2_147_483_647)?))
}

/// The value of a key that means something with one way to the nodes alone.
fn only<'a>(
    section: &mut Section<'a>,
    key: &'static str,
    way: Way,
    needed: Way,
    sink: &mut Sink<'_>,
) -> Option<Entry<'a>> {
    let entry = section.take(key)?;
    if way == needed {
        return Some(entry);
    }
    let message = format!("`{}` means nothing with `way = \"{}\"`", entry.path, way.as_str());
    let label = format!("for `way = \"{}\"` alone", needed.as_str());
    sink.push(Diagnostic::error(entry.key.clone(), message).label(label));
    None
}

fn socket(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = entry.filled(sink)?;
    let fits = text.starts_with('/') && text.len() <= SOCKET;
    if !fits {
        entry.refuse(sink, "an absolute path of at most 107 bytes: `\"/tmp/rond/rond\"`");
    }
    fits.then(|| text.to_owned())
}

/// Not one with characters that miniccc takes for a pattern.
fn directory(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = entry.filled(sink)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let fits = text.len() > 1 && text.starts_with('/') && !text.ends_with('/') && text.chars().all(plain);
    if !fits {
        entry.refuse(sink, "an absolute path of letters, digits and `/._-`: `\"/tmp/miniccc/files\"`");
    }
    fits.then(|| text.to_owned())
}

fn read_node(mut section: Section<'_>, way: Way, sink: &mut Sink<'_>) -> Option<PhysicalNode> {
    let host = section.need("host", sink, "`host = \"node1\"`, as ssh takes it").and_then(|entry| {
        let host = entry.filled(sink)?;
        let fits = !host.starts_with('-') && !host.contains(|c: char| c.is_whitespace() || c.is_control());
        if !fits {
            entry.refuse(sink, "a name or an address, as ssh takes it");
        }
        fits.then(|| host.to_owned())
    });
    let server = section.need("role", sink, "`role = \"client\"` or `role = \"server\"`");
    let server = server.and_then(|entry| entry.choice(sink, ROLES));
    let interface = section.take("interface");
    let address = section.take("address");
    if interface.is_none() && address.is_none() && host.is_some() {
        section.need("address", sink, "`address`, `interface` or both: what the workload uses");
    }
    let node = PhysicalNode {
        host: host.clone().unwrap_or_default(),
        server: server.unwrap_or_default(),
        interface: interface.and_then(|entry| word(&entry, sink, "the name of an interface")),
        address: address.and_then(|entry| self::address(&entry, sink)),
        port: only(&mut section, "port", way, Way::Ssh, sink).and_then(|entry| entry.integer(sink, 1_u16, u16::MAX)),
        user: only(&mut section, "user", way, Way::Ssh, sink).and_then(|entry| login_name(&entry, sink)),
        identity: only(&mut section, "identity", way, Way::Ssh, sink)
            .and_then(|entry| entry.filled(sink).map(str::to_owned)),
        host_key: only(&mut section, "host_key", way, Way::Ssh, sink).and_then(|entry| host_key(&entry, sink)),
        files: only(&mut section, "files", way, Way::Rond, sink).and_then(|entry| directory(&entry, sink)),
    };
    section.finish(sink);
    (host.is_some() && server.is_some()).then_some(node)
}

fn address(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<IpAddr> {
    let text = entry.filled(sink)?;
    match text.parse::<Ipv4Addr>() {
        Ok(address) if !address.is_unspecified() && !address.is_multicast() => Some(IpAddr::V4(address)),
        _ => {
            entry.refuse(sink, "an IPv4 address: `10.0.0.1`");
            None
        }
    }
}

fn word(entry: &Entry<'_>, sink: &mut Sink<'_>, accepted: &str) -> Option<String> {
    let text = entry.filled(sink)?;
    let fits = text.len() < 64 && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/');
    if !fits {
        entry.refuse(sink, accepted);
    }
    fits.then(|| text.to_owned())
}

/// As sysctl(8) takes names: with dots, or with slashes where a part has a dot in it.
fn sysctl(name: &str, entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<(String, String)> {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        entry.refuse(sink, "a name such as `\"net.ipv4.tcp_congestion_control\"`");
        return None;
    }
    let value = match entry.value {
        toml::de::DeValue::Integer(_) => entry.integer(sink, i64::MIN, i64::MAX)?.to_string(),
        _ => entry.filled(sink)?.to_owned(),
    };
    Some((path, value))
}
