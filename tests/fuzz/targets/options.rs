//! Any bytes as TCP options: the first two choose data offset and total length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vptest::packet::Segment;

fuzz_target!(|data: &[u8]| {
    let [offset, length, options @ ..] = data else { return };
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet.extend([0, 80, 1, 0, 0, 0, 0, 1, 0, 0, 0, 2, *offset, 0x12, 1, 0, 0, 0, 0, 0]);
    packet[3] = 40_u8.wrapping_add(*length);
    packet.extend(options);
    if packet.len() <= 65_535
        && let Some(segment) = Segment::decode(&packet)
    {
        assert!(segment.options.sack_blocks.is_none_or(|blocks| blocks <= 10));
    }
});
