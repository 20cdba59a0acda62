//! Checks across sections: what contradicts, matches nothing, is never used or is too much.

use std::time::Duration;

use super::diagnostic::Diagnostic;
use super::parse_factors::{Read, Table};
use super::parse_workload::{Arguments, placeholder_help};
use super::placeholder::{self, Piece};
use super::read::{Sink, Span};
use super::space::Space;
use super::{Spec, SwitchSpec, User, Value, WorkloadSpec, factors, instruments};
use crate::units::format_duration;

/// More iterations than this are refused.
pub const MOST_ITERATIONS: u64 = 10_000_000;

/// Where in the file the parts of a spec stand.
pub(super) struct Places<'t> {
    pub(super) factors: &'t Table,
    /// One for each exclusion of the spec.
    pub(super) exclusions: Vec<Span>,
    /// `None` when the workload has errors.
    pub(super) arguments: Option<Arguments>,
    /// The key `workload`.
    pub(super) workload: Option<Span>,
    /// The key `capture`.
    pub(super) capture: Option<Span>,
    /// The tuple of `[sentinel]`.
    pub(super) sentinel: Option<Span>,
}

pub(super) fn check(spec: &Spec, places: &Places<'_>, sink: &mut Sink<'_>) {
    relevance(places.factors, sink);
    vantages(spec, places, sink);
    instruments::check(spec, places.factors, sink);
    if let Some(arguments) = &places.arguments {
        let used = placeholders(arguments, places.factors, sink);
        uses(&spec.workload, &used, places.factors, sink);
        enough_requests(spec, places.factors, sink);
        enough_time(spec, places, sink);
    }
    switch_ports(spec, places, sink);
    let space = Space::new(&spec.factors, &spec.exclude);
    for (index, span) in places.exclusions.iter().enumerate() {
        if !space.can_match(index) {
            let message = "this exclusion matches nothing";
            let label = "no testbed has all these factors";
            sink.push(Diagnostic::warning(span.clone(), message).label(label));
        }
    }
    if size(spec, &space, places, sink) {
        something_left(&space, places, sink);
        sentinel_left(spec, &space, places, sink);
    }
}

/// Combinations that no exclusion leaves out.
fn left(space: &Space) -> u64 {
    let (mut walk, mut left) = (space.walk(), 0);
    while let Some(combination) = walk.next() {
        left += u64::from(!combination.excluded);
    }
    left
}

/// The tuple of the sentinels must be one of the sweep.
fn sentinel_left(spec: &Spec, space: &Space, places: &Places<'_>, sink: &mut Sink<'_>) {
    let (Some(sentinel), Some(span)) = (&spec.sentinel, &places.sentinel) else { return };
    let chosen = sentinel.tuple.iter().map(|(name, value)| (name.clone(), vec![value.clone()])).collect();
    // Of the tuples that are left, those that such an exclusion would leave out too.
    let mut exclude = spec.exclude.clone();
    exclude.push(super::Exclusion { conditions: chosen });
    let without = Space::new(&spec.factors, &exclude);
    if left(space) == left(&without) {
        let message = "no tuple of this sweep has all of these values";
        sink.push(
            Diagnostic::error(span.clone(), message).help("an exclusion leaves it out, or a testbed lacks a factor"),
        );
    }
}

/// A factor that is dropped on every testbed varies nothing.
fn relevance(table: &Table, sink: &mut Sink<'_>) {
    let testbeds = table.testbeds();
    if !table.testbeds_are_known() {
        return;
    }
    for read in &table.entries {
        if testbeds.iter().any(|testbed| factors::is_relevant(&read.name, testbed)) {
            continue;
        }
        let message = format!("factor `{}` means nothing on {} and is dropped", read.name, testbeds.join(", "));
        let mut warning = Diagnostic::warning(read.key.clone(), message);
        if let Some(factors::Scope::Only(names)) = read.known.map(|known| known.scope) {
            warning = warning.help(format!("it means something on {}", names.join(", ")));
        }
        sink.push(warning);
    }
}

/// A testbed on which none of the vantages exists captures nothing.
fn vantages(spec: &Spec, places: &Places<'_>, sink: &mut Sink<'_>) {
    let Some(span) = places.capture.clone() else { return };
    let vantages = |name: &str| factors::testbed(name).map_or(&[][..], |testbed| testbed.vantages);
    let testbeds = places.factors.testbeds();
    let captured = |name: &str| spec.capture.vantage.iter().any(|vantage| vantages(name).contains(vantage));
    // Where no testbed captures, either nothing was asked for or each vantage has its own error.
    if !places.factors.testbeds_are_known() || !testbeds.iter().any(|name| captured(name)) {
        return;
    }
    for name in testbeds {
        let offered = vantages(name);
        if !captured(name) {
            let offered: Vec<&str> = offered.iter().map(|vantage| vantage.as_str()).collect();
            let message = format!("nothing is captured on testbed `{name}`: it has none of these vantages");
            let help = format!("`{name}` has {}", offered.join(" and "));
            sink.push(Diagnostic::warning(span.clone(), message).help(help));
        }
    }
}

/// Every placeholder must have a meaning in every tuple. Returns the names in use.
fn placeholders(arguments: &Arguments, table: &Table, sink: &mut Sink<'_>) -> Vec<String> {
    let mut used = Vec::new();
    for (argument, span) in arguments {
        for piece in placeholder::pieces(argument) {
            let Piece::Name(name) = piece else { continue };
            used.push(name.to_owned());
            if placeholder::is_builtin(name) {
                continue;
            }
            match table.find(name) {
                None if table.is_broken(name) => {}
                None => {
                    let message = format!("`{{{name}}}` is neither a factor nor a built-in placeholder");
                    let help = placeholder_help(name, &table.names());
                    sink.push(Diagnostic::error(span.clone(), message).help(help));
                }
                Some(read) => everywhere(name, read, table, span, sink),
            }
        }
    }
    used
}

/// A placeholder cannot stand for a factor that is dropped on some testbed.
fn everywhere(name: &str, read: &Read, table: &Table, span: &Span, sink: &mut Sink<'_>) {
    let without: Vec<&str> =
        table.testbeds().into_iter().filter(|testbed| !factors::is_relevant(&read.name, testbed)).collect();
    if !without.is_empty() && table.testbeds_are_known() {
        let message = format!("`{{{name}}}` has no value on {}", without.join(", "));
        let error = Diagnostic::error(span.clone(), message).related(read.key.clone(), "means nothing there");
        sink.push(error.help("use a factor that means something on every testbed of the spec"));
    }
}

/// A factor that nothing uses multiplies the iterations and changes nothing.
fn uses(workload: &WorkloadSpec, used: &[String], table: &Table, sink: &mut Sink<'_>) {
    let is_ab = matches!(workload, WorkloadSpec::Ab { .. });
    for read in &table.entries {
        let by_itself = match read.known.map(|known| known.user) {
            Some(User::Testbed) => true,
            Some(User::Ab) => is_ab,
            None => false,
        };
        let named = |name: &String| *name == read.name || table.find(name).is_some_and(|found| found.name == read.name);
        if !by_itself && !used.iter().any(named) {
            let message = format!("nothing uses factor `{}`: its values change nothing", read.name);
            let help = format!("use it as `{{{}}}` in an argument of the workload", read.name);
            sink.push(Diagnostic::warning(read.key.clone(), message).help(help));
        }
    }
}

/// ab refuses more concurrent requests than requests.
fn enough_requests(spec: &Spec, table: &Table, sink: &mut Sink<'_>) {
    if !matches!(spec.workload, WorkloadSpec::Ab { .. }) {
        return;
    }
    let number = |name: &str, value: &Value| match super::space::member_of(value, name).unwrap_or(value) {
        Value::Integer(n) => Some(*n),
        _ => None,
    };
    let numbers = |name: &'static str| {
        let values = table.find(name).map_or(&[][..], |read| &read.values);
        values.iter().filter_map(move |(value, span)| Some((number(name, value)?, span.clone())))
    };
    let Some((workers, span)) = numbers("workers").max_by_key(|(n, _)| *n) else { return };
    let least = numbers("count").min_by_key(|(n, _)| *n);
    let count = least.as_ref().map_or(DEFAULT_COUNT, |(n, _)| *n);
    if workers <= count {
        return;
    }
    let message = format!("{workers} workers cannot share {count} requests: ab refuses that");
    let finding = match spec.exclude.is_empty() {
        true => Diagnostic::error(span, message),
        false => Diagnostic::warning(span, format!("{message} (unless an exclusion prevents it)")),
    };
    let finding = match least {
        Some((_, place)) => finding.related(place, "the requests"),
        None => finding,
    };
    sink.push(finding.help("raise `count`, or lower `workers`"));
}

/// Requests of an ab run whose tuple does not say.
const DEFAULT_COUNT: i64 = 1000;

/// A workload that takes longer than the limit can never be complete; on physical nodes the wait for the switch's counters adds.
fn enough_time(spec: &Spec, places: &Places<'_>, sink: &mut Sink<'_>) {
    let limit = spec.timeout;
    let update = switch(spec, places).map_or(Duration::ZERO, |switch| switch.update);
    let (what, time) = match &spec.workload {
        WorkloadSpec::Iperf3 { duration, .. } => ("iperf3 runs for", *duration),
        WorkloadSpec::Protonuke(spec) => ("protonuke runs for", spec.duration),
        WorkloadSpec::Command { time_limit: Some(time), .. } => ("the client may take", *time),
        _ => ("the workload takes more than", Duration::ZERO),
    };
    let Some(span) = places.workload.clone().filter(|_| time + update >= limit) else { return };
    let wait = match update.is_zero() {
        true => String::new(),
        false => format!(", the switch's counters need `update` = {} more", format_duration(update)),
    };
    let (time_text, limit_text) = (format_duration(time), format_duration(limit));
    let message = format!("{what} {time_text}{wait}, but an iteration ends after {limit_text}");
    let finding = match spec.workload {
        WorkloadSpec::Iperf3 { .. } | WorkloadSpec::Protonuke(_) => Diagnostic::error(span, message),
        _ if update >= limit => Diagnostic::error(span, message),
        _ => Diagnostic::warning(span, message),
    };
    sink.push(finding.help("raise `timeout`, which also covers launch and checks"));
}

/// The switch whose counters are read on some testbed of the spec.
fn switch<'s>(spec: &'s Spec, places: &Places<'_>) -> Option<&'s SwitchSpec> {
    spec.testbed.physical.switch.as_ref().filter(|_| places.factors.testbeds().contains(&"physical"))
}

/// A port of a node that takes part in no tuple would be read for none.
fn switch_ports(spec: &Spec, places: &Places<'_>, sink: &mut Sink<'_>) {
    let Some(switch) = switch(spec, places) else { return };
    let pairs = places.factors.find("pairs").map_or(&[][..], |read| &read.values);
    let number = |value: &Value| match super::space::member_of(value, "pairs").unwrap_or(value) {
        Value::Integer(pairs) => Some(*pairs),
        _ => None,
    };
    let most = pairs.iter().filter_map(|(value, _)| number(value)).max().unwrap_or(1);
    for (node, _) in switch.ports.iter().filter(|(node, _)| i64::from(node.pair) > most) {
        let message =
            format!("`[testbed.physical.switch]` names a port of {node}, but no tuple has more than {most} pairs");
        let finding = Diagnostic::error(places.factors.span.clone(), message);
        sink.push(finding.help("raise `pairs`, or leave that port out"));
    }
}

/// Is the sweep small enough? The arithmetic is shown when it is not.
fn size(spec: &Spec, space: &Space, places: &Places<'_>, sink: &mut Sink<'_>) -> bool {
    match too_many(spec, space) {
        None => true,
        Some(sum) => {
            let message = format!("too many iterations: {sum}");
            let help =
                format!("at most {} are possible; give fewer values or split the sweep", grouped(MOST_ITERATIONS));
            sink.push(Diagnostic::error(places.factors.span.clone(), message).help(help));
            false
        }
    }
}

/// The arithmetic of a sweep that is too large; `None` when it is not.
pub(crate) fn too_many(spec: &Spec, space: &Space) -> Option<String> {
    let tuples = space.size();
    let iterations = tuples.and_then(|tuples| tuples.checked_mul(u64::from(spec.repetitions)));
    if iterations.is_some_and(|n| n <= MOST_ITERATIONS) {
        return None;
    }
    let several = |factor: &&super::Factor| factor.values.len() > 1;
    let mut terms: Vec<String> =
        spec.factors.iter().filter(several).map(|f| format!("{} {}", f.values.len(), f.name)).collect();
    terms.push(format!("{} repetitions", spec.repetitions));
    let product = match (iterations, tuples == space.full_size()) {
        (None, _) => "more than 2^64".to_owned(),
        (Some(n), true) => grouped(n),
        (Some(n), false) => format!("{} after dropping factors without meaning", grouped(n)),
    };
    Some(format!("{} = {product}", terms.join(" × ")))
}

/// `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// At least one combination must survive the exclusions.
fn something_left(space: &Space, places: &Places<'_>, sink: &mut Sink<'_>) {
    let Some(span) = places.exclusions.first() else { return };
    let mut walk = space.walk();
    let mut any = false;
    while let Some(combination) = walk.next() {
        if !combination.excluded {
            return;
        }
        any = true;
    }
    if any {
        let message = "the exclusions leave nothing to run";
        sink.push(Diagnostic::error(span.clone(), message).help("every combination of the factors is excluded"));
    }
}
