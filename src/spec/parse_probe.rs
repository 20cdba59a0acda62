//! `[instrument] probe`.

use std::time::Duration;

use toml::de::DeValue;

use super::diagnostic::Diagnostic;
use super::read::{Entry, Section, Sink};
use super::{ProbeSpec, parse};
use crate::units::{DURATION_ACCEPTED, Percent, format_duration, parse_duration};

/// Between two packets, at least and at most: 10,000 packets a second, and one in ten seconds.
const INTERVAL: (Duration, Duration) = (Duration::from_micros(100), Duration::from_secs(10));
const MOST_RATE: u64 = 10_000;
/// Bytes of UDP payload: what a packet has to say, and what fits a frame of 9000 bytes.
const SIZE: (u32, u32) = (56, 8972);
/// Longest time a packet may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Bins are not finer than this.
const LEAST_BIN: Duration = Duration::from_millis(1);

impl Default for ProbeSpec {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(10),
            size: 64,
            dscp: 0,
            timeout: Duration::from_secs(1),
            max_late: Percent::new(5.0),
            series: None,
        }
    }
}

/// `true`, `false`, or a table, which means yes.
pub(super) fn read(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<ProbeSpec> {
    if !matches!(entry.value, DeValue::Table(_)) {
        return entry.switch(sink).unwrap_or(false).then(ProbeSpec::default);
    }
    let mut section = entry.section(sink)?;
    let mut probe = ProbeSpec::default();
    if let Some(interval) = interval(&mut section, sink) {
        probe.interval = interval;
    }
    let (least, most) = SIZE;
    if let Some(size) = section.take("size").and_then(|entry| entry.integer(sink, least, most)) {
        probe.size = size;
    }
    if let Some(dscp) = section.take("dscp").and_then(|entry| entry.integer(sink, 0_u8, 63)) {
        probe.dscp = dscp;
    }
    if let Some(timeout) = section.take("timeout").and_then(|entry| parse::positive_duration(&entry, TIMEOUT, sink)) {
        probe.timeout = timeout;
    }
    if let Some(share) = section.take("max_late").and_then(|entry| entry.quantity(sink, Percent::ACCEPTED)) {
        probe.max_late = share;
    }
    probe.series =
        section.take("series").and_then(|entry| within(&entry, (LEAST_BIN, Duration::from_secs(3600)), sink));
    section.finish(sink);
    Some(probe)
}

/// Of `rate` or `interval`.
fn interval(section: &mut Section<'_>, sink: &mut Sink<'_>) -> Option<Duration> {
    let (rate, interval) = (section.take("rate"), section.take("interval"));
    if let (Some(_), Some(interval)) = (&rate, &interval) {
        let message = "the probe has both a `rate` and an `interval`";
        sink.push(Diagnostic::error(interval.span.clone(), message).label("one of them says it all"));
        return None;
    }
    match (rate, interval) {
        (Some(rate), _) => from_rate(&rate, sink),
        (None, interval) => within(&interval?, INTERVAL, sink),
    }
}

/// `"100/s"`
fn from_rate(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Duration> {
    let number = entry.value.as_str().and_then(|text| text.trim().strip_suffix("/s")).map(str::trim_end);
    let digits = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse::<u64>().ok()).filter(|rate| (1..=MOST_RATE).contains(rate)) {
        // To the nearest nanosecond.
        Some(rate) => Some(Duration::from_nanos((1_000_000_000 + rate / 2) / rate)),
        None => {
            let help = "slower ones are given by `interval`".to_owned();
            entry.refuse_with_help(
                sink,
                format_args!("packets a second from \"1/s\" to \"{MOST_RATE}/s\""),
                Some(help),
            );
            None
        }
    }
}

fn within(entry: &Entry<'_>, (least, most): (Duration, Duration), sink: &mut Sink<'_>) -> Option<Duration> {
    let duration = entry.quantity_by(sink, DURATION_ACCEPTED, parse_duration)?;
    if (least..=most).contains(&duration) {
        return Some(duration);
    }
    entry.refuse(sink, format_args!("from {} to {}", format_duration(least), format_duration(most)));
    None
}
