//! Octets whose packets were cut or joined differently on the way: what one point offers, the other claims.

use std::collections::{HashMap, VecDeque};

use super::Same;
use crate::packet::{Seq, Time};

/// Ranges looked at for one packet.
const PATIENCE: usize = 4096;

/// Octets of one point's unmatched packets, by flow. An octet that was sent twice is there twice.
#[derive(Debug, Default)]
pub(super) struct Offered(HashMap<u64, VecDeque<Range>, Same>);

/// From `lo` up to, but not including, `hi`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    lo: Seq,
    hi: Seq,
    at: Time,
}

/// What came of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// All octets were there, and are taken.
    Granted,
    /// Some were not; nothing is taken.
    Refused,
    /// There are too many ranges to tell.
    Lost,
}

impl Offered {
    pub(super) fn offer(&mut self, flow: u64, lo: Seq, hi: Seq, at: Time) {
        self.0.entry(flow).or_default().push_back(Range { lo, hi, at });
    }

    /// Takes the octets from `lo` to `hi`, if all are there.
    pub(super) fn claim(&mut self, flow: u64, lo: Seq, hi: Seq) -> Claim {
        let Some(ranges) = self.0.get_mut(&flow) else { return Claim::Refused };
        let mut gaps = vec![(lo, hi)];
        let mut cuts = Vec::new();
        for (looked, range) in ranges.iter().enumerate() {
            if gaps.is_empty() {
                break;
            }
            if looked == PATIENCE {
                return Claim::Lost;
            }
            if range.lo.is_after(hi) || lo.is_after(range.hi) {
                continue;
            }
            let mut left = Vec::new();
            for (from, to) in gaps {
                let cut = (later(from, range.lo), earlier(to, range.hi));
                if !cut.1.is_after(cut.0) {
                    left.push((from, to));
                    continue;
                }
                cuts.push(cut);
                left.extend([(from, cut.0), (cut.1, to)].into_iter().filter(|gap| gap.1.is_after(gap.0)));
            }
            gaps = left;
        }
        if !gaps.is_empty() {
            return Claim::Refused;
        }
        cuts.into_iter().for_each(|cut| take(ranges, cut));
        if ranges.is_empty() {
            self.0.remove(&flow);
        }
        Claim::Granted
    }

    /// Forgets what a flow offered up to `until`.
    pub(super) fn forget(&mut self, flow: u64, until: Time) {
        let Some(ranges) = self.0.get_mut(&flow) else { return };
        while ranges.front().is_some_and(|range| range.at <= until) {
            ranges.pop_front();
        }
        if ranges.is_empty() {
            self.0.remove(&flow);
        }
    }
}

fn later(a: Seq, b: Seq) -> Seq {
    if a.is_after(b) { a } else { b }
}

fn earlier(a: Seq, b: Seq) -> Seq {
    if a.is_after(b) { b } else { a }
}

/// Removes `cut` from the first range that contains it.
fn take(ranges: &mut VecDeque<Range>, (from, to): (Seq, Seq)) {
    let Some(at) = ranges.iter().position(|range| !range.lo.is_after(from) && !to.is_after(range.hi)) else { return };
    let range = ranges[at];
    let before = Range { hi: from, ..range };
    let after = Range { lo: to, ..range };
    let mut rest = [before, after].into_iter().filter(|range| range.hi.is_after(range.lo));
    match (rest.next(), rest.next()) {
        (None, _) => drop(ranges.remove(at)),
        (Some(one), None) => ranges[at] = one,
        (Some(one), Some(two)) => {
            ranges[at] = one;
            ranges.insert(at + 1, two);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(ranges: &[(u32, u32)]) -> Offered {
        let mut offered = Offered::default();
        for &(lo, hi) in ranges {
            offered.offer(1, Seq(lo), Seq(hi), Time::from_micros(i64::from(lo)));
        }
        offered
    }

    #[test]
    fn octets_are_taken_once() {
        let mut all = offered(&[(0, 100), (100, 200), (u32::MAX - 9, 0)]);
        assert_eq!(all.claim(1, Seq(50), Seq(150)), Claim::Granted);
        assert_eq!(all.claim(1, Seq(50), Seq(150)), Claim::Refused);
        assert_eq!(all.claim(2, Seq(0), Seq(1)), Claim::Refused);
        assert_eq!(all.claim(1, Seq(u32::MAX - 9), Seq(50)), Claim::Granted, "across the wrap");
        assert_eq!(all.claim(1, Seq(150), Seq(201)), Claim::Refused);
        assert_eq!(all.claim(1, Seq(150), Seq(200)), Claim::Granted);
        assert!(all.0.is_empty());
    }

    #[test]
    fn octets_sent_twice_are_there_twice() {
        let mut all = offered(&[(0, 100), (0, 100)]);
        assert_eq!([(); 3].map(|()| all.claim(1, Seq(0), Seq(100))), [Claim::Granted, Claim::Granted, Claim::Refused]);
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut all = offered(&[(0, 100), (100, 200)]);
        all.forget(1, Time::from_micros(0));
        assert_eq!(all.claim(1, Seq(0), Seq(1)), Claim::Refused);
        all.forget(1, Time::from_micros(100));
        assert!(all.0.is_empty());
    }
}
