//! System calls on this node.

use super::super::message::{Failure, FailureKind, News, Outcome, Tell, TraceRequest};
use super::super::mux::{Chunk, Inbox, Item, Outbox};
use super::super::wire::Kind;
use super::files::blocking;
use super::session::Session;
use crate::instrument::syscalls::{Options, TraceError, Tracer, Workload};

/// Bytes of a record in one piece.
const PIECE: usize = 32 << 10;

/// Follows system calls until the host says stop, or goes. The record goes over channel 0 as JSON.
pub(super) async fn trace(
    session: &Session,
    request: TraceRequest,
    mut inbox: Inbox,
    outbox: &Outbox,
) -> Result<Outcome, Failure> {
    let cage = session.cage().await.map_err(|error| Failure::io("make a process namespace", &error))?;
    let mut options = Options::here(request.scope, Workload::of(&cage));
    drop(cage);
    options.place = Some(request.node);
    options.room = request.room;
    options.source = request.source;
    options.log = request.log.map(|name| session.options.scratch.join(name));
    let failed = |error: TraceError| Failure::new(FailureKind::Other, "follow system calls", error.to_string());
    let tracer = blocking(move || Tracer::start(options).map_err(failed)).await?;
    outbox.send(Kind::Reply, &News::Tracing { notes: tracer.notes.clone() }).await?;
    loop {
        match inbox.next().await {
            Some(Item::News(payload)) if matches!(serde_json::from_slice(&payload), Ok(Tell::Stop)) => break,
            Some(_) => {}
            None => return Err(Failure::new(FailureKind::Other, "go on", "the host gave the tracer up")),
        }
    }
    let record = blocking(move || tracer.stop().map_err(failed)).await?;
    for piece in super::super::mux::json(&record).chunks(PIECE) {
        outbox.data(0, Chunk::of(piece)).await?;
    }
    outbox.end(0, &[]).await?;
    Ok(Outcome::Done)
}
