//! Counters that are read on the node.

use super::super::error::{AgentError, Lost};
use super::super::message::{CounterRequest, News, Outcome, Request, Tell};
use super::super::mux::{Inbox, Item, Outbox};
use super::{Client, outcome, strange};
use crate::instrument::counters::Counted;

/// Longest record.
const MAX_RECORD: usize = 16 << 20;
const NAME: &str = "count";

/// Counters on a node. Dropping it ends the reading.
pub struct RemoteCounters {
    inbox: Inbox,
    /// Its credit ends with it.
    _outbox: Outbox,
}

impl Client {
    /// Begins to read counters; when this returns, the first reading was made.
    ///
    /// # Errors
    /// [`AgentError::Failed`] where the node cannot.
    pub async fn count(&self, request: &CounterRequest) -> Result<RemoteCounters, AgentError> {
        let (mut inbox, outbox, _asking) = self.question(&Request::Count(request.clone())).await?;
        loop {
            match inbox.next().await {
                Some(Item::News(payload)) => match serde_json::from_slice(&payload) {
                    Ok(News::Counting) => return Ok(RemoteCounters { inbox, _outbox: outbox }),
                    other => return Err(AgentError::Answer { request: NAME, text: format!("{other:?}") }),
                },
                Some(Item::Done(payload)) => return Err(strange(NAME, &outcome(NAME, &payload)?)),
                Some(_) => {}
                None => return Err(self.over()),
            }
        }
    }
}

impl RemoteCounters {
    /// Asks for the last reading and does not wait for it.
    pub fn stop_soon(&self) {
        self.inbox.link().tell(self.inbox.call(), Tell::Stop);
    }

    /// Hands over what was counted.
    ///
    /// # Errors
    /// When the agent is lost, or what it sends makes no sense.
    pub async fn finish(mut self) -> Result<Counted, AgentError> {
        self.stop_soon();
        let nonsense = |text: String| AgentError::Answer { request: NAME, text };
        let mut record = Vec::new();
        loop {
            match self.inbox.next().await {
                Some(Item::Data(_, bytes)) if record.len() + bytes.len() <= MAX_RECORD => {
                    record.extend_from_slice(&bytes);
                }
                Some(Item::Data(..)) => return Err(nonsense("a record that is too long".to_owned())),
                Some(Item::Done(payload)) => match outcome(NAME, &payload)? {
                    Outcome::Done => break,
                    other => return Err(strange(NAME, &other)),
                },
                Some(_) => {}
                None => return Err(self.inbox.link().lost().unwrap_or(Lost::Ended).into()),
            }
        }
        serde_json::from_slice(&record).map_err(|error| nonsense(error.to_string()))
    }
}
