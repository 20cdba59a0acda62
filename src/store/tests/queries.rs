use std::path::PathBuf;

use super::records::sample;
use crate::ids::NodeId;
use crate::record::{IterationRecord, Metric, Outcome, Status};
use crate::store::{Database, MetricError, StoreError, merge, write_iteration};

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
    let expected = MetricError::Unknown { asked: "rqs".to_owned(), known: vec!["rps".to_owned()] };
    assert_eq!(error(&[sample(1)], "rqs"), expected);
    assert_eq!(error(&[], "rps"), MetricError::Unknown { asked: "rps".to_owned(), known: vec![] });
}

#[test]
fn client_and_server_are_never_averaged() {
    let mut record = sample(1);
    let server = Metric { node: Some(NodeId::server(1)), value: Some(3.0), ..record.metrics[0].clone() };
    record.metrics.push(server);
    let MetricError::Ambiguous { choices, .. } = error(&[record.clone()], "rps") else { panic!() };
    assert_eq!(choices, ["application.rps@client", "application.rps@server"]);
    let (database, _dir) = database(&[record]);
    for asked in ["rps@server", "application.rps@server"] {
        assert_eq!(database.values(asked, &[Status::Complete]).unwrap().values[0].value, 3.0);
    }
    let metrics = database.metrics().unwrap();
    assert_eq!(metrics.iter().map(|m| (m.full_name(), m.iterations, m.values)).collect::<Vec<_>>(), [
        ("application.rps@client".to_owned(), 1, 2),
        ("application.rps@server".to_owned(), 1, 1),
    ]);
}

#[test]
fn units_do_not_mix() {
    let mut other = sample(2);
    other.metrics.iter_mut().for_each(|m| m.unit = "1/min".to_owned());
    assert!(matches!(error(&[sample(1), other], "rps"), MetricError::Units { .. }));
}
