//! The comparison of groups: a table for people, CSV and JSON for programs (`docs/json.md`, section "analyze").

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};
use serde::Serialize;

use super::number::{Column, escape};
use super::verdicts::{self, FamilyRow, Judged, Numbers, Told, Word, tell, tell_refusal};
use crate::analysis::trust::Doubt;
use crate::analysis::{Comparison, Contrast, Group, Interval, NoContrast, Standing, TwoSample};
use crate::ids::Better;
use crate::store::{LeftOut, Observations};

/// What `vptest analyze` says, as in its JSON form.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analyze {
    /// Name of the metric.
    pub metric: String,
    /// `application`, `os` or `network`.
    pub level: String,
    /// Kind of node; `null` when the metric belongs to no single node.
    pub role: Option<String>,
    /// Unit of every number but percentages, g and Welch's test.
    pub unit: String,
    /// Which way is an improvement; `null` when neither is.
    pub better: Option<Better>,
    /// Coverage of every interval: 0.95.
    pub confidence: f64,
    /// What groups are compared with; `null` when with nothing.
    pub baseline: Option<BTreeMap<String, String>>,
    /// Names of the factors that tell groups apart.
    pub factors: Vec<String>,
    /// Factors that are the same in all iterations.
    pub constant: BTreeMap<String, String>,
    /// What verdicts and adjusted p-values take into account.
    pub family: FamilyRow,
    /// Differences up to it do not matter.
    pub margin: MarginRow,
    /// In natural order of their factors.
    pub groups: Vec<GroupRow>,
    /// Iterations that do not count.
    pub left_out: LeftOutRow,
    /// What a reader must know, one sentence each.
    pub notes: Vec<String>,
}

/// The greatest difference that does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MarginRow {
    /// In percent of the baseline's mean.
    pub percent: f64,
    /// Is it the default, as nobody said another?
    pub is_default: bool,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupRow {
    /// Value of each factor; `null` where it means nothing.
    pub factors: BTreeMap<String, Option<String>>,
    /// Hash of the tuple; `null` when the group holds several.
    pub tuple: Option<String>,
    /// How many tuples it holds.
    pub tuples: usize,
    /// Iterations.
    pub n: usize,
    /// Mean over iterations.
    pub mean: Option<f64>,
    /// Standard deviation (n−1).
    pub sd: Option<f64>,
    /// Interval of the mean.
    pub ci95: Option<Interval>,
    /// Is it a baseline?
    pub baseline: bool,
    /// Against the baseline; `null` for a baseline, and when there is none.
    pub contrast: Option<ContrastRow>,
    /// Why there is no contrast although a baseline was asked for.
    pub no_contrast: Option<String>,
    /// What the contrast shows; `null` for a baseline, and when none was asked for.
    pub verdict: Option<Word>,
    /// The verdict as a table has it.
    #[serde(skip)]
    pub verdict_text: Option<String>,
    /// What belongs to the verdict: why nothing can be compared, how many repetitions would decide.
    pub remark: Option<String>,
    /// What makes its values doubtful.
    pub doubts: Vec<Doubt>,
}

/// A group against its baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContrastRow {
    /// Index of the baseline in `groups`.
    pub baseline: usize,
    /// `false` when the factors that are not shown are spread differently over the two.
    pub balanced: bool,
    /// The numbers.
    #[serde(flatten)]
    pub result: TwoSample,
    /// All others, and the verdict with what it rests on.
    #[serde(flatten)]
    pub more: Box<Numbers>,
}

/// Iterations that do not count, by reason; and attempts that stand for no iteration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOutRow {
    /// All iterations that do not count.
    pub total: u64,
    /// By status of the last attempt.
    pub by_status: BTreeMap<String, u64>,
    /// Without the metric.
    pub not_measured: u64,
    /// With a pair that has no value.
    pub value_missing: u64,
    /// Attempts, not in `total`: another attempt stands for the same iteration.
    pub superseded: u64,
    /// How many of `superseded` ran on another host than the one that stands for the iteration.
    pub superseded_elsewhere: u64,
}

impl Analyze {
    /// Puts the answer together.
    pub fn new(observations: &Observations, comparison: &Comparison, judged: &Judged<'_>) -> Self {
        let constant = comparison.constant.iter().cloned().collect();
        let rows = comparison.groups.iter().enumerate();
        let mut answer = Self {
            metric: observations.metric.clone(),
            level: observations.level.to_string(),
            role: observations.role.clone(),
            unit: observations.unit.clone(),
            better: observations.better,
            confidence: crate::analysis::CONFIDENCE,
            baseline: comparison.baseline.clone().map(|pair| BTreeMap::from([pair])),
            factors: comparison.factors.clone(),
            constant,
            family: judged.family,
            margin: MarginRow { percent: 100.0 * judged.margin.fraction(), is_default: !judged.margin_is_asked },
            groups: rows.map(|(i, group)| group_row(&comparison.factors, group, i, judged)).collect(),
            left_out: left_out_row(&observations.left_out),
            notes: notes(observations, comparison),
        };
        if answer.baseline.is_some() {
            let place = answer.notes.iter().position(|note| note.starts_with("Compared with")).map_or(0, |at| at + 1);
            answer.notes.splice(place..place, [answer.verdict_note(), answer.family.note()]);
        }
        answer.notes.extend(answer.doubt_notes());
        answer
    }

    fn verdict_note(&self) -> String {
        format!(
            "Verdict against a margin of {}: different is a difference wholly beyond it; different, negligible one wholly within; \
             equivalent wholly within and perhaps none; undecided what more repetitions of each side (about n) would decide.",
            self.margin_text()
        )
    }

    /// The margin and where it is from.
    pub(super) fn margin_text(&self) -> String {
        let from =
            if self.margin.is_default { " (the default; `[analysis] margin` or --margin sets another)" } else { "" };
        format!("{} % of the baseline's mean{from}", (self.margin.percent * 1e9).round() / 1e9)
    }

    /// One line for each doubt.
    pub(super) fn doubt_notes(&self) -> Vec<String> {
        let column = Column::of(&self.unit, self.groups.iter().map(|g| (g.mean, g.sd)));
        let mut notes = Vec::new();
        for group in &self.groups {
            let values: Vec<String> = self
                .factors
                .iter()
                .map(|name| format!("{name} = {}", group.factors[name].as_deref().unwrap_or("–")))
                .collect();
            let name = if values.is_empty() { "all".to_owned() } else { values.join(", ") };
            let amount = |x: f64| match group.mean.filter(|mean| *mean > 0.0) {
                Some(mean) => format!("{:+.2} % of the mean", 100.0 * x / mean),
                None => format!("{} {}", column.show(Some(x)), column.unit()),
            };
            let line = |doubt| format!("{name}: {}.", verdicts::doubt_text(doubt, &amount));
            notes.extend(group.doubts.iter().map(line));
        }
        notes
    }

    /// Names of the fields of [`Analyze::csv_lines`].
    pub(super) fn csv_header(factors: &[String]) -> impl Iterator<Item = String> {
        let names = factors.iter().map(String::as_str).chain(CSV_COLUMNS).chain(verdicts::CSV_COLUMNS);
        names.map(str::to_owned)
    }

    /// A line for each group, with these factors first; those that this metric does not have are empty.
    pub(super) fn csv_lines(&self, text: &mut String, factors: &[String]) {
        for group in &self.groups {
            let factors = factors.iter().map(|name| group.factors.get(name).cloned().flatten().unwrap_or_default());
            csv_line(text, factors.chain(self.csv_fields(group)));
        }
    }

    /// The JSON form, with a final newline.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("numbers are finite and keys are texts");
        text.push('\n');
        text
    }

    /// The CSV form (RFC 4180 with bare line feeds): one line for each group; what is missing is empty.
    pub fn csv(&self) -> String {
        let mut text = String::new();
        csv_line(&mut text, Self::csv_header(&self.factors));
        self.csv_lines(&mut text, &self.factors);
        text
    }

    fn csv_fields(&self, group: &GroupRow) -> Vec<String> {
        // Debug form: every digit, and an exponent rather than 300 zeros.
        let number = |x: Option<f64>| x.map(|x| format!("{x:?}")).unwrap_or_default();
        let low = |ci: Option<Interval>| number(ci.map(|ci| ci.low));
        let high = |ci: Option<Interval>| number(ci.map(|ci| ci.high));
        let result = group.contrast.as_ref().map(|c| c.result);
        let welch = result.and_then(|r| r.welch);
        let of = |get: fn(TwoSample) -> Option<Interval>| result.and_then(get);
        let (difference, percent) = (of(|r| r.difference_ci95), of(|r| r.percent_ci95));
        let g = of(|r| r.hedges_g_ci95);
        let mut fields = vec![
            self.metric.clone(),
            self.unit.clone(),
            group.tuple.clone().unwrap_or_default(),
            group.tuples.to_string(),
            group.n.to_string(),
            number(group.mean),
            number(group.sd),
            low(group.ci95),
            high(group.ci95),
            group.baseline.to_string(),
            number(result.map(|r| r.difference)),
            low(difference),
            high(difference),
            number(result.and_then(|r| r.percent)),
            low(percent),
            high(percent),
            number(result.and_then(|r| r.hedges_g)),
            low(g),
            high(g),
            number(welch.map(|w| w.t)),
            number(welch.map(|w| w.df)),
            number(welch.map(|w| w.p)),
            group.contrast.as_ref().map(|c| c.balanced.to_string()).unwrap_or_default(),
        ];
        let told = group.verdict.map(|word| Told { word, short: None, remark: group.remark.clone() });
        let judged = (self.margin.percent, self.family.contrasts);
        let more = group.contrast.as_ref().map(|contrast| &*contrast.more);
        fields.extend(verdicts::csv_fields(told.as_ref(), more, judged));
        fields
    }

    /// The table for people, `width` columns wide at most where given, with its notes below.
    pub fn table(&self, width: Option<u16>) -> String {
        let means = Column::of(&self.unit, self.groups.iter().map(|g| (g.mean, g.sd)));
        let several = self.groups.iter().any(|g| g.tuples > 1);
        let mut table = Table::new();
        table.load_style(STYLE);
        table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
        if let Some(width) = width {
            table.set_width(width);
        }
        table.set_header(self.header(&means, several));
        for group in &self.groups {
            table.add_row(self.row(group, &means, several));
        }
        let mut text = table.trim_fmt();
        text.push_str("\n\n");
        for note in &self.notes {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}", escape(note));
        }
        text
    }

    fn header(&self, means: &Column, several: bool) -> Vec<Cell> {
        let right = |text: &str| Cell::new(text).set_alignment(CellAlignment::Right);
        let mut cells: Vec<Cell> = self.factors.iter().map(|name| Cell::new(escape(name))).collect();
        if several {
            cells.push(right("tuples"));
        }
        let mean = format!("{} ({})", escape(&self.metric), escape(means.unit()));
        cells.extend([right("n"), right(&mean), right("sd")]);
        if self.baseline.is_some() {
            cells.extend([right("difference"), right("95 % interval"), right("g"), right("p"), Cell::new("verdict")]);
        } else {
            cells.push(right("95 % interval"));
        }
        cells
    }

    fn row(&self, group: &GroupRow, means: &Column, several: bool) -> Vec<Cell> {
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let value = |name: &String| Cell::new(group.factors[name].as_deref().map_or_else(|| "–".to_owned(), escape));
        let mut cells: Vec<Cell> = self.factors.iter().map(value).collect();
        if several {
            cells.push(right(group.tuples.to_string()));
        }
        cells.extend([right(group.n.to_string()), right(means.show(group.mean)), right(means.show(group.sd))]);
        if self.baseline.is_some() {
            cells.extend(contrast_cells(group).map(right));
            cells.push(Cell::new(group.verdict_text.as_deref().unwrap_or_default()));
        } else {
            // Beside a difference the mean's own interval invites to compare by overlap.
            cells.push(right(means.show_interval(group.ci95)));
        }
        cells
    }
}

/// One line below the header and none between rows.
pub(super) const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

const CSV_COLUMNS: [&str; 23] = [
    "metric",
    "unit",
    "tuple",
    "tuples",
    "n",
    "mean",
    "sd",
    "ci95_low",
    "ci95_high",
    "baseline",
    "difference",
    "difference_ci95_low",
    "difference_ci95_high",
    "percent",
    "percent_ci95_low",
    "percent_ci95_high",
    "hedges_g",
    "hedges_g_ci95_low",
    "hedges_g_ci95_high",
    "welch_t",
    "welch_df",
    "welch_p",
    "balanced",
];

pub(super) fn csv_line(text: &mut String, fields: impl IntoIterator<Item = String>) {
    let quoted = fields.into_iter().map(|field| {
        if field.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
    });
    text.push_str(&quoted.collect::<Vec<_>>().join(","));
    text.push('\n');
}

fn contrast_cells(group: &GroupRow) -> [String; 4] {
    let empty = || "–".to_owned();
    let Some(contrast) = &group.contrast else {
        let first = if group.baseline { "baseline".to_owned() } else { empty() };
        return [first, String::new(), String::new(), String::new()];
    };
    let result = contrast.result;
    let percent = result.percent.map_or_else(empty, |x| format!("{x:+.1} %"));
    let interval = result.percent_ci95.map_or_else(empty, |ci| format!("{:+.1} … {:+.1}", ci.low, ci.high));
    let g = result.hedges_g.map_or_else(empty, |g| format!("{g:+.2}"));
    let p = verdicts::p_text(contrast.more.p_holm);
    [percent, interval, g, p]
}

fn group_row(factors: &[String], group: &Group, at: usize, judged: &Judged<'_>) -> GroupRow {
    let contrast = match &group.standing {
        Standing::Against(Contrast { baseline, result, balanced }) => judged.contrasts[at].as_ref().map(|contrast| {
            let more = Box::new(Numbers::of(contrast, judged.hosts));
            ContrastRow { baseline: *baseline, balanced: *balanced, result: *result, more }
        }),
        _ => None,
    };
    let told = match &group.standing {
        Standing::Impossible(why) => Some(tell_refusal(*why)),
        _ => judged.contrasts[at].as_ref().map(|contrast| tell(&contrast.verdict)),
    };
    let no_contrast = match &group.standing {
        Standing::Impossible(why) => Some(why.as_str().to_owned()),
        _ => None,
    };
    GroupRow {
        factors: factors.iter().cloned().zip(group.values.iter().cloned()).collect(),
        tuple: group.tuple.map(|tuple| tuple.to_string()),
        tuples: group.tuples,
        n: group.summary.n,
        mean: group.summary.mean,
        sd: group.summary.sd,
        ci95: group.summary.ci95,
        baseline: group.standing == Standing::Baseline,
        contrast,
        no_contrast,
        verdict: told.as_ref().map(|told| told.word),
        verdict_text: told.as_ref().map(Told::cell),
        remark: told.and_then(|told| told.remark),
        doubts: judged.doubts[at].clone(),
    }
}

fn left_out_row(left_out: &LeftOut) -> LeftOutRow {
    LeftOutRow {
        total: left_out.total(),
        by_status: left_out.by_status.iter().map(|(status, &n)| (status.to_string(), n)).collect(),
        not_measured: left_out.not_measured,
        value_missing: left_out.value_missing,
        superseded: left_out.superseded,
        superseded_elsewhere: left_out.superseded_elsewhere,
    }
}

fn notes(observations: &Observations, comparison: &Comparison) -> Vec<String> {
    let mut notes = Vec::new();
    let direction = match observations.better {
        Some(Better::Higher) => "; higher is better",
        Some(Better::Lower) => "; lower is better",
        None => "",
    };
    let pairs = if observations.values.iter().any(|o| o.pairs > 1) { " (the mean over its pairs)" } else { "" };
    notes.push(format!("Each iteration counts as one value of {}{pairs}{direction}.", observations.metric));
    if !comparison.constant.is_empty() {
        let pairs: Vec<String> = comparison.constant.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        notes.push(format!("The same in all of them: {}.", pairs.join(", ")));
    }
    if let Some((factor, value)) = &comparison.baseline {
        notes.push(format!(
            "Compared with {factor} = {value}, other factors equal: difference of means in percent with Fieller's interval; \
             g is Hedges' g; p is Welch's t test, two-sided, adjusted by Holm's method."
        ));
    }
    notes.extend(left_out_note(observations));
    notes.extend(group_notes(comparison));
    notes.extend(vantage_note(comparison));
    notes.extend(machine_notes(observations));
    notes.extend(jobs_note(observations.values.iter().map(|o| o.conditions.jobs)));
    notes.extend(superseded_note(&observations.left_out));
    notes
}

/// Why iterations do not count, each with their number: `3 suspect, 1 without rps`.
pub fn left_out_reasons(left_out: &LeftOut, metric: &str) -> String {
    let mut parts: Vec<String> = left_out.by_status.iter().map(|(status, n)| format!("{n} {status}")).collect();
    if left_out.not_measured > 0 {
        parts.push(format!("{} without {metric}", left_out.not_measured));
    }
    if left_out.value_missing > 0 {
        parts.push(format!("{} with a value missing", left_out.value_missing));
    }
    parts.join(", ")
}

pub(super) fn left_out_note(observations: &Observations) -> Option<String> {
    let left_out = &observations.left_out;
    let total = left_out.total();
    let all = total + observations.values.len() as u64;
    let reasons = || left_out_reasons(left_out, &observations.metric);
    (total > 0).then(|| format!("Left out: {total} of {all} iterations ({}).", reasons()))
}

/// What packets were seen under, where that kept groups from being compared.
fn vantage_note(comparison: &Comparison) -> Option<String> {
    let refused = |group: &&Group| group.standing == Standing::Impossible(NoContrast::UnequalVantage);
    comparison.groups.iter().find(refused)?;
    let mut places: Vec<&str> =
        comparison.groups.iter().flat_map(|g| &g.conditions).filter_map(|c| c.seen.as_deref()).collect();
    places.sort_unstable();
    places.dedup();
    Some(format!(
        "Sizes and numbers of packets depend on where they are looked at: above a segmentation offload they are larger and \
         fewer. Here they were seen at: {}. `--allow-unequal-vantage` compares them all the same.",
        places.join("; and at: ")
    ))
}

/// What ran the guests' code, and whether it was always the same guests.
fn machine_notes(observations: &Observations) -> Vec<String> {
    type Counts<'a> = BTreeMap<&'a str, usize>;
    let mut by_testbed: BTreeMap<&str, (Counts<'_>, Counts<'_>)> = BTreeMap::new();
    for observation in &observations.values {
        let testbed = observation.factors.get("testbed").map_or("", String::as_str);
        let (accels, images) = by_testbed.entry(testbed).or_default();
        observation.conditions.accel.iter().for_each(|accel| *accels.entry(accel).or_default() += 1);
        observation.conditions.image.iter().for_each(|image| *images.entry(image).or_default() += 1);
    }
    let mut notes = Vec::new();
    for (testbed, (accels, images)) in by_testbed {
        let counted = |counts: &Counts<'_>| {
            counts.iter().map(|(name, n)| format!("{name} ({n})")).collect::<Vec<_>>().join(" and ")
        };
        match accels.len() {
            0 => {}
            1 if accels.contains_key("tcg") => notes.push(format!(
                "testbed = {testbed} ran under tcg: QEMU translated the guests' code, and its speed is no virtual machine's \
                 on a processor."
            )),
            1 => notes.push(format!("testbed = {testbed} ran under {}.", accels.keys().copied().collect::<String>())),
            _ => notes.push(format!("testbed = {testbed} ran under {}: these are different machines.", counted(&accels))),
        }
        if images.len() > 1 {
            notes.push(format!("testbed = {testbed} had guests of different images: {}.", counted(&images)));
        }
    }
    notes
}

/// How many iterations ran on a host at a time, one `jobs` for each, unless all ran alone.
pub(super) fn jobs_note(jobs: impl Iterator<Item = Option<u32>>) -> Option<String> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    jobs.for_each(|jobs| *counts.entry(jobs.unwrap_or(1)).or_default() += 1);
    let beside: Vec<String> = counts
        .iter()
        .filter(|(jobs, _)| **jobs > 1)
        .map(|(jobs, n)| format!("{n} iterations ran {jobs} at a time on their host (--jobs {jobs})"))
        .collect();
    let alone = counts
        .get(&1)
        .map_or_else(String::new, |n| format!(", and {n} alone: what is different between them may come from that"));
    (!beside.is_empty()).then(|| format!("{}{alone}.", beside.join(", ")))
}

pub(super) fn several_tuples_note(groups: usize) -> Option<String> {
    let note = format!(
        "{groups} groups hold several tuples: their means depend on how often each tuple ran, and their spread is also that \
         between tuples."
    );
    (groups > 0).then_some(note)
}

pub(super) fn unbalanced_note(groups: usize) -> Option<String> {
    let note = format!(
        "{groups} groups and their baselines differ in factors that are not shown, or in how many iterations ran at a time: the \
         differences may be theirs."
    );
    (groups > 0).then_some(note)
}

fn group_notes(comparison: &Comparison) -> Vec<String> {
    let count = |test: &dyn Fn(&Group) -> bool| comparison.groups.iter().filter(|&group| test(group)).count();
    let several = count(&|g| g.tuples > 1);
    let unbalanced = count(&|g| matches!(&g.standing, Standing::Against(contrast) if !contrast.balanced));
    let single = count(&|g| g.summary.n < 2);
    let constant = count(&|g| g.summary.sd == Some(0.0));
    let mut notes = Vec::new();
    notes.extend(several_tuples_note(several));
    notes.extend(unbalanced_note(unbalanced));
    if single > 0 {
        notes.push(format!("{single} groups have fewer than two iterations: nothing can be said about their spread."));
    }
    if constant > 0 {
        notes.push(format!("{constant} groups have the same value throughout: no interval can be given."));
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for group in &comparison.groups {
        if let Standing::Impossible(why) = group.standing {
            *reasons.entry(why.as_str()).or_default() += 1;
        }
    }
    notes.extend(reasons.into_iter().map(|(why, n)| format!("{n} groups are not compared: {why}.")));
    notes
}

/// The plan was perhaps run on several hosts to have more of it; that is not what it gives, and the reader should know.
fn superseded_note(left_out: &LeftOut) -> Option<String> {
    let elsewhere = match left_out.superseded_elsewhere {
        0 => String::new(),
        n => format!(" ({n} of them on another host)"),
    };
    (left_out.superseded > 0).then(|| {
        format!(
            "{} further attempts{elsewhere} count as nothing: for each iteration stands its complete attempt that finished \
             first, else its last.",
            left_out.superseded
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::contrasts::Options;
    use crate::analysis::judged::{Asked, MARGIN, judge};
    use crate::analysis::{Question, compare};
    use crate::ids::{IterationNumber, Level, ShortHash};
    use crate::record::Status;
    use crate::store::{Conditions, Observation};

    fn example() -> Analyze {
        let mut values = Vec::new();
        for (testbed, driver, base) in [("netns", None, 1000.0), ("qemu", Some("e1000, \"old\""), 900.0)] {
            for i in 0..5_u32 {
                let mut factors =
                    BTreeMap::from([("testbed".to_owned(), testbed.to_owned()), ("pairs".to_owned(), "2".to_owned())]);
                factors.extend(driver.map(|driver| ("driver".to_owned(), driver.to_owned())));
                values.push(Observation {
                    number: IterationNumber(i + 1),
                    started_ns: i64::from(i),
                    identity: ShortHash::of(format!("{testbed}{i}").as_bytes()),
                    tuple: ShortHash::of(testbed.as_bytes()),
                    block: None,
                    status: Status::Complete,
                    host: "here".into(),
                    factors: factors.into(),
                    value: base + f64::from(i) * 1.25,
                    pairs: 2,
                    conditions: Conditions::default(),
                });
            }
        }
        let by_status = BTreeMap::from([(Status::Suspect, 3)]);
        let left_out = LeftOut { by_status, not_measured: 1, ..LeftOut::default() };
        let observations = Observations {
            metric: "rps".to_owned(),
            level: Level::Application,
            role: Some("client".to_owned()),
            unit: "1/s".to_owned(),
            better: Some(Better::Higher),
            values,
            left_out,
        };
        let baseline = Some(("testbed".to_owned(), "netns".to_owned()));
        let question = Question { baseline, ..Question::default() };
        let comparison = compare(&observations.values, &question).unwrap();
        let options = Options { resamples: 1000, ..Options::default() };
        let asked = Asked { observations: &observations.values, comparison: &comparison, margin: MARGIN };
        let found = judge(&[asked], &options);
        let judged = Judged {
            contrasts: &found.metrics[0],
            doubts: &[vec![], vec![Doubt::Outliers { n: 2 }, Doubt::Drift { change: 9.025, p: 0.001 }]],
            doubt_level: 0.025,
            margin: MARGIN,
            margin_is_asked: false,
            family: FamilyRow::new(&found, &options),
            hosts: &found.hosts,
        };
        Analyze::new(&observations, &comparison, &judged)
    }

    /// The last digits depend on the C library's logarithm.
    fn short_numbers() -> insta::Settings {
        let mut settings = insta::Settings::clone_current();
        settings.add_filter(r"(\d+\.\d{5})\d{5,}", "$1…");
        settings
    }

    #[test]
    fn csv_has_as_many_fields_as_columns() {
        let text = example().csv();
        let fields = |line: &str| line.split(',').count();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(fields(lines[1]), fields(lines[0]));
        assert_eq!(fields(&lines[2].replace("\"e1000, \"\"old\"\"\"", "e1000")), fields(lines[0]));
    }

    #[test]
    fn further_attempts_are_mentioned_with_their_hosts() {
        let left_out = LeftOut { superseded: 3, ..LeftOut::default() };
        assert!(superseded_note(&left_out).unwrap().starts_with("3 further attempts count as nothing"));
        let note = superseded_note(&LeftOut { superseded_elsewhere: 2, ..left_out }).unwrap();
        assert!(note.starts_with("3 further attempts (2 of them on another host) count"), "{note}");
        assert_eq!(superseded_note(&LeftOut::default()), None);
    }

    #[test]
    fn the_table_reads_well() {
        insta::assert_snapshot!(example().table(None));
    }

    #[test]
    fn verdicts_and_doubts_are_told_with_what_they_rest_on() {
        let answer = example();
        assert_eq!(answer.groups[1].verdict, Some(Word::Different));
        assert_eq!(answer.groups[0].verdict, None);
        let has =
            |text: &str| assert!(answer.notes.iter().any(|note| note.contains(text)), "{text}: {:?}", answer.notes);
        has("margin of 5 % of the baseline's mean (the default");
        has("testbed = qemu: 2 values lie far out; they count all the same.");
        has("drift by +1.00 % of the mean");
        assert!(answer.table(Some(120)).lines().all(|l| l.chars().count() <= 120 || !l.starts_with(' ')));
    }

    #[test]
    fn csv_keeps_every_digit_and_quotes() {
        short_numbers().bind(|| insta::assert_snapshot!(example().csv()));
    }

    #[test]
    fn json_is_stable() {
        short_numbers().bind(|| insta::assert_snapshot!(example().json()));
    }
}
