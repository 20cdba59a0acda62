//! Many calls over one conversation: what host and agent do alike.
//!
//! The reader never waits for anybody: what a call may have waiting is bounded by credit, so that a slow receiver stops its
//! own sender and nobody else. Small frames go ahead of bulk data. When the conversation ends, every waiting call hears why.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::error::Lost;
use super::message::Tell;
use super::wire::{self, Decoded, Frame, HEADER, Head, Kind, MAX_PAYLOAD, WireError, WireFault};

/// Bytes of a channel that may be on their way or waiting for their receiver.
pub(super) const WINDOW: usize = 1 << 20;
/// Payload of a frame of bulk data: small enough that others need not wait long behind it.
pub(super) const CHUNK: usize = 64 << 10;
/// What a frame costs besides its payload, so that many empty ones are bounded as well.
const COST: usize = 64;
/// Channels that a call has.
const CHANNELS: usize = 2;
/// Bytes of control frames that may wait for the receiver of a call. Senders keep far below.
const MAX_CONTROL: usize = 4 << 20;
/// Calls at a time.
const MAX_CALLS: usize = 4096;
/// How long what was queued may take to go out at the end.
const FLUSH: Duration = Duration::from_secs(1);

/// Something that arrived for a call.
#[derive(Debug)]
pub(super) enum Item {
    /// `Reply` or `Tell`.
    News(Vec<u8>),
    Done(Vec<u8>),
    Data(u8, Vec<u8>),
    End(u8, Vec<u8>),
}

/// What a frame asks of the side that read it.
#[derive(Debug)]
pub(super) enum Asked {
    Nothing,
    Request(u32, Vec<u8>),
    Bye,
}

/// One side's end of a conversation.
#[derive(Debug, Clone)]
pub(super) struct Link(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    nonce: u64,
    control: mpsc::Sender<Vec<u8>>,
    bulk: mpsc::Sender<Vec<u8>>,
    state: Mutex<State>,
    lost: watch::Sender<Option<Lost>>,
}

#[derive(Debug, Default)]
struct State {
    calls: HashMap<u32, Entry>,
    pongs: HashMap<u64, Pong>,
    last: u32,
    over: bool,
    /// The other side was asked to end.
    ending: bool,
}

/// Who waits for the answer to a ping.
#[derive(Debug)]
struct Pong {
    sender: oneshot::Sender<i64>,
    /// Has the ping been written?
    written: bool,
}

#[derive(Debug)]
struct Entry {
    items: mpsc::UnboundedSender<Item>,
    room: Arc<Room>,
    credit: [Arc<Semaphore>; CHANNELS],
    /// See [`Link::ask`].
    is_question: bool,
    /// Has its request been written?
    written: bool,
}

/// What waits for the receiver of a call, in bytes.
#[derive(Debug, Default)]
struct Room {
    data: AtomicUsize,
    control: AtomicUsize,
}

/// See [`Link::ask`].
#[derive(Debug)]
pub(super) struct Asking {
    link: Link,
    call: u32,
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(entry) = self.link.state().calls.get_mut(&self.call) {
            entry.is_question = false;
        }
    }
}

/// What the writer takes from.
#[derive(Debug)]
pub(super) struct Queues {
    control: mpsc::Receiver<Vec<u8>>,
    bulk: mpsc::Receiver<Vec<u8>>,
}

impl Link {
    pub(super) fn new(nonce: u64) -> (Self, Queues) {
        let (control, control_queue) = mpsc::channel(64);
        let (bulk, bulk_queue) = mpsc::channel(4);
        let state = Mutex::new(State::default());
        let shared = Shared { nonce, control, bulk, state, lost: watch::Sender::new(None) };
        (Self(Arc::new(shared)), Queues { control: control_queue, bulk: bulk_queue })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs while it is locked.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the conversation is over; `None` as long as it is not.
    pub(super) fn lost(&self) -> Option<Lost> {
        self.0.lost.borrow().clone()
    }

    /// Is anything to be heard from the other side: the rest of a call, the answer to a ping that somebody waits for, its end?
    pub(super) fn is_awaited(&self) -> bool {
        let state = self.state();
        state.ending || !state.calls.is_empty() || state.pongs.values().any(|pong| !pong.sender.is_closed())
    }

    /// As long as this is held, this side has nothing to say in the call of this number until an answer has come. To be taken
    /// before the request is sent.
    pub(super) fn ask(&self, call: u32) -> Asking {
        if let Some(entry) = self.state().calls.get_mut(&call) {
            entry.is_question = true;
        }
        Asking { link: self.clone(), call }
    }

    /// Does somebody wait for an answer, all that asks for it was written, and no call goes on in which this side may have to
    /// say something before the answer comes?
    pub(super) fn is_asked(&self) -> bool {
        let state = self.state();
        let pongs = state.pongs.values().filter(|pong| !pong.sender.is_closed()).map(|pong| pong.written);
        let calls = state.calls.values().map(|entry| entry.is_question && entry.written);
        let mut open = pongs.chain(calls).peekable();
        open.peek().is_some() && open.all(|asked| asked)
    }

    /// These frames were written.
    fn note_written(&self, mut frames: &[u8]) {
        let mut state = self.state();
        while let Ok(Decoded::Frame(Frame { head, payload }, length)) = wire::decode(frames, self.0.nonce, 0) {
            match (head.kind, payload.first_chunk::<8>()) {
                (Kind::Request, _) => {
                    state.calls.get_mut(&head.call).into_iter().for_each(|entry| entry.written = true);
                }
                (Kind::Ping, Some(token)) => {
                    let pong = state.pongs.get_mut(&u64::from_le_bytes(*token));
                    pong.into_iter().for_each(|pong| pong.written = true);
                }
                _ => {}
            }
            frames = &frames[length..];
        }
    }

    /// From now on, the other side's end is to be heard.
    pub(super) fn await_end(&self) {
        self.state().ending = true;
    }

    /// Waits for the end of the conversation.
    pub(super) async fn over(&self) -> Lost {
        let mut lost = self.0.lost.subscribe();
        match lost.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or(Lost::Ended),
            Err(_) => Lost::Ended,
        }
    }

    /// Ends the conversation; the first reason counts.
    pub(super) fn lose(&self, why: Lost) {
        self.0.lost.send_if_modified(|lost| lost.is_none().then(|| *lost = Some(why)).is_some());
        let (calls, pongs) = {
            let mut state = self.state();
            state.over = true;
            (std::mem::take(&mut state.calls), std::mem::take(&mut state.pongs))
        };
        drop(pongs);
        for entry in calls.into_values() {
            entry.credit.iter().for_each(|credit| credit.close());
        }
    }

    fn over_error(&self) -> Lost {
        self.lost().unwrap_or(Lost::Ended)
    }

    /// A call of this side, with a number of its own.
    pub(super) fn begin(&self) -> Result<(Inbox, Outbox), Lost> {
        let number = {
            let mut state = self.state();
            loop {
                state.last = state.last.wrapping_add(1);
                let number = state.last;
                if number != 0 && !state.calls.contains_key(&number) {
                    break number;
                }
            }
        };
        self.enter(number, true).ok_or_else(|| self.over_error())
    }

    /// The other side's call of this number; `None` when it exists already, or there are too many.
    pub(super) fn accept(&self, number: u32) -> Option<(Inbox, Outbox)> {
        self.enter(number, false)
    }

    /// Ends a call of the other side that was not accepted. One that exists already is left to whoever answers it.
    pub(super) fn refuse<T: Serialize>(&self, number: u32, message: &T) {
        if !self.state().calls.contains_key(&number) {
            self.send_some_time(Head { kind: Kind::Done, channel: 0, call: number }, json(message));
        }
    }

    fn enter(&self, call: u32, ours: bool) -> Option<(Inbox, Outbox)> {
        let (sender, items) = mpsc::unbounded_channel();
        let room = Arc::new(Room::default());
        let credit = [(); CHANNELS].map(|()| Arc::new(Semaphore::new(WINDOW)));
        let (room_here, credit_here) = (Arc::clone(&room), credit.clone());
        let entry = Entry { items: sender, room: room_here, credit: credit_here, is_question: false, written: false };
        {
            let mut state = self.state();
            if state.over || state.calls.len() >= MAX_CALLS || state.calls.contains_key(&call) {
                return None;
            }
            state.calls.insert(call, entry);
        }
        let inbox = Inbox { link: self.clone(), call, items, room, owed: [0; CHANNELS], cancels: ours };
        Some((inbox, Outbox { link: self.clone(), call, credit }))
    }

    async fn control(&self, head: Head, payload: &[u8]) -> Result<(), Lost> {
        let frame = wire::frame(head, payload, self.0.nonce);
        self.0.control.send(frame).await.map_err(|_| self.over_error())
    }

    /// As [`Link::control`] without waiting; `false` when there is no room for it now.
    fn try_control(&self, head: Head, payload: &[u8]) -> bool {
        self.0.control.try_send(wire::frame(head, payload, self.0.nonce)).is_ok()
    }

    /// Tells the other side something about a call, from where nothing can be waited for.
    pub(super) fn tell(&self, call: u32, tell: Tell) {
        self.send_some_time(Head { kind: Kind::Tell, channel: 0, call }, json(&tell));
    }

    fn send_some_time(&self, head: Head, payload: Vec<u8>) {
        if self.lost().is_none() && !self.try_control(head, &payload) {
            let link = self.clone();
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { link.control(head, &payload).await });
            }
        }
    }

    /// Says that this side goes.
    pub(super) fn bye(&self) {
        self.try_control(Head { kind: Kind::Bye, channel: 0, call: 0 }, &[]);
    }

    /// Sends a ping; the other side's wall clock in nanoseconds comes back.
    pub(super) async fn ping(&self, token: u64) -> Result<oneshot::Receiver<i64>, Lost> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.state();
            // Those that nobody waits for any more: the other side may never answer.
            state.pongs.retain(|_, pong| !pong.sender.is_closed());
            state.pongs.insert(token, Pong { sender, written: false });
        }
        self.control(Head { kind: Kind::Ping, channel: 0, call: 0 }, &token.to_le_bytes()).await?;
        Ok(receiver)
    }

    /// Handles a frame. Never waits.
    fn dispatch(&self, frame: Frame<'_>, offset: u64) -> Result<Asked, WireError> {
        let Frame { head: Head { kind, channel, call }, payload } = frame;
        let fault = |what| WireError { offset, what };
        let bad = |text: &str| fault(WireFault::Payload { kind, text: text.to_owned() });
        match kind {
            Kind::Request => return Ok(Asked::Request(call, payload.to_vec())),
            Kind::Bye => return Ok(Asked::Bye),
            Kind::Ping => {
                let token = payload.first_chunk::<8>().ok_or_else(|| bad("shorter than 8 bytes"))?;
                let pong = [*token, crate::host::clock::now_ns().to_le_bytes()].concat();
                // Without room for it, other frames are going out, which say as well that this side is there.
                self.try_control(Head { kind: Kind::Pong, channel: 0, call: 0 }, &pong);
            }
            Kind::Pong => {
                let (token, rest) = payload.split_first_chunk::<8>().ok_or_else(|| bad("shorter than 16 bytes"))?;
                let clock = rest.first_chunk::<8>().ok_or_else(|| bad("shorter than 16 bytes"))?;
                let waiting = self.state().pongs.remove(&u64::from_le_bytes(*token));
                if let Some(waiting) = waiting {
                    let _ = waiting.sender.send(i64::from_le_bytes(*clock));
                }
            }
            Kind::Credit => {
                let bytes = payload.first_chunk::<4>().ok_or_else(|| bad("shorter than 4 bytes"))?;
                let more = u32::from_le_bytes(*bytes) as usize;
                let state = self.state();
                let Some(entry) = state.calls.get(&call) else { return Ok(Asked::Nothing) };
                let credit = entry.credit.get(usize::from(channel)).ok_or_else(|| bad("no such channel"))?;
                if credit.available_permits().saturating_add(more) > WINDOW {
                    return Err(bad("more than was sent"));
                }
                credit.add_permits(more);
            }
            Kind::Cancel => {
                let entry = self.state().calls.remove(&call);
                entry.iter().flat_map(|entry| &entry.credit).for_each(|credit| credit.close());
            }
            Kind::Data => self.hand(call, Item::Data(channel, payload.to_vec()), payload.len(), offset)?,
            Kind::End => self.hand(call, Item::End(channel, payload.to_vec()), payload.len(), offset)?,
            Kind::Reply | Kind::Tell => self.hand(call, Item::News(payload.to_vec()), payload.len(), offset)?,
            Kind::Done => self.hand(call, Item::Done(payload.to_vec()), payload.len(), offset)?,
        }
        Ok(Asked::Nothing)
    }

    /// What arrives for a call that has ended meanwhile is thrown away.
    fn hand(&self, call: u32, item: Item, length: usize, offset: u64) -> Result<(), WireError> {
        let state = self.state();
        let Some(entry) = state.calls.get(&call) else { return Ok(()) };
        let (waiting, most) = match item {
            Item::Data(..) => (&entry.room.data, CHANNELS * WINDOW),
            _ => (&entry.room.control, MAX_CONTROL),
        };
        let channel_known =
            !matches!(item, Item::Data(channel, _) | Item::End(channel, _) if usize::from(channel) >= CHANNELS);
        let cost = length + COST;
        if !channel_known || waiting.fetch_add(cost, Ordering::Relaxed) + cost > most {
            return Err(WireError { offset, what: WireFault::Overrun { call } });
        }
        // A receiver that is just going away does not want it.
        let _ = entry.items.send(item);
        Ok(())
    }
}

/// What arrives for one call. Dropping it ends the call; one of this side is then cancelled at the other.
#[derive(Debug)]
pub(super) struct Inbox {
    link: Link,
    call: u32,
    items: mpsc::UnboundedReceiver<Item>,
    room: Arc<Room>,
    owed: [usize; CHANNELS],
    cancels: bool,
}

impl Inbox {
    /// The next item; `None` when the conversation is over or the call cancelled. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Option<Item> {
        for channel in 0..CHANNELS {
            if self.owed[channel] >= WINDOW / 4 {
                let (head, payload) = self.grant(channel);
                self.link.control(head, &payload).await.ok()?;
                self.owed[channel] = 0;
            }
        }
        let item = self.items.recv().await?;
        self.taken(&item);
        Some(item)
    }

    /// As [`Inbox::next`], on a thread that may block.
    pub(super) fn blocking_next(&mut self, runtime: &tokio::runtime::Handle) -> Option<Item> {
        runtime.block_on(self.next())
    }

    /// Number of the call.
    pub(super) fn call(&self) -> u32 {
        self.call
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    fn grant(&self, channel: usize) -> (Head, [u8; 4]) {
        let owed = u32::try_from(self.owed[channel]).expect("never more than the window");
        let channel = u8::try_from(channel).expect("two channels");
        (Head { kind: Kind::Credit, channel, call: self.call }, owed.to_le_bytes())
    }

    fn taken(&mut self, item: &Item) {
        match item {
            Item::Data(channel, bytes) => {
                let cost = bytes.len() + COST;
                self.room.data.fetch_sub(cost, Ordering::Relaxed);
                self.owed[usize::from(*channel)] += cost;
            }
            Item::News(bytes) | Item::End(_, bytes) | Item::Done(bytes) => {
                self.room.control.fetch_sub(bytes.len() + COST, Ordering::Relaxed);
                self.cancels &= !matches!(item, Item::Done(_));
            }
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let entry = self.link.state().calls.remove(&self.call);
        if let Some(entry) = entry {
            entry.credit.iter().for_each(|credit| credit.close());
            if self.cancels {
                self.link.send_some_time(Head { kind: Kind::Cancel, channel: 0, call: self.call }, Vec::new());
            }
        }
    }
}

/// Where a call sends to.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    link: Link,
    call: u32,
    credit: [Arc<Semaphore>; CHANNELS],
}

impl Outbox {
    /// Sends a control frame.
    pub(super) async fn send<T: Serialize>(&self, kind: Kind, message: &T) -> Result<(), Lost> {
        self.link.control(Head { kind, channel: 0, call: self.call }, &json(message)).await
    }

    /// Sends a chunk of at most [`CHUNK`] bytes once the receiver has room for it. Fails when the call has ended.
    pub(super) async fn data(&self, channel: u8, chunk: Chunk) -> Result<(), Lost> {
        let cost = u32::try_from(chunk.len() + COST).expect("a chunk is small");
        let credit = &self.credit[usize::from(channel)];
        credit.acquire_many(cost).await.map_err(|_| self.link.over_error())?.forget();
        let frame = chunk.frame(Head { kind: Kind::Data, channel, call: self.call }, self.link.0.nonce);
        self.link.0.bulk.send(frame).await.map_err(|_| self.link.over_error())
    }

    /// Says that a channel has ended. It goes the way of the data, so that it cannot overtake them.
    pub(super) async fn end(&self, channel: u8, payload: &[u8]) -> Result<(), Lost> {
        let frame = wire::frame(Head { kind: Kind::End, channel, call: self.call }, payload, self.link.0.nonce);
        self.link.0.bulk.send(frame).await.map_err(|_| self.link.over_error())
    }

    /// Sends the end of the call behind its data.
    pub(super) async fn done<T: Serialize>(&self, message: &T) -> Result<(), Lost> {
        let frame =
            wire::frame(Head { kind: Kind::Done, channel: 0, call: self.call }, &json(message), self.link.0.nonce);
        self.link.0.bulk.send(frame).await.map_err(|_| self.link.over_error())
    }
}

/// Room for a piece of bulk data, with space for its header in front so that nothing is copied.
#[derive(Debug)]
pub(super) struct Chunk(Vec<u8>);

impl Chunk {
    /// Empty room for [`CHUNK`] bytes.
    pub(super) fn room() -> Self {
        Self(vec![0; HEADER + CHUNK])
    }

    /// A copy of at most [`CHUNK`] bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        debug_assert!(bytes.len() <= CHUNK, "chunks are cut before");
        let mut room = Vec::with_capacity(HEADER + bytes.len());
        room.extend([0; HEADER]);
        room.extend(bytes);
        Self(room)
    }

    /// The content.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0[HEADER..]
    }

    /// Where to put the content.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0[HEADER..]
    }

    /// Cuts it to so many bytes.
    pub(super) fn truncate(&mut self, length: usize) {
        self.0.truncate(HEADER + length);
    }

    fn len(&self) -> usize {
        self.0.len() - HEADER
    }

    fn frame(mut self, head: Head, nonce: u64) -> Vec<u8> {
        let header = wire::header(head, self.len(), nonce);
        self.0[..HEADER].copy_from_slice(&header);
        self.0
    }
}

/// Writes what is queued until the conversation is over: small frames first.
pub(super) async fn write<W: AsyncWrite + Unpin>(link: Link, mut queues: Queues, mut output: W, first: Vec<u8>) {
    let flushed = async {
        let why = link.over().await;
        tokio::time::sleep(FLUSH).await;
        why
    };
    tokio::pin!(flushed);
    let mut batch = first;
    let mut is_control = false;
    loop {
        let written = async {
            output.write_all(&batch).await?;
            output.flush().await
        };
        tokio::select! {
            written = written => if let Err(error) = written {
                link.lose(Lost::Io { what: "write", text: error.to_string() });
                break;
            },
            _ = &mut flushed => break,
        }
        if is_control {
            link.note_written(&batch);
        }
        batch.clear();
        tokio::select! {
            biased;
            Some(frame) = queues.control.recv() => {
                (batch, is_control) = (frame, true);
                while batch.len() < CHUNK && let Ok(frame) = queues.control.try_recv() {
                    batch.extend(frame);
                }
            }
            _ = link.over() => break,
            Some(frame) = queues.bulk.recv() => (batch, is_control) = (frame, false),
        }
    }
    let _ = output.shutdown().await;
}

/// Reads frames, handing them to their calls, until the conversation is over; `request` gets what the other side asks for.
pub(super) async fn read<R: AsyncRead + Unpin>(
    link: &Link,
    input: &mut Input<R>,
    silence: Duration,
    mut request: impl FnMut(u32, Vec<u8>),
) -> Lost {
    input.offset = 0;
    loop {
        if let Some(lost) = link.lost() {
            return lost;
        }
        let need = match wire::decode(input.bytes(), link.0.nonce, input.offset) {
            Err(error) => return error.into(),
            Ok(Decoded::Skip(length)) => {
                input.consume(length);
                continue;
            }
            Ok(Decoded::Frame(frame, length)) => {
                match link.dispatch(frame, input.offset) {
                    Err(error) => return error.into(),
                    Ok(Asked::Nothing) => {}
                    Ok(Asked::Request(call, payload)) => request(call, payload),
                    Ok(Asked::Bye) => {
                        input.consume(length);
                        return Lost::Closed;
                    }
                }
                input.consume(length);
                continue;
            }
            Ok(Decoded::Need(need)) => need,
        };
        tokio::select! {
            read = tokio::time::timeout(silence, input.fill(need)) => match read {
                Err(_) => return Lost::Silent(silence),
                Ok(Ok(0)) => return Lost::Closed,
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Lost::Io { what: "read", text: error.to_string() },
            },
            lost = link.over() => return lost,
        }
    }
}

/// Bytes that were read and not used yet.
#[derive(Debug)]
pub(super) struct Input<R> {
    read: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    offset: u64,
}

impl<R: AsyncRead + Unpin> Input<R> {
    pub(super) fn new(read: R) -> Self {
        Self { read, buffer: vec![0; 256 << 10], start: 0, end: 0, offset: 0 }
    }

    /// Goes on with another reader of the same channel: what the old one had read is not lost.
    pub(super) fn resume(self, read: R) -> Self {
        Self { read, ..self }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(super) fn consume(&mut self, length: usize) {
        self.start += length;
        self.offset += length as u64;
    }

    /// Reads once, making room for `need` bytes; 0 is the end. May be dropped and called again.
    pub(super) async fn fill(&mut self, need: usize) -> io::Result<usize> {
        debug_assert!(need <= HEADER + MAX_PAYLOAD, "nothing is longer than a frame");
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.buffer.len() - self.start < need || self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let length = self.buffer.len().max(need);
            self.buffer.resize(length, 0);
        }
        let count = self.read.read(&mut self.buffer[self.end..]).await?;
        self.end += count;
        Ok(count)
    }
}

/// JSON of a message; ours can all be expressed.
pub(super) fn json<T: Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages have text keys and no failing serializers")
}

/// A number that no other conversation is likely to have.
pub(crate) fn fresh_number() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // Its keys are random in every process and different each time.
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_i64(crate::host::clock::now_ns());
    hasher.write_u32(std::process::id());
    hasher.finish() | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A letter that says that its writer waits would keep the node from hearing what is still to be said.
    #[tokio::test]
    async fn whoever_has_something_to_say_is_not_one_that_waits_for_an_answer() {
        let (link, queues) = Link::new(7);
        let (output, mut wire) = tokio::io::duplex(1 << 16);
        let (first, outbox) = link.begin().unwrap();
        let asking = link.ask(first.call());
        outbox.send(Kind::Request, &"a question").await.unwrap();
        assert!(link.is_awaited() && !link.is_asked(), "nothing is written yet");
        tokio::spawn(write(link.clone(), queues, output, Vec::new()));
        until_asked(&link).await;
        assert!(wire.read(&mut [0; 256]).await.unwrap() > HEADER, "what asks was written before");
        let (second, outbox) = link.begin().unwrap();
        outbox.send(Kind::Request, &"a long call").await.unwrap();
        wire.read_exact(&mut [0; HEADER]).await.unwrap();
        assert!(!link.is_asked(), "there may be something to say in the other call");
        drop(second);
        until_asked(&link).await;
        let pong = link.ping(5).await.unwrap();
        wire.read_exact(&mut [0; HEADER]).await.unwrap();
        until_asked(&link).await;
        drop(asking);
        assert!(!link.is_asked(), "the first has its answer and goes on");
        drop(first);
        assert!(link.is_asked(), "the ping has none");
        drop(pong);
        assert!(!link.is_asked());
    }

    async fn until_asked(link: &Link) {
        let asked = async {
            while !link.is_asked() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), asked).await.expect("somebody waits");
    }
}
