//! What the kernel knows of the TCP connections of a namespace: `NETLINK_SOCK_DIAG` with `TCP_INFO`, as `ss -ti` prints it.

use std::io;

use netlink_sys::{Socket, SocketAddr};

use super::netlink::{attribute, invalid};

const SOCK_DIAG: isize = 4;
const BY_FAMILY: u16 = 20;
const HEADER: usize = 16;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const REQUEST_DUMP: u16 = 0x301;
const INTERRUPTED: u16 = 0x10;
/// `INET_DIAG_INFO`
const INFO: u16 = 2;
/// Length of `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING: what has an end with a state worth asking.
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// More than the kernel puts into one datagram of a dump.
const DATAGRAM: usize = 64 << 10;
/// How often a dump is begun again because the tables changed meanwhile.
const TRIES: usize = 10;

/// Asks about the sockets of the namespace it was opened in.
#[derive(Debug)]
pub struct SocketDiagnosis {
    socket: Socket,
    sequence: u32,
}

/// One end of a TCP connection. Source: Linux `include/uapi/linux/tcp.h`, `struct tcp_info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSocket {
    /// Identifies the socket until the next boot.
    pub cookie: u64,
    /// `TCP_ESTABLISHED` is 1.
    pub state: u8,
    /// Smoothed round-trip time in microseconds; 0 before the first sample.
    pub rtt_us: u32,
    /// Its variation in microseconds.
    pub rttvar_us: u32,
    /// Congestion window in segments.
    pub cwnd: u32,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Segments sent again since the connection began.
    pub total_retrans: u32,
    /// Octets the other end has acknowledged; `None` before Linux 4.1.
    pub bytes_acked: Option<u64>,
    /// Rate of delivery in bytes a second, of the latest sample; `None` before Linux 4.9.
    pub delivery_rate: Option<u64>,
}

impl SocketDiagnosis {
    /// Opens it for the namespace the calling thread is in.
    ///
    /// # Errors
    /// Those of socket(2); a kernel without `inet_diag` refuses later.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(SOCK_DIAG)?;
        socket.bind_auto()?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All TCP connections, both families; listening sockets and those in TIME_WAIT are not among them.
    ///
    /// # Errors
    /// `ENOENT` from a kernel without `tcp_diag`, and when the tables changed under ten attempts.
    pub fn tcp(&mut self) -> io::Result<Vec<TcpSocket>> {
        let mut all = self.family(libc::AF_INET)?;
        match self.family(libc::AF_INET6) {
            Ok(more) => all.extend(more),
            // A kernel without IPv6.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
        Ok(all)
    }

    fn family(&mut self, family: i32) -> io::Result<Vec<TcpSocket>> {
        for _ in 0..TRIES {
            if let Some(listed) = self.try_family(family)? {
                return Ok(listed);
            }
        }
        Err(io::Error::other("the list kept changing while it was read"))
    }

    fn try_family(&mut self, family: i32) -> io::Result<Option<Vec<TcpSocket>>> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send_to(&request(family, self.sequence), &SocketAddr::new(0, 0), 0)?;
        let (mut listed, mut whole) = (Vec::new(), true);
        loop {
            let mut datagram = Vec::with_capacity(DATAGRAM);
            let length = self.socket.recv(&mut datagram, libc::MSG_DONTWAIT | libc::MSG_TRUNC)?;
            if length > datagram.len() {
                return Err(io::Error::other(format!("the kernel's answer of {length} bytes does not fit")));
            }
            if take(&datagram, self.sequence, &mut listed, &mut whole)? {
                return Ok(whole.then_some(listed));
            }
        }
    }
}

fn request(family: i32, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + 56);
    bytes.extend(72_u32.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST_DUMP.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    // struct inet_diag_req_v2: family, protocol, extensions, padding, states, an address that is not looked at
    bytes.extend([u8::try_from(family).unwrap_or_default(), 6, 1 << (INFO - 1), 0]);
    bytes.extend(STATES.to_ne_bytes());
    bytes.resize(HEADER + 56, 0);
    bytes
}

/// Takes the messages of one datagram; `true` when the list has ended.
fn take(mut datagram: &[u8], sequence: u32, listed: &mut Vec<TcpSocket>, whole: &mut bool) -> io::Result<bool> {
    while !datagram.is_empty() {
        let header = datagram.get(..HEADER).ok_or_else(|| invalid("short header"))?;
        let length = word(header, 0).map(|length| length as usize).unwrap_or_default();
        let message = datagram.get(HEADER..length).ok_or_else(|| invalid("short message"))?;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let flags = u16::from_ne_bytes([header[6], header[7]]);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        if word(header, 8) != Some(sequence) {
            continue;
        }
        *whole &= flags & INTERRUPTED == 0;
        match kind {
            // The end may carry the error that cut the list short.
            DONE | ERROR => {
                return match word(message, 0).map(u32::cast_signed) {
                    Some(errno) if errno < 0 => Err(io::Error::from_raw_os_error(-errno)),
                    _ => Ok(true),
                };
            }
            _ => listed.extend(decode(message)?),
        }
    }
    Ok(false)
}

/// `None` for a socket of which the kernel says nothing more: it is just closing.
fn decode(message: &[u8]) -> io::Result<Option<TcpSocket>> {
    let attributes = message.get(MESSAGE..).ok_or_else(|| invalid("short socket"))?;
    let Some(info) = attribute(attributes, INFO) else { return Ok(None) };
    let cookie = (word(message, 44), word(message, 48));
    let (Some(low), Some(high)) = cookie else { return Err(invalid("short socket")) };
    let number = |at| word(info, at).ok_or_else(|| invalid("short tcp_info"));
    Ok(Some(TcpSocket {
        cookie: u64::from(high) << 32 | u64::from(low),
        state: message[1],
        rtt_us: number(68)?,
        rttvar_us: number(72)?,
        cwnd: number(80)?,
        unacked: number(24)?,
        total_retrans: number(100)?,
        bytes_acked: long(info, 120),
        delivery_rate: long(info, 160),
    }))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_ne_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u64::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + payload.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    fn socket(info: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; MESSAGE];
        bytes[1] = 1;
        bytes[44] = 7;
        bytes.extend(u16::try_from(4 + info.len()).unwrap().to_ne_bytes());
        bytes.extend(INFO.to_ne_bytes());
        bytes.extend(info);
        bytes
    }

    #[test]
    fn sockets_are_decoded_as_far_as_the_kernel_tells() {
        let mut info = vec![0; 168];
        info[68..72].copy_from_slice(&250_u32.to_ne_bytes());
        info[100..104].copy_from_slice(&3_u32.to_ne_bytes());
        info[120..128].copy_from_slice(&9_u64.to_ne_bytes());
        let read = decode(&socket(&info)).unwrap().unwrap();
        assert_eq!((read.cookie, read.state, read.rtt_us, read.total_retrans), (7, 1, 250, 3));
        assert_eq!((read.bytes_acked, read.delivery_rate), (Some(9), Some(0)));
        let old = decode(&socket(&info[..104])).unwrap().unwrap();
        assert_eq!((old.bytes_acked, old.delivery_rate), (None, None));
        assert!(decode(&socket(&info[..100])).is_err());
        assert_eq!(decode(&[0; MESSAGE]).unwrap(), None);
    }

    #[test]
    fn lists_end_and_errors_are_told() {
        let (mut listed, mut whole) = (Vec::new(), true);
        let info = socket(&[0; 168]);
        let datagram = [message(20, 2, 5, &info), message(20, 2, 4, &info), message(DONE, 2, 5, &[0; 4])].concat();
        assert!(take(&datagram, 5, &mut listed, &mut whole).unwrap());
        assert_eq!((listed.len(), whole), (1, true), "the other answers another question");
        take(&message(20, INTERRUPTED, 5, &info), 5, &mut listed, &mut whole).unwrap();
        assert!(!whole);
        let refused = message(ERROR, 0, 5, &(-2_i32).to_ne_bytes());
        assert_eq!(take(&refused, 5, &mut listed, &mut whole).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        for length in 1..HEADER + info.len() {
            assert!(take(&message(20, 2, 5, &info)[..length], 5, &mut listed, &mut whole).is_err(), "{length}");
        }
    }
}
