//! Containers in minimega and the agent in them: what they are made of, and how the agent is reached.
//!
//! The container's first process is vptest. It listens on a unix socket in a directory of memory that minimega gives each
//! container (`/dev`), which this host reaches through the root directory of that process, as the kernel shows it. So no
//! network, no heartbeat of miniccc and no file of this host is on the way. A container is not trusted: the way to the socket
//! follows no link and does not leave its root, and the kernel says that it is that process who listens.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use super::daemon::Daemon;
use super::guest::{LINK, mac};
use super::machine::{Kind, Machine, Nic, Plan};
use super::socket::running_since;
use crate::agent::{AgentError, CONTAINER_SOCKET, Client, Limits};
use crate::ids::NodeId;
use crate::image::BUNDLE_PROGRAM;
use crate::units::ByteSize;

const POLL: Duration = Duration::from_millis(10);
/// How long a console may take to show what it has kept.
const CONSOLE: Duration = Duration::from_millis(500);
/// Where vptest is in a container whose root directory is not vptest's.
const PROGRAMS: &str = "/.vptest";

/// What a container starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Filesystem {
    /// A directory that vptest made, with vptest in it.
    Own(PathBuf),
    /// The user's, and a directory with vptest and its libraries that is shown to the container beside.
    Users(String, PathBuf),
}

/// The container of a client or server. Its command line has the name of the namespace, by which it is found when nobody has
/// noted it. Pure.
pub(super) fn plan(node: NodeId, namespace: &str, filesystem: &Filesystem, memory: ByteSize, vcpus: u32) -> Plan {
    let shown = |path: &Path| path.to_string_lossy().into_owned();
    let (filesystem, volumes, program) = match filesystem {
        Filesystem::Own(path) => (shown(path), Vec::new(), "/bin/vptest".to_owned()),
        Filesystem::Users(path, programs) => {
            let program = format!("{PROGRAMS}/{BUNDLE_PROGRAM}");
            (path.clone(), vec![(PROGRAMS.to_owned(), shown(programs))], program)
        }
    };
    let mut init = vec![program.clone(), "agent".to_owned(), "--container".to_owned(), CONTAINER_SOCKET.to_owned()];
    init.extend(["--machine".to_owned(), namespace.to_owned()]);
    if !volumes.is_empty() {
        init.extend(["--program".to_owned(), program]);
    }
    plan_of(node, Kind::Container { filesystem, init, volumes }, memory, vcpus)
}

/// A container with a card in its pair's network.
pub(super) fn plan_of(node: NodeId, kind: Kind, memory: ByteSize, vcpus: u32) -> Plan {
    let nic = Nic { bridge: None, vlan: LINK.to_owned(), mac: mac(node), driver: None };
    let memory_mib = memory.0.div_ceil(1 << 20);
    Plan { name: node.to_string(), kind, memory_mib, vcpus, nics: vec![nic] }
}

/// A container's first process, which is the same from its launch to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct First {
    pub(super) pid: i32,
    started: u64,
}

impl First {
    /// That of a machine on this host.
    ///
    /// # Errors
    /// When it is elsewhere, or has ended.
    pub(super) fn of(machine: &Machine, daemon: &Daemon) -> io::Result<Self> {
        if machine.host != daemon.host {
            // A process of the same number may be here, and another's.
            return Err(io::Error::other(format!("it is on the host {} of the mesh, and not here", machine.host)));
        }
        let unknown = || io::Error::other("minimega does not say its process");
        let pid = machine.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1).ok_or_else(unknown)?;
        Ok(Self { pid, started: running_since(pid).ok_or_else(ended)? })
    }

    pub(super) fn has_ended(self) -> bool {
        running_since(self.pid) != Some(self.started)
    }

    /// Something of it below `/proc`, opened while it was this process.
    fn open(self, name: &str) -> io::Result<OwnedFd> {
        let mut options = File::options();
        let opened = options.read(true).custom_flags(libc::O_PATH).open(format!("/proc/{}/{name}", self.pid));
        if self.has_ended() { Err(ended()) } else { Ok(opened?.into()) }
    }
}

fn ended() -> io::Error {
    io::Error::other("its first process has ended")
}

/// Waits until the agent of a container that runs answers.
///
/// # Errors
/// [`AgentError::Here`] when there is no socket in time or the container has ended, and what a conversation can have.
pub(super) async fn reach(first: First, name: &str, limit: Duration) -> Result<Client, AgentError> {
    let deadline = Instant::now() + limit;
    let failed = |source| AgentError::Here { what: format!("reach the agent of {name}"), source };
    let stream = loop {
        match connect(first).await {
            Ok(stream) => break stream,
            Err(error) if first.has_ended() || Instant::now() >= deadline => return Err(failed(error)),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    };
    let (read, write) = stream.into_split();
    let left = deadline.saturating_duration_since(Instant::now());
    Client::connect(read, write, Limits { handshake: left, ..Limits::default() }).await
}

/// Connects to the socket in the container, if it is that of its first process.
async fn connect(first: First) -> io::Result<UnixStream> {
    let root = first.open("root")?;
    let socket = within(&root, Path::new(CONTAINER_SOCKET))?;
    // A descriptor cannot be led elsewhere any more.
    let stream = UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await?;
    let peer = stream.peer_cred()?.pid();
    if peer == Some(first.pid) && !first.has_ended() {
        return Ok(stream);
    }
    let peer = peer.map_or_else(|| "an unknown process".to_owned(), |pid| format!("process {pid}"));
    Err(io::Error::other(format!("{peer} listens at {CONTAINER_SOCKET}, and not its first one ({})", first.pid)))
}

/// Is there such a directory, as the process sees it? Also by links, which lead where they lead for that process.
pub(super) fn has_directory(pid: i32, path: &Path) -> bool {
    let look = || -> io::Result<bool> {
        let root = File::open(format!("/proc/{pid}/root"))?;
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
        Ok(File::from(openat2(&root, path, how)?).metadata()?.is_dir())
    };
    look().unwrap_or(false)
}

/// A socket below a root directory, on a way without links and other file systems' tricks.
fn within(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(resolve);
    let found = File::from(openat2(root, path, how)?);
    match found.metadata()?.file_type().is_socket() {
        true => Ok(found.into()),
        false => Err(io::Error::other(format!("{} in it is no socket", path.display()))),
    }
}

/// The end of what a container has written to its console; empty where minimega has it no more.
pub(super) async fn console(daemon: &Daemon, machine: &Machine) -> Vec<u8> {
    let path = daemon.base.join(machine.id.to_string()).join("console");
    let (deadline, mut kept) = (Instant::now() + CONSOLE, Vec::new());
    let Ok(Ok(mut stream)) = timeout_at(deadline, UnixStream::connect(path)).await else { return kept };
    // It shows what it has kept and then waits for more.
    let mut piece = [0; 4096];
    while let Ok(Ok(count)) = timeout_at(deadline, stream.read(&mut piece)).await {
        if count == 0 || kept.len() > 64 << 10 {
            break;
        }
        kept.extend(&piece[..count]);
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_container_starts_the_agent_of_its_own_root_or_of_what_is_beside() {
        let (node, memory) = (NodeId::client(1), ByteSize(384 << 20));
        let lines = |filesystem: &Filesystem| {
            let plan = plan(node, "vptest-0-a-b", filesystem, memory, 2);
            plan.configuration().unwrap().iter().map(|words| words[2..].join(" ")).collect::<Vec<_>>()
        };
        let own = lines(&Filesystem::Own("/c/fs".into()));
        assert_eq!(
            own,
            [
                "memory 384",
                "vcpus 2",
                "filesystem /c/fs",
                "snapshot true",
                "init /bin/vptest agent --container /dev/vptest.agent --machine vptest-0-a-b",
                "net link,52:54:00:00:01:01",
            ]
        );
        let users = lines(&Filesystem::Users("/my".to_owned(), "/scratch/vptest".into()));
        assert_eq!(users[2], "filesystem /my");
        assert!(
            users[4].starts_with("init /.vptest/vptest agent ") && users[4].ends_with(" --program /.vptest/vptest")
        );
        assert_eq!(users[5], "volume /.vptest /scratch/vptest");
    }

    /// What a container could put in the agent's place.
    #[test]
    fn the_way_to_the_socket_cannot_be_led_astray() {
        let place = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (place.path().join("root"), place.path().join("elsewhere"));
        for directory in [root.join("dev"), elsewhere.join("dev")] {
            std::fs::create_dir_all(directory).unwrap();
        }
        let _listener = UnixListener::bind(elsewhere.join("dev/socket")).unwrap();
        let opened = || OwnedFd::from(File::open(&root).unwrap());
        let look = |path: &str| within(&opened(), Path::new(path)).map(drop);
        symlink(elsewhere.join("dev/socket"), root.join("dev/linked")).unwrap();
        symlink(&elsewhere, root.join("away")).unwrap();
        std::fs::write(root.join("dev/file"), "").unwrap();
        for astray in ["/dev/linked", "/away/dev/socket", "/../elsewhere/dev/socket", "/dev/file", "/dev/none"] {
            assert!(look(astray).is_err(), "{astray}");
        }
        let _own = UnixListener::bind(root.join("dev/socket")).unwrap();
        look("/dev/socket").unwrap();
    }

    #[tokio::test]
    async fn only_the_first_process_is_believed() {
        // This process is no container: its root directory has no such socket.
        let pid = i32::try_from(std::process::id()).unwrap();
        let first = First { pid, started: running_since(pid).unwrap() };
        assert!(!first.has_ended() && connect(first).await.is_err());
        let another = First { started: first.started + 1, ..first };
        assert!(another.has_ended());
        let error = reach(another, "client1", Duration::from_secs(60)).await.unwrap_err();
        assert!(anyhow::Error::from(error).root_cause().to_string().contains("first process has ended"));
    }
}
