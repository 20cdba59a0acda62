//! `vptest sweep`

use std::io::{BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::exit::{Exit, Failure};
use super::{Verbosity, colour, plan_file};
use crate::plan::Plan;
use crate::report::plan::{Estimate, write_commands, write_csv, write_json, write_summary};
use crate::runner::feasible;
use crate::spec::{Diagnostics, Spec};

/// Most bytes of a spec.
const MOST_BYTES: u64 = 16 << 20;
/// Tuples that are tried out when a plan is written; `vptest run` tries those it runs.
const TRIED_TUPLES: usize = 10_000;

/// Check a sweep spec, expand it and write its plan
#[derive(Debug, clap::Args)]
#[command(after_help = "\
All mistakes of a spec are shown, each at its place. docs/spec.md describes the file. A plan can be written again after \
the spec was changed: iterations that were run keep their results as long as their tuple and workload are the same.

Exit status: 0, or 2 when the spec is wrong.

Examples:
  vptest sweep sweeps/quickstart.toml                       write out/plan.json, say what it will take
  vptest sweep params.toml --dry-run                        only check
  vptest sweep params.toml --format csv > plan.csv          every iteration
  vptest sweep params.toml --format commands | parallel -j1 --eta")]
pub(super) struct Args {
    /// The sweep spec, a TOML file
    #[arg(value_name = "SPEC")]
    spec: PathBuf,
    /// Directory of the campaign; made if it is not there
    #[arg(short, long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// What to print: a summary, every iteration, or a command for every iteration
    #[arg(long, value_enum, default_value_t = PlanFormat::Table)]
    format: PlanFormat,
    /// Write nothing
    #[arg(long)]
    dry_run: bool,
    /// Replace the plan of another sweep (its iterations stay)
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PlanFormat {
    /// A summary for people
    Table,
    /// One line for each iteration
    Csv,
    /// One JSON document; docs/json.md describes it
    Json,
    /// One `vptest run --iter N` for each iteration, for GNU parallel
    Commands,
}

pub(super) fn run(args: &Args, verbosity: Verbosity) -> Result<Exit, Failure> {
    let (plan, warnings) = plan(&args.spec)?;
    if !warnings.is_empty() && !verbosity.quiet {
        eprintln!("{}", warnings.render(&args.spec.to_string_lossy(), colour()));
    }
    if !args.dry_run {
        refuse_other_sweep(args, &plan)?;
        let path = plan_file::write(&args.out, &plan)?;
        if !verbosity.quiet {
            eprintln!("wrote {}", path.display());
        }
    }
    if args.format == PlanFormat::Commands && plan.spec.stop.is_some() && !verbosity.quiet {
        eprintln!(
            "note: these commands name iterations, which are run whatever `[stop]` says; `vptest run` alone ends tuples early"
        );
    }
    print(args, &plan)?;
    Ok(Exit::Done)
}

/// The plan of a spec file, and what is odd about it.
fn plan(path: &Path) -> Result<(Plan, Diagnostics), Failure> {
    let bytes = read(path).map_err(|error| Failure::new(Exit::Usage, error))?;
    let wrong = |found: Diagnostics| Failure::laid_out(Exit::Usage, found.render(&path.to_string_lossy(), colour()));
    let (spec, text, warnings) = Spec::parse_bytes(&bytes).map_err(wrong)?;
    let plan = Plan::expand(spec, text).map_err(|error| Failure::new(Exit::Usage, error))?;
    feasible::check_tuples(&plan, TRIED_TUPLES)
        .map_err(|why| Failure::text(Exit::Usage, format!("{}: {why}", path.display())))?;
    Ok((plan, warnings))
}

/// A file that is too large for a spec is none: it might have no end.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let name = || format!("cannot read the spec {}", path.display());
    let mut bytes = Vec::new();
    std::fs::File::open(path).with_context(name)?.take(MOST_BYTES + 1).read_to_end(&mut bytes).with_context(name)?;
    anyhow::ensure!(
        bytes.len() as u64 <= MOST_BYTES,
        "{} is no spec: it has more than {MOST_BYTES} bytes",
        path.display()
    );
    Ok(bytes)
}

/// Two sweeps in one directory would be merged together.
fn refuse_other_sweep(args: &Args, plan: &Plan) -> Result<(), Failure> {
    if args.replace || !plan_file::path(&args.out).exists() {
        return Ok(());
    }
    // A plan that cannot be read is about to be replaced by one that can.
    match plan_file::read(&args.out) {
        Ok(before) if before.spec.name != plan.spec.name => Err(Failure::text(
            Exit::Usage,
            format!("{} holds the sweep `{}`, not `{}`", args.out.display(), before.spec.name, plan.spec.name),
        )
        .hint("choose another directory with -o, or replace its plan with --replace")),
        _ => Ok(()),
    }
}

fn print(args: &Args, plan: &Plan) -> Result<(), Failure> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    match args.format {
        PlanFormat::Table => {
            let mut text = String::new();
            write_summary(&mut text, plan, &Estimate::of(plan)).map_err(anyhow::Error::from)?;
            out.write_all(text.as_bytes())?;
        }
        PlanFormat::Csv => write_csv(plan, &mut out)?,
        PlanFormat::Json => write_json(plan, &Estimate::of(plan), &mut out)?,
        PlanFormat::Commands => write_commands(plan, &args.out, &mut out)?,
    }
    out.flush()?;
    Ok(())
}
