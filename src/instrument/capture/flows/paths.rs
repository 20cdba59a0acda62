//! Which capture points lie on one path, and the record of what their packets say together.

use crate::flow::{Clock, Matched, MatchedWay, Sketch};
use crate::ids::{NodeId, Vantage};
use crate::record::{Delay, PathCounts, PathDirection, PathMatch};
use crate::testbed::{self, CapturePoint};

/// Two points of one path, by their places: the client's side first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PathPoints {
    pub(super) near: usize,
    pub(super) far: usize,
    pub(super) clock: Clock,
}

/// The paths between these points: of each node from its own interface to the host's end of its link, and of each pair from
/// client to server, at the vantage nearest to the nodes that both have.
///
/// Where a node has several interfaces at a vantage, which one a packet takes is not known, and there is no path. Nor is there
/// one between the inside of a tunnel and its outside, where other packets are seen.
pub(super) fn between(points: &[CapturePoint]) -> Vec<PathPoints> {
    let only = |node: NodeId, vantage: Vantage| {
        let mut found = (0..points.len()).filter(|&i| points[i].node == node && points[i].vantage == vantage);
        found.next().filter(|_| found.next().is_none())
    };
    let path = |near: Option<usize>, far: Option<usize>| {
        let (near, far) = (near?, far?);
        let inside = [near, far].map(|i| points[i].interface == testbed::TUNNEL_INTERFACE);
        if inside[0] != inside[1] {
            return None;
        }
        let shared = [near, far].iter().all(|&i| points[i].source.clock() == testbed::Clock::Host);
        Some(PathPoints { near, far, clock: if shared { Clock::Shared } else { Clock::Apart } })
    };
    let mut pairs: Vec<u32> = points.iter().map(|point| point.node.pair).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let mut paths = Vec::new();
    for pair in pairs {
        let (client, server) = (NodeId::client(pair), NodeId::server(pair));
        let across = [Vantage::Guest, Vantage::Endpoint, Vantage::Host, Vantage::Switch];
        paths.extend(across.into_iter().find_map(|vantage| path(only(client, vantage), only(server, vantage))));
        paths.extend(path(only(client, Vantage::Guest), only(client, Vantage::Host)));
        paths.extend(path(only(server, Vantage::Host), only(server, Vantage::Guest)));
    }
    paths
}

/// What is known of a path.
#[derive(Debug)]
pub(super) struct Whole {
    /// Did both captures see every packet?
    pub(super) captures: bool,
    pub(super) clock: Clock,
}

/// The record, and what keeps it from being complete.
pub(super) fn record(near: usize, far: usize, whole: &Whole, matched: &Matched) -> (PathMatch, Option<String>) {
    let reason = if !whole.captures {
        Some("a capture is not whole".to_owned())
    } else if matched.given_up > 0 {
        Some(format!("{} packets could not be followed: too many were under way", matched.given_up))
    } else if matched.contradictory > 0 {
        Some(format!(
            "{} packets belong to connections whose beginning the points saw differently",
            matched.contradictory
        ))
    } else if matched.ways.iter().any(has_nothing_in_common) {
        Some("no packet of one point is found at the other".to_owned())
    } else {
        None
    };
    let shared_clock = whole.clock == Clock::Shared;
    let directions = [0, 1].map(|way| direction(&matched.ways[way], reason.is_none(), shared_clock));
    (PathMatch { near, far, shared_clock, directions }, reason)
}

/// Then they are not on one path, or something rewrites packets between them.
fn has_nothing_in_common(way: &MatchedWay) -> bool {
    way.sent > 0 && way.received > 0 && way.both + way.sent_resegmented + way.received_resegmented == 0
}

fn direction(way: &MatchedWay, known: bool, shared_clock: bool) -> PathDirection {
    let counts = PathCounts {
        both: way.both,
        lost: way.lost,
        appeared: way.appeared,
        sent_resegmented: way.sent_resegmented,
        received_resegmented: way.received_resegmented,
        reordered: way.reordered,
        edge: way.edge[0] + way.edge[1],
    };
    PathDirection {
        sent: way.sent,
        sent_bytes: way.sent_bytes,
        received: way.received,
        received_bytes: way.received_bytes,
        counts: known.then_some(counts),
        delay: shared_clock.then(|| delay(&way.delay)).flatten(),
    }
}

/// A distribution of seconds as it is stored; `None` without values.
pub(in crate::instrument) fn delay(sketch: &Sketch) -> Option<Delay> {
    Some(Delay {
        count: sketch.count(),
        mean: sketch.mean()?,
        sd: sketch.deviation(),
        min: sketch.min()?,
        p50: sketch.quantile(0.5)?,
        p95: sketch.quantile(0.95)?,
        p99: sketch.quantile(0.99)?,
        max: sketch.max()?,
        sketch: sketch.to_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::CaptureSource;

    fn point(node: NodeId, vantage: Vantage) -> CapturePoint {
        let source = CaptureSource::Live { namespace: None };
        CapturePoint { node, vantage, interface: "eth0".to_owned(), source }
    }

    fn places(points: &[CapturePoint]) -> Vec<(usize, usize)> {
        between(points).iter().map(|path| (path.near, path.far)).collect()
    }

    #[test]
    fn paths_lead_from_client_to_server() {
        use Vantage::{Guest, Host};
        let (client, server) = (NodeId::client(1), NodeId::server(1));
        let all = [point(client, Guest), point(client, Host), point(server, Guest), point(server, Host)];
        assert_eq!(places(&all), [(0, 2), (0, 1), (3, 2)]);
        assert_eq!(places(&all[1..]), [(0, 2), (2, 1)]);
        assert_eq!(places(&all[..2]), [(0, 1)]);
        assert_eq!(places(&[point(client, Guest), point(NodeId::server(2), Guest)]), []);
        assert_eq!(places(&[point(client, Guest), point(client, Guest), point(server, Guest)]), []);
        assert!(between(&all).iter().all(|path| path.clock == Clock::Shared));
        let inside = |node| CapturePoint { interface: testbed::TUNNEL_INTERFACE.to_owned(), ..point(node, Guest) };
        assert_eq!(places(&[inside(client), point(client, Host), inside(server), point(server, Host)]), [(0, 2)]);
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let way = MatchedWay { sent: 3, received: 2, both: 2, lost: 1, ..MatchedWay::default() };
        let matched = Matched { ways: [way, MatchedWay::default()], ..Matched::default() };
        let whole = Whole { captures: true, clock: Clock::Shared };
        let (path, reason) = record(0, 1, &whole, &matched);
        assert_eq!((path.directions[0].counts.map(|counts| counts.lost), reason), (Some(1), None));
        let told = |whole: &Whole, matched: &Matched| {
            let (path, reason) = record(0, 1, whole, matched);
            assert!(path.directions.iter().all(|direction| direction.counts.is_none()));
            assert_eq!(path.directions[0].sent, 3);
            reason.unwrap()
        };
        assert!(told(&Whole { captures: false, clock: Clock::Shared }, &matched).contains("not whole"));
        assert!(told(&whole, &Matched { given_up: 1, ..matched.clone() }).contains("too many"));
        assert!(told(&whole, &Matched { contradictory: 1, ..matched.clone() }).contains("differently"));
        let strange = MatchedWay { sent: 3, received: 3, lost: 3, appeared: 3, ..MatchedWay::default() };
        assert!(
            told(&whole, &Matched { ways: [strange, MatchedWay::default()], ..Matched::default() })
                .contains("no packet")
        );
    }
}
