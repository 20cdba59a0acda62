//! What has been observed of an iteration so far; each stage adds to it.

use crate::instrument::capture::Stopped;
use crate::instrument::host::{Snapshot, metrics};
use crate::record::{Capture, Environment, Event, Metric, Moment, Quantile, Setting};
use crate::spec::VerifySpec;
use crate::testbed::Path;
use crate::verify::Verdict;
use crate::workload::drive::Driven;

#[derive(Default)]
pub(super) struct Gathered {
    pub(super) settings: Vec<Setting>,
    pub(super) metrics: Vec<Metric>,
    pub(super) quantiles: Vec<Quantile>,
    pub(super) captures: Vec<Capture>,
    pub(super) environment: Vec<Environment>,
    pub(super) verdict: Verdict,
}

impl Gathered {
    pub(super) fn verified(&mut self, _spec: &VerifySpec, settings: Vec<Setting>, _paths: &[Path]) -> Vec<Event> {
        self.settings = settings;
        Vec::new()
    }

    pub(super) fn collected(
        &mut self,
        _spec: &VerifySpec,
        driven: Driven,
        stopped: Option<Stopped>,
        settings: Vec<Setting>,
        host: &[Snapshot; 2],
    ) -> Vec<Event> {
        let [before, after] = host;
        self.settings.extend(settings.into_iter().map(|setting| Setting { when: Moment::After, ..setting }));
        self.settings.extend(driven.settings);
        self.metrics.extend(driven.metrics);
        self.metrics.extend(metrics(&before.until(after)));
        self.quantiles = driven.quantiles;
        if let Some(stopped) = stopped {
            self.captures = stopped.captures;
        }
        self.verdict.invalid.extend(driven.invalid);
        self.verdict.suspect.extend(driven.suspect);
        driven.events
    }
}
