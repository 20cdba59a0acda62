//! What QEMU is started with. Pure.

use std::path::PathBuf;
use std::sync::Arc;

use crate::ids::{NodeId, Role};
use crate::image::Bundle;
use crate::spec::Tuple;
use crate::units::ByteSize;

/// Name of the virtio-serial port that the guest's agent answers on.
pub(super) const AGENT_PORT: &str = "org.vptest.agent.0";
/// Serial of the disk that results are written to.
pub(super) const RESULTS_SERIAL: &str = "vptest-results";
/// Memory of a guest whose tuple does not say.
pub(super) const DEFAULT_MEMORY: ByteSize = ByteSize(384 << 20);

/// Type of the virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::testbed) enum Machine {
    /// The PC of 1996, with PCI.
    Pc,
    /// The PC of 2009, with PCI Express.
    Q35,
    /// Virtio devices without PCI.
    Microvm,
}

impl Machine {
    pub(super) fn of(tuple: &Tuple) -> Self {
        match tuple.get("machine").map(ToString::to_string).as_deref() {
            Some("pc") => Self::Pc,
            Some("microvm") => Self::Microvm,
            // The spec accepts nothing else.
            _ => Self::Q35,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Pc => "pc",
            Self::Q35 => "q35",
            Self::Microvm => "microvm",
        }
    }

    /// The network card of a tuple that names none.
    pub(super) const fn default_driver(self) -> &'static str {
        match self {
            Self::Pc | Self::Q35 => "virtio-net-pci",
            Self::Microvm => "virtio-net-device",
        }
    }

    /// QEMU's word for the bus that its cards are on, as `-device help` prints it.
    pub(super) const fn bus(self) -> &'static str {
        match self {
            Self::Pc | Self::Q35 => "PCI",
            Self::Microvm => "virtio-bus",
        }
    }

    /// Its options: nothing that only takes time to boot.
    const fn options(self) -> &'static str {
        match self {
            Self::Pc | Self::Q35 => "usb=off,graphics=off,vmport=off",
            // Its devices are found through ACPI: Debian's kernel takes none from its command line.
            Self::Microvm => "acpi=on,x-option-roms=off,isa-serial=on,rtc=on,auto-kernel-cmdline=off",
        }
    }

    /// A virtio device as this machine has it: `virtio-serial` is `virtio-serial-pci` or `virtio-serial-device`.
    fn virtio(self, device: &str) -> String {
        match self {
            Self::Pc | Self::Q35 => format!("{device}-pci"),
            Self::Microvm => format!("{device}-device"),
        }
    }
}

/// What runs the guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Accel {
    /// The processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Accel {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    const fn default_cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "max",
        }
    }
}

/// All guests of an iteration are alike in this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hardware {
    pub(super) machine: Machine,
    pub(super) accel: Accel,
    /// QEMU's name of the network card.
    pub(super) driver: String,
    pub(super) vcpus: u32,
    pub(super) memory: ByteSize,
    /// `None` for what suits the accelerator.
    pub(super) cpu: Option<String>,
    /// The user's own, put last.
    pub(super) arguments: Vec<String>,
}

impl Hardware {
    /// The CPU model in force.
    pub(super) fn cpu(&self) -> &str {
        self.cpu.as_deref().unwrap_or(self.accel.default_cpu())
    }
}

/// What a guest boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Boot {
    /// A kernel with vptest as its first process.
    Kernel {
        /// Path of the kernel.
        kernel: String,
        /// Path of the initramfs.
        initramfs: String,
        /// Kernel arguments that every guest gets.
        arguments: String,
    },
    /// A disk of the user's, which stays as it is.
    Disk {
        /// Path.
        path: String,
        /// `qcow2` or `raw`.
        format: String,
        /// How its ssh server is logged in to; `None` for a disk whose system starts the agent itself.
        login: Option<Login>,
    },
}

impl Boot {
    pub(super) const fn login(&self) -> Option<&Login> {
        match self {
            Self::Disk { login, .. } => login.as_ref(),
            Self::Kernel { .. } => None,
        }
    }
}

/// A login in a disk of the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    /// Private key; `None` for those that ssh finds.
    pub(super) identity: Option<PathBuf>,
    /// The key the guest must show; `None` for any.
    pub(super) host_key: Option<String>,
    /// The vptest that is copied into the guest.
    pub(super) program: Arc<Bundle>,
}

/// Files of a guest, in QEMU's working directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) agent: String,
    pub(super) qmp: String,
    /// Written by vptest, which reads it from QEMU.
    pub(super) console: String,
    pub(super) results: String,
}

impl Files {
    pub(super) fn of(node: &str) -> Self {
        let file = |kind: &str| format!("{node}.{kind}");
        Self { agent: file("agent"), qmp: file("qmp"), console: file("console"), results: file("results") }
    }
}

/// A guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GuestPlan {
    pub(super) name: String,
    /// The tap that its network card is plugged into, and the card's MAC address; `None` for a guest without one.
    pub(super) card: Option<(String, String)>,
    /// A second card, for ssh alone.
    pub(super) management: Option<Management>,
}

/// A network of the guest's own, inside QEMU, from which it reaches nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Management {
    /// TCP port of 127.0.0.1, in the namespace QEMU runs in, that leads to port 22 of the guest.
    pub(super) port: u16,
    pub(super) mac: String,
}

impl Management {
    pub(super) fn of(node: NodeId) -> Self {
        let (pair, role) = pair_and_role(node);
        let [high, low] = pair.to_be_bytes();
        // Two guests for each of at most 255 pairs.
        let port = 20_000 + pair.saturating_mul(2).saturating_add(u16::from(role));
        Self { port, mac: format!("52:54:00:{high:02x}:{low:02x}:{:02x}", 0x10 + role) }
    }
}

/// MAC address of a guest's network card: `52:54:00:PP:PP:RR` with pair and role, 1 for the client and 2 for the server.
pub(in crate::testbed) fn mac(node: NodeId) -> String {
    let (pair, role) = pair_and_role(node);
    let [high, low] = pair.to_be_bytes();
    format!("52:54:00:{high:02x}:{low:02x}:{role:02x}")
}

fn pair_and_role(node: NodeId) -> (u16, u8) {
    let role = match node.role {
        Role::Client => 1,
        Role::Server | Role::Router(_) => 2,
    };
    let [_, _, high, low] = node.pair.to_be_bytes();
    (u16::from_be_bytes([high, low]), role)
}

/// The whole argument vector. The guest's console is QEMU's standard output.
pub(super) fn arguments(hardware: &Hardware, boot: &Boot, files: &Files, guest: &GuestPlan) -> Vec<String> {
    let machine = hardware.machine;
    let mut arguments = Arguments(vec![super::PROGRAM.to_owned()]);
    arguments
        .flag("-nodefaults")
        .flag("-no-user-config")
        .flag("-no-reboot")
        .with("-display", "none")
        .with("-name", &guest.name)
        .with("-machine", &format!("{},{}", machine.as_str(), machine.options()))
        .with("-accel", hardware.accel.as_str())
        .with("-cpu", hardware.cpu())
        .with("-smp", &hardware.vcpus.to_string())
        .with("-m", &format!("{}M", hardware.memory.0.div_ceil(1 << 20)))
        .with("-chardev", "stdio,id=console,signal=off")
        .with("-serial", "chardev:console")
        .with("-chardev", &format!("socket,id=qmp,path={},server=on,wait=off", files.qmp))
        .with("-mon", "chardev=qmp,mode=control")
        .with("-chardev", &format!("socket,id=agent,path={},server=on,wait=off", files.agent))
        .with("-device", &format!("{},id=ports", machine.virtio("virtio-serial")))
        .with("-device", &format!("virtserialport,bus=ports.0,chardev=agent,name={AGENT_PORT}"))
        .with("-device", &machine.virtio("virtio-rng"));
    arguments.boot(machine, boot, &guest.name);
    arguments
        .with("-blockdev", &format!("driver=raw,node-name=results,file.driver=file,file.filename={}", files.results))
        .with("-device", &format!("{},drive=results,serial={RESULTS_SERIAL}", machine.virtio("virtio-blk")));
    if let Some((tap, mac)) = &guest.card {
        arguments
            .with("-netdev", &format!("tap,id=net0,ifname={tap},script=no,downscript=no,vhost=off"))
            .with("-device", &format!("{},id=card0,netdev=net0,mac={mac}{}", hardware.driver, card_options(machine)));
    }
    if let Some(Management { port, mac }) = &guest.management {
        let device = machine.default_driver();
        arguments
            .with("-netdev", &format!("user,id=net1,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:{port}-:22"))
            .with("-device", &format!("{device},id=card1,netdev=net1,mac={mac}{}", card_options(machine)));
    }
    arguments.0.extend_from_slice(&hardware.arguments);
    arguments.0
}

/// A card on PCI would have its boot ROM loaded, and searched for something to boot.
const fn card_options(machine: Machine) -> &'static str {
    match machine {
        Machine::Pc | Machine::Q35 => ",romfile=",
        Machine::Microvm => "",
    }
}

struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.to_owned());
        self
    }

    fn with(&mut self, flag: &str, value: &str) -> &mut Self {
        self.0.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    fn boot(&mut self, machine: Machine, boot: &Boot, name: &str) {
        match boot {
            Boot::Kernel { kernel, initramfs, arguments } => {
                let line = format!("{arguments} vptest.node={name} -- agent --init");
                self.with("-kernel", kernel).with("-initrd", initramfs).with("-append", &line);
            }
            Boot::Disk { path, format, login: _ } => {
                // Commas are doubled in values (qemu(1)).
                let path = path.replace(',', ",,");
                self.with("-drive", &format!("file={path},format={format},if=none,id=disk,snapshot=on"))
                    .with("-device", &format!("{},drive=disk,bootindex=0", machine.virtio("virtio-blk")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hardware(machine: Machine, accel: Accel) -> Hardware {
        Hardware {
            machine,
            accel,
            driver: machine.default_driver().to_owned(),
            vcpus: 2,
            memory: DEFAULT_MEMORY,
            cpu: None,
            arguments: vec!["-d".to_owned(), "int".to_owned()],
        }
    }

    fn line(machine: Machine, accel: Accel, boot: &Boot) -> String {
        let node = NodeId::client(1);
        let guest = GuestPlan {
            name: "client1".to_owned(),
            card: Some(("c1".to_owned(), mac(node))),
            management: boot.login().map(|_| Management::of(node)),
        };
        arguments(&hardware(machine, accel), boot, &Files::of("client1"), &guest).join(" ")
    }

    fn kernel() -> Boot {
        Boot::Kernel { kernel: "/k".to_owned(), initramfs: "/i".to_owned(), arguments: "quiet".to_owned() }
    }

    #[test]
    fn a_guest_has_what_was_asked_for() {
        let line = line(Machine::Q35, Accel::Tcg, &kernel());
        for part in [
            "-machine q35,",
            "-accel tcg -cpu max -smp 2 -m 384M",
            "-kernel /k -initrd /i -append quiet vptest.node=client1 -- agent --init",
            "virtserialport,bus=ports.0,chardev=agent,name=org.vptest.agent.0",
            "tap,id=net0,ifname=c1,script=no,downscript=no,vhost=off",
            "virtio-net-pci,id=card0,netdev=net0,mac=52:54:00:00:01:01,romfile=",
            "virtio-blk-pci,drive=results,serial=vptest-results",
        ] {
            assert!(line.contains(part), "no `{part}` in {line}");
        }
        assert!(line.ends_with(" -d int"), "the user's own come last: {line}");
    }

    #[test]
    fn a_microvm_has_nothing_on_pci() {
        let line = line(Machine::Microvm, Accel::Kvm, &kernel());
        assert!(!line.contains("pci") && !line.contains("romfile"), "{line}");
        assert!(line.contains("-accel kvm -cpu host"), "{line}");
        assert!(line.contains("virtio-net-device,id=card0,netdev=net0"), "{line}");
    }

    #[test]
    fn a_disk_of_the_users_is_not_written_to() {
        let boot = Boot::Disk { path: "/a,b.qcow2".to_owned(), format: "qcow2".to_owned(), login: None };
        let line = line(Machine::Pc, Accel::Tcg, &boot);
        assert!(!line.contains("user,"), "{line}");
        assert!(line.contains("file=/a,,b.qcow2,format=qcow2,if=none,id=disk,snapshot=on"), "{line}");
        assert!(!line.contains("-kernel"), "{line}");
    }

    #[test]
    fn a_guest_behind_ssh_has_a_second_card_after_the_first() {
        let login = Login {
            user: "root".to_owned(),
            identity: None,
            host_key: None,
            program: Arc::new(Bundle { tar: vec![] }),
        };
        let boot = Boot::Disk { path: "/d".to_owned(), format: "raw".to_owned(), login: Some(login) };
        let line = line(Machine::Pc, Accel::Tcg, &boot);
        let second = "-netdev user,id=net1,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:20003-:22 \
                      -device virtio-net-pci,id=card1,netdev=net1,mac=52:54:00:00:01:11,romfile=";
        assert!(line.find("id=card0").unwrap() < line.find(second).expect(&line), "{line}");
        assert_eq!(Management::of(NodeId::server(255)).port, 20_512);
    }

    #[test]
    fn addresses_tell_pairs_and_roles_apart() {
        assert_eq!(mac(NodeId::client(1)), "52:54:00:00:01:01");
        assert_eq!(mac(NodeId::server(1)), "52:54:00:00:01:02");
        assert_eq!(mac(NodeId::client(300)), "52:54:00:01:2c:01");
    }
}
