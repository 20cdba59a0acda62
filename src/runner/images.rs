//! Are the guests of what is to be run those of what has been run? An image is made of whatever kernel and programs the
//! host has on that day, and the plan does not know it.

use std::path::Path;

use super::campaign::{CampaignError, Options, is_complete};
use super::observer::Progress;
use crate::ids::IterationNumber;
use crate::plan::Iteration;
use crate::store::{self, Attempts};
use crate::testbed::{Notice, Request, Testbed};
use crate::workload::Workload;

/// Environment row that holds what the nodes were made of.
pub(crate) const BASE_ID: &str = "image.base_id";

/// Compares the images of one stored iteration of each tuple with those that there would be now.
///
/// # Errors
/// [`CampaignError::Image`] with both ids where they differ; [`CampaignError::Unsupported`] when the image cannot be made.
pub(super) async fn check(
    options: &Options<'_>,
    attempts: &Attempts,
    to_do: &[IterationNumber],
    testbed: &dyn Testbed,
    workload: &dyn Workload,
) -> Result<(), CampaignError> {
    let mut seen = vec![false; options.plan.tuples.len()];
    for iteration in options.plan.iter().filter(|iteration| iteration.tuple.testbed() == testbed.name()) {
        let slot = options.plan.iterations[iteration.number.0 as usize - 1].tuple as usize;
        // What is run again does not count any more.
        if seen[slot] || to_do.contains(&iteration.number) || !is_complete(options.out, attempts.of(iteration.identity))
        {
            continue;
        }
        seen[slot] = true;
        let Some(before) = stored(options.out, attempts, &iteration)? else { continue };
        let Some(now) = testbed.base_id(&request(options, &iteration, workload)).await? else { continue };
        if before == now {
            continue;
        }
        let what =
            format!("was run in guests of another image: its kernel and programs were {before}, now they are {now}");
        if !options.allow_changed_image {
            return Err(CampaignError::Image(format!("iteration {} {what}", iteration.number)));
        }
        options.observer.notice(&Progress::Recovered { number: iteration.number, text: &what });
        return Ok(());
    }
    Ok(())
}

/// What the last attempt says; `None` when it says nothing, as for a disk of the user's.
fn stored(out: &Path, attempts: &Attempts, iteration: &Iteration<'_>) -> Result<Option<String>, CampaignError> {
    let Some(&last) = attempts.of(iteration.identity).last() else { return Ok(None) };
    let facts = store::environment(out, last)?;
    Ok(facts.into_iter().find(|fact| fact.name == BASE_ID).map(|fact| fact.value))
}

fn request(options: &Options<'_>, iteration: &Iteration<'_>, workload: &dyn Workload) -> Request {
    Request {
        tuple: iteration.tuple.clone(),
        number: iteration.number.0,
        attempt: 1,
        scratch: options.out.to_owned(),
        campaign: options.out.to_owned(),
        vptest: options.vptest.clone(),
        programs: workload.tools().into_iter().map(|tool| tool.program).collect(),
        notice: Notice::default(),
    }
}
