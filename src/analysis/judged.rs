//! Verdicts on comparisons: all contrasts of all metrics that are looked at together, as one family.

use std::collections::{BTreeMap, BTreeSet};

use super::compare::{Comparison, Group, Standing};
use super::contrasts::{Batch, Cell, Contrast, Metric, Options, together};
use super::stats::equivalence::Margin;
use crate::store::Observation;
use crate::units::Percent;

/// Margin of metrics for which the spec has none: 5 %.
pub const MARGIN: Percent = Percent::new(5.0);

/// A metric that is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What the comparison was made of.
    pub observations: &'a [Observation],
    /// Its groups and pairs.
    pub comparison: &'a Comparison,
    /// Differences up to this share of the baseline's mean do not matter.
    pub margin: Percent,
}

/// Groups and their baselines, by index.
type Pairs = Vec<(usize, usize)>;

/// What [`judge`] finds.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Contrasts that could be compared: what verdicts and intervals take into account.
    pub size: usize,
    /// Those of them with a p-value: what Holm's and Benjamini's methods adjust for.
    pub adjusted: usize,
    /// For each metric and each of its groups the contrast with the baseline; `None` for groups that were not compared.
    pub metrics: Vec<Vec<Option<Contrast>>>,
    /// Names of hosts by the numbers that contrasts have; empty with one host.
    pub hosts: Vec<String>,
}

/// Makes every contrast of every metric, as one family. Groups that must not be compared ([`Standing::Impossible`]) are not in it.
pub fn judge(asked: &[Asked<'_>], options: &Options) -> Judgement {
    let hosts = hosts(asked.iter().flat_map(|one| one.observations).map(|o| &*o.host));
    // Metrics that have the same groups share resamples.
    let mut batches: BTreeMap<(usize, Pairs), Vec<usize>> = BTreeMap::new();
    for (i, one) in asked.iter().enumerate() {
        batches.entry((one.comparison.groups.len(), pairs(one.comparison))).or_default().push(i);
    }
    let ready: Vec<(Vec<Metric>, &Pairs)> = batches
        .iter()
        .map(|((_, pairs), members)| (members.iter().map(|&i| metric(&asked[i], &hosts)).collect(), pairs))
        .collect();
    let ready: Vec<Batch<'_>> = ready.iter().map(|(metrics, pairs)| Batch { metrics, pairs }).collect();
    let families = together(&ready, options);
    let (size, adjusted) = families.first().map_or((0, 0), |family| (family.size, family.adjusted));
    let mut metrics: Vec<Vec<Option<Contrast>>> =
        asked.iter().map(|one| vec![None; one.comparison.groups.len()]).collect();
    for (members, family) in batches.values().zip(families) {
        for contrast in family.contrasts {
            let place = (members[contrast.metric], contrast.group);
            metrics[place.0][place.1] = Some(contrast);
        }
    }
    Judgement { size, adjusted, metrics, hosts }
}

/// Names of hosts in their order: a host's number is its place. Empty when there is only one.
pub fn hosts<'a>(of_values: impl Iterator<Item = &'a str>) -> Vec<String> {
    let all: BTreeSet<&str> = of_values.collect();
    if all.len() < 2 { Vec::new() } else { all.into_iter().map(str::to_owned).collect() }
}

/// Numbers of the hosts of a group's values; `None` when there is only one host.
pub fn host_numbers<'a>(hosts: &[String], of_values: impl Iterator<Item = &'a str>) -> Option<Vec<u32>> {
    if hosts.is_empty() {
        return None;
    }
    let number =
        |name: &str| hosts.binary_search_by(|host| host.as_str().cmp(name)).ok().and_then(|n| u32::try_from(n).ok());
    of_values.map(number).collect()
}

fn pairs(comparison: &Comparison) -> Vec<(usize, usize)> {
    let pair = |(i, group): (usize, &Group)| match &group.standing {
        Standing::Against(contrast) => Some((i, contrast.baseline)),
        _ => None,
    };
    comparison.groups.iter().enumerate().filter_map(pair).collect()
}

fn metric(asked: &Asked<'_>, hosts: &[String]) -> Metric {
    let cell = |group: &Group| {
        let of = |&i: &usize| &asked.observations[i];
        Cell {
            values: group.members.iter().map(|i| of(i).value).collect(),
            blocks: group.members.iter().map(|i| of(i).block).collect(),
            hosts: host_numbers(hosts, group.members.iter().map(|i| &*of(i).host)),
        }
    };
    Metric {
        margin: Margin::Relative(asked.margin.fraction()),
        cells: asked.comparison.groups.iter().map(cell).collect(),
    }
}

/// The values of a group in the order in which they were measured.
pub fn in_run_order(observations: &[Observation], group: &Group) -> Vec<f64> {
    let mut members: Vec<&Observation> = group.members.iter().map(|&i| &observations[i]).collect();
    members.sort_by_key(|o| (o.started_ns, o.number));
    members.iter().map(|o| o.value).collect()
}

/// The margin of a metric by its full name, its name, or `default`; `None` when the spec says nothing.
pub fn margin_of(margins: &[(String, Percent)], full_name: &str, name: &str) -> Option<Percent> {
    let of = |name: &str| margins.iter().find(|(known, _)| known == name).map(|(_, margin)| *margin);
    of(full_name).or_else(|| of(name)).or_else(|| of("default"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::contrasts::{Verdict, Why};
    use crate::analysis::{Question, compare};
    use crate::ids::{IterationNumber, ShortHash};
    use crate::record::Status;
    use crate::store::Conditions;

    fn observations(groups: &[(&str, &[f64])]) -> Vec<Observation> {
        let one = |(testbed, value): (&str, f64)| Observation {
            number: IterationNumber(1),
            started_ns: 0,
            identity: ShortHash::of(b"any"),
            tuple: ShortHash::of(testbed.as_bytes()),
            block: None,
            status: Status::Complete,
            host: "here".into(),
            factors: BTreeMap::from([("testbed".to_owned(), testbed.to_owned())]).into(),
            value,
            pairs: 1,
            conditions: Conditions::default(),
        };
        groups.iter().flat_map(|(name, values)| values.iter().map(|&value| (*name, value))).map(one).collect()
    }

    fn judged(all: &[&[(&str, &[f64])]]) -> Judgement {
        let question = Question { baseline: Some(("testbed".to_owned(), "netns".to_owned())), ..Question::default() };
        let data: Vec<Vec<Observation>> = all.iter().map(|groups| observations(groups)).collect();
        let comparisons: Vec<Comparison> = data.iter().map(|data| compare(data, &question).unwrap()).collect();
        let asked: Vec<Asked<'_>> = data
            .iter()
            .zip(&comparisons)
            .map(|(observations, comparison)| Asked { observations, comparison, margin: MARGIN })
            .collect();
        judge(&asked, &Options { resamples: 100, ..Options::default() })
    }

    const STEADY: [f64; 5] = [100.0, 101.0, 99.0, 100.5, 99.5];
    const HIGH: [f64; 5] = [150.0, 151.0, 149.0, 150.5, 149.5];

    #[test]
    fn metrics_with_other_groups_are_in_the_same_family() {
        let found = judged(&[
            &[("netns", &STEADY), ("qemu", &HIGH)],
            &[("fake", &STEADY), ("netns", &STEADY), ("qemu", &HIGH)],
            &[("netns", &STEADY), ("qemu", &STEADY)],
        ]);
        assert_eq!(found.size, 4);
        let verdicts: Vec<Vec<Option<Verdict>>> =
            found.metrics.iter().map(|m| m.iter().map(|c| c.as_ref().map(|c| c.verdict)).collect()).collect();
        assert!(matches!(verdicts[0][..], [None, Some(Verdict::Different { .. })]), "{verdicts:?}");
        assert!(matches!(verdicts[1][..], [Some(Verdict::Equivalent { .. }), None, Some(Verdict::Different { .. })]));
        assert!(matches!(verdicts[2][..], [None, Some(Verdict::Equivalent { .. })]), "{verdicts:?}");
        let alone = judged(&[&[("netns", &STEADY), ("qemu", &HIGH)]]);
        let p = |found: &Judgement| found.metrics[0][1].as_ref().unwrap().p_holm.unwrap();
        assert!(p(&found) > p(&alone), "more looks cost more");
    }

    #[test]
    fn single_values_are_too_few_and_in_no_family() {
        let found = judged(&[&[("netns", &STEADY), ("qemu", &[3.0])], &[("netns", &[1.0]), ("qemu", &[1.0, 2.0])]]);
        assert_eq!(found.size, 0);
        let why = |m: usize| found.metrics[m][1].as_ref().unwrap().verdict;
        assert_eq!(why(0), Verdict::NotComparable { why: Why::TooFew { group: 1, baseline: 5 } });
        assert_eq!(why(1), Verdict::NotComparable { why: Why::TooFew { group: 2, baseline: 1 } });
        assert_eq!(judged(&[]).size, 0);
    }

    #[test]
    fn margins_go_by_the_longest_name() {
        let percent = |x| Percent::new(x);
        let margins = vec![("rps".to_owned(), percent(1.0)), ("default".to_owned(), percent(3.0))];
        assert_eq!(margin_of(&margins, "application.rps", "rps"), Some(percent(1.0)));
        assert_eq!(margin_of(&margins, "os.x", "x"), Some(percent(3.0)));
        assert_eq!(margin_of(&[], "os.x", "x"), None);
    }
}
