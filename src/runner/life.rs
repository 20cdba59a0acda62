//! Stages of one iteration: each is timed, bounded by the deadline, interruptible, and may even panic.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use futures_util::FutureExt as _;

use super::cancel::Cancel;
use super::iteration::Setup;
use super::observer::{Observer, Progress};
use super::running::Claim;
use crate::host::clock::now_ns;
use crate::ids::{IterationNumber, Stage};
use crate::record::{Event, EventLevel, Outcome, StageTiming};
use crate::testbed::TestbedError;

/// Why an iteration does not go on to its next stage.
#[derive(Debug)]
pub(super) enum Stop {
    /// It has an outcome.
    Outcome(Outcome),
    /// This host cannot run it: no fault of the iteration, and the others will fare no better.
    Unsupported(TestbedError),
}

/// How far an iteration has come.
pub(super) struct Life<'a> {
    number: IterationNumber,
    observer: &'a dyn Observer,
    claim: &'a mut Claim,
    deadline: tokio::time::Instant,
    cancel: Cancel,
    current: Stage,
    /// Had somebody wished to stop before the current stage began?
    was_wished: bool,
    pub(super) events: Vec<Event>,
    pub(super) stages: Vec<StageTiming>,
}

impl<'a> Life<'a> {
    /// An iteration that begins now.
    pub(super) fn new(setup: &Setup<'a>, claim: &'a mut Claim) -> Self {
        Self {
            number: setup.iteration.number,
            observer: setup.observer,
            claim,
            deadline: tokio::time::Instant::now() + setup.plan.spec.timeout,
            cancel: setup.cancel.clone(),
            events: Vec::new(),
            stages: Vec::new(),
            current: Stage::Preflight,
            was_wished: false,
        }
    }

    /// The stage that began last.
    pub(super) fn current(&self) -> Stage {
        self.current
    }

    /// Had somebody wished to stop before the stage that began last?
    pub(super) fn was_wished(&self) -> bool {
        self.was_wished
    }

    /// Adds what others have recorded.
    pub(super) fn add(&mut self, events: Vec<Event>) {
        for event in &events {
            self.observer.notice(&Progress::Event { number: self.number, level: event.level, text: &event.text });
        }
        self.events.extend(events);
    }

    /// Runs one stage until it ends, fails, panics, passes the iteration's deadline or is interrupted.
    pub(super) async fn stage<T>(
        &mut self,
        stage: Stage,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> Result<T, Stop> {
        let deadline = self.deadline;
        let mut cancel = self.cancel.clone();
        let wish = async move { cancel.cancelled().await };
        self.bounded(stage, deadline, wish, work).await
    }

    /// Like `stage`, for what must be done also after the deadline and after an interruption: it has its own limit.
    pub(super) async fn closing_stage<T>(
        &mut self,
        stage: Stage,
        limit: std::time::Duration,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> Result<T, Stop> {
        self.bounded(stage, tokio::time::Instant::now() + limit, std::future::pending(), work).await
    }

    async fn bounded<T>(
        &mut self,
        stage: Stage,
        deadline: tokio::time::Instant,
        wish: impl Future<Output = String>,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> Result<T, Stop> {
        self.begin(stage);
        let begun = Instant::now();
        let result = tokio::select! {
            biased;
            by = wish => Err(Stop::Outcome(Outcome::Interrupted { stage, by })),
            () = tokio::time::sleep_until(deadline) => Err(Stop::Outcome(Outcome::TimedOut { stage })),
            result = AssertUnwindSafe(work).catch_unwind() => match result {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => Err(stop(stage, error)),
                Err(panic) => Err(failed(stage, format!("internal error: {}", panic_text(panic.as_ref())))),
            },
        };
        if let Some(timing) = self.stages.last_mut() {
            timing.duration_ns = i64::try_from(begun.elapsed().as_nanos()).ok();
        }
        result
    }

    /// Notes that a stage begins, also on disk, where the next run looks when this one dies.
    fn begin(&mut self, stage: Stage) {
        (self.current, self.was_wished) = (stage, self.cancel.requested().is_some());
        self.stages.push(StageTiming { stage, started_ns: now_ns(), duration_ns: None });
        self.observer.notice(&Progress::Stage { number: self.number, stage });
        if let Err(error) = self.claim.enter(stage) {
            self.event(EventLevel::Warn, format!("cannot note the stage for recovery: {error:#}"));
        }
    }

    /// Records something that happened now.
    pub(super) fn event(&mut self, level: EventLevel, text: String) {
        self.observer.notice(&Progress::Event { number: self.number, level, text: &text });
        self.events.push(Event { at_ns: now_ns(), stage: self.current, level, text });
    }
}

fn stop(stage: Stage, error: anyhow::Error) -> Stop {
    match error.downcast::<TestbedError>() {
        Ok(error @ TestbedError::Unsupported { .. }) => Stop::Unsupported(error),
        Ok(error) => failed(stage, format!("{:#}", anyhow::Error::from(error))),
        Err(error) => failed(stage, format!("{error:#}")),
    }
}

fn failed(stage: Stage, error: String) -> Stop {
    Stop::Outcome(Outcome::Failed { stage, error })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}
