//! `vptest syscalls`

use std::io::Write as _;
use std::path::PathBuf;

use super::exit::{Exit, Failure};
use crate::instrument::syscalls::{LogError, Logged, read_log};

/// Print a log of system calls as CSV
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Logs are written with `log = true` in [instrument.syscalls]. A call that never returned has an empty time and result. \
Numbers of processes and threads are those of the first PID namespace, times those of the kernel's monotonic clock.

Exit status: 0, 4 when the file is no log or damaged.

Examples:
  vptest syscalls out/000001-0123456789ab.d/syscalls-host.zst | head")]
pub(super) struct Args {
    /// The log
    file: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let unreadable = |error: LogError| {
        Failure::new(Exit::Unreadable, anyhow::Error::from(error).context(args.file.display().to_string()))
    };
    let calls = read_log(&args.file).map_err(unreadable)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    writeln!(out, "entered_ns,took_ns,result,node,process,thread,name,call")?;
    for call in &calls {
        write_line(&mut out, call)?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

fn write_line(out: &mut impl std::io::Write, call: &Logged) -> std::io::Result<()> {
    let took = call.took_ns.map(|n| n.to_string()).unwrap_or_default();
    let result = call.result.map(|n| n.to_string()).unwrap_or_default();
    let Logged { entered_ns, node, process, thread, call: name, .. } = call;
    let comm = quoted(&call.name);
    writeln!(out, "{entered_ns},{took},{result},{node},{process},{thread},{comm},{name}")
}

/// RFC 4180: a name may have commas and quotes.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}
