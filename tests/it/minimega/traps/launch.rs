//! Launching, and what belongs to it.

use std::time::Duration;

use vptest::testbed::minimega::{Daemon, Limits, MinimegaError, capture, guest, machine};
use vptest::units::Rate;

use super::super::double::{Double, Traps};
use super::super::machines::{disk, names, options, plan, points, running, traffic};
use super::super::{open, owner, text};

/// A machine whose directory another one has left ends at once, and its launch says nothing.
#[tokio::test]
async fn a_machine_that_has_quit_at_once_is_no_machine() {
    let double = Double::start(Traps::default());
    let namespace = open(&double).await.fresh_namespace(&owner()).await.unwrap();
    let row = r#"{"Resp":[{"Host":"vm","Response":"","Header":["id","name","state","uuid","tags","tap"],
        "Tabular":[["0","a","QUIT","u","{}","[]"]],"Error":"","Data":null}],"Rendered":"","More":false,"Status":false}"#;
    double.traps(|traps| traps.bytes_at = Some(("vm info", row.as_bytes().to_vec())));
    let error = machine::launch(&namespace, &[plan("a", disk())]).await.unwrap_err();
    assert_eq!(text(&error), "machine a: it is QUIT and not BUILDING");
}

/// `qos add` that fails takes away the limit that was there, and an answer without an error is no limit yet.
#[tokio::test]
async fn a_limit_counts_only_when_it_is_in_the_table() {
    let double = Double::start(Traps::default());
    let namespace = running(&double).await;
    let rate = Rate::from_bits_per_second(8_000_000).unwrap();
    // A kernel without that queueing discipline.
    let no = br#"{"Resp":[{"Host":"vm","Response":"","Header":null,"Tabular":null,"Error":"Error: Specified qdisc kind is unknown.","Data":null}],"Rendered":"","More":false,"Status":false}"#;
    double.traps(|traps| traps.bytes_at = Some(("qos add", no.to_vec())));
    let error = guest::limit_rate(&namespace, "a", 0, rate).await.unwrap_err();
    assert!(text(&error).contains("qos add a 0 rate 8 mbit"), "{error}");
    let done = br#"{"Resp":[{"Host":"vm","Response":"","Header":null,"Tabular":null,"Error":"","Data":null}],"Rendered":"","More":false,"Status":false}"#;
    double.traps(|traps| traps.bytes_at = Some(("qos add", done.to_vec())));
    let error = guest::limit_rate(&namespace, "a", 0, rate).await.unwrap_err();
    assert_eq!(text(&error), "machine a: its qos is [] and not [0: rate 8mbit]");
}

/// A word that is no card of QEMU's makes the address a network and the network a bridge, or is refused.
#[tokio::test]
async fn a_card_that_qemu_does_not_have_is_no_machine() {
    let double = Double::start(Traps::default());
    let namespace = open(&double).await.fresh_namespace(&owner()).await.unwrap();
    let mut wrong = plan("a", disk());
    wrong.nics[0].driver = Some("foo-net".to_owned());
    let error = machine::launch(&namespace, &[wrong.clone()]).await.unwrap_err();
    assert!(text(&error).ends_with("failed: malformed netspec"), "{error}");
    assert_eq!(machine::machines(&namespace).await.unwrap(), []);
    // Its two words are taken: the first is a bridge by then.
    namespace.run(&["vm", "config", "net", "LAN,foo-net"]).await.unwrap();
    wrong.nics[0].driver = Some("e1000".to_owned());
    machine::launch(&namespace, &[wrong]).await.unwrap();
}

/// A launch that fails takes five seconds, and stopping a capture one: longer than an answer may take otherwise.
#[tokio::test]
async fn what_takes_long_has_a_limit_of_its_own() {
    let double = Double::start(Traps::default());
    let limits = Limits { answer: Duration::from_secs(2), ..Limits::default() };
    let daemon = Daemon::open(&double.socket(), limits).await.unwrap();
    let namespace = daemon.fresh_namespace(&owner()).await.unwrap();
    let slow = |part| double.traps(|traps| traps.slow_at = Some((part, Duration::from_secs(3))));
    slow("echo");
    let late = namespace.run(&["echo", "a"]).await.unwrap_err();
    assert!(matches!(late, MinimegaError::TimedOut { .. }), "{late}");
    slow("vm launch");
    machine::launch(&namespace, &[plan("a", disk())]).await.unwrap();
    machine::start(&namespace, &names(&["a"])).await.unwrap();
    slow("clear capture");
    let captures = capture::start(&namespace, &options(), points(&double)[..1].to_vec()).await.unwrap();
    let last = traffic(&double, &namespace);
    captures.stop(last).await.unwrap();
    slow("clear namespace");
    let failures = namespace.remove().await;
    assert!(failures.is_empty(), "{failures:?}");
}

/// Until a launch has succeeded or failed, its namespace cannot be cleared.
#[tokio::test]
async fn a_namespace_is_cleared_again_and_again_while_a_launch_is_under_way() {
    let double = Double::start(Traps::default());
    let namespace = running(&double).await;
    double.traps(|traps| traps.launching = 3);
    let failures = namespace.remove().await;
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(double.heard().iter().filter(|command| command.starts_with("clear namespace ")).count(), 4);
    assert!(!double.state().namespaces.contains_key(namespace.name()));
}
