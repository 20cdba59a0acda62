//! Which factor matters: main effects and two-way interactions, with their shares of the variance.

use serde::Serialize;

use crate::analysis::distribution::f_sf;
use crate::analysis::summary::count;

/// One iteration: the level (from 0) of each factor, and the value.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Level of each factor.
    pub levels: Vec<usize>,
    /// What was measured.
    pub value: f64,
}

/// A factor or a pair of factors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Effect {
    /// Index of the factor, or of both.
    pub factors: Vec<usize>,
    /// Degrees of freedom: what the design lets be estimated.
    pub df: usize,
    /// Sum of squares, type II: what the effect explains beyond all effects that do not contain it.
    pub squares: f64,
    /// F statistic; `None` without residual degrees of freedom or spread.
    pub f: Option<f64>,
    /// Probability of at least such an F without the effect.
    pub p: Option<f64>,
    /// Share of the whole sum of squares. Shares add up to 1 with the residual only if the design is balanced.
    pub eta2: f64,
    /// The share without what chance alone explains; may be below 0. Source: Hays 1963, *Statistics for Psychologists*.
    pub omega2: Option<f64>,
}

/// An analysis of variance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Anova {
    /// Main effects in the order of the factors, then pairs. Factors with one level, and pairs that the design cannot tell from
    /// main effects, are not there.
    pub effects: Vec<Effect>,
    /// Residual sum of squares of the model with all effects.
    pub residual: f64,
    /// Its degrees of freedom.
    pub residual_df: usize,
    /// Whole sum of squares around the mean.
    pub total: f64,
}

/// Analysis of variance over factors and pairs of them, type II, on balanced or unbalanced data.
///
/// Assumes independent values, normal with one variance around the mean of their combination of levels. `None` with fewer than two
/// rows, equal values, one that is not finite, or rows of different length. Agrees with
/// `statsmodels.stats.anova.anova_lm(typ=2)` and R's `car::Anova(type = 2)` where every effect can be estimated; where combinations
/// are missing, degrees of freedom are those that remain (statsmodels counts them all). Source: Yates 1934, *JASA* 29; Langsrud
/// 2003, *Stat. Comput.* 13 (why type II).
pub fn anova(rows: &[Row], pairs: bool) -> Option<Anova> {
    let factors = rows.first()?.levels.len();
    let cells = Cells::new(rows)?;
    let total = cells.within + cells.between();
    if total.is_nan() || total <= 0.0 {
        return None;
    }
    let terms = terms(&cells, factors, pairs);
    let full = cells.fit(&terms.iter().collect::<Vec<_>>());
    let residual_df = rows.len() - full.rank;
    let residual = cells.within + full.left;
    let noise = (residual_df > 0).then(|| residual / count(residual_df)).filter(|&noise| noise > 1e-24 * total);
    let effect = |term: &Term| {
        let others: Vec<&Term> = terms.iter().filter(|other| !contains(other, term)).collect();
        let (without, with) = (cells.fit(&others), cells.fit(&[others.clone(), vec![term]].concat()));
        let (df, squares) = (with.rank - without.rank, (without.left - with.left).max(0.0));
        (df > 0).then(|| finish(term.clone(), df, squares, noise, residual_df, total))
    };
    let effects = terms.iter().filter_map(effect).collect();
    Some(Anova { effects, residual, residual_df, total })
}

fn finish(factors: Term, df: usize, squares: f64, noise: Option<f64>, residual_df: usize, total: f64) -> Effect {
    let f = noise.map(|noise| squares / count(df) / noise);
    let p = f.and_then(|f| f_sf(f, count(df), count(residual_df)));
    let omega2 = noise.map(|noise| (squares - count(df) * noise) / (total + noise));
    Effect { factors, df, squares, f, p, eta2: squares / total, omega2 }
}

/// Indices of one or two factors.
type Term = Vec<usize>;

fn terms(cells: &Cells, factors: usize, pairs: bool) -> Vec<Term> {
    let varies = |factor: &usize| cells.list.iter().any(|cell| cell.levels[*factor] != cells.list[0].levels[*factor]);
    let single: Vec<usize> = (0..factors).filter(varies).collect();
    let mut terms: Vec<Term> = single.iter().map(|&factor| vec![factor]).collect();
    if pairs {
        let later = |(i, &a): (usize, &usize)| single[i + 1..].iter().map(move |&b| vec![a, b]).collect::<Vec<_>>();
        terms.extend(single.iter().enumerate().flat_map(later).collect::<Vec<_>>());
    }
    terms
}

/// Is `term` the other one or a part of it?
fn contains(other: &Term, term: &Term) -> bool {
    term.iter().all(|factor| other.contains(factor))
}

/// Iterations with the same levels, which no model tells apart.
struct Cell {
    levels: Vec<usize>,
    n: f64,
    mean: f64,
}

struct Cells {
    list: Vec<Cell>,
    /// Sum of squares within cells.
    within: f64,
}

/// What a model leaves unexplained between cells, and how many parameters it has.
struct Fit {
    left: f64,
    rank: usize,
}

impl Cells {
    fn new(rows: &[Row]) -> Option<Self> {
        let usable = rows.iter().all(|row| row.value.is_finite() && row.levels.len() == rows[0].levels.len());
        if !usable || rows.len() < 2 || rows.iter().all(|row| row.value == rows[0].value) {
            return None;
        }
        // Around the mean, for the digits' sake.
        let first = rows[0].value;
        let middle = first + rows.iter().map(|row| row.value - first).sum::<f64>() / count(rows.len());
        let mut groups: std::collections::BTreeMap<&[usize], Vec<f64>> = std::collections::BTreeMap::new();
        for row in rows {
            groups.entry(&row.levels).or_default().push(row.value - middle);
        }
        let mut within = 0.0;
        let cell = |(levels, values): (&[usize], Vec<f64>)| {
            let n = count(values.len());
            let mean = values.iter().sum::<f64>() / n;
            within += values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
            Cell { levels: levels.to_vec(), n, mean }
        };
        let list = groups.into_iter().map(cell).collect();
        Some(Self { list, within })
    }

    fn between(&self) -> f64 {
        let mean = self.list.iter().map(|cell| cell.n * cell.mean).sum::<f64>()
            / self.list.iter().map(|cell| cell.n).sum::<f64>();
        self.list.iter().map(|cell| cell.n * (cell.mean - mean).powi(2)).sum()
    }

    /// Least squares by orthogonalising indicator columns (Gram–Schmidt, twice for each column), weighted by cell size.
    fn fit(&self, terms: &[&Term]) -> Fit {
        let weighted =
            |f: &dyn Fn(&Cell) -> f64| self.list.iter().map(|cell| f(cell) * cell.n.sqrt()).collect::<Vec<_>>();
        let mut left = weighted(&|cell| cell.mean);
        let mut basis: Vec<Vec<f64>> = Vec::new();
        let mut add = |mut column: Vec<f64>| {
            let before = dot(&column, &column);
            for _ in 0..2 {
                basis.iter().for_each(|unit| remove(&mut column, unit));
            }
            let after = dot(&column, &column);
            if after > 1e-18 * before {
                column.iter_mut().for_each(|x| *x /= after.sqrt());
                remove(&mut left, &column);
                basis.push(column);
            }
        };
        add(weighted(&|_| 1.0));
        for term in terms {
            let place = |cell: &Cell| term.iter().map(|&factor| cell.levels[factor]).collect::<Vec<_>>();
            let levels: std::collections::BTreeSet<Vec<usize>> = self.list.iter().map(place).collect();
            levels.iter().for_each(|level| add(weighted(&|cell| f64::from(place(cell) == *level))));
        }
        Fit { left: dot(&left, &left), rank: basis.len() }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn remove(column: &mut [f64], unit: &[f64]) {
    let part = dot(column, unit);
    column.iter_mut().zip(unit).for_each(|(x, u)| *x -= part * u);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(data: &[(&[usize], f64)]) -> Vec<Row> {
        data.iter().map(|(levels, value)| Row { levels: levels.to_vec(), value: *value }).collect()
    }

    #[test]
    fn what_cannot_be_said_is_none() {
        assert_eq!(anova(&[], true), None);
        assert_eq!(anova(&rows(&[(&[0], 1.0), (&[1], 1.0)]), true), None);
        assert_eq!(anova(&rows(&[(&[0], 1.0), (&[1], f64::NAN)]), true), None);
        let saturated = anova(&rows(&[(&[0], 1.0), (&[1], 2.0)]), true).unwrap();
        assert_eq!((saturated.residual_df, saturated.effects[0].p, saturated.effects[0].eta2), (0, None, 1.0));
    }

    #[test]
    fn a_pair_that_the_design_lacks_is_not_there() {
        // The driver varies on one testbed only.
        let data =
            rows(&[(&[0, 0], 1.0), (&[0, 0], 1.2), (&[1, 1], 2.0), (&[1, 1], 2.3), (&[1, 2], 3.0), (&[1, 2], 3.1)]);
        let result = anova(&data, true).unwrap();
        let named: Vec<_> = result.effects.iter().map(|effect| (effect.factors.clone(), effect.df)).collect();
        assert_eq!(named, [(vec![1], 1)]);
        assert_eq!(result.residual_df, 3);
    }

    #[test]
    fn an_interaction_shows_by_itself() {
        let value = |a: usize, b: usize| if a == 1 && b == 1 { 10.0 } else { 0.0 };
        let data: Vec<Row> = (0..40_usize)
            .map(|i| Row {
                levels: vec![i % 2, i / 2 % 2, 0],
                value: value(i % 2, i / 2 % 2) + f64::from(u8::from(i % 3 == 0)),
            })
            .collect();
        let result = anova(&data, true).unwrap();
        assert_eq!(
            result.effects.iter().map(|e| e.factors.clone()).collect::<Vec<_>>(),
            [vec![0], vec![1], vec![0, 1]]
        );
        assert!(result.effects[2].eta2 > 0.3 && result.effects[2].p.unwrap() < 1e-9);
    }
}
