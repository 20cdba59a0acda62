//! The testbed `minimega-container` with servers on another host of the mesh: containers of the double that are real, with a tunnel
//! between its two bridges that drops what it does not take. On either host they are this host's; what the other host is asked
//! is answered by programs that run here.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vptest::spec::{Tuple, Value};
use vptest::testbed::{Request, Testbed as _, TestbedError};

use super::contained::{assert_in_force, containers, has_child, own_filesystem, request, sweep_with, testbed};
use super::double::HERE;
use super::{Process, double_container, guest};
use crate::campaign::said;
use crate::qemu::{cache, databases, only, outcome};

/// What fits the packets of these tests, and what does not.
const WIDE: u32 = 1454;
const NARROW: u32 = 1380;

/// A filesystem with a miniccc.
fn filesystem() -> tempfile::TempDir {
    let own = own_filesystem();
    let miniccc = own.path().join("miniccc");
    std::fs::write(&miniccc, guest::MINICCC).unwrap();
    std::fs::set_permissions(&miniccc, PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("busybox", own.path().join("bin/base64")).unwrap();
    own
}

fn apart(campaign: &Path) -> Request {
    let factors = [("colocated", Value::Switch(false)), ("mtu", Value::Integer(1400))];
    let tuple = Tuple::new(factors.map(|(name, value)| (name.to_owned(), value)).into());
    let _ = std::fs::remove_dir_all(campaign.join("scratch"));
    Request { tuple, ..request(campaign) }
}

/// Nothing of vptest's is on either host.
fn assert_nothing_left(double: &Process) {
    let place = double.place.path();
    assert!(double_container::running(place).is_empty());
    assert_eq!(double_container::cgroups(double.child.id()), [] as [&Path; 0]);
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", double.child.id())).unwrap();
    assert!(!mounts.contains("megamount_"), "{mounts}");
    for files in [place.join("files"), place.join("hosts/kn2/files")] {
        let entries = std::fs::read_dir(&files).into_iter().flatten().flatten();
        let left: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn a_whole_iteration_on_two_hosts() {
    if !containers() {
        return;
    }
    let (double, own) = (Process::on_two_hosts(WIDE).await, filesystem());
    let factors = "colocated = \"off\"\nmemory = \"200 MiB\"\noffload = \"off\"\nmtu = 1400\nrate = \"50 Mbit/s\"\n\
                   request = { url = \"/image.png?size=200kB\", count = 5 }";
    let filesystem = format!("filesystem = \"{}\"", own.path().display());
    let more = "[capture]\nvantage = [\"guest\"]\n\n[instrument.counters]\ninterval = \"off\"\n";
    let campaign = sweep_with(&double, factors, "timeout = \"500 s\"", &filesystem, more);
    let ran = said(campaign.command(&["run"]).env("VPTEST_CACHE", cache()).output().unwrap());
    let (status, reasons) = outcome(&campaign);
    let reasons: Vec<String> = serde_json::from_str(&reasons).unwrap();
    // On a busy host, letters tell clocks only roughly, which is said.
    let roughly =
        reasons.iter().all(|reason| reason.starts_with("the clock of server1 against this host's is known to "));
    let is_well = (status.as_str(), ran.code) == ("complete", Some(0)) || (status == "suspect" && roughly);
    assert!(is_well, "{status}: {reasons:?} {}{}", ran.out, ran.err);
    let db = databases(&campaign).remove(0);
    // Of either host, before and after the workload.
    assert_in_force(&db, "1", 4);
    assert_eq!(only::<i64>(&db, "SELECT count(*) FROM setting WHERE ok = 0"), 0);
    assert_eq!(only::<i64>(&db, "SELECT count(*) FROM capture WHERE packets > 20 AND dropped_kernel = 0"), 2);
    assert_eq!(only::<i64>(&db, "SELECT count(*) FROM metric WHERE name = 'rps' AND value > 0"), 1);
    // The network stack of the one there is its own, the kernel is not.
    let of_server = |name: &str| {
        let asked = format!("SELECT count(*) FROM metric WHERE node = 'server1' AND name = '{name}' AND value > 0");
        only::<i64>(&db, &asked)
    };
    assert_eq!((of_server("TcpOutSegs"), of_server("ctxt")), (1, 0));
    assert_eq!(only::<i64>(&db, "SELECT count(*) FROM metric WHERE node IS NULL AND name = 'ctxt' AND value > 0"), 1);
    let fact = |name: &str| only::<String>(&db, &format!("SELECT value FROM environment WHERE name = '{name}'"));
    assert_eq!(fact("testbed.minimega.host_of_clients"), HERE);
    assert_eq!(fact("testbed.minimega.host_of_servers"), "kn2");
    assert_eq!(
        fact("testbed.minimega.full_packets"),
        "1400 bytes got through, unfragmented, in each direction in which smaller ones are answered"
    );
    let trips =
        "SELECT CAST(value AS INTEGER) FROM environment WHERE name = 'testbed.cc.round_trips' AND host = 'server1'";
    assert!(only::<i64>(&db, trips) > 1);
    campaign.assert_clean();
    assert_nothing_left(&double);
}

/// Small packets get through, so that nothing else would notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_that_is_too_small_for_the_mtu_is_found() {
    if !containers() {
        return;
    }
    let (double, own, campaign) = (Process::on_two_hosts(NARROW).await, filesystem(), tempfile::tempdir().unwrap());
    let testbed = testbed(&double, Some(own.path().to_string_lossy().into_owned()));
    let request = apart(campaign.path());
    testbed.preflight(&request).await.unwrap();
    let error = testbed.launch(&request).await.err().expect("full packets are dropped");
    assert!(matches!(error, TestbedError::Guest { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "client1: packets of 1400 bytes do not get from vm to kn2, smaller ones do: with mtu = 1400, the network between them \
         must take packets of 1446 bytes (choose a smaller `mtu`)"
    );
    assert!(!campaign.path().join(".minimega").exists());
    assert_nothing_left(&double);
}

#[tokio::test]
async fn what_another_host_cannot_provide_is_refused_before_anything_is_started() {
    if !containers() {
        return;
    }
    let (double, own, campaign) = (Process::on_two_hosts(WIDE).await, filesystem(), tempfile::tempdir().unwrap());
    let path = own.path().to_string_lossy().into_owned();
    let lacking = async |filesystem: &str| {
        let testbed = testbed(&double, Some(filesystem.to_owned()));
        let error = testbed.preflight(&apart(campaign.path())).await.unwrap_err();
        assert!(matches!(error, TestbedError::Unsupported { .. }) && error.hint().is_some(), "{error:?}");
        error.to_string()
    };
    // What differs there from here.
    let there = |path: &str| double.place.path().join("hosts/kn2/root").join(path.trim_start_matches('/'));
    std::fs::create_dir_all(there(&path).parent().unwrap()).unwrap();
    std::fs::write(there(&path), "a file").unwrap();
    let why = lacking(&path).await;
    assert_eq!(why, format!("containers on kn2 cannot start from {path}: it is a regular file"));
    std::fs::remove_file(there(&path)).unwrap();
    std::fs::remove_file(own.path().join("miniccc")).unwrap();
    let why = lacking(&path).await;
    assert_eq!(
        why,
        format!(
            "containers on kn2 cannot start from {path}: there is no /miniccc in it (`mesh send kn2 shell stat -c %F \
                 {path}/miniccc` failed: exit status 1)"
        )
    );
    std::fs::write(own.path().join("miniccc"), guest::MINICCC).unwrap();
    for controller in ["cpu", "memory"] {
        std::fs::create_dir_all(there(&format!("/sys/fs/cgroup/{controller}"))).unwrap();
    }
    let why = lacking(&path).await;
    assert!(why.starts_with("minimega's containers need cgroups of version 1 at /sys/fs/cgroup/cpu, "), "{why}");
    assert!(why.contains("and on kn2 they are not there ("), "{why}");
    assert_nothing_left(&double);
}

/// vptest is killed while the workload runs between the two hosts.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_that_was_killed_has_left_on_both_hosts_is_removed() {
    if !containers() {
        return;
    }
    let (double, own) = (Process::on_two_hosts(WIDE).await, filesystem());
    let factors = "colocated = \"off\"\nmtu = 1400\nrate = \"10 Mbit/s\"\n\
                   request = { url = \"/image.png?size=2MB\", count = 100000 }";
    let filesystem = format!("filesystem = \"{}\"", own.path().display());
    let campaign = sweep_with(&double, factors, "timeout = \"900 s\"", &filesystem, "");
    let mut run = campaign.command(&["run"]).env("VPTEST_CACHE", cache()).spawn().unwrap();
    let works = || double_container::running(double.place.path()).iter().any(|&pid| has_child(pid, "ab"));
    let begun = Instant::now();
    while !works() {
        assert_eq!(run.try_wait().unwrap(), None, "{:?}", campaign.outcomes());
        // vptest is sent to the one of them first.
        assert!(begun.elapsed() < Duration::from_secs(300), "ApacheBench runs in no container");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run.kill().unwrap();
    run.wait().unwrap();
    assert_eq!(double_container::running(double.place.path()).len(), 2);
    let clean = campaign.expect(0, &["clean"]);
    assert!(!clean.err.contains("left"), "{}", clean.err);
    assert_nothing_left(&double);
    assert!(!campaign.out().join(".minimega").exists());
    assert_eq!(outcome(&campaign).0, "interrupted");
}
