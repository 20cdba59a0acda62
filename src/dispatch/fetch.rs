//! What hosts have and no coordinator has taken: the results of a run that died, or of a connection that did. It is fetched
//! before iterations are handed out, so that none of them is run a second time elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::future::join_all;

use super::coordinator::{Coordinator, DispatchError};
use super::frame::{Frame, Tail};
use super::orders::Round;
use super::parallel;
use super::place::Files;

impl Coordinator<'_> {
    /// Fetches it from all hosts that may have something and can be reached now. Those that cannot be keep it, and what they were
    /// given is run by others.
    pub(super) async fn fetch(&mut self) -> Result<(), DispatchError> {
        // What Slurm's nodes have comes with their streams.
        if self.slurm.is_some() || self.fleet.owing().is_empty() {
            return Ok(());
        }
        let round = Round::fresh();
        let files = Arc::new(Files::pack(self.id, self.plan(), &round, &self.orders(Vec::new())?)?);
        let directory = self.round_directory(&round)?;
        let mut cancel = self.options.cancel.clone();
        let fetched = tokio::select! {
            fetched = self.fetch_into(files, &round, &directory) => fetched?,
            _ = cancel.cancelled() => Vec::new(),
        };
        for (at, path, result) in fetched {
            // Also of what broke off, files that came whole are taken.
            let has_ended = self.take_all(&path)?;
            match result {
                Ok(()) => self.fleet.member(at).owes = !has_ended,
                Err(error) => {
                    let news = self.fleet.lose(at, format!("what it has cannot be fetched: {error}"));
                    news.iter().for_each(|text| self.say(text));
                }
            }
        }
        self.rest()?;
        std::fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
        Ok(())
    }

    async fn fetch_into(
        &mut self,
        files: Arc<Files>,
        round: &Round,
        directory: &Path,
    ) -> anyhow::Result<Vec<(usize, PathBuf, Result<(), super::ssh::SshFailure>)>> {
        let news = self.fleet.prepare(files).await;
        news.iter().for_each(|text| self.say(text));
        self.write_state()?;
        let mut fetches = Vec::new();
        for at in self.fleet.owing().into_iter().filter(|&at| self.fleet.is_working(at)) {
            let path = parallel::said(directory, u32::try_from(at).unwrap_or(u32::MAX));
            let parent = path.parent().unwrap_or(directory);
            std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
            let fetch = self.fleet.fetch(at, self.id, round, path.clone());
            fetches.push(async move { (at, path, fetch.await) });
        }
        Ok(join_all(fetches).await)
    }

    /// Stores what a worker said as far as it is whole; was its last word that it had sent all that it had?
    pub(super) fn take_all(&mut self, path: &Path) -> anyhow::Result<bool> {
        let mut tail = match Tail::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            other => other.with_context(|| format!("cannot open {}", path.display()))?,
        };
        let mut is_done = false;
        while let Ok(Some(found)) = tail.next() {
            match &found.frame {
                Frame::File { .. } => drop(self.take(&found, &tail)?),
                Frame::Beat { running: Some(doing) } => self.note(doing)?,
                Frame::End { left } => is_done = left.is_none(),
                _ => {}
            }
        }
        Ok(is_done)
    }
}
