//! vptest's agent on a node that is reached through miniccc alone.
//!
//! vptest is sent to the node and started there in the background; the bytes of its conversation go back and forth in
//! letters ([`crate::agent::mailbox`]), one in each direction and turn ([`super::turn`]).

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, DuplexStream, ReadBuf};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use super::super::error::{MinimegaError, PhaseFailure};
use super::turn::{Address, WAIT_FOR, WAITER};
use super::{Channel, Member, Outcome, Phase, Sent, Step, StepReport, StepStatus};
use crate::agent::mailbox::{LARGEST, Letter, PACKED};
use crate::agent::{AgentError, Awaited, Client, Limits};
use crate::image::{BUNDLE_PROGRAM, Bundle};
use crate::text::printable_bytes;

/// What a conversation by letters may take. A letter waits for the one before.
const LIMITS: Limits = Limits {
    handshake: Duration::from_secs(120),
    heartbeat: Duration::from_secs(20),
    silence: Duration::from_secs(45),
    noise: 1 << 20,
    again: Duration::from_secs(600),
    pong: Duration::from_secs(10),
    clock_rounds: 4,
    is_slow: true,
};
/// How long unpacking and starting vptest may take.
pub(super) const START: Duration = Duration::from_secs(60);
/// How long the agent runs at the most.
pub(super) const LONGEST: Duration = Duration::from_secs(30 * 86_400);
/// After a letter, the next one waits so long for something to say: a question is often followed by another one.
const PAUSE: Duration = Duration::from_millis(25);
/// What is said within this time of the word before goes along,
const GATHER: Duration = Duration::from_millis(3);
/// and within this time of the first one: whoever goes on talking is no reason for the others to wait.
const GATHER_ALL: Duration = Duration::from_millis(100);
/// How long the agent may take to end.
const END: Duration = Duration::from_secs(10);

/// Removes what vptests have left whose agents are gone: a mailbox whose agent runs names it in its command line, and one
/// without a process that is younger than an hour may be about to get one.
const SWEEP: &str = r#"cd "$1" || exit 1
for b in box-*; do
  [ -d "$b" ] && [ "$b" != "$2" ] || continue
  for c in /proc/[0-9]*/cmdline; do
    tr '\0' ' ' <"$c" 2>/dev/null | grep -q -e "--mailbox $1/$b " && continue 2
  done
  [ -n "$(find "$b" -maxdepth 0 -mmin +60)" ] || [ -e "$b/started" ] || continue
  p=$(cat "$b/started" 2>/dev/null)
  case $p in "$1"/*.d) rm -rf "$p" "${p%.d}.sh" ;; esac
  rm -rf "$b" "$1/${b#box-}".t*
done
exit 0"#;

/// Runs the agent and removes everything after it. For one that is killed, it writes the letter that the host waits for, and
/// makes the pipe a file, so that nobody waits there. What the agent has written about its end stays. An empty file, which a
/// full disk makes, would break miniccc's transfers for good.
const RUN: &str = r#"echo "$VPTEST_PHASE" >"$1/started"
cd /
"$1/vptest" agent --mailbox "$1" --incoming "$2" --conversation "$3" --scratch "$1/scratch" --program "$1/vptest" 2>"$1/said"
s=$?
echo $s >"$1/ended"
[ $s = 0 ] || for b in "$1"/bell.*; do
  [ -p "$b" ] || continue
  o="$1/out.${b##*.}"
  if ! head -c 6 "$o" 2>/dev/null | grep -q '^ended '; then
    { echo "ended with status $s"; tail -c 400 "$1/said"; } >"$o.new"
    [ -s "$o.new" ] && mv -f "$o.new" "$o"
  fi
  timeout 1 sh -c ': >"$1"' sh "$b"
  echo >"$b.new"; mv -f "$b.new" "$b"
  sleep 30
done
sleep 2
rm -rf "$1" "$VPTEST_PHASE" "${VPTEST_PHASE%.d}.sh" "$2/$3".t*"#;

/// Unpacks vptest.
pub(super) const UNPACK: &str = r#"tar -x -f "$2" -C "$1" && mkdir "$1/scratch""#;

/// Waits until the agent is there, or says why it is not.
const CHECK: &str = r#"n=0
until [ -p "$1/bell.1" ]; do
  if [ -e "$1/ended" ] || [ $n -ge 300 ]; then head -c 2000 "$1/said"; exit 1; fi
  n=$((n+1)); sleep 0.1 2>/dev/null || sleep 1
done"#;

/// Where and how an agent is reached. When it and all clients of its conversation are dropped, a last letter tells the agent,
/// which then ends.
pub struct Mailbox {
    /// The conversation.
    pub client: Client,
    turns: Arc<AtomicU64>,
    pump: Mutex<JoinHandle<()>>,
    stop: AbortHandle,
}

impl Mailbox {
    /// Sends vptest to the node, starts it and greets it: one round trip for sending, the rest in turns.
    ///
    /// # Errors
    /// [`MinimegaError::Phase`] for what the node lacks or cannot do.
    pub async fn open(channel: &Arc<Channel>, member: &Member, bundle: &Bundle) -> Result<Self, MinimegaError> {
        let conversation = crate::agent::fresh_number();
        let incoming = format!("{}/{}", member.files, channel.head.outgoing().1);
        let name = format!("box-{conversation:016x}");
        let directory = format!("{incoming}/{name}");
        let start = phase(&incoming, &name, &directory, conversation, bundle);
        let into = std::env::temp_dir();
        let outcomes = channel.run(&[(member.clone(), start)], &into).await?;
        if let Some(why) = outcomes.iter().find_map(failed_step) {
            return Err(MinimegaError::phase(&member.node, PhaseFailure::NotStarted(why)));
        }
        let turns = Arc::new(AtomicU64::new(0));
        let awaited = Arc::new(OnceLock::new());
        let address = Address { member: member.clone(), directory, conversation };
        let (input, ours) = tokio::io::duplex(2 * LARGEST);
        let (heard, output) = mpsc::channel(4);
        let pump = Pump {
            channel: Arc::clone(channel),
            address,
            from_client: ours,
            to_client: heard,
            turns: Arc::clone(&turns),
            awaited: Arc::clone(&awaited),
            said: 0,
            heard: 0,
            newest: 0,
        };
        let pump = tokio::spawn(pump.run());
        let stop = pump.abort_handle();
        let output = Heard { pieces: output, piece: Vec::new(), start: 0 };
        let client = Client::connect(output, input, LIMITS).await;
        let client =
            client.map_err(|error| MinimegaError::phase(&member.node, PhaseFailure::NotStarted(error.to_string())))?;
        let _ = awaited.set(client.awaited());
        Ok(Self { client, turns, pump: Mutex::new(pump), stop })
    }

    /// Letters that were exchanged so far; each is a round trip through miniccc.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// No letter goes any more, and none is waited for: where the node goes, and nothing is left to be put back.
    pub fn abandon(&self) {
        self.stop.abort();
    }

    /// Ends the agent, which puts back what it has changed; the node removes what was sent to it. An agent that is gone
    /// already has done so. After one that has ended, no letter is under way any more.
    pub async fn close(&self) {
        let ended = async {
            self.client.power_off().await?;
            let mut pump = self.pump.lock().await;
            if !pump.is_finished()
                && let Err(error) = (&mut *pump).await
            {
                tracing::warn!("letters ended with {error}");
            }
            Ok(())
        };
        match tokio::time::timeout(END, ended).await {
            Ok(Ok(()) | Err(AgentError::Lost(_))) => {}
            Ok(Err(error)) => tracing::warn!("cannot end an agent: {error}"),
            Err(_) => tracing::warn!("an agent does not end within {END:?}"),
        }
    }
}

/// What the first step has said that failed.
pub(super) fn failed_step(outcome: &Outcome) -> Option<String> {
    let failed = |step: &&StepReport| !matches!(step.status, None | Some(StepStatus::Exit(0)));
    let step = outcome.report.steps.iter().find(failed)?;
    let said = [&step.stdout[..], &step.stderr[..]].concat();
    Some(printable_bytes(said.trim_ascii(), 400))
}

/// What a node does to have an agent.
fn phase(incoming: &str, name: &str, directory: &str, conversation: u64, bundle: &Bundle) -> Phase {
    let tar = format!("{directory}/{PACKED}");
    let conversation = format!("{conversation:016x}");
    let sh = |script: &str, words: &[&str]| {
        let words = ["sh", "-c", script, "sh"].into_iter().chain(words.iter().copied());
        Step::of(words, START)
    };
    let mut run = sh(RUN, &[directory, incoming, &conversation]);
    run.limit = LONGEST;
    run.background = true;
    debug_assert_eq!(BUNDLE_PROGRAM, "vptest", "the script names it");
    Phase {
        send: vec![
            Sent { path: tar.clone(), mode: 0o600, content: bundle.tar.clone() },
            Sent { path: format!("{directory}/{WAITER}"), mode: 0o600, content: WAIT_FOR.into() },
        ],
        steps: vec![sh(SWEEP, &[incoming, name]), sh(UNPACK, &[directory, &tar]), run, sh(CHECK, &[directory])],
        fetch: Vec::new(),
    }
}

/// Carries letters as long as the conversation goes on.
struct Pump {
    channel: Arc<Channel>,
    address: Address,
    from_client: DuplexStream,
    to_client: mpsc::Sender<io::Result<Vec<u8>>>,
    turns: Arc<AtomicU64>,
    /// Not set before the node was greeted.
    awaited: Arc<OnceLock<Awaited>>,
    said: u64,
    heard: u64,
    newest: u64,
}

impl Pump {
    async fn run(mut self) {
        if let Err(error) = self.turn_after_turn().await {
            // Nobody may be there to hear it.
            let _ = self.to_client.send(Err(io::Error::other(error.to_string()))).await;
        }
    }

    async fn turn_after_turn(&mut self) -> Result<(), MinimegaError> {
        let mut ended = false;
        for turn in 1.. {
            let mut bytes = Vec::new();
            ended = ended || self.gather(&mut bytes).await;
            let asked = !ended && self.is_asked();
            // What asks is written, so that it goes with this letter or has gone, unless there is more than a letter.
            if asked {
                self.take_rest(&mut bytes);
            }
            let asked = asked && bytes.len() < LARGEST && self.said + bytes.len() as u64 > 0;
            let letter = Letter { turn, offset: self.said, taken: self.heard, over: ended, asked, bytes };
            let theirs = self.channel.turn(&self.address, &letter, &mut self.newest).await?;
            self.turns.fetch_add(1, Ordering::Relaxed);
            self.said += letter.bytes.len() as u64;
            if (theirs.offset, theirs.taken) != (self.heard, self.said) {
                let why = format!(
                    "bytes are missing: {} of {} have arrived there, and its own go on at {} after {}",
                    theirs.taken, self.said, theirs.offset, self.heard
                );
                return Err(MinimegaError::phase(&self.address.member.node, PhaseFailure::Letter(why)));
            }
            self.heard += theirs.bytes.len() as u64;
            let over = theirs.over;
            // Whoever has gone wants no more of it.
            let gone = !theirs.bytes.is_empty() && self.to_client.send(Ok(theirs.bytes)).await.is_err();
            if over || ended {
                return Ok(());
            }
            // The next letter says so.
            ended = gone;
        }
        Ok(())
    }

    /// Does somebody wait for an answer, and for nothing else? The greeting has one.
    fn is_asked(&self) -> bool {
        self.awaited.get().map_or(self.heard == 0, Awaited::is_asked)
    }

    /// Takes what is there to be said, without waiting.
    fn take_rest(&mut self, bytes: &mut Vec<u8>) {
        while bytes.len() < LARGEST {
            let mut piece = (&mut self.from_client).take((LARGEST - bytes.len()) as u64);
            if !matches!(piece.read_buf(bytes).now_or_never(), Some(Ok(1..))) {
                return;
            }
        }
    }

    /// Is nothing to be heard from the node, so that it need not be asked?
    fn is_idle(&self) -> bool {
        self.awaited.get().is_some_and(|awaited| !awaited.is_any())
    }

    /// Collects what is to be said: all there is, at most a letter of it. Waits as long as nothing is to be said or heard. Was
    /// it the last?
    async fn gather(&mut self, bytes: &mut Vec<u8>) -> bool {
        let (mut patience, mut deadline) = (PAUSE, None);
        while bytes.len() < LARGEST && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let mut piece = (&mut self.from_client).take((LARGEST - bytes.len()) as u64);
            match tokio::time::timeout(patience, piece.read_buf(bytes)).await {
                Ok(Ok(0) | Err(_)) => return true,
                Ok(Ok(_)) => patience = GATHER,
                Err(_) if deadline.is_none() && self.is_idle() => continue,
                Err(_) => return false,
            }
            deadline.get_or_insert_with(|| Instant::now() + GATHER_ALL);
        }
        false
    }
}

/// What the node says, as a stream.
struct Heard {
    pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    start: usize,
}

impl AsyncRead for Heard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.start == self.piece.len() {
            match ready!(self.pieces.poll_recv(cx)) {
                Some(piece) => (self.piece, self.start) = (piece?, 0),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = into.remaining().min(self.piece.len() - self.start);
        into.put_slice(&self.piece[self.start..self.start + count]);
        self.start += count;
        Poll::Ready(Ok(()))
    }
}
