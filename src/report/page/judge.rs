//! Contrasts and verdicts of all metrics.

use std::collections::BTreeSet;

use super::build::Inputs;
use super::methods::cite;
use super::model::{Contrast, Model, Verdict};
use crate::analysis::{Summary, TwoSample};
use crate::store::MetricColumn;
use crate::units::Percent;

/// What [`all`] finds.
pub(super) struct Judged {
    /// Contrasts that p-values are adjusted for.
    pub(super) family: usize,
    /// For each metric its margin as text, and a contrast for each pair.
    pub(super) metrics: Vec<(Option<String>, Vec<Contrast>)>,
}

/// Values of one metric: for each group the values, each with the index of its iteration.
type Values = Vec<Vec<(f64, usize)>>;

pub(super) fn all(inputs: &Inputs<'_>, columns: &[&MetricColumn], values: &[Values]) -> Judged {
    let images = inputs.grouping.images(inputs.dataset);
    let mut metrics = Vec::new();
    for (column, values) in columns.iter().zip(values) {
        let summaries: Vec<Summary> =
            values.iter().map(|v| Summary::of(&v.iter().map(|v| v.0).collect::<Vec<_>>())).collect();
        let contrasts = inputs.grouping.pairs.iter().map(|&(g, b)| {
            if let Some(why) = refusal(inputs, column, values, &images, (g, b)) {
                return incomparable(why);
            }
            match TwoSample::of(&summaries[g], &summaries[b]) {
                None => incomparable("a mean is missing".to_owned()),
                Some(r) => Contrast {
                    verdict: Verdict::Undecided,
                    remark: None,
                    difference: Some(r.difference),
                    difference_interval: r.difference_ci95,
                    percent: r.percent,
                    percent_interval: r.percent_ci95,
                    g: r.hedges_g,
                    g_interval: r.hedges_g_ci95,
                    delta: None,
                    p: r.welch.map(|w| w.p),
                    p_holm: None,
                    p_bh: None,
                    p_rank: None,
                },
            }
        });
        metrics.push((margin(inputs, column).map(|m| m.to_string()), contrasts.collect()));
    }
    Judged { family: 0, metrics }
}

/// The margin of a metric: of its full name, its name, or the default.
fn margin(inputs: &Inputs<'_>, column: &MetricColumn) -> Option<Percent> {
    let of = |name: &str| inputs.margins.iter().find(|(known, _)| known == name).map(|(_, margin)| *margin);
    of(&column.full_name()).or_else(|| of(&column.name)).or_else(|| of("default"))
}

fn incomparable(why: String) -> Contrast {
    Contrast {
        verdict: Verdict::NotComparable,
        remark: Some(why),
        difference: None,
        difference_interval: None,
        percent: None,
        percent_interval: None,
        g: None,
        g_interval: None,
        delta: None,
        p: None,
        p_holm: None,
        p_bh: None,
        p_rank: None,
    }
}

/// Why two groups must not be compared in a metric, whatever their values are.
fn refusal(
    inputs: &Inputs<'_>,
    column: &MetricColumn,
    values: &Values,
    images: &[BTreeSet<&str>],
    (group, baseline): (usize, usize),
) -> Option<String> {
    if column.units.len() > 1 {
        return Some("its values have different units".to_owned());
    }
    if images[group].len() > 1 || images[baseline].len() > 1 {
        return Some("guests of one side had different images".to_owned());
    }
    if !column.seen.is_empty() && !inputs.unequal_vantage {
        let seen = |group: usize| values[group].iter().map(|&(_, at)| column.seen[at].as_deref());
        let places: BTreeSet<Option<&str>> = seen(group).chain(seen(baseline)).collect();
        if places.len() > 1 {
            return Some("packets were looked at in different places, or under different offloads".to_owned());
        }
    }
    None
}

/// The paragraph on contrasts.
pub(super) fn methods(model: &mut Model, _inputs: &Inputs<'_>) -> String {
    let welch = cite(
        model,
        "B. L. Welch: The generalization of “Student's” problem when several different population variances are involved. Biometrika 34, 1947.",
    );
    format!("Each group was compared with its baseline by Welch's test [{welch}].")
}
