//! Takes arrays out of Slurm's queue that nobody looks after.

use std::path::Path;
use std::sync::Arc;

use super::super::coordinator::{Coordinator, DispatchError};
use super::super::state::DIRECTORY;
use super::array::{self, Array};
use super::command::Commands;
use super::{SlurmError, submit, wind_up};
use crate::runner::{Begun, Options, Report};

/// Ends the arrays of a campaign that has no coordinator, and stores what came of them. The wish to stop must have been
/// spoken: workers then store their iterations as interrupted.
///
/// # Errors
/// When the campaign has a coordinator, when Slurm does not answer, and when results cannot be stored.
pub async fn cancel(options: &Options<'_>) -> Result<Report, DispatchError> {
    let begun = Begun::new(options, true).await?;
    let mut coordinator = Coordinator::new(options, &[], Some(None)).await?;
    let (_, to_do) = begun.to_do(options, None)?;
    coordinator.announce(&to_do)?;
    set_aside_unreadable(&mut coordinator).await?;
    wind_up(&mut coordinator).await?;
    let mut report = coordinator.report();
    report.interrupted = options.cancel.requested();
    Ok(report)
}

/// Takes arrays out of the queue whose orders this vptest cannot read, as those of an older one. What came of them is kept where it
/// is, under a name that is no array's.
async fn set_aside_unreadable(coordinator: &mut Coordinator<'_>) -> Result<(), DispatchError> {
    for path in array::left(coordinator.options.out) {
        let Err(error) = Array::read(&path) else { continue };
        let Some((name, job)) = Array::names(&path)? else { continue };
        let commands = Arc::clone(&submit::slurm(coordinator).commands);
        let ended = cancel_named(&commands, &name, job).await?;
        let aside = array::set_aside(&path)?;
        let job = ended.map_or_else(|| "no job of Slurm".to_owned(), |job| format!("job {job} of Slurm"));
        coordinator.say(&format!("{job} was cancelled; what came of it stays in {}: {error:#}", aside.display()));
    }
    Ok(())
}

/// Ends an array; its number, when it was in the queue.
async fn cancel_named(commands: &Commands, name: &str, job: Option<u64>) -> Result<Option<u64>, SlurmError> {
    let Some(number) = commands.queue(name, job).await?.first().map(|seen| seen.array) else { return Ok(None) };
    commands.cancel(&[], name, &number.to_string()).await?;
    Ok(Some(number))
}

/// Ends the arrays of a campaign whose coordinator is elsewhere and sees to the rest; their numbers.
///
/// # Errors
/// When Slurm does not answer, or what was noted of an array cannot be read.
pub async fn abandon(out: &Path) -> Result<Vec<u64>, DispatchError> {
    let directory = out.join(DIRECTORY);
    let commands = Commands::new(&directory).map_err(anyhow::Error::from)?;
    let mut jobs = Vec::new();
    for path in array::left(out) {
        let Some((name, job)) = Array::names(&path)? else { continue };
        jobs.extend(cancel_named(&commands, &name, job).await?);
    }
    commands
        .close()
        .await
        .map_err(|error| SlurmError::Io { program: "scancel".to_owned(), text: error.to_string() })?;
    Ok(jobs)
}
