//! Link tests against links that are as asked, and against links that were spoilt after they came up.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rusqlite::Connection;

use vptest::host::namespace::Namespace;
use vptest::ids::{NodeId, Vantage};
use vptest::runner::{LinkTest, Tested};
use vptest::spec::{LinkLevel, LinkTestSpec, Tuple, Value};
use vptest::testbed::netns::Netns;
use vptest::testbed::{CaptureSource, Instance, Notice, Request, Testbed as _};
use vptest::units::Rate;

use super::campaign::{Campaign, VPTEST};
use super::{need, qemu, real};

const RATE: u64 = 20_000_000;

fn tools() -> bool {
    need::root() && need::program("ab") && need::program("tc") && need::program("ip")
}

fn tuple(hops: &[&str]) -> Tuple {
    let rate = Value::Rate(Rate::from_bits_per_second(RATE).unwrap());
    let hops = Value::List(hops.iter().map(|&hop| hop.to_owned()).collect());
    Tuple::new(BTreeMap::from([("rate".to_owned(), rate), ("hops".to_owned(), hops)]))
}

/// A testbed with one router, and the directory it works in.
async fn launch() -> (Box<dyn Instance>, tempfile::TempDir) {
    let scratch = tempfile::tempdir().unwrap();
    let request = Request {
        tuple: tuple(&["A"]),
        number: 1,
        attempt: 1,
        scratch: scratch.path().to_owned(),
        campaign: scratch.path().to_owned(),
        vptest: VPTEST.into(),
        programs: Vec::new(),
        notice: Notice::default(),
    };
    Netns::default().preflight(&request).await.unwrap();
    (Netns::default().launch(&request).await.unwrap(), scratch)
}

/// The namespace of the host side and the port there through which packets leave for the server.
fn port(instance: &dyn Instance) -> (Arc<Namespace>, String) {
    let is_it =
        |point: &vptest::testbed::CapturePoint| point.node == NodeId::server(1) && point.vantage == Vantage::Host;
    let point = instance.capture_points().into_iter().find(is_it).unwrap();
    match point.source {
        CaptureSource::Live { namespace: Some(namespace) } => (namespace, point.interface),
        other => panic!("{other:?} is no namespace"),
    }
}

/// Runs a command on that port, `{}` in its arguments.
fn spoil(instance: &dyn Instance, command: &str) {
    let (namespace, port) = port(instance);
    let command = command.replace("{}", &port);
    let words: Vec<&str> = command.split(' ').collect();
    let output = namespace.run(|| Command::new(words[0]).args(&words[1..]).output()).unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Tests all levels of a link that should have the hops.
async fn test(instance: &dyn Instance, hops: &[&str]) -> Tested {
    let tuple = tuple(hops);
    // How busy this host is says nothing of the link: a quarter may be missing.
    let spec =
        LinkTestSpec { bandwidth: Some(vptest::units::Percent::new(25.0)), ..LinkTestSpec::new(LinkLevel::Bandwidth) };
    LinkTest { spec, tuple: &tuple }.run(instance.pairs()).await.unwrap()
}

fn value(tested: &Tested, name: &str) -> Option<f64> {
    tested.metrics.iter().find(|metric| metric.name == name).and_then(|metric| metric.value)
}

fn names(tested: &Tested) -> Vec<&str> {
    tested.metrics.iter().map(|metric| metric.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_as_asked_passes_all_levels() {
    if !tools() {
        return;
    }
    let (mut instance, _scratch) = launch().await;
    let tested = test(instance.as_ref(), &["A"]).await;
    assert_eq!(tested.verdict.invalid, [] as [&str; 0], "{:?}", tested.verdict);
    assert_eq!((value(&tested, "linktest_hops_there"), value(&tested, "linktest_hops_back")), (Some(1.0), Some(1.0)));
    assert_eq!(value(&tested, "linktest_loss"), Some(0.0));
    assert!(value(&tested, "linktest_rtt_median").is_some_and(|time| time > 0.0));
    // On a host so busy that too little could be sent, the rate is not known, and that is said.
    if tested.passed == Some(LinkLevel::Bandwidth) {
        for name in ["linktest_bandwidth_there", "linktest_bandwidth_back"] {
            let rate = value(&tested, name).unwrap();
            assert!((15e6..25e6).contains(&rate), "{name}: {rate}");
        }
    } else {
        assert!(!tested.verdict.suspect.is_empty(), "{tested:?}");
    }
    assert!(instance.teardown().await.left.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_rate_is_found_out_in_its_direction() {
    if !tools() {
        return;
    }
    let (mut instance, _scratch) = launch().await;
    spoil(instance.as_ref(), "tc qdisc replace dev {} root tbf rate 8mbit burst 10k limit 50k");
    let tested = measured(instance.as_ref()).await;
    assert_eq!(tested.passed, Some(LinkLevel::Loss), "{tested:?}");
    let rates: Vec<&String> = tested.verdict.invalid.iter().filter(|text| text.contains("bandwidth")).collect();
    assert_eq!(rates.len(), 1, "{rates:?}");
    assert!(rates[0].contains("bandwidth there: asked 20.0 Mbit/s, is "), "{rates:?}");
    let received = value(&tested, "linktest_bandwidth_there").unwrap();
    assert!((7e6..9e6).contains(&received), "{received}");
    assert!(instance.teardown().await.left.is_empty());
}

/// As many as five tests, until one could measure the rate there: what a busy sender could not offer is not known.
async fn measured(instance: &dyn Instance) -> Tested {
    let unknown = |text: &String| text.contains("bandwidth there") && text.contains("could not be measured");
    let mut tested = test(instance, &["A"]).await;
    for _ in 1..5 {
        if !tested.verdict.suspect.iter().any(unknown) {
            break;
        }
        tested = test(instance, &["A"]).await;
    }
    tested
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_limit_is_found_out() {
    if !tools() {
        return;
    }
    let (mut instance, _scratch) = launch().await;
    spoil(instance.as_ref(), "tc qdisc del dev {} root");
    let tested = measured(instance.as_ref()).await;
    assert_eq!(tested.passed, Some(LinkLevel::Loss), "{tested:?}");
    let told = |text: &String| text.contains("bandwidth there: asked 20.0 Mbit/s, is ");
    assert!(tested.verdict.invalid.iter().any(told), "{:?}", tested.verdict);
    // As fast as the train was sent: half as fast again as the rate.
    assert!(value(&tested, "linktest_bandwidth_there").is_some_and(|rate| rate > 25e6), "{tested:?}");
    assert!(instance.teardown().await.left.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_stops_the_test_before_the_rate() {
    if !tools() {
        return;
    }
    let (mut instance, _scratch) = launch().await;
    // 100 datagrams in half a second need 230 kbit/s.
    spoil(instance.as_ref(), "tc qdisc replace dev {} root tbf rate 20kbit burst 2k limit 4k");
    let tested = test(instance.as_ref(), &["A"]).await;
    assert_eq!(tested.passed, Some(LinkLevel::Routing), "{tested:?}");
    assert!(value(&tested, "linktest_loss").is_some_and(|share| share > 0.1), "{tested:?}");
    assert!(tested.verdict.invalid.iter().any(|text| text.contains("pair 1: loss ")), "{:?}", tested.verdict);
    assert!(!names(&tested).iter().any(|name| name.contains("bandwidth")), "{:?}", names(&tested));
    assert!(instance.teardown().await.left.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_hops_stops_it_before_loss() {
    if !tools() {
        return;
    }
    let (mut instance, _scratch) = launch().await;
    let tested = test(instance.as_ref(), &[]).await;
    assert_eq!(tested.passed, Some(LinkLevel::Connectivity));
    let expected = ["linktest of pair 1: hops there: asked 0, are 1", "linktest of pair 1: hops back: asked 0, are 1"];
    assert_eq!(tested.verdict.invalid, expected);
    assert_eq!(names(&tested), ["linktest_hops_there", "linktest_hops_back"]);
    assert!(instance.teardown().await.left.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_link_stops_it_at_once() {
    if !tools() {
        return;
    }
    let (mut instance, _scratch) = launch().await;
    spoil(instance.as_ref(), "ip link set {} down");
    let tested = test(instance.as_ref(), &["A"]).await;
    assert_eq!(tested.passed, None);
    assert_eq!(tested.verdict.invalid, ["linktest of pair 1: the server answered none of 20 datagrams"]);
    assert!(tested.metrics.is_empty());
    assert!(instance.teardown().await.left.is_empty());
}

/// Two repetitions of one tuple.
fn campaign(testbed: &str, linktest: &str) -> Campaign {
    Campaign::planned(&format!(
        "name = \"t\"\nrepetitions = 2\norder = \"sequential\"\ntimeout = \"60 s\"\n\n[factors]\ntestbed = \"{testbed}\"\n\
         rate = \"20 Mbit/s\"\nrequest = {{ url = \"/\", count = 3 }}\n\n[workload]\npreset = \"ab\"\n\n[verify]\n\
         foreign_cpu = \"off\"\nsteal = \"off\"\nclient_cpu = \"off\"\nlinktest = {linktest}\n"
    ))
}

/// Rows of the link test, by number of iteration; and events about it.
fn stored(campaign: &Campaign) -> Vec<(u32, Vec<String>, Vec<String>)> {
    let texts = |db: &Connection, sql: &str| -> Vec<String> {
        db.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let mut all: Vec<_> = campaign
        .files()
        .iter()
        .map(|name| {
            let db = Connection::open(campaign.out().join(name)).unwrap();
            let number = db.query_row("SELECT number FROM iteration", [], |row| row.get(0)).unwrap();
            let metrics = texts(&db, "SELECT name FROM metric WHERE name LIKE 'linktest%' ORDER BY name");
            (number, metrics, texts(&db, "SELECT text FROM event WHERE text LIKE 'linktest%'"))
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_tuple_is_tested_once_also_when_a_campaign_goes_on() {
    if !tools() {
        return;
    }
    let campaign = campaign("netns", "\"loss\"");
    campaign.expect(0, &["run", "--iter", "1"]);
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.statuses(), ["complete", "complete"], "{:?}", campaign.outcomes());
    let stored = stored(&campaign);
    assert_eq!(stored[0].1.len(), 6, "{stored:?}");
    assert!(stored[1].1.is_empty(), "{stored:?}");
    assert_eq!(stored[1].2, ["linktest: passed before, in iteration 1 of the same tuple"]);
    campaign.assert_clean();
}

#[test]
fn a_link_that_does_not_pass_is_invalid_and_tested_again() {
    if !tools() {
        return;
    }
    let campaign = campaign("netns", "{ level = 4, delay = \"1 ns\" }");
    campaign.expect(1, &["run"]);
    let outcomes = campaign.outcomes();
    assert_eq!(campaign.statuses(), ["invalid", "invalid"], "{outcomes:?}");
    assert!(outcomes.iter().all(|(_, _, _, reasons)| reasons.contains("in the median, at most 1 ns accepted")));
    for (_, metrics, _) in stored(&campaign) {
        assert!(metrics.iter().any(|name| name == "linktest_rtt_median"), "{metrics:?}");
        assert!(!metrics.iter().any(|name| name.contains("bandwidth")), "the levels stop: {metrics:?}");
    }
    campaign.assert_clean();
}

/// Does a process that works below the directory test a link?
fn tests_links(directory: &Path) -> bool {
    let is_it = |process: std::io::Result<std::fs::DirEntry>| {
        let path = process.unwrap().path();
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let place = std::fs::read_link(path.join("cwd"));
        place.is_ok_and(|place| place.starts_with(directory)) && line.split(|&byte| byte == 0).any(|w| w == b"--token")
    };
    std::fs::read_dir("/proc").unwrap().any(is_it)
}

#[test]
fn killed_in_the_middle_of_a_link_test_it_leaves_nothing_and_the_next_run_tests_again() {
    if !tools() {
        return;
    }
    let campaign = campaign("netns", "4");
    let before = real::host();
    let mut child = campaign.command(&["run"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    real::wait_until(|| {
        assert!(child.try_wait().unwrap().is_none(), "it ended before its links were tested");
        tests_links(campaign.path())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let directory = campaign.path().to_str().unwrap().to_owned();
    real::wait_until(|| real::processes_with(&directory).is_empty());
    assert_eq!(real::host(), before);

    campaign.expect(0, &["run"]);
    let complete = campaign.statuses().iter().filter(|status| *status == "complete").count();
    assert_eq!(complete, 2, "{:?}", campaign.outcomes());
    let (tested, others): (Vec<_>, Vec<_>) = stored(&campaign).into_iter().partition(|row| !row.1.is_empty());
    assert_eq!(tested.len(), 1, "the attempt that was killed passed no test: {tested:?} {others:?}");
    campaign.assert_clean();
}

#[test]
fn a_testbed_without_links_says_that_nothing_was_tested() {
    if !need::program("ab") {
        return;
    }
    let campaign = campaign("fake", "1");
    campaign.expect(0, &["run", "--iter", "1"]);
    let stored = stored(&campaign);
    assert!(stored[0].1.is_empty());
    assert_eq!(stored[0].2, ["linktest: not made, this testbed has no links"]);
}

#[test]
fn the_links_of_guests_are_tested_from_within() {
    if !qemu::guests() {
        return;
    }
    let factors = format!("{}\nrate = \"5 Mbit/s\"", qemu::SMALL);
    let more = "[verify.linktest]\nlevel = \"bandwidth\"\nloss = \"off\"\nbandwidth = \"30 %\"";
    let campaign = qemu::sweep(&factors, qemu::AB, more);
    qemu::run(&campaign, 0);
    let (_, metrics, events) = stored(&campaign).remove(0);
    assert_eq!(metrics.len(), 8, "{events:?}");
    let db = qemu::databases(&campaign).remove(0);
    let sql = "SELECT value FROM metric WHERE name = 'linktest_bandwidth_there'";
    let rate: Option<f64> = db.query_row(sql, [], |row| row.get(0)).unwrap();
    assert!(rate.is_some_and(|rate| (3.5e6..6.5e6).contains(&rate)), "{rate:?} {events:?}");
}
