//! A table that can be printed in every form.

use comfy_table::{Cell, CellAlignment, Table};
use serde_json::{Map, Value};

use super::compare::{STYLE, csv_line};
use super::number::escape;

/// What stands in a place.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// Text, perhaps from elsewhere.
    Text(String),
    /// A number of things.
    Count(usize),
    /// A number, and how people read it; `None` is one that cannot be given.
    Number(Option<f64>, String),
    /// Nothing.
    Absent,
}

/// Columns, rows, and what a reader must know.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sheet {
    /// Name for programs, and title for people.
    pub columns: Vec<(String, String)>,
    /// As many items as columns.
    pub rows: Vec<Vec<Item>>,
    /// One sentence each.
    pub notes: Vec<String>,
}

impl Item {
    /// A number shown with so many decimals.
    pub fn number(value: Option<f64>, decimals: usize) -> Self {
        let shown = match value {
            None => "–".to_owned(),
            Some(x)
                if x != 0.0
                    && (x.abs() >= 1e7 || x.abs() < 0.5 * 0.1_f64.powi(i32::try_from(decimals).unwrap_or(6))) =>
            {
                format!("{x:.2e}")
            }
            Some(x) => format!("{x:.decimals$}"),
        };
        Self::Number(value, shown)
    }

    /// A p-value.
    pub fn p(value: Option<f64>) -> Self {
        Self::Number(value, super::verdicts::p_text(value))
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(text.as_str()),
            Self::Count(n) => Value::from(*n),
            Self::Number(value, _) => value.map_or(Value::Null, Value::from),
            Self::Absent => Value::Null,
        }
    }

    fn csv(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(n) => n.to_string(),
            Self::Number(value, _) => value.map(|x| format!("{x:?}")).unwrap_or_default(),
            Self::Absent => String::new(),
        }
    }

    fn cell(&self) -> Cell {
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        match self {
            Self::Text(text) => Cell::new(escape(text)),
            Self::Count(n) => right(n.to_string()),
            Self::Number(_, shown) => right(shown.clone()),
            Self::Absent => right("–".to_owned()),
        }
    }
}

impl Sheet {
    /// An object with `rows` (an object each) and `notes`, and a final newline.
    pub fn json(&self) -> String {
        let row = |row: &Vec<Item>| -> Value {
            let members = self.columns.iter().zip(row).map(|((name, _), item)| (name.clone(), item.json()));
            Value::Object(members.collect::<Map<_, _>>())
        };
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        let all = serde_json::json!({ "rows": rows, "notes": self.notes });
        format!("{all:#}\n")
    }

    /// A line for each row; what is missing is empty.
    pub fn csv(&self) -> String {
        let mut text = String::new();
        csv_line(&mut text, self.columns.iter().map(|(name, _)| name.clone()));
        self.rows.iter().for_each(|row| csv_line(&mut text, row.iter().map(Item::csv)));
        text
    }

    /// For people, `width` columns wide at most where given, notes below.
    pub fn table(&self, width: Option<u16>) -> String {
        let mut table = Table::new();
        table.load_style(STYLE);
        table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
        if let Some(width) = width {
            table.set_width(width);
        }
        let is_text = |column: usize| self.rows.iter().any(|row| matches!(row[column], Item::Text(_)));
        let title = |(i, (_, title)): (usize, &(String, String))| {
            let side = if is_text(i) { CellAlignment::Left } else { CellAlignment::Right };
            Cell::new(escape(title)).set_alignment(side)
        };
        table.set_header(self.columns.iter().enumerate().map(title).collect::<Vec<_>>());
        for row in &self.rows {
            table.add_row(row.iter().map(Item::cell).collect::<Vec<_>>());
        }
        let notes: String = self.notes.iter().map(|note| escape(note) + "\n").collect();
        format!("{}\n\n{notes}", table.trim_fmt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_numbers_are_missing_in_every_form() {
        let sheet = Sheet {
            columns: vec![("a".into(), "A".into()), ("b".into(), "B".into()), ("c".into(), "C".into())],
            rows: vec![
                vec![Item::Text("x,\u{1b}".into()), Item::number(None, 1), Item::Count(3)],
                vec![Item::Text("y".into()), Item::number(Some(0.1 + 0.2), 2), Item::Absent],
            ],
            notes: vec!["So it is.".into()],
        };
        assert_eq!(sheet.csv(), "a,b,c\n\"x,\u{1b}\",,3\ny,0.30000000000000004,\n");
        let json: Value = serde_json::from_str(&sheet.json()).unwrap();
        assert_eq!(json["rows"][0], serde_json::json!({ "a": "x,\u{1b}", "b": null, "c": 3 }));
        assert_eq!(json["rows"][1]["b"], 0.1 + 0.2);
        let table = sheet.table(Some(80));
        assert!(table.contains("0.30") && table.contains("–") && !table.contains('\u{1b}'), "{table}");
        assert!(table.ends_with("\nSo it is.\n"), "{table}");
    }
}
