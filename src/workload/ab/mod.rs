//! Preset `ab`: ApacheBench against the built-in HTTP server, nginx or protonuke.

mod options;
mod pages;
mod percentiles;
mod report;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use self::pages::Length;
use super::number::count;
use super::page::{self, Page};
use super::readings::Readings;
use super::template::{Side, arguments};
use super::{
    Client, PairContext, PairOutputs, Parsed, Server, Tool, Version, Workload, WorkloadError, nginx, protonuke,
};
use crate::ids::Better;
use crate::node::Command;
use crate::spec::{HttpServer, Ready, Value};

/// ab refuses more (`MAX_CONCURRENCY`).
const WORKERS_LIMIT: u64 = 20_000;

/// ApacheBench.
#[derive(Debug)]
pub(super) struct Ab {
    pub(super) server: HttpServer,
    pub(super) keepalive: bool,
    pub(super) arguments: Vec<String>,
}

/// What one run of ab is asked to do.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    workers: u64,
    count: u64,
    url: String,
    page: Page,
}

impl Asked {
    fn from(pair: &PairContext<'_>) -> Result<Self, WorkloadError> {
        let workers = positive(pair, "workers", 1)?;
        if workers > WORKERS_LIMIT {
            return Err(bad("workers", &workers.to_string(), "ab takes at most 20000"));
        }
        let count = positive(pair, "count", 1000)?;
        if count < workers {
            return Err(bad("count", &count.to_string(), "ab needs at least as many requests as workers"));
        }
        let url = match pair.tuple.get("url") {
            None => "/".to_owned(),
            Some(Value::Text(url)) => url.clone(),
            Some(other) => return Err(bad("url", &other.to_string(), EXPECTED_URL)),
        };
        let page = page::lookup(&url).map_err(|_| bad("url", &url, EXPECTED_URL))?;
        Ok(Self { workers, count, url, page })
    }
}

const EXPECTED_URL: &str = "`/` or `/image.png?size=16MB` (up to 16 GiB; kB, MB, GB, KiB, MiB, GiB)";

fn bad(name: &str, value: &str, expected: &'static str) -> WorkloadError {
    WorkloadError::BadFactor { name: name.to_owned(), value: value.to_owned(), expected }
}

fn positive(pair: &PairContext<'_>, name: &str, default: u64) -> Result<u64, WorkloadError> {
    match pair.tuple.get(name) {
        None => Ok(default),
        Some(Value::Integer(n)) if *n > 0 => Ok(n.unsigned_abs()),
        Some(other) => Err(bad(name, &other.to_string(), "a whole number of at least 1")),
    }
}

fn csv_path(pair: &PairContext<'_>) -> String {
    format!("{}/ab-percentiles-{}.csv", pair.client_scratch, pair.pair)
}

impl Workload for Ab {
    fn tools(&self) -> Vec<Tool> {
        let tool =
            |program: &str, package, version| Tool { program: program.to_owned(), package: Some(package), version };
        let mut tools = vec![tool("ab", "apache2-utils", Some(Version::Printed(&["-V"])))];
        match self.server {
            HttpServer::Builtin => {}
            // nginx -v writes to standard error.
            HttpServer::Nginx => tools.push(tool("nginx", "nginx", Some(Version::Printed(&["-v"])))),
            HttpServer::Protonuke => tools.push(protonuke::tool()),
        }
        tools
    }

    fn server(&self, pair: &PairContext<'_>) -> Result<Option<Server>, WorkloadError> {
        let asked = Asked::from(pair)?;
        match self.server {
            HttpServer::Builtin => Ok(Some(builtin(pair))),
            HttpServer::Nginx => nginx::server(pair, asked.page, asked.workers).map(Some),
            HttpServer::Protonuke => protonuke::http_server(pair, pages::drawn(asked.page)?).map(Some),
        }
    }

    fn client(&self, pair: &PairContext<'_>) -> Result<Client, WorkloadError> {
        let asked = Asked::from(pair)?;
        let csv = csv_path(pair);
        let extra = arguments(pair, Side::Client, &self.arguments)?;
        options::check(&extra)?;
        let mut argv = vec!["ab".to_owned(), "-q".to_owned()];
        argv.extend(["-n".to_owned(), asked.count.to_string(), "-c".to_owned(), asked.workers.to_string()]);
        argv.extend(self.keepalive.then(|| "-k".to_owned()));
        argv.extend(["-e".to_owned(), csv.clone()]);
        let varies = pages::of(self.server, asked.page) == Length::Varies;
        argv.extend((varies && !options::has(&extra, 'l')).then(|| "-l".to_owned()));
        argv.extend(extra);
        let url = if self.server == HttpServer::Protonuke { pages::url(asked.page) } else { asked.url };
        argv.push(format!("http://{}{url}", authority(pair.server, pair.port)));
        let command = Command { argv, ..Command::default() };
        Ok(Client { command, fetch: vec![csv], time_limit: None, ending: None })
    }

    fn parse(&self, pair: &PairContext<'_>, outputs: &PairOutputs) -> Parsed {
        let mut readings = Readings::new(pair.pair);
        let finished = readings.client_finished("ab", outputs);
        match Asked::from(pair) {
            Err(error) => readings.invalid(error.to_string()),
            Ok(_) if !finished => {}
            Ok(asked) => self.read(&asked, &csv_path(pair), outputs, &mut readings),
        }
        readings.finish()
    }
}

impl Ab {
    fn read(&self, asked: &Asked, csv: &str, outputs: &PairOutputs, readings: &mut Readings) {
        let text = String::from_utf8_lossy(&outputs.client_out.bytes);
        let report = match report::read(&text, self.keepalive) {
            Ok(report) => report,
            Err(problems) => return problems.iter().for_each(|problem| readings.invalid(problem)),
        };
        report.metrics(readings);
        check(asked, &report, readings);
        pages::check(asked, pages::of(self.server, asked.page), &report, readings);
        let file = outputs.files.iter().find(|(path, _)| path == csv);
        let latency = file
            .ok_or_else(|| "ab wrote no latency distribution (-e)".to_owned())
            .and_then(|(_, content)| percentiles::read(&String::from_utf8_lossy(content), report.complete));
        match latency {
            Ok(points) => write_latency(&points, readings),
            Err(problem) => readings.invalid(problem),
        }
    }
}

/// Did ab do what it was asked, and did every request succeed?
fn check(asked: &Asked, report: &report::Report, readings: &mut Readings) {
    if report.complete != asked.count {
        readings.invalid(format!("{} of {} requests completed", report.complete, asked.count));
    }
    if report.concurrency != asked.workers {
        readings.invalid(format!("ab ran {} workers instead of {}", report.concurrency, asked.workers));
    }
    if report.failed != 0 {
        readings.invalid(format!("{} failed requests ({})", report.failed, report.breakdown));
    }
    if report.non_2xx != 0 {
        readings.invalid(format!("{} responses were not 2xx", report.non_2xx));
    }
    if report.write_errors != 0 {
        readings.invalid(format!("{} write errors", report.write_errors));
    }
    if let Some(kept) = report.keepalive_requests.filter(|&kept| kept < report.complete) {
        readings.suspect(format!("only {kept} of {} requests were answered with keep-alive", report.complete));
    }
}

/// The distribution, and those of its points that people compare as metrics.
fn write_latency(points: &[percentiles::Point], readings: &mut Readings) {
    for point in points {
        readings.quantile("latency", "s", count(point.percent) / 100.0, point.seconds);
    }
    for (percent, name) in
        [(0, "latency_min"), (50, "latency_p50"), (90, "latency_p90"), (99, "latency_p99"), (100, "latency_max")]
    {
        let value = points.iter().find(|point| point.percent == percent).and_then(|point| point.seconds);
        readings.metric(name, "s", Some(Better::Lower), value);
    }
}

fn builtin(pair: &PairContext<'_>) -> Server {
    let address = SocketAddr::new(pair.server, pair.port).to_string();
    let argv = [pair.vptest, "serve-http", "--listen", &address].map(str::to_owned).to_vec();
    Server {
        files: Vec::new(),
        command: Command { argv, ..Command::default() },
        ready: vec![Ready::Tcp(pair.port)],
        ready_timeout: Duration::from_secs(10),
        ends_by_itself: false,
        stop_signal: libc::SIGTERM,
        settling: None,
    }
}

/// Host and port as in a URL; port 80 is left out, as everyone does.
fn authority(server: IpAddr, port: u16) -> String {
    match (server, port) {
        (IpAddr::V4(server), 80) => server.to_string(),
        (IpAddr::V6(server), 80) => format!("[{server}]"),
        _ => SocketAddr::new(server, port).to_string(),
    }
}

#[cfg(test)]
mod tests;
