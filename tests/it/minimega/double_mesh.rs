//! The other hosts of the double's mesh. What is on them is in directories of their own; programs run here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::{Value, json};

use super::double::{HERE, Namespace, Shared, Traps, done, error, text};
use super::double_container::{bridge, run};
use super::double_words::data;

/// What is left of 1500 bytes for a packet in the tunnel.
const TUNNEL: u32 = 1454;

/// Name of a bridge that several hosts have, on one of them: they are all in this network.
pub(super) fn bridge_at(host: &str, name: &str) -> String {
    if host == HERE { name.to_owned() } else { format!("{name}x") }
}

/// A bridge of this name on either host, and what is between them.
fn join(name: &str, mtu: u32) -> Value {
    let (there, mtu) = (format!("{name}x"), mtu.to_string());
    let (near, far) = (format!("{name}y"), format!("{name}z"));
    [name, &there].into_iter().for_each(bridge);
    let made = run("ip", &["link", "add", &near, "mtu", &mtu, "type", "veth", "peer", "name", &far, "mtu", &mtu])
        .and_then(|()| run("ip", &["link", "set", &near, "master", name, "up"]))
        .and_then(|()| run("ip", &["link", "set", &far, "master", &there, "up"]));
    made.map_or_else(error, |()| done())
}

/// Takes it away.
pub(super) fn part(name: &str) {
    for link in [format!("{name}y"), format!("{name}x"), name.to_owned()] {
        run("ip", &["link", "delete", &link]).unwrap();
    }
}

impl Namespace {
    /// The host that has its machines.
    pub(super) fn host(&self) -> &str {
        self.hosts.first().map_or(HERE, String::as_str)
    }
}

impl Shared {
    /// Hosts of a new namespace.
    pub(super) fn all_hosts(&self, name: &str) -> Vec<String> {
        let others: Vec<String> = self.trap().mesh.iter().map(|&host| host.to_owned()).collect();
        if others.is_empty() || name == "minimega" { vec![HERE.to_owned()] } else { others }
    }

    /// Where a host has its files.
    pub(crate) fn files_at(&self, host: &str) -> PathBuf {
        if host == HERE { self.files() } else { self.directory.join("hosts").join(host).join("files") }
    }

    /// A file that another host gets because it is to be sent from there.
    pub(super) fn hand_on(&self, host: &str, name: &str) {
        let (from, to) = (self.files().join(name), self.files_at(host).join(name));
        if host != HERE {
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(from, to).unwrap();
        }
    }

    fn is_host(&self, host: &str) -> bool {
        host == HERE || self.trap().mesh.contains(&host)
    }

    /// `ns …`
    pub(super) fn spread(&self, namespace: &mut Namespace, words: &[&str]) -> Value {
        match words {
            ["del-hosts", "all"] => {
                namespace.hosts.clear();
                done()
            }
            ["add-hosts", host] if self.is_host(host) => {
                namespace.hosts.push((*host).to_owned());
                done()
            }
            ["add-hosts", host] => error(format!("unknown host: `{host}`")),
            // Nothing is done for a single host, and nothing is said.
            ["bridge", _, "gre"] if namespace.hosts.len() == 1 => done(),
            ["bridge", name, "gre"] => {
                namespace.bridges.push((*name).to_owned());
                match self.trap() {
                    Traps { contain: true, tunnel_mtu, .. } => join(name, tunnel_mtu.unwrap_or(TUNNEL)),
                    _ => done(),
                }
            }
            other => error(format!("invalid command: `ns {}`", other.join(" "))),
        }
    }

    /// What is asked of one host of the mesh alone.
    pub(super) fn meshed(&self, host: &str, words: &[&str]) -> Value {
        let mut answer = match words {
            ["mesh", "list", "all"] => {
                let hosts: Vec<&str> = [HERE].into_iter().chain(self.trap().mesh).collect();
                data(json!(hosts))
            }
            ["mesh", "send", "all", words @ ..] if host == HERE => {
                let hosts = self.trap().mesh;
                return json!(hosts.iter().map(|host| self.meshed(host, words)).collect::<Vec<_>>());
            }
            // No word of it is quoted, and that is how it is read there.
            ["mesh", "send", to, words @ ..] if host == HERE && self.trap().mesh.contains(to) => {
                return self.meshed(to, words);
            }
            // Nobody answers, and that is no error.
            ["mesh", "send", ..] => return Value::Null,
            ["namespace", _, words @ ..] => return self.meshed(host, words),
            ["args"] => self.arguments_of(host),
            ["bridge"] => self.bridges(),
            ["bridge", "config", _, "rstp_enable=false"]
            | ["bridge", "notunnel", _, "mega_tap9"]
            | ["bridge", "tunnel", "gre", _, "10.7.0.2", "2801488968"] => done(),
            ["shell", "ovs-vsctl", _, "get", "interface", "mega_tap9", "options:remote_ip", "options:key"] => {
                text("\"10.7.0.2\"\n\"2801488968\"\n")
            }
            ["file", "delete", name] => {
                let path = self.files_at(host).join(name);
                let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
                // What is not there is no error.
                let _ = removed;
                done()
            }
            ["file", "stream", name] => self.streamed(name),
            ["shell", program, arguments @ ..] => match self.shell(host, program, arguments) {
                Ok(output) if output.status.success() => text(&String::from_utf8_lossy(&output.stdout)),
                Ok(output) => error(format!("exit status {}", output.status.code().unwrap_or(-1))),
                Err(failed) => error(failed.to_string()),
            },
            other => error(format!("invalid command: `{}`", other.join(" "))),
        };
        answer["Host"] = json!(host);
        answer
    }

    /// What differs there from this host is in a directory of its own.
    fn shell(&self, host: &str, program: &str, arguments: &[&str]) -> std::io::Result<std::process::Output> {
        let root = self.directory.join("hosts").join(host).join("root");
        let there = |argument: &&str| Some(root.join(argument.strip_prefix('/')?)).filter(|path| path.exists());
        let seen = |argument: &&str| there(argument).map_or((*argument).into(), PathBuf::into_os_string);
        std::process::Command::new(program).args(arguments.iter().map(seen)).output()
    }

    fn arguments_of(&self, host: &str) -> Value {
        let files = self.files_at(host).to_string_lossy().into_owned();
        super::double::table(self, "args", &[BTreeMap::from([("filepath", files)])])
    }

    fn bridges(&self) -> Value {
        let state = self.state.lock().unwrap();
        let names = state.namespaces.values().flat_map(|namespace| &namespace.bridges);
        let row = |name: &String| BTreeMap::from([("bridge", name.clone()), ("tunnels", "[mega_tap9]".to_owned())]);
        let rows: Vec<_> = names.map(row).collect();
        drop(state);
        super::double::table(self, "bridge", &rows)
    }

    /// What this host has under that name comes first.
    fn streamed(&self, name: &str) -> Value {
        let hosts = [HERE].into_iter().chain(self.trap().mesh);
        let read = |host| std::fs::read(Path::join(&self.files_at(host), name)).ok();
        match hosts.into_iter().find_map(read) {
            Some(content) => data(json!(base64::engine::general_purpose::STANDARD.encode(content))),
            None => error(format!("stream {name}: file not found")),
        }
    }
}
