//! Captures of a namespace, and of several.

use vptest::testbed::minimega::capture::{self, Point};

use super::super::double::{Double, Traps};
use super::super::machines::{options, points, running, traffic};
use super::super::text;

/// A killed machine stays in the table of captures, and is stopped with the others.
#[tokio::test]
async fn a_capture_of_a_machine_that_has_gone_is_stopped_all_the_same() {
    let double = Double::start(Traps::default());
    let namespace = running(&double).await;
    let captures = capture::start(&namespace, &options(), points(&double)).await.unwrap();
    double.state().namespaces.get_mut(namespace.name()).unwrap().machines.retain(|machine| machine.name != "a");
    let last = traffic(&double, &namespace);
    assert_eq!(captures.stop(last).await.unwrap().len(), 2);
    assert_eq!(namespace.rows(&["capture"], &["path"]).await.unwrap(), []);
}

/// An existing file is cut to nothing by a capture without a word.
#[tokio::test]
async fn a_file_of_an_earlier_capture_does_not_pass_for_a_new_one() {
    let double = Double::start(Traps::default());
    let namespace = running(&double).await;
    let file = double.shared.directory.join("a.pcap");
    std::fs::write(&file, vec![7; 5000]).unwrap();
    let point = Point { machine: "a".to_owned(), card: 0, file };
    let captures = capture::start(&namespace, &options(), vec![point]).await.unwrap();
    let said = tokio::time::Instant::now() - capture::TAIL;
    traffic(&double, &namespace);
    assert_eq!(text(&captures.stop(said).await.unwrap_err()), "capture of a: it has seen no packet");
}

/// Snap length and filter are the namespace's: somebody else may have changed them just before.
#[tokio::test]
async fn a_file_with_another_snap_length_is_no_capture() {
    let double = Double::start(Traps { snaplen: Some(1600), ..Traps::default() });
    let namespace = running(&double).await;
    let captures = capture::start(&namespace, &options(), points(&double)).await.unwrap();
    let last = traffic(&double, &namespace);
    let error = captures.stop(last).await.unwrap_err();
    assert_eq!(text(&error), "capture of a: snaplen = 200 was asked for, and 1600 is in its file");
}

#[tokio::test]
async fn a_file_that_is_no_pcap_file_is_no_capture() {
    let double = Double::start(Traps::default());
    let namespace = running(&double).await;
    let captures = capture::start(&namespace, &options(), points(&double)).await.unwrap();
    let last = traffic(&double, &namespace);
    std::fs::write(&points(&double)[0].file, [7; 60]).unwrap();
    let error = captures.stop(last).await.unwrap_err();
    assert_eq!(text(&error), "capture of a: its file is no pcap file");
}

/// A bridge numbers captures by how many there are. What was stopped in one namespace makes room for a number that is in use in
/// another.
#[tokio::test]
async fn captures_of_two_namespaces_on_a_bridge_spoil_each_other() {
    let double = Double::start(Traps::default());
    let (first, second) = (running(&double).await, running(&double).await);
    let points = |name: &str| {
        let file =
            |point: Point| Point { file: double.shared.directory.join(format!("{name}-{}", point.machine)), ..point };
        points(&double).into_iter().map(file).collect::<Vec<_>>()
    };
    let one = capture::start(&first, &options(), points("one")).await.unwrap();
    let other = capture::start(&second, &options(), points("other")).await.unwrap();
    let last = traffic(&double, &first);
    one.stop(last).await.unwrap();
    // Both get number 2, which is the other's first one.
    let again = capture::start(&first, &options(), points("again")).await.unwrap();
    traffic(&double, &second);
    let last = traffic(&double, &first);
    for stopped in [again.stop(last).await, other.stop(last).await] {
        let error = text(&stopped.unwrap_err());
        let told = "capture of all: they cannot be stopped until minimega ends: unknown capture ID: ";
        assert!(error.starts_with(told), "{error}");
    }
}
