//! Writes down which questions were asked of a database, and says how many there were.

use std::collections::BTreeMap;
use std::path::Path;

use crate::host::clock::now_ns;
use crate::store::{Look, Looks, looks, record_look};

/// A question that was answered.
pub(super) struct Asked<'a> {
    pub(super) database: &'a Path,
    pub(super) command: &'static str,
    /// Options that decide what is compared; those that were not given are left out.
    pub(super) question: BTreeMap<String, String>,
    /// Hash of the iterations that it was asked of.
    pub(super) data: String,
    pub(super) contrasts: usize,
    pub(super) p_values: usize,
}

/// What a question is made of: names and values, of which the empty ones are left out.
pub(super) fn question<const N: usize>(options: [(&str, String); N]) -> BTreeMap<String, String> {
    options.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Writes the question down unless `is_recorded` is false; a sentence on all questions so far. What cannot be written or read is said on
/// standard error: an answer is an answer without it.
pub(super) fn note(asked: Asked<'_>, is_recorded: bool) -> Option<String> {
    let Asked { database, command, question, data, contrasts, p_values } = asked;
    let shown = crate::store::looks_path(database).display().to_string();
    if is_recorded && contrasts > 0 {
        let look = Look { at_ns: now_ns(), command: command.to_owned(), question, data, contrasts, p_values };
        if let Err(error) = record_look(database, &look) {
            eprintln!("this question could not be written down in {shown}: {error}");
        }
    }
    match looks(database) {
        Ok(Looks { questions: 0, .. }) => None,
        Ok(looks) => Some(sentence(looks)),
        Err(error) => {
            eprintln!("{shown} cannot be read: {error}");
            None
        }
    }
}

fn sentence(Looks { questions, contrasts, unreadable, cut }: Looks) -> String {
    let word = if questions == 1 { "question" } else { "questions" };
    let bad = if unreadable == 0 { String::new() } else { format!("; {unreadable} lines cannot be read") };
    let least = if cut { "at least " } else { "" };
    format!("So far {least}{questions} {word} with {contrasts} contrasts were asked of these data{bad}.")
}
