//! A capture that runs on the node.

use tokio::io::AsyncWrite;
use tokio::sync::watch;

use super::super::error::AgentError;
use super::super::message::{CaptureProgress, CaptureRequest};
use super::Client;
use crate::record;

/// A capture on a node. Dropping it ends it.
#[derive(Debug)]
pub struct RemoteCapture {
    progress: watch::Receiver<CaptureProgress>,
}

impl Client {
    /// Starts a capture; when this returns, it is capturing. With `request.keep`, the packets are written to `keep` while it
    /// runs, as a pcapng file.
    pub async fn capture(
        &self,
        request: &CaptureRequest,
        keep: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    ) -> Result<RemoteCapture, AgentError> {
        let _ = (request, keep);
        Err(AgentError::Answer { request: "capture", text: "not built yet".to_owned() })
    }
}

impl RemoteCapture {
    /// How far it is.
    pub fn progress(&self) -> CaptureProgress {
        *self.progress.borrow()
    }

    /// Ends it: the record (without the name of a file), and what went wrong.
    pub async fn stop(self) -> Result<(record::Capture, Vec<record::Problem>), AgentError> {
        Err(AgentError::Answer { request: "capture", text: "not built yet".to_owned() })
    }
}
