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

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::coordinator::{Coordinator, DispatchError};
use crate::ids::IterationNumber;
use crate::store::Attempts;

pub use cancel::{abandon, cancel};
pub use command::SlurmError;
pub use status::{ArrayStatus, ElementStatus, status};

use command::Commands;
use queue::Bound;

/// The engine of a coordinator.
pub(super) struct Slurm {
    commands: Arc<Commands>,
    /// As the command line has it.
    partition: Option<String>,
    /// Do nodes see the campaign's directory? `None` before an element has shown it.
    is_shared: Option<bool>,
    /// What went wrong last.
    trouble: Option<String>,
    /// Iterations that an element of the same kind would not bring to their end either.
    bound: BTreeMap<IterationNumber, Bound>,
    /// Was it said that the time may be too short?
    was_doubted: bool,
}

impl Slurm {
    /// `directory` is the coordinator's.
    pub(super) fn new(directory: &Path, partition: Option<&str>) -> std::io::Result<Self> {
        let commands = Arc::new(Commands::new(directory)?);
        Ok(Self {
            commands,
            partition: partition.map(str::to_owned),
            is_shared: None,
            trouble: None,
            bound: BTreeMap::new(),
            was_doubted: false,
        })
    }

    /// Was an iteration ended for what it would be ended for again?
    pub(super) fn is_bound(&self, number: IterationNumber) -> bool {
        self.bound.contains_key(&number)
    }

    /// Of iterations that are not to be run any more, nobody asks what they were ended for.
    pub(super) fn keep_bound(&mut self, to_do: &[IterationNumber]) {
        self.bound.retain(|number, _| to_do.contains(number));
    }

    /// How many are not tried again.
    pub(super) fn count_bound(&self) -> usize {
        self.bound.len()
    }

    /// Which iterations were ended for what, when there are any.
    pub(super) fn bounds(&self) -> Option<String> {
        let mut by: BTreeMap<Bound, Vec<IterationNumber>> = BTreeMap::new();
        for (number, bound) in &self.bound {
            by.entry(*bound).or_default().push(*number);
        }
        let texts: Vec<String> = by.iter().map(|(bound, numbers)| format!("{}: {bound}", listed(numbers))).collect();
        (!texts.is_empty()).then(|| texts.join("; also "))
    }

    /// Why nothing comes of it, as far as that is known.
    pub(super) fn why(&self) -> String {
        self.trouble.clone().unwrap_or_else(|| "nothing came from Slurm's nodes".to_owned())
    }
}

/// `iteration 7`, `iterations 7, 8, 9 and 20 more`.
fn listed(numbers: &[IterationNumber]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<String> = numbers.iter().take(SHOWN).map(ToString::to_string).collect();
    let word = if numbers.len() == 1 { "iteration" } else { "iterations" };
    let more = match numbers.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{word} {}{more}", shown.join(", "))
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
