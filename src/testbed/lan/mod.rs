//! The network that the testbeds `netns` and `qemu` have in common: a host-side namespace with bridges, the ports of the
//! nodes, the rate limit and the routers. They differ in what the end of an access link is.
//!
//! ```text
//! client1          host side                     server1          hops = ["A", "B"]
//!  eth0 ─────── c1 ═ br1 ═ s1 ─────────────────── eth0
//!  eth0 ─────── c1 ═ br1 ═ rc1 ─ eth0 A eth1 ─ eth0 B eth1 ─ rs1 ═ br1s ═ s1 ─────── eth0
//! ```
//!
//! The rate limit is at the egress of `c1` and `s1`, so that each direction is limited once, at the same point for a
//! veth as for a tap. No namespace has a name and nothing is made in the one vptest runs in: when vptest ends, however
//! it ends, the kernel removes everything.
//!
//! Addresses are `10.PAIR.LINK.1` towards the client and `10.PAIR.LINK.2` towards the server, links counted from the
//! client and from 0.

pub(in crate::testbed) mod build;
pub(in crate::testbed) mod path;
pub(in crate::testbed) mod preflight;
pub(in crate::testbed) mod settings;
pub(in crate::testbed) mod topology;
