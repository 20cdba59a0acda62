//! `vptest flows` against the real tcptrace, on captures of real programs made here.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::campaign::VPTEST;
use super::need::{program, root};

/// Two network namespaces with a link between them, gone when this is dropped.
struct Link {
    names: [String; 2],
    children: Vec<Child>,
}

const SET_UP: &str = "\
link add c0 netns {c} type veth peer name s0 netns {s}
-n {c} addr add 10.78.0.1/24 dev c0
-n {s} addr add 10.78.0.2/24 dev s0
-n {c} addr add fd78::1/64 dev c0 nodad
-n {s} addr add fd78::2/64 dev s0 nodad
-n {c} link set c0 up
-n {s} link set s0 up";

impl Link {
    fn new() -> Self {
        let names = ["c", "s"].map(|end| format!("vpf{end}{}", std::process::id()));
        for name in &names {
            run(Command::new("ip").args(["netns", "add", name]));
        }
        let link = Self { names, children: Vec::new() };
        for line in SET_UP.lines() {
            let line = line.replace("{c}", &link.names[0]).replace("{s}", &link.names[1]);
            run(Command::new("ip").args(line.split(' ')));
        }
        link
    }

    fn command(&self, end: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[end], program]);
        command
    }

    /// Starts a program and waits for the line with which it says that it is ready.
    fn start(&mut self, mut command: Command, ready: &str, stderr: bool) -> usize {
        let (out, err) = if stderr { (Stdio::null(), Stdio::piped()) } else { (Stdio::piped(), Stdio::null()) };
        let mut child = command.stdout(out).stderr(err).spawn().expect("the program starts");
        let mut says: Box<dyn std::io::Read + Send> = match (child.stdout.take(), child.stderr.take()) {
            (Some(stdout), _) => Box::new(stdout),
            (None, stderr) => Box::new(stderr.expect("one of them is a pipe")),
        };
        let mut lines = BufReader::new(&mut says).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains(ready))), "never said {ready:?}");
        drop(lines);
        // What it says later must find a reader.
        std::thread::spawn(move || std::io::copy(&mut says, &mut std::io::sink()));
        self.children.push(child);
        self.children.len() - 1
    }

    /// Captures what `traffic` sends over the link.
    fn capture(&mut self, path: &Path, traffic: &mut Command) {
        let mut tcpdump = self.command(0, "tcpdump");
        tcpdump.args(["-U", "-i", "c0", "-s", "0", "-B", "65536", "-Z", "root", "-w"]).arg(path);
        let tcpdump = self.start(tcpdump, "listening on", true);
        run(traffic);
        let mut child = self.children.remove(tcpdump);
        let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).expect("it runs");
        child.wait().expect("it ends");
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Rows as printed, without comments and header; there must be some.
fn rows(command: &mut Command) -> Vec<String> {
    let output = command.output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let is_row = |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.starts_with("conn_#");
    let rows: Vec<String> = text.lines().filter(is_row).map(str::to_owned).collect();
    assert!(!rows.is_empty(), "{command:?}: no rows");
    rows
}

/// The same pcap file with an 802.1Q tag in every frame: not every kernel makes VLAN devices.
fn with_vlan_tags(capture: &[u8]) -> Vec<u8> {
    let (header, mut rest) = capture.split_at(24);
    let mut tagged = header.to_vec();
    while let Some((record, after)) = rest.split_first_chunk::<16>() {
        let length = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().expect("four bytes"));
        let (frame, after) = after.split_at(usize::try_from(length(8)).expect("small"));
        tagged.extend(&record[..8]);
        tagged.extend((length(8) + 4).to_le_bytes());
        tagged.extend((length(12) + 4).to_le_bytes());
        tagged.extend(&frame[..12]);
        tagged.extend([0x81, 0, 0, 7]);
        tagged.extend(&frame[12..]);
        rest = after;
    }
    tagged
}

#[test]
fn real_traffic_comes_out_as_tcptrace_has_it() {
    let needs = ["tcptrace", "tcpdump", "ab", "iperf3", "ip", "tc"];
    if !root() || !needs.map(program).iter().all(|&there| there) {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut link = Link::new();
    let mut server = link.command(1, VPTEST);
    server.args(["serve-http", "--listen", "10.78.0.2:80"]);
    link.start(server, "listening on", false);
    let mut server = link.command(1, "iperf3");
    server.args(["-s", "--forceflush"]);
    link.start(server, "listening on", false);

    let ab = |link: &Link, more: &[&str]| {
        let mut ab = link.command(0, "ab");
        ab.args(["-q", "-c", "4"]).args(more);
        ab
    };
    let iperf = |link: &Link, more: &[&str]| {
        let mut iperf = link.command(0, "iperf3");
        iperf.args(["-n", "4M", "-P", "3", "-c"]).args(more);
        iperf
    };
    let mut captures: Vec<(&str, PathBuf)> = Vec::new();
    let mut take = |link: &mut Link, name: &'static str, mut traffic: Command| {
        let path = directory.path().join(format!("{name}.pcap"));
        link.capture(&path, &mut traffic);
        captures.push((name, path));
    };
    let traffic = ab(&link, &["-n", "200", "http://10.78.0.2/"]);
    take(&mut link, "short", traffic);
    let traffic = ab(&link, &["-n", "200", "-k", "http://10.78.0.2/image.png?size=100kB"]);
    take(&mut link, "keep-alive", traffic);
    let traffic = iperf(&link, &["fd78::2"]);
    take(&mut link, "ipv6", traffic);
    let traffic = iperf(&link, &["10.78.0.2", "-R"]);
    take(&mut link, "reverse", traffic);
    // A queue far too short for the window: what does not fit is lost, after the capture.
    let mut queue = link.command(0, "tc");
    run(queue.args("qdisc add dev c0 root tbf rate 50mbit burst 70kb limit 70kb".split(' ')));
    let traffic = iperf(&link, &["10.78.0.2"]);
    take(&mut link, "lossy", traffic);

    let tagged = directory.path().join("vlan.pcap");
    std::fs::write(&tagged, with_vlan_tags(&std::fs::read(&captures[0].1).expect("was written"))).expect("written");
    captures.push(("vlan", tagged));

    for (name, path) in captures {
        let theirs = rows(Command::new("tcptrace").args(["-lnrW", "--csv"]).arg(&path));
        let ours = rows(Command::new(VPTEST).arg("flows").arg(&path));
        assert_eq!(theirs, ours, "{name}");
    }
}
