use proptest::prelude::*;

use super::*;
use Point::{Far, Near};
use Way::{AToB, BToA};

fn at(millis: i64) -> Time {
    Time::from_micros(1_000_000_000 + millis * 1000)
}

fn segment(seq: u32, payload: i32) -> Segment {
    Segment { seq, payload, ..Segment::default() }
}

/// Point, time in ms, sequence number, payload.
type Line = (Point, i64, u32, i32);

fn run_with(way: Way, clock: Clock, script: &[Line]) -> MatchedWay {
    let mut matcher = Matcher::new(1000, clock);
    for &(point, millis, seq, payload) in script {
        matcher.packet(point, at(millis), way, &segment(seq, payload));
    }
    let matched = matcher.finish();
    assert_eq!((matched.given_up, matched.contradictory), (0, 0));
    let [a2b, b2a] = matched.ways;
    let (found, other) = if way == AToB { (a2b, b2a) } else { (b2a, a2b) };
    assert_eq!(other, MatchedWay::default());
    adds_up(&found);
    found
}

fn run(script: &[Line]) -> MatchedWay {
    run_with(AToB, Clock::Shared, script)
}

fn adds_up(way: &MatchedWay) {
    assert_eq!(way.sent, way.both + way.lost + way.sent_resegmented + way.edge[0]);
    assert_eq!(way.received, way.both + way.appeared + way.received_resegmented + way.edge[1]);
}

#[test]
fn delay_loss_and_order() {
    let found = run(&[
        (Near, 0, 0, 100),
        (Near, 1, 100, 100),
        (Near, 2, 200, 100),
        (Far, 10, 200, 100),
        (Far, 11, 0, 100),
        (Near, 20, 300, 100),
        (Far, 30, 300, 100),
    ]);
    assert_eq!((found.sent, found.received, found.both, found.lost), (4, 3, 3, 1));
    assert_eq!((found.sent_bytes, found.received_bytes, found.reordered), (400, 300, 1));
    assert_eq!((found.delay.min(), found.delay.max()), (Some(0.008), Some(0.011)));
}

#[test]
fn the_other_way_is_told_apart() {
    let script = [(Far, 0, 0, 100), (Far, 1, 100, 100), (Near, 3, 100, 100)];
    let found = run_with(BToA, Clock::Shared, &script);
    assert_eq!((found.sent, found.received, found.lost, found.delay.min()), (2, 1, 1, Some(0.002)));
}

#[test]
fn a_super_segment_is_recognised_in_its_parts() {
    let found = run(&[(Near, 0, 0, 3000), (Far, 1, 0, 1448), (Far, 1, 1448, 1448), (Far, 2, 2896, 104)]);
    assert_eq!((found.sent_resegmented, found.received_resegmented, found.both), (1, 3, 0));
    let joined = run(&[(Near, 0, 0, 1448), (Near, 1, 1448, 1448), (Far, 2, 0, 2896)]);
    assert_eq!((joined.sent_resegmented, joined.received_resegmented, joined.lost), (2, 1, 0));
}

#[test]
fn a_retransmission_does_not_hide_what_was_lost() {
    let id = |ip_id| Segment { ip_id: Some(ip_id), ..segment(0, 100) };
    let mut matcher = Matcher::new(10, Clock::Shared);
    matcher.packet(Near, at(0), AToB, &id(1));
    matcher.packet(Near, at(200), AToB, &id(2));
    matcher.packet(Far, at(201), AToB, &id(2));
    let found = matcher.finish().ways[0].clone();
    assert_eq!((found.both, found.lost, found.sent_resegmented), (1, 1, 0));
    // And not when it is cut otherwise, either.
    let cut = [(Near, 0, 0, 2000), (Far, 1, 0, 1000), (Near, 9, 0, 2000), (Far, 10, 0, 1500), (Far, 10, 1500, 500)];
    let found = run(&[cut.as_slice(), &[(Near, 11, 2000, 1), (Far, 12, 2000, 1)]].concat());
    assert_eq!((found.sent_resegmented, found.lost), (1, 1));
}

#[test]
fn what_was_under_way_at_the_ends_is_not_lost() {
    let found = run(&[(Far, 0, 0, 10), (Near, 1, 10, 10), (Far, 2, 10, 10), (Near, 5, 20, 10)]);
    assert_eq!((found.both, found.lost, found.appeared, found.edge), (1, 0, 0, [1, 1]));
    // By one clock, the first packets can only be lost if they are not received.
    let found = run(&[(Near, 0, 0, 10), (Near, 5, 10, 10), (Far, 6, 10, 10)]);
    assert_eq!((found.lost, found.edge), (1, [0, 0]));
    let apart = run_with(AToB, Clock::Apart, &[(Near, 0, 0, 10), (Near, 5, 10, 10), (Far, 6, 10, 10)]);
    assert_eq!((apart.lost, apart.edge), (0, [1, 0]));
    // Long before the end they are lost, whatever comes after.
    let found = run(&[(Near, 0, 0, 10), (Far, 1, 0, 10), (Near, 2, 10, 10), (Near, 3000, 20, 10)]);
    assert_eq!((found.lost, found.edge), (1, [1, 0]));
}

#[test]
fn what_is_old_is_settled_and_forgotten() {
    let mut matcher = Matcher::new(2000, Clock::Shared);
    for number in 0..20_000 {
        let at = at(i64::from(number) * 10);
        matcher.packet(Near, at, AToB, &segment(number * 1000, 1));
        matcher.packet(Far, at, AToB, &segment(number * 1000 + 500, 1));
    }
    let bounded = |side: &Side| side.pending.len() < 300 && side.odd.len() < 300 && side.open.len() < 700;
    assert!(matcher.sides.iter().all(bounded));
    let found = matcher.finish();
    assert_eq!((found.given_up, found.ways[0].both), (0, 0));
    let found = &found.ways[0];
    assert_eq!((found.lost + found.edge[0], found.appeared + found.edge[1]), (20_000, 20_000));
    assert!(found.edge.iter().all(|&edge| (1..=100).contains(&edge)), "{:?}", found.edge);
}

#[test]
fn a_silent_point_is_no_reason_to_wait() {
    let mut matcher = Matcher::new(500, Clock::Shared);
    for number in 0..20_000 {
        let at = at(i64::from(number) * 10);
        matcher.packet(Near, at, AToB, &segment(number * 1000, 0));
        matcher.quiet(Far, at);
    }
    matcher.packet(Far, at(199_990), AToB, &segment(0, 0));
    matcher.packet(Far, at(100), AToB, &segment(10_000, 0));
    assert_eq!(matcher.finish().given_up, 1, "it was promised that nothing would come");
}

#[test]
fn a_limit_is_told() {
    let mut matcher = Matcher::new(10, Clock::Shared);
    for number in 0..20 {
        matcher.packet(Near, at(0), AToB, &segment(number * 1000, 1));
    }
    assert_eq!(matcher.finish().given_up, 10);
    let mut matcher = Matcher::new(10, Clock::Shared);
    matcher.packet(Near, at(0), AToB, &segment(0, 1));
    matcher.packet(Far, at(0), BToA, &segment(0, 1));
    assert_eq!(matcher.finish().contradictory, 1);
}

/// What happens to a packet between the points.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Comes,
    Lost,
    /// Cut in two.
    Cut,
    /// Joined with the one before, if that came as it was sent.
    Joined,
}

proptest! {
    #[test]
    fn every_packet_is_accounted_for(
        fates in prop::collection::vec(
            prop::sample::select(vec![Fate::Comes, Fate::Comes, Fate::Lost, Fate::Cut, Fate::Joined]), 1..400),
        gap in prop::sample::select(vec![1_i64, 50, 700]),
        start in any::<u32>(),
    ) {
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        // The last packet comes, so that nothing is at the edge.
        let fates = fates.into_iter().chain([Fate::Comes]);
        let (mut lost, mut both, mut cut, mut joined) = (0, 0, 0, 0);
        let mut joinable: Option<usize> = None;
        for (number, fate) in (0_u32..).zip(fates) {
            let (millis, seq) = (i64::from(number) * gap, start.wrapping_add(number * 1000));
            sent.push((Near, millis, seq, 1000));
            let arrives = millis + 3;
            let before = joinable.take();
            match (fate, before) {
                (Fate::Lost, _) => lost += 1,
                (Fate::Cut, _) => {
                    received.push((Far, arrives, seq, 400));
                    received.push((Far, arrives, seq.wrapping_add(400), 600));
                    cut += 1;
                }
                (Fate::Joined, Some(at)) => {
                    received[at] = (Far, arrives, seq.wrapping_sub(1000), 2000);
                    both -= 1;
                    joined += 1;
                }
                (Fate::Comes | Fate::Joined, _) => {
                    joinable = Some(received.len());
                    received.push((Far, arrives, seq, 1000));
                    both += 1;
                }
            }
        }
        let mut script = sent;
        script.extend(received);
        script.sort_by_key(|line| line.1);
        let found = run(&script);
        prop_assert_eq!(found.edge, [0, 0]);
        prop_assert_eq!((found.both, found.lost, found.appeared), (both, lost, 0));
        prop_assert_eq!((found.sent_resegmented, found.received_resegmented), (cut + 2 * joined, 2 * cut + joined));
        prop_assert_eq!(found.reordered, 0);
    }

    #[test]
    fn anything_adds_up(
        script in prop::collection::vec((any::<bool>(), 0..5000_i64, 0..40_u32, 0..4_i32), 0..300),
    ) {
        let line = |(near, at, seq, payload): (bool, i64, u32, i32)| {
            (if near { Near } else { Far }, at, seq * 10, payload * 10)
        };
        run(&script.into_iter().map(line).collect::<Vec<_>>());
    }
}
