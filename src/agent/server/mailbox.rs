//! The node's side of a mailbox: letters as files, for nodes that are reached by sending files and starting programs alone.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::Mode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::Instant;

use super::super::mailbox::{self, LARGEST, Letter, OVERHEAD};
use super::super::mux::Input;
use super::{Options, session};

/// How long nobody may ring; the host rings at least as often as it pings.
const DESERTED: Duration = Duration::from_secs(120);
/// Between two looks whether the mailbox is still there.
const LOOK: Duration = Duration::from_secs(1);
/// How long a turn waits for something to say: as long as nothing has been said, but not for ever, since the host cannot say
/// anything meanwhile.
const WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));
const USUAL: Duration = Duration::from_secs(1);
/// What is said within this time of the word before goes along,
const GATHER: Duration = Duration::from_millis(10);
/// and within this time of the first one: a program that goes on talking is no reason for the host to wait.
const GATHER_ALL: Duration = Duration::from_millis(100);
/// How long the last letter may wait to be fetched.
const FAREWELL: Duration = Duration::from_secs(10);
/// Between two pieces of news of a capture: each would be a letter of its own.
const NEWS: Duration = Duration::from_secs(20);
/// What may wait in either direction; more than one letter has.
const PIPE: usize = 2 * LARGEST;

/// Where a mailbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// Directory of its own, where letters from the node are put.
    pub directory: PathBuf,
    /// Directory in which letters to the node arrive.
    pub incoming: PathBuf,
    /// Which conversation it is.
    pub conversation: u64,
}

/// Serves one conversation.
///
/// # Errors
/// When no host was heard, and when the mailbox failed, so that whatever has started the agent can tell the host.
pub(super) async fn serve(mailbox: &Mailbox, options: &Options) -> io::Result<()> {
    make_bell(&mailbox.directory, 1)?;
    let (to_agent, input) = tokio::io::duplex(PIPE);
    let (output, from_agent) = tokio::io::duplex(PIPE);
    let turns = tokio::spawn(Turns::new(mailbox.clone(), to_agent, from_agent).run());
    let mut input = Input::new(input);
    let options = Options { news: NEWS, ..options.clone() };
    let ended = session::converse(&mut input, output, &options, None).await.map(drop);
    drop(input);
    // What was said last is still to be fetched.
    if let Ok(turns) = tokio::time::timeout(FAREWELL, turns).await {
        turns??;
    }
    ended
}

/// The pump.
struct Turns {
    mailbox: Mailbox,
    /// `None` when the host has said its last word.
    to_agent: Option<DuplexStream>,
    from_agent: DuplexStream,
    heard: u64,
    said: u64,
    /// When anything was said last, by either side.
    last: Instant,
    /// Does the host wait for an answer?
    asked: bool,
}

impl Turns {
    fn new(mailbox: Mailbox, to_agent: DuplexStream, from_agent: DuplexStream) -> Self {
        Self { mailbox, to_agent: Some(to_agent), from_agent, heard: 0, said: 0, last: Instant::now(), asked: false }
    }

    /// Turn after turn. Ends with the conversation, and with the host's silence.
    async fn run(mut self) -> io::Result<()> {
        for turn in 1.. {
            let bell = self.mailbox.directory.join(mailbox::bell(turn));
            let Some(mut ringing) = self.await_reader(bell).await? else { return Ok(()) };
            let over = match self.exchange(turn).await {
                Ok(over) => over,
                Err(error) => {
                    // The host learns it before the bell falls silent.
                    let text = format!("{}by itself: {error}\n", mailbox::ENDED);
                    self.write(turn, text.as_bytes())?;
                    return Err(error);
                }
            };
            if over || self.to_agent.is_none() {
                return ring(&mut ringing, self.mailbox.conversation, turn);
            }
            make_bell(&self.mailbox.directory, turn + 1)?;
            self.forget(turn)?;
            ring(&mut ringing, self.mailbox.conversation, turn)?;
        }
        Ok(())
    }

    /// Waits until somebody reads at the bell; `None` when nobody comes any more, or the mailbox was taken away.
    async fn await_reader(&self, bell: PathBuf) -> io::Result<Option<File>> {
        let begun = Instant::now();
        // Opening blocks until then.
        let mut opened = tokio::task::spawn_blocking(move || File::options().write(true).open(bell));
        loop {
            match tokio::time::timeout(LOOK, &mut opened).await {
                Ok(opened) => return opened?.map(Some),
                Err(_) if begun.elapsed() >= DESERTED || !self.mailbox.directory.exists() => return Ok(None),
                Err(_) => {}
            }
        }
    }

    /// Takes the host's letter and writes the other one. Was it the last?
    async fn exchange(&mut self, turn: u64) -> io::Result<bool> {
        self.listen(turn).await?;
        self.answer(turn).await
    }

    /// Takes the turn's letter, if there is one.
    async fn listen(&mut self, turn: u64) -> io::Result<()> {
        let path = self.mailbox.incoming.join(mailbox::to_node(self.mailbox.conversation, turn));
        let Some(file) = read(&path)? else {
            self.asked = false;
            return Ok(());
        };
        let letter = Letter::decode(&file, self.mailbox.conversation, turn).map_err(io::Error::other)?;
        if letter.offset != self.heard {
            let text = format!("a letter begins at byte {}, and byte {} was due", letter.offset, self.heard);
            return Err(io::Error::other(text));
        }
        fs::remove_file(&path)?;
        self.heard += letter.bytes.len() as u64;
        if !letter.bytes.is_empty() {
            self.last = Instant::now();
        }
        self.asked = letter.asked;
        // An agent that has ended takes nothing, which its last letter will say.
        if let Some(to_agent) = &mut self.to_agent {
            let _ = to_agent.write_all(&letter.bytes).await;
        }
        if letter.over {
            // It ends at once then, instead of after a silence.
            self.to_agent = None;
        }
        Ok(())
    }

    /// Waits a while for something to say and writes it down. Was it the last?
    async fn answer(&mut self, turn: u64) -> io::Result<bool> {
        // Whoever waits for an answer has nothing else to say.
        let wait = if self.asked { WAIT.1 } else { patience(self.last.elapsed()) };
        let mut bytes = Vec::new();
        let mut over = false;
        let (mut limit, mut deadline) = (wait, None);
        while bytes.len() < LARGEST && !over && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let room = LARGEST - bytes.len();
            let mut piece = (&mut self.from_agent).take(room as u64);
            match tokio::time::timeout(limit, piece.read_buf(&mut bytes)).await {
                Ok(read) => over = read? == 0,
                Err(_) => break,
            }
            limit = GATHER;
            deadline.get_or_insert_with(|| Instant::now() + GATHER_ALL);
        }
        let letter = Letter { turn, offset: self.said, taken: self.heard, over, asked: false, bytes };
        if !letter.bytes.is_empty() {
            self.said += letter.bytes.len() as u64;
            self.last = Instant::now();
        }
        self.write(turn, &letter.encode(self.mailbox.conversation))?;
        Ok(over)
    }

    /// The file is there whole or not at all.
    fn write(&self, turn: u64, content: &[u8]) -> io::Result<()> {
        let path = self.mailbox.directory.join(mailbox::from_node(turn));
        let new = path.with_extension("new");
        fs::write(&new, content)?;
        fs::rename(new, path)
    }

    /// Removes what an earlier turn has left: the host has it, or would not have come again.
    fn forget(&self, turn: u64) -> io::Result<()> {
        fs::remove_file(self.mailbox.directory.join(mailbox::bell(turn)))?;
        match turn {
            1 => match fs::remove_file(self.mailbox.directory.join(mailbox::PACKED)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            },
            _ => fs::remove_file(self.mailbox.directory.join(mailbox::from_node(turn - 1))),
        }
    }
}

/// How long a turn waits after this time without a word: as long, but more than [`USUAL`] only for the quarter of it, since what the
/// host wants to end goes on meanwhile.
fn patience(quiet: Duration) -> Duration {
    quiet.min(USUAL.max(quiet / 4)).clamp(WAIT.0, WAIT.1)
}

/// Whoever waits for it may have had enough.
fn ring(bell: &mut File, conversation: u64, turn: u64) -> io::Result<()> {
    match bell.write_all(mailbox::ring(conversation, turn).as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn make_bell(directory: &Path, turn: u64) -> io::Result<()> {
    let bell = directory.join(mailbox::bell(turn));
    nix::unistd::mkfifo(&bell, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("{}: {error}", bell.display())))
}

/// A whole regular file; `None` when there is none.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    file.take((LARGEST + OVERHEAD + 1) as u64).read_to_end(&mut content)?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_wait_longer_when_less_is_said_and_never_for_long() {
        for (quiet_ms, wait_ms) in [(0, 250), (600, 600), (3_000, 1_000), (8_000, 2_000), (3_600_000, 3_000)] {
            let wait = patience(Duration::from_millis(quiet_ms));
            assert_eq!(wait, Duration::from_millis(wait_ms), "after {quiet_ms} ms");
        }
    }
}
