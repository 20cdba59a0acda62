//! Tests of a link by vptest itself, with UDP datagrams between two nodes: does the server answer, over how many hops, with
//! which loss and delay, at which rate? It shares no code with any workload.
//!
//! [`serve`] is the server's end, [`probe`] the client's, both run on the nodes by `vptest linktest`. A test sends what it
//! has to and no more: 20 small datagrams at most until the first answer, 100 for loss and delay, and for the rate a train
//! whose length follows from the rate.

mod far;
mod meter;
mod near;
mod packet;
mod socket;
mod train;

use serde::{Deserialize, Serialize};

pub use far::serve;
pub use near::{Probe, Test, probe};
pub use train::Plan as TrainPlan;

/// What a test found; the client's end prints it as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Connectivity and hops.
    Reach(Reach),
    /// Loss and delay.
    Loss(Loss),
    /// The rate in one direction.
    Rate(Rate),
}

/// Does the server answer?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Datagrams sent until the first answer, or until giving up.
    pub tries: u32,
    /// Did one come?
    pub answered: bool,
    /// Routers passed by what came to the server; `None` when that is not known.
    pub hops_there: Option<u8>,
    /// Routers passed by what came back.
    pub hops_back: Option<u8>,
}

/// Loss and delay; nothing is sent over a link that is too slow for it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Loss {
    /// Datagrams the client sent.
    pub sent: u32,
    /// Those that came to the server; `None` when it could not be asked.
    pub arrived: Option<u32>,
    /// Those whose answer came back.
    pub answered: u32,
    /// Least round-trip time in seconds, as the client's process sees it; `None` without an answer.
    pub rtt_min: Option<f64>,
    /// Median round-trip time.
    pub rtt_median: Option<f64>,
    /// Greatest round-trip time.
    pub rtt_max: Option<f64>,
}

/// The rate in one direction, link-layer headers included, in bit/s.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Rate {
    /// What arrived, by the kernel's time stamps at the receiver; `None` when too little came or the receiver itself lost
    /// datagrams.
    pub received: Option<f64>,
    /// What was sent after the first quarter; `None` when the sender could not be asked.
    pub offered: Option<f64>,
    /// Datagrams that arrived.
    pub packets: u64,
    /// Datagrams for which the receiver's socket had no room.
    pub overflow: u64,
}
