//! System calls that are followed on the node.

use super::super::error::{AgentError, Lost};
use super::super::message::{News, Outcome, Request, Tell, TraceRequest};
use super::super::mux::{Inbox, Item, Outbox};
use super::{Client, outcome, strange};
use crate::record::SyscallTrace;

/// Longest record.
const MAX_RECORD: usize = 64 << 20;

/// A tracer on a node. Dropping it ends it.
pub struct RemoteTrace {
    inbox: Inbox,
    /// Its credit ends with it.
    _outbox: Outbox,
    /// What the tracer says of itself.
    pub notes: Vec<String>,
}

impl Client {
    /// Starts to follow system calls; when this returns, none is missed.
    ///
    /// # Errors
    /// [`AgentError::Failed`] where the node does not allow it.
    pub async fn trace_syscalls(&self, request: &TraceRequest) -> Result<RemoteTrace, AgentError> {
        const NAME: &str = "trace_syscalls";
        let (mut inbox, outbox, _asking) = self.question(&Request::TraceSyscalls(request.clone())).await?;
        loop {
            match inbox.next().await {
                Some(Item::News(payload)) => match serde_json::from_slice(&payload) {
                    Ok(News::Tracing { notes }) => {
                        return Ok(RemoteTrace { inbox, _outbox: outbox, notes: super::texts::notes(notes) });
                    }
                    other => return Err(AgentError::Answer { request: NAME, text: format!("{other:?}") }),
                },
                Some(Item::Done(payload)) => return Err(strange(NAME, &outcome(NAME, &payload)?)),
                Some(_) => {}
                None => return Err(self.over()),
            }
        }
    }
}

impl RemoteTrace {
    /// Ends it and hands over what was counted.
    ///
    /// # Errors
    /// When the agent is lost, or could not read its tables.
    pub async fn stop(mut self) -> Result<SyscallTrace, AgentError> {
        const NAME: &str = "trace_syscalls";
        self.inbox.link().tell(self.inbox.call(), Tell::Stop);
        let nonsense = |text: String| AgentError::Answer { request: NAME, text };
        let mut record = Vec::new();
        loop {
            match self.inbox.next().await {
                Some(Item::Data(_, bytes)) if record.len() + bytes.len() <= MAX_RECORD => {
                    record.extend_from_slice(&bytes)
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
