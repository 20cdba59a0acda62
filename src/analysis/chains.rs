//! Do processes make their system calls in the same order and proportion on two testbeds?
//!
//! A process name's calls are a chain: each iteration gives the share of every transition (call → next call of the same
//! thread) among all transitions. That is the transition matrix with each row weighted by how often the process is there.
//! The distance of two groups is the Jensen–Shannon divergence of their mean shares, in bits: 0 for equal ones, 1 for
//! ones without a common transition. Source: Lin 1991, *IEEE Trans. Inf. Theory* 37(1).
//!
//! Its null distribution is that over all ways to deal the iterations into groups of these sizes (or 9999 random ones):
//! whole iterations are exchanged, never transitions, for those of one iteration are not independent.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use serde::Serialize;

use super::permute::Deals;
use super::stats::multiplicity::benjamini_hochberg;

/// What one iteration says of one process name.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    /// How often each transition was made; a thread's first call is none.
    pub transitions: BTreeMap<(String, String), u64>,
    /// How often each call was made.
    pub calls: BTreeMap<String, u64>,
    /// Threads.
    pub threads: u64,
    /// Hashes of the sequences, one for each node, ascending.
    pub sequences: Vec<u64>,
}

/// Iterations under one setting, for one process name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Determinism {
    /// Iterations.
    pub iterations: usize,
    /// Different sequences of calls among them.
    pub sequences: usize,
    /// Different sets of calls, counted with how often each was made.
    pub multisets: usize,
    /// What that means; `None` for fewer than two iterations.
    pub verdict: Option<Verdict>,
}

/// Do repetitions make the same calls?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The same calls in the same order in every thread.
    Identical,
    /// The same calls equally often, in another order.
    SameMultiset,
    /// Neither.
    Differing,
}

impl Verdict {
    /// As shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identical => "identical",
            Self::SameMultiset => "same multiset",
            Self::Differing => "differing",
        }
    }
}

/// A group against its baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Divergence {
    /// Jensen–Shannon divergence of the mean shares, bits.
    pub bits: f64,
    /// Median of the null distribution, bits: what groups of this size differ by for no reason.
    pub null_median: f64,
    /// Its 95 % quantile.
    pub null_p95: f64,
    /// Share of deals with at least this divergence.
    pub p: f64,
    /// Deals that were looked at; the least p there can be is one of them.
    pub deals: usize,
    /// Were these all there are?
    pub exact: bool,
    /// Every transition, by falling difference.
    pub transitions: Vec<TransitionShift>,
}

/// A transition in both groups.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TransitionShift {
    /// Call before.
    pub from: String,
    /// Call after.
    pub to: String,
    /// Mean share in the group.
    pub share: f64,
    /// Mean share in the baseline.
    pub baseline: f64,
    /// Permutation test of the difference of the means, two-sided; over the deals of the divergence.
    pub p: f64,
    /// The least false-discovery rate at which it is found among the process's transitions (Benjamini & Hochberg 1995).
    pub q: f64,
}

/// How alike the iterations of one group are.
pub fn determinism(chains: &[&Chain]) -> Determinism {
    let sequences = chains.iter().map(|chain| &chain.sequences).collect::<BTreeSet<_>>().len();
    let multisets = chains.iter().map(|chain| (&chain.calls, chain.threads)).collect::<BTreeSet<_>>().len();
    let verdict = (chains.len() > 1).then_some(match (sequences, multisets) {
        (1, 1) => Verdict::Identical,
        (_, 1) => Verdict::SameMultiset,
        _ => Verdict::Differing,
    });
    Determinism { iterations: chains.len(), sequences, multisets, verdict }
}

/// Compares two groups of iterations; `None` when one has no iteration with a transition, or both have one iteration only.
///
/// `seed` chooses the random deals, where there are too many for all.
pub fn diverge(group: &[&Chain], baseline: &[&Chain], seed: u64) -> Option<Divergence> {
    let all: Vec<&Chain> = group.iter().chain(baseline).copied().collect();
    let names: BTreeSet<&(String, String)> = all.iter().flat_map(|chain| chain.transitions.keys()).collect();
    let names: Vec<&(String, String)> = names.into_iter().collect();
    let shares: Vec<Vec<f64>> = all.iter().map(|chain| shares(chain, &names)).collect::<Option<_>>()?;
    if group.is_empty() || baseline.is_empty() || all.len() < 3 {
        return None;
    }
    let observed = Sides::of(&shares, &(0..group.len()).collect::<Vec<_>>());
    let bits = observed.divergence();
    let differences = observed.differences();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let deals = Deals::new(all.len(), group.len(), &mut || rng.next_u64());
    let exact = deals.exact;
    let mut null = Vec::with_capacity(deals.list.len());
    let mut beyond = vec![0_usize; names.len()];
    for deal in &deals.list {
        let sides = Sides::of(&shares, deal);
        null.push(sides.divergence());
        for (count, (now, then)) in beyond.iter_mut().zip(sides.differences().iter().zip(&differences)) {
            *count += usize::from(now.abs() >= then.abs() * (1.0 - SLACK) - f64::MIN_POSITIVE);
        }
    }
    let p_of = |count: usize| deals.p(count);
    let p = p_of(null.iter().filter(|&&other| other >= bits * (1.0 - SLACK)).count());
    let ps: Vec<f64> = beyond.into_iter().map(p_of).collect();
    let qs = benjamini_hochberg(&ps);
    null.sort_by(f64::total_cmp);
    let mut transitions: Vec<TransitionShift> = names
        .iter()
        .enumerate()
        .map(|(i, (from, to))| TransitionShift {
            from: from.clone(),
            to: to.clone(),
            share: observed.group[i],
            baseline: observed.baseline[i],
            p: ps[i],
            q: qs[i],
        })
        .collect();
    let size = |t: &TransitionShift| (t.share - t.baseline).abs();
    transitions.sort_by(|a, b| size(b).total_cmp(&size(a)));
    let at = |q: usize| null[(null.len() * q).div_ceil(100).max(1) - 1];
    let (null_median, null_p95) = (at(50), at(95));
    Some(Divergence { bits, null_median, null_p95, p, deals: null.len(), exact, transitions })
}

/// Sums that differ only by the order of adding are equal.
const SLACK: f64 = 1e-9;

/// The share of each transition; `None` without any.
fn shares(chain: &Chain, names: &[&(String, String)]) -> Option<Vec<f64>> {
    let total: u64 = chain.transitions.values().sum();
    let share =
        |name: &&(String, String)| real(chain.transitions.get(*name).copied().unwrap_or_default()) / real(total);
    (total > 0).then(|| names.iter().map(share).collect())
}

/// Mean shares of two groups.
struct Sides {
    group: Vec<f64>,
    baseline: Vec<f64>,
}

impl Sides {
    /// `of_group`: ascending numbers of the iterations in the group.
    fn of(shares: &[Vec<f64>], of_group: &[usize]) -> Self {
        let width = shares.first().map_or(0, Vec::len);
        let (mut group, mut baseline) = (vec![0.0; width], vec![0.0; width]);
        let others = shares.len() - of_group.len();
        let mut next = of_group.iter().peekable();
        for (i, row) in shares.iter().enumerate() {
            let is_group = next.next_if(|&&at| at == i).is_some();
            let (side, n) = if is_group { (&mut group, of_group.len()) } else { (&mut baseline, others) };
            for (sum, share) in side.iter_mut().zip(row) {
                *sum += share / real(n as u64);
            }
        }
        Self { group, baseline }
    }

    fn divergence(&self) -> f64 {
        let part = |x: f64, mean: f64| if x > 0.0 { x * (x / mean).log2() } else { 0.0 };
        let pairs = self.group.iter().zip(&self.baseline);
        let sum: f64 = pairs.map(|(&a, &b)| part(a, f64::midpoint(a, b)) + part(b, f64::midpoint(a, b))).sum();
        (sum / 2.0).max(0.0)
    }

    fn differences(&self) -> Vec<f64> {
        self.group.iter().zip(&self.baseline).map(|(a, b)| a - b).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
const fn real(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(ab: u64, ba: u64, sequence: u64) -> Chain {
        let step = |from: &str, to: &str, n| ((from.to_owned(), to.to_owned()), n);
        Chain {
            transitions: BTreeMap::from([step("a", "b", ab), step("b", "a", ba)]),
            calls: BTreeMap::from([("a".to_owned(), ba), ("b".to_owned(), ab)]),
            threads: 1,
            sequences: vec![sequence],
        }
    }

    #[test]
    fn repetitions_are_identical_shuffled_or_differing() {
        let (a, b, c) = (chain(3, 3, 1), chain(3, 3, 2), chain(4, 3, 3));
        assert_eq!(determinism(&[&a, &a]).verdict, Some(Verdict::Identical));
        assert_eq!(determinism(&[&a, &b]).verdict, Some(Verdict::SameMultiset));
        assert_eq!(determinism(&[&a, &c]).verdict, Some(Verdict::Differing));
        assert_eq!(determinism(&[&a]).verdict, None);
    }

    #[test]
    fn the_divergence_has_its_known_ends() {
        let one = chain(1, 0, 1);
        let other = chain(0, 1, 1);
        let apart = diverge(&[&one, &one, &one], &[&other, &other, &other], 1).unwrap();
        assert!((apart.bits - 1.0).abs() < 1e-12);
        // 20 deals; this one and its mirror image are the farthest.
        assert_eq!((apart.deals, apart.exact), (20, true));
        assert!((apart.p - 0.1).abs() < 1e-12 && (apart.transitions[0].p - 0.1).abs() < 1e-12);
        let same = diverge(&[&one, &one], &[&one, &one], 1).unwrap();
        assert_eq!((same.bits, same.p), (0.0, 1.0));
        // (1, 0) against (1/2, 1/2): 1 - (3/4 log2 3 - 1/2) ... = 0.3112781244591328 bits.
        let half = chain(5, 5, 1);
        let near = diverge(&[&one, &one], &[&half, &half], 1).unwrap();
        assert!((near.bits - 0.311_278_124_459_132_8).abs() < 1e-12);
    }

    #[test]
    fn too_little_is_not_compared() {
        let a = chain(1, 1, 1);
        assert_eq!(diverge(&[&a], &[&a], 1), None);
        assert_eq!(diverge(&[], &[&a, &a, &a], 1), None);
        assert_eq!(diverge(&[&chain(0, 0, 1)], &[&a, &a], 1), None);
    }

    #[test]
    fn many_iterations_are_dealt_at_random_and_the_same_each_time() {
        let chains: Vec<Chain> = (0..24).map(|i| chain(100 + i * 7 % 13, 100, i)).collect();
        let (group, baseline): (Vec<&Chain>, Vec<&Chain>) =
            (chains[..12].iter().collect(), chains[12..].iter().collect());
        let first = diverge(&group, &baseline, 5).unwrap();
        assert_eq!((first.exact, first.deals), (false, 9999));
        assert!(first.p > 0.01 && first.null_median <= first.null_p95);
        assert_eq!(diverge(&group, &baseline, 5).unwrap(), first);
    }
}
