//! Paths, clients and their processes.

use std::time::Duration;

use super::{Verdict, percent, reaches};
use crate::ids::NodeId;
use crate::node::Exit;
use crate::testbed::Path;
use crate::units::Percent;

/// Clients of several pairs that start further apart than this share of the shortest run do not compete as asked.
const START_SKEW: f64 = 0.25;

/// Compares each pair's path with the one that was asked for; `enabled` is the spec's `verify.path`.
///
/// A server that was not reached, or other hops: invalid. A hop that did not answer: suspect.
pub fn paths(paths: &[Path], enabled: bool) -> Verdict {
    let mut verdict = Verdict::new();
    if !enabled {
        verdict.off("path");
        return verdict;
    }
    for path in paths {
        let names = path.observed.iter().map(|hop| hop.as_deref().unwrap_or("?").to_owned());
        let observed = route(names.collect());
        let what = format!("path of pair {}", path.pair);
        let expected = route(path.expected.clone());
        let agree = path.observed.len() == path.expected.len()
            && path.observed.iter().zip(&path.expected).all(|(seen, asked)| seen.as_ref().is_none_or(|s| s == asked));
        if !path.reached {
            verdict.invalid(format!("{what}: server not reached, asked {expected}, got as far as {observed}"));
        } else if !agree {
            verdict.invalid(format!("{what}: asked {expected}, is {observed}"));
        } else if path.observed.contains(&None) {
            verdict.suspect(format!("{what}: asked {expected}, a hop did not answer: {observed}"));
        } else {
            verdict.passed(format!("{what}: {observed}"));
        }
    }
    verdict
}

fn route(hops: Vec<String>) -> String {
    if hops.is_empty() { "a direct link".to_owned() } else { hops.join(" > ") }
}

/// One client's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientRun {
    /// Which.
    pub node: NodeId,
    /// Monotonic time of its start, from any origin that all clients share.
    pub started: Duration,
    /// How it ended; `None` when it was cut off.
    pub exit: Option<Exit>,
}

/// Was a client the bottleneck? Suspect when it used `threshold` of one CPU or more over its run.
pub fn client_cpu(clients: &[ClientRun], threshold: Option<Percent>) -> Verdict {
    let mut verdict = Verdict::new();
    let Some(threshold) = threshold else {
        verdict.off("client CPU");
        return verdict;
    };
    for client in clients {
        match client.exit.and_then(cpu_share) {
            None => verdict.unknown(format!("{}: CPU use could not be read", client.node)),
            Some(share) if reaches(share, threshold) => verdict.suspect(format!(
                "{} used {} of a CPU (threshold {threshold}): the client may be the bottleneck",
                client.node,
                percent(share)
            )),
            Some(share) => {
                verdict.passed(format!("{} used {} of a CPU (threshold {threshold})", client.node, percent(share)));
            }
        }
    }
    verdict
}

fn cpu_share(exit: Exit) -> Option<f64> {
    let used = exit.cpu_user? + exit.cpu_system?;
    (!exit.wall.is_zero()).then(|| used.as_secs_f64() / exit.wall.as_secs_f64())
}

/// Did the clients of all pairs run at the same time? Suspect when the last started later than a quarter of the
/// shortest run after the first.
pub fn start_skew(clients: &[ClientRun]) -> Verdict {
    let mut verdict = Verdict::new();
    let starts = || clients.iter().map(|client| client.started);
    let (Some(first), Some(last)) = (starts().min(), starts().max()) else { return verdict };
    if clients.len() < 2 {
        return verdict;
    }
    let skew = last - first;
    let text = format!("{} clients started within {:.3} s", clients.len(), skew.as_secs_f64());
    match clients.iter().filter_map(|client| client.exit).map(|exit| exit.wall).min() {
        None => verdict.unknown(format!("{text}; none of them ended")),
        Some(shortest) if skew.as_secs_f64() > START_SKEW * shortest.as_secs_f64() => {
            let shortest = shortest.as_secs_f64();
            verdict.suspect(format!("{text}, and the shortest ran {shortest:.3} s: they did not compete all the time"));
        }
        Some(_) => verdict.passed(text),
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::ExitStatus;
    use crate::record::EventLevel;

    fn path(expected: &[&str], observed: &[&str], reached: bool) -> Path {
        let own = |hop: &&str| (*hop).to_owned();
        let known = |hop: &&str| (*hop != "?").then(|| own(hop));
        Path {
            pair: 2,
            expected: expected.iter().map(own).collect(),
            observed: observed.iter().map(known).collect(),
            reached,
        }
    }

    #[test]
    fn paths_are_compared_hop_by_hop() {
        let cases = [
            (path(&[], &[], true), "", ""),
            (path(&["A", "B"], &["A", "B"], true), "", ""),
            (path(&["A", "B"], &["B", "A"], true), "path of pair 2: asked A > B, is B > A", ""),
            (path(&["A"], &[], true), "path of pair 2: asked A, is a direct link", ""),
            (path(&[], &["?"], true), "path of pair 2: asked a direct link, is ?", ""),
            (path(&["A", "B"], &["A", "?"], true), "", "path of pair 2: asked A > B, a hop did not answer: A > ?"),
            (path(&["A"], &["A"], false), "path of pair 2: server not reached, asked A, got as far as A", ""),
        ];
        for (path, invalid, suspect) in cases {
            let verdict = paths(std::slice::from_ref(&path), true);
            assert_eq!(
                (verdict.invalid.join("|"), verdict.suspect.join("|")),
                (invalid.to_owned(), suspect.to_owned())
            );
            assert_eq!(verdict.events.len(), 1);
            let off = paths(&[path], false);
            assert!(off.invalid.is_empty() && off.suspect.is_empty() && off.events[0].text.contains("switched off"));
        }
    }

    fn client(pair: u32, started_ms: u64, wall_ms: u64, cpu_ms: Option<u64>) -> ClientRun {
        let exit = Exit {
            status: ExitStatus::Code(0),
            wall: Duration::from_millis(wall_ms),
            cpu_user: cpu_ms.map(Duration::from_millis),
            cpu_system: Some(Duration::ZERO),
        };
        ClientRun { node: NodeId::client(pair), started: Duration::from_millis(started_ms), exit: Some(exit) }
    }

    #[test]
    fn a_client_at_its_limit_is_suspect() {
        let limit = Some(Percent::new(95.0));
        let cases = [(Some(949), false), (Some(950), true), (Some(1800), true), (Some(0), false)];
        for (cpu, expected) in cases {
            assert_eq!(!client_cpu(&[client(1, 0, 1000, cpu)], limit).suspect.is_empty(), expected, "{cpu:?}");
        }
        let verdict = client_cpu(&[client(1, 0, 1000, Some(990))], limit);
        let text = "client1 used 99.0 % of a CPU (threshold 95 %): the client may be the bottleneck";
        assert_eq!(verdict.suspect, [text]);
        assert!(client_cpu(&[client(1, 0, 1000, Some(990))], None).suspect.is_empty());
        let cut_off = ClientRun { exit: None, ..client(1, 0, 1, None) };
        for missing in [client(1, 0, 1000, None), client(1, 0, 0, Some(1)), cut_off] {
            let verdict = client_cpu(&[missing], limit);
            assert!(verdict.suspect.is_empty());
            assert_eq!(verdict.events[0].level, EventLevel::Warn);
        }
    }

    #[test]
    fn clients_must_start_together() {
        let pair = |second_ms: u64, wall_ms| [client(1, 100, 1000, None), client(2, 100 + second_ms, wall_ms, None)];
        assert!(start_skew(&pair(250, 1000)).suspect.is_empty());
        assert_eq!(start_skew(&pair(251, 1000)).suspect.len(), 1);
        assert_eq!(start_skew(&pair(100, 300)).suspect.len(), 1);
        assert_eq!(start_skew(&pair(251, 1000)[..1]), Verdict::new());
        assert_eq!(start_skew(&[]), Verdict::new());
        let unknown = pair(251, 1).map(|client| ClientRun { exit: None, ..client });
        assert_eq!(start_skew(&unknown).events[0].level, EventLevel::Warn);
    }
}
