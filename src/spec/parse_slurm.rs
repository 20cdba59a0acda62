//! `[slurm]`.

use std::time::Duration;

use super::parse::positive_duration;
use super::read::{Entry, Sink};
use super::{Element, SlurmSpec};

/// Longest time of an element: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// Shortest one: Slurm counts in minutes, and an iteration has to be taken down before the end.
const SHORTEST: Duration = Duration::from_secs(120);

const ELEMENTS: &[(&str, Element)] = &[("iteration", Element::Iteration), ("block", Element::Block)];

/// Options of sbatch that have a key of their own here.
const KEYS: &[(&str, &str)] = &[
    ("partition", "partition"),
    ("account", "account"),
    ("constraint", "constraint"),
    ("qos", "qos"),
    ("time", "time"),
    ("exclude", "exclude"),
];
/// Options of sbatch that vptest sets, or that would change what an element is.
const OURS: &[&str] = &[
    "array",
    "batch",
    "chdir",
    "cluster-constraint",
    "clusters",
    "container",
    "cpus-per-task",
    "error",
    "exclusive",
    "export",
    "export-file",
    "gid",
    "help",
    "ignore-pbs",
    "input",
    "job-name",
    "no-requeue",
    "nodes",
    "ntasks",
    "ntasks-per-node",
    "open-mode",
    "output",
    "oversubscribe",
    "parsable",
    "quiet",
    "requeue",
    "signal",
    "test-only",
    "uid",
    "usage",
    "version",
    "wait",
    "wrap",
];

pub(super) fn read(entry: &Entry<'_>, sink: &mut Sink<'_>) -> SlurmSpec {
    let Some(mut section) = entry.section(sink) else { return SlurmSpec::default() };
    let slurm = SlurmSpec {
        partition: section.take("partition").and_then(|e| word(&e, sink)),
        account: section.take("account").and_then(|e| word(&e, sink)),
        constraint: section.take("constraint").and_then(|e| word(&e, sink)),
        qos: section.take("qos").and_then(|e| word(&e, sink)),
        time: section.take("time").and_then(|e| time(&e, sink)),
        shared: section.take("shared").and_then(|e| e.switch(sink)),
        element: section.take("element").and_then(|e| e.choice(sink, ELEMENTS)).unwrap_or_default(),
        exclude: section.take("exclude").map(|e| words(&e, sink)).unwrap_or_default(),
        options: section.take("options").map(|e| options(&e, sink)).unwrap_or_default(),
    };
    section.finish(sink);
    slurm
}

fn word(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = entry.text(sink)?;
    let is_word = !text.is_empty()
        && text.len() <= 1000
        && !text.starts_with('-')
        && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    if !is_word {
        entry.refuse(sink, "one word that does not begin with `-`");
        return None;
    }
    Some(text.to_owned())
}

fn words(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Vec<String> {
    entry.one_or_more().iter().filter_map(|entry| word(entry, sink)).collect()
}

fn time(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Duration> {
    let time = positive_duration(entry, LONGEST, sink)?;
    if time < SHORTEST {
        entry.refuse(sink, "at least 2 min: an iteration is taken down before the time is over");
        return None;
    }
    Some(time)
}

fn options(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Vec<String> {
    entry.one_or_more().iter().filter_map(|entry| option(entry, sink)).collect()
}

/// A long option with its value, `--licenses=scope:1`, that does not clash with what vptest says.
fn option(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = entry.text(sink)?;
    let name = text.strip_prefix("--").map(|rest| rest.split('=').next().unwrap_or_default());
    let is_name = |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let Some(name) = name.filter(is_name).filter(|_| !text.contains(|c: char| c.is_control())) else {
        entry.refuse(sink, "a long option of sbatch in one word: \"--licenses=scope:1\"");
        return None;
    };
    // sbatch takes the beginning of an option's name for the option.
    if let Some((option, key)) = KEYS.iter().find(|(option, _)| option.starts_with(name)) {
        entry.refuse(sink, format_args!("no `--{option}`, which has a key of its own: `{key}`"));
        return None;
    }
    if let Some(option) = OURS.iter().find(|option| option.starts_with(name)) {
        entry.refuse(sink, format_args!("no `--{option}`, which vptest has a say in"));
        return None;
    }
    Some(text.to_owned())
}
