//! Captures on this node: progress and packets go to the host while they run, headers and the record mostly at the end.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::super::error::Lost;
use super::super::message::{CaptureEnd, CaptureRequest, Failure, FailureKind, News, Outcome, Tell};
use super::super::mux::{CHUNK, Chunk, Inbox, Item, Outbox};
use super::super::wire::Kind;
use super::files::blocking;
use crate::instrument::capture::{CaptureError, FILTER, Here, Holding, Outlet, Watch};

/// Bytes that may wait between the capture and its channel, if the system lets a pipe have so many.
const PIPE: i32 = 1 << 20;

/// Captures until the host says stop, or goes. There is news every `news`.
pub(super) async fn capture(
    request: CaptureRequest,
    mut inbox: Inbox,
    outbox: &Outbox,
    news: Duration,
) -> Result<Outcome, Failure> {
    let (keep, pump) = if request.keep {
        let (writer, reader) = pipe().map_err(|error| Failure::io("make a pipe", &error))?;
        let outbox = outbox.clone();
        (Some(writer), Some(tokio::spawn(async move { send_packets(reader, &outbox).await })))
    } else {
        (None, None)
    };
    let (here, outlet) = blocking(move || Here::start(&request, keep).map_err(|error| not_started(&error))).await?;
    let sender = outlet.map(|outlet| {
        let outbox = outbox.clone();
        tokio::spawn(async move { send_headers(outlet, &outbox).await })
    });
    outbox.send(Kind::Reply, &News::Capturing { link: here.link() }).await?;
    let stopped = follow(&here.watch(), &mut inbox, outbox, news).await;
    if let Err(lost) = stopped {
        // Nobody wants the record; ending may block until nobody is there any more who should take packets.
        if let Some(pump) = pump {
            pump.abort();
        }
        if let Some(sender) = sender {
            sender.abort();
        }
        let _ = tokio::task::spawn_blocking(move || drop(here)).await;
        return Err(lost);
    }
    let failed = |text: String| Failure::new(FailureKind::Other, "capture", text);
    let (capture, problems) = blocking(move || here.stop().map_err(failed)).await?;
    // All packets and headers are on their way before the record is.
    if let Some(pump) = pump {
        let pumped = pump.await.unwrap_or(Err(Lost::Ended));
        pumped?;
    }
    let holding = match sender {
        Some(sender) => Some(sender.await.unwrap_or(Err(Lost::Ended))?),
        None => None,
    };
    Ok(Outcome::Captured(Box::new(CaptureEnd { capture, problems, holding })))
}

/// A pipe from the capture's thread, which may block on it, to a task.
fn pipe() -> std::io::Result<(File, pipe::Receiver)> {
    let (reader, writer) = std::io::pipe()?;
    let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
    // Smaller is only slower; the system may not allow more.
    let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE));
    Ok((File::from(writer), pipe::Receiver::from_owned_fd(reader)?))
}

/// Sends news until the host says stop.
async fn follow(watch: &Watch, inbox: &mut Inbox, outbox: &Outbox, news: Duration) -> Result<(), Failure> {
    let mut last = None;
    loop {
        let item = tokio::select! {
            item = inbox.next() => item,
            () = tokio::time::sleep(news) => {
                let progress = watch.progress();
                if last.replace(progress) != Some(progress) {
                    outbox.send(Kind::Reply, &News::Progress(progress)).await?;
                }
                continue;
            }
        };
        match item {
            Some(Item::News(payload)) => match serde_json::from_slice(&payload) {
                Ok(Tell::Stop) => return Ok(()),
                Ok(Tell::Signal(_)) => {}
                Err(_) => return Err(given_up()),
            },
            Some(_) => {}
            None => return Err(given_up()),
        }
    }
}

fn given_up() -> Failure {
    Failure::new(FailureKind::Other, "go on", "the host gave the capture up")
}

async fn send_packets(mut pipe: pipe::Receiver, outbox: &Outbox) -> Result<(), Lost> {
    loop {
        let mut chunk = Chunk::room();
        match pipe.read(chunk.bytes_mut()).await {
            Ok(0) | Err(_) => return outbox.end(0, &[]).await,
            Ok(count) => {
                chunk.truncate(count);
                outbox.data(0, chunk).await?;
            }
        }
    }
}

/// Sends headers when it is their time, until there are no more.
async fn send_headers(mut outlet: Outlet, outbox: &Outbox) -> Result<Holding, Lost> {
    while let Some(chunk) = outlet.next().await {
        for piece in chunk.chunks(CHUNK) {
            outbox.data(1, Chunk::of(piece)).await?;
        }
    }
    Ok(outlet.holding())
}

fn not_started(error: &CaptureError) -> Failure {
    match error {
        CaptureError::Filter { expression, message } => {
            Failure::new(FailureKind::Invalid, format!("{FILTER}{expression}"), message.clone())
        }
        CaptureError::Open { interface, source, .. } => Failure::io(format!("capture on {interface}"), source),
        other => Failure::new(FailureKind::Other, "capture", other.to_string()),
    }
}
