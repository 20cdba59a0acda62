//! Which CPUs the two ends of each pair are bound to.

/// CPUs of one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairCpus {
    /// The client runs on this CPU only.
    pub client: usize,
    /// The server runs on this CPU only.
    pub server: usize,
}

/// One CPU for each client and each server, in the order of the pairs; `None` when `online` is empty.
///
/// CPUs are dealt round robin, client before server, so that no CPU has two processes before every CPU has one, and
/// with two CPUs or more the two ends of a pair never share one.
pub fn assign_cpus(pairs: usize, online: &[usize]) -> Option<Vec<PairCpus>> {
    if online.is_empty() {
        return None;
    }
    // With an odd number of CPUs plain dealing is fine too: neighbours in the deal always differ.
    let cpu = |position: usize| online[position % online.len()];
    Some((0..pairs).map(|pair| PairCpus { client: cpu(2 * pair), server: cpu(2 * pair + 1) }).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn two_cpus_are_shared_evenly() {
        let both = PairCpus { client: 0, server: 1 };
        assert_eq!(assign_cpus(3, &[0, 1]), Some(vec![both; 3]));
        assert_eq!(assign_cpus(1, &[5]), Some(vec![PairCpus { client: 5, server: 5 }]));
        assert_eq!(assign_cpus(1, &[]), None);
    }

    proptest! {
        #[test]
        fn load_is_even(pairs in 0..50_usize, cpus in 2..17_usize) {
            let online: Vec<usize> = (0..cpus).map(|n| n * 3).collect();
            let assigned = assign_cpus(pairs, &online).unwrap();
            prop_assert_eq!(assigned.len(), pairs);
            let mut load = std::collections::BTreeMap::from_iter(online.iter().map(|&cpu| (cpu, 0)));
            for pair in assigned {
                prop_assert_ne!(pair.client, pair.server);
                for cpu in [pair.client, pair.server] {
                    *load.get_mut(&cpu).unwrap() += 1;
                }
            }
            prop_assert!(load.values().max().unwrap() - load.values().min().unwrap() <= 1);
        }
    }
}
