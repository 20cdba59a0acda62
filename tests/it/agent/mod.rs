//! The agent as a real process, over pipes as ssh would give it.

mod calls;
mod captures;
mod ends;
mod files;
mod greeting;
mod network;

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;
use vptest::agent::{AgentError, ArchiveReceipt, Client, FailureKind, Limits, ResultsDisk, results};
use vptest::host::namespace::Namespace;
use vptest::node;

const VPTEST: &str = env!("CARGO_BIN_EXE_vptest");
/// Far longer than anything takes here.
const LONG: Duration = Duration::from_secs(60);

/// A running agent. Dropping it kills it.
pub(crate) struct Agent {
    child: Child,
    scratch: tempfile::TempDir,
}

impl Agent {
    fn start(arguments: &[&str]) -> (Self, pipe::Receiver, pipe::Sender) {
        Self::start_with(arguments, &[])
    }

    /// With these variables.
    fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> (Self, pipe::Receiver, pipe::Sender) {
        let scratch = tempfile::tempdir().unwrap();
        let mut child = Command::new(VPTEST)
            .args(["agent", "--stdio", "--scratch"])
            .arg(scratch.path())
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = pipe::Sender::from_owned_fd(OwnedFd::from(child.stdin.take().unwrap())).unwrap();
        let output = pipe::Receiver::from_owned_fd(OwnedFd::from(child.stdout.take().unwrap())).unwrap();
        (Self { child, scratch }, output, input)
    }

    async fn connect() -> (Self, Client) {
        let (agent, output, input) = Self::start(&[]);
        let client = Client::connect(output, input, Limits::default()).await.unwrap();
        (agent, client)
    }

    fn path(&self, name: &str) -> String {
        self.scratch.path().join(name).to_str().unwrap().to_owned()
    }

    fn files(&self) -> usize {
        fs::read_dir(self.scratch.path()).unwrap().count()
    }

    /// Waits for its end.
    async fn end(mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the agent goes on for ever");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// `VmHWM` in bytes.
    fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
    }
}

impl Agent {
    /// Bytes it has written to anything.
    fn written(&self) -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
    }

    /// Is it writing a file in its scratch directory, one without a name included, and has it more than a MiB already?
    fn is_writing(&self) -> bool {
        let open = fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        open.flatten().any(|fd| {
            let ours = fs::read_link(fd.path()).is_ok_and(|link| link.starts_with(self.scratch.path()));
            ours && fs::metadata(fd.path()).is_ok_and(|file| file.is_file() && file.len() > 1 << 20)
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(argv: &[&str]) -> node::Command {
    node::Command { argv: argv.iter().map(|word| (*word).to_owned()).collect(), ..node::Command::default() }
}

fn failure(error: &AgentError) -> FailureKind {
    error.failure().unwrap_or_else(|| panic!("no failure of the agent: {error:?}"))
}

/// Waits until `done` says so.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Bytes that are cheap to make and different everywhere.
struct Pattern {
    at: u64,
    length: u64,
}

impl AsyncRead for Pattern {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.at < self.length && into.remaining() >= 8 {
            let word = self.at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
            let left = usize::try_from(self.length - self.at).unwrap_or(8).min(8);
            into.put_slice(&word[..left]);
            self.at += 8;
        }
        Poll::Ready(Ok(()))
    }
}

#[test]
fn an_agent_that_cannot_have_its_port_makes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let scratch = place.path().join("scratch");
    let command = ["agent", "--port", "org.vptest.nosuch", "--scratch"];
    let ended = Command::new(VPTEST).args(command).arg(&scratch).output().unwrap();
    assert!(!ended.status.success() && String::from_utf8_lossy(&ended.stderr).contains("org.vptest.nosuch"));
    assert!(!scratch.exists());
}

/// The disk as its host has it, where it is one file.
#[derive(Debug)]
struct Image {
    disk: std::path::PathBuf,
    place: tempfile::TempDir,
    /// Is a bit turned before it is read?
    spoil: AtomicBool,
}

#[async_trait::async_trait]
impl ResultsDisk for Image {
    async fn read(&self, receipt: &ArchiveReceipt, into: &Path) -> io::Result<Vec<std::path::PathBuf>> {
        if self.spoil.load(Ordering::Relaxed) {
            let mut disk = fs::read(&self.disk)?;
            disk[5000] ^= 1;
            fs::write(&self.disk, disk)?;
        }
        let files = results::read_as_told(&self.disk, receipt, results::ReadLimits::default(), into);
        Ok(files.map_err(io::Error::other)?.into_iter().map(|file| file.path).collect())
    }

    fn place(&self) -> &Path {
        self.place.path()
    }

    fn setting(&self) -> String {
        "of a test".to_owned()
    }
}

/// An agent in a network namespace of its own, with a veth pair `va` (02:00:00:00:00:01) and `vb` in it.
async fn in_namespace() -> (Arc<Namespace>, Agent, Client) {
    let namespace = Arc::new(Namespace::new().unwrap());
    let started = namespace.run(|| {
        let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
        let batch = "link add va type veth peer name vb address 02:00:00:00:00:02\n\
                     link set va address 02:00:00:00:00:01\nlink set vb up\n";
        child.stdin.take().unwrap().write_all(batch.as_bytes())?;
        assert!(child.wait()?.success());
        fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")?;
        Ok(())
    });
    started.unwrap();
    let (agent, client) = agent_in(&namespace).await;
    (namespace, agent, client)
}

/// An agent in this namespace.
pub(crate) async fn agent_in(namespace: &Namespace) -> (Agent, Client) {
    agent_with(namespace, &[]).await
}

/// The same with these arguments.
async fn agent_with(namespace: &Namespace, arguments: &[&str]) -> (Agent, Client) {
    let started = namespace.run(|| {
        let scratch = tempfile::tempdir()?;
        let mut child = Command::new(VPTEST)
            .args(["agent", "--stdio", "--scratch"])
            .arg(scratch.path())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipes = (OwnedFd::from(child.stdin.take().unwrap()), OwnedFd::from(child.stdout.take().unwrap()));
        Ok((Agent { child, scratch }, pipes))
    });
    let (agent, (input, output)) = started.unwrap();
    let (input, output) = (pipe::Sender::from_owned_fd(input).unwrap(), pipe::Receiver::from_owned_fd(output).unwrap());
    let client = Client::connect(output, input, Limits::default()).await.unwrap();
    (agent, client)
}

#[test]
fn a_person_is_sent_away_and_help_tells_what_it_is_for() {
    let help = Command::new(VPTEST).args(["agent", "--help"]).output().unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(text.contains("ssh node vptest agent --stdio") && text.contains("listens on no network"), "{text}");
    for arguments in [&["agent"][..], &["agent", "--stdio", "--init"]] {
        assert_eq!(Command::new(VPTEST).args(arguments).output().unwrap().status.code(), Some(2), "{arguments:?}");
    }
    let port =
        Command::new(VPTEST).args(["agent", "--port", "org.example.none", "--scratch", "/tmp"]).output().unwrap();
    assert_eq!(port.status.code(), Some(3));
    assert!(String::from_utf8(port.stderr).unwrap().contains("no virtio-serial port org.example.none"));
}
