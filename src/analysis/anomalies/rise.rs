//! Performance that rises where more pairs share the hardware.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{ALPHA, Anomaly, CONTENTION, Factors, Kind, Looked, values};
use crate::analysis::contrasts::{Rule, Verdict};
use crate::analysis::stats::equivalence::Margin;
use crate::analysis::{Summary, TwoSample};
use crate::ids::{Better, Level};

/// From one number of pairs to the next each pair does better, beyond the margin, though more of them share the hardware.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rise {
    /// Pairs before.
    pub from: f64,
    /// Pairs after: the group's.
    pub to: f64,
    /// Mean before.
    pub before: f64,
    /// Mean after.
    pub after: f64,
    /// Difference in percent of the mean before; `None` where that means nothing.
    pub percent: Option<f64>,
}

/// A step: metric, group before, group after, and their numbers of pairs.
type Step = (usize, usize, usize, f64, f64);

/// How many steps were looked at, and those that rise. Metrics of the workload itself alone, of which it is said which way is better.
///
/// A step rises when its verdict is *different* in the family of all steps, and it is an improvement.
pub(super) fn rises(metrics: &[Looked<'_>], factors: Factors<'_>) -> (usize, Vec<Anomaly>) {
    let neighbours = neighbours(factors);
    let looked = |metric: &Looked<'_>| metric.level == Level::Application && metric.better.is_some();
    let steps: Vec<Step> = metrics
        .iter()
        .enumerate()
        .filter(|(_, metric)| looked(metric))
        .flat_map(|(m, metric)| {
            let enough = |group: usize| metric.groups[group].len() >= 2;
            let both = move |&&(a, b, ..): &&(usize, usize, f64, f64)| enough(a) && enough(b);
            neighbours.iter().filter(both).map(move |&(a, b, from, to)| (m, a, b, from, to))
        })
        .collect();
    let found = steps.iter().filter_map(|step| rise(metrics, step, steps.len())).collect();
    (steps.len(), found)
}

/// Groups that differ in the number of pairs alone, next to each other.
fn neighbours(factors: Factors<'_>) -> Vec<(usize, usize, f64, f64)> {
    let Some(at) = factors.names.iter().position(|name| name == CONTENTION) else { return Vec::new() };
    let mut series: BTreeMap<Vec<&Option<String>>, Vec<(f64, usize)>> = BTreeMap::new();
    for (group, values) in factors.values.iter().enumerate() {
        let Some(pairs) = values[at].as_deref().and_then(|text| text.parse::<f64>().ok()) else { continue };
        let others = values.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, value)| value).collect();
        series.entry(others).or_default().push((pairs, group));
    }
    let mut found = Vec::new();
    for mut levels in series.into_values() {
        levels.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Groups of one level differ in something that is not shown, and which of the next level goes with which is not known.
        if levels.windows(2).any(|w| w[0].0 == w[1].0) {
            continue;
        }
        found.extend(levels.windows(2).map(|w| (w[0].1, w[1].1, w[0].0, w[1].0)));
    }
    found
}

fn rise(metrics: &[Looked<'_>], &(m, a, b, from, to): &Step, family: usize) -> Option<Anomaly> {
    let metric = &metrics[m];
    let (before, after) = (Summary::of(&values(&metric.groups[a])), Summary::of(&values(&metric.groups[b])));
    let rule = Rule { alpha: ALPHA, family, margin: Margin::Relative(metric.margin.fraction()) };
    let is_different = matches!(rule.judge(&after, &before), Verdict::Different { .. });
    let improves = match metric.better? {
        Better::Higher => after.mean? > before.mean?,
        Better::Lower => after.mean? < before.mean?,
    };
    let percent = TwoSample::of(&after, &before).and_then(|two| two.percent);
    let rise = Rise { from, to, before: before.mean?, after: after.mean?, percent };
    (is_different && improves).then_some(Anomaly { metric: m, group: b, iteration: None, kind: Kind::Rise(rise) })
}
