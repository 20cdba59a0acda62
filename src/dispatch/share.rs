//! How iterations are handed to hosts. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::IterationNumber;
use crate::plan::Plan;

/// Iterations of a share, at most: what a host that dies had is the others' to do.
const MOST: usize = 1000;

/// What one host is given at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Share {
    /// From 1, in the order in which they are handed out.
    pub(super) number: u32,
    /// In run order.
    pub(super) iterations: Vec<Turn>,
}

/// An iteration to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Turn {
    /// Which.
    pub(super) number: IterationNumber,
    /// The least number that this attempt at it may have: those below are taken.
    pub(super) attempt: u32,
}

/// Cuts what is to be done into shares, in run order: of whole blocks, where the order has blocks.
///
/// The first shares are large, so that little time is lost between them, and the last ones small, so that hosts are done at about
/// the same time ("guided self-scheduling": each takes half of what would be its part of the rest). `Even` makes all of them small.
///
/// Where there are fewer blocks than hosts, they are cut so that each host has something to do: what differs between hosts then
/// differs within a block too, as without blocks.
///
/// Source: C. D. Polychronopoulos, D. J. Kuck: Guided self-scheduling, IEEE Transactions on Computers C-36 (1987).
pub(super) fn cut(plan: &Plan, to_do: &[Turn], hosts: usize, sizes: Sizes) -> Vec<Share> {
    let hosts = hosts.max(1);
    let mut units = blocks(plan, to_do);
    if units.len() < hosts {
        let each = to_do.len().div_ceil(hosts).max(1);
        units = to_do.chunks(each).map(<[Turn]>::to_vec).collect();
    }
    let mut shares: Vec<Vec<Turn>> = Vec::new();
    let mut at = 0;
    while at < units.len() {
        let part = match sizes {
            Sizes::Even => 1,
            Sizes::Guided => (units.len() - at).div_ceil(2 * hosts),
        };
        let mut share = units[at].clone();
        at += 1;
        for unit in units[at..].iter().take(part - 1) {
            if share.len() + unit.len() > MOST {
                break;
            }
            share.extend(unit);
            at += 1;
        }
        shares.extend(share.chunks(MOST).map(<[Turn]>::to_vec));
    }
    (1..).zip(shares).map(|(number, iterations)| Share { number, iterations }).collect()
}

/// How large shares are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sizes {
    /// One block or iteration each.
    Even,
    /// See [`cut`].
    Guided,
}

/// The blocks of an order with blocks, single iterations of another one.
fn blocks(plan: &Plan, to_do: &[Turn]) -> Vec<Vec<Turn>> {
    let mut blocks: Vec<Vec<Turn>> = Vec::new();
    let mut last = None;
    for turn in to_do {
        // A sentinel belongs to the iterations that it follows.
        let block = plan.get(turn.number).and_then(|iteration| iteration.block).or(last);
        match blocks.last_mut().filter(|_| block.is_some() && block == last) {
            Some(same) => same.push(*turn),
            None => blocks.push(vec![*turn]),
        }
        last = block;
    }
    blocks
}

/// What has been handed out and not come back, with the attempt that the next try must have at least.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Floors(BTreeMap<IterationNumber, u32>);

impl Floors {
    /// An attempt of this number was begun somewhere.
    pub(super) fn raise(&mut self, number: IterationNumber, attempt: u32) {
        let floor = self.0.entry(number).or_insert(1);
        *floor = (*floor).max(attempt.saturating_add(1));
    }

    /// The turn of an iteration that `stored` attempts are known of.
    pub(super) fn turn(&self, number: IterationNumber, next: u32) -> Turn {
        Turn { number, attempt: self.0.get(&number).copied().unwrap_or(1).max(next) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    fn plan(order: &str, repetitions: u32) -> Plan {
        let text = format!(
            "name = \"x\"\nrepetitions = {repetitions}\nseed = 1\norder = \"{order}\"\n\n[factors]\ntestbed = \"fake\"\nworkers = [1, 2, 3]\n\n\
             [workload]\npreset = \"command\"\nclient = [\"sample\", \"rps\", \"1\", \"1\"]\n\n[[workload.metric]]\nname = \"rps\"\nregex = 'rps ([0-9.]+)'\nunit = \"1/s\"\n"
        );
        Plan::expand(Spec::parse(&text).unwrap(), text).unwrap()
    }

    fn cut_all(plan: &Plan, hosts: usize, sizes: Sizes) -> Vec<Vec<u32>> {
        let turns: Vec<Turn> = plan.iter().map(|iteration| Turn { number: iteration.number, attempt: 1 }).collect();
        let shares = cut(plan, &turns, hosts, sizes);
        let all: Vec<u32> = shares.iter().flat_map(|share| &share.iterations).map(|turn| turn.number.0).collect();
        assert_eq!(all, (1..=u32::try_from(plan.iterations.len()).unwrap()).collect::<Vec<_>>(), "each once, in order");
        assert!(shares.iter().zip(1..).all(|(share, number)| share.number == number));
        shares.iter().map(|share| share.iterations.iter().map(|turn| turn.number.0).collect()).collect()
    }

    #[test]
    fn a_host_is_given_whole_blocks() {
        let blocks = [vec![1, 2, 3], vec![4, 5, 6], vec![7, 8, 9]];
        assert_eq!(cut_all(&plan("blocked", 3), 2, Sizes::Even), blocks);
        assert_eq!(cut_all(&plan("blocked", 3), 2, Sizes::Guided), blocks);
        let sizes: Vec<usize> = cut_all(&plan("blocked", 40), 2, Sizes::Guided).iter().map(Vec::len).collect();
        assert_eq!(sizes.iter().sum::<usize>(), 120);
        assert!(sizes.iter().all(|size| size.is_multiple_of(3)), "{sizes:?}");
        assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes[0] == 30 && sizes.last() == Some(&3), "{sizes:?}");
    }

    #[test]
    fn fewer_blocks_than_hosts_are_cut() {
        assert_eq!(cut_all(&plan("blocked", 1), 2, Sizes::Even), [vec![1, 2], vec![3]]);
    }

    #[test]
    fn without_blocks_any_iterations_are_a_share() {
        let sizes: Vec<usize> = cut_all(&plan("shuffled", 16), 2, Sizes::Guided).iter().map(Vec::len).collect();
        assert_eq!(sizes[..3], [12, 9, 7]);
    }

    #[test]
    fn what_one_host_may_lose_is_bounded() {
        let shares = cut_all(&plan("sequential", 3000), 1, Sizes::Guided);
        assert!(shares.iter().all(|share| share.len() <= MOST), "{}", shares.len());
    }

    #[test]
    fn an_attempt_that_was_begun_is_not_numbered_again() {
        let mut floors = Floors::default();
        assert_eq!(floors.turn(IterationNumber(4), 2).attempt, 2);
        floors.raise(IterationNumber(4), 2);
        assert_eq!(floors.turn(IterationNumber(4), 2).attempt, 3);
    }
}
