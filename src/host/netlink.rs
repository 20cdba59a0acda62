//! A conversation with the kernel's network configuration, bound to the namespace it was opened in.
//!
//! Requests go out in batches; the kernel works through a batch before `sendmsg` returns, so answers are never waited
//! for and a conversation cannot hang.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Messages in one batch. All their refusals together must fit the receive buffer (at least 208 KiB on any kernel, and
/// a refusal with its text takes less than 2 KiB of it).
const BATCH: usize = 64;
/// More than the kernel puts into one datagram of a dump.
const DATAGRAM: usize = 64 << 10;
/// How often a dump is begun again because the tables changed meanwhile.
const DUMP_TRIES: usize = 10;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const FLAG_DUMP_INTERRUPTED: u16 = 0x10;
const FLAG_CAPPED: u16 = 0x100;
const FLAG_ATTRIBUTES: u16 = 0x200;
const ATTRIBUTE_TEXT: u16 = 1;
const HEADER: usize = 16;

/// A netlink socket in one namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// One thing to be changed.
#[derive(Debug, Clone)]
pub struct Change {
    /// Verb and object for the error message: `set rate of s1`.
    pub what: String,
    /// The request.
    pub message: RouteNetlinkMessage,
    /// `NLM_F_CREATE`, `NLM_F_EXCL`, `NLM_F_REPLACE`.
    pub flags: u16,
}

/// The kernel refused a request, or could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct NetlinkError {
    /// Verb and object: `set rate of s1`.
    pub what: String,
    /// Why, in the kernel's words; [`errno`] tells the number.
    #[source]
    pub source: io::Error,
}

/// An error number with the text the kernel sent along.
#[derive(Debug, thiserror::Error)]
struct Refusal {
    errno: i32,
    text: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(nix::Error::from_raw(self.errno).desc())?;
        match &self.text {
            Some(text) => write!(f, " ({})", text.trim_end_matches('.')),
            None => Ok(()),
        }
    }
}

/// The error number behind an error of this module or of a system call; `None` when there is none.
pub fn errno(error: &io::Error) -> Option<i32> {
    let refusal = error.get_ref().and_then(|inner| inner.downcast_ref::<Refusal>());
    refusal.map(|refusal| refusal.errno).or_else(|| error.raw_os_error())
}

impl Netlink {
    /// Opens a conversation with the namespace the calling thread is in; it stays with that one.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Both make errors readable only; kernels before 4.12 refuse them.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes all the changes in order, stopping after the batch in which one is refused.
    ///
    /// # Errors
    /// The first change that was refused.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), NetlinkError> {
        changes.chunks(BATCH).try_for_each(|batch| self.apply_batch(batch))
    }

    /// Everything the kernel lists in answer to `request`: the payload of each message, without its netlink header.
    ///
    /// # Errors
    /// `what` with the reason when the kernel refuses, or when the tables changed under ten attempts.
    pub fn dump(&mut self, what: &str, request: &RouteNetlinkMessage) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let failed = |source| NetlinkError { what: what.to_owned(), source };
        for _ in 0..DUMP_TRIES {
            if let Some(listed) = self.try_dump(request).map_err(failed)? {
                return Ok(listed);
            }
        }
        Err(failed(io::Error::other("the list kept changing while it was read")))
    }

    /// The one answer to `request`: its payload, without the netlink header.
    ///
    /// # Errors
    /// `what` with the reason when the kernel refuses.
    pub fn ask(&mut self, what: &str, request: &RouteNetlinkMessage) -> Result<Vec<u8>, NetlinkError> {
        self.try_ask(request).map_err(|source| NetlinkError { what: what.to_owned(), source })
    }

    fn try_ask(&mut self, request: &RouteNetlinkMessage) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::new();
        self.encode(&mut buffer, request, NLM_F_REQUEST);
        self.send(&buffer)?;
        loop {
            for message in messages(&self.receive()?) {
                let message = message?;
                if message.sequence_number() != self.sequence {
                    continue;
                }
                if message.message_type() == ERROR {
                    verdict(&message)?;
                    return Err(io::Error::other("the kernel said nothing"));
                }
                return Ok(message.payload().to_vec());
            }
        }
    }

    fn apply_batch(&mut self, batch: &[Change]) -> Result<(), NetlinkError> {
        let Some(last) = batch.last() else { return Ok(()) };
        let failed = |change: &Change, source| NetlinkError { what: change.what.clone(), source };
        let first_sequence = self.sequence.wrapping_add(1);
        let mut buffer = Vec::new();
        for (position, change) in (1..).zip(batch) {
            // A refusal comes back in any case; only the last of a batch needs to say that it went well.
            let ack = if position == batch.len() { NLM_F_ACK } else { 0 };
            self.encode(&mut buffer, &change.message, NLM_F_REQUEST | ack | change.flags);
        }
        self.send(&buffer).map_err(|error| failed(last, error))?;
        let mut first_refusal = None;
        loop {
            let datagram = self.receive().map_err(|error| failed(last, error))?;
            for message in messages(&datagram) {
                let message = message.map_err(|error| failed(last, error))?;
                let position = message.sequence_number().wrapping_sub(first_sequence) as usize;
                let Some(change) = batch.get(position).filter(|_| message.message_type() == ERROR) else { continue };
                if let Err(error) = verdict(&message) {
                    first_refusal.get_or_insert_with(|| failed(change, error));
                }
                if position + 1 == batch.len() {
                    return first_refusal.map_or(Ok(()), Err);
                }
            }
        }
    }

    fn try_dump(&mut self, request: &RouteNetlinkMessage) -> io::Result<Option<Vec<Vec<u8>>>> {
        let mut buffer = Vec::new();
        self.encode(&mut buffer, request, NLM_F_REQUEST | NLM_F_DUMP);
        self.send(&buffer)?;
        let mut listed = Vec::new();
        let mut interrupted = false;
        loop {
            for message in messages(&self.receive()?) {
                let message = message?;
                if message.sequence_number() != self.sequence {
                    continue;
                }
                interrupted |= message.flags() & FLAG_DUMP_INTERRUPTED != 0;
                match message.message_type() {
                    DONE => return Ok((!interrupted).then_some(listed)),
                    ERROR => verdict(&message)?,
                    _ => listed.push(message.payload().to_vec()),
                }
            }
        }
    }

    fn encode(&mut self, buffer: &mut Vec<u8>, message: &RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.sequence_number = self.sequence;
        header.flags = flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message.clone()));
        message.finalize();
        let start = buffer.len().next_multiple_of(4);
        buffer.resize(start + message.buffer_len(), 0);
        message.serialize(&mut buffer[start..]);
    }

    fn send(&self, buffer: &[u8]) -> io::Result<()> {
        self.socket.send_to(buffer, &SocketAddr::new(0, 0), 0).map(|_| ())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        let length = self.socket.recv(&mut datagram, libc::MSG_DONTWAIT | libc::MSG_TRUNC)?;
        if length > datagram.len() {
            return Err(io::Error::other(format!("the kernel's answer of {length} bytes does not fit")));
        }
        Ok(datagram)
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// The messages in a datagram.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = io::Result<NetlinkBuffer<&[u8]>>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let message = match NetlinkBuffer::new_checked(datagram) {
            Ok(message) => message,
            Err(error) => {
                datagram = &[];
                return Some(Err(invalid(error)));
            }
        };
        let (whole, _) = datagram.split_at(message.length() as usize);
        datagram = datagram.get(whole.len().next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(NetlinkBuffer::new(whole)))
    })
}

/// Reads an error message: its number is 0 for "done as asked".
fn verdict(message: &NetlinkBuffer<&[u8]>) -> io::Result<()> {
    let payload = message.payload();
    let short = || io::Error::other("the kernel's answer is cut short");
    let (number, rest) = payload.split_first_chunk::<4>().ok_or_else(short)?;
    let errno = -i32::from_ne_bytes(*number);
    if errno == 0 {
        return Ok(());
    }
    let refusal = Refusal { errno, text: text_of_refusal(message.flags(), rest) };
    Err(io::Error::new(io::Error::from_raw_os_error(errno).kind(), refusal))
}

/// The text of an extended acknowledgement: it follows the header of the refused request, or the whole request when
/// the kernel did not cut that.
fn text_of_refusal(flags: u16, request: &[u8]) -> Option<String> {
    if flags & FLAG_ATTRIBUTES == 0 {
        return None;
    }
    let length = u32::from_ne_bytes(*request.first_chunk()?) as usize;
    let skipped = if flags & FLAG_CAPPED == 0 { length.next_multiple_of(4) } else { HEADER };
    let text = attribute(request.get(skipped..)?, ATTRIBUTE_TEXT)?;
    let text = String::from_utf8_lossy(text);
    Some(text.trim_end_matches('\0').to_owned())
}

/// The value of the first attribute of that kind; `None` also when the list is damaged before it.
pub(super) fn attribute(list: &[u8], kind: u16) -> Option<&[u8]> {
    NlasIterator::new(list).map_while(Result::ok).find(|found| found.kind() == kind).map(|found| {
        let length = found.value_length();
        let start = found.into_inner();
        &start[4..4 + length]
    })
}

pub(super) fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's answer cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(flags: u16, request_length: u32, attributes: &[u8]) -> Vec<u8> {
        let mut payload = (-libc::EOPNOTSUPP).to_ne_bytes().to_vec();
        payload.extend(request_length.to_ne_bytes());
        payload.extend([0; 12]);
        payload.extend(attributes);
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(ERROR.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(payload);
        message
    }

    fn read(datagram: &[u8]) -> String {
        let message = messages(datagram).next().unwrap().unwrap();
        let error = verdict(&message).unwrap_err();
        assert_eq!(errno(&error), Some(libc::EOPNOTSUPP));
        error.to_string()
    }

    #[test]
    fn refusals_carry_the_text_of_the_kernel() {
        let text = b"\x0b\x00\x01\x00no way\0\0";
        assert_eq!(
            read(&refusal(FLAG_ATTRIBUTES | FLAG_CAPPED, 400, text)),
            "Operation not supported on transport endpoint (no way)"
        );
        let uncapped = [&[0_u8; 8][..], text].concat();
        assert_eq!(
            read(&refusal(FLAG_ATTRIBUTES, 24, &uncapped)),
            "Operation not supported on transport endpoint (no way)"
        );
        assert_eq!(read(&refusal(FLAG_CAPPED, 400, b"")), "Operation not supported on transport endpoint");
    }

    #[test]
    fn damaged_answers_are_errors_or_ignored_but_never_a_panic() {
        let whole = refusal(FLAG_ATTRIBUTES | FLAG_CAPPED, 400, b"\x0b\x00\x01\x00no way\0\0");
        for length in 0..whole.len() {
            for message in messages(&whole[..length]) {
                assert!(message.and_then(|message| verdict(&message)).is_err());
            }
        }
        for attributes in [&b"\x00\x00\x01\x00"[..], b"\xff\xff\x01\x00", b"\x04"] {
            let datagram = refusal(FLAG_ATTRIBUTES | FLAG_CAPPED, 400, attributes);
            assert!(verdict(&messages(&datagram).next().unwrap().unwrap()).is_err());
        }
    }
}
