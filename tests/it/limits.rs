//! `[limits]`: a run that ends before everything is done, and goes on later.

use crate::campaign::{Campaign, FAKE};

/// A spec with limits; `more` stands at the end.
fn spec(limits: &str, more: &str) -> String {
    format!("{FAKE}\n{more}\n[limits]\n{limits}\n")
}

#[test]
fn failures_in_a_row_end_the_run() {
    let fault = "[[testbed.fake.fault]]\nstage = \"launch\"\nkind = \"error\"\n";
    let campaign = Campaign::planned(&spec("failures = 2", fault));
    let said = campaign.expect(1, &["run"]);
    assert_eq!(campaign.statuses(), ["failed"; 2]);
    assert!(said.err.contains("2 failed, 4 left to do"), "{}", said.err);
    let why = "ended by a limit: 2 iterations in a row went wrong (`limits.failures` = 2), the last: iteration ";
    assert!(said.err.contains(why), "{}", said.err);
    // Somebody mended it, and goes on. (Faults are part of what an iteration of this testbed is: all six are new.)
    std::fs::write(campaign.path().join("params.toml"), spec("failures = 2", "")).unwrap();
    campaign.expect(0, &["sweep", "params.toml"]);
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.statuses().iter().filter(|status| *status == "complete").count(), 6);
    campaign.assert_clean();
}

#[test]
fn a_run_ends_at_its_time_and_leaves_the_rest() {
    let campaign = Campaign::planned(&spec("until = \"2026-01-01T00:00:00Z\"", ""));
    let said = campaign.expect(1, &["run"]);
    assert!(campaign.files().is_empty());
    assert!(
        said.err.contains("6 left to do\nended by a limit: it is past 2026-01-01T00:00:00Z (`limits.until`)"),
        "{}",
        said.err
    );
    std::fs::write(campaign.path().join("params.toml"), spec("duration = \"1 ns\"", "")).unwrap();
    campaign.expect(0, &["sweep", "params.toml"]);
    let said = campaign.expect(1, &["run"]);
    assert!(said.err.contains("the run has taken its 1 ns"), "{}", said.err);
}

#[test]
fn storage_has_a_budget() {
    let campaign = Campaign::planned(&spec("storage = \"1 kB\"\nfree = \"1 kB\"", ""));
    let said = campaign.expect(1, &["run"]);
    assert_eq!(campaign.files().len(), 1, "there is nothing to judge the first by");
    assert!(said.err.contains("one more iteration would exceed 1 kB (`limits.storage`)"), "{}", said.err);
    std::fs::write(campaign.path().join("params.toml"), spec("storage = \"1 GB\"\nfree = \"9999 TB\"", "")).unwrap();
    campaign.expect(0, &["sweep", "params.toml"]);
    let said = campaign.expect(1, &["run"]);
    assert_eq!(campaign.files().len(), 1);
    assert!(said.err.contains("9999000 GB must stay so (`limits.free`)"), "{}", said.err);
    std::fs::write(campaign.path().join("params.toml"), spec("storage = \"1 GB\"", "")).unwrap();
    campaign.expect(0, &["sweep", "params.toml"]);
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.statuses(), ["complete"; 6], "what was stored counts");
}
