//! Every statistic over all connections, mergeable.

use super::connection::{Connection, Way};
use super::engine::Sink;
use super::exact::{STATISTICS, Statistic};
use super::sketch::Sketch;

/// The quantiles a summary shows, with their names.
pub const QUANTILES: [(&str, f64); 7] =
    [("p5", 0.05), ("p25", 0.25), ("median", 0.5), ("p75", 0.75), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)];

/// The distribution of each numeric statistic and direction over connections. Connections without a value (no RTT sample,
/// say) do not count in that statistic.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    connections: u64,
    /// a2b, b2a of each entry of [`STATISTICS`]; flags stay empty.
    sketches: Vec<[Sketch; 2]>,
}

impl Default for Summary {
    fn default() -> Self {
        Self { connections: 0, sketches: vec![Default::default(); STATISTICS.len()] }
    }
}

/// One line of a summary.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Which statistic.
    pub statistic: &'static Statistic,
    /// In which direction.
    pub way: Way,
    /// Its distribution.
    pub sketch: &'a Sketch,
}

impl Summary {
    /// Adds a connection.
    pub fn add(&mut self, connection: &Connection) {
        self.connections += 1;
        for (statistic, sketches) in STATISTICS.iter().zip(&mut self.sketches) {
            for way in Way::ALL {
                if let Some(number) = statistic.value(connection, way).and_then(|value| value.number()) {
                    sketches[way.index()].add(number);
                }
            }
        }
    }

    /// Adds the connections of another summary.
    pub fn merge(&mut self, other: &Self) {
        self.connections += other.connections;
        for (ours, theirs) in self.sketches.iter_mut().flatten().zip(other.sketches.iter().flatten()) {
            ours.merge(theirs);
        }
    }

    /// Connections seen.
    pub const fn connections(&self) -> u64 {
        self.connections
    }

    /// Its lines: every numeric statistic, a2b and b2a.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let numeric = STATISTICS.iter().zip(&self.sketches).filter(|(statistic, _)| !statistic.unit.is_empty());
        numeric.flat_map(|(statistic, sketches)| {
            Way::ALL.map(|way| Entry { statistic, way, sketch: &sketches[way.index()] })
        })
    }
}

impl Sink for Summary {
    fn connection(&mut self, connection: &Connection) {
        self.add(connection);
    }
}
