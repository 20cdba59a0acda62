//! The command socket.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use vptest::testbed::minimega::{Daemon, Dialect, Limits, Line, Message, MinimegaError, Splitter, request};

use super::double::{Double, Traps};
use super::{Process, open, text};

fn line(words: &[&str]) -> Line {
    Line::of(words)
}

/// Error of a command with these traps.
async fn error_of(traps: Traps, limits: Limits, words: &[&str]) -> MinimegaError {
    let double = Double::start(Traps::default());
    let daemon = Daemon::open(&double.socket(), limits).await.unwrap();
    double.traps(|now| *now = traps);
    daemon.run(&line(words)).await.unwrap_err()
}

fn short() -> Limits {
    Limits { answer: Duration::from_millis(300), ..Limits::default() }
}

/// All 302 exchanges that were recorded with the real programs, and those of two hosts in a mesh.
#[test]
fn recorded_answers_are_read_whole() {
    let read = |name: &str| {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/minimega").join(name);
        std::fs::read_to_string(data).unwrap()
    };
    let (one_host, mesh) = (read("transcripts.jsonl"), read("mesh.jsonl"));
    let (mut count, mut messages) = (0, 0);
    for text in one_host.lines().chain(mesh.lines()) {
        let one: Value = serde_json::from_str(text).unwrap();
        let bytes: Vec<u8> =
            one["responses"].as_array().unwrap().iter().flat_map(|r| r.as_str().unwrap().bytes()).collect();
        count += 1;
        if one["request"].as_str().unwrap().contains("\"PlumbPipe\":\"minimega//") {
            // From then on it is a pipe of texts, which vptest never asks for.
            assert!(Splitter::default().next(&bytes).is_err());
            continue;
        }
        let (mut splitter, mut left) = (Splitter::default(), bytes.as_slice());
        while let Some(end) = splitter.next(left).unwrap() {
            let parsed = Message::parse(&left[..end]);
            let value: Value = serde_json::from_slice(&left[..end]).unwrap();
            left = &left[end..];
            messages += 1;
            let message = parsed.unwrap_or_else(|error| panic!("{error}: {one}"));
            for (response, recorded) in message.resp.iter().zip(value["Resp"].as_array().into_iter().flatten()) {
                assert_eq!(response.error, recorded["Error"]);
                assert_eq!(response.text, recorded["Response"]);
                assert_eq!(response.data, recorded["Data"]);
            }
            assert_eq!(message.resp.len(), value["Resp"].as_array().map_or(0, Vec::len));
        }
        assert!(left.iter().all(u8::is_ascii_whitespace), "{one}");
    }
    assert_eq!(count, 302 + mesh.lines().count());
    assert!(messages > 290, "{messages}");
}

/// What the recorded sessions sent is what is sent here.
#[test]
fn recorded_requests_are_those_of_this_client() {
    let recorded = "{\"Command\":\"version\",\"Suggest\":\"\",\"PlumbPipe\":\"\"}\n";
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/minimega/transcripts.jsonl");
    assert!(std::fs::read_to_string(data).unwrap().contains(&serde_json::to_string(recorded).unwrap()));
    assert_eq!(request(Dialect::Minimega, "version"), recorded.as_bytes());
}

#[tokio::test]
async fn a_daemon_says_what_it_is() {
    let double = Double::start(Traps::default());
    let daemon = open(&double).await;
    assert_eq!(daemon.version.number, Some((3, 1, 0)));
    assert_eq!(daemon.files, double.shared.files());
    assert_eq!(daemon.peer().pid, Some(i32::try_from(std::process::id()).unwrap()));
}

#[tokio::test]
async fn releases_without_what_is_needed_are_refused_or_done_without() {
    let old = Double::start(Traps { version: Some("minimega 2.5 abc 2019-01-01"), ..Traps::default() });
    let error = Daemon::open(&old.socket(), Limits::default()).await.unwrap_err();
    assert!(text(&error).starts_with("minimega 2.5.0 is too old"), "{error}");
    let unknown = vec![".preprocess", ".record", "args"];
    let double = Double::start(Traps { version: Some("minimega 2.6 abc"), unknown, ..Traps::default() });
    let daemon = open(&double).await;
    assert_eq!(daemon.files, double.shared.files(), "where it is when nothing is said");
    let namespace = daemon.namespace("exp").unwrap();
    assert_eq!(namespace.run(&["echo", "a b"]).await.unwrap().text(), "a b");
    // It would be replaced, and nothing said.
    for word in ["$HOME", "http://10.0.0.1/x"] {
        let error = namespace.run(&["echo", word]).await.unwrap_err();
        assert!(matches!(error, MinimegaError::Unsendable { .. }), "{error}");
    }
}

#[tokio::test]
async fn words_arrive_as_they_were_sent() {
    let double = Double::start(Traps::default());
    let namespace = open(&double).await.namespace("exp").unwrap();
    for word in ["$HOME", "http://10.0.0.1/x", "a  b", "c\"d", "e'f", "g\\h", "#i", "$$ $?", "file:/x", "ä\u{1}\t"] {
        assert_eq!(namespace.run(&["echo", word]).await.unwrap().text(), word);
    }
    // Without the prefix they do not.
    assert_eq!(
        open(&double).await.run(&line(&["echo", "http://10.0.0.1/x"])).await.unwrap().text(),
        double.shared.files().join("x").to_str().unwrap()
    );
}

#[tokio::test]
async fn the_namespace_of_others_is_never_changed() {
    let double = Double::start(Traps::default());
    let namespace = open(&double).await.namespace("exp").unwrap();
    namespace.run(&["echo", "a"]).await.unwrap();
    namespace.rows(&["cc", "clients"], &["uuid"]).await.unwrap();
    let heard = double.heard();
    assert!(
        heard.iter().all(|command| !command.starts_with("namespace ") || command.split(' ').count() > 2),
        "{heard:?}"
    );
    assert!(heard.contains(&"namespace exp .record false cc clients".to_owned()), "{heard:?}");
    assert!(open(&double).await.namespace("bad/name").is_err());
}

#[tokio::test]
async fn an_error_is_an_error_and_the_connection_goes_on() {
    let double = Double::start(Traps::default());
    let daemon = open(&double).await;
    let before = double.shared.connections.load(Ordering::Relaxed);
    let error = daemon.run(&line(&["bogus"])).await.unwrap_err();
    assert_eq!(text(&error), "`bogus` failed: invalid command: `bogus`");
    assert!(error.is_unknown_command());
    daemon.run(&line(&["echo", "a"])).await.unwrap();
    assert_eq!(double.shared.connections.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn news_of_transfers_are_no_answers() {
    let double = Double::start(Traps { news: 3, ..Traps::default() });
    let daemon = open(&double).await;
    for word in ["a", "b"] {
        assert_eq!(daemon.run(&line(&["echo", word])).await.unwrap().text(), word);
    }
}

#[tokio::test]
async fn parts_of_an_answer_are_put_together() {
    let parts = b"{\"Resp\":[{\"Response\":\"one\"}],\"More\":true}{\"Status\":true,\"Resp\":[{\"Response\":\"no\"}]}\n {\"Resp\":[{\"Response\":\"two\"}]}\n";
    let double = Double::start(Traps { bytes_at: Some(("read", parts.to_vec())), ..Traps::default() });
    let answer = open(&double).await.run(&line(&["read", "FILE"])).await.unwrap();
    assert_eq!(answer.responses.iter().map(|response| response.text.as_str()).collect::<Vec<_>>(), ["one", "two"]);
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_not_taken_for_the_next() {
    let two = b"{\"Resp\":[{\"Response\":\"one\"}]}\n{\"Resp\":[{\"Response\":\"two\"}]}\n";
    let double = Double::start(Traps { bytes_at: Some(("twice", two.to_vec())), ..Traps::default() });
    let daemon = open(&double).await;
    assert_eq!(daemon.run(&line(&["echo", "twice"])).await.unwrap().text(), "one");
    let error = daemon.run(&line(&["echo", "a"])).await.unwrap_err();
    assert!(text(&error).contains("an answer came before anything was asked"), "{error}");
    assert_eq!(daemon.run(&line(&["echo", "a"])).await.unwrap().text(), "a");
}

#[tokio::test]
async fn hostile_answers_are_refused() {
    let limits = Limits { bytes: 100_000, ..Limits::default() };
    let with = |bytes: &[u8]| Traps { bytes_at: Some(("version", bytes.to_vec())), ..Traps::default() };
    for bytes in
        [&b"not json\n"[..], b"\"text\"\n", b"[1]\n", b"{\"Resp\":7}\n", b"{\"Resp\":[{\"Tabular\":[1]}]}\n", b"{]\n"]
    {
        let error = error_of(with(bytes), limits, &["version"]).await;
        assert!(matches!(error, MinimegaError::Answer { .. }), "{error}");
    }
    let deep = [&b"{\"Data\":"[..], &b"[".repeat(10_000)].concat();
    assert!(matches!(error_of(with(&deep), limits, &["version"]).await, MinimegaError::Answer { .. }));
    let large = [&b"{\"Data\":\""[..], &b"x".repeat(200_000)].concat();
    let error = error_of(with(&large), limits, &["version"]).await;
    assert_eq!(text(&error), "the answer to `version` has more than 100000 bytes");
    let endless = Traps { endless_at: Some("version"), ..Traps::default() };
    assert!(matches!(error_of(endless, limits, &["version"]).await, MinimegaError::TooLarge { .. }));
    // It begins and does not go on.
    let error = error_of(with(b"{\"Resp\":"), short(), &["version"]).await;
    assert!(matches!(error, MinimegaError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn a_late_answer_is_not_taken_for_that_to_another_command() {
    let double = Double::start(Traps::default());
    let daemon = Daemon::open(&double.socket(), short()).await.unwrap();
    double.traps(|traps| traps.slow = Duration::from_millis(450));
    let error = daemon.run(&line(&["echo", "first"])).await.unwrap_err();
    assert!(matches!(error, MinimegaError::TimedOut { .. }), "{error}");
    double.traps(|traps| traps.slow = Duration::ZERO);
    assert_eq!(daemon.run(&line(&["echo", "second"])).await.unwrap().text(), "second");
}

#[tokio::test]
async fn a_closed_connection_is_no_crash_while_the_daemon_lives() {
    let closes = Traps { close_at: Some("bogus"), ..Traps::default() };
    let error = error_of(closes, Limits::default(), &["bogus"]).await;
    assert_eq!(text(&error), "the daemon closed the connection without an answer to `bogus`");
    assert!(!error.is_lost());
    let silent = Traps { silent_at: Some("version"), ..Traps::default() };
    assert!(matches!(error_of(silent, short(), &["version"]).await, MinimegaError::TimedOut { .. }));
}

/// `background-status` right after `background`, `cc exec stdout=foo`, `quit`: the end of the connection is all there is.
#[tokio::test]
async fn a_crash_is_told_from_a_closed_connection() {
    let mut process = Process::start("background-status").await;
    let socket = process.place.path().join("minimega");
    let daemon = Daemon::open(&socket, Limits::default()).await.unwrap();
    let error = daemon.run(&line(&["background-status"])).await.unwrap_err();
    let pid = process.child.id();
    assert!(text(&error).ends_with(&format!("crashed at `background-status` (process {pid} is gone)")), "{error}");
    assert!(error.is_lost() && daemon.peer().is_gone());
    // The socket stays, and nobody is behind it.
    process.end();
    let error = daemon.run(&line(&["version"])).await.unwrap_err();
    assert!(matches!(error, MinimegaError::Connect { .. }), "{error}");
    std::fs::remove_file(&socket).unwrap();
    process.child = Process::spawn(process.place.path(), "", &[]);
    super::until("its socket", || socket.exists()).await;
    let error = daemon.run(&line(&["version"])).await.unwrap_err();
    assert!(matches!(error, MinimegaError::Restarted { .. }), "it knows nothing of what was: {error}");
    Daemon::open(&socket, Limits::default()).await.unwrap();
}

#[tokio::test]
async fn connections_are_replaced_before_they_cost_the_daemon_too_much() {
    let double = Double::start(Traps::default());
    let limits = Limits { commands: 10, ..Limits::default() };
    let daemon = Daemon::open(&double.socket(), limits).await.unwrap();
    for _ in 0..96 {
        daemon.run(&line(&["version"])).await.unwrap();
    }
    // Four commands are those of its opening.
    assert_eq!(double.shared.connections.load(Ordering::Relaxed), 10);
}

/// Before 3.1.0 a prefix `namespace N` changed what commands of others were in.
#[tokio::test]
async fn commands_of_two_namespaces_run_at_once_only_where_they_are_apart() {
    for (version, at_once) in [("minimega 3.0.1 abc", false), (super::double::VERSION, true)] {
        let double = Double::start(Traps { version: Some(version), ..Traps::default() });
        let daemon = open(&double).await;
        double.traps(|traps| traps.slow = Duration::from_millis(200));
        let (one, two) = (daemon.namespace("one").unwrap(), daemon.namespace("two").unwrap());
        let (one, two) = tokio::join!(one.run(&["echo", "1"]), two.run(&["echo", "2"]));
        assert_eq!((one.unwrap().text(), two.unwrap().text()), ("1", "2"));
        assert_eq!(double.shared.most_busy.load(Ordering::SeqCst) > 1, at_once, "{version}");
    }
}
