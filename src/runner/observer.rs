//! What a running campaign tells whoever shows it.

use std::path::Path;
use std::time::Duration;

use crate::ids::{IterationNumber, Stage};
use crate::record::{EventLevel, IterationRecord};

/// One piece of news.
#[derive(Debug)]
pub enum Progress<'a> {
    /// The campaign begins.
    Campaign {
        /// Iterations of the plan.
        planned: usize,
        /// Of these, complete before.
        complete: usize,
        /// Of these, not to be run, as `[stop]` says that their tuples have been repeated often enough.
        settled: usize,
        /// To be run now.
        to_do: usize,
    },
    /// An attempt of a dead run was found and stored as interrupted.
    Recovered {
        /// Which iteration.
        number: IterationNumber,
        /// What happened to it.
        text: &'a str,
    },
    /// An attempt begins.
    Begin {
        /// Which iteration.
        number: IterationNumber,
        /// From 1.
        attempt: u32,
    },
    /// A stage begins.
    Stage {
        /// Of which iteration.
        number: IterationNumber,
        /// Which one.
        stage: Stage,
    },
    /// Something happened that is also stored with the iteration.
    Event {
        /// In which iteration.
        number: IterationNumber,
        /// How much it matters.
        level: EventLevel,
        /// What.
        text: &'a str,
    },
    /// An attempt ended and is stored.
    End {
        /// All that it left.
        record: &'a IterationRecord,
        /// Where.
        file: &'a Path,
        /// How long it took, storing included.
        wall: Duration,
        /// Will the iteration be tried again at once?
        again: bool,
    },
    /// `[stop]`: a tuple has been repeated often enough.
    Settled {
        /// One of its iterations.
        number: IterationNumber,
        /// Complete repetitions that it took.
        repetitions: usize,
        /// Iterations of this run that are not run for it.
        spared: usize,
    },
    /// A sentinel is not run, as nothing was run since the one before.
    Needless,
    /// `[stop]` cannot judge anything yet.
    NotJudged {
        /// Why.
        text: &'a str,
    },
    /// Something about the hosts that iterations run on.
    Note {
        /// What.
        text: &'a str,
    },
    /// An iteration is left to another process that is running it.
    Elsewhere {
        /// Which one.
        number: IterationNumber,
        /// Who runs it.
        by: &'a str,
    },
}

/// Receives the news, in order.
pub trait Observer: Send + Sync {
    /// One piece of news.
    fn notice(&self, news: &Progress<'_>);
}
