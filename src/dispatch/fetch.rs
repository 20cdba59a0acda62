//! What hosts have and no coordinator has taken: the results of a run that died, or of a connection that did. It is fetched
//! before iterations are handed out, so that none of them is run a second time elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};

use super::coordinator::{Coordinator, DispatchError};
use super::frame::{Frame, Tail};
use super::orders::Round;
use super::parallel;
use super::place::{Files, Look, PlaceError};
use super::ssh::SshFailure;
use crate::ids::IterationNumber;
use crate::record::Status;

/// What goes on with a host.
enum Errand {
    Prepared(usize, Result<Look, PlaceError>),
    Fetched(usize, Result<(), SshFailure>),
}

impl Coordinator<'_> {
    /// Fetches it from all hosts that may have something and can be reached now. Those that cannot be keep it, and what they were
    /// given is run by others.
    pub(super) async fn fetch(&mut self) -> Result<(), DispatchError> {
        // What Slurm's nodes have comes with their streams.
        if self.slurm.is_some() || self.fleet.owing().is_empty() || self.options.cancel.requested().is_some() {
            return Ok(());
        }
        let round = Round::fresh();
        let files = Arc::new(Files::pack(self.id, self.plan(), &round, &self.orders(Vec::new())?)?);
        let directory = self.round_directory(&round)?;
        let mut paths: BTreeMap<usize, PathBuf> =
            self.fleet.owing().into_iter().map(|at| (at, said(&directory, at))).collect();
        for parent in paths.values().filter_map(|path| path.parent()) {
            std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        self.fetch_into(files, &round, &mut paths).await?;
        // Also of what broke off, or was interrupted, files that came whole are taken.
        for (at, path) in &paths {
            self.take_all(path, Some(*at))?;
        }
        self.settle_fetched()?;
        std::fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
        Ok(())
    }

    /// Looks at the hosts and has those that can be reached send what they have. What a host has sent is stored when it has ended,
    /// whatever the others do; then `paths` has it no more.
    async fn fetch_into(
        &mut self,
        files: Arc<Files>,
        round: &Round,
        paths: &mut BTreeMap<usize, PathBuf>,
    ) -> Result<(), DispatchError> {
        let mut cancel = self.options.cancel.clone();
        let tries = self.fleet.prepare_only(paths.keys().copied(), files);
        let prepared = |(at, result)| Errand::Prepared(at, result);
        let mut errands: FuturesUnordered<BoxFuture<'static, Errand>> =
            tries.into_iter().map(|attempt| attempt.map(prepared).boxed()).collect();
        let mut names = BTreeSet::new();
        loop {
            let next = tokio::select! {
                next = errands.next() => next,
                _ = cancel.cancelled() => None,
            };
            match next {
                None => return Ok(()),
                Some(Errand::Prepared(at, result)) => {
                    // Two names of one host are one that has something.
                    let is_new = result.as_ref().is_ok_and(|look| names.insert(look.name.clone()));
                    let news = self.fleet.prepared(at, result);
                    news.iter().for_each(|text| self.say(text));
                    if let Some(path) = paths.get(&at).filter(|_| is_new) {
                        let fetch = self.fleet.fetch(at, self.id, round, path.clone());
                        errands.push(fetch.map(move |result| Errand::Fetched(at, result)).boxed());
                    }
                }
                Some(Errand::Fetched(at, result)) => {
                    let Some(path) = paths.remove(&at) else { continue };
                    let has_ended = self.take_all(&path, Some(at))?;
                    self.fetched(at, result, has_ended)?;
                }
            }
        }
    }

    /// A host has sent what it had, or could not.
    fn fetched(&mut self, at: usize, result: Result<(), SshFailure>, has_ended: bool) -> Result<(), DispatchError> {
        match result {
            Ok(()) => self.fleet.member(at).owes = !has_ended,
            Err(SshFailure::Disk(error)) => {
                return Err(anyhow::Error::new(error).context("cannot store what hosts have").into());
            }
            Err(error) => {
                let news = self.fleet.absent(at, format!("what it has cannot be fetched: {error}"));
                news.iter().for_each(|text| self.say(text));
            }
        }
        Ok(())
    }

    /// Stores what a worker said as far as it is whole, that of the host `at` if it is known; was its last word that it had sent
    /// all that it had?
    pub(super) fn take_all(&mut self, path: &Path, at: Option<usize>) -> anyhow::Result<bool> {
        let mut tail = match Tail::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            other => other.with_context(|| format!("cannot open {}", path.display()))?,
        };
        let mut is_done = false;
        loop {
            let found = match tail.next() {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(is_done),
                Err(error) => {
                    self.say(&format!("what a worker had said makes no sense: {error}"));
                    return Ok(false);
                }
            };
            match &found.frame {
                Frame::File { .. } => {
                    let status = self.take(&found, &tail)?;
                    if let Some((at, status)) = at.zip(status) {
                        self.fleet.ended(at, status == Status::Complete);
                        self.judge_images(at)?;
                    }
                }
                Frame::Beat { running: Some(doing) } => self.note(doing)?,
                Frame::End { left } => is_done = left.is_none(),
                _ => {}
            }
        }
    }

    /// A host whose guests are of another image than those of others is not used any more.
    fn judge_images(&mut self, at: usize) -> anyhow::Result<()> {
        for (number, attempt) in self.waiting() {
            if let Some(text) = self.changed_image(number, attempt).and_then(|why| self.fleet.unable(at, why)) {
                self.say(&format!("{text} (--allow-changed-image goes on all the same)"));
            }
        }
        Ok(())
    }

    /// Attempts that were fetched have ended, and nobody says whether their iterations are tried again: they are if there was an
    /// attempt after them, or may be one.
    fn settle_fetched(&mut self) -> anyhow::Result<()> {
        let waiting = self.waiting();
        let last: BTreeMap<IterationNumber, u32> = waiting.iter().copied().collect();
        for (number, attempt) in waiting {
            let again = last[&number] > attempt || self.may_retry(number, attempt);
            self.ended(number, attempt, again)?;
        }
        self.rest()
    }
}

/// Where what a host says is kept until it is taken.
fn said(directory: &Path, at: usize) -> PathBuf {
    parallel::said(directory, u32::try_from(at).unwrap_or(u32::MAX))
}
