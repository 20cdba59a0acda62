//! GNU parallel as the engine: it hands shares to hosts, one at a time to each, and keeps what workers say in files.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

use super::hosts::Host;
use super::orders::Round;
use super::place::{Program, campaign};
use super::ssh::{Ssh, quoted};
use crate::host::cage::Job;
use crate::ids::ShortHash;
use crate::node::local::Processes;
use crate::node::{Command, Process, Stream};

/// Between the times of two lists of hosts.
const LATER: Duration = Duration::from_secs(2);
/// Name of the program.
pub(super) const PROGRAM: &str = "parallel";

/// One run of GNU parallel. Its files lie in a directory of its own.
pub(super) struct Parallel {
    directory: PathBuf,
    process: Box<dyn Process>,
    log: Log,
}

/// A share ended on a host, well or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) share: u32,
    /// As the file of hosts has it.
    pub(super) host: String,
    pub(super) exit: i32,
}

/// Something that is not there.
#[derive(Debug, thiserror::Error)]
#[error("GNU parallel is not there (`{PROGRAM}` in PATH)")]
pub(super) struct Missing;

/// Is GNU parallel here? moreutils has another program of that name.
pub(super) async fn check(processes: &Arc<Processes>, directory: &Path) -> anyhow::Result<()> {
    let argv = [PROGRAM, "--version"].map(str::to_owned).to_vec();
    let job = Job { command: Command { argv, ..Command::default() }, directory: directory.to_owned(), namespace: None };
    let mut process = match processes.spawn(job).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Missing.into()),
        other => other.context("cannot start GNU parallel")?,
    };
    process.wait().await?;
    let said = process.output(Stream::Out).bytes;
    anyhow::ensure!(
        said.starts_with(b"GNU parallel"),
        "`{PROGRAM}` is another program (Debian: apt-get install parallel)"
    );
    Ok(())
}

impl Parallel {
    /// Begins to hand out shares 1 to `shares`. `directory` is empty.
    pub(super) async fn start(
        processes: &Arc<Processes>,
        ssh: &Ssh,
        directory: &Path,
        (program, id, round): (&Program, ShortHash, &Round),
        hosts: &[&Host],
        shares: usize,
    ) -> anyhow::Result<Self> {
        let lines: String = (1..=shares).map(|share| format!("{share}\n")).collect();
        std::fs::write(directory.join("shares"), lines).context("cannot write the list of shares")?;
        set_hosts(directory, hosts)?;
        let log = directory.join("log");
        File::create(&log).context("cannot make the log")?;
        let place = campaign(id);
        let script =
            format!("exec {} worker --place {place} --round {} --share \"$1\"", program.path(), round.as_str());
        let file = |name: &str| directory.join(name).to_string_lossy().into_owned();
        let argv = [
            PROGRAM.to_owned(),
            // The user's own settings could change what comes back.
            "--plain".to_owned(),
            "--will-cite".to_owned(),
            "-j1".to_owned(),
            "--sshloginfile".to_owned(),
            file("hosts"),
            "--ssh".to_owned(),
            ssh.command(),
            "--results".to_owned(),
            file("said"),
            "--joblog".to_owned(),
            file("log"),
            "--arg-file".to_owned(),
            file("shares"),
            format!("exec sh -c {} vptest {{}}", quoted(&script)),
        ];
        let command = Command { argv: argv.to_vec(), ..Command::default() };
        let job = Job { command, directory: directory.to_owned(), namespace: None };
        let process = processes.spawn(job).await.context("cannot start GNU parallel")?;
        Ok(Self { directory: directory.to_owned(), process, log: Log { path: log, at: 0 } })
    }

    /// Only these hosts are given further shares: GNU parallel reads the file again when a share ends.
    pub(super) fn set_hosts(&self, hosts: &[&Host]) -> anyhow::Result<()> {
        set_hosts(&self.directory, hosts)
    }

    /// Where what the worker of a share says is kept, once it has said something.
    pub(super) fn said(&self, share: u32) -> PathBuf {
        said(&self.directory, share)
    }

    /// Last line of what ssh or the worker of a share had to complain about.
    pub(super) fn complaint(&self, share: u32) -> String {
        let text = std::fs::read(self.said(share).with_file_name("stderr")).unwrap_or_default();
        // What follows an error is advice for who typed the command.
        let is_it = |line: &&[u8]| !line.is_empty() && !line.starts_with(b"hint: ");
        let last = text.rsplit(|&byte| byte == b'\n').find(is_it).unwrap_or_default();
        crate::text::printable_bytes(last, 300)
    }

    /// Shares that ended since the last call.
    pub(super) fn done(&mut self) -> anyhow::Result<Vec<Done>> {
        self.log.read()
    }

    /// Resolves when it has ended, and says why if it was not for having handed out everything.
    pub(super) async fn ended(&mut self) -> anyhow::Result<Option<String>> {
        let exit = self.process.wait().await?;
        let said = self.process.output(Stream::Err).bytes;
        // It exits with the number of shares that failed, which are known.
        Ok((!said.is_empty()).then(|| format!("{}: {}", exit.status, crate::text::printable_bytes(&said, 300))))
    }
}

/// Where what was said is kept, in the directory of a run.
pub(super) fn said(directory: &Path, share: u32) -> PathBuf {
    directory.join("said/1").join(share.to_string()).join("stdout")
}

/// Everything that was said in a run, also of an earlier coordinator's.
pub(super) fn all_said(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory.join("said/1")).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.path().join("stdout")).filter(|path| path.exists()).collect();
    all.sort();
    all
}

/// Put there at once: GNU parallel may read it at any time. It reads it again only when its time is more than a second later than
/// before, in whole seconds.
fn set_hosts(directory: &Path, hosts: &[&Host]) -> anyhow::Result<()> {
    let text: String = hosts.iter().map(|host| format!("{host}\n")).collect();
    let (path, temp) = (directory.join("hosts"), directory.join("hosts.new"));
    let before = std::fs::metadata(&path).and_then(|about| about.modified()).ok();
    let time = before.map_or_else(SystemTime::now, |before| SystemTime::now().max(before + LATER));
    let write = || {
        std::fs::write(&temp, text)?;
        File::options().write(true).open(&temp)?.set_modified(time)?;
        std::fs::rename(&temp, &path)
    };
    write().context("cannot write the list of hosts")
}

/// The log of jobs, which grows.
struct Log {
    path: PathBuf,
    at: u64,
}

impl Log {
    fn read(&mut self) -> anyhow::Result<Vec<Done>> {
        let mut text = String::new();
        let mut file = File::open(&self.path).context("cannot open GNU parallel's log")?;
        file.seek(io::SeekFrom::Start(self.at)).context("cannot read GNU parallel's log")?;
        file.read_to_string(&mut text).context("cannot read GNU parallel's log")?;
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        self.at += whole.len() as u64;
        Ok(whole.lines().filter_map(line).collect())
    }
}

/// `Seq Host Starttime JobRuntime Send Receive Exitval Signal Command`, separated by tabs; `None` for the head.
fn line(line: &str) -> Option<Done> {
    let columns: Vec<&str> = line.split('\t').collect();
    let [share, host, _, _, _, _, exit, ..] = columns.as_slice() else { return None };
    Some(Done { share: share.parse().ok()?, host: (*host).to_owned(), exit: exit.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_read_as_it_grows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let head = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n";
        let first = "2\troot@kn1:22\t1795950829.829\t     1.513\t0\t1561\t1\t0\tx\n";
        std::fs::write(&path, format!("{head}{first}1\tkn2")).unwrap();
        let mut log = Log { path: path.clone(), at: 0 };
        assert_eq!(log.read().unwrap(), [Done { share: 2, host: "root@kn1:22".to_owned(), exit: 1 }]);
        assert_eq!(log.read().unwrap(), []);
        std::fs::write(&path, format!("{head}{first}1\tkn2\t1\t2\t0\t0\t255\t0\tx\n")).unwrap();
        assert_eq!(log.read().unwrap(), [Done { share: 1, host: "kn2".to_owned(), exit: 255 }]);
    }
}
