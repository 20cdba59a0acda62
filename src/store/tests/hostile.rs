//! Databases that somebody made to look like ours.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::records::sample;
use crate::store::{StoreError, merge, write_iteration};

/// A good file, changed by `sql`.
fn changed(dir: &Path, sql: &str) -> PathBuf {
    let path = write_iteration(dir, &sample(1)).unwrap();
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    path
}

/// Merges a changed file and a good one; returns why the changed one was refused, if it was.
fn merged(sql: &str) -> (Option<StoreError>, u64) {
    let dir = tempfile::tempdir().unwrap();
    let bad = changed(dir.path(), sql);
    let good = write_iteration(dir.path(), &sample(2)).unwrap();
    let output = dir.path().join("merged.db");
    let mut report = merge(&[bad, good], &output, &mut |_| ()).unwrap();
    let check: String =
        Connection::open(&output).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    (report.refused.pop(), report.added)
}

fn refused(sql: &str, expected: &str) {
    let (error, added) = merged(sql);
    let error = error.unwrap_or_else(|| panic!("accepted: {sql}")).to_string();
    assert!(error.contains(expected), "{sql}: {error}");
    assert_eq!(added, 1, "the good file was not taken");
}

#[test]
fn changed_content_is_refused() {
    refused("UPDATE metric SET value = value + 1", "SHA-256");
    refused("DELETE FROM event", "SHA-256");
    refused("UPDATE iteration SET status='suspect', reasons='[\"x\"]'", "SHA-256");
    refused("UPDATE iteration SET started_ns = 1", "SHA-256");
    refused("UPDATE metric SET value = NULL", "SHA-256");
    refused("PRAGMA foreign_keys=OFF; INSERT INTO factor VALUES(2, 'pairs', '2')", "belong to no iteration");
    refused("PRAGMA foreign_keys=OFF; INSERT INTO factor VALUES(-1, 'pairs', '2')", "SHA-256");
}

#[test]
fn values_that_go_round_the_checks_are_refused() {
    refused("PRAGMA ignore_check_constraints=ON; UPDATE metric SET value = 9e999", "value inf");
    refused("PRAGMA ignore_check_constraints=ON; UPDATE iteration SET status='done'", "status");
    refused("PRAGMA ignore_check_constraints=ON; UPDATE iteration SET attempt=5000000000", "number in its range");
    refused("PRAGMA ignore_check_constraints=ON; UPDATE metric SET node='client01'", "SHA-256");
    refused("UPDATE metric SET unit=CAST(x'ff' AS TEXT)", "UTF-8");
    refused("UPDATE event SET text=printf('%.*c', 5000000, 'x')", "more than");
}

#[test]
fn another_schema_is_refused() {
    let rewrite = |to: &str| {
        format!(
            "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql = {to} WHERE name='metric'; \
             PRAGMA writable_schema=OFF;"
        )
    };
    refused(&rewrite("replace(sql, 'value REAL', 'value BLOB')"), "not defined as");
    refused("ALTER TABLE metric RENAME TO metrics", "missing");
    refused(
        "DROP TABLE metric; CREATE VIEW metric AS WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n) \
         SELECT i FROM n",
        "missing",
    );
    refused("DROP TABLE event", "missing");
}

#[test]
fn triggers_and_views_of_an_input_do_nothing() {
    let (error, added) = merged(
        "CREATE TRIGGER t AFTER INSERT ON iteration BEGIN DELETE FROM metric; END; \
         CREATE VIEW v AS SELECT load_extension('x'); CREATE INDEX i ON metric(abs(value))",
    );
    assert!(error.is_none(), "{error:?}");
    assert_eq!(added, 2);
}

#[test]
fn an_output_with_a_trigger_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let iteration = changed(dir.path(), "CREATE TRIGGER steal AFTER INSERT ON iteration BEGIN DELETE FROM metric; END");
    let output = dir.path().join("merged.db");
    std::fs::rename(iteration, &output).unwrap();
    let before = std::fs::read(&output).unwrap();
    let input = write_iteration(dir.path(), &sample(2)).unwrap();
    let error = merge(&[input], &output, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("trigger steal"), "{error}");
    assert_eq!(std::fs::read(&output).unwrap(), before);
}

#[test]
fn foreign_and_other_versions_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let good = write_iteration(dir.path(), &sample(2)).unwrap();
    let foreign = dir.path().join("firefox.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE places(url)").unwrap();
    let newer = changed(dir.path(), "PRAGMA user_version=4");
    let text = dir.path().join("notes.db");
    std::fs::write(&text, "not a database at all").unwrap();
    let wal = dir.path().join("wal.db");
    std::fs::copy(&good, &wal).unwrap();
    Connection::open(&wal).unwrap().execute_batch("PRAGMA journal_mode=WAL; CREATE VIEW v AS SELECT 1").unwrap();
    let absent = dir.path().join("absent.db");
    let pipe = dir.path().join("pipe.db");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let bad = [foreign, newer, text, wal, absent, pipe, dir.path().to_owned()];
    let inputs: Vec<_> = bad.iter().cloned().chain([good]).collect();
    let report = merge(&inputs, &dir.path().join("merged.db"), &mut |_| ()).unwrap();
    assert_eq!(report.refused.len(), bad.len());
    for (path, error) in bad.iter().zip(&report.refused) {
        assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
    }
    assert!(matches!(report.refused[0], StoreError::Foreign { .. }));
    assert!(matches!(report.refused[1], StoreError::Version { found: 4, expected: 3, .. }));
    assert_eq!((report.files, report.added), (1, 1));
}
