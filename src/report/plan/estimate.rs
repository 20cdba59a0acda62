//! About how long a plan takes and how much it stores.
//!
//! A deliberately simple model, to tell minutes from days before anything runs; docs/spec.md describes it. Once
//! iterations have run, `vptest status` goes by them instead.

use std::time::Duration;

use crate::plan::Plan;
use crate::spec::{CaptureSpec, Instrument, Spec, Tuple, WorkloadSpec};
use crate::units::ByteSize;

/// Time and storage of a whole plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Sum over all iterations; `None` when the workload does not say how long it takes.
    pub time: Option<Duration>,
    /// Sum of the limits: no plan takes longer, retries aside.
    pub longest: Duration,
    /// Bytes of all iteration files and kept captures; `None` when the kept captures cannot be foreseen.
    pub bytes: Option<u64>,
}

/// Launch, verify, instrument, collect, teardown and store, in seconds.
const FIXED_SECONDS: &[(&str, f64)] = &[
    ("fake", 0.1),
    ("netns", 1.0),
    ("qemu", 15.0),
    ("minimega-container", 5.0),
    ("minimega-kvm", 60.0),
    ("physical", 5.0),
];
/// The same for each further pair.
const PAIR_SECONDS: f64 = 0.1;
/// The link test of one pair up to each level, which is made before a tuple's first iteration.
const LINK_TEST_SECONDS: [f64; 4] = [0.1, 0.1, 1.7, 3.0];
/// One HTTP request and its answer, on a CPU that all pairs share.
const REQUEST_SECONDS: f64 = 1e-4;
/// Copying on a CPU that all pairs share, in bytes per second.
const COPY_RATE: f64 = 1e9;
/// A page whose size its URL does not tell.
const PAGE_BYTES: f64 = 1000.0;
/// iperf3 beside its `-t`.
const IPERF3_SECONDS: f64 = 1.0;
/// protonuke beside its duration: the start of both, and the server's last reports.
const PROTONUKE_SECONDS: f64 = 1.0;
/// An iteration file, and what each pair adds.
const FILE_BYTES: f64 = 200_000.0;
const PAIR_BYTES: f64 = 20_000.0;
/// Payload of a full packet, and headers before it.
const SEGMENT_BYTES: f64 = 1448.0;
const HEADER_BYTES: f64 = 66.0;
/// What a pcap file adds to each packet.
const RECORD_BYTES: f64 = 16.0;

impl Estimate {
    /// The estimate for a plan.
    pub fn of(plan: &Plan) -> Self {
        let spec = &plan.spec;
        let limit = spec.timeout.as_secs_f64();
        let repetitions = f64::from(spec.repetitions);
        let sentinels = plan.iterations.iter().filter(|slot| slot.is_sentinel()).map(|slot| slot.tuple).next();
        let (sentinel, times) = (sentinels.map(|tuple| &plan.tuples[tuple as usize].tuple), plan.sentinels());
        #[expect(clippy::cast_precision_loss, reason = "a rough figure")]
        let sum = |each: &dyn Fn(&Tuple) -> Option<f64>| -> Option<f64> {
            let all = plan.tuples.iter().map(|planned| each(&planned.tuple)).sum::<Option<f64>>();
            Some(all? * repetitions + sentinel.map_or(Some(0.0), each)? * times as f64)
        };
        let time = sum(&|tuple| Some((fixed(tuple) + workload(spec, tuple)? + switch(spec, tuple)).min(limit)));
        let links: f64 = plan.tuples.iter().map(|planned| link_test(spec, &planned.tuple).min(limit)).sum();
        let time = time.map(|time| time + links);
        let bytes = sum(&|tuple| storage(spec, tuple));
        let count = u32::try_from(plan.iterations.len()).unwrap_or(u32::MAX);
        Self {
            time: time.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            longest: spec.timeout.saturating_mul(count),
            bytes: bytes.map(whole),
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rough positive figure; `as` saturates")]
const fn whole(figure: f64) -> u64 {
    figure as u64
}

fn fixed(tuple: &Tuple) -> f64 {
    let own = FIXED_SECONDS.iter().find(|(name, _)| *name == tuple.testbed()).map_or(1.0, |(_, seconds)| *seconds);
    own + f64::from(tuple.pairs() - 1) * PAIR_SECONDS
}

/// The wait for the counters of the switch between physical nodes.
fn switch(spec: &Spec, tuple: &Tuple) -> f64 {
    let Some(switch) = spec.testbed.physical.switch.as_ref().filter(|_| tuple.testbed() == "physical") else {
        return 0.0;
    };
    let is_read = switch.ports.iter().any(|(node, _)| node.pair <= tuple.pairs());
    if is_read { switch.update.as_secs_f64() } else { 0.0 }
}

fn link_test(spec: &Spec, tuple: &Tuple) -> f64 {
    let Some(test) = spec.verify.linktest.filter(|_| tuple.testbed() != "fake") else { return 0.0 };
    LINK_TEST_SECONDS[test.level as usize - 1] * f64::from(tuple.pairs())
}

/// Seconds of the workload itself; `None` when nothing is known about it.
fn workload(spec: &Spec, tuple: &Tuple) -> Option<f64> {
    match &spec.workload {
        WorkloadSpec::Ab { .. } => {
            let (requests, bytes) = requests(tuple);
            let pairs = f64::from(tuple.pairs());
            let cpu = pairs * (requests * REQUEST_SECONDS + bytes / COPY_RATE);
            // Each pair has a link of its own.
            let wire = tuple.rate().map_or(0.0, |rate| seconds_on_wire(bytes, rate.bits_per_second()));
            Some(cpu.max(wire))
        }
        WorkloadSpec::Iperf3 { duration, .. } => Some(duration.as_secs_f64() + IPERF3_SECONDS),
        WorkloadSpec::Protonuke(spec) => Some(spec.duration.as_secs_f64() + PROTONUKE_SECONDS),
        WorkloadSpec::Command { .. } => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rough figure")]
fn seconds_on_wire(bytes: f64, bits_per_second: u64) -> f64 {
    bytes * 8.0 / bits_per_second as f64
}

/// Number of requests of one client and their bytes.
#[expect(clippy::cast_precision_loss, reason = "a rough figure")]
fn requests(tuple: &Tuple) -> (f64, f64) {
    let count = tuple.integer("count").unwrap_or(1000) as f64;
    let size = tuple.text("url").and_then(size_in_url).map_or(PAGE_BYTES, |ByteSize(bytes)| bytes as f64);
    (count, count * size)
}

/// The size that `/image.png?size=16MB` asks the built-in server for.
fn size_in_url(url: &str) -> Option<ByteSize> {
    let (_, query) = url.split_once('?')?;
    let size = query.split('&').find_map(|parameter| parameter.strip_prefix("size="))?;
    size.parse().ok().or_else(|| size.parse().ok().map(ByteSize))
}

fn storage(spec: &Spec, tuple: &Tuple) -> Option<f64> {
    let file = FILE_BYTES + f64::from(tuple.pairs()) * PAIR_BYTES;
    let share = spec.storage.captures.share(spec.repetitions);
    // Of what is dropped nobody needs to know how large it is.
    if share == 0.0 { Some(file) } else { Some(file + share * captured(spec, tuple)?) }
}

/// About so many bytes an iteration file of this tuple has.
pub fn file_bytes(tuple: &Tuple) -> u64 {
    whole(FILE_BYTES + f64::from(tuple.pairs()) * PAIR_BYTES)
}

/// About so many bytes the captures of one iteration have while it runs: all that are kept, before a rule of `[storage]` drops them and
/// before they are compressed. `None` when that cannot be foreseen.
pub fn capture_bytes(spec: &Spec, tuple: &Tuple) -> Option<u64> {
    captured(spec, tuple).map(whole)
}

fn captured(spec: &Spec, tuple: &Tuple) -> Option<f64> {
    if !spec.capture.keep || !tuple.instruments().has(Instrument::Capture) {
        return Some(0.0);
    }
    Some(f64::from(tuple.pairs()) * kept_bytes(&spec.capture, traffic(spec, tuple)?))
}

/// Payload bytes of one pair; `None` when it is limited by nothing that is known here.
#[expect(clippy::cast_precision_loss, reason = "a rough figure")]
fn traffic(spec: &Spec, tuple: &Tuple) -> Option<f64> {
    match &spec.workload {
        WorkloadSpec::Ab { .. } => Some(requests(tuple).1),
        WorkloadSpec::Iperf3 { duration, bitrate, .. } => {
            let rate = bitrate.iter().copied().chain(tuple.rate()).min()?;
            Some(rate.bits_per_second() as f64 / 8.0 * duration.as_secs_f64())
        }
        WorkloadSpec::Protonuke(_) | WorkloadSpec::Command { .. } => None,
    }
}

/// Capture files of one pair: full packets one way, an acknowledgement for every second of them the other way, at both
/// nodes and every vantage.
#[expect(clippy::cast_precision_loss, reason = "a rough figure")]
fn kept_bytes(capture: &CaptureSpec, payload: f64) -> f64 {
    let snaplen = f64::from(capture.snaplen);
    let full = payload / SEGMENT_BYTES;
    let data = full * (snaplen.min(SEGMENT_BYTES + HEADER_BYTES) + RECORD_BYTES);
    let acknowledgements = full / 2.0 * (snaplen.min(HEADER_BYTES) + RECORD_BYTES);
    2.0 * capture.vantage.len() as f64 * (data + acknowledgements)
}

/// With the precision that such an estimate has: two digits.
pub(super) fn rough_duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (number, unit) = match seconds {
        s if s < 1.0 => return "1 s".to_owned(),
        s if s < 120.0 => (s, "s"),
        s if s < 7200.0 => (s / 60.0, "min"),
        s if s < 172_800.0 => (s / 3600.0, "h"),
        s => (s / 86_400.0, "days"),
    };
    format!("{} {unit}", two_digits(number))
}

/// As [`rough_duration`], with decimal prefixes.
#[expect(clippy::cast_precision_loss, reason = "a rough figure")]
pub(super) fn rough_size(bytes: u64) -> String {
    let bytes = bytes as f64;
    let (number, unit) = match bytes {
        b if b < 1e6 => (b / 1e3, "kB"),
        b if b < 1e9 => (b / 1e6, "MB"),
        b if b < 1e12 => (b / 1e9, "GB"),
        b => (b / 1e12, "TB"),
    };
    format!("{} {unit}", two_digits(number))
}

fn two_digits(number: f64) -> String {
    match number {
        n if n < 10.0 => format!("{:.1}", n).trim_end_matches(".0").to_owned(),
        n if n < 100.0 => format!("{n:.0}"),
        n => {
            let step = 10f64.powf(n.log10().floor() - 1.0);
            format!("{:.0}", (n / step).round() * step)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_two_digits() {
        let seconds = |s| rough_duration(Duration::from_secs(s));
        assert_eq!([0, 7, 119, 120, 345_600].map(seconds), ["1 s", "7 s", "120 s", "2 min", "4 days"]);
        assert_eq!(seconds(86_400 * 1234), "1200 days");
        assert_eq!(rough_size(1_550_000_000), "1.6 GB");
    }

    #[test]
    fn sizes_are_read_from_urls() {
        assert_eq!(size_in_url("/image.png?size=16MB"), Some(ByteSize(16_000_000)));
        assert_eq!(size_in_url("/x?a=1&size=1kB"), Some(ByteSize(1000)));
        assert_eq!(size_in_url("/image.png?size=1500"), Some(ByteSize(1500)));
        assert_eq!(size_in_url("/"), None);
        assert_eq!(size_in_url("/?size=many"), None);
    }
}
