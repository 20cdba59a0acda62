//! One conversation at the node: every request becomes a task of its own.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::error::Lost;
use super::super::message::{Failure, FailureKind, Outcome, Request};
use super::super::mux::{self, Inbox, Input, Link, Outbox};
use super::super::wire::PROTOCOL;
use super::files::{self, blocking};
use super::{Options, answer, archive, capture, counters, greeted, host, lend, network, process, silence, trace};
use crate::host::cage::Cage;
use crate::host::loan::Loan;
use crate::instrument::host::Snapshot;
use crate::node::local::any_listener;

/// How long calls may take to notice that the conversation is over.
const WIND_UP: Duration = Duration::from_secs(2);

/// How long ending what was started may take: a process that hangs in the kernel ends with the hardware it waits for.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How long putting settings back may take: a card may take seconds for each.
const GIVE_BACK_LIMIT: Duration = Duration::from_secs(30);

/// Between two looks for a socket that is to listen,
const LOOK: Duration = Duration::from_millis(10);
/// and how long is looked at most.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// How long the answer to the last request may take to go out.
const FAREWELL: Duration = Duration::from_millis(50);

/// How a conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The host went, or could not be understood any more.
    HostGone,
    /// The host asked for the end of the system.
    SwitchOff,
}

/// What the calls of a conversation share.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) options: Options,
    pub(super) link: Link,
    /// Everything that was started; opened with the first command.
    pub(super) cage: Mutex<Option<Arc<Cage>>>,
    /// Settings that are changed as long as the conversation goes on.
    lent: Arc<std::sync::Mutex<Option<Loan>>>,
    /// The host's counters when the watch began.
    watched: Arc<std::sync::Mutex<Option<Snapshot>>>,
    /// The host asked for the end of the system.
    switch_off: Notify,
}

/// Waits for a host, serves it until it goes, and ends everything it has started.
///
/// # Errors
/// When no host was heard before the channel ended or `noise` bytes had come, or when it speaks another protocol.
pub(super) async fn converse<R, W>(
    input: &mut Input<R>,
    mut output: W,
    options: &Options,
    noise: Option<u64>,
) -> io::Result<End>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let Some(preamble) = greeted(input, noise).await? else {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the channel ended before a host was heard"));
    };
    let greeting = answer(&preamble, options);
    if preamble.protocol != PROTOCOL {
        use tokio::io::AsyncWriteExt as _;
        output.write_all(&greeting).await?;
        let theirs = preamble.protocol;
        return Err(io::Error::other(format!("the host speaks protocol {theirs}, this is protocol {PROTOCOL}")));
    }
    let (link, queues) = Link::new(preamble.nonce);
    let writer = tokio::spawn(mux::write(link.clone(), queues, output, greeting));
    let session = Arc::new(Session {
        options: options.clone(),
        link: link.clone(),
        cage: Mutex::new(None),
        lent: Arc::default(),
        watched: Arc::default(),
        switch_off: Notify::new(),
    });
    let mut calls = JoinSet::new();
    let reading = mux::read(&link, input, silence(&preamble), |call, payload| {
        while calls.try_join_next().is_some() {}
        let Some((inbox, outbox)) = link.accept(call) else {
            let failure = Failure::new(FailureKind::Other, "take the request", "too many calls are running");
            return link.refuse(call, &Outcome::Failed(failure));
        };
        calls.spawn(serve(Arc::clone(&session), payload, inbox, outbox));
    });
    let ended = async {
        session.switch_off.notified().await;
        // The answer goes out before the end of the conversation does.
        tokio::time::sleep(FAREWELL).await;
    };
    let (why, switch_off) = tokio::select! {
        why = reading => (why, false),
        () = ended => (Lost::Ended, true),
    };
    tracing::debug!("the conversation is over: {why}");
    link.lose(why);
    // Whatever hangs here must not keep the rest from being done, nor the agent from ending: what is not put back stays
    // written down, and the next contact puts it back.
    if tokio::time::timeout(END_LIMIT, session.end_processes()).await.is_err() {
        tracing::warn!("what was started has not ended within {END_LIMIT:?}");
    }
    match tokio::time::timeout(GIVE_BACK_LIMIT, session.give_back()).await {
        Ok(Ok(_)) => {}
        Ok(Err(failure)) => tracing::warn!("cannot put settings back: {failure:?}"),
        Err(_) => tracing::warn!("settings are not put back within {GIVE_BACK_LIMIT:?}"),
    }
    let wound_up = async { while calls.join_next().await.is_some() {} };
    if tokio::time::timeout(WIND_UP, wound_up).await.is_err() {
        calls.abort_all();
    }
    if tokio::time::timeout(WIND_UP, writer).await.is_err() {
        tracing::debug!("the channel takes nothing any more");
    }
    Ok(if switch_off { End::SwitchOff } else { End::HostGone })
}

async fn serve(session: Arc<Session>, payload: Vec<u8>, inbox: Inbox, outbox: Outbox) {
    let outcome = match serde_json::from_slice::<Request>(&payload) {
        Ok(request) => unless_it_panics(session.answer(request, inbox, &outbox)).await,
        Err(error) => Err(Failure::new(FailureKind::Invalid, "understand the request", error.to_string())),
    };
    let outcome = outcome.unwrap_or_else(Outcome::Failed);
    // Nobody is there to hear it when the conversation is over.
    let _ = outbox.done(&outcome).await;
}

/// The outcome of a request; a panic is a failure, so that the host does not wait for ever.
async fn unless_it_panics(answer: impl Future<Output = Result<Outcome, Failure>>) -> Result<Outcome, Failure> {
    let mut answer = std::pin::pin!(answer);
    let outcome = std::future::poll_fn(|context| {
        // It is not polled again after a panic, and what it shares with other calls is behind locks that do not break.
        match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    });
    outcome.await.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned());
        Err(Failure::new(FailureKind::Other, "go on", text))
    })
}

impl Session {
    /// Answers one request. The inbox ends with it, so that what comes too late is thrown away.
    async fn answer(self: &Arc<Self>, request: Request, inbox: Inbox, outbox: &Outbox) -> Result<Outcome, Failure> {
        match request {
            Request::Spawn { argv, env, directory, cpus, limit } => {
                let command = crate::node::Command { argv, env, directory, cpus };
                process::spawn(self, command, limit, inbox, outbox).await
            }
            Request::Reset => {
                self.end_processes().await;
                if !self.options.owns_scratch {
                    return Ok(Outcome::Done);
                }
                let scratch = self.options.scratch.clone();
                blocking(move || files::empty(&scratch)).await
            }
            Request::Put { path, mode, size } => {
                let (target, runtime) = (self.resolve(&path), Handle::current());
                blocking(move || files::put(&target, mode, size, inbox, &runtime)).await
            }
            Request::Get { path, limit } => {
                let (source, outbox, runtime) = (self.resolve(&path), outbox.clone(), Handle::current());
                let sent = blocking(move || files::get(&source, limit, &outbox, &runtime)).await;
                drop(inbox);
                sent
            }
            Request::ReadFiles { paths, limit } => {
                let paths: Vec<_> = paths.iter().map(|path| self.resolve(path)).collect();
                let (outbox, runtime) = (outbox.clone(), Handle::current());
                let sent = blocking(move || files::read_files(&paths, limit, &outbox, &runtime)).await;
                drop(inbox);
                sent
            }
            Request::Build => {
                let script = self.options.program.clone();
                blocking(move || files::build(script.as_deref())).await
            }
            Request::Listening { port, within_ms } => await_listener(port, Duration::from_millis(within_ms)).await,
            Request::Exists { path } => {
                let there = self.resolve(&path).try_exists();
                there.map(Outcome::Is).map_err(|error| Failure::io(format!("look for {path}"), &error))
            }
            Request::Configure(setup) => blocking(move || network::configure(&setup)).await,
            Request::Settings { interface } => blocking(move || network::settings(&interface)).await,
            Request::Lend(request) => {
                let lent = Arc::clone(&self.lent);
                blocking(move || lend::lend(&lent, &request)).await
            }
            Request::GiveBack => self.give_back().await,
            Request::WatchHost => {
                let watched = Arc::clone(&self.watched);
                blocking(move || host::watch(&watched)).await
            }
            Request::HostUse => {
                let watched = Arc::clone(&self.watched);
                blocking(move || host::used(&watched)).await
            }
            Request::Facts => blocking(host::facts).await,
            Request::Route { to, from } => blocking(move || network::route(to, from)).await,
            Request::Arrives { target, bytes } => blocking(move || network::arrives(target, bytes)).await,
            Request::Walk { target, limit } => blocking(move || network::walk(target, limit)).await,
            Request::Capture(request) => capture::capture(*request, inbox, outbox, &self.options).await,
            Request::TraceSyscalls(request) => trace::trace(self, request, inbox, outbox).await,
            Request::Count(request) => counters::count(request, inbox, outbox).await,
            Request::Archive { paths, nonce } => {
                let paths: Vec<_> = paths.iter().map(|path| self.resolve(path)).collect();
                let disk = self.options.results.clone();
                blocking(move || archive::archive(disk, &paths, nonce)).await
            }
            Request::PowerOff => {
                self.end_processes().await;
                blocking(|| {
                    nix::unistd::sync();
                    Ok(())
                })
                .await?;
                self.switch_off.notify_one();
                Ok(Outcome::Done)
            }
        }
    }

    /// Relative paths begin in the scratch directory.
    fn resolve(&self, path: &str) -> PathBuf {
        self.options.scratch.join(path)
    }

    /// Puts settings back.
    async fn give_back(&self) -> Result<Outcome, Failure> {
        let lent = Arc::clone(&self.lent);
        blocking(move || lend::give_back(&lent)).await
    }

    /// Kills everything that was started and waits until it is gone.
    pub(super) async fn end_processes(&self) {
        let cage = self.cage.lock().await.take();
        let Some(mut cage) = cage else { return };
        // Whoever is just starting something holds it for a moment.
        while Arc::get_mut(&mut cage).is_none() {
            tokio::task::yield_now().await;
        }
        if let Some(cage) = Arc::get_mut(&mut cage)
            && let Err(error) = cage.close().await
        {
            tracing::warn!("cannot end what was started: {error}");
        }
    }
}

/// Does a socket listen within this time? Looks at least once.
async fn await_listener(port: u16, within: Duration) -> Result<Outcome, Failure> {
    let deadline = Instant::now() + within.min(LONGEST_LOOK);
    loop {
        let failed = |error: io::Error| Failure::io("list its sockets", &error);
        let found = blocking(move || any_listener(port).map_err(failed)).await?;
        if found || Instant::now() >= deadline {
            return Ok(Outcome::Is(found));
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        Self::new(FailureKind::Other, "go on", lost.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_failure_and_other_outcomes_stay() {
        let died = unless_it_panics(async {
            tokio::task::yield_now().await;
            panic!("of {}", 1)
        });
        let failure = died.await.unwrap_err();
        assert_eq!((failure.kind, failure.text.as_str()), (FailureKind::Other, "of 1"));
        assert!(matches!(unless_it_panics(async { Ok(Outcome::Done) }).await, Ok(Outcome::Done)));
    }
}
