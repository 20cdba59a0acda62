//! Guests that are kept for further repetitions of their tuple (`[testbed] reuse = "tuple"`).

use std::sync::Arc;

use tokio::sync::Mutex;

use super::guest::Guest;
use super::wishes::Wishes;
use crate::instrument::capture::available_memory;
use crate::node::local::Processes;
use crate::spec::Tuple;
use crate::testbed::TestbedError;
use crate::testbed::lan::build::Network;

/// Guests with their network, up and configured. Dropping it takes everything down.
pub(super) struct Machines {
    pub(super) guests: Vec<Arc<Guest>>,
    pub(super) processes: Arc<Processes>,
    pub(super) network: Arc<Network>,
    /// Iterations that had them before.
    pub(super) uses: u32,
}

impl Drop for Machines {
    fn drop(&mut self) {
        self.processes.abandon();
    }
}

impl Machines {
    /// Asks every QEMU to end, and kills what is left.
    ///
    /// # Errors
    /// When a process cannot be waited for.
    pub(super) async fn close(&self) -> std::io::Result<()> {
        futures_util::future::join_all(self.guests.iter().map(|guest| guest.quit())).await;
        self.processes.close().await
    }

    /// Can they be used again? Ends everything that earlier iterations left in them.
    async fn are_well(&self) -> bool {
        let well =
            self.guests.iter().map(|guest| async move { guest.is_well().await && guest.client.reset().await.is_ok() });
        futures_util::future::join_all(well).await.into_iter().all(|well| well)
    }
}

/// See the module. Cheap to clone; all clones are one pool.
#[derive(Clone)]
pub(super) struct Pool {
    keeps: bool,
    /// By tuple, the longest kept first.
    kept: Arc<Mutex<Vec<(String, Machines)>>>,
}

impl Pool {
    pub(super) fn new(keeps: bool) -> Self {
        Self { keeps, kept: Arc::default() }
    }

    /// Are guests kept after an iteration, `spoilt` when that was no good?
    pub(super) const fn keeps(&self, spoilt: bool) -> bool {
        self.keeps && !spoilt
    }

    /// Makes room for the guests of a tuple, by taking down guests of others if need be.
    ///
    /// # Errors
    /// [`TestbedError::Request`] when they would not fit even so.
    pub(super) async fn make_room(&self, wishes: &Wishes, tuple: &Tuple) -> Result<(), TestbedError> {
        let (mut kept, key) = (self.kept.lock().await, key(tuple));
        if kept.iter().any(|(of, _)| *of == key) {
            return Ok(());
        }
        loop {
            // A kernel that does not say how much there is will say when there is not enough.
            let Some(available) = available_memory() else { return Ok(()) };
            let enough = wishes.check_memory(available);
            if enough.is_ok() || kept.is_empty() {
                return enough;
            }
            let (_, machines) = kept.remove(0);
            report(machines.close().await);
        }
    }

    /// The guests kept for this tuple, if there are any and they are well.
    pub(super) async fn take(&self, tuple: &Tuple) -> Option<Machines> {
        let (mut kept, key) = (self.kept.lock().await, key(tuple));
        let index = kept.iter().position(|(of, _)| *of == key)?;
        let (_, machines) = kept.remove(index);
        drop(kept);
        if machines.are_well().await {
            return Some(machines);
        }
        tracing::warn!("guests that were kept are not well any more and are replaced");
        report(machines.close().await);
        None
    }

    /// Keeps guests for the next iteration of their tuple.
    pub(super) async fn put(&self, key: String, machines: Machines) {
        self.kept.lock().await.push((key, machines));
    }

    /// Takes all guests down.
    pub(super) async fn clear(&self) {
        for (_, machines) in std::mem::take(&mut *self.kept.lock().await) {
            report(machines.close().await);
        }
    }
}

/// Equal for equal tuples alone.
pub(super) fn key(tuple: &Tuple) -> String {
    tuple.iter().map(|(name, value)| format!("{name}={}\n", value.canonical_json())).collect()
}

fn report(closed: std::io::Result<()>) {
    if let Err(error) = closed {
        tracing::warn!("cannot end guests that were kept: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_of_spoilt_iterations_are_not_kept() {
        assert!(Pool::new(true).keeps(false));
        assert!(!Pool::new(true).keeps(true));
        assert!(!Pool::new(false).keeps(false));
    }
}
