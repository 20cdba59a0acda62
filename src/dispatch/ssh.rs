//! Short commands on hosts, by ssh.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::time::Instant;

use super::hosts::Host;
use crate::host::cage::Job;
use crate::node::local::Processes;
use crate::node::{Command, ExitStatus, Process, Stream};
use crate::text::printable_bytes;

/// Variable with the words that begin each call of ssh; GNU parallel has it too.
const VARIABLE: &str = "PARALLEL_SSH";
/// No questions; a host that is silent for 20 s is gone.
const OPTIONS: &[&str] =
    &["BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3", "LogLevel=ERROR"];
/// Bytes that come at once of a worker that sends nothing but signs of life, at most.
const SIGN_OF_LIFE: usize = 256;
/// Bytes that a command may answer.
const MOST: u64 = 1 << 20;

/// How hosts are reached.
pub(super) struct Ssh {
    words: Vec<String>,
    processes: Arc<Processes>,
    directory: PathBuf,
}

/// ssh while it runs, with its input and output.
type Talk = (Box<dyn Process>, pipe::Sender, pipe::Receiver);

/// A command on a host did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum SshFailure {
    /// There is no connection.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// The command failed there.
    #[error("{0}")]
    Failed(String),
    /// Nothing came in time.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// What came cannot be stored here.
    #[error("cannot store what came: {0}")]
    Disk(#[source] std::io::Error),
    /// ssh could not be started.
    #[error("cannot start ssh: {0}")]
    Here(#[from] std::io::Error),
}

impl Ssh {
    /// `directory` is where ssh is started; its processes end with `processes`.
    pub(super) fn new(processes: Arc<Processes>, directory: &Path) -> Self {
        let variable = std::env::var(VARIABLE).unwrap_or_default();
        let mut words: Vec<String> = variable.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() {
            words.push("ssh".to_owned());
        }
        words.extend(OPTIONS.iter().flat_map(|option| ["-o".to_owned(), (*option).to_owned()]));
        Self { words, processes, directory: directory.to_owned() }
    }

    /// The words up to the host, as GNU parallel takes them.
    pub(super) fn command(&self) -> String {
        self.words.join(" ")
    }

    /// Runs a script of sh on a host, which reads `input`, and returns what it prints.
    pub(super) async fn run(
        &self,
        host: &Host,
        script: &str,
        input: &[u8],
        limit: Duration,
    ) -> Result<Vec<u8>, SshFailure> {
        let (mut process, mut stdin, stdout) = self.begin(host, script).await?;
        let talk = async {
            let write = async {
                // A script that ends early says why.
                let _ = stdin.write_all(input).await;
                drop(stdin);
            };
            let mut answer = Vec::new();
            let mut limited = stdout.take(MOST);
            let ((), read) = tokio::join!(write, limited.read_to_end(&mut answer));
            read?;
            judge(&mut *process).await?;
            Ok(answer)
        };
        tokio::time::timeout(limit, talk).await.map_err(|_| SshFailure::Silent(limit))?
    }

    /// Runs a script of sh on a host and writes what it prints to a file, until it ends or nothing but signs of life comes for
    /// `quiet`.
    pub(super) async fn save(&self, host: &Host, script: &str, path: &Path, quiet: Duration) -> Result<(), SshFailure> {
        let mut file = std::fs::File::create(path).map_err(SshFailure::Disk)?;
        let (mut process, stdin, mut stdout) = self.begin(host, script).await?;
        let mut buffer = vec![0; 1 << 16];
        let silent = |_| SshFailure::Silent(quiet);
        let mut deadline = Instant::now() + quiet;
        loop {
            let read = tokio::time::timeout_at(deadline, stdout.read(&mut buffer)).await.map_err(silent)??;
            if read == 0 {
                break;
            }
            if read > SIGN_OF_LIFE {
                deadline = Instant::now() + quiet;
            }
            file.write_all(&buffer[..read]).map_err(SshFailure::Disk)?;
        }
        drop(stdin);
        tokio::time::timeout(quiet, judge(&mut *process)).await.map_err(silent)?
    }

    async fn begin(&self, host: &Host, script: &str) -> std::io::Result<Talk> {
        let mut argv = self.words.clone();
        if let Some(port) = host.port() {
            argv.extend(["-p".to_owned(), port.to_string()]);
        }
        argv.extend(["--".to_owned(), host.login(), format!("exec sh -c {}", quoted(script))]);
        let command = Command { argv, ..Command::default() };
        self.processes.converse(Job { command, directory: self.directory.clone(), namespace: None }).await
    }
}

/// Waits until ssh has ended, and says how.
async fn judge(process: &mut dyn Process) -> Result<(), SshFailure> {
    let exit = process.wait().await.map_err(std::io::Error::other)?;
    let said = process.output(Stream::Err).bytes;
    let last = said.rsplit(|&byte| byte == b'\n').find(|line| !line.is_empty()).unwrap_or_default();
    let said = printable_bytes(last, 300);
    match exit.status {
        ExitStatus::Code(0) => Ok(()),
        ExitStatus::Code(255) => Err(SshFailure::Unreachable(said)),
        status if said.is_empty() => Err(SshFailure::Failed(status.to_string())),
        _ => Err(SshFailure::Failed(said)),
    }
}

/// A word as a POSIX shell gives it back.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
