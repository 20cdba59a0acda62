//! Machines, namespaces and captures.

use std::path::{Path, PathBuf};

use tokio::time::Instant;
use vptest::testbed::minimega::capture::{self, Options, Point};
use vptest::testbed::minimega::machine::{self, Boot, Kind, Nic, Plan, State};
use vptest::testbed::minimega::{MinimegaError, Namespace, Owner};

use super::double::{Double, Traps};
use super::{open, owner, text};

pub(super) fn plan(name: &str, boot: Boot) -> Plan {
    let kind = Kind::Kvm { boot, qemu: None, cpu: None, ports: vec![], snapshot: true, console: None, results: vec![] };
    let mac = "52:54:00:00:01:01".to_owned();
    let nics = vec![Nic { bridge: None, vlan: "LAN".to_owned(), mac, driver: Some("e1000".to_owned()) }];
    Plan { name: name.to_owned(), kind, memory_mib: 256, vcpus: 1, nics }
}

/// A disk that is there.
pub(super) fn disk() -> Boot {
    Boot::Disk(env!("CARGO_MANIFEST_DIR").to_owned() + "/Cargo.toml")
}

pub(super) fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

async fn namespace(double: &Double) -> Namespace {
    open(double).await.fresh_namespace(&owner()).await.unwrap()
}

/// Machines `a` and `b`, running.
pub(super) async fn running(double: &Double) -> Namespace {
    let namespace = namespace(double).await;
    machine::launch(&namespace, &[plan("a", disk()), plan("b", disk())]).await.unwrap();
    machine::start(&namespace, &names(&["a", "b"])).await.unwrap();
    namespace
}

#[tokio::test]
async fn machines_are_found_whatever_the_order_of_columns_and_rows() {
    for turned in [false, true] {
        let double = Double::start(Traps { turned, ..Traps::default() });
        let namespace = namespace(&double).await;
        let launched = machine::launch(&namespace, &[plan("a", disk()), plan("b", disk())]).await.unwrap();
        assert_eq!(launched.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(
            (launched[1].taps.as_slice(), &launched[1].state),
            (&["mega_tap9000001".to_owned()][..], &State::Building)
        );
        assert_eq!(launched[0].cards[0].driver, "e1000");
        let started = machine::start(&namespace, &names(&["b", "a"])).await.unwrap();
        assert!(started.iter().all(|machine| machine.state == State::Running));
    }
}

#[tokio::test]
async fn a_launch_that_failed_without_a_word_is_found() {
    let double = Double::start(Traps::default());
    let namespace = namespace(&double).await;
    let error =
        machine::launch(&namespace, &[plan("a", disk()), plan("b", Boot::Disk("/nosuch.qcow2".to_owned()))]).await;
    assert_eq!(
        text(&error.unwrap_err()),
        "machine b: it is ERROR and not BUILDING: unable to snapshot /nosuch.qcow2: no such file"
    );
    // A container without a file system is not even in the table.
    let answer = namespace.run(&["vm", "launch", "container", "c"]).await;
    answer.unwrap();
    let error = machine::in_state(&namespace, &names(&["c"]), &State::Building).await.unwrap_err();
    assert!(text(&error).starts_with("machine c: minimega has no such machine"), "{error}");
    // The directory of `b` is one that minimega would leave.
    let failures = namespace.remove().await;
    assert!(failures.is_empty(), "{failures:?}");
    assert!(["0", "1"].iter().all(|id| !double.shared.directory.join(id).exists()));
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused() {
    let double = Double::start(Traps::default());
    let namespace = running(&double).await;
    let error = machine::launch(&namespace, &[plan("a", disk())]).await.unwrap_err();
    assert!(text(&error).ends_with("vm already exists with name `a`"), "{error}");
}

#[tokio::test]
async fn configurations_of_two_launches_are_not_mixed() {
    let double = Double::start(Traps::default());
    let namespace = namespace(&double).await;
    double.traps(|traps| traps.slow = std::time::Duration::from_millis(5));
    let mut other = plan("b", disk());
    other.nics[0].driver = Some("virtio-net-pci".to_owned());
    let (first, second) = ([plan("a", disk())], [other]);
    let (a, b) = tokio::join!(machine::launch(&namespace, &first), machine::launch(&namespace, &second));
    assert_eq!(
        (a.unwrap()[0].cards[0].driver.as_str(), b.unwrap()[0].cards[0].driver.as_str()),
        ("e1000", "virtio-net-pci")
    );
}

#[tokio::test]
async fn only_namespaces_of_this_user_are_removed_and_of_these_only_the_campaigns_found() {
    let double = Double::start(Traps::default());
    let daemon = open(&double).await;
    let own = running(&double).await;
    std::fs::create_dir_all(own.files().join("miniccc_responses")).unwrap();
    let other = Owner::of(Path::new("/another/campaign"));
    let theirs = daemon.fresh_namespace(&other).await.unwrap();
    let uid = nix::unistd::geteuid().as_raw();
    let foreign = theirs.name().replacen(&format!("-{uid}-"), &format!("-{}-", uid + 1), 1);
    for name in ["exp1", theirs.name(), &foreign] {
        daemon.namespace(name).unwrap().run(&["echo", "a"]).await.unwrap();
    }
    assert_eq!(daemon.namespaces_of(&owner()).await.unwrap(), [own.name()]);
    assert_eq!(daemon.namespaces_of(&other).await.unwrap(), [theirs.name()]);
    for name in ["exp1", &foreign] {
        let refused = daemon.namespace(name).unwrap().remove().await;
        assert!(matches!(refused.as_slice(), [MinimegaError::Unsendable { .. }]), "{refused:?}");
    }
    for namespace in [&theirs, &own] {
        let failures = namespace.remove().await;
        assert!(failures.is_empty(), "{failures:?}");
    }
    assert!(!own.files().exists(), "minimega leaves the files");
    let mut left = daemon.namespaces().await.unwrap();
    left.sort();
    let mut expected = vec!["minimega".to_owned(), "exp1".to_owned(), foreign];
    expected.sort();
    assert_eq!(left, expected);
}

pub(super) fn points(double: &Double) -> Vec<Point> {
    let point = |machine: &str| Point {
        machine: machine.to_owned(),
        card: 0,
        file: double.shared.directory.join(format!("{machine}.pcap")),
    };
    vec![point("a"), point("b")]
}

pub(super) fn options() -> Options {
    Options { snaplen: 200, filter: None }
}

/// Sees a packet now.
pub(super) fn traffic(double: &Double, namespace: &Namespace) -> Instant {
    double.state().namespaces.get_mut(namespace.name()).unwrap().traffic = Some(std::time::Instant::now());
    Instant::now()
}

#[tokio::test]
async fn captures_are_stopped_together_and_after_their_tail() {
    let double = Double::start(Traps::default());
    let namespace = running(&double).await;
    // Options of an earlier capture stay.
    namespace.run(&["capture", "pcap", "filter", "icmp"]).await.unwrap();
    let running = capture::start(&namespace, &options(), points(&double)).await.unwrap();
    assert_eq!(double.state().namespaces[namespace.name()].bpf, "");
    let last = traffic(&double, &namespace);
    let captured = running.stop(last).await.unwrap();
    assert_eq!(captured.iter().map(|captured| captured.bytes).collect::<Vec<_>>(), [84, 84]);
}

#[tokio::test]
async fn a_capture_that_lost_everything_is_no_capture() {
    let double = Double::start(Traps::default());
    let namespace = running(&double).await;
    let running = capture::start(&namespace, &options(), points(&double)).await.unwrap();
    // The last packet comes later than is said, so that it does not reach the file.
    let said = Instant::now() - capture::TAIL;
    traffic(&double, &namespace);
    let error = running.stop(said).await.unwrap_err();
    assert_eq!(text(&error), "capture of a: it has seen no packet");
}

#[tokio::test]
async fn captures_are_never_added_to_others() {
    let double = Double::start(Traps::default());
    let namespace = running(&double).await;
    let running = capture::start(&namespace, &options(), points(&double)).await.unwrap();
    let error = capture::start(&namespace, &options(), points(&double)).await.unwrap_err();
    assert!(text(&error).starts_with("capture of all: 2 are running already"), "{error}");
    // Somebody else stops one and starts another, which gets the number of the third.
    namespace.run(&["capture", "pcap", "delete", "vm", "a"]).await.unwrap();
    namespace.run(&["capture", "pcap", "vm", "a", "0", "x.pcap"]).await.unwrap();
    let last = traffic(&double, &namespace);
    let error = running.stop(last).await.unwrap_err();
    assert!(text(&error).contains("unknown capture ID: 1"), "{error}");
}

#[tokio::test]
async fn a_capture_that_cannot_start_leaves_none_running() {
    let double = Double::start(Traps::default());
    let namespace = running(&double).await;
    // An expression is looked at only when a capture starts.
    let bad = Options { filter: Some("nonsense".to_owned()), ..options() };
    let error = capture::start(&namespace, &bad, points(&double)).await.unwrap_err();
    assert!(text(&error).ends_with("syntax error in filter"), "{error}");
    let mut unknown = points(&double);
    unknown.push(Point { machine: "nope".to_owned(), card: 0, file: PathBuf::from("/x.pcap") });
    let error = capture::start(&namespace, &options(), unknown).await.unwrap_err();
    assert!(text(&error).ends_with("vm not found: nope"), "{error}");
    assert_eq!(namespace.rows(&["capture"], &["path"]).await.unwrap(), []);
    let relative = vec![Point { machine: "a".to_owned(), card: 0, file: PathBuf::from("a.pcap") }];
    assert!(capture::start(&namespace, &options(), relative).await.is_err());
    let nothing = Options { snaplen: 0, filter: None };
    assert!(capture::start(&namespace, &nothing, points(&double)).await.is_err());
}
