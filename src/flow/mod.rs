//! TCP connections and their statistics, computed packet by packet; summaries over connections.
//!
//! Pure: packets with their time go in, values come out. The statistics are those of tcptrace 6.6.7, cell by cell;
//! `docs/flows.md` defines them and lists where this program is right and tcptrace is not.
//!
//! ```text
//! engine      finds the connection of each packet, hands out connections when they are final
//! table       live connections, found by their endpoints
//! side        what a packet does to its sender's numbers
//! ledger      sent ranges: retransmission, acknowledgement, RTT
//! ranges      one quarter of it
//! direction   the numbers of one direction
//! connection  both, as handed out
//! compat      tcptrace's CSV
//! cells       its cells
//! exact       the statistics as values
//! beyond      what tcptrace does not have: sizes, packetization, throughput over time, stalls
//! matching    the packets of two vantages of one path
//! sketch      mergeable distributions
//! summary     every statistic over all connections
//! ```

mod beyond;
mod cells;
mod compat;
mod connection;
mod direction;
mod engine;
mod exact;
mod ledger;
mod matching;
mod ranges;
mod samples;
mod side;
mod sketch;
mod summary;
mod table;
mod visit;

pub use beyond::{Beyond, BeyondOptions, Bin, Packetization, SIZE_BOUNDS, Stall, Stalls};
pub use compat::{write_header, write_row};
pub use connection::{Connection, Way};
pub use direction::{Direction, Rare};
pub use engine::{Engine, Options, Order, Sink, Totals, Traced, Waiting};
pub use exact::{STATISTICS, Statistic, Value};
pub use matching::{Clock, Matched, MatchedWay, Matcher, Point};
pub use samples::Samples;
pub use sketch::{EXACT, Sketch, SketchError};
pub use summary::{Entry, QUANTILES, Summary};
