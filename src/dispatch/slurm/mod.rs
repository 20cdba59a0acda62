//! Slurm as the engine: an array, an iteration or a block for each of its elements.
//!
//! Where nodes see the campaign's directory, an array needs nobody to look after it: workers write there what they have to say,
//! and a coordinator that comes later finds the array by what was noted (`array`) and goes on with it. Where they do not, the
//! coordinator sends a step into each element that has a node (`script`).

mod array;
mod cancel;
mod command;
mod element;
mod follow;
mod queue;
mod script;
mod status;
mod submit;

use std::path::Path;
use std::sync::Arc;

use super::coordinator::{Coordinator, DispatchError};
use crate::ids::IterationNumber;
use crate::store::Attempts;

pub use cancel::{abandon, cancel};
pub use command::SlurmError;
pub use status::{ArrayStatus, ElementStatus, status};

use command::Commands;

/// The engine of a coordinator.
pub(super) struct Slurm {
    commands: Arc<Commands>,
    /// As the command line has it.
    partition: Option<String>,
    /// Do nodes see the campaign's directory? `None` before an element has shown it.
    is_shared: Option<bool>,
    /// What went wrong last.
    trouble: Option<String>,
}

impl Slurm {
    /// `directory` is the coordinator's.
    pub(super) fn new(directory: &Path, partition: Option<&str>) -> std::io::Result<Self> {
        let commands = Arc::new(Commands::new(directory)?);
        Ok(Self { commands, partition: partition.map(str::to_owned), is_shared: None, trouble: None })
    }

    /// Why nothing comes of it, as far as that is known.
    pub(super) fn why(&self) -> String {
        self.trouble.clone().unwrap_or_else(|| "nothing came from Slurm's nodes".to_owned())
    }
}

/// Are there arrays that were not seen to their end?
pub fn is_left(out: &Path) -> bool {
    !array::left(out).is_empty()
}

/// Can that be the name of a partition, or of several with commas between?
pub fn is_partition(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-,".contains(c);
    !text.is_empty() && !text.starts_with('-') && text.chars().all(allowed)
}

/// One array: one that an earlier coordinator has left, or else a new one.
///
/// # Errors
/// When Slurm does not take it, when somebody else cancels it, and when results cannot be stored.
pub(super) async fn round(
    coordinator: &mut Coordinator<'_>,
    attempts: &Attempts,
    numbers: &[IterationNumber],
    is_short: bool,
) -> Result<(), DispatchError> {
    let array = match submit::adopt(coordinator).await? {
        Some(array) => array,
        None => submit::submit(coordinator, attempts, numbers, is_short).await?,
    };
    follow::follow(coordinator, array, false).await
}

/// Follows what earlier coordinators have left to its end, without letting more of it begin. Says whether there was anything.
///
/// # Errors
/// As [`round`].
pub(super) async fn wind_up(coordinator: &mut Coordinator<'_>) -> Result<bool, DispatchError> {
    let before = array::left(coordinator.options.out).len();
    let mut left = before;
    while let Some(array) = submit::adopt(coordinator).await? {
        follow::follow(coordinator, array, true).await?;
        let now = array::left(coordinator.options.out).len();
        if now >= left {
            break;
        }
        left = now;
    }
    Ok(before > 0)
}
