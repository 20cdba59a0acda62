//! `vptest logs`

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::analyze::unreadable;
use super::exit::{Exit, Failure};
use super::{PageFormat, plan_file};
use crate::plan::selection;
use crate::record::{Event, IterationRecord, StageTiming};
use crate::store::{self, AttemptName, Database};
use crate::text::printable;

/// What happened in an iteration: stages and events, how it ended and what was kept
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Times are seconds since the attempt began. Iterations are numbered as in the plan; attempts that ran under an earlier plan are shown too, when they are of the same tuple and repetition.

Exit status: 0, 1 when an iteration has not been tried yet, 4 when its file cannot be read.

Examples:
  vptest logs --iter 7               all attempts at iteration 7
  vptest logs --iter 7 --attempt 2   one of them
  vptest logs --iter 1-20 --format json")]
pub(super) struct Args {
    /// Iterations to show, by number: `7`, `1-100,205`
    #[arg(long, value_name = "N[-M],...")]
    iter: String,
    /// Show this attempt alone
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// Directory of the campaign
    #[arg(short, long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// How to print it
    #[arg(long, value_enum, default_value_t = PageFormat::Table)]
    format: PageFormat,
}

/// Longest text of an event that is shown.
const LONGEST: usize = 4000;

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let plan = plan_file::read(&args.out)?;
    let last = u32::try_from(plan.iterations.len()).unwrap_or(u32::MAX);
    let numbers = selection::select(&args.iter, last).map_err(|error| Failure::new(Exit::Usage, error))?;
    let attempts = store::scan(&args.out).map_err(anyhow::Error::from)?;
    let (mut documents, mut exit) = (Vec::new(), Exit::Done);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for number in numbers {
        let iteration = plan.get(number).context("the plan lost an iteration")?;
        let wanted = |name: &&AttemptName| args.attempt.is_none_or(|attempt| name.attempt == attempt);
        let names: Vec<&AttemptName> = attempts.of(iteration.identity).iter().filter(wanted).collect();
        if names.is_empty() {
            let attempt = args.attempt.map(|n| format!("attempt {n} at ")).unwrap_or_default();
            eprintln!("{attempt}iteration {number}: not there, or still running (`vptest status` says which)");
            exit = Exit::SomeFailed;
        }
        for name in names {
            let record = record(&args.out, *name)?;
            let kept = kept(&name.artifacts(&args.out))?;
            match args.format {
                PageFormat::Json => documents.push(document(*name, &record, &kept)),
                PageFormat::Table => print(&mut out, *name, &record, &kept)?,
            }
        }
    }
    if args.format == PageFormat::Json {
        writeln!(out, "{}", serde_json::to_string_pretty(&documents).map_err(anyhow::Error::from)?)?;
    }
    out.flush()?;
    Ok(exit)
}

/// The verified content of an iteration file.
fn record(out: &Path, name: AttemptName) -> Result<IterationRecord, Failure> {
    let path = out.join(name.to_string());
    let read = || Database::open(&path)?.records()?.next().transpose();
    match read().map_err(|error| unreadable(&path, error))? {
        Some(verified) => Ok(verified.record),
        None => Err(Failure::text(Exit::Unreadable, format!("{} holds no iteration", path.display()))),
    }
}

/// Files that were kept, by name; none without their directory.
fn kept(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", dir.display()))?,
    };
    let mut all = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    all.sort();
    Ok(all)
}

#[expect(clippy::cast_precision_loss, reason = "shown with milliseconds")]
fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}

fn print(out: &mut impl Write, name: AttemptName, record: &IterationRecord, kept: &[PathBuf]) -> std::io::Result<()> {
    let header = &record.header;
    let began = jiff::Timestamp::from_nanosecond(header.started_ns.into()).map(|time| time.to_string());
    let factors: Vec<String> = record.factors.iter().map(|(name, value)| format!("{name}={value}")).collect();
    writeln!(out, "iteration {}, attempt {}: {}", header.number, header.attempt, record.outcome.status())?;
    for reason in record.outcome.reasons() {
        writeln!(out, "  {}", printable(&reason, LONGEST))?;
    }
    writeln!(out, "  {}", printable(&factors.join(" "), LONGEST))?;
    writeln!(
        out,
        "  began {} on {}{}, {name}",
        began.unwrap_or_else(|_| "at an unknown time".to_owned()),
        printable(&header.host, LONGEST),
        header
            .finished_ns
            .map(|end| format!(", took {:.3} s", seconds(end.saturating_sub(header.started_ns))))
            .unwrap_or_default()
    )?;
    for (at_ns, stage, text) in course(record) {
        let at = seconds(at_ns.saturating_sub(header.started_ns));
        writeln!(out, "{at:>12.3}  {stage:<11} {}", printable(&text, LONGEST))?;
    }
    for file in kept {
        writeln!(out, "  kept: {}", file.display())?;
    }
    writeln!(out)
}

/// Stages and events in the order of time, each with its stage and a line of text.
fn course(record: &IterationRecord) -> Vec<(i64, &'static str, String)> {
    let stage = |stage: &StageTiming| {
        let took = stage.duration_ns.map(|ns| format!("took {:.3} s", seconds(ns)));
        (stage.started_ns, stage.stage.as_str(), took.unwrap_or_else(|| "began".to_owned()))
    };
    let event =
        |event: &Event| (event.at_ns, event.stage.as_str(), format!("  {}: {}", event.level.as_str(), event.text));
    let mut all: Vec<_> = record.stages.iter().map(stage).chain(record.events.iter().map(event)).collect();
    all.sort_by_key(|line| line.0);
    all
}

fn document(name: AttemptName, record: &IterationRecord, kept: &[PathBuf]) -> Value {
    let header = &record.header;
    let event = |event: &Event| {
        json!({
            "at_ns": event.at_ns,
            "stage": event.stage,
            "level": event.level.as_str(),
            "text": event.text,
        })
    };
    let stage = |stage: &StageTiming| json!({ "stage": stage.stage, "started_ns": stage.started_ns, "duration_ns": stage.duration_ns });
    json!({
        "number": header.number,
        "identity": header.identity,
        "attempt": header.attempt,
        "file": name.to_string(),
        "status": record.outcome.status(),
        "reasons": record.outcome.reasons(),
        "factors": record.factors.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "host": header.host,
        "started_ns": header.started_ns,
        "finished_ns": header.finished_ns,
        "stages": record.stages.iter().map(stage).collect::<Vec<_>>(),
        "events": record.events.iter().map(event).collect::<Vec<_>>(),
        "kept": kept.iter().map(|file| file.display().to_string()).collect::<Vec<_>>(),
    })
}
