//! Physical nodes behind rond.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vptest::testbed::minimega::cc::{Channel, Head, Member, Order, Phase, Sent, Step, StepStatus, Timing};
use vptest::testbed::minimega::rond::Rond;
use vptest::testbed::minimega::{Limits, MinimegaError};

use super::double::{Double, Traps, What};
use super::text;
use crate::need::need;

const LONG: Duration = Duration::from_secs(30);

pub(super) async fn open(double: &Double) -> Rond {
    Rond::open(&double.socket(), Limits::default()).await.unwrap()
}

/// The only node `p1`, and what commands go to it by.
pub(super) async fn one_node(double: &Double) -> (Channel, Member) {
    let files = double.node("p1", "uuid-1");
    let rond = open(double).await;
    let mut node = rond.members(&["p1".to_owned()]).await.unwrap().remove(0);
    node.files = files.to_string_lossy().into_owned();
    (Channel::new(Arc::new(rond), Timing { poll: Duration::from_millis(5), ..Timing::default() }), node)
}

#[tokio::test]
async fn nodes_do_phases_and_files_travel() {
    let double = Double::rond(Traps::default());
    let files = double.node("p1", "uuid-1");
    let rond = open(&double).await;
    let mut members = rond.members(&["p1".to_owned()]).await.unwrap();
    members[0].files = files.to_string_lossy().into_owned();
    let timing = Timing { poll: Duration::from_millis(5), ..Timing::default() };
    let channel = Channel::new(Arc::new(rond), timing);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x").to_string_lossy().into_owned();
    let phase = Phase {
        send: vec![Sent { path: path.clone(), mode: 0o644, content: b"sent".to_vec() }],
        steps: vec![Step::of(["cat", path.as_str()], LONG), Step::of(["sh", "-c", "exit 5"], LONG)],
        fetch: vec![path],
    };
    for round in 1..=2 {
        let into = tempfile::tempdir().unwrap();
        let outcome = channel.run(&[(members[0].clone(), phase.clone())], into.path()).await.unwrap().remove(0);
        assert_eq!(outcome.report.steps[0].stdout, b"sent");
        assert_eq!(outcome.report.steps[1].status, Some(StepStatus::Exit(5)));
        assert_eq!(std::fs::read(&outcome.files[0]).unwrap(), b"sent");
        assert_eq!(channel.round_trips(), round);
    }
}

/// It says no numbers, and its table of commands is in no order.
#[tokio::test]
async fn commands_are_told_apart_by_their_numbers() {
    let double = Double::rond(Traps::default());
    double.node("p1", "uuid-1");
    let rond = open(&double).await;
    std::fs::create_dir_all(rond.outgoing().0).unwrap();
    std::fs::write(rond.outgoing().0.join("a"), b"x").unwrap();
    let orders = [Order::Send("a".to_owned()), Order::Run(vec!["true".to_owned()]), Order::Receive("/x".to_owned())];
    assert_eq!(rond.post("uuid-1", &orders).await.unwrap(), [1, 2, 3]);
    assert_eq!(rond.post("uuid-1", &orders[..1]).await.unwrap(), [4]);
    // The condition is rond's, not this client's: it must not stay.
    assert_eq!(double.heard().last().unwrap(), "clear filter");
    let missing = rond.post("uuid-1", &[Order::Send("b".to_owned())]).await.unwrap_err();
    assert!(text(&missing).contains("non-existent files"), "{missing}");
    assert_eq!(double.heard().last().unwrap(), "clear filter", "also after an error");
}

#[tokio::test]
async fn a_filter_that_somebody_has_set_is_set_again() {
    let double = Double::rond(Traps::default());
    double.node("p1", "uuid-1");
    let rond = open(&double).await;
    double.state().namespaces.entry(String::new()).or_default().set_filter(Some("hostname=p9"));
    assert_eq!(rond.post("uuid-1", &[Order::Run(vec!["true".to_owned()])]).await.unwrap(), [1]);
    rond.post("uuid-1", &[Order::Send("b".to_owned())]).await.unwrap_err();
    let heard = double.heard();
    let set: Vec<&String> = heard.iter().filter(|line| line.starts_with("filter ")).collect();
    assert_eq!(set, ["filter uuid=uuid-1", "filter hostname=p9", "filter uuid=uuid-1", "filter hostname=p9"]);
}

/// Its numbers begin anew when it does, and the files of the numbers before stay.
#[tokio::test]
async fn results_of_an_earlier_rond_are_not_taken_for_new_ones() {
    let double = Double::rond(Traps::default());
    let files = double.node("p1", "uuid-1");
    let rond = open(&double).await;
    let old = rond.responses().join("2").join("uuid-1");
    std::fs::create_dir_all(&old).unwrap();
    for (name, content) in [("stdout", "vptest 00 report\nvptest 00 end\n"), ("exitcode", "0"), ("kept", "theirs")] {
        let file = std::fs::File::create(old.join(name)).unwrap();
        std::io::Write::write_all(&mut &file, content.as_bytes()).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(3600)).unwrap();
    }
    let mut members = rond.members(&["p1".to_owned()]).await.unwrap();
    members[0].files = files.to_string_lossy().into_owned();
    let timing = Timing { poll: Duration::from_millis(5), settle: Duration::from_millis(200), ..Timing::default() };
    let channel = Channel::new(Arc::new(rond), timing);
    let phase = Phase { steps: vec![Step::of(["echo", "new"], LONG)], ..Phase::default() };
    let into = tempfile::tempdir().unwrap();
    let outcome = channel.run(&[(members[0].clone(), phase)], into.path()).await.unwrap().remove(0);
    assert_eq!(outcome.report.steps[0].stdout, b"new\n");
    assert_eq!(std::fs::read(old.join("kept")).unwrap(), b"theirs");
    assert!(!old.join("stdout").exists(), "what was written for this phase goes");
}

/// `version`, `help` and every mistake close the connection.
#[tokio::test]
async fn what_it_cannot_parse_is_never_sent_and_its_silence_is_understood() {
    let double = Double::rond(Traps::default());
    let rond = open(&double).await;
    assert_eq!(double.heard(), ["clients", "commands"]);
    double.traps(|traps| traps.close_at = Some("commands"));
    let error = rond.post("uuid-1", &[]).await.unwrap_err();
    assert!(matches!(error, MinimegaError::Closed { .. }), "{error}");
    double.traps(|traps| traps.close_at = None);
    assert_eq!(rond.post("uuid-1", &[]).await.unwrap(), [] as [u64; 0]);
}

/// Two nodes with the same product_uuid show as one.
#[tokio::test]
async fn nodes_that_share_an_identifier_are_missed() {
    let double = Double::rond(Traps::default());
    double.node("p1", "same");
    double.node("p2", "same");
    let hosts = ["p1".to_owned(), "p2".to_owned()];
    let error = open(&double).await.members(&hosts).await.unwrap_err();
    assert!(text(&error).starts_with("no miniccc has reported from p1"), "{error}");
}

#[tokio::test]
async fn nodes_of_the_same_name_are_told() {
    let double = Double::rond(Traps::default());
    double.node("p1", "one");
    double.node("p1", "other");
    let error = open(&double).await.members(&["p1".to_owned()]).await.unwrap_err();
    assert!(text(&error).starts_with("2 nodes call themselves p1"), "{error}");
}

/// Its table of commands would grow for ever.
#[tokio::test]
async fn orders_that_are_done_are_cleared_unless_those_of_others_are_among_them() {
    let double = Double::rond(Traps::default());
    let (channel, node) = one_node(&double).await;
    let jobs = [(node, Phase { steps: vec![Step::of(["true"], LONG)], ..Phase::default() })];
    let into = tempfile::tempdir().unwrap();
    let commands = || double.state().namespaces[""].commands.len();
    channel.run(&jobs, into.path()).await.unwrap();
    assert_eq!(commands(), 2);
    channel.tidy().await.unwrap();
    assert_eq!(commands(), 2, "it is not worth it yet");
    channel.finish().await.unwrap();
    assert_eq!(commands(), 0);
    // Numbers begin anew, and nothing old is taken for new.
    channel.run(&jobs, into.path()).await.unwrap();
    double.state().namespaces.get_mut("").unwrap().post(What::Run(vec!["uptime".to_owned()]), false);
    channel.finish().await.unwrap();
    assert_eq!(commands(), 3);
}

/// A node that is gone answers nothing any more, and what it was told must not keep the table for ever.
#[tokio::test]
async fn orders_of_nodes_that_are_gone_are_cleared() {
    let double = Double::rond(Traps::default());
    double.node("p1", "uuid-1");
    let rond = open(&double).await;
    double.traps(|traps| traps.hang = true);
    std::fs::create_dir_all(rond.outgoing().0).unwrap();
    std::fs::write(rond.outgoing().0.join("a"), b"x").unwrap();
    rond.post("uuid-1", &[Order::Send("a".to_owned())]).await.unwrap();
    double.state().namespaces.get_mut("").unwrap().clients.remove("uuid-1");
    rond.clear().await.unwrap();
    assert_eq!(double.state().namespaces[""].commands.len(), 0);
}

/// Whoever waits for orders to be given may be ended meanwhile.
#[tokio::test]
async fn the_filter_is_put_back_when_nobody_waits_any_more() {
    let double = Double::rond(Traps::default());
    double.node("p1", "uuid-1");
    let rond = open(&double).await;
    let orders = [Order::Run(vec!["true".to_owned()])];
    let mut posting = rond.post("uuid-1", &orders);
    // Begun and dropped as soon as the filter is set.
    super::until("the filter", || {
        let waker = std::task::Waker::noop();
        let polled = posting.as_mut().poll(&mut std::task::Context::from_waker(waker));
        polled.is_ready() || double.heard().iter().any(|line| line == "filter uuid=uuid-1")
    })
    .await;
    drop(posting);
    super::until("its end", || double.heard().last().is_some_and(|line| line == "clear filter")).await;
    assert_eq!(double.state().namespaces[""].filter(), None);
}

/// Against a rond that runs here: `VPTEST_ROND` is the path of its socket, `VPTEST_ROND_NODE` the host name of a node of its,
/// `VPTEST_ROND_FILES` the directory of that node's files (`files` below the `-path` of its miniccc).
#[tokio::test]
async fn a_real_node_does_phases_and_files_travel() {
    let variable = |name: &str| std::env::var(name).ok();
    let given = variable("VPTEST_ROND").zip(variable("VPTEST_ROND_NODE").zip(variable("VPTEST_ROND_FILES")));
    if !need("rond", given.is_some()) {
        return;
    }
    let Some((socket, (node, files))) = given else { return };
    let rond = Rond::open(Path::new(&socket), Limits::default()).await.unwrap();
    let mut members = rond.members(&[node]).await.unwrap();
    members[0].files = files;
    let channel = Channel::new(Arc::new(rond), Timing::default());
    let phase = Phase {
        send: vec![Sent { path: "/tmp/vptest-rond/x".to_owned(), mode: 0o644, content: vec![7; 300_000] }],
        steps: vec![
            Step::of(["printf", "%s", "a'b\"c $HOME"], LONG),
            Step::of(["sleep", "1000"], Duration::from_secs(1)),
            Step::of(["cp", "/tmp/vptest-rond/x", "/tmp/vptest-rond/y"], LONG),
        ],
        fetch: vec!["/tmp/vptest-rond/y".to_owned()],
    };
    for _ in 0..2 {
        let into = tempfile::tempdir().unwrap();
        let outcome = channel.run(&[(members[0].clone(), phase.clone())], into.path()).await.unwrap().remove(0);
        assert_eq!(outcome.report.steps[0].stdout, b"a'b\"c $HOME");
        assert_eq!(outcome.report.steps[1].status, Some(StepStatus::TimedOut));
        assert_eq!(std::fs::read(&outcome.files[0]).unwrap(), vec![7; 300_000]);
    }
    let clean = Phase { steps: vec![Step::of(["rm", "-r", "/tmp/vptest-rond"], LONG)], ..Phase::default() };
    channel.run(&[(members[0].clone(), clean)], Path::new("/")).await.unwrap();
}
