//! Virtual machines of the double: real QEMUs, under TCG, with taps on the bridge of their namespace as minimega's have.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::double_container::{run, tap};

const QEMU: &str = "qemu-system-x86_64";

/// A machine.
pub(crate) struct Virtual {
    child: Child,
    qmp: BufReader<UnixStream>,
}

impl Virtual {
    /// As `vm launch`, of what `vm config` said. `net` has `VLAN,MAC,DRIVER` of each card; the first one counts.
    pub(crate) fn launch(
        place: &Path,
        id: u64,
        config: &BTreeMap<String, Vec<String>>,
        bridge: Option<&str>,
    ) -> Result<Self, String> {
        let mut command = Command::new(QEMU);
        command.args(arguments(place, id, config));
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(|error| error.to_string())?;
        let qmp = match connect(&mut child, &place.join("qmp")) {
            Ok(stream) => BufReader::new(stream),
            Err(error) => {
                let _ = child.kill();
                child.wait().unwrap();
                return Err(error);
            }
        };
        // QEMU greets when it has made everything, its tap as well.
        let machine = Self { child, qmp }.greet()?;
        bridge.map_or(Ok(()), |bridge| run("ip", &["link", "set", &tap(id), "master", bridge, "up"]))?;
        Ok(machine)
    }

    fn greet(mut self) -> Result<Self, String> {
        self.line()?;
        self.ask(r#"{"execute":"qmp_capabilities"}"#).map(|_| self)
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.qmp.read_line(&mut line) {
            Ok(0) => Err("EOF".to_owned()),
            Ok(_) => Ok(line),
            Err(error) => Err(error.to_string()),
        }
    }

    /// As `vm qmp`: of QEMU's errors, minimega says nothing but that there is no result.
    pub(crate) fn ask(&mut self, question: &str) -> Result<String, String> {
        self.qmp.get_mut().write_all(question.as_bytes()).map_err(|error| error.to_string())?;
        loop {
            let line = self.line()?;
            let answer: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
            if answer.get("return").is_some() {
                return Ok(line);
            }
            if answer.get("error").is_some() {
                return Err("received nil status".to_owned());
            }
        }
    }

    pub(crate) fn start(&mut self) -> Result<(), String> {
        self.ask(r#"{"execute":"cont"}"#).map(drop)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn ended(&mut self) -> Option<(&'static str, String)> {
        self.child.try_wait().unwrap().map(|_| ("QUIT", String::new()))
    }
}

impl Drop for Virtual {
    fn drop(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

fn arguments(place: &Path, id: u64, config: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let all = |name: &str| config.get(name).cloned().unwrap_or_default();
    let first = |name: &str| all(name).into_iter().next();
    let at = |name: &str| place.join(name).to_string_lossy().into_owned();
    let mut words = Vec::new();
    let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
    add("-accel", "tcg".to_owned());
    add("-cpu", first("cpu").unwrap_or("max".to_owned()));
    add("-m", first("memory").unwrap());
    add("-smp", first("vcpus").unwrap());
    add("-display", "none".to_owned());
    add("-monitor", "none".to_owned());
    add("-qmp", format!("unix:{},server=on,wait=off", at("qmp")));
    let snapshot = if first("snapshot").as_deref() == Some("false") { "off" } else { "on" };
    for path in all("disks") {
        // Not IDE, as with minimega: the kernels of these tests have no driver of that.
        add("-drive", format!("file={path},format=raw,media=disk,if=virtio,snapshot={snapshot}"));
    }
    for name in ["kernel", "initrd"] {
        first(name).into_iter().for_each(|path| add(&format!("-{name}"), path));
    }
    if !all("append").is_empty() {
        add("-append", all("append").join(" "));
    }
    add("-net", "none".to_owned());
    if let Some(net) = first("net") {
        let [_, mac, driver] = net.split(',').collect::<Vec<_>>()[..] else { panic!("{net}") };
        add("-netdev", format!("tap,id=net,ifname={},script=no,downscript=no", tap(id)));
        add("-device", format!("{driver},netdev=net,mac={mac}"));
    }
    if let Some(ports) = first("virtio-ports") {
        add("-device", "virtio-serial-pci".to_owned());
        for (number, name) in ports.split(',').enumerate() {
            let path = at(&format!("virtio-serial{number}"));
            add("-chardev", format!("socket,id=port{number},path={path},server=on,wait=off"));
            add("-device", format!("virtserialport,chardev=port{number},name={name}"));
        }
    }
    words.push("-S".to_owned());
    words.extend(all("qemu-append"));
    words
}

/// As long as QEMU goes on, it may still make its socket.
fn connect(child: &mut Child, path: &Path) -> Result<UnixStream, String> {
    let begun = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(_) if child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(60) => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(format!("unable to connect to qmp socket: {error}")),
        }
    }
}

/// Kills the machines that a double has left that was killed: they have its directory in their command lines.
pub(crate) fn sweep(base: &Path) {
    let needle = format!("unix:{}/", base.display());
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if String::from_utf8_lossy(&line).contains(&needle) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}
