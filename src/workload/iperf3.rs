//! Preset `iperf3`: throughput, retransmits and RTT over TCP; jitter and loss over UDP.
//!
//! Read from the JSON of iperf3 3.12 and later. iperf3 3.12 exits with status 0 even when the test failed: the member
//! `error` decides.

use std::time::Duration;

use serde_json::Value as Json;

use super::number::{count, shown};
use super::readings::Readings;
use super::template::{Side, arguments};
use super::{Client, PairContext, PairOutputs, Parsed, Server, Tool, Version, Workload, WorkloadError};
use crate::ids::{Better, Level, NodeId};
use crate::node::Command;
use crate::spec::{Protocol, Ready};
use crate::units::Rate;

/// What a test may take beyond its duration: setting up, exchanging results.
const SLACK: Duration = Duration::from_secs(30);

/// A test that ran for less than this share of its duration does not count.
const SHORTEST: f64 = 0.95;

/// iperf3.
#[derive(Debug)]
pub(super) struct Iperf3 {
    pub(super) protocol: Protocol,
    pub(super) duration: Duration,
    pub(super) streams: u32,
    pub(super) bitrate: Option<Rate>,
    pub(super) reverse: bool,
    pub(super) arguments: Vec<String>,
}

impl Workload for Iperf3 {
    fn tools(&self) -> Vec<Tool> {
        vec![Tool {
            program: "iperf3".to_owned(),
            package: Some("iperf3"),
            version: Some(Version::Printed(&["--version"])),
        }]
    }

    fn default_port(&self) -> u16 {
        5201
    }

    fn server(&self, pair: &PairContext<'_>) -> Result<Option<Server>, WorkloadError> {
        // Bound to the address its client uses: over UDP an unbound server may answer from another one of the node's.
        let (address, port) = (pair.server.to_string(), pair.port.to_string());
        let argv = ["iperf3", "-s", "-1", "-J", "-B", &address, "-p", &port].map(str::to_owned).to_vec();
        Ok(Some(Server {
            files: Vec::new(),
            command: Command { argv, ..Command::default() },
            ready: vec![Ready::Tcp(pair.port)],
            ready_timeout: Duration::from_secs(10),
            ends_by_itself: true,
            stop_signal: libc::SIGTERM,
            settling: None,
        }))
    }

    fn client(&self, pair: &PairContext<'_>) -> Result<Client, WorkloadError> {
        let seconds = self.seconds()?;
        let text = |value: u64| value.to_string();
        let mut argv = vec!["iperf3".to_owned(), "-c".to_owned(), pair.server.to_string()];
        argv.extend(["-p".to_owned(), pair.port.to_string(), "-J".to_owned()]);
        argv.extend(["-t".to_owned(), text(seconds), "-P".to_owned(), text(self.streams.into())]);
        argv.extend((self.protocol == Protocol::Udp).then(|| "-u".to_owned()));
        argv.extend(self.bitrate.into_iter().flat_map(|rate| ["-b".to_owned(), text(rate.bits_per_second())]));
        argv.extend(self.reverse.then(|| "-R".to_owned()));
        argv.extend(arguments(pair, Side::Client, &self.arguments)?);
        let time_limit = Some(self.duration + SLACK);
        Ok(Client { command: Command { argv, ..Command::default() }, fetch: Vec::new(), time_limit, ending: None })
    }

    fn parse(&self, pair: &PairContext<'_>, outputs: &PairOutputs) -> Parsed {
        let mut readings = Readings::new(pair.pair);
        let client = json(&outputs.client_out.bytes);
        if let Some(error) = client.as_ref().ok().and_then(|json| json.get("error")) {
            readings.invalid(format!("iperf3: {}", shown(error.as_str().unwrap_or("unknown error"))));
        } else if readings.client_finished("iperf3", outputs) {
            // The server's own report matters only where the client cannot know; a damaged one leaves those unknown.
            let server = outputs.server_out.as_ref().and_then(|output| json(&output.bytes).ok());
            match client {
                Ok(client) => self.read(pair.pair, &Reports { client, server }, &mut readings),
                Err(why) => readings.invalid(why),
            }
        }
        readings.finish()
    }
}

fn json(bytes: &[u8]) -> Result<Json, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("iperf3's output is no JSON: {error}"))
}

/// What the two ends reported.
struct Reports {
    client: Json,
    server: Option<Json>,
}

impl Reports {
    fn sender(&self, reverse: bool) -> Option<&Json> {
        if reverse { self.server.as_ref() } else { Some(&self.client) }
    }

    fn receiver(&self, reverse: bool) -> Option<&Json> {
        self.sender(!reverse)
    }
}

impl Iperf3 {
    fn seconds(&self) -> Result<u64, WorkloadError> {
        let seconds = self.duration.as_secs();
        if self.duration.subsec_nanos() == 0 && (1..=86_400).contains(&seconds) {
            return Ok(seconds);
        }
        Err(WorkloadError::BadFactor {
            name: "duration".to_owned(),
            value: format!("{} s", self.duration.as_secs_f64()),
            expected: "iperf3 takes whole seconds, from 1 s to 86400 s",
        })
    }

    fn read(&self, pair: u32, reports: &Reports, readings: &mut Readings) {
        let mut required = Required { json: &reports.client, missing: Vec::new() };
        let received = required.number("/end/sum_received/bits_per_second");
        let sent = required.number("/end/sum_sent/bits_per_second");
        let bytes = required.number("/end/sum_received/bytes");
        let seconds = required.number("/end/sum_sent/seconds");
        let streams = required.json.pointer("/end/streams").and_then(Json::as_array).map(Vec::len);

        readings.metric("throughput", "bit/s", Some(Better::Higher), received);
        readings.metric("throughput_sent", "bit/s", Some(Better::Higher), sent);
        readings.metric("bytes_received", "B", None, bytes);
        readings.metric("duration", "s", None, seconds);
        match self.protocol {
            Protocol::Tcp => self.read_tcp(reports, readings),
            Protocol::Udp => self.read_udp(&mut required, reports, readings),
        }
        for missing in required.missing {
            readings.invalid(format!("iperf3's output has no number at {missing}"));
        }
        read_cpu(pair, &reports.client, readings);
        self.check(bytes, seconds, streams, readings);
    }

    fn check(&self, bytes: Option<f64>, seconds: Option<f64>, streams: Option<usize>, readings: &mut Readings) {
        if bytes == Some(0.0) {
            readings.invalid("iperf3's receiver got nothing");
        }
        let asked = self.duration.as_secs_f64();
        if let Some(seconds) = seconds.filter(|&seconds| seconds < SHORTEST * asked) {
            readings.invalid(format!("iperf3 ran for {seconds} s of {asked} s"));
        }
        if streams.and_then(|n| u32::try_from(n).ok()) != Some(self.streams) {
            let ran = streams.map_or("no".to_owned(), |n| n.to_string());
            readings.invalid(format!("iperf3 reported {ran} streams of {}", self.streams));
        }
    }

    /// RTT and window are known at the sender only; at the other end iperf3 writes 0 for them.
    fn read_tcp(&self, reports: &Reports, readings: &mut Readings) {
        let lower = Some(Better::Lower);
        readings.metric("retransmits", "1", lower, number(&reports.client, "/end/sum_sent/retransmits"));
        let sender = reports.sender(self.reverse);
        let of = |member: &str| -> Vec<f64> {
            let values = sender.map(|json| stream_values(json, &format!("/sender/{member}"))).unwrap_or_default();
            values.into_iter().filter(|&value| value > 0.0).collect()
        };
        let micros = |value: Option<f64>| value.map(|micros| micros / 1e6);
        readings.metric("rtt_min", "s", lower, micros(smallest(&of("min_rtt"))));
        readings.metric("rtt_mean", "s", lower, micros(mean(&of("mean_rtt"))));
        readings.metric("rtt_max", "s", lower, micros(largest(&of("max_rtt"))));
        readings.metric("snd_cwnd_max", "B", None, largest(&of("max_snd_cwnd")));
        if self.streams > 1 {
            let rates = stream_values(&reports.client, "/receiver/bits_per_second");
            readings.metric("stream_throughput_min", "bit/s", Some(Better::Higher), smallest(&rates));
            readings.metric("stream_throughput_max", "bit/s", Some(Better::Higher), largest(&rates));
        }
    }

    /// Loss as the receiver counts it: gaps in the sequence numbers. Packets missing after the last that arrived are in
    /// `packets` but not in `lost_packets`.
    fn read_udp(&self, required: &mut Required<'_>, reports: &Reports, readings: &mut Readings) {
        let lower = Some(Better::Lower);
        let jitter = required.number("/end/sum_received/jitter_ms").map(|ms| ms / 1000.0);
        let lost = required.number("/end/sum_received/lost_packets");
        let loss = required.number("/end/sum_received/lost_percent").map(|percent| percent / 100.0);
        let packets = required.number("/end/sum_sent/packets");
        let order = reports.receiver(self.reverse).map(|json| stream_values(json, "/udp/out_of_order"));
        readings.metric("jitter", "s", lower, jitter);
        readings.metric("lost_packets", "1", lower, lost);
        readings.metric("loss", "1", lower, loss);
        readings.metric("packets", "1", None, packets);
        readings.metric("out_of_order", "1", lower, order.filter(|all| !all.is_empty()).map(|all| all.iter().sum()));
        if packets == Some(0.0) {
            readings.invalid("iperf3's sender sent nothing");
        }
    }
}

/// CPU of both iperf3 processes as a share of one CPU, by their own account; `remote` is the server.
fn read_cpu(pair: u32, client: &Json, readings: &mut Readings) {
    for (node, side) in [(NodeId::client(pair), "host"), (NodeId::server(pair), "remote")] {
        let percent = number(client, &format!("/end/cpu_utilization_percent/{side}_total"));
        readings.metric_on(node, Level::Os, "iperf3_cpu", "1", None, percent.map(|percent| percent / 100.0));
    }
}

/// Looks numbers up and remembers which were missing.
struct Required<'a> {
    json: &'a Json,
    missing: Vec<String>,
}

impl Required<'_> {
    fn number(&mut self, pointer: &str) -> Option<f64> {
        let value = number(self.json, pointer);
        if value.is_none() {
            self.missing.push(pointer.to_owned());
        }
        value
    }
}

/// A number that is not negative; everything iperf3 reports is such.
fn number(json: &Json, pointer: &str) -> Option<f64> {
    json.pointer(pointer).and_then(Json::as_f64).filter(|&value| value >= 0.0)
}

/// One member of every stream; empty unless all streams have it.
fn stream_values(json: &Json, pointer: &str) -> Vec<f64> {
    let streams = json.pointer("/end/streams").and_then(Json::as_array);
    let values = streams.map(|all| all.iter().map(|stream| number(stream, pointer)).collect::<Option<Vec<f64>>>());
    values.flatten().unwrap_or_default()
}

fn smallest(values: &[f64]) -> Option<f64> {
    values.iter().copied().reduce(f64::min)
}

fn largest(values: &[f64]) -> Option<f64> {
    values.iter().copied().reduce(f64::max)
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / count(values.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Output;
    use crate::spec::Tuple;
    use crate::workload::tests::{outputs, pair, value};

    macro_rules! data {
        ($name:literal) => {
            include_str!(concat!("../../tests/data/iperf3/", $name))
        };
    }

    fn iperf3(protocol: Protocol, streams: u32, reverse: bool) -> Iperf3 {
        let duration = Duration::from_secs(1);
        Iperf3 { protocol, duration, streams, bitrate: None, reverse, arguments: Vec::new() }
    }

    fn parse(iperf3: &Iperf3, client: &str, server: &str) -> Parsed {
        let mut outputs = outputs(0, client, "");
        outputs.server_out = Some(Output { bytes: server.as_bytes().to_vec(), truncated: false });
        iperf3.parse(&pair(&Tuple::default()), &outputs)
    }

    #[test]
    fn tcp_is_read() {
        let parsed = parse(&iperf3(Protocol::Tcp, 1, false), data!("tcp.json"), data!("tcp.server.json"));
        assert_eq!(parsed.invalid, Vec::<String>::new());
        assert_eq!(value(&parsed, "throughput"), Some(20_918_508_132.365_677));
        assert_eq!(value(&parsed, "throughput_sent"), Some(20_960_237_750.965_466));
        assert_eq!(value(&parsed, "retransmits"), Some(0.0));
        assert_eq!(value(&parsed, "rtt_mean"), Some(62e-6));
        assert_eq!(value(&parsed, "snd_cwnd_max"), Some(1_047_728.0));
        let cpu = parsed.metrics.iter().filter(|m| m.name == "iperf3_cpu").map(|m| (m.node, m.value.unwrap()));
        let cpu: Vec<_> = cpu.collect();
        assert_eq!(cpu[0], (Some(NodeId::client(1)), 19.035_835_505_167_02 / 100.0));
        assert_eq!(cpu[1], (Some(NodeId::server(1)), 78.812_428_069_045_7 / 100.0));
    }

    /// The client's report has zeros where the sender's RTT would be.
    #[test]
    fn what_only_the_sender_knows_comes_from_the_sender() {
        let iperf3 = iperf3(Protocol::Tcp, 2, true);
        let parsed = parse(&iperf3, data!("tcp-reverse.json"), data!("tcp-reverse.server.json"));
        assert_eq!(parsed.invalid, Vec::<String>::new());
        assert!(value(&parsed, "rtt_min").is_some_and(|rtt| rtt > 0.0 && rtt < 0.1));
        assert!(value(&parsed, "snd_cwnd_max").is_some_and(|window| window > 0.0));
        assert_eq!(value(&parsed, "retransmits"), Some(2.0));
        assert_eq!(value(&parsed, "stream_throughput_min"), Some(8_032_209_827.582_592));
        let alone = parse(&iperf3, data!("tcp-reverse.json"), "");
        assert_eq!(alone.invalid, Vec::<String>::new());
        assert_eq!(value(&alone, "rtt_mean"), None, "0 is no RTT");
    }

    #[test]
    fn udp_is_read() {
        let parsed = parse(&iperf3(Protocol::Udp, 1, false), data!("udp-loss.json"), data!("udp-loss.server.json"));
        assert_eq!(parsed.invalid, Vec::<String>::new());
        assert_eq!(value(&parsed, "throughput"), Some(12_382_658_019.832_396), "what arrived, not what was sent");
        assert_eq!(value(&parsed, "lost_packets"), Some(83_959.0));
        assert_eq!(value(&parsed, "packets"), Some(131_330.0));
        assert_eq!(value(&parsed, "loss"), Some(63.929_795_172_466_3 / 100.0));
        assert_eq!(value(&parsed, "jitter"), Some(0.001_617_556_662_729_803_6 / 1000.0));
        assert_eq!(value(&parsed, "out_of_order"), Some(0.0));
        let reverse =
            parse(&iperf3(Protocol::Udp, 2, true), data!("udp-reverse.json"), data!("udp-reverse.server.json"));
        assert_eq!(reverse.invalid, Vec::<String>::new());
        assert_eq!(value(&reverse, "packets"), Some(382.0));
    }

    #[test]
    fn a_failed_test_is_no_result_whatever_its_status() {
        let tcp = iperf3(Protocol::Tcp, 1, false);
        let check = |client: &str, expected: &str| {
            let parsed = parse(&tcp, client, "");
            assert!(parsed.invalid.iter().any(|r| r.contains(expected)), "{expected}: {:?}", parsed.invalid);
        };
        check(data!("refused.json"), "iperf3: unable to connect to server: Connection refused");
        check(data!("killed.json"), "iperf3: unable to write to stream socket: Connection reset by peer");
        check("", "is no JSON");
        check(&data!("tcp.json")[..1000], "is no JSON");
        check(&data!("tcp.json").replace("sum_received", "sum"), "no number at /end/sum_received/bits_per_second");
        check(&data!("tcp.json").replace("\"seconds\":\t1.000038", "\"seconds\":\t0.5"), "ran for 0.5 s of 1 s");
        let two = parse(&iperf3(Protocol::Tcp, 2, false), data!("tcp.json"), "");
        assert_eq!(two.invalid, ["pair 1: iperf3 reported 1 streams of 2"]);
    }

    /// Other versions and systems leave some members out (no `retransmits` outside Linux) and add others.
    #[test]
    fn optional_members_may_be_missing() {
        let text = data!("tcp.json").replace("\"retransmits\":", "\"new\":").replace("cpu_utilization_percent", "cpu");
        let parsed = parse(&iperf3(Protocol::Tcp, 1, false), &text, "");
        assert_eq!(parsed.invalid, Vec::<String>::new());
        assert_eq!(value(&parsed, "retransmits"), None);
    }

    #[test]
    fn the_command_says_what_the_spec_says() {
        let tuple = Tuple::default();
        let mut udp = iperf3(Protocol::Udp, 4, true);
        udp.bitrate = Rate::from_bits_per_second(10_000_000);
        udp.arguments = vec!["-l".to_owned(), "1400".to_owned()];
        let client = udp.client(&pair(&tuple)).unwrap();
        assert_eq!(client.command.argv.join(" "), "iperf3 -c 10.0.0.2 -p 80 -J -t 1 -P 4 -u -b 10000000 -R -l 1400");
        assert_eq!(client.time_limit, Some(Duration::from_secs(31)));
        assert!(udp.server(&pair(&tuple)).unwrap().unwrap().ends_by_itself);
        udp.duration = Duration::from_millis(1500);
        let error = udp.client(&pair(&tuple)).unwrap_err().to_string();
        assert_eq!(error, "factor duration = `1.5 s`: iperf3 takes whole seconds, from 1 s to 86400 s");
    }
}
