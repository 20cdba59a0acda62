use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream as StdStream};
use std::sync::mpsc;

use tokio::sync::oneshot;

use super::*;
use crate::units::ByteSize;

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
fn exchange(server: &Running, text: &str) -> Vec<u8> {
    let mut stream = StdStream::connect(server.address).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

fn as_text(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).into_owned()
}

#[test]
fn status_and_length_are_right() {
    let server = start();
    for (request, status, length) in [
        ("GET / HTTP/1.0", "200 OK", Some(615)),
        ("GET /image.png?size=100 HTTP/1.0", "200 OK", Some(100)),
        ("GET /image.png?size=0 HTTP/1.0", "200 OK", Some(0)),
        ("GET /image.png?size=5MiB HTTP/1.0", "200 OK", Some(5 << 20)),
        ("GET /nope HTTP/1.0", "404 Not Found", None),
        ("GET /image.png?size=17GiB HTTP/1.0", "400 Bad Request", None),
        ("GET /image.png HTTP/1.0", "400 Bad Request", None),
        ("POST / HTTP/1.0", "405 Method Not Allowed", None),
        ("nonsense", "400 Bad Request", None),
    ] {
        let answer = exchange(&server, &format!("{request}\r\n\r\n"));
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let (head, body) = (as_text(&answer[..end]), &answer[end..]);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}: {head}");
        assert_eq!(body.len(), length.unwrap_or(body.len()), "{request}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{request}: {head}");
    }
}

#[test]
fn images_arrive_as_they_are_meant() {
    let answer = exchange(&start(), "GET /image.png?size=3MB HTTP/1.0\r\n\r\n");
    assert!(answer.ends_with(&page::image(ByteSize(3_000_000))));
}

#[test]
fn head_has_the_length_and_no_body() {
    let answer = as_text(&exchange(&start(), "HEAD /image.png?size=16GiB HTTP/1.0\r\n\r\n"));
    assert!(answer.contains("Content-Length: 17179869184\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"));
}

#[test]
fn answers_are_byte_identical() {
    let server = start();
    for url in ["/", "/image.png?size=3MB"] {
        let request = format!("GET {url} HTTP/1.0\r\n\r\n");
        assert_eq!(exchange(&server, &request), exchange(&server, &request));
    }
}

#[test]
fn connections_are_kept_as_asked() {
    let server = start();
    // What ab -k sends; it needs the header in the answer to go on.
    let keep = "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
    let answer = as_text(&exchange(&server, &format!("{keep}GET / HTTP/1.0\r\n\r\n")));
    assert_eq!(answer.matches("200 OK").count(), 2, "{answer}");
    assert_eq!(answer.matches("Connection: keep-alive\r\n").count(), 1, "{answer}");
    let both = "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(as_text(&exchange(&server, both)).matches("HTTP/1.1 200 OK").count(), 2);
}

#[test]
fn a_request_may_come_in_pieces_and_not_without_end() {
    let server = start();
    let mut stream = StdStream::connect(server.address).unwrap();
    for piece in ["GE", "T / HTTP", "/1.0\r", "\n\r", "\n"] {
        stream.write_all(piece.as_bytes()).unwrap();
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(as_text(&answer).starts_with("HTTP/1.1 200 OK"));
    let endless = format!("GET / HTTP/1.0\r\nX: {}", "y".repeat(40_000));
    assert!(as_text(&exchange(&server, &endless)).starts_with("HTTP/1.1 400 Bad Request"));
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
