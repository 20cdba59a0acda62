//! The node's side: serves one conversation after the other.

mod archive;
mod capture;
mod counters;
mod files;
mod host;
mod lend;
mod mailbox;
mod network;
mod packets;
mod process;
mod session;
mod trace;

use std::fs::File;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use super::channel;
use super::message::Hello;
use super::mux::Input;
use session::End;

use super::wire::{Answer, GREETING, PROTOCOL, Preamble, skip_to_greeting};

/// Bytes that are skipped before a host is heard, on a channel that lives for one conversation.
const MAX_NOISE: u64 = 4 << 20;
/// How often a port is looked at whose host is away: such a port cannot be waited for.
const PORT_PACE: Duration = Duration::from_millis(20);
/// Time between two pieces of news of a capture.
const NEWS: Duration = Duration::from_millis(500);
/// Bounds of the silence that a host may ask for.
const SILENCE: [u32; 2] = [100, 3_600_000];

/// Where the host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// At the other end of standard input and output; the agent ends with the conversation.
    Stdio,
    /// At the other end of the virtio-serial port of this name; the agent goes on and waits for the next host.
    Port(String),
    /// At the other end of a mailbox; the agent ends with the conversation.
    Mailbox(Mailbox),
}

/// What an agent is told when it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Directory for files of an iteration; made when it is missing.
    pub scratch: PathBuf,
    /// File or block device for results; `None` finds the disk by its serial number.
    pub results: Option<PathBuf>,
    /// The same for packets that are kept.
    pub packets: Option<PathBuf>,
    /// May a reset empty the scratch directory? Not one that somebody else may use.
    pub owns_scratch: bool,
    /// The script that starts this program, where it cannot be started without; the program itself lies beside it.
    pub program: Option<PathBuf>,
    /// Time between two pieces of news of a capture.
    pub news: Duration,
}

impl Options {
    /// For a guest: everything in it is ours.
    ///
    /// # Errors
    /// None now; the signature leaves room for what a guest must have.
    pub fn guest() -> io::Result<Self> {
        Ok(Self {
            scratch: PathBuf::from(super::GUEST_SCRATCH),
            results: None,
            packets: None,
            owns_scratch: true,
            program: None,
            news: NEWS,
        })
    }
}

pub use channel::is_terminal;
pub use mailbox::Mailbox;

/// Serves. Returns when the conversation is over (stdio, mailbox), or never (port) but with an error.
///
/// # Errors
/// When the channel cannot be opened, or no host was heard on it.
pub fn serve(source: &Source, options: Options) -> io::Result<()> {
    match source {
        Source::Stdio => run(&options, async {
            let (input, output) = channel::stdio()?;
            let mut input = Input::new(input);
            session::converse(&mut input, output, &options, Some(MAX_NOISE)).await.map(drop)
        }),
        Source::Port(name) => {
            // One that cannot have its port makes nothing.
            let port = channel::open_port(name)?;
            run(&options, serve_port(port, &options))
        }
        Source::Mailbox(mailbox) => run(&options, mailbox::serve(mailbox, &options)),
    }
}

/// Serves one host after the other at a unix socket. Only root is heard. Returns when a host has switched the node off.
///
/// # Errors
/// When the socket cannot be waited for any more.
pub fn serve_socket(listener: UnixListener, options: &Options) -> io::Result<()> {
    run(options, async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            // Whoever gets here may run anything. A host outside of this PID namespace has no number, but a user.
            if !stream.peer_cred().is_ok_and(|peer| peer.uid() == 0) {
                continue;
            }
            let (input, output) = stream.into_split();
            match session::converse(&mut Input::new(input), output, options, Some(MAX_NOISE)).await {
                Ok(End::HostGone) => {}
                Ok(End::SwitchOff) => return Ok(()),
                Err(error) => tracing::debug!("no conversation: {error}"),
            }
        }
    })
}

fn run(options: &Options, serving: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    std::fs::create_dir_all(&options.scratch)?;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // The tracer of a kernel that containers share tells the agent's threads by it.
    let runtime = runtime.enable_all().thread_name(super::THREAD).build()?;
    let result = runtime.block_on(serving);
    // Threads that wait for a file or a pipe are not worth waiting for: all that they work for is gone.
    runtime.shutdown_background();
    result
}

/// Conversation after conversation. A port may be opened once only, so that it stays open.
async fn serve_port(port: File, options: &Options) -> io::Result<()> {
    let (input, mut output) = channel::both_ways(&port)?;
    let mut input = Input::new(input);
    loop {
        match session::converse(&mut input, output, options, None).await {
            Ok(End::HostGone) => {}
            Ok(End::SwitchOff) => return switch_off(),
            Err(error) => tracing::debug!("no conversation: {error}"),
        }
        tokio::time::sleep(PORT_PACE).await;
        // The runtime goes on taking a descriptor for closed whose other side was away once.
        let (again, next) = channel::both_ways(&port)?;
        input = input.resume(again);
        output = next;
    }
}

/// Switches the system off, if this is its first process; otherwise the agent ends.
fn switch_off() -> io::Result<()> {
    if std::process::id() == 1 {
        nix::unistd::sync();
        match nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF) {
            Ok(never) => match never {},
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits for a host's preamble. `None` when the channel ends before one comes.
async fn greeted<R: tokio::io::AsyncRead + Unpin>(
    input: &mut Input<R>,
    most: Option<u64>,
) -> io::Result<Option<Preamble>> {
    let mut skipped = 0;
    loop {
        let noise = skip_to_greeting(input.bytes(), true);
        input.consume(noise);
        skipped += noise as u64;
        if let Some(preamble) = Preamble::decode(input.bytes()) {
            input.consume(GREETING);
            return Ok(Some(preamble));
        }
        if input.bytes().len() >= GREETING {
            input.consume(1);
            skipped += 1;
            continue;
        }
        if most.is_some_and(|most| skipped > most) {
            return Err(io::Error::other(format!("{skipped} bytes came, and none were the greeting of a vptest host")));
        }
        if input.fill(GREETING).await? == 0 {
            return Ok(None);
        }
    }
}

/// The answer to a preamble.
fn answer(preamble: &Preamble, options: &Options) -> Vec<u8> {
    Answer::encode(PROTOCOL, preamble.nonce, &super::mux::json(&hello(options)))
}

fn silence(preamble: &Preamble) -> Duration {
    Duration::from_millis(u64::from(preamble.silence_ms.clamp(SILENCE[0], SILENCE[1])))
}

fn hello(options: &Options) -> Hello {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let memory = read("/proc/meminfo").and_then(|text| {
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?.trim();
        total.parse::<u64>().ok()?.checked_mul(1024)
    });
    let program = options.program.clone().or_else(|| std::env::current_exe().ok());
    Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: read("/proc/sys/kernel/osrelease"),
        cpus: crate::host::cpus::usable().map(|cpus| cpus.len()),
        memory,
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        network: std::fs::read_link("/proc/self/ns/net").ok().map(|link| link.to_string_lossy().into_owned()),
        first_process: super::init::is_under_way(),
        pid: Some(std::process::id()),
        scratch: options.scratch.to_string_lossy().into_owned(),
        vptest: program.map_or_else(|| "vptest".to_owned(), |path| path.to_string_lossy().into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::unix::pipe;

    use super::super::wire::{HEADER, Head, Kind, header};
    use super::super::{AgentError, Client, Limits, Lost};
    use super::*;

    /// A channel that stays open whoever comes and goes, as a port does.
    struct Port {
        read: OwnedFd,
        write: OwnedFd,
    }

    impl Port {
        fn pair() -> (Self, Self) {
            let ((a_read, a_write), (b_read, b_write)) = (io::pipe().unwrap(), io::pipe().unwrap());
            (Self { read: a_read.into(), write: b_write.into() }, Self { read: b_read.into(), write: a_write.into() })
        }

        fn open(&self) -> (pipe::Receiver, pipe::Sender) {
            let read = pipe::Receiver::from_owned_fd(self.read.try_clone().unwrap()).unwrap();
            (read, pipe::Sender::from_owned_fd(self.write.try_clone().unwrap()).unwrap())
        }
    }

    async fn serve(port: Port, options: Options) {
        let (read, mut output) = port.open();
        let mut input = Input::new(read);
        loop {
            let _ = session::converse(&mut input, output, &options, None).await;
            let (again, next) = port.open();
            input = input.resume(again);
            output = next;
        }
    }

    #[tokio::test]
    async fn hosts_that_go_anywhere_are_followed_by_others() {
        let scratch = tempfile::tempdir().unwrap();
        let options = Options { scratch: scratch.path().to_owned(), ..Options::guest().unwrap() };
        let (agent, host) = Port::pair();
        tokio::spawn(serve(agent, options));
        let limits = Limits { again: Duration::from_millis(100), ..Limits::default() };
        // Gone in the middle of a preamble, of a header, of a payload.
        let preamble = Preamble { protocol: PROTOCOL, silence_ms: 60_000, nonce: 77 }.encode();
        let head = header(Head { kind: Kind::Data, channel: 0, call: 1 }, 60_000, 77);
        for begun in [&preamble[..20], &[&preamble[..], &head[..9]].concat(), &[&preamble[..], &head, b"abc"].concat()]
        {
            let (_, mut gone) = host.open();
            gone.write_all(begun).await.unwrap();
            let (read, write) = host.open();
            let client = Client::connect(read, write, limits).await.unwrap();
            client.put("x", 0o644, 2, &b"hi"[..]).await.unwrap();
            assert!(client.exists("x").await.unwrap());
            let mut process = client
                .spawn(&crate::node::Command {
                    argv: vec!["sleep".to_owned(), "1000".to_owned()],
                    ..crate::node::Command::default()
                })
                .await
                .unwrap();
            drop(client);
            assert!(matches!(process.end().await.unwrap_err().as_ref(), AgentError::Lost(Lost::Ended)));
        }
        assert_eq!(HEADER, head.len());
    }
}
