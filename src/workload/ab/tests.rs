//! Real outputs of ab; where they come from is in `tests/data/ab/README.md`.

use super::*;
use crate::spec::Tuple;
use crate::workload::tests::{outputs, pair, tuple, value};

macro_rules! data {
    ($name:literal) => {
        include_str!(concat!("../../../tests/data/ab/", $name))
    };
}

fn ab(keepalive: bool) -> Ab {
    Ab { server: HttpServer::Builtin, keepalive, arguments: Vec::new() }
}

fn asked(workers: i64, count: i64) -> Tuple {
    tuple(&[("workers", Value::Integer(workers)), ("count", Value::Integer(count))])
}

fn parse_as(keepalive: bool, tuple: &Tuple, code: i32, out: &str, err: &str, csv: Option<&str>) -> Parsed {
    let mut outputs = outputs(code, out, err);
    outputs.files.extend(csv.map(|csv| ("/c/ab-percentiles-1.csv".to_owned(), csv.as_bytes().to_vec())));
    ab(keepalive).parse(&pair(tuple), &outputs)
}

/// The recorded servers' page had 16 bytes; this is the only complaint about a good run.
const LENGTH: &str = "pair 1: / is 16 bytes long instead of 615";

#[test]
fn a_good_run_gives_all_its_numbers() {
    let parsed = parse_as(false, &asked(10, 2000), 0, data!("plain.out"), "", Some(data!("plain.csv")));
    assert_eq!(parsed.invalid, [LENGTH]);
    let close = |name, expected: f64| {
        let found = value(&parsed, name).unwrap();
        assert!((found / expected - 1.0).abs() < 1e-5, "{name} is {found}, not {expected}");
    };
    close("rps", PLAIN_RPS);
    close("transfer_rate", PLAIN_RPS * 247.0);
    close("time_taken", 2000.0 / PLAIN_RPS);
    close("time_per_request", 10.0 / PLAIN_RPS);
    close("time_per_request_across", 1.0 / PLAIN_RPS);
    for (name, expected) in [
        ("complete_requests", 2000.0),
        ("failed_requests", 0.0),
        ("non_2xx", 0.0),
        ("document_length", 16.0),
        ("html_transferred", 32_000.0),
        ("total_transferred", 494_000.0),
        ("concurrency", 10.0),
    ] {
        assert_eq!(value(&parsed, name), Some(expected), "{name}");
    }
    assert_eq!(parsed.quantiles.len(), 101);
    assert_eq!(parsed.quantiles[100].q, 1.0);
    assert_eq!(value(&parsed, "latency_max"), parsed.quantiles[100].value);
    assert!(parsed.metrics.iter().all(|metric| metric.name != "keepalive_requests"));
}

/// `Requests per second` of `plain.out`.
const PLAIN_RPS: f64 = 16190.27;

#[test]
fn milliseconds_become_seconds() {
    let parsed = parse_as(false, &asked(2, 20), 0, data!("latency.out"), "", Some(data!("latency.csv")));
    assert!(value(&parsed, "waiting_median").unwrap() >= 0.05);
    assert!(value(&parsed, "latency_p50").unwrap() >= 0.05);
    assert!(value(&parsed, "total_max").unwrap() < 1.0);
}

#[test]
fn variants_of_a_good_run_are_read() {
    let keepalive = parse_as(true, &asked(10, 2000), 0, data!("keepalive.out"), "", Some(data!("keepalive.csv")));
    assert_eq!(keepalive.invalid, [LENGTH]);
    assert_eq!(value(&keepalive, "keepalive_requests"), Some(2000.0));
    assert!(keepalive.suspect.is_empty());
    let some = data!("keepalive.out").replace("Keep-Alive requests:    2000", "Keep-Alive requests:    1990");
    let some = parse_as(true, &asked(10, 2000), 0, &some, "", Some(data!("keepalive.csv")));
    assert_eq!(some.suspect, ["pair 1: only 1990 of 2000 requests were answered with keep-alive"]);
    let one = parse_as(false, &asked(1, 1), 0, data!("one.out"), "", Some(data!("one.csv")));
    assert_eq!(one.invalid, [LENGTH]);
    assert_eq!(value(&one, "latency_p90"), None, "ab reads past its array here");
    let ipv6 = parse_as(false, &asked(4, 20), 0, data!("ipv6.out"), "", Some(data!("ipv6.csv")));
    assert_eq!(ipv6.invalid, [LENGTH]);
    let image = tuple(&[
        ("workers", Value::Integer(10)),
        ("count", Value::Integer(100)),
        ("url", Value::Text("/image.png?size=1MB".to_owned())),
    ]);
    let image = parse_as(false, &image, 0, data!("image-1mb.out"), "", Some(data!("image-1mb.csv")));
    assert_eq!(image.invalid, Vec::<String>::new());
}

#[test]
fn whatever_went_wrong_is_named() {
    let check = |workers, count, code, out, err, csv: Option<&str>, expected: &str| {
        let parsed = parse_as(false, &asked(workers, count), code, out, err, csv);
        assert!(parsed.invalid.iter().any(|reason| reason.contains(expected)), "{expected}: {:?}", parsed.invalid);
    };
    check(4, 20, 0, data!("non-2xx.out"), "", Some(data!("non-2xx.csv")), "20 responses were not 2xx");
    let failed = "20 failed requests (connect: 0, receive: 0, length: 20, exceptions: 0)";
    check(2, 30, 0, data!("varying-length.out"), "", Some(data!("varying-length.csv")), failed);
    check(4, 20, 0, data!("refused-r.out"), "", Some(data!("refused-r.csv")), "failed requests (connect: 0");
    let refused = "ab ended with exit status 111: apr_socket_recv: Connection refused (111)";
    check(4, 20, 111, data!("refused.out"), data!("refused.err"), None, refused);
    let expired = "ab ended with exit status 119: apr_pollset_poll: The timeout specified has expired (70007)";
    check(2, 20, 119, data!("timeout.out"), data!("timeout.err"), None, expired);
    check(1, 20, 104, data!("reset.out"), data!("reset.err"), None, "Connection reset by peer (104)");
    check(10, 100_000, 0, data!("time-limit.out"), "", Some(data!("time-limit.csv")), "of 100000 requests completed");
    check(4, 20, 0, data!("no-confidence.out"), "", None, "is not five numbers");
    check(4, 2000, 0, data!("plain.out"), "", Some(data!("plain.csv")), "ab ran 10 workers instead of 4");
    check(10, 2000, 0, data!("plain.out"), "", None, "wrote no latency distribution");
    check(1, 1, 0, "", "", None, "ab printed no line `Complete requests:`");
}

#[test]
fn every_line_counts() {
    let good = data!("plain.out");
    for line in good.lines().skip(11).filter(|line| line.contains(':') && !line.starts_with("Document Path")) {
        let without = good.replacen(line, "", 1);
        let parsed = parse_as(false, &asked(10, 2000), 0, &without, "", Some(data!("plain.csv")));
        assert!(parsed.invalid.iter().any(|r| r.contains("printed no line")), "{line} was not missed");
        assert!(parsed.metrics.is_empty());
        let damaged = good.replacen(line, &line.replace(|c: char| c.is_ascii_digit(), "?"), 1);
        let parsed = parse_as(false, &asked(10, 2000), 0, &damaged, "", Some(data!("plain.csv")));
        assert!(parsed.metrics.is_empty(), "{line} was read with its digits gone");
    }
    let twice = format!("{good}Complete requests:      5000\n");
    let parsed = parse_as(false, &asked(10, 2000), 0, &twice, "", Some(data!("plain.csv")));
    assert_eq!(parsed.invalid, ["pair 1: ab printed the line `Complete requests:` twice"]);
}

#[test]
fn a_client_that_was_cut_off_is_no_result() {
    let tuple = asked(10, 2000);
    let mut outputs = outputs(0, data!("plain.out"), "");
    outputs.client_exit = None;
    let parsed = ab(false).parse(&pair(&tuple), &outputs);
    assert_eq!(parsed.invalid, ["pair 1: ab did not finish within its time limit"]);
    assert!(parsed.metrics.is_empty());
}

#[test]
fn the_command_says_what_the_tuple_says() {
    let tuple = tuple(&[
        ("workers", Value::Integer(10)),
        (
            "request",
            Value::Group(
                [
                    ("url".to_owned(), Value::Text("/image.png?size=16MB".to_owned())),
                    ("count".to_owned(), Value::Integer(1000)),
                ]
                .into(),
            ),
        ),
        ("agent", Value::Text("x; rm -rf /".to_owned())),
    ]);
    let mut ab = ab(true);
    ab.arguments = vec!["-H".to_owned(), "User-Agent: {agent}".to_owned()];
    let client = ab.client(&pair(&tuple)).unwrap();
    let expected = "ab|-q|-n|1000|-c|10|-k|-e|/c/ab-percentiles-1.csv|-H|User-Agent: x; rm -rf /|\
                    http://10.0.0.2/image.png?size=16MB";
    assert_eq!(client.command.argv.join("|"), expected);
    let v6 = PairContext { server: "fd00::2".parse().unwrap(), port: 8080, ..pair(&tuple) };
    assert_eq!(ab.client(&v6).unwrap().command.argv.last().unwrap(), "http://[fd00::2]:8080/image.png?size=16MB");
    let server = ab.server(&v6).unwrap().unwrap();
    assert_eq!(server.command.argv, ["/bin/vptest", "serve-http", "--listen", "[fd00::2]:8080"]);
    assert_eq!(server.ready, [Ready::Tcp(8080)]);
}

#[test]
fn factors_that_ab_cannot_use_are_refused() {
    let error = |tuple: Tuple| ab(false).client(&pair(&tuple)).unwrap_err().to_string();
    assert_eq!(error(asked(10, 5)), "factor count = `5`: ab needs at least as many requests as workers");
    assert_eq!(error(asked(0, 5)), "factor workers = `0`: a whole number of at least 1");
    assert_eq!(error(asked(20_001, 100_000)), "factor workers = `20001`: ab takes at most 20000");
    let url = error(tuple(&[("url", Value::Text("/nope".to_owned()))]));
    assert!(url.starts_with("factor url = `/nope`: `/` or `/image.png?size=16MB`"), "{url}");
}

/// protonuke's pages vary and its images have their own lengths; its names of sizes mean something else.
#[test]
fn protonuke_is_asked_for_what_the_tuple_says() {
    let nuke = Ab { server: HttpServer::Protonuke, keepalive: false, arguments: vec!["-r".to_owned()] };
    let command = |url: &str| {
        let tuple = tuple(&[("url", Value::Text(url.to_owned())), ("count", Value::Integer(20))]);
        let (client, server) = (nuke.client(&pair(&tuple)).unwrap(), nuke.server(&pair(&tuple)).unwrap().unwrap());
        (client.command.argv.join(" "), server.command.argv.join(" "))
    };
    assert_eq!(
        command("/image.png?size=16kB"),
        (
            "ab -q -n 20 -c 1 -e /c/ab-percentiles-1.csv -r http://10.0.0.2/image.png?size=16000B".to_owned(),
            "protonuke -serve -http -report 0 -httpimagesize 16000B".to_owned()
        )
    );
    assert_eq!(
        command("/"),
        (
            "ab -q -n 20 -c 1 -e /c/ab-percentiles-1.csv -l -r http://10.0.0.2/".to_owned(),
            "protonuke -serve -http -report 0".to_owned()
        )
    );
    let large = tuple(&[("url", Value::Text("/image.png?size=2GiB".to_owned()))]);
    assert!(nuke.server(&pair(&large)).unwrap_err().to_string().contains("from 4 B (one pixel) to 1 GiB"));
}

/// With `-l` ab says no length, and takes pages of any.
#[test]
fn pages_of_any_length_are_judged_by_their_sum() {
    let text = data!("plain.out").replace("Document Length:        16 bytes", "Document Length:        Variable");
    let parsed = parse_as(false, &asked(10, 2000), 0, &text, "", Some(data!("plain.csv")));
    assert_eq!(parsed.invalid, [LENGTH]);
    assert_eq!(value(&parsed, "document_length"), None);
}
