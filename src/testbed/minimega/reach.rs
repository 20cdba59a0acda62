//! How the agent of a guest is reached: at a port of the guest's, or by letters through the miniccc in it.
//!
//! At a port, an image without an agent needs a miniccc just once, for having one sent and started.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::cc::{Channel, GUEST_FILES, Mailbox, Member, MinimegaHead, Timing, start_at_port};
use super::daemon::Namespace;
use super::error::MinimegaError;
use super::guest;
use super::hold::chain;
use super::machine::Machine;
use crate::agent::{Client, PORT};
use crate::image::Bundle;
use crate::spec::GuestReach;

/// An agent that the image starts is up about as soon as its miniccc. It has this time before another one is sent.
const OWN_AGENT: Duration = Duration::from_secs(5);
/// How long a phase that starts an agent may go on when an agent has answered already: two heartbeats, and what it takes.
const PHASE_END: Duration = Duration::from_secs(30);
/// How long is waited for why miniccc has not helped, when nobody has answered: its own limit ends at about the same time.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Letters to a guest that goes with its namespace. When they are dropped, none is under way any more.
pub(super) struct Letters(Mailbox);

impl Letters {
    /// Round trips through miniccc so far: one that has brought the agent, and those of letters.
    fn round_trips(&self) -> u64 {
        1 + self.0.turns()
    }
}

impl Drop for Letters {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// A guest whose agent answers.
pub(super) struct Reached {
    pub(super) client: Client,
    by: By,
}

/// What it was reached by.
enum By {
    Image,
    /// The image's, while miniccc has started another one, which has found the port taken.
    ImageFirst,
    /// Its miniccc has started the agent.
    Miniccc,
    Letters(Letters),
}

impl Reached {
    /// Round trips through miniccc so far; `None` where none is used.
    pub(super) fn round_trips(&self) -> Option<u64> {
        match &self.by {
            By::Image => None,
            By::Miniccc | By::ImageFirst => Some(1),
            By::Letters(letters) => Some(letters.round_trips()),
        }
    }

    /// At the port of a guest that starts its agent by itself.
    pub(super) async fn at_port(
        namespace: &Namespace,
        machine: &Machine,
        limit: Duration,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(Self { client: guest::reach(namespace.daemon(), machine, limit).await?, by: By::Image })
    }
}

/// The guests of a namespace whose image is the user's.
#[derive(Clone)]
pub(super) struct OwnGuests {
    namespace: Arc<Namespace>,
    channel: Arc<Channel>,
    reach: GuestReach,
    bundle: Arc<Bundle>,
}

impl OwnGuests {
    pub(super) fn new(namespace: &Arc<Namespace>, reach: &GuestReach, bundle: &Arc<Bundle>) -> Self {
        let head = Arc::new(MinimegaHead::new(Arc::clone(namespace)));
        Self {
            namespace: Arc::clone(namespace),
            channel: Arc::new(Channel::new(head, Timing::default())),
            reach: reach.clone(),
            bundle: Arc::clone(bundle),
        }
    }

    /// # Errors
    /// Why the agent does not answer within `limit`.
    pub(super) async fn reach(
        &self,
        machine: &Machine,
        limit: Duration,
    ) -> Result<Reached, Box<dyn Error + Send + Sync>> {
        let files = match &self.reach {
            GuestReach::Cc { files: Some(files) } => files.clone(),
            _ => GUEST_FILES.to_owned(),
        };
        let member = Member { node: machine.name.clone(), uuid: machine.uuid.clone(), files };
        match self.reach {
            GuestReach::Port => self.at_port(machine, &member, limit).await,
            GuestReach::Cc { .. } => self.by_letters(&member, limit).await,
        }
    }

    async fn by_letters(&self, member: &Member, limit: Duration) -> Result<Reached, Box<dyn Error + Send + Sync>> {
        let deadline = Instant::now() + limit;
        self.channel.await_clients(std::slice::from_ref(member), limit).await?;
        let opened = Mailbox::open(&self.channel, member, &self.bundle);
        let late = |_| format!("its miniccc has reported, and there is no agent within {limit:?} all the same");
        let mailbox = tokio::time::timeout_at(deadline, opened).await.map_err(late)??;
        Ok(Reached { client: mailbox.client.clone(), by: By::Letters(Letters(mailbox)) })
    }

    /// Whoever starts it first: the image, or its miniccc.
    async fn at_port(
        &self,
        machine: &Machine,
        member: &Member,
        limit: Duration,
    ) -> Result<Reached, Box<dyn Error + Send + Sync>> {
        let name = format!("agent-{:016x}", crate::agent::fresh_number());
        let is_posted = AtomicBool::new(false);
        let mut reached = pin!(guest::reach(self.namespace.daemon(), machine, limit));
        let mut start = pin!(self.start(member, &name, limit, &is_posted));
        let (reached, started) = tokio::select! {
            biased;
            // Also while the phase goes on that has started it.
            client = &mut reached => {
                let patience = match (&client, is_posted.load(Ordering::Relaxed)) {
                    // Nothing else may go on in a guest that is measured.
                    (_, true) => PHASE_END,
                    (Err(_), false) => LAST_WORD,
                    (Ok(_), false) => Duration::ZERO,
                };
                // Without patience it is not even looked at, since it might begin then.
                let started = if patience.is_zero() { None } else { timeout(patience, start).await.ok() };
                (client, started)
            }
            started = &mut start => (reached.await, Some(started)),
        };
        let is_posted = is_posted.load(Ordering::Relaxed);
        match (reached, started) {
            (Ok(client), started) => {
                if is_posted && started.is_none() {
                    let node = &member.node;
                    tracing::warn!("{node}: what starts an agent through miniccc has not ended within {PHASE_END:?}");
                }
                let is_sent = client.hello().vptest.split('/').any(|part| part == name);
                let by = match (is_sent, is_posted) {
                    (true, _) => By::Miniccc,
                    (false, true) => By::ImageFirst,
                    (false, false) => By::Image,
                };
                Ok(Reached { client, by })
            }
            (Err(error), None | Some(Ok(()))) => Err(error.into()),
            (Err(error), Some(Err(why))) => {
                let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                Err(format!("{error}{cause}; nor has one been started through miniccc: {}", chain(&why)).into())
            }
        }
    }

    /// `is_posted` becomes true when the guest is about to be given something to do.
    async fn start(
        &self,
        member: &Member,
        name: &str,
        limit: Duration,
        is_posted: &AtomicBool,
    ) -> Result<(), MinimegaError> {
        self.channel.await_clients(std::slice::from_ref(member), limit).await?;
        tokio::time::sleep(OWN_AGENT).await;
        is_posted.store(true, Ordering::Relaxed);
        start_at_port(&self.channel, member, &self.bundle, PORT, name).await
    }
}
