//! `vptest status`

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::exit::{Exit, Failure};
use super::progress::coarse;
use super::{Format, plan_file};
use crate::runner::{Overview, Running, StopOverview, overview};

/// Reasons that are shown; the rest is counted.
const SHOWN_REASONS: usize = 10;

/// What is done, failed and left of a campaign, and how long that will take
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An iteration counts once: as complete when one of its attempts is, else as its last attempt ended. With `[stop]` in the spec, iterations of tuples whose metrics are known well enough are `not needed`: neither missing nor left to do.

Exit status: 0, or 4 when iteration files cannot be read (they are named).

Examples:
  vptest status
  vptest status -o study --format json")]
pub(super) struct Args {
    /// Directory of the campaign
    #[arg(short, long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let plan = plan_file::read(&args.out)?;
    let overview = overview(&plan, &args.out)?;
    let mut out = std::io::stdout().lock();
    match args.format {
        Format::Json => {
            writeln!(out, "{}", serde_json::to_string_pretty(&overview).map_err(anyhow::Error::from)?)?;
        }
        Format::Csv => print_csv(&mut out, &overview)?,
        Format::Table => print(&mut out, &overview)?,
    }
    Ok(if overview.unreadable.is_empty() { Exit::Done } else { Exit::Unreadable })
}

fn print_csv(out: &mut impl std::io::Write, overview: &Overview) -> std::io::Result<()> {
    writeln!(out, "status,iterations")?;
    for (status, count) in &overview.by_status {
        writeln!(out, "{status},{count}")?;
    }
    writeln!(out, "untried,{}", overview.untried)?;
    if overview.stop.is_some() {
        writeln!(out, "settled,{}", overview.settled)?;
    }
    Ok(())
}

fn print(out: &mut impl std::io::Write, overview: &Overview) -> std::io::Result<()> {
    writeln!(out, "{}: {} iterations planned", overview.name, overview.planned)?;
    for (status, count) in &overview.by_status {
        writeln!(out, "  {status:<12} {count:>8}")?;
    }
    writeln!(out, "  {:<12} {:>8}", "not tried", overview.untried)?;
    if let Some(stop) = &overview.stop {
        print_stop(out, overview.settled, stop)?;
    }
    let duration = |seconds: f64| Duration::try_from_secs_f64(seconds).map_or_else(|_| "long".to_owned(), coarse);
    let pace = overview.median_seconds.zip(overview.left_seconds).filter(|_| overview.left > 0);
    match pace {
        Some((median, left)) => {
            writeln!(out, "left to do: {}, about {} at {median:.2} s each", overview.left, duration(left))?;
        }
        None => writeln!(out, "left to do: {}", overview.left)?,
    }
    for running in &overview.running {
        writeln!(
            out,
            "running: iteration {} in {} by {}, for {}",
            running.number,
            running.stage,
            running.who(),
            age(running)
        )?;
    }
    if overview.dead > 0 {
        writeln!(out, "died: {} (the next `vptest run` stores them as interrupted)", overview.dead)?;
    }
    if overview.foreign > 0 {
        writeln!(out, "files of other plans: {}", overview.foreign)?;
    }
    if !overview.reasons.is_empty() {
        writeln!(out, "why not complete:")?;
        for reasons in overview.reasons.iter().take(SHOWN_REASONS) {
            let like = if reasons.count > 1 { "such as " } else { "" };
            writeln!(out, "  {:>6} × {like}{}", reasons.count, reasons.example)?;
        }
        let more = overview.reasons.len().saturating_sub(SHOWN_REASONS);
        if more > 0 {
            writeln!(out, "  and {more} other kinds (--format json has them all)")?;
        }
    }
    for (name, error) in &overview.unreadable {
        writeln!(out, "cannot be read: {name}: {error}")?;
    }
    Ok(())
}

/// What `[stop]` says: iterations that need not be run are no missing ones.
fn print_stop(out: &mut impl std::io::Write, settled: usize, stop: &StopOverview) -> std::io::Result<()> {
    writeln!(out, "  {:<12} {settled:>8}", "not needed")?;
    let done = stop.tuples.iter().filter(|one| one.course.is_settled()).count();
    let (metrics, width) = (stop.metrics.join(", "), stop.half_width_percent);
    writeln!(out, "{done} of {} tuples are settled: {metrics} known to ± {width} %", stop.tuples.len())?;
    if let Some(problem) = &stop.problem {
        writeln!(out, "no tuple ends early so far: {problem}")?;
    }
    Ok(())
}

fn age(running: &Running) -> String {
    let since = u64::try_from(running.started_ns).map(|ns| UNIX_EPOCH + Duration::from_nanos(ns));
    let elapsed = since.ok().and_then(|since| SystemTime::now().duration_since(since).ok());
    elapsed.map_or_else(|| "an unknown time".to_owned(), coarse)
}
