//! Several hosts in one database: what lies between hosts is not taken for a difference between tuples.

use serde_json::Value;
use vptest::ids::{Level, ShortHash};
use vptest::record::Metric;

use crate::campaign::Campaign;

/// Host, driver, level of its values, and how many.
type Part<'a> = (&'a str, &'a str, f64, u32);

/// A merged database of values that lie around these levels.
fn merged(parts: &[Part<'_>]) -> Campaign {
    let campaign = Campaign::new("");
    let out = campaign.path().join("in");
    std::fs::create_dir(&out).unwrap();
    let mut arguments = vec!["merge".to_owned()];
    let mut number = 0;
    for &(host, driver, level, n) in parts {
        for i in 0..n {
            number += 1;
            let mut record = crate::store::record(number);
            record.header.host = host.to_owned();
            record.header.tuple = ShortHash::of(driver.as_bytes());
            record.factors = vec![("driver".to_owned(), driver.to_owned())];
            // Seven different distances, the same on every host: their mean is 0 after each seventh.
            let distance = f64::from((i * 3) % 7) - 3.0;
            record.metrics = vec![Metric {
                pair: None,
                node: None,
                level: Level::Application,
                name: "rps".to_owned(),
                unit: "1/s".to_owned(),
                value: Some(level + 0.3 * distance),
                better: None,
            }];
            arguments.push(vptest::store::write_iteration(&out, &record).unwrap().display().to_string());
        }
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    campaign.expect(0, &arguments);
    campaign
}

const ASKED: [&str; 5] = ["analyze", "--metric", "rps", "--baseline", "driver=virtio"];

/// The group that is no baseline.
fn compared(campaign: &Campaign) -> Value {
    let said = campaign.expect(0, &[&ASKED[..], &["--format", "json"]].concat());
    let answer: Value = serde_json::from_str(&said.out).unwrap();
    answer["groups"].as_array().unwrap().iter().find(|group| group["baseline"] == false).unwrap().clone()
}

fn doubts(group: &Value) -> Vec<&str> {
    group["doubts"].as_array().unwrap().iter().map(|doubt| doubt["doubt"].as_str().unwrap()).collect()
}

/// Simpson's case: equal on both hosts, but the slow one ran most of e1000 and the fast one most of virtio.
#[test]
fn a_tuple_that_mostly_ran_on_the_slow_host_is_not_called_slow() {
    let campaign = merged(&[
        ("slow", "e1000", 100.0, 21),
        ("slow", "virtio", 100.0, 7),
        ("fast", "e1000", 150.0, 7),
        ("fast", "virtio", 150.0, 21),
    ]);
    let group = compared(&campaign);
    let contrast = &group["contrast"];
    assert!(contrast["percent"].as_f64().unwrap() < -15.0, "the means differ: {contrast}");
    assert!(contrast["p_holm"].as_f64().unwrap() < 0.001, "{contrast}");
    assert_eq!(group["verdict"], "equivalent");
    assert_eq!(contrast["verdict"], serde_json::json!({ "verdict": "equivalent", "basis": "within_hosts" }));
    let hosts = &contrast["hosts"];
    assert_eq!((&hosts["balanced"], &hosts["decides"]), (&false.into(), &true.into()));
    assert!(hosts["within"]["difference"].as_f64().unwrap().abs() < 1e-9, "{hosts}");
    assert_eq!(hosts["each"][0]["host"], "fast");
    assert_eq!((&hosts["each"][0]["n"], &hosts["each"][1]["baseline_n"]), (&7.into(), &7.into()));
    assert!(hosts["random"]["i2"] == 0.0 && hosts["random"]["q"].as_f64().unwrap() < 1e-9, "{hosts}");
    assert!(doubts(&group).contains(&"hosts_uneven"), "{group}");
    let table = campaign.expect(0, &ASKED).out;
    assert!(table.contains("equivalent: within hosts"), "{table}");
    assert!(table.contains("unequally spread over hosts") && table.contains("the verdict rests on that"), "{table}");
    let csv = campaign.expect(0, &[&ASKED[..], &["--format", "csv"]].concat()).out;
    let header: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    let line: Vec<&str> = csv.lines().find(|line| line.starts_with("e1000,")).unwrap().split(',').collect();
    let field = |name: &str| line[header.iter().position(|column| *column == name).unwrap()];
    assert_eq!((field("hosts"), field("hosts_i2")), ("2", "0.0"));
    let page = campaign.path().join("report.html");
    campaign.expect(0, &["report", "--baseline", "driver=virtio", "-o", page.to_str().unwrap()]);
    assert!(std::fs::read_to_string(page).unwrap().contains("within each of several hosts"), "the page says the same");
}

#[test]
fn hosts_that_contradict_each_other_are_named_and_have_no_common_verdict() {
    let campaign = merged(&[
        ("a", "e1000", 120.0, 7),
        ("a", "virtio", 100.0, 7),
        ("b", "e1000", 80.0, 7),
        ("b", "virtio", 100.0, 7),
    ]);
    let group = compared(&campaign);
    assert_eq!(group["verdict"], "not_comparable");
    assert_eq!(group["contrast"]["verdict"]["why"]["reason"], "hosts_disagree");
    assert!(group["contrast"]["hosts"]["random"]["i2"].as_f64().unwrap() > 0.9, "{group}");
    assert_eq!(doubts(&group).iter().filter(|doubt| doubt.starts_with("hosts")).collect::<Vec<_>>(), [&"hosts_differ"]);
    let table = campaign.expect(0, &ASKED).out;
    assert!(table.contains("not comparable: hosts disagree") && table.contains("I² = "), "{table}");
}

#[test]
fn sides_on_hosts_of_their_own_are_compared_with_a_warning() {
    let campaign = merged(&[("a", "e1000", 120.0, 7), ("b", "virtio", 100.0, 7)]);
    let group = compared(&campaign);
    assert_eq!(group["verdict"], "different");
    assert_eq!(group["contrast"]["hosts"]["within"], Value::Null);
    let table = campaign.expect(0, &ASKED).out;
    assert!(table.contains("and no host has enough values of both to tell"), "{table}");
    let one = merged(&[("a", "e1000", 120.0, 7), ("a", "virtio", 100.0, 7)]);
    let group = compared(&one);
    assert_eq!(group["contrast"]["hosts"], Value::Null);
    assert!(doubts(&group).iter().all(|doubt| !doubt.starts_with("hosts")), "{group}");
}
