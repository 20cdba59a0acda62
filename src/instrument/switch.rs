//! Counters of a switch's ports, by SNMP (IF-MIB, RFC 2863), before and after the workload.
//!
//! Asked by net-snmp's `snmpget`: the SNMP libraries of Rust do version 3 with OpenSSL only, and whoever has a switch with version 3 has its
//! keys in a configuration of net-snmp's already.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use crate::ids::{Better, Level, NodeId};
use crate::node::local::blocking;
use crate::record::Metric;
use crate::text::printable;

/// Seconds until a question is asked again, and how often that is done.
const PATIENCE: [&str; 4] = ["-t", "1", "-r", "3"];
/// Ports in one question: six numbers of each fit a datagram.
const PORTS_AT_ONCE: usize = 8;
/// `sysUpTime.0`: begins anew with the switch, as its counters do.
const UPTIME: &str = ".1.3.6.1.2.1.1.3.0";

/// Columns of IF-MIB, by their names as metrics: object, unit, and what is better.
const COUNTERS: [(&str, &str, &str, Option<Better>); 6] = [
    ("switch.in_octets", ".1.3.6.1.2.1.31.1.1.1.6", "B", None),
    ("switch.out_octets", ".1.3.6.1.2.1.31.1.1.1.10", "B", None),
    ("switch.in_errors", ".1.3.6.1.2.1.2.2.1.14", "1", Some(Better::Lower)),
    ("switch.out_errors", ".1.3.6.1.2.1.2.2.1.20", "1", Some(Better::Lower)),
    ("switch.in_discards", ".1.3.6.1.2.1.2.2.1.13", "1", Some(Better::Lower)),
    ("switch.out_discards", ".1.3.6.1.2.1.2.2.1.19", "1", Some(Better::Lower)),
];

/// How a switch is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    /// As `snmpget` takes it: `10.0.0.254`, `udp:switch:161`.
    pub address: String,
    /// Who asks.
    pub access: Access,
    /// Ports by the node at their other end: `ifIndex`.
    pub ports: Vec<(NodeId, u32)>,
    /// How old the switch's counters may be: it copies them from its hardware from time to time.
    pub update: Duration,
}

/// What makes a switch answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// The community of version 2c.
    Community(String),
    /// A directory with a `snmp.conf` of net-snmp's that says version, user and keys.
    Config(PathBuf),
}

/// What a switch said at one time: numbers by object, and why there are none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Reading {
    numbers: BTreeMap<String, u64>,
    problem: Option<String>,
}

/// A switch that was read before the workload.
#[derive(Debug)]
pub struct Watching {
    switch: Switch,
    before: Reading,
}

impl Switch {
    /// Reads it now.
    pub async fn watch(self) -> Watching {
        let before = self.read().await;
        Watching { switch: self, before }
    }

    async fn read(&self) -> Reading {
        let mut all = Reading::default();
        for ports in self.ports.chunks(PORTS_AT_ONCE) {
            let objects = ports.iter().flat_map(|(_, port)| COUNTERS.map(|(_, column, ..)| format!("{column}.{port}")));
            let objects = [UPTIME.to_owned()].into_iter().chain(objects).collect();
            let this = self.clone();
            match blocking(move || Ok(this.ask(objects))).await {
                Ok(Ok(numbers)) => all.numbers.extend(numbers),
                Ok(Err(problem)) => all.problem = Some(problem),
                Err(error) => all.problem = Some(error.to_string()),
            }
        }
        all
    }

    fn ask(&self, objects: Vec<String>) -> Result<BTreeMap<String, u64>, String> {
        let failed = |error: std::io::Error| format!("cannot ask the switch {}: {error}", self.address);
        // Not in the arguments, which everybody on this host can read.
        let secret = tempfile::tempdir().map_err(failed)?;
        let config = match &self.access {
            Access::Community(community) => {
                let text = format!(
                    "defVersion 2c\ndefCommunity \"{}\"\n",
                    community.replace('\\', "\\\\").replace('"', "\\\"")
                );
                std::fs::write(secret.path().join("snmp.conf"), text).map_err(failed)?;
                secret.path()
            }
            Access::Config(path) => path.as_path(),
        };
        let output = Command::new("snmpget")
            .env("SNMPCONFPATH", config)
            .env("SNMP_PERSISTENT_DIR", secret.path())
            // No names are needed, and reading their files takes longer than the question.
            .env("MIBS", "")
            .args(PATIENCE)
            .args(["-Oqnt", "--", &self.address])
            .args(&objects)
            .output();
        let output = match output {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err("snmpget not found: apt-get install snmp".to_owned());
            }
            other => other.map_err(failed)?,
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            // Before it stands what net-snmp does to its own directories.
            let said = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
            return Err(format!("the switch {} cannot be read: {}", self.address, printable(said.trim(), 200)));
        }
        Ok(numbers(&String::from_utf8_lossy(&output.stdout)))
    }
}

/// `.1.3.6.1.2.1.2.2.1.14.7 0` for each object; one that the switch has not comes with words and is left out.
fn numbers(text: &str) -> BTreeMap<String, u64> {
    let number = |line: &str| {
        let (object, value) = line.split_once(' ')?;
        Some((object.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(number).collect()
}

impl Watching {
    /// Waits until the switch's counters have everything up to `ended`, reads them again and gives the differences: a value of
    /// `None` for what could not be read both times, or began anew. Also what is worth knowing, one line each.
    pub async fn finish(self, ended: Instant) -> (Vec<Metric>, Vec<String>) {
        tokio::time::sleep_until(ended + self.switch.update).await;
        let after = self.switch.read().await;
        let (metrics, missing) = differences(&self.switch.ports, &self.before, &after);
        let mut notes: Vec<String> = [&self.before, &after].into_iter().filter_map(|one| one.problem.clone()).collect();
        notes.dedup();
        if notes.is_empty() && missing > 0 {
            notes.push(format!("the switch {} has not said {missing} of its ports' counters", self.switch.address));
        }
        (metrics, notes)
    }
}

/// Metrics, and how many of them have no value.
fn differences(ports: &[(NodeId, u32)], before: &Reading, after: &Reading) -> (Vec<Metric>, usize) {
    let both = |object: &str| before.numbers.get(object).zip(after.numbers.get(object));
    let went_on = both(UPTIME).is_some_and(|(before, after)| before <= after);
    let mut metrics = Vec::new();
    for (node, port) in ports {
        for (name, column, unit, better) in COUNTERS {
            let grown = both(&format!("{column}.{port}")).filter(|_| went_on);
            // One of 32 bits that has come round looks as one that began anew, and is not guessed.
            let value = grown.and_then(|(before, after)| after.checked_sub(*before)).map(exact);
            metrics.push(Metric {
                pair: Some(node.pair),
                node: Some(*node),
                level: Level::Network,
                name: name.to_owned(),
                unit: unit.to_owned(),
                value,
                better,
            });
        }
    }
    let missing = metrics.iter().filter(|metric| metric.value.is_none()).count();
    (metrics, missing)
}

#[expect(clippy::cast_precision_loss, reason = "differences stay below 2^53")]
fn exact(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(text: &str) -> Reading {
        Reading { numbers: numbers(text), problem: None }
    }

    fn values(before: &str, after: &str) -> Vec<Option<f64>> {
        let (metrics, _) = differences(&[(NodeId::client(1), 7)], &reading(before), &reading(after));
        metrics.into_iter().map(|metric| metric.value).collect()
    }

    const BEFORE: &str = ".1.3.6.1.2.1.1.3.0 100\n.1.3.6.1.2.1.31.1.1.1.6.7 18446744073709551000\n\
        .1.3.6.1.2.1.31.1.1.1.10.7 5\n.1.3.6.1.2.1.2.2.1.14.7 3\n.1.3.6.1.2.1.2.2.1.20.7 No Such Instance currently exists at this OID\n\
        .1.3.6.1.2.1.2.2.1.13.7 9\n";

    #[test]
    fn counters_grow_by_their_differences_and_what_is_not_said_is_missing() {
        let after = BEFORE.replace("18446744073709551000", "18446744073709551600").replace("10.7 5", "10.7 25");
        let after = after.replace("13.7 9", "13.7 2");
        assert_eq!(values(BEFORE, &after), [Some(600.0), Some(20.0), Some(0.0), None, None, None]);
    }

    #[test]
    fn a_switch_that_was_restarted_or_did_not_answer_has_no_numbers() {
        assert_eq!(values(BEFORE, &BEFORE.replace("3.0 100", "3.0 99")), [None; 6]);
        assert_eq!(values(BEFORE, ""), [None; 6]);
        assert_eq!(values("", BEFORE), [None; 6]);
    }
}
