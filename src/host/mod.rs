//! One guard per kernel or host resource. The only layer with `unsafe`, each use with its reason.

pub mod cage;
pub mod child;
pub mod clock;
pub mod cpus;
pub mod ethtool;
pub mod kept;
pub mod link;
pub mod namespace;
pub mod netlink;
pub mod qdisc;
pub mod userns;

/// Name of this host; `unnamed` when it has none that is text.
pub fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "unnamed".to_owned())
}
