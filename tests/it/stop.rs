//! `[stop]`: tuples end when their metric is known well enough, by what is stored and nothing else.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::campaign::{Campaign, FAKE};

/// Two tuples of values around 1000 with a standard deviation of 10; 30 repetitions at most.
fn spec(order: &str, stop: &str, rest: &str) -> String {
    let order = format!("order = \"{order}\"");
    let spec = FAKE.replace("repetitions = 3", &order).replace("[factors]", &format!("{stop}\n\n[factors]"));
    format!("{spec}\n{rest}")
}

const STOP: &str = "[stop]\nmetric = \"rps\"\nhalf_width = \"1 %\"\nmax = 30";

/// 97.5 % quantiles of Student's t for 4 to 29 degrees of freedom, from tables.
const T: [f64; 26] = [
    2.776_445, 2.570_582, 2.446_912, 2.364_624, 2.306_004, 2.262_157, 2.228_139, 2.200_985, 2.178_813, 2.160_369,
    2.144_787, 2.131_450, 2.119_905, 2.109_816, 2.100_922, 2.093_024, 2.085_963, 2.079_614, 2.073_873, 2.068_658,
    2.063_899, 2.059_539, 2.055_529, 2.051_831, 2.048_407, 2.045_230,
];

/// After how many of these values is the mean known to ± 1 %? The rule of docs/analysis.md, written once more.
fn enough(values: &[f64]) -> Option<usize> {
    (5..=values.len()).find(|&n| {
        let count = f64::from(u32::try_from(n).unwrap());
        let mean = values[..n].iter().sum::<f64>() / count;
        let sd = (values[..n].iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
        T[n - 5] * sd / count.sqrt() * (1.0 + 2.0 / count) <= 0.01 * mean
    })
}

/// Values of complete iterations by tuple, in the order in which they ended.
fn values(campaign: &Campaign) -> BTreeMap<String, Vec<f64>> {
    let mut all: Vec<(i64, String, f64)> = Vec::new();
    for name in campaign.files() {
        let db = rusqlite::Connection::open(campaign.out().join(name)).unwrap();
        let sql = "SELECT finished_ns, tuple, value FROM iteration JOIN metric ON iteration = id \
                   WHERE status = 'complete' AND name = 'rps'";
        let row = db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        match row {
            Ok(row) => all.push(row),
            Err(rusqlite::Error::QueryReturnedNoRows) => {}
            Err(error) => panic!("{error}"),
        }
    }
    all.sort_by_key(|row| row.0);
    let mut by_tuple: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    all.into_iter().for_each(|(_, tuple, value)| by_tuple.entry(tuple).or_default().push(value));
    by_tuple
}

fn status(campaign: &Campaign) -> Value {
    serde_json::from_str(&campaign.expect(0, &["status", "--format", "json"]).out).unwrap()
}

/// Numbers of the iterations that are complete.
fn complete(campaign: &Campaign) -> Vec<u32> {
    let complete = campaign.outcomes().into_iter().filter(|(_, _, status, _)| status == "complete");
    complete.map(|(number, ..)| number).collect()
}

#[test]
fn tuples_end_when_the_rule_says_so_in_every_order() {
    for order in ["blocked", "shuffled", "sequential"] {
        let campaign = Campaign::new(&spec(order, STOP, ""));
        let said = campaign.expect(0, &["sweep", "params.toml"]);
        assert!(said.out.contains("so 10 to 60 iterations: it may save up to 50"), "{}", said.out);
        let said = campaign.expect(0, &["run"]);
        assert!(said.err.contains("known well enough after") && said.err.contains("not needed"), "{}", said.err);
        let values = values(&campaign);
        assert_eq!(values.len(), 2);
        for (tuple, values) in &values {
            assert!(values.len() < 30, "{order}: the example is too hard");
            assert_eq!(enough(values), Some(values.len()), "{order} {tuple}: {values:?}");
        }
        let run: usize = values.values().map(Vec::len).sum();
        let status = status(&campaign);
        assert_eq!((&status["planned"], &status["complete"]), (&60.into(), &run.into()));
        assert_eq!(
            (&status["settled"], &status["left"], &status["untried"]),
            (&(60 - run).into(), &0.into(), &0.into())
        );
        for tuple in status["stop"]["tuples"].as_array().unwrap() {
            assert_eq!(tuple["decisions"], serde_json::json!(["reached"]), "{tuple}");
            assert_eq!(tuple["settled_after"], values[tuple["tuple"].as_str().unwrap()].len(), "{tuple}");
        }
        let table = campaign.expect(0, &["status"]).out;
        assert!(table.contains("2 of 2 tuples are settled: rps known to ± 1 %"), "{table}");
        let before = campaign.files();
        campaign.expect(0, &["run"]);
        assert_eq!(campaign.files(), before, "{order}: nothing is left to do");
        campaign.assert_clean();
    }
}

#[test]
fn a_killed_campaign_goes_on_to_the_same_decisions() {
    let whole = Campaign::planned(&spec("blocked", STOP, ""));
    whole.expect(0, &["run"]);
    let expected = complete(&whole);
    let last = *expected.last().unwrap();
    // In the first attempt at each of these vptest is killed: in the middle, and at the very end.
    let kill = format!(
        "[[testbed.fake.fault]]\nstage = \"workload\"\nkind = \"kill\"\niterations = [3, 9, 10, {last}]\nattempts = 1\n"
    );
    // The fault is part of what an iteration is, so the identities differ, but not what is measured.
    let killed = Campaign::planned(&spec("blocked", STOP, &kill));
    let mut runs = 0;
    while killed.vptest(&["run"]).code != Some(0) {
        runs += 1;
        assert!(runs < 10, "it does not come to an end");
    }
    let kills = [3, 9, 10, last].into_iter().collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!(runs, kills);
    assert_eq!(complete(&killed), expected);
    let course = |campaign: &Campaign| {
        let status = status(campaign);
        let tuples = status["stop"]["tuples"].as_array().unwrap().clone();
        let one = |tuple: &Value| (tuple["settled_after"].clone(), tuple["values"].clone(), tuple["decisions"].clone());
        (tuples.iter().map(one).collect::<Vec<_>>(), status["settled"].clone())
    };
    assert_eq!(course(&killed), course(&whole));
    killed.assert_clean();
}

#[test]
fn what_failed_does_not_count_and_is_not_tried_again_once_its_tuple_is_settled() {
    let fail = "[[testbed.fake.fault]]\nstage = \"launch\"\nkind = \"error\"\niterations = [1, 2, 3]\n\
                [[testbed.fake.fault]]\nstage = \"instrument\"\nkind = \"drops\"\niterations = [4, 5]\n\
                [capture]\nvantage = [\"guest\"]\n";
    let campaign = Campaign::planned(&spec("sequential", STOP, fail));
    campaign.expect(1, &["run"]);
    let first = campaign.outcomes();
    let statuses: Vec<&str> = first.iter().take(5).map(|outcome| outcome.2.as_str()).collect();
    assert_eq!(statuses, ["failed", "failed", "failed", "suspect", "suspect"]);
    let values = values(&campaign);
    assert!(values.values().all(|values| enough(values) == Some(values.len())), "{values:?}");
    let status = status(&campaign);
    assert_eq!((&status["left"], &status["untried"]), (&0.into(), &0.into()));
    assert_eq!((&status["by_status"]["failed"], &status["by_status"]["suspect"]), (&3.into(), &2.into()));
    let tried = first.len();
    assert_eq!(status["settled"], 60 - tried);
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.outcomes(), first, "nothing is tried again");
}

#[test]
fn iterations_that_are_named_are_run_whatever_the_rule_says() {
    let campaign = Campaign::planned(&spec("sequential", STOP, ""));
    campaign.expect(0, &["run"]);
    let before = status(&campaign);
    assert!(!complete(&campaign).contains(&30), "the example is too hard");
    campaign.expect(0, &["run", "--iter", "29-30"]);
    assert!(complete(&campaign).contains(&30));
    let after = status(&campaign);
    assert_eq!(before["stop"], after["stop"], "what was decided stays decided");
    let number = |status: &Value, name: &str| status[name].as_u64().unwrap();
    assert_eq!(number(&after, "settled"), number(&before, "settled") - 2);
    assert_eq!((number(&after, "left"), number(&after, "complete")), (0, number(&before, "complete") + 2));
    let said = campaign.expect(0, &["sweep", "params.toml", "--format", "commands"]);
    assert!(said.err.contains("whatever `[stop]` says"), "{}", said.err);
}

#[test]
fn a_metric_without_values_ends_nothing() {
    let maybe = "[[workload.metric]]\nname = \"maybe\"\nunit = \"1\"\nrequired = false\nregex = 'maybe (.*)'\n";
    let both = STOP.replace("\"rps\"", "[\"rps\", \"maybe\"]");
    let campaign = Campaign::planned(&spec("blocked", &both, maybe).replace("[1, 10]", "[1]"));
    campaign.expect(0, &["run"]);
    assert_eq!(complete(&campaign).len(), 30, "every repetition is run");
    let status = status(&campaign);
    let tuple = &status["stop"]["tuples"][0];
    assert_eq!(tuple["settled_after"], Value::Null);
    assert_eq!((&tuple["values"], &tuple["decisions"][1]), (&serde_json::json!([30, 0]), &"go_on".into()));
    assert_eq!((&status["settled"], &status["left"]), (&0.into(), &0.into()));
}

#[test]
fn a_metric_that_nothing_has_is_an_error_as_soon_as_that_is_certain() {
    let wrong = spec("blocked", &STOP.replace("\"rps\"", "\"rsp\""), "");
    let campaign = Campaign::planned(&wrong);
    for runs in [2, 2] {
        let said = campaign.expect(2, &["run"]);
        assert!(said.err.contains("no complete iteration has a metric `rsp`"), "{}", said.err);
        assert!(said.err.contains("did you mean `rps`?") && said.err.contains("hint: mend"), "{}", said.err);
        assert_eq!(campaign.files().len(), runs, "one of each tuple tells");
    }
    let table = campaign.expect(0, &["status"]).out;
    assert!(table.contains("no tuple ends early so far: no complete iteration has a metric `rsp`"), "{table}");
    std::fs::write(campaign.path().join("params.toml"), spec("blocked", STOP, "")).unwrap();
    campaign.expect(0, &["sweep", "params.toml"]);
    campaign.expect(0, &["run"]);
    let values = values(&campaign);
    assert!(values.values().all(|values| enough(values) == Some(values.len())), "what was run counts: {values:?}");
}
