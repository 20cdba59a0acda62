//! Counters of this node.

use std::time::Duration;

use super::super::message::{CounterRequest, Failure, FailureKind, News, Outcome, Tell};
use super::super::modules::Modules;
use super::super::mux::{Chunk, Inbox, Item, Outbox};
use super::super::wire::Kind;
use super::files::blocking;
use crate::instrument::counters::NodeCounters;

/// Bytes of a record in one piece.
const PIECE: usize = 32 << 10;
/// Shortest time between two readings that a host may ask for.
const SHORTEST_MS: u64 = 10;

/// Reads counters until the host says stop, or goes. The record goes over channel 0 as JSON, after the last reading, so
/// that nothing is sent while the workload runs.
pub(super) async fn count(request: CounterRequest, mut inbox: Inbox, outbox: &Outbox) -> Result<Outcome, Failure> {
    let CounterRequest { node, interface, interval_ms, metrics, own_kernel } = request;
    let interval = interval_ms.map(|ms| Duration::from_millis(ms.max(SHORTEST_MS)));
    let failed = |error: std::io::Error| Failure::io("read counters", &error);
    let start = move || {
        // A guest's kernel cannot fetch it by itself, having no modprobe. Without it the record says what is missing.
        if let Ok(modules) = Modules::open()
            && let Err(error) = modules.load("tcp_diag")
        {
            tracing::debug!("no counters of sockets: {error}");
        }
        NodeCounters::start(node, interface, interval, metrics, own_kernel).map_err(failed)
    };
    let counters = blocking(start).await?;
    outbox.send(Kind::Reply, &News::Counting).await?;
    loop {
        match inbox.next().await {
            Some(Item::News(payload)) if matches!(serde_json::from_slice(&payload), Ok(Tell::Stop)) => break,
            Some(_) => {}
            None => return Err(Failure::new(FailureKind::Other, "go on", "the host gave the counters up")),
        }
    }
    let counted = blocking(move || counters.finish().map_err(failed)).await?;
    for piece in super::super::mux::json(&counted).chunks(PIECE) {
        outbox.data(0, Chunk::of(piece)).await?;
    }
    outbox.end(0, &[]).await?;
    Ok(Outcome::Done)
}
