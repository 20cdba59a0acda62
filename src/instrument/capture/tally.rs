//! Counting packets: how many, how many bytes, how large.

use crate::record::SizeBin;

/// Lower bounds of the size bins in bytes, link-layer header included.
///
/// Powers of two, but for 1280 (the smallest IPv6 MTU) and 1519: the largest untagged Ethernet frame has 1518 bytes
/// with its checksum, so that everything from 1519 up was put together by segmentation or receive offload (or is a
/// jumbo frame).
pub const SIZE_EDGES: [u32; 14] = [0, 64, 128, 256, 512, 1024, 1280, 1519, 2048, 4096, 8192, 16_384, 32_768, 65_536];

/// Packets seen so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    packets: u64,
    bytes: u64,
    bins: [u64; SIZE_EDGES.len()],
}

impl Tally {
    /// Counts a packet of `wire_len` bytes on the wire, link-layer header included.
    pub fn add(&mut self, wire_len: u32) {
        self.packets += 1;
        self.bytes += u64::from(wire_len);
        // The first edge is 0, so that there is always one at or below the size.
        self.bins[SIZE_EDGES.partition_point(|&edge| edge <= wire_len) - 1] += 1;
    }

    /// Packets counted.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Their bytes on the wire.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The histogram: ascending, empty bins left out.
    pub fn sizes(&self) -> Vec<SizeBin> {
        let upper = SIZE_EDGES.iter().skip(1).copied().map(Some).chain([None]);
        let bins = SIZE_EDGES.iter().zip(upper).zip(self.bins);
        bins.filter(|(_, packets)| *packets > 0).map(|((&from, to), packets)| SizeBin { from, to, packets }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_falls_into_the_bin_that_contains_it() {
        let cases = [(0, 0, Some(64)), (63, 0, Some(64)), (64, 64, Some(128)), (1518, 1280, Some(1519))];
        let more = [(1519, 1519, Some(2048)), (65_535, 32_768, Some(65_536)), (65_549, 65_536, None)];
        for (size, from, to) in cases.into_iter().chain(more).chain([(u32::MAX, 65_536, None)]) {
            let mut tally = Tally::default();
            tally.add(size);
            assert_eq!(tally.sizes(), [SizeBin { from, to, packets: 1 }], "{size} bytes");
        }
    }

    #[test]
    fn counts_add_up() {
        let mut tally = Tally::default();
        for size in [60, 60, 1514, 66_000] {
            tally.add(size);
        }
        assert_eq!((tally.packets(), tally.bytes()), (4, 67_634));
        assert_eq!(tally.sizes().iter().map(|bin| bin.packets).collect::<Vec<_>>(), [2, 1, 1]);
        assert!(Tally::default().sizes().is_empty());
    }
}
