//! What `vptest sweep` prints: a summary for people, and every iteration as CSV, JSON or commands.
//!
//! Everything is written row by row; a plan of a million iterations needs no more memory than one of ten.

mod estimate;
mod rows;

use std::fmt::{self, Write};

pub use estimate::{Estimate, capture_bytes, file_bytes};
pub use rows::{write_commands, write_csv, write_json};

use crate::plan::{Counts, Plan};
use crate::spec::{Factor, Order, Spec, StopSpec, Value, grouped};
use crate::units::format_duration;

/// Characters of a line that lists values.
const VALUES_WIDTH: usize = 80;

/// The plan in short: how many iterations, of what, in which order, and about how much time and space they take.
pub fn write_summary(out: &mut impl Write, plan: &Plan, estimate: &Estimate) -> fmt::Result {
    let spec = &plan.spec;
    let sentinels = match plan.sentinels() {
        0 => String::new(),
        n => format!(" + {}", counted(n as u64, "sentinel")),
    };
    writeln!(
        out,
        "{}: {} = {} × {}{sentinels}",
        spec.name,
        counted(plan.iterations.len() as u64, "iteration"),
        counted(plan.tuples.len() as u64, "tuple"),
        counted(u64::from(spec.repetitions), "repetition"),
    )?;
    writeln!(out)?;
    if !spec.factors.is_empty() {
        write_factors(out, spec)?;
    }
    write_counts(out, &plan.counts)?;
    writeln!(out, "order    {}", order(spec.order, spec.seed))?;
    if let Some(text) = sentinels_text(plan) {
        writeln!(out, "sentinel {text}")?;
    }
    write_estimate(out, plan, estimate)?;
    match &spec.stop {
        Some(stop) => write_stop(out, plan, stop, estimate),
        None => Ok(()),
    }
}

/// Which tuple is run between all others; `None` when none is.
fn sentinels_text(plan: &Plan) -> Option<String> {
    let every = plan.spec.sentinel.as_ref()?.every;
    let slot = plan.iterations.iter().find(|slot| slot.is_sentinel())?;
    let factors = plan.tuples[slot.tuple as usize].tuple.iter().map(|(name, value)| format!("{name} = {value}"));
    let factors: Vec<String> = factors.collect();
    let tuple = if factors.is_empty() { "the only tuple".to_owned() } else { factors.join(", ") };
    Some(format!("before, after and every {} between: {tuple}", counted(u64::from(every), "iteration")))
}

/// When tuples end early, and what that may save: at most, as nobody knows before.
fn write_stop(out: &mut impl Write, plan: &Plan, stop: &StopSpec, estimate: &Estimate) -> fmt::Result {
    let StopSpec { metrics, half_width, min } = stop;
    let (max, least) = (plan.spec.repetitions, least_iterations(plan, stop));
    let names = metrics.join(", ");
    let (is, all) = if metrics.len() == 1 { ("mean", "is") } else { ("means", "are") };
    writeln!(
        out,
        "stop     a tuple ends after {min} to {max} repetitions, when the {is} of {names} {all} known to ± {half_width}"
    )?;
    let all = plan.iterations.len() as u64;
    let saved = all.saturating_sub(least);
    let time = estimate.time.map(|time| time.mul_f64(f64::from(max - min) / f64::from(max)));
    let time = time.map_or_else(String::new, |time| format!(", very roughly {}", estimate::rough_duration(time)));
    writeln!(
        out,
        "         so {} to {}: it may save up to {}{time}",
        grouped(least),
        counted(all, "iteration"),
        grouped(saved)
    )
}

/// Iterations of a plan whose tuples all end as early as they may, sentinels included, which are run as long as anything is between them.
pub(super) fn least_iterations(plan: &Plan, stop: &StopSpec) -> u64 {
    let repetitions = plan.tuples.len() as u64 * u64::from(stop.min);
    let sentinels =
        plan.spec.sentinel.as_ref().map_or(0, |sentinel| 1 + repetitions.div_ceil(u64::from(sentinel.every)));
    repetitions + sentinels
}

fn write_factors(out: &mut impl Write, spec: &Spec) -> fmt::Result {
    let width = spec.factors.iter().map(|factor| factor.name.chars().count()).max().unwrap_or(0).max("factor".len());
    writeln!(out, "  {:width$}  values", "factor")?;
    for factor in &spec.factors {
        writeln!(out, "  {:width$}  {}", factor.name, values(factor))?;
    }
    writeln!(out)
}

/// `1 tuple`, `1,200 tuples`.
fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// All values if they fit on a line, otherwise how many and as many as fit.
fn values(factor: &Factor) -> String {
    let texts: Vec<String> = factor.values.iter().map(value_text).collect();
    let all = texts.join(", ");
    if all.chars().count() <= VALUES_WIDTH {
        return all;
    }
    let mut shown = format!("{} values: ", grouped(texts.len() as u64));
    for text in &texts {
        if shown.chars().count() + text.chars().count() > VALUES_WIDTH {
            break;
        }
        shown.push_str(text);
        shown.push_str(", ");
    }
    shown.push('…');
    shown
}

/// As in a spec where that is shorter to read.
fn value_text(value: &Value) -> String {
    match value {
        Value::Group(_) => format!("{{{value}}}"),
        other => other.to_string(),
    }
}

fn write_counts(out: &mut impl Write, counts: &Counts) -> fmt::Result {
    let Counts { combinations, distinct, excluded } = *counts;
    match combinations {
        None => write!(out, "tuples   of more than 2^64 combinations {} are distinct", grouped(distinct))?,
        Some(all) => {
            write!(out, "tuples   {}", counted(all, "combination"))?;
            let dropped = all.saturating_sub(distinct);
            if dropped > 0 {
                write!(out, ", {} the same as others without factors that mean nothing", grouped(dropped))?;
            }
        }
    }
    if excluded > 0 {
        write!(out, ", {} excluded", grouped(excluded))?;
    }
    writeln!(out)
}

fn order(order: Order, seed: u64) -> String {
    match order {
        Order::Blocked => format!("blocked: each block has every tuple once, shuffled with seed {seed}"),
        Order::Shuffled => format!("shuffled with seed {seed}"),
        Order::Sequential => "sequential: tuple by tuple, so time is confounded with the factors".to_owned(),
    }
}

fn write_estimate(out: &mut impl Write, plan: &Plan, estimate: &Estimate) -> fmt::Result {
    let expected = match estimate.time {
        Some(time) => format!("very roughly {}", estimate::rough_duration(time)),
        None => "not known before the first iterations have run".to_owned(),
    };
    let limit = format_duration(plan.spec.timeout);
    let most = estimate::rough_duration(estimate.longest);
    writeln!(out, "time     {expected}; at most {most} ({limit} for each)")?;
    match estimate.bytes {
        Some(bytes) => writeln!(out, "storage  very roughly {}", estimate::rough_size(bytes)),
        None => writeln!(out, "storage  not known: captures of unlimited traffic are kept"),
    }
}

#[cfg(test)]
mod tests;
