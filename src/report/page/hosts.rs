//! What the hosts make of the numbers: sentinels over time, and differences on which hosts do not agree.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde::Serialize;

use super::build::Inputs;
use super::model::Model;
use super::{figure, section};
use crate::analysis::sentinels::watch;
use crate::analysis::trust;
use crate::ids::ShortHash;
use crate::report::sentinels::{Watched, remarks};
use crate::store::{Dataset, MetricColumn, Observations, Reading};

/// Remarks that the page shows.
const SHOWN: usize = 60;

/// Hosts and their sentinels.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    /// Sentinels that count.
    pub sentinels: usize,
    /// What they, and the hosts' differences, are odd in.
    pub remarks: Vec<String>,
    /// For the figure.
    pub course: Course,
}

/// The sentinels in the order in which they began.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Course {
    /// Each of one tuple on one host.
    pub lines: Vec<Line>,
    /// For each metric of the page and each line its values; `None` where it has none. Seven digits.
    pub values: Vec<Vec<Vec<Option<f64>>>>,
}

/// One tuple on one host.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Line {
    /// The host, and the tuple where there are several.
    pub name: String,
    /// Numbers of the iterations.
    pub number: Vec<u32>,
    /// When they began, seconds after the first iteration of the campaign that counts; negative before it.
    pub start: Vec<f64>,
    /// Their places in the data set.
    #[serde(skip)]
    pub(super) at: Vec<usize>,
}

/// Sentinels and `disagreements`, for the metrics of the page.
pub(super) fn build(
    inputs: &Inputs<'_>,
    columns: &[&MetricColumn],
    first_ns: i64,
    disagreements: Vec<String>,
) -> Hosts {
    let Some(of) = inputs.dataset.sentinels.as_deref() else {
        return Hosts { remarks: disagreements, ..Hosts::default() };
    };
    let found: Vec<(&MetricColumn, Option<&MetricColumn>)> =
        columns.iter().map(|column| (*column, of.find(&column.full_name()).ok())).collect();
    let lines = lines(of, first_ns);
    let values = found.iter().map(|(_, column)| lines.iter().map(|line| values(line, *column)).collect()).collect();
    let mut told = said(of, &found, inputs.seed);
    told.extend(disagreements);
    let sentinels = of.iterations.iter().filter(|iteration| iteration.counts).count();
    Hosts { sentinels, remarks: told, course: Course { lines, values } }
}

fn lines(of: &Dataset, first_ns: i64) -> Vec<Line> {
    let mut places: BTreeMap<(ShortHash, &str), Vec<usize>> = BTreeMap::new();
    for (at, iteration) in of.iterations.iter().enumerate().filter(|(_, iteration)| iteration.counts) {
        places.entry((iteration.header.tuple, &iteration.header.host)).or_default().push(at);
    }
    let one_tuple = places.keys().map(|key| key.0).collect::<std::collections::BTreeSet<_>>().len() == 1;
    let header = |at: &usize| &of.iterations[*at].header;
    let line = |((tuple, host), mut at): ((ShortHash, &str), Vec<usize>)| {
        at.sort_by_key(|at| (header(at).started_ns, header(at).number));
        Line {
            name: if one_tuple { host.to_owned() } else { format!("{host} · {tuple}") },
            number: at.iter().map(|at| header(at).number.0).collect(),
            #[expect(clippy::cast_precision_loss, reason = "whole milliseconds of any campaign fit")]
            start: at
                .iter()
                .map(|at| (header(at).started_ns.saturating_sub(first_ns) / 1_000_000) as f64 / 1e3)
                .collect(),
            at,
        }
    };
    places.into_iter().map(line).collect()
}

fn values(line: &Line, column: Option<&MetricColumn>) -> Vec<Option<f64>> {
    let value = |&at: &usize| match column?.values[at] {
        Reading::Value { mean, .. } => format!("{mean:.6e}").parse().ok(),
        _ => None,
    };
    line.at.iter().map(value).collect()
}

/// What the sentinels say in words, as below the tables of `vptest analyze`.
fn said(of: &Dataset, found: &[(&MetricColumn, Option<&MetricColumn>)], seed: u64) -> Vec<String> {
    let observed: Vec<(String, Observations)> = found
        .iter()
        .filter_map(|(_, column)| Some((column.as_ref()?.full_name(), of.observations((*column)?).ok()?)))
        .filter(|(_, observations)| !observations.values.is_empty())
        .collect();
    let hosts = of.iterations.iter().map(|i| &i.header.host).collect::<std::collections::BTreeSet<_>>().len();
    let level = trust::level(observed.len() * hosts);
    let all: Vec<_> = observed.iter().map(|(_, observations)| observations.values.as_slice()).collect();
    let watched: Vec<Watched> = observed
        .iter()
        .zip(watch(&all, level, seed))
        .map(|((metric, o), watches)| Watched { metric: metric.clone(), unit: o.unit.clone(), watches })
        .collect();
    remarks(&watched, level)
}

/// The section; nothing where there is one host without sentinels.
pub(super) fn hosts(model: &Model) -> Markup {
    let Hosts { sentinels, remarks, course } = &model.hosts;
    if !present(model) {
        return html! {};
    }
    let lead = "One tuple run again and again on each host, between all other iterations, should always give the same. Where it does not, \
                hosts differ or drift, and so may everything else. Sentinels count in no contrast.";
    let content = html! {
        @if *sentinels == 0 {
            p.none { "There were no sentinels (" code { "[sentinel] every = 20" } " in the spec runs them)." }
        } @else if !course.lines.is_empty() && !model.metrics.is_empty() {
            (figure("sentinels", &format!("{sentinels} sentinels over time."), "Values of the metric that is picked above, with the median of each host."))
        }
        @if remarks.is_empty() {
            p { "Nothing about the hosts is odd: no drift, no change of level, no difference between them that chance does not explain." }
        } @else {
            ul.more { @for remark in remarks.iter().take(SHOWN) { li { (remark) } } }
            @if remarks.len() > SHOWN { p.more { (remarks.len() - SHOWN) " more; " code { "vptest analyze --sentinels" } " lists what sentinels say." } }
        }
    };
    section("hosts", "Hosts and sentinels", lead, &content)
}

/// Is there anything to say?
pub(super) fn present(model: &Model) -> bool {
    model.hosts.sentinels > 0 || model.counts.hosts.len() > 1 || !model.hosts.remarks.is_empty()
}
