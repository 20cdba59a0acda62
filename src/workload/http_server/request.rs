//! The head of an HTTP/1.0 or 1.1 request, as far as the built-in server looks at it.

/// Longest head that is read.
pub(super) const HEAD_LIMIT: usize = 16 << 10;

/// A request without a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// Path and query.
    pub(super) url: &'a str,
    /// Does the client want to use the connection again?
    pub(super) keep: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Other,
}

/// Length of the head at the start of `bytes`, its empty line included; `None` while it is not whole.
///
/// `searched` bytes are known to hold no end.
pub(super) fn head_length(bytes: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(3);
    bytes[from..].windows(4).position(|window| window == b"\r\n\r\n").map(|at| from + at + 4)
}

/// Reads a head; `None` for what is no request, or one with a body: nothing here takes one, and the bytes after it
/// could not be told from the next request.
pub(super) fn parse(head: &[u8]) -> Option<Request<'_>> {
    let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let mut keep = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ => return None,
    };
    if words.next().is_some() || method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase()) {
        return None;
    }
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("connection") {
            keep = connection(value, keep);
        } else if name.eq_ignore_ascii_case("transfer-encoding")
            || name.eq_ignore_ascii_case("content-length") && value != "0"
        {
            return None;
        }
    }
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        _ => Method::Other,
    };
    Some(Request { method, url: path(target)?, keep })
}

fn connection(value: &str, default: bool) -> bool {
    let has = |word: &str| value.split(',').any(|option| option.trim().eq_ignore_ascii_case(word));
    if has("close") { false } else { default || has("keep-alive") }
}

/// The path of an origin form (`/x`) or absolute form (`http://host/x`; RFC 9112 §3.2.2).
fn path(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return Some(target);
    }
    let rest = target.strip_prefix("http://")?;
    Some(rest.find('/').map_or("/", |at| &rest[at..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_read() {
        let check = |head: &str, method, url, keep| {
            assert_eq!(parse(head.as_bytes()), Some(Request { method, url, keep }), "{head}");
        };
        check("GET / HTTP/1.0\r\n\r\n", Method::Get, "/", false);
        check("GET /a?b HTTP/1.0\r\nConnection: Keep-Alive\r\nHost: x\r\n\r\n", Method::Get, "/a?b", true);
        check("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", Method::Head, "/", true);
        check("GET / HTTP/1.1\r\nconnection: x, CLOSE\r\n\r\n", Method::Get, "/", false);
        check("DELETE http://h:80/x HTTP/1.1\r\nContent-Length: 0\r\n\r\n", Method::Other, "/x", true);
        check("GET http://h HTTP/1.1\r\n\r\n", Method::Get, "/", true);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for head in [
            "",
            "\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET / x HTTP/1.1\r\n\r\n",
            "get / HTTP/1.1\r\n\r\n",
            "GET x HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nno header\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(parse(head.as_bytes()), None, "{head}");
        }
        assert_eq!(parse(b"GET /\xff HTTP/1.1\r\n\r\n"), None);
    }

    proptest! {
        #[test]
        fn the_end_is_found_however_it_arrives(head in "[a-z\r\n]{0,40}", rest in "[a-z]{0,5}", searched in 0..40_usize) {
            let text = format!("{head}\r\n\r\n{rest}");
            let first = text.find("\r\n\r\n").unwrap() + 4;
            prop_assert_eq!(head_length(text.as_bytes(), searched.min(first - 1)), Some(first));
            prop_assert_eq!(head_length(&text.as_bytes()[..first - 1], 0), None);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
