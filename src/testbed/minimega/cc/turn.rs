//! One turn of a mailbox: a letter to a node, and the one it gives for it.
//!
//! A command's output waits for miniccc's heartbeat of 5 s, but a file that is asked for comes at once. So a node's letter is
//! such a file; the command before it waits until the letter is written.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::super::error::{MinimegaError, PhaseFailure};
use super::{Channel, Member, Order, content, length, write};
use crate::agent::mailbox::{self, ENDED, LARGEST, Letter, OVERHEAD};
use crate::text::printable_bytes;

/// After that, the command that waits for a node's letter is ended, so that a node whose agent is gone can be given others.
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
    /// Sends a letter, unless it says nothing, and brings the node's.
    pub(super) async fn turn(&self, at: &Address, letter: &Letter, newest: &mut u64) -> Result<Letter, MinimegaError> {
        let _under_way = self.quiet.read().await;
        let (outgoing, _) = self.head.outgoing();
        let name = mailbox::to_node(at.conversation, letter.turn);
        let path = outgoing.join(&name);
        let mut orders = Vec::new();
        if !letter.bytes.is_empty() {
            write(&path, &letter.encode(at.conversation))
                .map_err(MinimegaError::file(format!("write {}", path.display())))?;
            orders.push(Order::Send(name));
        }
        orders.push(Order::Run(wait_for(at, letter.turn)));
        let theirs = format!("{}/{}", at.directory, mailbox::from_node(letter.turn));
        orders.push(Order::Receive(theirs.clone()));
        let posted = self.head.hand_over(&at.member.uuid, &orders).await;
        let brought = match posted {
            Ok(numbers) => {
                let known = numbers.and_then(|numbers| numbers.last().copied());
                self.letter(at, letter.turn, &theirs, known, newest).await
            }
            Err(error) => Err(error),
        };
        if !letter.bytes.is_empty() {
            // It may have been fetched, or not; nobody wants it any more.
            let _ = std::fs::remove_file(path);
        }
        brought
    }

    /// Waits for the file and reads it.
    async fn letter(
        &self,
        at: &Address,
        turn: u64,
        theirs: &str,
        known: Option<u64>,
        newest: &mut u64,
    ) -> Result<Letter, MinimegaError> {
        let failed = |failure| MinimegaError::phase(&at.member.node, failure);
        let (begun, mut looked, mut pause, mut looks) = (Instant::now(), Instant::now(), PAUSES.0, 0_u32);
        let (number, path) = loop {
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
            pause = (pause * 5 / 4).min(PAUSES.1);
            looks += 1;
        };
        *newest = number;
        let file = content(&path, (LARGEST + OVERHEAD) as u64);
        let _ = std::fs::remove_file(&path);
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
        let below = |number: u64| {
            responses.join(number.to_string()).join(&member.uuid).join(Path::new(name.trim_start_matches('/')))
        };
        let there = |number: u64| Some((number, below(number))).filter(|(_, path)| length(path).is_some());
        if let Some(number) = known {
            return there(number);
        }
        let entries = std::fs::read_dir(&responses).ok()?.flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
        numbers.filter(|number| *number >= oldest).find_map(there)
    }
}

/// The command that waits until the letter is there: `cat` at a pipe, which ends when the agent closes it.
fn wait_for(at: &Address, turn: u64) -> Vec<String> {
    let bell = format!("{}/{}", at.directory, mailbox::bell(turn));
    ["timeout", "-k", "5", &WAIT.as_secs().to_string(), "cat", &bell].map(str::to_owned).to_vec()
}
