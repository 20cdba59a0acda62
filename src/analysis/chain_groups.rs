//! Chains of system calls of all iterations, grouped by factors, each group against its baseline.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::chains::{Chain, Determinism, Divergence, determinism, diverge};
use crate::ids::Role;
use crate::store::TracedIteration;

/// Every process name under every setting.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChainComparison {
    /// Factors that make the groups.
    pub by: Vec<String>,
    /// Factor and value that others are compared with.
    pub baseline: Option<(String, String)>,
    /// In the order of role, name and values.
    pub rows: Vec<ChainRow>,
}

/// One process name in one group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChainRow {
    /// Role of its node and its name: `client ab`; `host` stands for beside all nodes.
    pub process: String,
    /// Values of the factors; `None` for one that means nothing there.
    pub values: Vec<Option<String>>,
    /// Are its repetitions alike?
    pub determinism: Determinism,
    /// Against the baseline; `None` for the baseline itself and where there is nothing to compare.
    pub divergence: Option<Divergence>,
}

/// No iteration has such a factor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no traced iteration has a factor `{asked}`")]
pub struct UnknownFactor {
    /// What was asked for.
    pub asked: String,
    /// What there is.
    pub known: Vec<String>,
}

type Values = Vec<Option<String>>;

/// Groups `iterations` by factors and compares. All iterations of a group are its units, whatever their other factors.
///
/// # Errors
/// When a factor is in no iteration.
pub fn compare_chains(
    iterations: &[TracedIteration],
    by: &[String],
    baseline: Option<(String, String)>,
    seed: u64,
) -> Result<ChainComparison, UnknownFactor> {
    let mut by = by.to_vec();
    if let Some((factor, _)) = &baseline
        && !by.contains(factor)
    {
        by.push(factor.clone());
    }
    for factor in &by {
        if !iterations.iter().any(|iteration| iteration.factors.contains_key(factor)) {
            let known: BTreeSet<&String> = iterations.iter().flat_map(|iteration| iteration.factors.keys()).collect();
            return Err(UnknownFactor { asked: factor.clone(), known: known.into_iter().cloned().collect() });
        }
    }
    let mut groups: BTreeMap<String, BTreeMap<Values, Vec<Chain>>> = BTreeMap::new();
    for iteration in iterations {
        let values: Values = by.iter().map(|factor| iteration.factors.get(factor).cloned()).collect();
        for (process, chain) in chains(iteration) {
            groups.entry(process).or_default().entry(values.clone()).or_default().push(chain);
        }
    }
    let mut rows = Vec::new();
    for (process, groups) in &groups {
        for (values, chains) in groups {
            let here: Vec<&Chain> = chains.iter().collect();
            let other = baseline.as_ref().and_then(|(factor, value)| counterpart(&by, values, factor, value));
            let other = other.and_then(|values| groups.get(&values));
            let divergence = other.and_then(|other| diverge(&here, &other.iter().collect::<Vec<_>>(), seed));
            let determinism = determinism(&here);
            rows.push(ChainRow { process: process.clone(), values: values.clone(), determinism, divergence });
        }
    }
    Ok(ChainComparison { by, baseline, rows })
}

/// The values of the group to compare with; `None` for the baseline itself.
fn counterpart(by: &[String], values: &Values, factor: &str, value: &str) -> Option<Values> {
    let at = by.iter().position(|name| name == factor)?;
    let mut other = values.clone();
    other[at] = Some(value.to_owned());
    (other != *values).then_some(other)
}

fn role_of(role: Role) -> String {
    match role {
        Role::Client => "client".to_owned(),
        Role::Server => "server".to_owned(),
        Role::Router(n) => format!("router{n}"),
    }
}

/// The chains of an iteration: all nodes of a role together, pairs are no repetitions.
fn chains(iteration: &TracedIteration) -> BTreeMap<String, Chain> {
    let mut all: BTreeMap<String, Chain> = BTreeMap::new();
    for process in iteration.traces.iter().flat_map(|trace| &trace.processes) {
        let role = process.node.map_or_else(|| "host".to_owned(), |node| role_of(node.role));
        let chain = all.entry(format!("{role} {}", process.name)).or_insert_with(|| Chain {
            transitions: BTreeMap::new(),
            calls: BTreeMap::new(),
            threads: 0,
            sequences: Vec::new(),
        });
        chain.threads += process.threads;
        chain.sequences.push(process.sequence);
        chain.sequences.sort_unstable();
        for call in &process.by_call {
            *chain.calls.entry(call.name.clone()).or_default() += call.calls;
        }
        for t in &process.transitions {
            if let Some(from) = &t.from {
                *chain.transitions.entry((from.clone(), t.to.clone())).or_default() += t.count;
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, ShortHash};
    use crate::record::{SyscallProcess, SyscallScope, SyscallSource, SyscallTrace, SyscallTransition};

    fn iteration(testbed: &str, n: u64) -> TracedIteration {
        let step = |from: &str, count| SyscallTransition { from: Some(from.to_owned()), to: "write".to_owned(), count };
        let process = |node| SyscallProcess {
            node: Some(node),
            name: "ab".to_owned(),
            threads: 1,
            calls: n,
            sequence: n,
            by_call: Vec::new(),
            transitions: vec![step("read", n), step("write", 10)],
            sizes: Vec::new(),
        };
        TracedIteration {
            identity: ShortHash::of(format!("{testbed}{n}").as_bytes()),
            tuple: ShortHash::of(testbed.as_bytes()),
            factors: BTreeMap::from([("testbed".to_owned(), testbed.to_owned())]),
            traces: vec![SyscallTrace {
                place: None,
                scope: SyscallScope::Workload,
                source: SyscallSource::Bpf,
                processes: vec![process(NodeId::client(1)), process(NodeId::client(2))],
                losses: Vec::new(),
                log: None,
            }],
        }
    }

    #[test]
    fn groups_are_compared_with_their_counterpart() {
        let all: Vec<_> =
            (0..4).map(|n| iteration("netns", 5 + n)).chain((0..4).map(|n| iteration("qemu", 50 + n))).collect();
        let baseline = Some(("testbed".to_owned(), "netns".to_owned()));
        let result = compare_chains(&all, &[], baseline, 1).unwrap();
        assert_eq!(result.by, ["testbed"]);
        assert_eq!(result.rows.len(), 2, "pairs are one chain");
        assert_eq!((result.rows[0].process.as_str(), &result.rows[0].divergence), ("client ab", &None));
        let divergence = result.rows[1].divergence.as_ref().unwrap();
        assert!(divergence.bits > divergence.null_p95 && (divergence.p - 2.0 / 70.0).abs() < 1e-12);
        assert_eq!(result.rows[1].determinism.sequences, 4);
        let wrong = compare_chains(&all, &["tesbed".to_owned()], None, 1).unwrap_err();
        assert_eq!(wrong.known, ["testbed"]);
    }
}
