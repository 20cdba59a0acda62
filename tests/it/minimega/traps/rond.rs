//! rond: no numbers, one condition, and what its clients say of themselves.

use std::os::unix::net::UnixListener;

use vptest::testbed::minimega::cc::{Head as _, Order};
use vptest::testbed::minimega::rond::Rond;
use vptest::testbed::minimega::{Daemon, Limits, MinimegaError};

use super::super::double::{Double, Traps};
use super::super::phases::sh;
use super::super::rond::{one_node, open};
use super::super::{Process, guest, text, until};

/// `quit` of rond, and `kill -9` of either, leave the socket.
#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_told_as_such() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let minimega = Daemon::open(&path, Limits::default()).await.err().unwrap();
    let rond = Rond::open(&path, Limits::default()).await.err().unwrap();
    for error in [minimega, rond] {
        assert!(error.is_lost(), "{error:?}");
        assert!(text(&error).starts_with("cannot connect to the command socket "), "{error}");
    }
}

/// Its numbers begin anew, and what it was told before it does not know.
#[tokio::test]
async fn another_rond_is_told_from_the_one_before() {
    let mut process = Process::rond().await;
    let rond = Rond::open(&process.socket(), Limits::default()).await.unwrap();
    process.again().await;
    let error = rond.nodes().await.unwrap_err();
    assert!(matches!(error, MinimegaError::Crashed { .. }) && error.is_lost(), "{error}");
    for _ in 0..2 {
        let error = rond.post("uuid-1", &[Order::Run(vec!["true".to_owned()])]).await.unwrap_err();
        assert!(matches!(error, MinimegaError::Restarted { .. }), "{error}");
    }
    Rond::open(&process.socket(), Limits::default()).await.unwrap();
}

/// A number too many is somebody else's: which is whose is not known.
#[tokio::test]
async fn orders_of_somebody_else_between_ones_own_are_an_error() {
    let double = Double::rond(Traps { intrude: true, ..Traps::default() });
    double.node("p1", "uuid-1");
    let error = open(&double).await.post("uuid-1", &[Order::Run(vec!["true".to_owned()])]).await.unwrap_err();
    assert!(text(&error).contains("2 commands are new and not one: somebody else uses this rond"), "{error}");
    assert_eq!(double.heard().last().unwrap(), "clear filter");
}

/// They become parts of paths.
#[tokio::test]
async fn an_identifier_that_leads_elsewhere_is_no_node() {
    let double = Double::rond(Traps::default());
    double.node("p1", "a/../b");
    double.node("p2", "uuid-2");
    let rond = open(&double).await;
    assert_eq!(rond.clients().await.unwrap(), ["uuid-2"]);
    let error = rond.members(&["p1".to_owned()]).await.unwrap_err();
    assert!(text(&error).starts_with("no miniccc has reported from p1"), "{error}");
}

/// A miniccc that is started anew is given all commands again, those excepted that are run once.
#[tokio::test]
async fn nothing_is_run_twice_on_a_node() {
    let double = Double::rond(Traps::default());
    let (channel, node) = one_node(&double).await;
    let place = tempfile::tempdir().unwrap();
    let marks = place.path().join("marks");
    let mark = sh(&format!("echo mark >>{}", marks.display()));
    channel.run(&[(node, mark)], place.path()).await.unwrap();
    let responses = || -> usize { double.state().namespaces[""].commands.iter().map(|one| one.responses).sum() };
    let before = responses();
    guest::reconnect(&double.shared, "", "uuid-1");
    until("the commands again", || responses() > before).await;
    assert_eq!(std::fs::read_to_string(&marks).unwrap(), "mark\n");
}
