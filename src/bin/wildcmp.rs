//! Temporary: many wild captures against tcptrace.
#[path = "../../tests/it/wild.rs"]
mod wild;
use std::process::Command;
use vptest::flow::*;
use vptest::packet::*;
fn ours(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    let mut reader = Reader::open(bytes).expect("pcap");
    let mut engine = Engine::new(Options::default(), |c: &Connection| write_row(c, &mut out));
    while let Some(r) = reader.next() {
        engine.packet(r.time, r.wire_len, r.data, r.link);
    }
    engine.finish();
    String::from_utf8(out).expect("text")
}
fn main() {
    let arg = |n: usize| std::env::args().nth(n).and_then(|a| a.parse::<u64>().ok());
    let (from, to, packets) = (arg(1).unwrap(), arg(2).unwrap(), arg(3).unwrap_or(300) as u32);
    let (mut rows, mut bad) = (0, 0);
    for seed in from..to {
        let kind = wild::Kind::ALL[(seed % 6) as usize];
        let bytes = wild::capture(seed, kind, packets);
        let path = format!("/tmp/fl/wild{}.pcap", from);
        std::fs::write(&path, &bytes).unwrap();
        let o = Command::new("timeout").args(["20", "tcptrace", "-lnrW", "--csv", &path]).output().unwrap();
        let theirs = String::from_utf8_lossy(&o.stdout);
        let theirs: Vec<&str> = theirs.lines().filter(|l| !l.starts_with('#') && !l.is_empty() && !l.starts_with("conn_")).collect();
        let us = ours(&bytes);
        let us: Vec<&str> = us.lines().collect();
        rows += us.len();
        if theirs != us {
            bad += 1;
            std::fs::copy(&path, format!("/tmp/fl/bad{seed}.pcap")).unwrap();
            println!("seed {seed} {kind:?} rc {:?} theirs {} ours {} link {}", o.status.code(), theirs.len(), us.len(), bytes[20]);
            let mut shown = 0;
            for (t, u) in theirs.iter().zip(&us) {
                for (i, (x, y)) in t.split(',').zip(u.split(',')).enumerate() {
                    if x != y && shown < 6 {
                        shown += 1;
                        println!("   row {} col {i}: theirs {x:?} ours {y:?}", t.split(',').next().unwrap());
                    }
                }
            }
            if bad > 12 { break }
        }
    }
    println!("{} captures, {rows} rows, {bad} differ", to - from);
}
