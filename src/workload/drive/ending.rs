//! Ending what does not end by itself, once it has said what it is to say.

use std::time::Duration;

use regex::Regex;
use tokio::time::Instant;

use super::error::DriveError;
use super::running::Running;
use crate::node::Stream;
use crate::workload::{Ending, Settling};

/// Between two looks at an output.
const PAUSE: Duration = Duration::from_millis(20);

/// When a client is to be ended.
pub(super) struct End {
    next: Instant,
    output: Regex,
    signal: i32,
}

impl End {
    /// For a client that was just started.
    pub(super) fn new(ending: &Ending) -> Result<Self, DriveError> {
        Ok(Self { next: Instant::now() + ending.after, output: regex(&ending.output)?, signal: ending.signal })
    }

    /// Waits until the output is to be looked at again; for ever without an end. May be dropped and called again.
    pub(super) async fn next_look(end: Option<&mut Self>) {
        match end {
            Some(end) => {
                tokio::time::sleep_until(end.next).await;
                end.next = Instant::now() + PAUSE;
            }
            None => std::future::pending().await,
        }
    }

    /// The signal, when the client has said what it was to say.
    pub(super) fn signal_if_due(&self, client: &Running) -> Option<i32> {
        (said(&self.output, client) > 0).then_some(self.signal)
    }
}

/// Waits until a server has written so much more; false when it did not in time, or ended.
pub(super) async fn settle(server: &mut Running, settling: &Settling) -> Result<bool, DriveError> {
    let output = regex(&settling.output)?;
    let (deadline, wanted) = (Instant::now() + settling.limit, said(&output, server) + settling.more);
    while said(&output, server) < wanted {
        if Instant::now() >= deadline || server.ended().await?.is_some() {
            return Ok(false);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(true)
}

fn said(output: &Regex, of: &Running) -> usize {
    output.find_iter(&String::from_utf8_lossy(&of.output(Stream::Out).bytes)).count()
}

fn regex(pattern: &str) -> Result<Regex, DriveError> {
    Regex::new(pattern).map_err(|error| DriveError::BadPattern { pattern: pattern.to_owned(), why: error.to_string() })
}
