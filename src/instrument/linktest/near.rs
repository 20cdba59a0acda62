//! The client's end: one test of one kind.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::far::{Account, BUFFER, Seen};
use super::meter::Meter;
use super::packet::{Head, Kind, body};
use super::socket::{Arrival, Socket, lost_on_the_way};
use super::train::{self, OVERHEAD, Plan};
use super::{Found, Loss, Rate, Reach};

/// Tries until the server counts as not reachable, and how long each waits.
const TRIES: u32 = 20;
const PATIENCE: Duration = Duration::from_millis(250);
/// Datagrams for loss and delay, and the least time between them.
const ECHOES: u32 = 100;
const ECHO_GAP: Duration = Duration::from_millis(5);
const ECHO_BYTES: usize = 100;
/// A link so slow that echoes would be further apart is not tested: all of them together would take too long.
const LONGEST_GAP: Duration = Duration::from_millis(350);
/// How long the last answers may take at least, and how many echoes may wait before them.
const LAST: Duration = Duration::from_secs(1);
const WAITING: u32 = 32;
/// After this much silence a train has ended.
const SILENCE: Duration = Duration::from_millis(500);
/// A train may take this long until its first packet is through, and twice that beyond what the link should take for it.
const FIRST: Duration = Duration::from_secs(5);

/// What to test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// Connectivity and hops.
    Reach,
    /// Loss and delay of a link that should carry so many bits per second; `None` without a limit.
    Loss(Option<u64>),
    /// The rate from here to the server; without a train it stays unknown.
    RateThere(Option<Plan>),
    /// The rate from the server to here.
    RateBack(Option<Plan>),
}

/// One test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Where the server's end listens.
    pub server: SocketAddr,
    /// The same as the server's.
    pub token: u64,
    /// Another number for each test against the same server.
    pub run: u32,
    /// What to test.
    pub test: Test,
}

/// Makes the test. Takes at most some ten seconds, whatever the link does, and less than a minute where it should be slow.
///
/// # Errors
/// The socket fails. A link that carries nothing is no error but a finding.
pub fn probe(probe: &Probe) -> io::Result<Found> {
    let socket = Socket::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))?;
    let mut near = Near { socket, probe: *probe, buffer: vec![0; BUFFER] };
    match probe.test {
        Test::Reach => near.reach().map(Found::Reach),
        Test::Loss(rate) => near.loss(rate).map(Found::Loss),
        Test::RateThere(Some(plan)) => near.there(plan).map(Found::Rate),
        Test::RateBack(Some(plan)) => near.back(plan).map(Found::Rate),
        Test::RateThere(None) | Test::RateBack(None) => Ok(Found::Rate(Rate::default())),
    }
}

struct Near {
    socket: Socket,
    probe: Probe,
    buffer: Vec<u8>,
}

impl Near {
    fn head(&self, kind: Kind, sequence: u32) -> Head {
        Head { token: self.probe.token, kind, run: self.probe.run, sequence }
    }

    /// A datagram that is lost on the way is none that cannot be sent.
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self.socket.send(bytes, self.probe.server) {
            Err(error) if !lost_on_the_way(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The next datagram of this run and kind until `deadline`.
    fn receive(&mut self, kind: Kind, deadline: Instant) -> io::Result<Option<(Head, Arrival)>> {
        while let Some(arrival) = self.socket.receive(&mut self.buffer, deadline)? {
            let head = Head::read(&self.buffer[..arrival.length], self.probe.token);
            let wanted = head
                .filter(|head| head.kind == kind && head.run == self.probe.run && arrival.from == self.probe.server);
            if let Some(head) = wanted {
                return Ok(Some((head, arrival)));
            }
            // Whatever else comes in a stream does not make it wait longer.
            if Instant::now() >= deadline {
                break;
            }
        }
        Ok(None)
    }

    fn reach(&mut self) -> io::Result<Reach> {
        for tries in 1..=TRIES {
            self.send(&self.head(Kind::Echo, tries).padded(ECHO_BYTES))?;
            if let Some((_, arrival)) = self.receive(Kind::Answer, Instant::now() + PATIENCE)? {
                let seen = body::<Seen>(&self.buffer[..arrival.length]);
                let hops_there = seen.and_then(|seen| seen.hops);
                return Ok(Reach { tries, answered: true, hops_there, hops_back: arrival.hops });
            }
        }
        Ok(Reach { tries: TRIES, answered: false, hops_there: None, hops_back: None })
    }

    fn loss(&mut self, rate: Option<u64>) -> io::Result<Loss> {
        let Some(gap) = echo_gap(rate) else { return Ok(Loss::default()) };
        let mut sent = Vec::with_capacity(ECHOES as usize);
        let mut times: Vec<Option<Duration>> = vec![None; ECHOES as usize];
        for sequence in 0..ECHOES {
            let now = Instant::now();
            sent.push(now);
            self.send(&self.head(Kind::Echo, sequence).padded(ECHO_BYTES))?;
            // Not made up for when it is late: echoes in a row would fill queues.
            self.answers(&sent, &mut times, now + gap)?;
        }
        self.answers(&sent, &mut times, Instant::now() + LAST.max(gap * WAITING))?;
        let arrived = self.account(Duration::ZERO)?.map(|account| account.echoes);
        let mut rtts: Vec<f64> = times.into_iter().flatten().map(|time| time.as_secs_f64()).collect();
        rtts.sort_unstable_by(f64::total_cmp);
        Ok(Loss {
            sent: ECHOES,
            arrived,
            answered: u32::try_from(rtts.len()).unwrap_or(ECHOES),
            rtt_min: rtts.first().copied(),
            rtt_median: rtts.get(rtts.len() / 2).copied(),
            rtt_max: rtts.last().copied(),
        })
    }

    /// Notes the answers that come until `deadline`, or until none is missing. A second answer to the same is none.
    fn answers(&mut self, sent: &[Instant], times: &mut [Option<Duration>], deadline: Instant) -> io::Result<()> {
        while times.iter().any(Option::is_none) {
            let Some((head, _)) = self.receive(Kind::Answer, deadline)? else { return Ok(()) };
            let place = head.sequence as usize;
            if let (Some(time @ None), Some(begun)) = (times.get_mut(place), sent.get(place)) {
                *time = Some(begun.elapsed());
            }
        }
        Ok(())
    }

    fn there(&mut self, plan: Plan) -> io::Result<Rate> {
        let Probe { server, token, run, .. } = self.probe;
        let offered = train::send(&self.socket, server, token, run, plan)?;
        // What still waits in queues, up to a third of it, arrives before the question does.
        let account = self.account(plan.takes() / 2)?;
        Ok(account.map_or(Rate { offered, ..Rate::default() }, |account| Rate { offered, ..account.came }))
    }

    fn back(&mut self, plan: Plan) -> io::Result<Rate> {
        let mut meter = Meter::default();
        let overflow = self.socket.overflow();
        let request = self.head(Kind::Send, 0).with(&plan);
        let begun = Instant::now();
        let mut patience = PATIENCE;
        self.send(&request)?;
        while begun.elapsed() < FIRST * 2 + plan.takes() {
            match self.receive(Kind::Train, Instant::now() + patience)? {
                Some((_, arrival)) => {
                    patience = SILENCE;
                    let wire = u32::try_from(arrival.length).unwrap_or(u32::MAX).saturating_add(OVERHEAD);
                    arrival.at_ns.into_iter().for_each(|at_ns| meter.add(at_ns, wire));
                }
                None if patience == SILENCE || begun.elapsed() > FIRST => break,
                None => self.send(&request)?,
            }
        }
        let offered = self.account(Duration::ZERO)?.and_then(|account| account.offered);
        Ok(meter.rate(offered, u64::from(self.socket.overflow().wrapping_sub(overflow))))
    }

    /// Asks the server what came, also while queues need so long to empty; `None` when it does not answer.
    fn account(&mut self, queues: Duration) -> io::Result<Option<Account>> {
        let (begun, mut tries) = (Instant::now(), 0);
        while begun.elapsed() < PATIENCE * TRIES + queues {
            tries += 1;
            self.send(&self.head(Kind::Ask, tries).padded(0))?;
            if let Some((_, arrival)) = self.receive(Kind::Account, Instant::now() + PATIENCE)? {
                return Ok(body(&self.buffer[..arrival.length]));
            }
        }
        Ok(None)
    }
}

/// Time between two echoes, which take four fifths of a link of that rate (bit/s) at most; `None` when it is too slow for
/// them.
fn echo_gap(rate: Option<u64>) -> Option<Duration> {
    let bits = (ECHO_BYTES as u64 + u64::from(OVERHEAD)) * 8;
    let needed = rate.map(|rate| Duration::from_nanos(bits * 1_250_000_000 / rate.max(1)));
    let gap = needed.map_or(ECHO_GAP, |needed| needed.max(ECHO_GAP));
    (gap <= LONGEST_GAP).then_some(gap)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends on the loopback interface, which loses nothing and has no routers.
    fn found(test: Test) -> Found {
        let (tell, told) = std::sync::mpsc::channel();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = std::thread::spawn(move || {
            super::super::serve(address, 5, Duration::from_secs(1), move |address| tell.send(address).unwrap())
        });
        let found = probe(&Probe { server: told.recv().unwrap(), token: 5, run: 1, test }).unwrap();
        server.join().unwrap().unwrap();
        found
    }

    #[test]
    fn loopback_has_no_hops_and_no_loss() {
        let Found::Reach(reach) = found(Test::Reach) else { panic!("another test") };
        assert_eq!((reach.answered, reach.hops_there, reach.hops_back), (true, Some(0), Some(0)));
        let Found::Loss(loss) = found(Test::Loss(None)) else { panic!("another test") };
        assert_eq!((loss.sent, loss.arrived, loss.answered), (ECHOES, Some(ECHOES), ECHOES));
        assert!(loss.rtt_min <= loss.rtt_median && loss.rtt_median <= loss.rtt_max, "{loss:?}");
    }

    #[test]
    fn echoes_leave_a_slow_link_the_time_for_them() {
        for (rate, expected) in [
            (None, Some(ECHO_GAP)),
            (Some(1_000_000_000), Some(ECHO_GAP)),
            (Some(284_000), Some(ECHO_GAP)),
            (Some(100_000), Some(Duration::from_micros(14_200))),
            (Some(8_000), Some(Duration::from_micros(177_500))),
            (Some(4_000), None),
            (Some(0), None),
        ] {
            assert_eq!(echo_gap(rate), expected, "{rate:?}");
        }
    }

    #[test]
    fn a_link_too_slow_for_echoes_has_no_loss() {
        let Found::Loss(loss) = found(Test::Loss(Some(1_000))) else { panic!("another test") };
        assert_eq!(loss, Loss::default());
    }

    #[test]
    fn a_train_comes_as_fast_as_it_was_sent() {
        let plan = Plan { payload: 1000, packets: 500, pace: Some(40_000_000) };
        for test in [Test::RateThere(Some(plan)), Test::RateBack(Some(plan))] {
            let Found::Rate(rate) = found(test) else { panic!("another test") };
            assert_eq!((rate.packets, rate.overflow), (500, 0));
            // A busy host sends slower than it was told to, and never much faster.
            assert!(rate.received.is_some() && rate.offered.is_some_and(|offered| offered < 80e6), "{rate:?}");
        }
    }

    #[test]
    fn without_a_train_there_is_no_rate() {
        let Found::Rate(rate) = found(Test::RateBack(None)) else { panic!("another test") };
        assert_eq!(rate, Rate::default());
    }

    #[test]
    fn nobody_there_is_a_finding() {
        let server = SocketAddr::from(([127, 0, 0, 1], 9));
        let Found::Reach(reach) = probe(&Probe { server, token: 5, run: 1, test: Test::Reach }).unwrap() else {
            panic!("another test")
        };
        assert!(!reach.answered && reach.hops_there.is_none() && reach.hops_back.is_none());
    }
}
