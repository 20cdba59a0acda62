//! How `vptest flows` prints.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::Format;
use crate::flow::{
    Beyond, Connection, Entry, QUANTILES, STATISTICS, Stalls, Summary, Totals, Value, Way, write_header, write_row,
};
use crate::packet::{End, Time};

/// Rows are collected into blocks of this size.
const BLOCK: usize = 64 << 10;

/// Prints the connections of one capture.
pub(super) trait Rows {
    fn row(&mut self, connection: &Connection) -> io::Result<()>;
    fn finish(self, capture: &Path, totals: &Totals, end: &End) -> io::Result<()>;
}

/// tcptrace's CSV.
pub(super) struct CsvRows<'a, W> {
    out: &'a mut W,
    block: Vec<u8>,
    /// Is it the only capture?
    single: bool,
    any: bool,
}

impl<'a, W: Write> CsvRows<'a, W> {
    pub(super) fn new(out: &'a mut W, single: bool) -> Self {
        Self { out, block: Vec::with_capacity(BLOCK + 4096), single, any: false }
    }
}

pub(super) fn csv_header() -> Vec<u8> {
    let mut header = Vec::new();
    write_header(&mut header);
    header
}

impl<W: Write> Rows for CsvRows<'_, W> {
    fn row(&mut self, connection: &Connection) -> io::Result<()> {
        if self.single && !self.any {
            write_header(&mut self.block);
        }
        self.any = true;
        write_row(connection, &mut self.block);
        if self.block.len() >= BLOCK {
            self.out.write_all(&self.block)?;
            self.block.clear();
        }
        Ok(())
    }

    fn finish(self, _capture: &Path, _totals: &Totals, _end: &End) -> io::Result<()> {
        self.out.write_all(&self.block)?;
        if self.any { Ok(()) } else { self.out.write_all(b"#no traced TCP packets\n") }
    }
}

/// One JSON object a capture.
pub(super) struct JsonRows<'a, W> {
    out: &'a mut W,
    any: bool,
}

impl<'a, W: Write> JsonRows<'a, W> {
    pub(super) fn new(out: &'a mut W) -> Self {
        Self { out, any: false }
    }

    fn separate(&mut self) -> io::Result<()> {
        let before: &[u8] = if self.any { b",\n" } else { b"{\"connections\":[\n" };
        self.any = true;
        self.out.write_all(before)
    }
}

impl<W: Write> Rows for JsonRows<'_, W> {
    fn row(&mut self, connection: &Connection) -> io::Result<()> {
        self.separate()?;
        serde_json::to_writer(&mut self.out, &connection_json(connection)).map_err(Into::into)
    }

    fn finish(mut self, capture: &Path, totals: &Totals, end: &End) -> io::Result<()> {
        if !self.any {
            self.separate()?;
        }
        write!(self.out, "],\"capture\":{}}}", info(capture, totals, end))
    }
}

fn connection_json(connection: &Connection) -> Json {
    let mut row = Map::new();
    row.insert("number".into(), connection.number.into());
    row.insert("host_a".into(), connection.address_a().to_string().into());
    row.insert("host_b".into(), connection.address_b().to_string().into());
    row.insert("port_a".into(), connection.a.port().into());
    row.insert("port_b".into(), connection.b.port().into());
    row.insert("first_packet_ns".into(), connection.first.nanos().into());
    row.insert("last_packet_ns".into(), connection.last.nanos().into());
    row.insert("complete".into(), connection.is_complete().into());
    row.insert("reset".into(), connection.is_reset().into());
    for way in Way::ALL {
        let values = STATISTICS.iter().map(|s| (s.name.to_owned(), value_json(s.value(connection, way))));
        row.insert(way.as_str().into(), Json::Object(values.collect()));
    }
    Json::Object(row)
}

fn value_json(value: Option<Value>) -> Json {
    match value {
        None => Json::Null,
        Some(Value::Count(n)) => n.into(),
        Some(Value::Difference(n)) => n.into(),
        Some(Value::Real(x)) => x.into(),
        Some(Value::Flag(yes)) => yes.into(),
    }
}

/// What is to be said of a whole capture.
pub(super) fn info(capture: &Path, totals: &Totals, end: &End) -> Json {
    json!({
        "file": capture.to_string_lossy(),
        "records": totals.records,
        "tcp_packets": totals.tcp_packets,
        "connections": totals.connections,
        "ended_early": totals.ended_early,
        "unsupported_records": totals.unsupported,
        "complete": *end == End::Clean,
        "end": end.to_string(),
    })
}

/// The same with what [`Beyond`] found.
pub(super) fn info_beyond(capture: &Path, totals: &Totals, end: &End, beyond: Option<&Beyond>) -> Json {
    let mut info = info(capture, totals, end);
    let Some(beyond) = beyond else { return info };
    for way in Way::ALL {
        info[way.as_str()] = way_json(beyond, way);
    }
    info["stalls"] = stalls_json(beyond.stalls());
    info["start_ns"] = beyond.start().and_then(Time::nanos).into();
    info
}

fn stalls_json(stalls: &Stalls) -> Json {
    let first = stalls.first.iter().map(|stall| {
        json!({
            "connection": stall.connection,
            "from_ns": stall.from.nanos(),
            "duration_ns": stall.nanos,
            "ended_by": stall.ended_by.map(Way::as_str),
        })
    });
    json!({
        "count": stalls.count,
        "total_ns": stalls.nanos,
        "longest_ns": stalls.longest_nanos,
        "first": first.collect::<Vec<_>>(),
    })
}

fn way_json(beyond: &Beyond, way: Way) -> Json {
    let cut = beyond.packetization(way);
    let bins = beyond.throughput(way).map(|(at, bin)| json!([at / 1_000_000, bin.packets, bin.bytes]));
    json!({
        "sizes": beyond.sizes(way).map(|(from, packets)| json!([from, packets])).collect::<Vec<_>>(),
        "packets": cut.packets,
        "data_packets": cut.data_packets,
        "mean_payload_bytes": cut.mean_payload(),
        "super_segments": cut.super_segments,
        "super_segment_bytes": cut.super_bytes,
        "super_segments_on_wire": cut.super_on_wire,
        "longest_ip_packet_bytes": cut.longest,
        "throughput_ms_packets_bytes": bins.collect::<Vec<_>>(),
    })
}

/// A few columns for people.
pub(super) struct TableRows<'a, W> {
    out: &'a mut W,
    any: bool,
}

impl<'a, W: Write> TableRows<'a, W> {
    pub(super) fn new(out: &'a mut W) -> Self {
        Self { out, any: false }
    }
}

impl<W: Write> Rows for TableRows<'_, W> {
    fn row(&mut self, connection: &Connection) -> io::Result<()> {
        if !self.any {
            writeln!(
                self.out,
                "{:>6}  {:<43}  {:>11}  {:>9}  {:>9}  {:>13}  {:>13}  {:>7}  {:>10}  state",
                "#", "a > b", "duration s", "packets>", "<packets", "bytes>", "<bytes", "resent", "RTT ms"
            )?;
        }
        self.any = true;
        let [ab, ba] = &connection.directions;
        let rtt = [ab, ba].iter().filter_map(|direction| direction.rtt.mean()).reduce(f64::max);
        let state = match (connection.is_reset(), connection.is_complete()) {
            (true, _) => "reset",
            (false, true) => "complete",
            (false, false) => "open",
        };
        writeln!(
            self.out,
            "{:>6}  {:<43}  {:>11.6}  {:>9}  {:>9}  {:>13}  {:>13}  {:>7}  {:>10}  {state}",
            connection.number,
            format!(
                "{} > {}",
                std::net::SocketAddr::new(connection.address_a(), connection.a.port()),
                std::net::SocketAddr::new(connection.address_b(), connection.b.port())
            ),
            std::time::Duration::from_micros(connection.duration_micros()).as_secs_f64(),
            ab.packets,
            ba.packets,
            ab.unique_bytes,
            ba.unique_bytes,
            ab.rare().rexmit_packets + ba.rare().rexmit_packets,
            rtt.map_or_else(|| "-".into(), |micros| format!("{:.3}", micros / 1e3)),
        )
    }

    fn finish(self, _capture: &Path, totals: &Totals, _end: &End) -> io::Result<()> {
        if self.any {
            return Ok(());
        }
        writeln!(self.out, "no TCP connection in {} records", totals.records)
    }
}

/// Prints the distributions over all connections of all captures.
pub(super) fn summary(out: &mut impl Write, format: Format, summary: &Summary, infos: &[Json]) -> io::Result<()> {
    match format {
        Format::Json => summary_json(out, summary, infos),
        Format::Csv => summary_csv(out, summary),
        Format::Table => summary_table(out, summary, infos),
    }
}

/// Mean, standard deviation, minimum and the quantiles.
fn numbers(entry: &Entry<'_>) -> Vec<(&'static str, Option<f64>)> {
    let sketch = entry.sketch;
    let mut numbers = vec![("mean", sketch.mean()), ("sd", sketch.deviation()), ("min", sketch.min())];
    numbers.extend(QUANTILES.iter().map(|&(name, q)| (name, sketch.quantile(q))));
    numbers
}

fn summary_json(out: &mut impl Write, summary: &Summary, infos: &[Json]) -> io::Result<()> {
    let entries = summary.entries().map(|entry| {
        let mut object = Map::new();
        object.insert("statistic".into(), entry.statistic.name.into());
        object.insert("direction".into(), entry.way.as_str().into());
        object.insert("unit".into(), entry.statistic.unit.into());
        object.insert("count".into(), entry.sketch.count().into());
        object.extend(numbers(&entry).into_iter().map(|(name, number)| (name.to_owned(), number.into())));
        Json::Object(object)
    });
    let whole = json!({
        "connections": summary.connections(),
        "captures": infos,
        "summary": entries.collect::<Vec<_>>(),
    });
    writeln!(out, "{whole:#}")
}

fn summary_csv(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    let names: Vec<&str> = QUANTILES.iter().map(|&(name, _)| name).collect();
    writeln!(out, "statistic,direction,unit,count,mean,sd,min,{}", names.join(","))?;
    for entry in summary.entries() {
        write!(out, "{},{},{},{}", entry.statistic.name, entry.way, entry.statistic.unit, entry.sketch.count())?;
        for (_, number) in numbers(&entry) {
            write!(out, ",{}", number.map_or_else(String::new, |number| number.to_string()))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn summary_table(out: &mut impl Write, summary: &Summary, infos: &[Json]) -> io::Result<()> {
    writeln!(out, "{} connections", summary.connections())?;
    write!(out, "{:<24}{:>10}", "statistic", "count")?;
    for name in ["mean", "sd", "min"].into_iter().chain(QUANTILES.map(|(name, _)| name)) {
        write!(out, "{name:>12}")?;
    }
    writeln!(out)?;
    for entry in summary.entries() {
        let name = format!("{} {}", entry.statistic.name, entry.way);
        let unit = if entry.statistic.unit == "1" { "" } else { entry.statistic.unit };
        write!(out, "{name:<24}{:>10}", entry.sketch.count())?;
        for (_, number) in numbers(&entry) {
            write!(out, "{:>12}", number.map_or_else(|| "-".into(), short))?;
        }
        writeln!(out, "  {unit}")?;
    }
    infos.iter().try_for_each(|info| beyond_table(out, info))
}

/// Packetization and stalls of one capture, in a few lines.
fn beyond_table(out: &mut impl Write, info: &Json) -> io::Result<()> {
    writeln!(out, "\n{}", info["file"].as_str().unwrap_or_default())?;
    for way in Way::ALL.map(Way::as_str) {
        let cut = &info[way];
        let payload = cut["mean_payload_bytes"].as_f64().map_or_else(|| "-".into(), short);
        writeln!(
            out,
            "{way}: {} packets, {} with payload, mean {payload} B; {} longer than the MTU, longest {} B",
            cut["packets"], cut["data_packets"], cut["super_segments"], cut["longest_ip_packet_bytes"]
        )?;
    }
    let stalls = &info["stalls"];
    let longest = stalls["longest_ns"].as_i64().map(|nanos| format!(", longest {} ms", nanos / 1_000_000));
    writeln!(out, "stalls: {}{}", stalls["count"], longest.unwrap_or_default())
}

/// At most three decimals, none for whole numbers.
fn short(number: f64) -> String {
    if number.fract() == 0.0 || number.abs() >= 1e6 { format!("{number:.0}") } else { format!("{number:.3}") }
}
