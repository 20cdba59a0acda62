//! Reports as nodes hand them over, whole, broken and hostile.

use super::*;
use crate::instrument::probe::clock::{ClockFacts, KernelState};
use crate::instrument::probe::report::Steps;

const MS: i64 = 1_000_000;
/// The wall clock of the sender, some day.
const EPOCH: i64 = 1_700_000_000_000_000_000;

fn session(here: bool) -> Session {
    Session {
        pair: 1,
        interval: Duration::from_millis(10),
        size: 64,
        dscp: 0,
        timeout: Duration::from_secs(1),
        max_late: 0.05,
        here,
        series: None,
    }
}

fn end_of(boot_id: &str, state: Option<(bool, u64)>) -> EndReport {
    let state =
        state.map(|(synchronised, max_error_ns)| KernelState { synchronised, max_error_ns, estimated_error_ns: 1 });
    EndReport {
        dropped: 0,
        foreign: 0,
        errors: 0,
        last_error: None,
        unlisted: 0,
        sent_stamped_late: 0,
        received_stamped_late: 0,
        clock: ClockFacts {
            boot_id: boot_id.to_owned(),
            source: Some("tsc".to_owned()),
            before: state,
            after: state,
            step_ns: 0,
        },
    }
}

/// Packets every 10 ms, 2 ms there, 1 ms at the reflector, 3 ms back; the reflector's clock is ahead by `ahead`.
fn course(packets: i64, ahead: i64) -> (SenderReport, ReflectorReport) {
    let at = |offset: i64| Steps((0..packets).map(|k| EPOCH + k * 10 * MS + offset).collect());
    let sender = SenderReport {
        slots: packets.unsigned_abs(),
        missed: 0,
        refused: 0,
        limited: false,
        sent: at(0),
        late: vec![1000; usize::try_from(packets).unwrap()],
        answered: Steps((0..packets).collect()),
        number: Steps((0..packets).collect()),
        received: at(6 * MS),
        held: Steps(vec![MS; usize::try_from(packets).unwrap()]),
        end: end_of("a", None),
    };
    let reflector = ReflectorReport {
        place: Steps((0..packets).collect()),
        received: at(2 * MS + ahead),
        sent: at(3 * MS + ahead),
        unsent: Vec::new(),
        end: end_of("a", None),
    };
    (sender, reflector)
}

fn line(line: &Line) -> Vec<u8> {
    let mut text = b"{\"ready\":{\"port\":5}}\n".to_vec();
    serde_json::to_writer(&mut text, line).unwrap();
    text.push(b'\n');
    text
}

fn told(session: &Session, sender: &SenderReport, reflector: Option<&ReflectorReport>) -> Evaluated {
    let sender = line(&Line::Sender(Box::new(sender.clone())));
    let reflector = reflector.map_or_else(Vec::new, |report| line(&Line::Reflector(Box::new(report.clone()))));
    let left = |output, fate| Left { output, cpu_ns: Some(7), fate };
    evaluate(session, left(&sender, "exit status 0"), left(&reflector, "signal 9"))
}

fn texts(evaluated: &Evaluated) -> String {
    evaluated.problems.iter().map(|p| format!("{:?}: {}\n", p.weight, p.text)).collect()
}

/// Spoils one number of a report.
type Spoil<T> = fn(&mut T);

#[test]
fn numbers_beyond_what_the_store_holds_are_no_report() {
    let beyond = KernelState { synchronised: true, max_error_ns: u64::MAX / 2, estimated_error_ns: 1 };
    let (sender, reflector) = course(3, 0);
    assert_eq!(texts(&told(&session(true), &sender, Some(&reflector))), "");
    let spoils: [Spoil<SenderReport>; 8] = [
        |sender| sender.slots = u64::MAX,
        |sender| (sender.slots, sender.missed) = (u64::MAX, u64::MAX),
        |sender| (sender.slots, sender.missed) = (2, u64::MAX),
        |sender| (sender.slots, sender.end.errors) = (1 << 63, (1 << 63) - 3),
        |sender| sender.refused = 1 << 63,
        |sender| sender.end.dropped = u64::MAX,
        |sender| sender.end.unlisted = u64::MAX,
        |sender| sender.end.clock.step_ns = u64::MAX,
    ];
    for (at, spoil) in spoils.into_iter().enumerate() {
        let mut spoilt = sender.clone();
        spoil(&mut spoilt);
        let found = texts(&told(&session(true), &spoilt, Some(&reflector)));
        assert!(found.contains("its sender left no report"), "{at}: {found}");
    }
    let spoils: [Spoil<ReflectorReport>; 4] = [
        |reflector| reflector.end.dropped = 1 << 63,
        |reflector| reflector.end.foreign = u64::MAX,
        |reflector| reflector.end.sent_stamped_late = u64::MAX,
        |reflector| reflector.end.received_stamped_late = u64::MAX,
    ];
    for (at, spoil) in spoils.into_iter().enumerate() {
        let mut spoilt = reflector.clone();
        spoil(&mut spoilt);
        let found = texts(&told(&session(true), &sender, Some(&spoilt)));
        assert!(found.contains("its reflector left no report"), "{at}: {found}");
    }
    let mut spoilt = reflector.clone();
    spoilt.end.clock.after = Some(beyond);
    let found = texts(&told(&session(true), &sender, Some(&spoilt)));
    assert!(found.contains("its reflector left no report"), "{found}");
}

fn mean(delay: Option<&crate::record::Delay>) -> f64 {
    (delay.unwrap().mean * 1e9).round()
}

#[test]
fn one_clock_gives_all_delays() {
    let (sender, reflector) = course(100, 0);
    let all = told(&session(true), &sender, Some(&reflector));
    assert!(all.problems.is_empty(), "{}", texts(&all));
    let probe = all.probe;
    assert_eq!((probe.clock, probe.clock_error_ns), (ProbeClock::Shared, Some(0)));
    assert_eq!(probe.started_ns, Some(EPOCH));
    for (path, delay) in probe.paths.iter().zip([2e6, 3e6, 5e6]) {
        assert_eq!(mean(path.delay.as_ref()), delay);
        let counts = [path.sent, path.received, path.lost, path.late, path.duplicated, path.reordered];
        assert_eq!(counts, [Some(100), Some(100), Some(0), Some(0), Some(0), Some(0)]);
        assert_eq!((path.jitter, path.ipdv.as_ref().unwrap().count), (Some(0.0), 99));
    }
    assert_eq!(probe.schedule.unwrap().late, 0);
}

#[test]
fn two_clocks_give_no_one_way_delays_unless_they_are_close() {
    let (sender, mut reflector) = course(100, 900 * MS);
    // Equal boot ids of nodes elsewhere prove nothing, a guest may be a copy of another.
    for boot_id in ["a", "b"] {
        reflector.end = end_of(boot_id, None);
        let all = told(&session(false), &sender, Some(&reflector));
        assert!(all.problems.is_empty(), "{}", texts(&all));
        assert_eq!((all.probe.clock, all.probe.clock_error_ns), (ProbeClock::Unsynchronised, None));
        let [to_server, to_client, round] = &all.probe.paths;
        for path in [to_server, to_client] {
            assert_eq!((path.delay.as_ref(), path.late, path.lost), (None, None, Some(0)));
            assert_eq!(path.jitter, Some(0.0), "differences need no common clock");
        }
        assert_eq!(mean(round.delay.as_ref()), 5e6);
    }
    let (mut sender, mut reflector) = course(100, 0);
    for (states, clock, error) in [
        ([(true, 200_000), (true, 300_000)], ProbeClock::Synchronised, Some(500_000)),
        // More than a tenth of the round trip.
        ([(true, 200_000), (true, 300_001)], ProbeClock::Unsynchronised, Some(500_001)),
        ([(true, 1000), (false, 1000)], ProbeClock::Unsynchronised, None),
    ] {
        sender.end = end_of("a", Some(states[0]));
        reflector.end = end_of("b", Some(states[1]));
        let probe = told(&session(false), &sender, Some(&reflector)).probe;
        assert_eq!((probe.clock, probe.clock_error_ns), (clock, error));
        assert_eq!(probe.paths[0].delay.is_some(), clock == ProbeClock::Synchronised);
    }
}

#[test]
fn a_clock_that_lies_is_caught() {
    // Said to be within 10 µs, and 4 ms behind: packets arrive before they were sent.
    let (mut sender, mut reflector) = course(100, -4 * MS);
    sender.end = end_of("a", Some((true, 5000)));
    reflector.end = end_of("b", Some((true, 5000)));
    let all = told(&session(false), &sender, Some(&reflector));
    assert!(texts(&all).contains("Suspect: the path probe of pair 1: 100 packets arrived before they were sent"));
    assert_eq!((all.probe.clock, all.probe.paths[0].delay.as_ref()), (ProbeClock::Unsynchronised, None));
}

#[test]
fn a_clock_that_was_set_gives_no_delays_at_all() {
    let (sender, mut reflector) = course(100, 0);
    reflector.end.clock.step_ns = 5;
    let all = told(&session(true), &sender, Some(&reflector));
    assert!(texts(&all).contains("was set by"), "{}", texts(&all));
    for path in &all.probe.paths {
        assert_eq!((path.delay.as_ref(), path.ipdv.as_ref(), path.jitter, path.late), (None, None, None, None));
        assert_eq!(path.lost, Some(0), "losses need no clock");
    }
}

#[test]
fn a_process_without_a_report_leaves_no_zeros() {
    let (sender, reflector) = course(100, 0);
    let all = told(&session(true), &sender, None);
    assert!(texts(&all).contains("Invalid: the path probe of pair 1: its reflector left no report: signal 9"));
    let [to_server, to_client, round] = &all.probe.paths;
    assert_eq!((to_server.sent, to_server.received, to_server.lost), (Some(100), None, None));
    assert_eq!(to_client, &ProbePath::default());
    assert_eq!((round.received, round.lost), (Some(100), None));
    assert_eq!(mean(round.delay.as_ref()), 5e6, "without what the answers say was spent at the reflector");
    assert_eq!(all.probe.clock, ProbeClock::Unsynchronised);

    let reflector = line(&Line::Reflector(Box::new(reflector)));
    let left = |output, fate| Left { output, cpu_ns: None, fate };
    let all = evaluate(&session(true), left(b"{\"ready\":{\"port\":1}}\n", "signal 11"), left(&reflector, ""));
    assert!(texts(&all).contains("Invalid: the path probe of pair 1: its sender left no report: signal 11"));
    assert_eq!((all.probe.schedule, all.probe.paths), (None, Default::default()));
}

#[test]
fn what_was_lost_here_is_not_lost_on_the_path() {
    let (mut sender, mut reflector) = course(100, 0);
    sender.end.dropped = 3;
    let all = told(&session(true), &sender, Some(&reflector));
    assert!(texts(&all).contains("Suspect: the path probe of pair 1: the sender had no room for 3 packets"));
    let lost = |e: &Evaluated| [0, 1, 2].map(|at: usize| e.probe.paths[at].lost);
    assert_eq!(lost(&all), [Some(0), None, None]);
    (sender.end.dropped, reflector.end.dropped) = (0, 1);
    assert_eq!(lost(&told(&session(true), &sender, Some(&reflector))), [None, Some(0), None]);
    reflector.end.dropped = 0;
    // The last answer could not be sent.
    for list in [&mut sender.answered, &mut sender.number, &mut sender.received, &mut sender.held] {
        list.0.pop();
    }
    (reflector.unsent, reflector.end.errors) = (vec![99], 1);
    let all = told(&session(true), &sender, Some(&reflector));
    assert_eq!((lost(&all), all.probe.paths[1].sent), ([Some(0), Some(0), None], Some(99)));
    assert!(texts(&all).contains("the reflector could not send 1 packets"));
}

#[test]
fn a_sender_without_a_processor_is_told() {
    let (mut sender, reflector) = course(100, 0);
    (sender.slots, sender.missed) = (104, 4);
    sender.late[7] = 1_000_001;
    let all = told(&session(true), &sender, Some(&reflector));
    assert!(all.problems.is_empty(), "5 of 104: {}", texts(&all));
    sender.late[8] = 9_000_000;
    let all = told(&session(true), &sender, Some(&reflector));
    assert!(texts(&all).contains("of 104 packets 4 were not sent for want of a processor, and 2 more"));
    let schedule = all.probe.schedule.unwrap();
    assert_eq!((schedule.missed, schedule.late, schedule.slots), (4, 2, 104));
    let nothing = SenderReport { slots: 1, missed: 1, ..course(0, 0).0 };
    assert!(
        texts(&told(&session(true), &nothing, Some(&course(0, 0).1)))
            .contains("Invalid: the path probe of pair 1: it sent nothing")
    );
}

#[test]
fn hostile_reports_are_refused_or_counted() {
    let (sender, reflector) = course(10, 0);
    for broken in [
        SenderReport { slots: 11, ..sender.clone() },
        SenderReport { late: vec![1], ..sender.clone() },
        SenderReport { number: Steps(vec![1]), ..sender.clone() },
        SenderReport { missed: u64::MAX, ..sender.clone() },
    ] {
        assert!(texts(&told(&session(true), &broken, Some(&reflector))).contains("its sender left no report"));
    }
    let broken = ReflectorReport { unsent: vec![10], ..reflector.clone() };
    assert!(texts(&told(&session(true), &sender, Some(&broken))).contains("its reflector left no report"));
    // Places and times that cannot be.
    let mut odd = reflector.clone();
    (odd.place.0[3], odd.place.0[4]) = (i64::MAX, -1);
    (odd.received.0[5], odd.sent.0[6]) = (i64::MIN, i64::MAX);
    let all = told(&session(true), &sender, Some(&odd));
    assert!(texts(&all).contains("4 packets arrived that nobody sent"), "{}", texts(&all));
    assert_eq!(all.probe.paths[0].received, Some(8));
    for output in [&b"{\"sender\":{}}\n"[..], b"[]\n", b"\n", b"{\"sender\":", &[0xff; 9]] {
        let left = Left { output, cpu_ns: None, fate: "x" };
        assert_eq!(evaluate(&session(true), left, left).problems.len(), 2);
    }
}

#[test]
fn a_series_has_every_packet_once() {
    let (mut sender, mut reflector) = course(100, 0);
    // The eleventh packet is lost on its way there.
    for list in [&mut reflector.place, &mut reflector.received, &mut reflector.sent] {
        list.0.remove(10);
    }
    for list in [&mut sender.answered, &mut sender.received, &mut sender.held] {
        list.0.remove(10);
    }
    sender.number.0.pop();
    let wanted = Session { series: Some((Duration::from_millis(100), 1000)), ..session(true) };
    let all = told(&wanted, &sender, Some(&reflector));
    assert_eq!(all.probe.series.len(), 30);
    let sum = |way, of: fn(&ProbeBin) -> u64| all.probe.series.iter().filter(|bin| bin.way == way).map(of).sum::<u64>();
    for (way, sent, received) in
        [(ProbeWay::ToServer, 100, 99), (ProbeWay::ToClient, 99, 99), (ProbeWay::RoundTrip, 100, 99)]
    {
        assert_eq!((sum(way, |bin| bin.sent), sum(way, |bin| bin.received)), (sent, received), "{way:?}");
    }
    let second = all.probe.series.iter().find(|bin| bin.way == ProbeWay::ToServer && bin.bin == 1).unwrap();
    assert_eq!((second.sent, second.received, second.start_ns), (10, 9, 100_000_000));
    assert_eq!(second.delay_max.map(|s| (s * 1e9).round()), Some(2e6));
    let short = Session { series: Some((Duration::from_millis(100), 29)), ..session(true) };
    let all = told(&short, &sender, Some(&reflector));
    assert!(all.probe.series.is_empty() && all.notes[0].contains("too long"));
}

#[test]
fn times_of_processes_are_told_when_they_are_many() {
    for (packets, late, expected) in [(100, 10, false), (100, 11, true), (2000, 20, false), (2000, 21, true)] {
        let spoils: [fn(&mut EndReport, u64); 2] =
            [|end, late| end.sent_stamped_late = late, |end, late| end.received_stamped_late = late];
        for spoil in spoils {
            let (mut sender, mut reflector) = course(packets, 0);
            spoil(&mut sender.end, late);
            let found = texts(&told(&session(true), &sender, Some(&reflector)));
            assert_eq!(found.contains("the sender, "), expected, "{found}");
            assert_eq!(found.contains(&format!("of {packets} packets")), expected, "{found}");
            spoil(&mut sender.end, 0);
            spoil(&mut reflector.end, late);
            let found = texts(&told(&session(true), &sender, Some(&reflector)));
            assert_eq!(found.contains("the reflector, "), expected, "{found}");
        }
    }
}

#[test]
fn a_way_with_unknown_losses_has_no_series() {
    let (mut sender, reflector) = course(100, 0);
    sender.end.dropped = 3;
    let wanted = Session { series: Some((Duration::from_millis(100), 1000)), ..session(true) };
    let all = told(&wanted, &sender, Some(&reflector));
    assert!(all.probe.series.iter().all(|bin| bin.way == ProbeWay::ToServer));
    assert_eq!((all.probe.series.len(), all.notes.len()), (10, 2), "{:?}", all.notes);
}
