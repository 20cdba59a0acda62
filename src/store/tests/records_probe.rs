//! Path probes to write and read.

use super::records_tcp::delay;
use crate::record::{Probe, ProbeBin, ProbeClock, ProbeEnd, ProbePath, ProbeSchedule, ProbeWay};

fn path(sent: u64, lost: u64, delays: &[f64]) -> ProbePath {
    ProbePath {
        sent: Some(sent),
        received: Some(sent - lost),
        lost: Some(lost),
        late: Some(0),
        duplicated: Some(1),
        reordered: Some(2),
        delay: if delays.is_empty() { None } else { delay(delays) },
        ipdv: delay(&[0.0]),
        jitter: Some(1e-5),
    }
}

/// One of which all is known, and one of which little is.
pub(super) fn probes() -> Vec<Probe> {
    let end = ProbeEnd {
        dropped: 0,
        foreign: 3,
        errors: 0,
        sent_stamped_late: 1,
        received_stamped_late: 0,
        cpu_ns: Some(5_000_000),
        boot_id: "x".to_owned(),
        clock_source: Some("tsc".to_owned()),
        synchronised: Some(false),
        max_error_ns: None,
        estimated_error_ns: None,
        step_ns: 0,
    };
    let schedule =
        ProbeSchedule { slots: 12, missed: 1, late: 1, errors: 1, refused: 0, lateness: delay(&[1e-6, 2e-6]) };
    let bin = |way, bin| ProbeBin {
        way,
        bin,
        start_ns: u64::from(bin) * 100,
        sent: 5,
        received: 4,
        delay_mean: Some(0.5),
        delay_max: None,
    };
    let all = Probe {
        pair: 1,
        interval_ns: 10_000_000,
        size: 64,
        dscp: 46,
        timeout_ns: 1_000_000_000,
        started_ns: Some(-5),
        schedule: Some(schedule),
        clock: ProbeClock::Shared,
        clock_error_ns: Some(0),
        ends: [Some(end.clone()), Some(end)],
        paths: [path(10, 1, &[1e-3, 2e-3]), path(9, 0, &[1e-3]), path(10, 1, &[3e-3])],
        series: vec![bin(ProbeWay::RoundTrip, 0), bin(ProbeWay::ToServer, 0), bin(ProbeWay::ToServer, 1)],
    };
    let little = Probe {
        pair: 2,
        started_ns: None,
        schedule: None,
        clock: ProbeClock::Unsynchronised,
        clock_error_ns: None,
        ends: [None, None],
        paths: Default::default(),
        series: Vec::new(),
        ..all.clone()
    };
    vec![all, little]
}

#[test]
fn contradictions_are_refused() {
    let wrong = |change: fn(&mut Vec<Probe>)| {
        let mut record = super::records::sample(1);
        change(&mut record.probes);
        crate::store::check::check(&record).unwrap_err().to_string()
    };
    for (change, what) in [
        ((|all| all.swap(0, 1)) as fn(&mut Vec<Probe>), "order of their pairs"),
        (|all| all[0].pair = 0, "from 1"),
        (|all| all[0].clock = ProbeClock::Unsynchronised, "clocks that do not allow it"),
        (|all| all[0].paths[0].lost = Some(2), "10 sent, 9 received, 2 lost"),
        (|all| all[0].paths[2].received = None, "more delays than packets"),
        (|all| all[0].paths[1].jitter = Some(f64::NAN), "more delays than packets"),
        (|all| all[0].series.reverse(), "series"),
        (|all| all[0].series[0].received = 6, "series"),
        (|all| all[0].schedule.as_mut().unwrap().missed = 12, "missed more"),
        (|all| all[1].timeout_ns = u64::MAX, "2^63-1"),
        (|all| all[1].timeout_ns = 0, "sent nothing"),
        (|all| all[1].interval_ns = 0, "sent nothing"),
        (|all| all[0].size = 0, "sent nothing"),
        (|all| all[0].dscp = 64, "no DSCP"),
    ] {
        let found = wrong(change);
        assert!(found.contains(what), "{found}");
    }
}
