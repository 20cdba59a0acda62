//! How an array comes into the queue, or is found there again.

use std::time::Duration;

use super::super::coordinator::{Coordinator, DispatchError};
use super::super::share::{self, Share, Turn};
use super::array::{self, Array};
use super::{Slurm, SlurmError};
use crate::ids::IterationNumber;
use crate::spec::Element;
use crate::store::Attempts;

/// What an element takes besides its iterations, and what each of these takes besides its time limit (teardown, storing).
const START: Duration = Duration::from_secs(600);
const AROUND: Duration = Duration::from_secs(120);

/// The oldest array that an earlier coordinator has left; `None` when none is left.
pub(super) async fn adopt(coordinator: &mut Coordinator<'_>) -> Result<Option<Array>, DispatchError> {
    for path in array::left(coordinator.options.out) {
        let Some(mut array) = Array::read(&path)? else {
            array::remove(&path)?;
            continue;
        };
        if array.job.is_none() {
            let commands = std::sync::Arc::clone(&slurm(coordinator).commands);
            if let Some(seen) = commands.queue(&array.name, None).await?.first() {
                array.submitted(seen.array)?;
            }
        }
        for turn in array.orders.shares.iter().flat_map(|share| &share.iterations) {
            coordinator.handed.insert(turn.number, *turn);
        }
        if let Some(job) = array.job {
            coordinator.say(&format!("goes on with job {job} of Slurm"));
        }
        return Ok(Some(array));
    }
    Ok(None)
}

pub(super) fn slurm<'c>(coordinator: &'c mut Coordinator<'_>) -> &'c mut Slurm {
    coordinator.slurm.as_mut().expect("only a coordinator with Slurm comes here")
}

/// Submits what is to be done, or as much of it as Slurm takes at a time.
pub(super) async fn submit(
    coordinator: &mut Coordinator<'_>,
    attempts: &Attempts,
    numbers: &[IterationNumber],
    is_short: bool,
) -> Result<Array, DispatchError> {
    let spec = &coordinator.options.plan.spec.slurm;
    let commands = std::sync::Arc::clone(&slurm(coordinator).commands);
    let partition = slurm(coordinator).partition.clone().or_else(|| spec.partition.clone());
    let mut most = commands.sizes().await?.elements;
    if is_short {
        // What is stored then decides what is still needed.
        most = most.min(commands.nodes(partition.as_deref()).await?);
    }
    let turns = coordinator.turns(attempts, numbers);
    let mut shares = cut(coordinator, &turns, spec.element);
    shares.truncate(most);
    for turn in shares.iter().flat_map(|share| &share.iterations) {
        coordinator.handed.insert(turn.number, *turn);
    }
    let time = spec.time.unwrap_or_else(|| usual_time(coordinator, &shares));
    doubt(coordinator, &shares);
    let excluded = excluded(coordinator);
    let orders = coordinator.orders(shares)?;
    let program = std::sync::Arc::clone(coordinator.fleet.program());
    let shared = spec.shared;
    let what = (program.as_ref(), coordinator.plan.as_slice());
    let mut array = Array::make(&coordinator.directory, coordinator.id, what, orders, shared)?;
    let words = array.words(spec, partition.as_deref(), time, &excluded);
    match commands.submit(&words, partition.as_deref()).await {
        Ok(job) => array.submitted(job)?,
        // It may have got through, and is found by its name then.
        Err(error @ (SlurmError::Silent(_) | SlurmError::Unreachable(_))) => return Err(error.into()),
        Err(error) => {
            // It may be in the queue all the same, and is found by its name then. Where that cannot be asked, it stays noted.
            let seen = match &error {
                SlurmError::NoProgram(_) => Vec::new(),
                _ => commands.queue(&array.name, None).await.map_err(|_| error.clone())?,
            };
            if let Some(seen) = seen.first() {
                coordinator.say(&format!("{error}; job {} is in the queue all the same", seen.array));
                array.submitted(seen.array)?;
                return Ok(array);
            }
            array.remove()?;
            // None may be left.
            let is_short = matches!(error, SlurmError::Rejected(_)) && !coordinator.fleet.unusable().is_empty();
            return Err(if is_short { DispatchError::NoHost(coordinator.fleet.why()) } else { error.into() });
        }
    }
    let (job, count) = (array.job.unwrap_or_default(), array.orders.shares.len());
    let word = if count == 1 { "element" } else { "elements" };
    coordinator.say(&format!("job {job} of Slurm: {count} {word}"));
    Ok(array)
}

fn cut(coordinator: &Coordinator<'_>, turns: &[Turn], element: Element) -> Vec<Share> {
    match element {
        Element::Iteration => {
            (1..).zip(turns).map(|(number, turn)| Share { number, iterations: vec![*turn] }).collect()
        }
        Element::Block => share::cut(coordinator.options.plan, turns, 1, share::Sizes::Even),
    }
}

/// As long as the largest element may take.
fn usual_time(coordinator: &Coordinator<'_>, shares: &[Share]) -> Duration {
    START + (coordinator.options.plan.spec.timeout + AROUND) * most_attempts(coordinator, shares)
}

/// Attempts of the largest element, at most.
fn most_attempts(coordinator: &Coordinator<'_>, shares: &[Share]) -> u32 {
    let most = shares.iter().map(|share| share.iterations.len()).max().unwrap_or(1);
    u32::try_from(most).unwrap_or(u32::MAX).saturating_mul(coordinator.options.retries.saturating_add(1))
}

/// Says once when iterations may take longer than the time that the spec gives their element. Many take less than they may, so
/// that this is no error.
fn doubt(coordinator: &mut Coordinator<'_>, shares: &[Share]) {
    let spec = &coordinator.options.plan.spec;
    let Some(time) = spec.slurm.time else { return };
    let attempts = most_attempts(coordinator, shares);
    if let Some(text) = doubts(time, spec.timeout, attempts)
        && !std::mem::replace(&mut slurm(coordinator).was_doubted, true)
    {
        coordinator.say(&text);
    }
}

/// What is told to end before the limit has that much less.
fn doubts(time: Duration, timeout: Duration, attempts: u32) -> Option<String> {
    let minutes = array::minutes(time);
    let room = Duration::from_secs(minutes * 60) - array::warning(time);
    let needed = timeout.saturating_mul(attempts);
    (needed > room).then(|| {
        let what = if attempts == 1 { "an attempt".to_owned() } else { format!("{attempts} attempts") };
        format!(
            "`slurm.time` of {minutes} min leaves {} s until an element is told to end, and {what} in it may take {} s \
             (`timeout`): what is not done by then is stored as interrupted",
            room.as_secs(),
            needed.as_secs()
        )
    })
}

/// Nodes that are not to be used, as Slurm takes them.
pub(super) fn excluded(coordinator: &Coordinator<'_>) -> String {
    let mut nodes = coordinator.options.plan.spec.slurm.exclude.clone();
    nodes.extend(coordinator.fleet.unusable());
    nodes.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_iterations_may_not_do_with_is_doubted() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        assert_eq!(doubts(minutes(12), minutes(10), 1), None);
        let text = doubts(minutes(11), minutes(10), 1).unwrap();
        assert!(text.starts_with("`slurm.time` of 11 min leaves 540 s ") && text.contains("may take 600 s"), "{text}");
        assert_eq!(doubts(minutes(42), minutes(10), 4), None);
        assert!(doubts(minutes(41), minutes(10), 4).unwrap().contains("4 attempts in it may take 2400 s"));
        assert!(doubts(minutes(2), Duration::from_secs(91), 1).is_some());
        assert_eq!(doubts(minutes(2), Duration::from_secs(90), 1), None);
    }
}
