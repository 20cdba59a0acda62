//! Probe packets beside the workload: delays, loss, duplicates and order of each pair's path, in both directions.
//!
//! A process on the client sends numbered UDP packets at a steady rate, one on the server answers them. Both note the
//! kernel's times of departure and arrival, and print what they saw when they end; what it means is worked out here,
//! from both reports.
//!
//! ```text
//! wire       packets as bytes
//! schedule   when packets are due
//! account    loss, duplicates, order, delays of numbered packets
//! evaluate   both reports → record
//! metrics    record → metrics
//! socket     UDP with the kernel's times
//! clock      what the kernel says of its clock, and whether somebody sets it
//! wait       for a packet, a time, a signal
//! sender, reflector   the two processes
//! report     what they print
//! running    starts and ends them on the nodes
//! ```

mod account;
mod clock;
mod evaluate;
mod metrics;
mod reflector;
mod report;
mod running;
mod schedule;
mod sender;
mod socket;
mod trial;
mod wait;
mod wire;

pub use evaluate::{Evaluated, Left, Session, evaluate};
pub use metrics::metrics;
pub use reflector::{ReflectOptions, reflect};
pub use running::{Probed, Running};
pub use sender::{SendOptions, send};
pub use trial::trial;
pub use wire::{BadNonce, Nonce};
