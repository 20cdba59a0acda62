//! Exit statuses, and errors that know theirs.

use std::fmt;
use std::process::ExitCode;

/// Exit status of vptest; part of its contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: some iterations failed or were invalid.
    SomeFailed,
    /// 2: wrong usage or spec.
    Usage,
    /// 3: this host cannot run it.
    Unsupported,
    /// 4: stored data cannot be read.
    Unreadable,
    /// 130: interrupted.
    Interrupted,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::SomeFailed => 1,
            Self::Usage => 2,
            Self::Unsupported => 3,
            Self::Unreadable => 4,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error, the exit status it leads to, and what to do about it.
///
/// Shown as `error: CHAIN` and, where there is one, a line `hint: ADVICE`; a text that is laid out already (diagnostics
/// of a spec) is shown as it is.
#[derive(Debug)]
pub struct Failure {
    /// The status to exit with.
    pub exit: Exit,
    error: anyhow::Error,
    hint: Option<String>,
    laid_out: bool,
}

impl Failure {
    /// An error with its exit status.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into(), hint: None, laid_out: false }
    }

    /// A message with its exit status.
    pub fn text(exit: Exit, message: impl fmt::Display) -> Self {
        Self::new(exit, anyhow::anyhow!("{message}"))
    }

    /// Text that is shown as it is.
    pub fn laid_out(exit: Exit, text: String) -> Self {
        Self { laid_out: true, ..Self::new(exit, anyhow::anyhow!(text)) }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Did whoever reads the output go away?
    pub fn is_closed_pipe(&self) -> bool {
        self.error.chain().any(|cause| {
            cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.laid_out {
            write!(f, "{}", self.error)?;
        } else {
            write!(f, "error: {:#}", self.error)?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// What has no status of its own means that this host cannot do it: a file that cannot be written, a full disk.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Unsupported, error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Unsupported, error)
    }
}
