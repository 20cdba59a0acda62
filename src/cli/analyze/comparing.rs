//! One metric or many: which iterations count, groups, baselines, margins, and then one family of verdicts.

use std::collections::{BTreeMap, BTreeSet};

use super::{Args, baseline, no_values, none_counts, suggestion, unreadable, width, wrong_question};
use crate::analysis::contrasts::{Contrast, Extent, Options};
use crate::analysis::filter::{Filter, Levels};
use crate::analysis::judged::{Asked, MARGIN, in_run_order, judge, margin_of};
use crate::analysis::sentinels::watch;
use crate::analysis::trust::{self, Doubt};
use crate::analysis::{Comparison, Question, compare};
use crate::cli::Format;
use crate::cli::exit::{Exit, Failure};
use crate::cli::looks;
use crate::record::Status;
use crate::report::compare::Analyze;
use crate::report::family::Many;
use crate::report::sentinels::Watched;
use crate::report::verdicts::{FamilyRow, Judged};
use crate::report::{planning, plot};
use crate::spec::Spec;
use crate::store::{Chosen, Database, Dataset, MetricColumn, Observation, Observations};
use crate::units::Percent;

/// Decides on resamples, deals and shuffles; the same each time.
const SEED: u64 = 1;

/// A metric with its groups.
pub(super) struct One {
    /// As it was asked for, or its full name.
    pub(super) name: String,
    pub(super) observations: Observations,
    pub(super) comparison: Comparison,
    pub(super) margin: Percent,
    margin_is_asked: bool,
}

pub(super) fn run(args: &Args, database: &Database) -> Result<Exit, Failure> {
    if args.sentinels {
        return sentinels(args, database);
    }
    let mut notes = Vec::new();
    let (all, data) = gather(args, database, &mut notes)?;
    let text = if args.effects {
        printed(args, &planning::effects(&parts(&all), notes))
    } else if args.aa {
        printed(args, &planning::self_comparisons(&parts(&all), SEED, notes))
    } else if args.power {
        printed(args, &planning::repetitions(&parts(&all), &args.half_width, notes))
    } else {
        verdicts(args, &all, notes, data)
    };
    std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes())?;
    Ok(Exit::Done)
}

pub(super) fn statuses(args: &Args) -> Vec<Status> {
    let mut statuses = vec![Status::Complete];
    statuses.extend(&args.include);
    statuses
}

/// `--sentinels`: what they say, metric by metric.
fn sentinels(args: &Args, database: &Database) -> Result<Exit, Failure> {
    let dataset = database.chosen(&chosen(args), &statuses(args)).map_err(|error| unreadable(&args.db, error))?;
    let Some(of) = dataset.sentinels.as_deref() else {
        let hint = "`[sentinel] every = 20` in the spec runs one tuple again and again between all others";
        return Err(Failure::text(Exit::SomeFailed, "the database has no sentinels".to_owned()).hint(hint.to_owned()));
    };
    let mut notes = Vec::new();
    let observed = observed(args, of, &mut notes)?;
    let (watched, level) = watched(&observed);
    let text = printed(args, &crate::report::sentinels::sheet(&watched, level, notes));
    std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes())?;
    Ok(Exit::Done)
}

/// Sentinels of these metrics, and the level of the tests.
fn watched(observed: &[(String, String, Observations)]) -> (Vec<Watched>, f64) {
    let hosts: BTreeSet<&str> = observed.iter().flat_map(|one| &one.2.values).map(|o| &*o.host).collect();
    let level = trust::level(observed.len() * hosts.len());
    let values: Vec<&[Observation]> = observed.iter().map(|one| one.2.values.as_slice()).collect();
    let all = observed.iter().zip(watch(&values, level, SEED));
    let watched = all.map(|((name, _, observations), watches)| Watched {
        metric: name.clone(),
        unit: observations.unit.clone(),
        watches,
    });
    (watched.collect(), level)
}

/// What sentinels of these metrics say of their hosts, for a comparison; nothing without sentinels.
fn sentinel_remarks(dataset: &Dataset, observed: &[(String, String, Observations)]) -> Vec<String> {
    let Some(of) = dataset.sentinels.as_deref() else { return Vec::new() };
    let values = |(name, full_name, _): &(String, String, Observations)| {
        let column = of.find(full_name).ok()?;
        Some((name.clone(), full_name.clone(), of.observations(column).ok().filter(|o| !o.values.is_empty())?))
    };
    let observed: Vec<_> = observed.iter().filter_map(values).collect();
    let (watched, level) = watched(&observed);
    let mut notes = vec![format!("{} sentinels count in no contrast.", of.iterations.len())];
    notes.extend(crate::report::sentinels::remarks(&watched, level));
    notes
}

fn parts(all: &[One]) -> Vec<planning::Part<'_>> {
    all.iter()
        .map(|one| planning::Part {
            name: &one.name,
            observations: &one.observations,
            comparison: &one.comparison,
            margin: one.margin,
        })
        .collect()
}

pub(super) fn printed(args: &Args, sheet: &crate::report::sheet::Sheet) -> String {
    match args.format {
        Format::Json => sheet.json(),
        Format::Csv => sheet.csv(),
        Format::Table => sheet.table(width()),
    }
}

/// `data` is a hash of the iterations that were asked.
fn verdicts(args: &Args, all: &[One], mut notes: Vec<String>, data: String) -> String {
    let brief = args.format == Format::Table;
    let extent = if brief { Extent::Brief } else { Extent::Full };
    let options = Options { seed: SEED, extent, ..Options::default() };
    let asked: Vec<Asked<'_>> = all
        .iter()
        .map(|one| Asked { observations: &one.observations.values, comparison: &one.comparison, margin: one.margin })
        .collect();
    let found = judge(&asked, &options);
    let family = FamilyRow::new(&found, &options);
    let asked = looks::Asked {
        database: &args.db,
        command: "analyze",
        question: question_asked(args),
        data,
        contrasts: found.size,
        p_values: found.adjusted,
    };
    notes.extend(looks::note(asked, !args.no_record));
    let doubt_level = trust::level(all.iter().map(|one| one.comparison.groups.len()).sum());
    let in_order = |one: &One| {
        one.comparison.groups.iter().map(|group| in_run_order(&one.observations.values, group)).collect::<Vec<_>>()
    };
    let groups: Vec<Vec<f64>> = all.iter().flat_map(in_order).collect();
    let mut doubts = trust::doubts(&groups, doubt_level, SEED).into_iter();
    let answers: Vec<Analyze> = all
        .iter()
        .zip(&found.metrics)
        .map(|(one, contrasts)| {
            let mut doubts: Vec<_> = doubts.by_ref().take(one.comparison.groups.len()).collect();
            add_hosts(&mut doubts, contrasts, doubt_level);
            let judged = Judged {
                contrasts,
                doubts: &doubts,
                doubt_level,
                margin: one.margin,
                margin_is_asked: one.margin_is_asked,
                family,
                hosts: &found.hosts,
            };
            Analyze::new(&one.observations, &one.comparison, &judged)
        })
        .collect();
    let plot = |answers: &[Analyze]| -> String {
        let drawn = answers.iter().map(|answer| {
            let title = if answers.len() > 1 { format!("\n{}", answer.metric) } else { String::new() };
            format!("{title}\n{}", plot::forest(answer, width()))
        });
        if args.plot { drawn.collect() } else { String::new() }
    };
    match <[Analyze; 1]>::try_from(answers) {
        Ok(one) if !asks_for_many(args) => {
            let [mut answer] = one;
            answer.notes.extend(notes);
            match args.format {
                Format::Json => answer.json(),
                Format::Csv => answer.csv(),
                Format::Table => answer.table(width()) + &plot(std::slice::from_ref(&answer)),
            }
        }
        other => {
            let answers = other.map_or_else(|answers| answers, Vec::from);
            let names = all.iter().map(|one| one.name.clone()).collect();
            let many = Many { family, names, answers, notes };
            match args.format {
                Format::Json => many.json(),
                Format::Csv => many.csv(),
                Format::Table => many.table(width()) + &plot(&many.answers),
            }
        }
    }
}

/// The options that decide what is compared.
fn question_asked(args: &Args) -> BTreeMap<String, String> {
    let metrics = match (args.all, args.level) {
        (true, _) => "all".to_owned(),
        (false, Some(level)) => format!("level {level}"),
        (false, None) => args.metric.join(","),
    };
    let include: Vec<&str> = args.include.iter().map(|status| status.as_str()).collect();
    let flag = |is_set: bool| if is_set { "yes".to_owned() } else { String::new() };
    looks::question([
        ("metrics", metrics),
        ("by", args.by.join(",")),
        ("baseline", args.baseline.clone().unwrap_or_default()),
        ("where", args.filter.clone().unwrap_or_default()),
        ("include", include.join(",")),
        ("margin", args.margin.map(|margin| margin.to_string()).unwrap_or_default()),
        ("allow_unequal_vantage", flag(args.allow_unequal_vantage)),
    ])
}

/// What hosts do not agree on, beside what the groups' own values say.
fn add_hosts(doubts: &mut [Vec<Doubt>], contrasts: &[Option<Contrast>], level: f64) {
    for (found, contrast) in doubts.iter_mut().zip(contrasts) {
        let hosts = contrast.as_ref().and_then(|contrast| contrast.hosts.as_ref());
        found.extend(hosts.into_iter().flat_map(|hosts| trust::about_hosts(hosts, level)));
    }
}

fn asks_for_many(args: &Args) -> bool {
    args.level.is_some() || args.all || args.metric.len() > 1
}

/// The metrics that were asked for, and a hash of the iterations.
fn gather(args: &Args, database: &Database, notes: &mut Vec<String>) -> Result<(Vec<One>, String), Failure> {
    let mut dataset = database.chosen(&chosen(args), &statuses(args)).map_err(|error| unreadable(&args.db, error))?;
    let data = dataset.attempts_hash().to_string();
    if let Some(text) = &args.filter {
        keep(&mut dataset, text)?;
        notes.push(format!("Looked at: iterations with {text}."));
    }
    let observed = observed(args, &dataset, notes)?;
    notes.extend(sentinel_remarks(&dataset, &observed));
    notes.extend(stopped(&dataset.specs, &observed));
    let question = Question {
        by: args.by.clone(),
        baseline: baseline(args, &dataset.specs)?,
        unequal_vantage: args.allow_unequal_vantage,
    };
    let margins = margins(args, &dataset.specs, notes);
    let mut first_error = None;
    let (mut all, several) = (Vec::new(), observed.len() > 1);
    for (name, full_name, observations) in observed {
        match compare(&observations.values, &question) {
            Ok(comparison) => {
                let margin = margin_of(&margins, &full_name, &observations.metric);
                all.push(One {
                    name,
                    observations,
                    comparison,
                    margin: margin.unwrap_or(MARGIN),
                    margin_is_asked: margin.is_some(),
                });
            }
            Err(error) => {
                if several {
                    notes.push(format!("Left out {name}: {error}."));
                }
                first_error.get_or_insert(error);
            }
        }
    }
    match first_error {
        Some(error) if all.is_empty() => Err(wrong_question(error)),
        _ => Ok((all, data)),
    }
}

/// The metrics that are asked for.
pub(super) fn chosen(args: &Args) -> Chosen {
    match args.level {
        Some(level) => Chosen::Level(level),
        None if args.all => Chosen::All,
        None => Chosen::Named(args.metric.clone()),
    }
}

/// Tuples that end when the spread of a metric happens to be small make its intervals too narrow.
fn stopped(texts: &[String], observed: &[(String, String, Observations)]) -> Option<String> {
    let specs = texts.iter().filter_map(|text| Spec::parse(text).ok());
    let metrics: BTreeSet<String> = specs.filter_map(|spec| spec.stop).flat_map(|stop| stop.metrics).collect();
    let named = |(name, full_name, observations): &&(String, String, Observations)| {
        [name, full_name, &observations.metric].into_iter().any(|name| metrics.contains(name))
    };
    let found: Vec<&str> = observed.iter().filter(named).map(|one| one.0.as_str()).collect();
    (!found.is_empty()).then(|| {
        format!(
            "Tuples were ended early by {}: 95 % intervals of its means and differences cover less than they say, and verdicts err up to two and a half times as \
             often (docs/analysis.md, \"Stopping early\").",
            found.join(", ")
        )
    })
}

pub(super) fn keep(dataset: &mut Dataset, text: &str) -> Result<(), Failure> {
    let mut levels = Levels::new();
    for (name, value) in dataset.iterations.iter().flat_map(|iteration| iteration.factors.iter()) {
        levels.entry(name.clone()).or_default().insert(value.clone());
    }
    if levels.is_empty() {
        return Ok(());
    }
    let filter = Filter::parse(text, &levels).map_err(|error| {
        let hint = error
            .known
            .as_ref()
            .map(|(asked, known)| suggestion(asked, known, &format!("there are: {}", known.join(", "))));
        let failure = Failure::text(Exit::Usage, format!("--where: {error}"));
        super::with_hint(failure, hint)
    })?;
    let before = dataset.iterations.len();
    dataset.retain(|factors| filter.holds(factors));
    if dataset.iterations.is_empty() {
        return Err(Failure::text(Exit::SomeFailed, format!("none of {before} iterations satisfies --where {text}")));
    }
    Ok(())
}

/// Name, full name and values of each metric that was asked for.
fn observed(
    args: &Args,
    dataset: &Dataset,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, String, Observations)>, Failure> {
    let mut columns: Vec<(String, &MetricColumn)> = Vec::new();
    let mut seen = BTreeSet::new();
    for name in &args.metric {
        let column = dataset.find(name).map_err(|error| no_values(args, error.into()))?;
        if seen.insert(column.full_name()) {
            columns.push((name.clone(), column));
        }
    }
    if args.metric.is_empty() {
        columns.extend(dataset.metrics.iter().map(|column| (column.full_name(), column)));
    }
    let mut found = Vec::new();
    let mut first_empty = None;
    let mut empty = 0_usize;
    for (name, column) in &columns {
        match dataset.observations(column) {
            Ok(observations) if observations.values.is_empty() => {
                empty += 1;
                first_empty.get_or_insert(observations);
            }
            Ok(observations) => found.push((name.clone(), column.full_name(), observations)),
            Err(error) if columns.len() == 1 => return Err(no_values(args, error.of(name).into())),
            Err(error) => notes.push(format!("Left out: {error}.")),
        }
    }
    match first_empty {
        Some(observations) if found.is_empty() => Err(none_counts(&observations.left_out, &observations.metric)),
        _ if found.is_empty() => {
            Err(Failure::text(Exit::SomeFailed, "no iteration has any metric of those".to_owned()))
        }
        _ => {
            if empty > 0 {
                notes.push(format!("{empty} metrics have no value in any iteration that counts."));
            }
            Ok(found)
        }
    }
}

/// Margins of the specs that were run; specs that disagree on a metric have none for it.
pub(super) fn margins(args: &Args, texts: &[String], notes: &mut Vec<String>) -> Vec<(String, Percent)> {
    if let Some(margin) = args.margin {
        return vec![("default".to_owned(), margin)];
    }
    let specs: Vec<Spec> = texts.iter().filter_map(|text| Spec::parse(text).ok()).collect();
    common_margins(&specs, notes)
}

/// The margins on which all specs agree; the others are named in the notes.
pub(in crate::cli) fn common_margins(specs: &[Spec], notes: &mut Vec<String>) -> Vec<(String, Percent)> {
    let mut found: BTreeMap<&str, Vec<Percent>> = BTreeMap::new();
    for (metric, margin) in specs.iter().flat_map(|spec| &spec.analysis.margins) {
        let of = found.entry(metric).or_default();
        if !of.contains(margin) {
            of.push(*margin);
        }
    }
    let mut margins = Vec::new();
    for (metric, values) in found {
        match values.as_slice() {
            [only] => margins.push((metric.to_owned(), *only)),
            _ => notes.push(format!("The specs name different margins for {metric}, so the default was used.")),
        }
    }
    margins
}
