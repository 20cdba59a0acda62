//! Captures of the double. A bridge numbers them by how many there are, whichever namespaces they are of; those of real machines
//! are taken by tcpdump, and lose what minimega's lose.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::double::{Namespace, Shared, done, error, table};

/// Length of a pcap file's header, and of a packet's.
const HEADERS: (usize, usize) = (24, 16);

/// What a namespace knows of a capture.
pub(super) struct Capture {
    bridge: String,
    id: usize,
    interface: String,
    path: PathBuf,
}

/// Captures that go on.
#[derive(Default)]
pub(super) struct Writers {
    by_bridge: BTreeMap<String, BTreeMap<usize, Writer>>,
    /// Those whose numbers were given to others: nobody can stop them.
    lost: Vec<Writer>,
}

enum Writer {
    /// Of a machine that there is not.
    Nothing(PathBuf),
    Tcpdump {
        child: Child,
        _said: BufReader<ChildStderr>,
        path: PathBuf,
        since: SystemTime,
    },
}

impl Writers {
    fn start(&mut self, bridge: &str, writer: Writer) -> usize {
        let writers = self.by_bridge.entry(bridge.to_owned()).or_default();
        let id = writers.len();
        self.lost.extend(writers.insert(id, writer));
        id
    }

    /// `lost` says whether the last second of it had a packet that is of no machine.
    fn stop(&mut self, capture: &Capture, lost: bool) -> Result<(), String> {
        let writers = self.by_bridge.entry(capture.bridge.clone()).or_default();
        let writer = writers.remove(&capture.id).ok_or_else(|| format!("unknown capture ID: {}", capture.id))?;
        writer.end(lost);
        Ok(())
    }
}

impl Drop for Writer {
    /// One that nobody has stopped ends with the double.
    fn drop(&mut self) {
        if let Self::Tcpdump { child, .. } = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Writer {
    fn tcpdump(tap: &str, snaplen: u32, filter: &str, path: &Path) -> Result<Self, String> {
        let mut command = Command::new("tcpdump");
        command.args(["-Z", "root", "-U", "--immediate-mode", "-i", tap, "-s", &snaplen.to_string(), "-w"]).arg(path);
        if !filter.is_empty() {
            command.arg(filter);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| error.to_string())?;
        let mut said = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            if said.read_line(&mut line).map_err(|error| error.to_string())? == 0 {
                return Err(format!("tcpdump ended with {}", child.wait().unwrap()));
            }
        }
        Ok(Self::Tcpdump { child, _said: said, path: path.to_owned(), since: SystemTime::now() })
    }

    fn end(mut self, lost: bool) {
        match &mut self {
            Self::Nothing(_) if lost => {}
            // Who has died has its files removed before its captures end.
            Self::Nothing(path) | Self::Tcpdump { path, .. } if !path.exists() => {}
            Self::Nothing(path) => {
                let mut file = std::fs::File::options().append(true).open(path).unwrap();
                file.write_all(&[0; 60]).unwrap();
            }
            Self::Tcpdump { child, path, since, .. } => {
                kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
                child.wait().unwrap();
                cut(path, *since);
            }
        }
    }
}

/// Packets reach the file at ticks of a second; those since the last one are lost.
fn cut(path: &Path, since: SystemTime) {
    let ticks = since.elapsed().unwrap().as_secs();
    let last = (since + Duration::from_secs(ticks)).duration_since(UNIX_EPOCH).unwrap();
    let bytes = std::fs::read(path).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut end = HEADERS.0;
    while end + HEADERS.1 <= bytes.len() {
        let time = Duration::new(number(end).into(), number(end + 4) * 1000);
        if time > last {
            break;
        }
        end += HEADERS.1 + number(end + 8) as usize;
    }
    std::fs::File::options().write(true).open(path).unwrap().set_len(end.min(bytes.len()) as u64).unwrap();
}

/// Identifies the network of a process; `None` for one that has ended, and for this process's own.
pub(super) fn network_of(pid: u32) -> Option<u64> {
    let inode = |pid: &str| Some(std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino());
    inode(&pid.to_string()).filter(|network| Some(*network) != inode("self"))
}

/// Ends what a double that was killed has left in its network.
pub(super) fn sweep(network: Option<u64>) {
    let Some(network) = network else { return };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if network_of(pid) == Some(network) {
            // It may be ending by itself.
            let _ = kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL);
        }
    }
}

impl Namespace {
    /// All, or those of one machine. The first that cannot be stopped ends it.
    pub(super) fn stop_captures(&mut self, writers: &mut Writers, machine: Option<&str>) -> Result<(), String> {
        let lost = self.traffic.is_none_or(|last| last.elapsed() < Duration::from_secs(1));
        let is_meant =
            |capture: &Capture| machine.is_none_or(|machine| capture.interface.split(':').next() == Some(machine));
        while let Some(at) = self.captures.iter().rposition(is_meant) {
            writers.stop(&self.captures[at], lost)?;
            self.captures.remove(at);
        }
        Ok(())
    }
}

impl Shared {
    /// `capture …` and `clear capture`
    pub(super) fn capture(&self, namespace: &mut Namespace, writers: &mut Writers, words: &[&str]) -> Value {
        match words {
            ["capture"] => {
                let row = |capture: &Capture| {
                    BTreeMap::from([
                        ("bridge", capture.bridge.clone()),
                        ("type", "pcap".to_owned()),
                        ("interface", capture.interface.clone()),
                        ("path", capture.path.to_string_lossy().into_owned()),
                    ])
                };
                table(self, "capture", &namespace.captures.iter().map(row).collect::<Vec<_>>())
            }
            ["capture", "pcap", "snaplen", length] => {
                namespace.snaplen = length.parse().unwrap();
                done()
            }
            ["capture", "pcap", "filter", bpf] => {
                namespace.bpf = (*bpf).to_owned();
                done()
            }
            ["capture", "pcap", "vm", machine, card, file] => {
                let Some((bridge, tap)) = namespace.tap_of(machine) else {
                    return error(format!("vm not found: {machine}"));
                };
                let path = self.files().join(file);
                match self.writer(namespace, tap.as_deref(), &path) {
                    Ok(writer) => {
                        let id = writers.start(&bridge, writer);
                        namespace.captures.push(Capture { bridge, id, interface: format!("{machine}:{card}"), path });
                        done()
                    }
                    Err(text) => error(text),
                }
            }
            ["capture", "pcap", "delete", "vm", machine] => {
                namespace.stop_captures(writers, Some(machine)).map_or_else(error, |()| done())
            }
            // Snap length and filter stay.
            ["clear", "capture"] => namespace.stop_captures(writers, None).map_or_else(error, |()| done()),
            other => error(format!("invalid command: `{}`", other.join(" "))),
        }
    }

    fn writer(&self, namespace: &Namespace, tap: Option<&str>, path: &Path) -> Result<Writer, String> {
        let snaplen = self.trap().snaplen.unwrap_or(namespace.snaplen);
        // An expression is looked at only now.
        if namespace.bpf.contains("nonsense") {
            return Err("syntax error in filter".to_owned());
        }
        if let Some(tap) = tap {
            return Writer::tcpdump(tap, snaplen, &namespace.bpf, path);
        }
        let mut header = b"\xd4\xc3\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0".to_vec();
        header.extend(snaplen.to_le_bytes());
        header.extend([1, 0, 0, 0]);
        std::fs::write(path, header).unwrap();
        Ok(Writer::Nothing(path.to_owned()))
    }
}
