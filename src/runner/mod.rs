//! The life of one iteration, and of a campaign of them: resume, order, interruption, what dead runs left.

mod cancel;
mod life;
mod observer;
mod running;

pub use cancel::{Cancel, Canceller};
pub use observer::{Observer, Progress};
