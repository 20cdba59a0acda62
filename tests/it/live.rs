//! TCP statistics computed while packets arrive: the same as from the kept file of the same iteration.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use rusqlite::Connection;
use vptest::flow::{Engine, Options, Order, QUANTILES, Summary};
use vptest::packet::{Reader, decoded};

use super::campaign::Campaign;
use super::need;

/// ab against the built-in server, observed at both ends of both links.
const LIVE: &str = r#"
name        = "live"
repetitions = 2
timeout     = "60 s"

[factors]
testbed = "netns"
rate    = ["100 Mbit/s", "20 Mbit/s"]
workers = 1
request = { url = "/image.png?size=50kB", count = 150 }

[workload]
preset = "ab"

[capture]
vantage     = ["guest", "host"]
connections = true
keep        = true

# Other tests run at the same time.
[verify]
foreign_cpu = "off"
steal       = "off"
client_cpu  = "off"
"#;

const REQUESTS: i64 = 150;

fn tools() -> bool {
    need::root() && need::program("ab") && need::program("ip")
}

fn only<T: rusqlite::types::FromSql>(db: &Connection, sql: &str) -> T {
    db.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// What the engine says of a kept file, read afterwards.
fn offline(path: &Path) -> Summary {
    let mut reader = Reader::open(decoded(File::open(path).unwrap()).unwrap()).unwrap();
    let mut engine = Engine::new(Options { order: Order::Final, ..Options::default() }, Summary::default());
    while let Some(record) = reader.next() {
        engine.packet(record.time, record.wire_len, record.data, record.link);
    }
    assert_eq!(reader.end().unwrap(), &vptest::packet::End::Clean);
    engine.finish().1
}

type Row = (i64, Vec<Option<f64>>, Option<Vec<u8>>);

/// Statistics as stored, by name and direction.
fn stored(db: &Connection, capture: i64) -> BTreeMap<(String, String), Row> {
    let sql = "SELECT name, direction, count, mean, sd, min, p5, p25, median, p75, p95, p99, max, sketch \
               FROM connection_statistic WHERE capture = ?1";
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([capture], |row| {
        let values = (3..13).map(|column| row.get(column)).collect::<Result<_, _>>()?;
        Ok(((row.get(0)?, row.get(1)?), (row.get(2)?, values, row.get(13)?)))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

fn expected(summary: &Summary) -> BTreeMap<(String, String), Row> {
    let row = |entry: vptest::flow::Entry<'_>| {
        let sketch = entry.sketch;
        let mut values = vec![sketch.mean(), sketch.deviation(), sketch.min()];
        values.extend(QUANTILES.map(|(_, q)| sketch.quantile(q)));
        let bytes = (sketch.min() != sketch.max()).then(|| sketch.to_bytes());
        let key = (entry.statistic.name.to_owned(), entry.way.as_str().to_owned());
        (key, (sketch.count().try_into().unwrap(), values, bytes))
    };
    summary.entries().map(row).collect()
}

#[test]
fn live_statistics_are_those_of_the_kept_packets() {
    if !tools() {
        return;
    }
    let campaign = Campaign::planned(LIVE);
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.statuses(), vec!["complete"; 4]);
    for name in campaign.files() {
        let db = Connection::open(campaign.out().join(&name)).unwrap();
        let mut captures = db.prepare("SELECT position, file, snaplen FROM capture").unwrap();
        let points = captures.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let points: Vec<(i64, String, u32)> = points.unwrap().map(Result::unwrap).collect();
        assert_eq!(points.len(), 4);
        for (capture, file, snaplen) in points {
            assert_eq!(snaplen, 128, "all headers fit");
            let summary = offline(&campaign.out().join(file));
            assert_eq!(i64::try_from(summary.connections()).unwrap(), REQUESTS, "a connection for each request");
            assert_eq!(stored(&db, capture), expected(&summary), "{name}, capture {capture}");
            rows(&db, capture);
        }
        metrics(&db);
    }
    analysed(&campaign);
}

/// Totals and single rows of one capture point.
fn rows(db: &Connection, capture: i64) {
    let count = |sql: &str| only::<i64>(db, &format!("{sql} capture = {capture}"));
    assert_eq!(count("SELECT connections FROM tcp WHERE"), REQUESTS);
    assert_eq!(count("SELECT complete FROM tcp WHERE"), REQUESTS);
    assert_eq!(count("SELECT count(*) FROM connection WHERE complete AND b_port > 0 AND"), REQUESTS);
    assert_eq!(count("SELECT count(*) FROM connection_direction WHERE"), 2 * REQUESTS);
    let sums = "SELECT s.sum - total(d.\"unique_bytes_sent\") FROM connection_statistic s JOIN connection_direction d \
                USING(capture, direction) WHERE s.name = 'unique_bytes_sent' AND s.direction = 'b2a' AND";
    assert_eq!(only::<f64>(db, &format!("{sums} capture = {capture}")), 0.0);
    let payload = "SELECT sum(s.bytes) - (SELECT data_bytes FROM tcp_direction d WHERE d.capture = s.capture AND \
                   d.direction = 'b2a') FROM tcp_series s WHERE s.direction = 'b2a' AND";
    assert_eq!(only::<i64>(db, &format!("{payload} capture = {capture}")), 0);
    assert!(count("SELECT data_bytes FROM tcp_direction WHERE direction = 'b2a' AND") > REQUESTS * 50_000);
}

fn metrics(db: &Connection) {
    let value = |node: &str, name: &str| {
        let sql = format!("SELECT value FROM metric WHERE level = 'network' AND node = '{node}' AND name = '{name}'");
        only::<f64>(db, &sql)
    };
    for name in ["connections", "host.connections"] {
        assert_eq!(value("client1", name), REQUESTS as f64);
    }
    assert_eq!(value("client1", "rexmt_share"), 0.0);
    assert!(value("server1", "segment_size") > 1000.0);
    assert!(value("client1", "rtt_avg") > 0.0 && value("client1", "rtt_avg") < 1.0);
    assert!(value("server1", "connection_throughput") < 100e6);
}

fn analysed(campaign: &Campaign) {
    let files = campaign.files();
    let paths: Vec<String> = files.iter().map(|name| format!("out/{name}")).collect();
    let merge: Vec<&str> = std::iter::once("merge").chain(paths.iter().map(String::as_str)).collect();
    campaign.expect(0, &merge);
    for metric in ["rtt_avg@client", "rtt_avg@server", "host.rtt_avg@client", "network.connections@client"] {
        let said = campaign.expect(0, &["analyze", "--metric", metric, "--by", "rate", "--format", "json"]);
        let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        assert!(said.out.contains("20 Mbit/s") && json.is_object(), "{metric}: {}", said.out);
    }
}

#[test]
fn drops_make_it_suspect_and_statistics_are_optional() {
    if !tools() {
        return;
    }
    let spec = LIVE
        .replace("repetitions = 2", "repetitions = 1")
        .replace("rate    = [\"100 Mbit/s\", \"20 Mbit/s\"]\n", "")
        .replace("size=50kB\", count = 150", "size=20MB\", count = 10");
    let small = spec.replace("connections = true\nkeep        = true", "ring = \"64 KiB\"\nsnaplen = 65535");
    let campaign = Campaign::planned(&small);
    campaign.expect(0, &["run"]);
    let (_, _, status, reasons) = campaign.outcomes().remove(0);
    assert!(status == "suspect" && reasons.contains("the kernel dropped"), "{status} {reasons}");
    let db = Connection::open(campaign.out().join(&campaign.files()[0])).unwrap();
    assert!(only::<i64>(&db, "SELECT min(connections) FROM tcp") >= 1);
    assert_eq!(only::<i64>(&db, "SELECT count(*) FROM connection"), 0);

    let off = spec.replace("connections = true\nkeep        = true", "statistics = false");
    let campaign = Campaign::planned(&off);
    campaign.expect(0, &["run"]);
    let db = Connection::open(campaign.out().join(&campaign.files()[0])).unwrap();
    assert_eq!(only::<i64>(&db, "SELECT count(*) FROM tcp"), 0);
    assert_eq!(only::<i64>(&db, "SELECT count(*) FROM metric WHERE level = 'network'"), 0);
    assert_eq!(only::<i64>(&db, "SELECT count(*) FROM capture WHERE packets > 0"), 4);
}
