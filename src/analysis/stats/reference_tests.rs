//! Against SciPy, statsmodels, diptest, pymannkendall and R, to nine digits: `tests/reference/statistics.py` made the numbers.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::anova::{Row, anova};
use super::bca::{Influence, bca};
use super::bootstrap::{Stream, resampled_means};
use super::brunner_munzel::BrunnerMunzel;
use super::change::pettitt;
use super::describe::{mad, median, quantile, sorted};
use super::dip::{DipNull, dip};
use super::dominance::Dominance;
use super::equivalence::{Bounds, Linear, Margin, Tost};
use super::hosts::{Estimate, homogeneity, pooled};
use super::kolmogorov::KolmogorovSmirnov;
use super::mann_whitney::{MannWhitney, Method};
use super::multiplicity::adjust;
use super::permutation::{Block, Deals};
use super::power::{Repetitions, repetitions_for_difference, repetitions_for_half_width, t_test_power, tost_power};
use super::random::Random;
use super::ranks::Ranked;
use super::series::{autocorrelation, trend};
use super::shift::hodges_lehmann;
use crate::analysis::summary::count;
use crate::analysis::{Interval, Summary, distribution};

/// Largest relative error allowed.
const TOLERANCE: f64 = 1e-9;

/// Given in full, or as what `streams.py` makes it from.
#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    Listed(Vec<f64>),
    Drawn { seed: u64, place: Vec<u64>, n: usize, scale: f64, shift: f64, levels: Option<f64> },
}

impl Values {
    fn get(&self) -> Vec<f64> {
        match self {
            Self::Listed(values) => values.clone(),
            Self::Drawn { seed, place, n, scale, shift, levels } => {
                let mut random = Random::new(*seed, place);
                let mut one = |_| {
                    let [a, b, c, d] = std::array::from_fn(|_| random.uniform());
                    let x = shift + scale * (a + b + c + d - 2.0);
                    levels.map_or(x, |levels| (x * levels).floor() / levels)
                };
                (0..*n).map(&mut one).collect()
            }
        }
    }
}

fn reference() -> Value {
    serde_json::from_str(include_str!("../../../tests/reference/statistics.json")).expect("the reference is JSON")
}

fn cases(section: &str) -> BTreeMap<String, Value> {
    let cases: BTreeMap<String, Value> = serde_json::from_value(reference()[section].take()).expect("a map of cases");
    assert!(!cases.is_empty());
    cases
}

fn values(value: &Value) -> Vec<f64> {
    Values::deserialize(value).expect("values").get()
}

fn list(value: &Value) -> Vec<f64> {
    Vec::deserialize(value).expect("numbers")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[track_caller]
fn close(case: &str, ours: f64, expected: f64) {
    let error = (ours - expected).abs() / expected.abs().max(f64::MIN_POSITIVE);
    assert!(ours == expected || error <= TOLERANCE, "{case}: {ours}, expected {expected} ({error:e})");
}

/// Ends near zero are compared on the scale of the interval.
#[track_caller]
fn close_interval(case: &str, ours: Option<Interval>, expected: &Value) {
    let (ours, expected) = (ours.unwrap_or_else(|| panic!("{case}: no interval")), list(expected));
    let scale = expected[0].abs().max(expected[1].abs());
    for (ours, expected) in [(ours.low, expected[0]), (ours.high, expected[1])] {
        assert!((ours - expected).abs() <= TOLERANCE * scale, "{case}: {ours}, expected {expected}");
    }
}

#[test]
fn descriptions() {
    for (name, case) in cases("pairs") {
        let x = sorted(&values(&case["group"])).unwrap();
        for (p, expected) in [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0].iter().zip(list(&case["describe"]["quantiles"])) {
            close(&name, quantile(&x, *p).unwrap(), expected);
        }
        close(&name, median(&x).unwrap(), list(&case["describe"]["quantiles"])[3]);
        close(&name, mad(&x).unwrap(), number(&case["describe"]["mad"]));
    }
}

#[test]
fn rank_tests() {
    let mut counted = (0, 0, 0);
    for (name, case) in cases("pairs") {
        let (x, y) = (sorted(&values(&case["group"])).unwrap(), sorted(&values(&case["baseline"])).unwrap());
        let ranked = Ranked::new(&x, &y).unwrap();
        let expected = &case["mann_whitney"];
        let test = MannWhitney::of(&ranked).unwrap();
        close(&name, test.u, number(&expected["u"]));
        close(&name, MannWhitney::asymptotic(&ranked).unwrap().p, number(&expected["asymptotic"]));
        if let Some(p) = expected["exact"].as_f64() {
            close(&name, test.p, p);
            counted.0 += 1;
        }
        assert_eq!(test.method == Method::Exact, expected["exact"].is_number(), "{name}");
        match (BrunnerMunzel::of(&ranked), &case["brunner_munzel"]) {
            (None, Value::Null) => {}
            (Some(test), expected) => {
                close(&name, test.statistic, number(&expected["statistic"]));
                close(&name, test.p, number(&expected["p"]));
                counted.1 += 1;
            }
            (None, expected) => panic!("{name}: no test, expected {expected}"),
        }
        let test = KolmogorovSmirnov::of(&ranked);
        close(&name, test.d, number(&case["smirnov"]["d"]));
        if let Some(p) = case["smirnov"]["p"].as_f64() {
            close(&name, test.p, p);
            counted.2 += 1;
        }
    }
    assert!(counted.0 >= 8 && counted.1 >= 14 && counted.2 >= 10, "{counted:?}");
}

#[test]
fn what_r_says() {
    let (pairs, r) = (cases("pairs"), cases("r"));
    let ask = |task: &str, f: &dyn Fn(&str, &Ranked<'_>, f64)| {
        let expected: BTreeMap<String, Vec<f64>> = serde_json::from_value(r[task].clone()).unwrap();
        assert!(expected.len() > 5, "{task}");
        for (name, p) in expected {
            let (x, y) =
                (sorted(&values(&pairs[&name]["group"])).unwrap(), sorted(&values(&pairs[&name]["baseline"])).unwrap());
            f(&name, &Ranked::new(&x, &y).unwrap(), p[0]);
        }
    };
    // R takes small probabilities from 1.
    ask("ks", &|name, ranked, p| {
        assert!((KolmogorovSmirnov::of(ranked).p - p).abs() <= 1e-12 + TOLERANCE * p, "{name}")
    });
    ask("wilcox", &|name, ranked, p| close(name, MannWhitney::of(ranked).unwrap().p, p));
    ask("hl", &|name, ranked, shift| close(name, hodges_lehmann(ranked.group, ranked.baseline).unwrap(), shift));
    let powers: BTreeMap<String, Vec<f64>> = serde_json::from_value(r["power"].clone()).unwrap();
    for (name, power) in powers {
        let parts: Vec<f64> = name.split(':').skip(1).map(|part| part.parse().unwrap()).collect();
        close(
            &name,
            t_test_power(parts[0], name.split(':').nth(2).unwrap().parse().unwrap(), parts[2]).unwrap(),
            power[0],
        );
    }
}

#[test]
fn effect_sizes() {
    for (name, case) in cases("pairs") {
        let (x, y) = (sorted(&values(&case["group"])).unwrap(), sorted(&values(&case["baseline"])).unwrap());
        let dominance = Dominance::of(&Ranked::new(&x, &y).unwrap(), 0.95);
        // Differences of shares near zero are as exact as the shares.
        let expected = number(&case["cliff"]["delta"]);
        assert!((dominance.cliff_delta - expected).abs() <= 1e-14_f64.max(TOLERANCE * expected.abs()), "{name}");
        close(&name, dominance.a12, number(&case["cliff"]["a12"]));
        close_interval(&name, dominance.cliff_delta_ci, &case["cliff"]["ci"]);
        let shift = hodges_lehmann(&x, &y).unwrap();
        match case["shift"].as_f64() {
            Some(expected) => close(&name, shift, expected),
            None => assert!(shift.abs() < 0.1, "{name}: {shift}"),
        }
    }
}

#[test]
fn equivalence() {
    for (name, case) in cases("pairs") {
        let (x, y) = (Summary::of(&values(&case["group"])), Summary::of(&values(&case["baseline"])));
        for (key, margin) in [("absolute", Margin::Absolute(1.5)), ("relative", Margin::Relative(0.05))] {
            let tost = Tost::of(&Bounds::of(&x, &y, margin).unwrap()).unwrap();
            for (ours, expected) in [tost.p_lower, tost.p_upper, tost.p].into_iter().zip(list(&case["tost"][key])) {
                close(&format!("{name} {key}"), ours, expected);
            }
        }
    }
}

#[test]
fn permutation_tests() {
    let mut tested = 0;
    for (name, case) in cases("pairs") {
        let Some(expected) = case["permutation"].as_f64() else { continue };
        let (x, y) = (values(&case["group"]), values(&case["baseline"]));
        let deals = Deals::new(&[Block { group: x.len(), baseline: y.len() }], 1).unwrap();
        let result = deals.test(&[&[x, y].concat()])[0].unwrap();
        assert_eq!(result.method, Method::Exact);
        close(&name, result.p, expected);
        tested += 1;
    }
    assert!(tested >= 7, "{tested}");
}

#[test]
fn bootstrap_intervals() {
    let mut tested = 0;
    for (name, case) in cases("pairs") {
        if case["bca"].is_null() {
            continue;
        }
        let (x, y) = (values(&case["group"]), values(&case["baseline"]));
        let (a, b) = (Summary::of(&x).mean.unwrap(), Summary::of(&y).mean.unwrap());
        let resampled = |values: &[f64], mean: f64, stream| {
            let centred: Vec<f64> = values.iter().map(|x| x - mean).collect();
            (resampled_means(&[&centred], 999, 1, Stream(stream)).remove(0), centred)
        };
        let ((ma, ca), (mb, cb)) = (resampled(&x, a, 0), resampled(&y, b, 1));
        let acceleration = Influence::of_mean(&ca, 0.0, 1.0).acceleration(Influence::of_mean(&cb, 0.0, -1.0)).unwrap();
        let mut differences: Vec<f64> = ma.iter().zip(&mb).map(|(x, y)| (a + x) - (b + y)).collect();
        close_interval(&name, bca(a - b, &mut differences, acceleration, 0.95), &case["bca"]["difference"]);
        let rest = count(y.len() - 1);
        let acceleration = Influence::of_mean(&ca, 0.0, 1.0 / b)
            .acceleration(Influence::of_jackknife(cb.iter().map(|c| a / (b - c / rest))))
            .unwrap();
        let mut percents: Vec<f64> = ma.iter().zip(&mb).map(|(x, y)| 100.0 * ((a + x) / (b + y) - 1.0)).collect();
        close_interval(&name, bca(100.0 * (a / b - 1.0), &mut percents, acceleration, 0.95), &case["bca"]["percent"]);
        tested += 1;
    }
    assert_eq!(tested, 6);
}

#[test]
fn series_tests() {
    for (name, case) in cases("series") {
        let x = values(&case["values"]);
        let auto = autocorrelation(&x).unwrap();
        close(&name, auto.lag1, number(&case["lag1"]));
        assert_eq!(auto.lags as u64, case["lags"].as_u64().unwrap());
        close(&name, auto.q, list(&case["ljung_box"])[0]);
        close(&name, auto.p, list(&case["ljung_box"])[1]);
        let times: Vec<f64> = (0..x.len()).map(count).collect();
        let drift = trend(&times, &x).unwrap();
        close(&name, drift.s, number(&case["kendall"]["s"]));
        close(&name, drift.z, number(&case["kendall"]["z"]));
        close(&name, drift.p, number(&case["kendall"]["p"]));
        close(&name, drift.slope, number(&case["slope"]));
        if case["pettitt"].is_object() {
            let change = pettitt(&x, 1).unwrap();
            assert_eq!(
                (change.k, change.at as u64),
                (number(&case["pettitt"]["k"]), case["pettitt"]["at"].as_u64().unwrap())
            );
        }
        let ordered = sorted(&x).unwrap();
        close(&name, dip(&ordered).unwrap(), number(&case["dip"]));
        // Both are simulated: theirs by a table of a million samples, ours by 2000.
        let (p, expected) = (DipNull::new(x.len()).p(&ordered).unwrap(), number(&case["dip_p"]));
        assert!(
            (p - expected).abs() <= 0.004 + 4.0 * (expected * (1.0 - expected) / 2000.0).sqrt(),
            "{name}: {p} {expected}"
        );
    }
}

#[test]
fn families() {
    let reference = reference();
    let ps: Vec<Option<f64>> = list(&reference["ps"]).into_iter().map(Some).collect();
    let adjusted = adjust(&ps);
    let all = [
        (&adjusted.holm, "holm", "holm"),
        (&adjusted.benjamini_hochberg, "fdr_bh", "BH"),
        (&adjusted.benjamini_yekutieli, "fdr_by", "BY"),
    ];
    for (ours, statsmodels, r) in all {
        for expected in [&reference["adjusted"][statsmodels], &reference["r"][r]["ps"]] {
            ours.iter().zip(list(expected)).for_each(|(p, expected)| close(r, p.unwrap(), expected));
        }
    }
}

#[test]
fn several_hosts() {
    for (name, case) in cases("hosts") {
        let each = list(&case["values"]).into_iter().zip(list(&case["variances"]));
        let estimates: Vec<Estimate> = each.map(|(value, variance)| Estimate { value, variance }).collect();
        let ours = pooled(&estimates, 0.95).unwrap();
        close(&name, ours.mean, number(&case["mean"]));
        close(&name, ours.tau2, number(&case["tau2"]));
        close(&name, ours.q, number(&case["q"]));
        close(&name, ours.q_p.unwrap(), number(&case["q_p"]));
        close(&name, ours.i2.unwrap(), number(&case["i2"]));
        close_interval(&name, ours.ci, &case["ci"]);
        let with_df: Vec<(Estimate, f64)> = estimates.into_iter().zip(list(&case["dfs"])).collect();
        close(&name, homogeneity(&with_df).unwrap(), number(&case["homogeneity_p"]));
    }
}

#[test]
fn within_hosts() {
    for (name, case) in cases("within") {
        let sides = |stratum: &Value| (Summary::of(&list(&stratum[0])), Summary::of(&list(&stratum[1])));
        let strata: Vec<(Summary, Summary)> = case["strata"].as_array().unwrap().iter().map(sides).collect();
        let ours = Linear::within(&strata, 1.0, 0.0).unwrap();
        close(&name, ours.estimate, number(&case["estimate"]));
        close(&name, ours.error, number(&case["error"]));
        close(&name, ours.df, number(&case["df"]));
        close_interval(&name, ours.interval(0.95), &case["ci"]);
    }
}

#[test]
fn factors() {
    let case = reference()["factors"].take();
    let levels: Vec<Vec<usize>> = serde_json::from_value(case["levels"].clone()).unwrap();
    let rows: Vec<Row> =
        levels.into_iter().zip(list(&case["values"])).map(|(levels, value)| Row { levels, value }).collect();
    let ours = anova(&rows, true).unwrap();
    let expected = case["effects"].as_array().unwrap();
    assert_eq!(ours.effects.len(), expected.len());
    close("residual", ours.residual, number(&case["residual"]));
    assert_eq!(ours.residual_df as u64, case["residual_df"].as_u64().unwrap());
    for (effect, expected) in ours.effects.iter().zip(expected) {
        let name = format!("{:?}", effect.factors);
        assert_eq!(serde_json::to_value(&effect.factors).unwrap(), expected["factors"]);
        assert_eq!(effect.df as u64, expected["df"].as_u64().unwrap());
        close(&name, effect.squares, number(&expected["squares"]));
        close(&name, effect.f.unwrap(), number(&expected["f"]));
        close(&name, effect.p.unwrap(), number(&expected["p"]));
        close(&name, effect.eta2, number(&expected["eta2"]));
        close(&name, effect.omega2.unwrap(), number(&expected["omega2"]));
    }
}

#[test]
fn repetitions() {
    let case = reference()["power"].take();
    let rows = |key: &str| case[key].as_array().unwrap().iter().map(list).collect::<Vec<_>>();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole numbers of repetitions")]
    let whole = |x: f64| x as usize;
    for row in rows("t_test") {
        close(&format!("{row:?}"), t_test_power(row[0], whole(row[1]), row[2]).unwrap(), row[3]);
    }
    for row in rows("needed") {
        assert_eq!(
            repetitions_for_difference(row[0], 0.8, row[1]),
            Some(Repetitions::PerSide(whole(row[2]))),
            "{row:?}"
        );
    }
    for row in rows("tost") {
        let power = tost_power(row[0], row[1], whole(row[2]), row[3]).unwrap();
        assert!((power - row[4]).abs() <= 1e-12_f64.max(TOLERANCE * row[4]), "{row:?}: {power}");
    }
    for row in rows("half_width") {
        assert_eq!(repetitions_for_half_width(row[0], 0.95), Some(Repetitions::PerSide(whole(row[1]))), "{row:?}");
    }
}

#[test]
fn distribution_functions_far_out() {
    for (name, rows) in cases("tails") {
        for row in rows.as_array().unwrap().iter().map(list) {
            let (arguments, expected) = row.split_at(row.len() - 1);
            let ours = match (name.as_str(), arguments) {
                ("normal_sf", &[z]) => distribution::normal_sf(z),
                ("normal_quantile", &[p]) => distribution::normal_quantile(p).unwrap(),
                ("chi2_sf", &[x, df]) => distribution::chi2_sf(x, df).unwrap(),
                ("f_sf", &[f, a, b]) => distribution::f_sf(f, a, b).unwrap(),
                ("t_sf", &[t, df]) => distribution::t_sf(t, df).unwrap(),
                other => panic!("{other:?}"),
            };
            close(&format!("{name} {arguments:?}"), ours, expected[0]);
        }
    }
}
