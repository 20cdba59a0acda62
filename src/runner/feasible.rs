//! Can the tuples of a plan be run at all, on any host? Found out before the first iteration, not by each of a thousand.

use std::net::{IpAddr, Ipv4Addr};

use crate::ids::IterationNumber;
use crate::instrument::capture::check_filter;
use crate::plan::Plan;
use crate::spec::Tuple;
use crate::testbed;
use crate::workload::{self, PairContext, Workload};

/// Checks the first `most` tuples of a plan. The error names the tuple and what cannot be.
pub fn check_tuples(plan: &Plan, most: usize) -> Result<(), String> {
    check_all(plan, plan.tuples.iter().take(most).map(|planned| &planned.tuple))
}

/// Checks the tuples of these iterations.
pub(crate) fn check(plan: &Plan, numbers: impl Iterator<Item = IterationNumber>) -> Result<(), String> {
    let mut seen = vec![false; plan.tuples.len()];
    for iteration in numbers.filter_map(|number| plan.get(number)) {
        let slot = plan.iterations[iteration.number.0 as usize - 1].tuple as usize;
        seen[slot] = true;
    }
    check_all(plan, plan.tuples.iter().zip(seen).filter(|(_, seen)| *seen).map(|(planned, _)| &planned.tuple))
}

fn check_all<'a>(plan: &Plan, tuples: impl Iterator<Item = &'a Tuple>) -> Result<(), String> {
    if let Some(filter) = &plan.spec.capture.filter {
        check_filter(filter).map_err(|error| format!("capture.filter = `{filter}`: {error}"))?;
    }
    let workload = workload::from_spec(&plan.spec.workload);
    for tuple in tuples {
        check_tuple(plan, workload.as_ref(), tuple).map_err(|why| format!("{why} (in the tuple {})", text(tuple)))?;
    }
    Ok(())
}

fn check_tuple(plan: &Plan, workload: &dyn Workload, tuple: &Tuple) -> Result<(), String> {
    // A testbed that this version cannot drive may still be planned for.
    if let Ok(testbed) = testbed::by_name(tuple.testbed(), &plan.spec.testbed) {
        testbed.accepts(tuple).map_err(|error| error.to_string())?;
    }
    let pair = PairContext {
        pair: 1,
        tuple,
        server: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 80,
        client_scratch: "/scratch",
        server_scratch: "/scratch",
        vptest: "vptest",
    };
    workload.client(&pair).map(drop).map_err(|error| error.to_string())
}

fn text(tuple: &Tuple) -> String {
    tuple.iter().map(|(name, value)| format!("{name} = {value}")).collect::<Vec<_>>().join(", ")
}
