//! What sentinels say of their hosts: one tuple, run again and again, should always give the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::stats::hosts::{Estimate, homogeneity};
use super::summary::{Summary, count};
use super::trust::{Doubt, doubts};
use crate::ids::{IterationNumber, ShortHash};
use crate::store::Observation;

/// The sentinels of one tuple in one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Watch {
    /// The tuple.
    pub tuple: ShortHash,
    /// Its factors.
    pub factors: Arc<BTreeMap<String, String>>,
    /// By name.
    pub hosts: Vec<HostWatch>,
    /// Probability of means at least as far apart if all hosts have the same (Welch's test); `None` with one host, or when a host has
    /// fewer than two values or always the same.
    pub hosts_p: Option<f64>,
}

/// The sentinels on one host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostWatch {
    /// Its name.
    pub host: String,
    /// Numbers of the iterations in the order in which they began.
    pub numbers: Vec<IterationNumber>,
    /// Of the values.
    pub summary: Summary,
    /// What is odd about them in that order.
    pub doubts: Vec<Doubt>,
}

impl HostWatch {
    /// The first iteration after a change of level.
    pub fn number_at(&self, index: usize) -> Option<IterationNumber> {
        self.numbers.get(index).copied()
    }
}

/// For each metric the sentinels of each tuple, in the order of their hashes, with tests at `level`.
pub fn watch(metrics: &[&[Observation]], level: f64, seed: u64) -> Vec<Vec<Watch>> {
    let mut values = Vec::new();
    let mut all: Vec<Vec<Watch>> = metrics.iter().map(|observations| of_metric(observations, &mut values)).collect();
    // All at once, since what they need is the same for samples of one size.
    let found = doubts(&values, level, seed);
    let hosts = all.iter_mut().flatten().flat_map(|watch| &mut watch.hosts);
    hosts.zip(found).for_each(|(host, found)| host.doubts = found);
    all
}

fn of_metric(observations: &[Observation], values: &mut Vec<Vec<f64>>) -> Vec<Watch> {
    let mut tuples: BTreeMap<ShortHash, BTreeMap<&str, Vec<&Observation>>> = BTreeMap::new();
    for observation in observations {
        tuples.entry(observation.tuple).or_default().entry(&observation.host).or_default().push(observation);
    }
    let mut all = Vec::new();
    for (tuple, by_host) in tuples {
        let Some(first) = by_host.values().flatten().next() else { continue };
        let factors = Arc::clone(&first.factors);
        let hosts: Vec<HostWatch> = by_host.into_iter().map(|(host, found)| on_host(host, found, values)).collect();
        let hosts_p = hosts_p(&hosts);
        all.push(Watch { tuple, factors, hosts, hosts_p });
    }
    all
}

/// Without its doubts; its values in order are added to `all`.
fn on_host(host: &str, mut observations: Vec<&Observation>, all: &mut Vec<Vec<f64>>) -> HostWatch {
    observations.sort_by_key(|o| (o.started_ns, o.number));
    let values: Vec<f64> = observations.iter().map(|o| o.value).collect();
    let summary = Summary::of(&values);
    all.push(values);
    let numbers = observations.iter().map(|o| o.number).collect();
    HostWatch { host: host.to_owned(), numbers, summary, doubts: Vec::new() }
}

fn hosts_p(hosts: &[HostWatch]) -> Option<f64> {
    let one = |host: &HostWatch| {
        let variance = host.summary.sd?.powi(2) / count(host.summary.n);
        Some((Estimate { value: host.summary.mean?, variance }, count(host.summary.n) - 1.0))
    };
    homogeneity(&hosts.iter().map(one).collect::<Option<Vec<_>>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::stats::random::Random;
    use crate::record::Status;
    use crate::store::Conditions;

    fn sentinels(host: &str, n: u32, level: impl Fn(u32) -> f64) -> Vec<Observation> {
        let mut random = Random::new(9, &[u64::from(n)]);
        let one = |i: u32| Observation {
            number: IterationNumber(1 + 21 * i),
            started_ns: i64::from(i),
            identity: ShortHash::of(&i.to_be_bytes()),
            tuple: ShortHash::of(b"tuple"),
            block: None,
            status: Status::Complete,
            host: host.into(),
            factors: Arc::default(),
            value: level(i) + random.normal(),
            pairs: 1,
            conditions: Conditions::default(),
        };
        // Not in the order in which they were run.
        (0..n).map(one).collect::<Vec<_>>().into_iter().rev().collect()
    }

    fn one(observations: &[Observation]) -> Watch {
        let mut found = watch(&[observations], 0.01, 1).remove(0);
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    #[test]
    fn a_steady_host_raises_no_doubt_and_a_drifting_one_does() {
        let steady = one(&sentinels("a", 30, |_| 100.0));
        assert!(steady.hosts[0].doubts.iter().all(|doubt| matches!(doubt, Doubt::Outliers { .. })), "{steady:?}");
        assert_eq!((steady.hosts[0].summary.n, steady.hosts_p), (30, None));
        let drifting = one(&sentinels("a", 30, |i| 100.0 + f64::from(i)));
        assert!(matches!(drifting.hosts[0].doubts[0], Doubt::Drift { change, .. } if change > 25.0), "{drifting:?}");
    }

    #[test]
    fn a_jump_is_named_by_the_iteration_after_it() {
        let jumping = one(&sentinels("a", 30, |i| if i < 12 { 100.0 } else { 120.0 }));
        let at = jumping.hosts[0].doubts.iter().find_map(|doubt| match doubt {
            Doubt::Jump { at, .. } => jumping.hosts[0].number_at(*at),
            _ => None,
        });
        assert_eq!(at, Some(IterationNumber(1 + 21 * 12)));
    }

    #[test]
    fn an_odd_host_is_seen_beside_others() {
        let mut all = sentinels("a", 12, |_| 100.0);
        all.extend(sentinels("b", 13, |_| 100.0));
        assert!(one(&all).hosts_p.unwrap() > 0.01);
        all.extend(sentinels("c", 14, |_| 90.0));
        let found = one(&all);
        assert!(found.hosts_p.unwrap() < 1e-6, "{found:?}");
        assert_eq!(found.hosts.iter().map(|host| host.host.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(found.hosts.iter().all(|host| !host.doubts.iter().any(|d| matches!(d, Doubt::Jump { .. }))));
        all.extend(sentinels("d", 1, |_| 100.0));
        assert_eq!(one(&all).hosts_p, None, "one value has no spread");
        assert!(watch(&[], 0.05, 1).is_empty() && watch(&[&[]], 0.05, 1) == [vec![]]);
    }
}
