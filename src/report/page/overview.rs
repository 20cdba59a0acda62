//! The head of the page and the summary of verdicts, which stand there without any script.

use maud::{Markup, html};

use super::model::{Contrast, Metric, Model, Verdict};
use super::section;
use crate::report::number::Column;

/// Metrics that each list of the summary shows at once; the others are folded.
const LISTED: usize = 12;

/// Contrasts in the table without script.
const ROWS: usize = 300;

/// Names that fit into a line, and how many more there are.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 20;
    match names.split_at_checked(SHOWN) {
        Some((shown, rest)) if !rest.is_empty() => format!("{} and {} more", shown.join(", "), rest.len()),
        _ => names.join(", "),
    }
}

pub(super) fn head(model: &Model) -> Markup {
    let c = &model.counts;
    html! {
        header {
            p.kind { "vptest report" }
            h1 { (model.title) }
            p.facts {
                strong { (c.counted) } " of " (c.iterations) " iterations count"
                " · " (model.groups.len()) " groups · " (model.metrics.len()) " metrics"
                @if let Some((from, to)) = &c.time { " · " (from) " to " (to) }
                @if !c.hosts.is_empty() { " · on " (some_of(&c.hosts)) }
            }
            @if !model.constant.is_empty() {
                p.facts { "The same in all: " @for (i, (name, value)) in model.constant.iter().enumerate() { @if i > 0 { ", " } (name) " = " (value) } }
            }
            nav aria-label="Sections" {
                @for (id, name) in [("summary", "Verdicts"), ("heat", "Heat map"), ("metric", "One metric"), ("contrasts", "Contrasts"), ("anomalies", "Anomalies"), ("hosts", "Hosts"), ("packets", "Packets"), ("time", "Over time"), ("calls", "System calls"), ("validity", "Validity"), ("settings", "Settings"), ("environment", "Environment"), ("methods", "Methods")].into_iter().filter(|(id, _)| *id != "hosts" || super::hosts::present(model)) {
                    a href={ "#" (id) } { (name) } " "
                }
            }
        }
    }
}

pub(super) fn summary(model: &Model) -> Markup {
    let counts = model.verdicts();
    let total: usize = counts.iter().sum();
    let content = html! {
        p.answer { (answer(model, &counts)) }
        @if total > 0 {
            ul.tiles {
                @for (verdict, count) in Verdict::ALL.iter().zip(counts) {
                    li { button type="button" class={ "tile t-" (verdict.code()) } data-verdict=(verdict.code()) { span.count { (count) } span.name { (verdict.mark()) " " (verdict.as_str()) } } }
                }
            }
            div.lists {
                (list(model, "What differs", "Beyond the margin.", &[Verdict::Different]))
                (list(model, "What does not", "Differences within the margin, if any.", &[Verdict::Equivalent, Verdict::Negligible]))
                (list(model, "What cannot be said", "More repetitions, or another comparison, would tell.", &[Verdict::Undecided, Verdict::NotComparable]))
            }
        }
        @if !model.notes.is_empty() {
            div.notes { h3 { "Before you quote this" } ul { @for note in &model.notes { li { (note) } } } }
        }
    };
    section("summary", "Verdicts", "", &content)
}

/// One or two sentences: the result.
fn answer(model: &Model, counts: &[usize; 5]) -> String {
    let total: usize = counts.iter().sum();
    if model.counts.iterations == 0 {
        return "The database holds no iterations: there is nothing to say.".to_owned();
    }
    if model.counts.counted == 0 {
        return "No iteration counts: there is nothing to compare. The table of validity says why.".to_owned();
    }
    if model.metrics.is_empty() {
        return "No iteration that counts has a metric: there is nothing to compare.".to_owned();
    }
    if total == 0 {
        return format!("Nothing was compared: {}", super::tables::why_no_pairs(model));
    }
    let against = model.baseline.as_ref().map_or_else(String::new, |(f, v)| format!(" against {f} = {v}"));
    let shape = format!(
        "{total} contrasts ({} {} × {} {}{against})",
        model.metrics.len(),
        plural(model.metrics.len(), "metric"),
        model.pairs.len(),
        plural(model.pairs.len(), "group")
    );
    let [different, negligible, equivalent, undecided, incomparable] = *counts;
    format!(
        "Of {shape}, {different} {} by more than {} margin. {negligible} differ by less than that, {equivalent} are equivalent, \
         {undecided} are undecided and {incomparable} cannot be compared.",
        if different == 1 { "differs" } else { "differ" },
        if different == 1 { "its" } else { "their" },
    )
}

fn plural(n: usize, word: &str) -> String {
    if n == 1 { word.to_owned() } else { format!("{word}s") }
}

/// A metric in a list of the summary.
struct Entry<'a> {
    metric: &'a Metric,
    index: usize,
    contrasts: usize,
    low: Option<f64>,
    high: Option<f64>,
    why: Option<&'a str>,
}

fn entries<'a>(model: &'a Model, verdicts: &[Verdict]) -> Vec<Entry<'a>> {
    let mut all = Vec::new();
    for (index, metric) in model.metrics.iter().enumerate() {
        let of: Vec<&Contrast> = metric.contrasts.iter().filter(|c| verdicts.contains(&c.verdict)).collect();
        if of.is_empty() {
            continue;
        }
        let percents = || of.iter().filter_map(|c| c.percent);
        // Of several contrasts only what holds for all of them.
        let why = of[0].remark.as_deref().filter(|why| of.iter().all(|c| c.remark.as_deref() == Some(why)));
        all.push(Entry {
            metric,
            index,
            contrasts: of.len(),
            low: percents().reduce(f64::min),
            high: percents().reduce(f64::max),
            why,
        });
    }
    let size = |e: &Entry<'_>| e.low.into_iter().chain(e.high).map(f64::abs).fold(0.0, f64::max);
    all.sort_by(|a, b| a.metric.level.cmp(&b.metric.level).then_with(|| size(b).total_cmp(&size(a))));
    all
}

fn list(model: &Model, title: &str, lead: &str, verdicts: &[Verdict]) -> Markup {
    let all = entries(model, verdicts);
    let cannot = verdicts.contains(&Verdict::NotComparable);
    let row = |entry: &Entry<'_>| {
        html! {
            tr {
                td { a.metric href="#metric" data-metric=(entry.index) { (breakable(entry.metric.short_name())) } " " span.level { (entry.metric.level) } @if cannot { @if let Some(why) = entry.why { div.why { (why) } } } }
                td.num { (entry.contrasts) " of " (model.pairs.len()) }
                td.num { (range(entry.low, entry.high)) }
            }
        }
    };
    let head = || html! { thead { tr { th { "metric" } th.num { "contrasts" } th.num { "difference" } } } };
    html! {
        div.list {
            h3 { (title) }
            p.lead { (lead) }
            @if all.is_empty() { p.none { "Nothing." } } @else {
                table { (head()) tbody { @for entry in all.iter().take(LISTED) { (row(entry)) } } }
                @if all.len() > LISTED {
                    details { summary { (all.len() - LISTED) " more" } table { (head()) tbody { @for entry in &all[LISTED..] { (row(entry)) } } } }
                }
            }
        }
    }
}

/// A name that may be broken behind its marks, and nowhere else.
fn breakable(name: &str) -> Markup {
    html! { @for part in name.split_inclusive(['_', '.', '@']) { (part) wbr; } }
}

/// `-9.1 … -8.9 %`
fn range(low: Option<f64>, high: Option<f64>) -> String {
    match low.zip(high) {
        None => "–".to_owned(),
        Some((low, high)) if percent(low) == percent(high) => format!("{} %", percent(low)),
        Some((low, high)) => format!("{} … {} %", percent(low), percent(high)),
    }
}

/// A difference in percent with as many digits as are read.
pub(super) fn percent(x: f64) -> String {
    let decimals = match x.abs() {
        a if a >= 100.0 || a == 0.0 => 0,
        a if a >= 0.995 => 1,
        _ => 2,
    };
    let text = format!("{x:+.decimals$}");
    // A true minus is as wide as a plus.
    text.replace('-', "\u{2212}")
}

/// A p-value with two digits that count.
pub(super) fn probability(p: Option<f64>) -> String {
    match p {
        None => "–".to_owned(),
        Some(p) if p < 0.0001 => "< 0.0001".to_owned(),
        Some(p) if p < 0.1 => format!("{p:.4}"),
        Some(p) => format!("{p:.3}"),
    }
}

/// The table of contrasts; the script replaces its rows.
pub(super) fn contrast_table(model: &Model) -> Markup {
    let total = model.metrics.len() * model.pairs.len();
    let shown = model
        .metrics
        .iter()
        .flat_map(|metric| metric.contrasts.iter().zip(&model.pairs).map(move |(c, &pair)| (metric, c, pair)));
    let mut shown: Vec<_> = shown.collect();
    shown.sort_by_key(|row| row.1.verdict);
    let rest = total.saturating_sub(ROWS);
    html! {
        div.scroll.tall {
            table #contrast-table {
                caption.visually-hidden { "Contrasts" }
                thead { tr {
                    th scope="col" data-sort="metric" { "metric" }
                    th scope="col" data-sort="group" { "group" }
                    th.num scope="col" data-sort="n" { "n" }
                    th.num scope="col" data-sort="mean" { "mean" }
                    th.num scope="col" data-sort="base" { "baseline" }
                    th.num scope="col" data-sort="percent" { "difference" }
                    th.num scope="col" { "95 % interval" }
                    th.num scope="col" data-sort="g" { "g" }
                    th.num scope="col" data-sort="p" { "p (Holm)" }
                    th scope="col" data-sort="verdict" { "verdict" }
                } }
                tbody {
                    @for (metric, contrast, (group, baseline)) in shown.into_iter().take(ROWS) { (row(model, metric, contrast, group, baseline)) }
                }
            }
        }
        p.more #contrast-more { @if rest > 0 { (rest) " more are shown by the page's script, and by " code { "vptest analyze --format csv" } "." } }
    }
}

fn row(model: &Model, metric: &Metric, contrast: &Contrast, group: usize, baseline: usize) -> Markup {
    let (cell, base) = (&metric.cells[group], &metric.cells[baseline]);
    let column = Column::of(&metric.unit, [(cell.mean, cell.sd), (base.mean, base.sd)].into_iter());
    let difference = contrast.percent.map_or_else(|| "–".to_owned(), |x| format!("{} %", percent(x)));
    let interval = contrast
        .percent_interval
        .map_or_else(|| "–".to_owned(), |ci| format!("{} … {}", percent(ci.low), percent(ci.high)));
    let g = contrast.g.map_or_else(|| "–".to_owned(), |g| format!("{g:+.2}").replace('-', "\u{2212}"));
    html! {
        tr {
            td { (breakable(metric.short_name())) " " span.level { (metric.level) } }
            td { (model.label(group)) }
            td.num { (cell.n) " / " (base.n) }
            td.num { (column.show(cell.mean)) " " (column.unit()) }
            td.num { (column.show(base.mean)) " " (column.unit()) }
            td.num { (difference) }
            td.num { (interval) }
            td.num { (g) }
            td.num { (probability(contrast.p_holm.or(contrast.p))) }
            td { span class={ "v v-" (contrast.verdict.code()) } { (contrast.verdict.mark()) " " (contrast.verdict.as_str()) } @if let Some(remark) = &contrast.remark { div.why { (remark) } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_have_the_digits_that_are_read() {
        let shown = [-9.123, 0.0, 0.123, 250.4, -0.994, 0.996].map(percent);
        assert_eq!(shown, ["\u{2212}9.1", "+0", "+0.12", "+250", "\u{2212}0.99", "+1.0"]);
        assert_eq!(range(Some(1.0), Some(1.01)), "+1.0 %");
        assert_eq!(range(None, None), "–");
        assert_eq!(
            (probability(Some(1e-9)), probability(Some(0.0312)), probability(Some(0.5))),
            ("< 0.0001".into(), "0.0312".into(), "0.500".into())
        );
    }
}
