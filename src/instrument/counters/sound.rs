//! What a guest says that it counted is believed of itself only, and only where the store can keep it. Pure.

use std::collections::HashSet;

use super::lists::{LISTS, Owner, has, is_source, level_of};
use super::place::MOST_OTHERS;
use super::sampler::READINGS;
use super::{Counted, PlaceCounted};
use crate::ids::NodeId;
use crate::record::{CounterPlace, CounterSeries, CounterSource, CounterTotal};

/// What a node with a kernel of its own counts.
pub(super) const OF_NODE: [Owner; 4] = [Owner::Kernel, Owner::Protocols, Owner::Link, Owner::Sockets];

/// Longest unit.
const LONGEST_UNIT: usize = 16;
/// Longest reason or problem.
const LONGEST_TEXT: usize = 64 << 10;
/// Most problems of one place.
const MOST_PROBLEMS: usize = 256;
/// Most bytes of JSON about the counters of one source that are no metrics.
const MOST_BYTES: usize = 4 << 20;

/// Says what is wrong with what a node sent, which was asked for these metrics besides the lists.
pub(super) fn check(counted: &Counted, node: NodeId, asked: &[String]) -> Result<(), String> {
    let [PlaceCounted { place, totals }] = counted.places.as_slice() else {
        return Err(format!("{} places instead of one", counted.places.len()));
    };
    if place.node != Some(node) {
        return Err("those of another place".to_owned());
    }
    if counted.problems.len() > MOST_PROBLEMS || counted.problems.iter().any(|p| p.text.len() > LONGEST_TEXT) {
        return Err("more problems than there can be".to_owned());
    }
    check_totals(totals, asked)?;
    check_times(place)?;
    if !place.sources.is_sorted_by(|a, b| a.name < b.name) || !place.series.is_sorted_by(|a, b| a.name < b.name) {
        return Err("sources or series that are not in order".to_owned());
    }
    place.sources.iter().try_for_each(check_source)?;
    place.series.iter().try_for_each(|series| check_series(series, place.times_us.len()))
}

/// A metric is there once, and one that was asked for.
fn check_totals(totals: &[CounterTotal], asked: &[String]) -> Result<(), String> {
    let mut seen = HashSet::new();
    for total in totals {
        let name = total.name.as_str();
        let wanted = listed(name) || (has(&OF_NODE, name) && asked.iter().any(|asked| asked == name));
        if !wanted || total.level != level_of(name) {
            return Err(format!("the metric {}, which it was not asked for", short(name)));
        }
        if !seen.insert(name) {
            return Err(format!("the metric {name} twice"));
        }
        if total.unit.len() > LONGEST_UNIT || total.value.is_some_and(|value| !value.is_finite()) {
            return Err(format!("a strange unit or value of {name}"));
        }
    }
    Ok(())
}

fn check_times(place: &CounterPlace) -> Result<(), String> {
    let times = &place.times_us;
    // With the last reading.
    if times.is_empty() || times.len() > READINGS[1] + 1 || !times.is_sorted() {
        return Err(format!("{} times that are not in order or too many", times.len()));
    }
    let numbers = [place.missed, place.latest_us].into_iter().chain(place.interval_ms).chain(place.cpu_ns);
    in_range(times.iter().copied().chain(numbers))
}

fn check_source(source: &CounterSource) -> Result<(), String> {
    let CounterSource { name, counters, why, others } = source;
    if !is_source(name) {
        return Err(format!("the source {}, which it does not have", short(name)));
    }
    if why.as_ref().is_some_and(|why| why.len() > LONGEST_TEXT) {
        return Err(format!("a reason of {name} that is too long"));
    }
    // A character of a name takes at most six bytes as JSON, and a number 20.
    let bytes: usize = others.iter().map(|(name, _)| 6 * name.len() + 24).sum();
    if others.len() > MOST_OTHERS || bytes > MOST_BYTES - 2 || !others.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(format!("counters of {name} that are not in order or too many"));
    }
    in_range(others.iter().filter_map(|(_, grown)| *grown).chain([*counters]))
}

fn check_series(series: &CounterSeries, readings: usize) -> Result<(), String> {
    let name = series.name.as_str();
    if !of_node().any(|listed| listed.series.contains(&name)) {
        return Err(format!("the series {}, which it was not asked for", short(name)));
    }
    if series.unit.len() > LONGEST_UNIT || !series.scale.is_finite() {
        return Err(format!("a strange unit or scale of {name}"));
    }
    let expected = readings - usize::from(!series.gauge);
    if series.values.len() != expected {
        return Err(format!("a series {name} of {} values instead of {expected}", series.values.len()));
    }
    in_range(series.values.iter().flatten().copied())
}

fn of_node() -> impl Iterator<Item = &'static super::lists::Listed> {
    LISTS.iter().filter(|listed| OF_NODE.contains(&listed.owner))
}

fn listed(name: &str) -> bool {
    of_node().any(|listed| listed.names.contains(&name))
}

fn in_range(mut numbers: impl Iterator<Item = u64>) -> Result<(), String> {
    match numbers.find(|number| i64::try_from(*number).is_err()) {
        Some(number) => Err(format!("the number {number}, more than 2^63-1")),
        None => Ok(()),
    }
}

fn short(name: &str) -> String {
    format!("{:?}", name.chars().take(60).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Level;

    fn total(name: &str) -> CounterTotal {
        CounterTotal { name: name.to_owned(), level: level_of(name), unit: "1".to_owned(), value: Some(1.0) }
    }

    fn counted() -> Counted {
        let series = CounterSeries {
            name: "ctxt".to_owned(),
            unit: "1".to_owned(),
            scale: 1.0,
            gauge: false,
            values: vec![Some(3), None],
        };
        let source = CounterSource {
            name: "stat".to_owned(),
            counters: 9,
            why: None,
            others: vec![("cpu0.user".to_owned(), Some(1)), ("softirq".to_owned(), None)],
        };
        let place = CounterPlace {
            node: Some(NodeId::client(1)),
            interval_ms: Some(100),
            times_us: vec![0, 100, 200],
            first_ns: 0,
            missed: 0,
            latest_us: 0,
            cpu_ns: None,
            sources: vec![source],
            series: vec![series],
        };
        let totals = vec![total("ctxt"), total("TcpExtTCPPureAcks")];
        Counted { places: vec![PlaceCounted { place, totals }], problems: Vec::new() }
    }

    fn changed(change: impl FnOnce(&mut PlaceCounted)) -> Result<(), String> {
        let mut counted = counted();
        change(&mut counted.places[0]);
        check(&counted, NodeId::client(1), &["TcpExtTCPPureAcks".to_owned()])
    }

    #[test]
    fn what_a_guest_counts_of_itself_is_believed() {
        assert_eq!(changed(|_| ()), Ok(()));
        let none = Counted::default();
        assert!(check(&none, NodeId::client(1), &[]).unwrap_err().contains("0 places"));
        let mut two = counted();
        two.places.extend(counted().places);
        assert!(check(&two, NodeId::client(1), &[]).unwrap_err().contains("2 places"));
        assert!(check(&counted(), NodeId::client(1), &[]).unwrap_err().contains("TcpExtTCPPureAcks"));
        assert!(check(&counted(), NodeId::server(1), &[]).unwrap_err().contains("another place"));
    }

    #[test]
    fn what_the_store_would_refuse_is_refused_before() {
        let cases = [
            changed(|place| place.totals.push(total("ctxt"))),
            changed(|place| place.totals.push(total("cpu_user"))),
            changed(|place| place.totals.push(total("host.if.rx_packets"))),
            changed(|place| place.totals[0].level = Level::Network),
            changed(|place| place.totals[0].value = Some(f64::INFINITY)),
            changed(|place| place.place.times_us = vec![0, 200, 100]),
            changed(|place| place.place.times_us = Vec::new()),
            changed(|place| place.place.missed = u64::MAX),
            changed(|place| place.place.cpu_ns = Some(u64::MAX)),
            changed(|place| place.place.sources.extend(counted().places[0].place.sources.clone())),
            changed(|place| place.place.sources[0].name = "other".to_owned()),
            changed(|place| place.place.sources[0].others.reverse()),
            changed(|place| place.place.sources[0].others[0].1 = Some(u64::MAX)),
            changed(|place| place.place.series[0].name = "cpu.nice".to_owned()),
            changed(|place| place.place.series[0].gauge = true),
            changed(|place| place.place.series[0].scale = f64::NAN),
            changed(|place| place.place.series[0].values[0] = Some(u64::MAX)),
        ];
        for (number, case) in cases.iter().enumerate() {
            assert!(case.is_err(), "{number}");
        }
    }
}
