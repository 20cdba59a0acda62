//! `[verify] linktest`: how far the links are tested before the first iteration of a tuple.

use std::time::Duration;

use toml::de::DeValue;

use super::read::{Entry, Section, Sink};
use crate::units::{Percent, parse_duration};

/// How far links are tested; each level has those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkLevel {
    /// The server answers the client.
    Connectivity = 1,
    /// Packets pass the named hops, there and back.
    Routing = 2,
    /// Loss and delay.
    Loss = 3,
    /// The link's rate, in both directions.
    Bandwidth = 4,
}

impl LinkLevel {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [Self::Connectivity, Self::Routing, Self::Loss, Self::Bandwidth];

    /// Its name in specs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connectivity => "connectivity",
            Self::Routing => "routing",
            Self::Loss => "loss",
            Self::Bandwidth => "bandwidth",
        }
    }

    /// The level of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == name)
    }
}

/// `[verify.linktest]`; a threshold that is `None` is not looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkTestSpec {
    /// How far.
    pub level: LinkLevel,
    /// Share of probes without an answer above which the link is not the one asked for. Default 1 %.
    pub loss: Option<Percent>,
    /// Median round-trip time above which it is not. Default none.
    pub delay: Option<Duration>,
    /// How far the measured rate may be from the factor `rate`: at most 40 %. Default 10 %.
    pub bandwidth: Option<Percent>,
}

impl LinkTestSpec {
    /// The test of that level with the defaults.
    pub fn new(level: LinkLevel) -> Self {
        Self { level, loss: Some(Percent::new(1.0)), delay: None, bandwidth: Some(Percent::new(10.0)) }
    }
}

/// The test sends half as much again as the link should carry; further off than this, too fast could not be told.
const WIDEST_PERCENT: f64 = 40.0;

const ACCEPTED: &str =
    "`\"connectivity\"`, `\"routing\"`, `\"loss\"`, `\"bandwidth\"`, 1 to 4, `\"off\"`, or a table with `level`";

/// A level, `"off"`, or a table.
pub(super) fn read(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<LinkTestSpec> {
    if !matches!(entry.value, DeValue::Table(_)) {
        return read_level(entry, sink).map(LinkTestSpec::new);
    }
    let mut section = entry.section(sink)?;
    let level = section.need("level", sink, "how far: level = \"bandwidth\"").and_then(|e| read_level(&e, sink));
    let mut spec = LinkTestSpec::new(level.unwrap_or(LinkLevel::Bandwidth));
    read_thresholds(&mut section, &mut spec, sink);
    section.finish(sink);
    level.map(|_| spec)
}

fn read_level(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<LinkLevel> {
    if entry.value.as_str() == Some("off") || matches!(entry.value, DeValue::Boolean(false)) {
        return None;
    }
    let number = match entry.value {
        DeValue::Integer(digits) => usize::from_str_radix(digits.as_str(), digits.radix()).ok(),
        _ => None,
    };
    let by_number = number.and_then(|n| LinkLevel::ALL.get(n.checked_sub(1)?)).copied();
    let level = by_number.or_else(|| LinkLevel::from_name(entry.value.as_str()?));
    if level.is_none() {
        entry.refuse(sink, ACCEPTED);
    }
    level
}

fn read_thresholds(section: &mut Section<'_>, spec: &mut LinkTestSpec, sink: &mut Sink<'_>) {
    let off = |entry: &Entry<'_>| entry.value.as_str() == Some("off");
    for (name, threshold) in [("loss", &mut spec.loss), ("bandwidth", &mut spec.bandwidth)] {
        if let Some(entry) = section.take(name) {
            *threshold = if off(&entry) { None } else { entry.quantity(sink, "\"5 %\", \"0.1 %\" or \"off\"") };
            let wide = threshold.is_some_and(|limit: Percent| limit.fraction() * 100.0 > WIDEST_PERCENT);
            if name == "bandwidth" && wide {
                entry.refuse(sink, format_args!("at most {WIDEST_PERCENT} %"));
            }
        }
    }
    if let Some(entry) = section.take("delay") {
        spec.delay = if off(&entry) { None } else { entry.quantity_by(sink, "\"10 ms\" or \"off\"", parse_duration) };
    }
}
