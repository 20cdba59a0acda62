//! Reading captures: pcap and pcapng records, link layers, IP and TCP header views, sequence numbers.
//!
//! Everything here is pure: bytes come from any [`std::io::Read`] or slice, time comes from the capture. Captures are
//! hostile input: no length field drives an allocation, every cut or contradiction ends in a value ([`End`], `None`),
//! never in a panic.
//!
//! ```text
//! compress   gzip and zstd found by their magic
//! window     the one buffer records are borrowed from
//! pcap       classic files          ┐
//! pcapng     blocks and interfaces  ┘ reader: either, record by record
//! link       where the IP header starts in a frame
//! tcp        from the IP header to a TCP segment
//! options    TCP options
//! seq        sequence numbers
//! ```

mod compress;
mod link;
mod options;
mod pcap;
mod pcapng;
mod reader;
mod seq;
mod tcp;
mod time;
mod window;

pub use compress::{Decoded, decoded};
pub use link::{LinkDecoder, LinkType};
pub use options::{SackBlock, TcpOptions};
pub use reader::{BadRecord, End, OpenError, Reader, Record};
pub use seq::Seq;
pub use tcp::{Endpoint, Flags, Segment};
pub use time::Time;
