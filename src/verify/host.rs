//! Was the host quiet while the workload ran?

use super::{Verdict, percent, reaches};
use crate::ids::NodeId;
use crate::record::HostUse;
use crate::spec::VerifySpec;

/// CPU time that cannot be told from the kernel's counting in ticks of 10 ms: over a very short workload one tick would
/// look like a large share.
const RESOLUTION_SECONDS: f64 = 0.05;

/// Load of others, stolen time, swapping and throttling; any of them makes the iteration suspect.
///
/// `node` is the node that is the host; `None` for the host vptest runs on.
pub fn host(node: Option<NodeId>, used: &HostUse, thresholds: &VerifySpec) -> Verdict {
    let name = &node.map_or_else(|| "host".to_owned(), |node| node.to_string());
    let mut verdict = Verdict::new();
    // This host always answers; a node that did not may have been anything but quiet.
    let is_asked = thresholds.foreign_cpu.is_some() || thresholds.steal.is_some();
    if node.is_some() && is_asked && used.cpu.is_none() && used.foreign.is_none() {
        verdict.suspect(format!("{name}: nobody knows whether it was quiet: its load could not be read"));
    }
    foreign(name, used, thresholds, &mut verdict);
    steal(name, used, thresholds, &mut verdict);
    let swap = [
        ("swap-in", used.swap_in, "pages were read from swap"),
        ("swap-out", used.swap_out, "pages were written to swap"),
    ];
    let throttling = [
        ("thermal throttling", used.thermal_throttles, "thermal throttling events"),
        ("cgroup throttling", used.cgroup_throttles, "periods in which the CPU quota of vptest's cgroup was used up"),
    ];
    for (enabled, checks) in [(thresholds.swap, swap), (thresholds.throttling, throttling)] {
        for (check, count, what) in checks {
            none(name, (enabled, check), count, what, &mut verdict);
        }
    }
    verdict
}

/// The host of a node that cannot be asked: it may have been anything but quiet.
pub fn unwatched(node: NodeId, thresholds: &VerifySpec) -> Verdict {
    let mut verdict = Verdict::new();
    if thresholds.foreign_cpu.is_some() || thresholds.steal.is_some() {
        verdict.suspect(format!("{node}: nobody knows whether its host was quiet: that cannot be asked from here"));
    }
    verdict
}

/// A counter that should not have moved.
fn none(host: &str, (enabled, name): (bool, &str), count: Option<u64>, what: &str, verdict: &mut Verdict) {
    match count {
        _ if !enabled => verdict.off(name),
        None => verdict.unknown(format!("{name}: no counter on {}", place(host))),
        Some(0) => verdict.passed(format!("{name}: none")),
        Some(count) => verdict.suspect(format!("{host}: {count} {what} during the workload")),
    }
}

/// In a sentence.
fn place(host: &str) -> &str {
    if host == "host" { "this host" } else { host }
}

fn foreign(host: &str, used: &HostUse, thresholds: &VerifySpec, verdict: &mut Verdict) {
    let Some(threshold) = thresholds.foreign_cpu else { return verdict.off("foreign CPU") };
    let share =
        used.foreign.as_ref().and_then(|foreign| Some((foreign.seconds, used.cpus(foreign.seconds)?, &foreign.top)));
    let Some((seconds, share, top)) = share else {
        return verdict.unknown("foreign CPU: other processes could not be read");
    };
    let most = top.as_ref().and_then(|top| {
        Some(format!("; most by {} (process {}) with {}", top.name, top.pid, percent(used.cpus(top.seconds)?)))
    });
    let text = format!(
        "{host}: other processes used {} of a CPU (threshold {threshold}){}",
        percent(share),
        most.unwrap_or_default()
    );
    if seconds >= RESOLUTION_SECONDS && reaches(share, threshold) {
        verdict.suspect(text);
    } else {
        verdict.passed(text);
    }
}

fn steal(host: &str, used: &HostUse, thresholds: &VerifySpec, verdict: &mut Verdict) {
    let Some(threshold) = thresholds.steal else { return verdict.off("steal") };
    let Some(cpu) = used.cpu.filter(|cpu| cpu.total() > 0.0) else {
        return verdict.unknown("steal: CPU time could not be read");
    };
    let share = cpu.steal / cpu.total();
    let text = format!("{host}: the hypervisor took {} of the CPU time (threshold {threshold})", percent(share));
    if cpu.steal >= RESOLUTION_SECONDS && reaches(share, threshold) {
        verdict.suspect(text);
    } else {
        verdict.passed(text);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::record::{CpuTime, EventLevel, ForeignUse, TopProcess};

    fn quiet() -> HostUse {
        let cpu =
            CpuTime { user: 4.0, nice: 0.0, system: 2.0, idle: 14.0, iowait: 0.0, irq: 0.0, softirq: 0.0, steal: 0.0 };
        HostUse {
            wall: Duration::from_secs(10),
            cpu: Some(cpu),
            swap_in: Some(0),
            swap_out: Some(0),
            thermal_throttles: Some(0),
            cgroup_throttles: Some(0),
            load: Some(1.0),
            foreign: Some(ForeignUse { seconds: 0.0, top: None }),
        }
    }

    #[test]
    fn a_node_whose_load_is_not_known_is_not_taken_for_quiet() {
        let node = Some(NodeId::client(1));
        let thresholds = VerifySpec::default();
        let said = host(node, &HostUse::unread(), &thresholds).suspect;
        assert_eq!(said, ["client1: nobody knows whether it was quiet: its load could not be read"]);
        assert!(host(node, &quiet(), &thresholds).suspect.is_empty());
        let off = VerifySpec { foreign_cpu: None, steal: None, ..thresholds };
        assert!(host(node, &HostUse::unread(), &off).suspect.is_empty(), "nobody asked");
    }

    fn check(used: &HostUse, expected: &[&str]) {
        assert_eq!(host(None, used, &VerifySpec::default()).suspect, expected);
        let off =
            VerifySpec { foreign_cpu: None, steal: None, swap: false, throttling: false, ..VerifySpec::default() };
        let verdict = host(None, used, &off);
        assert!(verdict.suspect.is_empty() && verdict.invalid.is_empty());
        assert_eq!(verdict.events.iter().filter(|note| note.text.ends_with("check switched off")).count(), 6);
    }

    #[test]
    fn a_quiet_host_passes() {
        check(&quiet(), &[]);
        assert!(host(None, &quiet(), &VerifySpec::default()).events.iter().all(|note| note.level == EventLevel::Info));
    }

    #[test]
    fn foreign_load_names_the_top_process() {
        let foreign = |seconds| {
            let top = TopProcess { pid: 7, name: "make".to_owned(), seconds: seconds / 2.0 };
            HostUse { foreign: Some(ForeignUse { seconds, top: Some(top) }), ..quiet() }
        };
        check(&foreign(1.99), &[]);
        let text = "host: other processes used 20.0 % of a CPU (threshold 20 %); most by make (process 7) with 10.0 %";
        check(&foreign(2.0), &[text]);
    }

    #[test]
    fn a_tick_or_two_in_a_short_workload_is_no_load() {
        let foreign = |seconds| HostUse {
            wall: Duration::from_millis(20),
            foreign: Some(ForeignUse { seconds, top: None }),
            ..quiet()
        };
        check(&foreign(0.04), &[]);
        check(&foreign(0.05), &["host: other processes used 250.0 % of a CPU (threshold 20 %)"]);
    }

    #[test]
    fn steal_is_a_share_of_all_time() {
        let stolen = |steal: f64| {
            let cpu = quiet().cpu.map(|cpu| CpuTime { steal, idle: cpu.idle - steal, ..cpu });
            HostUse { cpu, ..quiet() }
        };
        check(&stolen(0.39), &[]);
        check(&stolen(0.4), &["host: the hypervisor took 2.0 % of the CPU time (threshold 2 %)"]);
    }

    #[test]
    fn any_swapping_or_throttling_counts() {
        check(&HostUse { swap_in: Some(1), ..quiet() }, &["host: 1 pages were read from swap during the workload"]);
        check(&HostUse { swap_out: Some(2), ..quiet() }, &["host: 2 pages were written to swap during the workload"]);
        let thermal = HostUse { thermal_throttles: Some(3), ..quiet() };
        check(&thermal, &["host: 3 thermal throttling events during the workload"]);
        let quota = HostUse { cgroup_throttles: Some(4), ..quiet() };
        check(&quota, &["host: 4 periods in which the CPU quota of vptest's cgroup was used up during the workload"]);
    }

    #[test]
    fn a_host_that_is_a_node_goes_by_its_name() {
        let used = HostUse { swap_in: Some(1), thermal_throttles: None, ..quiet() };
        let verdict = host(Some(NodeId::server(2)), &used, &VerifySpec::default());
        assert_eq!(verdict.suspect, ["server2: 1 pages were read from swap during the workload"]);
        assert!(verdict.events.iter().any(|note| note.text == "thermal throttling: no counter on server2"));
    }

    #[test]
    fn missing_counters_warn_and_do_not_pass() {
        let blind = HostUse {
            cpu: None,
            swap_in: None,
            swap_out: None,
            thermal_throttles: None,
            cgroup_throttles: None,
            load: None,
            foreign: None,
            ..quiet()
        };
        check(&blind, &[]);
        let verdict = host(None, &blind, &VerifySpec::default());
        assert_eq!(verdict.events.len(), 6);
        assert!(verdict.events.iter().all(|note| note.level == EventLevel::Warn));
    }
}
