//! What the reports of the two processes say together. Pure: bytes in, a record out.

use std::time::Duration;

use super::account::{Account, Arrival, Known, account, seconds};
use super::report::{EndReport, Line, ReflectorReport, SenderReport, last};
use crate::flow::Sketch;
use crate::instrument::capture::delay;
use crate::record::{Probe, ProbeBin, ProbeClock, ProbeEnd, ProbePath, ProbeSchedule, ProbeWay, Problem, Weight};

/// A packet is late when it was sent this part of an interval after its time.
const LATE_PART: u64 = 10;
/// One-way delays are told when the clocks differ by no more than this part of the shortest round trip.
const ERROR_PART: u64 = 10;

/// So many packets without the kernel's time are usual, and one in so many.
const STAMPED_LATE: u64 = 10;
const STAMPED_LATE_PART: u64 = 100;

/// What the reports are to be read with.
#[derive(Debug, Clone)]
pub struct Session {
    /// Which pair, from 1.
    pub pair: u32,
    /// Time between two packets.
    pub interval: Duration,
    /// Payload in bytes.
    pub size: u32,
    /// Differentiated services code point.
    pub dscp: u8,
    /// When a packet counts as lost.
    pub timeout: Duration,
    /// Share of slots that may be missed or late before that casts doubt.
    pub max_late: f64,
    /// Do both processes run on vptest's own kernel? Equal boot ids alone prove nothing: a guest may be a copy.
    pub here: bool,
    /// Bins to tell apart, and how many rows they may have.
    pub series: Option<(Duration, usize)>,
}

/// What a process left.
#[derive(Debug, Clone, Copy)]
pub struct Left<'a> {
    /// Its standard output.
    pub output: &'a [u8],
    /// Its CPU time in nanoseconds, if known.
    pub cpu_ns: Option<u64>,
    /// How it ended, for messages.
    pub fate: &'a str,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// The record.
    pub probe: Probe,
    /// Why not to trust it as it stands.
    pub problems: Vec<Problem>,
    /// What else to know.
    pub notes: Vec<String>,
}

/// Reads both reports, and says what they mean.
pub fn evaluate(session: &Session, sender: Left<'_>, reflector: Left<'_>) -> Evaluated {
    let mut findings = Findings { pair: session.pair, problems: Vec::new(), notes: Vec::new() };
    let sent = match last(sender.output) {
        Some(Line::Sender(report)) if report.sound() => Some(*report),
        _ => findings.invalid(format!("its sender left no report: {}", sender.fate)),
    };
    let reflected = match last(reflector.output) {
        Some(Line::Reflector(report)) if report.sound() => Some(*report),
        _ => findings.invalid(format!("its reflector left no report: {}", reflector.fate)),
    };
    let mut probe = Probe {
        pair: session.pair,
        interval_ns: whole_ns(session.interval),
        size: session.size,
        dscp: session.dscp,
        timeout_ns: whole_ns(session.timeout),
        started_ns: sent.as_ref().and_then(|sent| sent.sent.0.first().copied()),
        schedule: sent.as_ref().map(|sent| schedule(session, sent)),
        clock: ProbeClock::Unsynchronised,
        clock_error_ns: None,
        ends: [
            sent.as_ref().map(|sent| end(&sent.end, sender.cpu_ns)),
            reflected.as_ref().map(|reflected| end(&reflected.end, reflector.cpu_ns)),
        ],
        paths: Default::default(),
        series: Vec::new(),
    };
    findings.of_ends(&probe);
    if let Some(sent) = &sent {
        findings.of_schedule(session, sent, probe.schedule.as_ref());
        Courses { session, sent, reflected: reflected.as_ref() }.tell(&mut probe, &mut findings);
    }
    findings.of_reports(sent.as_ref(), reflected.as_ref());
    findings.of_stamps(sent.as_ref(), reflected.as_ref());
    Evaluated { probe, problems: findings.problems, notes: findings.notes }
}

fn schedule(session: &Session, sent: &SenderReport) -> ProbeSchedule {
    let bound = whole_ns(session.interval) / LATE_PART;
    let mut lateness = Sketch::default();
    sent.late.iter().for_each(|&late| lateness.add(seconds(i64::try_from(late).unwrap_or(i64::MAX))));
    ProbeSchedule {
        slots: sent.slots,
        missed: sent.missed,
        late: sent.late.iter().filter(|&&late| late > bound).count() as u64,
        errors: sent.end.errors,
        refused: sent.refused,
        lateness: delay(&lateness),
    }
}

fn end(report: &EndReport, cpu_ns: Option<u64>) -> ProbeEnd {
    let clock = &report.clock;
    ProbeEnd {
        dropped: report.dropped,
        foreign: report.foreign,
        errors: report.errors,
        sent_stamped_late: report.sent_stamped_late,
        received_stamped_late: report.received_stamped_late,
        cpu_ns,
        boot_id: clock.boot_id.clone(),
        clock_source: clock.source.clone(),
        synchronised: clock.synchronised(),
        max_error_ns: clock.max_error_ns(),
        estimated_error_ns: clock.estimated_error_ns(),
        step_ns: clock.step_ns,
    }
}

/// Both reports, of which the sender's is there.
struct Courses<'a> {
    session: &'a Session,
    sent: &'a SenderReport,
    reflected: Option<&'a ReflectorReport>,
}

impl Courses<'_> {
    fn tell(&self, probe: &mut Probe, findings: &mut Findings) {
        let stepped = probe.ends.iter().flatten().any(|end| end.step_ns > 0);
        let round = self.round_trip(if stepped { Known::Nothing } else { Known::Delays });
        let (round, negative) =
            if round.negative > 0 { (self.round_trip(Known::Nothing), round.negative) } else { (round, 0) };
        let round_known = if stepped || negative > 0 { Known::Nothing } else { Known::Delays };
        if negative > 0 {
            findings.suspect(format!("{negative} answers arrived before their packets were sent, says the clock"));
        }
        (probe.clock, probe.clock_error_ns) = self.clock(probe, &round);
        let mut known = match probe.clock {
            _ if stepped => Known::Nothing,
            ProbeClock::Shared | ProbeClock::Synchronised => Known::Delays,
            ProbeClock::Unsynchronised => Known::Differences,
        };
        let mut ways = self.ways(known);
        let before = ways.iter().flatten().map(|way| way.negative).sum::<u64>();
        if known == Known::Delays && before > 0 {
            findings.suspect(format!("{before} packets arrived before they were sent: the clocks do not agree"));
            (probe.clock, known) = (ProbeClock::Unsynchronised, Known::Differences);
            ways = self.ways(known);
        }
        let [to_server, to_client] = ways;
        self.fill(probe, to_server.as_ref(), to_client.as_ref(), &round);
        findings.unknown(self.strangers());
        self.series(probe, &[(to_server, known), (to_client, known), (Some(round), round_known)], findings);
    }

    fn fill(&self, probe: &mut Probe, to_server: Option<&Account>, to_client: Option<&Account>, round: &Account) {
        let sent = self.sent.sent.0.len() as u64;
        let whole = |end: &EndReport| end.dropped == 0 && end.unlisted == 0;
        let here = whole(&self.sent.end);
        let there = self.reflected.is_some_and(|reflected| whole(&reflected.end));
        let answered_all = self.reflected.is_some_and(|reflected| reflected.unsent.is_empty());
        let answers = self.reflected.map(|r| (r.place.0.len() - r.unsent.len()) as u64);
        probe.paths = [
            path(Some(sent), to_server, there),
            path(answers, to_client, here),
            path(Some(sent), Some(round), here && there && answered_all),
        ];
    }

    fn timeout(&self) -> i64 {
        i64::try_from(self.session.timeout.as_nanos()).unwrap_or(i64::MAX)
    }

    fn round_trip(&self, known: Known) -> Account {
        let sent = &self.sent.sent.0;
        let arrivals: Vec<_> = self
            .answers()
            .filter_map(|answer| {
                let held = match self.reflected {
                    Some(reflected) => {
                        let (left, came) =
                            (reflected.sent.0.get(answer.number)?, reflected.received.0.get(answer.number)?);
                        left.saturating_sub(*came)
                    }
                    None => answer.held,
                };
                let took = answer.at_ns.saturating_sub(*sent.get(answer.place)?).saturating_sub(held);
                Some(Arrival { index: answer.place, delay_ns: took })
            })
            .collect();
        account(sent.len(), &arrivals, known, self.timeout())
    }

    /// To the server and to the client; nothing without the reflector's report.
    fn ways(&self, known: Known) -> [Option<Account>; 2] {
        let Some(reflected) = self.reflected else { return [None, None] };
        let sent = &self.sent.sent.0;
        let to_server: Vec<_> = reflected
            .place
            .0
            .iter()
            .zip(&reflected.received.0)
            .filter_map(|(&place, &at)| {
                let index = usize::try_from(place).ok()?;
                Some(Arrival { index, delay_ns: at.saturating_sub(*sent.get(index)?) })
            })
            .collect();
        let to_client: Vec<_> = self
            .answers()
            .filter_map(|answer| {
                let left = *reflected.sent.0.get(answer.number)?;
                Some(Arrival { index: answer.number, delay_ns: answer.at_ns.saturating_sub(left) })
            })
            .collect();
        let places = reflected.place.0.len();
        let account = |places, arrivals: &[_]| Some(account(places, arrivals, known, self.timeout()));
        [account(sent.len(), &to_server), account(places, &to_client)]
    }

    /// What arrived at the sender, and belongs to what is known to have been sent.
    fn answers(&self) -> impl Iterator<Item = Answer> {
        let list = &self.sent;
        (0..list.answered.0.len()).filter_map(|at| {
            let place = usize::try_from(list.answered.0[at]).ok()?;
            let number = usize::try_from(list.number.0[at]).ok()?;
            let answer = Answer { place, number, at_ns: list.received.0[at], held: list.held.0[at] };
            self.is_known(&answer).then_some(answer)
        })
    }

    fn is_known(&self, answer: &Answer) -> bool {
        let agrees = |reflected: &ReflectorReport| {
            reflected.place.0.get(answer.number).is_some_and(|&place| usize::try_from(place) == Ok(answer.place))
                && reflected.unsent.binary_search(&(answer.number as u64)).is_err()
        };
        answer.place < self.sent.sent.0.len() && self.reflected.is_none_or(agrees)
    }

    /// Arrivals of packets that nobody sent.
    fn strangers(&self) -> usize {
        let sent = self.sent.sent.0.len();
        let unknown = |&&place: &&i64| usize::try_from(place).map_or(true, |place| place >= sent);
        let at_server = self.reflected.map_or(0, |reflected| reflected.place.0.iter().filter(unknown).count());
        at_server + self.sent.answered.0.len() - self.answers().count()
    }

    /// How the two clocks stand to each other, and the bound of their difference.
    fn clock(&self, probe: &Probe, round: &Account) -> (ProbeClock, Option<u64>) {
        let [Some(client), Some(server)] = &probe.ends else { return (ProbeClock::Unsynchronised, None) };
        if self.session.here && client.boot_id == server.boot_id {
            return (ProbeClock::Shared, Some(0));
        }
        let error = client.max_error_ns.zip(server.max_error_ns).map(|(one, other)| one.saturating_add(other));
        let shortest = round.first.iter().flatten().min().and_then(|&ns| u64::try_from(ns).ok());
        let close = error.zip(shortest).is_some_and(|(error, rtt)| error.saturating_mul(ERROR_PART) <= rtt);
        (if close { ProbeClock::Synchronised } else { ProbeClock::Unsynchronised }, error)
    }

    fn series(&self, probe: &mut Probe, accounts: &[(Option<Account>, Known); 3], findings: &mut Findings) {
        let Some((width, most)) = self.session.series else { return };
        let (Some(&first), Some(&last)) = (self.sent.sent.0.first(), self.sent.sent.0.iter().max()) else { return };
        let width = whole_ns(width).max(1);
        let bins = usize::try_from(last.abs_diff(first) / width).map_or(usize::MAX, |bins| bins.saturating_add(1));
        if bins.saturating_mul(3) > most {
            findings
                .notes
                .push(format!("the series of the probe of pair {} would be too long: {bins} bins", self.session.pair));
            return;
        }
        for way in ProbeWay::BY_NAME {
            let (Some(account), known) = &accounts[way.index()] else { continue };
            // It would say of each bin what is not known of the whole.
            if probe.paths[way.index()].lost.is_none() {
                let (pair, way) = (self.session.pair, way.as_str());
                findings.notes.push(format!("the probe of pair {pair} has no series {way}: losses are not known"));
                continue;
            }
            let mut sums = vec![Bin::default(); bins];
            for (index, delay) in account.first.iter().enumerate() {
                let Some(sent) = self.sent_at(way, index) else { continue };
                let at = usize::try_from(sent.abs_diff(first) / width).ok();
                let Some(bin) = at.filter(|_| sent >= first).and_then(|at| sums.get_mut(at)) else { continue };
                bin.add(*delay);
            }
            probe.series.extend((0_u32..).zip(&sums).map(|(number, bin)| bin.row(way, number, width, *known)));
        }
    }

    /// When the sender sent the packet, or the one that it answers.
    fn sent_at(&self, way: ProbeWay, index: usize) -> Option<i64> {
        let place = match (way, self.reflected) {
            (ProbeWay::ToClient, Some(reflected)) => {
                reflected.unsent.binary_search(&(index as u64)).err()?;
                usize::try_from(*reflected.place.0.get(index)?).ok()?
            }
            _ => index,
        };
        self.sent.sent.0.get(place).copied()
    }
}

/// An answer as the sender saw it.
struct Answer {
    place: usize,
    number: usize,
    at_ns: i64,
    held: i64,
}

#[derive(Clone, Default)]
struct Bin {
    sent: u64,
    delays: Sketch,
}

impl Bin {
    fn add(&mut self, delay: Option<i64>) {
        self.sent += 1;
        if let Some(delay) = delay {
            self.delays.add(seconds(delay));
        }
    }

    fn row(&self, way: ProbeWay, bin: u32, width: u64, known: Known) -> ProbeBin {
        let told = |value: Option<f64>| value.filter(|_| known == Known::Delays);
        ProbeBin {
            way,
            bin,
            start_ns: width.saturating_mul(bin.into()),
            sent: self.sent,
            received: self.delays.count(),
            delay_mean: told(self.delays.mean()),
            delay_max: told(self.delays.max()),
        }
    }
}

/// `whole`: is it known of every packet that arrived?
fn path(sent: Option<u64>, account: Option<&Account>, whole: bool) -> ProbePath {
    let Some(account) = account else { return ProbePath { sent, ..ProbePath::default() } };
    let known = |value| Some(value).filter(|_| whole);
    ProbePath {
        sent,
        received: Some(account.received),
        lost: sent.and_then(|sent| sent.checked_sub(account.received)).filter(|_| whole),
        late: account.late.filter(|_| whole),
        duplicated: known(account.duplicated),
        reordered: known(account.reordered),
        delay: delay(&account.delay),
        ipdv: delay(&account.ipdv),
        jitter: account.jitter,
    }
}

/// What is found on the way.
struct Findings {
    pair: u32,
    problems: Vec<Problem>,
    notes: Vec<String>,
}

impl Findings {
    fn add(&mut self, weight: Weight, text: &str) {
        self.problems.push(Problem { weight, text: format!("the path probe of pair {}: {text}", self.pair) });
    }

    fn suspect(&mut self, text: String) {
        self.add(Weight::Suspect, &text);
    }

    fn invalid<T>(&mut self, text: String) -> Option<T> {
        self.add(Weight::Invalid, &text);
        None
    }

    fn unknown(&mut self, strangers: usize) {
        if strangers > 0 {
            self.suspect(format!("{strangers} packets arrived that nobody sent"));
        }
    }

    fn of_ends(&mut self, probe: &Probe) {
        for (end, name) in probe.ends.iter().zip(["sender", "reflector"]) {
            let Some(end) = end else { continue };
            if end.dropped > 0 {
                self.suspect(format!(
                    "the {name} had no room for {} packets, so that losses are not known",
                    end.dropped
                ));
            }
            if end.step_ns > 0 {
                let step = seconds(i64::try_from(end.step_ns).unwrap_or(i64::MAX));
                self.suspect(format!(
                    "the clock of the {name} was set by {step} s meanwhile, so that there are no delays"
                ));
            }
        }
    }

    fn of_reports(&mut self, sent: Option<&SenderReport>, reflected: Option<&ReflectorReport>) {
        let ends = [(sent.map(|r| &r.end), "sender"), (reflected.map(|r| &r.end), "reflector")];
        for (end, name) in ends {
            let Some(end) = end else { continue };
            if end.errors > 0 {
                let why = end.last_error.as_deref().unwrap_or("no reason given");
                self.suspect(format!("the {name} could not send {} packets: {why}", end.errors));
            }
            if end.unlisted > 0 {
                self.suspect(format!("{} packets arrived at the {name} beyond its limit", end.unlisted));
            }
        }
    }

    /// The processes' own times hold their waits for a processor; how many delays do?
    fn of_stamps(&mut self, sent: Option<&SenderReport>, reflected: Option<&ReflectorReport>) {
        let sender = sent.map(|report| ("sender", &report.end, report.sent.0.len(), report.answered.0.len()));
        let reflector = reflected
            .map(|report| ("reflector", &report.end, report.place.0.len() - report.unsent.len(), report.place.0.len()));
        for (name, end, sent, received) in sender.into_iter().chain(reflector) {
            let stamps =
                [(end.sent_stamped_late, sent, "were sent by"), (end.received_stamped_late, received, "arrived at")];
            for (late, packets, what) in stamps {
                if late > STAMPED_LATE && late.saturating_mul(STAMPED_LATE_PART) > packets as u64 {
                    self.suspect(format!(
                        "of {packets} packets that {what} the {name}, {late} have no time of the kernel, but the process's"
                    ));
                }
            }
        }
    }

    fn of_schedule(&mut self, session: &Session, sent: &SenderReport, schedule: Option<&ProbeSchedule>) {
        if sent.sent.0.is_empty() {
            let why = sent.end.last_error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
            self.invalid::<()>(format!("it sent nothing{why}"));
        }
        if sent.refused > 0 {
            self.suspect(format!("nobody listened where the reflector was, {} times", sent.refused));
        }
        if sent.limited {
            self.suspect(format!("it ended before the clients, after {} packets", sent.sent.0.len()));
        }
        let Some(schedule) = schedule else { return };
        if real(schedule.missed.saturating_add(schedule.late)) > session.max_late * real(schedule.slots) {
            self.suspect(format!(
                "of {} packets {} were not sent for want of a processor, and {} more than a tenth of the interval late",
                schedule.slots, schedule.missed, schedule.late
            ));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
const fn real(n: u64) -> f64 {
    n as f64
}

fn whole_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
