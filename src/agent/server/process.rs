//! Commands: started in a cage, their outputs streamed as fast as the host takes them.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::super::error::Lost;
use super::super::message::{Failure, FailureKind, News, Outcome, Tell};
use super::super::mux::{Chunk, Inbox, Item, Outbox};
use super::super::wire::Kind;
use super::session::Session;
use crate::host::cage::{Cage, Job};
use crate::host::child::Child;
use crate::node::{Command, Exit, ExitStatus, NodeIoError, Process as _};

/// How long outputs may stay open and silent after the process has ended (a child of its own may hold them).
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// Runs a command to its end, or until the host gives it up: then it is killed, since its guard is dropped.
pub(super) async fn spawn(
    session: &Session,
    command: Command,
    limit: u64,
    mut inbox: Inbox,
    outbox: &Outbox,
) -> Result<Outcome, Failure> {
    let (mut child, out, err) = start(session, command).await?;
    let cpus = child.affinity();
    outbox.send(Kind::Reply, &News::Started { pid: child.pid(), cpus }).await?;
    let (ended, end) = watch::channel(false);
    let outputs = async {
        let out = pump(out, 0, limit, outbox, end.clone());
        let err = pump(err, 1, limit, outbox, end.clone());
        let (out, err) = tokio::join!(out, err);
        out.and(err)
    };
    tokio::pin!(outputs);
    let (mut exit, mut sent) = (None, false);
    loop {
        tokio::select! {
            result = child.wait(), if exit.is_none() => {
                let failed = |error: NodeIoError| Failure::new(FailureKind::Other, "wait for a process", error.to_string());
                exit = Some(result.map_err(failed)?);
                ended.send_replace(true);
            }
            result = &mut outputs, if !sent => {
                result?;
                sent = true;
            }
            // Kept up to the last byte: the credit of the outputs ends with it.
            item = inbox.next() => told(item, &mut child, outbox).await?,
        }
        if let (Some(exit), true) = (&exit, sent) {
            return Ok(exited(exit));
        }
    }
}

/// Passes a signal on. An error when the host has given the command up.
async fn told(item: Option<Item>, child: &mut Child, outbox: &Outbox) -> Result<(), Failure> {
    let given_up = || Failure::new(FailureKind::Other, "go on", "the host gave the command up");
    let Item::News(payload) = item.ok_or_else(given_up)? else { return Ok(()) };
    let Ok(Tell::Signal(number)) = serde_json::from_slice(&payload) else { return Err(given_up()) };
    let failed = child.signal(number).err();
    let failure = failed.map(|error| Failure::new(FailureKind::Invalid, "signal a process", error.to_string()));
    Ok(outbox.send(Kind::Reply, &News::Signalled(failure)).await?)
}

async fn start(session: &Session, command: Command) -> Result<(Child, pipe::Receiver, pipe::Receiver), Failure> {
    let program = command.argv.first().cloned().unwrap_or_default();
    let what = format!("start {program}");
    let scratch = &session.options.scratch;
    let directory = command.directory.as_ref().map_or_else(|| scratch.clone(), |directory| scratch.join(directory));
    // `execve` says the same of a missing program and of a missing directory.
    if !directory.is_dir() {
        return Err(Failure::new(FailureKind::NotFound, what, format!("no directory {}", directory.display())));
    }
    let cage = session.cage().await.map_err(|error| Failure::io(&what, &error))?;
    let job = Job { command: Command { directory: None, ..command }, directory, namespace: None };
    cage.spawn_piped(job).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::new(FailureKind::NoProgram, what, format!("program `{program}` not found"))
        }
        _ => Failure::io(&what, &error),
    })
}

impl Session {
    /// The cage of this conversation's processes.
    pub(super) async fn cage(&self) -> std::io::Result<Arc<Cage>> {
        let mut slot = self.cage.lock().await;
        if self.link.lost().is_some() {
            return Err(std::io::Error::other("the conversation is over"));
        }
        if let Some(cage) = slot.as_ref() {
            return Ok(Arc::clone(cage));
        }
        let cage = Arc::new(Cage::open_or_groups()?);
        Ok(Arc::clone(slot.insert(cage)))
    }
}

/// Sends an output on, up to `limit` bytes; the rest is read and thrown away. The end says whether there was such a rest.
async fn pump(
    mut pipe: pipe::Receiver,
    channel: u8,
    limit: u64,
    outbox: &Outbox,
    mut ended: watch::Receiver<bool>,
) -> Result<(), Lost> {
    let mut left = limit;
    let mut truncated = false;
    loop {
        let mut chunk = Chunk::room();
        let read = pipe.read(chunk.bytes_mut());
        // The grace begins when the process has ended and is renewed by every byte that still comes.
        let silent = async {
            // The sender is dropped only where nobody waits any more.
            let _ = ended.wait_for(|ended| *ended).await;
            tokio::time::sleep(OUTPUT_GRACE).await;
        };
        let count = tokio::select! {
            read = read => match read {
                Ok(count) => count,
                Err(error) => {
                    tracing::warn!("cannot read the output of a process: {error}");
                    truncated = true;
                    0
                }
            },
            () = silent => 0,
        };
        if count == 0 {
            return outbox.end(channel, &[u8::from(truncated)]).await;
        }
        let kept = usize::try_from(left).map_or(count, |left| left.min(count));
        truncated |= kept < count;
        left -= kept as u64;
        if kept > 0 {
            chunk.truncate(kept);
            outbox.data(channel, chunk).await?;
        }
    }
}

fn exited(exit: &Exit) -> Outcome {
    let (code, signal) = match exit.status {
        ExitStatus::Code(code) => (Some(code), None),
        ExitStatus::Signal(signal) => (None, Some(signal)),
    };
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Outcome::Exited {
        code,
        signal,
        wall_ns: nanoseconds(exit.wall),
        user_ns: exit.cpu_user.map(nanoseconds),
        system_ns: exit.cpu_system.map(nanoseconds),
    }
}
