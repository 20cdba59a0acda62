//! A capture that runs on the node.

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};

use super::super::error::{AgentError, Lost};
use super::super::message::{CaptureEnd, CaptureProgress, CaptureRequest, News, Outcome, Request, Tell};
use super::super::mux::{Inbox, Item, Link};
use super::{Client, outcome, strange};
use crate::record::{Problem, Weight};

/// A capture on a node. Dropping it ends it.
#[derive(Debug)]
pub struct RemoteCapture {
    link: Link,
    call: u32,
    captured_link: u16,
    progress: watch::Receiver<CaptureProgress>,
    collector: Option<tokio::task::JoinHandle<Result<CaptureEnd, AgentError>>>,
}

/// Where the packets of a capture go.
pub type Keep = Box<dyn AsyncWrite + Send + Unpin>;

impl Client {
    /// Starts a capture; when this returns, it is capturing. With `request.keep`, the packets are written to `keep` while it
    /// runs, as a pcapng file. Where that is slow, the node's ring fills, and what it drops is counted. With `request.headers`,
    /// what the statistics need of each packet goes to `headers`, most of it at the end; whoever receives it must go on doing so.
    ///
    /// # Errors
    /// [`AgentError::Failed`] when the interface cannot be opened or the filter not be compiled.
    pub async fn capture(
        &self,
        request: &CaptureRequest,
        keep: Option<Keep>,
        headers: Option<mpsc::Sender<Vec<u8>>>,
    ) -> Result<RemoteCapture, AgentError> {
        let (mut inbox, outbox, _asking) = self.question(&Request::Capture(Box::new(request.clone()))).await?;
        let captured_link = loop {
            match inbox.next().await {
                Some(Item::News(payload)) => match serde_json::from_slice(&payload) {
                    Ok(News::Capturing { link }) => break link,
                    other => return Err(AgentError::Answer { request: "capture", text: format!("{other:?}") }),
                },
                Some(Item::Done(payload)) => return Err(strange("capture", &outcome("capture", &payload)?)),
                Some(_) => {}
                None => return Err(self.over()),
            }
        };
        let (call, link) = (inbox.call(), inbox.link().clone());
        let (report, progress) = watch::channel(CaptureProgress::default());
        let collector = tokio::spawn(async move {
            let _outbox = outbox;
            collect(inbox, keep, headers, &report).await
        });
        Ok(RemoteCapture { link, call, captured_link, progress, collector: Some(collector) })
    }
}

impl RemoteCapture {
    /// Link layer of its packets, as in pcap files.
    pub const fn link(&self) -> u16 {
        self.captured_link
    }

    /// How far it is.
    pub fn progress(&self) -> CaptureProgress {
        *self.progress.borrow()
    }

    /// Waits until there is news of it. `false` when it has ended.
    pub async fn changed(&mut self) -> bool {
        self.progress.changed().await.is_ok()
    }

    /// Ends it: the record, and what went wrong. Nothing captured before is lost, and all headers have been handed over.
    ///
    /// # Errors
    /// When the agent is lost, or the capture had died.
    pub async fn stop(mut self) -> Result<CaptureEnd, AgentError> {
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
    headers: Option<mpsc::Sender<Vec<u8>>>,
    report: &watch::Sender<CaptureProgress>,
) -> Result<CaptureEnd, AgentError> {
    let mut unkept = None;
    let mut end = loop {
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
            Some(Item::Data(_, bytes)) => {
                if let Some(headers) = &headers {
                    // Who does not want them any more has reasons, and says them.
                    let _ = headers.send(bytes).await;
                }
            }
            Some(Item::News(payload)) => {
                if let Ok(News::Progress(progress)) = serde_json::from_slice(&payload) {
                    report.send_replace(progress);
                }
            }
            Some(Item::End(..)) => {}
            Some(Item::Done(payload)) => match outcome("capture", &payload)? {
                Outcome::Captured(end) => break *end,
                other => return Err(strange("capture", &other)),
            },
            None => return Err(inbox.link().lost().unwrap_or(Lost::Ended).into()),
        }
    };
    if let Some(keep) = &mut keep {
        unkept = keep.shutdown().await.err();
    }
    if let Some(error) = unkept {
        let text = format!("cannot write the packets of {} that the agent sent: {error}", end.capture.node);
        end.problems.push(Problem { weight: Weight::Suspect, text });
    }
    Ok(end)
}
