//! The testbed `netns` against the real kernel.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vptest::host::cage::{Cage, Job};
use vptest::host::namespace::Namespace;
use vptest::host::netlink::Netlink;
use vptest::host::{ethtool, kept, link, qdisc};
use vptest::ids::{NodeId, Vantage};
use vptest::node::{Command, Node, NodeError, Process as _, Stream};
use vptest::record::Setting;
use vptest::spec::{Tuple, Value};
use vptest::testbed::netns::Netns;
use vptest::testbed::{CaptureSource, Instance, Notice, Request, Testbed, TestbedError};
use vptest::units::Rate;

use crate::need;

/// A bound for what takes milliseconds.
const SECONDS: Duration = Duration::from_secs(20);

/// A testbed that is up, with the directory it works in.
struct Launched {
    instance: Box<dyn Instance>,
    scratch: tempfile::TempDir,
}

fn tuple(values: &[(&str, Value)]) -> Tuple {
    Tuple::new(values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<BTreeMap<_, _>>())
}

fn request(values: &[(&str, Value)], scratch: &Path) -> Request {
    Request {
        tuple: tuple(values),
        number: 7,
        attempt: 1,
        scratch: scratch.to_owned(),
        campaign: scratch.to_owned(),
        vptest: "/bin/true".into(),
        programs: Vec::new(),
        notice: Notice::default(),
    }
}

async fn launch(values: &[(&str, Value)]) -> Launched {
    let scratch = tempfile::tempdir().unwrap();
    let request = request(values, scratch.path());
    Netns::default().preflight(&request).await.unwrap();
    let instance = Netns::default().launch(&request).await.unwrap();
    Launched { instance, scratch }
}

fn rate(bits: u64) -> Value {
    Value::Rate(Rate::from_bits_per_second(bits).unwrap())
}

fn hops(names: &[&str]) -> Value {
    Value::List(names.iter().map(|&name| name.to_owned()).collect())
}

fn namespace_of(instance: &dyn Instance, node: NodeId, vantage: Vantage) -> (Arc<Namespace>, String) {
    let point = instance.capture_points().into_iter().find(|point| point.node == node && point.vantage == vantage);
    let point = point.unwrap();
    match point.source {
        CaptureSource::Live { namespace: Some(namespace) } => (namespace, point.interface),
        other => panic!("{other:?} is no namespace"),
    }
}

/// Sends `bytes` from the client to the server of a pair (numbered from 0), or back, and returns how long it took from
/// the first byte received to the last.
fn pump(instance: &dyn Instance, pair: usize, bytes: usize, back: bool) -> Duration {
    let pair = &instance.pairs()[pair];
    let (client, _) = namespace_of(instance, pair.client.id(), Vantage::Guest);
    let (server, _) = namespace_of(instance, pair.server.id(), Vantage::Guest);
    let address = SocketAddr::new(pair.server.address(), 5201);
    let listener = server.run(|| TcpListener::bind(address)).unwrap();
    let near = client.run(|| TcpStream::connect_timeout(&address, SECONDS)).unwrap();
    let (far, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), pair.client.address());
    let (mut from, mut to) = if back { (far, near) } else { (near, far) };
    std::thread::scope(|scope| {
        scope.spawn(move || from.write_all(&vec![0; bytes]).unwrap());
        let mut buffer = vec![0; 1 << 16];
        let mut left = bytes - to.read(&mut buffer).unwrap();
        let begun = Instant::now();
        while left > 0 {
            let read = to.read(&mut buffer).unwrap();
            assert_ne!(read, 0, "the connection ended with {left} bytes to go");
            left -= read;
        }
        begun.elapsed()
    })
}

fn find<'a>(settings: &'a [Setting], node: NodeId, name: &str) -> &'a Setting {
    let found = settings.iter().find(|setting| setting.node == Some(node) && setting.name == name);
    found.unwrap_or_else(|| panic!("{node} has no setting {name} in {settings:#?}"))
}

fn check_setting(settings: &[Setting], node: NodeId, name: &str, requested: Option<&str>, observed: &str) {
    let setting = find(settings, node, name);
    assert_eq!(setting.requested.as_deref(), requested, "{setting:?}");
    assert_eq!(setting.observed.as_deref(), Some(observed), "{setting:?}");
    assert_eq!(setting.ok, requested.map(|requested| requested == observed), "{setting:?}");
}

#[tokio::test]
async fn two_pairs_talk_and_do_not_meet() {
    if !need::root() {
        return;
    }
    let mut up = launch(&[("pairs", Value::Integer(2))]).await;
    for pair in 0..2 {
        pump(&*up.instance, pair, 1_000_000, false);
        pump(&*up.instance, pair, 1_000_000, true);
    }
    let (client, _) = namespace_of(&*up.instance, NodeId::client(1), Vantage::Guest);
    let other = SocketAddr::new(up.instance.pairs()[1].server.address(), 5201);
    let met = client.run(|| TcpStream::connect_timeout(&other, SECONDS));
    assert_eq!(met.unwrap_err().kind(), std::io::ErrorKind::NetworkUnreachable);
    assert_eq!(up.instance.teardown().await.left, Vec::<String>::new());
    assert_eq!(up.instance.teardown().await.left, Vec::<String>::new(), "a second teardown does nothing");
    assert!(up.instance.pairs().is_empty());
    assert!(up.instance.settings().await.is_err());
}

#[tokio::test]
async fn the_first_packet_gets_through() {
    if !need::root() {
        return;
    }
    for _ in 0..20 {
        let up = launch(&[("hops", hops(&["A", "B"]))]).await;
        pump(&*up.instance, 0, 1000, false);
        let (client, _) = namespace_of(&*up.instance, NodeId::client(1), Vantage::Guest);
        let counters = client.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap();
        let mut tcp = counters.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let names = tcp.next().unwrap().split(' ');
        let counters: BTreeMap<&str, &str> = names.zip(tcp.next().unwrap().split(' ')).collect();
        assert_eq!(counters["RetransSegs"], "0");
    }
}

#[tokio::test]
async fn settings_are_in_force_and_read_back() {
    if !need::root() {
        return;
    }
    for on in [true, false] {
        let values = [
            ("offload", Value::Switch(on)),
            ("mtu", Value::Integer(if on { 9000 } else { 1400 })),
            ("rate", if on { rate(40_000_000_000) } else { rate(1_500_000) }),
            ("hops", hops(&["A"])),
        ];
        let mut up = launch(&values).await;
        let settings = up.instance.settings().await.unwrap();
        assert!(settings.iter().all(|setting| setting.ok != Some(false)), "{settings:#?}");
        let switch = if on { "on" } else { "off" };
        let mtu = if on { "9000" } else { "1400" };
        for node in [NodeId::client(1), NodeId::server(1), NodeId::router(1, 0)] {
            for prefix in ["", "host."] {
                for name in ["sg", "tso", "gso", "gro"] {
                    check_setting(&settings, node, &format!("{prefix}{name}"), Some(switch), switch);
                }
                check_setting(&settings, node, &format!("{prefix}mtu"), Some(mtu), mtu);
                check_setting(&settings, node, &format!("{prefix}link_driver"), None, "veth");
                check_setting(&settings, node, &format!("{prefix}operstate"), None, "up");
            }
        }
        check_setting(&settings, NodeId::router(1, 0), "eth1.gro", Some(switch), switch);
        check_setting(&settings, NodeId::router(1, 0), "host.eth1.mtu", Some(mtu), mtu);
        check_setting(&settings, NodeId::client(1), "bridge.mtu", Some(mtu), mtu);
        let limit = if on { "40 Gbit/s" } else { "1500 kbit/s" };
        check_setting(&settings, NodeId::client(1), "host.rate", Some(limit), limit);
        check_setting(&settings, NodeId::server(1), "host.rate", Some(limit), limit);
    }
}

#[tokio::test]
async fn what_the_tuple_does_not_name_is_observed() {
    if !need::root() {
        return;
    }
    let mut up = launch(&[]).await;
    let settings = up.instance.settings().await.unwrap();
    check_setting(&settings, NodeId::client(1), "host.rate", None, "none");
    check_setting(&settings, NodeId::client(1), "mtu", None, "1500");
    check_setting(&settings, NodeId::client(1), "tso", None, "on");
    let mut up = launch(&[("rate", Value::None)]).await;
    check_setting(&up.instance.settings().await.unwrap(), NodeId::server(1), "host.rate", Some("none"), "none");
}

#[tokio::test]
async fn the_tools_agree_with_what_is_read_back() {
    if !need::root() || !need::program("tc") || !need::program("ethtool") || !need::program("ip") {
        return;
    }
    let mut up =
        launch(&[("rate", rate(100_000_000)), ("offload", Value::Switch(false)), ("mtu", Value::Integer(1400))]).await;
    let (host, port) = namespace_of(&*up.instance, NodeId::server(1), Vantage::Host);
    let tool = |namespace: &Namespace, argv: &[&str]| {
        let output = namespace.run(|| std::process::Command::new(argv[0]).args(&argv[1..]).output()).unwrap();
        assert!(output.status.success(), "{argv:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = tool(&host, &["tc", "qdisc", "show", "dev", &port]);
    assert!(shown.contains("qdisc tbf 1: root") && shown.contains("rate 100Mbit"), "{shown}");
    assert!(tool(&host, &["ip", "link", "show", &port]).contains("mtu 1400"));
    let (client, _) = namespace_of(&*up.instance, NodeId::client(1), Vantage::Guest);
    let features = tool(&client, &["ethtool", "-k", "eth0"]);
    for feature in
        ["scatter-gather", "tcp-segmentation-offload", "generic-segmentation-offload", "generic-receive-offload"]
    {
        assert!(features.contains(&format!("\n{feature}: off")), "{features}");
    }
    // And the other way round: what the tools change is seen.
    tool(
        &host,
        &["tc", "qdisc", "replace", "dev", &port, "root", "tbf", "rate", "90mbit", "burst", "64k", "latency", "9ms"],
    );
    tool(&client, &["ethtool", "-K", "eth0", "gro", "on"]);
    let settings = up.instance.settings().await.unwrap();
    check_setting(&settings, NodeId::server(1), "host.rate", Some("100 Mbit/s"), "90 Mbit/s");
    check_setting(&settings, NodeId::client(1), "gro", Some("off"), "on");
}

#[tokio::test]
async fn changes_behind_the_back_are_noticed() {
    if !need::root() {
        return;
    }
    let values = [("rate", rate(10_000_000)), ("offload", Value::Switch(true)), ("mtu", Value::Integer(1500))];
    let mut up = launch(&values).await;
    let (host, port) = namespace_of(&*up.instance, NodeId::client(1), Vantage::Host);
    let index: u32 = host
        .run(Netlink::open)
        .map(|mut netlink| {
            let interfaces = link::read_interfaces(&mut netlink).unwrap();
            let index = interfaces.iter().find(|interface| interface.name == port).unwrap().index;
            let other = qdisc::TokenBucket { rate: 1_250_001, burst: 10_000, limit: 100_000 };
            netlink.apply(&[other.set(index, &port), link::mtu(&port, index, 1499)]).unwrap();
            ethtool::set_offloads(&netlink, &port, &[ethtool::Offload::Tso], false).unwrap();
            index
        })
        .unwrap();
    assert!(index > 1);
    let settings = up.instance.settings().await.unwrap();
    check_setting(&settings, NodeId::client(1), "host.rate", Some("10 Mbit/s"), "10000008 bit/s");
    check_setting(&settings, NodeId::client(1), "host.mtu", Some("1500"), "1499");
    check_setting(&settings, NodeId::client(1), "host.tso", Some("on"), "off");
    let changed = settings.iter().filter(|setting| setting.ok == Some(false) && setting.name != "bridge.mtu");
    assert_eq!(changed.count(), 3, "{settings:#?}");
}

#[tokio::test]
async fn paths_pass_the_routers_in_order() {
    if !need::root() {
        return;
    }
    for names in [&[][..], &["A"], &["A", "B", "C", "D"]] {
        let mut up = launch(&[("hops", hops(names)), ("pairs", Value::Integer(2))]).await;
        let paths = up.instance.paths().await.unwrap();
        assert_eq!(paths.len(), 2);
        for path in paths {
            assert!(path.reached);
            assert_eq!(path.expected, names);
            assert_eq!(path.observed, names.iter().map(|&name| Some(name.to_owned())).collect::<Vec<_>>());
        }
        pump(&*up.instance, 1, 100_000, true);
    }
}

#[tokio::test]
async fn long_chains_carry_traffic() {
    if !need::root() {
        return;
    }
    let names: Vec<String> = (1..=80).map(|n| format!("R{n}")).collect();
    let mut up = launch(&[("hops", Value::List(names.clone()))]).await;
    let path = up.instance.paths().await.unwrap().remove(0);
    assert!(path.reached, "{path:?}");
    assert_eq!(path.observed, names.into_iter().map(Some).collect::<Vec<_>>());
    pump(&*up.instance, 0, 10_000, false);
}

#[tokio::test]
async fn a_broken_path_is_reported_as_it_is() {
    if !need::root() || !need::program("ip") {
        return;
    }
    let mut up = launch(&[("hops", hops(&["A", "B"]))]).await;
    let client = Arc::clone(&up.instance.pairs()[0].client);
    run(&*client, &["ip", "route", "replace", "unreachable", "default"]).await;
    let path = up.instance.paths().await.unwrap().remove(0);
    assert_eq!((path.observed, path.reached), (vec![], false));
    run(&*client, &["ip", "route", "del", "unreachable", "default"]).await;
    run(&*client, &["ip", "route", "replace", "default", "via", "10.1.0.2"]).await;
    assert!(up.instance.paths().await.unwrap()[0].reached);
    // The server takes the target's address away: its own host answers that nobody is there, or nobody answers.
    let server = Arc::clone(&up.instance.pairs()[0].server);
    run(&*server, &["ip", "address", "flush", "dev", "eth0"]).await;
    let path = up.instance.paths().await.unwrap().remove(0);
    assert!(!path.reached, "{path:?}");
    assert_eq!(path.observed[..2], [Some("A".to_owned()), Some("B".to_owned())]);
}

async fn run(node: &dyn Node, argv: &[&str]) -> String {
    let argv = argv.iter().map(|&word| word.to_owned()).collect();
    let mut process = node.spawn(&Command { argv, ..Command::default() }).await.unwrap();
    let exit = process.wait().await.unwrap();
    let error = process.output(Stream::Err);
    assert!(exit.status.success(), "{}", String::from_utf8_lossy(&error.bytes));
    String::from_utf8(process.output(Stream::Out).bytes).unwrap()
}

#[tokio::test]
async fn the_rate_is_respected_in_both_directions() {
    if !need::root() {
        return;
    }
    // How fast a gigabit really is depends on the machine and on what else it does; that it is not faster does not.
    for (bits, bytes, slowest) in
        [(1_000_000, 250_000, 0.95), (100_000_000, 15_000_000, 0.95), (1_000_000_000, 125_000_000, 0.0)]
    {
        for back in [false, true] {
            let mut best = 0.0_f64;
            // A busy machine may slow it down now and then.
            for _ in 0..3 {
                let up = launch(&[("rate", rate(bits))]).await;
                let taken = pump(&*up.instance, 0, bytes, back);
                let reached = f64::from(u32::try_from(bytes * 8).unwrap()) / taken.as_secs_f64();
                // Of 1514 bytes that count, Ethernet, IP and TCP with a timestamp leave 1448.
                best = best.max(reached / (f64::from(u32::try_from(bits).unwrap()) * 1448.0 / 1514.0));
                if best >= slowest {
                    break;
                }
            }
            assert!((slowest..=1.05).contains(&best), "{best:.3} of what {bits} bit/s carry, back: {back}");
        }
    }
}

#[tokio::test]
async fn two_testbeds_live_side_by_side() {
    if !need::root() {
        return;
    }
    let one = launch(&[("rate", rate(1_000_000_000))]).await;
    let mut two = launch(&[]).await;
    pump(&*one.instance, 0, 1_000_000, false);
    pump(&*two.instance, 0, 1_000_000, false);
    drop(one);
    pump(&*two.instance, 0, 1_000_000, false);
    assert!(two.instance.paths().await.unwrap()[0].reached);
}

#[tokio::test]
async fn nodes_run_commands_and_carry_files() {
    if !need::root() {
        return;
    }
    let mut up = launch(&[]).await;
    let client = Arc::clone(&up.instance.pairs()[0].client);
    assert!(client.scratch().starts_with(up.scratch.path().to_str().unwrap()));
    client.put("note", b"text").await.unwrap();
    assert_eq!(run(&*client, &["cat", "note"]).await, "text");
    assert!(client.exists("note").await.unwrap());
    assert!(!client.exists("other").await.unwrap());
    assert_eq!(client.get("note", 4).await.unwrap(), b"text");
    assert!(matches!(client.get("note", 3).await, Err(NodeError::TooLarge { limit: 3, .. })));
    let missing = Command { argv: vec!["no-such-program".to_owned()], ..Command::default() };
    assert!(matches!(client.spawn(&missing).await, Err(NodeError::NoProgram { .. })));
    let nowhere =
        Command { argv: vec!["true".to_owned()], directory: Some("/nowhere".to_owned()), ..Command::default() };
    assert!(matches!(client.spawn(&nowhere).await, Err(NodeError::Io { .. })));

    let links = run(&*client, &["cat", "/proc/self/net/dev"]).await;
    assert!(links.contains("eth0") && links.contains("lo"), "{links}");

    let IpAddr::V4(address) = client.address() else { panic!("an IPv4 address") };
    let (namespace, _) = namespace_of(&*up.instance, NodeId::client(1), Vantage::Guest);
    let listener = namespace.run(|| TcpListener::bind((address, 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(client.listening(port).await.unwrap());
    drop(listener);
    assert!(!client.listening(port).await.unwrap());

    let command = Command { argv: vec!["sleep".to_owned(), "1000".to_owned()], ..Command::default() };
    let mut on_host = up.instance.spawn_on_host(&command).await.unwrap();
    let mut on_node = client.spawn(&command).await.unwrap();
    assert_eq!(up.instance.teardown().await.left, Vec::<String>::new());
    assert!(!on_host.wait().await.unwrap().status.success());
    assert!(!on_node.wait().await.unwrap().status.success());
    assert!(client.spawn(&command).await.is_err(), "nothing starts on a testbed that was taken down");
}

#[tokio::test]
async fn captures_begin_in_silence() {
    if !need::root() || !need::program("tcpdump") {
        return;
    }
    let up = launch(&[("hops", hops(&["A"]))]).await;
    let client = Arc::clone(&up.instance.pairs()[0].client);
    let seen = |namespace: &Namespace| {
        let sums = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
        let line = sums.lines().find_map(|line| line.trim_start().strip_prefix("eth0:")).unwrap().to_owned();
        let numbers: Vec<u64> = line.split_ascii_whitespace().map(|number| number.parse().unwrap()).collect();
        numbers[1] + numbers[9]
    };
    let (namespace, _) = namespace_of(&*up.instance, NodeId::client(1), Vantage::Guest);
    // Neighbour and multicast discovery send within the first two seconds of an interface.
    let limited = client
        .spawn(&Command {
            argv: ["timeout", "--preserve-status", "3", "tcpdump", "-ni", "eth0", "-c", "1"]
                .map(str::to_owned)
                .to_vec(),
            ..Command::default()
        })
        .await;
    limited.unwrap().wait().await.unwrap();
    assert_eq!(seen(&namespace), 0, "packets that nobody asked for");
}

#[tokio::test]
async fn requests_that_cannot_be_met_are_refused_with_the_reason() {
    let scratch = tempfile::tempdir().unwrap();
    let request = request(&[("pairs", Value::Integer(256))], scratch.path());
    let refused = Netns::default().preflight(&request).await.unwrap_err();
    assert!(matches!(refused, TestbedError::Request { .. }));
    assert_eq!(refused.to_string(), "testbed netns: pairs = 256 (1 to 255)");
    assert!(Netns::default().launch(&request).await.is_err());
}

#[tokio::test]
async fn dropping_a_testbed_or_its_launch_leaves_nothing() {
    if !need::root() {
        return;
    }
    let up = launch(&[("pairs", Value::Integer(3))]).await;
    let client = Arc::clone(&up.instance.pairs()[0].client);
    let sleep = Command { argv: vec!["sleep".to_owned(), "1000".to_owned()], ..Command::default() };
    let mut process = client.spawn(&sleep).await.unwrap();
    let (namespace, _) = namespace_of(&*up.instance, NodeId::client(1), Vantage::Guest);
    let weak = Arc::downgrade(&namespace);
    drop((namespace, client));
    drop(up);
    assert!(!process.wait().await.unwrap().status.success());
    assert!(weak.upgrade().is_none(), "the namespace is still held");
}

#[tokio::test]
async fn kept_testbeds_stay_until_they_are_cleaned() {
    if !need::root() || !need::program("ip") {
        return;
    }
    let mut up = launch(&[("hops", hops(&["A"]))]).await;
    let said = up.instance.keep().await.unwrap();
    assert!(said.contains("ip netns exec vptest-7-1-client1") && said.contains("vptest clean"), "{said}");
    let again = up.instance.keep().await.unwrap_err();
    assert!(matches!(again, TestbedError::Io { .. }));
    drop(up);
    let list = || {
        let output = std::process::Command::new("ip").args(["netns", "list"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(list().matches("vptest-7-1-").count(), 4, "{}", list());
    let argv = ["netns", "exec", "vptest-7-1-client1", "ping", "-c1", "-W5", "10.1.1.2"];
    let ping = std::process::Command::new("ip").args(argv).output().unwrap();
    assert!(ping.status.success(), "{ping:?}");
    let removal = kept::remove_all();
    assert_eq!(removal.left, Vec::<String>::new());
    assert_eq!(removal.removed.iter().filter(|name| name.starts_with("vptest-7-1-")).count(), 4);
    assert!(!list().contains("vptest-7-1-"));
    assert_eq!(kept::remove_all(), kept::Removal::default());
}

/// One thread starts them all, in one network namespace after another.
#[tokio::test]
async fn every_process_of_a_cage_begins_in_the_network_it_is_meant_for() {
    if !need::root() {
        return;
    }
    let mut cage = Cage::open().unwrap();
    let namespaces = [Arc::new(Namespace::new().unwrap()), Arc::new(Namespace::new().unwrap())];
    let network = || std::fs::read_link("/proc/thread-self/ns/net");
    for place in [Some(0), None, Some(1), Some(0), None, None] {
        let namespace = place.map(|index: usize| Arc::clone(&namespaces[index]));
        let wanted = namespace.as_ref().map_or_else(network, |namespace| namespace.run(network)).unwrap();
        let argv = ["readlink", "/proc/self/ns/net"].map(str::to_owned).to_vec();
        let command = Command { argv, ..Command::default() };
        let mut child = cage.spawn(Job { command, directory: "/".into(), namespace }).await.unwrap();
        assert!(child.wait().await.unwrap().status.success());
        let said = String::from_utf8(child.output(Stream::Out).bytes).unwrap();
        assert_eq!(Path::new(said.trim()), wanted, "{place:?}");
    }
    cage.close().await.unwrap();
}
