//! Iterations into groups, and groups into pairs that are compared, once for all metrics.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::analysis::{AnalysisError, Question, Standing, compare};
use crate::ids::ShortHash;
use crate::store::{Conditions, Dataset, Iteration, MetricColumn, Observation, Reading};

/// Groups of a data set.
#[derive(Debug, Clone, Default)]
pub struct Grouping {
    /// Names of the factors that tell groups apart.
    pub factors: Vec<String>,
    /// Factors that are the same in all iterations.
    pub constant: Vec<(String, String)>,
    /// Factor and value that groups are compared with.
    pub baseline: Option<(String, String)>,
    /// Values of the factors of each group.
    pub groups: Vec<Vec<Option<String>>>,
    /// The group of each of [`Dataset::iterations`]; `None` for one that does not count.
    pub of: Vec<Option<usize>>,
    /// (group, its baseline).
    pub pairs: Vec<(usize, usize)>,
    /// Groups that cannot be compared in any metric, and why.
    pub no_pair: Vec<(usize, String)>,
    /// Groups that hold several tuples.
    pub several_tuples: usize,
    /// Pairs over which factors that are not shown are spread differently.
    pub unbalanced: usize,
}

impl Grouping {
    /// Groups the iterations that count, as `vptest analyze` does.
    ///
    /// # Errors
    /// As [`compare`]; never when no iteration counts.
    pub fn of(dataset: &Dataset, question: &Question) -> Result<Self, AnalysisError> {
        let counted: Vec<&Iteration> = dataset.iterations.iter().filter(|iteration| iteration.counts).collect();
        if counted.is_empty() {
            return Ok(Self { of: vec![None; dataset.iterations.len()], ..Self::default() });
        }
        // The groups do not depend on the values.
        let observations: Vec<Observation> = counted.iter().map(|iteration| blank(iteration)).collect();
        let comparison = compare(&observations, question)?;
        let mut at: HashMap<(Vec<Option<&str>>, Option<ShortHash>), usize> = HashMap::new();
        for (i, group) in comparison.groups.iter().enumerate() {
            let values = group.values.iter().map(Option::as_deref).collect();
            at.insert((values, group.tuple.filter(|_| question.by.is_empty())), i);
        }
        let group_of = |iteration: &Iteration| {
            let value = |name: &String| iteration.factors.get(name).map(String::as_str);
            let values: Vec<Option<&str>> = comparison.factors.iter().map(value).collect();
            let tuple = question.by.is_empty().then_some(iteration.header.tuple);
            at.get(&(values, tuple)).copied()
        };
        let of = dataset.iterations.iter().map(|i| i.counts.then(|| group_of(i)).flatten()).collect();
        let (mut pairs, mut no_pair, mut unbalanced) = (Vec::new(), Vec::new(), 0);
        for (i, group) in comparison.groups.iter().enumerate() {
            match &group.standing {
                Standing::Against(contrast) => {
                    pairs.push((i, contrast.baseline));
                    unbalanced += usize::from(!contrast.balanced);
                }
                Standing::Impossible(why) => no_pair.push((i, why.as_str().to_owned())),
                Standing::NotAsked | Standing::Baseline => {}
            }
        }
        Ok(Self {
            of,
            pairs,
            no_pair,
            unbalanced,
            several_tuples: comparison.groups.iter().filter(|group| group.tuples > 1).count(),
            groups: comparison.groups.into_iter().map(|group| group.values).collect(),
            factors: comparison.factors,
            constant: comparison.constant,
            baseline: comparison.baseline,
        })
    }

    /// The values of a metric in each group, each with the index of its iteration.
    pub fn values(&self, dataset: &Dataset, metric: &MetricColumn) -> Vec<Vec<(f64, usize)>> {
        let mut groups = vec![Vec::new(); self.groups.len()];
        for (at, (group, reading)) in self.of.iter().zip(&metric.values).enumerate() {
            if let (Some(group), Reading::Value { mean, .. }, true) = (group, reading, dataset.iterations[at].counts) {
                groups[*group].push((*mean, at));
            }
        }
        groups
    }

    /// Indices of the iterations that count and have a group, in the order in which they were run.
    pub fn run_order(&self, dataset: &Dataset) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.of.len()).filter(|&at| self.of[at].is_some()).collect();
        order.sort_by_key(|&at| (dataset.iterations[at].header.started_ns, dataset.iterations[at].header.number));
        order
    }

    /// Images of the guests of each group; more than one is no group of one machine.
    pub fn images<'a>(&self, dataset: &'a Dataset) -> Vec<BTreeSet<&'a str>> {
        let mut images = vec![BTreeSet::new(); self.groups.len()];
        for (iteration, group) in dataset.iterations.iter().zip(&self.of) {
            if let (Some(group), Some(image)) = (group, &iteration.image) {
                images[*group].insert(&**image);
            }
        }
        images
    }
}

fn blank(iteration: &Iteration) -> Observation {
    let header = &iteration.header;
    Observation {
        number: header.number,
        started_ns: header.started_ns,
        identity: header.identity,
        tuple: header.tuple,
        block: header.block,
        status: iteration.outcome.status(),
        host: Arc::from(header.host.as_str()),
        factors: Arc::clone(&iteration.factors),
        value: 0.0,
        pairs: 1,
        conditions: Conditions {
            jobs: iteration.jobs,
            accel: iteration.accel.as_deref().map(str::to_owned),
            ..Conditions::default()
        },
    }
}
