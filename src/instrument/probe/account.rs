//! What became of numbered packets: loss, duplicates, order, delays. Pure.

use crate::flow::Sketch;

/// An arrival, in the order of arrivals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    /// Place of the packet among those sent, from 0.
    pub(super) index: usize,
    /// How long it took, in nanoseconds.
    pub(super) delay_ns: i64,
}

/// What the delays of arrivals mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// They are delays.
    Delays,
    /// All are off by the same unknown number: only their differences mean something.
    Differences,
    /// Nothing.
    Nothing,
}

/// See the fields of [`crate::record::ProbePath`].
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Account {
    pub(super) received: u64,
    pub(super) late: Option<u64>,
    pub(super) duplicated: u64,
    pub(super) reordered: u64,
    /// In seconds.
    pub(super) delay: Sketch,
    /// In seconds.
    pub(super) ipdv: Sketch,
    /// In seconds.
    pub(super) jitter: Option<f64>,
    /// Arrivals before they were sent, if delays were known.
    pub(super) negative: u64,
    /// Delay of each packet that arrived in time, `None` for the others; of no meaning where nothing is known.
    pub(super) first: Vec<Option<i64>>,
}

/// Accounts for `places` packets. Arrivals of others are the caller's to leave out.
pub(super) fn account(places: usize, arrivals: &[Arrival], known: Known, timeout_ns: i64) -> Account {
    let mut account = Account { first: vec![None; places], ..Account::default() };
    let (mut seen, mut next, mut late) = (vec![false; places], 0, 0);
    let mut jitter: Option<f64> = None;
    let mut before: Option<i64> = None;
    for arrival in arrivals {
        let Some(seen) = seen.get_mut(arrival.index) else { continue };
        if std::mem::replace(seen, true) {
            account.duplicated += 1;
            continue;
        }
        // RFC 4737 §3.3: what arrives with a number below the next one expected was overtaken.
        if arrival.index < next {
            account.reordered += 1;
        } else {
            next = arrival.index + 1;
        }
        if known == Known::Delays && arrival.delay_ns > timeout_ns {
            late += 1;
            continue;
        }
        account.received += 1;
        account.first[arrival.index] = Some(arrival.delay_ns);
        account.negative += u64::from(arrival.delay_ns < 0);
        if let Some(before) = before.replace(arrival.delay_ns) {
            let step = seconds(arrival.delay_ns.saturating_sub(before)).abs();
            let so_far = jitter.unwrap_or(0.0);
            jitter = Some(so_far + (step - so_far) / 16.0);
        }
    }
    account.late = (known == Known::Delays).then_some(late);
    account.distributions(known);
    account.jitter = jitter.filter(|_| known != Known::Nothing);
    account
}

impl Account {
    fn distributions(&mut self, known: Known) {
        if known == Known::Delays {
            self.first.iter().flatten().for_each(|&delay| self.delay.add(seconds(delay)));
        }
        if known != Known::Nothing {
            for pair in self.first.windows(2) {
                if let [Some(one), Some(next)] = *pair {
                    self.ipdv.add(seconds(next.saturating_sub(one)).abs());
                }
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "delays are far below 2^53 ns")]
pub(super) fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: i64 = 1_000_000;

    fn arrivals(list: &[(usize, i64)]) -> Vec<Arrival> {
        list.iter().map(|&(index, delay_ns)| Arrival { index, delay_ns }).collect()
    }

    #[test]
    fn a_known_course_is_told_exactly() {
        // Sent 0..6: 1 is lost, 3 overtakes 2, 4 comes twice, 5 comes too late.
        let course = arrivals(&[(0, MS), (3, 2 * MS), (2, 4 * MS), (4, MS), (4, 2 * MS), (5, 2000 * MS)]);
        let account = account(6, &course, Known::Delays, 1000 * MS);
        assert_eq!((account.received, account.late), (4, Some(1)));
        assert_eq!((account.duplicated, account.reordered), (1, 1));
        assert_eq!((account.delay.min(), account.delay.max()), (Some(0.001), Some(0.004)));
        // 2→3 and 3→4.
        assert_eq!(account.ipdv.count(), 2);
        assert_eq!((account.ipdv.min(), account.ipdv.max()), (Some(0.001), Some(0.002)));
        // |D| in the order of arrival: 1, 2, 3 ms.
        let by_hand = [0.001, 0.002, 0.003].iter().fold(0.0, |j: f64, d| j + (d - j) / 16.0);
        assert!((account.jitter.unwrap() - by_hand).abs() < 1e-12);
    }

    #[test]
    fn without_a_common_clock_only_differences_are_told() {
        let course = arrivals(&[(0, -5 * MS), (1, -4 * MS), (2, 99_999 * MS)]);
        let differences = account(3, &course, Known::Differences, 1000 * MS);
        assert_eq!((differences.received, differences.late), (3, None));
        assert_eq!(differences.delay.count(), 0);
        assert_eq!((differences.ipdv.count(), differences.ipdv.min()), (2, Some(0.001)));
        let nothing = account(3, &course, Known::Nothing, 1000 * MS);
        assert_eq!((nothing.received, nothing.ipdv.count(), nothing.jitter), (3, 0, None));
        assert_eq!(account(3, &course, Known::Delays, 1000 * MS).negative, 2);
        assert_eq!(account(3, &course[..1], Known::Delays, 1000 * MS).jitter, None);
    }

    /// The same by the words of the definitions, without a thought of speed.
    fn brute(places: usize, all: &[Arrival], timeout: i64) -> (u64, u64, u64, u64) {
        let firsts: Vec<(usize, &Arrival)> = (0..places)
            .filter_map(|index| all.iter().enumerate().find(|(_, arrival)| arrival.index == index))
            .collect();
        let late = firsts.iter().filter(|(_, first)| first.delay_ns > timeout).count();
        let duplicated = all.iter().filter(|a| a.index < places).count() - firsts.len();
        let overtaken =
            |at: usize, one: &Arrival| firsts.iter().any(|&(earlier, other)| earlier < at && other.index > one.index);
        let reordered = firsts.iter().filter(|&&(at, one)| overtaken(at, one)).count();
        ((firsts.len() - late) as u64, late as u64, duplicated as u64, reordered as u64)
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definitions(
            places in 0..40_usize,
            course in prop::collection::vec((0..45_usize, -10..1500_i64), 0..120),
        ) {
            let course = arrivals(&course.into_iter().map(|(i, d)| (i, d * MS)).collect::<Vec<_>>());
            let found = account(places, &course, Known::Delays, 1000 * MS);
            let got = (found.received, found.late.unwrap(), found.duplicated, found.reordered);
            prop_assert_eq!(got, brute(places, &course, 1000 * MS));
            prop_assert_eq!(found.delay.count(), found.received);
            prop_assert!(found.received + found.late.unwrap() <= places as u64);
        }
    }
}
