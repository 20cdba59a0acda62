//! `vptest clean`

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::exit::{Exit, Failure};
use super::plan_file;
use crate::host::kept;
use crate::runner::{Recovered, recover};
use crate::testbed::minimega::leftovers;

/// Remove what dead runs left behind, and testbeds that --keep-failed left up; nothing else
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Processes, namespaces and links of a run go with it, however it ends. What can stay behind are scratch files and \
half-written files in the campaign's directory, testbeds that were kept on purpose, and what was made in a minimega: its \
namespaces, and without the minimega its machines, taps and files. Of these only what this campaign has noted in its \
directory is removed. An attempt that died is stored as interrupted on the way.

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
    let in_minimega = if args.out.exists() { minimega(&args.out) } else { Ok(leftovers::Removed::default()) };
    // What cannot be read keeps nothing else from being removed.
    let in_minimega = in_minimega.unwrap_or_else(|error| leftovers::Removed {
        removed: Vec::new(),
        left: vec![format!("journals of minimega's namespaces: {error:#}")],
    });
    let mut kept = kept::remove_all();
    kept.removed.extend(in_minimega.removed);
    kept.left.extend(in_minimega.left);
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

/// What this campaign has left in minimega, what was kept on purpose included.
fn minimega(out: &Path) -> anyhow::Result<leftovers::Removed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cleaned = runtime.block_on(leftovers::clean(out, leftovers::Kept::Goes));
    cleaned.with_context(|| format!("cannot read what was made in minimega, in {}", out.display()))
}
