//! The connection engine: packets in, connections with their statistics out.

use std::collections::BTreeMap;

use crate::packet::{LinkDecoder, LinkType, Segment, Time};

use super::connection::{Connection, Way};
use super::ledger::gap;
use super::table::{Live, Place, Slot, Table, Where};

/// Bytes of a record that are looked at.
const MAX_FRAME: usize = 65_535;
/// Silence after which the same endpoints make a new connection.
const MAX_SILENCE: u64 = 240_000_000;

/// How an [`Engine`] works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// In which order connections are handed out.
    pub order: Order,
    /// Most connections kept live. Beyond it the ones silent for longest are ended early, and counted in
    /// [`Totals::ended_early`].
    pub max_live: usize,
    /// From so many live connections on, those silent for longer than 240 s are released. They could come back only in a
    /// capture whose clock jumps backwards.
    pub release_above: usize,
    /// From so many connections on, live or waiting for others to be handed out before them, those that have ended (RST, or
    /// FIN from both sides) and were silent for a tenth of a second are packed, and so are those that wait: less than half
    /// the room, for more time. A late packet still finds them.
    pub park_above: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { order: Order::Creation, max_live: 2_000_000, release_above: 20_000, park_above: 1 << 17 }
    }
}

/// In which order connections are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// In order of first packets, as tcptrace has it. Finished ones wait, packed, for the ones before them.
    Creation,
    /// Whichever is final.
    Final,
}

/// What an [`Engine`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Records, of any kind.
    pub records: u64,
    /// Bytes they had on the wire.
    pub wire_bytes: u64,
    /// TCP packets that belong to a connection.
    pub tcp_packets: u64,
    /// Records of a link type that is not supported.
    pub unsupported: u64,
    /// One of their link types.
    pub unsupported_link: Option<LinkType>,
    /// Connections.
    pub connections: u64,
    /// Connections ended early because there were too many live ones.
    pub ended_early: u64,
    /// Time of the first record; the epoch without any.
    pub first: Time,
    /// Time of the last record; the epoch without any.
    pub last: Time,
}

/// Takes finished connections.
pub trait Sink {
    /// A connection nothing will change any more.
    fn connection(&mut self, connection: &Connection);
}

impl<F: FnMut(&Connection)> Sink for F {
    fn connection(&mut self, connection: &Connection) {
        self(connection);
    }
}

/// A TCP packet's place in its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traced {
    /// Number of the connection, from 1.
    pub connection: u64,
    /// Which way it goes.
    pub way: Way,
    /// When the connection's previous packet was captured, whichever way it went; `None` for the first.
    pub previous: Option<Time>,
    /// Were octets sent and not acknowledged before this packet, in either direction?
    pub outstanding: bool,
}

/// A connection that waits for an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Number of the connection, from 1.
    pub connection: u64,
    /// Its last packet.
    pub since: Time,
}

/// Computes the statistics of all TCP connections of one capture.
///
/// Memory is bounded by the number of live connections; see [`Options`].
#[derive(Debug)]
pub struct Engine<S> {
    options: Options,
    sink: S,
    table: Table,
    link: LinkDecoder,
    totals: Totals,
    /// Final connections that wait for earlier ones, and ended ones that wait for the end of the capture, packed.
    waiting: BTreeMap<u64, Box<[u8]>>,
    /// Number of the next connection to hand out, in order of creation.
    next: u64,
    sweep: Sweep,
    parking: Sweep,
}

/// When to look for connections to release or to park.
#[derive(Debug, Default)]
struct Sweep {
    packets: u64,
    due: i64,
}

impl<S: Sink> Engine<S> {
    /// An engine that has seen nothing.
    pub fn new(options: Options, sink: S) -> Self {
        Self {
            options,
            sink,
            table: Table::new(),
            link: LinkDecoder::default(),
            totals: Totals::default(),
            waiting: BTreeMap::new(),
            next: 1,
            sweep: Sweep::default(),
            parking: Sweep::default(),
        }
    }

    /// Takes one captured frame: when it was captured, its bytes on the wire, the bytes kept and what they begin with.
    #[inline]
    pub fn packet(&mut self, at: Time, wire_len: u32, data: &[u8], link: LinkType) {
        let mut segment = Segment::default();
        self.observe(at, wire_len, data, link, &mut segment);
    }

    /// As [`Self::packet`]; a TCP packet is also decoded into `segment`, and its place in its connection given.
    #[inline]
    pub fn observe(
        &mut self,
        at: Time,
        wire_len: u32,
        data: &[u8],
        link: LinkType,
        segment: &mut Segment,
    ) -> Option<Traced> {
        self.totals.records += 1;
        self.totals.wire_bytes += u64::from(wire_len);
        self.totals.last = at;
        if self.totals.records == 1 {
            self.totals.first = at;
        }
        let data = &data[..data.len().min(MAX_FRAME)];
        let Some(ip) = self.link.ip(link, data) else {
            self.note_unsupported(link);
            return None;
        };
        segment.read(ip)?;
        self.totals.tcp_packets += 1;
        Some(self.segment(at, segment))
    }

    #[cold]
    fn note_unsupported(&mut self, link: LinkType) {
        if !link.is_supported() {
            self.totals.unsupported += 1;
            self.totals.unsupported_link = Some(link);
        }
    }

    #[inline]
    fn segment(&mut self, at: Time, segment: &Segment) -> Traced {
        let now = at.micros();
        let hash = self.table.hash(segment);
        let found = self.table.find(hash, segment).or_else(|| self.table.wake(hash, segment));
        let (slot, way) = match found {
            Some((slot, way)) if !self.starts_anew(slot, way, now, segment) => (slot, way),
            other => (self.begin(hash, other.map(|(slot, _)| slot), at, segment), Way::AToB),
        };
        let live = self.table.get_mut(slot);
        let previous = (live.sides[0].stats.packets | live.sides[1].stats.packets > 0).then_some(live.last);
        if live.first.micros() == 0 {
            live.first = at;
        }
        live.last = at;
        let connection = live.number;
        let (side, peer) = live.sides_mut(way);
        let outstanding = side.has_outstanding(peer) | peer.has_outstanding(side);
        side.send(peer, now, segment);
        Traced { connection, way, previous, outstanding }
    }

    #[inline]
    fn starts_anew(&self, slot: Slot, way: Way, now: i64, segment: &Segment) -> bool {
        let live = self.table.get(slot);
        if gap(live.last.micros(), now) > MAX_SILENCE {
            return true;
        }
        segment.flags.syn() && {
            let peer = &live.sides[way.reversed().index()];
            live.sides[way.index()].starts_anew(peer, segment)
        }
    }

    fn begin(&mut self, hash: u32, retired: Option<Slot>, at: Time, segment: &Segment) -> Slot {
        if let Some(slot) = retired {
            self.retire(slot);
        }
        self.make_room(at.micros());
        self.totals.connections += 1;
        self.table.insert(hash, self.totals.connections, segment)
    }

    /// No packet can reach this connection any more, another one has its ends. If it has to wait for others it does so where
    /// it is as long as there are few.
    fn retire(&mut self, slot: Slot) {
        let is_next = self.table.get(slot).number == self.next;
        if self.options.order == Order::Creation && !is_next && self.table.occupied() < self.options.park_above {
            self.table.retire(slot);
        } else {
            self.release(slot);
        }
    }

    /// Takes a connection out of the table: no packet can reach it any more.
    fn release(&mut self, slot: Slot) {
        let connection = self.table.remove(slot);
        self.hand_out(connection);
    }

    fn hand_out(&mut self, mut connection: Connection) {
        let number = connection.number;
        let is_final = connection.has_ended();
        if is_final && (self.options.order == Order::Final || number == self.next) {
            self.sink.connection(&connection);
            self.next += u64::from(number == self.next);
        } else {
            self.waiting.insert(number, connection.pack());
        }
    }

    /// Releases what has been silent for too long, if there is much of it to look for, and ends connections early where
    /// the limit would be passed. Amortised, each packet pays a constant.
    #[inline]
    fn make_room(&mut self, now: i64) {
        if self.table.occupied() >= self.options.park_above {
            self.park(now);
        }
        if self.table.len() < self.options.release_above.min(self.options.max_live) {
            return;
        }
        let rested = self.totals.tcp_packets - self.sweep.packets >= self.table.len() as u64;
        if (rested && now >= self.sweep.due) || self.table.len() >= self.options.max_live {
            self.sweep(now);
        }
    }

    /// Packs what has ended and rests, and what is retired, if there may be enough of it.
    fn park(&mut self, now: i64) {
        const REST: u64 = 100_000;
        let packets = self.totals.tcp_packets;
        if packets - self.parking.packets < self.table.occupied() as u64 || now < self.parking.due {
            return;
        }
        let resting = |live: &Live| live.has_ended() && gap(live.last.micros(), now) >= REST;
        let ended: Vec<Slot> = self.table.slots().filter(|(_, live)| resting(live)).map(|(slot, _)| slot).collect();
        for slot in ended {
            self.table.park(slot);
        }
        let retired: Vec<Slot> = self.table.retired().collect();
        for slot in retired {
            let connection = self.table.remove_retired(slot);
            self.hand_out(connection);
        }
        self.parking = Sweep { packets, due: now.saturating_add(REST.cast_signed()) };
    }

    #[cold]
    fn sweep(&mut self, now: i64) {
        const PERIOD: i64 = 30_000_000;
        let silent = |last: Time| gap(last.micros(), now);
        let old: Vec<Slot> =
            self.table.slots().filter(|(_, live)| silent(live.last) > MAX_SILENCE).map(|(slot, _)| slot).collect();
        for slot in old {
            self.release(slot);
        }
        let old: Vec<Place> =
            self.table.parked().filter(|&(_, _, last)| silent(last) > MAX_SILENCE).map(|(place, _, _)| place).collect();
        for place in old {
            let connection = self.table.remove_parked(place);
            self.hand_out(connection);
        }
        if self.table.len() >= self.options.max_live {
            self.end_early();
        }
        self.sweep = Sweep { packets: self.totals.tcp_packets, due: now.saturating_add(PERIOD) };
    }

    /// Ends an eighth of the connections, those silent for longest.
    fn end_early(&mut self) {
        let live = self.table.slots().map(|(slot, live)| (live.last, live.number, Where::Live(slot)));
        let parked = self.table.parked().map(|(place, number, last)| (last, number, Where::Parked(place)));
        let mut all: Vec<(Time, u64, Where)> = live.chain(parked).collect();
        let count = (all.len() / 8).max(1);
        all.select_nth_unstable_by_key(count - 1, |&(last, number, _)| (last, number));
        for &(_, _, place) in &all[..count] {
            let connection = self.table.remove_from(place);
            self.hand_out(connection);
        }
        self.totals.ended_early += count as u64;
    }

    /// Connections that may still see packets, packed ones included.
    pub const fn live(&self) -> usize {
        self.table.len()
    }

    /// Live connections that have not ended and have octets outstanding, in order of their numbers.
    pub fn waiting(&self) -> Vec<Waiting> {
        let open = self.table.slots().filter(|(_, live)| !live.has_ended() && live.has_outstanding());
        let mut waiting: Vec<Waiting> =
            open.map(|(_, live)| Waiting { connection: live.number, since: live.last }).collect();
        waiting.sort_unstable_by_key(|waiting| waiting.connection);
        waiting
    }

    /// What was seen so far.
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The capture is over: hands out every connection not handed out before, and gives the sink back.
    pub fn finish(mut self) -> (Totals, S) {
        let last = self.totals.last;
        let sink = &mut self.sink;
        let mut hand_out = |connection: &mut Connection| {
            connection.close(last);
            sink.connection(connection);
        };
        let mut drain = self.table.drain();
        for (number, packed) in self.waiting {
            while drain.peek().is_some_and(|other| other < number) {
                drain.next(&mut hand_out);
            }
            hand_out(&mut Connection::unpack(&packed));
        }
        while drain.next(&mut hand_out).is_some() {}
        (self.totals, self.sink)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::flow::{Direction, STATISTICS, Value};
    use crate::packet::{Endpoint, Flags};

    const S: u8 = 0x02;
    const A: u8 = 0x10;
    const SA: u8 = 0x12;
    const PA: u8 = 0x18;
    const FA: u8 = 0x11;
    const R: u8 = 0x04;

    /// Time in ms, direction, flags, sequence number, acknowledgement number, payload.
    type Line = (i64, Way, u8, u32, u32, i32);

    fn segment(&(_, way, flags, seq, ack, payload): &Line) -> Segment {
        let end = |n, port| Endpoint::v4(Ipv4Addr::new(10, 0, 0, n), port);
        let (a, b) = (end(1, 40000), end(2, 80));
        let (source, destination) = if way == AToB { (a, b) } else { (b, a) };
        let flags = Flags(flags);
        Segment { source, destination, seq, ack, flags, payload, window: 8192, ip_id: Some(0), ..Segment::default() }
    }

    fn run_with(options: Options, script: &[Line]) -> (Totals, Vec<Connection>) {
        let mut ended = Vec::new();
        let mut engine = Engine::new(options, |connection: &Connection| ended.push(connection.clone()));
        for line in script {
            let at = Time::from_micros(1_700_000_000_000_000 + line.0 * 1000);
            engine.totals.tcp_packets += 1;
            engine.totals.last = at;
            engine.segment(at, &segment(line));
        }
        let (totals, _sink) = engine.finish();
        (totals, ended)
    }

    #[test]
    fn what_was_packed_goes_on_as_if_it_had_not_been() {
        let closing = [
            (30, AToB, PA, 1001, 5001, 100),
            (40, BToA, FA, 5001, 1101, 0),
            (41, AToB, FA, 1101, 5002, 0),
            (42, BToA, A, 5002, 1102, 0),
        ];
        // Another connection begins, and packets of the first one come late: a resend, its acknowledgement, a new SYN.
        let late = [
            (500, AToB, PA, 1001, 5002, 100),
            (510, BToA, A, 5002, 1102, 0),
            (520, BToA, A, 5002, 1102, 0),
            (700, AToB, S, 900, 0, 0),
        ];
        let other = |millis| {
            let b = Endpoint::v4(Ipv4Addr::new(10, 0, 0, 9), 80);
            (millis, Segment { destination: b, ..segment(&(0, AToB, S, 7, 0, 0)) })
        };
        let run = |park_above| {
            let mut ended = Vec::new();
            let options = Options { park_above, ..Options::default() };
            let mut engine = Engine::new(options, |connection: &Connection| ended.push(connection.clone()));
            let first = HANDSHAKE.iter().chain(&closing).map(|line| (line.0, segment(line)));
            let packets = first.chain([other(400)]).chain(late.iter().map(|line| (line.0, segment(line))));
            let mut packed = 0;
            for (millis, segment) in packets {
                engine.totals.tcp_packets += 1;
                engine.segment(Time::from_micros(1_700_000_000_000_000 + millis * 1000), &segment);
                packed += usize::from(engine.table.awake() < engine.table.len());
            }
            let (_, _sink) = engine.finish();
            (packed, ended)
        };
        let (packed, found) = run(0);
        let (never, expected) = run(usize::MAX);
        assert!(packed > 0 && never == 0, "{packed} {never}");
        assert_eq!(found, expected);
        assert_eq!(found.len(), 3);
    }

    fn run(script: &[Line]) -> Vec<Connection> {
        run_with(Options::default(), script).1
    }

    use Way::{AToB, BToA};

    const HANDSHAKE: [Line; 3] =
        [(0, AToB, S, 1000, 0, 0), (20, BToA, SA, 5000, 1001, 0), (21, AToB, A, 1001, 5001, 0)];

    fn after_handshake(more: &[Line]) -> Vec<Connection> {
        run(&[&HANDSHAKE, more].concat())
    }

    fn a2b(connections: &[Connection]) -> &Direction {
        connections[0].direction(AToB)
    }

    fn value(connection: &Connection, way: Way, name: &str) -> Option<Value> {
        STATISTICS.iter().find(|s| s.name == name).expect("a statistic").value(connection, way)
    }

    #[test]
    fn an_acknowledged_segment_is_an_rtt_sample() {
        let found = after_handshake(&[(30, AToB, PA, 1001, 5001, 100), (45, BToA, A, 5001, 1101, 0)]);
        assert_eq!((a2b(&found).rtt.count, a2b(&found).rtt.max, a2b(&found).rtt.min), (2, 20_000, 15_000));
        assert_eq!(a2b(&found).handshake_rtt, 20_000);
        assert_eq!(value(&found[0], AToB, "RTT_avg"), Some(Value::Real(17.5)));
        assert_eq!(value(&found[0], BToA, "RTT_stdev"), None, "one sample only");
    }

    #[test]
    fn a_resent_segment_counts_once_and_gives_no_sample() {
        let found = after_handshake(&[
            (30, AToB, PA, 1001, 5001, 100),
            (230, AToB, PA, 1001, 5001, 100),
            (240, BToA, A, 5001, 1101, 0),
        ]);
        let (all, rare) = (a2b(&found), a2b(&found).rare());
        assert_eq!((all.unique_bytes, all.data_bytes, rare.rexmit_packets, rare.rexmit_bytes), (100, 200, 1, 100));
        assert_eq!((all.rtt.count, rare.last_rtt.count, rare.last_rtt.max), (1, 1, 10_000));
        assert_eq!((rare.resend_max, rare.resend.max), (1, 200_000));
    }

    #[test]
    fn the_third_repeated_ack_is_a_triple() {
        let mut script = vec![(30, AToB, PA, 1001, 5001, 100), (40, BToA, A, 5001, 1101, 0)];
        script.extend((1..=3).map(|n| (31 + n, AToB, PA, 1201 + 100 * u32::try_from(n).expect("small"), 5001, 100)));
        script.extend((1..=3).map(|n| (50 + n, BToA, A, 5001, 1101, 0)));
        let found = after_handshake(&script);
        assert_eq!((a2b(&found).duplicate_acks, a2b(&found).rare().triple_duplicates), (3, 1));
    }

    #[test]
    fn a_late_segment_in_a_gap_is_out_of_order() {
        let found = after_handshake(&[(30, AToB, PA, 1101, 5001, 100), (31, AToB, PA, 1001, 5001, 100)]);
        assert_eq!((a2b(&found).rare().out_of_order, a2b(&found).rare().rexmit_packets), (1, 0));
        assert_eq!(a2b(&found).unique_bytes, 200);
    }

    #[test]
    fn the_stream_is_measured_from_syn_to_fin() {
        let found = after_handshake(&[
            (30, AToB, PA, 1001, 5001, 100),
            (31, AToB, FA, 1151, 5001, 0),
            (40, BToA, FA, 5001, 1152, 0),
            (41, AToB, A, 1152, 5002, 0),
        ]);
        assert!(found[0].is_complete());
        assert_eq!(a2b(&found).stream_length(), Some(150));
        assert_eq!(value(&found[0], AToB, "missed_data"), Some(Value::Difference(50)));
    }

    #[test]
    fn silence_over_240_seconds_or_a_new_syn_begins_anew() {
        let at = |millis| [HANDSHAKE[2], (millis, AToB, A, 1001, 5001, 0)];
        assert_eq!(run(&at(240_021)).len(), 1);
        assert_eq!(run(&at(240_022)).len(), 2);
        assert_eq!(run(&[HANDSHAKE[0], (5, BToA, R, 0, 0, 0), (9, AToB, S, 999, 0, 0)]).len(), 2);
        assert_eq!(run(&[HANDSHAKE[0], (9, AToB, S, 999, 0, 0)]).len(), 1);
    }

    #[test]
    fn idle_time_runs_on_to_the_end_of_an_open_connection_only() {
        let other: Line = (90_000, AToB, A, 1, 1, 0);
        let mut engine = Engine::new(Options::default(), |connection: &Connection| {
            assert_eq!(connection.direction(AToB).idle, 90_000_000);
        });
        engine.segment(Time::from_micros(1_000_000), &segment(&HANDSHAKE[0]));
        engine.packet(Time::from_micros(1_000_000 + other.0 * 1000), 60, &[0; 60], LinkType::ETHERNET);
        let (totals, _sink) = engine.finish();
        assert_eq!((totals.records, totals.connections), (1, 1));
    }

    #[test]
    fn beyond_the_limit_the_oldest_end_early() {
        let (mut rows, mut packets) = (0, 0);
        let options = Options { max_live: 8, ..Options::default() };
        let mut engine = Engine::new(options, |connection: &Connection| {
            rows += 1;
            packets += connection.direction(AToB).packets;
        });
        for port in 1..=20 {
            let mut segment = segment(&HANDSHAKE[0]);
            segment.source = Endpoint::v4(Ipv4Addr::new(10, 0, 0, 1), port);
            engine.segment(Time::from_micros(1_000_000 + i64::from(port)), &segment);
            assert!(engine.live() <= 8);
        }
        let (totals, _sink) = engine.finish();
        assert_eq!((totals.connections, totals.ended_early), (20, 12));
        assert_eq!((rows, packets), (20, 20));
    }
}
