use std::path::Path;

use proptest::prelude::*;

use super::records::{record, sample};
use crate::record::{IterationRecord, Outcome, Status};
use crate::store::{RecordFile, StoreError, heads, scan, stale_temps, write_iteration};

fn read(path: &Path) -> Vec<IterationRecord> {
    RecordFile::open(path).unwrap().records().unwrap().map(|r| r.unwrap().record).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(record in record()) {
        let dir = tempfile::tempdir().unwrap();
        let path = write_iteration(dir.path(), &record).unwrap();
        prop_assert_eq!(read(&path), [record]);
    }
}

#[test]
fn sqlite_finds_nothing_wrong_with_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_iteration(dir.path(), &sample(7)).unwrap();
    let sqlite = rusqlite::Connection::open(&path).unwrap();
    let check: String = sqlite.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let violations = sqlite.prepare("PRAGMA foreign_key_check").unwrap().query([]).unwrap().next().unwrap().is_some();
    assert!(!violations);
    let mean: f64 = sqlite.query_row("SELECT avg(value) FROM metric WHERE name='rps'", [], |row| row.get(0)).unwrap();
    assert_eq!(mean, 1007.25);
    drop(sqlite);
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, [path.file_name().unwrap()], "something lies beside the file");
}

#[test]
fn numbers_that_are_not_finite_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut record = sample(1);
        record.metrics[1].value = Some(value);
        record.metrics[1].name = "goodput".to_owned();
        let error = write_iteration(dir.path(), &record).unwrap_err();
        assert!(matches!(error, StoreError::Record(_)), "{error}");
        assert!(error.to_string().contains("goodput"), "{error}");
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "a refused record left a file");
}

#[test]
fn a_metric_cannot_be_there_twice() {
    let mut record = sample(1);
    let mut again = record.metrics[0].clone();
    again.value = Some(1.0);
    record.metrics.push(again);
    let dir = tempfile::tempdir().unwrap();
    let error = write_iteration(dir.path(), &record).unwrap_err();
    assert!(error.to_string().contains("rps is there twice"), "{error}");
}

#[test]
fn an_attempt_never_overwrites_another() {
    let dir = tempfile::tempdir().unwrap();
    let first = sample(1);
    let path = write_iteration(dir.path(), &first).unwrap();
    let mut second = first.clone();
    second.metrics.clear();
    let error = write_iteration(dir.path(), &second).unwrap_err();
    assert!(matches!(&error, StoreError::AlreadyExists { path: p } if *p == path), "{error}");
    assert_eq!(read(&path), [first]);
}

#[test]
fn of_many_writers_of_one_attempt_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let records: Vec<_> = (0..8)
        .map(|i| {
            let mut record = sample(1);
            record.metrics[0].value = Some(f64::from(i));
            record
        })
        .collect();
    let results: Vec<_> = std::thread::scope(|scope| {
        let writers: Vec<_> =
            records.iter().map(|record| scope.spawn(|| write_iteration(dir.path(), record))).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let winners: Vec<_> = results.iter().enumerate().filter(|(_, result)| result.is_ok()).collect();
    assert_eq!(winners.len(), 1);
    let losers = results.iter().filter(|r| matches!(r, Err(StoreError::AlreadyExists { .. }))).count();
    assert_eq!(losers, 7);
    let (winner, path) = (winners[0].0, winners[0].1.as_ref().unwrap());
    assert_eq!(read(path), [records[winner].clone()]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file stayed");
    assert!(stale_temps(dir.path()).unwrap().is_empty());
}

#[test]
fn statuses_are_read_and_damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut failed = sample(2);
    failed.outcome = Outcome::TimedOut { stage: crate::ids::Stage::Workload };
    write_iteration(dir.path(), &sample(1)).unwrap();
    write_iteration(dir.path(), &failed).unwrap();
    let broken = write_iteration(dir.path(), &sample(3)).unwrap();
    std::fs::write(&broken, b"SQLite format 3\0").unwrap();
    let renamed = write_iteration(dir.path(), &sample(4)).unwrap();
    std::fs::rename(&renamed, dir.path().join("000005-ba7816bf8f0101.db")).unwrap();

    let mut heads = heads(dir.path()).unwrap();
    heads.sort_by_key(|(name, _)| name.number);
    assert_eq!(heads.len(), scan(dir.path()).unwrap().len());
    assert_eq!(heads[0].1.as_ref().unwrap().outcome.status(), Status::Complete);
    assert_eq!(heads[1].1.as_ref().unwrap().outcome.status(), Status::TimedOut);
    let broken_error = heads[2].1.as_ref().unwrap_err().to_string();
    assert!(broken_error.contains(&*broken.to_string_lossy()), "{broken_error}");
    assert!(heads[3].1.is_err(), "a file under another attempt's name was believed");
}

#[test]
fn a_typical_iteration_is_small() {
    let mut record = sample(1);
    for i in 0..38 {
        let mut metric = record.metrics[0].clone();
        metric.name = format!("metric_number_{i}");
        metric.value = Some(1.0 / f64::from(i + 1));
        record.metrics.push(metric);
    }
    record.syscalls.clear();
    record.probes.clear();
    record.counters.clear();
    record.factors = (0..40).map(|i| (format!("factor_{i:02}"), format!("value {i}"))).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = write_iteration(dir.path(), &record).unwrap();
    let bytes = std::fs::metadata(path).unwrap().len();
    // Each of the tables takes a page, empty or not, and the text of its schema.
    assert!(bytes <= 60 * 1024, "{bytes} bytes");
}
