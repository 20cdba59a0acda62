//! Captures on this node: progress and packets go to the host while they run, headers and the record mostly at the end.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use super::super::error::Lost;
use super::super::message::{CaptureEnd, CaptureRequest, Failure, FailureKind, News, Outcome, Tell};
use super::super::mux::{CHUNK, Chunk, Inbox, Item, Outbox};
use super::super::wire::Kind;
use super::Options;
use super::files::blocking;
use super::packets::Packets;
use crate::instrument::capture::{CaptureError, FILTER, Here, Holding, Outlet, Watch};

/// Bytes that may wait between the capture and its channel, if the system lets a pipe have so many.
const PIPE: i32 = 1 << 20;

/// Where packets go that are kept.
enum Keeping {
    /// To the host.
    Sent(JoinHandle<Result<(), Lost>>),
    Written(Packets),
}

impl Keeping {
    /// What is to be written to, if anything is.
    fn begin(
        request: &CaptureRequest,
        outbox: &Outbox,
        options: &Options,
    ) -> Result<(Option<File>, Option<Self>), Failure> {
        if let Some(nonce) = request.on_disk {
            let (writer, packets) = Packets::begin(options.packets.clone(), nonce)?;
            return Ok((Some(writer), Some(Self::Written(packets))));
        }
        if !request.keep {
            return Ok((None, None));
        }
        let failed = |error| Failure::io("make a pipe", &error);
        let (reader, writer) = pipe().map_err(failed)?;
        let reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(failed)?;
        let outbox = outbox.clone();
        let sent = tokio::spawn(async move { send_packets(reader, &outbox).await });
        Ok((Some(writer), Some(Self::Sent(sent))))
    }
}

/// Captures until the host says stop, or goes.
pub(super) async fn capture(
    request: CaptureRequest,
    mut inbox: Inbox,
    outbox: &Outbox,
    options: &Options,
) -> Result<Outcome, Failure> {
    let (keep, keeping) = Keeping::begin(&request, outbox, options)?;
    let (here, outlet) = blocking(move || Here::start(&request, keep).map_err(|error| not_started(&error))).await?;
    let sender = outlet.map(|outlet| {
        let outbox = outbox.clone();
        tokio::spawn(async move { send_headers(outlet, &outbox).await })
    });
    outbox.send(Kind::Reply, &News::Capturing { link: here.link() }).await?;
    let stopped = follow(&here.watch(), &mut inbox, outbox, options.news).await;
    if let Err(lost) = stopped {
        // Nobody wants the record; ending may block until nobody is there any more who should take packets.
        if let Some(Keeping::Sent(pump)) = keeping {
            pump.abort();
        }
        if let Some(sender) = sender {
            sender.abort();
        }
        let _ = tokio::task::spawn_blocking(move || drop(here)).await;
        return Err(lost);
    }
    let failed = |text: String| Failure::new(FailureKind::Other, "capture", text);
    let stopped = blocking(move || here.stop().map_err(failed)).await;
    // All packets and headers are on their way before the record is, whatever became of one of them.
    let packets = match keeping {
        Some(Keeping::Sent(pump)) => pump.await.unwrap_or(Err(Lost::Ended)).map(|()| None),
        Some(Keeping::Written(packets)) => Ok(Some(packets.finish().await)),
        None => Ok(None),
    };
    let holding = match sender {
        Some(sender) => sender.await.unwrap_or(Err(Lost::Ended)).map(Some),
        None => Ok(None),
    };
    let ((capture, problems), packets, holding) = (stopped?, packets?, holding?);
    Ok(Outcome::Captured(Box::new(CaptureEnd { capture, problems, holding, packets })))
}

/// A pipe from the capture's thread, which may block on it: the end to read and that to write.
pub(super) fn pipe() -> std::io::Result<(File, File)> {
    let (reader, writer) = std::io::pipe()?;
    let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
    // Smaller is only slower; the system may not allow more.
    let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE));
    Ok((reader.into(), writer.into()))
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
