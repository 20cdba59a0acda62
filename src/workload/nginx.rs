//! nginx as the server of preset `ab`: one process, everything it needs in the scratch directory.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use super::page::{Chunks, Page, ROOT};
use super::{PairContext, Server, WorkloadError};
use crate::node::Command;
use crate::spec::Ready;

/// Largest image that is written to a node's scratch directory for nginx.
const IMAGE_LIMIT: u64 = 1 << 30;

/// Files and command of an nginx that serves `page` (and `/`) to `workers` clients at once.
pub(super) fn server(pair: &PairContext<'_>, page: Page, workers: u64) -> Result<Server, WorkloadError> {
    let scratch = pair.server_scratch;
    check_path(scratch)?;
    let mut files = vec![
        (format!("{scratch}/nginx.conf"), config(pair, workers).into_bytes()),
        (format!("{scratch}/nginx-root.html"), ROOT.to_vec()),
    ];
    if let Page::Image(size) = page {
        if size.0 > IMAGE_LIMIT {
            let why = format!("nginx serves images up to {IMAGE_LIMIT} bytes; use server = \"builtin\"");
            return Err(WorkloadError::Unusable { value: size.to_string(), why });
        }
        files.push((format!("{scratch}/nginx-image.png"), Chunks::of(size).collect::<Vec<_>>().concat()));
    }
    let argv = ["nginx", "-p", scratch, "-c", &format!("{scratch}/nginx.conf")].map(str::to_owned).to_vec();
    Ok(Server {
        files,
        command: Command { argv, ..Command::default() },
        ready: vec![Ready::Tcp(pair.port)],
        ready_timeout: Duration::from_secs(10),
        ends_by_itself: false,
        stop_signal: libc::SIGQUIT,
        settling: None,
    })
}

/// nginx has no way to write some characters in a path (`$` begins a variable everywhere).
fn check_path(path: &str) -> Result<(), WorkloadError> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ',' | '@' | ':' | '=' | ' ');
    if path.chars().all(plain) {
        return Ok(());
    }
    let why = "nginx cannot be told a path with quotes, `$`, `;`, braces or control characters".to_owned();
    Err(WorkloadError::Unusable { value: path.to_owned(), why })
}

fn config(pair: &PairContext<'_>, workers: u64) -> String {
    let scratch = pair.server_scratch;
    let listen = match pair.server {
        IpAddr::V4(address) => format!("{address}:{}", pair.port),
        IpAddr::V6(address) => format!("[{address}]:{}", pair.port),
    };
    // Each connection takes one entry; some more are for the listening socket and for connections that are closing.
    let connections = workers.saturating_mul(2).max(1024) + 64;
    let mut text = String::new();
    // `user` must name someone the kernel can map: in a user namespace of its own there is only root. nginx then
    // leaves the owner of its directories as it is. Without root the directive is ignored with a warning.
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("a string takes any text");
    line(format_args!("user root root;"));
    line(format_args!("daemon off;"));
    line(format_args!("master_process off;"));
    line(format_args!("worker_rlimit_nofile {};", connections + 64));
    line(format_args!("pid \"{scratch}/nginx.pid\";"));
    line(format_args!("error_log stderr warn;"));
    line(format_args!("events {{ worker_connections {connections}; }}"));
    line(format_args!("http {{"));
    line(format_args!("    access_log off;"));
    line(format_args!("    server_tokens off;"));
    line(format_args!("    sendfile on;"));
    line(format_args!("    tcp_nodelay on;"));
    // The defaults end a connection after 1000 requests, which ab -k would see as failures.
    line(format_args!("    keepalive_requests 1000000000;"));
    line(format_args!("    keepalive_timeout 1d;"));
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        line(format_args!("    {kind}_temp_path \"{scratch}/nginx-{kind}\";"));
    }
    line(format_args!("    server {{"));
    line(format_args!("        listen {listen} backlog=4096;"));
    // nginx serves no file under a name that ends with a slash, not even by `alias`.
    line(format_args!("        root \"{scratch}\";"));
    line(format_args!("        location = / {{ default_type text/html; rewrite ^ /nginx-root.html break; }}"));
    line(format_args!(
        "        location = /image.png {{ default_type image/png; alias \"{scratch}/nginx-image.png\"; }}"
    ));
    line(format_args!("        location / {{ return 404; }}"));
    line(format_args!("    }}"));
    line(format_args!("}}"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Tuple;
    use crate::units::ByteSize;
    use crate::workload::tests::pair;

    #[test]
    fn files_are_in_scratch_and_have_the_size_asked_for() {
        let tuple = Tuple::default();
        let server = server(&pair(&tuple), Page::Image(ByteSize(1_500_000)), 10).unwrap();
        assert_eq!(server.command.argv, ["nginx", "-p", "/s", "-c", "/s/nginx.conf"]);
        let sizes: Vec<_> = server.files.iter().map(|(path, content)| (path.as_str(), content.len())).collect();
        assert_eq!(sizes[1..], [("/s/nginx-root.html", ROOT.len()), ("/s/nginx-image.png", 1_500_000)]);
        assert_eq!(server.stop_signal, libc::SIGQUIT);
    }

    #[test]
    fn what_nginx_cannot_do_is_refused() {
        let tuple = Tuple::default();
        let context = PairContext { server_scratch: "/tmp/a$b", ..pair(&tuple) };
        let error = server(&context, Page::Root, 1).unwrap_err().to_string();
        assert!(error.starts_with("`/tmp/a$b`: nginx cannot"), "{error}");
        let error = server(&pair(&tuple), Page::Image(ByteSize(2 << 30)), 1).unwrap_err().to_string();
        assert!(error.contains("use server = \"builtin\""), "{error}");
    }
}
