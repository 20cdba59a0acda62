//! Distributions over all connections of many iterations.
//!
//! For describing, not for testing: connections of one iteration are not independent of each other.

use super::error::StoreError;
use super::query::Database;
use crate::flow::Sketch;
use crate::ids::{Direction, NodeId, Role, Vantage};
use crate::record::{ConnectionStatistic, IterationRecord, Status};

/// Which distributions to put together.
#[derive(Debug, Clone, Copy)]
pub struct Pool<'a> {
    /// tcptrace's name of the statistic: `RTT_avg`.
    pub name: &'a str,
    /// In which direction.
    pub direction: Direction,
    /// Captured at which kind of node.
    pub role: Role,
    /// Captured where.
    pub vantage: Vantage,
}

impl Database {
    /// The distribution of a statistic over all connections of the iterations that `wanted` accepts and whose status is among
    /// `statuses`; empty when there are none.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the content of any iteration does not match its SHA-256.
    pub fn pooled(
        &self,
        pool: Pool<'_>,
        statuses: &[Status],
        mut wanted: impl FnMut(&IterationRecord) -> bool,
    ) -> Result<Sketch, StoreError> {
        let mut all = Sketch::default();
        for verified in self.records()? {
            let record = verified?.record;
            if statuses.contains(&record.outcome.status()) && wanted(&record) {
                pool.of(&record).for_each(|statistic| all.merge(&distribution(statistic)));
            }
        }
        Ok(all)
    }
}

impl<'a> Pool<'a> {
    fn of(self, record: &'a IterationRecord) -> impl Iterator<Item = &'a ConnectionStatistic> {
        let at_place =
            record.captures.iter().filter(move |c| same_role(c.node, self.role) && c.vantage == self.vantage);
        at_place
            .filter_map(|capture| capture.tcp.as_ref())
            .flat_map(|tcp| &tcp.statistics)
            .filter(move |statistic| statistic.name == self.name && statistic.direction == self.direction)
    }
}

fn same_role(node: NodeId, role: Role) -> bool {
    node.role == role
}

/// A stored distribution. One whose values are all equal is stored as that value and their number.
fn distribution(statistic: &ConnectionStatistic) -> Sketch {
    match (&statistic.sketch, statistic.min) {
        (Some(bytes), _) => Sketch::from_bytes(bytes).expect("checked when it was read"),
        (None, Some(value)) => repeated(value, statistic.count),
        (None, None) => Sketch::default(),
    }
}

/// `count` times `value`, by doubling.
fn repeated(value: f64, mut count: u64) -> Sketch {
    let (mut all, mut power) = (Sketch::default(), Sketch::default());
    power.add(value);
    while count > 0 {
        if count & 1 == 1 {
            all.merge(&power);
        }
        count >>= 1;
        if count > 0 {
            power.merge(&power.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::records::sample;
    use crate::store::tests::records_tcp::statistic;
    use crate::store::{merge, write_iteration};

    #[test]
    fn a_value_repeated_is_what_adding_it_gives() {
        for count in [0, 1, 2, 127, 128, 129, 1000] {
            let mut added = Sketch::default();
            (0..count).for_each(|_| added.add(0.1));
            let found = repeated(0.1, count);
            assert_eq!((found.count(), found.min(), found.max()), (added.count(), added.min(), added.max()));
            assert_eq!(found.quantile(0.5), added.quantile(0.5), "{count}");
            assert!(found.mean().zip(added.mean()).is_none_or(|(x, y)| (x - y).abs() < 1e-15));
        }
    }

    #[test]
    fn quantiles_over_all_connections_of_a_campaign() {
        let dir = tempfile::tempdir().unwrap();
        let values = [vec![1.0; 3], vec![2.0, 3.0], (10..20).map(f64::from).collect()];
        let files = values.iter().zip(1..).map(|(values, n)| {
            let mut record = sample(n);
            let tcp = record.captures[0].tcp.as_mut().unwrap();
            tcp.statistics = vec![statistic(Direction::AToB, "RTT_avg", values)];
            write_iteration(dir.path(), &record).unwrap()
        });
        let files: Vec<_> = files.collect();
        let output = dir.path().join("merged.db");
        merge(&files, &output, &mut |_| ()).unwrap();
        let database = Database::open(&output).unwrap();
        let pool = Pool { name: "RTT_avg", direction: Direction::AToB, role: Role::Client, vantage: Vantage::Guest };
        let all = database.pooled(pool, &[Status::Complete], |_| true).unwrap();
        assert_eq!((all.count(), all.min(), all.max()), (15, Some(1.0), Some(19.0)));
        assert_eq!(all.quantile(0.5), Some(12.0));
        let some = database.pooled(pool, &[Status::Complete], |record| record.header.number.0 < 3).unwrap();
        assert_eq!((some.count(), some.quantile(0.5)), (5, Some(1.0)));
        let none = Pool { vantage: Vantage::Host, ..pool };
        assert_eq!(database.pooled(none, &[Status::Complete], |_| true).unwrap().count(), 0);
    }
}
