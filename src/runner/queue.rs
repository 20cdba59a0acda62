//! What is still to be run, by one job or several: which iteration is next, and what came of those before.

use std::cell::Cell;
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;

use super::campaign::{CampaignError, Options, Report, watches_nothing};
use super::limits::Limits;
use super::listing::Listing;
use super::observer::Progress;
use super::stopping::Stopping;
use crate::ids::{IterationNumber, ShortHash};
use crate::record::IterationRecord;
use crate::store::StoreError;

/// Iterations to run, in order.
pub(super) struct Queue<'a> {
    options: &'a Options<'a>,
    to_do: &'a [IterationNumber],
    state: Mutex<State<'a>>,
}

struct State<'a> {
    /// Place in the order of the first that was not begun.
    next: usize,
    /// How many run now.
    running: u64,
    /// None is begun any more.
    over: bool,
    rule: Option<Rule<'a>>,
    limits: Limits<'a>,
    listing: Listing<'a>,
    report: Report,
}

impl<'a> Queue<'a> {
    /// `report` is what is known before the first.
    ///
    /// # Errors
    /// When the campaign's directory cannot be listed.
    pub(super) fn new(
        options: &'a Options<'a>,
        to_do: &'a [IterationNumber],
        stopping: Option<Stopping<'a>>,
        report: Report,
    ) -> Result<Self, StoreError> {
        let rule = stopping.map(|stopping| Rule { stopping, settled: HashSet::new(), told: false });
        let spec = options.errand.limits.as_ref().unwrap_or(&options.plan.spec.limits);
        let limits = Limits::new(spec, options.out, options.errand.clone());
        let listing = Listing::new(options.out)?;
        let state = State { next: 0, running: 0, over: false, rule, limits, listing, report };
        Ok(Self { options, to_do, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The iteration to run now; `None` when there is none, because of an interruption or of `[limits]`.
    ///
    /// # Errors
    /// When the files cannot be read that decide it.
    pub(super) fn next(&self) -> Result<Option<IterationNumber>, CampaignError> {
        let mut state = self.lock();
        while let Some(&number) = self.to_do.get(state.next) {
            if state.is_over(self.options)? {
                return Ok(None);
            }
            let remaining = &self.to_do[state.next..];
            if state.must_run(self.options, number, remaining)? {
                state.next += 1;
                state.running += 1;
                return Ok(Some(number));
            }
            state.next += 1;
        }
        Ok(None)
    }

    /// An iteration that was begun has been run, or was left to others.
    ///
    /// # Errors
    /// When the files cannot be read that decide whether its tuple needs more repetitions.
    pub(super) fn ended(&self, number: IterationNumber) -> Result<(), CampaignError> {
        let mut state = self.lock();
        state.running -= 1;
        let remaining = &self.to_do[state.next..];
        state.look(self.options, number, remaining)
    }

    /// The last attempt of an iteration is stored in `file`.
    ///
    /// # Errors
    /// When the size of the file cannot be read.
    pub(super) fn stored(&self, record: &IterationRecord, file: &Path) -> anyhow::Result<()> {
        let mut state = self.lock();
        *state.report.outcomes.entry(record.outcome.status()).or_default() += 1;
        state.limits.ended(record, file)
    }

    /// What `look` says of the attempts that are stored.
    pub(super) fn listing<T>(&self, look: impl FnOnce(&mut Listing<'a>) -> T) -> T {
        look(&mut self.lock().listing)
    }

    /// Adds to the report.
    pub(super) fn note(&self, add: impl FnOnce(&mut Report)) {
        add(&mut self.lock().report);
    }

    /// Is none begun any more?
    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// While one job works: when what this gives is dropped before it is done, no further iteration is begun.
    pub(super) const fn needs_all(&self) -> Needed<'_, 'a> {
        Needed { queue: self, is_done: Cell::new(false) }
    }

    /// What came of it all.
    ///
    /// # Errors
    /// When the files cannot be read that decide what is left.
    pub(super) fn finish(self) -> Result<Report, CampaignError> {
        let State { rule, mut listing, mut report, next, .. } =
            self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        for &number in &self.to_do[next..] {
            let is_spared = rule.as_ref().map_or(Ok(false), |rule| rule.spares(self.options, &mut listing, number))?;
            report.left += usize::from(!is_spared);
        }
        // Nothing may be left that the limit kept from being run.
        report.limited = report.limited.filter(|_| report.left > 0);
        report.interrupted = self.options.cancel.requested();
        Ok(report)
    }
}

/// See [`Queue::needs_all`].
pub(super) struct Needed<'q, 'a> {
    queue: &'q Queue<'a>,
    is_done: Cell<bool>,
}

impl Needed<'_, '_> {
    /// The job has done all that there was.
    pub(super) fn done(&self) {
        self.is_done.set(true);
    }
}

impl Drop for Needed<'_, '_> {
    fn drop(&mut self) {
        if !self.is_done.get() {
            self.queue.lock().over = true;
        }
    }
}

impl State<'_> {
    fn is_over(&mut self, options: &Options<'_>) -> anyhow::Result<bool> {
        if !self.over && options.cancel.requested().is_none() {
            self.report.limited = self.limits.reached(self.running)?;
        }
        self.over |= options.cancel.requested().is_some() || self.report.limited.is_some();
        Ok(self.over)
    }

    /// Must an iteration be run? Another process may have settled its tuple since this one looked.
    fn must_run(
        &mut self,
        options: &Options<'_>,
        number: IterationNumber,
        remaining: &[IterationNumber],
    ) -> Result<bool, CampaignError> {
        self.look(options, number, remaining)?;
        let Some(rule) = &self.rule else { return Ok(true) };
        let is_spared = rule.spares(options, &mut self.listing, number)?;
        if is_spared && options.plan.get(number).is_some_and(|iteration| iteration.sentinel) {
            self.report.settled += 1;
            options.observer.notice(&Progress::Needless);
        }
        Ok(!is_spared)
    }

    fn look(
        &mut self,
        options: &Options<'_>,
        number: IterationNumber,
        remaining: &[IterationNumber],
    ) -> Result<(), CampaignError> {
        let Some(rule) = &mut self.rule else { return Ok(()) };
        rule.look(options, &mut self.listing, number, remaining, &mut self.report)
    }
}

/// `[stop]` while a campaign runs.
struct Rule<'a> {
    stopping: Stopping<'a>,
    /// Tuples that need no more repetitions.
    settled: HashSet<ShortHash>,
    /// Was it said that a metric is missing?
    told: bool,
}

impl Rule<'_> {
    /// Looks at what is stored of the tuple of iteration `number`, and says so when it needs none of `remaining` any more.
    fn look(
        &mut self,
        options: &Options<'_>,
        listing: &mut Listing<'_>,
        number: IterationNumber,
        remaining: &[IterationNumber],
        report: &mut Report,
    ) -> Result<(), CampaignError> {
        let iteration = options.plan.get(number).context("the plan lost an iteration")?;
        let tuple = iteration.tuple_id;
        if iteration.sentinel || self.settled.contains(&tuple) {
            return Ok(());
        }
        let attempts = listing.lately()?;
        let course = self.stopping.course(attempts, tuple);
        if let Some(problem) = self.stopping.hopeless(attempts) {
            return Err(CampaignError::Stop(problem));
        }
        if let Some(problem) = self.stopping.problem().filter(|_| !self.told) {
            self.told = true;
            options.observer.notice(&Progress::NotJudged { text: &problem });
        }
        if let Some(repetitions) = course.settled_after {
            self.settled.insert(tuple);
            let is_spared = |&&number: &&IterationNumber| {
                options.plan.get(number).is_some_and(|other| !other.sentinel && other.tuple_id == tuple)
            };
            let spared = remaining.iter().filter(is_spared).count();
            report.settled += spared;
            options.observer.notice(&Progress::Settled { number, repetitions, spared });
        }
        Ok(())
    }

    /// Need an iteration not be run? Of a sentinel that is known when its turn comes.
    fn spares(
        &self,
        options: &Options<'_>,
        listing: &mut Listing<'_>,
        number: IterationNumber,
    ) -> Result<bool, CampaignError> {
        let plan = options.plan;
        let iteration = plan.get(number).context("the plan lost an iteration")?;
        if !iteration.sentinel {
            return Ok(self.settled.contains(&iteration.tuple_id));
        }
        Ok(watches_nothing(plan, listing.lately()?, number, |tuple| self.settled.contains(&tuple)))
    }
}
