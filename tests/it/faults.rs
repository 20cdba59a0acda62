//! Faults in every stage: each ends in its own outcome, nothing is lost, and the next run goes on.

use super::campaign::{Campaign, FAKE};

const STAGES: [&str; 8] =
    ["preflight", "launch", "verify", "instrument", "workload", "collect", "teardown", "store"];

/// One iteration with one fault in its first attempt.
fn with_fault(stage: &str, kind: &str) -> Campaign {
    let spec = FAKE.replace("[1, 10]", "1").replace("repetitions = 3", "repetitions = 1\ntimeout = \"5 s\"");
    Campaign::planned(&format!(
        "{spec}\n[[testbed.fake.fault]]\nstage = \"{stage}\"\nkind = \"{kind}\"\nattempts = 1\n"
    ))
}

#[test]
fn an_error_in_any_stage_is_a_failed_iteration_that_is_run_again() {
    for stage in STAGES {
        let campaign = with_fault(stage, "error");
        campaign.expect(1, &["run"]);
        let outcomes = campaign.outcomes();
        assert_eq!(outcomes.len(), 1, "{stage}");
        assert_eq!(outcomes[0].2, "failed", "{stage}");
        assert!(outcomes[0].3.contains(&format!("injected fault in {stage}")), "{}", outcomes[0].3);
        campaign.assert_clean();
        campaign.expect(0, &["run"]);
        assert_eq!(campaign.statuses(), ["failed", "complete"], "{stage}");
        campaign.assert_clean();
    }
}

#[test]
fn a_panic_in_any_stage_fails_the_iteration_and_not_the_campaign() {
    for stage in STAGES {
        let campaign = with_fault(stage, "panic");
        campaign.expect(0, &["run", "--retries", "1"]);
        assert_eq!(campaign.statuses(), ["failed", "complete"], "{stage}");
        assert!(campaign.outcomes()[0].3.contains("injected panic"), "{stage}");
        campaign.assert_clean();
    }
}

#[test]
fn being_killed_in_any_stage_leaves_nothing_that_the_next_run_does_not_store_and_remove() {
    for stage in STAGES {
        let campaign = with_fault(stage, "kill");
        let said = campaign.vptest(&["run"]);
        assert_eq!(said.code, None, "{stage}: vptest survived: {}", said.err);
        assert!(campaign.files().is_empty(), "{stage}");
        let said = campaign.expect(0, &["run"]);
        assert!(said.err.contains("it was killed"), "{stage}: {}", said.err);
        let outcomes = campaign.outcomes();
        assert_eq!(campaign.statuses(), ["interrupted", "complete"], "{stage}");
        assert!(outcomes[0].3.contains(stage), "{stage}: {}", outcomes[0].3);
        campaign.assert_clean();
    }
}

#[test]
fn clean_alone_also_stores_and_removes_what_a_killed_run_left() {
    let campaign = with_fault("workload", "kill");
    campaign.vptest(&["run"]);
    let said = campaign.expect(0, &["clean"]);
    assert!(said.err.contains("removed"), "{}", said.err);
    assert_eq!(campaign.statuses(), ["interrupted"]);
    campaign.assert_clean();
    let said = campaign.expect(0, &["clean"]);
    assert!(said.err.contains("nothing to remove"), "{}", said.err);
}

#[test]
fn a_stage_that_hangs_is_cut_off_at_the_deadline() {
    let spec = FAKE.replace("[1, 10]", "1").replace("repetitions = 3", "repetitions = 1\ntimeout = \"200 ms\"");
    for stage in ["preflight", "launch", "verify", "instrument", "workload", "collect"] {
        let fault = format!("\n[[testbed.fake.fault]]\nstage = \"{stage}\"\nkind = \"hang\"\n");
        let campaign = Campaign::planned(&(spec.clone() + &fault));
        campaign.expect(1, &["run"]);
        let outcomes = campaign.outcomes();
        assert_eq!(outcomes[0].2, "timed_out", "{stage}: {}", outcomes[0].3);
        assert!(outcomes[0].3.contains(stage), "{}", outcomes[0].3);
        campaign.assert_clean();
    }
}

/// One tuple with settings to be read back.
fn with_settings(faults: &str) -> Campaign {
    let spec = FAKE
        .replace("workers = [1, 10]", "offload = \"off\"\nmtu = 1400")
        .replace("repetitions = 3", "repetitions = 1");
    Campaign::planned(&format!("{spec}\n[capture]\nvantage = [\"guest\"]\n{faults}"))
}

fn fault(stage: &str, kind: &str) -> String {
    format!("[[testbed.fake.fault]]\nstage = \"{stage}\"\nkind = \"{kind}\"\n")
}

#[test]
fn a_setting_that_is_not_in_force_before_or_after_makes_the_iteration_invalid() {
    for stage in ["verify", "collect"] {
        let campaign = with_settings(&fault(stage, "setting"));
        campaign.expect(1, &["run"]);
        let outcomes = campaign.outcomes();
        assert_eq!(outcomes[0].2, "invalid", "{stage}: {}", outcomes[0].3);
        assert!(outcomes[0].3.contains("mtu") && outcomes[0].3.contains("1400"), "{}", outcomes[0].3);
    }
}

#[test]
fn a_setting_that_cannot_be_read_and_packets_that_were_dropped_make_it_suspect() {
    for (stage, kind, text) in [("verify", "unreadable", "could not be read"), ("instrument", "drops", "drop")] {
        let campaign = with_settings(&fault(stage, kind));
        campaign.expect(0, &["run"]);
        let outcomes = campaign.outcomes();
        assert_eq!(outcomes[0].2, "suspect", "{kind}: {}", outcomes[0].3);
        assert!(outcomes[0].3.contains(text), "{kind}: {}", outcomes[0].3);
    }
}

#[test]
fn what_teardown_leaves_is_reported() {
    let campaign = with_settings(&fault("teardown", "leftover"));
    let said = campaign.vptest(&["run"]);
    assert!(said.err.contains("left over: injected leftover"), "{}", said.err);
}

#[test]
fn a_failed_iteration_does_not_end_the_campaign() {
    let spec = format!("{FAKE}\n[[testbed.fake.fault]]\nstage = \"launch\"\nkind = \"error\"\niterations = [2]\n");
    let campaign = Campaign::planned(&spec);
    campaign.expect(1, &["run"]);
    assert_eq!(campaign.statuses(), ["complete", "failed", "complete", "complete", "complete", "complete"]);
}
