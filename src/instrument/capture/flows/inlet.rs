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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Clock;
    use crate::instrument::capture::flows::paths::PathPoints;
    use crate::instrument::capture::flows::spool::{Cursor, Next};
    use crate::instrument::capture::flows::work::Pace;
    use crate::instrument::capture::{FlowOptions, available_memory};

    const OPTIONS: FlowOptions = FlowOptions {
        statistics: true,
        connections: false,
        mtu: None,
        points: 2,
        available: None,
        hold: None,
        fault_after: None,
    };

    /// A local and a remote point.
    fn group(paths: Vec<PathPoints>) -> Arc<Group> {
        let options = FlowOptions { available: available_memory(), ..OPTIONS };
        Arc::new(Group::new(vec![options; 2], vec![false, true], paths))
    }

    fn chunk(times: &[i64]) -> Chunk {
        let mut chunk = Chunk::default();
        times.iter().for_each(|&at| chunk.push(at, 100, 90, &[7; 60]));
        chunk
    }

    #[test]
    fn records_are_put_together_wherever_they_were_cut() {
        let bytes = chunk(&[1_000, 2_000, i64::MIN]).into_bytes();
        for cut in 0..bytes.len() {
            let group = group(Vec::new());
            let mut records = Inlet::new(Arc::clone(&group), 1, None).open(LinkType(1), 500);
            records.feed(&bytes[..cut]).unwrap();
            records.feed(&bytes[cut..]).unwrap();
            assert_eq!(records.end(), Ok(3));
            let Next::Chunk(chunk) = group.spool.pop(1) else { panic!("there is one") };
            let mut cursor = Cursor::new(chunk);
            let mut times = Vec::new();
            while let Some(packet) = cursor.advance() {
                assert_eq!((packet.wire_len, packet.captured, packet.kept), (100, 90, &[7; 60][..]));
                times.push(packet.at_ns);
            }
            assert_eq!(times, [500, 1_500, i64::MIN], "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let mut bytes = chunk(&[1_000]).into_bytes();
        bytes[12] = 59;
        let open = || Inlet::new(group(Vec::new()), 1, None).open(LinkType(1), 0);
        assert_eq!(open().feed(&bytes), Err("packet 1: more sent than captured".to_owned()));
        let mut records = open();
        records.feed(&chunk(&[1_000]).into_bytes()[..70]).unwrap();
        assert_eq!(records.end(), Err("70 bytes of half a packet".to_owned()));
    }

    #[test]
    fn a_point_on_another_node_is_waited_for() {
        let group = group(vec![PathPoints { near: 1, far: 0, clock: Clock::Apart }]);
        group.open(0, LinkType(1));
        assert!(group.work().is_none(), "one link is not known");
        let records = Inlet::new(Arc::clone(&group), 1, None).open(LinkType(1), 0);
        group.end_idle();
        let step = |pace| group.work().unwrap().step(&group.spool, 100, pace);
        // Long ago: a local point would have been given up.
        group.spool.push(0, chunk(&[1_000, 3_000]));
        assert_eq!(step(Pace::Ordered), 0);
        group.spool.push(1, chunk(&[2_000]));
        assert_eq!(step(Pace::Ordered), 2, "as far as the other point is");
        group.spool.end(1);
        assert_eq!(step(Pace::Ordered), 1);
        assert_eq!(records.end(), Ok(0));
        assert_eq!(group.drain(), 0);
    }
}
