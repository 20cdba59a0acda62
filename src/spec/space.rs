//! The combinations of factor values: those that mean something, each once, in the order of the file.
//!
//! On each testbed the factors that mean nothing there stay at their first value and are left out of the tuple; that
//! is how duplicates collapse. The combinations of the testbeds are merged back into the order of the file, in which
//! the last factor changes fastest.

use super::factors;
use super::value::Value;
use super::{Exclusion, Factor};

/// All combinations of a set of factors.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    planes: Vec<Plane>,
    exclusions: Vec<Vec<Condition>>,
    /// Values of each factor.
    sizes: Vec<u32>,
}

/// The combinations on one testbed.
#[derive(Debug, Clone)]
struct Plane {
    /// Where the testbed stands among the factors and which value it has; `None` when no factor names it.
    testbed: Option<(usize, u32)>,
    /// Which factors mean something.
    relevant: Vec<bool>,
}

/// One condition of an exclusion: factor, and which of its values match.
#[derive(Debug, Clone)]
struct Condition {
    factor: usize,
    matches: Vec<bool>,
}

/// One combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Combination<'a> {
    /// Number of the testbed among those of the spec.
    pub(crate) plane: usize,
    /// Index of each factor's value; meaningless (0) where the factor is not relevant.
    pub(crate) indices: &'a [u32],
    /// Does an exclusion match?
    pub(crate) excluded: bool,
}

impl Space {
    pub(crate) fn new(spec_factors: &[Factor], exclude: &[Exclusion]) -> Self {
        let named = spec_factors.iter().position(|factor| factor.name == "testbed");
        let planes = match named {
            None => vec![Plane::new(spec_factors, factors::DEFAULT_TESTBED, None)],
            Some(position) => (0u32..)
                .zip(&spec_factors[position].values)
                .map(|(index, value)| Plane::new(spec_factors, &value.to_string(), Some((position, index))))
                .collect(),
        };
        let sizes = spec_factors.iter().map(|f| u32::try_from(f.values.len()).unwrap_or(u32::MAX)).collect();
        let exclusions = exclude.iter().map(|e| conditions(spec_factors, e)).collect();
        Self { planes, exclusions, sizes }
    }

    /// Number of testbeds.
    pub(crate) fn planes(&self) -> usize {
        self.planes.len()
    }

    /// Which factors mean something on a testbed.
    pub(crate) fn relevant(&self, plane: usize) -> &[bool] {
        &self.planes[plane].relevant
    }

    /// Product of all factors; `None` when it does not fit.
    pub(crate) fn full_size(&self) -> Option<u64> {
        self.sizes.iter().try_fold(1u64, |product, &size| product.checked_mul(u64::from(size)))
    }

    /// Distinct tuples before exclusions; `None` when the number does not fit.
    pub(crate) fn size(&self) -> Option<u64> {
        self.planes.iter().try_fold(0u64, |sum, plane| {
            let free = plane.free().map(|position| u64::from(self.sizes[position]));
            let product = free.into_iter().try_fold(1u64, u64::checked_mul)?;
            sum.checked_add(product)
        })
    }

    /// Can the exclusion match a tuple at all?
    pub(crate) fn can_match(&self, exclusion: usize) -> bool {
        self.planes.iter().any(|plane| {
            self.exclusions[exclusion].iter().all(|condition| {
                let fixed = plane.testbed.filter(|(position, _)| *position == condition.factor);
                match fixed {
                    Some((_, index)) => condition.matches[index as usize],
                    None => plane.relevant[condition.factor] && condition.matches.contains(&true),
                }
            })
        })
    }

    /// Walks through all combinations.
    pub(crate) fn walk(&self) -> Walk<'_> {
        let heads = self.planes.iter().map(|plane| plane.first(&self.sizes)).collect();
        let steps = self.planes.iter().map(|plane| plane.free().collect()).collect();
        Walk { space: self, heads, steps, current: None }
    }

    fn is_excluded(&self, plane: usize, indices: &[u32]) -> bool {
        let relevant = &self.planes[plane].relevant;
        let holds = |c: &Condition| relevant[c.factor] && c.matches[indices[c.factor] as usize];
        self.exclusions.iter().any(|conditions| conditions.iter().all(holds))
    }
}

impl Plane {
    fn new(spec_factors: &[Factor], testbed: &str, place: Option<(usize, u32)>) -> Self {
        let relevant = spec_factors.iter().map(|factor| factors::is_relevant(&factor.name, testbed)).collect();
        Self { testbed: place, relevant }
    }

    /// Positions of the factors that vary.
    fn free(&self) -> impl DoubleEndedIterator<Item = usize> + use<'_> {
        let fixed = self.testbed.map(|(position, _)| position);
        (0..self.relevant.len()).filter(move |&position| self.relevant[position] && Some(position) != fixed)
    }

    /// The first combination; `None` when a factor has no value.
    fn first(&self, sizes: &[u32]) -> Option<Vec<u32>> {
        let mut indices = vec![0; sizes.len()];
        if let Some((position, index)) = self.testbed {
            indices[position] = index;
        }
        (!sizes.contains(&0)).then_some(indices)
    }
}

/// An exclusion's conditions by position; a group's member is looked up in the group's values.
fn conditions(spec_factors: &[Factor], exclusion: &Exclusion) -> Vec<Condition> {
    let condition = |(name, values): &(String, Vec<Value>)| {
        let member = |value: &Value| member_of(value, name).cloned();
        let own = spec_factors.iter().position(|factor| factor.name == *name);
        let group = || {
            spec_factors
                .iter()
                .position(|factor| is_member_name(factor, name) && factor.values.iter().any(|v| member(v).is_some()))
        };
        let factor = own.or_else(group)?;
        let matches = spec_factors[factor].values.iter().map(|value| match own {
            Some(_) => values.contains(value),
            None => member(value).is_some_and(|value| values.contains(&value)),
        });
        Some(Condition { factor, matches: matches.collect() })
    };
    // A name that is no factor matches nothing; the parser has refused it already.
    let never =
        || vec![Condition { factor: 0, matches: vec![false; spec_factors.first().map_or(0, |f| f.values.len())] }];
    exclusion.conditions.iter().map(condition).collect::<Option<Vec<_>>>().unwrap_or_else(never)
}

/// `url` and `request.url` may both be a member of `request`; `other.url` may not.
fn is_member_name(factor: &Factor, name: &str) -> bool {
    name.split_once('.').is_none_or(|(group, _)| group == factor.name)
}

/// The member of a group that `url` or `request.url` names.
pub(super) fn member_of<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    match value {
        Value::Group(members) => members.get(name.split_once('.').map_or(name, |(_, member)| member)),
        _ => None,
    }
}

/// A walk through all combinations in the order of the file.
pub(crate) struct Walk<'s> {
    space: &'s Space,
    /// Next combination of each testbed; `None` at its end.
    heads: Vec<Option<Vec<u32>>>,
    /// Positions that vary, for each testbed.
    steps: Vec<Vec<usize>>,
    /// Testbed of the combination handed out last, which is yet to be stepped over.
    current: Option<usize>,
}

impl Walk<'_> {
    /// The next combination.
    pub(crate) fn next(&mut self) -> Option<Combination<'_>> {
        if let Some(plane) = self.current.take() {
            self.step(plane);
        }
        let heads = self.heads.iter().enumerate().filter_map(|(plane, head)| Some((head.as_ref()?, plane)));
        let (_, plane) = heads.min()?;
        self.current = Some(plane);
        let indices = self.heads[plane].as_deref()?;
        Some(Combination { plane, indices, excluded: self.space.is_excluded(plane, indices) })
    }

    fn step(&mut self, plane: usize) {
        let Some(indices) = &mut self.heads[plane] else { return };
        for &position in self.steps[plane].iter().rev() {
            indices[position] += 1;
            if indices[position] < self.space.sizes[position] {
                return;
            }
            indices[position] = 0;
        }
        self.heads[plane] = None;
    }
}
