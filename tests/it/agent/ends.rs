//! How conversations end, and what is left then.

use std::fs;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use vptest::agent::wire::{Answer, GREETING, PROTOCOL, Preamble};
use vptest::agent::{AgentError, Client, Limits, Lost};
use vptest::node::{ExitStatus, Process as _};

use super::{Agent, LONG, Pattern, command, until};

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
