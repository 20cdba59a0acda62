//! Ways to deal iterations into two groups.

/// Deals above this many are drawn at random.
const MOST: usize = 10_000;
/// How many are drawn then.
const DRAWN: usize = 9999;

/// Ways to choose which of `all` iterations are in the group.
pub(super) struct Deals {
    /// Ascending numbers of the chosen.
    pub(super) list: Vec<Vec<usize>>,
    /// All there are?
    pub(super) exact: bool,
}

impl Deals {
    pub(super) fn new(all: usize, chosen: usize, random: &mut dyn FnMut() -> u64) -> Self {
        if ways(all, chosen).is_some_and(|ways| ways <= MOST) {
            return Self { list: every(all, chosen), exact: true };
        }
        Self { list: (0..DRAWN).map(|_| draw(all, chosen, random)).collect(), exact: false }
    }

    /// The p-value when so many deals are at least as extreme. Among drawn ones the observed deal counts as one more.
    ///
    /// Source: Phipson & Smyth 2010, *Stat. Appl. Genet. Mol. Biol.* 9(1).
    pub(super) fn p(&self, count: usize) -> f64 {
        let more = usize::from(!self.exact);
        real(count + more) / real(self.list.len() + more)
    }
}

/// Binomial coefficient; `None` beyond the range of numbers.
fn ways(all: usize, chosen: usize) -> Option<usize> {
    (1..=chosen.min(all - chosen)).try_fold(1_usize, |ways, i| Some(ways.checked_mul(all - i + 1)? / i))
}

fn every(all: usize, chosen: usize) -> Vec<Vec<usize>> {
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

/// Floyd's choice of a random subset.
fn draw(all: usize, chosen: usize, random: &mut dyn FnMut() -> u64) -> Vec<usize> {
    let mut set = std::collections::BTreeSet::new();
    for top in all - chosen..all {
        let pick = below(top + 1, random);
        if !set.insert(pick) {
            set.insert(top);
        }
    }
    set.into_iter().collect()
}

/// A number below `limit`, each equally likely: what would favour small ones is drawn again.
fn below(limit: usize, random: &mut dyn FnMut() -> u64) -> usize {
    let limit = limit as u64;
    let fair = u64::MAX - u64::MAX % limit;
    loop {
        let number = random();
        if number < fair {
            return usize::try_from(number % limit).expect("below a usize");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
const fn real(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_deal_is_there_once() {
        let deals = every(5, 2);
        assert_eq!(deals.len(), 10);
        let mut sorted = deals.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted, deals);
        assert_eq!((ways(6, 3), ways(200, 100), ways(4, 0)), (Some(20), None, Some(1)));
    }

    #[test]
    fn drawn_deals_have_the_right_size() {
        let mut n = 7_u64;
        let mut random = || {
            n = n.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            n
        };
        let deals = Deals::new(40, 20, &mut random);
        assert!(!deals.exact && deals.list.len() == 9999);
        assert!(deals.list.iter().all(|deal| deal.len() == 20 && deal.is_sorted_by(|a, b| a < b) && deal[19] < 40));
    }
}
