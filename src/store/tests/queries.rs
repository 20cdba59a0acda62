use std::collections::BTreeMap;
use std::path::PathBuf;

use super::records::sample;
use crate::ids::NodeId;
use crate::record::{IterationRecord, Metric, Outcome, Status};
use crate::store::{Database, LeftOut, MetricError, Reading, StoreError, merge, write_iteration};

/// A database of these records, and the directory that holds it.
fn database(records: &[IterationRecord]) -> (Database, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let inputs: Vec<PathBuf> = records.iter().map(|r| write_iteration(dir.path(), r).unwrap()).collect();
    let output = dir.path().join("merged.db");
    assert!(merge(&inputs, &output, &mut |_| ()).unwrap().is_clean());
    (Database::open(&output).unwrap(), dir)
}

fn error(records: &[IterationRecord], asked: &str) -> MetricError {
    match database(records).0.values(asked, &[Status::Complete]) {
        Err(StoreError::Metric(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_iteration_is_one_value_whatever_its_pairs() {
    let (database, _dir) = database(&[sample(1), sample(2)]);
    let found = database.values("rps", &[Status::Complete]).unwrap();
    assert_eq!(found.values.iter().map(|v| (v.value, v.pairs)).collect::<Vec<_>>(), [(1001.25, 2), (1002.25, 2)]);
    assert_eq!(found.unit, "1/s");
    assert_eq!(found.values[0].factors["driver"], "e1000");
    assert_eq!(found.values[0].factors["testbed"], "netns");
    assert_eq!(found.left_out.total(), 0);
}

#[test]
fn what_is_left_out_is_counted() {
    let mut suspect = sample(2);
    suspect.outcome = Outcome::Suspect(vec!["drops".to_owned()]);
    let mut missing = sample(3);
    missing.metrics[1].value = None;
    let mut absent = sample(4);
    absent.metrics.clear();
    let (database, _dir) = database(&[sample(1), suspect, missing, absent]);
    let found = database.values("rps", &[Status::Complete]).unwrap();
    assert_eq!(found.values.len(), 1);
    assert_eq!(found.left_out.by_status.get(&Status::Suspect), Some(&1));
    assert_eq!((found.left_out.value_missing, found.left_out.not_measured), (1, 1));
    let both = database.values("rps", &[Status::Complete, Status::Suspect]).unwrap();
    assert_eq!(both.values.len(), 2);
}

#[test]
fn a_metric_that_is_not_there_lists_those_that_are() {
    let known = vec!["rps".to_owned()];
    let expected = MetricError::Unknown { asked: "rqs".to_owned(), known, none_counts: None };
    assert_eq!(error(&[sample(1)], "rqs"), expected);
}

#[test]
fn a_metric_that_no_iteration_got_to_says_how_they_ended() {
    let mut failed = sample(1);
    failed.outcome = Outcome::TimedOut { stage: crate::ids::Stage::Workload };
    failed.metrics.clear();
    let left_out = LeftOut { by_status: BTreeMap::from([(Status::TimedOut, 1)]), ..LeftOut::default() };
    let expected = MetricError::Unknown { asked: "rps".to_owned(), known: vec![], none_counts: Some(left_out) };
    assert_eq!(error(&[failed], "rps"), expected);
}

/// Attempt `attempt` at iteration 1, as it ended, where and when; its value tells it apart.
fn attempt(attempt: u32, outcome: Outcome, host: &str, second: i64) -> IterationRecord {
    let mut record = sample(1);
    record.header.attempt = attempt;
    record.header.host = host.to_owned();
    record.header.started_ns = second * 1_000_000_000;
    record.header.finished_ns = Some((second + 1) * 1_000_000_000);
    record.outcome = outcome;
    record.metrics.iter_mut().for_each(|m| m.value = Some(f64::from(attempt)));
    record
}

fn suspect() -> Outcome {
    Outcome::Suspect(vec!["drops".to_owned()])
}

/// Values of iteration 1 with these attempts, in both orders of merging, and what is left out.
fn of_attempts(records: &[IterationRecord], statuses: &[Status]) -> (Vec<f64>, LeftOut) {
    let answer = |records: &[IterationRecord]| {
        // Attempts on two hosts may have one name.
        let dirs: Vec<_> = records.iter().map(|_| tempfile::tempdir().unwrap()).collect();
        let inputs = dirs.iter().zip(records).map(|(dir, record)| write_iteration(dir.path(), record).unwrap());
        let inputs: Vec<PathBuf> = inputs.collect();
        let output = dirs[0].path().join("merged.db");
        assert!(merge(&inputs, &output, &mut |_| ()).unwrap().is_clean());
        let found = Database::open(&output).unwrap().values("rps", statuses).unwrap();
        (found.values.iter().map(|v| v.value).collect::<Vec<_>>(), found.left_out)
    };
    let forwards = answer(records);
    let reversed: Vec<_> = records.iter().rev().cloned().collect();
    assert_eq!(answer(&reversed), forwards, "the order of merging decides");
    forwards
}

#[test]
fn an_iteration_counts_once_however_often_it_was_tried() {
    let tries = [
        attempt(1, suspect(), "lab1", 10),
        attempt(2, Outcome::Complete, "lab1", 20),
        attempt(3, Outcome::Complete, "lab1", 30),
        attempt(4, suspect(), "lab1", 40),
    ];
    let superseded = |n| LeftOut { superseded: n, ..LeftOut::default() };
    assert_eq!(of_attempts(&tries, &[Status::Complete]), (vec![2.0], superseded(3)));
    assert_eq!(of_attempts(&tries, &[Status::Complete, Status::Suspect]), (vec![2.0], superseded(3)));
    let never_complete = [tries[0].clone(), tries[3].clone()];
    assert_eq!(of_attempts(&never_complete, &[Status::Complete, Status::Suspect]), (vec![4.0], superseded(1)));
    let left_out = LeftOut { by_status: BTreeMap::from([(Status::Suspect, 1)]), ..superseded(1) };
    assert_eq!(of_attempts(&never_complete, &[Status::Complete]), (vec![], left_out));
}

#[test]
fn of_two_hosts_the_one_that_finished_first_counts() {
    let tries = [
        attempt(1, Outcome::Complete, "lab2", 20),
        attempt(2, Outcome::Complete, "lab1", 10),
        attempt(3, Outcome::Complete, "lab1", 30),
    ];
    let left_out = LeftOut { superseded: 2, superseded_elsewhere: 1, ..LeftOut::default() };
    assert_eq!(of_attempts(&tries, &[Status::Complete]), (vec![2.0], left_out));
}

#[test]
fn client_and_server_are_never_averaged() {
    let mut record = sample(1);
    let of_client = record.metrics[0].clone();
    let server =
        |pair| Metric { pair: Some(pair), node: Some(NodeId::server(pair)), value: Some(3.0), ..of_client.clone() };
    record.metrics.extend([server(1), server(2)]);
    let MetricError::Ambiguous { choices, .. } = error(&[record.clone()], "rps") else { panic!() };
    assert_eq!(choices, ["application.rps@client", "application.rps@server"]);
    let (database, _dir) = database(&[record]);
    for asked in ["rps@server", "application.rps@server"] {
        assert_eq!(database.values(asked, &[Status::Complete]).unwrap().values[0].value, 3.0);
    }
    let metrics = database.metrics().unwrap();
    assert_eq!(
        metrics.iter().map(|m| (m.full_name(), m.iterations, m.values)).collect::<Vec<_>>(),
        [("application.rps@client".to_owned(), 1, 2), ("application.rps@server".to_owned(), 1, 2),]
    );
}

#[test]
fn the_mean_over_pairs_needs_all_pairs() {
    let mut record = sample(1);
    for kept in [1, 2] {
        record.metrics = sample(1).metrics.into_iter().filter(|metric| metric.pair == Some(kept)).collect();
        let (database, _dir) = database(&[record.clone()]);
        let dataset = database.dataset(&Status::ALL).unwrap();
        assert_eq!(dataset.metrics[0].values, [Reading::Missing], "pair {kept} alone");
    }
}

#[test]
fn units_do_not_mix() {
    let mut other = sample(2);
    other.metrics.iter_mut().for_each(|m| m.unit = "1/min".to_owned());
    assert!(matches!(error(&[sample(1), other], "rps"), MetricError::Units { .. }));
}
