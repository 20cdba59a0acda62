//! `vptest clean`

use std::path::PathBuf;

use super::exit::{Exit, Failure};
use super::plan_file;
use crate::host::kept;
use crate::runner::{Recovered, recover};

/// Remove what dead runs left behind, and testbeds that --keep-failed left up; nothing else
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Processes, namespaces and links of a run go with it, however it ends. What can stay behind are scratch files and \
half-written files in the campaign's directory, and testbeds that were kept on purpose. An attempt that died is stored \
as interrupted on the way.

Examples:
  vptest clean            in out/
  vptest clean -o study   in study/")]
pub(super) struct Args {
    /// Directory of the campaign
    #[arg(short, long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let plan = if plan_file::path(&args.out).exists() { Some(plan_file::read(&args.out)?) } else { None };
    let mut found = 0;
    if args.out.exists() {
        for recovered in recover(plan.as_ref(), &args.out)? {
            found += 1;
            match recovered {
                Recovered::Attempt { number, text } => eprintln!("iteration {number}: {text}"),
                Recovered::Removed(path) => eprintln!("removed {}", path.display()),
            }
        }
    }
    let kept = kept::remove_all();
    for line in &kept.removed {
        eprintln!("removed {line}");
    }
    for line in &kept.left {
        eprintln!("left over: {line}");
    }
    if found + kept.removed.len() + kept.left.len() == 0 {
        eprintln!("nothing to remove");
    }
    Ok(if kept.left.is_empty() { Exit::Done } else { Exit::SomeFailed })
}
