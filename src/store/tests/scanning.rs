//! What is read fast is what a full reading gives, and damage never passes for data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::records::sample;
use crate::record::{IterationRecord, Status};
use crate::store::insert::Inserter;
use crate::store::rows::Digest;
use crate::store::{Database, Dataset, Reading, StoreError, merge, schema, write_iteration};

fn merged(dir: &Path, records: &[IterationRecord]) -> PathBuf {
    let files: Vec<_> = records.iter().map(|record| write_iteration(dir, record).unwrap()).collect();
    let output = dir.join("merged.db");
    assert!(merge(&files, &output, &mut |_| ()).unwrap().is_clean());
    output
}

/// Records that differ in their values and in which metrics they have.
fn records(n: u32) -> Vec<IterationRecord> {
    let one = |n: u32| {
        let mut record = sample(n);
        for (i, metric) in record.metrics.iter_mut().enumerate() {
            metric.value = metric.value.map(|x| x + f64::from(n) / 7.0 + f64::from(u32::try_from(i).unwrap()));
        }
        if n.is_multiple_of(3) {
            record.metrics.pop();
        }
        record
    };
    (1..=n).map(one).collect()
}

/// Values by metric and number of the iteration, as the dataset has them.
fn found(dataset: &Dataset) -> BTreeMap<(String, u32), f64> {
    let mut all = BTreeMap::new();
    for metric in &dataset.metrics {
        for (iteration, reading) in dataset.iterations.iter().zip(&metric.values) {
            if let Reading::Value { mean, .. } = reading {
                all.insert((metric.full_name(), iteration.header.number.0), *mean);
            }
        }
    }
    all
}

/// The same out of whole records.
fn expected(records: &[IterationRecord]) -> BTreeMap<(String, u32), f64> {
    let mut sums: BTreeMap<(String, u32), Vec<Option<f64>>> = BTreeMap::new();
    for record in records {
        for m in &record.metrics {
            let role = crate::store::query::role(m.node);
            let name = crate::store::query::full_name(m.level, &m.name, role.as_deref());
            sums.entry((name, record.header.number.0)).or_default().push(m.value);
        }
    }
    let mean = |values: Vec<Option<f64>>| {
        let all: Option<Vec<f64>> = values.into_iter().collect();
        // Of one pair alone, the iteration's value is not known.
        all.filter(|all| all.len() == 2)
            .map(|all| all.iter().sum::<f64>() / f64::from(u32::try_from(all.len()).unwrap()))
    };
    sums.into_iter().filter_map(|(key, values)| Some((key, mean(values)?))).collect()
}

#[test]
fn columns_are_what_records_say() {
    let dir = tempfile::tempdir().unwrap();
    // More than one stretch for each CPU, and a last one that is shorter.
    let records = records(61);
    let database = Database::open(&merged(dir.path(), &records)).unwrap();
    let dataset = database.dataset(&Status::ALL).unwrap();
    assert_eq!(dataset.iterations.len(), 61);
    assert_eq!(found(&dataset), expected(&records));
    assert!(dataset.metrics.iter().all(|metric| metric.values.len() == 61));
    for metric in &dataset.metrics {
        let alone = database.values(&metric.full_name(), &Status::ALL).unwrap();
        assert_eq!(alone, dataset.observations(metric).unwrap(), "{}", metric.full_name());
    }
}

#[test]
fn rows_that_repeat_but_for_one_column_are_read_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    // SQLite stores whole numbers, small ones, NULL and texts of different lengths each in another way.
    let values = [None, Some(0.0), Some(1.0), Some(-7.0), Some(70_000.0), Some(1e15), Some(0.1), Some(-1e300)];
    let one = |n: u32| {
        let mut record = sample(n);
        for name in ["a", "b", "c"] {
            let other = crate::record::Metric { name: name.to_owned(), ..record.metrics[0].clone() };
            record.metrics.push(other);
        }
        let shape = n as usize % 3;
        record.metrics.rotate_left(shape);
        record.metrics.truncate(record.metrics.len() - shape);
        for (i, metric) in record.metrics.iter_mut().enumerate() {
            metric.value = values[(n as usize + i) % values.len()];
        }
        record.factors.push(("length".to_owned(), "x".repeat(n as usize % 90)));
        record.environment[0].value = "y".repeat(n as usize % 80 + 1);
        record
    };
    // From 128 on the number of an iteration takes two bytes.
    let records: Vec<IterationRecord> = (1..=140).map(one).collect();
    let database = Database::open(&merged(dir.path(), &records)).unwrap();
    let dataset = database.dataset(&Status::ALL).unwrap();
    assert_eq!(found(&dataset), expected(&records));
    let missing = |r: &Reading| *r == Reading::Missing;
    assert!(dataset.metrics.iter().flat_map(|metric| &metric.values).any(missing));
    for (iteration, record) in dataset.iterations.iter().zip(&records) {
        assert_eq!(iteration.header, record.header);
        for (name, value) in &record.factors {
            assert_eq!(iteration.factors.get(name), Some(value), "{name}");
        }
    }
    let listed = database.metrics().unwrap();
    let rows: u64 = listed.iter().map(|metric| metric.values + metric.missing).sum();
    assert_eq!(rows, records.iter().map(|record| record.metrics.len() as u64).sum::<u64>());
}

#[test]
fn no_flipped_bit_changes_a_value() {
    let dir = tempfile::tempdir().unwrap();
    let records = records(6);
    let path = merged(dir.path(), &records);
    let whole = std::fs::read(&path).unwrap();
    let right = found(&Database::open(&path).unwrap().dataset(&Status::ALL).unwrap());
    let flipped = dir.path().join("flipped.db");
    let (mut tried, mut refused) = (0, 0);
    for at in (100..whole.len()).step_by(241) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&flipped, &bytes).unwrap();
        tried += 1;
        match Database::open(&flipped).and_then(|database| database.dataset(&Status::ALL)) {
            Ok(dataset) => assert_eq!(found(&dataset), right, "byte {at}"),
            Err(error) => {
                assert!(matches!(
                    error,
                    StoreError::Corrupt { .. } | StoreError::Version { .. } | StoreError::Foreign { .. }
                ));
                refused += 1;
            }
        }
    }
    assert!(refused > tried / 50, "only {refused} of {tried} flips were noticed");
}

/// A file with right hashes over a record that breaks the rules.
fn forged(dir: &Path, record: &IterationRecord) -> PathBuf {
    let path = dir.join("forged.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    schema::create(&connection).unwrap();
    Inserter::new(&connection).unwrap().insert(record, &Digest::of(record)).unwrap();
    path
}

#[test]
fn right_hashes_over_wrong_rows_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut record = sample(1);
    let again = record.metrics[0].clone();
    record.metrics.push(again);
    let error = Database::open(&forged(dir.path(), &record)).unwrap().dataset(&Status::ALL).unwrap_err();
    assert!(error.to_string().contains("twice"), "{error}");
}

#[test]
fn rows_that_belong_to_no_iteration_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = merged(dir.path(), &records(5));
    for iteration in [-1, 99] {
        let copy = dir.path().join("copy.db");
        std::fs::copy(&path, &copy).unwrap();
        let connection = rusqlite::Connection::open(&copy).unwrap();
        connection.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        let sql = "INSERT INTO metric SELECT ?1, position, pair, node, level, name, unit, value, better FROM metric WHERE iteration = 1";
        assert!(connection.execute(sql, [iteration]).unwrap() > 0);
        drop(connection);
        let error = Database::open(&copy).unwrap().dataset(&Status::ALL).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    }
}
