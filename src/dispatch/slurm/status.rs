//! What Slurm says of a campaign's arrays, beside the iterations that they were given; for whoever looks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::super::state::DIRECTORY;
use super::array::{self, Array};
use super::command::{Commands, SlurmError};
use super::element::Begun;
use super::queue::{self, Life, Seen};
use super::script;
use crate::ids::IterationNumber;

/// An array that was not seen to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArrayStatus {
    /// Its number in Slurm's queue; `None` when that was not noted and it is not there.
    pub job: Option<u64>,
    /// Its name.
    pub name: String,
    /// Does Slurm keep accounts (`sacct`)? `None` when it did not answer.
    pub accounting: Option<bool>,
    /// Why Slurm, or its accounts, said nothing; `None` when they did.
    pub problem: Option<String>,
    /// In the order in which they were given out.
    pub elements: Vec<ElementStatus>,
}

/// An element of an array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ElementStatus {
    /// Its number, from 1.
    pub element: u32,
    /// What it was given.
    pub iterations: Vec<IterationNumber>,
    /// `pending`, `requeued` (begun before, and waiting again), `running`, `ended`, `failed`, `stored` (everything of it is), or
    /// `unknown` (Slurm says nothing of it any more).
    pub state: &'static str,
    /// Slurm's word for it; `None` when it says nothing.
    pub slurm: Option<String>,
    /// Slurm's word for why.
    pub reason: Option<String>,
    /// Its node; `None` when it has none.
    pub node: Option<String>,
    /// How often it was begun anew; `None` when Slurm does not say.
    pub restarts: Option<u32>,
    /// Exit status, or 128 and the signal; `None` before its end.
    pub exit: Option<i32>,
}

/// Of each array of the campaign in `out` what Slurm says of it.
///
/// # Errors
/// When what was noted of an array cannot be read, or no program can be started. That Slurm does not answer is no error.
pub async fn status(out: &Path) -> anyhow::Result<Vec<ArrayStatus>> {
    let left = array::left(out);
    if left.is_empty() {
        return Ok(Vec::new());
    }
    let commands = Commands::new(&out.join(DIRECTORY))?;
    let mut all = Vec::new();
    for path in left {
        match Array::read(&path) {
            Ok(Some(array)) => all.push(of(&commands, &array).await),
            Ok(None) => {}
            // Its coordinator has seen it to its end meanwhile.
            Err(_) if !path.join("name").exists() => {}
            Err(error) => return Err(error),
        }
    }
    commands.close().await?;
    Ok(all)
}

async fn of(commands: &Commands, array: &Array) -> ArrayStatus {
    let (mut problem, mut accounting, mut accounts) = (None, None, Vec::new());
    let mut may_answer = true;
    let seen = commands.queue(&array.name, array.job).await.unwrap_or_else(|error| {
        // The accounts have a daemon of their own.
        may_answer = matches!(error, SlurmError::Unreachable(_) | SlurmError::Silent(_));
        problem = Some(error.to_string());
        Vec::new()
    });
    let job = array.job.or_else(|| seen.first().map(|seen| seen.array));
    if let Some(job) = job.filter(|_| may_answer) {
        match commands.accounts(&array.name, job).await {
            Ok(Some(known)) => (accounting, accounts) = (Some(true), known),
            Ok(None) => accounting = Some(false),
            Err(error) => problem = problem.or(Some(error.to_string())),
        }
    }
    let mut by = queue::by_element(&accounts);
    by.extend(queue::by_element(&seen));
    let begun = begun(array);
    let elements = array.orders.shares.iter().map(|share| {
        let iterations = share.iterations.iter().map(|turn| turn.number).collect();
        let is_stored = array.done.contains(&share.number);
        element(share.number, iterations, by.get(&share.number).copied(), is_stored, begun.contains(&share.number))
    });
    ArrayStatus { job, name: array.name.clone(), accounting, problem, elements: elements.collect() }
}

/// Elements of which a worker was begun at some time, where that can be seen from here.
fn begun(array: &Array) -> BTreeSet<u32> {
    let entries = std::fs::read_dir(array.directory.join(script::SAID)).into_iter().flatten().flatten();
    entries.filter_map(|entry| Begun::parse(entry.file_name().to_str()?)).map(|(element, _)| element).collect()
}

fn element(
    number: u32,
    iterations: Vec<IterationNumber>,
    seen: Option<&Seen>,
    is_stored: bool,
    was_begun: bool,
) -> ElementStatus {
    let state = match seen.map(|seen| (seen.life(), seen)) {
        _ if is_stored => "stored",
        None => "unknown",
        Some((Life::Waits, seen)) if was_begun || seen.restarts.is_some_and(|restarts| restarts > 0) => "requeued",
        Some((Life::Waits, _)) => "pending",
        Some((Life::Runs, _)) => "running",
        Some((Life::Ended, seen)) if seen.state == "COMPLETED" => "ended",
        Some((Life::Ended, _)) => "failed",
    };
    ElementStatus {
        element: number,
        iterations,
        state,
        slurm: seen.map(|seen| seen.state.clone()),
        reason: seen.and_then(|seen| seen.reason.clone()),
        node: seen.and_then(|seen| seen.node.clone()),
        restarts: seen.and_then(|seen| seen.restarts),
        exit: seen.and_then(|seen| seen.exit),
    }
}

impl ArrayStatus {
    /// Elements by state, with their number.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for element in &self.elements {
            *counts.entry(element.state).or_default() += 1;
        }
        counts
    }
}
