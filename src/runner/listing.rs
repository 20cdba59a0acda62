//! Which attempts are stored, while a campaign goes on and other processes may store some as well.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::plan::Iteration;
use crate::store::{self, AttemptName, Attempts, StoreError};

/// Listing the directory takes one part in so many of the time: listing it for each iteration would make a campaign of a hundred
/// thousand take a hundred thousand times as long as one list of them.
const PART: u32 = 20;
/// Attempts are numbered one after the other; so many numbers are looked for that other processes may have given since.
const AHEAD: u32 = 8;

/// What a campaign's directory holds.
pub(super) struct Listing<'a> {
    out: &'a Path,
    attempts: Attempts,
    /// When the directory was listed, and how long that took.
    listed: (Instant, Duration),
}

impl<'a> Listing<'a> {
    /// # Errors
    /// When the directory cannot be listed.
    pub(super) fn new(out: &'a Path) -> Result<Self, StoreError> {
        let (attempts, listed) = list(out)?;
        Ok(Self { out, attempts, listed })
    }

    /// All but what other processes have stored in the last twenty times that listing takes.
    ///
    /// # Errors
    /// As [`Listing::new`].
    pub(super) fn lately(&mut self) -> Result<&Attempts, StoreError> {
        let (at, took) = self.listed;
        if at.elapsed() >= took * PART {
            self.list()?;
        }
        Ok(&self.attempts)
    }

    /// As [`Listing::lately`], and of this iteration, which nobody else may begin meanwhile, all.
    ///
    /// # Errors
    /// As [`Listing::new`].
    pub(super) fn now(&mut self, iteration: &Iteration<'_>) -> Result<&Attempts, StoreError> {
        let (number, identity) = (iteration.number, iteration.identity);
        let next = self.lately()?.next(identity);
        let name = |attempt| AttemptName { number, identity, attempt }.to_string();
        for attempt in next..next.saturating_add(AHEAD) {
            let path = self.out.join(name(attempt));
            if path.try_exists().map_err(|error| StoreError::io("look for", &path, error))? {
                self.list()?;
                break;
            }
        }
        Ok(&self.attempts)
    }

    /// This process has stored an attempt.
    pub(super) fn add(&mut self, name: AttemptName) {
        self.attempts.add(name);
    }

    fn list(&mut self) -> Result<(), StoreError> {
        (self.attempts, self.listed) = list(self.out)?;
        Ok(())
    }
}

fn list(out: &Path) -> Result<(Attempts, (Instant, Duration)), StoreError> {
    let began = Instant::now();
    let attempts = store::scan(out)?;
    Ok((attempts, (Instant::now(), began.elapsed())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::spec::Spec;

    #[test]
    fn what_others_store_of_an_iteration_is_seen_at_once() {
        let spec = "name = \"t\"\nworkload = \"ab\"\nrepetitions = 2\n";
        let plan = Plan::expand(Spec::parse(spec).unwrap(), spec).unwrap();
        let [first, second] = plan.iter().collect::<Vec<_>>()[..] else { panic!("two iterations") };
        let out = tempfile::tempdir().unwrap();
        let mut listing = Listing::new(out.path()).unwrap();
        // It is not listed again by itself.
        listing.listed.1 = Duration::from_secs(1000);
        assert!(listing.lately().unwrap().is_empty());
        let name = |iteration: &Iteration<'_>, attempt| AttemptName {
            number: iteration.number,
            identity: iteration.identity,
            attempt,
        };
        std::fs::write(out.path().join(name(&first, 2).to_string()), "").unwrap();
        std::fs::write(out.path().join(name(&second, 1).to_string()), "").unwrap();
        assert!(listing.lately().unwrap().is_empty());
        assert_eq!(listing.now(&first).unwrap().next(first.identity), 3);
        assert_eq!(listing.lately().unwrap().len(), 2, "listed as there was something new");
        listing.add(name(&first, 3));
        listing.add(name(&first, 3));
        assert_eq!(listing.now(&first).unwrap().of(first.identity), [name(&first, 2), name(&first, 3)]);
        assert_eq!(listing.lately().unwrap().len(), 3);
    }
}
