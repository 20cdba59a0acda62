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
//! own      guests of an image of the user's
//! reach    how the agent of such a guest is reached
//! capture  captures that minimega takes
//! recorder the same as capture points
//! right    which campaign may have them taken
//! qmp      what QEMU says of a machine
//! disk     the disk on which a guest leaves large files
//! cc       commands and files for nodes, through miniccc
//! rond     the same for physical nodes
//!
//! journal  what was made, on disk
//! hold     namespaces in use, which go whatever happens
//! leftovers  what dead runs and dead daemons have left
//! switch   the taps of the machines
//! mesh     where in a mesh machines go, and the network between two hosts
//! far      taps and files of another host
//! prepare  the daemon and the image that iterations share
//! up, kvm  the testbed `minimega-kvm`
//!
//! cgroup   what a container may use, as the kernel has it
//! inside   containers and the agent in them
//! site     bringing containers up
//! contained, container  the testbed `minimega-container`
//! afar     containers of another host
//! remains  what of a container outlives its daemon
//! ```
//!
//! Nothing a daemon answers is believed where it is known to be wrong: `docs/minimega.md` has the list.

mod afar;
pub mod capture;
pub mod cc;
mod cgroup;
mod contained;
mod container;
mod daemon;
pub mod disk;
mod error;
mod far;
pub mod guest;
mod hold;
mod inside;
pub mod journal;
mod kvm;
pub mod leftovers;
mod line;
pub mod machine;
mod mesh;
mod own;
mod prepare;
pub mod qmp;
mod reach;
mod recorder;
mod remains;
mod right;
pub mod rond;
mod site;
mod socket;
mod switch;
mod taps;
mod up;
mod version;
mod wire;

pub use container::MinimegaContainer;
pub use daemon::{DEFAULT_SOCKET, Daemon, Namespace, Owner};
pub use error::{MinimegaError, PhaseFailure};
pub use kvm::MinimegaKvm;
pub use line::{Line, quoted};
pub use prepare::look;
pub use socket::{Limits, Peer};
pub use version::Version;
pub use wire::{Answer, Dialect, Garbled, Message, Response, Row, Splitter, request};
