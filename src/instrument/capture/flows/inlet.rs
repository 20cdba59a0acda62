//! Where the headers of a capture point on another node come in.

use std::sync::Arc;

use super::group::Group;
use super::spool::{Chunk, record};
use crate::instrument::capture::LinkType;

/// Takes the records of a point that its node's agent has sent.
#[derive(Debug)]
pub struct Inlet {
    group: Arc<Group>,
    point: usize,
    hold: Option<u64>,
}

impl Inlet {
    pub(super) const fn new(group: Arc<Group>, point: usize, hold: Option<u64>) -> Self {
        Self { group, point, hold }
    }

    /// Bytes that the node may hold back; `None` for a quarter of its free memory.
    pub(in crate::instrument::capture) const fn hold(&self) -> Option<u64> {
        self.hold
    }

    /// The link layer is known, and the node's clock to be so many nanoseconds ahead of this host's.
    pub(in crate::instrument::capture) fn open(self, link: LinkType, ahead_ns: i64) -> Records {
        self.group.open(self.point, link);
        Records { inlet: self, ahead_ns, rest: Vec::new(), chunk: Chunk::default(), count: 0 }
    }
}

/// Records as they arrive, cut anywhere.
#[derive(Debug)]
pub(in crate::instrument::capture) struct Records {
    inlet: Inlet,
    ahead_ns: i64,
    rest: Vec<u8>,
    chunk: Chunk,
    count: u64,
}

impl Records {
    /// Takes more bytes. Blocks while the analysis has no room. An error is why they are no records.
    pub(in crate::instrument::capture) fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((packet, length)) = record(&self.rest[at..]) {
            if packet.captured < packet.kept.len() {
                return Err(format!("packet {}: more sent than captured", self.count + 1));
            }
            if !self.chunk.has_room(packet.kept.len()) {
                hand_over(&self.inlet, &mut self.chunk);
            }
            let at_ns = packet.at_ns.saturating_sub(self.ahead_ns);
            self.chunk.push(at_ns, packet.wire_len, packet.captured, packet.kept);
            self.count += 1;
            at += length;
        }
        self.rest.drain(..at);
        Ok(())
    }

    /// There are no more: how many there were.
    pub(in crate::instrument::capture) fn end(mut self) -> Result<u64, String> {
        hand_over(&self.inlet, &mut self.chunk);
        if self.rest.is_empty() { Ok(self.count) } else { Err(format!("{} bytes of half a packet", self.rest.len())) }
    }
}

fn hand_over(inlet: &Inlet, chunk: &mut Chunk) {
    let packets = chunk.packets();
    if packets > 0 {
        *chunk = inlet.group.spool.push(inlet.point, std::mem::take(chunk));
        inlet.group.keep_up(packets);
    }
}
