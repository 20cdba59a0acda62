//! An agent that is reached by files that are sent and programs that are started alone. It runs on this host.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vptest::image::Bundle;
use vptest::node::{Command, Process as _};
use vptest::testbed::minimega::cc::{Channel, Mailbox, Member, MinimegaHead, Timing};
use vptest::testbed::minimega::{MinimegaError, PhaseFailure};

use super::double::{Double, Traps};
use super::{guest, open, until};
use crate::campaign::VPTEST;

struct Lab {
    _double: Double,
    channel: Arc<Channel>,
    member: Member,
    files: PathBuf,
}

impl Lab {
    async fn new(traps: Traps) -> Self {
        let double = Double::start(traps);
        let namespace = Arc::new(open(&double).await.fresh_namespace(&super::owner()).await.unwrap());
        let files = guest::report(&double.shared, namespace.name(), "client1", "uuid-1");
        let text = files.to_string_lossy().into_owned();
        let member = Member { node: "client1".to_owned(), uuid: "uuid-1".to_owned(), files: text };
        let timing = Timing { poll: Duration::from_millis(5), look: Duration::from_millis(50), ..Timing::default() };
        let files = files.join(namespace.name());
        let channel = Arc::new(Channel::new(Arc::new(MinimegaHead::new(namespace)), timing));
        Self { _double: double, channel, member, files }
    }

    async fn mailbox(&self) -> Result<Mailbox, MinimegaError> {
        Mailbox::open(&self.channel, &self.member, &Bundle::of(Path::new(VPTEST)).unwrap()).await
    }

    async fn failure(&self) -> String {
        match self.mailbox().await.err().expect("it cannot be reached") {
            MinimegaError::Phase { node, failure: PhaseFailure::NotStarted(why) } => {
                assert_eq!(node, "client1");
                why
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_by_letters_is_one_as_any_other() {
    let lab = Lab::new(Traps::default()).await;
    let mailbox = lab.mailbox().await.unwrap();
    let client = &mailbox.client;
    // More than one letter has, in both directions.
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|at| at.to_le_bytes()[(at % 3) as usize]).collect();
    client.put("large", 0o600, bytes.len() as u64, &bytes[..]).await.unwrap();
    let mut back = Vec::new();
    client.get("large", 1 << 30, &mut back).await.unwrap();
    assert!(back == bytes);
    // Programs run side by side, and none waits for the other's letters.
    let shell = |script: &str| Command { argv: ["sh", "-c", script].map(str::to_owned).to_vec(), ..Command::default() };
    let (long, short) = (shell("exec sleep 1000"), shell("exit 7"));
    let (mut first, mut second) = tokio::join!(client.spawn(&long), client.spawn(&short));
    assert_eq!(second.as_mut().unwrap().end().await.unwrap().status.to_string(), "exit status 7");
    let first = first.as_mut().unwrap();
    let before = mailbox.turns();
    first.deliver(libc::SIGCONT).await.unwrap();
    assert!(mailbox.turns() > before, "it is waited for until the node has had it");
    first.deliver(libc::SIGKILL).await.unwrap();
    assert_eq!(first.end().await.unwrap().status.to_string(), "signal 9");
    assert!(mailbox.turns() > 5);
    // As long as nothing is to be said or heard, nothing is asked. One turn may still have been under way.
    let before = mailbox.turns();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(mailbox.turns() - before <= 1, "{}", mailbox.turns() - before);
    let before = mailbox.turns();
    // A node that waits for a socket is asked once.
    assert!(!client.await_listening(1, Duration::from_millis(600)).await.unwrap());
    assert!(mailbox.turns() - before <= 4, "{}", mailbox.turns() - before);
    assert_eq!(lab.channel.round_trips(), 1, "the phase that has sent vptest");
    mailbox.close().await;
    until("the end of what was sent", || std::fs::read_dir(&lab.files).unwrap().next().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_are_lost_or_damaged_end_the_conversation() {
    let lab = Lab::new(Traps { lose: Some(".t1"), ..Traps::default() }).await;
    let why = lab.failure().await;
    assert!(why.contains("bytes are missing: 0 of 40 have arrived"), "{why}");
    let lab = Lab::new(Traps { damage: Some(".t1"), ..Traps::default() }).await;
    let why = lab.failure().await;
    assert!(why.contains("its agent has ended by itself: a letter that is damaged"), "{why}");
    let lab = Lab::new(Traps { damage_received: true, ..Traps::default() }).await;
    let why = lab.failure().await;
    assert!(why.contains("a letter that is damaged"), "{why}");
}
