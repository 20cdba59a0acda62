//! Names of the things an experiment consists of: nodes, stages, vantages, levels and the hashes that identify
//! tuples and iterations.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a node of a pair does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Runs the load generator.
    Client,
    /// Answers it.
    Server,
    /// Forwards between them; the number counts from the client, starting at 0.
    Router(u8),
}

/// One node of a testbed: `client1`, `server12`, `router1.2` (pair 1, second router seen from the client).
///
/// Pairs count from 1. `Display` and `FromStr` are inverse; the text is what the database stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId {
    /// Pair the node belongs to, from 1.
    pub pair: u32,
    /// Its part in the pair.
    pub role: Role,
}

impl NodeId {
    /// The client of `pair`.
    pub const fn client(pair: u32) -> Self {
        Self { pair, role: Role::Client }
    }

    /// The server of `pair`.
    pub const fn server(pair: u32) -> Self {
        Self { pair, role: Role::Server }
    }

    /// Router number `index` (from 0, counted from the client) of `pair`.
    pub const fn router(pair: u32, index: u8) -> Self {
        Self { pair, role: Role::Router(index) }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.role {
            Role::Client => write!(f, "client{}", self.pair),
            Role::Server => write!(f, "server{}", self.pair),
            Role::Router(index) => write!(f, "router{}.{}", self.pair, u16::from(index) + 1),
        }
    }
}

/// The text was not the name of a node.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a node name (client1, server1, router1.1)")]
pub struct BadNodeId(String);

impl FromStr for NodeId {
    type Err = BadNodeId;

    fn from_str(text: &str) -> Result<Self, BadNodeId> {
        let bad = || BadNodeId(text.to_owned());
        let pair = |digits: &str| digits.parse::<u32>().ok().filter(|&n| n > 0).ok_or_else(bad);
        if let Some(rest) = text.strip_prefix("client") {
            Ok(Self::client(pair(rest)?))
        } else if let Some(rest) = text.strip_prefix("server") {
            Ok(Self::server(pair(rest)?))
        } else {
            let (p, index) = text.strip_prefix("router").and_then(|r| r.split_once('.')).ok_or_else(bad)?;
            let index = index.parse::<u8>().ok().and_then(|n| n.checked_sub(1)).ok_or_else(bad)?;
            Ok(Self::router(pair(p)?, index))
        }
    }
}

macro_rules! named_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// All values, in their natural order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name used in specs, databases and output.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value of that name; `None` for any other text.
            pub fn from_name(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

named_enum! {
    /// Where a capture was taken.
    Vantage {
        /// Inside the virtual node, on the interface the workload uses.
        Guest = "guest",
        /// On the host's end of a virtual node's link.
        Host = "host",
        /// On a physical end host.
        Endpoint = "endpoint",
        /// On a switch or mirror port.
        Switch = "switch",
    }
}

named_enum! {
    /// Direction of a TCP connection; `a` sent its first packet.
    Direction {
        /// From `a` to `b`.
        AToB = "a2b",
        /// From `b` to `a`.
        BToA = "b2a",
    }
}

named_enum! {
    /// What a metric describes.
    Level {
        /// What the workload reports.
        Application = "application",
        /// What the operating system counts.
        Os = "os",
        /// What was seen on the wire.
        Network = "network",
    }
}

named_enum! {
    /// A stage in the life of an iteration, in order.
    Stage {
        /// Can this host run it at all, and is it quiet?
        Preflight = "preflight",
        /// Bring up nodes and links.
        Launch = "launch",
        /// Read every setting back; walk the path.
        Verify = "verify",
        /// Start captures and counters.
        Instrument = "instrument",
        /// Run servers, then clients.
        Workload = "workload",
        /// Stop instruments, read settings again, parse outputs.
        Collect = "collect",
        /// Take everything down.
        Teardown = "teardown",
        /// Write the iteration file.
        Store = "store",
    }
}

named_enum! {
    /// Which direction of change is an improvement.
    Better {
        /// More is better (throughput).
        Higher = "higher",
        /// Less is better (latency).
        Lower = "lower",
    }
}

/// Number of an iteration in run order, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IterationNumber(pub u32);

impl fmt::Display for IterationNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The first 48 bits of a SHA-256, written as 12 lower-case hex digits.
///
/// Used for the identity of tuples and iterations: 10^6 iterations collide with probability 2·10^-3 per campaign, and
/// the plan refuses to be written when two do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShortHash(u64);

impl ShortHash {
    /// Hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(bytes);
        Self(digest.iter().take(6).fold(0, |acc, &byte| acc << 8 | u64::from(byte)))
    }
}

impl fmt::Display for ShortHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl fmt::Debug for ShortHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShortHash({self})")
    }
}

/// The text was not twelve lower-case hex digits.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a hash of 12 lower-case hex digits")]
pub struct BadHash(String);

impl FromStr for ShortHash {
    type Err = BadHash;

    fn from_str(text: &str) -> Result<Self, BadHash> {
        let ok = text.len() == 12 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        ok.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self).ok_or_else(|| BadHash(text.to_owned()))
    }
}

impl Serialize for ShortHash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ShortHash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_survive_a_round_trip() {
        for node in [NodeId::client(1), NodeId::server(40), NodeId::router(3, 0), NodeId::router(255, 254)] {
            assert_eq!(node.to_string().parse::<NodeId>().unwrap(), node);
        }
        assert_eq!(NodeId::router(1, 1).to_string(), "router1.2");
        for bad in ["", "client", "client0", "server-1", "router1", "router1.0", "router1.257", "host1"] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad} was taken for a node");
        }
    }

    #[test]
    fn short_hash_is_the_start_of_sha256() {
        // SHA-256("abc") = ba7816bf 8f01cfea ... (FIPS 180-2, appendix B.1)
        let hash = ShortHash::of(b"abc");
        assert_eq!(hash.to_string(), "ba7816bf8f01");
        assert_eq!("ba7816bf8f01".parse::<ShortHash>().unwrap(), hash);
        assert!("BA7816BF8F01".parse::<ShortHash>().is_err());
        assert!("ba7816bf8f0".parse::<ShortHash>().is_err());
    }

    #[test]
    fn names_of_enums_are_their_text() {
        assert_eq!(Stage::from_name("workload"), Some(Stage::Workload));
        assert_eq!(Stage::from_name("Workload"), None);
        assert_eq!(serde_json::to_string(&Vantage::Guest).unwrap(), "\"guest\"");
    }
}
