//! Which factors matter in the values of a metric, over all tuples.

use std::collections::BTreeMap;

use super::compare::Comparison;
use super::stats::anova::{Anova, Row, anova};
use crate::store::Observation;

/// Main effects and interactions of two, over the factors that tell groups apart; `None` where nothing varies.
///
/// A factor that means nothing on a tuple's testbed has one further level there. Indices of [`Anova::effects`] are those of
/// [`Comparison::factors`].
pub fn effects(observations: &[Observation], comparison: &Comparison) -> Option<Anova> {
    let mut levels: Vec<BTreeMap<Option<&str>, usize>> = vec![BTreeMap::new(); comparison.factors.len()];
    let mut rows = Vec::with_capacity(observations.len());
    for group in &comparison.groups {
        let at: Vec<usize> = levels
            .iter_mut()
            .zip(&group.values)
            .map(|(known, value)| {
                // Levels are numbered as they come.
                let next = known.len();
                *known.entry(value.as_deref()).or_insert(next)
            })
            .collect();
        rows.extend(group.members.iter().map(|&i| Row { levels: at.clone(), value: observations[i].value }));
    }
    anova(&rows, true)
}
