//! Temporary.
use std::io::Write;
use vptest::flow::*;
use vptest::packet::*;
fn main() {
    let name = std::env::args().nth(1).expect("file");
    let file = std::fs::File::open(name).expect("open");
    let mut reader = match Reader::open(decoded(file).expect("io")) {
        Ok(r) => r,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(4)
        }
    };
    let mut out = Vec::new();
    let mut stdout = std::io::stdout().lock();
    let mut engine = Engine::new(Options::default(), |c: &Connection| {
        if out.is_empty() && c.number == 1 {
            write_header(&mut out);
        }
        write_row(c, &mut out);
        if out.len() > 1 << 16 {
            stdout.write_all(&out).expect("write");
            out.clear();
        }
    });
    while let Some(r) = reader.next() {
        engine.packet(r.time, r.wire_len, r.data, r.link);
    }
    if reader.end() != Some(&End::Clean) {
        eprintln!("{:?}", reader.end());
    }
    let (totals, _) = engine.finish();
    stdout.write_all(&out).expect("write");
    let _ = totals;
}
