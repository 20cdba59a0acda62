//! Runs the same network experiment many times on virtual and physical testbeds and says where they really differ.
//!
//! The tree is the pipeline; arrows point down only:
//!
//! ```text
//! cli        clap structs, one file per subcommand, progress and tables; the only part that prints
//! bundle     a campaign in one file that can be published, checked and run again
//! dispatch   where iterations run: here, on hosts over ssh with GNU parallel; igor's reservations
//! runner     life of one iteration; campaign: resume, order, interruption, journal
//! testbed    what provides nodes and links: netns, qemu, physical, minimega, fake; drivers of minimega and rond
//! workload   ab, iperf3, protonuke, custom command; output text → metrics
//! image      guest images: kernel and initramfs from packages
//! instrument live capture, counters
//! verify     read-back of settings, path checks, interference and saturation checks
//! node       how a command runs
//! agent      vptest on a node, and talking to it
//! host       one guard per kernel or host resource
//! report     tables; input is data, output is text
//! analysis   grouping, tests, effect sizes; pure
//! store      SQLite schema, iteration writer, merge, queries; the only SQL
//! flow       connections and their statistics; pure
//! packet     pcap and pcapng reading, header views; pure
//! plan       tuples × repetitions × order → iterations; pure
//! spec       TOML text → checked spec; pure
//! record     what one iteration leaves behind: plain values
//! units ids  quantities and names
//! text       texts from elsewhere, fit to be shown; pure
//! ```
//!
//! `spec plan packet flow analysis report` have no clock, process, socket, file or database: values in, values out.
//! Only `host testbed node instrument` need privileges or start processes. Only `store` knows SQL. Only `cli` prints.

pub mod agent;
pub mod analysis;
pub mod bundle;
pub mod cli;
pub mod dispatch;
pub mod flow;
pub mod host;
pub mod ids;
pub mod image;
pub mod instrument;
pub mod node;
pub mod packet;
pub mod plan;
pub mod record;
pub mod report;
pub mod runner;
pub mod spec;
pub mod store;
pub mod testbed;
pub mod text;
pub mod units;
pub mod verify;
pub mod workload;
