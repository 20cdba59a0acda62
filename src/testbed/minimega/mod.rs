//! minimega and rond, through their command sockets.
//!
//! ```text
//! line     words of a command, quoted; pure
//! wire     messages, answers, tables; pure
//! version  what releases differ in; pure
//! socket   one connection
//! daemon   minimega, namespaces of it
//! machine  virtual machines and containers of a namespace
//! guest    guests of vptest's own image, and their agent
//! capture  captures that minimega takes
//! cc       commands and files for nodes, through miniccc
//! rond     the same for physical nodes
//! ```
//!
//! Nothing a daemon answers is believed where it is known to be wrong: `docs/minimega.md` has the list.

pub mod capture;
pub mod cc;
mod daemon;
mod error;
pub mod guest;
mod line;
pub mod machine;
pub mod rond;
mod socket;
mod version;
mod wire;

pub use daemon::{DEFAULT_SOCKET, Daemon, Namespace};
pub use error::{MinimegaError, PhaseFailure};
pub use line::{Line, quoted};
pub use socket::{Limits, Peer};
pub use version::Version;
pub use wire::{Answer, Dialect, Garbled, Message, Response, Row, Splitter, request};
