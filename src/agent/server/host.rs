//! The node as a host: what it is, and what it did while a workload ran.

use std::sync::{Mutex, PoisonError};

use super::super::message::{Failure, FailureKind, Outcome, Reading};
use crate::instrument::facts;
use crate::instrument::host::Snapshot;

type Place = Mutex<Option<Snapshot>>;

/// Begins a watch.
pub(super) fn watch(place: &Place) -> Result<Outcome, Failure> {
    let before = Snapshot::take();
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
    Ok(Outcome::Done)
}

/// What happened since.
pub(super) fn used(place: &Place) -> Result<Outcome, Failure> {
    let after = Snapshot::take();
    match place.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(before) => Ok(Outcome::HostUse(Box::new(before.until(&after)))),
        None => Err(Failure::new(FailureKind::Invalid, "say what its host did", "nobody has asked it to watch")),
    }
}

/// Facts about this host.
pub(super) fn facts() -> Result<Outcome, Failure> {
    let all = facts::facts("", &[]).into_iter();
    Ok(Outcome::Readings(all.map(|fact| Reading { name: fact.name, value: Some(fact.value) }).collect()))
}
