//! What an agent is asked to do, and what others wait for meanwhile.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use vptest::agent::wire::PROTOCOL;
use vptest::agent::{Client, FailureKind, Limits};
use vptest::ids::NodeId;
use vptest::node::agent::AgentNode;
use vptest::node::{self, ExitStatus, Node as _, NodeError, Process as _, Stream};
use vptest::testbed::minimega::guest;

use super::{Agent, LONG, Pattern, VPTEST, command, failure, until};

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
