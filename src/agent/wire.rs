//! The bytes of a conversation: how it begins, and the frames it consists of. Pure; what comes in is hostile.
//!
//! A conversation begins with the host's [`Preamble`] (40 bytes) and the agent's [`Answer`] (40 bytes and a JSON text).
//! These two are the same in every protocol, so that two versions can tell each other what they are. Frames follow: a
//! header of 16 bytes and a payload. The check in each header depends on the preamble's nonce, so that bytes of an earlier
//! conversation are never taken for frames of this one.

/// Number of the protocol: what follows preamble and answer. Both sides must have the same.
pub const PROTOCOL: u32 = 5;
/// Largest payload of a frame.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Length of a frame's header.
pub const HEADER: usize = 16;
/// Length of a preamble, and of an answer without its text.
pub const GREETING: usize = 40;
/// Longest text of an answer.
pub const MAX_TEXT: usize = 64 << 10;

const HOST: [u8; 16] = *b"\x00vptest-host\r\n\x1a\xff";
const AGENT: [u8; 16] = *b"\x00vptest-agent\r\n\xff";

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Host: begins a call; JSON.
    Request = 1,
    /// Agent: news of a call; JSON.
    Reply = 2,
    /// Agent: the end of a call; JSON.
    Done = 3,
    /// Bulk data of a call on one of its channels; needs credit.
    Data = 4,
    /// No more data on this channel; the payload depends on the call.
    End = 5,
    /// The receiver has room for so many further bytes on a channel; `u32`.
    Credit = 6,
    /// Are you there? `u64`, to be sent back.
    Ping = 7,
    /// The ping's `u64` and the answering side's wall clock, nanoseconds since 1970-01-01 UTC, `i64`.
    Pong = 8,
    /// Host: something about a running call; JSON.
    Tell = 9,
    /// Orderly end of the conversation.
    Bye = 10,
    /// Host: nobody wants the call any more.
    Cancel = 11,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Request,
        Self::Reply,
        Self::Done,
        Self::Data,
        Self::End,
        Self::Credit,
        Self::Ping,
        Self::Pong,
        Self::Tell,
        Self::Bye,
        Self::Cancel,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A frame's header without its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What it is.
    pub kind: Kind,
    /// Channel of the call.
    pub channel: u8,
    /// Number of the call; 0 for the conversation itself.
    pub call: u32,
}

/// A frame as it lies in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its header.
    pub head: Head,
    /// Its content.
    pub payload: &'a [u8],
}

/// The bytes are no conversation of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset} of the conversation: {what}")]
pub struct WireError {
    /// Position of the frame, counted from the end of the greeting.
    pub offset: u64,
    /// What is wrong.
    pub what: WireFault,
}

/// What is wrong with a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireFault {
    /// The header is no header, or one of another conversation.
    #[error("no frame of this conversation begins here")]
    Check,
    /// Longer than is allowed.
    #[error("a frame of {length} bytes ({MAX_PAYLOAD} at most)")]
    TooLong {
        /// What the header says.
        length: u32,
    },
    /// A kind this protocol has not.
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    /// The payload is not what its kind needs.
    #[error("payload of a {kind:?} frame: {text}")]
    Payload {
        /// Of which kind.
        kind: Kind,
        /// What is wrong.
        text: String,
    },
    /// More was sent than there was room for.
    #[error("call {call}: more sent than was allowed")]
    Overrun {
        /// Of which call.
        call: u32,
    },
}

/// What decoding the beginning of a buffer gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A frame, and the bytes it takes.
    Frame(Frame<'a>, usize),
    /// Bytes to skip: padding, or a preamble that was sent once more.
    Skip(usize),
    /// So many bytes are needed before more can be said.
    Need(usize),
}

/// Decodes what is at the beginning of `bytes`, `offset` bytes into the conversation with this nonce.
///
/// # Errors
/// When it is no frame; the conversation is then over, for nobody knows where the next frame begins.
pub fn decode(bytes: &[u8], nonce: u64, offset: u64) -> Result<Decoded<'_>, WireError> {
    let fault = |what| WireError { offset, what };
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(Decoded::Need(HEADER)) };
    if header == &[0; HEADER] {
        return Ok(Decoded::Skip(HEADER));
    }
    if header == &HOST {
        return match Preamble::decode(bytes) {
            Some(again) if again.nonce == nonce => Ok(Decoded::Skip(GREETING)),
            None if bytes.len() < GREETING => Ok(Decoded::Need(GREETING)),
            _ => Err(fault(WireFault::Check)),
        };
    }
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let check = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    if check != header_check(&header[..12], nonce) || header[6] != 0 || header[7] != 0 {
        return Err(fault(WireFault::Check));
    }
    let Some(size) = usize::try_from(length).ok().filter(|&size| size <= MAX_PAYLOAD) else {
        return Err(fault(WireFault::TooLong { length }));
    };
    let kind = Kind::from_byte(header[4]).ok_or_else(|| fault(WireFault::Kind(header[4])))?;
    let call = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    match rest.get(..size) {
        Some(payload) => {
            Ok(Decoded::Frame(Frame { head: Head { kind, channel: header[5], call }, payload }, HEADER + size))
        }
        None => Ok(Decoded::Need(HEADER + size)),
    }
}

/// The header of a frame with a payload of so many bytes.
///
/// # Panics
/// For more than [`MAX_PAYLOAD`] bytes.
pub fn header(head: Head, payload: usize, nonce: u64) -> [u8; HEADER] {
    assert!(payload <= MAX_PAYLOAD, "a payload of {payload} bytes is no frame");
    let length = u32::try_from(payload).expect("at most 1 MiB");
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = head.kind as u8;
    header[5] = head.channel;
    header[8..12].copy_from_slice(&head.call.to_le_bytes());
    let check = header_check(&header[..12], nonce);
    header[12..].copy_from_slice(&check.to_le_bytes());
    header
}

/// A whole frame.
///
/// # Panics
/// As [`header`].
pub fn frame(head: Head, payload: &[u8], nonce: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend(header(head, payload.len(), nonce));
    bytes.extend(payload);
    bytes
}

/// What a host says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// Its protocol.
    pub protocol: u32,
    /// Milliseconds of silence after which either side gives the other up.
    pub silence_ms: u32,
    /// Marks this conversation.
    pub nonce: u64,
}

impl Preamble {
    /// Its bytes.
    pub fn encode(&self) -> [u8; GREETING] {
        greeting(HOST, self.protocol, self.silence_ms, self.nonce)
    }

    /// Reads one from the beginning of `bytes`; `None` when there is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [protocol, silence_ms, nonce] = ungreet(bytes, HOST)?;
        Some(Self { protocol: u32::try_from(protocol).ok()?, silence_ms: u32::try_from(silence_ms).ok()?, nonce })
    }
}

/// What an agent answers, before its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Its protocol.
    pub protocol: u32,
    /// Length of the text that follows.
    pub length: u32,
    /// That of the preamble.
    pub nonce: u64,
}

impl Answer {
    /// The answer with its text, which is cut off if it is longer than [`MAX_TEXT`].
    pub fn encode(protocol: u32, nonce: u64, text: &[u8]) -> Vec<u8> {
        let text = &text[..text.len().min(MAX_TEXT)];
        let length = u32::try_from(text.len()).expect("at most 64 KiB");
        [&greeting(AGENT, protocol, length, nonce), text].concat()
    }

    /// Reads one from the beginning of `bytes`; `None` when there is none, or its text is too long.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [protocol, length, nonce] = ungreet(bytes, AGENT)?;
        let answer = Self { protocol: u32::try_from(protocol).ok()?, length: u32::try_from(length).ok()?, nonce };
        (answer.length as usize <= MAX_TEXT).then_some(answer)
    }
}

/// Where the next greeting of the other side could begin: everything before can be thrown away.
pub fn skip_to_greeting(bytes: &[u8], of_host: bool) -> usize {
    let magic = if of_host { &HOST } else { &AGENT };
    (0..bytes.len())
        .find(|&at| {
            let rest = &bytes[at..];
            let length = rest.len().min(magic.len());
            rest[..length] == magic[..length]
        })
        .unwrap_or(bytes.len())
}

fn greeting(magic: [u8; 16], protocol: u32, number: u32, nonce: u64) -> [u8; GREETING] {
    let mut bytes = [0; GREETING];
    bytes[..16].copy_from_slice(&magic);
    bytes[16..20].copy_from_slice(&protocol.to_le_bytes());
    bytes[20..24].copy_from_slice(&number.to_le_bytes());
    bytes[24..32].copy_from_slice(&nonce.to_le_bytes());
    let check = fnv(&bytes[..32], OFFSET_BASIS);
    bytes[32..].copy_from_slice(&check.to_le_bytes());
    bytes
}

fn ungreet(bytes: &[u8], magic: [u8; 16]) -> Option<[u64; 3]> {
    let bytes = bytes.first_chunk::<GREETING>()?;
    let (body, check) = bytes.split_at(32);
    let sound = body.starts_with(&magic) && *check == fnv(body, OFFSET_BASIS).to_le_bytes();
    let word = |at: usize| u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
    let nonce = u64::from(word(24)) | u64::from(word(28)) << 32;
    sound.then(|| [u64::from(word(16)), u64::from(word(20)), nonce])
}

fn header_check(header: &[u8], nonce: u64) -> u32 {
    let hash = fnv(header, OFFSET_BASIS ^ nonce);
    let folded = (hash ^ hash >> 32) & u64::from(u32::MAX);
    u32::try_from(folded).expect("32 bits")
}

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a. It finds bytes that are no frame; it does not stop somebody who wants to deceive.
fn fnv(bytes: &[u8], basis: u64) -> u64 {
    bytes.iter().fold(basis, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind() -> impl Strategy<Value = Kind> {
        (0..Kind::ALL.len()).prop_map(|index| Kind::ALL[index])
    }

    proptest! {
        #[test]
        fn frames_come_back(
            kind in kind(), channel: u8, call: u32, nonce: u64, payload in prop::collection::vec(any::<u8>(), 0..300),
            more in prop::collection::vec(any::<u8>(), 0..40), cut in 0_usize..400,
        ) {
            let head = Head { kind, channel, call };
            let bytes = [frame(head, &payload, nonce), more].concat();
            let whole = HEADER + payload.len();
            prop_assert_eq!(decode(&bytes, nonce, 7), Ok(Decoded::Frame(Frame { head, payload: &payload }, whole)));
            if cut < whole {
                let need = if cut < HEADER { HEADER } else { whole };
                prop_assert_eq!(decode(&bytes[..cut], nonce, 7), Ok(Decoded::Need(need)));
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100), nonce: u64) {
            match decode(&bytes, nonce, 3) {
                Ok(Decoded::Frame(frame, taken)) => prop_assert_eq!(frame.payload.len() + HEADER, taken),
                Ok(Decoded::Skip(taken)) => prop_assert!(taken > 0 && taken <= bytes.len()),
                Ok(Decoded::Need(need)) => prop_assert!(need > bytes.len() && need <= HEADER + MAX_PAYLOAD),
                Err(error) => prop_assert_eq!(error.offset, 3),
            }
            let skipped = skip_to_greeting(&bytes, true);
            prop_assert!(skipped <= bytes.len());
        }

        #[test]
        fn a_changed_header_is_found(at in 0..HEADER, by in 1_u8.., nonce: u64) {
            let mut bytes = frame(Head { kind: Kind::Data, channel: 1, call: 9 }, b"abc", nonce);
            bytes[at] ^= by;
            prop_assert!(decode(&bytes, nonce, 0).is_err());
        }

        #[test]
        fn greetings_come_back_from_within_noise(
            protocol: u32, silence_ms: u32, nonce: u64, noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let preamble = Preamble { protocol, silence_ms, nonce };
            let mut bytes = noise;
            bytes.extend(preamble.encode());
            loop {
                let at = skip_to_greeting(&bytes, true);
                bytes.drain(..at);
                match Preamble::decode(&bytes) {
                    Some(found) => { prop_assert_eq!(found, preamble); break }
                    None => { bytes.remove(0); }
                }
            }
            let answer = Answer::encode(protocol, nonce, b"{}");
            prop_assert_eq!(Answer::decode(&answer), Some(Answer { protocol, length: 2, nonce }));
            prop_assert_eq!(Preamble::decode(&answer), None);
        }
    }

    #[test]
    fn frames_of_another_conversation_are_refused() {
        let bytes = frame(Head { kind: Kind::Request, channel: 0, call: 1 }, b"{}", 1);
        assert_eq!(decode(&bytes, 2, 16), Err(WireError { offset: 16, what: WireFault::Check }));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_read() {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes[4] = 4;
        let check = header_check(&bytes[..12], 5);
        bytes[12..].copy_from_slice(&check.to_le_bytes());
        assert_eq!(decode(&bytes, 5, 0).unwrap_err().what, WireFault::TooLong { length: u32::MAX });
    }

    #[test]
    fn padding_and_the_same_preamble_are_skipped_and_another_is_not() {
        assert_eq!(decode(&[0; 20], 5, 0), Ok(Decoded::Skip(HEADER)));
        let again = Preamble { protocol: 1, silence_ms: 1, nonce: 5 }.encode();
        assert_eq!(decode(&again, 5, 0), Ok(Decoded::Skip(GREETING)));
        assert_eq!(decode(&again[..30], 5, 0), Ok(Decoded::Need(GREETING)));
        assert!(decode(&again, 6, 0).is_err());
    }
}
