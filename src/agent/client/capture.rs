//! A capture that runs on the node.

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;

use super::super::error::{AgentError, Lost};
use super::super::message::{CaptureProgress, CaptureRequest, News, Outcome, Request, Tell};
use super::super::mux::{Inbox, Item, Link};
use super::{Client, outcome, strange};
use crate::record::{self, Problem, Weight};

/// Longest line of a record; all series and distributions are in one.
const MAX_LINE: usize = 256 << 20;
/// Single connections in a record.
const MAX_ROWS: usize = 1 << 17;

type Ended = (record::Capture, Vec<Problem>);

/// A capture on a node. Dropping it ends it.
#[derive(Debug)]
pub struct RemoteCapture {
    link: Link,
    call: u32,
    progress: watch::Receiver<CaptureProgress>,
    collector: Option<tokio::task::JoinHandle<Result<Ended, AgentError>>>,
}

/// Where the packets of a capture go.
pub type Keep = Box<dyn AsyncWrite + Send + Unpin>;

impl Client {
    /// Starts a capture; when this returns, it is capturing. With `request.keep`, the packets are written to `keep` while it
    /// runs, as a pcapng file. Where that is slow, the node's ring fills, and what it drops is counted.
    ///
    /// # Errors
    /// [`AgentError::Failed`] when the interface cannot be opened or the filter not be compiled.
    pub async fn capture(&self, request: &CaptureRequest, keep: Option<Keep>) -> Result<RemoteCapture, AgentError> {
        let (mut inbox, outbox) = self.call(&Request::Capture(Box::new(request.clone()))).await?;
        loop {
            match inbox.next().await {
                Some(Item::News(payload)) => match serde_json::from_slice(&payload) {
                    Ok(News::Capturing) => break,
                    other => return Err(AgentError::Answer { request: "capture", text: format!("{other:?}") }),
                },
                Some(Item::Done(payload)) => return Err(strange("capture", &outcome("capture", &payload)?)),
                Some(_) => {}
                None => return Err(self.over()),
            }
        }
        let (call, link) = (inbox.call(), inbox.link().clone());
        let (report, progress) = watch::channel(CaptureProgress::default());
        let collector = tokio::spawn(async move {
            let _outbox = outbox;
            collect(inbox, keep, &report).await
        });
        Ok(RemoteCapture { link, call, progress, collector: Some(collector) })
    }
}

impl RemoteCapture {
    /// How far it is.
    pub fn progress(&self) -> CaptureProgress {
        *self.progress.borrow()
    }

    /// Waits until there is news of it. `false` when it has ended.
    pub async fn changed(&mut self) -> bool {
        self.progress.changed().await.is_ok()
    }

    /// Ends it: the record (without the name of a file), and what went wrong. Nothing captured before is lost.
    ///
    /// # Errors
    /// When the agent is lost, or the capture had died.
    pub async fn stop(mut self) -> Result<Ended, AgentError> {
        self.link.tell(self.call, Tell::Stop);
        let collector = self.collector.take().ok_or(Lost::Ended)?;
        collector.await.unwrap_or(Err(Lost::Ended.into()))
    }
}

impl Drop for RemoteCapture {
    fn drop(&mut self) {
        // The call goes with the task, and the agent is told.
        if let Some(collector) = &self.collector {
            collector.abort();
        }
    }
}

async fn collect(
    mut inbox: Inbox,
    mut keep: Option<Keep>,
    report: &watch::Sender<CaptureProgress>,
) -> Result<Ended, AgentError> {
    let mut lines = Lines::default();
    let mut unkept = None;
    loop {
        match inbox.next().await {
            Some(Item::Data(0, bytes)) => {
                let failed = match &mut keep {
                    Some(keep) => keep.write_all(&bytes).await.err(),
                    None => None,
                };
                if let Some(error) = failed {
                    unkept = Some(error);
                    keep = None;
                }
            }
            Some(Item::Data(_, bytes)) => lines.add(&bytes)?,
            Some(Item::News(payload)) => {
                if let Ok(News::Progress(progress)) = serde_json::from_slice(&payload) {
                    report.send_replace(progress);
                }
            }
            Some(Item::End(..)) => {}
            Some(Item::Done(payload)) => {
                let Outcome::Done = outcome("capture", &payload)? else {
                    return Err(AgentError::Answer { request: "capture", text: "no end".to_owned() });
                };
                break;
            }
            None => return Err(inbox.link().lost().unwrap_or(Lost::Ended).into()),
        }
    }
    if let Some(keep) = &mut keep {
        unkept = keep.shutdown().await.err();
    }
    let (capture, mut problems) = lines.end()?;
    if let Some(error) = unkept {
        let text = format!("cannot write the packets of {} that the agent sent: {error}", capture.node);
        problems.push(Problem { weight: Weight::Suspect, text });
    }
    Ok((capture, problems))
}

/// A record as it arrives.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    ended: Option<Ended>,
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) -> Result<(), AgentError> {
        let mut bytes = bytes;
        while let Some(at) = bytes.iter().position(|&byte| byte == b'\n') {
            self.rest.extend(&bytes[..at]);
            bytes = &bytes[at + 1..];
            let line = std::mem::take(&mut self.rest);
            self.line(&line)?;
        }
        self.rest.extend(bytes);
        if self.rest.len() > MAX_LINE {
            return Err(nonsense("a line that is too long"));
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), AgentError> {
        let bad = |error: serde_json::Error| nonsense(&error.to_string());
        let Some((capture, _)) = &mut self.ended else {
            self.ended = Some(serde_json::from_slice(line).map_err(bad)?);
            return Ok(());
        };
        let rows = &mut capture.tcp.as_mut().ok_or_else(|| nonsense("connections without statistics"))?.rows;
        if rows.len() >= MAX_ROWS {
            return Err(nonsense("too many connections"));
        }
        rows.push(serde_json::from_slice(line).map_err(bad)?);
        Ok(())
    }

    fn end(self) -> Result<Ended, AgentError> {
        if self.rest.is_empty() {
            self.ended.ok_or_else(|| nonsense("no record"))
        } else {
            Err(nonsense("half a line"))
        }
    }
}

fn nonsense(text: &str) -> AgentError {
    AgentError::Answer { request: "capture", text: text.to_owned() }
}
