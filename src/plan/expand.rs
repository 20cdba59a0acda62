//! Expansion of a spec into a plan.

use std::sync::Arc;

use super::canonical::{self, TupleHasher};
use super::{Counts, Plan, PlannedTuple, Slot, identity, order, sentinel};
use crate::ids::ShortHash;
use crate::spec::{Columns, Factor, MOST_ITERATIONS, Space, Spec, Tuple, Value, factors, grouped, too_many};

/// A spec cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No combination is left.
    #[error("the exclusions leave nothing to run")]
    Empty,
    /// The sweep is too large.
    #[error("too many iterations: {arithmetic}; at most {} are possible", grouped(MOST_ITERATIONS))]
    TooMany {
        /// The product that is too large.
        arithmetic: String,
    },
    /// No tuple has the values that the sentinels are to have.
    #[error("no tuple has all the values of `sentinel.tuple`")]
    NoSentinel,
    /// Two iterations have the same identity.
    #[error("two iterations have the same identity {identity}; change a value to tell them apart")]
    Collision {
        /// The identity they share.
        identity: ShortHash,
    },
}

impl Plan {
    /// All iterations of a spec whose text was `spec_text`.
    ///
    /// The same spec gives the same plan on every machine and in every version of vptest.
    pub fn expand(spec: Spec, spec_text: impl Into<String>) -> Result<Self, PlanError> {
        let space = Space::new(&spec.factors, &spec.exclude);
        if let Some(arithmetic) = too_many(&spec, &space) {
            return Err(PlanError::TooMany { arithmetic });
        }
        let planes = planes(&spec, &space);
        let mut hasher = TupleHasher::new();
        let mut tuples = Vec::new();
        let mut excluded = 0;
        let mut walk = space.walk();
        while let Some(combination) = walk.next() {
            if combination.excluded {
                excluded += 1;
            } else {
                tuples.push(planes[combination.plane].planned(combination.indices, &mut hasher));
            }
        }
        let counts = Counts { combinations: space.full_size(), distinct: excluded + tuples.len() as u64, excluded };
        let number = u32::try_from(tuples.len()).expect("there are at most as many tuples as iterations");
        if number == 0 {
            return Err(PlanError::Empty);
        }
        let iterations = order::iterations(spec.order, spec.seed, number, spec.repetitions);
        let iterations = match (&spec.sentinel, sentinel::tuple(&spec, &tuples)) {
            (None, _) => iterations,
            (Some(sentinel), Some(tuple)) => sentinel::interleave(&iterations, tuple, sentinel.every),
            (Some(_), None) => return Err(PlanError::NoSentinel),
        };
        refuse_collisions(&tuples, spec.repetitions, &iterations)?;
        let spec_text = spec_text.into();
        let spec_hash = ShortHash::of(spec_text.as_bytes());
        Ok(Self { spec, spec_text, spec_hash, counts, tuples, iterations })
    }
}

/// What the tuples of one testbed share.
pub(super) struct Plane {
    prefix: String,
    columns: Arc<Columns>,
    /// The factor of each column.
    order: Vec<usize>,
    /// `"name":value` of each column and value.
    members: Vec<Vec<String>>,
}

impl Plane {
    pub(super) fn new(spec: &Spec, testbed: &str, relevant: &[bool], shared: &[Arc<[Value]>]) -> Self {
        let mut order: Vec<usize> = (0..spec.factors.len()).filter(|&factor| relevant[factor]).collect();
        order.sort_by(|&a, &b| spec.factors[a].name.cmp(&spec.factors[b].name));
        let members = |&factor: &usize| {
            let Factor { name, values } = &spec.factors[factor];
            values.iter().map(|value| canonical::member(name, value)).collect()
        };
        Self {
            prefix: canonical::prefix(&canonical::meaning(spec, testbed)),
            columns: Arc::new(Columns {
                names: order.iter().map(|&factor| spec.factors[factor].name.clone()).collect(),
                values: order.iter().map(|&factor| Arc::clone(&shared[factor])).collect(),
            }),
            members: order.iter().map(members).collect(),
            order,
        }
    }

    /// The tuple with these values, one index for each factor of the spec.
    pub(super) fn planned(&self, indices: &[u32], hasher: &mut TupleHasher) -> PlannedTuple {
        let own: Box<[u32]> = self.order.iter().map(|&factor| indices[factor]).collect();
        let members = self.members.iter().zip(&own).map(|(members, &index)| members[index as usize].as_str());
        let id = hasher.id(&self.prefix, members);
        PlannedTuple { id, tuple: Tuple::shared(Arc::clone(&self.columns), own) }
    }
}

/// The planes of all testbeds of a spec, in their order.
pub(super) fn planes(spec: &Spec, space: &Space) -> Vec<Plane> {
    let shared: Vec<Arc<[Value]>> = spec.factors.iter().map(|factor| factor.values.as_slice().into()).collect();
    let named = spec.factors.iter().find(|factor| factor.name == "testbed");
    let testbed = |plane: usize| {
        named.map_or_else(|| factors::DEFAULT_TESTBED.to_owned(), |factor| factor.values[plane].to_string())
    };
    (0..space.planes()).map(|plane| Plane::new(spec, &testbed(plane), space.relevant(plane), &shared)).collect()
}

/// Iteration files are named after identities: two with the same one would pass for each other.
fn refuse_collisions(tuples: &[PlannedTuple], repetitions: u32, slots: &[Slot]) -> Result<(), PlanError> {
    let all = tuples.iter().flat_map(|planned| (1..=repetitions).map(|n| identity(planned.id, n)));
    let sentinels = slots.iter().filter(|slot| slot.is_sentinel());
    let sentinels = sentinels.map(|slot| sentinel::sentinel_identity(tuples[slot.tuple as usize].id, slot.repetition));
    let mut identities: Vec<ShortHash> = all.chain(sentinels).collect();
    identities.sort_unstable();
    match identities.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(PlanError::Collision { identity: pair[0] }),
        None => Ok(()),
    }
}
