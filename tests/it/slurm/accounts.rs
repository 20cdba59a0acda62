//! A cluster that keeps accounts: what `vptest` makes of elements that the queue has forgotten.

use super::super::qemu::wait_until;
use super::lab::{self, Lab};
use super::{ON, SLOW, Vptest, assert_complete, campaign, running};

/// What `vptest status` says of each element, and Slurm's word for it.
fn elements(lab: &Lab, campaign: &super::Campaign) -> Vec<(String, Option<String>)> {
    let status = lab.vptest(campaign, 0, &["status", "--format", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    let array = &status["dispatch"]["slurm"][0];
    assert_eq!((&array["accounting"], &array["problem"]), (&true.into(), &serde_json::Value::Null), "{array}");
    let word = |element: &serde_json::Value| element["slurm"].as_str().map(str::to_owned);
    let of = |element: &serde_json::Value| (element["state"].as_str().unwrap().to_owned(), word(element));
    array["elements"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn accounts_say_how_elements_ended_that_the_queue_has_forgotten() {
    let Some(lab) = lab::accounting_tools().then(Lab::with_accounts) else { return };
    let gate = tempfile::tempdir().unwrap();
    let open = gate.path().join("open");
    let client = format!(r#"["sh", "-c", "until [ -e {} ]; do sleep 0.1; done; echo rps 1"]"#, open.display());
    let campaign = campaign(3, &client, "");
    let vptest = Vptest::start(&lab, &campaign);
    wait_until("iterations that run", || running(&lab) == 2);
    drop(vptest);
    let job = lab.arrays().first().unwrap().clone();
    // One that waits, which the queue forgets at once and the accounts have as one that waits; and one that runs.
    lab.expect(&["scancel", &format!("{job}_6")]);
    lab.expect(&["scancel", &format!("{job}_2")]);
    std::fs::write(&open, "").unwrap();
    wait_until("the others' end", || lab.queue().lines().filter(|line| line.contains("|COMPLETED|")).count() == 4);
    wait_until("that the cancelled one is over", || lab.unfinished().is_empty());
    let expected = |number: usize| match number {
        2 => ("failed", "CANCELLED"),
        _ => ("ended", "COMPLETED"),
    };
    let assert_known = || {
        let elements = elements(&lab, &campaign);
        for number in 1..=5 {
            let (state, word) = &elements[number - 1];
            assert_eq!((state.as_str(), word.as_deref().unwrap()), expected(number), "{number}: {elements:?}");
        }
        elements
    };
    let last = assert_known().pop().unwrap();
    // Until the accounts say so.
    let is_cancelled = last.1.as_deref() == Some("CANCELLED");
    assert!(is_cancelled || last == ("unknown".to_owned(), None), "{last:?}{}{}", lab.queue(), lab.accounts(&job));
    wait_until("that the accounts have all of it", || {
        let accounts = lab.accounts(&job);
        accounts.matches("|COMPLETED").count() == 4 && accounts.contains(&format!("{job}_2|CANCELLED"))
    });
    lab.forget();
    assert_known();
    let shown = lab.vptest(&campaign, 0, &["status"]).out;
    assert!(shown.contains("failed on ") && shown.contains(" (CANCELLED)"), "{shown}");
    let said = lab.vptest(&campaign, 0, ON);
    assert_complete(&campaign, 6);
    assert!(said.err.contains("goes on with job "), "{}", said.err);
    campaign.assert_clean();
}

#[test]
fn accounts_that_do_not_answer_are_told_and_take_nothing_away() {
    let Some(lab) = lab::accounting_tools().then(Lab::with_accounts) else { return };
    let campaign = campaign(1, SLOW, "options = [\"--hold\"]");
    let vptest = Vptest::start(&lab, &campaign);
    wait_until("an array that waits", || lab.queue().contains("JobHeldUser"));
    lab.expect(&["sacctmgr", "--immediate", "shutdown"]);
    wait_until("that they are gone", || lab.slurm(&["sacct"]).code != Some(0));
    let shown = lab.vptest(&campaign, 0, &["status"]).out;
    assert!(shown.contains("2 pending; `sacct` failed: ") && shown.contains("pending: JobHeldUser"), "{shown}");
    lab.expect(&["scontrol", "release", lab.arrays().first().unwrap()]);
    vptest.end(0, &campaign);
    assert_complete(&campaign, 2);
}
