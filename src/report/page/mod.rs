//! The report: one HTML file that needs nothing else, readable without JavaScript, in light, dark, print and on a phone.
//!
//! Data in, text out. What stands in the data is never markup: maud escapes it, and the figures' data are JSON in an element that
//! no browser runs. A policy in the page forbids every request, and every script but its own, which has a hash.

pub mod build;
mod cells;
mod embed;
pub mod grouping;
pub mod hosts;
mod judge;
mod methods;
pub mod model;
mod overview;
mod tables;

use base64::Engine as _;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

pub use model::Model;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("charts.js");

/// The whole page.
pub fn page(model: &Model) -> String {
    let title = format!("{} – vptest report", model.title);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                meta name="generator" content={ "vptest " (env!("CARGO_PKG_VERSION")) };
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (overview::head(model))
                main {
                    (overview::summary(model))
                    (figures(model))
                    (tables::validity(model))
                    (tables::settings(model))
                    (tables::environment(model))
                    (tables::methods(model))
                }
                footer { p { "Made by vptest " (env!("CARGO_PKG_VERSION")) " from " code { (model.source) } ". This file needs no network." } }
                div #tip role="tooltip" hidden {}
                script type="application/json" #data { (PreEscaped(embed::data(model))) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    markup.into_string()
}

/// Nothing may be fetched, and nothing may run but this page's own script.
fn policy() -> String {
    let hash = |text: &str| base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text.as_bytes()));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data: blob:; base-uri 'none'; form-action 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
}

/// A section with its place in the table of contents.
fn section(id: &str, title: &str, lead: &str, content: &Markup) -> Markup {
    html! {
        section #(id) aria-labelledby={ (id) "-title" } {
            h2 #{ (id) "-title" } { (title) }
            @if !lead.is_empty() { p.lead { (lead) } }
            (content)
        }
    }
}

/// A place that the script fills with a figure.
fn figure(id: &str, title: &str, text: &str) -> Markup {
    html! {
        figure.fig #{ "fig-" (id) } data-figure=(id) {
            figcaption { strong { (title) } " " span { (text) } }
            div.plot { p.waiting { "This figure is drawn by the page's own script; the tables say the same without it." } }
        }
    }
}

fn contrasts(model: &Model) -> Markup {
    let lead = "Every metric in every group that has a baseline. Intervals cover 95 %.";
    let content = html! {
        @if model.pairs.is_empty() {
            p.none { "No group was compared with another: " (tables::why_no_pairs(model)) }
        } @else {
            form.filters #filters autocomplete="off" {
                label { "Search " input #f-text type="search" placeholder="metric or factor value"; }
                label { "Level " select #f-level { option value="" { "all" } option { "application" } option { "os" } option { "network" } } }
                fieldset {
                    legend { "Verdict" }
                    @for verdict in model::Verdict::ALL {
                        label.check { input type="checkbox" name="verdict" value=(verdict.code()) checked; span class={ "v v-" (verdict.code()) } { (verdict.mark()) " " (verdict.as_str()) } }
                    }
                }
            }
            (overview::contrast_table(model))
        }
    };
    section("contrasts", "All contrasts", lead, &content)
}

/// What the figure of run order shows.
fn run_text(model: &Model) -> String {
    format!(
        "Above: values of the groups, with the median of each stretch between changes of level (Pettitt's test, p ≤ {:.4} in each \
         group). Below: how far every iteration is from its group's mean, with the running median. Upright lines are the beginnings of \
         blocks.",
        model.change_level
    )
}

fn figures(model: &Model) -> Markup {
    let pairs = !model.pairs.is_empty();
    let values = !model.metrics.is_empty();
    let heat = html! {
        @if pairs && values {
            (figure("heat", "Difference from the baseline, in percent.", "One row for each metric, one column for each contrast. Colour is the size of the difference, pale where it is undecided; the mark is the verdict. A click shows the metric."))
        } @else { p.none { "There is nothing to compare." } }
    };
    let metric = html! {
        @if values {
            div.pick {
                label { "Metric " select #pick-metric {} }
                label { "Over " select #pick-factor {} }
            }
            @if pairs { (figure("forest", "Forest plot.", "Difference of means from the baseline with its 95 % interval; the band is the margin.")) }
            (figure("means", "Groups.", "Every iteration as a dot, the mean with its 95 % interval beside it."))
            (figure("ecdf", "Distributions.", "Share of iterations with at most this value, a dot for each; the baseline in grey."))
            @if pairs { div.pick { label { "Contrast " select.pick-pair {} } } }
            (figure("run", "In the order of the runs.", &run_text(model)))
            (figure("factor", "Over a factor.", "Means with 95 % intervals, one line for each combination of the others."))
        } @else { p.none { "No iteration that counts has any metric." } }
    };
    let packets = html! {
        @if model.histograms.is_empty() && model.packetization.is_empty() {
            p.none { "No capture counted packets." }
        } @else {
            @if pairs { div.pick { label { "Contrast " select.pick-pair {} } } }
            @if !model.histograms.is_empty() { (figure("sizes", "Packet sizes on the wire.", "Share of packets in each bin, mean over iterations; the baseline in grey.")) }
            @for (i, series) in model.series.iter().enumerate().filter(|(_, s)| s.section == "packets") { (figure(&format!("series-{i}"), &series.title, "")) }
            (tables::packetization(model))
        }
    };
    let time = html! {
            @let here: Vec<_> = model.series.iter().enumerate().filter(|(_, s)| s.section == "time").collect();
            @if here.is_empty() { p.none { "No capture recorded throughput over time." } } @else {
                @if pairs { div.pick { label { "Contrast " select.pick-pair {} } } }
    div.pair { @for (i, series) in here { (figure(&format!("series-{i}"), &series.title, "")) } }
            }
        };
    let calls = html! {
        @if model.chains.is_empty() { p.none { "System calls were not followed, or there is nothing to compare them with." } } @else {
            div.pick { label { "Process and group " select #pick-chain {} } }
            (figure("chain", "Transitions between system calls.", "Width is the share of a transition in the group; coloured ones differ from the baseline at a false-discovery rate of 5 %."))
            (tables::chains(model))
        }
    };
    html! {
        (section("heat", "Where it differs", "", &heat))
        (section("metric", "One metric", "", &metric))
        (contrasts(model))
        (tables::anomalies(model))
        (hosts::hosts(model))
        (section("packets", "Packets", "", &packets))
        (section("time", "Over time", "Bold: mean over iterations, of which one counts 0 after its capture has ended; thin: the first iterations by themselves.", &time))
        (section("calls", "System calls", "", &calls))
    }
}

#[cfg(test)]
mod tests;
