//! Which way packets take: a traceroute without raw sockets. Probes are UDP datagrams with a small time to live, and the
//! answers are read from the socket's error queue (`IP_RECVERR`, ip(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};

use super::build::Network;
use super::topology::Topology;
use crate::ids::NodeId;
use crate::testbed::Path;

/// traceroute's first port; the ports from here on are nobody's.
const FIRST_PORT: u16 = 33_434;
/// How long an answer may take. Inside one host it takes microseconds; a loaded one may need more.
const PATIENCE: Duration = Duration::from_millis(500);
const TRIES: u16 = 3;
/// Payload of a probe that need not be of any size.
const SMALL: [u8; 32] = [0; 32];
/// Headers of IPv4 and UDP.
const HEADERS: usize = 28;
/// Time to live of a probe that is to arrive.
const LONG_LIFE: u8 = 64;
/// Hops looked at beyond the expected ones.
const EXCESS: usize = 4;
/// Hops in a row without an answer after which the walk is given up.
const MAX_SILENT: usize = 3;

/// What became of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Its time to live ended here.
    Passed(Ipv4Addr),
    /// The target had nobody listening: it arrived.
    Arrived(Ipv4Addr),
    /// Somebody would not or could not pass it on.
    Refused(Ipv4Addr),
    /// This node itself could not send it.
    NotSent,
    /// Nothing came back.
    Silence,
}

/// Walks the path of a pair, from its client's namespace.
pub(in crate::testbed) fn walk(network: &Network, topology: &Topology, pair: u8) -> io::Result<Path> {
    let client = NodeId::client(u32::from(pair));
    let (_, stack) = network.nodes.get(&client).ok_or_else(|| io::Error::other("no such client"))?;
    let target = topology.server(pair);
    let limit = topology.hops.len() + 1 + EXCESS;
    let socket = stack.namespace.run(open)?;
    let (observed, reached) = trace(&socket, target, limit)?;
    let name = |address: Option<Ipv4Addr>| topology.router_at(pair, address?).map(str::to_owned);
    Ok(Path {
        pair: u32::from(pair),
        expected: topology.hops.clone(),
        observed: observed.into_iter().map(name).collect(),
        reached,
    })
}

/// Walks from the network stack of the calling thread: the addresses passed, and whether the target was reached.
pub(crate) fn trace_from_here(target: Ipv4Addr, limit: usize) -> io::Result<(Vec<Option<Ipv4Addr>>, bool)> {
    trace(&open()?, target, limit)
}

/// Does a packet of this many bytes, with its headers of IP and UDP, get from the network stack of the calling thread to the
/// target in one piece? Nobody on the way may fragment it.
///
/// # Errors
/// Also when it is more than this stack's own interface takes.
pub(crate) fn arrives_whole(target: Ipv4Addr, bytes: u16) -> io::Result<bool> {
    let socket = open()?;
    never_fragment(&socket)?;
    let payload = vec![0; usize::from(bytes).saturating_sub(HEADERS)];
    let mut port = FIRST_PORT;
    let answer = probe(&socket, target, LONG_LIFE, &mut port, &payload)?;
    Ok(answer == Answer::Arrived(target))
}

/// Whatever the kernel has heard of a path, its packets go as they are.
fn never_fragment(socket: &UdpSocket) -> io::Result<()> {
    let value = libc::IP_PMTUDISC_PROBE;
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    let (level, name) = (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER);
    // SAFETY: the kernel reads `length` bytes at the address of `value`.
    #[expect(unsafe_code, reason = "this option has no safe wrapper")]
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

fn open() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The addresses passed, and whether the target was reached.
fn trace(socket: &UdpSocket, target: Ipv4Addr, limit: usize) -> io::Result<(Vec<Option<Ipv4Addr>>, bool)> {
    let mut passed = Vec::new();
    let mut port = FIRST_PORT;
    for ttl in (1..=u8::MAX).take(limit) {
        match probe(socket, target, ttl, &mut port, &SMALL)? {
            Answer::Passed(router) => passed.push(Some(router)),
            Answer::Arrived(from) => return Ok((passed, from == target)),
            Answer::Refused(router) => {
                passed.push(Some(router));
                return Ok((passed, false));
            }
            Answer::NotSent => return Ok((passed, false)),
            Answer::Silence => passed.push(None),
        }
        if passed.len() >= MAX_SILENT && passed.iter().rev().take(MAX_SILENT).all(Option::is_none) {
            break;
        }
    }
    Ok((passed, false))
}

/// Every probe goes to a port of its own, so that a late answer is not taken for another's.
fn probe(socket: &UdpSocket, target: Ipv4Addr, ttl: u8, port: &mut u16, payload: &[u8]) -> io::Result<Answer> {
    socket.set_ttl(u32::from(ttl))?;
    let mut sent = false;
    for _ in 0..TRIES {
        let this = *port;
        *port += 1;
        // An earlier probe's error would be taken for a failure to send this one.
        socket.take_error()?;
        match socket.send_to(payload, (target, this)) {
            Ok(_) => sent = true,
            Err(error) if is_unsendable(&error) => continue,
            Err(error) => return Err(error),
        }
        let answer = await_answer(socket, this)?;
        if answer != Answer::Silence {
            return Ok(answer);
        }
    }
    Ok(if sent { Answer::Silence } else { Answer::NotSent })
}

/// No route, no link, a packet filter; or an answer to an earlier probe that came at this moment.
fn is_unsendable(error: &io::Error) -> bool {
    use libc::{EACCES, ECONNREFUSED, EHOSTUNREACH, EINVAL, ENETDOWN, ENETUNREACH, EPERM};
    let errors = [EACCES, ECONNREFUSED, EHOSTUNREACH, EINVAL, ENETDOWN, ENETUNREACH, EPERM];
    error.raw_os_error().is_some_and(|number| errors.contains(&number))
}

fn await_answer(socket: &UdpSocket, port: u16) -> io::Result<Answer> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = read_error(socket, port)? {
            return Ok(answer);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Answer::Silence);
        }
        // Errors wake a poll without being asked for. Rounded up, so that the loop does not spin at the end.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match nix::poll::poll(&mut [PollFd::new(socket.as_fd(), PollFlags::empty())], timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes one entry off the error queue; `None` when there is none, or it belongs to another probe.
fn read_error(socket: &UdpSocket, port: u16) -> io::Result<Option<Answer>> {
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in);
    let mut payload = [0_u8; 64];
    let mut slices = [io::IoSliceMut::new(&mut payload)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags) {
        Ok(message) => message,
        Err(nix::Error::EAGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // For an error this is where the probe was sent to.
    if message.address.is_none_or(|address| address.port() != port) {
        return read_error(socket, port);
    }
    let answer = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4RecvErr(error, offender) => Some(classify(&error, offender)),
        _ => None,
    });
    Ok(answer)
}

/// ICMP types and codes: RFC 792.
fn classify(error: &libc::sock_extended_err, offender: Option<libc::sockaddr_in>) -> Answer {
    const UNREACHABLE: u8 = 3;
    const PORT: u8 = 3;
    const TIME_EXCEEDED: u8 = 11;
    let from =
        offender.map(|address| match SocketAddr::from(std::net::SocketAddrV4::from(SockaddrIn::from(address))).ip() {
            IpAddr::V4(ip) => ip,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        });
    match (error.ee_origin, error.ee_type, error.ee_code, from) {
        (libc::SO_EE_ORIGIN_ICMP, TIME_EXCEEDED, _, Some(from)) => Answer::Passed(from),
        (libc::SO_EE_ORIGIN_ICMP, UNREACHABLE, PORT, Some(from)) => Answer::Arrived(from),
        (libc::SO_EE_ORIGIN_ICMP, _, _, Some(from)) => Answer::Refused(from),
        _ => Answer::NotSent,
    }
}
