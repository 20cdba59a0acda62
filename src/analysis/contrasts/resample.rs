//! Resamples and deals that many contrasts share.

use std::collections::BTreeMap;

use super::contrast::{Contrast, Prepared};
use super::{Cell, Metric, Options, parallel, used_groups};
use crate::analysis::Interval;
use crate::analysis::stats::bca::{Influence, bca};
use crate::analysis::stats::bootstrap::{Stream, resampled_means};
use crate::analysis::stats::permutation::{Block, Deals, Permutation};
use crate::analysis::summary::count;

/// Bytes that the means of resamples may take.
const BUDGET: usize = 256 << 20;

/// Resampled means of each group in some metrics, minus the mean; empty where there is nothing to resample.
type Means = Vec<Vec<Vec<f64>>>;

/// Fills in the bootstrap intervals.
pub(super) fn bootstrap(
    prepared: &[Vec<Option<Prepared>>],
    pairs: &[(usize, usize)],
    options: &Options,
    contrasts: &mut [Contrast],
) {
    if options.resamples == 0 {
        return;
    }
    let groups: Vec<usize> = used_groups(pairs).into_iter().collect();
    let per_metric = 8 * options.resamples * groups.len().max(1);
    let batch = (BUDGET / per_metric).max(1);
    for first in (0..prepared.len()).step_by(batch) {
        let metrics = first..prepared.len().min(first + batch);
        let means = resample(&prepared[metrics.clone()], &groups, options);
        let part = &mut contrasts[metrics.start * pairs.len()..metrics.end * pairs.len()];
        let intervals = parallel::all(part.len(), options.threads, |i| {
            intervals(prepared, &part[i], &means[part[i].metric - first], options)
        });
        for (contrast, (difference, percent)) in part.iter_mut().zip(intervals) {
            if let Some(numbers) = &mut contrast.numbers {
                (numbers.difference_bca, numbers.percent_bca) = (difference, percent);
            }
        }
    }
}

/// By metric, then by group.
fn resample(prepared: &[Vec<Option<Prepared>>], groups: &[usize], options: &Options) -> Means {
    let by_group = parallel::all(groups.len(), options.threads, |g| {
        let group = groups[g];
        let mut same_size: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (m, cells) in prepared.iter().enumerate() {
            if let Some(cell) = cells[group].as_ref().filter(|cell| cell.is_resampled()) {
                same_size.entry(cell.n).or_default().push(m);
            }
        }
        let mut means = vec![Vec::new(); prepared.len()];
        for metrics in same_size.into_values() {
            let column = |&m: &usize| prepared[m][group].as_ref().map_or(&[][..], |cell| &cell.centred);
            let columns: Vec<&[f64]> = metrics.iter().map(column).collect();
            let resampled = resampled_means(&columns, options.resamples, options.seed, Stream(group as u64));
            metrics.into_iter().zip(resampled).for_each(|(m, resampled)| means[m] = resampled);
        }
        means
    });
    let places = groups.last().map_or(0, |last| last + 1);
    let mut means: Means = (0..prepared.len()).map(|_| vec![Vec::new(); places]).collect();
    for (group, by_metric) in groups.iter().zip(by_group) {
        by_metric.into_iter().enumerate().for_each(|(m, resampled)| means[m][*group] = resampled);
    }
    means
}

fn intervals(
    prepared: &[Vec<Option<Prepared>>],
    contrast: &Contrast,
    means: &[Vec<f64>],
    options: &Options,
) -> (Option<Interval>, Option<Interval>) {
    let (a, b) = (&means[contrast.group], &means[contrast.baseline]);
    let side = |group: usize| prepared[contrast.metric][group].as_ref();
    let (Some(group), Some(baseline)) = (side(contrast.group), side(contrast.baseline)) else { return (None, None) };
    let Some(numbers) = contrast.numbers.as_ref().filter(|_| !a.is_empty() && !b.is_empty()) else {
        return (None, None);
    };
    let confidence = 1.0 - options.alpha;
    let difference = difference(group, baseline, (a, b), confidence);
    let percent = numbers.means.percent.and_then(|_| percent(group, baseline, (a, b), confidence));
    (difference, percent)
}

fn difference(group: &Prepared, baseline: &Prepared, means: (&[f64], &[f64]), confidence: f64) -> Option<Interval> {
    let acceleration =
        Influence::of_mean(&group.centred, 0.0, 1.0).acceleration(Influence::of_mean(&baseline.centred, 0.0, -1.0))?;
    // Of the difference minus the observed one.
    let mut resampled: Vec<f64> = means.0.iter().zip(means.1).map(|(a, b)| a - b).collect();
    let ci = bca(0.0, &mut resampled, acceleration, confidence)?;
    let observed = group.summary.mean? - baseline.summary.mean?;
    Some(Interval { low: observed + ci.low, high: observed + ci.high })
}

fn percent(group: &Prepared, baseline: &Prepared, means: (&[f64], &[f64]), confidence: f64) -> Option<Interval> {
    let (a, b) = (group.summary.mean?, baseline.summary.mean?);
    let of_group = Influence::of_mean(&group.centred, 0.0, 1.0 / b);
    // The ratio without each value of the baseline; the common factor of the percents changes no acceleration.
    let rest = count(baseline.n - 1);
    let of_baseline = Influence::of_jackknife(baseline.centred.iter().map(|x| a / (b - x / rest)));
    let acceleration = of_group.acceleration(of_baseline)?;
    let ratio = |(x, y): (&f64, &f64)| (b + y > 0.0).then(|| (a + x) / (b + y));
    let mut resampled: Vec<f64> = means.0.iter().zip(means.1).map(ratio).collect::<Option<_>>()?;
    let ci = bca(a / b, &mut resampled, acceleration, confidence)?;
    Some(Interval { low: 100.0 * (ci.low - 1.0), high: 100.0 * (ci.high - 1.0) })
}

/// Columns that are dealt together.
const COLUMNS: usize = 128;

/// Fills in the permutation tests.
pub(super) fn permutations(metrics: &[Metric], options: &Options, contrasts: &mut [Contrast]) {
    // Contrasts of the same design share their deals.
    let mut designs: BTreeMap<Vec<Block>, Vec<usize>> = BTreeMap::new();
    let design = |contrast: &Contrast| {
        let (group, baseline) =
            (&metrics[contrast.metric].cells[contrast.group], &metrics[contrast.metric].cells[contrast.baseline]);
        // Where the verdict goes by differences within hosts, values are exchanged within hosts.
        let within = |cell: &'_ Cell| -> Option<Vec<u32>> {
            let by_host = contrast.hosts.as_ref().is_some_and(|hosts| hosts.decides);
            if by_host { cell.hosts.clone() } else { cell.blocks.clone() }
        };
        let (of_group, of_baseline) = (within(group), within(baseline));
        Layout::of(of_group.as_deref(), group.values.len(), of_baseline.as_deref(), baseline.values.len())
    };
    for (i, contrast) in contrasts.iter().enumerate().filter(|(_, contrast)| contrast.is_comparable()) {
        designs.entry(design(contrast).blocks).or_default().push(i);
    }
    let mut jobs: Vec<(Deals, Vec<usize>)> = Vec::new();
    for (blocks, members) in &designs {
        let Some(deals) = Deals::new(blocks, options.seed) else { continue };
        jobs.extend(members.chunks(COLUMNS).map(|chunk| (deals.clone(), chunk.to_vec())));
    }
    let results: Vec<Vec<Option<Permutation>>> = parallel::all(jobs.len(), options.threads, |job| {
        let (deals, members) = &jobs[job];
        let column = |&i: &usize| {
            let contrast = &contrasts[i];
            let values = |group: usize| &metrics[contrast.metric].cells[group].values;
            design(contrast).column(values(contrast.group), values(contrast.baseline))
        };
        let columns: Vec<Vec<f64>> = members.iter().map(column).collect();
        deals.test(&columns.iter().map(Vec::as_slice).collect::<Vec<_>>())
    });
    for ((_, members), results) in jobs.iter().zip(results) {
        for (&i, result) in members.iter().zip(results) {
            contrasts[i].numbers.as_mut().expect("only such were dealt").permutation = result;
        }
    }
}

/// Where the values of two cells go so that each block lies together, the group's values first.
struct Layout {
    blocks: Vec<Block>,
    /// Indices of the group's values, then of the baseline's, for each block.
    places: Vec<(Vec<usize>, Vec<usize>)>,
}

impl Layout {
    /// One block where either cell has none.
    fn of(group: Option<&[u32]>, m: usize, baseline: Option<&[u32]>, n: usize) -> Self {
        let mut places: BTreeMap<u32, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        match group.zip(baseline) {
            Some((group, baseline)) => {
                group.iter().enumerate().for_each(|(i, block)| places.entry(*block).or_default().0.push(i));
                baseline.iter().enumerate().for_each(|(i, block)| places.entry(*block).or_default().1.push(i));
            }
            None => drop(places.insert(0, ((0..m).collect(), (0..n).collect()))),
        }
        let mut places: Vec<_> = places.into_values().collect();
        // Designs that differ in the order of their blocks alone are one.
        places.sort_by_key(|(group, baseline)| (group.len(), baseline.len()));
        let blocks = places.iter().map(|(g, b)| Block { group: g.len(), baseline: b.len() }).collect();
        Self { blocks, places }
    }

    fn column(&self, group: &[f64], baseline: &[f64]) -> Vec<f64> {
        let one = |(g, b): &(Vec<usize>, Vec<usize>)| {
            g.iter().map(|&i| group[i]).chain(b.iter().map(|&i| baseline[i])).collect::<Vec<_>>()
        };
        self.places.iter().flat_map(one).collect()
    }
}
