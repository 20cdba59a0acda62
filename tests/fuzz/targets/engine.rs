//! Any bytes as a capture, through the whole engine to CSV. With tight limits as well, which must keep every packet; and
//! with every ended connection packed, which must change nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vptest::flow::{Connection, Engine, Options, Order, write_row};
use vptest::packet::Reader;

fn packets(data: &[u8], options: Options, rows: &mut Vec<u8>) -> (u64, u64, u64) {
    let mut counted = (0, 0);
    let mut text = Vec::new();
    let sink = |connection: &Connection| {
        counted.0 += 1;
        counted.1 += connection.directions.iter().map(|direction| direction.packets).sum::<u64>();
        text.clear();
        write_row(connection, &mut text);
        rows.extend_from_slice(&text);
        assert_eq!(text.iter().filter(|&&byte| byte == b',').count(), 147);
    };
    let mut engine = Engine::new(options, sink);
    if let Ok(mut reader) = Reader::open(data) {
        while let Some(record) = reader.next() {
            engine.packet(record.time, record.wire_len, record.data, record.link);
        }
    }
    let (totals, _) = engine.finish();
    assert_eq!((totals.connections, totals.tcp_packets), counted);
    (totals.tcp_packets, totals.connections, totals.ended_early)
}

fuzz_target!(|data: &[u8]| {
    let (mut rows, mut with_packing) = (Vec::new(), Vec::new());
    let usual = packets(data, Options::default(), &mut rows);
    packets(data, Options { park_above: 0, ..Options::default() }, &mut with_packing);
    assert!(rows == with_packing);
    let tight =
        packets(data, Options { order: Order::Final, max_live: 2, release_above: 1, park_above: 0 }, &mut Vec::new());
    assert_eq!(usual.0, tight.0);
    assert!(usual.2 == 0 && usual.1 <= tight.1);
});
