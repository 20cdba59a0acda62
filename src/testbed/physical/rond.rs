//! Nodes that are reached through the miniccc on them, by the rond on this host.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::wishes::NodeWish;
use crate::image::Bundle;
use crate::testbed::minimega::cc::{Channel, Mailbox, Member, Timing};
use crate::testbed::minimega::rond::{DEFAULT_SOCKET, Rond};
use crate::testbed::minimega::{Limits, MinimegaError};

const POLL: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct RondWay {
    socket: PathBuf,
    head: Mutex<Option<Arc<Head>>>,
}

/// A node that has reported to rond.
pub(super) struct Found {
    head: Arc<Head>,
    member: Member,
}

/// A rond that has answered.
struct Head {
    rond: Arc<Rond>,
    channel: Arc<Channel>,
}

impl RondWay {
    /// At this socket, or the usual one.
    pub(super) fn new(socket: Option<&str>) -> Self {
        Self { socket: socket.unwrap_or(DEFAULT_SOCKET).into(), head: Mutex::default() }
    }

    /// The node, which may be missing for `patience`.
    pub(super) async fn find(&self, wish: &NodeWish, patience: Duration) -> Result<Found, MinimegaError> {
        let head = self.head().await?;
        let member = find(&head, wish, patience).await;
        self.unless_lost(&head, &member).await;
        Ok(Found { member: member?, head })
    }

    /// Has the node vptest's agent.
    pub(super) async fn open(&self, found: Found, files: &str, bundle: &Bundle) -> Result<Mailbox, MinimegaError> {
        let Found { head, member } = found;
        let member = Member { files: files.to_owned(), ..member };
        let opened = Mailbox::open(&head.channel, &member, bundle).await;
        self.unless_lost(&head, &opened).await;
        opened
    }

    /// Another rond may come after one that is lost, and may be there already.
    async fn unless_lost<T: Sync>(&self, head: &Arc<Head>, came: &Result<T, MinimegaError>) {
        if !came.as_ref().is_err_and(MinimegaError::is_lost) {
            return;
        }
        let mut known = self.head.lock().await;
        if known.as_ref().is_some_and(|known| Arc::ptr_eq(known, head)) {
            *known = None;
        }
    }

    /// Removes what letters have left at rond.
    pub(super) async fn tidy(&self) {
        let head = self.head.lock().await.clone();
        if let Some(head) = head
            && let Err(error) = head.channel.tidy().await
        {
            tracing::debug!("cannot tidy up at {}: {error}", self.socket.display());
        }
    }

    /// Removes it all, at the end.
    pub(super) async fn finish(&self) {
        let head = self.head.lock().await.take();
        if let Some(head) = head
            && let Err(error) = head.channel.finish().await
        {
            tracing::debug!("cannot tidy up at {}: {error}", self.socket.display());
        }
    }

    async fn head(&self) -> Result<Arc<Head>, MinimegaError> {
        let mut head = self.head.lock().await;
        if let Some(head) = head.as_ref() {
            return Ok(Arc::clone(head));
        }
        let rond = Arc::new(Rond::open(&self.socket, Limits::default()).await?);
        let channel = Arc::new(Channel::new(Arc::clone(&rond) as _, Timing::default()));
        Ok(Arc::clone(head.insert(Arc::new(Head { rond, channel }))))
    }

    /// An error in words, and whether it stays so for all iterations.
    pub(super) fn explain(&self, error: &MinimegaError) -> (String, bool) {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let (hint, stays) = match error {
            MinimegaError::Connect { .. } => (
                " (rond has a socket with `rond -nostdin` alone; another one than the usual is `rond` in [testbed.physical])",
                true,
            ),
            MinimegaError::NoClient { .. } => (
                " (`host` is the host name that rond's `clients` shows; nodes with the same product_uuid show as one)",
                false,
            ),
            MinimegaError::Ambiguous { .. } => (" (give them host names of their own)", true),
            _ => ("", false),
        };
        (format!("{error}{cause}{hint}"), stays)
    }
}

async fn find(head: &Head, wish: &NodeWish, patience: Duration) -> Result<Member, MinimegaError> {
    let deadline = Instant::now() + patience;
    loop {
        match head.rond.members(std::slice::from_ref(&wish.host)).await {
            Err(MinimegaError::NoClient { .. }) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
            Err(MinimegaError::NoClient { missing, .. }) => {
                return Err(MinimegaError::NoClient { missing, waited: patience });
            }
            other => return Ok(other?.remove(0)),
        }
    }
}
