//! One connection to a command socket: a command, its whole answer, the next command.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::error::{MinimegaError, shown};
use super::line::Line;
use super::wire::{Answer, Dialect, Garbled, Message, Splitter, request};

/// Bounds of a conversation.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a connection may take.
    pub connect: Duration,
    /// How long the answer to a command may take whose limit is not said.
    pub answer: Duration,
    /// The same for one that other hosts of a mesh answer, after one that they have not answered in time: minimega lets all others wait
    /// for that one.
    pub hurry: Duration,
    /// Bytes of one answer, all messages together.
    pub bytes: usize,
    /// Commands after which a new connection is made: the daemon keeps a goroutine (4 kB) for each command until then.
    pub commands: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(60),
            hurry: Duration::from_secs(5),
            bytes: 64 << 20,
            commands: 1000,
        }
    }
}

/// How long a daemon that has closed a connection may take to be gone.
const END: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(10);

/// The process that made the socket, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// `None` where it is out of sight (another PID namespace).
    pub pid: Option<i32>,
    /// When it started, in clock ticks since boot.
    pub started: Option<u64>,
}

impl Peer {
    fn of(stream: &UnixStream) -> Self {
        let pid = stream.peer_cred().ok().and_then(|cred| cred.pid()).filter(|pid| *pid > 0);
        Self { pid, started: pid.and_then(running_since) }
    }

    /// Is the process known to have ended?
    pub fn is_gone(&self) -> bool {
        match (self.pid, self.started) {
            (Some(pid), Some(started)) => running_since(pid) != Some(started),
            _ => false,
        }
    }

    /// Waits a moment for its end.
    async fn goes(&self) -> bool {
        let deadline = Instant::now() + END;
        while !self.is_gone() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }
}

/// When a process started, in clock ticks since boot; `None` for one that has ended, zombies included.
pub(super) fn running_since(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; the last parenthesis ends it.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") { None } else { fields.nth(18)?.parse().ok() }
}

/// A connection. One whose [`Socket::ask`] failed or was given up must be thrown away.
#[derive(Debug)]
pub(super) struct Socket {
    stream: UnixStream,
    path: PathBuf,
    dialect: Dialect,
    limits: Limits,
    peer: Peer,
    splitter: Splitter,
    buffer: Vec<u8>,
    asked: u32,
}

impl Socket {
    /// # Errors
    /// [`MinimegaError::Connect`].
    pub(super) async fn connect(path: &Path, dialect: Dialect, limits: Limits) -> Result<Self, MinimegaError> {
        let failed = |source| MinimegaError::Connect { socket: path.to_owned(), source };
        let connected = tokio::time::timeout(limits.connect, UnixStream::connect(path)).await;
        let stream = connected.map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?.map_err(failed)?;
        Ok(Self {
            peer: Peer::of(&stream),
            stream,
            path: path.to_owned(),
            dialect,
            limits,
            splitter: Splitter::default(),
            buffer: Vec::new(),
            asked: 0,
        })
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    /// Has it served as many commands as it should?
    pub(super) fn is_worn(&self) -> bool {
        self.asked >= self.limits.commands
    }

    /// Sends a command and reads its whole answer.
    ///
    /// # Errors
    /// [`MinimegaError::Refused`] leaves the connection as good as before, all others do not.
    pub(super) async fn ask(&mut self, line: &Line, limit: Duration) -> Result<Answer, MinimegaError> {
        self.asked += 1;
        let command = line.as_str();
        let timed_out = |_| MinimegaError::TimedOut { command: shown(command), limit };
        let responses = match tokio::time::timeout(limit, self.exchange(command)).await.map_err(timed_out)? {
            Err(MinimegaError::Closed { .. }) => return Err(self.ended(command).await),
            other => other?,
        };
        let errors: Vec<&str> = responses.iter().map(|r| r.error.as_str()).filter(|text| !text.is_empty()).collect();
        if !errors.is_empty() {
            return Err(MinimegaError::refused(command, &errors.join("; ")));
        }
        Ok(Answer { responses })
    }

    async fn exchange(&mut self, command: &str) -> Result<Vec<super::wire::Response>, MinimegaError> {
        self.drop_news(command)?;
        let sent = self.stream.write_all(&request(self.dialect, command)).await;
        if let Err(source) = sent {
            // The other end of a broken pipe is gone.
            return Err(match source.kind() {
                std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset => closed(command),
                _ => MinimegaError::Io { what: "write to", source },
            });
        }
        let (mut responses, mut left) = (Vec::new(), self.limits.bytes);
        loop {
            let message = self.message(command, &mut left).await?;
            if message.status {
                continue;
            }
            responses.extend(message.resp);
            if !message.more {
                return Ok(responses);
            }
        }
    }

    /// News of transfers may have come since the last answer. An answer may not: it would be taken for that to the next
    /// command.
    fn drop_news(&mut self, command: &str) -> Result<(), MinimegaError> {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = self.stream.try_read(&mut piece) {
            self.buffer.extend_from_slice(&piece[..count]);
            if self.buffer.len() > self.limits.bytes {
                return Err(MinimegaError::TooLarge { command: shown(command), limit: self.limits.bytes });
            }
        }
        while let Some(message) = self.next_message(command)? {
            if !message.status {
                let garbled = Garbled("an answer came before anything was asked".to_owned());
                return Err(MinimegaError::answer(command, garbled));
            }
        }
        Ok(())
    }

    fn next_message(&mut self, command: &str) -> Result<Option<Message>, MinimegaError> {
        let garbled = |garbled| MinimegaError::answer(command, garbled);
        let Some(end) = self.splitter.next(&self.buffer).map_err(garbled)? else { return Ok(None) };
        let message = Message::parse(&self.buffer[..end]).map_err(garbled)?;
        self.buffer.drain(..end);
        Ok(Some(message))
    }

    /// `left` is what the rest of the answer may have.
    async fn message(&mut self, command: &str, left: &mut usize) -> Result<Message, MinimegaError> {
        loop {
            if let Some(message) = self.next_message(command)? {
                return Ok(message);
            }
            let before = self.buffer.len();
            self.buffer.reserve(1 << 16);
            let count = match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(closed(command)),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Err(closed(command)),
                Err(source) => return Err(MinimegaError::Io { what: "read from", source }),
                Ok(_) => self.buffer.len() - before,
            };
            *left = left
                .checked_sub(count)
                .ok_or_else(|| MinimegaError::TooLarge { command: shown(command), limit: self.limits.bytes })?;
        }
    }

    /// The daemon closed the connection: has it crashed?
    async fn ended(&self, command: &str) -> MinimegaError {
        match self.peer.pid {
            Some(pid) if self.peer.goes().await => {
                MinimegaError::Crashed { socket: self.path.clone(), command: shown(command), pid }
            }
            _ => closed(command),
        }
    }
}

fn closed(command: &str) -> MinimegaError {
    MinimegaError::Closed { command: shown(command) }
}
