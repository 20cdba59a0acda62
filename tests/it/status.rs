//! `vptest status`: by factor and host, again and again, and over many files.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use super::campaign::{Campaign, FAKE};

#[test]
fn factors_and_hosts_have_their_progress() {
    let campaign = Campaign::planned(FAKE);
    campaign.expect(0, &["run", "-q", "--iter", "1-3"]);
    let json = campaign.expect(0, &["status", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    let factors = json["factors"].as_array().unwrap();
    assert_eq!(factors.len(), 1, "one factor varies: {factors:?}");
    assert_eq!(factors[0]["name"], "workers");
    let count = |member: &str| -> u64 {
        factors[0]["values"].as_array().unwrap().iter().map(|value| value[member].as_u64().unwrap()).sum()
    };
    assert_eq!((count("planned"), count("complete"), count("not_complete")), (6, 3, 0));
    let hosts = json["hosts"].as_array().unwrap();
    assert_eq!((hosts.len(), hosts[0]["complete"].as_u64()), (1, Some(3)));
    assert!(json["dispatch"].is_null());
    let table = campaign.expect(0, &["status"]);
    assert!(table.out.contains("complete, by factor:\n  workers  1 "), "{}", table.out);
    assert!(campaign.out().join(".heads").exists());
    // Without its index, or with a file that was damaged since, it says the same as ever.
    std::fs::remove_file(campaign.out().join(".heads")).unwrap();
    assert_eq!(campaign.expect(0, &["status"]).out, table.out);
    std::fs::write(campaign.out().join(&campaign.files()[0]), "x").unwrap();
    campaign.expect(4, &["status"]);
}

#[test]
fn watching_ends_when_nothing_is_left() {
    let campaign = Campaign::planned(FAKE);
    let mut watch = campaign.command(&["status", "--watch", "1", "--format", "json"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let first: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["left"], 6);
    campaign.expect(0, &["run", "-q"]);
    let last: serde_json::Value = serde_json::from_str(&lines.map(Result::unwrap).last().unwrap()).unwrap();
    assert_eq!((last["left"].as_u64(), last["complete"].as_u64()), (Some(0), Some(6)));
    assert!(watch.wait().unwrap().success());
}
