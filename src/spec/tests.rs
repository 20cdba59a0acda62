//! What is accepted, and what is said about what is not.

use proptest::prelude::*;

use super::*;
use crate::record::{SyscallScope, SyscallSource};
use crate::units::{ByteSize, format_duration};

/// The least a spec can be.
const LEAST: &str = "name = \"t\"\nworkload = \"ab\"\n";

fn parse(text: &str) -> Spec {
    Spec::parse(text).unwrap_or_else(|found| panic!("refused:\n{}", found.render("t.toml", false)))
}

/// Everything said about a text, errors or warnings.
fn said(text: &str) -> String {
    match Spec::parse_with_warnings(text) {
        Ok((_, warnings)) if warnings.is_empty() => "(nothing)\n".to_owned(),
        Ok((_, found)) | Err(found) => found.render("params.toml", false),
    }
}

/// All cases of a group with what is said about them, as one snapshot.
fn snapshot(name: &str, cases: &[&str]) {
    let mut text = String::new();
    for case in cases {
        text.push_str(&said(case));
        text.push('\n');
    }
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn the_least_spec_has_documented_defaults() {
    let spec = parse(LEAST);
    assert_eq!((spec.name.as_str(), spec.repetitions, spec.seed, spec.order), ("t", 10, 1, Order::Blocked));
    assert_eq!(format_duration(spec.timeout), "10 min");
    assert_eq!(spec.factors, []);
    assert_eq!(spec.capture.vantage, [Vantage::Guest]);
    assert_eq!((spec.capture.statistics, spec.capture.connections), (true, false));
    assert_eq!((spec.capture.snaplen, spec.capture.keep, spec.capture.ring), (128, false, None));
    assert_eq!(
        spec.workload,
        WorkloadSpec::Ab { server: HttpServer::Builtin, keepalive: false, arguments: Vec::new() }
    );
    assert_eq!(spec.verify, VerifySpec::default());
}

/// The example of the reference, with every section.
const FULL: &str = r#"
name        = "contention"
repetitions = 10
seed        = 18446744073709551615
order       = "shuffled"
timeout     = "360 s"

[factors]
testbed    = ["netns", "qemu"]
pairs      = [1, 2, 4]
driver     = ["e1000", "virtio-net-pci"]
vcpus      = 1
memory     = "512 MiB"
offload    = ["on", false]
rate       = ["1000 Mbit/s", "none"]
workers    = [1, 10]
request    = [ { url = "/", count = 100_000 }, { url = "/image.png?size=16MB", count = 1000 } ]
instrument = [true, false]
hops       = [[], ["A", "B"]]
mtu        = 9000
pinning    = [true, false]
tunnel     = ["none", "gre"]
stress_cpu = 2
window     = [0.5, 1.50]

[factors.custom]
paris = ["x", "y"]

[[exclude]]
pinning = true
tunnel  = "gre"
testbed = "qemu"

[[exclude]]
count = 1000
pairs = [1, 2]

[workload]
preset = "ab"
server = "nginx"
keepalive = true
arguments = ["-X", "{window}{paris}{request.count}{server}", "{{literal}}"]

[capture]
snaplen = 200
vantage = ["guest", "host"]
keep    = true
filter  = "tcp"
ring    = "64 MiB"

[[testbed.fake.fault]]
stage = "launch"
kind  = "kill"
iterations = [1, 2]
attempts = 1

[verify]
client_cpu = "90 %"
steal      = "off"
swap       = "off"

[analysis]
baseline = { testbed = "netns" }
margin   = { rps = "5 %", default = "2.5%" }
"#;

#[test]
fn every_section_is_read() {
    let spec = parse(FULL);
    let values = |name: &str| {
        let factor = spec.factors.iter().find(|f| f.name == name).unwrap();
        factor.values.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(spec.seed, u64::MAX);
    assert_eq!(values("offload"), ["on", "off"]);
    assert_eq!(values("rate"), ["1 Gbit/s", "none"]);
    assert_eq!(values("hops"), ["direct", "A>B"]);
    assert_eq!(values("tunnel"), ["none", "gre"]);
    assert_eq!(values("window"), ["0.5", "1.5"]);
    assert_eq!(values("request"), ["count=100000 url=/", "count=1000 url=/image.png?size=16MB"]);
    assert_eq!(spec.factors[4].values, [Value::Size(ByteSize(512 << 20))]);
    assert_eq!(spec.factors.last().unwrap().name, "paris");
    assert_eq!(spec.exclude.len(), 2);
    assert_eq!(spec.exclude[1].conditions[1], ("pairs".to_owned(), vec![Value::Integer(1), Value::Integer(2)]));
    assert_eq!(spec.capture.ring, Some(64 << 20));
    assert_eq!(
        spec.testbed.fake.faults,
        [Fault { stage: Stage::Launch, kind: FaultKind::Kill, iterations: vec![1, 2], attempts: Some(1) }]
    );
    assert_eq!((spec.verify.client_cpu, spec.verify.steal, spec.verify.swap), (Some(Percent::new(90.0)), None, false));
    assert_eq!(spec.analysis.baseline, Some(("testbed".to_owned(), Value::Text("netns".to_owned()))));
    assert_eq!(spec.analysis.margins.len(), 2);
}

#[test]
fn a_list_of_router_names_is_one_value() {
    let hops = |text: &str| parse(&format!("{LEAST}[factors]\nhops = {text}\n")).factors[0].values.len();
    assert_eq!(hops("[]"), 1);
    assert_eq!(hops("[\"A\", \"B\"]"), 1);
    assert_eq!(hops("[[\"A\"], [\"A\", \"B\"], []]"), 3);
}

#[test]
fn commands_and_metrics_are_read() {
    let spec = parse(
        r#"
name = "own"
[factors]
size = [1, 2]
[workload]
preset = "command"
server = ["serve", "--port", "80"]
client = ["load", "{server}", "--size={size}"]
ready  = { tcp = 80 }
time_limit = "1 min"
keep = ["log.{size}", "/tmp/x"]
[[workload.metric]]
name = "throughput"
unit = "bit/s"
better = "higher"
level = "network"
json = "/end/sum/bits_per_second"
[[workload.metric]]
name = "errors"
unit = "1"
from = "server"
regex = "errors: ([0-9]+)"
required = false
"#,
    );
    let WorkloadSpec::Command { server, client, ready, ready_timeout, time_limit, metrics, keep, .. } = spec.workload
    else {
        panic!("another workload");
    };
    assert_eq!(server.unwrap(), ["serve", "--port", "80"]);
    assert_eq!(client, ["load", "{server}", "--size={size}"]);
    assert_eq!((ready, ready_timeout), (Some(Ready::Tcp(80)), DEFAULT_READY_TIMEOUT));
    assert_eq!(time_limit, Some(Duration::from_secs(60)));
    assert_eq!(keep, ["log.{size}", "/tmp/x"]);
    assert_eq!(metrics[0].pattern, MetricPattern::Json("/end/sum/bits_per_second".to_owned()));
    assert_eq!((metrics[1].from, metrics[1].required, metrics[1].better), (Source::Server, false, None));
}

#[test]
fn the_default_vantage_is_the_nodes_own_interface() {
    let vantage = |testbed: &str| parse(&format!("{LEAST}[factors]\ntestbed = {testbed}\n")).capture.vantage;
    assert_eq!(vantage("\"netns\""), [Vantage::Guest]);
    assert_eq!(vantage("\"physical\""), [Vantage::Endpoint]);
    assert_eq!(vantage("[\"netns\", \"physical\"]"), [Vantage::Guest, Vantage::Endpoint]);
}

#[test]
fn several_mistakes_are_all_shown() {
    snapshot(
        "several_mistakes",
        &[r#"nmae = "contention"
repetitions = 0
timeout = "6 minutes"

[factors]
testbed = ["netns", "qmeu"]
ofload  = ["on", "off"]
rate    = "100 MBps"
pairs   = [1, 2.5, 2000]

[workload]
preset = "ba"

[capture]
snap = 200
"#],
    );
}

/// A mistake is said once, not again wherever its factor is used.
#[test]
fn mistakes_do_not_breed() {
    snapshot(
        "mistakes_do_not_breed",
        &[r#"name = "t"
[factors]
testbed = ["qmeu"]
driver  = ["e1000"]
ofload  = "on"
pairs   = "x"
[[exclude]]
pairs   = 1
offload = "on"
[workload]
preset = "ab"
arguments = ["{driver}{pairs}{testbed}"]
[capture]
vantage = "switch"
[analysis]
baseline = { testbed = "qemu" }
"#],
    );
}

#[test]
fn broken_files() {
    snapshot(
        "broken_files",
        &[
            "",
            "name = ",
            "name = \"t\"\nname = \"u\"\nworkload = \"ab\"",
            "name = \"t\nworkload = \"ab\"\n",
            "[factors\npairs = 1",
        ],
    );
}

#[test]
fn top_level() {
    snapshot(
        "top_level",
        &[
            "name = \"a b\"\nworkload = \"ab\"",
            "name = 7\nworkload = \"ab\"",
            "workload = \"ab\"",
            "name = \"t\"",
            "name = \"t\"\nworkload = \"command\"",
            "name = \"t\"\nworkload = \"ab\"\nrepetitions = 99999999999999999999",
            "name = \"t\"\nworkload = \"ab\"\nrepetitions = 1.5",
            "name = \"t\"\nworkload = \"ab\"\nseed = -1",
            "name = \"t\"\nworkload = \"ab\"\norder = \"random\"",
            "name = \"t\"\nworkload = \"ab\"\norder = \"block\"",
            "name = \"t\"\nworkload = \"ab\"\ntimeout = 360",
            "name = \"t\"\nworkload = \"ab\"\ntimeout = \"-5 s\"",
            "name = \"t\"\nworkload = \"ab\"\ntimeout = \"0 s\"",
            "name = \"t\"\nworkload = \"ab\"\ntestbed = \"netns\"",
            "name = \"t\"\nworkload = \"ab\"\ncapture = 5",
            "name = \"t\"\nworkload = \"ab\"\nexclude = { pairs = 1 }",
        ],
    );
}

fn with_factors(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| format!("{LEAST}[factors]\n{line}\n")).collect()
}

fn snapshot_of(name: &str, cases: &[String]) {
    snapshot(name, &cases.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn factors_and_values() {
    snapshot_of(
        "factors_and_values",
        &with_factors(&[
            "pairs = []",
            "pairs = \"two\"",
            "pairs = 9223372036854775808",
            "pairs = [1, 2, 1]",
            "rate = [\"1 Gbit/s\", \"1000 Mbit/s\"]",
            "rate = 1000",
            "rate = \"1000\"",
            "rate = \"0 bit/s\"",
            "memory = \"1 kB\"\ntestbed = \"qemu\"",
            "mtu = 20",
            "offload = \"yes\"",
            "offload = [true, \"on\"]",
            "hops = \"A\"",
            "hops = [\"A\", \"A\"]",
            "hops = [\"A\", [\"B\"]]",
            "hops = [\"A>B\"]",
            "tunnel = \"vxlan\"\ntestbed = \"minimega-kvm\"",
            "request = { ulr = \"/\" }",
            "request = { url = \"index.html\" }",
            "request = [ {}, { url = \"/\" } ]",
            "request = { url = \"/\" }\nurl = \"/\"",
            "workers = 10\ncount = 5",
            "workers = 2000",
            "driver = \"e1000 x\"\ntestbed = \"qemu\"",
            "pair = 3",
            "2fast = 1",
            "server = \"x\"",
            "block = 1",
            "mine = 1979-05-27",
            "mine = [[1]]",
            "mine = nan",
            "mine = [1, \"1\"]",
            "mine = \"\"",
            "mine = [ { a = 1 }, { b = 2 } ]",
            "mine = {}",
            "custom = { pairs = 1 }",
            "driver = \"e1000\"",
            "mine = [1, 2]",
            "testbed = [\"netns\", \"moon\"]",
        ]),
    );
}

#[test]
fn exclusions() {
    snapshot_of(
        "exclusions",
        &with_factors(&[
            "pairs = [1, 2]\n[[exclude]]\npiars = 1",
            "pairs = [1, 2]\n[[exclude]]\npairs = 3",
            "pairs = [1, 2]\n[[exclude]]",
            "pairs = [1, 2]\n[[exclude]]\npairs = [1, 2]",
            "testbed = [\"netns\", \"qemu\"]\ndriver = [\"e1000\", \"rtl8139\"]\n[[exclude]]\ntestbed = \"netns\"\ndriver = \"e1000\"",
            "request = [{ count = 5 }, { count = 6 }]\n[[exclude]]\ncount = 7",
        ]),
    );
}

#[test]
fn too_many_iterations() {
    snapshot_of(
        "too_many_iterations",
        &with_factors(&[
            &format!("a = {0:?}\nb = {0:?}\nc = {0:?}\nd = {0:?}", (0..1000).collect::<Vec<_>>()),
            &format!("a = {0:?}\nb = {0:?}\ndriver = [\"x\", \"y\"]", (0..1001).collect::<Vec<_>>()),
        ])
        .iter()
        // The unused factors are not the point here.
        .map(|text| text.replace("workload = \"ab\"", "workload = { preset = \"ab\", arguments = [\"{a}{b}\"] }"))
        .collect::<Vec<_>>(),
    );
}

#[test]
fn workloads() {
    let cases = [
        "preset = \"iperf\"",
        "keepalive = true",
        "preset = \"ab\"\nserver = \"apache\"",
        "preset = \"ab\"\nduration = \"5 s\"",
        "preset = \"ab\"\narguments = \"-k\"",
        "preset = \"ab\"\narguments = [\"-H\", \"{wrokers}\"]",
        "preset = \"iperf3\"\nduration = \"1500 ms\"",
        "preset = \"iperf3\"\nprotocol = \"sctp\"",
        "preset = \"iperf3\"\nduration = \"10 min\"",
        "preset = \"protonuke\"\nservices = [\"http\", \"ftp\", \"ftps\"]\nmean = \"500 us\"\nmin = \"2 s\"\nmax = \"1 s\"",
        "preset = \"protonuke\"\nservices = []\nduration = \"0 s\"\nimage_size = \"3 B\"\ncount = 3",
        "preset = \"protonuke\"\nservices = \"dns\"\nserver_arguments = [\"{x}\"]",
        "preset = \"protonuke\"\nservices = [\"http\", \"http\"]\nduration = \"10 min\"",
        "preset = \"ab\"\nserver = \"protonuke\"\nkeepalive = true",
        "preset = \"command\"\nclient = [\"x\"]\ntime_limit = \"1 h\"",
        "preset = \"iperf3\"\nstreams = 0",
        "preset = \"command\"",
        "preset = \"command\"\nclient = \"ping {server}\"",
        "preset = \"command\"\nclient = []",
        "preset = \"command\"\nclient = [\"x\"]\nready = { tcp = 80 }",
        "preset = \"command\"\nclient = [\"x\"]\nserver = [\"y\"]\nready = { tcp = 70000 }",
        "preset = \"command\"\nclient = [\"x\"]\nserver = [\"y\"]\nready = { tcp = 80, file = \"/x\" }",
        "preset = \"command\"\nclient = [\"x\"]\nserver = [\"y\"]\nready = { output = \"(\" }",
        "preset = \"command\"\nclient = [\"x\"]\nserver = [\"y\"]\nready = { file = \"{scrach}/up\" }",
        "preset = \"command\"\nclient = [\"x\"]\nkeep = [\"a/../../b\", \"ok\", \"\"]\nkeep_server = [\"{sice}\"]",
        "preset = \"command\"\nclient = [\"x\"]\nkeep = \"a\"",
        "preset = \"command\"\nclient = [\"x\"]\n[[workload.metric]]\nname = \"m\"\nunit = \"s\"",
        "preset = \"command\"\nclient = [\"x\"]\n[[workload.metric]]\nname = \"m\"\nunit = \"s\"\nregex = \"a\"\njson = \"/a\"",
        "preset = \"command\"\nclient = [\"x\"]\n[[workload.metric]]\nname = \"m\"\nunit = \"s\"\nregex = \"[0-9\"",
        "preset = \"command\"\nclient = [\"x\"]\n[[workload.metric]]\nname = \"m\"\nunit = \"s\"\nregex = \"[0-9]+\"",
        "preset = \"command\"\nclient = [\"x\"]\n[[workload.metric]]\nname = \"m\"\nunit = \"s\"\njson = \"end.rate\"",
        "preset = \"command\"\nclient = [\"x\"]\n[[workload.metric]]\nname = \"m\"\nunit = \"s\"\nfrom = \"server\"\njson = \"/a\"",
        "preset = \"command\"\nclient = [\"x\"]\n[[workload.metric]]\nname = \"m\"\nunit = \"s\"\njson = \"/a\"\n[[workload.metric]]\nname = \"m\"\nunit = \"s\"\njson = \"/b\"",
    ];
    let cases: Vec<String> = cases.iter().map(|case| format!("name = \"t\"\n[workload]\n{case}\n")).collect();
    snapshot_of("workloads", &cases);
}

#[test]
fn instruments() {
    let syscalls = |text: &str| parse(&format!("{LEAST}{text}\n")).instrument.syscalls;
    assert_eq!(syscalls(""), None);
    assert_eq!(syscalls("[instrument]\nsyscalls = false"), None);
    assert_eq!(syscalls("[instrument]\nsyscalls = true"), Some(SyscallSpec::default()));
    let table = "[instrument.syscalls]\nscope = \"node\"\nlog = true\nthreads = 5\nring = \"64 KiB\"";
    let expected = SyscallSpec {
        scope: SyscallScope::Node,
        log: true,
        threads: Some(5),
        ring: Some(65_536),
        ..SyscallSpec::default()
    };
    assert_eq!(syscalls(table), Some(expected));
    let source = |name: &str| syscalls(&format!("[instrument.syscalls]\nsource = \"{name}\"")).unwrap().source;
    let sources = [None, Some(SyscallSource::Bpf), Some(SyscallSource::Perf)];
    assert_eq!(["auto", "bpf", "perf"].map(source), sources);
    assert_eq!(syscalls("[instrument.syscalls]\nnames = 32768").unwrap().names, Some(32_768));
    for (bad, place) in [
        ("[instrument]\nsyscall = true", "syscalls"),
        ("[instrument]\nsyscalls = 3", "instrument.syscalls"),
        ("[instrument.syscalls]\nscope = \"nodes\"", "workload"),
        ("[instrument.syscalls]\nring = \"5 KiB\"", "a power of two"),
        ("[instrument.syscalls]\nthreads = 0", "1 to 1048576"),
        ("[instrument.syscalls]\nnames = 32769", "1 to 32768"),
        ("[instrument.syscalls]\nsource = \"ebpf\"", "`\"auto\"`, `\"bpf\"`, `\"perf\"`"),
    ] {
        let text = Spec::parse(&format!("{LEAST}{bad}\n")).unwrap_err().render("t.toml", false);
        assert!(text.contains(place), "{text}");
    }
}

#[test]
fn probes() {
    use std::time::Duration;
    let probe = |text: &str| parse(&format!("{LEAST}{text}\n")).instrument.probe;
    assert_eq!((probe(""), probe("[instrument]\nprobe = false")), (None, None));
    assert_eq!(probe("[instrument]\nprobe = true"), Some(ProbeSpec::default()));
    assert_eq!(probe("[instrument]\nprobe = {}"), Some(ProbeSpec::default()));
    let table = "[instrument.probe]\nrate = \"300/s\"\nsize = 1400\ndscp = 46\ntimeout = \"200 ms\"\nmax_late = \"1 %\"\n\
                 series = \"100 ms\"";
    let expected = ProbeSpec {
        interval: Duration::from_nanos(3_333_333),
        size: 1400,
        dscp: 46,
        timeout: Duration::from_millis(200),
        max_late: Percent::new(1.0),
        series: Some(Duration::from_millis(100)),
    };
    assert_eq!(probe(table), Some(expected));
    let slow = probe("[instrument]\nprobe = { interval = \"2 s\" }");
    assert_eq!(slow.map(|probe| probe.interval), Some(Duration::from_secs(2)));
    for (bad, place) in [
        ("[instrument]\nprobes = true", "did you mean `probe`"),
        ("[instrument]\nprobe = 100", "instrument.probe"),
        ("[instrument.probe]\nrate = 100", "from \"1/s\" to \"10000/s\""),
        ("[instrument.probe]\nrate = \"0/s\"", "slower ones are given by `interval`"),
        ("[instrument.probe]\nrate = \"20000/s\"", "packets a second"),
        ("[instrument.probe]\nrate = \"100/s\"\ninterval = \"1 s\"", "both a `rate` and an `interval`"),
        ("[instrument.probe]\ninterval = \"99 us\"", "from 100 us to 10 s"),
        ("[instrument.probe]\nsize = 55", "56 to 8972"),
        ("[instrument.probe]\ndscp = 64", "0 to 63"),
        ("[instrument.probe]\ntimeout = \"61 s\"", "at most 1 min"),
        ("[instrument.probe]\nseries = \"1 us\"", "from 1 ms"),
    ] {
        let text = Spec::parse(&format!("{LEAST}{bad}\n")).unwrap_err().render("t.toml", false);
        assert!(text.contains(place), "{bad}: {text}");
    }
}

#[test]
fn counters() {
    let counters = |text: &str| parse(&format!("{LEAST}{text}\n")).instrument.counters;
    assert_eq!((counters(""), counters("[instrument]\ncounters = \"off\"")), (None, None));
    assert_eq!(counters("[instrument]\ncounters = true"), Some(CounterSpec::default()));
    let table = "[instrument]\ncounters = { interval = \"100 ms\", metrics = [\"b\", \"a\", \"b\"] }";
    let metrics = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(counters(table), Some(CounterSpec { interval: Some(Duration::from_millis(100)), metrics }));
    let ends = "[instrument.counters]\ninterval = \"off\"";
    assert_eq!(counters(ends), Some(CounterSpec { interval: None, metrics: Vec::new() }));
    for (bad, place) in [
        ("counters = 3", "instrument.counters"),
        ("counters = { intervals = \"1 s\" }", "interval"),
        ("counters = { interval = \"1 ms\" }", "10 ms to 1 h"),
        ("counters = { interval = \"10500 us\" }", "whole milliseconds"),
        ("counters = { metrics = \"a\" }", "a list of strings"),
        ("counters = { metrics = [\"a b\"] }", "without blanks"),
        ("counters = { metrics = [\"ctxt\", \"cpu_user\"] }", "not cpu_user, which is a metric already"),
        ("counters = { metrics = [\"syscalls\"] }", "not syscalls, which is a metric already"),
    ] {
        let text = Spec::parse(&format!("{LEAST}[instrument]\n{bad}\n")).unwrap_err().render("t.toml", false);
        assert!(text.contains(place), "{text}");
    }
}

#[test]
fn other_sections() {
    let cases = [
        "[capture]\nsnaplen = 20",
        "[capture]\nvantage = [\"guest\", \"guest\"]",
        "[capture]\nvantage = \"gues\"",
        "[capture]\nvantage = \"switch\"",
        "[capture]\nvantage = []\nkeep = true",
        "[capture]\nring = \"1 kB\"",
        "[capture]\nfilter = \" \"",
        "[testbed.fake]\nfaults = 1",
        "[testbed.netns]\nx = 1",
        "[[testbed.fake.fault]]\nstage = \"lunch\"\nkind = \"error\"",
        "[[testbed.fake.fault]]\nstage = \"launch\"\niterations = [0]",
        "[verify]\nsteal = \"none\"",
        "[verify]\nswop = true",
        "[verify]\nclient_cpu = 95",
        "[analysis]\nmargin = { rps = 5 }",
        "[analysis]\nmargin = { rps = \"-5 %\" }",
        "[analysis]\nbaseline = { testbed = \"netns\" }",
        "[factors]\npairs = [1, 2]\n[analysis]\nbaseline = { pairs = 4 }",
        "[factors]\npairs = [1, 2]\n[analysis]\nbaseline = { pairs = [1, 2] }",
        "[factors]\npairs = [1, 2]\n[analysis]\nbaseline = {}",
        "[factors]\ntestbed = [\"netns\", \"qemu\"]\ndriver = \"e1000\"\n[workload]\npreset = \"ab\"\narguments = [\"{driver}\"]",
        "[factors]\ntestbed = [\"netns\", \"physical\"]\n[capture]\nvantage = \"guest\"",
    ];
    let case = |case: &&str| match case.contains("[workload]") {
        true => format!("name = \"t\"\n{case}\n"),
        false => format!("{LEAST}{case}\n"),
    };
    snapshot_of("other_sections", &cases.iter().map(case).collect::<Vec<_>>());
}

const NODE: &str = "[[testbed.physical.nodes]]\nhost = \"a\"\nrole = \"client\"\naddress = \"10.0.0.1\"\n";

#[test]
fn physical_nodes_are_read() {
    let server = "[[testbed.physical.nodes]]\nhost = \"b\"\nrole = \"server\"\ninterface = \"eth1\"\nport = 2222\n\
                  user = \"x\"\nidentity = \"k\"\nhost_key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5\"\n";
    let more = "[testbed.physical]\nuser = \"me\"\nidentity = \"key\"\ngovernor = \"performance\"\n\
                [testbed.physical.sysctls]\n\"net.ipv4.tcp_sack\" = 0\n\"net/ipv4/conf/eth0.1/rp_filter\" = \"1\"\n\
                [testbed.physical.routers]\nA = \"10.0.0.9\"\n\
                [testbed.physical.switch]\naddress = \"10.0.0.254\"\ncommunity = \"c\"\nupdate = \"5 s\"\nports = { server1 = 4, client1 = 3 }\n";
    let physical = parse(&format!("{LEAST}{more}{NODE}{server}")).testbed.physical;
    let [client, server] = physical.nodes.as_slice() else { panic!("{physical:?}") };
    assert_eq!((client.host.as_str(), client.server, client.address), ("a", false, "10.0.0.1".parse().ok()));
    assert_eq!((client.port, client.user.as_deref(), client.interface.as_deref()), (None, None, None));
    assert_eq!((server.host.as_str(), server.server, server.address), ("b", true, None));
    assert_eq!(
        (server.port, server.user.as_deref(), server.interface.as_deref()),
        (Some(2222), Some("x"), Some("eth1"))
    );
    assert!(server.host_key.is_some() && server.identity.as_deref() == Some("k"));
    assert_eq!((physical.user.as_deref(), physical.identity.as_deref()), (Some("me"), Some("key")));
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    // A dot in a part of a name needs slashes between the parts.
    let sysctls = [("net/ipv4/conf/eth0.1/rp_filter", "1"), ("net/ipv4/tcp_sack", "0")].map(own);
    assert_eq!(physical.sysctls, sysctls);
    assert_eq!(physical.routers, [("A".to_owned(), "10.0.0.9".parse().unwrap())]);
    assert_eq!(physical.governor.as_deref(), Some("performance"));
    let switch = physical.switch.unwrap();
    assert_eq!(switch.access, SwitchAccess::Community("c".to_owned()));
    assert_eq!(switch.ports, [("client1".parse().unwrap(), 3), ("server1".parse().unwrap(), 4)]);
    assert_eq!((switch.address.as_str(), switch.update), ("10.0.0.254", Duration::from_secs(5)));
}

#[test]
fn physical_nodes_that_make_no_sense_are_refused() {
    let cases = [
        "[testbed.physical]\nnodes = 2".to_owned(),
        "[testbed.physical]\nnode = []".to_owned(),
        "[testbed.physical]\nuser = \"a b\"".to_owned(),
        "[testbed.physical]\ngovernor = \"a/b\"".to_owned(),
        "[testbed.physical.sysctls]\n\"net..x\" = 1".to_owned(),
        "[testbed.physical.sysctls]\n\"net.ipv4.x\" = []".to_owned(),
        "[testbed.physical.routers]\nA = \"router\"".to_owned(),
        "[testbed.physical.switch]\naddress = \"-v 1\"\ncommunity = \"a\\\"b\"\nports = { client0 = 1, server1 = 0 }".to_owned(),
        "[testbed.physical.switch]\naddress = \"s\"\ncommunity = \"c\"\nconfig = \"/c\"\nupdate = \"0 s\"\nports = { client1 = 1 }".to_owned(),
        NODE.replace("host = \"a\"\n", ""),
        NODE.replace("role = \"client\"\n", ""),
        NODE.replace("address = \"10.0.0.1\"\n", ""),
        NODE.replace("\"client\"", "\"router\""),
        NODE.replace("\"a\"", "\"-oProxyCommand=x\""),
        NODE.replace("10.0.0.1", "10.0.0"),
        NODE.replace("10.0.0.1", "224.0.0.1"),
        format!("{NODE}port = 0"),
        format!("{NODE}host_key = \"AAAA\""),
        format!("{NODE}interface = \"a b\""),
    ];
    let case = |case: &String| format!("{LEAST}{case}\n");
    snapshot_of("physical", &cases.iter().map(case).collect::<Vec<_>>());
}

#[test]
fn options_of_minimega_are_read() {
    let minimega = |text: &str| parse(&format!("{LEAST}[testbed.minimega]\n{text}")).testbed.minimega;
    assert_eq!(minimega(""), MinimegaSpec::default());
    let all = minimega(
        "socket = \"/run/m/minimega\"\nkernel = \"cloud\"\nprograms = [\"tc\"]\nappend = [\"quiet\"]\n\
         qemu = \"/opt/kvm\"\ncpu = \"max\"\ncapture = \"minimega\"\nboot_timeout = \"90 s\"\nstress = \"guest\"\n\
         filesystem = \"/srv/root\"\nhosts = [\"kn1\", \"kn2.lab\"]",
    );
    assert_eq!(all.hosts, Some(["kn1".to_owned(), "kn2.lab".to_owned()]));
    assert_eq!(all.filesystem.as_deref(), Some("/srv/root"));
    assert_eq!((all.socket.as_deref(), all.qemu.as_deref()), (Some("/run/m/minimega"), Some("/opt/kvm")));
    assert_eq!((all.kernel, all.cpu.as_deref(), all.capture), (GuestKernel::Cloud, Some("max"), TapCapture::Minimega));
    assert_eq!((all.programs, all.append), (vec!["tc".to_owned()], vec!["quiet".to_owned()]));
    assert_eq!((all.boot_timeout, all.stress), (Some(Duration::from_secs(90)), StressPlace::Guest));
    assert_eq!((all.result_disk, minimega("result_disk = \"1 MiB\"").result_disk), (None, Some(ByteSize(1 << 20))));
}

/// Guests of an image of one's own have none of them; containers of the same sweep may.
#[test]
fn programs_that_nobody_would_have_are_refused() {
    let own = "programs = [\"tc\"]\ninitrd = \"/i\"\nkernel = \"/k\"";
    let spec = |testbeds: &str, more: &str| {
        format!("{LEAST}[factors]\ntestbed = [{testbeds}]\n[testbed.minimega]\n{own}\n{more}\n")
    };
    let both = "\"minimega-kvm\", \"minimega-container\"";
    assert_eq!(parse(&spec(both, "")).testbed.minimega.programs, ["tc"]);
    for refused in [spec("\"minimega-kvm\"", ""), spec(both, "filesystem = \"/root\"")] {
        let told = said(&refused);
        assert!(told.contains("error") && told.contains("no programs beside `initrd` or `disk`"), "{told}");
        assert!(told.contains("leave `programs` out"), "{told}");
    }
}

#[test]
fn images_of_ones_own_are_read() {
    let image = |text: &str| parse(&format!("{LEAST}[testbed.minimega]\n{text}")).testbed.minimega.image;
    assert_eq!(image("kernel = \"/k\""), None, "a kernel for vptest's own image");
    let boot = GuestBoot::Kernel { kernel: "/k".to_owned(), initrd: "/i".to_owned() };
    let kernel = "kernel = \"/k\"\ninitrd = \"/i\"\nappend = [\"quiet\"]";
    assert_eq!(image(kernel), Some(GuestImage { boot: boot.clone(), reach: GuestReach::Port }));
    let reach = GuestReach::Cc { files: Some("/var/cc".to_owned()) };
    let by_cc = format!("{kernel}\nreach = \"cc\"\nfiles = \"/var/cc\"");
    assert_eq!(image(&by_cc), Some(GuestImage { boot, reach }));
    let disk = |path: &str, snapshot| Some(GuestBoot::Disk { path: path.to_owned(), snapshot });
    assert_eq!(image("disk = \"/d\"").map(|image| image.boot), disk("/d", true));
    let kept = image("disk = \"/{node}.img\"\nsnapshot = false");
    assert_eq!(kept.map(|image| image.boot), disk("/{node}.img", false));
}

#[test]
fn wrong_options_of_minimega_are_refused_by_name() {
    let long = format!("socket = \"/{}\"", "x".repeat(107));
    for (line, expected) in [
        ("socket = \"minimega\"", "the path of minimega's command socket, beginning with `/`"),
        (&long, "a path of at most 107 bytes"),
        ("qemu = \"kvm\"", "the path of a QEMU, beginning with `/`"),
        ("filesystem = \"root\"", "the path of a directory, beginning with `/`"),
        ("filesystem = \"/a:b\"", "which overlays cannot have"),
        ("capture = \"tcpdump\"", "minimega"),
        ("hosts = [\"kn1\"]", "two different names of hosts"),
        ("hosts = [\"kn1\", \"kn1\"]", "two different names of hosts"),
        ("hosts = [\"kn1\", \"kn[2-3]\"]", "two different names of hosts"),
        ("hosts = [\"all\", \"kn1\"]", "two different names of hosts"),
        ("boot_timeout = \"0 s\"", "boot_timeout"),
        ("modules = \"/m\"", "a kernel of your own"),
        ("scoket = \"/s\"", "socket"),
        ("initrd = \"/i\"", "`kernel` beside it"),
        ("initrd = \"/i\"\nkernel = \"cloud\"", "the path of a kernel, beginning with `/`, beside `initrd`"),
        ("initrd = \"/i\"\nkernel = \"./k\"", "the path of a kernel, beginning with `/`, beside `initrd`"),
        ("initrd = \"/i\"\nkernel = \"/k\"\nmodules = \"/m\"", "leave `modules` out"),
        ("initrd = \"i\"\nkernel = \"/k\"", "the path of an initramfs, beginning with `/`"),
        ("initrd = \"/i\"\nkernel = \"/k\"\ndisk = \"/d\"", "no disk beside `initrd`"),
        ("disk = \"d.qcow2\"", "the path of a disk, beginning with `/`"),
        ("disk = \"/a,b\"", "the path of a disk, without commas"),
        ("disk = \"/d\"\nkernel = \"/k\"", "no kernel beside `disk`"),
        ("disk = \"/d\"\nappend = [\"quiet\"]", "no kernel arguments beside `disk`"),
        ("disk = \"/d\"\nsnapshot = false", "a path with `{node}` beside `snapshot = false`"),
        ("snapshot = false", "only beside `disk`"),
        ("reach = \"cc\"", "only beside `initrd` or `disk`"),
        ("disk = \"/d\"\nreach = \"ssh\"", "`\"port\"`, `\"cc\"`"),
        ("disk = \"/d\"\nfiles = \"/f\"", "only beside `reach = \"cc\"`"),
        ("disk = \"/d\"\nreach = \"cc\"\nfiles = \"f\"", "the path of a directory in the guests, beginning with `/`"),
        ("disk = \"/d\"\nprograms = [\"tc\"]", "no programs beside `initrd` or `disk`"),
        ("result_disk = 5", "result_disk"),
        ("result_disk = \"100 kB\"", "from 1 MiB to 16 TiB"),
        ("result_disk = \"17 TiB\"", "from 1 MiB to 16 TiB"),
        ("disk = \"/d\"\nresult_disk = \"1 GiB\"", "no `result_disk` beside `disk`"),
    ] {
        let told = said(&format!("{LEAST}[testbed.minimega]\n{line}\n"));
        assert!(told.contains("error") && told.contains(expected), "{line}:\n{told}");
    }
}

#[test]
fn rules_to_stop_by_are_read() {
    let stop = |lines: &str| {
        let spec = parse(&format!("{LEAST}{lines}\n"));
        (spec.stop.unwrap(), spec.repetitions)
    };
    let rule = |metrics: &[&str], percent: f64, min: u32| StopSpec {
        metrics: metrics.iter().map(|&name| name.to_owned()).collect(),
        half_width: Percent::new(percent),
        min,
    };
    assert_eq!(stop("[stop]\nmetric = \"rps\"\nhalf_width = \"2 %\"\nmin = 6\nmax = 50"), (rule(&["rps"], 2.0, 6), 50));
    assert_eq!(
        stop("[stop]\nmetric = [\"a\", \"os.b@client\"]\nhalf_width = \"0.5 %\""),
        (rule(&["a", "os.b@client"], 0.5, 5), 10)
    );
    assert_eq!(stop("repetitions = 20\n[stop]\nmetric = \"a\"\nhalf_width = \"1 %\""), (rule(&["a"], 1.0, 5), 20));
    assert_eq!(stop("repetitions = 20\n[stop]\nmetric = \"a\"\nhalf_width = \"1 %\"\nmax = 20").1, 20);
    assert_eq!(parse(LEAST).stop, None);
}

#[test]
fn wrong_rules_to_stop_by_are_refused_by_name() {
    let cases = [
        "stop = \"rps\"",
        "[stop]",
        "[stop]\nmetric = []\nhalf_width = 2",
        "[stop]\nmetric = [\"rps\", \"rps\"]\nhalf_width = \"0 %\"",
        "[stop]\nmetric = \" \"\nhalf_width = \"2\"",
        "[stop]\nmetric = \"rps\"\nhalf_width = \"2 %\"\nmin = 4\nmaximum = 9",
        "[stop]\nmetric = \"rps\"\nhalf_width = \"2 %\"\nmin = 20",
        "[stop]\nmetric = \"rps\"\nhalf_width = \"2 %\"\nmin = 20\nmax = 10",
        "repetitions = 3\n[stop]\nmetric = \"rps\"\nhalf_width = \"2 %\"",
        "repetitions = 5\n[stop]\nmetric = \"rps\"\nhalf_width = \"2 %\"",
        "repetitions = 10\n[stop]\nmetric = \"rps\"\nhalf_width = \"2 %\"\nmax = 50",
        "repetitions = \"many\"\n[stop]\nmetric = \"rps\"\nhalf_width = \"101 %\"\nmax = 50",
    ];
    snapshot_of("stop", &cases.iter().map(|case| format!("{LEAST}{case}\n")).collect::<Vec<_>>());
}

#[test]
fn sentinels_are_read() {
    let sentinel =
        |lines: &str| parse(&format!("{LEAST}[factors]\npairs = [1, 2]\n[sentinel]\n{lines}\n")).sentinel.unwrap();
    assert_eq!(sentinel("every = 20"), SentinelSpec { every: 20, tuple: Vec::new() });
    let chosen = vec![("pairs".to_owned(), Value::Integer(2))];
    assert_eq!(sentinel("every = 1\ntuple = { pairs = 2 }"), SentinelSpec { every: 1, tuple: chosen });
    assert_eq!(parse(LEAST).sentinel, None);
}

#[test]
fn wrong_sentinels_are_refused_by_name() {
    let factors =
        "[factors]\ntestbed = [\"netns\", \"qemu\"]\ndriver = [\"e1000\", \"virtio-net-pci\"]\npairs = [1, 2]\n";
    let cases = [
        "sentinel = 20",
        "[sentinel]",
        "[sentinel]\nevery = 0\nevry = 3",
        "[sentinel]\nevery = 20\ntuple = \"first\"",
        "[sentinel]\nevery = 20\ntuple = {}",
        "[sentinel]\nevery = 20\ntuple = { pears = 1, pairs = 3 }",
        "[sentinel]\nevery = 20\ntuple = { pairs = [1, 2] }",
        "[sentinel]\nevery = 20\ntuple = { testbed = \"netns\", driver = \"e1000\" }",
        "[sentinel]\nevery = 20\ntuple = { testbed = \"qemu\", pairs = 1 }\n[[exclude]]\ntestbed = \"qemu\"\npairs = 1",
    ];
    let case = |case: &&str| match case.starts_with('[') {
        true => format!("{LEAST}{factors}{case}\n"),
        false => format!("{LEAST}{case}\n{factors}"),
    };
    snapshot_of("sentinel", &cases.iter().map(case).collect::<Vec<_>>());
}

#[test]
fn limits_are_read() {
    let limits = parse(&format!(
        "{LEAST}[limits]\nfailures = 5\nstorage = \"50 GB\"\nfree = \"2 GiB\"\nduration = \"36 h\"\nuntil = \"2026-12-24T07:00:00+01:00\"\n"
    ))
    .limits;
    let expected = LimitsSpec {
        failures: Some(5),
        storage: Some(ByteSize(50_000_000_000)),
        free: Some(ByteSize(2 << 30)),
        duration: Some(Duration::from_hours(36)),
        until: Some("2026-12-24T06:00:00Z".parse().unwrap()),
    };
    assert_eq!(limits, expected);
    assert_eq!(parse(LEAST).limits, LimitsSpec::default());
}

#[test]
fn wrong_limits_are_refused_by_name() {
    let cases = [
        "limits = 20",
        "[limits]\nfailures = 0\nstorag = 3",
        "[limits]\nstorage = \"0 B\"\nfree = 7",
        "[limits]\nduration = \"0 s\"",
        "[limits]\nuntil = \"2026-12-24 06:00\"",
        "[limits]\nuntil = \"tomorrow\"",
        "[limits]\nuntil = 2026-12-24T06:00:00Z",
    ];
    snapshot_of("limits", &cases.iter().map(|case| format!("{LEAST}{case}\n")).collect::<Vec<_>>());
}

#[test]
fn storage_is_read() {
    let storage = parse(&format!(
        "{LEAST}[capture]\nkeep = true\n[storage]\ncaptures = [\"first 3\", \"problems\"]\nevents = \"none\"\ncompress = \"zstd\"\ndeduplicate = true\n"
    ))
    .storage;
    let expected = StorageSpec {
        captures: KeepRule::Those { problems: true, first: 3 },
        events: KeepRule::NONE,
        outputs: KeepRule::All,
        compress: Some(3),
        deduplicate: true,
    };
    assert_eq!(storage, expected);
    assert_eq!(parse(LEAST).storage, StorageSpec::default());
    assert_eq!(parse(&format!("{LEAST}[storage]\ncompress = \"none\"\n")).storage, StorageSpec::default());
}

#[test]
fn wrong_storage_is_refused_by_name() {
    let cases = [
        "storage = \"all\"",
        "[storage]\ncaptures = \"problem\"\npcaps = \"all\"",
        "[storage]\noutputs = [\"all\", \"first 3\"]",
        "[storage]\noutputs = [\"first 3\", \"first 4\"]",
        "[storage]\noutputs = []",
        "[storage]\noutputs = \"first 0\"",
        "[storage]\noutputs = \"first +3\"",
        "[storage]\nevents = true",
        "[storage]\ncompress = \"gzip\"",
        "[storage]\ncompress = \"zstd\"\nlevel = 20",
        "[storage]\nlevel = 3",
        "[storage]\ncompress = \"none\"\nlevel = 3",
        "[storage]\ndeduplicate = 1",
    ];
    snapshot_of("storage", &cases.iter().map(|case| format!("{LEAST}{case}\n")).collect::<Vec<_>>());
}

#[test]
fn a_file_that_is_not_utf8_says_where() {
    let error = Spec::parse_bytes(b"name = \"t\"\nworkload = \"a\xffb\"\n").unwrap_err();
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("not_utf8", error.render("params.toml", false));
    });
    assert!(Spec::parse_bytes(b"\xff").is_err());
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_do_no_harm() {
    assert_eq!(parse(&LEAST.replace('\n', "\r\n")), parse(LEAST));
    assert_eq!(parse(&format!("\u{feff}{LEAST}")), parse(LEAST));
}

#[test]
fn colour_adds_nothing_but_escapes() {
    let error = Spec::parse("name = 1").unwrap_err();
    let coloured = error.render("t", true);
    assert!(coloured.contains("\u{1b}["));
    assert!(!error.render("t", false).contains('\u{1b}'));
}

#[test]
fn display_gives_one_line_for_each() {
    let error = Spec::parse("name = 1\n\nrepetitions = 0\nworkload = \"ab\"").unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 1, column 8: `name` cannot be `1`\nline 3, column 15: `repetitions` cannot be `0`"
    );
}

/// Lines that mean something, to be put together wildly.
const FRAGMENTS: &[&str] = &[
    "name = \"t\"",
    "workload = \"ab\"",
    "[factors]",
    "[workload]",
    "[capture]",
    "[verify]",
    "[analysis]",
    "[[exclude]]",
    "[[workload.metric]]",
    "[[testbed.fake.fault]]",
    "[factors.custom]",
    "pairs = [1, 2]",
    "pairs = []",
    "hops = [[]]",
    "hops = [1]",
    "rate = \"none\"",
    "request = { url = 1 }",
    "request = [{}]",
    "testbed = []",
    "testbed = \"qemu\"",
    "x = { a = 1 }",
    "preset = \"command\"",
    "client = [\"{x}\"]",
    "server = []",
    "vantage = 1",
    "margin = \"5 %\"",
    "baseline = { pairs = 1 }",
    "repetitions = 4294967296",
    "json = \"/a\"",
    "name = \"é\"",
    "ready = {}",
    "\u{0}",
    "é",
];

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        let _ = said(&text);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(found) = Spec::parse_bytes(&bytes) {
            let _ = found.render("x", true);
        }
    }

    #[test]
    fn no_mixture_of_lines_makes_it_panic(lines in proptest::collection::vec(proptest::sample::select(FRAGMENTS), 0..20)) {
        let _ = said(&lines.join("\n"));
    }

    #[test]
    fn no_cut_of_a_spec_makes_it_panic(cut in 0..FULL.len(), drop in 0usize..40) {
        let text: String = FULL.chars().take(cut).chain(FULL.chars().skip(cut + drop)).collect();
        let _ = said(&text);
    }
}

#[test]
fn link_tests_have_levels_and_thresholds() {
    let of = |text: &str| parse(&format!("{LEAST}[verify]\n{text}\n")).verify.linktest;
    assert_eq!(of(""), None);
    assert_eq!(of("linktest = \"off\""), None);
    for (name, number, level) in [("connectivity", 1, LinkLevel::Connectivity), ("bandwidth", 4, LinkLevel::Bandwidth)]
    {
        assert_eq!(of(&format!("linktest = \"{name}\"")), Some(LinkTestSpec::new(level)));
        assert_eq!(of(&format!("linktest = {number}")), Some(LinkTestSpec::new(level)));
    }
    let table = of("linktest = { level = \"loss\", loss = \"off\", delay = \"10 ms\", bandwidth = \"5 %\" }").unwrap();
    assert_eq!((table.level, table.loss, table.bandwidth), (LinkLevel::Loss, None, Some(Percent::new(5.0))));
    assert_eq!(table.delay, Some(Duration::from_millis(10)));
}

#[test]
fn wrong_link_tests_are_refused_by_name() {
    let wrong = [
        "linktest = 5",
        "linktest = 0",
        "linktest = \"bandwith\"",
        "linktest = true",
        "linktest = { loss = \"1 %\" }",
        "linktest = { level = 3, delay = \"10\", loss = 1, speed = 2 }",
        "linktest = { level = 4, bandwidth = \"41 %\" }",
    ];
    let texts: Vec<String> = wrong.iter().map(|text| format!("{LEAST}[verify]\n{text}\n")).collect();
    snapshot("linktest", &texts.iter().map(String::as_str).collect::<Vec<_>>());
}

/// The values of `instrument = …` in a spec that asks for captures and system calls.
fn instrument_values(value: &str) -> Vec<String> {
    let text = format!("{LEAST}[factors]\ninstrument = {value}\n[instrument]\nsyscalls = true\n");
    parse(&text).factors[0].values.iter().map(ToString::to_string).collect()
}

#[test]
fn a_list_of_instruments_is_one_value_and_a_list_of_values_several() {
    for (value, expected) in [
        ("true", &["on"][..]),
        ("\"off\"", &["off"]),
        ("[]", &["off"]),
        ("[true, \"off\"]", &["on", "off"]),
        ("[\"capture\"]", &["capture"]),
        ("[\"syscalls\", \"capture\"]", &["capture+syscalls"]),
        ("[[\"syscalls\"]]", &["syscalls"]),
        ("[false, true, [\"capture\"], [\"capture\", \"syscalls\"]]", &["off", "on", "capture", "capture+syscalls"]),
        ("[[], [\"capture\"]]", &["off", "capture"]),
    ] {
        assert_eq!(instrument_values(value), expected, "{value}");
    }
}

#[test]
fn wrong_instruments_are_refused_by_name() {
    let cases = [
        "\"capture\"",
        "\"all\"",
        "1",
        "[\"captures\"]",
        "[\"on\", \"capture\"]",
        "[true, \"capture\"]",
        "[[\"capture\", 1]]",
        "[[\"capture\", \"capture\"]]",
        "[false, []]",
        "[[\"capture\", \"syscalls\"], [\"syscalls\", \"capture\"]]",
        "[[\"capture\"], [\"syscalls\"], [\"syscalls\", \"capture\"]]",
    ];
    let texts: Vec<String> = cases.iter().map(|value| format!("{LEAST}[factors]\ninstrument = {value}\n")).collect();
    let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let nothing = format!("{LEAST}[factors]\ninstrument = [[\"capture\"]]\n[capture]\nvantage = []\n");
    let other = format!("{LEAST}[factors]\ninstrument = [false, [\"capture\"]]\n[[exclude]]\ninstrument = true\n");
    let excluded = format!(
        "{LEAST}[factors]\nworkers = [1, 2]\ninstrument = [false, [\"capture\"]]\n[[exclude]]\nworkers = 2\ninstrument = [\"capture\"]\n"
    );
    texts.extend([nothing.as_str(), &other, &excluded]);
    snapshot("instruments", &texts);
}

/// The sweeps that come with vptest, each with its number of iterations and its limit.
#[test]
fn sweeps_that_come_along_are_clean_and_have_their_size() {
    let quickstart = include_str!("../../sweeps/quickstart.toml");
    let contention = include_str!("../../sweeps/contention.toml");
    let physical = include_str!("../../sweeps/physical.toml");
    for (text, iterations) in [
        (include_str!("../../sweeps/virtual-vs-native.toml"), 60),
        (include_str!("../../sweeps/virtual-short.toml"), 6),
        (include_str!("../../sweeps/instrument-cost.toml"), 80),
    ] {
        assert_eq!(said(text), "(nothing)\n");
        assert_eq!(crate::plan::Plan::expand(parse(text), text).unwrap().iterations.len(), iterations);
    }
    for (text, iterations, seconds) in [(quickstart, 40, 30), (contention, 960, 360), (physical, 240, 180)] {
        assert_eq!(said(text), "(nothing)\n");
        let spec = parse(text);
        assert_eq!(spec.timeout, Duration::from_secs(seconds), "{}", spec.name);
        let plan = crate::plan::Plan::expand(spec, text).unwrap();
        assert_eq!(plan.iterations.len(), iterations, "{}", plan.spec.name);
        assert_eq!(plan.counts.excluded, 0);
        assert_eq!(plan.counts.combinations, Some(plan.counts.distinct));
    }
    let spec = parse(quickstart);
    assert!(spec.factors.iter().filter(|factor| factor.values.len() > 1).count() >= 2 && spec.repetitions >= 5);
}

#[test]
fn slurm_is_read() {
    let slurm = parse(&format!(
        "{LEAST}[slurm]\npartition = \"net\"\naccount = \"lab\"\nconstraint = \"[rack1|rack2]\"\ntime = \"30 min\"\nshared = false\n\
         element = \"block\"\nexclude = \"kn7\"\noptions = [\"--licenses=scope:1\", \"--reservation=study\"]\n"
    ))
    .slurm;
    let expected = SlurmSpec {
        partition: Some("net".to_owned()),
        account: Some("lab".to_owned()),
        constraint: Some("[rack1|rack2]".to_owned()),
        qos: None,
        time: Some(Duration::from_secs(1800)),
        shared: Some(false),
        element: Element::Block,
        exclude: vec!["kn7".to_owned()],
        options: vec!["--licenses=scope:1".to_owned(), "--reservation=study".to_owned()],
    };
    assert_eq!(slurm, expected);
    assert_eq!(parse(LEAST).slurm, SlurmSpec::default());
}

#[test]
fn wrong_words_for_slurm_are_refused_by_name() {
    for (text, why) in [
        ("partition = \"a b\"", "one word that does not begin with `-`"),
        ("partion = \"a\"", "partition"),
        ("time = \"30 s\"", "at least 2 min"),
        ("element = \"tuple\"", "block"),
        ("options = \"-p x\"", "a long option of sbatch in one word"),
        ("options = [\"--part=x\"]", "which has a key of its own: `partition`"),
        ("options = [\"--arr=1-2\"]", "no `--array`, which vptest has a say in"),
    ] {
        let error = said(&format!("{LEAST}[slurm]\n{text}\n"));
        assert!(error.contains(why), "{text}: {error}");
    }
}
