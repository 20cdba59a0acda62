//! A double of minimega and of rond: it speaks the recorded protocol, keeps machines, clients and captures in memory, runs
//! what clients are told to run on this host, and misbehaves as the real ones were seen to.
//!
//! Time goes faster than there: a heartbeat takes milliseconds.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::double_capture::{Capture, Writers};
use super::double_container::{self, Container, Made};
use super::double_machine::Virtual;
use super::double_mesh;
pub(crate) use super::double_words::{HERE, Traps, done, error, text};
use super::double_words::{is_net, lexed, mac_at, posted};
use super::guest;

/// What minimega 3.1.0 said of itself.
pub(crate) const VERSION: &str = "minimega 3.1.0 04636ffde53212479924deaaed3819065b144976 2026-08-17";
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(40);

pub(crate) struct Shared {
    pub(crate) directory: PathBuf,
    rond: bool,
    pub(crate) traps: Mutex<Traps>,
    pub(crate) state: Mutex<State>,
    /// Commands as they came.
    pub(crate) heard: Mutex<Vec<String>>,
    pub(crate) connections: AtomicUsize,
    busy: AtomicUsize,
    /// Most commands that were run at once.
    pub(crate) most_busy: AtomicUsize,
    recorded: Vec<Value>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    machines: u64,
    /// Of all namespaces.
    writers: Writers,
}

#[derive(Default)]
pub(crate) struct Namespace {
    /// Its hosts; a new one gets all of the mesh but the head, or the head where there is no mesh.
    pub(crate) hosts: Vec<String>,
    /// Bridges between its hosts.
    pub(crate) bridges: Vec<String>,
    /// Of its network, where there is a real one.
    bridge: Option<String>,
    config: BTreeMap<String, Vec<String>>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) commands: Vec<Command>,
    filter: Option<String>,
    pub(crate) clients: BTreeMap<String, guest::Client>,
    pub(super) captures: Vec<Capture>,
    pub(crate) snaplen: u32,
    pub(crate) bpf: String,
    /// When the last packet came.
    pub(crate) traffic: Option<Instant>,
}

pub(crate) struct Machine {
    id: u64,
    pub(crate) name: String,
    pub(crate) uuid: String,
    pub(crate) state: &'static str,
    tags: Value,
    net: Vec<String>,
    container: Option<Container>,
    qemu: Option<Virtual>,
    qos: String,
}

#[derive(Clone)]
pub(crate) struct Command {
    pub(crate) id: u64,
    pub(crate) what: What,
    pub(crate) once: bool,
    pub(crate) filter: Option<String>,
    /// Clients there were when it was posted: others are never given one that is run once.
    pub(crate) there: Vec<String>,
    pub(crate) responses: usize,
}

#[derive(Clone)]
pub(crate) enum What {
    Run(Vec<String>),
    Send(String),
    Receive(Vec<String>),
}

pub(crate) struct Double {
    _place: tempfile::TempDir,
    pub(crate) shared: Arc<Shared>,
}

impl Double {
    /// A minimega.
    pub(crate) fn start(traps: Traps) -> Self {
        Self::of(traps, false)
    }

    /// A rond.
    pub(crate) fn rond(traps: Traps) -> Self {
        Self::of(traps, true)
    }

    fn of(traps: Traps, rond: bool) -> Self {
        let place = tempfile::tempdir().unwrap();
        let shared = Shared::serve(place.path(), traps, rond);
        Self { _place: place, shared }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.shared.socket()
    }

    pub(crate) fn traps(&self, change: impl FnOnce(&mut Traps)) {
        change(&mut self.shared.traps.lock().unwrap());
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// A node that reports to rond, with this name.
    pub(crate) fn node(&self, name: &str, uuid: &str) -> PathBuf {
        guest::report(&self.shared, "", name, uuid)
    }

    /// The same; what it is told to run is run by a program with these arguments.
    pub(crate) fn node_by(&self, name: &str, uuid: &str, by: Vec<String>) -> PathBuf {
        guest::report_by(&self.shared, "", name, uuid, by)
    }

    pub(crate) fn heard(&self) -> Vec<String> {
        self.shared.heard.lock().unwrap().clone()
    }
}

impl Drop for Double {
    /// The clients and the machines end with it.
    fn drop(&mut self) {
        for namespace in self.state().namespaces.values_mut() {
            namespace.clients.clear();
            namespace.machines.clear();
        }
    }
}

impl Shared {
    pub(crate) fn serve(directory: &Path, traps: Traps, rond: bool) -> Arc<Self> {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/minimega/transcripts.jsonl");
        let recorded = std::fs::read_to_string(data).unwrap();
        let shared = Arc::new(Self {
            directory: directory.to_owned(),
            rond,
            traps: Mutex::new(traps),
            state: Mutex::default(),
            heard: Mutex::default(),
            connections: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            most_busy: AtomicUsize::new(0),
            recorded: recorded.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        });
        std::fs::create_dir_all(shared.files()).unwrap();
        let listener = UnixListener::bind(shared.socket()).unwrap();
        let this = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                this.connections.fetch_add(1, Ordering::Relaxed);
                let this = Arc::clone(&this);
                std::thread::spawn(move || this.converse(stream));
            }
        });
        shared
    }

    fn socket(&self) -> PathBuf {
        self.directory.join(if self.rond { "rond" } else { "minimega" })
    }

    /// Where files are sent from.
    pub(crate) fn files(&self) -> PathBuf {
        if self.rond { self.directory.clone() } else { self.directory.join("files") }
    }

    pub(crate) fn trap(&self) -> Traps {
        self.traps.lock().unwrap().clone()
    }

    fn converse(self: Arc<Self>, mut stream: UnixStream) {
        let requests = serde_json::Deserializer::from_reader(stream.try_clone().unwrap()).into_iter::<Value>();
        // What is no JSON ends the conversation.
        for request in requests.map_while(Result::ok) {
            // Pipes lose lines, and there is no way back from one.
            let is_plain = |name: &str| request[name].as_str().is_none_or(str::is_empty);
            assert!(is_plain("Suggest") && is_plain("PlumbPipe"), "{request}");
            let command = request["Command"].as_str().unwrap_or_default().to_owned();
            self.heard.lock().unwrap().push(command.clone());
            let now = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_busy.fetch_max(now, Ordering::SeqCst);
            let answered = self.answer(&command, &mut stream);
            self.busy.fetch_sub(1, Ordering::SeqCst);
            if answered.is_none() {
                return;
            }
        }
    }

    /// `None` closes the connection.
    fn answer(self: &Arc<Self>, command: &str, stream: &mut UnixStream) -> Option<()> {
        let traps = self.trap();
        let hit = |at: Option<&'static str>| at.is_some_and(|part| command.contains(part));
        std::thread::sleep(traps.slow);
        if let Some((part, time)) = traps.slow_at
            && command.contains(part)
        {
            std::thread::sleep(time);
        }
        for _ in 0..traps.news {
            self.say(stream, &json!({ "Resp": null, "Rendered": "file: 10%", "More": false, "Status": true }))?;
        }
        if hit(traps.crash_at) {
            std::process::abort();
        }
        if hit(traps.close_at) {
            return None;
        }
        if hit(traps.silent_at) {
            return Some(());
        }
        if let Some((part, bytes)) = &traps.bytes_at
            && command.contains(part)
        {
            return stream.write_all(bytes).ok();
        }
        if hit(traps.endless_at) {
            loop {
                self.say(
                    stream,
                    &json!({ "Resp": [{ "Response": "x".repeat(1000) }], "More": true, "Status": false }),
                )?;
            }
        }
        let words = match lexed(command) {
            Ok(words) => words,
            Err(text) => return self.reply(stream, &error(text)),
        };
        match self.run(words) {
            Some(Some(response)) => self.reply(stream, &response),
            Some(None) => self.say(stream, &json!({ "Resp": null, "Rendered": "", "More": false, "Status": false })),
            None => None,
        }
    }

    fn reply(&self, stream: &mut UnixStream, response: &Value) -> Option<()> {
        // From several hosts, or from nobody.
        let responses = match response {
            Value::Null => json!([]),
            Value::Array(_) => response.clone(),
            one => json!([one]),
        };
        let mut message = json!({ "Resp": responses, "Rendered": "", "More": false });
        if !self.rond {
            message["Status"] = json!(false);
        }
        self.say(stream, &message)
    }

    fn say(&self, stream: &mut UnixStream, message: &Value) -> Option<()> {
        writeln!(stream, "{message}").ok()
    }

    /// The columns of the recorded table of that name.
    fn header(&self, command: &str) -> Vec<String> {
        let asked = |one: &&Value| {
            let request: Value = serde_json::from_str(one["request"].as_str().unwrap()).unwrap_or_default();
            request["Command"] == command
                && one["socket"].as_str().unwrap().ends_with(if self.rond { "rond" } else { "minimega" })
        };
        let found = self.recorded.iter().find(asked).unwrap_or_else(|| panic!("no recorded answer to {command}"));
        let answer: Value = serde_json::from_str(found["responses"][0].as_str().unwrap()).unwrap();
        serde_json::from_value(answer["Resp"][0]["Header"].clone()).unwrap()
    }

    /// A recorded table with other rows: fields by name, the rest as for a machine of another type.
    fn table(&self, command: &str, rows: &[BTreeMap<&str, String>]) -> Value {
        let mut header = self.header(command);
        if self.trap().turned {
            header.reverse();
            header.insert(0, "brand-new".to_owned());
        }
        let row = |row: &BTreeMap<&str, String>| -> Vec<String> {
            header.iter().map(|name| row.get(name.as_str()).cloned().unwrap_or("N/A".to_owned())).collect()
        };
        let tabular: Vec<_> = rows.iter().rev().map(row).collect();
        let tabular = if tabular.is_empty() { Value::Null } else { json!(tabular) };
        json!({ "Host": "vm", "Response": "", "Header": header, "Tabular": tabular, "Error": "", "Data": null })
    }

    /// `None` closes the connection, `Some(None)` is the answer to a blank line.
    fn run(self: &Arc<Self>, mut words: Vec<String>) -> Option<Option<Value>> {
        let traps = self.trap();
        let known = |words: &[String]| !traps.unknown.iter().any(|part| words.join(" ").starts_with(part));
        let (mut namespace, mut preprocess) = ("minimega".to_owned(), !self.rond);
        loop {
            if !known(&words) {
                return Some(Some(error(format!("invalid command: `{}`", words.join(" ")))));
            }
            match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                ["namespace", name, _, ..] => namespace = (*name).to_owned(),
                [".preprocess", "false", _, ..] => preprocess = false,
                [".record", "false", _, ..] => {}
                _ => break,
            }
            words.drain(..2);
        }
        if preprocess {
            words = words.iter().map(|word| self.preprocessed(word)).collect();
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if words.is_empty() {
            return Some(None);
        }
        if self.rond {
            super::double_rond::run(self, &words).map(Some)
        } else {
            Some(Some(self.command(&namespace, &words)))
        }
    }

    fn preprocessed(&self, word: &str) -> String {
        if ["http://", "https://", "file:", "tar:"].iter().any(|scheme| word.starts_with(scheme)) {
            return self.files().join(word.rsplit('/').next().unwrap()).to_string_lossy().into_owned();
        }
        let mut text = String::new();
        let mut rest = word;
        while let Some((before, after)) = rest.split_once('$') {
            text.push_str(before);
            let name: String = after.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            text.push_str(&std::env::var(&name).unwrap_or_default());
            // `$$` and `$?` are eaten too.
            rest = if name.is_empty() { after.get(1..).unwrap_or_default() } else { &after[name.len()..] };
        }
        text + rest
    }

    fn command(self: &Arc<Self>, name: &str, words: &[&str]) -> Value {
        let mut state = self.state.lock().unwrap();
        let machines = state.machines;
        // Any mention makes it.
        let fresh = || Namespace { hosts: self.all_hosts(name), ..Namespace::default() };
        if matches!(words, ["capture", ..] | ["clear", "capture"]) {
            let State { namespaces, writers, .. } = &mut *state;
            let namespace = namespaces.entry(name.to_owned()).or_insert_with(fresh);
            return self.capture(namespace, writers, words);
        }
        let namespace = state.namespaces.entry(name.to_owned()).or_insert_with(fresh);
        match words {
            ["mesh", "send", ..] | ["mesh", "list", "all"] | ["file" | "bridge" | "shell", ..] => {
                drop(state);
                return self.meshed(HERE, words);
            }
            ["ns", words @ ..] => return self.spread(namespace, words),
            _ => {}
        }
        match words {
            ["version"] => text(self.trap().version.unwrap_or(VERSION)),
            ["mesh", "status"] => {
                let size = (self.trap().mesh.len() + 1).to_string();
                self.table("mesh status", &[BTreeMap::from([("size", size)])])
            }
            ["args"] => self.table("args", &[self.arguments()]),
            ["echo", words @ ..] => text(&words.join(" ")),
            ["namespace"] => {
                let row = |name: &String| BTreeMap::from([("namespace", name.clone())]);
                let rows: Vec<_> = state.namespaces.keys().map(row).collect();
                self.table("namespace", &rows)
            }
            ["clear", "namespace", _] if self.launches() => error("scheduler still running for namespace".to_owned()),
            ["clear", "namespace", name] => {
                let mut removed = state.namespaces.remove(*name);
                if let Some(namespace) = &mut removed {
                    // It says nothing about those that go on.
                    let _ = namespace.stop_captures(&mut state.writers, None);
                }
                for machine in removed.iter_mut().flat_map(|namespace| &mut namespace.machines) {
                    machine.container.iter_mut().for_each(Container::remove);
                }
                if self.trap().contain {
                    removed.iter().flat_map(|namespace| &namespace.bridges).for_each(|name| double_mesh::part(name));
                }
                let machines = removed.iter().flat_map(|namespace| &namespace.machines);
                for machine in machines.filter(|machine| machine.state != "ERROR") {
                    std::fs::remove_dir_all(self.directory.join(machine.id.to_string())).unwrap();
                }
                done()
            }
            ["clear", "vm", "config"] => {
                namespace.config.clear();
                done()
            }
            ["vm", "config", "net", cards @ ..] if !cards.iter().all(|card| is_net(card)) => {
                error("malformed netspec".to_owned())
            }
            ["vm", "config", name, values @ ..] => {
                namespace.config.insert((*name).to_owned(), values.iter().map(|&value| value.to_owned()).collect());
                done()
            }
            ["vm", "launch", kind, name] => {
                let fails = self.trap().fail.is_some_and(|end| name.ends_with(end));
                let launched = namespace.launch(kind, name, machines, fails);
                // What answers nothing has no machine.
                if namespace.hosts.is_empty() {
                    return error("namespace must contain at least one host to launch VMs".to_owned());
                }
                // It stays when the launch failed, for ever.
                std::fs::create_dir_all(self.directory.join(machines.to_string())).unwrap();
                if self.trap().contain {
                    match *kind {
                        "container" => namespace.contain(&self.directory, machines),
                        _ => namespace.start_qemu(&self.directory, machines),
                    }
                }
                state.machines += 1;
                launched
            }
            ["vm", "info"] => {
                namespace.machines.iter_mut().for_each(Machine::look);
                self.machine_table(namespace)
            }
            ["qos", "add", name, card, "rate", number, unit] => {
                let Some(machine) = namespace.machines.iter_mut().find(|m| m.name == *name) else {
                    return error(format!("vm not found: {name}"));
                };
                machine.qos = format!("[{card}: rate {number}{unit}]");
                double_container::limit(machine.id, &format!("{number}{unit}")).map_or_else(error, |()| done())
            }
            ["vm", "start", machine] => {
                let found = namespace.machines.iter_mut().find(|m| m.name == *machine && m.state == "BUILDING");
                let Some(found) = found else { return error(format!("vm not found: {machine}")) };
                found.state = "RUNNING";
                if let Some(container) = &mut found.container {
                    container.start();
                    if container.has_miniccc() {
                        guest::report_from(self, name, machine, &found.uuid, container.pid());
                    }
                    return done();
                }
                if let Some(qemu) = &mut found.qemu {
                    // There is no miniccc in it.
                    return qemu.start().map_or_else(error, |()| done());
                }
                let uuid = found.uuid.clone();
                drop(state);
                if self.trap().silent_start {
                    return done();
                }
                guest::report(self, name, machine, &uuid);
                done()
            }
            ["vm", "qmp", machine, question] => {
                let found = namespace.machines.iter_mut().find(|m| m.name == *machine);
                match found.and_then(|found| found.qemu.as_mut()) {
                    Some(qemu) => qemu.ask(question).map_or_else(error, |answer| text(&answer)),
                    None => error(format!("vm not found: {machine}")),
                }
            }
            ["cc", words @ ..] => {
                let mut answer = self.cc(namespace, words);
                answer["Host"] = json!(namespace.host());
                answer
            }
            ["clear", "cc", "filter"] => {
                namespace.filter = None;
                done()
            }
            // Numbers begin anew; what was answered stays.
            ["clear", "cc"] => {
                namespace.commands.clear();
                namespace.filter = None;
                done()
            }
            other => error(format!("invalid command: `{}`", other.join(" "))),
        }
    }

    /// Is a launch still under way?
    fn launches(&self) -> bool {
        let mut traps = self.traps.lock().unwrap();
        let still = traps.launching > 0;
        traps.launching = traps.launching.saturating_sub(1);
        still
    }

    fn arguments(&self) -> BTreeMap<&'static str, String> {
        let shown = |path: PathBuf| path.to_string_lossy().into_owned();
        BTreeMap::from([("base", shown(self.directory.clone())), ("filepath", shown(self.files()))])
    }

    fn machine_table(&self, namespace: &Namespace) -> Value {
        let part = |net: &String, at: usize| net.split(',').nth(at).unwrap_or_default().to_owned();
        // With or without a bridge before it.
        let spot = |net: &String| mac_at(net).saturating_sub(1);
        let network = |net: &String| format!("{} (101)", part(net, spot(net)));
        let row = |machine: &Machine| {
            let container = machine.container.as_ref().map(Container::pid);
            let pid = container.or(machine.qemu.as_ref().map(Virtual::pid)).map(|pid| ("pid", pid.to_string()));
            let fields = BTreeMap::from([
                ("id", machine.id.to_string()),
                ("name", machine.name.clone()),
                ("state", machine.state.to_owned()),
                ("uuid", machine.uuid.clone()),
                ("tags", machine.tags.to_string()),
                ("tap", format!("[{}]", machine.tap())),
                ("bridge", {
                    let usual = namespace.bridge.as_deref().unwrap_or("mega_bridge").to_owned();
                    format!("[{}]", machine.bridge().unwrap_or(usual))
                }),
                ("qos", machine.qos.clone()),
                ("vlan", format!("[{}]", machine.net.iter().map(network).collect::<Vec<_>>().join(", "))),
                // Up to half a minute late.
                ("cc_active", "false".to_owned()),
            ]);
            fields.into_iter().chain(pid).collect::<BTreeMap<_, _>>()
        };
        let mut table = self.table("vm info", &namespace.machines.iter().map(row).collect::<Vec<_>>());
        let nets = |machine: &Machine| {
            let card = |net: &String| json!({ "Alias": part(net, spot(net)), "MAC": part(net, spot(net) + 1), "Driver": part(net, spot(net) + 2), "Raw": net });
            machine.net.iter().map(card).collect::<Vec<_>>()
        };
        let data = |machine: &Machine| json!({ "Name": machine.name, "ID": machine.id, "Networks": nets(machine) });
        table["Data"] = namespace.machines.iter().map(data).collect();
        table["Host"] = json!(namespace.host());
        table
    }

    fn cc(&self, namespace: &mut Namespace, words: &[&str]) -> Value {
        match words {
            ["clients"] => {
                let row = |(uuid, client): (&String, &guest::Client)| {
                    BTreeMap::from([("uuid", uuid.clone()), ("hostname", client.name.clone())])
                };
                let rows: Vec<_> = namespace.clients.iter().map(row).collect();
                self.table("cc clients", &rows)
            }
            ["filter", filter] => {
                namespace.filter = Some((*filter).to_owned());
                done()
            }
            ["exec" | "background" | "exec-once", program, ..] if program.contains('=') && words.len() == 2 => {
                // An index out of range there.
                std::process::abort();
            }
            ["exec", argv @ ..] => posted(namespace.post(What::Run(owned(argv)), false)),
            ["exec-once", argv @ ..] => posted(namespace.post(What::Run(owned(argv)), true)),
            // Of several files, only the last is sent.
            ["send", .., file] => match self.files().join(file).exists() {
                true => {
                    self.hand_on(namespace.host(), file);
                    posted(namespace.post(What::Send((*file).to_owned()), false))
                }
                false => error(format!("no such file: {file}")),
            },
            ["recv", files @ ..] => posted(namespace.post(What::Receive(owned(files)), false)),
            other => error(format!("invalid command: `cc {}`", other.join(" "))),
        }
    }
}

impl Machine {
    /// One that it does not have is none of a minimega's that runs on this host.
    fn tap(&self) -> String {
        let is_real = self.container.is_some() || self.qemu.is_some();
        double_container::tap(if is_real { self.id } else { 9_000_000 + self.id })
    }

    /// The bridge that was asked for; `None` for the usual one.
    fn bridge(&self) -> Option<String> {
        self.net.first().filter(|net| mac_at(net) == 2)?.split(',').next().map(str::to_owned)
    }

    /// Has its container or its QEMU ended?
    fn look(&mut self) {
        let qemu = self.qemu.as_mut().and_then(Virtual::ended);
        let ended = self.container.as_mut().and_then(Container::ended).or(qemu);
        if let (Some((state, why)), true) = (ended, self.state == "RUNNING") {
            self.state = state;
            if !why.is_empty() {
                self.tags = json!({ "error": why });
            }
        }
    }
}

impl Namespace {
    pub(crate) fn post(&mut self, what: What, once: bool) -> u64 {
        let id = self.commands.len() as u64 + 1;
        let there = self.clients.keys().cloned().collect();
        self.commands.push(Command { id, what, once, filter: self.filter.clone(), there, responses: 0 });
        id
    }

    /// Bridge of a machine, and its tap where it has a real one.
    pub(super) fn tap_of(&self, name: &str) -> Option<(String, Option<String>)> {
        let machine = self.machines.iter().find(|machine| machine.name == name)?;
        let is_real = machine.container.is_some() || machine.qemu.is_some();
        let bridge = machine.bridge().unwrap_or("mega_bridge".to_owned());
        Some((bridge, is_real.then(|| machine.tap())))
    }

    pub(crate) fn filter(&self) -> Option<&str> {
        self.filter.as_deref()
    }

    pub(crate) fn set_filter(&mut self, filter: Option<&str>) {
        self.filter = filter.map(str::to_owned);
    }

    /// Answers success for nearly everything.
    fn launch(&mut self, kind: &str, name: &str, id: u64, fails: bool) -> Value {
        if self.machines.iter().any(|machine| machine.name == name) {
            return error(format!("vm already exists with name `{name}`"));
        }
        let config = |name: &str| self.config.get(name).and_then(|values| values.first()).cloned();
        let missing =
            ["kernel", "initrd", "disks"].iter().filter_map(|name| config(name)).find(|path| !Path::new(path).exists());
        if kind == "container" && config("filesystem").is_none() {
            return done();
        }
        let (state, tags) = match missing {
            Some(path) => ("ERROR", json!({ "error": format!("unable to snapshot {path}: no such file\n") })),
            None if fails => ("ERROR", json!({ "error": "qemu did not start\n" })),
            None => ("BUILDING", json!({})),
        };
        // A container's card has no driver.
        let end = if kind == "container" { "," } else { "" };
        let net = self.config.get("net").cloned().unwrap_or_default();
        let net = net.into_iter().map(|card| card + end).collect();
        let uuid = format!("00000000-0000-0000-0000-{id:012}");
        let (container, qemu, qos) = (None, None, "[]".to_owned());
        self.machines.push(Machine { id, name: name.to_owned(), uuid, state, tags, net, container, qemu, qos });
        done()
    }

    /// Makes a real container of the machine that was launched last, if there is one.
    fn contain(&mut self, base: &Path, id: u64) {
        let config = |name: &str| self.config.get(name).cloned().unwrap_or_default();
        let number = |name: &str| config(name).first().map_or(1, |value| value.parse().unwrap());
        let (filesystem, init, volume) = (config("filesystem"), config("init"), config("volume"));
        let (memory_mib, vcpus) = (number("memory"), number("vcpus"));
        let host = self.host().to_owned();
        let Some(machine) = self.machines.last_mut().filter(|m| m.id == id && m.state == "BUILDING") else { return };
        let (bridge, mac) = match machine.net[0].split(',').collect::<Vec<_>>()[..] {
            [_, mac, ""] => (self.bridge.get_or_insert_with(|| bridge(id)).clone(), mac.to_owned()),
            [name, _, mac, ""] => (double_mesh::bridge_at(&host, name), mac.to_owned()),
            _ => panic!("{:?}", machine.net),
        };
        let filesystem = filesystem[0].as_str();
        let made = Made { base, id, filesystem, init, volume, memory_mib, vcpus, mac, bridge };
        match Container::launch(&made) {
            Ok(container) => machine.container = Some(container),
            Err(text) => (machine.state, machine.tags) = ("ERROR", json!({ "error": text })),
        }
    }

    /// Starts a real QEMU for the machine that was launched last, if there is one.
    fn start_qemu(&mut self, base: &Path, id: u64) {
        let Some(machine) = self.machines.last_mut().filter(|m| m.id == id && m.state == "BUILDING") else { return };
        let has_card = !machine.net.is_empty();
        let bridge = has_card.then(|| self.bridge.get_or_insert_with(|| bridge(id)).as_str());
        match Virtual::launch(&base.join(id.to_string()), id, &self.config, bridge) {
            Ok(qemu) => machine.qemu = Some(qemu),
            Err(text) => (machine.state, machine.tags) = ("ERROR", json!({ "error": text })),
        }
    }
}

/// A bridge for the network of the namespace that this machine is the first of.
fn bridge(id: u64) -> String {
    let name = format!("br{id}");
    double_container::bridge(&name);
    name
}

pub(crate) fn table(shared: &Shared, command: &str, rows: &[BTreeMap<&str, String>]) -> Value {
    shared.table(command, rows)
}

pub(crate) fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
