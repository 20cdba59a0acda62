//! The host's side of an agent.

mod bulk;
mod capture;
mod counters;
mod files;
mod process;
mod texts;
mod trace;

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::runtime::Handle;

use super::error::{AgentError, Lost};
use super::message::{
    ArchiveReceipt, ClockReading, Failure, Hello, Lent, LoanRequest, NetworkSetup, Outcome, Reading, Request, Way,
};
use super::mux::{self, Asking, Inbox, Input, Item, Link, Outbox};
use super::wire::{Answer, GREETING, Kind, MAX_PAYLOAD, PROTOCOL, Preamble, skip_to_greeting};
use crate::record::HostUse;
use crate::text::printable;

pub use bulk::{ResultsDisk, SMALL};
pub use capture::{Keep, RemoteCapture};
pub use counters::RemoteCounters;
pub(in crate::agent) use files::hex;
pub use process::RemoteProcess;
pub use trace::RemoteTrace;

/// When a conversation is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Time for the agent to answer the greeting; in a guest, the time to boot.
    pub handshake: Duration,
    /// Time between two pings.
    pub heartbeat: Duration,
    /// Silence after which either side takes the other for lost. A guest that shares its CPUs may be kept waiting.
    pub silence: Duration,
    /// Bytes before the answer that are skipped: a login's banner, what an earlier conversation left in the channel.
    pub noise: u64,
    /// The greeting is sent again after this time, and then after twice the time before. It is sent behind padding that
    /// ends a frame in the middle of which an earlier host may have gone.
    pub again: Duration,
    /// Time for the answer to a ping, at most. An agent with much to send leaves pings without one.
    pub pong: Duration,
    /// Questions by which clocks are compared, at most. Where each costs much, few must do.
    pub clock_rounds: u32,
    /// Does each question cost much?
    pub is_slow: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(30),
            heartbeat: Duration::from_secs(2),
            silence: Duration::from_secs(30),
            noise: 16 << 20,
            again: Duration::from_secs(2),
            pong: Duration::from_secs(2),
            clock_rounds: u32::MAX,
            is_slow: false,
        }
    }
}

/// A question about the clock that took no longer is good enough where each costs much: others would be little better.
const CLOSE_ENOUGH: Duration = Duration::from_millis(30);

/// An agent that is there. Clones share the conversation; when the last one is dropped, it ends.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hello: Hello,
    link: Link,
    runtime: Handle,
    /// Time for the answer to a ping.
    pong: Duration,
    clock_rounds: u32,
    is_slow: bool,
    /// Over which large files come, and kept packets.
    disks: OnceLock<bulk::Disks>,
}

/// Whether anything is to be heard from a node. It does not keep the conversation up.
#[derive(Debug)]
pub(crate) struct Awaited(Link);

impl Awaited {
    /// Does a call go on, or has a ping no answer yet? An agent says nothing by itself.
    pub(crate) fn is_any(&self) -> bool {
        self.0.is_awaited()
    }

    /// Does somebody wait for an answer that comes as soon as the agent has it, and has nobody anything to say before?
    pub(crate) fn is_asked(&self) -> bool {
        self.0.is_asked()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.link.bye();
        self.link.lose(Lost::Ended);
    }
}

impl Client {
    /// Greets the agent at the other end and waits for its answer.
    ///
    /// # Errors
    /// [`AgentError::NoAnswer`], [`AgentError::Noise`], [`AgentError::Protocol`], and [`AgentError::Lost`] when the channel
    /// ends before.
    pub async fn connect<R, W>(read: R, write: W, limits: Limits) -> Result<Self, AgentError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let nonce = mux::fresh_number();
        let silence_ms = u32::try_from(limits.silence.as_millis()).unwrap_or(u32::MAX);
        let preamble = Preamble { protocol: PROTOCOL, silence_ms, nonce };
        let mut greeter = Greeter { output: write, pending: preamble.encode().to_vec(), sent: 0 };
        let mut input = Input::new(read);
        let mut skipped = 0;
        let answered = tokio::select! {
            answered = tokio::time::timeout(limits.handshake, answer(&mut input, nonce, limits.noise, &mut skipped)) => answered,
            error = greeter.greet(&preamble, limits.again) => return Err(io_lost("write", &error).into()),
        };
        let hello = match answered {
            Ok(answered) => answered?,
            Err(_) => return Err(AgentError::NoAnswer { waited: limits.handshake, skipped }),
        };
        let (link, queues) = Link::new(nonce);
        let Greeter { output, pending, sent } = greeter;
        tokio::spawn(mux::write(link.clone(), queues, output, pending[sent..].to_vec()));
        tokio::spawn(listen(link.clone(), input, limits.silence));
        tokio::spawn(beat(link.clone(), limits.heartbeat));
        let pong = limits.silence.min(limits.pong);
        let Limits { clock_rounds, is_slow, .. } = limits;
        let (runtime, disks) = (Handle::current(), OnceLock::new());
        Ok(Self(Arc::new(Inner { hello, link, runtime, pong, clock_rounds, is_slow, disks })))
    }

    /// What the agent says of itself.
    pub fn hello(&self) -> &Hello {
        &self.0.hello
    }

    /// SHA-256 of the agent's program, lower-case hex. It is worked out at the first call.
    pub async fn build(&self) -> Result<String, AgentError> {
        match self.ask("build", &Request::Build).await? {
            Outcome::Text(text) => Ok(text),
            other => Err(strange("build", &other)),
        }
    }

    /// Does a TCP socket on the node listen on the port?
    pub async fn listening(&self, port: u16) -> Result<bool, AgentError> {
        self.ask_yes_no("listening", &Request::Listening { port, within_ms: 0 }).await
    }

    /// Does one within this time (60 s at most)? Where each question costs much, the node waits instead of being asked again
    /// and again; otherwise it is asked once, and answers at once.
    pub async fn await_listening(&self, port: u16, within: Duration) -> Result<bool, AgentError> {
        let within = if self.0.is_slow { within } else { Duration::ZERO };
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.ask_yes_no("listening", &Request::Listening { port, within_ms }).await
    }

    /// Does each question cost much ([`Limits::is_slow`])?
    pub(crate) fn is_slow(&self) -> bool {
        self.0.is_slow
    }

    /// Whether anything is to be heard from the node.
    pub(crate) fn awaited(&self) -> Awaited {
        Awaited(self.0.link.clone())
    }

    /// Is there a file of this path?
    pub async fn exists(&self, path: &str) -> Result<bool, AgentError> {
        self.ask_yes_no("exists", &Request::Exists { path: path.to_owned() }).await
    }

    /// Sets the node's network up.
    pub async fn configure(&self, setup: &NetworkSetup) -> Result<(), AgentError> {
        self.ask_done("configure", &Request::Configure(Box::new(setup.clone()))).await
    }

    /// What is in force on an interface: `mtu`, `sg`, `tso`, `gso`, `gro`, `rx_checksum`, `tx_checksum`, `link_driver`,
    /// `firmware`, `operstate`, `speed`, `queues`, `ring_rx`, `ring_tx`,
    /// `qdisc` (kind of the one at the root), `egress_rate` (its limit, or `none`).
    pub async fn settings(&self, interface: &str) -> Result<Vec<Reading>, AgentError> {
        match self.ask("settings", &Request::Settings { interface: interface.to_owned() }).await? {
            Outcome::Readings(readings) => Ok(readings),
            other => Err(strange("settings", &other)),
        }
    }

    /// Changes settings of a node that is not vptest's own. They are put back when the conversation ends, or before.
    ///
    /// # Errors
    /// [`AgentError::Failed`] when anything is refused; nothing is changed then.
    pub async fn lend(&self, request: &LoanRequest) -> Result<Lent, AgentError> {
        match self.ask("lend", &Request::Lend(Box::new(request.clone()))).await? {
            Outcome::Lent(lent) => Ok(lent),
            other => Err(strange("lend", &other)),
        }
    }

    /// Puts settings back. Returns what could not be, with the reasons; the node tries again at the next loan.
    pub async fn give_back(&self) -> Result<Vec<String>, AgentError> {
        match self.ask("give_back", &Request::GiveBack).await? {
            Outcome::GaveBack { left } => Ok(left),
            other => Err(strange("give_back", &other)),
        }
    }

    /// From now on, the node's counters are watched; [`Client::host_use`] says what became of them.
    pub async fn watch_host(&self) -> Result<(), AgentError> {
        self.ask_done("watch_host", &Request::WatchHost).await
    }

    /// What the node's host has done since [`Client::watch_host`].
    pub async fn host_use(&self) -> Result<HostUse, AgentError> {
        match self.ask("host_use", &Request::HostUse).await? {
            Outcome::HostUse(used) => Ok(*used),
            other => Err(strange("host_use", &other)),
        }
    }

    /// Facts about the node: kernel, CPU, memory, distribution and so on, as far as they can be read.
    pub async fn facts(&self) -> Result<Vec<Reading>, AgentError> {
        match self.ask("facts", &Request::Facts).await? {
            Outcome::Readings(readings) => Ok(readings),
            other => Err(strange("facts", &other)),
        }
    }

    /// Walks the path to `target`, `limit` hops at most: the addresses passed, `None` for a hop that did not answer, and
    /// whether the target was reached.
    pub async fn walk(&self, target: IpAddr, limit: u8) -> Result<(Vec<Option<IpAddr>>, bool), AgentError> {
        match self.ask("walk", &Request::Walk { target, limit }).await? {
            Outcome::Walked { passed, reached } => Ok((passed, reached)),
            other => Err(strange("walk", &other)),
        }
    }

    /// Does a packet of this many bytes, with its headers of IP and UDP, get to `target` in one piece?
    pub async fn arrives(&self, target: IpAddr, bytes: u16) -> Result<bool, AgentError> {
        self.ask_yes_no("arrives", &Request::Arrives { target, bytes }).await
    }

    /// The way that packets to `to` take, for those that come from its address `from` where that is given.
    pub async fn route(&self, to: IpAddr, from: Option<IpAddr>) -> Result<Way, AgentError> {
        match self.ask("route", &Request::Route { to, from }).await? {
            Outcome::Routed(way) => Ok(way),
            other => Err(strange("route", &other)),
        }
    }

    /// Compares the node's wall clock with this host's by `rounds` (at least one) questions, or fewer where
    /// [`Limits::clock_rounds`] says so, and where each costs much and one was answered within 30 ms.
    ///
    /// Each answer bounds the offset; the bounds are those of all rounds together, so a clock that is set meanwhile makes
    /// them cross. Rounds without an answer in time do not count.
    ///
    /// # Errors
    /// [`AgentError::Unanswered`] when no round got an answer, and [`AgentError::Lost`].
    pub async fn clock(&self, rounds: u32) -> Result<ClockReading, AgentError> {
        let mut reading = ClockReading {
            at_least_ns: i64::MIN,
            at_most_ns: i64::MAX,
            round_trip_ns: u64::MAX,
            rounds: 0,
            took_ns: 0,
        };
        let start = Instant::now();
        for _ in 0..rounds.min(self.0.clock_rounds).max(1) {
            let (sent, begun) = (crate::host::clock::now_ns(), Instant::now());
            let question = async {
                let pong = self.0.link.ping(mux::fresh_number()).await?;
                pong.await.map_err(|_| self.over())
            };
            let Ok(theirs) = tokio::time::timeout(self.0.pong, question).await else { continue };
            let theirs = theirs?;
            let (received, took) = (crate::host::clock::now_ns(), begun.elapsed());
            reading.at_least_ns = reading.at_least_ns.max(theirs.saturating_sub(received));
            reading.at_most_ns = reading.at_most_ns.min(theirs.saturating_sub(sent));
            reading.round_trip_ns = reading.round_trip_ns.min(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            reading.rounds += 1;
            if self.0.is_slow && took <= CLOSE_ENOUGH {
                break;
            }
        }
        if reading.rounds == 0 {
            return Err(AgentError::Unanswered { request: "clock", waited: start.elapsed() });
        }
        reading.took_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(reading)
    }

    /// Writes files of the node to its results disk, where [`super::results::read_as_told`] finds them.
    ///
    /// # Errors
    /// [`AgentError::Failed`] with `Invalid` for files that cannot be in an archive: those of long names, and those whose length is
    /// not what the node's system says, or is another at the end.
    pub async fn archive(&self, paths: &[String]) -> Result<ArchiveReceipt, AgentError> {
        let nonce = mux::fresh_number();
        let request = Request::Archive { paths: paths.to_vec(), nonce };
        match self.ask("archive", &request).await? {
            Outcome::Archived(receipt) if receipt.nonce == nonce => Ok(receipt),
            other => Err(strange("archive", &other)),
        }
    }

    /// Kills everything the agent has started in this conversation and empties its scratch directory where that is its own.
    pub async fn reset(&self) -> Result<(), AgentError> {
        self.ask_done("reset", &Request::Reset).await
    }

    /// Switches a guest off; an agent that is not the first process of its system ends. The conversation ends with it,
    /// which is no error.
    pub async fn power_off(&self) -> Result<(), AgentError> {
        self.0.link.await_end();
        match self.ask_done("power_off", &Request::PowerOff).await {
            Ok(()) => {
                self.0.link.over().await;
                Ok(())
            }
            Err(AgentError::Lost(Lost::Closed | Lost::Io { .. })) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits for the end of the conversation and says why it ended.
    pub async fn lost(&self) -> AgentError {
        self.0.link.over().await.into()
    }

    /// Is the conversation over?
    pub(crate) fn is_lost(&self) -> bool {
        self.0.link.lost().is_some()
    }

    /// The runtime the conversation lives in, for callers outside of it.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    fn over(&self) -> AgentError {
        self.0.link.lost().unwrap_or(Lost::Ended).into()
    }

    /// Begins a call.
    async fn call(&self, request: &Request) -> Result<(Inbox, Outbox), AgentError> {
        check_length(request)?;
        let (inbox, outbox) = self.0.link.begin()?;
        outbox.send(Kind::Request, request).await?;
        Ok((inbox, outbox))
    }

    /// Begins a call in which this side has nothing to say as long as the last is held.
    async fn question(&self, request: &Request) -> Result<(Inbox, Outbox, Asking), AgentError> {
        check_length(request)?;
        let (inbox, outbox) = self.0.link.begin()?;
        let asking = self.0.link.ask(inbox.call());
        outbox.send(Kind::Request, request).await?;
        Ok((inbox, outbox, asking))
    }

    /// A call with nothing but an end.
    async fn ask(&self, name: &'static str, request: &Request) -> Result<Outcome, AgentError> {
        let (mut inbox, _outbox, _asking) = self.question(request).await?;
        loop {
            match inbox.next().await {
                Some(Item::Done(payload)) => return outcome(name, &payload),
                Some(_) => {}
                None => return Err(self.over()),
            }
        }
    }

    async fn ask_done(&self, name: &'static str, request: &Request) -> Result<(), AgentError> {
        match self.ask(name, request).await? {
            Outcome::Done => Ok(()),
            other => Err(strange(name, &other)),
        }
    }

    async fn ask_yes_no(&self, name: &'static str, request: &Request) -> Result<bool, AgentError> {
        match self.ask(name, request).await? {
            Outcome::Is(yes) => Ok(yes),
            other => Err(strange(name, &other)),
        }
    }
}

fn check_length(request: &Request) -> Result<(), AgentError> {
    let length = mux::json(request).len();
    if length <= MAX_PAYLOAD {
        return Ok(());
    }
    let text = format!("a request of {length} bytes ({MAX_PAYLOAD} at most)");
    let source = io::Error::new(io::ErrorKind::InvalidInput, text);
    Err(AgentError::Here { what: "ask the agent".to_owned(), source })
}

/// The end of a call; a failure of the agent is an error.
fn outcome(request: &'static str, payload: &[u8]) -> Result<Outcome, AgentError> {
    match serde_json::from_slice(payload) {
        Ok(Outcome::Failed(failure)) => Err(failed(failure)),
        Ok(outcome) => Ok(texts::outcome(outcome)),
        Err(error) => Err(AgentError::Answer { request, text: printable(&error.to_string(), 200) }),
    }
}

/// A failure comes from the node and is shown as it is, so that it has to be short.
fn failed(mut failure: Failure) -> AgentError {
    for text in [&mut failure.text, &mut failure.what] {
        *text = printable(text, 1000);
    }
    AgentError::Failed(failure)
}

fn strange(request: &'static str, outcome: &Outcome) -> AgentError {
    AgentError::Answer { request, text: printable(&format!("{outcome:?}"), 200) }
}

fn io_lost(what: &'static str, error: &io::Error) -> Lost {
    Lost::Io { what, text: error.to_string() }
}

/// Reads the answer to our preamble.
async fn answer<R: AsyncRead + Unpin>(
    input: &mut Input<R>,
    nonce: u64,
    most: u64,
    skipped: &mut u64,
) -> Result<Hello, AgentError> {
    let mut beginning = Vec::new();
    loop {
        let mut noise = skip_to_greeting(input.bytes(), false);
        let mut need = GREETING;
        match Answer::decode(&input.bytes()[noise..]) {
            Some(answer) if answer.nonce == nonce => {
                need = GREETING + answer.length as usize;
                if let Some(text) = input.bytes()[noise..].get(GREETING..need) {
                    let hello = introduced(&answer, text);
                    input.consume(noise + need);
                    return hello;
                }
            }
            // An answer to somebody before us, or bytes that look a little like one.
            _ if input.bytes().len() - noise >= GREETING => {
                noise += 1;
                need = 0;
            }
            _ => {}
        }
        beginning.extend(input.bytes()[..noise].iter().take(80_usize.saturating_sub(beginning.len())));
        input.consume(noise);
        *skipped += noise as u64;
        if *skipped > most {
            let beginning = String::from_utf8_lossy(&beginning).into_owned();
            return Err(AgentError::Noise { skipped: *skipped, beginning });
        }
        if need > 0 {
            match input.fill(need).await {
                Ok(0) if *skipped > 0 => {
                    let beginning = String::from_utf8_lossy(&beginning).into_owned();
                    return Err(AgentError::Noise { skipped: *skipped, beginning });
                }
                Ok(0) => return Err(Lost::Closed.into()),
                Ok(_) => {}
                Err(error) => return Err(io_lost("read", &error).into()),
            }
        }
    }
}

/// The protocol is looked at first: the text of another one may have any form.
fn introduced(answer: &Answer, text: &[u8]) -> Result<Hello, AgentError> {
    if answer.protocol != PROTOCOL {
        let value: Option<serde_json::Value> = serde_json::from_slice(text).ok();
        let version = value.as_ref().and_then(|value| value.get("version")?.as_str());
        let version = printable(version.unwrap_or("unknown"), 40);
        return Err(AgentError::Protocol { ours: PROTOCOL, theirs: answer.protocol, version });
    }
    let hello = serde_json::from_slice(text)
        .map_err(|error| AgentError::Answer { request: "greeting", text: printable(&error.to_string(), 200) })?;
    texts::hello(hello)
}

/// Sends the greeting. It keeps what it has begun to send, so that the rest can follow after the answer has come.
struct Greeter<W> {
    output: W,
    pending: Vec<u8>,
    sent: usize,
}

impl<W: AsyncWrite + Unpin> Greeter<W> {
    /// Greets, again and again. Returns only when that fails.
    async fn greet(&mut self, preamble: &Preamble, again: Duration) -> io::Error {
        let mut pause = again;
        loop {
            if let Err(error) = self.send().await {
                return error;
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2);
            self.pending = vec![0; mux::CHUNK + 64];
            self.pending.extend(preamble.encode());
            self.sent = 0;
        }
    }

    async fn send(&mut self) -> io::Result<()> {
        while self.sent < self.pending.len() {
            match self.output.write(&self.pending[self.sent..]).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => self.sent += count,
            }
        }
        self.output.flush().await
    }
}

/// Hands what arrives to the calls, until the conversation is over.
async fn listen<R: AsyncRead + Unpin>(link: Link, mut input: Input<R>, silence: Duration) {
    // An agent asks for nothing.
    let why = mux::read(&link, &mut input, silence, |_, _| {}).await;
    link.lose(why);
}

/// Pings, so that both sides hear something.
async fn beat(link: Link, every: Duration) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = link.over() => return,
        }
        if link.ping(mux::fresh_number()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_clock_that_nobody_answers_is_an_error() {
        // Nothing takes what is sent.
        let (link, _queues) = Link::new(1);
        let hello = serde_json::from_value(serde_json::json!({ "protocol": PROTOCOL, "version": "0" })).unwrap();
        let pong = Duration::from_millis(1);
        let (runtime, clock_rounds) = (Handle::current(), 3);
        let client = Client(Arc::new(Inner {
            hello,
            link,
            runtime,
            pong,
            clock_rounds,
            is_slow: false,
            disks: OnceLock::new(),
        }));
        let error = client.clock(100).await.unwrap_err();
        assert!(matches!(error, AgentError::Unanswered { request: "clock", .. }), "{error}");
        assert!(!error.is_lost());
        client.0.link.lose(Lost::Closed);
        assert!(matches!(client.clock(1).await, Err(AgentError::Lost(_) | AgentError::Unanswered { .. })));
    }
}
