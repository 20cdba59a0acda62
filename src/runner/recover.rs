//! What dead runs left in a campaign's directory: stored as interrupted attempts, and removed.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::campaign::{header, sentinel_fact};
use super::iteration::factors;
use super::running::{self, Dead};
use crate::ids::IterationNumber;
use crate::plan::Plan;
use crate::record::{Header, IterationRecord, Outcome};
use crate::store::{self, AttemptName, StoreError};

/// One thing that was found and dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// An attempt is now stored as interrupted.
    Attempt {
        /// Which iteration.
        number: IterationNumber,
        /// What happened to it.
        text: String,
    },
    /// A file or directory was removed.
    Removed(PathBuf),
}

/// Stores attempts of dead runs as interrupted and removes scratch files, half-written files and artifacts of attempts
/// that were never stored. Without a plan it cannot know what an attempt was, and only removes.
pub fn recover(plan: Option<&Plan>, out: &Path) -> anyhow::Result<Vec<Recovered>> {
    let mut done = Vec::new();
    for temporary in store::stale_temps(out)? {
        std::fs::remove_file(&temporary).with_context(|| format!("cannot remove {}", temporary.display()))?;
        done.push(Recovered::Removed(temporary));
    }
    for dead in running::find(out)?.dead {
        done.extend(bury(plan, out, &dead)?);
        done.push(Recovered::Removed(dead.remove()?));
    }
    Ok(done)
}

fn bury(plan: Option<&Plan>, out: &Path, dead: &Dead) -> anyhow::Result<Vec<Recovered>> {
    let mut done = Vec::new();
    let Some(record) = plan.and_then(|plan| obituary(plan, dead)) else {
        done.extend(forget(out, dead)?);
        return Ok(done);
    };
    // First, so that whoever dies in between leaves no attempt that is stored with files that nobody has looked at.
    let removed = forget(out, dead)?;
    match store::write_iteration(out, &record) {
        Ok(_) => {
            let text = record.outcome.reasons().join("; ");
            done.push(Recovered::Attempt { number: record.header.number, text });
        }
        // It died between storing its file and removing its mark: nothing is missing.
        Err(StoreError::AlreadyExists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    done.extend(removed);
    Ok(done)
}

/// Removes what an attempt kept that is not stored.
fn forget(out: &Path, dead: &Dead) -> anyhow::Result<Option<Recovered>> {
    let Some(running) = dead.running.as_ref().filter(|running| running.attempt > 0) else { return Ok(None) };
    let name = AttemptName { number: running.number, identity: running.identity, attempt: running.attempt };
    if out.join(name.to_string()).exists() { Ok(None) } else { remove(name.artifacts(out)) }
}

fn remove(artifacts: PathBuf) -> anyhow::Result<Option<Recovered>> {
    if !artifacts.exists() {
        return Ok(None);
    }
    std::fs::remove_dir_all(&artifacts).with_context(|| format!("cannot remove {}", artifacts.display()))?;
    Ok(Some(Recovered::Removed(artifacts)))
}

/// The record of an attempt that could not write its own; `None` when it is not known well enough: it died before it
/// could say what it was, or the plan has changed.
fn obituary(plan: &Plan, dead: &Dead) -> Option<IterationRecord> {
    // One that died before its attempt began has left no attempt.
    let running = dead.running.as_ref().filter(|running| running.attempt > 0)?;
    let iteration = plan.get(running.number).filter(|it| it.identity == running.identity)?;
    let by = format!("vptest ({}) ended without finishing: it was killed or it crashed", running.who());
    let header = header(plan, &iteration, running.attempt, running.started_ns, &running.host);
    Some(IterationRecord {
        header: Header { finished_ns: None, ..header },
        outcome: Outcome::Interrupted { stage: running.stage, by },
        factors: factors(iteration.tuple),
        settings: Vec::new(),
        metrics: Vec::new(),
        quantiles: Vec::new(),
        captures: Vec::new(),
        paths: Vec::new(),
        syscalls: Vec::new(),
        probes: Vec::new(),
        counters: Vec::new(),
        events: Vec::new(),
        stages: Vec::new(),
        environment: sentinel_fact(&iteration, &running.host).into_iter().collect(),
    })
}
