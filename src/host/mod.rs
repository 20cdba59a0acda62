//! One guard per kernel or host resource. The only layer with `unsafe`, each use with its reason.

pub mod cage;
pub mod child;
<<<<<<< HEAD
pub mod clock;
pub mod files;
=======
pub mod ethtool;
pub mod kept;
pub mod link;
>>>>>>> 6ce10df (Testbed netns: namespaces, links, rate limits and offloads through netlink, read back and walked)
pub mod namespace;
pub mod netlink;
pub mod qdisc;
pub mod userns;
