//! Throughput and round trips of the agent over pipes and over a socket pair, beside `cat` through the same channel.
//!
//! `cargo bench --bench agent`; `VPTEST_BENCH_BYTES` (default 4 GiB) go each way through a file below `VPTEST_BENCH_DIR`
//! (default: the system's directory for temporary files). Prints MB/s (10^6 bytes), CPU seconds of the agent, and the
//! p50 and p99 of round trips.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use vptest::agent::{Client, Limits};

const ROUNDS: usize = 5000;

fn main() {
    let bytes = std::env::var("VPTEST_BENCH_BYTES").map_or(4 << 30, |text| text.parse().expect("a number of bytes"));
    let directory = std::env::var_os("VPTEST_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let scratch = tempfile::Builder::new().prefix("vptest-bench-").tempdir_in(directory).expect("a directory");
    println!("{bytes} bytes each way, through files in {}", scratch.path().display());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for channel in ["pipes", "socket pair"] {
            let (mut child, client) = match channel {
                "pipes" => over_pipes(scratch.path()).await,
                _ => over_sockets(scratch.path()).await,
            };
            measure(channel, &client, &child, bytes).await;
            drop(client);
            child.wait().expect("the agent's end");
        }
    });
    cat(scratch.path(), bytes);
}

fn agent(scratch: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vptest"));
    command.args(["agent", "--stdio", "--scratch"]).arg(scratch);
    command
}

async fn over_pipes(scratch: &Path) -> (Child, Client) {
    let mut child = agent(scratch).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("an agent");
    let input = pipe::Sender::from_owned_fd(OwnedFd::from(child.stdin.take().expect("piped"))).expect("a pipe");
    let output = pipe::Receiver::from_owned_fd(OwnedFd::from(child.stdout.take().expect("piped"))).expect("a pipe");
    (child, connect(output, input).await)
}

async fn over_sockets(scratch: &Path) -> (Child, Client) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let both = theirs.try_clone().expect("a descriptor");
    let child = agent(scratch).stdin(OwnedFd::from(theirs)).stdout(OwnedFd::from(both)).spawn().expect("an agent");
    ours.set_nonblocking(true).expect("a socket");
    let (read, write) = tokio::net::UnixStream::from_std(ours).expect("a socket").into_split();
    (child, connect(read, write).await)
}

async fn connect<R, W>(read: R, write: W) -> Client
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    Client::connect(read, write, Limits::default()).await.expect("an answer")
}

async fn measure(channel: &str, client: &Client, child: &Child, bytes: u64) {
    let mut trips = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        client.exists("x").await.expect("an answer");
        trips.push(begun.elapsed());
    }
    trips.sort_unstable();
    let at = |per_cent: usize| trips[ROUNDS * per_cent / 100].as_secs_f64() * 1e6;
    println!("{channel}: round trip p50 {:.1} us, p99 {:.1} us", at(50), at(99));
    let before = cpu(child);
    let begun = Instant::now();
    let sent = client.put("big", 0o644, bytes, Zeroes(bytes)).await.expect("a receipt");
    say(channel, "put", bytes, begun.elapsed(), Some(cpu(child) - before));
    let before = cpu(child);
    let begun = Instant::now();
    let back = client.get("big", bytes, tokio::io::sink()).await.expect("a receipt");
    say(channel, "get", bytes, begun.elapsed(), Some(cpu(child) - before));
    assert_eq!(sent, back, "the file came back as another");
}

fn say(channel: &str, what: &str, bytes: u64, took: Duration, cpu: Option<f64>) {
    #[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
    let rate = bytes as f64 / took.as_secs_f64() / 1e6;
    let cpu = cpu.map_or_else(String::new, |cpu| format!(", agent {cpu:.2} s of CPU"));
    println!("{channel}: {what} {rate:.0} MB/s, {:.2} s{cpu}", took.as_secs_f64());
}

/// User and system time of a process in seconds, at 100 ticks a second.
fn cpu(child: &Child) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("a process");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("a name").split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

/// What a pipe can do without frames and checksums: `cat` into a file and out of it.
fn cat(scratch: &Path, bytes: u64) {
    let target = scratch.join("big");
    let file = fs::File::create(&target).expect("a file");
    let begun = Instant::now();
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(file).spawn().expect("cat");
    let mut input = child.stdin.take().expect("piped");
    let chunk = vec![0; 64 << 10];
    for _ in 0..bytes / chunk.len() as u64 {
        input.write_all(&chunk).expect("a pipe");
    }
    drop(input);
    child.wait().expect("cat's end");
    say("cat", "put, no checksum", bytes, begun.elapsed(), None);
    let begun = Instant::now();
    let mut child = Command::new("cat").arg(&target).stdout(Stdio::piped()).spawn().expect("cat");
    io::copy(&mut child.stdout.take().expect("piped"), &mut Sink).expect("a pipe");
    child.wait().expect("cat's end");
    say("cat", "get, no checksum", bytes, begun.elapsed(), None);
}

/// Not `io::sink()`, into which `io::copy` moves without reading.
struct Sink;

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// So many bytes.
struct Zeroes(u64);

impl AsyncRead for Zeroes {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = usize::try_from(self.0).unwrap_or(usize::MAX).min(into.remaining());
        into.initialize_unfilled_to(count);
        into.advance(count);
        self.0 -= count as u64;
        Poll::Ready(Ok(()))
    }
}
