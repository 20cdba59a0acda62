//! Where iterations run: here, on hosts that GNU parallel reaches by ssh, or where Slurm puts them; which hosts igor has reserved.
//!
//! A *share* is a number of iterations that one host is given at a time: whole blocks where the order has blocks, so that
//! what differs between hosts differs between blocks and not between tuples. On the host, a *worker* ([`worker`]) runs the
//! iterations of a share one after the other, exactly as `vptest run` would, and writes their files to its standard output as
//! each ends (`frame`). GNU parallel hands shares to hosts and keeps what workers say in files; the coordinator
//! ([`run`]) reads these while they grow, verifies what it finds and stores it in the campaign's directory, where nothing
//! tells an iteration that was run elsewhere from one that was run here but the name of its host.
//!
//! Nothing has to be acknowledged: what was lost on the way is sent again when its host is reached again (`fetch`), or else run again.

mod collect;
mod coordinator;
mod fetch;
mod fleet;
mod frame;
mod hear;
mod hosts;
pub mod igor;
mod journal;
mod orders;
mod parallel;
mod place;
mod round;
mod share;
pub mod slurm;
mod ssh;
mod state;
pub mod worker;

pub use coordinator::{DispatchError, Engine, run};
pub use frame::Doing;
pub use hosts::{BadHost, Host, from_file, from_list};
pub use state::{HostState, Phase, State, read as read_state};
