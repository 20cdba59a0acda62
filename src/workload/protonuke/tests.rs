//! Real outputs of protonuke; where they come from is in `tests/data/protonuke/README.md`.

use super::*;
use crate::node::{ExitStatus, Output};
use crate::spec::Tuple;
use crate::workload::tests::{outputs, pair, value};

macro_rules! data {
    ($name:literal) => {
        include_str!(concat!("../../../tests/data/protonuke/", $name))
    };
}

fn spec(services: &[Service]) -> Protonuke {
    Protonuke(ProtonukeSpec {
        services: services.to_vec(),
        duration: Duration::from_secs(3),
        mean: Duration::from_millis(100),
        deviation: Duration::from_millis(10),
        min: Duration::from_millis(10),
        max: Duration::from_secs(1),
        image_size: Some(ByteSize(10_240)),
        times: true,
        arguments: Vec::new(),
        server_arguments: Vec::new(),
    })
}

fn parse_with(services: &[Service], out: &str, err: &str, server: &str, change: impl Fn(&mut PairOutputs)) -> Parsed {
    let mut outputs = outputs(0, out, err);
    outputs.server_out = Some(Output { bytes: server.as_bytes().to_vec(), truncated: false });
    change(&mut outputs);
    spec(services).parse(&pair(&Tuple::default()), &outputs)
}

fn parse(services: &[Service], out: &str, err: &str, server: &str) -> Parsed {
    parse_with(services, out, err, server, |_| ())
}

const HTTP: &[Service] = &[Service::Http];

#[test]
fn a_good_run_over_http_gives_all_its_numbers() {
    let parsed = parse(HTTP, data!("http.out"), data!("http.err"), data!("http.server.out"));
    assert_eq!((parsed.invalid, parsed.suspect), (Vec::<String>::new(), Vec::new()));
    let parsed = parse(HTTP, data!("http.out"), data!("http.err"), data!("http.server.out"));
    assert_eq!(value(&parsed, "http_attempts"), Some(28.0));
    assert_eq!(value(&parsed, "http_rate"), Some(559.9 / 60.0));
    assert_eq!(value(&parsed, "http_served"), Some(52.0));
    assert_eq!(parsed.quantiles.len(), 202);
    for (name, least, most) in [("http_page_time", 0.000_4, 0.02), ("http_image_time", 0.000_2, 0.02)] {
        let [min, p50, max] = ["min", "p50", "max"].map(|part| value(&parsed, &format!("{name}_{part}")).unwrap());
        assert!(least < min && min < p50 && p50 < max && max < most, "{name}: {min} {p50} {max}");
    }
    let server = parsed.metrics.iter().find(|metric| metric.name == "http_served").unwrap();
    assert_eq!(server.node, Some(NodeId::server(1)));
}

#[test]
fn the_other_services_are_read() {
    let https = parse(&[Service::Https], data!("https.out"), data!("https.err"), data!("https.server.out"));
    assert_eq!(https.invalid, Vec::<String>::new());
    assert_eq!(value(&https, "https_attempts"), Some(27.0));
    let smtp = parse(&[Service::Smtp], data!("smtp.out"), data!("smtp.err"), data!("smtp.server.out"));
    assert_eq!(smtp.invalid, Vec::<String>::new());
    assert_eq!(value(&smtp, "smtp_mails"), Some(29.0));
    assert!(value(&smtp, "smtp_mail_time_p50").is_some_and(|time| time > 0.001 && time < 0.1));
    let ftp = parse(&[Service::Ftp], data!("ftp.out"), "", data!("ftp.server.out"));
    assert_eq!((ftp.invalid.len(), value(&ftp, "ftp_hits")), (0, Some(46.0)));
    let irc = parse(&[Service::Irc], data!("irc.out"), "", data!("irc.server.out"));
    assert_eq!((irc.invalid.len(), value(&irc, "irc_hits")), (0, Some(4.0)));
}

#[test]
fn what_failed_is_no_result() {
    let check = |parsed: Parsed, expected: &str| {
        assert!(parsed.invalid.iter().any(|reason| reason.contains(expected)), "{expected}: {:?}", parsed.invalid);
    };
    let server = data!("http.server.out");
    check(
        parse(HTTP, data!("refused.out"), data!("refused.err"), server),
        "errors and warnings of protonuke's client, the first: Get",
    );
    // The ssh client of minimega 3.1.0 never connects.
    let ssh = parse(&[Service::Ssh], data!("ssh.out"), data!("ssh.err"), "ssh\t0\t0.0 bytes/min\n\n");
    check(ssh.clone(), "33 errors and warnings of protonuke's client, the first: ssh: must specify HostKeyCallback");
    check(ssh, "protonuke's client finished nothing of ssh within 3 s");
    check(parse(HTTP, "", data!("http.err"), server), "protonuke's client ended without a report");
    check(parse(HTTP, "http\t28\t55", data!("http.err"), server), "protonuke's client ended without a report");
    check(parse(HTTP, "garbage\n", "", server), "protonuke's client: `garbage` is no line of a report");
    check(parse(HTTP, "http\t28\t900.0 hits/min\n\n", data!("http.err"), server), "contradicts itself");
    check(parse(HTTP, data!("http.out"), "", server), "counted 28 of http and logged 0 times");
    check(parse(HTTP, data!("http.out"), data!("http.err"), ""), "server did not report after");
    let unsettled = |outputs: &mut PairOutputs| outputs.server_settled = false;
    let parsed = parse_with(HTTP, data!("http.out"), data!("http.err"), server, unsettled);
    assert_eq!(value(&parsed, "http_served"), None, "a count of an earlier moment is none of the whole");
    check(parsed, "server did not report after");
    let killed = |outputs: &mut PairOutputs| {
        outputs.client_exit.as_mut().unwrap().status = ExitStatus::Signal(libc::SIGKILL);
    };
    let parsed = parse_with(HTTP, data!("http.out"), data!("http.err"), server, killed);
    assert!(parsed.metrics.iter().all(|metric| metric.name != "http_attempts"), "{:?}", parsed.metrics);
    check(parsed, "protonuke ended with signal 9");
    let cut = |outputs: &mut PairOutputs| outputs.client_exit = None;
    check(parse_with(HTTP, "", "", server, cut), "protonuke did not finish within its time limit");
    let truncated = |outputs: &mut PairOutputs| outputs.client_err.truncated = true;
    check(parse_with(HTTP, data!("http.out"), data!("http.err"), server, truncated), "more times than are kept");
}

#[test]
fn a_late_report_is_suspect() {
    let late = parse(HTTP, "http\t28\t500.0 hits/min\n\n", data!("http.err"), data!("http.server.out"));
    assert_eq!(late.suspect, ["pair 1: protonuke reported http after 3.360 s instead of 3 s"]);
}

#[test]
fn the_commands_say_what_the_spec_says() {
    let tuple = Tuple::default();
    let both = spec(&[Service::Http, Service::Smtp]);
    let client = both.client(&pair(&tuple)).unwrap();
    assert_eq!(
        client.command.argv.join(" "),
        "protonuke -http -smtp -u 100000000ns -s 10000000ns -min 10000000ns -max 1000000000ns -report 3000000000ns \
         -level info 10.0.0.2"
    );
    assert_eq!(client.time_limit, Some(Duration::from_secs(33)));
    let ending = client.ending.unwrap();
    assert_eq!((ending.after, ending.signal), (Duration::from_secs(3), libc::SIGINT));
    let server = both.server(&pair(&tuple)).unwrap().unwrap();
    assert_eq!(server.command.argv.join(" "), "protonuke -serve -http -smtp -report 250000000ns -httpimagesize 10240B");
    assert_eq!(server.ready, [Ready::Tcp(80), Ready::Tcp(25)]);
    let shared = PairContext { port: 40_000, ..pair(&tuple) };
    let error = both.server(&shared).unwrap_err().to_string();
    assert!(error.starts_with("`port 40000`: protonuke serves http on port 80 alone"), "{error}");
}
