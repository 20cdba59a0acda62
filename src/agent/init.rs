//! The first process of a guest whose image vptest made: mounts, modules, then the agent in a process of its own. And that of
//! a container, where others have mounted everything.
//!
//! The first process starts nothing else and reaps whatever loses its parent, so that it never takes the exit status of
//! one of the agent's children away from the agent. When the agent ends the guest ends, and with it QEMU.

use std::ffi::CString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, Pid, fork, sethostname};

use super::modules::Modules;
use super::server::{self, Options, Source};

/// Where commands of the guest look for programs.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Has the agent in this process been started by the first process of the guest, as the one that the guest is there for?
pub(super) fn is_under_way() -> bool {
    SERVING.load(Ordering::Relaxed)
}

/// How an agent ended that was told to.
const WELL: &str = "ended with status 0";

static SERVING: AtomicBool = AtomicBool::new(false);

/// Prepares the guest and serves the agent's port until the agent ends; then the guest ends.
///
/// # Errors
///
/// This is not the first process of a machine, or the agent cannot be started. It does not return otherwise.
pub fn run() -> io::Result<()> {
    if std::process::id() != 1 {
        return Err(io::Error::other("`agent --init` is for the first process of a guest, started by its kernel"));
    }
    say("first process");
    mount_all();
    let arguments = Arguments::read();
    if let Err(error) = sethostname(&arguments.node) {
        say(&format!("cannot set the host name to {}: {error}", arguments.node));
    }
    load(&arguments);
    set_environment();
    let end = agent_beside(super::PORT, serve)?;
    say(&format!("agent {end}; the guest ends"));
    Err(end_guest())
}

/// Runs the agent of a container at a unix socket until it ends; then the container ends.
///
/// The socket is made by the first process, so that whoever connects to it can see whose it is.
///
/// # Errors
///
/// This is not the first process of a PID namespace, the socket cannot be made, or the agent has ended other than well.
pub fn run_container(socket: &Path, program: Option<PathBuf>) -> io::Result<()> {
    if std::process::id() != 1 {
        return Err(io::Error::other("`agent --container` is for the first process of a container"));
    }
    set_environment();
    let listener = UnixListener::bind(socket)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot make {}: {error}", socket.display())))?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    name_thread();
    let options = Options { program, ..Options::guest()? };
    let end = agent_beside(&socket.display().to_string(), || server::serve_socket(listener, &options))?;
    say(&format!("agent {end}; the container ends"));
    match end.as_str() {
        WELL => Ok(()),
        end => Err(io::Error::other(format!("the agent {end}"))),
    }
}

/// A thread's name is all that tells the agent's system calls from the workload's, where containers share a kernel.
fn name_thread() {
    let name = CString::new(super::THREAD).unwrap_or_default();
    if let Err(error) = nix::sys::prctl::set_name(&name) {
        say(&format!("cannot name the agent: {error}"));
    }
}

/// Runs the agent in a process of its own, and reaps until it ends; says how it did.
fn agent_beside(place: &str, serve: impl FnOnce() -> io::Result<()>) -> io::Result<String> {
    // SAFETY: this process has one thread, so nothing in the child can wait for a lock that no one will release.
    #[expect(unsafe_code, reason = "starting the agent again as a program would cost its loading time twice")]
    let forked = unsafe { fork() }?;
    match forked {
        ForkResult::Child => {
            say(&format!("agent waits on {place}"));
            let status = match serve() {
                Ok(()) => 0,
                Err(error) => {
                    say(&format!("agent: {error}"));
                    1
                }
            };
            #[expect(clippy::exit, reason = "what follows is for the first process, and this is its child")]
            std::process::exit(status)
        }
        ForkResult::Parent { child } => Ok(reap_until(child)),
    }
}

fn serve() -> io::Result<()> {
    SERVING.store(true, Ordering::Relaxed);
    server::serve(&Source::Port(super::PORT.to_owned()), Options::guest()?)
}

/// Ends the guest at once, whatever still runs in it; files on disks are written out first.
///
/// A restart rather than switching off: it needs no ACPI, and QEMU is started with `-no-reboot`. Returns only when the
/// kernel refuses.
pub fn end_guest() -> io::Error {
    nix::unistd::sync();
    match reboot(RebootMode::RB_AUTOBOOT) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

/// A line on the console, with the seconds since the kernel started.
pub(super) fn say(text: &str) {
    let up = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0.0, |up| std::time::Duration::from(up).as_secs_f64());
    // A console that takes nothing is no reason to end.
    let _ = writeln!(io::stdout().lock(), "vptest: [{up:.3}] {text}");
}

/// What the testbed tells the guest by the kernel's command line.
#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    /// `vptest.node=NAME`
    node: String,
    /// `vptest.modules=A,B`: loaded after those that the image names.
    modules: Vec<String>,
    line: String,
}

impl Arguments {
    fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    fn parse(line: &str) -> Self {
        let value = |name: &str| line.split_whitespace().filter_map(|word| word.strip_prefix(name)).next_back();
        let modules = value("vptest.modules=").unwrap_or_default().split(',');
        Self {
            node: value("vptest.node=").unwrap_or("guest").to_owned(),
            modules: modules.filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            line: line.to_owned(),
        }
    }
}

/// File systems: what, where, options. What the kernel does not have is passed over. All are in memory, as the image is:
/// whoever fills one up is to be told so, before the kernel has no memory left and ends the agent.
const MOUNTS: [(&str, &str, &str); 9] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=0755"),
    ("devpts", "/dev/pts", "mode=0620,gid=5,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", "mode=1777,size=25%"),
    ("tmpfs", "/tmp", "mode=1777,size=25%"),
    ("tmpfs", "/run", "mode=0755,size=10%"),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("tracefs", "/sys/kernel/tracing", ""),
];

fn mount_all() {
    for (kind, place, options) in MOUNTS {
        // Those below /dev are made here; those below /sys are the kernel's, there if it can use them.
        let there = place.starts_with("/sys/") || fs::create_dir_all(place).is_ok();
        if !there || !Path::new(place).is_dir() {
            continue;
        }
        let flags = MsFlags::MS_NOSUID;
        if let Err(error) = mount(Some(kind), place, Some(kind), flags, Some(options)) {
            // A kernel that mounts /dev by itself has done so already.
            if error != nix::Error::EBUSY && error != nix::Error::ENODEV {
                say(&format!("cannot mount {place}: {error}"));
            }
        }
    }
}

fn load(arguments: &Arguments) {
    let modules = match Modules::open() {
        Ok(modules) => modules.with_arguments(&arguments.line),
        Err(error) => {
            say(&format!("no modules: {error}"));
            return;
        }
    };
    let asked = modules.at_boot().into_iter().chain(arguments.modules.clone());
    for name in asked {
        if let Err(error) = modules.load(&name) {
            say(&format!("{error}"));
        }
    }
    say("modules loaded");
}

fn set_environment() {
    for (name, value) in [("PATH", SEARCH_PATH), ("HOME", "/root"), ("LC_ALL", "C")] {
        // SAFETY: this process has one thread.
        #[expect(unsafe_code, reason = "the agent's commands inherit it")]
        unsafe {
            std::env::set_var(name, value);
        }
    }
}

/// Waits for all children, own and adopted, until `wanted` has ended; says how it did.
fn reap_until(wanted: Pid) -> String {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, 0)) if pid == wanted => return WELL.to_owned(),
            Ok(WaitStatus::Exited(pid, status)) if pid == wanted => return format!("ended with status {status}"),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == wanted => {
                return format!("was ended by {}", name(signal));
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return format!("cannot be waited for: {error}"),
        }
    }
}

fn name(signal: Signal) -> &'static str {
    signal.as_str()
}

#[cfg(test)]
mod tests {
    use super::Arguments;

    #[test]
    fn what_the_testbed_says_is_read_from_the_command_line() {
        let line = "console=ttyS0 vptest.node=client1 vptest.modules=e1000,ip_gre, quiet\n";
        let arguments = Arguments::parse(line);
        assert_eq!(arguments.node, "client1");
        assert_eq!(arguments.modules, ["e1000", "ip_gre"]);
        let none = Arguments::parse("quiet");
        assert_eq!((none.node.as_str(), none.modules.len()), ("guest", 0));
    }

    #[test]
    fn only_a_first_process_is_one() {
        assert!(super::run().unwrap_err().to_string().contains("first process"));
        let socket = std::path::Path::new("/nowhere");
        assert!(super::run_container(socket, None).unwrap_err().to_string().contains("first process"));
    }
}
