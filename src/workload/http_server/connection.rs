//! One connection: requests in, responses out.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::sendfile::sendfile64;
use nix::sys::socket::{MsgFlags, send};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::super::page::{self, Chunks, NoPage, Page};
use super::request::{HEAD_LIMIT, Method, Request, head_length, parse};

/// Input that is thrown away before a connection with a bad request is closed: closing with unread input would reset it,
/// and the client might never see the answer.
const LINGER: (u64, Duration) = (64 << 10, Duration::from_millis(200));

/// Serves a connection to its end. A client that breaks off, or sends what is no request, ends its own connection only.
pub(super) async fn serve(stream: TcpStream, block: Arc<OwnedFd>, closing: watch::Receiver<()>) {
    // There is nobody to tell: the client is gone.
    let _ = Connection { stream, block, closing, input: Vec::new() }.run().await;
}

struct Connection {
    stream: TcpStream,
    block: Arc<OwnedFd>,
    closing: watch::Receiver<()>,
    /// Bytes that arrived and were not used yet.
    input: Vec<u8>,
}

/// A response.
#[derive(Debug, Clone)]
struct Reply {
    status: &'static str,
    kind: &'static str,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    Bytes(&'static [u8]),
    Image(crate::units::ByteSize),
}

impl Connection {
    async fn run(&mut self) -> io::Result<()> {
        while let Some(length) = self.head().await? {
            let Some(request) = length.and_then(|length| parse(&self.input[..length])) else {
                return self.refuse().await;
            };
            let (method, keep, reply) = (request.method, request.keep, answer(&request));
            self.input.drain(..length.unwrap_or(0));
            self.send(&reply, method, keep).await?;
            if !keep {
                break;
            }
        }
        self.stream.shutdown().await
    }

    /// Reads until a head is there, and gives its length: `Some(None)` when it is too long, `None` when the client or
    /// the server is done.
    async fn head(&mut self) -> io::Result<Option<Option<usize>>> {
        let mut searched = 0;
        loop {
            if let Some(length) = head_length(&self.input, searched) {
                return Ok(Some(Some(length)));
            }
            if self.input.len() > HEAD_LIMIT {
                return Ok(Some(None));
            }
            searched = self.input.len();
            self.input.reserve(1024);
            tokio::select! {
                biased;
                read = self.stream.read_buf(&mut self.input) => if read? == 0 {
                    return Ok(None);
                },
                _ = self.closing.changed() => return Ok(None),
            }
        }
    }

    async fn refuse(&mut self) -> io::Result<()> {
        let reply = message("400 Bad Request", "not a request without a body in HTTP/1.0 or 1.1\n");
        self.send(&reply, Method::Get, false).await?;
        self.stream.shutdown().await?;
        let (bytes, time) = LINGER;
        let mut rest = (&mut self.stream).take(bytes);
        let mut nowhere = tokio::io::sink();
        let drain = tokio::io::copy(&mut rest, &mut nowhere);
        let _ = tokio::time::timeout(time, drain).await;
        Ok(())
    }

    async fn send(&mut self, reply: &Reply, method: Method, keep: bool) -> io::Result<()> {
        let mut head = head(reply, keep).into_bytes();
        match reply.body {
            _ if method == Method::Head => self.stream.write_all(&head).await,
            Body::Bytes(bytes) => {
                head.extend_from_slice(bytes);
                self.stream.write_all(&head).await
            }
            Body::Image(size) => {
                self.write_more(&head).await?;
                self.send_image(Chunks::of(size)).await
            }
        }
    }

    /// Writes what the kernel shall hold back until more follows, so that head and body share their packets.
    async fn write_more(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let flags = MsgFlags::from_bits_retain(libc::MSG_MORE) | MsgFlags::MSG_NOSIGNAL;
            let sent = self.stream.async_io(Interest::WRITABLE, || Ok(send(self.stream.as_raw_fd(), bytes, flags)?));
            bytes = &bytes[sent.await?..];
        }
        Ok(())
    }

    async fn send_image(&self, chunks: Chunks) -> io::Result<()> {
        for range in chunks {
            let mut offset = i64::try_from(range.start).expect("the block is small");
            let mut left = range.len();
            while left > 0 {
                let sent = self.stream.async_io(Interest::WRITABLE, || {
                    Ok(sendfile64(self.stream.as_fd(), self.block.as_fd(), Some(&mut offset), left)?)
                });
                match sent.await? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    sent => left -= sent,
                }
            }
        }
        Ok(())
    }
}

fn answer(request: &Request<'_>) -> Reply {
    if request.method == Method::Other {
        return message("405 Method Not Allowed", "only GET and HEAD\n");
    }
    match page::lookup(request.url) {
        Ok(Page::Root) => Reply { status: "200 OK", kind: "text/html", body: Body::Bytes(page::ROOT) },
        Ok(Page::Image(size)) => Reply { status: "200 OK", kind: "image/png", body: Body::Image(size) },
        Err(NoPage::NotFound) => message("404 Not Found", "there are / and /image.png?size=16MB\n"),
        Err(NoPage::BadSize) => {
            message("400 Bad Request", "size is a number with B, kB, MB, GB, KiB, MiB or GiB, at most 16GiB\n")
        }
    }
}

fn message(status: &'static str, text: &'static str) -> Reply {
    Reply { status, kind: "text/plain", body: Body::Bytes(text.as_bytes()) }
}

/// Names are written as ab and other old clients look for them.
fn head(reply: &Reply, keep: bool) -> String {
    let Reply { status, kind, body } = reply;
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let length = match body {
        Body::Bytes(bytes) => bytes.len() as u64,
        Body::Image(size) => size.0,
    };
    let connection = if keep { "keep-alive" } else { "close" };
    format!(
        "HTTP/1.1 {status}\r\nServer: vptest\r\n{allow}Content-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\n\r\n"
    )
}
