//! `vptest analyze` on databases with known values.

use serde_json::Value;
use vptest::ids::{Level, ShortHash};
use vptest::record::{Metric, SPEC};

use crate::campaign::{Campaign, Said};

/// One iteration: factors as `a=1 b=2`, and metrics with their values.
type Row<'a> = (&'a str, &'a [(&'a str, Option<f64>)]);

const SPEC_TEXT: &str = "name = \"known\"\nrepetitions = 5\n[factors]\ntestbed = \"fake\"\nrate = [\"none\"]\n\
    [workload]\npreset = \"ab\"\n[analysis]\nmargin = { rps = \"10 %\" }\n";

/// A merged database of these iterations in run order.
fn merged(rows: &[Row<'_>], spec: bool) -> Campaign {
    let campaign = Campaign::new("");
    let out = campaign.path().join("in");
    std::fs::create_dir(&out).unwrap();
    let mut arguments = vec!["merge".to_owned()];
    for (number, (factors, metrics)) in (1..).zip(rows) {
        let mut record = super::store::record(number);
        record.header.tuple = ShortHash::of(factors.as_bytes());
        let pairs = factors.split(';').map(|pair| pair.split_once('=').unwrap());
        record.factors = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        if spec {
            record.environment = vec![environment(SPEC_TEXT)];
        }
        let metric = |&(name, value): &(&str, Option<f64>)| Metric {
            pair: None,
            node: None,
            level: if name.starts_with("rtt") { Level::Network } else { Level::Application },
            name: name.to_owned(),
            unit: "1/s".to_owned(),
            value,
            better: None,
        };
        record.metrics = metrics.iter().map(metric).collect();
        arguments.push(vptest::store::write_iteration(&out, &record).unwrap().display().to_string());
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    campaign.expect(0, &arguments);
    campaign
}

fn environment(spec: &str) -> vptest::record::Environment {
    vptest::record::Environment { host: "here".to_owned(), name: SPEC.to_owned(), value: spec.to_owned() }
}

/// A tuple's text and its metrics.
type OwnRow = (String, [(&'static str, Option<f64>); 3]);

/// Two drivers at three rates: e1000 is 20 % slower in rps and the same in latency; five repetitions of each.
fn example() -> Campaign {
    let wobble = [0.0, 0.3, -0.2, 0.1, -0.3];
    let mut rows: Vec<OwnRow> = Vec::new();
    for (i, w) in wobble.iter().enumerate() {
        for rate in ["100 Mbit/s", "1 Gbit/s", "none"] {
            for (driver, base) in [("virtio", 100.0), ("e1000", 80.0)] {
                let turned = wobble[(i + 2) % 5];
                let values = [
                    ("rps", Some(base + w)),
                    ("latency", Some(50.0 + turned * 0.1)),
                    ("rtt_avg", Some(base * 2.0 + turned)),
                ];
                rows.push((format!("driver={driver};rate={rate}"), values));
            }
        }
    }
    let rows: Vec<Row<'_>> = rows.iter().map(|(factors, values)| (factors.as_str(), &values[..])).collect();
    merged(&rows, true)
}

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.out))
}

fn verdicts(answer: &Value) -> Vec<&str> {
    answer["groups"].as_array().unwrap().iter().filter_map(|group| group["verdict"].as_str()).collect()
}

const BASELINE: [&str; 2] = ["--baseline", "driver=virtio"];

fn analyze(campaign: &Campaign, arguments: &[&str]) -> Value {
    json(&campaign.expect(0, &[&["analyze", "--format", "json"], arguments].concat()))
}

#[test]
fn one_metric_has_a_verdict_for_each_contrast_and_its_margin_is_the_specs() {
    let campaign = example();
    let answer = analyze(&campaign, &[&["--metric", "rps"], &BASELINE[..]].concat());
    assert_eq!(verdicts(&answer), ["different"; 3]);
    assert_eq!(answer["margin"], serde_json::json!({ "percent": 10.0, "is_default": false }));
    assert_eq!(answer["family"]["contrasts"], 3);
    let contrast =
        &answer["groups"].as_array().unwrap().iter().find(|g| g["contrast"].is_object()).unwrap()["contrast"];
    assert_eq!(contrast["dominance"]["cliff_delta"], -1.0);
    assert!((contrast["shift"].as_f64().unwrap() + 20.0).abs() < 0.5, "{contrast}");
    let (p, holm) = (contrast["welch"]["p"].as_f64().unwrap(), contrast["p_holm"].as_f64().unwrap());
    assert!(p < holm && holm <= 3.0 * p * 1.0001, "{contrast}");
    for test in ["mann_whitney", "kolmogorov_smirnov", "permutation"] {
        assert!(contrast[test]["p"].as_f64().unwrap() < 0.05, "{test}: {contrast}");
    }
    let table = campaign.expect(0, &[&["analyze", "--metric", "latency"], &BASELINE[..]].concat()).out;
    assert!(
        table.contains("equivalent") && table.contains("margin of 5 % of the baseline's mean (the default"),
        "{table}"
    );
    let longest = table.lines().filter(|line| line.starts_with(' ')).map(|line| line.chars().count()).max();
    assert!(longest.is_some_and(|longest| longest <= 120), "{table}");
    let tight = analyze(&campaign, &[&["--metric", "rps", "--margin", "30 %"], &BASELINE[..]].concat());
    assert_eq!(verdicts(&tight), ["different_negligible"; 3]);
}

#[test]
fn many_metrics_are_one_family_with_what_differs_first() {
    let campaign = example();
    let alone = analyze(&campaign, &[&["--metric", "rps"], &BASELINE[..]].concat());
    let all = analyze(&campaign, &[&["--all"], &BASELINE[..]].concat());
    assert_eq!(all["family"]["contrasts"], 9);
    assert_eq!(all["metrics"].as_array().unwrap().len(), 3);
    let holm = |answer: &Value| answer["groups"][0]["contrast"]["p_holm"].as_f64().unwrap();
    let rps = all["metrics"].as_array().unwrap().iter().find(|metric| metric["metric"] == "rps").unwrap();
    assert!(holm(rps) > holm(&alone), "more looks cost more");
    let table = campaign.expect(0, &[&["analyze", "--metric", "latency,rps"], &BASELINE[..]].concat()).out;
    let place = |text: &str| table.lines().position(|line| line.starts_with(&format!(" {text}"))).unwrap();
    assert!(place("rps") < place("latency") && table.contains("Verdicts: 3 different; 3 equivalent."), "{table}");
    let level = analyze(&campaign, &[&["--level", "network"], &BASELINE[..]].concat());
    assert_eq!(level["metrics"].as_array().unwrap().len(), 1);
    let csv = campaign.expect(0, &[&["analyze", "--all", "--format", "csv"], &BASELINE[..]].concat()).out;
    assert_eq!(csv.lines().count(), 1 + 18);
    assert!(csv.lines().next().unwrap().starts_with("driver,rate,metric,unit,tuple"), "{csv}");
    campaign.expect(2, &["analyze", "--metric", "rps,latencyy"]);
}

#[test]
fn where_chooses_iterations_and_points_at_mistakes() {
    let campaign = example();
    let answer = analyze(&campaign, &[&["--metric", "rps", "--where", "rate > 100M"], &BASELINE[..]].concat());
    assert_eq!(answer["groups"].as_array().unwrap().len(), 4, "1 Gbit/s and none");
    assert_eq!(answer["left_out"]["total"], 0);
    let answer = analyze(&campaign, &["--metric", "rps", "--where", "driver=e1000 and not rate=none"]);
    assert_eq!(answer["groups"].as_array().unwrap().len(), 2);
    let said = campaign.expect(2, &["analyze", "--metric", "rps", "--where", "drvier=e1000"]);
    assert!(
        said.err.contains("\n  drvier=e1000\n  ^^^^^^") && said.err.contains("did you mean `driver`?"),
        "{}",
        said.err
    );
    let said = campaign.expect(2, &["analyze", "--metric", "rps", "--where", "driver=e100"]);
    assert!(said.err.contains("did you mean `e1000`?"), "{}", said.err);
    let said = campaign.expect(1, &["analyze", "--metric", "rps", "--where", "driver=e1000 and driver=virtio"]);
    assert!(said.err.contains("none of 30 iterations satisfies"), "{}", said.err);
    campaign.expect(2, &["analyze", "--where", "driver=e1000"]);
}

#[test]
fn repetitions_and_factors_are_planned_by() {
    let campaign = example();
    let effects = analyze(&campaign, &["--metric", "rps", "--effects"]);
    assert_eq!(effects["rows"][0]["effect"], "driver");
    assert!(effects["rows"][0]["eta2"].as_f64().unwrap() > 0.99, "{effects}");
    let power = analyze(&campaign, &["--metric", "rps", "--power", "--half-width", "0.1 %"]);
    assert!(power["rows"][0]["half_width_0.1"].as_u64().unwrap() > 10, "{power}");
    let aa = analyze(&campaign, &["--metric", "rps", "--aa"]);
    assert_eq!(aa["rows"].as_array().unwrap().len(), 6);
    assert!(aa["rows"][0]["floor_percent"].as_f64().unwrap() < 1.0, "{aa}");
    for option in ["--aa", "--power", "--effects"] {
        let table = campaign.expect(0, &["analyze", "--all", option]).out;
        assert!(table.contains("latency"), "{table}");
        campaign.expect(2, &["analyze", option]);
    }
}

#[test]
fn bad_data_have_a_stated_result_each() {
    let mut rows: Vec<Row<'_>> = Vec::new();
    let value = |x: f64| [("rps", Some(x))];
    let (steady, single) = ([value(1.0), value(2.0), value(3.0)], value(9.0));
    rows.extend(steady.iter().map(|v| ("side=a", &v[..])));
    rows.push(("side=b", &single));
    rows.extend([("side=c", &[("rps", None)][..]), ("side=c", &[("other", Some(1.0))])]);
    let constant = value(5.0);
    rows.extend([("side=d", &constant[..]); 6]);
    let campaign = merged(&rows, false);
    let answer = analyze(&campaign, &["--metric", "rps", "--baseline", "side=a"]);
    let words: Vec<(&str, &str)> = answer["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| (g["factors"]["side"].as_str().unwrap(), g["verdict"].as_str().unwrap_or("baseline")))
        .collect();
    assert_eq!(words[..2], [("a", "baseline"), ("b", "not_comparable")]);
    assert_eq!(words[2].0, "d", "a side without any value is no group");
    assert_eq!((&answer["left_out"]["value_missing"], &answer["left_out"]["not_measured"]), (&1.into(), &1.into()));
    assert!(answer["groups"][1]["remark"].as_str().unwrap().contains("1 against 3"), "{answer}");
    assert_eq!(answer["family"]["contrasts"], 1);
    let constants = analyze(&campaign, &["--metric", "rps", "--where", "side=d", "--by", "side"]);
    assert_eq!(constants["groups"][0]["ci95"], Value::Null);
    assert_eq!(constants["family"]["contrasts"], 0, "one group");
    for option in ["--aa", "--power", "--effects"] {
        campaign.expect(0, &["analyze", "--metric", "rps", option, "--by", "side"]);
    }
    let said = campaign.expect(2, &["analyze", "--metric", "rps", "--baseline", "side=c"]);
    assert!(said.err.contains("no iteration that counts has side = c"), "{}", said.err);
}

/// Twelve iterations of one side, one of which is far slower.
fn with_a_bad_one() -> Campaign {
    let values: Vec<[(&'static str, Option<f64>); 1]> =
        (0..12_u32).map(|i| [("rps", Some(if i == 7 { 3.0 } else { 100.0 + f64::from(i * 7 % 12) / 4.0 }))]).collect();
    let rows: Vec<Row<'_>> = values.iter().map(|values| ("side=a", &values[..])).collect();
    merged(&rows, false)
}

#[test]
fn anomalies_lead_to_their_iteration_and_file() {
    let campaign = with_a_bad_one();
    let found = analyze(&campaign, &["--anomalies"]);
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{found}");
    assert_eq!((&rows[0]["kind"], &rows[0]["value"]), (&"outlier".into(), &3.0.into()));
    let number = rows[0]["iteration"].as_u64().unwrap();
    let file = rows[0]["file"].as_str().unwrap();
    assert!(file.starts_with(&format!("{number:06}-")) && file.ends_with(".db"), "{file}");
    let alone = vptest::store::Database::open(&campaign.path().join("in").join(file)).unwrap();
    let of_file = alone.values("rps", &[vptest::record::Status::Complete]).unwrap();
    assert_eq!(of_file.values[0].value, 3.0, "the file that is named has the value");
    assert!(rows[0]["p"].as_f64().unwrap() <= 0.05 && rows[0]["distance"].as_f64().unwrap() < -10.0, "{found}");
    let table = campaign.expect(0, &["analyze", "--anomalies", "--metric", "rps"]).out;
    assert!(table.contains("outlier") && table.contains("12 values were looked at"), "{table}");
    let csv = campaign.expect(0, &["analyze", "--anomalies", "--format", "csv"]).out;
    assert_eq!(csv.lines().count(), 2, "{csv}");
    let mean = |arguments: &[&str]| analyze(&campaign, arguments)["groups"][0]["n"].clone();
    assert_eq!(mean(&["--metric", "rps"]), 12, "nothing is left out for being in the list");
    let said = campaign.expect(2, &["analyze", "--anomalies", "--metric", "rsp"]);
    assert!(said.err.contains("did you mean `rps`?"), "{}", said.err);
}

#[test]
fn questions_are_written_down_beside_the_database_and_counted() {
    let campaign = example();
    let looks = campaign.path().join("merged.db.looks.jsonl");
    let before = std::fs::read(campaign.path().join("merged.db")).unwrap();
    let so_far = |answer: &Value| -> Option<String> {
        let notes = answer["notes"].as_array().unwrap();
        notes.iter().filter_map(Value::as_str).find(|note| note.starts_with("So far")).map(str::to_owned)
    };
    analyze(&campaign, &["--metric", "rps"]);
    assert!(!looks.exists(), "nothing was compared");
    let one = analyze(&campaign, &[&["--metric", "rps"], &BASELINE[..]].concat());
    assert_eq!(so_far(&one).unwrap(), "So far 1 question with 3 contrasts were asked of these data.");
    let again = analyze(&campaign, &[&["--metric", "rps"], &BASELINE[..]].concat());
    assert_eq!(so_far(&again), so_far(&one), "the same question is no other look");
    let quiet = analyze(&campaign, &[&["--metric", "latency", "--no-record"], &BASELINE[..]].concat());
    assert_eq!(so_far(&quiet), so_far(&one));
    let two = analyze(&campaign, &[&["--all"], &BASELINE[..]].concat());
    assert_eq!(so_far(&two).unwrap(), "So far 2 questions with 12 contrasts were asked of these data.");
    campaign.expect(0, &[&["report"], &BASELINE[..]].concat());
    let page = std::fs::read_to_string(campaign.path().join("report.html")).unwrap();
    assert!(page.contains("So far 2 questions with 12 contrasts were asked of these data."), "as analyze --all");
    assert_eq!(std::fs::read_to_string(&looks).unwrap().lines().count(), 4);
    assert_eq!(std::fs::read(campaign.path().join("merged.db")).unwrap(), before, "the database stays as it is");
    // What cannot be written down is said, and the answer is given.
    std::fs::remove_file(&looks).unwrap();
    std::fs::create_dir(&looks).unwrap();
    let said = campaign.expect(0, &[&["analyze", "--metric", "rps"], &BASELINE[..]].concat());
    assert!(said.out.contains("different") && said.err.contains("could not be written down"), "{}", said.err);
}
