//! Contrasts and verdicts of all metrics.

use std::collections::BTreeSet;

use super::build::Inputs;
use super::methods::{BENJAMINI, cite};
use super::model::{Contrast, Model, Verdict, label};
use crate::analysis::Interval;
use crate::analysis::contrasts::{self, Extent, Family, Options};
use crate::analysis::judged::{MARGIN, host_numbers, hosts, margin_of};
use crate::analysis::stats::equivalence::Margin;
use crate::analysis::trust;
use crate::report::verdicts::{Word, doubt_text, tell};
use crate::store::MetricColumn;
use crate::units::Percent;

/// What [`all`] finds.
pub(super) struct Judged {
    /// Contrasts that verdicts take into account.
    pub(super) family: usize,
    /// Those of them with a p-value.
    pub(super) adjusted: usize,
    /// For each metric its margin as text, and a contrast for each pair.
    pub(super) metrics: Vec<(String, Vec<Contrast>)>,
    /// Differences on which hosts do not agree, in words.
    pub(super) disagreements: Vec<String>,
}

/// Values of one metric: for each group the values, each with the index of its iteration.
type Values = Vec<Vec<(f64, usize)>>;

/// Compares every metric in every pair of groups; all together are one family.
pub(super) fn all(inputs: &Inputs<'_>, columns: &[&MetricColumn], values: &[Values]) -> Judged {
    let images = inputs.grouping.images(inputs.dataset);
    let pairs = &inputs.grouping.pairs;
    let refusals: Vec<Vec<Option<String>>> = columns
        .iter()
        .zip(values)
        .map(|(column, values)| pairs.iter().map(|&pair| refusal(inputs, column, values, &images, pair)).collect())
        .collect();
    let hosts = hosts(inputs.dataset.iterations.iter().map(|iteration| iteration.header.host.as_str()));
    let metrics: Vec<contrasts::Metric> = columns
        .iter()
        .zip(values)
        .zip(&refusals)
        .map(|((column, values), refusals)| {
            let refused: BTreeSet<usize> =
                pairs.iter().zip(refusals).filter(|(_, why)| why.is_some()).map(|(pair, _)| pair.0).collect();
            let cells = values.iter().enumerate().map(|(group, values)| {
                // What must not be compared is not in the family either.
                if refused.contains(&group) { contrasts::Cell::default() } else { cell(inputs, &hosts, values) }
            });
            contrasts::Metric { margin: Margin::Relative(margin(inputs, column).fraction()), cells: cells.collect() }
        })
        .collect();
    // The page shows the intervals that hold what they promise for few values, too: none of resamples, and no deals.
    let options = Options { seed: inputs.seed, resamples: 0, extent: Extent::Brief, ..Options::default() };
    let family: Family = contrasts::contrasts(&metrics, pairs, &options);
    let disagreements = disagreements(inputs, columns, &family);
    let mut found = family.contrasts.into_iter();
    let metrics = columns.iter().zip(refusals).map(|(column, refusals)| {
        let of = refusals.into_iter().zip(found.by_ref());
        (margin(inputs, column).to_string(), of.map(|(refusal, found)| contrast(&found, refusal)).collect())
    });
    Judged { metrics: metrics.collect(), family: family.size, adjusted: family.adjusted, disagreements }
}

/// What hosts do not agree on, tested at a level for all contrasts together.
fn disagreements(inputs: &Inputs<'_>, columns: &[&MetricColumn], family: &Family) -> Vec<String> {
    let level = trust::level(family.contrasts.len());
    let mut found = Vec::new();
    for contrast in &family.contrasts {
        let name = columns[contrast.metric].full_name();
        for doubt in contrast.hosts.iter().flat_map(|hosts| trust::about_hosts(hosts, level)) {
            let unit = columns[contrast.metric].units.iter().cloned().collect::<Vec<_>>().join(", ");
            let text = doubt_text(&doubt, &|x| format!("{x:.4} {unit}"));
            let group = label(&inputs.grouping.factors, &inputs.grouping.groups[contrast.group]);
            found.push(format!("{name}, {group}: {text}."));
        }
    }
    found
}

fn cell(inputs: &Inputs<'_>, hosts: &[String], values: &[(f64, usize)]) -> contrasts::Cell {
    let header = |&(_, at): &(f64, usize)| &inputs.dataset.iterations[at].header;
    contrasts::Cell {
        values: values.iter().map(|v| v.0).collect(),
        blocks: values.iter().map(|v| header(v).block).collect(),
        hosts: host_numbers(hosts, values.iter().map(|v| header(v).host.as_str())),
    }
}

/// The margin of a metric: of its full name, its name, or the default.
fn margin(inputs: &Inputs<'_>, column: &MetricColumn) -> Percent {
    margin_of(inputs.margins, &column.full_name(), &column.name).unwrap_or(MARGIN)
}

fn contrast(found: &contrasts::Contrast, refusal: Option<String>) -> Contrast {
    let (verdict, remark) = match refusal {
        Some(why) => (Verdict::NotComparable, Some(why)),
        None => verdict(&found.verdict),
    };
    let numbers = found.numbers.as_ref().filter(|_| verdict != Verdict::NotComparable);
    let of = |get: fn(&contrasts::Numbers) -> Option<f64>| numbers.and_then(get);
    let interval = |get: fn(&contrasts::Numbers) -> Option<Interval>| numbers.and_then(get);
    let adjusted = |p: Option<f64>| p.filter(|_| numbers.is_some());
    Contrast {
        verdict,
        remark,
        difference: of(|n| Some(n.means.difference)),
        difference_interval: interval(|n| n.means.difference_ci95),
        percent: of(|n| n.means.percent),
        percent_interval: interval(|n| n.means.percent_ci95),
        g: of(|n| n.means.hedges_g),
        g_interval: interval(|n| n.means.hedges_g_ci95),
        delta: of(|n| Some(n.dominance.cliff_delta)),
        p: of(|n| n.means.welch.map(|w| w.p)),
        p_holm: adjusted(found.p_holm),
        p_bh: adjusted(found.p_bh),
        p_rank: of(|n| n.mann_whitney.map(|m| m.p)),
    }
}

/// The verdict as shown, and what goes with it.
fn verdict(verdict: &contrasts::Verdict) -> (Verdict, Option<String>) {
    let told = tell(verdict);
    let shown = match told.word {
        Word::Different => Verdict::Different,
        Word::DifferentNegligible => Verdict::Negligible,
        Word::Undecided => Verdict::Undecided,
        Word::Equivalent => Verdict::Equivalent,
        Word::NotComparable => Verdict::NotComparable,
    };
    (shown, told.remark)
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

/// The paragraphs on contrasts.
pub(super) fn methods(model: &mut Model) -> Vec<String> {
    let options = Options::default();
    let welch = cite(model, WELCH);
    let (fieller, g, delta, holm) = (cite(model, FIELLER), cite(model, HEDGES), cite(model, CLIFF), cite(model, HOLM));
    let (bh, mw, tost) = (cite(model, BENJAMINI), cite(model, MANN_WHITNEY), cite(model, SCHUIRMANN));
    let margins: BTreeSet<&str> = model.metrics.iter().filter_map(|metric| metric.margin.as_deref()).collect();
    let margins = margins.into_iter().collect::<Vec<_>>().join(", ");
    let (factor, value) = model.baseline.clone().unwrap_or_default();
    vec![
        format!(
            "Each group was compared with the group of {factor} = {value} that agrees in every other factor. Differences of means are given in \
             percent of the baseline's mean with Fieller's intervals [{fieller}], those of differences in the metric's unit are Welch's; both \
             cover 95 %. With them go Hedges' g [{g}] and Cliff's δ [{delta}] as effect sizes. p-values are those of \
             Welch's test [{welch}], two-sided, and of Mann and Whitney's [{mw}]; Welch's are adjusted by Holm's method [{holm}] and by Benjamini \
             and Hochberg's [{bh}] over all {} contrasts of this report that have one.",
            model.adjusted
        ),
        format!(
            "Verdicts rest on the margin within which a difference does not matter ({margins} of the baseline's mean): a contrast is different \
             when the interval of the difference lies wholly beyond the margin, different but negligible when it lies within and excludes \
             zero, equivalent when it lies within and contains zero (two one-sided tests [{tost}]), and undecided otherwise. These intervals \
             together cover all true differences with a probability of {} % (Bonferroni over {} contrasts).",
            100.0 * (1.0 - options.alpha),
            model.family
        ),
    ]
}

const WELCH: &str = "B. L. Welch: The generalization of “Student's” problem when several different population variances are involved. Biometrika 34, 1947.";
const FIELLER: &str =
    "E. C. Fieller: Some problems in interval estimation. Journal of the Royal Statistical Society B 16(2), 1954.";
const HEDGES: &str = "L. V. Hedges: Distribution theory for Glass's estimator of effect size and related estimators. Journal of Educational Statistics 6(2), 1981.";
const CLIFF: &str = "N. Cliff: Dominance statistics: ordinal analyses to answer ordinal questions. Psychological Bulletin 114(3), 1993.";
const HOLM: &str =
    "S. Holm: A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6(2), 1979.";
const MANN_WHITNEY: &str = "H. B. Mann, D. R. Whitney: On a test of whether one of two random variables is stochastically larger than the other. Annals of Mathematical Statistics 18(1), 1947.";
const SCHUIRMANN: &str = "D. J. Schuirmann: A comparison of the two one-sided tests procedure and the power approach for assessing the equivalence of average bioavailability. Journal of Pharmacokinetics and Biopharmaceutics 15(6), 1987.";
