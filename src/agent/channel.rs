//! The agent's end of its channel: standard input and output, or a virtio-serial port.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// A descriptor that the runtime waits for: a pipe, a socket, a terminal, a virtio-serial port.
#[derive(Debug)]
pub(super) struct Descriptor(AsyncFd<OwnedFd>);

impl Descriptor {
    /// # Errors
    /// `EPERM` for a file, which cannot be waited for.
    #[expect(unsafe_code, reason = "tokio asks for the promise that the descriptor stays the same")]
    pub(super) fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: an `OwnedFd` returns the same descriptor all its life and closes it only when dropped.
        Ok(Self(unsafe { AsyncFd::register_with_interest(fd, interest) }?))
    }
}

impl AsyncRead for Descriptor {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let room = into.initialize_unfilled();
            match ready.try_io(|fd| nix::unistd::read(fd, room).map_err(io::Error::from)) {
                Ok(Ok(count)) => {
                    into.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Descriptor {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            match ready.try_io(|fd| nix::unistd::write(fd, bytes).map_err(io::Error::from)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Both ways of the standard streams. Nothing else may use them from then on.
pub(super) fn stdio() -> io::Result<(Descriptor, Descriptor)> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    Ok((Descriptor::new(input, Interest::READABLE)?, Descriptor::new(output, Interest::WRITABLE)?))
}

/// Both ways of an open port.
pub(super) fn both_ways(port: &File) -> io::Result<(Descriptor, Descriptor)> {
    let (input, output) = (port.try_clone()?.into(), port.try_clone()?.into());
    Ok((Descriptor::new(input, Interest::READABLE)?, Descriptor::new(output, Interest::WRITABLE)?))
}

/// Opens the virtio-serial port of that name. There is no udev to ask in a guest: the kernel lists the names.
///
/// # Errors
/// `NotFound` with the names there are.
pub(super) fn open_port(name: &str) -> io::Result<File> {
    let path = find_port(name)?;
    let open = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(&path);
    open.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn find_port(name: &str) -> io::Result<PathBuf> {
    const PORTS: &str = "/sys/class/virtio-ports";
    let mut names = Vec::new();
    match std::fs::read_dir(PORTS) {
        Ok(entries) => {
            for entry in entries.flatten() {
                let this = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
                if this.trim_end() == name {
                    return Ok(PathBuf::from("/dev").join(entry.file_name()));
                }
                names.push(this.trim_end().to_owned());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no virtio-serial port {name} (there are: {there})")))
}

/// Is standard input or output a terminal? No host is at the other end of one.
pub fn is_terminal() -> bool {
    use std::io::IsTerminal as _;
    io::stdin().is_terminal() || io::stdout().is_terminal()
}
