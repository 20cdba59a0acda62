//! What repetitions and factors say about the experiment itself: A/A, how many repetitions, which factors matter.

use super::number::{Column, escape};
use super::sheet::{Item, Sheet};
use super::verdicts::tell;
use crate::analysis::contrasts::{Rule, aa};
use crate::analysis::effects::effects as anova_of;
use crate::analysis::judged::in_run_order;
use crate::analysis::stats::equivalence::Margin;
use crate::analysis::stats::multiplicity::adjust;
use crate::analysis::stats::power::{
    POWER, Repetitions, repetitions_for_difference, repetitions_for_equivalence, repetitions_for_half_width,
};
use crate::analysis::{CONFIDENCE, Comparison, Group};
use crate::store::Observations;
use crate::units::Percent;

/// A metric that is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Its name as shown.
    pub name: &'a str,
    /// Its values.
    pub observations: &'a Observations,
    /// Its groups.
    pub comparison: &'a Comparison,
    /// Differences up to it do not matter.
    pub margin: Percent,
}

/// Probability of an error that rules take into account.
const ALPHA: f64 = 0.05;
/// Half-widths that are planned for where none is named.
const HALF_WIDTHS: [Percent; 3] = [Percent::new(1.0), Percent::new(2.0), Percent::new(5.0)];

/// Each group against itself.
pub fn self_comparisons(parts: &[Part<'_>], seed: u64, notes: Vec<String>) -> Sheet {
    let titles = [
        ("different", "different"),
        ("any_difference", "any difference"),
        ("floor_percent", "floor (%)"),
        ("floor", "floor"),
        ("late_against_early", "later half against earlier"),
    ];
    let row = |part: &Part<'_>, group: &Group| {
        let values = in_run_order(&part.observations.values, group);
        let rule = Rule { alpha: ALPHA, family: 1, margin: Margin::Relative(part.margin.fraction()) };
        let Some(found) = aa::self_comparison(&values, &rule, seed) else {
            let why = if values.iter().all(|x| x.is_finite()) { "fewer than four repetitions" } else { "not finite" };
            return vec![Item::Absent, Item::Absent, Item::Absent, Item::Absent, Item::Text(why.to_owned())];
        };
        let column = Column::of(&part.observations.unit, std::iter::once((Some(found.floor), None)));
        let floor = format!("{} {}", column.show(Some(found.floor)), escape(column.unit()));
        vec![
            Item::number(Some(found.different), 3),
            Item::number(Some(found.any_difference), 3),
            Item::number(found.floor_percent, 2),
            Item::Number(Some(found.floor), floor),
            Item::Text(tell(&found.late_against_early).cell()),
        ]
    };
    let mut all = vec![
        format!(
            "Each group was divided at random into halves 1000 times: `different` and `any difference` are the shares of halves with such a \
             verdict at {} %, for one contrast and the metric's margin; floor is the difference that 95 % of halves stay below.",
            100.0 * ALPHA
        ),
        "The later half against the earlier is no random division: what differs there drifts.".to_owned(),
    ];
    all.extend(notes);
    sheet(parts, &titles.map(|(name, title)| (name.to_owned(), title.to_owned())), row, all)
}

/// Each group as a pilot.
pub fn repetitions(parts: &[Part<'_>], half_widths: &[Percent], notes: Vec<String>) -> Sheet {
    let half_widths = if half_widths.is_empty() { &HALF_WIDTHS[..] } else { half_widths };
    let mut titles = vec![("mean", "mean".to_owned()), ("sd_percent", "sd (%)".to_owned())];
    titles.extend([
        ("margin_percent", "margin (%)".to_owned()),
        ("tell_margin", "tell the margin".to_owned()),
        ("show_equivalent", "show equivalence".to_owned()),
    ]);
    let mut columns: Vec<(String, String)> = titles.into_iter().map(|(name, title)| (name.to_owned(), title)).collect();
    columns.extend(half_widths.iter().map(|w| (format!("half_width_{}", 100.0 * w.fraction()), format!("mean ± {w}"))));
    columns.push(("reason".to_owned(), "".to_owned()));
    let row = |part: &Part<'_>, group: &Group| {
        let summary = group.summary;
        let column = Column::of(&part.observations.unit, std::iter::once((summary.mean, summary.sd)));
        let mean = Item::Number(summary.mean, format!("{} {}", column.show(summary.mean), escape(column.unit())));
        let percent = part.margin.fraction() * 100.0;
        // In units of the mean; without spread or mean there is nothing to plan by.
        let usable = summary.mean.zip(summary.sd).filter(|(mean, sd)| *mean != 0.0 && *sd > 0.0);
        let Some((size, sd)) = usable else {
            let why = match (summary.n, summary.mean, summary.sd) {
                (0 | 1, _, _) => "fewer than two repetitions",
                (_, None, _) => "not finite",
                (_, Some(_), Some(0.0)) => "always the same value",
                _ => "the mean is 0",
            };
            let mut items = vec![mean, Item::Absent, Item::number(Some(percent), 1)];
            items.resize(columns.len() - 1, Item::Absent);
            items.push(Item::Text(why.to_owned()));
            return items;
        };
        let spread = sd / size.abs();
        let margin = part.margin.fraction() / spread;
        let mut items = vec![mean, Item::number(Some(100.0 * spread), 2), Item::number(Some(percent), 1)];
        items.push(count(repetitions_for_difference(margin, POWER, ALPHA)));
        items.push(count(repetitions_for_equivalence(0.0, margin, POWER, ALPHA / 2.0)));
        items.extend(half_widths.iter().map(|w| count(repetitions_for_half_width(w.fraction() / spread, CONFIDENCE))));
        items.push(Item::Text(String::new()));
        items
    };
    let mut all = vec![
        format!(
            "Repetitions of each side, if the spread is what it seems here: to tell a true difference as large as the margin from none, and \
             to show equivalence of equal means, each with probability {POWER} and for one contrast at {} %; and for the mean to be known to \
             ± so many percent at 95 %.",
            100.0 * ALPHA
        ),
        "The spread of few repetitions is itself uncertain: from five, the true number lies between a third and eight times of it (95 %, normal values).".to_owned(),
    ];
    all.extend(notes);
    sheet(parts, &columns, row, all)
}

fn count(repetitions: Option<Repetitions>) -> Item {
    match repetitions {
        Some(Repetitions::PerSide(n)) => Item::Count(n),
        Some(Repetitions::TooMany) => Item::Number(None, "> 1000000".to_owned()),
        None => Item::Absent,
    }
}

/// A line for each metric and group: metric, factors, n, and what `row` makes of it.
fn sheet(
    parts: &[Part<'_>],
    further: &[(String, String)],
    row: impl Fn(&Part<'_>, &Group) -> Vec<Item>,
    notes: Vec<String>,
) -> Sheet {
    let factors: std::collections::BTreeSet<&String> = parts.iter().flat_map(|part| &part.comparison.factors).collect();
    let mut columns = vec![("metric".to_owned(), "metric".to_owned())];
    columns.extend(factors.iter().map(|&name| (format!("factor.{name}"), name.clone())));
    columns.push(("n".to_owned(), "n".to_owned()));
    columns.extend(further.iter().cloned());
    let mut rows = Vec::new();
    for part in parts {
        for group in &part.comparison.groups {
            let value = |&name: &&String| {
                let at = part.comparison.factors.iter().position(|other| other == name)?;
                group.values[at].clone()
            };
            let mut items = vec![Item::Text(part.name.to_owned())];
            items.extend(factors.iter().map(|name| value(name).map_or(Item::Absent, Item::Text)));
            items.push(Item::Count(group.summary.n));
            items.extend(row(part, group));
            rows.push(items);
        }
    }
    Sheet { columns, rows, notes }
}

/// Main effects and interactions of two, the greatest share first.
pub fn effects(parts: &[Part<'_>], mut notes: Vec<String>) -> Sheet {
    let mut columns = vec![("metric".to_owned(), "metric".to_owned()), ("effect".to_owned(), "effect".to_owned())];
    let numbers =
        [("df", "df"), ("eta2", "share (η²)"), ("omega2", "ω²"), ("f", "F"), ("p", "p alone"), ("p_holm", "p (Holm)")];
    columns.extend(numbers.map(|(name, title)| (name.to_owned(), title.to_owned())));
    let mut found = Vec::new();
    for part in parts {
        match anova_of(&part.observations.values, part.comparison) {
            Some(anova) => found.push((part, anova)),
            None => notes.push(format!("{}: nothing varies, or a value is not finite.", part.name)),
        }
    }
    let ps: Vec<Option<f64>> = found.iter().flat_map(|(_, anova)| anova.effects.iter().map(|e| e.p)).collect();
    let adjusted = adjust(&ps);
    let mut holm = adjusted.holm.iter().copied();
    let mut rows = Vec::new();
    for (part, anova) in &found {
        let mut effects: Vec<_> = anova.effects.iter().zip(holm.by_ref()).collect();
        effects.sort_by(|a, b| b.0.eta2.total_cmp(&a.0.eta2));
        for (effect, p_holm) in effects {
            let names: Vec<&str> = effect.factors.iter().map(|&i| part.comparison.factors[i].as_str()).collect();
            rows.push(vec![
                Item::Text(part.name.to_owned()),
                Item::Text(names.join(" × ")),
                Item::Count(effect.df),
                Item::number(Some(effect.eta2), 3),
                Item::number(effect.omega2, 3),
                Item::number(effect.f, 1),
                Item::p(effect.p),
                Item::p(p_holm),
            ]);
        }
        let residual = anova.residual / anova.total;
        rows.push(vec![
            Item::Text(part.name.to_owned()),
            Item::Text("(repetitions)".to_owned()),
            Item::Count(anova.residual_df),
            Item::number(Some(residual), 3),
            Item::Absent,
            Item::Absent,
            Item::Absent,
            Item::Absent,
        ]);
        if anova.effects.is_empty() {
            notes.push(format!("{}: no factor varies whose effect could be told from others.", part.name));
        }
        if anova.residual_df == 0 {
            notes.push(format!("{}: no tuple was repeated, so nothing can be tested.", part.name));
        }
    }
    let mut all = vec![
        "Analysis of variance, type II: the share is what an effect explains of the whole variance beyond all effects that do not contain it \
         (ω²: without what chance explains); a × b is how much the effect of a depends on b. Shares add up to 1 when all tuples have as many \
         repetitions."
            .to_owned(),
        format!(
            "p of F tests, which assume one spread in all tuples; Holm's takes into account that {} effects were looked at.",
            adjusted.size
        ),
    ];
    all.extend(notes);
    Sheet { columns, rows, notes: all }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::analysis::judged::MARGIN;
    use crate::analysis::stats::random::Random;
    use crate::analysis::{Question, compare};
    use crate::ids::{IterationNumber, Level, ShortHash};
    use crate::record::Status;
    use crate::store::{Conditions, LeftOut, Observation};

    /// `driver=a offload=on` and a mean with `n` values around it.
    fn observations(groups: &[(&str, f64)], n: u32, noise: f64) -> Observations {
        let mut random = Random::new(3, &[]);
        let mut values = Vec::new();
        for (text, mean) in groups {
            for i in 0..n {
                let pairs = text.split(' ').map(|pair| pair.split_once('=').unwrap());
                let factors: BTreeMap<String, String> = pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
                values.push(Observation {
                    number: IterationNumber(i + 1),
                    started_ns: i64::from(i),
                    identity: ShortHash::of(format!("{text}{i}").as_bytes()),
                    tuple: ShortHash::of(text.as_bytes()),
                    block: None,
                    status: Status::Complete,
                    host: "here".into(),
                    factors: factors.into(),
                    value: mean + noise * random.normal(),
                    pairs: 1,
                    conditions: Conditions::default(),
                });
            }
        }
        Observations {
            metric: "rps".to_owned(),
            level: Level::Application,
            role: None,
            unit: "1/s".to_owned(),
            better: None,
            values,
            left_out: LeftOut::default(),
        }
    }

    fn rows(sheet: &Sheet) -> Vec<serde_json::Value> {
        let json: serde_json::Value = serde_json::from_str(&sheet.json()).unwrap();
        json["rows"].as_array().unwrap().clone()
    }

    fn with(observations: &Observations, make: impl Fn(&[Part<'_>]) -> Sheet) -> (Sheet, Vec<serde_json::Value>) {
        let comparison = compare(&observations.values, &Question::default()).unwrap();
        let sheet = make(&[Part { name: "rps", observations, comparison: &comparison, margin: MARGIN }]);
        let rows = rows(&sheet);
        (sheet, rows)
    }

    #[test]
    fn an_interaction_stands_first_when_it_matters_most() {
        let groups = [
            ("driver=a offload=on", 100.0),
            ("driver=a offload=off", 200.0),
            ("driver=b offload=on", 200.0),
            ("driver=b offload=off", 100.0),
        ];
        let (_, found) = with(&observations(&groups, 6, 1.0), |parts| effects(parts, Vec::new()));
        assert_eq!(found[0]["effect"], "driver × offload");
        assert!(found[0]["eta2"].as_f64().unwrap() > 0.99 && found[0]["p_holm"].as_f64().unwrap() < 1e-9);
        let sum: f64 = found.iter().map(|row| row["eta2"].as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn effects_of_nothing_are_said_to_be_none() {
        let (sheet, found) = with(&observations(&[("driver=a", 1.0)], 4, 0.0), |parts| effects(parts, Vec::new()));
        assert!(found.is_empty() && sheet.notes.iter().any(|note| note.contains("nothing varies")), "{sheet:?}");
        let (sheet, _) = with(&observations(&[("a=1", 1.0), ("a=2", 2.0)], 1, 0.0), |p| effects(p, Vec::new()));
        assert!(sheet.notes.iter().any(|note| note.contains("no tuple was repeated")), "{sheet:?}");
        let (sheet, found) = with(&observations(&[("driver=a", 1.0)], 9, 1.0), |parts| effects(parts, Vec::new()));
        assert!(found.len() == 1 && sheet.notes.iter().any(|note| note.contains("no factor varies")), "{sheet:?}");
    }

    #[test]
    fn a_pilot_tells_how_many_and_says_when_it_cannot() {
        let (_, found) = with(&observations(&[("a=1", 100.0), ("a=2", 0.0)], 30, 2.0), |parts| {
            repetitions(parts, &[Percent::new(1.0)], Vec::new())
        });
        // sd of about 2 %: (1.96·2/1)² and a few more.
        let n = found[0]["half_width_1"].as_u64().unwrap();
        assert!((10..35).contains(&n), "{found:?}");
        assert!(found[0]["tell_margin"].as_u64().unwrap() < n, "{found:?}");
        let reason = |data: &Observations| with(data, |p| repetitions(p, &[], Vec::new())).1[0]["reason"].clone();
        assert_eq!(reason(&observations(&[("a=1", 5.0)], 9, 0.0)), "always the same value");
        assert_eq!(reason(&observations(&[("a=1", 5.0)], 1, 1.0)), "fewer than two repetitions");
    }

    #[test]
    fn a_tuple_against_itself_and_too_few_for_it() {
        let (_, found) = with(&observations(&[("a=1", 100.0)], 20, 1.0), |p| self_comparisons(p, 1, Vec::new()));
        assert!(found[0]["any_difference"].as_f64().unwrap() < 0.15, "{found:?}");
        let floor = found[0]["floor_percent"].as_f64().unwrap();
        assert!((0.3..2.0).contains(&floor), "{found:?}");
        let (_, found) = with(&observations(&[("a=1", 100.0)], 3, 1.0), |p| self_comparisons(p, 1, Vec::new()));
        assert_eq!(found[0]["late_against_early"], "fewer than four repetitions");
        assert!(found[0]["floor"].is_null() && found[0]["different"].is_null());
    }
}
