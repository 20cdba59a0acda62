//! `[stop]`.

use super::StopSpec;
use super::diagnostic::Diagnostic;
use super::parse::{DEFAULT_REPETITIONS, MOST_REPETITIONS};
use super::read::{Entry, Section, Sink, Span};
use crate::units::Percent;

/// Most metrics of a rule.
pub const MOST_STOP_METRICS: usize = 16;

impl StopSpec {
    /// Fewest repetitions after which the rule holds what it promises.
    pub const LEAST: u32 = 5;
}

/// The rule, and the most repetitions of a tuple. `repetitions` is where the spec says them and how many, `None` where that is wrong.
pub(super) fn read(
    entry: &Entry<'_>,
    repetitions: Option<(Span, Option<u32>)>,
    sink: &mut Sink<'_>,
) -> Option<(StopSpec, u32)> {
    let mut section = entry.section(sink)?;
    let metrics = section.need("metric", sink, "whose mean is to be known: metric = \"rps\"");
    let metrics = metrics.and_then(|entry| read_metrics(&entry, sink));
    let half_width = section.need("half_width", sink, "how well it is to be known: half_width = \"2 %\"");
    let half_width = half_width.and_then(|entry| read_half_width(&entry, sink));
    let least = StopSpec::LEAST;
    let min_entry = section.take("min");
    let min = min_entry.as_ref().map_or(Some(least), |e| e.integer(sink, least, MOST_REPETITIONS));
    let max = read_max(&mut section, repetitions, sink);
    section.finish(sink);
    let (min, (max, place)) = (min?, max?);
    if min >= max {
        refuse_range(min, max, min_entry.map_or_else(|| entry.key.clone(), |e| e.span), place, sink);
    }
    Some((StopSpec { metrics: metrics?, half_width: half_width?, min }, max))
}

fn read_metrics(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Vec<String>> {
    let items = entry.one_or_more();
    if items.is_empty() || items.len() > MOST_STOP_METRICS {
        entry.refuse(sink, format_args!("a metric, or a list of 1 to {MOST_STOP_METRICS} metrics"));
        return None;
    }
    let mut metrics: Vec<String> = Vec::new();
    for item in &items {
        let name = item.filled(sink)?.trim();
        if metrics.iter().any(|known| known == name) {
            sink.push(Diagnostic::error(item.span.clone(), format!("metric `{name}` is named twice")));
            return None;
        }
        metrics.push(name.to_owned());
    }
    Some(metrics)
}

fn read_half_width(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Percent> {
    let width: Percent = entry.quantity(sink, Percent::ACCEPTED)?;
    if width.fraction() > 0.0 && width.fraction() <= 1.0 {
        return Some(width);
    }
    entry.refuse(sink, "more than 0 % and at most 100 % of the mean");
    None
}

/// Most repetitions and where the spec says so: `max` and `repetitions` are the same thing, so at most one of them is needed.
fn read_max(
    section: &mut Section<'_>,
    repetitions: Option<(Span, Option<u32>)>,
    sink: &mut Sink<'_>,
) -> Option<(u32, Option<Span>)> {
    let Some(entry) = section.take("max") else {
        return match repetitions {
            Some((span, number)) => Some((number?, Some(span))),
            None => Some((DEFAULT_REPETITIONS, None)),
        };
    };
    let max = entry.integer(sink, StopSpec::LEAST, MOST_REPETITIONS)?;
    match repetitions {
        Some((place, Some(number))) if number != max => {
            let message = format!("`stop.max` is {max}, but `repetitions` is {number}");
            let error =
                Diagnostic::error(entry.span.clone(), message).related(place, "how often a tuple is run at most");
            sink.push(error.help("both say how often a tuple is run at most: leave one of them out"));
            None
        }
        _ => Some((max, Some(entry.span))),
    }
}

/// Nothing can end early when the fewest repetitions are as many as the most.
fn refuse_range(min: u32, max: u32, place: Span, most: Option<Span>, sink: &mut Sink<'_>) {
    let message = if min == max {
        format!("no tuple can end early: it is run at least {min} times and at most as often")
    } else {
        format!("a tuple cannot be run at least {min} times and at most {max}")
    };
    let mut error = Diagnostic::error(place, message);
    if let Some(most) = most {
        error = error.related(most, "the most");
    }
    sink.push(error.help(format!(
        "the fewest are `stop.min` (default {}), the most `stop.max` or `repetitions`",
        StopSpec::LEAST
    )));
}
