//! One place over time: its first and its last reading, and the series between them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::lists::{LISTS, Listed, Owner, SWITCH, has, level_of};
use super::value::{Counter, Kind, Reading, Unit, growth};
use crate::ids::NodeId;
use crate::record::{CounterPlace, CounterSeries, CounterSource, CounterTotal, Problem, Weight};

/// Most counters of one source that are named for having grown.
pub(super) const MOST_OTHERS: usize = 8192;

/// What a place is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlacePlan {
    pub(super) node: Option<NodeId>,
    pub(super) owners: Vec<Owner>,
}

/// The readings of one place.
#[derive(Debug)]
pub(super) struct Place {
    plan: PlacePlan,
    /// Names that are metrics besides those of the lists.
    extra: Vec<String>,
    first: Reading,
    last: Reading,
    tracks: Vec<Track>,
    /// Of each gauge among the metrics: sum and number of what was read.
    gauges: BTreeMap<String, (f64, u32)>,
    /// Readings in which a source failed that should not, or that was there at first.
    failed: BTreeMap<&'static str, u64>,
}

/// One counter over time.
#[derive(Debug)]
struct Track {
    source: &'static str,
    name: &'static str,
    /// Without their names.
    points: Vec<Option<Counter>>,
}

/// How readings of a place came about.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Times {
    pub(super) interval_ms: Option<u64>,
    pub(super) times_us: Vec<u64>,
    pub(super) first_ns: i64,
    pub(super) missed: u64,
    pub(super) latest_us: u64,
    pub(super) cpu_ns: Option<u64>,
}

impl Place {
    /// Begins with its first reading. With `series`, readings in between are kept.
    pub(super) fn new(plan: PlacePlan, extra: &[String], first: Reading, series: bool) -> Self {
        let tracks = plan.lists().filter(|listed| series && !lacks(listed, &first)).flat_map(|listed| {
            listed.series.iter().map(|name| Track { source: listed.source, name, points: Vec::new() })
        });
        let mut place = Self {
            tracks: tracks.collect(),
            extra: extra.to_vec(),
            first: Reading::default(),
            last: Reading::default(),
            gauges: BTreeMap::new(),
            failed: BTreeMap::new(),
            plan,
        };
        place.take(&first);
        place.first = first;
        place
    }

    /// Number of its series.
    pub(super) fn series(&self) -> usize {
        self.tracks.len()
    }

    /// Takes a further reading.
    pub(super) fn take(&mut self, reading: &Reading) {
        for track in &mut self.tracks {
            let found = reading.source(track.source).and_then(Result::ok).and_then(|all| all.get(track.name));
            track.points.push(found.map(|counter| Counter { name: String::new(), ..counter.clone() }));
        }
        for listed in self.plan.lists() {
            match reading.source(listed.source) {
                Some(Ok(all)) => {
                    add_gauges(&mut self.gauges, listed.names.iter().filter_map(|name| all.get(*name)));
                }
                // A source that a machine need not have, and that was there, has failed as well.
                Some(Err(_)) if !lacks(listed, &self.first) => *self.failed.entry(listed.source).or_default() += 1,
                _ => {}
            }
        }
        let outside = self.extra.iter().filter(|name| !self.plan.has_listed(name));
        add_gauges(&mut self.gauges, outside.filter_map(|name| reading.get(name)));
    }

    /// Takes the last reading.
    pub(super) fn end(&mut self, last: Reading) {
        self.take(&last);
        self.last = last;
    }

    /// Drops every other reading of the series. Growths are then those over both.
    pub(super) fn thin(&mut self) {
        for track in &mut self.tracks {
            track.points = std::mem::take(&mut track.points).into_iter().step_by(2).collect();
        }
    }

    /// All that is to be kept of it.
    pub(super) fn finish(self, times: Times) -> (CounterPlace, Vec<CounterTotal>) {
        let totals = self.totals();
        let metrics: BTreeSet<&str> = totals.iter().map(|total| total.name.as_str()).collect();
        let sources = self.sources(&metrics);
        let mut series: Vec<CounterSeries> = self.tracks.iter().map(Track::finish).collect();
        series.sort_by(|a, b| a.name.cmp(&b.name));
        let Times { interval_ms, times_us, first_ns, missed, latest_us, cpu_ns } = times;
        let node = self.plan.node;
        (CounterPlace { node, interval_ms, times_us, first_ns, missed, latest_us, cpu_ns, sources, series }, totals)
    }

    /// What went wrong.
    pub(super) fn problems(&self, missed: u64) -> Vec<Problem> {
        let place = self.plan.node.map_or_else(|| "the host".to_owned(), |node| node.to_string());
        let suspect = |text| Problem { weight: Weight::Suspect, text };
        let mut problems = Vec::new();
        for (source, count) in &self.failed {
            let why = [&self.last, &self.first].into_iter().find_map(|reading| reading.source(source)?.err());
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            problems.push(suspect(format!("counters of {place}: {count} readings of {source} failed{why}")));
        }
        let absent = |reading: &Reading, listed: &Listed| reading.source(listed.source).is_none();
        for listed in self.plan.lists().filter(|listed| !listed.optional) {
            if absent(&self.first, listed) || absent(&self.last, listed) {
                problems.push(suspect(format!("counters of {place}: {} was not there at both ends", listed.source)));
            }
        }
        if missed > 0 {
            problems.push(suspect(format!("counters of {place}: {missed} readings of the series were missed")));
        }
        problems
    }

    fn totals(&self) -> Vec<CounterTotal> {
        let mut totals = Vec::new();
        for listed in self.plan.lists() {
            if lacks(listed, &self.first) && lacks(listed, &self.last) {
                continue;
            }
            totals.extend(listed.names.iter().map(|name| CounterTotal { level: listed.level, ..self.total(name) }));
        }
        for name in &self.extra {
            if !totals.iter().any(|total| total.name == *name) && self.plan.has(name) {
                totals.push(self.total(name));
            }
        }
        totals
    }

    fn total(&self, name: &str) -> CounterTotal {
        let (before, after) = (self.first.get(name), self.last.get(name));
        let unit = after.or(before).map_or(Unit::Count, |counter| counter.unit);
        let gauge = [before, after].into_iter().flatten().any(|counter| counter.kind == Kind::Gauge);
        let value = match self.gauges.get(name) {
            Some((sum, count)) => Some(sum / f64::from(*count)),
            None if gauge => mean([before, after].into_iter().flatten()),
            None => grown(before, after).map(|value| scaled(value, unit)),
        };
        CounterTotal { name: name.to_owned(), level: level_of(name), unit: symbol(name, unit).to_owned(), value }
    }

    fn sources(&self, metrics: &BTreeSet<&str>) -> Vec<CounterSource> {
        let source = |(name, first): (&'static str, Result<&BTreeMap<String, Counter>, &str>)| {
            let counters = first.map_or(0, |all| all.len() as u64);
            let last = self.last.source(name).unwrap_or(Err("it was not read again"));
            let (why, others) = match (first, last) {
                (Ok(first), Ok(last)) => others(first, last, metrics),
                (Err(why), _) | (_, Err(why)) => (Some(why.to_owned()), Vec::new()),
            };
            CounterSource { name: name.to_owned(), counters, why, others }
        };
        self.first.sources().map(source).collect()
    }
}

impl PlacePlan {
    fn lists(&self) -> impl Iterator<Item = &'static Listed> + use<'_> {
        LISTS.iter().filter(|listed| self.owners.contains(&listed.owner))
    }

    /// Has it a counter of this name? Interfaces between the nodes belong to none of them.
    fn has(&self, name: &str) -> bool {
        if name.starts_with(SWITCH) { self.node.is_none() } else { has(&self.owners, name) }
    }

    fn has_listed(&self, name: &str) -> bool {
        self.lists().any(|listed| listed.names.contains(&name))
    }
}

impl Track {
    fn finish(&self) -> CounterSeries {
        let known = self.points.iter().flatten().next();
        let gauge = known.is_some_and(|counter| counter.kind == Kind::Gauge) || GAUGES.contains(&self.name);
        let unit = known.map_or(Unit::Count, |counter| counter.unit);
        let values = if gauge {
            self.points.iter().map(|point| point.as_ref().map(|counter| counter.value)).collect()
        } else {
            self.points.windows(2).map(|pair| step(pair[0].as_ref()?, pair[1].as_ref()?)).collect()
        };
        let unit_text = symbol(self.name, unit).to_owned();
        CounterSeries { name: self.name.to_owned(), unit: unit_text, scale: unit.scale(), gauge, values }
    }
}

/// The growth; none where CPU time stepped back, which a growth of 0 would hide from the sum.
fn step(before: &Counter, after: &Counter) -> Option<u64> {
    let back = after.kind == Kind::Ticks && after.value < before.value;
    if back { None } else { growth(before, after) }
}

/// Gauges that may never be read in a whole iteration.
const GAUGES: [&str; 2] = ["tcpinfo.rtt", "tcpinfo.cwnd"];

/// The unit, also where nothing was read: so a metric has one unit in all iterations.
fn symbol(name: &str, unit: Unit) -> &'static str {
    if unit == Unit::Count { unit_of(name) } else { unit.symbol() }
}

/// The unit of a counter that has no other in any reading.
fn unit_of(name: &str) -> &'static str {
    const CPU_TIMES: [&str; 10] =
        ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"];
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    let is_cpu = first.strip_prefix("cpu").is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()));
    let of_interface = !name.contains(".ethtool.") && (name.starts_with("if.") || name.contains(".if."));
    match rest {
        "frequency" if is_cpu => "Hz",
        _ if is_cpu && CPU_TIMES.contains(&rest) => "s",
        _ if first == "mem" => "B",
        _ if of_interface && ["_bytes", ".bytes", ".backlog"].iter().any(|end| name.ends_with(end)) => "B",
        "rtt" | "rtt_max" | "rttvar" if first == "tcpinfo" => "s",
        "delivery_rate" if first == "tcpinfo" => "B/s",
        "cpu" if first == "cgroup" => "s",
        _ if name == "entropy" => "bit",
        _ => Unit::Count.symbol(),
    }
}

/// Is it a source that this machine has not?
fn lacks(listed: &Listed, reading: &Reading) -> bool {
    listed.optional && !matches!(reading.source(listed.source), Some(Ok(_)))
}

fn grown(before: Option<&Counter>, after: Option<&Counter>) -> Option<u64> {
    match (before, after?) {
        (Some(before), after) => growth(before, after),
        (None, after) => (after.kind == Kind::FromNothing && i64::try_from(after.value).is_ok()).then_some(after.value),
    }
}

/// Those that have grown and are no metrics.
fn others(
    first: &BTreeMap<String, Counter>,
    last: &BTreeMap<String, Counter>,
    metrics: &BTreeSet<&str>,
) -> (Option<String>, Vec<(String, Option<u64>)>) {
    let names: BTreeSet<&String> = first.keys().chain(last.keys()).collect();
    let mut all: Vec<(String, Option<u64>)> = names
        .into_iter()
        .filter(|name| !metrics.contains(name.as_str()))
        .filter(|name| first.get(*name).or(last.get(*name)).is_none_or(|counter| counter.kind != Kind::Gauge))
        .map(|name| (name.clone(), grown(first.get(name), last.get(name))))
        .filter(|(_, grown)| *grown != Some(0))
        .collect();
    let why = (all.len() > MOST_OTHERS)
        .then(|| format!("{} counters have grown, of which the first {MOST_OTHERS} are kept", all.len()));
    all.truncate(MOST_OTHERS);
    (why, all)
}

/// Adds those that are gauges to what was read of them before.
fn add_gauges<'a>(gauges: &mut BTreeMap<String, (f64, u32)>, counters: impl Iterator<Item = &'a Counter>) {
    for counter in counters.filter(|counter| counter.kind == Kind::Gauge) {
        let (sum, count) = gauges.entry(counter.name.clone()).or_default();
        *sum += scaled(counter.value, counter.unit);
        *count += 1;
    }
}

fn mean<'a>(counters: impl Iterator<Item = &'a Counter>) -> Option<f64> {
    let (sum, count) =
        counters.fold((0.0, 0_u32), |(sum, count), counter| (sum + scaled(counter.value, counter.unit), count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

#[expect(clippy::cast_precision_loss, reason = "beyond 2^53 a difference has more digits than it needs")]
fn scaled(value: u64, unit: Unit) -> f64 {
    match unit {
        // Divided, so that 3 ticks are 0.03 s.
        Unit::Tick(ticks) => value as f64 / f64::from(ticks.max(1)),
        Unit::Milli => value as f64 / 1e3,
        Unit::Microsecond => value as f64 / 1e6,
        Unit::Nanosecond => value as f64 / 1e9,
        _ => value as f64 * unit.scale(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instrument::counters::text;

    fn times(missed: u64) -> Times {
        Times { interval_ms: Some(100), times_us: vec![0, 100_000], first_ns: 0, missed, latest_us: 0, cpu_ns: None }
    }

    fn snmp(out: u64, retrans: &str) -> Reading {
        let text = format!("Tcp: OutSegs RetransSegs CurrEstab InSegs\nTcp: {out} {retrans} 3 0\n");
        let mut reading = Reading::default();
        reading.add("snmp", text::mib(&text));
        reading
    }

    fn place(first: Reading) -> Place {
        let plan = PlacePlan { node: Some(NodeId::client(1)), owners: vec![Owner::Protocols] };
        Place::new(plan, &["TcpExtTCPMemoryPressures".to_owned()], first, true)
    }

    fn value(totals: &[CounterTotal], name: &str) -> Option<f64> {
        totals.iter().find(|total| total.name == name).unwrap_or_else(|| panic!("no {name}")).value
    }

    #[test]
    fn every_name_of_the_list_has_a_row_and_what_is_unknown_has_no_number() {
        let mut place = place(snmp(100, "5"));
        place.take(&snmp(130, "5"));
        place.end(snmp(150, "4"));
        let problems: Vec<_> = place.problems(0).into_iter().map(|problem| problem.text).collect();
        assert_eq!(problems, ["counters of client1: netstat was not there at both ends"]);
        let (record, totals) = place.finish(times(0));
        assert_eq!((value(&totals, "TcpOutSegs"), value(&totals, "TcpInSegs")), (Some(50.0), Some(0.0)));
        assert_eq!(value(&totals, "TcpRetransSegs"), None, "it went backwards");
        assert_eq!(value(&totals, "TcpPassiveOpens"), None, "this kernel has none");
        assert_eq!(value(&totals, "TcpExtTCPTimeouts"), None, "not read");
        assert_eq!(value(&totals, "TcpExtTCPMemoryPressures"), None, "asked for, and not there");
        assert!(totals.iter().all(|total| total.level == crate::ids::Level::Network));
        let series = |name: &str| &record.series.iter().find(|series| series.name == name).unwrap().values;
        assert_eq!(series("TcpOutSegs"), &[Some(30), Some(20)]);
        assert_eq!(series("TcpRetransSegs"), &[Some(0), None]);
    }

    #[test]
    fn a_source_that_fails_is_told() {
        let mut place = place(snmp(100, "5"));
        place.take(&snmp(110, "garbage"));
        place.end(snmp(150, "6"));
        let problems = place.problems(3);
        let texts: Vec<&str> = problems.iter().map(|problem| problem.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "counters of client1: 1 readings of snmp failed",
                "counters of client1: netstat was not there at both ends",
                "counters of client1: 3 readings of the series were missed"
            ]
        );
        let (record, totals) = place.finish(times(3));
        assert_eq!(value(&totals, "TcpOutSegs"), Some(50.0), "both ends are there");
        let series = record.series.iter().find(|series| series.name == "TcpOutSegs").unwrap();
        assert_eq!(series.values, [None, None]);
    }

    #[test]
    fn others_are_those_that_grew_or_are_unknown() {
        let read = |text: &str| text::mib6(text).unwrap().into_iter().map(|c| (c.name.clone(), c)).collect();
        let first: BTreeMap<_, _> = read("Ip6InReceives 5\nIp6Gone 1\nIp6Same 3\nIp6Back 9\n");
        let last = read("Ip6InReceives 7\nIp6Same 3\nIp6Back 2\nIp6New 1\nIcmp6InType135 4\n");
        let (why, others) = others(&first, &last, &BTreeSet::new());
        let expected = [
            ("Icmp6InType135", Some(4)),
            ("Ip6Back", None),
            ("Ip6Gone", None),
            ("Ip6InReceives", Some(2)),
            ("Ip6New", None),
        ];
        assert_eq!((why, others), (None, expected.map(|(name, grown)| (name.to_owned(), grown)).to_vec()));
    }

    #[test]
    fn thinning_keeps_the_sum() {
        let mut place = place(snmp(0, "0"));
        for out in [1, 3, 6, 10, 15] {
            place.take(&snmp(out, "0"));
        }
        place.thin();
        place.end(snmp(21, "0"));
        let (record, _) = place.finish(times(0));
        let series = record.series.iter().find(|series| series.name == "TcpOutSegs").unwrap();
        assert_eq!(series.values, [Some(3), Some(7), Some(11)]);
    }

    #[test]
    fn a_gauge_that_is_asked_for_is_a_mean_over_all_readings() {
        let plan = PlacePlan { node: Some(NodeId::client(1)), owners: vec![Owner::Protocols] };
        let read = |established: u64| {
            let mut reading = Reading::default();
            reading.add("snmp", text::mib(&format!("Tcp: CurrEstab OutSegs\nTcp: {established} 1\n")));
            reading
        };
        let mut place = Place::new(plan, &["TcpCurrEstab".to_owned()], read(1), true);
        place.take(&read(8));
        place.end(read(3));
        let (_, totals) = place.finish(times(0));
        assert_eq!(value(&totals, "TcpCurrEstab"), Some(4.0));
    }

    #[test]
    fn a_name_that_is_asked_for_has_one_unit_read_or_not() {
        let mut files = text::stat("cpu  1 1 1 1 1 1 1 1\ncpu0 1 1 1 1 1 1 1 1\nctxt 5\n", 100, true).unwrap();
        files.extend(text::meminfo("MemFree: 5 kB\nDirty: 3 kB\n").unwrap());
        for counter in files {
            assert_eq!(symbol(&counter.name, Unit::Count), counter.unit.symbol(), "{}", counter.name);
        }
        for (name, unit) in [
            ("switch.if.s1.rx_bytes", "B"),
            ("if.qdisc.fq.8001:0.backlog", "B"),
            ("host.if.qdisc.drops", "1"),
            ("if.ethtool.rx_bytes", "1"),
            ("cpu12.softirq.NET_RX", "1"),
            ("TcpOutSegs", "1"),
        ] {
            assert_eq!(symbol(name, Unit::Count), unit, "{name}");
        }
    }

    #[test]
    fn interfaces_between_the_nodes_are_the_hosts() {
        let plan = |node, owner| PlacePlan { node, owners: vec![owner] };
        let name = "switch.if.s1.rx_bytes";
        assert!(plan(None, Owner::Kernel).has(name));
        assert!(!plan(Some(NodeId::client(1)), Owner::Protocols).has(name));
    }

    #[test]
    fn an_optional_source_that_is_not_there_has_no_rows() {
        let plan = PlacePlan { node: None, owners: vec![Owner::Kernel] };
        let mut reading = Reading::default();
        reading.add("kvm", Err("no directory".to_owned()));
        reading.add("stat", text::stat("cpu  10 0 0 5 0 0 0 0\nctxt 5\n", 100, false));
        let mut place = Place::new(plan, &[], reading, true);
        let mut later = Reading::default();
        later.add("kvm", Err("no directory".to_owned()));
        later.add("stat", text::stat("cpu  40 0 0 4 0 0 0 0\nctxt 9\n", 100, false));
        place.end(later);
        let (record, totals) = place.finish(times(0));
        assert!(!totals.iter().any(|total| total.name.starts_with("kvm.")));
        assert!(!record.series.iter().any(|series| series.name.starts_with("kvm.")));
        let kvm = record.sources.iter().find(|source| source.name == "kvm").unwrap();
        assert_eq!(kvm.why.as_deref(), Some("no directory"));
        assert_eq!((value(&totals, "cpu.user"), value(&totals, "cpu.idle")), (Some(0.3), Some(0.0)));
        assert_eq!(value(&totals, "intr"), None);
        let series = |name: &str| &record.series.iter().find(|series| series.name == name).unwrap().values;
        assert_eq!((series("cpu.user"), series("cpu.idle")), (&vec![Some(30)], &vec![None]));
    }

    #[test]
    fn an_optional_source_that_fails_later_is_told() {
        let plan = PlacePlan { node: None, owners: vec![Owner::Sockets] };
        let mut first = Reading::default();
        first.add("sockets", Ok(vec![Counter::gauge("tcpinfo.sockets", 1)]));
        let mut place = Place::new(plan, &[], first, true);
        let mut last = Reading::default();
        last.add("sockets", Err("sock_diag: no memory".to_owned()));
        place.end(last);
        let texts: Vec<_> = place.problems(0).into_iter().map(|problem| problem.text).collect();
        assert_eq!(texts, ["counters of the host: 1 readings of sockets failed: sock_diag: no memory"]);
    }
}
