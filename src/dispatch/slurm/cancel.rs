//! Takes arrays out of Slurm's queue that nobody looks after.

use std::path::Path;

use super::super::coordinator::{Coordinator, DispatchError};
use super::super::state::DIRECTORY;
use super::array::{self, Array};
use super::command::Commands;
use super::{SlurmError, follow, submit};
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
    let mut left = array::left(options.out).len();
    while let Some(array) = submit::adopt(&mut coordinator).await? {
        follow::follow(&mut coordinator, array).await?;
        let now = array::left(options.out).len();
        if now == left {
            break;
        }
        left = now;
    }
    let mut report = coordinator.report();
    report.interrupted = options.cancel.requested();
    Ok(report)
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
        let Some(array) = Array::read(&path)? else { continue };
        // Slurm uses numbers again: the name is what tells an array.
        if let Some(seen) = commands.queue(&array.name, array.job).await?.first() {
            commands.cancel(&[], &seen.array.to_string()).await?;
            jobs.push(seen.array);
        }
    }
    commands
        .close()
        .await
        .map_err(|error| SlurmError::Io { program: "scancel".to_owned(), text: error.to_string() })?;
    Ok(jobs)
}
