//! What the two sides of a mailbox write to each other: files that carry the bytes of a conversation. Pure.
//!
//! A mailbox stands in for a channel where only files can be sent and programs started (minimega's `cc`, rond). Turns are
//! numbered from one. In each, the host may send a letter and gets exactly one. A letter says which bytes of its direction it
//! carries and how many of the other direction have arrived, so that nothing is lost, repeated or taken twice without notice.

use sha2::{Digest as _, Sha256};

/// Bytes of a conversation in one letter, at most.
pub const LARGEST: usize = 8 << 20;
/// Bytes of a letter beside those of the conversation.
pub const OVERHEAD: usize = 80;

const MAGIC: [u8; 8] = *b"vptmail1";
/// There is nothing more to come.
const OVER: u64 = 1;
/// An answer is due.
const ASKED: u64 = 2;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Letter {
    /// Which turn it belongs to.
    pub turn: u64,
    /// Bytes of this direction in the letters before.
    pub offset: u64,
    /// Bytes of the other direction that have arrived.
    pub taken: u64,
    /// Was this the last one?
    pub over: bool,
    /// Does whoever writes it wait for an answer, and for nothing else?
    pub asked: bool,
    /// What the conversation goes on with.
    pub bytes: Vec<u8>,
}

impl Letter {
    /// As a file of the conversation with this number.
    pub fn encode(&self, conversation: u64) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        let flags = if self.over { OVER } else { 0 } | if self.asked { ASKED } else { 0 };
        for number in [conversation, self.turn, self.offset, self.taken, flags] {
            file.extend(number.to_le_bytes());
        }
        let mut hash = Sha256::new_with_prefix(&file);
        hash.update(&self.bytes);
        file.extend(hash.finalize());
        file.extend(&self.bytes);
        file
    }

    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn decode(file: &[u8], conversation: u64, turn: u64) -> Result<Self, String> {
        let (Some(head), Some(hash), Some(bytes)) = (file.get(..48), file.get(48..OVERHEAD), file.get(OVERHEAD..))
        else {
            return Err(format!("a letter of {} bytes ({OVERHEAD} at least)", file.len()));
        };
        let number = |at: usize| {
            let (start, mut word) = (MAGIC.len() + 8 * at, [0; 8]);
            word.copy_from_slice(&head[start..start + 8]);
            u64::from_le_bytes(word)
        };
        let mut found = Sha256::new_with_prefix(head);
        found.update(bytes);
        if head[..MAGIC.len()] != MAGIC || found.finalize()[..] != *hash {
            return Err("a letter that is damaged".to_owned());
        }
        if (number(0), number(1)) != (conversation, turn) || bytes.len() > LARGEST {
            return Err(format!("a letter of turn {} of another conversation, or too long", number(1)));
        }
        let (over, asked) = (number(4) & OVER != 0, number(4) & ASKED != 0);
        Ok(Self { turn, offset: number(2), taken: number(3), over, asked, bytes: bytes.to_vec() })
    }
}

/// Name of a turn's letter to the node, among the files that are sent.
pub fn to_node(conversation: u64, turn: u64) -> String {
    format!("{conversation:016x}.t{turn}")
}

/// Name of a turn's letter from the node, in the mailbox's directory.
pub fn from_node(turn: u64) -> String {
    format!("out.{turn}")
}

/// Name of the pipe at which a turn is waited for, in the mailbox's directory. Whoever reads it to its end knows that the
/// letter is there.
pub fn bell(turn: u64) -> String {
    format!("bell.{turn}")
}

/// What is read from [`bell`], so that the output of the command that reads it shows whose it is.
pub fn ring(conversation: u64, turn: u64) -> String {
    format!("{RING}{conversation:016x} {turn}\n")
}

/// Begins what is found instead of a letter when the agent has not ended by itself; what has happened follows.
pub const ENDED: &str = "ended ";
/// What the agent was unpacked from, in the mailbox's directory. It goes with the first turn.
pub const PACKED: &str = "vptest.tar";
/// How [`ring`] begins.
pub const RING: &str = "vptest mailbox ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_read_as_it_was_written() {
        for bytes in [vec![], vec![7; 3], vec![0; 100_000]] {
            let (over, asked) = (bytes.is_empty(), bytes.len() == 3);
            let letter = Letter { turn: 3, offset: 1 << 40, taken: 9, over, asked, bytes };
            assert_eq!(Letter::decode(&letter.encode(5), 5, 3).unwrap(), letter);
        }
    }

    #[test]
    fn what_is_damaged_cut_or_of_another_turn_is_refused() {
        let file = Letter { turn: 3, bytes: b"abc".to_vec(), ..Letter::default() }.encode(5);
        for at in 0..file.len() {
            let mut bad = file.clone();
            bad[at] ^= 1;
            assert!(Letter::decode(&bad, 5, 3).is_err(), "byte {at}");
            assert!(Letter::decode(&file[..at], 5, 3).is_err(), "cut at {at}");
        }
        assert!(Letter::decode(&file, 5, 4).unwrap_err().contains("turn 3"));
        assert!(Letter::decode(&file, 6, 3).unwrap_err().contains("another conversation"));
        let long = Letter { turn: 1, bytes: vec![0; LARGEST + 1], ..Letter::default() };
        assert!(Letter::decode(&long.encode(1), 1, 1).is_err());
    }
}
