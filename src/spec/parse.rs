//! From TOML to [`Spec`]: the top level and the small sections.

use std::time::Duration;

use toml::de::DeTable;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::read::{Entry, Section, Sink};
use super::{
    AnalysisSpec, CaptureSpec, FakeSpec, Fault, FaultKind, Order, Reuse, Spec, TestbedSpec, VerifySpec, check, factors,
    linktest, parse_factors, parse_instrument, parse_limits, parse_minimega, parse_qemu, parse_sentinel, parse_slurm,
    parse_stop, parse_workload, physical, storage,
};
use crate::ids::{Stage, Vantage};
use crate::units::{ByteSize, DURATION_ACCEPTED, Percent, parse_duration};

/// Repetitions of a spec that does not say.
pub const DEFAULT_REPETITIONS: u32 = 10;
/// Seed of a spec that does not say.
pub const DEFAULT_SEED: u64 = 1;
/// Limit for an iteration of a spec that does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
/// Bytes kept of each packet by a spec that does not say.
pub const DEFAULT_SNAPLEN: u32 = 128;

/// Most repetitions of a tuple.
pub(super) const MOST_REPETITIONS: u32 = 1_000_000;
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30 * 86_400);

/// A spec and what is worth saying about it.
pub(super) fn parse(text: &str) -> Result<(Spec, Diagnostics), Diagnostics> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(Diagnostics::new(text, errors.iter().map(|e| syntax_error(e, text)).collect()));
    }
    let mut sink = Sink::new(text);
    let first_line = 0..text.find('\n').unwrap_or(text.len());
    let top = Section::new(String::new(), table.get_ref(), first_line);
    let spec = read_spec(top, &mut sink);
    let diagnostics = Diagnostics::new(text, sink.found);
    if diagnostics.has_errors() { Err(diagnostics) } else { Ok((spec, diagnostics)) }
}

fn syntax_error(error: &toml::de::Error, text: &str) -> Diagnostic {
    let span = error.span().unwrap_or(0..0);
    let span = span.start.min(text.len())..span.end.min(text.len());
    let message = error.message().lines().next().unwrap_or_default().to_owned();
    Diagnostic::error(span, format!("not TOML: {message}"))
}

/// The file is not text at all.
pub(super) fn not_utf8(bytes: &[u8], error: std::str::Utf8Error) -> Diagnostics {
    let at = error.valid_up_to();
    let text = String::from_utf8_lossy(bytes).into_owned();
    let line = bytes[..at].iter().filter(|&&b| b == b'\n').count() + 1;
    let message = format!("not UTF-8: byte 0x{:02x} at offset {at}, line {line}", bytes[at]);
    // In the lossy text a replacement character of three bytes stands for it.
    let span = at..at + char::REPLACEMENT_CHARACTER.len_utf8();
    Diagnostics::new(text, vec![Diagnostic::error(span, message).help("save the file as UTF-8")])
}

fn read_spec(mut top: Section<'_>, sink: &mut Sink<'_>) -> Spec {
    let name = top.need("name", sink, "give the sweep a name: name = \"contention\"").and_then(|e| read_name(&e, sink));
    let repetitions_entry = top.take("repetitions");
    let repetitions = repetitions_entry.as_ref().and_then(|e| e.integer(sink, 1, MOST_REPETITIONS));
    let seed = top.take("seed").and_then(|e| read_seed(&e, sink));
    let order = top.take("order").and_then(|e| e.choice(sink, ORDERS));
    let timeout = top.take("timeout").and_then(|e| positive_duration(&e, LONGEST_TIMEOUT, sink));
    let factor_table = parse_factors::read(top.take("factors"), sink);
    let exclude = parse_factors::read_exclusions(top.take("exclude"), &factor_table, sink);
    let workload =
        top.need("workload", sink, "say what runs: workload = \"ab\", or a table `[workload]` with `preset`");
    let workload_key = workload.as_ref().map(|e| e.key.clone());
    let workload = workload.and_then(|e| parse_workload::read(&e, sink));
    let capture_entry = top.take("capture");
    let capture = read_capture(capture_entry.clone(), &factor_table, sink);
    let instrument = top.take("instrument").map(|e| parse_instrument::read(&e, sink)).unwrap_or_default();
    let testbed = top.take("testbed").map(|e| read_testbed(&e, &factor_table, sink)).unwrap_or_default();
    let verify = top.take("verify").map(|e| read_verify(&e, sink)).unwrap_or_default();
    let analysis = top.take("analysis").map(|e| read_analysis(&e, &factor_table, sink)).unwrap_or_default();
    let sentinel = top.take("sentinel").and_then(|e| parse_sentinel::read(&e, &factor_table, sink));
    let written = repetitions_entry.map(|entry| (entry.span, repetitions));
    let stop = top.take("stop").and_then(|e| parse_stop::read(&e, written, sink));
    let limits = top.take("limits").map(|e| parse_limits::read(&e, sink)).unwrap_or_default();
    let storage = top.take("storage").map(|e| storage::read(&e, &capture, &instrument, sink)).unwrap_or_default();
    let slurm = top.take("slurm").map(|e| parse_slurm::read(&e, sink)).unwrap_or_default();
    let spec = Spec {
        name: name.unwrap_or_default(),
        repetitions: stop.as_ref().map(|(_, max)| *max).or(repetitions).unwrap_or(DEFAULT_REPETITIONS),
        seed: seed.unwrap_or(DEFAULT_SEED),
        order: order.unwrap_or(Order::Blocked),
        timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
        factors: factor_table.factors(),
        exclude: exclude.iter().map(|(exclusion, _)| exclusion.clone()).collect(),
        workload: workload.clone().map_or_else(parse_workload::placeholder, |(workload, _)| workload),
        capture,
        instrument,
        testbed,
        verify,
        analysis,
        stop: stop.map(|(stop, _)| stop),
        sentinel: sentinel.as_ref().map(|(sentinel, _)| sentinel.clone()),
        limits,
        storage,
        slurm,
    };
    top.finish(sink);
    let places = check::Places {
        factors: &factor_table,
        exclusions: exclude.into_iter().map(|(_, span)| span).collect(),
        arguments: workload.map(|(_, arguments)| arguments),
        workload: workload_key,
        capture: capture_entry.map(|e| e.key),
        sentinel: sentinel.and_then(|(_, place)| place),
    };
    check::check(&spec, &places, sink);
    spec
}

const ORDERS: &[(&str, Order)] =
    &[("blocked", Order::Blocked), ("shuffled", Order::Shuffled), ("sequential", Order::Sequential)];

fn read_name(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = entry.text(sink)?;
    if !factors::is_word(text) {
        entry.refuse(sink, "1 to 64 letters, digits, `-`, `_` and `.`, beginning with a letter or digit");
        return None;
    }
    Some(text.to_owned())
}

fn read_seed(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<u64> {
    entry.integer(sink, 0, u64::MAX)
}

/// A duration above zero and at most `longest`.
pub(super) fn positive_duration(entry: &Entry<'_>, longest: Duration, sink: &mut Sink<'_>) -> Option<Duration> {
    let duration = entry.quantity_by(sink, DURATION_ACCEPTED, parse_duration)?;
    if duration.is_zero() || duration > longest {
        let longest = crate::units::format_duration(longest);
        entry.refuse(sink, format_args!("more than 0 s and at most {longest}"));
        return None;
    }
    Some(duration)
}

fn read_capture(entry: Option<Entry<'_>>, factors: &parse_factors::Table, sink: &mut Sink<'_>) -> CaptureSpec {
    let mut capture = CaptureSpec {
        snaplen: DEFAULT_SNAPLEN,
        vantage: default_vantage(&factors.testbeds()),
        statistics: true,
        connections: false,
        keep: false,
        filter: None,
        ring: None,
    };
    let Some(mut section) = entry.and_then(|e| e.section(sink)) else { return capture };
    if let Some(snaplen) = section.take("snaplen").and_then(|e| e.integer(sink, 64u32, 262_144)) {
        capture.snaplen = snaplen;
    }
    let vantage = section.take("vantage");
    if let Some(entry) = &vantage {
        capture.vantage = read_vantages(entry, factors, sink);
    }
    let keep = section.take("keep");
    if let Some(entry) = &keep {
        capture.keep = entry.switch(sink).unwrap_or(false);
        if capture.keep && capture.vantage.is_empty() {
            let message = "`capture.keep` asks for files, but `capture.vantage` is empty: nothing is captured";
            let mut error = Diagnostic::error(entry.span.clone(), message);
            if let Some(vantage) = vantage {
                error = error.related(vantage.span, "no capture at all");
            }
            sink.push(error.help("name a vantage, or leave `keep` out"));
        }
    }
    read_statistics(&mut section, &mut capture, sink);
    capture.filter = section.take("filter").and_then(|e| e.filled(sink)).map(str::to_owned);
    capture.ring = section.take("ring").and_then(|e| read_ring(&e, sink));
    section.finish(sink);
    capture
}

fn read_statistics(section: &mut Section<'_>, capture: &mut CaptureSpec, sink: &mut Sink<'_>) {
    let statistics = section.take("statistics");
    if let Some(entry) = &statistics {
        capture.statistics = entry.switch(sink).unwrap_or(true);
    }
    let Some(entry) = section.take("connections") else { return };
    capture.connections = entry.switch(sink).unwrap_or(false);
    if capture.connections && (capture.vantage.is_empty() || !capture.statistics) {
        let message = "`capture.connections` asks for a row for each connection, but nothing looks at them";
        let mut error = Diagnostic::error(entry.span.clone(), message);
        if let Some(statistics) = statistics.filter(|_| !capture.statistics) {
            error = error.related(statistics.span, "switched off");
        }
        sink.push(error.help("switch `statistics` on and name a vantage, or leave `connections` out"));
    }
}

/// The nodes' own interfaces: `guest` on virtual testbeds, `endpoint` on the physical one.
fn default_vantage(testbeds: &[&str]) -> Vec<Vantage> {
    let physical = testbeds.contains(&"physical");
    let mut vantage = Vec::new();
    if !physical || testbeds.len() > 1 {
        vantage.push(Vantage::Guest);
    }
    if physical {
        vantage.push(Vantage::Endpoint);
    }
    vantage
}

fn read_vantages(entry: &Entry<'_>, table: &parse_factors::Table, sink: &mut Sink<'_>) -> Vec<Vantage> {
    let testbeds = table.testbeds();
    let choices: Vec<(&str, Vantage)> = Vantage::ALL.iter().map(|v| (v.as_str(), *v)).collect();
    let mut vantages = Vec::new();
    for item in entry.one_or_more() {
        let Some(vantage) = item.choice(sink, &choices) else { continue };
        if vantages.contains(&vantage) {
            sink.push(Diagnostic::error(item.span, format!("vantage `{vantage}` is named twice")));
            continue;
        }
        let offered = |name: &&str| factors::testbed(name).is_some_and(|t| t.vantages.contains(&vantage));
        if table.testbeds_are_known() && !testbeds.iter().any(offered) {
            let message = format!("no testbed of this spec has the vantage `{vantage}`");
            let help = testbeds.iter().filter_map(|name| factors::testbed(name)).map(|t| {
                let names: Vec<&str> = t.vantages.iter().map(|v| v.as_str()).collect();
                format!("{} has {}", t.name, names.join(" and "))
            });
            sink.push(Diagnostic::error(item.span, message).help(help.collect::<Vec<_>>().join("; ")));
        }
        vantages.push(vantage);
    }
    vantages
}

fn read_ring(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<u64> {
    let ByteSize(ring) = entry.quantity(sink, ByteSize::ACCEPTED)?;
    if !(64 << 10..=4 << 30).contains(&ring) {
        entry.refuse(sink, "64 KiB to 4 GiB");
        return None;
    }
    Some(ring)
}

fn read_testbed(entry: &Entry<'_>, factors: &parse_factors::Table, sink: &mut Sink<'_>) -> TestbedSpec {
    if entry.value.is_str() {
        let help = "the testbed is a factor: put `testbed = …` under `[factors]`".to_owned();
        entry.refuse_with_help(sink, "a table with options of testbeds", Some(help));
        return TestbedSpec::default();
    }
    let Some(mut section) = entry.section(sink) else { return TestbedSpec::default() };
    let mut faults = Vec::new();
    if let Some(mut fake) = section.take("fake").and_then(|e| e.section(sink)) {
        if let Some(list) = fake.take("fault") {
            faults = list.sections(sink).into_iter().filter_map(|fault| read_fault(fault, sink)).collect();
        }
        fake.finish(sink);
    }
    let qemu = section.take("qemu").map(|entry| parse_qemu::read(&entry, sink)).unwrap_or_default();
    let physical = section.take("physical").map(|entry| physical::read(&entry, sink)).unwrap_or_default();
    let minimega =
        section.take("minimega").map(|entry| parse_minimega::read(&entry, factors, sink)).unwrap_or_default();
    let reuse = section.take("reuse").and_then(|entry| entry.choice(sink, REUSES)).unwrap_or_default();
    section.finish(sink);
    TestbedSpec { reuse, qemu, physical, minimega, fake: FakeSpec { faults } }
}

const REUSES: &[(&str, Reuse)] = &[("none", Reuse::None), ("tuple", Reuse::Tuple)];

const FAULTS: &[(&str, FaultKind)] = &[
    ("error", FaultKind::Error),
    ("hang", FaultKind::Hang),
    ("kill", FaultKind::Kill),
    ("panic", FaultKind::Panic),
    ("setting", FaultKind::Setting),
    ("unreadable", FaultKind::Unreadable),
    ("drops", FaultKind::Drops),
    ("leftover", FaultKind::Leftover),
];

impl FaultKind {
    /// Its name in specs.
    pub fn as_str(self) -> &'static str {
        FAULTS.iter().find(|(_, kind)| *kind == self).map(|(name, _)| *name).expect("every kind has a name")
    }
}

fn read_fault(mut section: Section<'_>, sink: &mut Sink<'_>) -> Option<Fault> {
    let stages: Vec<(&str, Stage)> = Stage::ALL.iter().map(|stage| (stage.as_str(), *stage)).collect();
    let stage = section.need("stage", sink, "in which stage: stage = \"launch\"").and_then(|e| e.choice(sink, &stages));
    let kind = section.need("kind", sink, "what happens: kind = \"error\"").and_then(|e| e.choice(sink, FAULTS));
    let numbers = section.take("iterations").map(|e| e.one_or_more()).unwrap_or_default();
    let iterations = numbers.iter().filter_map(|e| e.integer(sink, 1, u32::MAX)).collect();
    let attempts = section.take("attempts").and_then(|e| e.integer(sink, 1, u32::MAX));
    section.finish(sink);
    Some(Fault { stage: stage?, kind: kind?, iterations, attempts })
}

fn read_verify(entry: &Entry<'_>, sink: &mut Sink<'_>) -> VerifySpec {
    let mut verify = VerifySpec::default();
    let Some(mut section) = entry.section(sink) else { return verify };
    for (name, threshold) in [
        ("client_cpu", &mut verify.client_cpu),
        ("foreign_cpu", &mut verify.foreign_cpu),
        ("steal", &mut verify.steal),
        ("vantage_difference", &mut verify.vantage_difference),
    ] {
        if let Some(entry) = section.take(name) {
            *threshold = match entry.value.as_str() {
                Some("off") => None,
                _ => entry.quantity(sink, "\"5 %\", \"0.1 %\" or \"off\""),
            };
        }
    }
    for (name, switch) in
        [("swap", &mut verify.swap), ("throttling", &mut verify.throttling), ("path", &mut verify.path)]
    {
        if let Some(on) = section.take(name).and_then(|e| e.switch(sink)) {
            *switch = on;
        }
    }
    verify.linktest = section.take("linktest").and_then(|entry| linktest::read(&entry, sink));
    section.finish(sink);
    verify
}

fn read_analysis(entry: &Entry<'_>, factors: &parse_factors::Table, sink: &mut Sink<'_>) -> AnalysisSpec {
    let Some(mut section) = entry.section(sink) else { return AnalysisSpec::default() };
    let baseline = section.take("baseline").and_then(|e| parse_factors::read_baseline(&e, factors, sink));
    let mut margins: Vec<(String, Percent)> = Vec::new();
    if let Some(entry) = section.take("margin") {
        if entry.value.is_str() {
            // The short form: one margin for all.
            margins.extend(entry.quantity(sink, Percent::ACCEPTED).map(|margin| ("default".to_owned(), margin)));
        } else if let Some(mut table) = entry.section(sink) {
            for (metric, entry) in table.rest() {
                margins.extend(entry.quantity(sink, Percent::ACCEPTED).map(|margin| (metric.to_owned(), margin)));
            }
        }
    }
    section.finish(sink);
    AnalysisSpec { baseline, margins }
}
