//! ab's report: text to numbers, every line checked.
//!
//! Formats as in `support/ab.c` of httpd 2.4 (ab 2.3). Lines that ab prints only for a count above zero (`Non-2xx
//! responses`, `Write errors`, the kinds of failure) are 0 when they are not there; any other line that is missing,
//! doubled or does not parse is a problem.

use super::super::number::{count, decimal, shown, whole};
use super::super::readings::Readings;
use crate::ids::Better;

/// What ab reported.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Report {
    pub(super) complete: u64,
    pub(super) failed: u64,
    pub(super) breakdown: Breakdown,
    pub(super) non_2xx: u64,
    pub(super) write_errors: u64,
    pub(super) concurrency: u64,
    /// `None` with `-l`: pages of any length were taken.
    pub(super) document_length: Option<u64>,
    /// `None` without `-k`.
    pub(super) keepalive_requests: Option<u64>,
    total_transferred: u64,
    pub(super) html_transferred: u64,
    seconds: f64,
    phases: Vec<Phase>,
}

/// Why requests failed; one request can fail in several ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Breakdown {
    connect: u64,
    receive: u64,
    length: u64,
    exceptions: u64,
}

impl std::fmt::Display for Breakdown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { connect, receive, length, exceptions } = self;
        write!(f, "connect: {connect}, receive: {receive}, length: {length}, exceptions: {exceptions}")
    }
}

/// A row of `Connection Times (ms)`: min, mean, standard deviation, median, max, in seconds. ab prints whole
/// milliseconds, and tenths for the standard deviation.
#[derive(Debug, Clone, PartialEq)]
struct Phase {
    name: &'static str,
    seconds: [f64; 5],
}

/// Reads a report, or says everything that is wrong with it.
pub(super) fn read(text: &str, keepalive: bool) -> Result<Report, Vec<String>> {
    let mut reader = Reader { text, problems: Vec::new() };
    let report = reader.report(keepalive);
    match (report, reader.problems.is_empty()) {
        (Some(report), true) => Ok(report),
        (_, false) => Err(reader.problems),
        (None, true) => Err(vec!["ab's report cannot be read".to_owned()]),
    }
}

struct Reader<'a> {
    text: &'a str,
    problems: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Reads on past problems so that all of them are named.
    fn report(&mut self, keepalive: bool) -> Option<Report> {
        let concurrency = self.whole("Concurrency Level:", "");
        let document_length = self.document_length();
        let complete = self.whole("Complete requests:", "");
        let failed = self.whole("Failed requests:", "");
        let breakdown =
            failed.and_then(|failed| if failed == 0 { Some(Breakdown::default()) } else { self.breakdown() });
        let non_2xx = self.whole_or_zero("Non-2xx responses:");
        let write_errors = self.whole_or_zero("Write errors:");
        let keepalive_requests = if keepalive { self.whole("Keep-Alive requests:", "").map(Some) } else { Some(None) };
        let total_transferred = self.whole("Total transferred:", " bytes");
        let html_transferred = self.whole("HTML transferred:", " bytes");
        let phases: Option<Vec<Phase>> =
            ["Connect", "Processing", "Waiting", "Total"].map(|name| self.phase(name)).into_iter().collect();
        let printed = self.printed();
        let (complete, concurrency, total_transferred) = (complete?, concurrency?, total_transferred?);
        let seconds = printed?.seconds(complete, concurrency, total_transferred);
        if seconds.is_none() {
            self.problems.push("ab's time, rates and counts contradict each other".to_owned());
        }
        Some(Report {
            complete,
            failed: failed?,
            breakdown: breakdown?,
            non_2xx: non_2xx?,
            write_errors: write_errors?,
            concurrency,
            document_length: document_length?,
            keepalive_requests: keepalive_requests?,
            total_transferred,
            html_transferred: html_transferred?,
            seconds: seconds?,
            phases: phases?,
        })
    }

    fn document_length(&mut self) -> Option<Option<u64>> {
        let label = "Document Length:";
        let variable = |line: &str| line.strip_prefix(label).is_some_and(|value| value.trim() == "Variable");
        if self.text.lines().any(variable) { Some(None) } else { self.whole(label, " bytes").map(Some) }
    }

    fn printed(&mut self) -> Option<Printed> {
        let time = self.decimal("Time taken for tests:", " seconds");
        let rps = self.decimal("Requests per second:", " [#/sec] (mean)");
        let per_request = self.decimal("Time per request:", " [ms] (mean)");
        let across = self.decimal("Time per request:", " [ms] (mean, across all concurrent requests)");
        let kbytes = self.decimal("Transfer rate:", " [Kbytes/sec] received");
        Some(Printed { time: time?, rps: rps?, per_request: per_request?, across: across?, kbytes: kbytes? })
    }

    fn breakdown(&mut self) -> Option<Breakdown> {
        let inner = self.only("   (Connect:", ")")?;
        let numbers = inner.split(',').zip(["", "Receive:", "Length:", "Exceptions:"]);
        let numbers: Option<Vec<u64>> =
            numbers.map(|(part, label)| whole(part.trim().strip_prefix(label)?.trim()).ok()).collect();
        match numbers.as_deref() {
            Some(&[connect, receive, length, exceptions]) => Some(Breakdown { connect, receive, length, exceptions }),
            _ => {
                self.problems.push(format!("ab's line `(Connect:{})` cannot be read", shown(inner)));
                None
            }
        }
    }

    fn phase(&mut self, name: &'static str) -> Option<Phase> {
        let row = self.only(&format!("{name}:"), "")?;
        let columns: Option<Vec<f64>> = row.split_whitespace().map(|c| decimal(c).ok().map(|ms| ms / 1000.0)).collect();
        match columns.and_then(|columns| <[f64; 5]>::try_from(columns).ok()) {
            Some(seconds) => Some(Phase { name, seconds }),
            None => {
                self.problems.push(format!("ab's line `{name}:{}` is not five numbers", shown(row)));
                None
            }
        }
    }

    fn whole(&mut self, label: &str, suffix: &str) -> Option<u64> {
        let text = self.only(label, suffix)?;
        self.number(label, whole(text.trim()))
    }

    fn decimal(&mut self, label: &str, suffix: &str) -> Option<f64> {
        let text = self.only(label, suffix)?;
        self.number(
            label,
            decimal(text.trim()).and_then(|v| (v >= 0.0).then_some(v).ok_or("it is negative".to_owned())),
        )
    }

    fn whole_or_zero(&mut self, label: &str) -> Option<u64> {
        let there = self.text.lines().any(|line| line.starts_with(label));
        if there { self.whole(label, "") } else { Some(0) }
    }

    fn number<T>(&mut self, label: &str, read: Result<T, String>) -> Option<T> {
        read.map_err(|why| self.problems.push(format!("ab's line `{label}` cannot be read: {why}"))).ok()
    }

    /// What stands between `label` and `suffix` on the only line that has both.
    fn only(&mut self, label: &str, suffix: &str) -> Option<&'a str> {
        let text = self.text;
        let mut found = text.lines().filter_map(|line| line.strip_prefix(label)?.strip_suffix(suffix));
        match (found.next(), found.next()) {
            (Some(value), None) => Some(value),
            (None, _) => {
                self.problems.push(format!("ab printed no line `{}{}`", label.trim(), suffix));
                None
            }
            (Some(_), Some(_)) => {
                self.problems.push(format!("ab printed the line `{}{}` twice", label.trim(), suffix));
                None
            }
        }
    }
}

/// The five rounded numbers that ab derives from the one time it measured.
#[derive(Debug, Clone, Copy)]
struct Printed {
    /// Seconds, rounded to 10^-3.
    time: f64,
    /// Requests per second, rounded to 10^-2.
    rps: f64,
    /// Milliseconds: concurrency × time ÷ requests, rounded to 10^-3.
    per_request: f64,
    /// Milliseconds: time ÷ requests, rounded to 10^-3.
    across: f64,
    /// 1024 bytes per second: bytes ÷ 1024 ÷ time, rounded to 10^-2.
    kbytes: f64,
}

impl Printed {
    /// The time taken, as exactly as the five together tell; `None` when no time agrees with all of them.
    ///
    /// Each number holds within half a unit of its last digit, which bounds the time; the middle of what all bounds
    /// leave is the result. A short test is known best from its rate, a long one from its time.
    fn seconds(self, complete: u64, concurrency: u64, bytes: u64) -> Option<f64> {
        let (complete, concurrency, kbytes) = (count(complete), count(concurrency), count(bytes) / 1024.0);
        let direct = |value: f64, half: f64, scale: f64| ((value - half) * scale, (value + half) * scale);
        // A rate below half a digit says only that the time is long.
        let inverse = |value: f64, half: f64, total: f64| {
            (total / (value + half), if value > half { total / (value - half) } else { f64::INFINITY })
        };
        let bounds = [
            direct(self.time, 0.0005, 1.0),
            inverse(self.rps, 0.005, complete),
            direct(self.per_request, 0.0005, complete / concurrency / 1000.0),
            direct(self.across, 0.0005, complete / 1000.0),
            inverse(self.kbytes, 0.005, kbytes),
        ];
        // Room for the last digits of ab's own arithmetic.
        let slack = 1.0 + 1e-9;
        let low = bounds.iter().map(|(low, _)| low / slack).fold(0.0, f64::max);
        let high = bounds.iter().map(|(_, high)| high * slack).fold(f64::INFINITY, f64::min);
        let middle = f64::midpoint(low, high);
        (low <= high && middle > 0.0 && middle.is_finite()).then_some(middle)
    }
}

impl Report {
    /// Everything as metrics. Rates and times per request are derived from the time and the counts, at full precision.
    pub(super) fn metrics(&self, readings: &mut Readings) {
        let (higher, lower) = (Some(Better::Higher), Some(Better::Lower));
        let complete = count(self.complete);
        readings.metric("rps", "1/s", higher, Some(complete / self.seconds));
        readings.metric("time_taken", "s", lower, Some(self.seconds));
        readings.metric("transfer_rate", "B/s", higher, Some(count(self.total_transferred) / self.seconds));
        let across = self.seconds / complete;
        readings.metric("time_per_request", "s", lower, Some(across * count(self.concurrency)));
        readings.metric("time_per_request_across", "s", lower, Some(across));
        for (name, unit, better, value) in [
            ("complete_requests", "1", None, self.complete),
            ("failed_requests", "1", lower, self.failed),
            ("failed_connect", "1", lower, self.breakdown.connect),
            ("failed_receive", "1", lower, self.breakdown.receive),
            ("failed_length", "1", lower, self.breakdown.length),
            ("failed_exceptions", "1", lower, self.breakdown.exceptions),
            ("non_2xx", "1", lower, self.non_2xx),
            ("write_errors", "1", lower, self.write_errors),
            ("concurrency", "1", None, self.concurrency),
            ("total_transferred", "B", None, self.total_transferred),
            ("html_transferred", "B", None, self.html_transferred),
        ] {
            readings.metric(name, unit, better, Some(count(value)));
        }
        readings.metric("document_length", "B", None, self.document_length.map(count));
        if let Some(requests) = self.keepalive_requests {
            readings.metric("keepalive_requests", "1", None, Some(count(requests)));
        }
        for phase in &self.phases {
            for (column, value) in ["min", "mean", "sd", "median", "max"].into_iter().zip(phase.seconds) {
                let name = format!("{}_{column}", phase.name.to_ascii_lowercase());
                readings.metric(&name, "s", lower, Some(value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What ab prints for any time leads back to that time, within what its digits allow.
        #[test]
        fn the_time_is_found_again(micros in 50..10_000_000_000_u64, complete in 1..1_000_000_u64, workers in 1..500_u64,
                                   size in 1..20_000_000_u64) {
            let (t, n, c, bytes) = (count(micros) / 1e6, count(complete), count(workers), complete * size);
            let rounded = |value: f64, digits: usize| decimal(&format!("{value:.digits$}")).unwrap();
            let printed = Printed {
                time: rounded(t, 3),
                rps: rounded(n / t, 2),
                per_request: rounded(c * t * 1000.0 / n, 3),
                across: rounded(t * 1000.0 / n, 3),
                kbytes: rounded(count(bytes) / 1024.0 / t, 2),
            };
            let found = printed.seconds(complete, workers, bytes).unwrap();
            prop_assert!((found - t).abs() <= 0.00051, "{found} for {t}");
            let wrong = Printed { time: printed.time * 1.1 + 0.01, ..printed };
            prop_assert_eq!(wrong.seconds(complete, workers, bytes), None);
        }
    }
}
