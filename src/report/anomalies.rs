//! What stands out, each with the way to its data: for `vptest analyze --anomalies` and the page.

use super::number::{Column, escape};
use super::page::grouping::Grouping;
use super::sheet::{Item, Sheet};
use super::verdicts::p_text;
use crate::analysis::anomalies::{ALPHA, Anomalies, Anomaly, CONTENTION, FEWEST, Factors, Far, Kind, Looked, Rise};
use crate::analysis::anomalies::{STORM_SHARE, STORM_TIMES, anomalies};
use crate::analysis::judged::{MARGIN, margin_of};
use crate::store::{AttemptName, Dataset, MetricColumn, Reading};
use crate::units::Percent;

/// Something that stands out, and where its data are.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What it is.
    pub kind: Kind,
    /// Index among the metrics that were looked at.
    pub metric: usize,
    /// Full name of the metric.
    pub name: String,
    /// Index of the group.
    pub group: usize,
    /// The iteration; `None` for what a whole group shows.
    pub iteration: Option<At>,
    /// Table of the file that has it over time; `None` when none does.
    pub series: Option<&'static str>,
    /// In words.
    pub text: String,
}

/// An iteration and its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    /// Position in run order.
    pub number: u32,
    /// Name of its file in the campaign's directory.
    pub file: String,
    /// Host that it ran on.
    pub host: String,
}

/// Everything that stands out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Found {
    /// As [`Anomalies::found`].
    pub rows: Vec<Row>,
    /// What was looked at, and how often chance alone would put something in the list.
    pub notes: Vec<String>,
}

/// The metrics that can be looked at: values of one unit in at least one iteration that counts.
pub fn columns(dataset: &Dataset) -> Vec<&MetricColumn> {
    let is_measured = |column: &&MetricColumn| {
        let has = |(at, reading): (usize, &Reading)| {
            dataset.iterations[at].counts && matches!(reading, Reading::Value { .. })
        };
        column.units.len() == 1 && column.values.iter().enumerate().any(has)
    };
    dataset.metrics.iter().filter(is_measured).collect()
}

/// Looks at `columns`.
pub fn find(dataset: &Dataset, grouping: &Grouping, columns: &[&MetricColumn], margins: &[(String, Percent)]) -> Found {
    let looked: Vec<Looked<'_>> = columns
        .iter()
        .map(|column| Looked {
            name: &column.name,
            level: column.level,
            better: column.better,
            margin: margin_of(margins, &column.full_name(), &column.name).unwrap_or(MARGIN),
            groups: grouping.values(dataset, column),
        })
        .collect();
    let all = anomalies(&looked, Factors { names: &grouping.factors, values: &grouping.groups });
    let row = |anomaly: &Anomaly| {
        let column = columns[anomaly.metric];
        let unit = column.units.iter().next().map_or("", String::as_str);
        let at = |at: usize| {
            let header = &dataset.iterations[at].header;
            At { number: header.number.0, file: AttemptName::of(header).to_string(), host: header.host.clone() }
        };
        Row {
            kind: anomaly.kind,
            metric: anomaly.metric,
            name: column.full_name(),
            group: anomaly.group,
            iteration: anomaly.iteration.map(at),
            series: anomaly.iteration.and_then(|_| series(column)),
            text: text(&anomaly.kind, &column.name, unit),
        }
    };
    Found { rows: all.found.iter().map(row).collect(), notes: notes(&all) }
}

/// The table in which a capture's metric can be seen over time.
fn series(column: &MetricColumn) -> Option<&'static str> {
    let name = column.name.rsplit_once('.').map_or(column.name.as_str(), |(_, last)| last);
    match name {
        _ if column.level != crate::ids::Level::Network || column.role.is_none() => None,
        "stalls" | "stall_time" => Some("tcp_stall"),
        "rexmt_packets" | "rexmt_share" | "sent_packets" | "sent_bytes" | "packets" | "bytes" => Some("tcp_series"),
        _ => None,
    }
}

fn text(kind: &Kind, name: &str, unit: &str) -> String {
    let shown = |x: f64| {
        let column = Column::of(unit, std::iter::once((Some(x), None)));
        let unit = if column.unit() == "1" { String::new() } else { format!(" {}", column.unit()) };
        format!("{}{unit}", column.show(Some(x)))
    };
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    match kind {
        Kind::Outlier(Far { value, median, distance, .. }) => {
            format!(
                "{}, {:.1} robust standard deviations {} the group's median of {}",
                shown(*value),
                distance.abs(),
                if *distance < 0.0 { "below" } else { "above" },
                shown(*median)
            )
        }
        Kind::Stall { value } if name.ends_with("stall_time") => {
            format!("connections were silent for {}; in most iterations of the group none is", shown(*value))
        }
        Kind::Stall { value } => {
            format!(
                "connections fell silent {value} times (mean over pairs); in most iterations of the group none does"
            )
        }
        Kind::Storm { value, median } => {
            format!(
                "{} of the packets with payload were sent again; the group's median is {}",
                percent(*value),
                percent(*median)
            )
        }
        Kind::Humps { .. } => "the group's values have more than one hump".to_owned(),
        Kind::Rise(Rise { from, to, before, after, percent }) => {
            let more = percent.map_or_else(String::new, |percent| format!(" ({percent:+.1} %)"));
            format!("better with {to} pairs than with {from}: {} after {}{more}", shown(*after), shown(*before))
        }
    }
}

fn notes(all: &Anomalies) -> Vec<String> {
    let mut notes = vec![
        "A list of things to look at: none of it is left out of any statistic.".to_owned(),
        format!(
            "Outliers: {} values were looked at. In normal or log-normal data without a fault there is one in {} % of such campaigns; \
             heavier tails give more. {} values are in groups of fewer than {FEWEST}, or of mostly equal ones, where none can be told.",
            all.values,
            100.0 * ALPHA,
            all.not_looked_at
        ),
        format!(
            "Storms: at least {} % of the packets sent again and {STORM_TIMES} times the group's median. Stalls: any, where most \
             iterations of the group have none. Both are rules, not tests.",
            100.0 * STORM_SHARE
        ),
        format!(
            "Humps: dip test of {} groups at {:.2} % each, so chance alone puts {:.2} of them in the list at most. {} groups were not \
             tested, since many of their values are equal.",
            all.humps_tested,
            100.0 * all.humps_level,
            all.humps_by_chance(),
            all.humps_tied
        ),
    ];
    if all.steps > 0 {
        notes.push(format!(
            "Rises: {} steps from one number of {CONTENTION} to the next were looked at; any in the list is wrong with a probability of at \
             most {} %.",
            all.steps,
            100.0 * ALPHA
        ));
    }
    notes
}

/// The list as a table.
pub fn sheet(found: &Found, grouping: &Grouping, more: Vec<String>) -> Sheet {
    let mut titles: Vec<(String, String)> = [("kind", "kind"), ("metric", "metric")].map(pair).into();
    titles.extend(grouping.factors.iter().map(|name| (format!("factor.{name}"), name.clone())));
    let rest = [
        ("iteration", "iteration"),
        ("file", "file"),
        ("host", "host"),
        ("series", "series"),
        ("value", "value"),
        ("median", "median"),
        ("distance", "distance"),
        ("p", "p"),
        ("what", "what"),
    ];
    titles.extend(rest.map(pair));
    let row = |row: &Row| {
        let mut items = vec![Item::Text(row.kind.name().to_owned()), Item::Text(row.name.clone())];
        let value = |value: &Option<String>| value.clone().map_or(Item::Absent, Item::Text);
        items.extend(grouping.groups[row.group].iter().map(value));
        let at = row.iteration.as_ref();
        items.push(at.map_or(Item::Absent, |at| Item::Count(at.number as usize)));
        items.push(at.map_or(Item::Absent, |at| Item::Text(at.file.clone())));
        items.push(at.map_or(Item::Absent, |at| Item::Text(at.host.clone())));
        items.push(row.series.map_or(Item::Absent, |series| Item::Text(series.to_owned())));
        items.extend(numbers(&row.kind));
        items.push(Item::Text(row.text.clone()));
        items
    };
    let mut notes = found.notes.clone();
    notes.extend(more);
    Sheet { columns: titles, rows: found.rows.iter().map(row).collect(), notes }
}

fn pair((name, title): (&str, &str)) -> (String, String) {
    (name.to_owned(), title.to_owned())
}

/// Five digits that mean something, whatever the metric's unit.
fn digits(x: f64) -> String {
    if x == 0.0 || (1e-2..1e7).contains(&x.abs()) { format!("{x:.4}") } else { format!("{x:.4e}") }
}

/// Value, median, distance and p, as far as the kind has them.
fn numbers(kind: &Kind) -> [Item; 4] {
    let exact = |x: f64| Item::Number(Some(x), escape(&digits(x)));
    let p = |p: f64| Item::Number(Some(p), p_text(Some(p)));
    let none = || Item::Absent;
    match *kind {
        Kind::Outlier(far) => [exact(far.value), exact(far.median), Item::number(Some(far.distance), 1), p(far.p)],
        Kind::Stall { value } => [exact(value), Item::number(Some(0.0), 0), none(), none()],
        Kind::Storm { value, median } => [exact(value), exact(median), none(), none()],
        Kind::Humps { p: of } => [none(), none(), none(), p(of)],
        Kind::Rise(rise) => [exact(rise.after), none(), none(), none()],
    }
}
