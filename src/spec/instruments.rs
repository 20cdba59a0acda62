//! The factor `instrument`: which instruments run in an iteration.
//!
//! What each of them does is said once, in `[capture]` and `[instrument]`; the factor chooses among those.

use std::fmt;
use std::str::FromStr;

use toml::de::DeValue;

use super::Spec;
use super::diagnostic::Diagnostic;
use super::factors::Kind;
use super::parse_factors::Table;
use super::read::{Entry, Sink, Span, suggestion};
use super::value::Value;

/// What can observe an iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Instrument {
    /// Packets and what is computed of them: `[capture]`.
    Capture,
    /// System calls: `[instrument] syscalls`.
    Syscalls,
    /// Counters of hosts and nodes: `[instrument] counters`.
    Counters,
    /// Delay and loss of the path: `[instrument] probe`.
    Probe,
}

impl Instrument {
    /// All of them, in the order in which they are written.
    pub const ALL: [Self; 4] = [Self::Capture, Self::Syscalls, Self::Counters, Self::Probe];

    /// Its name in specs and results.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Syscalls => "syscalls",
            Self::Counters => "counters",
            Self::Probe => "probe",
        }
    }

    /// Does the spec ask for it? Only then can the factor name it.
    pub const fn is_configured(self, spec: &Spec) -> bool {
        match self {
            Self::Capture => !spec.capture.vantage.is_empty(),
            Self::Syscalls => spec.instrument.syscalls.is_some(),
            Self::Counters => spec.instrument.counters.is_some(),
            Self::Probe => spec.instrument.probe.is_some(),
        }
    }

    /// How a spec asks for it.
    const fn how(self) -> &'static str {
        match self {
            Self::Capture => "[capture] vantage = [\"guest\"]",
            Self::Syscalls => "[instrument] syscalls = true",
            Self::Counters => "[instrument] counters = true",
            Self::Probe => "[instrument] probe = true",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Instrument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Instrument {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|instrument| instrument.as_str() == text).ok_or(())
    }
}

/// A set of instruments that may run. Whether one does also depends on what the spec asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instruments(u8);

impl Instruments {
    /// None.
    pub const NONE: Self = Self(0);
    /// Every one that the spec asks for.
    pub const ALL: Self = Self(u8::MAX);

    /// Is it among them?
    pub const fn has(self, instrument: Instrument) -> bool {
        self.0 & instrument.bit() != 0
    }

    /// With this one, too.
    #[must_use]
    pub const fn with(self, instrument: Instrument) -> Self {
        Self(self.0 | instrument.bit())
    }

    /// No instrument at all?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The instruments in their order.
    pub fn iter(self) -> impl Iterator<Item = Instrument> {
        Instrument::ALL.into_iter().filter(move |&instrument| self.has(instrument))
    }

    /// The value of the factor that a list of names is: an empty list is the same as `false`.
    pub const fn into_value(self) -> Value {
        if self.is_empty() { Value::Switch(false) } else { Value::Instruments(self) }
    }

    /// What a value of the factor means.
    pub const fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Instruments(instruments) => Some(*instruments),
            Value::Switch(true) => Some(Self::ALL),
            Value::Switch(false) => Some(Self::NONE),
            _ => None,
        }
    }
}

impl FromIterator<Instrument> for Instruments {
    fn from_iter<I: IntoIterator<Item = Instrument>>(instruments: I) -> Self {
        instruments.into_iter().fold(Self::NONE, Self::with)
    }
}

/// `capture+syscalls`.
impl fmt::Display for Instruments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Instrument::as_str).collect();
        f.write_str(&names.join("+"))
    }
}

/// `on`, `off`, or the canonical text of a list.
impl FromStr for Instruments {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.split('+').map(str::parse::<Instrument>).collect()
    }
}

/// What a spec may say, for messages.
pub(super) const ACCEPTED: &str =
    "`true`, `false`, a list of instruments such as `[\"capture\", \"syscalls\"]`, or a list of such values";

/// Reads all values of the factor: a list of names is one value; a list in which a switch or a list stands is several.
pub(super) fn read(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Vec<(Value, Span)> {
    let several = entry.elements().filter(|items| items.iter().any(is_value));
    let values = several.unwrap_or_else(|| vec![entry.clone()]);
    values.iter().filter_map(|value| Some((read_value(value, sink)?, value.span.clone()))).collect()
}

/// Is it a value by itself, and not the name of an instrument?
fn is_value(entry: &Entry<'_>) -> bool {
    matches!(entry.value, DeValue::Array(_) | DeValue::Boolean(_)) || matches!(entry.value.as_str(), Some("on" | "off"))
}

fn read_value(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Value> {
    let Some(names) = entry.elements() else {
        let name = entry.value.as_str().filter(|text| text.parse::<Instrument>().is_ok());
        return match name {
            Some(name) => {
                let help = format!("a list with one instrument is written `[\"{name}\"]`");
                entry.refuse_with_help(sink, ACCEPTED, Some(help));
                None
            }
            None if is_value(entry) => entry.switch(sink).map(Value::Switch),
            None => {
                entry.refuse(sink, ACCEPTED);
                None
            }
        };
    };
    read_names(&names, sink).map(Instruments::into_value)
}

/// The instruments of one list, each once.
fn read_names(names: &[Entry<'_>], sink: &mut Sink<'_>) -> Option<Instruments> {
    let mut set = Instruments::NONE;
    for name in names {
        let instrument = match name.value.as_str().map(|text| (text, text.parse::<Instrument>())) {
            Some((_, Ok(instrument))) => instrument,
            Some((text, Err(()))) => {
                let all: Vec<&str> = Instrument::ALL.into_iter().map(Instrument::as_str).collect();
                name.refuse_with_help(sink, "the name of an instrument", Some(suggestion(text, &all)));
                return None;
            }
            None => {
                name.refuse(sink, "the name of an instrument");
                return None;
            }
        };
        if set.has(instrument) {
            let message = format!("instrument `{instrument}` is named twice");
            sink.push(Diagnostic::error(name.span.clone(), message).help("each instrument runs once"));
            return None;
        }
        set = set.with(instrument);
    }
    Some(set)
}

/// An instrument that the spec does not ask for cannot be named: nothing says what it should do.
pub(super) fn check(spec: &Spec, table: &Table, sink: &mut Sink<'_>) {
    let Some(read) = table.entries.iter().find(|read| read.known.is_some_and(|k| k.kind == Kind::Instruments)) else {
        return;
    };
    let mut missing = Instruments::NONE;
    for (value, span) in &read.values {
        let Value::Instruments(named) = value else { continue };
        for instrument in named.iter().filter(|instrument| !instrument.is_configured(spec)) {
            if missing.has(instrument) {
                continue;
            }
            missing = missing.with(instrument);
            let message = format!("`instrument` names `{instrument}`, which the spec does not ask for");
            let help = format!("say what it does: `{}`, or leave it out here", instrument.how());
            sink.push(Diagnostic::error(span.clone(), message).label("named here").help(help));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_into_it() {
        let some: Instruments = [Instrument::Syscalls, Instrument::Capture].into_iter().collect();
        for instrument in Instrument::ALL {
            assert!(Instruments::ALL.has(instrument) && !Instruments::NONE.has(instrument));
            assert_eq!(some.has(instrument), matches!(instrument, Instrument::Capture | Instrument::Syscalls));
            assert_eq!(instrument.as_str().parse(), Ok(instrument));
        }
        assert_eq!(some.to_string(), "capture+syscalls");
        assert_eq!("syscalls+capture".parse(), Ok(some));
        assert_eq!("capture+".parse::<Instruments>(), Err(()));
    }

    #[test]
    fn values_mean_sets() {
        let capture = Instruments::NONE.with(Instrument::Capture);
        assert_eq!(Instruments::of(&capture.into_value()), Some(capture));
        assert_eq!(Instruments::NONE.into_value(), Value::Switch(false));
        assert_eq!(Instruments::of(&Value::Switch(true)), Some(Instruments::ALL));
        assert_eq!(Instruments::of(&Value::Integer(1)), None);
    }
}
