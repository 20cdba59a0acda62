//! What could have come out if it did not matter which iteration was in which group.

use serde::Serialize;

use super::mann_whitney::Method;
use super::random::Random;
use super::weights::{LANES, Weights};
use crate::analysis::summary::count;

/// Deals are all taken up to this many, else drawn.
const MOST: usize = 10_000;
/// How many are drawn.
const DRAWN: usize = 9999;
/// Tells the streams of deals from those of other uses.
const USE: u64 = 2;

/// Iterations of both groups in one block: those run close together in time, of which each could have been in either group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block {
    /// Values of the group.
    pub group: usize,
    /// Values of the baseline.
    pub baseline: usize,
}

/// Ways to deal the values of each block into two groups of their sizes.
///
/// Values are numbered block by block, in each the group's before the baseline's.
#[derive(Debug, Clone)]
pub struct Deals {
    blocks: Vec<Block>,
    /// For each block all ways to choose the group; empty where deals are drawn.
    ways: Vec<Vec<Vec<usize>>>,
    number: usize,
    seed: u64,
}

/// Permutation test of equal means, two-sided: twice the smaller one-sided p-value.
///
/// Assumes that under equality the values of a block are exchangeable. With blocks, only values of one block are exchanged, so
/// drift between blocks neither hides nor feigns a difference. Agrees with `scipy.stats.permutation_test(statistic=difference of
/// means, permutation_type="independent")`, for pairs (blocks of one and one) with `"samples"`. Source: Fisher 1935, *The Design of
/// Experiments*; one more for the observed deal when they are drawn: Phipson & Smyth 2010, *Stat. Appl. Genet. Mol. Biol.* 9(1).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Permutation {
    /// Probability of a difference at least as extreme.
    pub p: f64,
    /// Were all deals taken or 9999 drawn?
    pub method: Method,
}

impl Deals {
    /// All deals if there are at most 10,000 of them, else 9999 drawn ones; `None` when no value can change sides.
    pub fn new(blocks: &[Block], seed: u64) -> Option<Self> {
        let movable = |block: &Block| block.group > 0 && block.baseline > 0;
        if !blocks.iter().any(movable) {
            return None;
        }
        let all = blocks.iter().try_fold(1_usize, |all, block| {
            all.checked_mul(ways(block.group + block.baseline, block.group)?).filter(|&all| all <= MOST)
        });
        let ways = if all.is_some() { blocks.iter().map(every).collect() } else { Vec::new() };
        Some(Self { blocks: blocks.to_vec(), ways, number: all.unwrap_or(DRAWN), seed })
    }

    /// Values of both groups together.
    pub fn values(&self) -> usize {
        self.blocks.iter().map(|block| block.group + block.baseline).sum()
    }

    fn is_exact(&self) -> bool {
        !self.ways.is_empty()
    }

    /// Tests the difference for each of `columns`, whose values are numbered as the deals want it.
    ///
    /// `None` for a column that is constant within every block, in which nothing can be exchanged for anything else. All columns
    /// share the deals.
    pub fn test(&self, columns: &[&[f64]]) -> Vec<Option<Permutation>> {
        let centred: Vec<Vec<f64>> = columns.iter().map(|column| self.centred(column)).collect();
        let observed: Vec<f64> = centred.iter().map(|column| self.observed(column)).collect();
        // What sums of the same values in another order may differ by.
        let slack: Vec<f64> = centred.iter().map(|c| 1e-12 * c.iter().map(|x| x.abs()).sum::<f64>()).collect();
        let views: Vec<&[f64]> = centred.iter().map(Vec::as_slice).collect();
        let mut extreme = vec![(0_usize, 0_usize); columns.len()];
        let mut weights = Weights::new(self.values());
        let (mut sums, mut order) = (Vec::new(), Vec::new());
        for first in (0..self.number).step_by(LANES) {
            let sets = LANES.min(self.number - first);
            weights.clear();
            (0..sets).for_each(|set| self.deal(first + set, &mut order, |value| weights.add(value, set)));
            weights.sums(&views, &mut sums);
            for (i, sums) in sums.iter().enumerate() {
                extreme[i].0 += sums[..sets].iter().filter(|&&sum| sum <= observed[i] + slack[i]).count();
                extreme[i].1 += sums[..sets].iter().filter(|&&sum| sum >= observed[i] - slack[i]).count();
            }
        }
        let constant = |column: &Vec<f64>| column.iter().all(|&x| x == 0.0);
        let result = |(column, (less, greater)): (&Vec<f64>, (usize, usize))| {
            (!constant(column)).then(|| self.result(less.min(greater)))
        };
        centred.iter().zip(extreme).map(result).collect()
    }

    fn result(&self, extreme: usize) -> Permutation {
        let more = usize::from(!self.is_exact());
        let p = (2.0 * count(extreme + more) / count(self.number + more)).min(1.0);
        Permutation { p, method: if self.is_exact() { Method::Exact } else { Method::Drawn } }
    }

    /// Without what all values of a block have in common, which no deal moves.
    fn centred(&self, column: &[f64]) -> Vec<f64> {
        let mut centred = Vec::with_capacity(column.len());
        let mut rest = column;
        for block in &self.blocks {
            let (part, after) = rest.split_at(block.group + block.baseline);
            let first = part.first().copied().unwrap_or(0.0);
            let mean = part.iter().map(|x| x - first).sum::<f64>() / count(part.len().max(1));
            centred.extend(part.iter().map(|x| (x - first) - mean));
            rest = after;
        }
        centred
    }

    fn observed(&self, column: &[f64]) -> f64 {
        let mut rest = column;
        let mut sum = 0.0;
        for block in &self.blocks {
            sum += rest[..block.group].iter().sum::<f64>();
            rest = &rest[block.group + block.baseline..];
        }
        sum
    }

    /// Names the values that are in the group in deal `number`.
    fn deal(&self, number: usize, order: &mut Vec<usize>, mut take: impl FnMut(usize)) {
        let mut first = 0;
        let mut rest = number;
        let mut random = Random::new(self.seed, &[USE, number as u64]);
        for (i, block) in self.blocks.iter().enumerate() {
            let size = block.group + block.baseline;
            if self.is_exact() {
                let ways = &self.ways[i];
                ways[rest % ways.len()].iter().for_each(|value| take(first + value));
                rest /= ways.len();
            } else {
                order.clear();
                order.extend(first..first + size);
                for at in 0..block.group {
                    order.swap(at, at + random.below(size - at));
                    take(order[at]);
                }
            }
            first += size;
        }
    }
}

/// Binomial coefficient; `None` beyond the range of numbers.
fn ways(all: usize, chosen: usize) -> Option<usize> {
    (1..=chosen.min(all - chosen)).try_fold(1_usize, |ways, i| Some(ways.checked_mul(all - i + 1)? / i))
}

fn every(block: &Block) -> Vec<Vec<usize>> {
    let (all, chosen) = (block.group + block.baseline, block.group);
    let mut current: Vec<usize> = (0..chosen).collect();
    let mut list = vec![current.clone()];
    // The last number that can still grow does, and those behind it follow.
    while let Some(at) = (0..chosen).rev().find(|&at| current[at] < all - chosen + at) {
        current[at] += 1;
        for i in at + 1..chosen {
            current[i] = current[i - 1] + 1;
        }
        list.push(current.clone());
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(blocks: &[(usize, usize)], column: &[f64]) -> Option<f64> {
        let blocks: Vec<Block> = blocks.iter().map(|&(group, baseline)| Block { group, baseline }).collect();
        Deals::new(&blocks, 1)?.test(&[column])[0].map(|test| test.p)
    }

    #[test]
    fn all_deals_of_small_groups() {
        assert_eq!(p(&[(3, 3)], &[4.0, 5.0, 6.0, 1.0, 2.0, 3.0]), Some(0.1));
        // Three pairs that all rise: 1 of 8 on either side.
        assert_eq!(p(&[(1, 1), (1, 1), (1, 1)], &[2.0, 1.0, 12.0, 11.0, 103.0, 101.0]), Some(0.25));
        assert_eq!(p(&[(1, 3)], &[2.0, 2.0, 2.0, 2.0]), None);
        assert_eq!(p(&[(2, 0), (0, 2)], &[1.0, 2.0, 3.0, 4.0]), None);
    }

    #[test]
    fn ties_that_rounding_parts_still_tie() {
        // 0.1 + 0.2 and 0.3 + 0.0 are the same sum.
        let column = [0.3, 0.0, 0.1, 0.2];
        assert_eq!(p(&[(2, 2)], &column), Some(1.0));
    }

    #[test]
    fn drawn_deals_of_large_groups() {
        let column: Vec<f64> = (0..60_u32).map(|i| f64::from(i * 7919 % 61)).collect();
        let test = Deals::new(&[Block { group: 30, baseline: 30 }], 3).unwrap();
        assert!(!test.is_exact());
        let result = test.test(&[&column, &column[..]]);
        assert_eq!(result[0], result[1]);
        let apart: Vec<f64> = (0..60_u32).map(f64::from).collect();
        assert_eq!(test.test(&[&apart])[0].unwrap().p, 2.0 / 10_000.0);
    }
}
