//! System calls of real programs, followed and counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vptest::instrument::syscalls::read_log;
use vptest::record::{DescriptorKind, LogBins, SyscallProcess, SyscallSource, SyscallTrace};

use vptest::ids::NodeId;
use vptest::store::Database;

use crate::campaign::{Campaign, said};
use crate::need::{need, program, root};

const VPTEST: &str = env!("CARGO_BIN_EXE_vptest");
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/syscalls/known.c");
const BPF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/instrument/syscalls/bpf");

/// Calls of the program in `known.c`, as (name, began).
const KNOWN: [(&str, u64); 9] = [
    ("exit_group", 1),
    ("getppid", 1000),
    ("open", 1),
    ("pipe2", 1),
    ("pread64", 1),
    ("read", 6),
    ("recvfrom", 1),
    ("socketpair", 1),
    ("write", 5),
];

/// May this machine load BPF programs?
pub(crate) fn bpf() -> bool {
    let probe = Command::new(VPTEST).args(["trace", "--", "true"]).output().unwrap();
    root() && need("bpf", probe.status.success())
}

/// Builds the known program into a directory.
pub(crate) fn known(directory: &Path) -> Option<PathBuf> {
    if !program("cc") {
        return None;
    }
    let target = directory.join("known");
    let built =
        Command::new("cc").args(["-static", "-nostdlib", "-O1", "-o"]).arg(&target).arg(SOURCE).status().unwrap();
    assert!(built.success());
    Some(target)
}

fn run(arguments: &[&str], command: &[&str]) -> Output {
    Command::new(VPTEST).arg("trace").args(arguments).arg("--").args(command).output().unwrap()
}

fn trace(arguments: &[&str], command: &[&str]) -> SyscallTrace {
    let output = run(arguments, command);
    let text = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub(crate) fn process<'a>(trace: &'a SyscallTrace, name: &str) -> &'a SyscallProcess {
    trace.processes.iter().find(|process| process.name == name).unwrap_or_else(|| panic!("no {name} in {trace:?}"))
}

pub(crate) fn counts(process: &SyscallProcess) -> Vec<(&str, u64)> {
    process.by_call.iter().map(|call| (call.name.as_str(), call.calls)).collect()
}

/// All that is known of the known program.
pub(crate) fn assert_known(process: &SyscallProcess) {
    assert_eq!(counts(process), KNOWN);
    assert_eq!((process.threads, process.calls), (1, 1017));
    let call = |name: &str| process.by_call.iter().find(|call| call.name == name).unwrap();
    assert_eq!((call("exit_group").returned, call("getppid").returned), (0, 1000));
    assert_eq!((call("read").errors, call("read").by_error.as_slice()), (2, &[(9, 2)][..]), "EBADF");
    assert_eq!(call("getppid").times.count(), 1000);
    assert!(call("getppid").total_ns > 0 && call("getppid").most_ns <= call("getppid").total_ns);

    let step = |from: Option<&str>, to: &str| {
        process.transitions.iter().find(|t| t.from.as_deref() == from && t.to == to).map_or(0, |t| t.count)
    };
    assert_eq!((step(None, "getppid"), step(Some("getppid"), "getppid"), step(Some("getppid"), "pipe2")), (1, 999, 1));
    assert_eq!((step(Some("write"), "read"), step(Some("read"), "write"), step(Some("read"), "read")), (3, 2, 1));
    assert_eq!((step(Some("write"), "write"), step(Some("read"), "exit_group")), (1, 1));
    assert_eq!(process.transitions.iter().map(|t| t.count).sum::<u64>(), 1017);

    let size = |call: &str, kind| {
        let found = process.sizes.iter().find(|sizes| sizes.call == call && sizes.kind == kind);
        found.map(|sizes| (sizes.count, sizes.bytes, sizes.most, sizes.zero))
    };
    assert_eq!(size("write", DescriptorKind::Pipe), Some((3, 300, 100, 0)));
    assert_eq!(size("read", DescriptorKind::Pipe), Some((3, 300, 100, 0)));
    assert_eq!(size("write", DescriptorKind::Socket), Some((2, 14, 7, 0)));
    assert_eq!(size("recvfrom", DescriptorKind::Socket), Some((1, 14, 14, 0)));
    assert_eq!(size("read", DescriptorKind::File), Some((1, 64, 64, 0)));
    assert_eq!(size("pread64", DescriptorKind::File), Some((1, 0, 0, 1)), "the end of the file");
    assert_eq!(process.sizes.len(), 6, "what failed moved nothing");
    let pipe = process.sizes.iter().find(|s| s.call == "read" && s.kind == DescriptorKind::Pipe).unwrap();
    assert_eq!(pipe.returned.bins(), [(LogBins::bin_of(100), 3)]);
}

#[test]
fn a_known_program_is_counted_exactly_and_the_same_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let Some(known) = known(directory.path()).filter(|_| bpf()) else { return };
    let known = known.to_str().unwrap();
    let first = trace(&[], &[known]);
    assert_eq!((first.source, first.lost()), (SyscallSource::Bpf, 0));
    assert_known(process(&first, "known"));
    let second = trace(&[], &[known]);
    assert_eq!(process(&second, "known").sequence, process(&first, "known").sequence);
}

#[test]
fn children_of_children_are_followed_and_others_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let Some(known) = known(directory.path()).filter(|_| bpf()) else { return };
    let script = format!("for i in 1 2 3; do (setsid {0} & wait) & {0}; done; wait", known.display());
    let trace = trace(&[], &["sh", "-c", &script]);
    let known = process(&trace, "known");
    assert_eq!((known.threads, known.calls), (6, 6 * 1017));
    assert!(counts(known).contains(&("getppid", 6000)));
    let names: Vec<&str> = trace.processes.iter().map(|process| process.name.as_str()).collect();
    assert!(names.iter().all(|name| ["known", "sh", "setsid", "vptest-cage"].contains(name)), "{names:?}");
}

#[test]
fn what_finds_no_room_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let Some(known) = known(directory.path()).filter(|_| bpf()) else { return };
    let known = known.to_str().unwrap();
    let whole = trace(&[], &[known]);
    let returned = |trace: &SyscallTrace| -> u64 {
        trace.processes.iter().flat_map(|process| &process.by_call).map(|call| call.returned).sum()
    };
    let lost = |trace: &SyscallTrace, of: fn(&vptest::record::SyscallLoss) -> u64| -> u64 {
        trace.losses.iter().map(of).sum()
    };
    let cut = trace(&["--room", "calls=2"], &[known]);
    assert!(lost(&cut, |l| l.returned) > 1000);
    assert_eq!(returned(&cut) + lost(&cut, |l| l.returned), returned(&whole));
    let cut = trace(&["--room", "transitions=2"], &[known]);
    assert!(lost(&cut, |l| l.steps) > 0);
    let steps: u64 = cut.processes.iter().flat_map(|process| &process.transitions).map(|step| step.count).sum();
    assert_eq!(steps + lost(&cut, |l| l.steps), whole.calls());
    // The names of the starting thread and of the program: the second finds no room.
    let cut = trace(&["--room", "names=1"], &[known]);
    assert_eq!(lost(&cut, |l| l.begun), 1017);
    assert_eq!(cut.calls() + 1017, whole.calls());
    let cut = trace(&["--room", "sizes=1"], &[known]);
    let sizes = |trace: &SyscallTrace| -> u64 {
        trace.processes.iter().flat_map(|process| &process.sizes).map(|sizes| sizes.count).sum()
    };
    assert_eq!((sizes(&whole), sizes(&cut) + lost(&cut, |l| l.sizes)), (11, 11));
}

#[test]
fn a_log_has_every_call_in_order_or_says_what_it_lacks() {
    let directory = tempfile::tempdir().unwrap();
    let Some(known) = known(directory.path()).filter(|_| bpf()) else { return };
    let log = directory.path().join("log.zst");
    let whole = trace(&["--log", log.to_str().unwrap()], &[known.to_str().unwrap()]);
    let calls: Vec<_> = read_log(&log).unwrap().into_iter().filter(|call| call.name == "known").collect();
    assert_eq!(calls.len(), 1017);
    assert!(calls[..1000].iter().all(|call| call.call == "getppid" && call.took_ns.is_some()));
    let rest: Vec<(&str, Option<i64>)> = calls[1000..].iter().map(|call| (call.call.as_str(), call.result)).collect();
    assert_eq!(rest[1..3], [("write", Some(100)), ("read", Some(100))]);
    assert_eq!(rest[rest.len() - 2..], [("read", Some(-9)), ("exit_group", None)]);
    assert_eq!(whole.lost(), 0);

    let cut = trace(&["--log", log.to_str().unwrap(), "--room", "ring=4096"], &[known.to_str().unwrap()]);
    let lost: u64 = cut.losses.iter().map(|loss| loss.logged).sum();
    assert!(lost > 0);
    assert_eq!(read_log(&log).unwrap().len() as u64 + lost, cut.calls());
}

#[test]
fn counts_are_those_of_strace() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_) = known(directory.path()).filter(|_| bpf() && program("strace")) else { return };
    let command = ["sh", "-c", "for i in 1 2 3; do ls / > /dev/null; cat /etc/passwd | wc -l > /dev/null; done"];
    let table = directory.path().join("table");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-U", "name,calls,errors", "-o"]).arg(&table).args(command).env("LC_ALL", "C");
    assert!(strace.status().unwrap().success());
    let text = std::fs::read_to_string(&table).unwrap();
    let mut theirs: BTreeMap<String, u64> = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        if let (Some(name), Some(Ok(calls))) = (fields.next(), fields.next().map(str::parse)) {
            theirs.insert(name.to_owned(), calls);
        }
    }
    theirs.remove("total");
    let trace = trace(&[], &command);
    let mut ours: BTreeMap<String, u64> = BTreeMap::new();
    for process in trace.processes.iter().filter(|process| process.name != "vptest-cage") {
        for call in &process.by_call {
            *ours.entry(call.name.clone()).or_default() += call.calls;
        }
    }
    // The first execve belongs to the thread that starts the program. strace does not count what never returns, and
    // signals come when they like.
    *ours.get_mut("execve").unwrap() += 1;
    for map in [&mut ours, &mut theirs] {
        for name in ["exit_group", "rt_sigreturn", "wait4"] {
            map.remove(name);
        }
    }
    assert_eq!(ours, theirs);
}

#[test]
fn a_refusal_says_why() {
    if !root() {
        return;
    }
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"])
        .args([VPTEST, "trace", "--node", "--", "true"])
        .output();
    let Ok(output) = output else {
        need("setpriv", false);
        return;
    };
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("bpf: ") && text.contains("perf: "), "both reasons: {text}");
    assert!(output.stdout.is_empty(), "no row of zeros");
}

#[test]
fn the_object_is_built_from_the_source() {
    // Another release may well make another object of the same source.
    let built_it = |program| {
        let version = Command::new(program).arg("--version").output();
        version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("version 14.0.6"))
    };
    if !need("clang-14.0.6", built_it("clang-14") && built_it("llvm-strip-14")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let object = directory.path().join("syscalls.bpf.o");
    let flags = ["-O2", "-g", "-fdebug-compilation-dir=.", "-target", "bpf", "-mcpu=v3", "-c", "syscalls.bpf.c", "-o"];
    let built = Command::new("clang-14").current_dir(BPF).args(flags).arg(&object).status().unwrap();
    assert!(built.success());
    assert!(Command::new("llvm-strip-14").arg("-g").arg(&object).status().unwrap().success());
    let committed = std::fs::read(format!("{BPF}/syscalls.bpf.o")).unwrap();
    assert!(std::fs::read(&object).unwrap() == committed, "`make bpf` builds it anew");
}

/// A sweep in namespaces whose client is the known program.
fn in_namespaces(known: &Path, more: &str) -> Campaign {
    Campaign::planned(&format!(
        "name = \"calls\"\nrepetitions = 2\n[factors]\ntestbed = \"netns\"\npairs = 2\nround = [1, 2]\n\
         [workload]\npreset = \"command\"\nclient = [{:?}]\n\
         [verify]\nforeign_cpu = \"off\"\nsteal = \"off\"\nclient_cpu = \"off\"\n{more}\n",
        known.to_str().unwrap()
    ))
}

#[test]
fn nodes_in_namespaces_are_told_apart_and_repetitions_compared() {
    let directory = tempfile::tempdir().unwrap();
    let Some(known) = known(directory.path()).filter(|_| bpf()) else { return };
    let campaign = in_namespaces(&known, "[instrument]\nsyscalls = true");
    let ran = said(campaign.command(&["run"]).output().unwrap());
    assert_eq!(ran.code, Some(0), "{}{:?}", ran.err, campaign.outcomes());
    for file in campaign.files() {
        let record =
            Database::open(&campaign.out().join(file)).unwrap().records().unwrap().next().unwrap().unwrap().record;
        let of_known: Vec<_> = record.syscalls[0].processes.iter().filter(|process| process.name == "known").collect();
        let nodes: Vec<_> = of_known.iter().map(|process| process.node).collect();
        assert_eq!(nodes, [Some(NodeId::client(1)), Some(NodeId::client(2))]);
        of_known.into_iter().for_each(assert_known);
        let value =
            |name: &str| record.metrics.iter().find(|metric| metric.name == name).and_then(|metric| metric.value);
        assert!(value("syscalls").is_some_and(|calls| calls >= 1017.0));
    }
    let merged = campaign.out().join("merged.db");
    let mut merge = campaign.command(&["merge", "-o"]);
    merge.arg(&merged).args(campaign.files().iter().map(|file| campaign.out().join(file)));
    assert!(merge.output().unwrap().status.success());
    // Other tests keep this host busy, and the clients may begin too far apart.
    let mut analyze = campaign.command(&[
        "analyze",
        "--syscalls",
        "--baseline",
        "round=1",
        "--include",
        "suspect",
        "--format",
        "json",
    ]);
    let analysed = said(analyze.arg("--db").arg(&merged).output().unwrap());
    let json: serde_json::Value = serde_json::from_str(&analysed.out).unwrap_or_else(|_| panic!("{}", analysed.err));
    let rows: Vec<_> = json["rows"].as_array().unwrap().iter().filter(|row| row["process"] == "client known").collect();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row["determinism"]["verdict"] == "identical"));
    assert_eq!((&rows[1]["divergence"]["bits"], &rows[1]["divergence"]["p"]), (&0.0.into(), &1.0.into()));
}

#[test]
fn losses_make_an_iteration_suspect() {
    let directory = tempfile::tempdir().unwrap();
    let Some(known) = known(directory.path()).filter(|_| bpf()) else { return };
    let campaign = in_namespaces(&known, "[instrument.syscalls]\ncalls = 3");
    let _ = campaign.command(&["run"]).output().unwrap();
    for (_, _, status, reasons) in campaign.outcomes() {
        assert!(
            status == "suspect" && reasons.contains("the tracer of system calls lost 0 calls"),
            "{status} {reasons}"
        );
    }
}

/// What perf cannot say of the known program: kinds of descriptors.
pub(crate) fn assert_known_by_perf(process: &SyscallProcess) {
    assert_eq!(counts(process), KNOWN);
    assert_eq!((process.threads, process.calls), (1, 1017));
    assert_eq!(process.transitions.iter().map(|step| step.count).sum::<u64>(), 1017);
    assert!(process.sizes.iter().all(|sizes| sizes.kind == DescriptorKind::Unknown));
    let size = |call: &str| {
        let found = process.sizes.iter().find(|sizes| sizes.call == call);
        found.map(|sizes| (sizes.count, sizes.bytes, sizes.most, sizes.zero))
    };
    assert_eq!((size("write"), size("read")), (Some((5, 314, 100, 0)), Some((4, 364, 100, 0))));
    let read = process.by_call.iter().find(|call| call.name == "read").unwrap();
    assert_eq!((read.errors, read.by_error.as_slice()), (2, &[(9, 2)][..]));
}

#[test]
fn perf_counts_what_bpf_counts() {
    let directory = tempfile::tempdir().unwrap();
    let Some(known) = known(directory.path()).filter(|_| bpf()) else { return };
    let known = known.to_str().unwrap();
    let script = format!("for i in 1 2 3; do (setsid {known} & wait) & {known}; done; wait");
    for command in [&[known][..], &["sh", "-c", &script]] {
        let [by_bpf, by_perf] = ["bpf", "perf"].map(|source| trace(&["--source", source], command));
        assert_eq!((by_perf.source, by_perf.lost()), (SyscallSource::Perf, 0));
        let [ours, theirs] = [&by_perf, &by_bpf].map(|trace| process(trace, "known"));
        assert_eq!((ours.threads, ours.sequence, counts(ours)), (theirs.threads, theirs.sequence, counts(theirs)));
        assert_eq!(ours.transitions, theirs.transitions);
        if command.len() == 1 {
            assert_known_by_perf(ours);
        }
    }
}

#[test]
fn a_ring_of_perf_that_is_too_small_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let Some(known) = known(directory.path()).filter(|_| bpf()) else { return };
    let cut = trace(&["--source", "perf", "--room", "ring=4096"], &[known.to_str().unwrap()]);
    let begun: u64 = cut.losses.iter().map(|loss| loss.begun).sum();
    assert!(begun > 0, "{cut:?}");
    let found = cut.processes.iter().find(|process| process.name == "known").map_or(0, |process| process.calls);
    assert!(found < 1017);
}
