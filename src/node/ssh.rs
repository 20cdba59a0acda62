//! A node behind ssh: one connection of the system's `ssh` (OpenSSH), over which vptest is copied and its agent started.
//!
//! The connection is a master (`ControlMaster`), so that there is one login; what follows goes through its socket and
//! never opens another one. All of it are processes in a cage: they end with vptest. On the node, everything lies in a
//! directory that is removed when the connection ends, however it ends.

mod error;
mod words;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::time::Instant;

use super::local::Processes;
use super::{Command, ExitStatus, Process, Stream};
use crate::agent::{Client, Limits};
use crate::host::cage::Job;
use crate::host::namespace::Namespace;
use crate::image::Bundle;

pub use error::SshError;
use words::Facts;

/// Between two attempts at a node that does not answer yet.
const PAUSE: Duration = Duration::from_millis(200);
/// How long one attempt may take until the node has said what it is; beyond that it is begun again.
const ATTEMPT: Duration = Duration::from_secs(60);
/// How long the connection may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(5);
/// How long after a failure ssh may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What a login may print before the answer (`.bashrc`).
const NOISE: u64 = 1 << 20;
/// ssh's own exit status for "no session".
const NO_SESSION: ExitStatus = ExitStatus::Code(255);

/// Whom to log in to, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As ssh takes it: a name, an address, or a name from `ssh_config`.
    pub host: String,
    /// `None` for what `ssh_config` says, or 22.
    pub port: Option<u16>,
    /// `None` for what `ssh_config` says, or the name of the user here.
    pub user: Option<String>,
    /// A private key; `None` for those ssh finds by itself (`ssh-agent`, `~/.ssh`).
    pub identity: Option<PathBuf>,
    /// Which key the server must show.
    pub host_keys: HostKeys,
    /// Do the user's and the system's `ssh_config` count?
    pub config: bool,
}

/// Which key a server must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostKeys {
    /// One that the user's `known_hosts` has for it. An unknown one is refused.
    Known,
    /// This one: type and key, as in a file `ssh_host_ed25519_key.pub`.
    This(String),
    /// Any, once: for a server at the other end of a channel that nobody else can be in.
    First,
}

/// Where ssh runs.
#[derive(Debug, Clone)]
pub struct Site<'a> {
    /// Its cage.
    pub processes: &'a Arc<Processes>,
    /// Its network; `None` for the one vptest is in.
    pub namespace: Option<Arc<Namespace>>,
    /// A directory that nobody else may enter: whoever can open the socket in it has the login.
    pub directory: &'a Path,
    /// Names the files in it; no other connection there has it.
    pub name: &'a str,
}

/// A login that is there. Dropping it ends it at once, [`Connection::close`] waits.
pub struct Connection {
    target: Target,
    facts: Facts,
    processes: Arc<Processes>,
    namespace: Option<Arc<Namespace>>,
    directory: PathBuf,
    name: String,
    master: Box<dyn Process>,
    /// As long as it is open, the other side waits.
    open: Option<pipe::Sender>,
}

/// A program on the node that talks: the process is ssh's.
type Talk = (Box<dyn Process>, pipe::Sender, pipe::Receiver);

impl Connection {
    /// Logs in, again and again until `deadline` while the node does not answer, and looks what it is.
    ///
    /// # Errors
    /// See [`SshError`]. After one, nothing is left on the node or here but small files in the site's directory.
    pub async fn open(site: &Site<'_>, target: &Target, deadline: Instant) -> Result<Self, SshError> {
        if let HostKeys::This(key) = &target.host_keys {
            let line = format!("{} {key}\n", words::alias(site.name));
            let written = std::fs::write(site.directory.join(words::known_hosts(site.name)), line);
            written.map_err(|source| SshError::Io { what: "write the expected host key", source })?;
        }
        let mut before = None;
        loop {
            let (begun, left) = (Instant::now(), deadline.saturating_duration_since(Instant::now()));
            let error = match Self::attempt(site, target, left.min(ATTEMPT)).await {
                Err(error) if error.may_pass() => error,
                other => return other,
            };
            // An attempt that was cut short says less than the one before.
            let error = if begun.elapsed() < left { error } else { before.unwrap_or(error) };
            if Instant::now() + PAUSE >= deadline {
                return Err(error);
            }
            before = Some(error);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn attempt(site: &Site<'_>, target: &Target, limit: Duration) -> Result<Self, SshError> {
        if target.host_keys == HostKeys::First {
            // What an attempt that failed took for the node's key may have been anybody's.
            match std::fs::remove_file(site.directory.join(words::known_hosts(site.name))) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(SshError::Io { what: "forget the host key of an earlier attempt", source });
                }
                _ => {}
            }
        }
        let nonce = format!("{:016x}", crate::agent::fresh_number());
        let mut argv = words::options(target, site.name);
        argv.extend(words::master());
        argv.extend(["--".to_owned(), target.host.clone(), words::in_shell(&words::look(&nonce))]);
        let job = job(argv, site.directory, site.namespace.clone());
        let (mut master, open, out) = start(site.processes, job).await?;
        let facts = match tokio::time::timeout(limit, read_facts(out, &nonce)).await {
            Ok(Some(facts)) => facts,
            Ok(None) => return Err(why(&target.host, "look at it", master.as_mut()).await),
            Err(_) => {
                let text = format!("nothing came of the login within {limit:?}");
                return Err(SshError::Unreachable { host: target.host.clone(), text });
            }
        };
        facts.check(&target.host)?;
        Ok(Self {
            target: target.clone(),
            facts,
            processes: Arc::clone(site.processes),
            namespace: site.namespace.clone(),
            directory: site.directory.to_owned(),
            name: site.name.to_owned(),
            master,
            open: Some(open),
        })
    }

    /// Directory on the node that goes with the connection.
    pub fn place(&self) -> &str {
        &self.facts.place
    }

    /// Starts a command through the connection. Its words are quoted: the login's shell changes none of them.
    ///
    /// # Errors
    /// When ssh cannot be started; what else goes wrong, the process says.
    pub async fn start(&mut self, argv: &[&str]) -> Result<Talk, SshError> {
        let mut all = words::options(&self.target, &self.name);
        all.extend(words::through());
        let line = argv.iter().map(|word| words::quoted(word)).collect::<Vec<_>>().join(" ");
        all.extend(["--".to_owned(), self.target.host.clone(), line]);
        start(&self.processes, job(all, &self.directory, self.namespace.clone())).await
    }

    /// Unpacks vptest on the node.
    ///
    /// # Errors
    /// [`SshError::Failed`] when the node has no `tar` or no room.
    pub async fn copy(&mut self, bundle: &Bundle) -> Result<(), SshError> {
        let place = self.place().to_owned();
        let (mut process, mut input, _out) = self.start(&["tar", "-x", "-f", "-", "-C", &place]).await?;
        let sent = input.write_all(&bundle.tar).await;
        drop(input);
        let exit = process.wait().await;
        match (sent, exit.map(|exit| exit.status)) {
            (Ok(()), Ok(ExitStatus::Code(0))) => Ok(()),
            (Err(error), Ok(ExitStatus::Code(0))) => Err(self.failed("copy vptest to it", &error.to_string())),
            (_, Ok(_)) => {
                // tar's last line only says that there were others.
                let output = String::from_utf8_lossy(&process.output(Stream::Err).bytes).into_owned();
                let why = output.lines().find(|line| line.contains(": Cannot ")).unwrap_or(&output);
                Err(self.failed("copy vptest to it", &error::last_line(why)))
            }
            (_, Err(error)) => Err(self.failed("copy vptest to it", &error.to_string())),
        }
    }

    /// Copies vptest and starts it as an agent, as root.
    ///
    /// # Errors
    /// See [`SshError`].
    pub async fn agent(&mut self, bundle: &Bundle, limits: Limits) -> Result<SshAgent, SshError> {
        self.copy(bundle).await?;
        let program = format!("{}/{}", self.place(), crate::image::BUNDLE_PROGRAM);
        // What it and its commands write goes with the connection, also when the agent is killed. sudo keeps no variables.
        let temporary = format!("TMPDIR={}", self.place());
        let agent = ["env", &temporary, program.as_str(), "agent", "--stdio", "--program", &program];
        let argv: Vec<&str> = self.facts.become_root().iter().copied().chain(agent).collect();
        let (mut process, input, output) = self.start(&argv).await?;
        match Client::connect(output, input, limits).await {
            Ok(client) => Ok(SshAgent { client, process }),
            Err(source) => {
                // ssh may still be about to say why.
                let _ = tokio::time::timeout(LAST_WORDS, process.wait()).await;
                let said = said(process.as_ref());
                let said = if said.is_empty() { said } else { format!("; {said}") };
                Err(SshError::Agent { host: self.target.host.clone(), source, said })
            }
        }
    }

    /// Ends the connection; the node removes what was copied to it. Idempotent.
    ///
    /// # Errors
    /// When ssh does not end by itself: the node may not have heard of it.
    pub async fn close(&mut self) -> Result<(), SshError> {
        if self.open.take().is_none() {
            return Ok(());
        }
        match tokio::time::timeout(END_LIMIT, self.master.wait()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.failed("end the connection to it", &error.to_string())),
            Err(_) => Err(self.failed("end the connection to it", &format!("it goes on after {END_LIMIT:?}"))),
        }
    }

    fn failed(&self, what: &'static str, text: &str) -> SshError {
        SshError::Failed { host: self.target.host.clone(), what, text: crate::text::printable(text, 300) }
    }
}

/// An agent behind a [`Connection`], which must outlive it. Dropping it ends it.
pub struct SshAgent {
    /// The conversation.
    pub client: Client,
    /// ssh, as long as the conversation goes on.
    pub process: Box<dyn Process>,
}

fn job(argv: Vec<String>, directory: &Path, namespace: Option<Arc<Namespace>>) -> Job {
    Job { command: Command { argv, ..Command::default() }, directory: directory.to_owned(), namespace }
}

async fn start(processes: &Processes, job: Job) -> Result<Talk, SshError> {
    processes.converse(job).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => SshError::NoProgram,
        _ => SshError::Io { what: "start ssh", source },
    })
}

/// The line that the node says of itself, after what its login may print; `None` when there is none.
async fn read_facts(out: pipe::Receiver, nonce: &str) -> Option<Facts> {
    let mut lines = BufReader::new(out.take(NOISE));
    loop {
        let mut line = Vec::new();
        if lines.read_until(b'\n', &mut line).await.ok()? == 0 {
            return None;
        }
        if let Some(facts) = Facts::parse(&String::from_utf8_lossy(&line), nonce) {
            return Some(facts);
        }
    }
}

/// Why a login had no result.
async fn why(host: &str, what: &'static str, process: &mut dyn Process) -> SshError {
    let ended = tokio::time::timeout(LAST_WORDS, process.wait()).await;
    let text = String::from_utf8_lossy(&process.output(Stream::Err).bytes).into_owned();
    match ended {
        Ok(Ok(exit)) if exit.status == NO_SESSION => error::classify(host, &text),
        Ok(Ok(exit)) => {
            let text = format!("{}: {}", exit.status, error::last_line(&text));
            SshError::Failed { host: host.to_owned(), what, text }
        }
        Ok(Err(error)) => SshError::Failed { host: host.to_owned(), what, text: error.to_string() },
        Err(_) => SshError::Failed { host: host.to_owned(), what, text: "its answer makes no sense".to_owned() },
    }
}

fn said(process: &dyn Process) -> String {
    let output = process.output(Stream::Err).bytes;
    if output.is_empty() { String::new() } else { error::last_line(&String::from_utf8_lossy(&output)) }
}
