//! `vptest status`

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::exit::{Exit, Failure};
use super::progress::coarse;
use super::{Format, plan_file};
use crate::dispatch::slurm::{self, ArrayStatus, ElementStatus};
use crate::dispatch::{State, read_state};
use crate::runner::{Overview, Running, StopOverview, ValueProgress, overview};

/// Reasons that are shown; the rest is counted.
const SHOWN_REASONS: usize = 10;
/// Elements of an array of Slurm's that are shown.
const SHOWN_ELEMENTS: usize = 20;
/// Values of a factor that are shown.
const SHOWN_VALUES: usize = 12;

/// What is done, failed and left of a campaign, and how long that will take
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An iteration counts once: as complete when one of its attempts is, else as its last attempt ended. With `[stop]` in the spec, iterations of tuples whose metrics are known well enough are `not needed`: neither missing nor left to do.

Exit status: 0, or 4 when iteration files cannot be read (they are named).

Examples:
  vptest status
  vptest status --watch                       again every two seconds
  vptest status -o study --format json")]
pub(super) struct Args {
    /// Directory of the campaign
    #[arg(short, long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Show it again every few seconds, until nothing is left to do and nobody runs anything
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut out = std::io::stdout().lock();
    loop {
        let plan = plan_file::read(&args.out)?;
        let overview = overview(&plan, &args.out)?;
        let mut page = Vec::new();
        let arrays = arrays(&args.out)?;
        show(&mut page, args, &overview, &arrays)?;
        if args.watch.is_some() && out.is_terminal() {
            // To the upper left corner, and nothing below.
            out.write_all(b"\x1b[H\x1b[2J")?;
        }
        out.write_all(&page)?;
        out.flush()?;
        let is_over = overview.left == 0 && overview.running.is_empty() && !overview.on_hosts && arrays.is_empty();
        match args.watch.filter(|_| !is_over) {
            Some(seconds) => std::thread::sleep(Duration::from_secs(seconds)),
            None => return Ok(if overview.unreadable.is_empty() { Exit::Done } else { Exit::Unreadable }),
        }
    }
}

/// What Slurm says of the campaign; nobody asks it where the campaign has nothing there.
fn arrays(out: &std::path::Path) -> Result<Vec<ArrayStatus>, Failure> {
    if !slurm::is_left(out) {
        return Ok(Vec::new());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(slurm::status(out))?)
}

fn show(out: &mut Vec<u8>, args: &Args, overview: &Overview, arrays: &[ArrayStatus]) -> Result<(), Failure> {
    let dispatch = overview.on_hosts.then(|| read_state(&args.out)).flatten();
    match args.format {
        Format::Json => {
            let is_somewhere = dispatch.is_some() || !arrays.is_empty();
            let dispatch = is_somewhere.then_some(Dispatch { state: dispatch.as_ref(), slurm: arrays });
            let whole = Whole { overview, dispatch };
            let text = match args.watch {
                // One document in a line, for who reads them as they come.
                Some(_) => serde_json::to_string(&whole),
                None => serde_json::to_string_pretty(&whole),
            };
            writeln!(out, "{}", text.map_err(anyhow::Error::from)?)?;
        }
        Format::Csv => print_csv(out, overview)?,
        Format::Table => {
            print(out, overview)?;
            print_progress(out, overview)?;
            if let Some(state) = &dispatch {
                print_hosts(out, state)?;
            }
            for array in arrays {
                print_array(out, array)?;
            }
        }
    }
    Ok(())
}

/// How far factors and hosts are.
fn print_progress(out: &mut impl std::io::Write, overview: &Overview) -> std::io::Result<()> {
    if overview.attempts > 0 && !overview.factors.is_empty() {
        writeln!(out, "complete, by factor:")?;
        let width = overview.factors.iter().map(|factor| factor.name.len()).max().unwrap_or_default();
        for factor in &overview.factors {
            let value = |value: &ValueProgress| {
                let bad = if value.not_complete > 0 { format!(" ({} not)", value.not_complete) } else { String::new() };
                format!("{} {}/{}{bad}", value.value, value.complete, value.planned)
            };
            let mut values: Vec<String> = factor.values.iter().take(SHOWN_VALUES).map(value).collect();
            if factor.values.len() > SHOWN_VALUES {
                values.push(format!("and {} more", factor.values.len() - SHOWN_VALUES));
            }
            writeln!(out, "  {:<width$}  {}", factor.name, values.join("   "))?;
        }
    }
    if overview.hosts.len() > 1 {
        writeln!(out, "by host:")?;
        for host in &overview.hosts {
            let median = host.median_seconds.map_or_else(String::new, |seconds| format!(", {seconds:.2} s each"));
            writeln!(out, "  {:<20} {:>6} complete of {} attempts{median}", host.host, host.complete, host.attempts)?;
        }
    }
    Ok(())
}

/// What `--format json` prints.
#[derive(serde::Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    overview: &'a Overview,
    /// Who runs it on which hosts; `null` when nobody does.
    dispatch: Option<Dispatch<'a>>,
}

#[derive(serde::Serialize)]
struct Dispatch<'a> {
    /// Not there when nobody looks after what is in Slurm's queue.
    #[serde(flatten)]
    state: Option<&'a State>,
    slurm: &'a [ArrayStatus],
}

/// What Slurm says of an array.
fn print_array(out: &mut impl std::io::Write, array: &ArrayStatus) -> std::io::Result<()> {
    let job = array.job.map_or_else(|| "an array that is not in the queue".to_owned(), |job| format!("job {job}"));
    let counts: Vec<String> = array.counts().iter().map(|(state, count)| format!("{count} {state}")).collect();
    let more = match (&array.problem, array.accounting) {
        (Some(problem), _) => format!("; {problem}"),
        (None, Some(false)) => "; no accounting".to_owned(),
        (None, _) => String::new(),
    };
    writeln!(out, "in Slurm's queue: {job}, {} elements: {}{more}", array.elements.len(), counts.join(", "))?;
    let is_shown = |element: &&ElementStatus| !matches!(element.state, "stored" | "pending");
    let shown: Vec<&ElementStatus> = array.elements.iter().filter(is_shown).collect();
    for element in shown.iter().take(SHOWN_ELEMENTS) {
        let numbers: Vec<String> = element.iterations.iter().map(ToString::to_string).collect();
        let node = element.node.as_ref().map_or_else(String::new, |node| format!(" on {node}"));
        // Its own word says more than ours, as `TIMEOUT`.
        let word = element.slurm.as_deref().filter(|word| element.state == "failed" && *word != "FAILED");
        let reason = word.or(element.reason.as_deref()).map_or_else(String::new, |reason| format!(" ({reason})"));
        let exit =
            element.exit.filter(|exit| *exit != 0).map_or_else(String::new, |exit| format!(", exit status {exit}"));
        let what = format!("{}{node}{reason}{exit}", element.state);
        writeln!(out, "  element {:<5} iteration {:<12} {what}", element.element, numbers.join(","))?;
    }
    if shown.len() > SHOWN_ELEMENTS {
        writeln!(out, "  and {} more (--format json has them all)", shown.len() - SHOWN_ELEMENTS)?;
    }
    // The same for all of them, most of the time.
    let waits = array.elements.iter().filter(|element| element.state == "pending");
    let reasons: std::collections::BTreeSet<&str> = waits.filter_map(|element| element.reason.as_deref()).collect();
    if !reasons.is_empty() {
        writeln!(out, "  pending: {}", reasons.into_iter().collect::<Vec<_>>().join(", "))?;
    }
    Ok(())
}

/// What each host does.
fn print_hosts(out: &mut impl std::io::Write, state: &State) -> std::io::Result<()> {
    writeln!(out, "on hosts, by process {} on {}:", state.pid, state.coordinator)?;
    for host in &state.hosts {
        let name = host.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
        let doing = match (&host.doing, &host.why) {
            (Some(doing), _) => format!("iteration {} in {}", doing.number, doing.stage),
            (None, Some(why)) => why.clone(),
            (None, None) => String::new(),
        };
        let named = format!("{}{name}", host.host);
        writeln!(
            out,
            "  {named:<32} {:<8} {:>6} complete of {:<6} {doing}",
            host.phase.as_str(),
            host.complete,
            host.ended
        )?;
    }
    Ok(())
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
