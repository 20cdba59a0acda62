//! `[limits]`: when a run leaves the rest for later.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;

use super::campaign::Errand;
use super::space::{self, Used, size};
use crate::record::{IterationRecord, Status};
use crate::spec::LimitsSpec;
use crate::units::format_duration;

/// Iterations of this run between two looks at what all files take; what this run adds is counted as it goes.
const LOOK_AGAIN: u32 = 100;

/// The limits while a campaign runs.
pub(crate) struct Limits<'a> {
    spec: &'a LimitsSpec,
    out: &'a Path,
    errand: Errand,
    began: Instant,
    /// Iterations in a row that went wrong, and how the last of them did.
    wrong: (u32, String),
    /// What is stored, and how many iterations ended since all of it was counted.
    used: Option<(Used, u32)>,
}

impl<'a> Limits<'a> {
    pub(crate) fn new(spec: &'a LimitsSpec, out: &'a Path, errand: Errand) -> Self {
        Self { spec, out, errand, began: Instant::now(), wrong: (0, String::new()), used: None }
    }

    /// Why no further iteration may begin beside those that run; `None` when one may.
    pub(crate) fn reached(&mut self, running: u64) -> anyhow::Result<Option<String>> {
        if self.errand.halt.as_ref().is_some_and(|halt| halt.exists()) {
            return Ok(Some("the coordinator wishes no more".to_owned()));
        }
        if let Some(why) = self.failures().or_else(|| self.time()) {
            return Ok(Some(why));
        }
        Ok(self.storage(running)?.or(self.free()?))
    }

    fn failures(&self) -> Option<String> {
        let most = self.spec.failures?;
        let (count, last) = &self.wrong;
        let word = if *count == 1 { "iteration" } else { "iterations in a row" };
        (*count >= most).then(|| format!("{count} {word} went wrong (`limits.failures` = {most}), the last: {last}"))
    }

    fn time(&self) -> Option<String> {
        if let Some(most) = self.spec.duration.filter(|most| self.began.elapsed() >= *most) {
            return Some(format!("the run has taken its {} (`limits.duration`)", format_duration(most)));
        }
        let end = [self.spec.until, self.errand.until].into_iter().flatten().min();
        let end = end.filter(|end| jiff::Timestamp::now() >= *end)?;
        Some(format!("it is past {end} (`limits.until`)"))
    }

    /// Would one more iteration like the others, and those that run, take more than there may be?
    fn storage(&mut self, running: u64) -> anyhow::Result<Option<String>> {
        let Some(most) = self.spec.storage else { return Ok(None) };
        let known = self.used.take().filter(|(_, since)| *since < LOOK_AGAIN);
        let (used, since) = match known {
            Some(known) => known,
            None => (space::used(self.out).with_context(|| format!("cannot read {}", self.out.display()))?, 0),
        };
        self.used = Some((used, since));
        let next = used.bytes.saturating_add(used.mean().unwrap_or(0).saturating_mul(running + 1));
        let text = || {
            format!("{} are stored, and one more iteration would exceed {most} (`limits.storage`)", size(used.bytes))
        };
        Ok((next > most.0).then(text))
    }

    fn free(&self) -> anyhow::Result<Option<String>> {
        let Some(least) = self.spec.free else { return Ok(None) };
        let free = space::free(self.out)?;
        Ok((free < least.0).then(|| {
            format!("{} are free in {}, {least} must stay so (`limits.free`)", size(free), self.out.display())
        }))
    }

    /// Stored files have become fewer.
    pub(crate) fn look_again(&mut self) {
        self.used = None;
    }

    /// The last attempt of an iteration ended and is stored in `file`.
    pub(crate) fn ended(&mut self, record: &IterationRecord, file: &Path) -> anyhow::Result<()> {
        let status = record.outcome.status();
        match status {
            Status::Failed | Status::TimedOut | Status::Invalid => {
                let reason = record.outcome.reasons().into_iter().next().unwrap_or_default();
                self.wrong = (self.wrong.0 + 1, format!("iteration {} {status}: {reason}", record.header.number));
            }
            Status::Complete | Status::Suspect => self.wrong.0 = 0,
            // Nobody knows how it would have ended.
            Status::Interrupted => {}
        }
        if let Some((used, since)) = &mut self.used {
            *since += 1;
            used.add(file).with_context(|| format!("cannot read the size of {}", file.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::Stage;
    use crate::record::Outcome;
    use crate::store::tests::records::sample;
    use crate::units::ByteSize;

    fn limits<'a>(spec: &'a LimitsSpec, out: &'a Path) -> Limits<'a> {
        Limits::new(spec, out, Errand::default())
    }

    fn ended(limits: &mut Limits<'_>, outcome: Outcome) {
        let record = IterationRecord { outcome, ..sample(7) };
        limits.ended(&record, Path::new("absent")).unwrap();
    }

    #[test]
    fn failures_in_a_row_end_a_run_and_others_do_not() {
        let spec = LimitsSpec { failures: Some(2), ..LimitsSpec::default() };
        let mut limits = limits(&spec, Path::new("."));
        let failed = || Outcome::Failed { stage: Stage::Workload, error: "ab: no route to host".to_owned() };
        ended(&mut limits, failed());
        ended(&mut limits, Outcome::Complete);
        ended(&mut limits, failed());
        assert_eq!(limits.reached(0).unwrap(), None);
        ended(&mut limits, Outcome::Interrupted { stage: Stage::Workload, by: "Ctrl-C".to_owned() });
        ended(&mut limits, failed());
        let why = limits.reached(0).unwrap().unwrap();
        assert!(
            why.starts_with("2 iterations in a row went wrong (`limits.failures` = 2), the last: iteration 7 failed"),
            "{why}"
        );
        assert!(why.ends_with("ab: no route to host"), "{why}");
    }

    #[test]
    fn time_is_up_when_it_is() {
        let none = LimitsSpec::default();
        assert_eq!(limits(&none, Path::new("absent")).reached(0).unwrap(), None, "nothing is looked at");
        let past = LimitsSpec { until: Some("2026-01-01T00:00:00Z".parse().unwrap()), ..none.clone() };
        let why = limits(&past, Path::new(".")).reached(0).unwrap().unwrap();
        assert_eq!(why, "it is past 2026-01-01T00:00:00Z (`limits.until`)");
        let future = LimitsSpec {
            until: Some("2999-01-01T00:00:00Z".parse().unwrap()),
            duration: Some(Duration::from_hours(1)),
            ..none
        };
        assert_eq!(limits(&future, Path::new(".")).reached(0).unwrap(), None);
    }

    #[test]
    fn what_is_stored_counts_and_what_the_next_would_take() {
        let out = tempfile::tempdir().unwrap();
        let name = |n: u32| out.path().join(format!("{n:06}-0123456789ab01.db"));
        std::fs::write(name(1), [0; 1000]).unwrap();
        let spec = |bytes| LimitsSpec { storage: Some(ByteSize(bytes)), ..LimitsSpec::default() };
        assert!(limits(&spec(1999), out.path()).reached(0).unwrap().unwrap().contains("limits.storage"));
        let enough = spec(4000);
        let mut limits = limits(&enough, out.path());
        assert_eq!(limits.reached(0).unwrap(), None);
        std::fs::write(name(2), [0; 1000]).unwrap();
        std::fs::create_dir(name(2).with_extension("d")).unwrap();
        std::fs::write(name(2).with_extension("d").join("client.pcapng"), [0; 500]).unwrap();
        limits.ended(&sample(2), &name(2)).unwrap();
        assert_eq!(limits.reached(0).unwrap(), None, "2500 and 1250 more");
        std::fs::write(name(3), [0; 1000]).unwrap();
        limits.ended(&sample(3), &name(3)).unwrap();
        let why = limits.reached(0).unwrap().unwrap();
        assert!(why.starts_with("3.5 kB are stored, and one more iteration would exceed 4 kB"), "{why}");
    }

    #[test]
    fn room_must_stay_free() {
        let spec = |bytes| LimitsSpec { free: Some(ByteSize(bytes)), ..LimitsSpec::default() };
        assert_eq!(limits(&spec(1), Path::new(".")).reached(0).unwrap(), None);
        let why = limits(&spec(u64::MAX), Path::new(".")).reached(0).unwrap().unwrap();
        assert!(why.contains("must stay so (`limits.free`)"), "{why}");
    }
}
