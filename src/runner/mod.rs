//! The life of one iteration, and of a campaign of them: resume, order, interruption, what dead runs left.

mod campaign;
mod cancel;
mod capturing;
pub mod checks;
pub mod feasible;
mod gathered;
mod images;
mod iteration;
mod jobs;
mod keep;
mod life;
mod limits;
mod linktest;
mod load;
mod observer;
mod queue;
mod recover;
mod running;
mod space;
mod status;
mod stopping;
mod storage;
mod tools;

pub(crate) use campaign::{Begun, ToDo, complete};
pub use campaign::{CampaignError, Errand, Options, Report, run};
pub use cancel::{Cancel, Canceller};
pub(crate) use images::BASE_ID;
pub(crate) use limits::Limits;
pub use linktest::{LinkTest, Tested};
pub use observer::{Observer, Progress};
pub use recover::{Recovered, recover};
pub use running::{Running, holders};
pub use status::{FactorProgress, HostProgress, Overview, ValueProgress, overview};
pub(crate) use stopping::Stopping;
pub use stopping::{StopOverview, TupleCourse};
pub(crate) use storage::{Objects, files_of};
