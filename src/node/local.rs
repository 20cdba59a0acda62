//! A node that is a network namespace on this host, or this host itself: it shares the host's files, CPUs and users.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::unix::pipe;
use tokio::sync::RwLock;

use super::{Command, Node, NodeError, Process};
use crate::host::cage::{Cage, Job};
use crate::host::namespace::Namespace;
use crate::ids::NodeId;

/// The processes of all nodes of a testbed; one cage, since they end together.
#[derive(Debug)]
pub struct Processes {
    cage: RwLock<Option<Cage>>,
}

impl Processes {
    /// Keeps them in this cage.
    pub fn new(cage: Cage) -> Self {
        Self { cage: RwLock::new(Some(cage)) }
    }

    /// Starts one.
    ///
    /// # Errors
    /// As [`Cage::spawn`], and when all was ended already.
    pub async fn spawn(&self, job: Job) -> io::Result<Box<dyn Process>> {
        match self.cage.read().await.as_ref() {
            Some(cage) => Ok(Box::new(cage.spawn(job).await?)),
            None => Err(io::Error::other("the testbed was taken down")),
        }
    }

    /// Starts one that is talked to: see [`Cage::converse`].
    ///
    /// # Errors
    /// As [`Processes::spawn`].
    pub async fn converse(&self, job: Job) -> io::Result<(Box<dyn Process>, pipe::Sender, pipe::Receiver)> {
        match self.cage.read().await.as_ref() {
            Some(cage) => {
                let (child, input, output) = cage.converse(job).await?;
                Ok((Box::new(child), input, output))
            }
            None => Err(io::Error::other("the testbed was taken down")),
        }
    }

    /// Where they are, for those who follow their system calls; `None` where nothing tells them from others.
    pub async fn workload(&self) -> Option<crate::instrument::syscalls::Workload> {
        crate::instrument::syscalls::Workload::of(self.cage.read().await.as_ref()?)
    }

    /// Kills them all and waits until they are gone. Idempotent.
    pub async fn close(&self) -> io::Result<()> {
        match self.cage.write().await.take() {
            Some(mut cage) => cage.close().await,
            None => Ok(()),
        }
    }

    /// As [`Processes::close`] where waiting for other users is not possible: processes that are being started at this
    /// moment end when the last node is dropped.
    pub fn abandon(&self) {
        if let Ok(mut cage) = self.cage.try_write() {
            drop(cage.take());
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct LocalNode {
    /// Its name.
    pub id: NodeId,
    /// Address of the interface the workload uses.
    pub address: IpAddr,
    /// An existing directory.
    pub scratch: String,
    /// Path of the vptest program.
    pub vptest: String,
    /// Its network stack; `None` for the one vptest is in.
    pub namespace: Option<Arc<Namespace>>,
    /// Where its processes live.
    pub processes: Arc<Processes>,
}

impl LocalNode {
    fn failed(&self, what: String) -> impl FnOnce(io::Error) -> NodeError {
        let node = self.id;
        move |source| NodeError::Io { node, what, source }
    }

    /// Relative paths start in the scratch directory.
    fn resolve(&self, path: &str) -> PathBuf {
        Path::new(&self.scratch).join(path)
    }
}

/// Starts a command for `node`, or beside all nodes for `None` of the namespace.
///
/// # Errors
/// [`NodeError::NoProgram`] when the program is not there.
pub async fn start(
    processes: &Processes,
    node: NodeId,
    namespace: Option<Arc<Namespace>>,
    directory: &Path,
    command: &Command,
) -> Result<Box<dyn Process>, NodeError> {
    let program = command.argv.first().cloned().unwrap_or_default();
    let wanted = command.directory.as_ref().map_or(directory, Path::new);
    // `execve` says the same of a missing program and of a missing directory.
    if !wanted.is_dir() {
        let source = io::Error::from(io::ErrorKind::NotADirectory);
        return Err(NodeError::Io { node, what: format!("start {program} in {}", wanted.display()), source });
    }
    let job = Job { command: command.clone(), directory: directory.to_owned(), namespace };
    processes.spawn(job).await.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => NodeError::NoProgram { node, program },
        _ => NodeError::Io { node, what: format!("start {program}"), source },
    })
}

#[async_trait]
impl Node for LocalNode {
    fn id(&self) -> NodeId {
        self.id
    }

    fn address(&self) -> IpAddr {
        self.address
    }

    fn scratch(&self) -> &str {
        &self.scratch
    }

    fn vptest(&self) -> &str {
        &self.vptest
    }

    fn is_here(&self) -> bool {
        true
    }

    async fn spawn(&self, command: &Command) -> Result<Box<dyn Process>, NodeError> {
        start(&self.processes, self.id, self.namespace.clone(), Path::new(&self.scratch), command).await
    }

    async fn listening(&self, port: u16) -> Result<bool, NodeError> {
        let namespace = self.namespace.clone();
        let look = move || match &namespace {
            Some(namespace) => namespace.run(|| any_listener(port)),
            None => any_listener(port),
        };
        blocking(look).await.map_err(self.failed("list its sockets".to_owned()))
    }

    async fn exists(&self, path: &str) -> Result<bool, NodeError> {
        self.resolve(path).try_exists().map_err(self.failed(format!("look for {path}")))
    }

    async fn put(&self, path: &str, content: &[u8]) -> Result<(), NodeError> {
        let (target, content) = (self.resolve(path), content.to_vec());
        blocking(move || std::fs::write(target, content)).await.map_err(self.failed(format!("write {path}")))
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>, NodeError> {
        let source = self.resolve(path);
        let content = blocking(move || read_at_most(&source, limit)).await;
        let content = content.map_err(self.failed(format!("read {path}")))?;
        content.ok_or_else(|| NodeError::TooLarge { node: self.id, path: path.to_owned(), limit })
    }
}

/// Runs work that may block where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(io::Error::other("vptest is ending")),
    }
}

/// Does a TCP socket of the current namespace listen on the port?
pub(crate) fn any_listener(port: u16) -> io::Result<bool> {
    for table in ["tcp", "tcp6"] {
        match std::fs::read_to_string(format!("/proc/thread-self/net/{table}")) {
            Ok(text) if has_listener(&text, port) => return Ok(true),
            Ok(_) => {}
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table == "tcp6" => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Looks through a table as proc(5) describes it: `sl local_address rem_address st …`, 0A is LISTEN.
fn has_listener(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1).and_then(|local| local.rsplit_once(':'));
        let state = fields.nth(1);
        state == Some("0A") && local.is_some_and(|(_, digits)| u16::from_str_radix(digits, 16) == Ok(port))
    })
}

/// `None` when the file is larger. Anything but a file is refused: reading a pipe could take for ever.
fn read_at_most(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file: File = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut content = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut content)?;
    let fits = u64::try_from(content.len()).is_ok_and(|length| length <= limit);
    Ok(fits.then_some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_found_by_state_and_port() {
        // From /proc/net/tcp of Linux 6.18.
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3221\n   \
                     1: 0100007F:0050 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 3222\n";
        assert!(has_listener(table, 8080));
        assert!(!has_listener(table, 80), "an open connection is no listener");
        assert!(!has_listener("", 80));
        let v6 = "head\n 0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0\n";
        assert!(has_listener(v6, 80));
    }

    #[test]
    fn only_files_within_the_limit_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("five");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_at_most(&path, 5).unwrap(), Some(b"12345".to_vec()));
        assert_eq!(read_at_most(&path, 4).unwrap(), None);
        assert!(read_at_most(directory.path(), 4).is_err());
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read_at_most(&fifo, 4).is_err());
    }
}
