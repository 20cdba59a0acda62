//! A page out of what the store gives.

use std::collections::{BTreeMap, BTreeSet};

use super::cells;
use super::grouping::Grouping;
use super::judge;
use super::model::{
    Chain, Counts, Excluded, Fact, Group, Histogram, Metric, Model, Packetization, SeriesFigure, SeriesLine, Setting,
    Transition, label,
};
use crate::analysis::{ChainComparison, trust};
use crate::ids::{Direction, Vantage};
use crate::record::{SPEC, Status};
use crate::report::anomalies::Found;
use crate::report::compare::{jobs_note, several_tuples_note, unbalanced_note};
use crate::store::{CapturePlace, Circumstances, Dataset, Iteration, Mean, MetricColumn, Reading, Traffic};
use crate::units::Percent;

/// Values of iterations that the page has room for, in all.
const POINTS: usize = 800_000;
/// And in each cell, at least and at most.
const POINTS_OF_CELL: (usize, usize) = (12, 400);
/// Transitions of a chain that are drawn.
const TRANSITIONS: usize = 60;
/// Different values of a fact that are shown.
const VALUES: usize = 12;

/// What a page is made of.
pub struct Inputs<'a> {
    /// Name of the campaign.
    pub title: String,
    /// Name of the database.
    pub source: String,
    /// All metrics.
    pub dataset: &'a Dataset,
    /// Its groups.
    pub grouping: &'a Grouping,
    /// What captures saw, for each group.
    pub traffic: &'a BTreeMap<CapturePlace, Vec<Traffic>>,
    /// Settings and facts.
    pub circumstances: &'a Circumstances,
    /// Chains of system calls; `None` when none were followed.
    pub chains: Option<&'a ChainComparison>,
    /// Importance margins by metric; the key `default` stands for all others.
    pub margins: &'a [(String, Percent)],
    /// Compare metrics of packet sizes also where packets were seen under different conditions.
    pub unequal_vantage: bool,
    /// Statuses that count.
    pub statuses: &'a [Status],
    /// Decides on resamples and deals.
    pub seed: u64,
    /// What a reader must know besides what the data say.
    pub notes: Vec<String>,
}

/// Puts the page together.
pub fn build(inputs: &Inputs<'_>) -> Model {
    let Inputs { dataset, grouping, .. } = inputs;
    let columns: Vec<&MetricColumn> = dataset.metrics.iter().filter(|metric| measured(dataset, metric)).collect();
    let values: Vec<Vec<Vec<(f64, usize)>>> = columns.iter().map(|column| grouping.values(dataset, column)).collect();
    let order = grouping.run_order(dataset);
    let cells = columns.len() * grouping.groups.len();
    let most = (POINTS / cells.max(1)).clamp(POINTS_OF_CELL.0, POINTS_OF_CELL.1);
    let change_level = trust::level(cells);
    let shown = cells::all(&values, &cells::places(grouping, &order), most, change_level, inputs.seed);
    let judged = judge::all(inputs, &columns, &values);
    let mut metrics = Vec::with_capacity(columns.len());
    for ((column, cells), (margin, contrasts)) in columns.iter().zip(shown).zip(judged.metrics) {
        metrics.push(Metric {
            name: column.full_name(),
            level: column.level,
            unit: column.units.iter().cloned().collect::<Vec<_>>().join(", "),
            better: column.better,
            margin: Some(margin),
            cells,
            contrasts,
        });
    }
    let mut sizes = vec![0; grouping.groups.len()];
    grouping.of.iter().flatten().for_each(|&group| sizes[group] += 1);
    let groups = grouping.groups.iter().zip(sizes).map(|(values, n)| Group { values: values.clone(), n });
    let (differing, same) = facts(inputs.circumstances);
    let first_ns = order.first().map_or(0, |&at| dataset.iterations[at].header.started_ns);
    let mut model = Model {
        title: inputs.title.clone(),
        source: inputs.source.clone(),
        counts: counts(dataset),
        factors: grouping.factors.clone(),
        constant: grouping.constant.clone(),
        baseline: grouping.baseline.clone(),
        groups: groups.collect(),
        pairs: grouping.pairs.clone(),
        no_pair: grouping.no_pair.clone(),
        runs: cells::runs(dataset, grouping, &order),
        first_ns,
        change_level,
        anomalies: anomalies(inputs, &columns),
        hosts: super::hosts::build(inputs, &columns, first_ns, judged.disagreements),
        metrics,
        family: judged.family,
        adjusted: judged.adjusted,
        histograms: inputs.traffic.iter().filter_map(|(place, groups)| histogram(place, groups)).collect(),
        packetization: inputs.traffic.iter().flat_map(|(place, groups)| packetization(place, groups)).collect(),
        series: inputs.traffic.iter().flat_map(|(place, groups)| series(place, groups)).collect(),
        chains: inputs.chains.map(chains).unwrap_or_default(),
        excluded: excluded(dataset, grouping),
        settings: settings(inputs.circumstances),
        differing,
        same,
        methods: Vec::new(),
        references: Vec::new(),
        notes: inputs.notes.iter().cloned().chain(of_groups(inputs)).chain(missing(dataset, &columns)).collect(),
    };
    super::methods::write(&mut model, inputs);
    model
}

/// What stands out, with indices of the page's metrics.
fn anomalies(inputs: &Inputs<'_>, shown: &[&MetricColumn]) -> Found {
    let looked = crate::report::anomalies::columns(inputs.dataset);
    let mut found = crate::report::anomalies::find(inputs.dataset, inputs.grouping, &looked, inputs.margins);
    for row in &mut found.rows {
        let of_page = shown.iter().position(|column| std::ptr::eq(*column, looked[row.metric]));
        row.metric = of_page.expect("the page shows every metric that has a value");
    }
    found
}

/// What groups hold that makes their means doubtful.
fn of_groups(inputs: &Inputs<'_>) -> impl Iterator<Item = String> {
    let jobs = inputs.dataset.iterations.iter().filter(|iteration| iteration.counts).map(|iteration| iteration.jobs);
    let notes = [
        several_tuples_note(inputs.grouping.several_tuples),
        unbalanced_note(inputs.grouping.unbalanced),
        jobs_note(jobs),
    ];
    notes.into_iter().flatten()
}

/// Metrics that some iterations that count have no value of: their means are of the others.
fn missing(dataset: &Dataset, columns: &[&MetricColumn]) -> Vec<String> {
    let of = |column: &&&MetricColumn| dataset.left_out(Some(column)).value_missing;
    let mut found: Vec<(u64, String)> =
        columns.iter().map(|column| (of(&column), column.full_name())).filter(|(n, _)| *n > 0).collect();
    found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let told = found.iter().take(MISSING_TOLD).map(|(n, name)| {
        format!(
            "{name} could not be measured in {n} iterations that count otherwise: its groups are of the others alone."
        )
    });
    let rest = found.len().saturating_sub(MISSING_TOLD);
    told.chain((rest > 0).then(|| format!("The same holds for {rest} further metrics."))).collect()
}

/// How many metrics with missing values are named.
const MISSING_TOLD: usize = 20;

/// Has any iteration that counts a value of it?
fn measured(dataset: &Dataset, metric: &MetricColumn) -> bool {
    let has =
        |(iteration, reading): (&Iteration, &Reading)| iteration.counts && matches!(reading, Reading::Value { .. });
    dataset.iterations.iter().zip(&metric.values).any(has)
}

fn counts(dataset: &Dataset) -> Counts {
    let status = |status: Status| dataset.iterations.iter().filter(|i| i.outcome.status() == status).count();
    let by_status = Status::ALL.into_iter().map(|s| (s.to_string(), status(s))).filter(|(_, n)| *n > 0);
    let from = dataset.iterations.iter().map(|i| i.header.started_ns).min();
    let to = dataset.iterations.iter().map(|i| i.header.finished_ns.unwrap_or(i.header.started_ns)).max();
    let texts = |get: fn(&Iteration) -> &String| {
        dataset.iterations.iter().map(get).collect::<BTreeSet<_>>().into_iter().cloned().collect()
    };
    Counts {
        iterations: dataset.iterations.len(),
        counted: dataset.iterations.iter().filter(|i| i.counts).count(),
        by_status: by_status.collect(),
        superseded: dataset.superseded.len(),
        time: from.zip(to).map(|(from, to)| (utc(from), utc(to))),
        hosts: texts(|i| &i.header.host),
        versions: texts(|i| &i.header.vptest_version),
    }
}

/// `2026-11-28 23:29 UTC`
pub(super) fn utc(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(ns.into())
        .map_or_else(|_| "an unknown time".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

fn excluded(dataset: &Dataset, grouping: &Grouping) -> Vec<Excluded> {
    let of = |iteration: &Iteration, status: String, reasons: Vec<String>| {
        let value = |name: &String| iteration.factors.get(name).cloned();
        let factors = label(&grouping.factors, &grouping.factors.iter().map(value).collect::<Vec<_>>());
        let factors = if grouping.factors.is_empty() { String::new() } else { factors };
        let (number, attempt) = (iteration.header.number.0, iteration.header.attempt);
        Excluded { number, attempt, host: iteration.header.host.clone(), status, factors, reasons }
    };
    let left = dataset.iterations.iter().filter(|i| !i.counts);
    let left = left.map(|i| of(i, i.outcome.status().to_string(), i.outcome.reasons()));
    let superseded = dataset.superseded.iter().map(|i| {
        let mut reasons =
            vec![format!("another attempt stands for the iteration; this one was {}", i.outcome.status())];
        reasons.extend(i.outcome.reasons());
        of(i, "superseded".to_owned(), reasons)
    });
    let mut all: Vec<Excluded> = left.chain(superseded).collect();
    all.sort_by_key(|e| (e.number, e.attempt));
    all
}

fn place_name(place: &CapturePlace) -> String {
    let side = match place.vantage {
        Vantage::Guest => "own interface",
        Vantage::Endpoint => "end host",
        Vantage::Host => "host side",
        Vantage::Switch => "switch",
    };
    format!("{}, {side}", place.role)
}

fn histogram(place: &CapturePlace, groups: &[Traffic]) -> Option<Histogram> {
    let bins: BTreeSet<(u32, Option<u32>)> = groups.iter().flat_map(|group| group.sizes.keys().copied()).collect();
    if bins.is_empty() || bins.len() > 200 {
        return None;
    }
    let shares = groups.iter().map(|group| {
        let share = |bin| group.sizes.get(bin).copied().unwrap_or_default();
        (group.sized > 0).then(|| bins.iter().map(share).collect())
    });
    Some(Histogram {
        title: place_name(place),
        unit: "B".to_owned(),
        shares: shares.collect(),
        from: bins.iter().map(|bin| f64::from(bin.0)).collect(),
        to: bins.iter().map(|bin| bin.1.map(f64::from)).collect(),
    })
}

fn packetization(place: &CapturePlace, groups: &[Traffic]) -> Vec<Packetization> {
    let mut rows = Vec::new();
    for (group, traffic) in groups.iter().enumerate().filter(|(_, traffic)| traffic.analysed > 0) {
        for (direction, flow) in Direction::ALL.iter().zip(&traffic.directions) {
            rows.push(Packetization {
                place: place_name(place),
                direction: direction.to_string(),
                group,
                n: traffic.analysed as usize,
                payload: with_n(flow.payload_per_packet),
                super_share: with_n(flow.super_share),
                longest: flow.longest,
                stalls: traffic.stalls,
            });
        }
    }
    rows
}

fn with_n(mean: Mean) -> Option<(f64, usize)> {
    mean.get().map(|value| (value, mean.n as usize))
}

/// Throughput of both directions, and stalls.
fn series(place: &CapturePlace, groups: &[Traffic]) -> Vec<SeriesFigure> {
    let name = place_name(place);
    let mut figures = Vec::new();
    for (i, direction) in Direction::ALL.iter().enumerate() {
        let lines: Vec<SeriesLine> = groups
            .iter()
            .enumerate()
            .flat_map(|(group, traffic)| throughput(group, &traffic.directions[i].series))
            .collect();
        if !lines.is_empty() {
            let title = format!("Payload per second, {name}, {direction}");
            let (x, y) = ("time since the first packet (s)".to_owned(), "throughput (Mbit/s)".to_owned());
            figures.push(SeriesFigure { title, section: "time".to_owned(), x, y, joined: true, lines });
        }
    }
    let stalls: Vec<SeriesLine> =
        groups.iter().enumerate().filter_map(|(group, traffic)| stalls(group, traffic)).collect();
    if !stalls.is_empty() {
        let title = format!("Stalls, {name}");
        let (x, y) = ("time since the first packet (s)".to_owned(), "duration (s)".to_owned());
        figures.push(SeriesFigure { title, section: "time".to_owned(), x, y, joined: false, lines: stalls });
    }
    figures
}

fn throughput(group: usize, series: &crate::store::Series) -> Vec<SeriesLine> {
    if series.iterations == 0 {
        return Vec::new();
    }
    let seconds = f64::from(series.bin_ms) / 1000.0;
    let middle = |i: usize| (f64::from(u32::try_from(i).unwrap_or(u32::MAX)) + 0.5) * seconds;
    let line = |name: String, main: bool, bytes: &[f64], n: u32| SeriesLine {
        group,
        name,
        main,
        x: (0..bytes.len()).map(middle).collect(),
        y: bytes.iter().map(|bytes| round(bytes * 8e-6 / seconds / f64::from(n))).collect(),
    };
    let mean = line(format!("mean of {} iterations", series.iterations), true, &series.bytes, series.iterations);
    let own = series.lines.iter().map(|(number, bytes)| line(format!("iteration {number}"), false, bytes, 1));
    std::iter::once(mean).chain(own).collect()
}

/// Five digits are more than a figure shows.
fn round(x: f64) -> f64 {
    format!("{x:.4e}").parse().unwrap_or(x)
}

fn stalls(group: usize, traffic: &Traffic) -> Option<SeriesLine> {
    let mut points = traffic.first_stalls.clone();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    (!points.is_empty()).then(|| SeriesLine {
        group,
        name: format!("{} stalls in all", traffic.stalls),
        main: true,
        x: points.iter().map(|p| round(p.0)).collect(),
        y: points.iter().map(|p| round(p.1)).collect(),
    })
}

fn chains(comparison: &ChainComparison) -> Vec<Chain> {
    let rows = comparison.rows.iter().filter_map(|row| Some((row, row.divergence.as_ref()?)));
    let chain = |(row, d): (&crate::analysis::ChainRow, &crate::analysis::Divergence)| {
        let mut kept: Vec<_> = d.transitions.iter().collect();
        // What differs, and what is frequent.
        let weight =
            |t: &crate::analysis::TransitionShift| (t.share - t.baseline).abs().max(t.share.max(t.baseline) / 4.0);
        kept.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
        let transition = |t: &crate::analysis::TransitionShift| Transition {
            from: t.from.clone(),
            to: t.to.clone(),
            share: t.share,
            baseline: t.baseline,
            q: t.q,
        };
        Chain {
            process: row.process.clone(),
            group: label(&comparison.by, &row.values),
            bits: d.bits,
            by_chance: d.null_p95,
            p: d.p,
            total: d.transitions.len(),
            differing: d.transitions.iter().filter(|t| t.q <= 0.05).count(),
            transitions: kept.into_iter().take(TRANSITIONS).map(transition).collect(),
        }
    };
    rows.map(chain).collect()
}

fn settings(circumstances: &Circumstances) -> Vec<Setting> {
    let one = |(kind, count): &(crate::store::SettingKind, u64)| Setting {
        name: kind.name.clone(),
        place: kind.role.clone().unwrap_or_else(|| "host".to_owned()),
        testbed: kind.testbed.clone(),
        requested: kind.requested.clone(),
        observed: kind.observed.clone(),
        ok: kind.ok,
        when: if kind.after { "after" } else { "before" }.to_owned(),
        count: *count,
    };
    circumstances.settings.iter().map(one).collect()
}

/// Facts with more than one value, and those with one.
fn facts(circumstances: &Circumstances) -> (Vec<Fact>, Vec<Fact>) {
    let mut all: BTreeMap<(&str, &str), Vec<(String, u64)>> = BTreeMap::new();
    for (fact, count) in circumstances.facts.iter().filter(|(fact, _)| fact.name != SPEC) {
        all.entry((&fact.name, &fact.place)).or_default().push((fact.value.clone(), *count));
    }
    let facts = all.into_iter().map(|((name, place), mut values)| {
        values.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let all = values.len();
        if all > VALUES {
            let rest = values.drain(VALUES..).map(|(_, count)| count).sum();
            values.push((format!("{} other values", all - VALUES), rest));
        }
        Fact { name: name.to_owned(), place: place.to_owned(), values }
    });
    facts.partition(|fact| fact.values.len() > 1)
}
