//! Containers of the double: real ones, of namespaces and cgroups as minimega makes them, in the double's own network and mount
//! namespace. Until it is started, one waits where minimega would have frozen it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Numbers of the first processes, for whoever cleans up after a double that was killed.
const LIST: &str = "containers";
const CONTROLLERS: [&str; 4] = ["cpu", "devices", "freezer", "memory"];

/// What a container is made of, as `vm config` said.
pub(crate) struct Made<'a> {
    pub(crate) base: &'a Path,
    pub(crate) id: u64,
    pub(crate) filesystem: &'a str,
    pub(crate) init: Vec<String>,
    /// Path in the container and path here.
    pub(crate) volume: Vec<String>,
    pub(crate) memory_mib: u64,
    pub(crate) vcpus: u64,
    pub(crate) mac: String,
    pub(crate) bridge: String,
}

/// A container.
pub(crate) struct Container {
    child: Child,
    /// Its console.
    _out: BufReader<ChildStdout>,
    place: PathBuf,
    cgroups: Vec<PathBuf>,
    miniccc: bool,
}

/// Mounts what minimega mounts, waits for the start, and leaves the capabilities that minimega leaves.
const SETUP: &str = r#"
set -e
mount --make-rprivate /
fs=$1 inside=$2 here=$3; shift 3
mkdir -p $fs/proc $fs/dev $fs/sys
mount -t proc proc $fs/proc
mount -t tmpfs -o mode=755 tmpfs $fs/dev
mkdir $fs/dev/shm $fs/dev/pts
mount -t tmpfs -o mode=1777,size=65536k tmpfs $fs/dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 pts $fs/dev/pts
for d in null:1:3 zero:1:5 full:1:7 tty:5:0 random:1:8 urandom:1:9; do
  n=${d#*:}; mknod -m 666 $fs/dev/${d%%:*} c ${n%:*} ${n#*:}
done
mount -t sysfs -o ro sysfs $fs/sys
if [ -n "$inside" ]; then mkdir -p $fs$inside; mount --bind $here $fs$inside; fi
mount --bind $fs/proc/sys $fs/proc/sys
mount -o remount,bind,ro $fs/proc/sys
echo ready
read start
caps=chown,dac_override,fsetid,fowner,mknod,net_raw,setgid,setuid,setfcap,setpcap,net_bind_service,sys_chroot,kill,audit_write,net_admin,dac_read_search,audit_control
caps=$(echo ,$caps | sed s/,/,+/g)
exec env -i $(command -v setpriv) --inh-caps=-all$caps --bounding-set=-all$caps $(command -v chroot) $fs "$@" </dev/null
"#;

/// Runs a program that must succeed, and returns what it said when it did not.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

impl Container {
    /// As `vm launch`; the error is what minimega puts into a machine's tag.
    pub(crate) fn launch(made: &Made<'_>) -> Result<Self, String> {
        let place = made.base.join(made.id.to_string());
        overlay(&place, made)?;
        let mut child = start(&place, made)?;
        let out = child.stdout.take().expect("it is piped");
        let miniccc = made.init.iter().any(|word| word.contains("/miniccc "));
        let mut container = Self { child, _out: BufReader::new(out), place, cgroups: Vec::new(), miniccc };
        note(made.base, container.pid());
        container.complete(made).inspect_err(|_| container.remove())?;
        Ok(container)
    }

    fn complete(&mut self, made: &Made<'_>) -> Result<(), String> {
        let mut line = String::new();
        self._out.read_line(&mut line).map_err(|error| error.to_string())?;
        if line != "ready\n" {
            // It came no further, so that nobody made its cgroup.
            return Err(format!("freezer: open {}/freezer.state: no such file or directory", made.id));
        }
        let (pid, tap) = (self.pid().to_string(), tap(made.id));
        run("ip", &["link", "add", &tap, "type", "veth", "peer", "name", "veth0", "netns", &pid])?;
        run("nsenter", &["-t", &pid, "-n", "ip", "link", "set", "veth0", "address", &made.mac])?;
        run("ip", &["link", "set", &tap, "master", &made.bridge, "up"])?;
        self.join(made)
    }

    /// Puts it into its cgroups.
    fn join(&mut self, made: &Made<'_>) -> Result<(), String> {
        for controller in CONTROLLERS {
            let cgroup = root(controller, std::process::id()).join("minimega").join(made.id.to_string());
            let write = |file: &str, text: String| std::fs::write(cgroup.join(file), text);
            let joined = std::fs::create_dir_all(&cgroup).and_then(|()| match controller {
                "cpu" => {
                    write("cpu.cfs_period_us", "1000000".to_owned())?;
                    write("cpu.cfs_quota_us", (made.vcpus * 1_000_000).to_string())
                }
                "memory" => write("memory.limit_in_bytes", format!("{}M", made.memory_mib)),
                _ => Ok(()),
            });
            joined
                .and_then(|()| write("cgroup.procs", self.pid().to_string()))
                .map_err(|error| format!("{}: {error}", cgroup.display()))?;
            self.cgroups.push(cgroup);
        }
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Does it start a miniccc?
    pub(crate) fn has_miniccc(&self) -> bool {
        self.miniccc
    }

    /// As `vm start`.
    pub(crate) fn start(&mut self) {
        // One that has ended is found by its state.
        let _ = self.child.stdin.take().expect("it is started once").write_all(b"\n");
    }

    /// Its state when it has ended, and why.
    pub(crate) fn ended(&mut self) -> Option<(&'static str, String)> {
        let status = self.child.try_wait().unwrap()?;
        match (status.code(), status.signal()) {
            (Some(0), _) => Some(("QUIT", String::new())),
            (Some(code), _) => Some(("ERROR", format!("killed container: exit status {code}"))),
            (None, _) => Some(("ERROR", "killed container: signal: killed".to_owned())),
        }
    }

    /// As `vm kill` and `vm flush`.
    pub(crate) fn remove(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
        self.cgroups.iter().for_each(|cgroup| remove_cgroup(cgroup));
        run("umount", &["-l", &self.place.join("fs").to_string_lossy()]).unwrap();
    }
}

/// The host's end of its link.
pub(crate) fn tap(id: u64) -> String {
    format!("mega_tap{id}")
}

/// As `qos add … rate`.
pub(crate) fn limit(id: u64, rate: &str) -> Result<(), String> {
    run("tc", &["qdisc", "replace", "dev", &tap(id), "root", "tbf", "rate", rate, "burst", "64kb", "latency", "50ms"])
}

/// A bridge for a network; without IPv6, nothing but the containers talks there.
pub(crate) fn bridge(name: &str) {
    run("ip", &["link", "set", "lo", "up"]).unwrap();
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    run("ip", &["link", "add", name, "type", "bridge", "mcast_snooping", "0"]).unwrap();
    run("ip", &["link", "set", name, "up"]).unwrap();
}

fn overlay(place: &Path, made: &Made<'_>) -> Result<(), String> {
    if !Path::new(made.filesystem).exists() {
        return Err(format!("overlayMount: stat {}: no such file or directory", made.filesystem));
    }
    let (upper, work) = (place.join("fs"), place.join("fs_work"));
    for directory in [&upper, &work] {
        std::fs::create_dir_all(directory).unwrap();
    }
    let (upper, work) = (upper.display(), work.display());
    let options = format!("lowerdir={},upperdir={upper},workdir={work}", made.filesystem);
    let source = format!("megamount_{}", made.id);
    let mounted = run("mount", &["-t", "overlay", &source, "-o", &options, &upper.to_string()]);
    // It does not say more.
    mounted.map_err(|_| "overlayMount: exit status 32".to_owned())
}

fn start(place: &Path, made: &Made<'_>) -> Result<Child, String> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--uts", "--ipc", "sh", "-c", SETUP, "container"]).arg(place.join("fs"));
    let volume = |at: usize| made.volume.get(at).cloned().unwrap_or_default();
    command.args([volume(0), volume(1)]).args(&made.init);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    // What children begin in is a property of the thread.
    let spawn = move || {
        unshare(CloneFlags::CLONE_NEWPID)?;
        command.spawn()
    };
    std::thread::spawn(spawn).join().unwrap().map_err(|error| format!("start container: {error}"))
}

fn root(controller: &str, double: u32) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(controller).join(format!("vptest-double-{double}"))
}

fn note(base: &Path, pid: u32) {
    let mut list = std::fs::File::options().append(true).create(true).open(base.join(LIST)).unwrap();
    writeln!(list, "{pid}").unwrap();
}

/// Removes a cgroup that is empty, or about to be.
fn remove_cgroup(cgroup: &Path) {
    for _ in 0..1000 {
        match std::fs::remove_dir(cgroup) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            _ => return,
        }
    }
}

/// First processes of a double's containers that still run.
pub(crate) fn running(base: &Path) -> Vec<i32> {
    let list = std::fs::read_to_string(base.join(LIST)).unwrap_or_default();
    let is_container = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let number = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let inner = number.and_then(|number| number.split_whitespace().nth(1).map(str::to_owned));
        inner.as_deref() == Some("1") && !status.contains("\nState:\tZ")
    };
    list.lines().filter_map(|line| line.parse().ok()).filter(is_container).collect()
}

/// What a double that was killed has left.
pub(crate) fn sweep(base: &Path, double: u32) {
    for pid in running(base) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    for controller in CONTROLLERS {
        let root = root(controller, double);
        let machines = std::fs::read_dir(root.join("minimega")).into_iter().flatten().flatten();
        machines.map(|entry| entry.path()).filter(|path| path.is_dir()).for_each(|path| remove_cgroup(&path));
        remove_cgroup(&root.join("minimega"));
        remove_cgroup(&root);
    }
}

/// Cgroups of machines that a double has, or has left.
pub(crate) fn cgroups(double: u32) -> Vec<PathBuf> {
    let machines = |controller| std::fs::read_dir(root(controller, double).join("minimega")).into_iter().flatten();
    CONTROLLERS
        .into_iter()
        .flat_map(machines)
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}
