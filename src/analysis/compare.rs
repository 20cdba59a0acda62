//! Groups of iterations, and each against its baseline.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::summary::Summary;
use super::two_sample::TwoSample;
use crate::ids::ShortHash;
use crate::store::{Conditions, Observation};

/// How to group and what to compare with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Question {
    /// Factors that make the groups; empty for one group for each tuple.
    ///
    /// A member of a grouped value can be named alone: `url` for `request.url`.
    pub by: Vec<String>,
    /// Factor and value (canonical text) of the groups that others are compared with; `None` compares nothing. The
    /// factor is added to `by` where that names others.
    pub baseline: Option<(String, String)>,
    /// Compare metrics of packet sizes also where packets were looked at in different places, or under different
    /// offloads.
    pub unequal_vantage: bool,
}

/// The answer to a [`Question`].
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Names of the factors that tell groups apart.
    pub factors: Vec<String>,
    /// Factors that have the same value in all iterations, with that value; those in `factors` are not repeated.
    pub constant: Vec<(String, String)>,
    /// As asked, with the factor's full name.
    pub baseline: Option<(String, String)>,
    /// Ordered by the values of `factors`: numbers as numbers, other text as text, absent first.
    pub groups: Vec<Group>,
}

/// Iterations that are summarised together.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Values of [`Comparison::factors`]; `None` for a factor that means nothing on the group's testbed.
    pub values: Vec<Option<String>>,
    /// The tuple; `None` when the group holds several.
    pub tuple: Option<ShortHash>,
    /// How many tuples the group holds. More than one: the spread is also that between tuples, and the mean depends on
    /// how often each was run.
    pub tuples: usize,
    /// Indices of its observations.
    pub members: Vec<usize>,
    /// Over iterations.
    pub summary: Summary,
    /// The different conditions that its iterations were run under.
    pub conditions: BTreeSet<Conditions>,
    /// Against the baseline.
    pub standing: Standing,
}

/// How a group stands to its baseline.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// No baseline was asked for.
    NotAsked,
    /// It is one.
    Baseline,
    /// It was compared with one.
    Against(Contrast),
    /// It could not be compared.
    Impossible(NoContrast),
}

/// A group against its baseline.
#[derive(Debug, Clone, PartialEq)]
pub struct Contrast {
    /// Index of the baseline in [`Comparison::groups`].
    pub baseline: usize,
    /// The numbers.
    pub result: TwoSample,
    /// Have both the same share of every setting of the factors that are not shown, and of iterations that ran alone and beside
    /// others? Otherwise the difference may be theirs.
    pub balanced: bool,
}

/// Why a group has no contrast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoContrast {
    /// No baseline group has the same other factors.
    NoBaseline,
    /// More than one has.
    SeveralBaselines,
    /// A mean is missing.
    NoMean,
    /// The metric depends on where packets are looked at, and on offloads there, and these were not the same.
    UnequalVantage,
    /// Guests of one side ran under KVM in some iterations and under TCG in others.
    MixedAcceleration,
    /// Guests of one side had different images.
    SeveralImages,
}

impl NoContrast {
    /// As shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoBaseline => "no baseline group has the same other factors",
            Self::SeveralBaselines => "several baseline groups have the same other factors",
            Self::NoMean => "a mean is missing",
            Self::UnequalVantage => "packets were looked at in different places, or under different offloads",
            Self::MixedAcceleration => "one side has iterations with kvm and with tcg",
            Self::SeveralImages => "guests of one side had different images",
        }
    }
}

/// The question does not fit the data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnalysisError {
    /// No iteration has such a factor.
    #[error("no iteration has a factor `{asked}`")]
    UnknownFactor {
        /// What was asked for.
        asked: String,
        /// What there is, for suggestions.
        known: Vec<String>,
    },
    /// The short name fits several members.
    #[error("factor `{asked}` is ambiguous; ask for one of: {}", choices.join(", "))]
    AmbiguousFactor {
        /// What was asked for.
        asked: String,
        /// Full names that fit.
        choices: Vec<String>,
    },
    /// No iteration that counts has the baseline's value.
    #[error("no iteration that counts has {factor} = {value} (there are: {})", known.join(", "))]
    UnknownValue {
        /// Of which factor.
        factor: String,
        /// What was asked for.
        value: String,
        /// Values there are.
        known: Vec<String>,
    },
}

/// Groups `observations` and compares each group with its baseline.
///
/// Groups are full tuples, or what agrees in the factors of `by`. The baseline of a group is the group that has the
/// baseline's value and agrees in every other factor that both have: a factor that means nothing on one of two testbeds
/// cannot keep them apart.
pub fn compare(observations: &[Observation], question: &Question) -> Result<Comparison, AnalysisError> {
    let levels = levels(observations);
    let baseline = question.baseline.as_ref().map(|(f, v)| resolve_baseline(&levels, f, v)).transpose()?;
    let mut by = question.by.iter().map(|name| resolve(&levels, name)).collect::<Result<Vec<_>, _>>()?;
    let full = by.is_empty();
    if full {
        by = varying(&levels, observations.len());
    }
    if let Some((factor, _)) = &baseline
        && !by.contains(factor)
    {
        by.push(factor.clone());
    }
    let mut seen = BTreeSet::new();
    by.retain(|name| seen.insert(name.clone()));
    let cells = group(observations, &by, full);
    let standings = standings(&cells, &by, baseline.as_ref(), question.unequal_vantage);
    let groups = cells.into_iter().zip(standings).map(|(cell, standing)| cell.finish(standing)).collect();
    let constant = constant(&levels, &by, observations.len());
    Ok(Comparison { factors: by, constant, baseline, groups })
}

/// Values of each factor with the number of iterations that have them.
type Levels<'a> = BTreeMap<&'a str, BTreeMap<&'a str, usize>>;

fn levels(observations: &[Observation]) -> Levels<'_> {
    let mut levels = Levels::new();
    for (name, value) in observations.iter().flat_map(|o| o.factors.iter()) {
        *levels.entry(name).or_default().entry(value).or_default() += 1;
    }
    levels
}

/// The factor of that name, or the only group member.
fn resolve(levels: &Levels<'_>, asked: &str) -> Result<String, AnalysisError> {
    if levels.contains_key(asked) {
        return Ok(asked.to_owned());
    }
    let is_member = |name: &&&str| name.split_once('.').is_some_and(|(_, member)| member == asked);
    let choices: Vec<String> = levels.keys().filter(is_member).map(|&name| name.to_owned()).collect();
    match choices.as_slice() {
        [only] => Ok(only.clone()),
        [] => {
            let known = levels.keys().map(|&name| name.to_owned()).collect();
            Err(AnalysisError::UnknownFactor { asked: asked.to_owned(), known })
        }
        _ => Err(AnalysisError::AmbiguousFactor { asked: asked.to_owned(), choices }),
    }
}

fn resolve_baseline(levels: &Levels<'_>, factor: &str, value: &str) -> Result<(String, String), AnalysisError> {
    let factor = resolve(levels, factor)?;
    let values = &levels[factor.as_str()];
    if values.contains_key(value) {
        return Ok((factor, value.to_owned()));
    }
    let known = values.keys().map(|&value| value.to_owned()).collect();
    Err(AnalysisError::UnknownValue { factor, value: value.to_owned(), known })
}

/// Is it the member of a factor that is itself there?
fn is_member(levels: &Levels<'_>, name: &str) -> bool {
    name.split_once('.').is_some_and(|(group, _)| levels.contains_key(group))
}

fn is_constant(values: &BTreeMap<&str, usize>, iterations: usize) -> bool {
    values.len() == 1 && values.values().all(|&n| n == iterations)
}

fn varying(levels: &Levels<'_>, iterations: usize) -> Vec<String> {
    let shown =
        |(name, values): &(&&str, &BTreeMap<&str, usize>)| !is_constant(values, iterations) && !is_member(levels, name);
    levels.iter().filter(shown).map(|(&name, _)| name.to_owned()).collect()
}

fn constant(levels: &Levels<'_>, shown: &[String], iterations: usize) -> Vec<(String, String)> {
    let constants = levels.iter().filter(|&(&name, values)| {
        is_constant(values, iterations) && !is_member(levels, name) && !shown.iter().any(|s| s == name)
    });
    constants.flat_map(|(&name, values)| values.keys().map(move |&v| (name.to_owned(), v.to_owned()))).collect()
}

/// A group while it is being filled.
struct Cell {
    values: Vec<Option<String>>,
    tuples: BTreeSet<ShortHash>,
    members: Vec<usize>,
    observed: Vec<f64>,
    conditions: BTreeSet<Conditions>,
    /// Settings of the factors that are not shown, with the number of iterations.
    others: BTreeMap<Vec<(String, String)>, usize>,
}

impl Cell {
    fn finish(self, standing: Standing) -> Group {
        let tuples = self.tuples.len();
        let tuple = self.tuples.into_iter().next().filter(|_| tuples == 1);
        let summary = Summary::of(&self.observed);
        let Self { values, members, conditions, .. } = self;
        Group { values, tuple, tuples, members, summary, conditions, standing }
    }

    /// Were guests run by KVM in some iterations and by TCG in others?
    fn mixes_acceleration(&self) -> bool {
        self.conditions.iter().map(|conditions| &conditions.accel).collect::<BTreeSet<_>>().len() > 1
    }

    /// Did its guests have different images?
    fn mixes_images(&self) -> bool {
        self.conditions.iter().filter_map(|conditions| conditions.image.as_ref()).collect::<BTreeSet<_>>().len() > 1
    }

    /// Did KVM run the guests of one and TCG those of the other? Never said of what has no guests.
    fn is_accelerated_unlike(&self, other: &Self) -> bool {
        let accels = |cell: &Self| -> BTreeSet<String> {
            cell.conditions.iter().filter_map(|conditions| conditions.accel.clone()).collect()
        };
        let (ours, theirs) = (accels(self), accels(other));
        !ours.is_empty() && !theirs.is_empty() && ours != theirs
    }
}

fn group(observations: &[Observation], by: &[String], full: bool) -> Vec<Cell> {
    let mut cells: HashMap<(Vec<Option<&str>>, Option<ShortHash>), Cell> = HashMap::new();
    for (i, o) in observations.iter().enumerate() {
        let values: Vec<Option<&str>> = by.iter().map(|name| o.factors.get(name).map(String::as_str)).collect();
        // The same factors with another meaning (another workload) are another tuple, never the same group.
        let tuple = full.then_some(o.tuple);
        let owned = || values.iter().map(|v| v.map(str::to_owned)).collect();
        let new = || Cell {
            values: owned(),
            tuples: BTreeSet::new(),
            members: Vec::new(),
            observed: Vec::new(),
            conditions: BTreeSet::new(),
            others: BTreeMap::new(),
        };
        let cell = cells.entry((values.clone(), tuple)).or_insert_with(new);
        cell.tuples.insert(o.tuple);
        cell.members.push(i);
        cell.observed.push(o.value);
        cell.conditions.insert(o.conditions.clone());
        *cell.others.entry(others(o, by)).or_default() += 1;
    }
    let mut cells: Vec<Cell> = cells.into_values().collect();
    cells.sort_by(|a, b| natural(by, &a.values, &b.values).then_with(|| a.tuples.cmp(&b.tuples)));
    cells
}

/// The observation's factors that are not shown, and how many iterations ran beside each other, which may matter as much.
fn others(o: &Observation, by: &[String]) -> Vec<(String, String)> {
    let hidden = o.factors.iter().filter(|(name, _)| !by.contains(name)).map(|(n, v)| (n.clone(), v.clone()));
    // No factor has such a name.
    hidden.chain([("--jobs".to_owned(), o.conditions.jobs.unwrap_or(1).to_string())]).collect()
}

/// Values of the factors `by`, each in the order of its factor, absent ones first.
fn natural(by: &[String], a: &[Option<String>], b: &[Option<String>]) -> Ordering {
    let one = |(name, (a, b)): (&String, (&Option<String>, &Option<String>))| match (a, b) {
        (Some(a), Some(b)) => super::filter::order(name, a, b),
        _ => a.cmp(b),
    };
    by.iter().zip(a.iter().zip(b)).map(one).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// Was the metric seen under the same conditions everywhere in both?
fn seen_alike(a: &Cell, b: &Cell) -> bool {
    let seen = a.conditions.iter().chain(&b.conditions).map(|conditions| &conditions.seen);
    seen.collect::<BTreeSet<_>>().len() == 1
}

fn standings(
    cells: &[Cell],
    by: &[String],
    baseline: Option<&(String, String)>,
    unequal_vantage: bool,
) -> Vec<Standing> {
    let Some((factor, value)) = baseline else { return cells.iter().map(|_| Standing::NotAsked).collect() };
    let column = by.iter().position(|name| name == factor).expect("the baseline's factor is shown");
    let is_baseline = |cell: &Cell| cell.values[column].as_deref() == Some(value);
    let summaries: Vec<Summary> = cells.iter().map(|cell| Summary::of(&cell.observed)).collect();
    let partners = Partners::new(cells, column, is_baseline);
    let standing = |(i, cell): (usize, &Cell)| {
        if is_baseline(cell) {
            return Standing::Baseline;
        }
        let partner = match partners.of(cells, i) {
            Ok(partner) => partner,
            Err(why) => return Standing::Impossible(why),
        };
        let other = &cells[partner];
        if !unequal_vantage && !seen_alike(cell, other) {
            return Standing::Impossible(NoContrast::UnequalVantage);
        }
        let mixed = cell.mixes_acceleration() || other.mixes_acceleration();
        if mixed || (factor != "accel" && cell.is_accelerated_unlike(other)) {
            return Standing::Impossible(NoContrast::MixedAcceleration);
        }
        if cell.mixes_images() || other.mixes_images() {
            return Standing::Impossible(NoContrast::SeveralImages);
        }
        match TwoSample::of(&summaries[i], &summaries[partner]) {
            Some(result) => {
                let balanced = balanced(cell, &cells[partner]);
                Standing::Against(Contrast { baseline: partner, result, balanced })
            }
            None => Standing::Impossible(NoContrast::NoMean),
        }
    };
    cells.iter().enumerate().map(standing).collect()
}

/// Finds the baseline of a group.
struct Partners {
    column: usize,
    baselines: Vec<usize>,
}

impl Partners {
    fn new(cells: &[Cell], column: usize, is_baseline: impl Fn(&Cell) -> bool) -> Self {
        let baselines = (0..cells.len()).filter(|&i| is_baseline(&cells[i])).collect();
        Self { column, baselines }
    }

    fn of(&self, cells: &[Cell], i: usize) -> Result<usize, NoContrast> {
        let agrees = |&&other: &&usize| {
            let pairs = cells[i].values.iter().zip(&cells[other].values).enumerate();
            pairs.into_iter().all(|(c, (a, b))| c == self.column || a.is_none() || b.is_none() || a == b)
        };
        // An exact match goes before one that a missing factor allows.
        let exact = |&&other: &&usize| {
            let pairs = cells[i].values.iter().zip(&cells[other].values).enumerate();
            pairs.into_iter().all(|(c, (a, b))| c == self.column || a == b)
        };
        let mut found: Vec<usize> = self.baselines.iter().filter(exact).copied().collect();
        if found.is_empty() {
            found = self.baselines.iter().filter(agrees).copied().collect();
        }
        match found.as_slice() {
            [only] => Ok(*only),
            [] => Err(NoContrast::NoBaseline),
            _ => Err(NoContrast::SeveralBaselines),
        }
    }
}

/// Do both groups hold the hidden factors in the same proportions? Factors that one side lacks altogether do not count.
fn balanced(a: &Cell, b: &Cell) -> bool {
    let names =
        |cell: &Cell| -> BTreeSet<String> { cell.others.keys().flatten().map(|(name, _)| name.clone()).collect() };
    let common: BTreeSet<String> = names(a).intersection(&names(b)).cloned().collect();
    let shares = |cell: &Cell| {
        let mut counts: BTreeMap<Vec<(String, String)>, usize> = BTreeMap::new();
        for (settings, n) in &cell.others {
            let kept = settings.iter().filter(|(name, _)| common.contains(name)).cloned().collect();
            *counts.entry(kept).or_default() += n;
        }
        counts
    };
    let (x, y) = (shares(a), shares(b));
    let (nx, ny) = (a.observed.len(), b.observed.len());
    x.len() == y.len() && x.iter().all(|(key, n)| y.get(key).is_some_and(|m| n * ny == m * nx))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::IterationNumber;
    use crate::record::Status;

    /// `testbed=netns pairs=2` and the values seen with it.
    fn observations(rows: &[(&str, &[f64])]) -> Vec<Observation> {
        let one = |(text, values): &(&str, &[f64])| {
            let factors: std::sync::Arc<BTreeMap<String, String>> = std::sync::Arc::new(
                text.split(' ')
                    .map(|pair| pair.split_once('=').expect("name=value"))
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
            );
            let observation = |&value: &f64| Observation {
                number: IterationNumber(1),
                started_ns: 0,
                identity: ShortHash::of(b"any"),
                tuple: ShortHash::of(text.as_bytes()),
                block: None,
                status: Status::Complete,
                host: "here".into(),
                factors: factors.clone(),
                value,
                pairs: 1,
                conditions: Conditions::default(),
            };
            values.iter().map(observation).collect::<Vec<_>>()
        };
        rows.iter().flat_map(one).collect()
    }

    fn question(by: &[&str], baseline: Option<(&str, &str)>) -> Question {
        Question {
            by: by.iter().map(|&s| s.to_owned()).collect(),
            baseline: baseline.map(|(f, v)| (f.to_owned(), v.to_owned())),
            unequal_vantage: false,
        }
    }

    /// Two testbeds, the second with these conditions in its two iterations.
    fn under(first: &Conditions, second: [&Conditions; 2]) -> Vec<Observation> {
        let mut data = observations(&[("testbed=netns", &[1.0, 2.0]), ("testbed=qemu", &[3.0, 4.0])]);
        for (one, conditions) in data.iter_mut().zip([first, first, second[0], second[1]]) {
            one.conditions = conditions.clone();
        }
        data
    }

    fn standing_of_qemu(data: &[Observation], question: &Question) -> Standing {
        let answer = compare(data, question).unwrap();
        answer.groups.iter().find(|group| names(group) == ["qemu"]).unwrap().standing.clone()
    }

    #[test]
    fn packets_seen_in_different_ways_are_compared_on_demand_only() {
        let seen = |text: &str| Conditions { seen: Some(text.to_owned()), ..Conditions::default() };
        let (on, off) = (seen("tso on"), seen("tso off"));
        let question = question(&[], Some(("testbed", "netns")));
        assert!(matches!(standing_of_qemu(&under(&on, [&on, &on]), &question), Standing::Against(_)));
        let refused = Standing::Impossible(NoContrast::UnequalVantage);
        assert_eq!(standing_of_qemu(&under(&on, [&off, &off]), &question), refused);
        assert_eq!(standing_of_qemu(&under(&on, [&on, &off]), &question), refused, "mixed within one side");
        let told = Question { unequal_vantage: true, ..question };
        assert!(matches!(standing_of_qemu(&under(&on, [&off, &off]), &told), Standing::Against(_)));
    }

    #[test]
    fn one_side_with_two_accelerators_is_no_side() {
        let with = |accel: Option<&str>| Conditions { accel: accel.map(str::to_owned), ..Conditions::default() };
        let (kvm, tcg) = (with(Some("kvm")), with(Some("tcg")));
        let question = question(&[], Some(("testbed", "netns")));
        assert!(matches!(standing_of_qemu(&under(&with(None), [&tcg, &tcg]), &question), Standing::Against(_)));
        let mixed = Standing::Impossible(NoContrast::MixedAcceleration);
        assert_eq!(standing_of_qemu(&under(&with(None), [&kvm, &tcg]), &question), mixed);
        assert_eq!(standing_of_qemu(&under(&kvm, [&tcg, &tcg]), &question), mixed);
    }

    #[test]
    fn one_side_with_two_images_is_no_side() {
        let with = |image: &str| Conditions { image: Some(image.to_owned()), ..Conditions::default() };
        let question = question(&[], Some(("testbed", "netns")));
        let none = Conditions::default();
        let changed = standing_of_qemu(&under(&none, [&with("a"), &with("b")]), &question);
        assert_eq!(changed, Standing::Impossible(NoContrast::SeveralImages));
        assert!(matches!(standing_of_qemu(&under(&none, [&with("a"), &with("a")]), &question), Standing::Against(_)));
    }

    fn names(group: &Group) -> Vec<&str> {
        group.values.iter().map(|v| v.as_deref().unwrap_or("-")).collect()
    }

    #[test]
    fn groups_are_tuples_in_natural_order() {
        let data = observations(&[
            ("testbed=qemu pairs=10", &[1.0]),
            ("testbed=netns pairs=10", &[2.0]),
            ("testbed=netns pairs=2", &[3.0, 5.0]),
        ]);
        let answer = compare(&data, &question(&[], None)).unwrap();
        assert_eq!(answer.factors, ["pairs", "testbed"]);
        let groups: Vec<_> = answer.groups.iter().map(names).collect();
        assert_eq!(groups, [["2", "netns"], ["10", "netns"], ["10", "qemu"]]);
        assert_eq!((answer.groups[0].summary.n, answer.groups[0].summary.mean), (2, Some(4.0)));
        assert!(answer.groups.iter().all(|g| g.standing == Standing::NotAsked && g.tuples == 1));
    }

    #[test]
    fn values_with_units_are_in_the_order_of_their_sizes() {
        let shown = |factor: &str, values: &[&str]| -> Vec<String> {
            let rows: Vec<(String, [f64; 1])> = values
                .iter()
                .enumerate()
                .map(|(i, v)| (format!("{factor}={v}"), [f64::from(u8::try_from(i).unwrap())]))
                .collect();
            let rows: Vec<(&str, &[f64])> = rows.iter().map(|(text, value)| (text.as_str(), &value[..])).collect();
            let answer = compare(&observations(&rows), &question(&[], None)).unwrap();
            answer.groups.iter().map(|group| names(group)[0].to_owned()).collect()
        };
        assert_eq!(shown("rate", &["none", "1G", "100M", "10M", "2.5G"]), ["10M", "100M", "1G", "2.5G", "none"]);
        assert_eq!(shown("memory", &["1GiB", "512MiB", "2GiB"]), ["512MiB", "1GiB", "2GiB"]);
        assert_eq!(shown("note", &["b", "10", "9", "a"]), ["9", "10", "a", "b"]);
    }

    #[test]
    fn the_baseline_agrees_in_every_other_factor() {
        let data = observations(&[
            ("testbed=netns pairs=1 rate=none", &[1.0, 2.0]),
            ("testbed=qemu pairs=1 rate=none", &[11.0, 12.0]),
            ("testbed=netns pairs=2 rate=none", &[3.0, 4.0]),
            ("testbed=qemu pairs=2 rate=none", &[13.0, 14.0]),
            ("testbed=qemu pairs=4 rate=none", &[15.0, 16.0]),
        ]);
        let answer = compare(&data, &question(&[], Some(("testbed", "netns")))).unwrap();
        assert_eq!(answer.constant, [("rate".to_owned(), "none".to_owned())]);
        for group in &answer.groups {
            match (names(group).as_slice(), &group.standing) {
                ([_, "netns"], standing) => assert_eq!(*standing, Standing::Baseline),
                (["4", "qemu"], standing) => assert_eq!(*standing, Standing::Impossible(NoContrast::NoBaseline)),
                ([pairs, _], Standing::Against(contrast)) => {
                    assert_eq!(names(&answer.groups[contrast.baseline]), [*pairs, "netns"]);
                    assert_eq!(contrast.result.difference, 10.0);
                    assert!(contrast.balanced);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_factor_that_a_testbed_lacks_keeps_nothing_apart() {
        let data = observations(&[
            ("testbed=netns pairs=1", &[1.0, 2.0]),
            ("testbed=qemu pairs=1 driver=e1000", &[2.0, 3.0]),
            ("testbed=qemu pairs=1 driver=virtio", &[4.0, 5.0]),
        ]);
        let answer = compare(&data, &question(&[], Some(("testbed", "netns")))).unwrap();
        let against = answer.groups.iter().filter(|g| matches!(g.standing, Standing::Against(_))).count();
        assert_eq!(against, 2);
        let reverse = compare(&data, &question(&[], Some(("testbed", "qemu")))).unwrap();
        assert_eq!(reverse.groups[0].standing, Standing::Impossible(NoContrast::SeveralBaselines));
    }

    #[test]
    fn iterations_that_ran_beside_others_are_told_from_those_that_ran_alone() {
        let with = |jobs: Option<u32>| Conditions { jobs, ..Conditions::default() };
        let (alone, beside) = (with(None), with(Some(2)));
        let question = question(&[], Some(("testbed", "netns")));
        let balanced = |first: &Conditions, second: [&Conditions; 2]| {
            let mut data = under(first, second);
            // Of the baseline, the first alone.
            data[0].conditions = alone.clone();
            match standing_of_qemu(&data, &question) {
                Standing::Against(contrast) => contrast.balanced,
                other => panic!("{other:?}"),
            }
        };
        assert!(balanced(&alone, [&alone, &alone]));
        assert!(balanced(&beside, [&alone, &beside]), "half of either");
        assert!(!balanced(&beside, [&beside, &beside]));
        assert!(!balanced(&alone, [&alone, &beside]));
    }

    #[test]
    fn hidden_factors_are_counted_and_imbalance_is_seen() {
        let mut rows: Vec<(&str, &[f64])> = vec![
            ("testbed=netns pairs=1", &[1.0, 1.5]),
            ("testbed=netns pairs=2", &[9.0, 9.5]),
            ("testbed=qemu pairs=1", &[2.0, 2.5]),
            ("testbed=qemu pairs=2", &[10.0, 10.5]),
        ];
        let balanced = |rows: &[(&str, &[f64])]| {
            let answer = compare(&observations(rows), &question(&["testbed"], Some(("testbed", "netns")))).unwrap();
            assert_eq!(answer.groups.iter().map(|g| g.tuples).collect::<Vec<_>>(), [2, 2]);
            match &answer.groups[1].standing {
                Standing::Against(contrast) => contrast.balanced,
                other => panic!("{other:?}"),
            }
        };
        assert!(balanced(&rows));
        rows[3].1 = &[10.0];
        assert!(!balanced(&rows));
    }

    #[test]
    fn members_go_by_their_short_name_and_typos_are_named() {
        let data = observations(&[
            ("testbed=netns request=a request.url=/ request.count=1", &[1.0]),
            ("testbed=netns request=b request.url=/b request.count=1", &[2.0]),
        ]);
        assert_eq!(compare(&data, &question(&["url"], None)).unwrap().factors, ["request.url"]);
        assert_eq!(compare(&data, &question(&[], None)).unwrap().factors, ["request"]);
        let typo = compare(&data, &question(&["ulr"], None)).unwrap_err();
        assert!(matches!(typo, AnalysisError::UnknownFactor { known, .. } if known.len() == 4));
        let value = compare(&data, &question(&[], Some(("testbed", "qemu")))).unwrap_err();
        assert_eq!(value.to_string(), "no iteration that counts has testbed = qemu (there are: netns)");
    }

    #[test]
    fn the_same_factors_with_another_meaning_are_another_group() {
        let mut data = observations(&[("testbed=netns", &[1.0, 2.0])]);
        data[1].tuple = ShortHash::of(b"another workload");
        assert_eq!(compare(&data, &question(&[], None)).unwrap().groups.len(), 2);
        assert!(compare(&[], &question(&[], None)).unwrap().groups.is_empty());
    }
}
