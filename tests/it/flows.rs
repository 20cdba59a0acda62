//! `vptest flows` against tcptrace, its oracle files, and captures meant to break it.

use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin_cmd;
use proptest::prelude::*;
use vptest::flow::{Connection, Engine, Options, Order, write_row};
use vptest::packet::{LinkType, Reader, Time};

use crate::need::{need, program};
use crate::wild::{Kind, capture};

/// The captures with known results that stand beside the checkout, where they are there.
fn shared() -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|directory| directory.join("shared"));
    let found = found.into_iter().find(|shared| shared.join("score_flows.py").is_file());
    need("shared", found.is_some()).then_some(found).flatten()
}

fn flows(arguments: &[&str], input: &[u8]) -> Output {
    cargo_bin_cmd!("vptest").arg("flows").args(arguments).write_stdin(input).output().expect("vptest runs")
}

/// Rows without comments and header.
fn rows(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let is_row = |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.starts_with("conn_#");
    text.lines().filter(is_row).map(str::to_owned).collect()
}

#[test]
fn every_cell_equals_the_oracle() {
    let Some(shared) = shared() else { return };
    let command = format!("{} flows --format csv {{}}", cargo_bin_cmd!("vptest").get_program().to_string_lossy());
    let output = Command::new("python3")
        .arg(shared.join("score_flows.py"))
        .args(["--strict-time", "--profile", "lnrW", "--cmd", &command])
        .args(["pcaps", "pcaps-fuzz", "pcaps-hostile"].map(|directory| shared.join(directory)))
        .output()
        .expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn wild_captures_come_out_as_tcptrace_has_them() {
    if !program("tcptrace") {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (seed, kind) in (0..120).zip(Kind::ALL.into_iter().cycle()) {
        let bytes = capture(seed, kind, 400);
        let path = directory.path().join("wild.pcap");
        std::fs::write(&path, &bytes).expect("the capture is written");
        let theirs = Command::new("tcptrace").args(["-lnrW", "--csv"]).arg(&path).output().expect("tcptrace runs");
        let (theirs, ours) = (rows(&theirs.stdout), rows(trace(&bytes[..]).as_bytes()));
        assert_eq!(theirs, ours, "seed {seed}, {kind:?}");
    }
}

/// What is expected of a capture that has no table of cells.
struct Hostile {
    name: &'static str,
    status: i32,
    rows: usize,
    stderr: &'static str,
}

const fn hostile(name: &'static str, status: i32, rows: usize, stderr: &'static str) -> Hostile {
    Hostile { name, status, rows, stderr }
}

const HOSTILE: [Hostile; 13] = [
    hostile("h00_base.pcap", 0, 1, ""),
    hostile("h01_zero_length.pcap", 4, 0, "empty"),
    hostile("h02_truncated_file_header.pcap", 4, 0, "10 bytes"),
    hostile("h03_bad_magic.pcap", 4, 0, "not a capture"),
    hostile("h04_header_only.pcap", 0, 0, ""),
    hostile("h05a_cut_in_record_data.pcap", 0, 1, "cut at byte"),
    hostile("h05b_cut_in_record_header.pcap", 0, 1, "cut at byte"),
    hostile("h07_absurd_caplen.pcap", 0, 1, "damaged at byte"),
    hostile("h13b_pcapng_bad_trailer.pcapng", 0, 1, "damaged at byte"),
    hostile("h16c_ipv6_ah_then_tcp.pcap", 0, 1, ""),
    hostile("h21_short_frames.pcap", 0, 1, ""),
    hostile("h25_random_bytes.pcap", 0, 0, "damaged at byte"),
    hostile("h28_unsupported_link.pcap", 4, 0, "link type 147 is not supported"),
];

#[test]
fn hostile_captures_end_as_they_should() {
    let Some(shared) = shared() else { return };
    for expected in HOSTILE {
        let path = shared.join("pcaps-hostile").join(expected.name);
        let output = flows(&[path.to_str().expect("UTF-8")], &[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(expected.status), "{}: {stderr}", expected.name);
        assert_eq!(rows(&output.stdout).len(), expected.rows, "{}", expected.name);
        assert!(stderr.contains(expected.stderr), "{}: {stderr}", expected.name);
        let lines = usize::from(!expected.stderr.is_empty());
        assert_eq!(stderr.lines().count(), lines, "{}: one line or none: {stderr}", expected.name);
    }
}

#[test]
fn a_bad_capture_among_good_ones_is_named_and_the_rest_shown() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    std::fs::write(path("good.pcap"), capture(6, Kind::Conversation, 300)).expect("written");
    std::fs::write(path("bad.pcap"), b"no capture").expect("written");
    let (good, bad) = (path("good.pcap"), path("bad.pcap"));
    let single = flows(&[&good], &[]);
    let output = flows(&[&good, &bad, &good], &[]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bad.pcap"));
    assert_eq!(rows(&output.stdout), [rows(&single.stdout), rows(&single.stdout)].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.matches("# file ").count(), 2);
    assert_eq!(text.matches("conn_#").count(), 1);
}

#[test]
fn compressed_or_from_a_pipe_it_is_the_same() {
    let bytes = capture(12, Kind::Conversation, 500);
    let plain = flows(&["-"], &bytes).stdout;
    assert!(!rows(&plain).is_empty());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).expect("memory");
    let gzip = gzip.finish().expect("memory");
    assert_eq!(flows(&["-"], &gzip).stdout, plain);
    assert_eq!(flows(&["-"], &zstd::encode_all(&bytes[..], 1).expect("memory")).stdout, plain);
    let cut = flows(&["-"], &gzip[..gzip.len() / 2]);
    assert_eq!(cut.status.code(), Some(0), "what could be unpacked is shown");
    assert!(String::from_utf8_lossy(&cut.stderr).starts_with("warning: standard input: "));
}

#[test]
fn json_has_the_rows_and_the_summary_counts_them() {
    let bytes = capture(18, Kind::Conversation, 500);
    let count = rows(&flows(&["-"], &bytes).stdout).len();
    let json: serde_json::Value =
        serde_json::from_slice(&flows(&["--format", "json", "-"], &bytes).stdout).expect("is JSON");
    let connections = json["captures"][0]["connections"].as_array().expect("a list");
    assert_eq!(connections.len(), count);
    assert!(connections[0]["a2b"]["total_packets"].is_u64());
    let summary: serde_json::Value =
        serde_json::from_slice(&flows(&["--summary", "--format", "json", "-"], &bytes).stdout).expect("is JSON");
    assert_eq!(summary["connections"], count);
    let packets: Vec<f64> =
        connections.iter().map(|row| row["a2b"]["total_packets"].as_f64().expect("a number")).collect();
    let entry = &summary["summary"][0];
    assert_eq!((entry["statistic"].as_str(), entry["direction"].as_str()), (Some("total_packets"), Some("a2b")));
    let most = packets.iter().copied().fold(f64::MIN, f64::max);
    assert_eq!(entry["max"].as_f64(), Some(most));
    assert!(
        (entry["mean"].as_f64().expect("a number") - packets.iter().sum::<f64>() / packets.len() as f64).abs() < 1e-9
    );
}

#[test]
fn a_filter_chooses_packets_and_a_wrong_one_is_refused() {
    let on_ethernet = |bytes: &Vec<u8>| Reader::open(&bytes[..]).is_ok_and(|r| r.link() == Some(LinkType::ETHERNET));
    let bytes = (0..).map(|seed| capture(seed, Kind::Conversation, 500)).find(on_ethernet).expect("half of them are");
    let all = rows(&flows(&["-"], &bytes).stdout);
    let none = rows(&flows(&["--filter", "udp", "-"], &bytes).stdout);
    let tcp = rows(&flows(&["--filter", "ip or ip6 or vlan", "-"], &bytes).stdout);
    assert!(none.is_empty() && !all.is_empty() && !tcp.is_empty());
    let wrong = flows(&["--filter", "prot 80", "-"], &bytes);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("prot 80"));
}

/// Hands out its bytes in pieces of changing size.
struct Pieces<'a> {
    rest: &'a [u8],
    sizes: std::iter::Cycle<std::vec::IntoIter<usize>>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = self.sizes.next().expect("it cycles");
        let count = wanted.min(buffer.len()).min(self.rest.len());
        let (now, rest) = self.rest.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.rest = rest;
        Ok(count)
    }
}

fn trace(source: impl Read) -> String {
    trace_with(source, Options::default()).1
}

/// Number of TCP packets, and the rows.
fn trace_with(source: impl Read, options: Options) -> (u64, String) {
    let mut text = Vec::new();
    let mut engine = Engine::new(options, |connection: &Connection| write_row(connection, &mut text));
    if let Ok(mut reader) = Reader::open(source) {
        while let Some(record) = reader.next() {
            engine.packet(record.time, record.wire_len, record.data, record.link);
        }
    }
    let (totals, _sink) = engine.finish();
    (totals.tcp_packets, String::from_utf8(text).expect("rows are ASCII"))
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_do_not_matter(seed: u64, kind in kind(), sizes in prop::collection::vec(1_usize..3000, 1..20)) {
        let bytes = capture(seed, kind, 200);
        let pieces = Pieces { rest: &bytes, sizes: sizes.into_iter().cycle() };
        prop_assert_eq!(trace(pieces), trace(&bytes[..]));
    }

    #[test]
    fn damage_never_panics(seed: u64, kind in kind(), hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
        let mut bytes = capture(seed, kind, 100);
        for (at, byte) in hits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        trace(&bytes[..]);
    }

    #[test]
    fn tight_limits_lose_no_packet(seed: u64, kind in kind()) {
        let bytes = capture(seed, kind, 300);
        let tight = Options { order: Order::Creation, max_live: 2, release_above: 1, park_above: 0 };
        let (packets, text) = trace_with(&bytes[..], tight);
        let counted: u64 = text
            .lines()
            .flat_map(|row| row.split(',').skip(7).take(2).map(|cell| cell.trim().parse::<u64>().expect("a count")).collect::<Vec<_>>())
            .sum();
        prop_assert_eq!(counted, packets);
    }

    #[test]
    fn packing_ended_connections_changes_nothing(seed: u64, kind in kind()) {
        let bytes = capture(seed, kind, 300);
        let rows = |park_above| trace_with(&bytes[..], Options { park_above, ..Options::default() });
        prop_assert_eq!(rows(0), rows(usize::MAX));
    }

    #[test]
    fn releasing_old_connections_changes_nothing_while_time_runs_on(seed: u64) {
        let bytes = capture(seed, Kind::Wrap, 300);
        let rows = |release_above| {
            let mut text = Vec::new();
            let options = Options { release_above, ..Options::default() };
            let mut engine = Engine::new(options, |connection: &Connection| write_row(connection, &mut text));
            let mut reader = Reader::open(&bytes[..]).expect("a capture");
            let mut now = Time::default();
            while let Some(record) = reader.next() {
                now = now.max(record.time);
                engine.packet(now, record.wire_len, record.data, record.link);
            }
            let _totals_and_sink = engine.finish();
            text
        };
        prop_assert_eq!(rows(1), rows(usize::MAX));
    }
}
