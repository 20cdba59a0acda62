//! What each instrument costs the workload: the same iterations with it and without it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::summary::{Interval, Summary};
use super::two_sample::TwoSample;
use crate::ids::ShortHash;
use crate::spec::Instruments;
use crate::store::Observation;

/// Name of the factor.
const FACTOR: &str = "instrument";

/// The costs that the iterations tell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Costs {
    /// Names of the other factors that vary, in the order of [`Cost::factors`].
    pub factors: Vec<String>,
    /// Ordered by the other factors, then by what is added and to what.
    pub costs: Vec<Cost>,
    /// Instruments that some iterations have and of which nothing can be said alone: no two sets differ in just that one.
    pub inseparable: Vec<String>,
}

/// What it changes to run more instruments than without.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// Values of the other factors; `None` for one that means nothing there.
    pub factors: Vec<Option<String>>,
    /// What is added: one instrument, or several where the sweep only tells their sum.
    pub added: Vec<String>,
    /// What runs on both sides.
    pub beside: Vec<String>,
    /// Values of the factor on the two sides, without and with.
    pub values: [String; 2],
    /// How the two sides were put against each other.
    pub design: Design,
    /// Blocks that have both sides (paired), or iterations of the side that has fewer.
    pub n: usize,
    /// Iterations that are not used: their block lacks the other side.
    pub unpaired: usize,
    /// Geometric mean without what is added.
    pub without: Option<f64>,
    /// Geometric mean with it.
    pub with: Option<f64>,
    /// How much more the metric is with it, in percent: the ratio of the geometric means less one.
    pub percent: Option<f64>,
    /// 95 % interval of `percent`; `None` with fewer than two pairs, or where no spread was seen.
    pub percent_ci95: Option<Interval>,
    /// Two-sided p of Student's (paired) or Welch's t test of the logarithms.
    pub p: Option<f64>,
    /// Why there is no result; `None` when there is one.
    pub reason: Option<NoCost>,
}

/// How sides are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Design {
    /// Within each block of the plan.
    Paired,
    /// Two independent samples: the plan has no blocks.
    Unpaired,
}

/// Why nothing can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoCost {
    /// No block has both sides.
    NoPair,
    /// A value is zero or negative, so that there is no ratio.
    NotPositive,
    /// Several tuples have the same factors: they differ in workload or capture.
    SeveralTuples,
    /// Guests ran under KVM on one side and under TCG on the other.
    MixedAcceleration,
}

impl NoCost {
    /// As shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPair => "no block has both sides",
            Self::NotPositive => "a value is not positive, so that there is no ratio",
            Self::SeveralTuples => "several tuples have the same factors, and differ in workload or capture",
            Self::MixedAcceleration => "guests ran under kvm in some iterations and under tcg in others",
        }
    }
}

/// The data cannot tell any cost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CostError {
    /// The factor is not there.
    #[error("no iteration that counts has the factor `instrument`")]
    NoFactor,
    /// It does not vary.
    #[error("`instrument` is `{0}` in all iterations that count: there is nothing to compare with")]
    OneValue(String),
    /// Two values, but none has all that another has.
    #[error("no value of `instrument` has all the instruments of another one and more (there are: {})", .0.join(", "))]
    NoStep(Vec<String>),
    /// A value that is none.
    #[error("`{0}` is no value of the factor `instrument`")]
    BadValue(String),
}

/// States the cost of each instrument.
///
/// `all` are the instruments that the spec asks for, which is what `on` means. Two sides are compared that agree in every
/// other factor, where one runs what the other does and as little as possible more. With blocks each block gives one ratio
/// of with to without; logarithms of ratios are averaged. Without blocks the logarithms of both sides are compared as
/// independent samples.
///
/// # Errors
/// When the factor does not vary in a way that tells anything.
pub fn instrument_costs(observations: &[Observation], all: Instruments) -> Result<Costs, CostError> {
    let mut cells: BTreeMap<Key, BTreeMap<Value, Vec<&Observation>>> = BTreeMap::new();
    let mut values = BTreeSet::new();
    for observation in observations {
        let value = observation.factors.get(FACTOR).ok_or(CostError::NoFactor)?;
        values.insert(value.clone());
        let set = set_of(value, all)?;
        cells.entry(others(observation)).or_default().entry((set, value.clone())).or_default().push(observation);
    }
    match values.len() {
        0 => return Err(CostError::NoFactor),
        1 => return Err(CostError::OneValue(values.into_iter().collect())),
        _ => {}
    }
    let factors = varying(cells.keys());
    let mut costs = Vec::new();
    for (key, sides) in &cells {
        let shown: Vec<Option<String>> = factors.iter().map(|name| key.get(name).cloned()).collect();
        for (without, with) in steps(sides) {
            costs.push(cost(shown.clone(), (without, &sides[without]), (with, &sides[with])));
        }
    }
    if costs.is_empty() {
        return Err(CostError::NoStep(values.into_iter().collect()));
    }
    let single: BTreeSet<&str> = costs.iter().filter(|c| c.added.len() == 1).map(|c| c.added[0].as_str()).collect();
    let present: BTreeSet<_> = cells.values().flat_map(BTreeMap::keys).flat_map(|(set, _)| set.iter()).collect();
    let inseparable = present.into_iter().map(|i| i.as_str()).filter(|name| !single.contains(name));
    let inseparable = inseparable.map(str::to_owned).collect();
    Ok(Costs { factors, costs, inseparable })
}

/// A value of the factor: what it means and what it says. `on` may mean the same as a list.
type Value = (Instruments, String);

/// The factors but `instrument`; members of groups say nothing beside their groups.
type Key = BTreeMap<String, String>;

fn others(observation: &Observation) -> Key {
    let own = |(name, _): &(&String, &String)| *name != FACTOR && !name.contains('.');
    observation.factors.iter().filter(own).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Names that do not have the same value everywhere.
fn varying<'k>(keys: impl Iterator<Item = &'k Key> + Clone) -> Vec<String> {
    let names: BTreeSet<&String> = keys.clone().flat_map(BTreeMap::keys).collect();
    let varies = |name: &&String| keys.clone().map(|key| key.get(*name)).collect::<BTreeSet<_>>().len() > 1;
    names.into_iter().filter(varies).cloned().collect()
}

/// What a value runs: `on` is everything that the spec asks for.
fn set_of(value: &str, all: Instruments) -> Result<Instruments, CostError> {
    match value {
        "on" => Ok(all),
        "off" => Ok(Instruments::NONE),
        names => names.parse().map_err(|()| CostError::BadValue(names.to_owned())),
    }
}

/// Pairs of sets where the second has all of the first and more, without a third between them.
fn steps<T>(sides: &BTreeMap<Value, T>) -> Vec<(&Value, &Value)> {
    let within = |a: &Value, b: &Value| a.0 != b.0 && a.0.iter().all(|instrument| b.0.has(instrument));
    let pairs = sides.keys().flat_map(|a| sides.keys().map(move |b| (a, b)));
    let mut steps: Vec<_> =
        pairs.filter(|&(a, b)| within(a, b) && !sides.keys().any(|c| within(a, c) && within(c, b))).collect();
    steps.sort_by_key(|&(a, b)| (names(b.0, a.0), a));
    steps
}

/// Names of what `set` has and `less` has not.
fn names(set: Instruments, less: Instruments) -> Vec<String> {
    set.iter().filter(|&instrument| !less.has(instrument)).map(|instrument| instrument.as_str().to_owned()).collect()
}

type Side<'a> = (&'a Value, &'a Vec<&'a Observation>);

fn cost(factors: Vec<Option<String>>, (less, without): Side<'_>, (more, with): Side<'_>) -> Cost {
    let blocks = without.iter().chain(with).all(|observation| observation.block.is_some());
    let design = if blocks { Design::Paired } else { Design::Unpaired };
    let mut cost = Cost {
        factors,
        added: names(more.0, less.0),
        beside: names(less.0, Instruments::NONE),
        values: [less.1.clone(), more.1.clone()],
        design,
        n: 0,
        unpaired: 0,
        without: None,
        with: None,
        percent: None,
        percent_ci95: None,
        p: None,
        reason: unlike(without, with),
    };
    if cost.reason.is_none() {
        let filled = match design {
            Design::Paired => paired(&mut cost, without, with),
            Design::Unpaired => unpaired(&mut cost, without, with),
        };
        cost.reason = filled.err();
    }
    cost
}

/// What keeps the two sides from being compared at all.
fn unlike(without: &[&Observation], with: &[&Observation]) -> Option<NoCost> {
    let tuples = |side: &[&Observation]| side.iter().map(|o| o.tuple).collect::<BTreeSet<ShortHash>>().len();
    if tuples(without) > 1 || tuples(with) > 1 {
        return Some(NoCost::SeveralTuples);
    }
    let accels: BTreeSet<_> = without.iter().chain(with).map(|o| &o.conditions.accel).collect();
    if accels.len() > 1 {
        return Some(NoCost::MixedAcceleration);
    }
    let positive = without.iter().chain(with).all(|o| o.value > 0.0 && o.value.is_finite());
    (!positive).then_some(NoCost::NotPositive)
}

fn paired(cost: &mut Cost, without: &[&Observation], with: &[&Observation]) -> Result<(), NoCost> {
    let by_block = |side: &[&Observation]| -> BTreeMap<Option<u32>, f64> {
        side.iter().map(|o| (o.block, o.value.ln())).collect()
    };
    let (a, b) = (by_block(without), by_block(with));
    let pairs: Vec<(f64, f64)> = a.iter().filter_map(|(block, value)| Some((*value, *b.get(block)?))).collect();
    cost.n = pairs.len();
    cost.unpaired = a.len() + b.len() - 2 * pairs.len();
    if pairs.is_empty() {
        return Err(NoCost::NoPair);
    }
    let (without, with): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let differences: Vec<f64> = pairs.iter().map(|(a, b)| b - a).collect();
    let summary = Summary::of(&differences);
    cost.without = geometric(&without);
    cost.with = geometric(&with);
    cost.percent = summary.mean.map(percent);
    cost.percent_ci95 = summary.ci95.map(|ci| Interval { low: percent(ci.low), high: percent(ci.high) });
    // A sample against a constant is Student's test of one sample.
    let zero = Summary { n: 2, mean: Some(0.0), sd: Some(0.0), ci95: None };
    cost.p = TwoSample::of(&summary, &zero).and_then(|result| result.welch).map(|welch| welch.p);
    Ok(())
}

fn unpaired(cost: &mut Cost, without: &[&Observation], with: &[&Observation]) -> Result<(), NoCost> {
    let logs = |side: &[&Observation]| side.iter().map(|o| o.value.ln()).collect::<Vec<f64>>();
    let (a, b) = (logs(without), logs(with));
    let result = TwoSample::of(&Summary::of(&b), &Summary::of(&a)).ok_or(NoCost::NoPair)?;
    cost.n = a.len().min(b.len());
    cost.without = geometric(&a);
    cost.with = geometric(&b);
    cost.percent = Some(percent(result.difference));
    cost.percent_ci95 = result.difference_ci95.map(|ci| Interval { low: percent(ci.low), high: percent(ci.high) });
    cost.p = result.welch.map(|welch| welch.p);
    Ok(())
}

fn geometric(logs: &[f64]) -> Option<f64> {
    Summary::of(logs).mean.map(f64::exp)
}

fn percent(log_ratio: f64) -> f64 {
    100.0 * log_ratio.exp_m1()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::IterationNumber;
    use crate::record::Status;
    use crate::spec::Instrument;
    use crate::store::Conditions;

    fn observation(factors: &str, block: Option<u32>, value: f64) -> Observation {
        let factors: BTreeMap<String, String> =
            factors.split(' ').map(|pair| pair.split_once('=').unwrap()).map(|(n, v)| (n.into(), v.into())).collect();
        let text = format!("{factors:?}");
        Observation {
            number: IterationNumber(1),
            started_ns: 0,
            identity: ShortHash::of(format!("{text}{block:?}{value}").as_bytes()),
            tuple: ShortHash::of(text.as_bytes()),
            block,
            status: Status::Complete,
            host: "here".into(),
            factors: factors.into(),
            value,
            pairs: 1,
            conditions: Conditions::default(),
        }
    }

    fn both() -> Instruments {
        [Instrument::Capture, Instrument::Syscalls].into_iter().collect()
    }

    /// Blocks differ by much, instruments by little: a tenth each.
    fn blocks() -> Vec<Observation> {
        let mut all = Vec::new();
        for (block, speed) in (1..).zip([100.0, 200.0, 400.0, 300.0]) {
            for (value, factor) in [("off", 1.0), ("capture", 0.9), ("syscalls", 0.9), ("on", 0.81)] {
                // A little noise of its own, so that there is a spread.
                let noise = 1.0 + f64::from(block) * 1e-3 * factor * factor;
                all.push(observation(
                    &format!("testbed=netns instrument={value}"),
                    Some(block),
                    speed * factor * noise,
                ));
            }
        }
        all
    }

    #[test]
    fn blocks_are_compared_within_themselves() {
        let costs = instrument_costs(&blocks(), both()).unwrap();
        assert_eq!((costs.factors.len(), costs.costs.len(), costs.inseparable.len()), (0, 4, 0));
        let said: Vec<_> = costs.costs.iter().map(|c| (c.added.join("+"), c.beside.join("+"), c.n)).collect();
        let own = |a: &str, b: &str| (a.to_owned(), b.to_owned(), 4);
        assert_eq!(
            said,
            [own("capture", ""), own("capture", "syscalls"), own("syscalls", ""), own("syscalls", "capture")]
        );
        for cost in &costs.costs {
            let (percent, ci) = (cost.percent.unwrap(), cost.percent_ci95.unwrap());
            assert!((percent + 10.0).abs() < 0.1 && ci.low < percent && percent < ci.high, "{cost:?}");
            assert!(ci.high - ci.low < 0.3, "the blocks' own spread is gone: {cost:?}");
            assert!(cost.p.unwrap() < 1e-4 && cost.design == Design::Paired && cost.unpaired == 0);
        }
        let without = costs.costs[0].without.unwrap();
        assert!((without / (100.0_f64 * 200.0 * 400.0 * 300.0).powf(0.25) - 1.0).abs() < 0.01, "{without}");
    }

    /// The paired t interval of the logarithms, as R gives it:
    /// `exp(t.test(log(c(95, 93, 96)) - log(c(100, 100, 100)))$conf.int) - 1`.
    #[test]
    fn the_interval_is_student_s_of_the_logarithms() {
        let mut all = Vec::new();
        for (block, with) in (1..).zip([95.0, 93.0, 96.0]) {
            all.push(observation("instrument=off", Some(block), 100.0));
            all.push(observation("instrument=capture", Some(block), with));
        }
        let cost = instrument_costs(&all, both()).unwrap().costs.remove(0);
        // Mean and standard error of the logarithms by hand; t(0.975, 2) = 4.302652729696142.
        let logs = [0.95_f64.ln(), 0.93_f64.ln(), 0.96_f64.ln()];
        let mean = logs.iter().sum::<f64>() / 3.0;
        let error = (logs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 2.0 / 3.0).sqrt();
        let expected = [mean - 4.302_652_729_696_142 * error, mean + 4.302_652_729_696_142 * error];
        let ci = cost.percent_ci95.unwrap();
        for (is, log) in [(ci.low, expected[0]), (ci.high, expected[1]), (cost.percent.unwrap(), mean)] {
            assert!((is - 100.0 * log.exp_m1()).abs() < 1e-9, "{is} {log}");
        }
        assert_eq!(cost.p.map(|p| p < 0.05), Some(true));
    }

    #[test]
    fn a_block_without_one_side_is_left_out_and_counted() {
        let mut all = blocks();
        all.retain(|o| o.block != Some(2) || o.factors["instrument"] != "off");
        let costs = instrument_costs(&all, both()).unwrap().costs;
        assert_eq!((costs[0].n, costs[0].unpaired), (3, 1));
        assert_eq!((costs[1].n, costs[1].unpaired), (4, 0));
        all.retain(|o| o.block == Some(1) || o.factors["instrument"] != "off");
        let one = &instrument_costs(&all, both()).unwrap().costs[0];
        assert_eq!((one.n, one.percent_ci95, one.p), (1, None, None), "one pair has no interval");
        all.retain(|o| o.block != Some(1) || o.factors["instrument"] == "off");
        let none = &instrument_costs(&all, both()).unwrap().costs[0];
        assert_eq!((none.reason, none.percent), (Some(NoCost::NoPair), None));
    }

    #[test]
    fn without_blocks_the_sides_are_independent() {
        let mut all = blocks();
        all.iter_mut().for_each(|o| o.block = None);
        let cost = instrument_costs(&all, both()).unwrap().costs.remove(0);
        assert_eq!((cost.design, cost.n), (Design::Unpaired, 4));
        let ci = cost.percent_ci95.unwrap();
        assert!(ci.low < -50.0 && ci.high > 50.0, "the blocks' spread is all in it: {cost:?}");
    }

    #[test]
    fn other_factors_stay_apart_and_only_the_nearest_sets_are_compared() {
        let mut all = Vec::new();
        for (block, noise) in (1..).zip([1.0, 1.01, 0.99]) {
            for (rate, speed) in [("none", 50.0), ("1 Gbit/s", 10.0)] {
                let factors = |value: &str| format!("rate={} instrument={value}", rate.replace(' ', "_"));
                all.push(observation(&factors("off"), Some(block), speed));
                all.push(observation(&factors("on"), Some(block), speed * noise / 2.0));
            }
        }
        let costs = instrument_costs(&all, both()).unwrap();
        assert_eq!(costs.factors, ["rate"]);
        assert_eq!(costs.costs.len(), 2);
        assert!(costs.costs.iter().all(|c| c.added == ["capture", "syscalls"] && c.beside.is_empty()));
        assert_eq!(costs.inseparable, ["capture", "syscalls"], "only their sum is known");
    }

    #[test]
    fn what_cannot_be_said_is_said_so() {
        let of = |value: &str, block, x| observation(&format!("instrument={value}"), Some(block), x);
        assert_eq!(instrument_costs(&[], both()), Err(CostError::NoFactor));
        assert_eq!(instrument_costs(&[observation("pairs=1", Some(1), 1.0)], both()), Err(CostError::NoFactor));
        let constant = [of("on", 1, 1.0), of("on", 2, 1.0)];
        assert_eq!(instrument_costs(&constant, both()), Err(CostError::OneValue("on".to_owned())));
        let apart = [of("capture", 1, 1.0), of("syscalls", 1, 1.0)];
        let error = instrument_costs(&apart, both()).unwrap_err().to_string();
        assert!(error.contains("(there are: capture, syscalls)"), "{error}");
        // `on` is the same as `capture` where the spec asks for nothing else.
        let capture = Instruments::NONE.with(Instrument::Capture);
        let same = [of("capture", 1, 1.0), of("on", 1, 1.0)];
        assert!(matches!(instrument_costs(&same, capture), Err(CostError::NoStep(_))));
        let zero = [of("off", 1, 0.0), of("capture", 1, 1.0)];
        assert_eq!(instrument_costs(&zero, both()).unwrap().costs[0].reason, Some(NoCost::NotPositive));
        let mut two = vec![of("off", 1, 1.0), of("off", 2, 1.0), of("capture", 1, 1.0)];
        two[1].tuple = ShortHash::of(b"another workload");
        assert_eq!(instrument_costs(&two, both()).unwrap().costs[0].reason, Some(NoCost::SeveralTuples));
        let mut mixed = vec![of("off", 1, 1.0), of("capture", 1, 1.0)];
        mixed[1].conditions.accel = Some("kvm".to_owned());
        assert_eq!(instrument_costs(&mixed, both()).unwrap().costs[0].reason, Some(NoCost::MixedAcceleration));
    }
}
