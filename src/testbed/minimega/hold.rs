//! Namespaces that are in use. Whatever happens, they go: dropping them removes them as well.

use std::path::Path;
use std::sync::Arc;

use super::daemon::{Daemon, Namespace, Owner};
use super::error::MinimegaError;
use super::journal::Journal;
use super::leftovers;
use super::machine::Machine;
use crate::testbed::TestbedError;

/// A namespace with its entry in the journal.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) namespace: Arc<Namespace>,
    journal: Journal,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Holds {
    held: Vec<Held>,
}

impl Holds {
    /// A fresh namespace on these hosts of the mesh, noted before it comes to be; its machines write their consoles to
    /// `consoles`.
    pub(super) async fn take(
        &mut self,
        daemon: &Arc<Daemon>,
        campaign: &Path,
        consoles: &Path,
        hosts: &[String],
    ) -> Result<Arc<Namespace>, TestbedError> {
        let fresh = daemon.fresh_namespace(&Owner::of(campaign)).await;
        let failed = |error: MinimegaError| error.into_testbed("make a namespace of minimega's");
        let namespace = Arc::new(fresh.map_err(failed)?.on(hosts));
        let journal = Journal::begin(campaign, &namespace, consoles)
            .map_err(|source| TestbedError::Io { what: format!("note the namespace {}", namespace.name()), source })?;
        self.held.push(Held { namespace: Arc::clone(&namespace), journal });
        namespace.pin().await.map_err(failed)?;
        Ok(namespace)
    }

    /// Notes the machines of a namespace.
    pub(super) fn note(&mut self, namespace: &Namespace, machines: &[&Machine]) -> Result<(), TestbedError> {
        let held = self.held.iter_mut().find(|held| held.namespace.name() == namespace.name());
        // Of a machine on another host of a mesh, numbers and taps mean other things here.
        let here = machines.iter().copied().filter(|machine| machine.host == namespace.daemon().host);
        let noted = held.map_or(Ok(()), |held| held.journal.note(here));
        noted.map_err(|source| TestbedError::Io { what: format!("note the machines of {}", namespace.name()), source })
    }

    /// Leaves all of them up, and returns their names.
    pub(super) fn keep(&mut self) -> std::io::Result<Vec<String>> {
        self.held.iter_mut().try_for_each(|held| held.journal.keep())?;
        Ok(self.held.drain(..).map(|held| held.namespace.name().to_owned()).collect())
    }

    /// Removes all of them, and tells what is left.
    pub(super) async fn release(&mut self) -> Vec<String> {
        let (mut left, mut hangs) = (Vec::new(), false);
        // The last one first: the first may have the bridge that machines of the others are at, and minimega makes a bridge
        // once more for a machine that goes.
        // One is only forgotten when it has been dealt with: this may be given up half-way.
        while let Some(held) = self.held.last() {
            let failures = held.namespace.remove().await;
            let Some(Held { namespace, journal }) = self.held.pop() else { break };
            if leftovers::is_over(namespace.daemon(), &failures).await {
                // The daemon is gone; what it has left is known from the journal.
                left.extend(leftovers::bury(journal, &mut hangs).await.left);
                continue;
            }
            hangs |= namespace.hangs();
            let gone = leftovers::await_gone(&journal.entry).await;
            left.extend(failures.iter().map(|error| format!("namespace {}: {}", namespace.name(), chain(error))));
            let all_gone = failures.is_empty() && gone.is_empty();
            left.extend(gone);
            if all_gone {
                left.extend(journal.erase().err().map(|error| format!("journal of {}: {error}", namespace.name())));
            }
        }
        left.extend(leftovers::hurried(hangs));
        left
    }
}

impl Drop for Holds {
    /// The connections of the runtime that is left here may not answer any more, so that a thread makes its own.
    fn drop(&mut self) {
        let journal = |held: Held| {
            held.namespace.leave();
            held.journal
        };
        let mut hangs = self.held.iter().any(|held| held.namespace.hangs());
        // As in `release`: the one that joins two hosts was the first.
        let held: Vec<Journal> = self.held.drain(..).rev().map(journal).collect();
        if held.is_empty() {
            return;
        }
        let bury = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                for journal in held {
                    for line in leftovers::bury(journal, &mut hangs).await.left {
                        tracing::warn!("left in minimega: {line}");
                    }
                }
            });
            Ok::<_, std::io::Error>(())
        };
        let done = std::thread::Builder::new().name("vptest-minimega".to_owned()).spawn(bury).map(|t| t.join());
        if !matches!(done, Ok(Ok(Ok(())))) {
            tracing::warn!("namespaces of minimega's are left; `vptest clean` removes them");
        }
    }
}

/// An error with its causes.
pub(super) fn chain(error: &MinimegaError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
