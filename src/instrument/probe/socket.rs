//! A UDP socket whose packets carry the kernel's times (`SO_TIMESTAMPING`).
//!
//! Departure is the moment at which a packet is handed to the queueing discipline of its interface, so that waiting there
//! is part of the delay, and waiting for a processor is not. Arrival is the moment at which the driver hands it over.
//! Both are read from the wall clock.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, TimestampingFlag, Timestamps, recvmsg, setsockopt, sockopt,
};

use crate::host::clock::{nanoseconds, wall_ns};

/// `SOF_TIMESTAMPING_TX_SCHED` of linux/net_tstamp.h, Linux 4.5.
const BEFORE_QUEUE: u32 = 1 << 8;
/// `SK_MEMINFO_DROPS` of linux/sock_diag.h: its place among the numbers of `SO_MEMINFO`.
const DROPS: usize = 8;
/// Bytes asked for; the kernel gives at most `net.core.rmem_max`.
const ROOM: usize = 1 << 20;
/// Link, network and transport headers before the payload of a packet that comes back with its time of departure.
const HEADERS: usize = 256;

/// See the module.
pub(super) struct Socket {
    udp: UdpSocket,
    control: Vec<u8>,
    size: usize,
    buffer: Vec<u8>,
}

/// A packet that arrived.
pub(super) struct Received<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) from: Option<SocketAddr>,
    pub(super) at_ns: i64,
    /// Is it the kernel's time, of the arrival? Else it is that of the process, somewhat later.
    pub(super) by_kernel: bool,
}

/// Length, the kernel's time in nanoseconds, and sender of a packet.
type Message = (usize, Option<i64>, Option<SocketAddr>);

impl Socket {
    /// Binds to a port that the kernel chooses. Packets are never fragmented.
    ///
    /// # Errors
    /// When the address is not this node's, or the kernel keeps no times.
    pub(super) fn open(address: IpAddr, size: usize, dscp: u8) -> io::Result<Self> {
        let udp = UdpSocket::bind((address, 0))?;
        udp.set_nonblocking(true)?;
        let flags = TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
            | TimestampingFlag::from_bits_retain(BEFORE_QUEUE);
        setsockopt(&udp, sockopt::Timestamping, &flags)?;
        setsockopt(&udp, sockopt::RcvBuf, &ROOM)?;
        if address.is_ipv4() {
            setsockopt(&udp, sockopt::Ipv4Tos, &(i32::from(dscp) << 2))?;
            set(&udp, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
        } else {
            set(&udp, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, i32::from(dscp) << 2)?;
            set(&udp, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
        }
        let control = nix::cmsg_space!(Timestamps, [u8; 128]);
        // One byte more than ours, to tell longer ones.
        Ok(Self { udp, control, size, buffer: vec![0; size + HEADERS] })
    }

    pub(super) fn port(&self) -> io::Result<u16> {
        Ok(self.udp.local_addr()?.port())
    }

    pub(super) fn connect(&self, to: SocketAddr) -> io::Result<()> {
        self.udp.connect(to)
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.udp.send(bytes).map(drop)
    }

    pub(super) fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.udp.send_to(bytes, to).map(drop)
    }

    /// The next packet; `None` when there is none.
    ///
    /// # Errors
    /// Of the socket; `ConnectionRefused` is the other side's answer to an earlier packet.
    pub(super) fn receive(&mut self) -> io::Result<Option<Received<'_>>> {
        let asked_at = wall_ns()?;
        let Some((length, stamp, from)) = self.message(MsgFlags::empty())? else { return Ok(None) };
        // Until the first sockets that want times are known everywhere, the kernel stamps at the reading.
        let by_kernel = stamp.is_some_and(|stamp| stamp <= asked_at);
        let at_ns = match stamp {
            Some(stamp) => stamp,
            None => wall_ns()?,
        };
        Ok(Some(Received { bytes: &self.buffer[..length], from, at_ns, by_kernel }))
    }

    /// A packet of ours that has left, and when; `None` when none has that was not told already.
    pub(super) fn departed(&mut self) -> io::Result<Option<(&[u8], i64)>> {
        loop {
            let Some((length, stamp, _)) = self.message(MsgFlags::MSG_ERRQUEUE)? else { return Ok(None) };
            // It comes with its headers in front.
            let Some(payload) = length.checked_sub(self.size) else { continue };
            if let Some(stamp) = stamp {
                return Ok(Some((&self.buffer[payload..length], stamp)));
            }
        }
    }

    /// The next packet of that queue, without waiting: its length, the kernel's time of it, and where it is from.
    fn message(&mut self, flags: MsgFlags) -> io::Result<Option<Message>> {
        let mut parts = [IoSliceMut::new(&mut self.buffer)];
        let flags = flags | MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<SockaddrStorage>(self.udp.as_raw_fd(), &mut parts, Some(&mut self.control), flags)
        {
            Err(nix::Error::EAGAIN) => return Ok(None),
            other => other?,
        };
        let stamp = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::ScmTimestampsns(times) => Some(nanoseconds(times.system)).filter(|&ns| ns != 0),
            _ => None,
        });
        Ok(Some((message.bytes, stamp, message.address.and_then(address))))
    }

    /// Packets that the socket had no room for, since it was opened.
    pub(super) fn dropped(&self) -> io::Result<u64> {
        let mut numbers = [0_u32; DROPS + 1];
        let mut length = libc::socklen_t::try_from(size_of_val(&numbers)).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes to `numbers`, which has as many.
        #[expect(unsafe_code, reason = "SO_MEMINFO has no safe wrapper")]
        let result = unsafe {
            libc::getsockopt(
                self.udp.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                numbers.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        nix::errno::Errno::result(result)?;
        if length as usize == size_of_val(&numbers) {
            Ok(numbers[DROPS].into())
        } else {
            Err(io::Error::other("the kernel does not count what a socket drops"))
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.udp.as_fd()
    }
}

fn set(udp: &UdpSocket, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes at the address of `value`.
    #[expect(unsafe_code, reason = "these options have no safe wrapper")]
    let result = unsafe { libc::setsockopt(udp.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

fn address(from: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = from.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| from.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
}
