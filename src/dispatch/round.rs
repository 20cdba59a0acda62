//! One round: GNU parallel hands out shares, workers say what comes of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::coordinator::Coordinator;
use super::frame::{Found, Frame, Left, StreamError, Tail, VERSION};
use super::hear::Heard;
use super::orders::Round;
use super::parallel::Parallel;
use super::place::{Look, PlaceError};
use super::share::Share;
use crate::host::cage::Cage;
use crate::node::local::Processes;
use crate::text::printable;

/// Between two looks at what workers say.
const LOOK: Duration = Duration::from_millis(100);
/// Between two notes of what hosts do.
const NOTE: Duration = Duration::from_secs(1);
/// Between two tries at hosts that are lost.
const PROBE: Duration = Duration::from_secs(15);
/// Silence after which a worker is killed. It gives a sign of life every two seconds, whatever it does.
const SILENCE: Duration = Duration::from_secs(180);
/// How long workers may take to end that were told to end at once.
const END: Duration = Duration::from_secs(180);

/// What a worker says, and how far that was read.
struct Stream {
    tail: Tail,
    /// Which host.
    host: Option<usize>,
    /// Did it say its last word?
    has_ended: bool,
    /// Nothing that follows can be read.
    is_bad: bool,
    /// Bytes that were there, and when there were more than before.
    length: u64,
    heard: Instant,
}

/// A worker says what cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Nonsense(pub(super) String);

/// Something that goes on beside.
enum Errand {
    Probed(usize, Box<Result<Look, PlaceError>>),
    Told(Vec<String>),
}

/// See the module.
struct Running<'r, 'a> {
    coordinator: &'r mut Coordinator<'a>,
    round: &'r Round,
    shares: &'r [Share],
    engine: Parallel,
    streams: BTreeMap<u32, Stream>,
    /// Shares whose worker has ended.
    done: BTreeMap<u32, String>,
    errands: FuturesUnordered<BoxFuture<'static, Errand>>,
    /// The wish that hosts were told.
    halted: Option<(&'static str, Instant)>,
    noted: Instant,
    probed: Instant,
}

/// Runs a round; returns when all shares were handed out and have ended, when nobody is left to take them, and when it was
/// halted and what ran has ended.
pub(super) async fn run(
    coordinator: &mut Coordinator<'_>,
    round: &Round,
    shares: &[Share],
    directory: &Path,
) -> anyhow::Result<()> {
    // Of its own, so that all of it can be ended.
    let processes = Arc::new(Processes::new(Cage::open_or_groups().context("cannot make a process namespace")?));
    let fleet = &coordinator.fleet;
    let what = (fleet.program().as_ref(), coordinator.id, round);
    let engine = Parallel::start(&processes, fleet.ssh(), directory, what, &fleet.working(), shares.len()).await?;
    let now = Instant::now();
    let mut running = Running {
        coordinator,
        round,
        shares,
        engine,
        streams: BTreeMap::new(),
        done: BTreeMap::new(),
        errands: FuturesUnordered::new(),
        halted: None,
        noted: now,
        probed: now,
    };
    let result = running.go().await;
    drop(running);
    processes.close().await.context("cannot end GNU parallel")?;
    result
}

impl Running<'_, '_> {
    async fn go(&mut self) -> anyhow::Result<()> {
        loop {
            let ended = tokio::select! {
                ended = self.engine.ended() => Some(ended?),
                Some(errand) = self.errands.next() => {
                    self.errand(errand)?;
                    None
                }
                () = tokio::time::sleep(LOOK) => None,
            };
            self.look()?;
            if let Some(problem) = ended {
                if let Some(text) = problem {
                    anyhow::ensure!(!self.done.is_empty(), "GNU parallel: {text}");
                    self.coordinator.say(&format!("GNU parallel: {text}"));
                }
                break;
            }
            if self.coordinator.fleet.working().is_empty() || self.is_halted_and_quiet() {
                break;
            }
            self.wishes()?;
            self.care()?;
        }
        // What was told meanwhile is of use for the hosts' next round only.
        self.coordinator.write_state()
    }

    /// Reads what workers have said, and which have ended.
    fn look(&mut self) -> anyhow::Result<()> {
        let done = self.engine.done()?;
        for share in self.shares {
            if !self.done.contains_key(&share.number) {
                self.read(share.number)?;
            }
        }
        for done in done {
            self.done.insert(done.share, done.host.clone());
            self.finish(done.share, &done.host)?;
        }
        Ok(())
    }

    fn read(&mut self, share: u32) -> anyhow::Result<()> {
        if !self.streams.contains_key(&share) {
            let path = self.engine.said(share);
            match Tail::open(&path) {
                Ok(tail) => drop(self.streams.insert(
                    share,
                    Stream { tail, host: None, has_ended: false, is_bad: false, length: 0, heard: Instant::now() },
                )),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
            }
        }
        let Some(mut stream) = self.streams.remove(&share) else { return Ok(()) };
        let read = self.frames(&mut stream);
        let host = stream.host;
        let read = match read {
            Err(error) if error.is::<StreamError>() || error.is::<Nonsense>() => {
                stream.is_bad = true;
                self.coordinator.say(&format!("share {share}: what its worker says makes no sense: {error}"));
                if let Some(at) = host {
                    self.kill(at);
                }
                Ok(())
            }
            other => other,
        };
        self.streams.insert(share, stream);
        read
    }

    /// Ends the worker of a host; its connection ends with it.
    fn kill(&mut self, at: usize) {
        let killed = self.coordinator.fleet.kill(at);
        self.errands.push(Box::pin(async move { Errand::Told(killed.await) }));
    }

    fn frames(&mut self, stream: &mut Stream) -> anyhow::Result<()> {
        let length = stream.tail.length().map_err(StreamError::from)?;
        if length > stream.length {
            (stream.length, stream.heard) = (length, Instant::now());
        }
        while !stream.has_ended && !stream.is_bad {
            let Some(found) = stream.tail.next()? else { break };
            self.frame(&found, stream)?;
        }
        Ok(())
    }

    fn frame(&mut self, found: &Found, stream: &mut Stream) -> anyhow::Result<()> {
        if let Frame::Hello { version, login, pid, .. } = &found.frame {
            if *version != VERSION {
                return Err(Nonsense(format!("it speaks version {version}, and {VERSION} is spoken here")).into());
            }
            let login = login.as_deref().unwrap_or_default();
            let at = self.coordinator.fleet.find(login);
            let unknown = || Nonsense(format!("it answers for a host `{}` that nobody named", printable(login, 100)));
            let at = at.ok_or_else(unknown)?;
            stream.host = Some(at);
            self.coordinator.fleet.member(at).worker = Some(*pid);
        }
        let Some(at) = stream.host else { return Ok(()) };
        match self.coordinator.hear(at, found, &stream.tail)? {
            Heard::Nothing | Heard::Changed(None) => {}
            Heard::Changed(Some(text)) => {
                self.coordinator.say(&text);
                self.hosts_changed();
                // The rest of its share would be of that image too.
                self.kill(at);
            }
            Heard::End(left) => {
                stream.has_ended = true;
                self.last_word(at, left.as_ref());
            }
        }
        Ok(())
    }

    fn last_word(&mut self, at: usize, left: Option<&Left>) {
        let fleet = &mut self.coordinator.fleet;
        let news = match left {
            None | Some(Left::Interrupted(_) | Left::Late(_)) => None,
            // It is what it was told.
            Some(Left::Limit(_)) if self.halted.is_some() => None,
            Some(Left::Busy(why)) => fleet.lose(at, printable(why, 500)),
            Some(Left::Limit(why) | Left::Unable(why)) => fleet.unable(at, printable(why, 500)),
        };
        if let Some(text) = news {
            self.coordinator.say(&text);
            self.hosts_changed();
        }
    }

    /// A share's worker has ended: all that it said is there.
    fn finish(&mut self, share: u32, host: &str) -> anyhow::Result<()> {
        self.read(share)?;
        let Some(at) = self.coordinator.fleet.find(host) else { return Ok(()) };
        let member = self.coordinator.fleet.member(at);
        (member.state.doing, member.worker) = (None, None);
        let has_ended = self.streams.remove(&share).is_some_and(|stream| stream.has_ended);
        // Its files are of no use any more, and may be large.
        let said = self.engine.said(share);
        if let Some(directory) = said.parent().filter(|_| has_ended) {
            std::fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        if !has_ended && self.halted.is_none() {
            let said = self.engine.complaint(share);
            let why =
                if said.is_empty() { "its worker was lost".to_owned() } else { format!("its worker was lost: {said}") };
            if let Some(text) = self.coordinator.fleet.lose(at, why) {
                self.coordinator.say(&text);
            }
            self.hosts_changed();
        }
        Ok(())
    }

    /// Only hosts that work are given more. Without one the round ends, so that the list is never empty.
    fn hosts_changed(&self) {
        let working = self.coordinator.fleet.working();
        if !working.is_empty()
            && let Err(error) = self.engine.set_hosts(&working)
        {
            tracing::warn!("{error:#}");
        }
    }

    /// Has somebody wished that it ends?
    fn wishes(&mut self) -> anyhow::Result<()> {
        let wish = match self.coordinator.options.cancel.requested() {
            Some(_) => Some("now"),
            None if self.halted.is_none() => self.coordinator.limits.reached(0)?.map(|_| "soon"),
            None => None,
        };
        let is_new = wish.is_some_and(|wish| self.halted.is_none_or(|(before, _)| before != wish));
        if let Some(wish) = wish.filter(|_| is_new) {
            self.halted = Some((wish, Instant::now()));
            self.tell(wish);
        }
        Ok(())
    }

    fn tell(&mut self, wish: &'static str) {
        let told = self.coordinator.fleet.halt(self.coordinator.id, self.round, wish);
        self.errands.push(Box::pin(async move { Errand::Told(told.await) }));
    }

    /// Has everything ended that ran when it was wished to end, or had its time?
    fn is_halted_and_quiet(&self) -> bool {
        let Some((wish, since)) = self.halted else { return false };
        let is_over = |share: &u32, stream: &Stream| stream.has_ended || stream.is_bad || self.done.contains_key(share);
        let is_quiet = self.streams.iter().all(|(share, stream)| is_over(share, stream));
        // A worker that is being started has said nothing yet.
        (is_quiet && since.elapsed() > NOTE && self.errands.is_empty()) || (wish == "now" && since.elapsed() > END)
    }

    /// Notes what hosts do, and looks after those that do nothing.
    fn care(&mut self) -> anyhow::Result<()> {
        if self.noted.elapsed() >= NOTE {
            self.noted = Instant::now();
            self.coordinator.write_state()?;
            self.silent()?;
        }
        if self.probed.elapsed() >= PROBE {
            self.probed = Instant::now();
            if let Some((wish, _)) = self.halted {
                // One that was given something meanwhile has not heard of it.
                self.tell(wish);
                return Ok(());
            }
            for at in self.coordinator.fleet.lost() {
                let attempt = self.coordinator.fleet.attempt(at);
                self.errands.push(Box::pin(async move {
                    let (at, result) = attempt.await;
                    Errand::Probed(at, Box::new(result))
                }));
            }
        }
        Ok(())
    }

    /// Workers that give no sign of life are killed, so that their connections end.
    fn silent(&mut self) -> anyhow::Result<()> {
        let open = self.streams.values().filter(|stream| !stream.has_ended && stream.heard.elapsed() > SILENCE);
        let silent: Vec<Option<usize>> = open.map(|stream| stream.host).collect();
        // Without a word from it nobody knows where it is.
        anyhow::ensure!(!silent.contains(&None), "a worker has not said a word for {} s", SILENCE.as_secs());
        for at in silent.into_iter().flatten() {
            let host = self.coordinator.fleet.member(at).state.host.clone();
            self.coordinator.say(&format!("{host}: no sign of life for {} s: its worker is killed", SILENCE.as_secs()));
            self.kill(at);
        }
        for stream in self.streams.values_mut().filter(|stream| stream.heard.elapsed() > SILENCE) {
            // Again later, if that was in vain.
            stream.heard = Instant::now();
        }
        Ok(())
    }

    fn errand(&mut self, errand: Errand) -> anyhow::Result<()> {
        let news = match errand {
            Errand::Told(news) => news,
            // It is given nothing more.
            Errand::Probed(..) if self.halted.is_some() => Vec::new(),
            Errand::Probed(at, result) => {
                let news = self.coordinator.fleet.tried(at, *result);
                self.hosts_changed();
                news
            }
        };
        for text in news {
            self.coordinator.say(&text);
        }
        self.coordinator.write_state()
    }
}
