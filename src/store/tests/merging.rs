use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::records::sample;
use crate::record::IterationRecord;
use crate::store::{MergeReport, RecordFile, StoreError, merge, write_iteration};

fn run(inputs: &[PathBuf], output: &Path) -> MergeReport {
    let mut done = 0;
    let report = merge(inputs, output, &mut |progress| done = progress.done).unwrap();
    assert_eq!(done, inputs.len());
    report
}

/// Content of a database, whatever the order of its iterations.
fn content(path: &Path) -> Vec<IterationRecord> {
    let file = RecordFile::open(path).unwrap();
    let mut records: Vec<_> = file.records().unwrap().map(|r| r.unwrap().record).collect();
    records.sort_by_key(|r| (r.header.identity, r.header.attempt, r.header.host.clone(), r.header.started_ns));
    records
}

fn write_samples(dir: &Path, count: u32) -> Vec<PathBuf> {
    (1..=count).map(|n| write_iteration(dir, &sample(n)).unwrap()).collect()
}

#[test]
fn merging_again_changes_not_one_byte() {
    let dir = tempfile::tempdir().unwrap();
    let mut inputs = write_samples(dir.path(), 20);
    let output = dir.path().join("merged.db");
    let first = run(&inputs, &output);
    assert_eq!((first.files, first.added, first.known), (20, 20, 0));
    let before = std::fs::read(&output).unwrap();
    inputs.push(output.clone());
    let again = run(&inputs, &output);
    assert_eq!((again.files, again.added, again.known, again.own), (20, 0, 20, 1));
    assert!(again.is_clean());
    assert_eq!(std::fs::read(&output).unwrap(), before);
    assert_eq!(content(&output), {
        let mut all: Vec<_> = (1..=20).map(sample).collect();
        all.sort_by_key(|r| r.header.identity);
        all
    });
}

#[test]
fn the_same_call_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = write_samples(dir.path(), 50);
    let (a, b) = (dir.path().join("a.db"), dir.path().join("b.db"));
    run(&inputs, &a);
    run(&inputs, &b);
    assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap(), "two merges of the same files differ");
}

#[test]
fn a_database_without_iterations_is_an_input_too() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, output) = (dir.path().join("empty.db"), dir.path().join("merged.db"));
    crate::store::schema::create(&rusqlite::Connection::open(&empty).unwrap()).unwrap();
    assert_eq!(run(&[empty], &output).files, 1);
    assert!(content(&output).is_empty());
}

#[test]
fn what_contradicts_is_named_and_the_first_stays() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let first = write_iteration(dir.path(), &sample(1)).unwrap();
    let mut different = sample(1);
    different.metrics[0].value = Some(-1.0);
    let second = write_iteration(other.path(), &different).unwrap();
    let output = dir.path().join("merged.db");
    let report = run(&[first.clone(), second.clone()], &output);
    assert_eq!((report.added, report.conflicts.len()), (1, 1));
    assert_eq!(report.conflicts[0].path, second);
    assert!(!report.is_clean());
    assert_eq!(content(&output), [sample(1)]);
    assert_eq!(run(&[second], &output).conflicts.len(), 1);
}

#[test]
fn the_same_attempt_on_two_hosts_is_two_attempts() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let mut elsewhere = sample(1);
    elsewhere.header.host = "lab2".to_owned();
    let inputs = [write_iteration(dir.path(), &sample(1)).unwrap(), write_iteration(other.path(), &elsewhere).unwrap()];
    assert_eq!(run(&inputs, &dir.path().join("merged.db")).added, 2);
}

#[test]
fn nothing_is_taken_from_a_merged_file_that_is_damaged_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = write_samples(dir.path(), 30);
    let damaged = dir.path().join("damaged.db");
    run(&inputs, &damaged);
    let sqlite = rusqlite::Connection::open(&damaged).unwrap();
    sqlite.execute_batch("UPDATE metric SET value = 0 WHERE iteration = 29").unwrap();
    drop(sqlite);
    let output = dir.path().join("merged.db");
    let report = run(&[damaged.clone(), inputs[0].clone()], &output);
    assert_eq!((report.added, report.refused.len()), (1, 1));
    let error = merge(&inputs[..1], &damaged, &mut |_| ()).map(|r| r.known);
    assert_eq!(error.unwrap(), 1, "looking up needs no verification");
    let new = write_iteration(dir.path(), &sample(31)).unwrap();
    let error = merge(&[new], &damaged, &mut |_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "a damaged output was extended");
}

#[test]
fn a_foreign_output_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = write_samples(dir.path(), 1);
    let output = dir.path().join("thesis.tex");
    std::fs::write(&output, vec![b'x'; 4096]).unwrap();
    let error = merge(&inputs, &output, &mut |_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert_eq!(std::fs::read(&output).unwrap(), vec![b'x'; 4096]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "a temporary file stayed");
}

#[test]
fn a_link_stays_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = write_samples(dir.path(), 2);
    let (real, link) = (dir.path().join("real.db"), dir.path().join("link.db"));
    run(&inputs[..1], &real);
    std::os::unix::fs::symlink(&real, &link).unwrap();
    run(&inputs, &link);
    assert!(link.is_symlink());
    assert_eq!(content(&real).len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Parts of 12 files, with overlaps and in any order, merged and merged again, are all 12 merged.
    #[test]
    fn any_partition_merges_to_the_same(
        parts in proptest::collection::vec(proptest::collection::vec(0..12_usize, 1..8), 1..5),
        order in Just((0..12_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let inputs = write_samples(dir.path(), 12);
        let all = dir.path().join("all.db");
        run(&inputs, &all);
        let mut merged_parts = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let files: Vec<_> = part.iter().map(|&n| inputs[n].clone()).collect();
            let output = dir.path().join(format!("part{i}.db"));
            run(&files, &output);
            merged_parts.push(output);
        }
        merged_parts.extend(order.iter().map(|&n| inputs[n].clone()));
        let together = dir.path().join("together.db");
        for chunk in merged_parts.chunks(3) {
            let report = run(chunk, &together);
            prop_assert!(report.is_clean());
        }
        prop_assert_eq!(content(&together), content(&all));
    }
}

#[test]
fn an_iteration_file_is_never_the_output() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = write_samples(dir.path(), 2);
    let before = std::fs::read(&inputs[0]).unwrap();
    let link = dir.path().join("link.db");
    std::os::unix::fs::symlink(&inputs[0], &link).unwrap();
    for output in [&inputs[0], &link] {
        let error = merge(&inputs[1..], output, &mut |_| ()).unwrap_err();
        assert!(matches!(error, StoreError::OutputIsIteration { .. }), "{error}");
    }
    assert_eq!(std::fs::read(&inputs[0]).unwrap(), before);
}

#[test]
fn without_a_readable_input_no_output_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("merged.db");
    assert_eq!(run(&[dir.path().join("absent.db")], &output).refused.len(), 1);
    assert_eq!(run(&[], &output).files, 0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn of_a_file_whose_attempt_is_there_only_the_head_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = write_samples(dir.path(), 3);
    let output = dir.path().join("merged.db");
    run(&inputs, &output);
    // What a full reading would refuse.
    let sqlite = rusqlite::Connection::open(&inputs[0]).unwrap();
    sqlite.execute_batch("UPDATE metric SET value = value + 1").unwrap();
    drop(sqlite);
    let again = run(&inputs, &output);
    assert_eq!((again.files, again.known, again.added, again.refused.len()), (3, 3, 0, 0));
    let elsewhere = run(&inputs, &dir.path().join("other.db"));
    assert_eq!((elsewhere.added, elsewhere.refused.len()), (2, 1));
}

#[test]
fn iterations_that_were_completed_twice_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut inputs = write_samples(dir.path(), 2);
    let mut second = sample(2);
    (second.header.attempt, second.header.host) = (2, "another".to_owned());
    second.outcome = crate::record::Outcome::Complete;
    let first = RecordFile::open(&inputs[1]).unwrap().records().unwrap().next().unwrap().unwrap().record;
    assert_eq!(first.outcome, crate::record::Outcome::Complete);
    inputs.push(write_iteration(dir.path(), &second).unwrap());
    let output = dir.path().join("merged.db");
    assert_eq!(run(&inputs, &output).repeated, 1);
    assert_eq!(run(&inputs, &output).repeated, 1, "also when nothing is added");
    assert_eq!(run(&inputs[..2], &dir.path().join("once.db")).repeated, 0);
}
