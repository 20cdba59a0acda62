use super::*;
use crate::analysis::stats::random::Random;

fn cell(values: Vec<f64>) -> Cell {
    Cell { values, blocks: None, hosts: None }
}

/// Samples around 100; some groups are shifted, and sizes differ.
fn metrics(count: u64) -> Vec<Metric> {
    let metric = |m: u64| {
        let mut random = Random::new(11, &[m]);
        let mut group =
            |g: u32| cell((0..8 + g % 3).map(|_| 100.0 + 4.0 * f64::from(g % 2) + random.normal()).collect());
        Metric { margin: Margin::Relative(0.02), cells: (0..5).map(&mut group).collect() }
    };
    (0..count).map(metric).collect()
}

const PAIRS: [(usize, usize); 4] = [(1, 0), (2, 0), (3, 0), (4, 3)];

fn options(threads: usize) -> Options {
    Options { resamples: 500, threads, ..Options::default() }
}

#[test]
fn results_depend_on_the_seed_alone() {
    let metrics = metrics(7);
    let one = contrasts(&metrics, &PAIRS, &options(1));
    assert_eq!(one, contrasts(&metrics, &PAIRS, &options(3)));
    let other = contrasts(&metrics, &PAIRS, &Options { seed: 2, ..options(1) });
    assert_ne!(one, other);
    assert_eq!(one.size, 28);
    let places: Vec<_> = one.contrasts.iter().take(5).map(|c| (c.metric, c.group, c.baseline)).collect();
    assert_eq!(places, [(0, 1, 0), (0, 2, 0), (0, 3, 0), (0, 4, 3), (1, 1, 0)]);
}

#[test]
fn other_metrics_change_the_family_and_nothing_else() {
    let metrics = metrics(7);
    let all = contrasts(&metrics, &PAIRS, &options(2));
    let alone = contrasts(&metrics[3..4], &PAIRS, &options(2));
    for (ours, theirs) in alone.contrasts.iter().zip(&all.contrasts[12..16]) {
        assert_eq!(ours.numbers, theirs.numbers);
        let width = |c: &Contrast| c.family_interval.map(|ci| ci.high - ci.low).unwrap();
        assert!(width(ours) < width(theirs));
        assert!(ours.p_holm.unwrap() <= theirs.p_holm.unwrap());
    }
}

#[test]
fn a_brief_look_comes_to_the_same_verdicts() {
    let metrics = metrics(5);
    let full = contrasts(&metrics, &PAIRS, &options(1));
    let brief = contrasts(&metrics, &PAIRS, &Options { extent: Extent::Brief, ..options(2) });
    assert_eq!((brief.size, brief.adjusted), (full.size, full.adjusted));
    for (brief, full) in brief.contrasts.iter().zip(&full.contrasts) {
        assert_eq!((brief.verdict, brief.family_interval, brief.tost), (full.verdict, full.family_interval, full.tost));
        assert_eq!((brief.p_holm, brief.p_bh, brief.p_by), (full.p_holm, full.p_bh, full.p_by));
        let (brief, full) = (brief.numbers.as_ref().unwrap(), full.numbers.as_ref().unwrap());
        assert_eq!(
            (&brief.means, brief.dominance, brief.mann_whitney),
            (&full.means, full.dominance, full.mann_whitney)
        );
        assert!(brief.permutation.is_none() && brief.difference_bca.is_none() && brief.shift.is_none());
        assert!(full.permutation.is_some() && full.difference_bca.is_some() && full.shift.is_some());
    }
}

#[test]
fn constants_have_a_verdict_and_no_p_value() {
    let metric = |cells: [Vec<f64>; 2]| Metric { margin: Margin::Relative(0.05), cells: cells.map(cell).into() };
    let metrics = [metric([vec![1.0; 6], vec![1.0; 6]]), metric([vec![1.0, 2.0, 3.0], vec![1.5, 2.0, 3.0]])];
    let family = contrasts(&metrics, &[(1, 0)], &options(1));
    assert_eq!((family.size, family.adjusted), (2, 1));
}

#[test]
fn everything_has_a_stated_result() {
    let odd: Vec<Vec<f64>> = vec![
        vec![],
        vec![1.0],
        vec![1.0, 1.0],
        vec![1.0, 2.0],
        vec![0.0; 6],
        vec![5.0; 6],
        vec![f64::NAN, 1.0, 2.0],
        vec![f64::INFINITY; 3],
        vec![f64::MAX, f64::MIN, 0.0],
        vec![1e-320, 2e-320, 3e-320],
        vec![-3.0, -2.0, -2.5],
        (0..9).map(f64::from).collect(),
    ];
    let n = odd.len();
    let pairs: Vec<(usize, usize)> = (0..n).flat_map(|a| (0..n).map(move |b| (a, b))).filter(|(a, b)| a != b).collect();
    for margin in [Margin::Relative(0.05), Margin::Absolute(0.0), Margin::Absolute(1e300)] {
        let metric = Metric { margin, cells: odd.iter().cloned().map(cell).collect() };
        let family = contrasts(&[metric], &pairs, &options(2));
        assert_eq!(family.contrasts.len(), pairs.len());
        for contrast in &family.contrasts {
            let (a, b) = (&odd[contrast.group], &odd[contrast.baseline]);
            let finite = a.iter().chain(b).all(|x| x.is_finite());
            if !finite {
                assert!(contrast.numbers.is_none() && contrast.p_holm.is_none(), "{contrast:?}");
                assert!(matches!(contrast.verdict, Verdict::NotComparable { why: Why::NotFinite { .. } }));
            } else if a.len().min(b.len()) < 2 {
                assert!(matches!(contrast.verdict, Verdict::NotComparable { why: Why::TooFew { .. } }), "{contrast:?}");
            }
            // Nothing that is no number gets out: serde writes it as null where a number was promised.
            let numbers = serde_json::to_string(&contrast.numbers).unwrap();
            let back: serde_json::Value = serde_json::from_str(&numbers).unwrap();
            assert!(back.is_null() || back["shift"].is_number() || contrast_overflows(a, b), "{contrast:?}");
        }
    }
}

fn contrast_overflows(a: &[f64], b: &[f64]) -> bool {
    a.iter().chain(b).any(|x| x.abs() == f64::MAX)
}

#[test]
fn one_group_and_none() {
    let metrics = metrics(2);
    assert_eq!(contrasts(&metrics, &[], &options(2)), Family { size: 0, adjusted: 0, contrasts: Vec::new() });
    assert!(contrasts(&[], &PAIRS, &options(2)).contrasts.is_empty());
}

#[test]
fn blocks_are_kept_apart() {
    // Block by block the group is 1 above; between blocks lie worlds.
    let blocks: Vec<u32> = (0..12).collect();
    let at = |shift: f64| Cell {
        values: blocks.iter().map(|&b| 100.0 * f64::from(b) + shift).collect(),
        blocks: Some(blocks.clone()),
        hosts: None,
    };
    let metric = |cells: Vec<Cell>| Metric { margin: Margin::Absolute(0.5), cells };
    let p = |cells: Vec<Cell>| {
        let family = contrasts(&[metric(cells)], &[(1, 0)], &options(1));
        family.contrasts[0].numbers.as_ref().unwrap().permutation.unwrap().p
    };
    assert_eq!(p(vec![at(0.0), at(1.0)]), 2.0 / 4096.0);
    let unblocked = |cell: Cell| Cell { blocks: None, ..cell };
    assert!(p(vec![unblocked(at(0.0)), unblocked(at(1.0))]) > 0.9);
}

#[test]
fn bootstrap_intervals_hold_the_difference() {
    for contrast in contrasts(&metrics(3), &PAIRS, &options(2)).contrasts {
        let numbers = contrast.numbers.unwrap();
        let (ci, percent) = (numbers.difference_bca.unwrap(), numbers.percent_bca.unwrap());
        let welch = numbers.means.difference_ci95.unwrap();
        assert!(ci.low < numbers.means.difference && numbers.means.difference < ci.high);
        assert!(percent.low < numbers.means.percent.unwrap() && numbers.means.percent.unwrap() < percent.high);
        let ratio = (ci.high - ci.low) / (welch.high - welch.low);
        assert!((0.6..1.2).contains(&ratio), "{ratio}");
    }
}

#[test]
fn batches_are_one_family() {
    let all = metrics(4);
    let whole = contrasts(&all, &PAIRS, &options(2));
    let batches = [Batch { metrics: &all[..1], pairs: &PAIRS }, Batch { metrics: &all[1..], pairs: &PAIRS }];
    let parts = together(&batches, &options(2));
    assert!(parts.iter().all(|part| part.size == whole.size));
    let parts: Vec<&Contrast> = parts.iter().flat_map(|part| &part.contrasts).collect();
    for (part, one) in parts.iter().zip(&whole.contrasts) {
        assert_eq!((part.verdict, part.p_holm, part.p_by), (one.verdict, one.p_holm, one.p_by));
        assert_eq!(part.numbers, one.numbers, "resamples depend on the group alone");
    }
    assert_eq!(parts.len(), whole.contrasts.len());
}
