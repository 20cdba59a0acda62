//! What gives nodes their orders: a namespace of minimega's, or rond.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::super::daemon::Namespace;
use super::super::error::MinimegaError;
use super::super::wire::Answer;

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

impl MinimegaHead {
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
