//! What a link test found, against what was asked for.

use super::{Verdict, percent};
use crate::instrument::linktest::{Loss, Rate, Reach};
use crate::spec::LinkTestSpec;
use crate::units::{Percent, format_duration};

/// A sender that offers less than this share of the link's rate cannot tell whether the link carries it, nor whether it
/// would carry more.
const ENOUGH: f64 = 1.1;

/// Which way a rate was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    There,
    /// From the server to the client.
    Back,
}

impl Way {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::There, Self::Back];

    /// `there`, `back`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::There => "there",
            Self::Back => "back",
        }
    }
}

/// Level 1: no answer is invalid.
pub fn link_connectivity(pair: u32, reach: &Reach) -> Verdict {
    let mut verdict = Verdict::new();
    if reach.answered {
        verdict.passed(format!("linktest of pair {pair}: the server answers (try {})", reach.tries));
    } else {
        verdict.invalid(format!("linktest of pair {pair}: the server answered none of {} datagrams", reach.tries));
    }
    verdict
}

/// Level 2: another number of routers than asked for, in either direction, is invalid; one that is not known is suspect.
///
/// Which routers they are says the check of paths ([`super::paths`]); this one also sees the way back.
pub fn link_routing(pair: u32, reach: &Reach, asked: usize) -> Verdict {
    let mut verdict = Verdict::new();
    for (way, hops) in [(Way::There, reach.hops_there), (Way::Back, reach.hops_back)] {
        let what = format!("linktest of pair {pair}: hops {}", way.as_str());
        match hops {
            None => verdict.suspect(format!("{what}: asked {asked}, could not be counted")),
            Some(hops) if usize::from(hops) == asked => verdict.passed(format!("{what}: {hops}")),
            Some(hops) => verdict.invalid(format!("{what}: asked {asked}, are {hops}")),
        }
    }
    verdict
}

/// Level 3: loss or delay above the thresholds is invalid.
pub fn link_loss(pair: u32, loss: &Loss, spec: &LinkTestSpec) -> Verdict {
    let mut verdict = Verdict::new();
    let what = format!("linktest of pair {pair}");
    let lost = loss.sent.saturating_sub(loss.answered);
    let Some(share) = loss_share(loss) else {
        verdict.suspect(format!("{what}: loss could not be measured"));
        return verdict;
    };
    let on_the_way = loss.arrived.map_or_else(|| "unknown".to_owned(), |n| loss.sent.saturating_sub(n).to_string());
    let text = format!(
        "{what}: loss {} ({lost} of {} datagrams without an answer, {on_the_way} of them lost on the way there)",
        percent(share),
        loss.sent
    );
    match spec.loss {
        Some(limit) if share > limit.fraction() => verdict.invalid(format!("{text}, at most {limit} accepted")),
        _ => verdict.passed(text),
    }
    match (loss.rtt_median, spec.delay) {
        (None, Some(_)) => verdict.suspect(format!("{what}: delay could not be measured")),
        (None, None) => verdict.unknown(format!("{what}: delay could not be measured")),
        (Some(median), limit) => {
            let text = format!("{what}: round-trip time {:.3} ms in the median", median * 1e3);
            match limit.filter(|limit| median > limit.as_secs_f64()) {
                Some(limit) => verdict.invalid(format!("{text}, at most {} accepted", format_duration(limit))),
                None => verdict.passed(text),
            }
        }
    }
    verdict
}

/// Share of datagrams without an answer; `None` when none was sent.
pub fn loss_share(loss: &Loss) -> Option<f64> {
    (loss.sent > 0).then(|| f64::from(loss.sent.saturating_sub(loss.answered)) / f64::from(loss.sent))
}

/// Level 4: a rate further from `asked` (bit/s) than the threshold is invalid; one that could not be measured is suspect.
/// Without a rate that was asked for, the rate is told and nothing else.
pub fn link_bandwidth(pair: u32, way: Way, rate: &Rate, asked: Option<f64>, spec: &LinkTestSpec) -> Verdict {
    let mut verdict = Verdict::new();
    let what = format!("linktest of pair {pair}: bandwidth {}", way.as_str());
    let received = || rate.received.map_or_else(|| "unknown".to_owned(), mbit);
    let offered = || rate.offered.map_or_else(|| "unknown".to_owned(), mbit);
    let Some(asked) = asked else {
        verdict.passed(format!("{what}: {} received, {} sent, no rate asked", received(), offered()));
        return verdict;
    };
    let Some(measured) = measured(rate, asked, spec.bandwidth) else {
        let text = format!(
            "{what}: asked {}, could not be measured: {} sent, {} received in {} datagrams, no room for {}",
            mbit(asked),
            offered(),
            received(),
            rate.packets,
            rate.overflow
        );
        // Where it is only to be recorded, nothing hangs on it.
        if spec.bandwidth.is_some() {
            verdict.suspect(text)
        } else {
            verdict.unknown(text)
        }
        return verdict;
    };
    let off = (measured / asked - 1.0).abs();
    let text = format!("{what}: asked {}, is {}", mbit(asked), mbit(measured));
    match spec.bandwidth {
        Some(limit) if off > limit.fraction() => {
            verdict.invalid(format!("{text}: {} off, at most {limit} accepted", percent(off)));
        }
        _ => verdict.passed(text),
    }
    verdict
}

/// The link's rate as far as the train tells it: what arrived is the link's doing, and not the sender's, only when more was
/// sent than a link within the threshold carries. More than that arriving says enough by itself.
pub fn measured(rate: &Rate, asked: f64, threshold: Option<Percent>) -> Option<f64> {
    let received = rate.received?;
    let share = threshold.map_or(0.0, Percent::fraction);
    let enough = rate.offered.is_some_and(|offered| offered >= asked * (1.0 + share).max(ENOUGH));
    let fast = threshold.is_some() && received > asked * (1.0 + share);
    (enough || fast).then_some(received)
}

fn mbit(bits: f64) -> String {
    if bits >= 1e6 { format!("{:.1} Mbit/s", bits / 1e6) } else { format!("{:.1} kbit/s", bits / 1e3) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::spec::LinkLevel;

    const ASKED: f64 = 100e6;

    fn spec() -> LinkTestSpec {
        LinkTestSpec::new(LinkLevel::Bandwidth)
    }

    fn state(verdict: &Verdict) -> &'static str {
        match (verdict.invalid.is_empty(), verdict.suspect.is_empty()) {
            (false, _) => "invalid",
            (true, false) => "suspect",
            (true, true) => "passed",
        }
    }

    #[test]
    fn connectivity_and_hops() {
        let mut reach = Reach { tries: 1, answered: true, hops_there: Some(2), hops_back: Some(2) };
        assert_eq!(state(&link_connectivity(1, &reach)), "passed");
        assert_eq!(state(&link_routing(1, &reach, 2)), "passed");
        assert_eq!(link_routing(1, &reach, 1).invalid[0], "linktest of pair 1: hops there: asked 1, are 2");
        reach.hops_back = Some(3);
        assert_eq!(link_routing(1, &reach, 2).invalid, ["linktest of pair 1: hops back: asked 2, are 3"]);
        reach.hops_back = None;
        assert_eq!(state(&link_routing(1, &reach, 2)), "suspect");
        reach.answered = false;
        assert_eq!(state(&link_connectivity(1, &reach)), "invalid");
    }

    #[test]
    fn loss_and_delay_go_by_their_thresholds() {
        let loss = |answered, median| Loss {
            sent: 100,
            arrived: Some(100),
            answered,
            rtt_min: median,
            rtt_median: median,
            rtt_max: median,
        };
        let tight = LinkTestSpec { delay: Some(Duration::from_millis(10)), ..spec() };
        for (answered, median, spec, expected) in [
            (100, Some(0.001), tight, "passed"),
            (99, Some(0.001), tight, "passed"),
            (98, Some(0.001), tight, "invalid"),
            (98, Some(0.001), LinkTestSpec { loss: None, ..tight }, "passed"),
            (100, Some(0.011), tight, "invalid"),
            (100, Some(0.011), spec(), "passed"),
            (0, None, LinkTestSpec { loss: None, ..tight }, "suspect"),
        ] {
            assert_eq!(state(&link_loss(1, &loss(answered, median), &spec)), expected, "{answered} {median:?}");
        }
        assert_eq!(state(&link_loss(1, &Loss::default(), &spec())), "suspect", "nothing was sent");
        let text = link_loss(2, &loss(60, Some(0.001)), &spec()).invalid;
        let expected = "linktest of pair 2: loss 40.0 % (40 of 100 datagrams without an answer, 0 of them lost on the way \
                        there), at most 1 % accepted";
        assert_eq!(text, [expected]);
    }

    #[test]
    fn a_rate_that_was_not_tried_says_nothing() {
        let rate = |received, offered| Rate { received, offered, packets: 100, overflow: 0 };
        for (rate, expected) in [
            (rate(Some(99e6), Some(150e6)), "passed"),
            (rate(Some(109e6), Some(150e6)), "passed"),
            (rate(Some(120e6), Some(150e6)), "invalid"),
            (rate(Some(120e6), None), "invalid"),
            (rate(Some(80e6), Some(150e6)), "invalid"),
            (rate(Some(80e6), Some(82e6)), "suspect"),
            (rate(Some(80e6), None), "suspect"),
            (rate(Some(99e6), Some(101e6)), "suspect"),
            (rate(Some(99e6), None), "suspect"),
            (rate(None, Some(150e6)), "suspect"),
        ] {
            assert_eq!(state(&link_bandwidth(1, Way::There, &rate, Some(ASKED), &spec())), expected, "{rate:?}");
        }
        assert_eq!(state(&link_bandwidth(1, Way::Back, &rate(None, None), None, &spec())), "passed");
        let off = LinkTestSpec { bandwidth: None, ..spec() };
        assert_eq!(state(&link_bandwidth(1, Way::Back, &rate(Some(50e6), Some(150e6)), Some(ASKED), &off)), "passed");
        assert_eq!(state(&link_bandwidth(1, Way::Back, &rate(None, None), Some(ASKED), &off)), "passed");
        let wide = Some(Percent::new(25.0));
        assert_eq!(measured(&rate(Some(115e6), Some(120e6)), ASKED, wide), None, "perhaps there is no limit at all");
        assert_eq!(measured(&rate(Some(115e6), Some(125e6)), ASKED, wide), Some(115e6));
    }
}
