//! One comparison into the set of values of which it holds.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Range;

use super::{FilterError, Levels, Node};
use crate::spec::Value;
use crate::spec::factors::{self, Kind};

/// A comparison as written.
pub(super) struct Comparison<'a> {
    pub(super) text: &'a str,
    pub(super) name: Range<usize>,
    pub(super) sign: Range<usize>,
    pub(super) value: String,
    pub(super) value_at: Range<usize>,
}

/// What values are compared by.
#[derive(Debug, Clone, PartialEq)]
enum Key {
    /// Has an order.
    Whole(i128),
    /// Has one too.
    Real(f64),
    /// Has none.
    Text(String),
}

impl Key {
    fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => Some(a.cmp(b)),
            (Self::Real(a), Self::Real(b)) => a.partial_cmp(b),
            _ => None,
        }
    }
}

pub(super) fn compile(comparison: &Comparison<'_>, levels: &Levels) -> Result<Node, FilterError> {
    let name = resolve(comparison, levels)?;
    let values = &levels[&name];
    let kind = kind_of(&name);
    let wanted = match kind {
        Some(kind) => key(kind, &comparison.value).map_err(|accepted| {
            let problem = format!("`{}` is no value of {name}: {accepted}", comparison.value);
            comparison.wrong(&comparison.value_at, problem)
        })?,
        None => own(&comparison.value, values),
    };
    let of = |value: &String| match kind {
        Some(kind) => key(kind, value).unwrap_or_else(|_| Key::Text(value.clone())),
        None => own(value, values),
    };
    let sign = &comparison.text[comparison.sign.clone()];
    let is_equality = ["=", "==", "!="].contains(&sign);
    if !is_equality && matches!(wanted, Key::Text(_)) {
        let problem = match kind {
            Some(_) => format!("values of {name} have no order: only = and != can be asked"),
            None => format!("`{}` or a value of {name} is no number: only = and != can be asked", comparison.value),
        };
        return Err(comparison.wrong(&comparison.sign, problem));
    }
    if is_equality && !values.iter().any(|value| of(value) == wanted) {
        let known = values.iter().cloned().collect();
        let problem = format!("no iteration has {name} = {}", comparison.value);
        let error = comparison.wrong(&comparison.value_at, problem);
        return Err(FilterError { known: Some((comparison.value.clone(), known)), ..error });
    }
    let holds = |value: &&String| {
        let value = of(value);
        match sign {
            "=" | "==" => value == wanted,
            "!=" => value != wanted,
            "<" => value.order(&wanted) == Some(Ordering::Less),
            "<=" => value.order(&wanted).is_some_and(Ordering::is_le),
            ">" => value.order(&wanted) == Some(Ordering::Greater),
            _ => value.order(&wanted).is_some_and(Ordering::is_ge),
        }
    };
    Ok(Node::Has(name, values.iter().filter(holds).cloned().collect::<BTreeSet<_>>()))
}

impl Comparison<'_> {
    fn wrong(&self, at: &Range<usize>, problem: String) -> FilterError {
        FilterError { text: self.text.to_owned(), at: at.clone(), problem, known: None }
    }
}

/// The factor of that name, or the only group member.
fn resolve(comparison: &Comparison<'_>, levels: &Levels) -> Result<String, FilterError> {
    let asked = &comparison.text[comparison.name.clone()];
    if levels.contains_key(asked) {
        return Ok(asked.to_owned());
    }
    let is_member = |name: &&String| name.split_once('.').is_some_and(|(_, member)| member == asked);
    let choices: Vec<&String> = levels.keys().filter(is_member).collect();
    match choices.as_slice() {
        [only] => Ok((*only).clone()),
        [] => {
            let known = Some((asked.to_owned(), levels.keys().cloned().collect()));
            let error = comparison.wrong(&comparison.name, format!("no iteration has a factor `{asked}`"));
            Err(FilterError { known, ..error })
        }
        several => {
            let names = several.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            Err(comparison.wrong(&comparison.name, format!("factor `{asked}` is ambiguous; one of: {names}")))
        }
    }
}

/// The type of a factor that vptest knows, itself or as a member; groups have no form on a command line but the canonical one.
fn kind_of(name: &str) -> Option<Kind> {
    let member = name.split_once('.').map_or(name, |(_, member)| member);
    factors::known(member).map(|known| known.kind).filter(|kind| *kind != Kind::Request)
}

/// The order in which values of a factor are shown: by size where the factor has one (`10M` before `1G`, `none` above every rate),
/// and numbers; then other text by letters.
pub(in crate::analysis) fn order(name: &str, a: &str, b: &str) -> Ordering {
    let kind = kind_of(name);
    let known = |text: &str| match key(kind?, text) {
        Ok(Key::Whole(n)) => Some(n),
        _ => None,
    };
    // As written when they are the same size, so that equal means the same.
    match (known(a), known(b)) {
        (Some(x), Some(y)) => x.cmp(&y).then_with(|| a.cmp(b)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => order_of_texts(a, b),
    }
}

/// Numbers by size before other text by letters.
fn order_of_texts(a: &str, b: &str) -> Ordering {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(x), Ok(y)) => x.total_cmp(&y).then_with(|| a.cmp(b)),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => a.cmp(b),
    }
}

fn key(kind: Kind, text: &str) -> Result<Key, String> {
    Ok(match (kind, kind.from_text(text)?) {
        (_, Value::Integer(n)) => Key::Whole(i128::from(n)),
        (_, Value::Rate(rate)) => Key::Whole(i128::from(rate.bits_per_second())),
        (_, Value::Size(size)) => Key::Whole(i128::from(size.0)),
        // A link without a limit.
        (Kind::Rate, Value::None) => Key::Whole(i128::MAX),
        (_, other) => Key::Text(other.to_string()),
    })
}

/// A value of a factor of the user's own: a number when all of them are and it is one itself.
fn own(text: &str, values: &BTreeSet<String>) -> Key {
    let number = |text: &str| text.parse::<f64>().ok().filter(|x| x.is_finite());
    match number(text) {
        Some(x) if values.iter().all(|value| number(value).is_some()) => Key::Real(x),
        _ => Key::Text(text.to_owned()),
    }
}
