//! Against SciPy, to nine digits: `tests/reference/first_analysis.py` made the numbers.

use serde::Deserialize;

use super::{Interval, Summary, TwoSample};

#[derive(Deserialize)]
struct Reference {
    cases: std::collections::BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    group: Vec<f64>,
    baseline: Vec<f64>,
    group_summary: ExpectedSummary,
    baseline_summary: ExpectedSummary,
    difference: f64,
    difference_ci95: [f64; 2],
    percent_ci95: [f64; 2],
    hedges_g: f64,
    hedges_g_ci95: [f64; 2],
    t: f64,
    df: f64,
    p: f64,
}

#[derive(Deserialize)]
struct ExpectedSummary {
    mean: f64,
    sd: f64,
    ci95: [Option<f64>; 2],
}

/// Largest relative error allowed.
const TOLERANCE: f64 = 1e-9;

fn close(case: &str, what: &str, ours: f64, reference: f64) {
    let error = (ours - reference).abs() / reference.abs().max(f64::MIN_POSITIVE);
    assert!(ours == reference || error <= TOLERANCE, "{case}: {what} is {ours}, SciPy says {reference} ({error:e})");
}

fn close_interval(case: &str, what: &str, ours: Option<Interval>, reference: [f64; 2]) {
    let ours = ours.unwrap_or_else(|| panic!("{case}: no interval of {what}"));
    // Ends near zero are compared on the scale of the interval.
    let scale = reference[0].abs().max(reference[1].abs());
    for (end, expected) in [(ours.low, reference[0]), (ours.high, reference[1])] {
        let error = (end - expected).abs() / scale;
        assert!(error <= TOLERANCE, "{case}: {what} ends at {end}, SciPy says {expected} ({error:e})");
    }
}

fn check_summary(case: &str, ours: &Summary, reference: &ExpectedSummary) {
    close(case, "mean", ours.mean.unwrap(), reference.mean);
    close(case, "sd", ours.sd.unwrap(), reference.sd);
    match reference.ci95 {
        [Some(low), Some(high)] => close_interval(case, "mean", ours.ci95, [low, high]),
        _ => assert_eq!(ours.ci95, None, "{case}"),
    }
}

#[test]
fn numbers_are_those_of_scipy() {
    let reference: Reference =
        serde_json::from_str(include_str!("../../tests/reference/first_analysis.json")).unwrap();
    assert!(!reference.cases.is_empty());
    for (name, case) in &reference.cases {
        let (group, baseline) = (Summary::of(&case.group), Summary::of(&case.baseline));
        check_summary(name, &group, &case.group_summary);
        check_summary(name, &baseline, &case.baseline_summary);
        let ours = TwoSample::of(&group, &baseline).unwrap();
        close(name, "difference", ours.difference, case.difference);
        close_interval(name, "difference", ours.difference_ci95, case.difference_ci95);
        close_interval(name, "percent", ours.percent_ci95, case.percent_ci95);
        close(name, "g", ours.hedges_g.unwrap(), case.hedges_g);
        close_interval(name, "g", ours.hedges_g_ci95, case.hedges_g_ci95);
        let welch = ours.welch.unwrap();
        close(name, "t", welch.t, case.t);
        close(name, "df", welch.df, case.df);
        close(name, "p", welch.p, case.p);
    }
}
