//! What sentinels say, as a table and as remarks.

use super::number::{Column, escape};
use super::sheet::{Item, Sheet};
use super::verdicts::doubt_text;
use crate::analysis::sentinels::{HostWatch, Watch};
use crate::analysis::trust::Doubt;

/// A metric whose sentinels were looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Watched {
    /// Its name as shown.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// Of each tuple that was run as a sentinel.
    pub watches: Vec<Watch>,
}

/// A line for each metric and host.
pub fn sheet(watched: &[Watched], level: f64, mut notes: Vec<String>) -> Sheet {
    let titles = [
        ("metric", "metric"),
        ("tuple", "tuple"),
        ("host", "host"),
        ("n", "n"),
        ("mean", "mean"),
        ("sd_percent", "sd (%)"),
        ("drift_percent", "drift (%)"),
        ("drift_p", "p"),
        ("jumps", "jumps before iteration"),
        ("dependence", "lag 1"),
        ("hosts_p", "p hosts"),
    ];
    let columns = titles.map(|(name, title)| (name.to_owned(), title.to_owned())).to_vec();
    let mut rows = Vec::new();
    for one in watched {
        for watch in &one.watches {
            rows.extend(watch.hosts.iter().map(|host| row(one, watch, host)));
        }
    }
    let mut all = vec![format!(
        "Sentinels are one tuple, run again and again between all other iterations; they count in no contrast. Drift is the change from the \
         first to the last (Mann–Kendall, Theil–Sen), p hosts tells whether the hosts have one mean (Welch); shown where p is at most {level:.2e}."
    )];
    all.extend(remarks(watched, level));
    all.append(&mut notes);
    Sheet { columns, rows, notes: all }
}

fn row(one: &Watched, watch: &Watch, host: &HostWatch) -> Vec<Item> {
    let (mean, sd) = (host.summary.mean, host.summary.sd);
    let column = Column::of(&one.unit, std::iter::once((mean, sd)));
    let share = |x: f64| mean.filter(|&mean| mean != 0.0).map(|mean| 100.0 * x / mean.abs());
    let find = |pick: fn(&Doubt) -> Option<(f64, f64)>| host.doubts.iter().find_map(pick);
    let drift = find(|doubt| match doubt {
        Doubt::Drift { change, p } => Some((*change, *p)),
        _ => None,
    });
    let dependence = find(|doubt| match doubt {
        Doubt::Dependence { lag1, p } => Some((*lag1, *p)),
        _ => None,
    });
    vec![
        Item::Text(one.metric.clone()),
        Item::Text(watch.tuple.to_string()),
        Item::Text(host.host.clone()),
        Item::Count(host.summary.n),
        Item::Number(mean, format!("{} {}", column.show(mean), escape(column.unit()))),
        Item::number(sd.and_then(share), 2),
        Item::number(drift.and_then(|(change, _)| share(change)), 2),
        Item::p(drift.map(|(_, p)| p)),
        Item::Text(jumps(host).join(" ")),
        Item::number(dependence.map(|(lag1, _)| lag1), 2),
        Item::p(watch.hosts_p),
    ]
}

/// Numbers of the first iterations after jumps.
fn jumps(host: &HostWatch) -> Vec<String> {
    let at = |doubt: &Doubt| match doubt {
        Doubt::Jump { at, .. } => host.number_at(*at).map(|number| number.to_string()),
        _ => None,
    };
    host.doubts.iter().filter_map(at).collect()
}

/// One line for each doubt that sentinels raise about their host.
pub fn remarks(watched: &[Watched], level: f64) -> Vec<String> {
    let mut found = Vec::new();
    for one in watched {
        for watch in &one.watches {
            for host in &watch.hosts {
                found.extend(host.doubts.iter().filter_map(|doubt| remark(one, host, doubt)));
            }
            if let Some(p) = watch.hosts_p.filter(|&p| p <= level) {
                let column = Column::of(&one.unit, watch.hosts.iter().map(|h| (h.summary.mean, h.summary.sd)));
                let mean = |host: &HostWatch| format!("{} {}", host.host, column.show(host.summary.mean));
                let means: Vec<String> = watch.hosts.iter().map(mean).collect();
                found.push(format!(
                    "Sentinels: {} is not the same on all hosts ({}; means in {}: {}).",
                    one.metric,
                    if p < 0.0001 { "p < 0.0001".to_owned() } else { format!("p = {p:.4}") },
                    column.unit(),
                    means.join(", ")
                ));
            }
        }
    }
    found
}

/// `None` for what says nothing about the host's course: values far out, several humps.
fn remark(one: &Watched, host: &HostWatch, doubt: &Doubt) -> Option<String> {
    let p = |p: f64| if p < 0.0001 { "p < 0.0001".to_owned() } else { format!("p = {p:.4}") };
    let column = Column::of(&one.unit, std::iter::once((host.summary.mean, host.summary.sd)));
    let amount = |x: f64| match host.summary.mean.filter(|mean| *mean > 0.0) {
        Some(mean) => format!("{:+.2} % of the mean", 100.0 * x / mean),
        None => format!("{} {}", column.show(Some(x)), column.unit()),
    };
    let text = match doubt {
        Doubt::Jump { at, p: level } => {
            let number = host.number_at(*at).map_or_else(|| "?".to_owned(), |number| number.to_string());
            format!("the level changed before iteration {number} (Pettitt {})", p(*level))
        }
        Doubt::Drift { .. } | Doubt::Dependence { .. } => doubt_text(doubt, &amount),
        _ => return None,
    };
    Some(format!("Sentinels: {} on {}: {text}.", one.metric, host.host))
}
