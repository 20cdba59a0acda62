//! Kernels and machines on which system calls cannot be followed, or not all of them: each says why, none says zero.
//!
//! Mounts that only the program under test sees take away what the kernel offers; a seccomp filter refuses calls, as the
//! profiles of containers do.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vptest::ids::NodeId;
use vptest::instrument::syscalls::{Options, Tracer, Workload, metrics, read_log};
use vptest::record::{DescriptorKind, IterationRecord, SyscallScope, SyscallSource, SyscallTrace};
use vptest::store::Database;

use crate::campaign::{Campaign, VPTEST, said};
use crate::need::program;
use crate::syscalls::{bpf, counts, known, process};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/syscalls");

/// The tracepoints are not there, whether tracefs is mounted here or not.
const NO_TRACEPOINTS: &str = "mount -t tmpfs none /sys/kernel/tracing; mkdir /sys/kernel/tracing/events";
const NO_TRACEFS: &str = "umount -R /sys/kernel/tracing 2>/dev/null || :; umount -R /sys/kernel/debug 2>/dev/null || :";
const NO_TYPES: &str = "mount -t tmpfs none /sys/kernel/btf";

fn built(directory: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let target = directory.join(name);
    let source = format!("{SOURCES}/{name}.c");
    assert!(Command::new("cc").args(flags).arg("-o").arg(&target).arg(source).status().unwrap().success());
    target
}

/// The same command where these mounts were made before; nobody else sees them.
fn where_mounted(mounts: &str, command: &Command) -> Output {
    let mut apart = Command::new("unshare");
    apart.args(["--mount", "--", "sh", "-ec", &format!("{mounts}\nexec \"$@\""), "sh"]);
    apart.arg(command.get_program()).args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        apart.current_dir(directory);
    }
    apart.output().unwrap()
}

/// The same command without these system calls.
fn without(directory: &Path, calls: &[i64], command: &Command) -> Output {
    let mut refused = Command::new(built(directory, "refuse", &["-O1"]));
    refused.args(calls.iter().map(ToString::to_string)).arg("--");
    refused.arg(command.get_program()).args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        refused.current_dir(directory);
    }
    refused.output().unwrap()
}

fn able() -> bool {
    bpf() && program("unshare") && program("mount") && program("cc")
}

fn trace_by(source: &str, command: &[&str]) -> Command {
    let mut trace = Command::new(VPTEST);
    trace.args(["trace", "--source", source, "--"]).args(command);
    trace
}

/// It says this, and has no row.
fn assert_refused(output: &Output, reason: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains(reason), "{reason}: {text}");
    assert!(output.stdout.is_empty(), "no row of zeros");
}

fn traced(output: &Output) -> (SyscallTrace, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {text}")), text)
}

/// One iteration in which the clients of two pairs, which share the kernel, run this program.
fn iteration(client: &Path, instrument: &str) -> Campaign {
    Campaign::planned(&format!(
        "name = \"calls\"\nrepetitions = 1\n[factors]\ntestbed = \"netns\"\npairs = 2\n\
         [workload]\npreset = \"command\"\nclient = [{:?}]\n\
         [verify]\nforeign_cpu = \"off\"\nsteal = \"off\"\nclient_cpu = \"off\"\n{instrument}\n",
        client.to_str().unwrap()
    ))
}

fn record(campaign: &Campaign) -> IterationRecord {
    let file = campaign.out().join(&campaign.files()[0]);
    Database::open(&file).unwrap().records().unwrap().next().unwrap().unwrap().record
}

/// Status and reasons of the only iteration.
fn outcome(campaign: &Campaign) -> (String, String) {
    let (_, _, status, reasons) = campaign.outcomes().remove(0);
    (status, reasons)
}

fn says(record: &IterationRecord, what: &str) -> bool {
    record.events.iter().any(|event| event.text.contains(what))
}

fn nodes_of_known(record: &IterationRecord) -> Vec<Option<NodeId>> {
    let processes = &record.syscalls[0].processes;
    processes.iter().filter(|process| process.name == "known").map(|process| process.node).collect()
}

#[test]
fn without_the_kernels_types_kinds_and_nodes_are_unknown_and_it_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let Some(known) = known(directory.path()).filter(|_| able()) else { return };
    let campaign = iteration(&known, "[instrument.syscalls]\nsource = \"bpf\"");
    let ran = said(where_mounted(NO_TYPES, &campaign.command(&["run"])));
    assert_eq!(ran.code, Some(0), "{} {:?}", ran.err, campaign.outcomes());
    let record = record(&campaign);
    assert!(says(&record, "the kernel does not describe its types (/sys/kernel/btf/vmlinux)"), "{:?}", record.events);
    assert_eq!(nodes_of_known(&record), [None]);
    let trace = &record.syscalls[0];
    let known = process(trace, "known");
    assert_eq!((trace.source, trace.lost(), known.threads, known.calls), (SyscallSource::Bpf, 0, 2, 2 * 1017));
    assert!(known.sizes.iter().all(|sizes| sizes.kind == DescriptorKind::Unknown) && !known.sizes.is_empty());
    assert!(record.metrics.iter().all(|metric| metric.name != "syscalls"), "no node has an unknown node's calls");
}

#[test]
fn where_bpf_is_refused_perf_tells_nodes_apart_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let Some(known) = known(directory.path()).filter(|_| able()) else { return };
    let campaign = iteration(&known, "[instrument]\nsyscalls = true");
    let ran = said(without(directory.path(), &[libc::SYS_bpf], &campaign.command(&["run"])));
    assert_eq!(ran.code, Some(0), "{} {:?}", ran.err, campaign.outcomes());
    let record = record(&campaign);
    assert!(says(&record, "followed by perf (bpf: "), "{:?}", record.events);
    assert_eq!((record.syscalls[0].source, record.syscalls[0].lost()), (SyscallSource::Perf, 0));
    assert_eq!(nodes_of_known(&record), [Some(NodeId::client(1)), Some(NodeId::client(2))]);
}

#[test]
fn where_both_are_refused_the_outcome_has_both_reasons() {
    let directory = tempfile::tempdir().unwrap();
    let Some(known) = known(directory.path()).filter(|_| able()) else { return };
    let campaign = iteration(&known, "[instrument]\nsyscalls = true");
    let calls = [libc::SYS_bpf, libc::SYS_perf_event_open];
    let ran = said(without(directory.path(), &calls, &campaign.command(&["run"])));
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let (status, reasons) = outcome(&campaign);
    assert_eq!(status, "invalid", "{reasons}");
    let parts = ["the tracer of system calls never ran", "bpf: ", "perf: perf_event_open", "not permitted"];
    assert!(parts.iter().all(|part| reasons.contains(part)), "{reasons}");
    let record = record(&campaign);
    assert!(record.syscalls.is_empty() && record.metrics.iter().all(|metric| metric.name != "syscalls"));
}

#[test]
fn each_thing_that_perf_lacks_has_a_name() {
    if !able() || !program("setpriv") {
        return;
    }
    let perf = trace_by("perf", &["true"]);
    let reason = "the kernel has no tracepoint raw_syscalls:sys_enter (/sys/kernel/tracing/events/";
    assert_refused(&where_mounted(NO_TRACEPOINTS, &perf), reason);

    let mut weak = Command::new("setpriv");
    weak.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--", VPTEST]);
    weak.args(["trace", "--node", "--source", "perf", "--", "true"]);
    assert_refused(&where_mounted(NO_TRACEFS, &weak), "no tracefs: not mounted, and mounting it fails");

    let list = |text: &str| {
        format!(
            "mount -t tmpfs none /mnt; echo {text} > /mnt/list; mount --bind /mnt/list /sys/devices/system/cpu/online"
        )
    };
    assert_refused(&where_mounted(&list("0-100000"), &perf), "is no list of CPUs");
    assert_refused(&where_mounted(&list("0,9999"), &perf), "perf_event_open on CPU 9999");

    // Mounted nowhere, tracefs is mounted where nobody sees it.
    let (trace, _) = traced(&where_mounted(NO_TRACEFS, &perf));
    assert!(trace.calls() > 0 && trace.lost() == 0);
}

#[test]
fn a_process_that_is_gone_is_no_zero() {
    if !bpf() {
        return;
    }
    let mut gone = Command::new("true").spawn().unwrap();
    let starter = i32::try_from(gone.id()).unwrap();
    gone.wait().unwrap();
    // No PID namespace has this inode.
    let options = Options::here(SyscallScope::Workload, Some(Workload { device: 4, inode: 1, starter }));
    let error = Tracer::start(Options { source: Some(SyscallSource::Perf), ..options.clone() }).err().unwrap();
    assert!(error.to_string().contains("No such process"), "{error}");
    let trace = Tracer::start(options).unwrap().stop().unwrap();
    assert!(trace.processes.is_empty() && metrics(&[trace]).is_empty());
}

#[test]
fn a_hundred_thousand_threads_are_counted_or_what_was_lost_is() {
    const THREADS: u64 = 100_000;
    let directory = tempfile::tempdir().unwrap();
    if !able() {
        return;
    }
    let threads = built(directory.path(), "threads", &["-static", "-nostdlib", "-O1"]);
    for source in ["bpf", "perf"] {
        let command = [threads.to_str().unwrap(), &THREADS.to_string()];
        let (trace, _) = traced(&trace_by(source, &command).output().unwrap());
        let process = process(&trace, "threads");
        let calls: u64 = counts(process).iter().filter(|(name, _)| *name != "futex").map(|(_, calls)| calls).sum();
        let (expected, lost) = (3 * THREADS + 1, trace.losses.iter().map(|loss| loss.begun).sum::<u64>());
        if lost == 0 {
            assert_eq!((process.threads, calls), (THREADS + 1, expected), "{source}");
            for call in ["clone", "exit", "getppid"] {
                assert!(counts(process).contains(&(call, THREADS)), "{source}: {call}");
            }
        } else {
            eprintln!("{source} lost {lost}");
            assert!(calls < expected && calls + lost >= expected, "{source}: {calls} and {lost} lost");
        }
    }
}

#[test]
fn a_log_that_lacks_calls_makes_the_iteration_suspect() {
    let directory = tempfile::tempdir().unwrap();
    let Some(known) = known(directory.path()).filter(|_| bpf()) else { return };
    let campaign = iteration(&known, "[instrument.syscalls]\nsource = \"bpf\"\nlog = true\nring = \"4 KiB\"");
    assert_eq!(said(campaign.command(&["run"]).output().unwrap()).code, Some(0), "only suspect");
    let record = record(&campaign);
    let trace = &record.syscalls[0];
    let lost: u64 = trace.losses.iter().map(|loss| loss.logged).sum();
    let there = read_log(&campaign.out().join(trace.log.as_ref().unwrap())).unwrap().len() as u64;
    assert!(lost > 0);
    assert_eq!((there + lost, trace.lost()), (trace.calls(), lost), "only the log lacks something");
    let (status, reasons) = outcome(&campaign);
    assert!(status == "suspect" && reasons.contains(&format!("{lost} log entries")), "{status} {reasons}");
}

#[test]
fn a_ring_of_perf_that_loses_makes_the_iteration_suspect() {
    let directory = tempfile::tempdir().unwrap();
    let Some(known) = known(directory.path()).filter(|_| bpf()) else { return };
    let campaign = iteration(&known, "[instrument.syscalls]\nsource = \"perf\"\nring = \"4 KiB\"");
    assert_eq!(said(campaign.command(&["run"]).output().unwrap()).code, Some(0), "only suspect");
    let lost: u64 = record(&campaign).syscalls[0].losses.iter().map(|loss| loss.begun).sum();
    let (status, reasons) = outcome(&campaign);
    assert!(lost > 0 && status == "suspect", "{status} {reasons}");
    assert!(reasons.contains(&format!("the tracer of system calls lost {lost} calls")), "{reasons}");
}

#[test]
fn perf_that_is_asked_for_tells_nodes_apart() {
    let directory = tempfile::tempdir().unwrap();
    let Some(known) = known(directory.path()).filter(|_| bpf()) else { return };
    let campaign = iteration(&known, "[instrument.syscalls]\nsource = \"perf\"");
    let ran = said(campaign.command(&["run"]).output().unwrap());
    assert_eq!(ran.code, Some(0), "{}{:?}", ran.err, campaign.outcomes());
    let record = record(&campaign);
    assert!(says(&record, "system calls are followed by perf: every call"), "{:?}", record.events);
    assert_eq!(nodes_of_known(&record), [Some(NodeId::client(1)), Some(NodeId::client(2))]);
    for process in record.syscalls[0].processes.iter().filter(|process| process.name == "known") {
        crate::syscalls::assert_known_by_perf(process);
    }
    let values =
        record.metrics.iter().filter(|metric| metric.name == "syscalls").map(|metric| (metric.node, metric.value));
    let clients: Vec<_> = values.filter(|(node, _)| *node == Some(NodeId::client(1))).collect();
    assert!(matches!(clients[..], [(_, Some(calls))] if calls >= 1017.0), "{clients:?}");
}
