//! The life of one iteration, and of a campaign of them: resume, order, interruption, what dead runs left.

mod campaign;
mod cancel;
pub mod checks;
pub mod feasible;
mod gathered;
mod images;
mod iteration;
mod keep;
mod life;
mod limits;
mod linktest;
mod load;
mod observer;
mod recover;
mod running;
mod space;
mod status;
mod stopping;
mod tools;

pub use campaign::{CampaignError, Options, Report, run};
pub use cancel::{Cancel, Canceller};
pub use linktest::{LinkTest, Tested};
pub use observer::{Observer, Progress};
pub use recover::{Recovered, recover};
pub use running::Running;
pub use status::{Overview, overview};
pub use stopping::{StopOverview, TupleCourse};
