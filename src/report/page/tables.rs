//! Tables that need no script: validity, settings, environment, methods.

use maud::{Markup, html};

use super::model::{Fact, Model, Setting};
use super::section;

/// Rows that a table shows at once; more are folded, and more than [`MOST`] counted.
const SHOWN: usize = 16;
const MOST: usize = 5000;

/// Why nothing is compared.
pub(super) fn why_no_pairs(model: &Model) -> String {
    if model.groups.is_empty() {
        return "there are no groups.".to_owned();
    }
    match (&model.baseline, model.groups.len()) {
        (None, 1) => "there is one group.".to_owned(),
        (None, _) => "no baseline is named, in the spec or with --baseline.".to_owned(),
        (Some((factor, value)), _) => {
            format!("no other group agrees with one of {factor} = {value} in every other factor.")
        }
    }
}

/// The first rows, then the others folded.
fn folded(head: &Markup, rows: &[Markup]) -> Markup {
    html! {
        div.scroll { table { (head) tbody { @for row in rows.iter().take(SHOWN) { (row) } } } }
        @if rows.len() > SHOWN {
            details { summary { (rows.len().min(MOST) - SHOWN) " more" }
                div.scroll { table { (head) tbody { @for row in rows.iter().take(MOST).skip(SHOWN) { (row) } } } }
            }
        }
        @if rows.len() > MOST { p.more { (rows.len() - MOST) " more are in the database." } }
    }
}

pub(super) fn validity(model: &Model) -> Markup {
    let c = &model.counts;
    let head =
        html! { thead { tr { th.num { "iteration" } th { "group" } th { "status" } th { "why" } th { "host" } } } };
    let rows: Vec<Markup> = model
        .excluded
        .iter()
        .take(MOST + 1)
        .map(|e| {
            html! {
                tr {
                    td.num { (e.number) @if e.attempt > 1 { " (attempt " (e.attempt) ")" } }
                    td { (e.factors) }
                    td { span class={ "s s-" (status_class(&e.status)) } { (e.status) } }
                    td { @for reason in &e.reasons { div { (reason) } } }
                    td { (e.host) }
                }
            }
        })
        .collect();
    let content = html! {
        p.answer { (c.counted) " of " (c.iterations) " iterations count. "
            @for (status, n) in &c.by_status { span class={ "s s-" (status_class(status)) } { (n) " " (status) } " " }
            @if c.superseded > 0 { "Besides, " (c.superseded) " attempts were made at iterations for which another attempt stands." }
        }
        @if rows.is_empty() { p.none { "None was left out." } } @else { (folded(&head, &rows)) }
        @if model.excluded.len() > rows.len() { p.more { (model.excluded.len()) " in all." } }
        @if !model.no_pair.is_empty() {
            h3 { "Groups without a contrast" }
            table { tbody { @for (group, why) in &model.no_pair { tr { td { (model.label(*group)) } td { (why) } } } } }
        }
    };
    section("validity", "Validity", "Every iteration that was left out, and why.", &content)
}

/// A class name that no status from outside can be.
fn status_class(status: &str) -> &'static str {
    match status {
        "complete" => "complete",
        "suspect" => "suspect",
        "superseded" => "superseded",
        _ => "bad",
    }
}

pub(super) fn settings(model: &Model) -> Markup {
    let disagree = model.settings.iter().filter(|s| s.ok == Some(false)).count();
    let unread = model.settings.iter().filter(|s| s.requested.is_some() && s.ok.is_none()).count();
    let mut sorted: Vec<&Setting> = model.settings.iter().collect();
    sorted.sort_by_key(|s| match s.ok {
        Some(false) => 0,
        None if s.requested.is_some() => 1,
        Some(true) => 2,
        None => 3,
    });
    let head = html! { thead { tr { th { "setting" } th { "on" } th { "testbed" } th { "asked" } th { "read" } th { "when" } th.num { "times" } th { "" } } } };
    let rows: Vec<Markup> = sorted.into_iter().map(|s| html! {
        tr {
            td { (s.name) } td { (s.place) } td { (s.testbed) }
            td { (s.requested.as_deref().unwrap_or("–")) }
            td { (s.observed.as_deref().unwrap_or("not read")) }
            td { (s.when) } td.num { (s.count) }
            td { @match s.ok { Some(true) => { span.s.s-complete { "in force" } } Some(false) => { span.s.s-bad { "not in force" } } None => {} } }
        }
    }).collect();
    let content = html! {
        p.answer { @if rows.is_empty() { "No setting was recorded." } @else { (disagree) " kinds of readings disagree with what was asked, " (unread) " could not be read." } }
        @if !rows.is_empty() { (folded(&head, &rows)) }
    };
    section(
        "settings",
        "Settings",
        "What the spec asks for and what was read back, before and after the workload.",
        &content,
    )
}

pub(super) fn environment(model: &Model) -> Markup {
    let head = html! { thead { tr { th { "fact" } th { "on" } th { "values, and how often they were read" } } } };
    let rows = |facts: &[Fact]| -> Vec<Markup> {
        facts.iter().map(|fact| html! {
            tr { td { (fact.name) } td { (fact.place) } td { @for (value, n) in &fact.values { div.value { span { (value) } " " span.times { "× " (n) } } } } }
        }).collect()
    };
    let content = html! {
        h3 { "What was not always the same" }
        @if model.differing.is_empty() { p.none { "Nothing." } } @else { (folded(&head, &rows(&model.differing))) }
        @if !model.same.is_empty() { details { summary { "What was the same: " (model.same.len()) " facts" } (folded(&head, &rows(&model.same))) } }
    };
    section("environment", "Environment", "", &content)
}

pub(super) fn methods(model: &Model) -> Markup {
    let content = html! {
        div.methods { @for paragraph in &model.methods { p { (paragraph) } } }
        @if !model.references.is_empty() { h3 { "References" } ol.references { @for work in &model.references { li { (work) } } } }
    };
    section("methods", "Methods", "Ready to be taken over.", &content)
}

pub(super) fn packetization(model: &Model) -> Markup {
    if model.packetization.is_empty() {
        return html! {};
    }
    let head = html! { thead { tr { th { "seen at" } th { "direction" } th { "group" } th.num { "n" } th.num { "payload per packet (B)" } th.num { "in super-segments" } th.num { "longest (B)" } th.num { "stalls" } } } };
    let rows: Vec<Markup> = model
        .packetization
        .iter()
        .map(|p| {
            html! {
                tr {
                    td { (p.place) } td { (p.direction) } td { (model.label(p.group)) } td.num { (p.n) }
                    td.num { (p.payload.map_or_else(|| "–".to_owned(), |(x, n)| format!("{x:.0} (n {n})"))) }
                    td.num { (p.super_share.map_or_else(|| "–".to_owned(), |(x, n)| format!("{:.1} % (n {n})", 100.0 * x))) }
                    td.num { (p.longest.map_or_else(|| "–".to_owned(), |x| x.to_string())) }
                    td.num { (p.stalls) }
                }
            }
        })
        .collect();
    html! { h3 { "How payload is cut into packets" } p.lead { "Means, each over the iterations that have it; stalls of all of them, both directions together." } (folded(&head, &rows)) }
}

/// What stands out, and how often chance alone would put something there.
pub(super) fn anomalies(model: &Model) -> Markup {
    let found = &model.anomalies;
    let head = html! { thead { tr { th { "what" } th { "metric" } th { "group" } th.num { "iteration" } th { "file, series" } th { "" } } } };
    let rows: Vec<Markup> = found
        .rows
        .iter()
        .take(MOST + 1)
        .map(|row| {
            html! {
                tr {
                    td { span.s.s-suspect { (row.kind.name()) } }
                    td { a.metric href="#metric" data-metric=(row.metric) data-group=(row.group) { (row.name) } }
                    td { (model.label(row.group)) }
                    td.num { @if let Some(at) = &row.iteration { (at.number) } @else { "all" } }
                    td { @if let Some(at) = &row.iteration { code { (at.file) } @if let Some(series) = row.series { ", " code { (series) } } } }
                    td { (row.text) }
                }
            }
        })
        .collect();
    let content = html! {
        @if rows.is_empty() { p.none { "Nothing stands out." } } @else {
            (folded(&head, &rows))
            @if found.rows.len() > rows.len() { p.more { (found.rows.len()) " in all; " code { "vptest analyze --all --anomalies" } " lists them." } }
        }
        @if !found.notes.is_empty() { ul.more { @for note in &found.notes { li { (note) } } } }
    };
    let lead = "What to look at before the numbers are believed: iterations far from their group, stalls, storms of retransmissions, \
                groups with more than one hump, and performance that rises with more pairs.";
    section("anomalies", "Anomalies", lead, &content)
}

pub(super) fn chains(model: &Model) -> Markup {
    let head = html! { thead { tr { th { "process" } th { "group" } th.num { "divergence (bit)" } th.num { "by chance, at most" } th.num { "p" } th.num { "transitions that differ" } } } };
    let rows: Vec<Markup> = model.chains.iter().map(|c| html! {
        tr {
            td { (c.process) } td { (c.group) } td.num { (format!("{:.4}", c.bits)) } td.num { (format!("{:.4}", c.by_chance)) }
            td.num { (super::overview::probability(Some(c.p))) }
            td.num { (c.differing) " of " (c.total) }
        }
    }).collect();
    folded(&head, &rows)
}
