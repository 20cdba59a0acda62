//! Do intervals cover, and verdicts err, as often as they say? Seeded, so the outcome is fixed; the bounds are those that a right
//! method meets with probability 0.999. The long versions are run by `make simulations`, which prints the table of
//! docs/analysis.md.

use super::bca::{Influence, bca};
use super::bootstrap::{Stream, resampled_means};
use super::equivalence::{Linear, Margin};
use super::random::Random;
use super::stopping::{Decision, StopRule};
use crate::analysis::contrasts::{Rule, Verdict};
use crate::analysis::summary::count;
use crate::analysis::{Summary, TwoSample};

/// Shapes of values with mean 0 and standard deviation 1.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Normal,
    /// Skewed: log-normal with σ = 0.5, skewness 1.75.
    Skewed,
}

fn draw(shape: Shape, random: &mut Random) -> f64 {
    let z = random.normal();
    match shape {
        Shape::Normal => z,
        Shape::Skewed => {
            let variance = 0.25_f64.exp_m1() * 0.25_f64.exp();
            ((0.5 * z).exp() - 0.125_f64.exp()) / variance.sqrt()
        }
    }
}

fn sample(shape: Shape, mean: f64, sd: f64, n: usize, random: &mut Random) -> Vec<f64> {
    (0..n).map(|_| mean + sd * draw(shape, random)).collect()
}

/// Share of `runs` in which `happens`.
fn share(runs: usize, mut happens: impl FnMut(&mut Random) -> bool) -> f64 {
    let hits = (0..runs).filter(|&run| happens(&mut Random::new(2019, &[4, run as u64])));
    count(hits.count()) / count(runs)
}

/// Half-width of the range in which 99.9 % of shares of `runs` lie.
fn slack(p: f64, runs: usize) -> f64 {
    3.29 * (p * (1.0 - p) / count(runs)).sqrt()
}

#[derive(Debug)]
struct Coverage {
    welch: f64,
    percent: f64,
    g: f64,
    bca: f64,
}

/// How often the intervals hold the truth: means 105 and 100, standard deviations 3 and `other`.
fn coverage(shape: Shape, n: usize, other: f64, runs: usize, resamples: usize) -> Coverage {
    let draw = |random: &mut Random| (sample(shape, 105.0, 3.0, n, random), sample(shape, 100.0, other, n, random));
    let two = |(x, y): &(Vec<f64>, Vec<f64>)| TwoSample::of(&Summary::of(x), &Summary::of(y)).expect("finite");
    let holds =
        |ci: Option<crate::analysis::Interval>, truth: f64| ci.is_some_and(|ci| ci.low <= truth && truth <= ci.high);
    Coverage {
        welch: share(runs, |random| holds(two(&draw(random)).difference_ci95, 5.0)),
        percent: share(runs, |random| holds(two(&draw(random)).percent_ci95, 5.0)),
        g: share(runs.min(4000) / 4, |random| holds(two(&draw(random)).hedges_g_ci95, 5.0 / 3.0)),
        bca: share(runs.min(4000) / 2, |random| {
            let seed = random.next_u64();
            let (x, y) = draw(random);
            holds(bootstrap(&x, &y, resamples, seed), 5.0)
        }),
    }
}

fn bootstrap(x: &[f64], y: &[f64], resamples: usize, seed: u64) -> Option<crate::analysis::Interval> {
    let one = |values: &[f64], stream| {
        let mean = Summary::of(values).mean.expect("finite");
        let centred: Vec<f64> = values.iter().map(|x| x - mean).collect();
        (mean, resampled_means(&[&centred], resamples, seed, Stream(stream)).remove(0), centred)
    };
    let ((a, ma, ca), (b, mb, cb)) = (one(x, 0), one(y, 1));
    let acceleration = Influence::of_mean(&ca, 0.0, 1.0).acceleration(Influence::of_mean(&cb, 0.0, -1.0))?;
    let mut all: Vec<f64> = ma.iter().zip(&mb).map(|(x, y)| (a + x) - (b + y)).collect();
    bca(a - b, &mut all, acceleration, 0.95)
}

/// Verdicts on families of `family` contrasts of one baseline without any difference (or one just at the margin): shares of
/// families with a wrong "different", with any wrong claim of a difference, and with a wrong claim of equivalence.
fn errors(shape: Shape, n: usize, family: usize, runs: usize) -> [f64; 3] {
    let rule = Rule { alpha: 0.05, family, margin: Margin::Relative(0.05) };
    let any = |group_mean: f64, wrong: &dyn Fn(&Verdict) -> bool| {
        share(runs, |random| {
            let baseline = Summary::of(&sample(shape, 100.0, 3.0, n, random));
            (0..family).any(|_| {
                let group = Summary::of(&sample(shape, group_mean, 3.0, n, random));
                wrong(&rule.judge(&group, &baseline))
            })
        })
    };
    let within = |v: &Verdict| matches!(v, Verdict::Equivalent { .. } | Verdict::DifferentNegligible { .. });
    [any(105.0, &|v| matches!(v, Verdict::Different { .. })), any(100.0, &differs), any(105.0, &within)]
}

/// Coverage of "mean ± the half-width asked for" (or the t interval where that was never reached), and the mean number of repetitions.
fn stopped(shape: Shape, half_width: Margin, min: usize, max: usize, runs: usize) -> (f64, f64) {
    let rule = StopRule { half_width, min, max };
    let mut repetitions = 0;
    let covered = share(runs, |random| {
        let mut values = Vec::new();
        let decision = loop {
            values.push(100.0 + draw(shape, random));
            let decision = rule.decide(&values);
            if decision != Decision::GoOn {
                break decision;
            }
        };
        repetitions += values.len();
        let summary = Summary::of(&values);
        let mean = summary.mean.expect("finite");
        let asked = match half_width {
            Margin::Absolute(width) => width,
            Margin::Relative(share) => share * mean,
        };
        let half = summary.ci95.map_or(asked, |ci| 0.5 * (ci.high - ci.low));
        let half = if decision == Decision::GivenUp { half.max(asked) } else { asked };
        (mean - 100.0).abs() <= half
    });
    (covered, count(repetitions) / count(runs))
}

/// The same of two metrics that end a tuple together, of which `lost` of the values are missing: coverage of each, and repetitions.
fn stopped_together(shape: Shape, share_of_mean: f64, lost: f64, runs: usize) -> ([f64; 2], f64) {
    let rule = StopRule { half_width: Margin::Relative(share_of_mean), min: 5, max: 50 };
    let mut covered = [0_usize; 2];
    let mut repetitions = 0;
    for run in 0..runs {
        let mut random = Random::new(2019, &[5, run as u64]);
        let mut rows: Vec<Vec<Option<f64>>> = Vec::new();
        // The second one has twice the spread, so it decides.
        let mut value = |sd: f64| {
            let value = 100.0 + sd * draw(shape, &mut random);
            (random.uniform() >= lost).then_some(value)
        };
        rows.extend((0..rule.max).map(|_| vec![value(1.0), value(2.0)]));
        rows.truncate(rule.follow(2, &rows).settled_after.unwrap_or(rule.max));
        repetitions += rows.len();
        for (metric, covered) in covered.iter_mut().enumerate() {
            let values: Vec<f64> = rows.iter().filter_map(|row| row[metric]).collect();
            *covered += usize::from(covers(&values, &rule, 100.0));
        }
    }
    (covered.map(|hits| count(hits) / count(runs)), count(repetitions) / count(runs))
}

/// Does "mean ± the half-width asked for", or the t interval where that is wider, hold the truth?
fn covers(values: &[f64], rule: &StopRule, truth: f64) -> bool {
    let summary = Summary::of(values);
    let mean = summary.mean.expect("finite");
    let asked = match rule.half_width {
        Margin::Absolute(width) => width,
        Margin::Relative(share) => share * mean,
    };
    let half = summary.ci95.map_or(asked, |ci| 0.5 * (ci.high - ci.low));
    let is_known = matches!(rule.decide(values), Decision::Reached | Decision::Constant);
    (mean - truth).abs() <= if is_known { asked } else { half.max(asked) }
}

/// How often two equal tuples that are both ended by the rule are said to differ at all: what Welch's test at 5 % does after stopping.
fn stopped_verdicts(shape: Shape, half_width: f64, runs: usize) -> f64 {
    let stop = StopRule { half_width: Margin::Absolute(half_width), min: 5, max: 50 };
    let rule = Rule { alpha: 0.05, family: 1, margin: Margin::Relative(0.05) };
    let side = |random: &mut Random| {
        let mut values = Vec::new();
        while stop.decide(&values) == Decision::GoOn {
            values.push(100.0 + draw(shape, random));
        }
        Summary::of(&values)
    };
    share(runs, |random| {
        let (a, b) = (side(random), side(random));
        rule.interval(&a, &b).is_some_and(|ci| ci.low > 0.0 || ci.high < 0.0)
    })
}

/// Two hosts that are ten standard deviations apart, with `most` values of one side and `few` of the other on the first, the other way
/// round on the second, and no difference on either. Shares of runs in which the means over all values, and those within hosts, are
/// said to differ, and in which the interval within hosts holds the truth, 0.
fn simpson(shape: Shape, most: usize, few: usize, runs: usize) -> [f64; 3] {
    let rule = Rule { alpha: 0.05, family: 1, margin: Margin::Relative(0.05) };
    let excludes = |ci: Option<crate::analysis::Interval>| ci.is_some_and(|ci| ci.low > 0.0 || ci.high < 0.0);
    let both = |random: &mut Random| {
        let mut host = |level: f64, n: usize| sample(shape, level, 3.0, n, random);
        [(host(100.0, most), host(100.0, few)), (host(130.0, few), host(130.0, most))]
    };
    let all = |random: &mut Random| {
        let [(a, b), (c, d)] = both(random);
        (Summary::of(&[a, c].concat()), Summary::of(&[b, d].concat()))
    };
    let strata = |random: &mut Random| both(random).map(|(a, b)| (Summary::of(&a), Summary::of(&b)));
    let within = |random: &mut Random, confidence| {
        Linear::within(&strata(random), 1.0, 0.0).and_then(|linear| linear.interval(confidence))
    };
    [
        share(runs, |random| {
            let (a, b) = all(random);
            excludes(rule.interval(&a, &b))
        }),
        share(runs, |random| differs(&rule.judge_within(&strata(random)))),
        share(runs, |random| !excludes(within(random, 0.95))),
    ]
}

/// Does a verdict claim a difference?
fn differs(verdict: &Verdict) -> bool {
    matches!(
        verdict,
        Verdict::Different { .. } | Verdict::DifferentNegligible { .. } | Verdict::Undecided { differs: true, .. }
    )
}

#[test]
fn hosts_that_hold_unequal_shares_make_no_differences() {
    let runs = 1000;
    for (shape, most, few) in [(Shape::Normal, 9, 3), (Shape::Normal, 4, 2), (Shape::Skewed, 9, 3)] {
        let [pooled, within, covered] = simpson(shape, most, few, runs);
        // Of few values the hosts make the spread too large to see anything.
        assert!(pooled > 0.5 || most < 9, "{shape:?} {most} {few}: the case is none: {pooled}");
        assert!(within <= 0.05 + slack(0.05, runs), "{shape:?} {most} {few}: {within}");
        assert!(covered >= 0.95 - slack(0.95, runs), "{shape:?} {most} {few}: {covered}");
    }
    assert!(simpson(Shape::Normal, 9, 3, runs)[1] > 0.02, "and not for never saying anything");
}

#[test]
fn intervals_cover_what_they_say() {
    let runs = 1000;
    for (n, other) in [(5, 3.0), (20, 6.0)] {
        let seen = coverage(Shape::Normal, n, other, runs, 200);
        let near = |share: f64, runs| (share - 0.95).abs() <= slack(0.95, runs) + 0.003;
        assert!(near(seen.welch, runs) && near(seen.percent, runs), "{n}: {seen:?}");
        assert!(other > 3.0 || near(seen.g, runs / 4), "{n}: {seen:?}");
        // Known to be too narrow for few values, and documented with the figures.
        let least = if n == 5 { 0.83 } else { 0.9 };
        assert!(seen.bca >= least && seen.bca <= 0.98, "{n}: {seen:?}");
    }
}

#[test]
fn verdicts_err_no_more_often_than_they_say() {
    for (shape, n, family) in [(Shape::Normal, 5, 1), (Shape::Normal, 10, 8), (Shape::Skewed, 10, 8)] {
        let runs = 400;
        for share in errors(shape, n, family, runs) {
            assert!(share <= 0.05 + slack(0.05, runs), "{shape:?} {n} {family}: {share}");
        }
    }
    // And not for never saying anything.
    assert!(errors(Shape::Normal, 10, 1, 400).iter().all(|&share| share > 0.005));
}

#[test]
fn tuples_stopped_early_are_known_well_enough() {
    let runs = 300;
    for width in [Margin::Absolute(0.5), Margin::Relative(0.01)] {
        let (covered, repetitions) = stopped(Shape::Normal, width, 5, 50, runs);
        assert!(covered >= 0.95 - slack(0.95, runs), "{width:?}: {covered}");
        assert!(repetitions < 35.0, "{width:?}: {repetitions}");
    }
}

#[test]
fn metrics_that_end_a_tuple_together_are_each_known_well_enough() {
    let runs = 300;
    for lost in [0.0, 0.2] {
        let (covered, repetitions) = stopped_together(Shape::Normal, 0.01, lost, runs);
        assert!(covered.iter().all(|&c| c >= 0.95 - slack(0.95, runs)), "{lost}: {covered:?}");
        assert!(repetitions < 40.0, "{lost}: {repetitions}");
    }
}

#[test]
fn stopping_makes_more_differences_and_as_many_as_documented() {
    // Not 5 %: a side ends while its values happen to lie close together. docs/analysis.md has the figure, of 20,000 runs.
    let runs = 1000;
    let wrong = stopped_verdicts(Shape::Normal, 0.5, runs);
    assert!((wrong - 0.083).abs() <= slack(0.083, runs), "{wrong}");
}

#[test]
#[ignore = "minutes in a release build; `make simulations`"]
fn figures() {
    println!("| values | n | sd | Welch | percent (Fieller) | Hedges' g | BCa |\n|---|---|---|---|---|---|---|");
    for (shape, n, other) in [
        (Shape::Normal, 3, 3.0),
        (Shape::Normal, 5, 3.0),
        (Shape::Normal, 10, 3.0),
        (Shape::Normal, 30, 3.0),
        (Shape::Normal, 10, 12.0),
        (Shape::Skewed, 5, 3.0),
        (Shape::Skewed, 10, 3.0),
        (Shape::Skewed, 30, 3.0),
        (Shape::Skewed, 10, 12.0),
    ] {
        let seen = coverage(shape, n, other, 10_000, 2000);
        let g = if other == 3.0 { format!("{:.3}", seen.g) } else { "–".to_owned() };
        println!("| {shape:?} | {n} | 3, {other} | {:.3} | {:.3} | {g} | {:.3} |", seen.welch, seen.percent, seen.bca);
    }
    println!(
        "\n| values | n | family | wrong \"different\" | any difference | wrong \"equivalent\" |\n|---|---|---|---|---|---|"
    );
    for (shape, n, family) in [
        (Shape::Normal, 3, 1),
        (Shape::Normal, 5, 1),
        (Shape::Normal, 10, 1),
        (Shape::Normal, 5, 20),
        (Shape::Normal, 10, 20),
        (Shape::Skewed, 5, 1),
        (Shape::Skewed, 10, 1),
        (Shape::Skewed, 10, 20),
        (Shape::Skewed, 30, 20),
    ] {
        let [different, any, equivalent] = errors(shape, n, family, 10_000);
        println!("| {shape:?} | {n} | {family} | {different:.3} | {any:.3} | {equivalent:.3} |");
    }
}

#[test]
#[ignore = "minutes; `make simulations`"]
fn figures_of_stopping() {
    println!("\n| values | half-width ÷ sd | min | max | coverage | repetitions |\n|---|---|---|---|---|---|");
    for shape in [Shape::Normal, Shape::Skewed] {
        for (width, min, max) in
            [(0.3, 5, 50), (0.5, 5, 50), (0.7, 5, 50), (1.0, 5, 50), (2.0, 5, 50), (0.5, 10, 50), (0.5, 20, 100)]
        {
            let (covered, repetitions) = stopped(shape, Margin::Absolute(width), min, max, 20_000);
            println!("| {shape:?} | {width} | {min} | {max} | {covered:.3} | {repetitions:.1} |");
        }
    }
    println!("\n| values | half-width | missing | coverage of both | repetitions |\n|---|---|---|---|---|");
    for shape in [Shape::Normal, Shape::Skewed] {
        for (width, lost) in [(0.01, 0.0), (0.01, 0.2), (0.02, 0.0)] {
            let ([first, second], repetitions) = stopped_together(shape, width, lost, 20_000);
            println!("| {shape:?} | {width} | {lost} | {first:.3}, {second:.3} | {repetitions:.1} |");
        }
    }
    println!("\n| values | half-width ÷ sd | Welch rejects equal tuples |\n|---|---|---|");
    for shape in [Shape::Normal, Shape::Skewed] {
        for width in [0.3, 0.5, 0.7, 1.0, 2.0] {
            println!("| {shape:?} | {width} | {:.3} |", stopped_verdicts(shape, width, 20_000));
        }
    }
}

#[test]
#[ignore = "minutes; `make simulations`"]
fn figures_of_hosts() {
    println!("\n| values | most, few | all values | within hosts | coverage |\n|---|---|---|---|---|");
    for shape in [Shape::Normal, Shape::Skewed] {
        for (most, few) in [(4, 2), (5, 2), (9, 3), (18, 6), (30, 10)] {
            let [pooled, within, covered] = simpson(shape, most, few, 20_000);
            println!("| {shape:?} | {most}, {few} | {pooled:.3} | {within:.3} | {covered:.3} |");
        }
    }
}
