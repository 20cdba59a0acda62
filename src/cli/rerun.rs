//! `vptest rerun`

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::exit::{Exit, Failure};
use super::{Verbosity, bundle, plan_file, run};
use crate::bundle::{DATABASE, extract};
use crate::store::{self, Database};

/// Facts that differ and are shown; the rest is counted.
const SHOWN: usize = 40;

/// Run iterations of a bundle again, here
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What a bundle says is run here, as whoever runs this: know where it is from. The bundle is verified, its plan written to a directory of its own, and its iterations are run there as `vptest run` would. \
Afterwards it says which facts about hosts and programs differ from those of the bundle. Results can then be compared: \
`vptest merge DIR/*.db -o again.db`, and `vptest analyze` over each.

Exit status: as of `vptest run`; 4 when the bundle is not as it was written.

Examples:
  vptest rerun study.tar.zst --iter 1-10
  vptest rerun study.tar.zst -o again")]
pub(super) struct Args {
    /// The bundle
    bundle: PathBuf,
    /// Iterations to run, by number: `7`, `1-100,205` (default: all)
    #[arg(long, value_name = "N[-M],...")]
    iter: Option<String>,
    /// Directory for the new campaign
    #[arg(short, long, value_name = "DIR", default_value = "rerun")]
    out: PathBuf,
}

pub(super) fn run(args: &Args, verbosity: Verbosity) -> Result<Exit, Failure> {
    let scratch = tempfile::tempdir().context("cannot make a directory for the database")?;
    let bundle = bundle::whole(&args.bundle, scratch.path())?;
    if plan_file::path(&args.out).exists() {
        let there = plan_file::read(&args.out)?;
        if there.spec_hash != bundle.plan.spec_hash {
            let text = format!("{} holds another sweep, `{}`", args.out.display(), there.spec.name);
            return Err(Failure::text(Exit::Usage, text).hint("choose another directory with -o"));
        }
    } else {
        plan_file::write(&args.out, &bundle.plan)?;
    }
    let exit = run::run(&run::Args::of(&args.out, args.iter.clone()), verbosity)?;
    if bundle.files.contains_key(DATABASE) {
        // It is there from the verification, unless something has removed it.
        let then = scratch.path().join(DATABASE);
        if !then.exists() {
            let mut file = std::fs::File::create(&then).context("cannot unpack the database")?;
            extract(&args.bundle, DATABASE, &mut file).map_err(|error| bundle::unreadable(&args.bundle, error))?;
        }
        show(&then, &args.out, scratch.path())?;
    }
    Ok(exit)
}

/// By name of the fact, its values.
type Facts = BTreeMap<String, BTreeSet<String>>;

fn facts(database: &Path) -> Result<Facts, Failure> {
    let read = Database::open(database).and_then(|database| database.circumstances());
    let mut all = Facts::new();
    for (fact, _) in read.map_err(|error| Failure::new(Exit::Unreadable, error))?.facts {
        if fact.name != crate::record::SPEC {
            all.entry(fact.name).or_default().insert(crate::text::printable(&fact.value, 100));
        }
    }
    Ok(all)
}

/// Says which facts differ.
fn show(then: &Path, out: &Path, scratch: &Path) -> Result<(), Failure> {
    let attempts = store::scan(out).map_err(anyhow::Error::from)?;
    if attempts.is_empty() {
        return Ok(());
    }
    let files: Vec<PathBuf> = attempts.iter().map(|name| out.join(name.to_string())).collect();
    let now = scratch.join("now.db");
    store::merge(&files, &now, &mut |_| {}).map_err(anyhow::Error::from)?;
    let (then, now) = (facts(then)?, facts(&now)?);
    let names: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
    let differ: Vec<&String> = names.into_iter().filter(|name| then.get(*name) != now.get(*name)).collect();
    let mut out = std::io::stdout().lock();
    if differ.is_empty() {
        writeln!(out, "no fact about hosts and programs differs from those of the bundle")?;
    }
    let shown = |values: Option<&BTreeSet<String>>| match values {
        Some(values) => values.iter().map(String::as_str).collect::<Vec<_>>().join(" | "),
        None => "(not known)".to_owned(),
    };
    for name in differ.iter().take(SHOWN) {
        writeln!(
            out,
            "{name}\n  in the bundle: {}\n  here:          {}",
            shown(then.get(*name)),
            shown(now.get(*name))
        )?;
    }
    if differ.len() > SHOWN {
        writeln!(out, "and {} other facts differ", differ.len() - SHOWN)?;
    }
    Ok(())
}
