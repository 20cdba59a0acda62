//! `vptest analyze`

mod anomalies;
mod comparing;

pub(super) use comparing::common_margins;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure};
use super::{Format, nearest};
use crate::analysis::{AnalysisError, compare_chains, instrument_costs};
use crate::ids::Level;
use crate::record::Status;
use crate::report::compare::left_out_reasons;
use crate::report::cost::{self, CostTable};
use crate::spec::{Instrument, Instruments, Spec, factors};
use crate::store::{Database, LeftOut, MetricError, MetricInfo, StoreError};
use crate::units::Percent;

/// Compare metrics between groups of iterations, and say what differs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A group is a tuple, or all iterations that agree in the factors of --by. Its mean is the mean over iterations; pairs of \
one iteration are averaged first and connections are never pooled. Only complete iterations count unless --include \
says otherwise; those left out are counted. An iteration counts once, however often and on however many hosts it was \
tried: its complete attempt that finished first, else the last that --include lets count. Intervals cover 95 %.

With a baseline every group has a verdict against the margin within which a difference does not matter (`[analysis] margin` of the \
spec, else 5 % of the baseline's mean): different; different, negligible; equivalent; undecided, with the repetitions it would \
take; or not comparable, with why. All contrasts of one call are one family: the more is looked at, the more it takes. \
docs/analysis.md has the rules. Each question with a verdict is written down in FILE.looks.jsonl beside the database, and the answer says \
how many were asked so far; --no-record leaves this one out.

Values from several hosts: where hosts ran unequal shares of the two sides, or all of them ran both, the verdict rests on differences within hosts; what hosts do not agree on is said below the table. Sentinels count in no contrast; what they say of their hosts stands below the table, too.

--where takes comparisons of factors (=, !=, <, <=, >, >=) joined by and, or, not and parentheses; values are read as in a spec, \
those with blanks or signs in quotes. Iterations without a factor satisfy no comparison of it.


Exit status: 0, 1 when no iteration counts (they failed, were suspect or are none: there is nothing to compare), 2 when \
there is no such metric or factor, 4 when the database cannot be read.

Examples:
  vptest analyze                                         list the metrics
  vptest analyze --metric rps                            every tuple, against the baseline
  vptest analyze --metric rps --by hops --baseline hops=direct
  vptest analyze --metric rps --plot                     with a picture of it
  vptest analyze --metric rps,throughput                 several together; --level network, --all: many
  vptest analyze --all --where 'driver=e1000 and rate>100M'
  vptest analyze --metric rps --effects                  which factors matter, alone and in pairs
  vptest analyze --metric rps --aa                       what a tuple seems to differ from itself
  vptest analyze --metric rps --power --half-width 1%    how many repetitions it takes
  vptest analyze --anomalies --format csv                 what stands out, each with its file
  vptest analyze --metric rps --sentinels                did the hosts stay the same
  vptest analyze --metric rps --include suspect --format csv
  vptest analyze --syscalls --baseline testbed=netns      transitions between system calls
  vptest analyze --cost                                  what each instrument costs the workload")]
pub(super) struct Args {
    /// Metrics; where a name alone is not enough `level.name` or `name@role`. Without any, all are listed
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    metric: Vec<String>,
    /// All metrics of a level: application, os or network
    #[arg(long, value_parser = level, conflicts_with = "metric")]
    level: Option<Level>,
    /// All metrics
    #[arg(long, conflicts_with_all = ["metric", "level"])]
    all: bool,
    /// Look only at iterations whose factors are so
    #[arg(long = "where", value_name = "CONDITION", conflicts_with_all = ["syscalls", "cost"])]
    filter: Option<String>,
    /// Differences up to so many percent of the baseline's mean do not matter (default: of the spec that was run)
    #[arg(long, value_name = "PERCENT", conflicts_with_all = ["syscalls", "cost", "effects"])]
    margin: Option<Percent>,
    /// Compare each group with itself: how often it would seem to differ, and from what size on differences mean anything
    #[arg(long, conflicts_with_all = ["power", "effects", "plot", "syscalls", "cost", "baseline"])]
    aa: bool,
    /// Take each group for a pilot: how many repetitions it takes
    #[arg(long, conflicts_with_all = ["effects", "plot", "syscalls", "cost", "baseline"])]
    power: bool,
    /// What the sentinels say of their hosts: drift, jumps, hosts that differ
    #[arg(long, conflicts_with_all = ["aa", "power", "effects", "plot", "syscalls", "cost", "baseline", "by", "filter"])]
    sentinels: bool,
    /// Half-widths of the interval of the mean to plan for (default: 1 %, 2 % and 5 %)
    #[arg(long, value_name = "PERCENT,...", value_delimiter = ',', requires = "power")]
    half_width: Vec<Percent>,
    /// Main effects of factors and interactions of two, with their shares of the variance
    #[arg(long, conflicts_with_all = ["plot", "syscalls", "cost", "baseline"])]
    effects: bool,
    /// List what stands out, with the way to its data: iterations far from their group, stalls, storms of retransmissions, groups with
    /// more than one hump, performance that rises with more pairs (default: of all metrics)
    #[arg(long, conflicts_with_all = ["aa", "power", "effects", "plot", "syscalls", "cost", "baseline", "no_baseline"])]
    anomalies: bool,
    /// Database made by `vptest merge`, or one iteration file
    #[arg(long, value_name = "FILE", default_value = "merged.db")]
    db: PathBuf,
    /// Factors that make the groups (default: all that vary)
    #[arg(long, value_name = "FACTOR,...", value_delimiter = ',')]
    by: Vec<String>,
    /// What groups are compared with (default: `baseline` of the spec that was run)
    #[arg(long, value_name = "FACTOR=VALUE")]
    baseline: Option<String>,
    /// Compare with nothing, whatever the spec says
    #[arg(long, conflicts_with = "baseline")]
    no_baseline: bool,
    /// Compare metrics of packet sizes also where packets were looked at in different places or under different offloads
    #[arg(long)]
    allow_unequal_vantage: bool,
    /// Draw the comparison below the table: differences from the baseline with their intervals, or means without one
    #[arg(long)]
    plot: bool,
    /// Compare the chains of system calls instead of a metric
    #[arg(long, conflicts_with_all = ["metric", "level", "all"])]
    syscalls: bool,
    /// State what each instrument costs the workload, where `instrument` is a factor (default: rps, throughput and
    /// cpu_per_request, as far as there are)
    #[arg(long, conflicts_with_all = ["syscalls", "by", "baseline", "no_baseline", "level", "all"])]
    cost: bool,
    /// Do not write this question down beside the database (FILE.looks.jsonl), where others see how much was looked at
    #[arg(long)]
    no_record: bool,
    /// Count iterations of this status too
    #[arg(long, value_name = "STATUS,...", value_delimiter = ',', value_parser = status)]
    include: Vec<Status>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(super) fn status(text: &str) -> Result<Status, String> {
    let all = Status::ALL.map(Status::as_str).join(", ");
    Status::from_name(text).ok_or_else(|| format!("statuses are {all}"))
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let database = Database::open(&args.db).map_err(|error| unreadable(&args.db, error))?;
    if args.syscalls {
        return chains(args, &database);
    }
    if args.cost {
        return costs(args, &database);
    }
    if args.anomalies {
        return anomalies::run(args, &database);
    }
    if args.metric.is_empty() && args.level.is_none() && !args.all {
        let asking = [
            (args.aa, "--aa"),
            (args.power, "--power"),
            (args.effects, "--effects"),
            (args.sentinels, "--sentinels"),
            (args.plot, "--plot"),
            (args.filter.is_some(), "--where"),
        ];
        return match asking.iter().find(|(asked, _)| *asked) {
            None => list(args, &database),
            Some((_, option)) => Err(Failure::text(Exit::Usage, format!("{option} of which metric?"))
                .hint("--metric names one or several, --level or --all take many".to_owned())),
        };
    }
    comparing::run(args, &database)
}

fn level(text: &str) -> Result<Level, String> {
    let all = || Level::ALL.iter().map(|level| level.as_str()).collect::<Vec<_>>().join(", ");
    Level::from_name(text).ok_or_else(|| format!("levels are {}", all()))
}

/// Chooses deals where there are too many for all; the same each time.
const SEED: u64 = 1;

fn chains(args: &Args, database: &Database) -> Result<Exit, Failure> {
    let mut statuses = vec![Status::Complete];
    statuses.extend(&args.include);
    let iterations = database.traced(&statuses).map_err(|error| unreadable(&args.db, error))?;
    if iterations.is_empty() {
        let text = "system calls were followed in no iteration that counts";
        let hint =
            "`[instrument] syscalls = true` in the spec follows them; --include counts iterations of other statuses";
        return Err(Failure::text(Exit::SomeFailed, text.to_owned()).hint(hint.to_owned()));
    }
    let specs = database.specs().map_err(|error| unreadable(&args.db, error))?;
    let baseline = baseline(args, &specs)?;
    let comparison = compare_chains(&iterations, &args.by, baseline, SEED).map_err(|error| {
        let hint = suggestion(&error.asked, &error.known, &format!("factors: {}", error.known.join(", ")));
        Failure::new(Exit::Usage, error).hint(hint)
    })?;
    let text = match args.format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&comparison).map_err(anyhow::Error::from)?),
        Format::Csv => crate::report::chains::csv(&comparison),
        Format::Table => crate::report::chains::table(&comparison, width()),
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(Exit::Done)
}

/// Metrics whose cost is stated unless one is named.
const COST_METRICS: [&str; 3] = ["rps", "throughput", "cpu_per_request"];

fn costs(args: &Args, database: &Database) -> Result<Exit, Failure> {
    let mut statuses = vec![Status::Complete];
    statuses.extend(&args.include);
    let all = instruments(args, database)?;
    let known = database.metrics().map_err(|error| unreadable(&args.db, error))?;
    let usual = COST_METRICS.into_iter().filter(|name| known.iter().any(|metric| metric.name == *name));
    let metrics: Vec<&str> =
        if args.metric.is_empty() { usual.collect() } else { args.metric.iter().map(String::as_str).collect() };
    if metrics.is_empty() {
        let text = format!("no iteration has any of the metrics {}", COST_METRICS.join(", "));
        return Err(Failure::text(Exit::SomeFailed, text).hint("`--metric` names another one".to_owned()));
    }
    let mut tables = Vec::new();
    for metric in metrics {
        let observations = database.values(metric, &statuses).map_err(|error| no_values(args, error))?;
        if observations.values.is_empty() {
            return Err(none_counts(&observations.left_out, &observations.metric));
        }
        let costs = instrument_costs(&observations.values, all).map_err(|error| {
            let hint = "a sweep with `instrument = [false, [\"capture\"], …]` tells: see sweeps/instrument-cost.toml";
            Failure::new(Exit::SomeFailed, error).hint(hint.to_owned())
        })?;
        tables.push(CostTable::new(&observations, costs));
    }
    let text = match args.format {
        Format::Json => cost::json(&tables),
        Format::Csv => cost::csv(&tables),
        Format::Table => cost::text(&tables, width()),
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(Exit::Done)
}

/// What `instrument = true` means: the same in all specs that were run, or there is no answer.
fn instruments(args: &Args, database: &Database) -> Result<Instruments, Failure> {
    let texts = database.specs().map_err(|error| unreadable(&args.db, error))?;
    let mut specs = Vec::new();
    for text in &texts {
        let refused =
            |_| Failure::text(Exit::Unreadable, "a spec that was run is not accepted by this vptest".to_owned());
        specs.push(Spec::parse(text).map_err(refused)?);
    }
    let Some(first) = specs.first() else {
        let text = "no iteration says what its spec asked for";
        return Err(Failure::text(Exit::SomeFailed, text.to_owned()));
    };
    let same = |spec: &Spec| {
        (&spec.workload, &spec.capture, &spec.instrument, &spec.testbed)
            == (&first.workload, &first.capture, &first.instrument, &first.testbed)
    };
    if !specs.iter().all(same) {
        let text =
            "the iterations are of specs that differ in workload, capture, instrument or testbed: costs would be mixed";
        return Err(
            Failure::text(Exit::Usage, text.to_owned()).hint("merge the iterations of one sweep alone".to_owned())
        );
    }
    Ok(Instrument::ALL.into_iter().filter(|instrument| instrument.is_configured(first)).collect())
}

/// Columns of the terminal; `None` when the output goes elsewhere and lines may be as long as they need.
fn width() -> Option<u16> {
    std::io::stdout().is_terminal().then(|| comfy_table::Table::new().width()).flatten()
}

/// What groups are compared with; `specs` are the texts of those that were run.
fn baseline(args: &Args, specs: &[String]) -> Result<Option<(String, String)>, Failure> {
    if args.no_baseline {
        return Ok(None);
    }
    match &args.baseline {
        Some(text) => baseline_text(text).map(Some),
        None => Ok(from_specs(specs)),
    }
}

/// `FACTOR=VALUE` with the value as it is stored.
pub(super) fn baseline_text(text: &str) -> Result<(String, String), Failure> {
    let (factor, value) = text.split_once('=').ok_or_else(|| {
        Failure::text(Exit::Usage, format!("`{text}` is no baseline: give FACTOR=VALUE as in `testbed=netns`"))
    })?;
    let value = factors::canonical_text(factor, value)
        .map_err(|expected| Failure::text(Exit::Usage, format!("baseline {factor} = `{value}`: {expected}")))?;
    Ok((factor.to_owned(), value))
}

/// The baseline of the specs that were run, given as texts; several specs that do not agree have none.
fn from_specs(texts: &[String]) -> Option<(String, String)> {
    let mut found: Vec<_> = texts
        .iter()
        .filter_map(|text| Spec::parse(text).ok())
        .map(|spec| spec.analysis.baseline.map(|(factor, value)| (factor, value.to_string())))
        .collect();
    found.dedup();
    match <[_; 1]>::try_from(found) {
        Ok([baseline]) => baseline,
        Err(several) => {
            if several.len() > 1 {
                eprintln!("the specs of these iterations name different baselines: --baseline chooses one");
            }
            None
        }
    }
}

pub(super) fn unreadable(db: &Path, error: StoreError) -> Failure {
    let missing = !db.exists();
    let failure = Failure::new(Exit::Unreadable, error);
    if missing { failure.hint("`vptest merge out/*.db` makes it; --db names another one") } else { failure }
}

fn no_values(args: &Args, error: StoreError) -> Failure {
    let hint = match &error {
        StoreError::Metric(MetricError::Unknown { asked, known, none_counts: Some(left_out) })
            if nearest(asked, known).is_none() =>
        {
            return none_got_to(left_out, asked);
        }
        StoreError::Metric(MetricError::Unknown { asked, known, .. }) => {
            Some(suggestion(asked, known, "`vptest analyze` lists all metrics"))
        }
        StoreError::Metric(_) => None,
        _ => return unreadable(&args.db, error),
    };
    with_hint(Failure::new(Exit::Usage, error), hint)
}

/// The metric is known, but no iteration counts.
fn none_counts(left_out: &LeftOut, metric: &str) -> Failure {
    let statuses: Vec<&str> = left_out.by_status.keys().map(|status| status.as_str()).collect();
    let hint = (!statuses.is_empty()).then(|| format!("`--include {}` counts them too", statuses.join(",")));
    with_hint(nothing_to_compare(left_out, metric), hint)
}

/// No iteration counts, and none has the metric either: counting more of them would not help.
fn none_got_to(left_out: &LeftOut, metric: &str) -> Failure {
    let hint = if left_out.total() == 0 {
        "`vptest run` makes iterations, `vptest merge out/*.db` takes them in".to_owned()
    } else {
        format!("none of them has a metric `{metric}` either; `vptest status` says why they ended so")
    };
    nothing_to_compare(left_out, metric).hint(hint)
}

fn nothing_to_compare(left_out: &LeftOut, metric: &str) -> Failure {
    let text = match left_out.total() {
        0 => "the database holds no iterations".to_owned(),
        total => format!("none of {total} iterations counts ({})", left_out_reasons(left_out, metric)),
    };
    Failure::text(Exit::SomeFailed, text)
}

fn with_hint(failure: Failure, hint: Option<String>) -> Failure {
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

pub(super) fn wrong_question(error: AnalysisError) -> Failure {
    let hint = match &error {
        AnalysisError::UnknownFactor { asked, known } => {
            Some(suggestion(asked, known, &format!("factors: {}", known.join(", "))))
        }
        _ => None,
    };
    with_hint(Failure::new(Exit::Usage, error), hint)
}

/// `did you mean X? REST`
fn suggestion(asked: &str, known: &[String], rest: &str) -> String {
    match nearest(asked, known) {
        Some(name) => format!("did you mean `{name}`? {rest}"),
        None => rest.to_owned(),
    }
}

fn list(args: &Args, database: &Database) -> Result<Exit, Failure> {
    let metrics = database.metrics().map_err(|error| unreadable(&args.db, error))?;
    let mut out = std::io::stdout().lock();
    match args.format {
        Format::Json => {
            let all: Vec<_> = metrics.iter().map(metric_json).collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&all).map_err(anyhow::Error::from)?)?;
        }
        Format::Csv | Format::Table => {
            let separator = if args.format == Format::Csv { "," } else { "  " };
            let width = if args.format == Format::Csv {
                0
            } else {
                metrics.iter().map(|m| m.full_name().len()).max().unwrap_or(0)
            };
            for metric in &metrics {
                let better = metric.better.map_or("", crate::ids::Better::as_str);
                let fields = [
                    format!("{:<width$}", metric.full_name()),
                    metric.iterations.to_string(),
                    metric.unit.clone(),
                    better.to_owned(),
                ];
                writeln!(out, "{}", fields.join(separator).trim_end())?;
            }
        }
    }
    Ok(Exit::Done)
}

fn metric_json(metric: &MetricInfo) -> serde_json::Value {
    serde_json::json!({
        "metric": metric.full_name(), "name": metric.name, "level": metric.level, "role": metric.role,
        "unit": metric.unit, "better": metric.better, "iterations": metric.iterations, "values": metric.values,
        "missing": metric.missing,
    })
}
