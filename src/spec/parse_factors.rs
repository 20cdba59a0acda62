//! `[factors]`, `[[exclude]]` and the baseline: values read by the table of known factors.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::diagnostic::Diagnostic;
use super::factors::{self, Kind, Known};
use super::instruments;
use super::placeholder;
use super::read::{Entry, Section, Sink, Span, nearest, suggestion};
use super::space::member_of;
use super::value::Value;
use super::{Exclusion, Factor};

const CUSTOM_HELP: &str = "a factor of your own with such a name goes under `[factors.custom]`";

/// The factors with their places in the file.
pub(super) struct Table {
    pub(super) entries: Vec<Read>,
    /// `[factors]` itself; empty when there is none.
    pub(super) span: Span,
    /// Factors with mistakes, about which nothing more is worth saying.
    broken: Vec<String>,
}

/// One factor as read.
pub(super) struct Read {
    pub(super) name: String,
    pub(super) key: Span,
    pub(super) known: Option<&'static Known>,
    pub(super) values: Vec<(Value, Span)>,
}

impl Table {
    pub(super) fn factors(&self) -> Vec<Factor> {
        let values = |read: &Read| read.values.iter().map(|(value, _)| value.clone()).collect();
        self.entries.iter().map(|read| Factor { name: read.name.clone(), values: values(read) }).collect()
    }

    /// Has the factor of that name a mistake? Then what refers to it is not a mistake of its own.
    pub(super) fn is_broken(&self, name: &str) -> bool {
        self.broken.iter().any(|broken| broken == name.split_once('.').map_or(name, |(group, _)| group))
    }

    /// Is it certain which testbeds are meant?
    pub(super) fn testbeds_are_known(&self) -> bool {
        !self.is_broken("testbed")
    }

    /// Testbeds of the spec, the default one when it names none.
    pub(super) fn testbeds(&self) -> Vec<&str> {
        let named = self.entries.iter().find(|read| read.name == "testbed");
        let names = named.map(|read| {
            let text = |(value, _): &'_ (Value, Span)| match value {
                Value::Text(name) => factors::testbed(name).map(|t| t.name),
                _ => None,
            };
            read.values.iter().filter_map(text).collect()
        });
        names.unwrap_or_else(|| vec![factors::DEFAULT_TESTBED])
    }

    /// Reads a factor and keeps what is left of it.
    fn add(&mut self, name: &str, known: Option<&'static Known>, entry: &Entry<'_>, sink: &mut Sink<'_>) {
        let mistakes = sink.found.len();
        self.entries.extend(read_factor(name, known, entry, sink));
        if sink.found.len() > mistakes {
            self.broken.push(name.to_owned());
        }
    }

    /// The factor that `name` is, or the group it is a member of.
    pub(super) fn find(&self, name: &str) -> Option<&Read> {
        let has_member = |read: &&Read| {
            name.split_once('.').is_none_or(|(group, _)| group == read.name)
                && read.values.iter().any(|(value, _)| member_of(value, name).is_some())
        };
        self.entries.iter().find(|read| read.name == name).or_else(|| self.entries.iter().find(has_member))
    }

    /// Names of factors and of members of groups.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.entries.iter().map(|read| read.name.as_str()).collect();
        for read in &self.entries {
            if let Some((Value::Group(members), _)) = read.values.first() {
                names.extend(members.keys().map(String::as_str));
            }
        }
        names
    }
}

/// Reads `[factors]`.
pub(super) fn read(entry: Option<Entry<'_>>, sink: &mut Sink<'_>) -> Table {
    let mut table = Table { entries: Vec::new(), span: 0..0, broken: Vec::new() };
    let Some(entry) = entry else { return table };
    table.span = entry.key.clone();
    let Some(mut section) = entry.section(sink) else { return table };
    let custom = section.take("custom");
    for (name, entry) in section.rest() {
        let known = factors::known(name);
        if known.is_none() && !may_be_custom(name, &entry, sink) {
            table.broken.push(name.to_owned());
            table.broken.extend(factors::misspelt(name).map(str::to_owned));
            continue;
        }
        table.add(name, known, &entry, sink);
    }
    if let Some(mut section) = custom.and_then(|e| e.section(sink)) {
        for (name, entry) in section.rest() {
            read_custom(name, &entry, &mut table, sink);
        }
        // The section's own header follows the other factors, wherever it stands.
        table.entries.sort_by_key(|read| read.key.start);
    }
    check_names(&table, sink);
    table
}

/// Under `[factors]` a name that looks like a misspelt known one is taken for that.
fn may_be_custom(name: &str, entry: &Entry<'_>, sink: &mut Sink<'_>) -> bool {
    match factors::misspelt(name) {
        Some(known) => {
            let message = format!("unknown factor `{name}`");
            let help = format!("did you mean `{known}`? ({CUSTOM_HELP})");
            sink.push(Diagnostic::error(entry.key.clone(), message).help(help));
            false
        }
        None => is_usable_name(name, entry, sink),
    }
}

fn read_custom(name: &str, entry: &Entry<'_>, table: &mut Table, sink: &mut Sink<'_>) {
    if factors::known(name).is_some() {
        let message = format!("`{name}` is not a factor of your own: vptest knows it");
        sink.push(
            Diagnostic::error(entry.key.clone(), message).help("put it under `[factors]`, or choose another name"),
        );
    } else if let Some(twin) = table.entries.iter().find(|read| read.name == name) {
        let message = format!("factor `{name}` is set twice");
        sink.push(Diagnostic::error(entry.key.clone(), message).related(twin.key.clone(), "first here"));
    } else if is_usable_name(name, entry, sink) {
        table.add(name, None, entry, sink);
    }
}

fn is_usable_name(name: &str, entry: &Entry<'_>, sink: &mut Sink<'_>) -> bool {
    if !factors::is_identifier(name) {
        let message = format!("`{name}` cannot name a factor");
        let help = "a name has letters, digits and `_`, and does not begin with a digit";
        sink.push(Diagnostic::error(entry.key.clone(), message).help(help));
        return false;
    }
    if placeholder::is_builtin(name) {
        let message = format!("`{name}` cannot name a factor: `{{{name}}}` already has a meaning in arguments");
        sink.push(Diagnostic::error(entry.key.clone(), message).help("choose another name"));
        return false;
    }
    if RESERVED.contains(&name) {
        let message = format!("`{name}` cannot name a factor: it is a column of every table of iterations");
        sink.push(Diagnostic::error(entry.key.clone(), message).help("choose another name"));
        return false;
    }
    true
}

/// Columns that `vptest sweep --format csv` puts before the factors.
pub(super) const RESERVED: &[&str] = &["number", "identity", "tuple", "repetition", "block"];

/// A factor; `None` when no value is left of it.
fn read_factor(name: &str, known: Option<&'static Known>, entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Read> {
    let values = read_values(known.map(|k| k.kind), entry, sink);
    let empty_list = entry.value.as_array().is_some_and(|items| items.is_empty());
    if values.is_empty() && empty_list {
        let accepted = known.map(|k| format!("accepted: {}", k.kind.accepted()));
        let help = accepted.unwrap_or_else(|| "give it at least one value".to_owned());
        let message = format!("factor `{name}` has no values");
        sink.push(Diagnostic::error(entry.span.clone(), message).label("empty").help(help));
    }
    let read = Read { name: name.to_owned(), key: entry.key.clone(), known, values: distinct(name, values, sink) };
    if known.is_none() {
        check_groups(&read, sink);
    }
    (!read.values.is_empty()).then_some(read)
}

/// Values without those whose text stands there already.
fn distinct(name: &str, values: Vec<(Value, Span)>, sink: &mut Sink<'_>) -> Vec<(Value, Span)> {
    let mut seen: BTreeMap<String, Span> = BTreeMap::new();
    let mut kept = Vec::new();
    for (value, span) in values {
        let text = value.to_string();
        match seen.get(&text) {
            Some(first) => {
                let message = format!("factor `{name}` has the value `{text}` twice");
                let error = Diagnostic::error(span, message).label("again here");
                sink.push(error.related(first.clone(), "first here").help("each value may stand once"));
            }
            None => {
                seen.insert(text, span.clone());
                kept.push((value, span));
            }
        }
    }
    kept
}

/// All values of a user-defined factor are groups with the same members, or none is.
fn check_groups(read: &Read, sink: &mut Sink<'_>) {
    let members = |value: &Value| match value {
        Value::Group(members) => Some(members.keys().cloned().collect::<Vec<_>>()),
        _ => None,
    };
    let Some((first, first_span)) = read.values.first() else { return };
    for (value, span) in &read.values[1..] {
        if members(value) != members(first) {
            let message = format!("the values of factor `{}` differ in their members", read.name);
            let error = Diagnostic::error(span.clone(), message).related(first_span.clone(), "the first value");
            sink.push(error.help("all values of a factor are plain, or all are groups with the same members"));
        }
    }
}

/// No member may have the name of a factor or of another group's member: `{name}` would be ambiguous.
fn check_names(table: &Table, sink: &mut Sink<'_>) {
    let mut seen: BTreeMap<&str, &Read> = table.entries.iter().map(|read| (read.name.as_str(), read)).collect();
    for read in &table.entries {
        let Some((Value::Group(members), _)) = read.values.first() else { continue };
        for member in members.keys() {
            if let Some(other) = seen.insert(member, read) {
                let message = format!("`{member}` is set by both `{}` and `{}`", other.name, read.name);
                let error = Diagnostic::error(read.key.clone(), message).label(format!("has a member `{member}`"));
                sink.push(error.related(other.key.clone(), "here too").help("leave one of them out"));
            }
        }
    }
}

/// All values of a factor; wrong ones are recorded and left out. `None` is a factor of the user's own.
fn read_values(kind: Option<Kind>, entry: &Entry<'_>, sink: &mut Sink<'_>) -> Vec<(Value, Span)> {
    match kind {
        Some(Kind::Hops) => return read_hops(entry, sink),
        Some(Kind::Instruments) => return instruments::read(entry, sink),
        _ => {}
    }
    let read = |item: &Entry<'_>, sink: &mut Sink<'_>| match kind {
        Some(kind) => read_known(kind, item, sink),
        None => read_own(item, sink),
    };
    entry.one_or_more().iter().filter_map(|item| Some((read(item, sink)?, item.span.clone()))).collect()
}

fn read_known(kind: Kind, entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Value> {
    let value = match (kind, entry.value) {
        (Kind::Integer(min, max), _) => return entry.integer(sink, min, max).map(Value::Integer),
        (Kind::Switch, _) => return entry.switch(sink).map(Value::Switch),
        (Kind::Request, DeValue::Table(_)) => return read_request(entry, sink),
        (Kind::Rate, DeValue::String(text)) if text != "none" => {
            return entry.quantity(sink, &kind.accepted()).map(Value::Rate);
        }
        (_, DeValue::String(text)) => kind.from_text(text),
        _ => Err(kind.accepted()),
    };
    match value {
        Ok(value) => Some(value),
        Err(accepted) => {
            let names: Vec<&str> = match kind {
                Kind::Testbed => factors::TESTBEDS.iter().map(|t| t.name).collect(),
                Kind::Choice(words) => words.to_vec(),
                _ => Vec::new(),
            };
            let near = entry.value.as_str().and_then(|text| nearest(text, names));
            entry.refuse_with_help(sink, accepted, near.map(|n| format!("did you mean `\"{n}\"`?")));
            None
        }
    }
}

/// A list of names is one value; a list of such lists is several.
fn read_hops(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Vec<(Value, Span)> {
    let Some(items) = entry.elements() else {
        entry.refuse(sink, Kind::Hops.accepted());
        return Vec::new();
    };
    let several = !items.is_empty() && items.iter().all(|item| item.value.is_array());
    let lists = if several { items } else { vec![entry.clone()] };
    lists.iter().filter_map(|list| Some((read_path(list, sink)?, list.span.clone()))).collect()
}

/// More routers than any path has; their addresses come from one octet.
const LONGEST_PATH: usize = 64;

fn read_path(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Value> {
    let mut names: Vec<String> = Vec::new();
    let items = entry.elements()?;
    if items.len() > LONGEST_PATH {
        entry.refuse(sink, format_args!("at most {LONGEST_PATH} routers"));
        return None;
    }
    for item in &items {
        match item.value.as_str() {
            Some(name) if factors::is_word(name) && name != "direct" && !names.iter().any(|n| n == name) => {
                names.push(name.to_owned());
            }
            Some(name) if names.iter().any(|n| n == name) => {
                let message = format!("router `{name}` is passed twice");
                sink.push(Diagnostic::error(item.span.clone(), message).help("each router of a path has its own name"));
                return None;
            }
            _ => {
                item.refuse(sink, "the name of a router: letters, digits, `-`, `_` and `.`");
                return None;
            }
        }
    }
    Some(Value::List(names))
}

fn read_request(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Value> {
    let mut section = entry.section(sink)?;
    let mut members = BTreeMap::new();
    let mut wrong = false;
    for (name, default) in [("url", Value::Text("/".to_owned())), ("count", Value::Integer(1000))] {
        let kind = factors::known(name).map(|known| known.kind).expect("url and count are known factors");
        let value = match section.take(name) {
            Some(entry) => read_known(kind, &entry, sink),
            None => Some(default),
        };
        wrong |= value.is_none();
        members.extend(value.map(|value| (name.to_owned(), value)));
    }
    section.finish(sink);
    (!wrong).then_some(Value::Group(members))
}

/// A value of a user-defined factor.
fn read_own(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Value> {
    let DeValue::Table(_) = entry.value else { return read_scalar(entry, sink) };
    let mut members = BTreeMap::new();
    for (name, entry) in entry.section(sink)?.rest() {
        if is_usable_name(name, &entry, sink) {
            members.extend(read_scalar(&entry, sink).map(|value| (name.to_owned(), value)));
        }
    }
    if members.is_empty() {
        entry.refuse(sink, "at least one member");
        return None;
    }
    Some(Value::Group(members))
}

/// A string, whole number or boolean; a decimal number is kept as its shortest text.
fn read_scalar(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Value> {
    match entry.value {
        DeValue::Boolean(flag) => Some(Value::Bool(*flag)),
        DeValue::Integer(_) => entry.integer(sink, i64::MIN, i64::MAX).map(Value::Integer),
        DeValue::String(text) if text.trim().is_empty() || text.chars().any(char::is_control) => {
            entry.refuse(sink, "a text that is not empty and has no control characters");
            None
        }
        DeValue::String(text) => Some(Value::Text(text.to_string())),
        DeValue::Float(digits) => match digits.as_str().parse::<f64>() {
            Ok(number) if number.is_finite() => Some(Value::Text(number.to_string())),
            _ => {
                entry.refuse(sink, "a finite number");
                None
            }
        },
        _ => {
            entry.refuse(sink, "a string, a number or a boolean");
            None
        }
    }
}

/// Reads `[[exclude]]`; wrong conditions are recorded and left out.
pub(super) fn read_exclusions(entry: Option<Entry<'_>>, table: &Table, sink: &mut Sink<'_>) -> Vec<(Exclusion, Span)> {
    let sections = entry.map(|e| e.sections(sink)).unwrap_or_default();
    let mut exclusions = Vec::new();
    for mut section in sections {
        let span = section.span.clone();
        let entries = section.rest();
        if entries.is_empty() {
            let message = "an exclusion without conditions would leave out everything";
            sink.push(Diagnostic::error(span.clone(), message).help("name factors with values: pinning = true"));
        }
        let all = entries.len();
        let conditions: Vec<_> =
            entries.iter().filter_map(|(name, entry)| read_condition(name, entry, table, sink)).collect();
        if conditions.len() == all && all > 0 {
            exclusions.push((Exclusion { conditions }, span));
        }
    }
    exclusions
}

/// A factor or member with values that the sweep has.
fn read_condition(name: &str, entry: &Entry<'_>, table: &Table, sink: &mut Sink<'_>) -> Option<(String, Vec<Value>)> {
    let Some(factor) = table.find(name) else {
        if table.is_broken(name) {
            return None;
        }
        let names = table.names();
        let message = format!("`{}` names no factor of this sweep", entry.path);
        let help = if names.is_empty() { "the sweep has no factors".to_owned() } else { suggestion(name, &names) };
        sink.push(Diagnostic::error(entry.key.clone(), message).help(help));
        return None;
    };
    let is_member = factor.name != name;
    let member = name.split_once('.').map_or(name, |(_, member)| member);
    let kind = match (is_member, factor.known) {
        (false, known) => known.map(|k| k.kind),
        (true, Some(_)) => factors::known(member).map(|k| k.kind),
        (true, None) => None,
    };
    let there = |value: &Value| {
        factor.values.iter().any(|(v, _)| if is_member { member_of(v, name) == Some(value) } else { v == value })
    };
    let values = read_values(kind, entry, sink);
    let mut good = !values.is_empty();
    for (value, span) in &values {
        if !there(value) && !table.is_broken(&factor.name) {
            good = false;
            report_absent(name, value, span.clone(), factor, is_member, sink);
        }
    }
    good.then(|| (name.to_owned(), values.into_iter().map(|(value, _)| value).collect()))
}

fn report_absent(name: &str, value: &Value, span: Span, factor: &Read, is_member: bool, sink: &mut Sink<'_>) {
    let mut texts: Vec<String> = Vec::new();
    for (v, _) in &factor.values {
        let text = if is_member { member_of(v, name).map(ToString::to_string) } else { Some(v.to_string()) };
        texts.extend(text.filter(|text| !texts.contains(text)));
    }
    let list = texts.iter().take(20).map(|t| format!("`{t}`")).collect::<Vec<_>>().join(", ");
    let more = if texts.len() > 20 { ", …" } else { "" };
    let message = format!("`{name}` never has the value `{value}` in this sweep");
    let error = Diagnostic::error(span, message).label("not among its values");
    sink.push(error.related(factor.key.clone(), "its values").help(format!("it has: {list}{more}")));
}

/// Reads `analysis.baseline`: exactly one factor with one value of the sweep.
pub(super) fn read_baseline(entry: &Entry<'_>, table: &Table, sink: &mut Sink<'_>) -> Option<(String, Value)> {
    let mut section: Section<'_> = entry.section(sink)?;
    let entries = section.rest();
    let [(name, value)] = entries.as_slice() else {
        entry.refuse(sink, "exactly one factor with its value: { testbed = \"netns\" }");
        return None;
    };
    read_choice(name, value, table, sink)
}

/// A factor or member with one of the values that the sweep has.
pub(super) fn read_choice(
    name: &str,
    entry: &Entry<'_>,
    table: &Table,
    sink: &mut Sink<'_>,
) -> Option<(String, Value)> {
    let (name, values) = read_condition(name, entry, table, sink)?;
    match <[Value; 1]>::try_from(values) {
        Ok([value]) => Some((name, value)),
        Err(_) => {
            entry.refuse(sink, "one value");
            None
        }
    }
}
