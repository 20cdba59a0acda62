//! `[sentinel]`: one tuple between all others, which counts nowhere and shows how the host behaved.

use serde_json::Value;

use crate::campaign::{Campaign, FAKE};

const SENTINEL: &str = "[sentinel]\nevery = 4\ntuple = { workers = 10 }";

fn spec(sentinel: &str) -> String {
    FAKE.replace("[factors]", &format!("{sentinel}\n\n[factors]")).replace("repetitions = 3", "repetitions = 6")
}

fn merge(campaign: &Campaign) {
    let files: Vec<String> = campaign.files().iter().map(|name| format!("out/{name}")).collect();
    campaign.expect(0, &[&["merge"], &files.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
}

fn json(campaign: &Campaign, arguments: &[&str]) -> Value {
    let said = campaign.expect(0, &[arguments, &["--format", "json"]].concat());
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.out))
}

#[test]
fn sentinels_are_planned_run_marked_and_kept_apart() {
    let campaign = Campaign::new(&spec(SENTINEL));
    let said = campaign.expect(0, &["sweep", "params.toml"]);
    assert!(said.out.contains("16 iterations = 2 tuples × 6 repetitions + 4 sentinels"), "{}", said.out);
    let plan = json(&campaign, &["sweep", "params.toml"]);
    let iterations = plan["iterations"].as_array().unwrap();
    let marked: Vec<u64> =
        iterations.iter().filter(|one| one["sentinel"] == true).map(|one| one["number"].as_u64().unwrap()).collect();
    assert_eq!(marked, [1, 6, 11, 16]);
    assert!(iterations.iter().filter(|one| one["sentinel"] == true).all(|one| one["factors"]["workers"] == 10));
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.files().len(), 16);
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.files().len(), 16, "nothing is left to do");
    merge(&campaign);
    let db = rusqlite::Connection::open(campaign.path().join("merged.db")).unwrap();
    let sql = "SELECT group_concat(number) FROM (SELECT number FROM iteration JOIN environment ON iteration = id \
               WHERE name = 'sentinel' ORDER BY number)";
    assert_eq!(db.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap(), "1,6,11,16");
    drop(db);
    let answer = json(&campaign, &["analyze", "--metric", "rps"]);
    let counts: Vec<_> = answer["groups"].as_array().unwrap().iter().map(|group| group["n"].as_u64()).collect();
    assert_eq!(counts, [Some(6), Some(6)], "sentinels are no repetitions of their tuple");
    assert_eq!(answer["left_out"]["total"], 0);
    let sentinels = json(&campaign, &["analyze", "--metric", "rps", "--sentinels"]);
    let rows = sentinels["rows"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["n"], &rows[0]["metric"]), (1, &4.into(), &"rps".into()));
    let table = campaign.expect(0, &["analyze", "--metric", "rps"]).out;
    assert!(table.contains("4 sentinels count in no contrast."), "{table}");
    campaign.expect(0, &["report"]);
    let csv = campaign.expect(0, &["export", "--format", "csv"]).out;
    assert_eq!(csv.lines().filter(|line| line.contains(",rps,")).count(), 12, "{csv}");
}

#[test]
fn the_spec_of_a_campaign_can_get_sentinels_later() {
    let campaign = Campaign::planned(&spec(""));
    campaign.expect(0, &["run"]);
    let before = campaign.files();
    assert_eq!(before.len(), 12);
    std::fs::write(campaign.path().join("params.toml"), spec(SENTINEL)).unwrap();
    campaign.expect(0, &["sweep", "params.toml"]);
    campaign.expect(0, &["run"]);
    let after = campaign.files();
    assert_eq!(after.len(), 16, "repetitions that were run stay");
    assert!(before.iter().all(|name| after.contains(name)));
}

/// Without any change of the programs the fake testbed draws from one distribution; here the values are given.
#[test]
fn a_host_that_drifts_is_said_to() {
    let campaign = Campaign::new("");
    let out = campaign.path().join("in");
    std::fs::create_dir(&out).unwrap();
    let mut arguments = vec!["merge".to_owned()];
    for number in 1..=60_u32 {
        let mut record = crate::store::record(number);
        let (sentinel, n) = (number % 2 == 1, f64::from(number));
        let wobble = f64::from((number * 7) % 5) * 0.1;
        record.factors = vec![("driver".to_owned(), if number % 4 < 2 { "a" } else { "b" }.to_owned())];
        record.header.tuple = vptest::ids::ShortHash::of(record.factors[0].1.as_bytes());
        if sentinel {
            record.header.tuple = vptest::ids::ShortHash::of(b"a");
            record.factors[0].1 = "a".to_owned();
            let environment = |name: &str, value: &str| vptest::record::Environment {
                host: "here".to_owned(),
                name: name.to_owned(),
                value: value.to_owned(),
            };
            record.environment = vec![environment(vptest::record::SENTINEL, &number.div_ceil(2).to_string())];
        }
        record.metrics = vec![vptest::record::Metric {
            pair: None,
            node: None,
            level: vptest::ids::Level::Application,
            name: "rps".to_owned(),
            unit: "1/s".to_owned(),
            value: Some(if sentinel { 100.0 + 0.2 * n + wobble } else { 100.0 + wobble }),
            better: None,
        }];
        arguments.push(vptest::store::write_iteration(&out, &record).unwrap().display().to_string());
    }
    campaign.expect(0, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let table = campaign.expect(0, &["analyze", "--metric", "rps", "--by", "driver"]).out;
    assert!(
        table.contains("30 sentinels count in no contrast.")
            && table.contains("Sentinels: rps on here: values drift by +"),
        "{table}"
    );
    let row = &json(&campaign, &["analyze", "--metric", "rps", "--sentinels"])["rows"][0];
    assert!(row["drift_percent"].as_f64().unwrap() > 8.0 && row["drift_p"].as_f64().unwrap() < 0.001, "{row}");
    assert!(!row["jumps"].as_str().unwrap().is_empty(), "{row}");
}

#[test]
fn without_sentinels_that_is_what_is_said() {
    let campaign = Campaign::planned(FAKE);
    campaign.expect(0, &["run"]);
    merge(&campaign);
    let said = campaign.expect(1, &["analyze", "--metric", "rps", "--sentinels"]);
    assert!(
        said.err.contains("the database has no sentinels") && said.err.contains("[sentinel] every"),
        "{}",
        said.err
    );
}

#[test]
fn sentinels_between_iterations_that_are_not_needed_are_not_run() {
    let stop = "[sentinel]\nevery = 4\n\n[stop]\nmetric = \"rps\"\nhalf_width = \"1 %\"\nmax = 30";
    let text = FAKE.replace("[factors]", &format!("{stop}\n\n[factors]")).replace("repetitions = 3\n", "");
    let campaign = Campaign::planned(&text);
    campaign.expect(0, &["run"]);
    let status = json(&campaign, &["status"]);
    assert_eq!((&status["planned"], &status["left"], &status["untried"]), (&76.into(), &0.into(), &0.into()));
    let (complete, settled) = (status["complete"].as_u64().unwrap(), status["settled"].as_u64().unwrap());
    assert_eq!(complete + settled, 76);
    let plan = json(&campaign, &["sweep", "params.toml"]);
    let sentinel = |number: u32| plan["iterations"][number as usize - 1]["sentinel"] == true;
    let run: Vec<u32> = campaign.outcomes().iter().map(|outcome| outcome.0).collect();
    let last = *run.iter().rfind(|&&number| !sentinel(number)).unwrap();
    let sentinels = run.iter().filter(|&&number| sentinel(number)).count();
    // One before every stretch of four of which something was run, and one after.
    assert!(run.iter().all(|&number| number <= last.next_multiple_of(5) + 1), "{run:?}");
    assert!(sentinels >= 3 && sentinels <= usize::try_from(last.div_ceil(5)).unwrap() + 1, "{run:?}");
    let files = campaign.files();
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.files(), files);
}
