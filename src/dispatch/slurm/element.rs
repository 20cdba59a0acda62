//! An element of an array, as the coordinator sees it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::super::frame::Mark;
use super::super::share::Share;
use super::queue::{Life, Seen};
use super::script;
use crate::ids::IterationNumber;

/// See the module.
pub(super) struct Element {
    pub(super) number: u32,
    pub(super) iterations: Vec<IterationNumber>,
    /// What its workers say, by the order in which they were begun.
    pub(super) streams: BTreeMap<Begun, Stream>,
    /// What Slurm said of it last; `None` before that, and when Slurm knows nothing of it.
    pub(super) seen: Option<Seen>,
    /// Since when it has a node; `None` when it has none.
    pub(super) runs_since: Option<Instant>,
    /// Since when it is over for Slurm.
    pub(super) ended: Option<Instant>,
    /// Why it was cancelled from here; `None` when it was not.
    pub(super) killed: Option<String>,
    /// When scancel is asked again, because it failed.
    pub(super) kill_again: Option<Instant>,
    pub(super) step: Step,
}

/// Where the steps that are sent into it stand.
#[derive(Default)]
pub(super) struct Step {
    /// The one that runs.
    pub(super) running: Option<Begun>,
    /// Steps that failed since it has its node.
    pub(super) failed: u32,
    /// Has it been told that everything is stored?
    pub(super) is_released: bool,
    /// Does the next one bring the program?
    pub(super) with_program: bool,
    /// No other one before that.
    pub(super) not_before: Option<Instant>,
}

/// Which time a worker was begun for an element: name of its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Begun {
    /// By the element itself: how often Slurm had begun it before.
    Itself(u32),
    /// By a step, from 0.
    Step(u32),
}

/// What a worker says, and how far that was read.
pub(super) struct Stream {
    pub(super) path: PathBuf,
    /// The file is opened for each look: there may be more streams than this process may have open, and on a network file system
    /// opening it is what makes the rest of it seen.
    pub(super) mark: Mark,
    /// Which host.
    pub(super) at: Option<usize>,
    pub(super) has_ended: bool,
    /// Somebody wished it to leave its iterations.
    pub(super) was_interrupted: Option<String>,
    /// Its node may have something that has not come.
    pub(super) is_lacking: bool,
    /// Nothing that follows can be read.
    pub(super) is_bad: bool,
    /// Bytes that were there, and when there were more than before.
    pub(super) length: u64,
    pub(super) heard: Instant,
}

impl Begun {
    /// `7-1`, `7-s0`: the element, and which time.
    pub(super) fn parse(name: &str) -> Option<(u32, Self)> {
        let (element, which) = name.split_once('-')?;
        let begun = match which.strip_prefix('s') {
            Some(number) => Self::Step(number.parse().ok()?),
            None => Self::Itself(which.parse().ok()?),
        };
        Some((element.parse().ok()?, begun))
    }

    /// Where what it says lies.
    pub(super) fn said(self, directory: &Path, element: u32) -> PathBuf {
        let which = match self {
            Self::Itself(number) => format!("{element}-{number}"),
            Self::Step(number) => format!("{element}-s{number}"),
        };
        directory.join(script::SAID).join(which)
    }
}

impl Stream {
    pub(super) fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            mark: Mark::default(),
            at: None,
            has_ended: false,
            was_interrupted: None,
            is_lacking: false,
            is_bad: false,
            length: 0,
            heard: Instant::now(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.has_ended && !self.is_bad
    }
}

impl Element {
    pub(super) fn of(share: &Share) -> Self {
        Self {
            number: share.number,
            iterations: share.iterations.iter().map(|turn| turn.number).collect(),
            streams: BTreeMap::new(),
            seen: None,
            runs_since: None,
            ended: None,
            killed: None,
            kill_again: None,
            step: Step::default(),
        }
    }

    /// For people: `iteration 7`, `iterations 7 to 12`; with its node, where it has one.
    pub(super) fn name(&self) -> String {
        let what = match self.iterations.as_slice() {
            [one] => format!("iteration {one}"),
            [first, .., last] => format!("iterations {first} to {last}"),
            [] => format!("element {}", self.number),
        };
        match self.node() {
            Some(node) => format!("{what} on {node}"),
            None => what,
        }
    }

    pub(super) fn node(&self) -> Option<&str> {
        self.seen.as_ref()?.node.as_deref()
    }

    /// Slurm's word.
    pub(super) fn state(&self) -> &str {
        self.seen.as_ref().map_or("", |seen| &seen.state)
    }

    /// Takes what Slurm says; `None` when it says nothing of it any more.
    pub(super) fn see(&mut self, seen: Option<&Seen>) {
        let now = Instant::now();
        match seen.map(Seen::life) {
            Some(Life::Waits) => {
                (self.runs_since, self.ended) = (None, None);
                self.step = Step { running: self.step.running, ..Step::default() };
            }
            Some(Life::Runs) => {
                self.ended = None;
                self.runs_since.get_or_insert(now);
            }
            Some(Life::Ended) | None => {
                self.ended.get_or_insert(now);
            }
        }
        if seen.is_some() {
            self.seen = seen.cloned();
        }
    }

    /// How often Slurm had begun it before.
    pub(super) fn restarts(&self) -> u32 {
        self.seen.as_ref().and_then(|seen| seen.restarts).unwrap_or(0)
    }

    /// Did the worker that was begun last say its last word?
    pub(super) fn was_heard_out(&self) -> bool {
        let restarts = self.restarts();
        let mut own =
            self.streams.iter().filter(|(begun, _)| matches!(begun, Begun::Itself(number) if *number >= restarts));
        let mut steps = self.streams.iter().filter(|(begun, _)| matches!(begun, Begun::Step(_)));
        own.next_back().or_else(|| steps.next_back()).is_some_and(|(_, stream)| stream.has_ended)
    }

    /// Did it begin a worker by itself since it has its node?
    pub(super) fn runs_itself(&self) -> bool {
        let restarts = self.restarts();
        self.streams.keys().any(|begun| matches!(begun, Begun::Itself(number) if *number >= restarts))
    }

    /// Number of the next step.
    pub(super) fn next_step(&self) -> u32 {
        let number = |begun: &Begun| if let Begun::Step(number) = begun { Some(number + 1) } else { None };
        self.streams.keys().filter_map(number).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_say_which_time_it_was() {
        assert_eq!(Begun::parse("7-1"), Some((7, Begun::Itself(1))));
        assert_eq!(Begun::parse("12-s0"), Some((12, Begun::Step(0))));
        for bad in ["7", "x-1", "7-", "7-sx"] {
            assert_eq!(Begun::parse(bad), None, "{bad}");
        }
        let path = Begun::Step(3).said(Path::new("/d"), 7);
        assert_eq!(path, Path::new("/d/said/7-s3"));
    }
}
