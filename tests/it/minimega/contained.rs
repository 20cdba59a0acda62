//! The testbed `minimega-container` with real containers of the double: what runs in them is vptest's agent and ApacheBench.

use std::path::Path;
use std::time::Duration;

use vptest::spec::{MinimegaSpec, TestbedSpec, Tuple};
use vptest::testbed::minimega::MinimegaContainer;
use vptest::testbed::{Instance, Notice, Request, Testbed as _, TestbedError};

use super::{Process, double_container, until};
use crate::campaign::{Campaign, VPTEST, said};
use crate::need::{self, need};
use crate::qemu::{cache, databases, only, outcome};

/// minimega's containers need cgroups of version 1, and so do the double's.
pub(super) fn containers() -> bool {
    let cgroups = ["cpu", "devices", "freezer", "memory"];
    let there = cgroups.iter().all(|name| Path::new("/sys/fs/cgroup").join(name).join("tasks").exists());
    need::root()
        && ["unshare", "nsenter", "setpriv", "chroot", "mount", "ip", "tc", "ab"].into_iter().all(need::program)
        && need("cgroup1", there)
}

fn sweep(double: &Process, factors: &str, more: &str) -> Campaign {
    sweep_with(double, factors, "timeout = \"120 s\"", "", more)
}

/// The same with lines at the beginning, and in `[testbed.minimega]`.
pub(super) fn sweep_with(double: &Process, factors: &str, begin: &str, testbed: &str, more: &str) -> Campaign {
    // Other tests keep this host busy.
    Campaign::planned(&format!(
        "name = \"containers\"\nrepetitions = 1\n{begin}\norder = \"sequential\"\n\n\
         [factors]\ntestbed = \"minimega-container\"\n{factors}\n\n[workload]\npreset = \"ab\"\n\n\
         [testbed.minimega]\nsocket = \"{}\"\n{testbed}\n\n\
         [verify]\nforeign_cpu = \"off\"\nsteal = \"off\"\nclient_cpu = \"off\"\n{more}\n",
        double.socket().display()
    ))
}

const SMALL: &str = "request = { url = \"/image.png?size=200kB\", count = 50 }";

#[tokio::test]
async fn a_whole_iteration_in_containers() {
    if !containers() {
        return;
    }
    let double = Process::with_containers("").await;
    let factors = "pairs = 2\nvcpus = 2\nmemory = \"200 MiB\"\noffload = \"off\"\nmtu = 1400\nrate = \"50 Mbit/s\"";
    // A model of a network card means nothing here: the two tuples are one.
    let factors = format!("{factors}\ndriver = [\"e1000\", \"virtio-net-pci\"]\npinning = true\n{SMALL}");
    let syscalls =
        if need("bpf", Path::new("/sys/kernel/btf/vmlinux").exists()) { "[instrument.syscalls]\n" } else { "" };
    let campaign = sweep(&double, &factors, &format!("[capture]\nvantage = [\"guest\", \"host\"]\n{syscalls}"));
    let ran = said(campaign.command(&["run"]).env("VPTEST_CACHE", cache()).output().unwrap());
    assert_eq!(ran.code, Some(0), "{}{}{:?}", ran.out, ran.err, campaign.outcomes());
    assert_eq!(campaign.statuses(), ["complete"], "{:?}", campaign.outcomes());
    let db = databases(&campaign).remove(0);
    // Every setting was read from the kernel, before and after the workload, for two pairs.
    assert_in_force(&db, "2", 8);
    let pinned = "SELECT count(DISTINCT observed) FROM setting WHERE name = 'container_cpus' AND ok = 1";
    assert!(only::<i64>(&db, pinned) >= 1);
    // What is seen in a container and at the other end of its link is the same.
    assert_eq!(only::<i64>(&db, "SELECT count(*) FROM capture WHERE packets > 20 AND dropped_kernel = 0"), 8);
    for node in ["client1", "server1", "client2", "server2"] {
        let of =
            |what: &str| only::<i64>(&db, &format!("SELECT count(DISTINCT {what}) FROM capture WHERE node = '{node}'"));
        assert_eq!((of("packets"), of("bytes"), of("vantage")), (1, 1, 2), "{node}");
    }
    assert_eq!(
        only::<i64>(&db, "SELECT count(*) FROM metric WHERE name = 'rps' AND value > 0 AND pair IS NOT NULL"),
        2
    );
    if !syscalls.is_empty() {
        // Neither the agents nor anything beside the containers.
        let names = "SELECT group_concat(DISTINCT name ORDER BY name) FROM syscall_process";
        assert_eq!(only::<String>(&db, names), "ab,vptest");
    }
    let id = "SELECT value FROM environment WHERE name = 'image.base_id'";
    assert_eq!(only::<String>(&db, id).len(), 16);
    campaign.assert_clean();
    assert!(double_container::running(double.place.path()).is_empty());
    assert_eq!(double_container::cgroups(double.child.id()), [] as [&Path; 0]);
}

pub(super) fn testbed(double: &Process, filesystem: Option<String>) -> MinimegaContainer {
    let socket = Some(double.socket().to_string_lossy().into_owned());
    let minimega = MinimegaSpec { socket, filesystem, ..MinimegaSpec::default() };
    MinimegaContainer::with_cache(&TestbedSpec { minimega, ..TestbedSpec::default() }, cache())
}

pub(super) fn request(campaign: &Path) -> Request {
    let scratch = campaign.join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    Request {
        tuple: Tuple::default(),
        number: 1,
        attempt: 1,
        scratch,
        campaign: campaign.to_owned(),
        vptest: VPTEST.into(),
        programs: vec!["ab".to_owned()],
        notice: Notice::default(),
    }
}

async fn failure(testbed: &MinimegaContainer, campaign: &Path) -> TestbedError {
    let error = testbed.launch(&request(campaign)).await.err().expect("it cannot come up");
    assert!(!campaign.join(".minimega").exists(), "{error}");
    error
}

/// The directory that vptest makes, without vptest.
pub(super) fn own_filesystem() -> tempfile::TempDir {
    let made = vptest::image::build_root_until(&crate::qemu::wanted(), &vptest::image::Stop::default(), &mut |_| {});
    let own = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(made.unwrap().path.join(".")).arg(own.path()).status();
    assert!(copied.unwrap().success());
    std::fs::remove_file(own.path().join("bin/vptest")).unwrap();
    own
}

#[tokio::test]
async fn a_filesystem_of_ones_own_gets_the_agent_from_beside() {
    if !containers() {
        return;
    }
    let (double, campaign) = (Process::with_containers("").await, tempfile::tempdir().unwrap());
    let own = own_filesystem();
    let testbed = testbed(&double, Some(own.path().to_string_lossy().into_owned()));
    testbed.preflight(&request(campaign.path())).await.unwrap();
    std::fs::remove_dir(campaign.path().join("scratch")).unwrap();
    assert_eq!(testbed.base_id(&request(campaign.path())).await.unwrap(), None);
    std::fs::remove_dir(campaign.path().join("scratch")).unwrap();
    let mut up = testbed.launch(&request(campaign.path())).await.unwrap();
    let client = &up.pairs()[0].client;
    assert_eq!(client.vptest(), "/.vptest/vptest");
    assert!(client.exists("/etc/passwd").await.unwrap() && !client.exists("/bin/vptest").await.unwrap());
    assert_eq!(up.teardown().await.left, Vec::<String>::new());
    assert!(!own.path().join(".vptest").exists(), "it was written to");
}

#[tokio::test]
async fn what_cannot_be_launched_says_why() {
    if !containers() {
        return;
    }
    let (double, campaign) = (Process::with_containers("").await, tempfile::tempdir().unwrap());
    // An overlay needs a directory below it.
    let file = campaign.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = failure(&testbed(&double, Some(file.to_string_lossy().into_owned())), campaign.path()).await;
    assert!(matches!(error, TestbedError::Guest { .. }), "{error:?}");
    assert_eq!(error.to_string(), "client1: it is ERROR and not BUILDING: overlayMount: exit status 32");
    std::fs::remove_dir_all(campaign.path().join("scratch")).unwrap();
    let preflight = testbed(&double, Some("/no/such".to_owned())).preflight(&request(campaign.path())).await;
    assert_eq!(preflight.unwrap_err().to_string(), "minimega sees no directory /no/such");
    std::fs::remove_dir_all(campaign.path().join("scratch")).unwrap();
    // Its first process ends: nothing in it can start the agent.
    let empty = tempfile::tempdir().unwrap();
    let error = failure(&testbed(&double, Some(empty.path().to_string_lossy().into_owned())), campaign.path()).await;
    let text = error.to_string();
    assert!(matches!(error, TestbedError::Guest { .. }), "{text}");
    assert!(text.contains("minimega says that it is ERROR (killed container: exit status "), "{text}");
    assert!(double_container::running(double.place.path()).is_empty());
    assert_eq!(double_container::cgroups(double.child.id()), [] as [&Path; 0]);
}

#[tokio::test]
async fn without_cgroups_of_version_1_the_host_cannot_run_it() {
    if !containers() {
        return;
    }
    let double = Process::with_containers("mount -t tmpfs none /sys/fs/cgroup").await;
    let campaign = tempfile::tempdir().unwrap();
    let error = testbed(&double, None).preflight(&request(campaign.path())).await.unwrap_err();
    assert!(matches!(error, TestbedError::Unsupported { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("cgroups of version 1") && text.contains("cpu, devices, freezer, memory"), "{text}");
    assert!(error.hint().unwrap().contains("systemd.unified_cgroup_hierarchy=0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_vanishes_is_told_with_its_node() {
    if !containers() {
        return;
    }
    let (double, campaign) = (Process::with_containers("").await, tempfile::tempdir().unwrap());
    let mut up: Box<dyn Instance> = testbed(&double, None).launch(&request(campaign.path())).await.unwrap();
    let lost = up.lost().expect("containers can go");
    let server = up.own_processes()[1];
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let told = tokio::time::timeout(Duration::from_secs(60), lost).await.expect("nobody noticed");
    assert!(told.starts_with("server1: "), "{told}");
    assert!(told.ends_with("minimega says that it is ERROR (killed container: signal: killed)"), "{told}");
    assert_eq!(up.teardown().await.left, Vec::<String>::new());
    assert!(!campaign.path().join(".minimega").exists());
}

/// Both vptest and minimega are killed while the workload runs; the next run, or `vptest clean`, removes what they have left.
#[tokio::test(flavor = "multi_thread")]
async fn what_two_that_were_killed_have_left_is_removed() {
    if !containers() {
        return;
    }
    let mut double = Process::with_containers("").await;
    let request = "request = { url = \"/image.png?size=2MB\", count = 100000 }\nrate = \"10 Mbit/s\"";
    let campaign = sweep(&double, request, "");
    let mut run = campaign.command(&["run"]).env("VPTEST_CACHE", cache()).spawn().unwrap();
    let works = || double_container::running(double.place.path()).iter().any(|&pid| has_child(pid, "ab"));
    until("that ApacheBench runs in a container", works).await;
    run.kill().unwrap();
    run.wait().unwrap();
    double.end();
    let (place, number) = (double.place.path().to_owned(), double.child.id());
    assert!(!double_container::cgroups(number).is_empty());
    let clean = campaign.expect(0, &["clean"]);
    assert!(!clean.err.contains("left"), "{}", clean.err);
    assert!(double_container::running(&place).is_empty(), "{}{}", clean.out, clean.err);
    assert_eq!(double_container::cgroups(number), [] as [&Path; 0], "{}{}", clean.out, clean.err);
    assert!(!campaign.out().join(".minimega").exists());
    let machines = std::fs::read_dir(&place)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u64>().is_ok()));
    assert_eq!(machines.count(), 0);
    assert_eq!(outcome(&campaign).0, "interrupted");
}

/// Is there a process of that name in the PID namespace of this one?
pub(super) fn has_child(first: i32, name: &str) -> bool {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = namespace(&first.to_string());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.map(|entry| entry.file_name().to_string_lossy().into_owned()).any(|pid| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        comm.trim() == name && wanted.is_some() && namespace(&pid) == wanted
    })
}

/// Has the iteration found what small containers were asked for, so many times: at each node, before and after the workload?
pub(super) fn assert_in_force(db: &rusqlite::Connection, vcpus: &str, times: i64) {
    for (name, value) in [
        ("memory", "209715200"),
        ("vcpus", vcpus),
        ("mtu", "1400"),
        ("host.mtu", "1400"),
        ("tso", "off"),
        ("host.tso", "off"),
        ("host.rate", "50 Mbit/s"),
    ] {
        let asked = format!("SELECT count(*) FROM setting WHERE name = '{name}' AND observed = '{value}' AND ok = 1");
        assert_eq!(only::<i64>(db, &asked), times, "{name}");
    }
}
