//! What the two ends of a test send each other.

use serde::Serialize;
use serde::de::DeserializeOwned;

const MAGIC: [u8; 4] = *b"vLT1";
/// Magic, token, kind, run, sequence number.
pub(super) const HEADER: usize = 4 + 8 + 1 + 4 + 4;

/// What a datagram is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Client: answer this.
    Echo = 1,
    /// Server: the answer, with [`super::far::Seen`].
    Answer = 2,
    /// Either: part of a train.
    Train = 3,
    /// Client: send a train ([`super::train::Plan`]).
    Send = 4,
    /// Client: what came, what was sent?
    Ask = 5,
    /// Server: [`super::far::Account`].
    Account = 6,
}

/// The head of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Tells this test from everything else that may arrive.
    pub(super) token: u64,
    pub(super) kind: Kind,
    /// Which train or series of echoes.
    pub(super) run: u32,
    pub(super) sequence: u32,
}

impl Head {
    /// The datagram with this head, padded to `length` bytes.
    pub(super) fn padded(self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length.max(HEADER));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.token.to_be_bytes());
        bytes.push(self.kind as u8);
        bytes.extend_from_slice(&self.run.to_be_bytes());
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.resize(length.max(HEADER), 0);
        bytes
    }

    /// The datagram with this head and a body.
    pub(super) fn with(self, body: &impl Serialize) -> Vec<u8> {
        let mut bytes = self.padded(HEADER);
        bytes.extend(serde_json::to_vec(body).expect("plain numbers can be written as JSON"));
        bytes
    }

    /// Reads a datagram; `None` for what is not of this test.
    pub(super) fn read(bytes: &[u8], token: u64) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (its_token, rest) = rest.split_first_chunk::<8>()?;
        let (&[kind], rest) = rest.split_first_chunk::<1>()?;
        let (run, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, _) = rest.split_first_chunk::<4>()?;
        let kinds = [Kind::Echo, Kind::Answer, Kind::Train, Kind::Send, Kind::Ask, Kind::Account];
        let kind = kinds.into_iter().find(|known| *known as u8 == kind)?;
        (*magic == MAGIC && u64::from_be_bytes(*its_token) == token).then_some(Self {
            token,
            kind,
            run: u32::from_be_bytes(*run),
            sequence: u32::from_be_bytes(*sequence),
        })
    }
}

/// The body of a datagram; `None` when it is none of this kind.
pub(super) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes.get(HEADER..)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_survive_and_strangers_are_passed_over() {
        let head = Head { token: 7, kind: Kind::Ask, run: 3, sequence: u32::MAX };
        assert_eq!(Head::read(&head.padded(100), 7), Some(head));
        assert_eq!(Head::read(&head.padded(0), 8), None, "another test");
        assert_eq!(Head::read(&head.padded(0)[..HEADER - 1], 7), None, "cut");
        assert_eq!(Head::read(b"", 7), None);
        assert_eq!(body::<u32>(&head.with(&12_u32)), Some(12));
        assert_eq!(body::<u32>(&head.padded(64)), None);
    }
}
