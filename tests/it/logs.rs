//! `vptest logs`: what happened in an iteration.

use serde_json::Value;

use crate::campaign::{Campaign, FAKE};

#[test]
fn a_failed_iteration_tells_its_story() {
    let fault = "[[testbed.fake.fault]]\nstage = \"launch\"\nkind = \"error\"\n";
    let campaign = Campaign::planned(&format!("{FAKE}\n{fault}"));
    campaign.expect(1, &["run", "--iter", "2", "--retries", "1"]);
    let said = campaign.expect(0, &["logs", "--iter", "2"]);
    assert_eq!(said.out.matches("iteration 2, attempt ").count(), 2, "{}", said.out);
    assert!(said.out.contains("iteration 2, attempt 1: failed\n  launch: "), "{}", said.out);
    assert!(said.out.contains("testbed=fake workers="), "{}", said.out);
    let launch = said.out.lines().find(|line| line.contains("  launch      took ")).expect("stages are there");
    assert!(launch.trim_start().split(' ').next().unwrap().parse::<f64>().is_ok(), "{launch}");
    let second = campaign.expect(0, &["logs", "--iter", "2", "--attempt", "2", "--format", "json"]);
    let all: Value = serde_json::from_str(&second.out).unwrap();
    let [one] = &all.as_array().unwrap()[..] else { panic!("{}", second.out) };
    assert_eq!((&one["number"], &one["attempt"], &one["status"]), (&2.into(), &2.into(), &"failed".into()));
    assert!(one["events"].is_array() && !one["stages"].as_array().unwrap().is_empty(), "{one}");
    assert!(campaign.files().contains(&one["file"].as_str().unwrap().to_owned()));
}

#[test]
fn what_is_not_there_is_said() {
    let campaign = Campaign::planned(FAKE);
    campaign.expect(0, &["run", "--iter", "1"]);
    let said = campaign.expect(1, &["logs", "--iter", "1-2"]);
    assert!(said.out.contains("iteration 1, attempt 1: complete"), "{}", said.out);
    assert!(said.err.contains("iteration 2: not there, or still running"), "{}", said.err);
    let said = campaign.expect(1, &["logs", "--iter", "1", "--attempt", "3"]);
    assert!(said.err.contains("attempt 3 at iteration 1: not there"), "{}", said.err);
    campaign.expect(2, &["logs", "--iter", "7"]);
    campaign.expect(2, &["logs", "--iter", "1", "--attempt", "0"]);
    campaign.expect(2, &["logs"]);
    let file = campaign.path().join("out").join(&campaign.files()[0]);
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(8).position(|window| window == b"complete").unwrap();
    bytes[at] = b'C';
    std::fs::write(&file, bytes).unwrap();
    let said = campaign.expect(4, &["logs", "--iter", "1"]);
    assert!(said.err.contains(".db is corrupt"), "{}", said.err);
}
