//! All values as one tidy table: a row for each iteration and metric, factors as columns.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::store::{Dataset, Iteration, MetricColumn, Reading};

/// Columns before those of the factors.
const BEFORE: [&str; 8] = ["iteration", "identity", "repetition", "block", "attempt", "status", "host", "started_ns"];
/// And after.
const AFTER: [&str; 6] = ["level", "metric", "role", "unit", "pairs", "value"];

/// The iterations that count, ready to be written metric by metric.
#[derive(Debug, Clone)]
pub struct Export<'a> {
    pub(super) dataset: &'a Dataset,
    pub(super) factors: Vec<&'a str>,
    /// Indices of the iterations that count.
    pub(super) iterations: Vec<usize>,
}

impl<'a> Export<'a> {
    /// Of all iterations that count.
    pub fn new(dataset: &'a Dataset) -> Self {
        let counted = || dataset.iterations.iter().enumerate().filter(|(_, iteration)| iteration.counts);
        let factors: BTreeSet<&str> = counted().flat_map(|(_, i)| i.factors.keys().map(String::as_str)).collect();
        Self { dataset, factors: factors.into_iter().collect(), iterations: counted().map(|(at, _)| at).collect() }
    }

    /// Names of the factors, in the order of their columns.
    pub fn factors(&self) -> &[&'a str] {
        &self.factors
    }

    /// One part for each value of a factor, which is no column of the parts then; `None` stands for iterations without it.
    pub fn parts(&self, factor: &str) -> Vec<(Option<&'a str>, Self)> {
        let value = |at: usize| self.dataset.iterations[at].factors.get(factor).map(String::as_str);
        let values: BTreeSet<Option<&str>> = self.iterations.iter().map(|&at| value(at)).collect();
        let part = |of: Option<&'a str>| Self {
            dataset: self.dataset,
            factors: self.factors.iter().copied().filter(|&name| name != factor).collect(),
            iterations: self.iterations.iter().copied().filter(|&at| value(at) == of).collect(),
        };
        values.into_iter().map(|of| (of, part(of))).collect()
    }

    /// The first line. Factors are named `factor.NAME`, so that none can be taken for another column.
    pub fn header(&self) -> String {
        let factors = self.factors.iter().map(|name| format!("factor.{name}"));
        let names =
            BEFORE.iter().map(|&name| name.to_owned()).chain(factors).chain(AFTER.iter().map(|&name| name.to_owned()));
        let mut line = names.map(|name| quoted(&name)).collect::<Vec<_>>().join(",");
        line.push('\n');
        line
    }

    /// The lines of each metric (RFC 4180 with bare line feeds). An iteration without the metric has none; a value that could not
    /// be measured is empty.
    pub fn metrics(&self) -> impl Iterator<Item = String> + '_ {
        let head = |&at: &usize| (at, head(&self.dataset.iterations[at], &self.factors));
        let rows: Vec<(usize, String)> = self.iterations.iter().map(head).collect();
        self.dataset.metrics.iter().map(move |metric| lines(metric, &rows))
    }
}

/// The unit of a metric; of one whose iterations do not agree, all of them.
pub(super) fn unit(metric: &MetricColumn) -> String {
    metric.units.iter().cloned().collect::<Vec<_>>().join(" or ")
}

/// `rows` are indices of iterations, each with its columns up to the metric's.
fn lines(metric: &MetricColumn, rows: &[(usize, String)]) -> String {
    let tail = [metric.level.as_str(), &metric.name, metric.role.as_deref().unwrap_or_default(), &unit(metric)];
    let tail = tail.map(quoted).join(",");
    let mut text = String::new();
    for (at, head) in rows {
        // A String takes everything.
        let _ = match metric.values[*at] {
            Reading::NotMeasured => Ok(()),
            Reading::Missing => writeln!(text, "{head},{tail},,"),
            // Debug form: every digit, and an exponent rather than 300 zeros.
            Reading::Value { mean, pairs } => writeln!(text, "{head},{tail},{pairs},{mean:?}"),
        };
    }
    text
}

fn head(iteration: &Iteration, factors: &[&str]) -> String {
    let h = &iteration.header;
    let block = h.block.map(|block| block.to_string()).unwrap_or_default();
    let mut cells = vec![
        h.number.to_string(),
        h.identity.to_string(),
        h.repetition.to_string(),
        block,
        h.attempt.to_string(),
        iteration.outcome.status().to_string(),
        quoted(&h.host),
        h.started_ns.to_string(),
    ];
    cells.extend(
        factors.iter().map(|&name| iteration.factors.get(name).map_or_else(String::new, |value| quoted(value))),
    );
    cells.join(",")
}

fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}
