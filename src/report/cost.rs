//! What instruments cost: a table for people, CSV and JSON for programs (`docs/json.md`, section "analyze --cost").

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, Table};
use serde::Serialize;

use super::compare::{STYLE, csv_line, left_out_note};
use super::number::{Column, escape};
use crate::analysis::{Cost, Costs, Design, NoCost};
use crate::ids::Better;
use crate::store::Observations;

/// The costs in one metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CostTable {
    /// Name of the metric.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// Which way is an improvement; `null` when neither is.
    pub better: Option<Better>,
    /// Coverage of every interval: 0.95.
    pub confidence: f64,
    /// The numbers.
    #[serde(flatten)]
    pub costs: Costs,
    /// What a reader must know, one sentence each.
    pub notes: Vec<String>,
}

impl CostTable {
    /// Puts it together.
    pub fn new(observations: &Observations, costs: Costs) -> Self {
        Self {
            metric: observations.metric.clone(),
            unit: observations.unit.clone(),
            better: observations.better,
            confidence: crate::analysis::CONFIDENCE,
            notes: notes(observations, &costs),
            costs,
        }
    }

    fn table(&self, width: Option<u16>) -> String {
        let rows = &self.costs.costs;
        let means = Column::of(&self.unit, rows.iter().flat_map(|c| [(c.without, None), (c.with, None)]));
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let mut table = Table::new();
        table.load_style(STYLE);
        table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
        if let Some(width) = width {
            table.set_width(width);
        }
        let mut header: Vec<Cell> = self.costs.factors.iter().map(|name| Cell::new(escape(name))).collect();
        header.extend([Cell::new("instrument"), Cell::new("beside")]);
        let without = format!("{} without ({})", escape(&self.metric), escape(means.unit()));
        header.extend(["n", &without, "with", "difference", "95 % interval", "p"].map(|text| right(text.to_owned())));
        table.set_header(header);
        for cost in rows {
            let value = |text: &Option<String>| Cell::new(text.as_deref().map_or_else(|| "–".to_owned(), escape));
            let mut cells: Vec<Cell> = cost.factors.iter().map(value).collect();
            cells.extend([Cell::new(cost.added.join(" + ")), Cell::new(beside(cost))]);
            cells.extend([right(cost.n.to_string()), right(means.show(cost.without)), right(means.show(cost.with))]);
            cells.extend(difference(cost).map(right));
            table.add_row(cells);
        }
        let mut text = table.trim_fmt();
        text.push_str("\n\n");
        for note in &self.notes {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}", escape(note));
        }
        text
    }
}

fn beside(cost: &Cost) -> String {
    if cost.beside.is_empty() { "nothing".to_owned() } else { cost.beside.join(" + ") }
}

fn difference(cost: &Cost) -> [String; 3] {
    let empty = || "–".to_owned();
    if let Some(reason) = cost.reason {
        return [reason.as_str().to_owned(), String::new(), String::new()];
    }
    let p = cost.p.map_or_else(empty, |p| if p < 0.0001 { "<0.0001".to_owned() } else { format!("{p:.4}") });
    [
        cost.percent.map_or_else(empty, |x| format!("{x:+.2} %")),
        cost.percent_ci95.map_or_else(empty, |ci| format!("{:+.2} … {:+.2}", ci.low, ci.high)),
        p,
    ]
}

/// The tables for people, `width` columns wide at most where given.
pub fn text(tables: &[CostTable], width: Option<u16>) -> String {
    tables.iter().map(|table| table.table(width)).collect::<Vec<_>>().join("\n")
}

/// The JSON form, with a final newline.
pub fn json(tables: &[CostTable]) -> String {
    let mut text = serde_json::to_string_pretty(tables).expect("numbers are finite and keys are texts");
    text.push('\n');
    text
}

/// The CSV form (RFC 4180 with bare line feeds): one line for each cost; what is missing is empty.
pub fn csv(tables: &[CostTable]) -> String {
    let mut text = String::new();
    let mut names: Vec<&String> = tables.iter().flat_map(|table| &table.costs.factors).collect();
    names.sort_unstable();
    names.dedup();
    csv_line(&mut text, names.iter().map(|name| (*name).clone()).chain(CSV_COLUMNS.map(str::to_owned)));
    for table in tables {
        for cost in &table.costs.costs {
            let value = |name: &&String| {
                let place = table.costs.factors.iter().position(|factor| factor == *name);
                place.and_then(|place| cost.factors[place].clone()).unwrap_or_default()
            };
            csv_line(&mut text, names.iter().map(value).chain(fields(table, cost)));
        }
    }
    text
}

const CSV_COLUMNS: [&str; 16] = [
    "metric",
    "unit",
    "added",
    "beside",
    "value_without",
    "value_with",
    "design",
    "n",
    "unpaired",
    "without",
    "with",
    "percent",
    "percent_ci95_low",
    "percent_ci95_high",
    "p",
    "reason",
];

fn fields(table: &CostTable, cost: &Cost) -> [String; 16] {
    // Debug form: every digit, and an exponent rather than 300 zeros.
    let number = |x: Option<f64>| x.map(|x| format!("{x:?}")).unwrap_or_default();
    let design = match cost.design {
        Design::Paired => "paired",
        Design::Unpaired => "unpaired",
    };
    [
        table.metric.clone(),
        table.unit.clone(),
        cost.added.join("+"),
        cost.beside.join("+"),
        cost.values[0].clone(),
        cost.values[1].clone(),
        design.to_owned(),
        cost.n.to_string(),
        cost.unpaired.to_string(),
        number(cost.without),
        number(cost.with),
        number(cost.percent),
        number(cost.percent_ci95.map(|ci| ci.low)),
        number(cost.percent_ci95.map(|ci| ci.high)),
        number(cost.p),
        cost.reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
    ]
}

fn notes(observations: &Observations, costs: &Costs) -> Vec<String> {
    let metric = &observations.metric;
    let meaning = match observations.better {
        Some(Better::Higher) => "higher is better, so that a negative difference is a cost",
        Some(Better::Lower) => "lower is better, so that a positive difference is a cost",
        None => "neither way is better",
    };
    let mut notes = vec![format!(
        "{metric} with the instrument against {metric} without, in percent of it; {meaning}. Means are geometric, p is not \
         corrected for the number of comparisons."
    )];
    let has = |design| costs.costs.iter().any(|cost| cost.design == design);
    if has(Design::Paired) {
        notes.push(
            "Compared within each block, other factors equal: n is the number of blocks that have both.".to_owned(),
        );
    }
    if has(Design::Unpaired) {
        notes.push(
            "Where the plan has no blocks, both sides are independent samples, n those of the smaller.".to_owned(),
        );
    }
    if costs.costs.iter().any(|cost| cost.unpaired > 0) {
        notes.push("Blocks in which one side does not count are left out of the comparison.".to_owned());
    }
    if costs.costs.iter().any(|cost| cost.reason.is_none() && cost.n < 2) {
        notes.push("One pair has no interval: more repetitions are needed.".to_owned());
    }
    if costs.costs.iter().any(|cost| cost.reason == Some(NoCost::NoPair)) {
        notes.push("Where no block has both sides nothing can be said.".to_owned());
    }
    if !costs.inseparable.is_empty() {
        notes.push(format!(
            "Of {} alone nothing can be said: no two values of `instrument` differ in just that.",
            costs.inseparable.join(" and of ")
        ));
    }
    notes.extend(left_out_note(observations));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Interval;
    use crate::ids::Level;
    use crate::store::LeftOut;

    fn tables() -> Vec<CostTable> {
        let cost = |added: &[&str], beside: &[&str], percent: Option<f64>| Cost {
            factors: vec![Some("a,b".to_owned())],
            added: added.iter().map(|&name| name.to_owned()).collect(),
            beside: beside.iter().map(|&name| name.to_owned()).collect(),
            values: ["off".to_owned(), "on".to_owned()],
            design: Design::Paired,
            n: usize::from(percent.is_some()) * 8,
            unpaired: 1,
            without: percent.map(|_| 1000.0),
            with: percent.map(|percent| 1000.0 + 10.0 * percent),
            percent,
            percent_ci95: percent.map(|percent| Interval { low: percent - 0.5, high: percent + 0.5 }),
            p: percent.map(|_| 0.00001),
            reason: if percent.is_none() { Some(NoCost::NoPair) } else { None },
        };
        let costs = Costs {
            factors: vec!["request".to_owned()],
            costs: vec![cost(&["capture"], &[], Some(-3.25)), cost(&["capture", "syscalls"], &["probe"], None)],
            inseparable: vec!["syscalls".to_owned()],
        };
        let observations = Observations {
            metric: "rps".to_owned(),
            level: Level::Application,
            role: None,
            unit: "1/s".to_owned(),
            better: Some(Better::Higher),
            values: Vec::new(),
            left_out: LeftOut { not_measured: 2, ..LeftOut::default() },
        };
        vec![CostTable::new(&observations, costs)]
    }

    #[test]
    fn the_forms_agree() {
        let mut text = text(&tables(), None);
        text.push('\n');
        text.push_str(&csv(&tables()));
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!("cost", text);
        });
        let json: serde_json::Value = serde_json::from_str(&json(&tables())).unwrap();
        assert_eq!(json[0]["costs"][0]["percent_ci95"]["low"], -3.75);
        assert_eq!(json[0]["costs"][1]["reason"], "no_pair");
        assert_eq!(json[0]["inseparable"][0], "syscalls");
    }
}
