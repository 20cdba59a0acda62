//! Any bytes as a frame of any link type.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vptest::packet::{LinkDecoder, LinkType, Segment};

fuzz_target!(|data: &[u8]| {
    let Some((&link, frame)) = data.split_first() else { return };
    let mut decoder = LinkDecoder::default();
    for link in [u32::from(link), 276] {
        if let Some(ip) = decoder.ip(LinkType(link), frame) {
            let _ = Segment::decode(ip);
        }
    }
    let _ = Segment::decode(frame);
});
