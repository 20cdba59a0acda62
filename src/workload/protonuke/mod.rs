//! Preset `protonuke`: minimega's traffic generator against its own server.
//!
//! Its client walks at random over the links of earlier pages and never ends: after the spec's duration it reports once, and
//! is then ended with SIGINT. Known from minimega 3.1.0, by its behaviour.

mod options;
mod report;
mod times;

use std::time::Duration;

use self::report::Report;
use super::number::{count, shown};
use super::readings::Readings;
use super::template::{Side, arguments};
use super::{
    Client, Ending, PairContext, PairOutputs, Parsed, Server, Settling, Tool, Version, Workload, WorkloadError,
};
use crate::ids::{Better, Level, NodeId};
use crate::node::Command;
use crate::spec::{ProtonukeSpec, Ready, Service};
use crate::units::ByteSize;

/// What a run may take beyond its duration until the client has reported.
const SLACK: Duration = Duration::from_secs(30);

/// Time between the server's reports.
const SERVER_REPORT: Duration = Duration::from_millis(250);

/// How long the server's last reports may take.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// protonuke.
#[derive(Debug)]
pub(super) struct Protonuke(pub(super) ProtonukeSpec);

/// The program, which no distribution packages and which cannot say its version.
pub(super) fn tool() -> Tool {
    Tool { program: "protonuke".to_owned(), package: None, version: Some(Version::Sha256) }
}

/// A server of protonuke for preset `ab`: images of `size` are drawn before it listens.
pub(super) fn http_server(pair: &PairContext<'_>, size: Option<ByteSize>) -> Result<Server, WorkloadError> {
    let mut argv = ["protonuke", "-serve", "-http", "-report", "0"].map(str::to_owned).to_vec();
    argv.extend(size.into_iter().flat_map(|size| ["-httpimagesize".to_owned(), bytes(size)]));
    server(pair, argv, &[Service::Http])
}

fn server(pair: &PairContext<'_>, argv: Vec<String>, services: &[Service]) -> Result<Server, WorkloadError> {
    if pair.port != services[0].port() {
        let why = format!(
            "protonuke serves {} on port {} alone, and on this testbed nodes share their ports",
            services[0].as_str(),
            services[0].port()
        );
        return Err(WorkloadError::Unusable { value: format!("port {}", pair.port), why });
    }
    // It leaves certificates and keys there: in the scratch directory, where it runs, they go with that.
    let env = vec![("TMPDIR".to_owned(), ".".to_owned())];
    Ok(Server {
        files: Vec::new(),
        command: Command { argv, env, ..Command::default() },
        ready: services.iter().map(|service| Ready::Tcp(service.port())).collect(),
        // Keys for TLS are made at the start.
        ready_timeout: Duration::from_secs(60),
        ends_by_itself: false,
        stop_signal: libc::SIGINT,
        settling: None,
    })
}

/// The client would ask a proxy that its environment names, and not the server.
fn no_proxy() -> Vec<(String, String)> {
    let all = ["NO_PROXY", "no_proxy"].map(|name| (name.to_owned(), "*".to_owned()));
    let none = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"].map(|name| (name.to_owned(), String::new()));
    all.into_iter().chain(none).collect()
}

/// As Go's flags take it: exact.
fn go(duration: Duration) -> String {
    format!("{}ns", duration.as_nanos())
}

fn bytes(size: ByteSize) -> String {
    format!("{}B", size.0)
}

impl Protonuke {
    fn flags(&self) -> impl Iterator<Item = String> {
        self.0.services.iter().map(|service| format!("-{}", service.as_str()))
    }
}

impl Workload for Protonuke {
    fn tools(&self) -> Vec<Tool> {
        vec![tool()]
    }

    fn default_port(&self) -> u16 {
        self.0.services[0].port()
    }

    fn server(&self, pair: &PairContext<'_>) -> Result<Option<Server>, WorkloadError> {
        let mut argv = vec!["protonuke".to_owned(), "-serve".to_owned()];
        argv.extend(self.flags());
        argv.extend(["-report".to_owned(), go(SERVER_REPORT)]);
        argv.extend(self.0.image_size.into_iter().flat_map(|size| ["-httpimagesize".to_owned(), bytes(size)]));
        let extra = arguments(pair, Side::Server, &self.0.server_arguments)?;
        options::check(&extra)?;
        argv.extend(extra);
        let mut server = server(pair, argv, &self.0.services)?;
        let last = self.0.services.last().expect("at least one service").as_str();
        // Of the reports one may have been under way when the clients ended; the second is later than that.
        let settling = Settling { output: format!("(?m)^{last}\t.*\n"), more: 2, limit: SETTLE_LIMIT };
        server.settling = Some(settling);
        Ok(Some(server))
    }

    fn client(&self, pair: &PairContext<'_>) -> Result<Client, WorkloadError> {
        let spec = &self.0;
        let mut argv = vec!["protonuke".to_owned()];
        argv.extend(self.flags());
        for (option, value) in [
            ("-u", spec.mean),
            ("-s", spec.deviation),
            ("-min", spec.min),
            ("-max", spec.max),
            ("-report", spec.duration),
        ] {
            argv.extend([option.to_owned(), go(value)]);
        }
        let level = if spec.times { "info" } else { "warn" };
        argv.extend(["-level".to_owned(), level.to_owned()]);
        let extra = arguments(pair, Side::Client, &spec.arguments)?;
        options::check(&extra)?;
        argv.extend(extra);
        argv.push(pair.server.to_string());
        let last = spec.services.last().expect("at least one service").as_str();
        let output = format!("(?m)^{last}\t.*\n");
        Ok(Client {
            command: Command { argv, env: no_proxy(), ..Command::default() },
            fetch: Vec::new(),
            time_limit: Some(spec.duration + SLACK),
            ending: Some(Ending { after: spec.duration, output, signal: libc::SIGINT }),
        })
    }

    fn parse(&self, pair: &PairContext<'_>, outputs: &PairOutputs) -> Parsed {
        let mut readings = Readings::new(pair.pair);
        if readings.client_finished("protonuke", outputs) {
            let said = times::read(&String::from_utf8_lossy(&outputs.client_err.bytes));
            let report = self.read_client(outputs, &mut readings);
            if let Some(first) = &said.first_error {
                let count = said.errors;
                readings
                    .invalid(format!("{count} errors and warnings of protonuke's client, the first: {}", shown(first)));
            }
            if self.0.times {
                self.write_times(&said, report.as_deref(), outputs, &mut readings);
            }
        }
        self.read_server(pair.pair, outputs, &mut readings);
        readings.finish()
    }
}

impl Protonuke {
    /// The client's only report that counts: its first, of the whole duration.
    fn read_client(&self, outputs: &PairOutputs, readings: &mut Readings) -> Option<Vec<Report>> {
        let reports = match report::read(&outputs.client_out.bytes, &self.0.services) {
            Ok(reports) => reports,
            Err(why) => {
                readings.invalid(format!("protonuke's client: {why}"));
                return None;
            }
        };
        let Some(first) = reports.into_iter().next() else {
            readings.invalid("protonuke's client ended without a report");
            return None;
        };
        for report in &first {
            let (name, unit, rate) = names(report.service);
            readings.metric(&name, unit, Some(Better::Higher), Some(count(report.count)));
            let per_second = report.per_minute / 60.0;
            readings.metric(&format!("{}_rate", report.service.as_str()), rate, Some(Better::Higher), Some(per_second));
            self.check(report, readings);
        }
        Some(first)
    }

    fn check(&self, report: &Report, readings: &mut Readings) {
        let (service, asked) = (report.service.as_str(), self.0.duration.as_secs_f64());
        if report.count == 0 {
            return readings.invalid(format!("protonuke's client finished nothing of {service} within {asked} s"));
        }
        // Begun with 0, the count is that of the interval the rate is of, whose length the two tell.
        let (least, most) = report.seconds();
        if most < asked * 0.999 {
            readings.invalid(format!(
                "protonuke's report of {service} contradicts itself: {} at {} a minute is {most:.3} s at most, and it was \
                 asked for after {asked} s",
                report.count, report.per_minute
            ));
        } else if least > asked * 1.05 {
            readings.suspect(format!("protonuke reported {service} after {least:.3} s instead of {asked} s"));
        }
    }

    /// What the server counted from its start to after the client's end.
    fn read_server(&self, pair: u32, outputs: &PairOutputs, readings: &mut Readings) {
        let Some(output) = &outputs.server_out else { return };
        let reports = match report::read(&output.bytes, &self.0.services) {
            Ok(reports) => reports,
            Err(why) => return readings.invalid(format!("protonuke's server: {why}")),
        };
        let last = reports.last().filter(|_| outputs.server_settled && !output.truncated);
        if last.is_none() {
            readings.invalid("protonuke's server did not report after its client had ended");
        }
        for &service in &self.0.services {
            let found = last.and_then(|last| last.iter().find(|report| report.service == service));
            let unit = if service == Service::Ssh { "B" } else { "1" };
            let (node, name) = (NodeId::server(pair), format!("{}_served", service.as_str()));
            readings.metric_on(node, Level::Application, &name, unit, None, found.map(|report| count(report.count)));
        }
    }

    /// Times of requests that the client logged, from its start to its end.
    fn write_times(
        &self,
        said: &times::Said,
        report: Option<&[Report]>,
        outputs: &PairOutputs,
        readings: &mut Readings,
    ) {
        if outputs.client_err.truncated {
            return readings.invalid("protonuke's client logged more times than are kept of an output");
        }
        for &service in &self.0.services {
            for kind in times::kinds(service) {
                let seconds = said.sorted(kind);
                times::write(kind, &seconds, readings);
                let counted = report.and_then(|report| report.iter().find(|report| report.service == service));
                let counted =
                    counted.filter(|_| kind.is_counted() && said.errors == 0).map_or(0, |report| report.count);
                if (seconds.len() as u64) < counted {
                    readings.invalid(format!(
                        "protonuke's client counted {counted} of {} and logged {} times",
                        service.as_str(),
                        seconds.len()
                    ));
                }
            }
        }
    }
}

/// Name and unit of what the client counts, and unit of its rate.
fn names(service: Service) -> (String, &'static str, &'static str) {
    let name = service.as_str();
    match service {
        Service::Http | Service::Https => (format!("{name}_attempts"), "1", "1/s"),
        Service::Ssh => (format!("{name}_bytes"), "B", "B/s"),
        Service::Smtp => (format!("{name}_mails"), "1", "1/s"),
        Service::Ftp | Service::Ftps | Service::Irc => (format!("{name}_hits"), "1", "1/s"),
    }
}

#[cfg(test)]
mod tests;
