//! Contrasts of many metrics in many groups. `cargo bench --bench analysis`.
//!
//! With an argument FILE, `cargo bench --bench analysis -- --peer FILE`, it reads the values that `benches/peers/analysis.py` wrote,
//! makes all contrasts once and prints how long that took: the same work as the peer's, process start included.

use std::hint::black_box;
use std::time::Instant;

use divan::Bencher;
use vptest::analysis::contrasts::{Cell, Family, Metric, Options, Verdict, contrasts};
use vptest::analysis::stats::equivalence::Margin;
use vptest::analysis::stats::random::Random;

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--peer").skip(1);
    match arguments.next() {
        Some(file) => peer(&file),
        None => divan::main(),
    }
}

/// `iterations` in as many groups, each with a mean of its own.
fn study(metrics: u64, groups: usize, iterations: usize) -> Vec<Metric> {
    let metric = |m: u64| {
        let mut random = Random::new(5, &[m]);
        let mut cell = |g: usize| {
            let mean = if g % 5 == 4 { 103.0 } else { 100.0 };
            let values = (0..iterations / groups).map(|_| mean + 10.0 * random.normal()).collect();
            Cell { values, blocks: None, hosts: None }
        };
        Metric { margin: Margin::Relative(0.05), cells: (0..groups).map(&mut cell).collect() }
    };
    (0..metrics).map(metric).collect()
}

fn against_the_first(groups: usize) -> Vec<(usize, usize)> {
    (1..groups).map(|group| (group, 0)).collect()
}

#[divan::bench(args = [1, 10], sample_count = 5, sample_size = 1)]
fn metrics_in_50_groups_of_10_000_iterations(bencher: Bencher, metrics: u64) {
    let study = study(metrics, 50, 10_000);
    bencher.bench_local(|| contrasts(black_box(&study), &against_the_first(50), &Options::default()).size);
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn one_metric_in_2000_groups_of_five(bencher: Bencher) {
    let study = study(1, 2000, 10_000);
    bencher.bench_local(|| contrasts(black_box(&study), &against_the_first(2000), &Options::default()).size);
}

/// Values as little-endian doubles, by metric, group and iteration, after three numbers: how many there are of each.
fn peer(file: &str) {
    let start = Instant::now();
    let bytes = std::fs::read(file).expect("the peer's file");
    let mut numbers = bytes.chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().expect("eight bytes")));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small whole numbers")]
    let [metrics, groups, n] = std::array::from_fn(|_| numbers.next().expect("three sizes") as usize);
    let mut cell = |_| Cell { values: numbers.by_ref().take(n).collect(), blocks: None, hosts: None };
    let mut metric = |_| Metric { margin: Margin::Relative(0.05), cells: (0..groups).map(&mut cell).collect() };
    let study: Vec<Metric> = (0..metrics).map(&mut metric).collect();
    let family = contrasts(&study, &against_the_first(groups), &Options::default());
    print(&family);
    println!("seconds {:.3}", start.elapsed().as_secs_f64());
}

/// Sums that the peer prints too.
fn print(family: &Family) {
    let numbers = || family.contrasts.iter().filter_map(|contrast| contrast.numbers.as_ref());
    let sum = |f: &dyn Fn(&vptest::analysis::contrasts::Numbers) -> Option<f64>| numbers().filter_map(f).sum::<f64>();
    println!("contrasts {}", family.contrasts.len());
    println!("welch {:.6}", sum(&|n| n.means.welch.map(|w| w.p)));
    println!("mann_whitney {:.6}", sum(&|n| n.mann_whitney.map(|t| t.p)));
    println!("brunner_munzel {:.6}", sum(&|n| n.brunner_munzel.map(|t| t.p)));
    println!("kolmogorov_smirnov {:.6}", sum(&|n| n.kolmogorov_smirnov.map(|t| t.p)));
    println!("permutation {:.6}", sum(&|n| n.permutation.map(|t| t.p)));
    println!("bca_width {:.6}", sum(&|n| n.difference_bca.map(|ci| ci.high - ci.low)));
    println!("shift {:.6}", sum(&|n| n.shift));
    println!("holm {:.6}", family.contrasts.iter().filter_map(|contrast| contrast.p_holm).sum::<f64>());
    let different = family.contrasts.iter().filter(|contrast| matches!(contrast.verdict, Verdict::Different { .. }));
    println!("different {}", different.count());
}
