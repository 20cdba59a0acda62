use super::*;
use crate::analysis::stats::random::Random;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn looked(name: &'static str, level: Level, groups: Vec<Vec<f64>>) -> Looked<'static> {
    let mut next = 0..;
    let groups = groups.into_iter().map(|group| group.into_iter().zip(&mut next).collect()).collect();
    Looked { name, level, better: Some(Better::Higher), margin: Percent::new(5.0), groups }
}

/// Of groups that nothing is known of.
fn alone(metric: Looked<'_>) -> Anomalies {
    let values = vec![Vec::new(); metric.groups.len()];
    anomalies(&[metric], Factors { names: &[], values: &values })
}

fn normal(random: &mut Random, n: usize) -> Vec<f64> {
    (0..n).map(|_| 100.0 + 5.0 * random.normal()).collect()
}

#[test]
fn a_value_far_out_is_found_and_named() {
    let mut random = Random::new(8, &[]);
    let mut groups: Vec<Vec<f64>> = (0..5).map(|_| normal(&mut random, 40)).collect();
    groups[3][7] = 400.0;
    let all = alone(looked("rps", Level::Application, groups));
    let [Anomaly { metric: 0, group: 3, iteration: Some(127), kind: Kind::Outlier(far) }] = all.found[..] else {
        panic!("{:?}", all.found)
    };
    assert!(far.value == 400.0 && (far.median - 100.0).abs() < 5.0 && far.distance > 30.0 && far.p < 0.05, "{far:?}");
    assert_eq!((all.values, all.not_looked_at), (200, 0));
}

#[test]
fn groups_without_a_measure_are_counted_and_not_judged() {
    let mut mostly = vec![0.0; 20];
    mostly[3] = 1e9;
    let odd = vec![f64::NAN, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 1e9];
    let all = alone(looked("x", Level::Os, vec![mostly, vec![1.0, 2.0, 1e9], odd, vec![3.0; 30], vec![]]));
    assert_eq!(all.found, []);
    assert_eq!((all.values, all.not_looked_at), (0, 62));
}

/// Share of campaigns without a fault in which anything lies far out.
fn false_alarms(runs: usize, groups: usize, n: usize, value: impl Fn(&mut Random) -> f64) -> usize {
    let mut random = Random::new(9, &[groups as u64, n as u64]);
    let run = |_| {
        let campaign: Vec<far::Group> = (0..groups)
            .filter_map(|_| far::Group::of(&(0..n).map(|_| value(&mut random)).collect::<Vec<_>>()))
            .collect();
        campaign.iter().any(|group| !group.beyond(ALPHA, groups * n).is_empty())
    };
    (0..runs).map(run).filter(|&any| any).count()
}

#[test]
fn false_alarms_are_as_rare_as_stated() {
    // 99.9 % of Bin(400, 0.05) are at most 35.
    for (groups, n) in [(1, 8), (1, 30), (20, 10), (20, 40)] {
        let found = false_alarms(400, groups, n, Random::normal);
        assert!(found <= 35, "normal, {groups} groups of {n}: {found} of 400");
        let found = false_alarms(400, groups, n, |random| (0.5 * random.normal()).exp());
        assert!(found <= 35, "log-normal, {groups} groups of {n}: {found} of 400");
    }
}

/// The table of docs/analysis.md.
#[test]
#[ignore = "prints the table; make simulations"]
fn simulated_false_alarms() {
    type Draw = fn(&mut Random) -> f64;
    let kinds: [(&str, Draw); 6] = [
        ("normal", Random::normal),
        ("log-normal, skewness 1.75", |random| (0.5 * random.normal()).exp()),
        ("exponential", |random| -(1.0 - random.uniform()).ln()),
        (
            "exponential, one in 30 is 0",
            |random| if random.below(30) == 0 { 0.0 } else { -(1.0 - random.uniform()).ln() },
        ),
        ("Poisson with mean 5", |random| {
            let (mut product, mut n) = (1.0 - random.uniform(), 0.0);
            while product > (-5.0_f64).exp() {
                product *= 1.0 - random.uniform();
                n += 1.0;
            }
            n
        }),
        ("t with 5 degrees of freedom", |random| {
            let spread: f64 = (0..5).map(|_| random.normal().powi(2)).sum();
            random.normal() / (spread / 5.0).sqrt()
        }),
    ];
    for (name, draw) in kinds {
        for (groups, n) in [(1, 8), (1, 30), (100, 8), (100, 10), (100, 30), (100, 100), (1000, 10), (1000, 30)] {
            let runs = (40_000 / groups).clamp(200, 2000);
            let found = false_alarms(runs, groups, n, draw);
            println!("{name:30} {groups:5} groups of {n:3}: {:.3} of {runs}", count(found) / count(runs));
        }
    }
}

#[test]
fn stalls_and_storms_are_facts() {
    let mut stalls = vec![0.0; 9];
    stalls[4] = 2.0;
    let often = vec![0.0, 1.0, 2.0, 1.0, 1.0];
    let all = alone(looked("host.stalls", Level::Network, vec![stalls, often]));
    let stall = |a: &Anomaly| (a.group, a.iteration, a.kind);
    assert_eq!(all.found.iter().map(stall).collect::<Vec<_>>(), [(0, Some(4), Kind::Stall { value: 2.0 })]);
    let shares = vec![0.0001, 0.0002, 0.0003, 0.25, 0.0002, 0.009];
    let all = alone(looked("rexmt_share", Level::Network, vec![shares, vec![0.2, 0.3, 0.25]]));
    let [(0, Some(3), Kind::Storm { value, median })] = all.found.iter().map(stall).collect::<Vec<_>>()[..] else {
        panic!("{:?}", all.found)
    };
    assert!(value == 0.25 && (median - 0.00025).abs() < 1e-12);
    let other = looked("rexmt_share", Level::Os, vec![vec![0.0, 0.0, 0.0, 0.5]]);
    assert_eq!(alone(other).found, [], "a metric of that name at another level is something else");
}

#[test]
fn humps_are_found_and_their_number_by_chance_is_stated() {
    let mut random = Random::new(10, &[]);
    let one = normal(&mut random, 60);
    let two: Vec<f64> = one.iter().enumerate().map(|(i, x)| x + if i % 2 == 0 { 0.0 } else { 80.0 }).collect();
    let all = alone(looked("rps", Level::Os, vec![one, two, vec![1.0; 60], vec![1.0, 2.0]]));
    assert!(matches!(all.found[..], [Anomaly { group: 1, iteration: None, kind: Kind::Humps { .. }, .. }]), "{all:?}");
    assert_eq!((all.humps_tested, all.humps_level), (2, 0.025));
    assert!((all.humps_by_chance() - 0.05).abs() < 1e-12);
}

#[test]
fn a_rise_with_more_pairs_is_found() {
    let mut random = Random::new(11, &[]);
    let mut around = |mean: f64| (0..10).map(|_| mean + random.normal()).collect::<Vec<_>>();
    // Under kvm performance rises from one pair to two alone; under tcg, listed from four pairs on, all the way.
    let groups = vec![around(100.0), around(130.0), around(90.0), around(100.0), around(70.0), around(40.0)];
    let values: Vec<Vec<Option<String>>> = ["1 kvm", "2 kvm", "4 kvm", "4 tcg", "2 tcg", "1 tcg"]
        .iter()
        .map(|text| text.split(' ').map(|value| Some(value.to_owned())).collect())
        .collect();
    let names = names(&["pairs", "accel"]);
    let factors = Factors { names: &names, values: &values };
    let rps = looked("rps", Level::Application, groups.clone());
    let all = anomalies(std::slice::from_ref(&rps), factors);
    let rises: Vec<(usize, f64, f64)> = all
        .found
        .iter()
        .filter_map(|a| if let Kind::Rise(rise) = a.kind { Some((a.group, rise.from, rise.to)) } else { None })
        .collect();
    assert_eq!(rises.len(), 3, "{:?}", all.found);
    assert!(
        rises.contains(&(1, 1.0, 2.0)) && rises.contains(&(4, 1.0, 2.0)) && rises.contains(&(3, 2.0, 4.0)),
        "{rises:?}"
    );
    assert_eq!(all.steps, 4);
    let lower = Looked { better: Some(Better::Lower), ..rps.clone() };
    let falls = anomalies(&[lower], factors).found.iter().filter(|a| matches!(a.kind, Kind::Rise(_))).count();
    assert_eq!(falls, 1, "from two pairs to four under kvm");
    for other in [Looked { better: None, ..rps.clone() }, looked("rps", Level::Os, groups)] {
        assert_eq!(anomalies(&[other], factors).steps, 0);
    }
}
