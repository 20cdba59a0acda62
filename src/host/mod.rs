//! One guard per kernel or host resource. The only layer with `unsafe`, each use with its reason.

pub mod cage;
pub mod child;
pub mod clock;
pub mod cpus;
pub mod ethtool;
pub mod files;
pub mod kept;
pub mod link;
pub mod namespace;
pub mod netlink;
pub mod qdisc;
pub mod userns;
