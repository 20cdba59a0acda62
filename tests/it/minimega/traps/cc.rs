//! Commands and files through minimega's cc.

use std::sync::Arc;
use std::time::Duration;

use vptest::testbed::minimega::cc::{Head as _, MinimegaHead, Order, StepStatus};

use super::super::double::Traps;
use super::super::phases::{Lab, sh, steps};
use super::super::{text, until};

/// miniccc says -1 for a command that a signal ended and for one that could not be started.
#[tokio::test]
async fn a_step_that_a_signal_ended_is_told_from_one_that_could_not_start() {
    let lab = Lab::new(Traps::default()).await;
    let report = lab.run(steps(&[&["sh", "-c", "kill -9 $$"], &["/no/such"], &["/etc/passwd"]])).await.unwrap().report;
    let status: Vec<_> = report.steps.iter().map(|step| step.status.unwrap()).collect();
    assert_eq!(status, [137, 127, 126].map(StepStatus::Exit));
}

/// `clear cc` by somebody: numbers begin anew, and what was answered under them stays.
#[tokio::test]
async fn an_old_answer_under_a_number_that_begins_anew_is_not_taken() {
    let lab = Lab::new(Traps::default()).await;
    assert_eq!(lab.run(sh("echo old")).await.unwrap().report.steps[0].stdout, b"old\n");
    lab.namespace.run(&["clear", "cc"]).await.unwrap();
    lab.restart_numbers();
    assert_eq!(lab.run(sh("echo new")).await.unwrap().report.steps[0].stdout, b"new\n");
}

/// A command costs a heartbeat of 5 s, however short it is.
#[tokio::test]
async fn any_number_of_steps_is_one_command() {
    let lab = Lab::new(Traps::default()).await;
    let all: Vec<&[&str]> = vec![&["true"]; 20];
    assert_eq!(lab.run(steps(&all)).await.unwrap().report.steps.len(), 20);
    let heard = lab.double.heard();
    let count = |part: &str| heard.iter().filter(|command| command.contains(part)).count();
    assert_eq!((count(" cc exec"), count(" cc background"), count(" cc send ")), (1, 0, 1));
}

/// Whatever follows a command waits for its end, for good.
#[tokio::test]
async fn a_step_that_does_not_heed_its_end_is_killed() {
    let lab = Lab::new(Traps::default()).await;
    let deaf = "trap '' TERM; while :; do sleep 1; done";
    let mut phase = steps(&[&["sh", "-c", deaf], &["echo", "next"]]);
    phase.steps[0].limit = Duration::from_secs(1);
    let report = lab.run(phase).await.unwrap().report;
    assert_eq!(report.steps[0].status, Some(StepStatus::TimedOut));
    assert_eq!(report.steps[1].stdout, b"next\n");
}

/// The condition is the namespace's: what one node is to do, another must not be given meanwhile.
#[tokio::test]
async fn orders_for_two_nodes_at_once_are_not_mixed_up() {
    let lab = Lab::new(Traps::default()).await;
    lab.double.traps(|traps| traps.slow = Duration::from_millis(5));
    let (one, other) = tokio::join!(lab.run_at(0, sh("echo one")), lab.run_at(1, sh("echo other")));
    assert_eq!(one.unwrap().report.steps[0].stdout, b"one\n");
    assert_eq!(other.unwrap().report.steps[0].stdout, b"other\n");
    let state = lab.double.state();
    let commands = &state.namespaces[lab.namespace.name()].commands;
    let of = |uuid: &str| commands.iter().filter(|command| command.filter.as_deref() == Some(uuid)).count();
    assert_eq!((commands.len(), of("uuid=uuid-client1"), of("uuid=uuid-server1")), (4, 2, 2));
}

fn head(lab: &Lab) -> MinimegaHead {
    MinimegaHead::new(Arc::clone(&lab.namespace))
}

/// It stays until it is taken back, and what comes after it would go to one node, or to none.
#[tokio::test]
async fn a_condition_is_taken_back_after_an_error() {
    let lab = Lab::new(Traps::default()).await;
    let error = head(&lab).post("uuid-client1", &[Order::Send("nope".to_owned())]).await.unwrap_err();
    assert!(text(&error).contains("no such file"), "{error}");
    assert_eq!(lab.double.state().namespaces[lab.namespace.name()].filter(), None);
    assert!(lab.double.heard().last().unwrap().ends_with(" clear cc filter"));
}

#[tokio::test]
async fn a_condition_is_taken_back_when_nobody_waits_any_more() {
    let lab = Lab::new(Traps::default()).await;
    let (head, orders) = (head(&lab), [Order::Run(vec!["true".to_owned()])]);
    let mut posting = head.post("uuid-client1", &orders);
    until("the condition", || {
        let waker = std::task::Waker::noop();
        let polled = posting.as_mut().poll(&mut std::task::Context::from_waker(waker));
        polled.is_ready() || lab.double.heard().iter().any(|command| command.ends_with(" cc filter uuid=uuid-client1"))
    })
    .await;
    drop(posting);
    until("its end", || lab.double.heard().last().is_some_and(|command| command.ends_with(" clear cc filter"))).await;
    let state = lab.double.state();
    let namespace = &state.namespaces[lab.namespace.name()];
    assert_eq!((namespace.filter(), namespace.commands.len()), (None, 1));
}
