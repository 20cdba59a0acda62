//! Machines of a namespace: how they are configured, launched and looked at.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::daemon::Namespace;
use super::disk::{self, FirstLayer};
use super::error::{MinimegaError, shown};
use super::line::is_name;
use super::wire::{Answer, Row};
use crate::text::printable;

/// How long a launch may take: one whose QEMU does not come up takes 5 s to fail.
const LAUNCH: Duration = Duration::from_secs(120);

/// What a machine is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A virtual machine.
    Kvm {
        /// What it boots.
        boot: Boot,
        /// QEMU, with its path; `None` for minimega's own choice (`kvm`).
        qemu: Option<String>,
        /// Model of the processor; `None` for minimega's own choice (`host`).
        cpu: Option<String>,
        /// Names of virtio-serial ports, in the order of their sockets.
        ports: Vec<String>,
        /// Are writes to disks thrown away?
        snapshot: bool,
        /// A file that its first serial port is written to; `None` for none.
        console: Option<String>,
        /// The first files of its results disks.
        results: Vec<FirstLayer>,
    },
    /// A container.
    Container {
        /// Path of the directory that is its root.
        filesystem: String,
        /// First process and its arguments; empty for minimega's own choice.
        init: Vec<String>,
        /// Directories of this host that it sees as others of its own: path in the container, path here.
        volumes: Vec<(String, String)>,
    },
}

/// What a virtual machine boots. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// A kernel.
    Kernel {
        /// Its path.
        kernel: String,
        /// Path of the initramfs.
        initrd: String,
        /// Its arguments.
        arguments: Vec<String>,
    },
    /// A disk.
    Disk(String),
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Name of its bridge; `None` for minimega's usual one.
    pub bridge: Option<String>,
    /// Name of the network: a VLAN alias of the namespace, or `NAMESPACE//ALIAS` for one of another.
    pub vlan: String,
    /// Its MAC address.
    pub mac: String,
    /// QEMU's name of the card; `None` for a container.
    pub driver: Option<String>,
}

/// A machine that is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its name in the namespace.
    pub name: String,
    /// What it is made of.
    pub kind: Kind,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// Its processors.
    pub vcpus: u32,
    /// Its cards, in order.
    pub nics: Vec<Nic>,
}

impl Plan {
    /// The commands that configure it, without `clear vm config` before and `vm launch` after. Pure.
    ///
    /// # Errors
    /// [`MinimegaError::Unsendable`] for what minimega would take for something else without a word.
    pub fn configuration(&self) -> Result<Vec<Vec<String>>, MinimegaError> {
        if !is_name(&self.name) {
            return refuse(&self.name, "names have letters, digits, hyphens and underscores");
        }
        let mut all = Vec::new();
        let mut set = |name: &str, values: &[String]| {
            all.push(["vm", "config", name].into_iter().map(str::to_owned).chain(values.iter().cloned()).collect());
        };
        set("memory", &[self.memory_mib.to_string()]);
        set("vcpus", &[self.vcpus.to_string()]);
        match &self.kind {
            Kind::Kvm { boot, qemu, cpu, ports, snapshot, console, results } => {
                match boot {
                    Boot::Kernel { kernel, initrd, arguments } => {
                        set("kernel", &[absolute(kernel)?]);
                        set("initrd", &[absolute(initrd)?]);
                        set("append", arguments);
                    }
                    Boot::Disk(path) => set("disks", &[own_disk(path)?]),
                }
                if let Some(qemu) = qemu {
                    set("qemu", &[absolute(qemu)?]);
                }
                if let Some(cpu) = cpu {
                    set("cpu", std::slice::from_ref(cpu));
                }
                if !ports.is_empty() {
                    set("virtio-ports", &[ports.join(",")]);
                }
                set("snapshot", &[snapshot.to_string()]);
                let mut further = Vec::new();
                if let Some(console) = console {
                    // Commas are doubled in values (qemu(1)).
                    let file = format!("file:{}", absolute(console)?.replace(',', ",,"));
                    further.extend(["-serial".to_owned(), file]);
                }
                for layer in results {
                    further.extend(disk::arguments(layer.purpose, &absolute(&layer.path)?));
                }
                if !further.is_empty() {
                    set("qemu-append", &further);
                }
            }
            Kind::Container { filesystem, init, volumes } => {
                set("filesystem", &[lower(filesystem)?]);
                set("snapshot", &["true".to_owned()]);
                if !init.is_empty() {
                    set("init", init);
                }
                for (inside, here) in volumes {
                    set("volume", &[volume(inside)?, volume(here)?]);
                }
            }
        }
        let nics = self.nics.iter().map(Nic::word).collect::<Result<Vec<_>, _>>()?;
        if !nics.is_empty() {
            set("net", &nics);
        }
        Ok(all)
    }

    /// The same with results disks, whose first files these are. Containers have none.
    #[must_use]
    pub fn with_results(mut self, layers: Vec<FirstLayer>) -> Self {
        if let Kind::Kvm { results, .. } = &mut self.kind {
            *results = layers;
        }
        self
    }

    const fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Kvm { .. } => "kvm",
            Kind::Container { .. } => "container",
        }
    }
}

impl Nic {
    /// `BRIDGE,VLAN,MAC,DRIVER`. A comma would shift what is what: minimega takes an unknown driver for a VLAN.
    fn word(&self) -> Result<String, MinimegaError> {
        let parts = [self.bridge.as_ref(), Some(&self.vlan), Some(&self.mac), self.driver.as_ref()];
        let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
        if let Some(bad) = parts.iter().find(|part| part.is_empty() || part.contains([',', ' '])) {
            return refuse(bad, "a network, an address and a driver have no comma and no blank");
        }
        Ok(parts.join(","))
    }
}

fn refuse<T>(word: &str, why: &str) -> Result<T, MinimegaError> {
    Err(MinimegaError::Unsendable { word: shown(word), why: why.to_owned() })
}

/// minimega looks for other paths among its files.
fn absolute(path: &str) -> Result<String, MinimegaError> {
    if Path::new(path).is_absolute() { Ok(path.to_owned()) } else { refuse(path, "its path must be absolute") }
}

/// minimega takes what follows a comma for the disk's interface.
fn own_disk(path: &str) -> Result<String, MinimegaError> {
    if path.contains(',') { refuse(path, "the path of a disk has no comma") } else { absolute(path) }
}

/// minimega makes it one of several options of mount(8).
fn lower(path: &str) -> Result<String, MinimegaError> {
    let why = "the path of a container's filesystem has no `,`, `:`, `\\` and `\"`";
    if path.contains([',', ':', '\\', '"']) { refuse(path, why) } else { absolute(path) }
}

/// minimega joins the two paths with a colon.
fn volume(path: &str) -> Result<String, MinimegaError> {
    if path.contains(':') { refuse(path, "the path of a volume has no colon") } else { absolute(path) }
}

/// What a machine is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Launched and not started.
    Building,
    /// Started.
    Running,
    /// Stopped for a while.
    Paused,
    /// Ended.
    Quit,
    /// It could not be launched, or failed later.
    Error,
    /// Anything else.
    Other(String),
}

impl State {
    fn of(text: &str) -> Self {
        match text {
            "BUILDING" => Self::Building,
            "RUNNING" => Self::Running,
            "PAUSED" => Self::Paused,
            "QUIT" => Self::Quit,
            "ERROR" => Self::Error,
            other => Self::Other(printable(other, 40)),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Building => "BUILDING",
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Quit => "QUIT",
            Self::Error => "ERROR",
            Self::Other(text) => text,
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What minimega says of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its number; its directory below minimega's own has it as its name.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Name of the host of the mesh that it is on.
    pub host: String,
    /// What it is at.
    pub state: State,
    /// What its miniccc reports as.
    pub uuid: String,
    /// Why it is in the state ERROR; `None` where minimega does not say.
    pub error: Option<String>,
    /// Names of its taps on the host, by card.
    pub taps: Vec<String>,
    /// Its cards; empty where minimega does not say.
    pub cards: Vec<Card>,
    /// Name of the bridge of its first card; empty where minimega does not say.
    pub bridge: String,
    /// Process number of its QEMU or of its container's first process; `None` where minimega does not say.
    pub pid: Option<u32>,
}

/// A network card, as minimega has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// QEMU's name of it; empty for a container's.
    pub driver: String,
    /// Its MAC address.
    pub mac: String,
    /// Name of its network, where minimega gives it as data; otherwise with the number of the VLAN: `link (101)`.
    pub network: String,
}

/// The part of `vm info`'s data that its table lacks.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Details {
    name: String,
    networks: Vec<NetworkDetails>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkDetails {
    driver: String,
    #[serde(rename = "MAC")]
    mac: String,
    alias: String,
}

const COLUMNS: [&str; 5] = ["id", "name", "state", "uuid", "tags"];

impl Machine {
    /// All machines in an answer to `vm info`.
    fn all(answer: &Answer) -> Result<Vec<Self>, MinimegaError> {
        let rows = answer.table(&COLUMNS).map_err(|garbled| MinimegaError::answer("vm info", garbled))?;
        let data = answer.responses.iter().filter_map(|response| response.data.as_array()).flatten();
        let details: Vec<Details> = data.filter_map(|data| Details::deserialize(data).ok()).collect();
        rows.iter().map(|row| Self::of(row, &details)).collect()
    }

    fn of(row: &Row, details: &[Details]) -> Result<Self, MinimegaError> {
        let name = row.field("name").to_owned();
        let id = row.field("id").parse().map_err(|_| MinimegaError::Answer {
            command: "vm info".to_owned(),
            text: format!("id = `{}`", printable(row.field("id"), 40)),
        })?;
        let tags: Option<serde_json::Value> = serde_json::from_str(row.field("tags")).ok();
        let error = tags.and_then(|tags| Some(printable(tags.get("error")?.as_str()?.trim(), 500)));
        let known = details.iter().find(|details| details.name == name);
        let networks = row.get("vlan").map(networks).unwrap_or_default();
        let card = |(number, card): (usize, &NetworkDetails)| Card {
            driver: card.driver.clone(),
            mac: card.mac.clone(),
            // In the table, another host of a mesh gives it the name that it has last heard for the number.
            network: Some(card.alias.clone())
                .filter(|alias| !alias.is_empty())
                .or_else(|| networks.get(number).cloned())
                .unwrap_or_default(),
        };
        let cards = known.map(|known| known.networks.iter().enumerate().map(card).collect());
        Ok(Self {
            id,
            state: State::of(row.field("state")),
            uuid: row.field("uuid").to_owned(),
            error,
            taps: row.get("tap").map(listed).unwrap_or_default(),
            cards: cards.unwrap_or_default(),
            bridge: row.get("bridge").map(listed).unwrap_or_default().into_iter().next().unwrap_or_default(),
            host: row.host().to_owned(),
            pid: row.get("pid").and_then(|pid| pid.parse().ok()),
            name,
        })
    }

    fn is_not(&self, wanted: &State) -> MinimegaError {
        let state = self.state.as_str();
        let wanted = wanted.as_str();
        let reason = self.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        MinimegaError::Machine { machine: self.name.clone(), why: format!("it is {state} and not {wanted}{reason}") }
    }
}

/// `[a, b]` or `[a b]`.
pub(super) fn listed(text: &str) -> Vec<String> {
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
    inner.split([',', ' ']).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// `[LAN (101), DMZ (102)]`
fn networks(text: &str) -> Vec<String> {
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
    inner.split(", ").filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// All machines of a namespace, in no order.
///
/// # Errors
/// As [`Namespace::run`].
pub async fn machines(namespace: &Namespace) -> Result<Vec<Machine>, MinimegaError> {
    Machine::all(&namespace.poll(&["vm", "info"]).await?)
}

/// The machines of these names, all of them in this state.
///
/// # Errors
/// [`MinimegaError::Machine`] for the first that is missing or in another state, with the reason where minimega knows it.
pub async fn in_state(namespace: &Namespace, names: &[String], state: &State) -> Result<Vec<Machine>, MinimegaError> {
    let mut all = machines(namespace).await?;
    let mut found = Vec::new();
    for name in names {
        let Some(at) = all.iter().position(|machine| machine.name == *name) else {
            let why = "minimega has no such machine, and said nothing when it was launched".to_owned();
            return Err(MinimegaError::Machine { machine: name.clone(), why });
        };
        let machine = all.swap_remove(at);
        if machine.state != *state {
            return Err(machine.is_not(state));
        }
        found.push(machine);
    }
    Ok(found)
}

/// Launches machines and looks whether they are there: minimega answers a launch that failed as one that did not.
///
/// # Errors
/// [`MinimegaError::Machine`] and [`MinimegaError::Unsendable`], and as [`Namespace::run`].
pub async fn launch(namespace: &Namespace, plans: &[Plan]) -> Result<Vec<Machine>, MinimegaError> {
    let configurations = plans.iter().map(Plan::configuration).collect::<Result<Vec<_>, _>>()?;
    {
        let _configuring = namespace.configuring().await;
        for (plan, configuration) in plans.iter().zip(&configurations) {
            namespace.run(&["clear", "vm", "config"]).await?;
            for command in configuration {
                namespace.run(command).await?;
            }
            namespace.run_within(&["vm", "launch", plan.type_name(), &plan.name], LAUNCH).await?;
        }
    }
    let names: Vec<String> = plans.iter().map(|plan| plan.name.clone()).collect();
    let machines = in_state(namespace, &names, &State::Building).await?;
    for (plan, machine) in plans.iter().zip(&machines) {
        check_host(namespace, machine)?;
        check_cards(plan, machine)?;
    }
    Ok(machines)
}

/// A host that is meant for others, or that left the mesh meanwhile, is not one for this machine.
fn check_host(namespace: &Namespace, machine: &Machine) -> Result<(), MinimegaError> {
    let hosts = namespace.hosts();
    if hosts.is_empty() || hosts.contains(&machine.host) {
        return Ok(());
    }
    let why = format!("it is on {} and not on {}", printable(&machine.host, 60), hosts.join(", "));
    Err(MinimegaError::Machine { machine: machine.name.clone(), why })
}

/// A driver that minimega does not know becomes the name of a network, and the network that of a bridge.
fn check_cards(plan: &Plan, machine: &Machine) -> Result<(), MinimegaError> {
    if machine.cards.is_empty() && !plan.nics.is_empty() {
        // A version that does not say is believed.
        return Ok(());
    }
    let same = |(nic, card): (&Nic, &Card)| {
        let network = card.network.split(" (").next().unwrap_or_default();
        nic.driver.as_ref().is_none_or(|driver| *driver == card.driver)
            && nic.mac.eq_ignore_ascii_case(&card.mac)
            && (card.network.is_empty() || network == nic.vlan)
    };
    let bridge = plan.nics.first().and_then(|nic| nic.bridge.as_ref());
    if let Some(bridge) = bridge.filter(|bridge| **bridge != machine.bridge) {
        let why = format!("its bridge is {} and not {bridge}", printable(&machine.bridge, 40));
        return Err(MinimegaError::Machine { machine: machine.name.clone(), why });
    }
    if machine.cards.len() == plan.nics.len() && plan.nics.iter().zip(&machine.cards).all(same) {
        return Ok(());
    }
    let found = machine.cards.iter().map(|card| format!("{},{},{}", card.network, card.mac, card.driver));
    let found = printable(&found.collect::<Vec<_>>().join("; "), 200);
    let wanted = plan.nics.iter().map(Nic::word).collect::<Result<Vec<_>, _>>()?.join("; ");
    let why = format!("its cards are {found} and not {wanted}");
    Err(MinimegaError::Machine { machine: machine.name.clone(), why })
}

/// Starts machines and looks whether they run.
///
/// # Errors
/// [`MinimegaError::Machine`], and as [`Namespace::run`].
pub async fn start(namespace: &Namespace, names: &[String]) -> Result<Vec<Machine>, MinimegaError> {
    for name in names {
        namespace.run(&["vm", "start", name]).await?;
    }
    in_state(namespace, names, &State::Running).await
}

#[cfg(test)]
mod tests {
    use super::super::disk::Purpose;
    use super::super::wire::Message;
    use super::*;

    fn plan(kind: Kind) -> Plan {
        let nic = Nic {
            bridge: None,
            vlan: "LAN".to_owned(),
            mac: "52:54:00:00:01:01".to_owned(),
            driver: matches!(kind, Kind::Kvm { .. }).then(|| "e1000".to_owned()),
        };
        Plan { name: "client1".to_owned(), kind, memory_mib: 384, vcpus: 2, nics: vec![nic] }
    }

    fn kvm(boot: Boot) -> Plan {
        let ports = vec!["org.vptest.agent.0".to_owned()];
        plan(Kind::Kvm { boot, qemu: None, cpu: None, ports, snapshot: true, console: None, results: vec![] })
    }

    fn lines(plan: &Plan) -> Vec<String> {
        plan.configuration().unwrap().iter().map(|words| words.join(" ")).collect()
    }

    #[test]
    fn a_virtual_machine_is_configured_as_planned() {
        let boot =
            Boot::Kernel { kernel: "/k".into(), initrd: "/i".into(), arguments: vec!["quiet".into(), "a=b c".into()] };
        assert_eq!(
            lines(&kvm(boot)),
            [
                "vm config memory 384",
                "vm config vcpus 2",
                "vm config kernel /k",
                "vm config initrd /i",
                "vm config append quiet a=b c",
                "vm config virtio-ports org.vptest.agent.0",
                "vm config snapshot true",
                "vm config net LAN,52:54:00:00:01:01,e1000",
            ]
        );
    }

    /// There is one list of further arguments.
    #[test]
    fn a_console_and_a_results_disk_are_both_there() {
        let layer = |path: &str| vec![FirstLayer { path: path.to_owned(), purpose: Purpose::Files }];
        let mut machine = kvm(Boot::Disk("/d".into())).with_results(layer("/r"));
        let Kind::Kvm { console, .. } = &mut machine.kind else { unreachable!("it is one") };
        *console = Some("/c".into());
        let lines = lines(&machine);
        let further: Vec<&String> = lines.iter().filter(|line| line.starts_with("vm config qemu-append")).collect();
        let [line] = further.as_slice() else { panic!("{lines:?}") };
        assert!(line.starts_with("vm config qemu-append -serial file:/c -blockdev ") && line.contains("=/r -device "));
        let relative = kvm(Boot::Disk("/d".into())).with_results(layer("r"));
        assert!(matches!(relative.configuration(), Err(MinimegaError::Unsendable { .. })));
    }

    #[test]
    fn a_container_has_no_driver() {
        let container = |init, volumes| plan(Kind::Container { filesystem: "/fs".into(), init, volumes });
        let lines = |init, volumes| lines(&container(init, volumes));
        let given = lines(vec!["/bin/vptest".to_owned(), "agent".to_owned()], vec![("/v".to_owned(), "/w".to_owned())]);
        assert_eq!(given[4..6], ["vm config init /bin/vptest agent", "vm config volume /v /w"]);
        let lines = lines(vec![], vec![]);
        assert_eq!(
            lines[2..],
            ["vm config filesystem /fs", "vm config snapshot true", "vm config net LAN,52:54:00:00:01:01"]
        );
    }

    /// `vm config qemu kvm` becomes `/tmp/minimega/files/kvm`; `vm config net LAN,foo-net` the network foo-net of bridge LAN.
    #[test]
    fn what_minimega_would_take_for_something_else_is_not_sent() {
        let mut bad = vec![kvm(Boot::Disk("disk.qcow2".into())), kvm(Boot::Disk("/a,b".into()))];
        let mut relative = kvm(Boot::Disk("/d".into()));
        if let Kind::Kvm { qemu, .. } = &mut relative.kind {
            *qemu = Some("kvm".to_owned());
        }
        let mut comma = kvm(Boot::Disk("/d".into()));
        comma.nics[0].vlan = "LAN,foo-net".to_owned();
        let mut reserved = kvm(Boot::Disk("/d".into()));
        reserved.name = "all".to_owned();
        let contained = |filesystem: &str, volume: &str| {
            let volumes = vec![("/v".to_owned(), volume.to_owned())];
            plan(Kind::Container { filesystem: filesystem.to_owned(), init: vec![], volumes })
        };
        bad.extend([contained("fs", "/v"), contained("/a,b", "/v"), contained("/a:b", "/v"), contained("/fs", "/a:b")]);
        bad.extend([relative, comma, reserved]);
        for plan in bad {
            assert!(matches!(plan.configuration(), Err(MinimegaError::Unsendable { .. })), "{plan:?}");
        }
    }

    #[test]
    fn rows_are_read_by_name_and_errors_from_tags() {
        let text = r#"{"Resp":[{"Header":["name","new","state","id","tap","uuid","tags"],"Tabular":[
            ["a","x","ERROR","3","[mega_tap0, mega_tap1]","u","{\"error\":\"no disk\\n\"}"]],"Data":[{"Name":"a","Networks":[{"Driver":"e1000"}]}]}]}"#;
        let answer = Answer { responses: Message::parse(text.as_bytes()).unwrap().resp };
        let machine = Machine::all(&answer).unwrap().remove(0);
        assert_eq!((machine.id, &machine.state, machine.taps.len()), (3, &State::Error, 2));
        assert_eq!(
            (machine.error.as_deref(), machine.cards[0].driver.as_str(), machine.pid),
            (Some("no disk"), "e1000", None)
        );
        assert_eq!(machine.is_not(&State::Building).to_string(), "machine a: it is ERROR and not BUILDING: no disk");
    }

    #[test]
    fn a_card_that_became_another_is_found() {
        let wanted = kvm(Boot::Disk("/d".into()));
        let machine = |driver: &str, mac: &str, network: &str| Machine {
            id: 0,
            name: "client1".into(),
            host: "h".into(),
            state: State::Building,
            uuid: String::new(),
            error: None,
            taps: vec![],
            cards: vec![Card { driver: driver.into(), mac: mac.into(), network: network.into() }],
            bridge: String::new(),
            pid: None,
        };
        let mac = "52:54:00:00:01:01";
        check_cards(&wanted, &machine("e1000", mac, "LAN (101)")).unwrap();
        check_cards(&wanted, &machine("e1000", mac, "")).unwrap();
        for (driver, its_mac, network) in [
            ("virtio-net-pci", mac, "LAN (101)"),
            ("e1000", "52:54:00:00:01:02", "LAN (101)"),
            ("e1000", mac, "foo-net (102)"),
        ] {
            let error = check_cards(&wanted, &machine(driver, its_mac, network)).unwrap_err().to_string();
            let expected =
                format!("machine client1: its cards are {network},{its_mac},{driver} and not LAN,{mac},e1000");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn a_machine_says_its_host_and_its_networks() {
        assert_eq!(networks("[LAN (101), DMZ (102)]"), ["LAN (101)", "DMZ (102)"]);
        assert!(networks("[]").is_empty());
    }
}
