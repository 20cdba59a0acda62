//! The built-in HTTP server on its own: `serve_http 127.0.0.1:8080 [THREADS]`, for comparisons with other servers.

use std::num::NonZeroUsize;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned()).parse()?;
    let threads = arguments.next().map_or(Ok(NonZeroUsize::MIN), |text| text.parse())?;
    vptest::workload::http_server::serve(address, threads, |address| println!("listening on {address}"))?;
    Ok(())
}
