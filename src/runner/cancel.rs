//! The wish to stop, spread to whoever waits for something.

use std::sync::Arc;

use tokio::sync::watch;

/// Asks for a stop.
#[derive(Debug, Clone)]
pub struct Canceller {
    sender: Arc<watch::Sender<Option<String>>>,
}

/// Sees the wish to stop. Clones see the same one.
#[derive(Debug, Clone)]
pub struct Cancel {
    receiver: watch::Receiver<Option<String>>,
}

impl Canceller {
    /// A pair that nobody has asked to stop.
    pub fn new() -> (Self, Cancel) {
        let (sender, receiver) = watch::channel(None);
        (Self { sender: Arc::new(sender) }, Cancel { receiver })
    }

    /// Asks for a stop; `by` says who did: `Ctrl-C`. The first wish counts.
    pub fn cancel(&self, by: &str) {
        self.sender.send_if_modified(|wish| {
            let first = wish.is_none();
            if first {
                *wish = Some(by.to_owned());
            }
            first
        });
    }
}

impl Cancel {
    /// Who asked for a stop; `None` when nobody did.
    pub fn requested(&self) -> Option<String> {
        self.receiver.borrow().clone()
    }

    /// Waits until a stop is asked for and says by whom.
    pub async fn cancelled(&mut self) -> String {
        loop {
            if let Some(by) = self.receiver.borrow_and_update().clone() {
                return by;
            }
            if self.receiver.changed().await.is_err() {
                // Nobody is left who could ask.
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_wish_counts_and_every_clone_sees_it() {
        let (canceller, mut cancel) = Canceller::new();
        assert_eq!(cancel.requested(), None);
        let waiting = tokio::spawn({
            let mut cancel = cancel.clone();
            async move { cancel.cancelled().await }
        });
        canceller.cancel("Ctrl-C");
        canceller.cancel("SIGTERM");
        assert_eq!(waiting.await.unwrap(), "Ctrl-C");
        assert_eq!(cancel.cancelled().await, "Ctrl-C");
        assert_eq!(cancel.requested().as_deref(), Some("Ctrl-C"));
    }
}
