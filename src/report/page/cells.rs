//! Each metric in each group: summary, points and changes of level.

use super::grouping::Grouping;
use super::model::{Cell, Run};
use crate::analysis::Summary;
use crate::analysis::contrasts::parallel;
use crate::analysis::stats::change::changes;
use crate::analysis::stats::describe::{median, sorted};
use crate::store::Dataset;

/// For each iteration its place among the runs of its group; 0 for those without one. `order` has indices of iterations in the order in
/// which they were run.
pub(super) fn places(grouping: &Grouping, order: &[usize]) -> Vec<usize> {
    let mut places = vec![0; grouping.of.len()];
    let mut next = vec![0; grouping.groups.len()];
    for &at in order {
        if let Some(group) = grouping.of[at] {
            places[at] = next[group];
            next[group] += 1;
        }
    }
    places
}

/// The iterations of `order`.
pub(super) fn runs(dataset: &Dataset, grouping: &Grouping, order: &[usize]) -> Vec<Run> {
    let first = order.first().map_or(0, |&at| dataset.iterations[at].header.started_ns);
    let run = |&at: &usize| {
        let header = &dataset.iterations[at].header;
        #[expect(clippy::cast_precision_loss, reason = "whole milliseconds of any campaign fit")]
        let start = (header.started_ns.saturating_sub(first) / 1_000_000) as f64 / 1e3;
        Some(Run { number: header.number.0, start, block: header.block, group: grouping.of[at]? })
    };
    order.iter().filter_map(run).collect()
}

/// By metric and group; `values` are so, too, each with the index of its iteration. Cells hold up to `most` points.
pub(super) fn all(
    values: &[Vec<Vec<(f64, usize)>>],
    places: &[usize],
    most: usize,
    level: f64,
    seed: u64,
) -> Vec<Vec<Cell>> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let placed = |group: &Vec<(f64, usize)>| {
        let mut run: Vec<(f64, usize)> = group.iter().map(|&(x, at)| (x, places[at])).collect();
        run.sort_unstable_by_key(|value| value.1);
        run
    };
    parallel::all(values.len(), threads, |m| {
        values[m].iter().map(|group| cell(placed(group), most, level, seed)).collect()
    })
}

/// `run` are values with their places, in run order.
fn cell(run: Vec<(f64, usize)>, most: usize, level: f64, seed: u64) -> Cell {
    let values: Vec<f64> = run.iter().map(|value| value.0).collect();
    let Summary { n, mean, sd, ci95 } = Summary::of(&values);
    let at: Vec<usize> = changes(&values, level, seed).into_iter().map(|change| change.at).collect();
    let levels = levels(&values, &at);
    let changes = at.into_iter().map(|at| run[at].1).collect();
    let mut points = run;
    points.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    if points.len() > most {
        let last = points.len() - 1;
        points = (0..most).map(|i| points[i * last / (most - 1)]).collect();
    }
    Cell { n, mean, sd, interval: ci95, points, changes, levels }
}

/// Median of each stretch between the places `at`.
fn levels(values: &[f64], at: &[usize]) -> Vec<f64> {
    let starts = std::iter::once(0).chain(at.iter().copied());
    let ends = at.iter().copied().chain(std::iter::once(values.len()));
    starts.zip(ends).filter_map(|(start, end)| median(&sorted(&values[start..end])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_keep_their_places_and_changes_name_the_run() {
        // Every other run belongs to another group.
        let run: Vec<(f64, usize)> =
            (0..40_u32).map(|i| (f64::from(i % 3) + if i < 20 { 0.0 } else { 50.0 }, 2 * i as usize)).collect();
        let whole = cell(run.clone(), 100, 0.01, 1);
        assert_eq!((whole.n, whole.points.len(), whole.changes), (40, 40, vec![40]));
        assert_eq!(whole.levels, [1.0, 51.0]);
        assert!(whole.points.is_sorted_by_key(|point| point.0));
        assert!(whole.points.iter().all(|point| run.contains(point)));
        let thin = cell(run, 7, 0.01, 1);
        assert_eq!((thin.n, thin.mean, thin.points.len()), (40, whole.mean, 7));
        assert_eq!(thin.levels, [1.0, 51.0], "medians of all values");
        // The i-th has rank ⌊39·i/6⌋: what the script counts on.
        for (i, point) in thin.points.iter().enumerate() {
            assert_eq!(*point, whole.points[i * 39 / 6]);
        }
    }
}
