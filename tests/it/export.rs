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
