//! The agent as a real process, over pipes as ssh would give it.

use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::unix::pipe;
use vptest::agent::wire::{Answer, GREETING, PROTOCOL, Preamble};
use vptest::agent::{
    AgentError, ArchiveReceipt, CaptureEnd, CaptureRequest, Client, FailureKind, InterfaceSetup, Limits, Lost,
    NetworkSetup, ResultsDisk, RouteSetup, SMALL, TunnelSetup, results,
};
use vptest::host::namespace::Namespace;
use vptest::ids::{NodeId, Vantage};
use vptest::instrument::capture::{Captures, FlowOptions, FlowSinks};
use vptest::node::agent::AgentNode;
use vptest::node::{self, ExitStatus, Node as _, NodeError, Process as _, Stream};
use vptest::record::{Capture, Problem, Weight};
use vptest::spec::CaptureSpec;
use vptest::testbed::minimega::guest;
use vptest::testbed::{CapturePoint, CaptureSource};

use crate::need::{program, root};

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

#[tokio::test]
async fn an_agent_says_what_it_is() {
    let (agent, client) = Agent::connect().await;
    let hello = client.hello();
    assert_eq!((hello.protocol, hello.version.as_str()), (PROTOCOL, env!("CARGO_PKG_VERSION")));
    assert_eq!(hello.pid, Some(agent.child.id()));
    assert_eq!(hello.kernel.as_deref(), Some(fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim()));
    assert!(hello.memory.unwrap() > 1 << 20 && hello.cpus.unwrap() > 0 && !hello.first_process);
    let build = client.build().await.unwrap();
    let sum = Command::new("sha256sum").arg(VPTEST).output().unwrap();
    assert!(String::from_utf8(sum.stdout).unwrap().starts_with(&build), "{build}");
    drop(client);
    assert!(agent.end().await.success());
}

#[tokio::test]
async fn commands_run_and_report() {
    let (agent, client) = Agent::connect().await;
    let mut both = client.spawn(&command(&["sh", "-c", "echo out; echo err >&2; pwd; exit 7"])).await.unwrap();
    let exit = both.wait().await.unwrap();
    assert_eq!(exit.status, ExitStatus::Code(7));
    let scratch = agent.scratch.path().canonicalize().unwrap();
    assert_eq!(String::from_utf8(both.output(Stream::Out).bytes).unwrap(), format!("out\n{}\n", scratch.display()));
    assert_eq!(both.output(Stream::Err).bytes, b"err\n");
    assert!(exit.cpu_user.is_some() && exit.cpu_system.is_some() && exit.wall > Duration::ZERO);
    assert_eq!(both.wait().await.unwrap(), exit, "a second wait says the same");

    let error = client.spawn(&command(&["no-such-program-at-all"])).await.unwrap_err();
    assert_eq!(failure(&error), FailureKind::NoProgram);
    let nowhere = node::Command { directory: Some("/no/such/place".to_owned()), ..command(&["true"]) };
    assert_eq!(failure(&client.spawn(&nowhere).await.unwrap_err()), FailureKind::NotFound);
    assert_eq!(failure(&client.spawn(&command(&[])).await.unwrap_err()), FailureKind::Invalid);

    let pinned = node::Command {
        cpus: Some(vec![0]),
        env: vec![("COLOUR".to_owned(), "green".to_owned())],
        ..command(&["sh", "-c", "echo $COLOUR; grep Cpus_allowed_list /proc/self/status"])
    };
    let mut pinned = client.spawn(&pinned).await.unwrap();
    assert_eq!(pinned.affinity(), Some(vec![0]));
    pinned.wait().await.unwrap();
    assert_eq!(pinned.output(Stream::Out).bytes, b"green\nCpus_allowed_list:\t0\n");
    assert_eq!(pinned.affinity(), None, "it has ended");
}

#[tokio::test]
async fn output_is_streamed_and_signals_arrive() {
    let (_agent, client) = Agent::connect().await;
    let script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    let mut process = client.spawn(&command(&["sh", "-c", script])).await.unwrap();
    until("output while it runs", || process.output(Stream::Out).bytes == b"ready\n").await;
    process.signal(libc::SIGTERM).unwrap();
    assert_eq!(process.wait().await.unwrap().status, ExitStatus::Code(3));
    assert_eq!(process.output(Stream::Out).bytes, b"ready\ncaught\n");
    let mut killed = client.spawn(&command(&["sleep", "1000"])).await.unwrap();
    killed.signal(libc::SIGKILL).unwrap();
    assert_eq!(killed.wait().await.unwrap().status, ExitStatus::Signal(libc::SIGKILL));
}

#[tokio::test]
async fn a_process_that_is_given_up_is_killed() {
    let (agent, client) = Agent::connect().await;
    let fifo = agent.path("held");
    nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut held = pipe::OpenOptions::new().open_receiver(&fifo).unwrap();
    let process = client.spawn(&command(&["sh", "-c", "exec 3>held; echo up >&3; sleep 1000"])).await.unwrap();
    let mut up = [0; 3];
    held.read_exact(&mut up).await.unwrap();
    drop(process);
    let end = tokio::time::timeout(LONG, held.read(&mut up)).await.unwrap().unwrap();
    assert_eq!(end, 0, "somebody still holds the pipe");
}

#[tokio::test]
async fn files_of_256_mib_come_and_go_whole() {
    let (agent, client) = Agent::connect().await;
    let length = 256 << 20;
    let sent = client.put("big", 0o600, length, Pattern { at: 0, length }).await.unwrap();
    assert_eq!(sent.bytes, length);
    let sum = Command::new("sha256sum").arg(agent.path("big")).output().unwrap();
    assert!(String::from_utf8(sum.stdout).unwrap().starts_with(&sent.sha256));
    let back = client.get(&agent.path("big"), length, tokio::io::sink()).await.unwrap();
    assert_eq!(back, sent);
    let peak = agent.peak_memory();
    assert!(peak < 100 << 20, "the agent needed {peak} bytes for a file that it only passes on");
    assert_eq!(agent.files(), 1, "something else was left");
}

#[tokio::test]
async fn files_are_there_whole_or_not_at_all() {
    let (agent, client) = Agent::connect().await;
    let short = client.put("x", 0o644, 10, &b"short"[..]).await.unwrap_err();
    assert!(matches!(short, AgentError::Here { .. }), "{short:?}");
    let long = client.put("x", 0o644, 3, &b"longer"[..]).await.unwrap_err();
    assert!(matches!(long, AgentError::Here { .. }), "{long:?}");
    let nowhere = client.put("no/such/place", 0o644, 1, &b"1"[..]).await.unwrap_err();
    assert_eq!(failure(&nowhere), FailureKind::NotFound);
    until("the call to be given up", || agent.files() == 0).await;
    client.put("x", 0o644, 5, &b"hello"[..]).await.unwrap();
    client.put("x", 0o755, 0, tokio::io::empty()).await.unwrap();
    assert_eq!(fs::read(agent.path("x")).unwrap(), b"");

    let mut content = Vec::new();
    fs::write(agent.path("y"), b"12345").unwrap();
    client.get("y", 5, &mut content).await.unwrap();
    assert_eq!(content, b"12345");
    assert_eq!(failure(&client.get("y", 4, &mut content).await.unwrap_err()), FailureKind::TooLarge);
    assert_eq!(failure(&client.get("z", 4, &mut content).await.unwrap_err()), FailureKind::NotFound);
    assert_eq!(failure(&client.get("/dev/zero", 4, &mut content).await.unwrap_err()), FailureKind::Invalid);
    assert!(client.exists("y").await.unwrap() && !client.exists("z").await.unwrap());

    let paths = ["/proc/uptime", "z", "y", "/proc"].map(str::to_owned);
    let files = client.read_files(&paths, 4096).await.unwrap();
    assert!(files[0].as_ref().is_some_and(|uptime| !uptime.is_empty()));
    assert_eq!(files[1..], [None, Some(b"12345".to_vec()), None]);
    let paths = ["y".to_owned()];
    assert_eq!(failure(&client.read_files(&paths, 4).await.unwrap_err()), FailureKind::TooLarge);
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_one() {
    if !root() || !program("mount") {
        return;
    }
    let (agent, client) = Agent::connect().await;
    let directory = agent.path("small");
    fs::create_dir(&directory).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs", &directory]).status().unwrap();
    assert!(mounted.success());
    let length = 64 << 20;
    let error = client.put("small/x", 0o644, length, Pattern { at: 0, length }).await.unwrap_err();
    let left = fs::read_dir(&directory).unwrap().count();
    assert!(Command::new("umount").arg(&directory).status().unwrap().success());
    assert_eq!((failure(&error), left), (FailureKind::NoSpace, 0));
    assert!(client.exists("small").await.unwrap(), "the conversation goes on");
}

#[tokio::test]
async fn an_agent_behind_a_node_does_what_nodes_do() {
    let (agent, client) = Agent::connect().await;
    let node = AgentNode { id: NodeId::client(1), address: Ipv4Addr::LOCALHOST.into(), client };
    assert_eq!(Path::new(node.scratch()), agent.scratch.path());
    node.put("run.sh", b"#!/bin/sh\necho $1\n").await.unwrap();
    let mut process = node.spawn(&command(&["./run.sh", "hello"])).await.unwrap();
    assert!(process.wait().await.unwrap().status.success());
    assert_eq!(process.output(Stream::Out).bytes, b"hello\n");
    assert_eq!(node.get("run.sh", 100).await.unwrap(), b"#!/bin/sh\necho $1\n");
    assert!(matches!(node.get("run.sh", 3).await, Err(NodeError::TooLarge { limit: 3, .. })));
    let Err(missing) = node.spawn(&command(&["no-such-program"])).await else { panic!("it was started") };
    assert!(matches!(missing, NodeError::NoProgram { .. }), "{missing:?}");
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(node.listening(port).await.unwrap());
    drop(listener);
    assert!(!node.listening(port).await.unwrap());
}

/// A reader that stops after some bytes, and goes on when told to.
struct Stalling {
    inner: pipe::Receiver,
    left: u64,
    go: tokio::sync::watch::Receiver<bool>,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl AsyncRead for Stalling {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 && !*self.go.borrow() {
            let mut go = self.go.clone();
            let waiting =
                self.waiting.get_or_insert_with(|| Box::pin(async move { drop(go.wait_for(|go| *go).await) }));
            std::task::ready!(waiting.as_mut().poll(cx));
        }
        let before = into.filled().len();
        std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, into))?;
        let count = (into.filled().len() - before) as u64;
        self.left = self.left.saturating_sub(count);
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn memory_is_bounded_while_the_host_does_not_read() {
    let (agent, output, input) = Agent::start(&[]);
    let (go, went) = tokio::sync::watch::channel(false);
    let stalling = Stalling { inner: output, left: 8 << 20, go: went, waiting: None };
    let client = Client::connect(stalling, input, Limits::default()).await.unwrap();
    let before = agent.peak_memory();
    let mut commands = Vec::new();
    for _ in 0..8 {
        commands.push(client.spawn(&command(&["head", "-c", "50M", "/dev/zero"])).await.unwrap());
    }
    // The agent has written what the channel takes and waits in it.
    let (mut last, mut same) = (0, 0);
    until("the agent to stand still", || {
        let now = agent.written();
        same = if std::mem::replace(&mut last, now) == now { same + 1 } else { 0 };
        now > 8 << 20 && same >= 20
    })
    .await;
    go.send_replace(true);
    for command in &mut commands {
        assert!(command.wait().await.unwrap().status.success());
        let output = command.output(Stream::Out);
        assert_eq!((output.bytes.len(), output.truncated), (50 << 20, false));
    }
    let grown = agent.peak_memory() - before;
    assert!(grown < 64 << 20, "8 outputs of 50 MiB made the agent grow by {grown} bytes");
}

/// A sink that takes nothing until it is told to.
struct Shut(tokio::sync::oneshot::Receiver<()>, bool);

impl AsyncWrite for Shut {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.1 {
            let _ = std::task::ready!(Pin::new(&mut self.0).poll(cx));
            self.1 = true;
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn one_slow_receiver_holds_nobody_up() {
    let (agent, client) = Agent::connect().await;
    let length = 64 << 20;
    client.put("big", 0o644, length, Pattern { at: 0, length }).await.unwrap();
    let (open, shut) = tokio::sync::oneshot::channel();
    let slow = {
        let client = client.clone();
        tokio::spawn(async move { client.get("big", length, Shut(shut, false)).await })
    };
    // Meanwhile everything else goes on: other files, commands, the clock.
    for _ in 0..3 {
        client.get("big", length, tokio::io::sink()).await.unwrap();
        let mut process = client.spawn(&command(&["true"])).await.unwrap();
        assert!(process.wait().await.unwrap().status.success());
        client.clock(1).await.unwrap();
    }
    assert!(!slow.is_finished());
    open.send(()).unwrap();
    assert_eq!(slow.await.unwrap().unwrap().bytes, length);
    assert!(agent.peak_memory() < 100 << 20);
}

#[tokio::test]
async fn the_clock_of_the_same_host_is_the_same() {
    let (_agent, client) = Agent::connect().await;
    let reading = client.clock(20).await.unwrap();
    assert!(reading.at_least_ns <= 0 && reading.at_most_ns >= 0, "{reading:?}");
    assert!(reading.rounds == 20 && reading.at_least_ns <= reading.at_most_ns, "{reading:?}");
}

/// Has the agent start a program that leaves its session, and begin a file that never ends; returns what shows whether the
/// program lives.
async fn busy(agent: &Agent, client: &Client) -> (pipe::Receiver, tokio::task::JoinHandle<AgentError>) {
    let fifo = agent.path("held");
    nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut held = pipe::OpenOptions::new().open_receiver(&fifo).unwrap();
    let script = "setsid sh -c 'exec 3>held; echo up >&3; sleep 1000' & sleep 1000";
    let mut process = client.spawn(&command(&["sh", "-c", script])).await.unwrap();
    let mut up = [0; 3];
    held.read_exact(&mut up).await.unwrap();
    fs::remove_file(fifo).unwrap();
    let client = client.clone();
    let endless = tokio::spawn(async move {
        let length = 1 << 40;
        let error = client.put("never", 0o644, length, Pattern { at: 0, length }).await.unwrap_err();
        assert!(process.wait().await.is_err());
        error
    });
    until("the file to grow", || agent.is_writing()).await;
    (held, endless)
}

async fn all_gone(mut held: pipe::Receiver) {
    let end = tokio::time::timeout(LONG, held.read(&mut [0; 3])).await.unwrap().unwrap();
    assert_eq!(end, 0, "somebody still holds the pipe");
}

#[test]
fn an_agent_whose_host_vanishes_ends_with_everything_it_started() {
    let here = tokio::runtime::Runtime::new().unwrap();
    let host = tokio::runtime::Runtime::new().unwrap();
    let (agent, held) = host.block_on(async {
        let (agent, client) = Agent::connect().await;
        let (held, _) = busy(&agent, &client).await;
        let held = held.into_blocking_fd().unwrap();
        std::mem::forget(client);
        (agent, held)
    });
    // As when the host is killed: nothing is said, its ends of the pipes are closed.
    host.shutdown_timeout(LONG);
    here.block_on(async {
        all_gone(pipe::Receiver::from_owned_fd(held).unwrap()).await;
        assert_eq!(agent.files(), 0, "half a file was left");
        assert!(agent.end().await.success());
    });
}

#[tokio::test]
async fn everything_of_an_agent_that_is_killed_ends_and_every_call_hears_of_it() {
    let (agent, client) = Agent::connect().await;
    let (held, endless) = busy(&agent, &client).await;
    let pid = nix::unistd::Pid::from_raw(agent.child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(tokio::time::timeout(LONG, client.lost()).await.unwrap().is_lost());
    assert!(endless.await.unwrap().is_lost());
    assert!(client.exists("x").await.unwrap_err().is_lost());
    all_gone(held).await;
    assert_eq!(agent.files(), 0, "half a file was left");
}

#[tokio::test]
async fn a_host_that_falls_silent_is_given_up() {
    let (agent, mut output, mut input) = Agent::start(&[]);
    let preamble = Preamble { protocol: PROTOCOL, silence_ms: 200, nonce: 9 };
    input.write_all(&preamble.encode()).await.unwrap();
    let mut answer = [0; GREETING];
    output.read_exact(&mut answer).await.unwrap();
    assert_eq!(Answer::decode(&answer).unwrap().nonce, 9);
    // The pipes stay open; nothing is said.
    assert!(agent.end().await.success());
}

#[tokio::test]
async fn an_agent_that_falls_silent_is_given_up() {
    let (agent, output, input) = Agent::start(&[]);
    let limits =
        Limits { silence: Duration::from_millis(500), heartbeat: Duration::from_millis(50), ..Limits::default() };
    let client = Client::connect(output, input, limits).await.unwrap();
    let pid = nix::unistd::Pid::from_raw(agent.child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let error = tokio::time::timeout(LONG, client.lost()).await.unwrap();
    assert!(matches!(error, AgentError::Lost(Lost::Silent(_))), "{error:?}");
}

#[tokio::test]
async fn reset_ends_what_was_started_and_the_conversation_goes_on() {
    let (_agent, client) = Agent::connect().await;
    let mut process = client.spawn(&command(&["sleep", "1000"])).await.unwrap();
    client.reset().await.unwrap();
    assert_eq!(process.wait().await.unwrap().status, ExitStatus::Signal(libc::SIGKILL));
    let mut next = client.spawn(&command(&["true"])).await.unwrap();
    assert!(next.wait().await.unwrap().status.success());
}

#[tokio::test]
async fn power_off_of_an_ordinary_agent_is_its_end() {
    let (agent, client) = Agent::connect().await;
    client.power_off().await.unwrap();
    assert!(agent.end().await.success());
}

/// An agent of another making: answers a greeting with what `make` makes of it.
async fn impostor(make: impl FnOnce(Preamble) -> Vec<u8> + Send + 'static) -> Result<Client, AgentError> {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move {
        let mut greeting = [0; GREETING];
        theirs.read_exact(&mut greeting).await.unwrap();
        theirs.write_all(&make(Preamble::decode(&greeting).unwrap())).await.unwrap();
        // Open until the host goes.
        let _ = tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await;
    });
    let (read, write) = tokio::io::split(ours);
    let limits = Limits { handshake: Duration::from_millis(300), noise: 4096, ..Limits::default() };
    Client::connect(read, write, limits).await
}

#[tokio::test]
async fn another_protocol_is_named_with_its_version() {
    let other = impostor(|preamble| Answer::encode(7, preamble.nonce, br#"{"version":"9.1","new":[1]}"#));
    match other.await.unwrap_err() {
        AgentError::Protocol { ours: PROTOCOL, theirs: 7, version } => assert_eq!(version, "9.1"),
        error => panic!("{error:?}"),
    }
    let (agent, mut output, mut input) = Agent::start(&[]);
    input.write_all(&Preamble { protocol: 7, silence_ms: 1000, nonce: 3 }.encode()).await.unwrap();
    let mut answer = Vec::new();
    output.read_to_end(&mut answer).await.unwrap();
    assert_eq!(Answer::decode(&answer).unwrap().protocol, PROTOCOL);
    let text: serde_json::Value = serde_json::from_slice(&answer[GREETING..]).unwrap();
    assert_eq!(text["version"], env!("CARGO_PKG_VERSION"));
    assert!(!agent.end().await.success());
}

#[tokio::test]
async fn what_is_no_agent_is_told_apart() {
    let noise = impostor(|_| vec![b'#'; 10_000]).await.unwrap_err();
    assert!(matches!(&noise, AgentError::Noise { beginning, .. } if beginning.starts_with("####")), "{noise:?}");
    let silence = impostor(|_| Vec::new()).await.unwrap_err();
    assert!(matches!(silence, AgentError::NoAnswer { skipped: 0, .. }), "{silence:?}");
    let stale = impostor(|preamble| Answer::encode(PROTOCOL, preamble.nonce ^ 1, b"{}")).await.unwrap_err();
    assert!(matches!(stale, AgentError::NoAnswer { skipped: 1.., .. }), "{stale:?}");
    let text = impostor(|preamble| Answer::encode(PROTOCOL, preamble.nonce, b"{")).await.unwrap_err();
    assert!(matches!(text, AgentError::Answer { .. }), "{text:?}");
}

#[tokio::test]
async fn an_agent_that_talks_nonsense_is_dropped() {
    let client = impostor(|preamble| {
        let hello = br#"{"protocol":1,"version":"0.1.0"}"#;
        [&b"Welcome!\r\n"[..], &Answer::encode(PROTOCOL, preamble.nonce, hello), &[0xee; 64]].concat()
    });
    let error = client.await.unwrap().lost().await;
    assert!(matches!(error, AgentError::Lost(Lost::Malformed(_))), "{error:?}");
}

#[tokio::test]
async fn a_banner_and_half_a_frame_before_the_greeting_are_skipped() {
    let (_agent, output, mut input) = Agent::start(&[]);
    input.write_all(b"what an earlier host left behind \0vptest-host\r\n").await.unwrap();
    let client = Client::connect(output, input, Limits::default()).await.unwrap();
    client.clock(1).await.unwrap();
}

#[tokio::test]
async fn too_much_noise_ends_the_agent() {
    let (agent, _output, mut input) = Agent::start(&[]);
    let noise = vec![b'x'; 8 << 20];
    // It stops reading and goes.
    let _ = input.write_all(&noise).await;
    assert!(!agent.end().await.success());
}

#[tokio::test]
async fn results_travel_over_a_disk() {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    let (agent, output, input) = Agent::start(&["--results", disk.to_str().unwrap()]);
    let client = Client::connect(output, input, Limits::default()).await.unwrap();
    let into = directory.path().join("into");
    fs::create_dir(&into).unwrap();
    let limits = results::ReadLimits::default();
    let empty = results::read(&disk, None, limits, &into).unwrap_err();
    assert!(matches!(empty, results::ResultsError::Empty(_)), "{empty}");
    fs::create_dir(agent.path("logs")).unwrap();
    fs::write(agent.path("logs/a"), vec![1; 100_000]).unwrap();
    fs::write(agent.path("b"), b"two").unwrap();
    let receipt = client.archive(&["logs".to_owned(), "b".to_owned()]).await.unwrap();
    let files = results::read(&disk, Some(receipt.nonce), limits, &into).unwrap();
    assert_eq!(files.iter().map(|file| file.bytes).collect::<Vec<_>>(), [100_000, 3]);
    assert_eq!(fs::read(&files[0].path).unwrap(), vec![1; 100_000]);
    assert!(files[0].name.ends_with("/logs/a"));
    let missing = client.archive(&["nothing".to_owned()]).await.unwrap_err();
    assert_eq!(failure(&missing), FailureKind::NotFound);
    fs::write(agent.path("c"), vec![2; 100]).unwrap();
    fs::remove_file(&disk).unwrap();
    assert_eq!(failure(&client.archive(&["c".to_owned()]).await.unwrap_err()), FailureKind::NotFound);
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

#[tokio::test]
async fn large_files_come_over_a_disk_that_is_attached_and_small_ones_do_not() {
    let place = tempfile::tempdir().unwrap();
    let disk = place.path().join("disk");
    fs::write(&disk, "").unwrap();
    let (agent, output, input) = Agent::start(&["--results", disk.to_str().unwrap()]);
    let client = Client::connect(output, input, Limits::default()).await.unwrap();
    let (at, of) = (|name: &str| place.path().join(name), |seed, length| vec![seed; length]);
    let (small, large) = (of(1, 1000), of(2, usize::try_from(SMALL).unwrap() + 1));
    fs::write(agent.path("small"), &small).unwrap();
    fs::write(agent.path("large"), &large).unwrap();
    // Without a disk as well.
    client.bring("large", 1 << 30, &at("before")).await.unwrap();
    assert!(fs::read(at("before")).unwrap() == large && disk.metadata().unwrap().len() == 0);
    let spoil = AtomicBool::new(false);
    let image = Arc::new(Image { disk: disk.clone(), place: tempfile::tempdir().unwrap(), spoil });
    client.attach(image.clone(), None).await.unwrap();
    client.bring("small", 1 << 30, &at("one")).await.unwrap();
    assert!(fs::read(at("one")).unwrap() == small && disk.metadata().unwrap().len() < SMALL);
    client.bring("large", 1 << 30, &at("two")).await.unwrap();
    assert!(fs::read(at("two")).unwrap() == large && disk.metadata().unwrap().len() > SMALL);
    assert!(client.fetch("large", 1 << 30).await.unwrap() == large);
    assert_eq!(failure(&client.fetch("large", SMALL).await.unwrap_err()), FailureKind::TooLarge);
    // What is too large is not read: it would be found spoilt.
    fs::write(agent.path("larger"), of(3, usize::try_from(SMALL).unwrap() + 1000)).unwrap();
    image.spoil.store(true, Ordering::Relaxed);
    assert_eq!(failure(&client.fetch("larger", SMALL + 100).await.unwrap_err()), FailureKind::TooLarge);
    image.spoil.store(false, Ordering::Relaxed);
    assert_eq!(failure(&client.fetch("larger", SMALL + 999).await.unwrap_err()), FailureKind::TooLarge);
    assert_eq!(client.fetch("larger", SMALL + 1000).await.unwrap().len() as u64, SMALL + 1000);
    assert_eq!(failure(&client.bring("gone", 1 << 30, &at("three")).await.unwrap_err()), FailureKind::NotFound);
    // Nothing is written over, and what could not be brought is not there.
    let error = client.bring("small", 1 << 30, &at("one")).await.unwrap_err();
    assert!(matches!(error, AgentError::Here { .. }) && !at("three").exists(), "{error:?}");
    let error = client.bring("larger", 1 << 30, &at("two")).await.unwrap_err();
    assert!(matches!(error, AgentError::Disk { .. }) && fs::read(at("two")).unwrap() == large, "{error:?}");
    assert_eq!(fs::read_dir(image.place()).unwrap().count(), 0);
    fs::remove_file(&disk).unwrap();
    assert_eq!(failure(&client.attach(image, None).await.unwrap_err()), FailureKind::NotFound);
}

/// Their length is not what the kernel says of them.
#[tokio::test]
async fn files_of_unknown_length_go_through_the_channel() {
    const SYMBOLS: &str = "/proc/kallsyms";
    let place = tempfile::tempdir().unwrap();
    let disk = place.path().join("disk");
    fs::write(&disk, "").unwrap();
    let (_agent, output, input) = Agent::start(&["--results", disk.to_str().unwrap()]);
    let client = Client::connect(output, input, Limits::default()).await.unwrap();
    let spoil = AtomicBool::new(false);
    let image = Arc::new(Image { disk, place: tempfile::tempdir().unwrap(), spoil });
    client.attach(image, None).await.unwrap();
    // 4096 bytes are said, and a few come.
    for path in [SYMBOLS, "/sys/devices/system/cpu/online"] {
        let error = client.archive(&[path.to_owned()]).await.unwrap_err();
        assert_eq!(failure(&error), FailureKind::Invalid, "{error}");
    }
    let symbols = fs::read(SYMBOLS).unwrap();
    let small = usize::try_from(SMALL).unwrap();
    if symbols.len() <= small {
        eprintln!("skipped: the symbols of this kernel are few");
        return;
    }
    let target = place.path().join("symbols");
    client.bring(SYMBOLS, 1 << 30, &target).await.unwrap();
    // Those of modules come and go, at the end.
    let brought = fs::read(&target).unwrap();
    assert!(brought.len() > small && brought[..small] == symbols[..small]);
    let fetched = client.fetch(SYMBOLS, 1 << 30).await.unwrap();
    assert!(fetched.len() > small && fetched[..small] == symbols[..small]);
    assert_eq!(failure(&client.fetch(SYMBOLS, SMALL + 1).await.unwrap_err()), FailureKind::TooLarge);
}

/// An agent whose `sync` is this script.
async fn agent_with_sync(script: &str) -> (Agent, Client, tempfile::TempDir) {
    use std::os::unix::fs::PermissionsExt as _;
    let programs = tempfile::tempdir().unwrap();
    let sync = programs.path().join("sync");
    fs::write(&sync, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&sync, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
    let (agent, output, input) = Agent::start_with(&[], &[("PATH", &path)]);
    (agent, Client::connect(output, input, Limits::default()).await.unwrap(), programs)
}

#[tokio::test]
async fn a_guest_says_whether_it_has_written_to_its_disk() {
    let (agent, client, _programs) = agent_with_sync("echo > synced").await;
    guest::write_out(&client, LONG).await.unwrap();
    assert!(Path::new(&agent.path("synced")).exists());
    for (script, limit, expected) in [
        ("exit 3", LONG, "sync ended with exit status 3"),
        ("exec sleep 1000", Duration::from_millis(100), "sync has not ended within 100ms"),
    ] {
        let (_agent, client, _programs) = agent_with_sync(script).await;
        assert_eq!(guest::write_out(&client, limit).await.unwrap_err(), expected);
    }
    drop(agent);
    guest::write_out(&client, LONG).await.unwrap_err();
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

fn eth0() -> InterfaceSetup {
    InterfaceSetup {
        mac: Some("02:00:00:00:00:01".to_owned()),
        name: "eth0".to_owned(),
        address: Some((Ipv4Addr::new(10, 7, 0, 1).into(), 24)),
        mtu: Some(1400),
        offload: Some(false),
    }
}

#[tokio::test]
async fn a_network_is_set_up_and_read_back() {
    if !root() || !program("ip") {
        return;
    }
    let (namespace, _agent, client) = in_namespace().await;
    let setup = NetworkSetup {
        interfaces: vec![eth0()],
        routes: vec![RouteSetup {
            to: Some((Ipv4Addr::new(10, 8, 0, 0).into(), 16)),
            via: Ipv4Addr::new(10, 7, 0, 2).into(),
        }],
        sysctls: vec![("net/ipv4/ip_forward".to_owned(), "1".to_owned())],
        ..NetworkSetup::default()
    };
    client.configure(&setup).await.unwrap();
    client.configure(&setup).await.unwrap();
    let readings = client.settings("eth0").await.unwrap();
    let value = |name: &str| {
        let reading = readings.iter().find(|reading| reading.name == name);
        reading.unwrap_or_else(|| panic!("no {name}")).value.clone()
    };
    for name in ["sg", "tso", "gso", "gro"] {
        assert_eq!(value(name).as_deref(), Some("off"), "{name}");
    }
    assert_eq!(value("mtu").as_deref(), Some("1400"));
    assert_eq!((value("link_driver").as_deref(), value("operstate").as_deref()), (Some("veth"), Some("up")));
    assert_eq!((value("speed").as_deref(), value("firmware")), (Some("10000 Mbit/s"), None));
    assert_eq!(value("queues").as_deref(), Some("1"));
    assert!(value("rx_checksum").is_some() && value("tx_checksum").is_some() && value("ring_rx").is_none());
    let show = |arguments: &[&str]| {
        let output = namespace.run(|| Command::new("ip").args(arguments).output()).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(show(&["-4", "addr", "show", "eth0"]).contains("inet 10.7.0.1/24"));
    assert!(show(&["route"]).contains("10.8.0.0/16 via 10.7.0.2 dev eth0"));
    assert!(show(&["link", "show", "lo"]).contains(",UP"));
    let forward = client.read_files(&["/proc/sys/net/ipv4/ip_forward".to_owned()], 10).await.unwrap();
    assert_eq!(forward, [Some(b"1\n".to_vec())]);

    let missing = InterfaceSetup { mac: Some("02:00:00:00:00:99".to_owned()), ..eth0() };
    let missing = NetworkSetup { interfaces: vec![missing], ..NetworkSetup::default() };
    let error = client.configure(&missing).await.unwrap_err();
    assert_eq!(failure(&error), FailureKind::NotFound);
    assert!(error.to_string().contains("eth0 (02:00:00:00:00:01)"), "{error}");
    assert_eq!(failure(&client.settings("eth9").await.unwrap_err()), FailureKind::NotFound);
    let (passed, reached) = client.walk(Ipv4Addr::new(10, 7, 0, 1).into(), 5).await.unwrap();
    assert_eq!((passed, reached), (Vec::new(), true));
    let (_, reached) = client.walk(Ipv4Addr::new(10, 99, 0, 1).into(), 5).await.unwrap();
    assert!(!reached);
}

#[tokio::test]
async fn a_tunnel_is_made() {
    if !root() || !program("ip") {
        return;
    }
    let (namespace, _agent, client) = in_namespace().await;
    let probe = namespace.run(|| {
        let probe = ["link", "add", "probe0", "type", "gretap", "local", "10.7.0.1", "remote", "10.7.0.9"];
        let made = Command::new("ip").args(probe).stderr(Stdio::null()).status()?;
        Command::new("ip").args(["link", "del", "probe0"]).stderr(Stdio::null()).status()?;
        Ok(made.success())
    });
    if !crate::need::need("gre", probe.unwrap()) {
        return;
    }
    for ethernet in [true, false] {
        let name = if ethernet { "tun0" } else { "tun1" };
        let remote = if ethernet { 2 } else { 3 };
        let inner = Ipv4Addr::new(10, 200, remote, 1);
        let tunnel = TunnelSetup {
            name: name.to_owned(),
            ethernet,
            local: Ipv4Addr::new(10, 7, 0, 1).into(),
            remote: Ipv4Addr::new(10, 7, 0, remote).into(),
            address: (inner.into(), 24),
            mtu: Some(1300),
            offload: None,
        };
        let setup = NetworkSetup { interfaces: vec![eth0()], tunnel: Some(tunnel), ..NetworkSetup::default() };
        client.configure(&setup).await.unwrap();
        let readings = client.settings(name).await.unwrap();
        assert!(readings.iter().any(|reading| reading.name == "mtu" && reading.value.as_deref() == Some("1300")));
    }
}

fn capture_request(keep: bool) -> CaptureRequest {
    CaptureRequest {
        node: NodeId::client(1),
        vantage: Vantage::Guest,
        interface: "lo".to_owned(),
        on_disk: None,
        snaplen: 128,
        filter: None,
        ring: None,
        headers: true,
        hold: None,
        captures: 1,
        keep,
    }
}

/// Sends `count` datagrams over the loopback interface of the namespace.
fn chatter(namespace: &Namespace, count: u64) {
    let send = || {
        let receiver = UdpSocket::bind(("127.0.0.1", 0))?;
        let sender = UdpSocket::bind(("127.0.0.1", 0))?;
        let to = receiver.local_addr()?;
        (0..count).try_for_each(|_| sender.send_to(&[7; 100], to).map(drop))
    };
    namespace.run(send).unwrap();
}

/// A TCP connection that carries `bytes` over the loopback interface of the namespace.
fn talk(namespace: &Namespace, bytes: usize) {
    let talk = || {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        let mut client = std::net::TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        let reader = std::thread::spawn(move || io::copy(&mut server, &mut io::sink()));
        client.write_all(&vec![1; bytes])?;
        drop(client);
        reader.join().unwrap().map(drop)
    };
    namespace.run(talk).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_streams_and_brings_its_statistics_home() {
    if !root() || !program("ip") || !program("tcpdump") {
        return;
    }
    let (namespace, _agent, client) = in_namespace().await;
    client.configure(&NetworkSetup::default()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("lo.pcapng");
    let file = fs::File::create(&kept).unwrap();
    let (reader, writer) = io::pipe().unwrap();
    let copied = std::thread::spawn(move || io::copy(&mut { reader }, &mut { file }).unwrap());
    let keep = pipe::Sender::from_owned_fd(OwnedFd::from(writer)).unwrap();
    let (sender, mut headers) = tokio::sync::mpsc::channel(4);
    let received = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(bytes) = headers.recv().await {
            all.extend(bytes);
        }
        all
    });
    let mut capture = client.capture(&capture_request(true), Some(Box::new(keep)), Some(sender)).await.unwrap();
    chatter(&namespace, 5000);
    talk(&namespace, 100_000);
    let counted = tokio::time::timeout(LONG, async {
        while capture.progress().packets < 5000 {
            assert!(capture.changed().await, "the capture has ended");
        }
    });
    counted.await.expect("news of the packets while it runs");
    until("packets while it runs", || fs::metadata(&kept).unwrap().len() > 0).await;
    assert_eq!(capture.link(), 1);
    let CaptureEnd { capture: record, problems, holding, .. } = capture.stop().await.unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!((record.dropped_kernel, record.dropped_interface), (Some(0), Some(0)));
    assert!(record.packets > 5000 && record.tcp.is_none());
    let headers = received.await.unwrap();
    // 16 bytes and at least the IP header of each.
    let rest = headers.len() as u64 - record.packets * (16 + 34);
    assert!(rest > 0 && rest < record.packets * 34, "{} bytes of {} packets", headers.len(), record.packets);
    assert_eq!(holding.unwrap().early, 0, "there was room for all of them");
    copied.join().unwrap();
    let output = Command::new("tcpdump").args(["-nn", "-r"]).arg(&kept).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count() as u64, record.packets);

    let missing = CaptureRequest { interface: "eth9".to_owned(), ..capture_request(false) };
    let error = client.capture(&missing, None, None).await.unwrap_err();
    assert!(error.to_string().contains("eth9"), "{error}");
    let bad = CaptureRequest { filter: Some("tcp prot 80".to_owned()), ..capture_request(false) };
    assert_eq!(failure(&client.capture(&bad, None, None).await.unwrap_err()), FailureKind::Invalid);
}

/// One point of an agent, which keeps packets; what came of it.
async fn keep_packets(namespace: &Arc<Namespace>, client: &Client, directory: &Path) -> (Capture, Vec<Problem>) {
    let point = CapturePoint {
        node: NodeId::client(1),
        vantage: Vantage::Guest,
        interface: "lo".to_owned(),
        source: CaptureSource::Agent(client.clone()),
    };
    let spec = CaptureSpec {
        snaplen: 128,
        vantage: vec![Vantage::Guest],
        statistics: false,
        connections: false,
        keep: true,
        filter: None,
        ring: None,
    };
    let started = {
        let directory = directory.to_owned();
        move || Captures::start(&[point], &spec, Some(&directory))
    };
    let captures = tokio::task::spawn_blocking(started).await.unwrap().unwrap();
    talk(namespace, 1 << 20);
    let stopped = tokio::task::spawn_blocking(move || captures.stop()).await.unwrap();
    let [capture] = <[_; 1]>::try_from(stopped.captures).unwrap();
    (capture, stopped.problems)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_that_are_kept_on_a_disk_come_when_their_capture_ends() {
    if !root() || !program("ip") || !program("tcpdump") {
        return;
    }
    let (namespace, _other, _) = in_namespace().await;
    let place = tempfile::tempdir().unwrap();
    let [files, packets] = ["files", "packets"].map(|name| place.path().join(name));
    fs::write(&files, "").unwrap();
    fs::write(&packets, "").unwrap();
    let arguments = ["--results", files.to_str().unwrap(), "--packets", packets.to_str().unwrap()];
    let (_agent, client) = agent_with(&namespace, &arguments).await;
    client.configure(&NetworkSetup::default()).await.unwrap();
    let image = |disk: &Path, spoil| {
        Arc::new(Image { disk: disk.to_owned(), place: tempfile::tempdir().unwrap(), spoil: AtomicBool::new(spoil) })
    };
    let (of_files, of_packets) = (image(&files, false), image(&packets, false));
    client.attach(of_files, Some(of_packets.clone())).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (capture, problems) = keep_packets(&namespace, &client, directory.path()).await;
    assert!(problems.is_empty(), "{problems:?}");
    let kept = directory.path().join("client1-guest.pcapng");
    let named = format!("{}/client1-guest.pcapng", directory.path().file_name().unwrap().to_str().unwrap());
    assert_eq!(capture.file, Some(named));
    let output = Command::new("tcpdump").args(["-nn", "-r"]).arg(&kept).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count() as u64, capture.packets);
    assert!(capture.packets > 10 && packets.metadata().unwrap().len() > kept.metadata().unwrap().len());
    assert_eq!(fs::read_dir(of_packets.place()).unwrap().count(), 0);

    // What is not what the agent has written is no capture.
    of_packets.spoil.store(true, Ordering::Relaxed);
    let directory = tempfile::tempdir().unwrap();
    let (capture, problems) = keep_packets(&namespace, &client, directory.path()).await;
    let [Problem { weight: Weight::Suspect, text }] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(text.starts_with("packets of client1 ") && text.contains("were kept and are lost: "), "{text}");
    assert!(text.contains("the checksum of the results is another"), "{text}");
    assert!(capture.packets > 10 && capture.file.is_none());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// A file system of one page.
struct OnePage(tempfile::TempDir);

impl OnePage {
    fn mount() -> Self {
        let place = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4k", "tmpfs"]).arg(place.path()).status().unwrap();
        assert!(mounted.success());
        Self(place)
    }
}

impl Drop for OnePage {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy"]).arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_be_made_whole_costs_the_packets_and_not_the_record() {
    if !root() || !program("ip") || !program("mount") {
        return;
    }
    // There is room for the beginning alone.
    let full = OnePage::mount();
    let disk = full.0.path().join("packets");
    fs::write(&disk, "").unwrap();
    let (namespace, _other, _) = in_namespace().await;
    let (_agent, client) = agent_with(&namespace, &["--packets", disk.to_str().unwrap()]).await;
    client.configure(&NetworkSetup::default()).await.unwrap();
    let (sender, mut headers) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
    let received = tokio::spawn(async move {
        let mut bytes = 0;
        while let Some(piece) = headers.recv().await {
            bytes += piece.len() as u64;
        }
        bytes
    });
    let request = CaptureRequest { on_disk: Some(7), ..capture_request(false) };
    let capture = client.capture(&request, None, Some(sender)).await.unwrap();
    talk(&namespace, 1 << 20);
    let CaptureEnd { capture: record, packets, holding, .. } = capture.stop().await.unwrap();
    assert!(record.packets > 10 && holding.is_some(), "{record:?}");
    assert!(received.await.unwrap() >= record.packets * (16 + 34), "all headers have come");
    let packets = packets.unwrap();
    let problem = packets.problem.unwrap();
    let said = problem.starts_with("cannot write packets to ") && problem.contains("No space left");
    assert!(packets.receipt.is_none() && said, "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_points_are_captured_beside_local_ones() {
    if !root() || !program("ip") {
        return;
    }
    let (namespace, agent, client) = in_namespace().await;
    client.configure(&NetworkSetup::default()).await.unwrap();
    let point = |vantage, source| CapturePoint { node: NodeId::client(1), vantage, interface: "lo".to_owned(), source };
    let points = [
        point(Vantage::Guest, CaptureSource::Agent(client.clone())),
        point(Vantage::Host, CaptureSource::Live { namespace: Some(Arc::clone(&namespace)) }),
    ];
    let spec = CaptureSpec {
        snaplen: 128,
        vantage: vec![Vantage::Guest, Vantage::Host],
        statistics: true,
        connections: true,
        keep: true,
        filter: None,
        ring: None,
    };
    let flows = FlowOptions {
        statistics: true,
        connections: true,
        mtu: Some(1500),
        points: 2,
        available: None,
        hold: None,
        fault_after: None,
    };
    let directory = tempfile::tempdir().unwrap();
    let start = |points: Vec<CapturePoint>, spec: CaptureSpec, directory: &Path| {
        let directory = directory.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut sinks = FlowSinks::new(&points, &vec![flows; points.len()]);
            Captures::start_with(&points, &spec, Some(&directory), |point, link| sinks.next(point, link))
        })
    };
    let captures = start(points.to_vec(), spec.clone(), directory.path()).await.unwrap().unwrap();
    talk(&namespace, 1 << 20);
    chatter(&namespace, 100);
    let stopped = tokio::task::spawn_blocking(move || captures.stop()).await.unwrap();
    let analysed = stopped.analyse();
    assert!(analysed.problems.is_empty(), "{:?}", analysed.problems);
    let [mut remote, mut local] = <[_; 2]>::try_from(analysed.captures).unwrap();
    let base = directory.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(remote.file.take(), Some(format!("{base}/client1-guest.pcapng")));
    assert_eq!(local.file.take(), Some(format!("{base}/client1-host.pcapng")));
    // The same packets of the same interface. Their times differ: the kernel takes one for each ring.
    let (there, here) = (remote.tcp.as_ref().unwrap(), local.tcp.as_ref().unwrap());
    assert_eq!((remote.packets, remote.bytes, &remote.sizes), (local.packets, local.bytes, &local.sizes));
    assert_eq!((remote.node, remote.vantage, remote.snaplen), (NodeId::client(1), Vantage::Guest, 128));
    assert_eq!((&there.directions, there.complete), (&here.directions, here.complete));
    assert_eq!((there.mtu, there.rows.len(), there.statistics.len()), (here.mtu, 1, here.statistics.len()));
    assert_eq!((there.rows[0].a, there.rows[0].b), (here.rows[0].a, here.rows[0].b));

    let bad = CaptureSpec { filter: Some("tcp prot 80".to_owned()), ..spec.clone() };
    let error = start(points[..1].to_vec(), bad, directory.path()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("`tcp prot 80`"), "{error}");

    let captures = start(points.to_vec(), spec, directory.path()).await.unwrap().unwrap();
    drop(agent);
    client.lost().await;
    let stopped = tokio::task::spawn_blocking(move || captures.stop()).await.unwrap();
    assert_eq!((stopped.captures.len(), stopped.nodes.len()), (1, 0));
    let [problem] = stopped.problems.as_slice() else { panic!("{:?}", stopped.problems) };
    assert_eq!(problem.weight, Weight::Invalid);
    assert!(problem.text.starts_with("capture of client1 (guest, lo) is lost: "), "{}", problem.text);
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
