//! Only the hidden subcommand `serve-http` so far.

use std::num::NonZeroUsize;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (address, threads) = match words[..] {
        ["serve-http", "--listen", address] => (address, NonZeroUsize::MIN),
        ["serve-http", "--listen", address, "--threads", threads] => (address, threads.parse()?),
        _ => anyhow::bail!("usage: vptest serve-http --listen ADDR:PORT [--threads N]"),
    };
    let announce = |address| println!("listening on {address}");
    vptest::workload::http_server::serve(address.parse()?, threads, announce)?;
    Ok(())
}
