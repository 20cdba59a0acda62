//! Packets of one point that the other has not seen yet, found by what identifies them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use super::Same;
use crate::flow::connection::Way;
use crate::packet::{Seq, Time};

/// A packet as one point saw it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) at: Time,
    /// Place among its point's packets, from 1.
    pub(super) order: u64,
    /// Identifies the packet, and the flow it belongs to.
    pub(super) print: u64,
    pub(super) flow: u64,
    pub(super) seq: Seq,
    pub(super) payload: u32,
    pub(super) way: Way,
}

#[derive(Debug)]
struct Place {
    seen: Seen,
    matched: bool,
    /// The next packet with the same print.
    next: Option<u64>,
}

/// See the module. Oldest first.
#[derive(Debug, Default)]
pub(super) struct Pending {
    places: VecDeque<Place>,
    /// Number of the first place.
    base: u64,
    /// First and last place of each print.
    index: HashMap<u64, (u64, u64), Same>,
    unmatched: usize,
}

impl Pending {
    /// Packets that wait.
    pub(super) fn len(&self) -> usize {
        self.unmatched
    }

    pub(super) fn push(&mut self, seen: Seen) {
        if self.places.len() > 4096 && self.places.len() > 4 * self.unmatched {
            self.compact();
        }
        let number = self.base + self.places.len() as u64;
        match self.index.entry(seen.print) {
            Entry::Vacant(entry) => {
                entry.insert((number, number));
            }
            Entry::Occupied(mut entry) => {
                let (_, last) = entry.get_mut();
                let before = std::mem::replace(last, number);
                let base = self.base;
                self.places[usize::try_from(before - base).expect("a place in memory")].next = Some(number);
            }
        }
        self.places.push_back(Place { seen, matched: false, next: None });
        self.unmatched += 1;
    }

    /// Takes the oldest packet of that print.
    pub(super) fn take(&mut self, print: u64) -> Option<Seen> {
        let Entry::Occupied(mut entry) = self.index.entry(print) else { return None };
        let number = entry.get().0;
        let place = &mut self.places[usize::try_from(number - self.base).expect("a place in memory")];
        place.matched = true;
        let seen = place.seen;
        match place.next {
            Some(next) => entry.get_mut().0 = next,
            None => drop(entry.remove()),
        }
        self.unmatched -= 1;
        self.trim();
        Some(seen)
    }

    /// The oldest packet that waits.
    pub(super) fn oldest(&self) -> Option<&Seen> {
        self.places.front().map(|place| &place.seen)
    }

    /// Takes it.
    pub(super) fn pop(&mut self) -> Option<Seen> {
        let print = self.oldest()?.print;
        self.take(print)
    }

    /// The first place is never a matched one.
    fn trim(&mut self) {
        while self.places.front().is_some_and(|place| place.matched) {
            self.places.pop_front();
            self.base += 1;
        }
    }

    /// Drops matched packets from the middle.
    fn compact(&mut self) {
        let places = std::mem::take(&mut self.places);
        self.index.clear();
        self.unmatched = 0;
        for place in places.into_iter().filter(|place| !place.matched) {
            self.push(place.seen);
        }
    }
}
