//! `vptest serve-http`: the HTTP server of the workload `ab`, as it is started on server nodes.

use std::net::SocketAddr;

use super::exit::{Exit, Failure};
use crate::workload::http_server;

/// Serve `/` and `/image.png?size=16MB` over HTTP (started by the workload `ab`)
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Threads that serve
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    http_server::serve(args.listen, args.threads)?;
    Ok(Exit::Done)
}
