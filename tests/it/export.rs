//! `vptest export`, read back by others.

use std::process::Command;

use crate::campaign::Campaign;
use crate::need::need;

const SPEC: &str = r#"
name = "export"
repetitions = 3
seed = 1
[factors]
testbed = "fake"
note = ["plain", "with, comma and \"quotes\""]
[workload]
preset = "ab"
"#;

fn exported() -> (Campaign, String) {
    let campaign = Campaign::planned(SPEC);
    campaign.expect(0, &["run"]);
    let files: Vec<String> = campaign.files().iter().map(|name| format!("out/{name}")).collect();
    let mut merge = vec!["merge"];
    merge.extend(files.iter().map(String::as_str));
    campaign.expect(0, &merge);
    // A busy machine makes them suspect.
    let text = campaign.expect(0, &["export", "--include", "suspect"]).out;
    (campaign, text)
}

/// Values of `rps` as the database has them, by repetition and note.
fn expected(campaign: &Campaign) -> Vec<(String, f64)> {
    let db = rusqlite::Connection::open(campaign.path().join("merged.db")).unwrap();
    let sql = "SELECT f.value, m.value FROM metric m JOIN factor f ON f.iteration = m.iteration AND f.name = 'note'
               JOIN iteration i ON i.id = m.iteration WHERE m.name = 'rps' AND i.status IN ('complete', 'suspect') ORDER BY i.number";
    let mut statement = db.prepare(sql).unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

#[test]
fn python_reads_what_the_database_holds() {
    if !need("python3", Command::new("python3").arg("--version").output().is_ok_and(|o| o.status.success())) {
        return;
    }
    let (campaign, text) = exported();
    std::fs::write(campaign.path().join("values.csv"), text).unwrap();
    let script = "import csv, json\n\
        rows = list(csv.DictReader(open('values.csv', newline='')))\n\
        rps = [r for r in rows if r['level'] == 'application' and r['metric'] == 'rps']\n\
        rps.sort(key=lambda r: int(r['iteration']))\n\
        print(json.dumps([[r['factor.note'], float(r['value'])] for r in rps]))";
    let output = Command::new("python3").args(["-c", script]).current_dir(campaign.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Vec<(String, f64)> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read.len(), 6);
    assert_eq!(read, expected(&campaign), "every digit survives");
}

#[test]
fn pandas_gives_the_documented_answer() {
    // The first Python in `PATH` need not be the one that Debian's packages are for.
    let has =
        |python: &&str| Command::new(python).args(["-c", "import pandas"]).output().is_ok_and(|o| o.status.success());
    let python = ["python3", "/usr/bin/python3"].into_iter().find(has);
    if !need("pandas", python.is_some()) {
        return;
    }
    let (campaign, text) = exported();
    std::fs::write(campaign.path().join("values.csv"), text).unwrap();
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/export.md")).unwrap();
    let snippet =
        docs.split("```python\n").nth(1).unwrap().split("```").next().unwrap().replace("factor.mtu", "factor.note");
    let output = Command::new(python.unwrap()).args(["-c", &snippet]).current_dir(campaign.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let values = expected(&campaign);
    for note in ["plain", "with, comma"] {
        let of: Vec<f64> = values.iter().filter(|(n, _)| n.starts_with(note)).map(|(_, v)| *v).collect();
        let mean = of.iter().sum::<f64>() / 3.0;
        let line = said.lines().find(|line| line.starts_with(note)).unwrap();
        let words: Vec<f64> =
            line.rsplit_terminator(' ').filter(|w| !w.is_empty()).take(3).map(|w| w.parse().unwrap()).collect();
        assert!((words[1] - mean).abs() <= 1e-5 * mean && words[2] == 3.0, "{said}\n{mean}");
    }
}

#[test]
fn the_table_is_whole_or_absent() {
    let (campaign, text) = exported();
    campaign.expect(0, &["export", "--include", "suspect", "-o", "values.csv"]);
    assert_eq!(std::fs::read_to_string(campaign.path().join("values.csv")).unwrap(), text);
    let said = campaign.expect(3, &["export", "-o", "none/values.csv"]);
    assert!(said.err.contains("none/values.csv"), "{}", said.err);
    assert!(
        text.lines()
            .next()
            .unwrap()
            .starts_with("iteration,identity,repetition,block,attempt,status,host,started_ns,factor.")
    );
}

/// Lines of a CSV, quoted cells and all.
#[cfg(feature = "parquet")]
fn csv_rows(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => cell.extend(rest.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut cell)),
            '\n' if !quoted => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            c => cell.push(c),
        }
    }
    rows
}

#[cfg(feature = "parquet")]
mod as_parquet {
    use std::fs::File;
    use std::path::Path;
    use std::process::Command;

    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::record::Field;
    use vptest::ids::{Level, NodeId};
    use vptest::record::Metric;
    use vptest::store::{merge, write_iteration};

    use super::csv_rows;
    use crate::campaign::Campaign;
    use crate::need::need;
    use crate::store::record;

    /// Names of the columns, then the rows, as the CSV has them; NULL is empty.
    fn parquet_rows(path: &Path) -> Vec<Vec<String>> {
        let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
        let columns = reader.metadata().file_metadata().schema().get_fields().iter();
        let mut rows: Vec<Vec<String>> = vec![columns.map(|column| column.name().to_owned()).collect()];
        let text = |field: &Field| match field {
            Field::Null => String::new(),
            Field::Str(text) => text.clone(),
            Field::UInt(n) => n.to_string(),
            Field::Long(n) => n.to_string(),
            Field::Double(x) => format!("{x:?}"),
            other => panic!("a column of type {other:?}"),
        };
        for row in reader {
            rows.push(row.unwrap().get_column_iter().map(|(_, field)| text(field)).collect());
        }
        rows
    }

    const NOTES: [&str; 2] = ["plain", "with, comma and \"quotes\""];

    /// Six iterations: the second has no value of `rps`, the third no `cpu` at all, the fourth no note.
    fn with_gaps() -> (Campaign, String) {
        let campaign = Campaign::new("");
        let metric = |name: &str, node, value| Metric {
            pair: None,
            node,
            level: Level::Application,
            name: name.to_owned(),
            unit: "1/s".to_owned(),
            value,
            better: None,
        };
        let one = |n: u32| {
            let mut record = record(n);
            record.factors = vec![("other".to_owned(), "x".to_owned())];
            if n != 4 {
                record.factors.push(("note".to_owned(), NOTES[n as usize % 2].to_owned()));
            }
            record.metrics = vec![metric("rps", None, (n != 2).then_some(f64::from(n) / 7.0))];
            if n != 3 {
                record.metrics.push(metric("cpu", Some(NodeId::client(1)), Some(1e-300)));
            }
            write_iteration(campaign.path(), &record).unwrap()
        };
        let files: Vec<_> = (1..=6).map(one).collect();
        assert!(merge(&files, &campaign.path().join("merged.db"), &mut |_| ()).unwrap().is_clean());
        let text = campaign.expect(0, &["export"]).out;
        let rows = csv_rows(&text);
        let empty = |column: &str| {
            let at = rows[0].iter().position(|name| name == column).unwrap();
            rows[1..].iter().filter(|row| row[at].is_empty()).count()
        };
        assert_eq!((rows.len(), empty("value"), empty("factor.note"), empty("role")), (12, 1, 2, 6));
        (campaign, text)
    }

    #[test]
    fn parquet_holds_what_the_csv_holds() {
        let (campaign, text) = with_gaps();
        campaign.expect(0, &["export", "--format", "parquet", "-o", "values.parquet"]);
        assert_eq!(parquet_rows(&campaign.path().join("values.parquet")), csv_rows(&text), "every digit, every NULL");
        // Standard output takes it, too.
        let piped = campaign.command(&["export", "--format", "parquet"]).output().unwrap();
        assert!(piped.stdout.starts_with(b"PAR1") && piped.stdout.ends_with(b"PAR1"));
    }

    #[test]
    fn parts_are_whole_and_named_after_their_value() {
        let (campaign, text) = with_gaps();
        let export = |more: &[&'static str]| [&["export", "--partition-by", "note", "-o", "parts"], more].concat();
        campaign.expect(0, &export(&["--format", "parquet"]));
        let whole = csv_rows(&text);
        let note = whole[0].iter().position(|name| name == "factor.note").unwrap();
        let without = |row: &Vec<String>| {
            let mut row = row.clone();
            row.remove(note);
            row
        };
        let places =
            [(NOTES[0], "plain"), (NOTES[1], "with%2C comma and %22quotes%22"), ("", "__HIVE_DEFAULT_PARTITION__")];
        for (value, place) in places {
            let part = parquet_rows(&campaign.path().join(format!("parts/factor.note={place}/part-0.parquet")));
            let mut expected = vec![without(&whole[0])];
            expected.extend(whole.iter().filter(|row| row[note] == value).map(without));
            assert_eq!(part, expected);
        }
        assert_eq!(std::fs::read_dir(campaign.path().join("parts")).unwrap().count(), 3);
        let said = campaign.expect(2, &export(&["--format", "parquet"]));
        assert!(said.err.contains("parts is there already"), "{}", said.err);
        std::fs::remove_dir_all(campaign.path().join("parts")).unwrap();
        campaign.expect(0, &export(&[]));
        assert!(campaign.path().join("parts/factor.note=plain/part-0.csv").is_file());
        let said = campaign.expect(2, &["export", "--partition-by", "nte", "-o", "other"]);
        assert!(said.err.contains("did you mean `note`?"), "{}", said.err);
        let left = std::fs::read_dir(campaign.path()).unwrap().filter_map(Result::ok);
        let left: Vec<_> =
            left.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().starts_with('.')).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn python_reads_types_and_parts() {
        let python = std::env::var("VPTEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let has = Command::new(&python).args(["-c", "import pyarrow"]).output().is_ok_and(|o| o.status.success());
        if !need("pyarrow", has) {
            return;
        }
        let (campaign, text) = with_gaps();
        campaign.expect(0, &["export", "--format", "parquet", "--partition-by", "note", "-o", "parts"]);
        let script = "import pyarrow.dataset as ds\n\
            t = ds.dataset('parts', partitioning='hive').to_table()\n\
            print(t.num_rows, sum(v is None for v in t['value'].to_pylist()))\n\
            print(t.schema.field('value').type, t.schema.field('iteration').type, t.schema.field('started_ns').type)\n\
            print(sorted(str(note) for note in set(t['factor.note'].to_pylist())))";
        let output = Command::new(&python).args(["-c", script]).current_dir(campaign.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rows = csv_rows(&text);
        let nulls = rows[1..].iter().filter(|row| row.last().unwrap().is_empty()).count();
        let expected = format!(
            "{} {nulls}\ndouble uint32 int64\n['None', 'plain', 'with, comma and \"quotes\"']\n",
            rows.len() - 1
        );
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}
