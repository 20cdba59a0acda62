//! What gives nodes their orders: a namespace of minimega's, or rond.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;

use super::super::daemon::Namespace;
use super::super::error::MinimegaError;
use super::super::line::quoted;
use super::super::wire::Answer;
use super::Member;

/// Between two looks for what a client on another host has to say, which all hosts of the mesh are asked for.
const FAR: Duration = Duration::from_millis(200);

/// Bytes of a file that one word of a command can have: Linux takes 128 KiB (execve(2)), of which base64 makes three quarters.
const WORD: usize = 64 << 10;

/// Something for one client to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Take a file from [`Head::outgoing`].
    Send(String),
    /// Run a program, once.
    Run(Vec<String>),
    /// Give a file.
    Receive(String),
}

/// See the module.
#[async_trait]
pub trait Head: Send + Sync {
    /// Directory of this host from which files are sent, and its name below the one that the daemon knows; the files arrive
    /// in a directory of that name among those of miniccc.
    fn outgoing(&self) -> (PathBuf, String);

    /// Directory of this host in which the daemon puts what clients have to say: `COMMAND/UUID/…`.
    fn responses(&self) -> PathBuf;

    /// Identifiers of the clients that have reported. One that has ended may be among them for half a minute.
    async fn clients(&self) -> Result<Vec<String>, MinimegaError>;

    /// Posts orders for one client and returns their numbers. Nobody else's orders come between.
    async fn post(&self, uuid: &str, orders: &[Order]) -> Result<Vec<u64>, MinimegaError>;

    /// The same, for orders whose results are found by their names: `None` where numbers would cost more than they are worth.
    async fn hand_over(&self, uuid: &str, orders: &[Order]) -> Result<Option<Vec<u64>>, MinimegaError> {
        self.post(uuid, orders).await.map(Some)
    }

    /// How often what clients have to say may be looked for at the most: at a daemon on another host, looking costs.
    fn pause(&self) -> Duration {
        Duration::ZERO
    }

    /// What writes a file among those that are sent to a client, where that is quicker than to send it; `None` where it is not.
    fn written_there(&self, _member: &Member, _name: &str, _content: &[u8]) -> Option<Order> {
        None
    }

    /// Brings what a client has had to say to its place below [`Head::responses`], where the daemon that has it is on another
    /// host. A part of it is replaced by the whole. What is not there yet is no error.
    async fn bring(&self, _path: &Path) -> Result<(), MinimegaError> {
        Ok(())
    }

    /// Removes files of orders that are done from another host; paths are those of this one. As well as can be: the rest
    /// goes with the namespace.
    async fn forget(&self, _paths: &[PathBuf]) {}

    /// Removes what orders that are long done have left at the head, where nobody else will. Says whether it is time for
    /// [`Head::clear`].
    async fn sweep(&self) -> bool {
        false
    }

    /// Forgets orders that are done. None of this vptest's may be under way.
    async fn clear(&self) -> Result<(), MinimegaError> {
        Ok(())
    }
}

/// A namespace of minimega's.
#[derive(Debug, Clone)]
pub struct MinimegaHead {
    namespace: Arc<Namespace>,
    /// Has it `cc exec-once`?
    once: Arc<AtomicBool>,
}

impl MinimegaHead {
    /// For the clients of this namespace.
    pub fn new(namespace: Arc<Namespace>) -> Self {
        Self { namespace, once: Arc::new(AtomicBool::new(true)) }
    }

    /// `exec-once` is not given again to a client that reconnects. Where there is none, a phase's script sees to it alone.
    async fn run(&self, argv: &[String]) -> Result<Answer, MinimegaError> {
        check_program(argv)?;
        let line = |verb| [&["cc".to_owned(), verb], argv].concat();
        if self.once.load(Ordering::Relaxed) {
            match self.namespace.run(&line("exec-once".to_owned())).await {
                Err(error) if error.is_unknown_command() => self.once.store(false, Ordering::Relaxed),
                other => return other,
            }
        }
        self.namespace.run(&line("exec".to_owned())).await
    }
}

/// A word such as `stdout=foo` before the program is a redirection, and one without a program crashes minimega.
fn check_program(argv: &[String]) -> Result<(), MinimegaError> {
    let redirection = |word: &str| ["stdin=", "stdout=", "stderr="].iter().any(|name| word.starts_with(name));
    let bad = argv.first().filter(|word| !word.is_empty() && !redirection(word)).is_none();
    if !bad {
        return Ok(());
    }
    let word = argv.first().cloned().unwrap_or_default();
    Err(MinimegaError::Unsendable { word, why: "a command begins with the name of a program".to_owned() })
}

#[async_trait]
impl Head for MinimegaHead {
    fn outgoing(&self) -> (PathBuf, String) {
        (self.namespace.files(), self.namespace.name().to_owned())
    }

    fn responses(&self) -> PathBuf {
        self.namespace.files().join("miniccc_responses")
    }

    fn pause(&self) -> Duration {
        if self.namespace.far().is_some() { FAR } else { Duration::ZERO }
    }

    /// minimega takes 0.7 s to hand a file to another host.
    fn written_there(&self, member: &Member, name: &str, content: &[u8]) -> Option<Order> {
        self.namespace.far()?;
        let to = format!("{}/{}/{name}", member.files, self.namespace.name());
        if content.len() > WORD || quoted(&to) != to {
            return None;
        }
        let text = base64::engine::general_purpose::STANDARD.encode(content);
        // Without quotes and variables, which no lexer and no preprocessor then changes on the way.
        let script = format!("echo {text} | base64 -d >{to}.new && mv {to}.new {to}");
        Some(Order::Run(["sh".to_owned(), "-c".to_owned(), script].to_vec()))
    }

    async fn bring(&self, path: &Path) -> Result<(), MinimegaError> {
        let Some(name) = self.far_name(path) else { return Ok(()) };
        // minimega would give what is here.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(MinimegaError::file(format!("remove {}", path.display()))(error));
            }
            _ => {}
        }
        match self.namespace.stream(&name).await? {
            Some(content) => put(path, &content).map_err(MinimegaError::file(format!("write {}", path.display()))),
            None => Ok(()),
        }
    }

    async fn forget(&self, paths: &[PathBuf]) {
        let Some(host) = self.namespace.far() else { return };
        for name in paths.iter().filter_map(|path| self.far_name(path)) {
            if let Err(error) = self.namespace.daemon().run_at(host, &["file", "delete", &name]).await {
                tracing::debug!("{name} stays on {host} as long as its namespace: {error}");
            }
        }
    }

    async fn clients(&self) -> Result<Vec<String>, MinimegaError> {
        let rows = self.namespace.rows(&["cc", "clients"], &["uuid"]).await?;
        Ok(rows.iter().map(|row| row.field("uuid").to_owned()).collect())
    }

    async fn post(&self, uuid: &str, orders: &[Order]) -> Result<Vec<u64>, MinimegaError> {
        let (head, uuid, orders) = (self.clone(), uuid.to_owned(), orders.to_owned());
        // To the end, also when whoever waits for it has had enough: the filter decides about all that comes after.
        let posted = tokio::spawn(async move { head.post_to_the_end(&uuid, &orders).await }).await;
        posted.map_err(|error| MinimegaError::file("give orders to minimega")(error.into()))?
    }
}

/// Written beside and renamed.
fn put(path: &Path, content: &[u8]) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".partial");
    std::fs::write(&beside, content)?;
    std::fs::rename(&beside, path)
}

impl MinimegaHead {
    /// Name below `-filepath` of a file that is on another host; `None` where the namespace is on this one.
    fn far_name(&self, path: &Path) -> Option<String> {
        self.namespace.far()?;
        Some(path.strip_prefix(&self.namespace.daemon().files).ok()?.to_string_lossy().into_owned())
    }

    async fn post_to_the_end(&self, uuid: &str, orders: &[Order]) -> Result<Vec<u64>, MinimegaError> {
        let _configuring = self.namespace.configuring().await;
        self.namespace.run(&["cc", "filter", &format!("uuid={uuid}")]).await?;
        let posted = self.post_filtered(orders).await;
        let back = self.namespace.run(&["clear", "cc", "filter"]).await;
        let ids = posted?;
        back?;
        Ok(ids)
    }

    async fn post_filtered(&self, orders: &[Order]) -> Result<Vec<u64>, MinimegaError> {
        let mut ids = Vec::new();
        for order in orders {
            let answer = match order {
                // Of several files, minimega sends the last alone.
                Order::Send(name) => {
                    let name = format!("{}/{name}", self.namespace.name());
                    self.namespace.run(&["cc", "send", &name]).await?
                }
                Order::Run(argv) => self.run(argv).await?,
                Order::Receive(path) => self.namespace.run(&["cc", "recv", path]).await?,
            };
            ids.push(answer.id().map_err(|garbled| MinimegaError::answer("cc", garbled))?);
        }
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `cc exec stdout=foo` crashed the daemon.
    #[test]
    fn what_crashes_the_daemon_is_not_sent() {
        let argv = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        check_program(&argv(&["timeout", "stdout=foo"])).unwrap();
        for bad in [&["stdout=foo"][..], &["stdin=a", "b"], &["stderr="], &[""], &[]] {
            assert!(check_program(&argv(bad)).is_err(), "{bad:?}");
        }
    }
}
