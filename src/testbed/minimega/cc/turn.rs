//! One turn of a mailbox: a letter to a node, and the one it gives for it.
//!
//! A command's output waits for miniccc's heartbeat of 5 s, but a file that is asked for comes at once. So a node's letter is
//! such a file; the command before it waits until the letter is written.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::super::error::{MinimegaError, PhaseFailure};
use super::{Channel, Member, Order, Written, content, length};
use crate::agent::mailbox::{self, ENDED, LARGEST, Letter, OVERHEAD};
use crate::text::printable_bytes;

/// After that, the command that waits for a node's letter is ended, so that a node whose agent is gone can be given others;
/// [`WAIT_FOR`] names it.
const WAIT: Duration = Duration::from_secs(15);
/// How long a letter may take beside that.
const POST: Duration = Duration::from_secs(10);
/// Between two looks for a letter, at first and at last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// Every so many looks also those directories are looked at that were there before.
const THOROUGH: u32 = 64;

/// Where the mailbox of a conversation is.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) member: Member,
    /// Directory of letters from the node, there.
    pub(super) directory: String,
    pub(super) conversation: u64,
}

impl Channel {
    /// Sends a letter, unless it says nothing at all, and brings the node's.
    pub(super) async fn turn(&self, at: &Address, letter: &Letter, newest: &mut u64) -> Result<Letter, MinimegaError> {
        let _under_way = self.quiet.read().await;
        let (outgoing, _) = self.head.outgoing();
        let name = mailbox::to_node(at.conversation, letter.turn);
        let path = outgoing.join(&name);
        let mut orders = Vec::new();
        // It goes when the turn does, however: it has been fetched, or not, and then nobody wants it any more.
        let mut written = Written::default();
        if letter.over || letter.asked || !letter.bytes.is_empty() {
            let content = letter.encode(at.conversation);
            match self.head.written_there(&at.member, &name, &content) {
                Some(order) => orders.push(order),
                None => {
                    written.write(path, &content)?;
                    orders.push(Order::Send(name));
                }
            }
        }
        orders.push(Order::Run(wait_for(at, letter.turn)));
        let theirs = format!("{}/{}", at.directory, mailbox::from_node(letter.turn));
        orders.push(Order::Receive(theirs.clone()));
        let posted = self.head.hand_over(&at.member.uuid, &orders).await;
        let known = posted?.and_then(|numbers| numbers.last().copied());
        self.letter(at, (letter.turn, orders.len() as u64), &theirs, known, newest).await
    }

    /// Waits for the file and reads it.
    async fn letter(
        &self,
        at: &Address,
        (turn, posted): (u64, u64),
        theirs: &str,
        known: Option<u64>,
        newest: &mut u64,
    ) -> Result<Letter, MinimegaError> {
        let failed = |failure| MinimegaError::phase(&at.member.node, failure);
        let (begun, mut looked, mut pause, mut looks) = (Instant::now(), Instant::now(), PAUSES.0, 0_u32);
        let (number, path) = loop {
            if let Some(number) = known {
                self.head.bring(&self.place(&at.member, theirs, number)).await?;
            }
            let oldest = if looks.is_multiple_of(THOROUGH) && looks > 0 { 0 } else { *newest };
            if let Some(found) = self.find(&at.member, theirs, known, oldest) {
                break found;
            }
            if begun.elapsed() >= WAIT + POST {
                return Err(failed(PhaseFailure::Silent { waited: WAIT + POST }));
            }
            if looked.elapsed() >= self.timing.look {
                self.check_client(&at.member).await?;
                looked = Instant::now();
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 5 / 4).min(PAUSES.1.max(self.head.pause()));
            looks += 1;
        };
        *newest = number;
        let file = content(&path, (LARGEST + OVERHEAD) as u64);
        let _ = std::fs::remove_file(&path);
        let sent = self.head.outgoing().0.join(mailbox::to_node(at.conversation, turn));
        // Those of this letter: numbers follow each other.
        let answered = (0..posted).filter_map(|back| number.checked_sub(back));
        let answered = answered.map(|number| self.head.responses().join(number.to_string()));
        self.head.forget(&answered.chain([sent]).collect::<Vec<_>>()).await;
        path.parent().inspect(|parent| super::remove_empty(parent, &self.head.responses()));
        if let Ok(text) = &file
            && let Some(why) = text.strip_prefix(ENDED.as_bytes())
        {
            return Err(failed(PhaseFailure::AgentEnded(printable_bytes(why.trim_ascii(), 400))));
        }
        let letter = file.map_err(|error: io::Error| error.to_string());
        letter
            .and_then(|file| Letter::decode(&file, at.conversation, turn))
            .map_err(|why| failed(PhaseFailure::Letter(why)))
    }

    /// The file of this name that a client has given, by the number of its command where that is known, and otherwise below
    /// any number from `oldest` on.
    fn find(&self, member: &Member, name: &str, known: Option<u64>, oldest: u64) -> Option<(u64, PathBuf)> {
        let responses = self.head.responses();
        let place = |number| self.place(member, name, number);
        let there = |number: u64| Some((number, place(number))).filter(|(_, path)| length(path).is_some());
        if let Some(number) = known {
            return there(number);
        }
        let entries = std::fs::read_dir(&responses).ok()?.flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
        numbers.filter(|number| *number >= oldest).find_map(there)
    }

    /// Where a file of this name is put that a client has given for a command of this number.
    fn place(&self, member: &Member, name: &str, number: u64) -> PathBuf {
        self.response(number, member).join(Path::new(name.trim_start_matches('/')))
    }
}

/// What waits until the letter is there: `cat` at a pipe, which ends when the agent closes it. That of an agent that was
/// killed is closed before the letter about that is written, so it is waited for as well, some 2 s at most. A file in the
/// mailbox's directory: its words would not get through a minimega that replaces variables.
pub(super) const WAIT_FOR: &str = r#"timeout -k 5 15 cat "$1/bell.$2" || exit
n=0
until [ -e "$1/out.$2" ] || [ $n -ge 40 ]; do
  if sleep 0.05 2>/dev/null; then n=$((n+1)); else sleep 1; n=$((n+20)); fi
done"#;
/// Its name.
pub(super) const WAITER: &str = "wait";

fn wait_for(at: &Address, turn: u64) -> Vec<String> {
    debug_assert!(WAIT_FOR.contains(&format!(" {} cat", WAIT.as_secs())), "the script names it");
    vec!["sh".to_owned(), format!("{}/{WAITER}", at.directory), at.directory.clone(), turn.to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pipe ends before the letter is there, as it does when the agent is killed.
    #[test]
    fn a_letter_that_comes_after_the_end_of_the_pipe_is_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().to_string_lossy().into_owned();
        let (bell, letter) = (place.path().join("bell.7"), place.path().join("out.7"));
        nix::unistd::mkfifo(&bell, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut command = std::process::Command::new("sh");
        let mut child = command.args(["-c", WAIT_FOR, "wait", &directory, "7"]).spawn().unwrap();
        // Opening waits for the reader, and closing ends it.
        drop(std::fs::File::options().write(true).open(&bell).unwrap());
        let again = nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_NONBLOCK;
        // Nobody reads any more: `cat` has seen the end.
        while nix::fcntl::open(&bell, again, nix::sys::stat::Mode::empty()).is_ok() {
            std::thread::yield_now();
        }
        assert_eq!(child.try_wait().unwrap(), None, "it goes on");
        std::fs::write(&letter, "ended").unwrap();
        assert!(child.wait().unwrap().success());
    }
}
