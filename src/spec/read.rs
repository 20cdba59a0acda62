//! Typed access to TOML values that records what is wrong instead of stopping at it.

use std::ops::Range;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Diagnostic;
use crate::units::BadQuantity;

pub(super) type Span = Range<usize>;

/// Where findings go while a spec is read.
pub(super) struct Sink<'a> {
    source: &'a str,
    pub(super) found: Vec<Diagnostic>,
}

impl<'a> Sink<'a> {
    pub(super) const fn new(source: &'a str) -> Self {
        Self { source, found: Vec::new() }
    }

    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// The text as written, on one line and cut to a readable length.
    pub(super) fn written(&self, span: &Span) -> String {
        let text = self.source.get(span.clone()).unwrap_or("");
        let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(60) {
            Some((cut, _)) => format!("{}…", &line[..cut]),
            None => line,
        }
    }
}

/// The nearest of `names` within a small edit distance.
pub(crate) fn nearest<'n>(name: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let distance = |other: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &other.to_lowercase());
    let allowed = match name.chars().count() {
        0..=2 => 1,
        3..=5 => 2,
        _ => 3,
    };
    names.into_iter().map(|n| (distance(n), n)).filter(|(d, n)| *d <= allowed && *d < n.len()).min().map(|(_, n)| n)
}

/// `did you mean …?` or the list of what there is.
pub(super) fn suggestion(name: &str, names: &[&str]) -> String {
    match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("accepted: {}", names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")),
    }
}

/// A key with its value.
#[derive(Clone)]
pub(super) struct Entry<'a> {
    /// Dotted path from the top, for messages.
    pub(super) path: String,
    /// The key in the file; for elements of a list, the element.
    pub(super) key: Span,
    pub(super) value: &'a DeValue<'a>,
    /// The value in the file.
    pub(super) span: Span,
}

impl<'a> Entry<'a> {
    /// Records that this value is not `expected`.
    pub(super) fn refuse(&self, sink: &mut Sink<'_>, expected: impl std::fmt::Display) {
        self.refuse_with_help(sink, expected, None);
    }

    pub(super) fn refuse_with_help(&self, sink: &mut Sink<'_>, expected: impl std::fmt::Display, help: Option<String>) {
        let written = sink.written(&self.span);
        let found = match self.value {
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
            _ => "",
        };
        let what = if found.is_empty() { format!("`{written}`") } else { found.to_owned() };
        let message = format!("`{}` cannot be {what}", self.path);
        sink.push(Diagnostic::error(self.span.clone(), message).label(format!("expected {expected}")).maybe_help(help));
    }

    pub(super) fn text(&self, sink: &mut Sink<'_>) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.refuse(sink, "a string");
        }
        text
    }

    /// A string that is not empty.
    pub(super) fn filled(&self, sink: &mut Sink<'_>) -> Option<&'a str> {
        let text = self.text(sink)?;
        if text.trim().is_empty() {
            self.refuse(sink, "a text that is not empty");
            return None;
        }
        Some(text)
    }

    /// `true`, `false`, `"on"` or `"off"`.
    pub(super) fn switch(&self, sink: &mut Sink<'_>) -> Option<bool> {
        match self.value {
            DeValue::Boolean(flag) => return Some(*flag),
            DeValue::String(text) if text == "on" => return Some(true),
            DeValue::String(text) if text == "off" => return Some(false),
            _ => {}
        }
        self.refuse(sink, "`true`, `false`, `\"on\"` or `\"off\"`");
        None
    }

    /// A whole number in `min..=max`.
    pub(super) fn integer<N>(&self, sink: &mut Sink<'_>, min: N, max: N) -> Option<N>
    where
        N: TryFrom<i128> + Into<i128> + Copy + std::fmt::Display,
    {
        let number = match self.value {
            DeValue::Integer(digits) => i128::from_str_radix(digits.as_str(), digits.radix()).ok(),
            _ => None,
        };
        let in_range = number.filter(|n| (min.into()..=max.into()).contains(n)).and_then(|n| N::try_from(n).ok());
        if in_range.is_none() {
            self.refuse(sink, format_args!("a whole number from {min} to {max}"));
        }
        in_range
    }

    /// A quantity with a unit, read by `parse`.
    pub(super) fn quantity_by<T>(
        &self,
        sink: &mut Sink<'_>,
        accepted: &str,
        parse: impl Fn(&str) -> Result<T, BadQuantity>,
    ) -> Option<T> {
        let help = || Some(format!("accepted: {accepted}"));
        match self.value {
            DeValue::String(text) => match parse(text) {
                Ok(value) => return Some(value),
                Err(bad) => {
                    let message = format!("`{}` cannot be `{}`", self.path, sink.written(&self.span));
                    let label = format!("not a {}: {}", bad.kind, bad.problem);
                    sink.push(Diagnostic::error(self.span.clone(), message).label(label).maybe_help(help()));
                }
            },
            DeValue::Integer(_) | DeValue::Float(_) => {
                self.refuse_with_help(sink, "a string with number and unit", help());
            }
            _ => self.refuse_with_help(sink, "a string", help()),
        }
        None
    }

    pub(super) fn quantity<T: FromStr<Err = BadQuantity>>(&self, sink: &mut Sink<'_>, accepted: &str) -> Option<T> {
        self.quantity_by(sink, accepted, str::parse)
    }

    /// One of `names`.
    pub(super) fn choice<T: Copy>(&self, sink: &mut Sink<'_>, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let list = || names.iter().map(|n| format!("`\"{n}\"`")).collect::<Vec<_>>().join(", ");
        let Some(text) = self.value.as_str() else {
            self.refuse(sink, format_args!("one of {}", list()));
            return None;
        };
        let chosen = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if chosen.is_none() {
            let near = nearest(text, names.iter().copied()).map(|n| format!("did you mean `\"{n}\"`?"));
            self.refuse_with_help(sink, format_args!("one of {}", list()), near);
        }
        chosen
    }

    /// The elements of a list, or the value itself as its only element.
    pub(super) fn one_or_more(&self) -> Vec<Self> {
        match self.value {
            DeValue::Array(_) => self.elements().unwrap_or_default(),
            _ => vec![self.clone()],
        }
    }

    /// The elements of a list; `None` for anything else.
    pub(super) fn elements(&self) -> Option<Vec<Self>> {
        let element = |item: &'a Spanned<DeValue<'a>>| Self {
            path: self.path.clone(),
            key: item.span(),
            value: item.get_ref(),
            span: item.span(),
        };
        self.value.as_array().map(|items| items.iter().map(element).collect())
    }

    /// A list of strings; wrong elements are recorded and left out.
    pub(super) fn strings(&self, sink: &mut Sink<'_>) -> Option<Vec<String>> {
        let Some(items) = self.elements() else {
            self.refuse(sink, "a list of strings");
            return None;
        };
        Some(items.iter().filter_map(|item| item.text(sink)).map(str::to_owned).collect())
    }

    /// The table that this value is.
    pub(super) fn section(&self, sink: &mut Sink<'_>) -> Option<Section<'a>> {
        match self.value {
            DeValue::Table(table) => Some(Section::new(self.path.clone(), table, self.key.clone())),
            _ => {
                self.refuse(sink, "a table");
                None
            }
        }
    }

    /// The tables of a `[[list]]`; other elements are recorded and left out.
    pub(super) fn sections(&self, sink: &mut Sink<'_>) -> Vec<Section<'a>> {
        let Some(items) = self.elements() else {
            self.refuse(sink, format_args!("a list of tables, written `[[{}]]`", self.path));
            return Vec::new();
        };
        items.iter().filter_map(|item| item.section(sink)).collect()
    }
}

/// A table whose keys are asked for one by one; the rest is unknown.
pub(super) struct Section<'a> {
    pub(super) path: String,
    pub(super) span: Span,
    entries: Vec<Entry<'a>>,
    names: Vec<&'a str>,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn new(path: String, table: &'a DeTable<'a>, span: Span) -> Self {
        let mut entries: Vec<(&'a str, Entry<'a>)> = table
            .iter()
            .map(|(key, value)| {
                let name: &'a str = key.get_ref();
                let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                (name, Entry { path, key: key.span(), value: value.get_ref(), span: value.span() })
            })
            .collect();
        // The table comes sorted by name; the file's order is that of the positions.
        entries.sort_by_key(|(_, entry)| entry.key.start);
        let (names, entries) = entries.into_iter().unzip();
        Self { path, span, entries, names, asked: Vec::new() }
    }

    /// The entry of that name.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Entry<'a>> {
        self.asked.push(name);
        let index = self.names.iter().position(|n| *n == name)?;
        self.names.remove(index);
        Some(self.entries.remove(index))
    }

    /// A copy of the entry of that name, which stays to be taken.
    pub(super) fn peek(&self, name: &str) -> Option<Entry<'a>> {
        self.names.iter().position(|n| *n == name).map(|index| self.entries[index].clone())
    }

    /// Is there an entry of that name that was not taken?
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    /// Place of a key's value, or of the table without it.
    pub(super) fn place(&self, name: &str) -> Span {
        let index = self.names.iter().position(|n| *n == name);
        index.map_or_else(|| self.span.clone(), |index| self.entries[index].span.clone())
    }

    /// As [`Self::take`], recording when it is missing.
    pub(super) fn need(&mut self, name: &'static str, sink: &mut Sink<'_>, help: &str) -> Option<Entry<'a>> {
        let entry = self.take(name);
        if entry.is_none() {
            let place = if self.path.is_empty() { "the spec".to_owned() } else { format!("`{}`", self.path) };
            let message = format!("{place} has no `{name}`");
            let label = format!("`{name}` is missing");
            sink.push(Diagnostic::error(self.span.clone(), message).label(label).help(help));
        }
        entry
    }

    /// Everything not taken yet, in the order of the file.
    pub(super) fn rest(&mut self) -> Vec<(&'a str, Entry<'a>)> {
        std::mem::take(&mut self.names).into_iter().zip(std::mem::take(&mut self.entries)).collect()
    }

    /// Records every key that was not asked for.
    pub(super) fn finish(mut self, sink: &mut Sink<'_>) {
        for (name, entry) in self.rest() {
            let place = if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path) };
            let message = format!("unknown key `{name}`{place}");
            sink.push(Diagnostic::error(entry.key, message).help(suggestion(name, &self.asked)));
        }
    }
}
