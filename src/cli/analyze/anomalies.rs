//! `vptest analyze --anomalies`: what stands out.

use std::io::Write as _;

use super::comparing::{chosen, keep, margins, printed, statuses};
use super::{Args, no_values, unreadable, wrong_question};
use crate::analysis::Question;
use crate::cli::exit::{Exit, Failure};
use crate::report::anomalies::{columns, find, sheet};
use crate::report::page::grouping::Grouping;
use crate::store::{Chosen, Database};

pub(super) fn run(args: &Args, database: &Database) -> Result<Exit, Failure> {
    let what = match chosen(args) {
        Chosen::Named(names) if names.is_empty() => Chosen::All,
        what => what,
    };
    let mut dataset = database.chosen(&what, &statuses(args)).map_err(|error| unreadable(&args.db, error))?;
    for name in &args.metric {
        dataset.find(name).map_err(|error| no_values(args, error.into()))?;
    }
    let mut notes = Vec::new();
    if let Some(text) = &args.filter {
        keep(&mut dataset, text)?;
        notes.push(format!("Looked at: iterations with {text}."));
    }
    let question = Question { by: args.by.clone(), baseline: None, unequal_vantage: args.allow_unequal_vantage };
    let grouping = Grouping::of(&dataset, &question).map_err(wrong_question)?;
    let columns = columns(&dataset);
    if columns.is_empty() {
        return Err(Failure::text(Exit::SomeFailed, "no iteration that counts has any metric of those".to_owned()));
    }
    let margins = margins(args, &dataset.specs, &mut notes);
    let found = find(&dataset, &grouping, &columns, &margins);
    let text = printed(args, &sheet(&found, &grouping, notes));
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(Exit::Done)
}
