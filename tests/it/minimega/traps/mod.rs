//! Traps of minimega, rond and miniccc that no other test here is about; `../mod.rs` lists all of them.

mod after;
mod captures;
mod cc;
mod launch;
mod rond;
mod taps;
mod two_campaigns;

use vptest::testbed::minimega::cc::Head as _;
use vptest::testbed::minimega::rond::Rond;
use vptest::testbed::minimega::{Limits, capture};

use super::double::{Double, Traps};
use super::machines::{options, points, running, traffic};
use super::phases::{Lab, sh};

/// Each of these ends the daemon, breaks a client for good, leaves something behind or changes what belongs to others.
#[tokio::test]
async fn nothing_is_sent_that_is_known_to_break_things() {
    let lab = Lab::new(Traps::default()).await;
    lab.run(sh("echo a")).await.unwrap();
    let double = Double::start(Traps::default());
    let namespace = running(&double).await;
    let captures = capture::start(&namespace, &options(), points(&double)).await.unwrap();
    let last = traffic(&double, &namespace);
    captures.stop(last).await.unwrap();
    assert!(namespace.remove().await.is_empty());
    let rond = Double::rond(Traps::default());
    rond.node("p1", "uuid-1");
    Rond::open(&rond.socket(), Limits::default()).await.unwrap().post("uuid-1", &[]).await.unwrap();
    // One that was ended would run again, and its miniccc never report.
    let started = double.heard().iter().filter(|command| command.contains(" vm start ")).count();
    assert_eq!(started, 2);
    let heard = [lab.double.heard(), double.heard(), rond.heard()].concat();
    assert!(heard.len() > 30, "{heard:?}");
    for command in &heard {
        let words = command.split_whitespace().collect::<Vec<_>>();
        for bad in [
            "background-status",
            "capture pcap bridge",
            "cc responses",
            "cc mount",
            "checkpoint",
            "responses",
            "cc exitcode",
            "cc process",
            "vm kill",
            "vm stop",
            "vm flush",
            "clear qos",
            "bridge",
            "nuke",
            "quit",
        ] {
            assert!(!format!(" {command} ").contains(&format!(" {bad} ")), "{command}");
        }
        assert!(!command.contains(" stdout="), "{command}");
        // It would be taken from anywhere, and go anywhere in the guest.
        assert!(!words.contains(&"send") || !command.contains(".."), "{command}");
        // Words of a command would be replaced; those of questions are fixed.
        let prefix = words.get(2).filter(|_| words[0] == "namespace");
        assert!(prefix.is_none_or(|word| [".preprocess", ".record"].contains(word)), "{command}");
        // Alone it would change the namespace of everybody.
        assert!(words.first() != Some(&"namespace") || words.len() != 2, "{command}");
    }
}
