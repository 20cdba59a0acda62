//! `vptest serve-http`: the HTTP server of the workload `ab`, as it is started on server nodes.

use std::io::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

use super::exit::{Exit, Failure};
use crate::workload::http_server;

/// Serve `/` and `/image.png?size=16MB` over HTTP (started by the workload `ab`)
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Threads that serve
    #[arg(long, value_name = "N", default_value = "1")]
    threads: NonZeroUsize,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    http_server::serve(args.listen, args.threads, |address| {
        // Whoever started it may not want to read this.
        let _ = writeln!(std::io::stdout(), "listening on {address}");
    })?;
    Ok(Exit::Done)
}
