//! The built-in HTTP server: `/` and `/image.png?size=16MB`, the same bytes for the same URL, always.
//!
//! One thread serves by default, as one nginx worker does. Responses carry neither a date nor anything else that
//! changes from one to the next.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::page::{self, Chunks, NoPage, Page};

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
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves on a listening socket until `end`, then lets the requests under way finish for a moment.
async fn serve_until(
    listener: TcpListener,
    ready: impl FnOnce(SocketAddr),
    end: impl Future<Output = ()>,
) -> io::Result<()> {
    let (closing, closed) = watch::channel(());
    ready(listener.local_addr()?);
    tokio::pin!(end);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(tokio::spawn(connection(stream, closed.clone()))),
                Err(error) => wait_after(&error).await?,
            },
            () = &mut end => break,
        }
    }
    drop((listener, closed));
    // Receivers end when they see this; `closed` returns when the last connection has dropped its own.
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

async fn connection(stream: TcpStream, mut closing: watch::Receiver<()>) {
    if stream.set_nodelay(true).is_err() {
        return; // It is closed already.
    }
    let service = service_fn(async |request| Ok::<_, Infallible>(answer(&request)));
    let mut connection = std::pin::pin!(builder().serve_connection(TokioIo::new(stream), service));
    // A client that breaks off, or sends what is no request, ends its own connection only.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = closing.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.auto_date_header(false).header_read_timeout(None).max_headers(64).max_buf_size(64 << 10);
    builder
}

fn answer(request: &Request<Incoming>) -> Response<Content> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return message(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    let url = request.uri().path_and_query().map_or("", |url| url.as_str());
    match page::lookup(url) {
        Ok(Page::Root) => response(StatusCode::OK, "text/html", Content::Whole(Some(Bytes::from_static(page::ROOT)))),
        Ok(Page::Image(size)) => response(StatusCode::OK, "image/png", Content::Image(Chunks::of(size))),
        Err(NoPage::NotFound) => message(StatusCode::NOT_FOUND, "there are / and /image.png?size=16MB\n"),
        Err(NoPage::BadSize) => {
            message(StatusCode::BAD_REQUEST, "size is a number with B, kB, MB, GB, KiB, MiB or GiB, at most 16GiB\n")
        }
    }
}

fn message(status: StatusCode, text: &'static str) -> Response<Content> {
    response(status, "text/plain", Content::Whole(Some(Bytes::from_static(text.as_bytes()))))
}

fn response(status: StatusCode, kind: &'static str, content: Content) -> Response<Content> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A response body; its exact length becomes the Content-Length.
enum Content {
    Whole(Option<Bytes>),
    Image(Chunks),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) => bytes.take(),
            Self::Image(chunks) => chunks.next(),
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(bytes) => bytes.as_ref().map_or(0, Bytes::len) as u64,
            Self::Image(chunks) => chunks.left(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpStream as StdStream};
    use std::sync::mpsc;

    use tokio::sync::oneshot;

    use super::*;

    /// A server in a thread of its own, ended and joined on drop.
    struct Running {
        address: SocketAddr,
        end: Option<oneshot::Sender<()>>,
        thread: Option<std::thread::JoinHandle<io::Result<()>>>,
    }

    fn start() -> Running {
        let (tell, address) = mpsc::channel();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            runtime(NonZeroUsize::MIN)?.block_on(async {
                let listener = listen((Ipv4Addr::LOCALHOST, 0).into())?;
                serve_until(listener, |address| tell.send(address).unwrap(), async { drop(ended.await) }).await
            })
        });
        Running { address: address.recv().unwrap(), end: Some(end), thread: Some(thread) }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            drop(self.end.take());
            if let Some(thread) = self.thread.take() {
                thread.join().unwrap().unwrap();
            }
        }
    }

    /// Sends one text and reads until the server closes.
    fn exchange(server: &Running, text: &str) -> String {
        let mut stream = StdStream::connect(server.address).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn status_and_length_are_right() {
        let server = start();
        for (request, status, length) in [
            ("GET / HTTP/1.0", "200 OK", Some(615)),
            ("GET /image.png?size=100 HTTP/1.0", "200 OK", Some(100)),
            ("GET /image.png?size=0 HTTP/1.0", "200 OK", Some(0)),
            ("GET /nope HTTP/1.0", "404 Not Found", None),
            ("GET /image.png?size=17GiB HTTP/1.0", "400 Bad Request", None),
            ("GET /image.png HTTP/1.0", "400 Bad Request", None),
            ("POST / HTTP/1.0", "405 Method Not Allowed", None),
        ] {
            let answer = exchange(&server, &format!("{request}\r\n\r\n"));
            assert!(answer.starts_with(&format!("HTTP/1.0 {status}\r\n")), "{request}: {answer}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let announced = format!("content-length: {}", length.unwrap_or(body.len()));
            assert!(head.to_ascii_lowercase().lines().any(|line| line == announced), "{request}: {head}");
        }
    }

    #[test]
    fn head_has_the_length_and_no_body() {
        let answer = exchange(&start(), "HEAD /image.png?size=16GiB HTTP/1.0\r\n\r\n");
        assert!(answer.to_ascii_lowercase().contains("content-length: 17179869184\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"));
    }

    #[test]
    fn answers_are_byte_identical() {
        let server = start();
        let request = "GET /image.png?size=3MB HTTP/1.0\r\n\r\n";
        let first = exchange(&server, request);
        assert_eq!(first, exchange(&server, request));
        assert!(!first[..200].to_ascii_lowercase().contains("\r\ndate:"));
    }

    #[test]
    fn connections_are_kept_as_asked() {
        let server = start();
        // What ab -k sends; it needs the header in the answer to go on.
        let keep = "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
        let answer = exchange(&server, &format!("{keep}GET / HTTP/1.0\r\n\r\n"));
        assert_eq!(answer.matches("200 OK").count(), 2, "{answer}");
        assert_eq!(answer.to_ascii_lowercase().matches("connection: keep-alive").count(), 1, "{answer}");
        let both = "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert_eq!(exchange(&server, both).matches("HTTP/1.1 200 OK").count(), 2);
    }

    #[test]
    fn an_idle_connection_does_not_hold_up_the_end() {
        let server = start();
        let mut idle = StdStream::connect(server.address).unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        idle.read_exact(&mut [0; 100]).unwrap();
        drop(server);
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).unwrap();
    }

    #[test]
    fn an_address_in_use_is_an_error() {
        let server = start();
        let runtime = runtime(NonZeroUsize::MIN).unwrap();
        let error = runtime.block_on(async { listen(server.address) }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
