//! Physical nodes made of namespaces: each with its own network, processes, `/run`, and a real sshd; a control network for
//! ssh, and another one for the experiment. vptest runs in a namespace that has the control network only.

use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tokio::runtime::Runtime;
use vptest::host::cage::{Cage, Job};
use vptest::host::ethtool::{self, Offload};
use vptest::host::link;
use vptest::host::namespace::Namespace;
use vptest::host::netlink::Netlink;
use vptest::host::qdisc::{self, RootQdisc};
use vptest::node::local::Processes;
use vptest::node::{self, Process};

use super::super::campaign::{Campaign, Said, said};
use super::super::need;
use super::super::qemu::wait_until;

/// The interface of the experiment.
pub(super) const LINK: &str = "exp0";
const CONTROL: &str = "ctl0";
const CONTROL_INDEX: u32 = 20;
const LINK_INDEX: u32 = 21;
const BRIDGE: u32 = 10;
const PORTS: u32 = 100;
/// Where the switch is asked.
pub(super) const SWITCH: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 200);

/// What a lab needs of this machine.
pub(super) fn tools() -> bool {
    need::root() && ["ssh", "sshd", "ssh-keygen", "unshare", "setpriv", "ab"].iter().all(|name| need::program(name))
}

/// How a node differs from the usual one.
#[derive(Clone, Copy)]
pub(super) struct Kind<'a> {
    /// Bytes that its `/run` takes, where everything goes that is copied to it.
    pub(super) room: &'a str,
    /// Stands for the shell of whoever logs in: a line of sh that finds the command in `SSH_ORIGINAL_COMMAND`.
    pub(super) login: Option<&'a str>,
}

impl Default for Kind<'_> {
    fn default() -> Self {
        Self { room: "512m", login: None }
    }
}

/// A host with an sshd.
pub(super) struct PhysicalNode {
    pub(super) namespace: Arc<Namespace>,
    directory: PathBuf,
    control: Ipv4Addr,
    address: Ipv4Addr,
    alive: Option<(Arc<Processes>, Box<dyn Process>)>,
}

/// See the module.
pub(super) struct Lab {
    directory: tempfile::TempDir,
    coordinator: Namespace,
    /// The experiment's switch.
    switch: Namespace,
    pub(super) nodes: Vec<PhysicalNode>,
    runtime: Runtime,
}

/// MTU, offloads, root queueing discipline and a kernel parameter of a node.
pub(super) type State = (Option<u32>, [bool; 4], RootQdisc, String);

/// The kernel parameter.
pub(super) const PARAMETER: &str = "net.ipv4.tcp_congestion_control";

impl Lab {
    /// With a client and a server.
    pub(super) fn new() -> Self {
        Self::with(&[Kind::default(), Kind::default()])
    }

    /// With these nodes: clients and servers by turns.
    pub(super) fn with(kinds: &[Kind<'_>]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        keygen(&directory.path().join("user"));
        let (coordinator, switch) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        for namespace in [&coordinator, &switch] {
            within(namespace).apply(&[link::up("lo", link::LOOPBACK), link::bridge("bridge", BRIDGE, None)]).unwrap();
        }
        within(&coordinator).apply(&[link::address("bridge", BRIDGE, Ipv4Addr::new(10, 99, 0, 1))]).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut lab = Self { directory, coordinator, switch, nodes: Vec::new(), runtime };
        for (number, kind) in (2..).zip(kinds) {
            let node = lab.make(number, *kind);
            lab.nodes.push(node);
        }
        lab
    }

    fn make(&self, number: u8, kind: Kind<'_>) -> PhysicalNode {
        let namespace = Arc::new(Namespace::new().unwrap());
        let (control, address) = (Ipv4Addr::new(10, 99, 0, number), Ipv4Addr::new(10, 98, 0, number));
        let networks =
            [(&self.coordinator, CONTROL, CONTROL_INDEX, control), (&self.switch, LINK, LINK_INDEX, address)];
        for (to, name, index, address) in networks {
            let port = format!("port{number}");
            let end =
                link::End { name: &port, index: PORTS + u32::from(number), namespace: None, bridge: Some(BRIDGE) };
            let other = link::End { name, index, namespace: Some(&*namespace), bridge: None };
            within(to).apply(&[link::veth(end, other, None)]).unwrap();
            within(&namespace).apply(&[link::address(name, index, address), link::up(name, index)]).unwrap();
        }
        within(&namespace).apply(&[link::up("lo", link::LOOPBACK)]).unwrap();
        let directory = self.directory.path().join(format!("node{number}"));
        std::fs::create_dir(&directory).unwrap();
        keygen(&directory.join("host"));
        let force = kind.login.map_or_else(String::new, |login| {
            let path = directory.join("login");
            script(&path, login);
            format!("ForceCommand {}\n", path.display())
        });
        let (place, keys) = (directory.display(), self.directory.path().display());
        let config = format!(
            "Port 22\nListenAddress {control}\nHostKey {place}/host\nAuthorizedKeysFile {keys}/user.pub\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nMaxSessions 10\n\
             KbdInteractiveAuthentication no\nPidFile none\nUseDNS no\nSetEnv TMPDIR=/run/tmp\n{force}"
        );
        std::fs::write(directory.join("config"), config).unwrap();
        // Own mounts, so that what vptest writes below /run and to its TMPDIR is the node's and goes with it, and nobody's
        // `.bashrc` on this machine has a say.
        let run = format!(
            "hostname node{number} && mount -t proc none /proc && mount -t tmpfs -o size={} none /run && mount -t tmpfs none ~root && mount -t tmpfs none /dev/shm && mkdir -p /run/sshd /run/tmp && \
             chmod 1777 /run/tmp && exec \"$(command -v sshd)\" -D -e -f {place}/config",
            kind.room
        );
        script(&directory.join("boot"), &run);
        let mut node = PhysicalNode { namespace, directory, control, address, alive: None };
        self.boot(&mut node);
        node
    }

    /// Switches on one of the nodes; it has forgotten its settings, as hosts do.
    pub(super) fn switch_on(&mut self, at: usize) {
        let mut node = self.nodes.remove(at);
        let mut netlink = within(&node.namespace);
        let roots = qdisc::read_roots(&mut netlink).unwrap();
        if roots.iter().any(|root| root.index == LINK_INDEX && !root.own) {
            netlink.apply(&[qdisc::remove_root(LINK_INDEX, LINK)]).unwrap();
        }
        netlink.apply(&[link::mtu(LINK, LINK_INDEX, 1500)]).unwrap();
        self.boot(&mut node);
        self.nodes.insert(at, node);
    }

    fn boot(&self, node: &mut PhysicalNode) {
        let boot = node.directory.join("boot");
        let argv = ["unshare", "--mount", "--uts", boot.to_str().unwrap()].map(str::to_owned).to_vec();
        let command = node::Command { argv, ..node::Command::default() };
        let job = Job { command, directory: node.directory.clone(), namespace: Some(Arc::clone(&node.namespace)) };
        let begun = self.runtime.block_on(async {
            let processes = Arc::new(Processes::new(Cage::open()?));
            let sshd = processes.spawn(job).await?;
            io::Result::Ok((processes, sshd))
        });
        node.alive = Some(begun.unwrap());
        let address = std::net::SocketAddr::from((node.control, 22));
        wait_until("sshd", || self.coordinator.run(|| std::net::TcpStream::connect(address)).is_ok());
    }

    /// Kills everything on a node at once: sshd, agents and what they started.
    pub(super) fn switch_off(&mut self, at: usize) {
        if let Some((processes, _)) = self.nodes[at].alive.take() {
            self.runtime.block_on(processes.close()).unwrap();
        }
    }

    /// Takes a node's end of the control network, and of the experiment's, down or up.
    pub(super) fn cable(&self, at: usize, name: &str, plugged: bool) {
        let index = if name == LINK { LINK_INDEX } else { CONTROL_INDEX };
        let change = if plugged { link::up(name, index) } else { vptest::host::setup::down(name, index) };
        within(&self.nodes[at].namespace).apply(&[change]).unwrap();
    }

    /// Cuts a node off from vptest.
    pub(super) fn cut(&self, at: usize) {
        self.cable(at, CONTROL, false);
    }

    /// Undoes [`Lab::cut`].
    pub(super) fn plug(&self, at: usize) {
        self.cable(at, CONTROL, true);
    }

    /// Has a node send what vptest gets at 200 kbit/s, or at full speed again.
    pub(super) fn slow(&self, at: usize, slow: bool) {
        let words: &[&str] = match slow {
            true => &["replace", "dev", CONTROL, "root", "tbf", "rate", "200kbit", "burst", "10kb", "latency", "500ms"],
            false => &["replace", "dev", CONTROL, "root", "pfifo"],
        };
        let mut command = Command::new("tc");
        command.arg("qdisc").args(words);
        let status = self.nodes[at].namespace.run(move || command.status()).unwrap();
        assert!(status.success(), "tc qdisc {words:?}");
    }

    /// ssh as it gets to the nodes.
    pub(super) fn ssh(&self) -> String {
        let directory = self.directory.path().display();
        format!(
            "ssh -F none -i {directory}/user -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={directory}/known"
        )
    }

    /// Runs a command in the network that reaches the nodes.
    pub(super) fn spawn(&self, mut command: Command) -> Child {
        self.coordinator.run(move || command.spawn()).unwrap()
    }

    /// `[testbed.physical]` with all nodes.
    pub(super) fn nodes_text(&self) -> String {
        let key = |node: &PhysicalNode| public(&node.directory.join("host.pub"));
        self.nodes_with(key)
    }

    /// The same with other host keys.
    pub(super) fn nodes_with(&self, key: impl Fn(&PhysicalNode) -> String) -> String {
        let identity = self.directory.path().join("user");
        let mut text = format!("[testbed.physical]\nuser = \"root\"\nidentity = \"{}\"\n", identity.display());
        for (number, node) in self.nodes.iter().enumerate() {
            let role = if number % 2 == 0 { "client" } else { "server" };
            text += &format!(
                "[[testbed.physical.nodes]]\nhost = \"{}\"\nrole = \"{role}\"\naddress = \"{}\"\nhost_key = \"{}\"\n",
                node.control,
                node.address,
                key(node)
            );
        }
        text
    }

    /// `[testbed.physical]` with clients and servers exchanged.
    pub(super) fn exchanged(&self, spec: &str) -> String {
        let spec = spec.replace("role = \"client\"", "role = \"-\"");
        spec.replace("role = \"server\"", "role = \"client\"").replace("role = \"-\"", "role = \"server\"")
    }

    /// Has the switch answer to SNMP at [`SWITCH`] with this community. Its port to node `n` (from 2) has the number 100 + `n`.
    pub(super) fn snmpd(&self, community: &str) -> Running {
        let end = |name, index, bridge| link::End { name, index, namespace: None, bridge };
        let other = link::End { namespace: Some(&self.switch), ..end("manage0", 50, None) };
        within(&self.coordinator).apply(&[link::veth(end("switch", 51, Some(BRIDGE)), other, None)]).unwrap();
        let manage = [link::address("manage0", 50, SWITCH), link::up("manage0", 50)];
        within(&self.switch).apply(&manage).unwrap();
        let config = self.directory.path().join("snmpd.conf");
        std::fs::write(&config, format!("rocommunity {community}\n")).unwrap();
        let mut command = Command::new("snmpd");
        command.args(["-f", "-Ln", "-C", "-c"]).arg(&config).arg(format!("udp:{SWITCH}:161"));
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("SNMP_PERSISTENT_DIR", self.directory.path());
        let running = Running(Some(self.switch.run(move || command.spawn()).unwrap()));
        let address = SWITCH.to_string();
        let ask = ["-v2c", "-c", community, "-t", "1", "-r", "0", &address, ".1.3.6.1.2.1.1.3.0"];
        wait_until("the switch's answer", || {
            let mut command = Command::new("snmpget");
            command.args(ask).stdout(Stdio::null()).stderr(Stdio::null());
            self.coordinator.run(move || command.status()).unwrap().success()
        });
        running
    }

    /// The key that vptest logs in with, which is no host's.
    pub(super) fn other_key(&self) -> String {
        public(&self.directory.path().join("user.pub"))
    }

    /// A planned sweep over these factors.
    pub(super) fn sweep(&self, factors: &str, more: &str) -> Campaign {
        Campaign::planned(&self.spec(factors, more))
    }

    /// Its spec.
    pub(super) fn spec(&self, factors: &str, more: &str) -> String {
        Self::spec_of(&self.nodes_text(), factors, more)
    }

    /// The spec of a sweep over these factors on these nodes.
    pub(super) fn spec_of(nodes: &str, factors: &str, more: &str) -> String {
        // Other tests keep this host, and so all nodes, busy.
        format!(
            "name = \"physical\"\nrepetitions = 1\ntimeout = \"120 s\"\norder = \"sequential\"\n\n\
             [factors]\ntestbed = \"physical\"\n{factors}\n\n[workload]\npreset = \"ab\"\n\n\
             [verify]\nforeign_cpu = \"off\"\nsteal = \"off\"\nclient_cpu = \"off\"\n\n{nodes}\n{more}"
        )
    }

    /// Starts `vptest run`.
    pub(super) fn start(&self, campaign: &Campaign) -> Running {
        let mut command = campaign.command(&["run"]);
        command.env("HOME", campaign.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        Running(Some(self.coordinator.run(move || command.spawn()).unwrap()))
    }

    /// Starts `vptest run` and waits until the workload of an iteration runs.
    pub(super) fn begin(&self, campaign: &Campaign) -> Running {
        let mut running = self.start(campaign);
        let marks = campaign.out().join(".running");
        wait_until("the workload", || {
            running.assert_alive(campaign);
            let marks = std::fs::read_dir(&marks).into_iter().flatten().flatten();
            let mut texts = marks.map(|mark| std::fs::read_to_string(mark.path()).unwrap_or_default());
            texts.any(|text| text.contains("workload"))
        });
        running
    }

    /// Runs what is to be run, which must end with this status.
    pub(super) fn run(&self, campaign: &Campaign, code: i32) -> Said {
        self.run_with(campaign, code, &["run"])
    }

    /// The same with these arguments.
    pub(super) fn run_with(&self, campaign: &Campaign, code: i32, arguments: &[&str]) -> Said {
        let mut command = campaign.command(arguments);
        command.env("HOME", campaign.path());
        let said = said(self.coordinator.run(move || command.output()).unwrap());
        assert_eq!(said.code, Some(code), "{}{}{:?}", said.out, said.err, campaign.outcomes());
        said
    }
}

/// A vptest that runs; killed when the test ends before it does.
pub(super) struct Running(Option<Child>);

impl Running {
    fn assert_alive(&mut self, campaign: &Campaign) {
        let ended = self.0.as_mut().unwrap().try_wait().unwrap();
        assert!(ended.is_none(), "vptest ended early: {:?}", campaign.outcomes());
    }

    /// Waits for its end, which must be with this status.
    pub(super) fn end(mut self, code: i32) -> Said {
        let said = said(self.0.take().unwrap().wait_with_output().unwrap());
        assert_eq!(said.code, Some(code), "{}", said.err);
        said
    }

    /// Stops it, so that it notices nothing.
    pub(super) fn stop(&self) {
        let pid = self.0.as_ref().map(|child| i32::try_from(child.id()).unwrap()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
    }

    /// Kills it.
    pub(super) fn kill(mut self) {
        kill(self.0.take());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        kill(self.0.take());
    }
}

fn kill(child: Option<Child>) {
    if let Some(mut child) = child {
        // It may have ended by itself.
        let _ = child.kill();
        child.wait().unwrap();
    }
}

impl PhysicalNode {
    /// Kills the agent on it, as SIGKILL does; what it had started goes with it.
    pub(super) fn kill_agent(&self) {
        let mut killed = 0;
        for pid in self.processes() {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if ["--stdio", "--mailbox"].iter().any(|way| line.contains(&format!("\0agent\0{way}\0"))) {
                // A shell or ssh's server with the same words may have ended with another one of them.
                let sent = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
                killed += usize::from(sent.is_ok());
            }
        }
        assert!(killed > 0, "no agent runs there");
    }

    /// Where ssh gets to it.
    pub(super) fn control(&self) -> String {
        format!("root@{}", self.control)
    }

    /// What is in a directory of the node's; `None` when it is not there.
    pub(super) fn list(&self, directory: &str) -> Option<Vec<String>> {
        let pid = self.processes().into_iter().next()?;
        let entries = std::fs::read_dir(format!("/proc/{pid}/root{directory}")).ok()?;
        Some(entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
    }

    /// Words of the processes on it.
    pub(super) fn command_lines(&self) -> Vec<String> {
        let line = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        self.processes().into_iter().map(|pid| line(pid).replace('\0', " ")).collect()
    }

    /// Has vptest written down there what it is to put back?
    pub(super) fn owes(&self) -> bool {
        let pid = self.processes().into_iter().next();
        pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}/root/run/vptest/{LINK}.json")).exists())
    }

    /// Gives the interface of the experiment one more address.
    pub(super) fn add_address(&self, address: Ipv4Addr) {
        within(&self.namespace).apply(&[link::address(LINK, LINK_INDEX, address)]).unwrap();
    }

    /// Sends what goes to `to` through the control network, to its neighbour `via` there.
    pub(super) fn detour(&self, to: Ipv4Addr, via: Ipv4Addr) {
        within(&self.namespace).apply(&[vptest::host::setup::route(Some((to.into(), 32)), via.into())]).unwrap();
    }

    /// Its own addresses in the control network and in that of the experiment.
    pub(super) fn addresses(&self) -> (Ipv4Addr, Ipv4Addr) {
        (self.control, self.address)
    }

    /// Is nothing there that vptest copied or wrote?
    pub(super) fn is_empty(&self) -> bool {
        let Some(pid) = self.processes().into_iter().next() else { return false };
        let left = std::fs::read_dir(format!("/proc/{pid}/root/run/tmp"));
        left.is_ok_and(|mut left| left.next().is_none())
    }

    /// Begins a command that is to run on it.
    pub(super) fn enter(&self) -> Vec<String> {
        let is_server = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "sshd")
        };
        let server = self.processes().into_iter().find(is_server).expect("it has been booted");
        ["nsenter", "--target", &server.to_string(), "--mount", "--net", "--pid", "--"].map(str::to_owned).to_vec()
    }

    /// Its address in the experiment.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Sends a signal to the workers of a campaign on it; says to how many.
    pub(super) fn signal_workers(&self, signal: nix::sys::signal::Signal) -> usize {
        let is_worker = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|&byte| byte == 0);
            words.any(|word| word == b"worker") && words.any(|word| word == b"--place")
        };
        let workers = self.processes().into_iter().filter(is_worker);
        // One may have ended by itself.
        workers.filter(|&pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).is_ok()).count()
    }

    /// Has the home of its users hold no more than it does, or as much as anybody wants.
    pub(super) fn fill_home(&self, full: bool) {
        wait_until("a home of that size", || {
            let Some(pid) = self.processes().into_iter().next() else { return true };
            let target = pid.to_string();
            let home = format!("/proc/{pid}/root/root");
            // That process may have ended by now.
            let Ok(held) = nix::sys::statvfs::statvfs(home.as_str()) else { return false };
            let bytes = (held.blocks() - held.blocks_free()) * held.fragment_size();
            // More may be written before the kernel looks, which then refuses.
            let size = if full { (bytes + (64 << 10)).to_string() } else { "50%".to_owned() };
            let remount = format!("mount -o remount,size={size} none /root");
            let enter = ["--mount", "--target", &target, "sh", "-c", &remount];
            Command::new("nsenter").args(enter).stderr(Stdio::null()).status().unwrap().success()
        });
    }

    /// Process numbers of what runs in its network.
    fn processes(&self) -> Vec<i32> {
        let namespace = format!("net:[{}]", self.namespace.inode().unwrap());
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let here = all.filter(|entry| {
            std::fs::read_link(entry.path().join("ns/net")).is_ok_and(|net| net == Path::new(&namespace))
        });
        here.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Its settings, as they are now.
    pub(super) fn state(&self) -> State {
        let read = || {
            let mut netlink = Netlink::open()?;
            let listed = link::read_interfaces(&mut netlink).map_err(io::Error::other)?;
            let mtu = listed.into_iter().find(|interface| interface.index == LINK_INDEX).and_then(|one| one.mtu);
            let offloads = ethtool::offloads(&netlink, LINK)?;
            let roots = qdisc::read_roots(&mut netlink).map_err(io::Error::other)?;
            let root = roots.into_iter().find(|root| root.index == LINK_INDEX).ok_or(io::ErrorKind::NotFound)?;
            let parameter = std::fs::read_to_string(format!("/proc/sys/{}", PARAMETER.replace('.', "/")))?;
            Ok((mtu, Offload::ALL.map(|offload| offloads.is_on(offload)), root, parameter.trim().to_owned()))
        };
        self.namespace.run(read).unwrap()
    }

    /// Not all offloads alike, so that switching all on or all off is not the way back.
    pub(super) fn mix(&self) {
        let mix = || {
            let netlink = Netlink::open()?;
            ethtool::set_offloads(&netlink, LINK, &[Offload::Gro], true)?;
            ethtool::set_offloads(&netlink, LINK, &[Offload::Tso], false)
        };
        self.namespace.run(mix).unwrap();
    }
}

fn within(namespace: &Namespace) -> Netlink {
    namespace.run(Netlink::open).unwrap()
}

fn keygen(path: &Path) {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
    assert!(made.unwrap().success());
}

/// Type and key.
fn public(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap().split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Writes a script of sh.
pub(super) fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}
