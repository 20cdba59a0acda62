//! Workloads driven on the fake testbed: real programs over the loopback interface.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use vptest::ids::{Level, NodeId};
use vptest::record::Metric;
use vptest::spec::{
    FakeSpec, HttpServer, MetricPattern, MetricRule, Protocol, Ready, Source, Tuple, Value, WorkloadSpec,
};
use vptest::testbed::fake::Fake;
use vptest::testbed::{Instance, Notice, Request, Teardown, Testbed as _};
use vptest::workload::drive::{Drive, DriveError, Driven};
use vptest::workload::{PairCpus, find_in_path, from_spec};

use crate::need::need;

/// A fake testbed with its scratch directory.
struct Bed {
    instance: Box<dyn Instance>,
    tuple: Tuple,
    _scratch: tempfile::TempDir,
}

async fn bed(values: &[(&str, Value)]) -> Bed {
    let tuple = Tuple::new(values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect());
    let scratch = tempfile::tempdir().unwrap();
    let request = Request {
        tuple: tuple.clone(),
        number: 1,
        attempt: 1,
        scratch: scratch.path().to_owned(),
        campaign: scratch.path().to_owned(),
        vptest: PathBuf::from(env!("CARGO_BIN_EXE_vptest")),
        programs: Vec::new(),
        notice: Notice::default(),
    };
    let instance = Fake::new(FakeSpec::default()).launch(&request).await.unwrap();
    Bed { instance, tuple, _scratch: scratch }
}

impl Bed {
    async fn drive(&self, spec: &WorkloadSpec) -> Result<Driven, DriveError> {
        self.drive_on(spec, None).await
    }

    async fn drive_on(&self, spec: &WorkloadSpec, cpus: Option<&[PairCpus]>) -> Result<Driven, DriveError> {
        let workload = from_spec(spec);
        Drive { workload: workload.as_ref(), tuple: &self.tuple, pairs: self.instance.pairs(), cpus }.run().await
    }

    /// Drives, expects success without complaint, and takes the testbed down.
    async fn complete(mut self, spec: &WorkloadSpec) -> Driven {
        let driven = self.drive(spec).await.unwrap();
        assert_eq!(driven.invalid, Vec::<String>::new());
        assert_eq!(driven.suspect, Vec::<String>::new());
        assert_eq!(self.instance.teardown().await, Teardown::default());
        driven
    }

    /// Drives, expects an error, takes the testbed down and gives the error's text.
    async fn error(mut self, spec: &WorkloadSpec) -> String {
        let error = self.drive(spec).await.unwrap_err();
        assert_eq!(self.instance.teardown().await, Teardown::default());
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }
}

fn found<'a>(driven: &'a Driven, pair: u32, name: &str) -> &'a Metric {
    let mut all = driven.metrics.iter().filter(|metric| metric.pair == Some(pair) && metric.name == name);
    let metric = all.next().unwrap_or_else(|| panic!("no metric {name} of pair {pair}"));
    assert!(all.next().is_none(), "{name} is there twice");
    metric
}

fn value(driven: &Driven, pair: u32, name: &str) -> f64 {
    found(driven, pair, name).value.unwrap_or_else(|| panic!("{name} has no value"))
}

fn tool(name: &str) -> bool {
    need(name, find_in_path(name).is_some())
}

fn integer(value: i64) -> Value {
    Value::Integer(value)
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

fn ab(server: HttpServer, keepalive: bool) -> WorkloadSpec {
    WorkloadSpec::Ab { server, keepalive, arguments: Vec::new() }
}

fn iperf3(protocol: Protocol, reverse: bool) -> WorkloadSpec {
    let duration = Duration::from_secs(1);
    WorkloadSpec::Iperf3 { protocol, duration, streams: 2, bitrate: None, reverse, arguments: Vec::new() }
}

fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

/// A custom workload of two shell scripts.
fn scripts(server: &str, ready: Option<Ready>, client: &str) -> WorkloadSpec {
    WorkloadSpec::Command {
        server: Some(shell(server)),
        client: shell(client),
        ready,
        ready_timeout: Duration::from_secs(10),
        time_limit: None,
        metrics: Vec::new(),
        keep: Vec::new(),
        keep_server: Vec::new(),
    }
}

async fn check_http(server: HttpServer) {
    for keepalive in [false, true] {
        for (url, size) in [("/", 615.0), ("/image.png?size=1MB", 1e6)] {
            let request =
                Value::Group(BTreeMap::from([("url".to_owned(), text(url)), ("count".to_owned(), integer(200))]));
            let driven = bed(&[("workers", integer(4)), ("request", request)]).await;
            let driven = driven.complete(&ab(server, keepalive)).await;
            assert_eq!(value(&driven, 1, "complete_requests"), 200.0);
            assert_eq!(value(&driven, 1, "document_length"), size);
            assert_eq!(value(&driven, 1, "html_transferred"), 200.0 * size);
            assert!(value(&driven, 1, "rps") > 0.0);
            assert_eq!(driven.quantiles.len(), 101);
            if keepalive {
                assert_eq!(value(&driven, 1, "keepalive_requests"), 200.0);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ab_measures_the_built_in_server() {
    if tool("ab") {
        check_http(HttpServer::Builtin).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ab_measures_nginx() {
    if tool("ab") && tool("nginx") {
        check_http(HttpServer::Nginx).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_pairs_run_at_once_and_are_told_apart() {
    if !tool("ab") {
        return;
    }
    let bed = bed(&[("pairs", integer(3)), ("workers", integer(2)), ("count", integer(300))]).await;
    let driven = bed.complete(&ab(HttpServer::Builtin, false)).await;
    for pair in 1..=3 {
        assert_eq!(value(&driven, pair, "complete_requests"), 300.0);
        assert_eq!(found(&driven, pair, "rps").node, Some(NodeId::client(pair)));
        let cpu = found(&driven, pair, "client_cpu");
        assert!(cpu.level == Level::Os && cpu.value.is_some_and(|share| share > 0.0 && share < 2.0), "{cpu:?}");
        assert!(value(&driven, pair, "server_cpu_time") > 0.0);
    }
    assert_eq!(driven.clients.iter().map(|run| run.node.pair).collect::<Vec<_>>(), [1, 2, 3]);
    let skew = driven.metrics.iter().find(|metric| metric.name == "start_skew").unwrap();
    assert!(skew.value.is_some_and(|skew| skew > 0.0), "three clients do not start at the same instant");
    assert!(driven.clients_started_ns < driven.clients_ended_ns);
}

#[tokio::test(flavor = "multi_thread")]
async fn iperf3_measures_tcp_and_udp_both_ways() {
    if !tool("iperf3") {
        return;
    }
    for reverse in [false, true] {
        let tcp = bed(&[]).await.complete(&iperf3(Protocol::Tcp, reverse)).await;
        assert!(value(&tcp, 1, "throughput") > 0.0);
        assert!(value(&tcp, 1, "rtt_mean") > 0.0);
        let udp = bed(&[]).await.complete(&iperf3(Protocol::Udp, reverse)).await;
        assert!(value(&udp, 1, "jitter") >= 0.0);
        assert!(value(&udp, 1, "packets") > 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_do_not_meet_on_a_shared_stack() {
    if !tool("iperf3") {
        return;
    }
    let driven = bed(&[("pairs", integer(2))]).await.complete(&iperf3(Protocol::Tcp, false)).await;
    assert!(value(&driven, 1, "throughput") > 0.0 && value(&driven, 2, "throughput") > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_workload_gives_its_metrics() {
    let rule = |name: &str, from, pattern| MetricRule {
        name: name.to_owned(),
        unit: "1".to_owned(),
        better: None,
        level: Level::Application,
        from,
        pattern,
        required: true,
    };
    let spec = WorkloadSpec::Command {
        server: Some(shell("echo up at 7; echo '{pair}' > '{scratch}/up'; exec sleep 600")),
        client: shell("echo '{\"speed\": {speed}}'"),
        ready: Some(Ready::File("{scratch}/up".to_owned())),
        ready_timeout: Duration::from_secs(10),
        time_limit: None,
        metrics: vec![
            rule("speed", Source::Client, MetricPattern::Json("/speed".to_owned())),
            rule("up", Source::Server, MetricPattern::Regex("up at ([0-9]+)".to_owned())),
        ],
        keep: Vec::new(),
        keep_server: Vec::new(),
    };
    let driven = bed(&[("speed", integer(42))]).await.complete(&spec).await;
    assert_eq!(value(&driven, 1, "speed"), 42.0);
    assert_eq!(value(&driven, 1, "up"), 7.0);
    assert_eq!(found(&driven, 1, "up").node, Some(NodeId::server(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_and_nothing_at_all_tell_readiness() {
    let said = Some(Ready::Output("rea+dy".to_owned()));
    bed(&[]).await.complete(&scripts("echo ready >&2; exec sleep 600", said, "true")).await;
    bed(&[]).await.complete(&scripts("exec sleep 600", None, "true")).await;
    let alone = WorkloadSpec::Command {
        server: None,
        client: shell("true"),
        ready: None,
        ready_timeout: Duration::from_secs(1),
        time_limit: None,
        metrics: Vec::new(),
        keep: Vec::new(),
        keep_server: Vec::new(),
    };
    bed(&[]).await.complete(&alone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_gets_ready_is_named() {
    let file = Some(Ready::File("{scratch}/up".to_owned()));
    let ended = bed(&[]).await.error(&scripts("echo first; echo no luck >&2; exit 3", file.clone(), "true")).await;
    assert_eq!(ended, "server1: sh ended with exit status 3 before it was ready: no luck");
    let mut slow = scripts("echo waiting >&2; exec sleep 600", Some(Ready::Tcp(0)), "true");
    if let WorkloadSpec::Command { ready_timeout, .. } = &mut slow {
        *ready_timeout = Duration::from_millis(300);
    }
    let late = bed(&[]).await.error(&slow).await;
    assert!(late.starts_with("server1: sh was not ready after 0.3 s (nothing listens on TCP port "), "{late}");
    assert!(late.ends_with("): waiting"), "{late}");
    let mut nothing = scripts("", None, "true");
    if let WorkloadSpec::Command { server, .. } = &mut nothing {
        *server = Some(vec!["vptest-no-such-program".to_owned()]);
    }
    assert_eq!(bed(&[]).await.error(&nothing).await, "server1: program `vptest-no-such-program` not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_that_says_nothing_is_refused() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let used = bed(&[]).await.error(&scripts("exec sleep 600", Some(Ready::Tcp(port)), "true")).await;
    assert_eq!(used, format!("server1: port {port} is in use before sh was started"));
    let file = Some(Ready::File("/etc/passwd".to_owned()));
    let there = bed(&[]).await.error(&scripts("exec sleep 600", file, "true")).await;
    assert_eq!(there, "server1: /etc/passwd, which shall tell that sh is ready, is there before it was started");
    let pattern = Some(Ready::Output("(".to_owned()));
    let bad = bed(&[]).await.error(&scripts("exec sleep 600", pattern, "true")).await;
    assert!(bad.starts_with("bad regular expression `(` for readiness"), "{bad}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_meanwhile_ends_the_run() {
    // The client would go on for ever; the server ends once the client has begun.
    let server = "until [ -e '{scratch}/../client1/begun' ]; do sleep 0.01; done; echo out of memory >&2; exit 9";
    let client = "touch '{scratch}/begun'; exec sleep 600";
    let text = bed(&[]).await.error(&scripts(server, None, client)).await;
    assert_eq!(text, "server1: sh ended with exit status 9 before its client was done: out of memory");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_over_its_time_limit_is_no_result() {
    for client in ["exec sleep 600", "trap '' TERM; while :; do sleep 0.05; done"] {
        let mut spec = scripts("exec sleep 600", None, client);
        if let WorkloadSpec::Command { time_limit, .. } = &mut spec {
            *time_limit = Some(Duration::from_millis(200));
        }
        let mut bed = bed(&[]).await;
        let driven = bed.drive(&spec).await.unwrap();
        assert_eq!(driven.invalid, ["pair 1: sh did not finish within its time limit"]);
        assert!(driven.clients[0].exit.is_none());
        assert_eq!(bed.instance.teardown().await, Teardown::default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stubborn_server_is_killed_and_that_is_noted() {
    let server = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    let spec = scripts(server, Some(Ready::Output("up".to_owned())), "true");
    let driven = bed(&[]).await.complete(&spec).await;
    assert!(driven.events.iter().any(|event| event.text == "server1: sh had to be killed"), "{:?}", driven.events);
    assert_eq!(found(&driven, 1, "server_cpu_time").value, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn cpus_are_read_back() {
    let bed = bed(&[]).await;
    let spec = scripts("exec sleep 600", None, "true");
    let cpus = [PairCpus { client: 0, server: 0 }];
    let driven = bed.drive_on(&spec, Some(&cpus)).await.unwrap();
    let settings: Vec<_> = driven.settings.iter().map(|s| (s.node.unwrap(), s.observed.as_deref(), s.ok)).collect();
    assert_eq!(settings, [(NodeId::client(1), Some("0"), Some(true)), (NodeId::server(1), Some("0"), Some(true))]);
    let free = bed.drive(&spec).await.unwrap();
    assert!(free.settings.iter().all(|setting| setting.requested.is_none() && setting.observed.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_cannot_be_made_start_nothing() {
    let bed = bed(&[("workers", integer(10)), ("count", integer(5))]).await;
    let text = bed.error(&ab(HttpServer::Builtin, false)).await;
    assert_eq!(text, "no commands for pair 1: factor count = `5`: ab needs at least as many requests as workers");
}

/// Interrupted half-way, the driver leaves what the testbed's end removes.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_run_leaves_nothing_after_teardown() {
    let mut bed = bed(&[]).await;
    let begun = bed.instance.pairs()[0].client.scratch().to_owned() + "/begun";
    let spec = scripts(
        "exec sleep 600",
        None,
        "echo $$ > '{scratch}/begun.new'; mv '{scratch}/begun.new' '{scratch}/begun'; exec sleep 600",
    );
    tokio::select! {
        result = bed.drive(&spec) => panic!("it ended: {result:?}"),
        () = async {
            while !std::fs::exists(&begun).unwrap() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        } => {}
    }
    assert_eq!(bed.instance.teardown().await, Teardown::default());
}
