//! Filling in [`Parsed`]: what every workload's reader does alike.

use super::{PairOutputs, Parsed};
use crate::ids::{Better, Level, NodeId};
use crate::node::{ExitStatus, Output};
use crate::record::{Metric, Quantile};

/// Collects what the outputs of one pair say.
#[derive(Debug)]
pub(super) struct Readings {
    pair: u32,
    parsed: Parsed,
}

impl Readings {
    pub(super) fn new(pair: u32) -> Self {
        Self { pair, parsed: Parsed::default() }
    }

    /// A number the application reports about the client's side.
    pub(super) fn metric(&mut self, name: &str, unit: &str, better: Option<Better>, value: Option<f64>) {
        self.metric_on(NodeId::client(self.pair), Level::Application, name, unit, better, value);
    }

    /// A number about any node, at any level. A value that is not finite is stored as missing and makes the pair
    /// invalid.
    pub(super) fn metric_on(
        &mut self,
        node: NodeId,
        level: Level,
        name: &str,
        unit: &str,
        better: Option<Better>,
        value: Option<f64>,
    ) {
        let finite = value.filter(|v| v.is_finite());
        if finite != value {
            self.invalid(format!("{name} is not a finite number"));
        }
        self.parsed.metrics.push(Metric {
            pair: Some(self.pair),
            node: Some(node),
            level,
            name: name.to_owned(),
            unit: unit.to_owned(),
            value: finite,
            better,
        });
    }

    /// One point of a distribution seen by the client.
    pub(super) fn quantile(&mut self, name: &str, unit: &str, q: f64, value: Option<f64>) {
        self.parsed.quantiles.push(Quantile {
            pair: Some(self.pair),
            node: Some(NodeId::client(self.pair)),
            name: name.to_owned(),
            unit: unit.to_owned(),
            q,
            value,
        });
    }

    /// Makes the pair invalid.
    pub(super) fn invalid(&mut self, reason: impl AsRef<str>) {
        self.parsed.invalid.push(format!("pair {}: {}", self.pair, reason.as_ref()));
    }

    /// Makes the pair suspect.
    pub(super) fn suspect(&mut self, reason: impl AsRef<str>) {
        self.parsed.suspect.push(format!("pair {}: {}", self.pair, reason.as_ref()));
    }

    /// Did the client run to its end with status 0, its output kept whole? Otherwise the pair is invalid.
    pub(super) fn client_finished(&mut self, program: &str, outputs: &PairOutputs) -> bool {
        let last = last_line(&outputs.client_err).map(|line| format!(": {line}")).unwrap_or_default();
        let reason = match outputs.client_exit.map(|exit| exit.status) {
            None => Some(format!("{program} did not finish within its time limit{last}")),
            Some(ExitStatus::Code(0)) if outputs.client_out.truncated => {
                Some(format!("{program} wrote more than is kept of an output"))
            }
            Some(ExitStatus::Code(0)) => None,
            Some(status) => Some(format!("{program} ended with {status}{last}")),
        };
        let finished = reason.is_none();
        reason.into_iter().for_each(|reason| self.invalid(reason));
        finished
    }

    pub(super) fn finish(self) -> Parsed {
        self.parsed
    }
}

/// The last line of an output that is not blank, shortened, control characters escaped.
pub(super) fn last_line(output: &Output) -> Option<String> {
    last_lines(output, 1).pop()
}

/// The last `count` lines of an output that are not blank, in order.
pub(super) fn last_lines(output: &Output, count: usize) -> Vec<String> {
    const TAIL: usize = 16 << 10;
    let tail = &output.bytes[output.bytes.len().saturating_sub(TAIL)..];
    let text = String::from_utf8_lossy(tail);
    let lines = text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let mut lines: Vec<String> = lines.take(count).map(super::number::shown).collect();
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_short_and_harmless() {
        let output = Output { bytes: b"first\n\x1b[31mred\n\xff tail\n\n  \n".to_vec(), truncated: false };
        assert_eq!(last_lines(&output, 2), ["\\u{1b}[31mred", "\u{fffd} tail"]);
        assert_eq!(last_line(&Output::default()), None);
    }

    #[test]
    fn what_is_not_finite_is_missing_and_invalid() {
        let mut readings = Readings::new(2);
        readings.metric("rps", "1/s", None, Some(f64::INFINITY));
        let parsed = readings.finish();
        assert_eq!(parsed.metrics[0].value, None);
        assert_eq!(parsed.invalid, ["pair 2: rps is not a finite number"]);
    }
}
