//! Many metrics in one table: a line for each contrast, what differs first.

use std::collections::BTreeSet;

use serde::Serialize;

use super::compare::{Analyze, GroupRow, csv_line};
use super::number::{Column, escape};
use super::sheet::{Item, Sheet};
use super::verdicts::{FamilyRow, Word, p_text};

/// Metrics that were looked at together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Many {
    /// Their contrasts.
    pub family: FamilyRow,
    /// The name of each metric as shown.
    #[serde(skip)]
    pub names: Vec<String>,
    /// Each metric as if it were alone, but for the family.
    #[serde(rename = "metrics")]
    pub answers: Vec<Analyze>,
    /// What a reader must know of all of them.
    pub notes: Vec<String>,
}

/// Names of metrics that a note has room for.
const NAMED: usize = 8;

impl Many {
    /// An object, with a final newline.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("numbers are finite and keys are texts");
        text.push('\n');
        text
    }

    /// As one metric's, a line for each group of each metric. Columns of factors that a metric does not have are empty.
    pub fn csv(&self) -> String {
        let factors = self.factors();
        let mut text = String::new();
        csv_line(&mut text, Analyze::csv_header(&factors));
        self.answers.iter().for_each(|answer| answer.csv_lines(&mut text, &factors));
        text
    }

    fn factors(&self) -> Vec<String> {
        let all: BTreeSet<&String> = self.answers.iter().flat_map(|answer| &answer.factors).collect();
        all.into_iter().cloned().collect()
    }

    /// The table for people.
    pub fn table(&self, width: Option<u16>) -> String {
        let is_compared = self.answers.iter().any(|answer| answer.baseline.is_some());
        let factors = self.factors();
        let mut titles = vec!["metric"];
        titles.extend(factors.iter().map(String::as_str));
        titles.extend(["n", "mean"]);
        if is_compared {
            titles.extend(["difference", "95 % interval", "p", "verdict"]);
        }
        let mut rows: Vec<(Option<Word>, f64, Vec<Item>)> = Vec::new();
        for (answer, name) in self.answers.iter().zip(&self.names) {
            let column = Column::of(&answer.unit, answer.groups.iter().map(|g| (g.mean, g.sd)));
            for group in answer.groups.iter().filter(|group| !is_compared || !group.baseline) {
                let p = group.contrast.as_ref().and_then(|c| c.more.p_holm).unwrap_or(2.0);
                rows.push((group.verdict, p, row(name, &factors, group, &column, is_compared)));
            }
        }
        // Those without a verdict go last; the sort keeps the order of metrics and groups where nothing else decides.
        rows.sort_by(|a, b| {
            let key = |word: Option<Word>| (word.is_none(), word);
            key(a.0)
                .cmp(&key(b.0))
                .then_with(|| if is_compared { a.1.total_cmp(&b.1) } else { std::cmp::Ordering::Equal })
        });
        let notes = self.table_notes(is_compared, rows.iter().map(|row| row.0));
        let columns = titles.into_iter().map(|title| (title.to_owned(), title.to_owned())).collect();
        Sheet { columns, rows: rows.into_iter().map(|row| row.2).collect(), notes }.table(width)
    }

    fn table_notes(&self, is_compared: bool, words: impl Iterator<Item = Option<Word>>) -> Vec<String> {
        let mut notes = Vec::new();
        if is_compared {
            let words: Vec<Word> = words.flatten().collect();
            let mut kinds = words.clone();
            kinds.sort_unstable();
            kinds.dedup();
            let count = |word: &Word| words.iter().filter(|other| *other == word).count();
            let counted: Vec<String> = kinds.iter().map(|w| format!("{} {}", count(w), w.as_str())).collect();
            notes.push(format!("Verdicts: {}.", counted.join("; ")));
            notes.push(self.family.note());
            let mut margins: Vec<(String, Vec<&str>)> = Vec::new();
            for (answer, name) in self.answers.iter().zip(&self.names) {
                let text = answer.margin_text();
                match margins.iter_mut().find(|(known, _)| *known == text) {
                    Some((_, names)) => names.push(name),
                    None => margins.push((text, vec![name])),
                }
            }
            for (text, names) in &margins {
                let of = if margins.len() == 1 { String::new() } else { format!(" ({})", some(names)) };
                notes.push(format!("Margin: {text}{of}."));
            }
        }
        notes.extend(
            self.answers
                .iter()
                .zip(&self.names)
                .filter(|(answer, _)| answer.left_out.total > 0)
                .map(|(answer, name)| format!("{name}: {} iterations left out.", answer.left_out.total))
                .take(NAMED),
        );
        let doubtful: Vec<String> = self
            .answers
            .iter()
            .zip(&self.names)
            .flat_map(|(answer, name)| answer.doubt_notes().into_iter().map(move |note| format!("{name}, {note}")))
            .collect();
        notes.extend(doubtful.iter().take(NAMED).cloned());
        if doubtful.len() > NAMED {
            notes.push(format!("And {} more such remarks; --format json has all of them.", doubtful.len() - NAMED));
        }
        notes.extend(self.notes.iter().cloned());
        notes
    }
}

fn some(names: &[&str]) -> String {
    let shown = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED { format!("{shown} and {} more", names.len() - NAMED) } else { shown }
}

fn row(name: &str, factors: &[String], group: &GroupRow, column: &Column, is_compared: bool) -> Vec<Item> {
    let factor = |name: &String| match group.factors.get(name).and_then(Option::as_deref) {
        Some(value) => Item::Text(value.to_owned()),
        None => Item::Text("–".to_owned()),
    };
    let shown = |text: String| Item::Number(None, text);
    let mut items = vec![Item::Text(name.to_owned())];
    items.extend(factors.iter().map(factor));
    items.push(Item::Count(group.n));
    items.push(shown(format!("{} {}", column.show(group.mean), escape(column.unit()))));
    if is_compared {
        let contrast = group.contrast.as_ref();
        let result = contrast.map(|contrast| contrast.result);
        let dash = || "–".to_owned();
        // Where percents mean nothing, in the metric's unit.
        let difference = result.map_or_else(dash, |r| match r.percent {
            Some(percent) => format!("{percent:+.1} %"),
            None => format!("{} {}", column.show(Some(r.difference)), escape(column.unit())),
        });
        let interval = result.map_or_else(dash, |r| match (r.percent, r.percent_ci95) {
            (Some(_), Some(ci)) => format!("{:+.1} … {:+.1}", ci.low, ci.high),
            (Some(_), None) => dash(),
            (None, _) => column.show_interval(r.difference_ci95),
        });
        items.extend([shown(difference), shown(interval), shown(p_text(contrast.and_then(|c| c.more.p_holm)))]);
        items.push(Item::Text(group.verdict_text.clone().unwrap_or_else(dash)));
    }
    items
}
