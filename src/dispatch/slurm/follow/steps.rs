//! Steps that are sent into elements whose nodes do not see the campaign's directory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::super::super::ssh::quoted;
use super::super::SlurmError;
use super::super::array;
use super::super::element::{Begun, Element};
use super::super::script::{self, BROKEN, MACHINE, NO_PROGRAM, NOT_KEPT};
use super::super::submit::slurm;
use super::{Errand, Following};
use crate::node::ExitStatus;

/// How long an element may take to show that it sees the directory: while nothing is known, and where others have.
const WAIT: Duration = Duration::from_secs(5);
const WAIT_LONG: Duration = Duration::from_secs(30);
/// How long letting a node go may take: it goes by itself after a minute.
const WAIT_RELEASE: Duration = Duration::from_secs(60);
/// Between two steps of which the first has failed.
const PAUSE: Duration = Duration::from_secs(2);
/// Steps that may fail on a node.
const MOST_FAILED: u32 = 3;
/// Words of a step: in the element's node beside its script, with all that the element has.
const STEP: &str = "srun --overlap --whole --nodes=1 --ntasks=1 --mem=0 --cpu-bind=none --mpi=none --chdir=/ --jobid=";

impl Following<'_, '_> {
    /// Sends a step into an element that waits for one.
    pub(super) fn send_step(&mut self, element: &mut Element) -> anyhow::Result<()> {
        if !self.wants_step(element) {
            return Ok(());
        }
        let Some(job) = element.seen.as_ref().map(|seen| seen.job) else { return Ok(()) };
        let begun = Begun::Step(element.next_step());
        let said = begun.said(&self.array.directory, element.number);
        std::fs::create_dir_all(&said).with_context(|| format!("cannot create {}", said.display()))?;
        let place = |name: &str| quoted(&self.array.directory.join(name).to_string_lossy());
        let program = if element.step.with_program { place(script::PROGRAM) } else { String::new() };
        // Each worker before this one, of whichever time that it had a node, may have used numbers of attempts.
        let streams = u32::try_from(element.streams.len()).unwrap_or(u32::MAX);
        let before = streams.saturating_add(element.restarts());
        let (files, step, said) = (place(script::FILES), place("step"), quoted(&said.to_string_lossy()));
        let (commands, number) = (Arc::clone(&self.commands), element.number);
        let call = format!("{STEP}{job} sh -c \"$(cat {step})\" vptest {before} {number}");
        let line = format!("cat {program} {files} | {call} > {said}/stdout 2> {said}/stderr");
        element.step.running = Some(begun);
        self.errands.push(Box::pin(async move {
            let talk = commands.talk("sh", &["-c".to_owned(), line]).await;
            Errand::Stepped(number, begun, talk.map(|(status, _, err)| (status, err)))
        }));
        Ok(())
    }

    fn wants_step(&mut self, element: &Element) -> bool {
        let wait = match (self.array_is_shared(), slurm(self.coordinator).is_shared) {
            (Some(true), _) => return false,
            (Some(false), _) | (None, Some(false)) => Duration::ZERO,
            (None, None) => WAIT,
            (None, Some(true)) => WAIT_LONG,
        };
        let is_time = element.step.not_before.is_none_or(|at| at <= Instant::now());
        let is_idle = element.step.running.is_none() && !element.step.is_released && element.killed.is_none();
        element.state() == "RUNNING"
            && self.halted.is_none()
            && is_idle
            && is_time
            && !element.runs_itself()
            && element.runs_since.is_some_and(|since| since.elapsed() >= wait)
    }

    fn array_is_shared(&self) -> Option<bool> {
        self.coordinator.options.plan.spec.slurm.shared
    }

    /// A step has ended: all that it said is there.
    pub(super) fn stepped(
        &mut self,
        number: u32,
        begun: Begun,
        result: Result<(ExitStatus, String), SlurmError>,
    ) -> anyhow::Result<()> {
        let Some(mut element) = self.elements.remove(&number) else { return Ok(()) };
        element.step.running = None;
        self.listed = None;
        self.elements.insert(number, element);
        self.list()?;
        element = self.elements.remove(&number).context("an element is lost")?;
        self.read(&mut element)?;
        let judged = self.judge(&mut element, begun, result);
        self.elements.insert(number, element);
        judged
    }

    fn judge(
        &mut self,
        element: &mut Element,
        begun: Begun,
        result: Result<(ExitStatus, String), SlurmError>,
    ) -> anyhow::Result<()> {
        let code = match result {
            Ok((ExitStatus::Code(code), _)) => code,
            Ok((ExitStatus::Signal(signal), _)) => 128 + signal,
            // One that cannot be started, as where processes are short, is one that failed.
            Err(error) => {
                self.coordinator.say(&format!("{}: {error}", element.name()));
                -1
            }
        };
        if element.streams.get(&begun).is_some_and(|stream| stream.has_ended) {
            self.release(element);
            return Ok(());
        }
        let now = Instant::now();
        if code == NO_PROGRAM || code == NOT_KEPT {
            // No worker was begun there.
            element.streams.remove(&begun);
            array::forget(&begun.said(&self.array.directory, element.number));
            element.step.with_program |= code == NO_PROGRAM;
            element.step.not_before = (code == NOT_KEPT).then(|| now + PAUSE);
            return Ok(());
        }
        element.step.failed += 1;
        element.step.not_before = Some(now + PAUSE);
        if self.halted.is_none() && (code == MACHINE || code == BROKEN || element.step.failed >= MOST_FAILED) {
            let why = script::meaning(code).map_or_else(|| format!("its step ended with status {code}"), str::to_owned);
            self.kill(element, why);
        }
        Ok(())
    }

    /// Lets the node of an element go. What it keeps of the campaign goes too, when all of it has come.
    fn release(&mut self, element: &mut Element) {
        let Some(job) = element.seen.as_ref().map(|seen| seen.job) else { return };
        element.step.is_released = true;
        let release = quoted(&self.array.directory.join("release").to_string_lossy());
        let word = if element.streams.values().any(|stream| stream.is_lacking) { "some" } else { "all" };
        let line = format!("{STEP}{job} sh -c \"$(cat {release})\" vptest {word} < /dev/null > /dev/null 2>&1");
        let commands = Arc::clone(&self.commands);
        self.errands.push(Box::pin(async move {
            // Without it, the node is kept for a minute more.
            let told = tokio::time::timeout(WAIT_RELEASE, commands.talk("sh", &["-c".to_owned(), line])).await;
            Errand::Told(told.unwrap_or_else(|_| Err(SlurmError::Silent("srun".to_owned()))).map(drop))
        }));
    }
}
