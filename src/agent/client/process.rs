//! A command that runs on the node.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::super::error::{AgentError, Lost};
use super::super::message::{Failure, News, Outcome, Request, Tell};
use super::super::mux::{Inbox, Item, Link};
use super::{Client, failed, outcome, strange};
use crate::node::{Command, Exit, ExitStatus, NodeIoError, OUTPUT_LIMIT, Output, Process, Stream};

/// A command on a node. Dropping it kills it.
#[derive(Debug)]
pub struct RemoteProcess {
    link: Link,
    call: u32,
    pid: Option<u32>,
    cpus: Option<Vec<usize>>,
    outputs: Arc<[Mutex<Output>; 2]>,
    end: watch::Receiver<Option<Result<Exit, Arc<AgentError>>>>,
    /// Signals that the node was told of,
    told: u64,
    /// and those that it has passed on. Closed with the process's end.
    signalled: watch::Receiver<u64>,
    collector: tokio::task::JoinHandle<()>,
}

impl Client {
    /// Starts a command; its program is looked up on the node. A relative directory begins in the agent's scratch directory.
    ///
    /// # Errors
    /// [`AgentError::Failed`] with `NoProgram` or `NotFound` (the directory), and others.
    pub async fn spawn(&self, command: &Command) -> Result<RemoteProcess, AgentError> {
        let Command { argv, env, directory, cpus } = command.clone();
        let request = Request::Spawn { argv, env, directory, cpus, limit: OUTPUT_LIMIT as u64 };
        let (mut inbox, outbox, _asking) = self.question(&request).await?;
        let (pid, cpus) = loop {
            match inbox.next().await {
                Some(Item::News(payload)) => match serde_json::from_slice(&payload) {
                    Ok(News::Started { pid, cpus }) => break (pid, cpus),
                    other => {
                        return Err(AgentError::Answer { request: "spawn", text: format!("{other:?}") });
                    }
                },
                Some(Item::Done(payload)) => return Err(strange("spawn", &outcome("spawn", &payload)?)),
                Some(_) => {}
                None => return Err(self.over()),
            }
        };
        let call = inbox.call();
        let link = inbox.link().clone();
        let outputs = Arc::new([Mutex::default(), Mutex::default()]);
        let (ended, end) = watch::channel(None);
        let (delivered, signalled) = watch::channel(0);
        let collected = Arc::clone(&outputs);
        let collector = tokio::spawn(async move {
            // Kept as long as the call lasts: its credit ends with it.
            let _outbox = outbox;
            let exit = collect(inbox, &collected, delivered).await;
            ended.send_replace(Some(exit.map_err(Arc::new)));
        });
        Ok(RemoteProcess { link, call, pid, cpus, outputs, end, told: 0, signalled, collector })
    }
}

async fn collect(
    mut inbox: Inbox,
    outputs: &[Mutex<Output>; 2],
    delivered: watch::Sender<u64>,
) -> Result<Exit, AgentError> {
    loop {
        match inbox.next().await {
            Some(Item::Data(channel, bytes)) => append(&mut locked(&outputs[usize::from(channel)]), &bytes),
            Some(Item::End(channel, payload)) => {
                locked(&outputs[usize::from(channel)]).truncated |= payload.first() == Some(&1);
            }
            Some(Item::News(payload)) => {
                if let Ok(News::Signalled(failure)) = serde_json::from_slice(&payload) {
                    delivered.send_modify(|count| *count += 1);
                    failure.into_iter().for_each(|failure| tracing::warn!("{}", failed(failure)));
                }
            }
            Some(Item::Done(payload)) => return exit(&outcome("spawn", &payload)?),
            None => return Err(inbox.link().lost().unwrap_or(Lost::Ended).into()),
        }
    }
}

fn exit(outcome: &Outcome) -> Result<Exit, AgentError> {
    let Outcome::Exited { code, signal, wall_ns, user_ns, system_ns } = *outcome else {
        return Err(strange("spawn", outcome));
    };
    let status = match (code, signal) {
        (Some(code), None) => ExitStatus::Code(code),
        (None, Some(signal)) => ExitStatus::Signal(signal),
        _ => return Err(strange("spawn", outcome)),
    };
    Ok(Exit {
        status,
        wall: Duration::from_nanos(wall_ns),
        cpu_user: user_ns.map(Duration::from_nanos),
        cpu_system: system_ns.map(Duration::from_nanos),
    })
}

fn append(output: &mut Output, bytes: &[u8]) {
    let kept = bytes.len().min(OUTPUT_LIMIT - output.bytes.len());
    output.bytes.extend_from_slice(&bytes[..kept]);
    output.truncated |= kept < bytes.len();
}

fn locked(output: &Mutex<Output>) -> MutexGuard<'_, Output> {
    // Valid at every moment.
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RemoteProcess {
    /// As [`Process::wait`], with the agent's own error.
    ///
    /// # Errors
    /// When the conversation has ended before the command has.
    pub async fn end(&mut self) -> Result<Exit, Arc<AgentError>> {
        let end = self.end.wait_for(Option::is_some).await.map(|end| end.clone());
        match end {
            Ok(Some(end)) => end,
            _ => Err(Arc::new(Lost::Ended.into())),
        }
    }
}

#[async_trait]
impl Process for RemoteProcess {
    fn pid(&self) -> Option<u32> {
        self.pid
    }

    async fn wait(&mut self) -> Result<Exit, NodeIoError> {
        let end = self.end().await;
        end.map_err(|error| NodeIoError::new("wait for a process", io::Error::other(Shared(error))))
    }

    fn output(&self, stream: Stream) -> Output {
        locked(match stream {
            Stream::Out => &self.outputs[0],
            Stream::Err => &self.outputs[1],
        })
        .clone()
    }

    fn signal(&mut self, signal: i32) -> Result<(), NodeIoError> {
        if self.end.borrow().is_some() {
            return Ok(());
        }
        if let Some(lost) = self.link.lost() {
            return Err(NodeIoError::new("signal a process", io::Error::other(lost)));
        }
        self.link.tell(self.call, Tell::Signal(signal));
        self.told += 1;
        Ok(())
    }

    async fn deliver(&mut self, signal: i32) -> Result<(), NodeIoError> {
        self.signal(signal)?;
        let told = self.told;
        // An error is its end, or that of the conversation, which whoever waits for the process hears.
        let _ = self.signalled.wait_for(|count| *count >= told).await;
        Ok(())
    }

    /// As it was when the process began.
    fn affinity(&self) -> Option<Vec<usize>> {
        if self.end.borrow().is_some() { None } else { self.cpus.clone() }
    }
}

impl Drop for RemoteProcess {
    fn drop(&mut self) {
        // The call goes with the task, and the agent is told.
        self.collector.abort();
    }
}

/// An error that several waiters get.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Shared(Arc<AgentError>);

impl From<Failure> for AgentError {
    fn from(failure: Failure) -> Self {
        failed(failure)
    }
}
