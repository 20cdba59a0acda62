//! The built-in HTTP server: `/` and `/image.png?size=16MB`, the same bytes for the same URL, always.
//!
//! One thread serves by default, as one nginx worker does. Responses carry neither a date nor anything else that
//! changes from one to the next. Images leave through sendfile(2) from memory that all of them share, so that the server
//! copies no more than nginx does.

mod connection;
mod request;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::page;

/// Connections that may wait to be accepted. The kernel cuts this to `net.core.somaxconn` (4096 since Linux 5.4).
const BACKLOG: u32 = 4096;

/// How long connections may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(1);

/// Serves on `address` until SIGTERM or SIGINT; `ready` is called with the address in use once connections are accepted
/// (the port differs from what was asked for when that was 0).
///
/// One thread serves everything on its own; more threads share the connections. Errors: the address is in use or not
/// this host's, or no thread can be started.
pub fn serve(address: SocketAddr, threads: NonZeroUsize, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    runtime(threads)?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let end = async move {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = interrupt.recv() => (),
            }
        };
        serve_until(listen(address)?, ready, end).await
    })
}

fn runtime(threads: NonZeroUsize) -> io::Result<tokio::runtime::Runtime> {
    let mut builder = match threads.get() {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.worker_threads(threads.get()).enable_all().build()
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Linux hands this on to every accepted connection.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The block that images are made of, as a file in memory.
fn block() -> io::Result<OwnedFd> {
    let file = memfd_create("vptest-image", MFdFlags::MFD_CLOEXEC)?;
    let mut bytes = page::block();
    while !bytes.is_empty() {
        let written = nix::unistd::write(&file, bytes)?;
        bytes = &bytes[written..];
    }
    Ok(file)
}

/// Serves on a listening socket until `end`, then lets the requests under way finish for a moment.
async fn serve_until(
    listener: TcpListener,
    ready: impl FnOnce(SocketAddr),
    end: impl Future<Output = ()>,
) -> io::Result<()> {
    let (closing, closed) = watch::channel(());
    let block = Arc::new(block()?);
    ready(listener.local_addr()?);
    tokio::pin!(end);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(tokio::spawn(connection::serve(stream, Arc::clone(&block), closed.clone()))),
                Err(error) => wait_after(&error).await?,
            },
            () = &mut end => break,
        }
    }
    drop((listener, closed));
    // Connections see this between two requests; `closed` returns when the last one has dropped its receiver.
    closing.send_replace(());
    let _ = tokio::time::timeout(GRACE, closing.closed()).await;
    Ok(())
}

/// A connection that was gone before it was accepted is no trouble; without descriptors or memory a pause may help;
/// anything else will not get better.
async fn wait_after(error: &io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ECONNABORTED | libc::ECONNRESET | libc::EINTR | libc::EPROTO) => Ok(()),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
            tracing::warn!("cannot accept a connection: {error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(())
        }
        _ => Err(io::Error::new(error.kind(), format!("cannot accept connections: {error}"))),
    }
}

#[cfg(test)]
mod tests;
