//! Small reads of files and of the kernel's tables.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The whole file, or `None` when it is longer than `limit` bytes.
pub fn read_at_most(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut content)?;
    Ok((content.len() as u64 <= limit).then_some(content))
}

/// Is a TCP socket listening on `port` in the calling thread's network namespace? Sends nothing.
pub fn listening(port: u16) -> io::Result<bool> {
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    for table in tables {
        match std::fs::read_to_string(table) {
            Ok(text) if text.lines().skip(1).any(|line| listens_on(line, port)) => return Ok(true),
            Ok(_) => {}
            // A kernel without IPv6 has no second table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// One line of `/proc/net/tcp`: slot, local address, remote address, state (`0A` is LISTEN), ...
fn listens_on(line: &str, port: u16) -> bool {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next().and_then(|address| address.rsplit_once(':'));
    let state = fields.nth(1);
    let local_port = local.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
    local_port == Some(port) && state == Some("0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_count() {
        let listening_line = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1";
        let connected_line = "   0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000 0 0 1 1";
        assert!(listens_on(listening_line, 8080));
        assert!(!listens_on(listening_line, 8081));
        assert!(!listens_on(connected_line, 8080));
        assert!(!listens_on("", 8080));
    }

    #[test]
    fn a_real_listener_is_seen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(listening(port).unwrap());
    }

    #[test]
    fn a_longer_file_is_not_cut_but_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_at_most(&path, 5).unwrap().as_deref(), Some(&b"12345"[..]));
        assert_eq!(read_at_most(&path, 4).unwrap(), None);
    }
}
