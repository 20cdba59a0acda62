//! A UDP socket that says of each datagram when the kernel got it, over how many hops, and what there was no room for.

use std::cell::Cell;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};

/// Time to live of what is sent: what is missing at the other end are the hops.
const TTL: u32 = 255;
/// Room for the longest train, where the kernel allows it.
const RECEIVE_BUFFER: usize = 64 << 20;

/// See the module. IPv4 only, as all testbeds are.
#[derive(Debug)]
pub(super) struct Socket {
    inner: UdpSocket,
    /// Datagrams without room so far.
    overflow: Cell<u32>,
}

/// One datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) length: usize,
    pub(super) from: SocketAddr,
    /// When the kernel got it, nanoseconds since 1970-01-01 UTC; `None` when it does not say.
    pub(super) at_ns: Option<i64>,
    /// Routers passed; `None` when the kernel does not say.
    pub(super) hops: Option<u8>,
}

impl Socket {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let inner = UdpSocket::bind(address)?;
        inner.set_ttl(TTL)?;
        inner.set_nonblocking(true)?;
        setsockopt(&inner, sockopt::ReceiveTimestampns, &true)?;
        setsockopt(&inner, sockopt::Ipv4RecvTtl, &true)?;
        setsockopt(&inner, sockopt::RxqOvfl, &1)?;
        // Without the right to it, the usual limit has to do; what does not fit is counted.
        if setsockopt(&inner, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&inner, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        Ok(Self { inner, overflow: Cell::new(0) })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Datagrams for which there was no room, as far as later ones have told.
    pub(super) fn overflow(&self) -> u32 {
        self.overflow.get()
    }

    /// Sends one datagram; waits where the kernel has no room for it.
    pub(super) fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        loop {
            match self.inner.send_to(bytes, to) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLOUT, Duration::from_secs(1))?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next datagram; `None` when none comes until `deadline`.
    pub(super) fn receive(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<Option<Arrival>> {
        loop {
            if let Some(arrival) = self.take(buffer)? {
                return Ok(Some(arrival));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.wait(PollFlags::POLLIN, left)?;
        }
    }

    fn wait(&self, what: PollFlags, left: Duration) -> io::Result<()> {
        // Rounded up, so that the loop does not spin at the end.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match nix::poll::poll(&mut [PollFd::new(self.inner.as_fd(), what)], timeout) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A datagram that is there already.
    fn take(&self, buffer: &mut [u8]) -> io::Result<Option<Arrival>> {
        let mut space = nix::cmsg_space!(libc::timespec, i32, u32);
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<SockaddrIn>(self.inner.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            Ok(message) => message,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
            Err(error) if lost_on_the_way(&error.into()) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (mut at_ns, mut hops) = (None, None);
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampns(time) => {
                    at_ns = time.tv_sec().checked_mul(1_000_000_000).and_then(|ns| ns.checked_add(time.tv_nsec()));
                }
                ControlMessageOwned::Ipv4Ttl(ttl) => {
                    hops = i64::from(TTL).checked_sub(i64::from(ttl)).and_then(|hops| u8::try_from(hops).ok());
                }
                ControlMessageOwned::RxqOvfl(lost) => self.overflow.set(lost),
                _ => {}
            }
        }
        let Some(address) = message.address else { return Ok(None) };
        let from = SocketAddr::V4(std::net::SocketAddrV4::from(address));
        Ok(Some(Arrival { length: message.bytes, from, at_ns, hops }))
    }
}

/// Errors that say that a datagram does not arrive, not that the test cannot go on.
pub(super) fn lost_on_the_way(error: &io::Error) -> bool {
    use libc::{ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENOBUFS, EPERM};
    let errors = [ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENOBUFS, EPERM];
    error.raw_os_error().is_some_and(|number| errors.contains(&number))
}
